/* SPDX-License-Identifier: Apache-2.0 */
/* What happens at a site whose hot byte is set.
 *
 *     site --program--> point --program--> fp_program          (what is armed now)
 *                         |----retired---> fp_program ...      (somebody may still be inside)
 *
 * Invariants
 *   - A program never changes after it was published, but for its counters; arming again makes a
 *     new one. A point is never freed.
 *   - A thread is counted in point->users from before it loads point->program until it is done with
 *     it. Both sides are sequentially consistent, so a swapper that sees users == 0 after its swap
 *     knows that nobody is, or will be, inside a program that was retired.
 *   - Whether a hit fires is a pure function of (seed, node, name, ordinal): the ordinal is the
 *     number of the hit since the program was armed, whichever thread it is. Counts N* are claimed
 *     by compare and swap: N threads never make it N + 1.
 *   - No lock is held and errno is kept; nothing is allocated. What ends the process (panic, abort,
 *     kill) is done after the program has been left, because a SIGABRT handler may jump away. */
#include "failpoint_internal.h"

#ifndef RGUARD_NO_FAILPOINTS

#include <raftguard/trace.h>

#include <errno.h>
#include <linux/futex.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct fp_program
{
    struct fp_program *retired;
    uint64_t key;
    uint32_t nterms;
    char *text;                    /* as it was written, NUL at its end */
    _Alignas(64) uint64_t ordinal; /* atomic: hits so far */
    uint32_t revoked;              /* futex: 1 once another program took over */
    uint64_t left[FP_MAX_TERMS];   /* atomic: firings left where the term has a count */
    struct fp_term terms[];
};

struct decision
{
    const struct fp_term *term; /* NULL: nothing fired */
    uint64_t ordinal;
    uint64_t draw; /* what else the action needs to choose, it chooses from this */
};

/* Non-zero while this thread is inside a site, or for good in our own thread. Initial-exec: a site
 * may be reached in a signal handler, where the first use of a lazy TLS block would allocate. */
static _Thread_local int depth __attribute__((tls_model("initial-exec")));

static struct decision decide(struct fp_program *program);
static struct rguard_fp_hit fire(struct fp_point *point, struct fp_program *program,
                                 const struct decision *d);
static void end_process(uint32_t action);

__attribute__((cold, noinline)) struct rguard_fp_hit rguard_fp_eval(struct rguard_fp_site *site)
{
    struct rguard_fp_hit hit = {0, 0, 0};
    struct fp_point *point = __atomic_load_n((struct fp_point **)&site->program, __ATOMIC_ACQUIRE);
    if (point == NULL || depth != 0) {
        return hit;
    }
    int saved = errno;
    depth++;
    __atomic_add_fetch(&point->users, 1, __ATOMIC_SEQ_CST);
    struct fp_program *program = __atomic_load_n(&point->program, __ATOMIC_SEQ_CST);
    if (program != NULL) {
        struct decision d = decide(program);
        if (d.term != NULL) {
            hit = fire(point, program, &d);
        }
    }
    __atomic_sub_fetch(&point->users, 1, __ATOMIC_SEQ_CST);
    depth--;
    if (hit.action == RGUARD_FP_PANIC || hit.action == RGUARD_FP_ABORT ||
        hit.action == RGUARD_FP_KILL) {
        end_process(hit.action);
    }
    errno = saved;
    return hit;
}

/* ---- deciding -------------------------------------------------------------------------------- */

/* The finalizer of splitmix64: every bit of the input moves half the bits of the output. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static uint64_t draw(uint64_t key, uint64_t ordinal, uint32_t term)
{
    return mix(mix(key + ordinal * 0x9e3779b97f4a7c15u) + term * 0xd1b54a32d192ed03u);
}

uint64_t rguard__fp_hash(const char *name, size_t len)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < len; i++) {
        h = (h ^ (unsigned char)name[i]) * 0x100000001b3u;
    }
    return h;
}

uint64_t rguard__fp_key(uint64_t seed, const char *node, uint64_t name_hash)
{
    return mix(mix(seed + 1) ^ mix(rguard__fp_hash(node, strlen(node))) ^ name_hash);
}

static bool claim(uint64_t *left)
{
    uint64_t n = __atomic_load_n(left, __ATOMIC_RELAXED);
    while (n > 0) {
        if (__atomic_compare_exchange_n(left, &n, n - 1, true, __ATOMIC_RELAXED,
                                        __ATOMIC_RELAXED)) {
            return true;
        }
    }
    return false;
}

/* The first term that fires wins. Probability before count: a miss uses nothing up. */
static struct decision decide(struct fp_program *program)
{
    struct decision d = {NULL, __atomic_add_fetch(&program->ordinal, 1, __ATOMIC_RELAXED), 0};
    for (uint32_t i = 0; i < program->nterms; i++) {
        const struct fp_term *term = &program->terms[i];
        uint64_t x = draw(program->key, d.ordinal, i);
        if (x >> 1 < term->chance && (term->count == 0 || claim(&program->left[i]))) {
            d.term = term;
            d.draw = mix(x ^ program->key);
            return d;
        }
    }
    return d;
}

/* ---- firing ---------------------------------------------------------------------------------- */

static void say(const struct fp_point *point, const char *text, size_t len, const char *fallback);
static void sleep_until_revoked(struct fp_program *program, int64_t ns);

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Counts, traces and journals before anything is done: the moment of the fault is on record even
 * when nothing comes after it. */
static struct rguard_fp_hit fire(struct fp_point *point, struct fp_program *program,
                                 const struct decision *d)
{
    const struct fp_term *term = d->term;
    struct rguard_fp_hit hit = {term->action, term->len, term->value};
    if (term->action == RGUARD_FP_OFF) {
        return (struct rguard_fp_hit){0, 0, 0};
    }
    if (term->action == RGUARD_FP_BITFLIP) {
        hit.value = (int64_t)d->draw;
    }
    uint64_t ns = now_ns();
    __atomic_add_fetch(&point->fired, 1, __ATOMIC_RELAXED);
    __atomic_store_n(&point->last_ns, ns, __ATOMIC_RELAXED);
    rguard_trace(RGUARD_TRACE_FAULT, 0, 0, point->hash, term->action);
    struct fp_journal_record record = {.ns = ns,
                                       .hash = point->hash,
                                       .ordinal = d->ordinal,
                                       .value = hit.value,
                                       .action = hit.action,
                                       .len = hit.len,
                                       .term = (uint32_t)(term - program->terms)};
    rguard__fp_journal_write(&record, point->name);
    if (term->action == RGUARD_FP_SLEEP) {
        sleep_until_revoked(program, term->value);
    } else if (term->action == RGUARD_FP_PRINT) {
        say(point, program->text + term->text, term->len, "hit");
    } else if (term->action == RGUARD_FP_PANIC) {
        say(point, program->text + term->text, term->len, "panic");
    }
    return hit;
}

/* One line, one write. */
static void say(const struct fp_point *point, const char *text, size_t len, const char *fallback)
{
    static const char prefix[] = "raftguard: failpoint ";
    struct iovec v[] = {
        {(void *)(uintptr_t)prefix, sizeof prefix - 1},
        {point->name, strlen(point->name)},
        {(void *)(uintptr_t) ": ", 2},
        {(void *)(uintptr_t)(len > 0 ? text : fallback), len > 0 ? len : strlen(fallback)},
        {(void *)(uintptr_t) "\n", 1}};
    ssize_t ignored = writev(STDERR_FILENO, v, sizeof v / sizeof *v);
    (void)ignored;
}

/* An absolute deadline, so that signals do not stretch it. */
static void sleep_until_revoked(struct fp_program *program, int64_t ns)
{
    uint64_t end = now_ns() + (uint64_t)ns;
    struct timespec deadline = {.tv_sec = (time_t)(end / 1000000000u),
                                .tv_nsec = (long)(end % 1000000000u)};
    while (__atomic_load_n(&program->revoked, __ATOMIC_ACQUIRE) == 0) {
        long rv = syscall(SYS_futex, &program->revoked, FUTEX_WAIT_BITSET_PRIVATE, 0, &deadline,
                          NULL, FUTEX_BITSET_MATCH_ANY);
        if (rv != 0 && errno != EINTR && errno != EAGAIN) {
            return; /* ETIMEDOUT */
        }
    }
}

static void end_process(uint32_t action)
{
    if (action == RGUARD_FP_KILL) {
        kill(getpid(), SIGKILL);
        for (;;) {
            pause(); /* another thread may be the one that takes it */
        }
    }
    abort();
}

/* ---- mutating -------------------------------------------------------------------------------- */

/* The buffer's bits are cut into as many equal stretches as bits are wanted and one is flipped in
 * each, so no two flips undo each other. */
static void flip_bits(uint64_t stream, uint32_t wanted, unsigned char *buf, size_t len)
{
    uint64_t bits = (uint64_t)len * 8;
    uint64_t n = wanted < bits ? wanted : bits;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t from = bits / n * i + (bits % n) * i / n;
        uint64_t to = bits / n * (i + 1) + (bits % n) * (i + 1) / n;
        uint64_t at = from + mix(stream + i) % (to - from);
        buf[at / 8] ^= (unsigned char)(1u << (at % 8));
    }
}

/* Upwards, byte by byte: the first byte past the end is the first address that is touched. Volatile
 * keeps it from becoming a memset, whose first store may be elsewhere. */
static void write_past_end(unsigned char *buf, size_t len, uint32_t n)
{
    volatile unsigned char *p = buf + len;
    for (uint32_t i = 0; i < n; i++) {
        p[i] = (unsigned char)(0xa5u ^ i);
    }
}

__attribute__((cold, noinline)) uint32_t rguard_fp_mutate(struct rguard_fp_hit hit, void *buf,
                                                          size_t len)
{
    if (hit.action == RGUARD_FP_BITFLIP && len > 0) {
        flip_bits((uint64_t)hit.value, hit.len, buf, len);
    } else if (hit.action == RGUARD_FP_OVERRUN) {
        write_past_end(buf, len, hit.len);
    }
    return hit.action;
}

/* ---- the life of a program ------------------------------------------------------------------- */

struct fp_program *rguard__fp_program_new(const struct fp_spec *spec, uint64_t key,
                                          const char *text, size_t len)
{
    size_t size = sizeof(struct fp_program) + spec->nterms * sizeof spec->terms[0] + len + 1;
    struct fp_program *program = aligned_alloc(64, (size + 63) / 64 * 64);
    if (program == NULL) {
        return NULL;
    }
    memset(program, 0, size);
    program->key = key;
    program->nterms = spec->nterms;
    memcpy(program->terms, spec->terms, spec->nterms * sizeof spec->terms[0]);
    for (uint32_t i = 0; i < spec->nterms; i++) {
        program->left[i] = spec->terms[i].count;
    }
    program->text = (char *)&program->terms[spec->nterms];
    memcpy(program->text, text, len);
    return program;
}

void rguard__fp_program_free(struct fp_program *program)
{
    free(program);
}

const char *rguard__fp_program_text(const struct fp_program *program)
{
    return program->text;
}

static void reap(struct fp_point *point)
{
    if (__atomic_load_n(&point->users, __ATOMIC_SEQ_CST) != 0) {
        return;
    }
    while (point->retired != NULL) {
        struct fp_program *program = point->retired;
        point->retired = program->retired;
        point->hits += program->ordinal;
        rguard__fp_program_free(program);
    }
}

void rguard__fp_swap(struct fp_point *point, struct fp_program *program)
{
    struct fp_program *old = __atomic_exchange_n(&point->program, program, __ATOMIC_SEQ_CST);
    if (old != NULL) {
        __atomic_store_n(&old->revoked, 1, __ATOMIC_RELEASE);
        syscall(SYS_futex, &old->revoked, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
        old->retired = point->retired;
        point->retired = old;
    }
    reap(point);
}

uint64_t rguard__fp_hits(const struct fp_point *point)
{
    uint64_t hits = point->hits;
    const struct fp_program *program = __atomic_load_n(&point->program, __ATOMIC_SEQ_CST);
    hits += program == NULL ? 0 : __atomic_load_n(&program->ordinal, __ATOMIC_RELAXED);
    for (program = point->retired; program != NULL; program = program->retired) {
        hits += __atomic_load_n(&program->ordinal, __ATOMIC_RELAXED);
    }
    return hits;
}

void rguard__fp_point_forked(struct fp_point *point)
{
    __atomic_store_n(&point->users, 0, __ATOMIC_SEQ_CST);
    reap(point);
}

void rguard__fp_mask_thread(void)
{
    depth++;
}

#endif
