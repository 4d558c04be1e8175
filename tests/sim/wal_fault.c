/* SPDX-License-Identifier: Apache-2.0 */
/* Faults at rest, and what they have hit. Which batch a fault hits is not taken from the fault but
 * from the bytes: what did not change did not happen. */
#include "wal_fault.h"

#include <raftguard/testing.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR WAL_SECTOR

static size_t files(const struct sim_disk *disk)
{
    size_t n = 0;
    while (sim_file_name(disk, n) != NULL) {
        n++;
    }
    return n;
}

static const char *any_file(const struct sim_disk *disk, uint64_t *random)
{
    return sim_file_name(disk, sim_below(random, files(disk)));
}

/* A durable batch that is still on the disk, the last ones more often than the others. */
static const struct model_batch *any_batch(const struct sim_disk *disk, const struct model *m,
                                           uint64_t *random)
{
    for (int tries = 0; tries < 8 && m->durable > 0; tries++) {
        uint32_t i = (uint32_t)sim_below(random, m->durable);
        if (sim_below(random, 3) == 0) {
            i = m->durable - 1 - (uint32_t)sim_below(random, m->durable < 3 ? m->durable : 3);
        }
        size_t size;
        const struct model_batch *b = &m->batches[i];
        if (sim_file(disk, b->file, &size) != NULL && b->offset + b->length <= size) {
            return b;
        }
    }
    return NULL;
}

static void whole_batch(struct fault *f, const struct model_batch *b)
{
    (void)snprintf(f->file, sizeof f->file, "%s", b->file);
    f->offset = b->offset;
    f->len = b->length;
}

/* A place of @len bytes: mostly in a batch, else in meta, a segment header or anywhere. */
static void any_place(const struct sim_disk *disk, const struct model *m, struct fault *f,
                      uint64_t len, uint64_t align)
{
    uint64_t dice = sim_below(&f->random, 10);
    const struct model_batch *b = any_batch(disk, m, &f->random);
    const char *file = any_file(disk, &f->random);
    size_t size;
    if (dice == 0 && sim_file(disk, "meta", NULL) != NULL) {
        file = "meta";
    } else if (dice < 8 && b != NULL) {
        file = b->file;
    }
    (void)sim_file(disk, file, &size);
    uint64_t from = 0, room = size;
    if (dice >= 1 && dice < 8 && b != NULL) {
        from = b->offset;
        room = sim_below(&f->random, 2) == 0 ? 512 : b->length; /* its header, or any part */
    } else if (dice == 9) {
        room = size < SECTOR ? size : SECTOR;
    }
    (void)snprintf(f->file, sizeof f->file, "%s", file);
    f->offset = room == 0 ? 0 : (from + sim_below(&f->random, room)) / align * align;
    f->len = f->offset + len > size ? (f->offset < size ? size - f->offset : 0) : len;
}

struct fault fault_random(const struct sim_disk *disk, const struct model *m, uint64_t *random)
{
    /* Often the rot that is most likely to be taken for something else. */
    static const uint8_t weights[FAULT_KIND_COUNT] = {12, 8, 10, 12, 8, 10, 12,
                                                      8,  4, 4,  4,  3, 2,  3};
    struct fault f = {.random = sim_random(random)};
    uint64_t dice = sim_below(&f.random, 100);
    while (dice >= weights[f.kind]) {
        dice -= weights[f.kind++];
    }
    const struct model_batch *b = any_batch(disk, m, &f.random);
    bool write = f.kind == FAULT_LOST || f.kind == FAULT_TORN || f.kind == FAULT_MISDIRECTED ||
                 f.kind == FAULT_COPIED;
    bool slot = f.kind == FAULT_LOST && sim_below(&f.random, 5) == 0;
    uint64_t sectors = (1 + sim_below(&f.random, 8)) * SECTOR;
    if (write && b != NULL && !slot) {
        whole_batch(&f, b);
    } else if (f.kind == FAULT_BIT || f.kind == FAULT_BYTE) {
        any_place(disk, m, &f, 1, 1);
    } else if (f.kind == FAULT_ZERO_BLOCKS || f.kind == FAULT_SWAPPED || write) {
        any_place(disk, m, &f, WAL_BLOCK, WAL_BLOCK);
    } else {
        any_place(disk, m, &f, f.kind == FAULT_BAD_SECTOR ? SECTOR : sectors, SECTOR);
    }
    if (f.kind == FAULT_MISDIRECTED || f.kind == FAULT_COPIED || f.kind == FAULT_SWAPPED) {
        struct fault other = {.random = f.random};
        any_place(disk, m, &other, WAL_BLOCK, WAL_BLOCK);
        memcpy(f.file2, other.file, sizeof f.file2);
        f.offset2 = other.offset;
    }
    if (f.kind == FAULT_DUPLICATED) {
        uint64_t sequence = rguard__wal_segment_parse(f.file);
        rguard__wal_segment_name(sequence + 1, f.file2);
    }
    return f;
}

/* What the place of the write held before it: zeros, or for a slot the generation before last. */
static void undo_write(uint8_t *data, const struct fault *f, const struct model *m)
{
    memset(data + f->offset, 0, f->len);
    if (strcmp(f->file, "meta") == 0 && f->len == WAL_BLOCK) {
        uint32_t slot = (uint32_t)(f->offset / WAL_BLOCK), n = m->metas.n;
        for (uint32_t i = n; i-- > 0;) {
            if (m->metas.v[i].meta.generation % 2 == slot / 2 && i + 2 < n) {
                struct wal_meta old = m->metas.v[i].meta;
                old.slot = slot;
                rguard__wal_meta_seal(&old);
                memcpy(data + f->offset, &old, sizeof old);
                return;
            }
        }
    }
}

static void copy_to(struct sim_disk *disk, const struct fault *f, const uint8_t *from)
{
    size_t size;
    uint8_t *to = sim_file(disk, f->file2, &size);
    if (to != NULL && f->offset2 < size) {
        memcpy(to + f->offset2, from, f->offset2 + f->len > size ? size - f->offset2 : f->len);
    }
}

static void apply_moves(struct sim_disk *disk, const struct model *m, const struct fault *f,
                        uint8_t *data)
{
    uint8_t *saved = malloc(f->len + 1);
    size_t size;
    RGUARD_ASSERT(saved != NULL);
    memcpy(saved, data + f->offset, f->len);
    if (f->kind == FAULT_MISDIRECTED) {
        undo_write(data, f, m);
    }
    const uint8_t *other = sim_file(disk, f->file2, &size);
    if (f->kind == FAULT_SWAPPED && other != NULL && f->offset2 + f->len <= size) {
        memmove(data + f->offset, other + f->offset2, f->len);
    }
    copy_to(disk, f, saved);
    free(saved);
}

void fault_apply(struct sim_disk *disk, const struct model *m, const struct fault *f)
{
    size_t size;
    uint64_t random = f->random;
    uint8_t *data = sim_file(disk, f->file, &size);
    if (data == NULL || f->offset + f->len > size) {
        return; /* an earlier fault has removed it */
    }
    switch (f->kind) {
        case FAULT_BIT:
            for (uint64_t i = 0; i < f->len; i++) {
                data[f->offset + i] ^= (uint8_t)(1u << sim_below(&random, 8));
            }
            break;
        case FAULT_BYTE:
        case FAULT_GARBAGE:
            for (uint64_t i = 0; i < f->len; i++) {
                data[f->offset + i] = (uint8_t)sim_random(&random);
            }
            break;
        case FAULT_ZERO_SECTORS:
        case FAULT_ZERO_BLOCKS:
            memset(data + f->offset, 0, f->len);
            break;
        case FAULT_LOST:
            undo_write(data, f, m);
            break;
        case FAULT_TORN:
            for (uint64_t at = 0; at + SECTOR <= f->len; at += SECTOR) {
                if (sim_below(&random, 2) == 0) {
                    memset(data + f->offset + at, 0, SECTOR);
                }
            }
            break;
        case FAULT_MISDIRECTED:
        case FAULT_COPIED:
        case FAULT_SWAPPED:
            apply_moves(disk, m, f, data);
            break;
        case FAULT_BAD_SECTOR:
            sim_disk_bad_sectors(disk, f->file, f->offset, f->len);
            break;
        case FAULT_TRUNCATED:
            sim_file_resize(disk, f->file, (size_t)f->offset);
            break;
        case FAULT_REMOVED:
            sim_file_remove(disk, f->file);
            break;
        case FAULT_DUPLICATED:
            if (rguard__wal_segment_parse(f->file) != 0 && sim_file(disk, f->file2, NULL) == NULL) {
                uint8_t *copy = malloc(size + 1);
                RGUARD_ASSERT(copy != NULL);
                memcpy(copy, data, size);
                sim_file_put(disk, f->file2, copy, size);
                free(copy);
            }
            break;
        default:
            break;
    }
}

void fault_print(const struct fault *f)
{
    static const char *const texts[] = {
#define FAULT_TEXT(name, text) text,
        FAULT_KINDS(FAULT_TEXT)
#undef FAULT_TEXT
    };
    printf("  fault: %s: %s +%" PRIu64 ", %" PRIu64 " bytes", texts[f->kind], f->file, f->offset,
           f->len);
    if (f->file2[0] != '\0') {
        printf(" <-> %s +%" PRIu64, f->file2, f->offset2);
    }
    printf("\n");
}

/* ---- damage ---- */

static void hit_meta(struct damage *d, uint64_t offset)
{
    uint64_t slot = offset / WAL_BLOCK;
    if (slot < WAL_META_SLOTS && offset % WAL_BLOCK < SECTOR && !d->slot_hit[slot]) {
        d->slot_hit[slot] = true;
        d->slots_hit++;
    }
}

static void hit_sector(struct damage *d, const struct model *m, const char *file, size_t size,
                       uint64_t offset, bool zero)
{
    if (strcmp(file, "meta") == 0) {
        hit_meta(d, offset);
        return;
    }
    if (rguard__wal_segment_parse(file) == 0) {
        return;
    }
    if (offset < WAL_BLOCK) {
        d->headers_hit = d->headers_hit || offset == 0;
        return;
    }
    for (uint32_t i = 0; i < m->durable; i++) {
        const struct model_batch *b = &m->batches[i];
        if (offset >= b->offset && offset < b->offset + b->length && strcmp(file, b->file) == 0) {
            d->hit[i] = true;
            d->headers[i] = d->headers[i] || offset == b->offset;
            d->rotten[i] = d->rotten[i] || !zero;
            return;
        }
    }
    if (offset + WAL_BLOCK >= size) {
        d->headers_hit = true; /* its copy in the last block */
    } else {
        d->beyond = true;
    }
}

static void compare_file(struct damage *d, const struct model *m, const char *file,
                         const uint8_t *x, size_t nx, const uint8_t *y, size_t ny)
{
    static const uint8_t zeros[SECTOR];
    d->files = d->files || nx != ny || y == NULL;
    for (size_t at = 0; at < nx; at += SECTOR) {
        const uint8_t *now = at + SECTOR <= ny ? y + at : zeros;
        if (memcmp(x + at, now, SECTOR) != 0) {
            hit_sector(d, m, file, nx, at, memcmp(now, zeros, SECTOR) == 0);
        }
    }
}

/* What untouched batches and slots prove. */
static uint32_t evidence(const struct sim_disk *before, const struct model *m,
                         const struct damage *d)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < m->durable; i++) {
        if (!d->hit[i] && sim_file(before, m->batches[i].file, NULL) != NULL) {
            most = i; /* all before it */
        }
    }
    for (uint32_t i = 0; i <= m->metas.acked; i++) {
        uint64_t slot = 2 * m->metas.v[i].meta.generation % WAL_META_SLOTS;
        bool present = i + 2 > m->metas.acked;
        if (present && (!d->slot_hit[slot] || !d->slot_hit[slot + 1]) &&
            m->metas.v[i].acked > most) {
            most = m->metas.v[i].acked;
        }
    }
    return most;
}

void damage_assess(const struct sim_disk *before, const struct sim_disk *after,
                   const struct model *m, const struct fault *faults, size_t n, struct damage *d)
{
    memset(d, 0, sizeof *d);
    d->files = files(before) != files(after);
    uint64_t first = m->metas.v[m->metas.n - 1].meta.first_segment;
    for (size_t i = 0; sim_file_name(before, i) != NULL; i++) {
        size_t nx, ny = 0;
        const char *file = sim_file_name(before, i);
        const uint8_t *x = sim_file(before, file, &nx), *y = sim_file(after, file, &ny);
        compare_file(d, m, file, x, nx, y, ny);
        uint64_t sequence = rguard__wal_segment_parse(file);
        d->unused_files = d->unused_files || (sequence != 0 && sequence < first);
    }
    for (size_t i = 0; i < n; i++) {
        d->moved = d->moved || faults[i].kind == FAULT_MISDIRECTED ||
                   faults[i].kind == FAULT_COPIED || faults[i].kind == FAULT_SWAPPED;
        if (faults[i].kind == FAULT_BAD_SECTOR) {
            d->unreadable = true;
            size_t size;
            if (sim_file(after, faults[i].file, &size) != NULL && faults[i].offset < size) {
                hit_sector(d, m, faults[i].file, size, faults[i].offset, false);
            }
        }
    }
    for (uint32_t i = m->durable; i-- > 0;) {
        if (d->hit[i]) {
            d->hits++;
            d->first_hit = i + 1;
        }
    }
    d->evidence = evidence(before, m, d);
}
