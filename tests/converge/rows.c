/* SPDX-License-Identifier: Apache-2.0 */
/* From one run to its derived figures, and from runs to rows. */
#include <math.h>
#include <stdlib.h>

#include "converge.h"

#define MARGIN_NS 5000000u

/* Where a phase has no beginning of its own it starts where the one before it ended. A killed
 * process detects and contains nothing; what its successor verifies is measured from the moment it
 * is started. */
static struct cv_phases phases_of(const struct cv_trial *t, const struct cv_times *m)
{
    const double none = (double)NAN;
    if (!t->guarded) { /* whatever a baseline records on the way, it promises none of it */
        double handover = t->leader_fault ? cv_ms(m->fault, m->leader) : none;
        return (struct cv_phases){none, none, none, none, handover};
    }
    uint64_t begin = m->restarted == 0        ? m->contained
                     : t->victim_down_ns != 0 ? t->victim_down_ns
                                              : m->restarted;
    uint64_t stopped = m->contained != 0 ? m->contained : m->fault;
    return (struct cv_phases){
        .detect = cv_ms(m->fault, m->detected),
        .contain = cv_ms(m->detected, m->contained),
        .verify = cv_ms(begin, m->wal_verified),
        .rollback = cv_ms(m->wal_verified != 0 ? m->wal_verified : begin, m->rolled_back),
        .handover = t->leader_fault ? cv_ms(stopped, m->leader) : none,
    };
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* A follower that comes back may cost an election: then the first write after the fault is not the
 * whole story. */
static double longest_gap(const struct cv_trial *t, uint64_t fault)
{
    uint64_t *at = NULL;
    size_t n = 0, cap = 0;
    for (size_t i = 0; i < t->ops.n; i++) {
        const struct cv_op *op = &t->ops.v[i];
        if (op->kind != CV_GET_REGISTER && op->outcome == CV_OK && op->reply > fault) {
            at = cv_reserve(at, n, &cap, sizeof *at);
            at[n++] = op->reply;
        }
    }
    if (n > 1) {
        qsort(at, n, sizeof *at, ascending);
    }
    uint64_t longest = 0, last = fault;
    for (size_t i = 0; i < n; last = at[i++]) {
        longest = at[i] - last > longest ? at[i] - last : longest;
    }
    free(at);
    return n != 0 ? (double)longest / 1e6 : (double)NAN;
}

void cv_run_derive(struct cv_run *run, const struct cv_trial *t, const struct cv_options *o)
{
    const struct cv_times *m = &run->times;
    run->write_recovery_ms = cv_ms(m->fault, m->first_ack);
    /* One digest at one index is not enough when an oracle objects. */
    bool safe = run->judgement.verdict != CV_UNSAFE;
    run->convergence_ms = safe ? cv_ms(m->fault, m->converged) : (double)NAN;
    run->longest_gap_ms = m->fault != 0 ? longest_gap(t, m->fault) : (double)NAN;
    run->phases = phases_of(t, m);
    double limit = (double)o->election_ms - 2.0 * (double)o->heartbeat_ms;
    run->fast = t->leader_fault && m->by_notice && run->write_recovery_ms < limit;
}

static void add(struct cv_samples *s, double ms)
{
    if (isfinite(ms)) {
        cv_samples_add(s, ms);
    }
}

/* Keeps what the picture needs and lets the thousands of single applications go. */
static void keep_timeline(struct cv_timeline *k, const struct cv_run *run, const struct cv_trial *t)
{
    for (unsigned n = 0; n < CV_MAX_NODES; n++) {
        cv_events_free(&k->ev[n]);
    }
    free(k->acks.v);
    *k = (struct cv_timeline){.nodes = t->nodes,
                              .victim = t->victim,
                              .leader0 = t->leader0,
                              .number = run->number,
                              .down_ns = t->victim_down_ns,
                              .times = run->times};
    for (unsigned n = 0; n < t->nodes; n++) {
        for (size_t i = 0; i < t->ev[n].n; i++) {
            const struct rguard_trace_record *r = &t->ev[n].v[i];
            if (r->event != RGUARD_TRACE_APPLIED && r->event != RGUARD_TRACE_ACK &&
                r->ns + MARGIN_NS >= run->times.fault) {
                cv_events_add(&k->ev[n], r);
            }
        }
    }
    for (size_t i = 0; i < t->ops.n; i++) {
        const struct cv_op *op = &t->ops.v[i];
        if (op->kind != CV_GET_REGISTER && op->outcome == CV_OK &&
            op->reply + MARGIN_NS >= run->times.fault) {
            k->acks.v = cv_reserve(k->acks.v, k->acks.n, &k->acks.cap, sizeof *k->acks.v);
            k->acks.v[k->acks.n++] = *op;
        }
    }
}

void cv_row_add(struct cv_row *row, const struct cv_run *run, const struct cv_trial *trial)
{
    if (!run->fired) {
        row->redone++;
        return;
    }
    const struct cv_times *m = &run->times;
    row->runs = cv_reserve(row->runs, row->n_runs, &row->cap_runs, sizeof *row->runs);
    row->runs[row->n_runs++] = *run;
    row->correct += run->judgement.verdict == CV_CORRECT;
    row->unavailable += run->judgement.verdict == CV_UNAVAILABLE;
    row->unsafe += run->judgement.verdict == CV_UNSAFE;
    row->fast += run->fast;
    row->died += run->died;
    row->acked += run->judgement.acked;
    row->lost += run->judgement.lost;
    add(&row->write_recovery, run->write_recovery_ms);
    add(&row->convergence, run->convergence_ms);
    add(&row->longest_gap, run->longest_gap_ms);
    add(&row->detect, run->phases.detect);
    add(&row->contain, run->phases.contain);
    add(&row->verify, run->phases.verify);
    add(&row->rollback, run->phases.rollback);
    add(&row->handover, run->phases.handover);
    add(&row->first_ack, cv_ms(m->leader, m->first_ack));
    add(&row->rejoin, cv_ms(m->rolled_back, m->converged));
    double rank = isfinite(run->write_recovery_ms) ? run->write_recovery_ms : 1e6;
    rank += 1e7 * run->judgement.verdict;
    if (row->n_runs == 1 || rank > row->worst_rank) {
        row->worst_rank = rank;
        keep_timeline(&row->worst, run, trial);
    }
}

bool cv_row_lists(const struct cv_row *row, size_t run)
{
    for (size_t i = 0; i < run && row->system != CV_RAFTGUARD; i++) {
        if (row->runs[i].judgement.verdict != CV_CORRECT) {
            return false;
        }
    }
    return true;
}

void cv_row_free(struct cv_row *row)
{
    struct cv_samples *all[] = {
        &row->write_recovery, &row->convergence, &row->longest_gap, &row->detect, &row->contain,
        &row->verify,         &row->rollback,    &row->handover,    &row->rejoin, &row->first_ack};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        cv_samples_free(all[i]);
    }
    for (unsigned n = 0; n < CV_MAX_NODES; n++) {
        cv_events_free(&row->worst.ev[n]);
    }
    free(row->worst.acks.v);
    free(row->runs);
}

int cv_exit_code(const struct cv_report *r)
{
    bool died = false, late = false;
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct cv_row *row = &r->rows[i];
        if (row->system != CV_RAFTGUARD) {
            continue;
        }
        if (row->unsafe != 0) {
            return 5;
        }
        died |= row->died != 0;
        late |= row->unavailable != 0;
    }
    return died ? 3 : late ? 4 : 0;
}
