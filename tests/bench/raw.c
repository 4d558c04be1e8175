/* SPDX-License-Identifier: Apache-2.0 */
/* What the device does when nobody is in between: the anchors of the append and scan rows. Same
 * file system, same alignment, one write or read at a time, into a file all of whose blocks have
 * been written, since a durable write into merely allocated ones costs twice as much. */
#include "bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK     4096u
#define RAW_BYTES (32u * 1024u * 1024u)
#define CHUNK     BENCH_SCAN_CHUNK

/* O_DIRECT where the file system has it. */
static int open_direct(const char *path, int flags)
{
    int fd = open(path, flags | O_DIRECT | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EINVAL) {
        fd = open(path, flags | O_CLOEXEC, 0600);
    }
    return fd;
}

static int fill(const char *path)
{
    uint8_t *zeros = aligned_alloc(BLOCK, CHUNK);
    int fd = open_direct(path, O_RDWR | O_CREAT | O_TRUNC);
    int rc = zeros == NULL ? -ENOMEM : fd < 0 ? -errno : 0;
    if (rc == 0) {
        memset(zeros, 0, CHUNK);
    }
    for (uint64_t at = 0; rc == 0 && at < RAW_BYTES; at += CHUNK) {
        rc = pwrite(fd, zeros, CHUNK, (off_t)at) == (ssize_t)CHUNK ? 0 : -errno;
    }
    if (rc == 0 && fsync(fd) != 0) {
        rc = -errno;
    }
    if (fd >= 0) {
        close(fd);
    }
    free(zeros);
    return rc;
}

int bench_raw_open(struct bench *b, struct bench_raw *raw, size_t len)
{
    char path[4096];
    *raw = (struct bench_raw){.fd = -1, .len = len, .bytes = RAW_BYTES / len * len};
    (void)snprintf(path, sizeof path, "%s/raw", b->dir);
    int rc = fill(path);
    if (rc == 0) {
        raw->fd = open_direct(path, O_RDWR | O_DSYNC);
        rc = raw->fd < 0 ? -errno : 0;
    }
    if (rc == 0) {
        raw->buf = aligned_alloc(BLOCK, len);
        rc = raw->buf == NULL ? -ENOMEM : 0;
    }
    if (rc != 0) {
        bench_raw_close(raw);
        return bench_failed(b, path, rc);
    }
    memset(raw->buf, 0x5a, len);
    return 0;
}

int bench_raw_write(struct bench_raw *raw)
{
    ssize_t n = pwrite(raw->fd, raw->buf, raw->len, (off_t)raw->at);
    raw->at = raw->at + 2 * raw->len > raw->bytes ? 0 : raw->at + raw->len;
    return n == (ssize_t)raw->len ? 0 : n < 0 ? -errno : -EIO;
}

void bench_raw_close(struct bench_raw *raw)
{
    if (raw->fd >= 0) {
        close(raw->fd);
    }
    free(raw->buf);
    raw->buf = NULL;
    raw->fd = -1;
}

static int64_t scan_file(int dirfd, const char *name, void *buf)
{
    int fd = openat(dirfd, name, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd < 0 && errno == EINVAL) {
        fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC);
        (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    }
    if (fd < 0) {
        return -errno;
    }
    int64_t total = 0;
    ssize_t n;
    while ((n = pread(fd, buf, CHUNK, (off_t)total)) > 0) {
        total += n;
    }
    total = n < 0 ? -errno : total;
    close(fd);
    return total;
}

int64_t bench_raw_scan(const char *dir, const char *suffix, void *buf)
{
    struct dirent **names = NULL;
    int n = scandir(dir, &names, NULL, alphasort);
    int dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int64_t total = n < 0 || dirfd < 0 ? -errno : 0;
    for (int i = 0; i < n; i++) {
        const char *dot = strrchr(names[i]->d_name, '.');
        if (total >= 0 && dot != NULL && strcmp(dot, suffix) == 0) {
            int64_t bytes = scan_file(dirfd, names[i]->d_name, buf);
            total = bytes < 0 ? bytes : total + bytes;
        }
        free(names[i]);
    }
    free(names);
    if (dirfd >= 0) {
        close(dirfd);
    }
    return total;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

void bench_remove_tree(const char *dir)
{
    (void)nftw(dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}
