/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_DISK_SIM_INTERNAL_H
#define RGUARD_DISK_SIM_INTERNAL_H

/* What disk_sim.c (the device) and disk_sim_mount.c (its operations) share. */
#include "disk_sim.h"
#include "random.h"

#include <raftguard/crc32c.h>
#include <raftguard/testing.h>

#define SIM_SECTOR 512u
#define SIM_NAME   64u
#define SIM_PLANS  8u

struct pending
{
    struct pending *newer;
    uint64_t number; /* in the order of the whole disk */
    uint64_t offset;
    size_t len;
    uint8_t *old; /* NULL: zeros */
    bool in_flight;
};

struct inode
{
    unsigned refs;
    uint64_t id;
    uint8_t *data;
    size_t size, capacity;
    size_t stable_size;
    struct pending *oldest;
    uint64_t bad_from, bad_until; /* sectors that cannot be read */
};

struct entry
{
    char name[SIM_NAME];
    struct inode *inode;
};

struct names
{
    struct entry *v;
    size_t n, capacity;
};

/* Create, rename or unlink: the name `gone` disappears, the name `made` means inode. */
struct name_change
{
    struct name_change *newer;
    uint64_t number;
    char gone[SIM_NAME], made[SIM_NAME];
    struct inode *inode; /* of made */
};

struct plan
{
    bool armed;
    enum sim_op op;
    enum sim_fault_kind kind;
    uint64_t skip;
};

struct sim_disk
{
    uint64_t random;
    uint64_t number; /* of the last operation */
    uint64_t next_inode;
    uint64_t epoch; /* crashes; mounts of an older one are dead */
    unsigned latency;
    uint64_t capacity, used;
    struct names visible, stable;
    struct name_change *changes; /* oldest first */
    struct plan plans[SIM_PLANS];
    sim_watch watch;
    void *watch_user;
};

struct file
{
    struct inode *inode;
    bool writable;
};

struct mount
{
    struct rguard_disk base; /* first */
    struct sim_disk *disk;
    uint64_t epoch;
    /* The write in flight. */
    bool flying;
    unsigned calls; /* of process() that it still takes */
    struct inode *inode;
    struct pending *pending; /* NULL: nothing of it is on the disk */
    int status;              /* to report */
    const void *buf;
    size_t len;
    uint64_t offset;
    rguard_disk_write_cb cb;
    void *user;
    /* Background work that waits for its turn. */
    int (*work)(void *user);
    void (*work_done)(void *user, int status);
    void *work_user;
};

void *sim__grab(size_t n, size_t size);
void sim__put(struct sim_disk *s, struct inode *in);
struct inode *sim__get(struct inode *in);
void sim__resize(struct sim_disk *s, struct inode *in, size_t size);
bool sim__has_room(const struct sim_disk *s, const struct inode *in, uint64_t end);
struct pending *sim__remember(struct sim_disk *s, struct inode *in, uint64_t offset, size_t len);
void sim__settle_write(struct inode *in, struct pending *p);
void sim__settle_inode(struct inode *in);
struct entry *sim__find(const struct names *names, const char *name);
const char *sim__name_of(const struct sim_disk *s, const struct inode *in);
void sim__unset(struct sim_disk *s, struct names *names, const char *name);
void sim__set(struct sim_disk *s, struct names *names, const char *name, struct inode *in);
void sim__change_names(struct sim_disk *s, const char *gone, const char *made, struct inode *in);
void sim__names_copy(struct sim_disk *s, struct names *to, const struct names *from);
void sim__changes_clear(struct sim_disk *s);
bool sim__strikes(struct sim_disk *s, enum sim_op op, enum sim_fault_kind *kind);
void sim__tell(struct sim_disk *s, const struct sim_event *event);

#endif
