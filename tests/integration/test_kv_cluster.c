/* SPDX-License-Identifier: Apache-2.0 */

/* rguard-kv as users run it: processes, sockets, signals, kill -9. Each case with stock libraft and
 * with raftguard underneath. */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define NODES      3
#define PATIENCE_S 20

struct node
{
    pid_t pid; /* 0: not running */
    int port;  /* RESP */
};

struct cluster
{
    const char *mode; /* --raft */
    const char *off;  /* NULL, or detectors switched off in a test build */
    char dir[64];
    char peers[128];
    struct node nodes[NODES];
};

static struct cluster cluster; /* of the running test, so that teardown finds it after a failure */

/* ---- processes ------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void nap(void)
{
    const struct timespec t = {.tv_nsec = 5000000};
    nanosleep(&t, NULL);
}

/* Ports that nobody has, all different: they are held until all are known. */
static void free_ports(int *ports, size_t n)
{
    int fds[2 * NODES];
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

/* Starts @program with standard error in @log and @env, name and value in turn, in the environment.
 */
static pid_t spawn(const char *program, char *const argv[], const char *log,
                   const char *const env[])
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

static const char *tool(const char *build, const char *name)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", getenv(build), name);
    return path;
}

/* The exit code, 128 + the signal, or -1 when it still runs after PATIENCE_S. */
static int wait_exit(pid_t pid)
{
    int status;
    for (double end = now() + PATIENCE_S; now() < end; nap()) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
    }
    return -1;
}

static void start_node(struct cluster *c, int i)
{
    char id[16], listen_on[32], dir[96], log[96], sock[96];
    snprintf(id, sizeof id, "%d", i + 1);
    snprintf(listen_on, sizeof listen_on, "127.0.0.1:%d", c->nodes[i].port);
    snprintf(dir, sizeof dir, "%s/%d", c->dir, i + 1);
    snprintf(log, sizeof log, "%s/log%d", c->dir, i + 1);
    char *argv[] = {"rguard-kv",
                    "--id",
                    id,
                    "--listen",
                    listen_on,
                    "--peers",
                    c->peers,
                    "--dir",
                    dir,
                    "--raft",
                    (char *)(uintptr_t)c->mode,
                    "--election",
                    "150",
                    "--heartbeat",
                    "15",
                    "--snapshot-threshold",
                    "300",
                    NULL};
    snprintf(sock, sizeof sock, "%s/sock%d", c->dir, i + 1);
    const char *env[] = {"RGUARD_FAILPOINTS_SOCK", sock, "RGUARD_TEST_OFF", c->off, NULL};
    env[2] = c->off != NULL ? env[2] : NULL;
    assert_int_equal(c->nodes[i].pid, 0);
    unlink(sock); /* of one that was killed */
    c->nodes[i].pid = spawn(tool(c->off != NULL ? "RGUARD_TESTING_BIN" : "RGUARD_BIN", "rguard-kv"),
                            argv, log, env);
}

static void kill_node(struct cluster *c, int i)
{
    kill(c->nodes[i].pid, SIGKILL);
    waitpid(c->nodes[i].pid, NULL, 0);
    c->nodes[i].pid = 0;
}

static int end_node(struct cluster *c, int i)
{
    kill(c->nodes[i].pid, SIGTERM);
    int code = wait_exit(c->nodes[i].pid);
    c->nodes[i].pid = code >= 0 ? 0 : c->nodes[i].pid;
    return code;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static void make_cluster(struct cluster *c, const char *mode)
{
    const char *base = getenv("TMPDIR");
    int ports[2 * NODES];
    size_t at = 0;
    memset(c, 0, sizeof *c);
    c->mode = mode;
    snprintf(c->dir, sizeof c->dir, "%.40s/rgkvXXXXXX", base != NULL ? base : "/tmp");
    assert_non_null(mkdtemp(c->dir));
    free_ports(ports, 2 * NODES);
    for (int i = 0; i < NODES; i++) {
        c->nodes[i].port = ports[i];
        at += (size_t)snprintf(c->peers + at, sizeof c->peers - at, "%s%d=127.0.0.1:%d",
                               i > 0 ? "," : "", i + 1, ports[NODES + i]);
    }
}

static void start_all(struct cluster *c)
{
    for (int i = 0; i < NODES; i++) {
        start_node(c, i);
    }
}

static void show_logs(const struct cluster *c)
{
    for (int i = 0; i < NODES; i++) {
        char path[96], line[512];
        snprintf(path, sizeof path, "%s/log%d", c->dir, i + 1);
        FILE *f = fopen(path, "re");
        while (f != NULL && fgets(line, sizeof line, f) != NULL) {
            fputs(line, stderr);
        }
        if (f != NULL) {
            fclose(f);
        }
    }
}

static int tear_down(void **state)
{
    (void)state;
    for (int i = 0; i < NODES; i++) {
        if (cluster.nodes[i].pid > 0) {
            kill_node(&cluster, i);
        }
    }
    if (cluster.dir[0] != '\0') {
        nftw(cluster.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
        cluster.dir[0] = '\0';
    }
    return 0;
}

#define REQUIRE(condition)                                 \
    do {                                                   \
        if (!(condition)) {                                \
            show_logs(&cluster);                           \
            fail_msg("line %d: %s", __LINE__, #condition); \
        }                                                  \
    } while (0)

/* ---- a client -------------------------------------------------------------------------------- */

static int dial(int port)
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

/* Sends @len bytes and no more, and reads until the server closes. The length of what came. */
static size_t converse(int port, const char *data, size_t len, char *out, size_t cap)
{
    size_t got = 0;
    int fd = dial(port);
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

/* One inline command; its reply without the last line end, "" when there was none. */
__attribute__((format(printf, 3, 4))) static const char *ask(const struct cluster *c, int i,
                                                             const char *fmt, ...)
{
    static char reply[8192];
    char line[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(line, sizeof line - 2, fmt, ap);
    va_end(ap);
    memcpy(line + n, "\r\n", 3);
    size_t got = converse(c->nodes[i].port, line, (size_t)n + 2, reply, sizeof reply);
    reply[got >= 2 ? got - 2 : 0] = '\0';
    return reply;
}

static bool info(const struct cluster *c, int i, const char *name, char *value, size_t cap)
{
    char field[64];
    snprintf(field, sizeof field, "\n%s:", name);
    const char *at = strstr(ask(c, i, "INFO"), field);
    if (at != NULL) {
        at += strlen(field);
        snprintf(value, cap, "%.*s", (int)strcspn(at, "\r"), at);
    }
    return at != NULL;
}

/* The node that leads and answers reads: a leader in name may have lost its followers. */
static int find_leader(const struct cluster *c)
{
    for (double end = now() + PATIENCE_S; now() < end; nap()) {
        for (int i = 0; i < NODES; i++) {
            char role[16];
            if (c->nodes[i].pid > 0 && info(c, i, "role", role, sizeof role) &&
                strcmp(role, "leader") == 0 && ask(c, i, "DBSIZE")[0] == ':') {
                return i;
            }
        }
    }
    REQUIRE(!"a leader");
    return -1;
}

/* Writes @key to whoever leads until it is acknowledged. An UNKNOWN write is simply repeated: the
 * same value to the same key. */
static void must_set(const struct cluster *c, int *leader, int key)
{
    for (double end = now() + PATIENCE_S; now() < end;) {
        if (strcmp(ask(c, *leader, "SET k%d v%d", key, key), "+OK") == 0) {
            return;
        }
        *leader = find_leader(c);
    }
    REQUIRE(!"an acknowledgement");
}

static void require_all(const struct cluster *c, int keys)
{
    int leader = find_leader(c);
    for (int k = 0; k < keys; k++) {
        char expected[32];
        int len = snprintf(NULL, 0, "v%d", k);
        snprintf(expected, sizeof expected, "$%d\r\nv%d", len, k);
        const char *got = ask(c, leader, "GET k%d", k);
        for (int tries = 0; tries < 20 && (got[0] == '-' || got[0] == '\0'); tries++) {
            leader = find_leader(c); /* it refused: that is no answer */
            got = ask(c, leader, "GET k%d", k);
        }
        if (strcmp(got, expected) != 0) {
            show_logs(c);
            fail_msg("k%d: %s", k, got);
        }
    }
}

/* All nodes at one index with one digest of what GET returns. */
static void require_equal(const struct cluster *c)
{
    char digest[NODES][32], index[NODES][32];
    for (double end = now() + PATIENCE_S; now() < end; nap()) {
        bool equal = true;
        for (int i = 0; i < NODES && equal; i++) {
            equal = info(c, i, "digest", digest[i], sizeof digest[i]) &&
                    info(c, i, "applied_index", index[i], sizeof index[i]) &&
                    strcmp(digest[i], digest[0]) == 0 && strcmp(index[i], index[0]) == 0;
        }
        if (equal) {
            REQUIRE(strcmp(digest[0], "0000000000000000") != 0);
            return;
        }
    }
    REQUIRE(!"equal digests");
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void require_redirects(const struct cluster *c, int leader, int follower)
{
    char moved[64];
    bool redirected = false;
    snprintf(moved, sizeof moved, "-MOVED 0 127.0.0.1:%d", c->nodes[leader].port);
    for (double end = now() + PATIENCE_S; now() < end && !redirected; nap()) {
        redirected = strcmp(ask(c, follower, "GET k0"), moved) == 0;
    }
    REQUIRE(redirected);
    REQUIRE(strcmp(ask(c, follower, "SET k0 x"), moved) == 0);
    REQUIRE(strncmp(ask(c, leader, "ROLE"), "*4\r\n$6\r\nleader\r\n", 16) == 0);
    REQUIRE(strncmp(ask(c, follower, "ROLE"), "*4\r\n$8\r\nfollower\r\n", 18) == 0);
}

/* kill -9 of a follower, of the leader, of all at once; then a clean end of each. */
static void survive_kills(const char *mode)
{
    int keys = 0;
    make_cluster(&cluster, mode);
    start_all(&cluster);
    int leader = find_leader(&cluster);
    while (keys < 200) {
        must_set(&cluster, &leader, keys++);
    }
    int follower = (leader + 1) % NODES;
    require_redirects(&cluster, leader, follower);
    require_equal(&cluster);

    kill_node(&cluster, follower);
    while (keys < 600) { /* past a snapshot */
        must_set(&cluster, &leader, keys++);
    }
    start_node(&cluster, follower);
    require_equal(&cluster);

    int old = find_leader(&cluster);
    kill_node(&cluster, old);
    leader = (old + 1) % NODES;
    while (keys < 650) {
        must_set(&cluster, &leader, keys++);
    }
    require_all(&cluster, keys);
    start_node(&cluster, old);
    require_equal(&cluster);

    for (int i = 0; i < NODES; i++) {
        kill_node(&cluster, i);
    }
    start_all(&cluster);
    require_all(&cluster, keys);
    require_equal(&cluster);
    for (int i = 0; i < NODES; i++) {
        int code = end_node(&cluster, i);
        REQUIRE(code == 0);
    }
}

static void test_kills_bare(void **state)
{
    (void)state;
    survive_kills("bare");
}

static void test_kills_guarded(void **state)
{
    (void)state;
    survive_kills("guarded");
}

/* A pipeline is answered in order, and each command sees those before it. */
static void keep_order(const char *mode)
{
    enum { N = 1000, KEYS = 5 };
    static char request[N * 64], expected[N * 64], got[N * 128];
    size_t len = 0, want = 0, refused = 0;
    make_cluster(&cluster, mode);
    start_all(&cluster);
    int leader = find_leader(&cluster);
    for (int i = 0; i < N; i++) {
        len += (size_t)snprintf(request + len, sizeof request - len,
                                "GET p%d\r\nSET p%d %06d\r\nGET p%d\r\n", i % KEYS, i % KEYS, i,
                                i % KEYS);
        if (i < KEYS) {
            want += (size_t)snprintf(expected + want, sizeof expected - want, "$-1\r\n");
        } else {
            want += (size_t)snprintf(expected + want, sizeof expected - want, "$6\r\n%06d\r\n",
                                     i - KEYS);
        }
        want +=
            (size_t)snprintf(expected + want, sizeof expected - want, "+OK\r\n$6\r\n%06d\r\n", i);
    }
    int follower = (leader + 1) % NODES;
    REQUIRE(converse(cluster.nodes[leader].port, request, len, got, sizeof got) == want);
    REQUIRE(memcmp(got, expected, want) == 0);
    /* A node that refuses all of it does that in order, too. */
    converse(cluster.nodes[follower].port, request, len, got, sizeof got);
    for (const char *at = got; (at = strstr(at, "\r\n")) != NULL; at += 2) {
        refused++;
    }
    REQUIRE(refused == (size_t)3 * N);
}

static void test_order_bare(void **state)
{
    (void)state;
    keep_order("bare");
}

static void test_order_guarded(void **state)
{
    (void)state;
    keep_order("guarded");
}

static void test_garbage_hurts_nobody(void **state)
{
    static char junk[200000], reply[200000];
    static const char *const absurd[] = {"*99999999\r\n", "*1\r\n$99999999999\r\n", "*-9x\r\n"};
    uint64_t seed = 11;
    (void)state;
    make_cluster(&cluster, "guarded");
    start_all(&cluster);
    int leader = find_leader(&cluster);
    must_set(&cluster, &leader, 1);
    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < sizeof junk; i++) {
            seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
            junk[i] = (char)(seed >> 33);
        }
        converse(cluster.nodes[leader].port, junk, (size_t)(round + 1) * 4000, reply, sizeof reply);
    }
    for (size_t i = 0; i < sizeof absurd / sizeof absurd[0]; i++) {
        converse(cluster.nodes[leader].port, absurd[i], strlen(absurd[i]), reply, sizeof reply);
        REQUIRE(strncmp(reply, "-ERR Protocol error: ", 21) == 0);
    }
    REQUIRE(strcmp(ask(&cluster, leader, "GET k1"), "$2\r\nv1") == 0);
    REQUIRE(strcmp(ask(&cluster, leader, "SHUTDOWN"), "") == 0);
    REQUIRE(wait_exit(cluster.nodes[leader].pid) == 0);
    cluster.nodes[leader].pid = 0;
}

/* A client that sends and never reads costs a bounded amount, and the others nothing. */
static void test_a_client_that_does_not_read(void **state)
{
    enum { VALUE = 1 << 20 };
    static char set[VALUE + 64], reply[64];
    static const char get[] = "GET big\r\nGET big\r\nGET big\r\nGET big\r\n";
    char rss[64];
    long kib = 0;
    (void)state;
    make_cluster(&cluster, "guarded");
    start_all(&cluster);
    int leader = find_leader(&cluster);
    size_t len =
        (size_t)snprintf(set, sizeof set, "*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$%d\r\n", VALUE);
    memset(set + len, 'x', VALUE);
    memcpy(set + len + VALUE, "\r\n", 2);
    converse(cluster.nodes[leader].port, set, len + VALUE + 2, reply, sizeof reply);
    REQUIRE(strcmp(reply, "+OK\r\n") == 0);
    int fd = dial(cluster.nodes[leader].port);
    REQUIRE(fd >= 0);
    size_t sent = 0;
    for (int quiet = 0; quiet < 40;) {
        ssize_t n = send(fd, get, sizeof get - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            sent += (size_t)n;
        } else {
            quiet++;
            nap();
        }
    }
    snprintf(rss, sizeof rss, "/proc/%d/statm", (int)cluster.nodes[leader].pid);
    FILE *f = fopen(rss, "re");
    REQUIRE(f != NULL && fscanf(f, "%*d %ld", &kib) == 1);
    fclose(f);
    kib *= sysconf(_SC_PAGESIZE) / 1024;
    REQUIRE(sent / 9 > 1000); /* replies of more than a gigabyte were asked for */
    REQUIRE(kib < 200 * 1024);
    must_set(&cluster, &leader, 1);
    close(fd);
    must_set(&cluster, &leader, 2);
}

/* ---- memory faults --------------------------------------------------------------------------- */

static void arm(const struct cluster *c, int i, const char *site, const char *program)
{
    char sock[96], log[96];
    const char *env[] = {NULL};
    snprintf(sock, sizeof sock, "%s/sock%d", c->dir, i + 1);
    snprintf(log, sizeof log, "%s/arm", c->dir);
    char *argv[] = {
        "rguard-fp", "-s", sock, "set", (char *)(uintptr_t)site, (char *)(uintptr_t)program, NULL};
    REQUIRE(wait_exit(spawn(tool("RGUARD_BIN", "rguard-fp"), argv, log, env)) == 0);
}

/* Lines of node @i's log that contain both texts. */
static int count_in_log(const struct cluster *c, int i, const char *one, const char *other)
{
    char path[96], line[1024];
    int n = 0;
    snprintf(path, sizeof path, "%s/log%d", c->dir, i + 1);
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        n += strstr(line, one) != NULL && strstr(line, other) != NULL;
    }
    if (f != NULL) {
        fclose(f);
    }
    return n;
}

static bool is_running(const struct cluster *c, int i)
{
    return waitpid(c->nodes[i].pid, NULL, WNOHANG) == 0;
}

/* ASan reports these faults itself and ends the process: asan-ci/ checks that. */
static void skip_under_asan(void)
{
#ifdef __SANITIZE_ADDRESS__
    skip();
#endif
}

/* The engine really overruns, or frees twice, inside apply; the node goes on and agrees. */
static void test_memory_faults_are_rolled_back(void **state)
{
    static const struct
    {
        const char *program, *record;
    } faults[] = {{"1*overrun(1)", "violation=slot_guard class=precise arena=kv.values"},
                  {"1*overrun(64)", "violation=slot_guard class=precise arena=kv.values"},
                  {"1*double_free", "violation=double_free class=precise arena=kv.values"}};
    int key = 0, records[NODES] = {0};
    (void)state;
    skip_under_asan();
    make_cluster(&cluster, "guarded");
    start_all(&cluster);
    int leader = find_leader(&cluster);
    must_set(&cluster, &leader, key++);
    for (size_t f = 0; f < sizeof faults / sizeof faults[0]; f++) {
        for (int follower = 0; follower <= 1; follower++) {
            leader = find_leader(&cluster);
            int node = follower ? (leader + 1) % NODES : leader;
            arm(&cluster, node, "kv/apply", faults[f].program);
            for (int i = 0; i < 20; i++) {
                must_set(&cluster, &leader, key++);
            }
            require_equal(&cluster);
            REQUIRE(is_running(&cluster, node));
            char violations[16];
            REQUIRE(info(&cluster, node, "violations", violations, sizeof violations));
            REQUIRE(atoi(violations) == ++records[node]);
            REQUIRE(count_in_log(&cluster, node, "violation=", "index=") == records[node]);
            REQUIRE(count_in_log(&cluster, node, faults[f].record, "index=") >= 1);
        }
    }
    require_all(&cluster, key);
}

/* Without the detector the same double free makes two keys share one slot: the digests part. */
static void test_without_the_detector_replicas_differ(void **state)
{
    char digest[2][32];
    (void)state;
    skip_under_asan();
    if (getenv("RGUARD_TESTING_BIN") == NULL) {
        skip();
    }
    make_cluster(&cluster, "guarded");
    cluster.off = "double_free";
    start_all(&cluster);
    int leader = find_leader(&cluster), key = 0;
    int node = (leader + 1) % NODES, other = (leader + 2) % NODES;
    must_set(&cluster, &leader, key++);
    arm(&cluster, node, "kv/apply", "1*double_free");
    while (key < 20) {
        must_set(&cluster, &leader, key++);
    }
    bool differ = false;
    for (double end = now() + 3; now() < end; nap()) {
        char index[2][32];
        differ = is_running(&cluster, node) && info(&cluster, node, "digest", digest[0], 32) &&
                 info(&cluster, node, "applied_index", index[0], 32) &&
                 info(&cluster, other, "digest", digest[1], 32) &&
                 info(&cluster, other, "applied_index", index[1], 32) &&
                 strcmp(index[0], index[1]) == 0 && strcmp(digest[0], digest[1]) != 0;
    }
    REQUIRE(differ);
}

/* A fault outside any window ends the process; the next one says what it was. */
static void test_a_fatal_fault_is_named_afterwards(void **state)
{
    (void)state;
    make_cluster(&cluster, "guarded");
    start_all(&cluster);
    int leader = find_leader(&cluster), next;
    must_set(&cluster, &leader, 0);
    arm(&cluster, leader, "kv/read", "1*abort");
    ask(&cluster, leader, "GET k0");
    REQUIRE(wait_exit(cluster.nodes[leader].pid) == 128 + SIGABRT);
    cluster.nodes[leader].pid = 0;
    next = (leader + 1) % NODES;
    must_set(&cluster, &next, 1);
    start_node(&cluster, leader);
    require_equal(&cluster);
    REQUIRE(count_in_log(&cluster, leader, "the last run ended by: violation=signal", "fatal") ==
            1);
}

/* examples/dropin.c: its sum goes on from run to run. */
static void test_dropin_counts(void **state)
{
    const char *env[] = {NULL};
    (void)state;
    make_cluster(&cluster, "guarded");
    for (int run = 1; run <= 2; run++) {
        char dir[96], log[96];
        snprintf(dir, sizeof dir, "%s", cluster.dir);
        snprintf(log, sizeof log, "%s.log", cluster.dir);
        char *argv[] = {"dropin", dir, NULL};
        int out = dup(STDOUT_FILENO);
        int fd = open(log, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        dup2(fd, STDOUT_FILENO);
        int code = wait_exit(spawn(tool("RGUARD_BIN", "dropin"), argv, log, env));
        dup2(out, STDOUT_FILENO);
        close(out);
        char said[256] = "", expected[32];
        ssize_t n = pread(fd, said, sizeof said - 1, 0);
        close(fd);
        unlink(log);
        if (strstr(said, "address already in use") != NULL) {
            skip(); /* its port is fixed */
        }
        snprintf(expected, sizeof expected, "success, sum %d\n", run);
        if (code != 0 || n <= 0 || strstr(said, expected) == NULL) {
            fail_msg("exit %d: %s", code, said);
        }
    }
}

/* ---- bad starts ------------------------------------------------------------------------------ */

/* Starts with @argv, expects exit @code and @text on standard error. */
static void refuse(int code, const char *text, const char *failpoints, char *const argv[])
{
    char log[96], said[2048] = "";
    snprintf(log, sizeof log, "%s/refused", cluster.dir);
    unlink(log);
    const char *env[] = {"RGUARD_FAILPOINTS", failpoints != NULL ? failpoints : "", NULL};
    pid_t pid = spawn(tool("RGUARD_BIN", "rguard-kv"), argv, log, env);
    int got = wait_exit(pid);
    if (got < 0) {
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    FILE *f = fopen(log, "re");
    size_t n = f != NULL ? fread(said, 1, sizeof said - 1, f) : 0;
    said[n] = '\0';
    if (f != NULL) {
        fclose(f);
    }
    if (got != code || strstr(said, text) == NULL || strncmp(said, "rguard-kv: ", 11) != 0) {
        fail_msg("exit %d instead of %d, \"%s\" not in: %s", got, code, text, said);
    }
}

#define REFUSE(code, text, failpoints, ...) \
    refuse(code, text, failpoints, (char *[]){"rguard-kv", __VA_ARGS__, NULL})

static void refuse_usage(const char *listen_on, char *alone, char *dir)
{
    char *at = (char *)(uintptr_t)listen_on;
    REFUSE(64, "--bogus: unknown option", NULL, "--bogus");
    REFUSE(64, "needs a value", NULL, "--id");
    REFUSE(64, "lmdb", NULL, "--engine", "lmdb");
    REFUSE(64, "--peers", NULL, "--peers", "1=nowhere");
    REFUSE(64, "not among them", NULL, "--id", "9", "--listen", at, "--peers", alone, "--dir", dir,
           "--raft", "bare");
    REFUSE(64, "different ports", NULL, "--id", "1", "--listen", alone + 2, "--peers", alone,
           "--dir", dir, "--raft", "bare");
    REFUSE(78, "offset 9", "kv/apply=retrun", "--id", "1");
    REQUIRE(access(dir, F_OK) != 0); /* nothing was made */
}

static void refuse_bad_starts(const char *mode_)
{
    char *mode = (char *)(uintptr_t)mode_;
    char fresh[96], used[96], listen_on[32], busy[32], alone[32], taken[32];
    int ports[2];
    make_cluster(&cluster, mode);
    start_all(&cluster);
    int leader = find_leader(&cluster);
    must_set(&cluster, &leader, 0);
    free_ports(ports, 2);
    snprintf(fresh, sizeof fresh, "%s/new", cluster.dir);
    snprintf(used, sizeof used, "%s/%d", cluster.dir, leader + 1);
    snprintf(listen_on, sizeof listen_on, "127.0.0.1:%d", ports[0]);
    snprintf(alone, sizeof alone, "1=127.0.0.1:%d", ports[1]);
    snprintf(busy, sizeof busy, "127.0.0.1:%d", cluster.nodes[0].port);
    snprintf(taken, sizeof taken, "%.*s", (int)strcspn(cluster.peers, ","), cluster.peers);
    refuse_usage(listen_on, alone, fresh);
    REFUSE(1, "in use", NULL, "--id", "1", "--listen", busy, "--peers", alone, "--dir", fresh,
           "--raft", mode);
    REQUIRE(access(fresh, F_OK) != 0);
    REFUSE(1, "in use", NULL, "--id", "1", "--listen", listen_on, "--peers", taken, "--dir", fresh,
           "--raft", mode);
    REFUSE(1, "/proc/rguard", NULL, "--id", "1", "--listen", listen_on, "--peers", alone, "--dir",
           "/proc/rguard", "--raft", mode);
    REFUSE(1, used, NULL, "--id", "1", "--listen", listen_on, "--peers", alone, "--dir", used,
           "--raft", mode); /* by a running node */
    int code = end_node(&cluster, leader);
    REQUIRE(code == 0);
    alone[0] = '9';
    REFUSE(1, used, NULL, "--id", "9", "--listen", listen_on, "--peers", alone, "--dir", used,
           "--raft", mode);       /* another node's */
    start_node(&cluster, leader); /* and none of that harmed it */
    require_equal(&cluster);
    require_all(&cluster, 1);
}

static void test_bad_starts_bare(void **state)
{
    (void)state;
    refuse_bad_starts("bare");
}

static void test_bad_starts_guarded(void **state)
{
    (void)state;
    refuse_bad_starts("guarded");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_kills_guarded, tear_down),
        cmocka_unit_test_teardown(test_kills_bare, tear_down),
        cmocka_unit_test_teardown(test_order_guarded, tear_down),
        cmocka_unit_test_teardown(test_order_bare, tear_down),
        cmocka_unit_test_teardown(test_garbage_hurts_nobody, tear_down),
        cmocka_unit_test_teardown(test_a_client_that_does_not_read, tear_down),
        cmocka_unit_test_teardown(test_memory_faults_are_rolled_back, tear_down),
        cmocka_unit_test_teardown(test_without_the_detector_replicas_differ, tear_down),
        cmocka_unit_test_teardown(test_a_fatal_fault_is_named_afterwards, tear_down),
        cmocka_unit_test_teardown(test_dropin_counts, tear_down),
        cmocka_unit_test_teardown(test_bad_starts_guarded, tear_down),
        cmocka_unit_test_teardown(test_bad_starts_bare, tear_down),
    };
    if (getenv("RGUARD_BIN") == NULL) {
        fputs("test_kv_cluster: RGUARD_BIN: not set; run it by make test\n", stderr);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
