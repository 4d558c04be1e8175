/* SPDX-License-Identifier: Apache-2.0 */
/* The disk for machines that refuse io_uring: a thread writes, with one pwritev2(RWF_DSYNC) per
 * batch, and a second one, made when it is first needed, does the background work, so that zeroing
 * a segment never stands before a write. Both announce themselves in one eventfd. */
#include "disk_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct disk_thread
{
    struct disk_posix posix; /* first */
    int eventfd;             /* EFD_SEMAPHORE, blocking: taking a count is waiting for work */
    struct disk_helper writer;
    struct rguard_file *file;
    const void *buf;
    size_t len;
    uint64_t offset;
    rguard_disk_write_cb cb;
    void *user;
    struct disk_helper helper;
    struct disk_job job;
};

static int write_now(void *user)
{
    struct disk_thread *t = user;
    return rguard__posix_write(&t->posix.base, t->file, t->buf, t->len, t->offset);
}

static int thread_write_start(struct rguard_disk *d, struct rguard_file *f, const void *buf,
                              size_t len, uint64_t offset, rguard_disk_write_cb cb, void *user)
{
    struct disk_thread *t = (struct disk_thread *)d;
    if (rguard__helper_busy(&t->writer)) {
        return -EBUSY;
    }
    t->file = f;
    t->buf = buf;
    t->len = len;
    t->offset = offset;
    t->cb = cb;
    t->user = user;
    return rguard__helper_run(&t->writer, write_now, t);
}

static int thread_background(struct rguard_disk *d, int (*fn)(void *user),
                             void (*done)(void *user, int status), void *user)
{
    struct disk_thread *t = (struct disk_thread *)d;
    int rc = t->helper.started ? 0 : rguard__helper_start(&t->helper, t->eventfd);
    if (rc != 0) {
        return rc;
    }
    if (rguard__helper_busy(&t->helper)) {
        return -EBUSY;
    }
    t->job = (struct disk_job){done, user};
    return rguard__helper_run(&t->helper, fn, user);
}

static int thread_fd(struct rguard_disk *d)
{
    return ((struct disk_thread *)d)->eventfd;
}

static int thread_process(struct rguard_disk *d, int wait)
{
    struct disk_thread *t = (struct disk_thread *)d;
    int n = 0;
    while (rguard__helper_busy(&t->writer) || rguard__helper_busy(&t->helper)) {
        bool some = rguard__helper_done(&t->writer) || rguard__helper_done(&t->helper);
        eventfd_t one;
        if (!some && (!wait || n > 0)) {
            break;
        }
        /* Waits for the first; or its count is there, or about to be. */
        if (eventfd_read(t->eventfd, &one) != 0) {
            if (errno == EINTR) {
                continue;
            }
            return -errno;
        }
        if (rguard__helper_done(&t->writer)) {
            t->cb(t->user, rguard__helper_take(&t->writer));
        } else {
            struct disk_job job = t->job;
            job.done(job.user, rguard__helper_take(&t->helper));
        }
        n++;
    }
    return n;
}

static void thread_destroy(struct rguard_disk *d)
{
    struct disk_thread *t = (struct disk_thread *)d;
    rguard__helper_stop(&t->writer);
    rguard__helper_stop(&t->helper);
    close(t->eventfd);
    rguard__posix_fini(&t->posix);
    free(t);
}

static const struct rguard_disk_ops thread_ops = {
    .name = "thread",
    .open = rguard__posix_open,
    .close = rguard__posix_close,
    .size = rguard__posix_size,
    .read = rguard__posix_read,
    .write_start = thread_write_start,
    .write = rguard__posix_write,
    .sync = rguard__posix_sync,
    .rename = rguard__posix_rename,
    .unlink = rguard__posix_unlink,
    .sync_dir = rguard__posix_sync_dir,
    .list = rguard__posix_list,
    .fd = thread_fd,
    .process = thread_process,
    .destroy = thread_destroy,
    .zero = rguard__posix_zero,
    .background = thread_background,
};

int rguard__disk_thread_open(const char *dir, struct rguard_disk **out)
{
    struct disk_thread *t = calloc(1, sizeof *t);
    if (t == NULL) {
        return -ENOMEM;
    }
    int rc = rguard__posix_init(&t->posix, dir);
    if (rc != 0) {
        goto free_disk;
    }
    t->eventfd = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
    if (t->eventfd < 0) {
        rc = -errno;
        goto close_dir;
    }
    rc = rguard__helper_start(&t->writer, t->eventfd);
    if (rc != 0) {
        goto close_eventfd;
    }
    t->posix.base.ops = &thread_ops;
    *out = &t->posix.base;
    return 0;

close_eventfd:
    close(t->eventfd);
close_dir:
    rguard__posix_fini(&t->posix);
free_disk:
    free(t);
    return rc;
}
