/* SPDX-License-Identifier: Apache-2.0 */
/* Directories to and from a sparse encoding. Invariant: loading never reads beyond the input and
 * never allocates more than IMAGE_FILES files of IMAGE_FILE_MAX. */
#include "image.h"

#include <raftguard/testing.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define END 0xffffu
#define GAP 16u /* shorter rows of zeros are stored as they are */

/* Name 0..15 is one of these; 15 + n is segment n. */
static const char *const names[16] = {"meta",      "tmp-meta",   "repair",   "tmp-repair",  "lock",
                                      "metadata1", "quarantine", "snapshot", "tmp-snapshot"};

static bool name_text(uint8_t id, char name[32])
{
    if (id < 16) {
        (void)snprintf(name, 32, "%s", names[id] != NULL ? names[id] : "");
    } else {
        (void)snprintf(name, 32, "%020u.wal", (unsigned)id - 15u);
    }
    return name[0] != '\0';
}

static int name_id(const char *name)
{
    char text[32];
    for (int id = 0; id < 256; id++) {
        if (name_text((uint8_t)id, text) && strcmp(text, name) == 0) {
            return id;
        }
    }
    return -1;
}

static unsigned u16(const uint8_t *p)
{
    return p[0] | (unsigned)p[1] << 8;
}

/* Returns what is left of the input behind the file's runs. */
static size_t load_runs(const uint8_t *data, size_t len, uint8_t *file, size_t size)
{
    size_t at = 0, in = 0;
    while (in + 2 <= len) {
        unsigned skip = u16(data + in);
        in += 2;
        if (skip == END || in + 2 > len) {
            break;
        }
        size_t n = u16(data + in);
        in += 2;
        n = n < len - in ? n : len - in;
        at += skip;
        if (at < size) {
            memcpy(file + at, data + in, n < size - at ? n : size - at);
        }
        at += n;
        in += n;
    }
    return len - in;
}

struct sim_disk *image_load(const uint8_t *data, size_t len)
{
    struct sim_disk *s = sim_disk_new(1);
    uint8_t *file = malloc(IMAGE_FILE_MAX);
    RGUARD_ASSERT(file != NULL);
    for (unsigned n = 0; n < IMAGE_FILES && len >= 3; n++) {
        char name[32];
        bool known = name_text(data[0], name);
        size_t size = u16(data + 1) * (size_t)512;
        size = size < IMAGE_FILE_MAX ? size : IMAGE_FILE_MAX;
        memset(file, 0, IMAGE_FILE_MAX);
        size_t left = load_runs(data + 3, len - 3, file, size);
        if (known) {
            sim_file_put(s, name, file, size);
        }
        data += len - left;
        len = left;
    }
    free(file);
    return s;
}

/* ---- saving ---- */

struct out
{
    uint8_t *data;
    size_t len, cap;
};

static void add(struct out *o, const void *data, size_t n)
{
    if (o->len + n > o->cap) {
        o->cap = 2 * (o->len + n);
        o->data = realloc(o->data, o->cap);
        RGUARD_ASSERT(o->data != NULL);
    }
    memcpy(o->data + o->len, data, n);
    o->len += n;
}

static void add16(struct out *o, size_t value)
{
    uint8_t bytes[2] = {(uint8_t)value, (uint8_t)(value >> 8)};
    add(o, bytes, 2);
}

static size_t zeros_at(const uint8_t *p, size_t n)
{
    size_t i = 0;
    while (i < n && p[i] == 0) {
        i++;
    }
    return i;
}

static void save_file(struct out *o, const uint8_t *p, size_t size)
{
    size_t at = 0;
    while (at < size) {
        size_t skip = zeros_at(p + at, size - at);
        if (at + skip == size) {
            break;
        }
        for (; skip >= END; skip -= END - 1, at += END - 1) {
            add16(o, END - 1);
            add16(o, 0);
        }
        at += skip;
        size_t n = 0;
        while (at + n < size && n < END - GAP) {
            size_t zeros = zeros_at(p + at + n, size - at - n);
            if (zeros >= GAP || at + n + zeros == size) {
                break;
            }
            n += zeros > 0 ? zeros : 1;
        }
        add16(o, skip);
        add16(o, n);
        add(o, p + at, n);
        at += n;
    }
    add16(o, END);
}

uint8_t *image_save(const struct sim_disk *s, size_t *len)
{
    struct out o = {0};
    const char *name;
    for (size_t i = 0; (name = sim_file_name(s, i)) != NULL; i++) {
        size_t size;
        const uint8_t *data = sim_file(s, name, &size);
        int id = name_id(name);
        if (id < 0 || size > IMAGE_FILE_MAX) {
            continue;
        }
        uint8_t byte = (uint8_t)id;
        add(&o, &byte, 1);
        add16(&o, size / 512);
        save_file(&o, data, size);
    }
    *len = o.len;
    return o.data;
}
