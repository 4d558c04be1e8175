/* SPDX-License-Identifier: Apache-2.0 */
/* Slots: how the body of an arena is cut up.
 *
 * Invariant: which slot an address belongs to is decided by the page records in the control mapping
 * alone, never by a byte of the body. A damaged header makes a slot suspect, not the walk over it.
 *
 * packed: a span of pages holds slots of one class
 *
 *     [check | len gen state class][object, len bytes][trailer, 8][unused]   next slot touches
 *      \_ 16 bytes, check = secret ^ address ^ mix(the other 8)
 *                                  trailer = secret ^ ~address ^ mix(gen), lowest bit set
 *     while free, the object's first 16 bytes are [next free slot][check of that link]
 *
 * guarded: a span is one slot of 1, 2, 4 .. 4096 pages and its guard page
 *
 *     [unused ... slack pattern, at most one page][object, len bytes][guard page]
 *
 *     the guard is installed when the slot is made and stays; while free, the object's first bytes
 *     (at most 16) are the pattern too. State and length are in the page record. */
#include "guard_internal.h"

#include <errno.h>

#define HEADER       16u
#define TRAILER      8u
#define ALIGN        16u
#define SMALL_STEP   16u
#define SMALL_MAX    128u /* classes 48, 64, .. 128, then four per doubling */
#define SMALL_MIN    48u
#define SMALL_COUNT  6u
#define SPAN_SLOTS   8u
#define NEAR_SLACK   128u /* verified at every free; the rest by a FULL check */
#define FREE_PATTERN 16u
#define MIX_HEADER   0x9e3779b97f4a7c15u
#define MIX_LINK     0xc2b2ae3d27d4eb4fu

struct packed_header
{
    uint64_t check;
    uint32_t len;
    uint16_t gen;
    uint8_t state;
    uint8_t class_;
};

struct free_link
{
    uint64_t next;
    uint64_t check;
};

_Static_assert(sizeof(struct packed_header) == HEADER, "objects are aligned to 16");

/* ---- classes --------------------------------------------------------------------------------- */

static unsigned packed_class(size_t len)
{
    size_t need = len + HEADER + TRAILER;
    if (need <= SMALL_MAX) {
        return need <= SMALL_MIN ? 0 : (unsigned)((need - SMALL_MIN + SMALL_STEP - 1) / SMALL_STEP);
    }
    unsigned lg = 63u - (unsigned)__builtin_clzl(need - 1);
    size_t quarter = (size_t)1 << (lg - 2);
    return SMALL_COUNT + (lg - 7) * 4 + (unsigned)((need - 1 - ((size_t)1 << lg)) / quarter);
}

static size_t packed_size(unsigned class_)
{
    if (class_ < SMALL_COUNT) {
        return SMALL_MIN + class_ * SMALL_STEP;
    }
    unsigned lg = 7 + (class_ - SMALL_COUNT) / 4;
    return ((size_t)1 << lg) + ((class_ - SMALL_COUNT) % 4 + 1) * ((size_t)1 << (lg - 2));
}

static unsigned guarded_class(size_t len)
{
    size_t pages = (len + rguard__page - 1) >> rguard__page_shift;
    return pages <= 1 ? 0 : 64u - (unsigned)__builtin_clzl(pages - 1);
}

/* Takes @n unused pages and makes them a span; its first page, or -1. */
static int64_t span_take(rguard_arena *a, size_t n, unsigned class_)
{
    if (n > a->n_pages - a->used_pages) {
        return -1;
    }
    uint32_t first = a->used_pages;
    for (size_t i = 0; i < n; i++) {
        a->pages[first + i].first = first + 1;
    }
    a->pages[first].pages = (uint32_t)n;
    a->pages[first].class_ = (uint8_t)class_;
    a->used_pages += (uint32_t)n;
    return first;
}

/* ---- packed ---------------------------------------------------------------------------------- */

RGUARD__RAW static uint64_t header_check(const struct packed_header *h)
{
    uint64_t rest = (uint64_t)h->len | (uint64_t)h->gen << 32 | (uint64_t)h->state << 48 |
                    (uint64_t)h->class_ << 56;
    return rguard__secret() ^ (uintptr_t)h ^ (rest * MIX_HEADER);
}

/* The lowest byte is never 0, so that a string's terminator one past the end shows. */
RGUARD__RAW static uint64_t trailer_of(const struct packed_header *h)
{
    return (rguard__secret() ^ ~(uintptr_t)h ^ (h->gen * MIX_LINK)) | 1u;
}

static uint64_t link_check(const uint8_t *slot, uint64_t next)
{
    return rguard__secret() ^ (uintptr_t)slot ^ (~next * MIX_LINK);
}

RGUARD__RAW static void packed_write(uint8_t *slot, size_t len, uint16_t gen, uint8_t state,
                                     uint8_t class_)
{
    struct packed_header *h = (struct packed_header *)(void *)slot;
    h->len = (uint32_t)len;
    h->gen = gen;
    h->state = state;
    h->class_ = class_;
    h->check = header_check(h);
}

RGUARD__RAW static bool packed_intact(const uint8_t *slot)
{
    const struct packed_header *h = (const struct packed_header *)(const void *)slot;
    if (h->state == RGUARD__FREE) {
        const struct free_link *link = (const struct free_link *)(const void *)(slot + HEADER);
        return link->check == link_check(slot, link->next);
    }
    uint64_t trailer;
    rguard__raw_copy(&trailer, slot + HEADER + h->len, sizeof trailer);
    return trailer == trailer_of(h);
}

RGUARD__RAW static bool packed_find(const rguard_arena *a, uint32_t first, size_t offset,
                                    struct rguard__slot *s)
{
    const struct rguard__page *span = &a->pages[first];
    size_t size = packed_size(span->class_);
    /* Spans are below 4 GiB: a 32-bit division. */
    uint32_t nth = (uint32_t)(offset - ((size_t)first << rguard__page_shift)) / (uint32_t)size;
    if (nth >= span->carved) {
        return false;
    }
    s->base = a->body + ((size_t)first << rguard__page_shift) + nth * size;
    s->end = s->base + size;
    s->obj = s->base + HEADER;
    s->page = first;
    s->class_ = span->class_;
    const struct packed_header *h = (const struct packed_header *)(const void *)s->base;
    s->state = h->state;
    s->len = h->len;
    s->sane = (h->check == header_check(h) && h->class_ == span->class_) ||
              RGUARD__IS_OFF(a->off, RGUARD__OFF_CANARY);
    return true;
}

/* A new span: eight slots where there is room for them, else one. */
static bool packed_grow(rguard_arena *a, unsigned class_)
{
    struct rguard__packed_class *c = &a->packed[class_];
    size_t size = packed_size(class_);
    size_t slots = size <= 8 * rguard__page ? SPAN_SLOTS : 1;
    int64_t first = span_take(a, (slots * size + rguard__page - 1) >> rguard__page_shift, class_);
    if (first < 0) {
        first = span_take(a, (size + rguard__page - 1) >> rguard__page_shift, class_);
    }
    if (first < 0) {
        return false;
    }
    c->page = (uint32_t)first;
    c->next = a->body + ((size_t)first << rguard__page_shift);
    c->end = c->next + ((size_t)a->pages[first].pages << rguard__page_shift);
    return true;
}

RGUARD__RAW static int packed_take(rguard_arena *a, size_t len, void **obj)
{
    unsigned class_ = packed_class(len);
    struct rguard__packed_class *c = &a->packed[class_];
    uint8_t *slot = c->free;
    uint16_t gen = 0;
    if (slot != NULL) {
        const struct packed_header *h = (const struct packed_header *)(void *)slot;
        const struct free_link *link = (const struct free_link *)(void *)(slot + HEADER);
        if ((h->check != header_check(h) || h->state != RGUARD__FREE ||
             link->check != link_check(slot, link->next)) &&
            !RGUARD__IS_OFF(a->off, RGUARD__OFF_CANARY)) {
            *obj = slot + HEADER;
            return RGUARD_ECANARY;
        }
        gen = h->gen;
        c->free = (uint8_t *)(uintptr_t)link->next;
    } else {
        if (c->next == NULL || (size_t)(c->end - c->next) < packed_size(class_)) {
            if (!packed_grow(a, class_)) {
                return RGUARD_EARENAFULL;
            }
        }
        slot = c->next;
        c->next += packed_size(class_);
        a->pages[c->page].carved++;
    }
    packed_write(slot, len, (uint16_t)(gen + 1), RGUARD__LIVE, (uint8_t)class_);
    uint64_t trailer = trailer_of((const struct packed_header *)(void *)slot);
    rguard__raw_copy(slot + HEADER + len, &trailer, sizeof trailer);
    *obj = slot + HEADER;
    return 0;
}

RGUARD__RAW static void packed_state(struct rguard__slot *s, uint8_t state)
{
    const struct packed_header *h = (const struct packed_header *)(const void *)s->base;
    packed_write(s->base, s->len, h->gen, state, s->class_);
}

RGUARD__RAW static void packed_release(rguard_arena *a, struct rguard__slot *s)
{
    packed_state(s, RGUARD__FREE);
    struct rguard__packed_class *c = &a->packed[s->class_];
    struct free_link *link = (struct free_link *)(void *)(s->base + HEADER);
    link->next = (uintptr_t)c->free;
    link->check = link_check(s->base, link->next);
    c->free = s->base;
}

/* ---- guarded --------------------------------------------------------------------------------- */

static uint8_t pattern(void)
{
    return (uint8_t)(rguard__secret() >> 56 | 1);
}

static bool guarded_find(const rguard_arena *a, uint32_t first, struct rguard__slot *s)
{
    const struct rguard__page *span = &a->pages[first];
    s->base = a->body + ((size_t)first << rguard__page_shift);
    s->end = s->base + ((size_t)(span->pages - 1) << rguard__page_shift);
    s->len = span->len;
    s->obj = s->end - s->len;
    s->page = first;
    s->class_ = span->class_;
    s->state = span->state;
    s->sane = true;
    return span->state != 0;
}

static size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static bool guarded_intact(const struct rguard__slot *s, bool full)
{
    size_t slack = min_size((size_t)(s->obj - s->base), full ? rguard__page : NEAR_SLACK);
    return rguard__raw_is(s->obj - slack, pattern(), slack) &&
           (s->state != RGUARD__FREE ||
            rguard__raw_is(s->obj, pattern(), min_size(s->len, FREE_PATTERN)));
}

static int guarded_make(rguard_arena *a, unsigned class_, uint32_t *first)
{
    size_t pages = (size_t)1 << class_;
    int64_t span = span_take(a, pages + 1, class_);
    if (span < 0) {
        return RGUARD_EARENAFULL;
    }
    uint8_t *guard = a->body + (((size_t)span + pages) << rguard__page_shift);
    int rv =
        RGUARD__IS_OFF(a->off, RGUARD__OFF_GUARDS) ? 0 : rguard__guard_set(guard, rguard__page);
    if (rv != 0) { /* too many mappings: give the pages back */
        memset(&a->pages[span], 0, (pages + 1) * sizeof a->pages[0]);
        a->used_pages -= (uint32_t)(pages + 1);
        return rv;
    }
    *first = (uint32_t)span;
    return 0;
}

static int guarded_take(rguard_arena *a, size_t len, void **obj)
{
    unsigned class_ = guarded_class(len);
    uint32_t first;
    struct rguard__slot s;
    bool filled = false;
    if (a->guarded_free[class_] != 0) {
        first = a->guarded_free[class_] - 1;
        guarded_find(a, first, &s);
        if (!guarded_intact(&s, false) && !RGUARD__IS_OFF(a->off, RGUARD__OFF_CANARY)) {
            *obj = s.obj;
            return RGUARD_ECANARY;
        }
        filled = s.len == len;
        a->guarded_free[class_] = a->pages[first].next;
    } else {
        int rv = guarded_make(a, class_, &first);
        if (rv != 0) {
            return rv;
        }
    }
    a->pages[first].len = (uint32_t)len;
    a->pages[first].state = RGUARD__LIVE;
    guarded_find(a, first, &s);
    if (!filled) {
        size_t slack = min_size((size_t)(s.obj - s.base), rguard__page);
        rguard__raw_fill(s.obj - slack, pattern(), slack);
    }
    *obj = s.obj;
    return 0;
}

static void guarded_release(rguard_arena *a, struct rguard__slot *s)
{
    struct rguard__page *span = &a->pages[s->page];
    rguard__raw_fill(s->obj, pattern(), min_size(s->len, FREE_PATTERN));
    span->state = RGUARD__FREE;
    span->next = a->guarded_free[s->class_];
    a->guarded_free[s->class_] = s->page + 1;
}

/* ---- both ------------------------------------------------------------------------------------ */

bool rguard__slot_find(const rguard_arena *a, uintptr_t addr, struct rguard__slot *s)
{
    size_t offset = addr - (uintptr_t)a->body;
    if (offset >= (size_t)a->n_pages << rguard__page_shift) {
        return false;
    }
    uint32_t first = a->pages[offset >> rguard__page_shift].first;
    if (first == 0) {
        return false;
    }
    return a->slots == RGUARD_SLOTS_PACKED ? packed_find(a, first - 1, offset, s)
                                           : guarded_find(a, first - 1, s);
}

RGUARD__RAW bool rguard__slot_intact(const rguard_arena *a, const struct rguard__slot *s, bool full)
{
    if (RGUARD__IS_OFF(a->off, RGUARD__OFF_CANARY)) {
        return true;
    }
    if (a->slots == RGUARD_SLOTS_GUARDED) {
        return guarded_intact(s, full);
    }
    return s->sane && packed_intact(s->base);
}

int rguard__slot_take(rguard_arena *a, size_t len, void **obj)
{
    int rv = a->slots == RGUARD_SLOTS_PACKED ? packed_take(a, len, obj) : guarded_take(a, len, obj);
    if (rv == 0) {
        rguard__unpoison(*obj, len);
    }
    return rv;
}

/* From the start of the object's first 8 bytes, ASan's grain: a guarded object may begin inside. */
static void poison_object(const struct rguard__slot *s)
{
    uint8_t *start = s->obj - (uintptr_t)s->obj % 8;
    rguard__poison(start, (size_t)(s->obj + s->len - start));
}

/* LIVE to DYING (freed in an open window) and back (the window was undone). */
void rguard__slot_mark(rguard_arena *a, struct rguard__slot *s, uint8_t state)
{
    if (a->slots == RGUARD_SLOTS_PACKED) {
        packed_state(s, state);
    } else {
        a->pages[s->page].state = state;
    }
    if (state == RGUARD__DYING) {
        poison_object(s);
    } else {
        rguard__unpoison(s->obj, s->len);
    }
    s->state = state;
}

void rguard__slot_release(rguard_arena *a, struct rguard__slot *s)
{
    poison_object(s);
    if (a->slots == RGUARD_SLOTS_PACKED) {
        packed_release(a, s);
    } else {
        guarded_release(a, s);
    }
}

bool rguard__slots_check(const rguard_arena *a, size_t first, size_t last, struct rguard__slot *bad)
{
    if (a->used_pages == 0) {
        return true;
    }
    last = min_size(last, a->used_pages - 1);
    for (size_t page = first; page <= last; page++) {
        uint32_t span = a->pages[page].first;
        uintptr_t end = (uintptr_t)a->body + ((page + 1) << rguard__page_shift);
        uintptr_t at = (uintptr_t)a->body + (page << rguard__page_shift);
        while (at < end && rguard__slot_find(a, at, bad)) {
            if (!rguard__slot_intact(a, bad, true)) {
                return false;
            }
            if ((uintptr_t)bad->end <= at) {
                break; /* the slot's guard page */
            }
            at = (uintptr_t)bad->end;
        }
        if (a->slots == RGUARD_SLOTS_GUARDED && span != 0) {
            page = span - 1 + a->pages[span - 1].pages - 1; /* one slot a span: seen */
        }
    }
    return true;
}
