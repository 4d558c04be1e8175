/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-doctor as a user runs it: exit codes, output, and that it finds a trap that does not work.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include <cmocka.h>

static char out[8192];

/* Runs `ENV BIN/rguard-doctor ARGS`, both streams into out; its exit code. */
static int doctor(const char *bin_variable, const char *env, const char *args)
{
    const char *bin = getenv(bin_variable);
    assert_non_null(bin);
    char command[1024];
    snprintf(command, sizeof command, "%s '%s/rguard-doctor' %s 2>&1", env, bin, args);
    FILE *f = popen(command, "r");
    assert_non_null(f);
    size_t n = fread(out, 1, sizeof out - 1, f);
    out[n] = '\0';
    int status = pclose(f);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_healthy_machine(void **state)
{
    (void)state;
    int rc = doctor("RGUARD_BIN", "", "");
    assert_true(rc == 0 || rc == 1); /* an older kernel is degraded, and that is no failure */
    assert_non_null(strstr(out, "was trapped, attributed and rolled back"));
    assert_non_null(
        strstr(out, rc == 0 ? "verdict: all that is needed works" : "verdict: degraded"));
}

static void test_json(void **state)
{
    (void)state;
    int rc = doctor("RGUARD_BIN", "", "--json");
    assert_true(rc == 0 || rc == 1);
    static const char *const keys[] = {"version",    "verdict",        "own_segv",     "madv_guard",
                                       "huge_pages", "userfaultfd_wp", "pagemap_scan", "io_uring",
                                       "pkeys",      "crc32c",         "selftest"};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        char key[40];
        snprintf(key, sizeof key, "\"%s\":", keys[i]);
        assert_non_null(strstr(out, key));
    }
    assert_int_equal(out[0], '{');
    assert_string_equal(out + strlen(out) - 2, "}\n");
    assert_non_null(strstr(out, "\"selftest\":true"));
}

static void test_forced_fallbacks_are_degraded_and_still_trap(void **state)
{
    (void)state;
    static const char *const forced[][2] = {
        {"no-madv-guard", "\"madv_guard\":false"},
        {"no-uffd", "\"userfaultfd_wp\":false"},
        {"no-pagemap-scan,no-huge-pages", "\"huge_pages\":false"}};
    for (size_t i = 0; i < sizeof forced / sizeof forced[0]; i++) {
        char env[80];
        snprintf(env, sizeof env, "RGUARD_FORCE=%s", forced[i][0]);
        assert_int_equal(doctor("RGUARD_BIN", env, "--json"), 1);
        assert_non_null(strstr(out, forced[i][1]));
        assert_non_null(strstr(out, "\"verdict\":\"degraded\""));
        assert_non_null(strstr(out, "\"selftest\":true"));
    }
    doctor("RGUARD_BIN", "RGUARD_FORCE=no-uffd", "");
    assert_non_null(strstr(out, "without it: no audit: undeclared writes are not found"));
}

static void test_a_trap_that_does_not_work_is_found(void **state)
{
    (void)state;
    static const char *const off[][2] = {
        {"guard_pages", "a store into a guard page was not noticed"},
        {"trap", "the fault was not trapped: killed by signal 11"},
        {"undo", "the window was not rolled back"}};
    for (size_t i = 0; i < sizeof off / sizeof off[0]; i++) {
        char env[80];
        snprintf(env, sizeof env, "ulimit -c 0; RGUARD_TEST_OFF=%s", off[i][0]);
        assert_int_equal(doctor("RGUARD_TESTING_BIN", env, ""), 2);
        assert_non_null(strstr(out, off[i][1]));
        assert_non_null(strstr(out, "verdict: unusable"));
        assert_int_equal(doctor("RGUARD_TESTING_BIN", env, "--json"), 2);
        assert_non_null(strstr(out, "\"selftest\":false"));
    }
}

static void test_product_build_has_no_switches(void **state)
{
    (void)state;
    int rc = doctor("RGUARD_BIN", "RGUARD_TEST_OFF=guard_pages,trap,undo", "");
    assert_true(rc == 0 || rc == 1);
}

static void test_usage(void **state)
{
    (void)state;
    assert_int_equal(doctor("RGUARD_BIN", "", "--help"), 0);
    assert_memory_equal(out, "usage: rguard-doctor", 20);
    assert_int_equal(doctor("RGUARD_BIN", "", "--version"), 0);
    assert_memory_equal(out, "rguard-doctor 0.", 16);
    assert_int_equal(doctor("RGUARD_BIN", "", "--nonsense"), 64);
    assert_memory_equal(out, "rguard-doctor: --nonsense: ", 27);
    assert_int_equal(doctor("RGUARD_BIN", "", "extra"), 64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_healthy_machine),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_forced_fallbacks_are_degraded_and_still_trap),
        cmocka_unit_test(test_a_trap_that_does_not_work_is_found),
        cmocka_unit_test(test_product_build_has_no_switches),
        cmocka_unit_test(test_usage),
    };
    return cmocka_run_group_tests_name("doctor", tests, NULL, NULL);
}
