/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_DISK_SIM_H
#define RGUARD_DISK_SIM_H

#include <raftguard/disk.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A disk in memory that fails on purpose. It stands behind wal/disk.h like the real back ends, so
 * that the code under test cannot tell; no thread, no clock, no file: the seed and the calls decide
 * everything that happens.
 *
 *     struct sim_disk       the device: one directory; survives crashes; owned by the test
 *     struct rguard_disk    a mount of it, for one process' life; owned by the code under test
 *
 * WHAT A CRASH KEEPS. Everything that was promised: a write whose completion was reported, zeros
 * and sizes before a sync(), names before a sync_dir(). Of everything else any part, down to single
 * 512-byte sectors and single directory operations, in any order; a rename is atomic. That is more
 * than a real file system does (names are lost although the file was synced, a later unlink is kept
 * and an earlier one not), and what it does is among it.
 *
 * Write: visible to readers from the moment it is started. */

struct sim_disk;

struct sim_disk *sim_disk_new(uint64_t seed);
void sim_disk_free(struct sim_disk *s); /* after every mount is destroyed; NULL is allowed */

/* Files, names and what is not yet durable; not mounts, watchers, plans or bad sectors. */
struct sim_disk *sim_disk_clone(const struct sim_disk *s, uint64_t seed);

/* The code under test destroys it with ops->destroy(). Several at a time may read. */
int sim_disk_mount(struct sim_disk *s, struct rguard_disk **out);

/* A write_start() completes at a call of process() that follows at most @calls later (0: the next;
 * wait ends it always). Seeded. */
void sim_disk_latency(struct sim_disk *s, unsigned calls);

/* ---- power failure ---- */

enum sim_crash {
    SIM_CRASH_NOTHING, /* nothing but what was promised */
    SIM_CRASH_ALL,     /* everything that was started */
    SIM_CRASH_ORDERED, /* everything up to some operation, of that one its first sectors */
    SIM_CRASH_RANDOM   /* any subset */
};

/* Present mounts are dead from now on: every operation of theirs answers -EIO. */
void sim_disk_crash(struct sim_disk *s, enum sim_crash how);

/* The process dies and the machine goes on: mounts are dead, everything that was started is there
 * to see, and as little of it is durable as before. */
void sim_disk_kill(struct sim_disk *s);

/* ---- watching ---- */

enum sim_op {
    SIM_CREATE,
    SIM_READ,
    SIM_WRITE, /* write() and write_start() */
    SIM_ZERO,
    SIM_SYNC,
    SIM_RENAME,
    SIM_UNLINK,
    SIM_SYNC_DIR
};

struct sim_event
{
    enum sim_op op;
    bool done;        /* false: started, nothing of it is promised. SIM_WRITE, SIM_SYNC and
                      * SIM_SYNC_DIR come twice, the others once, done. SIM_READ does not come. */
    const char *file; /* SIM_RENAME: the new name; "" without one */
    uint64_t offset;
    size_t len;
    const void *buf; /* SIM_WRITE */
    int status;      /* when done */
};

/* Called at every point where a crash would leave something else than at the point before. @fn may
 * clone the disk, but must not touch it. NULL ends it. */
typedef void (*sim_watch)(void *user, const struct sim_event *event);
void sim_disk_watch(struct sim_disk *s, sim_watch fn, void *user);

/* ---- faults of operations ---- */

enum sim_fault_kind {
    SIM_EIO,         /* -EIO; of a write some sectors have arrived all the same */
    SIM_ENOSPC,      /* -ENOSPC, nothing has changed */
    SIM_SHORT,       /* a write's first sectors, -EIO; zeros: -ENOSPC */
    SIM_LOST,        /* 0, but nothing was done: write, sync, sync_dir */
    SIM_TORN,        /* 0, but only some sectors of a write arrived */
    SIM_MISDIRECTED, /* 0, but the write went to another place */
};

/* The (@skip + 1)-th operation @op from now on fails in this way. At most 8 wait at a time. */
void sim_disk_plan(struct sim_disk *s, enum sim_op op, enum sim_fault_kind kind, uint64_t skip);
void sim_disk_unplan(struct sim_disk *s);

/* Operations that would make all files together longer than @bytes get -ENOSPC. 0: no limit. */
void sim_disk_capacity(struct sim_disk *s, uint64_t bytes);

/* Reads of the sectors in this range answer -EIO until they are written. */
void sim_disk_bad_sectors(struct sim_disk *s, const char *file, uint64_t offset, uint64_t len);

/* ---- bytes at rest ---- */

/* The @i-th name in order of creation, or NULL. */
const char *sim_file_name(const struct sim_disk *s, size_t i);
/* Contents to look at and to damage; valid until the next operation on the file. NULL: no file. */
uint8_t *sim_file(const struct sim_disk *s, const char *file, size_t *size);
/* Makes or replaces a file, durably; @data NULL: zeros. */
void sim_file_put(struct sim_disk *s, const char *file, const void *data, size_t size);
void sim_file_resize(struct sim_disk *s, const char *file, size_t size);
void sim_file_remove(struct sim_disk *s, const char *file);

/* One number for every name and byte that a reader can see. */
uint64_t sim_disk_sum(const struct sim_disk *s);

#endif
