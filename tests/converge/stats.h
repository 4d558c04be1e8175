/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CV_STATS_H
#define CV_STATS_H

#include <stddef.h>
#include <stdint.h>

/* Samples in milliseconds and what may be said about them. Quantiles are nearest-rank: every figure
 * that is printed was really measured. p99 is NaN below CV_P99_SAMPLES, because of fewer samples it
 * would be the maximum under another name. */

#define CV_P99_SAMPLES 1000

struct cv_samples
{
    double *v; /* in the order in which they were measured */
    size_t n, cap;
};

struct cv_summary
{
    size_t n;
    double min, p50, p95, p99, max; /* NaN when there is no such figure */
};

void cv_samples_add(struct cv_samples *s, double ms);
void cv_samples_free(struct cv_samples *s);
struct cv_summary cv_summarise(const struct cv_samples *s);

/* Nearest-rank quantile of @n sorted values; NaN for none. */
double cv_quantile(const double *sorted, size_t n, double q);

/* A sorted copy, to be freed; NULL for none. */
double *cv_sorted(const struct cv_samples *s);

/* splitmix64: one stream of a seed. */
uint64_t cv_random(uint64_t *state);

#endif
