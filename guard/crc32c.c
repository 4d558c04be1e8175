/* SPDX-License-Identifier: Apache-2.0 */
/* CRC32C: which back end computes it. One file per instruction set, chosen once:
 *
 *     isal    libisal, where it was there at build time
 *     sse4.2  the crc32 instruction of x86-64, three streams joined by a carry-less product
 *     armv8   the crc32c instructions of AArch64
 *     slice8  tables, anywhere
 *
 * The function pointer starts at a function that chooses and replaces it. Invariant: nothing is
 * chosen that has not just agreed with the tables at lengths that take it through all of its loops,
 * and the tables have to give the check value of the polynomial; a back end that fails (a broken
 * library, an emulator that lies) is passed over.
 *
 * @source Castagnoli, Braeuer, Herrmann 1993 (polynomial). */
#include "crc32c_internal.h"

#include <raftguard/crc32c.h>
#include <raftguard/testing.h>

#include <pthread.h>

#define CHECK_VALUE 0xe3069283u /* of "123456789" */

const struct crc32c_backend *const rguard__crc32c_backends[] = {
#ifdef RGUARD_HAVE_ISAL
    &rguard__crc32c_isal,
#endif
#if defined(__x86_64__)
    &rguard__crc32c_sse42,
#elif defined(__aarch64__)
    &rguard__crc32c_armv8,
#endif
    &rguard__crc32c_slice8,
    NULL,
};

static uint32_t first_call(uint32_t state, const uint8_t *data, size_t len);

static pthread_once_t once = PTHREAD_ONCE_INIT;
static crc32c_fn current = first_call;
static const struct crc32c_backend *chosen;

uint32_t rguard_crc32c(uint32_t crc, const void *data, size_t len)
{
    crc32c_fn run = __atomic_load_n(&current, __ATOMIC_ACQUIRE);
    return ~run(~crc, data, len);
}

static void choose(void)
{
    chosen = rguard__crc32c_choose(rguard__crc32c_backends);
    __atomic_store_n(&current, chosen->run, __ATOMIC_RELEASE);
}

static uint32_t first_call(uint32_t state, const uint8_t *data, size_t len)
{
    (void)pthread_once(&once, choose);
    return chosen->run(state, data, len);
}

const char *rguard_crc32c_backend(void)
{
    (void)pthread_once(&once, choose);
    return chosen->name;
}

static bool gives_check_value(const struct crc32c_backend *b)
{
    return ~b->run(~0u, (const uint8_t *)"123456789", 9) == CHECK_VALUE;
}

/* About 30 KiB in all: 20 us, once. */
static bool agrees_with_tables(const struct crc32c_backend *b)
{
    static const size_t lengths[] = {0, 1, 7, 8, 31, 64, 200, 255, 512, 1021, 4096, 8189};
    const uint8_t *data = (const uint8_t *)rguard__crc32c_slices;
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        for (size_t at = 0; at < 3; at += 2) {
            uint32_t state = 0x9e3779b9u + (uint32_t)lengths[i];
            if (b->run(state, data + at, lengths[i]) !=
                rguard__crc32c_slice8.run(state, data + at, lengths[i])) {
                return false;
            }
        }
    }
    return true;
}

const struct crc32c_backend *rguard__crc32c_choose(const struct crc32c_backend *const *list)
{
    const struct crc32c_backend *tables = &rguard__crc32c_slice8;
    RGUARD_ASSERT(tables->prepare() && gives_check_value(tables));
    for (; *list != NULL; list++) {
        if ((*list)->prepare() && gives_check_value(*list) && agrees_with_tables(*list)) {
            return *list;
        }
    }
    return tables;
}
