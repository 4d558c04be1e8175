/* SPDX-License-Identifier: Apache-2.0 */
/* libraft's own disk, as its users have it: raft_uv with every default, one voter, in this process.
 * Invariant: what is compared is what raft_uv's load() gave to libraft, seen on its way, and what
 * raft_start() said to its caller; libraft's memory is not looked into for it.
 *
 * Runs in a child that ends with _exit() (wal_faults.c), which also is the crash that the history
 * asks for. The format (uv_segment.c, uv_metadata.c of 0.15):
 *
 *     open-N, <first>-<last>   [format u64] batch...
 *     batch                    [crc32 header | crc32 data] [count u64] [term u64 | type, len u64]...
 *                              data...
 *     metadata1, metadata2     [format u64 | version u64 | term u64 | voted_for u64]    the higher
 *                              version counts
 */
#include "compare.h"

#include <raft.h>
#include <raft/uv.h>

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BATCH_BYTES   (8u + 8u + 16u + RECORD_SIZE) /* one record in it */
#define BATCH_COUNT   8u
#define BATCH_DATA    32u
#define SEGMENT_FIRST 8u
#define META_VERSION  8u
#define META_TERM     16u
#define META_VOTE     24u

#define TERM        2u /* what the last election before the damage left */
#define VOTE        1u
#define PATIENCE_MS 3000u

/* One node in one process, so it may live here; its callbacks have nowhere better to look. */
static struct
{
    struct uv_loop_s loop;
    struct raft_uv_transport transport;
    struct raft_io io;
    struct raft_fsm fsm;
    struct raft raft;
    struct raft_apply apply;
    int (*load)(struct raft_io *, raft_term *, raft_id *, struct raft_snapshot **, raft_index *,
                struct raft_entry *[], size_t *);
    struct state *state;
    int status; /* of the apply under way; 1: under way */
} node;

static int fsm_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result)
{
    (void)fsm;
    (void)buf;
    *result = NULL;
    return 0;
}

/* Snapshots come after 1024 entries; this history has fewer. */
static int fsm_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n)
{
    (void)fsm;
    (void)bufs;
    (void)n;
    return RAFT_NOMEM;
}

static int fsm_restore(struct raft_fsm *fsm, struct raft_buffer *buf)
{
    (void)fsm;
    (void)buf;
    return RAFT_MALFORMED;
}

/* Looks at what the disk hands over, and hands it on. */
static int watched_load(struct raft_io *io, raft_term *term, raft_id *vote,
                        struct raft_snapshot **snapshot, raft_index *start,
                        struct raft_entry *entries[], size_t *n)
{
    uint8_t want[RECORD_SIZE];
    struct state *s = node.state;
    int rv = node.load(io, term, vote, snapshot, start, entries, n);
    if (rv != 0) {
        return rv;
    }
    s->term = *term;
    s->vote = *vote;
    s->last = *start + *n - 1;
    for (size_t i = 0; i < *n && s->wrong == 0; i++) {
        const struct raft_entry *e = &(*entries)[i];
        uint64_t index = *start + i;
        contents(index, want);
        bool good = index == 1 ? e->type == RAFT_CHANGE
                               : e->type == RAFT_COMMAND && e->buf.len == RECORD_SIZE &&
                                     memcmp(e->buf.base, want, RECORD_SIZE) == 0;
        s->wrong = good ? 0 : index;
    }
    return 0;
}

static int fail(struct state *out, const char *what, int rv, const char *why)
{
    (void)snprintf(out->said, sizeof out->said, "%s: %s (%d)%s%s", what, raft_strerror(rv), rv,
                   why != NULL && why[0] != '\0' ? ": " : "", why != NULL ? why : "");
    return rv;
}

static int node_init(const char *dir, struct state *out)
{
    node.state = out;
    (void)signal(SIGPIPE, SIG_IGN);
    int rv = uv_loop_init(&node.loop);
    if (rv == 0) {
        rv = raft_uv_tcp_init(&node.transport, &node.loop);
    }
    if (rv == 0) {
        rv = raft_uv_init(&node.io, &node.loop, dir, &node.transport);
    }
    if (rv != 0) {
        return fail(out, "raft_uv_init", rv, node.io.errmsg);
    }
    node.load = node.io.load;
    node.io.load = watched_load;
    node.fsm = (struct raft_fsm){
        .version = 1, .apply = fsm_apply, .snapshot = fsm_snapshot, .restore = fsm_restore};
    rv = raft_init(&node.raft, &node.io, &node.fsm, 1, "127.0.0.1:0");
    return rv != 0 ? fail(out, "raft_init", rv, raft_errmsg(&node.raft)) : 0;
}

static int node_bootstrap(struct state *out)
{
    struct raft_configuration conf;
    raft_configuration_init(&conf);
    int rv = raft_configuration_add(&conf, 1, "127.0.0.1:0", RAFT_VOTER);
    if (rv == 0) {
        rv = raft_bootstrap(&node.raft, &conf);
    }
    raft_configuration_close(&conf);
    return rv != 0 ? fail(out, "raft_bootstrap", rv, raft_errmsg(&node.raft)) : 0;
}

static void applied(struct raft_apply *req, int status, void *result)
{
    (void)req;
    (void)result;
    node.status = status;
}

/* Offers the record that comes next and waits until it is acknowledged. */
static int apply_one(struct state *out)
{
    struct raft_buffer buf = {.base = raft_malloc(RECORD_SIZE), .len = RECORD_SIZE};
    if (buf.base == NULL) {
        return fail(out, "raft_malloc", RAFT_NOMEM, NULL);
    }
    contents(raft_last_index(&node.raft) + 1, buf.base);
    node.status = 1;
    int rv = raft_apply(&node.raft, &node.apply, &buf, 1, applied);
    if (rv != 0) {
        raft_free(buf.base);
        return fail(out, "raft_apply", rv, raft_errmsg(&node.raft));
    }
    for (uint64_t start = uv_now(&node.loop); node.status == 1;) {
        (void)uv_run(&node.loop, UV_RUN_ONCE); /* raft's own timer ticks in it */
        if (uv_now(&node.loop) - start > PATIENCE_MS) {
            return fail(out, "raft_apply", RAFT_IOERR, "no answer");
        }
    }
    return node.status != 0 ? fail(out, "raft_apply", node.status, raft_errmsg(&node.raft)) : 0;
}

static bool closed;

/* raft_uv may fire this twice, the second time after everything has been freed; the child is gone
 * before that, and libraft itself never hears of it. */
static void io_closed(struct raft_io *io)
{
    (void)io;
    closed = true;
}

static int raft_uv_write(const char *dir, enum fault fault, struct state *out)
{
    int rv = node_init(dir, out);
    if (rv == 0) {
        rv = node_bootstrap(out);
    }
    if (rv == 0) {
        rv = raft_start(&node.raft);
        rv = rv != 0 ? fail(out, "raft_start", rv, raft_errmsg(&node.raft)) : 0;
    }
    while (rv == 0 && raft_last_index(&node.raft) < RECORDS) {
        rv = apply_one(out);
    }
    /* A lone voter elects itself without a vote. Where there are others, this is what they make
     * libraft do; the process is gone before it could be missed. */
    if (rv == 0) {
        rv = node.io.set_term(&node.io, TERM);
    }
    if (rv == 0) {
        rv = node.io.set_vote(&node.io, VOTE);
    }
    if (rv != 0) {
        return -EIO;
    }
    *out = (struct state){.last = raft_last_index(&node.raft), .term = TERM, .vote = VOTE};
    if (fault == FAULT_CLOSED) {
        node.io.close(&node.io, io_closed);
        while (!closed) {
            (void)uv_run(&node.loop, UV_RUN_ONCE);
        }
    }
    return 0;
}

static int raft_uv_reopen(const char *dir, struct state *out)
{
    int rv = node_init(dir, out);
    if (rv == 0) {
        rv = raft_start(&node.raft);
        if (rv != 0) {
            (void)fail(out, "raft_start", rv, raft_errmsg(&node.raft));
        }
    }
    out->rc = rv;
    out->told = rv != 0;
    if (rv == 0) { /* its message is not looked at after a success, but it is shown */
        (void)snprintf(out->said, sizeof out->said, "%s", raft_errmsg(&node.raft));
        out->serves = raft_state(&node.raft) == RAFT_LEADER && apply_one(out) == 0;
    }
    return 0;
}

/* ---- damage ---- */

/* Where record @index begins, after making sure that it does. */
static int find_batch(const char *dir, const char *file, uint64_t index, uint64_t *offset)
{
    uint8_t batch[BATCH_BYTES], want[RECORD_SIZE];
    *offset = SEGMENT_FIRST + (index - 2) * BATCH_BYTES; /* record 1 has a segment of its own */
    contents(index, want);
    int rc = file_read(dir, file, *offset, batch, sizeof batch);
    return rc != 0 ? rc : memcmp(batch + BATCH_DATA, want, RECORD_SIZE) == 0 ? 0 : -EBADMSG;
}

static int swap_batches(const char *dir, const char *file, uint64_t offset)
{
    uint8_t two[2 * BATCH_BYTES], swapped[2 * BATCH_BYTES];
    int rc = file_read(dir, file, offset, two, sizeof two);
    memcpy(swapped, two + BATCH_BYTES, BATCH_BYTES);
    memcpy(swapped + BATCH_BYTES, two, BATCH_BYTES);
    return rc != 0 ? rc : file_write(dir, file, offset, swapped, sizeof swapped);
}

static int damage_metadata(const char *dir, bool cut)
{
    uint64_t version[2] = {0, 0};
    (void)file_read(dir, "metadata1", META_VERSION, &version[0], sizeof version[0]);
    (void)file_read(dir, "metadata2", META_VERSION, &version[1], sizeof version[1]);
    const char *newest = version[1] > version[0] ? "metadata2" : "metadata1";
    if (cut) {
        return file_cut(dir, newest, 20);
    }
    int rc = file_flip(dir, newest, META_TERM, 3);
    return rc != 0 ? rc : file_flip(dir, newest, META_VOTE, 3);
}

static int raft_uv_damage(const char *dir, enum fault fault)
{
    static const uint8_t zeros[4096];
    const uint64_t huge = UINT64_MAX >> 8;
    const char *file = fault == FAULT_CLOSED ? "0000000000000002-0000000000000201" : "open-1";
    uint64_t offset;
    if (fault == FAULT_META_BITS || fault == FAULT_META_CUT) {
        return damage_metadata(dir, fault == FAULT_META_CUT);
    }
    int rc = find_batch(dir, file, MIDDLE, &offset);
    if (rc != 0) {
        return rc;
    }
    switch (fault) {
        case FAULT_BIT:
        case FAULT_CLOSED:
            return file_flip(dir, file, offset + BATCH_DATA + 100, 3);
        case FAULT_BLOCK:
            return file_write(dir, file, offset / 4096 * 4096, zeros, sizeof zeros);
        case FAULT_COUNT:
            return file_write(dir, file, offset + BATCH_COUNT, &huge, sizeof huge);
        case FAULT_SWAP:
            return swap_batches(dir, file, offset);
        default:
            return 0;
    }
}

const struct product product_raft_uv = {"libraft", "libraft 0.15, raft_uv", raft_uv_write,
                                        raft_uv_damage, raft_uv_reopen};
