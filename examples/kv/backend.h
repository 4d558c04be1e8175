/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_BACKEND_H
#define KV_BACKEND_H

#include "engine.h"

#include <raftguard/raftlog.h>
#include <uv.h>

/* What replicates the engine: raftguard's replica (backend_guarded.c), or, to measure against,
 * stock libraft on its own raft_uv (backend_bare.c). The server knows only this. */

struct kv_backend;

struct kv_backend_options
{
    uv_loop_t *loop;
    struct kv_engine *engine;
    const char *dir;
    uint64_t id;
    const char *address;  /* raft, "host:port" */
    const char *announce; /* RESP, "host:port"; other nodes send clients there */
    const struct rguard_peer *peers;
    size_t n_peers;
    unsigned election_ms, heartbeat_ms, snapshot_threshold; /* the last: 0 = default */
    bool no_notice;
};

struct kv_backend_info
{
    int role; /* enum rguard_role */
    uint64_t term, last_index, commit_index, applied_index, leader_id;
    const char *leader_announce; /* NULL: not known */
};

/* Results and rules are those of rguard_propose(), rguard_read_barrier() and
 * rguard_replica_close(). */
struct kv_backend_ops
{
    const char *name;
    /* Opens and starts. On failure nothing is left open and @errmsg explains. */
    int (*open)(const struct kv_backend_options *options, struct kv_backend **out, char *errmsg,
                size_t cap);
    void (*close)(struct kv_backend *b, void (*cb)(void *user), void *user);
    int (*propose)(struct kv_backend *b, const void *cmd, size_t len, rguard_propose_cb cb,
                   void *user);
    int (*read)(struct kv_backend *b, rguard_read_cb cb, void *user);
    void (*info)(struct kv_backend *b, struct kv_backend_info *info);
    /* Counters of its own for INFO, "name:value\r\n" each. */
    void (*counters)(struct kv_backend *b, char *buf, size_t cap);
};

extern const struct kv_backend_ops kv_backend_bare, kv_backend_guarded;

#endif
