/* SPDX-License-Identifier: Apache-2.0 */
/* The four classes of cases. Damage at rest needs a log to damage: an image is used for
 * IMAGE_CASES cases in a row, because making one costs more than judging one. */
#include "wal_case.h"

#include "image.h"

#include <raftguard/testing.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IMAGE_CASES 128u
#define LIVES       4u

struct case_image
{
    uint64_t key;
    struct sim_disk *disk;
    struct model model;
};

static int lose(struct case_run *c, const char *why)
{
    (void)snprintf(c->why, sizeof c->why, "%s", why);
    return -1;
}

/* ---- crashes ---- */

/* One log over several lives. At every event of its disk copies of it crash, in several ways, and
 * are judged; at one of them the next life begins. */
struct trace
{
    struct case_run *run;
    uint64_t random;
    struct life life;
    unsigned density; /* of 16 events this many are judged */
    uint64_t events, fork_at;
    struct sim_disk *next_disk;
    struct model *next_model;
    struct model *model;
    char why[512];
};

static enum sim_crash crash_kind(uint64_t *random)
{
    static const enum sim_crash kinds[] = {SIM_CRASH_NOTHING, SIM_CRASH_ALL,    SIM_CRASH_ORDERED,
                                           SIM_CRASH_ORDERED, SIM_CRASH_RANDOM, SIM_CRASH_RANDOM};
    return kinds[sim_below(random, sizeof kinds / sizeof kinds[0])];
}

static void crash_here(struct trace *t)
{
    struct sim_disk *copy = sim_disk_clone(t->life.disk, sim_random(&t->random));
    sim_disk_crash(copy, crash_kind(&t->random));
    int rc =
        check_crash(copy, t->model, sim_random(&t->random), &t->run->tally, t->why, sizeof t->why);
    t->run->crashes++;
    sim_disk_free(copy);
    if (rc == 0 && t->model->broken[0] != '\0') {
        (void)snprintf(t->why, sizeof t->why, "%s", t->model->broken);
    }
}

static void on_event(void *user, const struct sim_event *event)
{
    struct trace *t = user;
    model_event(t->model, event);
    t->events++;
    if (t->why[0] == '\0' && sim_below(&t->random, 16) < t->density) {
        crash_here(t);
    }
    if (t->events == t->fork_at) {
        t->next_disk = sim_disk_clone(t->life.disk, sim_random(&t->random));
        t->next_model = malloc(sizeof *t->next_model);
        RGUARD_ASSERT(t->next_model != NULL);
        *t->next_model = *t->model;
        if (sim_below(&t->random, 4) == 0) {
            sim_disk_kill(t->next_disk);
        } else {
            sim_disk_crash(t->next_disk, crash_kind(&t->random));
        }
    }
}

/* Errors of the disk that are reported as such: they must look like a crash afterwards. */
static void plan_errors(struct trace *t)
{
    static const struct
    {
        enum sim_op op;
        enum sim_fault_kind kind;
    } errors[] = {{SIM_WRITE, SIM_EIO},  {SIM_WRITE, SIM_SHORT},  {SIM_WRITE, SIM_ENOSPC},
                  {SIM_SYNC, SIM_EIO},   {SIM_SYNC_DIR, SIM_EIO}, {SIM_CREATE, SIM_ENOSPC},
                  {SIM_ZERO, SIM_EIO},   {SIM_ZERO, SIM_ENOSPC},  {SIM_ZERO, SIM_SHORT},
                  {SIM_UNLINK, SIM_EIO}, {SIM_RENAME, SIM_EIO}};
    size_t i = sim_below(&t->random, sizeof errors / sizeof errors[0]);
    uint64_t skip = sim_below(&t->random, errors[i].op == SIM_WRITE ? 20 : 3);
    sim_disk_plan(t->life.disk, errors[i].op, errors[i].kind, skip);
}

static int trace_life(struct trace *t, bool last, bool errors)
{
    struct life *l = &t->life;
    uint64_t r = sim_random(&t->random);
    sim_disk_latency(l->disk, (unsigned)sim_below(&t->random, 3));
    l->random = r;
    l->segment_bytes = (4 + sim_below(&t->random, 8)) * WAL_BLOCK;
    l->steps = 4 + (unsigned)sim_below(&t->random, 24);
    l->close = sim_below(&t->random, 3) == 0;
    l->quiet = last && t->density == 0;
    l->print = t->run->print;
    l->lived = 0;
    l->errors = errors;
    if (t->run->steps > 0 && t->run->steps_made + l->steps > t->run->steps) {
        l->steps = t->run->steps - t->run->steps_made;
    }
    t->events = 0;
    t->fork_at = last ? 0 : 1 + sim_below(&t->random, 60);
    sim_disk_watch(l->disk, on_event, t);
    sim_disk_unplan(l->disk);
    if (errors) {
        plan_errors(t);
    }
    int rc = workload_open(l);
    if (rc == 0) {
        rc = workload_run(l);
    } else if (l->why[0] == '\0') {
        rc = 0; /* an error of the disk, as planned */
    }
    t->run->steps_made += l->lived;
    sim_disk_watch(l->disk, NULL, NULL);
    if (rc == 0 && t->why[0] != '\0') {
        return -1;
    }
    if (rc == 0 && t->density > 0) {
        crash_here(t);
    }
    return rc == 0 && t->why[0] == '\0' ? 0 : -1;
}

/* The next life starts where the fork was made, or where this life has ended. */
static void reincarnate(struct trace *t)
{
    workload_abandon(&t->life);
    if (t->next_disk != NULL) {
        sim_disk_free(t->life.disk);
        free(t->model);
        t->life.disk = t->next_disk;
        t->model = t->next_model;
        t->next_disk = NULL;
        t->next_model = NULL;
        t->life.model = t->model;
    }
}

/* Runs a log's lives and leaves it in t->life.disk, not in use. */
static int trace_run(struct trace *t, bool may_fail)
{
    t->life.disk = sim_disk_new(sim_random(&t->random));
    t->model = malloc(sizeof *t->model);
    RGUARD_ASSERT(t->model != NULL);
    model_init(t->model);
    t->life.model = t->model;
    unsigned lives = 1 + (unsigned)sim_below(&t->random, LIVES);
    int rc = 0;
    for (unsigned i = 0; i < lives && rc == 0; i++) {
        bool errors = may_fail && sim_below(&t->random, 4) == 0;
        if (t->run->print) {
            printf("  life %u%s\n", i + 1, errors ? ", with an error of the disk" : "");
        }
        rc = trace_life(t, i + 1 == lives, errors);
        if (rc == 0) {
            reincarnate(t);
        }
        if (t->run->steps > 0 && t->run->steps_made >= t->run->steps) {
            break;
        }
    }
    if (rc != 0) {
        (void)lose(t->run, t->why[0] != '\0' ? t->why : t->life.why);
        if (t->run->print) {
            model_print(t->model);
        }
    }
    workload_abandon(&t->life);
    sim_disk_free(t->next_disk);
    free(t->next_model);
    return rc;
}

static int run_crash(struct case_run *c)
{
    struct trace t = {.run = c, .random = sim_fork(c->seed ^ 0xc4a5, c->number), .density = 10};
    c->steps_made = 0;
    int rc = trace_run(&t, true);
    sim_disk_free(t.life.disk);
    free(t.model);
    return rc;
}

/* ---- damage at rest ---- */

static int make_image(struct case_run *c, uint64_t key)
{
    struct trace t = {.run = c, .random = sim_fork(c->seed ^ 0x1a6e, key)};
    c->image = c->image != NULL ? c->image : calloc(1, sizeof *c->image);
    RGUARD_ASSERT(c->image != NULL);
    sim_disk_free(c->image->disk);
    int rc = trace_run(&t, false);
    c->image->disk = t.life.disk;
    c->image->model = *t.model;
    c->image->key = key;
    free(t.model);
    return rc;
}

/* For the corpus of a fuzzer: a byte of flags, then the directory. */
static void export_image(const struct sim_disk *disk, const char *path)
{
    size_t len;
    uint8_t *data = image_save(disk, &len);
    FILE *f = fopen(path, "wb");
    bool good = f != NULL && fputc(0, f) == 0 && fwrite(data, 1, len, f) == len;
    if (f == NULL || fclose(f) != 0 || !good) {
        fprintf(stderr, "rguard-wal-oracle: %s: %s\n", path, strerror(errno));
    }
    free(data);
}

static int run_faults(struct case_run *c, size_t n)
{
    uint64_t random = sim_fork(c->seed ^ (n << 16), c->number);
    uint64_t key = c->number / IMAGE_CASES;
    struct fault faults[2];
    if ((c->image == NULL || c->image->key != key || c->print) && make_image(c, key) != 0) {
        return -1; /* the log could not even be made */
    }
    const struct model *m = &c->image->model;
    struct sim_disk *disk = sim_disk_clone(c->image->disk, sim_random(&random));
    size_t applied = 0;
    for (size_t i = 0; i < n; i++) {
        struct fault f = fault_random(disk, m, &random);
        if (c->only_fault == 0 || c->only_fault == i + 1) {
            fault_apply(disk, m, &f);
            faults[applied++] = f;
        }
    }
    if (c->print) {
        model_print(m);
    }
    for (size_t i = 0; i < applied && c->print; i++) {
        fault_print(&faults[i]);
    }
    char why[480] = "";
    if (c->export_to != NULL) {
        export_image(disk, c->export_to);
    }
    int rc =
        check_damage(c->image->disk, disk, m, faults, applied, random, &c->tally, why, sizeof why);
    sim_disk_free(disk);
    return rc == 0 ? 0 : lose(c, why);
}

/* ---- stale blocks ---- */

/* Lives on until a new segment has @batches batches; its name goes to @file. */
static int live_on(struct life *l, unsigned batches, char *file)
{
    char first[WAL_NAME_MAX] = "";
    int rc = workload_open(l);
    if (rc == 0 && l->model->n_batches > 0) {
        const struct model_batch *b = &l->model->batches[l->model->n_batches - 1];
        (void)snprintf(first, sizeof first, "%s", b->file);
    }
    for (unsigned i = 0, n = 0; i < 40 && rc == 0 && n < batches; i++) {
        rc = workload_append(l, 1);
        const struct model_batch *b = &l->model->batches[l->model->n_batches - 1];
        n = strcmp(b->file, first) != 0 ? n + 1 : 0;
        memcpy(file, b->file, WAL_NAME_MAX);
    }
    return rc;
}

/* The batches of @old from @end on are in the file again, as if the zeros over them were lost. */
static bool reappear(struct sim_disk *disk, const struct sim_disk *old, const struct model *m,
                     const char *file, uint64_t end)
{
    size_t size, old_size;
    uint8_t *data = sim_file(disk, file, &size);
    const uint8_t *stale = sim_file(old, file, &old_size);
    bool any = false;
    if (data == NULL || stale == NULL || memcmp(data, stale, WAL_SECTOR) == 0) {
        return false; /* a spare that was there before the two parted */
    }
    for (uint32_t i = 0; i < m->n_batches; i++) {
        const struct model_batch *b = &m->batches[i];
        if (strcmp(b->file, file) == 0 && b->offset >= end && b->offset + b->length <= size &&
            size == old_size) {
            memcpy(data + b->offset, stale + b->offset, b->length);
            any = true;
        }
    }
    return any;
}

/* Two futures of one log; a segment that both have made holds, in one of them, blocks of the other:
 * a disk that lost the zeros over blocks that were in use before. */
static int run_stale(struct case_run *c)
{
    uint64_t random = sim_fork(c->seed ^ 0x57a1e, c->number);
    if (make_image(c, UINT64_MAX / 2 + c->number / 8) != 0) {
        return -1; /* the log could not even be made */
    }
    struct model *models = malloc(2 * sizeof *models);
    RGUARD_ASSERT(models != NULL);
    struct life lives[2];
    char file[2][WAL_NAME_MAX] = {"", "x"};
    int rc = 0;
    for (int i = 0; i < 2; i++) {
        models[i] = c->image->model;
        lives[i] = (struct life){.disk = sim_disk_clone(c->image->disk, sim_random(&random)),
                                 .model = &models[i],
                                 .random = sim_random(&random),
                                 .segment_bytes = 8 * WAL_BLOCK,
                                 .print = c->print};
        struct trace t = {.run = c, .life = lives[i], .model = &models[i]};
        sim_disk_watch(lives[i].disk, on_event, &t);
        rc = rc == 0 ? live_on(&lives[i], i == 0 ? 4 : 1, file[i]) : rc;
        sim_disk_watch(lives[i].disk, NULL, NULL);
    }
    workload_abandon(&lives[0]);
    workload_abandon(&lives[1]);
    char why[480] = "";
    if (rc != 0) {
        (void)snprintf(why, sizeof why, "%s",
                       lives[0].why[0] != '\0' ? lives[0].why : lives[1].why);
    } else if (strcmp(file[0], file[1]) == 0) {
        const struct model_batch *last = &models[1].batches[models[1].n_batches - 1];
        if (reappear(lives[1].disk, lives[0].disk, &models[0], file[1],
                     last->offset + last->length)) {
            rc = check_stale(lives[1].disk, &models[1], sim_random(&random), &c->tally, why,
                             sizeof why);
        }
    }
    sim_disk_free(lives[0].disk);
    sim_disk_free(lives[1].disk);
    free(models);
    return rc == 0 ? 0 : lose(c, why);
}

int case_run(struct case_run *c)
{
    c->why[0] = '\0';
    switch (c->class) {
        case CASE_CRASH:
            return run_crash(c);
        case CASE_SINGLE:
            return run_faults(c, 1);
        case CASE_DOUBLE:
            return run_faults(c, 2);
        default:
            return run_stale(c);
    }
}

void case_end(struct case_run *c)
{
    if (c->image != NULL) {
        sim_disk_free(c->image->disk);
        free(c->image);
        c->image = NULL;
    }
}
