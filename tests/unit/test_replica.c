/* SPDX-License-Identifier: Apache-2.0 */
/* Who may serve: every state in which a replica must refuse before libraft is entered. What the
 * replica does otherwise is tested on real ones, in tests/integration. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "shell.h"

#include <cmocka.h>

static void on_applied(void *user, int status, void *result, uint64_t index)
{
    unsigned *calls = user;
    (void)status;
    (void)result;
    (void)index;
    ++*calls;
}

static void on_read(void *user, int status)
{
    unsigned *calls = user;
    (void)status;
    ++*calls;
}

/* Refuses everything with @error, and does not call back. */
static void assert_refused(struct shell *s, int error)
{
    unsigned calls = 0;
    assert_int_equal(rguard_propose(&s->rep, "x", 1, on_applied, &calls), error);
    assert_int_equal(rguard_read_barrier(&s->rep, on_read, &calls), error);
    assert_int_equal(rguard_handover(&s->rep), error);
    assert_int_equal(calls, 0);
    assert_int_equal(s->rep.inflight_bytes, 0);
    assert_null(s->rep.reads_waiting);
}

static void start(struct shell *s)
{
    static char freed_with_the_role; /* any but NULL will do */
    shell_init(s, 1, 3);
    shell_lead(s, 5);
    s->raft.leader_state.progress = (struct raft_progress *)(void *)&freed_with_the_role;
    s->rep.opt.max_entry_bytes = 4096;
    s->rep.opt.max_inflight_bytes = 8192;
    s->rep.reads_waiting_tail = &s->rep.reads_waiting;
}

static void test_no_leader(void **state)
{
    struct shell s;
    (void)state;
    start(&s);
    shell_follow(&s, 2, 5);
    assert_refused(&s, RGUARD_ENOTLEADER);
    s.raft.state = RAFT_CANDIDATE;
    assert_refused(&s, RGUARD_ENOTLEADER);
    shell_fini(&s);
}

/* libraft 0.15 steps down: it fails its requests, still calling itself the leader, of the next term
 * even; a callback that proposes then would meet what is freed. */
static void test_leader_that_steps_down(void **state)
{
    struct shell s;
    (void)state;
    start(&s);
    s.raft.leader_state.progress = NULL;
    assert_refused(&s, RGUARD_ENOTLEADER);
    s.raft.current_term++;
    assert_refused(&s, RGUARD_ENOTLEADER);
    shell_fini(&s);
}

static void test_leader_that_must_not(void **state)
{
    struct shell s;
    (void)state;
    start(&s);
    s.rep.muted = true;
    assert_refused(&s, RGUARD_ESTATE);
    s.rep.muted = false;
    s.rep.closing = true;
    assert_refused(&s, RGUARD_ESTATE);
    s.rep.closing = false;
    s.rep.started = false;
    assert_refused(&s, RGUARD_ESTATE);
    shell_fini(&s);
}

/* The same leader with none of that: a read waits for its barrier. */
static void test_leader_serves(void **state)
{
    struct shell s;
    unsigned calls = 0;
    (void)state;
    start(&s);
    assert_int_equal(rguard_read_barrier(&s.rep, on_read, &calls), 0);
    assert_non_null(s.rep.reads_waiting);
    assert_true(s.net.armed[RGUARD_TIMER_SOON]);
    free(s.rep.reads_waiting);
    shell_fini(&s);
}

static void test_bounds(void **state)
{
    static uint8_t bytes[8192];
    struct shell s;
    unsigned calls = 0;
    (void)state;
    start(&s);
    size_t most = 4096 - RGUARD_ENVELOPE_BYTES;
    assert_int_equal(rguard_propose(&s.rep, bytes, most + 1, on_applied, &calls), RGUARD_ETOOBIG);
    s.rep.inflight_bytes = 4097;
    assert_int_equal(rguard_propose(&s.rep, bytes, most, on_applied, &calls), RGUARD_EBUSY);
    assert_int_equal(s.rep.inflight_bytes, 4097);
    assert_int_equal(calls, 0);
    shell_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_leader),
        cmocka_unit_test(test_leader_that_steps_down),
        cmocka_unit_test(test_leader_that_must_not),
        cmocka_unit_test(test_leader_serves),
        cmocka_unit_test(test_bounds),
    };
    return cmocka_run_group_tests_name("replica", tests, NULL, NULL);
}
