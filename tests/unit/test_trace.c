/* SPDX-License-Identifier: Apache-2.0 */
#include "test_window_util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <raftguard/trace.h>

static char dir[] = "/tmp/rguard-trace-XXXXXX";
static char path[64];

static int setup(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/ring", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    rguard_trace_close();
    unlink(path);
    return rmdir(dir);
}

/* The file as another process would read it. Returns the number of records ever written. */
static uint64_t read_ring(struct rguard_trace_record *records, uint64_t capacity)
{
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    struct rguard_trace_header h;
    assert_int_equal(pread(fd, &h, sizeof h, 0), sizeof h);
    assert_int_equal(h.magic, RGUARD_TRACE_MAGIC);
    assert_int_equal(h.version, 1);
    assert_int_equal(h.record_size, 64);
    assert_int_equal(h.capacity, capacity);
    size_t bytes = (size_t)capacity * 64;
    assert_int_equal(pread(fd, records, bytes, 4096), bytes);
    close(fd);
    return h.head;
}

static void test_without_a_ring_nothing_happens(void **state)
{
    (void)state;
    rguard_trace(RGUARD_TRACE_START, 1, 2, 3, 4);
    rguard_trace_close();
    rguard_trace_close();
}

static void test_records_are_in_the_file_in_order(void **state)
{
    (void)state;
    unlink(path);
    assert_int_equal(rguard_trace_open(path, 8), 0);
    for (uint64_t i = 0; i < 5; i++) {
        rguard_trace(RGUARD_TRACE_ACK, i, 10 + i, 20 + i, 30 + i);
    }
    struct rguard_trace_record r[8];
    assert_int_equal(read_ring(r, 8), 5);
    for (uint64_t i = 0; i < 5; i++) {
        assert_int_equal(r[i].seq, i + 1);
        assert_int_equal(r[i].event, RGUARD_TRACE_ACK);
        assert_int_equal(r[i].term, i);
        assert_int_equal(r[i].index, 10 + i);
        assert_int_equal(r[i].a, 20 + i);
        assert_int_equal(r[i].b, 30 + i);
        assert_int_equal(r[i].pid, getpid());
        assert_true(i == 0 || r[i].ns >= r[i - 1].ns);
    }
    assert_int_equal(r[5].seq, 0);
    rguard_trace_close();
}

static void test_the_ring_wraps_and_is_continued_by_a_second_process(void **state)
{
    (void)state;
    unlink(path);
    for (int run = 0; run < 2; run++) {
        assert_int_equal(rguard_trace_open(path, 8), 0);
        for (uint64_t i = 0; i < 10; i++) {
            rguard_trace(RGUARD_TRACE_APPLIED, 0, i, 0, 0);
        }
        rguard_trace_close();
    }
    struct rguard_trace_record r[8];
    assert_int_equal(read_ring(r, 8), 20);
    for (uint64_t n = 12; n < 20; n++) {
        assert_int_equal(r[n % 8].seq, n + 1);
    }
}

static void child_killed(void)
{
    CHECK(rguard_trace_open(path, 8) == 0);
    rguard_trace(RGUARD_TRACE_FAULT, 7, 8, 9, 10);
    kill(getpid(), SIGKILL);
}

static void test_records_survive_sigkill(void **state)
{
    (void)state;
    unlink(path);
    assert_dies_of(in_child(child_killed), SIGKILL);
    struct rguard_trace_record r[8];
    assert_int_equal(read_ring(r, 8), 1);
    assert_int_equal(r[0].event, RGUARD_TRACE_FAULT);
    assert_int_equal(r[0].term, 7);
}

#define WRITERS 4
#define EACH    5000u

static void *writer(void *arg)
{
    for (uint64_t i = 0; i < EACH; i++) {
        rguard_trace(RGUARD_TRACE_ACK, (uintptr_t)arg, i, 0, 0);
    }
    return NULL;
}

static void test_concurrent_writers_lose_nothing(void **state)
{
    (void)state;
    unlink(path);
    static struct rguard_trace_record r[32768];
    assert_int_equal(rguard_trace_open(path, 32768), 0);
    pthread_t threads[WRITERS];
    for (uintptr_t i = 0; i < WRITERS; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, writer, (void *)i), 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(read_ring(r, 32768), WRITERS * EACH);
    uint64_t next[WRITERS] = {0};
    for (uint64_t n = 0; n < WRITERS * EACH; n++) {
        assert_int_equal(r[n].seq, n + 1);
        assert_true(r[n].term < WRITERS);
        assert_int_equal(r[n].index, next[r[n].term]++);
    }
    rguard_trace_close();
}

static void test_bad_arguments_and_foreign_files(void **state)
{
    (void)state;
    assert_int_equal(rguard_trace_open(NULL, 8), -EINVAL);
    assert_int_equal(rguard_trace_open(path, 0), -EINVAL);
    assert_int_equal(rguard_trace_open(path, UINT64_MAX), -EINVAL);
    assert_int_equal(rguard_trace_open("/nonexistent/ring", 8), -ENOENT);

    char junk[8192];
    memset(junk, 'x', sizeof junk);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, junk, sizeof junk), sizeof junk);
    assert_int_equal(rguard_trace_open(path, 8), RGUARD_EUNSUPPORTED);
    /* a header that promises more records than the file has */
    struct rguard_trace_header h = {
        .magic = RGUARD_TRACE_MAGIC, .version = 1, .record_size = 64, .capacity = 1u << 20};
    assert_int_equal(pwrite(fd, &h, sizeof h, 0), sizeof h);
    assert_int_equal(rguard_trace_open(path, 8), RGUARD_EUNSUPPORTED);
    h.capacity = UINT64_MAX / 32;
    assert_int_equal(pwrite(fd, &h, sizeof h, 0), sizeof h);
    assert_int_equal(rguard_trace_open(path, 8), RGUARD_EUNSUPPORTED);
    assert_int_equal(ftruncate(fd, 17), 0);
    assert_int_equal(rguard_trace_open(path, 8), RGUARD_EUNSUPPORTED);
    close(fd);
}

static void test_event_names(void **state)
{
    (void)state;
    assert_string_equal(rguard_trace_event_name(RGUARD_TRACE_DETECTED), "detected");
    assert_string_equal(rguard_trace_event_name(RGUARD_TRACE_DIED), "died");
    assert_string_equal(rguard_trace_event_name(0), "?");
    assert_string_equal(rguard_trace_event_name(9999), "?");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_without_a_ring_nothing_happens),
        cmocka_unit_test(test_records_are_in_the_file_in_order),
        cmocka_unit_test(test_the_ring_wraps_and_is_continued_by_a_second_process),
        cmocka_unit_test(test_records_survive_sigkill),
        cmocka_unit_test(test_concurrent_writers_lose_nothing),
        cmocka_unit_test(test_bad_arguments_and_foreign_files),
        cmocka_unit_test(test_event_names),
    };
    return cmocka_run_group_tests_name("trace", tests, setup, teardown);
}
