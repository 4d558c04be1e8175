/* SPDX-License-Identifier: Apache-2.0 */
/* CRC32C of a 4 KiB block in the nearest cache, against libisal called directly: once as the library
 * calls it, once by the best back end of our own. */
#include "bench.h"

#include "crc32c_internal.h"

#include <math.h>
#include <raftguard/crc32c.h>
#include <string.h>

#define BLOCK  4096u
#define BLOCKS 4u /* 16 KiB: stays in the first-level cache */
#define ROUNDS 2000u

#ifdef RGUARD_HAVE_ISAL
#include <isa-l/crc.h>

struct crc_bench
{
    uint8_t data[BLOCKS][BLOCK];
    crc32c_fn own;
    uint32_t sink;
};

static double rate(uint64_t from)
{
    return (double)ROUNDS * BLOCK / (double)(bench_now() - from);
}

static double public_trial(void *context)
{
    struct crc_bench *c = context;
    uint64_t from = bench_now();
    for (unsigned i = 0; i < ROUNDS; i++) {
        c->sink = rguard_crc32c(c->sink, c->data[i % BLOCKS], BLOCK);
    }
    return rate(from);
}

static double own_trial(void *context)
{
    struct crc_bench *c = context;
    uint64_t from = bench_now();
    for (unsigned i = 0; i < ROUNDS; i++) {
        c->sink = c->own(c->sink, c->data[i % BLOCKS], BLOCK);
    }
    return rate(from);
}

static double isal_trial(void *context)
{
    struct crc_bench *c = context;
    uint64_t from = bench_now();
    for (unsigned i = 0; i < ROUNDS; i++) {
        c->sink = crc32_iscsi(c->data[i % BLOCKS], (int)BLOCK, c->sink);
    }
    return rate(from);
}

static struct crc_bench crc;

int bench_crc32c_4k(struct bench *b)
{
    memset(crc.data, 0x3c, sizeof crc.data);
    bench_note(b, "back end %s", rguard_crc32c_backend());
    return bench_interleave(b, public_trial, isal_trial, &crc);
}

int bench_crc32c_4k_builtin(struct bench *b)
{
    memset(crc.data, 0x3c, sizeof crc.data);
    for (size_t i = 0; rguard__crc32c_backends[i] != NULL && crc.own == NULL; i++) {
        const struct crc32c_backend *own = rguard__crc32c_backends[i];
        if (strcmp(own->name, "isal") != 0 && own->prepare()) {
            crc.own = own->run;
            bench_note(b, "back end %s", own->name);
        }
    }
    return bench_interleave(b, own_trial, isal_trial, &crc);
}

#else
static int no_libisal(struct bench *b)
{
    bench_note(b, "built without libisal");
    return BENCH_SKIPPED;
}

int bench_crc32c_4k(struct bench *b)
{
    return no_libisal(b);
}

int bench_crc32c_4k_builtin(struct bench *b)
{
    return no_libisal(b);
}
#endif
