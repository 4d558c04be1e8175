/* SPDX-License-Identifier: Apache-2.0 */
/* Snapshot files. One file is one snapshot, named snapshot-<index>-<term> (20 digits each), written
 * under a temporary name, synced, renamed, directory synced:
 *
 *     offset  0  magic u64 "RGSNAP01"     32  configuration index u64     56  crc32c of conf u32
 *             8  index u64                40  configuration length u64    60  crc32c of data u32
 *            16  term u64                 48  version u32 = 1             64  configuration, data
 *            24  data length u64          52  crc32c of bytes 0..51 and 56..63
 *
 * A snapshot is valid if and only if all three checksums match and the lengths add up to the file.
 * The newest valid one is loaded; a damaged one is reported and kept. Two are kept; older ones go
 * when a newer one is durable. Files are written and read on a worker thread, so that heartbeats go
 * on. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <raftguard/crc32c.h>

#include "raftlog_internal.h"

#define SNAPSHOT_MAGIC   0x313050414e534752ULL
#define SNAPSHOT_VERSION 1u
#define HEAD_BYTES       64u
#define MAX_SNAPSHOT     ((size_t)1 << 30)
#define MAX_FILES        64

struct found
{
    uint64_t index, term;
};

struct listing
{
    struct found files[MAX_FILES];
    int n;
};

static void file_name(char name[64], uint64_t index, uint64_t term)
{
    snprintf(name, 64, "snapshot-%020" PRIu64 "-%020" PRIu64, index, term);
}

static int list_one(void *user, const char *name)
{
    struct listing *l = user;
    struct found f;
    char again[64];
    if (sscanf(name, "snapshot-%20" SCNu64 "-%20" SCNu64, &f.index, &f.term) != 2) {
        return 0;
    }
    file_name(again, f.index, f.term);
    if (strcmp(again, name) == 0 && l->n < MAX_FILES) {
        l->files[l->n++] = f;
    }
    return 0;
}

static int newest_first(const void *a, const void *b)
{
    const struct found *x = a;
    const struct found *y = b;
    return x->index != y->index ? (x->index < y->index ? 1 : -1)
                                : (x->term < y->term) - (x->term > y->term);
}

static int list_snapshots(struct rguard_disk *d, struct listing *l)
{
    l->n = 0;
    int rv = d->ops->list(d, list_one, l);
    qsort(l->files, (size_t)l->n, sizeof l->files[0], newest_first);
    return rv;
}

static uint32_t head_crc(const uint8_t *head)
{
    return rguard_crc32c(rguard_crc32c(0, head, 52), head + 56, 8);
}

/* ---- bytes ----------------------------------------------------------------------------------- */

/* Called on the worker; @snapshot stays valid until libraft's callback. */
static int store(struct rguard_disk *d, const struct raft_snapshot *s)
{
    char name[64];
    uint8_t head[HEAD_BYTES];
    size_t conf_len = rguard__conf_size(&s->configuration);
    uint8_t *conf = malloc(conf_len);
    struct iovec *iov = calloc(s->n_bufs + 2u, sizeof *iov);
    int rv = -ENOMEM;
    uint64_t data_len = 0;
    uint32_t data_crc = 0;
    if (conf == NULL || iov == NULL) {
        goto out;
    }
    for (unsigned i = 0; i < s->n_bufs; i++) {
        data_crc = rguard_crc32c(data_crc, s->bufs[i].base, s->bufs[i].len);
        data_len += s->bufs[i].len;
        iov[i + 2] = (struct iovec){s->bufs[i].base, s->bufs[i].len};
    }
    rv = -EFBIG;
    if (data_len > MAX_SNAPSHOT) {
        goto out;
    }
    rguard__conf_encode(conf, &s->configuration);
    uint8_t *p = rguard__put64(head, SNAPSHOT_MAGIC);
    p = rguard__put64(p, s->index);
    p = rguard__put64(p, s->term);
    p = rguard__put64(p, data_len);
    p = rguard__put64(p, s->configuration_index);
    p = rguard__put64(p, conf_len);
    p = rguard__put32(p, SNAPSHOT_VERSION);
    rguard__put32(head + 56, rguard_crc32c(0, conf, conf_len));
    rguard__put32(head + 60, data_crc);
    rguard__put32(p, head_crc(head));
    iov[0] = (struct iovec){head, sizeof head};
    iov[1] = (struct iovec){conf, conf_len};
    file_name(name, s->index, s->term);
    rv = rguard__disk_write_file(d, name, iov, (int)s->n_bufs + 2);
out:
    free(iov);
    free(conf);
    return rv;
}

/* @return 0 when the three checksums match. */
static int validate(const uint8_t *p, size_t len, const struct found *f)
{
    if (len < HEAD_BYTES || rguard__get64(p) != SNAPSHOT_MAGIC ||
        rguard__get32(p + 52) != head_crc(p)) {
        return RGUARD_ECORRUPT;
    }
    if (rguard__get32(p + 48) != SNAPSHOT_VERSION) {
        return RGUARD_EUNSUPPORTED;
    }
    uint64_t data_len = rguard__get64(p + 24);
    uint64_t conf_len = rguard__get64(p + 40);
    size_t rest = len - HEAD_BYTES;
    if (rguard__get64(p + 8) != f->index || rguard__get64(p + 16) != f->term || conf_len > rest ||
        data_len != rest - conf_len ||
        rguard_crc32c(0, p + HEAD_BYTES, conf_len) != rguard__get32(p + 56) ||
        rguard_crc32c(0, p + HEAD_BYTES + conf_len, data_len) != rguard__get32(p + 60)) {
        return RGUARD_ECORRUPT;
    }
    return 0;
}

static int parse(const uint8_t *p, size_t len, const struct found *f, struct raft_snapshot **out)
{
    int rv = validate(p, len, f);
    if (rv != 0) {
        return rv;
    }
    size_t conf_len = rguard__get64(p + 40);
    size_t data_len = rguard__get64(p + 24);
    struct raft_snapshot *s = raft_calloc(1, sizeof *s);
    if (s == NULL) {
        return -ENOMEM;
    }
    s->index = f->index;
    s->term = f->term;
    s->configuration_index = rguard__get64(p + 32);
    rv = rguard__conf_decode(p + HEAD_BYTES, conf_len, &s->configuration);
    if (rv != 0) {
        goto err;
    }
    rv = -ENOMEM;
    s->bufs = raft_malloc(sizeof *s->bufs);
    if (s->bufs == NULL) {
        goto err_after_conf;
    }
    s->bufs[0].len = data_len;
    s->bufs[0].base = raft_malloc(data_len > 0 ? data_len : 1);
    if (s->bufs[0].base == NULL) {
        goto err_after_bufs;
    }
    memcpy(s->bufs[0].base, p + HEAD_BYTES + conf_len, data_len);
    s->n_bufs = 1;
    *out = s;
    return 0;
err_after_bufs:
    raft_free(s->bufs);
err_after_conf:
    raft_configuration_close(&s->configuration);
err:
    raft_free(s);
    return rv;
}

static int load_file(struct rguard_disk *d, const struct found *f, struct raft_snapshot **out)
{
    char name[64];
    void *data;
    size_t len;
    file_name(name, f->index, f->term);
    int rv = rguard__disk_read_file(d, name, MAX_SNAPSHOT + (1u << 20), &data, &len);
    if (rv != 0) {
        return rv;
    }
    rv = parse(data, len, f, out);
    free(data);
    return rv;
}

/* Newest valid one, or 0 with *out NULL when there is none at all. A damaged newest one is an error
 * unless an older one can take its place with the log reaching back to it, which the caller checks.
 */
static int load_newest(struct rguard_disk *d, struct raft_snapshot **out, char bad[64])
{
    struct listing l;
    int rv = list_snapshots(d, &l);
    *out = NULL;
    bad[0] = '\0';
    if (rv != 0) {
        return rv;
    }
    for (int i = 0; i < l.n; i++) {
        rv = load_file(d, &l.files[i], out);
        if (rv == 0) {
            return 0;
        }
        if (bad[0] == '\0') {
            file_name(bad, l.files[i].index, l.files[i].term);
        }
    }
    return l.n > 0 ? rv : 0;
}

int rguard__snapshot_load(rguard_replica *rep, struct raft_snapshot **out)
{
    char bad[64];
    int rv = load_newest(rep->disk, out, bad);
    if (bad[0] != '\0') {
        rguard__replica_log(rep, RGUARD_LOG_ERROR, "%s is damaged and is kept as it is%s", bad,
                            rv == 0 ? "; an older snapshot is used" : "");
    }
    return rv;
}

/* ---- put and get ----------------------------------------------------------------------------- */

struct put
{
    rguard_replica *rep;
    unsigned trailing;
    struct raft_io_snapshot_put *req;
    const struct raft_snapshot *snapshot;
    raft_io_snapshot_put_cb cb;
    int status;
};

static void put_work(void *user)
{
    struct put *p = user;
    struct listing l;
    p->status = store(p->rep->disk, p->snapshot);
    if (p->status != 0 || list_snapshots(p->rep->disk, &l) != 0) {
        return;
    }
    for (int i = 2; i < l.n; i++) {
        char name[64];
        file_name(name, l.files[i].index, l.files[i].term);
        p->rep->disk->ops->unlink(p->rep->disk, name);
    }
}

/* trailing 0: the snapshot came from the leader and replaces the log. Otherwise the log keeps
 * @trailing entries behind the OLDER of the two snapshots kept, so that either can be replayed
 * from. */
static int trim_log(rguard_replica *rep, const struct raft_snapshot *s, unsigned trailing)
{
    struct listing l;
    if (trailing == 0) {
        return rguard_wal_reset(rep->wal, s->index, s->term);
    }
    int rv = list_snapshots(rep->disk, &l);
    uint64_t upto = l.n > 1 ? l.files[1].index : s->index;
    upto = upto < s->index ? upto : s->index;
    if (rv != 0 || l.n < 2 || upto <= trailing) {
        return rv;
    }
    return rguard_wal_truncate_prefix(rep->wal, upto - trailing);
}

static void put_done(void *user)
{
    struct put *p = user;
    rguard_replica *rep = p->rep;
    rguard__turn_begin(rep);
    if (p->status == 0 && !rep->dead) {
        p->status = trim_log(rep, p->snapshot, p->trailing);
    }
    if (p->status != 0) {
        rguard__replica_log(rep, RGUARD_LOG_ERROR, "snapshot at index %llu not stored: %s",
                            (unsigned long long)p->snapshot->index, rguard_strerror(p->status));
    }
    if (p->status != 0 && p->trailing == 0 && rep->close_cb == NULL) {
        /* libraft 0.15 has emptied its log in memory already, and takes the leader's next attempt
         * for done: it would go on behind a snapshot that is nowhere. */
        rguard__replica_die(rep, "a snapshot that replaces the log could not be stored");
    }
    p->cb(p->req, p->status == 0 ? 0 : RAFT_IOERR);
    free(p);
    rguard__turn_end(rep);
}

int rguard__snapshot_put(struct raft_io *io, unsigned trailing, struct raft_io_snapshot_put *req,
                         const struct raft_snapshot *snapshot, raft_io_snapshot_put_cb cb)
{
    rguard_replica *rep = io->impl;
    struct put *p = malloc(sizeof *p);
    if (p == NULL) {
        return RAFT_NOMEM;
    }
    *p = (struct put){rep, trailing, req, snapshot, cb, 0};
    if (rep->net->work(rep->channel, put_work, put_done, p) != 0) {
        free(p);
        return RAFT_IOERR;
    }
    /* cppcheck-suppress memleak ; put_done() frees it */
    return 0;
}

struct get
{
    rguard_replica *rep;
    struct raft_io_snapshot_get *req;
    raft_io_snapshot_get_cb cb;
    struct raft_snapshot *snapshot;
    int status;
};

static void get_work(void *user)
{
    struct get *g = user;
    char bad[64];
    g->status = load_newest(g->rep->disk, &g->snapshot, bad);
}

static void get_done(void *user)
{
    struct get *g = user;
    rguard_replica *rep = g->rep;
    rguard__turn_begin(rep);
    g->cb(g->req, g->snapshot, g->status == 0 && g->snapshot != NULL ? 0 : RAFT_IOERR);
    free(g);
    rguard__turn_end(rep);
}

int rguard__snapshot_get(struct raft_io *io, struct raft_io_snapshot_get *req,
                         raft_io_snapshot_get_cb cb)
{
    rguard_replica *rep = io->impl;
    struct get *g = calloc(1, sizeof *g);
    if (g == NULL) {
        return RAFT_NOMEM;
    }
    *g = (struct get){.rep = rep, .req = req, .cb = cb};
    if (rep->net->work(rep->channel, get_work, get_done, g) != 0) {
        free(g);
        return RAFT_IOERR;
    }
    /* cppcheck-suppress memleak ; get_done() frees it */
    return 0;
}
