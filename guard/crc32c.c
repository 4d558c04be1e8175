/* SPDX-License-Identifier: Apache-2.0 */
/* CRC32C. Three back ends, chosen once: libisal where it is linked, the SSE4.2 instruction, and
 * slicing-by-8 tables. The function pointer starts at the chooser and replaces itself on the first
 * call, after every candidate has proved itself on the check value of the polynomial; a back end
 * that fails its own test is not used.
 *
 * @source Castagnoli, Braeuer, Herrmann 1993 (polynomial); Kounavis, Berry 2005 (slicing-by-8). */
#include <raftguard/crc32c.h>
#include <raftguard/testing.h>

#include <string.h>

#ifdef RGUARD_HAVE_ISAL
#include <isa-l/crc.h>
#endif

#define POLYNOMIAL  0x82f63b78u
#define CHECK_VALUE 0xe3069283u

typedef uint32_t (*crc_fn)(uint32_t state, const uint8_t* data, size_t len);

static uint32_t choose(uint32_t state, const uint8_t* data, size_t len);

static crc_fn current = choose;
static const char* current_name = "none";
static uint32_t slice_table[8][256];

uint32_t rguard_crc32c(uint32_t crc, const void* data, size_t len)
{
    crc_fn fn = __atomic_load_n(&current, __ATOMIC_ACQUIRE);
    return ~fn(~crc, data, len);
}

const char* rguard_crc32c_backend(void)
{
    (void)rguard_crc32c(0, "", 0);
    return current_name;
}

static void slice_init(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++) {
            c = (c >> 1) ^ (POLYNOMIAL & (0u - (c & 1u)));
        }
        slice_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++) {
        for (int s = 1; s < 8; s++) {
            uint32_t c = slice_table[s - 1][i];
            slice_table[s][i] = (c >> 8) ^ slice_table[0][c & 0xffu];
        }
    }
}

static uint32_t crc_slice8(uint32_t s, const uint8_t* p, size_t len)
{
    while (len >= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        v ^= s;
        s = slice_table[7][v & 0xff] ^ slice_table[6][(v >> 8) & 0xff] ^
            slice_table[5][(v >> 16) & 0xff] ^ slice_table[4][(v >> 24) & 0xff] ^
            slice_table[3][(v >> 32) & 0xff] ^ slice_table[2][(v >> 40) & 0xff] ^
            slice_table[1][(v >> 48) & 0xff] ^ slice_table[0][v >> 56];
        p += 8;
        len -= 8;
    }
    while (len-- > 0) {
        s = (s >> 8) ^ slice_table[0][(s ^ *p++) & 0xffu];
    }
    return s;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t s, const uint8_t* p,
                                                            size_t len)
{
    uint64_t wide = s;
    while (len >= 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        wide = __builtin_ia32_crc32di(wide, v);
        p += 8;
        len -= 8;
    }
    s = (uint32_t)wide;
    while (len-- > 0) {
        s = __builtin_ia32_crc32qi(s, *p++);
    }
    return s;
}
#endif

#ifdef RGUARD_HAVE_ISAL
static uint32_t crc_isal(uint32_t s, const uint8_t* p, size_t len)
{
    while (len > (1u << 30)) {
        s = crc32_iscsi((unsigned char*)(uintptr_t)p, 1 << 30, s);
        p += 1u << 30;
        len -= 1u << 30;
    }
    return crc32_iscsi((unsigned char*)(uintptr_t)p, (int)len, s);
}
#endif

static int proves_itself(crc_fn fn)
{
    return ~fn(~0u, (const uint8_t*)"123456789", 9) == CHECK_VALUE;
}

/* May run on two threads at once: both write the same values. */
static uint32_t choose(uint32_t state, const uint8_t* data, size_t len)
{
    crc_fn fn = crc_slice8;
    const char* name = "slice8";
    slice_init();
    RGUARD_ASSERT(proves_itself(crc_slice8));
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) {
        if (proves_itself(crc_sse42)) {
            fn = crc_sse42;
            name = "sse4.2";
        }
#ifdef RGUARD_HAVE_ISAL /* its own fallback without SSE4.2 is slower than slice8 */
        if (proves_itself(crc_isal)) {
            fn = crc_isal;
            name = "isal";
        }
#endif
    }
#endif
    current_name = name;
    __atomic_store_n(&current, fn, __ATOMIC_RELEASE);
    return fn(state, data, len);
}
