/* SPDX-License-Identifier: Apache-2.0 */
/* The io_uring disk: a durable write is one SQE with RWF_DSYNC, never a write linked to an fsync
 * (a short write would break the chain, or worse, be made up for after the sync). Everything else
 * is rare and synchronous.
 *
 * The ring's own descriptor is what an event loop polls: it is readable while completions wait, so
 * there is no counter to reset. No SINGLE_ISSUER and no DEFER_TASKRUN: neither gained anything
 * measurable, both bind the ring to the thread that made it. */
#include "disk_internal.h"

#include <errno.h>
#include <liburing.h>
#include <stdbool.h>
#include <stdlib.h>

struct disk_uring
{
    struct disk_posix posix; /* first */
    struct io_uring ring;
    bool pending;
    size_t len;
    rguard_disk_write_cb cb;
    void *user;
};

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
    int n;
    do {
        n = io_uring_submit(&u->ring);
    } while (n == -EINTR || n == -EAGAIN);
    if (n != 1) {
        return n < 0 ? n : -EIO;
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

static int uring_process(struct rguard_disk *d, int wait)
{
    struct disk_uring *u = (struct disk_uring *)d;
    struct io_uring_cqe *cqe;
    if (!u->pending) {
        return 0;
    }
    int rc;
    do {
        rc = wait ? io_uring_wait_cqe(&u->ring, &cqe) : io_uring_peek_cqe(&u->ring, &cqe);
    } while (rc == -EINTR);
    if (rc == -EAGAIN && !wait) {
        return 0;
    }
    if (rc != 0) {
        return rc;
    }
    int res = cqe->res;
    io_uring_cqe_seen(&u->ring, cqe);
    u->pending = false;
    u->cb(u->user, res < 0 ? res : (size_t)res == u->len ? 0 : -EIO);
    return 1;
}

static void uring_destroy(struct rguard_disk *d)
{
    struct disk_uring *u = (struct disk_uring *)d;
    struct io_uring_cqe *cqe;
    while (u->pending && io_uring_wait_cqe(&u->ring, &cqe) == -EINTR) {
        /* the buffer belongs to the kernel until the write is over */
    }
    io_uring_queue_exit(&u->ring);
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
    unsigned flags = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CLAMP;
    rc = io_uring_queue_init(8, &u->ring, flags);
    if (rc == -EINVAL) {
        rc = io_uring_queue_init(8, &u->ring, 0); /* before Linux 5.19 */
    }
    if (rc != 0) {
        goto close_dir;
    }
    u->posix.base.ops = &uring_ops;
    *out = &u->posix.base;
    return 0;

close_dir:
    rguard__posix_fini(&u->posix);
free_disk:
    free(u);
    return rc;
}
