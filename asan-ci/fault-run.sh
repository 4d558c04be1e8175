#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# One fault run under AddressSanitizer: three replicas, the leader is made to store past the end of a slot. ASan
# must find it, the leader must die of it with a report, the others must elect a leader and go on, and the
# victim must rejoin with the same content. Nothing outside a temporary directory is touched.
set -u
build=${1:-build}
kv=$build/asan/bin/rguard-kv; fp=$build/asan/bin/rguard-fp
. asan-ci/lib.sh
command -v redis-cli >/dev/null || { echo "fault-run: redis-cli is missing (apt-get install redis-tools)" >&2; exit 1; }
dir=$(mktemp -d); base=$((20000 + $$ % 20000))
pid1=; pid2=; pid3=
pid_of() { eval "echo \$pid$1"; }
cleanup() {
    for i in 1 2 3; do p=$(pid_of $i); [ -n "$p" ] && kill -TERM "$p" 2>/dev/null; done
    for i in 1 2 3; do p=$(pid_of $i); [ -n "$p" ] && wait "$p" 2>/dev/null; done
    rm -rf "$dir"
}
trap cleanup EXIT; trap 'exit 130' INT TERM
die() { echo "fault-run: $*" >&2; for i in 1 2 3; do echo "--- node $i" >&2; tail -n 20 "$dir/$i.log" >&2; done; exit 1; }

peers="1=127.0.0.1:$((base + 1)),2=127.0.0.1:$((base + 2)),3=127.0.0.1:$((base + 3))"
start() {
    ASAN_OPTIONS=$(asan_options "$dir/asan.$1") RGUARD_FAILPOINTS_SOCK=$dir/$1.sock "$kv" --id "$1" \
        --listen 127.0.0.1:$((base + 10 + $1)) --peers "$peers" --dir "$dir/$1" --election 300 --heartbeat 30 \
        >>"$dir/$1.log" 2>&1 &
    eval "pid$1=$!"
}
cli() { n=$1; shift; timeout 5 redis-cli -p $((base + 10 + n)) "$@" 2>&1; }
info() { cli "$1" INFO | tr -d '\r' | sed -n "s/^$2://p" | head -n 1; }
leader() { for i in 1 2 3; do [ "$(info $i role)" = leader ] && { echo $i; return 0; }; done; return 1; }
# Polls @2.. until it succeeds, for at most @1 seconds.
await() { end=$(($(date +%s) + $1)); shift; until "$@"; do [ "$(date +%s)" -lt "$end" ] || return 1; sleep 0.05; done; }
elected() { l=$(leader) && [ "$(cli "$l" SET probe 1)" = OK ]; }
gone() { ! kill -0 "$1" 2>/dev/null; }
alike() {
    d=$(info 1 digest)
    [ -n "$d" ] && [ "$(info 2 digest)" = "$d" ] && [ "$(info 3 digest)" = "$d" ] &&
        [ "$(info 1 applied_index)" = "$(info 2 applied_index)" ] && [ "$(info 1 applied_index)" = "$(info 3 applied_index)" ]
}

for i in 1 2 3; do start $i; done
await 20 elected || die "no leader"
old=$(leader)
for k in $(seq 1 50); do [ "$(cli "$old" SET "key$k" "value$k")" = OK ] || die "SET key$k"; done

victim=$(pid_of "$old")
"$fp" -s "$dir/$old.sock" set kv/apply '1*overrun(16)' >/dev/null || die "cannot arm kv/apply"
cli "$old" SET trigger x >/dev/null
await 20 gone "$victim" || die "the leader survived the overrun"
wait "$victim"; rc=$?
report=$(ls "$dir"/asan."$old".* 2>/dev/null | head -n 1)
[ -n "$report" ] || die "the leader died (status $rc) without a sanitizer report"
line=$(awk -f asan-ci/report.awk "$report" | head -n 1)
case $line in *"WRITE"*engine*|*"WRITE"*failpoint*|*"WRITE"*fp_mutate*|*"WRITE"*eval*) ;; *) die "unexpected report: $line" ;; esac
echo "fault-run: leader $old died of: $line"

eval "pid$old="
await 20 elected || die "no new leader"
new=$(leader)
[ "$new" != "$old" ] || die "the dead node leads"
for k in $(seq 1 50); do [ "$(cli "$new" GET "key$k")" = "value$k" ] || die "acknowledged key$k is lost"; done
start "$old"
await 30 alike || die "the victim did not rejoin with the same content"
echo "fault-run: leader $new took over, node $old rejoined, digests agree, 50 of 50 acknowledged writes are there"
