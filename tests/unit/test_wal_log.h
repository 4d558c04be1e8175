/* SPDX-License-Identifier: Apache-2.0 */
#ifndef RGUARD_TEST_WAL_LOG_H
#define RGUARD_TEST_WAL_LOG_H

/* A small log with a known layout, to be damaged: what test_wal_recover.c and test_wal_repair.c
 * share. */
#include "test_wal_util.h"

#include "wal_internal.h"

/* Five batches of three records, 4, 4, 12, 4 and 12 KiB long, then what the log ended with. */
enum ending { KILLED, MARKED, CLOSED };

#define RECORDS 15u
UNUSED static const uint32_t batch_len[5] = {700, 10, 3500, 1000, 3300};
UNUSED static const uint64_t batch_at[6] = {4096,  8192,  12288,
                                            24576, 28672, 40960}; /* [5]: the end */

UNUSED static struct rguard_wal_options recover_options(void)
{
    struct rguard_wal_options o = {
        .size = sizeof o, .node_id = 7, .segment_bytes = 96 * 1024, .backend = "sync", .seed = 5};
    return o;
}

/* Writes the log into @dir; KILLED and MARKED are what a killed process leaves. */
UNUSED static void write_log(const char *dir, enum ending ending)
{
    struct fixture tmp;
    struct rguard_wal_options o = recover_options();
    make_dir(tmp.dir);
    o.mark_idle_ms = 1;
    rguard_wal *w = must_open(&tmp, &o);
    assert_int_equal(rguard_wal_meta_set(w, 3, 2), 0);
    for (uint64_t b = 0; b < 5; b++) {
        append_range(w, 3 * b + 1, 3 * b + 3, 1, batch_len[b], 3);
    }
    struct rguard_wal_stats s = {.size = sizeof s};
    while (ending == MARKED && (rguard_wal_stats(w, &s), s.marks == 0)) {
        poll(NULL, 0, 1);
        assert_int_equal(rguard_wal_process(w), 0);
    }
    if (ending == CLOSED) {
        assert_int_equal(rguard_wal_close(w), 0);
    }
    copy_dir(tmp.dir, dir);
    if (ending != CLOSED) {
        assert_int_equal(rguard_wal_close(w), 0);
    }
    remove_tree(tmp.dir);
}

UNUSED static int verify(const char *dir, struct rguard_wal_report *r)
{
    struct rguard_wal_options o = recover_options();
    rguard_wal *w = NULL;
    o.read_only = true;
    memset(r, 0, sizeof *r);
    r->size = sizeof *r;
    int rc = rguard_wal_open(dir, &o, &w, r);
    if (rc == 0) {
        rguard_wal_close(w);
    }
    return rc;
}

/* The log is refused with @verdict, read-only and not, and nothing has changed. */
UNUSED static void refused(const char *dir, uint32_t verdict, struct rguard_wal_report *r,
                           const char *name)
{
    static const int errors[] = {
        0, 0, RGUARD_ESUSPECT, RGUARD_ECORRUPT, -EIO, RGUARD_EFOREIGN, RGUARD_EUNSUPPORTED};
    struct rguard_wal_options o = recover_options();
    uint32_t before = dir_sum(dir);
    rguard_wal *w = NULL;
    int rc = verify(dir, r);
    if (rc != errors[verdict] || r->verdict != verdict) {
        fail_msg("%s: verify says %s (%s): %s", name, rguard_err_name(rc),
                 rguard_wal_verdict_name(r->verdict), r->message);
    }
    r->size = sizeof *r;
    rc = rguard_wal_open(dir, &o, &w, r);
    if (rc != errors[verdict] || r->verdict != verdict || w != NULL) {
        fail_msg("%s: open says %s (%s): %s", name, rguard_err_name(rc),
                 rguard_wal_verdict_name(r->verdict), r->message);
    }
    assert_true(r->message[0] != '\0');
    assert_int_equal(dir_sum(dir), before);
}

/* The log opens with @verdict, holds records 1..@last and goes on; a second open is clean. */
UNUSED static void opens(const char *dir, uint32_t verdict, uint64_t last, const char *name)
{
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = NULL;
    int rc = rguard_wal_open(dir, &o, &w, &r);
    if (rc != 0 || r.verdict != verdict || r.last_index != last) {
        fail_msg("%s: %s (%s), last %llu: %s", name, rguard_err_name(rc),
                 rguard_wal_verdict_name(r.verdict), (unsigned long long)r.last_index, r.message);
    }
    for (uint64_t i = 1; i <= last; i++) {
        check_record(w, i, 1, batch_len[(i - 1) / 3]);
    }
    append_range(w, last + 1, last + 4, 2, 2000, 2);
    assert_int_equal(rguard_wal_close(w), 0);
    rc = rguard_wal_open(dir, &o, &w, &r);
    if (rc != 0 || r.verdict != RGUARD_WAL_CLEAN_END || r.last_index != last + 4) {
        fail_msg("%s, reopened: %s: %s", name, rguard_err_name(rc), r.message);
    }
    check_range(w, last + 1, last + 4, 2, 2000);
    assert_int_equal(rguard_wal_close(w), 0);
}

/* A fresh copy of a log that is written once per ending. */
static char originals[3][128];

UNUSED static void fresh(struct fixture *f, enum ending ending)
{
    if (originals[ending][0] == '\0') {
        make_dir(originals[ending]);
        write_log(originals[ending], ending);
    }
    remove_tree(f->dir);
    assert_int_equal(mkdir(f->dir, 0700), 0);
    copy_dir(originals[ending], f->dir);
}

UNUSED static int remove_originals(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        remove_tree(originals[i]);
    }
    return 0;
}

UNUSED static void zero(const char *dir, const char *name, uint64_t offset, size_t len)
{
    uint8_t *zeros = calloc(1, len + 1);
    patch(dir, name, offset, zeros, len);
    free(zeros);
}

#endif
