/* SPDX-License-Identifier: Apache-2.0 */
/* Text that grows, files that appear whole, JSON that is always well formed as long as every open
 * has its close. */
#include "text.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void *cv_grow(void *p, size_t bytes)
{
    void *q = realloc(p, bytes);
    if (q == NULL) {
        fputs("rguard-converge: memory: none left\n", stderr);
        exit(1);
    }
    return q;
}

void *cv_reserve(void *p, size_t n, size_t *cap, size_t size)
{
    if (n < *cap) {
        return p;
    }
    *cap = *cap == 0 ? 64 : *cap * 2;
    return cv_grow(p, *cap * size);
}

void cv_text_add(struct cv_text *t, const char *fmt, ...)
{
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n > 0) {
        if (t->len + (size_t)n + 1 > t->cap) {
            t->cap = (t->len + (size_t)n + 1) * 2;
            t->data = cv_grow(t->data, t->cap);
        }
        vsnprintf(t->data + t->len, (size_t)n + 1, fmt, again);
        t->len += (size_t)n;
    }
    va_end(again);
}

void cv_text_free(struct cv_text *t)
{
    free(t->data);
    *t = (struct cv_text){0};
}

int cv_text_save(const struct cv_text *t, const char *path)
{
    char tmp[4200];
    if ((size_t)snprintf(tmp, sizeof tmp, "%s.tmp", path) >= sizeof tmp) {
        return -ENAMETOOLONG;
    }
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0) {
        return -errno;
    }
    int rv = 0;
    for (size_t done = 0; done < t->len;) {
        ssize_t n = write(fd, t->data + done, t->len - done);
        if (n < 0) {
            rv = -errno;
            break;
        }
        done += (size_t)n;
    }
    if (close(fd) != 0 && rv == 0) {
        rv = -errno;
    }
    if (rv == 0 && rename(tmp, path) != 0) {
        rv = -errno;
    }
    if (rv != 0) {
        unlink(tmp);
    }
    return rv;
}

void cv_text_html(struct cv_text *t, const char *s)
{
    for (; *s != '\0'; s++) {
        switch (*s) {
            case '&':
                cv_text_add(t, "&amp;");
                break;
            case '<':
                cv_text_add(t, "&lt;");
                break;
            case '>':
                cv_text_add(t, "&gt;");
                break;
            case '"':
                cv_text_add(t, "&quot;");
                break;
            default:
                cv_text_add(t, "%c", *s);
        }
    }
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void quoted(struct cv_text *t, const char *s)
{
    cv_text_add(t, "\"");
    for (; *s != '\0'; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') {
            cv_text_add(t, "\\%c", c);
        } else if (c < 0x20) {
            cv_text_add(t, "\\u%04x", c);
        } else {
            cv_text_add(t, "%c", c);
        }
    }
    cv_text_add(t, "\"");
}

/* Comma, line break, indentation and key: everything that stands before a value. Objects break
 * lines, arrays (key NULL) do not, so that a list of samples stays on one line. */
static void before(struct cv_json *j, const char *key)
{
    if (j->comma) {
        cv_text_add(j->out, key != NULL ? "," : ", ");
    }
    if (key != NULL) {
        cv_text_add(j->out, "\n%*s", (int)(2 * j->depth), "");
        quoted(j->out, key);
        cv_text_add(j->out, ": ");
    }
    j->comma = true;
}

void cv_json_open(struct cv_json *j, const char *key, char bracket)
{
    before(j, key);
    cv_text_add(j->out, "%c", bracket);
    j->depth++;
    j->comma = false;
}

void cv_json_close(struct cv_json *j, char bracket)
{
    j->depth--;
    if (bracket == '}' && j->comma) {
        cv_text_add(j->out, "\n%*s", (int)(2 * j->depth), "");
    }
    cv_text_add(j->out, "%c", bracket);
    j->comma = true;
    if (j->depth == 0) {
        cv_text_add(j->out, "\n");
    }
}

void cv_json_string(struct cv_json *j, const char *key, const char *value)
{
    before(j, key);
    if (value == NULL) {
        cv_text_add(j->out, "null");
    } else {
        quoted(j->out, value);
    }
}

void cv_json_uint(struct cv_json *j, const char *key, uint64_t value)
{
    before(j, key);
    cv_text_add(j->out, "%llu", (unsigned long long)value);
}

void cv_json_number(struct cv_json *j, const char *key, double value, int decimals)
{
    before(j, key);
    if (isfinite(value)) {
        cv_text_add(j->out, "%.*f", decimals, value);
    } else {
        cv_text_add(j->out, "null");
    }
}

void cv_json_bool(struct cv_json *j, const char *key, bool value)
{
    before(j, key);
    cv_text_add(j->out, value ? "true" : "false");
}
