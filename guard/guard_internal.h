/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_GUARD_INTERNAL_H
#define RGUARD_GUARD_INTERNAL_H

/* What the files of guard/ share. The layers, each calling only downwards:
 *
 *     window.c    windows, undo log, landing            trap.c   signal handler, hooks, ring
 *     arena.c     arenas, rguard_alloc, rguard_free     violation.c, probe.c, rguard-doctor.c
 *     slots.c     packed and guarded slots
 *     map.c       guard pages, control mappings, the secret
 */
#include <raftguard/guard.h>
#include <raftguard/testing.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define RGUARD__ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RGUARD__ASAN 1
#endif
#endif
#ifndef RGUARD__ASAN
#define RGUARD__ASAN 0
#endif

/* Under ASan everything in an arena but live objects is poisoned, so that a bad store is reported
 * before it happens. Our own looks at canaries, slack and magic words go through functions marked
 * RGUARD__RAW and through the rguard__raw_* helpers, which ASan neither instruments nor intercepts.
 */
#if RGUARD__ASAN
#include <sanitizer/asan_interface.h>
#define RGUARD__RAW              __attribute__((no_sanitize("address")))
#define rguard__poison(p, len)   __asan_poison_memory_region(p, len)
#define rguard__unpoison(p, len) __asan_unpoison_memory_region(p, len)
#else
#define RGUARD__RAW
#define rguard__poison(p, len)   ((void)(p), (void)(len))
#define rguard__unpoison(p, len) ((void)(p), (void)(len))
#endif

/* ---- map.c ----------------------------------------------------------------------------------- */

extern size_t rguard__page;         /* bytes of a page; valid after rguard__base_init() */
extern unsigned rguard__page_shift; /* its binary logarithm */
extern bool rguard__madv_guard;     /* MADV_GUARD_INSTALL works and was not forbidden */
extern const uint64_t *rguard__secret_page;

/* Page size, kernel probe, secret; once per process. 0 or -errno. */
int rguard__base_init(void);

/* True when RGUARD_FORCE, a comma-separated list, names @what. */
bool rguard__forced(const char *what);

/* Anonymous, uncommitted memory; its first byte at a multiple of @align. NULL when there is none.
 */
void *rguard__reserve(size_t bytes, size_t align, size_t lead);

/* Makes whole pages inaccessible, or accessible and zero again. 0 or -errno. */
int rguard__guard_set(void *p, size_t len);
int rguard__guard_clear(void *p, size_t len);

/* Zeroed memory between two guard pages of its own: where everything lives that no engine may
 * reach. @bytes is rounded up to pages. NULL when there is none. */
void *rguard__control_map(size_t bytes);
void rguard__control_unmap(void *p, size_t bytes);

static inline uint64_t rguard__secret(void)
{
    return *rguard__secret_page;
}

#if RGUARD__ASAN
void rguard__raw_copy(void *to, const void *from, size_t len);
void rguard__raw_fill(void *p, uint8_t byte, size_t len);
bool rguard__raw_is(const void *p, uint8_t byte, size_t len);
#else
static inline void rguard__raw_copy(void *to, const void *from, size_t len)
{
    memcpy(to, from, len);
}
static inline void rguard__raw_fill(void *p, uint8_t byte, size_t len)
{
    memset(p, byte, len);
}
static inline bool rguard__raw_is(const void *p, uint8_t byte, size_t len)
{
    const uint8_t *b = p;
    return len == 0 || (b[0] == byte && memcmp(b, b + 1, len - 1) == 0);
}
#endif

/* ---- switches of test builds ----------------------------------------------------------------- */

enum rguard__off {
    RGUARD__OFF_GUARDS = 1,
    RGUARD__OFF_MAGIC = 2,
    RGUARD__OFF_CANARY = 4,
    RGUARD__OFF_DOUBLE_FREE = 8,
    RGUARD__OFF_TRAP = 16,
    RGUARD__OFF_UNDO = 32
};

/* Read from the environment when an arena, a window or the trap is made, never on a hot path. */
#ifdef RGUARD_TESTING
uint32_t rguard__off_flags(void);
#define RGUARD__IS_OFF(flags, bit) (((flags) & (bit)) != 0)
#else
#define rguard__off_flags()        0u
#define RGUARD__IS_OFF(flags, bit) ((void)(flags), 0)
#endif

/* ---- arenas and slots ------------------------------------------------------------------------ */

#define RGUARD__ARENAS          256u
#define RGUARD__SLOT_MAX        ((size_t)16 << 20)
#define RGUARD__PACKED_CLASSES  78u
#define RGUARD__GUARDED_CLASSES 13u
#define RGUARD__BODY_MAX        ((size_t)1 << 40)

/* States of a slot; odd constants, so that a damaged byte is none of them. */
enum rguard__state { RGUARD__FREE = 0xf1, RGUARD__LIVE = 0xa7, RGUARD__DYING = 0xd5 };

/* What the allocator knows about one page of a body. Out of line, where no overrun reaches it. A
 * span is a run of pages that holds slots of one class; all but `first` is kept in the record of
 * its first page. */
struct rguard__page
{
    uint32_t first;  /* first page of the span + 1; 0: page not in use */
    uint32_t pages;  /* of the span, guard included */
    uint32_t next;   /* guarded: first page of the next free slot + 1 */
    uint32_t len;    /* guarded: object's length (the last one, while it is free) */
    uint16_t carved; /* packed: slots made so far */
    uint8_t class_;
    uint8_t state; /* guarded */
};

struct rguard__packed_class
{
    uint8_t *free; /* header of the first free slot */
    uint8_t *next; /* where the next slot is carved */
    uint8_t *end;  /* of the span being carved */
    uint32_t page; /* first page of that span */
};

struct rguard_arena
{
    uint8_t *body;
    uint8_t *body_end;
    const uint64_t *header_word; /* last word of the header page */
    const uint64_t *footer_word; /* first word of the footer page */
    rguard_window *window;       /* the open window this arena belongs to, or NULL */
    struct rguard__page *pages;
    uint32_t n_pages, used_pages;
    uint32_t off;
    uint32_t id;
    int slots;
    char name[24];
    uint8_t *map; /* guards included */
    size_t map_bytes, control_bytes;
    uint64_t live_slots, live_bytes, allocs, frees, refused_frees;
    struct rguard__packed_class packed[RGUARD__PACKED_CLASSES];
    uint32_t guarded_free[RGUARD__GUARDED_CLASSES]; /* first page + 1 */
};

/* Lock-free: an entry is published by one release store and read by the fault handler. */
extern rguard_arena **rguard__arena_table;

#define RGUARD__HEADER_MAGIC 0x5247484541444552u
#define RGUARD__FOOTER_MAGIC 0x5247464f4f544552u

/* The two words that touch the body: two loads and two compares. */
RGUARD__RAW static inline bool rguard__arena_fast(const rguard_arena *a)
{
    uint64_t key = rguard__secret();
    return *a->header_word == (key ^ (uintptr_t)a->header_word ^ RGUARD__HEADER_MAGIC) &&
           *a->footer_word == (key ^ ~(uintptr_t)a->footer_word ^ RGUARD__FOOTER_MAGIC);
}

/* A slot as seen from outside. */
struct rguard__slot
{
    uint8_t *base; /* first byte of the room */
    uint8_t *end;  /* end of the room, guard page excluded */
    uint8_t *obj;
    size_t len;
    uint32_t page; /* first page of its span */
    uint8_t class_;
    uint8_t state; /* enum rguard__state */
    bool sane;     /* packed: the header passed its check; false: obj, len and state mean nothing */
};

/* The slot whose room (or guard page) contains @addr; false when none was made there. */
bool rguard__slot_find(const rguard_arena *a, uintptr_t addr, struct rguard__slot *s);

/* Canaries and link words; @full: the whole slack pattern, not only what is next to the object. */
bool rguard__slot_intact(const rguard_arena *a, const struct rguard__slot *s, bool full);

/* Takes a slot for @len bytes: 0, RGUARD_EARENAFULL, -ENOMEM, or RGUARD_ECANARY with the damaged
 * free slot's address in *obj. */
int rguard__slot_take(rguard_arena *a, size_t len, void **obj);
void rguard__slot_mark(rguard_arena *a, struct rguard__slot *s, uint8_t state);
void rguard__slot_release(rguard_arena *a, struct rguard__slot *s);

/* Verifies every slot on pages [first, last]. True when all are intact, else @bad is the first. */
bool rguard__slots_check(const rguard_arena *a, size_t first, size_t last,
                         struct rguard__slot *bad);

/* Counts one slot in or out; @allocs or @frees moves with it and back with an undo. */
static inline void rguard__count(rguard_arena *a, size_t len, bool in, uint64_t *counter, bool undo)
{
    a->live_slots += in ? 1 : (uint64_t)-1;
    a->live_bytes += in ? len : (uint64_t)0 - len;
    *counter += undo ? (uint64_t)-1 : 1;
}

/* Fills kind, class, arena, offsets of a record made outside the handler. */
void rguard__violation_init(struct rguard_violation *v, uint32_t kind, uint32_t class_,
                            const rguard_arena *a, uintptr_t address, uintptr_t pc);

/* Reports a refused operation on @a. Inside a running window it does not return. */
int rguard__refuse(const rguard_arena *a, int err, uintptr_t address, uintptr_t pc);

/* ---- windows --------------------------------------------------------------------------------- */

enum rguard__mode { RGUARD__CLOSED = 0, RGUARD__BRACKET = 1, RGUARD__RUNNING = 2 };
enum rguard__log_kind { RGUARD__LOG_BYTES = 1, RGUARD__LOG_ALLOC = 2, RGUARD__LOG_FREE = 3 };

struct rguard_window
{
    uint64_t canary_low;
    jmp_buf env;
    volatile uint32_t mode;
    uint32_t off;
    uint64_t term, index;
    uint64_t bad_term, bad_index; /* entry of the last violation */
    uint32_t bad_count;
    uint32_t n_arenas;
    uint8_t *log; /* records grow upwards, their offsets (uint32_t) downwards from the end */
    size_t log_cap, log_used;
    uint32_t n_records, n_frees;
    bool broken;                  /* something was not logged: cannot be undone */
    struct rguard_violation *out; /* the caller's */
    struct rguard_violation hit;  /* filled by the handler or by the thread that raised */
    rguard_arena *arenas[RGUARD__ARENAS];
    uint64_t canary_high;
};

/* Appends to the undo log of @w; false when it is full, and the window can then not be undone. */
bool rguard__log(rguard_window *w, uint32_t kind, const void *p, size_t len);

/* ---- trap.c ---------------------------------------------------------------------------------- */

struct rguard__thread
{
    rguard_window *volatile window; /* open on this thread, or NULL */
    volatile uint32_t in_library;   /* > 0: our own code is running; never left by _longjmp */
    volatile uint32_t handling;     /* in the fault handler */
    volatile uint32_t private_;     /* self-test: no hooks, no records */
    uintptr_t chained_at;           /* stack pointer while a previous handler runs */
    uint8_t *alt_lo, *alt_hi;       /* alternate stack */
    stack_t alt_before;             /* what the thread had before */
    bool ready;
};

/* initial-exec: the handler must not call __tls_get_addr, which may allocate. */
extern __thread struct rguard__thread rguard__thread __attribute__((tls_model("initial-exec")));

static inline void rguard__enter(void)
{
    rguard__thread.in_library++;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

static inline void rguard__leave(void)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    rguard__thread.in_library--;
}

extern bool rguard__trap_installed;

/* True when the program runs with keep_signals. */
bool rguard__trap_declined(void);

/* Gives the calling thread an alternate signal stack. 0 or -errno. */
int rguard__thread_init(void);

/* True when SIGSEGV can be made ours (ASan's handle_segv=2 silently refuses). */
bool rguard__owns_segv(void);

/* Trace and hooks: at once. */
void rguard__detected(const struct rguard_violation *v);
/* The ring: when the class is final. */
void rguard__record(const struct rguard_violation *v);
/* Both, the crash file, and the end of the process. */
__attribute__((noreturn)) void rguard__die(struct rguard_violation *v);

/* The crash file: one of these. */
#define RGUARD__CRASH_MAGIC 0x3148534152434752u /* "RGCRASH1" */
struct rguard__crash
{
    uint64_t magic;
    uint32_t version; /* 1 */
    uint32_t size;
    struct rguard_violation v;
    uint32_t crc; /* CRC32C of everything before it */
    uint32_t reserved;
};

#define RGUARD__RING 64u
struct rguard__ring_cell
{
    uint64_t seq; /* 1 + number of the record; 0 while it is being written */
    struct rguard_violation v;
};
struct rguard__ring
{
    uint64_t head, tail, lost;
    struct rguard__ring_cell cells[RGUARD__RING];
};
extern struct rguard__ring rguard__ring;

#endif
