/* SPDX-License-Identifier: Apache-2.0 */
/* What stock libraft gets wrong on the wire, and that each message is changed, held back or left
 * alone exactly where it must be. The same question is asked again with the cure switched off; that
 * the defects are real is test_libraft_defects.c's to show. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "shell.h"

#include <cmocka.h>

static int setup(void **state)
{
    struct shell *s = malloc(sizeof *s);
    shell_init(s, 1, 3);
    *state = s;
    return rguard__handover_open(&s->rep);
}

static int teardown(void **state)
{
    switch_on();
    shell_fini(*state);
    free(*state);
    return 0;
}

static struct raft_message vote_request(raft_term term)
{
    return (struct raft_message){
        .type = RAFT_IO_REQUEST_VOTE, .server_id = 2, .request_vote = {.term = term}};
}

static struct raft_message append_of(raft_term term, raft_index prev, raft_term prev_term,
                                     unsigned n)
{
    return (struct raft_message){
        .type = RAFT_IO_APPEND_ENTRIES,
        .server_id = 2,
        .append_entries = {
            .term = term, .prev_log_index = prev, .prev_log_term = prev_term, .n_entries = n}};
}

static struct raft_message result_of(uint64_t from, raft_term term, raft_index rejected,
                                     raft_index last)
{
    static char addresses[RGUARD_CHANNEL_MAX_PEERS + 8][RGUARD_MAX_ADDRESS];
    snprintf(addresses[from], RGUARD_MAX_ADDRESS, "127.0.0.1:%u", 9000u + (unsigned)from);
    return (struct raft_message){.type = RAFT_IO_APPEND_ENTRIES_RESULT,
                                 .server_id = from,
                                 .server_address = addresses[from],
                                 .append_entries_result = {term, rejected, last}};
}

/* ---- D8: an old leader is remembered, and votes are refused for its sake --------------------- */

/* Whether a request that arrives now would be allowed to disrupt the leader. */
static bool disrupts(struct shell *s)
{
    struct raft_message m = vote_request(s->raft.current_term + 1);
    rguard__cure_incoming(&s->rep, &m);
    return m.request_vote.disrupt_leader;
}

static void hear_leader(struct shell *s)
{
    struct raft_message m = append_of(s->raft.current_term, 0, 0, 0);
    rguard__cure_incoming(&s->rep, &m);
}

static void test_d8_after_an_election_timeout(void **state)
{
    struct shell *s = *state;
    shell_follow(s, 2, 2);
    hear_leader(s);
    assert_false(disrupts(s));
    s->net.now_ms += SHELL_ELECTION - 1;
    assert_false(disrupts(s));
    s->net.now_ms += 1;
    assert_true(disrupts(s));
    hear_leader(s); /* it lives after all */
    assert_false(disrupts(s));
    s->net.now_ms += SHELL_ELECTION;
    switch_off("d8");
    assert_false(disrupts(s));
}

static void test_d8_snapshot_is_a_sign_of_life(void **state)
{
    struct shell *s = *state;
    struct raft_message m = {.type = RAFT_IO_INSTALL_SNAPSHOT,
                             .server_id = 2,
                             .install_snapshot = {.term = 2, .last_index = 7, .last_term = 2}};
    shell_follow(s, 2, 2);
    assert_true(disrupts(s)); /* never heard of */
    rguard__cure_incoming(&s->rep, &m);
    assert_false(disrupts(s));
}

/* The message of a leader that has been replaced says nothing about the present one. */
static void test_d8_stale_leader_is_no_sign_of_life(void **state)
{
    struct shell *s = *state;
    shell_follow(s, 2, 5);
    hear_leader(s);
    s->net.now_ms += SHELL_ELECTION;
    struct raft_message append = append_of(4, 0, 0, 0);
    struct raft_message install = {.type = RAFT_IO_INSTALL_SNAPSHOT,
                                   .install_snapshot = {.term = 4, .last_index = 3}};
    rguard__cure_incoming(&s->rep, &append);
    assert_true(disrupts(s));
    rguard__cure_incoming(&s->rep, &install);
    assert_true(disrupts(s));
}

/* A leader hears no leader, ever; a candidate is asked by rivals, not by heirs. */
static void test_d8_followers_only(void **state)
{
    struct shell *s = *state;
    shell_lead(s, 2);
    s->net.now_ms += 100 * SHELL_ELECTION;
    assert_false(disrupts(s));
    s->raft.state = RAFT_CANDIDATE;
    assert_false(disrupts(s));
    shell_follow(s, 2, 2);
    assert_true(disrupts(s));
}

/* The flag is only ever added: a transfer or a notice has set it for itself. */
static void test_d8_keeps_the_flag_of_others(void **state)
{
    struct shell *s = *state;
    struct raft_message m = vote_request(3);
    shell_follow(s, 2, 2);
    hear_leader(s);
    m.request_vote.disrupt_leader = true;
    rguard__cure_incoming(&s->rep, &m);
    assert_true(m.request_vote.disrupt_leader);
}

/* A large AppendEntries arrives in several frames, each with the whole commit index: what this one did
 * not bring is not committed by it, whatever an old leader has left behind here. */
static void test_commit_reaches_no_further_than_the_message(void **state)
{
    struct shell *s = *state;
    static const struct
    {
        uint64_t prev, commit, want;
        unsigned n;
    } cases[] = {{10, 9, 9, 3}, {10, 13, 13, 3}, {10, 400, 13, 3}, {10, 400, 10, 0}, {0, 5, 1, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES,
                                 .server_id = 2,
                                 .append_entries = {.term = 3,
                                                    .prev_log_index = cases[i].prev,
                                                    .leader_commit = cases[i].commit,
                                                    .n_entries = cases[i].n}};
        rguard__cure_incoming(&s->rep, &m);
        assert_int_equal(m.append_entries.leader_commit, cases[i].want);
    }
}

/* ---- D11: old entries committed by counting replicas ----------------------------------------- */

/* Leader of term 3 with 4 entries of term 2 and its barrier, index 5, not yet durable. */
static void lead_with_barrier(struct shell *s)
{
    for (int i = 0; i < 4; i++) {
        shell_append(s, 2, true);
    }
    shell_lead(s, 3);
    shell_append(s, 3, false);
    s->rep.cures.barrier_index = 5;
}

/* Whether libraft is shown what the peer acknowledged. Held back, it is shown the contact alone. */
static bool passes(struct shell *s, struct raft_message m)
{
    uint64_t acked = m.append_entries_result.last_log_index;
    rguard__cure_incoming(&s->rep, &m);
    assert_true(m.append_entries_result.last_log_index == acked ||
                m.append_entries_result.last_log_index == 0);
    return m.append_entries_result.last_log_index == acked;
}

static void test_d11_success_waits_for_the_barrier(void **state)
{
    struct shell *s = *state;
    lead_with_barrier(s);
    assert_false(passes(s, result_of(2, 3, 0, 4)));
    rguard__cure_settle(&s->rep);
    assert_int_equal(s->n_got, 0);
    s->raft.last_stored = 5;
    rguard__cure_settle(&s->rep);
    assert_int_equal(s->n_got, 1);
    assert_int_equal(s->got[0].type, RAFT_IO_APPEND_ENTRIES_RESULT);
    assert_int_equal(s->got[0].server_id, 2);
    assert_int_equal(s->got[0].append_entries_result.last_log_index, 4);
    assert_int_equal(s->rep.cures.n_held, 0);
    rguard__cure_settle(&s->rep);
    assert_int_equal(s->n_got, 1);                 /* once */
    assert_true(passes(s, result_of(3, 3, 0, 4))); /* from now on nothing waits */
}

static void test_d11_switched_off(void **state)
{
    struct shell *s = *state;
    lead_with_barrier(s);
    switch_off("d11");
    assert_true(passes(s, result_of(2, 3, 0, 4)));
    assert_int_equal(s->rep.cures.n_held, 0);
}

/* Before the barrier is even proposed its index is 0: that is no reason to let anything through. */
static void test_d11_before_the_barrier_exists(void **state)
{
    struct shell *s = *state;
    lead_with_barrier(s);
    s->rep.cures.barrier_index = 0;
    assert_false(passes(s, result_of(2, 3, 0, 4)));
    rguard__cure_settle(&s->rep);
    assert_int_equal(s->n_got, 0);
}

static void test_d11_rejections_and_other_terms_pass(void **state)
{
    struct shell *s = *state;
    lead_with_barrier(s);
    assert_true(passes(s, result_of(2, 3, 4, 2)));
    assert_true(passes(s, result_of(2, 2, 0, 4)));
    assert_true(passes(s, result_of(2, 9, 0, 4)));
    assert_int_equal(s->rep.cures.n_held, 0);
    shell_follow(s, 2, 3);
    assert_true(passes(s, result_of(2, 3, 0, 4)));
}

static void test_d11_latest_of_each_peer(void **state)
{
    struct shell *s = *state;
    lead_with_barrier(s);
    assert_false(passes(s, result_of(2, 3, 0, 2)));
    assert_false(passes(s, result_of(3, 3, 0, 1)));
    assert_false(passes(s, result_of(2, 3, 0, 4)));
    assert_false(passes(s, result_of(2, 3, 0, 3))); /* overtaken: results are cumulative */
    assert_int_equal(s->rep.cures.n_held, 2);
    s->raft.last_stored = 5;
    rguard__cure_settle(&s->rep);
    assert_int_equal(s->n_got, 2);
    for (unsigned i = 0; i < 2; i++) {
        const struct raft_message *m = &s->got[i];
        assert_int_equal(m->append_entries_result.last_log_index, m->server_id == 2 ? 4 : 1);
        assert_int_equal(m->append_entries_result.term, 3);
    }
    assert_int_not_equal(s->got[0].server_id, s->got[1].server_id);
}

static char seen_address[RGUARD_MAX_ADDRESS];

static void remember_address(struct raft_io *io, struct raft_message *m)
{
    strcpy(seen_address, m->server_address);
    shell_recv(io, m);
}

/* The address belongs to the channel's call and is gone when the message is delivered. */
static void test_d11_keeps_the_address(void **state)
{
    struct shell *s = *state;
    char address[] = "127.0.0.1:9002";
    lead_with_barrier(s);
    struct raft_message m = result_of(2, 3, 0, 4);
    m.server_address = address;
    assert_false(passes(s, m));
    memset(address, 'x', sizeof address - 1);
    s->raft.last_stored = 5;
    s->rep.recv_cb = remember_address;
    rguard__cure_settle(&s->rep);
    assert_string_equal(seen_address, "127.0.0.1:9002");
}

static void test_d11_lost_leadership_drops_them(void **state)
{
    struct shell *s = *state;
    lead_with_barrier(s);
    assert_false(passes(s, result_of(2, 3, 0, 4)));
    shell_follow(s, 3, 4);
    rguard__cure_settle(&s->rep);
    assert_int_equal(s->rep.cures.n_held, 0);
    assert_int_equal(s->rep.cures.barrier_index, 0);
    shell_lead(s, 5);
    s->rep.cures.barrier_index = 5;
    s->raft.last_stored = 5;
    rguard__cure_settle(&s->rep);
    assert_int_equal(s->n_got, 0);
}

static void test_d11_nothing_reaches_a_muted_node(void **state)
{
    struct shell *s = *state;
    lead_with_barrier(s);
    assert_false(passes(s, result_of(2, 3, 0, 4)));
    s->raft.last_stored = 5;
    s->rep.muted = true;
    rguard__cure_settle(&s->rep);
    assert_int_equal(s->n_got, 0);
}

/* More peers than there is room for, an address that is too long: as if the message had been lost,
 * the next heartbeat asks again. */
static void test_d11_no_room(void **state)
{
    struct shell *s = *state;
    char longer[RGUARD_MAX_ADDRESS + 8];
    lead_with_barrier(s);
    struct raft_message m = result_of(2, 3, 0, 4);
    memset(longer, '9', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    m.server_address = longer;
    assert_false(passes(s, m));
    assert_int_equal(s->rep.cures.n_held, 0);
    for (uint64_t id = 2; id < 2 + RGUARD_CHANNEL_MAX_PEERS + 2; id++) {
        assert_false(passes(s, result_of(id, 3, 0, 4)));
    }
    assert_int_equal(s->rep.cures.n_held, RGUARD_CHANNEL_MAX_PEERS);
}

/* ---- D13: acknowledging what was never matched ----------------------------------------------- */

static uint64_t sent_index(struct shell *s, raft_term term, raft_index last)
{
    struct raft_message m = result_of(2, term, 0, last);
    rguard__cure_outgoing(&s->rep, &m);
    return m.append_entries_result.last_log_index;
}

static void hear(struct shell *s, raft_term term, raft_index prev, raft_term prev_term, unsigned n)
{
    struct raft_message m = append_of(term, prev, prev_term, n);
    rguard__cure_incoming(&s->rep, &m);
}

/* Old leader with two common entries of term 1 and three of term 2 that nobody else has. */
static void leftovers(struct shell *s)
{
    for (int i = 0; i < 5; i++) {
        shell_append(s, i < 2 ? 1 : 2, true);
    }
    shell_follow(s, 2, 3);
}

static void test_d13_leftovers_are_not_acknowledged(void **state)
{
    struct shell *s = *state;
    leftovers(s);
    hear(s, 3, 2, 1, 0);
    assert_int_equal(sent_index(s, 3, 5), 2);
    switch_off("d13");
    assert_int_equal(sent_index(s, 3, 5), 5);
}

static void test_d13_what_matched_is(void **state)
{
    struct shell *s = *state;
    leftovers(s);
    hear(s, 3, 2, 1, 2);
    assert_int_equal(sent_index(s, 3, 4), 4);
    assert_int_equal(sent_index(s, 3, 3), 3); /* durable up to 3 only: never raised */
    hear(s, 3, 0, 0, 1);
    assert_int_equal(sent_index(s, 3, 4), 4); /* a repeated older message takes nothing back */
}

static void test_d13_mismatch_matches_nothing(void **state)
{
    struct shell *s = *state;
    leftovers(s);
    hear(s, 3, 4, 3, 2); /* index 4 has term 2 here */
    assert_int_equal(sent_index(s, 3, 5), 0);
    hear(s, 3, 9, 3, 0); /* no such index here */
    assert_int_equal(sent_index(s, 3, 5), 0);
}

/* What one leader matched is no evidence about the next one's log. */
static void test_d13_a_term_of_its_own(void **state)
{
    struct shell *s = *state;
    leftovers(s);
    hear(s, 3, 4, 2, 1);
    assert_int_equal(sent_index(s, 3, 5), 5);
    hear(s, 4, 1, 1, 0);
    assert_int_equal(sent_index(s, 4, 5), 1);
    assert_int_equal(sent_index(s, 3, 5), 0);
    s->raft.current_term = 4;
    hear(s, 3, 4, 2, 1); /* the old leader is not listened to */
    assert_int_equal(sent_index(s, 4, 5), 1);
}

static void test_d13_rejections_are_hints(void **state)
{
    struct shell *s = *state;
    leftovers(s);
    struct raft_message m = result_of(2, 3, 4, 5);
    rguard__cure_outgoing(&s->rep, &m);
    assert_int_equal(m.append_entries_result.last_log_index, 5);
    struct raft_message vote = vote_request(3);
    struct raft_message copy = vote;
    rguard__cure_outgoing(&s->rep, &vote);
    assert_memory_equal(&vote, &copy, sizeof vote);
}

static void test_d13_snapshot_matches(void **state)
{
    struct shell *s = *state;
    struct raft_message m = {.type = RAFT_IO_INSTALL_SNAPSHOT,
                             .install_snapshot = {.term = 3, .last_index = 9, .last_term = 2}};
    leftovers(s);
    rguard__cure_incoming(&s->rep, &m);
    assert_int_equal(sent_index(s, 3, 9), 9);
    assert_int_equal(sent_index(s, 3, 12), 9);
}

/* libraft keeps its own entry when it has one of a higher term there: nothing was matched. */
static void test_d13_snapshot_that_does_not_fit(void **state)
{
    struct shell *s = *state;
    struct raft_message m = {.type = RAFT_IO_INSTALL_SNAPSHOT,
                             .install_snapshot = {.term = 3, .last_index = 4, .last_term = 1}};
    leftovers(s);
    rguard__cure_incoming(&s->rep, &m);
    assert_int_equal(sent_index(s, 3, 5), 0);
}

/* ---- D1: stepping down before a failed append is reported ------------------------------------ */

static void test_d1_step_down(void **state)
{
    struct shell *s = *state;
    shell_lead(s, 7);
    rguard__step_down(&s->rep);
    assert_int_equal(s->n_got, 1);
    assert_int_equal(s->got[0].type, RAFT_IO_APPEND_ENTRIES_RESULT);
    assert_int_equal(s->got[0].append_entries_result.term, 8);
    assert_int_equal(s->got[0].append_entries_result.rejected, 0);
    assert_int_equal(s->got[0].append_entries_result.last_log_index, 0);
}

static void test_d1_nobody_else_steps_down(void **state)
{
    struct shell *s = *state;
    static const unsigned short others[] = {RAFT_FOLLOWER, RAFT_CANDIDATE, RAFT_UNAVAILABLE};
    for (int i = 0; i < 3; i++) {
        s->raft.state = others[i];
        rguard__step_down(&s->rep);
        assert_int_equal(s->n_got, 0);
    }
}

int main(void)
{
#define CURE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CURE_TEST(test_d8_after_an_election_timeout),
        CURE_TEST(test_d8_snapshot_is_a_sign_of_life),
        CURE_TEST(test_d8_stale_leader_is_no_sign_of_life),
        CURE_TEST(test_d8_followers_only),
        CURE_TEST(test_d8_keeps_the_flag_of_others),
        CURE_TEST(test_commit_reaches_no_further_than_the_message),
        CURE_TEST(test_d11_success_waits_for_the_barrier),
        CURE_TEST(test_d11_switched_off),
        CURE_TEST(test_d11_before_the_barrier_exists),
        CURE_TEST(test_d11_rejections_and_other_terms_pass),
        CURE_TEST(test_d11_latest_of_each_peer),
        CURE_TEST(test_d11_keeps_the_address),
        CURE_TEST(test_d11_lost_leadership_drops_them),
        CURE_TEST(test_d11_nothing_reaches_a_muted_node),
        CURE_TEST(test_d11_no_room),
        CURE_TEST(test_d13_leftovers_are_not_acknowledged),
        CURE_TEST(test_d13_what_matched_is),
        CURE_TEST(test_d13_mismatch_matches_nothing),
        CURE_TEST(test_d13_a_term_of_its_own),
        CURE_TEST(test_d13_rejections_are_hints),
        CURE_TEST(test_d13_snapshot_matches),
        CURE_TEST(test_d13_snapshot_that_does_not_fit),
        CURE_TEST(test_d1_step_down),
        CURE_TEST(test_d1_nobody_else_steps_down),
    };
    return cmocka_run_group_tests_name("cures", tests, NULL, NULL);
}
