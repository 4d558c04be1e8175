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
    const char *advice;
};

/* The verdict is that of the first row whose condition was found. The order matters, and where it
 * does the paragraph says so. */
static const struct row verdicts[] = {
    /* What could not be read may be anything. No later row may conclude from its absence; a failing
     * device is never the end of a file. */
    {WAL_C_IO, RGUARD_WAL_UNREADABLE,
     "nothing was changed; replace the device or re-sync this node from its peers"},

    /* A later release may have changed what everything below means. */
    {WAL_C_NEWER, RGUARD_WAL_UNSUPPORTED, "nothing was changed; open it with the newer release"},

    /* Not ours: what looks like damage may be somebody's healthy data. */
    {WAL_C_FOREIGN, RGUARD_WAL_FOREIGN, "nothing was changed; check the directory"},

    /* Term and vote are gone. A node that guesses may vote twice in one term, so this stands above
     * everything that the log itself could still say. */
    {WAL_C_META, RGUARD_WAL_CORRUPT, "nothing was changed; re-sync this node from its peers"},

    /* A whole file of batches is missing or has lost its identity; the log around it looks like a
     * hole, and this row names the cause instead of the symptom. */
    {WAL_C_SEGMENT, RGUARD_WAL_CORRUPT,
     "nothing was changed; bring the file back or re-sync this node from its peers"},

    /* Checksums are good, contents contradict: a write was lost or replaced by an older one, or a
     * program is wrong. Cutting would hide it. */
    {WAL_C_LOGIC, RGUARD_WAL_CORRUPT, "nothing was changed; re-sync this node from its peers"},

    /* One write is in flight at a time, so the valid batch behind the damage could only be written
     * after the damaged one was complete and acknowledged. */
    {WAL_C_BEHIND, RGUARD_WAL_CORRUPT, "nothing was changed; repair it from the node's peers"},

    /* Nothing valid lies behind, but the metadata or a damaged batch's own header remembers an
     * acknowledged address beyond the end: acknowledged records are gone. */
    {WAL_C_ACKED, RGUARD_WAL_CORRUPT, "nothing was changed; repair it from the node's peers"},

    /* The clean flag is written after CLOSE and removed before the next batch. If CLOSE is not the
     * last valid batch, then batches are missing, or came from nowhere. */
    {WAL_C_NOT_CLOSED, RGUARD_WAL_CORRUPT, "nothing was changed; repair it from the node's peers"},

    /* A batch of the present log in a wrong place: the device misdirected a write, so the place
     * that it was meant for cannot be trusted although it looks empty. Above the next row, because
     * a clean close does not excuse it. */
    {WAL_C_MISPLACED, RGUARD_WAL_CORRUPT, "nothing was changed; repair it from the node's peers"},

    /* CLOSE is last and the clean flag is set: no write was in flight, so bytes behind the end are
     * nobody's records, rotten or not. Above the two rows that would suspect them. */
    {WAL_C_CLOSED, RGUARD_WAL_CLEAN_END, ""},

    /* The last batch, nothing valid behind it, no evidence that it was acknowledged, none that it
     * was not: a sector of it holds something that no interrupted write leaves behind. */
    {WAL_C_ROTTEN, RGUARD_WAL_SUSPECT_TAIL,
     "nothing was changed; it may have been acknowledged: compare with the node's peers"},

    /* Every damaged sector is zero or what was there before: what an interrupted write leaves. Was
     * never acknowledged, unless rot imitates a tear; see wal.h, "what no local log can know". */
    {WAL_C_TORN, RGUARD_WAL_TORN_TAIL, "it was never acknowledged and is dropped"},

    /* Zeros, or whole batches of an earlier epoch, up to the end. */
    {0, RGUARD_WAL_CLEAN_END, ""},
};

enum rguard_wal_verdict rguard__wal_verdict(uint32_t conditions, const char **advice)
{
    const struct row *row = verdicts;
    while (row->condition != 0 && (conditions & row->condition) == 0) {
        row++;
    }
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

static void range_text(const struct wal_damage *d, char *text, size_t len)
{
    if (d->first_index == 0) {
        text[0] = '\0';
    } else if (d->first_index == d->last_index) {
        (void)snprintf(text, len, ", record %" PRIu64, d->first_index);
    } else {
        (void)snprintf(text, len, ", records %" PRIu64 " to %" PRIu64, d->first_index,
                       d->last_index);
    }
}

void rguard__wal_report(const struct wal_scan *s, struct rguard_wal_report *r)
{
    const char *advice;
    char range[64];
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
        return;
    }
    if (r->verdict == RGUARD_WAL_CLEAN_END) {
        return;
    }
    if (r->verdict == RGUARD_WAL_TORN_TAIL) {
        r->dropped_records = s->damage.records;
    } else {
        r->damage_first_index = s->damage.first_index;
        r->damage_last_index = s->damage.last_index;
    }
    r->offset = s->damage.offset;
    if (s->damage.segment == 0) {
        (void)snprintf(r->file, sizeof r->file, "%s", s->have_meta ? "meta" : "");
        (void)snprintf(r->message, sizeof r->message, "%s; %s", s->what, advice);
        return;
    }
    char name[WAL_NAME_MAX];
    rguard__wal_segment_name(s->damage.segment, name);
    range_text(&s->damage, range, sizeof range);
    (void)snprintf(r->file, sizeof r->file, "%s", name);
    (void)snprintf(r->message, sizeof r->message, "%s offset %" PRIu64 "%s: %s; %s", name,
                   s->damage.offset, range, s->what, advice);
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
    uint64_t end = g->first_lsn + g->bytes;
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
                             .buf_bytes = s->buf_bytes};
    s->buf = NULL;
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
