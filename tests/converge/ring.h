/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CV_RING_H
#define CV_RING_H

#include <raftguard/trace.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The reading side of guard/trace.h. The supervisor owns each ring as a memfd: no byte of it ever
 * goes to the disk whose latency is being measured, it outlives the process that writes it, and it
 * vanishes with the supervisor. The ring is followed while it is written, so that it may wrap
 * without loss as long as the reader comes by once per lap. */

struct cv_events
{
    struct rguard_trace_record *v;
    size_t n, cap;
};

struct cv_ring
{
    int fd;
    const struct rguard_trace_header *header;
    size_t bytes;
    uint64_t next; /* number of the record to be read next */
    uint64_t lost; /* overwritten before they were read */
    uint64_t torn; /* claimed by a writer that died before it finished them */
    bool stuck;    /* record @next was unfinished at the last visit as well */
};

/* Makes a fresh ring of @capacity records and maps it. 0 or a negative error. */
int cv_ring_create(struct cv_ring *r, uint64_t capacity);

/* Where another process of this user can open the ring. */
void cv_ring_path(const struct cv_ring *r, char *buf, size_t cap);

/* Appends everything new to @out. A record that is not finished yet stops the reading; at the
 * second visit it is given up as torn. */
void cv_ring_read(struct cv_ring *r, struct cv_events *out);

void cv_ring_close(struct cv_ring *r);

void cv_events_add(struct cv_events *e, const struct rguard_trace_record *r);
void cv_events_free(struct cv_events *e);

#endif
