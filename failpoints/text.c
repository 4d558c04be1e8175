/* SPDX-License-Identifier: Apache-2.0 */
/* Text that grows, JSON strings in it, path templates, errors and near words. Invariant of a
 * buffer: data[0..len) is what was put so far; after memory ran out nothing more is put, and the
 * caller looks at failed once, at the end. */
#include "failpoint_internal.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool reserve(struct fp_buf *buf, size_t more);

void rguard__fp_put_bytes(struct fp_buf *buf, const char *data, size_t len)
{
    if (reserve(buf, len)) {
        memcpy(buf->data + buf->len, data, len);
        buf->len += len;
    }
}

void rguard__fp_put(struct fp_buf *buf, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    if (n >= 0 && reserve(buf, (size_t)n + 1)) {
        vsnprintf(buf->data + buf->len, (size_t)n + 1, fmt, again);
        buf->len += (size_t)n;
    }
    va_end(again);
    va_end(ap);
}

void rguard__fp_put_string(struct fp_buf *buf, const char *text)
{
    rguard__fp_put_bytes(buf, "\"", 1);
    for (; *text != '\0'; text++) {
        unsigned char byte = (unsigned char)*text;
        if (byte == '"' || byte == '\\') {
            char escaped[2] = {'\\', *text};
            rguard__fp_put_bytes(buf, escaped, 2);
        } else if (byte < 0x20 || byte == 0x7f) {
            rguard__fp_put(buf, "\\u%04x", (unsigned)byte);
        } else {
            rguard__fp_put_bytes(buf, text, 1);
        }
    }
    rguard__fp_put_bytes(buf, "\"", 1);
}

int rguard__fp_expand(const char *tmpl, const char *node, char *out, size_t cap,
                      struct rguard_fp_error *err)
{
    size_t len = 0;
    for (const char *p = tmpl; *p != '\0'; p++) {
        char piece[FP_MAX_NODE + 1] = {*p, '\0'};
        if (*p == '%') {
            p++;
            if (*p == 'p') {
                snprintf(piece, sizeof piece, "%ld", (long)getpid());
            } else if (*p == 'n' && node[0] != '\0') {
                snprintf(piece, sizeof piece, "%s", node);
            } else if (*p != '%') {
                return rguard__fp_error(
                    err, RGUARD_ESPEC, (size_t)(p - tmpl) - 1, 2, "%s",
                    *p == 'n' ? "%n needs RGUARD_FAILPOINTS_NODE" : "expected %p, %n or %%");
            }
        }
        size_t n = strlen(piece);
        if (n >= cap - len) {
            return rguard__fp_error(err, -ENAMETOOLONG, 0, 0, "path is too long");
        }
        memcpy(out + len, piece, n);
        len += n;
    }
    out[len] = '\0';
    return 0;
}

int rguard__fp_error(struct rguard_fp_error *err, int code, size_t offset, size_t length,
                     const char *fmt, ...)
{
    if (err != NULL) {
        err->offset = offset;
        err->length = length;
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err->message, sizeof err->message, fmt, ap);
        va_end(ap);
    }
    return code;
}

#define WORD_MAX 64

/* Optimal string alignment: three rows of the usual table. */
unsigned rguard__fp_distance(const char *a, size_t alen, const char *b, size_t blen)
{
    if (alen > WORD_MAX || blen > WORD_MAX) {
        return UINT_MAX;
    }
    unsigned rows[3][WORD_MAX + 1];
    for (unsigned j = 0; j <= blen; j++) {
        rows[0][j] = j;
    }
    for (unsigned i = 1; i <= alen; i++) {
        unsigned *row = rows[i % 3];
        const unsigned *up = rows[(i + 2) % 3];
        const unsigned *upup = rows[(i + 1) % 3];
        int ai = tolower((unsigned char)a[i - 1]);
        row[0] = i;
        for (unsigned j = 1; j <= blen; j++) {
            int bj = tolower((unsigned char)b[j - 1]);
            unsigned d = up[j - 1] + (ai != bj);
            d = up[j] + 1 < d ? up[j] + 1 : d;
            d = row[j - 1] + 1 < d ? row[j - 1] + 1 : d;
            if (i > 1 && j > 1 && ai == tolower((unsigned char)b[j - 2]) &&
                bj == tolower((unsigned char)a[i - 2]) && upup[j - 2] + 1 < d) {
                d = upup[j - 2] + 1;
            }
            row[j] = d;
        }
    }
    return rows[alen % 3][blen];
}

bool rguard__fp_close_enough(unsigned distance, size_t len)
{
    return distance <= 1 + len / 4 && distance < len;
}

static bool reserve(struct fp_buf *buf, size_t more)
{
    if (buf->failed) {
        return false;
    }
    if (buf->cap - buf->len >= more) {
        return true;
    }
    size_t cap = buf->cap < 512 ? 512 : buf->cap * 2;
    while (cap - buf->len < more) {
        cap *= 2;
    }
    char *data = realloc(buf->data, cap);
    if (data == NULL) {
        buf->failed = true;
        return false;
    }
    buf->data = data;
    buf->cap = cap;
    return true;
}
