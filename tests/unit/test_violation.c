/* SPDX-License-Identifier: Apache-2.0 */
#include "test_window_util.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <raftguard/crc32c.h>

static struct rguard_violation sample(void)
{
    struct rguard_violation v = {.kind = RGUARD_V_SLOT_GUARD,
                                 .class_ = RGUARD_CLASS_PRECISE,
                                 .access = RGUARD_ACCESS_WRITE,
                                 .arena_id = 2,
                                 .arena = "kv.values",
                                 .offset = 8192,
                                 .slot_offset = 0,
                                 .address = 0x7f0000002000u,
                                 .pc = 0x55u,
                                 .signo = SIGSEGV,
                                 .si_code = 1,
                                 .term = 3,
                                 .index = 4711,
                                 .monotonic_ns = 12,
                                 .tid = 99,
                                 .n_frames = 2,
                                 .frames = {0x55u, 0x66u}};
    return v;
}

static void test_text(void **state)
{
    (void)state;
    struct rguard_violation v = sample();
    char buf[512];
    const char *want =
        "violation=slot_guard class=precise arena=kv.values offset=8192 past_end=0 access=write "
        "address=0x7f0000002000 pc=0x55 signo=11 term=3 index=4711 tid=99 repeat=0";
    assert_int_equal(rguard_violation_text(&v, buf, sizeof buf), strlen(want));
    assert_string_equal(buf, want);
    char small[10];
    assert_int_equal(rguard_violation_text(&v, small, sizeof small), strlen(want));
    assert_string_equal(small, "violation");
    assert_int_equal(rguard_violation_text(&v, NULL, 0), strlen(want));
    assert_int_equal(rguard_violation_text(NULL, buf, sizeof buf), -EINVAL);
    assert_int_equal(rguard_violation_text(&v, NULL, 5), -EINVAL);
}

static void test_json(void **state)
{
    (void)state;
    struct rguard_violation v = sample();
    char buf[1024];
    const char *want =
        "{\"kind\":\"slot_guard\",\"class\":\"precise\",\"arena\":\"kv.values\",\"arena_id\":2,"
        "\"offset\":8192,\"past_end\":0,\"access\":\"write\",\"address\":\"0x7f0000002000\","
        "\"pc\":\"0x55\",\"signo\":11,\"si_code\":1,\"term\":3,\"index\":4711,\"monotonic_ns\":12,"
        "\"tid\":99,\"repeat\":0,\"frames\":[\"0x55\",\"0x66\"]}";
    assert_int_equal(rguard_violation_json(&v, buf, sizeof buf), strlen(want));
    assert_string_equal(buf, want);
    for (size_t cap = 0; cap < sizeof buf; cap += 7) { /* never past the end, always terminated */
        memset(buf, 'x', sizeof buf);
        assert_int_equal(rguard_violation_json(&v, buf, cap), strlen(want));
        if (cap > 0) {
            assert_true(strlen(buf) < cap);
        }
        assert_int_equal(buf[cap], 'x');
    }
}

static void test_hostile_fields_stay_on_their_line(void **state)
{
    (void)state;
    struct rguard_violation v = sample();
    memset(v.arena, '\n', sizeof v.arena); /* not even terminated */
    v.arena[1] = '"';
    v.arena[2] = '\\';
    v.kind = 77;
    v.class_ = 88;
    v.access = 99;
    v.n_frames = UINT32_MAX;
    char buf[2048];
    assert_true(rguard_violation_text(&v, buf, sizeof buf) > 0);
    assert_null(strchr(buf, '\n'));
    assert_non_null(strstr(buf, "violation=? class=?"));
    assert_true(rguard_violation_json(&v, buf, sizeof buf) > 0);
    assert_null(strchr(buf, '\n'));
    assert_null(strchr(buf, '\\'));
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(rguard_violation_kind_name(RGUARD_V_DOUBLE_FREE), "double_free");
    assert_string_equal(rguard_violation_kind_name(1000), "?");
    assert_string_equal(rguard_violation_class_name(RGUARD_CLASS_FATAL), "fatal");
    assert_string_equal(rguard_violation_class_name(6), "?");
}

static void test_ring_keeps_the_newest_64_in_order(void **state)
{
    (void)state;
    struct rguard_violation v;
    uint64_t lost = 0;
    while (rguard_violation_next(&v, NULL) == 1) {
    }
    assert_int_equal(rguard_violation_next(&v, &lost), 0);
    uint64_t before = lost;
    for (uint64_t i = 0; i < 100; i++) {
        struct rguard_violation r = sample();
        r.index = i;
        rguard__record(&r);
    }
    for (uint64_t i = 36; i < 100; i++) {
        assert_int_equal(rguard_violation_next(&v, &lost), 1);
        assert_int_equal(v.index, i);
    }
    assert_int_equal(lost - before, 36);
    assert_int_equal(rguard_violation_next(&v, &lost), 0);
    assert_int_equal(lost - before, 36);
}

#define RECORDS 20000u

static void *flood(void *arg)
{
    for (uint64_t i = 0; i < RECORDS; i++) {
        struct rguard_violation r;
        memset(&r, 0, sizeof r);
        r.term = (uintptr_t)arg;
        r.index = i;
        r.frames[RGUARD_VIOLATION_FRAMES - 1] = i;
        rguard__record(&r);
    }
    return NULL;
}

static void test_ring_under_two_writers_never_gives_a_torn_or_repeated_record(void **state)
{
    (void)state;
    struct rguard_violation v;
    uint64_t lost0 = 0;
    rguard_violation_next(&v, &lost0);
    pthread_t threads[2];
    for (uintptr_t i = 0; i < 2; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, flood, (void *)i), 0);
    }
    uint64_t next[2] = {0, 0};
    uint64_t taken = 0;
    uint64_t lost = lost0;
    bool joined = false;
    for (;;) {
        if (rguard_violation_next(&v, &lost) == 1) {
            assert_true(v.term < 2);
            assert_int_equal(v.frames[RGUARD_VIOLATION_FRAMES - 1], v.index);
            assert_true(v.index >= next[v.term]);
            next[v.term] = v.index + 1;
            taken++;
        } else if (joined) {
            break;
        } else if (taken + (lost - lost0) >= 2 * RECORDS) {
            pthread_join(threads[0], NULL);
            pthread_join(threads[1], NULL);
            joined = true;
        }
    }
    assert_int_equal(taken + (lost - lost0), 2 * RECORDS);
}

static void test_crash_file_is_read_or_refused(void **state)
{
    (void)state;
    char dir[] = "/tmp/rguard-crash-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char path[64];
    snprintf(path, sizeof path, "%s/crash", dir);
    struct rguard_violation v;
    assert_int_equal(rguard_crash_read(path, &v), -ENOENT);
    assert_int_equal(rguard_crash_read(NULL, &v), -EINVAL);

    struct rguard__crash crash;
    memset(&crash, 0, sizeof crash);
    crash.magic = RGUARD__CRASH_MAGIC;
    crash.version = 1;
    crash.size = sizeof crash;
    crash.v = sample();
    crash.crc = rguard_crc32c(0, &crash, offsetof(struct rguard__crash, crc));
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, &crash, sizeof crash), sizeof crash);
    assert_int_equal(rguard_crash_read(path, &v), 0);
    assert_int_equal(v.index, 4711);

    for (size_t at = 0; at < offsetof(struct rguard__crash, reserved); at += 5) {
        uint8_t byte = ((uint8_t *)&crash)[at] ^ 0x10;
        assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
        assert_int_equal(rguard_crash_read(path, &v), RGUARD_ECHECKSUM);
        assert_int_equal(pwrite(fd, (uint8_t *)&crash + at, 1, (off_t)at), 1);
    }
    assert_int_equal(ftruncate(fd, 100), 0);
    assert_int_equal(rguard_crash_read(path, &v), RGUARD_ECHECKSUM);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(rguard_crash_read(path, &v), RGUARD_ECHECKSUM);
    close(fd);
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_hostile_fields_stay_on_their_line),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_ring_keeps_the_newest_64_in_order),
        cmocka_unit_test(test_ring_under_two_writers_never_gives_a_torn_or_repeated_record),
        cmocka_unit_test(test_crash_file_is_read_or_refused),
    };
    return cmocka_run_group_tests_name("violation", tests, NULL, NULL);
}
