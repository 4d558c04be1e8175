/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_SIM_WAL_FAULT_H
#define RGUARD_SIM_WAL_FAULT_H

#include "wal_model.h"

/* Damage to a log at rest: what a disk does to bytes that were written well. */

#define FAULT_KINDS(X)                                                     \
    X(FAULT_BIT, "one bit flipped")                                        \
    X(FAULT_BYTE, "one byte replaced")                                     \
    X(FAULT_GARBAGE, "sectors full of garbage")                            \
    X(FAULT_ZERO_SECTORS, "sectors zeroed")                                \
    X(FAULT_ZERO_BLOCKS, "blocks zeroed")                                  \
    X(FAULT_LOST, "a write was lost: the place holds what it held before") \
    X(FAULT_TORN, "a write arrived in part")                               \
    X(FAULT_MISDIRECTED, "a write went to another place")                  \
    X(FAULT_COPIED, "a write also went to another place")                  \
    X(FAULT_SWAPPED, "two blocks changed places")                          \
    X(FAULT_BAD_SECTOR, "a sector cannot be read")                         \
    X(FAULT_TRUNCATED, "a file has lost its end")                          \
    X(FAULT_REMOVED, "a file is gone")                                     \
    X(FAULT_DUPLICATED, "a file appears under the next name as well")

enum fault_kind {
#define FAULT_ENUM(name, text) name,
    FAULT_KINDS(FAULT_ENUM)
#undef FAULT_ENUM
        FAULT_KIND_COUNT
};

struct fault
{
    enum fault_kind kind;
    char file[WAL_NAME_MAX];
    uint64_t offset, len;
    char file2[WAL_NAME_MAX]; /* the other place */
    uint64_t offset2;
    uint64_t random;
};

struct fault fault_random(const struct sim_disk *disk, const struct model *m, uint64_t *random);
void fault_apply(struct sim_disk *disk, const struct model *m, const struct fault *f);
void fault_print(const struct fault *f);

/* What damage has changed, by comparing the disk before and after it. */
struct damage
{
    uint32_t first_hit; /* batch ordinal, 1-based; 0: none */
    uint32_t hits;      /* durable batches with a changed sector */
    uint32_t evidence;  /* batches that untouched ones and metadata prove to be acknowledged */
    uint32_t slots_hit;
    bool slot_hit[WAL_META_SLOTS];
    bool headers_hit; /* of segments */
    bool beyond;      /* places of segments where no durable batch is */
    bool files;       /* appeared, disappeared, or changed in size */
    bool hit[MODEL_BATCHES];
    bool headers[MODEL_BATCHES]; /* the first sector of it has changed */
    bool rotten[MODEL_BATCHES];  /* something in it changed to anything but zeros */
    bool unreadable;
    bool unused_files; /* segments that wait to be recycled */
    bool moved;        /* contents of one place came to another */
};
void damage_assess(const struct sim_disk *before, const struct sim_disk *after,
                   const struct model *m, const struct fault *faults, size_t n, struct damage *d);

#endif
