/* SPDX-License-Identifier: Apache-2.0 */
/* The channel on real sockets between peers that mean well: order, what cannot be sent, addresses,
 * restarts, ends, notices, timers, work. Those that do not are in test_channel_peers.c. */
#include "channel_world.h"

/* ---- node 1 to node 2 ------------------------------------------------------------------------ */

static void on_ordered(void *user, uint64_t peer, uint16_t type, const uint8_t *body, size_t len)
{
    struct node *n = user;
    n->frames++;
    n->out_of_order |= peer != 1 || len < 8 || rguard__get64(body) != n->expect ||
                       type != SOME_TYPE + n->expect % 7;
    for (size_t i = 8; i < len; i++) {
        n->out_of_order |= body[i] != (uint8_t)(n->expect + i);
    }
    n->expect++;
}

static void test_frames_in_order(void **state)
{
    struct world *w = *state;
    uint8_t body[MAX_FRAME];
    uint64_t rng = 3;
    struct rguard_channel_config config = {.id = 2,
                                           .nonce = NONCE(22),
                                           .address = w->b.address,
                                           .max_frame = MAX_FRAME,
                                           .max_snapshot = MAX_FRAME,
                                           .events = {.user = &w->b,
                                                      .frame = on_ordered,
                                                      .notice = on_notice,
                                                      .link = on_link,
                                                      .timer = on_timer,
                                                      .readable = on_readable}};
    close_node(&w->b);
    while (!w->b.closed) {
        uv_run(&w->loop, UV_RUN_ONCE);
    }
    w->b.closed = false;
    assert_int_equal(rguard__channel_uv(&w->loop, &config, &w->b.c), 0);
    w->b.c->ops->peer(w->b.c, 1, w->a.address);
    w->b.c->ops->start(w->b.c);
    assert_true(run_until(w, both_connected, 2000));
    w->b.frames = 0;
    for (uint64_t i = 0; i < 3000; i++) {
        size_t len = i % 10 == 0 ? MAX_FRAME : 8 + draw(&rng) % 600;
        rguard__put64(body, i);
        for (size_t k = 8; k < len; k++) {
            body[k] = (uint8_t)(i + k);
        }
        assert_int_equal(send_bytes(&w->a, 2, (uint16_t)(SOME_TYPE + i % 7), body, len), 0);
    }
    wanted_frames = 3000;
    assert_true(run_until(w, b_has_frames, 5000));
    uv_run(&w->loop, UV_RUN_NOWAIT);
    assert_int_equal(w->b.frames, 3000);
    assert_false(w->b.out_of_order);
    assert_int_equal(w->sent_ok, 3000);
    assert_int_equal(w->sent_failed, 0);
}

static void test_what_peers_know_of_each_other(void **state)
{
    struct world *w = *state;
    assert_int_equal(w->a.c->ops->nonce(w->a.c, 2), NONCE(2));
    assert_int_equal(w->b.c->ops->nonce(w->b.c, 1), NONCE(1));
    assert_int_equal(w->b.c->ops->nonce(w->b.c, 3), 0);
    assert_int_equal(w->b.c->ops->nonce(w->b.c, 99), 0);
    assert_string_equal(w->b.c->ops->announced(w->b.c, 1), "one.example:6379");
    assert_null(w->a.c->ops->announced(w->a.c, 2));
    assert_null(w->b.c->ops->announced(w->b.c, 99));
    assert_int_equal(w->b.c->ops->bad_frames(w->b.c), 0);
}

static void test_what_cannot_be_sent(void **state)
{
    struct world *w = *state;
    static uint8_t body[2 * MAX_FRAME + 1];
    assert_int_equal(send_bytes(&w->a, 99, SOME_TYPE, body, 1), -ENOTCONN);
    assert_int_equal(send_bytes(&w->b, 3, SOME_TYPE, body, 1), -ENOTCONN);
    assert_int_equal(send_bytes(&w->a, 2, SOME_TYPE, body, MAX_FRAME + 1), RGUARD_ETOOBIG);
    assert_int_equal(send_bytes(&w->a, 2, RAFT_IO_INSTALL_SNAPSHOT, body, 2 * MAX_FRAME + 1),
                     RGUARD_ETOOBIG);
    assert_int_equal(send_bytes(&w->a, 2, RAFT_IO_INSTALL_SNAPSHOT, body, 2 * MAX_FRAME), 0);
    wanted_frames = 1;
    assert_true(run_until(w, b_has_frames, 2000));
    assert_int_equal(w->b.last_len, 2 * MAX_FRAME);
    assert_int_equal(w->sent_ok + w->sent_failed, 1); /* refused ones never call back */
}

/* ---- addresses ------------------------------------------------------------------------------- */

static int try_address(struct world *w, const char *address)
{
    struct node n = {.w = w, .id = 9};
    int rv = open_node(&n, address, 1, MAX_FRAME);
    if (rv == 0) {
        close_node(&n);
        while (!n.closed) {
            uv_run(&w->loop, UV_RUN_ONCE);
        }
    }
    uv_run(&w->loop, UV_RUN_NOWAIT);
    return rv;
}

static void test_addresses(void **state)
{
    struct world *w = *state;
    static const char *const malformed[] = {
        "",      "127.0.0.1",     "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "localhost:1",
        ":9001", "127.0.0.1:90x", "127.0.0:1x", "[::1]:9001"};
    static const char *const foreign[] = {"0.0.0.0:9001", "10.0.0.1:9001", "8.8.8.8:9001",
                                          "128.0.0.1:9001"};
    char address[256];
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        assert_int_equal(try_address(w, malformed[i]), -EINVAL);
    }
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        assert_int_equal(try_address(w, foreign[i]), RGUARD_EREFUSED);
        assert_int_equal(w->a.c->ops->peer(w->a.c, 8, foreign[i]), RGUARD_EREFUSED);
    }
    memset(address, '1', sizeof address);
    memcpy(address + 200, ":9001", 6);
    assert_int_equal(try_address(w, address), -EINVAL);
    snprintf(address, sizeof address, "127.8.8.8:%u", free_port());
    assert_int_equal(try_address(w, address), 0);
}

static void test_busy_port(void **state)
{
    struct world *w = *state;
    char address[32];
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(try_address(w, w->a.address), -EADDRINUSE);
    uint16_t port = free_port();
    sa.sin_port = htons(port);
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(udp, (struct sockaddr *)&sa, sizeof sa), 0);
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    assert_int_equal(try_address(w, address), -EADDRINUSE); /* TCP alone is no use */
    close(udp);
    assert_int_equal(try_address(w, address), 0);
    assert_still_works(w);
}

/* ---- restarts and ends ----------------------------------------------------------------------- */

static bool a_lost_b(struct world *w)
{
    return w->a.downs > 0;
}

static void test_peer_restarts(void **state)
{
    struct world *w = *state;
    assert_int_equal(w->a.ups, 1);
    close_node(&w->b);
    assert_true(run_until(w, a_lost_b, 2000));
    while (!w->b.closed) {
        uv_run(&w->loop, UV_RUN_ONCE);
    }
    assert_int_equal(w->a.c->ops->nonce(w->a.c, 2), 0);
    assert_int_equal(send_bytes(&w->a, 2, SOME_TYPE, "x", 1), -ENOTCONN);
    uint64_t start = uv_hrtime();
    assert_int_equal(open_node(&w->b, w->b.address, NONCE(222), MAX_FRAME), 0);
    w->b.c->ops->peer(w->b.c, 1, w->a.address);
    w->b.c->ops->start(w->b.c);
    assert_true(run_until(w, both_connected, 2000));
    assert_true(uv_hrtime() - start < UINT64_C(500000000)); /* 20 ms and some scheduling */
    assert_int_equal(w->a.c->ops->nonce(w->a.c, 2), NONCE(222));
    assert_int_equal(w->a.ups, 2);
    w->b.frames = 0;
    assert_still_works(w);
}

/* A peer whose address changes is called at the new one; the old connection ends. */
static void test_peer_moves(void **state)
{
    struct world *w = *state;
    char old[32];
    strcpy(old, w->b.address);
    close_node(&w->b);
    while (!w->b.closed) {
        uv_run(&w->loop, UV_RUN_ONCE);
    }
    snprintf(w->b.address, sizeof w->b.address, "127.0.0.1:%u", free_port());
    assert_string_not_equal(old, w->b.address);
    assert_int_equal(open_node(&w->b, w->b.address, NONCE(5), MAX_FRAME), 0);
    w->b.c->ops->peer(w->b.c, 1, w->a.address);
    w->b.c->ops->start(w->b.c);
    assert_int_equal(w->a.c->ops->peer(w->a.c, 2, w->b.address), 0);
    assert_true(run_until(w, both_connected, 2000));
    w->b.frames = 0;
    assert_still_works(w);
}

static void test_close_with_sends_in_flight(void **state)
{
    struct world *w = *state;
    size_t len = 4u << 20;
    uint8_t *body = malloc(len);
    unsigned queued = 0;
    int rv = 0;
    memset(body, 'q', len);
    while (rv == 0 && queued < 64) {
        rv = send_bytes(&w->a, 2, SOME_TYPE, body, len);
        queued += rv == 0;
    }
    free(body);
    assert_int_equal(rv, RGUARD_EBUSY); /* a peer that does not read stops the sender */
    assert_int_equal(w->sent_ok + w->sent_failed, 0); /* never from inside send() */
    for (int i = 0; i < 3; i++) {
        uv_run(&w->loop, UV_RUN_NOWAIT);
    }
    close_node(&w->a);
    while (!w->a.closed) {
        assert_true(w->sent_ok + w->sent_failed <= queued);
        uv_run(&w->loop, UV_RUN_ONCE);
    }
    assert_int_equal(w->sent_ok + w->sent_failed, queued);
    assert_true(w->sent_failed > 0);
    assert_int_equal(w->a.downs, 0); /* no event follows close */
    w->a.c = NULL;
}

/* ---- the rest of the seam -------------------------------------------------------------------- */

static bool b_noticed(struct world *w)
{
    return w->b.notices > 0;
}

static void test_notices(void **state)
{
    struct world *w = *state;
    int fd = w->a.c->ops->notice_fd(w->a.c, 2);
    assert_true(fd >= 0);
    assert_int_equal(w->a.c->ops->notice_fd(w->a.c, 99), -1);
    assert_int_equal(send(fd, "notice", 6, MSG_DONTWAIT), 6);
    assert_true(run_until(w, b_noticed, 2000));
    assert_int_equal(w->b.notice_len, 6);
    assert_memory_equal(w->b.notice, "notice", 6);
    static uint8_t huge[9000]; /* longer than any notice: cut short, so dropped */
    assert_int_equal(send(fd, huge, sizeof huge, MSG_DONTWAIT), (ssize_t)sizeof huge);
    assert_still_works(w);
    assert_int_equal(w->b.notices, 1);
}

static bool a_timer_fired(struct world *w)
{
    return w->a.timers > 0;
}

static void test_timers(void **state)
{
    struct world *w = *state;
    const struct rguard_channel_ops *ops = w->a.c->ops;
    uint64_t start = ops->now_ms(w->a.c);
    ops->arm(w->a.c, RGUARD_TIMER_PROBE, 30);
    ops->arm(w->a.c, RGUARD_TIMER_SOON, 5);
    ops->disarm(w->a.c, RGUARD_TIMER_SOON);
    assert_int_equal(w->a.timers, 0);
    assert_true(run_until(w, a_timer_fired, 2000));
    assert_int_equal(w->a.timers, 1);
    assert_int_equal(w->a.last_timer, RGUARD_TIMER_PROBE);
    assert_true(ops->now_ms(w->a.c) - start >= 29);
    ops->arm(w->a.c, RGUARD_TIMER_PROBE, 5000);
    ops->arm(w->a.c, RGUARD_TIMER_PROBE, 0); /* restarts it */
    w->a.timers = 0;
    assert_true(run_until(w, a_timer_fired, 1000));
}

static struct
{
    uv_thread_t worker, finisher;
    unsigned done;
} job;

static void job_work(void *user)
{
    (void)user;
    job.worker = uv_thread_self();
}

static void job_done(void *user)
{
    (void)user;
    job.finisher = uv_thread_self();
    job.done++;
}

static bool job_is_done(struct world *w)
{
    (void)w;
    return job.done > 0;
}

static void test_work(void **state)
{
    struct world *w = *state;
    uv_thread_t self = uv_thread_self();
    job.done = 0;
    assert_int_equal(w->a.c->ops->work(w->a.c, job_work, job_done, NULL), 0);
    assert_int_equal(job.done, 0);
    assert_true(run_until(w, job_is_done, 2000));
    assert_true(uv_thread_equal(&job.finisher, &self));
    assert_false(uv_thread_equal(&job.worker, &self));
    /* Work under way holds a close up, and is finished first. */
    job.done = 0;
    assert_int_equal(w->a.c->ops->work(w->a.c, job_work, job_done, NULL), 0);
    close_node(&w->a);
    while (!w->a.closed) {
        uv_run(&w->loop, UV_RUN_ONCE);
    }
    assert_int_equal(job.done, 1);
    w->a.c = NULL;
}

int main(void)
{
#define CHANNEL_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        CHANNEL_TEST(test_frames_in_order),
        CHANNEL_TEST(test_what_peers_know_of_each_other),
        CHANNEL_TEST(test_what_cannot_be_sent),
        CHANNEL_TEST(test_addresses),
        CHANNEL_TEST(test_busy_port),
        CHANNEL_TEST(test_peer_restarts),
        CHANNEL_TEST(test_peer_moves),
        cmocka_unit_test_setup_teardown(test_close_with_sends_in_flight, setup_large, teardown),
        CHANNEL_TEST(test_notices),
        CHANNEL_TEST(test_timers),
        CHANNEL_TEST(test_work),
    };
    return cmocka_run_group_tests_name("channel_uv", tests, NULL, NULL);
}
