/* SPDX-License-Identifier: Apache-2.0 */
/* What an application asks of a replica while it runs: proposals, linearizable reads, hand-over, a look
 * inside.
 *
 * Invariant: nothing is accepted from an application while the replica is contained, closing, or no
 * leader in full possession of its powers; whatever was accepted is answered exactly once. */
#include "raftlog_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- proposals ------------------------------------------------------------------------------- */

static int from_raft(int status)
{
    switch (status) {
        case 0:
            return 0;
        case RAFT_NOTLEADER:
            return RGUARD_ENOTLEADER;
        case RAFT_NOMEM:
            return -ENOMEM;
        case RAFT_SHUTDOWN:
        case RAFT_CANCELED:
            return RGUARD_ECANCELED;
        default: /* the entry may be on some disks: nobody knows whether it commits */
            return RGUARD_ELOST;
    }
}

static void on_applied(struct raft_apply *apply, int status, void *result)
{
    struct rguard_propose_req *req = apply->data;
    rguard_replica *rep = req->rep;
    rguard_propose_cb cb = req->cb;
    void *user = req->user;
    uint64_t index = apply->index;
    rep->inflight_bytes -= req->bytes;
    req->next = rep->propose_free;
    rep->propose_free = req;
    cb(user, from_raft(status), status == 0 ? result : NULL, index);
}

static struct rguard_propose_req *propose_get(rguard_replica *rep)
{
    struct rguard_propose_req *req = rep->propose_free;
    if (req != NULL) {
        rep->propose_free = req->next;
        return req;
    }
    return malloc(sizeof *req);
}

static int may_serve(const rguard_replica *rep)
{
    if (!rep->started || rep->closing || rep->muted) {
        return RGUARD_ESTATE;
    }
    /* While libraft steps down it fails its requests, still calling itself the leader, of the next
     * term even, but has freed what a leader needs: a callback must not propose then. */
    return rep->raft->state == RAFT_LEADER && rep->raft->leader_state.progress != NULL
               ? 0
               : RGUARD_ENOTLEADER;
}

int rguard_propose(rguard_replica *rep, const void *cmd, size_t len, rguard_propose_cb cb,
                   void *user)
{
    int rv = may_serve(rep);
    if (rv != 0) {
        return rv;
    }
    if (len > rep->opt.max_entry_bytes - RGUARD_ENVELOPE_BYTES) {
        return RGUARD_ETOOBIG;
    }
    size_t bytes = RGUARD_ENVELOPE_BYTES + len;
    if (rep->inflight_bytes + bytes > rep->opt.max_inflight_bytes) {
        return RGUARD_EBUSY;
    }
    struct rguard_propose_req *req = propose_get(rep);
    struct raft_buffer buf = {.base = raft_malloc(bytes), .len = bytes};
    if (req == NULL || buf.base == NULL) {
        rv = -ENOMEM;
        goto err;
    }
    if (len > 0) {
        memcpy((uint8_t *)buf.base + RGUARD_ENVELOPE_BYTES, cmd, len);
    }
    rguard__envelope_write(buf.base, cmd, len);
    *req = (struct rguard_propose_req){.rep = rep, .cb = cb, .user = user, .bytes = bytes};
    req->apply.data = req;
    rep->inflight_bytes += bytes;
    rguard__turn_begin(rep);
    rv = raft_apply(rep->raft, &req->apply, &buf, 1, on_applied);
    if (rv != 0) {
        rep->inflight_bytes -= bytes;
        rv = from_raft(rv);
    }
    rguard__turn_end(rep);
    if (rv == 0) {
        return 0;
    }
err:
    raft_free(buf.base);
    if (req != NULL) {
        req->next = rep->propose_free;
        rep->propose_free = req;
    }
    return rv;
}

/* ---- reads ----------------------------------------------------------------------------------- */

static void reads_complete(rguard_replica *rep, struct rguard_read_req *list, int status)
{
    while (list != NULL) {
        struct rguard_read_req *req = list;
        rguard_read_cb cb = req->cb;
        void *user = req->user;
        list = req->next;
        req->next = rep->read_free;
        rep->read_free = req;
        cb(user, status);
    }
}

static struct rguard_read_req *reads_take(rguard_replica *rep)
{
    struct rguard_read_req *list = rep->reads_waiting;
    rep->reads_waiting = NULL;
    rep->reads_waiting_tail = &rep->reads_waiting;
    return list;
}

static void on_read_barrier(struct raft_barrier *req, int status)
{
    rguard_replica *rep = req->data;
    struct rguard_read_req *list = rep->reads_running;
    rep->reads_running = NULL;
    rep->read_barrier_busy = false;
    if (rep->reads_waiting != NULL) {
        rep->net->arm(rep->channel, RGUARD_TIMER_SOON, 0);
    }
    reads_complete(rep, list, status == 0 ? 0 : RGUARD_ENOTLEADER);
}

/* Everything that waits now shares one barrier, appended after they all arrived. */
void rguard__reads_issue(rguard_replica *rep)
{
    if (rep->read_barrier_busy || rep->reads_waiting == NULL) {
        return;
    }
    int rv = may_serve(rep);
    if (rv == 0) {
        rep->read_barrier.data = rep;
        rep->read_barrier_busy = true;
        rep->reads_running = reads_take(rep);
        rv = raft_barrier(rep->raft, &rep->read_barrier, on_read_barrier);
        if (rv == 0) {
            return;
        }
        rep->read_barrier_busy = false;
        struct rguard_read_req *list = rep->reads_running;
        rep->reads_running = NULL;
        reads_complete(rep, list, from_raft(rv));
        return;
    }
    reads_complete(rep, reads_take(rep), rv);
}

void rguard__reads_cancel(rguard_replica *rep)
{
    reads_complete(rep, rep->reads_running, RGUARD_ECANCELED);
    reads_complete(rep, reads_take(rep), RGUARD_ECANCELED);
}

int rguard_read_barrier(rguard_replica *rep, rguard_read_cb cb, void *user)
{
    int rv = may_serve(rep);
    if (rv != 0) {
        return rv;
    }
    struct rguard_read_req *req = rep->read_free;
    if (req != NULL) {
        rep->read_free = req->next;
    } else {
        req = malloc(sizeof *req);
        if (req == NULL) {
            return -ENOMEM;
        }
    }
    *req = (struct rguard_read_req){.cb = cb, .user = user};
    if (rep->reads_waiting == NULL && !rep->read_barrier_busy) {
        rep->net->arm(rep->channel, RGUARD_TIMER_SOON, 0);
    }
    *rep->reads_waiting_tail = req;
    rep->reads_waiting_tail = &req->next;
    return 0;
}

/* ---- handover, information ------------------------------------------------------------------- */

int rguard_handover(rguard_replica *rep)
{
    int rv = may_serve(rep);
    if (rv == 0 && rguard__gasp(rep) == 0) {
        rv = RGUARD_ESTATE;
    }
    return rv;
}

static int role_of(const rguard_replica *rep)
{
    if (rep->muted || rep->raft->state == RAFT_UNAVAILABLE) {
        return RGUARD_ROLE_CONTAINED;
    }
    return rep->raft->state == RAFT_LEADER      ? RGUARD_ROLE_LEADER
           : rep->raft->state == RAFT_CANDIDATE ? RGUARD_ROLE_CANDIDATE
                                                : RGUARD_ROLE_FOLLOWER;
}

int rguard_replica_info(rguard_replica *rep, struct rguard_replica_info *info)
{
    const struct raft *r = rep->raft;
    raft_id leader = 0;
    const char *address = NULL;
    if (info->size != sizeof *info) {
        return -EINVAL;
    }
    if (rep->started) {
        raft_leader(rep->raft, &leader, &address);
    }
    *info = (struct rguard_replica_info){.size = sizeof *info,
                                         .role = role_of(rep),
                                         .ladder = rep->ladder,
                                         .term = r->current_term,
                                         .last_index = rguard__log_last(r),
                                         .commit_index = r->commit_index,
                                         .applied_index = r->last_applied,
                                         .digest = rep->digest,
                                         .leader_id = leader,
                                         .violations = rep->violations,
                                         .rewinds = rep->rewinds,
                                         .notices_sent = rep->notices_sent,
                                         .notices_received = rep->notices_received,
                                         .elections_by_notice = rep->elections_by_notice,
                                         .bad_envelopes = rep->bad_envelopes,
                                         .send_dropped = rep->send_dropped,
                                         .inflight_bytes = rep->inflight_bytes};
    if (rep->channel != NULL) {
        info->bad_frames = rep->net->bad_frames(rep->channel);
        info->peers_connected = rep->net->connected(rep->channel);
        info->leader_announce = leader == rep->opt.id ? rep->opt.announce
                                : leader != 0         ? rep->net->announced(rep->channel, leader)
                                                      : NULL;
    }
    return 0;
}

const char *rguard_role_name(int role)
{
    static const char *const names[] = {"unknown", "follower", "candidate", "leader", "contained"};
    return role >= RGUARD_ROLE_FOLLOWER && role <= RGUARD_ROLE_CONTAINED ? names[role] : names[0];
}
