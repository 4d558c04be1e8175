/* SPDX-License-Identifier: Apache-2.0 */
/* What the log costs when the device costs nothing: the real append and recovery code on a disk
 * that is memory. */
#include "bench.h"

#include "wal_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <raftguard/crc32c.h>

#define GROUP    64u
#define BYTES    512u
#define BATCHES  64u
#define BIG      (1024u * 1024u * 1024u) /* no segment ends within a trial */
#define SEGMENTS 8u

/* ---- append ---- */

struct cpu_bench
{
    struct bench_log log;
    uint8_t copy[GROUP * BYTES];
    uint32_t sink;
};

static double ns_each(uint64_t from)
{
    return (double)(bench_now() - from) / (BATCHES * GROUP);
}

static double log_cpu(void *context)
{
    struct cpu_bench *c = context;
    uint64_t from = bench_now();
    for (unsigned i = 0; i < BATCHES; i++) {
        if (bench_log_stream(&c->log, GROUP, GROUP) != 0) {
            return (double)NAN;
        }
    }
    double ns = ns_each(from);
    return bench_log_trim(&c->log) == 0 ? ns : (double)NAN;
}

static double bare_cpu(void *context)
{
    struct cpu_bench *c = context;
    uint64_t from = bench_now();
    for (unsigned i = 0; i < BATCHES; i++) {
        for (unsigned r = 0; r < GROUP; r++) {
            uint8_t *to = c->copy + r * BYTES;
            memcpy(to, c->log.data, BYTES);
            c->sink = rguard_crc32c(c->sink, to, BYTES);
        }
    }
    return ns_each(from);
}

int bench_cpu_per_record(struct bench *b)
{
    static struct cpu_bench c;
    struct rguard_disk *disk = bench_ramdisk_create(true);
    if (disk == NULL) {
        return bench_failed(b, "memory disk", -ENOMEM);
    }
    int rc = bench_log_open(b, &c.log, NULL, BIG, disk, BYTES);
    if (rc == 0) {
        rc = bench_interleave(b, log_cpu, bare_cpu, &c);
        bench_log_close(&c.log);
    }
    bench_ramdisk_free(disk);
    return rc;
}

/* ---- recovery ---- */

struct scan_bench
{
    struct bench *b;
    struct rguard_disk *disk;
    uint64_t bytes, last_index;
    uint32_t sink;
};

static double gb_per_second(uint64_t bytes, uint64_t from)
{
    return (double)bytes / (double)(bench_now() - from);
}

/* A log that was closed cleanly is opened and closed without a single write. */
static double open_and_close(void *context)
{
    struct scan_bench *s = context;
    struct rguard_wal_options o = {.size = sizeof o};
    struct rguard_wal_report r = {.size = sizeof r};
    struct rguard_disk *disk = bench_ramdisk_alias(s->disk);
    rguard_wal *w;
    if (disk == NULL) {
        return (double)NAN;
    }
    uint64_t from = bench_now();
    int rc = rguard__wal_open_disk(disk, &o, &w, &r);
    double rate = gb_per_second(s->bytes, from);
    if (rc == 0 && r.last_index != s->last_index) {
        rc = -EBADMSG;
    }
    if (rc != 0) {
        bench_failed(s->b, r.message, rc);
        return (double)NAN;
    }
    (void)rguard_wal_close(w);
    return rate;
}

static void sum(void *user, const uint8_t *data, size_t len)
{
    struct scan_bench *s = user;
    s->sink = rguard_crc32c(s->sink, data, len);
}

static double bare_crc(void *context)
{
    struct scan_bench *s = context;
    uint64_t from = bench_now();
    bench_ramdisk_each(s->disk, sum, s);
    return gb_per_second(s->bytes, from);
}

static void add_size(void *user, const uint8_t *data, size_t len)
{
    (void)data;
    *(uint64_t *)user += len;
}

int bench_scan_hot(struct bench *b)
{
    struct bench_log log;
    struct scan_bench s = {.b = b, .disk = bench_ramdisk_create(false)};
    struct rguard_disk *disk = s.disk != NULL ? bench_ramdisk_alias(s.disk) : NULL;
    int rc = disk != NULL ? 0 : bench_failed(b, "memory disk", -ENOMEM);
    if (rc == 0) {
        rc = bench_log_open(b, &log, NULL, 0, disk, BYTES);
    }
    if (rc == 0) {
        while (rc == 0 && bench_log_segments(&log) < SEGMENTS) {
            rc = bench_log_unit(&log, GROUP);
        }
        s.last_index = rguard_wal_last_index(log.wal);
        bench_log_close(&log);
    }
    if (rc == 0) {
        bench_ramdisk_each(s.disk, add_size, &s.bytes);
        bench_note(b, "%.0f MB of %u records to a batch", (double)s.bytes / 1e6, GROUP);
        rc = bench_interleave(b, open_and_close, bare_crc, &s);
    }
    bench_ramdisk_free(s.disk);
    return rc;
}
