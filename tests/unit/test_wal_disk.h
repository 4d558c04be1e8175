/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_TEST_WAL_DISK_H
#define RGUARD_TEST_WAL_DISK_H

/* A disk that fails on purpose, around a real one, for the groups test_wal_faults and
 * test_wal_factory. */
#include "test_wal_util.h"

#include "wal_internal.h"

#include <sys/wait.h>

enum fault { NO_FAULT, FAIL_WRITE, SHORT_WRITE, FAIL_META, FAIL_READ, CRASH };

/* Wraps a real disk. CRASH: the operation that brings countdown to 0 happens only in part (some of
 * its sectors), and nothing reaches the disk any more, as when the power fails. */
struct fault_disk
{
    struct rguard_disk base; /* first */
    struct rguard_disk *inner;
    enum fault fault;
    int countdown;
    bool dead;
    size_t missing;     /* SHORT_WRITE: bytes that do not arrive; 0: 4096 */
    uint64_t bad_block; /* FAIL_READ: its offset in any file; 0: 12288 */
    bool full;          /* zero() finds no space */
    bool hold;          /* background work is not begun */
    int zeros;          /* calls of zero() */
    uint8_t *mix;
    struct rguard_file *meta;
    rguard_disk_write_cb cb;
    void *user;
    int (*work)(void *user); /* background work; NULL: none */
    void (*done)(void *user, int status);
    void *work_user;
};

static struct fault_disk *fault_of(struct rguard_disk *d)
{
    return (struct fault_disk *)d;
}

/* true: this operation is the last one, or comes after it. */
static bool strikes(struct fault_disk *d)
{
    return d->fault == CRASH && (d->dead || --d->countdown <= 0);
}

static int fault_open(struct rguard_disk *d, const char *name, int flags, struct rguard_file **out)
{
    struct fault_disk *x = fault_of(d);
    bool creates = (flags & O_CREAT) != 0;
    if (creates && strikes(x)) {
        if (!x->dead && rand() % 2 == 0) {
            struct rguard_file *f;
            if (x->inner->ops->open(x->inner, name, flags, &f) == 0) {
                x->inner->ops->close(x->inner, f);
            }
        }
        x->dead = true;
        return -EIO;
    }
    int rc = x->inner->ops->open(x->inner, name, flags, out);
    if (rc == 0 && strcmp(name, "meta") == 0) {
        x->meta = *out;
    }
    return rc;
}

static void fault_close(struct rguard_disk *d, struct rguard_file *f)
{
    fault_of(d)->inner->ops->close(fault_of(d)->inner, f);
}

static int64_t fault_size(struct rguard_disk *d, struct rguard_file *f)
{
    return fault_of(d)->inner->ops->size(fault_of(d)->inner, f);
}

static int64_t fault_read(struct rguard_disk *d, struct rguard_file *f, void *buf, size_t len,
                          uint64_t offset)
{
    struct fault_disk *x = fault_of(d);
    uint64_t bad = x->bad_block != 0 ? x->bad_block : 12288;
    if (x->fault == FAIL_READ && offset <= bad && offset + len > bad) {
        return -EIO; /* one bad block */
    }
    return x->inner->ops->read(x->inner, f, buf, len, offset);
}

/* Some sectors of a write, as a power failure leaves them. */
static void write_in_part(struct fault_disk *x, struct rguard_file *f, const void *buf, size_t len,
                          uint64_t offset)
{
    uint8_t *mix = aligned_alloc(4096, len);
    assert_true(x->inner->ops->read(x->inner, f, mix, len, offset) >= 0);
    int mode = rand() % 4;
    for (size_t i = 0; i < len; i += 512) {
        bool arrives = mode == 0 || (mode == 1 && i < len / 2) || (mode == 2 && rand() % 2 == 0);
        if (arrives) {
            memcpy(mix + i, (const uint8_t *)buf + i, 512);
        }
    }
    assert_int_equal(x->inner->ops->write(x->inner, f, mix, len, offset), 0);
    free(mix);
}

static int fault_write(struct rguard_disk *d, struct rguard_file *f, const void *buf, size_t len,
                       uint64_t offset)
{
    struct fault_disk *x = fault_of(d);
    if (x->fault == FAIL_META && f == x->meta) {
        return -EIO;
    }
    if (strikes(x)) {
        if (!x->dead) {
            write_in_part(x, f, buf, len, offset);
        }
        x->dead = true;
        return -EIO;
    }
    return x->inner->ops->write(x->inner, f, buf, len, offset);
}

static void fault_written(void *user, int status)
{
    struct fault_disk *x = user;
    if (x->fault == FAIL_WRITE || x->fault == SHORT_WRITE || x->dead) {
        status = -EIO;
    }
    free(x->mix);
    x->mix = NULL;
    x->cb(x->user, status);
}

static int fault_write_start(struct rguard_disk *d, struct rguard_file *f, const void *buf,
                             size_t len, uint64_t offset, rguard_disk_write_cb cb, void *user)
{
    struct fault_disk *x = fault_of(d);
    x->cb = cb;
    x->user = user;
    if (x->fault == SHORT_WRITE) {
        size_t missing = x->missing != 0 ? x->missing : 4096;
        size_t arrives = missing < len ? len - missing : 0;
        x->mix = aligned_alloc(4096, len);
        assert_true(x->inner->ops->read(x->inner, f, x->mix, len, offset) >= 0);
        memcpy(x->mix, buf, arrives);
        buf = x->mix;
    }
    if (strikes(x)) {
        if (!x->dead) {
            write_in_part(x, f, buf, len, offset);
        }
        x->dead = true;
        return -EIO;
    }
    return x->inner->ops->write_start(x->inner, f, buf, len, offset, fault_written, x);
}

static int fault_sync(struct rguard_disk *d, struct rguard_file *f)
{
    struct fault_disk *x = fault_of(d);
    if (strikes(x)) {
        x->dead = true;
        return -EIO;
    }
    return x->inner->ops->sync(x->inner, f);
}

static int fault_rename(struct rguard_disk *d, const char *from, const char *to)
{
    struct fault_disk *x = fault_of(d);
    if (strikes(x) && (x->dead || rand() % 2 == 0)) {
        x->dead = true;
        return -EIO;
    }
    int rc = x->inner->ops->rename(x->inner, from, to);
    x->dead = x->fault == CRASH && x->countdown <= 0;
    return x->dead ? -EIO : rc;
}

static int fault_unlink(struct rguard_disk *d, const char *name)
{
    struct fault_disk *x = fault_of(d);
    if (strikes(x) && (x->dead || rand() % 2 == 0)) {
        x->dead = true;
        return -EIO;
    }
    int rc = x->inner->ops->unlink(x->inner, name);
    x->dead = x->fault == CRASH && x->countdown <= 0;
    return x->dead ? -EIO : rc;
}

static int fault_sync_dir(struct rguard_disk *d)
{
    struct fault_disk *x = fault_of(d);
    if (strikes(x)) {
        x->dead = true;
        return -EIO;
    }
    return x->inner->ops->sync_dir(x->inner);
}

static int fault_list(struct rguard_disk *d, int (*fn)(void *user, const char *name), void *user)
{
    return fault_of(d)->inner->ops->list(fault_of(d)->inner, fn, user);
}

static int fault_fd(struct rguard_disk *d)
{
    return fault_of(d)->inner->ops->fd(fault_of(d)->inner);
}

/* Runs on this thread, so that the operations have an order and can be counted. */
static int fault_background(struct rguard_disk *d, int (*fn)(void *user),
                            void (*done)(void *user, int status), void *user)
{
    struct fault_disk *x = fault_of(d);
    assert_null(x->work);
    x->work = fn;
    x->done = done;
    x->work_user = user;
    return 0;
}

static int fault_process(struct rguard_disk *d, int wait)
{
    struct fault_disk *x = fault_of(d);
    int (*work)(void *user) = x->hold ? NULL : x->work;
    int n = x->inner->ops->process(x->inner, wait && work == NULL);
    if (work != NULL) {
        x->work = NULL;
        x->done(x->work_user, work(x->work_user));
    }
    return n < 0 ? n : n + (work != NULL);
}

static int fault_zero(struct rguard_disk *d, struct rguard_file *f, uint64_t len, uint64_t offset)
{
    struct fault_disk *x = fault_of(d);
    x->zeros++;
    if (x->full) {
        return -ENOSPC;
    }
    if (strikes(x)) {
        if (!x->dead) {
            (void)x->inner->ops->zero(x->inner, f, len / 2 / 4096 * 4096, offset);
        }
        x->dead = true;
        return -EIO;
    }
    return x->inner->ops->zero(x->inner, f, len, offset);
}

static void fault_destroy(struct rguard_disk *d)
{
    fault_of(d)->inner->ops->destroy(fault_of(d)->inner);
    free(d);
}

static const struct rguard_disk_ops fault_ops = {
    .name = "fault",
    .open = fault_open,
    .close = fault_close,
    .size = fault_size,
    .read = fault_read,
    .write_start = fault_write_start,
    .write = fault_write,
    .sync = fault_sync,
    .rename = fault_rename,
    .unlink = fault_unlink,
    .sync_dir = fault_sync_dir,
    .list = fault_list,
    .fd = fault_fd,
    .process = fault_process,
    .destroy = fault_destroy,
    .zero = fault_zero,
    .background = fault_background,
};

UNUSED static struct fault_disk *fault_disk(const struct fixture *f)
{
    struct fault_disk *x = calloc(1, sizeof *x);
    assert_int_equal(rguard__disk_open(f->dir, f->backend, &x->inner), 0);
    x->base.ops = &fault_ops;
    return x;
}

UNUSED static rguard_wal *open_on(struct fault_disk *x, const struct rguard_wal_options *o)
{
    rguard_wal *w = NULL;
    struct rguard_wal_report r = {.size = sizeof r};
    int rc = rguard__wal_open_disk(&x->base, o, &w, &r);
    if (rc != 0) {
        fail_msg("open: %s: %s", rguard_err_name(rc), r.message);
    }
    return w;
}

UNUSED static int in_child(int (*fn)(struct fixture *f), struct fixture *f)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(fn(f));
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

#endif
