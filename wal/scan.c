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
    if (s->error != 0) {
        return;
    }
    scan_directory(s);
    if (s->error != 0 || s->empty || s->conditions != 0) {
        return;
    }
    scan_meta(s);
    if (s->error == 0 && !s->hopeless) {
        scan_headers(s);
    }
    if (s->segments.n > 0) {
        s->end = s->segments.v[0].first_lsn + WAL_FIRST_BATCH;
    }
    for (size_t k = 0; k < s->segments.n && s->error == 0 && !s->hopeless; k++) {
        scan_segment(s, k);
    }
    if (s->error == 0 && !s->hopeless && !s->empty) {
        rguard__wal_walk_end(s);
    }
}

void rguard__wal_scan_free(struct wal_scan *s)
{
    free(s->sequences);
    free(s->segments.v);
    free(s->leftovers.v);
    free(s->buf);
    free(s->bad);
    free(s->seen);
    rguard__wal_faults_free(&s->faults);
    rguard__wal_index_free(&s->index);
}

uint64_t rguard__wal_segment_limit(const struct wal_segment *g)
{
    return g->first_lsn + g->bytes - WAL_BLOCK;
}

/* Of each kind the first finding is kept; which kind is told is up to the verdict. */
void rguard__wal_find(struct wal_scan *s, uint32_t conditions, uint64_t segment, uint64_t offset,
                      const char *format, ...)
{
    for (unsigned bit = 0; bit < WAL_CONDITIONS; bit++) {
        struct wal_finding *f = &s->found[bit];
        if ((conditions & 1u << bit) != 0 && f->what[0] == '\0') {
            va_list args;
            va_start(args, format);
            (void)vsnprintf(f->what, sizeof f->what, format, args);
            va_end(args);
            f->segment = segment;
            f->offset = offset;
        }
    }
    s->conditions |= conditions;
    s->hopeless = s->hopeless || (conditions & (WAL_C_VERSION | WAL_C_FOREIGN)) != 0;
}

static void fail(struct wal_scan *s, int error, const char *name)
{
    if (s->error == 0) {
        s->error = error;
        (void)snprintf(s->what, sizeof s->what, "%s: %s", name, rguard_strerror(error));
    }
}

/* A repair that was committed is carried out before anything is looked at. */
void rguard__wal_redo(struct wal_scan *s)
{
    int rc = rguard__wal_journal_redo(s->disk);
    if (rc != 0) {
        fail(s, rc, "finishing a repair");
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
    s->have_meta = s->have_meta || strcmp(name, "meta") == 0;
    s->have_repair = s->have_repair || strcmp(name, "repair") == 0;
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
    free(s->bad);
    s->buf_bytes = 0;
    s->buf = aligned_alloc(WAL_BLOCK, bytes);
    s->bad = malloc(bytes / WAL_SECTOR);
    if (s->buf == NULL || s->bad == NULL) {
        fail(s, -ENOMEM, "reading a segment");
        return false;
    }
    s->buf_bytes = bytes;
    return true;
}

/* One block, sector by sector where the device can be asked for one. */
static int64_t read_sectors(struct rguard_disk *disk, struct rguard_file *f, uint8_t *buf,
                            uint64_t offset, uint8_t *bad, size_t *n_bad)
{
    const size_t per_block = WAL_BLOCK / WAL_SECTOR;
    for (size_t i = 0; i < per_block; i++) {
        uint8_t *to = buf + i * WAL_SECTOR;
        int64_t n = disk->ops->read(disk, f, to, WAL_SECTOR, offset + i * WAL_SECTOR);
        if (n == -EIO || n == -EINVAL) {
            /* -EINVAL: the device reads in larger units, and this one it cannot read. */
            memset(to, 0, WAL_SECTOR);
            bad[i] = 1;
            ++*n_bad;
        } else if (n < 0) {
            return n;
        } else if (n < (int64_t)WAL_SECTOR) {
            return (int64_t)(i * WAL_SECTOR) + n;
        }
    }
    return WAL_BLOCK;
}

int64_t rguard__wal_read_split(struct rguard_disk *disk, struct rguard_file *f, uint8_t *buf,
                               size_t len, uint64_t offset, uint8_t *bad, size_t *n_bad)
{
    size_t done = 0, chunk = READ_CHUNK;
    while (done < len) {
        size_t left = len - done, want = left < chunk ? left : chunk;
        int64_t n = disk->ops->read(disk, f, buf + done, want, offset + done);
        if (n == -EIO && want > WAL_BLOCK) {
            chunk = WAL_BLOCK;
            continue;
        }
        if (n == -EIO) {
            n = read_sectors(disk, f, buf + done, offset + done, bad + done / WAL_SECTOR, n_bad);
        }
        if (n < 0) {
            return n;
        }
        done += (size_t)n;
        if ((size_t)n < want) {
            break;
        }
        chunk = (offset + done) % READ_CHUNK == 0 ? READ_CHUNK : chunk;
    }
    return (int64_t)done;
}

/* Reads @len bytes at @offset of @name into s->buf; what the file does not have, and what cannot be
 * read, is zero there. Returns the bytes that were read, or a negative error that has been noted.
 */
static int64_t read_file(struct wal_scan *s, const char *name, struct rguard_file *f, uint64_t len,
                         uint64_t offset)
{
    if (!grow(s, len)) {
        return -ENOMEM;
    }
    s->n_bad = 0;
    memset(s->bad, 0, len / WAL_SECTOR);
    int64_t n = rguard__wal_read_split(s->disk, f, s->buf, len, offset, s->bad, &s->n_bad);
    if (n < 0) {
        fail(s, (int)n, name);
        return n;
    }
    memset(s->buf + n, 0, len - (uint64_t)n);
    return n;
}

/* ---- metadata ---- */

static const char pair_lost[] =
    "both copies of the newest term and vote are damaged; an older vote is no substitute";

/* The newest generation with a good copy, unless the other pair, which may have held a newer one,
 * is damaged as a whole. */
/* The generation of a slot that has overwritten slot @i instead of its own place; 0: none. */
static uint64_t stray_generation(const struct wal_scan *s, uint32_t i, const struct wal_meta *found)
{
    struct wal_meta m;
    bool stray = found->slot < WAL_META_SLOTS && found->slot != i &&
                 rguard__wal_meta_check(s->buf + i * WAL_BLOCK, found->slot, &m) == WAL_HEADER_OK;
    return stray ? found->generation : 0;
}

static void choose_meta(struct wal_scan *s)
{
    enum wal_header_state state[WAL_META_SLOTS];
    struct wal_meta slot[WAL_META_SLOTS];
    int best = -1;
    bool other = false, magic = false;
    uint64_t stray = 0;
    for (uint32_t i = 0; i < WAL_META_SLOTS; i++) {
        state[i] = rguard__wal_meta_check(s->buf + i * WAL_BLOCK, i, &slot[i]);
        other = other || state[i] == WAL_HEADER_OTHER;
        magic = magic || slot[i].magic == WAL_META_MAGIC;
        if (state[i] == WAL_HEADER_OK && (best < 0 || slot[i].generation > slot[best].generation)) {
            best = (int)i;
        }
        s->meta_bad_copy = s->meta_bad_copy || state[i] != WAL_HEADER_OK;
        uint64_t generation = state[i] == WAL_HEADER_BAD ? stray_generation(s, i, &slot[i]) : 0;
        stray = generation > stray ? generation : stray;
    }
    uint32_t lost = WAL_C_META;
    if (s->n_bad > 0) {
        /* A copy that cannot be read is a bad copy; a pair that cannot be read is lost. */
        lost |= WAL_C_IO;
    }
    if (other) {
        rguard__wal_find(s, WAL_C_VERSION, 0, 0, "meta has the format version of another release");
    } else if (best < 0 && !magic && s->n_bad == 0 && s->n_sequences == 0) {
        rguard__wal_find(s, WAL_C_FOREIGN, 0, 0, "meta is not a raftguard file");
    } else if (best < 0) {
        rguard__wal_find(s, lost, 0, 0, "%s", pair_lost);
    } else {
        s->meta = slot[best];
        uint32_t twin = (uint32_t)best ^ 1;
        if (state[twin] == WAL_HEADER_OK && slot[twin].generation != s->meta.generation) {
            s->meta_bad_copy = true; /* cut short between the two: what we tell now needs both */
        }
        uint32_t pair = (uint32_t)best < 2 ? 2 : 0;
        if (state[pair] != WAL_HEADER_OK && state[pair + 1] != WAL_HEADER_OK) {
            rguard__wal_find(s, lost, 0, pair * WAL_BLOCK, "%s", pair_lost);
        } else if (stray > s->meta.generation) {
            /* The second copy was misdirected onto the first, and its place holds an older one. */
            rguard__wal_find(s, WAL_C_META, 0, pair * WAL_BLOCK, "%s", pair_lost);
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
        s->hopeless = true;
        return NULL;
    }
    if (rc != 0) {
        fail(s, rc, name);
        return NULL;
    }
    return f;
}

/* A file without a usable header that holds nothing else either: what a crash leaves of a segment
 * in the making, or a spare whose headers have rotted. Reads the whole file. */
static bool nothing_behind_header(struct wal_scan *s, const char *name, struct rguard_file *f,
                                  int64_t size)
{
    if (size > (int64_t)(2 * WAL_SEGMENT_MAX)) {
        return false;
    }
    uint64_t len = ((uint64_t)size + WAL_BLOCK - 1) / WAL_BLOCK * WAL_BLOCK, magic = 0;
    if (len <= WAL_BLOCK) {
        return true;
    }
    if (read_file(s, name, f, len, 0) < 0 || s->n_bad > 0) {
        return false;
    }
    /* The last block would be the second header, unless the file has lost its end. */
    memcpy(&magic, s->buf + len - WAL_BLOCK, sizeof magic);
    return magic != WAL_BATCH_MAGIC &&
           rguard__wal_is_zero(s->buf + WAL_BLOCK, len < WAL_OVERHEAD ? 0 : len - WAL_OVERHEAD);
}

/* The copy of the header in the last block, when the first block has none. */
static enum wal_header_state check_copy(struct wal_scan *s, uint64_t sequence,
                                        struct rguard_file *f, const char *name, int64_t size,
                                        struct wal_segment_header *h)
{
    uint64_t at = (uint64_t)size / WAL_BLOCK * WAL_BLOCK;
    if (at < WAL_SEGMENT_MIN || read_file(s, name, f, WAL_BLOCK, at - WAL_BLOCK) < 0) {
        return WAL_HEADER_BAD;
    }
    enum wal_header_state state = rguard__wal_segment_check(s->buf, h);
    bool mine = h->sequence == sequence && h->bytes == at;
    return state == WAL_HEADER_OK && !mine ? WAL_HEADER_BAD : state;
}

static void push(struct wal_scan *s, struct wal_segments *to, const struct wal_segment *segment)
{
    int rc = rguard__wal_segments_push(to, segment);
    if (rc != 0) {
        fail(s, rc, "segment list");
    }
}

static void take_header(struct wal_scan *s, uint64_t sequence, const struct wal_segment_header *h,
                        int64_t size, uint32_t heal, const char *name)
{
    struct wal_segment segment = {sequence, h->salt, h->first_lsn, h->bytes, heal};
    if (s->have_meta && s->meta.generation > 0 && memcmp(h->uuid, s->meta.uuid, WAL_UUID) != 0) {
        rguard__wal_find(s, WAL_C_FOREIGN, sequence, 0, "%s is part of another log", name);
    } else if (h->sequence != sequence) {
        rguard__wal_find(s, WAL_C_SEGMENT, sequence, 0, "%s is a copy of segment %" PRIu64, name,
                         h->sequence);
    } else {
        if (s->meta.generation == 0) {
            memcpy(s->meta.uuid, h->uuid, WAL_UUID); /* the metadata is lost; look all the same */
        }
        s->warnings += (uint64_t)size != h->bytes;
        s->warnings += heal != 0;
        push(s, &s->segments, &segment);
    }
}

static void check_header(struct wal_scan *s, size_t i, struct rguard_file *f, const char *name)
{
    uint64_t sequence = s->sequences[i];
    struct wal_segment_header h;
    int64_t size = s->disk->ops->size(s->disk, f);
    if (size < 0 || read_file(s, name, f, WAL_BLOCK, 0) < 0) {
        return;
    }
    uint32_t heal = 0;
    bool unreadable = s->n_bad > 0;
    enum wal_header_state state = rguard__wal_segment_check(s->buf, &h), first = state;
    if (state == WAL_HEADER_BAD || state == WAL_HEADER_ZERO) {
        heal = WAL_HEAL_FIRST;
        state = check_copy(s, sequence, f, name, size, &h);
        unreadable = unreadable || s->n_bad > 0;
    }
    if (state == WAL_HEADER_OK) {
        take_header(s, sequence, &h, size, heal, name);
    } else if (state == WAL_HEADER_OTHER) {
        rguard__wal_find(s, WAL_C_VERSION, sequence, 0,
                         "%s has the format version of another release", name);
    } else if (i + 1 == s->n_sequences && !unreadable && nothing_behind_header(s, name, f, size)) {
        struct wal_segment nothing = {.sequence = sequence};
        s->warnings += first == WAL_HEADER_BAD;
        push(s, &s->leftovers, &nothing);
    } else {
        uint32_t io = unreadable ? WAL_C_IO : 0;
        rguard__wal_find(s, WAL_C_SEGMENT | io, sequence, 0, "both headers of %s are damaged",
                         name);
    }
}

/* Segment @k is the one that is expected there: by its number and by its address. */
static bool joined(const struct wal_scan *s, size_t k)
{
    const struct wal_segment *g = &s->segments.v[k];
    if (k == 0) {
        return s->meta.first_segment == 0 || g->sequence == s->meta.first_segment;
    }
    return g->sequence == g[-1].sequence + 1 && g->first_lsn == g[-1].first_lsn + g[-1].bytes;
}

/* Every segment from the first one that is needed, without a gap in numbers or addresses. */
static void check_sequence(struct wal_scan *s)
{
    const struct wal_segments *g = &s->segments;
    for (size_t k = 0; k < g->n; k++) {
        if (!joined(s, k)) {
            uint64_t gone = k == 0 ? s->meta.first_segment : g->v[k - 1].sequence + 1;
            rguard__wal_find(s, WAL_C_SEGMENT, gone, 0, "segment %" PRIu64 " is missing", gone);
            return;
        }
    }
    if (g->n == 0) {
        rguard__wal_find(s, WAL_C_SEGMENT, s->meta.first_segment, 0,
                         "segment %" PRIu64 " is missing", s->meta.first_segment);
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
        if (s->hopeless) {
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
    struct wal_segment *segment = &s->segments.v[k];
    char name[WAL_NAME_MAX];
    rguard__wal_segment_name(segment->sequence, name);
    if (!joined(s, k)) {
        rguard__wal_mark_cut(s);
    }
    struct rguard_file *f = open_segment(s, segment->sequence, false);
    if (f == NULL) {
        return;
    }
    if (read_file(s, name, f, segment->bytes, 0) >= 0) {
        struct wal_segment_header h;
        const uint8_t *copy = s->buf + segment->bytes - WAL_BLOCK;
        if (rguard__wal_segment_check(copy, &h) != WAL_HEADER_OK ||
            h.sequence != segment->sequence || h.salt != segment->salt) {
            segment->heal |= WAL_HEAL_LAST;
            s->warnings++;
        }
        rguard__wal_walk(s, k, WAL_FIRST_BATCH);
    }
    s->disk->ops->close(s->disk, f);
}

/* Before the lock file is created: is this somebody else's directory, or has it no log? */
bool rguard__wal_foreign(struct rguard_disk *disk, bool *empty)
{
    struct wal_scan s = {.disk = disk};
    scan_directory(&s);
    bool foreign = (s.conditions & WAL_C_FOREIGN) != 0;
    *empty = s.empty;
    rguard__wal_scan_free(&s);
    return foreign;
}
