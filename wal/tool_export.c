/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-wal export: records out of a log. Invariant: every record that leaves has just been read from
 * the device and matched its checksum; a range with a damaged record in it is refused before its
 * first byte is written, and a file that bears the name asked for is complete. */
#include "tool_internal.h"

#include <raftguard/crc32c.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Before each record of the binary form. */
struct frame
{
    char magic[4];
    uint32_t header_crc; /* of these 40 bytes with header_crc = 0 */
    uint64_t index, term;
    uint32_t type, len;
    uint32_t crc; /* of the data */
    uint32_t reserved;
};
_Static_assert(sizeof(struct frame) == 40, "what --help says");

static int put_binary(FILE *to, const struct rguard_wal_record *r)
{
    struct frame f = {.magic = {'R', 'G', 'R', 'X'},
                      .index = r->index,
                      .term = r->term,
                      .type = r->type,
                      .len = r->len,
                      .crc = r->crc};
    f.header_crc = rguard_crc32c(0, &f, sizeof f);
    bool good = fwrite(&f, sizeof f, 1, to) == 1 && fwrite(r->data, 1, r->len, to) == r->len;
    return good ? 0 : -errno;
}

static int put_json(FILE *to, const struct rguard_wal_record *r)
{
    static const char digits[] = "0123456789abcdef";
    const uint8_t *data = r->data;
    char hex[1024];
    (void)fprintf(to,
                  "{\"index\": %" PRIu64 ", \"term\": %" PRIu64
                  ", \"type\": %u, \"len\": %u, \"crc\": %u, \"data\": \"",
                  r->index, r->term, r->type, r->len, r->crc);
    for (size_t i = 0; i < r->len;) {
        size_t n = 0;
        for (; n < sizeof hex && i < r->len; i++) {
            hex[n++] = digits[data[i] >> 4];
            hex[n++] = digits[data[i] & 15];
        }
        (void)fwrite(hex, 1, n, to);
    }
    (void)fputs("\"}\n", to);
    return ferror(to) ? -errno : 0;
}

struct buffer
{
    uint8_t *data;
    size_t size;
};

static int read_record(rguard_wal *w, uint64_t index, struct rguard_wal_record *r, struct buffer *b)
{
    int rc = rguard_wal_stat(w, index, r);
    if (rc != 0) {
        return rc;
    }
    if (r->len > b->size || b->data == NULL) {
        free(b->data);
        b->size = r->len + 4096;
        b->data = malloc(b->size);
        if (b->data == NULL) {
            return -ENOMEM;
        }
    }
    return rguard_wal_read(w, index, r, b->data, b->size);
}

static int copy_records(rguard_wal *w, const struct tool_args *a, uint64_t from, uint64_t to,
                        FILE *out)
{
    struct buffer b = {NULL, 0};
    struct rguard_wal_record r;
    int code = CODE_CLEAN;
    for (uint64_t i = from; i <= to && code == CODE_CLEAN; i++) {
        int rc = read_record(w, i, &r, &b);
        if (tool_interrupted) {
            code = tool_complain(a->dir, "interrupted", CODE_INTERRUPTED);
        } else if (rc != 0) {
            char what[64];
            (void)snprintf(what, sizeof what, "record %" PRIu64, i);
            code = tool_complain(what, rguard_strerror(rc),
                                 rc == RGUARD_ECHECKSUM ? CODE_CORRUPT : CODE_IO);
        } else {
            rc = a->binary ? put_binary(out, &r) : put_json(out, &r);
            code = rc == 0 ? CODE_CLEAN
                           : tool_complain(a->out != NULL ? a->out : "standard output",
                                           rguard_strerror(rc), CODE_IO);
        }
        tool_progress("exported", i - from + 1, "records");
    }
    tool_progress(NULL, 0, "");
    free(b.data);
    return code;
}

/* Into "FILE.part", which gets its name when everything is in it. */
static int copy_to_file(rguard_wal *w, const struct tool_args *a, uint64_t from, uint64_t to)
{
    char part[4096];
    if (snprintf(part, sizeof part, "%s.part", a->out) >= (int)sizeof part) {
        return tool_complain(a->out, "name too long", CODE_IO);
    }
    FILE *out = fopen(part, "we");
    if (out == NULL) {
        return tool_complain(part, strerror(errno), CODE_IO);
    }
    int code = copy_records(w, a, from, to, out);
    bool good = fflush(out) == 0 && fsync(fileno(out)) == 0;
    if (code == CODE_CLEAN && !good) {
        code = tool_complain(a->out, strerror(errno), CODE_IO);
    }
    (void)fclose(out);
    if (code == CODE_CLEAN && rename(part, a->out) != 0) {
        code = tool_complain(a->out, strerror(errno), CODE_IO);
    }
    if (code != CODE_CLEAN) {
        (void)unlink(part);
    }
    return code;
}

/* The range asked for, if the log has it. */
static int check_range(const rguard_wal *w, const struct tool_args *a, uint64_t *from, uint64_t *to)
{
    char why[160];
    uint64_t first = rguard_wal_first_index(w), last = rguard_wal_last_index(w);
    if (first == 0) {
        return tool_complain(a->dir, "there are no records in this log", CODE_USAGE);
    }
    *from = a->from != 0 ? a->from : first;
    *to = a->to != 0 ? a->to : last;
    if (*from >= first && *to <= last && *from <= *to) {
        return CODE_CLEAN;
    }
    (void)snprintf(why, sizeof why,
                   "records %" PRIu64 " to %" PRIu64 " were asked for; the log has %" PRIu64
                   " to %" PRIu64,
                   *from, *to, first, last);
    return tool_complain(a->dir, why, CODE_USAGE);
}

/* Names the first damaged records of the range, and where the damage is. */
static int refuse(const rguard_wal *w, const struct tool_args *a, uint64_t first, uint64_t last,
                  int code)
{
    struct tool_faults faults;
    char range[64], where[128] = "", why[512];
    if (tool_faults_get(w, &faults) == 0) {
        const struct rguard_wal_fault *f = tool_faults_in(&faults, first, last);
        if (f != NULL) {
            (void)snprintf(where, sizeof where, "%s offset %" PRIu64 ", ", f->file, f->offset);
        }
        tool_faults_free(&faults);
    }
    tool_range(first, last, range, sizeof range);
    (void)snprintf(why, sizeof why,
                   "%s%s: damaged; nothing was exported, ask for what lies before or behind "
                   "(--from, --to)",
                   where, range + 2);
    return tool_complain(a->dir, why, code);
}

static int check_damage(const rguard_wal *w, const struct tool_args *a, uint64_t from, uint64_t to,
                        const struct rguard_wal_report *r)
{
    struct rguard_wal_record record;
    uint64_t first = from;
    while (first <= to && rguard_wal_stat(w, first, &record) == 0) {
        first++;
    }
    if (first > to) {
        return CODE_CLEAN;
    }
    uint64_t last = first;
    while (last < to && rguard_wal_stat(w, last + 1, &record) != 0) {
        last++;
    }
    return refuse(w, a, first, last, tool_code(r, 0));
}

int tool_export(const struct tool_args *a)
{
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = NULL;
    uint64_t from = 0, to = 0;
    if (a->binary && a->out == NULL && isatty(STDOUT_FILENO)) {
        return tool_complain("--binary", "not to a terminal; use --out FILE", CODE_USAGE);
    }
    int rc = tool_open(a->dir, &w, &r);
    if (rc != 0) {
        return tool_open_failed(a->dir, rc, &r);
    }
    int code = check_range(w, a, &from, &to);
    if (code == CODE_CLEAN) {
        code = check_damage(w, a, from, to, &r);
    }
    if (code == CODE_CLEAN) {
        tool_catch_interrupts();
        code = a->out != NULL ? copy_to_file(w, a, from, to) : copy_records(w, a, from, to, stdout);
    }
    (void)rguard_wal_close(w);
    return code;
}
