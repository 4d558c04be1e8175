/* SPDX-License-Identifier: Apache-2.0 */
/* Finding rot before a restart does, in a log that is in use.
 *
 * It follows the chain: each batch must be valid where it lies and name the one before it, so that a
 * batch that is gone is noticed although the zeros in its place look like the end of a segment.
 *
 * Invariant: only acknowledged batches are looked at; nothing is ever in flight there. What the
 * index in memory knows of a record is its identity, also when nothing of it is left on disk. */
#include "wal_internal.h"

#include <raftguard/crc32c.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define READ_BYTES (256u * 1024u)

struct scrub
{
    rguard_wal *w;
    const struct wal_segment *g;
    struct rguard_file *file; /* of g */
    uint8_t *buf;             /* the log from `from` on */
    size_t capacity, have;
    uint64_t from;
    uint64_t limit; /* acknowledged below */
};

static void close_file(struct scrub *s)
{
    if (s->file != NULL) {
        s->w->disk->ops->close(s->w->disk, s->file);
        s->file = NULL;
    }
}

static int open_segment(struct scrub *s, const struct wal_segment *g)
{
    char name[WAL_NAME_MAX];
    if (s->file != NULL && s->g == g) {
        return 0;
    }
    close_file(s);
    s->g = g;
    s->have = 0;
    rguard__wal_segment_name(g->sequence, name);
    return s->w->disk->ops->open(s->w->disk, name, O_RDONLY, &s->file);
}

/* Has @need bytes from @lsn on in the buffer. -EIO: they cannot be read. */
static int fetch(struct scrub *s, uint64_t lsn, size_t need)
{
    if (s->have > 0 && lsn >= s->from && lsn + need <= s->from + s->have) {
        return 0;
    }
    size_t want = need > READ_BYTES ? need : READ_BYTES;
    uint64_t end = rguard__wal_segment_limit(s->g);
    want = lsn + want > end ? (size_t)(end - lsn) : want;
    if (want > s->capacity) {
        uint8_t *buf = aligned_alloc(WAL_BLOCK, want);
        if (buf == NULL) {
            return -ENOMEM;
        }
        free(s->buf);
        s->buf = buf;
        s->capacity = want;
    }
    s->have = 0;
    int64_t n = s->w->disk->ops->read(s->w->disk, s->file, s->buf, want, lsn - s->g->first_lsn);
    if (n == -EIO && want > need) {
        n = s->w->disk->ops->read(s->w->disk, s->file, s->buf, need, lsn - s->g->first_lsn);
    }
    if (n < 0) {
        return (int)n;
    }
    s->from = lsn;
    s->have = (size_t)n / WAL_BLOCK * WAL_BLOCK;
    return need <= s->have ? 0 : -EIO;
}

/* A valid batch at @lsn that follows the one before it. 0, -EIO when there is none, another error. */
static int check(struct scrub *s, uint64_t lsn, struct wal_batch_header *h)
{
    struct wal_place place = {s->w->meta.uuid, s->g->sequence, s->g->salt, lsn,
                              rguard__wal_segment_limit(s->g) - lsn};
    const struct wal_batch_header *prev = &s->w->scrub_prev;
    int rc = place.room == 0 ? -EIO : fetch(s, lsn, WAL_BLOCK);
    if (rc != 0) {
        return rc;
    }
    memcpy(h, s->buf + (lsn - s->from), sizeof *h);
    bool sane = rguard__wal_header_sane(h, place.room);
    rc = sane ? fetch(s, lsn, h->length) : -EIO;
    if (rc != 0) {
        return rc;
    }
    bool good = rguard__wal_batch_check(s->buf + (lsn - s->from), &place, h) == WAL_VALID &&
                (prev->lsn == 0 || rguard__wal_follows(h, prev));
    return good ? 0 : -EIO;
}

/* ---- damage ---- */

static bool is_listed(const rguard_wal *w, uint64_t lsn)
{
    for (size_t i = 0; i < w->faults.n; i++) {
        if (w->faults.v[i].pub.lsn == lsn && !w->faults.v[i].whole) {
            return true;
        }
    }
    return false;
}

/* What the index knows of the records that have their bytes in the place. */
static void identify(const rguard_wal *w, struct wal_fault *f)
{
    uint64_t end = f->pub.lsn + f->pub.bytes;
    for (size_t i = 0; i < f->n; i++) {
        struct wal_lost_record *r = &f->records[i];
        const struct wal_entry *e = rguard__wal_index_get(&w->index, r->id.index);
        r->live = e != NULL && e->lsn >= f->pub.lsn && e->lsn < end;
        r->needed = r->live && !r->intact;
        if (r->live) {
            r->known = true;
            r->id.term = e->term;
            r->id.type = e->type;
            r->id.len = e->len;
            r->id.crc = e->crc;
            r->offset = (uint32_t)(e->lsn - f->pub.lsn);
        }
    }
}

/* Takes over what a walk of the segment has found. */
static int take(rguard_wal *w, struct wal_scan *scan, size_t *n)
{
    int rc = 0;
    for (size_t i = 0; i < scan->faults.n && rc == 0; i++) {
        struct wal_fault *f = &scan->faults.v[i];
        if (is_listed(w, f->pub.lsn)) {
            continue;
        }
        identify(w, f);
        rguard__wal_fault_narrow(f);
        if (f->pub.kind == RGUARD_WAL_FAULT_LOST && f->pub.first_index != 0) {
            f->pub.kind = RGUARD_WAL_FAULT_PAYLOAD; /* memory knows what the disk does not */
        }
        f->live = true;
        rguard__wal_fault_text(f);
        rc = rguard__wal_fault_push(&w->faults, f) == 0 ? -ENOMEM : 0;
        if (rc == 0) {
            f->records = NULL; /* taken */
            f->n = 0;
            ++*n;
        }
    }
    return rc;
}

/* The batch that was written last has no successor yet; its header is in memory. */
static void last_batch(struct wal_scan *scan, rguard_wal *w)
{
    uint8_t head[WAL_BATCH_HEAD] = {0}; /* as it would lie on disk, without its predecessor's */
    struct wal_fault f = {.pub = {.kind = RGUARD_WAL_FAULT_TABLE,
                                  .verdict = RGUARD_WAL_CORRUPT,
                                  .lsn = w->last.lsn,
                                  .bytes = w->last.length,
                                  .first_index = w->last.first_index,
                                  .last_index = w->last.last_index,
                                  .term = w->last.last_term},
                          .segment = w->segments.v[w->segments.n - 1],
                          .h = w->last,
                          .least_term = w->last.first_term,
                          .most_term = w->last.last_term};
    if (scan->last.lsn == 0 || rguard__wal_follows(&w->last, &scan->last)) {
        f.prev = scan->last;
    } else {
        memcpy(head, &w->last, sizeof w->last);
        rguard__wal_hole(scan, head, &w->last);
    }
    if (scan->error == 0 && rguard__wal_fault_push(&scan->faults, &f) == 0) {
        scan->error = -ENOMEM;
    }
}

/* Nothing could be made of it: all that is known is where it begins. */
static void unknown(struct wal_scan *scan, const struct wal_segment *g, uint64_t lsn)
{
    struct wal_fault f = {.pub = {.kind = RGUARD_WAL_FAULT_LOST,
                                  .verdict = RGUARD_WAL_CORRUPT,
                                  .lsn = lsn,
                                  .bytes = rguard__wal_segment_limit(g) - lsn},
                          .segment = *g};
    f.segment.bytes = 0;
    scan->error = rguard__wal_fault_push(&scan->faults, &f) == 0 ? -ENOMEM : scan->error;
}

/* Reads segment @k into the scan and walks it. */
static int walk(struct wal_scan *scan, size_t k, uint64_t offset)
{
    const struct wal_segment *g = &scan->segments.v[k];
    char name[WAL_NAME_MAX];
    struct rguard_file *f;
    rguard__wal_segment_name(g->sequence, name);
    int rc = scan->disk->ops->open(scan->disk, name, O_RDONLY, &f);
    if (rc != 0) {
        return rc;
    }
    free(scan->buf);
    free(scan->bad);
    scan->buf = aligned_alloc(WAL_BLOCK, g->bytes);
    scan->bad = calloc(1, g->bytes / WAL_SECTOR);
    scan->n_bad = 0;
    int64_t n = scan->buf == NULL || scan->bad == NULL
                    ? -ENOMEM
                    : rguard__wal_read_split(scan->disk, f, scan->buf, g->bytes, 0, scan->bad,
                                             &scan->n_bad);
    scan->disk->ops->close(scan->disk, f);
    if (n < 0) {
        return (int)n;
    }
    memset(scan->buf + n, 0, g->bytes - (size_t)n);
    rguard__wal_walk(scan, k, offset);
    return scan->error;
}

/* Looks at the segment of the damage, and at the one behind it, as recovery would, from the last
 * good batch on. Goes on behind what was found. */
static int examine(struct scrub *s, uint64_t lsn, size_t *n)
{
    rguard_wal *w = s->w;
    size_t k = (size_t)(s->g - w->segments.v), some = w->segments.n - k < 2 ? 1 : 2;
    struct wal_segment pair[2] = {*s->g, w->segments.v[k + some - 1]};
    struct wal_scan scan = {.disk = w->disk,
                            .options = &w->options,
                            .meta = w->meta,
                            .have_meta = true,
                            .segments = {pair, some, some},
                            .last = w->scrub_prev,
                            .last_index = w->scrub_prev.tail_index,
                            .anchored = w->scrub_prev.lsn != 0,
                            .end = lsn};
    rguard__wal_index_clear(&scan.index, scan.last_index + 1);
    int rc = walk(&scan, 0, lsn - s->g->first_lsn);
    if (rc == 0 && some == 2 && scan.faults.n == 0) {
        rc = walk(&scan, 1, WAL_FIRST_BATCH);
    }
    bool reached = scan.last.lsn == w->last.lsn || w->last.lsn + w->last.length > s->limit;
    if (rc == 0 && !reached && w->last.segment <= pair[some - 1].sequence) {
        last_batch(&scan, w);
        scan.end = w->last.lsn + w->last.length;
        scan.last = w->last;
    } else if (rc == 0 && scan.faults.n == 0 && scan.end == lsn) {
        unknown(&scan, s->g, lsn);
        scan.end = s->g->first_lsn + s->g->bytes + WAL_FIRST_BATCH;
        memset(&scan.last, 0, sizeof scan.last);
    }
    rc = rc == 0 ? scan.error : rc;
    rc = rc == 0 ? rguard__wal_examine(&scan) : rc;
    rc = rc == 0 ? take(w, &scan, n) : rc;
    w->scrub_lsn = scan.end;
    w->scrub_prev = scan.last;
    memset(&scan.segments, 0, sizeof scan.segments);
    rguard__wal_scan_free(&scan);
    return rc;
}

/* ---- one step ---- */

/* 1: there is a good batch at the cursor; 0: the round is over; negative: damage or another error. */
static int look(struct scrub *s, struct wal_batch_header *h)
{
    rguard_wal *w = s->w;
    const struct wal_segment *g = rguard__wal_segments_find(&w->segments, w->scrub_lsn);
    if ((g == NULL || w->scrub_lsn == 0) && w->scrub_lsn < s->limit) {
        g = &w->segments.v[0]; /* at the start, or what was there has been dropped */
        w->scrub_lsn = g->first_lsn + WAL_FIRST_BATCH;
        memset(&w->scrub_prev, 0, sizeof w->scrub_prev);
    }
    if (w->scrub_lsn >= s->limit) {
        return 0;
    }
    int rc = open_segment(s, g);
    rc = rc == 0 ? check(s, w->scrub_lsn, h) : rc;
    const struct wal_segment *next = g + 1;
    if (rc != -EIO || next == w->segments.v + w->segments.n) {
        return rc == 0 ? 1 : rc;
    }
    /* A segment may end early; then its successor goes on with the chain. */
    uint64_t first = next->first_lsn + WAL_FIRST_BATCH;
    if (w->scrub_prev.lsn == 0 || first >= s->limit) {
        return rc;
    }
    int other = open_segment(s, next);
    other = other == 0 ? check(s, first, h) : other;
    if (other == 0) {
        w->scrub_lsn = first;
        return 1;
    }
    (void)open_segment(s, g); /* the damage is where we were */
    return other == -EIO ? rc : other;
}

int rguard_wal_scrub_step(rguard_wal *w, size_t max_bytes, int *done)
{
    struct scrub s = {.w = w, .limit = w->acked_lsn < w->end ? w->acked_lsn : w->end};
    size_t bytes = 0, found = 0;
    int rc = 0;
    *done = 0;
    if (w->damaged) {
        return RGUARD_ECORRUPT; /* it has been examined, and there is no chain to follow */
    }
    do {
        struct wal_batch_header h;
        rc = look(&s, &h);
        if (rc == 1) {
            w->scrub_lsn += h.length;
            w->scrub_prev = h;
            bytes += h.length;
        } else if (rc == -EIO) {
            rc = examine(&s, w->scrub_lsn, &found);
            bytes += s.g->bytes;
            rc = rc == 0 ? 1 : rc;
        }
    } while (rc == 1 && found == 0 && bytes < max_bytes);
    if (rc == 0) {
        *done = 1;
        w->scrub_lsn = 0;
        memset(&w->scrub_prev, 0, sizeof w->scrub_prev);
    }
    close_file(&s);
    free(s.buf);
    if (found > 0 && !w->options.read_only && w->poisoned == 0) {
        (void)rguard__wal_heal_live(w); /* what fails stays listed */
    }
    return found > 0 ? RGUARD_ECORRUPT : rc < 0 ? rc : 0;
}
