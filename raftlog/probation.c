/* SPDX-License-Identifier: Apache-2.0 */
/* Probation: after a rollback a replica votes and acknowledges, but is no candidate until its content
 * digest agrees with a quorum's at one index. It asks every peer for the digest at an index it has
 * applied; only digests that arrived count. A peer that has not applied that far answers when it has;
 * one that no longer remembers says so. Lost questions are asked again. One peer that disagrees is
 * enough to give up the state: the process ends and is rebuilt from snapshot and log (rung R3).
 *
 * Every replica remembers the digests of its last RGUARD_DIGEST_RING applied entries. */
#include "raftlog_internal.h"

#include <raftguard/trace.h>

static unsigned voters(const struct raft *r)
{
    unsigned n = 0;
    for (unsigned i = 0; i < r->configuration.n; i++) {
        n += r->configuration.servers[i].role == RAFT_VOTER;
    }
    return n;
}

static bool votes(const struct raft *r, uint64_t id)
{
    for (unsigned i = 0; i < r->configuration.n; i++) {
        if (r->configuration.servers[i].id == id) {
            return r->configuration.servers[i].role == RAFT_VOTER;
        }
    }
    return false;
}

static void finish_if_quorum(rguard_replica *rep)
{
    struct rguard_probation *p = &rep->probation;
    if (p->n_agreed + 1 <= voters(rep->raft) / 2) {
        return;
    }
    rguard_trace(RGUARD_TRACE_PROBATION_END, rep->raft->current_term, p->index, p->digest,
                 p->index);
    rep->net->disarm(rep->channel, RGUARD_TIMER_PROBE);
    rguard__ladder_move(rep, RGUARD_LADDER_SERVING);
    rguard__replica_log(rep, RGUARD_LOG_INFO,
                        "probation ended: digest %016llx at index %llu agrees",
                        (unsigned long long)p->digest, (unsigned long long)p->index);
}

/* Called inside fsm.apply: the first question waits until libraft has returned to the loop. */
void rguard__probation_begin(rguard_replica *rep)
{
    rep->probation.index = 0;
    rep->probation.n_agreed = 0;
    rep->net->arm(rep->channel, RGUARD_TIMER_PROBE, 0);
}

/* The index stays the same until peers can no longer know it, so that slow ones catch up with it. */
static void choose_index(rguard_replica *rep)
{
    struct rguard_probation *p = &rep->probation;
    uint64_t applied = rep->raft->last_applied;
    if (p->index != 0 && applied - p->index < RGUARD_DIGEST_RING / 2) {
        return;
    }
    while (applied > 0 && rguard__digest_at(rep, applied) == NULL) {
        applied--; /* barriers and configurations have no digest */
    }
    const struct rguard_digest_at *d = rguard__digest_at(rep, applied);
    p->index = d != NULL ? d->index : 0;
    p->digest = d != NULL ? d->digest : 0;
    p->n_agreed = 0;
}

void rguard__probation_ask(rguard_replica *rep)
{
    struct rguard_probation *p = &rep->probation;
    struct raft *r = rep->raft;
    if (rep->ladder != RGUARD_LADDER_PROBATION || rep->closing) {
        return;
    }
    choose_index(rep);
    if (rep->engine.digest == NULL || p->index == 0) {
        rguard__replica_log(rep, RGUARD_LOG_WARN,
                            "probation ends without a comparison: the engine has no digest");
        p->n_agreed = voters(r);
    }
    finish_if_quorum(rep);
    if (rep->ladder != RGUARD_LADDER_PROBATION) {
        return;
    }
    uint8_t body[8];
    rguard__put64(body, p->index);
    struct iovec iov = {body, sizeof body};
    for (unsigned i = 0; i < r->configuration.n; i++) {
        if (r->configuration.servers[i].id != r->id) {
            rep->net->send(rep->channel, r->configuration.servers[i].id, RGUARD_FRAME_DIGEST_ASK,
                           &iov, 1, NULL, NULL);
        }
    }
    rep->net->arm(rep->channel, RGUARD_TIMER_PROBE, rep->opt.heartbeat_ms);
}

static void answer(rguard_replica *rep, uint64_t peer, uint64_t index)
{
    const struct rguard_digest_at *d = rguard__digest_at(rep, index);
    uint8_t body[24];
    /* Replicas on probation testify too: two that agree are a quorum of three, and a cluster in which
     * everybody waited for somebody else's word would have no candidate. */
    bool known = d != NULL;
    if (rep->muted) {
        return;
    }
    uint8_t *p = rguard__put64(body, index);
    p = rguard__put64(p, known ? d->digest : 0);
    rguard__put64(p, known);
    struct iovec iov = {body, sizeof body};
    rep->net->send(rep->channel, peer, RGUARD_FRAME_DIGEST, &iov, 1, NULL, NULL);
}

/* A question about an entry that is not applied here yet is answered when it is: the victim of a
 * leader fault has applied what its followers do not know to be committed. One question a peer. */
static void asked(rguard_replica *rep, uint64_t peer, uint64_t index)
{
    struct rguard_probation *p = &rep->probation;
    unsigned i = 0;
    if (index <= rep->raft->last_applied) {
        answer(rep, peer, index);
        return;
    }
    while (i < p->n_asked && p->asked[i].peer != peer) {
        i++;
    }
    if (i < RGUARD_CHANNEL_MAX_PEERS) {
        p->asked[i] = (struct rguard_digest_asked){.peer = peer, .index = index};
        p->n_asked += i == p->n_asked;
    }
}

void rguard__probation_settle(rguard_replica *rep)
{
    struct rguard_probation *p = &rep->probation;
    for (unsigned i = 0; i < p->n_asked;) {
        struct rguard_digest_asked q = p->asked[i];
        if (q.index > rep->raft->last_applied) {
            i++;
            continue;
        }
        p->asked[i] = p->asked[--p->n_asked];
        answer(rep, q.peer, q.index);
    }
}

static void count(rguard_replica *rep, uint64_t peer, uint64_t index, uint64_t digest)
{
    struct rguard_probation *p = &rep->probation;
    if (rep->ladder != RGUARD_LADDER_PROBATION || index != p->index) {
        return;
    }
    if (digest != p->digest) {
        rguard__replica_log(rep, RGUARD_LOG_ERROR,
                            "diverged: digest %016llx at index %llu, peer %llu has %016llx",
                            (unsigned long long)p->digest, (unsigned long long)index,
                            (unsigned long long)peer, (unsigned long long)digest);
        rguard__replica_die(rep, "content digest differs from a peer's after a rollback");
    }
    for (unsigned i = 0; i < p->n_agreed; i++) {
        if (p->agreed[i] == peer) {
            return;
        }
    }
    if (votes(rep->raft, peer) && p->n_agreed < RGUARD_CHANNEL_MAX_PEERS) {
        p->agreed[p->n_agreed++] = peer;
    }
    finish_if_quorum(rep);
}

void rguard__probation_frame(rguard_replica *rep, uint64_t peer, uint16_t type, const uint8_t *body,
                             size_t len)
{
    if (type == RGUARD_FRAME_DIGEST_ASK && len == 8) {
        asked(rep, peer, rguard__get64(body));
    } else if (type == RGUARD_FRAME_DIGEST && len == 24 && rguard__get64(body + 16) == 1) {
        count(rep, peer, rguard__get64(body), rguard__get64(body + 8));
    }
}
