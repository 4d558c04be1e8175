/* SPDX-License-Identifier: Apache-2.0 */
/* The append that finds the segment full, against an ordinary one.
 *
 *     round:  a log of 64 MiB segments, at rest; appends that never switch  --> steady p99
 *             a log of 1 MiB segments; appends, every 28th of which switches --> p99.9 of those
 *
 * Steady appends are measured on a log of their own, because in the small one a segment is always
 * in the making: if that slowed every append, it would excuse itself. */
#include "bench.h"

#include <raftguard/wal.h>

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define GROUP          64u
#define BYTES          512u
#define SMALL          (1024u * 1024u)
#define LARGE          (64u * 1024u * 1024u)
#define ROUND_SWITCHES 200u
#define ROUND_STEADY   800u /* 28 MiB: less than half, where the next segment would begin */
#define WANTED         2000u
#define REST_MS        200u

struct switch_bench
{
    struct bench *b;
    struct cv_samples steady, at_switch, others; /* us */
};

/* A log in a directory of its own below the row's, and back. */
static int open_log(struct switch_bench *s, struct bench *own, char *dir, size_t cap,
                    const char *name, size_t segment, struct bench_log *log)
{
    (void)snprintf(dir, cap, "%s/%s", s->b->dir, name);
    if (mkdir(dir, 0700) != 0 && errno != EEXIST) {
        return bench_failed(s->b, dir, -errno);
    }
    *own = *s->b;
    own->dir = dir;
    int rc = bench_log_open(own, log, NULL, segment, NULL, BYTES);
    if (rc != 0) {
        bench_note(s->b, "%s", own->note);
    }
    return rc;
}

static double unit_us(struct bench_log *log, int *rc)
{
    uint64_t from = bench_now();
    *rc = bench_log_unit(log, GROUP);
    return (double)(bench_now() - from) / 1e3;
}

static int steady_round(struct switch_bench *s, unsigned round)
{
    struct bench own;
    struct bench_log log;
    char dir[4096], name[32];
    (void)snprintf(name, sizeof name, "steady-%u", round);
    int rc = open_log(s, &own, dir, sizeof dir, name, LARGE, &log);
    if (rc != 0) {
        return rc;
    }
    rc = bench_log_idle(&log, REST_MS);
    for (unsigned i = 0; i < ROUND_STEADY && rc == 0; i++) {
        cv_samples_add(&s->steady, unit_us(&log, &rc));
    }
    bench_log_close(&log);
    bench_remove_tree(dir);
    return rc;
}

static int switch_round(struct switch_bench *s, struct bench_log *log)
{
    int rc = bench_log_idle(log, REST_MS);
    uint64_t last = bench_log_segments(log), until = last + ROUND_SWITCHES;
    while (rc == 0 && last < until) {
        double us = unit_us(log, &rc);
        uint64_t now = bench_log_segments(log);
        cv_samples_add(now != last ? &s->at_switch : &s->others, us);
        last = now;
    }
    return rc == 0 ? bench_log_trim(log) : rc;
}

static void conclude(struct switch_bench *s)
{
    struct bench *b = s->b;
    b->value = bench_quantile(&s->at_switch, 0.999);
    b->anchor_value = bench_quantile(&s->steady, 0.99);
    b->low = b->high = (double)NAN; /* one figure of the whole run */
    b->trials = s->at_switch.n;
    b->unmet = s->at_switch.n < WANTED;
    bench_note(b,
               "%zu switches%s: p50 %.0f p99 %.0f; other appends of that log: p50 %.0f p99 %.0f "
               "p99.9 %.0f; steady: p50 %.0f p99.9 %.0f us",
               s->at_switch.n, b->unmet ? " (2000 are wanted: more --seconds)" : "",
               bench_quantile(&s->at_switch, 0.5), bench_quantile(&s->at_switch, 0.99),
               bench_quantile(&s->others, 0.5), bench_quantile(&s->others, 0.99),
               bench_quantile(&s->others, 0.999), bench_quantile(&s->steady, 0.5),
               bench_quantile(&s->steady, 0.999));
}

/* Takes as long as 2000 switches take, but no more than five times b->seconds. */
int bench_segment_switch(struct bench *b)
{
    struct switch_bench s = {.b = b};
    struct bench own;
    struct bench_log log;
    char dir[4096];
    int rc = open_log(&s, &own, dir, sizeof dir, "switching", SMALL, &log);
    if (rc != 0) {
        return rc;
    }
    uint64_t until = bench_now() + (uint64_t)(b->seconds * 5e9);
    for (unsigned round = 0; rc == 0 && s.at_switch.n < WANTED && bench_now() < until; round++) {
        rc = steady_round(&s, round);
        rc = rc == 0 ? switch_round(&s, &log) : rc;
    }
    struct rguard_wal_stats stats = {.size = sizeof stats};
    (void)rguard_wal_stats(log.wal, &stats);
    bench_log_close(&log);
    if (rc == 0) {
        conclude(&s);
        bench_note(b, "; %llu had to wait for their segment",
                   (unsigned long long)stats.segment_waits);
    } else {
        bench_note(b, "%s", own.note);
    }
    cv_samples_free(&s.steady);
    cv_samples_free(&s.at_switch);
    cv_samples_free(&s.others);
    return rc;
}
