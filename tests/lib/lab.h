/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_TEST_LAB_H
#define RGUARD_TEST_LAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Three rguard-kv processes on loopback and in a temporary directory, their fault sites, and a
 * client. Needs RGUARD_BIN (and RGUARD_TESTING_BIN where detectors are switched off), as set by
 * make test. What cannot be done, or does not come about in time, fails the running test. */

#define LAB_NODES      3
#define LAB_PATIENCE_S 20
#define LAB_VALUE_MAX  4096u

struct lab_node
{
    pid_t pid; /* 0: not running */
    int port;  /* RESP */
};

struct lab
{
    const char *mode; /* --raft */
    const char *off;  /* NULL, or detectors switched off in a test build */
    char dir[64];
    char peers[128];
    struct lab_node nodes[LAB_NODES];
};

extern struct lab lab; /* of the running test, so that teardown finds it after a failure */

/* Fails the running test, and shows what the nodes of the global lab have logged. */
void lab_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#define REQUIRE(condition)                                 \
    do {                                                   \
        if (!(condition)) {                                \
            lab_fail("line %d: %s", __LINE__, #condition); \
        }                                                  \
    } while (0)

double lab_now(void);                 /* seconds, monotonic */
void lab_nap(void);                   /* 5 ms */
void lab_ports(int *ports, size_t n); /* that nobody has, all different */

/* Starts @program with standard error in @log and @env, name and value in turn, in the environment.
 */
pid_t lab_spawn(const char *program, char *const argv[], const char *log, const char *const env[]);
/* The exit code, 128 + the signal, or -1 when it still runs after LAB_PATIENCE_S. */
int lab_wait(pid_t pid);
const char *lab_tool(const char *build, const char *name); /* valid until the next call */

void lab_make(struct lab *l, const char *mode);
int lab_tear_down(void **state); /* for cmocka: of the global lab */
void lab_start(struct lab *l, int i);
void lab_start_all(struct lab *l);
void lab_kill(struct lab *l, int i);
int lab_end(struct lab *l, int i); /* SIGTERM; as lab_wait() */
bool lab_is_running(const struct lab *l, int i);
int lab_count_in_log(const struct lab *l, int i, const char *one, const char *other); /* lines */

/* From now on no file of node @i can grow beyond @bytes: a full disk. The test has to ignore
 * SIGXFSZ before it starts nodes, so that a write fails instead of ending the process. */
void lab_limit_files(const struct lab *l, int i, size_t bytes);

/* Arms a fault site with rguard-fp; its exit code. lab_arm() requires 0. */
int lab_try_arm(const struct lab *l, int i, const char *site, const char *program);
void lab_arm(const struct lab *l, int i, const char *site, const char *program);

/* A connection that gives up after 3 s, or -1. */
int lab_dial(int port);
/* Sends @len bytes and no more, and reads until the server closes. The length of what came. */
size_t lab_converse(int port, const char *data, size_t len, char *out, size_t cap);
/* One inline command; its reply without the last line end, "" when there was none; valid until the
 * next call. */
const char *lab_ask(const struct lab *l, int i, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
bool lab_info(const struct lab *l, int i, const char *name, char *value, size_t cap);
/* The node that leads and answers reads: a leader in name may have lost its followers. */
int lab_leader(const struct lab *l);

/* Writes v<key> to k<key> at whoever leads until it is acknowledged. */
void lab_must_set(const struct lab *l, int *leader, int key);
void lab_require_all(const struct lab *l, int keys); /* that they are there */

/* Many keys: the value of k<key> is "<key>:" filled up to bytes(key), at most LAB_VALUE_MAX. */
typedef size_t (*lab_bytes)(unsigned key);
/* One pipeline of SETs of @n keys; acked[key] becomes 1 for each +OK. @return how many, or -1 when
 * the connection broke. Any thread. */
int lab_set_many(int fd, unsigned first, unsigned n, lab_bytes bytes, uint8_t *acked);
/* The leader has every key k < @n with acked[k]. */
void lab_require_acked(const struct lab *l, const uint8_t *acked, unsigned n, lab_bytes bytes);

/* All nodes at one index with one digest of what GET returns. */
void lab_require_equal(const struct lab *l);

#endif
