/* SPDX-License-Identifier: Apache-2.0 */
/* Windows: the bracket around one apply, its undo log, and the landing after a violation.
 *
 *     CLOSED --open: magic words pass--> RUNNING (trap armed) or BRACKET (no trap)
 *        ^                                 |            |            |
 *        |            body returned 0: magic words, frees done       |
 *        +---------------------------------+            |            |
 *        |            body returned r: undone           |            |
 *        +----------------------------------------------+            |
 *        |   violation: undone, log and touched slots verified, class settled
 *        +-----------------------------------------------------------+
 *
 * Undo log, in a control mapping of its own: an overrun of it meets a guard, not an arena.
 *
 *     [record][record] ...>                                      <... [offset 1][offset 0]
 *     record = check | address | len | kind | data, padded to 8
 *
 * Invariant: a record is applied only after its check word, its bounds and the arena its address
 * lies in were verified; walking back over all of them restores every declared byte, every slot
 * that was freed and the free lists in their old order. Freed slots keep their contents until
 * commit. */
#include "guard_internal.h"

#include <errno.h>

#define DEFAULT_UNDO ((size_t)1 << 20)
#define MAX_UNDO     ((size_t)1 << 30)
#define MIX          0x9e3779b97f4a7c15u
#define CANARY_LOW   0x72677569616c6f77u
#define CANARY_HIGH  0x7267756968696768u

struct record
{
    uint64_t check;
    uint64_t address;
    uint32_t len;
    uint32_t kind;
};

/* ---- create, destroy ------------------------------------------------------------------------- */

int rguard_window_create(const struct rguard_window_options *options, rguard_window **out)
{
    if (options == NULL || out == NULL || options->size < sizeof *options ||
        options->arenas == NULL || options->n_arenas == 0 || options->n_arenas > RGUARD__ARENAS ||
        options->undo_bytes > MAX_UNDO) {
        return -EINVAL;
    }
    for (size_t i = 0; i < options->n_arenas; i++) {
        if (options->arenas[i] == NULL) {
            return -EINVAL;
        }
    }
    rguard_window *w = rguard__control_map(sizeof *w);
    if (w == NULL) {
        return -ENOMEM;
    }
    w->log_cap = ((options->undo_bytes != 0 ? options->undo_bytes : DEFAULT_UNDO) + 7) & ~(size_t)7;
    w->log = rguard__control_map(w->log_cap);
    if (w->log == NULL) {
        rguard__control_unmap(w, sizeof *w);
        return -ENOMEM;
    }
    w->n_arenas = (uint32_t)options->n_arenas;
    memcpy(w->arenas, options->arenas, options->n_arenas * sizeof w->arenas[0]);
    w->off = rguard__off_flags();
    w->canary_low = rguard__secret() ^ (uintptr_t)w ^ CANARY_LOW;
    w->canary_high = rguard__secret() ^ (uintptr_t)w ^ CANARY_HIGH;
    *out = w;
    return 0;
}

void rguard_window_destroy(rguard_window *w)
{
    if (w != NULL) {
        rguard__control_unmap(w->log, w->log_cap);
        rguard__control_unmap(w, sizeof *w);
    }
}

/* ---- open, close, settle --------------------------------------------------------------------- */

static int settle(rguard_window *w);
static void undo(rguard_window *w);
static int commit(rguard_window *w);

/* The first arena whose magic words fail, or NULL. */
static const rguard_arena *fast_check(const rguard_window *w)
{
    if (RGUARD__IS_OFF(w->off, RGUARD__OFF_MAGIC)) {
        return NULL;
    }
    for (uint32_t i = 0; i < w->n_arenas; i++) {
        if (__builtin_expect(!rguard__arena_fast(w->arenas[i]), 0)) {
            return w->arenas[i];
        }
    }
    return NULL;
}

static void close_window(rguard_window *w)
{
    for (uint32_t i = 0; i < w->n_arenas; i++) {
        w->arenas[i]->window = NULL;
    }
    w->mode = RGUARD__CLOSED;
    rguard__thread.window = NULL;
}

/* A violation found by our own checks rather than by the handler. */
static int found(rguard_window *w, uint32_t kind, const rguard_arena *a, uintptr_t address)
{
    rguard__violation_init(&w->hit, kind, RGUARD_CLASS_IMPRECISE, a, address, 0);
    rguard__detected(&w->hit);
    return settle(w);
}

RGUARD__RAW static int found_magic(rguard_window *w, const rguard_arena *a)
{
    bool header =
        *a->footer_word == (rguard__secret() ^ ~(uintptr_t)a->footer_word ^ RGUARD__FOOTER_MAGIC);
    return found(w, RGUARD_V_MAGIC, a, (uintptr_t)(header ? a->header_word : a->footer_word));
}

static int open_window(rguard_window *w, uint64_t term, uint64_t index, uint32_t mode,
                       struct rguard_violation *out)
{
    struct rguard__thread *t = &rguard__thread;
    if (t->window != NULL || w->mode != RGUARD__CLOSED) {
        return RGUARD_ESTATE;
    }
    if (!t->ready && rguard__trap_installed) {
        int rv = rguard__thread_init();
        if (rv != 0) {
            return rv;
        }
    }
    for (uint32_t i = 0; i < w->n_arenas; i++) {
        if (w->arenas[i]->window != NULL && w->arenas[i]->window != w) {
            while (i-- > 0) {
                w->arenas[i]->window = NULL;
            }
            return RGUARD_ESTATE; /* another window of another thread holds it */
        }
        w->arenas[i]->window = w;
    }
    w->term = term;
    w->index = index;
    w->log_used = 0;
    w->n_records = 0;
    w->n_frees = 0;
    w->broken = false;
    w->out = out;
    t->window = w;
    const rguard_arena *bad = fast_check(w);
    if (__builtin_expect(bad != NULL, 0)) {
        return found_magic(w, bad);
    }
    w->mode = mode;
    return 0;
}

/* The body came back by itself. */
static int finish(rguard_window *w, int body_rv)
{
    w->mode = RGUARD__BRACKET; /* from here on nothing lands */
    const rguard_arena *bad = fast_check(w);
    if (__builtin_expect(bad != NULL, 0)) {
        return found_magic(w, bad);
    }
    if (body_rv == 0) {
        return commit(w);
    }
    if (w->broken) {
        return found(w, RGUARD_V_UNDO, NULL, 0);
    }
    undo(w);
    if (w->broken) {
        return found(w, RGUARD_V_UNDO, NULL, 0);
    }
    close_window(w);
    return body_rv;
}

/* Reached by _longjmp from the handler or from rguard__refuse(). The stack below this frame is
 * gone; what is needed is in the control mapping. A frame whose canaries are damaged cannot be
 * returned through. */
static int landed(uint64_t low, uint64_t high)
{
    rguard_window *w = rguard__thread.window;
    uint64_t key = rguard__secret() ^ (uintptr_t)w;
    w->mode = RGUARD__BRACKET;
    rguard__thread.in_library = 0;
    if (low != (key ^ CANARY_LOW) || high != (key ^ CANARY_HIGH) || low != w->canary_low ||
        high != w->canary_high) {
        rguard__die(&w->hit);
    }
    return settle(w);
}

int rguard_window_run(rguard_window *w, uint64_t term, uint64_t index, int (*body)(void *user),
                      void *user, struct rguard_violation *v)
{
    if (w == NULL || body == NULL) {
        return -EINVAL;
    }
    struct
    {
        volatile uint64_t low;
        volatile uint64_t high;
    } frame = {w->canary_low, w->canary_high};
    int rv = open_window(w, term, index, RGUARD__BRACKET, v);
    if (rv != 0) {
        return rv;
    }
    if (_setjmp(w->env) != 0) {
        return landed(frame.low, frame.high);
    }
    w->mode = RGUARD__RUNNING;
    return finish(w, body(user));
}

int rguard_window_begin(rguard_window *w, uint64_t term, uint64_t index)
{
    return w == NULL ? -EINVAL : open_window(w, term, index, RGUARD__BRACKET, NULL);
}

int rguard_window_commit(rguard_window *w, struct rguard_violation *v)
{
    if (w == NULL) {
        return -EINVAL;
    }
    if (rguard__thread.window != w || w->mode != RGUARD__BRACKET) {
        return RGUARD_ESTATE;
    }
    w->out = v;
    return finish(w, 0);
}

int rguard_window_abort(rguard_window *w)
{
    if (w == NULL) {
        return -EINVAL;
    }
    if (rguard__thread.window != w || w->mode != RGUARD__BRACKET) {
        return RGUARD_ESTATE;
    }
    int rv = finish(w, RGUARD_ECANCELED);
    return rv == RGUARD_ECANCELED ? 0 : rv;
}

/* ---- the undo log ---------------------------------------------------------------------------- */

static rguard_arena *arena_of(const rguard_window *w, uintptr_t address)
{
    for (uint32_t i = 0; i < w->n_arenas; i++) {
        rguard_arena *a = w->arenas[i];
        if (address >= (uintptr_t)a->body && address < (uintptr_t)a->body_end) {
            return a;
        }
    }
    return NULL;
}

static size_t padded(size_t len)
{
    return (len + 7) & ~(size_t)7;
}

/* Rotate and add: a change of any one word changes the sum. @data is in the log: 8-aligned, and
 * its padding is zero. */
static uint64_t record_check(const struct record *r, const uint64_t *data)
{
    uint64_t sum = rguard__secret() ^ (uintptr_t)r ^ (r->address * MIX);
    sum ^= ((uint64_t)r->len << 32 | r->kind) * MIX;
    for (size_t i = 0; i < padded(r->len) / 8; i++) {
        sum = (sum << 13 | sum >> 51) + data[i];
    }
    return sum;
}

static uint32_t *record_offset(const rguard_window *w, uint32_t nth)
{
    return (uint32_t *)(void *)(w->log + w->log_cap) - 1 - nth;
}

bool rguard__log(rguard_window *w, uint32_t kind, const void *p, size_t len)
{
    size_t data = padded(len);
    size_t need = sizeof(struct record) + data + (size_t)(w->n_records + 1) * sizeof(uint32_t);
    if (need > w->log_cap - w->log_used) {
        w->broken = true;
        return false;
    }
    struct record *r = (struct record *)(void *)(w->log + w->log_used);
    uint64_t *to = (uint64_t *)(void *)(r + 1);
    r->address = (uintptr_t)p;
    r->len = (uint32_t)len;
    r->kind = kind;
    if (len > 0) {
        to[data / 8 - 1] = 0;
        memcpy(to, p, len);
    }
    r->check = record_check(r, to);
    *record_offset(w, w->n_records++) = (uint32_t)w->log_used;
    w->log_used += sizeof *r + data;
    w->n_frees += kind == RGUARD__LOG_FREE;
    return true;
}

/* Record @nth, or NULL when it is not what was written. */
static const struct record *record_at(const rguard_window *w, uint32_t nth)
{
    size_t offset = *record_offset(w, nth);
    if (offset % 8 != 0 || offset + sizeof(struct record) > w->log_used) {
        return NULL;
    }
    const struct record *r = (const struct record *)(void *)(w->log + offset);
    if (padded(r->len) > w->log_used - offset - sizeof *r ||
        r->check != record_check(r, (const uint64_t *)(const void *)(r + 1))) {
        return NULL;
    }
    return r;
}

/* Takes one record back. False: it, or the slot it speaks of, is damaged. */
static bool undo_record(const rguard_window *w, const struct record *r)
{
    rguard_arena *a = arena_of(w, r->address);
    struct rguard__slot s;
    if (a == NULL || !rguard__slot_find(a, r->address, &s) || !s.sane) {
        return false;
    }
    if (r->kind == RGUARD__LOG_BYTES) {
        uintptr_t end = r->address + r->len;
        if (r->address < (uintptr_t)s.obj || end > (uintptr_t)s.obj + s.len) {
            return false;
        }
        memcpy((void *)(uintptr_t)r->address, r + 1, r->len);
        return true;
    }
    bool intact = rguard__slot_intact(a, &s, true);
    if (r->kind == RGUARD__LOG_FREE) {
        rguard__count(a, s.len, true, &a->frees, true);
        rguard__slot_mark(a, &s, RGUARD__LIVE);
    } else {
        rguard__count(a, s.len, false, &a->allocs, true);
        rguard__slot_release(a, &s);
    }
    return intact;
}

/* Walks the log back. Stops at the first damage and marks the window broken. */
static void undo(rguard_window *w)
{
    if (RGUARD__IS_OFF(w->off, RGUARD__OFF_UNDO)) {
        return;
    }
    rguard__enter();
    for (uint32_t i = w->n_records; i-- > 0 && !w->broken;) {
        const struct record *r = record_at(w, i);
        if (r == NULL || !undo_record(w, r)) {
            w->broken = true;
        }
    }
    rguard__leave();
}

/* Hands the freed slots back and closes. */
static int commit(rguard_window *w)
{
    rguard__enter();
    uintptr_t bad = 0;
    for (uint32_t i = 0; w->n_frees > 0 && i < w->n_records && bad == 0; i++) {
        const struct record *r = record_at(w, i);
        if (r == NULL) {
            w->broken = true;
            bad = (uintptr_t)w->log;
        } else if (r->kind == RGUARD__LOG_FREE) {
            rguard_arena *a = arena_of(w, r->address);
            struct rguard__slot s;
            if (a == NULL || !rguard__slot_find(a, r->address, &s) ||
                !rguard__slot_intact(a, &s, false)) {
                bad = r->address;
                continue;
            }
            rguard__slot_release(a, &s);
            w->n_frees--;
        }
    }
    rguard__leave();
    if (__builtin_expect(bad != 0, 0)) {
        bool in_log = w->broken && bad == (uintptr_t)w->log;
        w->broken = true; /* some slots have been handed back already */
        return found(w, in_log ? RGUARD_V_UNDO : RGUARD_V_CANARY, arena_of(w, bad), bad);
    }
    close_window(w);
    return 0;
}

/* ---- after a violation ----------------------------------------------------------------------- */

static bool pages_intact(const rguard_arena *a, uintptr_t address, size_t len, size_t around)
{
    size_t first = (address - (uintptr_t)a->body) >> rguard__page_shift;
    size_t last = (address + (len > 0 ? len - 1 : 0) - (uintptr_t)a->body) >> rguard__page_shift;
    struct rguard__slot bad;
    return rguard__slots_check(a, first > around ? first - around : 0, last + around, &bad);
}

/* Slots on every page the window touched and around the faulting address, and the magic words. */
static bool surroundings_intact(const rguard_window *w)
{
    if (fast_check(w) != NULL) {
        return false;
    }
    const rguard_arena *hit = arena_of(w, w->hit.address);
    if (hit != NULL && !pages_intact(hit, w->hit.address, 1, 1)) {
        return false;
    }
    for (uint32_t i = 0; i < w->n_records; i++) {
        const struct record *r = record_at(w, i);
        const rguard_arena *a = r == NULL ? NULL : arena_of(w, r->address);
        if (a == NULL || !pages_intact(a, r->address, r->len, 0)) {
            return false;
        }
    }
    return true;
}

/* Undoes, verifies, gives the record its final class, closes the window. */
static int settle(rguard_window *w)
{
    struct rguard_violation *v = &w->hit;
    if (!w->broken) {
        undo(w);
    }
    rguard__enter();
    if (w->broken || !surroundings_intact(w)) {
        v->class_ = RGUARD_CLASS_IMPRECISE;
    }
    rguard__leave();
    if (w->bad_term != w->term || w->bad_index != w->index) {
        w->bad_count = 0;
    }
    v->repeat = w->bad_count++;
    w->bad_term = w->term;
    w->bad_index = w->index;
    rguard__record(v);
    if (w->out != NULL) {
        *w->out = *v;
    }
    close_window(w);
    return RGUARD_EVIOLATION;
}

/* ---- called by the body ---------------------------------------------------------------------- */

int rguard_touch(void *p, size_t len)
{
    rguard_window *w = rguard__thread.window;
    if (w == NULL || len == 0) {
        return 0;
    }
    rguard__enter();
    struct rguard__slot s;
    const rguard_arena *a = arena_of(w, (uintptr_t)p);
    int rv = 0;
    if (a == NULL || !rguard__slot_find(a, (uintptr_t)p, &s) || !s.sane ||
        s.state != RGUARD__LIVE || (uint8_t *)p < s.obj ||
        len > (size_t)(s.obj + s.len - (uint8_t *)p) || (uint8_t *)p >= s.obj + s.len) {
        w->broken = true;
        rv = -EFAULT;
    } else if (!w->broken) {
        (void)rguard__log(w, RGUARD__LOG_BYTES, p, len);
    }
    rguard__leave();
    return rv;
}

/* Kinds that stopped the bad thing before it happened. */
static bool stopped_in_time(uint32_t kind)
{
    return kind == RGUARD_V_DOUBLE_FREE || kind == RGUARD_V_WRONG_ARENA ||
           kind == RGUARD_V_ENVELOPE || kind == RGUARD_V_INJECTED || kind == RGUARD_V_SELFTEST;
}

__attribute__((noreturn)) static void raise_violation(rguard_window *w, uint32_t kind,
                                                      const rguard_arena *a, uintptr_t address,
                                                      uintptr_t pc)
{
    rguard__violation_init(&w->hit, kind,
                           stopped_in_time(kind) ? RGUARD_CLASS_PRECISE : RGUARD_CLASS_IMPRECISE, a,
                           address, pc);
    w->mode = RGUARD__BRACKET; /* a fault in a hook must not land here */
    rguard__detected(&w->hit);
    _longjmp(w->env, 1);
}

int rguard__refuse(const rguard_arena *a, int err, uintptr_t address, uintptr_t pc)
{
    uint32_t kind = err == RGUARD_EDOUBLEFREE   ? RGUARD_V_DOUBLE_FREE
                    : err == RGUARD_EWRONGARENA ? RGUARD_V_WRONG_ARENA
                                                : RGUARD_V_CANARY;
    rguard_window *w = rguard__thread.window;
    if (w != NULL && w->mode == RGUARD__RUNNING) {
        raise_violation(w, kind, a, address, pc);
    }
    struct rguard_violation v;
    uint32_t class_ = stopped_in_time(kind) ? RGUARD_CLASS_PRECISE : RGUARD_CLASS_IMPRECISE;
    rguard__violation_init(&v, kind, class_, a, address, pc);
    rguard__detected(&v);
    rguard__record(&v);
    return err;
}

int rguard_window_raise(uint32_t kind)
{
    rguard_window *w = rguard__thread.window;
    if (w == NULL || w->mode != RGUARD__RUNNING) {
        return RGUARD_ESTATE;
    }
    raise_violation(w, kind, NULL, 0, (uintptr_t)__builtin_return_address(0));
}
