/* SPDX-License-Identifier: Apache-2.0 */
/* The comparison of seven faults, run as a user runs it. Ours must never be silent and must name what
 * is damaged; of the other side only that it was run is asserted, because what it does is its own
 * affair and may change for the better. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char tool[512];
static char root[128];
static char output[1 << 16];

static int run(const char *arguments)
{
    char line[1024];
    (void)snprintf(line, sizeof line, "TMPDIR=%s %s %s 2>&1", root, tool, arguments);
    FILE *f = popen(line, "r");
    assert_non_null(f);
    size_t n = fread(output, 1, sizeof output - 1, f);
    output[n] = '\0';
    int status = pclose(f);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

static uint64_t value(const char *from, const char *key)
{
    char pattern[64];
    (void)snprintf(pattern, sizeof pattern, "\"%s\": ", key);
    const char *at = from != NULL ? strstr(from, pattern) : NULL;
    if (at == NULL) {
        fail_msg("no %s in %s", key, output);
    }
    return strtoull(at + strlen(pattern), NULL, 10);
}

static bool is(const char *from, const char *text)
{
    const char *end = strchr(from, '}');
    const char *at = strstr(from, text);
    return at != NULL && end != NULL && at < end;
}

static void all_seven(void **state)
{
    (void)state;
    static const struct
    {
        const char *fault;
        uint64_t first, last;
    } want[] = {{"bit", 101, 101},    {"block", 101, 101}, {"count", 101, 101}, {"swap", 101, 102},
                {"closed", 101, 101}, {"meta_bits", 0, 0}, {"meta_cut", 0, 0}};
    int code = run("--json");
    if (code != 0) {
        fail_msg("exit %d: %s", code, output);
    }
    assert_int_equal(value(output, "raftguard_silent"), 0);
    assert_int_equal(value(output, "of"), 7);
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        char pattern[64];
        (void)snprintf(pattern, sizeof pattern, "\"fault\": \"%s\"", want[i].fault);
        const char *fault = strstr(output, pattern);
        const char *libraft = fault != NULL ? strstr(fault, "\"libraft\": {") : NULL;
        const char *ours = fault != NULL ? strstr(fault, "\"raftguard\": {") : NULL;
        if (libraft == NULL || ours == NULL || !is(libraft, "\"ran\": true") ||
            !is(ours, "\"ran\": true")) {
            fail_msg("%s was not run: %s", want[i].fault, output);
        }
        assert_true(is(ours, "\"told\": true"));
        assert_true(is(ours, "\"verdict\": \"corrupt\""));
        assert_int_equal(value(ours, "damage_first_index"), want[i].first);
        assert_int_equal(value(ours, "damage_last_index"), want[i].last);
    }
    const char *control = strstr(output, "\"fault\": \"none\"");
    assert_int_equal(value(control, "last_after"), 201);
    assert_true(is(strstr(control, "\"raftguard\": {"), "\"told\": false"));
    assert_true(is(strstr(control, "\"raftguard\": {"), "\"serves\": true"));
}

/* With checksums of data switched off on our side, the comparison says that ours is silent too. */
static void a_silent_loss_of_ours_would_be_seen(void **state)
{
    (void)state;
    const char *testing = getenv("RGUARD_TESTING_BIN");
    char product[512];
    if (testing == NULL) {
        skip();
    }
    (void)snprintf(product, sizeof product, "%s", tool);
    (void)snprintf(tool, sizeof tool, "RGUARD_TEST_OFF=wal_crc %s/rguard-wal-compare", testing);
    int code = run("--json");
    (void)snprintf(tool, sizeof tool, "%s", product);
    if (code != 0) {
        fail_msg("exit %d: %s", code, output);
    }
    assert_true(value(output, "raftguard_silent") > 0);
}

static void usage(void **state)
{
    (void)state;
    assert_int_equal(run("--help"), 0);
    assert_non_null(strstr(output, "usage: rguard-wal-compare"));
    assert_int_equal(run("--version"), 0);
    assert_int_equal(run("--frobnicate"), 64);
    assert_int_equal(run("more"), 64);
}

static void nothing_is_left_behind(void **state)
{
    (void)state;
    DIR *d = opendir(root);
    int entries = 0;
    while (readdir(d) != NULL) {
        entries++;
    }
    closedir(d);
    assert_int_equal(entries, 2); /* . and .. */
}

static int group_setup(void **state)
{
    (void)state;
    const char *bin = getenv("RGUARD_BIN");
    const char *tmp = getenv("TMPDIR");
    (void)snprintf(tool, sizeof tool, "%s/rguard-wal-compare", bin != NULL ? bin : "build/bin");
    (void)snprintf(root, sizeof root, "%s/rguard-compare-test-XXXXXX", tmp != NULL ? tmp : "/tmp");
    return mkdtemp(root) == NULL || access(tool, X_OK) != 0;
}

static int group_teardown(void **state)
{
    (void)state;
    return rmdir(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_seven),
        cmocka_unit_test(a_silent_loss_of_ours_would_be_seen),
        cmocka_unit_test(usage),
        cmocka_unit_test(nothing_is_left_behind),
    };
    return cmocka_run_group_tests_name("wal_compare", tests, group_setup, group_teardown);
}
