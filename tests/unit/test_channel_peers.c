/* SPDX-License-Identifier: Apache-2.0 */
/* The channel against peers of any kind: a plain TCP socket pretends to be node 3, well or badly.
 * Whatever it sends, nothing of it is delivered, it is counted, and the connection of 1 and 2 goes
 * on. Frames are composed here from the documented layout, not by the code under test. */
#include "channel_world.h"

#include <raftguard/crc32c.h>

/* ---- node 3: anything goes ------------------------------------------------------------------- */

static int raw_connect(const char *address)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    sa.sin_port = htons((uint16_t)atoi(strrchr(address, ':') + 1));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

struct raw
{
    uint8_t bytes[HEAD + 3 * MAX_FRAME];
    size_t len;
};

static void seal(uint8_t *head, size_t body)
{
    uint32_t crc = rguard_crc32c(0, head, 12);
    crc = rguard_crc32c(crc, head + 16, HEAD - 16);
    rguard__put32(head + 12, rguard_crc32c(crc, head + HEAD, body));
}

/* Appends a frame with @body bytes of 0x5a from node @from to node 2. */
static uint8_t *raw_frame(struct raw *r, uint16_t type, uint64_t from, uint64_t nonce, size_t body)
{
    uint8_t *p = r->bytes + r->len;
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

static void raw_hello(struct raw *r)
{
    r->len = 0;
    raw_frame(r, HELLO, 3, NONCE(3), 0);
}

/* Sends and runs the loop until the other side closes, or until it clearly does not. */
static bool raw_dropped(struct world *w, int fd, const void *bytes, size_t len)
{
    size_t at = 0;
    for (unsigned quiet = 0; quiet < 200;) {
        char drop[64];
        ssize_t n = at < len ? send(fd, (const uint8_t *)bytes + at, len - at, MSG_NOSIGNAL) : 0;
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
static void assert_rejected(struct world *w, const struct raw *r, const char *what)
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

static void test_raw_peer_can_talk(void **state)
{
    struct world *w = *state;
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

static void test_before_hello(void **state)
{
    struct world *w = *state;
    struct raw r = {.len = 0};
    raw_frame(&r, SOME_TYPE, 3, NONCE(3), 10);
    assert_rejected(w, &r, "a frame without HELLO");
    r.len = 0;
    raw_frame(&r, HELLO, 3, NONCE(3), RGUARD_MAX_ADDRESS + 1);
    assert_rejected(w, &r, "a HELLO of a length that none has");
    r.len = HEAD;
    assert_rejected(w, &r, "the head of such a HELLO: nothing is waited for");
    r.len = 0;
    raw_frame(&r, HELLO, 4, NONCE(4), 0);
    assert_rejected(w, &r, "HELLO of a stranger");
    r.len = 0;
    raw_frame(&r, HELLO, 2, NONCE(2), 0);
    assert_rejected(w, &r, "HELLO in the receiver's own name");
    r.len = 0;
    uint8_t *p = raw_frame(&r, HELLO, 3, NONCE(3), 8);
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

static void test_after_hello(void **state)
{
    struct world *w = *state;
    struct raw r;
    static const struct
    {
        const char *what;
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
        uint8_t *p = raw_frame(&r, SOME_TYPE, 3, NONCE(3), 20);
        rguard__put32(p + bad[i].at, bad[i].value);
        seal(p, 20);
        assert_rejected(w, &r, bad[i].what);
    }
    raw_hello(&r);
    uint8_t *p = raw_frame(&r, SOME_TYPE, 3, NONCE(3), 20);
    rguard__put32(p + 12, rguard__get32(p + 12) + 1);
    assert_rejected(w, &r, "wrong checksum");
}

/* One connection has one HELLO. A second one must not leave two owners of it. */
static void test_second_hello(void **state)
{
    struct world *w = *state;
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
static void test_newer_connection_wins(void **state)
{
    struct world *w = *state;
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
static unsigned flips_delivered(struct world *w, size_t body, bool padded)
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

static void test_every_flipped_bit(void **state)
{
    struct world *w = *state;
    assert_int_equal(flips_delivered(w, 24, true), 0);
    assert_int_equal(w->b.c->ops->bad_frames(w->b.c), (HEAD + 24) * 8);
    assert_still_works(w);
}

static void test_every_flipped_bit_switched_off(void **state)
{
    struct world *w = *state;
    switch_off("frame_crc");
    unsigned delivered = flips_delivered(w, 24, false);
    switch_on();
    /* Body, checksum and type are nobody else's business: 24 and 4 and 2 bytes at the least. */
    assert_true(delivered >= (24 + 4 + 1) * 8);
}

static void test_random_garbage(void **state)
{
    struct world *w = *state;
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
static void test_half_a_frame(void **state)
{
    struct world *w = *state;
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

static void test_too_many_connections(void **state)
{
    struct world *w = *state;
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

int main(void)
{
#define CHANNEL_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests_name("channel_peers", tests, NULL, NULL);
}
