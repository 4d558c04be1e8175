/* SPDX-License-Identifier: Apache-2.0 */
/* Trials in turns, and what is said about them. Ours and the anchor alternate as finely as the row
 * allows, A B, B A, A B, ..., so that whatever else the machine does hits both, and each follows
 * each equally often. A figure is the median of all its trials, the ratio that of the medians; the
 * spread is the quartiles of the same ratio over up to 20 parts of the run. */
#include "bench.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <raftguard/error.h>

#define LEAST_TRIALS 5
#define MOST_PARTS   20u

uint64_t bench_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void bench_note(struct bench *b, const char *format, ...)
{
    size_t used = strlen(b->note);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(b->note + used, sizeof b->note - used, format, args);
    va_end(args);
}

int bench_failed(struct bench *b, const char *what, int err)
{
    bench_note(b, "%s%s: %s", b->note[0] != '\0' ? "; " : "", what, rguard_strerror(err));
    return err;
}

double bench_quantile(const struct cv_samples *s, double q)
{
    double *v = cv_sorted(s);
    double x = cv_quantile(v, s->n, q);
    free(v);
    return x;
}

double bench_median(const struct cv_samples *s)
{
    return bench_quantile(s, 0.5);
}

static double part_median(const struct cv_samples *s, size_t part, size_t parts)
{
    size_t from = s->n * part / parts, to = s->n * (part + 1) / parts;
    struct cv_samples some = {.v = s->v + from, .n = to - from};
    return bench_median(&some);
}

static double mean_of(const struct cv_samples *s)
{
    double sum = 0;
    for (size_t i = 0; i < s->n; i++) {
        sum += s->v[i];
    }
    return sum / (double)s->n;
}

void bench_conclude(struct bench *b, const struct cv_samples *ours, const struct cv_samples *anchor)
{
    struct cv_samples ratios = {0};
    b->trials = ours->n < anchor->n ? ours->n : anchor->n;
    size_t parts = b->trials < MOST_PARTS ? b->trials : MOST_PARTS;
    for (size_t i = 0; i < parts; i++) {
        cv_samples_add(&ratios, part_median(ours, i, parts) / part_median(anchor, i, parts));
    }
    b->value = bench_median(ours);
    b->anchor_value = bench_median(anchor);
    b->low = bench_quantile(&ratios, 0.25);
    b->high = bench_quantile(&ratios, 0.75);
    cv_samples_free(&ratios);
    if (b->tails) {
        bench_note(b, "mean %.0f against %.0f, p99 %.0f against %.0f; ", mean_of(ours),
                   mean_of(anchor), bench_quantile(ours, 0.99), bench_quantile(anchor, 0.99));
    }
}

/* ---- in turns ---- */

struct turns
{
    bench_trial run[2]; /* ours, anchor */
    void *context;
    double units; /* per trial; 0: run() returns the figure itself */
};

/* One trial of each, the @n-th. */
static bool take_turns(const struct turns *t, unsigned n, double out[2])
{
    for (unsigned k = 0; k < 2; k++) {
        unsigned which = (k + n) % 2;
        double x = t->run[which](t->context);
        if (!isfinite(x)) {
            return false;
        }
        out[which] = t->units > 0 ? t->units * 1e9 / x : x;
    }
    return true;
}

static int interleave(struct bench *b, const struct turns *t)
{
    struct cv_samples samples[2] = {{0}, {0}};
    double x[2];
    /* The first round touches pages, fills caches and makes segments: not counted. */
    bool good = take_turns(t, 0, x);
    uint64_t until = bench_now() + (uint64_t)(b->seconds * 1e9);
    for (unsigned n = 1; good && (bench_now() < until || n <= LEAST_TRIALS); n++) {
        good = take_turns(t, n, x);
        if (good) {
            cv_samples_add(&samples[0], x[0]);
            cv_samples_add(&samples[1], x[1]);
        }
    }
    if (good) {
        bench_conclude(b, &samples[0], &samples[1]);
    }
    cv_samples_free(&samples[0]);
    cv_samples_free(&samples[1]);
    return good ? 0 : -ECANCELED;
}

int bench_interleave(struct bench *b, bench_trial ours, bench_trial anchor, void *context)
{
    struct turns t = {{ours, anchor}, context, 0};
    return interleave(b, &t);
}

int bench_interleave_rate(struct bench *b, bench_trial ours, bench_trial anchor, void *context,
                          double units)
{
    struct turns t = {{ours, anchor}, context, units};
    return interleave(b, &t);
}

bool bench_goal_met(const char *goal, double ratio)
{
    double limit;
    if (sscanf(goal, "ratio<=%lf", &limit) == 1) {
        return ratio <= limit;
    }
    return sscanf(goal, "ratio>=%lf", &limit) == 1 && ratio >= limit;
}
