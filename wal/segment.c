/* SPDX-License-Identifier: Apache-2.0 */
/* Segment files: their names, the list of those in use, and the switch to the next one. Invariant:
 * the switch touches no disk; the next segment comes from factory.c complete, or the batch waits. */
#include "wal_internal.h"

#include <raftguard/testing.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

int rguard__wal_segments_reserve(struct wal_segments *s)
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
    return 0;
}

int rguard__wal_segments_push(struct wal_segments *s, const struct wal_segment *segment)
{
    int rc = rguard__wal_segments_reserve(s);
    if (rc == 0) {
        s->v[s->n++] = *segment;
    }
    return rc;
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

/* The spare becomes the segment that is written to; room for it in the list is reserved. */
static void advance(rguard_wal *w)
{
    struct wal_segment next;
    struct rguard_file *f;
    rguard__wal_factory_take(w, &next, &f);
    int rc = rguard__wal_segments_push(&w->segments, &next);
    RGUARD_ASSERT(rc == 0);
    if (w->file != NULL) {
        w->disk->ops->close(w->disk, w->file);
    }
    w->file = f;
    w->end = next.first_lsn + WAL_FIRST_BATCH;
    w->stats.segments++;
}

int rguard__wal_segment_first(rguard_wal *w)
{
    int rc = rguard__wal_factory_make(w);
    if (rc == 0) {
        rc = rguard__wal_factory_want(w, WAL_FIRST_BATCH);
    }
    if (rc == 0) {
        advance(w);
    }
    return rc;
}

static bool fits(const rguard_wal *w, uint64_t bytes)
{
    const struct wal_segment *current = &w->segments.v[w->segments.n - 1];
    return w->end + bytes <= rguard__wal_segment_limit(current);
}

bool rguard__wal_segment_ready(const rguard_wal *w, uint64_t bytes)
{
    return fits(w, bytes) || rguard__wal_factory_ready(w, WAL_OVERHEAD + bytes);
}

int rguard__wal_segment_room(rguard_wal *w, uint64_t bytes)
{
    if (fits(w, bytes)) {
        return 0;
    }
    int rc = rguard__wal_factory_want(w, WAL_OVERHEAD + bytes);
    if (rc == 0) {
        advance(w);
    }
    return rc;
}

void rguard__wal_segments_drop(rguard_wal *w, uint64_t first_sequence)
{
    size_t n = 0;
    while (n < w->segments.n && w->segments.v[n].sequence < first_sequence) {
        n++;
    }
    if (n == 0) {
        return;
    }
    if (w->read_file != NULL && w->read_sequence < first_sequence) {
        w->disk->ops->close(w->disk, w->read_file);
        w->read_file = NULL;
    }
    rguard__wal_factory_free(w, w->segments.v[0].sequence, first_sequence);
    memmove(w->segments.v, w->segments.v + n, (w->segments.n - n) * sizeof *w->segments.v);
    w->segments.n -= n;
}
