/* SPDX-License-Identifier: Apache-2.0 */
/* The table and bench.json. A row says in the same line what was measured, against what, how far
 * the trials spread, what the design asks for, and how busy the machine was. */
#include "bench.h"

#include "../converge/converge.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <raftguard/crc32c.h>

static const char *const states[] = {"met", "MISSED", "skipped", "FAILED"};

void bench_print_head(const struct cv_machine *m)
{
    printf("%s, %u cpus, Linux %s, %s, load %.1f; durable write of 4 KiB %.0f us, CRC32C by %s\n",
           m->cpu, m->cpus, m->kernel, m->fs, m->load1, bench_median(&m->fsync_us),
           rguard_crc32c_backend());
    printf("medians of trials in turns; spread: quartiles of the ratio over parts of the run\n\n");
    printf("%-29s %10s %10s %-9s %7s %-15s %-12s %-8s %s\n", "row", "value", "anchor", "unit",
           "ratio", "spread", "goal", "", "load");
}

/* Three or four significant digits, never an exponent. */
static void figure(char *buf, size_t cap, double x)
{
    int decimals = x < 10 ? 2 : x < 1000 ? 1 : 0;
    (void)snprintf(buf, cap, "%.*f", decimals, x);
}

void bench_print_row(const struct bench_result *r)
{
    const struct bench *b = &r->bench;
    char value[32] = "-", anchor[32] = "-", ratio[32] = "-", spread[32] = "";
    if (r->state == BENCH_MET || r->state == BENCH_MISSED) {
        figure(value, sizeof value, b->value);
        figure(anchor, sizeof anchor, b->anchor_value);
        (void)snprintf(ratio, sizeof ratio, "%.3f", r->ratio);
        if (isfinite(b->low)) {
            (void)snprintf(spread, sizeof spread, "[%.2f %.2f]", b->low, b->high);
        }
    }
    printf("%-29s %10s %10s %-9s %7s %-15s %-12s %-8s %.1f\n", r->row->name, value, anchor,
           r->row->unit, ratio, spread, r->row->goal, states[r->state], r->load1);
    printf("    against %s, %zu trials%s%s\n", r->row->anchor, b->trials,
           b->note[0] != '\0' ? "; " : "", b->note);
    (void)fflush(stdout);
}

void bench_json(const struct bench_result *results, size_t n, struct cv_text *out)
{
    struct cv_json j = {.out = out};
    cv_json_open(&j, NULL, '[');
    for (size_t i = 0; i < n; i++) {
        const struct bench_result *r = &results[i];
        const struct bench *b = &r->bench;
        bool measured = r->state == BENCH_MET || r->state == BENCH_MISSED;
        double none = (double)NAN;
        cv_json_open(&j, NULL, '{');
        cv_json_string(&j, "name", r->row->name);
        cv_json_number(&j, "value", measured ? b->value : none, 4);
        cv_json_string(&j, "unit", r->row->unit);
        cv_json_string(&j, "anchor", r->row->anchor);
        cv_json_number(&j, "anchor_value", measured ? b->anchor_value : none, 4);
        cv_json_number(&j, "ratio", r->ratio, 4);
        cv_json_string(&j, "goal", r->row->goal);
        cv_json_bool(&j, "ok", r->state == BENCH_MET);
        cv_json_string(&j, "state", states[r->state]);
        cv_json_number(&j, "ratio_low", measured ? b->low : none, 4);
        cv_json_number(&j, "ratio_high", measured ? b->high : none, 4);
        cv_json_uint(&j, "trials", b->trials);
        cv_json_number(&j, "load", r->load1, 2);
        cv_json_string(&j, "note", b->note);
        cv_json_close(&j, '}');
    }
    cv_json_close(&j, ']');
    cv_text_add(out, "\n");
}
