/* SPDX-License-Identifier: Apache-2.0 */
/* The channel on real sockets: node 1 and node 2 in one loop, and between them a plain TCP socket
 * that pretends to be node 3, well or badly. Whatever it sends, the connection of 1 and 2 goes on.
 *
 * Frames are composed here from the documented layout, not by the code under test. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>

#include "shell.h"

#include <raftguard/crc32c.h>
#include <uv.h>

#include <cmocka.h>

#define HEAD      40u
#define MAX_FRAME 4096u
#define HELLO     16u
#define SOME_TYPE 4u
#define NONCE(id) (0xabc000u + (id))

struct node
{
    struct world* w;
    struct rguard_channel* c;
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

/* ---- events -----------------------------------------------------------------------------------
 */

static void on_frame(void* user, uint64_t peer, uint16_t type, const uint8_t* body, size_t len)
{
    struct node* n = user;
    n->frames++;
    n->last_peer = peer;
    n->last_type = type;
    n->last_len = len;
    n->bytes += (unsigned)len;
    memcpy(n->last, body, len < sizeof n->last ? len : sizeof n->last);
}

static void on_notice(void* user, const uint8_t* bytes, size_t len)
{
    struct node* n = user;
    n->notices++;
    n->notice_len = len;
    memcpy(n->notice, bytes, len < sizeof n->notice ? len : sizeof n->notice);
}

static void on_link(void* user, uint64_t peer, bool up)
{
    struct node* n = user;
    (void)peer;
    n->ups += up;
    n->downs += !up;
}

static void on_timer(void* user, enum rguard_timer which)
{
    struct node* n = user;
    n->timers++;
    n->last_timer = which;
}

static void on_readable(void* user)
{
    (void)user;
}

static void on_sent(void* user, int status)
{
    struct world* w = user;
    w->sent_ok += status == 0;
    w->sent_failed += status != 0;
}

static void on_closed(void* user)
{
    ((struct node*)user)->closed = true;
}

/* ---- life -------------------------------------------------------------------------------------
 */

/* A port that is free for TCP and UDP. */
static uint16_t free_port(void)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t len = sizeof sa;
        int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0);
        bool ok = bind(tcp, (struct sockaddr*)&sa, sizeof sa) == 0 &&
                  getsockname(tcp, (struct sockaddr*)&sa, &len) == 0 &&
                  bind(udp, (struct sockaddr*)&sa, sizeof sa) == 0;
        close(tcp);
        close(udp);
        if (ok) {
            return ntohs(sa.sin_port);
        }
    }
    abort();
}

static int open_node(struct node* n, const char* address, uint64_t nonce, size_t max_frame)
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

static bool run_until(struct world* w, bool (*done)(struct world* w), unsigned ms)
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

static bool both_connected(struct world* w)
{
    return w->a.c->ops->connected(w->a.c) == 1 && w->b.c->ops->connected(w->b.c) == 1;
}

static bool both_closed(struct world* w)
{
    return (w->a.c == NULL || w->a.closed) && (w->b.c == NULL || w->b.closed);
}

static void close_node(struct node* n)
{
    if (n->c != NULL && !n->closed) {
        n->c->ops->close(n->c, on_closed, n);
    }
}

static int setup_sized(void** state, size_t max_frame)
{
    struct world* w = calloc(1, sizeof *w);
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

static int setup(void** state)
{
    return setup_sized(state, MAX_FRAME);
}

static int setup_large(void** state)
{
    return setup_sized(state, 16u << 20);
}

/* Every handle is gone and every callback has run, or closing the loop says so. */
static int teardown(void** state)
{
    struct world* w = *state;
    switch_on();
    close_node(&w->a);
    close_node(&w->b);
    bool closed = run_until(w, both_closed, 2000);
    int rv = uv_loop_close(&w->loop);
    free(w);
    return closed && rv == 0 ? 0 : -1;
}

/* ---- node 1 to node 2 -------------------------------------------------------------------------
 */

static int send_bytes(struct node* n, uint64_t to, uint16_t type, const void* bytes, size_t len)
{
    struct iovec iov[2] = {{(void*)(uintptr_t)bytes, len / 2},
                           {(uint8_t*)(uintptr_t)bytes + len / 2, len - len / 2}};
    return n->c->ops->send(n->c, to, type, iov, 2, on_sent, n->w);
}

static unsigned wanted_frames;

static bool b_has_frames(struct world* w)
{
    return w->b.frames >= wanted_frames;
}

/* The good connection still carries frames. */
static void assert_still_works(struct world* w)
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

static void on_ordered(void* user, uint64_t peer, uint16_t type, const uint8_t* body, size_t len)
{
    struct node* n = user;
    n->frames++;
    n->out_of_order |= peer != 1 || len < 8 || rguard__get64(body) != n->expect ||
                       type != SOME_TYPE + n->expect % 7;
    for (size_t i = 8; i < len; i++) {
        n->out_of_order |= body[i] != (uint8_t)(n->expect + i);
    }
    n->expect++;
}

static void test_frames_in_order(void** state)
{
    struct world* w = *state;
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
    assert_true(run_until(w, both_closed, 0) || true);
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

static void test_what_peers_know_of_each_other(void** state)
{
    struct world* w = *state;
    assert_int_equal(w->a.c->ops->nonce(w->a.c, 2), NONCE(2));
    assert_int_equal(w->b.c->ops->nonce(w->b.c, 1), NONCE(1));
    assert_int_equal(w->b.c->ops->nonce(w->b.c, 3), 0);
    assert_int_equal(w->b.c->ops->nonce(w->b.c, 99), 0);
    assert_string_equal(w->b.c->ops->announced(w->b.c, 1), "one.example:6379");
    assert_null(w->a.c->ops->announced(w->a.c, 2));
    assert_null(w->b.c->ops->announced(w->b.c, 99));
    assert_int_equal(w->b.c->ops->bad_frames(w->b.c), 0);
}

static void test_what_cannot_be_sent(void** state)
{
    struct world* w = *state;
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

/* ---- node 3: anything goes --------------------------------------------------------------------
 */

static int raw_connect(const char* address)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    sa.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr*)&sa, sizeof sa), 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

struct raw
{
    uint8_t bytes[HEAD + 3 * MAX_FRAME];
    size_t len;
};

static void seal(uint8_t* head, size_t body)
{
    uint32_t crc = rguard_crc32c(0, head, 12);
    crc = rguard_crc32c(crc, head + 16, HEAD - 16);
    rguard__put32(head + 12, rguard_crc32c(crc, head + HEAD, body));
}

/* Appends a frame with @body bytes of 0x5a from node @from to node 2. */
static uint8_t* raw_frame(struct raw* r, uint16_t type, uint64_t from, uint64_t nonce, size_t body)
{
    uint8_t* p = r->bytes + r->len;
    rguard__put32(p, 0x31464752u);
    rguard__put32(p + 4, 1u | (uint32_t)type << 16);
    rguard__put32(p + 8, (uint32_t)body);
    rguard__put64(p + 16, from);
    rguard__put64(p + 24, 2);
    rguard__put64(p + 32, nonce);
    memset(p + HEAD, 0x5a, body);
    seal(p, body);
    r->len += HEAD + body;
    return p;
}

static void raw_hello(struct raw* r)
{
    r->len = 0;
    raw_frame(r, HELLO, 3, NONCE(3), 0);
}

/* Sends and runs the loop until the other side closes, or until it clearly does not. */
static bool raw_dropped(struct world* w, int fd, const void* bytes, size_t len)
{
    size_t at = 0;
    for (unsigned quiet = 0; quiet < 200;) {
        char drop[64];
        ssize_t n = at < len ? send(fd, (const uint8_t*)bytes + at, len - at, MSG_NOSIGNAL) : 0;
        at += n > 0 ? (size_t)n : 0;
        if (n < 0 && errno != EAGAIN) {
            return true;
        }
        uv_run(&w->loop, UV_RUN_NOWAIT);
        n = recv(fd, drop, sizeof drop, 0);
        if (n == 0 || (n < 0 && errno != EAGAIN)) {
            return true;
        }
        quiet = at < len ? 0 : quiet + 1;
    }
    return false;
}

/* A connection that begins with @r is dropped, counted once, delivers nothing, and 1 and 2 go on.
 */
static void assert_rejected(struct world* w, const struct raw* r, const char* what)
{
    unsigned frames = w->b.frames;
    uint64_t bad = w->b.c->ops->bad_frames(w->b.c);
    int fd = raw_connect(w->b.address);
    bool dropped = raw_dropped(w, fd, r->bytes, r->len);
    close(fd);
    if (!dropped || w->b.frames != frames || w->b.c->ops->bad_frames(w->b.c) != bad + 1) {
        fail_msg("%s: dropped %d, delivered %u, counted %u", what, dropped, w->b.frames - frames,
                 (unsigned)(w->b.c->ops->bad_frames(w->b.c) - bad));
    }
    assert_int_equal(w->b.c->ops->nonce(w->b.c, 3), 0);
    assert_still_works(w);
}

static void test_raw_peer_can_talk(void** state)
{
    struct world* w = *state;
    struct raw r;
    raw_hello(&r);
    raw_frame(&r, SOME_TYPE, 3, NONCE(3), 100);
    raw_frame(&r, RAFT_IO_INSTALL_SNAPSHOT, 3, NONCE(3), 2 * MAX_FRAME);
    int fd = raw_connect(w->b.address);
    /* In pieces of one byte first: a frame may arrive in any number of them. */
    for (size_t i = 0; i < 200; i++) {
        assert_false(w->b.frames > 1);
        assert_int_equal(send(fd, r.bytes + i, 1, MSG_NOSIGNAL), 1);
        uv_run(&w->loop, UV_RUN_NOWAIT);
    }
    assert_false(raw_dropped(w, fd, r.bytes + 200, r.len - 200));
    assert_int_equal(w->b.frames, 2);
    assert_int_equal(w->b.last_peer, 3);
    assert_int_equal(w->b.last_len, 2 * MAX_FRAME);
    assert_int_equal(w->b.c->ops->nonce(w->b.c, 3), NONCE(3));
    close(fd);
    assert_still_works(w);
    assert_int_equal(w->b.c->ops->nonce(w->b.c, 3), 0); /* gone with its connection */
}

static void test_before_hello(void** state)
{
    struct world* w = *state;
    struct raw r = {.len = 0};
    raw_frame(&r, SOME_TYPE, 3, NONCE(3), 10);
    assert_rejected(w, &r, "a frame without HELLO");
    r.len = 0;
    raw_frame(&r, HELLO, 3, NONCE(3), RGUARD_MAX_ADDRESS + 1);
    assert_rejected(w, &r, "a HELLO of a length that none has");
    r.len = 0;
    raw_frame(&r, HELLO, 4, NONCE(4), 0);
    assert_rejected(w, &r, "HELLO of a stranger");
    r.len = 0;
    raw_frame(&r, HELLO, 2, NONCE(2), 0);
    assert_rejected(w, &r, "HELLO in the receiver's own name");
    r.len = 0;
    uint8_t* p = raw_frame(&r, HELLO, 3, NONCE(3), 8);
    p[HEAD + 3] = '\0';
    seal(p, 8);
    assert_rejected(w, &r, "HELLO with a NUL in its address");
    raw_hello(&r);
    rguard__put64(r.bytes + 24, 1);
    seal(r.bytes, 0);
    assert_rejected(w, &r, "HELLO for another node");
    memset(r.bytes, 'G', sizeof r.bytes);
    memcpy(r.bytes, "GET / HTTP/1.1\r\n\r\n", 18);
    r.len = 100;
    assert_rejected(w, &r, "another protocol");
    memset(r.bytes, 0, sizeof r.bytes);
    assert_rejected(w, &r, "zeros");
}

static void test_after_hello(void** state)
{
    struct world* w = *state;
    struct raw r;
    static const struct
    {
        const char* what;
        size_t at; /* byte of the frame after HELLO */
        uint32_t value;
    } bad[] = {{"wrong magic", 0, 0x31464753u},
               {"version of another release", 4, 2u | SOME_TYPE << 16},
               {"length beyond the cap", 8, MAX_FRAME + 1},
               {"absurd length", 8, 0xffffffffu},
               {"meant for another node", 24, 1},
               {"in another node's name", 16, 1},
               {"in a stranger's name", 16, 77},
               {"nonce of another life", 32, NONCE(4)}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        raw_hello(&r);
        uint8_t* p = raw_frame(&r, SOME_TYPE, 3, NONCE(3), 20);
        rguard__put32(p + bad[i].at, bad[i].value);
        seal(p, 20);
        assert_rejected(w, &r, bad[i].what);
    }
    raw_hello(&r);
    uint8_t* p = raw_frame(&r, SOME_TYPE, 3, NONCE(3), 20);
    rguard__put32(p + 12, rguard__get32(p + 12) + 1);
    assert_rejected(w, &r, "wrong checksum");
}

/* One connection has one HELLO. A second one must not leave two owners of it. */
static void test_second_hello(void** state)
{
    struct world* w = *state;
    struct raw r;
    for (int again = 0; again < 3; again++) {
        raw_hello(&r);
        raw_frame(&r, HELLO, 3, NONCE(3), 0);
        assert_rejected(w, &r, "HELLO twice");
        raw_hello(&r);
        raw_frame(&r, HELLO, 1, NONCE(1), 0);
        assert_rejected(w, &r, "HELLO again, in another name");
    }
    assert_int_equal(w->b.c->ops->nonce(w->b.c, 1), NONCE(1));
}

/* A newer connection of the same peer replaces the older one, which is closed without a count. */
static void test_newer_connection_wins(void** state)
{
    struct world* w = *state;
    struct raw r;
    raw_hello(&r);
    int old = raw_connect(w->b.address);
    assert_false(raw_dropped(w, old, r.bytes, r.len));
    r.len = 0;
    raw_frame(&r, HELLO, 3, NONCE(33), 0);
    int new = raw_connect(w->b.address);
    assert_false(raw_dropped(w, new, r.bytes, r.len));
    assert_true(raw_dropped(w, old, NULL, 0));
    assert_int_equal(w->b.c->ops->nonce(w->b.c, 3), NONCE(33));
    assert_int_equal(w->b.c->ops->bad_frames(w->b.c), 0);
    close(old);
    uv_run(&w->loop, UV_RUN_NOWAIT);
    assert_int_equal(w->b.c->ops->nonce(w->b.c, 3), NONCE(33));
    close(new);
}

/* Padding lets a length that was flipped upwards be satisfied, so that the checksum is asked. */
static unsigned flips_delivered(struct world* w, size_t body, bool padded)
{
    unsigned delivered = 0;
    struct raw good, r;
    raw_hello(&good);
    size_t hello = good.len;
    raw_frame(&good, SOME_TYPE, 3, NONCE(3), body);
    size_t used = good.len;
    memset(good.bytes + used, 0, sizeof good.bytes - used);
    good.len = padded ? sizeof good.bytes : used;
    for (size_t bit = hello * 8; bit < used * 8; bit++) {
        unsigned frames = w->b.frames;
        r = good;
        r.bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
        int fd = raw_connect(w->b.address);
        bool dropped = raw_dropped(w, fd, r.bytes, r.len);
        close(fd);
        assert_true(dropped || !padded);
        delivered += w->b.frames - frames;
    }
    return delivered;
}

static void test_every_flipped_bit(void** state)
{
    struct world* w = *state;
    assert_int_equal(flips_delivered(w, 24, true), 0);
    assert_int_equal(w->b.c->ops->bad_frames(w->b.c), (HEAD + 24) * 8);
    assert_still_works(w);
}

static void test_every_flipped_bit_switched_off(void** state)
{
    struct world* w = *state;
    switch_off("frame_crc");
    unsigned delivered = flips_delivered(w, 24, false);
    switch_on();
    /* Body, checksum and type are nobody else's business: 24 and 4 and 2 bytes at the least. */
    assert_true(delivered >= (24 + 4 + 1) * 8);
}

static void test_random_garbage(void** state)
{
    struct world* w = *state;
    uint64_t rng = 11;
    for (int i = 0; i < 300; i++) {
        struct raw r;
        raw_hello(&r);
        size_t from = i % 2 == 0 ? 0 : r.len;
        r.len = from + HEAD + draw(&rng) % MAX_FRAME;
        for (size_t k = from; k < r.len; k++) {
            r.bytes[k] = (uint8_t)draw(&rng);
        }
        assert_rejected(w, &r, "random bytes");
    }
}

/* Half a frame and a close, half a frame and silence: nothing is delivered, nothing is counted. */
static void test_half_a_frame(void** state)
{
    struct world* w = *state;
    struct raw r;
    raw_hello(&r);
    size_t hello = r.len;
    raw_frame(&r, SOME_TYPE, 3, NONCE(3), 100);
    for (size_t len = 0; len < r.len; len += 7) {
        int fd = raw_connect(w->b.address);
        if (len > 0) {
            assert_int_equal(send(fd, r.bytes, len, MSG_NOSIGNAL), (ssize_t)len);
        }
        uv_run(&w->loop, UV_RUN_NOWAIT);
        close(fd);
    }
    (void)hello;
    assert_still_works(w);
    assert_int_equal(w->b.frames, 1);
    assert_int_equal(w->b.c->ops->bad_frames(w->b.c), 0);
}

static void test_too_many_connections(void** state)
{
    struct world* w = *state;
    int fds[80];
    unsigned dropped = 0;
    for (int i = 0; i < 80; i++) {
        fds[i] = raw_connect(w->b.address);
        uv_run(&w->loop, UV_RUN_NOWAIT);
    }
    for (int i = 0; i < 80; i++) {
        dropped += raw_dropped(w, fds[i], NULL, 0);
    }
    assert_in_range(dropped, 10, 20); /* 64 are kept, the good one among them */
    assert_still_works(w);
    for (int i = 0; i < 80; i++) {
        close(fds[i]);
    }
    assert_still_works(w);
}

/* ---- addresses --------------------------------------------------------------------------------
 */

static int try_address(struct world* w, const char* address)
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

static void test_addresses(void** state)
{
    struct world* w = *state;
    static const char* const malformed[] = {
        "",      "127.0.0.1",     "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "localhost:1",
        ":9001", "127.0.0.1:90x", "127.0.0:1x", "[::1]:9001"};
    static const char* const foreign[] = {"0.0.0.0:9001", "10.0.0.1:9001", "8.8.8.8:9001",
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

static void test_busy_port(void** state)
{
    struct world* w = *state;
    char address[32];
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    assert_int_equal(try_address(w, w->a.address), -EADDRINUSE);
    uint16_t port = free_port();
    sa.sin_port = htons(port);
    int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(udp, (struct sockaddr*)&sa, sizeof sa), 0);
    snprintf(address, sizeof address, "127.0.0.1:%u", port);
    assert_int_equal(try_address(w, address), -EADDRINUSE); /* TCP alone is no use */
    close(udp);
    assert_int_equal(try_address(w, address), 0);
    assert_still_works(w);
}

/* ---- restarts and ends ------------------------------------------------------------------------
 */

static bool a_lost_b(struct world* w)
{
    return w->a.downs > 0;
}

static void test_peer_restarts(void** state)
{
    struct world* w = *state;
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
static void test_peer_moves(void** state)
{
    struct world* w = *state;
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

static void test_close_with_sends_in_flight(void** state)
{
    struct world* w = *state;
    size_t len = 4u << 20;
    uint8_t* body = malloc(len);
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

/* ---- the rest of the seam ---------------------------------------------------------------------
 */

static bool b_noticed(struct world* w)
{
    return w->b.notices > 0;
}

static void test_notices(void** state)
{
    struct world* w = *state;
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

static bool a_timer_fired(struct world* w)
{
    return w->a.timers > 0;
}

static void test_timers(void** state)
{
    struct world* w = *state;
    const struct rguard_channel_ops* ops = w->a.c->ops;
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

static void job_work(void* user)
{
    (void)user;
    job.worker = uv_thread_self();
}

static void job_done(void* user)
{
    (void)user;
    job.finisher = uv_thread_self();
    job.done++;
}

static bool job_is_done(struct world* w)
{
    (void)w;
    return job.done > 0;
}

static void test_work(void** state)
{
    struct world* w = *state;
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
        CHANNEL_TEST(test_raw_peer_can_talk),
        CHANNEL_TEST(test_before_hello),
        CHANNEL_TEST(test_after_hello),
        CHANNEL_TEST(test_second_hello),
        CHANNEL_TEST(test_newer_connection_wins),
        CHANNEL_TEST(test_every_flipped_bit),
        CHANNEL_TEST(test_every_flipped_bit_switched_off),
        CHANNEL_TEST(test_random_garbage),
        CHANNEL_TEST(test_half_a_frame),
        CHANNEL_TEST(test_too_many_connections),
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
