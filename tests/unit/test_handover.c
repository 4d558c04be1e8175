/* SPDX-License-Identifier: Apache-2.0 */
/* Handover: the notice of a dying leader, over real datagrams, and what a follower makes of it.
 *
 * Leader is node 1 in term 7, followers are 2 and 3. What the leader sent is read from the socket
 * at the peer's end and given to a follower's shell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>

#include "shell.h"

#include <cmocka.h>

#define TERM      7u
#define HEAD      40u /* bytes of a notice before its hints */
#define PAGE_USED 128u

struct pair
{
    struct shell leader, follower; /* 1, and 2 unless a test says otherwise */
    uint8_t notice[1024];
    size_t len;
};

static int setup(void **state)
{
    struct pair *p = calloc(1, sizeof *p);
    shell_init(&p->leader, 1, 3);
    shell_init(&p->follower, 2, 3);
    for (int i = 0; i < 3; i++) {
        shell_append(&p->follower, TERM - 1, true);
    }
    shell_follow(&p->follower, 1, TERM);
    shell_lead(&p->leader, TERM);
    *state = p;
    if (rguard__handover_open(&p->leader.rep) != 0 ||
        rguard__handover_open(&p->follower.rep) != 0) {
        return -1;
    }
    rguard__handover_lead(&p->leader.rep);
    return 0;
}

static int teardown(void **state)
{
    struct pair *p = *state;
    switch_on();
    shell_fini(&p->leader);
    shell_fini(&p->follower);
    free(p);
    return 0;
}

static unsigned datagrams(struct shell *s, uint64_t id)
{
    uint8_t drop[1024];
    unsigned n = 0;
    while (fake_channel_datagram(&s->net, id, drop, sizeof drop) > 0) {
        n++;
    }
    return n;
}

/* A notice of the leader, as it arrived at node @to. */
static void take_notice(struct pair *p, uint64_t to)
{
    assert_int_equal(rguard__gasp(&p->leader.rep), 2);
    p->len = fake_channel_datagram(&p->leader.net, to, p->notice, sizeof p->notice);
    assert_int_equal(p->len, HEAD + 2 * 16);
}

static void deliver(struct pair *p)
{
    rguard__handover_notice(&p->follower.rep, p->notice, p->len);
}

/* Polls as settling does, and says whether the follower now campaigns. */
static bool campaigns(struct shell *s)
{
    unsigned before = s->n_got;
    rguard__handover_poll(&s->rep);
    return s->n_got > before;
}

/* ---- the dying side -------------------------------------------------------------------------- */

static void test_notice_reaches_everybody_twice(void **state)
{
    struct pair *p = *state;
    assert_int_equal(rguard__gasp(&p->leader.rep), 2);
    assert_int_equal(datagrams(&p->leader, 2), 2);
    assert_int_equal(datagrams(&p->leader, 3), 2);
    assert_int_equal(p->leader.rep.notices_sent, 1);
}

static void test_once_a_term(void **state)
{
    struct pair *p = *state;
    assert_int_equal(rguard__gasp(&p->leader.rep), 2);
    assert_int_equal(rguard__gasp(&p->leader.rep), 0);
    assert_int_equal(datagrams(&p->leader, 2), 2);
    shell_lead(&p->leader, TERM + 1);
    rguard__handover_lead(&p->leader.rep);
    assert_int_equal(rguard__gasp(&p->leader.rep), 2);
    assert_int_equal(datagrams(&p->leader, 2), 2);
    assert_int_equal(p->leader.rep.notices_sent, 2);
}

static void test_only_a_leader_gasps(void **state)
{
    struct pair *p = *state;
    assert_int_equal(rguard__gasp(&p->follower.rep), 0);
    rguard__handover_follow(&p->leader.rep);
    assert_int_equal(rguard__gasp(&p->leader.rep), 0);
    assert_int_equal(datagrams(&p->leader, 2), 0);
}

static void test_told_to_tell_nobody(void **state)
{
    struct pair *p = *state;
    p->leader.rep.opt.no_notice = true;
    assert_int_equal(rguard__gasp(&p->leader.rep), 0);
    p->leader.rep.opt.no_notice = false;
    switch_off("gasp");
    assert_int_equal(rguard__gasp(&p->leader.rep), 0);
    switch_on();
    assert_int_equal(datagrams(&p->leader, 2), 0);
    assert_int_equal(rguard__gasp(&p->leader.rep), 2);
}

/* Standby nodes and nodes without a socket get none; the count says so. */
static void test_voters_only(void **state)
{
    struct pair *p = *state;
    p->leader.servers[2].role = RAFT_STANDBY;
    rguard__handover_lead(&p->leader.rep);
    assert_int_equal(rguard__gasp(&p->leader.rep), 1);
    assert_int_equal(datagrams(&p->leader, 3), 0);
}

/* The first members of struct rguard_gasp. */
static uint8_t *gasp_page(struct shell *s)
{
    return *(uint8_t **)(void *)s->rep.handover.gasp;
}

static void scribble(void *user)
{
    *(volatile uint8_t *)user = 1;
}

static void test_page_is_read_only(void **state)
{
    struct pair *p = *state;
    char text[256];
    int status = forked(scribble, gasp_page(&p->leader), text, sizeof text);
    assert_true(died_of(status, SIGSEGV));
}

/* Damage that gets past the mapping: no bit of the page may be wrong. */
static void test_scribbled_page_sends_nothing(void **state)
{
    struct pair *p = *state;
    uint8_t *page = gasp_page(&p->leader);
    assert_int_equal(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
    for (unsigned bit = 0; bit < PAGE_USED * 8; bit++) {
        page[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        assert_int_equal(rguard__gasp(&p->leader.rep), 0);
        page[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    assert_int_equal(datagrams(&p->leader, 2) + datagrams(&p->leader, 3), 0);
    assert_int_equal(rguard__gasp(&p->leader.rep), 2);
}

/* ---- through the real trap ------------------------------------------------------------------- */

struct death
{
    struct pair *p;
    int how;
    const char *off;
};

static void die_in_child(void *user)
{
    struct death *d = user;
    if (d->off != NULL) {
        switch_off(d->off);
    }
    if (rguard_guard_init(NULL) != 0) {
        _exit(77);
    }
    switch (d->how) {
        case SIGSEGV:
            scribble(gasp_page(&d->p->leader));
            break;
        case SIGILL:
            __builtin_trap();
        case SIGABRT:
            abort();
        default:
            raise(d->how);
            break;
    }
}

/* The child shares the sockets: what it sends arrives here. */
static void test_every_death_tells(void **state)
{
    struct pair *p = *state;
    static const int how[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGKILL};
    char text[4096];
    for (size_t i = 0; i < sizeof how / sizeof how[0]; i++) {
        struct death d = {p, how[i], NULL};
        int status = forked(die_in_child, &d, text, sizeof text);
        if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
            skip(); /* another runtime keeps the signals */
        }
        assert_true(died_of(status, how[i]));
        unsigned heard = datagrams(&p->leader, 2);
        assert_int_equal(heard, how[i] == SIGKILL ? 0 : 2); /* rguard-watch is for that */
        d.off = "gasp";
        (void)forked(die_in_child, &d, text, sizeof text);
        assert_int_equal(datagrams(&p->leader, 2), 0);
        datagrams(&p->leader, 3);
    }
}

/* ---- the following side ---------------------------------------------------------------------- */

static void test_first_rank_campaigns_at_once(void **state)
{
    struct pair *p = *state;
    take_notice(p, 2);
    deliver(p);
    assert_int_equal(p->follower.rep.notices_received, 1);
    assert_true(campaigns(&p->follower));
    const struct raft_message *m = &p->follower.got[0];
    assert_int_equal(m->type, RAFT_IO_TIMEOUT_NOW);
    assert_int_equal(m->server_id, 1);
    assert_int_equal(m->timeout_now.term, TERM);
    assert_int_equal(m->timeout_now.last_log_index, 3);
    assert_int_equal(m->timeout_now.last_log_term, TERM - 1);
    assert_true(p->follower.rep.handover.campaigning);
    assert_int_equal(p->follower.rep.elections_by_notice, 1);
    assert_false(campaigns(&p->follower)); /* once */
}

static void test_duplicates_are_ignored(void **state)
{
    struct pair *p = *state;
    take_notice(p, 2);
    for (int i = 0; i < 3; i++) {
        deliver(p);
    }
    assert_int_equal(p->follower.rep.notices_received, 1);
    assert_true(campaigns(&p->follower));
    deliver(p); /* a late copy starts nothing again */
    assert_false(campaigns(&p->follower));
    assert_int_equal(p->follower.rep.notices_received, 1);
}

static uint64_t wait_of(struct pair *p, uint64_t id)
{
    shell_fini(&p->follower);
    shell_init(&p->follower, id, 3);
    shell_follow(&p->follower, 1, TERM);
    assert_int_equal(rguard__handover_open(&p->follower.rep), 0);
    deliver(p);
    assert_true(p->follower.rep.handover.wanted);
    return p->follower.rep.handover.wanted_at_ms - p->follower.net.now_ms;
}

/* Whoever acknowledged more goes first; of equals, the lower id. */
static void test_ranks(void **state)
{
    struct pair *p = *state;
    take_notice(p, 2);
    assert_int_equal(wait_of(p, 2), 0);
    uint64_t step = wait_of(p, 3);
    assert_true(step > 0);
    shell_lead(&p->leader, TERM);
    rguard__handover_close(&p->leader.rep);
    assert_int_equal(rguard__handover_open(&p->leader.rep), 0);
    rguard__handover_lead(&p->leader.rep);
    rguard__handover_acked(&p->leader.rep, 2, 40);
    rguard__handover_acked(&p->leader.rep, 3, 41);
    rguard__handover_acked(&p->leader.rep, 3, 12); /* never backwards */
    rguard__handover_acked(&p->leader.rep, 9, 99); /* nobody */
    datagrams(&p->leader, 2);
    take_notice(p, 2);
    assert_int_equal(wait_of(p, 3), 0);
    assert_int_equal(wait_of(p, 2), step);
}

static void test_rank_waits_its_turn(void **state)
{
    struct pair *p = *state;
    take_notice(p, 3);
    uint64_t step = wait_of(p, 3);
    struct shell *s = &p->follower;
    assert_false(campaigns(s));
    assert_true(s->net.armed[RGUARD_TIMER_HANDOVER]);
    assert_int_equal(s->net.due_ms[RGUARD_TIMER_HANDOVER], s->net.now_ms + step);
    s->net.now_ms += step - 1;
    assert_false(campaigns(s));
    s->net.now_ms += 1;
    assert_true(campaigns(s));
}

/* Nonsense in the hints can cost time, never more. */
static void test_hints_are_only_hints(void **state)
{
    struct pair *p = *state;
    take_notice(p, 2);
    uint8_t intact[sizeof p->notice];
    memcpy(intact, p->notice, p->len);
    for (size_t bit = HEAD * 8; bit < p->len * 8; bit++) {
        memcpy(p->notice, intact, p->len);
        p->notice[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        uint64_t wait = wait_of(p, 2);
        assert_in_range(wait, 0, 2 * 8);
        p->follower.net.now_ms += wait;
        assert_true(campaigns(&p->follower));
    }
}

static void test_waits_for_its_own_disk(void **state)
{
    struct pair *p = *state;
    take_notice(p, 2);
    p->follower.rep.appends_in_flight = 1;
    deliver(p);
    assert_false(campaigns(&p->follower));
    p->follower.net.now_ms += 20;
    assert_false(campaigns(&p->follower));
    p->follower.rep.appends_in_flight = 0; /* the completion is a turn, and polls */
    assert_true(campaigns(&p->follower));
}

static void test_gives_up_after_an_election_timeout(void **state)
{
    struct pair *p = *state;
    take_notice(p, 2);
    p->follower.rep.appends_in_flight = 1;
    deliver(p);
    p->follower.net.now_ms += SHELL_ELECTION + 1;
    p->follower.rep.appends_in_flight = 0;
    assert_false(campaigns(&p->follower));
    assert_false(p->follower.rep.handover.wanted);
}

/* Between the notice and the own turn: somebody else led, asked, or this node is hurt itself. */
static void test_what_calls_it_off(void **state)
{
    struct pair *p = *state;
    struct shell *s = &p->follower;
    take_notice(p, 3);
    for (int what = 0; what < 7; what++) {
        s->net.now_ms += wait_of(p, 3);
        switch (what) {
            case 0:
                shell_follow(s, 2, TERM + 1);
                break;
            case 1:
                s->raft.voted_for = 2;
                break;
            case 2:
                s->raft.state = RAFT_CANDIDATE;
                break;
            case 3:
                s->rep.ladder = RGUARD_LADDER_PROBATION;
                break;
            case 4:
                s->rep.closing = true;
                break;
            case 5:
                s->raft.follower_state.current_leader.id = 0;
                break;
            default:
                s->raft.voted_for = 1; /* for that leader: no obstacle */
                break;
        }
        assert_int_equal(campaigns(s), what == 6);
        assert_false(s->rep.handover.wanted);
    }
}

/* ---- notices that are none ------------------------------------------------------------------- */

static void test_not_from_my_leader(void **state)
{
    struct pair *p = *state;
    struct shell *s = &p->follower;
    take_notice(p, 2);
    shell_follow(s, 3, TERM); /* 3 leads, 1 claims to */
    deliver(p);
    shell_follow(s, 1, TERM + 1);
    deliver(p);
    shell_follow(s, 1, TERM - 1);
    deliver(p);
    s->raft.state = RAFT_CANDIDATE;
    deliver(p);
    s->raft.state = RAFT_LEADER;
    deliver(p);
    shell_follow(s, 1, TERM);
    s->raft.voted_for = 3;
    deliver(p);
    s->raft.voted_for = 0;
    s->rep.started = false;
    deliver(p);
    s->rep.started = true;
    assert_int_equal(s->rep.notices_received, 0);
    deliver(p);
    assert_int_equal(s->rep.notices_received, 1);
}

/* A former life of the leader, or a peer that is not connected. */
static void test_wrong_nonce(void **state)
{
    struct pair *p = *state;
    struct shell *s = &p->follower;
    take_notice(p, 2);
    s->net.peers[0].nonce = SHELL_NONCE(1) + 1;
    deliver(p);
    s->net.peers[0].nonce = 0;
    deliver(p);
    assert_int_equal(s->rep.notices_received, 0);
    /* A notice that carries nonce 0 does not match the absence of a connection. */
    shell_lead(&p->leader, TERM);
    p->leader.rep.nonce = 0;
    rguard__handover_close(&p->leader.rep);
    assert_int_equal(rguard__handover_open(&p->leader.rep), 0);
    rguard__handover_lead(&p->leader.rep);
    datagrams(&p->leader, 2);
    take_notice(p, 2);
    deliver(p);
    assert_int_equal(s->rep.notices_received, 0);
}

static void test_truncated_and_longer(void **state)
{
    struct pair *p = *state;
    take_notice(p, 2);
    size_t len = p->len;
    for (p->len = 0; p->len < sizeof p->notice; p->len++) {
        if (p->len != len) {
            deliver(p);
        }
    }
    assert_int_equal(p->follower.rep.notices_received, 0);
    p->len = len;
    deliver(p);
    assert_int_equal(p->follower.rep.notices_received, 1);
}

static void test_every_bit_of_the_head(void **state)
{
    struct pair *p = *state;
    take_notice(p, 2);
    for (unsigned bit = 0; bit < HEAD * 8; bit++) {
        p->notice[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        deliver(p);
        p->notice[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    }
    assert_int_equal(p->follower.rep.notices_received, 0);
}

/* Garbage of any length, a quarter of it behind a magic word and version that are right. */
static void test_garbage(void **state)
{
    struct pair *p = *state;
    uint64_t rng = 7;
    take_notice(p, 2);
    uint8_t head[8];
    memcpy(head, p->notice, sizeof head);
    for (int i = 0; i < 100000; i++) {
        p->len = draw(&rng) % 400;
        for (size_t k = 0; k < p->len; k++) {
            p->notice[k] = (uint8_t)draw(&rng);
        }
        if (i % 4 == 0) {
            memcpy(p->notice, head, sizeof head);
            rguard__put32(p->notice + 12, (uint32_t)(draw(&rng) % 20));
        }
        deliver(p);
    }
    assert_int_equal(p->follower.rep.notices_received, 0);
    assert_false(p->follower.rep.handover.wanted);
}

/* A head that is intact, with more hints than there can be, and as many as it says. */
static void test_too_many_hints(void **state)
{
    struct pair *p = *state;
    take_notice(p, 2);
    for (uint32_t n = 0; HEAD + n * 16 <= sizeof p->notice; n++) {
        rguard__put32(p->notice + 12, n);
        memset(p->notice + HEAD, 0xff, sizeof p->notice - HEAD);
        p->len = HEAD + n * 16;
        uint64_t before = p->follower.rep.notices_received;
        p->follower.rep.handover.wanted_term = 0;
        deliver(p);
        assert_int_equal(p->follower.rep.notices_received - before, n <= RGUARD_CHANNEL_MAX_PEERS);
    }
}

int main(void)
{
#define HANDOVER_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        HANDOVER_TEST(test_notice_reaches_everybody_twice),
        HANDOVER_TEST(test_once_a_term),
        HANDOVER_TEST(test_only_a_leader_gasps),
        HANDOVER_TEST(test_told_to_tell_nobody),
        HANDOVER_TEST(test_voters_only),
        HANDOVER_TEST(test_page_is_read_only),
        HANDOVER_TEST(test_scribbled_page_sends_nothing),
        HANDOVER_TEST(test_every_death_tells),
        HANDOVER_TEST(test_first_rank_campaigns_at_once),
        HANDOVER_TEST(test_duplicates_are_ignored),
        HANDOVER_TEST(test_ranks),
        HANDOVER_TEST(test_rank_waits_its_turn),
        HANDOVER_TEST(test_hints_are_only_hints),
        HANDOVER_TEST(test_waits_for_its_own_disk),
        HANDOVER_TEST(test_gives_up_after_an_election_timeout),
        HANDOVER_TEST(test_what_calls_it_off),
        HANDOVER_TEST(test_not_from_my_leader),
        HANDOVER_TEST(test_wrong_nonce),
        HANDOVER_TEST(test_truncated_and_longer),
        HANDOVER_TEST(test_every_bit_of_the_head),
        HANDOVER_TEST(test_garbage),
        HANDOVER_TEST(test_too_many_hints),
    };
    return cmocka_run_group_tests_name("handover", tests, NULL, NULL);
}
