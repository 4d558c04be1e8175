/* SPDX-License-Identifier: Apache-2.0 */
/* The control socket: what it answers, in which order things happen, and what clients that
 * misbehave can not do to it. */
#include "failpoint_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[] = "/tmp/rguard-fp-control-XXXXXX";
static char path[64];

static bool site(void)
{
    return RGUARD_FP_IF("control/site", "a \"quoted\" description");
}

static void point(void)
{
    RGUARD_FP_POINT("control/point", "may end the process");
}

/* ---- a client -------------------------------------------------------------------------------- */

static int dial_at(const char *where)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    snprintf(addr.sun_path, sizeof addr.sun_path, "%s", where);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&addr, sizeof addr), 0);
    return fd;
}

static int dial(void)
{
    return dial_at(path);
}

static void put(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        assert_true(n > 0);
        data += n;
        len -= (size_t)n;
    }
}

/* One reply without its LF, within five seconds; its length, or -1 at the end of the stream. */
static int get(int fd, char *out, size_t cap)
{
    size_t n = 0;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 5000) != 1) {
            fail_msg("no reply");
        }
        ssize_t got = recv(fd, out + n, 1, 0);
        if (got <= 0) {
            return -1;
        }
        if (out[n] == '\n') {
            out[n] = '\0';
            return (int)n;
        }
        n++;
        assert_true(n < cap);
    }
}

static char reply[65536];

static const char *ask_on(int fd, const char *line)
{
    put(fd, line, strlen(line));
    put(fd, "\n", 1);
    assert_true(get(fd, reply, sizeof reply) > 0);
    return reply;
}

static const char *ask(const char *line)
{
    int fd = dial();
    ask_on(fd, line);
    close(fd);
    return reply;
}

#define assert_has(text, part)                           \
    do {                                                 \
        if (strstr((text), (part)) == NULL) {            \
            fail_msg("%s is not in %s", (part), (text)); \
        }                                                \
    } while (0)

/* ---- what it answers ------------------------------------------------------------------------- */

static void commands_answer(void **state)
{
    (void)state;
    int fd = dial();
    assert_string_equal(ask_on(fd, "check 5*return"), "{\"ok\":true}");
    assert_string_equal(ask_on(fd, "check a=off;b=5*return->off"), "{\"ok\":true}");
    assert_string_equal(ask_on(fd, "check 5*retrun"),
                        "{\"ok\":false,\"code\":\"RGUARD_ESPEC\",\"error\":\"unknown action "
                        "\\\"retrun\\\" (did you mean \\\"return\\\"?)\",\"offset\":2,"
                        "\"length\":6}");
    assert_string_equal(
        ask_on(fd, "  set \t control/site  2*return -> off  \r"),
        "{\"ok\":true,\"name\":\"control/site\",\"program\":\"2*return -> off  \"}");
    assert_has(ask_on(fd, "stat control/site"),
               "{\"ok\":true,\"name\":\"control/site\",\"program\":\"2*return -> off\",\"hits\":0,"
               "\"fired\":0,");
    assert_true(site());
    assert_true(site());
    assert_false(site());
    assert_has(ask_on(fd, "stat control/site"), "\"hits\":3,\"fired\":2,\"last_ns\":");
    assert_string_equal(ask_on(fd, "off control/site"), "{\"ok\":true}");
    assert_has(ask_on(fd, "stat control/site"), "\"program\":\"\",\"hits\":3,\"fired\":2,");
    assert_string_equal(ask_on(fd, "off-all"), "{\"ok\":true}");
    assert_has(ask_on(fd, "set control/sit off"), "\"code\":\"RGUARD_EUNKNOWN\"");
    assert_has(reply, "did you mean \\\"control/site\\\"");
    assert_has(ask_on(fd, "off control/sit"), "\"code\":\"RGUARD_EUNKNOWN\"");
    assert_has(ask_on(fd, "stat control/sit"), "\"code\":\"RGUARD_EUNKNOWN\"");
    assert_has(ask_on(fd, "set control/point return"), "\"code\":\"RGUARD_EREFUSED\"");
    assert_has(reply, "\"offset\":0,\"length\":6}");
    assert_has(ask_on(fd, "set control/site"), "\"code\":\"RGUARD_ESPEC\"");
    static const char *const words[] = {"frobnicate", "set",         "off",     "off a b",
                                        "list all",   "off-all now", "stat",    "check",
                                        "LIST",       "list\vsites", "\x01\x02"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        assert_has(ask_on(fd, words[i]), "{\"ok\":false,\"code\":\"RGUARD_EPROTO\"");
    }
    close(fd);
}

static void list_shows_every_site(void **state)
{
    (void)state;
    char expected[256];
    ask("set control/site 5*return(0)");
    ask("list");
    snprintf(expected, sizeof expected, "{\"ok\":true,\"pid\":%ld,\"node\":\"\",\"seed\":\"",
             (long)getpid());
    assert_int_equal(strncmp(reply, expected, strlen(expected)), 0);
    assert_has(reply, "{\"name\":\"control/site\",\"desc\":\"a \\\"quoted\\\" description\",");
    assert_has(reply, "\"function\":\"site\",\"can\":[\"return\"],\"program\":\"5*return(0)\"");
    assert_has(reply, "{\"name\":\"control/point\"");
    assert_has(reply, "\"can\":[],\"program\":\"\",\"hits\":0,\"fired\":0,\"last_ns\":0}");
}

static void requests_may_be_sent_ahead(void **state)
{
    (void)state;
    int fd = dial();
    static const char batch[] =
        "\n \nset control/site 1*return\noff control/site\ncheck off\n\r\nlis";
    put(fd, batch, strlen(batch));
    assert_true(get(fd, reply, sizeof reply) > 0);
    assert_has(reply, "\"name\":\"control/site\"");
    assert_true(get(fd, reply, sizeof reply) > 0);
    assert_true(get(fd, reply, sizeof reply) > 0);
    put(fd, "t\n", 2); /* the rest of a line that came in two pieces */
    assert_true(get(fd, reply, sizeof reply) > 0);
    assert_has(reply, "\"sites\":[");
    for (int i = 0; i < 200; i++) {
        put(fd, "check off\n", 10);
    }
    for (int i = 0; i < 200; i++) {
        assert_int_equal(get(fd, reply, sizeof reply), 11);
    }
    shutdown(fd, SHUT_WR);
    assert_int_equal(get(fd, reply, sizeof reply), -1);
    close(fd);
}

/* The reply comes, and then the end, although the program kills the process at its next hit. */
static void reply_comes_before_the_fault(void **state)
{
    (void)state;
    char own[80];
    snprintf(own, sizeof own, "%s/child", dir);
    for (int i = 0; i < 20; i++) {
        int ready[2];
        assert_int_equal(pipe(ready), 0);
        pid_t child = fork();
        if (child == 0) {
            if (rguard_fp_listen(own) != 0 || write(ready[1], "x", 1) != 1) {
                _exit(1);
            }
            for (;;) {
                point();
            }
        }
        char byte;
        close(ready[1]);
        assert_int_equal(read(ready[0], &byte, 1), 1);
        close(ready[0]);
        int fd = dial_at(own);
        assert_has(ask_on(fd, "set control/point kill"), "{\"ok\":true");
        assert_int_equal(get(fd, reply, sizeof reply), -1);
        close(fd);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    } /* each round finds the socket of a dead process in its way */
    assert_int_equal(unlink(own), 0);
}

/* ---- clients that misbehave ------------------------------------------------------------------ */

static void still_serves(void)
{
    assert_string_equal(ask("check off"), "{\"ok\":true}");
}

static void garbage_is_answered(void **state)
{
    (void)state;
    int fd = dial();
    char noise[512];
    uint64_t x = 3;
    for (int i = 0; i < 200; i++) {
        for (size_t k = 0; k < sizeof noise; k++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            noise[k] = (char)(x >> 56);
            noise[k] = noise[k] == '\n' ? ' ' : noise[k];
        }
        noise[0] = 'x';
        noise[sizeof noise - 1] = '\n';
        put(fd, noise, sizeof noise);
        assert_true(get(fd, reply, sizeof reply) > 0);
        assert_has(reply, "{\"ok\":false,\"code\":\"RGUARD_EPROTO\"");
    }
    put(fd, "set control/site ret\0urn\n", 25);
    assert_true(get(fd, reply, sizeof reply) > 0);
    assert_has(reply, "NUL");
    assert_has(ask_on(fd, "check off"), "true");
    close(fd);
}

static void long_lines_are_refused(void **state)
{
    (void)state;
    int fd = dial();
    char *line = malloc(3 * FP_MAX_TEXT);
    memset(line, ' ', 3 * FP_MAX_TEXT);
    memcpy(line, "check off", 9);
    line[FP_MAX_TEXT - 1] = '\n'; /* 65536 with its LF: the longest */
    put(fd, line, FP_MAX_TEXT);
    assert_true(get(fd, reply, sizeof reply) > 0);
    assert_string_equal(reply, "{\"ok\":true}");
    line[FP_MAX_TEXT - 1] = ' ';
    line[FP_MAX_TEXT] = '\n';
    put(fd, line, FP_MAX_TEXT + 1);
    assert_true(get(fd, reply, sizeof reply) > 0);
    assert_has(reply, "\"code\":\"RGUARD_ETOOBIG\"");
    line[FP_MAX_TEXT] = ' ';
    line[3 * FP_MAX_TEXT - 1] = '\n';
    put(fd, line, 3 * FP_MAX_TEXT);
    assert_true(get(fd, reply, sizeof reply) > 0);
    assert_has(reply, "\"code\":\"RGUARD_ETOOBIG\"");
    assert_string_equal(ask_on(fd, "check off"), "{\"ok\":true}"); /* one reply for each */
    free(line);
    close(fd);
}

static void disconnects_are_harmless(void **state)
{
    (void)state;
    rguard_fp_off_all();
    for (int i = 0; i < 200; i++) {
        int fd = dial();
        put(fd, "set control/site return", 23); /* no LF: not a request */
        close(fd);
        fd = dial();
        put(fd, "list\nlist\nlist\n", 15); /* nobody will read the answers */
        close(fd);
    }
    still_serves();
    assert_false(site());
    int fd = dial();
    for (const char *p = "set control/site return\n"; *p != '\0'; p++) {
        put(fd, p, 1);
    }
    assert_true(get(fd, reply, sizeof reply) > 0);
    assert_has(ask_on(fd, "check off"), "true"); /* later reply: the program is in place */
    assert_true(site());
    close(fd);
}

/* One who asks and never reads stops itself; the others do not notice, and memory stays bounded. */
static void deaf_clients_stop_themselves(void **state)
{
    (void)state;
    int fd = dial();
    fcntl(fd, F_SETFL, O_NONBLOCK);
    size_t sent = 0;
    for (int idle = 0; idle < 20 && sent < (8u << 20);) {
        ssize_t n = send(fd, "list\nlist\nlist\nlist\n", 20, MSG_NOSIGNAL);
        if (n > 0) {
            sent += (size_t)n;
            idle = 0;
        } else {
            assert_int_equal(errno, EAGAIN);
            still_serves();
            idle++;
        }
    }
    assert_true(sent < (8u << 20));
    close(fd);
    still_serves();
}

static void many_clients_are_served(void **state)
{
    (void)state;
    enum { MANY = 200 };
    static int fds[MANY];
    for (int i = 0; i < MANY; i++) { /* more than there are places; the idle make room */
        fds[i] = dial();
        if (i % 40 == 0) {
            still_serves();
        }
    }
    assert_has(ask_on(fds[MANY - 1], "check off"), "true");
    for (int i = 0; i < MANY; i++) {
        close(fds[i]);
    }
    still_serves();
}

static void *ask_often(void *arg)
{
    long *bad = arg;
    for (int i = 0; i < 100; i++) {
        int fd = dial();
        char text[256];
        put(fd, "set control/site 1*return(0)\nstat control/site\n", 47);
        *bad += get(fd, text, sizeof text) <= 0 || strstr(text, "\"ok\":true") == NULL;
        *bad +=
            get(fd, text, sizeof text) <= 0 || strstr(text, "\"program\":\"1*return(0)\"") == NULL;
        close(fd);
    }
    return NULL;
}

static void clients_in_parallel(void **state)
{
    (void)state;
    pthread_t threads[8];
    long bad[8] = {0};
    for (int i = 0; i < 8; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, ask_often, &bad[i]), 0);
    }
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(bad[i], 0);
    }
}

/* ---- who may, and where ---------------------------------------------------------------------- */

static void file_is_private(void **state)
{
    (void)state;
    struct stat st;
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISSOCK(st.st_mode));
    assert_int_equal(st.st_mode & 07777, 0600);
}

/* Root can become somebody else, and open the file wide: the credentials still say who it is. */
static void other_users_are_refused(void **state)
{
    (void)state;
    if (geteuid() != 0) {
        skip();
    }
    assert_int_equal(chmod(dir, 0755), 0);
    assert_int_equal(chmod(path, 0666), 0);
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork();
    if (child == 0) {
        if (setresuid(65534, 65534, 65534) != 0) {
            _exit(1);
        }
        int fd = dial();
        ssize_t n = send(fd, "set control/site return\n", 24, MSG_NOSIGNAL);
        int len = n > 0 || errno == EPIPE ? get(fd, reply, sizeof reply) : -1;
        _exit(len > 0 && write(fds[1], reply, (size_t)len + 1) == len + 1 ? 0 : 2);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    close(fds[1]);
    assert_true(read(fds[0], reply, sizeof reply) > 0);
    assert_has(reply, "\"code\":\"RGUARD_EREFUSED\"");
    close(fds[0]);
    assert_int_equal(chmod(path, 0600), 0);
    assert_has(ask("stat control/site"), "\"ok\":true");
    assert_false(site());
}

static void only_a_dead_socket_is_removed(void **state)
{
    (void)state;
    char other[80];
    snprintf(other, sizeof other, "%s/other", dir);
    assert_int_equal(rguard_fp_listen(other), RGUARD_ESTATE); /* one per process */
    pid_t child = fork();
    if (child == 0) {
        /* The parent's socket lives; a file is not a socket; the child's own way is free. */
        bool ok = rguard_fp_listen(path) == -EADDRINUSE;
        int fd = open(other, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        ok = ok && fd >= 0 && rguard_fp_listen(other) == -EEXIST && access(other, F_OK) == 0;
        close(fd);
        unlink(other);
        ok = ok && rguard_fp_listen(other) == 0;
        rguard_fp_fini();
        ok = ok && access(other, F_OK) != 0 && rguard_fp_listen(other) == 0;
        /* Someone else's file at our path stays when we go. */
        ok = ok && unlink(other) == 0;
        fd = open(other, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        rguard_fp_fini();
        ok = ok && fd >= 0 && unlink(other) == 0;
        char endless[200];
        memset(endless, 'x', sizeof endless);
        endless[sizeof endless - 1] = '\0';
        ok = ok && rguard_fp_listen(endless) == -ENAMETOOLONG && rguard_fp_listen("") == -EINVAL;
        _exit(ok ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    still_serves();
}

/* A fork in the middle of everything: the child has no socket, the parent's goes on. */
static void forks_leave_it_alone(void **state)
{
    (void)state;
    int fd = dial();
    assert_has(ask_on(fd, "check off"), "true");
    for (int i = 0; i < 20; i++) {
        put(fd, "list\n", 5);
        pid_t child = fork();
        if (child == 0) {
            rguard_fp_fini(); /* nothing to end: it must not touch the parent's */
            _exit(access(path, F_OK) == 0 && rguard_fp_set("control/site", "return", NULL) == 0 &&
                          site()
                      ? 0
                      : 1);
        }
        assert_true(get(fd, reply, sizeof reply) > 0);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    close(fd);
    still_serves();
}

static void thread_leaves_signals_to_the_program(void **state)
{
    (void)state;
    char blocked[32] = "";
    bool found = false;
    for (int tid = getpid(); tid < getpid() + 400 && !found; tid++) {
        char file[64];
        char line[128];
        snprintf(file, sizeof file, "/proc/self/task/%d/status", tid);
        FILE *f = fopen(file, "r");
        while (f != NULL && fgets(line, sizeof line, f) != NULL) {
            found = found || strcmp(line, "Name:\trguard-fp\n") == 0;
            if (found && sscanf(line, "SigBlk: %31s", blocked) == 1) {
                break;
            }
        }
        if (f != NULL) {
            fclose(f);
        }
    }
    assert_true(found);
    uint64_t mask = strtoull(blocked, NULL, 16);
    static const int open_signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    static const int shut[] = {SIGTERM, SIGINT, SIGCHLD, SIGUSR1, SIGALRM, SIGHUP};
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(mask >> (open_signals[i] - 1) & 1, 0);
    }
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(mask >> (shut[i] - 1) & 1, 1);
    }
}

static int open_socket(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/socket", dir);
    return rguard_fp_listen(path);
}

/* The socket is gone after fini, and nothing else is left: rmdir would say so. */
static int close_socket(void **state)
{
    (void)state;
    rguard_fp_fini();
    rguard_fp_fini();
    return rmdir(dir);
}

static int off_all(void **state)
{
    (void)state;
    rguard_fp_off_all();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(commands_answer, off_all),
        cmocka_unit_test_teardown(list_shows_every_site, off_all),
        cmocka_unit_test_teardown(requests_may_be_sent_ahead, off_all),
        cmocka_unit_test_teardown(reply_comes_before_the_fault, off_all),
        cmocka_unit_test_teardown(garbage_is_answered, off_all),
        cmocka_unit_test_teardown(long_lines_are_refused, off_all),
        cmocka_unit_test_teardown(disconnects_are_harmless, off_all),
        cmocka_unit_test_teardown(deaf_clients_stop_themselves, off_all),
        cmocka_unit_test_teardown(many_clients_are_served, off_all),
        cmocka_unit_test_teardown(clients_in_parallel, off_all),
        cmocka_unit_test_teardown(file_is_private, off_all),
        cmocka_unit_test_teardown(other_users_are_refused, off_all),
        cmocka_unit_test_teardown(only_a_dead_socket_is_removed, off_all),
        cmocka_unit_test_teardown(forks_leave_it_alone, off_all),
        cmocka_unit_test_teardown(thread_leaves_signals_to_the_program, off_all),
    };
    return cmocka_run_group_tests_name("failpoint_control", tests, open_socket, close_socket);
}
