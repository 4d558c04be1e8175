/* SPDX-License-Identifier: Apache-2.0 */
/* Encoding and checking of what is on disk; format_internal.h draws it. No I/O here.
 *
 * Invariant: nothing read from disk is believed before the CRC that covers it matched, and no
 * length is used before it was held against the room that is really there. */
#include "format_internal.h"

#include <raftguard/crc32c.h>
#include <raftguard/testing.h>

#include <string.h>

static bool same(uint32_t stored, uint32_t computed)
{
    return stored == computed || RGUARD_TEST_OFF("wal_crc");
}

bool rguard__wal_is_zero(const void *data, size_t len)
{
    const uint8_t *p = data;
    return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}

const char *rguard__wal_type_name(uint32_t type)
{
    static const char *const names[] = {"?", "DATA", "MARK", "CLOSE", "TRUNC", "RESET"};
    return type < WAL_TYPE_MAX ? names[type] : names[0];
}

uint32_t rguard__wal_seed(const struct wal_place *place)
{
    uint64_t salt = RGUARD_TEST_OFF("ignore_salt") ? 0 : place->salt;
    uint64_t words[3] = {place->segment, salt, place->lsn};
    return rguard_crc32c(rguard_crc32c(0, place->uuid, WAL_UUID), words, sizeof words);
}

/* ---- headers of one sector ---- */

/* All three headers begin alike: magic, version, CRC. */
struct prefix
{
    uint64_t magic;
    uint32_t version;
    uint32_t crc;
};

static uint32_t header_crc(const void *header, size_t len, uint32_t seed)
{
    struct prefix p;
    memcpy(&p, header, sizeof p);
    p.crc = 0;
    uint32_t crc = rguard_crc32c(seed, &p, sizeof p);
    return rguard_crc32c(crc, (const uint8_t *)header + sizeof p, len - sizeof p);
}

static enum wal_header_state header_check(const void *block, size_t len, uint64_t magic,
                                          uint32_t seed)
{
    struct prefix p;
    memcpy(&p, block, sizeof p);
    if (rguard__wal_is_zero(block, len)) {
        return WAL_HEADER_ZERO;
    }
    if (p.magic != magic || !same(p.crc, header_crc(block, len, seed))) {
        return WAL_HEADER_BAD;
    }
    if (p.version == WAL_VERSION) {
        return WAL_HEADER_OK;
    }
    return WAL_HEADER_OTHER;
}

void rguard__wal_segment_seal(struct wal_segment_header *h)
{
    h->magic = WAL_SEGMENT_MAGIC;
    h->version = WAL_VERSION;
    h->block_size = WAL_BLOCK;
    h->crc = header_crc(h, sizeof *h, 0);
}

enum wal_header_state rguard__wal_segment_check(const void *block, struct wal_segment_header *out)
{
    memcpy(out, block, sizeof *out);
    enum wal_header_state state = header_check(out, sizeof *out, WAL_SEGMENT_MAGIC, 0);
    if (state == WAL_HEADER_OK &&
        (out->block_size != WAL_BLOCK || out->bytes % WAL_BLOCK != 0 ||
         out->bytes < WAL_SEGMENT_MIN || out->bytes > 2 * WAL_SEGMENT_MAX || out->sequence == 0)) {
        return WAL_HEADER_BAD;
    }
    return state;
}

void rguard__wal_meta_seal(struct wal_meta *m)
{
    m->magic = WAL_META_MAGIC;
    m->version = WAL_VERSION;
    m->crc = header_crc(m, sizeof *m, m->slot);
}

enum wal_header_state rguard__wal_meta_check(const void *block, uint32_t slot, struct wal_meta *out)
{
    memcpy(out, block, sizeof *out);
    enum wal_header_state state = header_check(out, sizeof *out, WAL_META_MAGIC, slot);
    if (state == WAL_HEADER_OK && (out->slot != slot || out->generation % 2 != slot / 2)) {
        return WAL_HEADER_BAD;
    }
    return state;
}

/* ---- batches ---- */

static uint64_t table_offset(uint64_t length)
{
    return WAL_BATCH_HEAD + length / WAL_SECTOR * sizeof(uint32_t);
}

uint64_t rguard__wal_batch_bytes(uint64_t n, uint64_t payload)
{
    /* The sector array grows with the length that it is part of: 1/128 of it, so this settles. */
    uint64_t body = n * sizeof(struct wal_table_entry) + payload;
    uint64_t length = WAL_BLOCK;
    for (;;) {
        uint64_t need = (table_offset(length) + body + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK;
        if (need <= length) {
            return length;
        }
        length = need;
    }
}

static const uint32_t *sector_array(const uint8_t *buf)
{
    return (const uint32_t *)(const void *)(buf + WAL_BATCH_HEAD);
}

const struct wal_table_entry *rguard__wal_batch_table(const uint8_t *buf,
                                                      const struct wal_batch_header *h)
{
    return (const struct wal_table_entry *)(const void *)(buf + table_offset(h->length));
}

static uint32_t payload_offset(const struct wal_batch_header *h)
{
    return (uint32_t)(table_offset(h->length) + h->n_records * sizeof(struct wal_table_entry));
}

bool rguard__wal_batch_prev(const uint8_t *buf, const struct wal_batch_header *h,
                            struct wal_batch_header *prev)
{
    memcpy(prev, buf + sizeof *h, sizeof *prev);
    struct wal_place own = {prev->uuid, prev->segment, prev->salt, prev->lsn, 0};
    return header_check(prev, sizeof *prev, WAL_BATCH_MAGIC, rguard__wal_seed(&own)) ==
               WAL_HEADER_OK &&
           prev->lsn == h->prev_lsn && same(prev->header_crc, h->prev_header_crc);
}

static bool prev_ok(const uint8_t *buf, const struct wal_batch_header *h)
{
    struct wal_batch_header prev;
    return rguard__wal_is_zero(buf + sizeof *h, sizeof prev) ||
           rguard__wal_batch_prev(buf, h, &prev);
}

bool rguard__wal_follows(const struct wal_batch_header *h, const struct wal_batch_header *prev)
{
    return (h->prev_lsn == prev->lsn && h->prev_header_crc == prev->header_crc) ||
           ((prev->flags & WAL_STANDS_IN) != 0 && prev->stands_lsn != 0 &&
            h->prev_lsn == prev->stands_lsn && h->prev_header_crc == prev->stands_crc);
}

/* A sector's CRC leaves out what belongs to the headers and to the array itself. */
static uint32_t sector_crc(const uint8_t *buf, uint32_t length, uint32_t i, uint32_t seed)
{
    uint64_t from = (uint64_t)i * WAL_SECTOR, to = from + WAL_SECTOR;
    uint64_t open = table_offset(length);
    if (to <= open) {
        return 0;
    }
    from = from < open ? open : from;
    return rguard_crc32c(seed, buf + from, (size_t)(to - from));
}

void rguard__wal_encode_start(struct wal_encoder *e, uint8_t *buf, struct wal_batch_header *h)
{
    if ((h->flags & WAL_STANDS_IN) == 0) {
        h->length = (uint32_t)rguard__wal_batch_bytes(h->n_records, h->payload_length);
    }
    memset(buf, 0, payload_offset(h));
    uint32_t end = payload_offset(h) + h->payload_length;
    memset(buf + end, 0, h->length - end);
    e->buf = buf;
    e->header = h;
    e->table = (struct wal_table_entry *)(void *)(buf + table_offset(h->length));
    e->n = 0;
    e->offset = payload_offset(h);
}

void rguard__wal_encode_follow(struct wal_encoder *e, const struct wal_batch_header *prev)
{
    struct wal_batch_header *h = e->header;
    bool cut = prev->type == WAL_TRUNC || prev->type == WAL_RESET;
    h->prev_lsn = prev->lsn;
    h->prev_header_crc = prev->header_crc;
    h->cut_lsn = cut ? prev->lsn : prev->cut_lsn;
    h->tail_index = h->type == WAL_TRUNC   ? h->arg_index - 1
                    : h->type == WAL_RESET ? h->arg_index
                                           : prev->tail_index;
    if (prev->lsn != 0) {
        memcpy(e->buf + sizeof *h, prev, sizeof *prev);
    }
}

void rguard__wal_encode_put(struct wal_encoder *e, const struct rguard_wal_record *record)
{
    struct wal_table_entry *t = &e->table[e->n];
    t->index = record->index;
    t->term = record->term;
    t->type = record->type;
    t->len = record->len;
    t->offset = e->offset;
    uint32_t padded = (record->len + 7u) & ~7u;
    if (record->len > 0) {
        memcpy(e->buf + e->offset, record->data, record->len);
        memset(e->buf + e->offset + record->len, 0, padded - record->len);
    }
    /* Of the copy: if the caller's buffer changes under us, log and table still agree. */
    t->crc = rguard_crc32c(0, e->buf + e->offset, record->len);
    if ((e->header->flags & WAL_STANDS_IN) == 0) {
        if (e->n == 0) {
            e->header->first_index = record->index;
            e->header->first_term = record->term;
        }
        e->header->last_index = record->index;
        e->header->last_term = record->term;
        e->header->tail_index = record->index;
    }
    e->offset += padded;
    e->n++;
}

void rguard__wal_encode_finish(struct wal_encoder *e, const struct wal_place *place)
{
    struct wal_batch_header *h = e->header;
    uint32_t seed = rguard__wal_seed(place);
    RGUARD_ASSERT(e->n == h->n_records && e->offset == payload_offset(h) + h->payload_length);
    h->magic = WAL_BATCH_MAGIC;
    h->version = WAL_VERSION;
    memcpy(h->uuid, place->uuid, WAL_UUID);
    h->segment = place->segment;
    h->salt = place->salt;
    h->lsn = place->lsn;
    h->table_crc = rguard_crc32c(seed, e->table, h->n_records * sizeof *e->table);
    h->payload_crc = rguard_crc32c(seed, e->buf + payload_offset(h), h->payload_length);
    uint32_t *sectors = (uint32_t *)(void *)(e->buf + WAL_BATCH_HEAD);
    uint32_t n = h->length / WAL_SECTOR;
    for (uint32_t i = 0; i < n; i++) {
        sectors[i] = sector_crc(e->buf, h->length, i, seed);
    }
    h->sectors_crc = rguard_crc32c(seed, sectors, n * sizeof *sectors);
    h->header_crc = header_crc(h, sizeof *h, seed);
    memcpy(e->buf, h, sizeof *h);
}

static bool sectors_ok(const uint8_t *buf, const struct wal_batch_header *h, uint32_t seed)
{
    size_t bytes = h->length / WAL_SECTOR * sizeof(uint32_t);
    return same(h->sectors_crc, rguard_crc32c(seed, sector_array(buf), bytes));
}

/* Indexes without a gap, terms that never fall, lengths and offsets that add up. The records of a
 * batch that stands in are a part of its range. */
static bool table_sane(const uint8_t *buf, const struct wal_batch_header *h)
{
    const struct wal_table_entry *t = rguard__wal_batch_table(buf, h);
    bool stands_in = (h->flags & WAL_STANDS_IN) != 0;
    uint64_t offset = payload_offset(h);
    if (h->n_records == 0) {
        return h->payload_length == 0;
    }
    uint64_t first = t[0].index, term = stands_in ? 0 : h->first_term;
    for (uint32_t i = 0; i < h->n_records; i++) {
        if (t[i].index != first + i || t[i].term < term || t[i].offset != offset ||
            t[i].len > h->payload_length) {
            return false;
        }
        term = t[i].term;
        offset += (t[i].len + 7ULL) & ~7ULL;
    }
    if (offset != (uint64_t)payload_offset(h) + h->payload_length) {
        return false;
    }
    uint64_t last = t[h->n_records - 1].index;
    if (stands_in) {
        return first >= h->first_index && last <= h->last_index;
    }
    return first == h->first_index && last == h->last_index && t[0].term == h->first_term &&
           term == h->last_term;
}

bool rguard__wal_header_sane(const struct wal_batch_header *h, uint64_t room)
{
    bool data = h->type == WAL_DATA, stands_in = (h->flags & WAL_STANDS_IN) != 0;
    uint64_t need = rguard__wal_batch_bytes(h->n_records, h->payload_length);
    if (stands_in) {
        /* The array grows with the length that is given. */
        need = table_offset(h->length) + h->n_records * sizeof(struct wal_table_entry) +
               h->payload_length;
    }
    return h->type >= WAL_DATA && h->type < WAL_TYPE_MAX && h->length <= room &&
           h->length >= WAL_BLOCK && h->length % WAL_BLOCK == 0 && (data || !stands_in) &&
           (stands_in || data == (h->n_records > 0)) && (data || h->payload_length == 0) &&
           h->payload_length % 8 == 0 &&
           (stands_in ? h->length >= need && h->last_index - h->first_index < UINT32_MAX
                      : h->length == need);
}

static bool body_ok(const uint8_t *buf, const struct wal_batch_header *h, uint32_t seed)
{
    return prev_ok(buf, h) && sectors_ok(buf, h, seed) &&
           same(h->table_crc, rguard_crc32c(seed, rguard__wal_batch_table(buf, h),
                                            h->n_records * sizeof(struct wal_table_entry))) &&
           same(h->payload_crc, rguard_crc32c(seed, buf + payload_offset(h), h->payload_length)) &&
           table_sane(buf, h);
}

static bool own_place(const struct wal_batch_header *h, const struct wal_place *place)
{
    return memcmp(h->uuid, place->uuid, WAL_UUID) == 0 && h->segment == place->segment &&
           (h->salt == place->salt || RGUARD_TEST_OFF("ignore_salt")) && h->lsn == place->lsn;
}

enum wal_found rguard__wal_batch_check(const uint8_t *buf, const struct wal_place *place,
                                       struct wal_batch_header *h)
{
    memcpy(h, buf, sizeof *h);
    if (rguard__wal_is_zero(buf, WAL_SECTOR)) {
        return WAL_NOTHING;
    }
    uint32_t seed = rguard__wal_seed(place);
    switch (header_check(h, sizeof *h, WAL_BATCH_MAGIC, seed)) {
        case WAL_HEADER_OTHER:
            return WAL_OTHER;
        case WAL_HEADER_OK:
            if (!own_place(h, place) || !rguard__wal_header_sane(h, place->room)) {
                return WAL_GARBAGE;
            }
            return body_ok(buf, h, seed) ? WAL_VALID : WAL_BODY_BAD;
        default:
            break;
    }
    struct wal_place own = {h->uuid, h->segment, h->salt, h->lsn, place->room};
    if (header_check(h, sizeof *h, WAL_BATCH_MAGIC, rguard__wal_seed(&own)) == WAL_HEADER_OK &&
        rguard__wal_header_sane(h, UINT32_MAX)) {
        return WAL_MISPLACED;
    }
    return WAL_GARBAGE;
}

/* When the array itself is damaged, the sectors that hold it are judged by whether they are zero,
 * and an entry that lies in a zeroed one says nothing about its sector. An array that is damaged
 * although none of its sectors is zero has rotted. */
void rguard__wal_batch_sectors(const uint8_t *buf, const struct wal_batch_header *h,
                               uint8_t *states)
{
    struct wal_place own = {h->uuid, h->segment, h->salt, h->lsn, h->length};
    uint32_t seed = rguard__wal_seed(&own), n = h->length / WAL_SECTOR;
    bool array_ok = sectors_ok(buf, h, seed), array_torn = false;
    for (uint32_t i = 0; i < n; i++) {
        bool zero = rguard__wal_is_zero(buf + (size_t)i * WAL_SECTOR, WAL_SECTOR);
        size_t entry = WAL_BATCH_HEAD + (size_t)i * sizeof(uint32_t);
        const uint8_t *entry_sector = buf + entry / WAL_SECTOR * WAL_SECTOR;
        if (!array_ok && zero && (uint64_t)i * WAL_SECTOR < table_offset(h->length)) {
            states[i] = WAL_SECTOR_ZEROED;
            array_torn = true;
        } else if (!array_ok && rguard__wal_is_zero(entry_sector, WAL_SECTOR)) {
            states[i] = WAL_SECTOR_UNKNOWN;
        } else if (same(sector_array(buf)[i], sector_crc(buf, h->length, i, seed))) {
            states[i] = WAL_SECTOR_GOOD;
        } else {
            states[i] = zero ? WAL_SECTOR_ZEROED : WAL_SECTOR_ROTTEN;
        }
    }
    if ((!array_ok && !array_torn) || !prev_ok(buf, h)) {
        states[0] = WAL_SECTOR_ROTTEN;
    }
}

bool rguard__wal_batch_padding_ok(const uint8_t *buf, const struct wal_batch_header *h)
{
    uint32_t end = payload_offset(h) + h->payload_length;
    return rguard__wal_is_zero(buf + end, h->length - end);
}
