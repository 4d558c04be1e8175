/* SPDX-License-Identifier: Apache-2.0 */
/* Each defect of libraft 0.15 that raftlog takes away is made to happen on bare libraft, on the
 * fixture that comes with it (virtual time, memory for a disk), and then, on the very same
 * schedule, with our cure between libraft and the fixture:
 *
 *     libraft  <->  [wrapped send, append, recv: rguard__cure_*()]  <->  fixture's raft_io
 *
 * What must hold is the same every time: the commands applied by any two servers are the beginning
 * of one history, and what a client was told is done is in it. On the bare side that must fail: if
 * it no longer does, the cure has lost its reason. Logs are short, because the fixture copies all
 * of them at every step. */
#include <raft/fixture.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "shell.h"

#include <cmocka.h>

#define SERVERS  3
#define COMMANDS 32
#define ELECTION 1000u
#define FOREVER  1000000u

/* 0: bare libraft. Otherwise every message goes through our cures, and those that are not among the
 * bits are switched off in them; ours without a bit is OURS. D11 needs a barrier in each new term. */
enum { OURS = 1, CURE_D8 = 2, BARRIER = 4, CURE_D11 = 8 | BARRIER, CURE_D13 = 16 };
#define ALL_CURES (CURE_D8 | CURE_D11 | CURE_D13)

struct server
{
    struct raft *raft;
    struct raft_io *io;
    struct raft_io stock; /* the fixture's methods */
    struct raft_fsm fsm;
    raft_io_recv_cb recv;
    struct rguard_replica rep;
    uint64_t applied[COMMANDS];
    unsigned n_applied;
    /* what our observer in replica.c keeps */
    int seen_role;
    uint64_t seen_term;
    struct raft_barrier barriers[16];
    unsigned n_barriers;
    /* faults */
    bool hold_append;
    struct raft_io_append *held_req;
    raft_io_append_cb held_cb;
    unsigned max_entries; /* of an AppendEntries that leaves, 0 = all: the next frame is lost */
};

struct command
{
    struct raft_apply req;
    uint64_t value;
    int status; /* -1: not answered */
};

static struct world
{
    struct raft_fixture f;
    struct server servers[SERVERS];
    struct command commands[COMMANDS];
    unsigned n_commands;
    unsigned cures;
    struct rguard_channel channel; /* a clock: the fixture's */
} w;

/* ---- between libraft and the fixture --------------------------------------------------------- */

static struct server *server_of(struct raft_io *io)
{
    for (unsigned i = 0; i < SERVERS; i++) {
        if (w.servers[i].io == io) {
            return &w.servers[i];
        }
    }
    abort();
}

static void wrapped_recv(struct raft_io *io, struct raft_message *m)
{
    struct server *s = server_of(io);
    if (w.cures != 0) {
        rguard__cure_incoming(&s->rep, m);
    }
    s->recv(io, m);
}

static int wrapped_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick,
                         raft_io_recv_cb recv)
{
    struct server *s = server_of(io);
    s->recv = recv;
    s->rep.recv_cb = recv;
    return s->stock.start(io, msecs, tick, wrapped_recv);
}

static int wrapped_send(struct raft_io *io, struct raft_io_send *req,
                        const struct raft_message *message, raft_io_send_cb cb)
{
    struct server *s = server_of(io);
    struct raft_message m = *message;
    if (w.cures != 0) {
        rguard__cure_outgoing(&s->rep, &m);
    }
    if (m.type == RAFT_IO_APPEND_ENTRIES && s->max_entries > 0 &&
        m.append_entries.n_entries > s->max_entries) {
        m.append_entries.n_entries = s->max_entries;
    }
    return s->stock.send(io, req, &m, cb);
}

static int wrapped_append(struct raft_io *io, struct raft_io_append *req,
                          const struct raft_entry entries[], unsigned n, raft_io_append_cb cb)
{
    struct server *s = server_of(io);
    if (s->hold_append) {
        s->hold_append = false;
        s->held_req = req;
        s->held_cb = cb;
        return 0;
    }
    return s->stock.append(io, req, entries, n, cb);
}

/* D14: one vote a term, whatever libraft thinks: the rule of io.c, asked before the disk. */
static int wrapped_set_term(struct raft_io *io, raft_term term)
{
    struct server *s = server_of(io);
    int rv = w.cures != 0 ? s->rep.io.set_term(&s->rep.io, term) : 0;
    return rv != 0 ? rv : s->stock.set_term(io, term);
}

static int wrapped_set_vote(struct raft_io *io, raft_id id)
{
    struct server *s = server_of(io);
    int rv = w.cures != 0 ? s->rep.io.set_vote(&s->rep.io, id) : 0;
    return rv != 0 ? rv : s->stock.set_vote(io, id);
}

static void report_held_append(struct server *s)
{
    struct raft_io_append *req = s->held_req;
    s->held_req = NULL;
    s->held_cb(req, RAFT_IOERR);
}

static uint64_t fixture_now(struct rguard_channel *c)
{
    (void)c;
    return w.f.time;
}

static const struct rguard_channel_ops clock_only = {.now_ms = fixture_now};

static void on_barrier(struct raft_barrier *req, int status)
{
    (void)req;
    (void)status;
}

/* What settle() in replica.c does after every turn. */
static void settle(struct raft_fixture *f, struct raft_fixture_event *event)
{
    (void)f;
    (void)event;
    for (unsigned i = 0; i < SERVERS && w.cures != 0; i++) {
        struct server *s = &w.servers[i];
        bool changed = s->raft->state != s->seen_role || s->raft->current_term != s->seen_term;
        s->seen_role = s->raft->state;
        s->seen_term = s->raft->current_term;
        if (changed && s->raft->state == RAFT_LEADER && (w.cures & BARRIER) != 0) {
            struct raft_barrier *b = &s->barriers[s->n_barriers++ % 16];
            s->rep.cures.n_held = 0;
            if (raft_barrier(s->raft, b, on_barrier) == 0) {
                s->rep.cures.barrier_index = b->index;
            }
        }
        rguard__cure_settle(&s->rep);
    }
}

/* ---- state machines -------------------------------------------------------------------------- */

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    struct server *s = fsm->data;
    if (s->n_applied < COMMANDS) {
        s->applied[s->n_applied++] = *(uint64_t *)buf->base;
    }
    *result = NULL;
    return 0;
}

static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n)
{
    (void)fsm;
    (void)bufs;
    (void)n;
    return RAFT_BUSY;
}

static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    (void)fsm;
    (void)buf;
    return RAFT_INVALID;
}

static void on_applied(struct raft_apply *req, int status, void *result)
{
    struct command *c = req->data;
    (void)result;
    c->status = status;
}

static struct command *propose(unsigned i, uint64_t value)
{
    struct command *c = &w.commands[w.n_commands++];
    struct raft_buffer buf = {raft_malloc(sizeof value), sizeof value};
    memcpy(buf.base, &value, sizeof value);
    *c = (struct command){.value = value, .status = -1};
    c->req.data = c;
    assert_int_equal(raft_apply(w.servers[i].raft, &c->req, &buf, 1, on_applied), 0);
    return c;
}

static bool has_applied(unsigned i, uint64_t value)
{
    const struct server *s = &w.servers[i];
    for (unsigned k = 0; k < s->n_applied; k++) {
        if (s->applied[k] == value) {
            return true;
        }
    }
    return false;
}

/* The commands of any two servers begin alike. */
static bool one_history(void)
{
    for (unsigned i = 0; i < SERVERS; i++) {
        for (unsigned k = 0; k < i; k++) {
            const struct server *a = &w.servers[i], *b = &w.servers[k];
            unsigned n = a->n_applied < b->n_applied ? a->n_applied : b->n_applied;
            if (memcmp(a->applied, b->applied, n * sizeof a->applied[0]) != 0) {
                return false;
            }
        }
    }
    return true;
}

/* Commands that a client was told are done and that server @i does not have. */
static unsigned lost_at(unsigned i)
{
    unsigned lost = 0;
    for (unsigned k = 0; k < w.n_commands; k++) {
        lost += w.commands[k].status == 0 && !has_applied(i, w.commands[k].value);
    }
    return lost;
}

/* ---- schedules ------------------------------------------------------------------------------- */

static void select_cures(unsigned cures)
{
    char off[64];
    snprintf(off, sizeof off, "%s%s%s", (cures & CURE_D8) == 0 ? "d8," : "",
             (cures & CURE_D11) != CURE_D11 ? "d11," : "", (cures & CURE_D13) == 0 ? "d13," : "");
    switch_off(off);
    w.cures = cures;
}

static void boot(unsigned cures)
{
    struct raft_configuration conf;
    memset(&w, 0, sizeof w);
    select_cures(cures);
    w.channel.ops = &clock_only;
    assert_int_equal(raft_fixture_initialize(&w.f), 0);
    for (unsigned i = 0; i < SERVERS; i++) {
        struct server *s = &w.servers[i];
        s->fsm = (struct raft_fsm){.version = 1,
                                   .data = s,
                                   .apply = fsm_apply,
                                   .snapshot = fsm_snapshot,
                                   .restore = fsm_restore};
        assert_int_equal(raft_fixture_grow(&w.f, &s->fsm), 0);
        s->raft = raft_fixture_get(&w.f, i);
        s->io = &w.f.servers[i].io;
        s->stock = *s->io;
        s->io->start = wrapped_start;
        s->io->send = wrapped_send;
        s->io->append = wrapped_append;
        s->io->set_term = wrapped_set_term;
        s->io->set_vote = wrapped_set_vote;
        raft_set_pre_vote(s->raft, true);
        s->rep.raft = s->raft;
        rguard__io_init(&s->rep);
        s->rep.io.data = s->raft;
        s->rep.channel = &w.channel;
        s->rep.net = w.channel.ops;
        s->rep.opt.election_ms = ELECTION;
        s->rep.ladder = RGUARD_LADDER_SERVING;
        assert_int_equal(rguard__handover_open(&s->rep), 0);
    }
    raft_fixture_hook(&w.f, settle);
    assert_int_equal(raft_fixture_configuration(&w.f, SERVERS, &conf), 0);
    assert_int_equal(raft_fixture_bootstrap(&w.f, &conf), 0);
    raft_configuration_close(&conf);
    assert_int_equal(raft_fixture_start(&w.f), 0);
    raft_fixture_elect(&w.f, 0);
    struct command *c = propose(0, 1);
    raft_fixture_step_until_elapsed(&w.f, 500);
    assert_int_equal(c->status, 0);
}

static void shut_down(void)
{
    if (w.f.n == 0) {
        return;
    }
    switch_on();
    for (unsigned i = 0; i < SERVERS; i++) {
        rguard__handover_close(&w.servers[i].rep);
        if (w.servers[i].held_req != NULL) {
            report_held_append(&w.servers[i]); /* libraft frees what it holds */
        }
    }
    raft_fixture_close(&w.f);
    w.f.n = 0;
}

static int teardown(void **state)
{
    (void)state;
    shut_down();
    return 0;
}

static void run(unsigned ms)
{
    raft_fixture_step_until_elapsed(&w.f, ms);
}

static void cut(unsigned i, unsigned k)
{
    raft_fixture_saturate(&w.f, i, k);
    raft_fixture_saturate(&w.f, k, i);
}

static void join(unsigned i, unsigned k)
{
    raft_fixture_desaturate(&w.f, i, k);
    raft_fixture_desaturate(&w.f, k, i);
}

/* How long server @i waits before it stands for election, now and from now on. */
static void patience(unsigned i, unsigned ms)
{
    struct raft *r = w.servers[i].raft;
    raft_fixture_set_randomized_election_timeout(&w.f, i, ms);
    if (r->state == RAFT_FOLLOWER) {
        r->follower_state.randomized_election_timeout = ms;
    } else if (r->state == RAFT_CANDIDATE) {
        r->candidate_state.randomized_election_timeout = ms;
    }
}

/* Everybody alone, until nobody leads and nobody remembers a leader. */
static void part(void)
{
    for (unsigned i = 0; i < SERVERS; i++) {
        for (unsigned k = 0; k < i; k++) {
            cut(i, k);
        }
        patience(i, ELECTION);
    }
    run(4 * ELECTION);
    for (unsigned i = 0; i < SERVERS; i++) {
        assert_true(!w.f.servers[i].alive || raft_state(w.servers[i].raft) != RAFT_LEADER);
    }
}

/* Joins @i and @k after that and lets @i lead, if it can. */
static void lead(unsigned i, unsigned k)
{
    patience(i, ELECTION);
    patience(k, 100 * ELECTION);
    join(i, k);
    assert_true(raft_fixture_step_until_state_is(&w.f, i, RAFT_LEADER, 20 * ELECTION));
}

static bool is_led(struct raft_fixture *f, void *arg)
{
    (void)f;
    (void)arg;
    return raft_state(w.servers[1].raft) == RAFT_LEADER ||
           raft_state(w.servers[2].raft) == RAFT_LEADER;
}

/* ---- D1: a leader whose append failed stays leader ------------------------------------------- */

/* The write of 222 has not returned on the leader when both followers have it. It fails. */
static struct command *failing_append(void)
{
    w.servers[0].hold_append = true;
    struct command *c = propose(0, 222);
    raft_index last = raft_last_index(w.servers[0].raft);
    run(100);
    assert_int_equal(raft_last_index(w.servers[1].raft), last);
    assert_int_equal(raft_last_index(w.servers[2].raft), last);
    assert_int_equal(c->status, -1);
    return c;
}

/* The leader ends; somebody else leads and commits 444. */
static void others_go_on(void)
{
    raft_fixture_kill(&w.f, 0);
    assert_true(raft_fixture_step_until(&w.f, is_led, NULL, 20 * ELECTION));
    bool second = raft_state(w.servers[1].raft) == RAFT_LEADER;
    struct command *c = propose(second ? 1 : 2, 444);
    run(500);
    assert_int_equal(c->status, 0);
    assert_true(one_history());
    for (unsigned i = 1; i < SERVERS; i++) {
        assert_int_equal(lost_at(i), 0);
        assert_true(has_applied(i, 222));
    }
}

static void test_d1_bare(void **state)
{
    (void)state;
    boot(0);
    struct command *second = failing_append();
    report_held_append(&w.servers[0]);
    assert_int_equal(second->status, RAFT_IOERR); /* "it failed" */
    assert_int_equal(raft_state(w.servers[0].raft), RAFT_LEADER);
    struct command *third = propose(0, 333);
    run(200);
    struct command *fourth = propose(0, 444);
    run(500);
    assert_int_equal(third->status, 0);
    assert_int_equal(fourth->status, 0);
    assert_false(one_history()); /* 1 333 444 here, 1 222 444 there */
    assert_true(has_applied(1, 222));
    assert_false(has_applied(1, 333));
}

/* The failure is never reported: the process ends, the client does not know. test_io.c shows that
 * a replica does that. */
static void test_d1_cured(void **state)
{
    (void)state;
    boot(ALL_CURES);
    struct command *second = failing_append();
    others_go_on();
    assert_int_equal(second->status, -1);
}

/* Stepping down first, as a rewind does, would do as well: then the report does no harm. */
static void test_d1_step_down(void **state)
{
    (void)state;
    boot(OURS);
    struct command *second = failing_append();
    rguard__step_down(&w.servers[0].rep);
    assert_int_equal(raft_state(w.servers[0].raft), RAFT_FOLLOWER);
    assert_int_equal(second->status, RAFT_LEADERSHIPLOST); /* "nobody knows" */
    report_held_append(&w.servers[0]);
    others_go_on();
    raft_fixture_revive(&w.f, 0);
    run(5000);
    assert_true(one_history());
    assert_int_equal(w.servers[0].n_applied, 3);
}

/* ---- D8: a vote is refused while an old leader is remembered --------------------------------- */

/* The leader dies; one follower is ready after one election timeout, the other after two. @return
 * how long the cluster has no leader, in election timeouts. */
static double leaderless(unsigned cures)
{
    boot(cures);
    raft_fixture_kill(&w.f, 0);
    raft_time from = w.f.time;
    patience(1, ELECTION);
    patience(2, 2 * ELECTION);
    raft_fixture_step_until(&w.f, is_led, NULL, 20 * ELECTION);
    double timeouts = (double)(w.f.time - from) / ELECTION;
    shut_down();
    return timeouts;
}

static void test_d8(void **state)
{
    (void)state;
    double bare = leaderless(0), cured = leaderless(CURE_D8);
    double off = leaderless(OURS);
    print_message("# D8: leaderless for %.2f election timeouts bare, %.2f cured\n", bare, cured);
    assert_true(bare >= 2.0);
    assert_true(cured <= 1.2);
    assert_true(off == bare);
}

/* A leader that lives is not disrupted: one that hears nothing from it is still turned away. */
static void test_d8_living_leader_stays(void **state)
{
    (void)state;
    boot(CURE_D8);
    raft_term term = w.servers[0].raft->current_term;
    cut(0, 2);
    run(10 * ELECTION);
    assert_int_equal(raft_state(w.servers[2].raft), RAFT_CANDIDATE);
    assert_int_equal(raft_state(w.servers[0].raft), RAFT_LEADER);
    assert_int_equal(w.servers[0].raft->current_term, term);
}

/* ---- D11: entries of an older term are committed by counting --------------------------------- */

/* Figure 8 of the paper.
 *
 *     server 0   1 X           leads term 2, then a later one
 *     server 1   1 Y           leads term 3, alone
 *     server 2   1   X         gets X from server 0 in its second term, and only that
 *
 * Then 1 and 2 are left, and 1's log is the more recent one. Server 0 proposes in its second term,
 * if it proposes at all, on a disk that takes its time. */
static void figure_8(unsigned cures)
{
    boot(cures);
    cut(0, 1);
    cut(0, 2);
    propose(0, 'X');
    raft_index x = raft_last_index(w.servers[0].raft);
    part();
    lead(1, 2);
    cut(1, 2);
    propose(1, 'Y');
    part();
    w.servers[0].max_entries = 1;
    raft_fixture_set_disk_latency(&w.f, 0, FOREVER);
    lead(0, 2);
    while (raft_last_index(w.servers[2].raft) < x) {
        raft_fixture_step(&w.f);
    }
    raft_fixture_saturate(&w.f, 0, 2); /* X and nothing more, but its answer arrives */
    run(300);
    assert_int_equal(raft_last_index(w.servers[2].raft), x);
    raft_fixture_kill(&w.f, 0);
    part();
    lead(1, 2);
    struct command *z = propose(1, 'Z');
    run(ELECTION);
    assert_int_equal(z->status, 0);
    assert_true(has_applied(2, 'Y'));
    assert_false(has_applied(2, 'X'));
}

static void test_d11_bare(void **state)
{
    (void)state;
    figure_8(0);
    assert_true(has_applied(0, 'X')); /* committed, and gone */
    assert_false(one_history());
}

/* The barrier of the new term is not enough: its leader must not count before it is durable. */
static void test_d11_switched_off(void **state)
{
    (void)state;
    figure_8(CURE_D8 | BARRIER);
    assert_true(has_applied(0, 'X'));
    assert_false(one_history());
}

static void test_d11_cured(void **state)
{
    (void)state;
    figure_8(CURE_D8 | CURE_D11);
    assert_false(has_applied(0, 'X'));
    assert_true(one_history());
    assert_int_equal(lost_at(1), 0);
}

/* ---- D13: a follower acknowledges what was never matched ------------------------------------- */

/* Server 0 holds three entries that nobody else has when server 1 is elected. Its answer to the
 * first heartbeat is on its way when server 1 proposes three of its own. Server 1 dies. */
static void leftovers(unsigned cures)
{
    boot(cures);
    cut(0, 1);
    cut(0, 2);
    for (uint64_t v = 901; v <= 903; v++) {
        propose(0, v);
    }
    part();
    lead(1, 2);
    run(300);
    cut(1, 2);
    join(0, 1);
    raft_term term = w.servers[1].raft->current_term;
    assert_true(raft_fixture_step_until_term_is(&w.f, 0, term, ELECTION));
    for (uint64_t v = 11; v <= 13; v++) {
        propose(1, v);
    }
    run(200);
    raft_fixture_kill(&w.f, 1);
    part();
    lead(0, 2);
    struct command *c = propose(0, 77);
    run(ELECTION);
    assert_int_equal(c->status, 0);
    assert_true(has_applied(2, 77));
}

static unsigned acknowledged(uint64_t from, uint64_t to)
{
    unsigned n = 0;
    for (unsigned k = 0; k < w.n_commands; k++) {
        n += w.commands[k].value >= from && w.commands[k].value <= to && w.commands[k].status == 0;
    }
    return n;
}

static void test_d13_bare(void **state)
{
    (void)state;
    leftovers(0);
    assert_int_equal(acknowledged(11, 13), 3);
    assert_int_equal(lost_at(0), 3); /* status 0, on one server only, which is dead */
    assert_int_equal(lost_at(2), 3);
    assert_true(has_applied(0, 901)); /* "leadership lost", and there they are */
    assert_false(one_history());
}

static void test_d13_switched_off(void **state)
{
    (void)state;
    leftovers(CURE_D8);
    assert_int_equal(lost_at(0), 3);
    assert_false(one_history());
}

static void test_d13_cured(void **state)
{
    (void)state;
    leftovers(CURE_D8 | CURE_D13);
    assert_int_equal(acknowledged(11, 13), 3); /* later, and for a reason: server 0 has them */
    assert_int_equal(lost_at(0), 0);
    assert_int_equal(lost_at(2), 0);
    assert_false(has_applied(0, 901));
    assert_true(one_history());
}

/* ---- everything at once: nothing is made worse ----------------------------------------------- */

static void test_all_schedules_with_all_cures(void **state)
{
    (void)state;
    leftovers(ALL_CURES);
    assert_int_equal(lost_at(0), 0);
    assert_int_equal(lost_at(2), 0);
    assert_true(one_history());
    shut_down();
    figure_8(ALL_CURES);
    assert_int_equal(lost_at(1), 0);
    assert_true(one_history());
}

/* ---- D14: during a transfer the old leader may vote twice in one term ------------------------ */

/* Server 0 transfers to 1; 2 campaigns at the same moment, as it may after a notice. The fixture
 * ends the process when a term has two leaders. */
static void transfer_and_notice(void *user)
{
    struct raft *heir = w.servers[2].raft;
    raft_index last = raft_last_index(heir);
    struct raft_message m = {
        .type = RAFT_IO_TIMEOUT_NOW,
        .server_id = 1,
        .server_address = w.f.servers[0].address,
        .timeout_now = {heir->current_term, last, rguard__log_term(heir, last)}};
    static struct raft_transfer transfer;
    (void)user;
    if (raft_transfer(w.servers[0].raft, &transfer, 2, NULL) != 0) {
        _exit(78);
    }
    w.servers[2].recv(w.servers[2].io, &m);
    raft_fixture_set_network_latency(&w.f, 1, 20); /* 1 asks after 2 */
    run(16);
    raft_fixture_set_network_latency(&w.f, 2, 200); /* and 2 is slow to say that it leads */
    run(400);
    unsigned leaders = 0;
    for (unsigned i = 0; i < SERVERS; i++) {
        leaders += raft_state(w.servers[i].raft) == RAFT_LEADER;
    }
    _exit(leaders == 1 ? 0 : 79 + (int)leaders);
}

static void test_d14(void **state)
{
    char text[4096];
    (void)state;
    boot(0);
    assert_true(died_of(forked(transfer_and_notice, NULL, text, sizeof text), SIGABRT));
    assert_non_null(strstr(text, "are both leaders in term"));
    shut_down();
    boot(ALL_CURES);
    int status = forked(transfer_and_notice, NULL, text, sizeof text);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
#define DEFECT_TEST(name) cmocka_unit_test_teardown(name, teardown)
    const struct CMUnitTest tests[] = {
        DEFECT_TEST(test_d1_bare),
        DEFECT_TEST(test_d1_cured),
        DEFECT_TEST(test_d1_step_down),
        DEFECT_TEST(test_d8),
        DEFECT_TEST(test_d8_living_leader_stays),
        DEFECT_TEST(test_d11_bare),
        DEFECT_TEST(test_d11_switched_off),
        DEFECT_TEST(test_d11_cured),
        DEFECT_TEST(test_d13_bare),
        DEFECT_TEST(test_d13_switched_off),
        DEFECT_TEST(test_d13_cured),
        DEFECT_TEST(test_d14),
        DEFECT_TEST(test_all_schedules_with_all_cures),
    };
    return cmocka_run_group_tests_name("libraft_defects", tests, NULL, NULL);
}
