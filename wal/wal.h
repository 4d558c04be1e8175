/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_WAL_H
#define RGUARD_WAL_H

#include <raftguard/error.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* wal: a write-ahead log that can prove what it promised.
 *
 * One owner thread. One durable write in flight: everything appended meanwhile goes into the next
 * batch. "Acknowledged" means that the completion callback has returned; each batch records the LSN
 * up to which that was true when it was built (acked_lsn), so that recovery can tell a torn tail
 * (never acknowledged, dropped) from corruption (acknowledged, never dropped).
 *
 * WHAT NO LOCAL LOG CAN KNOW: the last batch before a crash, when nothing follows it, may have been
 * acknowledged although it looks torn. It is dropped only when its damaged sectors are zero or
 * stale; otherwise it is SUSPECT_TAIL. The report says which; the voting rule belongs to raftlog.
 */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rguard_wal rguard_wal;

#define RGUARD_WAL_VERDICTS(X)                                                                   \
    X(RGUARD_WAL_CLEAN_END, 0, "clean_end")       /* nothing wrong */                            \
    X(RGUARD_WAL_TORN_TAIL, 1, "torn_tail")       /* unacknowledged last batch was cut */        \
    X(RGUARD_WAL_SUSPECT_TAIL, 2, "suspect_tail") /* last batch damaged, not a tear; kept */     \
    X(RGUARD_WAL_CORRUPT, 3, "corrupt")           /* damage below an acknowledged LSN; kept */   \
    X(RGUARD_WAL_UNREADABLE, 4, "unreadable")     /* the device returned EIO; nothing changed */ \
    X(RGUARD_WAL_FOREIGN, 5, "foreign")           /* another node's, or not ours at all */       \
    X(RGUARD_WAL_UNSUPPORTED, 6, "unsupported")   /* format version of another release */

enum rguard_wal_verdict {
#define RGUARD_WAL_VERDICT_ENUM(name, value, text) name = value,
    RGUARD_WAL_VERDICTS(RGUARD_WAL_VERDICT_ENUM)
#undef RGUARD_WAL_VERDICT_ENUM
};

RGUARD_API const char *rguard_wal_verdict_name(uint32_t verdict);

struct rguard_wal_record
{
    uint64_t index;
    uint64_t term;
    uint32_t type; /* caller's, 0..65535 (libraft's entry types in raftlog) */
    uint32_t len;  /* bytes of data, 0 allowed, at most max_record_bytes */
    uint32_t crc;  /* CRC32C of data; output of reads, ignored by append */
    uint32_t reserved;
    const void *data;
};

struct rguard_wal_options
{
    size_t size;             /* sizeof(struct rguard_wal_options) */
    uint64_t node_id;        /* stored at creation, compared at every open; 0 = do not compare */
    size_t segment_bytes;    /* multiple of 4096; 0 = 8 MiB */
    size_t max_record_bytes; /* 0 = 8 MiB */
    const char *backend;   /* "uring", "thread", "sync", or NULL: RGUARD_WAL_BACKEND, else uring, or
                          * thread where io_uring is refused (EPERM, ENOSYS, ENOMEM) */
    unsigned mark_idle_ms; /* a MARK batch follows after so much idle time; 0 = 20 */
    bool read_only;        /* takes no lock, writes nothing, repairs nothing */
    uint64_t seed;         /* 0 = random identity; tests and fill: deterministic UUID and salts */
    bool open_damaged;     /* see "damaged logs" */
};

/* What recovery found. Filled by every open that got as far as looking, also when open fails. */
struct rguard_wal_report
{
    size_t size;
    uint32_t verdict;     /* enum rguard_wal_verdict */
    bool created;         /* the directory was empty and has been initialised */
    bool clean_close;     /* the last user closed it properly */
    uint64_t first_index; /* 0 and last_index 0: no record */
    uint64_t last_index;
    uint64_t last_term;
    uint64_t base_index; /* records up to here were dropped behind a snapshot (RESET or prefix) */
    uint64_t base_term;  /* 0 when not known */
    uint64_t term, vote; /* metadata */
    uint64_t acked_lsn;  /* highest LSN proven acknowledged */
    uint64_t dropped_records; /* TORN_TAIL: records in the batch that was cut, 0 when unknowable */
    uint64_t damage_first_index,
        damage_last_index; /* CORRUPT, SUSPECT_TAIL; 0 when identity is lost */
    char file[64];         /* where the damage is */
    uint64_t offset;       /* byte offset in it */
    char message[256];     /* one sentence: what, where, what to do */
    unsigned warnings;     /* harmless findings: bad padding, one bad metadata copy */
};

/* Opens or creates the log in directory @dir (which must exist).
 * 0: ready; verdict is CLEAN_END or TORN_TAIL (the tail was cut, durably, before this returns).
 * RGUARD_ESUSPECT, RGUARD_ECORRUPT, -EIO, RGUARD_EFOREIGN, RGUARD_EUNSUPPORTED, RGUARD_ELOCKED or
 * -errno: *out is untouched, no byte of any file has changed and @report says why. */
RGUARD_API int rguard_wal_open(const char *dir, const struct rguard_wal_options *options,
                               rguard_wal **out, struct rguard_wal_report *report);

/* Writes CLOSE and the clean flag when everything before succeeded, waits for what is in flight
 * (its callbacks run), releases. Callbacks of queued appends get RGUARD_ECANCELED only if the log
 * is poisoned. NULL is allowed. Returns 0 or the error that made the close unclean; RGUARD_ESTATE
 * (and nothing happens) from inside a callback. */
RGUARD_API int rguard_wal_close(rguard_wal *w);

/* Called from rguard_wal_process(), rguard_wal_flush() or rguard_wal_close(), never from append.
 * @status 0: durable. -ENOSPC, -EDQUOT or -EFBIG while rguard_wal_poisoned() is 0: there is no room
 * for the next segment and nothing of this append was written; what was queued behind it has the
 * same status, rguard_wal_last_index() is that of the last durable record, and the log takes
 * appends as before (with the index that follows). Otherwise the log is poisoned: this and every
 * later append fails. */
typedef void (*rguard_wal_append_cb)(void *user, int status);

/* Queues @n records (indexes continue the log without a gap) as one unit. Record data must stay
 * valid until the callback; the array itself is copied. Callbacks run in order. Returns 0,
 * RGUARD_EPOISONED, RGUARD_ETOOBIG, -EINVAL (gap, decreasing term). Allocates nothing after the
 * first few calls. */
RGUARD_API int rguard_wal_append(rguard_wal *w, const struct rguard_wal_record *records, size_t n,
                                 rguard_wal_append_cb cb, void *user);

/* Event loop integration: poll fd for reading, call process() when readable or when timeout_ms has
 * passed (-1 = never). process() submits, completes and runs callbacks and returns 0 or
 * RGUARD_EPOISONED. It does not wait for the disk, and helpers make the next segment and remove old
 * ones; but for the sync back end, where process() itself writes, syncs and makes segments. */
RGUARD_API int rguard_wal_fd(const rguard_wal *w);
RGUARD_API int rguard_wal_timeout_ms(const rguard_wal *w);
RGUARD_API int rguard_wal_process(rguard_wal *w);

/* Blocks until nothing is queued or in flight. 0, RGUARD_EPOISONED, or -ENOSPC and the like when
 * an append was refused meanwhile. */
RGUARD_API int rguard_wal_flush(rguard_wal *w);

/* Removes records from @from_index on. Ordered after the appends before it and before the appends
 * after it: the TRUNC batch goes through the same queue, and an append acknowledged later implies
 * it is durable. Returns at once; rguard_wal_last_index() is from_index - 1 afterwards. */
RGUARD_API int rguard_wal_truncate_suffix(rguard_wal *w, uint64_t from_index);

/* Forgets records up to and including @upto_index (covered by a snapshot). Durable when it returns,
 * ~0.4 ms. The files of whole segments are recycled or removed by and by, at the latest by close;
 * the rest stays on disk unseen. */
RGUARD_API int rguard_wal_truncate_prefix(rguard_wal *w, uint64_t upto_index);

/* A snapshot at (@index, @term) replaces the whole log: the next append has index + 1. Ordered like
 * truncate_suffix, but blocks until RESET is durable. */
RGUARD_API int rguard_wal_reset(rguard_wal *w, uint64_t index, uint64_t term);

RGUARD_API uint64_t rguard_wal_first_index(const rguard_wal *w); /* 0 when empty */
RGUARD_API uint64_t rguard_wal_last_index(const rguard_wal *w);  /* 0 or base_index when empty */

/* Identity of a durable record without its data: fills everything but @out->data. -ENOENT. */
RGUARD_API int rguard_wal_stat(const rguard_wal *w, uint64_t index, struct rguard_wal_record *out);

/* Reads a durable record from disk (never from the page cache) into @buf and verifies its
 * checksums. Reading forward takes up to 256 KiB of what follows along, so a replay costs few
 * reads; the same record again is read again. -ENOENT, -ENOSPC when @cap is too small (out->len
 * says how much), RGUARD_ECHECKSUM, -EIO. */
RGUARD_API int rguard_wal_read(rguard_wal *w, uint64_t index, struct rguard_wal_record *out,
                               void *buf, size_t cap);

/* ---- damaged logs ---------------------------------------------------------------------------- *
 *
 * With options.open_damaged a log with the verdict SUSPECT_TAIL, CORRUPT or UNREADABLE is opened as
 * well, unless term and vote are lost or old, or valid batches contradict each other: then the error
 * is what it is without. Intact records can be read, also those of a batch of which others are
 * damaged; damaged ones answer RGUARD_ECORRUPT. Metadata works, appends and truncations answer
 * RGUARD_ECORRUPT, and the close leaves everything as it was. Each damaged range is listed. A range
 * that holds no record of the log (its records are intact, or had become void) is repaired before
 * the open returns, unless options.read_only; any other is whole again when every record in it has
 * been put back; with no range left the log takes appends like any other. @report is about the log
 * as it was found.
 *
 * WARNING: putting records back still has known defects, listed at the end of wal/README.md; work on a copy of the
 * directory. */

enum rguard_wal_fault_kind {
    RGUARD_WAL_FAULT_PAYLOAD = 1, /* identity known: index, term, crc of each record */
    RGUARD_WAL_FAULT_TABLE = 2,   /* header or record table damaged; range known from neighbours */
    RGUARD_WAL_FAULT_LOST = 3,    /* nothing but the place is known */
    RGUARD_WAL_FAULT_UNREADABLE = 4, /* EIO */
    RGUARD_WAL_FAULT_MISDIRECTED = 5 /* a valid batch in a place that is not its own */
};

struct rguard_wal_fault
{
    size_t size;
    uint32_t kind;                    /* enum rguard_wal_fault_kind */
    uint32_t verdict;                 /* SUSPECT_TAIL or CORRUPT */
    uint64_t lsn, bytes;              /* the batch it lies in */
    uint64_t first_index, last_index; /* records to put back; both 0: none. last_index alone 0: from
                                       * first_index on, nobody knows how many */
    uint64_t term;                    /* of last_index, 0 when unknown */
    char file[64];
    uint64_t offset; /* first damaged byte; damage is narrowed to 512-byte sectors */
    uint64_t damaged_bytes;
    char text[128]; /* one sentence */
};

/* Copies up to @cap faults, oldest first, into @out (may be NULL with cap 0) and says in @n how many there
 * are. Includes what rguard_wal_scrub_step() has found since. */
RGUARD_API int rguard_wal_faults(const rguard_wal *w, struct rguard_wal_fault *out, size_t cap,
                                 size_t *n);

/* Identity of a record that is damaged, where it survived: term, type, len and crc are filled. -ENOENT:
 * not damaged or identity lost. */
RGUARD_API int rguard_wal_fault_record(const rguard_wal *w, uint64_t index,
                                       struct rguard_wal_record *out);

/* Puts a peer's copy of a damaged record in place. Where the identity survived only the identical (index,
 * term, type, crc) is accepted; where it is lost only what the caller vouches for: @committed is the peer's
 * commit index, and index must not lie above it. Journalled in the file "repair" and idempotent: a crash
 * at any point leaves either the damage or the repair, and what was put is still there after it. The
 * last record of a range makes the batch durable and re-verifies it from the device. Blocking.
 *
 * Where only the header of the batch survived, its checksums judge the range as a whole when the last
 * record is put; if they fail, all of them are asked for again. A tail of which nothing is known
 * (last_index 0) takes records in order; it is whole with the one at @committed, or when a record
 * comes that is larger than what is left of the place: that one was not here, is not taken, and
 * returns 0 (last_index says so). Give it a leader's commit index: nobody else's covers what this node may
 * have acknowledged.
 *
 * RGUARD_ECHECKSUM: not the record, or not the records, that stood here; RGUARD_ETOOBIG: more than
 * fits; RGUARD_EREFUSED: identity lost and above @committed; RGUARD_ENOTSUP: a file is missing or the
 * place unknown, re-sync; -ENOENT: no damage at this index; -EINVAL: the tail wants another index first;
 * -EIO: the device does not give back what was written. */
RGUARD_API int rguard_wal_repair_put(rguard_wal *w, const struct rguard_wal_record *record,
                                     uint64_t committed);

/* Cuts the log in @dir behind its last intact batch before the first damage. @accept_data_loss is needed
 * when the verdict is CORRUPT (RGUARD_EREFUSED otherwise, @report says what would be lost). A copy of
 * everything that is dropped goes into "quarantine-<lsn>" first. @dry_run changes nothing. The log must not be
 * in use. 0 also when there is nothing to cut. */
RGUARD_API int rguard_wal_drop_tail(const char *dir, bool accept_data_loss, bool dry_run,
                                    struct rguard_wal_report *report);

/* Verifies the next @max_bytes of acknowledged batches on the device and goes on from there with the next
 * call, round and round. *done is 1 when a round has just been completed. New damage is added to
 * rguard_wal_faults(), RGUARD_ECORRUPT comes back, and the log goes on as it is; a range that needs no
 * record is repaired at once, and rguard_wal_repair_put() takes the records of the others, whose
 * identity is known from memory. The caller limits the rate; damage costs the reading of a segment. */
RGUARD_API int rguard_wal_scrub_step(rguard_wal *w, size_t max_bytes, int *done);

/* Term and vote, one checksummed generation, two copies, durable before it returns (~0.4 ms).
 * Refuses (RGUARD_EVOTED) a second, different vote in one term, and -EINVAL a lower term. */
RGUARD_API int rguard_wal_meta_set(rguard_wal *w, uint64_t term, uint64_t vote);
RGUARD_API void rguard_wal_meta_get(const rguard_wal *w, uint64_t *term, uint64_t *vote);

/* "uring", "thread" or "sync". */
RGUARD_API const char *rguard_wal_backend(const rguard_wal *w);

/* 0, or the error that poisoned the log. */
RGUARD_API int rguard_wal_poisoned(const rguard_wal *w);

struct rguard_wal_stats
{
    size_t size;
    uint64_t batches, records, bytes; /* durable since open; bytes include padding */
    uint64_t marks, segments;
    uint64_t in_flight_records; /* queued or being written */
    uint64_t recycled;          /* segments that were made of old ones */
    uint64_t segment_waits;     /* batches that had to wait for their segment to be made */
    uint64_t segment_failures;  /* attempts to make one, or to remove one, that failed ... */
    int32_t segment_error;      /* ... and the last one's error; 0: the last one succeeded */
    uint32_t reserved;
};
RGUARD_API int rguard_wal_stats(const rguard_wal *w, struct rguard_wal_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
