/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_WAL_INTERNAL_H
#define RGUARD_WAL_INTERNAL_H

#include "format_internal.h"

#include <raftguard/disk.h>
#include <raftguard/wal.h>

/* The handle, and what its files say to each other:
 *
 *     open.c      options, lock, create, open, close
 *     append.c    the queue: group commit, callbacks, truncation, poison
 *     segment.c   names, the list of segments, switching and dropping them
 *     factory.c   making the next segment, recycling and removing what is not needed any more
 *     index.c     index -> (term, address, length, crc) of every live record
 *     meta.c      term, vote, clean flag: four slots
 *     scan.c      what is on disk: directory, metadata, segment headers
 *     walk.c      every valid batch, and every place that should have one
 *     recover.c   the verdict table, the report, cutting a torn tail
 *     faults.c    which records each damaged place held, and which of them survived
 *     repair.c    putting them back: identity, rewriting, verification
 *     journal.c   what a repair was given and is about to write, so that a crash does not matter
 *     quarantine.c copying what is going to be dropped; drop_tail
 *     scrub.c     finding rot before a restart does
 *     read.c      records back from disk, statistics */

/* ---- index ---- */

struct wal_entry
{
    uint64_t term;
    uint64_t lsn; /* of the data */
    uint32_t len;
    uint32_t crc;
    uint32_t type;
    uint32_t fault; /* 0: intact; else it is damaged: number of the fault, from 1 */
};

/* Live records first .. first + n - 1 in a ring of 2^k entries. */
struct wal_index
{
    struct wal_entry *ring;
    size_t capacity;
    size_t head; /* slot of first */
    size_t n;
    uint64_t first;
};

int rguard__wal_index_reserve(struct wal_index *ix, size_t n);
void rguard__wal_index_push(struct wal_index *ix, const struct wal_entry *entry);
void rguard__wal_index_clear(struct wal_index *ix, uint64_t next);
void rguard__wal_index_drop_from(struct wal_index *ix, uint64_t from);
void rguard__wal_index_drop_upto(struct wal_index *ix, uint64_t upto);
struct wal_entry *rguard__wal_index_at(const struct wal_index *ix, uint64_t index);
const struct wal_entry *rguard__wal_index_get(const struct wal_index *ix, uint64_t index);
void rguard__wal_index_free(struct wal_index *ix);

/* ---- segments ---- */

struct wal_segment
{
    uint64_t sequence, salt, first_lsn, bytes;
    uint32_t heal; /* copies of the header that recovery found damaged */
};

#define WAL_HEAL_FIRST 1u
#define WAL_HEAL_LAST  2u

struct wal_segments
{
    struct wal_segment *v; /* ascending; the last one is being written */
    size_t n, capacity;
};

#define WAL_NAME_MAX 32

/* ---- the factory ---- */

/* Names the step that is next, or that the helper is about. */
enum wal_factory_state {
    WAL_SPARE_NONE,
    WAL_SPARE_FILE,
    WAL_SPARE_ZEROS,
    WAL_SPARE_SYNC,
    WAL_SPARE_NAME,
    WAL_SPARE_READY,
    WAL_SPARE_DISCARD, /* it is too small for the batch that waits */
};

/* Up to `running` the fields are the helper's while it runs; the others are always the owner's. */
struct wal_factory
{
    struct rguard_disk *disk;
    enum wal_factory_state state;
    struct wal_segment segment;
    struct rguard_file *file;
    uint64_t old_name; /* the sequence in the file's name; 0: segment.sequence */
    uint64_t zeroed;
    uint64_t freed, freed_end; /* sequences of files that nobody needs any more */
    uint8_t *block;            /* the header */

    bool running;
    bool recycled;
    bool closing;                /* nothing new is begun */
    bool waiting;                /* a batch is ... */
    uint64_t need;               /* ... for a segment of so many bytes */
    int error;                   /* of the last attempt that ended while it waited */
    uint64_t retry_ms;           /* not before, unless a batch waits */
    uint64_t free_from, free_to; /* handed over to freed, freed_end with the next piece of work */
};

/* ---- damaged places ---- */

/* A record that a damaged place held. */
struct wal_lost_record
{
    struct rguard_wal_record id; /* data: what repair_put() brought, on the heap */
    bool known;                  /* term, type, len and crc in id have survived */
    bool intact;                 /* its bytes have, too */
    bool live;                   /* it is still part of the log */
    bool needed;                 /* ... and it is damaged */
    uint32_t offset;             /* of the bytes in the batch, where known */
};

/* One damaged place: one batch whose header is known, or a stretch of which nothing is. */
struct wal_fault
{
    struct rguard_wal_fault pub;
    struct wal_segment segment;      /* bytes 0: the place cannot be repaired */
    struct wal_batch_header h;       /* lsn 0: lost */
    struct wal_batch_header prev;    /* the batch before it; lsn 0: unknown, or none */
    uint64_t stands_lsn;             /* what the batch behind a lost one names as predecessor; */
    uint32_t stands_crc;             /* 0: nothing is behind it */
    bool tail;                       /* nothing valid lies behind it */
    bool live;                       /* found by the scrubber, in a log that is in use */
    bool whole;                      /* repaired */
    uint64_t least_term, most_term;  /* of its neighbours */
    struct wal_lost_record *records; /* from pub.first_index on */
    size_t n;
};

struct wal_fault_list
{
    struct wal_fault *v;
    size_t n, capacity;
};

/* ---- the journal of repairs ---- */

enum wal_journal_kind {
    WAL_JOURNAL_PUT = 1,
    WAL_JOURNAL_WRITE,
    WAL_JOURNAL_ZERO,
    WAL_JOURNAL_COMMIT,
    WAL_JOURNAL_RESOLVED
};

struct wal_journal_entry
{
    uint32_t kind;
    uint32_t type; /* PUT: the record's */
    uint8_t uuid[WAL_UUID];
    uint64_t lsn; /* the damaged place */
    uint64_t index, term;
    uint64_t segment, salt, offset, bytes; /* WRITE, ZERO */
    uint32_t data_bytes;
};

struct wal_journal
{
    struct rguard_file *file;
    uint64_t end, n;
};

/* ---- the queue ---- */

struct wal_request
{
    struct wal_request *next;
    uint32_t type; /* enum wal_batch_type */
    int status;
    struct rguard_wal_record *records; /* array kept and reused with the node */
    size_t n, capacity;
    size_t taken;        /* records that are durable */
    uint64_t visible_to; /* a truncation that was queued later hides records above */
    uint64_t arg_index, arg_term;
    rguard_wal_append_cb cb;
    void *user;
};

struct wal_queue
{
    struct wal_request *head;
    struct wal_request *tail;
};

/* ---- the handle ---- */

struct rguard_wal
{
    struct rguard_disk *disk;
    int lock_fd; /* -1: none */
    struct rguard_wal_options options;
    uint64_t random_state; /* 0: the system's generator */

    struct wal_meta meta; /* the newest durable generation */
    struct rguard_file *meta_file;
    uint8_t *meta_block; /* one aligned block to write from */

    struct wal_segments segments;
    struct rguard_file *file; /* of the last segment */
    uint64_t end;             /* LSN of the next batch */
    struct wal_batch_header last;
    struct wal_factory factory;

    struct wal_fault_list faults; /* damaged places that are known */
    bool damaged;                 /* opened with some of them: nothing is appended */
    unsigned healing;             /* depth of repairs that lead to further ones */
    struct wal_journal journal;
    uint64_t scrub_lsn; /* 0: at the start */
    struct wal_batch_header scrub_prev;

    struct wal_index index;
    uint64_t base_index, base_term, base_lsn;
    uint64_t tail_index, tail_term; /* after everything that is queued */

    struct wal_queue queue; /* the batch in flight is made of its first requests */
    struct wal_queue done;  /* callbacks to run */
    struct wal_request *free;
    size_t reserved; /* queued records, for which the index has room */
    uint8_t *buf;    /* the batch */
    size_t buf_bytes;
    struct wal_batch_header batch; /* in flight */
    bool in_flight;
    size_t batch_requests; /* how many of the queue it takes records from */
    unsigned delivering;   /* depth of callbacks */
    int poisoned;
    uint64_t refusals; /* how often the queue was sent back for lack of space ... */
    int refused;       /* ... and the last one's error */

    uint64_t completed_lsn; /* durable */
    uint64_t acked_lsn;     /* ... and every callback has returned */
    uint64_t recorded_lsn;  /* ... and a batch on disk says so */
    uint64_t idle_since_ms;

    struct rguard_file *read_file; /* the segment that was read last */
    uint64_t read_sequence;
    uint8_t *read_buf; /* holds the log from LSN read_from to read_until */
    size_t read_bytes;
    uint64_t read_from, read_until;
    uint64_t read_next; /* index behind the record that was read last */

    struct rguard_wal_stats stats;
};

/* open.c */
int rguard__wal_open_disk(struct rguard_disk *disk, const struct rguard_wal_options *options,
                          rguard_wal **out, struct rguard_wal_report *report);
void rguard__wal_random(rguard_wal *w, void *out, size_t len);
int rguard__wal_resolve(const struct rguard_wal_options *in, struct rguard_wal_options *out);
int rguard__wal_take_lock(const char *dir, int *out);
int rguard__wal_explain(struct rguard_wal_report *report, int rc, const char *what);
void rguard__wal_report_out(const struct rguard_wal_report *r, struct rguard_wal_report *out);
int rguard__wal_new(struct rguard_disk *disk, const struct rguard_wal_options *options,
                    rguard_wal **out, struct rguard_wal_report *report);
void rguard__wal_release(rguard_wal *w);

/* append.c */
int rguard__wal_control(rguard_wal *w, uint32_t type, uint64_t arg_index, uint64_t arg_term);
void rguard__wal_poison(rguard_wal *w, int err);
void rguard__wal_cancel(rguard_wal *w);
void rguard__wal_queue_free(rguard_wal *w);
uint64_t rguard__wal_now_ms(void);

/* segment.c */
void rguard__wal_segment_name(uint64_t sequence, char name[WAL_NAME_MAX]);
uint64_t rguard__wal_segment_parse(const char *name);     /* 0: not a segment's name */
int rguard__wal_segments_reserve(struct wal_segments *s); /* so that the next push cannot fail */
int rguard__wal_segments_push(struct wal_segments *s, const struct wal_segment *segment);
const struct wal_segment *rguard__wal_segments_find(const struct wal_segments *s, uint64_t lsn);
int rguard__wal_segment_first(rguard_wal *w); /* creates segment 1 */
/* 0: a batch fits into the current segment, perhaps after a switch. WAL_WAIT: the next segment is
 * being made. Else the error that making it met; nothing has changed. */
int rguard__wal_segment_room(rguard_wal *w, uint64_t bytes);
bool rguard__wal_segment_ready(const rguard_wal *w, uint64_t bytes); /* room() would say 0 */
void rguard__wal_segments_drop(rguard_wal *w, uint64_t first_sequence);

/* factory.c */
#define WAL_WAIT 1
int rguard__wal_factory_open(rguard_wal *w);
void rguard__wal_factory_stop(rguard_wal *w); /* waits for the helper, closes the spare */
void rguard__wal_factory_finish(rguard_wal *w);
int rguard__wal_factory_adopt(rguard_wal *w, const struct wal_segment *spare);
int rguard__wal_factory_make(rguard_wal *w); /* a spare, while the caller waits */
bool rguard__wal_factory_ready(const rguard_wal *w, uint64_t need);
int rguard__wal_factory_want(rguard_wal *w, uint64_t need); /* 0, WAL_WAIT or an error */
void rguard__wal_factory_take(rguard_wal *w, struct wal_segment *segment, struct rguard_file **f);
/* Files first..end-1 are to be recycled or removed. The metadata says durably that they are not
 * needed, and nobody has them open. */
void rguard__wal_factory_free(rguard_wal *w, uint64_t first, uint64_t end);
void rguard__wal_factory_turn(rguard_wal *w); /* starts the next step, if any */
int rguard__wal_factory_timeout_ms(
    const rguard_wal *w); /* until turn() has something to do, or -1 */

/* meta.c */
int rguard__wal_meta_create(rguard_wal *w);
int rguard__wal_meta_write(rguard_wal *w, const struct wal_meta *next);

/* scan.c, recover.c */

/* What recovery can find, one bit each; the verdict table is in recover.c. */
enum wal_condition {
    WAL_C_IO = 1u << 0,         /* the device failed to read */
    WAL_C_VERSION = 1u << 1,    /* the format of another release */
    WAL_C_FOREIGN = 1u << 2,    /* another node's, another log's, another program's */
    WAL_C_META = 1u << 3,       /* term and vote are lost */
    WAL_C_STALE_META = 1u << 4, /* term and vote are older than what the log was written under */
    WAL_C_SEGMENT = 1u << 5,    /* a segment is missing, or both its headers are and it has data */
    WAL_C_LOGIC = 1u << 6,      /* valid batches contradict each other */
    WAL_C_BEHIND = 1u << 7,     /* a valid batch lies behind the damage */
    WAL_C_ACKED = 1u << 8,      /* the log ends below an LSN that was acknowledged */
    WAL_C_NOT_CLOSED = 1u << 9, /* the clean flag is set, but CLOSE is not the last batch */
    WAL_C_MISPLACED = 1u << 10, /* a batch of this log lies where it does not belong */
    WAL_C_CLOSED = 1u << 11,    /* clean flag and CLOSE agree: nothing was in flight */
    WAL_C_ROTTEN = 1u << 12,    /* behind the end: bytes that are neither zero, stale nor a tear */
    WAL_C_TORN = 1u << 13,      /* behind the end: parts of a batch */
    WAL_C_STALE = 1u << 14      /* behind the end: whole batches of an earlier epoch */
};
#define WAL_CONDITIONS 15

enum rguard_wal_verdict rguard__wal_verdict(uint32_t conditions, const char **advice);
/* For the tests of the table: row @i, from 0. false: there is no such row. */
bool rguard__wal_verdict_row(size_t i, uint32_t *condition, uint32_t *verdict, uint32_t *beats);

/* A good header that lies in a damaged place, or in the wrong one. */
struct wal_sighting
{
    uint64_t at; /* LSN of the place where it lies */
    struct wal_batch_header h;
    struct wal_batch_header prev; /* lsn 0: not known */
};

/* The log up to the first damage: what is left when the rest is dropped. */
struct wal_cut
{
    bool known;
    uint64_t end; /* 0: nothing is left */
    uint64_t last_index, last_term;
    uint64_t segment; /* sequence */
    size_t k;         /* ... into segments */
};

struct wal_finding
{
    char what[160];   /* one sentence */
    uint64_t segment; /* sequence, 0: none */
    uint64_t offset;
};

/* Called for every valid batch in the order of the log, for tools. */
typedef void (*wal_visit)(void *user, const struct wal_segment *segment, uint64_t offset,
                          const uint8_t *batch, const struct wal_batch_header *h);

struct wal_scan
{
    struct rguard_disk *disk;
    const struct rguard_wal_options *options;
    wal_visit visit;
    void *visit_user;

    uint32_t conditions; /* bits of enum wal_condition */
    int error;           /* not a finding: out of memory, no permission */
    unsigned warnings;
    char what[160];                           /* of error */
    struct wal_finding found[WAL_CONDITIONS]; /* the first of each kind */
    bool empty;    /* nothing of ours in the directory, or a creation that was cut short */
    bool hopeless; /* it makes no sense to look further */
    bool have_repair;

    struct wal_meta meta;
    bool have_meta;
    bool meta_bad_copy;
    uint64_t *sequences; /* of every segment file, ascending */
    size_t n_sequences, sequences_capacity;
    struct wal_segments segments;  /* those with good headers */
    struct wal_segments leftovers; /* unfinished or obsolete files, to be removed */

    uint8_t *buf; /* one segment */
    size_t buf_bytes;
    uint8_t *bad; /* per sector of buf: it could not be read, and is zero */
    size_t n_bad;

    /* The log so far. */
    struct wal_index index;
    bool anchored; /* the index knows which record comes next */
    uint64_t base_index, base_term, base_lsn;
    struct wal_batch_header last; /* lsn 0: none */
    size_t last_segment;          /* where it is, into segments */
    uint64_t end;                 /* behind it; 0: no segment */
    uint64_t last_index, last_term;
    uint64_t acked_lsn; /* highest evidence */
    uint64_t batches;

    /* What lies behind the end so far: WAL_C_ROTTEN, _TORN, _STALE, _MISPLACED. */
    uint32_t gap;
    uint64_t gap_segment, gap_offset; /* its first block */
    uint64_t gap_records;             /* in it, when it starts with a good header */
    uint64_t gap_known_end;           /* LSN: end of a damaged batch whose header is good */
    uint64_t gap_end;                 /* LSN behind the last block of the gap that is not zero */

    struct wal_sighting *seen;
    size_t n_seen, seen_capacity;
    struct wal_fault_list faults;
    struct wal_cut cut;
};

void rguard__wal_redo(struct wal_scan *s);
void rguard__wal_scan(struct wal_scan *s);
/* open.c: the handle of a log that has been scanned and is damaged; and of the same one, repaired. */
int rguard__wal_adopt_damaged(rguard_wal *w, struct wal_scan *s);
int rguard__wal_readopt(rguard_wal *w, struct rguard_wal_report *r);
void rguard__wal_find(struct wal_scan *s, uint32_t condition, uint64_t segment, uint64_t offset,
                      const char *format, ...) __attribute__((format(printf, 5, 6)));
/* Reads @len bytes at @offset, both whole blocks, and on EIO splits the range down to sectors: those
 * that cannot be read are zeroed, marked in @bad (one byte each, already zero) and counted. Returns
 * the bytes before the end of the file, or a negative error other than -EIO. */
int64_t rguard__wal_read_split(struct rguard_disk *disk, struct rguard_file *f, uint8_t *buf,
                               size_t len, uint64_t offset, uint8_t *bad, size_t *n_bad);
/* walk.c: segment @k is in s->buf, and @offset is where a batch may begin; and the end, when all
 * segments have been. */
void rguard__wal_walk(struct wal_scan *s, size_t k, uint64_t offset);
void rguard__wal_walk_end(struct wal_scan *s);
/* Remembers, at the first call, that the log is whole up to here. */
void rguard__wal_mark_cut(struct wal_scan *s);
/* Takes the batch @h, which is damaged or lost in fault @fault (0: it is not), into the index. */
void rguard__wal_apply(struct wal_scan *s, const struct wal_batch_header *h, const uint8_t *batch,
                       uint32_t fault);
/* Records up to @last are lost in @fault, and nothing else is known of them. */
bool rguard__wal_bridge(struct wal_scan *s, uint64_t last, uint64_t bytes, uint32_t fault);

/* faults.c: can the log be opened with its damage? */
bool rguard__wal_openable(const struct wal_scan *s);
/* What lies between s->last and the valid batch @h at @batch has been lost. */
void rguard__wal_hole(struct wal_scan *s, const uint8_t *batch, const struct wal_batch_header *h);
/* What lies behind the end is damaged. */
void rguard__wal_tail_hole(struct wal_scan *s);
/* Looks at every damaged place: what is left of which record. */
int rguard__wal_examine(struct wal_scan *s);
int rguard__wal_examine_one(struct rguard_disk *disk, struct wal_fault *f);
int rguard__wal_examine_lost(struct wal_fault *f);
/* The bytes of the batch with the known header f->h; @bad: one byte per sector, zero. */
int rguard__wal_read_place(struct rguard_disk *disk, const struct wal_fault *f, uint8_t *buf,
                           uint8_t *bad, size_t *n_bad);
void rguard__wal_fault_narrow(struct wal_fault *f);
void rguard__wal_faults_free(struct wal_fault_list *l);
uint32_t rguard__wal_fault_push(struct wal_fault_list *l, const struct wal_fault *f);
struct wal_lost_record *rguard__wal_fault_find(const struct wal_fault_list *l, uint64_t index,
                                               struct wal_fault **fault);
void rguard__wal_fault_text(struct wal_fault *f);
uint64_t rguard__wal_segment_limit(const struct wal_segment *g); /* LSN: batches end here */
void rguard__wal_scan_free(struct wal_scan *s);
bool rguard__wal_foreign(struct rguard_disk *disk, bool *empty);
void rguard__wal_report(const struct wal_scan *s, struct rguard_wal_report *report);
int rguard__wal_verdict_error(uint32_t verdict);
/* journal.c */
typedef void (*rguard__wal_journal_fn)(rguard_wal *w, const struct wal_journal_entry *e,
                                       const uint8_t *data);
int rguard__wal_journal_append(rguard_wal *w, const struct wal_journal_entry *e, const void *data);
int rguard__wal_journal_load(rguard_wal *w, rguard__wal_journal_fn fn);
int rguard__wal_journal_apply(struct rguard_disk *disk, const struct wal_journal_entry *e,
                              const uint8_t *data);
/* Carries out what was committed and perhaps not done. Changes nothing when there is no such thing. */
int rguard__wal_journal_redo(struct rguard_disk *disk);
int rguard__wal_journal_remove(rguard_wal *w);
void rguard__wal_journal_close(rguard_wal *w);

/* repair.c: takes up repairs that were begun, and repairs what needs no record. */
int rguard__wal_heal(rguard_wal *w);
/* Places in a log that is in use: those that are gone with their file are not missed, and those that
 * need no record are repaired. */
int rguard__wal_heal_live(rguard_wal *w);

/* quarantine.c */
int rguard__wal_quarantine(rguard_wal *w, const struct wal_segment *segment, uint64_t lsn,
                           const uint64_t *others, size_t n);
int rguard__wal_drop_tail_disk(struct rguard_disk *disk, const struct rguard_wal_options *options,
                               bool accept, struct rguard_wal_report *report);
/* Zeroes what lies behind the end, durably. */
int rguard__wal_cut(struct wal_scan *s);
/* Scans a directory that another process may be writing to, until two scans agree. */
void rguard__wal_scan_stable(struct wal_scan *s, struct rguard_wal_report *report);

#endif
