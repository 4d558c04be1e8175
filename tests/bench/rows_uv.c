/* SPDX-License-Identifier: Apache-2.0 */
/* libraft's own disk path: raft_uv's append() with 64 entries in flight, one request each, a new one
 * from each callback; the log gets the same.
 *
 * The backend is never closed: its close callback may fire twice and free twice (raft_uv of 0.15.0).
 * Every row has a process of its own, which ends instead. */
#include "bench.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <raft.h>
#include <raft/uv.h>
#include <sys/stat.h>

#define DEPTH   64u
#define RECORDS 32768u /* two segments of either */
#define BYTES   512u

struct uv_request
{
    struct raft_io_append req;
    struct raft_entry entry;
    struct uv_bench *owner;
};

struct uv_bench
{
    struct bench *b;
    struct bench_log log;
    struct uv_loop_s loop;
    struct raft_uv_transport transport;
    struct raft_io io;
    struct uv_request requests[DEPTH];
    unsigned pending, more;
    int status;
};

static void uv_append(struct uv_bench *u, struct uv_request *r);

static void on_uv_append(struct raft_io_append *req, int status)
{
    struct uv_request *r = req->data;
    struct uv_bench *u = r->owner;
    u->pending--;
    u->status = u->status == 0 ? status : u->status;
    if (u->more > 0 && u->status == 0) {
        u->more--;
        uv_append(u, r);
    }
}

static void uv_append(struct uv_bench *u, struct uv_request *r)
{
    r->req.data = r;
    int rc = u->io.append(&u->io, &r->req, &r->entry, 1, on_uv_append);
    u->pending += rc == 0;
    u->status = u->status == 0 ? rc : u->status;
}

static double uv_trial(void *context)
{
    struct uv_bench *u = context;
    uint64_t from = bench_now();
    u->more = RECORDS - DEPTH;
    for (unsigned i = 0; i < DEPTH; i++) {
        uv_append(u, &u->requests[i]);
    }
    while (u->pending > 0 && u->status == 0) {
        (void)uv_run(&u->loop, UV_RUN_ONCE);
    }
    if (u->status != 0) {
        bench_note(u->b, "raft_uv append: %s", raft_strerror(u->status));
        return (double)NAN;
    }
    return (double)(bench_now() - from);
}

static double log_trial(void *context)
{
    struct uv_bench *u = context;
    uint64_t from = bench_now();
    int rc = bench_log_stream(&u->log, DEPTH, RECORDS);
    double ns = (double)(bench_now() - from);
    return rc == 0 && bench_log_trim(&u->log) == 0 && bench_log_rest(&u->log) == 0 ? ns
                                                                                   : (double)NAN;
}

static int uv_start(struct uv_bench *u)
{
    char dir[4096];
    raft_term term;
    raft_id vote;
    struct raft_snapshot *snapshot;
    raft_index first;
    struct raft_entry *entries;
    size_t n;
    (void)snprintf(dir, sizeof dir, "%s/uv", u->b->dir);
    if (mkdir(dir, 0700) != 0) {
        return bench_failed(u->b, dir, -errno);
    }
    int rc = uv_loop_init(&u->loop);
    if (rc != 0) {
        return bench_failed(u->b, "uv_loop_init", rc);
    }
    rc = raft_uv_tcp_init(&u->transport, &u->loop);
    if (rc == 0) {
        rc = raft_uv_init(&u->io, &u->loop, dir, &u->transport);
    }
    if (rc == 0) {
        rc = u->io.init(&u->io, 1, "127.0.0.1:9001"); /* parsed, never bound: start() does that */
    }
    if (rc == 0) {
        rc = u->io.load(&u->io, &term, &vote, &snapshot, &first, &entries, &n);
    }
    if (rc != 0) {
        bench_note(u->b, "raft_uv: %s", raft_strerror(rc));
        return -EIO;
    }
    for (unsigned i = 0; i < DEPTH; i++) {
        u->requests[i] = (struct uv_request){
            .entry = {.term = 1, .type = RAFT_COMMAND, .buf = {.base = u->log.data, .len = BYTES}},
            .owner = u};
    }
    return 0;
}

int bench_append_vs_raft_uv(struct bench *b)
{
    static struct uv_bench u;
    u.b = b;
    int rc = bench_log_open(b, &u.log, NULL, 0, NULL, BYTES);
    if (rc == 0) {
        rc = uv_start(&u);
    }
    if (rc == 0) {
        rc = bench_interleave_rate(b, log_trial, uv_trial, &u, RECORDS);
    }
    if (u.log.wal != NULL) {
        bench_log_close(&u.log);
    }
    return rc;
}
