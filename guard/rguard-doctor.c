/* SPDX-License-Identifier: Apache-2.0 */
/* rguard-doctor: what raftguard finds on this machine, and what is lost without the rest.
 *
 *     usage: rguard-doctor [--json]
 *     exit:  0 all that is needed works; 1 degraded: works on a fallback, or without a detector;
 *            2 unusable: the self-test fault was not trapped and rolled back
 *
 * Invariant: the verdict on the trap comes from a real fault, taken in a child process, so that a
 * trap that does not work is an answer and not the end of the doctor. */
#include <raftguard/guard.h>

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define EX_USAGE 64

enum importance { NEEDED, DEGRADES, OPTIONAL };

struct finding
{
    const char *key;
    const char *what;
    const char *without; /* what is lost */
    enum importance importance;
    bool found;
};

static bool try_io_uring(void)
{
    char params[120] = {0}; /* struct io_uring_params */
    int fd = (int)syscall(SYS_io_uring_setup, 2, params);
    if (fd < 0) {
        return false;
    }
    close(fd);
    return true;
}

/* Runs the self-test in a child. Empty @why: it passed. */
static bool run_selftest(char *why, size_t cap)
{
    int fds[2];
    if (pipe(fds) != 0) {
        (void)snprintf(why, cap, "pipe: %s", strerror(errno));
        return false;
    }
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        const char *problem = NULL;
        int rv = rguard_guard_selftest(&problem);
        ssize_t n = problem != NULL ? write(fds[1], problem, strlen(problem)) : 0;
        (void)n;
        _exit(rv == 0 ? 0 : 1);
    }
    close(fds[1]);
    ssize_t n = child > 0 ? read(fds[0], why, cap - 1) : 0;
    why[n > 0 ? n : 0] = '\0';
    close(fds[0]);
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        (void)snprintf(why, cap, "fork: %s", strerror(errno));
        return false;
    }
    if (WIFSIGNALED(status)) {
        (void)snprintf(why, cap, "the fault was not trapped: killed by signal %d",
                       WTERMSIG(status));
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void print_text(const struct finding *f, size_t n, const char *crc, bool trapped,
                       const char *why, int verdict)
{
    static const char *const verdicts[] = {"all that is needed works", "degraded", "unusable"};
    for (size_t i = 0; i < n; i++) {
        printf("%-16s %-4s %s%s%s\n", f[i].key, f[i].found ? "yes" : "no", f[i].what,
               f[i].found ? "" : "; without it: ", f[i].found ? "" : f[i].without);
    }
    printf("%-16s %-4s checksum back end%s\n", "crc32c", crc,
           strcmp(crc, "slice8") == 0 ? "; without SSE4.2: a tenth of the speed" : "");
    printf("%-16s %-4s a store past a guarded slot %s%s\n", "selftest", trapped ? "yes" : "no",
           trapped ? "was trapped, attributed and rolled back" : "was not handled: ",
           trapped ? "" : why);
    printf("verdict: %s\n", verdicts[verdict]);
}

static void print_json(const struct finding *f, size_t n, const char *crc, bool trapped,
                       const char *why, int verdict)
{
    static const char *const verdicts[] = {"ok", "degraded", "unusable"};
    printf("{\"version\":\"%s\",\"verdict\":\"%s\"", rguard_version(), verdicts[verdict]);
    for (size_t i = 0; i < n; i++) {
        printf(",\"%s\":%s", f[i].key, f[i].found ? "true" : "false");
    }
    printf(",\"crc32c\":\"%s\",\"selftest\":%s,\"selftest_problem\":\"%s\"}\n", crc,
           trapped ? "true" : "false", trapped ? "" : why);
}

static int diagnose(bool json)
{
    struct rguard_guard_caps caps = {.size = sizeof caps};
    int rv = rguard_guard_caps(&caps);
    if (rv != 0) {
        fprintf(stderr, "rguard-doctor: probe: %s\n", rguard_strerror(rv));
        return 2;
    }
    const struct finding findings[] = {
        {"own_segv", "SIGSEGV reaches the trap", "a fault ends the process", NEEDED, caps.own_segv},
        {"madv_guard", "guard pages without extra mappings (Linux 6.13)",
         "each guard is a mapping of its own, at most about 32,000", DEGRADES, caps.madv_guard},
        {"huge_pages", "arenas on 2 MiB pages", "slower sealing of large arenas", DEGRADES,
         caps.huge_pages},
        {"userfaultfd_wp", "asynchronous write tracking (Linux 6.7)",
         "no audit: undeclared writes are not found", DEGRADES, caps.userfaultfd_wp},
        {"pagemap_scan", "PAGEMAP_SCAN (Linux 6.7)", "no audit: undeclared writes are not found",
         DEGRADES, caps.pagemap_scan},
        {"io_uring", "log writes through io_uring", "log writes on a helper thread", DEGRADES,
         try_io_uring()},
        {"pkeys", "memory protection keys", "nothing that is needed", OPTIONAL, caps.pkeys}};
    size_t n = sizeof findings / sizeof findings[0];
    char why[160];
    bool trapped = run_selftest(why, sizeof why);
    int verdict = strcmp(caps.crc32c, "slice8") == 0 ? 1 : 0;
    for (size_t i = 0; i < n; i++) {
        if (!findings[i].found && findings[i].importance == DEGRADES && verdict == 0) {
            verdict = 1;
        }
    }
    if (!caps.own_segv || !trapped) {
        verdict = 2;
    }
    (json ? print_json : print_text)(findings, n, caps.crc32c, trapped, why, verdict);
    if (fflush(stdout) != 0 || ferror(stdout)) {
        fprintf(stderr, "rguard-doctor: stdout: %s\n", strerror(errno));
        return 2;
    }
    return verdict;
}

int main(int argc, char **argv)
{
    static const char usage[] =
        "usage: rguard-doctor [--json] [--help] [--version]\n"
        "What this kernel and build can do for raftguard, what is lost without it, and a real\n"
        "fault through the real trap. Exit: 0 all that is needed works, 1 degraded, 2 unusable.\n";
    bool json = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return 0;
        }
        if (strcmp(argv[i], "--version") == 0) {
            printf("rguard-doctor %s\n", rguard_version());
            return 0;
        }
        if (strcmp(argv[i], "--json") != 0) {
            fprintf(stderr, "rguard-doctor: %s: unknown option\n%s", argv[i], usage);
            return EX_USAGE;
        }
        json = true;
    }
    return diagnose(json);
}
