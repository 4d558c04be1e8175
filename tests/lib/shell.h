/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_TEST_SHELL_H
#define RGUARD_TEST_SHELL_H

/* The shell of a replica: what the parts of raftlog/ look at, filled by hand. The struct raft is
 * never given to libraft; its public fields say what the test wants libraft to have decided. What
 * the parts hand to libraft is caught. Node 1 of 3 unless the test says otherwise.
 *
 * For unit tests, which see raftlog_internal.h. */
#include "raftlog_internal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fake_channel.h"

#define SHELL_SERVERS   5
#define SHELL_ENTRIES   64
#define SHELL_ELECTION  300u
#define SHELL_NONCE(id) (0x1000u + (id))

struct shell
{
    struct rguard_replica rep;
    struct raft raft;
    struct fake_channel net;
    struct raft_server servers[SHELL_SERVERS];
    char addresses[SHELL_SERVERS][32];
    struct raft_entry entries[SHELL_ENTRIES];
    struct raft_message got[16]; /* what libraft would have received */
    unsigned n_got;
    char log[2048]; /* lines, newest last */
    pid_t pid;      /* children say it on stderr, where their parent listens */
};

static inline struct shell *shell_of(struct raft_io *io)
{
    return io->data;
}

static inline void shell_recv(struct raft_io *io, struct raft_message *m)
{
    struct shell *s = shell_of(io);
    if (s->n_got == sizeof s->got / sizeof s->got[0]) {
        abort();
    }
    s->got[s->n_got++] = *m;
}

static inline void shell_log(void *user, int level, const char *line)
{
    struct shell *s = user;
    size_t used = strlen(s->log);
    (void)level;
    snprintf(s->log + used, sizeof s->log - used, "%s\n", line);
    if (getpid() != s->pid) {
        fprintf(stderr, "%s\n", line);
    }
}

static inline void shell_init(struct shell *s, uint64_t id, unsigned n)
{
    memset(s, 0, sizeof *s);
    fake_channel_init(&s->net);
    s->pid = getpid();
    for (unsigned i = 0; i < n; i++) {
        snprintf(s->addresses[i], sizeof s->addresses[i], "127.0.0.1:%u", 9001u + i);
        s->servers[i] = (struct raft_server){i + 1u, s->addresses[i], RAFT_VOTER};
        if (i + 1u != id) {
            fake_channel_add(&s->net, i + 1u, SHELL_NONCE(i + 1u));
        }
    }
    s->raft.id = id;
    s->raft.address = s->addresses[id - 1];
    s->raft.configuration = (struct raft_configuration){s->servers, n};
    s->raft.log.entries = s->entries;
    s->raft.log.size = SHELL_ENTRIES;
    s->raft.state = RAFT_FOLLOWER;
    s->raft.current_term = 2;
    s->rep.raft = &s->raft;
    s->rep.channel = &s->net.base;
    s->rep.net = s->net.base.ops;
    s->rep.nonce = SHELL_NONCE(id);
    s->rep.opt.id = id;
    s->rep.opt.election_ms = SHELL_ELECTION;
    s->rep.opt.heartbeat_ms = 30;
    s->rep.opt.log = shell_log;
    s->rep.opt.log_user = s;
    s->rep.io.data = s;
    s->rep.io.impl = &s->rep;
    s->rep.recv_cb = shell_recv;
    s->rep.ladder = RGUARD_LADDER_SERVING;
    s->rep.started = true;
    /* As if everything happened inside an outer turn: settling is the test's to do. */
    s->rep.turn_depth = 1;
}

static inline void shell_fini(struct shell *s)
{
    rguard__handover_close(&s->rep);
    fake_channel_fini(&s->net);
    free(s->rep.digests);
}

/* Appends one entry of @term to libraft's log in memory; @stored says whether it is on disk too. */
static inline void shell_append(struct shell *s, raft_term term, bool stored)
{
    struct raft_log *l = &s->raft.log;
    l->entries[l->back] = (struct raft_entry){.term = term, .type = RAFT_COMMAND};
    l->back = (l->back + 1) % l->size;
    if (stored) {
        s->raft.last_stored++;
    }
}

static inline void shell_follow(struct shell *s, uint64_t leader, raft_term term)
{
    s->raft.state = RAFT_FOLLOWER;
    s->raft.current_term = term;
    s->raft.follower_state.current_leader.id = leader;
    s->raft.follower_state.current_leader.address = s->addresses[leader - 1];
}

static inline void shell_lead(struct shell *s, raft_term term)
{
    memset(&s->raft.leader_state, 0, sizeof s->raft.leader_state);
    s->raft.state = RAFT_LEADER;
    s->raft.current_term = term;
}

/* Runs @fn in a child and returns its wait status; what it wrote to stderr goes to @text. A child
 * that returns from @fn exits with 0. */
static inline int forked(void (*fn)(void *user), void *user, char *text, size_t cap)
{
    static const int fatal[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
    static const struct rlimit no_core = {0, 0};
    int fds[2];
    int status = -1;
    size_t used = 0;
    if (pipe(fds) != 0) {
        return -1;
    }
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], STDERR_FILENO);
        close(fds[0]);
        close(fds[1]);
        for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; i++) {
            signal(fatal[i], SIG_DFL); /* not cmocka's, nor a sanitizer's */
        }
        setrlimit(RLIMIT_CORE, &no_core);
        alarm(30);
        fn(user);
        _exit(0);
    }
    close(fds[1]);
    for (;;) {
        char drop[256];
        bool full = used + 1 >= cap;
        ssize_t n = read(fds[0], full ? drop : text + used, full ? sizeof drop : cap - used - 1);
        if (n <= 0) {
            break;
        }
        used += full ? 0 : (size_t)n;
    }
    text[used] = '\0';
    close(fds[0]);
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        return -1;
    }
    return status;
}

static inline bool died_of(int status, int signo)
{
    return WIFSIGNALED(status) && WTERMSIG(status) == signo;
}

/* Switches one detector or cure off until switch_on(). */
static inline void switch_off(const char *name)
{
    setenv("RGUARD_TEST_OFF", name, 1);
}

static inline void switch_on(void)
{
    unsetenv("RGUARD_TEST_OFF");
}

/* splitmix64: tests that draw numbers draw the same ones every time. */
static inline uint64_t draw(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

#endif
