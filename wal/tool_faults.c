/* SPDX-License-Identifier: Apache-2.0 */
/* Everything that is damaged in a log, for verify, dump, export and repair. Each fault names file,
 * offset and records; where identity survived, also what a peer's copy must be. */
#include "tool_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static const char *kind_name(uint32_t kind)
{
    static const char *const names[] = {"?",    "payload",    "table",
                                        "lost", "unreadable", "misdirected"};
    return kind < sizeof names / sizeof names[0] ? names[kind] : names[0];
}

int tool_open(const char *dir, rguard_wal **w, struct rguard_wal_report *r)
{
    const struct rguard_wal_options options = {
        .size = sizeof options, .backend = "sync", .read_only = true, .open_damaged = true};
    return rguard_wal_open(dir, &options, w, r);
}

int tool_faults_get(const rguard_wal *w, struct tool_faults *faults)
{
    size_t n = 0;
    *faults = (struct tool_faults){NULL, 0};
    int rc = rguard_wal_faults(w, NULL, 0, &n);
    if (rc != 0 || n == 0) {
        return rc;
    }
    faults->v = calloc(n, sizeof *faults->v);
    if (faults->v == NULL) {
        return -ENOMEM;
    }
    faults->n = n;
    return rguard_wal_faults(w, faults->v, n, &n);
}

void tool_faults_free(struct tool_faults *faults)
{
    free(faults->v);
    *faults = (struct tool_faults){NULL, 0};
}

static bool named(const struct rguard_wal_fault *f)
{
    return f->first_index != 0 && f->last_index >= f->first_index;
}

void tool_faults_text(const struct tool_faults *faults)
{
    for (size_t i = 0; i < faults->n; i++) {
        const struct rguard_wal_fault *f = &faults->v[i];
        (void)printf("%s offset %" PRIu64 ", %" PRIu64 " bytes: %s\n", f->file, f->offset,
                     f->damaged_bytes, f->text);
    }
}

static void json_identities(const rguard_wal *w, const struct rguard_wal_fault *f)
{
    const char *comma = "";
    (void)printf(", \"records\": [");
    for (uint64_t i = f->first_index; named(f) && i <= f->last_index; i++) {
        struct rguard_wal_record r;
        if (rguard_wal_fault_record(w, i, &r) == 0) {
            (void)printf("%s{\"index\": %" PRIu64 ", \"term\": %" PRIu64
                         ", \"type\": %u, \"len\": %u, \"crc\": %u}",
                         comma, i, r.term, r.type, r.len, r.crc);
            comma = ", ";
        }
    }
    (void)printf("]");
}

void tool_faults_json(const rguard_wal *w, const struct tool_faults *faults)
{
    (void)printf(",\n \"faults\": [");
    for (size_t i = 0; i < faults->n; i++) {
        const struct rguard_wal_fault *f = &faults->v[i];
        (void)printf("%s\n  {\"kind\": \"%s\", \"verdict\": \"%s\", ", i > 0 ? "," : "",
                     kind_name(f->kind), rguard_wal_verdict_name(f->verdict));
        tool_json_string("file", f->file, ", ");
        (void)printf("\"offset\": %" PRIu64 ", \"damaged_bytes\": %" PRIu64 ", \"lsn\": %" PRIu64
                     ", \"bytes\": %" PRIu64 ", \"first_index\": %" PRIu64
                     ", \"last_index\": %" PRIu64 ", \"term\": %" PRIu64 ", ",
                     f->offset, f->damaged_bytes, f->lsn, f->bytes, f->first_index, f->last_index,
                     f->term);
        tool_json_string("text", f->text, "");
        json_identities(w, f);
        (void)printf("}");
    }
    (void)printf("%s]", faults->n > 0 ? "\n " : "");
}

const struct rguard_wal_fault *tool_faults_in(const struct tool_faults *faults, uint64_t from,
                                              uint64_t to)
{
    for (size_t i = 0; i < faults->n; i++) {
        const struct rguard_wal_fault *f = &faults->v[i];
        uint64_t last = f->last_index != 0 ? f->last_index : UINT64_MAX; /* nobody knows */
        if (f->first_index != 0 && f->first_index <= to && last >= from) {
            return f;
        }
    }
    return NULL;
}
