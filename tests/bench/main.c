/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-bench: runs the rows and reports them.
 *
 * Each row is measured in a process of its own, so that no row inherits another's heap, page tables
 * or crash, and one that hangs is ended. The parent keeps the results in shared memory, removes
 * the row's directory whatever became of it, and is the only one that has to clean up. */
#include "bench.h"

#include "../converge/converge.h"

#include <errno.h>
#include <fnmatch.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include <raftguard/error.h>
#include <raftguard/version.h>

#define MAX_ROWS 64u

struct options
{
    const char *only, *dir;
    double seconds;
    bool json;
};

static const char usage_text[] =
    "usage: rguard-bench [--only PATTERN] [--seconds S] [--dir DIR] [--json]\n"
    "Measures each figure beside its anchor, in turns, and prints their ratio.\n"
    "  --only PATTERN  rows whose name matches (shell pattern, or a part of the name)\n"
    "  --seconds S     time to measure each row (5; wal.segment_switch takes what it needs, up to\n"
    "                  five times that)\n"
    "  --dir DIR       where bench.json goes and files are made meanwhile: the file system that\n"
    "                  is measured (build/bench)\n"
    "  --json          prints bench.json instead of the table\n"
    "  --list          prints the rows and their goals\n"
    "  --help --version\n"
    "exit: 0 every row was measured, whether or not it met its goal, or skipped because this "
    "build\n"
    "lacks what it needs; 1 a row could not run; 64 bad usage\n";

static volatile sig_atomic_t interrupted;
static volatile sig_atomic_t row_pid; /* 0: none */

static void on_signal(int sig)
{
    interrupted = sig;
    if (row_pid > 0) {
        (void)kill(row_pid, SIGKILL);
    }
}

static void on_alarm(int sig)
{
    (void)sig;
    if (row_pid > 0) {
        (void)kill(row_pid, SIGKILL);
    }
}

static void set_up_signals(void)
{
    struct sigaction stop = {.sa_handler = on_signal}, late = {.sa_handler = on_alarm};
    (void)sigaction(SIGINT, &stop, NULL);
    (void)sigaction(SIGTERM, &stop, NULL);
    (void)sigaction(SIGHUP, &stop, NULL);
    (void)sigaction(SIGALRM, &late, NULL);
    (void)signal(SIGXFSZ, SIG_IGN); /* a file size limit is an error, not a death */
}

static bool wanted(const struct options *o, const struct bench_row *row)
{
    return o->only == NULL || strstr(row->name, o->only) != NULL ||
           fnmatch(o->only, row->name, 0) == 0;
}

/* ---- one row ---- */

__attribute__((noreturn)) static void run_child(const struct bench_row *row, struct bench *b,
                                                pid_t parent)
{
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)signal(SIGINT, SIG_IGN); /* the parent decides, and ends us */
    (void)signal(SIGTERM, SIG_DFL);
    (void)signal(SIGHUP, SIG_DFL);
    if (getppid() != parent) {
        _exit(1);
    }
    int rc = row->measure(b);
    _exit(rc == 0 ? 0 : rc == BENCH_SKIPPED ? 2 : 1);
}

/* The exit status of the row's process, or -1 when it was ended. */
static int run_process(const struct bench_row *row, struct bench *b)
{
    sigset_t block, before;
    sigemptyset(&block);
    sigaddset(&block, SIGINT);
    sigaddset(&block, SIGTERM);
    sigaddset(&block, SIGHUP);
    /* Until row_pid is known, nobody may be told to kill it. */
    (void)sigprocmask(SIG_BLOCK, &block, &before);
    pid_t parent = getpid(), pid = fork();
    if (pid == 0) {
        (void)sigprocmask(SIG_SETMASK, &before, NULL);
        run_child(row, b, parent);
    }
    if (pid < 0) {
        (void)sigprocmask(SIG_SETMASK, &before, NULL);
        return bench_failed(b, "fork", -errno);
    }
    row_pid = pid;
    (void)sigprocmask(SIG_SETMASK, &before, NULL);
    (void)alarm((unsigned)(b->seconds * 10) + 120);
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    row_pid = 0;
    (void)alarm(0);
    if (WIFSIGNALED(status)) {
        bench_note(b, "%sended by signal %d (%s)", b->note[0] != '\0' ? "; " : "", WTERMSIG(status),
                   WTERMSIG(status) == SIGKILL ? "took too long" : "crashed");
        return -1;
    }
    return WEXITSTATUS(status);
}

static void run_row(const struct options *o, const struct bench_row *row, struct bench_result *r)
{
    char dir[4096];
    (void)snprintf(dir, sizeof dir, "%s/tmp-%d", o->dir, (int)getpid());
    memset(r, 0, sizeof *r);
    r->row = row;
    r->ratio = (double)NAN;
    r->bench.dir = dir;
    r->bench.seconds = o->seconds;
    int rc =
        mkdir(dir, 0700) != 0 ? bench_failed(&r->bench, dir, -errno) : run_process(row, &r->bench);
    bench_remove_tree(dir);
    r->bench.dir = NULL;
    r->state = rc == 2 ? BENCH_SKIPPED_ROW : rc != 0 ? BENCH_FAILED : BENCH_MISSED;
    if (rc == 0) {
        r->ratio = r->bench.value / r->bench.anchor_value;
        bool met = !r->bench.unmet && bench_goal_met(row->goal, r->ratio);
        r->state = met ? BENCH_MET : BENCH_MISSED;
    }
    if (getloadavg(&r->load1, 1) != 1) {
        r->load1 = (double)NAN;
    }
}

static int save(const struct options *o, const struct bench_result *results, size_t n)
{
    char path[4096];
    struct cv_text text = {0};
    bench_json(results, n, &text);
    (void)snprintf(path, sizeof path, "%s/bench.json", o->dir);
    int rc = cv_text_save(&text, path);
    if (o->json) {
        fputs(text.data, stdout);
    }
    if (rc != 0) {
        fprintf(stderr, "rguard-bench: %s: %s\n", path, strerror(-rc));
    }
    cv_text_free(&text);
    return rc;
}

static int run_rows(const struct options *o)
{
    struct bench_result *results = mmap(NULL, MAX_ROWS * sizeof *results, PROT_READ | PROT_WRITE,
                                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (results == MAP_FAILED) {
        fprintf(stderr, "rguard-bench: shared memory: %s\n", strerror(errno));
        return 1;
    }
    size_t n = 0;
    int code = 0;
    for (const struct bench_row *row = bench_rows; row->name != NULL && n < MAX_ROWS; row++) {
        if (!wanted(o, row)) {
            continue;
        }
        run_row(o, row, &results[n]);
        if (interrupted != 0) {
            break;
        }
        if (!o->json) {
            bench_print_row(&results[n]);
        }
        if (results[n].state == BENCH_FAILED) {
            fprintf(stderr, "rguard-bench: %s: %s\n", row->name, results[n].bench.note);
            code = 1;
        }
        n++;
    }
    if (interrupted == 0 && save(o, results, n) != 0) {
        code = 1;
    }
    (void)munmap(results, MAX_ROWS * sizeof *results);
    return code;
}

/* ---- the command line ---- */

__attribute__((noreturn)) static void usage_error(const char *what)
{
    fprintf(stderr, "rguard-bench: %s\n%s", what, usage_text);
    exit(EX_USAGE);
}

static void list_rows(void)
{
    for (const struct bench_row *row = bench_rows; row->name != NULL; row++) {
        printf("%-29s %-12s against %s\n", row->name, row->goal, row->anchor);
    }
}

static void parse(struct options *o, int argc, char **argv)
{
    static const struct option longs[] = {
        {"only", required_argument, NULL, 'o'}, {"seconds", required_argument, NULL, 's'},
        {"dir", required_argument, NULL, 'd'},  {"json", no_argument, NULL, 'j'},
        {"list", no_argument, NULL, 'l'},       {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, 'v'},    {0}};
    int c;
    char *end;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
            case 'o':
                o->only = optarg;
                break;
            case 's':
                o->seconds = strtod(optarg, &end);
                if (*optarg == '\0' || *end != '\0' || !(o->seconds > 0 && o->seconds <= 3600)) {
                    usage_error("--seconds: not a number from 0 to 3600");
                }
                break;
            case 'd':
                o->dir = optarg;
                break;
            case 'j':
                o->json = true;
                break;
            case 'l':
                list_rows();
                exit(0);
            case 'h':
                fputs(usage_text, stdout);
                exit(0);
            case 'v':
                printf("rguard-bench %s\n", RGUARD_VERSION_STRING);
                exit(0);
            default:
                fputs(usage_text, stderr);
                exit(EX_USAGE);
        }
    }
    if (optind != argc) {
        usage_error("it takes no arguments");
    }
    bool any = false;
    for (const struct bench_row *row = bench_rows; row->name != NULL; row++) {
        any = any || wanted(o, row);
    }
    if (!any) {
        usage_error("--only: no row matches (--list prints them)");
    }
}

static int make_dir(const char *dir)
{
    char path[4096];
    (void)snprintf(path, sizeof path, "%s", dir);
    for (char *p = path + 1; *p != '\0'; p++) {
        if (*p == '/') {
            *p = '\0';
            (void)mkdir(path, 0755);
            *p = '/';
        }
    }
    return mkdir(path, 0755) != 0 && errno != EEXIST ? -errno : 0;
}

int main(int argc, char **argv)
{
    struct options o = {.dir = "build/bench", .seconds = 5};
    struct cv_machine machine = {0};
    parse(&o, argc, argv);
    set_up_signals();
    int rc = make_dir(o.dir);
    rc = rc == 0 ? cv_machine_measure(&machine, o.dir) : rc;
    if (rc != 0) {
        fprintf(stderr, "rguard-bench: %s: %s\n", o.dir, strerror(-rc));
        return 1;
    }
    if (!o.json) {
        bench_print_head(&machine);
    }
    int code = run_rows(&o);
    cv_samples_free(&machine.fsync_us);
    cv_samples_free(&machine.rtt_us);
    if (interrupted != 0) {
        (void)signal(interrupted, SIG_DFL);
        (void)raise(interrupted);
    }
    return code;
}
