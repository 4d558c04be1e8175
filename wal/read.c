/* SPDX-License-Identifier: Apache-2.0 */
/* Records back from disk. Only what is durable can be read, every read goes to the device (O_DIRECT
 * where there is such a thing) and every read is checked, because a good checksum at start-up says
 * nothing about today. */
#include "wal_internal.h"

#include <raftguard/crc32c.h>
#include <raftguard/testing.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define READ_AHEAD (256u * 1024u)

int rguard_wal_stat(const rguard_wal *w, uint64_t index, struct rguard_wal_record *out)
{
    const struct wal_entry *entry = rguard__wal_index_get(&w->index, index);
    if (entry == NULL) {
        return -ENOENT;
    }
    if (entry->fault != 0) {
        return RGUARD_ECORRUPT;
    }
    struct rguard_wal_record record = {.index = index,
                                       .term = entry->term,
                                       .type = entry->type,
                                       .len = entry->len,
                                       .crc = entry->crc};
    *out = record;
    return 0;
}

/* The file of a segment, kept open until another one is asked for. */
static int open_for_read(rguard_wal *w, const struct wal_segment *segment)
{
    if (w->read_file != NULL && w->read_sequence == segment->sequence) {
        return 0;
    }
    char name[WAL_NAME_MAX];
    struct rguard_file *f;
    rguard__wal_segment_name(segment->sequence, name);
    int rc = w->disk->ops->open(w->disk, name, O_RDONLY, &f);
    if (rc != 0) {
        return rc;
    }
    if (w->read_file != NULL) {
        w->disk->ops->close(w->disk, w->read_file);
    }
    w->read_file = f;
    w->read_sequence = segment->sequence;
    return 0;
}

static int grow(rguard_wal *w, size_t bytes)
{
    if (bytes <= w->read_bytes) {
        return 0;
    }
    uint8_t *buf = aligned_alloc(WAL_BLOCK, bytes);
    if (buf == NULL) {
        return -ENOMEM;
    }
    free(w->read_buf);
    w->read_buf = buf;
    w->read_bytes = bytes;
    return 0;
}

/* Brings the blocks that hold @entry into read_buf. Reading forward, as a replay does, takes a
 * window of what follows along; everything else, also the same record again, goes to the device. */
static int fetch(rguard_wal *w, uint64_t index, const struct wal_entry *entry)
{
    bool forward = index == w->read_next && w->read_next != 0;
    if (forward && entry->lsn >= w->read_from && entry->lsn + entry->len <= w->read_until) {
        return 0;
    }
    const struct wal_segment *segment = rguard__wal_segments_find(&w->segments, entry->lsn);
    RGUARD_ASSERT(segment != NULL);
    uint64_t from = entry->lsn / WAL_BLOCK * WAL_BLOCK;
    uint64_t until = (entry->lsn + entry->len + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK;
    uint64_t limit = segment->first_lsn + segment->bytes;
    limit = limit < w->end ? limit : w->end; /* behind the end something may be in flight */
    if (forward && until < from + READ_AHEAD) {
        until = from + READ_AHEAD < limit ? from + READ_AHEAD : limit;
    }
    w->read_until = 0;
    int rc = grow(w, (size_t)(until - from));
    if (rc == 0) {
        rc = open_for_read(w, segment);
    }
    if (rc != 0) {
        return rc;
    }
    int64_t got = w->disk->ops->read(w->disk, w->read_file, w->read_buf, (size_t)(until - from),
                                     from - segment->first_lsn);
    if (got == -EIO && forward) {
        w->read_next = 0; /* a bad block in the window need not be this record's */
        return fetch(w, index, entry);
    }
    if (got < 0) {
        return (int)got;
    }
    w->read_from = from;
    w->read_until = from + (uint64_t)got;
    /* Short: the file has lost its end. */
    return entry->lsn + entry->len <= w->read_until ? 0 : RGUARD_ECHECKSUM;
}

int rguard_wal_read(rguard_wal *w, uint64_t index, struct rguard_wal_record *out, void *buf,
                    size_t cap)
{
    const struct wal_entry *entry = rguard__wal_index_get(&w->index, index);
    int rc = rguard_wal_stat(w, index, out);
    if (rc != 0) {
        return rc;
    }
    out->data = buf;
    if (entry->len > cap) {
        return -ENOSPC;
    }
    if (entry->len > 0) {
        rc = fetch(w, index, entry);
        if (rc != 0) {
            return rc;
        }
        memcpy(buf, w->read_buf + (entry->lsn - w->read_from), entry->len);
    }
    w->read_next = index + 1;
    bool good = rguard_crc32c(0, buf, entry->len) == entry->crc || RGUARD_TEST_OFF("wal_crc");
    return good ? 0 : RGUARD_ECHECKSUM;
}

uint64_t rguard_wal_first_index(const rguard_wal *w)
{
    return w->tail_index > w->base_index ? w->base_index + 1 : 0;
}

uint64_t rguard_wal_last_index(const rguard_wal *w)
{
    return w->tail_index;
}

const char *rguard_wal_backend(const rguard_wal *w)
{
    return w->disk->ops->name;
}

int rguard_wal_poisoned(const rguard_wal *w)
{
    return w->poisoned;
}

int rguard_wal_stats(const rguard_wal *w, struct rguard_wal_stats *stats)
{
    struct rguard_wal_stats all = w->stats;
    size_t size = stats->size < sizeof all ? stats->size : sizeof all;
    all.size = size;
    all.in_flight_records = w->reserved;
    memcpy(stats, &all, size);
    return 0;
}
