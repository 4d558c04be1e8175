/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-wal-oracle: does the log keep what it has promised, whatever the disk does?
 *
 * Runs cases of four classes in parallel processes, prints what it has seen, and stops at the first
 * case that fails: it is run again with as little as still fails, and told step by step. */
#include "wal_case.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK    128u
#define MAX_JOBS 64

static const char *const class_names[] = {
#define CASE_NAME(name, text) text,
    CASE_CLASSES(CASE_NAME)
#undef CASE_NAME
};

struct options
{
    uint64_t seed;
    uint64_t cases[CASE_CLASS_COUNT];
    int class; /* -1: all */
    bool one;  /* only case `number` of `class` */
    uint64_t number;
    unsigned jobs;
    bool verbose;
    bool keep_going;
    const char *export_to;
};

/* What the processes share. */
struct board
{
    _Atomic uint64_t next[CASE_CLASS_COUNT]; /* chunk to take */
    _Atomic uint64_t done[CASE_CLASS_COUNT];
    _Atomic uint64_t verdicts[CASE_CLASS_COUNT][CHECK_VERDICTS];
    _Atomic uint64_t losses[CASE_CLASS_COUNT];
    _Atomic uint64_t repaired[CASE_CLASS_COUNT];
    _Atomic uint64_t crashes;
    _Atomic uint64_t at[MAX_JOBS]; /* class << 56 | number of the case that a process is at */
    _Atomic uint64_t failures;     /* with --keep-going */
    _Atomic uint64_t failed;       /* class << 56 | number + 1 of the first failure */
};

static void usage(FILE *to)
{
    fprintf(
        to,
        "usage: rguard-wal-oracle [--seed N] [--crash N] [--single N] [--double N]"
        " [--stale N] [--jobs N]\n"
        "       rguard-wal-oracle --seed N --class NAME --case K [--verbose]\n"
        "\n"
        "Checks the write-ahead log on a simulated disk against a model of what was promised.\n"
        "  --crash N    logs with a power failure at every operation (default 10000)\n"
        "  --single N   logs with one fault at rest (default 1000000)\n"
        "  --double N   with two (default 100000)\n"
        "  --stale N    with blocks of an earlier epoch behind the end (default 10000)\n"
        "  --seed N     decides everything (default: random, printed)\n"
        "  --jobs N     processes (default: one per processor)\n"
        "  --class, --case   one case again, as a failure has named it\n"
        "  --export F   with --case, single or double: the directory as an image for the fuzzer\n"
        "  --keep-going      name every case that fails, and go on\n"
        "exit codes: 0 every property held, 1 a property was violated, 64 bad usage\n");
}

/* ---- running ---- */

static void add(struct board *b, const struct case_run *c)
{
    for (size_t v = 0; v < CHECK_VERDICTS; v++) {
        atomic_fetch_add(&b->verdicts[c->class][v], c->tally.verdicts[v]);
    }
    atomic_fetch_add(&b->losses[c->class], c->tally.losses);
    atomic_fetch_add(&b->repaired[c->class], c->tally.repaired);
    atomic_fetch_add(&b->crashes, c->crashes);
}

/* Takes chunk after chunk of a class. */
static void work_class(const struct options *o, struct board *b, enum case_class class,
                       unsigned job)
{
    struct case_run c = {.seed = o->seed, .class = class};
    while (atomic_load(&b->failed) == 0) {
        uint64_t from = atomic_fetch_add(&b->next[class], CHUNK);
        uint64_t to = from + CHUNK < o->cases[class] ? from + CHUNK : o->cases[class];
        if (from >= to) {
            break;
        }
        for (c.number = from; c.number < to && atomic_load(&b->failed) == 0; c.number++) {
            atomic_store(&b->at[job], (uint64_t) class << 56 | c.number);
            if (case_run(&c) != 0) {
                uint64_t none = 0;
                if (o->keep_going) {
                    printf("%s case %" PRIu64 ": %s\n", class_names[class], c.number, c.why);
                    fflush(stdout);
                    atomic_fetch_add(&b->failures, 1);
                    continue;
                }
                atomic_compare_exchange_strong(&b->failed, &none,
                                               (uint64_t) class << 56 | (c.number + 1));
            }
            atomic_fetch_add(&b->done[class], 1);
        }
        add(b, &c);
        memset(&c.tally, 0, sizeof c.tally);
        c.crashes = 0;
    }
    case_end(&c);
}

static void work(const struct options *o, struct board *b, unsigned job)
{
    for (int class = 0; class < CASE_CLASS_COUNT; class ++) {
        work_class(o, b, (enum case_class) class, job);
    }
}

static void progress(const struct options *o, struct board *b, bool last)
{
    static struct timespec before;
    struct timespec now;
    bool terminal = isatty(STDERR_FILENO) != 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (!last && now.tv_sec - before.tv_sec < (terminal ? 1 : 30)) {
        return;
    }
    before = now;
    fprintf(stderr, "%s", terminal ? "\r" : "");
    for (size_t i = 0; i < CASE_CLASS_COUNT; i++) {
        fprintf(stderr, "%s %" PRIu64 "/%" PRIu64 "  ", class_names[i], atomic_load(&b->done[i]),
                o->cases[i]);
    }
    fprintf(stderr, "%s", terminal && !last ? "" : "\n");
}

/* ---- results ---- */

static void summary(const struct options *o, struct board *b, double seconds)
{
    printf("%-8s %9s", "class", "cases");
    for (uint32_t v = 0; v < CHECK_VERDICTS; v++) {
        printf(" %12s", rguard_wal_verdict_name(v));
    }
    printf(" %14s %9s\n", "lost, reported", "repaired");
    for (size_t i = 0; i < CASE_CLASS_COUNT; i++) {
        printf("%-8s %9" PRIu64, class_names[i], atomic_load(&b->done[i]));
        for (size_t v = 0; v < CHECK_VERDICTS; v++) {
            printf(" %12" PRIu64, atomic_load(&b->verdicts[i][v]));
        }
        printf(" %14" PRIu64 " %9" PRIu64 "\n", atomic_load(&b->losses[i]),
               atomic_load(&b->repaired[i]));
    }
    printf("seed %" PRIu64 ", %" PRIu64 " power failures, %.1f s\n", o->seed,
           atomic_load(&b->crashes), seconds);
}

/* Runs a failing case again with less and less, then tells the least of it that still fails. */
static void explain(const struct options *o, enum case_class class, uint64_t number)
{
    struct case_run c = {.seed = o->seed, .class = class, .number = number};
    (void)case_run(&c);
    unsigned steps = 0;
    for (unsigned n = 1; class == CASE_CRASH && n < c.steps_made && steps == 0; n++) {
        struct case_run less = {.seed = o->seed, .class = class, .number = number, .steps = n};
        steps = case_run(&less) != 0 ? n : 0;
        case_end(&less);
    }
    c.steps = steps;
    for (unsigned n = 1; class == CASE_DOUBLE && n <= 2 && c.only_fault == 0; n++) {
        struct case_run less = {.seed = o->seed, .class = class, .number = number, .only_fault = n};
        c.only_fault = case_run(&less) != 0 ? n : 0;
        case_end(&less);
    }
    case_end(&c);
    c.print = true;
    c.export_to = o->export_to;
    int rc = case_run(&c);
    printf("%s: %s case %" PRIu64 " of seed %" PRIu64 "\n",
           rc != 0 ? c.why : "it does not fail when it is run again", class_names[class], number,
           o->seed);
    printf("again: rguard-wal-oracle --seed %" PRIu64 " --class %s --case %" PRIu64 "\n", o->seed,
           class_names[class], number);
    case_end(&c);
}

static int run_one(const struct options *o)
{
    struct case_run c = {.seed = o->seed,
                         .class = (enum case_class)o->class,
                         .number = o->number,
                         .export_to = o->export_to};
    int rc = case_run(&c);
    case_end(&c);
    if (rc != 0 || o->verbose) {
        explain(o, (enum case_class)o->class, o->number);
    } else {
        printf("the case holds\n");
    }
    return rc == 0 ? 0 : 1;
}

static int run_all(const struct options *o)
{
    struct board *b =
        mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[MAX_JOBS];
    struct timespec start, end;
    unsigned running = 0;
    bool died = false;
    if (b == MAP_FAILED) {
        fprintf(stderr, "rguard-wal-oracle: memory: %s\n", strerror(errno));
        return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (; running < o->jobs; running++) {
        pids[running] = fork();
        if (pids[running] == 0) {
            work(o, b, running);
            _exit(0);
        }
        if (pids[running] < 0) {
            fprintf(stderr, "rguard-wal-oracle: fork: %s\n", strerror(errno));
            died = true;
            break;
        }
    }
    for (unsigned left = running; left > 0;) {
        int status;
        for (unsigned i = 0; i < running; i++) {
            if (pids[i] > 0 && waitpid(pids[i], &status, WNOHANG) == pids[i]) {
                if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
                    uint64_t at = atomic_load(&b->at[i]);
                    printf("a process died (status %d) at: rguard-wal-oracle --seed %" PRIu64
                           " --class %s --case %" PRIu64 "\n",
                           status, o->seed, class_names[at >> 56], at & UINT64_C(0xffffffffffffff));
                    died = true;
                }
                pids[i] = 0;
                left--;
            }
        }
        progress(o, b, left == 0);
        struct timespec pause = {0, 20 * 1000 * 1000};
        nanosleep(&pause, NULL);
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    summary(o, b,
            (double)(end.tv_sec - start.tv_sec) + (double)(end.tv_nsec - start.tv_nsec) / 1e9);
    uint64_t failed = atomic_load(&b->failed);
    if (failed != 0) {
        explain(o, (enum case_class)(failed >> 56), (failed & 0xffffffffffffffULL) - 1);
    }
    return failed == 0 && atomic_load(&b->failures) == 0 && !died ? 0 : 1;
}

/* ---- command line ---- */

static bool number(const char *text, uint64_t *out)
{
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 0);
    return errno == 0 && *text != '\0' && *text != '-' && *end == '\0';
}

static int find_class(const char *name)
{
    for (int i = 0; i < CASE_CLASS_COUNT; i++) {
        if (strcmp(name, class_names[i]) == 0) {
            return i;
        }
    }
    return -1;
}

static bool parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {{"crash", 1, NULL, CASE_CRASH},
                                          {"single", 1, NULL, CASE_SINGLE},
                                          {"double", 1, NULL, CASE_DOUBLE},
                                          {"stale", 1, NULL, CASE_STALE},
                                          {"seed", 1, NULL, 's'},
                                          {"class", 1, NULL, 'C'},
                                          {"case", 1, NULL, 'k'},
                                          {"jobs", 1, NULL, 'j'},
                                          {"verbose", 0, NULL, 'v'},
                                          {"keep-going", 0, NULL, 'g'},
                                          {"export", 1, NULL, 'x'},
                                          {"help", 0, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int option;
    uint64_t n = 0;
    while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        bool good = option != '?';
        if (option == 'h') {
            usage(stdout);
            exit(0);
        } else if (option == 'v') {
            o->verbose = true;
        } else if (option == 'x') {
            o->export_to = optarg;
        } else if (option == 'g') {
            o->keep_going = true;
        } else if (option == 'C') {
            o->class = find_class(optarg);
            good = o->class >= 0;
        } else if (good && (good = number(optarg, &n))) {
            if (option < CASE_CLASS_COUNT) {
                o->cases[option] = n;
            } else if (option == 's') {
                o->seed = n;
            } else if (option == 'k') {
                o->number = n;
                o->one = true;
            } else {
                o->jobs = n > 0 && n <= MAX_JOBS ? (unsigned)n : 1;
            }
        }
        if (!good) {
            return false;
        }
    }
    return optind == argc && (!o->one || o->class >= 0);
}

int main(int argc, char **argv)
{
    struct timespec now;
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    clock_gettime(CLOCK_REALTIME, &now);
    struct options o = {
        .seed = ((uint64_t)now.tv_sec << 20 ^ (uint64_t)now.tv_nsec) & 0xffffffff,
        .cases = {10000, 1000000, 100000, 10000},
        .class = -1,
        .jobs = processors > 0 && processors <= MAX_JOBS ? (unsigned)processors : 1};
    if (!parse(argc, argv, &o)) {
        usage(stderr);
        return 64;
    }
    return o.one ? run_one(&o) : run_all(&o);
}
