/* SPDX-License-Identifier: Apache-2.0 */
/* The model of a log. It reads the headers of what is written, because they say how the log was cut
 * into batches; whether they are found again is what the oracle asks. */
#include "wal_model.h"

#include <raftguard/crc32c.h>
#include <raftguard/testing.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void model_init(struct model *m)
{
    memset(m, 0, sizeof *m);
    m->term = 1;
    m->metas.n = 1; /* what creation writes: no term, no vote */
    m->metas.v[0].durable = 2;
    m->metas.v[0].meta.generation = 1;
}

const struct model_log *model_log(const struct model *m, uint32_t k)
{
    static const struct model_log empty;
    return k == 0 ? &empty : &m->batches[k - 1].after;
}

bool model_same(const struct model *m, uint32_t j, uint32_t k)
{
    const struct model_log *x = model_log(m, j), *y = model_log(m, k);
    bool same = x->base == y->base && x->last == y->last;
    for (uint64_t i = x->base + 1; i <= x->last && same; i++) {
        same = x->serial[i] == y->serial[i];
    }
    return same;
}

static bool present(const struct model_batch *b, const rguard_wal *w)
{
    return (w->last.lsn == b->lsn && w->last.type == b->type) || w->last.prev_lsn == b->lsn;
}

static void adopt_meta(struct model *m, const struct wal_meta *meta, uint32_t n);

void model_adopt(struct model *m, uint32_t k, const rguard_wal *w)
{
    /* A MARK or CLOSE in flight may be lost without a difference. */
    if (k > m->durable && model_same(m, k, k - 1) && !present(&m->batches[k - 1], w)) {
        k--;
    }
    /* What recovery has written behind state k does not change it. */
    uint32_t n = k, records = k == 0 ? 0 : m->batches[k - 1].records;
    for (uint32_t i = k; i < m->n_batches; i++) {
        if (m->batches[i].records == UINT32_MAX) {
            m->batches[n] = m->batches[i];
            m->batches[n].after = *model_log(m, k);
            m->batches[n++].records = records;
        }
    }
    m->n_batches = m->durable = m->acked = n;
    m->n_records = m->written_records = m->acked_records = records;
    adopt_meta(m, &w->meta, n);
    m->recovering = false;
}

static void adopt_meta(struct model *m, const struct wal_meta *meta, uint32_t n)
{
    uint32_t i = m->metas.n;
    while (i > 0 && m->metas.v[i - 1].meta.generation != meta->generation) {
        i--;
    }
    if (i == 0) { /* recovery has written it, and nobody was watching */
        RGUARD_ASSERT(m->metas.n < MODEL_METAS);
        i = ++m->metas.n;
        m->metas.v[i - 1] = (struct model_meta){*meta, 2, 0};
    }
    m->metas.n = i;
    m->metas.acked = i - 1;
    m->metas.v[i - 1].acked = m->metas.v[i - 1].acked < n ? m->metas.v[i - 1].acked : n;
}

static void break_(struct model *m, const char *what)
{
    if (m->broken[0] == '\0') {
        (void)snprintf(m->broken, sizeof m->broken, "%s", what);
    }
}

/* ---- what is written ---- */

static void batch_started(struct model *m, const struct sim_event *e,
                          const struct wal_batch_header *h)
{
    RGUARD_ASSERT(m->n_batches < MODEL_BATCHES);
    struct model_batch *b = &m->batches[m->n_batches];
    memset(b, 0, sizeof *b);
    (void)snprintf(b->file, sizeof b->file, "%s", e->file);
    b->offset = e->offset;
    b->lsn = h->lsn;
    b->length = h->length;
    b->type = h->type;
    b->first = h->first_index;
    b->last = h->last_index;
    b->after = *model_log(m, m->n_batches);
    m->n_batches++;
    b->records = m->written_records;
    if (m->recovering) {
        b->records = UINT32_MAX; /* see model_adopt() */
        return;
    }
    if (h->type == WAL_DATA) {
        for (uint64_t i = h->first_index; i <= h->last_index; i++) {
            uint32_t serial = m->written_records++;
            if (serial >= m->n_records || m->records[serial].index != i) {
                break_(m, "a batch holds a record that was not appended");
                return;
            }
            m->records[serial].batch = m->n_batches;
            b->after.serial[i] = (uint16_t)serial;
        }
        b->after.last = h->last_index;
    } else if (h->type == WAL_TRUNC) {
        b->after.last = h->arg_index - 1;
    } else if (h->type == WAL_RESET) {
        b->after.base = b->after.last = h->arg_index;
    }
    b->records = m->written_records;
}

static void meta_started(struct model *m, const struct wal_meta *meta)
{
    struct model_metas *all = &m->metas;
    if (all->v[all->n - 1].meta.generation == meta->generation) {
        return; /* the second slot */
    }
    RGUARD_ASSERT(all->n < MODEL_METAS);
    all->v[all->n++] = (struct model_meta){*meta, 0, meta->clean != 0 ? m->durable : m->acked};
}

void model_event(struct model *m, const struct sim_event *e)
{
    struct wal_batch_header h;
    struct wal_meta meta;
    if (e->op != SIM_WRITE) {
        return;
    }
    if (strcmp(e->file, "meta") == 0) {
        memcpy(&meta, e->buf, sizeof meta);
        if (!e->done) {
            meta_started(m, &meta);
        } else if (e->status == 0 && ++m->metas.v[m->metas.n - 1].durable == 2) {
            m->metas.acked = m->metas.n - 1;
        }
    } else if (rguard__wal_segment_parse(e->file) != 0 && e->offset > 0) {
        memcpy(&h, e->buf, sizeof h);
        if (h.magic != WAL_BATCH_MAGIC) {
            return; /* a copy of the segment's header */
        }
        if (!e->done) {
            batch_started(m, e, &h);
        } else if (e->status == 0) {
            m->durable = m->n_batches;
        }
    }
}

/* ---- what is promised ---- */

void model_contents(const struct model *m, uint32_t serial, uint8_t *buf)
{
    const struct model_record *r = &m->records[serial];
    if (serial % 7 == 3) {
        memset(buf, 0, r->len); /* data that looks like nothing at all */
        return;
    }
    uint64_t state = sim_fork(r->index, serial ^ r->term << 32);
    for (uint32_t i = 0; i < r->len; i += 8) {
        uint64_t x = sim_random(&state);
        memcpy(buf + i, &x, r->len - i < 8 ? r->len - i : 8);
    }
}

uint32_t model_record(struct model *m, uint64_t index, uint32_t len)
{
    RGUARD_ASSERT(m->n_records < MODEL_RECORDS && index < MODEL_INDEXES);
    uint32_t serial = m->n_records++;
    m->records[serial] = (struct model_record){index, m->term, 1 + serial % 3, len, 0, 0};
    return serial;
}

void model_ack(struct model *m, uint32_t serial)
{
    if (serial + 1 <= m->acked_records) {
        break_(m, "an append was acknowledged twice or out of order");
    }
    m->acked_records = serial + 1;
    uint32_t batch = m->records[serial].batch;
    m->acked = batch > m->acked ? batch : m->acked;
}

void model_ack_all(struct model *m)
{
    m->acked = m->n_batches;
}

uint32_t model_floor(const struct model *m)
{
    if (m->acked_records > 0 && m->records[m->acked_records - 1].batch == 0) {
        return m->n_batches + 1; /* acknowledged before it was written: no state has it */
    }
    return m->acked;
}

/* ---- what is there ---- */

/* Everything but the contents. */
static bool same_shape(const struct model *m, rguard_wal *w, uint32_t k)
{
    const struct model_log *log = model_log(m, k);
    uint64_t base = w->base_index;
    if (rguard_wal_last_index(w) != log->last || base < log->base || base > log->last ||
        rguard_wal_first_index(w) != (log->last > base ? base + 1 : 0)) {
        return false;
    }
    for (uint64_t i = base + 1; i <= log->last; i++) {
        const struct model_record *want = &m->records[log->serial[i]];
        struct rguard_wal_record got;
        if (rguard_wal_stat(w, i, &got) != 0 || got.term != want->term || got.type != want->type ||
            got.len != want->len || (want->crc != 0 && got.crc != want->crc)) {
            return false;
        }
    }
    return true;
}

static int same_contents(const struct model *m, rguard_wal *w, uint32_t k, char *why, size_t len)
{
    const struct model_log *log = model_log(m, k);
    static _Thread_local uint8_t want[65536], got[65536];
    for (uint64_t i = w->base_index + 1; i <= log->last; i++) {
        uint32_t serial = log->serial[i];
        struct rguard_wal_record r;
        int rc = rguard_wal_read(w, i, &r, got, sizeof got);
        if (rc != 0) {
            (void)snprintf(why, len, "record %" PRIu64 " cannot be read: %s", i,
                           rguard_strerror(rc));
            return -1;
        }
        model_contents(m, serial, want);
        if (memcmp(want, got, r.len) != 0) {
            (void)snprintf(why, len, "record %" PRIu64 " has other contents than were appended", i);
            return -1;
        }
    }
    return 0;
}

int model_find(const struct model *m, rguard_wal *w, uint32_t low, char *why, size_t why_len)
{
    for (uint32_t k = m->n_batches + 1; k-- > low;) {
        bool recovery = k > 0 && m->batches[k - 1].records == UINT32_MAX;
        if (!recovery && same_shape(m, w, k)) {
            return same_contents(m, w, k, why, why_len) == 0 ? (int)k : -1;
        }
    }
    (void)snprintf(
        why, why_len,
        "records %" PRIu64 " to %" PRIu64 " (base %" PRIu64 ") are not the log after batch %u..%u",
        rguard_wal_first_index(w), rguard_wal_last_index(w), w->base_index, low, m->n_batches);
    return -1;
}

bool model_vote_ok(const struct model *m, const rguard_wal *w, uint32_t from)
{
    uint64_t term, vote;
    rguard_wal_meta_get(w, &term, &vote);
    for (uint32_t i = from; i < m->metas.n; i++) {
        if (m->metas.v[i].meta.term == term && m->metas.v[i].meta.vote == vote) {
            return true;
        }
    }
    return false;
}

void model_print(const struct model *m)
{
    for (uint32_t i = 0; i < m->n_batches; i++) {
        const struct model_batch *b = &m->batches[i];
        printf("  batch %-3u %s +%-6" PRIu64 " %6u bytes  %-5s", i + 1, b->file, b->offset,
               b->length, rguard__wal_type_name(b->type));
        if (b->type == WAL_DATA) {
            printf("  records %" PRIu64 "..%" PRIu64, b->first, b->last);
        }
        printf("  -> %" PRIu64 "..%" PRIu64 "%s\n", b->after.base + 1, b->after.last,
               i < m->acked     ? ""
               : i < m->durable ? "  not acknowledged"
                                : "  in flight");
    }
    for (uint32_t i = m->metas.n > 4 ? m->metas.n - 4 : 0; i < m->metas.n; i++) {
        const struct wal_meta *meta = &m->metas.v[i].meta;
        printf("  meta generation %" PRIu64 ": term %" PRIu64 " vote %" PRIu64 " base %" PRIu64
               "%s%s\n",
               meta->generation, meta->term, meta->vote, meta->base_index,
               meta->clean != 0 ? " clean" : "", i <= m->metas.acked ? "" : "  not acknowledged");
    }
}
