/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_SIM_RANDOM_H
#define RGUARD_SIM_RANDOM_H

#include <stdint.h>

/* splitmix64: the only source of chance in a simulation, so that one seed decides everything.
 * @source Steele, Lea, Flood: Fast splittable pseudorandom number generators (2014) */
static inline uint64_t sim_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

/* 0 .. n - 1; n > 0. The bias of the remainder does not matter here. */
static inline uint64_t sim_below(uint64_t *state, uint64_t n)
{
    return sim_random(state) % n;
}

/* A generator for the @k-th thing that @seed decides. */
static inline uint64_t sim_fork(uint64_t seed, uint64_t k)
{
    uint64_t state = seed ^ (k + 1) * 0xd1342543de82ef95ULL;
    return sim_random(&state);
}

#endif
