/* SPDX-License-Identifier: Apache-2.0 */
/* Arenas and slots outside windows: what is handed out, what is refused, what is noticed. The group
 * runs a second time with PROT_NONE guards, as on a kernel without lightweight ones. */
#include "test_window_util.h"

#include <errno.h>
#include <fcntl.h>

static rguard_arena *packed;
static rguard_arena *guarded;

static int setup(void **state)
{
    (void)state;
    packed = make_arena(RGUARD_SLOTS_PACKED, (size_t)64 << 20);
    guarded = make_arena(RGUARD_SLOTS_GUARDED, (size_t)64 << 20);
    struct rguard_violation v;
    while (rguard_violation_next(&v, NULL) == 1) {
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unsetenv("RGUARD_TEST_OFF");
    rguard_arena_destroy(packed);
    rguard_arena_destroy(guarded);
    return 0;
}

/* The newest record, which there must be. */
static struct rguard_violation last_record(void)
{
    struct rguard_violation v;
    struct rguard_violation last;
    memset(&last, 0, sizeof last);
    while (rguard_violation_next(&v, NULL) == 1) {
        last = v;
    }
    return last;
}

static struct rguard_arena_stats stats_of(const rguard_arena *a)
{
    struct rguard_arena_stats s = {.size = sizeof s};
    assert_int_equal(rguard_arena_stats(a, &s), 0);
    return s;
}

/* ---- what is handed out ---------------------------------------------------------------------- */

static void test_packed_slots_of_every_length(void **state)
{
    (void)state;
    enum { MAX = 5000 };
    static uint8_t *slots[MAX];
    for (size_t len = 1; len < MAX; len++) {
        slots[len] = make_slot(packed, len);
        assert_int_equal((uintptr_t)slots[len] % 16, 0);
        memset(slots[len], (int)len, len);
        assert_int_equal(rguard_slot_len(packed, slots[len]), len);
    }
    assert_int_equal(rguard_check(packed, RGUARD_CHECK_FULL, NULL), 0);
    for (size_t len = 1; len < MAX; len++) {
        for (size_t i = 0; i < len; i += 97) {
            assert_int_equal(slots[len][i], (uint8_t)len);
        }
        assert_int_equal(slots[len][len - 1], (uint8_t)len);
        assert_int_equal(rguard_free(packed, slots[len]), 0);
    }
    struct rguard_arena_stats s = stats_of(packed);
    assert_int_equal(s.live_slots, 0);
    assert_int_equal(s.live_bytes, 0);
    assert_int_equal(s.allocs, MAX - 1);
    assert_int_equal(s.frees, MAX - 1);
    assert_int_equal(s.refused_frees, 0);
}

static void test_guarded_slots_end_at_their_guard(void **state)
{
    (void)state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t len = 1; len < 3 * page; len += len < 130 ? 1 : 123) {
        uint8_t *p = make_slot(guarded, len);
        assert_int_equal(((uintptr_t)p + len) % page, 0);
        memset(p, 7, len);
        assert_int_equal(rguard_slot_len(guarded, p), len);
        assert_int_equal(rguard_free(guarded, p), 0);
    }
    assert_int_equal(rguard_check(guarded, RGUARD_CHECK_FULL, NULL), 0);
    assert_int_equal(stats_of(guarded).live_slots, 0);
}

static void test_largest_slots(void **state)
{
    (void)state;
    size_t max = (size_t)16 << 20;
    rguard_arena *both[] = {packed, guarded};
    for (int i = 0; i < 2; i++) {
        uint8_t *p = make_slot(both[i], max);
        p[0] = 1;
        p[max - 1] = 2;
        void *q;
        assert_int_equal(rguard_alloc(both[i], max + 1, &q), RGUARD_ETOOBIG);
        assert_int_equal(rguard_alloc(both[i], SIZE_MAX, &q), RGUARD_ETOOBIG);
        assert_int_equal(rguard_check(both[i], RGUARD_CHECK_FULL, NULL), 0);
        assert_int_equal(rguard_free(both[i], p), 0);
        assert_ptr_equal(make_slot(both[i], max), p); /* recycled */
    }
}

static void test_full_arena_says_so_and_goes_on(void **state)
{
    (void)state;
    for (int kind = RGUARD_SLOTS_PACKED; kind <= RGUARD_SLOTS_GUARDED; kind++) {
        rguard_arena *a = make_arena(kind, 16 * (size_t)sysconf(_SC_PAGESIZE));
        void *p = NULL;
        void *last = NULL;
        size_t n = 0;
        int rv;
        while ((rv = rguard_alloc(a, 100, &p)) == 0) {
            memset(p, 1, 100);
            last = p;
            n++;
        }
        assert_int_equal(rv, RGUARD_EARENAFULL);
        assert_true(n >= 8);
        assert_int_equal(rguard_check(a, RGUARD_CHECK_FULL, NULL), 0);
        assert_int_equal(rguard_free(a, last), 0);
        assert_int_equal(rguard_alloc(a, 100, &p), 0);
        assert_ptr_equal(p, last);
        rguard_arena_destroy(a);
    }
}

static void test_reset_is_a_fresh_arena(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        rguard_arena *a = i == 0 ? packed : guarded;
        uint8_t *first = make_slot(a, 100);
        memset(first, 9, 100);
        for (int k = 0; k < 200; k++) {
            memset(make_slot(a, 3000), 9, 3000);
        }
        raw_store((uint8_t *)a->body - 1, 0); /* also heals what was damaged */
        raw_store((uint8_t *)a->body_end, 0);
        assert_int_equal(rguard_check(a, RGUARD_CHECK_FAST, NULL), RGUARD_ECANARY);
        assert_int_equal(rguard_arena_reset(a), 0);
        assert_int_equal(rguard_check(a, RGUARD_CHECK_FULL, NULL), 0);
        struct rguard_arena_stats s = stats_of(a);
        assert_int_equal(s.live_slots, 0);
        assert_int_equal(s.live_bytes, 0);
        assert_int_equal(s.used_bytes, 0);
        assert_int_equal(rguard_free(a, first), RGUARD_EWRONGARENA);
        assert_ptr_equal(make_slot(a, 100), first); /* same sequence, same addresses */
        assert_int_equal(first[0], 0);
        uint8_t *big = make_slot(a, 20000); /* over pages that were guards before */
        memset(big, 1, 20000);
    }
}

static void test_bad_options(void **state)
{
    (void)state;
    rguard_arena *a = NULL;
    struct rguard_arena_options good = {.size = sizeof good, .bytes = 4096};
    struct rguard_arena_options o = good;
    assert_int_equal(rguard_arena_create(NULL, &a), -EINVAL);
    assert_int_equal(rguard_arena_create(&good, NULL), -EINVAL);
    o.size = 8;
    assert_int_equal(rguard_arena_create(&o, &a), -EINVAL);
    o = good;
    o.bytes = 0;
    assert_int_equal(rguard_arena_create(&o, &a), -EINVAL);
    o.bytes = SIZE_MAX;
    assert_int_equal(rguard_arena_create(&o, &a), -EINVAL);
    o = good;
    o.slots = 2;
    assert_int_equal(rguard_arena_create(&o, &a), -EINVAL);
    o = good;
    o.name = "a name of twenty-four chr";
    assert_int_equal(rguard_arena_create(&o, &a), -EINVAL);
    assert_null(a);
    void *p = NULL;
    assert_int_equal(rguard_alloc(packed, 0, &p), -EINVAL);
    assert_int_equal(rguard_alloc(NULL, 1, &p), -EINVAL);
    assert_int_equal(rguard_alloc(packed, 1, NULL), -EINVAL);
    assert_int_equal(rguard_free(NULL, p), -EINVAL);
    assert_int_equal(rguard_free(packed, NULL), 0);
    assert_int_equal(rguard_arena_reset(NULL), -EINVAL);
    assert_int_equal(rguard_check(NULL, 0, NULL), -EINVAL);
    assert_int_equal(rguard_check(packed, 2, NULL), -EINVAL);
    assert_int_equal(rguard_arena_stats(packed, NULL), -EINVAL);
    rguard_arena_destroy(NULL);
}

static void test_256_arenas_and_no_more(void **state)
{
    (void)state;
    rguard_arena *many[RGUARD__ARENAS] = {NULL};
    struct rguard_arena_options o = {.size = sizeof o, .bytes = 4096};
    size_t n = 0;
    int rv = 0;
    while (n < RGUARD__ARENAS && (rv = rguard_arena_create(&o, &many[n])) == 0) {
        n++;
    }
    assert_int_equal(n, RGUARD__ARENAS - 2); /* and the two of the set-up */
    assert_int_equal(rv, RGUARD_EBUSY);
    rguard_arena_destroy(many[0]);
    assert_int_equal(rguard_arena_create(&o, &many[0]), 0);
    for (size_t i = 0; i < n; i++) {
        rguard_arena_destroy(many[i]);
    }
}

/* ---- what is refused ------------------------------------------------------------------------- */

static void test_double_free_is_refused(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        rguard_arena *a = i == 0 ? packed : guarded;
        uint8_t *p = make_slot(a, 100);
        uint8_t *other = make_slot(a, 100);
        assert_int_equal(rguard_free(a, p), 0);
        assert_int_equal(rguard_free(a, p), RGUARD_EDOUBLEFREE);
        struct rguard_violation v = last_record();
        assert_int_equal(v.kind, RGUARD_V_DOUBLE_FREE);
        assert_int_equal(v.class_, RGUARD_CLASS_PRECISE);
        assert_int_equal(v.address, (uintptr_t)p);
        assert_int_equal(v.arena_id, a->id);
        assert_int_equal(v.offset, p - a->body);
        assert_true(v.n_frames > 0);
        assert_int_equal(v.frames[0], v.pc);
        assert_int_equal(stats_of(a).refused_frees, 1);
        assert_int_equal(rguard_free(a, other), 0);
        uint8_t *again = make_slot(a, 100); /* handed out once only */
        assert_ptr_not_equal(make_slot(a, 100), again);
        assert_int_equal(rguard_check(a, RGUARD_CHECK_FULL, NULL), 0);
    }
}

static void test_double_free_goes_through_with_the_detector_off(void **state)
{
    (void)state;
    for (int kind = RGUARD_SLOTS_PACKED; kind <= RGUARD_SLOTS_GUARDED; kind++) {
        setenv("RGUARD_TEST_OFF", "double_free", 1);
        rguard_arena *a = make_arena(kind, 1 << 20);
        uint8_t *p = make_slot(a, 100);
        assert_int_equal(rguard_free(a, p), 0);
        assert_int_equal(rguard_free(a, p), 0);
        assert_ptr_equal(make_slot(a, 100), p);
        void *q = NULL;
        if (kind == RGUARD_SLOTS_GUARDED) { /* two owners */
            assert_int_equal(rguard_alloc(a, 100, &q), 0);
            assert_ptr_equal(q, p);
        } else { /* the free list runs into a live slot, which its canary tells, late */
            assert_int_equal(rguard_alloc(a, 100, &q), RGUARD_ECANARY);
        }
        rguard_arena_destroy(a);
    }
}

static void test_addresses_that_are_no_slot_are_refused(void **state)
{
    (void)state;
    int local;
    for (int i = 0; i < 2; i++) {
        rguard_arena *a = i == 0 ? packed : guarded;
        rguard_arena *b = i == 0 ? guarded : packed;
        uint8_t *p = make_slot(a, 100);
        uint8_t *foreign = make_slot(b, 100);
        void *wrong[] = {p + 1,          p + 16,    p - 16,      foreign,
                         &local,         a->body,   a->body_end, a->body_end - 1,
                         a->body - 1,    (void *)8, a,           (void *)(UINTPTR_MAX - 7),
                         p + (32 << 20), a->map};
        for (size_t k = 0; k < sizeof wrong / sizeof wrong[0]; k++) {
            assert_int_equal(rguard_free(a, wrong[k]), RGUARD_EWRONGARENA);
            assert_int_equal(rguard_slot_len(a, wrong[k]), 0);
            struct rguard_violation v = last_record();
            assert_int_equal(v.kind, RGUARD_V_WRONG_ARENA);
            assert_int_equal(v.address, (uintptr_t)wrong[k]);
        }
        assert_int_equal(rguard_check(a, RGUARD_CHECK_FULL, NULL), 0);
        assert_int_equal(rguard_slot_len(a, p), 100);
        assert_int_equal(rguard_free(a, p), 0);
        assert_int_equal(rguard_free(b, foreign), 0);
    }
}

/* ---- what is noticed ------------------------------------------------------------------------- */

static void expect_canary(rguard_arena *a, uint8_t *p)
{
    struct rguard_violation v;
    assert_int_equal(rguard_check(a, RGUARD_CHECK_FAST, NULL), 0);
    assert_int_equal(rguard_check(a, RGUARD_CHECK_FULL, &v), RGUARD_ECANARY);
    assert_int_equal(v.kind, RGUARD_V_CANARY);
    assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
    assert_int_equal(v.arena_id, a->id);
    assert_int_equal(rguard_free(a, p), RGUARD_ECANARY);
    assert_int_equal(last_record().kind, RGUARD_V_CANARY);
}

static void test_one_byte_past_a_packed_slot_of_every_length(void **state)
{
    (void)state;
    for (size_t len = 1; len < 300; len++) {
        uint8_t *p = make_slot(packed, len);
        raw_store(p + len, 0); /* the terminator of a string */
        expect_canary(packed, p);
        assert_int_equal(rguard_arena_reset(packed), 0);
        p = make_slot(packed, len);
        raw_store(p + len, (uint8_t)~raw_load(p + len));
        expect_canary(packed, p);
        assert_int_equal(rguard_arena_reset(packed), 0);
    }
}

static void test_every_byte_of_a_packed_header(void **state)
{
    (void)state;
    for (size_t back = 1; back <= 16; back++) {
        for (int bit = 0; bit < 8; bit++) {
            uint8_t *p = make_slot(packed, 40);
            raw_store(p - back, raw_load(p - back) ^ (uint8_t)(1u << bit));
            expect_canary(packed, p);
            assert_int_equal(rguard_slot_len(packed, p), 0);
            assert_int_equal(rguard_arena_reset(packed), 0);
        }
    }
}

static void test_an_overrun_into_the_neighbour_accuses_both(void **state)
{
    (void)state;
    uint8_t *p = make_slot(packed, 40);
    uint8_t *next = make_slot(packed, 40);
    assert_ptr_equal(next, p + 64);
    for (size_t i = 40; i < 64; i++) {
        raw_store(p + i, 0x41);
    }
    assert_int_equal(rguard_free(packed, p), RGUARD_ECANARY);
    assert_int_equal(rguard_free(packed, next), RGUARD_ECANARY);
}

static void test_overrun_is_not_noticed_with_canaries_off(void **state)
{
    (void)state;
    setenv("RGUARD_TEST_OFF", "canary", 1);
    rguard_arena *a = make_arena(RGUARD_SLOTS_PACKED, 1 << 20);
    uint8_t *p = make_slot(a, 40);
    raw_store(p + 40, 0);
    assert_int_equal(rguard_check(a, RGUARD_CHECK_FULL, NULL), 0);
    assert_int_equal(rguard_free(a, p), 0);
    rguard_arena_destroy(a);
    a = make_arena(RGUARD_SLOTS_GUARDED, 1 << 20);
    p = make_slot(a, 40);
    raw_store(p - 1, (uint8_t)~raw_load(p - 1));
    assert_int_equal(rguard_free(a, p), 0);
    rguard_arena_destroy(a);
}

static void test_underrun_of_a_guarded_slot(void **state)
{
    (void)state;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t back = 1; back <= page - 100; back += 41) {
        uint8_t *p = make_slot(guarded, 100);
        raw_store(p - back, (uint8_t)~raw_load(p - back));
        struct rguard_violation v;
        assert_int_equal(rguard_check(guarded, RGUARD_CHECK_FULL, &v), RGUARD_ECANARY);
        assert_int_equal(v.kind, RGUARD_V_CANARY);
        assert_int_equal(rguard_free(guarded, p), back <= 128 ? RGUARD_ECANARY : 0);
        assert_int_equal(rguard_arena_reset(guarded), 0);
    }
}

static void test_damaged_free_slot_is_not_handed_out(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        rguard_arena *a = i == 0 ? packed : guarded;
        for (size_t at = 0; at < 16; at++) {
            uint8_t *p = make_slot(a, 40);
            assert_int_equal(rguard_free(a, p), 0);
            raw_store(p + at, (uint8_t)~raw_load(p + at)); /* through a stale pointer */
            void *q = NULL;
            assert_int_equal(rguard_alloc(a, 40, &q), RGUARD_ECANARY);
            assert_null(q);
            assert_int_equal(last_record().kind, RGUARD_V_CANARY);
            assert_int_equal(rguard_check(a, RGUARD_CHECK_FULL, NULL), RGUARD_ECANARY);
            assert_int_equal(rguard_arena_reset(a), 0);
        }
    }
}

static void test_magic_words(void **state)
{
    (void)state;
    rguard_arena *a = packed;
    uint8_t *near[] = {a->body - 1, a->body - 8, a->body_end, a->body_end + 7};
    struct rguard_violation v;
    for (size_t i = 0; i < 4; i++) { /* where an overrun arrives first: FAST sees it */
        uint8_t was = raw_load(near[i]);
        raw_store(near[i], was ^ 1);
        assert_int_equal(rguard_check(a, RGUARD_CHECK_FAST, &v), RGUARD_ECANARY);
        assert_int_equal(v.kind, RGUARD_V_MAGIC);
        assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
        assert_string_equal(v.arena, "test");
        raw_store(near[i], was);
    }
    uint8_t *far[] = {a->body - 9, a->body - rguard__page, a->body_end + 8,
                      a->body_end + rguard__page - 1};
    for (size_t i = 0; i < 4; i++) {
        uint8_t was = raw_load(far[i]);
        raw_store(far[i], was ^ 1);
        assert_int_equal(rguard_check(a, RGUARD_CHECK_FAST, NULL), 0);
        assert_int_equal(rguard_check(a, RGUARD_CHECK_FULL, &v), RGUARD_ECANARY);
        assert_int_equal(v.kind, RGUARD_V_MAGIC);
        raw_store(far[i], was);
    }
    assert_int_equal(rguard_check(a, RGUARD_CHECK_FULL, NULL), 0);
    setenv("RGUARD_TEST_OFF", "magic", 1);
    rguard_arena *off = make_arena(RGUARD_SLOTS_PACKED, 4096);
    raw_store(off->body - 1, (uint8_t)~raw_load(off->body - 1));
    assert_int_equal(rguard_check(off, RGUARD_CHECK_FULL, NULL), 0);
    rguard_arena_destroy(off);
}

/* The kernel raises no signal when it is told to write into a guard. */
static void test_kernel_refuses_to_write_into_a_guard(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN("AddressSanitizer checks the buffers of read()");
    int fd = open("/dev/zero", O_RDONLY);
    assert_true(fd >= 0);
    uint8_t *p = make_slot(guarded, 64);
    volatile size_t len = 64;
    errno = 0;
    assert_int_equal(read(fd, p + len, len), -1);
    assert_int_equal(errno, EFAULT);
    assert_true(read(fd, p, len + 1) <= 64);
    close(fd);
}

/* ---- long random use: no false alarm, nothing lost ------------------------------------------- */

#define LIVE 512u

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void test_random_legal_use_raises_no_alarm(void **state)
{
    (void)state;
    uint64_t seed = 20240607;
    for (int i = 0; i < 2; i++) {
        rguard_arena *a = i == 0 ? packed : guarded;
        static struct
        {
            uint8_t *p;
            size_t len;
            uint8_t fill;
        } live[LIVE];
        memset(live, 0, sizeof live);
        for (int op = 0; op < 60000; op++) {
            size_t k = next_random(&seed) % LIVE;
            if (live[k].p != NULL) {
                assert_int_equal(live[k].p[0], live[k].fill);
                assert_int_equal(live[k].p[live[k].len - 1], live[k].fill);
                assert_int_equal(rguard_slot_len(a, live[k].p), live[k].len);
                assert_int_equal(rguard_free(a, live[k].p), 0);
                live[k].p = NULL;
            } else {
                live[k].len = 1 + next_random(&seed) % (op % 50 == 0 ? 40000 : 400);
                live[k].fill = (uint8_t)op;
                live[k].p = make_slot(a, live[k].len);
                memset(live[k].p, live[k].fill, live[k].len);
            }
            if (op % 10000 == 0) {
                assert_int_equal(rguard_check(a, RGUARD_CHECK_FULL, NULL), 0);
            }
        }
        size_t n = 0;
        size_t bytes = 0;
        for (size_t k = 0; k < LIVE; k++) {
            n += live[k].p != NULL;
            bytes += live[k].p != NULL ? live[k].len : 0;
        }
        assert_int_equal(stats_of(a).live_slots, n);
        assert_int_equal(stats_of(a).live_bytes, bytes);
        assert_int_equal(rguard_check(a, RGUARD_CHECK_FULL, NULL), 0);
    }
    struct rguard_violation v;
    assert_int_equal(rguard_violation_next(&v, NULL), 0);
}

/* ---- the other kind of guard ----------------------------------------------------------------- */

static void test_again_with_mprotect_guards(void **state)
{
    (void)state;
    if (getenv("RGUARD_FORCE") != NULL) {
        skip();
    }
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        setenv("RGUARD_FORCE", "no-madv-guard", 1);
        int null = open("/dev/null", O_WRONLY);
        dup2(null, STDOUT_FILENO);
        execl("/proc/self/exe", "test_arena", (char *)NULL);
        _exit(127);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_exits(status, 0);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_packed_slots_of_every_length),
        TEST(test_guarded_slots_end_at_their_guard),
        TEST(test_largest_slots),
        TEST(test_full_arena_says_so_and_goes_on),
        TEST(test_reset_is_a_fresh_arena),
        TEST(test_bad_options),
        TEST(test_256_arenas_and_no_more),
        TEST(test_double_free_is_refused),
        TEST(test_double_free_goes_through_with_the_detector_off),
        TEST(test_addresses_that_are_no_slot_are_refused),
        TEST(test_one_byte_past_a_packed_slot_of_every_length),
        TEST(test_every_byte_of_a_packed_header),
        TEST(test_an_overrun_into_the_neighbour_accuses_both),
        TEST(test_overrun_is_not_noticed_with_canaries_off),
        TEST(test_underrun_of_a_guarded_slot),
        TEST(test_damaged_free_slot_is_not_handed_out),
        TEST(test_magic_words),
        TEST(test_kernel_refuses_to_write_into_a_guard),
        TEST(test_random_legal_use_raises_no_alarm),
        cmocka_unit_test(test_again_with_mprotect_guards),
    };
    return cmocka_run_group_tests_name("arena", tests, NULL, NULL);
}
