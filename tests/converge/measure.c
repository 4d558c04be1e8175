/* SPDX-License-Identifier: Apache-2.0 */
/* From records to times.
 *
 *   T0 fault -> T1 detected -> T2 contained -> T3 notice sent            victim
 *                                 |               `-> T3' received -> T6 candidate -> T7 leader
 *                                 |                                                    |
 *                                 |                          T8 first acknowledged write
 *                                 `-> T4 log verified -> T5 rolled back -> T9 serving
 *                                                                             |
 *                               T11 all replicas hold one digest at one index
 *
 * Nothing here guesses: a time that has no record is 0 and its phase is null in the report. */
#include "trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

static const struct rguard_trace_record *first_after(const struct cv_events *e, uint32_t event,
                                                     uint64_t ns)
{
    for (size_t i = 0; i < e->n; i++) {
        if (e->v[i].event == event && e->v[i].ns >= ns) {
            return &e->v[i];
        }
    }
    return NULL;
}

static uint64_t ns_after(const struct cv_events *e, uint32_t event, uint64_t ns)
{
    const struct rguard_trace_record *r = ns != 0 ? first_after(e, event, ns) : NULL;
    return r != NULL ? r->ns : 0;
}

/* The latest record of @event in [from, to]. */
static const struct rguard_trace_record *last_between(const struct cv_events *e, uint32_t event,
                                                      uint64_t from, uint64_t to)
{
    for (size_t i = e->n; i-- > 0;) {
        if (e->v[i].event == event && e->v[i].ns >= from && e->v[i].ns <= to) {
            return &e->v[i];
        }
    }
    return NULL;
}

static void measure_victim(const struct cv_trial *t, struct cv_times *m)
{
    const struct cv_events *e = &t->ev[t->victim - 1];
    m->fault = t->fault_class == CV_FAULT_PROCESS ? t->inject_ns
                                                  : ns_after(e, RGUARD_TRACE_FAULT, t->inject_ns);
    if (m->fault == 0) {
        return;
    }
    m->detected = ns_after(e, RGUARD_TRACE_DETECTED, m->fault);
    m->contained = ns_after(e, RGUARD_TRACE_CONTAINED, m->fault);
    m->notice_sent = ns_after(e, RGUARD_TRACE_NOTICE_SENT, m->fault);
    m->restarted = ns_after(e, RGUARD_TRACE_START, m->fault);
    /* A new process verifies its log before it says START. */
    uint64_t reborn = t->victim_down_ns != 0 ? t->victim_down_ns : m->restarted;
    uint64_t from = m->restarted != 0 ? reborn : m->contained;
    m->wal_verified = ns_after(e, RGUARD_TRACE_WAL_VERIFIED, from);
    m->rolled_back = ns_after(e, RGUARD_TRACE_ROLLED_BACK, from);
    m->serving = ns_after(e, RGUARD_TRACE_SERVING, from);
}

/* T8, and who led then. A leader fault asks for an acknowledgement by a node that became leader of
 * a later term before it answered; a follower fault for any. */
static void measure_recovery(const struct cv_trial *t, struct cv_times *m)
{
    for (size_t i = 0; i < t->ops.n; i++) {
        const struct cv_op *op = &t->ops.v[i];
        if (op->kind == CV_GET_REGISTER || op->outcome != CV_OK) {
            continue;
        }
        if (op->reply <= m->fault && op->reply > m->last_ack_before) {
            m->last_ack_before = op->reply;
        }
        if (op->invoke <= m->fault || (m->first_ack != 0 && op->reply >= m->first_ack)) {
            continue;
        }
        if (t->leader_fault) {
            const struct rguard_trace_record *r =
                last_between(&t->ev[op->node - 1], RGUARD_TRACE_LEADER, m->fault, op->reply);
            if (r == NULL || r->term <= t->term0) {
                continue;
            }
            m->winner = op->node;
            m->leader = r->ns;
            m->term = r->term;
        }
        m->first_ack = op->reply;
    }
    if (m->winner == 0) {
        return;
    }
    const struct cv_events *e = &t->ev[m->winner - 1];
    const struct rguard_trace_record *candidate =
        last_between(e, RGUARD_TRACE_CANDIDATE, m->fault, m->leader);
    if (candidate != NULL) {
        const struct rguard_trace_record *notice =
            last_between(e, RGUARD_TRACE_NOTICE_RECV, m->fault, candidate->ns);
        m->candidate = candidate->ns;
        m->notice_recv = notice != NULL ? notice->ns : 0;
        m->by_notice = notice != NULL && candidate->a == 1;
    }
}

/* ---- convergence ----------------------------------------------------------------------------- */

/* When the victim's state is its own again: after the rollback or the new start, and out of
 * containment. In a baseline nothing rolls back; there the fault itself, or the new process. 0: not
 * yet. */
static uint64_t recovered_at(const struct cv_trial *t, const struct cv_times *m)
{
    if (!t->guarded) {
        return m->restarted != 0 ? m->restarted : t->fault_class == CV_FAULT_MEMORY ? m->fault : 0;
    }
    uint64_t at = m->restarted != 0 ? m->restarted : m->rolled_back;
    if (at == 0) {
        return 0;
    }
    if (m->contained != 0 && m->contained < at && m->restarted == 0) {
        /* The same process went on: it must have left containment as well. */
        uint64_t probation = 0;
        const struct cv_events *e = &t->ev[t->victim - 1];
        for (size_t i = 0; i < e->n && probation == 0; i++) {
            if (e->v[i].ns >= at && (e->v[i].event == RGUARD_TRACE_SERVING ||
                                     e->v[i].event == RGUARD_TRACE_PROBATION_END)) {
                probation = e->v[i].ns;
            }
        }
        return probation;
    }
    return at;
}

struct applied
{
    uint64_t ns, digest; /* ns 0: not applied */
};

/* First application of each index from @floor on, as one row per node. */
static void fill_applied(const struct cv_trial *t, uint64_t floor, size_t span,
                         const struct cv_times *m, struct applied *table)
{
    uint64_t victim_from = m->restarted != 0 ? m->restarted : m->rolled_back;
    for (unsigned n = 0; n < t->nodes; n++) {
        uint64_t from = n + 1 == t->victim ? victim_from : 0;
        for (size_t i = 0; i < t->ev[n].n; i++) {
            const struct rguard_trace_record *r = &t->ev[n].v[i];
            if (r->event != RGUARD_TRACE_APPLIED || r->ns < from || r->index < floor ||
                r->index - floor >= span) {
                continue;
            }
            struct applied *a = &table[n * span + (r->index - floor)];
            if (a->ns == 0) {
                *a = (struct applied){r->ns, r->a};
            }
        }
    }
}

static void measure_convergence(const struct cv_trial *t, struct cv_times *m)
{
    uint64_t past = recovered_at(t, m);
    if (past == 0) {
        return;
    }
    uint64_t floor = 1, top = 0;
    for (unsigned n = 0; n < t->nodes; n++) {
        for (size_t i = 0; i < t->ev[n].n; i++) {
            const struct rguard_trace_record *r = &t->ev[n].v[i];
            if (r->event == RGUARD_TRACE_APPLIED) {
                floor = r->ns <= m->fault && r->index > floor ? r->index : floor;
                top = r->index > top ? r->index : top;
            }
        }
    }
    if (!t->guarded && m->restarted == 0) {
        floor++; /* nothing was rolled back: what was applied before says nothing about now */
    }
    if (top < floor) {
        return;
    }
    size_t span = (size_t)(top - floor) + 1;
    struct applied *table = cv_grow(NULL, span * t->nodes * sizeof *table);
    memset(table, 0, span * t->nodes * sizeof *table);
    fill_applied(t, floor, span, m, table);
    for (size_t i = 0; i < span; i++) {
        uint64_t at = past;
        bool equal = true;
        for (unsigned n = 0; n < t->nodes && equal; n++) {
            const struct applied *a = &table[n * span + i];
            equal = a->ns != 0 && a->digest == table[i].digest;
            at = a->ns > at ? a->ns : at;
        }
        if (equal && (m->converged == 0 || at < m->converged)) {
            m->converged = at;
            m->converged_index = floor + i;
        }
    }
    free(table);
}

void cv_measure(const struct cv_trial *t, struct cv_times *out)
{
    *out = (struct cv_times){0};
    measure_victim(t, out);
    if (out->fault != 0) {
        measure_recovery(t, out);
        measure_convergence(t, out);
    }
}

double cv_ms(uint64_t from, uint64_t to)
{
    return from != 0 && to != 0 ? ((double)to - (double)from) / 1e6 : (double)NAN;
}

/* ---- the trial itself ------------------------------------------------------------------------ */

void cv_bits_set(struct cv_bits *b, size_t i)
{
    if (i / 64 >= b->n) {
        size_t n = (i / 64 + 1) * 2;
        b->words = cv_grow(b->words, n * sizeof *b->words);
        memset(b->words + b->n, 0, (n - b->n) * sizeof *b->words);
        b->n = n;
    }
    b->words[i / 64] |= 1ull << (i % 64);
}

bool cv_bits_get(const struct cv_bits *b, size_t i)
{
    return i / 64 < b->n && (b->words[i / 64] >> (i % 64) & 1) != 0;
}

void cv_trial_free(struct cv_trial *t)
{
    for (unsigned n = 0; n < CV_MAX_NODES; n++) {
        cv_events_free(&t->ev[n]);
        free(t->in_log[n].words);
    }
    free(t->in_state.words);
    free(t->ops.v);
    *t = (struct cv_trial){0};
}
