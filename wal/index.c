/* SPDX-License-Identifier: Apache-2.0 */
/* Where every live record is: a ring of 32-byte entries, in index order, without gaps. Room is
 * reserved when an append is queued, so that nothing can fail once its bytes are on disk; the ring
 * doubles, so a log of n records has allocated log2(n) times. */
#include "wal_internal.h"

#include <raftguard/testing.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct wal_entry *slot(const struct wal_index *ix, size_t i)
{
    return &ix->ring[(ix->head + i) & (ix->capacity - 1)];
}

int rguard__wal_index_reserve(struct wal_index *ix, size_t n)
{
    size_t want = ix->capacity == 0 ? 1024 : ix->capacity;
    if (n > SIZE_MAX / 4 / sizeof(struct wal_entry) - ix->n) {
        return -ENOMEM;
    }
    while (want < ix->n + n) {
        want *= 2;
    }
    if (want == ix->capacity) {
        return 0;
    }
    struct wal_entry *ring = malloc(want * sizeof *ring);
    if (ring == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < ix->n; i++) {
        ring[i] = *slot(ix, i);
    }
    free(ix->ring);
    ix->ring = ring;
    ix->capacity = want;
    ix->head = 0;
    return 0;
}

void rguard__wal_index_push(struct wal_index *ix, const struct wal_entry *entry)
{
    RGUARD_ASSERT(ix->n < ix->capacity);
    *slot(ix, ix->n) = *entry;
    ix->n++;
}

void rguard__wal_index_clear(struct wal_index *ix, uint64_t next)
{
    ix->n = 0;
    ix->first = next;
}

void rguard__wal_index_drop_from(struct wal_index *ix, uint64_t from)
{
    if (from <= ix->first) {
        rguard__wal_index_clear(ix, from);
    } else if (from - ix->first < ix->n) {
        ix->n = (size_t)(from - ix->first);
    }
}

void rguard__wal_index_drop_upto(struct wal_index *ix, uint64_t upto)
{
    if (upto < ix->first) {
        return;
    }
    uint64_t drop = upto - ix->first + 1;
    if (drop >= ix->n) {
        rguard__wal_index_clear(ix, upto + 1);
        return;
    }
    ix->head = (ix->head + (size_t)drop) & (ix->capacity - 1);
    ix->n -= (size_t)drop;
    ix->first += drop;
}

struct wal_entry *rguard__wal_index_at(const struct wal_index *ix, uint64_t index)
{
    if (index < ix->first || index - ix->first >= ix->n) {
        return NULL;
    }
    return slot(ix, (size_t)(index - ix->first));
}

const struct wal_entry *rguard__wal_index_get(const struct wal_index *ix, uint64_t index)
{
    return rguard__wal_index_at(ix, index);
}

void rguard__wal_index_free(struct wal_index *ix)
{
    free(ix->ring);
    memset(ix, 0, sizeof *ix);
}
