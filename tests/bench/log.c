/* SPDX-License-Identifier: Apache-2.0 */
/* Drives a log as an event loop would: append, process, poll its descriptor, process. The time of a
 * unit, from the first append to the last acknowledgement, is split into
 *
 *     append | submit: batch built and handed over | wait: poll returns | reap: to the callback
 */
#include "bench.h"

#include "wal_internal.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#define TRIM_BYTES (256u * 1024u * 1024u)
#define REST_MS    50u /* a segment is made in less */

int bench_log_open(struct bench *b, struct bench_log *log, const char *backend, size_t segment,
                   struct rguard_disk *disk, uint32_t record_bytes)
{
    struct rguard_wal_options o = {.size = sizeof o, .segment_bytes = segment, .backend = backend};
    struct rguard_wal_report r = {.size = sizeof r};
    *log = (struct bench_log){.bench = b, .len = record_bytes};
    log->data = malloc(record_bytes);
    int rc = log->data == NULL ? -ENOMEM : 0;
    if (rc == 0) {
        memset(log->data, 0xa7, record_bytes);
        rc = disk != NULL ? rguard__wal_open_disk(disk, &o, &log->wal, &r)
                          : rguard_wal_open(b->dir, &o, &log->wal, &r);
    }
    if (rc != 0) {
        free(log->data);
        log->data = NULL;
        return bench_failed(b, r.message[0] != '\0' ? r.message : "log", rc);
    }
    log->next = rguard_wal_last_index(log->wal) + 1;
    return 0;
}

void bench_log_close(struct bench_log *log)
{
    rguard_wal_close(log->wal);
    free(log->data);
    for (size_t i = 0; i < BENCH_PHASES; i++) {
        cv_samples_free(&log->phase[i]);
    }
    *log = (struct bench_log){0};
}

static int append(struct bench_log *log);

static void on_append(void *user, int status)
{
    struct bench_log *log = user;
    log->pending--;
    if (status != 0 && log->status == 0) {
        log->status = status;
    }
    if (log->more > 0) {
        log->more--;
        (void)append(log);
    }
}

static int append(struct bench_log *log)
{
    struct rguard_wal_record r = {
        .index = log->next, .term = 1, .type = 1, .len = log->len, .data = log->data};
    int rc = rguard_wal_append(log->wal, &r, 1, on_append, log);
    log->next += rc == 0;
    log->pending += rc == 0;
    log->status = log->status != 0 ? log->status : rc;
    return rc;
}

/* Waits for the log's descriptor or its timeout. */
static void wait_for(struct bench_log *log, int most_ms)
{
    int timeout = rguard_wal_timeout_ms(log->wal);
    if (most_ms >= 0 && (timeout < 0 || timeout > most_ms)) {
        timeout = most_ms;
    }
    struct pollfd p = {.fd = rguard_wal_fd(log->wal), .events = POLLIN};
    (void)poll(&p, 1, timeout);
}

static int outcome(struct bench_log *log)
{
    return log->status == 0 ? 0 : bench_failed(log->bench, "append", log->status);
}

int bench_log_unit(struct bench_log *log, unsigned n)
{
    uint64_t at[BENCH_PHASES + 1];
    at[0] = bench_now();
    for (unsigned i = 0; i < n; i++) {
        (void)append(log);
    }
    at[1] = bench_now();
    (void)rguard_wal_process(log->wal);
    at[2] = at[3] = bench_now();
    while (log->pending > 0 && log->status == 0) {
        wait_for(log, -1);
        at[3] = bench_now();
        (void)rguard_wal_process(log->wal);
    }
    at[4] = bench_now();
    for (size_t i = 0; i < BENCH_PHASES; i++) {
        cv_samples_add(&log->phase[i], (double)(at[i + 1] - at[i]) / 1e3);
    }
    return outcome(log);
}

int bench_log_stream(struct bench_log *log, unsigned depth, unsigned n)
{
    log->more = n - depth;
    for (unsigned i = 0; i < depth; i++) {
        (void)append(log);
    }
    (void)rguard_wal_process(log->wal);
    while (log->pending > 0 && log->status == 0) {
        wait_for(log, -1);
        (void)rguard_wal_process(log->wal);
    }
    return outcome(log);
}

int bench_log_idle(struct bench_log *log, unsigned ms)
{
    uint64_t until = bench_now() + ms * 1000000ull, now;
    while ((now = bench_now()) < until) {
        wait_for(log, (int)((until - now) / 1000000) + 1);
        (void)rguard_wal_process(log->wal);
    }
    return outcome(log);
}

int bench_log_rest(struct bench_log *log)
{
    return bench_log_idle(log, REST_MS);
}

int bench_log_trim(struct bench_log *log)
{
    struct rguard_wal_stats s = {.size = sizeof s};
    (void)rguard_wal_stats(log->wal, &s);
    if (s.bytes - log->trimmed < TRIM_BYTES) {
        return 0;
    }
    log->trimmed = s.bytes;
    int rc = rguard_wal_truncate_prefix(log->wal, rguard_wal_last_index(log->wal));
    return rc == 0 ? 0 : bench_failed(log->bench, "truncate_prefix", rc);
}

uint64_t bench_log_segments(const struct bench_log *log)
{
    struct rguard_wal_stats s = {.size = sizeof s};
    (void)rguard_wal_stats(log->wal, &s);
    return s.segments;
}

void bench_log_note_phases(struct bench_log *log)
{
    static const char *const names[] = {"append", "build and submit", "wait", "reap"};
    bench_note(log->bench, "us, p50/mean:");
    for (size_t i = 0; i < BENCH_PHASES; i++) {
        const struct cv_samples *s = &log->phase[i];
        double sum = 0;
        for (size_t k = 0; k < s->n; k++) {
            sum += s->v[k];
        }
        bench_note(log->bench, " %s %.1f/%.1f%s", names[i], bench_median(s),
                   sum / (double)(s->n > 0 ? s->n : 1), i + 1 < BENCH_PHASES ? "," : "; ");
    }
}
