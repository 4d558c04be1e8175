/* SPDX-License-Identifier: Apache-2.0 */
/* Damaged directories that have no home in the other groups; the table in wal/README.md says where
 * each case of the matrix is. Each asserts the verdict, and that a refused log has not changed. */
#include "test_wal_disk.h"
#include "test_wal_log.h"

/* ---- segment headers ---- */

#define LAST_BLOCK (92u * 1024u)

/* One copy is enough, whichever; it is written anew by the next open. */
static void one_header_of_a_segment_is_damaged(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_report r = {.size = sizeof r};
    for (int last = 0; last < 2; last++) {
        uint64_t at = last ? LAST_BLOCK : 0;
        for (int kind = 0; kind < 3; kind++) {
            uint8_t was[4096], now[4096];
            fresh(f, KILLED);
            peek(f->dir, FIRST_SEGMENT, at, was, sizeof was);
            if (kind == 0) {
                flip(f->dir, FIRST_SEGMENT, at + 70, 3);
            } else {
                zero(f->dir, FIRST_SEGMENT, at, kind == 1 ? 512 : 4096);
            }
            uint32_t before = dir_sum(f->dir);
            assert_int_equal(verify(f->dir, &r), 0);
            assert_int_equal(r.verdict, RGUARD_WAL_CLEAN_END);
            assert_int_equal(r.warnings, 1);
            assert_int_equal(dir_sum(f->dir), before);
            rguard_wal *w = must_open(f, &o);
            assert_int_equal(rguard_wal_close(w), 0);
            peek(f->dir, FIRST_SEGMENT, at, now, sizeof now);
            assert_memory_equal(now, was, sizeof now);
            opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS, "one header");
        }
    }
}

/* Three segments and more; the spare behind them is an empty file. */
static unsigned long_log(struct fixture *f)
{
    struct rguard_wal_options o = recover_options();
    remove_tree(f->dir);
    assert_int_equal(mkdir(f->dir, 0700), 0);
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 40, 1, 5000, 1);
    unsigned n = (unsigned)w->segments.n;
    assert_int_equal(rguard_wal_close(w), 0);
    return n;
}

static void ruin_headers(const char *dir, unsigned sequence)
{
    char name[32];
    (void)snprintf(name, sizeof name, "%020u.wal", sequence);
    flip(dir, name, 66, 0);
    flip(dir, name, LAST_BLOCK + 66, 0);
}

static void both_headers_of_a_segment_are_damaged(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    char name[64];
    unsigned n = long_log(f);
    assert_true(n >= 4);
    for (unsigned sequence = 1; sequence <= n; sequence++) {
        long_log(f);
        ruin_headers(f->dir, sequence);
        refused(f->dir, RGUARD_WAL_CORRUPT, &r, "both headers");
        (void)snprintf(name, sizeof name, "both headers of %020u.wal", sequence);
        assert_non_null(strstr(r.message, name));
    }
}

/* The newest one is empty: that is what a crash leaves of a segment in the making. */
static void both_headers_of_an_empty_spare_are_damaged(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    char name[32], path[512];
    for (int zeroed = 0; zeroed < 2; zeroed++) {
        unsigned n = long_log(f);
        (void)snprintf(name, sizeof name, "%020u.wal", n + 1);
        (void)snprintf(path, sizeof path, "%s/%s", f->dir, name);
        if (access(path, F_OK) != 0) {
            fail_msg("no spare: %s", path);
        }
        if (zeroed) {
            zero(f->dir, name, 0, 4096);
            zero(f->dir, name, LAST_BLOCK, 4096);
        } else {
            ruin_headers(f->dir, n + 1);
        }
        rguard_wal *w = must_open(f, &o);
        check_range(w, 1, 40, 1, 5000);
        append_range(w, 41, 70, 1, 5000, 1);
        assert_int_equal(rguard_wal_close(w), 0);
        w = must_open(f, &o);
        check_range(w, 1, 70, 1, 5000);
        assert_int_equal(rguard_wal_close(w), 0);
    }
}

/* The newest one looks as empty, but something in it was acknowledged. */
static void a_segment_that_lost_all_it_had(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    char name[32], path[512];
    unsigned n = long_log(f);
    (void)snprintf(path, sizeof path, "%s/%020u.wal", f->dir, n + 1);
    (void)unlink(path); /* the spare */
    (void)snprintf(name, sizeof name, "%020u.wal", n);
    zero(f->dir, name, 0, 96 * 1024);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "zeroed segment");
    assert_non_null(strstr(r.message, "acknowledged"));
}

/* ---- blocks of other places ---- */

static void a_batch_of_another_segment(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    uint8_t batch[8192];
    for (unsigned from = 1; from <= 3; from += 2) {
        char name[32];
        long_log(f);
        (void)snprintf(name, sizeof name, "%020u.wal", from);
        peek(f->dir, name, 4096 + 8192, batch, sizeof batch);
        patch(f->dir, "00000000000000000002.wal", 4096 + 8192, batch, sizeof batch);
        refused(f->dir, RGUARD_WAL_CORRUPT, &r, "other segment");
        (void)snprintf(name, sizeof name, "segment %u, offset 12288", from);
        assert_non_null(strstr(r.message, name));
        assert_non_null(strstr(r.message, "00000000000000000002.wal offset 12288"));
        assert_int_equal(r.damage_first_index, r.damage_last_index);
    }
}

/* Our log with a foreign block in it is a damaged log, not a foreign one. */
static void a_batch_of_another_log(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    struct rguard_wal_options o = recover_options();
    struct fixture other;
    uint8_t batch[4096];
    make_dir(other.dir);
    o.seed = 6;
    rguard_wal *w = must_open(&other, &o);
    append_range(w, 1, 3, 1, 100, 1);
    rguard_wal_close(w);
    peek(other.dir, FIRST_SEGMENT, 4096, batch, sizeof batch);
    for (int b = 0; b < 5; b++) {
        fresh(f, KILLED);
        patch(f->dir, FIRST_SEGMENT, batch_at[b], batch, sizeof batch);
        refused(f->dir, RGUARD_WAL_CORRUPT, &r, "other log");
        if (b < 4) {
            assert_int_equal(r.damage_first_index, 3 * b + 1);
        } else {
            assert_non_null(strstr(r.message, "another log"));
        }
    }
    remove_tree(other.dir);
}

/* ---- writes that were lost ---- */

/* What was in the blocks before: zeros in a new file, an earlier epoch in a recycled one. */
static void a_lost_write_leaves_what_was_there(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    struct wal_segment_header g;
    _Alignas(8) static uint8_t stale[65536];
    static uint8_t data[12288];
    for (int e = KILLED; e <= CLOSED; e++) {
        for (int b = 0; b < 5; b++) {
            fresh(f, (enum ending)e);
            peek(f->dir, FIRST_SEGMENT, 0, &g, sizeof g);
            struct wal_place place = {g.uuid, 1, g.salt ^ 0x55, batch_at[b], 0};
            struct wal_batch_header h = {
                .type = WAL_DATA,
                .n_records = 1,
                .payload_length = (uint32_t)(batch_at[b + 1] - batch_at[b]) - 1024};
            struct rguard_wal_record rec = {
                .index = 77, .term = 1, .len = h.payload_length, .data = data};
            struct wal_encoder enc;
            rguard__wal_encode_start(&enc, stale, &h);
            rguard__wal_encode_put(&enc, &rec);
            rguard__wal_encode_finish(&enc, &place);
            assert_int_equal(h.length, batch_at[b + 1] - batch_at[b]);
            patch(f->dir, FIRST_SEGMENT, batch_at[b], stale, h.length);
            if (b == 4 && e == KILLED) {
                opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS - 3, "lost and never acknowledged");
                continue;
            }
            refused(f->dir, RGUARD_WAL_CORRUPT, &r, "lost write");
            assert_int_equal(r.damage_first_index, 3 * b + 1);
            assert_int_equal(r.damage_last_index, 3 * b + 3);
        }
    }
}

/* Term and vote are good and old: both copies of the newest generation were lost. */
static void metadata_older_than_the_log(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_report r;
    uint8_t old[4 * 4096];
    for (int kind = 0; kind < 3; kind++) {
        remove_tree(f->dir);
        assert_int_equal(mkdir(f->dir, 0700), 0);
        rguard_wal *w = must_open(f, &o);
        if (kind > 0) {
            assert_int_equal(rguard_wal_meta_set(w, 2, 1), 0);
            append_range(w, 1, 3, 1, 100, 1);
        }
        peek(f->dir, "meta", 0, old, sizeof old);
        /* Another vote, or a higher term: either must not be forgotten. */
        assert_int_equal(rguard_wal_meta_set(w, kind == 2 ? 3 : 2, 1 + (uint64_t)kind),
                         kind == 1 ? RGUARD_EVOTED : 0);
        if (kind == 1) {
            assert_int_equal(rguard_wal_meta_set(w, 4, 0), 0);
        }
        append_range(w, rguard_wal_last_index(w) + 1, rguard_wal_last_index(w) + 1, 1, 100, 1);
        assert_int_equal(rguard_wal_close(w), 0);
        patch(f->dir, "meta", 0, old, sizeof old);
        refused(f->dir, RGUARD_WAL_CORRUPT, &r, "stale metadata");
        assert_non_null(strstr(r.message, "older than the log"));
        w = NULL;
        o.open_damaged = true;
        assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), RGUARD_ECORRUPT);
        o.open_damaged = false;
    }
}

/* ---- batches that contradict each other ---- */

/* The last batch with other records in it; every checksum is good. */
static void forge(struct fixture *f, uint64_t first_index, uint64_t term)
{
    struct wal_batch_header h, prev;
    _Alignas(8) static uint8_t buf[12288];
    static uint8_t data[3300];
    fresh(f, KILLED);
    peek(f->dir, FIRST_SEGMENT, batch_at[4], &h, sizeof h);
    peek(f->dir, FIRST_SEGMENT, batch_at[3], &prev, sizeof prev);
    struct wal_place place = {h.uuid, h.segment, h.salt, h.lsn, 0};
    struct wal_encoder e;
    struct wal_batch_header forged = h;
    rguard__wal_encode_start(&e, buf, &forged);
    rguard__wal_encode_follow(&e, &prev);
    for (uint64_t i = 0; i < 3; i++) {
        struct rguard_wal_record r = {
            .index = first_index + i, .term = term, .type = 1, .len = sizeof data, .data = data};
        rguard__wal_encode_put(&e, &r);
    }
    rguard__wal_encode_finish(&e, &place);
    patch(f->dir, FIRST_SEGMENT, batch_at[4], buf, sizeof buf);
}

static void an_index_gap_without_a_hole(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    forge(f, 14, 1);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "gap");
    assert_non_null(strstr(r.message, "gap or repeat"));
    assert_int_equal(r.offset, batch_at[4]);
}

static void an_index_that_repeats(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    forge(f, 12, 1);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "repeat");
    assert_non_null(strstr(r.message, "gap or repeat"));
}

static void a_term_that_decreases(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    forge(f, 13, 0);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "term");
    assert_non_null(strstr(r.message, "term decreases"));
    forge(f, 13, 1); /* what was there: no harm in forging itself */
    assert_int_equal(verify(f->dir, &r), 0);
}

/* ---- the end ---- */

/* CLOSE holds no record, and the metadata proves that nothing else is missing. */
static void only_close_is_damaged(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r = {.size = sizeof r};
    for (uint64_t i = 0; i <= 544; i += 16) {
        fresh(f, CLOSED);
        if (i == 544) {
            zero(f->dir, FIRST_SEGMENT, batch_at[5], 4096);
        } else {
            flip(f->dir, FIRST_SEGMENT, batch_at[5] + i, 6);
        }
        uint32_t before = dir_sum(f->dir);
        assert_int_equal(verify(f->dir, &r), 0);
        assert_int_equal(dir_sum(f->dir), before);
        assert_int_equal(r.verdict, RGUARD_WAL_CLEAN_END);
        assert_int_equal(r.last_index, RECORDS);
        assert_true(r.warnings > 0);
        assert_non_null(strstr(r.message, "closing batch"));
        opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS, "CLOSE");
        assert_int_equal(verify(f->dir, &r), 0);
        assert_int_equal(r.warnings, 0);
    }
    fresh(f, CLOSED); /* one record more, and it is another matter */
    zero(f->dir, FIRST_SEGMENT, batch_at[4], batch_at[5] + 4096 - batch_at[4]);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "more than CLOSE");
}

static void a_crash_while_close_is_missing(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    bool alive = false;
    f->backend = "sync";
    srand(3);
    for (int op = 1; !alive; op++) {
        assert_true(op < 200);
        fresh(f, CLOSED);
        flip(f->dir, FIRST_SEGMENT, batch_at[5] + 20, 6);
        struct fault_disk *x = fault_disk(f);
        rguard_wal *w = NULL;
        x->fault = CRASH;
        x->countdown = op;
        if (rguard__wal_open_disk(&x->base, &o, &w, NULL) == 0) {
            uint8_t byte = 1;
            struct rguard_wal_record r = {.index = 16, .term = 1, .len = 1, .data = &byte};
            assert_int_equal(rguard_wal_append(w, &r, 1, NULL, NULL), 0);
            alive = rguard_wal_flush(w) == 0;
            alive = rguard_wal_close(w) == 0 && alive;
        }
        w = must_open(f, &o);
        for (uint64_t i = 1; i <= RECORDS; i++) {
            check_record(w, i, 1, batch_len[(i - 1) / 3]);
        }
        assert_int_equal(rguard_wal_close(w), 0);
    }
}

/* ---- files ---- */

static void files_of_garbage(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    struct rguard_wal_options o = recover_options();
    char path[512];
    uint8_t garbage[16384];
    srand(12);
    for (size_t i = 0; i < sizeof garbage; i++) {
        garbage[i] = (uint8_t)rand();
    }
    fresh(f, KILLED); /* as the next segment: data of which nobody knows whose it is */
    (void)snprintf(path, sizeof path, "%s/%020d.wal", f->dir, 2);
    close(open(path, O_WRONLY | O_CREAT, 0600));
    patch(f->dir, "00000000000000000002.wal", 0, garbage, sizeof garbage);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "garbage segment");
    fresh(f, KILLED); /* as the metadata */
    patch(f->dir, "meta", 0, garbage, sizeof garbage);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "garbage meta");
    fresh(f, KILLED); /* as a journal of repairs: a log that is whole has no use for one */
    (void)snprintf(path, sizeof path, "%s/repair", f->dir);
    close(open(path, O_WRONLY | O_CREAT, 0600));
    patch(f->dir, "repair", 0, garbage, sizeof garbage);
    opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS, "garbage journal");
    assert_int_equal(access(path, F_OK), -1);
    fresh(f, KILLED); /* beside it */
    (void)snprintf(path, sizeof path, "%s/something", f->dir);
    close(open(path, O_WRONLY | O_CREAT, 0600));
    patch(f->dir, "something", 0, garbage, sizeof garbage);
    rguard_wal_close(must_open(f, &o));
    opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS, "garbage beside it");
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(one_header_of_a_segment_is_damaged),
        T(both_headers_of_a_segment_are_damaged),
        T(both_headers_of_an_empty_spare_are_damaged),
        T(a_segment_that_lost_all_it_had),
        T(a_batch_of_another_segment),
        T(a_batch_of_another_log),
        T(a_lost_write_leaves_what_was_there),
        T(metadata_older_than_the_log),
        T(an_index_gap_without_a_hole),
        T(an_index_that_repeats),
        T(a_term_that_decreases),
        T(only_close_is_damaged),
        T(a_crash_while_close_is_missing),
        T(files_of_garbage),
    };
    in_memory = true;
    return cmocka_run_group_tests_name("wal_cases", tests, NULL, remove_originals);
}
