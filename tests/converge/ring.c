/* SPDX-License-Identifier: Apache-2.0 */
/* Following a trace ring. Invariant: a record is copied only when its seq was right before and
 * after the copy, so no torn record ever becomes an event. */
#include "ring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "text.h"

#define HEADER_BYTES 4096u

void cv_ring_path(const struct cv_ring *r, char *buf, size_t cap)
{
    snprintf(buf, cap, "/proc/%d/fd/%d", (int)getpid(), r->fd);
}

int cv_ring_create(struct cv_ring *r, uint64_t capacity)
{
    *r = (struct cv_ring){.fd = memfd_create("rguard-trace", MFD_CLOEXEC)};
    if (r->fd < 0) {
        return -errno;
    }
    /* The writer's own code formats it, so there is one description of the format. */
    char path[64];
    cv_ring_path(r, path, sizeof path);
    int rv = rguard_trace_open(path, capacity);
    if (rv != 0) {
        goto fail;
    }
    rguard_trace_close();
    r->bytes = HEADER_BYTES + (size_t)capacity * sizeof(struct rguard_trace_record);
    void *map = mmap(NULL, r->bytes, PROT_READ, MAP_SHARED, r->fd, 0);
    if (map == MAP_FAILED) {
        rv = -errno;
        goto fail;
    }
    r->header = map;
    return 0;
fail:
    close(r->fd);
    r->fd = -1;
    return rv;
}

void cv_ring_read(struct cv_ring *r, struct cv_events *out)
{
    const struct rguard_trace_header *h = r->header;
    const struct rguard_trace_record *records =
        (const struct rguard_trace_record *)(const void *)((const char *)h + HEADER_BYTES);
    uint64_t head = __atomic_load_n(&h->head, __ATOMIC_ACQUIRE);
    if (head - r->next > h->capacity) {
        r->lost += head - r->next - h->capacity;
        r->next = head - h->capacity;
    }
    while (r->next < head) {
        const struct rguard_trace_record *slot = &records[r->next % h->capacity];
        uint64_t seq = __atomic_load_n(&slot->seq, __ATOMIC_ACQUIRE);
        struct rguard_trace_record copy = *slot;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        uint64_t again = __atomic_load_n(&slot->seq, __ATOMIC_RELAXED);
        if (seq == r->next + 1 && again == seq) {
            cv_events_add(out, &copy);
        } else if (seq > r->next + 1 || again > r->next + 1) {
            r->lost++;
        } else if (!r->stuck) {
            r->stuck = true;
            return;
        } else {
            r->torn++;
        }
        r->stuck = false;
        r->next++;
    }
}

void cv_ring_close(struct cv_ring *r)
{
    if (r->header != NULL) {
        munmap((void *)(uintptr_t)r->header, r->bytes);
        close(r->fd);
    }
    *r = (struct cv_ring){.fd = -1};
}

void cv_events_add(struct cv_events *e, const struct rguard_trace_record *r)
{
    e->v = cv_reserve(e->v, e->n, &e->cap, sizeof *e->v);
    e->v[e->n++] = *r;
}

void cv_events_free(struct cv_events *e)
{
    free(e->v);
    *e = (struct cv_events){0};
}
