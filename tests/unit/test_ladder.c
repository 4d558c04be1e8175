/* SPDX-License-Identifier: Apache-2.0 */
/* The recovery ladder: every pair of states is allowed or not as written down here, a move that is
 * not allowed ends the process, and the mute follows the state. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "shell.h"

#include <cmocka.h>

#define STATES 10u

#define SERVING      RGUARD_LADDER_SERVING
#define VIOLATED     RGUARD_LADDER_VIOLATED
#define CONTAINED    RGUARD_LADDER_CONTAINED
#define LOG_VERIFIED RGUARD_LADDER_LOG_VERIFIED
#define ROLLED_BACK  RGUARD_LADDER_ROLLED_BACK
#define PROBATION    RGUARD_LADDER_PROBATION
#define REPAIRING    RGUARD_LADDER_REPAIRING
#define RESYNCING    RGUARD_LADDER_RESYNCING
#define GASPED       RGUARD_LADDER_GASPED
#define POISONED     RGUARD_LADDER_POISONED

struct move
{
    uint32_t from, to;
};

/* The drawing of the design, arrow by arrow, and what its text adds. */
static const struct move drawn[] = {
    {SERVING, VIOLATED},
    {VIOLATED, CONTAINED},
    {CONTAINED, LOG_VERIFIED},
    {LOG_VERIFIED, ROLLED_BACK},
    {ROLLED_BACK, PROBATION},
    {PROBATION, SERVING},
    {LOG_VERIFIED, REPAIRING},
    {REPAIRING, ROLLED_BACK},
    {LOG_VERIFIED, RESYNCING},
    {RESYNCING, ROLLED_BACK},
    {CONTAINED, ROLLED_BACK}, /* PRECISE: only the entry's checksum is looked at again */
    {VIOLATED, GASPED},
    {CONTAINED, GASPED},
    /* In words: the second fault on one entry poisons it; a fault can come again before the first
     * is over; nothing fits, so R5 after R4; any state may be the last one before the process ends
     * (FATAL, a closing supervisor), but the last one itself. */
    {CONTAINED, POISONED},
    {ROLLED_BACK, POISONED},
    {ROLLED_BACK, VIOLATED},
    {PROBATION, VIOLATED},
    {REPAIRING, RESYNCING},
    {SERVING, GASPED},
    {LOG_VERIFIED, GASPED},
    {ROLLED_BACK, GASPED},
    {PROBATION, GASPED},
    {REPAIRING, GASPED},
    {RESYNCING, GASPED},
    {POISONED, GASPED},
};

static bool is_drawn(uint32_t from, uint32_t to)
{
    for (size_t i = 0; i < sizeof drawn / sizeof drawn[0]; i++) {
        if (drawn[i].from == from && drawn[i].to == to) {
            return true;
        }
    }
    return false;
}

static void test_every_pair(void **state)
{
    (void)state;
    for (uint32_t from = 0; from < STATES; from++) {
        for (uint32_t to = 0; to < STATES; to++) {
            if (rguard__ladder_allows(from, to) != is_drawn(from, to)) {
                fail_msg("%s -> %s is %s", rguard_ladder_state_name(from),
                         rguard_ladder_state_name(to),
                         is_drawn(from, to) ? "drawn, but not allowed" : "allowed, but not drawn");
            }
        }
    }
}

static void test_outside(void **state)
{
    (void)state;
    for (uint32_t s = 0; s < STATES; s++) {
        assert_false(rguard__ladder_allows(s, STATES));
        assert_false(rguard__ladder_allows(s, UINT32_MAX));
        assert_false(rguard__ladder_allows(STATES, s));
        assert_false(rguard__ladder_allows(UINT32_MAX, s));
    }
    assert_string_equal(rguard_ladder_state_name(STATES), "?");
}

static void test_names(void **state)
{
#define NAME(name, value, text) assert_string_equal(rguard_ladder_state_name(name), text);
    (void)state;
    RGUARD_LADDER_STATES(NAME)
#undef NAME
}

/* Whether a state is muted, by the design's sentence about it. VIOLATED decides nothing. */
static bool is_muted(uint32_t s)
{
    return s != SERVING && s != VIOLATED && s != PROBATION;
}

static void test_mute_follows(void **state)
{
    struct shell s;
    (void)state;
    shell_init(&s, 1, 3);
    for (size_t i = 0; i < sizeof drawn / sizeof drawn[0]; i++) {
        s.rep.ladder = drawn[i].from;
        s.rep.muted = is_muted(drawn[i].from);
        rguard__ladder_move(&s.rep, drawn[i].to);
        assert_int_equal(s.rep.ladder, drawn[i].to);
        bool before = is_muted(drawn[i].from);
        assert_int_equal(s.rep.muted, drawn[i].to == VIOLATED ? before : is_muted(drawn[i].to));
    }
    shell_fini(&s);
}

static void test_who_may_campaign(void **state)
{
    struct shell s;
    (void)state;
    shell_init(&s, 1, 3);
    for (uint32_t l = 0; l < STATES; l++) {
        s.rep.ladder = l;
        s.rep.closing = false;
        assert_int_equal(rguard__may_campaign(&s.rep), l == SERVING);
        s.rep.closing = true;
        assert_false(rguard__may_campaign(&s.rep));
    }
    shell_fini(&s);
}

/* A snapshot from the leader is being stored: libraft's log is a promise until it is. As a leader
 * its barrier went to the old end of the log on disk. */
static void test_no_candidate_while_installing(void **state)
{
    struct shell s;
    struct raft_snapshot own = {.index = 9, .term = 2};
    (void)state;
    shell_init(&s, 1, 3);
    s.raft.snapshot.put.data = &own;
    s.raft.last_stored = 0;
    assert_false(rguard__may_campaign(&s.rep));
    s.raft.last_stored = 9; /* one of its own, with the log still there */
    assert_true(rguard__may_campaign(&s.rep));
    s.raft.snapshot.put.data = NULL;
    s.raft.last_stored = 0; /* nothing is stored: a fresh node */
    assert_true(rguard__may_campaign(&s.rep));
    shell_fini(&s);
}

struct attempt
{
    struct shell *s;
    struct move move;
};

static void move_in_child(void *user)
{
    struct attempt *a = user;
    a->s->rep.ladder = a->move.from;
    rguard__ladder_move(&a->s->rep, a->move.to);
}

static void test_illegal_move_ends_the_process(void **state)
{
    struct shell s;
    char text[512];
    (void)state;
    shell_init(&s, 1, 3);
    for (uint32_t from = 0; from < STATES; from++) {
        for (uint32_t to = 0; to <= STATES; to++) {
            struct attempt a = {&s, {from, to}};
            int status = forked(move_in_child, &a, text, sizeof text);
            if (to < STATES && is_drawn(from, to)) {
                assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
            } else {
                assert_true(died_of(status, SIGABRT));
                assert_non_null(strstr(text, "assertion failed"));
                assert_non_null(strstr(text, "ladder.c"));
            }
        }
    }
    shell_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_pair),
        cmocka_unit_test(test_outside),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_mute_follows),
        cmocka_unit_test(test_who_may_campaign),
        cmocka_unit_test(test_no_candidate_while_installing),
        cmocka_unit_test(test_illegal_move_ends_the_process),
    };
    return cmocka_run_group_tests_name("ladder", tests, NULL, NULL);
}
