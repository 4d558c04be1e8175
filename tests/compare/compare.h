/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_COMPARE_H
#define RGUARD_COMPARE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The same faults on the same history, for two products. The history: RECORDS records, each durable
 * and acknowledged before the next one is offered; then the process is gone without a close (or, for
 * FAULT_CLOSED, after a clean one). Everything is synced: no fault here is one that a crash makes. */

#define RECORDS     201u
#define RECORD_SIZE 512u
#define MIDDLE      101u /* the record that is hit */

enum fault {
    FAULT_NONE,      /* control: nothing happens, nothing may be lost or reported */
    FAULT_BIT,       /* one bit of a record's data, in the segment that was being written */
    FAULT_BLOCK,     /* the 4 KiB block where a record begins becomes zero */
    FAULT_COUNT,     /* the field that says how much follows becomes huge */
    FAULT_SWAP,      /* two neighbouring batches change places */
    FAULT_CLOSED,    /* one bit of a record's data, in a segment that was closed */
    FAULT_META_BITS, /* one bit of the term and one of the vote, wherever the newest are kept */
    FAULT_META_CUT,  /* the file with the newest term and vote is cut to 20 bytes */
    FAULTS
};

/* What a product says of itself, before and after. */
struct state
{
    int rc; /* of the call that starts it; 0: it goes to work */
    uint64_t last, term, vote;
    uint64_t wrong;   /* first record that is not what was acknowledged here; 0: none */
    bool told;        /* rc, or a verdict that says something was dropped */
    bool serves;      /* took and acknowledged one more record */
    int signal;       /* died of it; 0: did not */
    char said[512];   /* its own words */
    char verdict[32]; /* where there is such a thing */
    uint64_t damage_first, damage_last;
};

struct product
{
    const char *name, *title;
    int (*write)(const char *dir, enum fault fault, struct state *out); /* makes the history */
    int (*damage)(const char *dir, enum fault fault);
    int (*reopen)(const char *dir, struct state *out);
};

extern const struct product product_raft_uv, product_raftguard;

/* The data of record @index: follows from it, RECORD_SIZE bytes. */
void contents(uint64_t index, uint8_t *buf);

/* 0 or -errno; short reads and writes are -EIO. */
int file_read(const char *dir, const char *name, uint64_t offset, void *buf, size_t len);
int file_write(const char *dir, const char *name, uint64_t offset, const void *buf, size_t len);
int file_flip(const char *dir, const char *name, uint64_t offset, unsigned bit);
int file_cut(const char *dir, const char *name, uint64_t len);

#endif
