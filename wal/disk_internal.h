/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_DISK_INTERNAL_H
#define RGUARD_DISK_INTERNAL_H

#include <raftguard/disk.h>

/* What disk_uring.c and disk_sync.c share: everything but write_start, fd and process. */

struct rguard_file
{
    int fd;
};

struct disk_posix
{
    struct rguard_disk base; /* first: a back end is a disk_posix is an rguard_disk */
    int dirfd;
};

int rguard__posix_init(struct disk_posix *d, const char *dir);
void rguard__posix_fini(struct disk_posix *d);

int rguard__posix_open(struct rguard_disk *d, const char *name, int flags,
                       struct rguard_file **out);
void rguard__posix_close(struct rguard_disk *d, struct rguard_file *f);
int64_t rguard__posix_size(struct rguard_disk *d, struct rguard_file *f);
int64_t rguard__posix_read(struct rguard_disk *d, struct rguard_file *f, void *buf, size_t len,
                           uint64_t offset);
int rguard__posix_write(struct rguard_disk *d, struct rguard_file *f, const void *buf, size_t len,
                        uint64_t offset);
int rguard__posix_sync(struct rguard_disk *d, struct rguard_file *f);
int rguard__posix_rename(struct rguard_disk *d, const char *from, const char *to);
int rguard__posix_unlink(struct rguard_disk *d, const char *name);
int rguard__posix_sync_dir(struct rguard_disk *d);
int rguard__posix_list(struct rguard_disk *d, int (*fn)(void *user, const char *name), void *user);
int rguard__posix_zero(struct rguard_disk *d, struct rguard_file *f, uint64_t len, uint64_t offset);

int rguard__disk_uring_open(const char *dir, struct rguard_disk **out);
int rguard__disk_sync_open(const char *dir, struct rguard_disk **out);

#endif
