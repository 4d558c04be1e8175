/* SPDX-License-Identifier: Apache-2.0 */
/* Violation records as a reader sees them: names, text, JSON, the ring, the crash file.
 *
 * Invariant of the ring: cell n % 64 holds record n completely if and only if its seq is n + 1,
 * before and after it was copied. Writers (trap.c) never wait for readers; a reader that was lapped
 * counts what it lost and goes on with the oldest record that is left. */
#include "guard_internal.h"

#include <raftguard/crc32c.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

const char *rguard_violation_kind_name(uint32_t kind)
{
    switch (kind) {
#define RGUARD_VIOLATION_NAME(name, value, text) \
    case name:                                   \
        return text;
        RGUARD_VIOLATION_KINDS(RGUARD_VIOLATION_NAME)
#undef RGUARD_VIOLATION_NAME
        default:
            return "?";
    }
}

const char *rguard_violation_class_name(uint32_t class_)
{
    static const char *const names[] = {"none", "precise", "imprecise", "log", "diverged", "fatal"};
    return class_ < sizeof names / sizeof names[0] ? names[class_] : "?";
}

static const char *access_name(uint32_t access)
{
    static const char *const names[] = {"unknown", "read", "write"};
    return access < sizeof names / sizeof names[0] ? names[access] : "?";
}

/* An arena's name is the caller's: anything that would break a line or a string becomes '_'. */
static void safe_name(const struct rguard_violation *v, char out[sizeof v->arena])
{
    size_t i = 0;
    for (; i < sizeof v->arena - 1 && v->arena[i] != '\0'; i++) {
        char c = v->arena[i];
        out[i] = c <= ' ' || c == '"' || c == '\\' || c == '=' || c > '~' ? '_' : c;
    }
    out[i] = '\0';
}

int rguard_violation_text(const struct rguard_violation *v, char *buf, size_t cap)
{
    if (v == NULL || (buf == NULL && cap > 0)) {
        return -EINVAL;
    }
    char name[sizeof v->arena];
    safe_name(v, name);
    return snprintf(buf, cap,
                    "violation=%s class=%s arena=%s offset=%" PRId64 " past_end=%" PRId64
                    " access=%s address=0x%" PRIx64 " pc=0x%" PRIx64 " signo=%" PRId32
                    " term=%" PRIu64 " index=%" PRIu64 " tid=%" PRIu32 " repeat=%" PRIu32,
                    rguard_violation_kind_name(v->kind), rguard_violation_class_name(v->class_),
                    name[0] != '\0' ? name : "-", v->offset, v->slot_offset, access_name(v->access),
                    v->address, v->pc, v->signo, v->term, v->index, v->tid, v->repeat);
}

/* Appends to a buffer that may be too small, counting what was needed. */
struct sink
{
    char *buf;
    size_t cap;
    size_t len;
};

__attribute__((format(printf, 2, 3))) static void put(struct sink *s, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int n = s->len < s->cap ? vsnprintf(s->buf + s->len, s->cap - s->len, format, ap)
                            : vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    s->len += n > 0 ? (size_t)n : 0;
}

int rguard_violation_json(const struct rguard_violation *v, char *buf, size_t cap)
{
    if (v == NULL || (buf == NULL && cap > 0)) {
        return -EINVAL;
    }
    char name[sizeof v->arena];
    safe_name(v, name);
    struct sink s = {buf, cap, 0};
    put(&s, "{\"kind\":\"%s\",\"class\":\"%s\",\"arena\":\"%s\",\"arena_id\":%" PRIu32,
        rguard_violation_kind_name(v->kind), rguard_violation_class_name(v->class_), name,
        v->arena_id);
    put(&s, ",\"offset\":%" PRId64 ",\"past_end\":%" PRId64 ",\"access\":\"%s\"", v->offset,
        v->slot_offset, access_name(v->access));
    put(&s, ",\"address\":\"0x%" PRIx64 "\",\"pc\":\"0x%" PRIx64 "\"", v->address, v->pc);
    put(&s, ",\"signo\":%" PRId32 ",\"si_code\":%" PRId32, v->signo, v->si_code);
    put(&s, ",\"term\":%" PRIu64 ",\"index\":%" PRIu64 ",\"monotonic_ns\":%" PRIu64, v->term,
        v->index, v->monotonic_ns);
    put(&s, ",\"tid\":%" PRIu32 ",\"repeat\":%" PRIu32 ",\"frames\":[", v->tid, v->repeat);
    for (uint32_t i = 0; i < v->n_frames && i < RGUARD_VIOLATION_FRAMES; i++) {
        put(&s, "%s\"0x%" PRIx64 "\"", i > 0 ? "," : "", v->frames[i]);
    }
    put(&s, "]}");
    return (int)s.len;
}

int rguard_violation_next(struct rguard_violation *out, uint64_t *lost)
{
    struct rguard__ring *ring = &rguard__ring;
    int found = 0;
    while (out != NULL && found == 0) {
        uint64_t tail = __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE);
        uint64_t head = __atomic_load_n(&ring->head, __ATOMIC_ACQUIRE);
        if (tail == head) {
            break;
        }
        if (head - tail > RGUARD__RING) { /* lapped */
            uint64_t oldest = head - RGUARD__RING;
            if (__atomic_compare_exchange_n(&ring->tail, &tail, oldest, false, __ATOMIC_ACQ_REL,
                                            __ATOMIC_RELAXED)) {
                __atomic_fetch_add(&ring->lost, oldest - tail, __ATOMIC_RELAXED);
            }
            continue;
        }
        struct rguard__ring_cell *cell = &ring->cells[tail % RGUARD__RING];
        if (__atomic_load_n(&cell->seq, __ATOMIC_ACQUIRE) != tail + 1) {
            if (__atomic_load_n(&ring->head, __ATOMIC_ACQUIRE) - tail > RGUARD__RING) {
                continue; /* overwritten meanwhile */
            }
            break; /* its writer is not done */
        }
        struct rguard_violation copy = cell->v;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (__atomic_load_n(&cell->seq, __ATOMIC_RELAXED) == tail + 1 &&
            __atomic_compare_exchange_n(&ring->tail, &tail, tail + 1, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED)) {
            *out = copy;
            found = 1;
        }
    }
    if (lost != NULL) {
        *lost = __atomic_load_n(&ring->lost, __ATOMIC_RELAXED);
    }
    return found;
}

int rguard_crash_read(const char *path, struct rguard_violation *out)
{
    if (path == NULL || out == NULL) {
        return -EINVAL;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -errno;
    }
    struct rguard__crash crash;
    ssize_t n = read(fd, &crash, sizeof crash);
    int rv = n < 0 ? -errno : 0;
    close(fd);
    if (rv != 0) {
        return rv;
    }
    if (n != (ssize_t)sizeof crash || crash.magic != RGUARD__CRASH_MAGIC || crash.version != 1 ||
        crash.size != sizeof crash ||
        crash.crc != rguard_crc32c(0, &crash, offsetof(struct rguard__crash, crc))) {
        return RGUARD_ECHECKSUM;
    }
    *out = crash.v;
    return 0;
}
