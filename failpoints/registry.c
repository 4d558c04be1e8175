/* SPDX-License-Identifier: Apache-2.0 */
/* Which sites there are, and who is armed.
 *
 *     module (an executable or a shared object) -> its section of pointers -> sites
 *     point  (a name that was ever armed)       <- site->program of every site of that name
 *
 * Invariants
 *   - Arming has two halves: a plan parses, finds every site and checks every capability, and may
 *     fail; publishing it cannot. So a config is armed whole or not at all.
 *   - A site's hot byte is set if and only if its point has a program (but for the moment between
 *     the two stores; a site that is hot too early finds no program and does nothing).
 *   - One mutex guards all of it; evaluation never takes it. */
#include "failpoint_internal.h"

#ifndef RGUARD_NO_FAILPOINTS

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct module
{
    struct module *next;
    struct rguard_fp_site *const *start;
    struct rguard_fp_site *const *stop;
};

struct planned
{
    struct fp_point *point;
    struct fp_program *program; /* NULL: off */
};

struct fp_plan
{
    size_t n;
    struct planned items[];
};

static struct
{
    pthread_mutex_t lock;
    pthread_once_t once;
    struct module *modules;
    struct fp_point *points;
    bool seeded;
    uint64_t seed;
    char node[FP_MAX_NODE + 1];
} reg = {.lock = PTHREAD_MUTEX_INITIALIZER, .once = PTHREAD_ONCE_INIT};

#define FOREACH_SITE(m, s)                                       \
    for (const struct module *m = reg.modules; m; m = (m)->next) \
        for (struct rguard_fp_site *const *s = (m)->start; s < (m)->stop; s++)

static int plan_one(struct fp_plan *plan, const char *name, size_t len, const char *text,
                    size_t text_len, const struct fp_spec *spec, struct rguard_fp_error *err);
static struct fp_point *find_point(const char *name, size_t len);
static void arm(struct fp_point *point, struct fp_program *program);
static void watch_forks(void);

/* ---- modules --------------------------------------------------------------------------------- */

void rguard_fp_register(struct rguard_fp_site *const *start, struct rguard_fp_site *const *stop)
{
    pthread_once(&reg.once, watch_forks);
    if (start == stop) {
        return;
    }
    pthread_mutex_lock(&reg.lock);
    struct module *m = reg.modules;
    while (m != NULL && m->start != start) {
        m = m->next;
    }
    if (m == NULL && (m = malloc(sizeof *m)) != NULL) {
        *m = (struct module){reg.modules, start, stop};
        reg.modules = m;
        /* A plug-in that comes later joins what is armed already. */
        for (struct fp_point *p = reg.points; p != NULL; p = p->next) {
            if (p->program != NULL) {
                arm(p, p->program);
            }
        }
    }
    pthread_mutex_unlock(&reg.lock);
}

void rguard_fp_unregister(struct rguard_fp_site *const *start)
{
    pthread_mutex_lock(&reg.lock);
    for (struct module **link = &reg.modules; *link != NULL; link = &(*link)->next) {
        struct module *m = *link;
        if (m->start == start) {
            *link = m->next;
            free(m);
            break;
        }
    }
    pthread_mutex_unlock(&reg.lock);
}

/* ---- arming ---------------------------------------------------------------------------------- */

int rguard_fp_configure(const char *config, struct rguard_fp_error *err)
{
    struct fp_plan *plan;
    int rv = rguard__fp_plan(NULL, config, &plan, err);
    if (rv == 0) {
        rguard__fp_plan_publish(plan);
    }
    return rv;
}

int rguard_fp_set(const char *name, const char *program, struct rguard_fp_error *err)
{
    struct fp_plan *plan;
    int rv = rguard__fp_plan(name == NULL ? "" : name, program, &plan, err);
    if (rv == 0) {
        rguard__fp_plan_publish(plan);
    }
    return rv;
}

int rguard_fp_off(const char *name)
{
    size_t len = name == NULL ? 0 : strlen(name);
    int rv = RGUARD_EUNKNOWN;
    pthread_mutex_lock(&reg.lock);
    FOREACH_SITE(m, s)
    {
        rv = strlen((*s)->name) == len && memcmp((*s)->name, name, len) == 0 ? 0 : rv;
    }
    struct fp_point *point = rv == 0 ? find_point(name, len) : NULL;
    if (point != NULL) {
        arm(point, NULL);
    }
    pthread_mutex_unlock(&reg.lock);
    return rv;
}

void rguard_fp_off_all(void)
{
    pthread_mutex_lock(&reg.lock);
    for (struct fp_point *p = reg.points; p != NULL; p = p->next) {
        arm(p, NULL);
    }
    pthread_mutex_unlock(&reg.lock);
}

static int plan_config(const char *text, struct fp_plan **plan, struct rguard_fp_error *err)
{
    struct fp_config config;
    int rv = rguard__fp_parse_config(text, &config, err);
    if (rv != 0) {
        return rv;
    }
    struct fp_plan *p = calloc(1, sizeof *p + config.n * sizeof p->items[0]);
    rv = p == NULL ? rguard__fp_error(err, -ENOMEM, 0, 0, "out of memory") : 0;
    for (size_t i = 0; i < config.n && rv == 0; i++) {
        const struct fp_binding *b = &config.bindings[i];
        rv = plan_one(p, text + b->name, b->name_len, text + b->text, b->text_len, &b->spec, err);
        if (rv != 0 && err != NULL) {
            err->offset += rv == RGUARD_EUNKNOWN ? b->name : b->text;
        }
    }
    free(config.bindings);
    if (rv != 0) {
        rguard__fp_plan_drop(p);
        return rv;
    }
    *plan = p;
    return 0;
}

int rguard__fp_plan(const char *name, const char *text, struct fp_plan **plan,
                    struct rguard_fp_error *err)
{
    struct rguard_fp_error ignored = {0, 0, ""};
    err = err != NULL ? err : &ignored;
    if (name == NULL) {
        return plan_config(text, plan, err);
    }
    struct fp_spec spec;
    size_t off;
    size_t len;
    int rv = rguard__fp_parse_program(text, &spec, &off, &len, err);
    if (rv != 0) {
        return rv;
    }
    struct fp_plan *p = calloc(1, sizeof *p + sizeof p->items[0]);
    if (p == NULL) {
        return rguard__fp_error(err, -ENOMEM, 0, 0, "out of memory");
    }
    rv = plan_one(p, name, strlen(name), text + off, len, &spec, err);
    if (rv != 0) {
        err->offset = rv == RGUARD_EUNKNOWN ? 0 : err->offset + off;
        err->length = rv == RGUARD_EUNKNOWN ? 0 : err->length; /* the name is not in the text */
        rguard__fp_plan_drop(p);
        return rv;
    }
    *plan = p;
    return 0;
}

void rguard__fp_plan_publish(struct fp_plan *plan)
{
    pthread_mutex_lock(&reg.lock);
    for (size_t i = 0; i < plan->n; i++) {
        arm(plan->items[i].point, plan->items[i].program);
    }
    pthread_mutex_unlock(&reg.lock);
    free(plan);
}

void rguard__fp_plan_drop(struct fp_plan *plan)
{
    for (size_t i = 0; plan != NULL && i < plan->n; i++) {
        rguard__fp_program_free(plan->items[i].program);
    }
    free(plan);
}

/* ---- one name -------------------------------------------------------------------------------- */

static uint32_t capability(uint32_t action)
{
    switch (action) {
        case RGUARD_FP_RETURN:
            return RGUARD_FP_CAN_RETURN;
        case RGUARD_FP_ERRNO:
            return RGUARD_FP_CAN_ERRNO;
        case RGUARD_FP_BITFLIP:
        case RGUARD_FP_OVERRUN:
            return RGUARD_FP_CAN_MUTATE;
        case RGUARD_FP_DOUBLE_FREE:
            return RGUARD_FP_CAN_DOUBLE_FREE;
        default:
            return 0; /* every site can do the rest */
    }
}

static int check_capabilities(const struct rguard_fp_site *site, const struct fp_spec *spec,
                              struct rguard_fp_error *err)
{
    for (uint32_t i = 0; i < spec->nterms; i++) {
        const struct fp_term *term = &spec->terms[i];
        uint32_t need = capability(term->action);
        if ((site->caps & need) != need) {
            const char *file = strrchr(site->file, '/');
            return rguard__fp_error(err, RGUARD_EREFUSED, term->offset, term->length,
                                    "site \"%.48s\" (%.48s:%u) cannot do \"%s\"", site->name,
                                    file != NULL ? file + 1 : site->file, site->line,
                                    rguard__fp_action_name(term->action));
        }
    }
    return 0;
}

static int fail_unknown(const char *name, size_t len, struct rguard_fp_error *err)
{
    const char *nearest = NULL;
    unsigned best = UINT_MAX;
    FOREACH_SITE(m, s)
    {
        unsigned d = rguard__fp_distance(name, len, (*s)->name, strlen((*s)->name));
        if (d < best) {
            best = d;
            nearest = (*s)->name;
        }
    }
    char shown[49];
    size_t n = len < sizeof shown - 1 ? len : sizeof shown - 1;
    for (size_t i = 0; i < n; i++) {
        shown[i] = name[i] >= 0x20 && name[i] < 0x7f ? name[i] : '?';
    }
    shown[n] = '\0';
    if (rguard__fp_close_enough(best, len)) {
        return rguard__fp_error(err, RGUARD_EUNKNOWN, 0, len,
                                "no site is named \"%s\" (did you mean \"%.48s\"?)", shown,
                                nearest);
    }
    return rguard__fp_error(err, RGUARD_EUNKNOWN, 0, len, "no site is named \"%s\"", shown);
}

static struct fp_point *find_point(const char *name, size_t len)
{
    struct fp_point *p = reg.points;
    while (p != NULL && (strlen(p->name) != len || memcmp(p->name, name, len) != 0)) {
        p = p->next;
    }
    return p;
}

static struct fp_point *make_point(const char *name, size_t len)
{
    struct fp_point *p = aligned_alloc(_Alignof(struct fp_point), sizeof *p);
    char *copy = p == NULL ? NULL : strndup(name, len);
    if (copy == NULL) {
        free(p);
        return NULL;
    }
    *p = (struct fp_point){
        .next = reg.points, .hash = rguard__fp_hash(name, len), .name = copy, .program = NULL};
    reg.points = p;
    return p;
}

static void choose_seed(void)
{
    if (!reg.seeded && getrandom(&reg.seed, sizeof reg.seed, 0) == (ssize_t)sizeof reg.seed) {
        reg.seeded = true;
    }
}

static int plan_one(struct fp_plan *plan, const char *name, size_t len, const char *text,
                    size_t text_len, const struct fp_spec *spec, struct rguard_fp_error *err)
{
    pthread_mutex_lock(&reg.lock);
    int rv = 0;
    bool found = false;
    FOREACH_SITE(m, s)
    {
        if (rv == 0 && strlen((*s)->name) == len && memcmp((*s)->name, name, len) == 0) {
            found = true;
            rv = check_capabilities(*s, spec, err);
        }
    }
    if (!found) {
        rv = fail_unknown(name, len, err);
    }
    if (rv != 0) {
        goto out;
    }
    struct planned item = {find_point(name, len), NULL};
    if (item.point == NULL) {
        item.point = make_point(name, len);
    }
    bool off = spec->nterms == 1 && spec->terms[0].action == RGUARD_FP_OFF;
    if (item.point != NULL && !off) {
        choose_seed();
        uint64_t key = rguard__fp_key(reg.seed, reg.node, item.point->hash);
        item.program = rguard__fp_program_new(spec, key, text, text_len);
    }
    if (item.point == NULL || (item.program == NULL && !off)) {
        rv = rguard__fp_error(err, -ENOMEM, 0, 0, "out of memory");
        goto out;
    }
    plan->items[plan->n++] = item;
out:
    pthread_mutex_unlock(&reg.lock);
    return rv;
}

/* Under the lock. The program is in place before a site is hot, and a site is cold before the
 * program goes. @program may be the one that is there already. */
static void arm(struct fp_point *point, struct fp_program *program)
{
    if (program != NULL && program != point->program) {
        rguard__fp_swap(point, program);
    }
    FOREACH_SITE(m, s)
    {
        struct rguard_fp_site *site = *s;
        if (strcmp(site->name, point->name) == 0) {
            if (program != NULL) {
                __atomic_store_n(&site->program, point, __ATOMIC_RELEASE);
            }
            __atomic_store_n(site->hot, program != NULL, __ATOMIC_RELEASE);
        }
    }
    if (program == NULL) {
        rguard__fp_swap(point, NULL);
    }
}

/* ---- looking --------------------------------------------------------------------------------- */

static int by_name_file_line(const void *a, const void *b)
{
    const struct rguard_fp_site *x = *(struct rguard_fp_site *const *)a;
    const struct rguard_fp_site *y = *(struct rguard_fp_site *const *)b;
    int d = strcmp(x->name, y->name);
    d = d != 0 ? d : strcmp(x->file, y->file);
    return d != 0 ? d : (x->line > y->line) - (x->line < y->line);
}

/* The callback runs without the lock, on a copy of the list; it may call everything here. */
void rguard_fp_foreach(void (*fn)(void *user, const struct rguard_fp_site *site, const char *spec),
                       void *user)
{
    pthread_mutex_lock(&reg.lock);
    size_t n = 0;
    FOREACH_SITE(m, s)
    {
        n++;
    }
    struct rguard_fp_site **sites = calloc(n + 1, sizeof *sites);
    size_t i = 0;
    FOREACH_SITE(mm, ss)
    {
        if (sites != NULL) {
            sites[i++] = *ss;
        }
    }
    pthread_mutex_unlock(&reg.lock);
    if (i > 0) {
        qsort(sites, i, sizeof *sites, by_name_file_line);
    }
    for (size_t k = 0; k < i; k++) {
        pthread_mutex_lock(&reg.lock);
        struct fp_point *point = find_point(sites[k]->name, strlen(sites[k]->name));
        bool armed = point != NULL && point->program != NULL;
        char *spec = armed ? strdup(rguard__fp_program_text(point->program)) : NULL;
        pthread_mutex_unlock(&reg.lock);
        fn(user, sites[k], spec != NULL ? spec : "");
        free(spec);
    }
    free(sites);
}

int rguard_fp_stat(const char *name, struct rguard_fp_stat *stat)
{
    if (name == NULL || stat == NULL || stat->size < sizeof stat->size) {
        return -EINVAL;
    }
    struct rguard_fp_stat s = {.size = stat->size < sizeof s ? stat->size : sizeof s};
    int rv = RGUARD_EUNKNOWN;
    pthread_mutex_lock(&reg.lock);
    FOREACH_SITE(m, site)
    {
        rv = strcmp((*site)->name, name) == 0 ? 0 : rv;
    }
    const struct fp_point *point = find_point(name, strlen(name));
    if (point != NULL) {
        s.hits = rguard__fp_hits(point);
        s.fired = __atomic_load_n(&point->fired, __ATOMIC_RELAXED);
        s.last_ns = __atomic_load_n(&point->last_ns, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&reg.lock);
    if (rv == 0) {
        memcpy(stat, &s, s.size); /* a caller of an older version has a shorter struct */
    }
    return rv;
}

bool rguard_fp_compiled(void)
{
    return true;
}

void rguard__fp_set_seed(uint64_t seed, const char *node)
{
    pthread_mutex_lock(&reg.lock);
    reg.seed = seed;
    reg.seeded = true;
    snprintf(reg.node, sizeof reg.node, "%s", node);
    pthread_mutex_unlock(&reg.lock);
}

uint64_t rguard__fp_seed(char node[FP_MAX_NODE + 1])
{
    pthread_mutex_lock(&reg.lock);
    choose_seed();
    uint64_t seed = reg.seed;
    memcpy(node, reg.node, sizeof reg.node);
    pthread_mutex_unlock(&reg.lock);
    return seed;
}

/* ---- fork -------------------------------------------------------------------------------------
 * The child keeps what is armed, with counts and ordinals as they stood. It has no control thread;
 * it may call rguard_fp_listen() itself. Lock order: control, registry. */

static void before_fork(void)
{
    rguard__fp_control_lock();
    pthread_mutex_lock(&reg.lock);
}

static void after_fork_parent(void)
{
    pthread_mutex_unlock(&reg.lock);
    rguard__fp_control_unlock();
}

static void after_fork_child(void)
{
    for (struct fp_point *p = reg.points; p != NULL; p = p->next) {
        rguard__fp_point_forked(p);
    }
    rguard__fp_journal_forked();
    pthread_mutex_unlock(&reg.lock);
    rguard__fp_control_forked();
    rguard__fp_control_unlock();
}

static void watch_forks(void)
{
    pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

#endif
