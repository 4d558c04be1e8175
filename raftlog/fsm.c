/* SPDX-License-Identifier: Apache-2.0 */
/* The guarded state machine: libraft's apply, snapshot and restore around the engine's.
 *
 * Happy path
 *   The command's envelope is checked, the engine applies it inside a window over its arenas, the
 *   window commits, the digest is remembered. Only then does libraft answer the client.
 *
 * Failure modes
 *   PRECISE violation, policy REWIND: the leader has sent its notice from the trap; here it steps
 *   down, the entry is verified, the digest must be the one from before the window, and the entry is
 *   applied again (rung R1). libraft never notices.
 *   Envelope damaged in libraft's memory: the same, with the entry read again from the log.
 *   Second violation on one entry: POISONED. Term and index of the entry are durable, nothing is
 *   applied any more, the log is intact.
 *   Anything else: the process ends (rung R3).
 *
 * apply never returns an error to libraft 0.15 (a leader would swallow it), except when POISONED,
 * where everything around it is muted already. */
#include "raftlog_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <raftguard/crc32c.h>
#include <raftguard/failpoint.h>
#include <raftguard/testing.h>
#include <raftguard/trace.h>

#define POISON_FILE  "poison"
#define POISON_MAGIC 0x3153494f50475252ULL /* "RRGPOIS1" */
#define POISON_BYTES 32u

/* ---- digests --------------------------------------------------------------------------------- */

static void remember_digest(rguard_replica *rep, uint64_t index)
{
    if (rep->engine.digest != NULL) {
        rep->digest = rep->engine.digest(rep->engine.user);
        rep->digests[index % RGUARD_DIGEST_RING] =
            (struct rguard_digest_at){.index = index, .digest = rep->digest};
    }
}

const struct rguard_digest_at *rguard__digest_at(const rguard_replica *rep, uint64_t index)
{
    const struct rguard_digest_at *d = &rep->digests[index % RGUARD_DIGEST_RING];
    return index != 0 && d->index == index ? d : NULL;
}

/* ---- poison ---------------------------------------------------------------------------------- */

/* {magic u64, index u64, term u64, count u32, crc32c of the 28 bytes before u32} */
static void poison_store(rguard_replica *rep, uint64_t index, uint64_t term, uint32_t count)
{
    uint8_t bytes[POISON_BYTES];
    uint8_t *p = rguard__put64(bytes, POISON_MAGIC);
    p = rguard__put64(p, index);
    p = rguard__put64(p, term);
    p = rguard__put32(p, count);
    rguard__put32(p, rguard_crc32c(0, bytes, POISON_BYTES - 4));
    struct iovec iov = {bytes, sizeof bytes};
    int rv = rguard__disk_write_file(rep->disk, POISON_FILE, &iov, 1);
    if (rv != 0) {
        rguard__replica_log(rep, RGUARD_LOG_ERROR, "cannot note the failing entry: %s",
                            rguard_strerror(rv));
    }
}

static void poison_load(rguard_replica *rep)
{
    void *data;
    size_t len;
    if (rguard__disk_read_file(rep->disk, POISON_FILE, POISON_BYTES, &data, &len) != 0) {
        return;
    }
    const uint8_t *p = data;
    if (len == POISON_BYTES && rguard__get64(p) == POISON_MAGIC &&
        rguard__get32(p + 28) == rguard_crc32c(0, p, POISON_BYTES - 4)) {
        rep->retry_index = rguard__get64(p + 8);
        rep->retry_count = rguard__get32(p + 24);
    }
    free(data);
}

static void poison_clear(rguard_replica *rep)
{
    rep->retry_index = 0;
    rep->retry_count = 0;
    rep->disk->ops->unlink(rep->disk, POISON_FILE);
}

/* ---- one entry ------------------------------------------------------------------------------- */

static int apply_in_window(void *user)
{
    rguard_replica *rep = user;
    if (RGUARD_FP_IF("raftlog/rollback",
                     "roll back to last_applied as after a precise violation")) {
        rguard_window_raise(RGUARD_V_INJECTED);
    }
    if (rguard__envelope_check(rep->cmd, rep->cmd_len) != 0) {
        rep->bad_envelopes++;
        rguard_window_raise(RGUARD_V_ENVELOPE);
    }
    rep->result = NULL;
    return rep->engine.apply(rep->engine.user, rep->raft->last_applied + 1,
                             (const uint8_t *)rep->cmd + RGUARD_ENVELOPE_BYTES,
                             rep->cmd_len - RGUARD_ENVELOPE_BYTES, &rep->result);
}

/* An engine without arenas has nothing to roll back: its violations are found, not undone. */
static int apply_bare(rguard_replica *rep, uint64_t term, uint64_t index,
                      struct rguard_violation *v)
{
    if (rguard__envelope_check(rep->cmd, rep->cmd_len) != 0) {
        rep->bad_envelopes++;
        *v = (struct rguard_violation){.kind = RGUARD_V_ENVELOPE,
                                       .class_ = RGUARD_CLASS_PRECISE,
                                       .term = term,
                                       .index = index};
        return RGUARD_EVIOLATION;
    }
    rep->result = NULL;
    return rep->engine.apply(rep->engine.user, index,
                             (const uint8_t *)rep->cmd + RGUARD_ENVELOPE_BYTES,
                             rep->cmd_len - RGUARD_ENVELOPE_BYTES, &rep->result);
}

/* @return 0 with rep->cmd pointing to an intact envelope: the entry in memory, or its copy on disk.
 */
static int verify_entry(rguard_replica *rep, uint64_t index, void **copy)
{
    struct rguard_wal_record rec;
    if (rguard__envelope_check(rep->cmd, rep->cmd_len) == 0) {
        return 0;
    }
    int rv = rguard_wal_stat(rep->wal, index, &rec);
    if (rv != 0) {
        return rv;
    }
    *copy = malloc(rec.len > 0 ? rec.len : 1);
    if (*copy == NULL) {
        return -ENOMEM;
    }
    rv = rguard_wal_read(rep->wal, index, &rec, *copy, rec.len);
    if (rv == 0) {
        rv = rguard__envelope_check(*copy, rec.len);
    }
    if (rv == 0) {
        rep->cmd = *copy;
        rep->cmd_len = rec.len;
    }
    return rv;
}

/* The entry failed for the second time: an engine bug that every replica shares must end as quiet
 * unavailability, with the log intact, not as a cascade of elections. */
static void poison(rguard_replica *rep, uint64_t term, uint64_t index)
{
    poison_store(rep, index, term, rep->retry_count);
    rguard__ladder_move(rep, RGUARD_LADDER_CONTAINED);
    rguard__step_down(rep);
    rguard__ladder_move(rep, RGUARD_LADDER_POISONED);
    rguard__replica_log(
        rep, RGUARD_LOG_ERROR,
        "poisoned: entry %llu of term %llu failed %u times; nothing is applied any more, the "
        "log is intact; mend the engine, then restart",
        (unsigned long long)index, (unsigned long long)term, rep->retry_count);
}

static void count_failure(rguard_replica *rep, uint64_t index)
{
    rep->retry_count = rep->retry_index == index ? rep->retry_count + 1 : 1;
    rep->retry_index = index;
}

/* The engine itself says that it cannot: the first time a new process may do better. */
static void refused_entry(rguard_replica *rep, int rv, uint64_t term, uint64_t index)
{
    rguard__replica_log(rep, RGUARD_LOG_ERROR, "engine cannot apply entry %llu: %s (%d)",
                        (unsigned long long)index, rguard_strerror(rv), rv);
    count_failure(rep, index);
    rguard__ladder_move(rep, RGUARD_LADDER_VIOLATED);
    if (rep->retry_count > 1) {
        poison(rep, term, index);
        return;
    }
    poison_store(rep, index, term, rep->retry_count);
    rguard__replica_die(rep, "a replica that skips an entry has diverged");
}

/* Rung R1. Returns when the entry may be applied again, or when the replica is POISONED. */
static void rewind_entry(rguard_replica *rep, struct rguard_violation *v, uint64_t term,
                         uint64_t index, void **copy)
{
    char text[512];
    rep->violations++;
    count_failure(rep, index);
    v->repeat = rep->retry_count - 1;
    rguard_violation_text(v, text, sizeof text);
    rguard__replica_log(rep, RGUARD_LOG_ERROR, "%s", text);
    rguard__ladder_move(rep, RGUARD_LADDER_VIOLATED);
    if (rep->retry_count > 1) {
        poison(rep, term, index);
        return;
    }
    if (v->class_ != RGUARD_CLASS_PRECISE || rep->opt.policy != RGUARD_POLICY_REWIND) {
        poison_store(rep, index, term, rep->retry_count);
        rguard__replica_die(rep, v->class_ != RGUARD_CLASS_PRECISE
                                     ? "the state can no longer be trusted"
                                     : "policy is abort");
    }
    rguard__ladder_move(rep, RGUARD_LADDER_CONTAINED);
    rguard__step_down(rep);
    int rv = verify_entry(rep, index, copy);
    rguard_trace(RGUARD_TRACE_WAL_VERIFIED, term, index, 0, index);
    if (rv != 0) {
        rguard__replica_die(rep, "the entry is damaged in memory and cannot be read from the log");
    }
    uint64_t digest = rep->engine.digest != NULL ? rep->engine.digest(rep->engine.user) : 0;
    if (digest != rep->digest && rep->engine.digest != NULL) {
        rguard__replica_die(rep, "the digest after the rollback is not the one of last_applied");
    }
    rguard__ladder_move(rep, RGUARD_LADDER_ROLLED_BACK);
    rep->rewinds++;
    rguard_trace(RGUARD_TRACE_ROLLED_BACK, term, index - 1, digest, 1);
}

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    rguard_replica *rep = fsm->data;
    uint64_t index = rep->raft->last_applied + 1; /* libraft 0.15 passes no index */
    uint64_t term = rguard__log_term(rep->raft, index);
    struct rguard_violation v;
    void *copy = NULL;
    if (rep->ladder == RGUARD_LADDER_POISONED) {
        return RAFT_SHUTDOWN;
    }
    rep->cmd = buf->base;
    rep->cmd_len = buf->len;
    for (;;) {
        rep->applying = true;
        int rv = rep->window != NULL
                     ? rguard_window_run(rep->window, term, index, apply_in_window, rep, &v)
                     : apply_bare(rep, term, index, &v);
        rep->applying = false;
        if (rv == 0) {
            break;
        }
        if (rv == RGUARD_EVIOLATION) {
            rewind_entry(rep, &v, term, index, &copy);
        } else {
            refused_entry(rep, rv, term, index);
        }
        if (rep->ladder == RGUARD_LADDER_POISONED) {
            free(copy);
            return RAFT_SHUTDOWN;
        }
    }
    free(copy);
    remember_digest(rep, index);
    rguard_trace(RGUARD_TRACE_APPLIED, term, index, rep->digest, 0);
    if (rep->ladder == RGUARD_LADDER_ROLLED_BACK) {
        rguard__ladder_move(rep, RGUARD_LADDER_PROBATION);
        rguard__probation_begin(rep);
    }
    if (rep->retry_index == index && rep->retry_count > 0) {
        poison_clear(rep);
    }
    *result = rep->result;
    return 0;
}

/* ---- whole states ---------------------------------------------------------------------------- */

static void check_arenas(rguard_replica *rep)
{
    for (size_t i = 0; i < rep->engine.n_arenas; i++) {
        struct rguard_violation v;
        if (rguard_check(rep->engine.arenas[i], RGUARD_CHECK_FULL, &v) != 0) {
            char text[512];
            rguard_violation_text(&v, text, sizeof text);
            rguard__replica_log(rep, RGUARD_LOG_ERROR, "%s", text);
            rguard__replica_die(rep, "a damaged arena must not become a snapshot");
        }
    }
}

static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    rguard_replica *rep = fsm->data;
    void *data = NULL;
    size_t len = 0;
    if (rep->engine.snapshot == NULL || rep->muted) {
        return RAFT_BUSY;
    }
    check_arenas(rep);
    *bufs = raft_malloc(sizeof **bufs);
    if (*bufs == NULL) {
        return RAFT_NOMEM;
    }
    int rv = rep->engine.snapshot(rep->engine.user, &data, &len);
    if (rv != 0) {
        rguard__replica_log(rep, RGUARD_LOG_WARN, "engine made no snapshot: %s",
                            rguard_strerror(rv));
        raft_free(*bufs);
        if (rv == RGUARD_ECHECKSUM || rv == RGUARD_ECANARY || rv == RGUARD_EVIOLATION) {
            rguard__replica_die(rep, "the engine found its state damaged");
        }
        return RAFT_BUSY; /* libraft tries again later */
    }
    (*bufs)[0] = (struct raft_buffer){.base = data, .len = len};
    *n_bufs = 1;
    return 0;
}

static int fsm_snapshot_finalize(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs)
{
    (void)fsm;
    if (*bufs != NULL) {
        free((*bufs)[0].base);
        raft_free(*bufs);
    }
    *bufs = NULL;
    *n_bufs = 0;
    return 0;
}

/* Owns the buffer on success only; on failure libraft frees it. */
static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    rguard_replica *rep = fsm->data;
    if (rep->engine.restore == NULL) {
        return RAFT_INVALID;
    }
    int rv = rep->engine.restore(rep->engine.user, buf->base, buf->len);
    if (rv != 0) {
        rguard__replica_log(rep, RGUARD_LOG_ERROR, "engine refused the snapshot: %s",
                            rguard_strerror(rv));
        if (rep->started) { /* libraft 0.15 would go on with a log that the state does not fit */
            rguard__replica_die(rep, "a snapshot from the leader cannot be restored");
        }
        return RAFT_MALFORMED;
    }
    rep->digest = rep->engine.digest != NULL ? rep->engine.digest(rep->engine.user) : 0;
    raft_free(buf->base);
    return 0;
}

void rguard__fsm_init(rguard_replica *rep)
{
    rep->fsm = (struct raft_fsm){.version = 2,
                                 .data = rep,
                                 .apply = fsm_apply,
                                 .snapshot = fsm_snapshot,
                                 .restore = fsm_restore,
                                 .snapshot_finalize = fsm_snapshot_finalize};
    rep->digest = rep->engine.digest != NULL ? rep->engine.digest(rep->engine.user) : 0;
    poison_load(rep);
}
