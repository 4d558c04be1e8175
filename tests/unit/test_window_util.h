/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TEST_WINDOW_UTIL_H
#define TEST_WINDOW_UTIL_H

/* What the tests of guard/ share. cmocka replaces SIGSEGV's handler around every test, so whatever
 * faults runs in a forked child with the handlers it would have had, and is judged by its status.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <raftguard/guard.h>

#include "guard_internal.h"

/* cmocka's asserts jump to the parent's stack: a child says where it failed and exits. */
#define CHECK(expr)                                                             \
    do {                                                                        \
        if (!(expr)) {                                                          \
            fprintf(stderr, "# child: %s:%d: %s\n", __FILE__, __LINE__, #expr); \
            _exit(99);                                                          \
        }                                                                       \
    } while (0)

/* Runs @fn in a child; its wait status. @off: RGUARD_TEST_OFF for it, or NULL. Under ASan its
 * handlers stay what they were before cmocka: the sanitizer's. */
static inline int in_child_off(const char *off, void (*fn)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        static const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
        for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) {
            signal(signals[i], SIG_DFL);
        }
        if (off != NULL) {
            setenv("RGUARD_TEST_OFF", off, 1);
        }
        alarm(60);
        fn();
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static inline int in_child(void (*fn)(void))
{
    return in_child_off(NULL, fn);
}

#define assert_exits(status, code)                    \
    do {                                              \
        int status_ = (status);                       \
        assert_true(WIFEXITED(status_));              \
        assert_int_equal(WEXITSTATUS(status_), code); \
    } while (0)

#define assert_dies_of(status, signo)               \
    do {                                            \
        int status_ = (status);                     \
        assert_true(WIFSIGNALED(status_));          \
        assert_int_equal(WTERMSIG(status_), signo); \
    } while (0)

/* Faults are AddressSanitizer's in its builds. */
#define SKIP_UNDER_ASAN(reason)              \
    do {                                     \
        if (RGUARD__ASAN) {                  \
            print_message("# %s\n", reason); \
            skip();                          \
        }                                    \
    } while (0)

static inline rguard_arena *make_arena(int slots, size_t bytes)
{
    struct rguard_arena_options o = {
        .size = sizeof o, .name = "test", .bytes = bytes, .slots = slots};
    rguard_arena *a = NULL;
    if (rguard_arena_create(&o, &a) != 0) {
        abort();
    }
    return a;
}

static inline rguard_window *make_window(rguard_arena **arenas, size_t n, size_t undo_bytes)
{
    struct rguard_window_options o = {
        .size = sizeof o, .arenas = arenas, .n_arenas = n, .undo_bytes = undo_bytes};
    rguard_window *w = NULL;
    if (rguard_window_create(&o, &w) != 0) {
        abort();
    }
    return w;
}

static inline uint8_t *make_slot(rguard_arena *a, size_t len)
{
    void *p = NULL;
    if (rguard_alloc(a, len, &p) != 0) {
        abort();
    }
    return p;
}

/* A store that no instrumentation sees: it reaches the memory, or the page fault. */
__attribute__((noinline, unused)) RGUARD__RAW static void raw_store(volatile uint8_t *p, uint8_t v)
{
    *p = v;
}

__attribute__((noinline, unused)) RGUARD__RAW static uint8_t raw_load(const volatile uint8_t *p)
{
    return *p;
}

#endif
