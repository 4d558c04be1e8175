/* SPDX-License-Identifier: Apache-2.0 */
#include "test_window_util.h"

#include <errno.h>
#include <raftguard/error.h>

static const int all[] = {
#define VALUE(name, value, text) value,
    RGUARD_ERRORS(VALUE)
#undef VALUE
};
#define N (sizeof all / sizeof all[0])

static void test_every_code_has_its_own_number_name_and_text(void **state)
{
    (void)state;
    for (size_t i = 0; i < N; i++) {
        assert_true(all[i] < 0);
        assert_memory_equal(rguard_err_name(all[i]), "RGUARD_E", 8);
        assert_string_not_equal(rguard_strerror(all[i]), "unknown error");
        for (size_t k = 0; k < i; k++) {
            assert_int_not_equal(all[i], all[k]);
            assert_string_not_equal(rguard_err_name(all[i]), rguard_err_name(all[k]));
            assert_string_not_equal(rguard_strerror(all[i]), rguard_strerror(all[k]));
        }
    }
}

static void test_codes_are_outside_errno(void **state)
{
    (void)state;
    for (size_t i = 0; i < N; i++) {
        assert_true(all[i] < -4096);
    }
}

static void test_errno_is_passed_through(void **state)
{
    (void)state;
    assert_string_equal(rguard_err_name(-EIO), "EIO");
    assert_string_equal(rguard_strerror(-ENOSPC), strerror(ENOSPC));
    assert_string_equal(rguard_err_name(0), "OK");
    assert_string_equal(rguard_strerror(0), "success");
}

static void test_nonsense_is_unknown(void **state)
{
    (void)state;
    static const int nonsense[] = {1, EIO, -99999, -20000 - (int)N - 1, INT32_MAX, INT32_MIN + 1};
    for (size_t i = 0; i < sizeof nonsense / sizeof nonsense[0]; i++) {
        assert_string_equal(rguard_err_name(nonsense[i]), "UNKNOWN");
        assert_string_equal(rguard_strerror(nonsense[i]), "unknown error");
    }
}

static void test_version(void **state)
{
    (void)state;
    char want[32];
    snprintf(want, sizeof want, "%d.%d.%d", RGUARD_VERSION_MAJOR, RGUARD_VERSION_MINOR,
             RGUARD_VERSION_PATCH);
    assert_string_equal(rguard_version(), want);
    assert_string_equal(rguard_version(), RGUARD_VERSION_STRING);
}

static void child_assert(void)
{
    int fds[2];
    CHECK(pipe(fds) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], STDERR_FILENO);
        RGUARD_ASSERT(1 + 1 == 2);
        RGUARD_ASSERT(1 + 1 == 3);
        _exit(0);
    }
    close(fds[1]);
    char text[256] = "";
    size_t len = 0;
    for (ssize_t n = 1; n > 0 && len<sizeof text - 1; len += n> 0 ? (size_t)n : 0) {
        n = read(fds[0], text + len, sizeof text - 1 - len);
    }
    int status = 0;
    CHECK(waitpid(pid, &status, 0) == pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(strstr(text, "raftguard: assertion failed: ") == text);
    CHECK(strstr(text, "test_error.c:") != NULL && strstr(text, ": 1 + 1 == 3\n") != NULL);
}

static void test_failed_assertion_names_its_place_and_aborts(void **state)
{
    (void)state;
    assert_exits(in_child(child_assert), 0);
}

static void test_switches_match_whole_names_only(void **state)
{
    (void)state;
    setenv("RGUARD_TEST_OFF", "magic,,double_free,undo", 1);
    assert_true(rguard__test_off("magic"));
    assert_true(rguard__test_off("double_free"));
    assert_true(rguard__test_off("undo"));
    assert_false(rguard__test_off("double"));
    assert_false(rguard__test_off("free"));
    assert_false(rguard__test_off("trap"));
    unsetenv("RGUARD_TEST_OFF");
    assert_false(rguard__test_off("magic"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_code_has_its_own_number_name_and_text),
        cmocka_unit_test(test_codes_are_outside_errno),
        cmocka_unit_test(test_errno_is_passed_through),
        cmocka_unit_test(test_nonsense_is_unknown),
        cmocka_unit_test(test_version),
        cmocka_unit_test(test_failed_assertion_names_its_place_and_aborts),
        cmocka_unit_test(test_switches_match_whole_names_only),
    };
    return cmocka_run_group_tests_name("error", tests, NULL, NULL);
}
