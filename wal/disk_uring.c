/* SPDX-License-Identifier: Apache-2.0 */
/* The io_uring disk: a durable write is one SQE with RWF_DSYNC, never a write linked to an fsync
 * (a short write would break the chain, or worse, be made up for after the sync). Background work is
 * a helper thread's, which is made when the first is asked for; everything else is rare and
 * synchronous.
 *
 * The ring's own descriptor is what an event loop polls: it is readable while completions wait, so
 * there is no counter to reset; the helper's eventfd is polled by the ring itself. No SINGLE_ISSUER and no DEFER_TASKRUN: neither gained anything
 * measurable, both bind the ring to the thread that made it. */
#include "disk_internal.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct disk_uring
{
    struct disk_posix posix; /* first */
    struct io_uring ring;
    bool pending;
    size_t len;
    rguard_disk_write_cb cb;
    void *user;
    int eventfd; /* the helper's */
    struct disk_helper helper;
    struct disk_job job;
};

enum { TAG_WRITE = 1, TAG_HELPER };

static int submit(struct disk_uring *u, struct io_uring_sqe *sqe, uint64_t tag)
{
    int n;
    sqe->user_data = tag;
    do {
        n = io_uring_submit(&u->ring);
    } while (n == -EINTR || n == -EAGAIN);
    return n == 1 ? 0 : n < 0 ? n : -EIO;
}

static int uring_write_start(struct rguard_disk *d, struct rguard_file *f, const void *buf,
                             size_t len, uint64_t offset, rguard_disk_write_cb cb, void *user)
{
    struct disk_uring *u = (struct disk_uring *)d;
    if (u->pending) {
        return -EBUSY;
    }
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    if (sqe == NULL) {
        return -EBUSY;
    }
    io_uring_prep_write(sqe, f->fd, buf, (unsigned)len, offset);
    sqe->rw_flags = RWF_DSYNC;
    int rc = submit(u, sqe, TAG_WRITE);
    if (rc != 0) {
        return rc;
    }
    u->pending = true;
    u->len = len;
    u->cb = cb;
    u->user = user;
    return 0;
}

static int uring_fd(struct rguard_disk *d)
{
    return ((struct disk_uring *)d)->ring.ring_fd;
}

static int uring_background(struct rguard_disk *d, int (*fn)(void *user),
                            void (*done)(void *user, int status), void *user)
{
    struct disk_uring *u = (struct disk_uring *)d;
    int rc = u->helper.started ? 0 : rguard__helper_start(&u->helper, u->eventfd);
    if (rc != 0) {
        return rc;
    }
    struct io_uring_sqe *sqe;
    if (rguard__helper_busy(&u->helper) || (sqe = io_uring_get_sqe(&u->ring)) == NULL) {
        return -EBUSY;
    }
    io_uring_prep_poll_add(sqe, u->eventfd, POLLIN);
    rc = submit(u, sqe, TAG_HELPER);
    if (rc != 0) {
        return rc;
    }
    u->job = (struct disk_job){done, user};
    return rguard__helper_run(&u->helper, fn, user);
}

static void complete(struct disk_uring *u, uint64_t tag, int res)
{
    if (tag == TAG_WRITE) {
        u->pending = false;
        u->cb(u->user, res < 0 ? res : (size_t)res == u->len ? 0 : -EIO);
        return;
    }
    eventfd_t ignored;
    (void)eventfd_read(u->eventfd, &ignored);
    struct disk_job job = u->job;
    job.done(job.user, rguard__helper_take(&u->helper));
}

static int uring_process(struct rguard_disk *d, int wait)
{
    struct disk_uring *u = (struct disk_uring *)d;
    struct io_uring_cqe *cqe;
    int n = 0;
    while (u->pending || rguard__helper_busy(&u->helper)) {
        int rc =
            wait && n == 0 ? io_uring_wait_cqe(&u->ring, &cqe) : io_uring_peek_cqe(&u->ring, &cqe);
        if (rc == -EINTR) {
            continue;
        }
        if (rc != 0) {
            return rc == -EAGAIN ? n : rc;
        }
        uint64_t tag = cqe->user_data;
        int res = cqe->res;
        io_uring_cqe_seen(&u->ring, cqe);
        complete(u, tag, res);
        n++;
    }
    return n;
}

static void uring_destroy(struct rguard_disk *d)
{
    struct disk_uring *u = (struct disk_uring *)d;
    struct io_uring_cqe *cqe;
    rguard__helper_stop(&u->helper);
    while (u->pending) {
        /* The buffer belongs to the kernel until the write is over. */
        if (io_uring_wait_cqe(&u->ring, &cqe) == 0) {
            u->pending = cqe->user_data != TAG_WRITE;
            io_uring_cqe_seen(&u->ring, cqe);
        }
    }
    io_uring_queue_exit(&u->ring);
    close(u->eventfd);
    rguard__posix_fini(&u->posix);
    free(u);
}

static const struct rguard_disk_ops uring_ops = {
    .name = "uring",
    .open = rguard__posix_open,
    .close = rguard__posix_close,
    .size = rguard__posix_size,
    .read = rguard__posix_read,
    .write_start = uring_write_start,
    .write = rguard__posix_write,
    .sync = rguard__posix_sync,
    .rename = rguard__posix_rename,
    .unlink = rguard__posix_unlink,
    .sync_dir = rguard__posix_sync_dir,
    .list = rguard__posix_list,
    .fd = uring_fd,
    .process = uring_process,
    .destroy = uring_destroy,
    .zero = rguard__posix_zero,
    .background = uring_background,
};

int rguard__disk_uring_open(const char *dir, struct rguard_disk **out)
{
    struct disk_uring *u = calloc(1, sizeof *u);
    if (u == NULL) {
        return -ENOMEM;
    }
    int rc = rguard__posix_init(&u->posix, dir);
    if (rc != 0) {
        goto free_disk;
    }
    u->eventfd = eventfd(0, EFD_SEMAPHORE | EFD_CLOEXEC);
    if (u->eventfd < 0) {
        rc = -errno;
        goto close_dir;
    }
    unsigned flags = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CLAMP;
    rc = io_uring_queue_init(8, &u->ring, flags);
    if (rc == -EINVAL) {
        rc = io_uring_queue_init(8, &u->ring, 0); /* before Linux 5.19 */
    }
    if (rc != 0) {
        goto close_eventfd;
    }
    u->posix.base.ops = &uring_ops;
    *out = &u->posix.base;
    return 0;

close_eventfd:
    close(u->eventfd);
close_dir:
    rguard__posix_fini(&u->posix);
free_disk:
    free(u);
    return rc;
}
