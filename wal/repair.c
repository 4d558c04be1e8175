/* SPDX-License-Identifier: Apache-2.0 */
/* Putting damaged records back.
 *
 *     put --> judged by what has survived of it --> journal --> ... the last one of its place:
 *     the batch is built anew --> proved by its header --> journal (COMMIT) --> written in place
 *     --> read from the device and checked --> journal (RESOLVED)
 *
 * Invariant: nothing is written over a damaged place but bytes that are committed in the journal.
 * Where the header of the batch has survived, here or in its successor, they are the bytes that
 * were there before, to the last bit: their header must come out the same, and that has the CRCs
 * of the table and of the data. Where it is lost, or where records that nobody can provide had
 * become void, a batch stands in (format_internal.h) that takes the whole place. */
#include "wal_internal.h"

#include <raftguard/crc32c.h>
#include <raftguard/testing.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int complete(rguard_wal *w, struct wal_fault *f);
static int finish(rguard_wal *w);

/* ---- is it the record that stood there? ---- */

static bool lost_tail(const struct wal_fault *f)
{
    return f->tail && f->h.lsn == 0 && f->pub.first_index != 0;
}

static int judge(const struct wal_fault *f, const struct wal_lost_record *r,
                 const struct rguard_wal_record *record, uint32_t crc, uint64_t committed)
{
    if (f->segment.bytes == 0) {
        return RGUARD_ENOTSUP;
    }
    if (r != NULL && r->known) {
        bool same = record->term == r->id.term && record->type == r->id.type &&
                    record->len == r->id.len && crc == r->id.crc;
        return same || RGUARD_TEST_OFF("repair_identity") ? 0 : RGUARD_ECHECKSUM;
    }
    if (record->index > committed && !RGUARD_TEST_OFF("repair_identity")) {
        return RGUARD_EREFUSED;
    }
    bool fits = record->term >= f->least_term && record->term <= f->most_term &&
                (r == NULL || r->id.term == 0 || r->id.term == record->term);
    return fits ? 0 : RGUARD_ECHECKSUM;
}

static bool keep(struct wal_lost_record *r, const struct rguard_wal_record *record, uint32_t crc,
                 const void *data)
{
    void *copy = malloc(record->len + 1u);
    if (copy == NULL) {
        return false;
    }
    if (record->len > 0) {
        memcpy(copy, data, record->len);
    }
    free((void *)(uintptr_t)r->id.data);
    r->id = *record;
    r->id.crc = crc;
    r->id.data = copy;
    return true;
}

/* Bytes that a batch of the place's records takes, and of @more, if it takes the whole place. */
static uint64_t bytes_needed(const struct wal_fault *f, const struct rguard_wal_record *more)
{
    uint64_t bytes = WAL_BATCH_HEAD + f->pub.bytes / WAL_SECTOR * sizeof(uint32_t);
    for (size_t i = 0; i < f->n; i++) {
        bytes += sizeof(struct wal_table_entry) + ((f->records[i].id.len + 7ULL) & ~7ULL);
    }
    return more == NULL ? bytes
                        : bytes + sizeof(struct wal_table_entry) + ((more->len + 7ULL) & ~7ULL);
}

static struct wal_lost_record *grow(struct wal_fault *f)
{
    struct wal_lost_record *v = realloc(f->records, (f->n + 2) * sizeof *v);
    if (v == NULL) {
        return NULL;
    }
    f->records = v;
    memset(&v[f->n], 0, sizeof *v);
    v[f->n].live = v[f->n].needed = true;
    return &v[f->n];
}

static int journal_put(rguard_wal *w, const struct wal_fault *f,
                       const struct rguard_wal_record *record)
{
    struct wal_journal_entry e = {.kind = WAL_JOURNAL_PUT,
                                  .type = record->type,
                                  .lsn = f->pub.lsn,
                                  .index = record->index,
                                  .term = record->term,
                                  .data_bytes = record->len};
    return rguard__wal_journal_append(w, &e, record->data);
}

/* The next record of a tail of which nothing is known. */
static int put_at_tail(rguard_wal *w, struct wal_fault *f, const struct rguard_wal_record *record,
                       uint32_t crc, bool *fits)
{
    *fits = bytes_needed(f, record) <= f->pub.bytes;
    if (!*fits) {
        return 0; /* larger than the place: it cannot have stood there, nor can any behind it */
    }
    struct wal_lost_record *r = grow(f);
    int rc = r == NULL ? -ENOMEM : journal_put(w, f, record);
    if (rc != 0) {
        return rc;
    }
    if (!keep(r, record, crc, record->data)) {
        return -ENOMEM;
    }
    f->n++;
    f->least_term = record->term;
    return 0;
}

static bool all_put(const struct wal_fault *f)
{
    for (size_t i = 0; i < f->n; i++) {
        if (f->records[i].needed && f->records[i].id.data == NULL) {
            return false;
        }
    }
    return f->segment.bytes != 0;
}

static struct wal_fault *find_tail(rguard_wal *w, uint64_t index)
{
    for (size_t i = 0; i < w->faults.n; i++) {
        struct wal_fault *f = &w->faults.v[i];
        if (lost_tail(f) && !f->whole && index >= f->pub.first_index) {
            return f;
        }
    }
    return NULL;
}

int rguard_wal_repair_put(rguard_wal *w, const struct rguard_wal_record *record, uint64_t committed)
{
    if (w->poisoned != 0) {
        return RGUARD_EPOISONED;
    }
    if (w->options.read_only) {
        return -EROFS;
    }
    int rc = rguard__wal_heal_live(w);
    if (rc != 0) {
        return rc;
    }
    if (record->type > UINT16_MAX || (record->len > 0 && record->data == NULL)) {
        return -EINVAL;
    }
    if (record->len > WAL_RECORD_MAX) {
        return RGUARD_ETOOBIG;
    }
    struct wal_fault *f = NULL;
    struct wal_lost_record *r = rguard__wal_fault_find(&w->faults, record->index, &f);
    if (r == NULL) {
        f = find_tail(w, record->index);
    }
    if (f == NULL) {
        return -ENOENT;
    }
    uint32_t crc = rguard_crc32c(0, record->data, record->len);
    rc = judge(f, r, record, crc, committed);
    bool last, fits = true;
    if (rc != 0) {
        return rc;
    }
    if (r == NULL) {
        if (record->index != f->pub.first_index + f->n) {
            return -EINVAL;
        }
        rc = put_at_tail(w, f, record, crc, &fits);
        last = !fits || record->index >= committed;
    } else {
        rc = journal_put(w, f, record);
        if (rc == 0 && !keep(r, record, crc, record->data)) {
            rc = -ENOMEM;
        }
        last = lost_tail(f) ? record->index >= committed : all_put(f);
    }
    return rc == 0 && last ? complete(w, f) : rc;
}

/* ---- building the batch ---- */

struct image
{
    uint8_t *buf;
    struct wal_batch_header h;
    size_t capacity;
    bool exact; /* what was there before */
};

/* What is put of record @r: what was brought, or what has survived in @old. */
static int encode_record(struct wal_encoder *e, const struct wal_lost_record *r, const uint8_t *old)
{
    struct rguard_wal_record record = r->id;
    if (record.data == NULL) {
        record.data = old + r->offset;
        if (rguard_crc32c(0, record.data, record.len) != record.crc) {
            return RGUARD_ECHECKSUM; /* it was intact a while ago */
        }
    }
    rguard__wal_encode_put(e, &record);
    return 0;
}

/* Every record of the batch can be had. */
static bool is_exact(const struct wal_fault *f)
{
    for (size_t i = 0; i < f->n; i++) {
        if (!f->records[i].intact && f->records[i].id.data == NULL) {
            return false;
        }
    }
    return f->h.lsn != 0;
}

static int build_exact(const struct wal_fault *f, const uint8_t *old, struct image *m)
{
    struct wal_place place = {f->h.uuid, f->h.segment, f->h.salt, f->h.lsn, f->h.length};
    struct wal_encoder e;
    int rc = 0;
    m->exact = true;
    m->h = f->h;
    rguard__wal_encode_start(&e, m->buf, &m->h);
    if (f->prev.lsn == f->h.prev_lsn && f->prev.header_crc == f->h.prev_header_crc &&
        f->prev.lsn != 0) {
        memcpy(m->buf + sizeof f->prev, &f->prev, sizeof f->prev);
    }
    uint64_t payload = 0;
    for (size_t i = 0; i < f->n; i++) {
        payload += (f->records[i].id.len + 7ULL) & ~7ULL;
    }
    if (payload != f->h.payload_length) {
        return RGUARD_ECHECKSUM;
    }
    for (size_t i = 0; i < f->n && rc == 0; i++) {
        rc = encode_record(&e, &f->records[i], old);
    }
    if (rc != 0) {
        return rc;
    }
    rguard__wal_encode_finish(&e, &place);
    bool proved = m->h.header_crc == f->h.header_crc;
    return proved || RGUARD_TEST_OFF("repair_identity") ? 0 : RGUARD_ECHECKSUM;
}

static void stand_in_header(const rguard_wal *w, const struct wal_fault *f, struct image *m)
{
    struct wal_batch_header h = {.type = WAL_DATA,
                                 .flags = WAL_STANDS_IN,
                                 .length = (uint32_t)f->pub.bytes,
                                 .acked_lsn = f->pub.lsn,
                                 .meta_generation = f->h.meta_generation};
    memcpy(h.uuid, w->meta.uuid, WAL_UUID);
    if (f->h.lsn != 0) {
        h.stands_lsn = f->h.lsn;
        h.stands_crc = f->h.header_crc;
    } else {
        h.stands_lsn = f->stands_lsn;
        h.stands_crc = f->stands_crc;
    }
    for (size_t i = 0; i < f->n; i++) {
        if (f->records[i].live) {
            h.n_records++;
            h.payload_length += (uint32_t)((f->records[i].id.len + 7ULL) & ~7ULL);
        }
    }
    if (f->n > 0) {
        h.first_index = f->records[0].id.index;
        h.last_index = f->records[f->n - 1].id.index;
    }
    m->h = h;
}

static int build_stand_in(const rguard_wal *w, const struct wal_fault *f, const uint8_t *old,
                          struct image *m)
{
    struct wal_place place = {w->meta.uuid, f->segment.sequence, f->segment.salt, f->pub.lsn, 0};
    struct wal_encoder e;
    uint64_t tail = f->h.lsn != 0 ? f->h.tail_index
                    : f->n > 0    ? f->records[f->n - 1].id.index
                                  : f->prev.tail_index;
    int rc = 0;
    m->exact = false;
    stand_in_header(w, f, m);
    if (!rguard__wal_header_sane(&m->h, f->pub.bytes)) {
        return RGUARD_ETOOBIG; /* not the records that stood here: those had room */
    }
    rguard__wal_encode_start(&e, m->buf, &m->h);
    rguard__wal_encode_follow(&e, &f->prev);
    if (f->h.lsn != 0) {
        m->h.prev_lsn = f->h.prev_lsn;
        m->h.prev_header_crc = f->h.prev_header_crc;
        m->h.cut_lsn = f->h.cut_lsn;
        if (f->prev.header_crc != f->h.prev_header_crc) {
            memset(m->buf + sizeof m->h, 0, sizeof m->h);
        }
    }
    m->h.tail_index = tail;
    for (size_t i = 0; i < f->n && rc == 0; i++) {
        if (f->records[i].live) {
            rc = encode_record(&e, &f->records[i], old);
            m->h.first_term = m->h.first_term == 0 ? f->records[i].id.term : m->h.first_term;
            m->h.last_term = f->records[i].id.term;
        }
    }
    if (rc == 0) {
        rguard__wal_encode_finish(&e, &place);
    }
    return rc;
}

/* ---- writing it ---- */

static bool only_strays(const struct wal_fault *f)
{
    return f->tail && f->h.lsn == 0 && f->pub.first_index == 0;
}

static int journal_image(rguard_wal *w, const struct wal_fault *f, const struct image *m)
{
    struct wal_journal_entry e = {.kind = WAL_JOURNAL_WRITE,
                                  .lsn = f->pub.lsn,
                                  .segment = f->segment.sequence,
                                  .salt = f->segment.salt,
                                  .offset = f->pub.lsn - f->segment.first_lsn,
                                  .bytes = m->h.length,
                                  .data_bytes = m->h.length};
    memcpy(e.uuid, w->meta.uuid, WAL_UUID);
    struct wal_journal_entry commit = {.kind = WAL_JOURNAL_COMMIT, .lsn = f->pub.lsn};
    if (m->h.length == 0) {
        e.kind = WAL_JOURNAL_ZERO;
        e.bytes = rguard__wal_segment_limit(&f->segment) - f->pub.lsn;
    }
    int rc = rguard__wal_journal_append(w, &e, m->buf);
    rc = rc == 0 ? rguard__wal_journal_append(w, &commit, NULL) : rc;
    return rc == 0 ? rguard__wal_journal_apply(w->disk, &e, m->buf) : rc;
}

/* From the device, not from memory. */
static int verify(rguard_wal *w, const struct wal_fault *f, const struct image *m)
{
    struct wal_fault place = {.segment = f->segment, .h = m->h};
    struct wal_place at = {w->meta.uuid, f->segment.sequence, f->segment.salt, m->h.lsn,
                           m->h.length};
    struct wal_batch_header h;
    size_t n_bad = 0;
    uint8_t *bad = calloc(1, m->h.length / WAL_SECTOR + 1u);
    if (bad == NULL) {
        return -ENOMEM;
    }
    int rc = rguard__wal_read_place(w->disk, &place, m->buf, bad, &n_bad);
    if (rc == 0 && n_bad > 0) {
        rc = -EIO;
    }
    if (rc == 0 && (rguard__wal_batch_check(m->buf, &at, &h) != WAL_VALID ||
                    h.header_crc != m->h.header_crc)) {
        rc = RGUARD_ECHECKSUM;
    }
    free(bad);
    return rc;
}

/* The records can be read again. */
static void settle_index(rguard_wal *w, const struct wal_fault *f, const struct image *m)
{
    const struct wal_table_entry *t = rguard__wal_batch_table(m->buf, &m->h);
    for (uint32_t i = 0; i < m->h.n_records; i++) {
        struct wal_entry *entry = rguard__wal_index_at(&w->index, t[i].index);
        const struct wal_lost_record *r = &f->records[t[i].index - f->records[0].id.index];
        if (entry != NULL && r->live) {
            struct wal_entry whole = {
                t[i].term, m->h.lsn + t[i].offset, t[i].len, t[i].crc, t[i].type, 0};
            *entry = whole;
        }
    }
}

/* What was put was not what stood there; what is known of the place is not changed by that. */
static int forget(rguard_wal *w, struct wal_fault *f, int why)
{
    struct wal_journal_entry e = {.kind = WAL_JOURNAL_RESOLVED, .lsn = f->pub.lsn};
    for (size_t i = 0; i < f->n; i++) {
        if (!f->records[i].known) {
            free((void *)(uintptr_t)f->records[i].id.data);
            f->records[i].id.data = NULL;
        }
    }
    f->n = lost_tail(f) ? 0 : f->n;
    int rc = rguard__wal_journal_append(w, &e, NULL);
    return rc != 0 ? rc : why;
}

/* What is dropped is copied, and the metadata lets the log end in another batch than CLOSE. That it
 * ends below what was acknowledged still stands there. */
static int prepare_tail(rguard_wal *w, const struct wal_fault *f)
{
    if (!f->tail || f->h.lsn != 0) {
        return 0;
    }
    int rc = rguard__wal_quarantine(w, &f->segment, f->pub.lsn, NULL, 0);
    if (rc == 0 && w->meta.clean != 0) {
        struct wal_meta next = w->meta;
        next.clean = 0;
        rc = rguard__wal_meta_write(w, &next);
    }
    return rc;
}

static int build(rguard_wal *w, const struct wal_fault *f, struct image *m)
{
    size_t n_bad = 0, bytes = f->pub.bytes;
    uint8_t *old = aligned_alloc(WAL_BLOCK, bytes), *bad = calloc(1, bytes / WAL_SECTOR + 1);
    int rc = old == NULL || bad == NULL ? -ENOMEM : 0;
    if (rc == 0 && f->h.lsn != 0) {
        rc = rguard__wal_read_place(w->disk, f, old, bad, &n_bad);
    }
    if (rc == 0) {
        rc = is_exact(f) ? build_exact(f, old, m) : build_stand_in(w, f, old, m);
    }
    free(old);
    free(bad);
    return rc;
}

static int complete(rguard_wal *w, struct wal_fault *f)
{
    struct wal_journal_entry resolved = {.kind = WAL_JOURNAL_RESOLVED, .lsn = f->pub.lsn};
    struct image m = {.buf = aligned_alloc(WAL_BLOCK, f->pub.bytes + WAL_BLOCK)};
    if (m.buf == NULL) {
        return -ENOMEM;
    }
    int rc = only_strays(f) ? 0 : build(w, f, &m);
    if (rc == RGUARD_ECHECKSUM || rc == RGUARD_ETOOBIG) {
        rc = forget(w, f, rc);
    }
    rc = rc == 0 ? prepare_tail(w, f) : rc;
    rc = rc == 0 ? journal_image(w, f, &m) : rc;
    if (rc == 0 && !only_strays(f)) {
        rc = verify(w, f, &m);
    }
    rc = rc == 0 ? rguard__wal_journal_append(w, &resolved, NULL) : rc;
    if (rc == 0) {
        f->whole = true;
        w->read_until = 0;
        if (!f->tail && m.h.n_records > 0) {
            settle_index(w, f, &m);
        }
    }
    free(m.buf);
    return rc == 0 ? finish(w) : rc;
}

/* The first place that is not whole, copies behind the end last: the batch that such a copy is of
 * may be known from it alone. */
static struct wal_fault *next_fault(rguard_wal *w)
{
    struct wal_fault *stray = NULL;
    for (size_t i = 0; i < w->faults.n; i++) {
        struct wal_fault *f = &w->faults.v[i];
        if (!f->whole && !only_strays(f)) {
            return f;
        }
        stray = f->whole ? stray : f;
    }
    return stray;
}

/* When every place is whole, the log is, and it is looked at once more from the start. */
static int finish(rguard_wal *w)
{
    struct wal_fault *left = next_fault(w);
    if (left != NULL) {
        return only_strays(left) && all_put(left) ? complete(w, left) : 0;
    }
    int rc = rguard__wal_journal_remove(w);
    if (rc != 0 || !w->damaged) {
        rguard__wal_faults_free(&w->faults);
        return rc;
    }
    struct rguard_wal_report report;
    rc = rguard__wal_readopt(w, &report);
    return rc == 0 && w->damaged && w->healing < 8 ? rguard__wal_heal(w) : rc;
}

/* ---- after an open ---- */

static void take_up(rguard_wal *w, const struct wal_journal_entry *e, const uint8_t *data)
{
    struct wal_fault *f = NULL;
    for (size_t i = 0; i < w->faults.n; i++) {
        f = w->faults.v[i].pub.lsn == e->lsn ? &w->faults.v[i] : f;
    }
    if (f == NULL) {
        return; /* whole, or another damage than the one that it was put for */
    }
    if (e->kind == WAL_JOURNAL_RESOLVED) {
        for (size_t i = 0; i < f->n; i++) {
            free((void *)(uintptr_t)f->records[i].id.data);
            f->records[i].id.data = NULL;
        }
        f->n = lost_tail(f) ? 0 : f->n;
    }
    if (e->kind != WAL_JOURNAL_PUT) {
        return;
    }
    struct rguard_wal_record record = {
        .index = e->index, .term = e->term, .type = e->type, .len = e->data_bytes, .data = data};
    uint32_t crc = rguard_crc32c(0, data, e->data_bytes);
    struct wal_lost_record *r = NULL;
    bool next = lost_tail(f) && e->index == f->pub.first_index + f->n;
    for (size_t i = 0; i < f->n; i++) {
        r = f->records[i].id.index == e->index && f->records[i].needed ? &f->records[i] : r;
    }
    if (r == NULL && next) {
        r = grow(f);
        f->n += r != NULL;
    }
    /* Committed it was when it was put. */
    if (r != NULL && judge(f, r, &record, crc, UINT64_MAX) == 0) {
        (void)keep(r, &record, crc, data);
    }
}

/* No record is missing. Where nothing is known of what was there, somebody has to vouch for it. */
static bool needs_nobody(rguard_wal *w, const struct wal_fault *f)
{
    return !f->whole && !lost_tail(f) && all_put(f) && (!only_strays(f) || next_fault(w) == f);
}

int rguard__wal_heal(rguard_wal *w)
{
    int rc = w->healing == 0 ? rguard__wal_journal_load(w, take_up) : 0;
    w->healing++;
    for (size_t i = 0; i < w->faults.n && rc == 0 && w->damaged; i++) {
        if (!needs_nobody(w, &w->faults.v[i])) {
            continue;
        }
        rc = complete(w, &w->faults.v[i]);
        if (rc == RGUARD_ECHECKSUM || rc == RGUARD_ETOOBIG) {
            rc = 0; /* it stays as damaged as it is */
        }
    }
    w->healing--;
    return rc;
}

int rguard__wal_heal_live(rguard_wal *w)
{
    int rc = 0;
    bool again = true;
    while (again && rc == 0) {
        again = false;
        for (size_t i = 0; i < w->faults.n && !again; i++) {
            struct wal_fault *f = &w->faults.v[i];
            const struct wal_segment *g = rguard__wal_segments_find(&w->segments, f->pub.lsn);
            if (f->whole || !f->live) {
                continue;
            }
            if (g == NULL || g->salt != f->segment.salt) {
                f->whole = again = true;
                rc = finish(w);
            } else if (all_put(f)) {
                again = true;
                rc = complete(w, f);
            }
        }
    }
    return rc;
}
