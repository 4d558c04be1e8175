/* SPDX-License-Identifier: Apache-2.0 */

/* The engine under raftguard: everything that an adopter writes, and nothing else. Policy REWIND,
 * because the engine declares every write to its arenas (engine.c). */

#include "backend.h"
#include "log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct kv_backend
{
    struct raft raft; /* the replica's to initialise */
    struct rguard_engine engine;
    rguard_replica *replica;
    void (*closed)(void *user);
    void *user;
};

static void to_log(void *user, int level, const char *line)
{
    (void)user;
    kv_log(level, "%s", line);
}

static void on_closed(void *user)
{
    struct kv_backend *b = user;
    void (*closed)(void *) = b->closed;
    void *closed_user = b->user;
    rguard_guard_fini();
    free(b);
    closed(closed_user);
}

static void guarded_close(struct kv_backend *b, void (*cb)(void *user), void *user)
{
    b->closed = cb;
    b->user = user;
    rguard_replica_close(b->replica, on_closed, b);
}

static void flag_closed(void *user)
{
    *(bool *)user = true;
}

/* A fault outside a window ends the process; what it was is found, and logged, by the next one. */
static int install_trap(const char *dir, char *errmsg, size_t cap)
{
    char crash[512], line[512];
    struct rguard_violation v;
    struct rguard_guard_options options = {.size = sizeof options, .crash_file = crash};
    snprintf(crash, sizeof crash, "%s/crash", dir);
    if (rguard_crash_read(crash, &v) == 0) {
        (void)rguard_violation_text(&v, line, sizeof line);
        kv_log(RGUARD_LOG_ERROR, "the last run ended by: %s%s", line,
               v.signo == SIGABRT ? " (an abort; what was logged before it says why)" : "");
        (void)unlink(crash);
    }
    int rc = rguard_guard_init(&options);
    if (rc != 0) {
        snprintf(errmsg, cap, "fault trap: %s", rguard_strerror(rc));
    }
    return rc;
}

static int guarded_open(const struct kv_backend_options *o, struct kv_backend **out, char *errmsg,
                        size_t cap)
{
    char marker[512];
    struct stat st;
    bool closed = false;
    struct kv_backend *b = calloc(1, sizeof *b);
    if (b == NULL) {
        snprintf(errmsg, cap, "out of memory");
        return -ENOMEM;
    }
    snprintf(marker, sizeof marker, "%s/rguard-kv.bare", o->dir);
    if (stat(marker, &st) == 0) {
        snprintf(errmsg, cap, "%s: belongs to a bare node", o->dir);
        free(b);
        return RGUARD_EFOREIGN;
    }
    int rc = install_trap(o->dir, errmsg, cap);
    if (rc != 0) {
        free(b);
        return rc;
    }
    b->engine = (struct rguard_engine){.size = sizeof b->engine,
                                       .user = o->engine,
                                       .apply = kv_engine_apply,
                                       .snapshot = kv_engine_snapshot,
                                       .restore = kv_engine_restore,
                                       .digest = kv_engine_digest};
    b->engine.arenas = kv_engine_arenas(o->engine, &b->engine.n_arenas);
    const struct rguard_replica_options options = {.size = sizeof options,
                                                   .raft = &b->raft,
                                                   .loop = o->loop,
                                                   .dir = o->dir,
                                                   .id = o->id,
                                                   .address = o->address,
                                                   .announce = o->announce,
                                                   .peers = o->peers,
                                                   .n_peers = o->n_peers,
                                                   .engine = &b->engine,
                                                   .election_ms = o->election_ms,
                                                   .heartbeat_ms = o->heartbeat_ms,
                                                   .snapshot_threshold = o->snapshot_threshold,
                                                   .policy = RGUARD_POLICY_REWIND,
                                                   .no_notice = o->no_notice,
                                                   .log = to_log};
    rc = rguard_replica_open(&options, &b->replica, errmsg, cap);
    if (rc != 0) {
        rguard_guard_fini();
        free(b);
        return rc;
    }
    rc = rguard_replica_start(b->replica, errmsg, cap);
    if (rc != 0) {
        guarded_close(b, flag_closed, &closed);
        while (!closed) {
            uv_run(o->loop, UV_RUN_ONCE);
        }
        return rc;
    }
    *out = b;
    return 0;
}

static int guarded_propose(struct kv_backend *b, const void *cmd, size_t len, rguard_propose_cb cb,
                           void *user)
{
    return rguard_propose(b->replica, cmd, len, cb, user);
}

static int guarded_read(struct kv_backend *b, rguard_read_cb cb, void *user)
{
    return rguard_read_barrier(b->replica, cb, user);
}

static void guarded_info(struct kv_backend *b, struct kv_backend_info *info)
{
    struct rguard_replica_info i = {.size = sizeof i};
    (void)rguard_replica_info(b->replica, &i);
    *info = (struct kv_backend_info){.role = i.role,
                                     .term = i.term,
                                     .last_index = i.last_index,
                                     .commit_index = i.commit_index,
                                     .applied_index = i.applied_index,
                                     .leader_id = i.leader_id,
                                     .leader_announce = i.leader_announce};
}

static void guarded_counters(struct kv_backend *b, char *buf, size_t cap)
{
    struct rguard_replica_info i = {.size = sizeof i};
    (void)rguard_replica_info(b->replica, &i);
    snprintf(buf, cap,
             "ladder:%s\r\nviolations:%llu\r\nrewinds:%llu\r\nnotices_sent:%llu\r\n"
             "notices_received:%llu\r\nelections_by_notice:%llu\r\nbad_frames:%llu\r\n"
             "bad_envelopes:%llu\r\nsend_dropped:%llu\r\ninflight_bytes:%zu\r\n"
             "peers_connected:%u\r\n",
             rguard_ladder_state_name(i.ladder), (unsigned long long)i.violations,
             (unsigned long long)i.rewinds, (unsigned long long)i.notices_sent,
             (unsigned long long)i.notices_received, (unsigned long long)i.elections_by_notice,
             (unsigned long long)i.bad_frames, (unsigned long long)i.bad_envelopes,
             (unsigned long long)i.send_dropped, i.inflight_bytes, i.peers_connected);
}

const struct kv_backend_ops kv_backend_guarded = {
    .name = "guarded",
    .open = guarded_open,
    .close = guarded_close,
    .propose = guarded_propose,
    .read = guarded_read,
    .info = guarded_info,
    .counters = guarded_counters,
};
