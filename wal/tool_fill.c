/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-wal fill: logs for tests. Invariant: it appends only to a log that has no node's id, and
 * the same arguments make the same bytes. */
#include "tool_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FILL_BYTES_MAX (64u * 1024u * 1024u) /* of one batch */

static int count_file(void *user, const char *name)
{
    *(size_t *)user += strcmp(name, "lock") != 0;
    return 0;
}

/* Only into an empty directory or a log that fill has made: a node's log has its id. */
static int may_fill(const char *dir)
{
    struct rguard_disk *disk;
    struct rguard_wal_options options = {.size = sizeof options, .read_only = true};
    struct wal_scan s = {.options = &options};
    size_t files = 0;
    if (mkdir(dir, 0700) == 0) {
        return CODE_CLEAN;
    }
    int rc = errno == EEXIST ? rguard__disk_open(dir, "sync", &disk) : -errno;
    if (rc != 0) {
        return tool_complain(dir, rguard_strerror(rc), CODE_IO);
    }
    s.disk = disk;
    rc = disk->ops->list(disk, count_file, &files);
    rguard__wal_scan(&s);
    int code = CODE_CLEAN;
    if (rc != 0) {
        code = tool_complain(dir, rguard_strerror(rc), CODE_IO);
    } else if (s.error == 0 && s.empty && files > s.n_sequences) {
        code = tool_complain(dir, "not empty, and not a log of fill", CODE_FOREIGN);
    } else if (s.meta.node_id != 0) {
        code = tool_complain(dir, "is a node's log", CODE_FOREIGN);
    }
    rguard__wal_scan_free(&s);
    disk->ops->destroy(disk);
    return code;
}

static void make_contents(uint64_t seed, uint64_t index, uint8_t *buf, size_t len)
{
    uint64_t x = seed * 0x9e3779b97f4a7c15ULL + index;
    for (size_t i = 0; i < len; i++) {
        x = x * 6364136223846793005ULL + 1442695040888963407ULL;
        buf[i] = (uint8_t)(x >> 56);
    }
}

struct filling
{
    struct rguard_wal_record *records;
    uint8_t *data;
    int status;
};

static void filled(void *user, int status)
{
    ((struct filling *)user)->status = status;
}

static int append_batch(rguard_wal *w, const struct tool_args *a, struct filling *f, uint64_t n)
{
    uint64_t index = rguard_wal_last_index(w);
    for (uint64_t i = 0; i < n; i++) {
        uint8_t *data = f->data + i * a->size;
        make_contents(a->seed, ++index, data, a->size);
        f->records[i] = (struct rguard_wal_record){
            .index = index, .term = 1, .type = 1, .len = (uint32_t)a->size, .data = data};
    }
    int rc = rguard_wal_append(w, f->records, n, filled, f);
    if (rc == 0) {
        rc = rguard_wal_flush(w);
        rc = rc != 0 ? f->status : 0; /* the cause, not "poisoned" */
    }
    return rc;
}

static int append_all(rguard_wal *w, const struct tool_args *a, struct filling *f)
{
    uint64_t done = 0;
    while (done < a->records && !tool_interrupted) {
        uint64_t n = a->records - done < a->batch ? a->records - done : a->batch;
        int rc = append_batch(w, a, f, n);
        if (rc != 0) {
            tool_progress(NULL, 0, "");
            return tool_complain(a->dir, rguard_strerror(rc), CODE_IO);
        }
        done += n;
        tool_progress("appended", done, "records");
    }
    tool_progress(NULL, 0, "");
    return tool_interrupted
               ? tool_complain(a->dir, "interrupted; the records so far are kept", CODE_INTERRUPTED)
               : CODE_CLEAN;
}

int tool_fill(const struct tool_args *a)
{
    struct rguard_wal_options options = {.size = sizeof options,
                                         .seed = a->seed != 0 ? a->seed : UINT64_MAX};
    struct rguard_wal_report r = {.size = sizeof r};
    static rguard_wal *w; /* --no-close leaves it open; it is not lost, says a leak checker */
    if (a->batch * a->size > FILL_BYTES_MAX) {
        return tool_complain("--batch", "more than 64 MiB in one batch", CODE_USAGE);
    }
    int code = may_fill(a->dir);
    if (code != CODE_CLEAN) {
        return code;
    }
    int rc = rguard_wal_open(a->dir, &options, &w, &r);
    if (rc != 0) {
        return tool_open_failed(a->dir, rc, &r);
    }
    struct filling f = {calloc(a->batch, sizeof *f.records), malloc(a->batch * a->size + 1), 0};
    tool_catch_interrupts();
    if (f.records == NULL || f.data == NULL) {
        code = tool_complain("records", "out of memory", CODE_IO);
    } else {
        code = append_all(w, a, &f);
    }
    uint64_t last = rguard_wal_last_index(w);
    if (!a->no_close ||
        code != CODE_CLEAN) { /* otherwise the end of the process is the end of it */
        rc = rguard_wal_close(w);
        code = rc != 0 && code == CODE_CLEAN ? tool_complain(a->dir, rguard_strerror(rc), CODE_IO)
                                             : code;
    }
    free(f.records);
    free(f.data);
    if (code == CODE_CLEAN && a->json) {
        (void)printf("{");
        tool_json_string("dir", a->dir, ", ");
        (void)printf("\"last_index\": %" PRIu64 ", \"closed\": %s}\n", last,
                     a->no_close ? "false" : "true");
    }
    return code;
}
