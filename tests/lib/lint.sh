#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# make lint: format, include direction, licence lines, function length, cppcheck. Prints every finding.
bad=0
complain() { echo "lint: $*" >&2; bad=1; }
files=$(git ls-files -co --exclude-standard '*.c' '*.h')

if command -v clang-format-14 >/dev/null; then
    for f in $files; do
        clang-format-14 --dry-run -Werror "$f" >/dev/null 2>&1 || complain "$f: not formatted (make format)"
    done
else echo "lint: clang-format-14 is not installed; format is not checked"; fi

for f in $files; do
    head -n 1 "$f" | grep -q 'SPDX-License-Identifier: Apache-2.0' || complain "$f: no SPDX line"
done

# forbid ROOM PATTERN [EXCEPT]: no file of ROOM but EXCEPT may include a header that matches PATTERN
forbid() {
    grep -lE "^ *# *include *[<\"]($2)" $(git ls-files -co --exclude-standard "$1/*.c" "$1/*.h") /dev/null |
        while read -r f; do [ "$f" = "${3:-}" ] || echo "$f"; done
}
direction=$(
    forbid guard 'raftguard/(failpoint|wal|disk|raftlog|channel)\.h|raft\.h|raft/|uv\.h|sodium|liburing'
    forbid guard 'isa-l' guard/crc32c_isal.c
    forbid failpoints 'raftguard/(wal|disk|raftlog|channel)\.h|raft\.h|raft/|uv\.h|sodium|liburing|isa-l'
    forbid wal 'raftguard/(raftlog|channel)\.h|raft\.h|raft/|uv\.h|sodium|isa-l'
    forbid wal 'liburing' wal/disk_uring.c
    forbid raftlog 'liburing|isa-l'
    forbid examples '[a-z_/]*_internal\.h'
)
for f in $direction; do complain "$f: includes a header from the wrong side of the house"; done

# A function of more than 70 lines says why in the line above it ("/* long: ... */"); tables are exempt.
for f in $(echo "$files" | grep '\.c$'); do
    awk -v f="$f" '
        /\/\* long: /      { why = NR }
        /^\{/              { start = NR; open = 1; head = NR }
        /^\}/ && open      { if (NR - start > 70 && start - why > 6) printf "%s:%d: function of %d lines without /* long: reason */\n", f, start, NR - start; open = 0 }
    ' "$f"
done | { while read -r line; do echo "lint: $line" >&2; found=1; done; [ -z "$found" ]; } || bad=1

if command -v cppcheck >/dev/null; then
    cppcheck --quiet --std=c11 --enable=warning,portability --inline-suppr --error-exitcode=1 \
        --suppress=missingIncludeSystem --suppress=unknownMacro --suppress=varFuncNullUB --suppress=preprocessorErrorDirective \
        -D_GNU_SOURCE -I build/include $(echo "$files" | grep '\.c$') || bad=1
else echo "lint: cppcheck is not installed; not run"; fi
[ $bad -eq 0 ] && echo "lint: clean"
exit $bad
