/* SPDX-License-Identifier: Apache-2.0 */
/* Appending.
 *
 *     append() --> queue --> one batch in flight --> done --> callbacks
 *                    ^ everything that arrives meanwhile waits here and goes together
 *
 * Happy path: process() builds a batch of what is queued (at most ~1 MiB; a larger record alone),
 * starts one durable write, and when that is over moves the finished requests to `done` and runs
 * their callbacks, in order, before the next batch is built. That order is what acked_lsn means.
 *
 * Failure: whatever goes wrong with a write poisons the handle. The batch's requests get the error,
 * those behind it RGUARD_EPOISONED, and nothing is accepted, retried or read back any more. A batch
 * whose segment could not be made was never begun: where the reason is lack of space, the whole
 * queue is refused instead and the log stays as it is.
 *
 * Allocation: request nodes with their arrays and the batch buffer are reused; the index doubles.
 */
#include "wal_internal.h"

#include <raftguard/failpoint.h>
#include <raftguard/testing.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH_BODY (1024u * 1024u) /* records and tables that are put into one batch */

static void deliver(rguard_wal *w);
static void submit(rguard_wal *w);

uint64_t rguard__wal_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- queue ---- */

static void enqueue(struct wal_queue *q, struct wal_request *r)
{
    r->next = NULL;
    *(q->head == NULL ? &q->head : &q->tail->next) = r;
    q->tail = r;
}

static struct wal_request *dequeue(struct wal_queue *q)
{
    struct wal_request *r = q->head;
    if (r != NULL) {
        q->head = r->next;
    }
    return r;
}

static struct wal_request *request_get(rguard_wal *w, size_t n)
{
    struct wal_request *r = w->free;
    if (r != NULL) {
        w->free = r->next;
    } else if ((r = calloc(1, sizeof *r)) == NULL) {
        return NULL;
    }
    if (r->capacity < n) {
        struct rguard_wal_record *records = realloc(r->records, n * sizeof *records);
        if (records == NULL) {
            r->next = w->free;
            w->free = r;
            return NULL;
        }
        r->records = records;
        r->capacity = n;
    }
    r->n = n;
    r->taken = 0;
    r->status = 0;
    r->visible_to = UINT64_MAX;
    r->cb = NULL;
    return r;
}

static void request_put(rguard_wal *w, struct wal_request *r)
{
    r->next = w->free;
    w->free = r;
}

static void free_list(struct wal_request *r)
{
    while (r != NULL) {
        struct wal_request *next = r->next;
        free(r->records);
        free(r);
        r = next;
    }
}

void rguard__wal_queue_free(rguard_wal *w)
{
    free_list(w->queue.head);
    free_list(w->done.head);
    free_list(w->free);
}

/* ---- append ---- */

static int check(const rguard_wal *w, const struct rguard_wal_record *records, size_t n)
{
    uint64_t index = w->tail_index, term = w->tail_term;
    if (n == 0) {
        return -EINVAL;
    }
    for (size_t i = 0; i < n; i++) {
        const struct rguard_wal_record *r = &records[i];
        if (r->len > w->options.max_record_bytes) {
            return RGUARD_ETOOBIG;
        }
        if (r->index != index + 1 || r->term < term || r->type > UINT16_MAX ||
            (r->len > 0 && r->data == NULL)) {
            return -EINVAL;
        }
        index = r->index;
        term = r->term;
    }
    return 0;
}

static int writable(const rguard_wal *w)
{
    if (w->poisoned != 0) {
        return RGUARD_EPOISONED;
    }
    if (w->options.read_only) {
        return -EROFS;
    }
    return w->damaged ? RGUARD_ECORRUPT : 0;
}

int rguard_wal_append(rguard_wal *w, const struct rguard_wal_record *records, size_t n,
                      rguard_wal_append_cb cb, void *user)
{
    int rc = writable(w);
    if (rc == 0) {
        rc = check(w, records, n);
    }
    if (rc == 0) {
        rc = rguard__wal_index_reserve(&w->index, w->reserved + n);
    }
    if (rc != 0) {
        return rc;
    }
    struct wal_request *r = request_get(w, n);
    if (r == NULL) {
        return -ENOMEM;
    }
    memcpy(r->records, records, n * sizeof *records);
    r->type = WAL_DATA;
    r->cb = cb;
    r->user = user;
    enqueue(&w->queue, r);
    w->reserved += n;
    w->tail_index = records[n - 1].index;
    w->tail_term = records[n - 1].term;
    return 0;
}

/* ---- truncation ---- */

/* Records above @index that are still queued must never become visible. */
static void hide(rguard_wal *w, uint64_t index)
{
    for (struct wal_request *r = w->queue.head; r != NULL; r = r->next) {
        if (r->visible_to > index) {
            r->visible_to = index;
        }
    }
}

/* Queues a batch without records. */
int rguard__wal_control(rguard_wal *w, uint32_t type, uint64_t arg_index, uint64_t arg_term)
{
    struct wal_request *r = request_get(w, 0);
    if (r == NULL) {
        return -ENOMEM;
    }
    r->type = type;
    r->arg_index = arg_index;
    r->arg_term = arg_term;
    enqueue(&w->queue, r);
    return 0;
}

/* Term of a record that is durable, queued, or the base. */
static uint64_t term_at(const rguard_wal *w, uint64_t index)
{
    const struct wal_entry *entry = rguard__wal_index_get(&w->index, index);
    uint64_t term = entry != NULL ? entry->term : index == w->base_index ? w->base_term : 0;
    for (const struct wal_request *r = w->queue.head; r != NULL; r = r->next) {
        if (r->type == WAL_DATA && index <= r->visible_to && index >= r->records[0].index &&
            index - r->records[0].index < r->n) {
            term = r->records[index - r->records[0].index].term;
        }
    }
    return term;
}

int rguard_wal_truncate_suffix(rguard_wal *w, uint64_t from_index)
{
    int rc = writable(w);
    if (rc != 0) {
        return rc;
    }
    if (from_index <= w->base_index || from_index > w->tail_index + 1) {
        return -EINVAL;
    }
    if (from_index == w->tail_index + 1) {
        return 0;
    }
    rc = rguard__wal_control(w, WAL_TRUNC, from_index, 0);
    if (rc != 0) {
        return rc;
    }
    hide(w, from_index - 1);
    rguard__wal_index_drop_from(&w->index, from_index);
    w->tail_index = from_index - 1;
    w->tail_term = term_at(w, w->tail_index);
    return 0;
}

/* Writes the base and the first needed segment down, then gives the files below it away. */
static int prune(rguard_wal *w)
{
    uint64_t keep = w->last.lsn != 0 ? w->last.segment : w->segments.v[0].sequence;
    const struct wal_entry *first = rguard__wal_index_get(&w->index, w->index.first);
    if (first != NULL) {
        const struct wal_segment *s = rguard__wal_segments_find(&w->segments, first->lsn);
        RGUARD_ASSERT(s != NULL);
        keep = s->sequence;
    }
    struct wal_meta next = w->meta;
    next.base_index = w->base_index;
    next.base_term = w->base_term;
    next.base_lsn = w->end;
    if (keep > next.first_segment) {
        next.first_segment = keep;
    }
    int rc = rguard__wal_meta_write(w, &next);
    if (rc != 0) {
        return rc;
    }
    w->base_lsn = next.base_lsn;
    rguard__wal_segments_drop(w, keep);
    return 0;
}

int rguard_wal_truncate_prefix(rguard_wal *w, uint64_t upto_index)
{
    int rc = writable(w);
    if (rc != 0) {
        return rc;
    }
    if (upto_index > w->tail_index) {
        return -EINVAL;
    }
    if (upto_index <= w->base_index) {
        return 0;
    }
    /* It may be queued; and a truncation that is must be durable before what it voids is gone. */
    rc = rguard_wal_flush(w);
    if (rc != 0) {
        return rc;
    }
    const struct wal_entry *entry = rguard__wal_index_get(&w->index, upto_index);
    if (entry == NULL) {
        return -EINVAL; /* a callback has truncated it */
    }
    w->base_term = entry->term;
    w->base_index = upto_index;
    rguard__wal_index_drop_upto(&w->index, upto_index);
    return prune(w);
}

int rguard_wal_reset(rguard_wal *w, uint64_t index, uint64_t term)
{
    int rc = writable(w);
    if (rc == 0) {
        rc = rguard__wal_control(w, WAL_RESET, index, term);
    }
    if (rc != 0) {
        return rc;
    }
    hide(w, 0);
    rguard__wal_index_clear(&w->index, index + 1);
    w->base_index = w->tail_index = index;
    w->base_term = w->tail_term = term;
    rc = rguard_wal_flush(w);
    return rc == 0 ? prune(w) : rc;
}

/* ---- completion ---- */

void rguard__wal_poison(rguard_wal *w, int err)
{
    if (w->poisoned == 0) {
        w->poisoned = err;
    }
}

/* Nothing that is queued will be written any more. */
static void fail_queue(rguard_wal *w, int first_status)
{
    struct wal_request *r;
    size_t in_batch = w->batch_requests;
    while ((r = dequeue(&w->queue)) != NULL) {
        r->status = in_batch > 0 ? first_status : RGUARD_EPOISONED;
        in_batch -= in_batch > 0;
        enqueue(&w->done, r);
    }
    w->batch_requests = 0;
    w->reserved = 0;
}

/* There is no room on the disk for the next batch. Everything queued goes back to its owners, unless
 * something of it has happened already: a request of which a part is durable, or a truncation, which
 * readers have seen. */
static bool refuse_queue(rguard_wal *w, int err)
{
    if (err != -ENOSPC && err != -EDQUOT && err != -EFBIG) {
        return false;
    }
    for (const struct wal_request *r = w->queue.head; r != NULL; r = r->next) {
        if (r->taken > 0 || r->type == WAL_TRUNC || r->type == WAL_RESET) {
            return false;
        }
    }
    w->batch_requests = SIZE_MAX;
    fail_queue(w, err);
    w->refused = err;
    w->refusals++;
    w->tail_index = w->base_index;
    w->tail_term = w->base_term;
    if (w->index.n > 0) {
        w->tail_index = w->index.first + w->index.n - 1;
        w->tail_term = rguard__wal_index_get(&w->index, w->tail_index)->term;
    }
    return true;
}

static void commit_records(rguard_wal *w)
{
    const struct wal_table_entry *t = rguard__wal_batch_table(w->buf, &w->batch);
    struct wal_request *r = w->queue.head;
    for (uint32_t i = 0; i < w->batch.n_records; i++) {
        while (r->taken == r->n) {
            r = r->next;
        }
        r->taken++;
        if (t[i].index <= r->visible_to) {
            RGUARD_ASSERT(t[i].index == w->index.first + w->index.n);
            struct wal_entry entry = {
                t[i].term, w->batch.lsn + t[i].offset, t[i].len, t[i].crc, t[i].type, 0};
            rguard__wal_index_push(&w->index, &entry);
        }
    }
    w->reserved -= w->batch.n_records;
    w->stats.records += w->batch.n_records;
}

/* The batch is durable. */
static void commit(rguard_wal *w)
{
    commit_records(w);
    for (size_t i = 0; i < w->batch_requests; i++) {
        struct wal_request *r = w->queue.head;
        if (r->taken < r->n) {
            break; /* the rest of it goes into the next batch */
        }
        enqueue(&w->done, dequeue(&w->queue));
    }
    w->batch_requests = 0;
    w->last = w->batch;
    w->end += w->batch.length;
    w->completed_lsn = w->end;
    w->recorded_lsn = w->batch.acked_lsn;
    w->stats.batches++;
    w->stats.bytes += w->batch.length;
    w->stats.marks += w->batch.type == WAL_MARK;
    w->idle_since_ms = rguard__wal_now_ms();
}

static void on_written(void *user, int status)
{
    rguard_wal *w = user;
    w->in_flight = false;
    if (status == 0) {
        status = RGUARD_FP_NEGERR("wal/write", "result of a batch's durable write");
    }
    if (status == 0) {
        status = w->poisoned;
    }
    if (status == 0) {
        commit(w);
    } else {
        rguard__wal_poison(w, status);
        fail_queue(w, status);
    }
}

/* Reentrant: a callback that flushes finds the remaining callbacks first in `done`. Acknowledged is
 * what the outermost caller has seen through. */
static void deliver(rguard_wal *w)
{
    struct wal_request *r;
    if (w->poisoned != 0 && !w->in_flight) {
        fail_queue(w, RGUARD_EPOISONED);
    }
    while ((r = dequeue(&w->done)) != NULL) {
        rguard_wal_append_cb cb = r->cb;
        void *user = r->user;
        int status = r->status;
        request_put(w, r);
        if (cb != NULL) {
            w->delivering++;
            cb(user, status);
            w->delivering--;
        }
    }
    if (w->delivering == 0) {
        w->acked_lsn = w->completed_lsn;
    }
}

/* What close() could not write any more. */
void rguard__wal_cancel(rguard_wal *w)
{
    for (struct wal_request *r = w->queue.head; r != NULL; r = r->next) {
        r->status = RGUARD_ECANCELED;
    }
    while (w->queue.head != NULL) {
        enqueue(&w->done, dequeue(&w->queue));
    }
    w->batch_requests = 0;
    deliver(w);
}

/* ---- building a batch ---- */

/* Records and tables that go into one batch: only a record that is larger by itself needs a segment
 * that is larger than usual. */
static uint64_t body_limit(const rguard_wal *w)
{
    uint64_t usable = w->options.segment_bytes - WAL_OVERHEAD;
    uint64_t overhead = WAL_BLOCK + usable / 64; /* header, sector array, rounding */
    uint64_t limit = usable > overhead ? usable - overhead : 0;
    return limit < BATCH_BODY ? limit : BATCH_BODY;
}

/* How many records fit: whole queue up to the limit, at least one, DATA requests in a row. */
static void measure(rguard_wal *w, struct wal_batch_header *h)
{
    const uint64_t limit = body_limit(w);
    uint64_t body = 0, payload = 0;
    w->batch_requests = 0;
    for (const struct wal_request *r = w->queue.head; r != NULL && r->type == WAL_DATA;
         r = r->next) {
        for (size_t i = r->taken; i < r->n; i++) {
            uint64_t padded = (r->records[i].len + 7ULL) & ~7ULL;
            uint64_t more = padded + sizeof(struct wal_table_entry);
            if (h->n_records > 0 && body + more > limit) {
                w->batch_requests += i > r->taken;
                h->payload_length = (uint32_t)payload;
                return;
            }
            body += more;
            payload += padded;
            h->n_records++;
        }
        w->batch_requests++;
    }
    h->payload_length = (uint32_t)payload;
}

static int grow(rguard_wal *w, uint64_t bytes)
{
    if (bytes <= w->buf_bytes) {
        return 0;
    }
    uint8_t *buf = aligned_alloc(WAL_BLOCK, bytes);
    if (buf == NULL) {
        return -ENOMEM;
    }
    free(w->buf);
    w->buf = buf;
    w->buf_bytes = bytes;
    return 0;
}

static void encode(rguard_wal *w, struct wal_batch_header *h)
{
    const struct wal_segment *g = &w->segments.v[w->segments.n - 1];
    struct wal_place place = {w->meta.uuid, g->sequence, g->salt, w->end, 0};
    struct wal_encoder e;
    h->meta_generation = w->meta.generation;
    rguard__wal_encode_start(&e, w->buf, h);
    rguard__wal_encode_follow(&e, &w->last);
    const struct wal_request *r = w->queue.head;
    size_t i = r->taken;
    while (e.n < h->n_records) {
        if (i == r->n) {
            r = r->next;
            i = r->taken;
            continue;
        }
        rguard__wal_encode_put(&e, &r->records[i++]);
    }
    rguard__wal_encode_finish(&e, &place);
}

/* The next batch's header, but for what encoding fills in. */
static struct wal_batch_header next_header(rguard_wal *w)
{
    const struct wal_request *r = w->queue.head;
    struct wal_batch_header h = {
        .type = r->type,
        .acked_lsn = w->acked_lsn,
    };
    if (r->type == WAL_DATA) {
        measure(w, &h);
    } else {
        h.arg_index = r->arg_index;
        h.arg_term = r->arg_term;
        w->batch_requests = 1;
    }
    return h;
}

/* Before the first batch after a clean close, the clean flag goes. */
static int unmark_clean(rguard_wal *w)
{
    if (w->meta.clean == 0) {
        return 0;
    }
    struct wal_meta next = w->meta;
    next.clean = 0;
    return rguard__wal_meta_write(w, &next);
}

/* A planted bug: the callbacks of a batch before it is written. */
static void acknowledge_early(rguard_wal *w)
{
    struct wal_request *r = w->queue.head;
    for (size_t i = 0; i < w->batch_requests; i++, r = r->next) {
        if (r->cb != NULL) {
            r->cb(r->user, 0);
            r->cb = NULL;
        }
    }
}

static int start(rguard_wal *w, struct wal_batch_header *h, uint64_t bytes)
{
    int rc = RGUARD_FP_NEGERR("wal/append", "before a batch is submitted");
    if (rc == 0) {
        rc = unmark_clean(w);
    }
    if (rc == 0) {
        rc = grow(w, bytes);
    }
    if (rc != 0) {
        return rc;
    }
    encode(w, h);
    if (RGUARD_TEST_OFF("early_ack")) {
        acknowledge_early(w);
    }
    w->batch = *h;
    const struct wal_segment *g = &w->segments.v[w->segments.n - 1];
    w->in_flight = true;
    rc = w->disk->ops->write_start(w->disk, w->file, w->buf, h->length, w->end - g->first_lsn,
                                   on_written, w);
    w->in_flight = rc == 0;
    return rc;
}

static void submit(rguard_wal *w)
{
    if (w->in_flight || w->poisoned != 0 || w->queue.head == NULL) {
        return;
    }
    struct wal_batch_header h = next_header(w);
    uint64_t bytes = rguard__wal_batch_bytes(h.n_records, h.payload_length);
    int rc = rguard__wal_segment_room(w, bytes);
    if (rc == WAL_WAIT) {
        w->batch_requests = 0; /* it is measured anew when there is room */
        return;
    }
    if (rc != 0 && refuse_queue(w, rc)) {
        return;
    }
    if (rc == 0) {
        rc = start(w, &h, bytes);
    }
    if (rc != 0) {
        rguard__wal_poison(w, rc);
        fail_queue(w, rc);
    }
}

/* ---- driving ---- */

static bool idle(const rguard_wal *w)
{
    return !w->in_flight && w->queue.head == NULL && w->done.head == NULL && w->poisoned == 0 &&
           !w->options.read_only && !w->damaged;
}

/* What was acknowledged last is not yet on record, and a MARK would not have to wait for room. */
static bool mark_wanted(const rguard_wal *w)
{
    return w->recorded_lsn < w->acked_lsn && w->last.lsn != 0 && w->last.type != WAL_MARK &&
           w->last.type != WAL_CLOSE && rguard__wal_segment_ready(w, WAL_BLOCK);
}

static int reap(rguard_wal *w, bool wait)
{
    if (w->in_flight || w->factory.running) {
        int rc = w->disk->ops->process(w->disk, wait);
        if (rc < 0) {
            rguard__wal_poison(w, rc);
            return rc;
        }
    }
    return 0;
}

int rguard_wal_process(rguard_wal *w)
{
    (void)reap(w, false);
    deliver(w);
    if (idle(w) && mark_wanted(w) &&
        rguard__wal_now_ms() - w->idle_since_ms >= w->options.mark_idle_ms) {
        (void)rguard__wal_control(w, WAL_MARK, 0, 0);
    }
    submit(w);
    rguard__wal_factory_turn(w);
    (void)reap(w, false);
    deliver(w);
    return w->poisoned != 0 ? RGUARD_EPOISONED : 0;
}

int rguard_wal_flush(rguard_wal *w)
{
    const uint64_t before = w->refusals;
    while (w->queue.head != NULL || w->in_flight || w->done.head != NULL) {
        submit(w);
        rguard__wal_factory_turn(w);
        if (reap(w, w->in_flight || w->factory.waiting) != 0) {
            break;
        }
        deliver(w);
    }
    if (w->poisoned != 0) {
        return RGUARD_EPOISONED;
    }
    return w->refusals != before ? w->refused : 0;
}

int rguard_wal_fd(const rguard_wal *w)
{
    return w->disk->ops->fd(w->disk);
}

static int mark_timeout_ms(const rguard_wal *w)
{
    if (!mark_wanted(w)) {
        return -1;
    }
    uint64_t waited = rguard__wal_now_ms() - w->idle_since_ms;
    return waited >= w->options.mark_idle_ms ? 0 : (int)(w->options.mark_idle_ms - waited);
}

int rguard_wal_timeout_ms(const rguard_wal *w)
{
    if (w->in_flight) {
        return -1;
    }
    if (w->done.head != NULL || (w->queue.head != NULL && !w->factory.waiting)) {
        return 0;
    }
    if (w->poisoned != 0 || w->options.read_only) {
        return -1;
    }
    int factory = rguard__wal_factory_timeout_ms(w);
    int mark = w->queue.head == NULL ? mark_timeout_ms(w) : -1;
    return factory < 0 || (mark >= 0 && mark < factory) ? mark : factory;
}
