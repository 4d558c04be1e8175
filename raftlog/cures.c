/* SPDX-License-Identifier: Apache-2.0 */
/* What stock libraft 0.15 gets wrong on the wire, put right by looking at each message before libraft
 * sees it or after it wrote it. The numbers are those of the project's list of defects.
 *
 * D1   A leader whose append failed, or whose memory is hurt, would go on leading. It is made to step
 *      down by a result that carries a higher term (a failed disk is contained in io.c first).
 * D8   A vote is refused for as long as an old leader is remembered. When that leader has been silent
 *      for a full election timeout, the request is marked as allowed to disrupt it. Never on a
 *      leader.
 * D11  A new leader commits entries of older terms by counting replicas (Raft 5.4.2, figure 8).
 *      Successful results are held back until the leader's own-term barrier is durable: from then on
 *      libraft counts at an index of its own term. Results are cumulative, so the latest of each peer
 *      is enough; libraft is shown one that acknowledges nothing, because a leader that hears from
 *      nobody for an election timeout steps down. Rejections always pass.
 * D13  A follower acknowledges everything it has stored, leftovers of an older term included. Its
 *      results are clamped to what the leader of this term has really matched.
 *
 * @source Ongaro 2014, sections 3.6.2, 4.2.3; canonical/raft 0.15.0 recv_append_entries.c,
 * recv_request_vote.c, replication.c. */
#include "raftlog_internal.h"

#include <string.h>

#include <raftguard/testing.h>

static bool log_matches(const struct raft *r, raft_index index, raft_term term)
{
    return index == 0 || rguard__log_term(r, index) == term;
}

static void matched_up_to(struct rguard_cures *c, uint64_t term, uint64_t index)
{
    if (c->matched_term != term) {
        c->matched_term = term;
        c->matched_index = 0;
    }
    if (c->matched_index < index) {
        c->matched_index = index;
    }
}

static void leader_spoke(rguard_replica *rep, const struct raft_message *m)
{
    struct rguard_cures *c = &rep->cures;
    struct raft *r = rep->raft;
    if (m->type == RAFT_IO_APPEND_ENTRIES) {
        const struct raft_append_entries *a = &m->append_entries;
        if (a->term < r->current_term) {
            return;
        }
        c->leader_heard_ms = rep->net->now_ms(rep->channel);
        matched_up_to(c, a->term, 0);
        if (log_matches(r, a->prev_log_index, a->prev_log_term)) {
            matched_up_to(c, a->term, a->prev_log_index + a->n_entries);
        }
    } else {
        const struct raft_install_snapshot *s = &m->install_snapshot;
        if (s->term < r->current_term) {
            return;
        }
        c->leader_heard_ms = rep->net->now_ms(rep->channel);
        raft_term local = rguard__log_term(r, s->last_index);
        if (local == 0 || local == s->last_term) {
            matched_up_to(c, s->term, s->last_index);
        }
    }
}

/* Figure 3.1: commitIndex = min(leaderCommit, index of last new entry). libraft 0.15 takes everything
 * it has stored for new, which is only true of a message that reaches to the end of the leader's
 * log; the frames that a large one is split into do not. */
static void clamp_commit(struct raft_append_entries *a)
{
    raft_index last_new = a->prev_log_index + a->n_entries;
    if (a->leader_commit > last_new) {
        a->leader_commit = last_new;
    }
}

static bool leader_is_silent(const rguard_replica *rep)
{
    return rep->net->now_ms(rep->channel) - rep->cures.leader_heard_ms >= rep->opt.election_ms;
}

static bool must_hold(const rguard_replica *rep, const struct raft_message *m)
{
    const struct raft *r = rep->raft;
    return r->state == RAFT_LEADER && m->append_entries_result.rejected == 0 &&
           m->append_entries_result.term == r->current_term &&
           (rep->cures.barrier_index == 0 || r->last_stored < rep->cures.barrier_index) &&
           !RGUARD_TEST_OFF("d11");
}

static void hold(rguard_replica *rep, const struct raft_message *m)
{
    struct rguard_cures *c = &rep->cures;
    unsigned i = 0;
    while (i < c->n_held && c->held[i].server_id != m->server_id) {
        i++;
    }
    if (i == RGUARD_CHANNEL_MAX_PEERS || strlen(m->server_address) >= RGUARD_MAX_ADDRESS) {
        return; /* as if it had been lost; the next heartbeat asks again */
    }
    if (i < c->n_held &&
        c->held[i].append_entries_result.last_log_index > m->append_entries_result.last_log_index) {
        return;
    }
    c->held[i] = *m;
    strcpy(c->held_address[i], m->server_address);
    c->held[i].server_address = c->held_address[i];
    c->n_held += i == c->n_held;
}

void rguard__cure_incoming(rguard_replica *rep, struct raft_message *m)
{
    switch (m->type) {
        case RAFT_IO_APPEND_ENTRIES:
            clamp_commit(&m->append_entries);
            leader_spoke(rep, m);
            break;
        case RAFT_IO_INSTALL_SNAPSHOT:
            leader_spoke(rep, m);
            break;
        case RAFT_IO_REQUEST_VOTE:
            if (rep->raft->state == RAFT_FOLLOWER && leader_is_silent(rep) &&
                !RGUARD_TEST_OFF("d8")) {
                m->request_vote.disrupt_leader = true;
            }
            break;
        case RAFT_IO_APPEND_ENTRIES_RESULT:
            if (rep->raft->state == RAFT_LEADER && m->append_entries_result.rejected == 0) {
                rguard__handover_acked(rep, m->server_id, m->append_entries_result.last_log_index);
            }
            if (must_hold(rep, m)) {
                hold(rep, m);
                m->append_entries_result.last_log_index = 0; /* contact, and nothing else */
            }
            break;
        default:
            break;
    }
}

void rguard__cure_outgoing(rguard_replica *rep, struct raft_message *m)
{
    const struct rguard_cures *c = &rep->cures;
    if (m->type != RAFT_IO_APPEND_ENTRIES_RESULT || m->append_entries_result.rejected != 0 ||
        RGUARD_TEST_OFF("d13")) {
        return;
    }
    uint64_t matched = c->matched_term == m->append_entries_result.term ? c->matched_index : 0;
    if (m->append_entries_result.last_log_index > matched) {
        m->append_entries_result.last_log_index = matched;
    }
}

/* D11: the barrier has become durable, or this node no longer leads. */
void rguard__cure_settle(rguard_replica *rep)
{
    struct rguard_cures *c = &rep->cures;
    const struct raft *r = rep->raft;
    if (r->state != RAFT_LEADER) {
        c->n_held = 0;
        c->barrier_index = 0;
        return;
    }
    if (c->barrier_index == 0 || r->last_stored < c->barrier_index) {
        return;
    }
    while (c->n_held > 0 && !rep->muted) {
        struct raft_message m = c->held[--c->n_held];
        char address[RGUARD_MAX_ADDRESS];
        strcpy(address, c->held_address[c->n_held]);
        m.server_address = address;
        rep->recv_cb(&rep->io, &m);
    }
}

void rguard__step_down(rguard_replica *rep)
{
    struct raft *r = rep->raft;
    if (r->state != RAFT_LEADER) {
        return;
    }
    struct raft_message m = {.type = RAFT_IO_APPEND_ENTRIES_RESULT,
                             .server_id = r->id,
                             .server_address = r->address,
                             .append_entries_result = {.term = r->current_term + 1}};
    rep->recv_cb(&rep->io, &m);
}
