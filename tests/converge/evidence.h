/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CV_EVIDENCE_H
#define CV_EVIDENCE_H

#include "cluster.h"

/* What is collected from a cluster when the load is over: replicas at rest, the content of the
 * leader, the logs on disk, the history as a file. */

/* Asks all nodes until they stand at one applied index with one digest, or @timeout_ms. Fills
 * t->final. Returns the leader's id, 0 when there is none. */
unsigned cv_evidence_rest(const struct cv_cluster *c, unsigned timeout_ms, struct cv_trial *t);

/* Reads back every acknowledged write and the register at @leader. 0, or negative and t->state_read
 * stays false. */
int cv_evidence_state(const struct cv_cluster *c, unsigned leader, unsigned run,
                      struct cv_trial *t);

/* Opens the log in @dir read-only and marks every write of @run found in its records. Returns 0;
 * 1 when a snapshot has replaced the beginning, so that absence proves nothing; negative with @err
 * filled when the log is not readable. */
int cv_evidence_log(const char *dir, unsigned run, struct cv_bits *found, char *err, size_t cap);

/* One line of JSON per operation, for Porcupine, Jepsen or a person. 0 or -errno. */
int cv_evidence_history(const struct cv_trial *t, const char *path);

/* The same for the events of all nodes, by node. */
int cv_evidence_events(const struct cv_trial *t, const char *path);

#endif
