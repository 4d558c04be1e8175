/* SPDX-License-Identifier: Apache-2.0 */
/* Every input that a fuzz target has been given in the tree's corpus, without libFuzzer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

static void replay(void **state)
{
    const char *target = *state, *bin = getenv("RGUARD_TESTING_BIN");
    char command[1024];
    static char output[1 << 16];
    (void)snprintf(command, sizeof command,
                   "timeout 60 %s/../replay/fuzz_%s tests/fuzz/corpus/%s 2>&1 | tail -n 5; exit $?",
                   bin != NULL ? bin : "build/testing/bin", target, target);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t n = fread(output, 1, sizeof output - 1, pipe);
    output[n] = '\0';
    (void)pclose(pipe);
    unsigned inputs = 0;
    const char *last = output;
    for (const char *p = output; *p != '\0'; p++) {
        last = *p == '\n' && p[1] != '\0' ? p + 1 : last;
    }
    /* The last line of one that has come to the end; else the input that it died of. */
    if (sscanf(last, "%u inputs", &inputs) != 1 || inputs < 4) {
        fail_msg("fuzz_%s: %s", target, output);
    }
}

int main(void)
{
    static char wal_dir[] = "wal_dir", rpc[] = "rpc", resp[] = "resp", failpoint[] = "failpoint";
    const struct CMUnitTest tests[] = {
        {"wal_dir", replay, NULL, NULL, wal_dir},
        {"rpc", replay, NULL, NULL, rpc},
        {"resp", replay, NULL, NULL, resp},
        {"failpoint", replay, NULL, NULL, failpoint},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
