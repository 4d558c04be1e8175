/* SPDX-License-Identifier: Apache-2.0 */
/* Probation: which answers end it, which do not, and that a disagreement ends the process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "shell.h"

#include <cmocka.h>

static uint64_t any_digest(void *user)
{
    (void)user;
    return 0;
}

static uint64_t digest_of(uint64_t index)
{
    return index * 0x9e3779b97f4a7c15u;
}

static void applied(struct shell *s, uint64_t index, bool command)
{
    s->raft.last_applied = index;
    if (command) {
        s->rep.digests[index % RGUARD_DIGEST_RING] =
            (struct rguard_digest_at){index, digest_of(index)};
    }
}

/* A replica of @n that has applied ten commands and was just rolled back. */
static void on_probation(struct shell *s, unsigned n)
{
    shell_init(s, 1, n);
    s->rep.digests = calloc(RGUARD_DIGEST_RING, sizeof *s->rep.digests);
    s->rep.engine.digest = any_digest;
    for (uint64_t i = 1; i <= 10; i++) {
        applied(s, i, true);
    }
    shell_follow(s, n > 1 ? 2 : 1, 2);
    s->rep.ladder = RGUARD_LADDER_PROBATION;
    rguard__probation_begin(&s->rep);
}

static void answer_from(struct shell *s, uint64_t peer, uint64_t index, uint64_t digest,
                        uint64_t known)
{
    uint8_t body[24];
    rguard__put64(rguard__put64(rguard__put64(body, index), digest), known);
    rguard__probation_frame(&s->rep, peer, RGUARD_FRAME_DIGEST, body, sizeof body);
}

static bool over(const struct shell *s)
{
    return s->rep.ladder == RGUARD_LADDER_SERVING;
}

static void test_asks_everybody_from_the_loop(void **state)
{
    struct shell s;
    (void)state;
    on_probation(&s, 3);
    assert_int_equal(s.net.n_frames, 0); /* begin is called inside libraft */
    assert_true(s.net.armed[RGUARD_TIMER_PROBE]);
    assert_int_equal(s.net.due_ms[RGUARD_TIMER_PROBE], s.net.now_ms);
    rguard__probation_ask(&s.rep);
    assert_int_equal(s.net.n_frames, 2);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(s.net.frames[i].to, 2 + i);
        assert_int_equal(s.net.frames[i].type, RGUARD_FRAME_DIGEST_ASK);
        assert_int_equal(s.net.frames[i].len, 8);
        assert_int_equal(rguard__get64(s.net.frames[i].body), 10);
    }
    assert_int_equal(s.net.due_ms[RGUARD_TIMER_PROBE], s.net.now_ms + s.rep.opt.heartbeat_ms);
    shell_fini(&s);
}

static void test_one_of_three_is_enough(void **state)
{
    struct shell s;
    (void)state;
    on_probation(&s, 3);
    rguard__probation_ask(&s.rep);
    answer_from(&s, 3, 10, digest_of(10), 1);
    assert_true(over(&s));
    assert_false(s.net.armed[RGUARD_TIMER_PROBE]);
    shell_fini(&s);
}

static void test_two_of_five(void **state)
{
    struct shell s;
    (void)state;
    on_probation(&s, 5);
    rguard__probation_ask(&s.rep);
    assert_int_equal(s.net.n_frames, 4);
    answer_from(&s, 3, 10, digest_of(10), 1);
    assert_false(over(&s));
    for (int i = 0; i < 5; i++) {
        answer_from(&s, 3, 10, digest_of(10), 1); /* one peer is one voice */
    }
    assert_false(over(&s));
    answer_from(&s, 5, 10, digest_of(10), 1);
    assert_true(over(&s));
    shell_fini(&s);
}

static void test_alone(void **state)
{
    struct shell s;
    (void)state;
    on_probation(&s, 1);
    rguard__probation_ask(&s.rep);
    assert_true(over(&s));
    assert_int_equal(s.net.n_frames, 0);
    shell_fini(&s);
}

/* Not known, another index, a shape that is wrong: none of it counts, for or against. */
static void test_what_does_not_count(void **state)
{
    struct shell s;
    uint8_t body[64] = {0};
    (void)state;
    on_probation(&s, 3);
    rguard__probation_ask(&s.rep);
    answer_from(&s, 2, 10, digest_of(10), 0);
    answer_from(&s, 2, 10, 0, 0);
    answer_from(&s, 2, 10, digest_of(10), 2);
    answer_from(&s, 2, 9, digest_of(9), 1);
    answer_from(&s, 2, 11, digest_of(11), 1);
    answer_from(&s, 2, 11, 1, 1);
    rguard__put64(rguard__put64(rguard__put64(body, 10), digest_of(10)), 1);
    for (size_t len = 0; len < sizeof body; len++) {
        if (len != 24) {
            rguard__probation_frame(&s.rep, 2, RGUARD_FRAME_DIGEST, body, len);
        }
        if (len != 8) {
            rguard__probation_frame(&s.rep, 2, RGUARD_FRAME_DIGEST_ASK, body, len);
        }
    }
    assert_false(over(&s));
    assert_int_equal(s.net.n_frames, 2); /* the two questions, no answer to nonsense */
    answer_from(&s, 2, 10, digest_of(10), 1);
    assert_true(over(&s));
    shell_fini(&s);
}

static void disagree(void *user)
{
    struct shell *s = user;
    answer_from(s, 2, 10, digest_of(10) ^ 1, 1);
}

static void test_disagreement_ends_the_process(void **state)
{
    struct shell s;
    char text[1024];
    (void)state;
    on_probation(&s, 5);
    rguard__probation_ask(&s.rep);
    answer_from(&s, 3, 10, digest_of(10), 1);
    assert_true(died_of(forked(disagree, &s, text, sizeof text), SIGABRT));
    assert_non_null(strstr(text, "diverged"));
    assert_non_null(strstr(text, "the process ends"));
    shell_fini(&s);
}

static void test_disagreement_outside_probation_is_somebody_elses(void **state)
{
    struct shell s;
    (void)state;
    on_probation(&s, 3);
    rguard__probation_ask(&s.rep);
    answer_from(&s, 2, 10, digest_of(10), 1);
    assert_true(over(&s));
    answer_from(&s, 3, 10, digest_of(10) ^ 1, 1); /* late; its own probation will tell it */
    assert_true(over(&s));
    shell_fini(&s);
}

static uint64_t asked_about(struct shell *s)
{
    fake_channel_drain(&s->net, 0);
    rguard__probation_ask(&s->rep);
    assert_true(s->net.n_frames > 0);
    return rguard__get64(s->net.frames[0].body);
}

/* The same index again and again, until nobody can be expected to remember it. */
static void test_index_is_chosen_again(void **state)
{
    struct shell s;
    (void)state;
    on_probation(&s, 5);
    assert_int_equal(asked_about(&s), 10);
    answer_from(&s, 2, 10, digest_of(10), 1);
    uint64_t last = 10 + RGUARD_DIGEST_RING / 2;
    for (uint64_t i = 11; i < last; i++) {
        applied(&s, i, true);
    }
    assert_int_equal(asked_about(&s), 10);
    applied(&s, last, true);
    assert_int_equal(asked_about(&s), last);
    /* What was agreed on before is no evidence about the new index. */
    answer_from(&s, 3, last, digest_of(last), 1);
    assert_false(over(&s));
    answer_from(&s, 2, 10, digest_of(10), 1);
    assert_false(over(&s));
    answer_from(&s, 2, last, digest_of(last), 1);
    assert_true(over(&s));
    shell_fini(&s);
}

/* Barriers and configurations have no digest: the command before them is asked about. */
static void test_last_entry_was_no_command(void **state)
{
    struct shell s;
    (void)state;
    on_probation(&s, 3);
    applied(&s, 11, false);
    applied(&s, 12, false);
    assert_int_equal(asked_about(&s), 10);
    shell_fini(&s);
}

static void test_without_a_digest(void **state)
{
    struct shell s;
    (void)state;
    on_probation(&s, 3);
    s.rep.engine.digest = NULL;
    rguard__probation_ask(&s.rep);
    assert_true(over(&s));
    assert_non_null(strstr(s.log, "without a comparison"));
    shell_fini(&s);
}

static void test_stays_silent_when_not_asked_for(void **state)
{
    struct shell s;
    (void)state;
    on_probation(&s, 3);
    s.rep.ladder = RGUARD_LADDER_SERVING;
    rguard__probation_ask(&s.rep); /* a timer that was late */
    s.rep.ladder = RGUARD_LADDER_PROBATION;
    s.rep.closing = true;
    rguard__probation_ask(&s.rep);
    assert_int_equal(s.net.n_frames, 0);
    shell_fini(&s);
}

/* ---- the side that is asked ------------------------------------------------------------------ */

static const struct fake_frame *reply(struct shell *s, uint64_t index)
{
    uint8_t body[8];
    fake_channel_drain(&s->net, 0);
    rguard__put64(body, index);
    rguard__probation_frame(&s->rep, 3, RGUARD_FRAME_DIGEST_ASK, body, sizeof body);
    assert_int_equal(s->net.n_frames, 1);
    assert_int_equal(s->net.frames[0].to, 3);
    assert_int_equal(s->net.frames[0].type, RGUARD_FRAME_DIGEST);
    assert_int_equal(s->net.frames[0].len, 24);
    assert_int_equal(rguard__get64(s->net.frames[0].body), index);
    return &s->net.frames[0];
}

static void assert_reply(struct shell *s, uint64_t index, bool known)
{
    const struct fake_frame *f = reply(s, index);
    assert_int_equal(rguard__get64(f->body + 16), known);
    assert_int_equal(rguard__get64(f->body + 8), known ? digest_of(index) : 0);
}

static void ask(struct shell *s, uint64_t peer, uint64_t index)
{
    uint8_t body[8];
    rguard__put64(body, index);
    rguard__probation_frame(&s->rep, peer, RGUARD_FRAME_DIGEST_ASK, body, sizeof body);
}

/* What is not applied yet is answered when it is; only the last question of a peer counts. */
static void test_answers_later_what_it_does_not_know_yet(void **state)
{
    struct shell s;
    (void)state;
    on_probation(&s, 3);
    s.rep.ladder = RGUARD_LADDER_SERVING;
    fake_channel_drain(&s.net, 0);
    ask(&s, 3, UINT64_MAX);
    ask(&s, 3, 12);
    ask(&s, 2, 11);
    rguard__probation_settle(&s.rep);
    assert_int_equal(s.net.n_frames, 0);
    s.raft.last_applied = 11;
    s.rep.digests[11 % RGUARD_DIGEST_RING] = (struct rguard_digest_at){11, digest_of(11)};
    rguard__probation_settle(&s.rep);
    assert_int_equal(s.net.n_frames, 1);
    assert_int_equal(s.net.frames[0].to, 2);
    assert_int_equal(rguard__get64(s.net.frames[0].body + 8), digest_of(11));
    s.raft.last_applied = 12; /* a barrier: it has no digest */
    rguard__probation_settle(&s.rep);
    rguard__probation_settle(&s.rep);
    assert_int_equal(s.net.n_frames, 2);
    assert_int_equal(s.net.frames[1].to, 3);
    assert_int_equal(rguard__get64(s.net.frames[1].body + 16), 0);
    shell_fini(&s);
}

static void test_answers_what_it_knows(void **state)
{
    struct shell s;
    (void)state;
    on_probation(&s, 3);
    s.rep.ladder = RGUARD_LADDER_SERVING;
    assert_reply(&s, 10, true);
    assert_reply(&s, 1, true);
    assert_reply(&s, 0, false);
    s.rep.ladder = RGUARD_LADDER_PROBATION; /* testifies too */
    assert_reply(&s, 10, true);
    s.rep.muted = true; /* says nothing at all */
    fake_channel_drain(&s.net, 0);
    ask(&s, 3, 10);
    assert_int_equal(s.net.n_frames, 0);
    shell_fini(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_asks_everybody_from_the_loop),
        cmocka_unit_test(test_one_of_three_is_enough),
        cmocka_unit_test(test_two_of_five),
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_what_does_not_count),
        cmocka_unit_test(test_disagreement_ends_the_process),
        cmocka_unit_test(test_disagreement_outside_probation_is_somebody_elses),
        cmocka_unit_test(test_index_is_chosen_again),
        cmocka_unit_test(test_last_entry_was_no_command),
        cmocka_unit_test(test_without_a_digest),
        cmocka_unit_test(test_stays_silent_when_not_asked_for),
        cmocka_unit_test(test_answers_what_it_knows),
        cmocka_unit_test(test_answers_later_what_it_does_not_know_yet),
    };
    return cmocka_run_group_tests_name("probation", tests, NULL, NULL);
}
