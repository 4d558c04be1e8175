/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-fp against a real process, and the builds with and without failpoints.
 *
 * The process is this program itself, started again with "target" as its argument: it reads the
 * environment as a server does and goes through its sites until it is told to stop. */
#include <raftguard/failpoint.h>

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/rguard-fp-tool-XXXXXX";
static char sock[64];
static char tool[512];
static char self[512];

/* ---- the target ------------------------------------------------------------------------------ */

static volatile sig_atomic_t stop;

static void on_term(int sig)
{
    (void)sig;
    stop = 1;
}

static int target(void)
{
    struct rguard_fp_error err;
    signal(SIGTERM, on_term);
    if (rguard_fp_init_from_env(&err) != 0) {
        fprintf(stderr, "target: RGUARD_FAILPOINTS: %s\n", err.message);
        return 78;
    }
    printf("ready\n");
    fflush(stdout);
    while (!stop) {
        char slot[64] = "";
        RGUARD_FP_POINT("tool/point", "once a millisecond");
        if (RGUARD_FP_IF("tool/if", "ends the loop")) {
            break;
        }
        int rv = RGUARD_FP_NEGERR("tool/errno", "is printed");
        if (rv != 0) {
            printf("errno %d\n", -rv);
            fflush(stdout);
        }
        (void)RGUARD_FP_MUTATE("tool/mutate", "flips bits", 0, slot, 32);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    rguard_fp_fini();
    return 0;
}

struct process
{
    pid_t pid;
    FILE *out;
};

static struct process start_target(void)
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct process p = {fork(), NULL};
    if (p.pid == 0) {
        dup2(fds[1], STDOUT_FILENO);
        setenv("RGUARD_FAILPOINTS_SOCK", sock, 1);
        execl(self, self, "target", (char *)NULL);
        _exit(127);
    }
    close(fds[1]);
    p.out = fdopen(fds[0], "r");
    char line[64] = "";
    assert_non_null(fgets(line, sizeof line, p.out));
    assert_string_equal(line, "ready\n");
    return p;
}

static int wait_for(struct process *p)
{
    int status;
    assert_int_equal(waitpid(p->pid, &status, 0), p->pid);
    fclose(p->out);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* ---- running programs ------------------------------------------------------------------------ */

static char out[1 << 16]; /* what the last one wrote, stdout and stderr */

static int run_argv(char *const argv[])
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(fds[1], STDOUT_FILENO);
        dup2(fds[1], STDERR_FILENO);
        execvp(argv[0], argv);
        _exit(127);
    }
    close(fds[1]);
    size_t n = 0;
    for (ssize_t got;
         n < sizeof out - 1 && (got = read(fds[0], out + n, sizeof out - 1 - n)) > 0;) {
        n += (size_t)got;
    }
    out[n] = '\0';
    close(fds[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

#define MAX_ARGS 64

/* The tool with these arguments. */
#define fp(...) run_tool(__VA_ARGS__, (char *)NULL)
static int run_tool(const char *first, ...)
{
    char *argv[MAX_ARGS] = {tool, (char *)(uintptr_t)first};
    va_list ap;
    va_start(ap, first);
    for (int i = 2; i < MAX_ARGS - 1 && argv[i - 1] != NULL; i++) {
        argv[i] = va_arg(ap, char *);
    }
    va_end(ap);
    return run_argv(argv);
}

/* A command line for the shell, with its output in out[]. */
static int shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int shell(const char *fmt, ...)
{
    char line[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    char sh[] = "sh";
    char c[] = "-c";
    return run_argv((char *const[]){sh, c, line, NULL});
}

#define assert_out(part)                                               \
    do {                                                               \
        if (strstr(out, (part)) == NULL) {                             \
            fail_msg("%s is not in what it printed: %s", (part), out); \
        }                                                              \
    } while (0)

/* ---- check ----------------------------------------------------------------------------------- */

static void check_judges_grammar_alone(void **state)
{
    (void)state;
    assert_int_equal(fp("check", "20%3*return(9)->sleep(100)"), 0);
    assert_string_equal(out, "");
    assert_int_equal(fp("check", "no/such=1*overrun(16); other = off ;"), 0);
    assert_int_equal(fp("--json", "check", "off"), 0);
    assert_string_equal(out, "{\"ok\":true}\n");
    assert_int_equal(fp("check", "wal/append=3*retrun(5)"), 2);
    assert_string_equal(out,
                        "rguard-fp: check: col 14: unknown action \"retrun\" (did you mean "
                        "\"return\"?)\n"
                        "  wal/append=3*retrun(5)\n"
                        "               ^~~~~~\n");
    assert_int_equal(fp("check", "return->"), 2);
    assert_string_equal(out,
                        "rguard-fp: check: col 9: expected a probability, a count or an action, "
                        "found the end\n"
                        "  return->\n"
                        "          ^\n");
    assert_int_equal(fp("check", ""), 2);
    assert_int_equal(fp("--json", "check", "1\t*\nreturn(\x1b)"), 2);
    assert_out("\"code\":\"RGUARD_ESPEC\"");
    assert_out("\"offset\":11,\"length\":1}");
    char longish[512];
    memset(longish, ' ', sizeof longish);
    strcpy(longish + 400, "nope");
    assert_int_equal(fp("check", longish), 2);
    assert_out("col 401");
    assert_out(
        "\n  "
        "                                        nope\n"
        "  "
        "                                        ^~~~\n");
}

static void usage_is_told(void **state)
{
    (void)state;
    assert_int_equal(fp("--help"), 0);
    assert_out("usage: rguard-fp [-s SOCK]");
    assert_int_equal(fp("--version"), 0);
    assert_out("rguard-fp 0.");
    static const char *const bads[][3] = {
        {NULL, NULL, NULL},      {"frobnicate", NULL, NULL}, {"--frobnicate", "list", NULL},
        {"list", "all", NULL},   {"set", "tool/if", NULL},   {"off", NULL, NULL},
        {"check", "off", "off"}, {"-s", NULL, NULL},         {"list", NULL, NULL}, /* no socket */
    };
    unsetenv("RGUARD_FAILPOINTS_SOCK");
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        assert_int_equal(fp(bads[i][0], bads[i][1], bads[i][2]), 64);
        assert_int_equal(strncmp(out, "rguard-fp: ", 11), 0);
    }
    setenv("RGUARD_FAILPOINTS_SOCK", "/tmp/%p", 1);
    assert_int_equal(fp("list"), 64);
    unsetenv("RGUARD_FAILPOINTS_SOCK");
}

/* ---- a process ------------------------------------------------------------------------------- */

static void process_is_controlled(void **state)
{
    (void)state;
    struct process p = start_target();
    assert_int_equal(fp("-s", sock, "list"), 0);
    assert_out("tool/errno");
    assert_out("test_fp_tool.c:");
    assert_out("once a millisecond");
    assert_int_equal(fp("-s", sock, "--json", "list"), 0);
    assert_out("\"can\":[\"bitflip\",\"overrun\"]");
    setenv("RGUARD_FAILPOINTS_SOCK", sock, 1); /* the default for -s */

    assert_int_equal(fp("set", "tool/errno", "1*errno(ENOSPC)\n-> off"), 0);
    char line[64] = "";
    assert_non_null(fgets(line, sizeof line, p.out));
    assert_string_equal(line, "errno 28\n");
    assert_int_equal(fp("stat", "tool/errno"), 0);
    assert_out("tool/errno  1*errno(ENOSPC) -> off  hits ");
    assert_out("fired 1");

    assert_int_equal(fp("set", "tool/errno", "5*retrun"), 2);
    assert_out("rguard-fp: set: col 3: unknown action");
    assert_out("  5*retrun\n    ^~~~~~\n");
    assert_int_equal(fp("set", "tool/errno", ""), 2);
    assert_int_equal(fp("set", "tool/errno", " "), 2);
    assert_int_equal(fp("set", "tool/errn", "off"), 3);
    assert_out("did you mean \"tool/errno\"?");
    assert_int_equal(fp("set", "tool errno", "off"), 3);
    assert_int_equal(fp("off", "tool/nosuch"), 3);
    assert_int_equal(fp("stat", "tool/nosuch"), 3);
    assert_int_equal(fp("set", "tool/if", "1*double_free"), 6);
    assert_out("cannot do \"double_free\"");

    assert_int_equal(fp("set", "tool/point", "sleep(1000s)"), 0);
    assert_int_equal(fp("off", "tool/point"), 0); /* wakes it, or the rest would hang */
    assert_int_equal(fp("set", "tool/errno", "errno(5)"), 0);
    assert_int_equal(fp("off-all"), 0);
    assert_int_equal(fp("stat", "tool/errno"), 0);
    assert_out("tool/errno  off  hits ");
    assert_int_equal(fp("set", "tool/if", "return"), 0);
    assert_int_equal(wait_for(&p), 0);
    assert_int_equal(access(sock, F_OK), -1);
    assert_int_equal(fp("list"), 5);
    unsetenv("RGUARD_FAILPOINTS_SOCK");
}

static void fatal_program_is_armed_and_reported(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) { /* the second finds the socket that the first left behind */
        struct process p = start_target();
        assert_int_equal(fp("-s", sock, "set", "tool/point", "kill"), 0);
        assert_int_equal(wait_for(&p), -SIGKILL);
        assert_int_equal(fp("-s", sock, "set", "tool/point", "kill"), 5);
    }
    assert_int_equal(unlink(sock), 0);
    assert_int_equal(fp("-s", sock, "off-all"), 5);
}

static void bad_environment_is_exit_78(void **state)
{
    (void)state;
    setenv("RGUARD_FAILPOINTS", "tool/if=return;tool/errno=errno(EI0)", 1);
    assert_int_equal(shell("'%s' target", self), 78);
    assert_out("did you mean \"EIO\"?");
    setenv("RGUARD_FAILPOINTS", "tool/if=return", 1);
    assert_int_equal(shell("'%s' target", self), 0);
    unsetenv("RGUARD_FAILPOINTS");
}

/* ---- builds ---------------------------------------------------------------------------------- */

/* Sites of its own; says what the library says about them. */
static const char tiny[] =
    "#include <raftguard/failpoint.h>\n"
    "#include <stdio.h>\n"
    "#include <string.h>\n"
    "static void see(void* n, const struct rguard_fp_site* s, const char* spec) {\n"
    "    (void)spec; if (strncmp(s->name, \"tiny/\", 5) == 0) ++*(int*)n; }\n"
    "int main(void) {\n"
    "    char buf[8] = {0}; struct rguard_fp_error e = {0, 0, \"\"}; int n = 0;\n"
    "    struct rguard_fp_stat st = {.size = sizeof st};\n"
    "    int rv = rguard_fp_init_from_env(&e);\n"
    "    int set = rguard_fp_set(\"tiny/if\", \"return\", &e);\n"
    "    RGUARD_FP_POINT(\"tiny/point\", \"d\");\n"
    "    int fired = RGUARD_FP_IF(\"tiny/if\", \"d\");\n"
    "    int err = RGUARD_FP_NEGERR(\"tiny/errno\", \"d\");\n"
    "    unsigned act = RGUARD_FP_MUTATE(\"tiny/mutate\", \"d\", 0, buf, sizeof buf);\n"
    "    rguard_fp_foreach(see, &n);\n"
    "    printf(\"compiled %d sites %d init %d set %d fired %d err %d act %u check %d %d\"\n"
    "           \" off %d stat %d listen %d configure %d\\n\",\n"
    "           rguard_fp_compiled(), n, rv, set, fired, err, act, rguard_fp_check(\"5*off\", 0),\n"
    "           rguard_fp_check(\"5*of\", 0), rguard_fp_off(\"tiny/if\"),\n"
    "           rguard_fp_stat(\"tiny/if\", &st), rguard_fp_listen(\"\"),\n"
    "           rguard_fp_configure(\"tiny/if=off\", 0));\n"
    "    rguard_fp_off_all(); rguard_fp_fini();\n"
    "    return 0;\n"
    "}\n";

static const char library[] =
    "failpoints/parse.c failpoints/text.c failpoints/eval.c failpoints/registry.c "
    "failpoints/journal.c failpoints/env.c failpoints/control.c failpoints/commands.c "
    "failpoints/absent.c guard/error.c guard/trace.c";

static const char flags[] =
    "-std=c11 -D_GNU_SOURCE -pthread -Ibuild/include -Wall -Wextra -Wpedantic -Werror";

static const char present[] =
    "compiled 1 sites 4 init 0 set 0 fired 1 err 0 act 0 check 0 -20017 off 0 stat 0 listen -22 "
    "configure 0\n";
static const char absent[] =
    "compiled 0 sites 0 init 0 set -20019 fired 0 err 0 act 0 check 0 -20017 off -20019 stat "
    "-20019 listen -20019 configure -20019\n";

static void need_compiler(void)
{
    if (access("failpoints/parse.c", R_OK) != 0 || access("build/include/raftguard", R_OK) != 0 ||
        shell("command -v cc nm readelf") != 0) {
        skip();
    }
    char file[80];
    snprintf(file, sizeof file, "%s/tiny.c", dir);
    FILE *f = fopen(file, "w");
    assert_non_null(f);
    fputs(tiny, f);
    fclose(f);
}

static void compile(const char *how, const char *sources, const char *to)
{
    if (shell("cc %s %s %s %s -o %s/%s", flags, how, sources, library, dir, to) != 0) {
        fail_msg("cc: %s", out);
    }
}

/* The same source twice. What one build has, the other must not have, by name. */
static void without_failpoints_nothing_is_left(void **state)
{
    (void)state;
    need_compiler();
    char source[80];
    snprintf(source, sizeof source, "%s/tiny.c", dir);
    compile("-O1", source, "with");
    compile("-O1 -DRGUARD_NO_FAILPOINTS", source, "without");
    static const char *const traces[] = {"rguard_fp_sites",        "rguard_fp_hot",
                                         "rguard_fp_site_",        "rguard_fp_entry_",
                                         "rguard_fp_module_init_", "tiny/point"};
    for (int with = 0; with < 2; with++) {
        const char *name = with ? "with" : "without";
        assert_int_equal(shell("cd %s && readelf -SW %s && nm -a %s && strings -a %s 2>&1", dir,
                               name, name, name),
                         0);
        for (size_t i = 0; i < sizeof traces / sizeof *traces; i++) {
            if ((strstr(out, traces[i]) != NULL) != with) {
                fail_msg("build %s failpoints: %s is%s there", name, traces[i], with ? " not" : "");
            }
        }
    }
    assert_int_equal(shell("%s/with", dir), 0);
    assert_string_equal(out, present);
    assert_int_equal(shell("%s/without", dir), 0);
    assert_string_equal(out, absent);
    /* Who asks for faults where there are none is told. */
    assert_int_equal(shell("RGUARD_FAILPOINTS='tiny/if=off' %s/without", dir), 0);
    assert_out("init -20019");
    shell("rm -f %s/with %s/without %s/tiny.c", dir, dir, dir);
}

static void tool_without_failpoints_checks(void **state)
{
    (void)state;
    need_compiler();
    compile("-O1 -DRGUARD_NO_FAILPOINTS", "failpoints/rguard-fp.c", "fp");
    assert_int_equal(shell("%s/fp check 5*return", dir), 0);
    assert_int_equal(shell("%s/fp check 5*retrun", dir), 2);
    assert_int_equal(shell("%s/fp -s %s/none list", dir, dir), 7);
    assert_int_equal(shell("%s/fp frobnicate", dir), 64);
    shell("rm -f %s/fp %s/tiny.c", dir, dir);
}

/* A program's own sites, with the library in a shared object: each has its own section. */
static void sites_beside_a_shared_library(void **state)
{
    (void)state;
    need_compiler();
    if (access("build/libraftguard.so", R_OK) != 0) {
        skip();
    }
    if (shell("cc %s -O2 -pie %s/tiny.c -Lbuild -lraftguard -Wl,-rpath,$PWD/build -o %s/shared &&"
              "cc %s -O2 -fno-pie -no-pie -Wl,--gc-sections -ffunction-sections %s/tiny.c -Lbuild "
              "-lraftguard -Wl,-rpath,$PWD/build -o %s/nopie",
              flags, dir, dir, flags, dir, dir) != 0) {
        fail_msg("cc: %s", out);
    }
    assert_int_equal(shell("%s/shared", dir), 0);
    assert_string_equal(out, present);
    assert_int_equal(shell("%s/nopie", dir), 0);
    assert_string_equal(out, present);
    shell("rm -f %s/shared %s/nopie %s/tiny.c", dir, dir, dir);
}

static int set_up(void **state)
{
    (void)state;
    const char *bin = getenv("RGUARD_BIN");
    snprintf(tool, sizeof tool, "%s/rguard-fp", bin != NULL ? bin : "build/bin");
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n < 0 || mkdtemp(dir) == NULL) {
        return -1;
    }
    self[n] = '\0';
    snprintf(sock, sizeof sock, "%s/socket", dir);
    return access(tool, X_OK);
}

static int tear_down(void **state)
{
    (void)state;
    return rmdir(dir);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "target") == 0) {
        return target();
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(check_judges_grammar_alone),
        cmocka_unit_test(usage_is_told),
        cmocka_unit_test(process_is_controlled),
        cmocka_unit_test(fatal_program_is_armed_and_reported),
        cmocka_unit_test(bad_environment_is_exit_78),
        cmocka_unit_test(without_failpoints_nothing_is_left),
        cmocka_unit_test(tool_without_failpoints_checks),
        cmocka_unit_test(sites_beside_a_shared_library),
    };
    return cmocka_run_group_tests_name("fp_tool", tests, set_up, tear_down);
}
