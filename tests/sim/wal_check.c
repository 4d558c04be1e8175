/* SPDX-License-Identifier: Apache-2.0 */
/* The properties. With `evidence` the number of batches that what was left intact proves to have
 * been acknowledged, `first hit` the lowest damaged batch:
 *
 *     opened    in some state k: every record of it reads back as it was appended
 *               k >= everything acknowledged, unless
 *                   batch k + 1 was hit, nothing intact proves more than k, what is damaged is zero
 *                   now as a tear leaves it, and TORN_TAIL says so - or nothing at all is left of it
 *     refused   not one byte has changed
 *               something was hit that matters
 *               with one batch hit: the verdict is right, the place is in that batch, and the range
 *               is exactly its records
 *     votes     never older than what was acknowledged, unless every copy of it was replaced by a
 *               valid older one */
#include "wal_check.h"

#include "wal_repair.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct opened
{
    rguard_wal *wal; /* NULL: refused */
    int rc;
    struct rguard_wal_report report;
};

static void open_log(struct sim_disk *disk, uint64_t random, bool read_only, struct opened *o)
{
    struct rguard_disk *mount;
    struct life l = {.random = random, .segment_bytes = 32768};
    struct rguard_wal_options options = workload_options(&l);
    options.read_only = read_only;
    memset(o, 0, sizeof *o);
    o->report.size = sizeof o->report;
    sim_disk_mount(disk, &mount);
    o->rc = rguard__wal_open_disk(mount, &options, &o->wal, &o->report);
}

static void close_log(struct opened *o)
{
    (void)rguard_wal_close(o->wal);
    o->wal = NULL;
}

static void count(struct tally *t, const struct opened *o)
{
    t->opens++;
    t->verdicts[o->report.verdict < CHECK_VERDICTS ? o->report.verdict : 0]++;
}

static int wrong(char *why, size_t len, const struct opened *o, const char *what)
{
    (void)snprintf(why, len, "%s (%s%s%s)", what, rguard_wal_verdict_name(o->report.verdict),
                   o->report.message[0] != '\0' ? ": " : "", o->report.message);
    return -1;
}

/* ---- crashes ---- */

/* Read-only looks at the log as it is. */
static int check_untouched(struct sim_disk *disk, uint64_t random, char *why, size_t why_len)
{
    struct opened o;
    uint64_t sum = sim_disk_sum(disk);
    open_log(disk, random, true, &o);
    if (o.wal != NULL) {
        close_log(&o);
    }
    return sim_disk_sum(disk) == sum ? 0 : wrong(why, why_len, &o, "read-only, but it has changed");
}

static void feed(void *user, const struct sim_event *event)
{
    model_event(user, event);
}

/* Goes on with a recovered log, as its owner would. */
static int check_usable(struct sim_disk *disk, const struct model *m, uint64_t random, char *why,
                        size_t why_len)
{
    struct model *copy = malloc(sizeof *copy);
    if (copy == NULL) {
        return -1;
    }
    *copy = *m;
    struct life l = {
        .disk = disk, .model = copy, .random = random, .segment_bytes = 32768, .close = true};
    sim_disk_watch(disk, feed, copy);
    int rc = workload_open(&l);
    if (rc == 0) {
        rc = workload_append(&l, 2);
    }
    if (rc == 0) {
        rc = workload_run(&l);
    }
    if (rc == 0) {
        rc = workload_open(&l);
    }
    sim_disk_watch(disk, NULL, NULL);
    workload_abandon(&l);
    if (rc != 0) {
        (void)snprintf(why, why_len, "in use again: %s", l.why);
    }
    free(copy);
    return rc == 0 ? 0 : -1;
}

int check_crash(struct sim_disk *disk, const struct model *m, uint64_t random, struct tally *tally,
                char *why, size_t why_len)
{
    struct opened o;
    if (m->broken[0] != '\0' || model_floor(m) > m->n_batches) {
        (void)snprintf(
            why, why_len, "%s",
            m->broken[0] != '\0' ? m->broken : "an append was acknowledged before it was written");
        return -1;
    }
    if (sim_below(&random, 8) == 0 && check_untouched(disk, random, why, why_len) != 0) {
        return -1;
    }
    bool use = sim_below(&random, 8) == 0;
    open_log(disk, random, false, &o);
    count(tally, &o);
    if (o.wal == NULL) {
        return wrong(why, why_len, &o, "refused after nothing but a crash");
    }
    int k = model_find(m, o.wal, model_floor(m), why, why_len);
    int rc = k < 0 ? -1 : 0;
    if (rc == 0 && !model_vote_ok(m, o.wal, m->metas.acked)) {
        rc = wrong(why, why_len, &o, "an older vote came back");
    }
    if (rc == 0 && (o.wal->base_index < m->base_floor && (uint32_t)k >= m->acked &&
                    model_log(m, (uint32_t)k)->base < m->base_floor)) {
        rc = wrong(why, why_len, &o, "a prefix that was removed is back");
    }
    if (use) {
        sim_disk_crash(disk, SIM_CRASH_RANDOM);
    }
    close_log(&o);
    return rc == 0 && use ? check_usable(disk, m, random, why, why_len) : rc;
}

int check_stale(struct sim_disk *disk, const struct model *m, uint64_t random, struct tally *tally,
                char *why, size_t why_len)
{
    struct opened o;
    open_log(disk, random, false, &o);
    count(tally, &o);
    if (o.wal == NULL || o.report.verdict != RGUARD_WAL_CLEAN_END) {
        int rc =
            wrong(why, why_len, &o, "blocks of an earlier epoch have been taken for the log's");
        close_log(&o);
        return rc;
    }
    int k = model_find(m, o.wal, model_floor(m), why, why_len);
    close_log(&o);
    return k < 0 ? -1 : 0;
}

/* ---- damage at rest ---- */

/* What is left of a damaged batch: anything; and the header and the array that say which of its
 * sectors are rotten. */
enum { SOMETHING_LEFT = 1, CRCS_LEFT = 2 };

static uint8_t left_of(const struct sim_disk *disk, const struct model_batch *b)
{
    size_t size;
    const uint8_t *data = sim_file(disk, b->file, &size);
    if (data == NULL || b->offset >= size) {
        return 0;
    }
    size_t len = b->offset + b->length > size ? size - (size_t)b->offset : b->length;
    size_t array = WAL_BATCH_HEAD + b->length / WAL_SECTOR * sizeof(uint32_t);
    bool crcs = array <= len;
    data += b->offset;
    for (size_t at = 0; at < array && crcs; at += WAL_SECTOR) {
        crcs = !rguard__wal_is_zero(data + at, WAL_SECTOR);
    }
    return (uint8_t)((rguard__wal_is_zero(data, len) ? 0 : SOMETHING_LEFT) |
                     (crcs ? CRCS_LEFT : 0));
}

/* Both copies of the newest generation were replaced by valid ones of an older generation. */
static bool votes_rolled_back(const struct sim_disk *disk, const struct model *m,
                              const struct damage *d)
{
    uint64_t slot = 2 * m->metas.v[m->metas.acked].meta.generation % WAL_META_SLOTS;
    size_t size;
    const uint8_t *data = sim_file(disk, "meta", &size);
    struct wal_meta meta;
    if (data == NULL || size < WAL_META_BYTES || !d->slot_hit[slot] || !d->slot_hit[slot + 1]) {
        return false;
    }
    for (uint32_t i = 0; i < 2; i++) {
        uint32_t at = (uint32_t)slot + i;
        if (rguard__wal_meta_check(data + at * WAL_BLOCK, at, &meta) != WAL_HEADER_OK) {
            return false;
        }
    }
    return true;
}

/* NULL: the log may be in state @k. */
static const char *judge_state(const struct model *m, const struct damage *d,
                               const struct opened *o, const uint8_t *left, uint32_t k)
{
    if (k >= model_floor(m)) {
        return NULL;
    }
    if (k >= m->durable || !d->hit[k]) {
        return "batches are lost that nothing has damaged";
    }
    if (d->evidence > k) {
        return "LOST: acknowledged batches are gone, and proof was there";
    }
    /* What comes from a file that is not in use, is gone, or has lost its header is of an earlier
     * epoch, as far as anybody can tell: stale, like what a lost write leaves. */
    bool stale = d->moved && (d->files || d->headers_hit || d->unused_files);
    if (stale) {
        return NULL;
    }
    if (d->rotten[k] && (left[k] & CRCS_LEFT) != 0) {
        return "LOST: damage that no tear leaves was taken for one";
    }
    if (o->report.verdict != RGUARD_WAL_TORN_TAIL && (left[k] & SOMETHING_LEFT) != 0) {
        return "LOST: a torn batch is gone and not reported";
    }
    return NULL;
}

static int judge_opened(const struct model *m, const struct damage *d, struct opened *o,
                        const uint8_t *lefts, bool old_votes, struct tally *tally, char *why,
                        size_t why_len)
{
    int k = model_find(m, o->wal, 0, why, why_len);
    if (k < 0) {
        return -1;
    }
    if (o->report.created && d->files) {
        tally->losses++; /* meta and every record are gone as if they had never been */
        return 0;
    }
    if (!model_vote_ok(m, o->wal, m->metas.acked) && !old_votes) {
        return wrong(why, why_len, o, "an older vote came back");
    }
    /* Other batches may have left the same log behind; any of them is an explanation. */
    uint32_t state = (uint32_t)k;
    const char *what = judge_state(m, d, o, lefts, state);
    while (what != NULL && state > 0) {
        state--;
        if (model_same(m, state, (uint32_t)k) && judge_state(m, d, o, lefts, state) == NULL) {
            what = NULL;
        }
    }
    if (what != NULL) {
        return wrong(why, why_len, o, what);
    }
    tally->losses += state < model_floor(m);
    return 0;
}

/* One batch was hit and nothing else. */
static int judge_exact(const struct model *m, const struct damage *d, const struct opened *o,
                       char *why, size_t why_len)
{
    const struct rguard_wal_report *r = &o->report;
    const struct model_batch *b = &m->batches[d->first_hit - 1];
    bool proven = d->evidence >= d->first_hit;
    if (r->verdict != RGUARD_WAL_CORRUPT && r->verdict != RGUARD_WAL_UNREADABLE &&
        !(r->verdict == RGUARD_WAL_SUSPECT_TAIL && !proven)) {
        return wrong(why, why_len, o, "the verdict does not fit the damage");
    }
    bool inside = strcmp(r->file, b->file) == 0 && r->offset >= b->offset &&
                  r->offset < b->offset + b->length;
    /* The first of a segment, with nothing behind it, is missing where its predecessor ends. */
    const struct model_batch *before = d->first_hit > 1 ? b - 1 : NULL;
    bool missing = d->first_hit == m->durable && before != NULL &&
                   strcmp(r->file, before->file) == 0 &&
                   r->offset == before->offset + before->length;
    if (!inside && !missing) {
        return wrong(why, why_len, o, "the place is not in the damaged batch");
    }
    if (r->verdict == RGUARD_WAL_UNREADABLE) {
        return 0; /* the device said where; no more is known */
    }
    /* Known from the batch's own header or from its successor; else where it begins, at most. */
    bool known = d->first_hit < m->durable || !d->headers[d->first_hit - 1];
    bool exact = r->damage_first_index == b->first && r->damage_last_index == b->last;
    bool vague =
        !known && r->damage_last_index == 0 &&
        (r->damage_first_index == 0 || b->type != WAL_DATA || r->damage_first_index == b->first);
    return exact || vague ? 0 : wrong(why, why_len, o, "the range is not that of the batch");
}

static int judge_refused(const struct model *m, const struct damage *d, size_t n,
                         const struct opened *o, char *why, size_t why_len)
{
    bool nothing = d->hits == 0 && !d->headers_hit && !d->beyond && !d->files && d->slots_hit < 2 &&
                   !d->unreadable;
    if (nothing) {
        return wrong(why, why_len, o, "refused, although nothing that matters was damaged");
    }
    bool one =
        n == 1 && d->hits == 1 && !d->headers_hit && !d->beyond && !d->files && d->slots_hit == 0;
    return one && !d->moved ? judge_exact(m, d, o, why, why_len) : 0;
}

int check_damage(const struct sim_disk *before, struct sim_disk *after, const struct model *m,
                 const struct fault *faults, size_t n, uint64_t random, struct tally *tally,
                 char *why, size_t why_len)
{
    struct damage d;
    struct opened o;
    damage_assess(before, after, m, faults, n, &d);
    uint64_t sum = sim_disk_sum(after);
    bool old_votes = votes_rolled_back(after, m, &d);
    uint8_t left[MODEL_BATCHES];
    for (uint32_t i = 0; i < m->durable; i++) {
        left[i] = d.hit[i] ? left_of(after, &m->batches[i]) : 0;
    }
    if (sim_below(&random, 8) == 0 && check_untouched(after, random, why, why_len) != 0) {
        return -1;
    }
    open_log(after, random, false, &o);
    count(tally, &o);
    if (o.wal == NULL && sim_disk_sum(after) != sum) {
        return wrong(why, why_len, &o, "refused, but something has changed");
    }
    if (o.wal == NULL) {
        int refused = judge_refused(m, &d, n, &o, why, why_len);
        bool repair = m->durable == m->n_batches && sim_below(&random, 4) == 0;
        return refused == 0 && repair ? check_repair(after, m, &d, random, tally, why, why_len)
                                      : refused;
    }
    int rc = judge_opened(m, &d, &o, left, old_votes, tally, why, why_len);
    close_log(&o);
    return rc;
}
