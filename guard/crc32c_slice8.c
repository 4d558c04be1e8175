/* SPDX-License-Identifier: Apache-2.0 */
/* CRC32C by slicing-by-8: one step takes eight bytes through eight tables, of which table k holds
 * the effect of a byte that k further bytes follow. The reference of the other back ends, and four
 * times as fast as what libisal falls back to.
 *
 * @source Kounavis, Berry, "A Systematic Approach to Building High Performance Software-based CRC
 * Generators", 2005. */
#include "crc32c_internal.h"

#include <string.h>

#define POLYNOMIAL 0x82f63b78u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the first byte is the lowest one");

uint32_t rguard__crc32c_slices[8][256];
#define T rguard__crc32c_slices

static bool prepare(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++) {
            c = (c >> 1) ^ (POLYNOMIAL & (0u - (c & 1u)));
        }
        T[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++) {
        for (int k = 1; k < 8; k++) {
            uint32_t c = T[k - 1][i];
            T[k][i] = (c >> 8) ^ T[0][c & 0xffu];
        }
    }
    return true;
}

static uint32_t run(uint32_t s, const uint8_t *p, size_t len)
{
    for (; len >= 8; len -= 8, p += 8) {
        uint64_t v;
        memcpy(&v, p, sizeof v);
        v ^= s;
        s = T[7][v & 0xff] ^ T[6][(v >> 8) & 0xff] ^ T[5][(v >> 16) & 0xff] ^
            T[4][(v >> 24) & 0xff] ^ T[3][(v >> 32) & 0xff] ^ T[2][(v >> 40) & 0xff] ^
            T[1][(v >> 48) & 0xff] ^ T[0][v >> 56];
    }
    while (len-- > 0) {
        s = (s >> 8) ^ T[0][(s ^ *p++) & 0xffu];
    }
    return s;
}

const struct crc32c_backend rguard__crc32c_slice8 = {"slice8", prepare, run};
