/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_SIM_WAL_CHECK_H
#define RGUARD_SIM_WAL_CHECK_H

#include "wal_fault.h"
#include "wal_workload.h"

/* What recovery must and must not do. Everything returns 0, or -1 and @why. */

#define CHECK_VERDICTS 7u

struct tally
{
    uint64_t verdicts[CHECK_VERDICTS]; /* of opens that were judged */
    uint64_t opens;
    uint64_t repaired; /* damaged logs that were whole again with a peer's records */
    uint64_t mixed;    /* ... with older records that a lost truncation had voided */
    uint64_t closed;   /* ... that cannot be opened with their damage */
    uint64_t losses;   /* acknowledged, lost and reported: nothing else was left to know it by */
};

/* A log after a power failure, and perhaps after errors that were reported: it opens, as
 * CLEAN_END or TORN_TAIL, in a state that has everything acknowledged; term and vote do not go
 * back; opened read-only it does not change. @disk is used up. With probability 1/8 it is also
 * used, closed and opened again. */
int check_crash(struct sim_disk *disk, const struct model *m, uint64_t random, struct tally *tally,
                char *why, size_t why_len);

/* A log that was damaged at rest by @n faults; @before is what it was. */
int check_damage(const struct sim_disk *before, struct sim_disk *after, const struct model *m,
                 const struct fault *faults, size_t n, uint64_t random, struct tally *tally,
                 char *why, size_t why_len);

/* A healthy log behind whose end blocks of an earlier epoch lie: they do not matter. */
int check_stale(struct sim_disk *disk, const struct model *m, uint64_t random, struct tally *tally,
                char *why, size_t why_len);

#endif
