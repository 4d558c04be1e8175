/* SPDX-License-Identifier: Apache-2.0 */

/* The request parser and the reply writer.
 *
 *     request = "*" argc CRLF { "$" length CRLF bytes CRLF }        an array of bulk strings
 *             | words separated by blanks, "quoted" or 'quoted', LF   inline, for humans with
 * telnet
 *
 *     buf   | consumed | understood | not looked at | free |
 *           0        start      start + pos        len    cap
 *
 * Invariant: memory follows the bytes that arrived. A length only ever decides how many more bytes
 * are waited for, and every length has a cap, so a peer that announces a gigabyte costs nothing.
 * The first malformed byte ends the conversation: after it no byte can be trusted to be a start. */

#include "resp.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_ROOM  (16u << 10) /* smallest read that is offered to the socket */
#define KEEP_CAP   (64u << 10) /* an idle connection keeps no more than this */
#define MAX_HEADER 32          /* "*1024", "$1048576": longer is garbage */
#define FIRST_ARGS 8

static int next_array(struct resp_parser *p);
static int next_inline(struct resp_parser *p);

void resp_init(struct resp_parser *p)
{
    memset(p, 0, sizeof *p);
    p->bulk = -1;
}

void resp_free(struct resp_parser *p)
{
    free(p->buf);
    free(p->args);
    resp_init(p);
}

size_t resp_pending(const struct resp_parser *p)
{
    return p->len - p->start;
}

int resp_reserve(struct resp_parser *p, char **where, size_t *room)
{
    if (p->start > 0) {
        memmove(p->buf, p->buf + p->start, p->len - p->start);
        p->len -= p->start;
        p->start = 0;
    }
    bool shrink = p->len < READ_ROOM && p->cap > KEEP_CAP;
    if (shrink || p->cap - p->len < READ_ROOM) {
        size_t cap = shrink ? KEEP_CAP : p->len + (p->len < READ_ROOM ? READ_ROOM : p->len);
        char *buf = realloc(p->buf, cap);
        if (buf == NULL) {
            return -ENOMEM;
        }
        p->buf = buf;
        p->cap = cap;
    }
    *where = p->buf + p->len;
    *room = p->cap - p->len;
    return 0;
}

void resp_received(struct resp_parser *p, size_t n)
{
    p->len += n;
}

/* Forgets the request at start, which has been understood up to pos. */
static void consume(struct resp_parser *p)
{
    p->start += p->pos;
    p->pos = 0;
    p->scan = 0;
    p->want = 0;
    p->bulk = -1;
    p->argc = 0;
    if (p->start == p->len) {
        p->start = p->len = 0;
    }
}

static int fail(struct resp_parser *p, const char *why)
{
    p->error = why;
    return RESP_ERROR;
}

int resp_next(struct resp_parser *p, struct resp_request *out)
{
    int status = RESP_REQUEST;
    if (p->want == 0 && p->argc > 0) {
        consume(p); /* the request handed out last time */
    }
    do {
        if (p->error != NULL) {
            return RESP_ERROR;
        }
        if (resp_pending(p) == 0) {
            return RESP_MORE;
        }
        if (p->buf[p->start] == '*') {
            status = next_array(p);
        } else {
            status = next_inline(p);
        }
        if (status == RESP_REQUEST && p->argc == 0) {
            consume(p); /* an empty line or "*0": nothing was asked */
        }
    } while (status == RESP_REQUEST && p->argc == 0);
    if (status != RESP_REQUEST) {
        return status;
    }
    for (unsigned i = 0; i < p->argc; i++) {
        p->args[i].data = p->buf + p->start + p->args[i].offset;
    }
    out->argc = p->argc;
    out->argv = p->args;
    return RESP_REQUEST;
}

/* The line at pos. RESP_REQUEST: it ends at offset *@end (of its LF); RESP_MORE or RESP_ERROR. */
static int find_line(struct resp_parser *p, size_t max, const char *too_long, size_t *end)
{
    size_t from = p->start + p->pos + p->scan;
    const char *lf = from < p->len ? memchr(p->buf + from, '\n', p->len - from) : NULL;
    size_t length = (lf != NULL ? (size_t)(lf - p->buf) : p->len) - (p->start + p->pos);
    if (length > max) {
        return fail(p, too_long);
    }
    if (lf == NULL) {
        p->scan = length;
        return RESP_MORE;
    }
    p->scan = 0;
    *end = p->pos + length;
    return RESP_REQUEST;
}

/* The header at pos, one type byte already known: its number goes to *@value. */
static int read_header(struct resp_parser *p, int64_t max, const char *invalid, int64_t *value)
{
    size_t end = 0;
    int status = find_line(p, MAX_HEADER, invalid, &end);
    if (status != RESP_REQUEST) {
        return status;
    }
    const char *s = p->buf + p->start + p->pos + 1;
    const char *stop = p->buf + p->start + end;
    if (stop == s || *--stop != '\r') {
        return fail(p, invalid);
    }
    bool negative = s < stop && *s == '-';
    s += negative ? 1 : 0;
    if (s == stop) {
        return fail(p, invalid);
    }
    int64_t v = 0;
    for (; s < stop; s++) {
        if (*s < '0' || *s > '9') {
            return fail(p, invalid);
        }
        v = v * 10 + (*s - '0');
        if (v > max) {
            return fail(p, invalid);
        }
    }
    *value = negative ? -v : v;
    p->pos = end + 1;
    return RESP_REQUEST;
}

static int add_arg(struct resp_parser *p, size_t offset, size_t len)
{
    if (p->argc == p->args_cap) {
        unsigned cap = p->args_cap == 0 ? FIRST_ARGS : p->args_cap * 2;
        struct resp_arg *args = realloc(p->args, cap * sizeof *args);
        if (args == NULL) {
            return RESP_NOMEM;
        }
        p->args = args;
        p->args_cap = cap;
    }
    p->args[p->argc++] = (struct resp_arg){.offset = offset, .len = len};
    return RESP_REQUEST;
}

/* Takes the argument at pos when all of its bytes are there. */
static int next_bulk(struct resp_parser *p)
{
    if (p->bulk < 0) {
        if (p->start + p->pos == p->len) {
            return RESP_MORE;
        }
        if (p->buf[p->start + p->pos] != '$') {
            return fail(p, "expected '$'");
        }
        int64_t length = 0;
        int status = read_header(p, RESP_MAX_BULK, "invalid bulk length", &length);
        if (status != RESP_REQUEST) {
            return status;
        }
        if (length < 0) {
            return fail(p, "invalid bulk length");
        }
        if (p->pos + (size_t)length + 2 > RESP_MAX_REQUEST) {
            return fail(p, "request too big");
        }
        p->bulk = length;
    }
    size_t have = p->len - p->start - p->pos;
    size_t length = (size_t)p->bulk;
    if (have < length + 2) {
        return RESP_MORE;
    }
    const char *end = p->buf + p->start + p->pos + length;
    if (end[0] != '\r' || end[1] != '\n') {
        return fail(p, "expected CRLF after bulk string");
    }
    int status = add_arg(p, p->pos, length);
    if (status == RESP_REQUEST) {
        p->pos += length + 2;
        p->bulk = -1;
        p->want--;
    }
    return status;
}

static int next_array(struct resp_parser *p)
{
    if (p->pos == 0) {
        int64_t n = 0;
        int status = read_header(p, RESP_MAX_ARGS, "invalid multibulk length", &n);
        if (status != RESP_REQUEST) {
            return status;
        }
        p->want = n > 0 ? (unsigned)n : 0;
    }
    int status = RESP_REQUEST;
    while (p->want > 0 && status == RESP_REQUEST) {
        status = next_bulk(p);
    }
    return status;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Decodes the escape behind a backslash at s[0]; returns how many bytes it took. */
static size_t unescape(const char *s, const char *end, char *out)
{
    static const char from[] = "nrtba", to[] = "\n\r\t\b\a";
    if (end - s >= 3 && s[0] == 'x' && hex_digit(s[1]) >= 0 && hex_digit(s[2]) >= 0) {
        *out = (char)(hex_digit(s[1]) * 16 + hex_digit(s[2]));
        return 3;
    }
    const char *known = *s != '\0' ? strchr(from, *s) : NULL;
    *out = known != NULL ? to[known - from] : *s;
    return 1;
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\v' || c == '\f' || c == '\0';
}

/* One word of [*at, end), unquoted in place (that never makes it longer). Its length, or -1 when a
 * quote is not closed or is followed by more than a blank. */
static int64_t take_word(char **at, char *end)
{
    char *r = *at;
    char *w = *at;
    char quote = '\0';
    while (r < end && (quote != '\0' || !is_blank(*r))) {
        if (quote == '\0' && (*r == '"' || *r == '\'')) {
            quote = *r++;
        } else if (quote != '\0' && *r == quote) {
            quote = '\0';
            r++;
            if (r < end && !is_blank(*r)) {
                return -1;
            }
        } else if (quote == '"' && *r == '\\' && r + 1 < end) {
            r += 1 + unescape(r + 1, end, w++);
        } else if (quote == '\'' && *r == '\\' && r + 1 < end && r[1] == '\'') {
            *w++ = '\'';
            r += 2;
        } else {
            *w++ = *r++;
        }
    }
    int64_t length = quote == '\0' ? w - *at : -1;
    *at = r;
    return length;
}

static int next_inline(struct resp_parser *p)
{
    size_t end = 0;
    int status = find_line(p, RESP_MAX_INLINE, "too big inline request", &end);
    if (status != RESP_REQUEST) {
        return status;
    }
    char *base = p->buf + p->start;
    char *s = base;
    while (status == RESP_REQUEST) {
        while (s < base + end && is_blank(*s)) {
            s++;
        }
        if (s == base + end) {
            break;
        }
        char *word = s;
        int64_t length = take_word(&s, base + end);
        if (length < 0) {
            return fail(p, "unbalanced quotes in request");
        }
        if (p->argc == RESP_MAX_ARGS) {
            return fail(p, "too many arguments in inline request");
        }
        status = add_arg(p, (size_t)(word - base), (size_t)length);
    }
    p->pos = end + 1;
    return status;
}

/* ---- replies --------------------------------------------------------------------------------- */

void resp_out_free(struct resp_out *o)
{
    free(o->data);
    memset(o, 0, sizeof *o);
}

void resp_raw(struct resp_out *o, const void *data, size_t len)
{
    if (o->failed || len == 0) {
        return;
    }
    if (o->cap - o->len < len) {
        size_t cap = o->cap < 512 ? 1024 : o->cap * 2;
        cap = cap < o->len + len ? o->len + len : cap;
        char *grown = realloc(o->data, cap);
        if (grown == NULL) {
            o->failed = 1;
            return;
        }
        o->data = grown;
        o->cap = cap;
    }
    memcpy(o->data + o->len, data, len);
    o->len += len;
}

static void put_number(struct resp_out *o, char type, int64_t value)
{
    char line[32];
    int n = snprintf(line, sizeof line, "%c%lld\r\n", type, (long long)value);
    resp_raw(o, line, (size_t)n);
}

void resp_simple(struct resp_out *o, const char *text)
{
    resp_raw(o, "+", 1);
    resp_raw(o, text, strlen(text));
    resp_raw(o, "\r\n", 2);
}

void resp_error(struct resp_out *o, const char *fmt, ...)
{
    char text[256];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)text[i] < ' ') {
            text[i] = ' '; /* a line end from the request must not end the reply */
        }
    }
    resp_raw(o, "-", 1);
    resp_raw(o, text, len);
    resp_raw(o, "\r\n", 2);
}

void resp_integer(struct resp_out *o, int64_t value)
{
    put_number(o, ':', value);
}

void resp_bulk(struct resp_out *o, const void *data, size_t len)
{
    put_number(o, '$', (int64_t)len);
    resp_raw(o, data, len);
    resp_raw(o, "\r\n", 2);
}

void resp_null(struct resp_out *o)
{
    resp_raw(o, "$-1\r\n", 5);
}

void resp_array(struct resp_out *o, size_t n)
{
    put_number(o, '*', (int64_t)n);
}
