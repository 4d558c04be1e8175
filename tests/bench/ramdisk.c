/* SPDX-License-Identifier: Apache-2.0 */
/* A disk that is memory, for what the log costs apart from any device. Nothing fails here; the disk
 * that fails is the simulator's. */
#include "bench.h"

#include <raftguard/disk.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

struct rguard_file
{
    struct rguard_file *next;
    char name[64];
    uint8_t *data;
    size_t size, capacity;
};

struct ramdisk
{
    struct rguard_disk base; /* first */
    struct rguard_file **files;
    struct rguard_file *own;
    bool discard;
    rguard_disk_write_cb cb; /* not NULL: a write waits to be reported */
    void *user;
};

static struct ramdisk *of(struct rguard_disk *d)
{
    return (struct ramdisk *)d;
}

static struct rguard_file *find(struct ramdisk *d, const char *name)
{
    struct rguard_file *f = *d->files;
    while (f != NULL && strcmp(f->name, name) != 0) {
        f = f->next;
    }
    return f;
}

static int ram_open(struct rguard_disk *d, const char *name, int flags, struct rguard_file **out)
{
    struct rguard_file *f = find(of(d), name);
    if (f == NULL && (flags & O_CREAT) == 0) {
        return -ENOENT;
    }
    if (f != NULL && (flags & O_EXCL) != 0) {
        return -EEXIST;
    }
    if (f == NULL) {
        f = calloc(1, sizeof *f);
        if (f == NULL || strlen(name) >= sizeof f->name) {
            free(f);
            return -ENOMEM;
        }
        memcpy(f->name, name, strlen(name) + 1);
        f->next = *of(d)->files;
        *of(d)->files = f;
    }
    *out = f;
    return 0;
}

static void ram_close(struct rguard_disk *d, struct rguard_file *f)
{
    (void)d;
    (void)f;
}

static int64_t ram_size(struct rguard_disk *d, struct rguard_file *f)
{
    (void)d;
    return (int64_t)f->size;
}

static int64_t ram_read(struct rguard_disk *d, struct rguard_file *f, void *buf, size_t len,
                        uint64_t offset)
{
    (void)d;
    size_t n = offset >= f->size                ? 0
               : f->size - (size_t)offset < len ? f->size - (size_t)offset
                                                : len;
    if (n > 0) {
        memcpy(buf, f->data + offset, n);
    }
    return (int64_t)n;
}

/* Room for @end bytes. */
static int extend(struct rguard_file *f, uint64_t end)
{
    if (end > f->capacity) {
        size_t capacity = 2 * f->capacity > end ? 2 * f->capacity : (size_t)end;
        uint8_t *data = realloc(f->data, capacity);
        if (data == NULL) {
            return -ENOMEM;
        }
        memset(data + f->capacity, 0, capacity - f->capacity);
        f->data = data;
        f->capacity = capacity;
    }
    f->size = f->size < end ? (size_t)end : f->size;
    return 0;
}

static int ram_write(struct rguard_disk *d, struct rguard_file *f, const void *buf, size_t len,
                     uint64_t offset)
{
    (void)d;
    int rc = extend(f, offset + len);
    if (rc == 0) {
        memcpy(f->data + offset, buf, len);
    }
    return rc;
}

static int ram_zero(struct rguard_disk *d, struct rguard_file *f, uint64_t len, uint64_t offset)
{
    if (of(d)->discard) {
        return 0;
    }
    int rc = extend(f, offset + len);
    if (rc == 0) {
        memset(f->data + offset, 0, (size_t)len);
    }
    return rc;
}

static int ram_write_start(struct rguard_disk *d, struct rguard_file *f, const void *buf,
                           size_t len, uint64_t offset, rguard_disk_write_cb cb, void *user)
{
    int rc = of(d)->discard ? 0 : ram_write(d, f, buf, len, offset);
    if (rc == 0) {
        of(d)->cb = cb;
        of(d)->user = user;
    }
    return rc;
}

static int ram_process(struct rguard_disk *d, int wait)
{
    (void)wait;
    rguard_disk_write_cb cb = of(d)->cb;
    if (cb == NULL) {
        return 0;
    }
    of(d)->cb = NULL;
    cb(of(d)->user, 0);
    return 1;
}

static int ram_sync(struct rguard_disk *d, struct rguard_file *f)
{
    (void)d;
    (void)f;
    return 0;
}

static int ram_rename(struct rguard_disk *d, const char *from, const char *to)
{
    struct rguard_file *f = find(of(d), from);
    if (f == NULL || strlen(to) >= sizeof f->name) {
        return -ENOENT;
    }
    memcpy(f->name, to, strlen(to) + 1);
    return 0;
}

static int ram_unlink(struct rguard_disk *d, const char *name)
{
    for (struct rguard_file **at = of(d)->files; *at != NULL; at = &(*at)->next) {
        struct rguard_file *f = *at;
        if (strcmp(f->name, name) == 0) {
            *at = f->next;
            free(f->data);
            free(f);
            return 0;
        }
    }
    return -ENOENT;
}

static int ram_sync_dir(struct rguard_disk *d)
{
    (void)d;
    return 0;
}

static int ram_list(struct rguard_disk *d, int (*fn)(void *user, const char *name), void *user)
{
    int rc = 0;
    for (struct rguard_file *f = *of(d)->files; f != NULL && rc == 0; f = f->next) {
        rc = fn(user, f->name);
    }
    return rc;
}

static int ram_fd(struct rguard_disk *d)
{
    (void)d;
    return -1;
}

/* The log's own end of the disk; the files stay until bench_ramdisk_free(). */
static void ram_destroy(struct rguard_disk *d)
{
    if (of(d)->files != &of(d)->own) {
        free(d);
    }
}

static const struct rguard_disk_ops ram_ops = {
    .name = "ram",
    .open = ram_open,
    .close = ram_close,
    .size = ram_size,
    .read = ram_read,
    .write_start = ram_write_start,
    .write = ram_write,
    .sync = ram_sync,
    .rename = ram_rename,
    .unlink = ram_unlink,
    .sync_dir = ram_sync_dir,
    .list = ram_list,
    .fd = ram_fd,
    .process = ram_process,
    .destroy = ram_destroy,
    .zero = ram_zero,
};

struct rguard_disk *bench_ramdisk_create(bool discard)
{
    struct ramdisk *d = calloc(1, sizeof *d);
    if (d == NULL) {
        return NULL;
    }
    d->base.ops = &ram_ops;
    d->files = &d->own;
    d->discard = discard;
    return &d->base;
}

struct rguard_disk *bench_ramdisk_alias(struct rguard_disk *disk)
{
    struct rguard_disk *d = bench_ramdisk_create(of(disk)->discard);
    if (d != NULL) {
        of(d)->files = of(disk)->files;
    }
    return d;
}

void bench_ramdisk_free(struct rguard_disk *disk)
{
    if (disk == NULL) {
        return;
    }
    while (of(disk)->own != NULL) {
        (void)ram_unlink(disk, of(disk)->own->name);
    }
    free(disk);
}

void bench_ramdisk_each(struct rguard_disk *disk, void (*fn)(void *, const uint8_t *, size_t),
                        void *user)
{
    for (struct rguard_file *f = *of(disk)->files; f != NULL; f = f->next) {
        if (strstr(f->name, ".wal") != NULL) {
            fn(user, f->data, f->size);
        }
    }
}
