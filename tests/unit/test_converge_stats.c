/* SPDX-License-Identifier: Apache-2.0 */
/* Statistics, text and JSON of rguard-converge. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "stats.h"
#include "text.h"

static void quantiles_are_samples(void **state)
{
    (void)state;
    struct cv_samples s = {0};
    for (int i = 20; i >= 1; i--) {
        cv_samples_add(&s, i);
    }
    struct cv_summary m = cv_summarise(&s);
    assert_true(m.n == 20 && m.min == 1 && m.max == 20);
    assert_true(m.p50 == 10);
    assert_true(m.p95 == 19); /* the worst but one */
    cv_samples_free(&s);
}

static void one_sample_is_every_quantile(void **state)
{
    (void)state;
    struct cv_samples s = {0};
    cv_samples_add(&s, 7.5);
    struct cv_summary m = cv_summarise(&s);
    assert_true(m.min == 7.5 && m.p50 == 7.5 && m.p95 == 7.5 && m.max == 7.5);
    cv_samples_free(&s);
}

static void no_sample_no_figure(void **state)
{
    (void)state;
    struct cv_summary m = cv_summarise(&(struct cv_samples){0});
    assert_true(isnan(m.min) && isnan(m.p50) && isnan(m.p95) && isnan(m.p99) && isnan(m.max));
}

static void p99_needs_a_thousand(void **state)
{
    (void)state;
    struct cv_samples s = {0};
    for (int i = 1; i < CV_P99_SAMPLES; i++) {
        cv_samples_add(&s, i);
    }
    assert_true(isnan(cv_summarise(&s).p99));
    cv_samples_add(&s, CV_P99_SAMPLES);
    assert_true(cv_summarise(&s).p99 == 990);
    cv_samples_free(&s);
}

static void seed_decides_the_stream(void **state)
{
    (void)state;
    uint64_t a = 5, b = 5, c = 6;
    for (int i = 0; i < 100; i++) {
        uint64_t x = cv_random(&a);
        assert_true(x == cv_random(&b));
        assert_true(x != cv_random(&c));
    }
}

static void json_is_well_formed(void **state)
{
    (void)state;
    struct cv_text t = {0};
    struct cv_json j = {.out = &t};
    cv_json_open(&j, NULL, '{');
    cv_json_string(&j, "a", "x\"\\\n\x01");
    cv_json_string(&j, "none", NULL);
    cv_json_open(&j, "list", '[');
    cv_json_number(&j, NULL, 1.25, 2);
    cv_json_number(&j, NULL, (double)NAN, 2);
    cv_json_number(&j, NULL, (double)INFINITY, 2);
    cv_json_close(&j, ']');
    cv_json_open(&j, "empty", '{');
    cv_json_close(&j, '}');
    cv_json_uint(&j, "n", UINT64_MAX);
    cv_json_bool(&j, "yes", true);
    cv_json_close(&j, '}');
    assert_string_equal(t.data,
                        "{\n  \"a\": \"x\\\"\\\\\\u000a\\u0001\",\n  \"none\": null,\n"
                        "  \"list\": [1.25, null, null],\n  \"empty\": {},\n"
                        "  \"n\": 18446744073709551615,\n  \"yes\": true\n}\n");
    cv_text_free(&t);
}

static void html_is_escaped(void **state)
{
    (void)state;
    struct cv_text t = {0};
    cv_text_html(&t, "<b>&\"x\"");
    assert_string_equal(t.data, "&lt;b&gt;&amp;&quot;x&quot;");
    cv_text_free(&t);
}

static void files_appear_whole(void **state)
{
    (void)state;
    char dir[] = "/tmp/test-converge-XXXXXX", path[64], tmp[80], back[16] = "";
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/x.txt", dir);
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    struct cv_text t = {0};
    cv_text_add(&t, "%s", "content");
    assert_int_equal(cv_text_save(&t, path), 0);
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    assert_non_null(fgets(back, sizeof back, f));
    fclose(f);
    assert_string_equal(back, "content");
    assert_int_equal(access(tmp, F_OK), -1);
    assert_true(cv_text_save(&t, "/nonexistent/x") < 0);
    cv_text_free(&t);
    unlink(path);
    rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quantiles_are_samples),   cmocka_unit_test(one_sample_is_every_quantile),
        cmocka_unit_test(no_sample_no_figure),     cmocka_unit_test(p99_needs_a_thousand),
        cmocka_unit_test(seed_decides_the_stream), cmocka_unit_test(json_is_well_formed),
        cmocka_unit_test(html_is_escaped),         cmocka_unit_test(files_appear_whole),
    };
    return cmocka_run_group_tests_name("converge_stats", tests, NULL, NULL);
}
