/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_RESP_H
#define KV_RESP_H

#include <stddef.h>
#include <stdint.h>

/* RESP, the protocol of Redis clients: requests in, replies out. No sockets here. */

#define RESP_MAX_ARGS    1024          /* arguments of one request, the command's name included */
#define RESP_MAX_BULK    (1u << 20)    /* bytes of one argument */
#define RESP_MAX_INLINE  (64u << 10)   /* bytes of one inline request */
#define RESP_MAX_REQUEST (1088u << 10) /* bytes of one request with its framing */

struct resp_arg
{
    const char *data; /* not NUL-terminated; into the parser's buffer */
    size_t len;
    size_t offset; /* of data, from the start of the request */
};

struct resp_parser
{
    char *buf; /* bytes [start, len) are not consumed yet */
    size_t start, len, cap;
    size_t pos;    /* next byte to look at, from start; all before it are understood */
    size_t scan;   /* bytes from pos on that hold no line end; so a slow line costs one pass */
    unsigned want; /* arguments still to come of the request at start, 0: none begun */
    int64_t bulk;  /* length of the argument at pos, -1: its header has not been read */
    struct resp_arg *args;
    unsigned argc, args_cap;
    const char *error; /* set once, stays */
};

struct resp_request
{
    unsigned argc;               /* at least 1 */
    const struct resp_arg *argv; /* valid until the next call with this parser */
};

void resp_init(struct resp_parser *p);
void resp_free(struct resp_parser *p);

/* Where the next bytes may be stored, at least one. The buffer grows with what has arrived, never
 * with what a length announces, and never beyond 2 * RESP_MAX_REQUEST. 0 or -ENOMEM. */
int resp_reserve(struct resp_parser *p, char **where, size_t *room);

/* @n bytes were stored there. */
void resp_received(struct resp_parser *p, size_t n);

enum resp_status {
    RESP_ERROR = -1,  /* p->error says why; the connection must be closed */
    RESP_MORE = 0,    /* nothing complete yet */
    RESP_REQUEST = 1, /* @out is filled */
    RESP_NOMEM = -2
};
int resp_next(struct resp_parser *p, struct resp_request *out);

/* Bytes that have arrived and are not consumed. */
size_t resp_pending(const struct resp_parser *p);

/* ---- replies --------------------------------------------------------------------------------- */

struct resp_out
{
    char *data;
    size_t len, cap;
    int failed; /* memory ran out: what is in data is cut, the connection must be closed */
};

void resp_out_free(struct resp_out *o);
void resp_raw(struct resp_out *o, const void *data, size_t len);
void resp_simple(struct resp_out *o, const char *text);   /* +text */
void resp_error(struct resp_out *o, const char *fmt, ...) /* -text, line ends blanked */
    __attribute__((format(printf, 2, 3)));
void resp_integer(struct resp_out *o, int64_t value);             /* :value */
void resp_bulk(struct resp_out *o, const void *data, size_t len); /* $len data */
void resp_null(struct resp_out *o);                               /* $-1 */
void resp_array(struct resp_out *o, size_t n);                    /* *n, n replies follow */

#endif
