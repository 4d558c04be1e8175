# SPDX-License-Identifier: Apache-2.0
# Reads sanitizer reports, prints one line for each: class, access, size, the first frame inside
# raftguard and the first one in the code that uses it.
#   awk -f report.awk asan.log.1234
/ERROR: AddressSanitizer|ERROR: LeakSanitizer|runtime error:/ {
    if (class != "") flush()
    class = $0; sub(/^.*(AddressSanitizer|LeakSanitizer): /, "", class); sub(/^.*runtime error: /, "ubsan: ", class)
    sub(/ on (unknown )?address.*/, "", class); access = ""; frame = ""; caller = ""
}
/^(READ|WRITE) of size/ { access = $1 " of " $4 }
/The signal is caused by a (READ|WRITE)/ { access = $0; sub(/^.*caused by a /, "", access); sub(/ memory access.*/, "", access) }
/^ *#[0-9]+ 0x[0-9a-f]+ in / { if (frame == "" && $0 ~ /(guard|failpoints|wal|raftlog|examples|tests)\//) { frame = $4 " " $5 }
    if (caller == "" && $0 ~ / (examples|tests)\//) { caller = $4 " " $5 } }
END { if (class != "") flush() }
function flush() { printf "sanitizer: %s%s%s\n", class, access == "" ? "" : ", " access, frame == "" ? "" : ", at " frame (caller == "" || caller == frame ? "" : ", called from " caller) }
