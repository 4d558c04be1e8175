/* SPDX-License-Identifier: Apache-2.0 */
/* Segment files. Invariant: a segment is used only after all of it was written with zeros and
 * synced, then its header, then its name in the directory; appends never allocate blocks and
 * recovery finds zeros or batches, nothing else. A crash in between leaves a file without a header,
 * which the next open removes.
 *
 *     NONE --open--> ZEROING --512 KiB a step--> ZEROED --sync--> SYNCED --header--> HEADED
 *     HEADED --sync the directory--> READY --switch--> the current segment
 *     any of them --error--> FAILED, tried again when the segment is needed
 *
 * It starts when the current segment is half full, and takes one step per idle call of process().
 */
#include "wal_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ZERO_STEP (512u * 1024u)

void rguard__wal_segment_name(uint64_t sequence, char name[WAL_NAME_MAX])
{
    (void)snprintf(name, WAL_NAME_MAX, "%020" PRIu64 ".wal", sequence);
}

uint64_t rguard__wal_segment_parse(const char *name)
{
    char again[WAL_NAME_MAX];
    if (strlen(name) != 24 || strspn(name, "0123456789") != 20) {
        return 0;
    }
    uint64_t sequence = strtoull(name, NULL, 10);
    rguard__wal_segment_name(sequence, again);
    return strcmp(name, again) == 0 ? sequence : 0;
}

int rguard__wal_segments_push(struct wal_segments *s, const struct wal_segment *segment)
{
    if (s->n == s->capacity) {
        size_t capacity = s->capacity == 0 ? 16 : 2 * s->capacity;
        struct wal_segment *v = realloc(s->v, capacity * sizeof *v);
        if (v == NULL) {
            return -ENOMEM;
        }
        s->v = v;
        s->capacity = capacity;
    }
    s->v[s->n++] = *segment;
    return 0;
}

const struct wal_segment *rguard__wal_segments_find(const struct wal_segments *s, uint64_t lsn)
{
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (lsn < s->v[mid].first_lsn) {
            high = mid;
        } else if (lsn - s->v[mid].first_lsn >= s->v[mid].bytes) {
            low = mid + 1;
        } else {
            return &s->v[mid];
        }
    }
    return NULL;
}

/* ---- making one ---- */

static void spare_discard(rguard_wal *w, enum wal_spare_state state)
{
    char name[WAL_NAME_MAX];
    if (w->spare.file != NULL) {
        w->disk->ops->close(w->disk, w->spare.file);
        rguard__wal_segment_name(w->spare.segment.sequence, name);
        (void)w->disk->ops->unlink(w->disk, name);
    }
    w->spare.file = NULL;
    w->spare.state = state;
}

static int spare_begin(rguard_wal *w, uint64_t bytes)
{
    struct wal_spare *spare = &w->spare;
    char name[WAL_NAME_MAX];
    struct wal_segment s = {.sequence = 1, .first_lsn = 0, .bytes = bytes};
    if (w->segments.n > 0) {
        const struct wal_segment *current = &w->segments.v[w->segments.n - 1];
        s.sequence = current->sequence + 1;
        s.first_lsn = current->first_lsn + current->bytes;
    }
    rguard__wal_random(w, &s.salt, sizeof s.salt);
    rguard__wal_segment_name(s.sequence, name);
    int rc = w->disk->ops->open(w->disk, name, O_RDWR | O_CREAT | O_EXCL, &spare->file);
    spare->state = rc == 0 ? WAL_SPARE_ZEROING : WAL_SPARE_FAILED;
    spare->segment = s;
    spare->zeroed = 0;
    return rc;
}

static int write_header(rguard_wal *w, const struct wal_segment *s, struct rguard_file *f)
{
    struct wal_segment_header h = {
        .node_id = w->meta.node_id,
        .sequence = s->sequence,
        .salt = s->salt,
        .first_lsn = s->first_lsn,
        .bytes = s->bytes,
    };
    memcpy(h.uuid, w->meta.uuid, WAL_UUID);
    rguard__wal_segment_seal(&h);
    uint8_t *block = aligned_alloc(WAL_BLOCK, WAL_BLOCK);
    if (block == NULL) {
        return -ENOMEM;
    }
    memset(block, 0, WAL_BLOCK);
    memcpy(block, &h, sizeof h);
    int rc = w->disk->ops->write(w->disk, f, block, WAL_BLOCK, 0);
    free(block);
    return rc;
}

static bool in_the_making(const struct wal_spare *spare)
{
    return spare->state >= WAL_SPARE_ZEROING && spare->state < WAL_SPARE_READY;
}

/* One bounded piece of work, so that an event loop is never away for the whole of it. */
int rguard__wal_spare_step(rguard_wal *w)
{
    struct wal_spare *spare = &w->spare;
    const struct rguard_disk_ops *ops = w->disk->ops;
    if (spare->state == WAL_SPARE_NONE) {
        return spare_begin(w, w->options.segment_bytes);
    }
    if (!in_the_making(spare)) {
        return 0;
    }
    int rc = 0;
    if (spare->state == WAL_SPARE_ZEROING) {
        uint64_t left = spare->segment.bytes - spare->zeroed;
        uint64_t step = left < ZERO_STEP ? left : ZERO_STEP;
        rc = ops->zero(w->disk, spare->file, step, spare->zeroed);
        spare->zeroed += step;
        if (rc == 0 && spare->zeroed < spare->segment.bytes) {
            return 0;
        }
    } else if (spare->state == WAL_SPARE_ZEROED) {
        rc = ops->sync(w->disk, spare->file);
    } else if (spare->state == WAL_SPARE_SYNCED) {
        rc = write_header(w, &spare->segment, spare->file);
    } else {
        rc = ops->sync_dir(w->disk);
    }
    if (rc == 0) {
        spare->state++;
    } else {
        spare_discard(w, WAL_SPARE_FAILED);
    }
    return rc;
}

/* How full the current segment is, in quarters. */
static uint64_t quarters(const rguard_wal *w)
{
    const struct wal_segment *current = &w->segments.v[w->segments.n - 1];
    return (w->end - current->first_lsn) / (current->bytes / 4);
}

bool rguard__wal_spare_wanted(const rguard_wal *w)
{
    return w->poisoned == 0 &&
           (in_the_making(&w->spare) || (w->spare.state == WAL_SPARE_NONE && quarters(w) >= 2));
}

/* A writer that is never idle gets its spare made while it waits for the disk. */
bool rguard__wal_spare_urgent(const rguard_wal *w)
{
    return rguard__wal_spare_wanted(w) && quarters(w) >= 3;
}

/* Makes the spare the current segment, finishing or replacing it first. */
static int advance(rguard_wal *w, uint64_t batch)
{
    struct wal_spare *spare = &w->spare;
    uint64_t need = WAL_FIRST_BATCH + batch;
    if (spare->file != NULL && spare->segment.bytes < need) {
        spare_discard(w, WAL_SPARE_NONE);
    }
    int rc = 0;
    if (spare->file == NULL) {
        rc = spare_begin(w, need > w->options.segment_bytes ? need : w->options.segment_bytes);
    }
    while (rc == 0 && in_the_making(spare)) {
        rc = rguard__wal_spare_step(w);
    }
    if (rc == 0) {
        rc = rguard__wal_segments_push(&w->segments, &spare->segment);
    }
    if (rc != 0) {
        return rc;
    }
    if (w->file != NULL) {
        w->disk->ops->close(w->disk, w->file);
    }
    w->file = spare->file;
    w->end = spare->segment.first_lsn + WAL_FIRST_BATCH;
    spare->file = NULL;
    spare->state = WAL_SPARE_NONE;
    w->stats.segments++;
    return 0;
}

int rguard__wal_segment_first(rguard_wal *w)
{
    return advance(w, 0);
}

int rguard__wal_segment_room(rguard_wal *w, uint64_t bytes)
{
    const struct wal_segment *current = &w->segments.v[w->segments.n - 1];
    if (w->end + bytes <= current->first_lsn + current->bytes) {
        return 0;
    }
    return advance(w, bytes);
}

int rguard__wal_segments_drop(rguard_wal *w, uint64_t first_sequence)
{
    size_t n = 0;
    int rc = 0;
    while (n < w->segments.n && w->segments.v[n].sequence < first_sequence && rc == 0) {
        char name[WAL_NAME_MAX];
        rguard__wal_segment_name(w->segments.v[n].sequence, name);
        rc = w->disk->ops->unlink(w->disk, name);
        rc = rc == -ENOENT ? 0 : rc;
        n += rc == 0;
    }
    memmove(w->segments.v, w->segments.v + n, (w->segments.n - n) * sizeof *w->segments.v);
    w->segments.n -= n;
    if (w->read_file != NULL && w->read_sequence < first_sequence) {
        w->disk->ops->close(w->disk, w->read_file);
        w->read_file = NULL;
    }
    return n > 0 && rc == 0 ? w->disk->ops->sync_dir(w->disk) : rc;
}
