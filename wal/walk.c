/* SPDX-License-Identifier: Apache-2.0 */
/* The scan of the batches. It does not stop at the first bad one:
 *
 *     valid, valid, valid, X ????????? Y valid ...
 *                          |           +- chained to the batch before X: nothing is missing, the
 *                          |              log just went on in the next segment; else the batch at X
 *                          |              is lost, and Y proves that it was complete (WAL_C_BEHIND)
 *                          +- the gap: zeros, parts of a batch, stale blocks, garbage
 *
 * Invariant: a length is used to skip only when it comes from a header whose CRC is good;
 * everything else is examined block by block. */
#include "wal_internal.h"

#include <raftguard/testing.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void accept(struct wal_scan *s, size_t k, uint64_t offset, const struct wal_batch_header *h);
static uint64_t note_gap(struct wal_scan *s, size_t k, uint64_t offset, enum wal_found found,
                         const struct wal_batch_header *h);

static struct wal_place place_at(const struct wal_scan *s, size_t k, uint64_t offset)
{
    const struct wal_segment *g = &s->segments.v[k];
    struct wal_place place = {s->meta.uuid, g->sequence, g->salt, g->first_lsn + offset,
                              g->bytes - WAL_BLOCK - offset};
    return place;
}

/* A sector of the @len bytes at @offset of the segment could not be read. */
static bool unreadable(const struct wal_scan *s, uint64_t offset, uint64_t len)
{
    return s->n_bad > 0 &&
           memchr(s->bad + offset / WAL_SECTOR, 1, (size_t)(len / WAL_SECTOR)) != NULL;
}

/* What lies at @offset. A batch of which a sector could not be read is not valid, and if that is
 * the first one, nothing is known of it. */
static enum wal_found look(struct wal_scan *s, size_t k, uint64_t offset,
                           struct wal_batch_header *h)
{
    struct wal_place place = place_at(s, k, offset);
    enum wal_found found = rguard__wal_batch_check(s->buf + offset, &place, h);
    bool known = found == WAL_VALID || found == WAL_BODY_BAD;
    if (!unreadable(s, offset, known ? h->length : WAL_BLOCK)) {
        return found;
    }
    rguard__wal_mark_cut(s);
    rguard__wal_find(s, WAL_C_IO, place.segment, offset, "the device failed to read it");
    return known ? WAL_BODY_BAD : found == WAL_NOTHING ? WAL_GARBAGE : found;
}

void rguard__wal_walk(struct wal_scan *s, size_t k, uint64_t offset)
{
    const struct wal_segment *g = &s->segments.v[k];
    while (offset < g->bytes - WAL_BLOCK && s->error == 0) {
        struct wal_batch_header h;
        enum wal_found found = look(s, k, offset, &h);
        if (found == WAL_VALID) {
            accept(s, k, offset, &h);
            offset += h.length;
        } else {
            offset += note_gap(s, k, offset, found, &h);
        }
    }
}

void rguard__wal_mark_cut(struct wal_scan *s)
{
    if (!s->cut.known) {
        s->cut.known = true;
        s->cut.k = s->last_segment;
        s->cut.end = s->last.lsn != 0 ? s->end : 0;
        s->cut.segment = s->segments.n > 0 ? s->segments.v[s->last_segment].sequence : 0;
        s->cut.last_index = s->last_index;
        s->cut.last_term = s->last_term;
    }
}

/* ---- the gap ---- */

static bool epoch_in_use(const struct wal_scan *s, const struct wal_batch_header *h)
{
    for (size_t i = 0; i < s->segments.n; i++) {
        if (s->segments.v[i].salt == h->salt) {
            return true;
        }
    }
    return false;
}

/* Of another epoch of this log. Another log's blocks are not stale: nothing of ours put them here.
 */
static bool is_stale(const struct wal_scan *s, const struct wal_batch_header *h)
{
    return memcmp(h->uuid, s->meta.uuid, WAL_UUID) == 0 && !epoch_in_use(s, h);
}

/* Where the next batch can start: behind the last one, or at the start of the next segment. */
static bool is_candidate(const struct wal_scan *s, size_t k, uint64_t offset)
{
    if (s->segments.v[k].first_lsn + offset == s->end) {
        return true;
    }
    return k == s->last_segment + 1 && offset == WAL_FIRST_BATCH;
}

/* Sectors of the batch at @buf that hold a stale batch of an earlier epoch are no rot: they are
 * what was there before. */
static void forgive_stale(struct wal_scan *s, size_t k, uint64_t offset, uint32_t length,
                          uint8_t *states)
{
    for (uint32_t at = WAL_BLOCK; at < length; at += WAL_BLOCK) {
        struct wal_batch_header old;
        struct wal_place place = place_at(s, k, offset + at);
        const uint8_t *buf = s->buf + offset + at;
        if (rguard__wal_batch_check(buf, &place, &old) != WAL_MISPLACED || !is_stale(s, &old) ||
            old.length > place.room) {
            continue;
        }
        uint8_t *old_states = malloc(old.length / WAL_SECTOR);
        if (old_states == NULL) {
            return; /* stays rotten: the careful answer */
        }
        rguard__wal_batch_sectors(buf, &old, old_states);
        uint32_t first = at / WAL_SECTOR, n = old.length / WAL_SECTOR;
        for (uint32_t i = 0; i < n && first + i < length / WAL_SECTOR; i++) {
            if (old_states[i] == WAL_SECTOR_GOOD && states[first + i] == WAL_SECTOR_ROTTEN) {
                states[first + i] = WAL_SECTOR_ZEROED;
            }
        }
        free(old_states);
    }
}

/* A batch whose header is good: torn when every damaged sector is zero or stale. */
static uint32_t judge_body(struct wal_scan *s, size_t k, uint64_t offset,
                           const struct wal_batch_header *h)
{
    uint32_t n = h->length / WAL_SECTOR, condition = WAL_C_ROTTEN;
    uint8_t *states = malloc(n);
    if (states == NULL) {
        return condition;
    }
    rguard__wal_batch_sectors(s->buf + offset, h, states);
    forgive_stale(s, k, offset, h->length, states);
    for (uint32_t i = 0; i < n && s->n_bad > 0; i++) {
        states[i] = s->bad[offset / WAL_SECTOR + i] ? (uint8_t)WAL_SECTOR_ROTTEN : states[i];
    }
    bool torn = false, rotten = false;
    for (uint32_t i = 0; i < n; i++) {
        torn = torn || states[i] == WAL_SECTOR_ZEROED;
        rotten = rotten || states[i] == WAL_SECTOR_ROTTEN;
    }
    if (torn && !rotten) {
        condition = WAL_C_TORN;
    }
    free(states);
    return condition;
}

/* A batch that is not of this place. *skip is its length when all of it is here. Parts of a stale
 * one: something was written over it that did not arrive as a whole. */
static uint32_t judge_stranger(struct wal_scan *s, size_t k, uint64_t offset,
                               const struct wal_batch_header *h, uint64_t *skip)
{
    struct wal_place place = place_at(s, k, offset);
    struct wal_place own = {h->uuid, h->segment, h->salt, h->lsn, h->length};
    struct wal_batch_header again;
    bool whole = h->length <= place.room &&
                 rguard__wal_batch_check(s->buf + offset, &own, &again) == WAL_VALID;
    *skip = whole ? h->length : WAL_BLOCK;
    if (!is_stale(s, h)) {
        return WAL_C_MISPLACED;
    }
    return whole ? WAL_C_STALE : WAL_C_TORN;
}

static void widen(struct wal_scan *s, uint32_t condition, size_t k, uint64_t offset, uint64_t bytes)
{
    if (s->gap == 0) {
        s->gap_segment = s->segments.v[k].sequence;
        s->gap_offset = offset;
    }
    s->gap |= condition;
    s->gap_end = s->segments.v[k].first_lsn + offset + bytes;
}

/* A good header in a bad place: it may say what has been lost, here or elsewhere. */
static void sight(struct wal_scan *s, size_t k, uint64_t offset, const struct wal_batch_header *h)
{
    if (s->n_seen == s->seen_capacity) {
        size_t capacity = s->seen_capacity == 0 ? 16 : 2 * s->seen_capacity;
        struct wal_sighting *v = realloc(s->seen, capacity * sizeof *v);
        if (v == NULL) {
            s->error = -ENOMEM;
            return;
        }
        s->seen = v;
        s->seen_capacity = capacity;
    }
    struct wal_sighting *seen = &s->seen[s->n_seen++];
    seen->at = s->segments.v[k].first_lsn + offset;
    seen->h = *h;
    if (!rguard__wal_batch_prev(s->buf + offset, h, &seen->prev)) {
        memset(&seen->prev, 0, sizeof seen->prev);
    }
}

/* The metadata is older than the batch @h: somebody may hold a vote of ours that we do not know. */
static void check_meta(struct wal_scan *s, const struct wal_batch_header *h, uint64_t offset)
{
    if (h->meta_generation > s->meta.generation && (s->conditions & WAL_C_META) == 0 &&
        s->have_meta) {
        rguard__wal_find(s, WAL_C_STALE_META, h->segment, offset,
                         "term and vote in meta are older than the log: generation %" PRIu64
                         " of term %" PRIu64 ", written under generation %" PRIu64,
                         s->meta.generation, s->meta.term, h->meta_generation);
    }
}

/* The first block of the gap, or the end of the log. */
static void end_location(const struct wal_scan *s, uint64_t *segment, uint64_t *offset)
{
    *segment = s->gap_segment;
    *offset = s->gap_offset;
    if (*segment == 0 && s->segments.n > 0) {
        const struct wal_segment *g = &s->segments.v[s->last_segment];
        *segment = g->sequence;
        *offset = s->end - g->first_lsn;
    }
}

/* Classifies what is at @offset instead of a valid batch and returns how far to go on. */
static uint64_t note_gap(struct wal_scan *s, size_t k, uint64_t offset, enum wal_found found,
                         const struct wal_batch_header *h)
{
    const struct wal_segment *g = &s->segments.v[k];
    bool candidate = is_candidate(s, k, offset);
    uint64_t skip = WAL_BLOCK;
    uint32_t condition = 0;
    switch (found) {
        case WAL_NOTHING:
            /* The first sector of a batch is never zero: if anything else is here, it is the rest
             * of a batch whose beginning did not arrive. */
            if (!rguard__wal_is_zero(s->buf + offset, WAL_BLOCK)) {
                condition = WAL_C_TORN;
            }
            break;
        case WAL_BODY_BAD:
            if (!candidate && !RGUARD_TEST_OFF("acked_lsn")) {
                /* Its header alone proves that whatever preceded it was complete. */
                uint64_t at_segment, at;
                end_location(s, &at_segment, &at);
                rguard__wal_mark_cut(s);
                rguard__wal_find(s, WAL_C_BEHIND, at_segment, at,
                                 "a batch is missing before a later one");
            }
            condition = judge_body(s, k, offset, h);
            skip = h->length;
            sight(s, k, offset, h);
            check_meta(s, h, offset);
            if (s->gap == 0) {
                s->gap_records = h->n_records;
                s->gap_known_end = g->first_lsn + offset + h->length;
            }
            s->acked_lsn = h->acked_lsn > s->acked_lsn ? h->acked_lsn : s->acked_lsn;
            break;
        case WAL_MISPLACED:
            condition = judge_stranger(s, k, offset, h, &skip);
            if (condition == WAL_C_MISPLACED) {
                sight(s, k, offset, h);
            }
            break;
        case WAL_OTHER:
            rguard__wal_find(s, WAL_C_VERSION, g->sequence, offset,
                             "a batch has the format version of another release");
            break;
        default:
            /* Garbage where a header belongs has rotted. Further on it may be the rest of a batch
             * without its beginning, unless the beginning was there and said where it ends. */
            condition = candidate ? WAL_C_ROTTEN : WAL_C_TORN;
            break;
    }
    if (condition == WAL_C_TORN && s->gap_known_end != 0 &&
        g->first_lsn + offset >= s->gap_known_end) {
        condition = WAL_C_ROTTEN; /* one write was in flight, and this is not part of it */
    }
    if (condition != 0) {
        widen(s, condition, k, offset, skip);
    }
    return skip;
}

/* ---- valid batches ---- */

static void forget_gap(struct wal_scan *s)
{
    s->gap = 0;
    s->gap_known_end = s->gap_end = s->gap_records = s->gap_segment = s->gap_offset = 0;
}

static void logic(struct wal_scan *s, const struct wal_batch_header *h, const char *why)
{
    const struct wal_segment *g = rguard__wal_segments_find(&s->segments, h->lsn);
    rguard__wal_mark_cut(s);
    rguard__wal_find(s, WAL_C_LOGIC, h->segment, g != NULL ? h->lsn - g->first_lsn : 0, "%s", why);
}

/* Entries without bytes, so that the records behind them can be found. */
static bool push_lost(struct wal_scan *s, uint64_t n, uint64_t term, uint32_t fault)
{
    if (n > SIZE_MAX / 64 || rguard__wal_index_reserve(&s->index, (size_t)n) != 0) {
        s->error = -ENOMEM;
        return false;
    }
    struct wal_entry lost = {.term = term, .fault = fault};
    for (uint64_t i = 0; i < n; i++) {
        rguard__wal_index_push(&s->index, &lost);
    }
    return true;
}

bool rguard__wal_bridge(struct wal_scan *s, uint64_t last, uint64_t bytes, uint32_t fault)
{
    uint64_t next = s->index.first + s->index.n;
    if (!s->anchored) {
        next = s->meta.base_index + 1;
        rguard__wal_index_clear(&s->index, next);
        s->anchored = true;
    }
    if (last < next) {
        return true;
    }
    /* A record takes at least its table entry, which bounds what a wrong index can make us
     * allocate. */
    if (last - next >= bytes / sizeof(struct wal_table_entry)) {
        return false;
    }
    s->last_index = last;
    return push_lost(s, last - next + 1, 0, fault);
}

/* The records of a batch that is as it should be. One that stands in for others leaves entries
 * without bytes where they had become void. */
static void push_records(struct wal_scan *s, const struct wal_batch_header *h, const uint8_t *batch)
{
    struct wal_index *ix = &s->index;
    const struct wal_table_entry *t = rguard__wal_batch_table(batch, h);
    uint64_t first = h->n_records > 0 ? t[0].index : h->last_index + 1;
    if (!push_lost(s, first - h->first_index, 0, 0)) {
        return;
    }
    if (rguard__wal_index_reserve(ix, h->n_records) != 0) {
        s->error = -ENOMEM;
        return;
    }
    for (uint32_t i = 0; i < h->n_records; i++) {
        struct wal_entry entry = {t[i].term, h->lsn + t[i].offset, t[i].len, t[i].crc, t[i].type,
                                  0};
        rguard__wal_index_push(ix, &entry);
    }
    if (h->n_records > 0) {
        push_lost(s, h->last_index - t[h->n_records - 1].index, 0, 0);
    }
}

static void apply_data(struct wal_scan *s, const struct wal_batch_header *h, const uint8_t *batch,
                       uint32_t fault)
{
    struct wal_index *ix = &s->index;
    bool stands_in = (h->flags & WAL_STANDS_IN) != 0;
    if (h->first_index == 0) {
        return; /* stands in for batches without records */
    }
    if (!s->anchored) {
        rguard__wal_index_clear(ix, h->first_index);
        s->anchored = true;
    } else if (h->first_index != ix->first + ix->n) {
        logic(s, h, "record indexes have a gap or repeat");
        return;
    }
    if (h->first_term < s->last_term && !stands_in) {
        logic(s, h, "the term decreases");
    }
    if (fault != 0) {
        /* The header bounds the number by the length, as far as it can be believed. */
        push_lost(s, h->n_records, h->first_term == h->last_term ? h->first_term : 0, fault);
    } else {
        push_records(s, h, batch);
    }
    s->last_index = h->last_index;
    s->last_term = h->last_term != 0 ? h->last_term : s->last_term;
}

static void apply_trunc(struct wal_scan *s, const struct wal_batch_header *h)
{
    struct wal_index *ix = &s->index;
    if (h->arg_index == 0 || (s->anchored && h->arg_index > ix->first + ix->n)) {
        logic(s, h, "a truncation starts behind the end");
        return;
    }
    if (!s->anchored) {
        rguard__wal_index_clear(ix, h->arg_index);
        s->anchored = true;
    } else {
        rguard__wal_index_drop_from(ix, h->arg_index);
    }
    s->last_index = h->arg_index - 1;
    const struct wal_entry *entry = rguard__wal_index_get(ix, s->last_index);
    s->last_term = entry != NULL ? entry->term : 0;
}

void rguard__wal_apply(struct wal_scan *s, const struct wal_batch_header *h, const uint8_t *batch,
                       uint32_t fault)
{
    switch (h->type) {
        case WAL_DATA:
            apply_data(s, h, batch, fault);
            break;
        case WAL_TRUNC:
            apply_trunc(s, h);
            break;
        case WAL_RESET:
            rguard__wal_index_clear(&s->index, h->arg_index + 1);
            s->anchored = true;
            s->base_index = h->arg_index;
            s->base_term = h->arg_term;
            s->base_lsn = h->lsn;
            s->last_index = h->arg_index;
            s->last_term = h->arg_term;
            break;
        default:
            break; /* MARK and CLOSE only say what was acknowledged */
    }
}

static void accept(struct wal_scan *s, size_t k, uint64_t offset, const struct wal_batch_header *h)
{
    const struct wal_segment *g = &s->segments.v[k];
    const uint8_t *batch = s->buf + offset;
    bool origin = s->last.lsn == 0 && is_candidate(s, k, offset) && (k == 0 || h->prev_lsn == 0);
    bool chained = s->last.lsn != 0 && rguard__wal_follows(h, &s->last);
    if (origin || (chained && is_candidate(s, k, offset))) {
        /* Whatever lies between its predecessor and this batch was never part of the log. */
        s->warnings += s->gap != 0;
    } else if (chained) {
        logic(s, h, "a batch does not start where its predecessor ends");
    } else if (is_candidate(s, k, offset) && s->gap == 0 && h->lsn == s->end) {
        logic(s, h, "a batch does not belong behind the one before it: a write was lost");
    } else if (RGUARD_TEST_OFF("acked_lsn")) {
        widen(s, WAL_C_TORN, k, offset, h->length);
        return;
    } else {
        rguard__wal_mark_cut(s);
        rguard__wal_hole(s, batch, h);
    }
    if (h->acked_lsn > h->lsn) {
        logic(s, h, "a batch claims that later ones were acknowledged");
    }
    check_meta(s, h, offset);
    forget_gap(s);
    s->warnings += !rguard__wal_batch_padding_ok(batch, h);
    rguard__wal_apply(s, h, batch, 0);
    if (s->anchored && h->tail_index != s->last_index) {
        logic(s, h, "a batch does not fit the records before it");
    }
    s->last = *h;
    s->last_segment = k;
    s->end = h->lsn + h->length;
    s->acked_lsn = h->acked_lsn > s->acked_lsn ? h->acked_lsn : s->acked_lsn;
    s->batches++;
    if (s->visit != NULL) {
        s->visit(s->visit_user, g, offset, batch, h);
    }
}

/* ---- the end ---- */

/* The base of the metadata is younger than the last RESET, or the other way round. */
static void settle_base(struct wal_scan *s)
{
    if (s->meta.base_lsn > s->base_lsn) {
        s->base_index = s->meta.base_index;
        s->base_term = s->meta.base_term;
        s->base_lsn = s->meta.base_lsn;
    }
    if (!s->anchored) {
        rguard__wal_index_clear(&s->index, s->base_index + 1);
    }
    bool reaches = s->index.first <= s->base_index + 1;
    if (reaches) {
        rguard__wal_index_drop_upto(&s->index, s->base_index);
    } else {
        rguard__wal_find(s, WAL_C_LOGIC, 0, 0,
                         "records %" PRIu64 " to %" PRIu64 " are not in any segment",
                         s->base_index + 1, s->index.first - 1);
    }
    if (s->index.n == 0) {
        s->last_index = s->base_index;
        s->last_term = s->base_term;
    }
    for (size_t i = 0; i < s->index.n; i++) {
        const struct wal_entry *entry = rguard__wal_index_get(&s->index, s->index.first + i);
        if (entry->lsn == 0 && entry->fault == 0) {
            rguard__wal_find(s, WAL_C_LOGIC, 0, 0, "record %" PRIu64 " is in no batch",
                             s->index.first + i);
            break;
        }
    }
}

/* A clean close ends in CLOSE, one block, and the metadata says where that ended. If precisely this
 * block is missing then no record is: whatever else there was lies below it and is good. */
static bool only_close_is_missing(const struct wal_scan *s)
{
    if (s->acked_lsn != s->meta.acked_lsn || (s->gap & WAL_C_MISPLACED) != 0 ||
        (s->conditions & WAL_C_IO) != 0 || s->segments.n == 0) {
        return false;
    }
    if (s->acked_lsn == s->end + WAL_BLOCK) {
        return true;
    }
    const struct wal_segment *g = &s->segments.v[s->last_segment];
    return s->end == rguard__wal_segment_limit(g) && /* it was the first batch of the next file */
           s->acked_lsn == g->first_lsn + g->bytes + WAL_FIRST_BATCH + WAL_BLOCK;
}

/* What acknowledgements and the clean flag say about the end. */
static void judge_end(struct wal_scan *s, uint64_t segment, uint64_t offset)
{
    s->acked_lsn = s->meta.acked_lsn > s->acked_lsn ? s->meta.acked_lsn : s->acked_lsn;
    if (RGUARD_TEST_OFF("acked_lsn")) {
        return;
    }
    if (s->meta.clean != 0 && s->last.type == WAL_CLOSE && s->acked_lsn <= s->end) {
        s->conditions |= WAL_C_CLOSED;
        s->warnings += s->gap != 0;
        return;
    }
    if (s->meta.clean != 0 && only_close_is_missing(s)) {
        rguard__wal_find(s, WAL_C_CLOSED, segment, offset,
                         "the closing batch, which holds no record, is damaged");
        s->warnings++;
        return;
    }
    if (s->acked_lsn > s->end) {
        rguard__wal_mark_cut(s);
        rguard__wal_find(s, WAL_C_ACKED, segment, offset,
                         "the log ends below an address that was acknowledged");
    }
    if (s->meta.clean != 0 && s->last.type != WAL_CLOSE) {
        rguard__wal_mark_cut(s);
        rguard__wal_find(s, WAL_C_NOT_CLOSED, segment, offset,
                         "the log was closed cleanly, but its last batch is not the closing one");
    }
}

/* Both places of a batch that lies where it does not belong. */
static void find_misplaced(struct wal_scan *s, uint64_t segment, uint64_t offset)
{
    const struct wal_sighting *seen = &s->seen[s->n_seen - 1];
    const struct wal_segment *own = rguard__wal_segments_find(&s->segments, seen->h.lsn);
    if (own != NULL && memcmp(seen->h.uuid, s->meta.uuid, WAL_UUID) == 0) {
        rguard__wal_find(s, s->gap, segment, offset,
                         "a batch of another place lies here: of segment %" PRIu64
                         ", offset %" PRIu64,
                         own->sequence, seen->h.lsn - own->first_lsn);
    } else {
        rguard__wal_find(s, s->gap, segment, offset, "a batch of another log lies here");
    }
}

void rguard__wal_walk_end(struct wal_scan *s)
{
    if (!s->have_meta && (s->conditions & WAL_C_META) == 0) {
        if (s->batches == 0 && s->gap == 0) {
            s->empty = true; /* the first creation was cut short before it wrote meta */
            for (size_t k = 0; k < s->segments.n; k++) {
                s->error = rguard__wal_segments_push(&s->leftovers, &s->segments.v[k]);
            }
            s->segments.n = 0;
            return;
        }
        rguard__wal_find(s, WAL_C_META, 0, 0, "meta is missing, and with it term and vote");
    }
    uint64_t segment, offset;
    end_location(s, &segment, &offset);
    judge_end(s, segment, offset);
    if ((s->gap & WAL_C_MISPLACED) != 0) {
        find_misplaced(s, segment, offset);
    } else if ((s->gap & (WAL_C_ROTTEN | WAL_C_TORN)) != 0) {
        rguard__wal_find(s, s->gap, segment, offset, "%s",
                         (s->gap & WAL_C_ROTTEN) != 0
                             ? "the last batch is damaged, and not as a tear would damage it"
                             : "the last batch was not written completely");
    }
    s->conditions |= s->gap;
    rguard__wal_mark_cut(s);
    rguard__wal_tail_hole(s);
    settle_base(s);
}
