/* SPDX-License-Identifier: Apache-2.0 */
/* The trap, with real faults in forked children: where it lands, where it must not, and what a
 * dying process leaves behind. Everything that depends on landing is skipped under ASan, which
 * keeps the fault; what ASan must report instead is tested at the end. */
#include "test_window_util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <raftguard/trace.h>
#include <sys/mman.h>

#define NO_LANDING "AddressSanitizer keeps the fault: nothing lands in its builds"

static rguard_arena *arenas[2]; /* guarded, packed */
static rguard_window *window;
static uint8_t *object; /* 64 bytes, guarded */
static char dir[] = "/tmp/rguard-trap-XXXXXX";
static char crash_path[64];
static char trace_path[64];

static int setup(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL) {
        return -1;
    }
    snprintf(crash_path, sizeof crash_path, "%s/crash", dir);
    snprintf(trace_path, sizeof trace_path, "%s/trace", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(crash_path);
    unlink(trace_path);
    return rmdir(dir);
}

/* In the child. */
static void open_all(void)
{
    struct rguard_guard_options o = {.size = sizeof o, .crash_file = crash_path};
    unlink(crash_path);
    unlink(trace_path);
    CHECK(rguard_trace_open(trace_path, 1024) == 0);
    CHECK(rguard_guard_init(&o) == 0);
    arenas[0] = make_arena(RGUARD_SLOTS_GUARDED, (size_t)1 << 20);
    arenas[1] = make_arena(RGUARD_SLOTS_PACKED, (size_t)1 << 20);
    window = make_window(arenas, 2, 0);
    object = make_slot(arenas[0], 64);
    memset(object, 1, 64);
}

/* What a body does; the address is computed before it runs. */
struct deed
{
    uint8_t *at;
    bool load;
    int signo;
};

static int do_deed(void *user)
{
    struct deed *d = user;
    CHECK(rguard_touch(object, 64) == 0);
    memset(object, 2, 64);
    if (d->signo != 0) {
        raise(d->signo);
    } else if (d->load) {
        object[0] = raw_load(d->at);
    } else {
        raw_store(d->at, 3);
    }
    return 0;
}

static struct rguard_violation expect_landing(struct deed d, uint32_t kind, uint32_t class_)
{
    struct rguard_violation v;
    memset(&v, 0, sizeof v);
    CHECK(rguard_window_run(window, 3, 4711, do_deed, &d, &v) == RGUARD_EVIOLATION);
    CHECK(v.kind == kind);
    CHECK(v.class_ == class_);
    CHECK(v.address == (uintptr_t)d.at);
    CHECK(v.term == 3 && v.index == 4711 && v.tid == (uint32_t)getpid());
    CHECK(v.pc != 0 && v.n_frames > 2 && v.frames[0] == v.pc);
    for (int i = 0; i < 64; i++) {
        CHECK(object[i] == 1);
    }
    return v;
}

/* ---- landing --------------------------------------------------------------------------------- */

static void child_slot_guard(void)
{
    open_all();
    for (size_t past = 0; past < rguard__page; past += 511) {
        struct rguard_violation v = expect_landing((struct deed){.at = object + 64 + past},
                                                   RGUARD_V_SLOT_GUARD, RGUARD_CLASS_PRECISE);
        CHECK(v.slot_offset == (int64_t)past && v.signo == SIGSEGV);
        CHECK(v.offset == object + 64 + past - arenas[0]->body);
        CHECK(strcmp(v.arena, "test") == 0 && v.arena_id == arenas[0]->id);
        CHECK(v.access == RGUARD_ACCESS_WRITE || v.access == RGUARD_ACCESS_UNKNOWN);
    }
    struct rguard_violation v = expect_landing((struct deed){.at = object + 64, .load = true},
                                               RGUARD_V_SLOT_GUARD, RGUARD_CLASS_PRECISE);
    CHECK(v.access == RGUARD_ACCESS_READ || v.access == RGUARD_ACCESS_UNKNOWN);
}

static void test_slot_guard_is_precise(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_exits(in_child(child_slot_guard), 0);
}

static void child_force_mprotect(void)
{
    setenv("RGUARD_FORCE", "no-madv-guard", 1);
    child_slot_guard();
    CHECK(!rguard__madv_guard);
}

static void test_slot_guard_with_mprotect(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_exits(in_child(child_force_mprotect), 0);
}

static void child_locked(void)
{
    struct rlimit small = {(rlim_t)64 << 20, (rlim_t)64 << 20};
    setrlimit(RLIMIT_MEMLOCK, &small);
    for (int late = 0; late < 2; late++) { /* locked memory takes no lightweight guards */
        if (mlockall(late ? MCL_CURRENT : MCL_FUTURE) != 0) {
            _exit(0); /* not allowed here */
        }
        open_all();
        for (int i = 0; i < 2; i++) {
            expect_landing((struct deed){.at = object + 64}, RGUARD_V_SLOT_GUARD,
                           RGUARD_CLASS_PRECISE);
            make_slot(arenas[0], 64);
            CHECK(rguard_arena_reset(arenas[0]) == 0);
            memset(make_slot(arenas[0], 20000), 1, 20000);
            object = make_slot(arenas[0], 64);
            memset(object, 1, 64);
            mlockall(MCL_CURRENT);
        }
        munlockall();
    }
}

static void test_slot_guard_in_locked_memory(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_exits(in_child(child_locked), 0);
}

static void child_without_guards(void)
{
    open_all();
    struct deed d = {.at = object + 64};
    CHECK(rguard_window_run(window, 1, 1, do_deed, &d, NULL) == 0);
    CHECK(raw_load(object + 64) == 3);
}

static void test_with_guards_off_the_store_lands(void **state)
{
    (void)state;
    assert_exits(in_child_off("guard_pages", child_without_guards), 0);
}

static void child_imprecise(void)
{
    open_all();
    uint8_t *free_slot = make_slot(arenas[0], 32);
    CHECK(rguard_free(arenas[0], free_slot) == 0);
    rguard_arena *other = make_arena(RGUARD_SLOTS_GUARDED, 1 << 16); /* not the window's */
    uint8_t *foreign = make_slot(other, 32);
    const struct
    {
        uint8_t *at;
        uint32_t kind;
    } cases[] = {
        {arenas[1]->map, RGUARD_V_GUARD_LOW},
        {arenas[1]->map + (64 << 10) - 1, RGUARD_V_GUARD_LOW},
        {arenas[1]->body_end + rguard__page, RGUARD_V_GUARD_HIGH},
        {arenas[1]->map + arenas[1]->map_bytes - 1, RGUARD_V_GUARD_HIGH},
        {arenas[0]->map + 5, RGUARD_V_GUARD_LOW},
        {free_slot + 32, RGUARD_V_SLOT_GUARD},
        {foreign + 32, RGUARD_V_SLOT_GUARD},
        {(uint8_t *)8, RGUARD_V_WILD},
        {window->log - 1, RGUARD_V_WILD},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        expect_landing((struct deed){.at = cases[i].at}, cases[i].kind, RGUARD_CLASS_IMPRECISE);
    }
}

static void test_other_faults_in_a_window_are_imprecise(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_exits(in_child(child_imprecise), 0);
}

static int run_through_packed(void *user)
{
    (void)user;
    uint8_t *p = make_slot(arenas[1], 64);
    for (size_t i = 0; i < ((size_t)4 << 20); i++) {
        raw_store(p + i, 0x41);
    }
    return 0;
}

static int hit_slack_then_guard(void *user)
{
    (void)user;
    raw_store(object - 40, (uint8_t)~raw_load(object - 40));
    raw_store(object + 64, 3);
    return 0;
}

static int hit_neighbour_then_guard(void *user)
{
    uint8_t *neighbour = user; /* the slot behind our guard: its slack begins there */
    raw_store(neighbour - 1, (uint8_t)~raw_load(neighbour - 1));
    raw_store(object + 64, 3);
    return 0;
}

static int divide(void *user)
{
    (void)user;
    raise(SIGUSR1); /* harmless, handled: not ours */
    __builtin_trap();
    return 0;
}

static void ignore(int sig)
{
    (void)sig;
}

static void child_demoted(void)
{
    struct rguard_violation v;
    open_all();
    signal(SIGUSR1, ignore);
    CHECK(rguard_window_run(window, 1, 1, hit_slack_then_guard, NULL, &v) == RGUARD_EVIOLATION);
    CHECK(v.kind == RGUARD_V_SLOT_GUARD && v.class_ == RGUARD_CLASS_IMPRECISE);
    CHECK(rguard_arena_reset(arenas[0]) == 0);
    object = make_slot(arenas[0], 64);
    uint8_t *neighbour = make_slot(arenas[0], 64);
    CHECK(rguard_window_run(window, 1, 2, hit_neighbour_then_guard, neighbour, &v) ==
          RGUARD_EVIOLATION);
    CHECK(v.kind == RGUARD_V_SLOT_GUARD && v.class_ == RGUARD_CLASS_IMPRECISE);
    CHECK(rguard_arena_reset(arenas[0]) == 0);
    CHECK(rguard_window_run(window, 1, 3, run_through_packed, NULL, &v) == RGUARD_EVIOLATION);
    CHECK(v.kind == RGUARD_V_GUARD_HIGH && v.class_ == RGUARD_CLASS_IMPRECISE);
    CHECK(rguard_arena_reset(arenas[1]) == 0);
    CHECK(rguard_window_run(window, 1, 4, divide, NULL, &v) == RGUARD_EVIOLATION);
    CHECK(v.kind == RGUARD_V_SIGNAL && v.class_ == RGUARD_CLASS_IMPRECISE && v.signo == SIGILL);
}

static void test_damage_elsewhere_demotes(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_exits(in_child(child_demoted), 0);
}

static __attribute__((noinline)) int descend(volatile uint8_t *above, size_t depth)
{
    volatile uint8_t frame[4096];
    frame[0] = above[0];
    frame[4095] = (uint8_t)depth;
    return depth == 0 ? 0 : descend(frame, depth - 1) + frame[4095];
}

static int overflow_stack(void *user)
{
    volatile uint8_t top[1] = {1};
    *(volatile int *)user = descend(top, (size_t)1 << 20);
    return 0;
}

static void child_stack_overflow(void)
{
    struct rguard_violation v;
    open_all();
    int sum = 0;
    for (int i = 0; i < 3; i++) {
        CHECK(rguard_window_run(window, 1, 1, overflow_stack, &sum, &v) == RGUARD_EVIOLATION);
        CHECK(v.kind == RGUARD_V_WILD && v.class_ == RGUARD_CLASS_IMPRECISE);
    }
}

static void test_stack_overflow_is_handled_on_the_alternate_stack(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_exits(in_child(child_stack_overflow), 0);
}

/* ---- many in a row --------------------------------------------------------------------------- */

static unsigned mappings(void)
{
    char buf[4096];
    unsigned lines = 0;
    int fd = open("/proc/self/maps", O_RDONLY);
    CHECK(fd >= 0);
    for (ssize_t n; (n = read(fd, buf, sizeof buf)) > 0;) {
        for (ssize_t i = 0; i < n; i++) {
            lines += buf[i] == '\n';
        }
    }
    close(fd);
    return lines;
}

static int alloc_and_overrun(void *user)
{
    (void)user;
    CHECK(rguard_touch(object, 64) == 0);
    object[3] = 9;
    uint8_t *fresh = make_slot(arenas[1], 200);
    memset(fresh, 9, 200);
    CHECK(rguard_free(arenas[1], fresh) == 0);
    raw_store(object + 64, 3);
    return 0;
}

static void child_ten_thousand(void)
{
    open_all();
    struct rguard_violation v;
    struct rguard_arena_stats before = {.size = sizeof before};
    struct rguard_arena_stats after = before;
    unsigned maps = 0;
    sigset_t mask;
    for (int i = 0; i < 10000; i++) {
        if (i == 10) {
            maps = mappings();
            rguard_arena_stats(arenas[1], &before);
        }
        CHECK(rguard_window_run(window, 1, (uint64_t)i, alloc_and_overrun, NULL, &v) ==
              RGUARD_EVIOLATION);
        CHECK(v.class_ == RGUARD_CLASS_PRECISE && v.repeat == 0);
        CHECK(object[3] == 1);
    }
    CHECK(mappings() == maps);
    rguard_arena_stats(arenas[1], &after);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    CHECK(sigprocmask(SIG_SETMASK, NULL, &mask) == 0 && !sigismember(&mask, SIGSEGV));
    CHECK(rguard_check(arenas[0], RGUARD_CHECK_FULL, NULL) == 0);
    CHECK(rguard_check(arenas[1], RGUARD_CHECK_FULL, NULL) == 0);
}

static void test_ten_thousand_faults_in_a_row(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_exits(in_child(child_ten_thousand), 0);
}

/* ---- threads and processes ------------------------------------------------------------------- */

static int overrun_of(void *user)
{
    uint8_t *mine = user;
    CHECK(rguard_touch(mine, 64) == 0);
    mine[0]++;
    raw_store(mine + 64, 3);
    return 0;
}

static void *fault_on_a_thread(void *user)
{
    (void)user;
    rguard_arena *a = make_arena(RGUARD_SLOTS_GUARDED, 1 << 20);
    rguard_window *w = make_window(&a, 1, 0);
    uint8_t *mine = make_slot(a, 64);
    struct rguard_violation v;
    mine[0] = 7;
    for (uint64_t i = 0; i < 2000; i++) {
        CHECK(rguard_window_run(w, 1, i, overrun_of, mine, &v) == RGUARD_EVIOLATION);
        CHECK(v.class_ == RGUARD_CLASS_PRECISE && v.index == i && v.arena_id == a->id);
        CHECK(v.tid == (uint32_t)gettid() && mine[0] == 7);
    }
    rguard_window_destroy(w);
    rguard_arena_destroy(a);
    return NULL;
}

static void child_threads(void)
{
    open_all();
    unsigned maps = 0;
    for (int round = 0; round < 4; round++) {
        pthread_t threads[3];
        for (int i = 0; i < 3; i++) {
            CHECK(pthread_create(&threads[i], NULL, fault_on_a_thread, NULL) == 0);
        }
        for (int i = 0; i < 3; i++) {
            CHECK(pthread_join(threads[i], NULL) == 0);
        }
        /* Alternate stacks go with their threads; malloc's arenas come with the first ones. */
        CHECK(round < 2 || mappings() <= maps);
        maps = mappings();
    }
}

static void test_threads_fault_side_by_side(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_exits(in_child(child_threads), 0);
}

static void *open_held_window(void *user)
{
    *(int *)user = rguard_window_begin(window, 1, 1);
    rguard_window *w = make_window(arenas, 1, 0);
    int rv = rguard_window_begin(w, 1, 1);
    rguard_window_destroy(w);
    return rv == RGUARD_ESTATE ? user : NULL;
}

static void child_held(void)
{
    open_all();
    int got = 0;
    void *ok = NULL;
    pthread_t thread;
    CHECK(rguard_window_begin(window, 1, 1) == 0);
    CHECK(pthread_create(&thread, NULL, open_held_window, &got) == 0);
    CHECK(pthread_join(thread, &ok) == 0);
    CHECK(got == RGUARD_ESTATE && ok == &got);
    CHECK(rguard_window_commit(window, NULL) == 0);
}

static void test_an_arena_in_an_open_window_is_held(void **state)
{
    (void)state;
    assert_exits(in_child(child_held), 0);
}

static void child_fork(void)
{
    open_all();
    pid_t pid = fork();
    CHECK(pid >= 0);
    struct rguard_violation v =
        expect_landing((struct deed){.at = object + 64}, RGUARD_V_SLOT_GUARD, RGUARD_CLASS_PRECISE);
    CHECK(v.tid == (uint32_t)getpid());
    if (pid > 0) {
        int status = 0;
        CHECK(waitpid(pid, &status, 0) == pid);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}

static void test_parent_and_forked_child_both_land(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_exits(in_child(child_fork), 0);
}

/* ---- dying ----------------------------------------------------------------------------------- */

/* Reads what the dead child left: the crash file and the last words in the trace. */
static void expect_last_words(uint32_t kind, int signo, uint64_t index)
{
    struct rguard_violation v;
    assert_int_equal(rguard_crash_read(crash_path, &v), 0);
    assert_int_equal(v.kind, kind);
    assert_int_equal(v.class_, RGUARD_CLASS_FATAL);
    assert_int_equal(v.index, index);
    struct rguard_trace_record r[2];
    int fd = open(trace_path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, r, sizeof r, 4096), sizeof r);
    close(fd);
    assert_int_equal(r[0].event, RGUARD_TRACE_DETECTED);
    assert_int_equal(r[0].a, kind);
    assert_int_equal(r[0].b, RGUARD_CLASS_FATAL);
    assert_int_equal(r[0].index, index);
    assert_int_equal(r[1].event, RGUARD_TRACE_DIED);
    assert_int_equal(r[1].a, signo);
}

static void child_outside(void)
{
    open_all();
    raw_store(object + 64, 3);
}

static void child_in_bracket(void)
{
    open_all();
    CHECK(rguard_window_begin(window, 3, 9) == 0);
    raw_store(object + 64, 3);
}

static void child_in_library(void)
{
    open_all();
    struct deed d = {.at = object + 64};
    rguard__thread.in_library = 1; /* as if it happened in rguard_alloc() */
    rguard_window_run(window, 3, 9, do_deed, &d, NULL);
}

static void child_noncanonical(void)
{
    open_all();
    struct deed d = {.at = (uint8_t *)((uintptr_t)1 << 62)};
    rguard_window_run(window, 3, 9, do_deed, &d, NULL);
}

static void child_sent(void)
{
    open_all();
    struct deed d = {.signo = SIGSEGV};
    rguard_window_run(window, 3, 9, do_deed, &d, NULL);
}

static void child_abort(void)
{
    open_all();
    abort();
}

static void child_trap_off(void)
{
    open_all();
    struct deed d = {.at = object + 64};
    rguard_window_run(window, 3, 9, do_deed, &d, NULL);
}

static void test_faults_that_must_not_land_kill_with_their_signal(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN("the crash file's kind and the exit status are AddressSanitizer's");
    assert_dies_of(in_child(child_outside), SIGSEGV);
    expect_last_words(RGUARD_V_SLOT_GUARD, SIGSEGV, 0);
    assert_dies_of(in_child(child_in_bracket), SIGSEGV);
    expect_last_words(RGUARD_V_SLOT_GUARD, SIGSEGV, 9);
    assert_dies_of(in_child(child_in_library), SIGSEGV);
    expect_last_words(RGUARD_V_SLOT_GUARD, SIGSEGV, 9);
#if defined(__x86_64__)
    assert_dies_of(in_child(child_noncanonical), SIGSEGV);
    expect_last_words(RGUARD_V_WILD, SIGSEGV, 9);
#endif
    assert_dies_of(in_child(child_sent), SIGSEGV);
    expect_last_words(RGUARD_V_WILD, SIGSEGV, 9);
    assert_dies_of(in_child(child_abort), SIGABRT);
    expect_last_words(RGUARD_V_SIGNAL, SIGABRT, 0);
}

static void test_with_the_trap_off_the_fault_kills(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_dies_of(in_child_off("trap", child_trap_off), SIGSEGV);
    expect_last_words(RGUARD_V_SLOT_GUARD, SIGSEGV, 9);
}

static int smash_frame_canaries(void *user)
{
    (void)user;
    window->canary_low ^= 1; /* as if the frame's had changed: they no longer agree */
    rguard_window_raise(RGUARD_V_INJECTED);
    return 0;
}

static void child_frame(void)
{
    open_all();
    rguard_window_run(window, 3, 9, smash_frame_canaries, NULL, NULL);
}

static void test_a_damaged_frame_is_not_returned_through(void **state)
{
    (void)state;
    assert_dies_of(in_child(child_frame), SIGABRT);
    struct rguard_violation v;
    assert_int_equal(rguard_crash_read(crash_path, &v), 0);
    assert_int_equal(v.kind, RGUARD_V_INJECTED);
    assert_int_equal(v.class_, RGUARD_CLASS_FATAL);
}

static void child_keeps_signals(void)
{
    struct rguard_guard_options o = {.size = sizeof o, .keep_signals = true};
    const char *why = NULL;
    CHECK(rguard_guard_init(&o) == 0);
    CHECK(!rguard__trap_installed);
    CHECK(rguard_guard_selftest(&why) == RGUARD_ENOTSUP && why != NULL);
    arenas[0] = make_arena(RGUARD_SLOTS_GUARDED, 1 << 20);
    window = make_window(arenas, 1, 0);
    object = make_slot(arenas[0], 64);
    struct deed d = {.at = object + 64};
    rguard_window_run(window, 1, 1, do_deed, &d, NULL);
}

static void test_keep_signals_installs_nothing(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_dies_of(in_child(child_keeps_signals), SIGSEGV);
}

/* ---- hooks in the handler -------------------------------------------------------------------- */

static int hook_fd;

static void write_hook(void *user, const struct rguard_violation *v)
{
    (void)user;
    ssize_t n = write(hook_fd, v, sizeof *v);
    (void)n;
}

static void bad_hook(void *user, const struct rguard_violation *v)
{
    (void)v;
    raw_store(user, 1);
}

static void child_hooked(void)
{
    open_all();
    CHECK(rguard_guard_hook_add(write_hook, NULL) == 0);
    struct deed d = {.at = object + 64};
    struct rguard_violation v;
    CHECK(rguard_window_run(window, 3, 8, do_deed, &d, &v) == RGUARD_EVIOLATION);
    const char *why = NULL;
    CHECK(rguard_guard_selftest(&why) == 0 && why == NULL); /* private: no hook */
    raw_store((uint8_t *)8, 1);
}

static void test_hooks_run_in_the_handler_also_when_dying(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    hook_fd = fds[1];
    assert_dies_of(in_child(child_hooked), SIGSEGV);
    close(fds[1]);
    struct rguard_violation v[3];
    assert_int_equal(read(fds[0], v, sizeof v), 2 * sizeof v[0]);
    close(fds[0]);
    assert_int_equal(v[0].kind, RGUARD_V_SLOT_GUARD);
    assert_int_equal(v[0].class_, RGUARD_CLASS_PRECISE);
    assert_int_equal(v[0].index, 8);
    assert_int_equal(v[1].kind, RGUARD_V_WILD);
    assert_int_equal(v[1].class_, RGUARD_CLASS_FATAL);
    assert_int_equal(v[1].index, 0);
}

static void child_bad_hook(void)
{
    open_all();
    CHECK(rguard_guard_hook_add(bad_hook, (void *)16) == 0);
    struct deed d = {.at = object + 64};
    rguard_window_run(window, 3, 8, do_deed, &d, NULL);
}

static void test_a_fault_in_a_hook_kills_at_once(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_dies_of(in_child(child_bad_hook), SIGSEGV);
}

/* ---- previous handlers ----------------------------------------------------------------------- */

static sigjmp_buf back;
static volatile sig_atomic_t previous_saw;
static uint8_t *repair;

static void previous_exits(int sig, siginfo_t *si, void *context)
{
    (void)context;
    _exit(sig == SIGSEGV && si->si_addr == (void *)8 ? 42 : 43);
}

static void previous_plain(int sig)
{
    previous_saw = sig;
    siglongjmp(back, 1);
}

static void previous_repairs(int sig, siginfo_t *si, void *context)
{
    (void)sig;
    (void)si;
    (void)context;
    previous_saw++;
    mprotect(repair, rguard__page, PROT_READ | PROT_WRITE);
}

static void previous_faults(int sig)
{
    previous_saw = sig;
    raw_store((uint8_t *)24, 1);
}

static void set_previous(void (*plain)(int), void (*info)(int, siginfo_t *, void *))
{
    struct sigaction act;
    memset(&act, 0, sizeof act);
    if (info != NULL) {
        act.sa_sigaction = info;
        act.sa_flags = SA_SIGINFO;
    } else {
        act.sa_handler = plain;
    }
    CHECK(sigaction(SIGSEGV, &act, NULL) == 0);
}

static void child_chain_info(void)
{
    set_previous(NULL, previous_exits);
    open_all();
    expect_landing((struct deed){.at = object + 64}, RGUARD_V_SLOT_GUARD, RGUARD_CLASS_PRECISE);
    raw_store((uint8_t *)8, 1);
}

static void child_chain_jumps(void)
{
    set_previous(previous_plain, NULL);
    open_all();
    for (int i = 0; i < 5; i++) {
        previous_saw = 0;
        if (sigsetjmp(back, 1) == 0) {
            raw_store((uint8_t *)8, 1);
        }
        CHECK(previous_saw == SIGSEGV);
        expect_landing((struct deed){.at = object + 64}, RGUARD_V_SLOT_GUARD, RGUARD_CLASS_PRECISE);
    }
}

static void child_chain_repairs(void)
{
    set_previous(NULL, previous_repairs);
    open_all();
    repair = mmap(NULL, rguard__page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(repair != MAP_FAILED);
    raw_store(repair, 5);
    CHECK(previous_saw == 1 && raw_load(repair) == 5);
    expect_landing((struct deed){.at = object + 64}, RGUARD_V_SLOT_GUARD, RGUARD_CLASS_PRECISE);
}

static void child_chain_faults(void)
{
    set_previous(previous_faults, NULL);
    open_all();
    raw_store((uint8_t *)8, 1);
}

static void child_ignored(void)
{
    signal(SIGSEGV, SIG_IGN);
    open_all();
    raise(SIGSEGV); /* sent: ignored, as the program asked */
    struct rguard_violation v;
    CHECK(rguard_violation_next(&v, NULL) == 0);
    raw_store((uint8_t *)8, 1); /* a fault cannot be ignored */
}

static void test_previous_handlers_are_called(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_exits(in_child(child_chain_info), 42);
    assert_exits(in_child(child_chain_jumps), 0);
    assert_exits(in_child(child_chain_repairs), 0);
    assert_dies_of(in_child(child_chain_faults), SIGSEGV);
    assert_dies_of(in_child(child_ignored), SIGSEGV);
}

static void child_counts(void)
{
    struct sigaction act;
    set_previous(previous_plain, NULL);
    CHECK(rguard_guard_init(NULL) == 0);
    CHECK(rguard_guard_init(NULL) == 0);
    rguard_guard_fini();
    CHECK(sigaction(SIGSEGV, NULL, &act) == 0 && act.sa_handler != previous_plain);
    rguard_guard_fini();
    CHECK(sigaction(SIGSEGV, NULL, &act) == 0 && act.sa_handler == previous_plain);
    rguard_guard_fini();
    CHECK(rguard_guard_init(NULL) == 0);
    struct rguard_guard_options o = {.size = 3};
    CHECK(rguard_guard_init(&o) == -EINVAL);
    CHECK(rguard_guard_selftest(NULL) == (RGUARD__ASAN ? RGUARD_ENOTSUP : 0));
}

static void test_init_counts_and_fini_restores(void **state)
{
    (void)state;
    assert_exits(in_child(child_counts), 0);
}

/* ---- alternate stacks ------------------------------------------------------------------------ */

static void child_alt_stack(void)
{
    stack_t own;
    open_all();
    CHECK(sigaltstack(NULL, &own) == 0);
    CHECK((own.ss_flags & SS_DISABLE) == 0 && own.ss_size >= 64 << 10);
    raw_store((uint8_t *)own.ss_sp - 1, 1); /* its own guard */
}

static void child_own_alt_stack(void)
{
    static uint8_t stack[128 << 10];
    stack_t mine = {.ss_sp = stack, .ss_size = sizeof stack};
    stack_t now;
    CHECK(sigaltstack(&mine, NULL) == 0);
    open_all();
    expect_landing((struct deed){.at = object + 64}, RGUARD_V_SLOT_GUARD, RGUARD_CLASS_PRECISE);
    CHECK(sigaltstack(NULL, &now) == 0 && now.ss_sp == stack); /* left alone */
}

static void test_alternate_stacks(void **state)
{
    (void)state;
    SKIP_UNDER_ASAN(NO_LANDING);
    assert_dies_of(in_child(child_alt_stack), SIGSEGV);
    assert_exits(in_child(child_own_alt_stack), 0);
}

/* ---- under AddressSanitizer ------------------------------------------------------------------ */

static uint8_t *seeded(size_t at)
{
    open_all();
    uint8_t *volatile p = at == 64 ? object : make_slot(arenas[1], 64);
    return p + at;
}

static void child_asan_guarded(void)
{
    *seeded(64) = 1;
}

static void child_asan_packed(void)
{
    *seeded(65) = 1;
}

static void child_asan_under(void)
{
    uint8_t *volatile p = seeded(0);
    p[-1] = 1;
}

static void child_asan_free(void)
{
    open_all();
    uint8_t *volatile p = make_slot(arenas[1], 64);
    CHECK(rguard_free(arenas[1], p) == 0);
    *p = 1;
}

static void child_asan_memset(void)
{
    open_all();
    volatile size_t len = 65;
    memset(object, 1, len);
}

static int store_past_end(void *user)
{
    uint8_t *volatile p = user;
    p[64] = 1;
    return 0;
}

static void child_asan_window(void)
{
    open_all();
    rguard_window_run(window, 1, 1, store_past_end, object, NULL);
}

static void child_asan_reset(void)
{
    open_all();
    uint8_t *p = arenas[1]->body;
    rguard_arena_reset(arenas[1]);
    rguard_arena_destroy(arenas[1]);
    uint8_t *again = mmap(p, 4096, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    CHECK(again == p);
    again[0] = 1; /* not poisoned any more */
}

static void test_asan_reports_instrumented_bad_stores_itself(void **state)
{
    (void)state;
    if (!RGUARD__ASAN) {
        skip();
    }
    static void (*const bad[])(void) = {child_asan_guarded, child_asan_packed, child_asan_under,
                                        child_asan_free,    child_asan_memset, child_asan_window};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        char report[4096] = "";
        int fds[2];
        assert_int_equal(pipe(fds), 0);
        int saved = dup(STDERR_FILENO);
        dup2(fds[1], STDERR_FILENO);
        int status = in_child(bad[i]);
        dup2(saved, STDERR_FILENO);
        close(saved);
        close(fds[1]);
        assert_true(read(fds[0], report, sizeof report - 1) > 0);
        close(fds[0]);
        assert_exits(status, 1);
        print_message("%s", strstr(report, "use-after-poison") == NULL ? report : "");
        assert_non_null(strstr(report, "AddressSanitizer: use-after-poison"));
    }
    assert_exits(in_child(child_asan_reset), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slot_guard_is_precise),
        cmocka_unit_test(test_slot_guard_with_mprotect),
        cmocka_unit_test(test_slot_guard_in_locked_memory),
        cmocka_unit_test(test_with_guards_off_the_store_lands),
        cmocka_unit_test(test_other_faults_in_a_window_are_imprecise),
        cmocka_unit_test(test_damage_elsewhere_demotes),
        cmocka_unit_test(test_stack_overflow_is_handled_on_the_alternate_stack),
        cmocka_unit_test(test_ten_thousand_faults_in_a_row),
        cmocka_unit_test(test_threads_fault_side_by_side),
        cmocka_unit_test(test_an_arena_in_an_open_window_is_held),
        cmocka_unit_test(test_parent_and_forked_child_both_land),
        cmocka_unit_test(test_faults_that_must_not_land_kill_with_their_signal),
        cmocka_unit_test(test_with_the_trap_off_the_fault_kills),
        cmocka_unit_test(test_a_damaged_frame_is_not_returned_through),
        cmocka_unit_test(test_keep_signals_installs_nothing),
        cmocka_unit_test(test_hooks_run_in_the_handler_also_when_dying),
        cmocka_unit_test(test_a_fault_in_a_hook_kills_at_once),
        cmocka_unit_test(test_previous_handlers_are_called),
        cmocka_unit_test(test_init_counts_and_fini_restores),
        cmocka_unit_test(test_alternate_stacks),
        cmocka_unit_test(test_asan_reports_instrumented_bad_stores_itself),
    };
    return cmocka_run_group_tests_name("trap", tests, setup, teardown);
}
