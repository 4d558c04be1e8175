/* SPDX-License-Identifier: Apache-2.0 */
/* CRC32C by libisal, which has hand-scheduled code for each processor. The only file that includes
 * its header. Short inputs, of which headers and sectors are made, are quicker without it: its
 * AVX-512 code sets up more than they are worth. */
#include "crc32c_internal.h"

#ifdef RGUARD_HAVE_ISAL
#include <isa-l/crc.h>

#define MOST  (1u << 30) /* its length is an int */
#define SHORT 512u       /* bytes below which the crc32 instruction is ahead: 1.2x to 5x */

static bool prepare(void)
{
#if defined(__x86_64__)
    /* Without these it takes byte tables, four times slower than ours. */
    return rguard__crc32c_sse42.prepare();
#else
    return true;
#endif
}

static uint32_t run(uint32_t s, const uint8_t *p, size_t len)
{
#if defined(__x86_64__)
    if (len < SHORT) {
        return rguard__crc32c_sse42.run(s, p, len);
    }
#endif
    for (; len > MOST; len -= MOST, p += MOST) {
        s = crc32_iscsi((unsigned char *)(uintptr_t)p, (int)MOST, s);
    }
    return crc32_iscsi((unsigned char *)(uintptr_t)p, (int)len, s);
}

const struct crc32c_backend rguard__crc32c_isal = {"isal", prepare, run};
#endif
