/* SPDX-License-Identifier: Apache-2.0 */
/* Cutting a log before its first damage, for a node that nobody can repair.
 *
 * Invariant: before a byte goes, a copy of it is durable in "quarantine-<lsn>", and the metadata
 * says that the log may end there. Files go last to first, so that a crash leaves no gap; the rest
 * is zeroed behind the cut. Until all of that is done the log is as damaged as it was, or is cut. */
#include "wal_internal.h"

#include <raftguard/crc32c.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the copy ----
 *
 *     [header][bytes of a segment file]  [header][bytes]  ...     whole blocks; at most 1 MiB each */

#define QUARANTINE_MAGIC 0x4e415551574c4757ULL /* "WGLWQUAN" */
#define CHUNK            (1024u * 1024u)

struct quarantine_header
{
    uint64_t magic;
    uint32_t version;
    uint32_t crc; /* of this header with crc = 0 */
    uint8_t uuid[WAL_UUID];
    uint64_t segment, offset; /* where the bytes were */
    uint32_t length;
    uint32_t data_crc;
    uint64_t unreadable; /* sectors that the device could not read; zero here */
};
_Static_assert(sizeof(struct quarantine_header) == 64, "quarantine header");

struct copying
{
    rguard_wal *w;
    struct rguard_file *to;
    uint64_t at;
    uint8_t *buf; /* a block for the header, and the chunk */
    uint8_t *bad; /* one byte per sector of it */
};

static int put_chunk(struct copying *c, uint64_t segment, uint64_t offset, size_t len, size_t n_bad)
{
    if (rguard__wal_is_zero(c->buf + WAL_BLOCK, len) && n_bad == 0) {
        return 0;
    }
    struct quarantine_header h = {.magic = QUARANTINE_MAGIC,
                                  .version = WAL_VERSION,
                                  .segment = segment,
                                  .offset = offset,
                                  .length = (uint32_t)len,
                                  .data_crc = rguard_crc32c(0, c->buf + WAL_BLOCK, len),
                                  .unreadable = n_bad};
    memcpy(h.uuid, c->w->meta.uuid, WAL_UUID);
    h.crc = rguard_crc32c(0, &h, sizeof h);
    memset(c->buf, 0, WAL_BLOCK);
    memcpy(c->buf, &h, sizeof h);
    int rc = c->w->disk->ops->write(c->w->disk, c->to, c->buf, WAL_BLOCK + len, c->at);
    c->at += WAL_BLOCK + len;
    return rc;
}

/* A segment file from @offset on; what is zero in it is left out. */
static int copy_file(struct copying *c, uint64_t sequence, uint64_t offset)
{
    const struct rguard_disk_ops *ops = c->w->disk->ops;
    char name[WAL_NAME_MAX];
    struct rguard_file *f;
    rguard__wal_segment_name(sequence, name);
    int rc = ops->open(c->w->disk, name, O_RDONLY, &f);
    if (rc != 0) {
        return rc;
    }
    int64_t size = ops->size(c->w->disk, f);
    while (rc == 0 && (int64_t)offset < size) {
        size_t n_bad = 0;
        memset(c->bad, 0, CHUNK / WAL_SECTOR);
        memset(c->buf + WAL_BLOCK, 0, CHUNK);
        int64_t n = rguard__wal_read_split(c->w->disk, f, c->buf + WAL_BLOCK, CHUNK, offset, c->bad,
                                           &n_bad);
        if (n <= 0) {
            rc = (int)n;
            break;
        }
        size_t whole = ((size_t)n + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK;
        rc = put_chunk(c, sequence, offset, whole, n_bad);
        offset += (uint64_t)n;
    }
    ops->close(c->w->disk, f);
    return rc;
}

struct names
{
    const char *wanted;
    bool taken;
};

static int compare_name(void *user, const char *name)
{
    struct names *n = user;
    n->taken = n->taken || strcmp(name, n->wanted) == 0;
    return 0;
}

/* "quarantine-<lsn>", or "...-2" when there is one already. */
static int free_name(rguard_wal *w, uint64_t lsn, char name[64])
{
    for (unsigned i = 1; i < 1000; i++) {
        struct names n = {name, false};
        if (i == 1) {
            (void)snprintf(name, 64, "quarantine-%" PRIu64, lsn);
        } else {
            (void)snprintf(name, 64, "quarantine-%" PRIu64 "-%u", lsn, i);
        }
        int rc = w->disk->ops->list(w->disk, compare_name, &n);
        if (rc != 0 || !n.taken) {
            return rc;
        }
    }
    return -EEXIST;
}

/* Copies what lies at @lsn of @segment and behind it, and the @n files named in @others. */
int rguard__wal_quarantine(rguard_wal *w, const struct wal_segment *segment, uint64_t lsn,
                           const uint64_t *others, size_t n)
{
    const struct rguard_disk_ops *ops = w->disk->ops;
    struct copying c = {.w = w,
                        .buf = aligned_alloc(WAL_BLOCK, WAL_BLOCK + CHUNK),
                        .bad = malloc(CHUNK / WAL_SECTOR)};
    char name[64];
    int rc = c.buf == NULL || c.bad == NULL ? -ENOMEM : free_name(w, lsn, name);
    if (rc == 0) {
        rc = ops->open(w->disk, "tmp-quarantine", O_RDWR | O_CREAT | O_TRUNC, &c.to);
    }
    if (rc == 0) {
        rc = copy_file(&c, segment->sequence, lsn - segment->first_lsn);
        for (size_t i = 0; i < n && rc == 0; i++) {
            rc = copy_file(&c, others[i], 0);
        }
        rc = rc == 0 ? ops->sync(w->disk, c.to) : rc;
        ops->close(w->disk, c.to);
        rc = rc == 0 ? ops->rename(w->disk, "tmp-quarantine", name) : rc;
        rc = rc == 0 ? ops->sync_dir(w->disk) : rc;
        if (rc != 0) {
            (void)ops->unlink(w->disk, "tmp-quarantine");
        }
    }
    free(c.buf);
    free(c.bad);
    return rc;
}

/* ---- the cut ---- */

/* What the report says is lost, and what is left. */
static void tell(const struct wal_scan *s, const struct wal_cut *cut, struct rguard_wal_report *r)
{
    uint64_t last = s->last_index > r->damage_last_index ? s->last_index : r->damage_last_index;
    uint64_t left = cut->last_index > s->base_index ? cut->last_index : s->base_index;
    if (r->verdict == RGUARD_WAL_TORN_TAIL && last < left + s->gap_records) {
        last = left + s->gap_records;
    }
    r->dropped_records = last > left ? last - left : 0;
    r->damage_first_index = r->dropped_records > 0 ? left + 1 : 0;
    r->damage_last_index = r->dropped_records > 0 ? last : 0;
    r->last_index = left;
    r->last_term = cut->last_index == left ? cut->last_term : s->base_term;
    r->first_index = r->first_index <= left ? r->first_index : 0;
    char where[sizeof r->message];
    (void)snprintf(where, sizeof where, "%s", r->message);
    if (r->dropped_records > 0) {
        (void)snprintf(r->message, sizeof r->message,
                       "a cut drops records %" PRIu64 " to %" PRIu64 ": %.160s",
                       r->damage_first_index, last, where);
    } else {
        (void)snprintf(r->message, sizeof r->message, "a cut drops no record that is known: %.180s",
                       where);
    }
}

/* Files of segments behind the cut, whether their headers are good or not. */
static size_t files_behind(const struct wal_scan *s, const struct wal_cut *cut, const uint64_t **v)
{
    size_t i = 0;
    while (i < s->n_sequences && s->sequences[i] <= cut->segment) {
        i++;
    }
    *v = s->sequences + i;
    return s->n_sequences - i;
}

/* The metadata lets the log end at the cut. */
static int permit(rguard_wal *w, const struct wal_cut *cut)
{
    struct wal_meta next = w->meta;
    next.clean = 0;
    next.base_lsn = next.base_lsn > cut->end ? cut->end : next.base_lsn;
    w->acked_lsn = cut->end;
    return rguard__wal_meta_write(w, &next);
}

static int drop(rguard_wal *w, const struct wal_segment *segment, const struct wal_cut *cut,
                const uint64_t *files, size_t n)
{
    const struct rguard_disk_ops *ops = w->disk->ops;
    char name[WAL_NAME_MAX];
    struct rguard_file *f;
    int rc = 0;
    for (size_t i = n; i-- > 0 && rc == 0;) {
        rguard__wal_segment_name(files[i], name);
        rc = ops->unlink(w->disk, name);
        rc = rc == 0 ? ops->sync_dir(w->disk) : rc;
    }
    if (rc != 0) {
        return rc;
    }
    rguard__wal_segment_name(segment->sequence, name);
    rc = ops->open(w->disk, name, O_RDWR, &f);
    if (rc != 0) {
        return rc;
    }
    uint64_t limit = rguard__wal_segment_limit(segment);
    if (cut->end < limit) {
        rc = ops->zero(w->disk, f, limit - cut->end, cut->end - segment->first_lsn);
    }
    rc = rc == 0 ? ops->sync(w->disk, f) : rc;
    ops->close(w->disk, f);
    return rc;
}

/* The place is marked: what was here is void. Where a snapshot covers more than is left, the log
 * goes on behind that. */
static int mark(rguard_wal *w, uint64_t left, uint64_t base_index, uint64_t base_term)
{
    int rc = left < base_index ? rguard__wal_control(w, WAL_RESET, base_index, base_term)
                               : rguard__wal_control(w, WAL_TRUNC, left + 1, 0);
    if (rc == 0 && rguard_wal_flush(w) != 0) {
        rc = w->poisoned != 0 ? w->poisoned : RGUARD_EPOISONED;
    }
    return rc;
}

static int cut_here(rguard_wal *w, struct wal_scan *s, struct rguard_wal_report *r)
{
    struct wal_cut cut = s->cut;
    const struct wal_segment segment = s->segments.v[cut.k];
    const uint64_t *files, base_index = s->base_index, base_term = s->base_term;
    size_t n = files_behind(s, &cut, &files);
    struct rguard_wal_report again;
    if (cut.end == 0) {
        cut.end = segment.first_lsn + WAL_FIRST_BATCH; /* nothing is left */
    }
    int rc = rguard__wal_adopt_damaged(w, s);
    if (rc == 0) {
        rc = rguard__wal_quarantine(w, &segment, cut.end, files, n);
    }
    rc = rc == 0 ? rguard__wal_journal_remove(w) : rc; /* nothing is going to be put back */
    rc = rc == 0 ? permit(w, &cut) : rc;
    rc = rc == 0 ? drop(w, &segment, &cut, files, n) : rc;
    if (rc == 0) {
        rc = rguard__wal_readopt(w, &again);
        if (rc != 0 && again.message[0] != '\0') {
            memcpy(r->message, again.message, sizeof r->message);
            return rc;
        }
    }
    rc = rc == 0 ? mark(w, cut.last_index, base_index, base_term) : rc;
    if (rc != 0) {
        (void)snprintf(r->message, sizeof r->message, "cannot cut the log: %s",
                       rguard_strerror(rc));
    }
    return rc;
}

/* 0: there is something to cut, and it may be cut. */
static int may_cut(const struct wal_scan *s, bool accept, struct rguard_wal_report *r)
{
    int rc = s->error != 0 ? s->error : rguard__wal_verdict_error(r->verdict);
    if (s->error == 0 && s->empty) {
        r->verdict = RGUARD_WAL_FOREIGN;
        (void)snprintf(r->message, sizeof r->message, "there is no log in this directory");
        return RGUARD_EFOREIGN;
    }
    bool first_gone = s->segments.n == 0 || (s->cut.end == 0 && s->meta.first_segment != 0 &&
                                             s->segments.v[0].sequence != s->meta.first_segment);
    if (rc != 0 && (s->error != 0 || s->hopeless || first_gone ||
                    (s->conditions & (WAL_C_META | WAL_C_STALE_META)) != 0)) {
        return rc; /* no cut would cure it */
    }
    if (s->conditions == 0 || r->verdict == RGUARD_WAL_CLEAN_END) {
        return 0;
    }
    tell(s, &s->cut, r);
    bool acked = r->verdict == RGUARD_WAL_CORRUPT || r->verdict == RGUARD_WAL_UNREADABLE;
    return acked && !accept ? RGUARD_EREFUSED : 0;
}

/* Takes @disk over. */
int rguard__wal_drop_tail_disk(struct rguard_disk *disk, const struct rguard_wal_options *options,
                               bool accept, struct rguard_wal_report *report)
{
    struct rguard_wal_report r;
    rguard_wal *w;
    int rc = rguard__wal_new(disk, options, &w, report);
    if (rc != 0) {
        return rc;
    }
    struct wal_scan s = {.disk = disk, .options = &w->options};
    if (w->options.read_only) {
        rguard__wal_scan_stable(&s, &r);
    } else {
        rguard__wal_redo(&s);
        rguard__wal_scan(&s);
        rguard__wal_report(&s, &r);
    }
    rc = may_cut(&s, accept, &r);
    if (rc == 0 && r.verdict != RGUARD_WAL_CLEAN_END && !w->options.read_only) {
        rc = cut_here(w, &s, &r);
        rguard__wal_scan_free(&s);
        rguard__wal_report_out(&r, report);
        if (rc == 0) {
            return rguard_wal_close(w);
        }
        rguard__wal_release(w);
        return rc;
    }
    rguard__wal_scan_free(&s);
    rguard__wal_report_out(&r, report);
    rguard__wal_release(w);
    return rc;
}

int rguard_wal_drop_tail(const char *dir, bool accept_data_loss, bool dry_run,
                         struct rguard_wal_report *report)
{
    const struct rguard_wal_options options = {.size = sizeof options, .read_only = dry_run};
    struct rguard_disk *disk;
    int lock_fd = -1;
    bool empty;
    int rc = rguard__disk_open(dir, "sync", &disk);
    if (rc != 0) {
        return rguard__wal_explain(report, rc, dir);
    }
    if (!dry_run && !rguard__wal_foreign(disk, &empty) && !empty) {
        rc = rguard__wal_take_lock(dir, &lock_fd);
        if (rc != 0) {
            disk->ops->destroy(disk);
            return rguard__wal_explain(report, rc, dir);
        }
    }
    rc = rguard__wal_drop_tail_disk(disk, &options, accept_data_loss, report);
    if (lock_fd >= 0) {
        close(lock_fd);
    }
    return rc;
}
