/* SPDX-License-Identifier: Apache-2.0 */
/* What sites do when they are armed: chains, counts, probabilities, seeds, threads, sleepers,
 * forks, mutations, and what ends the process. */
#include "failpoint_internal.h"

#include <raftguard/trace.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- sites ----------------------------------------------------------------------------------- */

static bool site_if(void)
{
    return RGUARD_FP_IF("eval/if", "answers whether it fired");
}

static int64_t site_value(void)
{
    struct rguard_fp_hit hit =
        RGUARD_FP_SITE_("eval/value", "the value itself", RGUARD_FP_CAN_RETURN);
    return hit.action == RGUARD_FP_RETURN ? hit.value : 0;
}

static int site_errno(void)
{
    return RGUARD_FP_NEGERR("eval/errno", "a negative errno");
}

static void site_point(void)
{
    RGUARD_FP_POINT("eval/point", "sleeps, prints, dies");
}

static uint32_t site_mutate(void *buf, size_t len)
{
    return RGUARD_FP_MUTATE("eval/mutate", "flips, overruns, frees twice",
                            RGUARD_FP_CAN_DOUBLE_FREE, buf, len);
}

static bool site_twin_a(void)
{
    return RGUARD_FP_IF("eval/twin", "one name");
}

static bool site_twin_b(void)
{
    return RGUARD_FP_IF("eval/twin", "at two places");
}

static void set(const char *name, const char *program)
{
    struct rguard_fp_error err;
    int rv = rguard_fp_set(name, program, &err);
    if (rv != 0) {
        fail_msg("%s=%s: %s", name, program, err.message);
    }
}

static struct rguard_fp_stat stat_of(const char *name)
{
    struct rguard_fp_stat stat = {.size = sizeof stat};
    assert_int_equal(rguard_fp_stat(name, &stat), 0);
    return stat;
}

static int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static int off_all(void **state)
{
    (void)state;
    rguard_fp_off_all();
    return 0;
}

/* ---- one thread ------------------------------------------------------------------------------ */

static void nothing_is_armed_at_first(void **state)
{
    (void)state;
    char byte = 'x';
    assert_true(rguard_fp_compiled());
    assert_false(site_if());
    assert_int_equal(site_errno(), 0);
    site_point();
    assert_int_equal(site_mutate(&byte, 1), 0);
    assert_int_equal(stat_of("eval/if").hits, 0);
}

static void first_term_that_fires_wins(void **state)
{
    (void)state;
    static const struct
    {
        const char *program;
        int64_t values[6];
    } chains[] = {
        {"return(7)", {7, 7, 7, 7, 7, 7}},
        {"2*return(1)->return(2)", {1, 1, 2, 2, 2, 2}},
        {"2*return(1)->1*return(2)", {1, 1, 2, 0, 0, 0}},
        {"3*off->return(9)", {0, 0, 0, 9, 9, 9}},
        {"1*return(1)->1*off->2*return(3)", {1, 0, 3, 3, 0, 0}},
        {"0%return(1)->return(2)", {2, 2, 2, 2, 2, 2}},
        {"0%5*return(1)", {0, 0, 0, 0, 0, 0}},
        {"100%1*return(4)->return(5)->return(6)", {4, 5, 5, 5, 5, 5}},
        {"off", {0, 0, 0, 0, 0, 0}},
    };
    for (size_t i = 0; i < sizeof chains / sizeof *chains; i++) {
        set("eval/value", chains[i].program);
        for (size_t k = 0; k < 6; k++) {
            int64_t value = site_value();
            if (value != chains[i].values[k]) {
                fail_msg("%s: hit %zu gave %lld", chains[i].program, k + 1, (long long)value);
            }
        }
    }
}

static void counters_count(void **state)
{
    (void)state;
    struct rguard_fp_stat before = stat_of("eval/if");
    int64_t start = now_ns();
    set("eval/if", "2*off->3*return");
    for (int i = 0; i < 10; i++) {
        (void)site_if();
    }
    struct rguard_fp_stat after = stat_of("eval/if");
    assert_int_equal(after.hits - before.hits, 10);
    assert_int_equal(after.fired - before.fired, 3); /* off is not a firing */
    assert_in_range(after.last_ns, start, now_ns());
    assert_int_equal(rguard_fp_off("eval/if"), 0);
    assert_int_equal(rguard_fp_off("eval/if"), 0);
    assert_false(site_if());
    assert_int_equal(stat_of("eval/if").hits, after.hits); /* outlive off; no counting while off */
    assert_int_equal(rguard_fp_off("eval/none"), RGUARD_EUNKNOWN);
    assert_int_equal(rguard_fp_stat("eval/none", &after), RGUARD_EUNKNOWN);
}

static void errno_is_kept(void **state)
{
    (void)state;
    set("eval/errno", "errno(ENOSPC)");
    set("eval/point", "sleep(1us)");
    errno = 4242;
    assert_int_equal(site_errno(), -ENOSPC);
    site_point();
    assert_int_equal(errno, 4242);
}

static void one_name_is_one_point(void **state)
{
    (void)state;
    set("eval/twin", "1*return");
    assert_true(site_twin_b());
    assert_false(site_twin_a());
    assert_false(site_twin_b());
    set("eval/twin", "return(0)");
    assert_false(site_twin_a()); /* fires, and is false */
    assert_int_equal(stat_of("eval/twin").fired, 2);
}

static void sites_refuse_what_they_cannot(void **state)
{
    (void)state;
    static const struct
    {
        const char *name;
        const char *program;
        size_t offset;
        int rv;
    } cases[] = {
        {"eval/point", "return", 0, RGUARD_EREFUSED},
        {"eval/point", "errno(EIO)", 0, RGUARD_EREFUSED},
        {"eval/point", "bitflip", 0, RGUARD_EREFUSED},
        {"eval/point", "sleep(1)->1*overrun(16)", 12, RGUARD_EREFUSED},
        {"eval/point", " 50%double_free", 4, RGUARD_EREFUSED},
        {"eval/if", "errno(EIO)", 0, RGUARD_EREFUSED},
        {"eval/errno", "return(1)", 0, RGUARD_EREFUSED},
        {"eval/mutate", "return(1)", 0, RGUARD_EREFUSED},
        {"eval/fi", "return(1)", 0, RGUARD_EUNKNOWN},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rguard_fp_error err = {99, 99, ""};
        assert_int_equal(rguard_fp_set(cases[i].name, cases[i].program, &err), cases[i].rv);
        assert_int_equal(err.offset, cases[i].offset);
        assert_int_equal(rguard_fp_set(cases[i].name, cases[i].program, NULL), cases[i].rv);
    }
    struct rguard_fp_error err;
    assert_int_equal(rguard_fp_set("eval/fi", "off", &err), RGUARD_EUNKNOWN);
    assert_non_null(strstr(err.message, "did you mean \"eval/if\""));
    /* All of it or nothing: the good half is not armed. */
    assert_int_equal(rguard_fp_configure("eval/if=return;eval/point=sleep(1)->bitflip", &err),
                     RGUARD_EREFUSED);
    assert_int_equal(err.offset, strlen("eval/if=return;eval/point=sleep(1)->"));
    assert_int_equal(rguard_fp_configure("eval/if=return; eval/pont=off", &err), RGUARD_EUNKNOWN);
    assert_int_equal(err.offset, strlen("eval/if=return; "));
    assert_int_equal(err.length, strlen("eval/pont"));
    assert_false(site_if());
    assert_int_equal(rguard_fp_configure("eval/if=return;eval/errno=errno(5)", &err), 0);
    assert_true(site_if());
    assert_int_equal(site_errno(), -5);
}

static unsigned popcount_diff(const unsigned char *a, const unsigned char *b, size_t len)
{
    unsigned n = 0;
    for (size_t i = 0; i < len; i++) {
        n += (unsigned)__builtin_popcount(a[i] ^ b[i]);
    }
    return n;
}

static void mutations_mutate(void **state)
{
    (void)state;
    unsigned char buf[64];
    unsigned char was[64];
    static const struct
    {
        const char *program;
        unsigned bits;
    } flips[] = {{"bitflip", 1}, {"bitflip(3)", 3}, {"bitflip(100)", 100}, {"bitflip(9999)", 256}};
    for (size_t i = 0; i < sizeof flips / sizeof *flips; i++) {
        memset(buf, 0x5c, sizeof buf);
        memcpy(was, buf, sizeof buf);
        set("eval/mutate", flips[i].program);
        assert_int_equal(site_mutate(buf, 32), RGUARD_FP_BITFLIP);
        assert_int_equal(popcount_diff(buf, was, 32), flips[i].bits);
        assert_memory_equal(buf + 32, was + 32, 32);
    }
    assert_int_equal(site_mutate(buf, 0), RGUARD_FP_BITFLIP); /* no bit to flip */

    memset(buf, 0, sizeof buf);
    memset(was, 0, sizeof was);
    set("eval/mutate", "1*overrun(16)->1*double_free");
    assert_int_equal(site_mutate(buf, 32), RGUARD_FP_OVERRUN);
    assert_memory_equal(buf, was, 32);
    for (size_t i = 32; i < 48; i++) {
        assert_int_not_equal(buf[i], 0);
    }
    assert_memory_equal(buf + 48, was + 48, 16);
    assert_int_equal(site_mutate(buf, 32), RGUARD_FP_DOUBLE_FREE);
    assert_int_equal(site_mutate(buf, 32), RGUARD_FP_NONE);
}

static sigjmp_buf escape;
static void *volatile fault_address;

static void on_fault(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    fault_address = info->si_addr;
    siglongjmp(escape, 1);
}

/* The first byte past the end is the one that faults, and a jump out of it leaves nothing behind:
 * the next hit is counted and decided as ever. In a child, for cmocka has its own handlers. */
static void overrun_faults_at_the_end(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        size_t page = (size_t)sysconf(_SC_PAGESIZE);
        char *map =
            mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
        if (map == MAP_FAILED || mprotect(map + page, page, PROT_NONE) != 0 ||
            sigaction(SIGSEGV, &sa, NULL) != 0 ||
            rguard_fp_set("eval/mutate", "2*overrun(16)", NULL) != 0) {
            _exit(2);
        }
        for (int i = 0; i < 2; i++) {
            fault_address = NULL;
            if (sigsetjmp(escape, 1) == 0) {
                site_mutate(map + page - 40, 40);
                _exit(3);
            }
            if (fault_address != map + page) {
                _exit(4);
            }
        }
        struct rguard_fp_stat stat = {.size = sizeof stat};
        _exit(site_mutate(map, 40) == 0 && rguard_fp_stat("eval/mutate", &stat) == 0 &&
                      stat.fired >= 2
                  ? 0
                  : 5);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- chance ---------------------------------------------------------------------------------- */

#define HITS 1000000

static void percentages_hold(void **state)
{
    (void)state;
    static const struct
    {
        const char *program;
        double p;
    } cases[] = {
        {"0.1%return", 0.001}, {"1%return", 0.01}, {"50%return", 0.5}, {"99%return", 0.99}};
    rguard__fp_set_seed(7, "n1");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        set("eval/if", cases[i].program);
        double n = 0;
        for (int k = 0; k < HITS; k++) {
            n += site_if();
        }
        double off = n - HITS * cases[i].p;
        if (off * off > 25 * HITS * cases[i].p * (1 - cases[i].p)) {
            fail_msg("%s: fired %.0f of %d", cases[i].program, n, HITS);
        }
    }
}

#define SAMPLE 2000

static void sample(const char *program, unsigned char fired[SAMPLE])
{
    set("eval/if", program);
    for (int i = 0; i < SAMPLE; i++) {
        fired[i] = site_if();
    }
}

static void seeds_decide(void **state)
{
    (void)state;
    unsigned char a[SAMPLE];
    unsigned char b[SAMPLE];
    rguard__fp_set_seed(42, "n1");
    sample("10%return", a);
    sample("10%return", b); /* armed again: from the first ordinal again */
    assert_memory_equal(a, b, SAMPLE);
    rguard__fp_set_seed(43, "n1");
    sample("10%return", b);
    assert_memory_not_equal(a, b, SAMPLE);
    rguard__fp_set_seed(42, "n2");
    sample("10%return", b);
    assert_memory_not_equal(a, b, SAMPLE);
    rguard__fp_set_seed(42, "n1");
    set("eval/twin", "10%return");
    for (int i = 0; i < SAMPLE; i++) {
        b[i] = site_twin_a();
    }
    assert_memory_not_equal(a, b, SAMPLE);
    sample("10%return", b);
    assert_memory_equal(a, b, SAMPLE);
}

static void bits_are_chosen_by_the_seed(void **state)
{
    (void)state;
    unsigned char a[256] = {0};
    unsigned char b[256] = {0};
    rguard__fp_set_seed(42, "n1");
    set("eval/mutate", "bitflip(5)");
    site_mutate(a, sizeof a);
    set("eval/mutate", "bitflip(5)");
    site_mutate(b, sizeof b);
    assert_memory_equal(a, b, sizeof a);
    memset(b, 0, sizeof b);
    site_mutate(b, sizeof b); /* the second hit flips others */
    assert_memory_not_equal(a, b, sizeof a);
}

/* ---- threads --------------------------------------------------------------------------------- */

#define THREADS 8

static pthread_barrier_t start_line;

static void *hit_many(void *arg)
{
    long fired = 0;
    pthread_barrier_wait(&start_line);
    for (int i = 0; i < 20000; i++) {
        fired += site_if();
    }
    *(long *)arg = fired;
    return NULL;
}

/* 5 as promised; 50000, so that threads also meet in the middle of counting down. */
static void counts_are_exact_under_threads(void **state)
{
    (void)state;
    static const struct
    {
        const char *program;
        long fires;
    } cases[] = {{"5*return", 5}, {"50%5*return", 5}, {"50000*return", 50000}};
    assert_int_equal(pthread_barrier_init(&start_line, NULL, THREADS), 0);
    for (size_t round = 0; round < 18; round++) {
        struct rguard_fp_stat before = stat_of("eval/if");
        set("eval/if", cases[round % 3].program);
        pthread_t threads[THREADS];
        long fired[THREADS];
        long total = 0;
        for (int i = 0; i < THREADS; i++) {
            assert_int_equal(pthread_create(&threads[i], NULL, hit_many, &fired[i]), 0);
        }
        for (int i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
            total += fired[i];
        }
        assert_int_equal(total, cases[round % 3].fires);
        struct rguard_fp_stat after = stat_of("eval/if");
        assert_int_equal(after.fired - before.fired, total);
        assert_int_equal(after.hits - before.hits, THREADS * 20000);
    }
    pthread_barrier_destroy(&start_line);
}

struct sleeper
{
    int64_t woke_ns;
};

static void *sleep_in_site(void *arg)
{
    site_point();
    __atomic_store_n(&((struct sleeper *)arg)->woke_ns, now_ns(), __ATOMIC_RELEASE);
    return NULL;
}

/* Waits until @n more threads have fired, that is, are about to sleep. */
static void wait_fired(uint64_t before, uint64_t n)
{
    for (int i = 0; i < 5000 && stat_of("eval/point").fired < before + n; i++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    assert_int_equal(stat_of("eval/point").fired, before + n);
}

static void disarm_by_off(void)
{
    assert_int_equal(rguard_fp_off("eval/point"), 0);
}

static void disarm_by_set(void)
{
    set("eval/point", "print(another program)->off");
    assert_int_equal(rguard_fp_off("eval/point"), 0);
}

static void off_wakes_sleepers(void **state)
{
    (void)state;
    void (*const ways[])(void) = {disarm_by_off, disarm_by_set, rguard_fp_off_all};
    for (size_t way = 0; way < 3; way++) {
        pthread_t threads[3];
        struct sleeper sleepers[3] = {{0}, {0}, {0}};
        uint64_t before = stat_of("eval/point").fired;
        set("eval/point", "sleep(100s)");
        for (int i = 0; i < 3; i++) {
            assert_int_equal(pthread_create(&threads[i], NULL, sleep_in_site, &sleepers[i]), 0);
        }
        wait_fired(before, 3);
        int64_t start = now_ns();
        ways[way]();
        int64_t returned = now_ns();
        assert_true(returned - start < 50000000);
        for (int i = 0; i < 3; i++) {
            pthread_join(threads[i], NULL);
            assert_true(sleepers[i].woke_ns - start < 50000000);
        }
    }
}

static void ignore_signal(int sig)
{
    (void)sig;
    site_point(); /* inside another site: does nothing */
}

static void sleep_lasts_through_signals(void **state)
{
    (void)state;
    struct sigaction sa = {.sa_handler = ignore_signal};
    struct sigaction old;
    assert_int_equal(sigaction(SIGUSR1, &sa, &old), 0);
    struct sleeper s = {0};
    pthread_t thread;
    uint64_t before = stat_of("eval/point").fired;
    set("eval/point", "sleep(60ms)");
    int64_t start = now_ns();
    assert_int_equal(pthread_create(&thread, NULL, sleep_in_site, &s), 0);
    wait_fired(before, 1);
    for (int i = 0; i < 10; i++) {
        pthread_kill(thread, SIGUSR1);
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    }
    pthread_join(thread, NULL);
    assert_true(s.woke_ns - start >= 60000000);
    assert_int_equal(stat_of("eval/point").fired, before + 1);
    sigaction(SIGUSR1, &old, NULL);
}

static bool stop_churn;

static void *churn(void *arg)
{
    long *hits = arg;
    while (!__atomic_load_n(&stop_churn, __ATOMIC_RELAXED)) {
        (void)site_if();
        (void)site_errno();
        site_point();
        __atomic_add_fetch(hits, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

static bool all_above(const long hits[4], long n)
{
    bool above = true;
    for (int i = 0; i < 4; i++) {
        above = above && __atomic_load_n(&hits[i], __ATOMIC_RELAXED) > n;
    }
    return above;
}

/* Programs come and go under threads that evaluate and sleep in them; ASan and TSan look on. It
 * ends when every thread has come through often enough: one that stays asleep in a program that was
 * taken away would sleep 10 s. */
static void arming_races_with_hits(void **state)
{
    (void)state;
    pthread_t threads[4];
    long hits[4] = {0, 0, 0, 0};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, churn, &hits[i]), 0);
    }
    int64_t start = now_ns();
    for (int i = 0; i < 1500 || !all_above(hits, 20); i++) {
        assert_true(now_ns() - start < 8000000000);
        set("eval/if", i % 3 ? "10%return->5*return(0)" : "off");
        set("eval/errno", "50%2*errno(EIO)");
        set("eval/point", "20%sleep(20us)->1*sleep(10s)");
        if (i % 7 == 0) {
            rguard_fp_off_all();
        }
    }
    __atomic_store_n(&stop_churn, true, __ATOMIC_RELAXED);
    rguard_fp_off_all();
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
}

/* ---- processes ------------------------------------------------------------------------------- */

static void forked_child_keeps_the_program(void **state)
{
    (void)state;
    set("eval/value", "1*return(1)->2*return(2)->return(3)");
    struct sleeper s = {0};
    pthread_t thread;
    uint64_t before = stat_of("eval/point").fired;
    set("eval/point", "sleep(100s)"); /* a thread that the child will not have sleeps inside */
    assert_int_equal(pthread_create(&thread, NULL, sleep_in_site, &s), 0);
    wait_fired(before, 1);
    assert_int_equal(site_value(), 1);
    pid_t child = fork();
    if (child == 0) {
        bool ok = site_value() == 2 && site_value() == 2 && site_value() == 3 &&
                  rguard_fp_off("eval/point") == 0 &&
                  rguard_fp_set("eval/value", "return(8)", NULL) == 0 && site_value() == 8;
        _exit(ok ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(site_value(), 2); /* the parent's counts are its own */
    rguard_fp_off_all();
    pthread_join(thread, NULL);
}

/* Runs @program at eval/point in a child; its status, and what it wrote to stderr. */
static int run_child(const char *program, char *out, size_t cap)
{
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(fds[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        struct rguard_fp_error err;
        if (rguard_fp_set("eval/point", program, &err) != 0) {
            _exit(9);
        }
        site_point();
        _exit(0);
    }
    close(fds[1]);
    size_t n = 0;
    for (ssize_t got; n < cap - 1 && (got = read(fds[0], out + n, cap - 1 - n)) > 0;) {
        n += (size_t)got;
    }
    out[n] = '\0';
    close(fds[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void last_actions(void **state)
{
    (void)state;
    char out[512];
    int status = run_child("print(hello there)", out, sizeof out);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_string_equal(out, "raftguard: failpoint eval/point: hello there\n");
    status = run_child("print", out, sizeof out);
    assert_string_equal(out, "raftguard: failpoint eval/point: hit\n");
    status = run_child("panic(no way on)", out, sizeof out);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_string_equal(out, "raftguard: failpoint eval/point: no way on\n");
    status = run_child("abort", out, sizeof out);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_string_equal(out, "");
    status = run_child("kill", out, sizeof out);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    status = run_child("2*off->kill", out, sizeof out);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static sigjmp_buf abort_escape;

static void on_abort(int sig)
{
    (void)sig;
    siglongjmp(abort_escape, 1);
}

/* The guard's trap jumps out of a SIGABRT handler; the site must not be left half entered. */
static void abort_can_be_left_by_a_jump(void **state)
{
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        struct sigaction sa = {.sa_handler = on_abort};
        sigaction(SIGABRT, &sa, NULL);
        (void)rguard_fp_set("eval/point", "1*abort->1*abort", NULL);
        volatile int jumps = 0;
        for (int i = 0; i < 3; i++) {
            if (sigsetjmp(abort_escape, 1) == 0) {
                site_point();
            } else {
                jumps++;
            }
        }
        _exit(jumps == 2 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* The fault is in the trace ring although nothing ran after it. */
static void firing_is_traced_before_it_is_done(void **state)
{
    (void)state;
    char path[] = "/tmp/rguard-fp-trace-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    pid_t child = fork();
    if (child == 0) {
        bool ok =
            rguard_trace_open(path, 16) == 0 && rguard_fp_set("eval/point", "kill", NULL) == 0;
        if (ok) {
            site_point();
        }
        _exit(1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    struct rguard_trace_record r;
    assert_int_equal(pread(fd, &r, sizeof r, 4096), sizeof r);
    assert_int_equal(r.seq, 1);
    assert_int_equal(r.event, RGUARD_TRACE_FAULT);
    assert_int_equal(r.a, rguard__fp_hash("eval/point", strlen("eval/point")));
    assert_int_equal(r.b, RGUARD_FP_KILL);
    assert_int_equal(rguard__fp_hash("a", 1), 0xaf63dc4c8601ec8cu); /* FNV-1a 64, as published */
    close(fd);
    unlink(path);
}

/* ---- listing --------------------------------------------------------------------------------- */

struct seen
{
    int n;
    int twins;
    char last[FP_MAX_NAME + 1];
    char armed[64];
};

static void see(void *user, const struct rguard_fp_site *site, const char *spec)
{
    struct seen *s = user;
    assert_true(strcmp(s->last, site->name) <= 0);
    if (strncmp(site->name, "eval/", 5) != 0) {
        return; /* of something else that is linked into this program */
    }
    snprintf(s->last, sizeof s->last, "%s", site->name);
    s->n++;
    s->twins += strcmp(site->name, "eval/twin") == 0;
    if (*spec != '\0') {
        snprintf(s->armed, sizeof s->armed, "%s=%s", site->name, spec);
    }
    assert_non_null(strstr(site->file, "test_failpoint_eval.c"));
    assert_true(site->line > 0 && site->desc[0] != '\0' && site->function[0] != '\0');
}

static void sites_are_listed(void **state)
{
    (void)state;
    struct seen s = {0, 0, "", ""};
    set("eval/if", "  5*return  ");
    rguard_fp_foreach(see, &s);
    assert_int_equal(s.n, 7);
    assert_int_equal(s.twins, 2);
    assert_string_equal(s.armed, "eval/if=5*return");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(nothing_is_armed_at_first, off_all),
        cmocka_unit_test_teardown(first_term_that_fires_wins, off_all),
        cmocka_unit_test_teardown(counters_count, off_all),
        cmocka_unit_test_teardown(errno_is_kept, off_all),
        cmocka_unit_test_teardown(one_name_is_one_point, off_all),
        cmocka_unit_test_teardown(sites_refuse_what_they_cannot, off_all),
        cmocka_unit_test_teardown(mutations_mutate, off_all),
        cmocka_unit_test_teardown(overrun_faults_at_the_end, off_all),
        cmocka_unit_test_teardown(percentages_hold, off_all),
        cmocka_unit_test_teardown(seeds_decide, off_all),
        cmocka_unit_test_teardown(bits_are_chosen_by_the_seed, off_all),
        cmocka_unit_test_teardown(counts_are_exact_under_threads, off_all),
        cmocka_unit_test_teardown(off_wakes_sleepers, off_all),
        cmocka_unit_test_teardown(sleep_lasts_through_signals, off_all),
        cmocka_unit_test_teardown(arming_races_with_hits, off_all),
        cmocka_unit_test_teardown(forked_child_keeps_the_program, off_all),
        cmocka_unit_test_teardown(last_actions, off_all),
        cmocka_unit_test_teardown(abort_can_be_left_by_a_jump, off_all),
        cmocka_unit_test_teardown(firing_is_traced_before_it_is_done, off_all),
        cmocka_unit_test_teardown(sites_are_listed, off_all),
    };
    return cmocka_run_group_tests_name("failpoint_eval", tests, NULL, NULL);
}
