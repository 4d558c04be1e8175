/* SPDX-License-Identifier: Apache-2.0 */
/* CRC32C by the crc32c instructions of ARMv8, which are optional in ARMv8.0: the kernel says in
 * HWCAP whether they are there. No machine that this project is tested on has them; the unit test
 * was run under emulation, which proves the sums and nothing about speed. Therefore one stream:
 * about as fast as any disk, and without tuning that nobody could check. */
#include "crc32c_internal.h"

#if defined(__aarch64__)
#include <asm/hwcap.h>
#include <string.h>
#include <sys/auxv.h>

/* clang's <arm_acle.h> hides them unless all of the file may use them. */
#ifdef __clang__
#define TARGET   __attribute__((target("crc")))
#define CRC_WORD __builtin_arm_crc32cd
#define CRC_BYTE __builtin_arm_crc32cb
#else
#define TARGET   __attribute__((target("+crc")))
#define CRC_WORD __builtin_aarch64_crc32cx
#define CRC_BYTE __builtin_aarch64_crc32cb
#endif

static bool prepare(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
}

TARGET static uint32_t run(uint32_t s, const uint8_t *p, size_t len)
{
    for (; len >= 8; len -= 8, p += 8) {
        uint64_t v;
        memcpy(&v, p, sizeof v);
        s = CRC_WORD(s, v);
    }
    while (len-- > 0) {
        s = CRC_BYTE(s, *p++);
    }
    return s;
}

const struct crc32c_backend rguard__crc32c_armv8 = {"armv8", prepare, run};
#endif
