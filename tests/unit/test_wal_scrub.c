/* SPDX-License-Identifier: Apache-2.0 */
/* Rot under a log that is in use: found, named from memory, repaired, and the log goes on. */
#include "test_wal_disk.h"
#include "test_wal_log.h"

#define MAX_FAULTS 16

static int put_len(rguard_wal *w, uint64_t index, uint32_t len)
{
    uint8_t *data = malloc(len);
    contents(index, 1, data, len);
    struct rguard_wal_record r = {.index = index, .term = 1, .type = 1, .len = len, .data = data};
    int rc = rguard_wal_repair_put(w, &r, 0);
    free(data);
    return rc;
}

static size_t list(rguard_wal *w, struct rguard_wal_fault *faults)
{
    size_t n;
    memset(faults, 0, MAX_FAULTS * sizeof *faults);
    assert_int_equal(rguard_wal_faults(w, faults, MAX_FAULTS, &n), 0);
    return n;
}

/* A whole round in steps of @bytes; how many of them found something. */
static int round_of(rguard_wal *w, size_t bytes, int *steps)
{
    int done = 0, found = 0;
    for (*steps = 0; !done; ++*steps) {
        int rc = rguard_wal_scrub_step(w, bytes, &done);
        if (rc != 0 && rc != RGUARD_ECORRUPT) {
            fail_msg("step %d: %s", *steps, rguard_err_name(rc));
        }
        found += rc == RGUARD_ECORRUPT;
        assert_true(*steps < 10000);
    }
    return found;
}

static void nothing_is_found_in_a_healthy_log(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    int steps, done = 0;
    rguard_wal *w = must_open(f, &o);
    assert_int_equal(rguard_wal_scrub_step(w, 4096, &done), 0); /* empty */
    assert_int_equal(done, 1);
    append_range(w, 1, 100, 1, 5000, 1);
    assert_int_equal(round_of(w, 1, &steps), 0);
    assert_in_range(steps, 100, 101); /* one batch at least, one batch at most */
    assert_int_equal(round_of(w, 64 * 1024, &steps), 0);
    assert_in_range(steps, 12, 15);
    assert_int_equal(rguard_wal_scrub_step(w, 4 * 8192, &done), 0);
    assert_int_equal(rguard_wal_truncate_prefix(w, 60),
                     0); /* what was next is not there any more */
    append_range(w, 101, 110, 1, 5000, 1);
    assert_int_equal(rguard_wal_truncate_suffix(w, 105), 0);
    assert_int_equal(rguard_wal_flush(w), 0);
    assert_int_equal(round_of(w, 100000, &steps), 0);
    uint8_t *data; /* in flight, or about to be: not looked at */
    struct outcome out = {0, 0};
    assert_int_equal(queue_record(w, 105, 1, 50000, &data, &out), 0);
    (void)rguard_wal_process(w);
    assert_int_equal(round_of(w, 100000, &steps), 0);
    assert_int_equal(rguard_wal_flush(w), 0);
    free(data);
    assert_int_equal(rguard_wal_close(w), 0);
}

static uint64_t data_of(rguard_wal *w, uint64_t index)
{
    return rguard__wal_index_get(&w->index, index)->lsn;
}

static void rot_is_found_named_and_repaired_in_use(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_fault faults[MAX_FAULTS];
    struct rguard_wal_record r;
    int steps;
    rguard_wal *w = must_open(f, &o);
    for (uint64_t b = 0; b < 5; b++) {
        append_range(w, 3 * b + 1, 3 * b + 3, 1, batch_len[b], 3);
    }
    for (int b = 0; b < 5; b++) { /* the last one, too: nothing is behind it */
        uint64_t index = 3 * (uint64_t)b + 2;
        uint32_t before = dir_sum(f->dir);
        flip(f->dir, FIRST_SEGMENT, data_of(w, index) + 3, 1);
        assert_int_equal(round_of(w, 4096, &steps), 1);
        assert_int_equal(list(w, faults), 1);
        assert_int_equal(faults[0].kind, RGUARD_WAL_FAULT_PAYLOAD);
        assert_int_equal(faults[0].verdict, RGUARD_WAL_CORRUPT);
        assert_int_equal(faults[0].first_index, index);
        assert_int_equal(faults[0].last_index, index);
        assert_int_equal(faults[0].lsn, batch_at[b]);
        assert_int_equal(rguard_wal_fault_record(w, index, &r), 0);
        assert_int_equal(r.len, batch_len[b]);
        assert_int_equal(round_of(w, 4096, &steps), 0); /* it is told once */
        assert_int_equal(list(w, faults), 1);
        assert_int_equal(put_len(w, index, batch_len[b] - 1), RGUARD_ECHECKSUM);
        assert_int_equal(put_len(w, index, batch_len[b]), 0);
        assert_int_equal(list(w, faults), 0);
        assert_int_equal(dir_sum(f->dir), before);
        assert_int_equal(round_of(w, 4096, &steps), 0);
        check_record(w, index, 1, batch_len[b]);
    }
    append_range(w, 16, 20, 2, 100, 2);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    assert_int_equal(rguard_wal_last_index(w), 20);
    for (uint64_t i = 1; i <= RECORDS; i++) {
        check_record(w, i, 1, batch_len[(i - 1) / 3]);
    }
    assert_int_equal(rguard_wal_close(w), 0);
}

/* Any sector of any batch, and whole batches, over several segments. */
static void any_damage_is_found(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_fault faults[MAX_FAULTS];
    int steps, bad = 0;
    srand(77);
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 60, 1, 5000, 1);
    for (int round = 0; round < 200; round++) {
        /* One batch of 8 KiB, or two neighbours; 5664 of 8192 bytes mean something. */
        uint64_t index = 1 + (uint64_t)rand() % 60;
        uint64_t lsn = data_of(w, index) / 8192 * 8192;
        const struct wal_segment *g = rguard__wal_segments_find(&w->segments, data_of(w, index));
        char name[WAL_NAME_MAX];
        uint64_t batch = g->first_lsn + 4096 + (lsn - g->first_lsn) / 8192 * 8192;
        batch = data_of(w, index) < batch ? batch - 8192 : batch;
        uint64_t at = batch - g->first_lsn;
        rguard__wal_segment_name(g->sequence, name);
        int kind = round % 4;
        uint32_t before = dir_sum(f->dir);
        if (kind == 0) {
            flip(f->dir, name, at + (uint64_t)rand() % 5600, (unsigned)rand() % 8);
        } else if (kind == 1) {
            zero(f->dir, name, at + (uint64_t)rand() % 11 * 512, 512);
        } else if (kind == 2) {
            zero(f->dir, name, at, 8192);
        } else {
            zero(f->dir, name, at, at + 16384 <= g->bytes - 4096 ? 16384 : 8192);
        }
        if (dir_sum(f->dir) == before) {
            continue;
        }
        assert_int_equal(round_of(w, 30000, &steps), 1);
        size_t n = list(w, faults);
        for (size_t i = 0; i < n; i++) {
            for (uint64_t k = faults[i].first_index; k != 0 && k <= faults[i].last_index; k++) {
                assert_int_equal(put_len(w, k, 5000), 0);
                bad++;
            }
        }
        if (list(w, faults) != 0) {
            fail_msg("round %d, kind %d, record %u: %s", round, kind, (unsigned)index,
                     faults[0].text);
        }
        assert_int_equal(round_of(w, 30000, &steps), 0);
        check_range(w, 1, 60, 1, 5000);
    }
    assert_true(bad > 50);
    append_range(w, 61, 70, 1, 5000, 1);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    check_range(w, 1, 70, 1, 5000);
    assert_int_equal(rguard_wal_close(w), 0);
}

static void a_device_that_cannot_read(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_fault faults[MAX_FAULTS];
    int steps;
    f->backend = "sync";
    struct fault_disk *x = fault_disk(f);
    rguard_wal *w = open_on(x, &o);
    append_range(w, 1, 10, 1, 3000, 1); /* one to a block */
    x->fault = FAIL_READ;
    x->bad_block = 12288 + 1024;
    assert_int_equal(round_of(w, 1 << 20, &steps), 1);
    assert_int_equal(list(w, faults), 1);
    assert_int_equal(faults[0].kind, RGUARD_WAL_FAULT_UNREADABLE);
    assert_int_equal(faults[0].offset, 12288 + 1024);
    assert_int_equal(faults[0].damaged_bytes, 512);
    assert_int_equal(faults[0].first_index, 3);
    append_range(w, 11, 12, 1, 3000, 1);
    x->fault = NO_FAULT;
    assert_int_equal(put_len(w, 3, 3000), 0);
    assert_int_equal(list(w, faults), 0);
    assert_int_equal(rguard_wal_close(w), 0);
}

/* What was damaged has been dropped behind a snapshot: it is not missed. */
static void damage_that_is_dropped(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_fault faults[MAX_FAULTS];
    int steps;
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 40, 1, 5000, 1);
    flip(f->dir, FIRST_SEGMENT, data_of(w, 4), 1);
    assert_int_equal(round_of(w, 1 << 20, &steps), 1);
    assert_int_equal(list(w, faults), 1);
    assert_int_equal(rguard_wal_truncate_prefix(w, 30), 0);
    assert_int_equal(put_len(w, 4, 5000), -ENOENT);
    assert_int_equal(list(w, faults), 0);
    assert_int_equal(round_of(w, 1 << 20, &steps), 0);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    check_range(w, 31, 40, 1, 5000);
    assert_int_equal(rguard_wal_close(w), 0);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(nothing_is_found_in_a_healthy_log),
        T(rot_is_found_named_and_repaired_in_use),
        T(any_damage_is_found),
        T(a_device_that_cannot_read),
        T(damage_that_is_dropped),
    };
    in_memory = true;
    return cmocka_run_group_tests_name("wal_scrub", tests, NULL, remove_originals);
}
