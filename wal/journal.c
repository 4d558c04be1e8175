/* SPDX-License-Identifier: Apache-2.0 */
/* The file "repair": what a repair has been given, and what it is about to write.
 *
 *     PUT  a record that stood in the place at `lsn`
 *     WRITE, ZERO  bytes that go into a segment file; they count from the COMMIT behind them on
 *     COMMIT  the place at `lsn` is going to be as the entries since the last COMMIT say
 *     RESOLVED  it is; or what was put for it was not what had stood there
 *
 * Invariant: entries are appended one durable write after the other, and what is behind the first
 * one that is not good was never there. So a crash leaves the damage, or a COMMIT that the next open
 * carries out once more: it writes the same bytes to the same places. */
#include "wal_internal.h"

#include <raftguard/crc32c.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define JOURNAL_NAME  "repair"
#define JOURNAL_MAGIC 0x52504552574c4757ULL /* "WGLWREPR" */

struct journal_header
{
    uint64_t magic;
    uint32_t version;
    uint32_t crc;    /* of these 128 bytes with crc = 0 */
    uint64_t number; /* 0, 1, ... */
    struct wal_journal_entry e;
    uint32_t data_crc;
    uint32_t reserved[2];
};
_Static_assert(sizeof(struct journal_header) == 128, "journal entry");

static size_t padded(uint64_t len)
{
    return (size_t)((len + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK);
}

/* ---- writing ---- */

static int begin(rguard_wal *w)
{
    struct wal_journal *j = &w->journal;
    if (j->file != NULL) {
        return 0;
    }
    int rc = w->disk->ops->open(w->disk, JOURNAL_NAME, O_RDWR | O_CREAT, &j->file);
    return rc == 0 ? w->disk->ops->sync_dir(w->disk) : rc;
}

int rguard__wal_journal_append(rguard_wal *w, const struct wal_journal_entry *e, const void *data)
{
    struct wal_journal *j = &w->journal;
    struct journal_header h = {.magic = JOURNAL_MAGIC,
                               .version = WAL_VERSION,
                               .number = j->n,
                               .e = *e,
                               .data_crc = rguard_crc32c(0, data, e->data_bytes)};
    memcpy(h.e.uuid, w->meta.uuid, WAL_UUID);
    h.crc = rguard_crc32c(0, &h, sizeof h);
    size_t bytes = WAL_BLOCK + padded(e->data_bytes);
    uint8_t *buf = aligned_alloc(WAL_BLOCK, bytes);
    int rc = buf == NULL ? -ENOMEM : begin(w);
    if (rc == 0) {
        memset(buf, 0, bytes);
        memcpy(buf, &h, sizeof h);
        if (e->data_bytes > 0) {
            memcpy(buf + WAL_BLOCK, data, e->data_bytes);
        }
        rc = w->disk->ops->write(w->disk, j->file, buf, bytes, j->end);
    }
    free(buf);
    if (rc == 0) {
        j->end += bytes;
        j->n++;
    }
    return rc;
}

int rguard__wal_journal_remove(rguard_wal *w)
{
    rguard__wal_journal_close(w);
    int rc = w->disk->ops->unlink(w->disk, JOURNAL_NAME);
    return rc == 0 ? w->disk->ops->sync_dir(w->disk) : rc == -ENOENT ? 0 : rc;
}

void rguard__wal_journal_close(rguard_wal *w)
{
    if (w->journal.file != NULL) {
        w->disk->ops->close(w->disk, w->journal.file);
    }
    memset(&w->journal, 0, sizeof w->journal);
}

/* ---- reading ---- */

struct reader
{
    struct rguard_disk *disk;
    struct rguard_file *file;
    uint64_t at, size, number;
    uint8_t *block;
    struct journal_header h;
    uint8_t *data; /* of h.e */
};

static int reader_open(struct reader *r, struct rguard_disk *disk, int flags)
{
    memset(r, 0, sizeof *r);
    r->disk = disk;
    int rc = disk->ops->open(disk, JOURNAL_NAME, flags, &r->file);
    if (rc != 0) {
        return rc;
    }
    int64_t size = disk->ops->size(disk, r->file);
    r->size = size > 0 ? (uint64_t)size : 0;
    r->block = aligned_alloc(WAL_BLOCK, WAL_BLOCK);
    return r->block == NULL ? -ENOMEM : 0;
}

static void reader_close(struct reader *r)
{
    if (r->file != NULL) {
        r->disk->ops->close(r->disk, r->file);
    }
    free(r->block);
    free(r->data);
}

/* The next good entry. 0: there is none; negative: out of memory. */
static int reader_next(struct reader *r)
{
    uint32_t crc;
    if (r->size < WAL_BLOCK || r->at > r->size - WAL_BLOCK ||
        r->disk->ops->read(r->disk, r->file, r->block, WAL_BLOCK, r->at) != WAL_BLOCK) {
        return 0;
    }
    memcpy(&r->h, r->block, sizeof r->h);
    crc = r->h.crc;
    r->h.crc = 0;
    if (r->h.magic != JOURNAL_MAGIC || r->h.version != WAL_VERSION || r->h.number != r->number ||
        crc != rguard_crc32c(0, &r->h, sizeof r->h) ||
        r->h.e.data_bytes > r->size - WAL_BLOCK - r->at) {
        return 0;
    }
    free(r->data);
    size_t bytes = padded(r->h.e.data_bytes);
    r->data = aligned_alloc(WAL_BLOCK, bytes + WAL_BLOCK);
    if (r->data == NULL) {
        return -ENOMEM;
    }
    if (bytes > 0 &&
        r->disk->ops->read(r->disk, r->file, r->data, bytes, r->at + WAL_BLOCK) != (int64_t)bytes) {
        return 0;
    }
    if (r->h.data_crc != rguard_crc32c(0, r->data, r->h.e.data_bytes)) {
        return 0;
    }
    r->at += WAL_BLOCK + bytes;
    r->number++;
    return 1;
}

int rguard__wal_journal_load(rguard_wal *w, rguard__wal_journal_fn fn)
{
    struct reader r;
    int rc = reader_open(&r, w->disk, O_RDONLY);
    if (rc == 0) {
        while ((rc = reader_next(&r)) == 1) {
            if (memcmp(r.h.e.uuid, w->meta.uuid, WAL_UUID) == 0) {
                fn(w, &r.h.e, r.data);
            }
        }
        w->journal.end = r.at;
        w->journal.n = r.number;
    }
    reader_close(&r);
    return rc == -ENOENT ? 0 : rc;
}

/* ---- carrying out ---- */

/* Is it still the file that was meant? */
static bool same_file(struct rguard_disk *disk, struct rguard_file *f, uint8_t *block,
                      const struct wal_journal_entry *e)
{
    struct wal_segment_header h;
    int64_t size = disk->ops->size(disk, f);
    uint64_t copy = size < (int64_t)WAL_SEGMENT_MIN ? 0 : (uint64_t)size / WAL_BLOCK * WAL_BLOCK;
    for (int i = 0; i < 2; i++) {
        uint64_t at = i == 0 ? 0 : copy - WAL_BLOCK;
        if ((i == 0 || copy != 0) && disk->ops->read(disk, f, block, WAL_BLOCK, at) == WAL_BLOCK &&
            rguard__wal_segment_check(block, &h) == WAL_HEADER_OK) {
            return h.sequence == e->segment && h.salt == e->salt &&
                   memcmp(h.uuid, e->uuid, WAL_UUID) == 0 && e->offset >= WAL_FIRST_BATCH &&
                   e->offset < h.bytes && e->bytes <= h.bytes - WAL_BLOCK - e->offset;
        }
    }
    return false;
}

int rguard__wal_journal_apply(struct rguard_disk *disk, const struct wal_journal_entry *e,
                              const uint8_t *data)
{
    char name[WAL_NAME_MAX];
    struct rguard_file *f = NULL;
    rguard__wal_segment_name(e->segment, name);
    uint8_t *block = aligned_alloc(WAL_BLOCK, WAL_BLOCK);
    if (block == NULL) {
        return -ENOMEM;
    }
    int rc = disk->ops->open(disk, name, O_RDWR, &f);
    if (rc == 0 && same_file(disk, f, block, e)) {
        if (e->kind == WAL_JOURNAL_WRITE) {
            rc = disk->ops->write(disk, f, data, e->data_bytes, e->offset);
        } else {
            rc = disk->ops->zero(disk, f, e->bytes, e->offset);
            rc = rc == 0 ? disk->ops->sync(disk, f) : rc;
        }
    }
    if (f != NULL) {
        disk->ops->close(disk, f);
    }
    free(block);
    return rc == -ENOENT ? 0 : rc; /* dropped since: nobody misses it */
}

/* Where the entries of the last COMMIT begin, if it has not been carried out. */
static int find_pending(struct reader *r, uint64_t *from, uint64_t *number, bool *pending)
{
    int rc;
    uint64_t start = 0, start_number = 0;
    *pending = false;
    while ((rc = reader_next(r)) == 1) {
        uint64_t begun = r->at - WAL_BLOCK - padded(r->h.e.data_bytes);
        bool part = r->h.e.kind == WAL_JOURNAL_WRITE || r->h.e.kind == WAL_JOURNAL_ZERO;
        if (part && start == 0) {
            start = begun + 1; /* 0 is a place, too */
            start_number = r->number - 1;
        } else if (r->h.e.kind == WAL_JOURNAL_COMMIT) {
            *pending = start != 0;
            *from = start - 1;
            *number = start_number;
        } else if (!part) {
            *pending = *pending && r->h.e.kind != WAL_JOURNAL_RESOLVED;
            start = 0;
        }
    }
    return rc;
}

int rguard__wal_journal_redo(struct rguard_disk *disk)
{
    struct reader r;
    uint64_t from, number;
    bool pending = false;
    int rc = reader_open(&r, disk, O_RDONLY);
    if (rc == 0) {
        rc = find_pending(&r, &from, &number, &pending);
    }
    if (rc == 0 && pending) {
        r.at = from;
        r.number = number;
        while ((rc = reader_next(&r)) == 1 && r.h.e.kind != WAL_JOURNAL_COMMIT) {
            rc = rguard__wal_journal_apply(disk, &r.h.e, r.data);
            if (rc != 0) {
                break;
            }
        }
        rc = rc == 1 ? 0 : rc;
    }
    reader_close(&r);
    return rc == -ENOENT ? 0 : rc;
}
