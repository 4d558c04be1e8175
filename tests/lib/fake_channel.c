/* SPDX-License-Identifier: Apache-2.0 */
/* See fake_channel.h. */
#include "fake_channel.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static struct fake_channel *fake_of(struct rguard_channel *c)
{
    return (struct fake_channel *)c;
}

static struct fake_peer *find(struct fake_channel *f, uint64_t id)
{
    for (unsigned i = 0; i < f->n_peers; i++) {
        if (f->peers[i].id == id) {
            return &f->peers[i];
        }
    }
    return NULL;
}

static int fake_start(struct rguard_channel *c)
{
    (void)c;
    return 0;
}

static int fake_peer(struct rguard_channel *c, uint64_t id, const char *address)
{
    (void)c;
    (void)id;
    (void)address;
    return 0;
}

static int fake_send(struct rguard_channel *c, uint64_t to, uint16_t type, const struct iovec *iov,
                     int n, rguard_channel_sent sent, void *user)
{
    struct fake_channel *f = fake_of(c);
    size_t len = 0;
    if (find(f, to) == NULL) {
        return -ENOTCONN;
    }
    if (f->n_frames == FAKE_FRAMES) {
        abort(); /* the test sends more than it looks at */
    }
    for (int i = 0; i < n; i++) {
        len += iov[i].iov_len;
    }
    uint8_t *body = malloc(len > 0 ? len : 1);
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len > 0) {
            memcpy(body + at, iov[i].iov_base, iov[i].iov_len);
        }
        at += iov[i].iov_len;
    }
    f->frames[f->n_frames++] = (struct fake_frame){to, type, body, len, sent, user};
    return 0;
}

static uint64_t fake_nonce(struct rguard_channel *c, uint64_t id)
{
    struct fake_peer *p = find(fake_of(c), id);
    return p != NULL ? p->nonce : 0;
}

static const char *fake_announced(struct rguard_channel *c, uint64_t id)
{
    (void)c;
    (void)id;
    return NULL;
}

static unsigned fake_connected(struct rguard_channel *c)
{
    return fake_of(c)->n_peers;
}

static uint64_t fake_bad_frames(struct rguard_channel *c)
{
    (void)c;
    return 0;
}

static int fake_notice_fd(struct rguard_channel *c, uint64_t id)
{
    struct fake_peer *p = find(fake_of(c), id);
    return p != NULL ? p->out : -1;
}

static void fake_arm(struct rguard_channel *c, enum rguard_timer which, uint64_t ms)
{
    struct fake_channel *f = fake_of(c);
    f->armed[which] = true;
    f->due_ms[which] = f->now_ms + ms;
}

static void fake_disarm(struct rguard_channel *c, enum rguard_timer which)
{
    fake_of(c)->armed[which] = false;
}

static uint64_t fake_now(struct rguard_channel *c)
{
    return fake_of(c)->now_ms;
}

static uint32_t fake_random(struct rguard_channel *c)
{
    return fake_of(c)->random;
}

static int fake_watch(struct rguard_channel *c, int fd)
{
    (void)c;
    (void)fd;
    return 0;
}

static int fake_work(struct rguard_channel *c, void (*work)(void *), void (*done)(void *),
                     void *user)
{
    struct fake_channel *f = fake_of(c);
    if (f->n_work == FAKE_WORK) {
        return -ENOMEM;
    }
    f->work[f->n_work++] = (struct fake_work){work, done, user};
    return 0;
}

static void fake_close(struct rguard_channel *c, void (*closed)(void *), void *user)
{
    fake_channel_drain(fake_of(c), -ECANCELED);
    if (closed != NULL) {
        closed(user);
    }
}

const struct rguard_channel_ops fake_channel_ops = {
    .start = fake_start,
    .peer = fake_peer,
    .send = fake_send,
    .nonce = fake_nonce,
    .announced = fake_announced,
    .connected = fake_connected,
    .bad_frames = fake_bad_frames,
    .notice_fd = fake_notice_fd,
    .arm = fake_arm,
    .disarm = fake_disarm,
    .now_ms = fake_now,
    .random = fake_random,
    .watch = fake_watch,
    .work = fake_work,
    .close = fake_close,
};

void fake_channel_init(struct fake_channel *f)
{
    memset(f, 0, sizeof *f);
    f->base.ops = &fake_channel_ops;
    f->now_ms = 1000000; /* far from 0, so that "never" and "long ago" differ */
}

void fake_channel_fini(struct fake_channel *f)
{
    fake_channel_drain(f, -ECANCELED);
    for (unsigned i = 0; i < f->n_peers; i++) {
        if (f->peers[i].out >= 0) {
            close(f->peers[i].out);
            close(f->peers[i].in);
        }
    }
    f->n_peers = 0;
}

struct fake_peer *fake_channel_add(struct fake_channel *f, uint64_t id, uint64_t nonce)
{
    struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sa;
    struct fake_peer *p = &f->peers[f->n_peers];
    *p = (struct fake_peer){.id = id, .nonce = nonce};
    p->in = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    p->out = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (p->in < 0 || p->out < 0 || bind(p->in, (struct sockaddr *)&sa, sizeof sa) != 0 ||
        getsockname(p->in, (struct sockaddr *)&sa, &len) != 0 ||
        connect(p->out, (struct sockaddr *)&sa, len) != 0) {
        abort(); /* no loopback: nothing here can be tested */
    }
    f->n_peers++;
    return p;
}

size_t fake_channel_datagram(struct fake_channel *f, uint64_t id, uint8_t *buf, size_t cap)
{
    struct fake_peer *p = find(f, id);
    ssize_t n = p != NULL ? recv(p->in, buf, cap, MSG_DONTWAIT) : 0;
    return n > 0 ? (size_t)n : 0;
}

void fake_channel_drain(struct fake_channel *f, int status)
{
    for (unsigned i = 0; i < f->n_frames; i++) {
        struct fake_frame frame = f->frames[i];
        if (frame.sent != NULL) {
            frame.sent(frame.user, status);
        }
        free(frame.body);
    }
    f->n_frames = 0;
}

void fake_channel_run(struct fake_channel *f)
{
    for (unsigned i = 0; i < f->n_work; i++) {
        struct fake_work w = f->work[i];
        w.work(w.user);
        w.done(w.user);
    }
    f->n_work = 0;
}
