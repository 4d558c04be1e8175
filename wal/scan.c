/* SPDX-License-Identifier: Apache-2.0 */
/* What is on disk. Finds facts and judges nothing; recover.c turns them into a verdict.
 *
 * directory -> meta -> header of every segment -> every block of every segment (walk.c).
 *
 * Invariant: memory is bounded by the largest segment file and the index, whatever the files say.
 */
#include "wal_internal.h"

#include <raftguard/testing.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_CHUNK (1024u * 1024u)

static void scan_directory(struct wal_scan *s);
static void scan_meta(struct wal_scan *s);
static void scan_headers(struct wal_scan *s);
static void scan_segment(struct wal_scan *s, size_t k);

void rguard__wal_scan(struct wal_scan *s)
{
    scan_directory(s);
    if (s->error != 0 || s->empty || s->conditions != 0) {
        return;
    }
    scan_meta(s);
    const uint32_t hopeless = WAL_C_IO | WAL_C_NEWER | WAL_C_FOREIGN;
    if (s->error == 0 && (s->conditions & hopeless) == 0) {
        scan_headers(s);
    }
    if (s->segments.n > 0) {
        s->end = s->segments.v[0].first_lsn + WAL_FIRST_BATCH;
    }
    for (size_t k = 0; k < s->segments.n; k++) {
        if (s->error != 0 || (s->conditions & hopeless) != 0 || s->empty) {
            return;
        }
        scan_segment(s, k);
    }
    if (s->error == 0 && (s->conditions & hopeless) == 0 && !s->empty) {
        rguard__wal_walk_end(s);
    }
}

void rguard__wal_scan_free(struct wal_scan *s)
{
    free(s->sequences);
    free(s->segments.v);
    free(s->leftovers.v);
    free(s->buf);
    rguard__wal_index_free(&s->index);
}

/* The first finding is the one that is told. */
void rguard__wal_find(struct wal_scan *s, uint32_t condition, uint64_t segment, uint64_t offset,
                      const char *format, ...)
{
    if (s->what[0] == '\0') {
        va_list args;
        va_start(args, format);
        (void)vsnprintf(s->what, sizeof s->what, format, args);
        va_end(args);
        s->damage.segment = segment;
        s->damage.offset = offset;
    }
    s->conditions |= condition;
}

static void fail(struct wal_scan *s, int error, const char *name)
{
    if (s->error == 0) {
        s->error = error;
        (void)snprintf(s->what, sizeof s->what, "%s: %s", name, rguard_strerror(error));
    }
}

/* ---- directory ---- */

/* Other programs' logs that somebody may point us at by mistake. Any other file is none of our
 * business: snapshots, traces and the like live beside the log. */
static bool alien(const char *name)
{
    static const char *const exact[] = {"metadata1", "metadata2", "data.mdb", "CURRENT", "member"};
    for (size_t i = 0; i < sizeof exact / sizeof exact[0]; i++) {
        if (strcmp(name, exact[i]) == 0) {
            return true;
        }
    }
    return strncmp(name, "open-", 5) == 0 || strncmp(name, "MANIFEST-", 9) == 0;
}

struct listing
{
    struct wal_scan *s;
    char alien[64];
};

static int list_one(void *user, const char *name)
{
    struct listing *l = user;
    struct wal_scan *s = l->s;
    if (strcmp(name, "meta") == 0) {
        s->have_meta = true;
    }
    if (alien(name)) {
        (void)snprintf(l->alien, sizeof l->alien, "%s", name);
    }
    uint64_t sequence = rguard__wal_segment_parse(name);
    if (sequence == 0) {
        return 0;
    }
    if (s->n_sequences == s->sequences_capacity) {
        size_t capacity = s->sequences_capacity == 0 ? 64 : 2 * s->sequences_capacity;
        uint64_t *v = realloc(s->sequences, capacity * sizeof *v);
        if (v == NULL) {
            return -ENOMEM;
        }
        s->sequences = v;
        s->sequences_capacity = capacity;
    }
    s->sequences[s->n_sequences++] = sequence;
    return 0;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void scan_directory(struct wal_scan *s)
{
    struct listing l = {.s = s};
    /* Names that a process which is gone has left may be visible and not durable. */
    int rc = s->options != NULL && !s->options->read_only ? s->disk->ops->sync_dir(s->disk) : 0;
    if (rc == 0) {
        rc = s->disk->ops->list(s->disk, list_one, &l);
    }
    if (rc != 0) {
        fail(s, rc, "directory");
        return;
    }
    if (s->n_sequences > 1) {
        qsort(s->sequences, s->n_sequences, sizeof *s->sequences, compare);
    }
    if (!s->have_meta && s->n_sequences == 0) {
        if (l.alien[0] != '\0') {
            rguard__wal_find(s, WAL_C_FOREIGN, 0, 0, "%s belongs to another program", l.alien);
        } else {
            s->empty = true;
        }
    }
}

/* ---- reading ---- */

static bool grow(struct wal_scan *s, uint64_t bytes)
{
    if (bytes <= s->buf_bytes) {
        return true;
    }
    free(s->buf);
    s->buf_bytes = 0;
    s->buf = aligned_alloc(WAL_BLOCK, bytes);
    if (s->buf == NULL) {
        fail(s, -ENOMEM, "reading a segment");
        return false;
    }
    s->buf_bytes = bytes;
    return true;
}

/* Reads @len bytes from the start of @name into s->buf; what the file does not have is zero there.
 * Returns the bytes that were read, or a negative error that has been noted. */
static int64_t read_file(struct wal_scan *s, const char *name, struct rguard_file *f, uint64_t len,
                         uint64_t sequence)
{
    if (!grow(s, len)) {
        return -ENOMEM;
    }
    uint64_t done = 0;
    while (done < len) {
        size_t chunk = len - done < READ_CHUNK ? (size_t)(len - done) : READ_CHUNK;
        int64_t n = s->disk->ops->read(s->disk, f, s->buf + done, chunk, done);
        for (size_t i = 0; n == -EIO && chunk > WAL_BLOCK && i < chunk; i += WAL_BLOCK) {
            /* Name the block, not the chunk. */
            if (s->disk->ops->read(s->disk, f, s->buf + done, WAL_BLOCK, done) == -EIO) {
                break;
            }
            done += WAL_BLOCK;
        }
        if (n == -EIO) {
            rguard__wal_find(s, WAL_C_IO, sequence, done, "the device failed to read %s", name);
            return n;
        }
        if (n < 0) {
            fail(s, (int)n, name);
            return n;
        }
        done += (uint64_t)n;
        if ((size_t)n < chunk) {
            break;
        }
    }
    memset(s->buf + done, 0, len - done);
    return (int64_t)done;
}

/* ---- metadata ---- */

static const char pair_lost[] =
    "both copies of the newest term and vote are damaged; an older vote is no substitute";

/* The newest generation with a good copy, unless the other pair, which may have held a newer one,
 * is damaged as a whole. */
static void choose_meta(struct wal_scan *s)
{
    enum wal_header_state state[WAL_META_SLOTS];
    struct wal_meta slot[WAL_META_SLOTS];
    int best = -1;
    bool newer = false, magic = false;
    for (uint32_t i = 0; i < WAL_META_SLOTS; i++) {
        state[i] = rguard__wal_meta_check(s->buf + i * WAL_BLOCK, i, &slot[i]);
        newer = newer || state[i] == WAL_HEADER_NEWER;
        magic = magic || slot[i].magic == WAL_META_MAGIC;
        if (state[i] == WAL_HEADER_OK && (best < 0 || slot[i].generation > slot[best].generation)) {
            best = (int)i;
        }
        s->meta_bad_copy = s->meta_bad_copy || state[i] != WAL_HEADER_OK;
    }
    if (newer) {
        rguard__wal_find(s, WAL_C_NEWER, 0, 0, "meta has a later format version");
    } else if (best < 0 && !magic && s->n_sequences == 0) {
        rguard__wal_find(s, WAL_C_FOREIGN, 0, 0, "meta is not a raftguard file");
    } else if (best < 0) {
        rguard__wal_find(s, WAL_C_META, 0, 0, "%s", pair_lost);
    } else {
        s->meta = slot[best];
        uint32_t twin = (uint32_t)best ^ 1;
        if (state[twin] == WAL_HEADER_OK && slot[twin].generation != s->meta.generation) {
            s->meta_bad_copy = true; /* cut short between the two: what we tell now needs both */
        }
        uint32_t other = (uint32_t)best < 2 ? 2 : 0;
        if (state[other] != WAL_HEADER_OK && state[other + 1] != WAL_HEADER_OK) {
            rguard__wal_find(s, WAL_C_META, 0, other * WAL_BLOCK, "%s", pair_lost);
        }
    }
    s->warnings += s->meta_bad_copy;
}

static void check_node(struct wal_scan *s)
{
    uint64_t wanted = s->options->node_id;
    if (wanted != 0 && s->meta.node_id != 0 && wanted != s->meta.node_id) {
        rguard__wal_find(s, WAL_C_FOREIGN, 0, 0,
                         "the log belongs to node %" PRIu64 ", this is node %" PRIu64,
                         s->meta.node_id, wanted);
    }
}

static void scan_meta(struct wal_scan *s)
{
    struct rguard_file *f;
    if (!s->have_meta) {
        /* Not a finding yet: creation writes segment 1 before it writes meta. */
        return;
    }
    bool settle = !s->options->read_only;
    int rc = s->disk->ops->open(s->disk, "meta", settle ? O_RDWR : O_RDONLY, &f);
    if (rc == 0 && settle) {
        rc = s->disk->ops->sync(s->disk, f);
        if (rc != 0) {
            s->disk->ops->close(s->disk, f);
        }
    }
    if (rc != 0) {
        fail(s, rc, "meta");
        return;
    }
    if (read_file(s, "meta", f, WAL_META_BYTES, 0) >= 0) {
        choose_meta(s);
        check_node(s);
    }
    s->disk->ops->close(s->disk, f);
}

/* ---- segment headers ---- */

/* Opens a segment. While another process may have left a write in flight in one of the last two
 * files, that write is waited for before anything is read. */
static struct rguard_file *open_segment(struct wal_scan *s, uint64_t sequence, bool settle)
{
    char name[WAL_NAME_MAX];
    struct rguard_file *f;
    rguard__wal_segment_name(sequence, name);
    settle = settle && !s->options->read_only;
    int rc = s->disk->ops->open(s->disk, name, settle ? O_RDWR : O_RDONLY, &f);
    if (rc == 0 && settle) {
        rc = s->disk->ops->sync(s->disk, f);
        if (rc != 0) {
            s->disk->ops->close(s->disk, f);
        }
    }
    if (rc == -EIO) {
        rguard__wal_find(s, WAL_C_IO, sequence, 0, "the device failed to open or sync %s", name);
        return NULL;
    }
    if (rc != 0) {
        fail(s, rc, name);
        return NULL;
    }
    return f;
}

/* A file without a usable header that holds nothing else either: what a crash leaves of a segment
 * in the making, or a spare whose header has rotted. Reads the whole file. */
static bool nothing_behind_header(struct wal_scan *s, const char *name, struct rguard_file *f,
                                  int64_t size, uint64_t sequence)
{
    if (size > (int64_t)(2 * WAL_SEGMENT_MAX)) {
        return false;
    }
    uint64_t len = ((uint64_t)size + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK;
    if (len <= WAL_BLOCK) {
        return true;
    }
    return read_file(s, name, f, len, sequence) >= 0 &&
           rguard__wal_is_zero(s->buf + WAL_BLOCK, len - WAL_BLOCK);
}

static void push(struct wal_scan *s, struct wal_segments *to, const struct wal_segment *segment)
{
    int rc = rguard__wal_segments_push(to, segment);
    if (rc != 0) {
        fail(s, rc, "segment list");
    }
}

static void check_header(struct wal_scan *s, size_t i, struct rguard_file *f, const char *name)
{
    uint64_t sequence = s->sequences[i];
    struct wal_segment_header h;
    int64_t size = s->disk->ops->size(s->disk, f);
    if (size < 0 || read_file(s, name, f, WAL_BLOCK, sequence) < 0) {
        return;
    }
    enum wal_header_state state = rguard__wal_segment_check(s->buf, &h);
    struct wal_segment segment = {sequence, h.salt, h.first_lsn, h.bytes};
    if (state == WAL_HEADER_NEWER) {
        rguard__wal_find(s, WAL_C_NEWER, sequence, 0, "%s has a later format version", name);
    } else if (state != WAL_HEADER_OK) {
        bool last = i + 1 == s->n_sequences;
        if (last && nothing_behind_header(s, name, f, size, sequence)) {
            s->warnings += state == WAL_HEADER_BAD;
            push(s, &s->leftovers, &segment);
        } else {
            rguard__wal_find(s, WAL_C_SEGMENT, sequence, 0, "the header of %s is damaged", name);
        }
    } else if (s->have_meta && s->meta.generation > 0 &&
               memcmp(h.uuid, s->meta.uuid, WAL_UUID) != 0) {
        rguard__wal_find(s, WAL_C_FOREIGN, sequence, 0, "%s is part of another log", name);
    } else if (h.sequence != sequence) {
        rguard__wal_find(s, WAL_C_SEGMENT, sequence, 0, "%s is a copy of segment %" PRIu64, name,
                         h.sequence);
    } else {
        if (s->meta.generation == 0) {
            memcpy(s->meta.uuid, h.uuid, WAL_UUID); /* the metadata is lost; look all the same */
        }
        s->warnings += (uint64_t)size != h.bytes;
        push(s, &s->segments, &segment);
    }
}

/* Every segment from the first one that is needed, without a gap in numbers or addresses. */
static void check_sequence(struct wal_scan *s)
{
    const struct wal_segments *g = &s->segments;
    uint64_t expected = s->meta.first_segment;
    for (size_t k = 0; k < g->n; k++) {
        bool joined = k == 0 || g->v[k].first_lsn == g->v[k - 1].first_lsn + g->v[k - 1].bytes;
        if ((expected != 0 && g->v[k].sequence != expected) || !joined) {
            rguard__wal_find(s, WAL_C_SEGMENT, expected, 0, "segment %" PRIu64 " is missing",
                             expected);
            return;
        }
        expected = g->v[k].sequence + 1;
    }
    if (g->n == 0) {
        rguard__wal_find(s, WAL_C_SEGMENT, expected, 0, "segment %" PRIu64 " is missing", expected);
    }
}

static void scan_headers(struct wal_scan *s)
{
    for (size_t i = 0; i < s->n_sequences && s->error == 0; i++) {
        char name[WAL_NAME_MAX];
        rguard__wal_segment_name(s->sequences[i], name);
        if (s->sequences[i] < s->meta.first_segment) {
            struct wal_segment old = {.sequence = s->sequences[i]};
            push(s, &s->leftovers, &old);
            continue;
        }
        struct rguard_file *f = open_segment(s, s->sequences[i], i + 2 >= s->n_sequences);
        if (f == NULL) {
            return;
        }
        check_header(s, i, f, name);
        s->disk->ops->close(s->disk, f);
        if ((s->conditions & (WAL_C_IO | WAL_C_FOREIGN | WAL_C_NEWER)) != 0) {
            return;
        }
    }
    bool only_first = s->n_sequences == 1 && s->sequences[0] == 1;
    if (!s->have_meta && only_first && s->segments.n + s->leftovers.n == 1) {
        return; /* perhaps a creation that was cut short; the walk finds out whether data is there
                 */
    }
    if (!s->have_meta) {
        rguard__wal_find(s, WAL_C_META, 0, 0, "meta is missing, and with it term and vote");
    }
    check_sequence(s);
}

static void scan_segment(struct wal_scan *s, size_t k)
{
    const struct wal_segment *segment = &s->segments.v[k];
    char name[WAL_NAME_MAX];
    rguard__wal_segment_name(segment->sequence, name);
    struct rguard_file *f = open_segment(s, segment->sequence, false);
    if (f == NULL) {
        return;
    }
    if (read_file(s, name, f, segment->bytes, segment->sequence) >= 0) {
        rguard__wal_walk(s, k);
    }
    s->disk->ops->close(s->disk, f);
}

/* Before the lock file is created: is this somebody else's directory? */
bool rguard__wal_foreign(struct rguard_disk *disk)
{
    struct wal_scan s = {.disk = disk};
    scan_directory(&s);
    bool foreign = (s.conditions & WAL_C_FOREIGN) != 0;
    rguard__wal_scan_free(&s);
    return foreign;
}
