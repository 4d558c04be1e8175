/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_TEST_CLUSTER_H
#define RGUARD_TEST_CLUSTER_H

#include <raftguard/raftlog.h>
#include <uv.h>

/* Up to five real replicas in one process and one loop: real libraft, log, sockets, arenas and
 * trap, on loopback and in a temporary directory. The engine is a counter whose state lives in a
 * packed slot and whose scratch lives in a guarded one; failpoint test/apply mutates the scratch. It
 * refuses a command of less than 8 bytes. */

#define CLUSTER_MAX 5

struct test_engine
{
    struct rguard_engine engine;
    rguard_arena *arenas[2];
    struct test_state *state; /* packed */
    uint8_t *scratch;         /* guarded, 64 bytes */
    uint64_t restored;        /* times restore ran */
};

struct test_node
{
    struct cluster *cluster;
    struct raft raft;
    rguard_replica *rep;
    struct test_engine engine;
    char address[32], dir[128];
    bool up, closed;
};

struct cluster
{
    uv_loop_t loop;
    unsigned n, election_ms, heartbeat_ms, snapshot_threshold, snapshot_trailing;
    size_t command_bytes; /* of each increment: the value, and ballast up to this */
    char dir[96];
    struct rguard_peer peers[CLUSTER_MAX];
    struct test_node nodes[CLUSTER_MAX];
    unsigned acked, lost;
    bool read_done;
    int read_status;
    bool verbose;
};

void cluster_init(struct cluster *c, unsigned n);
void cluster_up(struct cluster *c, unsigned i); /* opens and starts; fails the test on error */
void cluster_down(struct cluster *c,
                  unsigned i); /* closes cleanly and runs the loop until it is done */
void cluster_destroy(struct cluster *c);

/* Runs the loop until @done, at most @ms. */
bool cluster_until(struct cluster *c, bool (*done)(struct cluster *c), unsigned ms);
void cluster_run(struct cluster *c, unsigned ms);

int cluster_leader(struct cluster *c); /* -1: none */
struct rguard_replica_info cluster_info(struct cluster *c, unsigned i);

/* Proposes @n increments of @value at node @i and returns how many it took. */
unsigned cluster_propose(struct cluster *c, unsigned i, unsigned n, uint64_t value,
                         rguard_propose_cb cb, void *user);

/* Proposes @n increments of @value at the present leader and waits until all are answered. Returns
 * how many were acknowledged. */
unsigned cluster_write(struct cluster *c, unsigned n, uint64_t value);
bool cluster_alike(struct cluster *c); /* all that are up: same applied index, same digest */
bool cluster_has_leader(struct cluster *c);

#endif
