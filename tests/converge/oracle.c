/* SPDX-License-Identifier: Apache-2.0 */
/* The judgement of one run. Each oracle is a function that may add reasons; UNSAFE outranks
 * UNAVAILABLE outranks CORRECT. An oracle that has no evidence (a log that this system does not
 * let us read, a ring that overran) says so instead of passing in silence.
 *
 *   acknowledged writes   each is in every replica's log and can be read at the final leader
 *   digests               equal wherever two replicas applied the same index, and at the end
 *   leaders               one per term
 *   containment           the victim applies and acknowledges nothing while contained
 *   reads                 never older than a write that was acknowledged before they began
 *   detection             a memory fault leaves a violation record that says what and where
 *   liveness              writes came back, the replicas converged, nobody died unasked */
#include "trial.h"

#include <inttypes.h>
#include <raftguard/raftlog.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

static void complain(struct cv_judgement *j, int verdict, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void acknowledged(const struct cv_trial *t, struct cv_judgement *j);
static void digests_by_index(const struct cv_trial *t, struct cv_judgement *j);
static void digests_at_end(const struct cv_trial *t, struct cv_judgement *j);
static void leaders(const struct cv_trial *t, struct cv_judgement *j);
static void containment(const struct cv_trial *t, const struct cv_times *m, struct cv_judgement *j);
static void reads(const struct cv_trial *t, struct cv_judgement *j);
static void detection(const struct cv_trial *t, const struct cv_times *m, struct cv_judgement *j);
static void liveness(const struct cv_trial *t, const struct cv_times *m, struct cv_judgement *j);

void cv_judge(const struct cv_trial *t, const struct cv_times *times, struct cv_judgement *out)
{
    *out = (struct cv_judgement){.verdict = CV_CORRECT};
    acknowledged(t, out);
    digests_by_index(t, out);
    digests_at_end(t, out);
    leaders(t, out);
    containment(t, times, out);
    reads(t, out);
    detection(t, times, out);
    liveness(t, times, out);
}

const char *cv_verdict_name(int verdict)
{
    static const char *const names[] = {"correct", "unavailable", "unsafe"};
    return verdict >= 0 && verdict <= CV_UNSAFE ? names[verdict] : "?";
}

static void complain(struct cv_judgement *j, int verdict, const char *fmt, ...)
{
    j->verdict = verdict > j->verdict ? verdict : j->verdict;
    if (j->n_reasons == CV_MAX_REASONS) {
        return;
    }
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(j->reasons[j->n_reasons++], sizeof j->reasons[0], fmt, ap);
    va_end(ap);
}

static bool is_write(const struct cv_op *op)
{
    return op->kind != CV_GET_REGISTER;
}

/* ---- acknowledged writes --------------------------------------------------------------------- */

static void acknowledged(const struct cv_trial *t, struct cv_judgement *j)
{
    struct cv_bits missing = {0};
    for (unsigned n = 0; n < t->nodes; n++) {
        uint64_t count = 0;
        uint32_t first = 0;
        for (size_t i = 0; i < t->ops.n && t->log_read[n]; i++) {
            const struct cv_op *op = &t->ops.v[i];
            if (is_write(op) && op->outcome == CV_OK && !cv_bits_get(&t->in_log[n], op->seq)) {
                cv_bits_set(&missing, op->seq);
                first = count++ == 0 ? op->seq : first;
            }
        }
        if (t->log_error[n][0] != '\0') {
            complain(j, CV_UNSAFE, "log of node %u cannot be read: %s", n + 1, t->log_error[n]);
        } else if (count != 0) {
            complain(j, CV_UNSAFE,
                     "%" PRIu64 " acknowledged writes are not in the log of node %u, first op %u",
                     count, n + 1, first);
        }
    }
    uint64_t unread = 0;
    uint32_t first = 0;
    for (size_t i = 0; i < t->ops.n; i++) {
        const struct cv_op *op = &t->ops.v[i];
        if (!is_write(op) || op->outcome != CV_OK) {
            continue;
        }
        j->acked++;
        if (op->kind == CV_SET && t->state_read && !cv_bits_get(&t->in_state, op->seq)) {
            cv_bits_set(&missing, op->seq);
            first = unread++ == 0 ? op->seq : first;
        }
    }
    if (unread != 0) {
        complain(j, CV_UNSAFE,
                 "%" PRIu64 " acknowledged writes cannot be read at the final leader, first op %u",
                 unread, first);
    }
    if (!t->state_read) {
        complain(j, CV_UNAVAILABLE, "the final state could not be read");
    }
    for (size_t i = 0; i < t->ops.n; i++) {
        j->lost += cv_bits_get(&missing, t->ops.v[i].seq) ? 1 : 0;
    }
    free(missing.words);
}

/* ---- digests --------------------------------------------------------------------------------- */

struct entry
{
    uint64_t index, digest;
    unsigned node;
};

static int by_index(const void *a, const void *b)
{
    const struct entry *x = a, *y = b;
    return (x->index > y->index) - (x->index < y->index);
}

/* Also within one replica: a replay that ends in another digest than the first time has diverged
 * from itself. */
static void digests_by_index(const struct cv_trial *t, struct cv_judgement *j)
{
    struct entry *all = NULL;
    size_t n_all = 0, cap = 0;
    for (unsigned n = 0; n < t->nodes; n++) {
        for (size_t i = 0; i < t->ev[n].n; i++) {
            const struct rguard_trace_record *r = &t->ev[n].v[i];
            /* What a rollback returned to is a state at an index like any other. */
            bool rewound = r->event == RGUARD_TRACE_ROLLED_BACK && r->b == 1 && r->a != 0;
            if (r->event == RGUARD_TRACE_APPLIED || rewound) {
                all = cv_reserve(all, n_all, &cap, sizeof *all);
                all[n_all++] = (struct entry){r->index, r->a, n + 1};
            }
        }
    }
    if (n_all > 1) {
        qsort(all, n_all, sizeof *all, by_index);
    }
    for (size_t i = 1; i < n_all; i++) {
        if (all[i].index == all[i - 1].index && all[i].digest != all[i - 1].digest) {
            complain(j, CV_UNSAFE,
                     "at index %" PRIu64 " node %u has digest %016" PRIx64 ", node %u %016" PRIx64,
                     all[i].index, all[i - 1].node, all[i - 1].digest, all[i].node, all[i].digest);
            break;
        }
    }
    free(all);
    if (t->lost_records != 0) {
        complain(j, CV_UNAVAILABLE,
                 "the trace ring overran: %" PRIu64 " records were not seen, this run proves less",
                 t->lost_records);
    }
}

static void digests_at_end(const struct cv_trial *t, struct cv_judgement *j)
{
    for (unsigned n = 0; n < t->nodes; n++) {
        const struct cv_final *a = &t->final[0], *b = &t->final[n];
        if (!b->answered) {
            complain(j, CV_UNAVAILABLE, "node %u did not answer INFO at the end", n + 1);
        } else if (a->answered && a->applied != b->applied) {
            complain(j, CV_UNAVAILABLE,
                     "after the load node 1 stays at index %" PRIu64 ", node %u at %" PRIu64,
                     a->applied, n + 1, b->applied);
        } else if (a->answered && a->digest != b->digest) {
            complain(j, CV_UNSAFE,
                     "at the end, index %" PRIu64 ": content digest %016" PRIx64
                     " on node 1, %016" PRIx64 " on node %u",
                     a->applied, a->digest, b->digest, n + 1);
        }
    }
}

/* ---- leaders, containment -------------------------------------------------------------------- */

static void leaders(const struct cv_trial *t, struct cv_judgement *j)
{
    for (unsigned n = 0; n < t->nodes; n++) {
        for (size_t i = 0; i < t->ev[n].n; i++) {
            const struct rguard_trace_record *r = &t->ev[n].v[i];
            for (unsigned m = n + 1; m < t->nodes && r->event == RGUARD_TRACE_LEADER; m++) {
                for (size_t k = 0; k < t->ev[m].n; k++) {
                    const struct rguard_trace_record *s = &t->ev[m].v[k];
                    if (s->event == RGUARD_TRACE_LEADER && s->term == r->term) {
                        complain(j, CV_UNSAFE, "nodes %u and %u both led term %" PRIu64, n + 1,
                                 m + 1, r->term);
                        return;
                    }
                }
            }
        }
    }
}

/* Until the rollback nothing is applied; until the replica takes part again, nothing acknowledged. An
 * answer that was on its way when containment began proves nothing, so on the clients' side only
 * writes count that were also sent inside. */
static void containment(const struct cv_trial *t, const struct cv_times *m, struct cv_judgement *j)
{
    const struct cv_events *e = &t->ev[t->victim - 1];
    uint64_t until = UINT64_MAX;
    bool rolled_back = false;
    const char *what = NULL;
    for (size_t i = 0; i < e->n && until == UINT64_MAX && m->contained != 0; i++) {
        const struct rguard_trace_record *r = &e->v[i];
        if (r->ns < m->contained) {
            continue;
        }
        bool takes_part = r->event == RGUARD_TRACE_SERVING || r->event == RGUARD_TRACE_START ||
                          r->event == RGUARD_TRACE_PROBATION_END ||
                          (r->event == RGUARD_TRACE_LADDER && r->b == RGUARD_LADDER_PROBATION);
        until = takes_part ? r->ns : until;
        rolled_back |= r->event == RGUARD_TRACE_ROLLED_BACK;
        if (r->event == RGUARD_TRACE_ACK || (r->event == RGUARD_TRACE_APPLIED && !rolled_back)) {
            what = rguard_trace_event_name(r->event);
        }
    }
    if (what != NULL) {
        complain(j, CV_UNSAFE, "node %u recorded '%s' while it was contained", t->victim, what);
    }
    for (size_t i = 0; i < t->ops.n && m->contained != 0; i++) {
        const struct cv_op *op = &t->ops.v[i];
        if (is_write(op) && op->outcome == CV_OK && op->node == t->victim &&
            op->invoke > m->contained && op->reply < until) {
            complain(j, CV_UNSAFE, "node %u acknowledged op %u while it was contained", t->victim,
                     op->seq);
            return;
        }
    }
}

/* ---- reads ----------------------------------------------------------------------------------- */

static int by_reply(const void *a, const void *b)
{
    const struct cv_op *x = a, *y = b;
    return (x->reply > y->reply) - (x->reply < y->reply);
}

/* Real-time order only, so that concurrent writes never raise a false alarm: a read is stale when
 * some write w2 was acknowledged before the read began, and what the read returned was acknowledged
 * before w2 began (nil is older than every write). */
static bool stale(const struct cv_op *w, size_t n, const struct cv_history *h, uint64_t began,
                  int64_t value, uint32_t *newer)
{
    uint64_t value_reply = 0;
    if (value >= 0) {
        if ((uint64_t)value >= h->n || h->v[value].kind != CV_SET_REGISTER ||
            h->v[value].outcome != CV_OK) {
            return false; /* outcome of that write is not known: no claim */
        }
        value_reply = h->v[value].reply;
    }
    for (size_t i = 0; i < n && w[i].reply < began; i++) {
        if (w[i].invoke > value_reply) {
            *newer = w[i].seq;
            return true;
        }
    }
    return false;
}

static void reads(const struct cv_trial *t, struct cv_judgement *j)
{
    struct cv_op *w = NULL;
    size_t n = 0, cap = 0;
    for (size_t i = 0; i < t->ops.n; i++) {
        if (t->ops.v[i].kind == CV_SET_REGISTER && t->ops.v[i].outcome == CV_OK) {
            w = cv_reserve(w, n, &cap, sizeof *w);
            w[n++] = t->ops.v[i];
        }
    }
    if (n > 1) {
        qsort(w, n, sizeof *w, by_reply);
    }
    uint32_t newer = 0;
    for (size_t i = 0; i < t->ops.n; i++) {
        const struct cv_op *r = &t->ops.v[i];
        if (r->kind == CV_GET_REGISTER && r->outcome == CV_OK &&
            stale(w, n, &t->ops, r->invoke, r->value, &newer)) {
            complain(j, CV_UNSAFE,
                     "stale read at node %u: op %u returned write %lld after write %u had been "
                     "acknowledged",
                     r->node, r->seq, (long long)r->value, newer);
            break;
        }
    }
    if (t->state_read && stale(w, n, &t->ops, t->final_read_ns, t->final_register, &newer)) {
        complain(j, CV_UNSAFE, "the final register holds write %lld, but %u was acknowledged later",
                 (long long)t->final_register, newer);
    }
    free(w);
}

/* ---- detection, liveness --------------------------------------------------------------------- */

static void detection(const struct cv_trial *t, const struct cv_times *m, struct cv_judgement *j)
{
    if (t->fault_class != CV_FAULT_MEMORY || !t->guarded || m->fault == 0) {
        return;
    }
    if (m->detected == 0 && t->violation[0] == '\0' && m->restarted == 0) {
        complain(j, CV_UNSAFE, "the fault was carried out on node %u and nothing noticed it",
                 t->victim);
        return;
    }
    static const char *const fields[] = {
        "violation=", "class=", "arena=", "offset=", "pc=", "index="};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        if (strstr(t->violation, fields[i]) == NULL) {
            complain(j, CV_UNAVAILABLE, "no violation record with '%s' in the log of node %u",
                     fields[i], t->victim);
            return;
        }
    }
}

static void liveness(const struct cv_trial *t, const struct cv_times *m, struct cv_judgement *j)
{
    if (m->fault == 0) {
        complain(j, CV_UNAVAILABLE, "the fault was never carried out");
        return;
    }
    if (t->died_wrongly != 0 && t->guarded) {
        complain(j, CV_UNAVAILABLE, "%s", t->death);
    }
    if (m->first_ack == 0) {
        complain(j, CV_UNAVAILABLE, "no write was acknowledged after the fault%s",
                 t->leader_fault ? " in a newer term" : "");
    }
    if (m->converged == 0) {
        complain(j, CV_UNAVAILABLE,
                 "the replicas did not reach one digest at one index (victim %s)",
                 m->rolled_back != 0 || m->restarted != 0 ? "came back" : "did not come back");
    }
}
