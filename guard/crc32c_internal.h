/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_CRC32C_INTERNAL_H
#define RGUARD_CRC32C_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One way to compute CRC32C. @state is the raw register: ~0 at the start, inverted at the end. */
typedef uint32_t (*crc32c_fn)(uint32_t state, const uint8_t *data, size_t len);

struct crc32c_backend
{
    const char *name;
    /* Asks the processor whether it can, and makes the tables that run() needs. May be called
     * again, but not by two threads at once. */
    bool (*prepare)(void);
    crc32c_fn run;
};

extern const struct crc32c_backend rguard__crc32c_slice8; /* anywhere; the reference */
#ifdef RGUARD_HAVE_ISAL
extern const struct crc32c_backend rguard__crc32c_isal;
#endif
#if defined(__x86_64__)
extern const struct crc32c_backend rguard__crc32c_sse42;
#elif defined(__aarch64__)
extern const struct crc32c_backend rguard__crc32c_armv8;
#endif

/* Those of this build, the preferred ones first, slice8 last, then NULL. */
extern const struct crc32c_backend *const rguard__crc32c_backends[];

/* The first of @list that is able to run here and passes the test; slice8 when none does. */
const struct crc32c_backend *rguard__crc32c_choose(const struct crc32c_backend *const *list);

/* 8 KiB without any pattern, once slice8 is prepared. */
extern uint32_t rguard__crc32c_slices[8][256];

#endif
