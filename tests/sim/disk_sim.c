/* SPDX-License-Identifier: Apache-2.0 */
/* The simulated disk. Invariant: what is visible is the present; what a crash may take away is in
 * two lists of pending changes, each with what was there before:
 *
 *     inode   data (visible)   <- pending writes, oldest first: range and old contents
 *     names   visible          <- pending operations, oldest first; `stable` is without them
 *
 * Making something durable removes it from its list. A crash walks the lists, decides sector by
 * sector and name by name, and empties them. */
#include "disk_sim_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *sim__grab(size_t n, size_t size)
{
    void *p = calloc(n, size);
    RGUARD_ASSERT(p != NULL);
    return p;
}

/* ---- inodes ---- */

static void pending_free(struct pending *p)
{
    free(p->old);
    free(p);
}

static void pending_drop_all(struct inode *in)
{
    while (in->oldest != NULL) {
        struct pending *p = in->oldest;
        in->oldest = p->newer;
        pending_free(p);
    }
}

void sim__put(struct sim_disk *s, struct inode *in)
{
    if (in != NULL && --in->refs == 0) {
        pending_drop_all(in);
        s->used -= in->size;
        free(in->data);
        free(in);
    }
}

struct inode *sim__get(struct inode *in)
{
    if (in != NULL) {
        in->refs++;
    }
    return in;
}

void sim__resize(struct sim_disk *s, struct inode *in, size_t size)
{
    if (size > in->capacity) {
        size_t capacity = size + size / 2;
        in->data = realloc(in->data, capacity);
        RGUARD_ASSERT(in->data != NULL);
        in->capacity = capacity;
    }
    if (size > in->size) {
        memset(in->data + in->size, 0, size - in->size);
    }
    s->used += size - in->size; /* wraps back when it shrinks */
    in->size = size;
}

bool sim__has_room(const struct sim_disk *s, const struct inode *in, uint64_t end)
{
    uint64_t more = end > in->size ? end - in->size : 0;
    return s->capacity == 0 || s->used + more <= s->capacity;
}

/* Notes what is there before a change. */
struct pending *sim__remember(struct sim_disk *s, struct inode *in, uint64_t offset, size_t len)
{
    struct pending *p = sim__grab(1, sizeof *p);
    p->number = ++s->number;
    p->offset = offset;
    p->len = len;
    if (offset < in->size) {
        size_t have = in->size - offset < len ? (size_t)(in->size - offset) : len;
        p->old = sim__grab(1, len);
        memcpy(p->old, in->data + offset, have);
    }
    struct pending **tail = &in->oldest;
    while (*tail != NULL) {
        tail = &(*tail)->newer;
    }
    *tail = p;
    if (offset + len > in->size) {
        sim__resize(s, in, (size_t)(offset + len));
    }
    return p;
}

/* The range holds what it holds now, whatever else is lost. */
static void settle_range(struct inode *in, uint64_t offset, size_t len)
{
    for (struct pending *p = in->oldest; p != NULL; p = p->newer) {
        uint64_t from = p->offset > offset ? p->offset : offset;
        uint64_t to = p->offset + p->len < offset + len ? p->offset + p->len : offset + len;
        if (from >= to) {
            continue;
        }
        if (p->old == NULL) {
            p->old = sim__grab(1, p->len);
        }
        memcpy(p->old + (from - p->offset), in->data + from, (size_t)(to - from));
    }
}

/* A write is durable. */
void sim__settle_write(struct inode *in, struct pending *p)
{
    struct pending **at = &in->oldest;
    while (*at != p) {
        at = &(*at)->newer;
    }
    *at = p->newer;
    settle_range(in, p->offset, p->len);
    if (p->offset + p->len > in->stable_size) {
        in->stable_size = (size_t)(p->offset + p->len);
    }
    pending_free(p);
}

/* All is durable but what is in flight past the kernel's knowledge. */
void sim__settle_inode(struct inode *in)
{
    struct pending **at = &in->oldest;
    while (*at != NULL) {
        struct pending *p = *at;
        if (p->in_flight) {
            at = &p->newer;
            continue;
        }
        *at = p->newer;
        settle_range(in, p->offset, p->len);
        if (p->offset + p->len > in->stable_size) {
            in->stable_size = (size_t)(p->offset + p->len);
        }
        pending_free(p);
    }
}

/* ---- names ---- */

struct entry *sim__find(const struct names *names, const char *name)
{
    for (size_t i = 0; i < names->n; i++) {
        if (strcmp(names->v[i].name, name) == 0) {
            return &names->v[i];
        }
    }
    return NULL;
}

const char *sim__name_of(const struct sim_disk *s, const struct inode *in)
{
    for (size_t i = 0; i < s->visible.n; i++) {
        if (s->visible.v[i].inode == in) {
            return s->visible.v[i].name;
        }
    }
    return "";
}

void sim__unset(struct sim_disk *s, struct names *names, const char *name)
{
    struct entry *e = sim__find(names, name);
    if (e != NULL) {
        sim__put(s, e->inode);
        size_t behind = (size_t)(names->v + names->n - e) - 1;
        memmove(e, e + 1, behind * sizeof *e);
        names->n--;
    }
}

void sim__set(struct sim_disk *s, struct names *names, const char *name, struct inode *in)
{
    sim__get(in); /* first: it may be the one that goes */
    sim__unset(s, names, name);
    if (names->n == names->capacity) {
        names->capacity = names->capacity == 0 ? 8 : 2 * names->capacity;
        names->v = realloc(names->v, names->capacity * sizeof *names->v);
        RGUARD_ASSERT(names->v != NULL);
    }
    struct entry *e = &names->v[names->n++];
    (void)snprintf(e->name, sizeof e->name, "%s", name);
    e->inode = in;
}

static void apply_change(struct sim_disk *s, struct names *names, const struct name_change *c)
{
    struct inode *in = sim__get(c->inode);
    if (c->gone[0] != '\0') {
        sim__unset(s, names, c->gone);
    }
    if (c->made[0] != '\0') {
        sim__set(s, names, c->made, in);
    }
    sim__put(s, in);
}

void sim__change_names(struct sim_disk *s, const char *gone, const char *made, struct inode *in)
{
    struct name_change *c = sim__grab(1, sizeof *c), **tail = &s->changes;
    c->number = ++s->number;
    (void)snprintf(c->gone, sizeof c->gone, "%s", gone);
    (void)snprintf(c->made, sizeof c->made, "%s", made);
    c->inode = sim__get(in);
    while (*tail != NULL) {
        tail = &(*tail)->newer;
    }
    *tail = c;
    apply_change(s, &s->visible, c);
}

static void names_clear(struct sim_disk *s, struct names *names)
{
    while (names->n > 0) {
        sim__put(s, names->v[--names->n].inode);
    }
}

void sim__names_copy(struct sim_disk *s, struct names *to, const struct names *from)
{
    struct names old = *to;
    memset(to, 0, sizeof *to);
    for (size_t i = 0; i < from->n; i++) {
        sim__set(s, to, from->v[i].name, from->v[i].inode);
    }
    names_clear(s, &old);
    free(old.v);
}

void sim__changes_clear(struct sim_disk *s)
{
    while (s->changes != NULL) {
        struct name_change *c = s->changes;
        s->changes = c->newer;
        sim__put(s, c->inode);
        free(c);
    }
}

/* ---- the device ---- */

struct sim_disk *sim_disk_new(uint64_t seed)
{
    struct sim_disk *s = sim__grab(1, sizeof *s);
    s->random = seed;
    return s;
}

void sim_disk_free(struct sim_disk *s)
{
    if (s != NULL) {
        names_clear(s, &s->visible);
        names_clear(s, &s->stable);
        sim__changes_clear(s);
        free(s->visible.v);
        free(s->stable.v);
        free(s);
    }
}

static struct inode *copy_inode(struct sim_disk *to, const struct inode *from)
{
    struct inode *in = sim__grab(1, sizeof *in);
    in->id = from->id;
    sim__resize(to, in, from->size);
    if (from->size > 0) {
        memcpy(in->data, from->data, from->size);
    }
    in->stable_size = from->stable_size;
    struct pending **tail = &in->oldest;
    for (const struct pending *p = from->oldest; p != NULL; p = p->newer) {
        struct pending *q = sim__grab(1, sizeof *q);
        *q = *p;
        q->newer = NULL;
        q->in_flight = false;
        if (p->old != NULL) {
            q->old = sim__grab(1, p->len);
            memcpy(q->old, p->old, p->len);
        }
        *tail = q;
        tail = &q->newer;
    }
    return in;
}

/* The copy of an inode: in @to already, or made now. */
static struct inode *twin(struct sim_disk *to, const struct inode *from)
{
    if (from == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < to->visible.n; i++) {
        if (to->visible.v[i].inode->id == from->id) {
            return to->visible.v[i].inode;
        }
    }
    for (size_t i = 0; i < to->stable.n; i++) {
        if (to->stable.v[i].inode->id == from->id) {
            return to->stable.v[i].inode;
        }
    }
    for (const struct name_change *c = to->changes; c != NULL; c = c->newer) {
        if (c->inode != NULL && c->inode->id == from->id) {
            return c->inode;
        }
    }
    return copy_inode(to, from);
}

struct sim_disk *sim_disk_clone(const struct sim_disk *s, uint64_t seed)
{
    struct sim_disk *to = sim_disk_new(seed);
    to->number = s->number;
    to->next_inode = s->next_inode;
    to->capacity = s->capacity;
    for (size_t i = 0; i < s->visible.n; i++) {
        sim__set(to, &to->visible, s->visible.v[i].name, twin(to, s->visible.v[i].inode));
    }
    for (size_t i = 0; i < s->stable.n; i++) {
        sim__set(to, &to->stable, s->stable.v[i].name, twin(to, s->stable.v[i].inode));
    }
    struct name_change **tail = &to->changes;
    for (const struct name_change *c = s->changes; c != NULL; c = c->newer) {
        struct name_change *d = sim__grab(1, sizeof *d);
        *d = *c;
        d->newer = NULL;
        d->inode = sim__get(twin(to, c->inode));
        *tail = d;
        tail = &d->newer;
    }
    return to;
}

void sim_disk_latency(struct sim_disk *s, unsigned calls)
{
    s->latency = calls;
}

void sim_disk_capacity(struct sim_disk *s, uint64_t bytes)
{
    s->capacity = bytes;
}

void sim_disk_watch(struct sim_disk *s, sim_watch fn, void *user)
{
    s->watch = fn;
    s->watch_user = user;
}

void sim_disk_plan(struct sim_disk *s, enum sim_op op, enum sim_fault_kind kind, uint64_t skip)
{
    size_t i = 0;
    while (i < SIM_PLANS && s->plans[i].armed) {
        i++;
    }
    RGUARD_ASSERT(i < SIM_PLANS);
    s->plans[i] = (struct plan){true, op, kind, skip};
}

void sim_disk_unplan(struct sim_disk *s)
{
    memset(s->plans, 0, sizeof s->plans);
}

/* Whether a planned fault strikes this operation. */
bool sim__strikes(struct sim_disk *s, enum sim_op op, enum sim_fault_kind *kind)
{
    bool now = false;
    for (size_t i = 0; i < SIM_PLANS; i++) {
        struct plan *p = &s->plans[i];
        if (p->armed && p->op == op && p->skip-- == 0) {
            p->armed = false;
            *kind = p->kind;
            now = true;
        }
    }
    return now;
}

void sim__tell(struct sim_disk *s, const struct sim_event *event)
{
    if (s->watch != NULL) {
        s->watch(s->watch_user, event);
    }
}

/* ---- power failure ---- */

struct crash
{
    enum sim_crash how;
    uint64_t cut;    /* ORDERED: number of the operation that is kept in part */
    uint64_t parts;  /* ... and how many of its sectors, in 1/256 */
    uint64_t chance; /* RANDOM: of being kept, in 1/256 */
};

static bool keeps(struct sim_disk *s, const struct crash *c, uint64_t number, uint64_t part,
                  uint64_t of)
{
    switch (c->how) {
        case SIM_CRASH_NOTHING:
            return false;
        case SIM_CRASH_ALL:
            return true;
        case SIM_CRASH_ORDERED:
            return number < c->cut || (number == c->cut && part * 256 < of * c->parts);
        default:
            return sim_below(&s->random, 256) < c->chance;
    }
}

static void crash_inode(struct sim_disk *s, const struct crash *c, struct inode *in)
{
    if (in->oldest == NULL) {
        return;
    }
    /* From the newest to the oldest: the first that is kept decides what a sector holds. */
    size_t n = 0, end = in->stable_size, i = 0;
    for (struct pending *p = in->oldest; p != NULL; p = p->newer) {
        n++;
    }
    struct pending **order = sim__grab(n, sizeof(struct pending *));
    for (struct pending *p = in->oldest; p != NULL; p = p->newer) {
        order[n - ++i] = p;
    }
    bool *decided = sim__grab(in->size / SIM_SECTOR + 1, sizeof(bool));
    for (i = 0; i < n; i++) {
        const struct pending *p = order[i];
        for (size_t at = 0; at < p->len; at += SIM_SECTOR) {
            size_t sector = (size_t)(p->offset + at) / SIM_SECTOR;
            if (decided[sector]) {
                continue;
            }
            if (keeps(s, c, p->number, at / SIM_SECTOR, p->len / SIM_SECTOR)) {
                decided[sector] = true;
                end = (sector + 1) * SIM_SECTOR > end ? (sector + 1) * SIM_SECTOR : end;
            } else if (p->old != NULL) {
                memcpy(in->data + p->offset + at, p->old + at, SIM_SECTOR);
            } else {
                memset(in->data + p->offset + at, 0, SIM_SECTOR);
            }
        }
    }
    free(decided);
    free(order);
    pending_drop_all(in);
    /* The size may have arrived without the data. */
    bool sized = c->how == SIM_CRASH_RANDOM && sim_below(&s->random, 2) == 0;
    if (!sized && end < in->size) {
        sim__resize(s, in, end);
    }
    in->stable_size = in->size;
}

void sim_disk_crash(struct sim_disk *s, enum sim_crash how)
{
    struct crash c = {how, 0, 0, 0};
    static const uint64_t chances[] = {16, 64, 128, 192, 240};
    uint64_t oldest = s->changes != NULL ? s->changes->number : s->number;
    for (size_t i = 0; i < s->visible.n; i++) {
        const struct pending *p = s->visible.v[i].inode->oldest;
        oldest = p != NULL && p->number < oldest ? p->number : oldest;
    }
    c.cut = oldest + sim_below(&s->random, s->number - oldest + 1);
    c.parts = sim_below(&s->random, 257);
    c.chance = chances[sim_below(&s->random, sizeof chances / sizeof chances[0])];
    for (const struct name_change *n = s->changes; n != NULL; n = n->newer) {
        if (keeps(s, &c, n->number, 0, 1)) {
            apply_change(s, &s->stable, n);
        }
    }
    sim__names_copy(s, &s->visible, &s->stable);
    sim__changes_clear(s);
    for (size_t i = 0; i < s->visible.n; i++) {
        crash_inode(s, &c, s->visible.v[i].inode);
    }
    s->epoch++;
}

void sim_disk_kill(struct sim_disk *s)
{
    for (size_t i = 0; i < s->visible.n; i++) {
        for (struct pending *p = s->visible.v[i].inode->oldest; p != NULL; p = p->newer) {
            p->in_flight = false; /* it lands before the next sync() returns */
        }
    }
    s->epoch++;
}

/* ---- bytes at rest ---- */

const char *sim_file_name(const struct sim_disk *s, size_t i)
{
    return i < s->visible.n ? s->visible.v[i].name : NULL;
}

uint8_t *sim_file(const struct sim_disk *s, const char *file, size_t *size)
{
    const struct entry *e = sim__find(&s->visible, file);
    if (e == NULL) {
        return NULL;
    }
    if (size != NULL) {
        *size = e->inode->size;
    }
    return e->inode->data;
}

void sim_file_put(struct sim_disk *s, const char *file, const void *data, size_t size)
{
    struct inode *in = sim__grab(1, sizeof *in);
    in->id = ++s->next_inode;
    sim__resize(s, in, size);
    in->stable_size = size;
    if (data != NULL && size > 0) {
        memcpy(in->data, data, size);
    }
    sim__set(s, &s->visible, file, in);
    sim__set(s, &s->stable, file, in);
}

void sim_file_resize(struct sim_disk *s, const char *file, size_t size)
{
    struct entry *e = sim__find(&s->visible, file);
    if (e != NULL) {
        sim__settle_inode(e->inode);
        sim__resize(s, e->inode, size);
        e->inode->stable_size = size;
    }
}

void sim_file_remove(struct sim_disk *s, const char *file)
{
    sim__unset(s, &s->visible, file);
    sim__unset(s, &s->stable, file);
}

void sim_disk_bad_sectors(struct sim_disk *s, const char *file, uint64_t offset, uint64_t len)
{
    struct entry *e = sim__find(&s->visible, file);
    if (e != NULL) {
        e->inode->bad_from = offset;
        e->inode->bad_until = offset + len;
    }
}

uint64_t sim_disk_sum(const struct sim_disk *s)
{
    uint64_t sum = s->visible.n;
    for (size_t i = 0; i < s->visible.n; i++) {
        const struct entry *e = &s->visible.v[i];
        uint32_t crc = rguard_crc32c(0, e->name, strlen(e->name));
        if (e->inode->size > 0) {
            crc = rguard_crc32c(crc, e->inode->data, e->inode->size);
        }
        sum += sim_fork(crc, e->inode->size); /* whatever the order of the names */
    }
    return sum;
}
