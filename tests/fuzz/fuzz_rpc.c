/* SPDX-License-Identifier: Apache-2.0 */
/* Frames from peers: byte 0 is the frame's type, the rest its body. What decodes must encode
 * again, to no more bytes. */
#include "fuzz.h"
#include "raftlog_internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct raft_message m;
    if (size < 1) {
        return 0;
    }
    memset(&m, 0, sizeof m);
    (void)rguard__envelope_check(data + 1, size - 1);
    if (rguard__rpc_decode(data[0], data + 1, size - 1, &m) != 0) {
        return 0;
    }
    struct rguard_rpc_out out = {0};
    unsigned n = m.type == RAFT_IO_APPEND_ENTRIES ? m.append_entries.n_entries : 0;
    int rc = rguard__rpc_encode(&out, &m, 0, n);
    RGUARD_ASSERT(rc == 0 && out.len <= size + 64);
    free(out.bytes);
    rguard__rpc_discard(&m);
    return 0;
}
