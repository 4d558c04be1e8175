/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CV_REPLY_H
#define CV_REPLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The client's half of RESP, as much as the harness needs: simple strings, errors, integers and
 * bulk strings. */

struct cv_reply
{
    char type;        /* '+' '-' ':' '$' */
    bool nil;         /* "$-1" */
    const char *text; /* into the buffer that was parsed; not terminated */
    size_t len;
};

/* Looks for one complete reply at the start of @data. Bytes that it takes up; 0 when more are
 * needed; -1 when this is no reply of a kind we ask for, or a bulk of more than 16 MiB. */
long cv_resp_parse(const char *data, size_t len, struct cv_reply *out);

/* true when @reply begins with @word, e.g. "MOVED". */
bool cv_resp_is(const struct cv_reply *reply, const char *word);

/* The value of "name:" in an INFO text. false: no such line. */
bool cv_info_text(const char *info, const char *name, char *buf, size_t cap);
bool cv_info_uint(const char *info, const char *name, int base, uint64_t *out);

/* A blocking connection to 127.0.0.1, for questions outside the load. */
struct cv_conn
{
    int fd; /* -1: closed */
    char *buf;
    size_t len, cap, used; /* used: bytes of the reply handed out last */
};

int cv_conn_open(struct cv_conn *c, unsigned port);
int cv_conn_send(struct cv_conn *c, const char *data, size_t len);
/* Next reply, by @deadline_ns at the latest. 0, -ETIMEDOUT, -EPROTO, -EPIPE, -errno. @out is valid
 * until the next call. */
int cv_conn_reply(struct cv_conn *c, uint64_t deadline_ns, struct cv_reply *out);
void cv_conn_close(struct cv_conn *c);

/* One INFO with its own connection into @buf (terminated). 0 or negative. */
int cv_info(unsigned port, unsigned timeout_ms, char *buf, size_t cap);

/* Non-blocking TCP socket on its way to 127.0.0.1:@port; negative errno. */
int cv_connect_start(unsigned port);

uint64_t cv_now(void); /* CLOCK_MONOTONIC ns */

#endif
