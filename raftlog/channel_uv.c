/* SPDX-License-Identifier: Apache-2.0 */
/* The channel on libuv: one TCP connection per direction and pair, UDP for notices, timers, work.
 *
 *     frame = {magic u32, version u16, type u16, length u32, crc32c u32, sender u64, receiver u64,
 *              boot nonce u64} body
 *
 * A frame is delivered if and only if magic and version are ours, the length is within its cap, the
 * checksum over header (without itself) and body matches, the receiver is this node, and sender and
 * nonce are those of the HELLO that opened the connection. Anything else closes the connection and
 * is counted. A peer's buffer grows with the bytes that have arrived, never with the length they
 * claim.
 *
 * Each node connects to every peer and only sends on those connections; it only receives on the
 * ones it accepts. A newer connection of the same peer replaces the older one, so that a restarted
 * peer is heard at once. Reconnects start after 20 ms. */
#include <raftguard/channel.h>
#include <raftguard/crc32c.h>
#include <raftguard/error.h>
#include <raftguard/raftlog.h>
#include <raftguard/testing.h>

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include <uv.h>

#include "raftlog_internal.h"

#define FRAME_MAGIC   0x31464752u /* "RGF1" */
#define FRAME_VERSION 1u
#define FRAME_HEAD    40u
#define FRAME_HELLO   16u

#define RECONNECT_MS 20u
#define MAX_INCOMING 64u
#define FIRST_BUFFER (64u * 1024u)
#define MAX_QUEUED   (64u << 20) /* bytes waiting for one peer */
#define KEEP_BUFFER  (256u * 1024u)

struct uvc;

struct outgoing_frame
{
    uv_write_t req;
    struct peer *peer;
    uint8_t *bytes;
    size_t len, cap;
    rguard_channel_sent sent;
    void *user;
    struct outgoing_frame *next;
};

struct peer
{
    struct uvc *c;
    uint64_t id;
    char address[RGUARD_MAX_ADDRESS];
    struct sockaddr_in sa;
    uv_timer_t retry;
    uv_tcp_t *out; /* NULL, or connecting, or up */
    bool up;
    size_t queued;
    int notice_fd;
    struct incoming *in;
    uint64_t nonce;
    char announced[RGUARD_MAX_ADDRESS];
};

struct incoming
{
    uv_tcp_t tcp;
    struct uvc *c;
    struct peer *peer; /* NULL until HELLO */
    uint64_t nonce;
    uint8_t *buf;
    size_t have, cap;
    struct incoming *next;
    bool closing;
};

struct work_item
{
    uv_work_t req;
    struct uvc *c;
    void (*work)(void *user);
    void (*done)(void *user);
    void *user;
};

struct uvc
{
    struct rguard_channel base;
    struct rguard_channel_config cfg;
    uv_loop_t *loop;
    struct sockaddr_in self;
    uv_tcp_t listener;
    uv_udp_t udp;
    uv_poll_t poll;
    bool polling;
    uv_timer_t timers[RGUARD_TIMER_COUNT];
    struct peer *peers[RGUARD_CHANNEL_MAX_PEERS];
    unsigned n_peers;
    struct incoming *incoming;
    unsigned n_incoming;
    struct outgoing_frame *free_frames;
    uint64_t bad_frames, rng;
    bool started, closing;
    unsigned refs; /* handles open and work running */
    void (*closed)(void *user);
    void *closed_user;
    char datagram[1500];
};

static void peer_connect(struct peer *p);

/* ---- small things ---------------------------------------------------------------------------- */

static struct uvc *uvc_of(struct rguard_channel *c)
{
    return (struct uvc *)c;
}

__attribute__((format(printf, 3, 4))) static void say(struct uvc *c, int level, const char *fmt,
                                                      ...)
{
    char line[256];
    va_list args;
    if (c->cfg.events.log == NULL) {
        return;
    }
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    c->cfg.events.log(c->cfg.events.user, level, line);
}

static void unref(struct uvc *c)
{
    RGUARD_ASSERT(c->refs > 0);
    c->refs--;
    if (c->refs > 0 || !c->closing) {
        return;
    }
    for (unsigned i = 0; i < c->n_peers; i++) {
        free(c->peers[i]);
    }
    while (c->free_frames != NULL) {
        struct outgoing_frame *f = c->free_frames;
        c->free_frames = f->next;
        free(f->bytes);
        free(f);
    }
    void (*closed)(void *user) = c->closed;
    void *user = c->closed_user;
    free(c);
    if (closed != NULL) {
        closed(user);
    }
}

static void embedded_closed(uv_handle_t *h)
{
    unref(h->data);
}

static struct peer *find_peer(struct uvc *c, uint64_t id)
{
    for (unsigned i = 0; i < c->n_peers; i++) {
        if (c->peers[i]->id == id) {
            return c->peers[i];
        }
    }
    return NULL;
}

static int parse_address(const char *text, struct sockaddr_in *sa)
{
    char host[RGUARD_MAX_ADDRESS];
    const char *colon = strrchr(text, ':');
    char *end = NULL;
    if (colon == NULL || (size_t)(colon - text) >= sizeof host) {
        return -EINVAL;
    }
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    long port = strtol(colon + 1, &end, 10);
    if (end == colon + 1 || *end != '\0' || port < 1 || port > 65535 ||
        uv_ip4_addr(host, (int)port, sa) != 0) {
        return -EINVAL;
    }
    return (ntohl(sa->sin_addr.s_addr) >> 24) == 127 ? 0 : RGUARD_EREFUSED;
}

/* ---- frames out ------------------------------------------------------------------------------ */

static uint32_t frame_crc(const uint8_t *head, const uint8_t *body, size_t len)
{
    uint32_t crc = rguard_crc32c(0, head, 12);
    crc = rguard_crc32c(crc, head + 16, FRAME_HEAD - 16);
    return rguard_crc32c(crc, body, len);
}

static void frame_seal(struct uvc *c, uint8_t *head, uint64_t to, uint16_t type, size_t len)
{
    rguard__put32(head, FRAME_MAGIC);
    rguard__put32(head + 4, FRAME_VERSION | (uint32_t)type << 16);
    rguard__put32(head + 8, (uint32_t)len);
    rguard__put64(head + 16, c->cfg.id);
    rguard__put64(head + 24, to);
    rguard__put64(head + 32, c->cfg.nonce);
    rguard__put32(head + 12, frame_crc(head, head + FRAME_HEAD, len));
}

static struct outgoing_frame *frame_get(struct uvc *c, size_t len)
{
    struct outgoing_frame *f = c->free_frames;
    if (f != NULL) {
        c->free_frames = f->next;
    } else {
        f = calloc(1, sizeof *f);
        if (f == NULL) {
            return NULL;
        }
    }
    if (f->cap < len) {
        free(f->bytes);
        f->cap = len < 4096 ? 4096 : len;
        f->bytes = malloc(f->cap);
        if (f->bytes == NULL) {
            free(f);
            return NULL;
        }
    }
    f->len = len;
    return f;
}

static void frame_put(struct uvc *c, struct outgoing_frame *f)
{
    if (f->cap > KEEP_BUFFER) {
        free(f->bytes);
        f->bytes = NULL;
        f->cap = 0;
    }
    f->next = c->free_frames;
    c->free_frames = f;
}

static void peer_drop(struct peer *p);

static void on_written(uv_write_t *req, int status)
{
    struct outgoing_frame *f = req->data;
    struct peer *p = f->peer;
    struct uvc *c = p->c;
    rguard_channel_sent sent = f->sent;
    void *user = f->user;
    p->queued -= f->len;
    frame_put(c, f);
    if (status != 0 && (uv_stream_t *)p->out == req->handle) {
        peer_drop(p);
    }
    if (sent != NULL) {
        sent(user, status);
    }
}

static int uvc_send(struct rguard_channel *base, uint64_t to, uint16_t type,
                    const struct iovec *iov, int n, rguard_channel_sent sent, void *user)
{
    struct uvc *c = uvc_of(base);
    struct peer *p = find_peer(c, to);
    size_t len = 0;
    if (p == NULL || !p->up || c->closing) {
        return -ENOTCONN;
    }
    for (int i = 0; i < n; i++) {
        len += iov[i].iov_len;
    }
    if (len > (type == RAFT_IO_INSTALL_SNAPSHOT ? c->cfg.max_snapshot : c->cfg.max_frame)) {
        return RGUARD_ETOOBIG;
    }
    if (p->queued > MAX_QUEUED) {
        return RGUARD_EBUSY;
    }
    struct outgoing_frame *f = frame_get(c, FRAME_HEAD + len);
    if (f == NULL) {
        return -ENOMEM;
    }
    uint8_t *at = f->bytes + FRAME_HEAD;
    for (int i = 0; i < n; i++) {
        if (iov[i].iov_len > 0) {
            memcpy(at, iov[i].iov_base, iov[i].iov_len);
        }
        at += iov[i].iov_len;
    }
    frame_seal(c, f->bytes, to, type, len);
    f->peer = p;
    f->sent = sent;
    f->user = user;
    f->req.data = f;
    uv_buf_t buf = uv_buf_init((char *)f->bytes, (unsigned)f->len);
    int rv = uv_write(&f->req, (uv_stream_t *)p->out, &buf, 1, on_written);
    if (rv != 0) {
        frame_put(c, f);
        return rv;
    }
    p->queued += f->len;
    return 0;
}

/* ---- connections out ------------------------------------------------------------------------- */

static void out_closed(uv_handle_t *h)
{
    struct peer *p = h->data;
    struct uvc *c = p->c;
    free(h);
    unref(c);
}

static void on_retry(uv_timer_t *t)
{
    peer_connect(t->data);
}

static void peer_drop(struct peer *p)
{
    struct uvc *c = p->c;
    bool was_up = p->up;
    if (p->out != NULL) {
        uv_close((uv_handle_t *)p->out, out_closed);
    }
    p->out = NULL;
    p->up = false;
    if (c->closing) {
        return;
    }
    uv_timer_start(&p->retry, on_retry, RECONNECT_MS, 0);
    if (was_up) {
        c->cfg.events.link(c->cfg.events.user, p->id, false);
    }
}

static void discard_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct peer *p = h->data;
    (void)suggested;
    *buf = uv_buf_init(p->c->datagram, sizeof p->c->datagram);
}

/* Nothing is ever sent back on this connection; reading tells when the peer is gone. */
static void on_out_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct peer *p = s->data;
    (void)buf;
    if (n < 0 && (uv_stream_t *)p->out == s) {
        peer_drop(p);
    }
}

static void on_connected(uv_connect_t *req, int status)
{
    struct peer *p = req->data;
    uv_stream_t *stream = req->handle;
    free(req);
    if ((uv_stream_t *)p->out != stream || p->c->closing) {
        return;
    }
    if (status != 0 || uv_read_start(stream, discard_alloc, on_out_read) != 0) {
        peer_drop(p);
        return;
    }
    p->up = true;
    const char *announce = p->c->cfg.announce != NULL ? p->c->cfg.announce : "";
    struct iovec iov = {(void *)(uintptr_t)announce, strlen(announce)};
    if (uvc_send(&p->c->base, p->id, FRAME_HELLO, &iov, 1, NULL, NULL) != 0) {
        peer_drop(p);
        return;
    }
    p->c->cfg.events.link(p->c->cfg.events.user, p->id, true);
}

static void peer_connect(struct peer *p)
{
    struct uvc *c = p->c;
    if (c->closing || p->out != NULL) {
        return;
    }
    uv_connect_t *req = malloc(sizeof *req);
    p->out = malloc(sizeof *p->out);
    if (req == NULL || p->out == NULL || uv_tcp_init(c->loop, p->out) != 0) {
        free(req);
        free(p->out);
        p->out = NULL;
        uv_timer_start(&p->retry, on_retry, RECONNECT_MS, 0);
        return;
    }
    c->refs++;
    p->out->data = p;
    req->data = p;
    uv_tcp_nodelay(p->out, 1);
    if (uv_tcp_connect(req, p->out, (const struct sockaddr *)&p->sa, on_connected) != 0) {
        free(req);
        peer_drop(p);
    }
}

static int open_notice_fd(const struct sockaddr_in *sa)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)sa, sizeof *sa) != 0) {
        close(fd);
        fd = -1;
    }
    return fd;
}

static int uvc_peer(struct rguard_channel *base, uint64_t id, const char *address)
{
    struct uvc *c = uvc_of(base);
    struct peer *p = find_peer(c, id);
    struct sockaddr_in sa;
    int rv = parse_address(address, &sa);
    if (rv != 0 || strlen(address) >= RGUARD_MAX_ADDRESS) {
        return rv != 0 ? rv : -EINVAL;
    }
    if (id == c->cfg.id || (p != NULL && strcmp(p->address, address) == 0)) {
        return 0;
    }
    if (p == NULL) {
        if (c->n_peers == RGUARD_CHANNEL_MAX_PEERS) {
            return RGUARD_ETOOBIG;
        }
        p = calloc(1, sizeof *p);
        if (p == NULL) {
            return -ENOMEM;
        }
        p->c = c;
        p->id = id;
        p->notice_fd = -1;
        uv_timer_init(c->loop, &p->retry);
        p->retry.data = c;
        c->refs++;
        c->peers[c->n_peers++] = p;
    } else {
        peer_drop(p);
        close(p->notice_fd);
    }
    p->retry.data = p;
    strcpy(p->address, address);
    p->sa = sa;
    p->notice_fd = open_notice_fd(&sa);
    if (c->started) {
        peer_connect(p);
    }
    return 0;
}

/* ---- frames in ------------------------------------------------------------------------------- */

static void in_closed(uv_handle_t *h)
{
    struct incoming *in = h->data;
    struct uvc *c = in->c;
    struct incoming **link = &c->incoming;
    while (*link != in) {
        link = &(*link)->next;
    }
    *link = in->next;
    c->n_incoming--;
    free(in->buf);
    free(in);
    unref(c);
}

static void in_close(struct incoming *in)
{
    if (in->closing) {
        return;
    }
    in->closing = true;
    if (in->peer != NULL && in->peer->in == in) {
        in->peer->in = NULL;
        in->peer->nonce = 0;
    }
    uv_close((uv_handle_t *)&in->tcp, in_closed);
}

static void in_reject(struct incoming *in, const char *why)
{
    struct uvc *c = in->c;
    if (c->bad_frames++ < 16) { /* a hostile peer must not fill the log */
        say(c, RGUARD_LOG_WARN, "connection from %s%llu dropped: %s",
            in->peer != NULL ? "peer " : "unknown peer ",
            (unsigned long long)(in->peer != NULL ? in->peer->id : 0), why);
    }
    in_close(in);
}

static void in_hello(struct incoming *in, uint64_t from, uint64_t nonce, const uint8_t *body,
                     size_t len)
{
    struct peer *p = find_peer(in->c, from);
    if (in->peer != NULL) { /* a peer points to its connection: one connection, one peer */
        in_reject(in, "second HELLO");
        return;
    }
    if (p == NULL || len >= sizeof p->announced || memchr(body, '\0', len) != NULL) {
        in_reject(in, "HELLO from a node that is not a member");
        return;
    }
    if (p->in != NULL) {
        in_close(p->in);
    }
    in->peer = p;
    in->nonce = nonce;
    p->in = in;
    p->nonce = nonce;
    memcpy(p->announced, body, len);
    p->announced[len] = '\0';
}

static void in_frame(struct incoming *in, const uint8_t *head, size_t len)
{
    struct uvc *c = in->c;
    uint16_t type = (uint16_t)(rguard__get32(head + 4) >> 16);
    uint64_t from = rguard__get64(head + 16);
    uint64_t nonce = rguard__get64(head + 32);
    const uint8_t *body = head + FRAME_HEAD;
    if (rguard__get32(head + 12) != frame_crc(head, body, len) && !RGUARD_TEST_OFF("frame_crc")) {
        in_reject(in, "checksum of a frame does not match");
    } else if (rguard__get64(head + 24) != c->cfg.id) {
        in_reject(in, "frame is meant for another node");
    } else if (type == FRAME_HELLO) {
        in_hello(in, from, nonce, body, len);
    } else if (in->peer == NULL || in->peer->id != from || in->nonce != nonce) {
        in_reject(in, "frame without or against its HELLO");
    } else {
        c->cfg.events.frame(c->cfg.events.user, from, type, body, len);
    }
}

/* @return bytes of the frame at @p with its header, 0 when more must arrive, negative to reject. */
static int64_t in_measure(struct incoming *in, const uint8_t *p, size_t have)
{
    struct uvc *c = in->c;
    if (have < FRAME_HEAD) {
        return 0;
    }
    uint32_t len = rguard__get32(p + 8);
    uint16_t type = (uint16_t)(rguard__get32(p + 4) >> 16);
    size_t cap = c->cfg.max_frame;
    if (rguard__get32(p) != FRAME_MAGIC) {
        return RGUARD_EPROTO;
    }
    if ((rguard__get32(p + 4) & 0xffffu) != FRAME_VERSION) {
        return RGUARD_EUNSUPPORTED;
    }
    if (in->peer == NULL) {
        cap = RGUARD_MAX_ADDRESS; /* nothing but HELLO is expected */
    } else if (type == RAFT_IO_INSTALL_SNAPSHOT) {
        cap = c->cfg.max_snapshot;
    }
    return len > cap ? RGUARD_ETOOBIG : (int64_t)len + FRAME_HEAD;
}

static void in_parse(struct incoming *in)
{
    size_t at = 0;
    while (!in->closing && !in->c->closing) {
        int64_t n = in_measure(in, in->buf + at, in->have - at);
        if (n < 0) {
            in_reject(in, n == RGUARD_EUNSUPPORTED ? "peer speaks another version of the protocol"
                          : n == RGUARD_ETOOBIG    ? "frame is longer than the limit"
                                                   : "not a raftguard frame");
            return;
        }
        if (n == 0 || (size_t)n > in->have - at) {
            break;
        }
        in_frame(in, in->buf + at, (size_t)n - FRAME_HEAD);
        at += (size_t)n;
    }
    if (at > 0) {
        memmove(in->buf, in->buf + at, in->have - at);
        in->have -= at;
    }
}

static void in_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct incoming *in = h->data;
    (void)suggested;
    if (in->have == in->cap) { /* full of bytes that did arrive: double */
        size_t cap = in->cap == 0 ? FIRST_BUFFER : in->cap * 2;
        uint8_t *bytes = realloc(in->buf, cap);
        if (bytes == NULL) {
            *buf = uv_buf_init(NULL, 0); /* libuv reports UV_ENOBUFS */
            return;
        }
        in->buf = bytes;
        in->cap = cap;
    } else if (in->have == 0 && in->cap > (4u << 20)) { /* give a snapshot's memory back */
        uint8_t *bytes = realloc(in->buf, FIRST_BUFFER);
        if (bytes != NULL) {
            in->buf = bytes;
            in->cap = FIRST_BUFFER;
        }
    }
    *buf = uv_buf_init((char *)in->buf + in->have, (unsigned)(in->cap - in->have));
}

static void on_in_read(uv_stream_t *s, ssize_t n, const uv_buf_t *buf)
{
    struct incoming *in = s->data;
    (void)buf;
    if (n < 0) {
        in_close(in);
        return;
    }
    in->have += (size_t)n;
    in_parse(in);
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct uvc *c = listener->data;
    if (status != 0 || c->closing) {
        return;
    }
    struct incoming *in = calloc(1, sizeof *in);
    if (in == NULL || uv_tcp_init(c->loop, &in->tcp) != 0) {
        free(in);
        return;
    }
    c->refs++;
    c->n_incoming++;
    in->c = c;
    in->tcp.data = in;
    in->next = c->incoming;
    c->incoming = in;
    if (uv_accept(listener, (uv_stream_t *)&in->tcp) != 0) {
        in_close(in);
    } else if (c->n_incoming > MAX_INCOMING) {
        in_reject(in, "too many connections");
    } else {
        uv_tcp_nodelay(&in->tcp, 1);
        if (uv_read_start((uv_stream_t *)&in->tcp, in_alloc, on_in_read) != 0) {
            in_close(in);
        }
    }
}

/* ---- notices, timers, descriptor, work ------------------------------------------------------- */

static void udp_alloc(uv_handle_t *h, size_t suggested, uv_buf_t *buf)
{
    struct uvc *c = h->data;
    (void)suggested;
    *buf = uv_buf_init(c->datagram, sizeof c->datagram);
}

static void on_datagram(uv_udp_t *u, ssize_t n, const uv_buf_t *buf, const struct sockaddr *from,
                        unsigned flags)
{
    struct uvc *c = u->data;
    if (n > 0 && from != NULL && (flags & UV_UDP_PARTIAL) == 0 && !c->closing) {
        c->cfg.events.notice(c->cfg.events.user, (const uint8_t *)buf->base, (size_t)n);
    }
}

static void on_timer(uv_timer_t *t)
{
    struct uvc *c = t->data;
    c->cfg.events.timer(c->cfg.events.user, (enum rguard_timer)(t - c->timers));
}

static void uvc_arm(struct rguard_channel *base, enum rguard_timer which, uint64_t ms)
{
    struct uvc *c = uvc_of(base);
    if (!c->closing) {
        uv_update_time(c->loop);
        uv_timer_start(&c->timers[which], on_timer, ms, 0);
    }
}

static void uvc_disarm(struct rguard_channel *base, enum rguard_timer which)
{
    struct uvc *c = uvc_of(base);
    if (!c->closing) {
        uv_timer_stop(&c->timers[which]);
    }
}

static uint64_t uvc_now_ms(struct rguard_channel *base)
{
    (void)base;
    return uv_hrtime() / 1000000u;
}

/* splitmix64; seeded from getrandom. @source Steele, Lea, Flood 2014. */
static uint32_t uvc_random(struct rguard_channel *base)
{
    uint64_t z = (uvc_of(base)->rng += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 16);
}

static void on_readable(uv_poll_t *p, int status, int events)
{
    struct uvc *c = p->data;
    (void)status;
    (void)events;
    c->cfg.events.readable(c->cfg.events.user);
}

static int uvc_watch(struct rguard_channel *base, int fd)
{
    struct uvc *c = uvc_of(base);
    if (fd < 0) {
        return 0;
    }
    int rv = uv_poll_init(c->loop, &c->poll, fd);
    if (rv != 0) {
        return rv;
    }
    c->poll.data = c;
    c->polling = true;
    c->refs++;
    return uv_poll_start(&c->poll, UV_READABLE, on_readable);
}

static void work_run(uv_work_t *req)
{
    struct work_item *w = req->data;
    w->work(w->user);
}

static void work_done(uv_work_t *req, int status)
{
    struct work_item *w = req->data;
    struct uvc *c = w->c;
    (void)status;
    w->done(w->user); /* also while closing: it releases what it holds */
    free(w);
    unref(c);
}

static int uvc_work(struct rguard_channel *base, void (*work)(void *), void (*done)(void *),
                    void *user)
{
    struct uvc *c = uvc_of(base);
    struct work_item *w = malloc(sizeof *w);
    if (w == NULL) {
        return -ENOMEM;
    }
    *w = (struct work_item){.c = c, .work = work, .done = done, .user = user};
    w->req.data = w;
    int rv = uv_queue_work(c->loop, &w->req, work_run, work_done);
    if (rv != 0) {
        free(w);
        return rv;
    }
    c->refs++;
    return 0;
}

static uint64_t uvc_nonce(struct rguard_channel *base, uint64_t id)
{
    struct peer *p = find_peer(uvc_of(base), id);
    return p != NULL ? p->nonce : 0;
}

static const char *uvc_announced(struct rguard_channel *base, uint64_t id)
{
    struct peer *p = find_peer(uvc_of(base), id);
    return p != NULL && p->announced[0] != '\0' ? p->announced : NULL;
}

static unsigned uvc_connected(struct rguard_channel *base)
{
    struct uvc *c = uvc_of(base);
    unsigned n = 0;
    for (unsigned i = 0; i < c->n_peers; i++) {
        n += c->peers[i]->up && c->peers[i]->in != NULL;
    }
    return n;
}

static uint64_t uvc_bad_frames(struct rguard_channel *base)
{
    return uvc_of(base)->bad_frames;
}

static int uvc_notice_fd(struct rguard_channel *base, uint64_t id)
{
    struct peer *p = find_peer(uvc_of(base), id);
    return p != NULL ? p->notice_fd : -1;
}

/* ---- life ------------------------------------------------------------------------------------ */

static int uvc_start(struct rguard_channel *base)
{
    struct uvc *c = uvc_of(base);
    c->started = true;
    for (unsigned i = 0; i < c->n_peers; i++) {
        peer_connect(c->peers[i]);
    }
    return 0;
}

static void uvc_close(struct rguard_channel *base, void (*closed)(void *), void *user)
{
    struct uvc *c = uvc_of(base);
    RGUARD_ASSERT(!c->closing);
    c->closing = true;
    c->closed = closed;
    c->closed_user = user;
    uv_close((uv_handle_t *)&c->listener, embedded_closed);
    uv_close((uv_handle_t *)&c->udp, embedded_closed);
    if (c->polling) {
        uv_close((uv_handle_t *)&c->poll, embedded_closed);
    }
    for (int i = 0; i < RGUARD_TIMER_COUNT; i++) {
        uv_close((uv_handle_t *)&c->timers[i], embedded_closed);
    }
    for (unsigned i = 0; i < c->n_peers; i++) {
        struct peer *p = c->peers[i];
        p->retry.data = c;
        uv_close((uv_handle_t *)&p->retry, embedded_closed);
        peer_drop(p);
        if (p->notice_fd >= 0) {
            close(p->notice_fd);
        }
    }
    for (struct incoming *in = c->incoming; in != NULL; in = in->next) {
        in_close(in);
    }
}

static const struct rguard_channel_ops ops = {
    .start = uvc_start,
    .peer = uvc_peer,
    .send = uvc_send,
    .nonce = uvc_nonce,
    .announced = uvc_announced,
    .connected = uvc_connected,
    .bad_frames = uvc_bad_frames,
    .notice_fd = uvc_notice_fd,
    .arm = uvc_arm,
    .disarm = uvc_disarm,
    .now_ms = uvc_now_ms,
    .random = uvc_random,
    .watch = uvc_watch,
    .work = uvc_work,
    .close = uvc_close,
};

static int bind_sockets(struct uvc *c)
{
    const struct sockaddr *sa = (const struct sockaddr *)&c->self;
    int rv = uv_tcp_bind(&c->listener, sa, 0);
    if (rv == 0) {
        rv = uv_listen((uv_stream_t *)&c->listener, 128, on_connection);
    }
    if (rv == 0) {
        rv = uv_udp_bind(&c->udp, sa, 0);
    }
    if (rv == 0) {
        rv = uv_udp_recv_start(&c->udp, udp_alloc, on_datagram);
    }
    return rv;
}

int rguard__channel_uv(uv_loop_t *loop, const struct rguard_channel_config *config,
                       struct rguard_channel **out)
{
    struct uvc *c = calloc(1, sizeof *c);
    if (c == NULL) {
        return -ENOMEM;
    }
    c->base.ops = &ops;
    c->cfg = *config;
    c->loop = loop;
    int rv = parse_address(config->address, &c->self);
    if (rv == 0 && getrandom(&c->rng, sizeof c->rng, 0) != (ssize_t)sizeof c->rng) {
        rv = -EIO;
    }
    if (rv != 0) {
        free(c);
        return rv;
    }
    uv_tcp_init(loop, &c->listener);
    uv_udp_init(loop, &c->udp);
    c->listener.data = c->udp.data = c;
    c->refs = 2 + RGUARD_TIMER_COUNT;
    for (int i = 0; i < RGUARD_TIMER_COUNT; i++) {
        uv_timer_init(loop, &c->timers[i]);
        c->timers[i].data = c;
    }
    rv = bind_sockets(c);
    if (rv != 0) {
        uvc_close(&c->base, NULL, NULL);
        return rv;
    }
    *out = &c->base;
    return 0;
}
