/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CV_TEXT_H
#define CV_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Growing text and the JSON that is written into it. Out of memory ends the program (exit 1): the
 * harness has nothing sensible to do then, and every caller stays short. */

struct cv_text
{
    char *data; /* NUL-terminated once anything was added, else NULL */
    size_t len, cap;
};

/* realloc that does not return NULL. */
void *cv_grow(void *p, size_t bytes);

/* Room for one more element of @size bytes in an array of @n with capacity *@cap. */
void *cv_reserve(void *p, size_t n, size_t *cap, size_t size);

void cv_text_add(struct cv_text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void cv_text_free(struct cv_text *t);

/* Writes the text to @path through "<path>.tmp" and rename, so that a reader never sees a half of
 * it. 0 or -errno. */
int cv_text_save(const struct cv_text *t, const char *path);

/* Adds @s with & < > " escaped for HTML. */
void cv_text_html(struct cv_text *t, const char *s);

/* ---- JSON -------------------------------------------------------------------------------------
 * A writer that knows only where a comma belongs. @key is NULL inside arrays. Numbers that are not
 * finite become null. */

struct cv_json
{
    struct cv_text *out;
    unsigned depth;
    bool comma; /* something was written at this level */
};

void cv_json_open(struct cv_json *j, const char *key, char bracket);        /* '{' or '[' */
void cv_json_close(struct cv_json *j, char bracket);                        /* '}' or ']' */
void cv_json_string(struct cv_json *j, const char *key, const char *value); /* NULL: null */
void cv_json_uint(struct cv_json *j, const char *key, uint64_t value);
void cv_json_number(struct cv_json *j, const char *key, double value, int decimals);
void cv_json_bool(struct cv_json *j, const char *key, bool value);

#endif
