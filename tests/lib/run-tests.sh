#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Runs every test program of a build and adds up their TAP lines.
# usage: run-tests.sh BUILD VARIANT [PATTERN]
# A program that crashes, times out or reports nothing counts as one failure.
build=$1; variant=$2; pattern=$3
limit=${RGUARD_TEST_SECONDS:-300}
passed=0; failed=0; skipped=0
log=$(mktemp); trap 'rm -f "$log"' EXIT
export CMOCKA_MESSAGE_OUTPUT=TAP
export RGUARD_BIN="$PWD/$build/bin" RGUARD_TESTING_BIN="$PWD/$build/$variant/bin"
for t in "$build/$variant"/tests/unit/test_* "$build/$variant"/tests/integration/test_*; do
    [ -x "$t" ] || continue
    case $t in *"$pattern"*) ;; *) continue ;; esac
    # A test whose source is gone is a leftover of an older build.
    src=tests/${t#"$build/$variant/tests/"}.c
    [ -e "$src" ] || continue
    start=$(date +%s)
    timeout -k 5 "$limit" "$t" >"$log" 2>&1
    rc=$?
    # cmocka 1.1.5 prints a skipped test as "not ok N # SKIP name".
    skip=$(grep -c '^\(not \)*ok .*# SKIP' "$log")
    ok=$(grep '^ok ' "$log" | grep -vc '# SKIP'); bad=$(grep '^not ok ' "$log" | grep -vc '# SKIP')
    if [ $rc -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
    if [ $rc -eq 0 ] && [ $((ok + skip)) -eq 0 ]; then bad=1; fi
    passed=$((passed + ok)); failed=$((failed + bad)); skipped=$((skipped + skip))
    if [ "$bad" -gt 0 ]; then
        echo "FAIL $t (exit $rc)"; tail -n 60 "$log"
    else
        echo "ok   ${t#"$build/$variant/tests/"}: $ok tests, $(($(date +%s) - start)) s"
    fi
done
if [ "$skipped" -gt 0 ]; then echo "$passed passed, $failed failed, $skipped skipped"
else echo "$passed passed, $failed failed"; fi
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
