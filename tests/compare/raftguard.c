/* SPDX-License-Identifier: Apache-2.0 */
/* Our log, through its public interface; only damage() knows the format. Each fault hits what the
 * same fault hits on the other side: where libraft keeps one copy of something and we keep two, both
 * are damaged. */
#include "compare.h"

#include "format_internal.h"

#include <raftguard/wal.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int append_one(rguard_wal *w, uint64_t term)
{
    uint8_t data[RECORD_SIZE];
    struct rguard_wal_record r = {.index = rguard_wal_last_index(w) + 1,
                                  .term = term,
                                  .type = 1,
                                  .len = RECORD_SIZE,
                                  .data = data};
    contents(r.index, data);
    int rc = rguard_wal_append(w, &r, 1, NULL, NULL);
    return rc == 0 ? rguard_wal_flush(w) : rc;
}

static int raftguard_write(const char *dir, enum fault fault, struct state *out)
{
    struct rguard_wal_options o = {.size = sizeof o, .node_id = 1};
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = NULL;
    if (fault == FAULT_CLOSED) {
        o.segment_bytes = 256 * 1024; /* the record in the middle lies in a segment that is full */
    }
    int rc = rguard_wal_open(dir, &o, &w, &r);
    for (uint64_t term = 1; rc == 0 && term <= 2; term++) {
        rc = rguard_wal_meta_set(w, term, 1);
    }
    while (rc == 0 && rguard_wal_last_index(w) < RECORDS) {
        rc = append_one(w, 2);
    }
    if (rc == 0) {
        out->last = rguard_wal_last_index(w);
        rguard_wal_meta_get(w, &out->term, &out->vote);
        rc = fault == FAULT_CLOSED ? rguard_wal_close(w) : 0; /* else: gone with the process */
    }
    if (rc != 0) {
        (void)snprintf(out->said, sizeof out->said, "%s %s", rguard_strerror(rc), r.message);
    }
    return rc;
}

static uint64_t first_wrong(rguard_wal *w)
{
    uint8_t want[RECORD_SIZE], got[RECORD_SIZE];
    struct rguard_wal_record r;
    for (uint64_t i = 1; i <= rguard_wal_last_index(w); i++) {
        contents(i, want);
        if (rguard_wal_read(w, i, &r, got, sizeof got) != 0 || r.len != RECORD_SIZE ||
            memcmp(got, want, sizeof got) != 0) {
            return i;
        }
    }
    return 0;
}

static int raftguard_reopen(const char *dir, struct state *out)
{
    struct rguard_wal_options o = {.size = sizeof o, .node_id = 1};
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = NULL;
    out->rc = rguard_wal_open(dir, &o, &w, &r);
    out->told = out->rc != 0 || r.verdict != RGUARD_WAL_CLEAN_END;
    out->last = r.last_index;
    out->term = r.term;
    out->vote = r.vote;
    out->damage_first = r.damage_first_index;
    out->damage_last = r.damage_last_index;
    (void)snprintf(out->verdict, sizeof out->verdict, "%s", rguard_wal_verdict_name(r.verdict));
    (void)snprintf(out->said, sizeof out->said, "%s", r.message);
    if (out->rc == 0) {
        out->wrong = first_wrong(w);
        out->serves = append_one(w, out->term > 2 ? out->term : 2) == 0;
        (void)rguard_wal_close(w);
    }
    return 0;
}

/* ---- damage ---- */

/* The DATA batch of record @index, wherever it is. */
static int find_batch(const char *dir, uint64_t index, char name[32], uint64_t *offset)
{
    struct wal_batch_header h;
    for (unsigned segment = 1;; segment++) {
        (void)snprintf(name, 32, "%020u.wal", segment);
        int rc = 0;
        for (*offset = WAL_FIRST_BATCH; rc == 0; *offset += WAL_BLOCK) {
            rc = file_read(dir, name, *offset, &h, sizeof h);
            if (rc == 0 && h.magic == WAL_BATCH_MAGIC && h.type == WAL_DATA &&
                h.first_index == index && h.length == WAL_BLOCK) {
                return 0;
            }
        }
        if (rc == -ENOENT) {
            return rc;
        }
    }
}

static int swap_batches(const char *dir, const char *file, uint64_t offset)
{
    uint8_t two[2 * WAL_BLOCK], swapped[2 * WAL_BLOCK];
    int rc = file_read(dir, file, offset, two, sizeof two);
    memcpy(swapped, two + WAL_BLOCK, WAL_BLOCK);
    memcpy(swapped + WAL_BLOCK, two, WAL_BLOCK);
    return rc != 0 ? rc : file_write(dir, file, offset, swapped, sizeof swapped);
}

static int flip_data(const char *dir, const char *file, uint64_t offset)
{
    _Alignas(8) uint8_t batch[WAL_BLOCK];
    struct wal_batch_header h;
    int rc = file_read(dir, file, offset, batch, sizeof batch);
    memcpy(&h, batch, sizeof h);
    return rc != 0
               ? rc
               : file_flip(dir, file, offset + rguard__wal_batch_table(batch, &h)->offset + 100, 3);
}

/* Both copies of the newest generation. */
static int damage_metadata(const char *dir)
{
    struct wal_meta m[WAL_META_SLOTS] = {{0}};
    uint64_t newest = 0;
    int rc = 0;
    for (uint32_t i = 0; i < WAL_META_SLOTS && rc == 0; i++) {
        rc = file_read(dir, "meta", i * WAL_BLOCK, &m[i], sizeof m[i]);
        newest = rc == 0 && m[i].generation > newest ? m[i].generation : newest;
    }
    for (uint32_t i = 0; i < WAL_META_SLOTS && rc == 0; i++) {
        if (m[i].generation == newest) {
            rc = file_flip(dir, "meta", i * WAL_BLOCK + offsetof(struct wal_meta, term), 3);
            rc = rc != 0
                     ? rc
                     : file_flip(dir, "meta", i * WAL_BLOCK + offsetof(struct wal_meta, vote), 3);
        }
    }
    return rc;
}

static int raftguard_damage(const char *dir, enum fault fault)
{
    static const uint8_t zeros[4096];
    const uint32_t huge = 0x7ffff000;
    char file[32];
    uint64_t offset;
    if (fault == FAULT_META_BITS) {
        return damage_metadata(dir);
    }
    if (fault == FAULT_META_CUT) {
        return file_cut(dir, "meta", 20);
    }
    int rc = find_batch(dir, MIDDLE, file, &offset);
    if (rc != 0) {
        return rc;
    }
    switch (fault) {
        case FAULT_BIT:
        case FAULT_CLOSED:
            return flip_data(dir, file, offset);
        case FAULT_BLOCK:
            return file_write(dir, file, offset, zeros, sizeof zeros);
        case FAULT_COUNT:
            return file_write(dir, file, offset + offsetof(struct wal_batch_header, length), &huge,
                              sizeof huge);
        case FAULT_SWAP:
            return swap_batches(dir, file, offset);
        default:
            return 0;
    }
}

const struct product product_raftguard = {"raftguard", "raftguard, wal", raftguard_write,
                                          raftguard_damage, raftguard_reopen};
