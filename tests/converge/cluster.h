/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CV_CLUSTER_H
#define CV_CLUSTER_H

#include <sys/types.h>

#include "converge.h"

/* A cluster of real rguard-kv processes on 127.0.0.1, each with its own directory, log file, trace
 * ring and failpoint socket, below one directory that vanishes with the run. No process outlives
 * the supervisor: the kernel kills them when it dies (PR_SET_PDEATHSIG), and every way out of a run
 * goes through cv_cluster_close(). */

struct cv_node
{
    unsigned id, port, raft_port;
    pid_t pid; /* 0: not running */
    unsigned starts;
    struct cv_ring ring;
    int fp_fd; /* connection to its failpoint socket, -1 */
};

struct cv_cluster
{
    const struct cv_options *options;
    bool bare; /* the baseline: the same engine on libraft without us */
    unsigned n;
    char dir[512]; /* absolute */
    int dir_fd;
    struct cv_node nodes[CV_MAX_NODES];
};

/* Directory, ports, rings and processes. 0 or negative after a message on stderr. */
int cv_cluster_open(struct cv_cluster *c, const struct cv_options *o, bool bare);

/* Waits until one node leads, every other one follows it, and all are connected. 0, CV_INTERRUPTED,
 * or -1 after a message. */
int cv_cluster_ready(struct cv_cluster *c, unsigned timeout_ms, unsigned *leader, uint64_t *term);

/* One process that ended since the last call: its node and wait status. false: none. */
bool cv_cluster_reap(struct cv_cluster *c, unsigned *node, int *status);

/* Starts node @id again. */
int cv_cluster_start(struct cv_cluster *c, unsigned id);

/* Opens the connection that cv_cluster_arm() writes to, ahead of time. */
int cv_cluster_attach(struct cv_cluster *c, unsigned id);
/* Sends "set @site @program" and returns; the answer is looked at by cv_cluster_armed(): 1 yes, 0
 * no answer yet, negative: refused, explained on stderr. */
int cv_cluster_arm(struct cv_cluster *c, unsigned id, const char *site, const char *program);
int cv_cluster_armed(struct cv_cluster *c, unsigned id);

/* Reads every ring into @ev. */
void cv_cluster_trace(struct cv_cluster *c, struct cv_events *ev);

/* SIGTERM to all, at most @timeout_ms for the end. Each node whose exit was not 0 is described in
 * @complaint (the first one) and counted. */
unsigned cv_cluster_end(struct cv_cluster *c, unsigned timeout_ms, char *complaint, size_t cap);

/* The victim's line with a violation record, "" when there is none. */
void cv_cluster_violation(const struct cv_cluster *c, unsigned id, char *buf, size_t cap);

/* "<dir>/n<id>": the node's directory. */
void cv_cluster_data(const struct cv_cluster *c, unsigned id, char *buf, size_t cap);

/* Kills what still runs and removes the directory unless @keep. */
void cv_cluster_close(struct cv_cluster *c, bool keep);

#endif
