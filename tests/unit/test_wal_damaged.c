/* SPDX-License-Identifier: Apache-2.0 */
/* Logs that are opened with their damage, and logs that are cut before it. */
#include "test_wal_log.h"

#define MAX_FAULTS 16

/* Opens with the damage, read-only or not, and lists it. */
static rguard_wal *open_damaged(const char *dir, bool read_only, struct rguard_wal_report *r,
                                struct rguard_wal_fault *faults, size_t *n)
{
    struct rguard_wal_options o = recover_options();
    rguard_wal *w = NULL;
    o.read_only = read_only;
    o.open_damaged = true;
    r->size = sizeof *r;
    int rc = rguard_wal_open(dir, &o, &w, r);
    if (rc != 0) {
        fail_msg("open: %s: %s", rguard_err_name(rc), r->message);
    }
    memset(faults, 0, MAX_FAULTS * sizeof *faults);
    assert_int_equal(rguard_wal_faults(w, faults, MAX_FAULTS, n), 0);
    return w;
}

static void check_identity(rguard_wal *w, uint64_t index, uint32_t len)
{
    uint8_t *want = malloc(len + 1);
    struct rguard_wal_record r;
    contents(index, 1, want, len);
    assert_int_equal(rguard_wal_fault_record(w, index, &r), 0);
    assert_int_equal(r.index, index);
    assert_int_equal(r.term, 1);
    assert_int_equal(r.type, 1);
    assert_int_equal(r.len, len);
    assert_int_equal(r.crc, rguard_crc32c(0, want, len));
    assert_null(r.data);
    free(want);
}

/* ---- what is listed ---- */

/* Where the data of a record of batch @b begins. */
static uint64_t data_at(int b, int record)
{
    uint64_t sectors = (batch_at[b + 1] - batch_at[b]) / 512;
    return batch_at[b] + 512 + 4 * sectors + 3 * 32 + (uint64_t)record * ((batch_len[b] + 7) & ~7u);
}

static void one_record_is_damaged_the_others_are_read(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    struct rguard_wal_fault faults[MAX_FAULTS];
    struct rguard_wal_record rec;
    uint8_t buf[4096];
    size_t n;
    for (int b = 0; b < 5; b++) {
        bool last = b == 4;
        uint64_t index = 3 * (uint64_t)b + 2;
        fresh(f, KILLED);
        flip(f->dir, FIRST_SEGMENT, data_at(b, 1) + 5, 2);
        uint32_t before = dir_sum(f->dir);
        rguard_wal *w = open_damaged(f->dir, false, &r, faults, &n);
        assert_int_equal(r.verdict, last ? RGUARD_WAL_SUSPECT_TAIL : RGUARD_WAL_CORRUPT);
        assert_int_equal(n, 1);
        assert_int_equal(faults[0].kind, RGUARD_WAL_FAULT_PAYLOAD);
        assert_int_equal(faults[0].verdict, r.verdict);
        assert_int_equal(faults[0].lsn, batch_at[b]);
        assert_int_equal(faults[0].bytes, batch_at[b + 1] - batch_at[b]);
        assert_int_equal(faults[0].term, 1);
        assert_string_equal(faults[0].file, FIRST_SEGMENT);
        assert_int_equal(faults[0].offset, (data_at(b, 1) + 5) / 512 * 512);
        assert_int_equal(faults[0].damaged_bytes, 512);
        if (!last) {
            assert_int_equal(faults[0].first_index, index);
            assert_int_equal(faults[0].last_index, index);
            assert_int_equal(rguard_wal_read(w, index, &rec, buf, sizeof buf), RGUARD_ECORRUPT);
            assert_int_equal(rguard_wal_stat(w, index, &rec), RGUARD_ECORRUPT);
        }
        check_identity(w, index, batch_len[b]);
        for (uint64_t i = 1; i <= r.last_index; i++) {
            if (i != index) {
                check_record(w, i, 1, batch_len[(i - 1) / 3]);
            }
        }
        assert_int_equal(rguard_wal_fault_record(w, index + 1, &rec), -ENOENT);
        rec = (struct rguard_wal_record){.index = RECORDS + 1, .term = 1};
        assert_int_equal(rguard_wal_append(w, &rec, 1, NULL, NULL), RGUARD_ECORRUPT);
        assert_int_equal(rguard_wal_truncate_suffix(w, 2), RGUARD_ECORRUPT);
        assert_int_equal(rguard_wal_truncate_prefix(w, 2), RGUARD_ECORRUPT);
        assert_int_equal(rguard_wal_reset(w, 9, 9), RGUARD_ECORRUPT);
        assert_int_equal(rguard_wal_process(w), 0);
        assert_int_equal(rguard_wal_close(w), 0);
        assert_int_equal(dir_sum(f->dir), before);
        refused(f->dir, r.verdict, &r, "as it was");
    }
}

static void metadata_of_a_damaged_log(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    struct rguard_wal_fault faults[MAX_FAULTS];
    uint64_t term, vote;
    size_t n;
    fresh(f, MARKED);
    zero(f->dir, FIRST_SEGMENT, batch_at[4], batch_at[5] + 4096 - batch_at[4]);
    fresh(f, MARKED);
    flip(f->dir, FIRST_SEGMENT, data_at(4, 0), 0);
    rguard_wal *w = open_damaged(f->dir, false, &r, faults, &n);
    assert_int_equal(rguard_wal_meta_set(w, 3, 1), RGUARD_EVOTED);
    assert_int_equal(rguard_wal_meta_set(w, 4, 1), 0);
    assert_int_equal(rguard_wal_close(w), 0);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "the evidence is still there");
    w = open_damaged(f->dir, true, &r, faults, &n);
    rguard_wal_meta_get(w, &term, &vote);
    assert_true(term == 4 && vote == 1);
    assert_int_equal(rguard_wal_meta_set(w, 5, 1), -EROFS);
    assert_int_equal(rguard_wal_close(w), 0);
}

/* A batch that is gone altogether is known from its successor: which records, not what was in them. */
static void a_batch_that_is_gone_is_named_by_its_successor(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    struct rguard_wal_fault faults[MAX_FAULTS];
    struct rguard_wal_record rec;
    size_t n;
    for (int b = 0; b < 4; b++) {
        fresh(f, KILLED);
        zero(f->dir, FIRST_SEGMENT, batch_at[b], batch_at[b + 1] - batch_at[b]);
        rguard_wal *w = open_damaged(f->dir, true, &r, faults, &n);
        assert_int_equal(n, 1);
        assert_int_equal(faults[0].kind, RGUARD_WAL_FAULT_TABLE);
        assert_int_equal(faults[0].first_index, 3 * b + 1);
        assert_int_equal(faults[0].last_index, 3 * b + 3);
        assert_int_equal(faults[0].lsn, batch_at[b]);
        assert_int_equal(faults[0].bytes, batch_at[b + 1] - batch_at[b]);
        assert_int_equal(rguard_wal_fault_record(w, 3 * (uint64_t)b + 1, &rec), -ENOENT);
        assert_int_equal(rguard_wal_last_index(w), RECORDS);
        check_record(w, RECORDS, 1, batch_len[4]);
        assert_int_equal(rguard_wal_close(w), 0);
    }
}

/* Its first sector is destroyed, table and data are not: everything is still known. */
static void a_damaged_header_loses_no_record(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    struct rguard_wal_fault faults[MAX_FAULTS];
    size_t n;
    fresh(f, KILLED);
    zero(f->dir, FIRST_SEGMENT, batch_at[2], 512);
    rguard_wal *w = open_damaged(f->dir, true, &r, faults, &n);
    assert_int_equal(n, 1);
    assert_int_equal(faults[0].kind, RGUARD_WAL_FAULT_TABLE);
    assert_int_equal(faults[0].first_index, 0);
    assert_int_equal(faults[0].offset, batch_at[2]);
    assert_int_equal(faults[0].damaged_bytes, 512);
    for (uint64_t i = 1; i <= RECORDS; i++) {
        check_record(w, i, 1, batch_len[(i - 1) / 3]);
    }
    assert_int_equal(rguard_wal_close(w), 0);
}

/* Two places at once; two neighbours at once, of which the first loses its name unless one of the
 * two headers that have it survives. */
static void several_places(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    struct rguard_wal_fault faults[MAX_FAULTS];
    size_t n;
    fresh(f, KILLED);
    flip(f->dir, FIRST_SEGMENT, data_at(0, 0), 1);
    flip(f->dir, FIRST_SEGMENT, data_at(3, 2), 1);
    rguard_wal *w = open_damaged(f->dir, true, &r, faults, &n);
    assert_int_equal(n, 2);
    assert_int_equal(faults[0].first_index, 1);
    assert_int_equal(faults[1].first_index, 12);
    check_identity(w, 1, batch_len[0]);
    check_identity(w, 12, batch_len[3]);
    assert_int_equal(rguard_wal_close(w), 0);
    for (int kind = 0; kind < 3; kind++) {
        fresh(f, KILLED);
        zero(f->dir, FIRST_SEGMENT, batch_at[1] + 512, batch_at[2] - batch_at[1] - 512);
        zero(f->dir, FIRST_SEGMENT, batch_at[2] + 512, batch_at[3] - batch_at[2] - 512);
        if (kind >= 1) { /* the second one's copy goes, the first has its own header */
            zero(f->dir, FIRST_SEGMENT, batch_at[2], 512);
        }
        if (kind == 2) {
            zero(f->dir, FIRST_SEGMENT, batch_at[1], 512);
        }
        w = open_damaged(f->dir, true, &r, faults, &n);
        assert_int_equal(n, 2);
        assert_int_equal(faults[0].kind,
                         kind == 2 ? RGUARD_WAL_FAULT_LOST : RGUARD_WAL_FAULT_TABLE);
        assert_int_equal(faults[0].first_index, 4);
        assert_int_equal(faults[0].last_index, 6);
        assert_int_equal(faults[0].lsn, batch_at[1]);
        assert_int_equal(faults[0].bytes, batch_at[2] - batch_at[1]);
        assert_int_equal(faults[1].kind, RGUARD_WAL_FAULT_TABLE);
        assert_int_equal(faults[1].first_index, 7);
        assert_int_equal(faults[1].last_index, 9);
        assert_int_equal(rguard_wal_close(w), 0);
        refused(f->dir, RGUARD_WAL_CORRUPT, &r, "two neighbours");
        assert_int_equal(r.damage_first_index, 4);
        assert_int_equal(r.damage_last_index, 9);
    }
}

static void what_cannot_be_opened_at_all(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r = {.size = sizeof r};
    struct rguard_wal_options o = recover_options();
    rguard_wal *w = NULL;
    o.open_damaged = true;
    fresh(f, KILLED);
    flip(f->dir, "meta", 60, 1);
    flip(f->dir, "meta", 4096 + 60, 1);
    uint32_t before = dir_sum(f->dir);
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), RGUARD_ECORRUPT);
    o.node_id = 9;
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), RGUARD_EFOREIGN);
    assert_null(w);
    assert_int_equal(dir_sum(f->dir), before);
}

/* ---- cutting ---- */

static size_t count_files(const char *dir, const char *prefix)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    size_t n = 0;
    while ((entry = readdir(d)) != NULL) {
        n += strncmp(entry->d_name, prefix, strlen(prefix)) == 0;
    }
    closedir(d);
    return n;
}

/* Every byte that the cut at @lsn took is in the quarantine file, at its place. */
static void check_quarantine(const char *dir, uint64_t lsn, const uint8_t *before, size_t len)
{
    char name[64];
    uint8_t block[4096];
    uint64_t at = 0, from = lsn;
    (void)snprintf(name, sizeof name, "quarantine-%llu", (unsigned long long)lsn);
    while (from < len) {
        uint64_t head[8];
        peek(dir, name, at, head, sizeof head);
        assert_int_equal(head[4], 1); /* segment */
        assert_int_equal(head[5], from);
        uint64_t n = head[6] & 0xffffffff;
        for (uint64_t i = 0; i < n; i += 4096) {
            peek(dir, name, at + 4096 + i, block, sizeof block);
            assert_memory_equal(block, before + from + i, 4096);
        }
        from += n;
        at += 4096 + n;
    }
}

static void drop_tail_cuts_before_the_first_damage(void **state)
{
    struct fixture *f = *state;
    static uint8_t all[96 * 1024];
    for (int b = 0; b < 5; b++) {
        for (int e = KILLED; e <= CLOSED; e++) {
            struct rguard_wal_report r = {.size = sizeof r};
            bool corrupt = b < 4 || e != KILLED;
            uint64_t left = 3 * (uint64_t)b;
            fresh(f, (enum ending)e);
            flip(f->dir, FIRST_SEGMENT, data_at(b, 0), 3);
            peek(f->dir, FIRST_SEGMENT, 0, all, sizeof all);
            uint32_t before = dir_sum(f->dir);
            assert_int_equal(rguard_wal_drop_tail(f->dir, false, false, &r),
                             corrupt ? RGUARD_EREFUSED : 0);
            if (corrupt) {
                assert_int_equal(rguard_wal_drop_tail(f->dir, false, true, &r), RGUARD_EREFUSED);
                assert_int_equal(rguard_wal_drop_tail(f->dir, true, true, &r), 0);
                assert_int_equal(r.verdict, RGUARD_WAL_CORRUPT);
                assert_int_equal(r.last_index, left);
                assert_int_equal(r.dropped_records, RECORDS - left);
                assert_int_equal(r.damage_first_index, left + 1);
                assert_int_equal(r.damage_last_index, RECORDS);
                assert_int_equal(dir_sum(f->dir), before);
                assert_int_equal(rguard_wal_drop_tail(f->dir, true, false, &r), 0);
            }
            assert_int_equal(r.last_index, left);
            assert_int_equal(r.dropped_records, RECORDS - left);
            assert_int_equal(count_files(f->dir, "quarantine-"), 1);
            check_quarantine(f->dir, batch_at[b], all, sizeof all);
            opens(f->dir, RGUARD_WAL_CLEAN_END, left, "after the cut");
            assert_int_equal(rguard_wal_drop_tail(f->dir, true, false, &r), 0); /* nothing to cut */
            assert_int_equal(r.verdict, RGUARD_WAL_CLEAN_END);
            assert_int_equal(count_files(f->dir, "quarantine-"), 1);
        }
    }
}

static void drop_tail_of_tails(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r = {.size = sizeof r};
    fresh(f, KILLED); /* torn: the next open would drop it as well, without a copy */
    zero(f->dir, FIRST_SEGMENT, batch_at[4] + 4096, 4096);
    assert_int_equal(rguard_wal_drop_tail(f->dir, false, true, &r), 0);
    assert_int_equal(r.verdict, RGUARD_WAL_TORN_TAIL);
    assert_int_equal(r.dropped_records, 3);
    assert_int_equal(rguard_wal_drop_tail(f->dir, false, false, &r), 0);
    assert_int_equal(count_files(f->dir, "quarantine-"), 1);
    opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS - 3, "torn");
    fresh(f, CLOSED); /* the whole tail is gone, and that it was there is known from meta */
    zero(f->dir, FIRST_SEGMENT, batch_at[3], 92 * 1024 - batch_at[3]);
    assert_int_equal(rguard_wal_drop_tail(f->dir, false, false, &r), RGUARD_EREFUSED);
    assert_int_equal(rguard_wal_drop_tail(f->dir, true, false, &r), 0);
    opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS - 6, "lost tail");
}

/* A snapshot covered more than is left: the log goes on behind it, not behind what is left. */
static void drop_tail_below_the_base(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_report r = {.size = sizeof r};
    fresh(f, KILLED);
    rguard_wal *w = must_open(f, &o);
    assert_int_equal(rguard_wal_truncate_prefix(w, 11), 0);
    assert_int_equal(rguard_wal_close(w), 0);
    flip(f->dir, FIRST_SEGMENT, data_at(1, 0), 3);
    assert_int_equal(rguard_wal_drop_tail(f->dir, true, false, &r), 0);
    assert_int_equal(r.last_index, 11);
    assert_int_equal(r.damage_first_index, 12);
    w = must_open(f, &o);
    assert_int_equal(rguard_wal_last_index(w), 11);
    append_range(w, 12, 20, 4, 100, 2);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    assert_int_equal(rguard_wal_first_index(w), 12);
    check_range(w, 12, 20, 4, 100);
    assert_int_equal(rguard_wal_close(w), 0);
}

static void drop_tail_over_several_segments(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    for (int missing = 0; missing < 2; missing++) {
        struct rguard_wal_report r = {.size = sizeof r};
        char path[512];
        remove_tree(f->dir);
        assert_int_equal(mkdir(f->dir, 0700), 0);
        rguard_wal *w = must_open(f, &o);
        append_range(w, 1, 60, 1, 5000, 1); /* 11 of 8 KiB to a segment */
        assert_int_equal(rguard_wal_close(w), 0);
        (void)snprintf(path, sizeof path, "%s/%020d.wal", f->dir, 3);
        if (missing) {
            assert_int_equal(unlink(path), 0);
        } else {
            flip(f->dir, "00000000000000000003.wal", 8192 + 4096 + 1000, 3);
        }
        assert_int_equal(rguard_wal_drop_tail(f->dir, true, false, &r), 0);
        uint64_t left = r.last_index;
        assert_int_equal(left, missing ? 22 : 22 + 1);
        assert_int_equal(r.dropped_records, 60 - left);
        assert_int_equal(count_files(f->dir, "00000000000000000005"), 0);
        w = must_open(f, &o);
        check_range(w, 1, left, 1, 5000);
        append_range(w, left + 1, left + 30, 2, 5000, 1);
        assert_int_equal(rguard_wal_close(w), 0);
        w = must_open(f, &o);
        check_range(w, left + 1, left + 30, 2, 5000);
        assert_int_equal(rguard_wal_close(w), 0);
    }
}

static void drop_tail_keeps_its_hands_off(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_report r = {.size = sizeof r};
    assert_int_equal(rguard_wal_drop_tail(f->dir, true, false, &r), RGUARD_EFOREIGN); /* empty */
    assert_int_equal(count_files(f->dir, "lock"), 0);
    fresh(f, CLOSED);
    uint32_t before = dir_sum(f->dir);
    assert_int_equal(rguard_wal_drop_tail(f->dir, true, false, &r), 0);
    assert_int_equal(dir_sum(f->dir), before);
    rguard_wal *w = must_open(f, &o);
    assert_int_equal(rguard_wal_drop_tail(f->dir, true, false, &r), RGUARD_ELOCKED);
    assert_int_equal(rguard_wal_close(w), 0);
    flip(f->dir, FIRST_SEGMENT, data_at(2, 0), 1);
    flip(f->dir, "meta", 60, 1);
    flip(f->dir, "meta", 4096 + 60, 1);
    before = dir_sum(f->dir);
    assert_int_equal(rguard_wal_drop_tail(f->dir, true, false, &r), RGUARD_ECORRUPT);
    assert_non_null(strstr(r.message, "vote"));
    assert_int_equal(dir_sum(f->dir), before);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(one_record_is_damaged_the_others_are_read),
        T(metadata_of_a_damaged_log),
        T(a_batch_that_is_gone_is_named_by_its_successor),
        T(a_damaged_header_loses_no_record),
        T(several_places),
        T(what_cannot_be_opened_at_all),
        T(drop_tail_cuts_before_the_first_damage),
        T(drop_tail_of_tails),
        T(drop_tail_below_the_base),
        T(drop_tail_over_several_segments),
        T(drop_tail_keeps_its_hands_off),
    };
    in_memory = true;
    return cmocka_run_group_tests_name("wal_damaged", tests, NULL, remove_originals);
}
