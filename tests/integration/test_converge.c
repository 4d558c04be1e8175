/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-converge as its user runs it, on real clusters: green with the detectors on, red with each
 * of them off (a switch that only the testing build of rguard-kv has), and nothing left behind. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define TEXT_MAX 65536

static char dir[64];        /* of this test */
static char out[96];        /* --out */
static pid_t running;       /* the tool while it runs: a failing test must not leave it behind */
static char text[TEXT_MAX]; /* what the last program printed, both streams */

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static int make_dir(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/test-converge-XXXXXX");
    if (mkdtemp(dir) == NULL) {
        return -1;
    }
    snprintf(out, sizeof out, "%s/out", dir);
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

static int remove_dir(void **state)
{
    (void)state;
    if (running > 0) {
        kill(running, SIGKILL);
        waitpid(running, NULL, 0);
        running = 0;
    }
    return nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *read_file(const char *path)
{
    FILE *f = fopen(path, "re");
    size_t n = f != NULL ? fread(text, 1, sizeof text - 1, f) : 0;
    text[n] = '\0';
    if (f != NULL) {
        fclose(f);
    }
    return text;
}

/* Starts the tool with the words of @args (split at blanks); @off goes into RGUARD_TEST_OFF. */
static pid_t start(const char *off, const char *args)
{
    char words[512], tool[PATH_MAX], kv[PATH_MAX], log[96];
    char *argv[32] = {tool};
    size_t n = 1;
    const char *bin = getenv("RGUARD_BIN"), *testing = getenv("RGUARD_TESTING_BIN");
    assert_non_null(bin);
    assert_non_null(testing);
    snprintf(tool, sizeof tool, "%s/rguard-converge", bin);
    snprintf(kv, sizeof kv, "%s/rguard-kv", testing);
    snprintf(words, sizeof words, "%s", args);
    snprintf(log, sizeof log, "%s/log", dir);
    for (char *w = strtok(words, " "); w != NULL && n < 31; w = strtok(NULL, " ")) {
        argv[n++] = w;
    }
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int fd = open(log, O_WRONLY | O_CREAT | O_TRUNC, 0600);
        dup2(fd, 1);
        dup2(fd, 2);
        setenv("RGUARD_TEST_OFF", off, 1);
        if (getenv("CV_TEST_NO_KV") == NULL) {
            setenv("RGUARD_KV", kv, 1);
        }
        execv(tool, argv);
        _exit(127);
    }
    running = pid;
    return pid;
}

static int finish(pid_t pid)
{
    char log[96];
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    running = 0;
    snprintf(log, sizeof log, "%s/log", dir);
    read_file(log);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static int run(const char *off, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static int run(const char *off, const char *fmt, ...)
{
    char args[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(args, sizeof args, fmt, ap);
    va_end(ap);
    return finish(start(off, args));
}

static void printed(const char *words)
{
    if (strstr(text, words) == NULL) {
        fail_msg("'%s' was not printed; this was: %s", words, text);
    }
}

static void code(int got, int expected)
{
    if (got != expected) {
        fail_msg("exit code %d instead of %d: %s", got, expected, text);
    }
}

/* Processes whose working directory lies below ours. */
static unsigned processes(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        char link[300], cwd[PATH_MAX];
        snprintf(link, sizeof link, "/proc/%s/cwd", e->d_name);
        ssize_t len = readlink(link, cwd, sizeof cwd - 1);
        cwd[len > 0 ? len : 0] = '\0';
        n += strncmp(cwd, dir, strlen(dir)) == 0;
    }
    closedir(d);
    return n;
}

/* Directories of runs that are still there. */
static unsigned kept(void)
{
    unsigned n = 0;
    DIR *d = opendir(out);
    for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;) {
        n += strncmp(e->d_name, "run-", 4) == 0;
    }
    if (d != NULL) {
        closedir(d);
    }
    return n;
}

/* ---- usage ----------------------------------------------------------------------------------- */

static void bad_usage_is_64(void **state)
{
    (void)state;
    code(run("", "--fault nonsense"), 64);
    printed("rguard-converge: --fault: 'nonsense' is no fault; known:");
    printed("oob_write");
    code(run("", "--fault oob_write,ctrl"), 64);
    printed("'ctrl' is not offered by this version");
    code(run("", "--fault kill,kill"), 64);
    code(run("", "--baseline etcd"), 64);
    printed("etcd is not offered by this version");
    static const char *const bad[] = {
        "--wrong",      "--runs",         "--runs 0",      "--runs -1",         "--runs 3x",
        "--nodes 2",    "--nodes 8",      "--role none",   "--engine lmdb",     "--handover maybe",
        "--baseline x", "--election 0",   "stray",         "--seed zz",         "--fault ",
        "-x",           "--heartbeat 99", "--engine none", "--fault oob_write,"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        code(run("", "%s", bad[i]), 64);
        printed("rguard-converge: ");
    }
    assert_int_equal(access(out, F_OK), -1);
}

static void information_needs_no_cluster(void **state)
{
    (void)state;
    code(run("", "--list"), 0);
    printed("oob_write");
    printed("double_free");
    printed("leader, follower");
    code(run("", "--version"), 0);
    code(run("", "--help"), 0);
    printed("--baseline");
}

static void what_cannot_run_is_1(void **state)
{
    (void)state;
    code(run("", "--out /proc/nowhere"), 1);
    printed("rguard-converge: /proc/nowhere: ");
    setenv("RGUARD_KV", "/nowhere/rguard-kv", 1);
    setenv("CV_TEST_NO_KV", "1", 1);
    int rc = run("", "--out %s", out);
    unsetenv("CV_TEST_NO_KV");
    unsetenv("RGUARD_KV");
    code(rc, 1);
    printed("/nowhere/rguard-kv: No such file");
}

/* ---- runs ------------------------------------------------------------------------------------ */

static void detectors_on_is_green(void **state)
{
    (void)state;
    char path[128];
    code(run("", "--fault oob_write,double_free --runs 1 --seed 0x5eed --out %s", out), 0);
    printed("leader/oob_write: 1/1 correct");
    printed("0 acked lost by raftguard, seed 0x5eed");
    printed("published");
    snprintf(path, sizeof path, "%s/run.json", out);
    read_file(path);
    printed("\"schema\": \"raftguard.converge/1\"");
    printed("\"by_notice\": true");
    printed("\"logs_checked\": 3");
    printed("violation=slot_guard");
    printed("violation=double_free");
    snprintf(path, sizeof path, "%s/report.html", out);
    read_file(path);
    printed("<h1>leader/oob_write: 1/1 correct");
    assert_int_equal(kept(), 0);
    assert_int_equal(processes(), 0);
}

static void without_guard_pages_it_is_unsafe(void **state)
{
    (void)state;
    code(run("guard_pages", "--fault oob_write --runs 1 --out %s", out), 5);
    printed("nothing noticed it");
    assert_int_equal(kept(), 1); /* evidence stays */
}

static void without_the_trap_the_process_dies(void **state)
{
    (void)state;
    code(run("trap", "--fault oob_write --runs 1 --out %s", out), 3);
    printed("died unasked: signal 11");
}

static void without_the_refused_free_replicas_differ(void **state)
{
    (void)state;
    code(run("double_free", "--fault double_free --runs 1 --out %s", out), 5);
    printed("digest");
}

static void a_killed_follower_and_the_baseline(void **state)
{
    (void)state;
    code(run("", "--fault kill --role follower --runs 1 --baseline libraft --json --out %s", out),
         0);
    printed("\"system\": \"libraft\"");
    printed("\"role\": \"follower\"");
}

/* ---- interruption ---------------------------------------------------------------------------- */

/* Waits until all three nodes of a run are there. */
static void wait_for_nodes(void)
{
    for (int i = 0; i < 500 && processes() < 3; i++) {
        pause_ms(10);
    }
    assert_int_equal(processes(), 3);
}

static void ctrl_c_leaves_nothing(void **state)
{
    (void)state;
    char args[160];
    snprintf(args, sizeof args, "--fault kill --runs 5 --out %s", out);
    pid_t pid = start("", args);
    wait_for_nodes();
    kill(pid, SIGINT);
    code(finish(pid), 130);
    assert_int_equal(processes(), 0);
    assert_int_equal(kept(), 0);
}

static void nodes_die_with_a_killed_supervisor(void **state)
{
    (void)state;
    char args[160];
    snprintf(args, sizeof args, "--fault kill --runs 5 --out %s", out);
    pid_t pid = start("", args);
    wait_for_nodes();
    kill(pid, SIGKILL);
    assert_int_equal(finish(pid), -SIGKILL);
    for (int i = 0; i < 200 && processes() > 0; i++) {
        pause_ms(10);
    }
    assert_int_equal(processes(), 0);
}

#define RUN(f) cmocka_unit_test_setup_teardown(f, make_dir, remove_dir)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(bad_usage_is_64),
        RUN(information_needs_no_cluster),
        RUN(what_cannot_run_is_1),
        RUN(detectors_on_is_green),
        RUN(without_guard_pages_it_is_unsafe),
        RUN(without_the_trap_the_process_dies),
        RUN(without_the_refused_free_replicas_differ),
        RUN(a_killed_follower_and_the_baseline),
        RUN(ctrl_c_leaves_nothing),
        RUN(nodes_die_with_a_killed_supervisor),
    };
    return cmocka_run_group_tests_name("converge", tests, NULL, NULL);
}
