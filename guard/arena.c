/* SPDX-License-Identifier: Apache-2.0 */
/* Arenas: mapping, magic words, the table that attributes addresses, and the public slot calls.
 *
 *     [guard 64 KiB][header page][body ...............................][footer page][guard 64 KiB]
 *                    512 words    packed: 2 MiB-aligned, huge pages     512 words
 *                                 from 2 MiB on
 *
 * Every word of the header and the footer page is magic: secret ^ its own address ^ a constant. The
 * FAST check reads the two words that touch the body, because a linear overrun or underrun arrives
 * there first; the FULL check reads all of them. A header copied elsewhere fails, and so does a
 * restored one of another process.
 *
 * Invariant: the body holds nothing that decides where the allocator writes next but the free links
 * of packed slots, and those carry a check word that is verified before use. */
#include "guard_internal.h"

#include <errno.h>
#include <sys/mman.h>

#define ARENA_GUARD ((size_t)64 << 10)
#define HUGE        ((size_t)2 << 20)

rguard_arena **rguard__arena_table;

static int check_options(const struct rguard_arena_options *o)
{
    if (o == NULL || o->size < sizeof *o || o->bytes == 0 || o->bytes > RGUARD__BODY_MAX ||
        (o->slots != RGUARD_SLOTS_PACKED && o->slots != RGUARD_SLOTS_GUARDED) ||
        (o->name != NULL && strlen(o->name) >= sizeof((rguard_arena *)0)->name)) {
        return -EINVAL;
    }
    return rguard__thread.window != NULL ? RGUARD_ESTATE : 0;
}

RGUARD__RAW static void write_magic(rguard_arena *a)
{
    uint64_t key = rguard__secret();
    size_t words = rguard__page / sizeof(uint64_t);
    uint64_t *header = (uint64_t *)(void *)(a->body - rguard__page);
    uint64_t *footer = (uint64_t *)(void *)a->body_end;
    for (size_t i = 0; i < words; i++) {
        header[i] = key ^ (uintptr_t)&header[i] ^ RGUARD__HEADER_MAGIC;
        footer[i] = key ^ ~(uintptr_t)&footer[i] ^ RGUARD__FOOTER_MAGIC;
    }
}

/* NULL when both pages are whole, else the first damaged word. */
RGUARD__RAW static const uint64_t *magic_damage(const rguard_arena *a)
{
    uint64_t key = rguard__secret();
    size_t words = rguard__page / sizeof(uint64_t);
    const uint64_t *header = (const uint64_t *)(const void *)(a->body - rguard__page);
    const uint64_t *footer = (const uint64_t *)(const void *)a->body_end;
    for (size_t i = 0; i < words; i++) {
        if (header[i] != (key ^ (uintptr_t)&header[i] ^ RGUARD__HEADER_MAGIC)) {
            return &header[i];
        }
        if (footer[i] != (key ^ ~(uintptr_t)&footer[i] ^ RGUARD__FOOTER_MAGIC)) {
            return &footer[i];
        }
    }
    return NULL;
}

/* Maps guards, header, body and footer. */
static int map_body(rguard_arena *a, size_t body_bytes)
{
    bool huge = a->slots == RGUARD_SLOTS_PACKED && body_bytes >= HUGE;
    size_t lead = ARENA_GUARD + rguard__page;
    a->map_bytes = lead + body_bytes + rguard__page + ARENA_GUARD;
    a->map = rguard__reserve(a->map_bytes, huge ? HUGE : rguard__page, lead);
    if (a->map == NULL) {
        return -ENOMEM;
    }
    if (huge) {
        (void)madvise(a->map, a->map_bytes, MADV_HUGEPAGE); /* a matter of speed only */
    }
    a->body = a->map + lead;
    a->body_end = a->body + body_bytes;
    a->header_word = (const uint64_t *)(const void *)(a->body - sizeof(uint64_t));
    a->footer_word = (const uint64_t *)(const void *)a->body_end;
    if (RGUARD__IS_OFF(a->off, RGUARD__OFF_GUARDS)) {
        return 0;
    }
    int rv = rguard__guard_set(a->map, ARENA_GUARD);
    if (rv == 0) {
        rv = rguard__guard_set(a->map + a->map_bytes - ARENA_GUARD, ARENA_GUARD);
    }
    if (rv != 0) {
        munmap(a->map, a->map_bytes);
    }
    return rv;
}

static int table_add(rguard_arena *a)
{
    for (uint32_t i = 0; i < RGUARD__ARENAS; i++) {
        rguard_arena *expected = NULL;
        a->id = i + 1;
        if (__atomic_compare_exchange_n(&rguard__arena_table[i], &expected, a, false,
                                        __ATOMIC_RELEASE, __ATOMIC_RELAXED)) {
            return 0;
        }
    }
    return RGUARD_EBUSY;
}

int rguard_arena_create(const struct rguard_arena_options *options, rguard_arena **out)
{
    int rv = out == NULL ? -EINVAL : check_options(options);
    if (rv == 0) {
        rv = rguard__base_init();
    }
    if (rv != 0) {
        return rv;
    }
    size_t body_bytes = (options->bytes + rguard__page - 1) & ~(rguard__page - 1);
    size_t n_pages = body_bytes >> rguard__page_shift;
    size_t control_bytes = sizeof(rguard_arena) + n_pages * sizeof(struct rguard__page);
    rguard_arena *a = rguard__control_map(control_bytes);
    if (a == NULL) {
        return -ENOMEM;
    }
    a->control_bytes = control_bytes;
    a->pages = (struct rguard__page *)(void *)(a + 1);
    a->n_pages = (uint32_t)n_pages;
    a->slots = options->slots;
    a->off = rguard__off_flags();
    if (options->name != NULL) {
        memcpy(a->name, options->name, strlen(options->name) + 1);
    }
    rv = map_body(a, body_bytes);
    if (rv != 0) {
        goto unmap_control;
    }
    write_magic(a);
    rguard__poison(a->map, a->map_bytes);
    rv = table_add(a);
    if (rv != 0) {
        goto unmap_body;
    }
    *out = a;
    return 0;

unmap_body:
    rguard__unpoison(a->map, a->map_bytes);
    munmap(a->map, a->map_bytes);
unmap_control:
    rguard__control_unmap(a, control_bytes);
    return rv;
}

void rguard_arena_destroy(rguard_arena *a)
{
    if (a == NULL) {
        return;
    }
    /* First out of the handler's sight. A fault that another thread takes at this very moment at an
     * address of this arena may still read it: that thread was using a dying arena. */
    __atomic_store_n(&rguard__arena_table[a->id - 1], NULL, __ATOMIC_RELEASE);
    rguard__unpoison(a->map, a->map_bytes);
    munmap(a->map, a->map_bytes);
    rguard__control_unmap(a, a->control_bytes);
}

int rguard_arena_reset(rguard_arena *a)
{
    if (a == NULL) {
        return -EINVAL;
    }
    if (a->window != NULL) {
        return RGUARD_ESTATE;
    }
    size_t used = (size_t)a->used_pages << rguard__page_shift;
    int rv = used == 0 ? 0 : rguard__guard_clear(a->body, used);
    if (rv != 0) {
        return rv;
    }
    memset(a->pages, 0, a->used_pages * sizeof a->pages[0]);
    memset(a->packed, 0, sizeof a->packed);
    memset(a->guarded_free, 0, sizeof a->guarded_free);
    a->used_pages = 0;
    a->live_slots = 0;
    a->live_bytes = 0;
    write_magic(a);
    rguard__poison(a->body, (size_t)(a->body_end - a->body));
    return 0;
}

int rguard_alloc(rguard_arena *a, size_t len, void **out)
{
    if (a == NULL || out == NULL || len == 0) {
        return -EINVAL;
    }
    if (len > RGUARD__SLOT_MAX) {
        return RGUARD_ETOOBIG;
    }
    rguard__enter();
    void *obj;
    int rv = rguard__slot_take(a, len, &obj);
    if (rv == 0) {
        rguard__count(a, len, true, &a->allocs, false);
        if (a->window != NULL) {
            (void)rguard__log(a->window, RGUARD__LOG_ALLOC, obj, 0);
        }
    }
    rguard__leave();
    if (rv == RGUARD_ECANARY) {
        return rguard__refuse(a, rv, (uintptr_t)obj, (uintptr_t)__builtin_return_address(0));
    }
    if (rv == 0) {
        *out = obj;
    }
    return rv;
}

/* 0 when @p may be freed: @s is then its slot. */
static int free_check(const rguard_arena *a, const void *p, struct rguard__slot *s)
{
    if (!rguard__slot_find(a, (uintptr_t)p, s)) {
        return RGUARD_EWRONGARENA;
    }
    if (!s->sane) { /* the header is damaged: is p at least where an object starts? */
        return p == s->obj ? RGUARD_ECANARY : RGUARD_EWRONGARENA;
    }
    if (p != s->obj) {
        return RGUARD_EWRONGARENA;
    }
    if (s->state != RGUARD__LIVE && !RGUARD__IS_OFF(a->off, RGUARD__OFF_DOUBLE_FREE)) {
        return RGUARD_EDOUBLEFREE;
    }
    return rguard__slot_intact(a, s, false) ? 0 : RGUARD_ECANARY;
}

int rguard_free(rguard_arena *a, void *p)
{
    if (a == NULL) {
        return -EINVAL;
    }
    if (p == NULL) {
        return 0;
    }
    rguard__enter();
    struct rguard__slot s;
    int rv = free_check(a, p, &s);
    if (rv == 0) {
        rguard__count(a, s.len, false, &a->frees, false);
        if (a->window != NULL && rguard__log(a->window, RGUARD__LOG_FREE, p, 0)) {
            rguard__slot_mark(a, &s, RGUARD__DYING);
        } else {
            rguard__slot_release(a, &s);
        }
    } else {
        a->refused_frees++;
    }
    rguard__leave();
    return rv == 0 ? 0
                   : rguard__refuse(a, rv, (uintptr_t)p, (uintptr_t)__builtin_return_address(0));
}

size_t rguard_slot_len(const rguard_arena *a, const void *p)
{
    struct rguard__slot s;
    if (a == NULL || !rguard__slot_find(a, (uintptr_t)p, &s) || !s.sane ||
        s.state != RGUARD__LIVE || s.obj != p) {
        return 0;
    }
    return s.len;
}

/* Kind and address of the first damage, or RGUARD_V_NONE. */
static uint32_t find_damage(const rguard_arena *a, int depth, uintptr_t *at)
{
    if (!RGUARD__IS_OFF(a->off, RGUARD__OFF_MAGIC) &&
        (depth == RGUARD_CHECK_FULL || !rguard__arena_fast(a))) {
        const uint64_t *word = magic_damage(a);
        if (word != NULL) {
            *at = (uintptr_t)word;
            return RGUARD_V_MAGIC;
        }
    }
    struct rguard__slot bad;
    if (depth == RGUARD_CHECK_FULL && !rguard__slots_check(a, 0, a->n_pages, &bad)) {
        *at = (uintptr_t)bad.base;
        return RGUARD_V_CANARY;
    }
    return RGUARD_V_NONE;
}

int rguard_check(const rguard_arena *a, int depth, struct rguard_violation *out)
{
    if (a == NULL || (depth != RGUARD_CHECK_FAST && depth != RGUARD_CHECK_FULL)) {
        return -EINVAL;
    }
    uintptr_t at = 0;
    rguard__enter();
    uint32_t kind = find_damage(a, depth, &at);
    rguard__leave();
    if (kind == RGUARD_V_NONE) {
        return 0;
    }
    struct rguard_violation v;
    rguard__violation_init(&v, kind, RGUARD_CLASS_IMPRECISE, a, at,
                           (uintptr_t)__builtin_return_address(0));
    rguard__detected(&v);
    rguard__record(&v);
    if (out != NULL) {
        *out = v;
    }
    return RGUARD_ECANARY;
}

int rguard_arena_stats(const rguard_arena *a, struct rguard_arena_stats *stats)
{
    if (a == NULL || stats == NULL || stats->size < sizeof stats->size) {
        return -EINVAL;
    }
    struct rguard_arena_stats s = {.size = stats->size,
                                   .live_slots = a->live_slots,
                                   .live_bytes = a->live_bytes,
                                   .body_bytes = (uint64_t)(a->body_end - a->body),
                                   .used_bytes = (uint64_t)a->used_pages << rguard__page_shift,
                                   .allocs = a->allocs,
                                   .frees = a->frees,
                                   .refused_frees = a->refused_frees};
    memcpy(stats, &s, stats->size < sizeof s ? stats->size : sizeof s);
    return 0;
}
