/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_RAFTLOG_H
#define RGUARD_RAFTLOG_H

#include <raftguard/guard.h>

#ifdef __cplusplus
extern "C" {
#endif
#include <raft.h> /* has no C++ guard of its own */
#ifdef __cplusplus
}
#endif

/* raftlog: one guarded replica of a replicated state machine on canonical libraft 0.15.
 *
 * The replica owns raft_init(), raft_start() and raft_close() of the caller's struct raft, because
 * recovery must be able to repeat them. Everything runs on the thread of one libuv loop; no
 * function here may be called from another thread or from a signal handler.
 *
 * SIGNALS. rguard_replica_open() installs the trap of guard.h (SIGSEGV, SIGBUS, SIGILL, SIGFPE,
 * SIGABRT, chained) unless options.keep_signals, and ignores SIGPIPE unless options.keep_sigpipe
 * (libraft's peers die of it otherwise). Nothing else is touched. */

#ifdef __cplusplus
extern "C" {
#endif

struct uv_loop_s;
typedef struct rguard_replica rguard_replica;

/* ---- what an engine implements --------------------------------------------------------------- */

/* Only apply is required. All calls come from the loop thread. */
struct rguard_engine
{
    size_t size; /* sizeof(struct rguard_engine) */
    void *user;

    /* Applies the command of entry @index. Runs inside a window over @arenas (see guard.h for what
     * that allows). @cmd is valid during the call only and may be at any alignment. *result is
     * handed to the proposer's callback and must stay valid until that returns. Must be
     * deterministic. A non-zero return means that the engine cannot apply: the window is undone and
     * the process is stopped as after a FATAL violation, because a replica that skips an entry has
     * diverged. */
    int (*apply)(void *user, uint64_t index, const void *cmd, size_t len, void **result);

    /* Serialises the whole state into one malloc()ed buffer; ownership passes to the caller. An error
     * means "not now", except RGUARD_ECHECKSUM, RGUARD_ECANARY and RGUARD_EVIOLATION: the engine found
     * its state damaged, and the process is stopped as after an IMPRECISE violation. */
    int (*snapshot)(void *user, void **data, size_t *len);

    /* Replaces the whole state. @data is the caller's. @len 0: the empty state. */
    int (*restore)(void *user, const void *data, size_t len);

    /* Content digest of the whole state, cheap (incremental); NULL opts out. */
    uint64_t (*digest)(void *user);

    rguard_arena **arenas; /* where the state lives; may be empty, then no window is opened */
    size_t n_arenas;
};

enum rguard_policy {
    RGUARD_POLICY_ABORT =
        0, /* record, notice, abort: a supervisor restarts the process (rung R3) */
    RGUARD_POLICY_REWIND = 1 /* PRECISE violations are rolled back in place (rung R1); the engine
                              * declares every write with rguard_touch() */
};

enum rguard_log_level { RGUARD_LOG_DEBUG, RGUARD_LOG_INFO, RGUARD_LOG_WARN, RGUARD_LOG_ERROR };

struct rguard_peer
{
    uint64_t id;         /* > 0 */
    const char *address; /* "host:port", numeric IPv4 */
};

struct rguard_replica_options
{
    size_t size;            /* sizeof(struct rguard_replica_options) */
    struct raft *raft;      /* storage only; the replica initialises it */
    struct uv_loop_s *loop; /* the caller runs it */
    const char *dir;        /* must exist; holds log, metadata and snapshots of this node */
    uint64_t id;
    const char *address;  /* raft address "host:port"; notices use UDP on the same port */
    const char *announce; /* NULL, or the application's address, made known to the peers */
    const struct rguard_peer
        *peers; /* all voters, this node included; bootstraps an empty directory
                * and is compared by nothing afterwards: the log decides */
    size_t n_peers;
    const struct rguard_engine *engine;
    unsigned election_ms;        /* 0 = 1000 */
    unsigned heartbeat_ms;       /* 0 = 100 */
    unsigned snapshot_threshold; /* entries between snapshots, 0 = 8192 */
    unsigned snapshot_trailing;  /* entries kept behind one, 0 = 4096 */
    size_t max_inflight_bytes;   /* rguard_propose() answers RGUARD_EBUSY beyond; 0 = 64 MiB */
    size_t max_entry_bytes;      /* 0 = 8 MiB */
    int policy;                  /* enum rguard_policy */
    bool no_notice;              /* a failing leader tells nobody: for measurements */
    bool keep_signals, keep_sigpipe;
    const char *wal_backend;                              /* see wal.h */
    size_t wal_segment_bytes;                             /* see wal.h */
    void (*log)(void *user, int level, const char *line); /* NULL: silent */
    void *log_user;
};

/* Opens the directory (recovery, verification), binds the sockets and does raft_init(). The structs
 * are copied; the strings, the engine and the raft struct must outlive the replica.
 * On failure nothing is left open and @errmsg (may be NULL) explains: a busy port, an unwritable or
 * foreign directory, a corrupt log, another libraft. */
RGUARD_API int rguard_replica_open(const struct rguard_replica_options *options,
                                   rguard_replica **out, char *errmsg, size_t errmsg_cap);

/* Restores the snapshot, replays the log through libraft and starts to take part. RGUARD_EREFUSED when the
 * cluster in the directory knows this node by another address. After a failure the replica must still
 * be closed. */
RGUARD_API int rguard_replica_start(rguard_replica *rep, char *errmsg, size_t errmsg_cap);

/* Closes cleanly (a leader hands over by notice first); @cb runs from the loop when all handles are
 * closed and the struct raft and the replica are gone. Valid in any state after open. */
RGUARD_API void rguard_replica_close(rguard_replica *rep, void (*cb)(void *user), void *user);

/* @status 0: applied here, @result from the engine. RGUARD_ELOST: unknown outcome. */
typedef void (*rguard_propose_cb)(void *user, int status, void *result, uint64_t index);

/* Proposes a command; it is copied into a checksummed envelope. RGUARD_ENOTLEADER, RGUARD_EBUSY,
 * RGUARD_ETOOBIG, RGUARD_ESTATE (contained, poisoned): the callback will not run. */
RGUARD_API int rguard_propose(rguard_replica *rep, const void *cmd, size_t len,
                              rguard_propose_cb cb, void *user);

/* Linearizable read: @cb runs with status 0 when this node was the leader at some moment after the
 * call and has applied everything that was committed then. Reads of one loop turn share one
 * barrier. There are no leases. */
typedef void (*rguard_read_cb)(void *user, int status);
RGUARD_API int rguard_read_barrier(rguard_replica *rep, rguard_read_cb cb, void *user);

/* Hands leadership over by notice, as after a fault but without one. RGUARD_ENOTLEADER. */
RGUARD_API int rguard_handover(rguard_replica *rep);

enum rguard_role {
    RGUARD_ROLE_FOLLOWER = 1,
    RGUARD_ROLE_CANDIDATE = 2,
    RGUARD_ROLE_LEADER = 3,
    RGUARD_ROLE_CONTAINED = 4
};

/* States of the recovery ladder (raftlog/ladder.c). */
#define RGUARD_LADDER_STATES(X)                      \
    X(RGUARD_LADDER_SERVING, 0, "serving")           \
    X(RGUARD_LADDER_VIOLATED, 1, "violated")         \
    X(RGUARD_LADDER_CONTAINED, 2, "contained")       \
    X(RGUARD_LADDER_LOG_VERIFIED, 3, "log_verified") \
    X(RGUARD_LADDER_ROLLED_BACK, 4, "rolled_back")   \
    X(RGUARD_LADDER_PROBATION, 5, "probation")       \
    X(RGUARD_LADDER_REPAIRING, 6, "repairing")       \
    X(RGUARD_LADDER_RESYNCING, 7, "resyncing")       \
    X(RGUARD_LADDER_GASPED, 8, "gasped")             \
    X(RGUARD_LADDER_POISONED, 9, "poisoned")

enum rguard_ladder_state {
#define RGUARD_LADDER_ENUM(name, value, text) name = value,
    RGUARD_LADDER_STATES(RGUARD_LADDER_ENUM)
#undef RGUARD_LADDER_ENUM
};

RGUARD_API const char *rguard_ladder_state_name(uint32_t state);
RGUARD_API const char *rguard_role_name(int role);

struct rguard_replica_info
{
    size_t size;
    int role;        /* enum rguard_role */
    uint32_t ladder; /* enum rguard_ladder_state */
    uint64_t term, last_index, commit_index, applied_index;
    uint64_t digest;             /* at applied_index; 0 without engine.digest */
    uint64_t leader_id;          /* 0: not known */
    const char *leader_announce; /* NULL: not known; valid until the loop runs again */
    uint64_t violations, rewinds, notices_sent, notices_received, elections_by_notice;
    uint64_t bad_frames, bad_envelopes, send_dropped;
    size_t inflight_bytes;
    unsigned peers_connected;
};
RGUARD_API int rguard_replica_info(rguard_replica *rep, struct rguard_replica_info *info);

#ifdef __cplusplus
}
#endif
#endif
