/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_TEST_WAL_UTIL_H
#define RGUARD_TEST_WAL_UTIL_H

/* What the groups test_wal*.c share: temporary directories, records whose contents follow from
 * their index and term, and logs that are written and read back in one call. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <raftguard/crc32c.h>
#include <raftguard/wal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define UNUSED __attribute__((unused))

#define FIRST_SEGMENT "00000000000000000001.wal"

struct fixture
{
    char dir[128];
    const char *backend; /* NULL: automatic */
};

UNUSED static void remove_tree(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        char path[512];
        (void)snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            unlink(path);
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    rmdir(dir);
}

/* Groups that open thousands of damaged copies set this: what they test is no matter of disks. */
UNUSED static bool in_memory;

UNUSED static void make_dir(char dir[128])
{
    const char *tmp = getenv("TMPDIR");
    if (in_memory && access("/dev/shm", W_OK) == 0) {
        tmp = "/dev/shm";
    }
    (void)snprintf(dir, 128, "%s/rguard-wal-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(dir));
}

UNUSED static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->backend = *state; /* from cmocka's initial state */
    make_dir(f->dir);
    *state = f;
    return 0;
}

UNUSED static int teardown(void **state)
{
    struct fixture *f = *state;
    remove_tree(f->dir);
    free(f);
    return 0;
}

UNUSED static struct rguard_wal_options small(const struct fixture *f)
{
    struct rguard_wal_options o = {
        .size = sizeof o, .node_id = 7, .segment_bytes = 256 * 1024, .backend = f->backend};
    return o;
}

UNUSED static rguard_wal *must_open(const struct fixture *f, const struct rguard_wal_options *o)
{
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = NULL;
    int rc = rguard_wal_open(f->dir, o, &w, &r);
    if (rc != 0) {
        fail_msg("open: %s: %s", rguard_err_name(rc), r.message);
    }
    return w;
}

/* Contents of record @index of @term: any length, no zero bytes in it. */
UNUSED static void contents(uint64_t index, uint64_t term, uint8_t *buf, size_t len)
{
    uint64_t x = index * 0x9e3779b97f4a7c15ULL + term;
    for (size_t i = 0; i < len; i++) {
        x = x * 6364136223846793005ULL + 1442695040888963407ULL;
        buf[i] = (uint8_t)(x >> 56) | 1u;
    }
}

struct outcome
{
    int calls;
    int status; /* of the last call */
};

UNUSED static void note(void *user, int status)
{
    struct outcome *o = user;
    o->calls++;
    o->status = status;
}

/* Queues one record; its bytes live in *data, which the caller keeps and frees. */
UNUSED static int queue_record(rguard_wal *w, uint64_t index, uint64_t term, uint32_t len,
                               uint8_t **data, struct outcome *o)
{
    *data = malloc(len + 1);
    contents(index, term, *data, len);
    struct rguard_wal_record r = {
        .index = index, .term = term, .type = 1, .len = len, .data = *data};
    return rguard_wal_append(w, &r, 1, o != NULL ? note : NULL, o);
}

/* Appends records @from..@to, @per_batch to a batch, and waits for each batch. */
UNUSED static void append_range(rguard_wal *w, uint64_t from, uint64_t to, uint64_t term,
                                uint32_t len, size_t per_batch)
{
    while (from <= to) {
        uint8_t *data[64];
        struct outcome o = {0, -1};
        size_t n = 0;
        for (; n < per_batch && n < 64 && from <= to; n++, from++) {
            assert_int_equal(queue_record(w, from, term, len, &data[n], &o), 0);
        }
        assert_int_equal(rguard_wal_flush(w), 0);
        assert_int_equal(o.calls, (int)n);
        assert_int_equal(o.status, 0);
        for (size_t i = 0; i < n; i++) {
            free(data[i]);
        }
    }
}

UNUSED static void check_record(rguard_wal *w, uint64_t index, uint64_t term, uint32_t len)
{
    struct rguard_wal_record r;
    uint8_t *want = malloc(len + 1);
    uint8_t *got = malloc(len + 1);
    contents(index, term, want, len);
    int rc = rguard_wal_read(w, index, &r, got, len);
    if (rc != 0) {
        fail_msg("read %llu: %s", (unsigned long long)index, rguard_err_name(rc));
    }
    assert_int_equal(r.index, index);
    assert_int_equal(r.term, term);
    assert_int_equal(r.len, len);
    assert_int_equal(r.crc, rguard_crc32c(0, want, len));
    assert_memory_equal(got, want, len);
    free(want);
    free(got);
}

UNUSED static void check_range(rguard_wal *w, uint64_t from, uint64_t to, uint64_t term,
                               uint32_t len)
{
    for (uint64_t i = from; i <= to; i++) {
        check_record(w, i, term, len);
    }
}

/* Leaves the directory as SIGKILL would: nothing in flight, no CLOSE. */
UNUSED static void copy_dir(const char *from, const char *to)
{
    DIR *d = opendir(from);
    struct dirent *entry;
    assert_non_null(d);
    while ((entry = readdir(d)) != NULL) {
        char src[512], dst[512];
        struct stat st;
        (void)snprintf(src, sizeof src, "%s/%s", from, entry->d_name);
        (void)snprintf(dst, sizeof dst, "%s/%s", to, entry->d_name);
        if (stat(src, &st) != 0 || !S_ISREG(st.st_mode)) {
            continue;
        }
        uint8_t *buf = malloc((size_t)st.st_size + 1);
        int in = open(src, O_RDONLY), out = open(dst, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        assert_int_equal(pread(in, buf, (size_t)st.st_size, 0), st.st_size);
        assert_int_equal(pwrite(out, buf, (size_t)st.st_size, 0), st.st_size);
        close(in);
        close(out);
        free(buf);
    }
    closedir(d);
}

/* One number for every byte of every file but `lock`. */
UNUSED static uint32_t dir_sum(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    uint32_t sum = 0;
    while ((entry = readdir(d)) != NULL) {
        char path[512];
        struct stat st;
        (void)snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (strcmp(entry->d_name, "lock") == 0 || stat(path, &st) != 0 || !S_ISREG(st.st_mode)) {
            continue;
        }
        uint8_t *buf = malloc((size_t)st.st_size + 1);
        int fd = open(path, O_RDONLY);
        assert_int_equal(pread(fd, buf, (size_t)st.st_size, 0), st.st_size);
        close(fd);
        sum += rguard_crc32c(rguard_crc32c(0, entry->d_name, strlen(entry->d_name)), buf,
                             (size_t)st.st_size);
        free(buf);
    }
    closedir(d);
    return sum;
}

UNUSED static void patch(const char *dir, const char *name, uint64_t offset, const void *data,
                         size_t len)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, len, (off_t)offset), len);
    close(fd);
}

UNUSED static void peek(const char *dir, const char *name, uint64_t offset, void *data, size_t len)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, data, len, (off_t)offset), len);
    close(fd);
}

UNUSED static void flip(const char *dir, const char *name, uint64_t offset, unsigned bit)
{
    uint8_t byte;
    peek(dir, name, offset, &byte, 1);
    byte ^= (uint8_t)(1u << bit);
    patch(dir, name, offset, &byte, 1);
}

/* Drives the log as an event loop does, until @o has @calls calls or nothing more is to be done. */
UNUSED static void loop(rguard_wal *w, const struct outcome *o, int calls)
{
    for (int turns = 0; turns < 20000 && o->calls < calls; turns++) {
        struct pollfd p = {.fd = rguard_wal_fd(w), .events = POLLIN};
        int timeout = rguard_wal_timeout_ms(w);
        assert_true(timeout >= -1 && timeout <= 1000);
        int rc = poll(&p, 1, timeout < 0 ? 2000 : timeout);
        assert_true(rc > 0 || timeout >= 0 || errno == EINTR); /* -1: only the fd wakes us */
        assert_int_equal(rguard_wal_process(w), 0);
    }
    assert_int_equal(o->calls, calls);
}

UNUSED static int count_segments(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    int n = 0;
    while ((entry = readdir(d)) != NULL) {
        n += strlen(entry->d_name) == 24;
    }
    closedir(d);
    return n;
}

/* Turns the event loop until there is nothing to do but to try again some time. */
UNUSED static void settle(rguard_wal *w)
{
    for (int turns = 0; turns < 20000; turns++) {
        struct pollfd p = {.fd = rguard_wal_fd(w), .events = POLLIN};
        int timeout = rguard_wal_timeout_ms(w);
        bool rest = timeout < 0 || timeout > 100;
        int n = poll(&p, 1, rest ? 30 : timeout); /* 30 ms: the helper has one piece more */
        if (n == 0 && rest) {
            return;
        }
        assert_int_equal(rguard_wal_process(w), 0);
    }
    fail_msg("the log does not come to rest");
}

/* A test on every back end. */
/* clang-format off */
#define EACH_WITH(test, init)                          \
    {#test " (uring)", test, init, teardown, "uring"}, \
    {#test " (thread)", test, init, teardown, "thread"}, \
    {#test " (sync)", test, init, teardown, "sync"}
/* clang-format on */
#define EACH(test) EACH_WITH(test, setup)

#endif
