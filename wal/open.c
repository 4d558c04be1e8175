/* SPDX-License-Identifier: Apache-2.0 */
/* Opening and closing: options, lock, creation, recovery's hand-over to the append path.
 *
 * Invariant: until the verdict is known nothing is written but an empty `lock` file, and that only
 * in a directory that is empty or ours. A creation writes segment 1 first and `meta` last, so a
 * crash in between is recognised and started over. */
#include "wal_internal.h"

#include <raftguard/testing.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#define DEFAULT_SEGMENT (8u * 1024u * 1024u)
#define DEFAULT_RECORD  (8u * 1024u * 1024u)
#define DEFAULT_MARK_MS 20u

static int adopt(rguard_wal *w, struct wal_scan *s);
static int create(rguard_wal *w, struct wal_scan *s);

int rguard__wal_resolve(const struct rguard_wal_options *in, struct rguard_wal_options *out)
{
    memset(out, 0, sizeof *out);
    if (in != NULL) {
        memcpy(out, in, in->size < sizeof *out ? in->size : sizeof *out);
    }
    out->size = sizeof *out;
    out->segment_bytes = out->segment_bytes == 0 ? DEFAULT_SEGMENT : out->segment_bytes;
    out->max_record_bytes = out->max_record_bytes == 0 ? DEFAULT_RECORD : out->max_record_bytes;
    out->mark_idle_ms = out->mark_idle_ms == 0 ? DEFAULT_MARK_MS : out->mark_idle_ms;
    bool sane = out->segment_bytes % WAL_BLOCK == 0 && out->segment_bytes >= WAL_SEGMENT_MIN &&
                out->segment_bytes <= WAL_SEGMENT_MAX && out->max_record_bytes <= WAL_RECORD_MAX;
    return sane ? 0 : -EINVAL;
}

/* For failures before there is anything to report about. */
int rguard__wal_explain(struct rguard_wal_report *report, int rc, const char *what)
{
    if (report != NULL) {
        struct rguard_wal_report r = {.size = report->size};
        (void)snprintf(r.message, sizeof r.message, "%s: %s", what, rguard_strerror(rc));
        size_t size = report->size < sizeof r ? report->size : sizeof r;
        memcpy(report, &r, size);
    }
    return rc;
}

int rguard_wal_open(const char *dir, const struct rguard_wal_options *options, rguard_wal **out,
                    struct rguard_wal_report *report)
{
    struct rguard_wal_options o;
    struct rguard_disk *disk;
    int lock_fd = -1;
    bool empty;
    int rc = rguard__wal_resolve(options, &o);
    if (rc != 0) {
        return rguard__wal_explain(report, rc, "options");
    }
    bool from_env = o.backend == NULL;
    if (from_env) {
        o.backend = getenv("RGUARD_WAL_BACKEND");
    }
    rc = rguard__disk_open(dir, o.backend, &disk);
    if (rc == -EINVAL && o.backend != NULL) {
        char what[96];
        (void)snprintf(what, sizeof what, "no back end \"%.32s\" (uring, thread or sync)%s",
                       o.backend, from_env ? " in RGUARD_WAL_BACKEND" : "");
        return rguard__wal_explain(report, rc, what);
    }
    if (rc != 0) {
        return rguard__wal_explain(report, rc, dir);
    }
    if (!o.read_only && !rguard__wal_foreign(disk, &empty)) {
        rc = rguard__wal_take_lock(dir, &lock_fd);
        if (rc != 0) {
            disk->ops->destroy(disk);
            return rguard__wal_explain(report, rc, dir);
        }
    }
    rc = rguard__wal_open_disk(disk, &o, out, report);
    if (rc == 0) {
        (*out)->lock_fd = lock_fd;
    } else if (lock_fd >= 0) {
        close(lock_fd);
    }
    return rc;
}

/* The lock is the kernel's, so it ends with the process that holds it. */
int rguard__wal_take_lock(const char *dir, int *out)
{
    char path[4096];
    if (snprintf(path, sizeof path, "%s/lock", dir) >= (int)sizeof path) {
        return -ENAMETOOLONG;
    }
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd < 0) {
        return -errno;
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int rc = errno == EWOULDBLOCK ? RGUARD_ELOCKED : -errno;
        close(fd);
        return rc;
    }
    *out = fd;
    return 0;
}

int rguard__wal_new(struct rguard_disk *disk, const struct rguard_wal_options *options,
                    rguard_wal **out, struct rguard_wal_report *report)
{
    rguard_wal *w = calloc(1, sizeof *w);
    if (w == NULL) {
        disk->ops->destroy(disk);
        return -ENOMEM;
    }
    w->disk = disk;
    w->lock_fd = -1;
    w->random_state = options != NULL ? options->seed : 0;
    int rc = rguard__wal_resolve(options, &w->options);
    if (rc != 0) {
        rguard__wal_release(w);
        return rguard__wal_explain(report, rc, "options");
    }
    *out = w;
    return 0;
}

/* What to do with what was found. */
static int take_over(rguard_wal *w, struct wal_scan *s, struct rguard_wal_report *r)
{
    int rc = s->error != 0 ? s->error : rguard__wal_verdict_error(r->verdict);
    if (rc == 0 && s->empty && w->options.read_only) {
        r->verdict = RGUARD_WAL_FOREIGN;
        (void)snprintf(r->message, sizeof r->message, "there is no log in this directory");
        return RGUARD_EFOREIGN;
    }
    if (rc != 0 && (!w->options.open_damaged || !rguard__wal_openable(s))) {
        return rc;
    }
    const char *failed = "cannot prepare the log";
    if (rc != 0) {
        rc = rguard__wal_adopt_damaged(w, s);
        if (rc == 0 && !w->options.read_only) {
            rc = rguard__wal_heal(w);
        }
    } else if (s->empty) {
        failed = "cannot create the log";
        rc = create(w, s);
        r->created = true;
    } else {
        rc = adopt(w, s);
    }
    if (rc != 0) {
        (void)snprintf(r->message, sizeof r->message, "%s: %s", failed, rguard_strerror(rc));
    }
    return rc;
}

/* Takes @disk over, also when it fails. */
int rguard__wal_open_disk(struct rguard_disk *disk, const struct rguard_wal_options *options,
                          rguard_wal **out, struct rguard_wal_report *report)
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
    rc = take_over(w, &s, &r);
    rguard__wal_scan_free(&s);
    rguard__wal_report_out(&r, report);
    if (rc != 0) {
        rguard__wal_release(w);
        return rc;
    }
    *out = w;
    return 0;
}

void rguard__wal_report_out(const struct rguard_wal_report *r, struct rguard_wal_report *out)
{
    if (out != NULL) {
        size_t size = out->size < sizeof *r ? out->size : sizeof *r;
        memcpy(out, r, size);
        out->size = size;
    }
}

/* splitmix64 when a seed makes everything repeatable, else the system's generator. */
void rguard__wal_random(rguard_wal *w, void *out, size_t len)
{
    if (w->options.seed == 0) {
        uint8_t *p = out;
        while (len > 0) {
            ssize_t n = getrandom(p, len, 0);
            if (n > 0) {
                p += n;
                len -= (size_t)n;
            }
        }
        return;
    }
    for (size_t i = 0; i < len; i += sizeof(uint64_t)) {
        uint64_t z = w->random_state += 0x9e3779b97f4a7c15ULL;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        z ^= z >> 31;
        size_t n = len - i < sizeof z ? len - i : sizeof z;
        memcpy((uint8_t *)out + i, &z, n);
    }
}

static int buffers(rguard_wal *w)
{
    const size_t usual = 1024u * 1024u + 32u * 1024u;
    if (w->meta_block != NULL) {
        return 0; /* taken over a second time, after a repair */
    }
    w->meta_block = aligned_alloc(WAL_BLOCK, WAL_BLOCK);
    w->buf = aligned_alloc(WAL_BLOCK, usual);
    w->buf_bytes = usual;
    if (w->meta_block == NULL || w->buf == NULL) {
        return -ENOMEM;
    }
    int rc = rguard__wal_factory_open(w);
    return rc == 0 ? rguard__wal_index_reserve(&w->index, 1) : rc;
}

/* What a crash left of files in the making. */
static int remove_leftovers(rguard_wal *w, const struct wal_scan *s)
{
    int rc = 0;
    for (size_t i = 0; i < s->leftovers.n && rc == 0; i++) {
        char name[WAL_NAME_MAX];
        rguard__wal_segment_name(s->leftovers.v[i].sequence, name);
        rc = w->disk->ops->unlink(w->disk, name);
    }
    return rc == 0 && s->leftovers.n > 0 ? w->disk->ops->sync_dir(w->disk) : rc;
}

static int create(rguard_wal *w, struct wal_scan *s)
{
    rguard__wal_random(w, w->meta.uuid, WAL_UUID);
    w->meta.node_id = w->options.node_id;
    w->meta.first_segment = 1;
    rguard__wal_index_clear(&w->index, 1);
    int rc = buffers(w);
    if (rc == 0) {
        rc = remove_leftovers(w, s);
    }
    if (rc == 0) {
        rc = rguard__wal_segment_first(w);
    }
    if (rc == 0) {
        rc = rguard__wal_meta_create(w);
    }
    return rc;
}

/* An empty segment behind the last used one is the spare; anything further is surplus. */
static int adopt_segments(rguard_wal *w, struct wal_scan *s)
{
    size_t used = s->last_segment + 1;
    char name[WAL_NAME_MAX];
    int rc = 0;
    if (s->segments.n > used) {
        rc = rguard__wal_factory_adopt(w, &s->segments.v[used]);
    }
    for (size_t k = used + 1; k < s->segments.n && rc == 0; k++) {
        rc = rguard__wal_segments_push(&s->leftovers, &s->segments.v[k]);
    }
    s->segments.n = used;
    w->segments = s->segments;
    memset(&s->segments, 0, sizeof s->segments);
    if (rc == 0) {
        rguard__wal_segment_name(w->segments.v[used - 1].sequence, name);
        rc = w->disk->ops->open(w->disk, name, O_RDWR, &w->file);
    }
    return rc;
}

/* Both copies of the header that a segment's good copy says it has. */
static int heal_segment(rguard_wal *w, const struct wal_segment *g)
{
    struct wal_segment_header h = {.node_id = w->meta.node_id,
                                   .sequence = g->sequence,
                                   .salt = g->salt,
                                   .first_lsn = g->first_lsn,
                                   .bytes = g->bytes};
    char name[WAL_NAME_MAX];
    struct rguard_file *f;
    memcpy(h.uuid, w->meta.uuid, WAL_UUID);
    rguard__wal_segment_seal(&h);
    memset(w->meta_block, 0, WAL_BLOCK);
    memcpy(w->meta_block, &h, sizeof h);
    rguard__wal_segment_name(g->sequence, name);
    int rc = w->disk->ops->open(w->disk, name, O_RDWR, &f);
    if (rc != 0) {
        return rc;
    }
    if ((g->heal & WAL_HEAL_LAST) != 0) {
        rc = w->disk->ops->write(w->disk, f, w->meta_block, WAL_BLOCK, g->bytes - WAL_BLOCK);
    }
    if (rc == 0 && (g->heal & WAL_HEAL_FIRST) != 0) {
        rc = w->disk->ops->write(w->disk, f, w->meta_block, WAL_BLOCK, 0);
    }
    w->disk->ops->close(w->disk, f);
    return rc;
}

static int heal_headers(rguard_wal *w)
{
    int rc = 0;
    for (size_t k = 0; k < w->segments.n && rc == 0; k++) {
        if (w->segments.v[k].heal != 0) {
            rc = heal_segment(w, &w->segments.v[k]);
        }
    }
    if (rc == 0 && w->factory.file != NULL && w->factory.segment.heal != 0) {
        rc = heal_segment(w, &w->factory.segment);
    }
    return rc;
}

/* Writes that recovery makes before the log is handed over: all behind the end, none elsewhere. */
static int settle(rguard_wal *w, const struct wal_scan *s, bool torn)
{
    int rc = remove_leftovers(w, s);
    if (rc == 0) {
        rc = w->disk->ops->open(w->disk, "meta", O_RDWR, &w->meta_file);
    }
    if (rc == 0 && s->meta_bad_copy) {
        struct wal_meta same = w->meta;
        rc = rguard__wal_meta_write(w, &same); /* both copies anew, into the older pair */
    }
    if (rc == 0) {
        rc = heal_headers(w);
    }
    if (rc == 0 && s->have_repair) {
        rc = rguard__wal_journal_remove(w); /* the log is whole */
    }
    if (rc == 0 && torn) {
        /* Marks the place: what was here is void, what precedes it is acknowledged. */
        rc = rguard__wal_control(w, WAL_TRUNC, w->tail_index + 1, 0);
        if (rc == 0 && rguard_wal_flush(w) != 0) {
            rc = w->poisoned;
        }
    }
    return rc;
}

/* From the scan to the handle. */
static void inherit(rguard_wal *w, struct wal_scan *s)
{
    w->meta = s->meta;
    rguard__wal_index_free(&w->index);
    w->index = s->index;
    memset(&s->index, 0, sizeof s->index);
    w->base_index = s->base_index;
    w->base_term = s->base_term;
    w->base_lsn = s->base_lsn;
    w->tail_index = s->last_index;
    w->tail_term = s->last_term;
    w->last = s->last;
    w->end = w->completed_lsn = w->acked_lsn = s->end;
    w->recorded_lsn = s->last.acked_lsn;
}

static void inherit_segments(rguard_wal *w, struct wal_scan *s)
{
    w->segments = s->segments;
    memset(&s->segments, 0, sizeof s->segments);
}

static int adopt(rguard_wal *w, struct wal_scan *s)
{
    bool torn = rguard__wal_verdict(s->conditions, NULL) == RGUARD_WAL_TORN_TAIL;
    int rc = 0;
    if (s->gap != 0 && !w->options.read_only) {
        rc = rguard__wal_cut(s);
    }
    w->random_state ^= s->end + (s->meta.generation << 48); /* a seed must not repeat its salts */
    inherit(w, s);
    if (rc == 0) {
        rc = buffers(w);
    }
    if (w->options.read_only) {
        inherit_segments(w, s);
        return rc;
    }
    if (rc == 0) {
        rc = adopt_segments(w, s);
    }
    return rc == 0 ? settle(w, s, torn) : rc;
}

/* Nothing is written but term and vote, on request. */
int rguard__wal_adopt_damaged(rguard_wal *w, struct wal_scan *s)
{
    int rc = rguard__wal_examine(s);
    inherit(w, s);
    inherit_segments(w, s);
    w->faults = s->faults;
    memset(&s->faults, 0, sizeof s->faults);
    w->damaged = true;
    w->acked_lsn = s->acked_lsn > s->end ? s->acked_lsn : s->end; /* the evidence stays */
    if (rc == 0) {
        rc = buffers(w);
    }
    if (rc == 0 && !w->options.read_only) {
        rc = w->disk->ops->open(w->disk, "meta", O_RDWR, &w->meta_file);
    }
    return rc;
}

static void close_files(rguard_wal *w)
{
    struct rguard_file **files[] = {&w->file, &w->meta_file, &w->read_file};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        if (*files[i] != NULL) {
            w->disk->ops->close(w->disk, *files[i]);
            *files[i] = NULL;
        }
    }
}

/* A log that was damaged, and should be whole now, is looked at again from the start. */
int rguard__wal_readopt(rguard_wal *w, struct rguard_wal_report *r)
{
    struct wal_scan s = {.disk = w->disk, .options = &w->options};
    close_files(w);
    rguard__wal_faults_free(&w->faults);
    free(w->segments.v);
    memset(&w->segments, 0, sizeof w->segments);
    w->read_until = w->read_next = 0;
    rguard__wal_scan(&s);
    rguard__wal_report(&s, r);
    int rc = s.error != 0 ? s.error : rguard__wal_verdict_error(r->verdict);
    if (rc == 0 && s.empty) {
        rc = RGUARD_ECORRUPT;
    }
    if (rc == 0) {
        w->damaged = false;
        rc = adopt(w, &s);
    } else if (rguard__wal_openable(&s)) {
        rc = rguard__wal_adopt_damaged(w, &s); /* something that was hidden behind the damage */
    } else {
        w->poisoned = w->poisoned != 0 ? w->poisoned : rc;
    }
    rguard__wal_scan_free(&s);
    return rc;
}

/* ---- closing ---- */

void rguard__wal_release(rguard_wal *w)
{
    const struct rguard_disk_ops *ops = w->disk->ops;
    rguard__wal_factory_stop(w);
    close_files(w);
    rguard__wal_journal_close(w);
    ops->destroy(w->disk); /* waits for a write in flight: the buffer is still ours */
    rguard__wal_queue_free(w);
    rguard__wal_index_free(&w->index);
    rguard__wal_faults_free(&w->faults);
    free(w->segments.v);
    free(w->buf);
    free(w->read_buf);
    free(w->meta_block);
    free(w->factory.block);
    if (w->lock_fd >= 0) {
        close(w->lock_fd);
    }
    free(w);
}

static int close_cleanly(rguard_wal *w)
{
    int rc = rguard_wal_flush(w);
    if (rc == 0 && w->last.type != WAL_CLOSE) {
        rc = rguard__wal_control(w, WAL_CLOSE, 0, 0);
        if (rc == 0) {
            rc = rguard_wal_flush(w);
        }
    }
    if (rc == 0) {
        rguard__wal_factory_finish(w);
    }
    if (rc == 0 && w->meta.clean == 0) {
        struct wal_meta next = w->meta;
        next.clean = 1;
        rc = rguard__wal_meta_write(w, &next);
    }
    return rc;
}

int rguard_wal_close(rguard_wal *w)
{
    int rc = 0;
    if (w == NULL) {
        return 0;
    }
    if (w->delivering > 0) {
        return RGUARD_ESTATE;
    }
    if (!w->options.read_only && !w->damaged) {
        rc = close_cleanly(w);
        rguard__wal_cancel(w);
    }
    rguard__wal_release(w);
    return rc;
}
