/* SPDX-License-Identifier: Apache-2.0 */
/* Every back end gives the same sum as the definition (one bit at a time), at every length,
 * alignment and split point. The source is included so that each back end can be called by itself.
 */
#include "crc32c.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

struct backend
{
    const char* name;
    crc_fn fn;
};

static struct backend backends[4];
static size_t n_backends;

static uint32_t by_definition(uint32_t s, const uint8_t* p, size_t len)
{
    while (len-- > 0) {
        s ^= *p++;
        for (int bit = 0; bit < 8; bit++) {
            s = (s >> 1) ^ ((s & 1u) != 0 ? POLYNOMIAL : 0);
        }
    }
    return s;
}

static int list_backends(void** state)
{
    (void)state;
    assert_string_not_equal(rguard_crc32c_backend(), "none"); /* tables are made */
    backends[n_backends++] = (struct backend){"slice8", crc_slice8};
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2")) {
        backends[n_backends++] = (struct backend){"sse4.2", crc_sse42};
    }
#endif
#ifdef RGUARD_HAVE_ISAL
    backends[n_backends++] = (struct backend){"isal", crc_isal};
#endif
    return 0;
}

/* RFC 3720, appendix B.4. */
static void test_published_vectors(void** state)
{
    (void)state;
    uint8_t zeros[32] = {0};
    uint8_t ones[32];
    uint8_t up[32];
    uint8_t down[32];
    for (uint8_t i = 0; i < 32; i++) {
        ones[i] = 0xff;
        up[i] = i;
        down[i] = (uint8_t)(31 - i);
    }
    for (size_t b = 0; b < n_backends; b++) {
        crc_fn fn = backends[b].fn;
        assert_int_equal(~fn(~0u, (const uint8_t*)"123456789", 9), CHECK_VALUE);
        assert_int_equal(~fn(~0u, zeros, 32), 0x8a9136aau);
        assert_int_equal(~fn(~0u, ones, 32), 0x62a8ab43u);
        assert_int_equal(~fn(~0u, up, 32), 0x46dd794eu);
        assert_int_equal(~fn(~0u, down, 32), 0x113fdb5cu);
    }
    assert_int_equal(rguard_crc32c(0, "123456789", 9), CHECK_VALUE);
    assert_int_equal(rguard_crc32c(0, "", 0), 0);
}

static void fill(uint8_t* p, size_t len, uint64_t seed)
{
    for (size_t i = 0; i < len; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        p[i] = (uint8_t)(seed >> 56);
    }
}

static void test_back_ends_agree_at_every_length_and_alignment(void** state)
{
    (void)state;
    uint8_t data[600];
    fill(data, sizeof data, 7);
    for (size_t at = 0; at < 16; at++) {
        for (size_t len = 0; len + at <= sizeof data; len += len < 80 ? 1 : 37) {
            uint32_t want = by_definition(~0u, data + at, len);
            for (size_t b = 0; b < n_backends; b++) {
                assert_int_equal(backends[b].fn(~0u, data + at, len), want);
            }
        }
    }
}

static void test_back_ends_agree_at_every_split_point(void** state)
{
    (void)state;
    uint8_t data[257];
    fill(data, sizeof data, 11);
    uint32_t want = by_definition(~0u, data, sizeof data);
    for (size_t cut = 0; cut <= sizeof data; cut++) {
        for (size_t b = 0; b < n_backends; b++) {
            for (size_t c = 0; c < n_backends;
                 c++) { /* the first part by one, the rest by another */
                uint32_t part = backends[b].fn(~0u, data, cut);
                assert_int_equal(backends[c].fn(part, data + cut, sizeof data - cut), want);
            }
        }
        uint32_t sum = rguard_crc32c(0, data, cut);
        assert_int_equal(rguard_crc32c(sum, data + cut, sizeof data - cut), ~want);
    }
}

static void test_large_buffer(void** state)
{
    (void)state;
    size_t len = (1u << 20) + 13;
    uint8_t* data = malloc(len);
    assert_non_null(data);
    fill(data, len, 13);
    uint32_t want = by_definition(~0u, data, len);
    for (size_t b = 0; b < n_backends; b++) {
        assert_int_equal(backends[b].fn(~0u, data, len), want);
    }
    free(data);
}

static void test_any_flipped_bit_shows(void** state)
{
    (void)state;
    uint8_t data[64];
    fill(data, sizeof data, 17);
    uint32_t sum = rguard_crc32c(0, data, sizeof data);
    for (size_t bit = 0; bit < sizeof data * 8; bit++) {
        data[bit / 8] = (uint8_t)(data[bit / 8] ^ (1u << (bit % 8)));
        assert_int_not_equal(rguard_crc32c(0, data, sizeof data), sum);
        data[bit / 8] = (uint8_t)(data[bit / 8] ^ (1u << (bit % 8)));
    }
}

static uint32_t broken(uint32_t s, const uint8_t* p, size_t len)
{
    return len > 4 ? crc_slice8(s, p, len) ^ 1u : crc_slice8(s, p, len);
}

static void test_a_broken_back_end_does_not_prove_itself(void** state)
{
    (void)state;
    assert_false(proves_itself(broken));
    for (size_t b = 0; b < n_backends; b++) {
        assert_true(proves_itself(backends[b].fn));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_vectors),
        cmocka_unit_test(test_back_ends_agree_at_every_length_and_alignment),
        cmocka_unit_test(test_back_ends_agree_at_every_split_point),
        cmocka_unit_test(test_large_buffer),
        cmocka_unit_test(test_any_flipped_bit_shows),
        cmocka_unit_test(test_a_broken_back_end_does_not_prove_itself),
    };
    return cmocka_run_group_tests_name("crc32c", tests, list_backends, NULL);
}
