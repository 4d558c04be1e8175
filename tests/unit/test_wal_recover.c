/* SPDX-License-Identifier: Apache-2.0 */
/* Recovery against damaged directories. Every case asserts the verdict and, where the log is
 * refused, that not one byte of any file has changed. */
#include "test_wal_log.h"

#include <sys/resource.h>
#include <sys/wait.h>

/* ---- the table ---- */

/* Row by row: what is found, and what the log is then. */
static const struct
{
    uint32_t condition, verdict;
} expected_rows[] = {
    {WAL_C_IO, RGUARD_WAL_UNREADABLE},       {WAL_C_VERSION, RGUARD_WAL_UNSUPPORTED},
    {WAL_C_FOREIGN, RGUARD_WAL_FOREIGN},     {WAL_C_META, RGUARD_WAL_CORRUPT},
    {WAL_C_STALE_META, RGUARD_WAL_CORRUPT},  {WAL_C_SEGMENT, RGUARD_WAL_CORRUPT},
    {WAL_C_LOGIC, RGUARD_WAL_CORRUPT},       {WAL_C_BEHIND, RGUARD_WAL_CORRUPT},
    {WAL_C_ACKED, RGUARD_WAL_CORRUPT},       {WAL_C_NOT_CLOSED, RGUARD_WAL_CORRUPT},
    {WAL_C_MISPLACED, RGUARD_WAL_CORRUPT},   {WAL_C_CLOSED, RGUARD_WAL_CLEAN_END},
    {WAL_C_ROTTEN, RGUARD_WAL_SUSPECT_TAIL}, {WAL_C_TORN, RGUARD_WAL_TORN_TAIL},
    {WAL_C_STALE, RGUARD_WAL_CLEAN_END},     {0, RGUARD_WAL_CLEAN_END},
};
#define ROWS (sizeof expected_rows / sizeof expected_rows[0])

static void every_combination_has_the_verdict_of_its_first_row(void **state)
{
    (void)state;
    uint32_t condition, verdict, beats, all = 0;
    for (size_t i = 0; i < ROWS; i++) {
        assert_true(rguard__wal_verdict_row(i, &condition, &verdict, &beats));
        assert_int_equal(condition, expected_rows[i].condition);
        assert_int_equal(verdict, expected_rows[i].verdict);
        assert_int_equal(all & condition, 0);
        all |= condition;
    }
    assert_false(rguard__wal_verdict_row(ROWS, &condition, &verdict, &beats));
    assert_int_equal(all, (1u << WAL_CONDITIONS) - 1); /* every condition has its row */
    for (uint32_t c = 0; c < 1u << WAL_CONDITIONS; c++) {
        size_t i = 0;
        while (expected_rows[i].condition != 0 && (c & expected_rows[i].condition) == 0) {
            i++;
        }
        assert_int_equal(rguard__wal_verdict(c, NULL), expected_rows[i].verdict);
    }
}

/* The order of two rows can be seen in some combination exactly if the upper one's `beats`, which
 * its paragraph explains, has the lower one's condition. */
static void the_order_of_rows_matters_exactly_where_the_table_says(void **state)
{
    (void)state;
    uint32_t condition[ROWS], verdict[ROWS], beats[ROWS];
    for (size_t i = 0; i < ROWS; i++) {
        assert_true(rguard__wal_verdict_row(i, &condition[i], &verdict[i], &beats[i]));
    }
    for (size_t upper = 0; upper + 1 < ROWS; upper++) {
        uint32_t seen = 0;
        for (size_t lower = upper + 1; lower + 1 < ROWS; lower++) {
            for (uint32_t c = 0; c < 1u << WAL_CONDITIONS; c++) {
                /* With only these two at the top, the lower one moved above the upper one. */
                bool both = (c & condition[upper]) != 0 && (c & condition[lower]) != 0;
                uint32_t now = rguard__wal_verdict(c, NULL);
                if (both && now == verdict[upper] && verdict[lower] != now) {
                    seen |= condition[lower];
                    break;
                }
            }
        }
        if (seen != beats[upper]) {
            fail_msg("row %u: the order matters to %x, the table says %x", (unsigned)upper, seen,
                     beats[upper]);
        }
    }
}

static void undamaged(void **state)
{
    struct fixture *f = *state;
    for (int e = KILLED; e <= CLOSED; e++) {
        fresh(f, (enum ending)e);
        struct wal_batch_header h;
        peek(f->dir, FIRST_SEGMENT, batch_at[4], &h, sizeof h);
        assert_int_equal(h.lsn, batch_at[4]); /* the layout that the cases below rely on */
        assert_int_equal(h.length, batch_at[5] - batch_at[4]);
        opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS, "undamaged");
    }
}

/* ---- torn tails ---- */

static void last_batch_cut_at_every_sector(void **state)
{
    struct fixture *f = *state;
    uint32_t sectors = (uint32_t)(batch_at[5] - batch_at[4]) / 512;
    for (uint32_t cut = 0; cut <= sectors; cut++) {
        char name[32];
        fresh(f, KILLED);
        (void)snprintf(name, sizeof name, "cut at sector %u", cut);
        zero(f->dir, FIRST_SEGMENT, batch_at[4] + cut * 512, (sectors - cut) * 512);
        /* 3 x 3304 bytes of payload end in sector 20 of 24; behind it there is only padding. */
        bool whole = cut >= 21, gone = cut == 0;
        opens(f->dir, whole || gone ? RGUARD_WAL_CLEAN_END : RGUARD_WAL_TORN_TAIL,
              whole ? RECORDS : RECORDS - 3, name);
    }
}

static void last_batch_with_any_sectors_missing(void **state)
{
    struct fixture *f = *state;
    uint32_t sectors = (uint32_t)(batch_at[5] - batch_at[4]) / 512;
    srand(4711);
    for (int round = 0; round < 150; round++) {
        char name[64] = "missing:";
        bool lost = false, left = false;
        fresh(f, KILLED);
        for (uint32_t i = 0; i < sectors; i++) {
            bool missing = round < (int)sectors ? (uint32_t)round == i : rand() % 3 == 0;
            if (missing) {
                zero(f->dir, FIRST_SEGMENT, batch_at[4] + i * 512, 512);
                (void)snprintf(name + strlen(name), sizeof name - strlen(name), " %u", i);
            }
            lost = lost || (missing && i < 21);
            left = left || (!missing && i < 21);
        }
        uint32_t verdict = lost && left ? RGUARD_WAL_TORN_TAIL : RGUARD_WAL_CLEAN_END;
        opens(f->dir, verdict, lost ? RECORDS - 3 : RECORDS, name);
    }
}

static void the_report_counts_what_was_dropped(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    fresh(f, KILLED);
    zero(f->dir, FIRST_SEGMENT, batch_at[4] + 4096, 4096);
    assert_int_equal(verify(f->dir, &r), 0);
    assert_int_equal(r.verdict, RGUARD_WAL_TORN_TAIL);
    assert_int_equal(r.dropped_records, 3);
    assert_int_equal(r.offset, batch_at[4]);
    assert_string_equal(r.file, FIRST_SEGMENT);
}

/* What was dropped is zero, and a marker says so durably before the log is handed out. */
static void a_cut_leaves_zeros_and_a_marker(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    struct wal_batch_header h;
    uint8_t rest[8192];
    fresh(f, KILLED);
    zero(f->dir, FIRST_SEGMENT, batch_at[4] + 4096, 512);
    rguard_wal *w = must_open(f, &o);
    peek(f->dir, FIRST_SEGMENT, batch_at[4], &h, sizeof h);
    peek(f->dir, FIRST_SEGMENT, batch_at[4] + 4096, rest, sizeof rest);
    assert_int_equal(h.type, WAL_TRUNC);
    assert_int_equal(h.arg_index, RECORDS - 2);
    assert_int_equal(h.acked_lsn, batch_at[4]);
    assert_true(rguard__wal_is_zero(rest, sizeof rest));
    rguard_wal_close(w);
}

/* ---- rot ---- */

/* Byte ranges of a batch that its CRCs cover; the rest is padding. */
static bool is_padding(int batch, uint64_t offset)
{
    uint64_t length = batch_at[batch + 1] - batch_at[batch];
    uint64_t payload = 512 + length / 512 * 4 + 3 * 32;
    return offset >= payload + 3 * ((batch_len[batch] + 7ULL) & ~7ULL);
}

/* Header, predecessor's header, sector CRCs, table, payload, of the first batch and of those in the
 * middle; one of them bit by bit. */
static void one_flipped_bit_with_a_batch_behind_it(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    fresh(f, KILLED);
    for (int b = 0; b < 4; b++) {
        uint64_t length = batch_at[b + 1] - batch_at[b], step = b == 3 ? 1 : 3;
        for (uint64_t i = 0; i < length; i += step) {
            uint64_t at = batch_at[b] + i;
            char name[32];
            (void)snprintf(name, sizeof name, "batch %d, byte %u", b, (unsigned)i);
            flip(f->dir, FIRST_SEGMENT, at, (unsigned)i % 8);
            if (is_padding(b, i)) {
                assert_int_equal(verify(f->dir, &r), 0);
                assert_int_equal(r.warnings, 1);
                assert_int_equal(r.last_index, RECORDS);
            } else if (i % 16 == 0) {
                refused(f->dir, RGUARD_WAL_CORRUPT, &r, name);
                assert_int_equal(r.damage_first_index, 3 * b + 1);
                assert_int_equal(r.damage_last_index, 3 * b + 3);
                assert_int_equal(r.offset, batch_at[b]);
                assert_string_equal(r.file, FIRST_SEGMENT);
            } else {
                assert_int_equal(verify(f->dir, &r), RGUARD_ECORRUPT);
            }
            flip(f->dir, FIRST_SEGMENT, at, (unsigned)i % 8);
        }
    }
    assert_int_equal(verify(f->dir, &r), 0);
}

static void rot_in_the_last_batch_is_suspect_unless_something_follows(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    static const uint64_t at[] = {0, 12, 40, 90, 270, 400, 600, 3000, 5000, 9000};
    for (size_t i = 0; i < sizeof at / sizeof at[0]; i++) {
        for (int e = KILLED; e <= CLOSED; e++) {
            char name[32];
            (void)snprintf(name, sizeof name, "byte %u, ending %d", (unsigned)at[i], e);
            fresh(f, (enum ending)e);
            flip(f->dir, FIRST_SEGMENT, batch_at[4] + at[i], 3);
            refused(f->dir, e == KILLED ? RGUARD_WAL_SUSPECT_TAIL : RGUARD_WAL_CORRUPT, &r, name);
        }
    }
}

static void zeroed_blocks_and_sectors_in_the_middle(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    for (int b = 0; b < 4; b++) {
        for (uint64_t len = 512; len <= batch_at[b + 1] - batch_at[b]; len *= 8) {
            fresh(f, KILLED);
            zero(f->dir, FIRST_SEGMENT, batch_at[b], len);
            refused(f->dir, RGUARD_WAL_CORRUPT, &r, "zeroed");
            assert_int_equal(r.damage_first_index, 3 * b + 1);
            assert_int_equal(r.damage_last_index, 3 * b + 3);
        }
    }
    /* The last batch, whole, with a MARK or CLOSE behind it: the loss is known. */
    for (int e = MARKED; e <= CLOSED; e++) {
        fresh(f, (enum ending)e);
        zero(f->dir, FIRST_SEGMENT, batch_at[4], batch_at[5] - batch_at[4]);
        refused(f->dir, RGUARD_WAL_CORRUPT, &r, "last batch lost");
        assert_int_equal(r.damage_first_index, 13);
    }
    /* After a clean close the metadata remembers where the end was. */
    fresh(f, CLOSED);
    zero(f->dir, FIRST_SEGMENT, batch_at[4], 96 * 1024 - batch_at[4]);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "tail lost after a close");
}

static void swap(const char *dir, uint64_t a, uint64_t b, size_t len)
{
    uint8_t *x = malloc(2 * len);
    peek(dir, FIRST_SEGMENT, a, x, len);
    peek(dir, FIRST_SEGMENT, b, x + len, len);
    patch(dir, FIRST_SEGMENT, b, x, len);
    patch(dir, FIRST_SEGMENT, a, x + len, len);
    free(x);
}

static void batches_in_wrong_places(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    uint8_t batch[12288];
    fresh(f, KILLED);
    swap(f->dir, batch_at[0], batch_at[1], 4096);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "two swapped");
    fresh(f, KILLED);
    swap(f->dir, batch_at[3], batch_at[3] + 4096, 4096);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "shifted");
    fresh(f, KILLED);
    peek(f->dir, FIRST_SEGMENT, batch_at[2], batch, sizeof batch);
    patch(f->dir, FIRST_SEGMENT, batch_at[5], batch, sizeof batch);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "copied behind the end");
    assert_non_null(strstr(r.message, "another place"));
    fresh(f, KILLED);
    patch(f->dir, FIRST_SEGMENT, batch_at[4], batch, sizeof batch);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "copied over the last");
}

/* ---- stale bytes ---- */

/* A batch of an earlier epoch of the same log, as a recycled file would hold it. */
static size_t stale_batch(const char *dir, uint8_t *out)
{
    struct wal_segment_header g;
    peek(dir, FIRST_SEGMENT, 0, &g, sizeof g);
    static uint8_t data[9000];
    contents(1, 1, data, sizeof data);
    struct wal_place place = {g.uuid, 1, g.salt ^ 0x55, batch_at[5], 0};
    struct wal_batch_header h = {
        .type = WAL_DATA, .n_records = 1, .payload_length = sizeof data, .acked_lsn = 4096};
    struct rguard_wal_record r = {.index = 77, .term = 1, .len = sizeof data, .data = data};
    struct wal_encoder e;
    rguard__wal_encode_start(&e, out, &h);
    rguard__wal_encode_put(&e, &r);
    rguard__wal_encode_finish(&e, &place);
    return h.length;
}

static void stale_bytes_are_no_records(void **state)
{
    struct fixture *f = *state;
    uint8_t *stale = aligned_alloc(4096, 65536);
    fresh(f, KILLED);
    size_t len = stale_batch(f->dir, stale);
    patch(f->dir, FIRST_SEGMENT, batch_at[5], stale, len);
    opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS, "stale behind the end");
    /* The last batch was written over stale blocks, and one block of it did not arrive. */
    for (uint64_t lost = 0; lost < 3; lost++) {
        fresh(f, KILLED);
        patch(f->dir, FIRST_SEGMENT, batch_at[4] + 4096 * lost, stale, 4096);
        opens(f->dir, RGUARD_WAL_TORN_TAIL, RECORDS - 3, "torn over stale blocks");
    }
    free(stale);
}

/* ---- lengths and counts with good checksums ---- */

static void reseal(uint8_t *header)
{
    struct wal_batch_header h;
    memcpy(&h, header, sizeof h);
    struct wal_place place = {h.uuid, h.segment, h.salt, h.lsn, 0};
    h.header_crc = 0;
    h.header_crc = rguard_crc32c(rguard__wal_seed(&place), &h, sizeof h);
    memcpy(header, &h, sizeof h);
}

static int absurd_in_child(const char *dir)
{
    struct rguard_wal_report r;
#ifndef __SANITIZE_ADDRESS__
    struct rlimit limit = {64 << 20, 64 << 20};
    setrlimit(RLIMIT_DATA, &limit);
#endif
    return verify(dir, &r) == RGUARD_ECORRUPT ? 0 : 1;
}

static void absurd_lengths_are_not_believed(void **state)
{
    struct fixture *f = *state;
    static const struct
    {
        size_t offset;
        uint32_t value;
    } cases[] = {
        {offsetof(struct wal_batch_header, length), 0},
        {offsetof(struct wal_batch_header, length), 8},
        {offsetof(struct wal_batch_header, length), 0xfffff000},
        {offsetof(struct wal_batch_header, n_records), 0},
        {offsetof(struct wal_batch_header, n_records), 0xffffffff},
        {offsetof(struct wal_batch_header, payload_length), 0xfffffff8},
        {offsetof(struct wal_batch_header, payload_length), 1},
        {offsetof(struct wal_batch_header, type), 0},
        {offsetof(struct wal_batch_header, type), 99},
    };
    const size_t n = sizeof cases / sizeof cases[0];
    for (size_t k = 0; k < 3 * n; k++) { /* in the first, the middle and the last batch */
        size_t i = k % n;
        uint64_t at = batch_at[2 * (k / n)];
        uint8_t header[256];
        fresh(f, MARKED);
        peek(f->dir, FIRST_SEGMENT, at, header, sizeof header);
        memcpy(header + cases[i].offset, &cases[i].value, 4);
        reseal(header);
        patch(f->dir, FIRST_SEGMENT, at, header, sizeof header);
        pid_t pid = fork();
        if (pid == 0) {
            _exit(absurd_in_child(f->dir));
        }
        int status = -1;
        waitpid(pid, &status, 0);
        if (status != 0) {
            fail_msg("case %u: status %d", (unsigned)i, status);
        }
    }
}

/* ---- contradictions ---- */

static void a_batch_that_does_not_follow_its_predecessor(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    uint8_t header[256];
    fresh(f, KILLED);
    peek(f->dir, FIRST_SEGMENT, batch_at[3], header, sizeof header);
    ((struct wal_batch_header *)(void *)header)->prev_header_crc ^= 1;
    reseal(header);
    patch(f->dir, FIRST_SEGMENT, batch_at[3], header, sizeof header);
    zero(f->dir, FIRST_SEGMENT, batch_at[3] + 256, 256); /* its copy of the predecessor's header */
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "chain");
    assert_non_null(strstr(r.message, "a write was lost"));
}

/* ---- versions, owners ---- */

static void later_versions_are_unsupported(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    uint8_t header[256];
    struct wal_segment_header g;
    struct wal_meta m;
    fresh(f, KILLED);
    peek(f->dir, FIRST_SEGMENT, batch_at[1], header, sizeof header);
    ((struct wal_batch_header *)(void *)header)->version = 1;
    reseal(header);
    patch(f->dir, FIRST_SEGMENT, batch_at[1], header, sizeof header);
    refused(f->dir, RGUARD_WAL_UNSUPPORTED, &r, "batch");
    fresh(f, KILLED);
    peek(f->dir, FIRST_SEGMENT, 0, &g, sizeof g);
    g.version = 3;
    g.crc = 0;
    g.crc = rguard_crc32c(0, &g, sizeof g);
    patch(f->dir, FIRST_SEGMENT, 0, &g, sizeof g);
    refused(f->dir, RGUARD_WAL_UNSUPPORTED, &r, "segment");
    fresh(f, KILLED);
    peek(f->dir, "meta", 3 * 4096, &m, sizeof m);
    m.version = 9;
    m.crc = 0;
    m.crc = rguard_crc32c(3, &m, sizeof m);
    patch(f->dir, "meta", 3 * 4096, &m, sizeof m);
    refused(f->dir, RGUARD_WAL_UNSUPPORTED, &r, "meta");
}

static void touch(const char *dir, const char *name)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    close(open(path, O_WRONLY | O_CREAT, 0600));
}

static void other_peoples_directories(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r = {.size = sizeof r};
    struct rguard_wal_options o = recover_options();
    rguard_wal *w = NULL;
    char path[512];
    touch(f->dir, "metadata1"); /* libraft */
    refused(f->dir, RGUARD_WAL_FOREIGN, &r, "libraft's directory");
    (void)snprintf(path, sizeof path, "%s/lock", f->dir);
    assert_int_equal(access(path, F_OK), -1); /* not even a lock file was left */
    fresh(f, CLOSED);
    touch(f->dir, "metadata1"); /* beside ours it does not hurt, nor does anything else */
    touch(f->dir, "snapshot-5-100");
    touch(f->dir, "poison");
    touch(f->dir, "00000000000000000002.wal.bak");
    opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS, "foreign files");
    fresh(f, CLOSED);
    o.node_id = 9;
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), RGUARD_EFOREIGN);
    assert_non_null(strstr(r.message, "node 7"));
    assert_non_null(strstr(r.message, "node 9"));
    o.node_id = 0; /* not compared */
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), 0);
    rguard_wal_close(w);
    /* A segment of another log. */
    struct fixture other;
    make_dir(other.dir);
    o = recover_options();
    o.seed = 6;
    w = must_open(&other, &o);
    append_range(w, 1, 3, 1, 100, 1);
    rguard_wal_close(w);
    uint8_t *all = malloc(96 * 1024);
    peek(other.dir, FIRST_SEGMENT, 0, all, 96 * 1024);
    fresh(f, CLOSED);
    patch(f->dir, FIRST_SEGMENT, 0, all, 96 * 1024);
    refused(f->dir, RGUARD_WAL_FOREIGN, &r, "segment of another log");
    free(all);
    remove_tree(other.dir);
    /* A file that happens to be called meta. */
    remove_tree(f->dir);
    assert_int_equal(mkdir(f->dir, 0700), 0);
    touch(f->dir, "meta");
    patch(f->dir, "meta", 0, "hello", 5);
    refused(f->dir, RGUARD_WAL_FOREIGN, &r, "some meta");
}

/* ---- metadata ---- */

static void damaged_metadata(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r = {.size = sizeof r};
    struct rguard_wal_options o = recover_options();
    uint64_t term, vote;
    for (unsigned slot = 0; slot < 4; slot++) { /* one copy, whichever: the vote survives */
        fresh(f, KILLED);
        flip(f->dir, "meta", slot * 4096 + offsetof(struct wal_meta, vote), 1);
        assert_int_equal(verify(f->dir, &r), 0);
        assert_int_equal(r.term, 3);
        assert_int_equal(r.vote, 2);
        assert_int_equal(r.warnings, 1);
        rguard_wal *w = must_open(f, &o);
        rguard_wal_meta_get(w, &term, &vote);
        assert_true(term == 3 && vote == 2);
        assert_int_equal(rguard_wal_meta_set(w, 3, 1), RGUARD_EVOTED);
        rguard_wal_close(w);
        assert_int_equal(verify(f->dir, &r), 0);
        assert_int_equal(r.warnings, 0); /* written anew */
    }
    for (unsigned pair = 0; pair < 4; pair += 2) { /* a whole pair: no fallback to the other */
        fresh(f, KILLED);
        flip(f->dir, "meta", pair * 4096 + 60, 1);
        flip(f->dir, "meta", (pair + 1) * 4096 + 70, 1);
        refused(f->dir, RGUARD_WAL_CORRUPT, &r, "pair");
    }
    char path[512];
    fresh(f, KILLED);
    (void)snprintf(path, sizeof path, "%s/meta", f->dir);
    assert_int_equal(truncate(path, 8192), 0);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "truncated");
    fresh(f, KILLED);
    assert_int_equal(unlink(path), 0);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "missing");
    assert_non_null(strstr(r.message, "vote"));
}

/* ---- segment files ---- */

/* A log over several segments, with a MARK at the end. Returns how many. */
static unsigned write_long_log(struct fixture *f)
{
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_stats s = {.size = sizeof s};
    o.mark_idle_ms = 1;
    struct fixture tmp;
    make_dir(tmp.dir);
    rguard_wal *w = must_open(&tmp, &o);
    append_range(w, 1, 60, 1, 5000, 1);
    while (rguard_wal_stats(w, &s), s.marks == 0) {
        poll(NULL, 0, 1);
        rguard_wal_process(w);
    }
    remove_tree(f->dir);
    assert_int_equal(mkdir(f->dir, 0700), 0);
    copy_dir(tmp.dir, f->dir);
    rguard_wal_close(w);
    remove_tree(tmp.dir);
    return (unsigned)s.segments;
}

static void segment_path(const struct fixture *f, unsigned sequence, char path[512])
{
    (void)snprintf(path, 512, "%s/%020u.wal", f->dir, sequence);
}

static void missing_segments(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    char path[512], copy[512];
    unsigned n = write_long_log(f);
    assert_true(n >= 5);
    for (unsigned gone = 1; gone < n; gone++) {
        write_long_log(f);
        segment_path(f, gone, path);
        assert_int_equal(unlink(path), 0);
        refused(f->dir, RGUARD_WAL_CORRUPT, &r, "segment gone");
        (void)snprintf(copy, sizeof copy, "segment %u is missing", gone);
        assert_non_null(strstr(r.message, copy));
    }
    write_long_log(f); /* cut off in the middle, though later ones need it */
    segment_path(f, 2, path);
    assert_int_equal(truncate(path, 40960), 0);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "shortened");
    write_long_log(f); /* one file twice */
    segment_path(f, 2, path);
    segment_path(f, 3, copy);
    assert_int_equal(unlink(copy), 0);
    assert_int_equal(link(path, copy), 0);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "copy");
    assert_non_null(strstr(r.message, "copy of segment 2"));
    write_long_log(f);
    flip(f->dir, FIRST_SEGMENT, 66, 0); /* first_lsn in both headers */
    flip(f->dir, FIRST_SEGMENT, 92 * 1024 + 66, 0);
    refused(f->dir, RGUARD_WAL_CORRUPT, &r, "header");
    assert_int_equal(r.offset, 0);
}

static void files_in_the_making(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = recover_options();
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = NULL;
    char path[512], meta[512];
    for (int kind = 0; kind < 3; kind++) { /* the next segment: empty, part zeros, bad header */
        fresh(f, KILLED);
        segment_path(f, 2, path);
        touch(f->dir, "00000000000000000002.wal");
        if (kind >= 1) {
            assert_int_equal(truncate(path, 40960), 0);
        }
        if (kind == 2) {
            flip(f->dir, "00000000000000000002.wal", 5, 5);
        }
        opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS, "spare in the making");
    }
    for (int kind = 0; kind < 3; kind++) { /* the very first creation: segment 1 without meta */
        remove_tree(f->dir);
        assert_int_equal(mkdir(f->dir, 0700), 0);
        (void)snprintf(meta, sizeof meta, "%s/meta", f->dir);
        segment_path(f, 1, path);
        if (kind < 2) {
            touch(f->dir, FIRST_SEGMENT);
            assert_int_equal(truncate(path, kind * 8192), 0);
        } else {
            rguard_wal_close(must_open(f, &o));
            zero(f->dir, FIRST_SEGMENT, 4096, 8192); /* its CLOSE */
            assert_int_equal(unlink(meta), 0);
        }
        assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), 0);
        assert_true(r.created);
        append_range(w, 1, 3, 1, 10, 1);
        assert_int_equal(rguard_wal_close(w), 0);
    }
}

/* Bytes behind a clean end are nobody's records, but nothing may be appended over them. */
static void rot_behind_a_clean_close(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    for (uint64_t at = batch_at[5] + 4096; at < 92 * 1024; at += 4096 * 3 + 512) {
        fresh(f, CLOSED);
        flip(f->dir, FIRST_SEGMENT, at, 2);
        assert_int_equal(verify(f->dir, &r), 0);
        assert_true(r.warnings > 0);
        opens(f->dir, RGUARD_WAL_CLEAN_END, RECORDS, "rot behind the end");
        assert_int_equal(verify(f->dir, &r), 0);
        assert_int_equal(r.warnings, 0);
    }
}

/* ---- any single fault ---- */

static void inject(const char *dir, int round, char *name, size_t len)
{
    uint64_t bytes = round % 8 == 7 ? 4 * 4096 : batch_at[5] + 8192;
    const char *file = round % 8 == 7 ? "meta" : FIRST_SEGMENT;
    uint64_t sector = (uint64_t)rand() % (bytes / 512) * 512, block = sector / 4096 * 4096;
    uint8_t garbage[4096];
    for (size_t i = 0; i < sizeof garbage; i++) {
        garbage[i] = (uint8_t)rand();
    }
    int kind = rand() % 6;
    (void)snprintf(name, len, "round %d: kind %d, %s sector %u", round, kind, file,
                   (unsigned)(sector / 512));
    switch (kind) {
        case 0:
            flip(dir, file, sector + (uint64_t)rand() % 512, (unsigned)rand() % 8);
            break;
        case 1:
            zero(dir, file, sector, 512);
            break;
        case 2:
            zero(dir, file, block, 4096);
            break;
        case 3:
            patch(dir, file, sector, garbage, 512);
            break;
        case 4:
            patch(dir, file, block, garbage, 4096);
            break;
        default:
            peek(dir, file, (uint64_t)rand() % (bytes / 4096) * 4096, garbage, 4096);
            patch(dir, file, block, garbage, 4096);
            break;
    }
}

/* Acknowledged and unreported is never lost: with a MARK or CLOSE behind them, either all records
 * are there and right, or the log is refused and untouched. */
static void any_single_fault(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_report r;
    struct rguard_wal_options o = recover_options();
    int good = 0, bad = 0;
    srand(20240);
    for (int round = 0; round < 600; round++) {
        char name[96];
        fresh(f, round % 2 == 0 ? MARKED : CLOSED);
        inject(f->dir, round, name, sizeof name);
        uint32_t before = dir_sum(f->dir);
        rguard_wal *w = NULL;
        r.size = sizeof r;
        int rc = rguard_wal_open(f->dir, &o, &w, &r);
        if (rc != 0) {
            assert_int_equal(dir_sum(f->dir), before);
            bad++;
            continue;
        }
        good++;
        if (r.last_index != RECORDS || r.term != 3 || r.vote != 2) {
            fail_msg("%s: %s, last %u, term %u, vote %u", name, rguard_wal_verdict_name(r.verdict),
                     (unsigned)r.last_index, (unsigned)r.term, (unsigned)r.vote);
        }
        for (uint64_t i = 1; i <= RECORDS; i++) {
            check_record(w, i, 1, batch_len[(i - 1) / 3]);
        }
        rguard_wal_close(w);
    }
    assert_true(good > 50 && bad > 50);
}

/* ---- the detectors, switched off ---- */

static int with_off(const char *off, int (*fn)(const char *dir), const char *dir)
{
    pid_t pid = fork();
    if (pid == 0) {
        setenv("RGUARD_TEST_OFF", off, 1);
        _exit(fn(dir));
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

/* 0: refused; 1: opened and everything is right; 2: opened and something is wrong or gone. */
static int open_and_look(const char *dir)
{
    struct rguard_wal_options o = recover_options();
    rguard_wal *w = NULL;
    if (rguard_wal_open(dir, &o, &w, NULL) != 0) {
        return 0;
    }
    int result = 1;
    for (uint64_t i = 1; i <= RECORDS; i++) {
        uint8_t want[4096], got[4096];
        struct rguard_wal_record r;
        contents(i, 1, want, batch_len[(i - 1) / 3]);
        if (rguard_wal_read(w, i, &r, got, sizeof got) != 0 || memcmp(got, want, r.len) != 0) {
            result = 2;
        }
    }
    rguard_wal_close(w);
    return result;
}

static void without_crcs_a_flipped_bit_goes_unnoticed(void **state)
{
    struct fixture *f = *state;
    for (int off = 0; off < 2; off++) {
        fresh(f, MARKED);
        flip(f->dir, FIRST_SEGMENT, batch_at[2] + 1000, 4);
        assert_int_equal(with_off(off ? "wal_crc" : "", open_and_look, f->dir), off ? 2 : 0);
    }
}

static void without_acked_lsn_acknowledged_records_are_cut(void **state)
{
    struct fixture *f = *state;
    for (int off = 0; off < 2; off++) {
        fresh(f, MARKED);
        zero(f->dir, FIRST_SEGMENT, batch_at[2] + 4096, 512);
        assert_int_equal(with_off(off ? "acked_lsn" : "", open_and_look, f->dir), off ? 2 : 0);
    }
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(every_combination_has_the_verdict_of_its_first_row),
        T(the_order_of_rows_matters_exactly_where_the_table_says),
        T(undamaged),
        T(last_batch_cut_at_every_sector),
        T(last_batch_with_any_sectors_missing),
        T(the_report_counts_what_was_dropped),
        T(a_cut_leaves_zeros_and_a_marker),
        T(one_flipped_bit_with_a_batch_behind_it),
        T(rot_in_the_last_batch_is_suspect_unless_something_follows),
        T(zeroed_blocks_and_sectors_in_the_middle),
        T(batches_in_wrong_places),
        T(stale_bytes_are_no_records),
        T(absurd_lengths_are_not_believed),
        T(a_batch_that_does_not_follow_its_predecessor),
        T(later_versions_are_unsupported),
        T(other_peoples_directories),
        T(damaged_metadata),
        T(missing_segments),
        T(files_in_the_making),
        T(rot_behind_a_clean_close),
        T(any_single_fault),
        T(without_crcs_a_flipped_bit_goes_unnoticed),
        T(without_acked_lsn_acknowledged_records_are_cut),
    };
    in_memory = true;
    return cmocka_run_group_tests_name("wal_recover", tests, NULL, remove_originals);
}
