/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_GUARD_H
#define RGUARD_GUARD_H

#include <raftguard/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* guard: arenas that know when they are hurt, and windows that can be rolled back.
 *
 * An arena is one mapping:
 *
 *     [guard 64 KiB][header page: magic words][body ...][footer page: magic words][guard 64 KiB]
 *
 * A slot is a piece of the body handed out by rguard_alloc():
 *
 *     packed    [header canary | state | length][object][trailer canary]        neighbours touch
 *     guarded   [slack pattern ... object][guard page]     the object ends flush against its guard
 *
 * A window brackets one apply. While it is open, writes that were declared with rguard_touch() can
 * be undone; a store that hits a guard, or a free that is refused, ends it at once.
 *
 * WHAT CODE INSIDE A WINDOW MAY DO: read and write arena memory, call rguard_touch(),
 * rguard_alloc(), rguard_free(), and compute. It may not call malloc, take locks, do I/O, or be
 * entered through C++ frames that need unwinding: a violation leaves it by _longjmp, and what such
 * code holds would be held for ever. An engine that must do those things returns RGUARD_ENOTSUP
 * semantics by not opting in to REWIND (see raftlog.h), and is restarted instead.
 *
 * WHAT IS NOT DETECTED: a wild store that lands in a live object; a stride that jumps over a guard
 * or a canary; an underrun of a guarded slot that stays inside its slack (found at free when it hit
 * the last 128 bytes before the object, by a FULL check within a page of it); a read of anything
 * that is mapped; a store through a stale pointer into a free slot beyond its first 16 bytes (those
 * are verified when it is handed out), or into one that was handed out again; a write that was not
 * declared with rguard_touch(): it survives an abort.
 *
 * KERNEL WRITES: read(2) or io_uring into a guard page raises no signal; it returns EFAULT or a
 * short count. Treat either as a violation.
 *
 * THREADS: different threads may use different arenas and windows at the same time. One arena, and
 * one window, is for one thread at a time; a window that is opened while another one holds one of
 * its arenas is refused (RGUARD_ESTATE). Guard pages act on all threads.
 *
 * FORK: a child inherits arenas, windows and the trap, and may go on using them.
 *
 * AddressSanitizer builds (make VARIANT=asan): everything in an arena but live objects, guard pages
 * included, is poisoned by hand, so that an instrumented bad store is reported by ASan itself, with
 * its stacks, before it happens, and ends the process. Faults are never landed in such a build: the
 * record is written and the signal is handed to ASan. Checks, refused frees, raises and undo work
 * as elsewhere. rguard_guard_selftest() answers RGUARD_ENOTSUP. */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rguard_arena rguard_arena;
typedef struct rguard_window rguard_window;

/* ---- violations ------------------------------------------------------------------------------ */

#define RGUARD_VIOLATION_KINDS(X)                                                           \
    X(RGUARD_V_NONE, 0, "none")                                                             \
    X(RGUARD_V_GUARD_LOW, 1, "guard_low")   /* guard page before an arena */                \
    X(RGUARD_V_GUARD_HIGH, 2, "guard_high") /* guard page after an arena */                 \
    X(RGUARD_V_SLOT_GUARD, 3, "slot_guard") /* guard page of a guarded slot */              \
    X(RGUARD_V_MAGIC, 4, "magic")           /* magic word of an arena */                    \
    X(RGUARD_V_CANARY, 5, "canary")         /* canary or slack pattern of a slot */         \
    X(RGUARD_V_DOUBLE_FREE, 6, "double_free")                                               \
    X(RGUARD_V_WRONG_ARENA, 7, "wrong_arena") /* free of an address that is no live slot */ \
    X(RGUARD_V_WILD, 8, "wild")               /* fault at an address no arena owns */       \
    X(RGUARD_V_SIGNAL, 9, "signal")           /* SIGILL, SIGFPE, SIGABRT */                 \
    X(RGUARD_V_ENVELOPE, 10, "envelope")      /* command's checksum failed at apply */      \
    X(RGUARD_V_INJECTED, 11, "injected")      /* failpoint raftlog/rollback or reelect */   \
    X(RGUARD_V_UNDO, 12, "undo")              /* undo log itself is damaged */              \
    X(RGUARD_V_DIGEST, 13, "digest")          /* content differs from the quorum's */       \
    X(RGUARD_V_SELFTEST, 14, "selftest")      /* rguard_guard_selftest() */

enum rguard_violation_kind {
#define RGUARD_VIOLATION_ENUM(name, value, text) name = value,
    RGUARD_VIOLATION_KINDS(RGUARD_VIOLATION_ENUM)
#undef RGUARD_VIOLATION_ENUM
};

/* What a detection entitles the caller to. PRECISE: the store was stopped before it landed and the
 * window has been undone and checked; the state is the one before the window. IMPRECISE: something
 * was damaged at some earlier moment; only a verified image, the log or a peer can be trusted.
 * FATAL: outside any window, or in code that cannot be left; the process must end. */
enum rguard_violation_class {
    RGUARD_CLASS_NONE = 0,
    RGUARD_CLASS_PRECISE = 1,
    RGUARD_CLASS_IMPRECISE = 2,
    RGUARD_CLASS_LOG = 3,
    RGUARD_CLASS_DIVERGED = 4,
    RGUARD_CLASS_FATAL = 5
};

enum rguard_access { RGUARD_ACCESS_UNKNOWN = 0, RGUARD_ACCESS_READ = 1, RGUARD_ACCESS_WRITE = 2 };

#define RGUARD_VIOLATION_FRAMES 16

/* One violation, fixed size, filled in the signal handler without allocation. */
struct rguard_violation
{
    uint32_t kind;       /* enum rguard_violation_kind */
    uint32_t class_;     /* enum rguard_violation_class, final after the checks of the abort */
    uint32_t access;     /* enum rguard_access */
    uint32_t arena_id;   /* 0 when no arena owns the address */
    char arena[24];      /* its name, NUL-terminated */
    int64_t offset;      /* of the address, from the start of the arena's body */
    int64_t slot_offset; /* of the address, from the end of the nearest slot's object; 0 = first
                            byte past */
    uint64_t address;    /* faulting address, or the slot for a refused free */
    uint64_t pc;         /* program counter of the store or of the caller of rguard_free() */
    int32_t signo;       /* 0 when found by a check */
    int32_t si_code;
    uint64_t term, index;  /* entry being applied, 0 outside a window */
    uint64_t monotonic_ns; /* when it was detected */
    uint32_t tid;
    uint32_t repeat; /* violations before this one on the same (term, index) */
    uint32_t n_frames;
    uint32_t reserved;
    uint64_t frames[RGUARD_VIOLATION_FRAMES]; /* return addresses, innermost first */
};

/* "slot_guard", "precise", ...; "?" when unknown. Static strings. */
RGUARD_API const char *rguard_violation_kind_name(uint32_t kind);
RGUARD_API const char *rguard_violation_class_name(uint32_t class_);

/* One line without newline, e.g.
 *   violation=slot_guard class=precise arena=kv.values offset=8192 past_end=0 access=write
 *   address=0x7f.. pc=0x55.. term=3 index=4711 tid=99
 * or one JSON object. Both return the length that was needed (as snprintf), negative on bad input.
 */
RGUARD_API int rguard_violation_text(const struct rguard_violation *v, char *buf, size_t cap);
RGUARD_API int rguard_violation_json(const struct rguard_violation *v, char *buf, size_t cap);

/* Takes the oldest record from the process-wide ring of 64. Returns 1 and fills @out, or 0 when the
 * ring is empty. *lost (may be NULL) is set to the number of records that were overwritten before
 * they were taken, since the process began. Any thread, not from a handler. */
RGUARD_API int rguard_violation_next(struct rguard_violation *out, uint64_t *lost);

/* Reads the fatal record that an earlier process left in its crash file. 0, -errno, or
 * RGUARD_ECHECKSUM when the file is none, or incomplete. */
RGUARD_API int rguard_crash_read(const char *path, struct rguard_violation *out);

/* ---- process --------------------------------------------------------------------------------- */

/* Called from the signal handler (async-signal-safe code only: no malloc, no stdio, no locks) or,
 * for refused frees and failed checks, from the thread that found it. @v->class_ is FATAL when the
 * process is about to die and otherwise still provisional. */
typedef void (*rguard_violation_hook)(void *user, const struct rguard_violation *v);

struct rguard_guard_options
{
    size_t size;            /* sizeof(struct rguard_guard_options) */
    bool keep_signals;      /* true: install no handlers; windows then cannot trap */
    const char *crash_file; /* NULL, or a path where a fatal record is written with write(2) */
};

/* Installs the trap: SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGABRT on an alternate stack, chained to
 * whatever handler was there (also when it is installed with SIG_DFL: then a fatal fault re-raises
 * with the default action and dumps core as it would have). A fault outside a running window is
 * recorded as FATAL before the previous handler is called: a program whose own handler repairs
 * faults and returns (a JVM, a Go runtime) sets keep_signals. Reference-counted; a later crash_file
 * replaces an earlier one.
 * Returns 0, -errno, or RGUARD_ENOTSUP when another runtime keeps the signals (ASan with
 * handle_segv=2). Not thread-safe against itself. @options may be NULL. */
RGUARD_API int rguard_guard_init(const struct rguard_guard_options *options);

/* Undoes one rguard_guard_init(); the last one restores the previous handlers. */
RGUARD_API void rguard_guard_fini(void);

/* Registers a hook that sees every violation of the process, also the fatal ones outside windows:
 * this is where a leader's last message is sent from. At most 8; RGUARD_EBUSY beyond. */
RGUARD_API int rguard_guard_hook_add(rguard_violation_hook hook, void *user);
RGUARD_API void rguard_guard_hook_remove(rguard_violation_hook hook, void *user);

/* What this kernel offers, found by trying it, never by version. */
struct rguard_guard_caps
{
    size_t size;
    bool madv_guard;     /* MADV_GUARD_INSTALL: guards without extra mappings */
    bool huge_pages;     /* MADV_HUGEPAGE accepted */
    bool userfaultfd_wp; /* audit will be possible */
    bool pagemap_scan;
    bool pkeys;    /* optional; never counts as missing */
    bool own_segv; /* SIGSEGV really reaches us */
    const char *crc32c;
};
RGUARD_API int rguard_guard_caps(struct rguard_guard_caps *caps);

/* Makes a real fault: a store into the guard page of a scratch arena inside a real window. 0 when
 * it was trapped, attributed and rolled back; otherwise which step failed is in @why (static
 * string): RGUARD_ENOTSUP where the signal is not ours (keep_signals, ASan), RGUARD_ESTATE when the
 * trap failed or a window is open. Private: hooks, ring and trace do not see it. */
RGUARD_API int rguard_guard_selftest(const char **why);

/* ---- arenas ---------------------------------------------------------------------------------- */

enum rguard_slot_kind { RGUARD_SLOTS_PACKED = 0, RGUARD_SLOTS_GUARDED = 1 };

struct rguard_arena_options
{
    size_t size;      /* sizeof(struct rguard_arena_options) */
    const char *name; /* copied, at most 23 bytes; shown in records */
    size_t bytes;     /* body size in bytes, rounded up to a page; address space, not memory:
                       * pages are committed when they are touched */
    int slots;        /* enum rguard_slot_kind */
};

/* Maps an arena. 0, -ENOMEM, -EINVAL, RGUARD_ESTATE inside a window, RGUARD_EBUSY when the process
 * has 256 already. Owner: the caller, until destroy. One thread at a time may use an arena. */
RGUARD_API int rguard_arena_create(const struct rguard_arena_options *options, rguard_arena **out);

/* Unmaps it; every pointer into it dies. Not inside a window, and after the windows that were
 * created over it. NULL is allowed. */
RGUARD_API void rguard_arena_destroy(rguard_arena *a);

/* Frees every slot and returns the arena to the state after create, contents discarded, magic words
 * rewritten. For restore and rollback. RGUARD_ESTATE inside a window. Cost: returns the used pages
 * to the kernel, ~1 ms per 64 MiB. */
RGUARD_API int rguard_arena_reset(rguard_arena *a);

/* Hands out a slot of @len bytes (1 .. 16 MiB), aligned to 16 (packed), or such that its last byte
 * touches the guard page (guarded: aligned to the largest power of two, at most 16, that divides
 * @len). Contents are unspecified. Inside a window it is undone by an abort. RGUARD_EARENAFULL,
 * RGUARD_ETOOBIG, -EINVAL, -ENOMEM (no mapping for another guard), or RGUARD_ECANARY when the free
 * slot about to be handed out was damaged; inside a running window that is a violation and does not
 * return. Cost of alloc and free together: packed ~25 ns, guarded ~40 ns for a recycled slot, ~4 us
 * for a new one. */
RGUARD_API int rguard_alloc(rguard_arena *a, size_t len, void **out);

/* Takes a slot back. Inside a window the slot is handed out again only after commit, and an abort
 * brings it back with its contents.
 *
 * A slot that is already free, an address that is no slot of this arena, or a slot whose canary was
 * overwritten: outside a window RGUARD_EDOUBLEFREE, RGUARD_EWRONGARENA or RGUARD_ECANARY is
 * returned and nothing changes; inside a running window the free does not return: it is a violation
 * and rguard_window_run() reports it. Either way there is a record. NULL does nothing. */
RGUARD_API int rguard_free(rguard_arena *a, void *p);

/* Length that was asked for, 0 when @p is no live slot of @a. */
RGUARD_API size_t rguard_slot_len(const rguard_arena *a, const void *p);

/* Verifies the arena: FAST the two magic words next to the body (~4 ns), FULL all of them and every
 * slot's canary and slack pattern. 0 or RGUARD_ECANARY with @out (may be NULL) filled; the damage
 * is recorded like any violation, but does not end a window. */
enum rguard_check_depth { RGUARD_CHECK_FAST = 0, RGUARD_CHECK_FULL = 1 };
RGUARD_API int rguard_check(const rguard_arena *a, int depth, struct rguard_violation *out);

struct rguard_arena_stats
{
    size_t size;
    uint64_t live_slots, live_bytes; /* handed out now */
    uint64_t body_bytes;             /* address space of the body */
    uint64_t used_bytes;             /* high-water mark inside it */
    uint64_t allocs, frees, refused_frees;
};
RGUARD_API int rguard_arena_stats(const rguard_arena *a, struct rguard_arena_stats *stats);

/* ---- windows --------------------------------------------------------------------------------- */

struct rguard_window_options
{
    size_t size;           /* sizeof(struct rguard_window_options) */
    rguard_arena **arenas; /* copied; checked before and after every run */
    size_t n_arenas;       /* 1 .. 256 */
    size_t undo_bytes;     /* capacity of the undo log; 0 = 1 MiB. A window that declares more can
                            * still commit, but a violation in it is IMPRECISE */
};

/* 0, -EINVAL, -ENOMEM. @arenas must outlive the window. Everything a window will ever need is
 * mapped here. Destroy: not while it is open; NULL is allowed. */
RGUARD_API int rguard_window_create(const struct rguard_window_options *options,
                                    rguard_window **out);
RGUARD_API void rguard_window_destroy(rguard_window *w);

/* Runs @body(@user) inside the window, on this thread:
 *
 *   1. magic words of all arenas are checked; damage is a violation and body does not run;
 *   2. body runs; a trapped store, a refused free or a wild fault inside it ends it at once;
 *   3. body returned 0: checks again, commits, returns 0;
 *      body returned r != 0: the window is undone, returns r;
 *      violation: the window is undone, the slots on every touched page and the undo log are
 *      verified; @v is filled with its final class; returns RGUARD_EVIOLATION.
 *
 * PRECISE means: everything the arenas held before the call is back. Any other class means that the
 * arenas must not be trusted. A window whose undo log overflowed, or in which rguard_touch()
 * answered -EFAULT, cannot be undone: nothing is, and r != 0 becomes a violation of kind UNDO.
 * @term and @index name the entry being applied and go into the record. One window per thread at a
 * time (RGUARD_ESTATE otherwise). About 100 ns without violations. The first call on a thread gives
 * it an alternate signal stack. */
RGUARD_API int rguard_window_run(rguard_window *w, uint64_t term, uint64_t index,
                                 int (*body)(void *user), void *user, struct rguard_violation *v);

/* The same bracket without the trap, for code that cannot be left by _longjmp: a fault inside it is
 * FATAL, a refused free is returned. begin checks, commit checks and keeps, abort undoes; each of
 * them returns RGUARD_EVIOLATION, with the window closed, when its check fails (begin's and abort's
 * record is in the ring). RGUARD_ESTATE when the calls do not pair up. */
RGUARD_API int rguard_window_begin(rguard_window *w, uint64_t term, uint64_t index);
RGUARD_API int rguard_window_commit(rguard_window *w, struct rguard_violation *v);
RGUARD_API int rguard_window_abort(rguard_window *w);

/* Declares that @len bytes at @p are about to be written: their present contents go to the undo log
 * of the window that is open on this thread. Without an open window it does nothing. The range must
 * lie inside one live slot of one of the window's arenas: otherwise -EFAULT, and the window becomes
 * one that cannot be undone. Slots that were allocated in this window need no declaration. ~15 ns.
 */
RGUARD_API int rguard_touch(void *p, size_t len);

/* Ends the window running on this thread as a violation of @kind (the envelope check and the
 * injected rollback use it). Does not return when a window is running (rguard_window_run);
 * RGUARD_ESTATE otherwise. ENVELOPE, INJECTED, DOUBLE_FREE, WRONG_ARENA are PRECISE when nothing
 * else is damaged, other kinds IMPRECISE. */
RGUARD_API int rguard_window_raise(uint32_t kind);

#ifdef __cplusplus
}
#endif
#endif
