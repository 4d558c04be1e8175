/* SPDX-License-Identifier: Apache-2.0 */
/* Term and vote, and the few facts about the log that are not in it. Invariant: of the four slots
 * the two of the newest generation were written one after the other, each durably, before anybody
 * was told; so a crash damages at most one, and a pair that is damaged as a whole was rotten. Then
 * the older pair is not an answer: it may hold an older vote.
 *
 *     slot 0   slot 1   slot 2   slot 3
 *     [ generation 2k ] [ generation 2k+1 ]
 */
#include "wal_internal.h"

#include <raftguard/failpoint.h>
#include <raftguard/testing.h>

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static void seal_slot(uint8_t *block, const struct wal_meta *m, uint32_t slot)
{
    struct wal_meta copy = *m;
    copy.slot = slot;
    rguard__wal_meta_seal(&copy);
    memset(block, 0, WAL_BLOCK);
    memcpy(block, &copy, sizeof copy);
}

/* Both pairs, in a file that gets its name when it is complete. */
int rguard__wal_meta_create(rguard_wal *w)
{
    const struct rguard_disk_ops *ops = w->disk->ops;
    uint8_t *slots = aligned_alloc(WAL_BLOCK, WAL_META_BYTES);
    if (slots == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < WAL_META_SLOTS; i++) {
        w->meta.generation = i / 2;
        seal_slot(slots + i * WAL_BLOCK, &w->meta, i);
    }
    struct rguard_file *f = NULL;
    int rc = ops->open(w->disk, "tmp-meta", O_RDWR | O_CREAT, &f);
    if (rc == 0) {
        rc = ops->write(w->disk, f, slots, WAL_META_BYTES, 0);
    }
    if (rc == 0) {
        rc = ops->sync(w->disk, f);
    }
    if (rc == 0) {
        rc = ops->rename(w->disk, "tmp-meta", "meta");
    }
    if (rc == 0) {
        rc = ops->sync_dir(w->disk);
    }
    if (rc == 0) {
        w->meta_file = f;
    } else if (f != NULL) {
        ops->close(w->disk, f);
        (void)ops->unlink(w->disk, "tmp-meta");
    }
    free(slots);
    return rc;
}

/* Writes @next as the next generation. A failure poisons: which generation the disk holds is then
 * unknown until it is read again. */
int rguard__wal_meta_write(rguard_wal *w, const struct wal_meta *next)
{
    struct wal_meta m = *next;
    m.generation = w->meta.generation + 1;
    m.acked_lsn = w->acked_lsn;
    int rc = RGUARD_FP_NEGERR("wal/meta", "before term, vote or the clean flag are written");
    for (uint32_t i = 0; rc == 0 && i < 2; i++) {
        uint32_t slot = (uint32_t)((2 * m.generation + i) % WAL_META_SLOTS);
        seal_slot(w->meta_block, &m, slot);
        rc = w->disk->ops->write(w->disk, w->meta_file, w->meta_block, WAL_BLOCK,
                                 (uint64_t)slot * WAL_BLOCK);
    }
    if (rc != 0) {
        rguard__wal_poison(w, rc);
        return rc;
    }
    w->meta = m;
    return 0;
}

int rguard_wal_meta_set(rguard_wal *w, uint64_t term, uint64_t vote)
{
    if (w->poisoned != 0) {
        return RGUARD_EPOISONED;
    }
    if (w->options.read_only) {
        return -EROFS;
    }
    if (term < w->meta.term) {
        return -EINVAL;
    }
    if (term == w->meta.term) {
        if (vote == w->meta.vote) {
            return 0;
        }
        if (w->meta.vote != 0 && !RGUARD_TEST_OFF("second_vote")) {
            return RGUARD_EVOTED;
        }
    }
    struct wal_meta next = w->meta;
    next.term = term;
    next.vote = vote;
    return rguard__wal_meta_write(w, &next);
}

void rguard_wal_meta_get(const rguard_wal *w, uint64_t *term, uint64_t *vote)
{
    *term = w->meta.term;
    *vote = w->meta.vote;
}
