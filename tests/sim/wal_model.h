/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_SIM_WAL_MODEL_H
#define RGUARD_SIM_WAL_MODEL_H

#include "disk_sim.h"
#include "random.h"
#include "wal_internal.h"

/* What a log must hold: a model that watches the calls of its owner and the writes to its disk, and
 * knows nothing of how recovery works.
 *
 * The log after each batch is a state; batches[k - 1].after is state k, state 0 is the empty log.
 * `acked` batches have been acknowledged, n_batches were started. After a crash a log must be in
 * one of the states acked .. n_batches. */

#define MODEL_RECORDS 1024u
#define MODEL_INDEXES 512u
#define MODEL_BATCHES 256u
#define MODEL_METAS   256u

struct model_record
{
    uint64_t index, term;
    uint32_t type, len, crc;
    uint32_t batch; /* state from which on it is in the log; 0: not yet */
};

struct model_log
{
    uint64_t base, last;            /* records base + 1 .. last, if nothing was pruned */
    uint16_t serial[MODEL_INDEXES]; /* of the record at an index */
};

struct model_batch
{
    char file[WAL_NAME_MAX];
    uint64_t offset, lsn;
    uint32_t length, type;
    uint64_t first, last; /* DATA */
    uint32_t records;     /* model records that exist up to here */
    struct model_log after;
};

struct model_meta
{
    struct wal_meta meta;
    uint32_t durable; /* slots */
    uint32_t acked;   /* batches that were acknowledged when it was written */
};

struct model
{
    struct model_record records[MODEL_RECORDS];
    uint32_t n_records, written_records;
    struct model_batch batches[MODEL_BATCHES];
    uint32_t n_batches, durable, acked;
    uint32_t acked_records; /* serials below have been acknowledged */
    struct model_metas
    {
        struct model_meta v[MODEL_METAS];
        uint32_t n, acked;
    } metas;
    uint64_t base_floor, base_ceiling; /* of prefix truncations: promised, started */
    bool recovering;                   /* writes are those of an open() */
    uint64_t term;                     /* of the next record */
    char broken[160];                  /* the log did something that no log may do */
};

void model_init(struct model *m);

/* Forgets what a crash has taken: state @k is the log, that of @w, and all of it is
 * acknowledged, since an open() has said so. */
void model_adopt(struct model *m, uint32_t k, const rguard_wal *w);

/* Every event of the disk, in order. */
void model_event(struct model *m, const struct sim_event *event);

/* The next record, not yet appended. Its contents follow from the serial. */
uint32_t model_record(struct model *m, uint64_t index, uint32_t len);
void model_contents(const struct model *m, uint32_t serial, uint8_t *buf);
/* The callback of the append whose last record is @serial. */
void model_ack(struct model *m, uint32_t serial);
void model_ack_all(struct model *m);

/* State @k. */
const struct model_log *model_log(const struct model *m, uint32_t k);
bool model_same(const struct model *m, uint32_t j, uint32_t k);
/* The lowest state that has everything that was acknowledged. */
uint32_t model_floor(const struct model *m);

/* The state that the open log @w is in, searched from the newest down to @low; -1 and @why: none.
 * Reads every record. */
int model_find(const struct model *m, rguard_wal *w, uint32_t low, char *why, size_t why_len);
/* Whether (term, vote) is that of generation @from or later. */
bool model_vote_ok(const struct model *m, const rguard_wal *w, uint32_t from);

void model_print(const struct model *m);

#endif
