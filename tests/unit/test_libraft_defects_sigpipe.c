/* SPDX-License-Identifier: Apache-2.0 */
/* D7: a peer that dies takes the survivors with it, by SIGPIPE, unless the process ignores it. Seen
 * on real processes: one that writes to a closed socket, with and without a replica open. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <uv.h>

#include "shell.h"

#include <cmocka.h>

enum { BARE, WITH_REPLICA, KEEPS_SIGPIPE };

struct pipe_case
{
    int how;
    char dir[128];
};

static int no_apply(void *user, uint64_t index, const void *cmd, size_t len, void **result)
{
    (void)user;
    (void)index;
    (void)cmd;
    (void)len;
    (void)result;
    return 0;
}

static void open_replica(const struct pipe_case *c)
{
    static struct raft raft;
    static uv_loop_t loop;
    struct rguard_engine engine = {.size = sizeof engine, .apply = no_apply};
    struct rguard_peer self = {1, NULL};
    rguard_replica *rep;
    char address[32], why[256] = "";
    int rv = -EADDRINUSE;
    uv_loop_init(&loop);
    for (unsigned port = 20000; rv == -EADDRINUSE && port < 60000; port += 97) {
        snprintf(address, sizeof address, "127.0.0.1:%u", port);
        self.address = address;
        struct rguard_replica_options o = {.size = sizeof o,
                                           .raft = &raft,
                                           .loop = &loop,
                                           .dir = c->dir,
                                           .id = 1,
                                           .address = address,
                                           .peers = &self,
                                           .n_peers = 1,
                                           .engine = &engine,
                                           .keep_sigpipe = c->how == KEEPS_SIGPIPE};
        rv = rguard_replica_open(&o, &rep, why, sizeof why);
    }
    if (rv != 0) {
        fprintf(stderr, "open: %s\n", why);
        _exit(77);
    }
}

static void write_to_closed_socket(void *user)
{
    const struct pipe_case *c = user;
    int fds[2];
    signal(SIGPIPE, SIG_DFL);
    if (c->how != BARE) {
        open_replica(c);
    }
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) {
        _exit(78);
    }
    close(fds[1]);
    if (write(fds[0], "x", 1) != -1 || errno != EPIPE) {
        _exit(79);
    }
}

static int sigpipe(int how)
{
    struct pipe_case c = {.how = how, .dir = "/tmp/rguard-sigpipe-XXXXXX"};
    char text[1024], command[256];
    assert_non_null(mkdtemp(c.dir));
    int status = forked(write_to_closed_socket, &c, text, sizeof text);
    snprintf(command, sizeof command, "rm -rf %s", c.dir);
    assert_int_equal(system(command), 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) != 0) {
        fail_msg("child: %d %s", WEXITSTATUS(status), text);
    }
    return status;
}

static void test_d7(void **state)
{
    (void)state;
    assert_true(died_of(sigpipe(BARE), SIGPIPE));
    assert_true(WIFEXITED(sigpipe(WITH_REPLICA)));
    assert_true(died_of(sigpipe(KEEPS_SIGPIPE), SIGPIPE)); /* the host asked for it */
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_d7)};
    return cmocka_run_group_tests_name("libraft_defects_sigpipe", tests, NULL, NULL);
}
