/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_TRACE_H
#define RGUARD_TRACE_H

#include <raftguard/version.h>
#include <stddef.h>
#include <stdint.h>

/* The trace ring: a shared file mapping of fixed 64-byte records that a replica writes with a few
 * stores and no system call but clock_gettime, and that survives SIGKILL because the pages belong
 * to the file. The convergence harness owns one per process and takes every duration from it.
 *
 *     offset 0      struct rguard_trace_header (4096 bytes)
 *     offset 4096   capacity x struct rguard_trace_record; record n is at slot n % capacity
 *
 * A record is valid if and only if record.seq == n + 1 for the slot's n (seq is stored last, with
 * release order). Times are CLOCK_MONOTONIC, comparable between processes of one machine. */

#define RGUARD_TRACE_MAGIC 0x3145434152544752ULL /* "RGTRACE1" */

/* Letters a and b are event-specific; see the text. */
#define RGUARD_TRACE_EVENTS(X)                                                                    \
    X(RGUARD_TRACE_START, 1, "start")                  /* replica opened; a = node id */          \
    X(RGUARD_TRACE_FAULT, 2, "fault")                  /* T0: failpoint fired; a = site hash */   \
    X(RGUARD_TRACE_DETECTED, 3, "detected")            /* T1: a = violation kind, b = class */    \
    X(RGUARD_TRACE_CONTAINED, 4, "contained")          /* T2: sends and acks nothing from here */ \
    X(RGUARD_TRACE_NOTICE_SENT, 5, "notice_sent")      /* T3: a = peers reached */                \
    X(RGUARD_TRACE_NOTICE_RECV, 6, "notice_recv")      /* T3': a = leader id, b = own rank */     \
    X(RGUARD_TRACE_WAL_VERIFIED, 7, "wal_verified")    /* T4: a = verdict, b = last index */      \
    X(RGUARD_TRACE_ROLLED_BACK, 8, "rolled_back")      /* T5: a = digest, b = rung (1, 2, 3) */   \
    X(RGUARD_TRACE_CANDIDATE, 9, "candidate")          /* T6: a = 1 when by notice, 0 by timer */ \
    X(RGUARD_TRACE_LEADER, 10, "leader")               /* T7 */                                   \
    X(RGUARD_TRACE_FOLLOWER, 11, "follower")           /* a = leader id, 0 when not known */      \
    X(RGUARD_TRACE_LADDER, 12, "ladder")               /* a = state left, b = state entered */    \
    X(RGUARD_TRACE_PROBATION_END, 13, "probation_end") /* a = digest, b = index agreed on */      \
    X(RGUARD_TRACE_SERVING, 14, "serving")             /* T9 */                                   \
    X(RGUARD_TRACE_DIED, 15, "died")                   /* fatal handler; a = signal */            \
    X(RGUARD_TRACE_STOP, 16, "stop")                   /* clean close */                          \
    X(RGUARD_TRACE_ACK, 17, "ack")                     /* client answered; a = commands so far */ \
    X(RGUARD_TRACE_APPLIED, 18, "applied") /* command applied; a = content digest after it */

enum rguard_trace_event {
#define RGUARD_TRACE_ENUM(name, value, text) name = value,
    RGUARD_TRACE_EVENTS(RGUARD_TRACE_ENUM)
#undef RGUARD_TRACE_ENUM
};

struct rguard_trace_header
{
    uint64_t magic;
    uint32_t version;     /* 1 */
    uint32_t record_size; /* 64 */
    uint64_t capacity;    /* records in the ring */
    uint64_t head;        /* records ever written; atomic */
};

struct rguard_trace_record
{
    uint64_t ns;
    uint32_t event;
    uint32_t pid;
    uint64_t term;
    uint64_t index;
    uint64_t a;
    uint64_t b;
    uint64_t reserved;
    uint64_t seq; /* 1 + number of this record; 0 = never written */
};

#ifdef __cplusplus
extern "C" {
#endif

/* Opens (creating it with @capacity records if it is missing or empty) the ring at @path and makes
 * it this process's ring. One ring per process; a second call replaces the first. Returns 0,
 * -errno, or RGUARD_EUNSUPPORTED when the file is not a ring. Not from a signal handler. */
RGUARD_API int rguard_trace_open(const char *path, uint64_t capacity);

/* Writes one record; does nothing when no ring is open. Any thread, async-signal-safe, ~40 ns. */
RGUARD_API void rguard_trace(uint32_t event, uint64_t term, uint64_t index, uint64_t a, uint64_t b);

/* Unmaps the ring; the file stays. */
RGUARD_API void rguard_trace_close(void);

/* "notice_sent" for RGUARD_TRACE_NOTICE_SENT; "?" when unknown. */
RGUARD_API const char *rguard_trace_event_name(uint32_t event);

#ifdef __cplusplus
}
#endif
#endif
