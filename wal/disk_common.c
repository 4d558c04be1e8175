/* SPDX-License-Identifier: Apache-2.0 */
/* The POSIX half of a disk: files of one directory, opened with O_DIRECT where the file system has
 * it. Invariant: a durable write is one pwritev2(RWF_DSYNC); whatever comes back short is -EIO and
 * is not tried again, because after a failed sync nobody knows what the device holds. */
#include "disk_internal.h"

#include <raftguard/crc32c.h>
#include <raftguard/error.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCK      4096u
#define ZERO_BYTES (256u * 1024u)
#define ZERO_IOV   4

static _Alignas(BLOCK) unsigned char zeros[ZERO_BYTES]; /* never written: untouched .bss */

int rguard__disk_open(const char *dir, const char *backend, struct rguard_disk **out)
{
    if (backend == NULL) {
        int rc = rguard__disk_uring_open(dir, out);
        bool refused = rc == -EPERM || rc == -ENOSYS || rc == -ENOMEM;
        return refused ? rguard__disk_thread_open(dir, out) : rc;
    }
    if (strcmp(backend, "uring") == 0) {
        return rguard__disk_uring_open(dir, out);
    }
    if (strcmp(backend, "thread") == 0) {
        return rguard__disk_thread_open(dir, out);
    }
    return strcmp(backend, "sync") == 0 ? rguard__disk_sync_open(dir, out) : -EINVAL;
}

int rguard__posix_init(struct disk_posix *d, const char *dir)
{
    d->dirfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return d->dirfd < 0 ? -errno : 0;
}

void rguard__posix_fini(struct disk_posix *d)
{
    close(d->dirfd);
}

static int dir_of(struct rguard_disk *d)
{
    return ((struct disk_posix *)d)->dirfd;
}

int rguard__posix_open(struct rguard_disk *d, const char *name, int flags, struct rguard_file **out)
{
    struct rguard_file *f = malloc(sizeof *f);
    if (f == NULL) {
        return -ENOMEM;
    }
    /* Not a FIFO that blocks, nor a terminal that becomes ours. */
    flags |= O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
    f->fd = openat(dir_of(d), name, flags | O_DIRECT, 0600);
    if (f->fd < 0 && errno == EINVAL) {
        /* No O_DIRECT here (tmpfs of older kernels). O_EXCL may have made the file already. */
        f->fd = openat(dir_of(d), name, flags & ~O_EXCL, 0600);
    }
    struct stat st;
    int rc = 0;
    if (f->fd < 0 || fstat(f->fd, &st) != 0) {
        rc = -errno;
    } else if (!S_ISREG(st.st_mode)) {
        rc = S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
    }
    if (rc != 0) {
        if (f->fd >= 0) {
            close(f->fd);
        }
        free(f);
        return rc;
    }
    *out = f;
    return 0;
}

void rguard__posix_close(struct rguard_disk *d, struct rguard_file *f)
{
    (void)d;
    if (f != NULL) {
        close(f->fd);
        free(f);
    }
}

int64_t rguard__posix_size(struct rguard_disk *d, struct rguard_file *f)
{
    (void)d;
    struct stat st;
    return fstat(f->fd, &st) != 0 ? -errno : (int64_t)st.st_size;
}

int64_t rguard__posix_read(struct rguard_disk *d, struct rguard_file *f, void *buf, size_t len,
                           uint64_t offset)
{
    (void)d;
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(f->fd, (char *)buf + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return -errno;
        }
        done += (size_t)n;
        if (n == 0 || done % BLOCK != 0) {
            break; /* end of file; an unaligned rest cannot be followed by anything */
        }
    }
    return (int64_t)done;
}

int rguard__posix_write(struct rguard_disk *d, struct rguard_file *f, const void *buf, size_t len,
                        uint64_t offset)
{
    (void)d;
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
    ssize_t n;
    do {
        n = pwritev2(f->fd, &iov, 1, (off_t)offset, RWF_DSYNC);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return -errno;
    }
    return (size_t)n == len ? 0 : -EIO;
}

int rguard__posix_sync(struct rguard_disk *d, struct rguard_file *f)
{
    (void)d;
    /* A process that is killed leaves its direct writes in flight, and fsync does not wait for
     * them. Allocating what is allocated does (inode_dio_wait) and changes nothing; where it is not
     * supported there is no such write either. */
    (void)fallocate(f->fd, FALLOC_FL_KEEP_SIZE, 0, BLOCK);
    return fsync(f->fd) != 0 ? -errno : 0;
}

int rguard__posix_rename(struct rguard_disk *d, const char *from, const char *to)
{
    return renameat(dir_of(d), from, dir_of(d), to) != 0 ? -errno : 0;
}

int rguard__posix_unlink(struct rguard_disk *d, const char *name)
{
    return unlinkat(dir_of(d), name, 0) != 0 ? -errno : 0;
}

int rguard__posix_sync_dir(struct rguard_disk *d)
{
    return fsync(dir_of(d)) != 0 ? -errno : 0;
}

int rguard__posix_list(struct rguard_disk *d, int (*fn)(void *user, const char *name), void *user)
{
    int fd = openat(dir_of(d), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (dir == NULL) {
        int err = -errno;
        if (fd >= 0) {
            close(fd);
        }
        return err;
    }
    int rc = 0;
    while (rc == 0) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (entry == NULL) {
            rc = -errno;
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            rc = fn(user, entry->d_name);
        }
    }
    closedir(dir);
    return rc;
}

int rguard__posix_zero(struct rguard_disk *d, struct rguard_file *f, uint64_t len, uint64_t offset)
{
    (void)d;
    while (len > 0) {
        struct iovec iov[ZERO_IOV];
        uint64_t chunk = 0;
        int n = 0;
        for (; n < ZERO_IOV && chunk < len; n++) {
            iov[n].iov_base = zeros;
            iov[n].iov_len = len - chunk < ZERO_BYTES ? (size_t)(len - chunk) : ZERO_BYTES;
            chunk += iov[n].iov_len;
        }
        ssize_t done = pwritev(f->fd, iov, n, (off_t)offset);
        if (done < 0 && errno == EINTR) {
            continue;
        }
        if (done < 0) {
            return -errno;
        }
        if ((uint64_t)done != chunk) {
            return -ENOSPC; /* a full disk or a file size limit shows as a short write first */
        }
        len -= chunk;
        offset += chunk;
    }
    return 0;
}

/* ---- whole small files ----
 *
 *     +-- contents, any length --+-- zeros --+-- trailer: magic, CRC, length --+   whole blocks
 *
 * They go through the same operations as everything else, so that a simulated or failing disk sees
 * them too; those take whole blocks, therefore the trailer. */

#define FILE_MAGIC 0x454c494652574752ULL /* "RGWRFILE" */
#define BOUNCE     (1024u * 1024u)

struct trailer
{
    uint64_t magic;
    uint32_t crc; /* of the contents */
    uint32_t reserved;
    uint64_t length;
};
_Static_assert(sizeof(struct trailer) == 24, "trailer");

struct gather
{
    const struct iovec *iov;
    int n;
    size_t at; /* bytes of *iov already taken */
};

static size_t gather(struct gather *g, uint8_t *bounce)
{
    size_t fill = 0;
    while (g->n > 0 && fill < BOUNCE) {
        size_t left = g->iov->iov_len - g->at;
        size_t take = left < BOUNCE - fill ? left : BOUNCE - fill;
        if (take > 0) {
            memcpy(bounce + fill, (const char *)g->iov->iov_base + g->at, take);
        }
        fill += take;
        g->at += take;
        if (g->at == g->iov->iov_len) {
            g->iov++;
            g->n--;
            g->at = 0;
        }
    }
    return fill;
}

static int write_contents(struct rguard_disk *d, struct rguard_file *f, const struct iovec *iov,
                          int n)
{
    /* One block more than is gathered at a time: the trailer may need it. */
    uint8_t *bounce = aligned_alloc(BLOCK, BOUNCE + BLOCK);
    if (bounce == NULL) {
        return -ENOMEM;
    }
    struct gather g = {iov, n, 0};
    struct trailer t = {FILE_MAGIC, 0, 0, 0};
    int rc = 0;
    size_t fill;
    do {
        fill = gather(&g, bounce);
        uint64_t offset = t.length;
        size_t bytes = fill;
        t.crc = rguard_crc32c(t.crc, bounce, fill);
        t.length += fill;
        if (fill < BOUNCE) {
            bytes = (fill + sizeof t + BLOCK - 1) / BLOCK * BLOCK;
            memset(bounce + fill, 0, bytes - fill);
            memcpy(bounce + bytes - sizeof t, &t, sizeof t);
        }
        rc = d->ops->write(d, f, bounce, bytes, offset);
    } while (rc == 0 && fill == BOUNCE);
    free(bounce);
    return rc;
}

int rguard__disk_write_file(struct rguard_disk *d, const char *name, const struct iovec *iov, int n)
{
    char tmp[256];
    if (snprintf(tmp, sizeof tmp, "tmp-%s", name) >= (int)sizeof tmp) {
        return -ENAMETOOLONG;
    }
    struct rguard_file *f;
    int rc = d->ops->unlink(d, tmp);
    if (rc != 0 && rc != -ENOENT) {
        return rc;
    }
    rc = d->ops->open(d, tmp, O_RDWR | O_CREAT | O_EXCL, &f);
    if (rc != 0) {
        return rc;
    }
    rc = write_contents(d, f, iov, n);
    if (rc == 0) {
        rc = d->ops->sync(d, f);
    }
    d->ops->close(d, f);
    if (rc == 0) {
        rc = d->ops->rename(d, tmp, name);
    }
    if (rc == 0) {
        return d->ops->sync_dir(d);
    }
    (void)d->ops->unlink(d, tmp);
    return rc;
}

/* Reads @size bytes (whole blocks) and checks the trailer at their end. */
static int read_contents(struct rguard_disk *d, struct rguard_file *f, size_t size, size_t max,
                         void **buf, size_t *len)
{
    uint8_t *all = aligned_alloc(BLOCK, size);
    if (all == NULL) {
        return -ENOMEM;
    }
    struct trailer t = {0};
    int64_t got = d->ops->read(d, f, all, size, 0);
    int rc = got < 0 ? (int)got : 0;
    if (rc == 0 && (size_t)got == size) {
        memcpy(&t, all + size - sizeof t, sizeof t);
        bool sane = t.magic == FILE_MAGIC && t.length <= size - sizeof t;
        rc = !sane || rguard_crc32c(0, all, t.length) != t.crc ? RGUARD_ECHECKSUM : 0;
    } else if (rc == 0) {
        rc = RGUARD_ECHECKSUM;
    }
    if (rc == 0 && t.length > max) {
        rc = -EFBIG;
    }
    if (rc != 0) {
        free(all);
        return rc;
    }
    *buf = all;
    *len = t.length;
    return 0;
}

int rguard__disk_read_file(struct rguard_disk *d, const char *name, size_t max, void **buf,
                           size_t *len)
{
    struct rguard_file *f;
    int rc = d->ops->open(d, name, O_RDONLY, &f);
    if (rc != 0) {
        return rc;
    }
    int64_t size = d->ops->size(d, f);
    if (size < 0) {
        rc = (int)size;
    } else if (size == 0 || size % BLOCK != 0) {
        rc = RGUARD_ECHECKSUM;
    } else if ((uint64_t)size > (uint64_t)max + 2 * BLOCK) {
        rc = -EFBIG;
    } else {
        rc = read_contents(d, f, (size_t)size, max, buf, len);
    }
    d->ops->close(d, f);
    return rc;
}
