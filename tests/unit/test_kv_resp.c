/* SPDX-License-Identifier: Apache-2.0 */

/* The request parser: whole, byte by byte, with every cap, and against seeded garbage. */

#include "resp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void feed(struct resp_parser *p, const char *data, size_t len)
{
    while (len > 0) {
        char *where;
        size_t room;
        assert_int_equal(resp_reserve(p, &where, &room), 0);
        assert_true(room > 0);
        size_t n = len < room ? len : room;
        memcpy(where, data, n);
        resp_received(p, n);
        data += n;
        len -= n;
    }
}

/* Everything that comes out of @input, as "[a|b][c]" and "!error" when it ends in one; fed in
 * pieces of @step bytes. */
static void transcript(const char *input, size_t len, size_t step, char *out, size_t cap)
{
    struct resp_parser p;
    struct resp_request r;
    size_t at = 0;
    int status = RESP_MORE;
    resp_init(&p);
    out[0] = '\0';
    for (size_t fed = 0; fed < len && status != RESP_ERROR; fed += step) {
        feed(&p, input + fed, len - fed < step ? len - fed : step);
        while ((status = resp_next(&p, &r)) == RESP_REQUEST) {
            for (unsigned i = 0; i < r.argc; i++) {
                at += (size_t)snprintf(out + at, cap - at, "%s%.*s", i == 0 ? "[" : "|",
                                       (int)r.argv[i].len, r.argv[i].data);
            }
            at += (size_t)snprintf(out + at, cap - at, "]");
        }
    }
    if (status == RESP_ERROR) {
        snprintf(out + at, cap - at, "!%s", p.error);
        assert_int_equal(resp_next(&p, &r), RESP_ERROR); /* it stays */
    }
    resp_free(&p);
}

struct sample
{
    const char *input, *expected;
};

static void check_samples(const struct sample *samples, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char got[512];
        size_t len = strlen(samples[i].input);
        for (size_t step = 1; step <= len; step++) {
            transcript(samples[i].input, len, step, got, sizeof got);
            if (strcmp(got, samples[i].expected) != 0) {
                fail_msg("sample %zu step %zu: got %s, expected %s", i, step, got,
                         samples[i].expected);
            }
        }
    }
}
#define CHECK(samples) check_samples(samples, sizeof samples / sizeof samples[0])

static void test_requests_in_any_pieces(void **state)
{
    static const struct sample samples[] = {
        {"*1\r\n$4\r\nPING\r\n", "[PING]"},
        {"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$3\r\nx\r\n\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n",
         "[SET|a|x\r\n][GET|a]"},
        {"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n", "[ECHO|]"},
        {"*0\r\n*-1\r\n\r\n\n*1\r\n$1\r\nx\r\n", "[x]"},
        {"PING\r\nset  a\tb \r\nGET a\n", "[PING][set|a|b][GET|a]"},
        {"set \"a b\" 'c d'\r\n", "[set|a b|c d]"},
        {"set \"\\x41\\n\\\"\" 'it\\'s'\r\n", "[set|A\n\"|it's]"},
        {"set \"\" ''\r\n", "[set||]"},
        {"PING\r\n*1\r\n$4\r\nPING\r\nPING\r\n", "[PING][PING][PING]"},
        {"*1\r\n$4\r\nPIN", ""},
        {"PIN", ""},
    };
    (void)state;
    CHECK(samples);
}

static void test_the_first_bad_byte_ends_it(void **state)
{
    static const struct sample samples[] = {
        {"*x\r\n", "!invalid multibulk length"},
        {"*\r\n", "!invalid multibulk length"},
        {"*-\r\n", "!invalid multibulk length"},
        {"* 1\r\n", "!invalid multibulk length"},
        {"*1\n$4\nPING\n", "!invalid multibulk length"},
        {"*1025\r\n", "!invalid multibulk length"},
        {"*99999999999999999999999999\r\n", "!invalid multibulk length"},
        {"*1111111111111111111111111111111111111111111", "!invalid multibulk length"},
        {"*1\r\n:4\r\n", "!expected '$'"},
        {"*1\r\n$-1\r\n", "!invalid bulk length"},
        {"*1\r\n$1048577\r\n", "!invalid bulk length"},
        {"*1\r\n$9223372036854775807\r\n", "!invalid bulk length"},
        {"*1\r\n$18446744073709551615\r\n", "!invalid bulk length"},
        {"*1\r\n$4\r\nPINGxx", "!expected CRLF after bulk string"},
        {"PING\r\n*1\r\n$x\r\n", "[PING]!invalid bulk length"},
        {"set \"a\r\n", "!unbalanced quotes in request"},
        {"set \"a\"b\r\n", "!unbalanced quotes in request"},
    };
    (void)state;
    CHECK(samples);
}

/* A length is believed only as far as the bytes that came. */
static void test_announced_lengths_cost_nothing(void **state)
{
    static const char head[] = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1048576\r\n";
    struct resp_parser p;
    struct resp_request r;
    (void)state;
    resp_init(&p);
    feed(&p, head, sizeof head - 1);
    assert_int_equal(resp_next(&p, &r), RESP_MORE);
    assert_true(p.cap < 64u << 10);
    char *chunk = calloc(1, 1u << 16);
    for (int i = 0; i < 16; i++) {
        feed(&p, chunk, 1u << 16);
        assert_int_equal(resp_next(&p, &r), RESP_MORE);
        assert_true(p.cap <= 2 * p.len + (64u << 10));
    }
    feed(&p, "\r\n", 2);
    assert_int_equal(resp_next(&p, &r), RESP_REQUEST);
    assert_int_equal(r.argc, 3);
    assert_int_equal(r.argv[2].len, RESP_MAX_BULK);
    assert_int_equal(resp_next(&p, &r), RESP_MORE);
    assert_int_equal(resp_pending(&p), 0);
    feed(&p, "PING\r\n", 6);
    assert_true(p.cap <= 64u << 10); /* the big buffer is not kept */
    free(chunk);
    resp_free(&p);
}

static void test_requests_have_a_size_in_all(void **state)
{
    static const char arg[] = "$65536\r\n";
    struct resp_parser p;
    struct resp_request r;
    int status = RESP_MORE;
    (void)state;
    resp_init(&p);
    feed(&p, "*1024\r\n", 7);
    char *bytes = calloc(1, 65536);
    for (int i = 0; i < 100 && status == RESP_MORE; i++) {
        feed(&p, arg, sizeof arg - 1);
        feed(&p, bytes, 65536);
        feed(&p, "\r\n", 2);
        status = resp_next(&p, &r);
    }
    assert_int_equal(status, RESP_ERROR);
    assert_string_equal(p.error, "request too big");
    assert_true(p.cap <= 2 * RESP_MAX_REQUEST);
    free(bytes);
    resp_free(&p);
}

static void test_inline_has_a_size(void **state)
{
    struct resp_parser p;
    struct resp_request r;
    int status = RESP_MORE;
    char bytes[1000];
    (void)state;
    memset(bytes, 'a', sizeof bytes);
    resp_init(&p);
    for (int i = 0; i < 100 && status == RESP_MORE; i++) {
        feed(&p, bytes, sizeof bytes);
        status = resp_next(&p, &r);
    }
    assert_int_equal(status, RESP_ERROR);
    assert_string_equal(p.error, "too big inline request");
    resp_free(&p);
    resp_init(&p);
    for (int i = 0; i < 1100; i++) {
        feed(&p, "a ", 2);
    }
    feed(&p, "\n", 1);
    assert_int_equal(resp_next(&p, &r), RESP_ERROR);
    assert_string_equal(p.error, "too many arguments in inline request");
    resp_free(&p);
}

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* Garbage from an alphabet that reaches deep: the same in one piece and in odd ones, every argument
 * inside the buffer, no crash (the sanitizer builds watch the rest). */
static void test_garbage(void **state)
{
    static const char *const words[] = {"*1\r\n", "*3\r\n", "$3\r\n", "$0\r\n", "abc",  "\r\n",
                                        "\n",     "\"",     "'",      "\\x4",   " ",    "*",
                                        "$",      "-1",     "SET",    "\r",     "9999", "\0"};
    uint64_t seed = 7;
    unsigned requests = 0, errors = 0;
    (void)state;
    for (int round = 0; round < 20000; round++) {
        char input[256], whole[1024], pieces[1024];
        size_t len = 0;
        for (int i = 0; i < 24; i++) {
            const char *w = words[next_random(&seed) % (sizeof words / sizeof words[0])];
            size_t n = *w == '\0' ? 1 : strlen(w);
            memcpy(input + len, w, n);
            len += n;
        }
        transcript(input, len, len, whole, sizeof whole);
        transcript(input, len, 1 + next_random(&seed) % 9, pieces, sizeof pieces);
        assert_string_equal(whole, pieces);
        requests += whole[0] == '[';
        errors += strchr(whole, '!') != NULL;
    }
    assert_true(requests > 1000); /* the generator reaches both ends */
    assert_true(errors > 1000);
}

static void test_random_bytes(void **state)
{
    uint64_t seed = 99;
    (void)state;
    for (int round = 0; round < 5000; round++) {
        struct resp_parser p;
        struct resp_request r;
        char bytes[512];
        for (size_t i = 0; i < sizeof bytes; i++) {
            bytes[i] = (char)next_random(&seed);
        }
        resp_init(&p);
        feed(&p, bytes, sizeof bytes);
        int status;
        while ((status = resp_next(&p, &r)) == RESP_REQUEST) {
            for (unsigned i = 0; i < r.argc; i++) {
                assert_true(r.argv[i].data >= p.buf);
                assert_true(r.argv[i].data + r.argv[i].len <= p.buf + p.len);
            }
        }
        resp_free(&p);
    }
}

static void test_replies(void **state)
{
    struct resp_out o = {0};
    (void)state;
    resp_simple(&o, "OK");
    resp_error(&o, "ERR unknown command '%s'", "a\r\n+OK");
    resp_integer(&o, -7);
    resp_bulk(&o, "a\r\nb", 4);
    resp_null(&o);
    resp_array(&o, 2);
    resp_bulk(&o, "", 0);
    static const char expected[] =
        "+OK\r\n-ERR unknown command 'a  +OK'\r\n:-7\r\n$4\r\na\r\nb\r\n$-1\r\n*2\r\n$0\r\n\r\n";
    assert_int_equal(o.len, sizeof expected - 1);
    assert_memory_equal(o.data, expected, o.len);
    resp_out_free(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_in_any_pieces),
        cmocka_unit_test(test_the_first_bad_byte_ends_it),
        cmocka_unit_test(test_announced_lengths_cost_nothing),
        cmocka_unit_test(test_requests_have_a_size_in_all),
        cmocka_unit_test(test_inline_has_a_size),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_random_bytes),
        cmocka_unit_test(test_replies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
