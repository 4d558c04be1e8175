/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_RAFTLOG_INTERNAL_H
#define RGUARD_RAFTLOG_INTERNAL_H

#include <raftguard/channel.h>
#include <raftguard/disk.h>
#include <raftguard/raftlog.h>
#include <raftguard/wal.h>

/* One replica, and who owns which part of it:
 *
 *   replica.c   life cycle, the settle() after every turn
 *   requests.c  proposals, reads, hand-over, information
 *   io.c        struct raft_io: log, metadata, messages
 *   rpc.c       bytes of messages and configurations
 *   fsm.c       struct raft_fsm: envelope, window, rewind
 *   ladder.c    which recovery state may follow which
 *   handover.c  notices: sending them from a dying leader, acting on them
 *   cures.c     what stock libraft gets wrong (D1, D8, D11, D13)
 *   probation.c digests asked of the peers after a rollback
 *   snapshot.c  snapshot files
 *
 * A turn is one call from the loop into libraft (a message, a tick, a completion, a proposal).
 * libraft is never entered from inside itself, except for the step-down in fsm.apply and for
 * proposals that an application makes in its callbacks; whatever a turn makes necessary is done by
 * settle() in replica.c when the outermost turn has returned. */

/* ---- frames ---------------------------------------------------------------------------------- */

enum {
    /* 1..6 are libraft's RAFT_IO_ codes. */
    RGUARD_FRAME_DIGEST_ASK = 17, /* u64 index */
    RGUARD_FRAME_DIGEST = 18      /* u64 index, u64 digest, u64 known */
};

#define RGUARD_FRAME_CHUNK (1u << 20) /* an AppendEntries is split into frames of this size */
#define RGUARD_MAX_ENTRIES 65536u     /* in one frame */
#define RGUARD_MAX_ADDRESS 64u

struct rguard_rpc_out
{
    uint8_t *bytes; /* malloc()ed, kept and grown between messages */
    size_t len, cap;
};

/* Encodes everything of @m but, for AppendEntries, only entries [first, first + n) with the
 * matching prev index and term, and, for InstallSnapshot, all but the data, which follows as it is.
 */
int rguard__rpc_encode(struct rguard_rpc_out *out, const struct raft_message *m, unsigned first,
                       unsigned n);

/* Decodes a frame. Entries, configuration and snapshot data are raft_malloc()ed and belong to
 * libraft once the message is delivered, else to rguard__rpc_discard(). RGUARD_EPROTO, -ENOMEM. */
int rguard__rpc_decode(uint16_t type, const uint8_t *body, size_t len, struct raft_message *out);
void rguard__rpc_discard(struct raft_message *m);

size_t rguard__conf_size(const struct raft_configuration *conf);
uint8_t *rguard__conf_encode(uint8_t *p, const struct raft_configuration *conf);
int rguard__conf_decode(const uint8_t *p, size_t len, struct raft_configuration *conf);

/* ---- envelope -------------------------------------------------------------------------------- */

#define RGUARD_ENVELOPE_BYTES 16u
void rguard__envelope_write(uint8_t *head, const void *cmd, size_t len);
/* 0, or RGUARD_ECHECKSUM when @buf is not one intact envelope. */
int rguard__envelope_check(const void *buf, size_t len);

/* ---- handover -------------------------------------------------------------------------------- */

struct rguard_gasp; /* the sealed page */

struct rguard_handover_state
{
    struct rguard_gasp *gasp;
    bool wanted;          /* a valid notice was received and has not been acted on */
    uint64_t wanted_term; /* term and leader it spoke of */
    uint64_t wanted_leader;
    uint64_t wanted_at_ms; /* own rank's turn */
    uint64_t give_up_ms;
    bool campaigning; /* the present candidacy began by notice */
};

/* ---- replica --------------------------------------------------------------------------------- */

#define RGUARD_DIGEST_RING 8192u

struct rguard_digest_at
{
    uint64_t index, digest;
};

struct rguard_cures
{
    /* D8 */
    uint64_t leader_heard_ms;
    /* D11: successes held back until the own-term barrier is durable; the latest of each peer */
    uint64_t barrier_index;
    struct raft_message held[RGUARD_CHANNEL_MAX_PEERS];
    char held_address[RGUARD_CHANNEL_MAX_PEERS][RGUARD_MAX_ADDRESS];
    unsigned n_held;
    /* D13 */
    uint64_t matched_term, matched_index;
};

struct rguard_digest_asked
{
    uint64_t peer, index;
};

struct rguard_probation
{
    uint64_t index;  /* asked about */
    uint64_t digest; /* own, at that index */
    uint64_t agreed[RGUARD_CHANNEL_MAX_PEERS];
    unsigned n_agreed;
    struct rguard_digest_asked asked[RGUARD_CHANNEL_MAX_PEERS]; /* by peers, not yet answered */
    unsigned n_asked;
};

struct rguard_propose_req
{
    struct raft_apply apply;
    rguard_replica *rep;
    rguard_propose_cb cb;
    void *user;
    size_t bytes;
    struct rguard_propose_req *next;
};

struct rguard_read_req
{
    rguard_read_cb cb;
    void *user;
    struct rguard_read_req *next;
};

struct rguard_append_req
{
    rguard_replica *rep;
    struct raft_io_append *req;
    raft_io_append_cb cb;
    struct rguard_append_req *next;
};

/* One message on its way to libraft's callback; AppendEntries may be several frames. */
struct rguard_sending
{
    struct raft_io_send *req;
    raft_io_send_cb cb;
    rguard_replica *rep;
    unsigned parts; /* frames not yet written, and one while they are being queued */
    int status;
    struct rguard_sending *next;
};

struct rguard_replica
{
    struct rguard_replica_options opt;
    struct rguard_engine engine;
    struct raft *raft;
    struct raft_io io;
    struct raft_fsm fsm;
    struct rguard_channel *channel;
    const struct rguard_channel_ops *net;
    rguard_wal *wal;
    struct rguard_wal_report wal_report;
    struct rguard_disk *disk; /* snapshots */
    rguard_window *window;    /* NULL when the engine keeps no arenas */
    uint64_t nonce;

    /* io.c */
    raft_io_tick_cb tick_cb;
    raft_io_recv_cb recv_cb;
    raft_io_close_cb close_cb;
    unsigned tick_ms;
    bool meta_dirty; /* term or vote is newer in memory than on disk: nothing may leave */
    uint64_t meta_term, meta_vote;
    struct rguard_rpc_out out;
    struct rguard_append_req *append_free;
    unsigned appends_in_flight;
    struct rguard_sending *sending_free, *sends_failed;
    int wal_close_status;
    struct raft_message vote; /* last RequestVote of the present candidacy, for reconnects */
    struct rguard_wal_record *records;
    size_t records_cap;

    /* fsm.c */
    const void *cmd;
    size_t cmd_len;
    void *result;
    volatile bool applying;
    uint64_t digest; /* after last_applied */
    struct rguard_digest_at *digests;
    uint64_t retry_index; /* entry of the last violation */
    unsigned retry_count;

    /* recovery */
    uint32_t ladder;
    bool muted; /* CONTAINED and beyond: sends, acknowledges and receives nothing */
    struct rguard_handover_state handover;
    struct rguard_cures cures;
    struct rguard_probation probation;

    /* replica.c */
    int seen_role;
    uint64_t seen_term, seen_leader;
    unsigned turn_depth;
    bool started, closing, dead;
    struct rguard_peer peers[RGUARD_CHANNEL_MAX_PEERS];
    void (*closed)(void *user);
    void *closed_user;
    uint64_t close_deadline_ms;
    struct rguard_propose_req *propose_free;
    size_t inflight_bytes;
    struct rguard_read_req *reads_waiting, **reads_waiting_tail, *reads_running, *read_free;
    struct raft_barrier read_barrier, term_barrier;
    bool read_barrier_busy, term_barrier_busy;

    uint64_t violations, rewinds, notices_sent, notices_received, elections_by_notice;
    uint64_t bad_envelopes, send_dropped;
};

void rguard__replica_log(rguard_replica *rep, int level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* replica.c: every call from the loop into libraft stands between these; the outermost end settles.
 */
void rguard__turn_begin(rguard_replica *rep);
void rguard__turn_end(rguard_replica *rep);
/* Records, sends the notice if this node leads, and ends the process with SIGABRT: rung R3. */
__attribute__((noreturn)) void rguard__replica_die(rguard_replica *rep, const char *why);

/* requests.c */
void rguard__reads_issue(rguard_replica *rep); /* everything that waits shares one barrier */
void rguard__reads_cancel(rguard_replica *rep);

/* io.c */
void rguard__io_init(rguard_replica *rep);
int rguard__io_meta_flush(rguard_replica *rep);
void rguard__io_deliver(rguard_replica *rep, struct raft_message *m); /* into libraft, one turn */
void rguard__io_frame(void *user, uint64_t peer, uint16_t type, const uint8_t *body, size_t len);
void rguard__io_link(void *user, uint64_t peer, bool up);
void rguard__io_wal_turn(rguard_replica *rep);
void rguard__io_sends_failed(rguard_replica *rep);
void rguard__io_wal_arm(rguard_replica *rep);

/* fsm.c */
void rguard__fsm_init(rguard_replica *rep);
const struct rguard_digest_at *rguard__digest_at(const rguard_replica *rep, uint64_t index);

/* What libraft's in-memory log says; 0 when the index is not in it. */
raft_term rguard__log_term(const struct raft *r, raft_index index);
raft_index rguard__log_last(const struct raft *r);

/* ladder.c: asserts that the move is allowed and that the invariant of the new state holds. */
void rguard__ladder_move(rguard_replica *rep, uint32_t to);
bool rguard__ladder_allows(uint32_t from, uint32_t to);
bool rguard__may_campaign(const rguard_replica *rep);

/* handover.c */
int rguard__handover_open(rguard_replica *rep);
void rguard__handover_close(rguard_replica *rep);
void rguard__handover_lead(rguard_replica *rep);   /* this node became leader */
void rguard__handover_follow(rguard_replica *rep); /* it no longer is */
void rguard__handover_acked(rguard_replica *rep, uint64_t peer, uint64_t index);
unsigned rguard__gasp(rguard_replica *rep); /* async-signal-safe; peers reached */
void rguard__handover_notice(void *user, const uint8_t *bytes, size_t len);
void rguard__handover_poll(rguard_replica *rep); /* acts on a wanted campaign when it may */

/* cures.c */
void rguard__cure_incoming(rguard_replica *rep, struct raft_message *m);
void rguard__cure_outgoing(rguard_replica *rep, struct raft_message *m);
void rguard__cure_settle(rguard_replica *rep);
void rguard__step_down(rguard_replica *rep); /* D1; also safe inside fsm.apply */

/* probation.c */
void rguard__probation_begin(rguard_replica *rep);
void rguard__probation_ask(rguard_replica *rep);
void rguard__probation_settle(rguard_replica *rep); /* answers what can be answered now */
void rguard__probation_frame(rguard_replica *rep, uint64_t peer, uint16_t type, const uint8_t *body,
                             size_t len);

/* snapshot.c */
int rguard__snapshot_load(rguard_replica *rep, struct raft_snapshot **out);
int rguard__snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                         const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb);
int rguard__snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req,
                         raft_io_snapshot_get_cb cb);

/* Little-endian scalars; every access to bytes of a file or a peer goes through these. */
uint8_t *rguard__put32(uint8_t *p, uint32_t v);
uint8_t *rguard__put64(uint8_t *p, uint64_t v);
uint32_t rguard__get32(const uint8_t *p);
uint64_t rguard__get64(const uint8_t *p);

#endif
