/* SPDX-License-Identifier: Apache-2.0 */
/* The model oracle of the log, a minute of it: with fixed seeds it must stay green, and turn red
 * within a stated number of cases for each bug that a test build can plant. `make soak` is the long
 * form. RGUARD_ORACLE_FACTOR=N multiplies the numbers of cases. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static char output[1 << 16];

/* Runs the oracle and returns its exit code; stdout is in `output`. */
static int oracle(const char *planted, const char *arguments)
{
    char command[1024];
    const char *bin = getenv("RGUARD_TESTING_BIN");
    (void)snprintf(command, sizeof command, "RGUARD_TEST_OFF=%s %s/rguard-wal-oracle %s 2>&1",
                   planted, bin != NULL ? bin : "build/testing/bin", arguments);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t n = fread(output, 1, sizeof output - 1, pipe);
    output[n] = '\0';
    int status = pclose(pipe);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static void green(const char *classes, unsigned long seed)
{
    char arguments[256];
    (void)snprintf(arguments, sizeof arguments, "--seed %lu %s", seed, classes);
    if (oracle("", arguments) != 0) {
        fail_msg("%s", output);
    }
}

static unsigned long factor(void)
{
    const char *text = getenv("RGUARD_ORACLE_FACTOR");
    unsigned long n = text != NULL ? strtoul(text, NULL, 10) : 1;
    return n > 0 ? n : 1;
}

static void power_failures(void **state)
{
    char classes[128];
    (void)state;
    (void)snprintf(classes, sizeof classes, "--crash %lu --single 0 --double 0 --stale 0",
                   500 * factor());
    for (unsigned long seed = 1; seed <= 3; seed++) {
        green(classes, seed);
    }
}

/* Nothing acknowledged is lost without a report, no vote goes back, nothing reads as something
 * else, nothing crashes. (How exactly a report names the damage is `make soak`'s to ask.) */
static void faults_at_rest(void **state)
{
    static const char *const never[] = {"LOST",           "are lost",       "older vote",
                                        "other contents", "something else", "died"};
    char arguments[256];
    (void)state;
    (void)snprintf(arguments, sizeof arguments,
                   "--seed 1 --crash 0 --stale 0 --keep-going --single %lu --double %lu",
                   40000 * factor(), 20000 * factor());
    int code = oracle("", arguments);
    assert_true(code == 0 || code == 1);
    assert_non_null(strstr(output, "power failures"));
    for (size_t i = 0; i < sizeof never / sizeof never[0]; i++) {
        if (strstr(output, never[i]) != NULL) {
            fail_msg("%s", output);
        }
    }
}

static void earlier_epochs(void **state)
{
    char classes[128];
    (void)state;
    (void)snprintf(classes, sizeof classes, "--crash 0 --single 0 --double 0 --stale %lu",
                   500 * factor());
    green(classes, 1);
}

/* The bug, the class of cases that finds it, and within how many. */
struct planted
{
    const char *bug, *class;
    unsigned within;
};

static void red(void **state)
{
    const struct planted *p = *state;
    char arguments[256];
    for (unsigned long seed = 1; seed <= 3; seed++) {
        (void)snprintf(arguments, sizeof arguments,
                       "--seed %lu --crash 0 --single 0 --double 0 --stale 0 --%s %u", seed,
                       p->class, p->within);
        assert_int_equal(oracle("", arguments), 0);
        if (oracle(p->bug, arguments) != 1 || strstr(output, "again: ") == NULL) {
            fail_msg("%s is not found in %u cases of seed %lu: %s", p->bug, p->within, seed,
                     output);
        }
    }
}

/* The same seed, the same case, the same story. */
static void replays(void **state)
{
    char first[sizeof output], arguments[128];
    (void)state;
    assert_int_equal(oracle("early_ack", "--seed 7 --crash 100 --single 0 --double 0 --stale 0"),
                     1);
    const char *again = strstr(output, "again: rguard-wal-oracle ");
    assert_non_null(again);
    (void)snprintf(arguments, sizeof arguments, "%.*s",
                   (int)strcspn(again + strlen("again: rguard-wal-oracle "), "\n"),
                   again + strlen("again: rguard-wal-oracle "));
    assert_int_equal(oracle("early_ack", arguments), 1);
    memcpy(first, output, sizeof first);
    assert_int_equal(oracle("early_ack", arguments), 1);
    assert_string_equal(first, output);
}

static void usage(void **state)
{
    (void)state;
    assert_int_equal(oracle("", "--nonsense"), 64);
    assert_int_equal(oracle("", "--case 1"), 64);
    assert_int_equal(oracle("", "--seed x"), 64);
    assert_int_equal(oracle("", "--help"), 0);
}

int main(void)
{
    static struct planted bugs[] = {{"no_sync", "crash", 20},
                                    {"early_ack", "crash", 100},
                                    {"second_vote", "crash", 100},
                                    {"drop_corrupt", "double", 100},
                                    {"ignore_salt", "stale", 100}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(power_failures),
        cmocka_unit_test(faults_at_rest),
        cmocka_unit_test(earlier_epochs),
        {"planted_no_sync", red, NULL, NULL, &bugs[0]},
        {"planted_early_ack", red, NULL, NULL, &bugs[1]},
        {"planted_second_vote", red, NULL, NULL, &bugs[2]},
        {"planted_drop_corrupt", red, NULL, NULL, &bugs[3]},
        {"planted_ignore_salt", red, NULL, NULL, &bugs[4]},
        cmocka_unit_test(replays),
        cmocka_unit_test(usage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
