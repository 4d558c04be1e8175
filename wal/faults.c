/* SPDX-License-Identifier: Apache-2.0 */
/* Damaged places, and what can still be said about the records in them.
 *
 *     P ok | A ??? | B ??? | Y ok          Y holds B's header. B's predecessor is A, by LSN and
 *                                          CRC: if A's own header is good, or B's own first sector
 *     is, A is known too, and so on back to P. What cannot be followed back to P is one stretch of
 *     which nothing is known but the place, and, from the headers around it, which records it held.
 *
 * Invariant: a record's identity is reported only from bytes whose CRC matched. */
#include "wal_internal.h"

#include <raftguard/crc32c.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the API ---- */

int rguard_wal_faults(const rguard_wal *w, struct rguard_wal_fault *out, size_t cap, size_t *n)
{
    size_t found = 0;
    for (size_t i = 0; i < w->faults.n; i++) {
        const struct wal_fault *f = &w->faults.v[i];
        if (f->whole) {
            continue;
        }
        if (found < cap && out != NULL) {
            /* The caller's structs may be of another release: all are as long as the first says. */
            size_t stride = out[0].size == 0 ? sizeof f->pub : out[0].size;
            size_t size = stride < sizeof f->pub ? stride : sizeof f->pub;
            char *to = (char *)out + found * stride;
            memcpy(to, &f->pub, size);
            memcpy(to, &size, sizeof size);
        }
        found++;
    }
    *n = found;
    return 0;
}

struct wal_lost_record *rguard__wal_fault_find(const struct wal_fault_list *l, uint64_t index,
                                               struct wal_fault **fault)
{
    for (size_t i = 0; i < l->n; i++) {
        struct wal_fault *f = &l->v[i];
        for (size_t k = 0; k < f->n && !f->whole; k++) {
            if (f->records[k].id.index == index && f->records[k].needed) {
                *fault = f;
                return &f->records[k];
            }
        }
    }
    return NULL;
}

int rguard_wal_fault_record(const rguard_wal *w, uint64_t index, struct rguard_wal_record *out)
{
    struct wal_fault *f;
    const struct wal_lost_record *r = rguard__wal_fault_find(&w->faults, index, &f);
    if (r == NULL || !r->known) {
        return -ENOENT;
    }
    *out = r->id;
    out->data = NULL;
    return 0;
}

void rguard__wal_faults_free(struct wal_fault_list *l)
{
    for (size_t i = 0; i < l->n; i++) {
        for (size_t k = 0; k < l->v[i].n; k++) {
            free((void *)(uintptr_t)l->v[i].records[k].id.data);
        }
        free(l->v[i].records);
    }
    free(l->v);
    memset(l, 0, sizeof *l);
}

/* Returns its number, from 1 on; 0: out of memory. */
uint32_t rguard__wal_fault_push(struct wal_fault_list *l, const struct wal_fault *f)
{
    if (l->n == l->capacity) {
        size_t capacity = l->capacity == 0 ? 8 : 2 * l->capacity;
        struct wal_fault *v = realloc(l->v, capacity * sizeof *v);
        if (v == NULL) {
            return 0;
        }
        l->v = v;
        l->capacity = capacity;
    }
    l->v[l->n] = *f;
    struct rguard_wal_fault *pub = &l->v[l->n].pub;
    pub->size = sizeof *pub;
    if (f->segment.sequence != 0) {
        rguard__wal_segment_name(f->segment.sequence, pub->file);
    }
    return (uint32_t)++l->n;
}

/* Not when nobody knows whose it is, what was voted, or which of two contradicting batches is true. */
bool rguard__wal_openable(const struct wal_scan *s)
{
    const uint32_t never =
        WAL_C_VERSION | WAL_C_FOREIGN | WAL_C_META | WAL_C_STALE_META | WAL_C_LOGIC;
    return s->error == 0 && !s->empty && !s->hopeless && (s->conditions & never) == 0 &&
           s->faults.n > 0;
}

/* ---- holes: something valid lies behind ---- */

static uint32_t push(struct wal_scan *s, const struct wal_fault *f)
{
    uint32_t id = rguard__wal_fault_push(&s->faults, f);
    s->error = id == 0 ? -ENOMEM : s->error;
    return id;
}

/* A header from a copy has a good CRC; does it also fit the place that it names? */
static bool plausible(const struct wal_scan *s, const struct wal_batch_header *h, uint64_t low,
                      uint64_t high)
{
    const struct wal_segment *g = rguard__wal_segments_find(&s->segments, h->lsn);
    return g != NULL && h->lsn >= low && h->lsn < high && h->lsn % WAL_BLOCK == 0 &&
           h->segment == g->sequence && h->salt == g->salt &&
           memcmp(h->uuid, s->meta.uuid, WAL_UUID) == 0 && h->lsn < rguard__wal_segment_limit(g) &&
           rguard__wal_header_sane(h, rguard__wal_segment_limit(g) - h->lsn) &&
           h->lsn + h->length <= high;
}

/* @h's predecessor, by its own header or by the copy that lies at @h's place. */
static bool predecessor(const struct wal_scan *s, const struct wal_batch_header *h,
                        struct wal_batch_header *out)
{
    for (size_t i = 0; i < s->n_seen; i++) {
        const struct wal_sighting *seen = &s->seen[i];
        if (seen->h.lsn == h->prev_lsn && seen->h.header_crc == h->prev_header_crc) {
            *out = seen->h;
            return true;
        }
        if (seen->h.lsn == h->lsn && seen->h.header_crc == h->header_crc && seen->prev.lsn != 0) {
            *out = seen->prev;
            return true;
        }
    }
    return false;
}

static bool is_first_lost(const struct wal_scan *s, const struct wal_batch_header *h)
{
    return s->last.lsn != 0 ? rguard__wal_follows(h, &s->last) : h->lsn == s->end;
}

struct chain
{
    struct wal_batch_header *v; /* newest first */
    size_t n, capacity;
    bool complete; /* the oldest one follows s->last */
};

static void chain_push(struct wal_scan *s, struct chain *c, const struct wal_batch_header *h)
{
    if (c->n == c->capacity) {
        size_t capacity = c->capacity == 0 ? 8 : 2 * c->capacity;
        struct wal_batch_header *v = realloc(c->v, capacity * sizeof *v);
        if (v == NULL) {
            s->error = -ENOMEM;
            return;
        }
        c->v = v;
        c->capacity = capacity;
    }
    c->v[c->n++] = *h;
}

static void follow_back(struct wal_scan *s, const uint8_t *batch, const struct wal_batch_header *y,
                        struct chain *c)
{
    struct wal_batch_header cur;
    uint64_t high = y->lsn;
    bool known = rguard__wal_batch_prev(batch, y, &cur);
    while (known && s->error == 0 && plausible(s, &cur, s->end, high)) {
        chain_push(s, c, &cur);
        c->complete = is_first_lost(s, &cur);
        if (c->complete) {
            break;
        }
        high = cur.lsn;
        struct wal_batch_header next = cur;
        known = predecessor(s, &cur, &next);
        cur = next;
    }
}

/* Last index of the log before @h, which has survived. */
static uint64_t tail_before(const struct wal_scan *s, const struct wal_batch_header *h)
{
    switch (h->type) {
        case WAL_DATA:
            return h->first_index != 0 ? h->first_index - 1 : h->tail_index;
        case WAL_TRUNC:
            return h->arg_index - 1 > s->last_index ? h->arg_index - 1 : s->last_index;
        case WAL_RESET:
            return s->last_index;
        default:
            return h->tail_index;
    }
}

/* Where what lay between s->last and @next has to go again; bytes 0: it cannot be said. */
static void place_of_lost(const struct wal_scan *s, const struct wal_batch_header *next,
                          struct wal_fault *f)
{
    const struct wal_segment *at = rguard__wal_segments_find(&s->segments, next->prev_lsn);
    const struct wal_segment *p = &s->segments.v[s->last_segment];
    const struct wal_segment *end = rguard__wal_segments_find(&s->segments, s->end);
    end = end == NULL ? p : end;
    f->segment = *end;
    f->pub.lsn = s->end;
    f->pub.bytes = next->lsn - s->end;
    bool next_file = at == p + 1 && at->first_lsn == p->first_lsn + p->bytes;
    if (at == NULL || (at != p && !next_file)) {
        f->segment.bytes = 0;
        return;
    }
    uint64_t from = next_file ? at->first_lsn + WAL_FIRST_BATCH : s->end;
    uint64_t limit = rguard__wal_segment_limit(at);
    uint64_t to = next->lsn < limit ? next->lsn : limit;
    f->segment = *at;
    f->pub.lsn = from;
    f->pub.bytes = to > from ? to - from : 0;
    if (to <= next->prev_lsn || from > next->prev_lsn) {
        f->segment.bytes = 0;
    }
}

/* The part of the hole before @next that cannot be followed back. */
static void note_lost(struct wal_scan *s, const struct wal_batch_header *next)
{
    struct wal_fault f = {
        .pub = {.kind = RGUARD_WAL_FAULT_LOST, .verdict = RGUARD_WAL_CORRUPT},
        .prev = s->last,
        .stands_lsn = next->prev_lsn,
        .stands_crc = next->prev_header_crc,
        .least_term = s->last_term,
        .most_term =
            next->type == WAL_DATA && next->first_term != 0 ? next->first_term : UINT64_MAX,
    };
    place_of_lost(s, next, &f);
    uint64_t last = tail_before(s, next), bytes = next->lsn - s->end;
    uint64_t first = s->anchored ? s->last_index + 1 : s->meta.base_index + 1;
    if (last >= first) {
        f.pub.first_index = first;
        f.pub.last_index = last;
    }
    if (next->cut_lsn >= s->end) {
        /* Which of the records before it are still part of the log nobody can tell. */
        f.segment.bytes = 0;
        rguard__wal_find(s, WAL_C_LOGIC, next->segment, 0, "a truncation is among what is lost");
    }
    uint32_t id = push(s, &f);
    if (id != 0 && !rguard__wal_bridge(s, last, bytes, id)) {
        rguard__wal_find(s, WAL_C_LOGIC, next->segment, 0,
                         "more records are missing than there was room for");
    }
}

static void note_known(struct wal_scan *s, const struct wal_batch_header *h,
                       const struct wal_batch_header *prev, bool tail, uint32_t verdict)
{
    struct wal_fault f = {
        .pub = {.kind = RGUARD_WAL_FAULT_TABLE,
                .verdict = verdict,
                .lsn = h->lsn,
                .bytes = h->length,
                .first_index = h->first_index,
                .last_index = h->last_index,
                .term = h->last_term},
        .segment = *rguard__wal_segments_find(&s->segments, h->lsn),
        .h = *h,
        .tail = tail,
        .least_term = h->first_term,
        .most_term = h->last_term,
    };
    if (prev != NULL) {
        f.prev = *prev;
    }
    uint32_t id = push(s, &f);
    if (id != 0 && !tail) {
        rguard__wal_apply(s, h, NULL, id);
    }
}

/* Names both places when a batch that belongs elsewhere lies in this one. */
static const struct wal_sighting *stranger(const struct wal_scan *s, uint64_t lsn, uint64_t bytes)
{
    for (size_t i = 0; i < s->n_seen; i++) {
        const struct wal_sighting *seen = &s->seen[i];
        if (seen->at >= lsn && seen->at - lsn < bytes && seen->h.lsn != seen->at) {
            return seen;
        }
    }
    return NULL;
}

static void find_behind(struct wal_scan *s, const struct wal_fault *f)
{
    uint64_t offset = f->pub.lsn - f->segment.first_lsn;
    const struct wal_sighting *other = stranger(s, f->pub.lsn, f->pub.bytes);
    const struct wal_segment *own =
        other != NULL ? rguard__wal_segments_find(&s->segments, other->h.lsn) : NULL;
    if (own != NULL) {
        rguard__wal_find(s, WAL_C_BEHIND, f->segment.sequence, offset,
                         "a batch of another place lies here, that of segment %" PRIu64
                         ", offset %" PRIu64 ", and valid ones lie behind it",
                         own->sequence, other->h.lsn - own->first_lsn);
    } else {
        rguard__wal_find(s, WAL_C_BEHIND, f->segment.sequence, offset,
                         "a batch is damaged or missing, and a valid one lies behind it");
    }
}

void rguard__wal_hole(struct wal_scan *s, const uint8_t *batch, const struct wal_batch_header *h)
{
    struct chain c = {0};
    size_t first = s->faults.n;
    struct wal_batch_header last = s->last;
    follow_back(s, batch, h, &c);
    if (!c.complete && s->error == 0) {
        note_lost(s, c.n > 0 ? &c.v[c.n - 1] : h);
    }
    for (size_t i = c.n; i-- > 0 && s->error == 0;) {
        const struct wal_batch_header *prev = i + 1 < c.n ? &c.v[i + 1] : c.complete ? &last : NULL;
        note_known(s, &c.v[i], prev, false, RGUARD_WAL_CORRUPT);
        s->acked_lsn = c.v[i].acked_lsn > s->acked_lsn ? c.v[i].acked_lsn : s->acked_lsn;
    }
    free(c.v);
    if (s->faults.n > first) {
        find_behind(s, &s->faults.v[first]);
    }
}

/* ---- the tail: nothing valid lies behind ---- */

/* A batch that follows @prev and would lie at @end or at the start of the next segment. */
static const struct wal_batch_header *next_known(const struct wal_scan *s,
                                                 const struct wal_batch_header *prev, uint64_t end)
{
    const struct wal_segment *g = rguard__wal_segments_find(&s->segments, end);
    uint64_t other = g != NULL ? g->first_lsn + g->bytes + WAL_FIRST_BATCH : end;
    for (size_t i = 0; i < s->n_seen; i++) {
        const struct wal_batch_header *h = &s->seen[i].h;
        bool here = h->lsn == end || h->lsn == other;
        if (here && (prev->lsn != 0 ? rguard__wal_follows(h, prev) : h->lsn == end) &&
            plausible(s, h, end, UINT64_MAX)) {
            return h;
        }
    }
    return NULL;
}

/* The segment that has whatever lies behind @end; bytes 0: there are several. */
static struct wal_segment tail_segment(const struct wal_scan *s, uint64_t end, uint64_t until)
{
    static const struct wal_segment none = {0};
    for (size_t k = s->last_segment; k < s->segments.n; k++) {
        const struct wal_segment *g = &s->segments.v[k];
        bool here = end < g->first_lsn + g->bytes;
        bool garbage_before = s->gap_segment != 0 && s->gap_segment < g->sequence;
        if (here && until <= g->first_lsn + g->bytes && (end >= g->first_lsn || !garbage_before)) {
            return *g;
        }
        if (here && (s->gap_segment == 0 || s->gap_segment == g->sequence) &&
            s->acked_lsn <= g->first_lsn + g->bytes) {
            break;
        }
    }
    return none;
}

/* Every block behind @end that is not zero is a copy of a batch that is known from its own place.
 * Then nothing is missing, but nothing may be appended over it either. */
static bool only_strays(const struct wal_scan *s, uint64_t end)
{
    if ((s->gap & (WAL_C_ROTTEN | WAL_C_TORN)) != 0 || (s->conditions & WAL_C_IO) != 0) {
        return false;
    }
    for (size_t i = 0; i < s->n_seen; i++) {
        const struct wal_sighting *seen = &s->seen[i];
        if (seen->at >= s->end && (seen->h.lsn >= end || seen->at == end ||
                                   memcmp(seen->h.uuid, s->meta.uuid, WAL_UUID) != 0)) {
            return false;
        }
    }
    return true;
}

static void note_lost_tail(struct wal_scan *s, const struct wal_batch_header *prev, uint64_t end,
                           uint64_t index, uint32_t verdict)
{
    uint64_t until = s->acked_lsn > s->gap_end ? s->acked_lsn : s->gap_end;
    bool strays = s->acked_lsn <= end && only_strays(s, end);
    struct wal_fault f = {
        .pub = {.kind = (s->gap & WAL_C_MISPLACED) != 0 ? RGUARD_WAL_FAULT_MISDIRECTED
                                                        : RGUARD_WAL_FAULT_LOST,
                .verdict = verdict,
                .first_index = strays ? 0 : index + 1},
        .segment = tail_segment(s, end, until),
        .prev = *prev,
        .tail = true,
        .least_term = prev->last_term > s->last_term ? prev->last_term : s->last_term,
        .most_term = UINT64_MAX,
    };
    const struct wal_segment *g = &f.segment;
    f.pub.lsn = g->bytes != 0 && end < g->first_lsn ? g->first_lsn + WAL_FIRST_BATCH : end;
    f.pub.bytes = until > f.pub.lsn ? until - f.pub.lsn : 0;
    if (f.pub.bytes == 0 || until > f.segment.first_lsn + f.segment.bytes - WAL_BLOCK) {
        f.segment.bytes = 0;
    }
    if (g->bytes == 0) {
        const struct wal_segment *at = rguard__wal_segments_find(&s->segments, end);
        if (at == NULL && s->segments.n > 0) {
            at = &s->segments.v[s->last_segment];
        }
        f.segment = at != NULL ? *at : (struct wal_segment){0};
        f.segment.bytes = 0;
    }
    (void)push(s, &f);
}

void rguard__wal_tail_hole(struct wal_scan *s)
{
    const uint32_t evidence = WAL_C_ACKED | WAL_C_NOT_CLOSED | WAL_C_MISPLACED;
    bool rotten = (s->gap & WAL_C_ROTTEN) != 0 && (s->conditions & WAL_C_CLOSED) == 0;
    bool unreadable = s->gap != 0 && (s->conditions & WAL_C_IO) != 0;
    if ((s->conditions & evidence) == 0 && !rotten && !unreadable) {
        return;
    }
    uint32_t verdict =
        (s->conditions & evidence) != 0 ? RGUARD_WAL_CORRUPT : RGUARD_WAL_SUSPECT_TAIL;
    struct wal_batch_header prev = s->last;
    const struct wal_batch_header *h;
    uint64_t end = s->end, index = s->last_index;
    while (s->error == 0 && (h = next_known(s, &prev, end)) != NULL) {
        note_known(s, h, &prev, true, verdict);
        prev = *h;
        end = h->lsn + h->length;
        index = h->tail_index;
    }
    bool gone = s->acked_lsn > end || s->gap_end > end || end == s->end;
    if (end != s->end && s->meta.clean != 0 && s->meta.acked_lsn == end + WAL_BLOCK) {
        gone = false; /* behind the batches that are known there was only CLOSE */
    }
    if (s->error == 0 && gone) {
        note_lost_tail(s, &prev, end, index, verdict);
    }
}

/* ---- what is left of which record ---- */

/* Bytes @from to @to of a batch lie in sectors that are as they were written. */
static bool sectors_good(const uint8_t *states, uint64_t from, uint64_t to)
{
    for (uint64_t i = from / WAL_SECTOR; i * WAL_SECTOR < to; i++) {
        if (states[i] != WAL_SECTOR_GOOD) {
            return false;
        }
    }
    return true;
}

/* Table and payload; @buf has the known header in its place already. */
static void examine_records(struct wal_fault *f, const uint8_t *buf, const uint8_t *states)
{
    const struct wal_batch_header *h = &f->h;
    struct wal_place own = {h->uuid, h->segment, h->salt, h->lsn, h->length};
    const struct wal_table_entry *t = rguard__wal_batch_table(buf, h);
    size_t table_bytes = h->n_records * sizeof *t;
    bool table_good = rguard_crc32c(rguard__wal_seed(&own), t, table_bytes) == h->table_crc;
    for (uint32_t i = 0; i < h->n_records; i++) {
        struct wal_lost_record *r = &f->records[i];
        uint64_t at = (uint64_t)((const uint8_t *)&t[i] - buf);
        r->id.index = h->first_index + i;
        r->id.term = h->first_term == h->last_term ? h->first_term : 0;
        r->known = (table_good || sectors_good(states, at, at + sizeof *t)) &&
                   t[i].index == r->id.index && t[i].len <= h->payload_length &&
                   t[i].offset < h->length && t[i].len <= h->length - t[i].offset;
        if (r->known) {
            r->id.term = t[i].term;
            r->id.type = t[i].type;
            r->id.len = t[i].len;
            r->id.crc = t[i].crc;
            r->offset = t[i].offset;
            r->intact = rguard_crc32c(0, buf + t[i].offset, t[i].len) == t[i].crc;
        }
        r->live = true;
        r->needed = !r->intact;
    }
}

/* What kind of damage it is, and where it begins. */
static void classify(struct wal_fault *f, const uint8_t *states, size_t n_bad)
{
    uint32_t n = f->h.length / WAL_SECTOR, first = n, damaged = 0, unknown = 0, lost = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool bad = states[i] == WAL_SECTOR_ZEROED || states[i] == WAL_SECTOR_ROTTEN;
        first = !bad || first < n ? first : i;
        damaged += bad;
    }
    for (size_t i = 0; i < f->n; i++) {
        unknown += !f->records[i].known;
        lost += !f->records[i].intact;
    }
    f->pub.offset = f->h.lsn - f->segment.first_lsn + (first < n ? first * WAL_SECTOR : 0);
    f->pub.damaged_bytes = (uint64_t)damaged * WAL_SECTOR;
    if (n_bad > 0) {
        f->pub.kind = RGUARD_WAL_FAULT_UNREADABLE;
    } else if (f->pub.kind != RGUARD_WAL_FAULT_MISDIRECTED) {
        f->pub.kind = unknown == 0 && lost > 0 ? RGUARD_WAL_FAULT_PAYLOAD : RGUARD_WAL_FAULT_TABLE;
    }
}

int rguard__wal_read_place(struct rguard_disk *disk, const struct wal_fault *f, uint8_t *buf,
                           uint8_t *bad, size_t *n_bad)
{
    char name[WAL_NAME_MAX];
    struct rguard_file *file;
    rguard__wal_segment_name(f->segment.sequence, name);
    int rc = disk->ops->open(disk, name, O_RDONLY, &file);
    if (rc != 0) {
        return rc;
    }
    uint64_t offset = f->h.lsn - f->segment.first_lsn;
    int64_t n = rguard__wal_read_split(disk, file, buf, f->h.length, offset, bad, n_bad);
    disk->ops->close(disk, file);
    if (n >= 0) {
        memset(buf + n, 0, f->h.length - (size_t)n);
    }
    return n < 0 ? (int)n : 0;
}

/* Reads the batch that is damaged and sees what is left of it. */
int rguard__wal_examine_one(struct rguard_disk *disk, struct wal_fault *f)
{
    uint32_t sectors = f->h.length / WAL_SECTOR;
    size_t n_bad = 0;
    uint8_t *buf = aligned_alloc(WAL_BLOCK, f->h.length);
    uint8_t *states = calloc(2, sectors), *bad = states + sectors;
    f->records = calloc(f->h.n_records + 1u, sizeof *f->records);
    f->n = f->h.n_records;
    int rc = buf == NULL || states == NULL || f->records == NULL ? -ENOMEM : 0;
    if (rc == 0) {
        rc = rguard__wal_read_place(disk, f, buf, bad, &n_bad);
    }
    if (rc == 0) {
        bool header_good = memcmp(buf, &f->h, sizeof f->h) == 0;
        memcpy(buf, &f->h, sizeof f->h);
        rguard__wal_batch_sectors(buf, &f->h, states);
        for (uint32_t i = 0; i < sectors; i++) {
            states[i] = bad[i] || (i == 0 && !header_good) ? (uint8_t)WAL_SECTOR_ROTTEN : states[i];
        }
        examine_records(f, buf, states);
        classify(f, states, n_bad);
    }
    free(states);
    free(buf);
    return rc;
}

/* Nothing is known but which records there were, and at the tail not even how many. */
int rguard__wal_examine_lost(struct wal_fault *f)
{
    uint64_t n = f->pub.last_index != 0 ? f->pub.last_index - f->pub.first_index + 1 : 0;
    f->pub.offset = f->pub.lsn - f->segment.first_lsn;
    f->pub.damaged_bytes = f->pub.bytes;
    f->records = calloc(n + 1, sizeof *f->records);
    if (f->records == NULL) {
        return -ENOMEM;
    }
    for (f->n = 0; f->n < n; f->n++) {
        f->records[f->n].id.index = f->pub.first_index + f->n;
        f->records[f->n].live = f->records[f->n].needed = true;
    }
    return 0;
}

/* A record that was truncated, or is covered by a snapshot, is not missed. What survived of a
 * damaged batch can be read like any other. */
static void settle_index(struct wal_scan *s, struct wal_fault *f, uint32_t id)
{
    for (size_t i = 0; i < f->n; i++) {
        struct wal_lost_record *r = &f->records[i];
        struct wal_entry *e = rguard__wal_index_at(&s->index, r->id.index);
        bool mine = e != NULL && e->fault == id;
        r->live = mine;
        r->needed = mine && !r->intact;
        if (mine && r->known) {
            e->term = r->id.term;
            e->type = r->id.type;
            e->len = r->id.len;
            e->crc = r->id.crc;
            e->lsn = f->h.lsn + r->offset;
            e->fault = r->intact ? 0 : id;
        }
    }
}

/* From now on the range is that of the records that have to be put back. */
void rguard__wal_fault_narrow(struct wal_fault *f)
{
    if (f->tail && f->h.lsn == 0) {
        return; /* nobody knows how far it went */
    }
    f->pub.first_index = f->pub.last_index = 0;
    for (size_t i = 0; i < f->n; i++) {
        const struct wal_lost_record *r = &f->records[i];
        if (r->needed) {
            f->pub.first_index = f->pub.first_index == 0 ? r->id.index : f->pub.first_index;
            f->pub.last_index = r->id.index;
            f->pub.term = r->id.term;
        }
    }
}

void rguard__wal_fault_text(struct wal_fault *f)
{
    static const char *const kinds[] = {"?",
                                        "payload damaged",
                                        "header or record table damaged",
                                        "nothing is left of the batches that were here",
                                        "the device cannot read it",
                                        "a batch of another place lies here"};
    char range[64] = "no record is missing";
    if (f->pub.first_index != 0 && f->pub.last_index == 0) {
        (void)snprintf(range, sizeof range, "records from %" PRIu64 " on", f->pub.first_index);
    } else if (f->pub.first_index != 0) {
        (void)snprintf(range, sizeof range, "records %" PRIu64 " to %" PRIu64, f->pub.first_index,
                       f->pub.last_index);
    }
    (void)snprintf(f->pub.text, sizeof f->pub.text, "%s: %s%s", kinds[f->pub.kind], range,
                   f->segment.bytes == 0 ? "; re-sync" : "");
}

int rguard__wal_examine(struct wal_scan *s)
{
    int rc = 0;
    for (size_t i = 0; i < s->faults.n && rc == 0; i++) {
        struct wal_fault *f = &s->faults.v[i];
        if (f->records != NULL) {
            continue;
        }
        if (stranger(s, f->pub.lsn, f->pub.bytes) != NULL) {
            f->pub.kind = RGUARD_WAL_FAULT_MISDIRECTED;
        }
        rc = f->h.lsn != 0 ? rguard__wal_examine_one(s->disk, f) : rguard__wal_examine_lost(f);
        if (rc == 0 && !f->tail) {
            settle_index(s, f, (uint32_t)i + 1);
        }
        rguard__wal_fault_narrow(f);
        rguard__wal_fault_text(f);
    }
    return rc;
}
