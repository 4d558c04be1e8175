/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-bench as a user runs it: the rows of the design, the file it leaves, its exit codes, and
 * that it leaves nothing else, however it ends. What the figures are is no matter here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>
#include <unistd.h>

static char out[16384];

static int setup(void **state)
{
    static char dir[128];
    const char *tmp = getenv("TMPDIR");
    snprintf(dir, sizeof dir, "%s/rguard-bench-XXXXXX", tmp != NULL ? tmp : "/tmp");
    *state = mkdtemp(dir);
    return *state != NULL ? 0 : -1;
}

static int teardown(void **state)
{
    char path[200];
    snprintf(path, sizeof path, "%s/bench.json", (char *)*state);
    unlink(path);
    return rmdir(*state); /* fails the test when anything else was left behind */
}

/* Runs `PREFIX BIN/rguard-bench ARGS`, both streams into out; its exit code. */
static int bench(const char *prefix, const char *args)
{
    const char *bin = getenv("RGUARD_BIN");
    char command[1024];
    assert_non_null(bin);
    snprintf(command, sizeof command, "%s '%s/rguard-bench' %s 2>&1", prefix, bin, args);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = fread(out, 1, sizeof out - 1, f);
    out[n] = '\0';
    int status = pclose(f);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Is there a name in @dir that begins with @prefix? */
static bool has(const char *dir, const char *prefix)
{
    bool found = false;
    DIR *d = opendir(dir);
    const struct dirent *entry;
    while (d != NULL && (entry = readdir(d)) != NULL) {
        found = found || strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    }
    if (d != NULL) {
        closedir(d);
    }
    return found;
}

/* WAL.md's table. */
static void test_rows_and_goals_are_the_designs(void **state)
{
    static const char *const rows[][2] = {{"wal.append_4k_qd1", "ratio<=1.05"},
                                          {"wal.append_4k_qd1_thread", "ratio<=1.15"},
                                          {"wal.append_64x512", "ratio>=0.80"},
                                          {"wal.append_64x512_vs_raft_uv", "ratio>=5"},
                                          {"wal.append_25ms_arrivals", "ratio<=1.10"},
                                          {"wal.cpu_per_512B_record", "ratio<=4"},
                                          {"wal.crc32c_4k", "ratio>=0.9"},
                                          {"wal.scan_hot", "ratio>=0.35"},
                                          {"wal.scan_cold", "ratio>=0.9"},
                                          {"wal.segment_switch", "ratio<=2"}};
    (void)state;
    assert_int_equal(bench("", "--list"), 0);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char line[80];
        snprintf(line, sizeof line, "%-29s %-12s", rows[i][0], rows[i][1]);
        assert_non_null(strstr(out, line));
    }
}

static void test_usage(void **state)
{
    (void)state;
    assert_int_equal(bench("", "--help"), 0);
    assert_non_null(strstr(out, "--seconds"));
    assert_int_equal(bench("", "--version"), 0);
    assert_memory_equal(out, "rguard-bench 0.", 15);
    static const char *const bad[] = {"--seconds 0",  "--seconds -1",  "--seconds 5x",
                                      "--seconds ''", "--only nosuch", "--nosuch",
                                      "extra"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(bench("", bad[i]), 64);
    }
}

static void test_json_is_what_the_file_holds(void **state)
{
    char args[300], path[200];
    static char file[16384];
    snprintf(args, sizeof args, "--json --only 'wal.c*' --seconds 0.05 --dir '%s'", (char *)*state);
    assert_int_equal(bench("", args), 0);
    snprintf(path, sizeof path, "%s/bench.json", (char *)*state);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    file[fread(file, 1, sizeof file - 1, f)] = '\0';
    fclose(f);
    assert_string_equal(out, file);
    static const char *const keys[] = {"name",         "value", "unit", "anchor",
                                       "anchor_value", "ratio", "goal", "ok"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        char key[40];
        snprintf(key, sizeof key, "\"%s\":", keys[i]);
        assert_non_null(strstr(out, key));
    }
    assert_int_equal(out[0], '[');
    assert_non_null(strstr(out, "\"wal.cpu_per_512B_record\""));
    assert_non_null(strstr(out, "\"wal.crc32c_4k\""));
    assert_null(strstr(out, "\"wal.scan_hot\""));
}

static void test_a_real_log_on_a_real_disk(void **state)
{
    char args[300];
    snprintf(args, sizeof args, "--only append_4k_qd1 --seconds 0.1 --dir '%s'", (char *)*state);
    assert_int_equal(bench("", args), 0);
    assert_non_null(strstr(out, "raw durable write of 4 KiB"));
    assert_non_null(strstr(out, " load "));
    assert_false(has(*state, "tmp-"));
}

static void test_a_row_that_cannot_run(void **state)
{
    char args[300];
    snprintf(args, sizeof args, "--only append_64x512 --seconds 0.1 --dir '%s'", (char *)*state);
    assert_int_equal(bench("ulimit -f 4096;", args), 1);
    assert_non_null(strstr(out, "rguard-bench: wal.append_64x512: "));
    assert_non_null(strstr(out, "FAILED"));
    assert_false(has(*state, "tmp-"));
    assert_int_equal(bench("ulimit -f 64;", args), 1);
    assert_false(has(*state, "calibration"));
    assert_int_equal(bench("", "--only crc32c_4k --seconds 0.1 --dir /dev/null/x"), 1);
}

static void test_interrupt_cleans_up(void **state)
{
    char program[300];
    snprintf(program, sizeof program, "%s/rguard-bench", getenv("RGUARD_BIN"));
    pid_t pid = fork();
    if (pid == 0) {
        (void)!freopen("/dev/null", "w", stdout);
        execl(program, program, "--only", "wal.append_64x512", "--seconds", "60", "--dir",
              (char *)*state, (char *)NULL);
        _exit(127);
    }
    struct timespec pause = {.tv_nsec = 20000000};
    for (int i = 0; i < 500 && !has(*state, "tmp-"); i++) {
        nanosleep(&pause, NULL);
    }
    assert_true(has(*state, "tmp-"));
    nanosleep(&pause, NULL);
    int status;
    assert_int_equal(kill(pid, SIGINT), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
    assert_false(has(*state, "tmp-"));
    assert_false(has(*state, "bench.json")); /* half a run is no result */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_and_goals_are_the_designs),
        cmocka_unit_test(test_usage),
        cmocka_unit_test_setup_teardown(test_json_is_what_the_file_holds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_real_log_on_a_real_disk, setup, teardown),
        cmocka_unit_test_setup_teardown(test_a_row_that_cannot_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_interrupt_cleans_up, setup, teardown),
    };
    return cmocka_run_group_tests_name("bench", tests, NULL, NULL);
}
