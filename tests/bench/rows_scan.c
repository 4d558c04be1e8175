/* SPDX-License-Identifier: Apache-2.0 */
/* Recovery of a log that is in no cache, against reading the same files from start to end. Direct
 * reads on both sides: neither leaves anything in the page cache for the other. */
#include "bench.h"

#include <raftguard/wal.h>

#include <errno.h>
#include <math.h>
#include <stdlib.h>

#define GROUP    64u
#define BYTES    512u
#define SEGMENTS 24u /* 192 MiB */

struct cold_bench
{
    struct bench *b;
    void *buf;
    int64_t bytes;
    uint64_t last_index;
};

static double raw_trial(void *context)
{
    struct cold_bench *c = context;
    uint64_t from = bench_now();
    c->bytes = bench_raw_scan(c->b->dir, ".wal", c->buf);
    double rate = (double)c->bytes / (double)(bench_now() - from);
    if (c->bytes <= 0) {
        bench_failed(c->b, "raw read", (int)c->bytes);
        return (double)NAN;
    }
    return rate;
}

static double open_trial(void *context)
{
    struct cold_bench *c = context;
    struct rguard_wal_options o = {.size = sizeof o};
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w;
    uint64_t from = bench_now();
    int rc = rguard_wal_open(c->b->dir, &o, &w, &r);
    double rate = (double)c->bytes / (double)(bench_now() - from);
    if (rc == 0 && r.last_index != c->last_index) {
        rc = -EBADMSG;
    }
    if (rc != 0) {
        bench_failed(c->b, r.message, rc);
        return (double)NAN;
    }
    (void)rguard_wal_close(w);
    return rate;
}

int bench_scan_cold(struct bench *b)
{
    struct bench_log log;
    struct cold_bench c = {.b = b, .buf = aligned_alloc(4096, BENCH_SCAN_CHUNK)};
    int rc = c.buf != NULL ? 0 : bench_failed(b, "buffer", -ENOMEM);
    if (rc == 0) {
        rc = bench_log_open(b, &log, NULL, 0, NULL, BYTES);
    }
    if (rc == 0) {
        while (rc == 0 && bench_log_segments(&log) < SEGMENTS) {
            rc = bench_log_unit(&log, GROUP);
        }
        c.last_index = rguard_wal_last_index(log.wal);
        bench_log_close(&log);
    }
    if (rc == 0 && isfinite(raw_trial(&c))) {
        bench_note(b, "%.0f MB; ", (double)c.bytes / 1e6);
        rc = bench_interleave(b, open_trial, raw_trial, &c);
    }
    free(c.buf);
    return rc;
}
