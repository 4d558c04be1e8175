/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_DISK_H
#define RGUARD_DISK_H

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* The seam between raftguard and any byte that touches a disk. Not installed. Back ends:
 * disk_uring.c, disk_thread.c, disk_sync.c and tests/sim/disk_sim.c. A disk is one directory; names
 * are plain file names in it. All results are 0 (or a count) or a negated errno; a short read
 * is only possible at end of file; a short write is an error (-EIO).
 *
 * Buffers, offsets and lengths of read() and write_durable() are multiples of 4096. */

struct rguard_disk;
struct rguard_file;

typedef void (*rguard_disk_write_cb)(void *user, int status);

struct rguard_disk_ops
{
    const char *name;
    int (*open)(struct rguard_disk *d, const char *name, int flags, struct rguard_file **out);
    void (*close)(struct rguard_disk *d, struct rguard_file *f);
    int64_t (*size)(struct rguard_disk *d, struct rguard_file *f);
    int64_t (*read)(struct rguard_disk *d, struct rguard_file *f, void *buf, size_t len,
                    uint64_t offset);
    /* Starts a durable write; cb runs from process(). At most one in flight. */
    int (*write_start)(struct rguard_disk *d, struct rguard_file *f, const void *buf, size_t len,
                       uint64_t offset, rguard_disk_write_cb cb, void *user);
    /* The same, synchronous. */
    int (*write)(struct rguard_disk *d, struct rguard_file *f, const void *buf, size_t len,
                 uint64_t offset);
    /* Also waits for writes that a process which is gone has left in flight on the file. */
    int (*sync)(struct rguard_disk *d, struct rguard_file *f);
    int (*rename)(struct rguard_disk *d, const char *from, const char *to);
    int (*unlink)(struct rguard_disk *d, const char *name);
    int (*sync_dir)(struct rguard_disk *d);
    int (*list)(struct rguard_disk *d, int (*fn)(void *user, const char *name), void *user);
    int (*fd)(struct rguard_disk *d); /* to poll, -1 when nothing is asynchronous */
    /* Runs the callbacks of what is complete, of writes and of background work, and returns how
     * many there were; wait: blocks until there is one, unless nothing was started. */
    int (*process)(struct rguard_disk *d, int wait);
    /* Waits for what was started; its callbacks do not run any more. */
    void (*destroy)(struct rguard_disk *d);
    /* Writes zeros; durable only after sync(). */
    int (*zero)(struct rguard_disk *d, struct rguard_file *f, uint64_t len, uint64_t offset);
    /* Runs fn(user) off the owner's path, then done(user, what fn returned) from process(). At most
     * one at a time, beside at most one write_start(). fn is a short piece of work: it calls this
     * disk's synchronous operations (open to zero, but not list), on files that nobody else uses
     * until done has been called. uring and thread run it on a helper thread; sync inside
     * process(). A simulated disk runs it, without a thread, as an event of its own in some later
     * process(): before or after a write that is in flight at the same time, each operation in it
     * an operation like any other (to crash at, to fail, to leave unsynced). The segment factory
     * is made of such pieces, so that crashes between them and the appends beside them are all
     * reachable. NULL: the owner does the work itself. */
    int (*background)(struct rguard_disk *d, int (*fn)(void *user),
                      void (*done)(void *user, int status), void *user);
};

struct rguard_disk
{
    const struct rguard_disk_ops *ops;
};

/* Opens directory @dir. @backend "uring", "thread", "sync", or NULL: uring, or thread where io_uring
 * is refused (EPERM, ENOSYS, ENOMEM). -EINVAL: no such back end. */
int rguard__disk_open(const char *dir, const char *backend, struct rguard_disk **out);

/* Whole small files, for snapshots: write goes to "tmp-<name>", is synced, renamed and the
 * directory synced before it returns; read allocates *buf with malloc (at most @max bytes, else
 * -EFBIG). Any contents length. On disk the contents are followed by padding and a trailer with
 * their length and CRC32C; RGUARD_ECHECKSUM when that does not match. */
int rguard__disk_write_file(struct rguard_disk *d, const char *name, const struct iovec *iov,
                            int n);
int rguard__disk_read_file(struct rguard_disk *d, const char *name, size_t max, void **buf,
                           size_t *len);

#endif
