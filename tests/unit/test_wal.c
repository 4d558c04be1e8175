/* SPDX-License-Identifier: Apache-2.0 */
/* The log as its owner sees it: append, read, truncate, reset, reopen, metadata. Every test runs on
 * every back end. */
#include "test_wal_util.h"

#include "format_internal.h"

static void round_trip(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    rguard_wal *w = must_open(f, &o);
    assert_string_equal(rguard_wal_backend(w), f->backend);
    assert_int_equal(rguard_wal_first_index(w), 0);
    assert_int_equal(rguard_wal_last_index(w), 0);
    append_range(w, 1, 100, 1, 0, 7);
    append_range(w, 101, 150, 2, 513, 1);
    append_range(w, 151, 160, 3, 70000, 3);
    for (int pass = 0; pass < 2; pass++) {
        assert_int_equal(rguard_wal_first_index(w), 1);
        assert_int_equal(rguard_wal_last_index(w), 160);
        check_range(w, 1, 100, 1, 0);
        check_range(w, 101, 150, 2, 513);
        check_range(w, 151, 160, 3, 70000);
        assert_int_equal(rguard_wal_close(w), 0);
        struct rguard_wal_report r = {.size = sizeof r};
        assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), 0);
        assert_int_equal(r.verdict, RGUARD_WAL_CLEAN_END);
        assert_true(r.clean_close);
        assert_false(r.created);
        assert_int_equal(r.first_index, 1);
        assert_int_equal(r.last_index, 160);
        assert_int_equal(r.last_term, 3);
        assert_int_equal(r.warnings, 0);
    }
    assert_int_equal(rguard_wal_close(w), 0);
}

static void callbacks_run_from_the_loop_and_a_mark_follows(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct rguard_wal_stats s = {.size = sizeof s};
    struct outcome out = {0, -1};
    uint8_t *data;
    o.mark_idle_ms = 5;
    rguard_wal *w = must_open(f, &o);
    assert_int_equal(queue_record(w, 1, 1, 100, &data, &out), 0);
    assert_int_equal(out.calls, 0);
    loop(w, &out, 1);
    assert_int_equal(out.status, 0);
    for (int turns = 0; turns < 1000 && rguard_wal_timeout_ms(w) >= 0; turns++) {
        poll(NULL, 0, rguard_wal_timeout_ms(w));
        assert_int_equal(rguard_wal_process(w), 0);
        if (rguard_wal_timeout_ms(w) < 0) {
            rguard_wal_flush(w);
        }
    }
    rguard_wal_stats(w, &s);
    assert_int_equal(s.marks, 1);
    assert_int_equal(rguard_wal_timeout_ms(w), -1);
    assert_int_equal(rguard_wal_close(w), 0);
    free(data);
}

static void what_is_queued_meanwhile_goes_together(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct rguard_wal_stats s = {.size = sizeof s};
    struct outcome out = {0, -1};
    uint8_t *data[201];
    rguard_wal *w = must_open(f, &o);
    for (uint64_t i = 1; i <= 200; i++) {
        assert_int_equal(queue_record(w, i, 1, 64, &data[i], &out), 0);
    }
    rguard_wal_stats(w, &s);
    assert_int_equal(s.in_flight_records, 200);
    assert_int_equal(rguard_wal_last_index(w), 200);
    assert_int_equal(rguard_wal_stat(w, 1, &(struct rguard_wal_record){0}), -ENOENT);
    assert_int_equal(rguard_wal_flush(w), 0);
    rguard_wal_stats(w, &s);
    assert_int_equal(out.calls, 200);
    assert_int_equal(s.batches, 1);
    assert_int_equal(s.records, 200);
    assert_int_equal(s.in_flight_records, 0);
    check_range(w, 1, 200, 1, 64);
    assert_int_equal(rguard_wal_close(w), 0);
    for (uint64_t i = 1; i <= 200; i++) {
        free(data[i]);
    }
}

/* One append may be larger than a batch, a record larger than a segment. */
static void large_appends(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct outcome out = {0, -1};
    struct rguard_wal_record r[40];
    uint8_t *data = malloc(40 * 100000);
    o.max_record_bytes = 3 * 1024 * 1024;
    rguard_wal *w = must_open(f, &o);
    for (uint64_t i = 0; i < 40; i++) {
        contents(i + 1, 1, data + i * 100000, 100000);
        r[i] = (struct rguard_wal_record){
            .index = i + 1, .term = 1, .len = 100000, .data = data + i * 100000};
    }
    assert_int_equal(rguard_wal_append(w, r, 40, note, &out), 0);
    assert_int_equal(rguard_wal_flush(w), 0);
    assert_int_equal(out.calls, 1);
    append_range(w, 41, 42, 1, 3 * 1024 * 1024, 1);
    append_range(w, 43, 50, 1, 10, 2);
    r[0].index = 51;
    r[0].len = 3 * 1024 * 1024 + 1;
    assert_int_equal(rguard_wal_append(w, r, 1, note, &out), RGUARD_ETOOBIG);
    for (int pass = 0; pass < 2; pass++) {
        check_range(w, 1, 40, 1, 100000);
        check_range(w, 41, 42, 1, 3 * 1024 * 1024);
        check_range(w, 43, 50, 1, 10);
        assert_int_equal(rguard_wal_close(w), 0);
        w = must_open(f, &o);
    }
    assert_int_equal(rguard_wal_close(w), 0);
    free(data);
}

static void appends_that_make_no_sense_are_refused(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    rguard_wal *w = must_open(f, &o);
    struct rguard_wal_record r[2] = {{.index = 2, .term = 5}, {.index = 3, .term = 4}};
    assert_int_equal(rguard_wal_append(w, r, 1, NULL, NULL), -EINVAL); /* gap */
    assert_int_equal(rguard_wal_append(w, r, 0, NULL, NULL), -EINVAL);
    r[0].index = 1;
    r[1].index = 2;
    assert_int_equal(rguard_wal_append(w, r, 2, NULL, NULL), -EINVAL); /* term falls */
    r[0].type = 65536;
    assert_int_equal(rguard_wal_append(w, r, 1, NULL, NULL), -EINVAL);
    r[0].type = 65535;
    r[0].len = 1;
    assert_int_equal(rguard_wal_append(w, r, 1, NULL, NULL), -EINVAL); /* no data */
    r[0].len = 0;
    assert_int_equal(rguard_wal_append(w, r, 1, NULL, NULL), 0);
    r[1].term = 5;
    assert_int_equal(rguard_wal_append(w, &r[1], 1, NULL, NULL), 0);
    assert_int_equal(rguard_wal_append(w, &r[1], 1, NULL, NULL), -EINVAL); /* repeat */
    assert_int_equal(rguard_wal_truncate_suffix(w, 4), -EINVAL);
    assert_int_equal(rguard_wal_truncate_suffix(w, 0), -EINVAL);
    assert_int_equal(rguard_wal_truncate_prefix(w, 3), -EINVAL);
    assert_int_equal(rguard_wal_flush(w), 0);
    assert_int_equal(rguard_wal_last_index(w), 2);
    assert_int_equal(rguard_wal_close(w), 0);
}

static void truncate_suffix_then_append_then_reopen(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct rguard_wal_record r;
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 50, 1, 300, 5);
    assert_int_equal(rguard_wal_truncate_suffix(w, 31), 0);
    assert_int_equal(rguard_wal_last_index(w), 30);
    assert_int_equal(rguard_wal_stat(w, 31, &r), -ENOENT); /* at once, not when it is durable */
    append_range(w, 31, 40, 2, 200, 5);
    for (int pass = 0; pass < 2; pass++) {
        assert_int_equal(rguard_wal_last_index(w), 40);
        check_range(w, 1, 30, 1, 300);
        check_range(w, 31, 40, 2, 200);
        assert_int_equal(rguard_wal_stat(w, 41, &r), -ENOENT);
        assert_int_equal(rguard_wal_close(w), 0);
        w = must_open(f, &o);
    }
    assert_int_equal(rguard_wal_truncate_suffix(w, 1), 0); /* everything */
    assert_int_equal(rguard_wal_last_index(w), 0);
    assert_int_equal(rguard_wal_first_index(w), 0);
    append_range(w, 1, 3, 3, 10, 1);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    assert_int_equal(rguard_wal_last_index(w), 3);
    check_range(w, 1, 3, 3, 10);
    assert_int_equal(rguard_wal_close(w), 0);
}

/* Records that are still queued, or in flight, when they are truncated never become visible. */
static void truncation_of_what_is_not_yet_durable(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct outcome out = {0, -1};
    uint8_t *data[20];
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 4, 1, 30, 4);
    for (uint64_t i = 5; i <= 9; i++) {
        assert_int_equal(queue_record(w, i, 1, 30, &data[i], &out), 0);
    }
    rguard_wal_process(w); /* uring: in flight now */
    assert_int_equal(rguard_wal_truncate_suffix(w, 7), 0);
    for (uint64_t i = 7; i <= 8; i++) {
        assert_int_equal(queue_record(w, i, 2, 31, &data[i + 3], &out), 0);
    }
    assert_int_equal(rguard_wal_truncate_suffix(w, 8), 0);
    assert_int_equal(queue_record(w, 8, 3, 32, &data[12], &out), 0);
    assert_int_equal(rguard_wal_flush(w), 0);
    assert_int_equal(out.calls, 8);
    for (int pass = 0; pass < 2; pass++) {
        assert_int_equal(rguard_wal_last_index(w), 8);
        check_range(w, 1, 6, 1, 30);
        check_record(w, 7, 2, 31);
        check_record(w, 8, 3, 32);
        assert_int_equal(rguard_wal_close(w), 0);
        w = must_open(f, &o);
    }
    assert_int_equal(rguard_wal_close(w), 0);
    for (int i = 5; i <= 12; i++) {
        free(data[i]);
    }
}

static void prefix_truncation_removes_whole_segments(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct rguard_wal_report rep = {.size = sizeof rep};
    struct rguard_wal_record r;
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 200, 1, 5000, 1); /* 8 KiB each: 31 per segment */
    int before = count_segments(f->dir);
    assert_true(before >= 7);
    assert_int_equal(rguard_wal_truncate_prefix(w, 100), 0);
    settle(w);
    assert_true(count_segments(f->dir) <= before - 1); /* 3 removed or recycled, 2 kept for that */
    for (int pass = 0; pass < 2; pass++) {
        assert_int_equal(rguard_wal_first_index(w), 101);
        assert_int_equal(rguard_wal_last_index(w), 200);
        assert_int_equal(rguard_wal_stat(w, 100, &r), -ENOENT);
        check_range(w, 101, 200, 1, 5000);
        assert_int_equal(rguard_wal_close(w), 0);
        assert_int_equal(rguard_wal_open(f->dir, &o, &w, &rep), 0);
        assert_int_equal(rep.base_index, 100);
        assert_int_equal(rep.base_term, 1);
    }
    /* The whole log, twice over: it goes on where it was. */
    assert_int_equal(rguard_wal_truncate_prefix(w, 200), 0);
    assert_int_equal(rguard_wal_truncate_prefix(w, 200), 0);
    assert_int_equal(rguard_wal_first_index(w), 0);
    assert_int_equal(rguard_wal_last_index(w), 200);
    assert_int_equal(rguard_wal_truncate_suffix(w, 200), -EINVAL);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    assert_int_equal(rguard_wal_last_index(w), 200);
    append_range(w, 201, 300, 2, 5000, 2);
    assert_int_equal(rguard_wal_truncate_suffix(w, 250), 0);
    append_range(w, 250, 260, 3, 10, 2);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    assert_int_equal(rguard_wal_first_index(w), 201);
    assert_int_equal(rguard_wal_last_index(w), 260);
    check_range(w, 201, 249, 2, 5000);
    check_range(w, 250, 260, 3, 10);
    assert_int_equal(rguard_wal_close(w), 0);
}

/* Segments whose records were truncated later may go before those that hold the truncation. */
static void prefix_truncation_after_suffix_truncation(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 100, 1, 5000, 1);
    assert_int_equal(rguard_wal_truncate_suffix(w, 20), 0);
    append_range(w, 20, 60, 2, 5000, 1);
    assert_int_equal(rguard_wal_truncate_prefix(w, 25), 0);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    assert_int_equal(rguard_wal_first_index(w), 26);
    check_range(w, 26, 60, 2, 5000);
    assert_int_equal(rguard_wal_close(w), 0);
}

static void reset_replaces_the_log(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct rguard_wal_report rep = {.size = sizeof rep};
    struct outcome out = {0, -1};
    uint8_t *data;
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 100, 1, 5000, 1);
    assert_int_equal(queue_record(w, 101, 1, 10, &data, &out), 0);
    assert_int_equal(rguard_wal_reset(w, 500, 9), 0);
    assert_int_equal(out.calls, 1);
    assert_int_equal(rguard_wal_first_index(w), 0);
    assert_int_equal(rguard_wal_last_index(w), 500);
    assert_int_equal(rguard_wal_close(w), 0);
    assert_true(count_segments(f->dir) <= 2);
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &rep), 0);
    assert_int_equal(rep.base_index, 500);
    assert_int_equal(rep.base_term, 9);
    assert_int_equal(rep.last_term, 9);
    append_range(w, 501, 510, 9, 20, 1);
    assert_int_equal(rguard_wal_truncate_prefix(w, 505), 0);
    assert_int_equal(rguard_wal_reset(w, 0, 0), 0); /* re-sync starts from nothing */
    append_range(w, 1, 5, 10, 20, 1);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    assert_int_equal(rguard_wal_first_index(w), 1);
    check_range(w, 1, 5, 10, 20);
    assert_int_equal(rguard_wal_close(w), 0);
    free(data);
}

static void term_and_vote(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    uint64_t term, vote;
    rguard_wal *w = must_open(f, &o);
    rguard_wal_meta_get(w, &term, &vote);
    assert_int_equal(term + vote, 0);
    assert_int_equal(rguard_wal_meta_set(w, 3, 0), 0);
    assert_int_equal(rguard_wal_meta_set(w, 3, 2), 0);
    assert_int_equal(rguard_wal_meta_set(w, 3, 2), 0);
    assert_int_equal(rguard_wal_meta_set(w, 3, 1), RGUARD_EVOTED);
    assert_int_equal(rguard_wal_meta_set(w, 3, 0), RGUARD_EVOTED);
    assert_int_equal(rguard_wal_meta_set(w, 2, 1), -EINVAL);
    for (uint64_t t = 4; t < 20; t++) {
        assert_int_equal(rguard_wal_meta_set(w, t, t % 3), 0);
        assert_int_equal(rguard_wal_close(w), 0);
        w = must_open(f, &o);
        rguard_wal_meta_get(w, &term, &vote);
        assert_int_equal(term, t);
        assert_int_equal(vote, t % 3);
    }
    assert_int_equal(rguard_wal_meta_set(w, 19, 2), RGUARD_EVOTED); /* also after a restart */
    assert_int_equal(rguard_wal_close(w), 0);
}

struct nested
{
    rguard_wal *w;
    int order[8];
    int n;
    uint8_t byte;
    int close_rc;
};

static void nested_last(void *user, int status)
{
    struct nested *x = user;
    assert_int_equal(status, 0);
    x->order[x->n++] = 3;
}

static void nested_first(void *user, int status)
{
    struct nested *x = user;
    struct rguard_wal_record r = {.index = 3, .term = 1, .len = 1, .data = &x->byte};
    assert_int_equal(status, 0);
    x->order[x->n++] = 1;
    x->close_rc = rguard_wal_close(x->w);
    assert_int_equal(rguard_wal_append(x->w, &r, 1, nested_last, x), 0);
    assert_int_equal(rguard_wal_meta_set(x->w, 8, 1), 0);
    assert_int_equal(rguard_wal_flush(x->w), 0);
    r.index = 4;
    assert_int_equal(rguard_wal_append(x->w, &r, 1, NULL, NULL), 0);
    assert_int_equal(rguard_wal_flush(x->w), 0);
}

static void nested_second(void *user, int status)
{
    struct nested *x = user;
    assert_int_equal(status, 0);
    x->order[x->n++] = 2;
}

static void callbacks_may_call_back(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct nested x = {.byte = 1};
    struct rguard_wal_record r = {.index = 1, .term = 1, .len = 1, .data = &x.byte};
    x.w = must_open(f, &o);
    assert_int_equal(rguard_wal_append(x.w, &r, 1, nested_first, &x), 0);
    r.index = 2;
    assert_int_equal(rguard_wal_append(x.w, &r, 1, nested_second, &x), 0);
    assert_int_equal(rguard_wal_flush(x.w), 0);
    assert_int_equal(x.n, 3);
    /* Records 3 and 4 were written while a callback of the first batch had not returned: they must
     * not claim that that one was acknowledged. */
    for (uint64_t at = 8192; at <= 12288; at += 4096) {
        struct wal_batch_header h;
        peek(f->dir, FIRST_SEGMENT, at, &h, sizeof h);
        assert_int_equal(h.first_index, at / 4096 + 1);
        assert_true(h.acked_lsn < 8192);
    }
    assert_true(x.order[0] == 1 && x.order[1] == 2 && x.order[2] == 3);
    assert_int_equal(x.close_rc, RGUARD_ESTATE);
    assert_int_equal(rguard_wal_close(x.w), 0);
}

static void read_only_writes_nothing(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct rguard_wal_report rep = {.size = sizeof rep};
    uint8_t byte = 1;
    struct rguard_wal_record r = {.index = 11, .term = 1, .len = 1, .data = &byte};
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 10, 1, 100, 3);
    rguard_wal *second = NULL;
    assert_int_equal(rguard_wal_open(f->dir, &o, &second, &rep), RGUARD_ELOCKED);
    assert_null(second);
    assert_non_null(strstr(rep.message, "in use"));
    uint32_t sum = dir_sum(f->dir);
    o.read_only = true;
    second = must_open(f, &o); /* beside the writer */
    check_range(second, 1, 10, 1, 100);
    assert_int_equal(rguard_wal_append(second, &r, 1, NULL, NULL), -EROFS);
    assert_int_equal(rguard_wal_meta_set(second, 1, 1), -EROFS);
    assert_int_equal(rguard_wal_truncate_suffix(second, 1), -EROFS);
    assert_int_equal(rguard_wal_reset(second, 1, 1), -EROFS);
    assert_int_equal(rguard_wal_timeout_ms(second), -1);
    assert_int_equal(rguard_wal_process(second), 0);
    assert_int_equal(rguard_wal_close(second), 0);
    assert_int_equal(dir_sum(f->dir), sum);
    assert_int_equal(rguard_wal_close(w), 0);
}

static void options_are_checked(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report rep = {.size = sizeof rep};
    rguard_wal *w = NULL;
    struct rguard_wal_options o = small(f);
    o.segment_bytes = 5000;
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &rep), -EINVAL);
    o.segment_bytes = (size_t)1 << 40;
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &rep), -EINVAL);
    o = small(f);
    o.backend = "floppy";
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &rep), -EINVAL);
    assert_non_null(strstr(rep.message, "no back end \"floppy\""));
    o.backend = NULL; /* the environment decides, and is not ignored when it makes no sense */
    assert_int_equal(setenv("RGUARD_WAL_BACKEND", "threads", 1), 0);
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &rep), -EINVAL);
    assert_non_null(strstr(rep.message, "\"threads\""));
    assert_non_null(strstr(rep.message, "RGUARD_WAL_BACKEND"));
    assert_int_equal(setenv("RGUARD_WAL_BACKEND", f->backend, 1), 0);
    w = must_open(f, &o);
    assert_string_equal(rguard_wal_backend(w), f->backend);
    assert_int_equal(rguard_wal_close(w), 0);
    remove_tree(f->dir);
    assert_int_equal(mkdir(f->dir, 0700), 0);
    assert_int_equal(unsetenv("RGUARD_WAL_BACKEND"), 0);
    w = NULL;
    o = small(f);
    assert_int_equal(rguard_wal_open("/nonexistent", &o, &w, &rep), -ENOENT);
    assert_non_null(strstr(rep.message, "/nonexistent"));
    assert_null(w);
    assert_int_equal(rguard_wal_close(NULL), 0);
    o.read_only = true;
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &rep), RGUARD_EFOREIGN); /* nothing there */
}

/* ---- allocations ---- */

#ifndef __SANITIZE_ADDRESS__
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
static int allocations;

void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    allocations++;
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    allocations++;
    return __libc_realloc(p, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    allocations++;
    return __libc_memalign(alignment, size);
}
#endif

static void appending_allocates_nothing(void **state)
{
#ifdef __SANITIZE_ADDRESS__
    (void)state;
    skip();
#else
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct outcome out = {0, -1};
    uint8_t data[100];
    o.segment_bytes = 4 * 1024 * 1024;
    rguard_wal *w = must_open(f, &o);
    contents(1, 1, data, sizeof data);
    int before = -1;
    for (uint64_t i = 1; i <= 1000; i += 10) {
        if (i > 50) {
            before = before < 0 ? allocations : before;
        }
        for (uint64_t k = 0; k < 10; k++) {
            struct rguard_wal_record r = {
                .index = i + k, .term = 1, .len = sizeof data, .data = data};
            assert_int_equal(rguard_wal_append(w, &r, 1, note, &out), 0);
        }
        loop(w, &out, (int)i + 9);
    }
    assert_true(before > 0);
    assert_int_equal(allocations, before);
    assert_int_equal(rguard_wal_close(w), 0);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(round_trip),
        EACH(callbacks_run_from_the_loop_and_a_mark_follows),
        EACH(what_is_queued_meanwhile_goes_together),
        EACH(large_appends),
        EACH(appends_that_make_no_sense_are_refused),
        EACH(truncate_suffix_then_append_then_reopen),
        EACH(truncation_of_what_is_not_yet_durable),
        EACH(prefix_truncation_removes_whole_segments),
        EACH(prefix_truncation_after_suffix_truncation),
        EACH(reset_replaces_the_log),
        EACH(term_and_vote),
        EACH(callbacks_may_call_back),
        EACH(read_only_writes_nothing),
        EACH(options_are_checked),
        EACH(appending_allocates_nothing),
    };
    return cmocka_run_group_tests_name("wal", tests, NULL, NULL);
}
