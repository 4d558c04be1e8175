/* SPDX-License-Identifier: Apache-2.0 */
/* Where segments come from and where they go.
 *
 * Invariant: a segment gets its own name, or if it has that already its header, only after all of
 * it was written with zeros and synced. So appends never allocate blocks, and recovery finds zeros
 * or batches in a segment, nothing else.
 *
 *     NONE -> FILE -> ZEROS (a piece at a time) -> SYNC -> NAME -> READY -> the current segment
 *              |                                    |        |
 *              a new file under its own name,       headers, rename, directory
 *              or a freed one that keeps its old    durably
 *
 * A crash leaves a new file without a header at the end of the log, or an old name below the first
 * segment that the metadata asks for; the next open removes either. A spare that is complete is a
 * normal sight.
 *
 * Every arrow is one piece of background work (disk.h), started by the owner when the one before is
 * over; so one of them is running at a time and two threads never look at the same field. The spare
 * is begun when a quarter of the current segment is used. A batch that finds none waits in the
 * queue, not in a system call; only the failure of an attempt that it has waited for reaches it. */
#include "wal_internal.h"

#include <raftguard/testing.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#define ZERO_STEP (256u * 1024u)
#define KEEP      2u    /* freed files that wait to be recycled */
#define RETRY_MS  1000u /* after a failure, as long as nobody waits */

int rguard__wal_factory_open(rguard_wal *w)
{
    struct wal_factory *f = &w->factory;
    f->disk = w->disk;
    f->block = aligned_alloc(WAL_BLOCK, WAL_BLOCK);
    return f->block == NULL ? -ENOMEM : 0;
}

/* ---- on the helper ---- */

static void current_name(const struct wal_factory *f, char name[WAL_NAME_MAX])
{
    rguard__wal_segment_name(f->old_name != 0 ? f->old_name : f->segment.sequence, name);
}

static void discard(struct wal_factory *f)
{
    char name[WAL_NAME_MAX];
    if (f->file != NULL) {
        f->disk->ops->close(f->disk, f->file);
        f->file = NULL;
        current_name(f, name);
        (void)f->disk->ops->unlink(f->disk, name); /* else the next open does it */
    }
}

/* Takes the oldest freed file that has the right size and removes those that have not. */
static bool recycle(struct wal_factory *f)
{
    const struct rguard_disk_ops *ops = f->disk->ops;
    while (f->freed < f->freed_end) {
        char name[WAL_NAME_MAX];
        uint64_t sequence = f->freed++;
        rguard__wal_segment_name(sequence, name);
        int rc = ops->open(f->disk, name, O_RDWR, &f->file);
        if (rc == 0 && ops->size(f->disk, f->file) == (int64_t)f->segment.bytes) {
            f->old_name = sequence;
            return true;
        }
        if (rc == 0) {
            ops->close(f->disk, f->file);
            f->file = NULL;
        }
        (void)ops->unlink(f->disk, name);
    }
    return false;
}

static int get_file(struct wal_factory *f)
{
    const struct rguard_disk_ops *ops = f->disk->ops;
    f->old_name = 0;
    if (recycle(f)) {
        return 0;
    }
    char name[WAL_NAME_MAX];
    rguard__wal_segment_name(f->segment.sequence, name);
    int rc = ops->open(f->disk, name, O_RDWR | O_CREAT | O_EXCL, &f->file);
    if (rc == -EEXIST) {
        /* An attempt that could not even be removed. Behind the current segment: never used. */
        rc = ops->unlink(f->disk, name);
        rc = rc == 0 ? ops->open(f->disk, name, O_RDWR | O_CREAT | O_EXCL, &f->file) : rc;
    }
    return rc;
}

static int zero(struct wal_factory *f)
{
    uint64_t left = f->segment.bytes - f->zeroed;
    uint64_t step = left < ZERO_STEP ? left : ZERO_STEP;
    int rc = f->disk->ops->zero(f->disk, f->file, step, f->zeroed);
    f->zeroed += step;
    return rc;
}

/* The copy in the last block first: a file whose first block is good is complete. */
static int write_headers(struct wal_factory *f)
{
    uint64_t last = f->segment.bytes - WAL_BLOCK;
    int rc = f->disk->ops->write(f->disk, f->file, f->block, WAL_BLOCK, last);
    return rc == 0 ? f->disk->ops->write(f->disk, f->file, f->block, WAL_BLOCK, 0) : rc;
}

static int name_it(struct wal_factory *f)
{
    const struct rguard_disk_ops *ops = f->disk->ops;
    int rc = 0;
    if (f->old_name != 0) {
        char from[WAL_NAME_MAX], to[WAL_NAME_MAX];
        rguard__wal_segment_name(f->old_name, from);
        rguard__wal_segment_name(f->segment.sequence, to);
        rc = ops->rename(f->disk, from, to);
        f->old_name = rc == 0 ? 0 : f->old_name;
    }
    return rc == 0 ? ops->sync_dir(f->disk) : rc;
}

static int remove_oldest(struct wal_factory *f)
{
    char name[WAL_NAME_MAX];
    rguard__wal_segment_name(f->freed++, name);
    int rc = f->disk->ops->unlink(f->disk, name);
    rc = rc == -ENOENT ? 0 : rc;
    return rc == 0 && f->freed == f->freed_end ? f->disk->ops->sync_dir(f->disk) : rc;
}

static int work(void *user)
{
    struct wal_factory *f = &((rguard_wal *)user)->factory;
    int rc = 0;
    switch (f->state) {
        case WAL_SPARE_FILE:
            rc = get_file(f);
            break;
        case WAL_SPARE_ZEROS:
            rc = zero(f);
            break;
        case WAL_SPARE_SYNC:
            rc = f->disk->ops->sync(f->disk, f->file);
            rc = rc == 0 ? write_headers(f) : rc;
            break;
        case WAL_SPARE_NAME:
            rc = name_it(f);
            break;
        case WAL_SPARE_DISCARD:
            discard(f);
            break;
        case WAL_SPARE_NONE:
        case WAL_SPARE_READY:
            return remove_oldest(f);
    }
    if (rc != 0) {
        discard(f);
    }
    return rc;
}

/* ---- on the owner ---- */

static void seal_header(rguard_wal *w)
{
    const struct wal_segment *s = &w->factory.segment;
    struct wal_segment_header h = {
        .node_id = w->meta.node_id,
        .sequence = s->sequence,
        .salt = s->salt,
        .first_lsn = s->first_lsn,
        .bytes = s->bytes,
    };
    memcpy(h.uuid, w->meta.uuid, WAL_UUID);
    rguard__wal_segment_seal(&h);
    memset(w->factory.block, 0, WAL_BLOCK);
    memcpy(w->factory.block, &h, sizeof h);
}

static void begin(rguard_wal *w)
{
    struct wal_factory *f = &w->factory;
    struct wal_segment s = {.sequence = 1, .first_lsn = 0, .bytes = w->options.segment_bytes};
    if (w->segments.n > 0) {
        const struct wal_segment *current = &w->segments.v[w->segments.n - 1];
        s.sequence = current->sequence + 1;
        s.first_lsn = current->first_lsn + current->bytes;
    }
    if (f->waiting && f->need > s.bytes) {
        s.bytes = f->need;
    }
    if (f->segment.sequence == s.sequence) {
        s.salt = f->segment.salt; /* no batch was ever sealed with it; a seed stays repeatable */
    } else {
        rguard__wal_random(w, &s.salt, sizeof s.salt);
    }
    f->segment = s;
    f->zeroed = 0;
    f->recycled = false;
    f->state = WAL_SPARE_FILE;
    seal_header(w);
}

static void failed(rguard_wal *w, int status)
{
    struct wal_factory *f = &w->factory;
    w->stats.segment_failures++;
    w->stats.segment_error = status;
    if (f->state == WAL_SPARE_NONE || f->state == WAL_SPARE_READY) {
        return; /* a freed file that stays until the next open */
    }
    f->error = status;
    f->retry_ms = rguard__wal_now_ms() + RETRY_MS;
    f->state = WAL_SPARE_NONE;
}

static void succeeded(rguard_wal *w)
{
    struct wal_factory *f = &w->factory;
    switch (f->state) {
        case WAL_SPARE_FILE:
            f->recycled = f->old_name != 0;
            f->state = WAL_SPARE_ZEROS;
            break;
        case WAL_SPARE_ZEROS:
            f->state = f->zeroed < f->segment.bytes ? WAL_SPARE_ZEROS : WAL_SPARE_SYNC;
            break;
        case WAL_SPARE_SYNC:
            f->state = WAL_SPARE_NAME;
            break;
        case WAL_SPARE_NAME:
            f->state = WAL_SPARE_READY;
            w->stats.recycled += f->recycled;
            w->stats.segment_error = 0;
            break;
        case WAL_SPARE_DISCARD:
            f->state = WAL_SPARE_NONE;
            break;
        case WAL_SPARE_NONE: /* a freed file was removed */
        case WAL_SPARE_READY:
            break;
    }
}

static void done(void *user, int status)
{
    rguard_wal *w = user;
    w->factory.running = false;
    if (status == 0) {
        succeeded(w);
    } else {
        failed(w, status);
    }
}

/* A quarter of the current segment is used. */
static bool spare_is_due(const rguard_wal *w)
{
    const struct wal_segment *current = &w->segments.v[w->segments.n - 1];
    return w->factory.waiting || (w->end - current->first_lsn) >= current->bytes / 4;
}

static bool too_small(const struct wal_factory *f)
{
    return f->waiting && f->segment.bytes < f->need;
}

static uint64_t oldest_freed(const struct wal_factory *f)
{
    return f->freed > f->free_from ? f->freed : f->free_from;
}

enum step { STEP_NONE, STEP_BEGIN, STEP_DISCARD, STEP_GO_ON, STEP_REMOVE };

static enum step next_step(const rguard_wal *w)
{
    const struct wal_factory *f = &w->factory;
    if (w->poisoned != 0 || w->options.read_only || w->damaged) {
        return STEP_NONE;
    }
    if (f->file != NULL && f->state != WAL_SPARE_DISCARD && too_small(f)) {
        return STEP_DISCARD;
    }
    if (f->state != WAL_SPARE_NONE && f->state != WAL_SPARE_READY) {
        return STEP_GO_ON;
    }
    if (f->state == WAL_SPARE_NONE && !f->closing && spare_is_due(w) &&
        (f->waiting || rguard__wal_now_ms() >= f->retry_ms)) {
        return STEP_BEGIN;
    }
    return f->free_to - oldest_freed(f) > (f->closing ? 0 : KEEP) ? STEP_REMOVE : STEP_NONE;
}

void rguard__wal_factory_turn(rguard_wal *w)
{
    struct wal_factory *f = &w->factory;
    enum step step = f->running ? STEP_NONE : next_step(w);
    if (step == STEP_NONE || (f->waiting && f->error != 0)) {
        return;
    }
    if (step == STEP_BEGIN) {
        begin(w);
    }
    if (step == STEP_DISCARD) {
        f->state = WAL_SPARE_DISCARD;
    }
    f->freed = oldest_freed(f);
    f->freed_end = f->free_to;
    f->running = true;
    const struct rguard_disk_ops *ops = w->disk->ops;
    if (ops->background == NULL || ops->background(w->disk, work, done, w) != 0) {
        done(w, work(w)); /* no thread to be had: then here */
    }
}

int rguard__wal_factory_timeout_ms(const rguard_wal *w)
{
    const struct wal_factory *f = &w->factory;
    if (f->running) {
        return -1;
    }
    if (f->waiting || next_step(w) != STEP_NONE) {
        return 0;
    }
    if (f->state != WAL_SPARE_NONE || !spare_is_due(w)) {
        return -1;
    }
    uint64_t now = rguard__wal_now_ms();
    return now >= f->retry_ms ? 0 : (int)(f->retry_ms - now);
}

int rguard__wal_factory_make(rguard_wal *w)
{
    struct wal_factory *f = &w->factory;
    int rc = 0;
    begin(w);
    while (rc == 0 && f->state != WAL_SPARE_READY) {
        rc = work(w);
        done(w, rc);
    }
    return rc;
}

bool rguard__wal_factory_ready(const rguard_wal *w, uint64_t need)
{
    const struct wal_factory *f = &w->factory;
    return !f->running && f->state == WAL_SPARE_READY && f->segment.bytes >= need;
}

int rguard__wal_factory_want(rguard_wal *w, uint64_t need)
{
    struct wal_factory *f = &w->factory;
    f->need = need;
    if (rguard__wal_factory_ready(w, need)) {
        f->waiting = false;
        return rguard__wal_segments_reserve(&w->segments);
    }
    if (!f->waiting) {
        f->waiting = true;
        f->error = 0;
        w->stats.segment_waits++;
    }
    if (f->running || f->error == 0) {
        return WAL_WAIT;
    }
    f->waiting = false;
    return f->error;
}

void rguard__wal_factory_take(rguard_wal *w, struct wal_segment *segment, struct rguard_file **file)
{
    struct wal_factory *f = &w->factory;
    RGUARD_ASSERT(!f->running && f->state == WAL_SPARE_READY);
    *segment = f->segment;
    *file = f->file;
    f->file = NULL;
    f->state = WAL_SPARE_NONE;
    f->retry_ms = 0;
}

int rguard__wal_factory_adopt(rguard_wal *w, const struct wal_segment *spare)
{
    struct wal_factory *f = &w->factory;
    char name[WAL_NAME_MAX];
    rguard__wal_segment_name(spare->sequence, name);
    int rc = w->disk->ops->open(w->disk, name, O_RDWR, &f->file);
    if (rc == 0) {
        f->segment = *spare;
        f->state = WAL_SPARE_READY;
    }
    return rc;
}

void rguard__wal_factory_free(rguard_wal *w, uint64_t first, uint64_t end)
{
    struct wal_factory *f = &w->factory;
    f->free_from = f->free_to == 0 ? first : f->free_from; /* what follows is joined to it */
    f->free_to = end;
}

/* At a clean close: a spare that was begun is finished, so that what the directory holds does not
 * depend on how fast the helper was, and freed files go. */
void rguard__wal_factory_finish(rguard_wal *w)
{
    w->factory.closing = true;
    do {
        rguard__wal_factory_turn(w);
    } while (w->factory.running && w->disk->ops->process(w->disk, 1) > 0);
}

void rguard__wal_factory_stop(rguard_wal *w)
{
    struct wal_factory *f = &w->factory;
    while (f->running && w->disk->ops->process(w->disk, 1) > 0) {
        /* the file is the helper's until then */
    }
    if (f->file != NULL && !f->running) {
        w->disk->ops->close(w->disk, f->file);
    }
}
