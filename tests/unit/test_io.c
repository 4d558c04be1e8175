/* SPDX-License-Identifier: Apache-2.0 */
/* raft_io on a real log and a channel that keeps what it is given: what leaves a node and when, what
 * reaches libraft, and that a write that failed is the last thing that this node says. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include "shell.h"

#include <raftguard/failpoint.h>

#include <cmocka.h>

#define TERM 5u

struct node
{
    struct shell s;
    char dir[128];
    struct raft_io_send reqs[8]; /* outlive a test that does not wait for them */
    unsigned n_reqs;
    unsigned sent_calls, append_calls;
    int sent_status, append_status;
};

/* ---- life ------------------------------------------------------------------------------------ */

static void open_log(struct node *n)
{
    struct rguard_wal_options options = {.size = sizeof options};
    struct rguard_wal_report report = {.size = sizeof report};
    assert_int_equal(rguard_wal_open(n->dir, &options, &n->s.rep.wal, &report), 0);
}

static int setup(void **state)
{
    struct node *n = calloc(1, sizeof *n);
    const char *tmp = getenv("TMPDIR");
    *state = n;
    snprintf(n->dir, sizeof n->dir, "%s/rguard-io-XXXXXX", tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(n->dir) == NULL) {
        return -1;
    }
    shell_init(&n->s, 1, 3);
    rguard__io_init(&n->s.rep);
    n->s.rep.io.data = &n->s;
    open_log(n);
    if (rguard__disk_open(n->dir, "sync", &n->s.rep.disk) != 0 ||
        rguard__handover_open(&n->s.rep) != 0) {
        return -1;
    }
    shell_follow(&n->s, 2, TERM);
    return 0;
}

#define FREE_LIST(head)              \
    while (rep->head != NULL) {      \
        void *node = rep->head;      \
        rep->head = rep->head->next; \
        free(node);                  \
    }

static int teardown(void **state)
{
    struct node *n = *state;
    struct rguard_replica *rep = &n->s.rep;
    char command[160];
    switch_on();
    rguard_fp_off_all();
    for (unsigned i = 0; i < n->s.n_got; i++) {
        rguard__rpc_discard(&n->s.got[i]);
    }
    fake_channel_drain(&n->s.net, -ECANCELED);
    rguard__io_sends_failed(rep);
    rguard_wal_close(rep->wal);
    FREE_LIST(append_free)
    FREE_LIST(sending_free)
    free(rep->out.bytes);
    free(rep->records);
    rep->disk->ops->destroy(rep->disk);
    shell_fini(&n->s);
    snprintf(command, sizeof command, "rm -rf '%s'", n->dir);
    int rv = system(command);
    free(n);
    return rv;
}

static void on_sent(struct raft_io_send *req, int status)
{
    struct node *n = req->data;
    n->sent_calls++;
    n->sent_status = status;
}

static void on_appended(struct raft_io_append *req, int status)
{
    struct node *n = req->data;
    n->append_calls++;
    n->append_status = status;
}

/* ---- term and vote --------------------------------------------------------------------------- */

static struct raft_message vote_for(struct node *n, uint64_t to)
{
    return (struct raft_message){.type = RAFT_IO_REQUEST_VOTE,
                                 .server_id = to,
                                 .server_address = n->s.addresses[to - 1],
                                 .request_vote = {.term = TERM + 1, .candidate_id = 1}};
}

static void send_message(struct node *n, const struct raft_message *m)
{
    struct raft_io_send *req = &n->reqs[n->n_reqs++];
    *req = (struct raft_io_send){.data = n};
    assert_int_equal(n->s.rep.io.send(&n->s.rep.io, req, m, on_sent), 0);
}

static void assert_on_disk(struct node *n, uint64_t term, uint64_t vote)
{
    uint64_t t, v;
    rguard_wal_meta_get(n->s.rep.wal, &t, &v);
    assert_int_equal(t, term);
    assert_int_equal(v, vote);
}

static void test_one_vote_a_term(void **state)
{
    struct node *n = *state;
    struct raft_io *io = &n->s.rep.io;
    assert_int_equal(io->set_term(io, TERM), 0);
    assert_int_equal(io->set_vote(io, 2), 0);
    assert_int_equal(io->set_vote(io, 2), 0); /* the same again is the same vote */
    assert_int_equal(io->set_vote(io, 3), RAFT_INVALID);
    assert_int_equal(io->set_term(io, TERM), 0); /* no new term, no new vote */
    assert_int_equal(io->set_vote(io, 3), RAFT_INVALID);
    assert_int_equal(io->set_term(io, TERM - 1), RAFT_INVALID);
    assert_int_equal(io->set_term(io, TERM + 1), 0);
    assert_int_equal(io->set_vote(io, 3), 0);
    assert_int_equal(rguard__io_meta_flush(&n->s.rep), 0);
    assert_on_disk(n, TERM + 1, 3);
}

/* Both in one durable write, and before the message that speaks of them. */
static void test_nothing_overtakes_the_vote(void **state)
{
    struct node *n = *state;
    struct raft_io *io = &n->s.rep.io;
    struct raft_message m = vote_for(n, 2);
    io->set_term(io, TERM + 1);
    io->set_vote(io, 1);
    assert_on_disk(n, 0, 0);
    send_message(n, &m);
    assert_on_disk(n, TERM + 1, 1);
    assert_int_equal(n->s.net.n_frames, 1);
}

static void test_vote_that_cannot_be_written(void **state)
{
    struct node *n = *state;
    struct raft_io *io = &n->s.rep.io;
    struct raft_message m = vote_for(n, 2);
    assert_int_equal(rguard_fp_set("wal/meta", "errno(EIO)", NULL), 0);
    io->set_term(io, TERM + 1);
    io->set_vote(io, 1);
    send_message(n, &m);
    assert_int_equal(n->s.net.n_frames, 0); /* nothing leaves */
    assert_true(n->s.rep.dead);
    assert_true(n->s.rep.muted);
    assert_int_equal(n->s.rep.ladder, RGUARD_LADDER_CONTAINED);
    rguard_fp_off_all();
    send_message(n, &m);
    assert_int_equal(n->s.net.n_frames, 0); /* nor later */
    assert_non_null(strstr(n->s.log, "term and vote"));
}

/* ---- messages out ---------------------------------------------------------------------------- */

static void test_callback_from_the_loop(void **state)
{
    struct node *n = *state;
    struct raft_message m = vote_for(n, 3), in;
    send_message(n, &m);
    assert_int_equal(n->sent_calls, 0);
    const struct fake_frame *f = &n->s.net.frames[0];
    assert_int_equal(f->to, 3);
    assert_int_equal(rguard__rpc_decode(f->type, f->body, f->len, &in), 0);
    assert_int_equal(in.request_vote.term, TERM + 1);
    fake_channel_drain(&n->s.net, 0);
    assert_int_equal(n->sent_calls, 1);
    assert_int_equal(n->sent_status, 0);
    send_message(n, &m);
    fake_channel_drain(&n->s.net, -ECONNRESET);
    assert_int_equal(n->sent_calls, 2);
    assert_int_equal(n->sent_status, RAFT_NOCONNECTION);
}

/* libraft 0.15 frees an AppendEntries twice when its answer fails at once: it never does. */
static void test_failure_is_reported_later(void **state)
{
    struct node *n = *state;
    struct raft_message m = vote_for(n, 2);
    m.server_id = 9; /* not connected */
    send_message(n, &m);
    assert_int_equal(n->sent_calls, 0);
    assert_true(n->s.net.armed[RGUARD_TIMER_SOON]);
    rguard__io_sends_failed(&n->s.rep);
    assert_int_equal(n->sent_calls, 1);
    assert_int_equal(n->sent_status, RAFT_NOCONNECTION);
    assert_int_equal(n->s.rep.send_dropped, 1);
    rguard__io_sends_failed(&n->s.rep);
    assert_int_equal(n->sent_calls, 1);
}

static void test_what_never_leaves(void **state)
{
    struct node *n = *state;
    struct raft_message timeout_now = {
        .type = RAFT_IO_TIMEOUT_NOW, .server_id = 2, .server_address = n->s.addresses[1]};
    struct raft_message vote = vote_for(n, 2);
    send_message(n, &timeout_now); /* D14 */
    n->s.rep.muted = true;
    send_message(n, &vote);
    assert_int_equal(n->s.net.n_frames, 0);
    rguard__io_sends_failed(&n->s.rep);
    assert_int_equal(n->sent_calls, 2);
    assert_int_equal(n->sent_status, RAFT_NOCONNECTION);
}

/* D13 on its way out. */
static void test_results_are_clamped(void **state)
{
    struct node *n = *state;
    struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES_RESULT,
                             .server_id = 2,
                             .server_address = n->s.addresses[1],
                             .append_entries_result = {TERM, 0, 9}},
                        in;
    n->s.rep.cures.matched_term = TERM;
    n->s.rep.cures.matched_index = 4;
    send_message(n, &m);
    const struct fake_frame *f = &n->s.net.frames[0];
    assert_int_equal(rguard__rpc_decode(f->type, f->body, f->len, &in), 0);
    assert_int_equal(in.append_entries_result.last_log_index, 4);
}

/* Five entries of 400 KiB: two fit a frame, each frame continues where the one before ended. */
static void test_long_append_is_split(void **state)
{
    struct node *n = *state;
    size_t len = 400u << 10;
    uint8_t *data = calloc(1, len);
    struct raft_entry entries[5];
    for (unsigned i = 0; i < 5; i++) {
        entries[i] = (struct raft_entry){.term = 2 + i, .type = RAFT_BARRIER, .buf = {data, len}};
    }
    struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES,
                             .server_id = 2,
                             .server_address = n->s.addresses[1],
                             .append_entries = {TERM, 10, 1, 9, entries, 5}};
    send_message(n, &m);
    assert_int_equal(n->s.net.n_frames, 3);
    unsigned at = 0;
    for (unsigned i = 0; i < 3; i++) {
        const struct fake_frame *f = &n->s.net.frames[i];
        struct raft_message in;
        assert_true(f->len <= RGUARD_FRAME_CHUNK + 1024);
        assert_int_equal(rguard__rpc_decode(f->type, f->body, f->len, &in), 0);
        assert_int_equal(in.append_entries.prev_log_index, 10 + at);
        assert_int_equal(in.append_entries.prev_log_term, at == 0 ? 1 : 1 + at);
        at += in.append_entries.n_entries;
        rguard__rpc_discard(&in);
    }
    assert_int_equal(at, 5);
    struct fake_frame frames[3];
    memcpy(frames, n->s.net.frames, sizeof frames);
    n->s.net.n_frames = 0;
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(n->sent_calls, 0); /* once, after the last */
        frames[i].sent(frames[i].user, i == 1 ? -EPIPE : 0);
        free(frames[i].body);
    }
    assert_int_equal(n->sent_calls, 1);
    assert_int_equal(n->sent_status, RAFT_NOCONNECTION);
    free(data);
}

/* One that is larger than a frame should be goes alone; a heartbeat is one frame too. */
static void test_shortest_and_longest(void **state)
{
    struct node *n = *state;
    size_t len = 3u << 20;
    struct raft_entry entry = {.term = 2, .type = RAFT_BARRIER, .buf = {calloc(1, len), len}};
    struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES,
                             .server_id = 2,
                             .server_address = n->s.addresses[1],
                             .append_entries = {TERM, 10, 1, 9, &entry, 1}};
    send_message(n, &m);
    m.append_entries.n_entries = 0;
    m.append_entries.entries = NULL;
    send_message(n, &m);
    assert_int_equal(n->s.net.n_frames, 2);
    assert_true(n->s.net.frames[0].len > len);
    assert_int_equal(n->s.net.frames[1].len, 36);
    free(entry.buf.base);
}

/* A candidate asks again on a fresh connection, in the words of its present candidacy only. */
static void test_vote_is_repeated_on_a_new_link(void **state)
{
    struct node *n = *state;
    struct raft_message m = vote_for(n, 2);
    rguard__io_link(&n->s.rep, 3, true);
    n->s.raft.state = RAFT_CANDIDATE;
    rguard__io_link(&n->s.rep, 3, true); /* has not asked anybody */
    assert_int_equal(n->s.net.n_frames, 0);
    send_message(n, &m);
    n->s.raft.current_term = TERM + 1;
    n->s.raft.candidate_state.in_pre_vote = false;
    rguard__io_link(&n->s.rep, 3, false);
    assert_int_equal(n->s.net.n_frames, 1);
    rguard__io_link(&n->s.rep, 3, true);
    assert_int_equal(n->s.net.n_frames, 2);
    assert_int_equal(n->s.net.frames[1].to, 3);
    assert_int_equal(n->s.net.frames[1].type, RAFT_IO_REQUEST_VOTE);
    n->s.raft.current_term = TERM; /* a pre-vote names the term that would come */
    rguard__io_link(&n->s.rep, 3, true);
    assert_int_equal(n->s.net.n_frames, 2);
    n->s.raft.candidate_state.in_pre_vote = true;
    rguard__io_link(&n->s.rep, 3, true);
    assert_int_equal(n->s.net.n_frames, 3);
    n->s.rep.muted = true;
    rguard__io_link(&n->s.rep, 3, true);
    n->s.rep.muted = false;
    n->s.raft.state = RAFT_FOLLOWER;
    rguard__io_link(&n->s.rep, 3, true);
    assert_int_equal(n->s.net.n_frames, 3);
}

/* ---- appends --------------------------------------------------------------------------------- */

#define COMMAND "a command"
#define BYTES   (RGUARD_ENVELOPE_BYTES + sizeof COMMAND)

static void fill(uint8_t bytes[BYTES])
{
    memcpy(bytes + RGUARD_ENVELOPE_BYTES, COMMAND, sizeof COMMAND);
    rguard__envelope_write(bytes, bytes + RGUARD_ENVELOPE_BYTES, sizeof COMMAND);
}

static int append(struct node *n, uint8_t *bytes, struct raft_io_append *req)
{
    struct raft_entry entry = {.term = TERM, .type = RAFT_COMMAND, .buf = {bytes, BYTES}};
    *req = (struct raft_io_append){.data = n};
    n->s.raft.log.offset = rguard_wal_last_index(n->s.rep.wal) + 1; /* libraft has it already */
    return n->s.rep.io.append(&n->s.rep.io, req, &entry, 1, on_appended);
}

static void test_append(void **state)
{
    struct node *n = *state;
    struct rguard_replica *rep = &n->s.rep;
    struct raft_io_append first, second;
    uint8_t bytes[BYTES];
    fill(bytes);
    rep->io.set_term(&rep->io, TERM);
    assert_int_equal(append(n, bytes, &first), 0);
    assert_on_disk(n, TERM, 0); /* the term is older than its entries */
    assert_int_equal(append(n, bytes, &second), 0);
    assert_int_equal(n->append_calls, 0);
    assert_int_equal(rep->appends_in_flight, 2);
    assert_int_equal(rguard_wal_flush(rep->wal), 0);
    assert_int_equal(n->append_calls, 2);
    assert_int_equal(n->append_status, 0);
    assert_int_equal(rep->appends_in_flight, 0);
    assert_int_equal(rguard_wal_last_index(rep->wal), 2);
    assert_int_equal(rep->io.truncate(&rep->io, 2), 0);
    assert_int_equal(rguard_wal_last_index(rep->wal), 1);
}

/* D1, D2: nobody is told of a failed write but the followers, by notice. The process then ends. */
static void test_failed_write_is_the_last_word(void **state)
{
    struct node *n = *state;
    struct rguard_replica *rep = &n->s.rep;
    struct raft_io_append first, second;
    struct raft_message vote = vote_for(n, 2);
    uint8_t bytes[BYTES], datagram[512];
    fill(bytes);
    shell_lead(&n->s, TERM);
    rguard__handover_lead(rep);
    assert_int_equal(rguard_fp_set("wal/write", "errno(EIO)", NULL), 0);
    assert_int_equal(append(n, bytes, &first), 0);
    rguard_wal_flush(rep->wal);
    rguard_fp_off_all();
    assert_int_equal(n->append_calls, 0); /* a leader that reports it lets replicas diverge */
    assert_int_equal(n->s.n_got, 0);
    assert_true(rep->dead);
    assert_true(rep->muted);
    assert_int_equal(rep->ladder, RGUARD_LADDER_CONTAINED);
    assert_true(fake_channel_datagram(&n->s.net, 2, datagram, sizeof datagram) > 0);
    assert_true(fake_channel_datagram(&n->s.net, 3, datagram, sizeof datagram) > 0);
    assert_int_equal(append(n, bytes, &second), RAFT_IOERR);
    assert_int_equal(rep->io.truncate(&rep->io, 1), RAFT_IOERR);
    send_message(n, &vote);
    assert_int_equal(n->s.net.n_frames, 0);
}

static void test_muted_appends_nothing(void **state)
{
    struct node *n = *state;
    struct raft_io_append req;
    uint8_t bytes[BYTES];
    fill(bytes);
    n->s.rep.muted = true;
    assert_int_equal(append(n, bytes, &req), RAFT_IOERR);
    assert_int_equal(rguard_wal_last_index(n->s.rep.wal), 0);
    assert_int_equal(n->append_calls, 0);
}

struct damaged
{
    struct node *n;
    const char *off;
};

static void append_damaged(void *user)
{
    struct damaged *d = user;
    struct raft_io_append req;
    uint8_t bytes[BYTES];
    fill(bytes);
    bytes[RGUARD_ENVELOPE_BYTES + 3] ^= 4;
    if (d->off != NULL) {
        switch_off(d->off);
    }
    _exit(append(d->n, bytes, &req) == 0 ? 0 : 1);
}

/* D12: a command that was whole when it was proposed: this node's memory is bad. */
static void test_damage_before_the_append(void **state)
{
    struct damaged d = {*state, NULL};
    char text[1024];
    assert_true(died_of(forked(append_damaged, &d, text, sizeof text), SIGABRT));
    assert_non_null(strstr(text, "damaged in memory before it was appended"));
    d.off = "envelope";
    int status = forked(append_damaged, &d, text, sizeof text);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

struct apart
{
    struct node *n;
    int shift;
};

static void append_apart(void *user)
{
    struct apart *a = user;
    struct node *n = a->n;
    struct raft_io_append req = {.data = n};
    uint8_t bytes[BYTES];
    fill(bytes);
    struct raft_entry entry = {.term = TERM, .type = RAFT_COMMAND, .buf = {bytes, BYTES}};
    n->s.raft.log.offset = rguard_wal_last_index(n->s.rep.wal) + 1 + (uint64_t)a->shift;
    _exit(n->s.rep.io.append(&n->s.rep.io, &req, &entry, 1, on_appended) == 0 ? 0 : 1);
}

/* An entry goes to the index that libraft gave it, or nowhere: shifted by one it would still match
 * after a restart. */
static void test_logs_that_have_come_apart(void **state)
{
    struct apart a = {*state, 0};
    char text[1024];
    assert_int_equal(forked(append_apart, &a, text, sizeof text), 0);
    for (a.shift = -1; a.shift <= 1; a.shift += 2) {
        assert_true(died_of(forked(append_apart, &a, text, sizeof text), SIGABRT));
        assert_non_null(strstr(text, "have come apart"));
    }
}

/* ---- messages in ----------------------------------------------------------------------------- */

/* An AppendEntries with one command, as node 2 would send it; @flip damages the command. */
static void receive(struct node *n, uint64_t peer, bool flip)
{
    struct rguard_rpc_out out = {0};
    uint8_t bytes[BYTES];
    fill(bytes);
    struct raft_entry entry = {.term = TERM, .type = RAFT_COMMAND, .buf = {bytes, BYTES}};
    struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES,
                             .append_entries = {TERM, 0, 0, 0, &entry, 1}};
    assert_int_equal(rguard__rpc_encode(&out, &m, 0, 1), 0);
    out.bytes[out.len - 1] ^= flip ? 1 : 0;
    rguard__io_frame(&n->s.rep, peer, RAFT_IO_APPEND_ENTRIES, out.bytes, out.len);
    free(out.bytes);
}

static void test_delivery(void **state)
{
    struct node *n = *state;
    receive(n, 2, false);
    assert_int_equal(n->s.n_got, 1);
    assert_int_equal(n->s.got[0].type, RAFT_IO_APPEND_ENTRIES);
    assert_int_equal(n->s.got[0].server_id, 2);
    assert_string_equal(n->s.got[0].server_address, "127.0.0.1:9002");
    assert_int_equal(n->s.got[0].append_entries.n_entries, 1);
    assert_int_equal(n->s.rep.cures.matched_index, 1); /* the cures have seen it */
}

/* D12, at the follower: dropped and counted before libraft sees it. */
static void test_damage_on_arrival(void **state)
{
    struct node *n = *state;
    receive(n, 2, true);
    assert_int_equal(n->s.n_got, 0);
    assert_int_equal(n->s.rep.bad_envelopes, 1);
    assert_int_equal(n->s.rep.cures.matched_index, 0); /* and nothing was matched */
    switch_off("envelope");
    receive(n, 2, true);
    assert_int_equal(n->s.n_got, 1);
}

/* Muted, dead, not started, closing, from a stranger, malformed. */
static void test_what_is_not_delivered(void **state)
{
    struct node *n = *state;
    struct rguard_replica *rep = &n->s.rep;
    rep->muted = true;
    receive(n, 2, false);
    rep->muted = false;
    rep->dead = true;
    receive(n, 2, false);
    rep->dead = false;
    rep->started = false;
    receive(n, 2, false);
    rep->started = true;
    receive(n, 77, false);
    for (unsigned type = 0; type < 20; type++) {
        rguard__io_frame(rep, 2, (uint16_t)type, (const uint8_t *)"garbage", 7);
    }
    assert_int_equal(n->s.n_got, 0);
    receive(n, 2, false);
    assert_int_equal(n->s.n_got, 1);
}

/* ---- load ------------------------------------------------------------------------------------ */

struct loaded
{
    int rv;
    raft_term term;
    raft_id vote;
    raft_index start;
    size_t n;
    unsigned short type;
};

static struct loaded load(struct node *n)
{
    struct loaded l;
    struct raft_snapshot *snapshot = NULL;
    struct raft_entry *entries = NULL;
    struct raft_io *io = &n->s.rep.io;
    l.rv = io->load(io, &l.term, &l.vote, &snapshot, &l.start, &entries, &l.n);
    if (l.rv == 0) {
        l.type = l.n > 0 ? entries[0].type : 0;
        for (size_t i = 0; i < l.n; i++) {
            raft_free(entries[i].batch);
        }
        raft_free(entries);
        assert_null(snapshot);
    }
    return l;
}

static void test_bootstrap_once(void **state)
{
    struct node *n = *state;
    struct raft_io *io = &n->s.rep.io;
    assert_int_equal(io->bootstrap(io, &n->s.raft.configuration), 0);
    assert_int_equal(io->bootstrap(io, &n->s.raft.configuration), RAFT_CANTBOOTSTRAP);
    struct loaded l = load(n);
    assert_int_equal(l.rv, 0);
    assert_int_equal(l.term, 1);
    assert_int_equal(l.vote, 0);
    assert_int_equal(l.start, 1);
    assert_int_equal(l.n, 1);
    assert_int_equal(l.type, RAFT_CHANGE);
    io->set_term(io, 1);
    io->set_vote(io, 3);
    assert_int_equal(rguard__io_meta_flush(&n->s.rep), 0);
    rguard_wal_close(n->s.rep.wal);
    open_log(n);
    n->s.rep.meta_vote = 0;
    l = load(n);
    assert_int_equal(l.vote, 3);
    assert_int_equal(n->s.rep.meta_vote, 3); /* remembered over the restart */
    assert_int_equal(io->set_vote(io, 2), RAFT_INVALID);
}

static int bootstrap_after(struct node *n, uint64_t term, uint64_t vote)
{
    assert_int_equal(rguard_wal_meta_set(n->s.rep.wal, term, vote), 0);
    return n->s.rep.io.bootstrap(&n->s.rep.io, &n->s.raft.configuration);
}

/* Killed between term 1 and the first entry: no vote, no entry, nobody was told anything. */
static void test_bootstrap_cut_short(void **state)
{
    struct node *n = *state;
    assert_int_equal(bootstrap_after(n, 1, 0), 0);
    struct loaded l = load(n);
    assert_int_equal(l.term, 1);
    assert_int_equal(l.n, 1);
    assert_int_equal(l.type, RAFT_CHANGE);
}

/* An empty log is one thing, what this node has promised another. */
static void test_bootstrap_of_a_node_that_voted(void **state)
{
    struct node *n = *state;
    assert_int_equal(bootstrap_after(n, 1, 2), RAFT_CANTBOOTSTRAP);
    assert_int_equal(rguard_wal_last_index(n->s.rep.wal), 0);
}

static void test_bootstrap_of_a_later_term(void **state)
{
    struct node *n = *state;
    assert_int_equal(bootstrap_after(n, 2, 0), RAFT_CANTBOOTSTRAP);
    assert_int_equal(rguard_wal_last_index(n->s.rep.wal), 0);
}

/* Damaged before it was written, so that the log's own checksum is right. */
static void test_damaged_command_in_the_log(void **state)
{
    struct node *n = *state;
    uint8_t bytes[BYTES];
    fill(bytes);
    bytes[BYTES - 1] ^= 1;
    struct rguard_wal_record rec = {
        .index = 1, .term = 1, .type = RAFT_COMMAND, .len = BYTES, .data = bytes};
    assert_int_equal(rguard_wal_append(n->s.rep.wal, &rec, 1, NULL, NULL), 0);
    assert_int_equal(rguard_wal_flush(n->s.rep.wal), 0);
    assert_int_equal(load(n).rv, RAFT_CORRUPT);
    switch_off("envelope");
    assert_int_equal(load(n).rv, 0);
}

int main(void)
{
#define IO_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        IO_TEST(test_one_vote_a_term),
        IO_TEST(test_nothing_overtakes_the_vote),
        IO_TEST(test_vote_that_cannot_be_written),
        IO_TEST(test_callback_from_the_loop),
        IO_TEST(test_failure_is_reported_later),
        IO_TEST(test_what_never_leaves),
        IO_TEST(test_results_are_clamped),
        IO_TEST(test_long_append_is_split),
        IO_TEST(test_shortest_and_longest),
        IO_TEST(test_vote_is_repeated_on_a_new_link),
        IO_TEST(test_append),
        IO_TEST(test_failed_write_is_the_last_word),
        IO_TEST(test_muted_appends_nothing),
        IO_TEST(test_damage_before_the_append),
        IO_TEST(test_logs_that_have_come_apart),
        IO_TEST(test_delivery),
        IO_TEST(test_damage_on_arrival),
        IO_TEST(test_what_is_not_delivered),
        IO_TEST(test_bootstrap_once),
        IO_TEST(test_bootstrap_cut_short),
        IO_TEST(test_bootstrap_of_a_node_that_voted),
        IO_TEST(test_bootstrap_of_a_later_term),
        IO_TEST(test_damaged_command_in_the_log),
    };
    return cmocka_run_group_tests_name("io", tests, NULL, NULL);
}
