/* SPDX-License-Identifier: Apache-2.0 */
/* Replies of a server that may die in the middle of one: everything is bounded by a length and a
 * deadline, and an incomplete reply is never taken for an answer. */
#include "reply.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "text.h"

#define MAX_BULK (16l << 20)
#define MAX_LINE 4096u

long cv_resp_parse(const char *data, size_t len, struct cv_reply *out)
{
    if (len == 0) {
        return 0;
    }
    if (strchr("+-:$", data[0]) == NULL || data[0] == '\0') {
        return -1;
    }
    const char *end = memchr(data, '\n', len < MAX_LINE ? len : MAX_LINE);
    if (end == NULL) {
        return len < MAX_LINE ? 0 : -1;
    }
    if (end[-1] != '\r' || end - data < 2) {
        return -1;
    }
    size_t line = (size_t)(end - data) + 1;
    *out = (struct cv_reply){data[0], false, data + 1, line - 3};
    if (data[0] != '$') {
        return (long)line;
    }
    char *rest;
    long n = strtol(data + 1, &rest, 10);
    if (rest != end - 1 || rest == data + 1 || n < -1 || n > MAX_BULK) {
        return -1;
    }
    if (n == -1) {
        out->nil = true;
        out->len = 0;
        return (long)line;
    }
    if (len < line + (size_t)n + 2) {
        return 0;
    }
    out->text = data + line;
    out->len = (size_t)n;
    return (long)line + n + 2;
}

bool cv_resp_is(const struct cv_reply *reply, const char *word)
{
    size_t n = strlen(word);
    return reply->len >= n && memcmp(reply->text, word, n) == 0;
}

bool cv_info_text(const char *info, const char *name, char *buf, size_t cap)
{
    size_t n = strlen(name);
    for (const char *line = info; line != NULL && *line != '\0';) {
        if (strncmp(line, name, n) == 0 && line[n] == ':') {
            size_t len = strcspn(line + n + 1, "\r\n");
            snprintf(buf, cap, "%.*s", (int)len, line + n + 1);
            return true;
        }
        line = strchr(line, '\n');
        line = line != NULL ? line + 1 : NULL;
    }
    return false;
}

bool cv_info_uint(const char *info, const char *name, int base, uint64_t *out)
{
    char buf[64];
    if (!cv_info_text(info, name, buf, sizeof buf) || buf[0] == '\0' || buf[0] == '-') {
        return false;
    }
    char *end;
    errno = 0;
    uint64_t v = strtoull(buf, &end, base);
    if (errno != 0 || *end != '\0') {
        return false;
    }
    *out = v;
    return true;
}

/* ---- connections ----------------------------------------------------------------------------- */

uint64_t cv_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int cv_connect_start(unsigned port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        return -errno;
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS) {
        int rv = -errno;
        close(fd);
        return rv;
    }
    return fd;
}

int cv_conn_open(struct cv_conn *c, unsigned port)
{
    *c = (struct cv_conn){.fd = cv_connect_start(port)};
    return c->fd < 0 ? c->fd : 0;
}

static int wait_for(int fd, short what, uint64_t deadline_ns)
{
    uint64_t now = cv_now();
    if (now >= deadline_ns) {
        return -ETIMEDOUT;
    }
    struct pollfd p = {.fd = fd, .events = what};
    int n = poll(&p, 1, (int)((deadline_ns - now) / 1000000u) + 1);
    return n > 0 ? 0 : n == 0 ? -ETIMEDOUT : -errno;
}

int cv_conn_send(struct cv_conn *c, const char *data, size_t len)
{
    uint64_t deadline = cv_now() + 2000000000u;
    for (size_t done = 0; done < len;) {
        ssize_t n = send(c->fd, data + done, len - done, MSG_NOSIGNAL);
        if (n >= 0) {
            done += (size_t)n;
            continue;
        }
        int rv = errno == EAGAIN || errno == ENOTCONN ? wait_for(c->fd, POLLOUT, deadline) : -errno;
        if (rv != 0) {
            return rv;
        }
    }
    return 0;
}

int cv_conn_reply(struct cv_conn *c, uint64_t deadline_ns, struct cv_reply *out)
{
    if (c->used != 0) {
        memmove(c->buf, c->buf + c->used, c->len - c->used);
        c->len -= c->used;
        c->used = 0;
    }
    for (;;) {
        long n = cv_resp_parse(c->buf, c->len, out);
        if (n != 0) {
            c->used = n > 0 ? (size_t)n : 0;
            return n > 0 ? 0 : -EPROTO;
        }
        if (c->cap - c->len < 4096) {
            c->cap = c->cap * 2 + 16384;
            c->buf = cv_grow(c->buf, c->cap);
        }
        ssize_t got = recv(c->fd, c->buf + c->len, c->cap - c->len, 0);
        if (got > 0) {
            c->len += (size_t)got;
            continue;
        }
        if (got == 0) {
            return -EPIPE;
        }
        int rv =
            errno == EAGAIN || errno == ENOTCONN ? wait_for(c->fd, POLLIN, deadline_ns) : -errno;
        if (rv != 0) {
            return rv;
        }
    }
}

void cv_conn_close(struct cv_conn *c)
{
    if (c->fd >= 0) {
        close(c->fd);
    }
    free(c->buf);
    *c = (struct cv_conn){.fd = -1};
}

int cv_info(unsigned port, unsigned timeout_ms, char *buf, size_t cap)
{
    static const char ask[] = "*1\r\n$4\r\nINFO\r\n";
    struct cv_conn c;
    int rv = cv_conn_open(&c, port);
    if (rv != 0) {
        return rv;
    }
    struct cv_reply r;
    rv = cv_conn_send(&c, ask, sizeof ask - 1);
    if (rv == 0) {
        rv = cv_conn_reply(&c, cv_now() + timeout_ms * 1000000ull, &r);
    }
    if (rv == 0) {
        rv = r.type == '$' && !r.nil ? 0 : -EPROTO;
    }
    if (rv == 0) {
        snprintf(buf, cap, "%.*s", (int)r.len, r.text);
    }
    cv_conn_close(&c);
    return rv;
}
