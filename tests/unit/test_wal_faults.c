/* SPDX-License-Identifier: Apache-2.0 */
/* What the log does while the disk fails, the process is killed, or the kernel says no. */
#include "test_wal_util.h"

#include "wal_internal.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <raftguard/failpoint.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* ---- a disk that fails on purpose ---- */

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
    struct rguard_file *meta;
    rguard_disk_write_cb cb;
    void *user;
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
    if (x->fault == FAIL_READ && offset <= 12288 && offset + len > 12288) {
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
    x->cb(x->user, status);
}

static int fault_write_start(struct rguard_disk *d, struct rguard_file *f, const void *buf,
                             size_t len, uint64_t offset, rguard_disk_write_cb cb, void *user)
{
    struct fault_disk *x = fault_of(d);
    x->cb = cb;
    x->user = user;
    if (x->fault == SHORT_WRITE && len > 4096) {
        len -= 4096;
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

static int fault_process(struct rguard_disk *d, int wait)
{
    return fault_of(d)->inner->ops->process(fault_of(d)->inner, wait);
}

static int fault_zero(struct rguard_disk *d, struct rguard_file *f, uint64_t len, uint64_t offset)
{
    struct fault_disk *x = fault_of(d);
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
};

static struct fault_disk *fault_disk(const struct fixture *f)
{
    struct fault_disk *x = calloc(1, sizeof *x);
    assert_int_equal(rguard__disk_open(f->dir, f->backend, &x->inner), 0);
    x->base.ops = &fault_ops;
    return x;
}

static rguard_wal *open_on(struct fault_disk *x, const struct rguard_wal_options *o)
{
    rguard_wal *w = NULL;
    struct rguard_wal_report r = {.size = sizeof r};
    int rc = rguard__wal_open_disk(&x->base, o, &w, &r);
    if (rc != 0) {
        fail_msg("open: %s: %s", rguard_err_name(rc), r.message);
    }
    return w;
}

/* ---- poison ---- */

/* The first append fails with @err, the ones behind it with EPOISONED; so does everything later. */
static void check_poisoned(rguard_wal *w, struct outcome *first, struct outcome *second, int err)
{
    uint8_t byte = 1;
    struct rguard_wal_record r = {.index = 13, .term = 1, .len = 1, .data = &byte};
    assert_int_equal(first->calls, 1);
    assert_int_equal(first->status, err);
    assert_int_equal(second->calls, 1);
    assert_int_equal(second->status, RGUARD_EPOISONED);
    assert_int_equal(rguard_wal_poisoned(w), err);
    assert_int_equal(rguard_wal_append(w, &r, 1, NULL, NULL), RGUARD_EPOISONED);
    assert_int_equal(rguard_wal_truncate_suffix(w, 2), RGUARD_EPOISONED);
    assert_int_equal(rguard_wal_meta_set(w, 9, 1), RGUARD_EPOISONED);
    assert_int_equal(rguard_wal_flush(w), RGUARD_EPOISONED);
    assert_int_equal(rguard_wal_process(w), RGUARD_EPOISONED);
    assert_int_equal(rguard_wal_timeout_ms(w), -1);
    check_record(w, 1, 1, 50); /* what was durable can still be read */
}

static void poison(struct fixture *f, enum fault fault, const char *site)
{
    struct rguard_wal_options o = small(f);
    struct outcome first = {0, 0}, second = {0, 0};
    uint8_t *data[2];
    struct fault_disk *x = fault_disk(f);
    rguard_wal *w = open_on(x, &o);
    append_range(w, 1, 10, 1, 50, 2);
    x->fault = fault;
    if (site != NULL) {
        assert_int_equal(rguard_fp_set(site, "1*errno(EIO)", NULL), 0);
    }
    assert_int_equal(queue_record(w, 11, 1, 900000, &data[0], &first), 0);
    assert_int_equal(queue_record(w, 12, 1, 900000, &data[1], &second), 0); /* a second batch */
    for (int i = 0; i < 2000 && second.calls == 0; i++) {
        (void)rguard_wal_process(w);
        poll(NULL, 0, 1);
    }
    check_poisoned(w, &first, &second, -EIO);
    rguard_fp_off_all();
    assert_int_not_equal(rguard_wal_close(w), 0);
    free(data[0]);
    free(data[1]);
    /* What the disk has is found out by reading it again. The write may have arrived. */
    struct rguard_wal_report r = {.size = sizeof r};
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), 0);
    assert_in_range(rguard_wal_last_index(w), 10, 11);
    check_range(w, 1, 10, 1, 50);
    assert_int_equal(rguard_wal_close(w), 0);
}

static void a_failed_write_poisons(void **state)
{
    poison(*state, FAIL_WRITE, NULL);
}

static void a_short_write_poisons(void **state)
{
    poison(*state, SHORT_WRITE, NULL);
}

static void failpoint_write(void **state)
{
    poison(*state, NO_FAULT, "wal/write");
}

static void failpoint_append(void **state)
{
    poison(*state, NO_FAULT, "wal/append");
}

static void metadata_failures(struct fixture *f, enum fault fault, const char *site)
{
    struct rguard_wal_options o = small(f);
    uint64_t term, vote;
    rguard_wal_close(must_open(f, &o));
    struct fault_disk *x = fault_disk(f);
    rguard_wal *w = open_on(x, &o);
    assert_int_equal(rguard_wal_meta_set(w, 2, 1), 0);
    x->fault = fault;
    if (site != NULL) {
        assert_int_equal(rguard_fp_set(site, "errno(ENOSPC)", NULL), 0);
    }
    assert_int_equal(rguard_wal_meta_set(w, 3, 2), site != NULL ? -ENOSPC : -EIO);
    rguard_wal_meta_get(w, &term, &vote);
    assert_true(term == 2 && vote == 1); /* nobody may act on what is not durable */
    assert_int_equal(rguard_wal_meta_set(w, 3, 2), RGUARD_EPOISONED);
    rguard_fp_off_all();
    assert_int_not_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    rguard_wal_meta_get(w, &term, &vote);
    assert_true(term == 2 && vote == 1);
    rguard_wal_close(w);
}

static void failed_metadata_poisons(void **state)
{
    metadata_failures(*state, FAIL_META, NULL);
    metadata_failures(*state, NO_FAULT, "wal/meta");
}

static void close_cancels_what_a_poisoned_log_still_holds(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct outcome out = {0, 0};
    uint8_t *data;
    rguard_wal *w = must_open(f, &o);
    assert_int_equal(queue_record(w, 1, 1, 10, &data, &out), 0);
    assert_int_equal(rguard_fp_set("wal/meta", "errno(EIO)", NULL), 0);
    assert_int_equal(rguard_wal_meta_set(w, 1, 1), -EIO);
    rguard_fp_off_all();
    assert_int_equal(out.calls, 0);
    assert_int_not_equal(rguard_wal_close(w), 0);
    assert_int_equal(out.calls, 1);
    assert_int_not_equal(out.status, 0);
    free(data);
}

/* ---- a device that cannot be read ---- */

static void a_read_error_is_never_the_end_of_the_log(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 10, 1, 3000, 1);
    rguard_wal_close(w);
    uint32_t before = dir_sum(f->dir);
    struct fault_disk *x = fault_disk(f);
    x->fault = FAIL_READ;
    w = NULL;
    assert_int_equal(rguard__wal_open_disk(&x->base, &o, &w, &r), -EIO);
    assert_int_equal(r.verdict, RGUARD_WAL_UNREADABLE);
    assert_int_equal(r.offset, 12288);
    assert_null(w);
    assert_int_equal(dir_sum(f->dir), before);
    x = fault_disk(f);
    w = open_on(x, &o);
    x->fault = FAIL_READ; /* later: the record says so, the others are served */
    struct rguard_wal_record rec;
    uint8_t buf[4096];
    assert_int_equal(rguard_wal_read(w, 3, &rec, buf, sizeof buf), -EIO);
    check_record(w, 4, 1, 3000);
    x->fault = NO_FAULT;
    flip(f->dir, FIRST_SEGMENT, 12288 + 1000, 0); /* rot while it is open */
    assert_int_equal(rguard_wal_read(w, 3, &rec, buf, sizeof buf), RGUARD_ECHECKSUM);
    assert_int_equal(rguard_wal_read(w, 4, &rec, buf, 100), -ENOSPC);
    assert_int_equal(rec.len, 3000);
    rguard_wal_close(w);
}

/* ---- a crash at every operation ---- */

struct model
{
    uint64_t last, base;
    uint64_t term_of[256];
    uint64_t term, vote;
    uint64_t acked; /* records up to here were acknowledged in their present form */
    uint64_t queued_to;
};

static void model_ack(void *user, int status)
{
    struct model *m = user;
    if (status == 0) {
        m->acked = m->queued_to;
    }
}

/* Appends a few records and waits. false: the disk has died. */
static bool step_append(rguard_wal *w, struct model *m, uint64_t term)
{
    uint8_t *data = NULL;
    uint64_t index = rguard_wal_last_index(w) + 1;
    uint32_t len = 100 + (uint32_t)(index * 977 % 9000);
    data = malloc(len);
    contents(index, term, data, len);
    struct rguard_wal_record r = {
        .index = index, .term = term, .type = 1, .len = len, .data = data};
    m->queued_to = index;
    m->term_of[index] = term;
    int rc = rguard_wal_append(w, &r, 1, model_ack, m);
    rc = rc == 0 ? rguard_wal_flush(w) : rc;
    free(data);
    return rc == 0;
}

/* A life of a log: everything that writes. Stops at the first failure; true: there was none. */
static bool workload(struct fixture *f, struct fault_disk *x, struct model *m)
{
    struct rguard_wal_options o = small(f);
    rguard_wal *w = NULL;
    o.segment_bytes = 64 * 1024;
    o.mark_idle_ms = 1;
    if (rguard__wal_open_disk(&x->base, &o, &w, NULL) != 0) {
        return false;
    }
    m->acked = rguard_wal_last_index(w);
    bool alive = true;
    for (uint64_t i = 0; alive && i < 24; i++) {
        alive = step_append(w, m, 1 + i / 8);
        if (alive && i % 8 == 3) {
            if (rguard_wal_meta_set(w, 10 + i, i) != 0) {
                alive = false;
            } else {
                m->term = 10 + i;
                m->vote = i;
            }
        }
        if (alive && i == 9) {
            m->acked = 6; /* what is truncated may be there or not until it is acknowledged */
            alive = rguard_wal_truncate_suffix(w, 7) == 0 && rguard_wal_flush(w) == 0;
        }
        if (alive && i == 15) {
            alive = rguard_wal_truncate_prefix(w, 4) == 0;
        }
        if (alive && i % 6 == 5) {
            poll(NULL, 0, 2);
            for (int k = 0; alive && k < 4; k++) { /* MARK and the spare */
                alive = rguard_wal_process(w) == 0 && rguard_wal_flush(w) == 0;
            }
        }
    }
    return rguard_wal_close(w) == 0 && alive;
}

static void check_crashed(struct fixture *f, const struct model *m, int op)
{
    struct rguard_wal_options o = small(f);
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = NULL;
    int rc = rguard_wal_open(f->dir, &o, &w, &r);
    if (rc != 0) {
        fail_msg("crash at operation %d: %s: %s", op, rguard_err_name(rc), r.message);
    }
    if (r.last_index < m->acked || r.term < m->term) {
        fail_msg("crash at operation %d: last %u, acknowledged %u; term %u, acknowledged %u", op,
                 (unsigned)r.last_index, (unsigned)m->acked, (unsigned)r.term, (unsigned)m->term);
    }
    uint64_t first = rguard_wal_first_index(w);
    for (uint64_t i = first; first != 0 && i <= m->acked; i++) {
        check_record(w, i, m->term_of[i], 100 + (uint32_t)(i * 977 % 9000));
    }
    append_range(w, rguard_wal_last_index(w) + 1, rguard_wal_last_index(w) + 3, 99, 5000, 1);
    assert_int_equal(rguard_wal_close(w), 0);
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), 0);
    assert_int_equal(r.verdict, RGUARD_WAL_CLEAN_END);
    rguard_wal_close(w);
}

/* No crash loses what was acknowledged, and none looks like damage. */
static void a_crash_at_every_operation(void **state)
{
    struct fixture *f = *state;
    int lives = 0;
    srand(99);
    for (int op = 1; lives < 3; op++) {
        assert_true(op < 1000);
        struct model m = {0};
        remove_tree(f->dir);
        assert_int_equal(mkdir(f->dir, 0700), 0);
        struct fault_disk *x = fault_disk(f);
        x->fault = CRASH;
        x->countdown = op;
        if (workload(f, x, &m)) {
            op = 0; /* it died after every operation once; again with other sectors */
            lives++;
        }
        check_crashed(f, &m, op);
    }
}

/* ---- SIGKILL ---- */

struct writer
{
    rguard_wal *w;
    int pipe;
    uint64_t next_ack;
};

static void writer_acked(void *user, int status)
{
    struct writer *x = user;
    if (status != 0 || write(x->pipe, &x->next_ack, sizeof x->next_ack) != sizeof x->next_ack) {
        _exit(3);
    }
    x->next_ack++;
}

static void writer_main(struct fixture *f, int fd)
{
    struct rguard_wal_options o = small(f);
    static uint8_t data[64][2048];
    struct writer x = {.pipe = fd};
    o.mark_idle_ms = 1;
    if (rguard_wal_open(f->dir, &o, &x.w, NULL) != 0) {
        _exit(2);
    }
    uint64_t index = rguard_wal_last_index(x.w) + 1;
    x.next_ack = index;
    for (;;) {
        while (index < x.next_ack + 1 + index % 60) { /* bursts of different size */
            struct rguard_wal_record r = {.index = index,
                                          .term = 1,
                                          .len = (uint32_t)(index * 131 % 2000),
                                          .data = data[index % 64]};
            contents(index, 1, data[index % 64], r.len);
            if (rguard_wal_append(x.w, &r, 1, writer_acked, &x) != 0) {
                _exit(4);
            }
            index++;
        }
        struct pollfd p = {.fd = rguard_wal_fd(x.w), .events = POLLIN};
        (void)poll(&p, 1, rguard_wal_timeout_ms(x.w));
        (void)rguard_wal_process(x.w);
    }
}

static void sigkill_loses_nothing_acknowledged(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    srand(7);
    for (int round = 0; round < 15; round++) {
        int fds[2];
        uint64_t acked = 0, n;
        assert_int_equal(pipe(fds), 0);
        pid_t pid = fork();
        if (pid == 0) {
            close(fds[0]);
            writer_main(f, fds[1]);
        }
        close(fds[1]);
        assert_int_equal(read(fds[0], &acked, sizeof acked), sizeof acked);
        struct timespec ts = {0, rand() % 20000 * 1000L};
        nanosleep(&ts, NULL);
        kill(pid, SIGKILL);
        int status;
        waitpid(pid, &status, 0);
        assert_true(WIFSIGNALED(status));
        while (read(fds[0], &n, sizeof n) == sizeof n) {
            acked = n;
        }
        close(fds[0]);
        struct rguard_wal_report r = {.size = sizeof r};
        rguard_wal *w = NULL;
        int rc = rguard_wal_open(f->dir, &o, &w, &r);
        if (rc != 0 || r.last_index < acked) {
            fail_msg("round %d: %s %s, last %u, acknowledged %u", round, rguard_err_name(rc),
                     r.message, (unsigned)r.last_index, (unsigned)acked);
        }
        for (uint64_t i = round == 14 || acked < 300 ? 1 : acked - 299; i <= r.last_index; i++) {
            check_record(w, i, 1, (uint32_t)(i * 131 % 2000));
        }
        rguard_wal_close(w);
    }
}

/* ---- what the system refuses ---- */

static int in_child(int (*fn)(struct fixture *f), struct fixture *f)
{
    pid_t pid = fork();
    if (pid == 0) {
        _exit(fn(f));
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static int refuse_io_uring(int err)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)err),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {sizeof code / sizeof code[0], code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0;
}

static int without_io_uring(struct fixture *f)
{
    static const int errors[] = {EPERM, ENOSYS, ENOMEM};
    for (int i = 0; i < 3; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            struct rguard_wal_options o = small(f);
            rguard_wal *w = NULL;
            o.backend = NULL;
            unsetenv("RGUARD_WAL_BACKEND");
            if (refuse_io_uring(errors[i])) {
                _exit(77);
            }
            if (rguard_wal_open(f->dir, &o, &w, NULL) != 0 ||
                strcmp(rguard_wal_backend(w), "thread") != 0) {
                _exit(1);
            }
            append_range(w, rguard_wal_last_index(w) + 1, rguard_wal_last_index(w) + 5, 1, 99, 1);
            if (rguard_wal_close(w) != 0) {
                _exit(2);
            }
            o.backend = "uring"; /* asked for by name: no fallback */
            _exit(rguard_wal_open(f->dir, &o, &w, NULL) == -errors[i] ? 0 : 3);
        }
        int status = -1;
        waitpid(pid, &status, 0);
        if (status != 0) {
            return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
        }
    }
    return 0;
}

static void falls_back_where_io_uring_is_refused(void **state)
{
    int rc = in_child(without_io_uring, *state);
    if (rc == 77) {
        skip();
    }
    assert_int_equal(rc, 0);
}

static int full_by_limit(struct fixture *f)
{
    struct rguard_wal_options o = small(f);
    struct rguard_wal_report r = {.size = sizeof r};
    struct rlimit limit = {300 * 1024, 300 * 1024};
    struct outcome out = {0, 0};
    uint8_t *data;
    rguard_wal *w = NULL;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    w = must_open(f, &o);
    append_range(w, 1, 20, 1, 1000, 1);
    assert_int_equal(queue_record(w, 21, 1, 500000, &data, &out), 0); /* needs a larger file */
    assert_int_equal(rguard_wal_flush(w), RGUARD_EPOISONED);
    if (out.calls != 1 || (out.status != -ENOSPC && out.status != -EFBIG)) {
        return 1;
    }
    (void)rguard_wal_close(w);
    w = must_open(f, &o); /* nothing was lost and nothing is in the way */
    check_range(w, 1, 20, 1, 1000);
    append_range(w, 21, 25, 1, 1000, 1);
    assert_int_equal(rguard_wal_close(w), 0);
    remove_tree(f->dir);
    mkdir(f->dir, 0700);
    limit.rlim_cur = 100 * 1024;
    setrlimit(RLIMIT_FSIZE, &limit);
    int rc = rguard_wal_open(f->dir, &o, &w, &r);
    free(data);
    return (rc == -ENOSPC || rc == -EFBIG) && strstr(r.message, "cannot create") != NULL ? 0 : 2;
}

static int full_tmpfs(struct fixture *f)
{
    struct rguard_wal_options o = small(f);
    struct outcome out = {0, 0};
    uint8_t *data;
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", f->dir, "tmpfs", 0, "size=700k") != 0) {
        return 77;
    }
    rguard_wal *w = must_open(f, &o);
    uint64_t last = 0;
    while (out.status == 0) {
        int rc = queue_record(w, last + 1, 1, 8000, &data, &out);
        (void)rguard_wal_flush(w);
        free(data);
        if (rc != 0 || last > 1000) {
            return 3;
        }
        last += out.status == 0;
    }
    if (out.status != -ENOSPC || rguard_wal_poisoned(w) != -ENOSPC) {
        return 4;
    }
    (void)rguard_wal_close(w);
    w = must_open(f, &o);
    assert_int_equal(rguard_wal_last_index(w), last);
    check_range(w, 1, last, 1, 8000);
    rguard_wal_close(w);
    umount(f->dir);
    return 0;
}

/* The kernel itself writes less than it was asked to. */
static int short_by_limit(struct fixture *f)
{
    struct rguard_wal_options o = small(f);
    struct rlimit limit = {16384, 16384};
    struct outcome out = {0, 0};
    uint8_t *data;
    signal(SIGXFSZ, SIG_IGN);
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 1, 1, 1000, 1);
    setrlimit(RLIMIT_FSIZE, &limit);
    assert_int_equal(queue_record(w, 2, 1, 20000, &data, &out), 0); /* 8192 to 32768 */
    assert_int_equal(rguard_wal_flush(w), RGUARD_EPOISONED);
    free(data);
    return out.calls == 1 && out.status == -EIO && rguard_wal_last_index(w) == 2 ? 0 : 1;
}

static void a_short_write_of_the_kernel_is_a_failure(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = NULL;
    assert_int_equal(in_child(short_by_limit, f), 0);
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), 0);
    assert_int_equal(r.verdict, RGUARD_WAL_TORN_TAIL);
    assert_int_equal(r.last_index, 1);
    rguard_wal_close(w);
}

static void a_full_disk_is_said_clearly(void **state)
{
    assert_int_equal(in_child(full_by_limit, *state), 0);
    int rc = in_child(full_tmpfs, *state);
    if (rc != 77) {
        assert_int_equal(rc, 0);
    }
}

static int as_nobody(struct fixture *f)
{
    struct rguard_wal_options o = small(f);
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = NULL;
    if (geteuid() == 0 && setuid(65534) != 0) {
        return 77;
    }
    int rc = rguard_wal_open(f->dir, &o, &w, &r);
    return rc == -EACCES && strstr(r.message, f->dir) != NULL ? 0 : 1;
}

static void a_directory_that_cannot_be_written(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(chmod(f->dir, 0555), 0);
    int rc = in_child(as_nobody, f);
    assert_int_equal(chmod(f->dir, 0700), 0);
    if (rc == 77) {
        skip();
    }
    assert_int_equal(rc, 0);
}

/* ---- whole files ---- */

static void whole_files(void **state)
{
    struct fixture *f = *state;
    static const size_t sizes[] = {0,    1,       4071,    4072,    4073,
                                   4096, 1048575, 1048576, 1048577, 3000001};
    struct rguard_disk *d;
    assert_int_equal(rguard__disk_open(f->dir, f->backend, &d), 0);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t n = sizes[i], len = 0;
        uint8_t *data = malloc(n + 1);
        void *back = NULL;
        contents(i, 1, data, n);
        struct iovec iov[3] = {{data, n / 3}, {data, 0}, {data + n / 3, n - n / 3}};
        assert_int_equal(rguard__disk_write_file(d, "snapshot-1", iov, 3), 0);
        assert_int_equal(rguard__disk_read_file(d, "snapshot-1", n, &back, &len), 0);
        assert_int_equal(len, n);
        assert_memory_equal(back, data, n);
        free(back);
        if (n > 0) {
            assert_int_equal(rguard__disk_read_file(d, "snapshot-1", n - 1, &back, &len), -EFBIG);
            flip(f->dir, "snapshot-1", n / 2, 3);
            assert_int_equal(rguard__disk_read_file(d, "snapshot-1", n, &back, &len),
                             RGUARD_ECHECKSUM);
        }
        free(data);
    }
    void *back;
    size_t len;
    assert_int_equal(rguard__disk_read_file(d, "snapshot-2", 1, &back, &len), -ENOENT);
    d->ops->destroy(d);
}

static int setup_in_memory(void **state)
{
    in_memory = true;
    int rc = setup(state);
    in_memory = false;
    return rc;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(a_failed_write_poisons),
        EACH(a_short_write_poisons),
        EACH(failpoint_write),
        EACH(failpoint_append),
        EACH(failed_metadata_poisons),
        EACH(close_cancels_what_a_poisoned_log_still_holds),
        EACH(a_read_error_is_never_the_end_of_the_log),
        EACH_WITH(a_crash_at_every_operation, setup_in_memory),
        EACH(sigkill_loses_nothing_acknowledged),
        EACH(falls_back_where_io_uring_is_refused),
        EACH(a_short_write_of_the_kernel_is_a_failure),
        EACH(a_full_disk_is_said_clearly),
        EACH(a_directory_that_cannot_be_written),
        EACH(whole_files),
    };
    return cmocka_run_group_tests_name("wal_faults", tests, NULL, NULL);
}
