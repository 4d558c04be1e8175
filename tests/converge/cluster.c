/* SPDX-License-Identifier: Apache-2.0 */
/* The processes of one run.
 *
 *     <out>/run-XXXXXX/          working directory of every node, so that socket paths stay short
 *         n1/ n2/ n3/            data
 *         n1.log ...             stderr, appended to over restarts
 *         n1.fp ...              failpoint sockets
 *
 * fork() instead of posix_spawn(): only between fork and exec can a child ask to die with its
 * parent. The supervisor is small and has one thread. */
#include "cluster.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <raftguard/error.h>

#include "reply.h"

#define RING_RECORDS (1u << 16)
#define MAX_STARTS   20u

static void fail(const char *what, const char *why)
{
    fprintf(stderr, "rguard-converge: %s: %s\n", what, why);
}

static void pause_ms(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000l}, NULL);
}

/* ---- ports ----------------------------------------------------------------------------------- */

static bool port_is_free(unsigned port, int type)
{
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return false;
    }
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    bool ok = bind(fd, (struct sockaddr *)&a, sizeof a) == 0;
    close(fd);
    return ok;
}

/* Below the range from which the kernel takes ports for outgoing connections: a client that retries
 * must never land on the port of a node that is about to come back. */
static unsigned free_port(const struct cv_cluster *c)
{
    for (unsigned tries = 0; tries < 1000; tries++) {
        uint16_t r;
        if (getrandom(&r, sizeof r, 0) != (ssize_t)sizeof r) {
            break;
        }
        unsigned port = 12000 + r % 20000u;
        bool taken = false;
        for (unsigned i = 0; i <= c->n; i++) {
            taken |= c->nodes[i].port == port || c->nodes[i].raft_port == port;
        }
        if (!taken && port_is_free(port, SOCK_STREAM) && port_is_free(port, SOCK_DGRAM)) {
            return port;
        }
    }
    return 0;
}

/* ---- one process ----------------------------------------------------------------------------- */

struct command
{
    char words[24][320];
    char *argv[25];
    size_t n;
};

static void word(struct command *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void word(struct command *k, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(k->words[k->n], sizeof k->words[0], fmt, ap);
    va_end(ap);
    k->argv[k->n] = k->words[k->n];
    k->argv[++k->n] = NULL;
}

static void build_command(const struct cv_cluster *c, unsigned id, struct command *k)
{
    const struct cv_options *o = c->options;
    char peers[320] = "";
    for (unsigned i = 0; i < c->n; i++) {
        size_t at = strlen(peers);
        snprintf(peers + at, sizeof peers - at, "%s%u=127.0.0.1:%u", i == 0 ? "" : ",", i + 1,
                 c->nodes[i].raft_port);
    }
    char ring[64];
    cv_ring_path(&c->nodes[id - 1].ring, ring, sizeof ring);
    *k = (struct command){.n = 0};
    word(k, "rguard-kv");
    word(k, "--id");
    word(k, "%u", id);
    word(k, "--listen");
    word(k, "127.0.0.1:%u", c->nodes[id - 1].port);
    word(k, "--peers");
    word(k, "%s", peers);
    word(k, "--dir");
    word(k, "n%u", id);
    word(k, "--engine");
    word(k, "%s", o->engine);
    word(k, "--election");
    word(k, "%u", o->election_ms);
    word(k, "--heartbeat");
    word(k, "%u", o->heartbeat_ms);
    word(k, "--trace");
    word(k, "%s", ring);
    word(k, "--handover");
    word(k, "%s", o->timeout_handover ? "timeout" : "gasp");
    if (c->bare) {
        word(k, "--raft");
        word(k, "bare");
    }
}

/* Between fork and exec; only ends by exec or _exit. */
static void child(const struct cv_cluster *c, unsigned id, pid_t parent, struct command *k)
{
    char buf[64];
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent || fchdir(c->dir_fd) != 0) {
        _exit(127);
    }
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    snprintf(buf, sizeof buf, "n%u.log", id);
    int log = open(buf, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (log < 0 || null < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0) {
        _exit(127);
    }
    snprintf(buf, sizeof buf, "n%u.fp", id);
    unlink(buf);
    setenv("RGUARD_FAILPOINTS_SOCK", buf, 1);
    execv(c->options->kv, k->argv);
    dprintf(2, "rguard-converge: %s: %s\n", c->options->kv, strerror(errno));
    _exit(127);
}

int cv_cluster_start(struct cv_cluster *c, unsigned id)
{
    struct cv_node *node = &c->nodes[id - 1];
    if (node->starts >= MAX_STARTS) {
        return -EAGAIN;
    }
    struct command k;
    build_command(c, id, &k);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid < 0) {
        return -errno;
    }
    if (pid == 0) {
        child(c, id, parent, &k);
    }
    node->pid = pid;
    node->starts++;
    return 0;
}

bool cv_cluster_reap(struct cv_cluster *c, unsigned *node, int *status)
{
    for (unsigned i = 0; i < c->n; i++) {
        struct cv_node *n = &c->nodes[i];
        if (n->pid != 0 && waitpid(n->pid, status, WNOHANG) == n->pid) {
            n->pid = 0;
            *node = n->id;
            return true;
        }
    }
    return false;
}

/* ---- the whole ------------------------------------------------------------------------------- */

int cv_cluster_open(struct cv_cluster *c, const struct cv_options *o, bool bare)
{
    *c = (struct cv_cluster){.options = o, .bare = bare, .dir_fd = -1};
    for (unsigned i = 0; i < o->nodes; i++) {
        c->nodes[i] = (struct cv_node){.id = i + 1, .fp_fd = -1, .ring.fd = -1};
    }
    char resolved[PATH_MAX];
    if (realpath(o->out, resolved) == NULL ||
        (size_t)snprintf(c->dir, sizeof c->dir, "%.480s/run-XXXXXX", resolved) >= sizeof c->dir ||
        mkdtemp(c->dir) == NULL) {
        fail(o->out, strerror(errno));
        c->dir[0] = '\0';
        return -1;
    }
    c->dir_fd = open(c->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (c->n = 0; c->n < o->nodes; c->n++) {
        struct cv_node *node = &c->nodes[c->n];
        char name[16];
        snprintf(name, sizeof name, "n%u", node->id);
        node->port = free_port(c);
        node->raft_port = node->port != 0 ? free_port(c) : 0;
        int rv = cv_ring_create(&node->ring, RING_RECORDS);
        if (node->raft_port == 0 || rv != 0 || mkdirat(c->dir_fd, name, 0755) != 0) {
            fail(c->dir, rv != 0                ? rguard_strerror(rv)
                         : node->raft_port == 0 ? "no free port"
                                                : strerror(errno));
            return -1;
        }
    }
    for (unsigned id = 1; id <= c->n; id++) {
        int rv = cv_cluster_start(c, id);
        if (rv != 0) {
            fail("fork", strerror(-rv));
            return -1;
        }
    }
    return 0;
}

/* The last line that node @id printed, for a message. */
static void last_line(const struct cv_cluster *c, unsigned id, char *buf, size_t cap)
{
    char path[600], line[400];
    snprintf(path, sizeof path, "%s/n%u.log", c->dir, id);
    snprintf(buf, cap, "no message");
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        if (line[0] != '\0') {
            snprintf(buf, cap, "%s", line);
        }
    }
    if (f != NULL) {
        fclose(f);
    }
}

/* true when one leads, the others follow it and nobody misses a peer. */
static bool settled(struct cv_cluster *c, unsigned *leader, uint64_t *term)
{
    unsigned leaders = 0;
    uint64_t first_term = 0;
    for (unsigned i = 0; i < c->n; i++) {
        char info[8192], role[24];
        uint64_t t, peers;
        if (cv_info(c->nodes[i].port, 200, info, sizeof info) != 0 ||
            !cv_info_text(info, "role", role, sizeof role) || !cv_info_uint(info, "term", 10, &t)) {
            return false;
        }
        if (strcmp(role, "leader") == 0) {
            leaders++;
            *leader = i + 1;
            *term = t;
        } else if (strcmp(role, "follower") != 0) {
            return false;
        }
        first_term = i == 0 ? t : first_term;
        if (t != first_term ||
            (cv_info_uint(info, "peers_connected", 10, &peers) && peers + 1 < c->n)) {
            return false;
        }
    }
    return leaders == 1;
}

int cv_cluster_ready(struct cv_cluster *c, unsigned timeout_ms, unsigned *leader, uint64_t *term)
{
    uint64_t deadline = cv_now() + timeout_ms * 1000000ull;
    while (cv_now() < deadline) {
        if (cv_interrupted) {
            return CV_INTERRUPTED;
        }
        unsigned id;
        int status;
        if (cv_cluster_reap(c, &id, &status)) {
            char why[400];
            last_line(c, id, why, sizeof why);
            fprintf(stderr, "rguard-converge: node %u: ended with %s %d before the run began: %s\n",
                    id, WIFEXITED(status) ? "status" : "signal",
                    WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status), why);
            return -1;
        }
        if (settled(c, leader, term)) {
            return 0;
        }
        pause_ms(5);
    }
    fail("cluster", "no leader with all nodes behind it in time");
    return -1;
}

void cv_cluster_trace(struct cv_cluster *c, struct cv_events *ev)
{
    for (unsigned i = 0; i < c->n; i++) {
        cv_ring_read(&c->nodes[i].ring, &ev[i]);
    }
}

void cv_cluster_data(const struct cv_cluster *c, unsigned id, char *buf, size_t cap)
{
    snprintf(buf, cap, "%s/n%u", c->dir, id);
}

/* ---- failpoint socket ------------------------------------------------------------------------ */

int cv_cluster_attach(struct cv_cluster *c, unsigned id)
{
    struct cv_node *node = &c->nodes[id - 1];
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/n%u.fp", c->dir_fd, id);
    node->fp_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (node->fp_fd < 0 || connect(node->fp_fd, (struct sockaddr *)&a, sizeof a) != 0) {
        fail("failpoint socket", strerror(errno));
        return -1;
    }
    fcntl(node->fp_fd, F_SETFL, O_NONBLOCK);
    return 0;
}

int cv_cluster_arm(struct cv_cluster *c, unsigned id, const char *site, const char *program)
{
    char line[160];
    int n = snprintf(line, sizeof line, "set %s %s\n", site, program);
    if (send(c->nodes[id - 1].fp_fd, line, (size_t)n, MSG_NOSIGNAL) != n) {
        fail("failpoint socket", strerror(errno));
        return -1;
    }
    return 0;
}

int cv_cluster_armed(struct cv_cluster *c, unsigned id)
{
    char line[400];
    ssize_t n = recv(c->nodes[id - 1].fp_fd, line, sizeof line - 1, 0);
    if (n < 0 && errno == EAGAIN) {
        return 0;
    }
    line[n > 0 ? n : 0] = '\0';
    line[strcspn(line, "\n")] = '\0';
    if (strstr(line, "\"ok\":true") != NULL) {
        return 1;
    }
    fail("failpoint", n > 0 ? line : "the node closed its socket");
    return -1;
}

/* ---- the end --------------------------------------------------------------------------------- */

static void wait_all(struct cv_cluster *c, unsigned timeout_ms, unsigned *bad, char *complaint,
                     size_t cap)
{
    uint64_t deadline = cv_now() + timeout_ms * 1000000ull;
    for (;;) {
        unsigned id, running = 0;
        int status;
        while (cv_cluster_reap(c, &id, &status)) {
            if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
                continue;
            }
            if ((*bad)++ == 0) {
                snprintf(complaint, cap, "node %u ended with %s %d instead of 0 after SIGTERM", id,
                         WIFEXITED(status) ? "status" : "signal",
                         WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
            }
        }
        for (unsigned i = 0; i < c->n; i++) {
            running += c->nodes[i].pid != 0;
        }
        if (running == 0 || cv_now() >= deadline) {
            return;
        }
        pause_ms(1);
    }
}

unsigned cv_cluster_end(struct cv_cluster *c, unsigned timeout_ms, char *complaint, size_t cap)
{
    unsigned bad = 0;
    for (unsigned i = 0; i < c->n; i++) {
        if (c->nodes[i].pid != 0) {
            kill(c->nodes[i].pid, SIGTERM);
        }
    }
    wait_all(c, timeout_ms, &bad, complaint, cap);
    for (unsigned i = 0; i < c->n; i++) {
        if (c->nodes[i].pid != 0 && bad++ == 0) {
            snprintf(complaint, cap, "node %u did not end within %u ms of SIGTERM", i + 1,
                     timeout_ms);
        }
    }
    return bad;
}

void cv_cluster_violation(const struct cv_cluster *c, unsigned id, char *buf, size_t cap)
{
    char path[600], line[1200];
    snprintf(path, sizeof path, "%s/n%u.log", c->dir, id);
    buf[0] = '\0';
    FILE *f = fopen(path, "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        const char *at = strstr(line, "violation=");
        if (at != NULL) {
            snprintf(buf, cap, "%.*s", (int)strcspn(at, "\n"), at);
            break;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void cv_cluster_close(struct cv_cluster *c, bool keep)
{
    for (unsigned i = 0; i < c->n; i++) {
        struct cv_node *node = &c->nodes[i];
        if (node->pid != 0) {
            kill(node->pid, SIGKILL);
            waitpid(node->pid, NULL, 0);
        }
        if (node->fp_fd >= 0) {
            close(node->fp_fd);
        }
    }
    for (unsigned i = 0; i < CV_MAX_NODES; i++) {
        cv_ring_close(&c->nodes[i].ring);
    }
    if (c->dir_fd >= 0) {
        close(c->dir_fd);
    }
    if (c->dir[0] != '\0' && !keep) {
        nftw(c->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
}
