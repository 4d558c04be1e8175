/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_SIM_WAL_CASE_H
#define RGUARD_SIM_WAL_CASE_H

#include "wal_check.h"

/* The cases of the oracle. A class and a number say everything about one: with the same seed it
 * does the same again, in whatever process and order. */

#define CASE_CLASSES(X)                                                                   \
    X(CASE_CRASH, "crash")   /* a log's lives, with a power failure at every operation */ \
    X(CASE_SINGLE, "single") /* one fault at rest */                                      \
    X(CASE_DOUBLE, "double") /* two */                                                    \
    X(CASE_STALE, "stale")   /* blocks of an earlier epoch behind the end */

enum case_class {
#define CASE_ENUM(name, text) name,
    CASE_CLASSES(CASE_ENUM)
#undef CASE_ENUM
        CASE_CLASS_COUNT
};

struct case_image;

struct case_run
{
    uint64_t seed;
    enum case_class class;
    uint64_t number;
    bool print;            /* the workload, the log and the faults */
    unsigned steps;        /* CASE_CRASH: make no more of them; 0: no limit */
    const char *export_to; /* the damaged directory goes there as an image */
    unsigned only_fault;   /* CASE_DOUBLE: 1 or 2, only this one */
    struct tally tally;
    uint64_t crashes;         /* power failures that were judged */
    unsigned steps_made;      /* CASE_CRASH, until it failed */
    struct case_image *image; /* kept from one case to the next; case_end() frees it */
    char why[512];
};

/* 0, or -1 and c->why. */
int case_run(struct case_run *c);
void case_end(struct case_run *c);

#endif
