/* SPDX-License-Identifier: Apache-2.0 */
/* Nearest-rank statistics and the random stream. */
#include "stats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

void cv_samples_add(struct cv_samples *s, double ms)
{
    s->v = cv_reserve(s->v, s->n, &s->cap, sizeof *s->v);
    s->v[s->n++] = ms;
}

void cv_samples_free(struct cv_samples *s)
{
    free(s->v);
    *s = (struct cv_samples){0};
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double *cv_sorted(const struct cv_samples *s)
{
    if (s->n == 0) {
        return NULL;
    }
    double *v = cv_grow(NULL, s->n * sizeof *v);
    memcpy(v, s->v, s->n * sizeof *v);
    qsort(v, s->n, sizeof *v, ascending);
    return v;
}

double cv_quantile(const double *sorted, size_t n, double q)
{
    if (n == 0) {
        return (double)NAN;
    }
    double rank = ceil(q * (double)n);
    size_t i = rank < 1 ? 0 : (size_t)rank - 1;
    return sorted[i < n ? i : n - 1];
}

struct cv_summary cv_summarise(const struct cv_samples *s)
{
    double *v = cv_sorted(s);
    struct cv_summary r = {
        .n = s->n,
        .min = cv_quantile(v, s->n, 0),
        .p50 = cv_quantile(v, s->n, 0.50),
        .p95 = cv_quantile(v, s->n, 0.95),
        .p99 = s->n >= CV_P99_SAMPLES ? cv_quantile(v, s->n, 0.99) : (double)NAN,
        .max = cv_quantile(v, s->n, 1),
    };
    free(v);
    return r;
}

uint64_t cv_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
