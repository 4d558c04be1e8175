/* SPDX-License-Identifier: Apache-2.0 */
/* The machine that the figures belong to, and the two latencies below which nothing can be: one
 * durable write of a block, one round trip over loopback. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <netinet/tcp.h>

#include "converge.h"
#include "reply.h"

#define BLOCK        4096u
#define FSYNC_ROUNDS 200u
#define RTT_ROUNDS   1000u

extern char **environ;

/* ---- identity -------------------------------------------------------------------------------- */

static void read_cpu(char *buf, size_t cap)
{
    char line[256];
    snprintf(buf, cap, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL) {
        const char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            snprintf(buf, cap, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
            break;
        }
    }
    if (f != NULL) {
        fclose(f);
    }
}

static void read_fs(const char *dir, char *buf, size_t cap)
{
    static const struct
    {
        unsigned long magic;
        const char *name;
    } known[] = {{0xef53, "ext4"},      {0x58465342, "xfs"},     {0x9123683e, "btrfs"},
                 {0x01021994, "tmpfs"}, {0x794c7630, "overlay"}, {0x2fc12fc1, "zfs"},
                 {0x6969, "nfs"},       {0xf2f52010, "f2fs"},    {0x65735546, "fuse"}};
    struct statfs st;
    if (statfs(dir, &st) != 0) {
        snprintf(buf, cap, "unknown");
        return;
    }
    snprintf(buf, cap, "0x%lx", (unsigned long)st.f_type);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (known[i].magic == (unsigned long)st.f_type) {
            snprintf(buf, cap, "%s", known[i].name);
        }
    }
}

void cv_commit(char *buf, size_t cap)
{
    char exe[512], out[64] = "";
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    int p[2];
    snprintf(buf, cap, "unknown");
    if (n <= 0 || pipe2(p, O_CLOEXEC) != 0) {
        return;
    }
    exe[n] = '\0';
    *strrchr(exe, '/') = '\0';
    char *argv[] = {"git", "-C", exe, "describe", "--always", "--dirty", "--abbrev=12", NULL};
    posix_spawn_file_actions_t fa;
    posix_spawn_file_actions_init(&fa);
    posix_spawn_file_actions_adddup2(&fa, p[1], 1);
    posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
    pid_t pid;
    int rv = posix_spawnp(&pid, "git", &fa, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&fa);
    close(p[1]);
    if (rv == 0) {
        ssize_t got = read(p[0], out, sizeof out - 1);
        out[got > 0 ? got : 0] = '\0';
        out[strcspn(out, "\n")] = '\0';
        waitpid(pid, NULL, 0);
    }
    close(p[0]);
    if (out[0] != '\0') {
        snprintf(buf, cap, "%s", out);
    }
}

/* ---- calibration ----------------------------------------------------------------------------- */

static int measure_fsync(const char *dir, struct cv_samples *us)
{
    char path[600];
    if ((size_t)snprintf(path, sizeof path, "%s/calibration.tmp", dir) >= sizeof path) {
        return -ENAMETOOLONG;
    }
    int flags = O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_DSYNC;
    int fd = open(path, flags | O_DIRECT, 0600);
    if (fd < 0 && errno == EINVAL) {
        fd = open(path, flags, 0600); /* a file system without O_DIRECT */
    }
    if (fd < 0) {
        return -errno;
    }
    void *block = NULL;
    int rv = posix_memalign(&block, BLOCK, BLOCK) != 0 ? -ENOMEM : 0;
    if (rv == 0) {
        memset(block, 0x5a, BLOCK);
    }
    /* The first pass allocates, the second is measured: the log overwrites as well. */
    for (unsigned i = 0; rv == 0 && i < 2 * FSYNC_ROUNDS; i++) {
        uint64_t t = cv_now();
        if (pwrite(fd, block, BLOCK, (off_t)(i % FSYNC_ROUNDS) * BLOCK) != (ssize_t)BLOCK) {
            rv = -errno;
        } else if (i >= FSYNC_ROUNDS) {
            cv_samples_add(us, (double)(cv_now() - t) / 1e3);
        }
    }
    free(block);
    close(fd);
    unlink(path);
    return rv;
}

static void *echo(void *arg)
{
    int fd = *(int *)arg;
    char c;
    while (recv(fd, &c, 1, 0) == 1 && send(fd, &c, 1, MSG_NOSIGNAL) == 1) {
    }
    return NULL;
}

static void ping(int fd, struct cv_samples *us)
{
    char c = 'x';
    for (unsigned i = 0; i < RTT_ROUNDS; i++) {
        uint64_t t = cv_now();
        if (send(fd, &c, 1, MSG_NOSIGNAL) != 1 || recv(fd, &c, 1, 0) != 1) {
            return;
        }
        cv_samples_add(us, (double)(cv_now() - t) / 1e3);
    }
}

static int measure_rtt(struct cv_samples *us)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int on = 1, rv = 0, peer = -1;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0 || fd < 0 || bind(listener, (struct sockaddr *)&a, len) != 0 ||
        listen(listener, 1) != 0 || getsockname(listener, (struct sockaddr *)&a, &len) != 0 ||
        connect(fd, (struct sockaddr *)&a, len) != 0 ||
        (peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0) {
        rv = -errno;
        goto out;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    pthread_t thread;
    rv = -pthread_create(&thread, NULL, echo, &peer);
    if (rv == 0) {
        ping(fd, us);
        shutdown(fd, SHUT_RDWR);
        pthread_join(thread, NULL);
    }
out:
    if (peer >= 0) {
        close(peer);
    }
    if (fd >= 0) {
        close(fd);
    }
    if (listener >= 0) {
        close(listener);
    }
    return rv;
}

int cv_machine_measure(struct cv_machine *m, const char *dir)
{
    struct utsname u;
    *m = (struct cv_machine){.cpus = (unsigned)sysconf(_SC_NPROCESSORS_ONLN)};
    read_cpu(m->cpu, sizeof m->cpu);
    read_fs(dir, m->fs, sizeof m->fs);
    snprintf(m->kernel, sizeof m->kernel, "%s", uname(&u) == 0 ? u.release : "unknown");
    if (getloadavg(&m->load1, 1) != 1) {
        m->load1 = -1;
    }
    int rv = measure_fsync(dir, &m->fsync_us);
    return rv != 0 ? rv : measure_rtt(&m->rtt_us);
}
