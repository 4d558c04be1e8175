/* SPDX-License-Identifier: Apache-2.0 */
/* Times and oracles over hand-made runs: one that is right, and for every oracle one lie planted in
 * it that must be found. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "text.h"
#include "trial.h"

#define MS 1000000ull
#define T0 (1000 * MS)

/* Three nodes, node 1 leads term 2 and is hit at T0; node 2 leads term 3 from +2 ms. One index per
 * millisecond from 1 on, applied by everybody; index 1000 + k at T0 + k ms. */
static struct cv_trial t;
static struct cv_times m;
static struct cv_judgement j;

static void event(unsigned node, double ms, uint32_t what, uint64_t term, uint64_t index,
                  uint64_t a)
{
    struct rguard_trace_record r = {.ns = (uint64_t)((double)T0 + ms * 1e6),
                                    .event = what,
                                    .term = term,
                                    .index = index,
                                    .a = a};
    /* Kept in time order, as a ring is. */
    struct cv_events *e = &t.ev[node - 1];
    cv_events_add(e, &r);
    for (size_t i = e->n - 1; i > 0 && e->v[i - 1].ns > e->v[i].ns; i--) {
        struct rguard_trace_record swap = e->v[i];
        e->v[i] = e->v[i - 1];
        e->v[i - 1] = swap;
    }
}

static uint64_t digest_at(uint64_t index)
{
    return index * 0x9e3779b97f4a7c15u;
}

static uint32_t op(unsigned node, double invoke, double reply, int kind, int outcome, int64_t value)
{
    t.ops.v = cv_reserve(t.ops.v, t.ops.n, &t.ops.cap, sizeof *t.ops.v);
    uint32_t seq = (uint32_t)t.ops.n;
    t.ops.v[t.ops.n++] = (struct cv_op){.invoke = (uint64_t)((double)T0 + invoke * 1e6),
                                        .reply = (uint64_t)((double)T0 + reply * 1e6),
                                        .seq = seq,
                                        .kind = (uint8_t)kind,
                                        .node = (uint8_t)node,
                                        .outcome = (uint8_t)outcome,
                                        .value = value};
    if (kind != CV_GET_REGISTER && outcome == CV_OK) {
        for (unsigned n = 0; n < 3; n++) {
            cv_bits_set(&t.in_log[n], seq);
        }
        cv_bits_set(&t.in_state, seq);
    }
    return seq;
}

static void forget_bit(struct cv_bits *b, uint32_t seq)
{
    b->words[seq / 64] &= ~(1ull << (seq % 64));
}

static uint32_t old_write, new_write; /* register writes, acknowledged at -4.5 and +3.5 ms */

static int good_run(void **state)
{
    (void)state;
    t = (struct cv_trial){.nodes = 3,
                          .victim = 1,
                          .leader_fault = true,
                          .guarded = true,
                          .fault_class = CV_FAULT_MEMORY,
                          .inject_ns = T0 - MS / 2,
                          .term0 = 2,
                          .leader0 = 1,
                          .state_read = true,
                          .final_read_ns = T0 + 100 * MS};
    event(1, -900, RGUARD_TRACE_LEADER, 2, 0, 0);
    for (unsigned n = 1; n <= 3; n++) {
        t.log_read[n - 1] = true;
        t.final[n - 1] = (struct cv_final){true, 1020, digest_at(1020)};
        for (int k = -10; k <= 20; k++) {
            uint64_t index = (uint64_t)(1000 + k);
            /* Nothing is applied anywhere while nobody leads; the victim comes back at 5 ms. */
            double at = k > 0 && k < 3 ? 3.1 : k;
            if (n == 1 && k > 0 && k < 6) {
                at = 5.1;
            }
            event(n, at - 0.01, RGUARD_TRACE_APPLIED, k < 3 ? 2 : 3, index, digest_at(index));
        }
    }
    event(1, 0, RGUARD_TRACE_FAULT, 2, 0, 0);
    event(1, 0.02, RGUARD_TRACE_DETECTED, 2, 1001, 0);
    event(1, 0.03, RGUARD_TRACE_CONTAINED, 2, 0, 0);
    event(1, 0.05, RGUARD_TRACE_NOTICE_SENT, 2, 0, 2);
    event(2, 0.4, RGUARD_TRACE_NOTICE_RECV, 2, 0, 1);
    event(2, 0.5, RGUARD_TRACE_CANDIDATE, 3, 0, 1);
    event(2, 2, RGUARD_TRACE_LEADER, 3, 0, 0);
    event(1, 0.9, RGUARD_TRACE_WAL_VERIFIED, 2, 0, 0);
    event(1, 1.0, RGUARD_TRACE_ROLLED_BACK, 2, 1000, digest_at(1000));
    event(1, 5.05, RGUARD_TRACE_SERVING, 3, 0, 0);
    old_write = op(1, -5, -4.5, CV_SET_REGISTER, CV_OK, -1);
    op(1, -3, -2.5, CV_SET, CV_OK, -1);
    op(1, -0.1, 0.2, CV_SET, CV_LOST, -1);
    op(2, 1, 1.1, CV_SET, CV_MOVED, -1);
    new_write = op(2, 2.1, 3.5, CV_SET_REGISTER, CV_OK, -1);
    op(2, 4, 4.5, CV_SET, CV_OK, -1);
    op(1, 4, 4.4, CV_GET_REGISTER, CV_MOVED, -1);
    t.final_register = new_write;
    snprintf(t.violation, sizeof t.violation, "%s",
             "violation=slot_guard class=precise arena=kv.values offset=8192 past_end=0 "
             "access=write address=0x7f pc=0x55 term=2 index=1001 tid=9");
    return 0;
}

static int end_run(void **state)
{
    (void)state;
    cv_trial_free(&t);
    return 0;
}

static void judge(void)
{
    cv_measure(&t, &m);
    cv_judge(&t, &m, &j);
}

static void expect(int verdict, const char *words)
{
    judge();
    if (j.verdict != verdict || (words != NULL && j.n_reasons == 0)) {
        fail_msg("verdict %s, %u reasons, first: %s", cv_verdict_name(j.verdict), j.n_reasons,
                 j.n_reasons > 0 ? j.reasons[0] : "-");
    }
    for (unsigned i = 0; words != NULL && i < j.n_reasons; i++) {
        if (strstr(j.reasons[i], words) != NULL) {
            return;
        }
    }
    if (words != NULL) {
        fail_msg("no reason says '%s'; the first is '%s'", words, j.reasons[0]);
    }
}

static void near(double a, double b)
{
    if (!(fabs(a - b) < 0.001)) {
        fail_msg("%f is not %f", a, b);
    }
}

/* ---- times ----------------------------------------------------------------------------------- */

static void the_good_run_is_correct(void **state)
{
    (void)state;
    expect(CV_CORRECT, NULL);
    assert_int_equal(j.n_reasons, 0);
    assert_true(j.acked == 4 && j.lost == 0);
    near(cv_ms(m.fault, m.detected), 0.02);
    near(cv_ms(m.fault, m.first_ack), 3.5);
    near(cv_ms(m.fault, m.leader), 2);
    near(cv_ms(m.last_ack_before, m.first_ack), 6);
    near(cv_ms(m.fault, m.converged), 5.09);
    assert_true(m.winner == 2 && m.by_notice && m.term == 3);
    assert_true(isnan(cv_ms(0, m.first_ack)));
}

static void an_ack_of_the_old_term_is_no_recovery(void **state)
{
    (void)state;
    op(1, 0.01, 0.02, CV_SET, CV_OK, -1); /* sent after the fault, answered by the old leader */
    op(3, 0.5, 1.0, CV_SET, CV_OK, -1);   /* by a node that never led */
    judge();
    near(cv_ms(m.fault, m.first_ack), 3.5);
}

static void a_write_sent_before_the_fault_is_no_recovery(void **state)
{
    (void)state;
    op(2, -0.1, 2.5, CV_SET, CV_OK, -1);
    judge();
    near(cv_ms(m.fault, m.first_ack), 3.5);
}

static void any_ack_counts_when_a_follower_was_hit(void **state)
{
    (void)state;
    t.leader_fault = false;
    op(1, 0.01, 0.3, CV_SET, CV_OK, -1);
    cv_measure(&t, &m);
    near(cv_ms(m.fault, m.first_ack), 0.3);
    assert_int_equal(m.winner, 0);
}

static void a_timer_is_not_a_notice(void **state)
{
    (void)state;
    for (size_t i = 0; i < t.ev[1].n; i++) {
        if (t.ev[1].v[i].event == RGUARD_TRACE_CANDIDATE) {
            t.ev[1].v[i].a = 0;
        }
    }
    judge();
    assert_false(m.by_notice);
    for (size_t i = 0; i < t.ev[1].n; i++) {
        struct rguard_trace_record *r = &t.ev[1].v[i];
        r->a = r->event == RGUARD_TRACE_CANDIDATE ? 1 : r->a;
        r->ns += r->event == RGUARD_TRACE_NOTICE_RECV ? MS : 0; /* after the candidacy */
    }
    judge();
    assert_false(m.by_notice);
}

static void no_convergence_without_rollback(void **state)
{
    (void)state;
    for (size_t i = 0; i < t.ev[0].n; i++) {
        if (t.ev[0].v[i].event == RGUARD_TRACE_ROLLED_BACK) {
            t.ev[0].v[i].event = RGUARD_TRACE_LADDER;
        }
    }
    expect(CV_UNAVAILABLE, "did not come back");
    assert_true(m.converged == 0);
}

static void no_convergence_while_one_lags(void **state)
{
    (void)state;
    for (size_t i = 0; i < t.ev[2].n; i++) {
        if (t.ev[2].v[i].event == RGUARD_TRACE_APPLIED && t.ev[2].v[i].index >= 1000) {
            t.ev[2].v[i].event = RGUARD_TRACE_LADDER;
        }
    }
    expect(CV_UNAVAILABLE, "one digest at one index");
}

static void a_killed_leader_converges_from_its_new_start(void **state)
{
    (void)state;
    t.fault_class = CV_FAULT_PROCESS;
    t.inject_ns = T0;
    t.violation[0] = '\0';
    for (size_t i = 0; i < t.ev[0].n; i++) {
        struct rguard_trace_record *r = &t.ev[0].v[i];
        if (r->ns > T0 && r->event != RGUARD_TRACE_APPLIED) {
            r->event = RGUARD_TRACE_LADDER;
        }
        r->ns += r->ns > T0 ? 50 * MS : 0;
    }
    event(1, 40, RGUARD_TRACE_START, 2, 0, 1);
    expect(CV_CORRECT, NULL);
    near(cv_ms(m.fault, m.restarted), 40);
    near(cv_ms(m.fault, m.converged), 55.09);
    assert_true(isnan(cv_ms(m.fault, m.detected)));
}

/* ---- planted lies ---------------------------------------------------------------------------- */

static void lost_in_a_log(void **state)
{
    (void)state;
    forget_bit(&t.in_log[2], new_write);
    expect(CV_UNSAFE, "not in the log of node 3");
    assert_true(j.lost == 1);
}

static void lost_in_the_state(void **state)
{
    (void)state;
    uint32_t seq = op(2, 6, 6.5, CV_SET, CV_OK, -1);
    forget_bit(&t.in_state, seq);
    expect(CV_UNSAFE, "cannot be read at the final leader");
    assert_true(j.lost == 1);
}

static void a_log_that_cannot_be_read(void **state)
{
    (void)state;
    t.log_read[1] = false;
    snprintf(t.log_error[1], sizeof t.log_error[1], "segment 1: checksum");
    expect(CV_UNSAFE, "log of node 2 cannot be read: segment 1");
}

static void digests_differ_at_an_index(void **state)
{
    (void)state;
    for (size_t i = 0; i < t.ev[0].n; i++) {
        if (t.ev[0].v[i].event == RGUARD_TRACE_APPLIED && t.ev[0].v[i].index == 1007) {
            t.ev[0].v[i].a ^= 1;
        }
    }
    expect(CV_UNSAFE, "at index 1007");
}

static void digests_differ_at_the_end(void **state)
{
    (void)state;
    t.final[2].digest ^= 1;
    expect(CV_UNSAFE, "at the end, index 1020");
}

static void a_node_does_not_answer(void **state)
{
    (void)state;
    t.final[1].answered = false;
    expect(CV_UNAVAILABLE, "node 2 did not answer");
}

static void a_node_stays_behind(void **state)
{
    (void)state;
    t.final[1].applied--;
    expect(CV_UNAVAILABLE, "node 2 at 1019");
}

static void two_leaders_in_one_term(void **state)
{
    (void)state;
    event(3, 2.2, RGUARD_TRACE_LEADER, 3, 0, 0);
    expect(CV_UNSAFE, "nodes 2 and 3 both led term 3");
}

static void applied_while_contained(void **state)
{
    (void)state;
    event(1, 0.5, RGUARD_TRACE_APPLIED, 2, 1001, digest_at(1001));
    expect(CV_UNSAFE, "recorded 'applied' while it was contained");
}

static void acknowledged_before_it_takes_part(void **state)
{
    (void)state;
    event(1, 4.5, RGUARD_TRACE_ACK, 2, 1001, 7); /* after the rollback, still muted */
    expect(CV_UNSAFE, "recorded 'ack' while it was contained");
}

static void rolled_back_to_another_state(void **state)
{
    (void)state;
    for (size_t i = 0; i < t.ev[0].n; i++) {
        if (t.ev[0].v[i].event == RGUARD_TRACE_ROLLED_BACK) {
            t.ev[0].v[i].a ^= 1;
            t.ev[0].v[i].b = 1;
        }
    }
    expect(CV_UNSAFE, "at index 1000");
}

static void acknowledged_while_contained(void **state)
{
    (void)state;
    op(1, 0.1, 0.6, CV_SET, CV_OK, -1);
    expect(CV_UNSAFE, "while it was contained");
}

static void an_answer_on_its_way_is_no_crime(void **state)
{
    (void)state;
    op(1, -0.2, 0.6, CV_SET, CV_OK, -1); /* sent before the containment */
    expect(CV_CORRECT, NULL);
}

static void stale_read(void **state)
{
    (void)state;
    op(1, 4, 4.2, CV_GET_REGISTER, CV_OK, old_write);
    expect(CV_UNSAFE, "stale read at node 1");
}

static void nil_after_a_write_is_stale(void **state)
{
    (void)state;
    op(1, 4, 4.2, CV_GET_REGISTER, CV_OK, -1);
    expect(CV_UNSAFE, "returned write -1");
}

static void concurrent_read_may_be_old(void **state)
{
    (void)state;
    op(1, 3.4, 4.2, CV_GET_REGISTER, CV_OK, old_write); /* began before the ack at 3.5 */
    op(2, 4, 4.2, CV_GET_REGISTER, CV_OK, new_write);
    expect(CV_CORRECT, NULL);
}

static void old_final_register(void **state)
{
    (void)state;
    t.final_register = old_write;
    expect(CV_UNSAFE, "final register");
}

static void nothing_noticed(void **state)
{
    (void)state;
    t.violation[0] = '\0';
    for (size_t i = 0; i < t.ev[0].n; i++) {
        if (t.ev[0].v[i].event == RGUARD_TRACE_DETECTED) {
            t.ev[0].v[i].event = RGUARD_TRACE_LADDER;
        }
    }
    expect(CV_UNSAFE, "nothing noticed it");
}

static void record_without_the_address(void **state)
{
    (void)state;
    memcpy(strstr(t.violation, "pc="), "xx=", 3);
    expect(CV_UNAVAILABLE, "'pc='");
}

static void the_fault_did_not_happen(void **state)
{
    (void)state;
    for (size_t i = 0; i < t.ev[0].n; i++) {
        if (t.ev[0].v[i].event == RGUARD_TRACE_FAULT) {
            t.ev[0].v[i].event = RGUARD_TRACE_LADDER;
        }
    }
    expect(CV_UNAVAILABLE, "never carried out");
}

static void somebody_died(void **state)
{
    (void)state;
    t.died_wrongly = 1;
    snprintf(t.death, sizeof t.death, "node 3 died unasked: signal 13");
    expect(CV_UNAVAILABLE, "signal 13");
    t.guarded = false; /* a baseline may */
    expect(CV_CORRECT, NULL);
}

static void overrun_ring_is_not_silent(void **state)
{
    (void)state;
    t.lost_records = 3;
    expect(CV_UNAVAILABLE, "3 records were not seen");
}

#define RUN(f) cmocka_unit_test_setup_teardown(f, good_run, end_run)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(the_good_run_is_correct),
        RUN(an_ack_of_the_old_term_is_no_recovery),
        RUN(a_write_sent_before_the_fault_is_no_recovery),
        RUN(any_ack_counts_when_a_follower_was_hit),
        RUN(a_timer_is_not_a_notice),
        RUN(no_convergence_without_rollback),
        RUN(no_convergence_while_one_lags),
        RUN(a_killed_leader_converges_from_its_new_start),
        RUN(lost_in_a_log),
        RUN(lost_in_the_state),
        RUN(a_log_that_cannot_be_read),
        RUN(digests_differ_at_an_index),
        RUN(digests_differ_at_the_end),
        RUN(a_node_does_not_answer),
        RUN(a_node_stays_behind),
        RUN(two_leaders_in_one_term),
        RUN(applied_while_contained),
        RUN(acknowledged_while_contained),
        RUN(acknowledged_before_it_takes_part),
        RUN(rolled_back_to_another_state),
        RUN(an_answer_on_its_way_is_no_crime),
        RUN(stale_read),
        RUN(nil_after_a_write_is_stale),
        RUN(concurrent_read_may_be_old),
        RUN(old_final_register),
        RUN(nothing_noticed),
        RUN(record_without_the_address),
        RUN(the_fault_did_not_happen),
        RUN(somebody_died),
        RUN(overrun_ring_is_not_silent),
    };
    return cmocka_run_group_tests_name("converge_oracle", tests, NULL, NULL);
}
