/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CV_CONVERGE_H
#define CV_CONVERGE_H

#include "stats.h"
#include "text.h"
#include "trial.h"

/* What the parts of rguard-converge share: the command line, the faults, one run, one row, the
 * whole report. */

#define CV_NAME_MAX 64

/* @source Figures that others published for the same kind of fault, drawn into every report. */
#define CV_PUBLISHED_ETCD_MS 127.0
#define CV_PUBLISHED_TIKV_MS 89.0

struct cv_fault
{
    const char *name;
    int fault_class;       /* enum cv_fault_class */
    const char *failpoint; /* site and program; NULL: a signal */
    const char *program;
    const char *roles;
    const char *description;
};

/* The faults of this version, ended by a NULL name. */
extern const struct cv_fault cv_faults[];
const struct cv_fault *cv_fault_find(const char *name, size_t len);
/* A name that CONVERGENCE.md reserves, offered or not. */
bool cv_fault_reserved(const char *name, size_t len);

enum cv_system { CV_RAFTGUARD = 0, CV_LIBRAFT };
enum cv_role { CV_LEADER = 0, CV_FOLLOWER };
const char *cv_system_name(int system);
const char *cv_role_name(int role);

struct cv_options
{
    const struct cv_fault *faults[32];
    size_t n_faults;
    bool roles[2]; /* by enum cv_role */
    unsigned runs, nodes, election_ms, heartbeat_ms;
    uint64_t seed;
    bool baseline_libraft, timeout_handover, keep, json;
    const char *engine, *out, *kv; /* kv: path of rguard-kv */
    char command[1024];            /* the line that repeats this */
};

/* Phases of one run in ms, NaN where not applicable. */
struct cv_phases
{
    double detect, contain, verify, rollback, handover;
};

struct cv_run
{
    unsigned number;
    struct cv_times times;
    struct cv_judgement judgement;
    double write_recovery_ms, convergence_ms;
    double longest_gap_ms; /* without any acknowledgement, from the fault to the end of the load */
    struct cv_phases phases;
    bool fast;  /* beat every timer, and by notice */
    bool fired; /* the fault was carried out on the node and in the role that were meant */
    bool died;  /* a process ended that should not have */
    unsigned victim;
    uint64_t trace_lost;
    unsigned logs_checked; /* replicas whose log was searched for the acknowledged writes */
    char violation[400];
    char kept[512]; /* directory that was left behind, "" for none */
};

/* What the timeline of one run is drawn from; small enough to keep the worst of each row. */
struct cv_timeline
{
    unsigned nodes, victim, leader0, number;
    uint64_t down_ns;
    struct cv_times times;
    struct cv_events ev[CV_MAX_NODES]; /* all but the single applications, around the fault */
    struct cv_history acks;            /* acknowledged writes around the fault */
};

struct cv_row
{
    int system, role;
    const struct cv_fault *fault;
    struct cv_run *runs;
    size_t n_runs, cap_runs;
    unsigned correct, unavailable, unsafe, redone, fast, died;
    uint64_t acked, lost;
    struct cv_samples write_recovery, convergence, longest_gap;
    struct cv_samples detect, contain, verify, rollback, handover, rejoin, first_ack;
    struct cv_timeline worst; /* by write recovery; a run that was not correct is worse than any */
    double worst_rank;
};

struct cv_machine
{
    char cpu[128], kernel[128], fs[32];
    double load1;
    unsigned cpus;
    struct cv_samples fsync_us, rtt_us;
};

struct cv_report
{
    const struct cv_options *options;
    const struct cv_machine *machine;
    char commit[64];
    struct cv_row *rows;
    size_t n_rows;
};

/* ---- machine.c */
int cv_machine_measure(struct cv_machine *m, const char *dir);
void cv_commit(char *buf, size_t cap); /* of the tree that the executable stands in, or "unknown" */

/* ---- run.c: one fresh cluster, one fault. @number is part of the keys. Results are 0 when the run
 * happened (whatever its verdict; fired may be false), CV_INTERRUPTED, or -1 when the cluster could
 * not be brought up (explained on stderr). The trial is filled for the timeline and is the caller's
 * to free. */
#define CV_INTERRUPTED 130
int cv_run_once(const struct cv_options *o, int system, int role, const struct cv_fault *fault,
                unsigned number, uint64_t seed, struct cv_run *out, struct cv_trial *trial);

/* ---- rows.c: adding up */
void cv_row_add(struct cv_row *row, const struct cv_run *run, const struct cv_trial *trial);
void cv_row_free(struct cv_row *row);
/* Is run number @run, which was not correct, told in full? Of a baseline row only the first is. */
bool cv_row_lists(const struct cv_row *row, size_t run);
/* Derived figures of one run. */
void cv_run_derive(struct cv_run *run, const struct cv_trial *t, const struct cv_options *o);
/* 0, 3, 4 or 5 over all raftguard rows. */
int cv_exit_code(const struct cv_report *r);

/* ---- report.c, html.c: the three files */
void cv_report_headline(const struct cv_report *r, const struct cv_row *row, struct cv_text *out);
void cv_report_json(const struct cv_report *r, struct cv_text *out);
void cv_report_text(const struct cv_report *r, struct cv_text *out);
void cv_report_html(const struct cv_report *r, struct cv_text *out);

/* Set by SIGINT and SIGTERM. */
extern volatile int cv_interrupted;

#endif
