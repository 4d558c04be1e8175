/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes of files, past every program that owns them. */
#include "compare.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

void contents(uint64_t index, uint8_t *buf)
{
    uint64_t x = index * 0x9e3779b97f4a7c15ULL;
    for (size_t i = 0; i < RECORD_SIZE; i++) {
        x = x * 6364136223846793005ULL + 1442695040888963407ULL;
        buf[i] = (uint8_t)(x >> 56);
    }
}

static int open_at(const char *dir, const char *name, int flags)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, flags | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

int file_read(const char *dir, const char *name, uint64_t offset, void *buf, size_t len)
{
    int fd = open_at(dir, name, O_RDONLY);
    if (fd < 0) {
        return fd;
    }
    ssize_t n = pread(fd, buf, len, (off_t)offset);
    (void)close(fd);
    return n == (ssize_t)len ? 0 : -EIO;
}

int file_write(const char *dir, const char *name, uint64_t offset, const void *buf, size_t len)
{
    int fd = open_at(dir, name, O_WRONLY);
    if (fd < 0) {
        return fd;
    }
    ssize_t n = pwrite(fd, buf, len, (off_t)offset);
    int rc = n == (ssize_t)len && fsync(fd) == 0 ? 0 : -EIO;
    (void)close(fd);
    return rc;
}

int file_flip(const char *dir, const char *name, uint64_t offset, unsigned bit)
{
    uint8_t byte;
    int rc = file_read(dir, name, offset, &byte, 1);
    byte ^= (uint8_t)(1u << bit);
    return rc != 0 ? rc : file_write(dir, name, offset, &byte, 1);
}

int file_cut(const char *dir, const char *name, uint64_t len)
{
    int fd = open_at(dir, name, O_WRONLY);
    if (fd < 0) {
        return fd;
    }
    int rc = ftruncate(fd, (off_t)len) == 0 && fsync(fd) == 0 ? 0 : -errno;
    (void)close(fd);
    return rc;
}
