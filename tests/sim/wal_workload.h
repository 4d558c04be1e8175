/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_SIM_WAL_WORKLOAD_H
#define RGUARD_SIM_WAL_WORKLOAD_H

#include "wal_model.h"

struct ticket;

/* One process' life with a log on a simulated disk: opens it, uses it at random, tells the model
 * what it asked for and what it was promised. */
struct life
{
    struct sim_disk *disk;
    struct model *model;
    uint64_t random;
    size_t segment_bytes;
    unsigned steps;  /* at most */
    bool close;      /* cleanly at the end */
    bool quiet;      /* everything is durable at the end, also when it is not closed */
    bool errors;     /* the disk may fail, and say so */
    bool print;      /* each step */
    bool refused;    /* appends, for want of room */
    rguard_wal *wal; /* after workload_open() */
    struct ticket *tickets;
    uint8_t *data; /* of records that are queued */
    size_t data_used;
    unsigned lived; /* steps that were made */
    char why[384];  /* what went wrong, when something returns < 0 */
};

struct rguard_wal_options workload_options(const struct life *l);

/* Opens; the log must be in a state that the model allows after a crash, which the model adopts. */
int workload_open(struct life *l);
/* Random steps, then the end; the handle is gone afterwards. Errors of the disk end it early. */
int workload_run(struct life *l);
/* Appends @n records one by one and waits for each. */
int workload_append(struct life *l, unsigned n);
void workload_abandon(struct life *l); /* SIGKILL or a power failure; the mounts are dead */

#endif
