/* SPDX-License-Identifier: Apache-2.0 */
/* The operations of a simulated disk. Each one that changes something: decide whether a planned
 * fault strikes, change what is visible and remember what was there, tell the watcher, make durable
 * what the operation promises, tell the watcher again.
 *
 * A write in flight and background work that are both due run in the order that the seed decides;
 * the work's own operations are operations like any other. */
#include "disk_sim_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static struct mount *mount_of(struct rguard_disk *d)
{
    return (struct mount *)d;
}

static struct inode *inode_of(struct rguard_file *f)
{
    return ((struct file *)(void *)f)->inode;
}

static bool dead(const struct mount *m)
{
    return m->epoch != m->disk->epoch;
}

static void tell(struct sim_disk *s, enum sim_op op, bool done, const char *file, int status)
{
    struct sim_event e = {op, done, file, 0, 0, NULL, status};
    sim__tell(s, &e);
}

/* ---- files ---- */

static int sim_open(struct rguard_disk *d, const char *name, int flags, struct rguard_file **out)
{
    struct mount *m = mount_of(d);
    struct sim_disk *s = m->disk;
    enum sim_fault_kind kind;
    struct entry *e = sim__find(&s->visible, name);
    if (dead(m)) {
        return -EIO;
    }
    if (e == NULL && (flags & O_CREAT) == 0) {
        return -ENOENT;
    }
    if (e != NULL && (flags & O_CREAT) != 0 && (flags & O_EXCL) != 0) {
        return -EEXIST;
    }
    if (strlen(name) >= SIM_NAME) {
        return -ENAMETOOLONG;
    }
    struct inode *in = e != NULL ? e->inode : NULL;
    if (in == NULL) {
        if (sim__strikes(s, SIM_CREATE, &kind)) {
            return kind == SIM_ENOSPC ? -ENOSPC : -EIO;
        }
        in = sim__grab(1, sizeof *in);
        in->id = ++s->next_inode;
        sim__change_names(s, "", name, in);
        tell(s, SIM_CREATE, true, name, 0);
    }
    struct file *f = sim__grab(1, sizeof *f);
    f->inode = sim__get(in);
    f->writable = (flags & O_ACCMODE) != O_RDONLY;
    *out = (struct rguard_file *)(void *)f;
    return 0;
}

static void sim_close(struct rguard_disk *d, struct rguard_file *f)
{
    if (f != NULL) {
        sim__put(mount_of(d)->disk, inode_of(f));
        free(f);
    }
}

static int64_t sim_size(struct rguard_disk *d, struct rguard_file *f)
{
    return dead(mount_of(d)) ? -EIO : (int64_t)inode_of(f)->size;
}

static int64_t sim_read(struct rguard_disk *d, struct rguard_file *f, void *buf, size_t len,
                        uint64_t offset)
{
    struct mount *m = mount_of(d);
    const struct inode *in = inode_of(f);
    enum sim_fault_kind kind;
    if (dead(m) || sim__strikes(m->disk, SIM_READ, &kind)) {
        return -EIO;
    }
    if (offset < in->bad_until && offset + len > in->bad_from) {
        return -EIO;
    }
    if (offset >= in->size) {
        return 0;
    }
    size_t n = in->size - offset < len ? (size_t)(in->size - offset) : len;
    memcpy(buf, in->data + offset, n);
    return (int64_t)n;
}

/* ---- writes ---- */

struct write
{
    struct inode *inode;
    struct pending *pending; /* NULL: nothing of it is on the disk */
    int status;              /* to report at the end */
};

/* Stores those of the first @limit sectors that chance/256 lets through. */
static void store(struct sim_disk *s, struct write *w, const void *buf, size_t len, uint64_t offset,
                  size_t limit, uint64_t chance)
{
    w->pending = sim__remember(s, w->inode, offset, len);
    for (size_t at = 0; at < len && at < limit * SIM_SECTOR; at += SIM_SECTOR) {
        if (sim_below(&s->random, 256) < chance) {
            memcpy(w->inode->data + offset + at, (const uint8_t *)buf + at, SIM_SECTOR);
        }
    }
}

/* The write lands, durably, somewhere else: any whole blocks of any file that are there already. */
static void misdirect(struct sim_disk *s, struct write *w, const void *buf, size_t len)
{
    struct inode *in = s->visible.v[sim_below(&s->random, s->visible.n)].inode;
    if (in->size < len) {
        return;
    }
    uint64_t blocks = (in->size - len) / 4096 + 1;
    uint64_t offset = sim_below(&s->random, blocks) * 4096;
    struct write elsewhere = {sim__get(in), NULL, 0};
    store(s, &elsewhere, buf, len, offset, SIZE_MAX / SIM_SECTOR, 256);
    sim__settle_write(in, elsewhere.pending);
    sim__put(s, in);
    w->pending = NULL;
}

static int write_begin(struct mount *m, struct rguard_file *f, const void *buf, size_t len,
                       uint64_t offset, struct write *w)
{
    struct sim_disk *s = m->disk;
    const size_t all = SIZE_MAX / SIM_SECTOR;
    enum sim_fault_kind kind;
    struct inode *in = inode_of(f);
    RGUARD_ASSERT(len > 0 && len % SIM_SECTOR == 0 && offset % SIM_SECTOR == 0);
    if (dead(m)) {
        return -EIO;
    }
    if (!((struct file *)(void *)f)->writable) {
        return -EBADF;
    }
    if (!sim__has_room(s, in, offset + len)) {
        return -ENOSPC;
    }
    *w = (struct write){sim__get(in), NULL, 0};
    if (!sim__strikes(s, SIM_WRITE, &kind)) {
        store(s, w, buf, len, offset, all, 256);
        if (offset < in->bad_until && offset + len > in->bad_from) {
            in->bad_until = 0; /* the device has replaced the sectors */
        }
    } else if (kind == SIM_EIO) {
        store(s, w, buf, len, offset, all, 128);
        w->status = -EIO;
    } else if (kind == SIM_SHORT) {
        store(s, w, buf, len, offset, sim_below(&s->random, len / SIM_SECTOR), 256);
        w->status = -EIO;
    } else if (kind == SIM_TORN) {
        store(s, w, buf, len, offset, all, 128);
    } else if (kind == SIM_MISDIRECTED) {
        misdirect(s, w, buf, len);
    } else if (kind == SIM_ENOSPC) {
        w->status = -ENOSPC;
    }
    if (w->pending != NULL) {
        w->pending->in_flight = true;
    }
    struct sim_event e = {SIM_WRITE, false, sim__name_of(s, in), offset, len, buf, 0};
    sim__tell(s, &e);
    return 0;
}

static int write_end(struct sim_disk *s, struct write *w, const void *buf, size_t len,
                     uint64_t offset)
{
    if (w->pending != NULL) {
        w->pending->in_flight = false;
        if (w->status == 0 && !RGUARD_TEST_OFF("no_sync")) {
            sim__settle_write(w->inode, w->pending);
        }
    }
    struct sim_event e = {SIM_WRITE, true, sim__name_of(s, w->inode), offset, len, buf, w->status};
    sim__tell(s, &e);
    sim__put(s, w->inode);
    return w->status;
}

static int sim_write(struct rguard_disk *d, struct rguard_file *f, const void *buf, size_t len,
                     uint64_t offset)
{
    struct mount *m = mount_of(d);
    struct write w;
    int rc = write_begin(m, f, buf, len, offset, &w);
    return rc != 0 ? rc : write_end(m->disk, &w, buf, len, offset);
}

static int sim_write_start(struct rguard_disk *d, struct rguard_file *f, const void *buf,
                           size_t len, uint64_t offset, rguard_disk_write_cb cb, void *user)
{
    struct mount *m = mount_of(d);
    struct write w;
    if (m->flying) {
        return -EBUSY;
    }
    int rc = write_begin(m, f, buf, len, offset, &w);
    if (rc != 0) {
        return rc;
    }
    m->flying = true;
    m->inode = w.inode;
    m->pending = w.pending;
    m->status = w.status;
    m->buf = buf;
    m->len = len;
    m->offset = offset;
    m->calls = m->disk->latency == 0
                   ? 0
                   : (unsigned)sim_below(&m->disk->random, (uint64_t)m->disk->latency + 1);
    m->cb = cb;
    m->user = user;
    return 0;
}

/* Zeros are neither durable nor sized before a sync. */
static int sim_zero(struct rguard_disk *d, struct rguard_file *f, uint64_t len, uint64_t offset)
{
    struct mount *m = mount_of(d);
    struct sim_disk *s = m->disk;
    struct inode *in = inode_of(f);
    enum sim_fault_kind kind;
    int rc = 0;
    RGUARD_ASSERT(len % SIM_SECTOR == 0 && offset % SIM_SECTOR == 0);
    if (dead(m)) {
        return -EIO;
    }
    if (!((struct file *)(void *)f)->writable) {
        return -EBADF;
    }
    if (len == 0) {
        return 0;
    }
    if (!sim__has_room(s, in, offset + len)) {
        return -ENOSPC;
    }
    if (sim__strikes(s, SIM_ZERO, &kind)) {
        rc = kind == SIM_EIO ? -EIO : kind == SIM_LOST ? 0 : -ENOSPC;
        len = kind == SIM_ENOSPC || kind == SIM_LOST
                  ? 0
                  : sim_below(&s->random, len / SIM_SECTOR) * SIM_SECTOR;
    }
    if (len > 0) {
        (void)sim__remember(s, in, offset, (size_t)len);
        memset(in->data + offset, 0, (size_t)len);
        if (offset < in->bad_until && offset + len > in->bad_from) {
            in->bad_until = 0;
        }
    }
    struct sim_event e = {SIM_ZERO, true, sim__name_of(s, in), offset, (size_t)len, NULL, rc};
    sim__tell(s, &e);
    return rc;
}

/* ---- making durable ---- */

static int sim_sync(struct rguard_disk *d, struct rguard_file *f)
{
    struct mount *m = mount_of(d);
    struct sim_disk *s = m->disk;
    struct inode *in = inode_of(f);
    enum sim_fault_kind kind;
    if (dead(m)) {
        return -EIO;
    }
    if (in->oldest == NULL && in->stable_size == in->size) {
        return sim__strikes(s, SIM_SYNC, &kind) && kind == SIM_EIO ? -EIO : 0;
    }
    tell(s, SIM_SYNC, false, sim__name_of(s, in), 0);
    int rc = 0;
    if (sim__strikes(s, SIM_SYNC, &kind)) {
        rc = kind == SIM_EIO ? -EIO : 0;
    } else if (!RGUARD_TEST_OFF("no_sync")) {
        sim__settle_inode(in);
    }
    tell(s, SIM_SYNC, true, sim__name_of(s, in), rc);
    return rc;
}

static int sim_sync_dir(struct rguard_disk *d)
{
    struct mount *m = mount_of(d);
    struct sim_disk *s = m->disk;
    enum sim_fault_kind kind;
    if (dead(m)) {
        return -EIO;
    }
    tell(s, SIM_SYNC_DIR, false, "", 0);
    int rc = 0;
    if (sim__strikes(s, SIM_SYNC_DIR, &kind)) {
        rc = kind == SIM_EIO ? -EIO : 0;
    } else if (!RGUARD_TEST_OFF("no_sync")) {
        sim__names_copy(s, &s->stable, &s->visible);
        sim__changes_clear(s);
    }
    tell(s, SIM_SYNC_DIR, true, "", rc);
    return rc;
}

/* ---- names ---- */

static int sim_rename(struct rguard_disk *d, const char *from, const char *to)
{
    struct mount *m = mount_of(d);
    struct sim_disk *s = m->disk;
    enum sim_fault_kind kind;
    if (dead(m)) {
        return -EIO;
    }
    const struct entry *e = sim__find(&s->visible, from);
    if (e == NULL) {
        return -ENOENT;
    }
    if (strlen(to) >= SIM_NAME) {
        return -ENAMETOOLONG;
    }
    if (sim__strikes(s, SIM_RENAME, &kind)) {
        return -EIO;
    }
    sim__change_names(s, from, to, e->inode);
    tell(s, SIM_RENAME, true, to, 0);
    return 0;
}

static int sim_unlink(struct rguard_disk *d, const char *name)
{
    struct mount *m = mount_of(d);
    struct sim_disk *s = m->disk;
    enum sim_fault_kind kind;
    if (dead(m)) {
        return -EIO;
    }
    if (sim__find(&s->visible, name) == NULL) {
        return -ENOENT;
    }
    if (sim__strikes(s, SIM_UNLINK, &kind)) {
        return -EIO;
    }
    sim__change_names(s, name, "", NULL);
    tell(s, SIM_UNLINK, true, name, 0);
    return 0;
}

static int sim_list(struct rguard_disk *d, int (*fn)(void *user, const char *name), void *user)
{
    struct mount *m = mount_of(d);
    if (dead(m)) {
        return -EIO;
    }
    const struct names *names = &m->disk->visible;
    int rc = 0;
    for (size_t i = 0; i < names->n && rc == 0; i++) {
        rc = fn(user, names->v[i].name);
    }
    return rc;
}

/* ---- completions ---- */

static int sim_fd(struct rguard_disk *d)
{
    (void)d;
    return -1;
}

/* The write is over; nobody is told yet. */
static int land(struct mount *m)
{
    struct write w = {m->inode, m->pending, m->status};
    m->flying = false;
    if (dead(m)) {
        sim__put(m->disk, m->inode); /* the crash has decided about it */
        return -EIO;
    }
    return write_end(m->disk, &w, m->buf, m->len, m->offset);
}

static int finish_write(struct mount *m, bool now)
{
    if (!m->flying || !now) {
        return 0;
    }
    int status = land(m);
    m->cb(m->user, status);
    return 1;
}

static int finish_work(struct mount *m, bool now)
{
    if (m->work == NULL || !now) {
        return 0;
    }
    int (*work)(void *user) = m->work;
    m->work = NULL;
    m->work_done(m->work_user, work(m->work_user));
    return 1;
}

static int sim_process(struct rguard_disk *d, int wait)
{
    struct mount *m = mount_of(d);
    struct sim_disk *s = m->disk;
    bool write_now = wait != 0 || dead(m) || m->calls == 0;
    bool work_now =
        wait != 0 || dead(m) || s->latency == 0 || sim_below(&s->random, s->latency + 1ULL) == 0;
    m->calls -= m->calls > 0;
    bool work_first = m->flying && m->work != NULL && sim_below(&s->random, 2) == 0;
    int n = 0;
    if (work_first) {
        n += finish_work(m, work_now);
        n += finish_write(m, write_now);
    } else {
        n += finish_write(m, write_now);
        n += finish_work(m, work_now);
    }
    return n;
}

static int sim_background(struct rguard_disk *d, int (*fn)(void *user),
                          void (*done)(void *user, int status), void *user)
{
    struct mount *m = mount_of(d);
    if (m->work != NULL) {
        return -EBUSY;
    }
    m->work = fn;
    m->work_done = done;
    m->work_user = user;
    return 0;
}

static void sim_destroy(struct rguard_disk *d)
{
    struct mount *m = mount_of(d);
    if (m->flying) {
        (void)land(m);
    }
    if (m->work != NULL && !dead(m)) {
        (void)m->work(m->work_user);
    }
    free(m);
}

static const struct rguard_disk_ops ops = {
    .name = "sim",
    .open = sim_open,
    .close = sim_close,
    .size = sim_size,
    .read = sim_read,
    .write_start = sim_write_start,
    .write = sim_write,
    .sync = sim_sync,
    .rename = sim_rename,
    .unlink = sim_unlink,
    .sync_dir = sim_sync_dir,
    .list = sim_list,
    .fd = sim_fd,
    .process = sim_process,
    .destroy = sim_destroy,
    .zero = sim_zero,
    .background = sim_background,
};

int sim_disk_mount(struct sim_disk *s, struct rguard_disk **out)
{
    struct mount *m = sim__grab(1, sizeof *m);
    m->base.ops = &ops;
    m->disk = s;
    m->epoch = s->epoch;
    *out = &m->base;
    return 0;
}
