/* SPDX-License-Identifier: Apache-2.0 */
/* What the log does while the disk fails, the process is killed, or the kernel says no. */
#include "test_wal_disk.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <raftguard/failpoint.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>

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

static void poison_missing(struct fixture *f, enum fault fault, size_t missing, const char *site)
{
    struct rguard_wal_options o = small(f);
    struct outcome first = {0, 0}, second = {0, 0};
    uint8_t *data[2];
    struct fault_disk *x = fault_disk(f);
    rguard_wal *w = open_on(x, &o);
    append_range(w, 1, 10, 1, 50, 2);
    x->fault = fault;
    x->missing = missing;
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

static void poison(struct fixture *f, enum fault fault, const char *site)
{
    poison_missing(f, fault, 0, site);
}

static void a_failed_sync_after_a_good_write_poisons(void **state)
{
    poison(*state, FAIL_WRITE, NULL);
}

static void a_failed_write_poisons(void **state)
{
    poison_missing(*state, SHORT_WRITE, SIZE_MAX, NULL); /* nothing arrives */
}

/* Every number of sectors of a batch of three blocks: never acknowledged, and a tear afterwards. */
static void a_write_that_is_short_by_any_number_of_sectors(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    o.segment_bytes = 64 * 1024;
    for (size_t missing = 512; missing <= 12288; missing += 512) {
        struct outcome out = {0, 0};
        struct rguard_wal_report r = {.size = sizeof r};
        uint8_t *data;
        remove_tree(f->dir);
        assert_int_equal(mkdir(f->dir, 0700), 0);
        struct fault_disk *x = fault_disk(f);
        rguard_wal *w = open_on(x, &o);
        append_range(w, 1, 2, 1, 50, 1);
        x->fault = SHORT_WRITE;
        x->missing = missing;
        assert_int_equal(queue_record(w, 3, 1, 11600, &data, &out), 0);
        assert_int_equal(rguard_wal_flush(w), RGUARD_EPOISONED);
        assert_int_equal(out.calls, 1);
        assert_int_equal(out.status, -EIO);
        assert_int_not_equal(rguard_wal_close(w), 0);
        free(data);
        assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), 0);
        assert_int_equal(r.verdict, missing < 12288 ? RGUARD_WAL_TORN_TAIL : RGUARD_WAL_CLEAN_END);
        assert_int_equal(r.last_index, 2);
        append_range(w, 3, 4, 2, 50, 1);
        check_range(w, 1, 2, 1, 50);
        assert_int_equal(rguard_wal_close(w), 0);
    }
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
    static const uint64_t bad[] = {4096, 12288, 40960}; /* first, middle, last batch */
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 10, 1, 3000, 1);
    rguard_wal_close(w);
    uint32_t before = dir_sum(f->dir);
    for (size_t i = 0; i < 3; i++) {
        struct fault_disk *x = fault_disk(f);
        x->fault = FAIL_READ;
        x->bad_block = bad[i];
        w = NULL;
        r.offset = 0;
        assert_int_equal(rguard__wal_open_disk(&x->base, &o, &w, &r), -EIO);
        assert_int_equal(r.verdict, RGUARD_WAL_UNREADABLE);
        assert_int_equal(r.offset, bad[i]);
        assert_null(w);
        assert_int_equal(dir_sum(f->dir), before);
    }
    struct fault_disk *x = fault_disk(f);
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

/* What a failed write-back leaves in the page cache is no answer: reads go round it. */
static void reads_do_not_come_from_the_page_cache(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    char path[256];
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 10, 1, 3000, 1);
    check_range(w, 1, 10, 1, 3000);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o); /* recovery reads everything */
    check_range(w, 1, 10, 1, 3000);
    (void)snprintf(path, sizeof path, "%s/%s", f->dir, FIRST_SEGMENT);
    int direct = open(path, O_RDONLY | O_DIRECT);
    int fd = open(path, O_RDONLY);
    struct statfs fs;
    assert_int_equal(fstatfs(fd, &fs), 0);
    if (direct < 0 || fs.f_type == TMPFS_MAGIC) {
        skip();
    }
    unsigned char resident[64];
    void *map = mmap(NULL, o.segment_bytes, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    assert_int_equal(mincore(map, o.segment_bytes, resident), 0);
    for (size_t i = 0; i < o.segment_bytes / 4096; i++) {
        assert_int_equal(resident[i] & 1, 0);
    }
    munmap(map, o.segment_bytes);
    close(fd);
    close(direct);
    assert_int_equal(rguard_wal_close(w), 0);
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
    for (uint64_t i = 0; alive && i < 40; i++) {
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
        if (alive && (i == 15 || i == 30)) {
            alive = rguard_wal_truncate_prefix(w, i == 15 ? 4 : 22) == 0;
        }
        if (alive && i % 6 == 5) {
            poll(NULL, 0, 2);
            for (int k = 0; alive && k < 4; k++) { /* MARK, the spare, freed files */
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
        EACH(a_failed_sync_after_a_good_write_poisons),
        EACH_WITH(a_write_that_is_short_by_any_number_of_sectors, setup_in_memory),
        EACH(a_short_write_poisons),
        EACH(failpoint_write),
        EACH(failpoint_append),
        EACH(failed_metadata_poisons),
        EACH(close_cancels_what_a_poisoned_log_still_holds),
        EACH(a_read_error_is_never_the_end_of_the_log),
        EACH(reads_do_not_come_from_the_page_cache),
        EACH_WITH(a_crash_at_every_operation, setup_in_memory),
        EACH(sigkill_loses_nothing_acknowledged),
        EACH(falls_back_where_io_uring_is_refused),
        EACH(a_short_write_of_the_kernel_is_a_failure),
        EACH(a_directory_that_cannot_be_written),
        EACH(whole_files),
    };
    return cmocka_run_group_tests_name("wal_faults", tests, NULL, NULL);
}
