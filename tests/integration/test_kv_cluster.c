/* SPDX-License-Identifier: Apache-2.0 */

/* rguard-kv as users run it: processes, sockets, signals, kill -9. Each case with stock libraft and
 * with raftguard underneath. */

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "lab.h"

/* ---- cases ----------------------------------------------------------------------------------- */

static void require_redirects(const struct lab *c, int leader, int follower)
{
    char moved[64];
    bool redirected = false;
    snprintf(moved, sizeof moved, "-MOVED 0 127.0.0.1:%d", c->nodes[leader].port);
    for (double end = lab_now() + LAB_PATIENCE_S; lab_now() < end && !redirected; lab_nap()) {
        redirected = strcmp(lab_ask(c, follower, "GET k0"), moved) == 0;
    }
    REQUIRE(redirected);
    REQUIRE(strcmp(lab_ask(c, follower, "SET k0 x"), moved) == 0);
    REQUIRE(strncmp(lab_ask(c, leader, "ROLE"), "*4\r\n$6\r\nleader\r\n", 16) == 0);
    REQUIRE(strncmp(lab_ask(c, follower, "ROLE"), "*4\r\n$8\r\nfollower\r\n", 18) == 0);
}

/* kill -9 of a follower, of the leader, of all at once; then a clean end of each. */
static void survive_kills(const char *mode)
{
    int keys = 0;
    lab_make(&lab, mode);
    lab_start_all(&lab);
    int leader = lab_leader(&lab);
    while (keys < 200) {
        lab_must_set(&lab, &leader, keys++);
    }
    int follower = (leader + 1) % LAB_NODES;
    require_redirects(&lab, leader, follower);
    lab_require_equal(&lab);

    lab_kill(&lab, follower);
    while (keys < 600) { /* past a snapshot */
        lab_must_set(&lab, &leader, keys++);
    }
    lab_start(&lab, follower);
    lab_require_equal(&lab);

    int old = lab_leader(&lab);
    lab_kill(&lab, old);
    leader = (old + 1) % LAB_NODES;
    while (keys < 650) {
        lab_must_set(&lab, &leader, keys++);
    }
    lab_require_all(&lab, keys);
    lab_start(&lab, old);
    lab_require_equal(&lab);

    for (int i = 0; i < LAB_NODES; i++) {
        lab_kill(&lab, i);
    }
    lab_start_all(&lab);
    lab_require_all(&lab, keys);
    lab_require_equal(&lab);
    for (int i = 0; i < LAB_NODES; i++) {
        int code = lab_end(&lab, i);
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
    lab_make(&lab, mode);
    lab_start_all(&lab);
    int leader = lab_leader(&lab);
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
    int follower = (leader + 1) % LAB_NODES;
    REQUIRE(lab_converse(lab.nodes[leader].port, request, len, got, sizeof got) == want);
    REQUIRE(memcmp(got, expected, want) == 0);
    /* A node that refuses all of it does that in order, too. */
    lab_converse(lab.nodes[follower].port, request, len, got, sizeof got);
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
    lab_make(&lab, "guarded");
    lab_start_all(&lab);
    int leader = lab_leader(&lab);
    lab_must_set(&lab, &leader, 1);
    for (int round = 0; round < 50; round++) {
        for (size_t i = 0; i < sizeof junk; i++) {
            seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
            junk[i] = (char)(seed >> 33);
        }
        lab_converse(lab.nodes[leader].port, junk, (size_t)(round + 1) * 4000, reply, sizeof reply);
    }
    for (size_t i = 0; i < sizeof absurd / sizeof absurd[0]; i++) {
        lab_converse(lab.nodes[leader].port, absurd[i], strlen(absurd[i]), reply, sizeof reply);
        REQUIRE(strncmp(reply, "-ERR Protocol error: ", 21) == 0);
    }
    REQUIRE(strcmp(lab_ask(&lab, leader, "GET k1"), "$2\r\nv1") == 0);
    REQUIRE(strcmp(lab_ask(&lab, leader, "SHUTDOWN"), "") == 0);
    REQUIRE(lab_wait(lab.nodes[leader].pid) == 0);
    lab.nodes[leader].pid = 0;
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
    lab_make(&lab, "guarded");
    lab_start_all(&lab);
    int leader = lab_leader(&lab);
    size_t len =
        (size_t)snprintf(set, sizeof set, "*3\r\n$3\r\nSET\r\n$3\r\nbig\r\n$%d\r\n", VALUE);
    memset(set + len, 'x', VALUE);
    memcpy(set + len + VALUE, "\r\n", 2);
    lab_converse(lab.nodes[leader].port, set, len + VALUE + 2, reply, sizeof reply);
    REQUIRE(strcmp(reply, "+OK\r\n") == 0);
    int fd = lab_dial(lab.nodes[leader].port);
    REQUIRE(fd >= 0);
    size_t sent = 0;
    for (int quiet = 0; quiet < 40;) {
        ssize_t n = send(fd, get, sizeof get - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0) {
            sent += (size_t)n;
        } else {
            quiet++;
            lab_nap();
        }
    }
    snprintf(rss, sizeof rss, "/proc/%d/statm", (int)lab.nodes[leader].pid);
    FILE *f = fopen(rss, "re");
    REQUIRE(f != NULL && fscanf(f, "%*d %ld", &kib) == 1);
    fclose(f);
    kib *= sysconf(_SC_PAGESIZE) / 1024;
    REQUIRE(sent / 9 > 1000); /* replies of more than a gigabyte were asked for */
    REQUIRE(kib < 200 * 1024);
    lab_must_set(&lab, &leader, 1);
    close(fd);
    lab_must_set(&lab, &leader, 2);
}

/* ---- memory faults --------------------------------------------------------------------------- */

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
    int key = 0, records[LAB_NODES] = {0};
    (void)state;
    skip_under_asan();
    lab_make(&lab, "guarded");
    lab_start_all(&lab);
    int leader = lab_leader(&lab);
    lab_must_set(&lab, &leader, key++);
    for (size_t f = 0; f < sizeof faults / sizeof faults[0]; f++) {
        for (int follower = 0; follower <= 1; follower++) {
            leader = lab_leader(&lab);
            int node = follower ? (leader + 1) % LAB_NODES : leader;
            lab_arm(&lab, node, "kv/apply", faults[f].program);
            for (int i = 0; i < 20; i++) {
                lab_must_set(&lab, &leader, key++);
            }
            lab_require_equal(&lab);
            REQUIRE(lab_is_running(&lab, node));
            char violations[16];
            REQUIRE(lab_info(&lab, node, "violations", violations, sizeof violations));
            REQUIRE(atoi(violations) == ++records[node]);
            REQUIRE(lab_count_in_log(&lab, node, "violation=", "index=") == records[node]);
            REQUIRE(lab_count_in_log(&lab, node, faults[f].record, "index=") >= 1);
        }
    }
    lab_require_all(&lab, key);
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
    lab_make(&lab, "guarded");
    lab.off = "double_free";
    lab_start_all(&lab);
    int leader = lab_leader(&lab), key = 0;
    int node = (leader + 1) % LAB_NODES, other = (leader + 2) % LAB_NODES;
    lab_must_set(&lab, &leader, key++);
    lab_arm(&lab, node, "kv/apply", "1*double_free");
    while (key < 20) {
        lab_must_set(&lab, &leader, key++);
    }
    bool differ = false;
    for (double end = lab_now() + 3; lab_now() < end; lab_nap()) {
        char index[2][32];
        differ = lab_is_running(&lab, node) && lab_info(&lab, node, "digest", digest[0], 32) &&
                 lab_info(&lab, node, "applied_index", index[0], 32) &&
                 lab_info(&lab, other, "digest", digest[1], 32) &&
                 lab_info(&lab, other, "applied_index", index[1], 32) &&
                 strcmp(index[0], index[1]) == 0 && strcmp(digest[0], digest[1]) != 0;
    }
    REQUIRE(differ);
}

/* A fault outside any window ends the process; the next one says what it was. */
static void test_a_fatal_fault_is_named_afterwards(void **state)
{
    (void)state;
    lab_make(&lab, "guarded");
    lab_start_all(&lab);
    int leader = lab_leader(&lab), next;
    lab_must_set(&lab, &leader, 0);
    lab_arm(&lab, leader, "kv/read", "1*abort");
    lab_ask(&lab, leader, "GET k0");
    REQUIRE(lab_wait(lab.nodes[leader].pid) == 128 + SIGABRT);
    lab.nodes[leader].pid = 0;
    next = (leader + 1) % LAB_NODES;
    lab_must_set(&lab, &next, 1);
    lab_start(&lab, leader);
    lab_require_equal(&lab);
    REQUIRE(lab_count_in_log(&lab, leader, "the last run ended by: violation=signal", "fatal") ==
            1);
}

/* examples/dropin.c: its sum goes on from run to run. */
static void test_dropin_counts(void **state)
{
    const char *env[] = {NULL};
    (void)state;
    lab_make(&lab, "guarded");
    for (int run = 1; run <= 2; run++) {
        char dir[96], log[96];
        snprintf(dir, sizeof dir, "%s", lab.dir);
        snprintf(log, sizeof log, "%s.log", lab.dir);
        char *argv[] = {"dropin", dir, NULL};
        int out = dup(STDOUT_FILENO);
        int fd = open(log, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        dup2(fd, STDOUT_FILENO);
        int code = lab_wait(lab_spawn(lab_tool("RGUARD_BIN", "dropin"), argv, log, env));
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
    snprintf(log, sizeof log, "%s/refused", lab.dir);
    unlink(log);
    const char *env[] = {"RGUARD_FAILPOINTS", failpoints != NULL ? failpoints : "", NULL};
    pid_t pid = lab_spawn(lab_tool("RGUARD_BIN", "rguard-kv"), argv, log, env);
    int got = lab_wait(pid);
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
    lab_make(&lab, mode);
    lab_start_all(&lab);
    int leader = lab_leader(&lab);
    lab_must_set(&lab, &leader, 0);
    lab_ports(ports, 2);
    snprintf(fresh, sizeof fresh, "%s/new", lab.dir);
    snprintf(used, sizeof used, "%s/%d", lab.dir, leader + 1);
    snprintf(listen_on, sizeof listen_on, "127.0.0.1:%d", ports[0]);
    snprintf(alone, sizeof alone, "1=127.0.0.1:%d", ports[1]);
    snprintf(busy, sizeof busy, "127.0.0.1:%d", lab.nodes[0].port);
    snprintf(taken, sizeof taken, "%.*s", (int)strcspn(lab.peers, ","), lab.peers);
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
    int code = lab_end(&lab, leader);
    REQUIRE(code == 0);
    alone[0] = '9';
    REFUSE(1, used, NULL, "--id", "9", "--listen", listen_on, "--peers", alone, "--dir", used,
           "--raft", mode);  /* another node's */
    lab_start(&lab, leader); /* and none of that harmed it */
    lab_require_equal(&lab);
    lab_require_all(&lab, 1);
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
        cmocka_unit_test_teardown(test_kills_guarded, lab_tear_down),
        cmocka_unit_test_teardown(test_kills_bare, lab_tear_down),
        cmocka_unit_test_teardown(test_order_guarded, lab_tear_down),
        cmocka_unit_test_teardown(test_order_bare, lab_tear_down),
        cmocka_unit_test_teardown(test_garbage_hurts_nobody, lab_tear_down),
        cmocka_unit_test_teardown(test_a_client_that_does_not_read, lab_tear_down),
        cmocka_unit_test_teardown(test_memory_faults_are_rolled_back, lab_tear_down),
        cmocka_unit_test_teardown(test_without_the_detector_replicas_differ, lab_tear_down),
        cmocka_unit_test_teardown(test_a_fatal_fault_is_named_afterwards, lab_tear_down),
        cmocka_unit_test_teardown(test_dropin_counts, lab_tear_down),
        cmocka_unit_test_teardown(test_bad_starts_guarded, lab_tear_down),
        cmocka_unit_test_teardown(test_bad_starts_bare, lab_tear_down),
    };
    if (getenv("RGUARD_BIN") == NULL) {
        fputs("test_kv_cluster: RGUARD_BIN: not set; run it by make test\n", stderr);
        return 1;
    }
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
