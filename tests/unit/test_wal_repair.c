/* SPDX-License-Identifier: Apache-2.0 */
/* Damaged records are put back, and nothing else is. */
#include "test_wal_disk.h"
#include "test_wal_log.h"

#define MAX_FAULTS 16

static struct rguard_wal_options damaged_options(void)
{
    struct rguard_wal_options o = recover_options();
    o.open_damaged = true;
    return o;
}

static rguard_wal *open_damaged(const char *dir)
{
    struct rguard_wal_options o = damaged_options();
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = NULL;
    int rc = rguard_wal_open(dir, &o, &w, &r);
    if (rc != 0) {
        fail_msg("open: %s: %s", rguard_err_name(rc), r.message);
    }
    return w;
}

static size_t count_faults(rguard_wal *w)
{
    size_t n = 99;
    assert_int_equal(rguard_wal_faults(w, NULL, 0, &n), 0);
    return n;
}

static struct rguard_wal_fault fault(rguard_wal *w, size_t i)
{
    struct rguard_wal_fault faults[MAX_FAULTS] = {{0}};
    size_t n;
    assert_int_equal(rguard_wal_faults(w, faults, MAX_FAULTS, &n), 0);
    assert_true(i < n);
    return faults[i];
}

/* The record as a peer has it: as it was written, or with another term. */
static int put_term(rguard_wal *w, uint64_t index, uint64_t term, uint64_t committed)
{
    uint32_t len = batch_len[(index - 1) / 3];
    uint8_t *data = malloc(len);
    contents(index, 1, data, len);
    struct rguard_wal_record r = {
        .index = index, .term = term, .type = 1, .len = len, .data = data};
    int rc = rguard_wal_repair_put(w, &r, committed);
    free(data);
    return rc;
}

static int put(rguard_wal *w, uint64_t index)
{
    return put_term(w, index, 1, index);
}

/* Where the data of a record of batch @b begins. */
static uint64_t data_at(int b, int record)
{
    uint64_t sectors = (batch_at[b + 1] - batch_at[b]) / 512;
    return batch_at[b] + 512 + 4 * sectors + 3 * 32 + (uint64_t)record * ((batch_len[b] + 7) & ~7u);
}

static bool exists(const char *dir, const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    return access(path, F_OK) == 0;
}

/* Batches, to the last bit, are those of the original log; @to: up to which address. */
static void check_bytes(const struct fixture *f, enum ending ending, uint64_t to)
{
    uint8_t *a = malloc(to), *b = malloc(to);
    peek(f->dir, FIRST_SEGMENT, 0, a, to);
    peek(originals[ending], FIRST_SEGMENT, 0, b, to);
    assert_memory_equal(a, b, to);
    free(a);
    free(b);
}

/* No fault is left; the log takes appends at once and after another open. */
static void check_whole(struct fixture *f, rguard_wal *w, uint64_t last, const char *name)
{
    size_t n = count_faults(w);
    if (n != 0 || rguard_wal_last_index(w) != last) {
        fail_msg("%s: %u faults (%s), last %u", name, (unsigned)n, n > 0 ? fault(w, 0).text : "",
                 (unsigned)rguard_wal_last_index(w));
    }
    for (uint64_t i = 1; i <= last; i++) {
        check_record(w, i, 1, batch_len[(i - 1) / 3]);
    }
    append_range(w, last + 1, last + 2, 2, 100, 1);
    assert_int_equal(rguard_wal_truncate_suffix(w, last + 1), 0);
    assert_int_equal(rguard_wal_close(w), 0);
    assert_false(exists(f->dir, "repair"));
    opens(f->dir, RGUARD_WAL_CLEAN_END, last, name);
}

/* ---- identity known ---- */

static void the_identical_record_and_no_other(void **state)
{
    struct fixture *f = *state;
    for (int b = 0; b < 5; b++) {
        for (int e = KILLED; e <= CLOSED; e++) {
            uint64_t index = 3 * (uint64_t)b + 2;
            uint32_t len = batch_len[b];
            uint8_t *data = malloc(len + 1);
            char name[32];
            (void)snprintf(name, sizeof name, "batch %d, ending %d", b, e);
            fresh(f, (enum ending)e);
            flip(f->dir, FIRST_SEGMENT, data_at(b, 1) + 5, 2);
            uint32_t before = dir_sum(f->dir);
            rguard_wal *w = open_damaged(f->dir);
            contents(index, 1, data, len);
            struct rguard_wal_record r = {
                .index = index, .term = 2, .type = 1, .len = len, .data = data};
            assert_int_equal(rguard_wal_repair_put(w, &r, 99), RGUARD_ECHECKSUM);
            r.term = 1;
            r.type = 2;
            assert_int_equal(rguard_wal_repair_put(w, &r, 99), RGUARD_ECHECKSUM);
            r.type = 1;
            r.len--;
            assert_int_equal(rguard_wal_repair_put(w, &r, 99), RGUARD_ECHECKSUM);
            r.len++;
            data[len / 2] ^= 1;
            assert_int_equal(rguard_wal_repair_put(w, &r, 99), RGUARD_ECHECKSUM);
            data[len / 2] ^= 1;
            r.index = index + 1; /* its neighbour is not damaged */
            assert_int_equal(rguard_wal_repair_put(w, &r, 99), -ENOENT);
            r.index = index;
            assert_int_equal(dir_sum(f->dir), before);
            assert_int_equal(rguard_wal_repair_put(w, &r, 0), 0); /* no vouching is needed */
            assert_int_equal(rguard_wal_repair_put(w, &r, 99), -ENOENT);
            check_bytes(f, (enum ending)e, 92 * 1024);
            check_whole(f, w, RECORDS, name);
            free(data);
        }
    }
}

static void a_read_only_log_is_not_repaired(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = damaged_options();
    rguard_wal *w = NULL;
    fresh(f, KILLED);
    flip(f->dir, FIRST_SEGMENT, data_at(2, 1) + 5, 2);
    o.read_only = true;
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, NULL), 0);
    assert_int_equal(put(w, 8), -EROFS);
    rguard_wal_close(w);
}

/* ---- identity lost ---- */

static void what_nobody_vouches_for_is_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t byte = 1;
    for (int b = 0; b < 4; b++) {
        uint64_t first = 3 * (uint64_t)b + 1;
        fresh(f, KILLED);
        zero(f->dir, FIRST_SEGMENT, batch_at[b], batch_at[b + 1] - batch_at[b]);
        uint32_t before = dir_sum(f->dir);
        rguard_wal *w = open_damaged(f->dir);
        for (uint64_t i = first; i < first + 3; i++) {
            assert_int_equal(put_term(w, i, 1, i - 1), RGUARD_EREFUSED);
            assert_int_equal(put_term(w, i, 2, 99), RGUARD_ECHECKSUM); /* its neighbours' is 1 */
        }
        assert_int_equal(dir_sum(f->dir), before);
        assert_int_equal(put(w, first + 2), 0);
        assert_int_equal(put(w, first), 0);
        /* Plausible, vouched for, and not what stood here: the header knows better. */
        struct rguard_wal_record r = {
            .index = first + 1, .term = 1, .type = 1, .len = 1, .data = &byte};
        assert_int_equal(rguard_wal_repair_put(w, &r, 99), RGUARD_ECHECKSUM);
        assert_int_equal(count_faults(w), 1);
        assert_int_equal(put(w, first),
                         0); /* which one was wrong nobody knows: all of them again */
        assert_int_equal(put(w, first + 1), 0);
        assert_int_equal(put(w, first + 2), 0);
        check_bytes(f, KILLED, 92 * 1024);
        check_whole(f, w, RECORDS, "gone");
    }
}

/* Two neighbours, of which the first cannot be named: a batch stands in for it, and the second is
 * restored to the byte. */
static void a_batch_stands_in_for_what_has_no_name(void **state)
{
    struct fixture *f = *state;
    for (int reopen = 0; reopen < 2; reopen++) {
        fresh(f, KILLED);
        zero(f->dir, FIRST_SEGMENT, batch_at[1], batch_at[3] - batch_at[1]);
        rguard_wal *w = open_damaged(f->dir);
        assert_int_equal(count_faults(w), 2);
        assert_int_equal(fault(w, 0).kind, RGUARD_WAL_FAULT_LOST);
        for (uint64_t i = 4; i <= 9; i++) {
            assert_int_equal(put_term(w, i, 1, i - 1), RGUARD_EREFUSED);
            assert_int_equal(put_term(w, i, 9, 99), RGUARD_ECHECKSUM);
            assert_int_equal(put(w, i), 0);
            if (reopen) { /* what was put is remembered */
                assert_int_equal(rguard_wal_close(w), 0);
                w = open_damaged(f->dir);
            }
        }
        uint8_t now[96 * 1024], was[96 * 1024];
        peek(f->dir, FIRST_SEGMENT, 0, now, sizeof now);
        peek(originals[KILLED], FIRST_SEGMENT, 0, was, sizeof was);
        assert_memory_equal(now, was, batch_at[1]);
        assert_memory_equal(now + batch_at[2] + 512, was + batch_at[2] + 512,
                            batch_at[5] - batch_at[2] - 512);
        check_whole(f, w, RECORDS, "stands in");
    }
}

/* ---- the tail ---- */

/* The last batch is garbage from its first byte on; nothing is behind it. Its records, however many
 * there were, are those that a peer has committed. */
static void a_tail_of_which_nothing_is_known(void **state)
{
    struct fixture *f = *state;
    uint8_t garbage[12288];
    memset(garbage, 0xa5, sizeof garbage);
    for (uint64_t committed = 13; committed <= 15; committed++) {
        fresh(f, KILLED);
        patch(f->dir, FIRST_SEGMENT, batch_at[4], garbage, sizeof garbage);
        rguard_wal *w = open_damaged(f->dir);
        assert_int_equal(count_faults(w), 1);
        struct rguard_wal_fault x = fault(w, 0);
        assert_int_equal(x.kind, RGUARD_WAL_FAULT_LOST);
        assert_int_equal(x.verdict, RGUARD_WAL_SUSPECT_TAIL);
        assert_int_equal(x.first_index, 13);
        assert_int_equal(x.last_index, 0);
        assert_int_equal(put_term(w, 13, 1, 12), RGUARD_EREFUSED);
        assert_int_equal(put_term(w, 14, 1, 15), -EINVAL); /* from the front on */
        assert_int_equal(put_term(w, 12, 1, 15), -ENOENT);
        for (uint64_t i = 13; i <= committed; i++) {
            assert_int_equal(count_faults(w), 1);
            assert_int_equal(put_term(w, i, 1, committed), 0);
        }
        check_bytes(f, KILLED, batch_at[4]);
        assert_true(exists(f->dir, "quarantine-28672"));
        check_whole(f, w, committed, "garbage");
    }
}

/* It was closed cleanly, and the end is gone without a trace: the metadata knows that it was. */
static void a_tail_that_was_acknowledged(void **state)
{
    struct fixture *f = *state;
    fresh(f, CLOSED);
    zero(f->dir, FIRST_SEGMENT, batch_at[3], 92 * 1024 - batch_at[3]);
    rguard_wal *w = open_damaged(f->dir);
    assert_int_equal(count_faults(w), 1);
    assert_int_equal(fault(w, 0).verdict, RGUARD_WAL_CORRUPT);
    assert_int_equal(fault(w, 0).first_index, 10);
    assert_int_equal(fault(w, 0).bytes, batch_at[5] + 4096 - batch_at[3]);
    for (uint64_t i = 10; i <= 12; i++) {
        assert_int_equal(put_term(w, i, 1, 15), 0);
    }
    assert_int_equal(rguard_wal_close(w), 0);
    struct rguard_wal_report r;
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "half repaired");
    w = open_damaged(f->dir);
    for (uint64_t i = 13; i <= 15; i++) {
        assert_int_equal(put_term(w, i, 1, 15), 0);
    }
    check_whole(f, w, RECORDS, "acknowledged");
}

/* More is committed than there was room for: the rest was never here, and comes by appending. */
static void a_tail_takes_no_more_than_it_can_have_held(void **state)
{
    struct fixture *f = *state;
    uint8_t data[4000];
    fresh(f, KILLED);
    flip(f->dir, FIRST_SEGMENT, batch_at[4] + 20, 1); /* its header */
    rguard_wal *w = open_damaged(f->dir);
    uint64_t i = 13;
    for (; count_faults(w) > 0 && i < 99; i++) {
        contents(i, 1, data, sizeof data);
        struct rguard_wal_record r = {
            .index = i, .term = 1, .type = 1, .len = sizeof data, .data = data};
        assert_int_equal(rguard_wal_repair_put(w, &r, 1000), 0);
    }
    assert_int_equal(i, 16); /* two of 4000 bytes go into 12 KiB; the third completed it */
    assert_int_equal(rguard_wal_last_index(w), 14);
    check_range(w, 13, 14, 1, sizeof data);
    append_range(w, 15, 20, 1, 4000, 2);
    assert_int_equal(rguard_wal_close(w), 0);
    struct rguard_wal_report r;
    assert_int_equal(verify(f->dir, &r), 0);
    assert_int_equal(r.last_index, 20);
}

/* ---- no record is missing ---- */

static void what_needs_no_peer_is_repaired_by_the_open(void **state)
{
    struct fixture *f = *state;
    static const uint64_t at[] = {0, 12, 40, 160, 250, 300, 512, 513, 530};
    for (int b = 0; b < 5; b++) {
        for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
            if (b == 4 && at[i] < 256) {
                continue; /* nobody knows the header of the last batch */
            }
            char name[32];
            (void)snprintf(name, sizeof name, "batch %d, byte %u", b, (unsigned)at[i]);
            fresh(f, KILLED);
            flip(f->dir, FIRST_SEGMENT, batch_at[b] + at[i], 5);
            rguard_wal *w = open_damaged(f->dir);
            check_bytes(f, KILLED, 92 * 1024);
            check_whole(f, w, RECORDS, name);
        }
    }
    for (uint64_t byte = 0; byte < 544; byte += 50) { /* MARK, known from CLOSE behind it */
        struct rguard_wal_options o = recover_options();
        fresh(f, MARKED);
        rguard_wal *w = must_open(f, &o);
        assert_int_equal(rguard_wal_close(w), 0);
        uint8_t now[92 * 1024], was[92 * 1024];
        peek(f->dir, FIRST_SEGMENT, 0, was, sizeof was);
        flip(f->dir, FIRST_SEGMENT, batch_at[5] + byte, 5);
        w = open_damaged(f->dir);
        assert_int_equal(count_faults(w), 0);
        peek(f->dir, FIRST_SEGMENT, 0, now, sizeof now);
        assert_memory_equal(now, was, sizeof now);
        assert_int_equal(rguard_wal_close(w), 0);
    }
}

/* A truncation is lost: it is carried out all the same, and what it cut does not come back. */
static void a_lost_truncation_is_not_forgotten(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_report r;
    struct wal_batch_header h;
    for (int appends = 0; appends < 2; appends++) {
        fresh(f, KILLED);
        rguard_wal *w = must_open(f, &o);
        assert_int_equal(rguard_wal_truncate_suffix(w, 8), 0);
        assert_int_equal(rguard_wal_flush(w), 0);
        if (appends) {
            append_range(w, 8, 9, 2, 50, 1);
        }
        assert_int_equal(rguard_wal_close(w), 0);
        uint8_t now[92 * 1024], was[92 * 1024];
        peek(f->dir, FIRST_SEGMENT, 0, was, sizeof was);
        peek(f->dir, FIRST_SEGMENT, batch_at[5], &h, sizeof h);
        assert_int_equal(h.type, WAL_TRUNC);
        zero(f->dir, FIRST_SEGMENT, batch_at[5], 4096);
        refused(f->dir, RGUARD_WAL_CORRUPT, &r, "TRUNC");
        assert_int_equal(r.last_index, appends ? 9 : 7);
        w = open_damaged(f->dir);
        assert_int_equal(count_faults(w), 0);
        assert_int_equal(rguard_wal_last_index(w), appends ? 9 : 7);
        peek(f->dir, FIRST_SEGMENT, 0, now, sizeof now);
        assert_memory_equal(now, was, sizeof now);
        assert_int_equal(rguard_wal_close(w), 0);
        /* Of two neighbours the truncation cannot be named, only that there was one. */
        zero(f->dir, FIRST_SEGMENT, batch_at[5], 8192);
        w = NULL;
        o.open_damaged = true;
        if (appends) {
            assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), RGUARD_ECORRUPT);
            assert_non_null(strstr(r.message, "truncation"));
        }
        o.open_damaged = false;
    }
}

/* Records that were truncated later have no peer to come from; they are not missed either. */
static void void_records_are_not_asked_for(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    for (uint64_t from = 10; from <= 13; from++) { /* the records of the batch are 10 to 12 */
        fresh(f, KILLED);
        rguard_wal *w = must_open(f, &o);
        assert_int_equal(rguard_wal_truncate_suffix(w, from), 0);
        assert_int_equal(rguard_wal_flush(w), 0);
        append_range(w, from, 20, 2, 300, 3);
        assert_int_equal(rguard_wal_close(w), 0);
        zero(f->dir, FIRST_SEGMENT, batch_at[3] + 512, 4096 - 512);
        w = open_damaged(f->dir);
        assert_int_equal(count_faults(w), from == 10 ? 0 : 1);
        if (from > 10) {
            assert_int_equal(fault(w, 0).first_index, 10);
            assert_int_equal(fault(w, 0).last_index, from - 1);
        }
        for (uint64_t i = 10; i < from; i++) {
            assert_int_equal(put(w, i), 0);
        }
        assert_int_equal(count_faults(w), 0);
        for (int again = 0; again < 2; again++) {
            for (uint64_t i = 1; i < from; i++) {
                check_record(w, i, 1, batch_len[(i - 1) / 3]);
            }
            check_range(w, from, 20, 2, 300);
            append_range(w, rguard_wal_last_index(w) + 1, rguard_wal_last_index(w) + 1, 3, 10, 1);
            assert_int_equal(rguard_wal_close(w), 0);
            w = must_open(f, &o);
        }
        assert_int_equal(rguard_wal_last_index(w), 22);
        assert_int_equal(rguard_wal_close(w), 0);
    }
}

/* A copy of another batch behind the end: nothing is missing, but it must go. */
static void a_stray_copy_behind_the_end(void **state)
{
    struct fixture *f = *state;
    uint8_t batch[4096];
    struct rguard_wal_report r;
    fresh(f, KILLED);
    peek(f->dir, FIRST_SEGMENT, batch_at[1], batch, sizeof batch);
    patch(f->dir, FIRST_SEGMENT, batch_at[5] + 8192, batch, sizeof batch);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "stray");
    assert_non_null(strstr(r.message, "offset 8192")); /* where it belongs */
    assert_int_equal(r.offset, batch_at[5] + 8192);
    rguard_wal *w = open_damaged(f->dir);
    check_bytes(f, KILLED, 92 * 1024);
    assert_true(exists(f->dir, "quarantine-40960"));
    check_whole(f, w, RECORDS, "stray");
}

/* The last batch went to a wrong place: from there it is known what belongs here. */
static void a_misdirected_last_batch(void **state)
{
    struct fixture *f = *state;
    uint8_t batch[12288];
    fresh(f, KILLED);
    peek(f->dir, FIRST_SEGMENT, batch_at[4], batch, sizeof batch);
    zero(f->dir, FIRST_SEGMENT, batch_at[4], sizeof batch);
    patch(f->dir, FIRST_SEGMENT, batch_at[5] + 8192, batch, sizeof batch);
    rguard_wal *w = open_damaged(f->dir);
    assert_int_equal(count_faults(w), 2);
    assert_int_equal(fault(w, 0).first_index, 13);
    assert_int_equal(fault(w, 0).last_index, 15);
    for (uint64_t i = 13; i <= 15; i++) {
        assert_int_equal(put(w, i), 0);
    }
    assert_int_equal(count_faults(w), 0);
    check_bytes(f, KILLED, 92 * 1024);
    check_whole(f, w, RECORDS, "misdirected");
}

/* ---- devices ---- */

static void unreadable_sectors(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = damaged_options();
    struct rguard_wal_report r = {.size = sizeof r};
    f->backend = "sync";
    for (int b = 0; b < 5; b++) {
        rguard_wal *w = NULL;
        uint64_t sector = data_at(b, 1) / 512 * 512;
        fresh(f, KILLED);
        struct fault_disk *x = fault_disk(f);
        x->fault = FAIL_READ;
        x->bad_block = sector;
        assert_int_equal(rguard__wal_open_disk(&x->base, &o, &w, &r), 0);
        assert_int_equal(r.verdict, RGUARD_WAL_UNREADABLE);
        assert_int_equal(count_faults(w), 1);
        assert_int_equal(fault(w, 0).kind, RGUARD_WAL_FAULT_UNREADABLE);
        assert_int_equal(fault(w, 0).offset, sector);
        assert_int_equal(fault(w, 0).damaged_bytes, 512);
        uint64_t first = fault(w, 0).first_index, last = fault(w, 0).last_index;
        assert_true(first >= 3 * (uint64_t)b + 1 && last <= 3 * (uint64_t)b + 3);
        assert_int_equal(put(w, first),
                         -EIO * (first == last)); /* the device is as bad as before */
        x->fault = NO_FAULT;                      /* ... and has given it another sector now */
        for (uint64_t i = first; i <= last; i++) {
            assert_int_equal(put(w, i), 0);
        }
        check_bytes(f, KILLED, 92 * 1024);
        check_whole(f, w, RECORDS, "unreadable");
    }
}

/* The first sector of every file: a slot of the metadata and the headers of segments have a copy. */
static void unreadable_headers(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = NULL;
    f->backend = "sync";
    fresh(f, KILLED);
    char path[512]; /* the next segment, which may have been in the making, has no copy yet */
    (void)snprintf(path, sizeof path, "%s/%020d.wal", f->dir, 2);
    (void)unlink(path);
    struct fault_disk *x = fault_disk(f);
    x->fault = FAIL_READ;
    x->bad_block = 8;
    if (rguard__wal_open_disk(&x->base, &o, &w, &r) != 0) {
        fail_msg("%s", r.message);
    }
    assert_int_equal(r.verdict, RGUARD_WAL_CLEAN_END);
    assert_true(r.warnings >= 2);
    assert_int_equal(r.vote, 2);
    assert_int_equal(rguard_wal_close(w), 0);
    opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS, "headers");
}

/* ---- crashes ---- */

/* Opens on @x, puts everything that is asked for. true: it is whole. */
static bool repair_on(struct fault_disk *x)
{
    struct rguard_wal_options o = damaged_options();
    rguard_wal *w = NULL;
    if (rguard__wal_open_disk(&x->base, &o, &w, NULL) != 0) {
        return false;
    }
    int rc = 0;
    while (rc == 0 && count_faults(w) > 0) {
        struct rguard_wal_fault y = fault(w, 0);
        uint64_t last = y.last_index != 0 ? y.last_index : RECORDS;
        for (uint64_t i = y.first_index; i <= last && rc == 0; i++) {
            rc = put_term(w, i, 1, RECORDS);
            rc = rc == -ENOENT ? 0 : rc;
        }
    }
    bool whole = rc == 0 && count_faults(w) == 0;
    return rguard_wal_close(w) == 0 && whole;
}

static void damage(struct fixture *f, int kind)
{
    fresh(f, CLOSED);
    switch (kind) {
        case 0:
            flip(f->dir, FIRST_SEGMENT, data_at(2, 1), 1);
            break;
        case 1:
            zero(f->dir, FIRST_SEGMENT, batch_at[1], batch_at[3] - batch_at[1]);
            break;
        case 2:
            zero(f->dir, FIRST_SEGMENT, batch_at[3], 92 * 1024 - batch_at[3]);
            break;
        default:
            flip(f->dir, FIRST_SEGMENT, data_at(0, 0), 1);
            flip(f->dir, FIRST_SEGMENT, batch_at[3] + 100, 1);
            zero(f->dir, FIRST_SEGMENT, batch_at[4], 8192);
            break;
    }
}

static void a_crash_at_every_operation_of_a_repair(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    f->backend = "sync";
    srand(5);
    for (int kind = 0; kind < 4; kind++) {
        bool survived = false;
        int op = 1;
        for (; !survived; op++) {
            assert_true(op < 1000);
            damage(f, kind);
            struct fault_disk *x = fault_disk(f);
            x->fault = CRASH;
            x->countdown = op;
            survived = repair_on(x) && !survived;
            /* Whatever it left: no record reads wrong, and the repair can be finished. */
            x = fault_disk(f);
            rguard_wal *w = open_damaged(f->dir);
            struct rguard_wal_record rec;
            uint8_t buf[4096], want[4096];
            for (uint64_t i = 1; i <= RECORDS; i++) {
                int rc = rguard_wal_read(w, i, &rec, buf, sizeof buf);
                if (rc == 0) {
                    contents(i, 1, want, rec.len);
                    assert_memory_equal(buf, want, rec.len);
                } else {
                    assert_true(rc == RGUARD_ECORRUPT || rc == -ENOENT);
                }
            }
            assert_int_equal(rguard_wal_close(w), 0);
            if (!repair_on(x)) {
                fail_msg("kind %d, crash at operation %d: cannot be repaired", kind, op);
            }
            w = must_open(f, &o);
            for (uint64_t i = 1; i <= RECORDS; i++) {
                check_record(w, i, 1, batch_len[(i - 1) / 3]);
            }
            assert_int_equal(rguard_wal_last_index(w), RECORDS);
            assert_int_equal(rguard_wal_close(w), 0);
            assert_false(exists(f->dir, "repair"));
        }
        assert_true(op > 10);
    }
}

static int drop_on(struct fault_disk *x, struct rguard_wal_report *r)
{
    struct rguard_wal_options o = recover_options();
    return rguard__wal_drop_tail_disk(&x->base, &o, true, r);
}

static void a_crash_at_every_operation_of_a_cut(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    f->backend = "sync";
    srand(6);
    bool survived = false;
    int op = 1;
    for (; !survived; op++) {
        struct rguard_wal_report r = {.size = sizeof r};
        assert_true(op < 1000);
        fresh(f, CLOSED);
        rguard_wal *w = must_open(f, &o);
        append_range(w, 16, 60, 1, 5000, 1);
        assert_int_equal(rguard_wal_close(w), 0);
        flip(f->dir, FIRST_SEGMENT, data_at(3, 0), 1);
        struct fault_disk *x = fault_disk(f);
        x->fault = CRASH;
        x->countdown = op;
        survived = drop_on(x, &r) == 0;
        int rc = drop_on(fault_disk(f), &r);
        if (rc != 0) {
            fail_msg("crash at operation %d: %s: %s", op, rguard_err_name(rc), r.message);
        }
        w = must_open(f, &o);
        if (rguard_wal_last_index(w) != 9) {
            fail_msg("crash at operation %d: last %u", op, (unsigned)rguard_wal_last_index(w));
        }
        for (uint64_t i = 1; i <= 9; i++) {
            check_record(w, i, 1, batch_len[(i - 1) / 3]);
        }
        append_range(w, 10, 40, 2, 5000, 1);
        assert_int_equal(rguard_wal_close(w), 0);
        w = must_open(f, &o);
        check_range(w, 10, 40, 2, 5000);
        assert_int_equal(rguard_wal_close(w), 0);
        assert_true(exists(f->dir, "quarantine-24576"));
    }
    assert_true(op > 10);
}

/* ---- any damage ---- */

static void damage_somewhere(struct fixture *f)
{
    uint64_t end = batch_at[5] + 8192;
    uint64_t sector = 4096 + (uint64_t)rand() % ((end - 4096) / 512) * 512;
    uint64_t block = sector / 4096 * 4096, other = 4096 + (uint64_t)rand() % 10 * 4096;
    uint8_t buf[4096];
    switch (rand() % 6) {
        case 0:
            flip(f->dir, FIRST_SEGMENT, sector + (uint64_t)rand() % 512, (unsigned)rand() % 8);
            break;
        case 1:
            zero(f->dir, FIRST_SEGMENT, sector, 512);
            break;
        case 2:
            zero(f->dir, FIRST_SEGMENT, block, 4096 + (uint64_t)rand() % 3 * 4096);
            break;
        case 3:
            for (size_t i = 0; i < sizeof buf; i++) {
                buf[i] = (uint8_t)rand();
            }
            patch(f->dir, FIRST_SEGMENT, block, buf, rand() % 2 == 0 ? 512 : 4096);
            break;
        default:
            peek(f->dir, FIRST_SEGMENT, other, buf, sizeof buf);
            patch(f->dir, FIRST_SEGMENT, block, buf, sizeof buf);
            break;
    }
}

/* Offers a damaged record as nobody has it, and one that nobody vouches for. */
static void offer_wrong_ones(rguard_wal *w, uint64_t index)
{
    struct rguard_wal_record known;
    uint8_t byte = (uint8_t)rand();
    struct rguard_wal_record wrong = {
        .index = index, .term = 1, .type = 1, .len = 1, .data = &byte};
    if (rguard_wal_fault_record(w, index, &known) == 0) {
        assert_int_equal(rguard_wal_repair_put(w, &wrong, UINT64_MAX), RGUARD_ECHECKSUM);
        assert_int_equal(put_term(w, index, 2, UINT64_MAX), RGUARD_ECHECKSUM);
    } else if (rguard_wal_repair_put(w, &wrong, index - 1) != -ENOENT) { /* else it is intact */
        assert_int_equal(rguard_wal_repair_put(w, &wrong, index - 1), RGUARD_EREFUSED);
        assert_int_equal(put_term(w, index, 1, index - 1), RGUARD_EREFUSED);
    }
}

/* Puts what is asked for. false: it is refused for good. */
static bool put_all(rguard_wal *w)
{
    for (int rounds = 0; count_faults(w) > 0; rounds++) {
        struct rguard_wal_fault x = fault(w, 0);
        uint64_t last = x.last_index != 0 ? x.last_index : RECORDS;
        assert_true(rounds < 50);
        if (x.first_index == 0 || x.first_index > last) {
            return false;
        }
        for (uint64_t i = x.first_index; i <= last; i++) {
            if (rand() % 4 == 0 && x.last_index != 0) {
                offer_wrong_ones(w, i);
            }
            int rc = put_term(w, i, 1, RECORDS);
            if (rc == RGUARD_ENOTSUP) {
                return false;
            }
            if (rc != 0 && rc != -ENOENT) {
                fail_msg("record %u, %s: %s", (unsigned)i, x.text, rguard_err_name(rc));
            }
            if (count_faults(w) == 0 || fault(w, 0).lsn != x.lsn) {
                break;
            }
        }
    }
    return true;
}

/* One to three damages: each log opens, or says that it cannot, or is whole again with the peers'
 * records; and no record ever reads wrong. */
static void any_damage_is_repaired_or_named(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = damaged_options();
    int whole = 0, clean = 0, hopeless = 0;
    srand(31337);
    for (int round = 0; round < 1500; round++) {
        struct rguard_wal_report r = {.size = sizeof r};
        struct rguard_wal_record rec;
        uint8_t got[4096], want[4096];
        enum ending e = (enum ending)(round % 3);
        rguard_wal *w = NULL;
        fresh(f, e);
        for (int i = rand() % 3; i >= 0; i--) {
            damage_somewhere(f);
        }
        uint32_t before = dir_sum(f->dir);
        int rc = rguard_wal_open(f->dir, &o, &w, &r);
        if (rc != 0) {
            assert_int_equal(dir_sum(f->dir), before);
            assert_true(r.message[0] != '\0');
            hopeless++;
            continue;
        }
        bool bad = r.verdict >= RGUARD_WAL_SUSPECT_TAIL;
        bool repaired = put_all(w);
        for (uint64_t i = 1; i <= RECORDS; i++) {
            rc = rguard_wal_read(w, i, &rec, got, sizeof got);
            if (rc == 0) {
                contents(i, 1, want, rec.len);
                assert_int_equal(rec.len, batch_len[(i - 1) / 3]);
                assert_memory_equal(got, want, rec.len);
            } else if (repaired &&
                       e == CLOSED) { /* elsewhere the tail may be gone without a trace */
                fail_msg("round %d: record %u: %s (%s)", round, (unsigned)i, rguard_err_name(rc),
                         r.message);
            }
        }
        whole += bad && repaired;
        clean += !bad;
        hopeless += !repaired;
        assert_int_equal(rguard_wal_close(w), 0);
        if (repaired) {
            o.open_damaged = false;
            rc = rguard_wal_open(f->dir, &o, &w, &r);
            if (rc != 0) {
                fail_msg("round %d, repaired: %s", round, r.message);
            }
            assert_int_equal(rguard_wal_close(w), 0);
            o.open_damaged = true;
        }
    }
    assert_true(whole > 500 && clean > 50 && hopeless < 300);
}

/* ---- the detector, switched off ---- */

static int put_the_wrong_one(struct fixture *f)
{
    uint8_t data[3300];
    rguard_wal *w = open_damaged(f->dir);
    contents(14, 1, data, sizeof data);
    data[7] ^= 1;
    struct rguard_wal_record r = {
        .index = 14, .term = 1, .type = 1, .len = sizeof data, .data = data};
    int rc = rguard_wal_repair_put(w, &r, 99);
    (void)rguard_wal_close(w);
    return rc == 0 ? 1 : 0;
}

static int put_the_wrong_one_unchecked(struct fixture *f)
{
    setenv("RGUARD_TEST_OFF", "repair_identity", 1);
    return put_the_wrong_one(f);
}

static void without_identity_any_record_would_do(void **state)
{
    struct fixture *f = *state;
    for (int off = 0; off < 2; off++) {
        fresh(f, KILLED);
        flip(f->dir, FIRST_SEGMENT, data_at(4, 1), 1); /* the chain would tell of any other */
        assert_int_equal(in_child(off ? put_the_wrong_one_unchecked : put_the_wrong_one, f), off);
    }
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_identical_record_and_no_other),
        T(a_read_only_log_is_not_repaired),
        T(what_nobody_vouches_for_is_refused),
        T(a_batch_stands_in_for_what_has_no_name),
        T(a_tail_of_which_nothing_is_known),
        T(a_tail_that_was_acknowledged),
        T(a_tail_takes_no_more_than_it_can_have_held),
        T(what_needs_no_peer_is_repaired_by_the_open),
        T(a_lost_truncation_is_not_forgotten),
        T(void_records_are_not_asked_for),
        T(a_stray_copy_behind_the_end),
        T(a_misdirected_last_batch),
        T(unreadable_sectors),
        T(unreadable_headers),
        T(a_crash_at_every_operation_of_a_repair),
        T(a_crash_at_every_operation_of_a_cut),
        T(any_damage_is_repaired_or_named),
        T(without_identity_any_record_would_do),
    };
    in_memory = true;
    return cmocka_run_group_tests_name("wal_repair", tests, NULL, remove_originals);
}
