/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CV_TRIAL_H
#define CV_TRIAL_H

#include "ring.h"

/* Everything that one run left behind, and what can be computed from it without any process: the
 * events of CONVERGENCE.md with their times, and the judgement of the oracles. Both are pure
 * functions over this struct, so that a planted lie in it can be shown to be found. */

#define CV_MAX_NODES   7
#define CV_MAX_REASONS 8

enum cv_outcome {
    CV_PENDING = 0, /* sent, no answer */
    CV_OK,          /* SET: acknowledged; GET: a value or nil came back */
    CV_MOVED,       /* another node leads: had no effect */
    CV_ERROR,       /* any other error; a write may have had an effect */
    CV_LOST,        /* connection ended before the answer; may have had an effect */
    CV_DOWN         /* not connected: never sent */
};

/* An ordinary write has its own key "op:<run>:<seq>". A register write goes to the one key
 * "reg:<run>", and its value is its seq; probes read that key at the old leader. */
enum cv_kind { CV_SET = 0, CV_SET_REGISTER, CV_GET_REGISTER };

struct cv_op
{
    uint64_t invoke, reply; /* CLOCK_MONOTONIC ns; reply 0 while pending */
    uint32_t seq;           /* position in the history; unique */
    uint8_t kind, node, outcome;
    int64_t value; /* GET: seq of the write that was read, -1 for nil */
};

struct cv_history
{
    struct cv_op *v;
    size_t n, cap;
};

/* One bit per seq. */
struct cv_bits
{
    uint64_t *words;
    size_t n; /* words */
};
void cv_bits_set(struct cv_bits *b, size_t i);
bool cv_bits_get(const struct cv_bits *b, size_t i);

struct cv_final
{
    bool answered;
    uint64_t applied, digest;
};

enum cv_fault_class { CV_FAULT_MEMORY, CV_FAULT_PROCESS };

struct cv_trial
{
    /* the plan */
    unsigned nodes, victim; /* ids from 1 */
    bool leader_fault, guarded;
    int fault_class;

    /* what happened, by the supervisor's clock and hand */
    uint64_t inject_ns; /* right before the command or the kill */
    uint64_t term0;     /* of the leader that was hit */
    unsigned leader0;
    uint64_t victim_down_ns; /* its first death after the injection, as the supervisor saw it */
    unsigned died_wrongly;   /* deaths that the plan did not ask for */
    char death[120];         /* the first of them, in words */

    /* what the processes and clients recorded */
    struct cv_events ev[CV_MAX_NODES]; /* node id - 1 */
    uint64_t lost_records;             /* ring overruns */
    struct cv_history ops;

    /* the end state */
    bool log_read[CV_MAX_NODES];         /* false: the oracle does not apply to this system */
    struct cv_bits in_log[CV_MAX_NODES]; /* seq of every write found in that replica's log */
    char log_error[CV_MAX_NODES][160];   /* the log could not be opened: why; else "" */
    bool state_read;                     /* GETs at the final leader were answered */
    struct cv_bits in_state;             /* seq of every ordinary write that could be read there */
    int64_t final_register;              /* as cv_op.value */
    uint64_t final_read_ns;              /* when those reads began */
    struct cv_final final[CV_MAX_NODES]; /* after the load had stopped */
    char violation[400];                 /* the victim's record line, "" for none */
};

void cv_trial_free(struct cv_trial *t);

/* T0..T11 in CLOCK_MONOTONIC ns; 0 = did not happen. Names as in trace.h. */
struct cv_times
{
    uint64_t fault;                              /* T0 */
    uint64_t detected, contained, notice_sent;   /* victim */
    uint64_t wal_verified, rolled_back, serving; /* victim; after a restart those of the new
                                                    process */
    uint64_t restarted;                          /* victim's next START */
    uint64_t notice_recv, candidate, leader;     /* winner */
    uint64_t first_ack;                          /* T8 */
    uint64_t last_ack_before;                    /* the write gap begins here */
    uint64_t converged;                          /* T11 */
    uint64_t converged_index;
    unsigned winner; /* node id, 0 for follower faults */
    uint64_t term;   /* the winner's */
    bool by_notice;  /* NOTICE_RECV stands before its CANDIDATE, which says so too */
};

void cv_measure(const struct cv_trial *t, struct cv_times *out);

/* Milliseconds from @from to @to; NaN when either did not happen. */
double cv_ms(uint64_t from, uint64_t to);

enum cv_verdict { CV_CORRECT = 0, CV_UNAVAILABLE, CV_UNSAFE };
const char *cv_verdict_name(int verdict);

struct cv_judgement
{
    int verdict;
    uint64_t acked, lost; /* acknowledged writes; those of them that are missing somewhere */
    unsigned n_reasons;   /* empty when correct */
    char reasons[CV_MAX_REASONS][200];
};

/* Runs every oracle. @times are those of cv_measure(). */
void cv_judge(const struct cv_trial *t, const struct cv_times *times, struct cv_judgement *out);

#endif
