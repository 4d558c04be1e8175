/* SPDX-License-Identifier: Apache-2.0 */
/* The synchronous disk: process() does what write_start() and background() have noted, the write
 * first, and reports it. An eventfd becomes readable in between, so that an event loop comes round
 * without being asked. */
#include "disk_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct disk_sync
{
    struct disk_posix posix; /* first */
    int eventfd;
    bool pending;
    struct rguard_file *file;
    const void *buf;
    size_t len;
    uint64_t offset;
    rguard_disk_write_cb cb;
    void *user;
    int (*work)(void *user); /* NULL: none */
    struct disk_job job;
};

static int sync_write_start(struct rguard_disk *d, struct rguard_file *f, const void *buf,
                            size_t len, uint64_t offset, rguard_disk_write_cb cb, void *user)
{
    struct disk_sync *s = (struct disk_sync *)d;
    if (s->pending) {
        return -EBUSY;
    }
    s->pending = true;
    s->file = f;
    s->buf = buf;
    s->len = len;
    s->offset = offset;
    s->cb = cb;
    s->user = user;
    return eventfd_write(s->eventfd, 1) != 0 ? -errno : 0;
}

static int sync_fd(struct rguard_disk *d)
{
    return ((struct disk_sync *)d)->eventfd;
}

static int sync_background(struct rguard_disk *d, int (*fn)(void *user),
                           void (*done)(void *user, int status), void *user)
{
    struct disk_sync *s = (struct disk_sync *)d;
    if (s->work != NULL) {
        return -EBUSY;
    }
    s->work = fn;
    s->job = (struct disk_job){done, user};
    return eventfd_write(s->eventfd, 1) != 0 ? -errno : 0;
}

static int sync_process(struct rguard_disk *d, int wait)
{
    struct disk_sync *s = (struct disk_sync *)d;
    int n = 0;
    (void)wait;
    if (!s->pending && s->work == NULL) {
        return 0;
    }
    eventfd_t ignored;
    (void)eventfd_read(s->eventfd, &ignored);
    int (*work)(void *user) = s->work;
    if (s->pending) {
        int rc = rguard__posix_write(d, s->file, s->buf, s->len, s->offset);
        s->pending = false;
        s->cb(s->user, rc);
        n++;
    }
    if (work != NULL) {
        s->work = NULL;
        s->job.done(s->job.user, work(s->job.user));
        n++;
    }
    return n;
}

static void sync_destroy(struct rguard_disk *d)
{
    struct disk_sync *s = (struct disk_sync *)d;
    close(s->eventfd);
    rguard__posix_fini(&s->posix);
    free(s);
}

static const struct rguard_disk_ops sync_ops = {
    .name = "sync",
    .open = rguard__posix_open,
    .close = rguard__posix_close,
    .size = rguard__posix_size,
    .read = rguard__posix_read,
    .write_start = sync_write_start,
    .write = rguard__posix_write,
    .sync = rguard__posix_sync,
    .rename = rguard__posix_rename,
    .unlink = rguard__posix_unlink,
    .sync_dir = rguard__posix_sync_dir,
    .list = rguard__posix_list,
    .fd = sync_fd,
    .process = sync_process,
    .destroy = sync_destroy,
    .zero = rguard__posix_zero,
    .background = sync_background,
};

int rguard__disk_sync_open(const char *dir, struct rguard_disk **out)
{
    struct disk_sync *s = calloc(1, sizeof *s);
    if (s == NULL) {
        return -ENOMEM;
    }
    int rc = rguard__posix_init(&s->posix, dir);
    if (rc != 0) {
        goto free_disk;
    }
    s->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (s->eventfd < 0) {
        rc = -errno;
        goto close_dir;
    }
    s->posix.base.ops = &sync_ops;
    *out = &s->posix.base;
    return 0;

close_dir:
    rguard__posix_fini(&s->posix);
free_disk:
    free(s);
    return rc;
}
