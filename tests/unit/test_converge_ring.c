/* SPDX-License-Identifier: Apache-2.0 */
/* The trace ring as the supervisor reads it, and the replies it parses. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "load.h"
#include "reply.h"
#include "ring.h"

#define CAPACITY 16u

/* Writes @n records with index from @first on, in a process of its own, as a node would. */
static void write_records(const struct cv_ring *r, uint64_t first, unsigned n)
{
    char path[64];
    cv_ring_path(r, path, sizeof path);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (rguard_trace_open(path, 99) != 0) {
            _exit(1);
        }
        for (unsigned i = 0; i < n; i++) {
            rguard_trace(RGUARD_TRACE_APPLIED, 3, first + i, 7, 8);
        }
        raise(SIGKILL); /* the records are in the file all the same */
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

static void records_survive_the_writer(void **state)
{
    (void)state;
    struct cv_ring r;
    struct cv_events e = {0};
    assert_int_equal(cv_ring_create(&r, CAPACITY), 0);
    write_records(&r, 100, 5);
    cv_ring_read(&r, &e);
    assert_int_equal(e.n, 5);
    assert_true(e.v[4].index == 104 && e.v[4].term == 3 && e.v[4].a == 7 && e.v[4].ns != 0);
    cv_ring_read(&r, &e);
    assert_int_equal(e.n, 5);   /* each record once */
    write_records(&r, 200, 14); /* over the end of the ring */
    cv_ring_read(&r, &e);
    assert_int_equal(e.n, 19);
    assert_true(e.v[18].index == 213 && r.lost == 0 && r.torn == 0);
    cv_events_free(&e);
    cv_ring_close(&r);
}

static void overrun_is_counted(void **state)
{
    (void)state;
    struct cv_ring r;
    struct cv_events e = {0};
    assert_int_equal(cv_ring_create(&r, CAPACITY), 0);
    write_records(&r, 0, 3 * CAPACITY);
    cv_ring_read(&r, &e);
    assert_int_equal(e.n, CAPACITY);
    assert_true(e.v[0].index == 2 * CAPACITY && r.lost == 2 * CAPACITY);
    cv_events_free(&e);
    cv_ring_close(&r);
}

static void unfinished_record_is_given_up(void **state)
{
    (void)state;
    struct cv_ring r;
    struct cv_events e = {0};
    assert_int_equal(cv_ring_create(&r, CAPACITY), 0);
    write_records(&r, 0, 2);
    /* A writer that claimed number 2 and died. */
    struct rguard_trace_header *h = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, 0);
    assert_true(h != MAP_FAILED);
    h->head++;
    cv_ring_read(&r, &e);
    assert_int_equal(e.n, 2);
    write_records(&r, 50, 1);
    cv_ring_read(&r, &e);
    assert_int_equal(e.n, 3);
    assert_true(e.v[2].index == 50 && r.torn == 1 && r.lost == 0);
    munmap(h, 4096);
    cv_events_free(&e);
    cv_ring_close(&r);
}

/* ---- replies --------------------------------------------------------------------------------- */

static void replies_are_whole_or_not_at_all(void **state)
{
    (void)state;
    static const char *const whole[] = {"+OK\r\n",    "-MOVED 0 127.0.0.1:7\r\n",
                                        ":12\r\n",    "$-1\r\n",
                                        "$0\r\n\r\n", "$5\r\na\r\nbc\r\n"};
    struct cv_reply r;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        size_t n = strlen(whole[i]);
        for (size_t k = 0; k < n; k++) {
            assert_int_equal(cv_resp_parse(whole[i], k, &r), 0);
        }
        assert_int_equal(cv_resp_parse(whole[i], n, &r), n);
    }
    assert_true(r.type == '$' && r.len == 5 && memcmp(r.text, "a\r\nbc", 5) == 0);
    assert_int_equal(cv_resp_parse("-MOVED 0 x\r\n+OK\r\n", 17, &r), 12);
    assert_true(cv_resp_is(&r, "MOVED") && !cv_resp_is(&r, "MOVEDX"));
}

static void garbage_is_no_reply(void **state)
{
    (void)state;
    struct cv_reply r;
    static const char *const bad[] = {"HTTP/1.1\r\n",     "\n",    "$x\r\n", "$-2\r\n",
                                      "$99999999999\r\n", "+OK\n", "*1\r\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(cv_resp_parse(bad[i], strlen(bad[i]), &r), -1);
    }
    char endless[5000];
    memset(endless, 'a', sizeof endless);
    endless[0] = '+';
    assert_int_equal(cv_resp_parse(endless, sizeof endless, &r), -1);
}

static void info_fields(void **state)
{
    (void)state;
    const char *info = "# Replica\r\nrole:leader\r\nterm:7\r\nxterm:8\r\ndigest:00ff\r\nbad:1x\r\n";
    char role[16];
    uint64_t v;
    assert_true(cv_info_text(info, "role", role, sizeof role));
    assert_string_equal(role, "leader");
    assert_true(cv_info_uint(info, "term", 10, &v) && v == 7);
    assert_true(cv_info_uint(info, "digest", 16, &v) && v == 255);
    assert_false(cv_info_uint(info, "bad", 10, &v));
    assert_false(cv_info_uint(info, "missing", 10, &v));
}

static void values_are_found_in_any_envelope(void **state)
{
    (void)state;
    char data[400] = "\x01\x02=9.1=", value[80];
    size_t at = 6;
    for (uint32_t seq = 0; seq < 3; seq++) {
        at += (size_t)cv_load_value(value, sizeof value, 41, seq * 1000);
        strcat(data, value);
    }
    strcat(data, "=41.77"); /* cut off */
    size_t pos = 0, len = strlen(data);
    for (int64_t seq = 0; seq < 3; seq++) {
        assert_int_equal(cv_load_find(data, len, 41, &pos), seq * 1000);
    }
    assert_int_equal(cv_load_find(data, len, 41, &pos), -1);
    pos = 0;
    assert_int_equal(cv_load_find(data, len, 4, &pos), -1); /* run 4 is not run 41 */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_survive_the_writer),
        cmocka_unit_test(overrun_is_counted),
        cmocka_unit_test(unfinished_record_is_given_up),
        cmocka_unit_test(replies_are_whole_or_not_at_all),
        cmocka_unit_test(garbage_is_no_reply),
        cmocka_unit_test(info_fields),
        cmocka_unit_test(values_are_found_in_any_envelope),
    };
    return cmocka_run_group_tests_name("converge_ring", tests, NULL, NULL);
}
