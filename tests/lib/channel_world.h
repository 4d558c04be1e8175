/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_TEST_CHANNEL_WORLD_H
#define RGUARD_TEST_CHANNEL_WORLD_H

/* Node 1 and node 2 on real sockets, in one loop, connected. What arrives is counted, the last of
 * each kind is kept. Teardown fails the test when a callback or a handle is left. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>

#include "shell.h"

#include <uv.h>

#include <cmocka.h>

#define HEAD      40u
#define MAX_FRAME 4096u
#define HELLO     16u
#define SOME_TYPE 4u
#define NONCE(id) (0xabc000u + (id))

struct node
{
    struct world *w;
    struct rguard_channel *c;
    uint64_t id;
    char address[32];
    unsigned frames, ups, downs, notices, timers, bytes;
    uint64_t last_peer;
    uint16_t last_type;
    uint8_t last[MAX_FRAME];
    size_t last_len;
    uint64_t expect; /* next sequence number of the order test */
    bool out_of_order, closed;
    enum rguard_timer last_timer;
    uint8_t notice[256];
    size_t notice_len;
};

struct world
{
    uv_loop_t loop;
    struct node a, b;
    unsigned sent_ok, sent_failed;
};

/* ---- events ---------------------------------------------------------------------------------- */

static inline void on_frame(void *user, uint64_t peer, uint16_t type, const uint8_t *body,
                            size_t len)
{
    struct node *n = user;
    n->frames++;
    n->last_peer = peer;
    n->last_type = type;
    n->last_len = len;
    n->bytes += (unsigned)len;
    memcpy(n->last, body, len < sizeof n->last ? len : sizeof n->last);
}

static inline void on_notice(void *user, const uint8_t *bytes, size_t len)
{
    struct node *n = user;
    n->notices++;
    n->notice_len = len;
    memcpy(n->notice, bytes, len < sizeof n->notice ? len : sizeof n->notice);
}

static inline void on_link(void *user, uint64_t peer, bool up)
{
    struct node *n = user;
    (void)peer;
    n->ups += up;
    n->downs += !up;
}

static inline void on_timer(void *user, enum rguard_timer which)
{
    struct node *n = user;
    n->timers++;
    n->last_timer = which;
}

static inline void on_readable(void *user)
{
    (void)user;
}

static inline void on_sent(void *user, int status)
{
    struct world *w = user;
    w->sent_ok += status == 0;
    w->sent_failed += status != 0;
}

static inline void on_closed(void *user)
{
    ((struct node *)user)->closed = true;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* A port that is free for TCP and UDP. */
static inline uint16_t free_port(void)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof sa;
        int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
        bool ok = bind(tcp, (struct sockaddr *)&sa, sizeof sa) == 0 &&
                  getsockname(tcp, (struct sockaddr *)&sa, &len) == 0 &&
                  bind(udp, (struct sockaddr *)&sa, sizeof sa) == 0;
        close(tcp);
        close(udp);
        if (ok) {
            return ntohs(sa.sin_port);
        }
    }
    abort();
}

static inline int open_node(struct node *n, const char *address, uint64_t nonce, size_t max_frame)
{
    struct rguard_channel_config config = {.id = n->id,
                                           .nonce = nonce,
                                           .address = address,
                                           .announce = n->id == 1 ? "one.example:6379" : NULL,
                                           .max_frame = max_frame,
                                           .max_snapshot = 2 * max_frame,
                                           .events = {.user = n,
                                                      .frame = on_frame,
                                                      .notice = on_notice,
                                                      .link = on_link,
                                                      .timer = on_timer,
                                                      .readable = on_readable}};
    n->closed = false;
    return rguard__channel_uv(&n->w->loop, &config, &n->c);
}

static inline bool run_until(struct world *w, bool (*done)(struct world *w), unsigned ms)
{
    uint64_t end = uv_hrtime() + ms * UINT64_C(1000000);
    while (!done(w)) {
        if (uv_hrtime() > end) {
            return false;
        }
        if (uv_run(&w->loop, UV_RUN_NOWAIT) == 0) {
            return done(w);
        }
        usleep(20);
    }
    return true;
}

static inline bool both_connected(struct world *w)
{
    return w->a.c->ops->connected(w->a.c) == 1 && w->b.c->ops->connected(w->b.c) == 1;
}

static inline bool both_closed(struct world *w)
{
    return (w->a.c == NULL || w->a.closed) && (w->b.c == NULL || w->b.closed);
}

static inline void close_node(struct node *n)
{
    if (n->c != NULL && !n->closed) {
        n->c->ops->close(n->c, on_closed, n);
    }
}

static inline int setup_sized(void **state, size_t max_frame)
{
    struct world *w = calloc(1, sizeof *w);
    char third[32];
    *state = w;
    uv_loop_init(&w->loop);
    w->a = (struct node){.w = w, .id = 1};
    w->b = (struct node){.w = w, .id = 2};
    snprintf(w->a.address, sizeof w->a.address, "127.0.0.1:%u", free_port());
    snprintf(w->b.address, sizeof w->b.address, "127.0.0.1:%u", free_port());
    snprintf(third, sizeof third, "127.0.0.1:%u", free_port());
    if (open_node(&w->a, w->a.address, NONCE(1), max_frame) != 0 ||
        open_node(&w->b, w->b.address, NONCE(2), max_frame) != 0) {
        return -1;
    }
    w->a.c->ops->peer(w->a.c, 2, w->b.address);
    w->b.c->ops->peer(w->b.c, 1, w->a.address);
    w->b.c->ops->peer(w->b.c, 3, third); /* a member, though nobody listens there */
    w->a.c->ops->start(w->a.c);
    w->b.c->ops->start(w->b.c);
    return run_until(w, both_connected, 2000) ? 0 : -1;
}

static inline int setup(void **state)
{
    return setup_sized(state, MAX_FRAME);
}

static inline int setup_large(void **state)
{
    return setup_sized(state, 16u << 20);
}

/* Every handle is gone and every callback has run, or closing the loop says so. */
static inline int teardown(void **state)
{
    struct world *w = *state;
    switch_on();
    close_node(&w->a);
    close_node(&w->b);
    bool closed = run_until(w, both_closed, 2000);
    int rv = uv_loop_close(&w->loop);
    free(w);
    return closed && rv == 0 ? 0 : -1;
}

static inline int send_bytes(struct node *n, uint64_t to, uint16_t type, const void *bytes,
                             size_t len)
{
    struct iovec iov[2] = {{(void *)(uintptr_t)bytes, len / 2},
                           {(uint8_t *)(uintptr_t)bytes + len / 2, len - len / 2}};
    return n->c->ops->send(n->c, to, type, iov, 2, on_sent, n->w);
}

static unsigned wanted_frames;

static inline bool b_has_frames(struct world *w)
{
    return w->b.frames >= wanted_frames;
}

/* The good connection still carries frames. */
static inline void assert_still_works(struct world *w)
{
    static unsigned char n;
    n++;
    wanted_frames = w->b.frames + 1;
    assert_int_equal(send_bytes(&w->a, 2, SOME_TYPE, &n, 1), 0);
    assert_true(run_until(w, b_has_frames, 2000));
    assert_int_equal(w->b.frames, wanted_frames);
    assert_int_equal(w->b.last_peer, 1);
    assert_int_equal(w->b.last[0], n);
}

#endif
