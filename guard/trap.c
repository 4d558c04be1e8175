/* SPDX-License-Identifier: Apache-2.0 */
/* The trap: everything that a signal handler of this library can reach.
 *
 *     fault -> record -> trace, hooks -> in a running window, attributable, outside our own code?
 *                                           yes: _longjmp to the landing in window.c
 *                                           no:  FATAL: ring, crash file, previous handler or core
 *
 * Invariant: the handler jumps only into a window that is running on the thread that faulted, while
 * none of this library's code is on that thread's stack above it. In every other case the process
 * dies the death it would have died without us, with the same signal and a true core: the previous
 * handler is called, or the default action restored and the instruction repeated.
 *
 * Async-signal-safe calls used here, complete: clock_gettime, gettid, getpid, tgkill, sigaction,
 * open, write, close, process_vm_readv, _longjmp, abort; memcpy and memset on own memory;
 * rguard_trace() and rguard_crc32c() (own code, no locks, no allocation, warmed by init). The
 * backtrace walks frame pointers and reads the stack through process_vm_readv, which returns an
 * error where a load would fault; glibc's backtrace() takes the loader's lock and could hang here.
 *
 * si_code never decides whose fault it is (a guard page and an unmapped page look alike): the arena
 * table does. It only tells faults of the program from signals that somebody sent. */
#include "guard_internal.h"

#include <raftguard/crc32c.h>
#include <raftguard/trace.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define MAX_HOOKS    8u
#define ALT_STACK    ((size_t)64 << 10)
#define FRAME_STRIDE ((uintptr_t)1 << 20) /* no frame is larger */
#define SI_KERNEL_   0x80

static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
#define N_SIGNALS (sizeof signals / sizeof signals[0])

struct hook
{
    rguard_violation_hook fn;
    void *user;
};

struct rguard__ring rguard__ring;
__thread struct rguard__thread rguard__thread __attribute__((tls_model("initial-exec")));
bool rguard__trap_installed;

static struct hook hooks[MAX_HOOKS];
static struct sigaction previous[N_SIGNALS];
static char crash_path[4096];
static unsigned users;
static uint32_t trap_off;

static pthread_once_t key_once = PTHREAD_ONCE_INIT;
static pthread_key_t alt_key;

/* ---- reporting: also called by threads that found damage by looking -------------------------- */

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void stamp(struct rguard_violation *v)
{
    const rguard_window *w = rguard__thread.window;
    v->term = w != NULL ? w->term : 0;
    v->index = w != NULL ? w->index : 0;
    v->monotonic_ns = now_ns();
    v->tid = (uint32_t)gettid();
}

static void name_arena(struct rguard_violation *v, const rguard_arena *a)
{
    v->arena_id = a->id;
    memcpy(v->arena, a->name, sizeof v->arena);
    v->offset = (int64_t)(v->address - (uintptr_t)a->body);
}

void rguard__detected(const struct rguard_violation *v)
{
    if (rguard__thread.private_) {
        return;
    }
    rguard_trace(RGUARD_TRACE_DETECTED, v->term, v->index, v->kind, v->class_);
    for (unsigned i = 0; i < MAX_HOOKS; i++) {
        rguard_violation_hook fn = __atomic_load_n(&hooks[i].fn, __ATOMIC_ACQUIRE);
        if (fn != NULL) {
            fn(hooks[i].user, v);
        }
    }
}

void rguard__record(const struct rguard_violation *v)
{
    if (rguard__thread.private_) {
        return;
    }
    uint64_t n = __atomic_fetch_add(&rguard__ring.head, 1, __ATOMIC_RELAXED);
    struct rguard__ring_cell *cell = &rguard__ring.cells[n % RGUARD__RING];
    __atomic_store_n(&cell->seq, 0, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    memcpy(&cell->v, v, sizeof *v);
    __atomic_store_n(&cell->seq, n + 1, __ATOMIC_RELEASE);
}

/* @pc, unless it is 0, then the return addresses along the saved frame pointers from @fp. */
static void backtrace_from(struct rguard_violation *v, uintptr_t pc, uintptr_t fp)
{
    pid_t self = getpid();
    v->n_frames = 0;
    if (pc != 0) {
        v->frames[v->n_frames++] = pc;
    }
    while (v->n_frames < RGUARD_VIOLATION_FRAMES && fp != 0 && fp % sizeof(uintptr_t) == 0) {
        uintptr_t frame[2]; /* the caller's frame pointer, return address */
        struct iovec to = {frame, sizeof frame};
        struct iovec from = {(void *)fp, sizeof frame};
        if (process_vm_readv(self, &to, 1, &from, 1, 0) != (ssize_t)sizeof frame || frame[1] == 0) {
            return;
        }
        v->frames[v->n_frames++] = frame[1];
        fp = frame[0] > fp && frame[0] - fp <= FRAME_STRIDE ? frame[0] : 0;
    }
}

void rguard__violation_init(struct rguard_violation *v, uint32_t kind, uint32_t class_,
                            const rguard_arena *a, uintptr_t address, uintptr_t pc)
{
    memset(v, 0, sizeof *v);
    v->kind = kind;
    v->class_ = class_;
    v->address = address;
    v->pc = pc;
    if (a != NULL) {
        name_arena(v, a);
    }
    stamp(v);
    backtrace_from(v, 0, (uintptr_t)__builtin_frame_address(0));
    for (uint32_t i = 0; i < v->n_frames; i++) { /* our own frames are no news */
        if (v->frames[i] == pc) {
            v->n_frames -= i;
            memmove(v->frames, v->frames + i, v->n_frames * sizeof v->frames[0]);
            break;
        }
    }
}

/* ---- the last words -------------------------------------------------------------------------- */

static void write_crash_file(const struct rguard_violation *v)
{
    if (crash_path[0] == '\0') {
        return;
    }
    struct rguard__crash crash;
    memset(&crash, 0, sizeof crash);
    crash.magic = RGUARD__CRASH_MAGIC;
    crash.version = 1;
    crash.size = sizeof crash;
    crash.v = *v;
    crash.crc = rguard_crc32c(0, &crash, offsetof(struct rguard__crash, crc));
    int fd = open(crash_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd >= 0) {
        ssize_t n = write(fd, &crash, sizeof crash);
        (void)n;
        close(fd);
    }
}

/* Hooks first: nobody waits for a backtrace to tell the peers. */
static void fatal(struct rguard_violation *v, int signo, uintptr_t fp)
{
    v->class_ = RGUARD_CLASS_FATAL;
    rguard__detected(v);
    backtrace_from(v, v->pc, fp);
    if (!rguard__thread.private_) {
        rguard_trace(RGUARD_TRACE_DIED, v->term, v->index, (uint64_t)signo, 0);
        rguard__record(v);
        write_crash_file(v);
    }
}

static int slot_of(int sig)
{
    for (unsigned i = 0; i < N_SIGNALS; i++) {
        if (signals[i] == sig) {
            return (int)i;
        }
    }
    return 0;
}

/* Faults repeat by themselves on return and die at the true instruction; a signal that was sent
 * must be sent again. */
static void default_action(int sig, bool sent)
{
    struct sigaction act;
    memset(&act, 0, sizeof act);
    act.sa_handler = SIG_DFL;
    sigaction(sig, &act, NULL);
    if (sent) {
        syscall(SYS_tgkill, getpid(), gettid(), sig);
    }
}

void rguard__die(struct rguard_violation *v)
{
    fatal(v, SIGABRT, (uintptr_t)__builtin_frame_address(0));
    default_action(SIGABRT, false);
    abort();
}

/* ---- the handler ----------------------------------------------------------------------------- */

struct machine
{
    uintptr_t pc, sp, fp;
    uint32_t access;
};

static struct machine machine_of(const ucontext_t *uc, int sig)
{
    struct machine m = {0, 0, 0, RGUARD_ACCESS_UNKNOWN};
#if defined(__x86_64__)
    m.pc = (uintptr_t)uc->uc_mcontext.gregs[REG_RIP];
    m.sp = (uintptr_t)uc->uc_mcontext.gregs[REG_RSP];
    m.fp = (uintptr_t)uc->uc_mcontext.gregs[REG_RBP];
    if (sig == SIGSEGV && uc->uc_mcontext.gregs[REG_TRAPNO] == 14) { /* page fault */
        m.access =
            (uc->uc_mcontext.gregs[REG_ERR] & 2) != 0 ? RGUARD_ACCESS_WRITE : RGUARD_ACCESS_READ;
    }
#elif defined(__aarch64__)
    (void)sig;
    m.pc = (uintptr_t)uc->uc_mcontext.pc;
    m.sp = (uintptr_t)uc->uc_mcontext.sp;
    m.fp = (uintptr_t)uc->uc_mcontext.regs[29];
#else
    (void)uc;
    (void)sig;
#endif
    return m;
}

/* The instruction itself faulted, and the kernel says where. */
static bool is_fault(int sig, const siginfo_t *si)
{
    if (si->si_code <= 0 || si->si_code == SI_KERNEL_ || sig == SIGABRT) {
        return false;
    }
    return sig != SIGBUS || (si->si_code != BUS_MCEERR_AR && si->si_code != BUS_MCEERR_AO);
}

/* Whose address is it? Only a guarded slot that is live, of an arena of the open window, hit in its
 * own guard page, is PRECISE: the object ends where the page begins, so nothing came before. */
static void attribute(struct rguard_violation *v, int sig)
{
    v->class_ = RGUARD_CLASS_IMPRECISE;
    if (sig == SIGILL || sig == SIGFPE || sig == SIGABRT) {
        v->kind = RGUARD_V_SIGNAL;
        return;
    }
    v->kind = RGUARD_V_WILD;
    const rguard_arena *a = NULL;
    for (unsigned i = 0; a == NULL && rguard__arena_table != NULL && i < RGUARD__ARENAS; i++) {
        const rguard_arena *b = __atomic_load_n(&rguard__arena_table[i], __ATOMIC_ACQUIRE);
        if (b != NULL && v->address - (uintptr_t)b->map < b->map_bytes) {
            a = b;
        }
    }
    if (a == NULL) {
        return;
    }
    name_arena(v, a);
    if (v->address < (uintptr_t)a->body) {
        v->kind = RGUARD_V_GUARD_LOW;
    } else if (v->address >= (uintptr_t)a->body_end) {
        v->kind = RGUARD_V_GUARD_HIGH;
    } else if (a->slots == RGUARD_SLOTS_GUARDED && sig == SIGSEGV) {
        size_t page = (size_t)v->offset >> rguard__page_shift;
        uint32_t first = a->pages[page].first;
        const struct rguard__page *span = &a->pages[first == 0 ? 0 : first - 1];
        size_t guard = (size_t)first - 1 + span->pages - 1;
        if (first == 0 || page != guard) {
            return;
        }
        v->kind = RGUARD_V_SLOT_GUARD;
        v->slot_offset = v->offset - (int64_t)(guard << rguard__page_shift);
        if (span->state == RGUARD__LIVE && a->window != NULL &&
            a->window == rguard__thread.window) {
            v->class_ = RGUARD_CLASS_PRECISE;
        }
    }
}

static bool may_land(int sig, const siginfo_t *si)
{
    const struct rguard__thread *t = &rguard__thread;
    return !RGUARD__ASAN && is_fault(sig, si) && t->window != NULL &&
           t->window->mode == RGUARD__RUNNING && t->in_library == 0 &&
           !RGUARD__IS_OFF(trap_off, RGUARD__OFF_TRAP);
}

static void chain(int sig, siginfo_t *si, void *context, bool sent)
{
    const struct sigaction *old = &previous[slot_of(sig)];
    if ((old->sa_flags & SA_SIGINFO) == 0 &&
        (old->sa_handler == SIG_DFL || old->sa_handler == SIG_IGN)) {
        default_action(sig, sent);
        return;
    }
    rguard__thread.chained_at = (uintptr_t)__builtin_frame_address(0);
    if ((old->sa_flags & SA_SIGINFO) != 0) {
        old->sa_sigaction(sig, si, context);
    } else {
        old->sa_handler(sig);
    }
    rguard__thread.chained_at = 0;
}

/* A fault inside the handler, inside a hook, or inside a previous handler that we called. */
static bool nested(const struct rguard__thread *t, uintptr_t sp)
{
    return t->handling != 0 || (t->chained_at != 0 && sp < t->chained_at &&
                                sp >= (uintptr_t)t->alt_lo && sp < (uintptr_t)t->alt_hi);
}

static void on_signal(int sig, siginfo_t *si, void *context)
{
    struct rguard__thread *t = &rguard__thread;
    int saved_errno = errno;
    struct machine m = machine_of(context, sig);
    bool sent = !is_fault(sig, si) && si->si_code != SI_KERNEL_;
    if (nested(t, m.sp)) {
        default_action(sig, sent);
        return;
    }
    if (sent && previous[slot_of(sig)].sa_handler == SIG_IGN && sig != SIGABRT) {
        return; /* somebody sent it, and the program had said that it does not care */
    }
    t->handling = 1;
    struct rguard_violation v;
    memset(&v, 0, sizeof v);
    v.address = is_fault(sig, si) && sig != SIGABRT ? (uintptr_t)si->si_addr : 0;
    v.pc = m.pc;
    v.access = m.access;
    v.signo = sig;
    v.si_code = si->si_code;
    stamp(&v);
    attribute(&v, sig);
    if (may_land(sig, si)) {
        rguard__detected(&v);
        backtrace_from(&v, m.pc, m.fp);
        rguard_window *w = t->window;
        w->hit = v;
        w->mode = RGUARD__BRACKET;
        t->handling = 0;
        errno = saved_errno;
        _longjmp(w->env, 1);
    }
    fatal(&v, sig, m.fp);
    t->handling = 0;
    errno = saved_errno;
    chain(sig, si, context, sent);
}

/* ---- install, remove, hooks, alternate stacks ------------------------------------------------ */

static void handler_of(struct sigaction *act)
{
    memset(act, 0, sizeof *act);
    act->sa_sigaction = on_signal;
    act->sa_flags = SA_ONSTACK | SA_SIGINFO | SA_NODEFER;
    sigemptyset(&act->sa_mask);
}

static bool is_ours(int sig)
{
    struct sigaction act;
    return sigaction(sig, NULL, &act) == 0 && (act.sa_flags & SA_SIGINFO) != 0 &&
           act.sa_sigaction == on_signal;
}

bool rguard__owns_segv(void)
{
    if (is_ours(SIGSEGV)) {
        return true;
    }
    struct sigaction act;
    struct sigaction old;
    handler_of(&act);
    if (sigaction(SIGSEGV, &act, &old) != 0) {
        return false;
    }
    bool took = is_ours(SIGSEGV);
    sigaction(SIGSEGV, &old, NULL);
    return took;
}

static void uninstall(unsigned n)
{
    while (n-- > 0) {
        if (is_ours(signals[n])) { /* somebody above us keeps it otherwise, and chains to us */
            sigaction(signals[n], &previous[n], NULL);
        }
    }
    rguard__trap_installed = false;
}

static int install(void)
{
    struct sigaction act;
    handler_of(&act);
    for (unsigned i = 0; i < N_SIGNALS; i++) {
        if (is_ours(signals[i])) {
            continue; /* left behind by an uninstall below another handler */
        }
        if (sigaction(signals[i], &act, &previous[i]) != 0) {
            int rv = -errno;
            uninstall(i);
            return rv;
        }
    }
    if (!is_ours(SIGSEGV)) {
        uninstall(N_SIGNALS);
        return RGUARD_ENOTSUP;
    }
    rguard__trap_installed = true;
    return 0;
}

int rguard_guard_init(const struct rguard_guard_options *options)
{
    if (options != NULL && options->size < sizeof *options) {
        return -EINVAL;
    }
    const char *crash = options != NULL ? options->crash_file : NULL;
    if (crash != NULL && strlen(crash) >= sizeof crash_path) {
        return -ENAMETOOLONG;
    }
    int rv = rguard__base_init();
    if (rv != 0) {
        return rv;
    }
    (void)rguard_crc32c(0, "", 0); /* chooses its back end: the handler may not */
    trap_off = rguard__off_flags();
    if ((options == NULL || !options->keep_signals) && !rguard__trap_installed) {
        rv = rguard__thread_init();
        if (rv == 0) {
            rv = install();
        }
        if (rv != 0) {
            return rv;
        }
    }
    if (crash != NULL) {
        memcpy(crash_path, crash, strlen(crash) + 1);
    }
    users++;
    return 0;
}

bool rguard__trap_declined(void)
{
    return users > 0 && !rguard__trap_installed;
}

void rguard_guard_fini(void)
{
    if (users == 0 || --users > 0) {
        return;
    }
    if (rguard__trap_installed) {
        uninstall(N_SIGNALS);
    }
    crash_path[0] = '\0';
}

int rguard_guard_hook_add(rguard_violation_hook hook, void *user)
{
    if (hook == NULL) {
        return -EINVAL;
    }
    for (unsigned i = 0; i < MAX_HOOKS; i++) {
        if (hooks[i].fn == NULL) {
            hooks[i].user = user;
            __atomic_store_n(&hooks[i].fn, hook, __ATOMIC_RELEASE);
            return 0;
        }
    }
    return RGUARD_EBUSY;
}

void rguard_guard_hook_remove(rguard_violation_hook hook, void *user)
{
    for (unsigned i = 0; i < MAX_HOOKS; i++) {
        if (hooks[i].fn == hook && hooks[i].user == user) {
            __atomic_store_n(&hooks[i].fn, NULL, __ATOMIC_RELEASE);
            return;
        }
    }
}

static size_t alt_bytes(void)
{
    size_t least = (size_t)sysconf(_SC_MINSIGSTKSZ); /* grows with the vector registers */
    return (ALT_STACK + least + rguard__page - 1) & ~(rguard__page - 1);
}

/* Runs at thread exit; @map starts with the stack's guard page. */
static void drop_alt_stack(void *map)
{
    struct rguard__thread *t = &rguard__thread;
    sigaltstack(&t->alt_before, NULL);
    t->alt_lo = NULL;
    t->alt_hi = NULL;
    t->ready = false;
    munmap(map, rguard__page + alt_bytes());
}

static void make_key(void)
{
    pthread_key_create(&alt_key, drop_alt_stack);
}

int rguard__thread_init(void)
{
    struct rguard__thread *t = &rguard__thread;
    stack_t *old = &t->alt_before;
    if (t->ready) {
        return 0;
    }
    if (sigaltstack(NULL, old) != 0) {
        return -errno;
    }
    if ((old->ss_flags & SS_DISABLE) == 0 && old->ss_size >= ALT_STACK) {
        t->alt_lo = old->ss_sp; /* the program's own is good enough */
        t->alt_hi = t->alt_lo + old->ss_size;
        t->ready = true;
        return 0;
    }
    pthread_once(&key_once, make_key);
    size_t bytes = alt_bytes();
    uint8_t *map = mmap(NULL, rguard__page + bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (map == MAP_FAILED) {
        return -errno;
    }
    stack_t alt = {.ss_sp = map + rguard__page, .ss_size = bytes};
    int rv = rguard__guard_set(map, rguard__page);
    if (rv == 0 && sigaltstack(&alt, NULL) != 0) {
        rv = -errno;
    }
    if (rv != 0) {
        munmap(map, rguard__page + bytes);
        return rv;
    }
    t->alt_lo = map + rguard__page;
    t->alt_hi = t->alt_lo + bytes;
    t->ready = true;
    pthread_setspecific(alt_key, map);
    return 0;
}
