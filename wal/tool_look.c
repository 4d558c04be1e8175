/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-wal verify and dump. Invariant: they take no lock and write nothing, so they may run beside
 * a replica; what only looks like damage because it is being written is told apart by scanning
 * again. */
#include "tool_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct batch
{
    struct wal_batch_header h;
    uint64_t offset;
};

struct view
{
    struct batch *v;
    size_t n, capacity;
    bool keep;
    bool out_of_memory;
};

/* A second scan starts at the front again. */
static void visit(void *user, const struct wal_segment *segment, uint64_t offset,
                  const uint8_t *buf, const struct wal_batch_header *h)
{
    struct view *view = user;
    (void)buf;
    tool_progress("scanned", (segment->first_lsn + offset) >> 20, "MiB");
    if (!view->keep) {
        return;
    }
    if (view->n > 0 && h->lsn <= view->v[view->n - 1].h.lsn) {
        view->n = 0;
    }
    if (view->n == view->capacity) {
        size_t capacity = view->capacity == 0 ? 256 : 2 * view->capacity;
        struct batch *v = realloc(view->v, capacity * sizeof *v);
        if (v == NULL) {
            view->out_of_memory = true;
            return;
        }
        view->v = v;
        view->capacity = capacity;
    }
    view->v[view->n++] = (struct batch){*h, offset};
}

static void json_report(const char *dir, const struct rguard_wal_report *r, int code,
                        const struct wal_scan *s)
{
    tool_json_string("dir", dir, ",\n ");
    tool_json_string("verdict", s->error != 0 ? "error" : rguard_wal_verdict_name(r->verdict),
                     ",\n ");
    (void)printf("\"code\": %d,\n \"clean_close\": %s, \"warnings\": %u,\n", code,
                 r->clean_close ? "true" : "false", r->warnings);
    (void)printf(" \"node_id\": %" PRIu64 ", \"term\": %" PRIu64 ", \"vote\": %" PRIu64 ",\n",
                 s->meta.node_id, r->term, r->vote);
    (void)printf(" \"first_index\": %" PRIu64 ", \"last_index\": %" PRIu64
                 ", \"last_term\": %" PRIu64 ",\n",
                 r->first_index, r->last_index, r->last_term);
    (void)printf(" \"base_index\": %" PRIu64 ", \"base_term\": %" PRIu64 ",\n", r->base_index,
                 r->base_term);
    (void)printf(" \"segment_count\": %zu, \"batch_count\": %" PRIu64 ", \"acked_lsn\": %" PRIu64
                 ", \"end_lsn\": %" PRIu64 ",\n",
                 s->segments.n, s->batches, r->acked_lsn, s->end);
    (void)printf(" \"dropped_records\": %" PRIu64 ", \"damage_first_index\": %" PRIu64
                 ", \"damage_last_index\": %" PRIu64 ",\n ",
                 r->dropped_records, r->damage_first_index, r->damage_last_index);
    tool_json_string("file", r->file, ",");
    (void)printf(" \"offset\": %" PRIu64 ",\n ", r->offset);
    tool_json_string("message", r->message, "");
}

static void json_dump(const struct wal_scan *s, const struct view *view)
{
    char name[WAL_NAME_MAX];
    (void)printf(",\n \"batches\": [");
    for (size_t i = 0; i < view->n; i++) {
        const struct wal_batch_header *h = &view->v[i].h;
        rguard__wal_segment_name(h->segment, name);
        (void)printf("%s\n  {\"type\": \"%s\", \"file\": \"%s\", \"offset\": %" PRIu64
                     ", \"length\": %u, \"lsn\": %" PRIu64 ", \"acked_lsn\": %" PRIu64
                     ", \"first_index\": %" PRIu64 ", \"last_index\": %" PRIu64
                     ", \"arg_index\": %" PRIu64 "}",
                     i > 0 ? "," : "", rguard__wal_type_name(h->type), name, view->v[i].offset,
                     h->length, h->lsn, h->acked_lsn, h->first_index, h->last_index, h->arg_index);
    }
    (void)printf("\n ],\n \"records\": [");
    const char *comma = "";
    for (size_t i = 0; i < s->index.n; i++) {
        const struct wal_entry *e = rguard__wal_index_get(&s->index, s->index.first + i);
        const struct wal_segment *g = rguard__wal_segments_find(&s->segments, e->lsn);
        if (e->lsn == 0 || g == NULL) {
            continue; /* lost in a damaged batch */
        }
        rguard__wal_segment_name(g->sequence, name);
        (void)printf("%s\n  {\"index\": %" PRIu64 ", \"term\": %" PRIu64
                     ", \"type\": %u, \"len\": %u, \"crc\": %u, \"file\": \"%s\", \"offset\": "
                     "%" PRIu64 "}",
                     comma, s->index.first + i, e->term, e->type, e->len, e->crc, name,
                     e->lsn - g->first_lsn);
        comma = ",";
    }
    (void)printf("\n ]");
}

static void text_dump(const struct wal_scan *s, const struct view *view)
{
    char name[WAL_NAME_MAX];
    for (size_t i = 0; i < view->n; i++) {
        const struct wal_batch_header *h = &view->v[i].h;
        rguard__wal_segment_name(h->segment, name);
        (void)printf("%s offset %" PRIu64 ": %s, %u bytes, acked below %" PRIu64, name,
                     view->v[i].offset, rguard__wal_type_name(h->type), h->length, h->acked_lsn);
        if (h->type == WAL_TRUNC) {
            (void)printf(", from record %" PRIu64 " on", h->arg_index);
        } else if (h->type == WAL_RESET) {
            (void)printf(", to record %" PRIu64 " of term %" PRIu64, h->arg_index, h->arg_term);
        } else if (h->type == WAL_DATA) {
            (void)printf(", records %" PRIu64 " to %" PRIu64, h->first_index, h->last_index);
        }
        (void)putchar('\n');
        for (uint64_t k = h->first_index; h->type == WAL_DATA && k <= h->last_index; k++) {
            const struct wal_entry *e = rguard__wal_index_get(&s->index, k);
            bool live = e != NULL && e->lsn >= h->lsn && e->lsn < h->lsn + h->length;
            if (live) {
                (void)printf("  %" PRIu64 " term %" PRIu64 " type %u len %u crc %08x\n", k, e->term,
                             e->type, e->len, e->crc);
            } else {
                (void)printf("  %" PRIu64 " no longer part of the log\n", k);
            }
        }
    }
}

static void text_report(const struct rguard_wal_report *r, const struct wal_scan *s)
{
    if (r->first_index != 0) {
        (void)printf("%s: records %" PRIu64 " to %" PRIu64 " (term %" PRIu64 ")",
                     rguard_wal_verdict_name(r->verdict), r->first_index, r->last_index,
                     r->last_term);
    } else {
        (void)printf("%s: no records, the next is %" PRIu64, rguard_wal_verdict_name(r->verdict),
                     r->last_index + 1);
    }
    (void)printf(" in %zu segments, %" PRIu64 " batches; term %" PRIu64 ", vote %" PRIu64 "%s\n",
                 s->segments.n, s->batches, r->term, r->vote,
                 r->clean_close ? ", closed cleanly" : "");
}

/* Damaged, and ours: what is wrong can be listed, and repair has something to say about it. */
static bool damaged(const struct rguard_wal_report *r)
{
    return r->verdict == RGUARD_WAL_SUSPECT_TAIL || r->verdict == RGUARD_WAL_CORRUPT ||
           r->verdict == RGUARD_WAL_UNREADABLE;
}

/* What to do about it, as commands. The report's message says what it is. */
static void advise(const char *dir, const struct rguard_wal_report *r)
{
    if (damaged(r)) {
        (void)fprintf(stderr,
                      "rguard-wal: a member of a cluster gets such records back from its peers; "
                      "`rguard-wal repair %s` says what cutting them off would lose\n",
                      dir);
    }
}

/* A second look, by the way that repairs take; only damage is worth it. A log in use may have become
 * whole in between, and then there is nothing to list. */
static int list_faults(const struct tool_args *a, const struct rguard_wal_report *r)
{
    struct rguard_wal_report again = {.size = sizeof again};
    struct tool_faults faults = {NULL, 0};
    rguard_wal *w = NULL;
    int rc = 0;
    if (damaged(r) && tool_open(a->dir, &w, &again) == 0) {
        rc = tool_faults_get(w, &faults);
    }
    if (a->json) {
        tool_faults_json(w, &faults);
    } else {
        tool_faults_text(&faults);
    }
    tool_faults_free(&faults);
    (void)rguard_wal_close(w);
    return rc;
}

static int show(const struct tool_args *a, bool dump, const struct wal_scan *s,
                const struct rguard_wal_report *r, const struct view *view)
{
    int code = tool_code(r, s->error), rc = 0;
    if (a->json) {
        (void)printf("{");
        json_report(a->dir, r, code, s);
        rc = list_faults(a, r);
        if (dump) {
            json_dump(s, view);
        }
        (void)printf("}\n");
    } else if (s->error == 0 && r->verdict != RGUARD_WAL_FOREIGN) {
        if (dump) {
            text_dump(s, view);
        }
        text_report(r, s);
        rc = list_faults(a, r);
    }
    if (code != CODE_CLEAN) {
        (void)tool_complain(a->dir, r->message, code);
        advise(a->dir, r);
    }
    if (r->warnings > 0) {
        (void)fprintf(stderr,
                      "rguard-wal: %s: %u harmless findings (padding, unused space or one "
                      "copy of the metadata)\n",
                      a->dir, r->warnings);
    }
    return rc == 0 ? code : tool_complain(a->dir, rguard_strerror(rc), CODE_IO);
}

static int look(const struct tool_args *a, bool dump)
{
    struct rguard_disk *disk;
    struct rguard_wal_report r;
    struct rguard_wal_options options = {.size = sizeof options, .read_only = true};
    struct view view = {.keep = dump};
    struct wal_scan s = {.options = &options, .visit = visit, .visit_user = &view};
    int rc = rguard__disk_open(a->dir, "sync", &disk);
    if (rc != 0) {
        return tool_complain(a->dir, rguard_strerror(rc), CODE_IO);
    }
    s.disk = disk;
    rguard__wal_scan_stable(&s, &r);
    tool_progress(NULL, 0, "");
    if (s.error == 0 && s.empty) {
        r.verdict = RGUARD_WAL_FOREIGN;
        (void)snprintf(r.message, sizeof r.message, "there is no log in this directory");
    }
    if (view.out_of_memory) {
        s.error = -ENOMEM;
        (void)snprintf(r.message, sizeof r.message, "out of memory");
    }
    int code = show(a, dump, &s, &r, &view);
    free(view.v);
    rguard__wal_scan_free(&s);
    disk->ops->destroy(disk);
    return code;
}

int tool_verify(const struct tool_args *a)
{
    return look(a, false);
}

int tool_dump(const struct tool_args *a)
{
    return look(a, true);
}
