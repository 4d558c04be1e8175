/* SPDX-License-Identifier: Apache-2.0 */
/* The grammar: what good specs mean, and where exactly bad ones are wrong. */
#include "failpoint_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* One term as "chance count action value len text"; chance in billionths of a percent. */
static void render(const char *text, const struct fp_spec *spec, char *out, size_t cap)
{
    size_t n = 0;
    for (uint32_t i = 0; i < spec->nterms; i++) {
        const struct fp_term *t = &spec->terms[i];
        __extension__ typedef unsigned __int128 wide;
        /* Rounded up: the parser rounds down. */
        unsigned long long pct =
            (unsigned long long)(((wide)t->chance * 100000000000u + (1ull << 63) - 1) >> 63);
        n += (size_t)snprintf(out + n, cap - n, "%s%llu %llu %s %lld %u", i > 0 ? " | " : "", pct,
                              (unsigned long long)t->count, rguard__fp_action_name(t->action),
                              (long long)t->value, t->len);
        if (t->action == RGUARD_FP_PRINT || t->action == RGUARD_FP_PANIC) {
            n += (size_t)snprintf(out + n, cap - n, " [%.*s]", (int)t->len, text + t->text);
        }
    }
}

#define ALWAYS "100000000000"

static const struct good
{
    const char *spec;
    const char *means;
} goods[] = {
    {"off", ALWAYS " 0 off 0 0"},
    {"return", ALWAYS " 0 return 1 0"},
    {"return(0)", ALWAYS " 0 return 0 0"},
    {"return(5)", ALWAYS " 0 return 5 0"},
    {"return(-5)", ALWAYS " 0 return -5 0"},
    {"return(+5)", ALWAYS " 0 return 5 0"},
    {"return(0x1f)", ALWAYS " 0 return 31 0"},
    {"return(-0x8000000000000000)", ALWAYS " 0 return -9223372036854775808 0"},
    {"return(9223372036854775807)", ALWAYS " 0 return 9223372036854775807 0"},
    {"return(-9223372036854775808)", ALWAYS " 0 return -9223372036854775808 0"},
    {"errno(EIO)", ALWAYS " 0 errno 5 0"},
    {"errno(28)", ALWAYS " 0 errno 28 0"},
    {"errno(EWOULDBLOCK)", ALWAYS " 0 errno 11 0"},
    {"errno(ENOTSUP)", ALWAYS " 0 errno 95 0"},
    {"sleep(10)", ALWAYS " 0 sleep 10000000 0"},
    {"sleep(10us)", ALWAYS " 0 sleep 10000 0"},
    {"sleep(10ms)", ALWAYS " 0 sleep 10000000 0"},
    {"sleep(1s)", ALWAYS " 0 sleep 1000000000 0"},
    {"sleep(0)", ALWAYS " 0 sleep 0 0"},
    {"panic", ALWAYS " 0 panic 0 0 []"},
    {"panic(disk on fire)", ALWAYS " 0 panic 0 12 [disk on fire]"},
    {"abort", ALWAYS " 0 abort 0 0"},
    {"kill", ALWAYS " 0 kill 0 0"},
    {"print", ALWAYS " 0 print 0 0 []"},
    {"print( a b )", ALWAYS " 0 print 0 3 [a b]"},
    {"print(a->b;c=d)", ALWAYS " 0 print 0 8 [a->b;c=d]"},
    {"print(\"a) b\")", ALWAYS " 0 print 0 4 [a) b]"},
    {"bitflip", ALWAYS " 0 bitflip 0 1"},
    {"bitflip(3)", ALWAYS " 0 bitflip 0 3"},
    {"overrun", ALWAYS " 0 overrun 0 1"},
    {"overrun(16)", ALWAYS " 0 overrun 0 16"},
    {"double_free", ALWAYS " 0 double_free 0 0"},
    {"1*double_free", ALWAYS " 1 double_free 0 0"},
    {"5*return", ALWAYS " 5 return 1 0"},
    {"18446744073709551615*off", ALWAYS " 18446744073709551615 off 0 0"},
    {"20%return", "20000000000 0 return 1 0"},
    {"100%return", ALWAYS " 0 return 1 0"},
    {"100.0%return", ALWAYS " 0 return 1 0"},
    {"0%return", "0 0 return 1 0"},
    {"0.5%return", "500000000 0 return 1 0"},
    {"0.000000001%return", "1 0 return 1 0"},
    {"20%3*return(9)->sleep(100)", "20000000000 3 return 9 0 | " ALWAYS " 0 sleep 100000000 0"},
    {"2*return(1)->return(2)", ALWAYS " 2 return 1 0 | " ALWAYS " 0 return 2 0"},
    {" \t\n 20 % 3 * return ( 9 ) -> sleep ( 100 ms ) \r\n",
     "20000000000 3 return 9 0 | " ALWAYS " 0 sleep 100000000 0"},
};

static void good_specs_mean_what_they_say(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof goods / sizeof *goods; i++) {
        struct fp_spec spec;
        size_t off;
        size_t len;
        struct rguard_fp_error err = {0, 0, ""};
        char means[512] = "";
        int rv = rguard__fp_parse_program(goods[i].spec, &spec, &off, &len, &err);
        if (rv == 0) {
            render(goods[i].spec + off, &spec, means, sizeof means);
        }
        if (rv != 0 || strcmp(means, goods[i].means) != 0) {
            fail_msg("%s: %d %s: means %s", goods[i].spec, rv, err.message, means);
        }
        assert_int_equal(rguard_fp_check(goods[i].spec, NULL), 0);
    }
}

static const struct bad
{
    const char *spec;
    size_t offset;
    size_t length;
    const char *says; /* a part of the message */
} bads[] = {
    {"", 0, 0, "expected a probability, a count or an action, found the end"},
    {"   ", 3, 0, "found the end"},
    {"retrun(5)", 0, 6, "did you mean \"return\""},
    {"  RETURN", 2, 6, "did you mean \"return\""},
    {"slep(1)", 0, 4, "did you mean \"sleep\""},
    {"double-free", 0, 6, "unknown action \"double\""},
    {"frobnicate", 0, 10, "expected off, return"},
    {"3*", 2, 0, "expected an action, found the end"},
    {"20%", 3, 0, "expected a count or an action, found the end"},
    {"20.0%", 5, 0, "found the end"},
    {"5return", 1, 6, "expected \"%\" or \"*\""},
    {"5 return", 2, 6, "expected \"%\" or \"*\""},
    {"0*return", 0, 1, "count of 0"},
    {"00*return", 0, 2, "count of 0"},
    {"-1*return", 0, 1, "found \"-\""},
    {"-5%return", 0, 1, "found \"-\""},
    {"+5%return", 0, 1, "found \"+\""},
    {".5%return", 0, 1, "found \".\""},
    {"5.%return", 2, 1, "a digit after"},
    {"1.0000000001%return", 11, 1, "more than 9 digits"},
    {"NaN%return", 0, 3, "not a probability"},
    {"inf%return", 0, 3, "not a probability"},
    {"1e3%return", 1, 2, "expected \"%\" or \"*\""},
    {"101%return", 0, 3, "above 100%"},
    {"100.000000001%return", 0, 13, "above 100%"},
    {"99999999999999999999999%return", 0, 23, "above 100%"},
    {"99999999999999999999999*return", 0, 23, "too large"},
    {"1.5*return", 0, 3, "whole number"},
    {"2*3*return", 2, 1, "second count"},
    {"2%3%return", 2, 1, "second probability"},
    {"3*20%return", 2, 2, "probability stands before"},
    {"->return", 0, 2, "found \"->\""},
    {"return->", 8, 0, "found the end"},
    {"return(5)-> ", 12, 0, "found the end"},
    {"return->->off", 8, 2, "found \"->\""},
    {"return-off", 6, 1, "expected \"->\" or the end"},
    {"return off", 7, 3, "expected \"->\" or the end"},
    {"return;", 6, 1, "expected \"->\" or the end"},
    {"return(5))", 9, 1, "found \")\""},
    {"return(", 7, 0, "expected an integer"},
    {"return()", 7, 1, "expected an integer"},
    {"return(x)", 7, 1, "expected an integer"},
    {"return(5", 8, 0, "expected \")\""},
    {"return(5 6)", 9, 1, "expected \")\""},
    {"return(0x)", 8, 1, "expected \")\""},
    {"return(- 5)", 8, 1, "expected an integer"},
    {"return(9223372036854775808)", 7, 19, "64 bits"},
    {"return(0x10000000000000000)", 7, 19, "64 bits"},
    {"errno", 0, 5, "needs an error name"},
    {"errno()", 6, 1, "expected an error name"},
    {"errno(EI0)", 6, 3, "did you mean \"EIO\""},
    {"errno(WHATEVER)", 6, 8, "unknown error"},
    {"errno(0)", 6, 1, "from 1 to 4095"},
    {"errno(4096)", 6, 4, "from 1 to 4095"},
    {"errno(-5)", 6, 1, "found \"-\""},
    {"sleep", 0, 5, "needs a duration"},
    {"sleep(bogus)", 6, 5, "expected a duration"},
    {"sleep(10min)", 8, 3, "expected a unit"},
    {"sleep(-1)", 6, 1, "found \"-\""},
    {"sleep(86401s)", 6, 5, "longer than a day"},
    {"sleep(99999999999999999999s)", 6, 20, "longer than a day"},
    {"off(1)", 3, 1, "takes no argument"},
    {"kill()", 4, 1, "takes no argument"},
    {"double_free(2)", 11, 1, "takes no argument"},
    {"bitflip(0)", 8, 1, "from 1 to 1048576"},
    {"overrun(1048577)", 8, 7, "from 1 to 1048576"},
    {"overrun(x)", 8, 1, "whole number"},
    {"print()", 6, 0, "found nothing"},
    {"print(\"\")", 7, 0, "found nothing"},
    {"print(\"abc)", 11, 0, "closing quote"},
    {"print(a\tb)", 7, 1, "byte 0x09"},
    {"print(\xc3\xa4)", 6, 1, "byte 0xc3"},
    {"\x01return", 0, 1, "found \"?\""},
    /* configs */
    {"a=", 2, 0, "found the end"},
    {"a=off;;", 6, 1, "expected the name of a site"},
    {"a=off;b", 7, 0, "expected \"=\" after the name"},
    {"a=off;=off", 6, 1, "expected the name of a site"},
    {"a=off;b=retrun", 8, 6, "did you mean \"return\""},
    {"a=off;b=return->;c=off", 16, 1, "found \";\""},
    {"a=off;b=off;a=off", 12, 1, "already given"},
    {"a=off b=off", 6, 1, "expected \"->\", \";\" or the end"},
    {"a b=off", 0, 1, "unknown action \"a\""}, /* no name stands before "=": read as a program */
    {"a=off;b c=off", 8, 1, "expected \"=\" after the name"},
    {"a==off", 2, 1, "found \"=\""},
};

static void bad_specs_are_wrong_at_one_place(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        struct rguard_fp_error err = {99, 99, ""};
        int rv = rguard_fp_check(bads[i].spec, &err);
        if (rv != RGUARD_ESPEC || err.offset != bads[i].offset || err.length != bads[i].length ||
            strstr(err.message, bads[i].says) == NULL) {
            fail_msg("%s: %d at %zu+%zu, expected %zu+%zu: %s", bads[i].spec, rv, err.offset,
                     err.length, bads[i].offset, bads[i].length, err.message);
        }
        assert_int_equal(rguard_fp_check(bads[i].spec, NULL), RGUARD_ESPEC);
    }
}

/* Every bad program and config, given to a process that has the site, arms nothing at all. */
static void bad_specs_arm_nothing(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof bads / sizeof *bads; i++) {
        struct rguard_fp_error err;
        assert_int_not_equal(rguard_fp_set("parse/site", bads[i].spec, &err), 0);
        char config[256];
        snprintf(config, sizeof config, "parse/site=return;parse/other=%s", bads[i].spec);
        if (strchr(bads[i].spec, '=') == NULL && strchr(bads[i].spec, ';') == NULL) {
            assert_int_equal(rguard_fp_configure(config, &err), RGUARD_ESPEC);
            assert_int_equal(err.offset, strlen("parse/site=return;parse/other=") + bads[i].offset);
        }
        assert_false(RGUARD_FP_IF("parse/site", "never armed here"));
        assert_false(RGUARD_FP_IF("parse/other", "never armed here either"));
    }
    struct rguard_fp_stat stat = {.size = sizeof stat};
    assert_int_equal(rguard_fp_stat("parse/site", &stat), 0);
    assert_int_equal(stat.hits, 0);
}

static void configs_bind_names(void **state)
{
    (void)state;
    static const char text[] = " wal/append = 5*return(1) -> off ;\n kv/apply=1*overrun(16); ";
    struct fp_config config;
    assert_int_equal(rguard__fp_parse_config(text, &config, NULL), 0);
    assert_int_equal(config.n, 2);
    const struct fp_binding *b = config.bindings;
    assert_int_equal(b[0].name_len, strlen("wal/append"));
    assert_memory_equal(text + b[0].name, "wal/append", b[0].name_len);
    assert_int_equal(b[0].text_len, strlen("5*return(1) -> off"));
    assert_memory_equal(text + b[0].text, "5*return(1) -> off", b[0].text_len);
    assert_int_equal(b[1].spec.nterms, 1);
    assert_int_equal(b[1].spec.terms[0].len, 16);
    free(config.bindings);
}

static void caps_hold(void **state)
{
    (void)state;
    struct rguard_fp_error err;
    char terms[FP_MAX_TERMS * 5 + 16] = "off";
    for (unsigned i = 1; i < FP_MAX_TERMS; i++) {
        strcat(terms, "->off");
    }
    assert_int_equal(rguard_fp_check(terms, &err), 0);
    size_t len = strlen(terms);
    strcat(terms, "->off");
    assert_int_equal(rguard_fp_check(terms, &err), RGUARD_ESPEC);
    assert_int_equal(err.offset, len + 2);

    char *text = malloc(FP_MAX_TEXT + 2);
    memset(text, ' ', FP_MAX_TEXT + 1);
    memcpy(text, "off", 3);
    text[FP_MAX_TEXT] = '\0';
    assert_int_equal(rguard_fp_check(text, &err), 0);
    text[FP_MAX_TEXT] = ' ';
    text[FP_MAX_TEXT + 1] = '\0';
    assert_int_equal(rguard_fp_check(text, &err), RGUARD_ESPEC);
    assert_int_equal(err.offset, FP_MAX_TEXT);
    free(text);

    char name[FP_MAX_NAME + 8];
    memset(name, 'n', FP_MAX_NAME);
    strcpy(name + FP_MAX_NAME, "=off");
    assert_int_equal(rguard_fp_check(name, &err), 0);
    strcpy(name + FP_MAX_NAME, "n=off");
    assert_int_equal(rguard_fp_check(name, &err), RGUARD_ESPEC);
    assert_int_equal(err.offset, 0);

    struct fp_buf config = {NULL, 0, 0, false};
    for (unsigned i = 0; i < FP_MAX_BINDINGS; i++) {
        rguard__fp_put(&config, "s%u=off;", i);
    }
    assert_int_equal(rguard_fp_check(config.data, &err), 0);
    size_t end = config.len;
    rguard__fp_put(&config, "x=off");
    assert_int_equal(rguard_fp_check(config.data, &err), RGUARD_ESPEC);
    assert_int_equal(err.offset, end);
    free(config.data);
    assert_int_equal(rguard_fp_check(NULL, &err), RGUARD_ESPEC);
}

/* Any bytes at all: an answer, and an offset inside the text. */
static void noise_is_judged(void **state)
{
    (void)state;
    static const char *const pieces[] = {
        "off", "return", "(",   ")",  "->",  "5",     "%",  "*", "0.5", " ",    "-",     ">",
        ";",   "=",      "a/b", "\"", "EIO", "errno", "ms", "x", ".",   "\xff", "sleep", "print"};
    uint64_t x = 1;
    for (int i = 0; i < 200000; i++) {
        char text[128] = "";
        size_t len = 0;
        for (int k = (int)(x >> 60); k >= 0; k--) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            const char *piece = pieces[(x >> 33) % (sizeof pieces / sizeof *pieces)];
            strcpy(text + len, piece);
            len += strlen(piece);
        }
        struct rguard_fp_error err = {0, 0, ""};
        int rv = rguard_fp_check(text, &err);
        if (rv != 0 && (rv != RGUARD_ESPEC || err.offset + err.length > len || !err.message[0])) {
            fail_msg("%s: %d at %zu+%zu: %s", text, rv, err.offset, err.length, err.message);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_specs_mean_what_they_say),
        cmocka_unit_test(bad_specs_are_wrong_at_one_place),
        cmocka_unit_test(bad_specs_arm_nothing),
        cmocka_unit_test(configs_bind_names),
        cmocka_unit_test(caps_hold),
        cmocka_unit_test(noise_is_judged),
    };
    return cmocka_run_group_tests_name("failpoint_parse", tests, NULL, NULL);
}
