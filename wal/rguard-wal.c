/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-wal: looks at logs, and makes them for tests.
 *
 * Invariant: verify and dump take no lock and write nothing, so they may run beside a replica; what
 * only looks like damage because it is being written is told apart by scanning again. The exit code
 * is the verdict (the table in usage()). */
#include "wal_internal.h"

#include <raftguard/failpoint.h>
#include <raftguard/version.h>

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum code {
    CODE_CLEAN = 0,
    CODE_TORN = 1,
    CODE_SUSPECT = 2,
    CODE_CORRUPT = 3,
    CODE_IO = 4,
    CODE_FOREIGN = 5,
    CODE_USAGE = 64,
    CODE_FAILPOINTS = 78,
    CODE_INTERRUPTED = 130
};

#define FILL_BYTES_MAX (64u * 1024u * 1024u) /* of one batch of fill */

struct args
{
    const char *dir;
    bool json;
    uint64_t records, size, seed, batch;
    bool no_close;
};

static int look(const struct args *a, bool dump);
static int fill(const struct args *a);

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signo)
{
    (void)signo;
    interrupted = 1;
}

static int usage(FILE *to)
{
    (void)fprintf(
        to,
        "usage: rguard-wal verify DIR [--json]\n"
        "       rguard-wal dump DIR [--json]\n"
        "       rguard-wal fill DIR [--records N] [--size B] [--seed S] [--batch K] [--no-close]\n"
        "\n"
        "  verify   reads every byte of the log in DIR and says whether it is whole; what is\n"
        "           damaged, which records that concerns, and what to do about it\n"
        "  dump     the same, and every batch and live record\n"
        "  fill     appends N records (1000) of B bytes (512), K to a batch (16), whose contents\n"
        "           follow from S (1); makes DIR if it is missing. The same arguments make the\n"
        "           same bytes. --no-close leaves the log as a killed process would\n"
        "\n"
        "verify and dump write nothing and take no lock; they work on a log that is in use.\n"
        "\n"
        "      --json      print one JSON object instead\n"
        "  -h, --help      this text\n"
        "      --version   version\n"
        "\n"
        "exit: 0 clean, 1 torn tail (the next open drops it), 2 suspect tail, 3 corrupt,\n"
        "      4 I/O error or could not run, 5 foreign or unsupported, 64 bad usage,\n"
        "      78 bad RGUARD_FAILPOINTS\n");
    return to == stdout ? CODE_CLEAN : CODE_USAGE;
}

static int complain(const char *what, const char *why, int code)
{
    (void)fflush(stdout); /* in the order in which it happened, where both go to one place */
    (void)fprintf(stderr, "rguard-wal: %s: %s\n", what, why);
    return code;
}

/* ---- arguments ---- */

static bool number(const char *text, uint64_t min, uint64_t max, uint64_t *out)
{
    char *end;
    errno = 0;
    if (text[0] < '0' || text[0] > '9') {
        return false;
    }
    unsigned long long v = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || v < min || v > max) {
        return false;
    }
    *out = v;
    return true;
}

enum { OPT_JSON = 256, OPT_VERSION, OPT_RECORDS, OPT_SIZE, OPT_SEED, OPT_BATCH, OPT_NO_CLOSE };

static const struct option longs[] = {{"json", no_argument, NULL, OPT_JSON},
                                      {"help", no_argument, NULL, 'h'},
                                      {"version", no_argument, NULL, OPT_VERSION},
                                      {"records", required_argument, NULL, OPT_RECORDS},
                                      {"size", required_argument, NULL, OPT_SIZE},
                                      {"seed", required_argument, NULL, OPT_SEED},
                                      {"batch", required_argument, NULL, OPT_BATCH},
                                      {"no-close", no_argument, NULL, OPT_NO_CLOSE},
                                      {NULL, 0, NULL, 0}};

/* 0: go on; otherwise the program is over, with this exit code - 1. */
static int parse(int argc, char **argv, struct args *a, bool *fill_options)
{
    int opt;
    while ((opt = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
        bool good = true;
        *fill_options = *fill_options || opt >= OPT_RECORDS;
        switch (opt) {
            case OPT_JSON:
                a->json = true;
                break;
            case OPT_VERSION:
                (void)printf("rguard-wal %s\n", rguard_version());
                return 1 + CODE_CLEAN;
            case OPT_RECORDS:
                good = number(optarg, 1, 1000000000, &a->records);
                break;
            case OPT_SIZE:
                good = number(optarg, 0, 8 * 1024 * 1024, &a->size);
                break;
            case OPT_SEED:
                good = number(optarg, 0, UINT64_MAX, &a->seed);
                break;
            case OPT_BATCH:
                good = number(optarg, 1, 65536, &a->batch);
                break;
            case OPT_NO_CLOSE:
                a->no_close = true;
                break;
            case 'h':
                return 1 + usage(stdout);
            default:
                return 1 + usage(stderr);
        }
        if (!good) {
            return 1 + complain(argv[optind - 1], "not a number in range (see --help)", CODE_USAGE);
        }
    }
    return 0;
}

static int run(int argc, char **argv)
{
    struct args a = {.records = 1000, .size = 512, .seed = 1, .batch = 16};
    struct rguard_fp_error err;
    bool fill_options = false;
    int over = parse(argc, argv, &a, &fill_options);
    if (over != 0) {
        return over - 1;
    }
    if (argc - optind != 2) {
        return usage(stderr);
    }
    const char *command = argv[optind];
    a.dir = argv[optind + 1];
    bool filling = strcmp(command, "fill") == 0, dump = strcmp(command, "dump") == 0;
    if ((!filling && !dump && strcmp(command, "verify") != 0) || (fill_options && !filling)) {
        return usage(stderr);
    }
    if (rguard_fp_init_from_env(&err) != 0) {
        return complain("RGUARD_FAILPOINTS", err.message, CODE_FAILPOINTS);
    }
    int code = filling ? fill(&a) : look(&a, dump);
    rguard_fp_fini();
    return code;
}

int main(int argc, char **argv)
{
    int code = run(argc, argv);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        return complain("standard output", strerror(errno), CODE_IO);
    }
    return code;
}

/* ---- progress ---- */

static uint64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* On a terminal, for anything that takes more than a second. @verb NULL wipes it. */
static void progress(const char *verb, uint64_t n, const char *unit)
{
    static uint64_t started, shown;
    uint64_t now = now_ms();
    started = started == 0 ? now : started;
    if (!isatty(STDERR_FILENO)) {
        return;
    }
    if (verb == NULL) {
        (void)fprintf(stderr, shown != 0 ? "\r\033[K" : "");
    } else if (now - started > 1000 && now - shown > 200) {
        (void)fprintf(stderr, "\r%s %" PRIu64 " %s", verb, n, unit);
        shown = now;
    }
}

/* ---- verify and dump ---- */

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
    progress("scanned", (segment->first_lsn + offset) >> 20, "MiB");
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

static void json_string(const char *key, const char *text, const char *after)
{
    (void)printf("\"%s\": \"", key);
    for (; *text != '\0'; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') {
            (void)printf("\\%c", c);
        } else if (c < 0x20 || c >= 0x7f) {
            (void)printf("\\u%04x", c);
        } else {
            (void)putchar(c);
        }
    }
    (void)printf("\"%s", after);
}

static void json_report(const char *dir, const struct rguard_wal_report *r, int code,
                        const struct wal_scan *s)
{
    json_string("dir", dir, ",\n ");
    json_string("verdict", s->error != 0 ? "error" : rguard_wal_verdict_name(r->verdict), ",\n ");
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
    json_string("file", r->file, ",");
    (void)printf(" \"offset\": %" PRIu64 ",\n ", r->offset);
    json_string("message", r->message, "");
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

static int code_of(const struct wal_scan *s, const struct rguard_wal_report *r)
{
    static const int codes[] = {CODE_CLEAN, CODE_TORN,    CODE_SUSPECT, CODE_CORRUPT,
                                CODE_IO,    CODE_FOREIGN, CODE_FOREIGN};
    return s->error != 0 ? CODE_IO : codes[r->verdict];
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

static int look(const struct args *a, bool dump)
{
    struct rguard_disk *disk;
    struct rguard_wal_report r;
    struct rguard_wal_options options = {.size = sizeof options, .read_only = true};
    struct view view = {.keep = dump};
    struct wal_scan s = {.options = &options, .visit = visit, .visit_user = &view};
    int rc = rguard__disk_open(a->dir, "sync", &disk);
    if (rc != 0) {
        return complain(a->dir, rguard_strerror(rc), CODE_IO);
    }
    s.disk = disk;
    rguard__wal_scan_stable(&s, &r);
    progress(NULL, 0, "");
    if (s.error == 0 && s.empty) {
        r.verdict = RGUARD_WAL_FOREIGN;
        (void)snprintf(r.message, sizeof r.message, "there is no log in this directory");
    }
    if (view.out_of_memory) {
        s.error = -ENOMEM;
        (void)snprintf(r.message, sizeof r.message, "out of memory");
    }
    int code = code_of(&s, &r);
    if (a->json) {
        (void)printf("{");
        json_report(a->dir, &r, code, &s);
        if (dump) {
            json_dump(&s, &view);
        }
        (void)printf("}\n");
    } else if (s.error == 0 && r.verdict != RGUARD_WAL_FOREIGN) {
        if (dump) {
            text_dump(&s, &view);
        }
        text_report(&r, &s);
    }
    if (code != CODE_CLEAN) {
        (void)complain(a->dir, r.message, code);
    }
    if (r.warnings > 0) {
        (void)fprintf(stderr,
                      "rguard-wal: %s: %u harmless findings (padding, unused space or one "
                      "copy of the metadata)\n",
                      a->dir, r.warnings);
    }
    free(view.v);
    rguard__wal_scan_free(&s);
    disk->ops->destroy(disk);
    return code;
}

/* ---- fill ---- */

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
        return complain(dir, rguard_strerror(rc), CODE_IO);
    }
    s.disk = disk;
    rc = disk->ops->list(disk, count_file, &files);
    rguard__wal_scan(&s);
    int code = CODE_CLEAN;
    if (rc != 0) {
        code = complain(dir, rguard_strerror(rc), CODE_IO);
    } else if (s.error == 0 && s.empty && files > s.n_sequences) {
        code = complain(dir, "not empty, and not a log of fill", CODE_FOREIGN);
    } else if (s.meta.node_id != 0) {
        code = complain(dir, "is a node's log", CODE_FOREIGN);
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

static int append_batch(rguard_wal *w, const struct args *a, struct filling *f, uint64_t n)
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

static int append_all(rguard_wal *w, const struct args *a, struct filling *f)
{
    uint64_t done = 0;
    while (done < a->records && !interrupted) {
        uint64_t n = a->records - done < a->batch ? a->records - done : a->batch;
        int rc = append_batch(w, a, f, n);
        if (rc != 0) {
            progress(NULL, 0, "");
            return complain(a->dir, rguard_strerror(rc), CODE_IO);
        }
        done += n;
        progress("appended", done, "records");
    }
    progress(NULL, 0, "");
    return interrupted
               ? complain(a->dir, "interrupted; the records so far are kept", CODE_INTERRUPTED)
               : CODE_CLEAN;
}

static int fill(const struct args *a)
{
    struct rguard_wal_options options = {.size = sizeof options,
                                         .seed = a->seed != 0 ? a->seed : UINT64_MAX};
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = NULL;
    if (a->batch * a->size > FILL_BYTES_MAX) {
        return complain("--batch", "more than 64 MiB in one batch", CODE_USAGE);
    }
    int code = may_fill(a->dir);
    if (code != CODE_CLEAN) {
        return code;
    }
    int rc = rguard_wal_open(a->dir, &options, &w, &r);
    if (rc != 0) {
        bool verdict = r.verdict != RGUARD_WAL_CLEAN_END && r.verdict != RGUARD_WAL_TORN_TAIL;
        struct wal_scan none = {0};
        return complain(a->dir, r.message, verdict ? code_of(&none, &r) : CODE_IO);
    }
    struct filling f = {calloc(a->batch, sizeof *f.records), malloc(a->batch * a->size + 1), 0};
    (void)signal(SIGINT, on_interrupt);
    (void)signal(SIGTERM, on_interrupt);
    if (f.records == NULL || f.data == NULL) {
        code = complain("records", "out of memory", CODE_IO);
    } else {
        code = append_all(w, a, &f);
    }
    uint64_t last = rguard_wal_last_index(w);
    if (!a->no_close ||
        code != CODE_CLEAN) { /* otherwise the end of the process is the end of it */
        rc = rguard_wal_close(w);
        code =
            rc != 0 && code == CODE_CLEAN ? complain(a->dir, rguard_strerror(rc), CODE_IO) : code;
    }
    free(f.records);
    free(f.data);
    if (code == CODE_CLEAN && a->json) {
        (void)printf("{");
        json_string("dir", a->dir, ", ");
        (void)printf("\"last_index\": %" PRIu64 ", \"closed\": %s}\n", last,
                     a->no_close ? "false" : "true");
    }
    return code;
}
