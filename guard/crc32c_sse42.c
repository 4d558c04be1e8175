/* SPDX-License-Identifier: Apache-2.0 */
/* CRC32C by the crc32 instruction of SSE4.2. It takes eight bytes per cycle but has a latency of
 * three cycles, so three streams run side by side and are joined in the end:
 *
 *     |<- n words ->|<- n words ->|<- n words ->|
 *     |  a, state   |  b, from 0  |  c, from 0  | rest, serially
 *            |             |            ^ into c's last word
 *            |             +- times x^(64 n - 33) -+
 *            +--------------- times x^(128 n - 33) +
 *
 * A state is a polynomial over GF(2) whose lowest bit is x^31. Moving it over i words multiplies it
 * by x^(64 i) modulo the CRC polynomial. The carry-less product of two such numbers, read as a
 * 64-bit word, is the product of the polynomials times x, and the instruction multiplies what it
 * is given by x^32: hence the 33. shift[i] = x^(64 i - 33) follows from shift[1] = x^31 = 1, since
 * running the instruction over a zero word multiplies by x^64.
 *
 * @source Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction",
 * Intel 2011. */
#include "crc32c_internal.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#include <string.h>
#include <wmmintrin.h>

#define TARGET __attribute__((target("sse4.2,pclmul")))
#define MOST   256u /* words per stream: 6 KiB a round, the join costs 2 % of it */
#define LEAST  144u /* bytes; below, one stream is as fast */

static uint32_t shift[2 * MOST + 1];

TARGET static bool prepare(void)
{
    if (!__builtin_cpu_supports("sse4.2") || !__builtin_cpu_supports("pclmul")) {
        return false;
    }
    shift[1] = 1;
    for (size_t i = 2; i <= 2u * MOST; i++) {
        shift[i] = (uint32_t)_mm_crc32_u64(shift[i - 1], 0);
    }
    return true;
}

static inline uint64_t word(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

TARGET static inline __m128i product(uint64_t state, uint32_t by)
{
    return _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)state), _mm_cvtsi32_si128((int)by), 0);
}

/* The state behind 24 * @n bytes. */
TARGET static inline uint64_t three_streams(uint64_t a, const uint8_t *p, size_t n)
{
    const uint8_t *q = p + 8 * n, *r = q + 8 * n;
    uint64_t b = 0, c = 0;
    for (size_t i = n - 1; i > 0; i--, p += 8, q += 8, r += 8) {
        a = _mm_crc32_u64(a, word(p));
        b = _mm_crc32_u64(b, word(q));
        c = _mm_crc32_u64(c, word(r));
    }
    a = _mm_crc32_u64(a, word(p));
    b = _mm_crc32_u64(b, word(q));
    __m128i moved = _mm_xor_si128(product(a, shift[2 * n]), product(b, shift[n]));
    return _mm_crc32_u64(c, word(r) ^ (uint64_t)_mm_cvtsi128_si64(moved));
}

TARGET static uint32_t run(uint32_t state, const uint8_t *p, size_t len)
{
    uint64_t s = state;
    while (len >= LEAST) {
        size_t n = len / 24 < MOST ? len / 24 : MOST;
        s = three_streams(s, p, n);
        p += 24 * n;
        len -= 24 * n;
    }
    for (; len >= 8; len -= 8, p += 8) {
        s = _mm_crc32_u64(s, word(p));
    }
    uint32_t t = (uint32_t)s;
    if (len & 4) {
        uint32_t v;
        memcpy(&v, p, sizeof v);
        t = _mm_crc32_u32(t, v);
        p += 4;
    }
    for (len &= 3; len > 0; len--) {
        t = _mm_crc32_u8(t, *p++);
    }
    return t;
}

const struct crc32c_backend rguard__crc32c_sse42 = {"sse4.2", prepare, run};
#endif
