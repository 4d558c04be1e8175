/* SPDX-License-Identifier: Apache-2.0 */
/* Damaged logs in use. The model is the peer: it has every record of the newest state. */
#include "wal_repair.h"

#include <raftguard/crc32c.h>
#include <raftguard/testing.h>

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FAULTS 64u

struct repair
{
    const struct model *m;
    const struct damage *d;
    struct sim_disk *disk;
    uint64_t random;
    rguard_wal *wal;
    uint64_t events, crash_at;
    struct sim_disk *crashed;
    char *why;
    size_t why_len;
};

__attribute__((format(printf, 2, 3))) static int wrong(struct repair *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(r->why, r->why_len, format, args);
    va_end(args);
    return -1;
}

/* A lost TRUNC or RESET leaves older records standing, and nobody can know that it was one. */
static bool order_lost(const struct repair *r)
{
    bool lost = false;
    for (uint32_t i = 0; i < r->m->durable; i++) {
        lost = lost || (r->d->hit[i] &&
                        (r->m->batches[i].type == WAL_TRUNC || r->m->batches[i].type == WAL_RESET));
    }
    return lost;
}

static const struct model_log *newest(const struct repair *r)
{
    return model_log(r->m, r->m->n_batches);
}

/* The peer's copy of the record at @index. */
static struct rguard_wal_record peer(const struct repair *r, uint64_t index, uint8_t *data)
{
    uint32_t serial = newest(r)->serial[index];
    const struct model_record *want = &r->m->records[serial];
    model_contents(r->m, serial, data);
    return (struct rguard_wal_record){.index = index,
                                      .term = want->term,
                                      .type = want->type,
                                      .len = want->len,
                                      .crc = want->crc,
                                      .data = data};
}

static int open_damaged(struct repair *r, struct rguard_wal_report *report)
{
    struct rguard_disk *mount;
    struct life l = {.random = r->random, .segment_bytes = 32768};
    struct rguard_wal_options o = workload_options(&l);
    o.open_damaged = true;
    memset(report, 0, sizeof *report);
    report->size = sizeof *report;
    sim_disk_mount(r->disk, &mount);
    return rguard__wal_open_disk(mount, &o, &r->wal, report);
}

/* Every record of a batch that nothing has hit, as long as the log knows of it. */
static int check_intact(struct repair *r)
{
    static _Thread_local uint8_t want[65536], got[65536];
    const struct model_log *log = newest(r);
    uint64_t last = rguard_wal_last_index(r->wal);
    for (uint64_t i = r->wal->base_index + 1; i <= log->last && i <= last; i++) {
        struct rguard_wal_record record, good = peer(r, i, want);
        uint32_t batch = r->m->records[log->serial[i]].batch;
        bool hit = batch == 0 || batch > r->m->durable || r->d->hit[batch - 1];
        int rc = rguard_wal_read(r->wal, i, &record, got, sizeof got);
        if (rc != 0 && !hit && !r->d->headers_hit && !r->d->files) {
            return wrong(r, "record %" PRIu64 " is intact and cannot be read: %s", i,
                         rguard_strerror(rc));
        }
        if (rc == 0 && !order_lost(r) &&
            (record.len != good.len || record.term != good.term ||
             memcmp(got, want, good.len) != 0)) {
            return wrong(r, "record %" PRIu64 " reads as something else", i);
        }
    }
    return 0;
}

static size_t list(const struct repair *r, struct rguard_wal_fault faults[FAULTS])
{
    size_t n = 0;
    for (size_t i = 0; i < FAULTS; i++) {
        faults[i].size = sizeof faults[i];
    }
    RGUARD_ASSERT(rguard_wal_faults(r->wal, faults, FAULTS, &n) == 0);
    return n;
}

/* What is asked for must have been hit: never a record of an intact batch. */
static int check_listed(struct repair *r, const struct rguard_wal_fault *f, uint64_t last)
{
    const struct model_log *log = newest(r);
    for (uint64_t i = f->first_index; i != 0 && i <= last; i++) {
        uint32_t batch = i <= log->last ? r->m->records[log->serial[i]].batch : 0;
        bool whole = batch != 0 && batch <= r->m->durable && !r->d->hit[batch - 1];
        if (whole && !order_lost(r) && !r->d->headers_hit && !r->d->files) {
            return wrong(r, "record %" PRIu64 " is intact and listed as damaged: %s", i, f->text);
        }
    }
    return 0;
}

/* A copy that is not the record must not get in where anybody could know. */
static int put(struct repair *r, uint64_t index)
{
    static _Thread_local uint8_t data[65536];
    uint64_t committed = newest(r)->last;
    struct rguard_wal_record known, record = peer(r, index, data);
    if (rguard_wal_fault_record(r->wal, index, &known) == 0 && record.len > 0) {
        bool same = known.term == record.term && known.len == record.len && known.crc == record.crc;
        if (!same && order_lost(r)) {
            return 1; /* an older record, and the peer has another */
        }
        if (!same) {
            return wrong(r, "the identity of record %" PRIu64 " is not what was written", index);
        }
        data[record.len / 2] ^= 1;
        int rc = rguard_wal_repair_put(r->wal, &record, committed);
        if (rc != RGUARD_ECHECKSUM) {
            return wrong(r, "a false copy of record %" PRIu64 " was not refused: %d", index, rc);
        }
        data[record.len / 2] ^= 1;
    }
    int rc = rguard_wal_repair_put(r->wal, &record, committed);
    if (rc == RGUARD_ENOTSUP || (rc == -EIO && r->d->unreadable)) {
        return 1; /* a file is missing, or the device is no good */
    }
    return rc == 0 || rc == -ENOENT
               ? 0
               : wrong(r, "the peer's copy of record %" PRIu64 " was refused: %s", index,
                       rguard_strerror(rc));
}

/* Puts everything that is asked for. 1: something has been lost that cannot be put back. */
static int put_all(struct repair *r)
{
    struct rguard_wal_fault faults[FAULTS];
    size_t n, before = SIZE_MAX;
    while ((n = list(r, faults)) > 0 && n < before) {
        const struct rguard_wal_fault *f = &faults[0];
        uint64_t last = f->last_index != 0 ? f->last_index : newest(r)->last;
        before = n;
        if (f->first_index == 0 || f->first_index > newest(r)->last) {
            return 1;
        }
        int rc = check_listed(r, f, f->last_index);
        for (uint64_t i = f->first_index; i <= last && rc == 0; i++) {
            rc = i > newest(r)->last || i <= newest(r)->base ? 1 : put(r, i);
        }
        if (rc != 0) {
            return rc;
        }
    }
    return n == 0 ? 0 : 1;
}

static void on_event(void *user, const struct sim_event *event)
{
    struct repair *r = user;
    (void)event;
    if (++r->events == r->crash_at) {
        r->crashed = sim_disk_clone(r->disk, sim_random(&r->random));
        sim_disk_crash(r->crashed, SIM_CRASH_RANDOM);
    }
}

/* Every record is the newest, and none is missing that can be proved to be acknowledged. A tail of
 * which nothing is known may have ended anywhere behind that. */
static int check_prefix(struct repair *r)
{
    static _Thread_local uint8_t want[65536], got[65536];
    const struct model_log *log = newest(r);
    uint64_t last = rguard_wal_last_index(r->wal), base = r->wal->base_index;
    uint64_t least = log->last;
    for (uint32_t k = r->d->evidence; k < r->m->n_batches; k++) {
        least = model_log(r->m, k)->last < least ? model_log(r->m, k)->last : least;
    }
    if (last > log->last || last < least || base < log->base) {
        return wrong(r, "repaired, but it ends at %" PRIu64 " instead of %" PRIu64, last,
                     log->last);
    }
    for (uint64_t i = base + 1; i <= last; i++) {
        struct rguard_wal_record record, good = peer(r, i, want);
        int rc = rguard_wal_read(r->wal, i, &record, got, sizeof got);
        if (rc != 0 || record.term != good.term || record.type != good.type ||
            record.len != good.len || memcmp(got, want, good.len) != 0) {
            return wrong(r, "repaired, but record %" PRIu64 " is not the one: %s", i,
                         rguard_strerror(rc));
        }
    }
    return 0;
}

/* Whole: it takes an append, and the next open finds all of it. */
static int check_whole(struct repair *r, struct tally *tally)
{
    static const uint8_t zero;
    uint64_t last = rguard_wal_last_index(r->wal);
    if (order_lost(r)) {
        tally->mixed++; /* whatever it is now, it is not the model's to say */
        return 0;
    }
    if (check_prefix(r) != 0) {
        return -1;
    }
    struct rguard_wal_record more = {
        .index = last + 1, .term = r->m->term + 1, .type = 1, .len = 1, .data = &zero};
    int rc = rguard_wal_append(r->wal, &more, 1, NULL, NULL);
    rc = rc == 0 ? rguard_wal_flush(r->wal) : rc;
    rc = rc == 0 ? rguard_wal_truncate_suffix(r->wal, last + 1) : rc;
    rc = rc == 0 ? rguard_wal_close(r->wal) : rc;
    if (rc != 0) {
        return wrong(r, "repaired, but not in use again: %s", rguard_strerror(rc));
    }
    r->wal = NULL;
    struct rguard_wal_report report;
    rc = open_damaged(r, &report);
    if (rc != 0 || report.verdict != RGUARD_WAL_CLEAN_END) {
        return wrong(r, "repaired and closed, but it opens as %s: %s",
                     rguard_wal_verdict_name(report.verdict), report.message);
    }
    tally->repaired++;
    if (rguard_wal_last_index(r->wal) != last) {
        return wrong(r, "repaired to %" PRIu64 ", but the next open finds %" PRIu64, last,
                     rguard_wal_last_index(r->wal));
    }
    return check_prefix(r);
}

static int once(struct repair *r, struct tally *tally)
{
    struct rguard_wal_report report;
    sim_disk_watch(r->disk, on_event, r);
    int rc = open_damaged(r, &report);
    if (rc != 0) {
        sim_disk_watch(r->disk, NULL, NULL);
        bool expected = rc == RGUARD_ECORRUPT || rc == RGUARD_ESUSPECT || rc == -EIO ||
                        rc == RGUARD_EFOREIGN || rc == RGUARD_EUNSUPPORTED;
        tally->closed++;
        return expected ? 0 : wrong(r, "open_damaged: %s", rguard_strerror(rc));
    }
    if (!model_vote_ok(r->m, r->wal, r->m->metas.acked)) {
        rc = wrong(r, "opened with its damage, and an older vote came back");
    }
    rc = rc == 0 ? check_intact(r) : rc;
    rc = rc == 0 ? put_all(r) : rc;
    sim_disk_watch(r->disk, NULL, NULL);
    if (rc == 0) {
        rc = check_whole(r, tally);
    }
    (void)rguard_wal_close(r->wal);
    r->wal = NULL;
    return rc < 0 ? -1 : 0;
}

int check_repair(struct sim_disk *disk, const struct model *m, const struct damage *d,
                 uint64_t random, struct tally *tally, char *why, size_t why_len)
{
    struct repair r = {.m = m, .d = d, .disk = disk, .random = random, .why = why};
    r.why_len = why_len;
    r.crash_at = 1 + sim_below(&r.random, 40);
    int rc = once(&r, tally);
    if (rc == 0 && r.crashed != NULL) {
        /* The power failed in the middle: damage or repair, but nothing else, is what is there. */
        struct repair again = r;
        again.disk = r.crashed;
        again.crash_at = 0;
        rc = once(&again, tally);
    }
    sim_disk_free(r.crashed);
    return rc;
}
