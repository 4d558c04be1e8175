/* SPDX-License-Identifier: Apache-2.0 */
/* One run.
 *
 *     start -> leader, all connected -> load 300 ms -> inject -> watch -> 200 ms more -> stop load
 *           -> replicas at rest -> read everything back -> SIGTERM -> read the logs -> judge
 *
 * Watching ends when a write was acknowledged after the fault and all replicas hold one digest at
 * one index, or at the limit. A node that dies is started again at once, by whatever it died. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "cluster.h"
#include "evidence.h"
#include "load.h"
#include "reply.h"

#define READY_MS      15000u
#define WARM_UP_MS    300u
#define WARM_UP_ACKS  50u
#define WARM_LIMIT_MS 5000u
#define FIRE_LIMIT_MS 2000u
#define SILENT_NS     1500000000u
#define LIMIT_MS      10000u
#define AFTER_MS      200u
#define DRAIN_MS      1000u
#define REST_MS       5000u
#define REST_BARE_MS  1500u /* a baseline may be beyond repair; that need not take long to say */
#define END_MS        5000u
#define MEASURE_NS    5000000u
#define IDLE_NS       1000000u

struct session
{
    const struct cv_options *o;
    const struct cv_fault *fault;
    struct cv_cluster cluster;
    struct cv_load *load;
    struct cv_trial *t;
    bool kill_seen; /* the death that the plan asks for has happened */
    int error;      /* CV_INTERRUPTED or -1 */
};

volatile int cv_interrupted;

/* Is this death part of the plan? A killed victim once; in a baseline nothing protects the victim
 * of a memory fault. */
static bool meant(struct session *s, unsigned node, int status)
{
    if (node != s->t->victim || s->t->inject_ns == 0) {
        return false;
    }
    if (s->fault->fault_class == CV_FAULT_PROCESS) {
        bool first = !s->kill_seen && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
        s->kill_seen |= first;
        return first;
    }
    return !s->t->guarded;
}

static void reap(struct session *s)
{
    unsigned node;
    int status;
    while (cv_cluster_reap(&s->cluster, &node, &status)) {
        if (!meant(s, node, status) && s->t->died_wrongly++ == 0) {
            snprintf(s->t->death, sizeof s->t->death, "node %u died unasked: %s %d", node,
                     WIFEXITED(status) ? "exit status" : "signal",
                     WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
        }
        if (node == s->t->victim && s->t->inject_ns != 0 && s->t->victim_down_ns == 0) {
            s->t->victim_down_ns = cv_now();
        }
        cv_cluster_start(&s->cluster, node);
    }
}

/* One turn of everything; sleeps until something is due. false: stop. */
static bool turn(struct session *s)
{
    struct pollfd p[CV_MAX_NODES + 1];
    size_t n = cv_load_turn(s->load, p);
    reap(s);
    cv_cluster_trace(&s->cluster, s->t->ev);
    if (cv_interrupted) {
        s->error = CV_INTERRUPTED;
        return false;
    }
    uint64_t now = cv_now(), due = cv_load_due(s->load);
    due = due < now + IDLE_NS ? due : now + IDLE_NS;
    struct timespec ts = {.tv_nsec = due > now ? (long)(due - now) : 0};
    sigset_t none;
    sigemptyset(&none);
    ppoll(p, (nfds_t)n, &ts, &none);
    return true;
}

static bool turn_for(struct session *s, unsigned ms)
{
    for (uint64_t until = cv_now() + ms * 1000000ull; cv_now() < until;) {
        if (!turn(s)) {
            return false;
        }
    }
    return true;
}

/* ---- before ---------------------------------------------------------------------------------- */

static bool warm_up(struct session *s)
{
    uint64_t limit = cv_now() + WARM_LIMIT_MS * 1000000ull;
    if (!turn_for(s, WARM_UP_MS)) {
        return false;
    }
    while (cv_load_acked(s->load) < WARM_UP_ACKS) {
        if (cv_now() > limit) {
            fprintf(stderr, "rguard-converge: load: only %llu writes were acknowledged in %u ms\n",
                    (unsigned long long)cv_load_acked(s->load), WARM_LIMIT_MS);
            s->error = -1;
            return false;
        }
        if (!turn(s)) {
            return false;
        }
    }
    return true;
}

/* Has another election been won since the leader was chosen? */
static bool led_otherwise(const struct cv_trial *t, uint64_t before_ns)
{
    for (unsigned n = 0; n < t->nodes; n++) {
        for (size_t i = 0; i < t->ev[n].n; i++) {
            const struct rguard_trace_record *r = &t->ev[n].v[i];
            if (r->event == RGUARD_TRACE_LEADER && r->term > t->term0 && r->ns < before_ns) {
                return true;
            }
        }
    }
    return false;
}

static bool inject(struct session *s)
{
    struct cv_trial *t = s->t;
    cv_load_probe(s->load, t->leader_fault ? t->leader0 : t->victim);
    if (s->fault->fault_class == CV_FAULT_PROCESS) {
        pid_t pid = s->cluster.nodes[t->victim - 1].pid;
        if (pid == 0) {
            return false; /* died by itself; nothing was injected */
        }
        t->inject_ns = cv_now();
        return kill(pid, SIGKILL) == 0;
    }
    t->inject_ns = cv_now();
    if (cv_cluster_arm(&s->cluster, t->victim, s->fault->failpoint, s->fault->program) != 0) {
        s->error = -1;
        return false;
    }
    int armed = 0;
    uint64_t limit = t->inject_ns + FIRE_LIMIT_MS * 1000000ull;
    for (struct cv_times m = {0}; m.fault == 0 && cv_now() < limit;) {
        if (!turn(s)) {
            return false;
        }
        cv_measure(t, &m);
        armed = armed == 0 ? cv_cluster_armed(&s->cluster, t->victim) : armed;
        if (armed < 0) {
            s->error = -1;
            return false;
        }
    }
    return true;
}

/* ---- after ----------------------------------------------------------------------------------- */

/* Nothing has reacted to a memory fault: nobody will, so there is nothing to wait for. */
static bool damage_stays(const struct cv_trial *t, const struct cv_times *m)
{
    return t->fault_class == CV_FAULT_MEMORY && m->restarted == 0 &&
           (m->detected == 0 || !t->guarded);
}

static void watch(struct session *s)
{
    struct cv_trial *t = s->t;
    uint64_t elections = 10ull * s->o->election_ms;
    uint64_t limit = (elections > LIMIT_MS ? elections : LIMIT_MS) * 1000000u;
    struct cv_times m;
    uint64_t measured = 0;
    while (turn(s)) {
        uint64_t now = cv_now();
        if (now - measured < MEASURE_NS || now - measured < (now - t->inject_ns) / 20) {
            continue; /* the longer it takes, the more there is to look through */
        }
        measured = now;
        cv_measure(t, &m);
        if (m.fault == 0 || (m.first_ack != 0 && m.converged != 0) || now - m.fault > limit ||
            (damage_stays(t, &m) && now - m.fault > SILENT_NS)) {
            break;
        }
    }
    if (s->error == 0) {
        turn_for(s, AFTER_MS);
    }
}

static void collect(struct session *s, unsigned number)
{
    struct cv_trial *t = s->t;
    cv_load_stop(s->load);
    uint64_t limit = cv_now() + DRAIN_MS * 1000000ull;
    while (s->error == 0 && cv_load_pending(s->load) != 0 && cv_now() < limit && turn(s)) {
    }
    if (s->error != 0) {
        return;
    }
    cv_load_close(s->load);
    s->load = NULL;
    unsigned rest_ms = t->guarded ? REST_MS : REST_BARE_MS;
    unsigned leader = cv_evidence_rest(&s->cluster, rest_ms, t);
    for (unsigned tries = 0; leader != 0 && tries < 3 && !t->state_read; tries++) {
        if (cv_evidence_state(&s->cluster, leader, number, t) != 0) {
            leader = cv_evidence_rest(&s->cluster, rest_ms, t);
        }
    }
    /* Deaths since the load stopped, before SIGTERM makes every exit an expected one. */
    reap(s);
    char complaint[120];
    unsigned bad = cv_cluster_end(&s->cluster, END_MS, complaint, sizeof complaint);
    if (bad != 0 && t->died_wrongly == 0) {
        snprintf(t->death, sizeof t->death, "%s", complaint);
    }
    t->died_wrongly += bad;
    cv_cluster_trace(&s->cluster, t->ev);
    cv_cluster_trace(&s->cluster, t->ev); /* the second visit gives up torn records */
    for (unsigned i = 0; i < t->nodes; i++) {
        char dir[600];
        cv_cluster_data(&s->cluster, i + 1, dir, sizeof dir);
        t->lost_records += s->cluster.nodes[i].ring.lost;
        if (t->guarded) {
            t->log_read[i] = cv_evidence_log(dir, number, &t->in_log[i], t->log_error[i],
                                             sizeof t->log_error[i]) == 0;
        }
    }
    cv_cluster_violation(&s->cluster, t->victim, t->violation, sizeof t->violation);
}

static void judge(struct session *s, struct cv_run *out)
{
    struct cv_trial *t = s->t;
    cv_measure(t, &out->times);
    cv_judge(t, &out->times, &out->judgement);
    out->fired = out->times.fault != 0 && !led_otherwise(t, out->times.fault);
    out->died = t->died_wrongly != 0;
    out->victim = t->victim;
    out->trace_lost = t->lost_records;
    for (unsigned i = 0; i < t->nodes; i++) {
        out->logs_checked += t->log_read[i];
    }
    snprintf(out->violation, sizeof out->violation, "%s", t->violation);
    cv_run_derive(out, t, s->o);
}

static void keep_files(struct session *s, struct cv_run *out)
{
    char path[600];
    snprintf(out->kept, sizeof out->kept, "%s", s->cluster.dir);
    snprintf(path, sizeof path, "%s/history.jsonl", s->cluster.dir);
    cv_evidence_history(s->t, path);
    snprintf(path, sizeof path, "%s/events.jsonl", s->cluster.dir);
    cv_evidence_events(s->t, path);
}

static unsigned choose_victim(const struct cv_trial *t, uint64_t *rng)
{
    if (t->leader_fault) {
        return t->leader0;
    }
    unsigned k = (unsigned)(cv_random(rng) % (t->nodes - 1)) + 1;
    return k < t->leader0 ? k : k + 1;
}

int cv_run_once(const struct cv_options *o, int system, int role, const struct cv_fault *fault,
                unsigned number, uint64_t seed, struct cv_run *out, struct cv_trial *trial)
{
    *out = (struct cv_run){.number = number};
    *trial = (struct cv_trial){.nodes = o->nodes,
                               .leader_fault = role == CV_LEADER,
                               .guarded = system == CV_RAFTGUARD,
                               .fault_class = fault->fault_class};
    struct session s = {.o = o, .fault = fault, .t = trial};
    unsigned ports[CV_MAX_NODES];
    bool keep = false;
    s.error = cv_cluster_open(&s.cluster, o, system == CV_LIBRAFT);
    if (s.error == 0) {
        s.error = cv_cluster_ready(&s.cluster, READY_MS, &trial->leader0, &trial->term0);
    }
    if (s.error != 0) {
        goto out;
    }
    trial->victim = choose_victim(trial, &seed);
    if (fault->failpoint != NULL && cv_cluster_attach(&s.cluster, trial->victim) != 0) {
        s.error = -1;
        goto out;
    }
    for (unsigned i = 0; i < o->nodes; i++) {
        ports[i] = s.cluster.nodes[i].port;
    }
    s.load = cv_load_open(o->nodes, ports, number, cv_random(&seed), &trial->ops);
    if (warm_up(&s) && inject(&s)) {
        watch(&s);
    }
    if (s.error == 0) {
        collect(&s, number);
    }
    if (s.error == 0) {
        judge(&s, out);
        keep = o->keep || (out->fired && out->judgement.verdict != CV_CORRECT && trial->guarded);
    }
    if (keep) {
        keep_files(&s, out);
    }
out:
    cv_load_close(s.load);
    cv_cluster_close(&s.cluster, keep);
    return s.error;
}
