/* SPDX-License-Identifier: Apache-2.0 */
/* The recovery ladder: which state may follow which, and what must hold in each.
 *
 *     SERVING -> VIOLATED -> CONTAINED -> LOG_VERIFIED -> ROLLED_BACK -> PROBATION -> SERVING
 *                   |           |  |            |-> REPAIRING --^
 *                   |           |  |            |-> RESYNCING --^
 *                   |           |  +-- PRECISE: ROLLED_BACK
 *                   +-----------+--> GASPED -> (process ends)          POISONED (applies nothing)
 *
 *     SERVING       takes part in everything
 *     VIOLATED      a violation is recorded; nothing has been decided
 *     CONTAINED     muted: sends nothing, acknowledges nothing, votes for nobody, hears no tick
 *     LOG_VERIFIED  muted; the log on disk has been checked
 *     ROLLED_BACK   muted; the state is the one of last_applied
 *     PROBATION     votes and acknowledges, no candidate, until its digest agrees with a quorum
 *     REPAIRING     muted; missing entries are fetched
 *     RESYNCING     muted; started over from a peer
 *     GASPED        muted; the notice is out and the process is about to end
 *     POISONED      muted; one entry failed twice, the log is intact, nothing is applied any more
 *
 * Every move is stamped into the trace ring. Nothing else in the library decides about recovery. */
#include "raftlog_internal.h"

#include <raftguard/testing.h>
#include <raftguard/trace.h>

#define BIT(s) (1u << (s))

static const struct
{
    const char *name;
    uint32_t to;  /* states that may follow */
    bool muted;   /* invariant: rep->muted is this */
    bool decides; /* VIOLATED only: muted may still be either */
} states[] = {
    [RGUARD_LADDER_SERVING] = {"serving", BIT(RGUARD_LADDER_VIOLATED) | BIT(RGUARD_LADDER_GASPED),
                               false, false},
    [RGUARD_LADDER_VIOLATED] = {"violated",
                                BIT(RGUARD_LADDER_CONTAINED) | BIT(RGUARD_LADDER_GASPED), false,
                                true},
    [RGUARD_LADDER_CONTAINED] = {"contained",
                                 BIT(RGUARD_LADDER_LOG_VERIFIED) | BIT(RGUARD_LADDER_ROLLED_BACK) |
                                     BIT(RGUARD_LADDER_GASPED) | BIT(RGUARD_LADDER_POISONED),
                                 true, false},
    [RGUARD_LADDER_LOG_VERIFIED] = {"log_verified",
                                    BIT(RGUARD_LADDER_ROLLED_BACK) | BIT(RGUARD_LADDER_REPAIRING) |
                                        BIT(RGUARD_LADDER_RESYNCING) | BIT(RGUARD_LADDER_GASPED),
                                    true, false},
    [RGUARD_LADDER_ROLLED_BACK] = {"rolled_back",
                                   BIT(RGUARD_LADDER_PROBATION) | BIT(RGUARD_LADDER_VIOLATED) |
                                       BIT(RGUARD_LADDER_GASPED) | BIT(RGUARD_LADDER_POISONED),
                                   true, false},
    [RGUARD_LADDER_PROBATION] = {"probation",
                                 BIT(RGUARD_LADDER_SERVING) | BIT(RGUARD_LADDER_VIOLATED) |
                                     BIT(RGUARD_LADDER_GASPED),
                                 false, false},
    [RGUARD_LADDER_REPAIRING] = {"repairing",
                                 BIT(RGUARD_LADDER_ROLLED_BACK) | BIT(RGUARD_LADDER_RESYNCING) |
                                     BIT(RGUARD_LADDER_GASPED),
                                 true, false},
    [RGUARD_LADDER_RESYNCING] = {"resyncing",
                                 BIT(RGUARD_LADDER_ROLLED_BACK) | BIT(RGUARD_LADDER_GASPED), true,
                                 false},
    [RGUARD_LADDER_GASPED] = {"gasped", 0, true, false},
    [RGUARD_LADDER_POISONED] = {"poisoned", BIT(RGUARD_LADDER_GASPED), true, false},
};

#define N_STATES (sizeof states / sizeof states[0])

const char *rguard_ladder_state_name(uint32_t state)
{
    return state < N_STATES ? states[state].name : "?";
}

bool rguard__ladder_allows(uint32_t from, uint32_t to)
{
    return from < N_STATES && to < N_STATES && (states[from].to & BIT(to)) != 0;
}

void rguard__ladder_move(rguard_replica *rep, uint32_t to)
{
    uint32_t from = rep->ladder;
    RGUARD_ASSERT(rguard__ladder_allows(from, to));
    if (!states[to].decides) {
        rep->muted = states[to].muted;
    }
    rep->ladder = to;
    rguard_trace(RGUARD_TRACE_LADDER, rep->raft->current_term, rep->raft->last_applied, from, to);
    if (to == RGUARD_LADDER_CONTAINED) {
        rguard_trace(RGUARD_TRACE_CONTAINED, rep->raft->current_term, rep->raft->last_applied, 0,
                     0);
    } else if (to == RGUARD_LADDER_SERVING) {
        rguard_trace(RGUARD_TRACE_SERVING, rep->raft->current_term, rep->raft->last_applied, 0, 0);
    }
}

bool rguard__may_campaign(const rguard_replica *rep)
{
    /* While a snapshot from the leader is being stored, libraft's log is a promise: neither the log
     * on disk nor the state machine is there yet. */
    bool installing = rep->raft->snapshot.put.data != NULL && rep->raft->last_stored == 0;
    return rep->ladder == RGUARD_LADDER_SERVING && !rep->closing && !installing;
}
