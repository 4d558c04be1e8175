/* SPDX-License-Identifier: Apache-2.0 */
/* See lab.h. */
#include "lab.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

struct lab lab;

/* ---- processes ------------------------------------------------------------------------------- */

double lab_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

void lab_nap(void)
{
    const struct timespec t = {.tv_nsec = 5000000};
    nanosleep(&t, NULL);
}

/* They are held until all are known. */
void lab_ports(int *ports, size_t n)
{
    int fds[2 * LAB_NODES];
    for (size_t i = 0; i < n; i++) {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof a;
        fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(bind(fds[i], (struct sockaddr *)&a, sizeof a), 0);
        assert_int_equal(getsockname(fds[i], (struct sockaddr *)&a, &len), 0);
        ports[i] = ntohs(a.sin_port);
    }
    for (size_t i = 0; i < n; i++) {
        close(fds[i]);
    }
}

pid_t lab_spawn(const char *program, char *const argv[], const char *log, const char *const env[])
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(fd, STDERR_FILENO);
        for (; env[0] != NULL; env += 2) {
            setenv(env[0], env[1], 1);
        }
        execv(program, argv);
        _exit(127);
    }
    return pid;
}

const char *lab_tool(const char *build, const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", getenv(build), name);
    return path;
}

int lab_wait(pid_t pid)
{
    int status;
    for (double end = lab_now() + LAB_PATIENCE_S; lab_now() < end; lab_nap()) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
    }
    return -1;
}

void lab_start(struct lab *l, int i)
{
    char id[16], listen_on[32], dir[96], log[96], sock[96];
    snprintf(id, sizeof id, "%d", i + 1);
    snprintf(listen_on, sizeof listen_on, "127.0.0.1:%d", l->nodes[i].port);
    snprintf(dir, sizeof dir, "%s/%d", l->dir, i + 1);
    snprintf(log, sizeof log, "%s/log%d", l->dir, i + 1);
    char *argv[] = {"rguard-kv",
                    "--id",
                    id,
                    "--listen",
                    listen_on,
                    "--peers",
                    l->peers,
                    "--dir",
                    dir,
                    "--raft",
                    (char *)(uintptr_t)l->mode,
                    "--election",
                    "150",
                    "--heartbeat",
                    "15",
                    "--snapshot-threshold",
                    "300",
                    NULL};
    snprintf(sock, sizeof sock, "%s/sock%d", l->dir, i + 1);
    const char *env[] = {"RGUARD_FAILPOINTS_SOCK", sock, "RGUARD_TEST_OFF", l->off, NULL};
    env[2] = l->off != NULL ? env[2] : NULL;
    assert_int_equal(l->nodes[i].pid, 0);
    unlink(sock); /* of one that was killed */
    l->nodes[i].pid =
        lab_spawn(lab_tool(l->off != NULL ? "RGUARD_TESTING_BIN" : "RGUARD_BIN", "rguard-kv"), argv,
                  log, env);
}

void lab_limit_files(const struct lab *l, int i, size_t bytes)
{
    const struct rlimit limit = {bytes, bytes};
    assert_int_equal(prlimit(l->nodes[i].pid, RLIMIT_FSIZE, &limit, NULL), 0);
}

void lab_kill(struct lab *l, int i)
{
    kill(l->nodes[i].pid, SIGKILL);
    waitpid(l->nodes[i].pid, NULL, 0);
    l->nodes[i].pid = 0;
}

int lab_end(struct lab *l, int i)
{
    kill(l->nodes[i].pid, SIGTERM);
    int code = lab_wait(l->nodes[i].pid);
    l->nodes[i].pid = code >= 0 ? 0 : l->nodes[i].pid;
    return code;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

void lab_make(struct lab *l, const char *mode)
{
    const char *base = getenv("TMPDIR");
    int ports[2 * LAB_NODES];
    size_t at = 0;
    memset(l, 0, sizeof *l);
    l->mode = mode;
    snprintf(l->dir, sizeof l->dir, "%.40s/rgkvXXXXXX", base != NULL ? base : "/tmp");
    assert_non_null(mkdtemp(l->dir));
    lab_ports(ports, 2 * LAB_NODES);
    for (int i = 0; i < LAB_NODES; i++) {
        l->nodes[i].port = ports[i];
        at += (size_t)snprintf(l->peers + at, sizeof l->peers - at, "%s%d=127.0.0.1:%d",
                               i > 0 ? "," : "", i + 1, ports[LAB_NODES + i]);
    }
}

void lab_start_all(struct lab *l)
{
    for (int i = 0; i < LAB_NODES; i++) {
        lab_start(l, i);
    }
}

static void show_logs(void)
{
    for (int i = 0; i < LAB_NODES; i++) {
        char path[96], line[512];
        snprintf(path, sizeof path, "%s/log%d", lab.dir, i + 1);
        FILE *f = fopen(path, "re");
        while (f != NULL && fgets(line, sizeof line, f) != NULL) {
            fputs(line, stderr);
        }
        if (f != NULL) {
            fclose(f);
        }
    }
}

void lab_fail(const char *fmt, ...)
{
    char why[256];
    va_list ap;
    show_logs();
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    fail_msg("%s", why);
}

int lab_tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < LAB_NODES; i++) {
        if (lab.nodes[i].pid > 0) {
            lab_kill(&lab, i);
        }
    }
    if (lab.dir[0] != '\0') {
        nftw(lab.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        lab.dir[0] = '\0';
    }
    return 0;
}

/* ---- a client -------------------------------------------------------------------------------- */

int lab_dial(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                            .sin_port = htons((uint16_t)port)};
    const struct timeval patience = {.tv_sec = 3};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

size_t lab_converse(int port, const char *data, size_t len, char *out, size_t cap)
{
    size_t got = 0;
    int fd = lab_dial(port);
    out[0] = '\0';
    if (fd < 0) {
        return 0;
    }
    ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    while (n > 0 && got < cap - 1 && (n = recv(fd, out + got, cap - 1 - got, 0)) > 0) {
        got += (size_t)n;
    }
    out[got] = '\0';
    close(fd);
    return got;
}

const char *lab_ask(const struct lab *l, int i, const char *fmt, ...)
{
    static char reply[8192];
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line - 2, fmt, ap);
    va_end(ap);
    memcpy(line + n, "\r\n", 3);
    size_t got = lab_converse(l->nodes[i].port, line, (size_t)n + 2, reply, sizeof reply);
    reply[got >= 2 ? got - 2 : 0] = '\0';
    return reply;
}

bool lab_info(const struct lab *l, int i, const char *name, char *value, size_t cap)
{
    char field[64];
    snprintf(field, sizeof field, "\n%s:", name);
    const char *at = strstr(lab_ask(l, i, "INFO"), field);
    if (at != NULL) {
        at += strlen(field);
        snprintf(value, cap, "%.*s", (int)strcspn(at, "\r"), at);
    }
    return at != NULL;
}

int lab_leader(const struct lab *l)
{
    for (double end = lab_now() + LAB_PATIENCE_S; lab_now() < end; lab_nap()) {
        for (int i = 0; i < LAB_NODES; i++) {
            char role[16];
            if (l->nodes[i].pid > 0 && lab_info(l, i, "role", role, sizeof role) &&
                strcmp(role, "leader") == 0 && lab_ask(l, i, "DBSIZE")[0] == ':') {
                return i;
            }
        }
    }
    lab_fail("no leader in %d s", LAB_PATIENCE_S);
    return -1;
}

/* An UNKNOWN write is simply repeated: the same value to the same key. */
void lab_must_set(const struct lab *l, int *leader, int key)
{
    for (double end = lab_now() + LAB_PATIENCE_S; lab_now() < end;) {
        if (strcmp(lab_ask(l, *leader, "SET k%d v%d", key, key), "+OK") == 0) {
            return;
        }
        *leader = lab_leader(l);
    }
    lab_fail("no acknowledgement in %d s", LAB_PATIENCE_S);
}

void lab_require_all(const struct lab *l, int keys)
{
    int leader = lab_leader(l);
    for (int k = 0; k < keys; k++) {
        char expected[32];
        int len = snprintf(NULL, 0, "v%d", k);
        snprintf(expected, sizeof expected, "$%d\r\nv%d", len, k);
        const char *got = lab_ask(l, leader, "GET k%d", k);
        for (int tries = 0; tries < 20 && (got[0] == '-' || got[0] == '\0'); tries++) {
            leader = lab_leader(l); /* it refused: that is no answer */
            got = lab_ask(l, leader, "GET k%d", k);
        }
        if (strcmp(got, expected) != 0) {
            lab_fail("k%d: %s", k, got);
        }
    }
}

void lab_require_equal(const struct lab *l)
{
    char digest[LAB_NODES][32], index[LAB_NODES][32];
    for (double end = lab_now() + LAB_PATIENCE_S; lab_now() < end; lab_nap()) {
        bool equal = true;
        for (int i = 0; i < LAB_NODES && equal; i++) {
            equal = lab_info(l, i, "digest", digest[i], sizeof digest[i]) &&
                    lab_info(l, i, "applied_index", index[i], sizeof index[i]) &&
                    strcmp(digest[i], digest[0]) == 0 && strcmp(index[i], index[0]) == 0;
        }
        if (equal) {
            REQUIRE(strcmp(digest[0], "0000000000000000") != 0);
            return;
        }
    }
    lab_fail("not equal after %d s", LAB_PATIENCE_S);
}

/* ---- many keys ------------------------------------------------------------------------------- */

static size_t put_value(char *out, unsigned key, lab_bytes bytes)
{
    size_t len = bytes(key);
    size_t used = (size_t)snprintf(out, LAB_VALUE_MAX, "%u:", key);
    memset(out + used, 'x', len > used ? len - used : 0);
    return len > used ? len : used;
}

static size_t put_set(char *out, unsigned key, lab_bytes bytes)
{
    char value[LAB_VALUE_MAX];
    size_t len = put_value(value, key, bytes);
    size_t used = (size_t)sprintf(out, "*3\r\n$3\r\nSET\r\n$%d\r\nk%u\r\n$%zu\r\n",
                                  snprintf(NULL, 0, "k%u", key), key, len);
    memcpy(out + used, value, len);
    memcpy(out + used + len, "\r\n", 2);
    return used + len + 2;
}

static bool send_all(int fd, const char *data, size_t len)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n <= 0) {
            return false;
        }
        data += n;
        len -= (size_t)n;
    }
    return true;
}

int lab_set_many(int fd, unsigned first, unsigned n, lab_bytes bytes, uint8_t *acked)
{
    char replies[4096];
    size_t used = 0;
    unsigned answered = 0;
    int ok = 0;
    char *request = malloc(n * (LAB_VALUE_MAX + 64u));
    for (unsigned k = 0; k < n; k++) {
        used += put_set(request + used, first + k, bytes);
    }
    bool sent = send_all(fd, request, used);
    free(request);
    used = 0;
    while (sent && answered < n) {
        char *end;
        ssize_t got = recv(fd, replies + used, sizeof replies - 1 - used, 0);
        if (got <= 0) {
            return -1;
        }
        used += (size_t)got;
        replies[used] = '\0';
        while ((end = strstr(replies, "\r\n")) != NULL && answered < n) {
            if (strncmp(replies, "+OK\r\n", 5) == 0) {
                acked[first + answered] = 1;
                ok++;
            }
            answered++;
            used -= (size_t)(end + 2 - replies);
            memmove(replies, end + 2, used + 1);
        }
    }
    return sent ? ok : -1;
}

/* Why one key is not what it should be; a leader that has changed is asked again. */
static void require_key(const struct lab *l, int *leader, unsigned key, lab_bytes bytes)
{
    char value[LAB_VALUE_MAX], expected[LAB_VALUE_MAX + 32];
    size_t len = put_value(value, key, bytes);
    snprintf(expected, sizeof expected, "$%zu\r\n%.*s", len, (int)len, value);
    const char *got = lab_ask(l, *leader, "GET k%u", key);
    for (int tries = 0; tries < 20 && (got[0] == '-' || got[0] == '\0'); tries++) {
        *leader = lab_leader(l);
        got = lab_ask(l, *leader, "GET k%u", key);
    }
    if (strcmp(got, expected) != 0) {
        lab_fail("acknowledged, but k%u is %.64s", key, got);
    }
}

void lab_require_acked(const struct lab *l, const uint8_t *acked, unsigned n, lab_bytes bytes)
{
    enum { BATCH = 64 };
    static char request[BATCH * 16], expected[BATCH * (LAB_VALUE_MAX + 32)],
        got[BATCH * (LAB_VALUE_MAX + 32)];
    int leader = lab_leader(l);
    for (unsigned key = 0; key < n;) {
        size_t asked = 0, len = 0;
        unsigned first = key;
        for (; key < n && key - first < BATCH; key++) {
            char value[LAB_VALUE_MAX];
            if (acked[key]) {
                size_t bytes_of = put_value(value, key, bytes);
                asked += (size_t)sprintf(request + asked, "GET k%u\r\n", key);
                len += (size_t)sprintf(expected + len, "$%zu\r\n%.*s\r\n", bytes_of, (int)bytes_of,
                                       value);
            }
        }
        lab_converse(l->nodes[leader].port, request, asked, got, sizeof got);
        for (unsigned k = first; k < key && (strlen(got) != len || memcmp(got, expected, len) != 0);
             k++) {
            if (acked[k]) {
                require_key(l, &leader, k, bytes);
            }
        }
    }
}

/* ---- faults ---------------------------------------------------------------------------------- */

int lab_try_arm(const struct lab *l, int i, const char *site, const char *program)
{
    char sock[96], log[96];
    const char *env[] = {NULL};
    snprintf(sock, sizeof sock, "%s/sock%d", l->dir, i + 1);
    snprintf(log, sizeof log, "%s/arm", l->dir);
    char *argv[] = {
        "rguard-fp", "-s", sock, "set", (char *)(uintptr_t)site, (char *)(uintptr_t)program, NULL};
    return lab_wait(lab_spawn(lab_tool("RGUARD_BIN", "rguard-fp"), argv, log, env));
}

void lab_arm(const struct lab *l, int i, const char *site, const char *program)
{
    REQUIRE(lab_try_arm(l, i, site, program) == 0);
}

int lab_count_in_log(const struct lab *l, int i, const char *one, const char *other)
{
    char path[96], line[1024];
    int n = 0;
    snprintf(path, sizeof path, "%s/log%d", l->dir, i + 1);
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        n += strstr(line, one) != NULL && strstr(line, other) != NULL;
    }
    if (f != NULL) {
        fclose(f);
    }
    return n;
}

bool lab_is_running(const struct lab *l, int i)
{
    return waitpid(l->nodes[i].pid, NULL, WNOHANG) == 0;
}
