/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_SIM_WAL_REPAIR_H
#define RGUARD_SIM_WAL_REPAIR_H

#include "wal_check.h"

/* A damaged log that was refused, opened with its damage: what is intact reads back, what is listed
 * is what was hit, and with the records of a peer it is whole again - also when the power fails in
 * the middle of it. @disk is used up. 0, or -1 and @why. */
int check_repair(struct sim_disk *disk, const struct model *m, const struct damage *d,
                 uint64_t random, struct tally *tally, char *why, size_t why_len);

#endif
