/* SPDX-License-Identifier: Apache-2.0 */
/* The environment, and the journal that it names. Every case runs in a child: the environment is
 * read once per process. */
#include "failpoint_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/rguard-fp-env-XXXXXX";
static char journal_path[64];
static char socket_path[64];

static bool site(void)
{
    return RGUARD_FP_IF("env/site", "a site of this test");
}

static void point(void)
{
    RGUARD_FP_POINT("env/point", "another one");
}

/* Sets name, value, name, value, ... in a child, runs @fn there and returns its status. */
#define in_child(...) run_in_child(__VA_ARGS__, (char *)NULL)
static int run_in_child(int (*fn)(void), ...)
{
    pid_t child = fork();
    if (child == 0) {
        va_list ap;
        va_start(ap, fn);
        for (const char *name; (name = va_arg(ap, const char *)) != NULL;) {
            setenv(name, va_arg(ap, const char *), 1);
        }
        va_end(ap);
        _exit(fn());
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* What a program does with the environment: 78 when it is bad, else 1 when the site fired. */
static int start(void)
{
    struct rguard_fp_error err = {0, 0, ""};
    int rv = rguard_fp_init_from_env(&err);
    bool fired = site();
    bool listening = access(socket_path, F_OK) == 0;
    if (rv != 0) {
        return fired || listening || err.message[0] == '\0' ? 99 : 78;
    }
    rguard_fp_fini();
    return fired ? 1 : 0;
}

static void config_arms(void **state)
{
    (void)state;
    assert_int_equal(in_child(start), 0);
    assert_int_equal(in_child(start, "RGUARD_FAILPOINTS", ""), 0);
    assert_int_equal(in_child(start, "RGUARD_FAILPOINTS", "env/site=return"), 1);
    assert_int_equal(in_child(start, "RGUARD_FAILPOINTS", "env/site=return;env/point=print;"), 1);
    assert_int_equal(in_child(start, "RGUARD_FAILPOINTS", "env/site=1*off->return"), 0);
}

static void bad_environment_arms_nothing(void **state)
{
    (void)state;
    static const struct
    {
        const char *name;
        const char *value;
    } bads[] = {
        {"RGUARD_FAILPOINTS", " "},
        {"RGUARD_FAILPOINTS", "return"},
        {"RGUARD_FAILPOINTS", "env/site=return;env/point=retrun"},
        {"RGUARD_FAILPOINTS", "env/site=return;env/nosuch=off"},
        {"RGUARD_FAILPOINTS", "env/site=return;env/point=return"},
        {"RGUARD_FAILPOINTS", "env/site=return;env/site=return"},
        {"RGUARD_FAILPOINTS_SEED", "x"},
        {"RGUARD_FAILPOINTS_SEED", "-1"},
        {"RGUARD_FAILPOINTS_SEED", "12 "},
        {"RGUARD_FAILPOINTS_SEED", "99999999999999999999"},
        {"RGUARD_FAILPOINTS_NODE", "../n1"},
        {"RGUARD_FAILPOINTS_NODE", "n 1"},
        {"RGUARD_FAILPOINTS_NODE",
         "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"},
        {"RGUARD_FAILPOINTS_SOCK", "/tmp/%x"},
        {"RGUARD_FAILPOINTS_SOCK", "/tmp/%"},
        {"RGUARD_FAILPOINTS_SOCK", "/tmp/%n.sock"}, /* no node is named */
        {"RGUARD_FAILPOINTS_SOCK", "/nonexistent/s"},
        {"RGUARD_FAILPOINTS_JOURNAL", "/nonexistent/j"},
        {"RGUARD_FAILPOINTS_JOURNAL", "/dev/null"},
    };
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        bool config = strcmp(bads[i].name, "RGUARD_FAILPOINTS") == 0;
        bool sock = strcmp(bads[i].name, "RGUARD_FAILPOINTS_SOCK") == 0;
        int status =
            in_child(start, "RGUARD_FAILPOINTS", config ? bads[i].value : "env/site=return",
                     "RGUARD_FAILPOINTS_SOCK", sock ? bads[i].value : socket_path,
                     config ? "IGNORED" : bads[i].name, bads[i].value);
        if (status != 78) {
            fail_msg("%s=%s: %d", bads[i].name, bads[i].value, status);
        }
    }
}

/* Which of the first 8 hits fire at 50%: a number that seed and node determine. */
static int pattern(void)
{
    if (rguard_fp_init_from_env(NULL) != 0) {
        return -1;
    }
    int bits = 0;
    for (int i = 0; i < 7; i++) {
        bits = bits << 1 | (site() ? 1 : 0);
    }
    return bits;
}

static void seed_and_node_decide(void **state)
{
    (void)state;
    int seen[4];
    static const char *const seeds[] = {"42", "0x2a", "42", "43"};
    static const char *const nodes[] = {"n1", "n1", "n2", "n1"};
    for (int i = 0; i < 4; i++) {
        seen[i] = in_child(pattern, "RGUARD_FAILPOINTS", "env/site=50%return",
                           "RGUARD_FAILPOINTS_SEED", seeds[i], "RGUARD_FAILPOINTS_NODE", nodes[i]);
        assert_in_range(seen[i], 0, 127);
    }
    assert_int_equal(seen[0], seen[1]);
    assert_int_not_equal(seen[0], seen[2]);
    assert_int_not_equal(seen[0], seen[3]);
}

static int socket_is_named(void)
{
    char expected[96];
    snprintf(expected, sizeof expected, "%s/n1-%ld%%.sock", dir, (long)getpid());
    if (rguard_fp_init_from_env(NULL) != 0) {
        return 1;
    }
    struct stat st;
    if (lstat(expected, &st) != 0 || !S_ISSOCK(st.st_mode) || (st.st_mode & 07777) != 0600) {
        return 2;
    }
    rguard_fp_fini();
    return access(expected, F_OK) == 0 ? 3 : 0;
}

static void socket_path_is_expanded(void **state)
{
    (void)state;
    char tmpl[96];
    snprintf(tmpl, sizeof tmpl, "%s/%%n-%%p%%%%.sock", dir);
    assert_int_equal(
        in_child(socket_is_named, "RGUARD_FAILPOINTS_SOCK", tmpl, "RGUARD_FAILPOINTS_NODE", "n1"),
        0);
}

/* ---- journal --------------------------------------------------------------------------------- */

static int fire_and_die(void)
{
    if (rguard_fp_init_from_env(NULL) != 0) {
        return 1;
    }
    for (int i = 0; i < 5; i++) {
        site();
    }
    point();
    return 2;
}

static const struct fp_journal_header *map_journal(size_t *bytes)
{
    int fd = open(journal_path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    assert_true(fd >= 0);
    assert_int_equal(fstat(fd, &st), 0);
    *bytes = (size_t)st.st_size;
    void *map = mmap(NULL, *bytes, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(map != MAP_FAILED);
    close(fd);
    return map;
}

static const struct fp_journal_record *record_at(const struct fp_journal_header *h, uint64_t n)
{
    const char *base = (const char *)h + FP_JOURNAL_HEADER;
    return (const void *)(base + n % h->capacity * sizeof(struct fp_journal_record));
}

static void check_run(const struct fp_journal_header *h, uint64_t first, uint32_t last_action)
{
    const struct fp_journal_record *r[3];
    for (uint64_t i = 0; i < 3; i++) {
        r[i] = record_at(h, first + i);
        assert_int_equal(r[i]->seq, first + i + 1);
        assert_true(r[i]->pid != 0 && r[i]->tid == r[i]->pid); /* the child has one thread */
        assert_true(i == 0 || (r[i]->ns >= r[i - 1]->ns && r[i]->pid == r[0]->pid));
    }
    assert_int_equal(r[0]->ordinal, 2);
    assert_int_equal(r[0]->term, 1);
    assert_int_equal(r[0]->action, RGUARD_FP_RETURN);
    assert_int_equal(r[0]->value, 7);
    assert_string_equal(r[0]->name, "env/site");
    assert_int_equal(r[0]->hash, rguard__fp_hash("env/site", strlen("env/site")));
    assert_int_equal(r[1]->ordinal, 3);
    assert_int_equal(r[2]->action, last_action);
    assert_string_equal(r[2]->name, "env/point");
}

static void journal_survives(void **state)
{
    (void)state;
    static const struct
    {
        const char *config;
        int status;
        uint32_t action;
    } runs[] = {
        {"env/site=1*off->2*return(7);env/point=kill", -SIGKILL, RGUARD_FP_KILL},
        {"env/site=1*off->2*return(7);env/point=abort", -SIGABRT, RGUARD_FP_ABORT},
    };
    for (size_t i = 0; i < 2; i++) { /* the second goes on where the first was cut off */
        assert_int_equal(
            in_child(fire_and_die, "RGUARD_FAILPOINTS", runs[i].config, "RGUARD_FAILPOINTS_JOURNAL",
                     journal_path, "RGUARD_FAILPOINTS_SEED", "42", "RGUARD_FAILPOINTS_NODE", "n1"),
            runs[i].status);
        size_t bytes;
        const struct fp_journal_header *h = map_journal(&bytes);
        assert_int_equal(h->magic, FP_JOURNAL_MAGIC);
        assert_int_equal(h->seed, 42);
        assert_string_equal(h->node, "n1");
        assert_int_equal(h->head, 3 * (i + 1));
        check_run(h, 3 * i, runs[i].action);
        munmap((void *)(uintptr_t)h, bytes);
    }
    assert_int_equal(unlink(journal_path), 0);
}

static int fire_around(void)
{
    if (rguard_fp_init_from_env(NULL) != 0) {
        return 1;
    }
    for (unsigned i = 0; i < FP_JOURNAL_CAPACITY + 10; i++) {
        site();
    }
    rguard_fp_fini();
    site(); /* fires, and is not recorded any more */
    return 0;
}

static void journal_is_a_ring(void **state)
{
    (void)state;
    assert_int_equal(in_child(fire_around, "RGUARD_FAILPOINTS", "env/site=return",
                              "RGUARD_FAILPOINTS_JOURNAL", journal_path),
                     0);
    size_t bytes;
    const struct fp_journal_header *h = map_journal(&bytes);
    assert_int_equal(h->head, FP_JOURNAL_CAPACITY + 10);
    for (uint64_t n = 10; n < h->head; n++) {
        assert_int_equal(record_at(h, n)->seq, n + 1);
        assert_int_equal(record_at(h, n)->ordinal, n + 1);
    }
    munmap((void *)(uintptr_t)h, bytes);
    assert_int_equal(unlink(journal_path), 0);
}

static void foreign_journal_is_left_alone(void **state)
{
    (void)state;
    FILE *f = fopen(journal_path, "w");
    assert_non_null(f);
    fputs("precious", f);
    fclose(f);
    assert_int_equal(rguard__fp_journal_open(journal_path, 1, ""), RGUARD_EUNSUPPORTED);
    char text[16] = "";
    f = fopen(journal_path, "r");
    assert_non_null(f);
    assert_non_null(fgets(text, sizeof text, f));
    fclose(f);
    assert_string_equal(text, "precious");
    assert_int_equal(unlink(journal_path), 0);
}

static int make_dir(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL) {
        return -1;
    }
    snprintf(journal_path, sizeof journal_path, "%s/journal", dir);
    snprintf(socket_path, sizeof socket_path, "%s/socket", dir);
    return 0;
}

/* Fails when a test left something behind. */
static int remove_dir(void **state)
{
    (void)state;
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(config_arms),
        cmocka_unit_test(bad_environment_arms_nothing),
        cmocka_unit_test(seed_and_node_decide),
        cmocka_unit_test(socket_path_is_expanded),
        cmocka_unit_test(journal_survives),
        cmocka_unit_test(journal_is_a_ring),
        cmocka_unit_test(foreign_journal_is_left_alone),
    };
    return cmocka_run_group_tests_name("failpoint_env", tests, make_dir, remove_dir);
}
