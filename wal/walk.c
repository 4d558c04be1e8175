/* SPDX-License-Identifier: Apache-2.0 */
/* The scan of the batches. It does not stop at the first bad one:
 *
 *     valid, valid, valid, X ????????? Y valid ...
 *                          |           +- chained to the batch before X: nothing is missing, the
 * log |              just went on in the next segment; else the batch at X is |              lost,
 * and Y proves that it was complete (WAL_C_BEHIND)
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
                              g->bytes - offset};
    return place;
}

void rguard__wal_walk(struct wal_scan *s, size_t k)
{
    const struct wal_segment *g = &s->segments.v[k];
    uint64_t offset = WAL_FIRST_BATCH;
    while (offset < g->bytes && s->error == 0) {
        struct wal_batch_header h;
        struct wal_place place = place_at(s, k, offset);
        enum wal_found found = rguard__wal_batch_check(s->buf + offset, &place, &h);
        if (found == WAL_VALID) {
            accept(s, k, offset, &h);
            offset += h.length;
        } else {
            offset += note_gap(s, k, offset, found, &h);
        }
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

/* A whole batch of an earlier epoch: *skip is its length. Parts of one: something was written over
 * it that did not arrive as a whole. */
static uint32_t judge_stale(struct wal_scan *s, size_t k, uint64_t offset,
                            const struct wal_batch_header *h, uint64_t *skip)
{
    struct wal_place place = place_at(s, k, offset);
    if (!is_stale(s, h)) {
        return WAL_C_MISPLACED;
    }
    if (h->length > place.room) {
        return WAL_C_TORN;
    }
    struct wal_place own = {h->uuid, h->segment, h->salt, h->lsn, h->length};
    struct wal_batch_header again;
    if (rguard__wal_batch_check(s->buf + offset, &own, &again) != WAL_VALID) {
        return WAL_C_TORN;
    }
    *skip = h->length;
    return WAL_C_STALE;
}

static void widen(struct wal_scan *s, uint32_t condition, size_t k, uint64_t offset)
{
    if (s->gap == 0) {
        s->gap_damage.segment = s->segments.v[k].sequence;
        s->gap_damage.offset = offset;
    }
    s->gap |= condition;
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
                rguard__wal_find(s, WAL_C_BEHIND, g->sequence, offset,
                                 "a batch is missing before it");
            }
            condition = judge_body(s, k, offset, h);
            skip = h->length;
            if (s->gap == 0) {
                s->gap_damage.first_index = h->first_index;
                s->gap_damage.last_index = h->last_index;
                s->gap_damage.records = h->n_records;
                s->gap_known_end = g->first_lsn + offset + h->length;
            }
            s->acked_lsn = h->acked_lsn > s->acked_lsn ? h->acked_lsn : s->acked_lsn;
            break;
        case WAL_MISPLACED:
            condition = judge_stale(s, k, offset, h, &skip);
            break;
        case WAL_NEWER:
            rguard__wal_find(s, WAL_C_NEWER, g->sequence, offset,
                             "a batch has a later format version");
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
        widen(s, condition, k, offset);
    }
    return skip;
}

/* ---- valid batches ---- */

static void forget_gap(struct wal_scan *s)
{
    s->gap = 0;
    s->gap_known_end = 0;
    memset(&s->gap_damage, 0, sizeof s->gap_damage);
}

static void logic(struct wal_scan *s, const struct wal_batch_header *h, uint64_t offset,
                  const char *why)
{
    rguard__wal_find(s, WAL_C_LOGIC, h->segment, offset, "%s", why);
}

/* A batch has been lost between s->last and @h: says which records, as far as anybody can know. */
static void note_missing(struct wal_scan *s, size_t k, const struct wal_batch_header *h)
{
    const struct wal_segment *g = &s->segments.v[k];
    struct wal_damage d = s->gap_damage;
    if (d.segment == 0) {
        const struct wal_segment *at = rguard__wal_segments_find(&s->segments, s->end);
        d.segment = at != NULL ? at->sequence : g->sequence;
        d.offset = at != NULL ? s->end - at->first_lsn : WAL_FIRST_BATCH;
    }
    if (h->type == WAL_DATA && h->first_index > s->last_index + 1) {
        d.first_index = s->last_index + 1;
        d.last_index = h->first_index - 1;
    } else if (d.first_index == 0) {
        d.first_index = h->prev_first_index;
        d.last_index = h->prev_last_index;
    }
    bool first = s->what[0] == '\0';
    rguard__wal_find(s, WAL_C_BEHIND, d.segment, d.offset,
                     "a batch is damaged or missing, and a valid one lies behind it");
    if (first) {
        s->damage = d;
    }
}

/* Records that were in a lost batch get empty entries, so that those behind it can be found. */
static bool bridge(struct wal_scan *s, uint64_t missing, uint64_t lsn)
{
    /* A record takes at least its table entry, which bounds what a wrong index can make us
     * allocate. */
    if (missing > (lsn - s->end) / sizeof(struct wal_table_entry) ||
        rguard__wal_index_reserve(&s->index, (size_t)missing) != 0) {
        return false;
    }
    static const struct wal_entry lost = {0};
    for (uint64_t i = 0; i < missing; i++) {
        rguard__wal_index_push(&s->index, &lost);
    }
    return true;
}

static void apply_data(struct wal_scan *s, const struct wal_batch_header *h, uint64_t offset,
                       bool broken)
{
    struct wal_index *ix = &s->index;
    uint64_t next = ix->first + ix->n;
    if (!s->anchored || (broken && h->first_index < next)) {
        s->anchored ? rguard__wal_index_drop_from(ix, h->first_index)
                    : rguard__wal_index_clear(ix, h->first_index);
        s->anchored = true;
    } else if (h->first_index != next && !(broken && bridge(s, h->first_index - next, h->lsn))) {
        logic(s, h, offset, "record indexes have a gap or repeat");
        return;
    }
    if (h->first_term < s->last_term && !broken) {
        logic(s, h, offset, "the term decreases");
    }
    if (rguard__wal_index_reserve(ix, h->n_records) != 0) {
        s->error = -ENOMEM;
        return;
    }
    const struct wal_table_entry *t = rguard__wal_batch_table(s->buf + offset, h);
    for (uint32_t i = 0; i < h->n_records; i++) {
        struct wal_entry entry = {t[i].term, h->lsn + t[i].offset, t[i].len, t[i].crc, t[i].type,
                                  0};
        rguard__wal_index_push(ix, &entry);
    }
    s->last_index = h->last_index;
    s->last_term = h->last_term;
}

static void apply_trunc(struct wal_scan *s, const struct wal_batch_header *h, uint64_t offset,
                        bool broken)
{
    struct wal_index *ix = &s->index;
    if (h->arg_index == 0 || (s->anchored && !broken && h->arg_index > ix->first + ix->n)) {
        logic(s, h, offset, "a truncation starts behind the end");
        return;
    }
    if (!s->anchored || h->arg_index > ix->first + ix->n) {
        rguard__wal_index_clear(ix, h->arg_index);
        s->anchored = true;
    } else {
        rguard__wal_index_drop_from(ix, h->arg_index);
    }
    s->last_index = h->arg_index - 1;
    const struct wal_entry *entry = rguard__wal_index_get(ix, s->last_index);
    s->last_term = entry != NULL ? entry->term : 0;
}

static void apply(struct wal_scan *s, const struct wal_batch_header *h, uint64_t offset,
                  bool broken)
{
    switch (h->type) {
        case WAL_DATA:
            apply_data(s, h, offset, broken);
            break;
        case WAL_TRUNC:
            apply_trunc(s, h, offset, broken);
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
    bool origin = s->last.lsn == 0 && is_candidate(s, k, offset) && (k == 0 || h->prev_lsn == 0);
    bool chained =
        s->last.lsn != 0 && h->prev_lsn == s->last.lsn && h->prev_header_crc == s->last.header_crc;
    bool broken = false;
    if (origin || (chained && is_candidate(s, k, offset))) {
        /* Whatever lies between its predecessor and this batch was never part of the log. */
        s->warnings += s->gap != 0;
    } else if (chained) {
        logic(s, h, offset, "a batch does not start where its predecessor ends");
    } else if (is_candidate(s, k, offset) && s->gap == 0 && h->lsn == s->end) {
        logic(s, h, offset, "a batch does not belong behind the one before it: a write was lost");
        broken = true;
    } else if (RGUARD_TEST_OFF("acked_lsn")) {
        widen(s, WAL_C_TORN, k, offset);
        return;
    } else {
        note_missing(s, k, h);
        broken = true;
    }
    if (h->acked_lsn > h->lsn) {
        logic(s, h, offset, "a batch claims that later ones were acknowledged");
    }
    forget_gap(s);
    s->warnings += !rguard__wal_batch_padding_ok(s->buf + offset, h);
    apply(s, h, offset, broken);
    s->last = *h;
    s->last_segment = k;
    s->end = h->lsn + h->length;
    s->acked_lsn = h->acked_lsn > s->acked_lsn ? h->acked_lsn : s->acked_lsn;
    s->batches++;
    if (s->visit != NULL) {
        s->visit(s->visit_user, g, offset, s->buf + offset, h);
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
}

static void end_location(const struct wal_scan *s, uint64_t *segment, uint64_t *offset)
{
    *segment = s->gap_damage.segment;
    *offset = s->gap_damage.offset;
    if (*segment == 0 && s->segments.n > 0) {
        const struct wal_segment *g = &s->segments.v[s->last_segment];
        *segment = g->sequence;
        *offset = s->end - g->first_lsn;
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
    settle_base(s);
    s->acked_lsn = s->meta.acked_lsn > s->acked_lsn ? s->meta.acked_lsn : s->acked_lsn;
    uint64_t segment, offset;
    end_location(s, &segment, &offset);
    bool first = s->what[0] == '\0';
    if (s->acked_lsn > s->end && !RGUARD_TEST_OFF("acked_lsn")) {
        rguard__wal_find(s, WAL_C_ACKED, segment, offset,
                         "the log ends below an address that was acknowledged");
    }
    if (s->meta.clean != 0 && s->last.type != WAL_CLOSE && !RGUARD_TEST_OFF("acked_lsn")) {
        rguard__wal_find(s, WAL_C_NOT_CLOSED, segment, offset,
                         "the log was closed cleanly, but its last batch is not the closing one");
    } else if (s->meta.clean != 0 && s->last.type == WAL_CLOSE) {
        s->conditions |= WAL_C_CLOSED;
        s->warnings += s->gap != 0;
    }
    if ((s->gap & (WAL_C_ROTTEN | WAL_C_TORN | WAL_C_MISPLACED)) != 0) {
        rguard__wal_find(s, s->gap, segment, offset, "%s",
                         (s->gap & WAL_C_MISPLACED) != 0
                             ? "a batch of another place lies where the next one belongs"
                         : (s->gap & WAL_C_ROTTEN) != 0
                             ? "the last batch is damaged, and not as a tear would damage it"
                             : "the last batch was not written completely");
    }
    s->conditions |= s->gap;
    if (first && s->gap != 0) {
        s->damage = s->gap_damage;
        s->damage.segment = segment;
        s->damage.offset = offset;
    }
}
