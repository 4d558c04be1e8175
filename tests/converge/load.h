/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CV_LOAD_H
#define CV_LOAD_H

#include <poll.h>

#include "trial.h"

/* Open-loop load: every node has its own connection and its own clock of arrivals, and neither
 * waits for an answer, so a node that hangs or dies does not slow what the others are asked. One
 * write in four goes to one register key, which a probe reads at the old leader. */

#define CV_RATE_PER_NODE 1000u /* writes per second */
#define CV_PROBE_RATE    250u

struct cv_load;

/* @ports: RESP port of each node. Every operation goes into @history, which must stay where it is
 * until close. @run is part of every key, @seed decides the jitter of the arrivals. */
struct cv_load *cv_load_open(unsigned nodes, const unsigned *ports, unsigned run, uint64_t seed,
                             struct cv_history *history);

/* Starts the reads of the register at @node. */
void cv_load_probe(struct cv_load *l, unsigned node);

/* No more arrivals; answers are still taken. */
void cv_load_stop(struct cv_load *l);

/* Operations that are still unanswered on live connections. */
size_t cv_load_pending(const struct cv_load *l);

/* One turn: sends what is due, takes what has arrived, connects what is down. Then fill @p (room
 * for CV_MAX_NODES + 1) for ppoll; returns how many. */
size_t cv_load_turn(struct cv_load *l, struct pollfd *p);

/* When the next turn is due, CLOCK_MONOTONIC ns. */
uint64_t cv_load_due(const struct cv_load *l);

/* Acknowledged writes so far. */
uint64_t cv_load_acked(const struct cv_load *l);

void cv_load_close(struct cv_load *l);

/* The texts that the oracles look for: key of an ordinary write, key of the register, and the value
 * of either ("=<run>.<seq>=" and padding). Return the length. */
int cv_load_key(char *buf, size_t cap, unsigned run, uint32_t seq);
int cv_load_register(char *buf, size_t cap, unsigned run);
int cv_load_value(char *buf, size_t cap, unsigned run, uint32_t seq);

/* Finds the next value of @run in @data from *@at on and moves *@at behind it. -1: none. */
int64_t cv_load_find(const char *data, size_t len, unsigned run, size_t *at);

#endif
