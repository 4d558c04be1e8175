/* SPDX-License-Identifier: Apache-2.0 */
/* The writers and the probe.
 *
 * Invariant: an operation is PENDING exactly while it stands in the queue of one connection; the
 * server answers in order, so the head of the queue owns the next reply. When a connection ends,
 * everything in its queue becomes LOST: whether those writes took effect is not known.
 *
 *     clock of node k --due--> [out buffer] --send--> node k --recv--> [in buffer] --> queue head
 *                                  queue: op, op, op ...
 */
#include "load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "reply.h"
#include "stats.h"
#include "text.h"

#define RECONNECT_NS 1000000u
#define MAX_OUT      (1u << 20) /* of a node that does not read; arrivals count as DOWN beyond */
#define VALUE_BYTES  64

enum state { CLOSED, CONNECTING, OPEN };

struct conn
{
    unsigned node, port;
    int fd, state;
    uint64_t retry_ns;       /* CLOSED: when to try again */
    uint64_t next_ns;        /* next arrival, UINT64_MAX: none */
    uint64_t period_ns, rng; /* mean time between arrivals and its jitter */
    bool probe;
    uint64_t count;
    char *out, *in;
    size_t out_len, out_cap, in_len, in_cap;
    uint32_t *queue; /* seq of what is in flight, oldest at head */
    size_t head, tail, queue_cap;
};

struct cv_load
{
    unsigned nodes, run;
    bool stopped;
    uint64_t acked;
    struct cv_history *history;
    struct conn conns[CV_MAX_NODES + 1]; /* the last one probes */
};

int cv_load_key(char *buf, size_t cap, unsigned run, uint32_t seq)
{
    return snprintf(buf, cap, "op:%u:%u", run, seq);
}

int cv_load_register(char *buf, size_t cap, unsigned run)
{
    return snprintf(buf, cap, "reg:%u", run);
}

int cv_load_value(char *buf, size_t cap, unsigned run, uint32_t seq)
{
    int n = snprintf(buf, cap, "=%u.%u=", run, seq);
    return n + snprintf(buf + n, cap - (size_t)n, "%.*s", VALUE_BYTES - n,
                        "................................................................");
}

int64_t cv_load_find(const char *data, size_t len, unsigned run, size_t *at)
{
    char mark[24];
    size_t m = (size_t)snprintf(mark, sizeof mark, "=%u.", run);
    while (*at < len) {
        const char *p = memmem(data + *at, len - *at, mark, m);
        if (p == NULL) {
            break;
        }
        const char *end = data + len;
        const char *q = p + m;
        int64_t seq = 0;
        while (q < end && *q >= '0' && *q <= '9' && seq < UINT32_MAX) {
            seq = seq * 10 + (*q++ - '0');
        }
        *at = (size_t)(p - data) + 1;
        if (q < end && q > p + m && *q == '=' && seq <= UINT32_MAX) {
            *at = (size_t)(q - data) + 1;
            return seq;
        }
    }
    return -1;
}

/* ---- connection ------------------------------------------------------------------------------ */

static void conn_down(struct cv_load *l, struct conn *c, uint64_t now)
{
    if (c->fd >= 0) {
        close(c->fd);
    }
    for (; c->head != c->tail; c->head++) {
        struct cv_op *op = &l->history->v[c->queue[c->head % c->queue_cap]];
        op->outcome = CV_LOST;
        op->reply = now;
    }
    c->fd = -1;
    c->state = CLOSED;
    c->retry_ns = now + RECONNECT_NS;
    c->out_len = c->in_len = 0;
}

static void conn_up(struct cv_load *l, struct conn *c, uint64_t now)
{
    if (c->state == CLOSED && now >= c->retry_ns) {
        c->fd = cv_connect_start(c->port);
        c->state = CONNECTING;
        if (c->fd < 0) {
            conn_down(l, c, now);
        }
    }
    if (c->state != CONNECTING) {
        return;
    }
    struct pollfd p = {.fd = c->fd, .events = POLLOUT};
    int err = 0;
    socklen_t n = sizeof err;
    if (poll(&p, 1, 0) == 1) {
        if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &n) != 0 || err != 0) {
            conn_down(l, c, now);
        } else {
            c->state = OPEN;
        }
    }
}

static void conn_flush(struct cv_load *l, struct conn *c, uint64_t now)
{
    if (c->state != OPEN || c->out_len == 0) {
        return;
    }
    ssize_t n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);
    if (n < 0) {
        if (errno != EAGAIN) {
            conn_down(l, c, now);
        }
        return;
    }
    memmove(c->out, c->out + n, c->out_len - (size_t)n);
    c->out_len -= (size_t)n;
}

static void answered(struct cv_load *l, struct cv_op *op, const struct cv_reply *r, uint64_t now)
{
    op->reply = now;
    if (r->type == '-') {
        op->outcome = cv_resp_is(r, "MOVED") ? CV_MOVED : CV_ERROR;
        return;
    }
    op->outcome = CV_OK;
    if (op->kind == CV_GET_REGISTER) {
        size_t at = 0;
        op->value = r->nil ? -1 : cv_load_find(r->text, r->len, l->run, &at);
    } else {
        l->acked++;
    }
}

static void conn_read(struct cv_load *l, struct conn *c)
{
    while (c->state == OPEN) {
        if (c->in_cap - c->in_len < 4096) {
            c->in_cap = c->in_cap * 2 + 16384;
            c->in = cv_grow(c->in, c->in_cap);
        }
        ssize_t n = recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, 0);
        uint64_t now = cv_now();
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN) {
                conn_down(l, c, now);
            }
            return;
        }
        c->in_len += (size_t)n;
        size_t used = 0;
        struct cv_reply r;
        long took = 0;
        while (c->head != c->tail &&
               (took = cv_resp_parse(c->in + used, c->in_len - used, &r)) > 0) {
            answered(l, &l->history->v[c->queue[c->head++ % c->queue_cap]], &r, now);
            used += (size_t)took;
        }
        memmove(c->in, c->in + used, c->in_len - used);
        c->in_len -= used;
        if (took < 0 || (c->head == c->tail && c->in_len != 0)) {
            conn_down(l, c, now); /* not RESP, or an answer that nobody asked for */
        }
    }
}

/* ---- arrivals -------------------------------------------------------------------------------- */

static void queue_push(struct conn *c, uint32_t seq)
{
    if (c->tail - c->head == c->queue_cap) {
        size_t cap = c->queue_cap == 0 ? 256 : c->queue_cap * 2;
        uint32_t *q = cv_grow(NULL, cap * sizeof *q);
        size_t n = 0;
        for (size_t i = c->head; i != c->tail; i++) {
            q[n++] = c->queue[i % c->queue_cap];
        }
        free(c->queue);
        c->queue = q;
        c->queue_cap = cap;
        c->head = 0;
        c->tail = n;
    }
    c->queue[c->tail++ % c->queue_cap] = seq;
}

static void append(struct conn *c, const char *data, size_t len)
{
    if (c->out_cap - c->out_len < len) {
        c->out_cap = (c->out_len + len) * 2;
        c->out = cv_grow(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
}

static void arrive(struct cv_load *l, struct conn *c, uint64_t now)
{
    struct cv_history *h = l->history;
    h->v = cv_reserve(h->v, h->n, &h->cap, sizeof *h->v);
    uint32_t seq = (uint32_t)h->n;
    struct cv_op *op = &h->v[h->n++];
    *op = (struct cv_op){.invoke = now, .seq = seq, .node = (uint8_t)c->node, .value = -1};
    op->kind = c->probe ? CV_GET_REGISTER : c->count++ % 4 == 3 ? CV_SET_REGISTER : CV_SET;
    if (c->state != OPEN || c->out_len > MAX_OUT) {
        op->outcome = CV_DOWN;
        op->reply = now;
        return;
    }
    char key[40], value[VALUE_BYTES + 1], cmd[256];
    int k = op->kind == CV_SET ? cv_load_key(key, sizeof key, l->run, seq)
                               : cv_load_register(key, sizeof key, l->run);
    int n;
    if (op->kind == CV_GET_REGISTER) {
        n = snprintf(cmd, sizeof cmd, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", k, key);
    } else {
        int v = cv_load_value(value, sizeof value, l->run, seq);
        n = snprintf(cmd, sizeof cmd, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", k, key, v,
                     value);
    }
    append(c, cmd, (size_t)n);
    queue_push(c, seq);
}

/* 0.5 to 1.5 periods: no two clocks stay in step. */
static uint64_t gap(struct conn *c)
{
    return c->period_ns / 2 + cv_random(&c->rng) % c->period_ns;
}

struct cv_load *cv_load_open(unsigned nodes, const unsigned *ports, unsigned run, uint64_t seed,
                             struct cv_history *history)
{
    struct cv_load *l = cv_grow(NULL, sizeof *l);
    *l = (struct cv_load){.nodes = nodes, .run = run, .history = history};
    uint64_t now = cv_now();
    for (unsigned n = 0; n <= nodes; n++) {
        struct conn *c = &l->conns[n];
        *c = (struct conn){.node = n + 1, .fd = -1, .retry_ns = now, .rng = seed + n};
        c->probe = n == nodes;
        c->port = c->probe ? 0 : ports[n];
        c->period_ns = 1000000000u / (c->probe ? CV_PROBE_RATE : CV_RATE_PER_NODE);
        c->next_ns = c->probe ? UINT64_MAX : now + gap(c);
        c->retry_ns = c->probe ? UINT64_MAX : now;
    }
    return l;
}

void cv_load_probe(struct cv_load *l, unsigned node)
{
    struct conn *c = &l->conns[l->nodes];
    c->node = node;
    c->port = l->conns[node - 1].port;
    c->retry_ns = cv_now();
    c->next_ns = c->retry_ns + gap(c);
}

void cv_load_stop(struct cv_load *l)
{
    l->stopped = true;
}

size_t cv_load_pending(const struct cv_load *l)
{
    size_t n = 0;
    for (unsigned i = 0; i <= l->nodes; i++) {
        n += l->conns[i].tail - l->conns[i].head;
    }
    return n;
}

size_t cv_load_turn(struct cv_load *l, struct pollfd *p)
{
    size_t used = 0;
    for (unsigned i = 0; i <= l->nodes; i++) {
        struct conn *c = &l->conns[i];
        conn_read(l, c);
        uint64_t now = cv_now();
        conn_up(l, c, now);
        while (!l->stopped && now >= c->next_ns) {
            arrive(l, c, now);
            c->next_ns += gap(c);
        }
        conn_flush(l, c, now);
        if (c->fd >= 0) {
            short want = c->state == CONNECTING || c->out_len != 0 ? POLLOUT : 0;
            p[used++] = (struct pollfd){.fd = c->fd, .events = (short)(POLLIN | want)};
        }
    }
    return used;
}

uint64_t cv_load_due(const struct cv_load *l)
{
    uint64_t due = UINT64_MAX;
    for (unsigned i = 0; i <= l->nodes; i++) {
        const struct conn *c = &l->conns[i];
        uint64_t t = c->state == CLOSED ? c->retry_ns : UINT64_MAX;
        t = !l->stopped && c->next_ns < t ? c->next_ns : t;
        due = t < due ? t : due;
    }
    return due;
}

uint64_t cv_load_acked(const struct cv_load *l)
{
    return l->acked;
}

void cv_load_close(struct cv_load *l)
{
    if (l == NULL) {
        return;
    }
    for (unsigned i = 0; i <= l->nodes; i++) {
        struct conn *c = &l->conns[i];
        if (c->fd >= 0) {
            close(c->fd);
        }
        free(c->out);
        free(c->in);
        free(c->queue);
    }
    free(l);
}
