/* SPDX-License-Identifier: Apache-2.0 */
/* Random use of a log. Whatever the log answers is compared with what its header promises. */
#include "wal_workload.h"

#include <raftguard/crc32c.h>
#include <raftguard/testing.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DATA_BYTES (512u * 1024u)

/* What an append's callback needs to know. */
struct ticket
{
    struct life *life;
    uint32_t serial;
};

static int fail(struct life *l, const char *what, int rc)
{
    if (l->why[0] == '\0') {
        (void)snprintf(l->why, sizeof l->why, "%s%s%s", what, rc != 0 ? ": " : "",
                       rc != 0 ? rguard_strerror(rc) : "");
    }
    return -1;
}

static void say(const struct life *l, const char *what, uint64_t a, uint64_t b)
{
    if (l->print) {
        printf("  step %-3u %s %" PRIu64 " %" PRIu64 "\n", l->lived, what, a, b);
    }
}

struct rguard_wal_options workload_options(const struct life *l)
{
    /* No MARK by the clock: the workload asks for them. */
    struct rguard_wal_options o = {.size = sizeof o,
                                   .node_id = 7,
                                   .segment_bytes = l->segment_bytes,
                                   .mark_idle_ms = UINT32_MAX,
                                   .seed = l->random | 1};
    return o;
}

int workload_open(struct life *l)
{
    struct rguard_disk *disk;
    struct rguard_wal_report report = {.size = sizeof report};
    struct rguard_wal_options o = workload_options(l);
    (void)sim_random(&l->random);
    sim_disk_mount(l->disk, &disk);
    l->model->recovering = true;
    int rc = rguard__wal_open_disk(disk, &o, &l->wal, &report);
    if (rc != 0) {
        l->wal = NULL;
        if (l->errors && (rc == -EIO || rc == -ENOSPC)) {
            return rc;
        }
        (void)snprintf(l->why, sizeof l->why, "open: %s: %s",
                       rguard_wal_verdict_name(report.verdict), report.message);
        return rc;
    }
    int k = model_find(l->model, l->wal, model_floor(l->model), l->why, sizeof l->why);
    if (k < 0) {
        return -1;
    }
    if (!model_vote_ok(l->model, l->wal, l->model->metas.acked)) {
        return fail(l, "an older vote came back", 0);
    }
    model_adopt(l->model, (uint32_t)k, l->wal);
    if (l->data == NULL) {
        l->data = malloc(DATA_BYTES);
        l->tickets = calloc(MODEL_RECORDS, sizeof *l->tickets);
        RGUARD_ASSERT(l->data != NULL && l->tickets != NULL);
    }
    l->data_used = 0;
    l->refused = false;
    return 0;
}

/* ---- steps ---- */

static void on_append(void *user, int status)
{
    const struct ticket *t = user;
    if (status == 0) {
        model_ack(t->life->model, t->serial);
    } else if (rguard_wal_poisoned(t->life->wal) == 0) {
        t->life->refused = true;
    }
}

static uint32_t random_len(uint64_t *r)
{
    static const uint32_t limits[] = {1, 64, 64, 512, 512, 3000, 3000, 12000};
    return (uint32_t)sim_below(r, limits[sim_below(r, 8)]);
}

static int step_append(struct life *l)
{
    struct rguard_wal_record records[4];
    struct model *m = l->model;
    size_t n = 1 + sim_below(&l->random, 4);
    uint64_t next = rguard_wal_last_index(l->wal) + 1;
    if (sim_below(&l->random, 6) == 0) {
        m->term++;
    }
    uint32_t serial = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t len = random_len(&l->random);
        serial = model_record(m, next + i, len);
        struct model_record *r = &m->records[serial];
        uint8_t *data = l->data + l->data_used;
        model_contents(m, serial, data);
        r->crc = rguard_crc32c(0, data, len);
        l->data_used += len;
        records[i] = (struct rguard_wal_record){
            .index = r->index, .term = r->term, .type = r->type, .len = len, .data = data};
    }
    say(l, "append", next, next + n - 1);
    l->tickets[serial] = (struct ticket){l, serial};
    int rc = rguard_wal_append(l->wal, records, n, on_append, &l->tickets[serial]);
    return rc == 0 || rc == RGUARD_EPOISONED ? rc : fail(l, "append", rc);
}

static int flush(struct life *l)
{
    int rc = rguard_wal_flush(l->wal);
    if (rc == 0) {
        model_ack_all(l->model);
        l->data_used = 0;
        if (l->model->acked_records != l->model->n_records) {
            return fail(l, "flush left an append without its callback", 0);
        }
    }
    return rc;
}

static int step_truncate(struct life *l)
{
    uint64_t last = rguard_wal_last_index(l->wal), base = l->wal->base_index;
    if (last <= base) {
        return 0;
    }
    uint64_t depth = sim_below(&l->random, last - base < 6 ? last - base : 6);
    say(l, "truncate_suffix", last - depth, last);
    return rguard_wal_truncate_suffix(l->wal, last - depth);
}

static int step_prefix(struct life *l)
{
    uint64_t last = rguard_wal_last_index(l->wal), base = l->wal->base_index;
    if (last <= base) {
        return 0;
    }
    uint64_t upto = base + 1 + sim_below(&l->random, last - base);
    say(l, "truncate_prefix", upto, 0);
    l->model->base_ceiling = upto > l->model->base_ceiling ? upto : l->model->base_ceiling;
    int rc = rguard_wal_truncate_prefix(l->wal, upto);
    if (rc == 0) {
        l->model->base_floor = upto;
    }
    return rc;
}

static int step_reset(struct life *l)
{
    uint64_t index = rguard_wal_last_index(l->wal) + sim_below(&l->random, 4);
    say(l, "reset", index, l->model->term);
    l->model->base_ceiling = index > l->model->base_ceiling ? index : l->model->base_ceiling;
    int rc = rguard_wal_reset(l->wal, index, l->model->term);
    if (rc == 0) {
        l->model->base_floor = index;
        model_ack_all(l->model);
        l->data_used = 0;
    }
    return rc;
}

/* A vote; once in a while a second one in the same term, which must be refused. */
static int step_vote(struct life *l)
{
    uint64_t term, vote;
    rguard_wal_meta_get(l->wal, &term, &vote);
    bool again = vote != 0 && sim_below(&l->random, 3) == 0;
    uint64_t next = again ? term : term + 1;
    uint64_t candidate = again ? vote % 3 + 1 : sim_below(&l->random, 4);
    say(l, again ? "second vote" : "vote", next, candidate);
    int rc = rguard_wal_meta_set(l->wal, next, candidate);
    if (again && rc != RGUARD_EVOTED && rc != RGUARD_EPOISONED) {
        return fail(l, "a second vote in one term was not refused", rc);
    }
    return again && rc == RGUARD_EVOTED ? 0 : rc;
}

static int step_mark(struct life *l)
{
    int rc = flush(l);
    if (rc == 0 && l->wal->last.lsn != 0 && l->wal->last.type != WAL_MARK) {
        say(l, "mark", 0, 0);
        rc = rguard__wal_control(l->wal, WAL_MARK, 0, 0);
    }
    return rc == 0 ? flush(l) : rc;
}

static int step_reopen(struct life *l)
{
    say(l, "close and open", 0, 0);
    int rc = rguard_wal_close(l->wal);
    l->wal = NULL;
    if (rc == 0) {
        model_ack_all(l->model);
        rc = workload_open(l);
    }
    return rc;
}

static int step(struct life *l)
{
    uint64_t dice = sim_below(&l->random, 100);
    struct model *m = l->model;
    bool full = rguard_wal_last_index(l->wal) + 24 > MODEL_INDEXES ||
                m->n_records + 24 > MODEL_RECORDS || m->n_batches + 24 > MODEL_BATCHES ||
                m->metas.n + 8 > MODEL_METAS;
    if (full || l->data_used + 64 * 1024 > DATA_BYTES) {
        return flush(l);
    }
    if (dice < 50) {
        return step_append(l);
    }
    if (dice < 62) {
        return rguard_wal_process(l->wal);
    }
    if (dice < 76) {
        return flush(l);
    }
    if (dice < 82) {
        return step_truncate(l);
    }
    if (dice < 88) {
        return step_vote(l);
    }
    if (dice < 92) {
        return step_mark(l);
    }
    if (dice < 95) {
        return step_prefix(l);
    }
    return dice < 97 ? step_reset(l) : step_reopen(l);
}

/* An error of the disk is no failure of the log, as long as it says so. */
static bool honest(const struct life *l, int rc)
{
    return l->why[0] == '\0' && (rc == RGUARD_EPOISONED || rguard_wal_poisoned(l->wal) != 0 ||
                                 (l->errors && rc == -ENOSPC));
}

/* A full disk refuses what is queued and nothing else; the log goes on. */
static bool no_room(struct life *l, int rc)
{
    if (l->refused) {
        l->refused = false;
        l->model->n_records = l->model->written_records;
        l->data_used = 0;
    }
    return l->errors && rc == -ENOSPC && l->wal != NULL && rguard_wal_poisoned(l->wal) == 0;
}

int workload_run(struct life *l)
{
    int rc = 0;
    for (; l->lived < l->steps && rc == 0; l->lived++) {
        rc = step(l);
        rc = no_room(l, rc) ? 0 : rc;
    }
    if (rc == 0 && (l->close || l->quiet)) {
        rc = flush(l);
    }
    if (rc == 0 && l->close) {
        say(l, "close", 0, 0);
        rc = rguard_wal_close(l->wal);
        l->wal = NULL;
        if (rc == 0) {
            model_ack_all(l->model);
        }
    }
    if (l->wal == NULL) {
        return rc == 0 || l->why[0] == '\0' ? 0 : -1;
    }
    return rc == 0 || honest(l, rc) ? 0 : fail(l, "a step failed", rc);
}

int workload_append(struct life *l, unsigned n)
{
    int rc = 0;
    for (unsigned i = 0; i < n && rc == 0; i++) {
        rc = step_append(l);
        rc = rc == 0 ? flush(l) : rc;
    }
    return rc == 0 ? 0 : fail(l, "appending", rc);
}

void workload_abandon(struct life *l)
{
    if (sim_below(&l->random, 2) == 0) {
        sim_disk_kill(l->disk);
    } else {
        sim_disk_crash(l->disk, SIM_CRASH_RANDOM);
    }
    (void)rguard_wal_close(l->wal);
    l->wal = NULL;
    free(l->data);
    free(l->tickets);
    l->data = NULL;
    l->tickets = NULL;
}
