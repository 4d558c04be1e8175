/* SPDX-License-Identifier: Apache-2.0 */
/* From findings to a verdict, a report, and the only change that recovery ever makes: cutting a
 * tail that was torn and never acknowledged. Invariant: no byte changes unless the verdict is
 * CLEAN_END or TORN_TAIL, and then only bytes behind the end of the log. */
#include "wal_internal.h"

#include <raftguard/testing.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct row
{
    uint32_t condition; /* 0: always */
    uint32_t verdict;
    uint32_t beats; /* conditions of later rows that would say something else if they came first */
    const char *advice;
};

/* The groups of rows whose order among each other matters for the message only. */
#define NOT_OURS (WAL_C_VERSION | WAL_C_FOREIGN)
#define LOST                                                                                    \
    (WAL_C_META | WAL_C_STALE_META | WAL_C_SEGMENT | WAL_C_LOGIC | WAL_C_BEHIND | WAL_C_ACKED | \
     WAL_C_NOT_CLOSED | WAL_C_MISPLACED)
#define TAIL (WAL_C_CLOSED | WAL_C_ROTTEN | WAL_C_TORN | WAL_C_STALE)

static const char resync[] = "nothing was changed; re-sync this node from its peers";
static const char repair[] = "nothing was changed; repair it from the node's peers";

/* The verdict is that of the first row whose condition was found. The order matters where `beats`
 * says so, and the paragraph says why. Among the rows with the verdict CORRUPT it decides which
 * finding is told: causes before symptoms. */
static const struct row verdicts[] = {
    /* What could not be read may be anything: a later version, another node's, a torn batch. No
     * later row may conclude from its absence, so this one stands first; a failing device is never
     * the end of a file. */
    {WAL_C_IO, RGUARD_WAL_UNREADABLE, NOT_OURS | LOST | TAIL,
     "nothing was changed; repair it from the node's peers, or replace the device"},

    /* Another release may have changed what everything below means, even what makes a log ours. */
    {WAL_C_VERSION, RGUARD_WAL_UNSUPPORTED, WAL_C_FOREIGN | LOST | TAIL,
     "nothing was changed; open it with that release"},

    /* Not ours: what looks like damage may be somebody's healthy data. */
    {WAL_C_FOREIGN, RGUARD_WAL_FOREIGN, LOST | TAIL, "nothing was changed; check the directory"},

    /* Term and vote are gone. A node that guesses may vote twice in one term, so this stands above
     * everything that the log itself could still say, above all that it was closed cleanly. */
    {WAL_C_META, RGUARD_WAL_CORRUPT, TAIL, resync},

    /* Both copies of term and vote are good but old: the device lost their newest writes, and the
     * log was written under a later generation. The vote in it may have been cast again. */
    {WAL_C_STALE_META, RGUARD_WAL_CORRUPT, TAIL, resync},

    /* A whole file of batches is missing or has lost its identity; the log around it looks like a
     * hole, and this row names the cause instead of the symptom. */
    {WAL_C_SEGMENT, RGUARD_WAL_CORRUPT, TAIL,
     "nothing was changed; bring the file back or re-sync this node from its peers"},

    /* Checksums are good, contents contradict: a write was lost or replaced by an older one, or a
     * program is wrong. Cutting would hide it. */
    {WAL_C_LOGIC, RGUARD_WAL_CORRUPT, TAIL, resync},

    /* One write is in flight at a time, so the valid batch behind the damage could only be written
     * after the damaged one was complete and acknowledged. Above the rows of the tail: what is
     * damaged is not the tail, whatever its sectors look like. */
    {WAL_C_BEHIND, RGUARD_WAL_CORRUPT, TAIL, repair},

    /* Nothing valid lies behind, but the metadata or a damaged batch's own header remembers an
     * acknowledged address beyond the end: acknowledged records are gone, though nothing may be
     * left to see of them but zeros. */
    {WAL_C_ACKED, RGUARD_WAL_CORRUPT, TAIL, repair},

    /* The clean flag is written after CLOSE and removed before the next batch. If CLOSE is not the
     * last valid batch, then batches are missing, or came from nowhere. */
    {WAL_C_NOT_CLOSED, RGUARD_WAL_CORRUPT, TAIL, repair},

    /* A batch of the present log in a wrong place: the device misdirected a write, so the place
     * that it was meant for cannot be trusted although it looks empty. Above the next row, because
     * a clean close does not excuse it. */
    {WAL_C_MISPLACED, RGUARD_WAL_CORRUPT, TAIL, repair},

    /* CLOSE is last and the clean flag is set: no write was in flight, so bytes behind the end are
     * nobody's records, rotten or not. The same holds when the metadata proves that the one block
     * that is missing was CLOSE itself. Above the two rows that would suspect them. */
    {WAL_C_CLOSED, RGUARD_WAL_CLEAN_END, WAL_C_ROTTEN | WAL_C_TORN, ""},

    /* The last batch, nothing valid behind it, no evidence that it was acknowledged, none that it
     * was not: a sector of it holds something that no interrupted write leaves behind. One such
     * sector outweighs any number that look torn or stale. */
    {WAL_C_ROTTEN, RGUARD_WAL_SUSPECT_TAIL, WAL_C_TORN | WAL_C_STALE,
     "nothing was changed; it may have been acknowledged: compare with the node's peers"},

    /* Every damaged sector is zero or what was there before: what an interrupted write leaves. Was
     * never acknowledged, unless rot imitates a tear; see wal.h, "what no local log can know". Stale
     * blocks beside it do not make it whole. */
    {WAL_C_TORN, RGUARD_WAL_TORN_TAIL, WAL_C_STALE, "it was never acknowledged and is dropped"},

    /* Whole batches of an earlier epoch up to the end: the file was used before. */
    {WAL_C_STALE, RGUARD_WAL_CLEAN_END, 0, ""},

    /* Zeros up to the end. */
    {0, RGUARD_WAL_CLEAN_END, 0, ""},
};

bool rguard__wal_verdict_row(size_t i, uint32_t *condition, uint32_t *verdict, uint32_t *beats)
{
    if (i >= sizeof verdicts / sizeof verdicts[0]) {
        return false;
    }
    *condition = verdicts[i].condition;
    *verdict = verdicts[i].verdict;
    *beats = verdicts[i].beats;
    return true;
}

static const struct row *first_row(uint32_t conditions)
{
    const struct row *row = verdicts;
    while (row->condition != 0 && (conditions & row->condition) == 0) {
        row++;
    }
    return row;
}

enum rguard_wal_verdict rguard__wal_verdict(uint32_t conditions, const char **advice)
{
    const struct row *row = first_row(conditions);
    if (advice != NULL) {
        *advice = row->advice;
    }
    if (row->verdict == RGUARD_WAL_CORRUPT && RGUARD_TEST_OFF("drop_corrupt")) {
        return RGUARD_WAL_TORN_TAIL; /* a planted bug */
    }
    return (enum rguard_wal_verdict)row->verdict;
}

const char *rguard_wal_verdict_name(uint32_t verdict)
{
    switch (verdict) {
#define RGUARD_WAL_VERDICT_NAME(name, value, text) \
    case name:                                     \
        return text;
        RGUARD_WAL_VERDICTS(RGUARD_WAL_VERDICT_NAME)
#undef RGUARD_WAL_VERDICT_NAME
        default:
            return "?";
    }
}

int rguard__wal_verdict_error(uint32_t verdict)
{
    static const int errors[] = {
        0, 0, RGUARD_ESUSPECT, RGUARD_ECORRUPT, -EIO, RGUARD_EFOREIGN, RGUARD_EUNSUPPORTED};
    return errors[verdict];
}

/* ---- report ---- */

/* What the verdict rests on: the finding of the first row that applies. */
static const struct wal_finding *finding(const struct wal_scan *s)
{
    const struct row *row = first_row(s->conditions);
    static const struct wal_finding none = {"", 0, 0};
    return row->condition == 0 ? &none : &s->found[__builtin_ctz(row->condition)];
}

/* The records of the damaged place that a finding is about, or of the first one, together with those
 * of the places that join on to it. */
static void damaged_range(const struct wal_scan *s, const struct wal_finding *f,
                          struct rguard_wal_report *r)
{
    size_t i = 0;
    for (size_t k = 0; k < s->faults.n; k++) {
        const struct wal_fault *fault = &s->faults.v[k];
        uint64_t from = fault->pub.lsn - fault->segment.first_lsn;
        if (fault->segment.sequence == f->segment && f->offset >= from &&
            f->offset - from < fault->pub.bytes) {
            i = k;
            break;
        }
    }
    for (; i < s->faults.n; i++) {
        const struct rguard_wal_fault *pub = &s->faults.v[i].pub;
        if (r->damage_first_index == 0) {
            r->damage_first_index = pub->first_index;
        }
        r->damage_last_index = pub->last_index;
        if (i + 1 == s->faults.n || pub->lsn + pub->bytes != s->faults.v[i + 1].pub.lsn ||
            s->faults.v[i + 1].pub.first_index == 0) {
            break;
        }
    }
}

static void range_text(const struct rguard_wal_report *r, char *text, size_t len)
{
    if (r->damage_first_index == 0) {
        text[0] = '\0';
    } else if (r->damage_first_index == r->damage_last_index) {
        (void)snprintf(text, len, ", record %" PRIu64, r->damage_first_index);
    } else if (r->damage_last_index == 0) {
        (void)snprintf(text, len, ", records from %" PRIu64 " on", r->damage_first_index);
    } else {
        (void)snprintf(text, len, ", records %" PRIu64 " to %" PRIu64, r->damage_first_index,
                       r->damage_last_index);
    }
}

static void explain(const struct wal_scan *s, struct rguard_wal_report *r, const char *advice)
{
    const struct wal_finding *f = finding(s);
    if (r->verdict == RGUARD_WAL_CLEAN_END) {
        (void)snprintf(r->message, sizeof r->message, "%s", f->what); /* harmless, if anything */
        return;
    }
    if (r->verdict == RGUARD_WAL_TORN_TAIL) {
        r->dropped_records = s->gap_records;
    } else {
        damaged_range(s, f, r);
    }
    r->offset = f->offset;
    if (f->segment == 0) {
        (void)snprintf(r->file, sizeof r->file, "%s", s->have_meta ? "meta" : "");
        (void)snprintf(r->message, sizeof r->message, "%s; %s", f->what, advice);
        return;
    }
    char name[WAL_NAME_MAX], range[64];
    rguard__wal_segment_name(f->segment, name);
    range_text(r, range, sizeof range);
    (void)snprintf(r->file, sizeof r->file, "%s", name);
    (void)snprintf(r->message, sizeof r->message, "%s offset %" PRIu64 "%s: %s; %s", name,
                   f->offset, range, f->what, advice);
}

void rguard__wal_report(const struct wal_scan *s, struct rguard_wal_report *r)
{
    const char *advice;
    memset(r, 0, sizeof *r);
    r->size = sizeof *r;
    r->verdict = rguard__wal_verdict(s->conditions, &advice);
    r->clean_close = (s->conditions & WAL_C_CLOSED) != 0;
    r->first_index = s->index.n > 0 ? s->index.first : 0;
    r->last_index = s->last_index;
    r->last_term = s->last_term;
    r->base_index = s->base_index;
    r->base_term = s->base_term;
    r->term = s->meta.term;
    r->vote = s->meta.vote;
    r->acked_lsn = s->acked_lsn;
    r->warnings = s->warnings;
    if (s->error != 0) {
        (void)snprintf(r->message, sizeof r->message, "%s", s->what);
    } else {
        explain(s, r, advice);
    }
}

/* ---- cutting ---- */

/* Zeroes, durably, what lies behind the end, so that appends go over zeros again. Files behind the
 * last used segment go as a whole: if they are not empty, parts of the torn batch are all they
 * hold. */
int rguard__wal_cut(struct wal_scan *s)
{
    const struct rguard_disk_ops *ops = s->disk->ops;
    const struct wal_segment *g = &s->segments.v[s->last_segment];
    char name[WAL_NAME_MAX];
    struct rguard_file *f;
    rguard__wal_segment_name(g->sequence, name);
    int rc = ops->open(s->disk, name, O_RDWR, &f);
    if (rc != 0) {
        return rc;
    }
    uint64_t end = rguard__wal_segment_limit(g);
    if (s->end < end) {
        rc = ops->zero(s->disk, f, end - s->end, s->end - g->first_lsn);
    }
    if (rc == 0) {
        rc = ops->sync(s->disk, f);
    }
    ops->close(s->disk, f);
    while (rc == 0 && s->segments.n > s->last_segment + 1) {
        rc = rguard__wal_segments_push(&s->leftovers, &s->segments.v[--s->segments.n]);
    }
    return rc;
}

/* ---- a log in use ---- */

static void reset_scan(struct wal_scan *s)
{
    struct wal_scan fresh = {.disk = s->disk,
                             .options = s->options,
                             .visit = s->visit,
                             .visit_user = s->visit_user,
                             .buf = s->buf,
                             .bad = s->bad,
                             .buf_bytes = s->buf_bytes};
    s->buf = s->bad = NULL;
    rguard__wal_scan_free(s);
    *s = fresh;
}

/* Without the lock, a writer may be at work: what looks torn is being written, what looks like a
 * hole was filled after we had passed it, a file that was listed has been dropped. All that moves
 * on; damage does not. So a finding counts when two scans in a row agree on it. */
void rguard__wal_scan_stable(struct wal_scan *s, struct rguard_wal_report *report)
{
    struct rguard_wal_report before;
    rguard__wal_scan(s);
    rguard__wal_report(s, report);
    for (int i = 0; i < 8 && (report->verdict != RGUARD_WAL_CLEAN_END || s->error != 0); i++) {
        int error = s->error;
        before = *report;
        reset_scan(s);
        rguard__wal_scan(s);
        rguard__wal_report(s, report);
        if (s->error == error && report->verdict == before.verdict &&
            report->offset == before.offset && strcmp(report->file, before.file) == 0) {
            return;
        }
    }
}
