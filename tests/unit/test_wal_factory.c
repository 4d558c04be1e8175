/* SPDX-License-Identifier: Apache-2.0 */
/* Where segments come from and go to: made off the append path, waited for in the queue, recycled,
 * and what happens when there is no room for them. */
#include "test_wal_disk.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>

static struct rguard_wal_stats stats(const rguard_wal *w)
{
    struct rguard_wal_stats s = {.size = sizeof s};
    assert_int_equal(rguard_wal_stats(w, &s), 0);
    return s;
}

/* ---- making ---- */

/* A log gets its next segment ready, so that the switch finds it. */
static void a_spare_is_made_beside_the_appends(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 6, 1, 5000, 1); /* 52 of 256 KiB: not yet */
    settle(w);
    assert_int_equal(count_segments(f->dir), 1);
    append_range(w, 7, 20, 1, 5000, 1);
    settle(w);
    assert_int_equal(count_segments(f->dir), 2);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o); /* an empty spare is a normal sight */
    append_range(w, 21, 33, 1, 5000, 1);
    assert_int_equal(stats(w).segments, 1);
    assert_int_equal(stats(w).segment_waits, 0);
    check_range(w, 1, 33, 1, 5000);
    append_range(w, 34, 35, 1, 400000, 1); /* does not fit into a spare of the usual size */
    assert_int_equal(stats(w).segment_waits, 2);
    append_range(w, 36, 40, 1, 5000, 1);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    check_range(w, 1, 33, 1, 5000);
    check_range(w, 34, 35, 1, 400000);
    check_range(w, 36, 40, 1, 5000);
    assert_int_equal(rguard_wal_close(w), 0);
}

/* The same life leaves the same bytes, whoever writes and however fast the helper is. */
static void every_back_end_leaves_the_same_bytes(void **state)
{
    struct fixture *f = *state;
    uint32_t sums[2];
    for (int i = 0; i < 2; i++) {
        struct fixture run = {.backend = i == 0 ? "sync" : f->backend};
        make_dir(run.dir);
        struct rguard_wal_options o = small(&run);
        o.seed = 11;
        o.mark_idle_ms = 100000;
        rguard_wal *w = must_open(&run, &o);
        append_range(w, 1, 100, 1, 5000, 1);
        append_range(w, 101, 102, 1, 300000, 1);
        assert_int_equal(rguard_wal_truncate_suffix(w, 90), 0);
        append_range(w, 90, 120, 2, 5000, 3);
        assert_int_equal(rguard_wal_truncate_prefix(w, 60), 0);
        append_range(w, 121, 130, 2, 5000, 3);
        assert_int_equal(rguard_wal_close(w), 0);
        sums[i] = dir_sum(run.dir);
        remove_tree(run.dir);
    }
    assert_int_equal(sums[0], sums[1]);
}

/* A batch that finds no segment waits in the queue; nothing blocks, and nothing is lost. */
static void a_batch_waits_for_its_segment_in_the_queue(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct fault_disk *x = fault_disk(f);
    struct outcome out = {0, -1};
    uint8_t *data[40];
    rguard_wal *w = open_on(x, &o);
    x->hold = true; /* the helper is very slow */
    for (uint64_t i = 1; i <= 40; i++) {
        assert_int_equal(queue_record(w, i, 1, 8000, &data[i - 1], &out), 0);
        for (int k = 0; k < 20 && out.calls < (int)i && i <= 20; k++) {
            assert_int_equal(rguard_wal_process(w), 0);
            poll(NULL, 0, 1);
        }
    }
    assert_int_equal(out.calls, 20); /* 20 of 12 KiB each fit */
    assert_int_equal(rguard_wal_process(w), 0);
    for (int k = 0; k < 5; k++) {
        assert_int_equal(rguard_wal_process(w), 0);
        assert_int_equal(rguard_wal_timeout_ms(w), -1); /* the helper will wake us */
    }
    assert_int_equal(out.calls, 20);
    assert_int_equal(stats(w).segment_waits, 1);
    assert_int_equal(rguard_wal_last_index(w), 40);
    check_range(w, 1, 20, 1, 8000);
    x->hold = false;
    assert_int_equal(rguard_wal_flush(w), 0);
    assert_int_equal(out.calls, 40);
    assert_int_equal(out.status, 0);
    check_range(w, 1, 40, 1, 8000);
    assert_int_equal(rguard_wal_close(w), 0);
    for (int i = 0; i < 40; i++) {
        free(data[i]);
    }
}

/* Signals are the process's business; only what a helper is guilty of itself reaches it. */
static void helpers_take_no_signals(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    int helpers = 0;
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 20, 1, 5000, 1);
    settle(w);
    DIR *d = opendir("/proc/self/task");
    struct dirent *entry;
    assert_non_null(d);
    while ((entry = readdir(d)) != NULL) {
        char path[300], line[200];
        unsigned long long blocked = 0;
        bool ours = false;
        (void)snprintf(path, sizeof path, "/proc/self/task/%s/status", entry->d_name);
        FILE *status = fopen(path, "r");
        while (status != NULL && fgets(line, sizeof line, status) != NULL) {
            ours = ours || strcmp(line, "Name:\trguard-disk\n") == 0;
            (void)sscanf(line, "SigBlk: %llx", &blocked);
        }
        if (status != NULL) {
            (void)fclose(status);
        }
        for (int sig = 1; ours && sig < 32; sig++) {
            bool own = sig == SIGSEGV || sig == SIGBUS || sig == SIGILL || sig == SIGFPE ||
                       sig == SIGABRT || sig == SIGKILL || sig == SIGSTOP;
            assert_int_equal((blocked >> (sig - 1)) & 1, !own);
        }
        helpers += ours;
    }
    closedir(d);
    /* Background work; and the writer. */
    int want = strcmp(f->backend, "thread") == 0 ? 2 : strcmp(f->backend, "uring") == 0;
    assert_int_equal(helpers, want);
    assert_int_equal(rguard_wal_close(w), 0);
}

/* ---- recycling ---- */

static bool exists(const char *dir, uint64_t sequence)
{
    char path[512];
    (void)snprintf(path, sizeof path, "%s/%020llu.wal", dir, (unsigned long long)sequence);
    return access(path, F_OK) == 0;
}

static void freed_segments_come_back_empty(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct rguard_wal_report r = {.size = sizeof r};
    rguard_wal *w = must_open(f, &o);
    uint64_t term = 1;
    for (uint64_t last = 0; last < 1000; last += 100, term++) {
        append_range(w, last + 1, last + 100, term, 5000, 1); /* three segments and a bit */
        assert_int_equal(rguard_wal_truncate_prefix(w, last + 90), 0);
        settle(w);
        assert_true(count_segments(f->dir) <= 5); /* two in use, a spare, two to be recycled */
    }
    assert_true(stats(w).recycled >= 10);
    assert_int_equal(stats(w).segment_failures, 0);
    check_range(w, 991, 1000, 10, 5000);
    assert_int_equal(rguard_wal_close(w), 0);
    assert_true(count_segments(f->dir) <= 3);
    assert_false(exists(f->dir, 1));
    assert_int_equal(rguard_wal_open(f->dir, &o, &w, &r), 0);
    assert_int_equal(r.verdict, RGUARD_WAL_CLEAN_END);
    assert_int_equal(r.first_index, 991);
    assert_int_equal(r.warnings, 0);
    assert_int_equal(rguard_wal_close(w), 0);
}

/* Old batches in a recycled file would be valid ones, in another place: it must hold zeros. */
static void a_recycled_spare_holds_nothing_but_its_headers(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    static uint8_t all[256 * 1024];
    char name[64];
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 100, 1, 5000, 1);
    assert_int_equal(rguard_wal_truncate_prefix(w, 100), 0);
    append_range(w, 101, 140, 1, 5000, 1);
    settle(w);
    assert_true(stats(w).recycled >= 1);
    uint64_t spare = w->segments.v[w->segments.n - 1].sequence + 1;
    (void)snprintf(name, sizeof name, "%020llu.wal", (unsigned long long)spare);
    peek(f->dir, name, 0, all, sizeof all);
    for (size_t i = 4096; i < sizeof all - 4096; i++) {
        assert_int_equal(all[i], 0);
    }
    assert_memory_equal(all, all + sizeof all - 4096, 4096);
    assert_int_equal(rguard_wal_close(w), 0);
}

/* A file of another size is of no use as a segment of the usual one. */
static void a_freed_file_of_another_size_is_removed(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    rguard_wal *w = must_open(f, &o);
    append_range(w, 1, 2, 1, 700000, 1);
    append_range(w, 3, 10, 1, 5000, 1);
    append_range(w, 11, 12, 1, 400000, 1);
    assert_int_equal(rguard_wal_truncate_prefix(w, 12), 0);
    append_range(w, 13, 100, 1, 5000, 1);
    settle(w);
    check_range(w, 13, 100, 1, 5000);
    assert_int_equal(stats(w).segment_failures, 0);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    check_range(w, 13, 100, 1, 5000);
    assert_int_equal(rguard_wal_close(w), 0);
}

/* ---- no space ---- */

static void appends_go_on_while_there_is_room(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    struct fault_disk *x = fault_disk(f);
    struct outcome out[4] = {{0, 0}};
    uint8_t *data[4];
    o.mark_idle_ms = 100000; /* it would take a block */
    rguard_wal *w = open_on(x, &o);
    x->full = true;
    append_range(w, 1, 20, 1, 8000, 1); /* 240 of 248 KiB */
    settle(w);
    assert_true(stats(w).segment_failures >= 1);
    assert_int_equal(stats(w).segment_error, -ENOSPC);
    assert_int_equal(count_segments(f->dir), 1); /* nothing half made stays */
    assert_int_equal(stats(w).segment_waits, 0);
    append_range(w, 21, 21, 1, 3000, 1);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 4; i++) {
            out[i].calls = 0;
            assert_int_equal(queue_record(w, 22 + (uint64_t)i, 1, 8000, &data[i], &out[i]), 0);
        }
        assert_int_equal(rguard_wal_last_index(w), 25);
        assert_int_equal(rguard_wal_flush(w), round == 0 ? -ENOSPC : 0);
        for (int i = 0; i < 4; i++) {
            assert_int_equal(out[i].calls, 1);
            assert_int_equal(out[i].status, round == 0 ? -ENOSPC : 0);
            free(data[i]);
        }
        assert_int_equal(rguard_wal_poisoned(w), 0);
        assert_int_equal(rguard_wal_last_index(w), round == 0 ? 21 : 25);
        assert_int_equal(stats(w).in_flight_records, 0);
        x->full = false; /* somebody has cleaned up */
    }
    assert_int_equal(stats(w).segment_error, 0);
    check_range(w, 1, 20, 1, 8000);
    check_range(w, 22, 25, 1, 8000);
    assert_int_equal(rguard_wal_close(w), 0);
    w = must_open(f, &o);
    check_record(w, 21, 1, 3000);
    check_range(w, 22, 25, 1, 8000);
    assert_int_equal(rguard_wal_close(w), 0);
}

/* Half an append is durable, or readers have seen the truncation: there is no way back from that. */
static void what_has_begun_cannot_be_refused(void **state)
{
    struct fixture *f = *state;
    struct rguard_wal_options o = small(f);
    o.mark_idle_ms = 100000;
    for (int kind = 0; kind < 2; kind++) {
        struct fault_disk *x = fault_disk(f);
        struct outcome out = {0, 0};
        uint8_t *data = malloc(60 * 8000);
        struct rguard_wal_record r[60];
        rguard_wal *w = open_on(x, &o);
        uint64_t last = rguard_wal_last_index(w);
        for (uint64_t i = 0; i < 60; i++) {
            contents(last + 1 + i, 1, data + i * 8000, 8000);
            r[i] = (struct rguard_wal_record){
                .index = last + 1 + i, .term = 1, .len = 8000, .data = data + i * 8000};
        }
        if (kind == 0) {
            x->full = true;
            assert_int_equal(rguard_wal_append(w, r, 60, note, &out), 0); /* two batches */
        } else {
            assert_int_equal(rguard_wal_append(w, r, 1, NULL, NULL), 0);
            assert_int_equal(rguard_wal_flush(w), 0);
            settle(w);
            x->full = true;
            while (out.status == 0) {
                assert_int_equal(rguard_wal_append(w, r + 1, 1, note, &out), 0);
                (void)rguard_wal_flush(w);
                r[1].index += out.status == 0;
            }
            assert_int_equal(out.status, -ENOSPC);
            assert_int_equal(rguard_wal_poisoned(w), 0);
            /* 12 KiB did not fit, 4 KiB may; fill up. */
            while (w->end < rguard__wal_segment_limit(&w->segments.v[w->segments.n - 1])) {
                append_range(w, r[1].index, r[1].index, 1, 10, 1);
                r[1].index++;
            }
            assert_int_equal(rguard_wal_truncate_suffix(w, rguard_wal_last_index(w)), 0);
        }
        assert_int_equal(rguard_wal_flush(w), RGUARD_EPOISONED);
        assert_int_equal(rguard_wal_poisoned(w), -ENOSPC);
        assert_int_not_equal(rguard_wal_close(w), 0);
        w = must_open(f, &o);
        check_range(w, 1, rguard_wal_last_index(w) < 20 ? rguard_wal_last_index(w) : 20, 1, 8000);
        assert_int_equal(rguard_wal_close(w), 0);
        free(data);
    }
}

/* A file size limit stands for the full disk here; no rights are needed for it. */
static int full_by_limit(struct fixture *f)
{
    struct rguard_wal_options o = small(f);
    struct rguard_wal_report r = {.size = sizeof r};
    struct rlimit limit = {300 * 1024, 300 * 1024};
    struct outcome out = {0, 0};
    uint8_t *data;
    rguard_wal *w = NULL;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
    w = must_open(f, &o);
    append_range(w, 1, 20, 1, 1000, 1);
    assert_int_equal(queue_record(w, 21, 1, 500000, &data, &out), 0); /* needs a larger file */
    int rc = rguard_wal_flush(w);
    free(data);
    if (out.calls != 1 || rc != out.status || (rc != -ENOSPC && rc != -EFBIG)) {
        return 1;
    }
    append_range(w, 21, 25, 1, 1000, 1); /* the log is as it was */
    if (rguard_wal_poisoned(w) != 0 || rguard_wal_close(w) != 0) {
        return 2;
    }
    w = must_open(f, &o);
    check_range(w, 1, 25, 1, 1000);
    (void)rguard_wal_close(w);
    remove_tree(f->dir);
    mkdir(f->dir, 0700);
    limit.rlim_cur = 100 * 1024;
    setrlimit(RLIMIT_FSIZE, &limit);
    rc = rguard_wal_open(f->dir, &o, &w, &r);
    return (rc == -ENOSPC || rc == -EFBIG) && strstr(r.message, "cannot create") != NULL ? 0 : 3;
}

static int full_tmpfs(struct fixture *f)
{
    struct rguard_wal_options o = small(f);
    struct outcome out = {0, 0};
    uint8_t *data;
    if (unshare(CLONE_NEWNS) != 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
        mount("none", f->dir, "tmpfs", 0, "size=700k") != 0) {
        return 77;
    }
    rguard_wal *w = must_open(f, &o);
    uint64_t last = 0;
    while (out.status == 0) {
        int rc = queue_record(w, last + 1, 1, 8000, &data, &out);
        (void)rguard_wal_flush(w);
        free(data);
        if (rc != 0 || last > 1000) {
            return 3;
        }
        last += out.status == 0;
    }
    if (out.status != -ENOSPC || rguard_wal_poisoned(w) != 0 || rguard_wal_last_index(w) != last ||
        stats(w).segment_error != -ENOSPC) {
        return 4;
    }
    check_range(w, 1, last, 1, 8000);
    if (rguard_wal_truncate_prefix(w, last - 5) != 0) { /* a snapshot makes room */
        return 5;
    }
    append_range(w, last + 1, last + 15, 1, 8000, 1);
    if (stats(w).recycled == 0 || rguard_wal_close(w) != 0) {
        return 6;
    }
    w = must_open(f, &o);
    check_range(w, last - 4, last + 15, 1, 8000);
    rguard_wal_close(w);
    umount(f->dir);
    return 0;
}

static void a_full_disk_is_said_clearly(void **state)
{
    assert_int_equal(in_child(full_by_limit, *state), 0);
    int rc = in_child(full_tmpfs, *state);
    if (rc != 77) {
        assert_int_equal(rc, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        EACH(a_spare_is_made_beside_the_appends),
        EACH(every_back_end_leaves_the_same_bytes),
        EACH(a_batch_waits_for_its_segment_in_the_queue),
        EACH(helpers_take_no_signals),
        EACH(freed_segments_come_back_empty),
        EACH(a_recycled_spare_holds_nothing_but_its_headers),
        EACH(a_freed_file_of_another_size_is_removed),
        EACH(appends_go_on_while_there_is_room),
        EACH(what_has_begun_cannot_be_refused),
        EACH(a_full_disk_is_said_clearly),
    };
    return cmocka_run_group_tests_name("wal_factory", tests, NULL, NULL);
}
