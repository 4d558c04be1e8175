/* SPDX-License-Identifier: Apache-2.0 */
/* struct raft_io on our log and our channel.
 *
 * Happy path
 *   append      one rguard_wal_append() per call; the log batches what arrives during a write
 *   term, vote  kept in memory until something could leave the node, then written as one
 *               generation: a vote costs one durable write, no message and no entry overtakes it
 *   send        encoded, split into frames of about 1 MiB, copied; the callback comes from the loop
 *
 * Failure modes
 *   append fails     the log is poisoned. Contained, notice sent; the process then ends and a
 *                    supervisor restarts it (D1, D2, rung R3). libraft 0.15 is never told: its answer
 *                    to the second of two failed appends is to truncate its log at an index that is
 *                    already gone, and to crash
 *   metadata fails   the same, before anything has left
 *   send fails       never reported synchronously: libraft 0.15 frees an AppendEntries twice when the
 *                    answer to it cannot be sent
 *   message damaged  dropped and counted; the frame's checksum, then every envelope, is checked
 *                    before libraft sees an entry */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <raftguard/failpoint.h>
#include <raftguard/testing.h>
#include <raftguard/trace.h>

#include "raftlog_internal.h"

static rguard_replica *replica_of(struct raft_io *io)
{
    return io->impl;
}

/* ---- libraft's log in memory ----------------------------------------------------------------- */

raft_index rguard__log_last(const struct raft *r)
{
    const struct raft_log *l = &r->log;
    size_t n = l->front <= l->back ? l->back - l->front : l->size - l->front + l->back;
    return l->offset + n;
}

raft_term rguard__log_term(const struct raft *r, raft_index index)
{
    const struct raft_log *l = &r->log;
    if (index != 0 && index == l->snapshot.last_index) {
        return l->snapshot.last_term;
    }
    if (index <= l->offset || index > rguard__log_last(r)) {
        return 0;
    }
    return l->entries[(l->front + (size_t)(index - l->offset - 1)) % l->size].term;
}

/* ---- term and vote --------------------------------------------------------------------------- */

static void storage_failed(rguard_replica *rep, int status, const char *what);

int rguard__io_meta_flush(rguard_replica *rep)
{
    if (!rep->meta_dirty) {
        return 0;
    }
    int rv = rguard_wal_meta_set(rep->wal, rep->meta_term, rep->meta_vote);
    if (rv != 0) {
        storage_failed(rep, rv, "term and vote");
        return rv;
    }
    rep->meta_dirty = false;
    return 0;
}

static int io_set_term(struct raft_io *io, raft_term term)
{
    rguard_replica *rep = replica_of(io);
    if (term < rep->meta_term) {
        return RAFT_INVALID;
    }
    if (term > rep->meta_term) {
        rep->meta_term = term;
        rep->meta_vote = 0;
        rep->meta_dirty = true;
    }
    return 0;
}

/* D5, D14: one vote a term, whatever libraft thinks. */
static int io_set_vote(struct raft_io *io, raft_id id)
{
    rguard_replica *rep = replica_of(io);
    if (rep->meta_vote != 0 && rep->meta_vote != id) {
        rguard__replica_log(rep, RGUARD_LOG_ERROR,
                            "second vote in term %llu refused: %llu, had %llu",
                            (unsigned long long)rep->meta_term, (unsigned long long)id,
                            (unsigned long long)rep->meta_vote);
        return RAFT_INVALID;
    }
    rep->meta_dirty = rep->meta_dirty || rep->meta_vote != id;
    rep->meta_vote = id;
    return 0;
}

/* ---- appends --------------------------------------------------------------------------------- */

/* The log on disk can no longer be extended. Everything that follows happens in this order because
 * a leader that reports a failed append while it still leads lets the replicas diverge (D1). */
static void storage_failed(rguard_replica *rep, int status, const char *what)
{
    if (rep->dead) {
        return;
    }
    rep->dead = true;
    rguard__replica_log(rep, RGUARD_LOG_ERROR, "storage failed: %s: %s; %s", what,
                        rguard_strerror(status), "nothing more is accepted");
    rguard__gasp(rep);
    if (rep->ladder == RGUARD_LADDER_SERVING || rep->ladder == RGUARD_LADDER_PROBATION) {
        rguard__ladder_move(rep, RGUARD_LADDER_VIOLATED);
        rguard__ladder_move(rep, RGUARD_LADDER_CONTAINED);
    }
}

static void append_done(void *user, int status)
{
    struct rguard_append_req *a = user;
    rguard_replica *rep = a->rep;
    struct raft_io_append *req = a->req;
    raft_io_append_cb cb = a->cb;
    a->next = rep->append_free;
    rep->append_free = a;
    rep->appends_in_flight--;
    if (status != 0) {
        storage_failed(rep, status, "log append");
        return; /* the turn that this is part of ends the process */
    }
    cb(req, 0);
}

static struct rguard_append_req *append_get(rguard_replica *rep)
{
    struct rguard_append_req *a = rep->append_free;
    if (a != NULL) {
        rep->append_free = a->next;
        return a;
    }
    return malloc(sizeof *a);
}

static int reserve_records(rguard_replica *rep, unsigned n)
{
    if (n > rep->records_cap) {
        struct rguard_wal_record *records = realloc(rep->records, n * sizeof *records);
        if (records == NULL) {
            return -ENOMEM;
        }
        rep->records = records;
        rep->records_cap = n;
    }
    return 0;
}

/* A command whose envelope is damaged before it ever reached the disk: this node's memory is bad. */
static bool entries_intact(rguard_replica *rep, const struct raft_entry *entries, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (entries[i].type == RAFT_COMMAND &&
            rguard__envelope_check(entries[i].buf.base, entries[i].buf.len) != 0) {
            rep->bad_envelopes++;
            return false;
        }
    }
    return true;
}

static int io_append(struct raft_io *io, struct raft_io_append *req,
                     const struct raft_entry entries[], unsigned n, raft_io_append_cb cb)
{
    rguard_replica *rep = replica_of(io);
    if (rep->muted || rep->dead || rguard__io_meta_flush(rep) != 0) {
        return RAFT_IOERR;
    }
    if (!entries_intact(rep, entries, n)) {
        rguard__replica_die(rep, "a command was damaged in memory before it was appended");
    }
    struct rguard_append_req *a = append_get(rep);
    if (a == NULL || reserve_records(rep, n) != 0) {
        free(a);
        return RAFT_NOMEM;
    }
    uint64_t last = rguard_wal_last_index(rep->wal);
    if (last + n != rguard__log_last(rep->raft)) {
        rguard__replica_die(rep, "the log in memory and the log on disk have come apart");
    }
    for (unsigned i = 0; i < n; i++) {
        rep->records[i] = (struct rguard_wal_record){.index = last + 1 + i,
                                                     .term = entries[i].term,
                                                     .type = entries[i].type,
                                                     .len = (uint32_t)entries[i].buf.len,
                                                     .data = entries[i].buf.base};
    }
    *a = (struct rguard_append_req){.rep = rep, .req = req, .cb = cb};
    int rv = rguard_wal_append(rep->wal, rep->records, n, append_done, a);
    if (rv != 0) {
        a->next = rep->append_free;
        rep->append_free = a;
        storage_failed(rep, rv, "log append");
        return RAFT_IOERR;
    }
    rep->appends_in_flight++;
    return 0;
}

static int io_truncate(struct raft_io *io, raft_index index)
{
    rguard_replica *rep = replica_of(io);
    int rv = rep->dead ? RGUARD_EPOISONED : rguard_wal_truncate_suffix(rep->wal, index);
    if (rv != 0) {
        storage_failed(rep, rv, "log truncation");
        return RAFT_IOERR;
    }
    return 0;
}

void rguard__io_wal_arm(rguard_replica *rep)
{
    int ms = rguard_wal_timeout_ms(rep->wal);
    if (ms < 0) {
        rep->net->disarm(rep->channel, RGUARD_TIMER_WAL);
    } else {
        rep->net->arm(rep->channel, RGUARD_TIMER_WAL, (uint64_t)ms);
    }
}

/* Submits what is queued and runs completions: each is a turn into libraft. */
void rguard__io_wal_turn(rguard_replica *rep)
{
    if (rep->wal != NULL && rguard_wal_process(rep->wal) != 0 && !rep->dead) {
        storage_failed(rep, rguard_wal_poisoned(rep->wal), "log");
    }
}

/* ---- load and bootstrap ---------------------------------------------------------------------- */

static int load_entries(rguard_replica *rep, uint64_t first, struct raft_entry *entries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        struct rguard_wal_record rec;
        int rv = rguard_wal_stat(rep->wal, first + i, &rec);
        if (rv != 0) {
            return rv;
        }
        void *data = raft_malloc(rec.len > 0 ? rec.len : 1);
        if (data == NULL) {
            return -ENOMEM;
        }
        /* A batch of its own for each entry: libraft searches the whole log for others of a batch.
         */
        entries[i].batch = data;
        entries[i].buf = (struct raft_buffer){data, rec.len};
        rv = rguard_wal_read(rep->wal, first + i, &rec, data, rec.len);
        if (rv != 0) {
            return rv;
        }
        entries[i].term = rec.term;
        entries[i].type = (unsigned short)rec.type;
        if (rec.type == RAFT_COMMAND && rguard__envelope_check(data, rec.len) != 0) {
            return RGUARD_ECORRUPT;
        }
    }
    return 0;
}

/* Makes log and snapshot fit each other. A crash between a snapshot that came from the leader and
 * its RESET leaves a log that is older or of another history: it is dropped as a whole. */
static int reconcile(rguard_replica *rep, const struct raft_snapshot *s)
{
    uint64_t first = rguard_wal_first_index(rep->wal);
    uint64_t last = rguard_wal_last_index(rep->wal);
    struct rguard_wal_record at;
    if (s == NULL) {
        if (first > 1 || (first == 0 && last > 0)) {
            return RGUARD_ECORRUPT; /* entries were dropped behind a snapshot that is not there */
        }
        return 0;
    }
    if (first == 0 && last == s->index) {
        return 0;
    }
    if (first != 0 && first <= s->index && last >= s->index) {
        int rv = rguard_wal_stat(rep->wal, s->index, &at);
        return rv == 0 && at.term != s->term ? rguard_wal_reset(rep->wal, s->index, s->term) : rv;
    }
    if (first == s->index + 1) {
        return 0;
    }
    if (last < s->index) {
        return rguard_wal_reset(rep->wal, s->index, s->term);
    }
    return RGUARD_ECORRUPT; /* a gap between the snapshot and the first entry */
}

static void free_entries(struct raft_entry *entries, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        raft_free(entries[i].batch);
    }
    raft_free(entries);
}

static int load_failed(struct raft_io *io, int rv)
{
    snprintf(io->errmsg, sizeof io->errmsg, "%s", rguard_strerror(rv));
    return rv == RGUARD_ECORRUPT || rv == RGUARD_ECHECKSUM ? RAFT_CORRUPT
           : rv == -ENOMEM                                 ? RAFT_NOMEM
                                                           : RAFT_IOERR;
}

static void snapshot_free(struct raft_snapshot *s)
{
    if (s != NULL) {
        raft_configuration_close(&s->configuration);
        raft_free(s->bufs[0].base);
        raft_free(s->bufs);
        raft_free(s);
    }
}

static int io_load(struct raft_io *io, raft_term *term, raft_id *voted_for,
                   struct raft_snapshot **snapshot, raft_index *start_index,
                   struct raft_entry *entries[], size_t *n_entries)
{
    rguard_replica *rep = replica_of(io);
    struct raft_snapshot *s;
    int rv = rguard__snapshot_load(rep, &s);
    if (rv != 0) {
        return load_failed(io, rv);
    }
    rv = reconcile(rep, s);
    if (rv != 0) {
        goto err;
    }
    uint64_t first = rguard_wal_first_index(rep->wal);
    size_t n = first == 0 ? 0 : (size_t)(rguard_wal_last_index(rep->wal) - first + 1);
    *entries = NULL;
    if (n > 0) {
        *entries = raft_calloc(n, sizeof **entries);
        rv = *entries == NULL ? -ENOMEM : load_entries(rep, first, *entries, n);
        if (rv != 0) {
            goto err_after_entries;
        }
    }
    rguard_wal_meta_get(rep->wal, &rep->meta_term, &rep->meta_vote);
    rep->meta_dirty = false;
    *term = rep->meta_term;
    *voted_for = rep->meta_vote;
    *snapshot = s;
    *start_index = first != 0 ? first : s != NULL ? s->index + 1 : 1;
    *n_entries = n;
    return 0;
err_after_entries:
    if (*entries != NULL) {
        free_entries(*entries, n);
    }
err:
    snapshot_free(s);
    return load_failed(io, rv);
}

static int io_bootstrap(struct raft_io *io, const struct raft_configuration *conf)
{
    rguard_replica *rep = replica_of(io);
    struct raft_buffer buf;
    uint64_t term, vote;
    rguard_wal_meta_get(rep->wal, &term, &vote);
    if (rguard_wal_last_index(rep->wal) != 0 || term > 1 || vote != 0) {
        return RAFT_CANTBOOTSTRAP;
    }
    int rv = raft_configuration_encode(conf, &buf);
    if (rv != 0) {
        return rv;
    }
    struct rguard_wal_record rec = {
        .index = 1, .term = 1, .type = RAFT_CHANGE, .len = (uint32_t)buf.len, .data = buf.base};
    rv = rguard_wal_meta_set(rep->wal, 1, 0);
    if (rv == 0) {
        rv = rguard_wal_append(rep->wal, &rec, 1, NULL, NULL);
    }
    if (rv == 0) {
        rv = rguard_wal_flush(rep->wal);
    }
    raft_free(buf.base);
    return rv == 0 ? 0 : RAFT_IOERR;
}

static int io_recover(struct raft_io *io, const struct raft_configuration *conf)
{
    (void)conf;
    snprintf(io->errmsg, sizeof io->errmsg, "forcing a configuration is not supported");
    return RAFT_INVALID;
}

/* ---- messages out ---------------------------------------------------------------------------- */

static struct rguard_sending *sending_get(rguard_replica *rep)
{
    struct rguard_sending *s = rep->sending_free;
    if (s != NULL) {
        rep->sending_free = s->next;
        return s;
    }
    return malloc(sizeof *s);
}

static void sending_finish(rguard_replica *rep, struct rguard_sending *s)
{
    struct raft_io_send *req = s->req;
    raft_io_send_cb cb = s->cb;
    int status = s->status == 0 ? 0 : RAFT_NOCONNECTION;
    s->next = rep->sending_free;
    rep->sending_free = s;
    if (cb != NULL) {
        cb(req, status);
    }
}

static void sending_part_done(void *user, int status)
{
    struct rguard_sending *s = user;
    s->status = status != 0 ? status : s->status;
    if (--s->parts > 0) {
        return;
    }
    rguard_replica *rep = s->rep;
    rguard__turn_begin(rep);
    sending_finish(rep, s);
    rguard__turn_end(rep);
}

/* Nothing could be queued: libraft hears of it from the loop. */
static void sending_failed(rguard_replica *rep, struct rguard_sending *s)
{
    rep->send_dropped++;
    s->status = -ENOTCONN;
    s->next = rep->sends_failed;
    rep->sends_failed = s;
    rep->net->arm(rep->channel, RGUARD_TIMER_SOON, 0);
}

void rguard__io_sends_failed(rguard_replica *rep)
{
    while (rep->sends_failed != NULL) {
        struct rguard_sending *s = rep->sends_failed;
        rep->sends_failed = s->next;
        sending_finish(rep, s);
    }
}

static int send_frame(rguard_replica *rep, const struct raft_message *m, unsigned first, unsigned n,
                      struct rguard_sending *s)
{
    struct iovec iov[2];
    int rv = rguard__rpc_encode(&rep->out, m, first, n);
    if (rv != 0) {
        return rv;
    }
    iov[0] = (struct iovec){rep->out.bytes, rep->out.len};
    if (m->type == RAFT_IO_INSTALL_SNAPSHOT) {
        iov[1] = (struct iovec){m->install_snapshot.data.base, m->install_snapshot.data.len};
    }
    s->parts++;
    rv = rep->net->send(rep->channel, m->server_id, m->type, iov,
                        m->type == RAFT_IO_INSTALL_SNAPSHOT ? 2 : 1, sending_part_done, s);
    if (rv != 0) {
        s->parts--;
    }
    return rv;
}

/* How many entries from @first on fit one frame; at least one. */
static unsigned chunk(const struct raft_append_entries *a, unsigned first)
{
    size_t bytes = 0;
    unsigned n = 0;
    while (first + n < a->n_entries && n < RGUARD_MAX_ENTRIES) {
        bytes += a->entries[first + n].buf.len + 16;
        if (n > 0 && bytes > RGUARD_FRAME_CHUNK) {
            break;
        }
        n++;
    }
    return n;
}

static int send_message(rguard_replica *rep, const struct raft_message *m, struct rguard_sending *s)
{
    unsigned first = 0;
    if (m->type != RAFT_IO_APPEND_ENTRIES) {
        return send_frame(rep, m, 0, 0, s);
    }
    do {
        unsigned n = chunk(&m->append_entries, first);
        int rv = send_frame(rep, m, first, n, s);
        if (rv != 0) {
            return rv;
        }
        first += n;
    } while (first < m->append_entries.n_entries);
    return 0;
}

static int io_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                   raft_io_send_cb cb)
{
    rguard_replica *rep = replica_of(io);
    struct raft_message m = *message;
    struct rguard_sending *s = sending_get(rep);
    if (s == NULL) {
        return RAFT_NOMEM;
    }
    *s = (struct rguard_sending){.req = req, .cb = cb, .rep = rep, .parts = 1};
    if (m.type == RAFT_IO_TIMEOUT_NOW || rguard__io_meta_flush(rep) != 0 || rep->muted) {
        sending_failed(rep, s);
        return 0;
    }
    rguard__cure_outgoing(rep, &m);
    if (m.type == RAFT_IO_REQUEST_VOTE) {
        rep->vote = m;
    }
    rep->net->peer(rep->channel, m.server_id, m.server_address);
    int rv = send_message(rep, &m, s);
    if (rv != 0 && s->parts == 1) {
        sending_failed(rep, s);
    } else {
        s->status = rv;
        s->parts--; /* the frames' own completions remain */
    }
    return 0;
}

/* A candidate repeats its request on a fresh connection: it is idempotent, and the first one may
 * have gone into a connection whose other end had just died. */
void rguard__io_link(void *user, uint64_t peer, bool up)
{
    rguard_replica *rep = user;
    const struct raft *r = rep->raft;
    if (!up || rep->muted || r->state != RAFT_CANDIDATE || rep->vote.type != RAFT_IO_REQUEST_VOTE) {
        return;
    }
    uint64_t term = r->candidate_state.in_pre_vote ? r->current_term + 1 : r->current_term;
    if (rep->vote.request_vote.term != term || rguard__io_meta_flush(rep) != 0 ||
        rguard__rpc_encode(&rep->out, &rep->vote, 0, 0) != 0) {
        return;
    }
    struct iovec iov = {rep->out.bytes, rep->out.len};
    rep->net->send(rep->channel, peer, RAFT_IO_REQUEST_VOTE, &iov, 1, NULL, NULL);
}

/* ---- messages in ----------------------------------------------------------------------------- */

static const char *address_of(const rguard_replica *rep, uint64_t id)
{
    const struct raft *r = rep->raft;
    for (unsigned i = 0; i < r->configuration.n; i++) {
        if (r->configuration.servers[i].id == id) {
            return r->configuration.servers[i].address;
        }
    }
    for (size_t i = 0; i < rep->opt.n_peers; i++) {
        if (rep->opt.peers[i].id == id) {
            return rep->opt.peers[i].address;
        }
    }
    return NULL;
}

void rguard__io_deliver(rguard_replica *rep, struct raft_message *m)
{
    if (rep->muted || rep->dead || rep->recv_cb == NULL || rep->close_cb != NULL) {
        rguard__rpc_discard(m);
        return;
    }
    rguard__cure_incoming(rep, m);
    rep->recv_cb(&rep->io, m);
}

void rguard__io_frame(void *user, uint64_t peer, uint16_t type, const uint8_t *body, size_t len)
{
    rguard_replica *rep = user;
    struct raft_message m;
    if (!rep->started) {
        return;
    }
    if (type == RGUARD_FRAME_DIGEST_ASK || type == RGUARD_FRAME_DIGEST) {
        rguard__probation_frame(rep, peer, type, body, len);
        return;
    }
    m.server_address = address_of(rep, peer);
    const char *address = m.server_address;
    int rv = address != NULL ? rguard__rpc_decode(type, body, len, &m) : RGUARD_EPROTO;
    if (rv != 0) {
        rguard__replica_log(rep, RGUARD_LOG_WARN, "message of type %u from peer %llu dropped: %s",
                            type, (unsigned long long)peer, rguard_strerror(rv));
        return;
    }
    m.server_id = peer;
    m.server_address = address;
    if (m.type == RAFT_IO_APPEND_ENTRIES &&
        !entries_intact(rep, m.append_entries.entries, m.append_entries.n_entries)) {
        rguard__replica_log(rep, RGUARD_LOG_ERROR,
                            "peer %llu sent a command with a damaged envelope",
                            (unsigned long long)peer);
        rguard__rpc_discard(&m);
        return;
    }
    rguard__turn_begin(rep);
    rguard__io_deliver(rep, &m);
    rguard__turn_end(rep);
}

/* ---- life ------------------------------------------------------------------------------------ */

static int io_init(struct raft_io *io, raft_id id, const char *address)
{
    (void)io;
    (void)id;
    (void)address;
    return 0;
}

static int io_start(struct raft_io *io, unsigned msecs, raft_io_tick_cb tick, raft_io_recv_cb recv)
{
    rguard_replica *rep = replica_of(io);
    const struct raft *r = rep->raft;
    rep->tick_ms = msecs;
    rep->tick_cb = tick;
    rep->recv_cb = recv;
    for (unsigned i = 0; i < r->configuration.n; i++) {
        rep->net->peer(rep->channel, r->configuration.servers[i].id,
                       r->configuration.servers[i].address);
    }
    if (rep->net->watch(rep->channel, rguard_wal_fd(rep->wal)) != 0 ||
        rep->net->start(rep->channel) != 0) {
        return RAFT_IOERR;
    }
    rep->net->arm(rep->channel, RGUARD_TIMER_TICK, msecs);
    return 0;
}

static void io_channel_closed(void *user)
{
    rguard_replica *rep = user;
    rep->channel = NULL;
    rguard__io_sends_failed(rep);
    rep->wal_close_status = rguard_wal_close(rep->wal); /* runs what is in flight to its end */
    rep->wal = NULL;
    rep->close_cb(&rep->io);
}

static void io_close(struct raft_io *io, raft_io_close_cb cb)
{
    rguard_replica *rep = replica_of(io);
    rep->close_cb = cb;
    rep->net->close(rep->channel, io_channel_closed, rep);
}

static raft_time io_time(struct raft_io *io)
{
    rguard_replica *rep = replica_of(io);
    return rep->net->now_ms(rep->channel);
}

static int io_random(struct raft_io *io, int min, int max)
{
    rguard_replica *rep = replica_of(io);
    uint32_t span = max > min ? (uint32_t)(max - min) : 1u;
    return min + (int)(rep->net->random(rep->channel) % span);
}

void rguard__io_init(rguard_replica *rep)
{
    rep->io = (struct raft_io){.version = 1,
                               .impl = rep,
                               .init = io_init,
                               .close = io_close,
                               .load = io_load,
                               .start = io_start,
                               .bootstrap = io_bootstrap,
                               .recover = io_recover,
                               .set_term = io_set_term,
                               .set_vote = io_set_vote,
                               .send = io_send,
                               .append = io_append,
                               .truncate = io_truncate,
                               .snapshot_put = rguard__snapshot_put,
                               .snapshot_get = rguard__snapshot_get,
                               .time = io_time,
                               .random = io_random};
}
