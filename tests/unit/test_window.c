/* SPDX-License-Identifier: Apache-2.0 */
/* Windows without faults: undo, deferred frees, refused operations, checks, the settled class. Real
 * faults are in test_trap.c. Nothing here needs a signal, so it all runs under ASan as well. */
#include "test_window_util.h"

#include <errno.h>
#include <raftguard/trace.h>

static rguard_arena *arenas[2]; /* packed, guarded */
static rguard_window *window;

static int setup(void **state)
{
    (void)state;
    struct rguard_violation v;
    arenas[0] = make_arena(RGUARD_SLOTS_PACKED, (size_t)32 << 20);
    arenas[1] = make_arena(RGUARD_SLOTS_GUARDED, (size_t)32 << 20);
    window = make_window(arenas, 2, 0);
    while (rguard_violation_next(&v, NULL) == 1) {
    }
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unsetenv("RGUARD_TEST_OFF");
    rguard_window_destroy(window);
    rguard_arena_destroy(arenas[0]);
    rguard_arena_destroy(arenas[1]);
    return 0;
}

/* A body is a list of things to do. */
struct script
{
    uint8_t *p;
    uint8_t *q;
    size_t len;
    int result;
    uint32_t raise;
    int got;
};

static int run(int (*body)(void *), struct script *s, struct rguard_violation *v)
{
    memset(v, 0, sizeof *v);
    return rguard_window_run(window, 5, 77, body, s, v);
}

/* ---- undo ------------------------------------------------------------------------------------ */

static int write_alloc_free(void *user)
{
    struct script *s = user;
    s->got = rguard_touch(s->p + 10, 20);
    memset(s->p + 10, 2, 20);
    s->got |= rguard_touch(s->p + 15, 30);
    memset(s->p + 15, 3, 30);
    for (int i = 0; i < 2; i++) {
        void *fresh;
        s->got |= rguard_alloc(arenas[i], 100, &fresh);
        memset(fresh, 9, 100);
    }
    s->got |= rguard_free(arenas[0], s->p);
    s->got |= rguard_free(arenas[1], s->q);
    if (s->raise != 0) {
        rguard_window_raise(s->raise);
    }
    return s->result;
}

static void expect_untouched(const struct script *s)
{
    for (size_t i = 0; i < 100; i++) {
        assert_int_equal(s->p[i], 1);
        assert_int_equal(s->q[i], 1);
    }
    for (int i = 0; i < 2; i++) {
        struct rguard_arena_stats stats = {.size = sizeof stats};
        rguard_arena_stats(arenas[i], &stats);
        assert_int_equal(stats.live_slots, 1);
        assert_int_equal(stats.live_bytes, 100);
        assert_int_equal(stats.allocs, 1);
        assert_int_equal(stats.frees, 0);
        assert_int_equal(rguard_check(arenas[i], RGUARD_CHECK_FULL, NULL), 0);
    }
    assert_int_equal(rguard_slot_len(arenas[0], s->p), 100);
    assert_int_equal(rguard_slot_len(arenas[1], s->q), 100);
}

static struct script two_slots(void)
{
    struct script s = {.p = make_slot(arenas[0], 100), .q = make_slot(arenas[1], 100)};
    memset(s.p, 1, 100);
    memset(s.q, 1, 100);
    return s;
}

static void test_error_from_the_body_undoes_everything(void **state)
{
    (void)state;
    struct script s = two_slots();
    struct rguard_violation v;
    s.result = 42;
    assert_int_equal(run(write_alloc_free, &s, &v), 42);
    assert_int_equal(s.got, 0);
    assert_int_equal(v.kind, RGUARD_V_NONE);
    expect_untouched(&s);
}

static void test_raise_undoes_everything_and_is_precise(void **state)
{
    (void)state;
    struct script s = two_slots();
    struct rguard_violation v;
    s.raise = RGUARD_V_INJECTED;
    for (uint32_t repeat = 0; repeat < 3; repeat++) {
        assert_int_equal(run(write_alloc_free, &s, &v), RGUARD_EVIOLATION);
        assert_int_equal(v.kind, RGUARD_V_INJECTED);
        assert_int_equal(v.class_, RGUARD_CLASS_PRECISE);
        assert_int_equal(v.term, 5);
        assert_int_equal(v.index, 77);
        assert_int_equal(v.repeat, repeat);
        expect_untouched(&s);
    }
    struct rguard_violation recorded;
    assert_int_equal(rguard_violation_next(&recorded, NULL), 1);
    assert_int_equal(recorded.kind, RGUARD_V_INJECTED);
    assert_int_equal(recorded.class_, RGUARD_CLASS_PRECISE);
}

static void test_a_damaging_raise_is_imprecise(void **state)
{
    (void)state;
    struct script s = two_slots();
    struct rguard_violation v;
    s.raise = RGUARD_V_DIGEST;
    assert_int_equal(run(write_alloc_free, &s, &v), RGUARD_EVIOLATION);
    assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
}

static void test_commit_keeps_and_hands_freed_slots_back(void **state)
{
    (void)state;
    struct script s = two_slots();
    struct rguard_violation v;
    assert_int_equal(run(write_alloc_free, &s, &v), 0);
    assert_int_equal(rguard_slot_len(arenas[0], s.p), 0);
    assert_int_equal(rguard_slot_len(arenas[1], s.q), 0);
    assert_ptr_equal(make_slot(arenas[0], 100), s.p);
    assert_ptr_equal(make_slot(arenas[1], 100), s.q);
}

static int free_then_alloc(void *user)
{
    struct script *s = user;
    void *fresh = NULL;
    s->got = rguard_free(arenas[0], s->p) | rguard_alloc(arenas[0], 100, &fresh);
    s->q = fresh;
    return 0;
}

static void test_a_freed_slot_is_not_handed_out_before_commit(void **state)
{
    (void)state;
    struct script s = two_slots();
    struct rguard_violation v;
    assert_int_equal(run(free_then_alloc, &s, &v), 0);
    assert_int_equal(s.got, 0);
    assert_ptr_not_equal(s.q, s.p);
    assert_ptr_equal(make_slot(arenas[0], 100), s.p);
}

static void test_after_an_abort_the_same_calls_give_the_same_addresses(void **state)
{
    (void)state;
    struct script s = two_slots();
    struct rguard_violation v;
    uint8_t *got[2][6];
    for (int i = 0; i < 6; i++) { /* some holes first */
        make_slot(arenas[i % 2], 100);
    }
    s.result = 1;
    assert_int_equal(run(write_alloc_free, &s, &v), 1);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(rguard_window_begin(window, 1, 1), 0);
        for (int i = 0; i < 6; i++) {
            got[round][i] = make_slot(arenas[i % 2], 90);
        }
        assert_int_equal(rguard_window_abort(window), 0);
    }
    assert_memory_equal(got[0], got[1], sizeof got[0]);
}

static void test_with_undo_off_the_bytes_stay(void **state)
{
    (void)state;
    setenv("RGUARD_TEST_OFF", "undo", 1);
    rguard_window_destroy(window);
    window = make_window(arenas, 2, 0);
    struct script s = two_slots();
    struct rguard_violation v;
    s.raise = RGUARD_V_INJECTED;
    assert_int_equal(run(write_alloc_free, &s, &v), RGUARD_EVIOLATION);
    assert_int_equal(raw_load(s.p + 12), 2);
    assert_int_equal(rguard_slot_len(arenas[0], s.p), 0);
}

/* ---- refused frees --------------------------------------------------------------------------- */

static int free_twice(void *user)
{
    struct script *s = user;
    rguard_touch(s->p, 100);
    memset(s->p, 2, 100);
    rguard_free(arenas[0], s->p);
    s->got = rguard_free(arenas[0], s->p);
    return 0;
}

static int free_nonsense(void *user)
{
    struct script *s = user;
    s->got = rguard_free(arenas[0], s->q);
    return 0;
}

static int free_overrun(void *user)
{
    struct script *s = user;
    raw_store(s->p + 100, 0);
    s->got = rguard_free(arenas[0], s->p);
    return 0;
}

static int alloc_damaged(void *user)
{
    struct script *s = user;
    void *fresh;
    s->got = rguard_alloc(arenas[0], 100, &fresh);
    return 0;
}

static void test_refused_frees_end_the_window(void **state)
{
    (void)state;
    struct script s = two_slots();
    struct rguard_violation v;
    s.got = 1234;
    assert_int_equal(run(free_twice, &s, &v), RGUARD_EVIOLATION);
    assert_int_equal(v.kind, RGUARD_V_DOUBLE_FREE);
    assert_int_equal(v.class_, RGUARD_CLASS_PRECISE);
    assert_int_equal(v.address, (uintptr_t)s.p);
    assert_int_equal(s.got, 1234); /* the free never returned */
    expect_untouched(&s);
    assert_int_equal(run(free_nonsense, &s, &v), RGUARD_EVIOLATION);
    assert_int_equal(v.kind, RGUARD_V_WRONG_ARENA);
    assert_int_equal(v.class_, RGUARD_CLASS_PRECISE);
    expect_untouched(&s);
    assert_int_equal(run(free_overrun, &s, &v), RGUARD_EVIOLATION);
    assert_int_equal(v.kind, RGUARD_V_CANARY);
    assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
    assert_int_equal(s.got, 1234);
}

static void test_double_free_commits_with_the_detector_off(void **state)
{
    (void)state;
    setenv("RGUARD_TEST_OFF", "double_free", 1);
    rguard_arena *a = make_arena(RGUARD_SLOTS_PACKED, 1 << 20);
    rguard_arena *keep = arenas[0];
    rguard_window *w = make_window(&a, 1, 0);
    arenas[0] = a;
    struct script s = {.p = make_slot(a, 100), .got = 1234};
    struct rguard_violation v;
    assert_int_equal(rguard_window_run(w, 1, 1, free_twice, &s, &v), 0);
    assert_int_equal(s.got, 0);
    arenas[0] = keep;
    rguard_window_destroy(w);
    rguard_arena_destroy(a);
}

static void test_damaged_free_slot_ends_the_window(void **state)
{
    (void)state;
    struct script s = {.p = make_slot(arenas[0], 100), .got = 1234};
    struct rguard_violation v;
    assert_int_equal(rguard_free(arenas[0], s.p), 0);
    raw_store(s.p + 3, (uint8_t)~raw_load(s.p + 3));
    assert_int_equal(run(alloc_damaged, &s, &v), RGUARD_EVIOLATION);
    assert_int_equal(v.kind, RGUARD_V_CANARY);
    assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
    assert_int_equal(s.got, 1234);
}

/* ---- what else was damaged ------------------------------------------------------------------- */

static int damage_neighbour_then_raise(void *user)
{
    struct script *s = user;
    rguard_touch(s->p, 1);
    raw_store(s->q, (uint8_t)~raw_load(s->q));
    rguard_window_raise(RGUARD_V_INJECTED);
    return 0;
}

static void test_damage_near_a_touched_slot_makes_it_imprecise(void **state)
{
    (void)state;
    struct rguard_violation v;
    struct script s = {.p = make_slot(arenas[0], 100)};
    uint8_t *other = make_slot(arenas[0], 100); /* same page */
    s.q = other + 100;
    assert_int_equal(run(damage_neighbour_then_raise, &s, &v), RGUARD_EVIOLATION);
    assert_int_equal(v.kind, RGUARD_V_INJECTED);
    assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);

    s.p = make_slot(arenas[1], 100);
    s.q = s.p - 1; /* slack of the touched slot itself */
    assert_int_equal(run(damage_neighbour_then_raise, &s, &v), RGUARD_EVIOLATION);
    assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
}

static void test_damage_far_away_is_not_looked_for(void **state)
{
    (void)state;
    struct rguard_violation v;
    struct script s = {.p = make_slot(arenas[0], 100)};
    uint8_t *far = make_slot(arenas[0], 20000);
    s.q = far + 20000;
    assert_int_equal(run(damage_neighbour_then_raise, &s, &v), RGUARD_EVIOLATION);
    assert_int_equal(v.class_, RGUARD_CLASS_PRECISE); /* a FULL check finds it */
    assert_int_equal(rguard_check(arenas[0], RGUARD_CHECK_FULL, NULL), RGUARD_ECANARY);
}

static int damage_log_then_return(void *user)
{
    struct script *s = user;
    rguard_touch(s->p, 64);
    memset(s->p, 2, 64);
    raw_store(window->log + s->len, (uint8_t)~raw_load(window->log + s->len));
    if (s->raise != 0) {
        rguard_window_raise(s->raise);
    }
    return s->result;
}

static void test_every_byte_of_the_undo_log_is_checked(void **state)
{
    (void)state;
    struct rguard_violation v;
    struct script s = {.p = make_slot(arenas[0], 64), .result = 1};
    for (s.len = 0; s.len < 24 + 64; s.len++) {
        memset(s.p, 1, 64);
        s.raise = 0;
        assert_int_equal(run(damage_log_then_return, &s, &v), RGUARD_EVIOLATION);
        assert_int_equal(v.kind, RGUARD_V_UNDO);
        assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
        assert_int_equal(s.p[0], 2); /* a damaged record is not applied */
        s.raise = RGUARD_V_INJECTED;
        assert_int_equal(run(damage_log_then_return, &s, &v), RGUARD_EVIOLATION);
        assert_int_equal(v.kind, RGUARD_V_INJECTED);
        assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
    }
    for (s.len = window->log_cap - 4; s.len < window->log_cap; s.len++) { /* offset of record 0 */
        s.raise = 0;
        assert_int_equal(run(damage_log_then_return, &s, &v), RGUARD_EVIOLATION);
        assert_int_equal(v.kind, RGUARD_V_UNDO);
    }
}

static int free_then_damage_log(void *user)
{
    struct script *s = user;
    rguard_free(arenas[0], s->p);
    raw_store(window->log + 8, (uint8_t)~raw_load(window->log + 8));
    return 0;
}

static void test_commit_does_not_free_by_a_damaged_record(void **state)
{
    (void)state;
    struct rguard_violation v;
    struct script s = {.p = make_slot(arenas[0], 64)};
    assert_int_equal(run(free_then_damage_log, &s, &v), RGUARD_EVIOLATION);
    assert_int_equal(v.kind, RGUARD_V_UNDO);
    assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
}

/* ---- windows that cannot be undone ----------------------------------------------------------- */

static int touch_a_lot(void *user)
{
    struct script *s = user;
    for (int i = 0; i < 100; i++) {
        s->got |= rguard_touch(s->p, 100);
        s->p[0]++;
    }
    if (s->raise != 0) {
        rguard_window_raise(s->raise);
    }
    return s->result;
}

static void test_overflow_of_the_undo_log(void **state)
{
    (void)state;
    struct rguard_violation v;
    struct script s = two_slots();
    rguard_window *small = make_window(arenas, 2, 4096);
    assert_int_equal(rguard_window_run(small, 1, 1, touch_a_lot, &s, &v), 0);
    assert_int_equal(s.got, 0);
    assert_int_equal(s.p[0], 101);
    s.raise = RGUARD_V_INJECTED;
    assert_int_equal(rguard_window_run(small, 1, 1, touch_a_lot, &s, &v), RGUARD_EVIOLATION);
    assert_int_equal(v.kind, RGUARD_V_INJECTED);
    assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
    s.raise = 0;
    s.result = 7;
    assert_int_equal(rguard_window_run(small, 1, 2, touch_a_lot, &s, &v), RGUARD_EVIOLATION);
    assert_int_equal(v.kind, RGUARD_V_UNDO);
    assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
    rguard_window_destroy(small);
}

static int alloc_free_a_lot(void *user)
{
    struct script *s = user;
    for (int i = 0; i < 500; i++) {
        void *p = NULL;
        s->got |= rguard_alloc(arenas[i % 2], 50, &p);
        s->got |= rguard_free(arenas[i % 2], p);
    }
    return 0;
}

static void test_allocation_goes_on_when_the_log_is_full(void **state)
{
    (void)state;
    struct rguard_violation v;
    struct script s = two_slots();
    rguard_window *small = make_window(arenas, 2, 4096);
    assert_int_equal(rguard_window_run(small, 1, 1, alloc_free_a_lot, &s, &v), 0);
    assert_int_equal(s.got, 0);
    struct rguard_arena_stats stats = {.size = sizeof stats};
    rguard_arena_stats(arenas[0], &stats);
    assert_int_equal(stats.live_slots, 1);
    assert_int_equal(stats.allocs, 251);
    assert_int_equal(stats.frees, 250);
    assert_int_equal(rguard_check(arenas[0], RGUARD_CHECK_FULL, NULL), 0);
    rguard_window_destroy(small);
}

static int touch_range(void *user)
{
    struct script *s = user;
    s->got = rguard_touch(s->p, s->len);
    if (s->raise != 0) {
        rguard_window_raise(s->raise);
    }
    return 0;
}

static void test_touch_outside_a_live_slot(void **state)
{
    (void)state;
    struct rguard_violation v;
    struct script two = two_slots();
    uint8_t *p = two.p;
    uint8_t *dead = make_slot(arenas[0], 100);
    int local = 0;
    rguard_free(arenas[0], dead);
    const struct
    {
        uint8_t *p;
        size_t len;
    } bad[] = {{p - 1, 1},    {p, 101},         {p + 100, 1},           {p + 99, 2},
               {p, SIZE_MAX}, {dead, 1},        {(uint8_t *)&local, 1}, {NULL, 1},
               {two.q, 101},  {two.q + 100, 1}, {two.q - 1, 2},         {p - 16, 16}};
    assert_int_equal(rguard_touch(p, 1000), 0); /* no window: nothing to do */
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct script s = {.p = bad[i].p, .len = bad[i].len};
        assert_int_equal(run(touch_range, &s, &v), 0);
        assert_int_equal(s.got, -EFAULT);
        s.raise = RGUARD_V_INJECTED;
        assert_int_equal(run(touch_range, &s, &v), RGUARD_EVIOLATION);
        assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
    }
    const struct
    {
        uint8_t *p;
        size_t len;
    } good[] = {{p, 100}, {p + 99, 1}, {p + 100, 0}, {NULL, 0}, {two.q, 100}, {two.q + 1, 99}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct script s = {.p = good[i].p, .len = good[i].len, .raise = RGUARD_V_INJECTED};
        assert_int_equal(run(touch_range, &s, &v), RGUARD_EVIOLATION);
        assert_int_equal(s.got, 0);
        assert_int_equal(v.class_, RGUARD_CLASS_PRECISE);
    }
}

/* ---- magic words ----------------------------------------------------------------------------- */

static int damage_magic(void *user)
{
    struct script *s = user;
    rguard_touch(s->p, 1);
    s->p[0] = 9;
    s->got = 1;
    raw_store(arenas[0]->body_end, (uint8_t)~raw_load(arenas[0]->body_end));
    return s->result;
}

static void test_magic_is_checked_before_and_after(void **state)
{
    (void)state;
    struct rguard_violation v;
    struct script s = two_slots();
    for (s.result = 0; s.result < 2; s.result++) { /* found whether it commits or aborts */
        assert_int_equal(run(damage_magic, &s, &v), RGUARD_EVIOLATION);
        assert_int_equal(v.kind, RGUARD_V_MAGIC);
        assert_int_equal(v.class_, RGUARD_CLASS_IMPRECISE);
        assert_int_equal(v.address, (uintptr_t)arenas[0]->body_end);
        assert_int_equal(s.got, 1);
        s.got = 0;
        assert_int_equal(run(damage_magic, &s, &v), RGUARD_EVIOLATION); /* the body does not run */
        assert_int_equal(v.kind, RGUARD_V_MAGIC);
        assert_int_equal(s.got, 0);
        raw_store(arenas[0]->body_end, (uint8_t)~raw_load(arenas[0]->body_end));
    }
    assert_int_equal(run(touch_range, &s, &v), 0);
}

static void test_magic_goes_unnoticed_with_the_detector_off(void **state)
{
    (void)state;
    setenv("RGUARD_TEST_OFF", "magic", 1);
    rguard_window *w = make_window(arenas, 2, 0);
    struct script s = two_slots();
    struct rguard_violation v;
    assert_int_equal(rguard_window_run(w, 1, 1, damage_magic, &s, &v), 0);
    assert_int_equal(rguard_window_run(w, 1, 2, damage_magic, &s, &v), 0);
    rguard_window_destroy(w);
}

/* ---- the bracket without the trap; states ---------------------------------------------------- */

static void test_bracket(void **state)
{
    (void)state;
    struct rguard_violation v;
    struct script s = two_slots();
    assert_int_equal(rguard_window_commit(window, &v), RGUARD_ESTATE);
    assert_int_equal(rguard_window_abort(window), RGUARD_ESTATE);
    assert_int_equal(rguard_window_begin(window, 1, 1), 0);
    assert_int_equal(rguard_window_begin(window, 1, 1), RGUARD_ESTATE);
    assert_int_equal(rguard_window_raise(RGUARD_V_INJECTED), RGUARD_ESTATE);
    assert_int_equal(rguard_free(arenas[0], s.p + 1), RGUARD_EWRONGARENA); /* returned */
    rguard_touch(s.p, 100);
    memset(s.p, 4, 100);
    assert_int_equal(rguard_window_abort(window), 0);
    assert_int_equal(s.p[0], 1);
    assert_int_equal(rguard_window_begin(window, 1, 1), 0);
    rguard_touch(s.p, 100);
    memset(s.p, 4, 100);
    assert_int_equal(rguard_window_commit(window, &v), 0);
    assert_int_equal(s.p[0], 4);
    assert_int_equal(rguard_window_raise(RGUARD_V_INJECTED), RGUARD_ESTATE);
}

static int open_another(void *user)
{
    struct script *s = user;
    rguard_arena *a = NULL;
    struct rguard_arena_options o = {.size = sizeof o, .bytes = 4096};
    assert_int_equal(rguard_arena_create(&o, &a), RGUARD_ESTATE);
    assert_int_equal(rguard_arena_reset(arenas[0]), RGUARD_ESTATE);
    assert_int_equal(rguard_window_begin(window, 1, 1), RGUARD_ESTATE);
    s->got = rguard_window_run(window, 1, 1, open_another, s, NULL);
    return 0;
}

static void test_windows_do_not_nest(void **state)
{
    (void)state;
    struct script s = {.got = 0};
    struct rguard_violation v;
    assert_int_equal(run(open_another, &s, &v), 0);
    assert_int_equal(s.got, RGUARD_ESTATE);
}

static void test_bad_window_options(void **state)
{
    (void)state;
    rguard_window *w = NULL;
    struct rguard_window_options good = {.size = sizeof good, .arenas = arenas, .n_arenas = 2};
    struct rguard_window_options o = good;
    assert_int_equal(rguard_window_create(NULL, &w), -EINVAL);
    assert_int_equal(rguard_window_create(&good, NULL), -EINVAL);
    o.n_arenas = 0;
    assert_int_equal(rguard_window_create(&o, &w), -EINVAL);
    o.n_arenas = 257;
    assert_int_equal(rguard_window_create(&o, &w), -EINVAL);
    o = good;
    o.size = 4;
    assert_int_equal(rguard_window_create(&o, &w), -EINVAL);
    o = good;
    o.undo_bytes = SIZE_MAX;
    assert_int_equal(rguard_window_create(&o, &w), -EINVAL);
    o = good;
    rguard_arena *hole[2] = {arenas[0], NULL};
    o.arenas = hole;
    assert_int_equal(rguard_window_create(&o, &w), -EINVAL);
    assert_int_equal(rguard_window_run(NULL, 1, 1, touch_range, NULL, NULL), -EINVAL);
    assert_int_equal(rguard_window_run(window, 1, 1, NULL, NULL, NULL), -EINVAL);
    assert_int_equal(rguard_window_begin(NULL, 1, 1), -EINVAL);
    rguard_window_destroy(NULL);
}

/* ---- hooks ----------------------------------------------------------------------------------- */

static unsigned hooked;
static struct rguard_violation hook_saw;

static void hook(void *user, const struct rguard_violation *v)
{
    hooked += *(unsigned *)user;
    hook_saw = *v;
}

static void test_hooks_see_every_violation_at_once(void **state)
{
    (void)state;
    unsigned one = 1;
    struct script s = two_slots();
    struct rguard_violation v;
    assert_int_equal(rguard_guard_hook_add(NULL, NULL), -EINVAL);
    assert_int_equal(rguard_guard_hook_add(hook, &one), 0);
    hooked = 0;
    s.raise = RGUARD_V_ENVELOPE;
    run(write_alloc_free, &s, &v);
    assert_int_equal(hooked, 1);
    assert_int_equal(hook_saw.kind, RGUARD_V_ENVELOPE);
    assert_int_equal(hook_saw.index, 77);
    rguard_free(arenas[0], s.p + 1);
    assert_int_equal(hooked, 2);
    raw_store(s.p + 100, (uint8_t)~raw_load(s.p + 100));
    rguard_check(arenas[0], RGUARD_CHECK_FULL, NULL);
    assert_int_equal(hooked, 3);
    run(damage_magic, &s, &v);
    assert_int_equal(hooked, 4);
    rguard_guard_hook_remove(hook, &one);
    rguard_free(arenas[0], s.p + 1);
    assert_int_equal(hooked, 4);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(rguard_guard_hook_add(hook, &one), 0);
    }
    assert_int_equal(rguard_guard_hook_add(hook, &one), RGUARD_EBUSY);
    for (int i = 0; i < 8; i++) {
        rguard_guard_hook_remove(hook, &one);
    }
}

/* ---- the model: random windows against a shadow copy ----------------------------------------- */

#define SLOTS 200u

struct model_slot
{
    uint8_t *p;
    uint32_t len;
    int arena;
    uint8_t bytes[512];
};

static struct model_slot model[SLOTS]; /* what must be there */
static struct model_slot draft[SLOTS]; /* what the window is making of it */
static uint64_t seed = 88172645463325252u;
static unsigned model_ops;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void model_op(void)
{
    struct model_slot *m = &draft[next_random() % SLOTS];
    uint64_t what = next_random() % 4;
    model_ops++;
    if (m->p == NULL) {
        void *p = NULL;
        m->arena = (int)(next_random() % 2);
        m->len = 1 + (uint32_t)(next_random() % sizeof m->bytes);
        CHECK(rguard_alloc(arenas[m->arena], m->len, &p) == 0);
        m->p = p;
        memset(m->p, (int)what + 1, m->len);
        memset(m->bytes, (int)what + 1, m->len);
    } else if (what == 0) {
        CHECK(rguard_free(arenas[m->arena], m->p) == 0);
        m->p = NULL;
    } else {
        size_t at = next_random() % m->len;
        size_t len = 1 + next_random() % (m->len - at);
        CHECK(rguard_touch(m->p + at, len) == 0);
        memset(m->p + at, (int)model_ops, len);
        memset(m->bytes + at, (int)model_ops, len);
    }
}

static int model_body(void *user)
{
    const struct script *s = user;
    for (size_t i = 0; i < s->len; i++) {
        model_op();
    }
    if (s->raise != 0) {
        rguard_window_raise(s->raise);
    }
    return s->result;
}

static void expect_model(void)
{
    uint64_t live[2] = {0, 0};
    for (size_t i = 0; i < SLOTS; i++) {
        const struct model_slot *m = &model[i];
        if (m->p != NULL) {
            live[m->arena]++;
            assert_int_equal(rguard_slot_len(arenas[m->arena], m->p), m->len);
            assert_memory_equal(m->p, m->bytes, m->len);
        }
    }
    for (int i = 0; i < 2; i++) {
        struct rguard_arena_stats stats = {.size = sizeof stats};
        rguard_arena_stats(arenas[i], &stats);
        assert_int_equal(stats.live_slots, live[i]);
        assert_int_equal(stats.live_slots, stats.allocs - stats.frees);
    }
}

static void test_random_windows_match_the_model(void **state)
{
    (void)state;
    memset(model, 0, sizeof model);
    struct rguard_violation v;
    unsigned ends[3] = {0, 0, 0};
    model_ops = 0;
    for (unsigned round = 0; model_ops < 100000; round++) {
        struct script s = {.len = 1 + next_random() % 120};
        unsigned end = (unsigned)(next_random() % 3);
        s.result = end == 1 ? 9 : 0;
        s.raise = end == 2 ? RGUARD_V_INJECTED : 0;
        memcpy(draft, model, sizeof model);
        int rv = run(model_body, &s, &v);
        assert_int_equal(rv, end == 0 ? 0 : end == 1 ? 9 : RGUARD_EVIOLATION);
        if (end == 0) {
            memcpy(model, draft, sizeof model);
        } else if (end == 2) {
            assert_int_equal(v.class_, RGUARD_CLASS_PRECISE);
        }
        ends[end]++;
        expect_model();
        if (round % 100 == 0) {
            assert_int_equal(rguard_check(arenas[0], RGUARD_CHECK_FULL, NULL), 0);
            assert_int_equal(rguard_check(arenas[1], RGUARD_CHECK_FULL, NULL), 0);
        }
    }
    assert_true(ends[0] > 300 && ends[1] > 300 && ends[2] > 300);
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_error_from_the_body_undoes_everything),
        TEST(test_raise_undoes_everything_and_is_precise),
        TEST(test_a_damaging_raise_is_imprecise),
        TEST(test_commit_keeps_and_hands_freed_slots_back),
        TEST(test_a_freed_slot_is_not_handed_out_before_commit),
        TEST(test_after_an_abort_the_same_calls_give_the_same_addresses),
        TEST(test_with_undo_off_the_bytes_stay),
        TEST(test_refused_frees_end_the_window),
        TEST(test_double_free_commits_with_the_detector_off),
        TEST(test_damaged_free_slot_ends_the_window),
        TEST(test_damage_near_a_touched_slot_makes_it_imprecise),
        TEST(test_damage_far_away_is_not_looked_for),
        TEST(test_every_byte_of_the_undo_log_is_checked),
        TEST(test_commit_does_not_free_by_a_damaged_record),
        TEST(test_overflow_of_the_undo_log),
        TEST(test_allocation_goes_on_when_the_log_is_full),
        TEST(test_touch_outside_a_live_slot),
        TEST(test_magic_is_checked_before_and_after),
        TEST(test_magic_goes_unnoticed_with_the_detector_off),
        TEST(test_bracket),
        TEST(test_windows_do_not_nest),
        TEST(test_bad_window_options),
        TEST(test_hooks_see_every_violation_at_once),
        TEST(test_random_windows_match_the_model),
    };
    return cmocka_run_group_tests_name("window", tests, NULL, NULL);
}
