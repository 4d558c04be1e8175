/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_DISK_INTERNAL_H
#define RGUARD_DISK_INTERNAL_H

#include <raftguard/disk.h>

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>

/* What the back ends share: disk_common.c has everything but write_start, fd, process and
 * background; disk_helper.c has the thread that uring uses for background work, and thread for that
 * and for writes. */

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

/* ---- disk_helper.c ---- */

struct disk_helper
{
    pthread_t thread;
    sem_t wake;
    bool started;
    int eventfd; /* EFD_SEMAPHORE, blocking; gets one count for each piece of work */
    atomic_int state;
    int (*fn)(void *user);
    void *user;
    int result;
};

int rguard__helper_start(struct disk_helper *h, int eventfd);
void rguard__helper_stop(struct disk_helper *h); /* waits for its work; allowed when not started */
int rguard__helper_run(struct disk_helper *h, int (*fn)(void *user), void *user);
bool rguard__helper_busy(const struct disk_helper *h);
bool rguard__helper_done(const struct disk_helper *h);
int rguard__helper_take(struct disk_helper *h); /* the result; the helper is free again */

/* The callback of background(). */
struct disk_job
{
    void (*done)(void *user, int status);
    void *user;
};

int rguard__disk_uring_open(const char *dir, struct rguard_disk **out);
int rguard__disk_thread_open(const char *dir, struct rguard_disk **out);
int rguard__disk_sync_open(const char *dir, struct rguard_disk **out);

#endif
