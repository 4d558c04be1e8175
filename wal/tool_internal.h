/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_WAL_TOOL_INTERNAL_H
#define RGUARD_WAL_TOOL_INTERNAL_H

/* The parts of rguard-wal; not in the library.
 *
 *     rguard-wal.c     arguments, which command
 *     tool_look.c      verify, dump
 *     tool_faults.c    what is damaged
 *     tool_repair.c    repair
 *     tool_export.c    export
 *     tool_fill.c      fill
 *     tool_say.c       what they print in common */
#include "wal_internal.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

enum tool_code {
    CODE_CLEAN = 0,
    CODE_TORN = 1,
    CODE_SUSPECT = 2,
    CODE_CORRUPT = 3,
    CODE_IO = 4,
    CODE_FOREIGN = 5,
    CODE_USAGE = 64,
    CODE_FAILPOINTS = 78,
    CODE_INTERRUPTED = 130
};

struct tool_args
{
    const char *dir;
    bool json;
    bool drop_tail, accept_data_loss; /* repair */
    uint64_t from, to;                /* export; 0: from the first, to the last */
    const char *out;
    bool binary;
    uint64_t records, size, seed, batch; /* fill */
    bool no_close;
};

/* One function per command; each returns the exit code. */
int tool_verify(const struct tool_args *a);
int tool_dump(const struct tool_args *a);
int tool_repair(const struct tool_args *a);
int tool_export(const struct tool_args *a);
int tool_fill(const struct tool_args *a);

/* What is damaged in a log, as rguard_wal_faults() says it. */
struct tool_faults
{
    struct rguard_wal_fault *v;
    size_t n;
};

/* Opens the log to look: without a lock, damaged or not. Result as rguard_wal_open(). */
int tool_open(const char *dir, rguard_wal **w, struct rguard_wal_report *r);
int tool_faults_get(const rguard_wal *w, struct tool_faults *faults);
void tool_faults_free(struct tool_faults *faults);
void tool_faults_text(const struct tool_faults *faults); /* a line each */
void tool_faults_json(const rguard_wal *w, const struct tool_faults *faults);
/* The first one that concerns a record of @from..@to, or NULL. */
const struct rguard_wal_fault *tool_faults_in(const struct tool_faults *faults, uint64_t from,
                                              uint64_t to);

/* The exit code of what was found; @error: it was not a finding. */
int tool_code(const struct rguard_wal_report *r, int error);
/* Why rguard_wal_open() failed with @rc; returns the exit code. */
int tool_open_failed(const char *dir, int rc, const struct rguard_wal_report *r);

/* "rguard-wal: what: why" on stderr, in order with what stdout has. Returns @code. */
int tool_complain(const char *what, const char *why, int code);
/* On a terminal, for anything that takes more than a second. @verb NULL wipes it. */
void tool_progress(const char *verb, uint64_t n, const char *unit);
/* `"key": "text"` and @after. */
void tool_json_string(const char *key, const char *text, const char *after);
/* ", records 3 to 5", ", record 3" or nothing when they are not known. */
void tool_range(uint64_t first, uint64_t last, char *text, size_t len);

/* From here on SIGINT and SIGTERM only set the flag, so that a command can leave things in order. */
extern volatile sig_atomic_t tool_interrupted;
void tool_catch_interrupts(void);

#endif
