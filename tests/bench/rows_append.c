/* SPDX-License-Identifier: Apache-2.0 */
/* Durable appends against the bare device, which writes as many bytes as the batch takes on disk: a
 * record of 3.5 KiB with its header fills one block, 64 records of 512 bytes exactly 36 KiB. (A
 * record of 4096 bytes takes two blocks, which costs the bare device 3 to 4 % as well.)
 *
 * The 64x512 row alternates in long slices, because segments are made beside the appends: a slice
 * of ours is several segments long, so that their making is paid for in it, and the log comes to
 * rest before the device is measured alone. */
#include "bench.h"

#include <raftguard/wal.h>

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>

#define UNITS_36K 1024u /* 36 MiB: more than four segments */
#define GROUP     64u
#define ONE_BLOCK 3584u
#define ARRIVAL   25000000u /* ns */

struct append_bench
{
    struct bench *b;
    struct bench_log log;
    struct bench_raw raw;
};

/* The log with @backend, and the raw file. */
static int start(struct append_bench *a, const char *backend, uint32_t record, size_t raw)
{
    int rc = bench_raw_open(a->b, &a->raw, raw);
    if (rc != 0) {
        return rc;
    }
    rc = bench_log_open(a->b, &a->log, backend, 0, NULL, record);
    if (rc != 0) {
        bench_raw_close(&a->raw);
    }
    return rc;
}

static void stop(struct append_bench *a)
{
    bench_log_close(&a->log);
    bench_raw_close(&a->raw);
}

static double raw_ns(struct append_bench *a)
{
    uint64_t from = bench_now();
    int rc = bench_raw_write(&a->raw);
    double ns = (double)(bench_now() - from);
    if (rc != 0) {
        (void)bench_failed(a->b, "raw write", rc);
        return (double)NAN;
    }
    return ns;
}

static double log_ns(struct append_bench *a, unsigned records)
{
    uint64_t from = bench_now();
    int rc = bench_log_unit(&a->log, records);
    double ns = (double)(bench_now() - from);
    return rc == 0 && bench_log_trim(&a->log) == 0 ? ns : (double)NAN;
}

static double log_4k(void *context)
{
    return log_ns(context, 1) / 1e3;
}

static double raw_4k(void *context)
{
    return raw_ns(context) / 1e3;
}

static int append_4k(struct bench *b, const char *backend)
{
    struct append_bench a = {.b = b};
    int rc = start(&a, backend, ONE_BLOCK, 4096);
    if (rc != 0) {
        return rc;
    }
    b->tails = true;
    rc = bench_interleave(b, log_4k, raw_4k, &a);
    if (rc == 0) {
        bench_log_note_phases(&a.log);
    }
    stop(&a);
    return rc;
}

int bench_append_4k_uring(struct bench *b)
{
    int rc = append_4k(b, "uring");
    return rc == -EPERM || rc == -ENOSYS ? BENCH_SKIPPED : rc; /* io_uring is refused here */
}

int bench_append_4k_thread(struct bench *b)
{
    struct append_bench a = {.b = b};
    int rc = bench_log_open(b, &a.log, "thread", 0, NULL, 1);
    if (rc == -EINVAL) {
        return BENCH_SKIPPED; /* not in this build */
    }
    if (rc == 0) {
        bench_log_close(&a.log);
        rc = append_4k(b, "thread");
    }
    return rc;
}

/* ---- 64 records in a batch ---- */

static double log_64x512(void *context)
{
    struct append_bench *a = context;
    double ns = 0;
    for (unsigned i = 0; i < UNITS_36K && isfinite(ns); i++) {
        ns += log_ns(a, GROUP);
    }
    return bench_log_rest(&a->log) == 0 ? ns : (double)NAN;
}

static double raw_64x512(void *context)
{
    double ns = 0;
    for (unsigned i = 0; i < UNITS_36K && isfinite(ns); i++) {
        ns += raw_ns(context);
    }
    return ns;
}

int bench_append_64x512(struct bench *b)
{
    struct append_bench a = {.b = b};
    int rc = start(&a, NULL, 512, 36 * 1024);
    if (rc != 0) {
        return rc;
    }
    rc = bench_interleave_rate(b, log_64x512, raw_64x512, &a, UNITS_36K * GROUP);
    if (rc == 0) {
        bench_log_note_phases(&a.log);
    }
    stop(&a);
    return rc;
}

/* ---- an append every 25 ms ----
 *
 *     0 append        12.5 raw write        20 MARK     25 append ...
 */

static void sleep_until(uint64_t ns)
{
    struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000u),
                          .tv_nsec = (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &ts, NULL) == EINTR) {
    }
}

/* Serves the log until @ns. */
static int idle_until(struct append_bench *a, uint64_t ns)
{
    uint64_t now = bench_now();
    unsigned ms = now < ns ? (unsigned)((ns - now) / 1000000) : 0;
    int rc = ms > 1 ? bench_log_idle(&a->log, ms - 1) : 0;
    sleep_until(ns);
    return rc;
}

int bench_append_25ms(struct bench *b)
{
    struct append_bench a = {.b = b};
    struct cv_samples ours = {0}, raw = {0};
    int rc = start(&a, NULL, ONE_BLOCK, 4096);
    if (rc != 0) {
        return rc;
    }
    uint64_t at = bench_now(), until = at + (uint64_t)(b->seconds * 1e9);
    for (unsigned i = 0; rc == 0 && (at < until || i < 20); i++) {
        double mine = log_4k(&a);
        rc = idle_until(&a, at + ARRIVAL / 2);
        double bare = raw_4k(&a);
        at += ARRIVAL;
        rc = rc == 0 ? idle_until(&a, at) : rc;
        rc = rc == 0 && isfinite(mine) && isfinite(bare) ? 0 : -ECANCELED;
        cv_samples_add(&ours, mine);
        cv_samples_add(&raw, bare);
    }
    if (rc == 0) {
        struct rguard_wal_stats s = {.size = sizeof s};
        (void)rguard_wal_stats(a.log.wal, &s);
        b->tails = true;
        bench_conclude(b, &ours, &raw);
        bench_log_note_phases(&a.log);
        bench_note(b, "%.2f MARKs per append", (double)s.marks / (double)ours.n);
        b->unmet = s.marks < ours.n / 2; /* then the row did not see what it is about */
    }
    cv_samples_free(&ours);
    cv_samples_free(&raw);
    stop(&a);
    return rc;
}
