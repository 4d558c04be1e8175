/* SPDX-License-Identifier: Apache-2.0 */
/* Every back end of this build gives the same sum as the definition (one bit at a time) at every
 * length, alignment and split, and the chooser passes over one that does not. */
#include "crc32c_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>
#include <raftguard/crc32c.h>

#define POLYNOMIAL  0x82f63b78u
#define CHECK_VALUE 0xe3069283u
#define LONGEST     4200u /* takes the three streams through short, whole and second rounds */

static const struct crc32c_backend *usable[8];
static size_t n_usable;

static uint32_t by_definition(uint32_t s, const uint8_t *p, size_t len)
{
    while (len-- > 0) {
        s ^= *p++;
        for (int bit = 0; bit < 8; bit++) {
            s = (s >> 1) ^ ((s & 1u) != 0 ? POLYNOMIAL : 0);
        }
    }
    return s;
}

static uint64_t random_state = 7;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((random_state >> 33) % n);
}

static void fill(uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        p[i] = (uint8_t)random_below(256);
    }
}

static int list_backends(void **state)
{
    (void)state;
    for (size_t i = 0; rguard__crc32c_backends[i] != NULL; i++) {
        if (rguard__crc32c_backends[i]->prepare()) {
            usable[n_usable++] = rguard__crc32c_backends[i];
        }
    }
    return n_usable > 0 ? 0 : -1;
}

#define assert_sum(b, got, want, len, at)                                                    \
    do {                                                                                     \
        uint32_t got_ = (got), want_ = (want);                                               \
        if (got_ != want_) {                                                                 \
            fail_msg("%s: length %zu, offset %zu: %08x, not %08x", (b)->name, (size_t)(len), \
                     (size_t)(at), got_, want_);                                             \
        }                                                                                    \
    } while (0)

/* @source RFC 3720, appendix B.4. */
static void test_published_vectors(void **state)
{
    (void)state;
    uint8_t zeros[32] = {0}, ones[32], up[32], down[32];
    for (uint8_t i = 0; i < 32; i++) {
        ones[i] = 0xff;
        up[i] = i;
        down[i] = (uint8_t)(31 - i);
    }
    for (size_t b = 0; b < n_usable; b++) {
        crc32c_fn run = usable[b]->run;
        assert_sum(usable[b], ~run(~0u, (const uint8_t *)"123456789", 9), CHECK_VALUE, 9, 0);
        assert_sum(usable[b], ~run(~0u, zeros, 32), 0x8a9136aau, 32, 0);
        assert_sum(usable[b], ~run(~0u, ones, 32), 0x62a8ab43u, 32, 0);
        assert_sum(usable[b], ~run(~0u, up, 32), 0x46dd794eu, 32, 0);
        assert_sum(usable[b], ~run(~0u, down, 32), 0x113fdb5cu, 32, 0);
    }
    assert_int_equal(rguard_crc32c(0, "123456789", 9), CHECK_VALUE);
    assert_int_equal(rguard_crc32c(0, "", 0), 0);
}

/* The data moves instead of the sum's start, so that one pass of the definition serves all sixteen
 * alignments of a length. */
static void test_every_length_and_alignment(void **state)
{
    (void)state;
    _Alignas(64) static uint8_t room[LONGEST + 64];
    static uint8_t data[LONGEST];
    static uint32_t want[LONGEST + 1];
    fill(data, sizeof data);
    want[0] = 0x12345678u;
    for (size_t len = 0; len < LONGEST; len++) {
        want[len + 1] = by_definition(want[len], data + len, 1);
    }
    for (size_t at = 0; at < 16; at++) {
        memset(room, 0xa5, sizeof room);
        memcpy(room + at, data, sizeof data);
        for (size_t len = 0; len <= LONGEST; len++) {
            for (size_t b = 0; b < n_usable; b++) {
                assert_sum(usable[b], usable[b]->run(want[0], room + at, len), want[len], len, at);
            }
        }
    }
}

/* Each piece by another back end, so that states are interchangeable. */
static void test_random_splits(void **state)
{
    (void)state;
    static uint8_t data[20000];
    fill(data, sizeof data);
    for (int round = 0; round < 3000; round++) {
        size_t len = random_below(round % 10 == 0 ? sizeof data : 1500), at = 0;
        size_t from = random_below((uint32_t)(sizeof data - len));
        uint32_t want = rguard__crc32c_slice8.run(~0u, data + from, len), sum = ~0u, public = 0;
        const struct crc32c_backend *last = usable[0];
        while (at < len) {
            size_t piece = random_below((uint32_t)(len - at)) + 1;
            last = usable[random_below((uint32_t)n_usable)];
            sum = last->run(sum, data + from + at, piece);
            public = rguard_crc32c(public, data + from + at, piece);
            at += piece;
        }
        assert_sum(last, sum, want, len, from);
        assert_int_equal(public, ~want);
    }
}

static void test_every_split_of_a_short_input(void **state)
{
    (void)state;
    uint8_t data[600];
    fill(data, sizeof data);
    uint32_t want = by_definition(~0u, data, sizeof data);
    for (size_t cut = 0; cut <= sizeof data; cut++) {
        for (size_t b = 0; b < n_usable; b++) {
            for (size_t c = 0; c < n_usable; c++) {
                uint32_t part = usable[b]->run(~0u, data, cut);
                assert_sum(usable[c], usable[c]->run(part, data + cut, sizeof data - cut), want,
                           cut, 0);
            }
        }
    }
}

static void test_large_buffer(void **state)
{
    (void)state;
    size_t len = (1u << 20) + 13;
    uint8_t *data = malloc(len);
    assert_non_null(data);
    fill(data, len);
    uint32_t want = by_definition(~0u, data, len);
    for (size_t b = 0; b < n_usable; b++) {
        assert_sum(usable[b], usable[b]->run(~0u, data, len), want, len, 0);
    }
    free(data);
}

static void test_any_flipped_bit_shows(void **state)
{
    (void)state;
    uint8_t data[64];
    fill(data, sizeof data);
    uint32_t sum = rguard_crc32c(0, data, sizeof data);
    for (size_t bit = 0; bit < sizeof data * 8; bit++) {
        data[bit / 8] = (uint8_t)(data[bit / 8] ^ (1u << (bit % 8)));
        assert_int_not_equal(rguard_crc32c(0, data, sizeof data), sum);
        data[bit / 8] = (uint8_t)(data[bit / 8] ^ (1u << (bit % 8)));
    }
}

/* ---- the chooser ---- */

static bool yes(void)
{
    return true;
}

static bool no(void)
{
    return false;
}

static uint32_t wrong_from_the_start(uint32_t s, const uint8_t *p, size_t len)
{
    return rguard__crc32c_slice8.run(s, p, len) ^ 1u;
}

/* Right for the check value, wrong where a faster loop would begin. */
static uint32_t wrong_when_long(uint32_t s, const uint8_t *p, size_t len)
{
    return rguard__crc32c_slice8.run(s, p, len) ^ (len >= 200 ? 0x80u : 0);
}

static uint32_t wrong_when_unaligned(uint32_t s, const uint8_t *p, size_t len)
{
    return rguard__crc32c_slice8.run(s, p, len) ^ (len > 9 && (uintptr_t)p % 4 != 0);
}

static uint32_t must_not_run(uint32_t s, const uint8_t *p, size_t len)
{
    (void)p;
    (void)len;
    fail_msg("a back end that cannot run here was called");
    return s;
}

static const char *choice_of(const struct crc32c_backend *first)
{
    static const struct crc32c_backend good = {"good", yes, NULL};
    struct crc32c_backend second = good;
    second.run = rguard__crc32c_slice8.run;
    const struct crc32c_backend *list[] = {first, &second, NULL};
    return rguard__crc32c_choose(list)->name;
}

static void test_a_back_end_that_fails_its_test_is_not_used(void **state)
{
    (void)state;
    const struct crc32c_backend bad[] = {{"start", yes, wrong_from_the_start},
                                         {"long", yes, wrong_when_long},
                                         {"unaligned", yes, wrong_when_unaligned},
                                         {"absent", no, must_not_run}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_string_equal(choice_of(&bad[i]), "good");
        const struct crc32c_backend *only[] = {&bad[i], NULL};
        assert_string_equal(rguard__crc32c_choose(only)->name, "slice8");
    }
    for (size_t b = 0; b < n_usable; b++) {
        assert_string_equal(choice_of(usable[b]), usable[b]->name);
    }
}

static void *ask(void *name)
{
    *(const char **)name =
        rguard_crc32c(0, "123456789", 9) == CHECK_VALUE ? rguard_crc32c_backend() : "wrong sum";
    return NULL;
}

/* First in the group: the first call of the process is made by four threads. */
static void test_first_calls_at_once(void **state)
{
    (void)state;
    pthread_t threads[4];
    const char *names[4];
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, ask, &names[i]), 0);
    }
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], NULL), 0);
        assert_string_equal(names[i], usable[0]->name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_calls_at_once),
        cmocka_unit_test(test_published_vectors),
        cmocka_unit_test(test_every_length_and_alignment),
        cmocka_unit_test(test_random_splits),
        cmocka_unit_test(test_every_split_of_a_short_input),
        cmocka_unit_test(test_large_buffer),
        cmocka_unit_test(test_any_flipped_bit_shows),
        cmocka_unit_test(test_a_back_end_that_fails_its_test_is_not_used),
    };
    return cmocka_run_group_tests_name("crc32c", tests, list_backends, NULL);
}
