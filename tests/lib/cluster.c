/* SPDX-License-Identifier: Apache-2.0 */
#include "cluster.h"

#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include <raftguard/failpoint.h>

#define SCRATCH 64u

struct test_state
{
    uint64_t count, sum, digest;
};

/* ---- engine ---------------------------------------------------------------------------------- */

static int engine_apply(void *user, uint64_t index, const void *cmd, size_t len, void **result)
{
    struct test_engine *e = user;
    uint64_t value;
    void *extra;
    (void)index;
    if (len < sizeof value) {
        return -EINVAL;
    }
    memcpy(&value, cmd, sizeof value);
    rguard_touch(e->state, sizeof *e->state);
    e->state->count++;
    e->state->sum += value;
    e->state->digest = (e->state->digest ^ value) * 0x100000001b3u + e->state->count;
    rguard_touch(e->scratch, SCRATCH);
    memset(e->scratch, (int)(value & 0xff), SCRATCH);
    if (rguard_alloc(e->arenas[0], 32, &extra) != 0) {
        return -ENOMEM;
    }
    if (RGUARD_FP_MUTATE("test/apply", "the scratch slot inside apply", RGUARD_FP_CAN_DOUBLE_FREE,
                         e->scratch, SCRATCH) == RGUARD_FP_DOUBLE_FREE) {
        rguard_free(e->arenas[0], extra);
    }
    rguard_free(e->arenas[0], extra);
    *result = &e->state->count;
    return 0;
}

static int engine_snapshot(void *user, void **data, size_t *len)
{
    struct test_engine *e = user;
    *data = malloc(sizeof *e->state);
    if (*data == NULL) {
        return -ENOMEM;
    }
    memcpy(*data, e->state, sizeof *e->state);
    *len = sizeof *e->state;
    return 0;
}

static int engine_restore(void *user, const void *data, size_t len)
{
    struct test_engine *e = user;
    if (len != sizeof *e->state) {
        return -EINVAL;
    }
    memcpy(e->state, data, len);
    e->restored++;
    return 0;
}

static uint64_t engine_digest(void *user)
{
    struct test_engine *e = user;
    return e->state->digest;
}

static void engine_open(struct test_engine *e)
{
    struct rguard_arena_options packed = {
        .size = sizeof packed, .name = "test.state", .bytes = 1 << 20};
    struct rguard_arena_options guarded = {.size = sizeof guarded,
                                           .name = "test.scratch",
                                           .bytes = 1 << 20,
                                           .slots = RGUARD_SLOTS_GUARDED};
    void *p;
    memset(e, 0, sizeof *e);
    assert_int_equal(rguard_arena_create(&packed, &e->arenas[0]), 0);
    assert_int_equal(rguard_arena_create(&guarded, &e->arenas[1]), 0);
    assert_int_equal(rguard_alloc(e->arenas[0], sizeof *e->state, &p), 0);
    e->state = memset(p, 0, sizeof *e->state);
    assert_int_equal(rguard_alloc(e->arenas[1], SCRATCH, &p), 0);
    e->scratch = memset(p, 0, SCRATCH);
    e->engine = (struct rguard_engine){.size = sizeof e->engine,
                                       .user = e,
                                       .apply = engine_apply,
                                       .snapshot = engine_snapshot,
                                       .restore = engine_restore,
                                       .digest = engine_digest,
                                       .arenas = e->arenas,
                                       .n_arenas = 2};
}

static void engine_close(struct test_engine *e)
{
    rguard_arena_destroy(e->arenas[0]);
    rguard_arena_destroy(e->arenas[1]);
}

/* ---- cluster --------------------------------------------------------------------------------- */

/* Ports that nobody listens on at this moment, outside the ephemeral range's lower end. */
static int free_port(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
    close(fd);
    return ntohs(sa.sin_port);
}

static void on_log(void *user, int level, const char *line)
{
    struct test_node *node = user;
    if (node->cluster->verbose || (level >= RGUARD_LOG_ERROR && getenv("RGUARD_TEST_VERBOSE"))) {
        fprintf(stderr, "# node %u: %s\n", (unsigned)(node - node->cluster->nodes) + 1, line);
    }
}

void cluster_init(struct cluster *c, unsigned n)
{
    memset(c, 0, sizeof *c);
    c->n = n;
    c->election_ms = 150;
    c->heartbeat_ms = 15;
    c->verbose = getenv("RGUARD_TEST_VERBOSE") != NULL;
    assert_int_equal(uv_loop_init(&c->loop), 0);
    const char *tmp = getenv("TMPDIR");
    snprintf(c->dir, sizeof c->dir, "%.60s/rguard-XXXXXX", tmp != NULL ? tmp : "/tmp");
    assert_non_null(mkdtemp(c->dir));
    for (unsigned i = 0; i < n; i++) {
        struct test_node *node = &c->nodes[i];
        node->cluster = c;
        snprintf(node->address, sizeof node->address, "127.0.0.1:%d", free_port());
        snprintf(node->dir, sizeof node->dir, "%s/%u", c->dir, i + 1);
        c->peers[i] = (struct rguard_peer){i + 1, node->address};
        char cmd[192];
        snprintf(cmd, sizeof cmd, "mkdir -p %s", node->dir);
        assert_int_equal(system(cmd), 0);
    }
}

void cluster_up(struct cluster *c, unsigned i)
{
    struct test_node *node = &c->nodes[i];
    char err[512] = "";
    engine_open(&node->engine);
    struct rguard_replica_options o = {.size = sizeof o,
                                       .raft = &node->raft,
                                       .loop = &c->loop,
                                       .dir = node->dir,
                                       .id = i + 1,
                                       .address = node->address,
                                       .peers = c->peers,
                                       .n_peers = c->n,
                                       .engine = &node->engine.engine,
                                       .election_ms = c->election_ms,
                                       .heartbeat_ms = c->heartbeat_ms,
                                       .snapshot_threshold = c->snapshot_threshold,
                                       .snapshot_trailing = c->snapshot_trailing,
                                       .policy = RGUARD_POLICY_REWIND,
                                       .log = on_log,
                                       .log_user = node};
    int rv = rguard_replica_open(&o, &node->rep, err, sizeof err);
    if (rv != 0) {
        fail_msg("open of node %u: %d %s", i + 1, rv, err);
    }
    rv = rguard_replica_start(node->rep, err, sizeof err);
    if (rv != 0) {
        fail_msg("start of node %u: %d %s", i + 1, rv, err);
    }
    node->up = true;
    node->closed = false;
}

static void on_closed(void *user)
{
    struct test_node *node = user;
    node->closed = true;
    node->up = false;
    node->rep = NULL;
    engine_close(&node->engine);
}

void cluster_down(struct cluster *c, unsigned i)
{
    struct test_node *node = &c->nodes[i];
    if (!node->up) {
        return;
    }
    rguard_replica_close(node->rep, on_closed, node);
    uint64_t end = uv_hrtime() + 5000000000u;
    while (!node->closed && uv_hrtime() < end) {
        uv_run(&c->loop, UV_RUN_ONCE);
    }
    assert_true(node->closed);
}

static void on_stop(uv_timer_t *t)
{
    *(bool *)t->data = true;
}

static void run_for(struct cluster *c, bool (*done)(struct cluster *), unsigned ms, bool *reached)
{
    uv_timer_t *timer = malloc(sizeof *timer);
    bool timeout = false;
    uv_timer_init(&c->loop, timer);
    timer->data = &timeout;
    uv_timer_start(timer, on_stop, ms, 0);
    while (!timeout && !(done != NULL && done(c))) {
        uv_run(&c->loop, UV_RUN_ONCE);
    }
    *reached = done != NULL && done(c);
    uv_close((uv_handle_t *)timer, (uv_close_cb)(void (*)(void))free);
    uv_run(&c->loop, UV_RUN_NOWAIT);
}

bool cluster_until(struct cluster *c, bool (*done)(struct cluster *), unsigned ms)
{
    bool reached;
    run_for(c, done, ms, &reached);
    return reached;
}

void cluster_run(struct cluster *c, unsigned ms)
{
    bool reached;
    run_for(c, NULL, ms, &reached);
}

void cluster_destroy(struct cluster *c)
{
    for (unsigned i = 0; i < c->n; i++) {
        cluster_down(c, i);
    }
    uv_run(&c->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&c->loop), 0);
    char cmd[160];
    snprintf(cmd, sizeof cmd, "rm -rf %s", c->dir);
    assert_int_equal(system(cmd), 0);
}

struct rguard_replica_info cluster_info(struct cluster *c, unsigned i)
{
    struct rguard_replica_info info = {.size = sizeof info};
    assert_int_equal(rguard_replica_info(c->nodes[i].rep, &info), 0);
    return info;
}

int cluster_leader(struct cluster *c)
{
    int found = -1;
    uint64_t term = 0;
    for (unsigned i = 0; i < c->n; i++) {
        if (!c->nodes[i].up) {
            continue;
        }
        struct rguard_replica_info info = cluster_info(c, i);
        if (info.role == RGUARD_ROLE_LEADER && info.term > term) {
            found = (int)i;
            term = info.term;
        }
    }
    return found;
}

bool cluster_has_leader(struct cluster *c)
{
    return cluster_leader(c) >= 0;
}

bool cluster_alike(struct cluster *c)
{
    struct rguard_replica_info first = {0};
    for (unsigned i = 0; i < c->n; i++) {
        if (!c->nodes[i].up) {
            continue;
        }
        struct rguard_replica_info info = cluster_info(c, i);
        if (first.size == 0) {
            first = info;
        }
        if (info.applied_index != first.applied_index || info.digest != first.digest ||
            info.applied_index != info.last_index || info.ladder != RGUARD_LADDER_SERVING) {
            return false;
        }
    }
    return true;
}

struct batch
{
    unsigned expected, answered, acked;
};

static struct batch *batch_now;

static void on_applied(void *user, int status, void *result, uint64_t index)
{
    struct batch *b = user;
    (void)result;
    (void)index;
    b->answered++;
    b->acked += status == 0;
}

static bool batch_done(struct cluster *c)
{
    (void)c;
    return batch_now->answered == batch_now->expected;
}

unsigned cluster_propose(struct cluster *c, unsigned i, unsigned n, uint64_t value,
                         rguard_propose_cb cb, void *user)
{
    size_t len = c->command_bytes > sizeof value ? c->command_bytes : sizeof value;
    uint8_t *cmd = calloc(1, len);
    unsigned accepted = 0;
    assert_non_null(cmd);
    memcpy(cmd, &value, sizeof value);
    for (unsigned k = 0; k < n; k++) {
        accepted += rguard_propose(c->nodes[i].rep, cmd, len, cb, user) == 0;
    }
    free(cmd);
    return accepted;
}

unsigned cluster_write(struct cluster *c, unsigned n, uint64_t value)
{
    struct batch b = {0};
    int leader = cluster_leader(c);
    if (leader < 0) {
        return 0;
    }
    unsigned accepted = cluster_propose(c, (unsigned)leader, n, value, on_applied, &b);
    b.expected = accepted;
    batch_now = &b;
    assert_true(cluster_until(c, batch_done, 5000));
    c->acked += b.acked;
    c->lost += accepted - b.acked;
    return b.acked;
}
