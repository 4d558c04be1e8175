/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_BENCH_H
#define RGUARD_BENCH_H

#include "../converge/stats.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* rguard-bench: every figure beside its anchor, measured in turns in the same process, as a ratio.
 * A row is a line in the table in rows.c and a function that fills a struct bench. */

struct bench
{
    /* in */
    const char *dir; /* the row's own directory, empty, on the file system under test */
    double seconds;  /* to be spent on measuring, set-up not counted */
    bool tails;      /* set by the row: trials are single events, note mean and p99 of both */
    /* out */
    double value, anchor_value; /* medians over the trials */
    double low, high;           /* quartiles of the ratio over parts of the run */
    size_t trials;
    bool unmet;     /* not enough of it was seen for the row's goal, whatever the ratio says */
    char note[600]; /* where the time goes; why it was skipped or failed */
};

#define BENCH_SKIPPED 1 /* this build or machine lacks what the row measures; the note says what */

struct bench_row
{
    const char *name, *unit, *anchor;
    const char *goal;                /* "ratio<=1.05" or "ratio>=0.9", from the design */
    int (*measure)(struct bench *b); /* 0, BENCH_SKIPPED, or negative: could not run */
};

extern const struct bench_row bench_rows[]; /* ended by a NULL name */

enum bench_state { BENCH_MET, BENCH_MISSED, BENCH_SKIPPED_ROW, BENCH_FAILED };

struct bench_result
{
    const struct bench_row *row;
    struct bench bench;
    enum bench_state state;
    double ratio, load1;
};

void bench_note(struct bench *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Notes "what: error" and returns @err. */
int bench_failed(struct bench *b, const char *what, int err);

/* ---- sample.c */

/* Does a slice of work and returns its figure, NaN when it failed (noted). */
typedef double (*bench_trial)(void *context);

/* Runs both in turns, the order changing each time, until b->seconds have passed and there are
 * enough trials; fills the results. 0 or negative. */
int bench_interleave(struct bench *b, bench_trial ours, bench_trial anchor, void *context);

/* The same for throughput: a trial returns the nanoseconds that it took, the figure is @units per
 * second. */
int bench_interleave_rate(struct bench *b, bench_trial ours, bench_trial anchor, void *context,
                          double units);

/* Fills the results from trials that were made some other way: the i-th of both belong together. */
void bench_conclude(struct bench *b, const struct cv_samples *ours,
                    const struct cv_samples *anchor);

/* Is @ratio what @goal asks for? */
bool bench_goal_met(const char *goal, double ratio);

uint64_t bench_now(void); /* CLOCK_MONOTONIC ns */
double bench_median(const struct cv_samples *s);
double bench_quantile(const struct cv_samples *s, double q);

/* ---- raw.c: durable writes and sequential reads without any log */

struct bench_raw
{
    int fd;
    void *buf;
    size_t len;
    uint64_t at, bytes;
};

/* A file of zeros that has been written completely and synced, opened with O_DIRECT and O_DSYNC. */
int bench_raw_open(struct bench *b, struct bench_raw *raw, size_t len);
int bench_raw_write(struct bench_raw *raw); /* the next @len bytes, durably; 0 or -errno */
void bench_raw_close(struct bench_raw *raw);

/* Reads files of @dir whose name ends in @suffix from start to end, 1 MiB at a time, past the page
 * cache. Bytes, or -errno. */
int64_t bench_raw_scan(const char *dir, const char *suffix, void *buf);
#define BENCH_SCAN_CHUNK (1024u * 1024u)

/* Removes @dir with all that is in it. */
void bench_remove_tree(const char *dir);

/* ---- log.c: a log that is driven through its public face */

struct rguard_wal;
struct rguard_disk;

enum { BENCH_APPEND, BENCH_SUBMIT, BENCH_WAIT, BENCH_REAP, BENCH_PHASES };

struct bench_log
{
    struct bench *bench;
    struct rguard_wal *wal;
    uint8_t *data; /* of every record */
    uint32_t len;
    uint64_t next;          /* index */
    unsigned pending, more; /* in flight; still to be appended, one per completion */
    int status;
    uint64_t trimmed;                      /* bytes when segments were removed last */
    struct cv_samples phase[BENCH_PHASES]; /* us, of each unit */
};

/* Creates a log in b->dir. @backend NULL: the usual one. @segment 0: the usual size. With @disk
 * (which it takes over) that is used instead of the directory. */
int bench_log_open(struct bench *b, struct bench_log *log, const char *backend, size_t segment,
                   struct rguard_disk *disk, uint32_t record_bytes);
void bench_log_close(struct bench_log *log);

/* Appends @n records, one call each, and drives the log until all are acknowledged: one batch. */
int bench_log_unit(struct bench_log *log, unsigned n);

/* Keeps @depth records in flight until @n were acknowledged. */
int bench_log_stream(struct bench_log *log, unsigned depth, unsigned n);

/* Lets the log do what it does when idle, for @ms. */
int bench_log_idle(struct bench_log *log, unsigned ms);

/* Lets the log finish what it does in the background. Not to be timed. */
int bench_log_rest(struct bench_log *log);

/* Removes segments that are no longer needed once they are many. Not to be timed. */
int bench_log_trim(struct bench_log *log);

uint64_t bench_log_segments(const struct bench_log *log);

/* Notes the median and the mean of each phase of a unit. */
void bench_log_note_phases(struct bench_log *log);

/* ---- ramdisk.c: a disk that is memory */

/* @discard: durable writes cost nothing and are forgotten (for what the log itself costs). */
struct rguard_disk *bench_ramdisk_create(bool discard);
/* A second disk with the same files; the first one remains the owner. */
struct rguard_disk *bench_ramdisk_alias(struct rguard_disk *disk);
void bench_ramdisk_free(struct rguard_disk *disk);
/* Calls @fn for the contents of each segment file. */
void bench_ramdisk_each(struct rguard_disk *disk, void (*fn)(void *, const uint8_t *, size_t),
                        void *user);

/* ---- report.c */

struct cv_machine;
struct cv_text;
void bench_print_head(const struct cv_machine *m);
void bench_print_row(const struct bench_result *r);
void bench_json(const struct bench_result *results, size_t n, struct cv_text *out);

/* ---- rows */

int bench_crc32c_4k(struct bench *b);
int bench_crc32c_4k_builtin(struct bench *b);
int bench_append_4k_uring(struct bench *b);
int bench_append_4k_thread(struct bench *b);
int bench_append_64x512(struct bench *b);
int bench_append_vs_raft_uv(struct bench *b);
int bench_append_25ms(struct bench *b);
int bench_cpu_per_record(struct bench *b);
int bench_scan_hot(struct bench *b);
int bench_scan_cold(struct bench *b);
int bench_segment_switch(struct bench *b);

#endif
