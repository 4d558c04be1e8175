/* SPDX-License-Identifier: Apache-2.0 */
/* The three files that rguard-converge writes, made from hand-made runs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "converge.h"
#include "svg.h"

#define T0 1000000000ull

static struct cv_options options;
static struct cv_machine machine;
static struct cv_report report;
static struct cv_row rows[6];

static void event(struct cv_trial *t, unsigned node, double ms, uint32_t what, uint64_t a)
{
    struct rguard_trace_record r = {.ns = (uint64_t)((double)T0 + ms * 1e6), .event = what, .a = a};
    cv_events_add(&t->ev[node - 1], &r);
}

/* One run of @row whose writes came back after @ms. */
static void add_run(struct cv_row *row, unsigned number, double ms, int verdict)
{
    bool memory = row->fault->fault_class == CV_FAULT_MEMORY && row->system == CV_RAFTGUARD;
    struct cv_trial t = {.nodes = 3,
                         .victim = 1,
                         .leader0 = 1,
                         .leader_fault = true,
                         .guarded = row->system == CV_RAFTGUARD};
    struct cv_run run = {.number = number, .fired = true, .victim = 1};
    struct cv_times *m = &run.times;
    *m = (struct cv_times){.fault = T0,
                           .leader = T0 + (uint64_t)(ms * 0.7e6),
                           .first_ack = T0 + (uint64_t)(ms * 1e6),
                           .converged = T0 + (uint64_t)(ms * 1.4e6),
                           .winner = 2,
                           .by_notice = memory};
    if (memory) {
        m->detected = T0 + 20000;
        m->contained = T0 + 35000;
        m->rolled_back = T0 + 900000;
        event(&t, 1, 0, RGUARD_TRACE_FAULT, 0);
        event(&t, 1, 0.02, RGUARD_TRACE_DETECTED, 1);
        event(&t, 1, 0.035, RGUARD_TRACE_CONTAINED, 0);
        event(&t, 1, 0.06, RGUARD_TRACE_NOTICE_SENT, 2);
        event(&t, 1, 0.8, RGUARD_TRACE_WAL_VERIFIED, 0);
        event(&t, 1, 0.9, RGUARD_TRACE_ROLLED_BACK, 0);
        event(&t, 2, 0.3, RGUARD_TRACE_NOTICE_RECV, 1);
        event(&t, 3, 0.31, RGUARD_TRACE_NOTICE_RECV, 1);
    } else {
        m->restarted = T0 + (uint64_t)(ms * 0.1e6);
        event(&t, 1, ms * 0.1, RGUARD_TRACE_START, 1);
    }
    event(&t, 2, ms * 0.4, RGUARD_TRACE_CANDIDATE, memory);
    event(&t, 2, ms * 0.7, RGUARD_TRACE_LEADER, 0);
    event(&t, 1, ms * 1.2, RGUARD_TRACE_FOLLOWER, 2);
    event(&t, 1, ms * 1.21, RGUARD_TRACE_SERVING, 0);
    for (int i = -30; i < 300; i++) {
        if (i < 0 || i > 20) {
            t.ops.v = cv_reserve(t.ops.v, t.ops.n, &t.ops.cap, sizeof *t.ops.v);
            uint64_t ns = (uint64_t)((double)T0 + (i < 0 ? i * 0.1 : ms + (i - 20) * 0.05) * 1e6);
            t.ops.v[t.ops.n] =
                (struct cv_op){.reply = ns, .seq = (uint32_t)t.ops.n, .outcome = CV_OK};
            t.ops.n++;
        }
    }
    run.judgement = (struct cv_judgement){.verdict = verdict, .acked = 900};
    if (verdict != CV_CORRECT) {
        run.judgement.n_reasons = 1;
        run.judgement.lost = 2;
        snprintf(run.judgement.reasons[0], sizeof run.judgement.reasons[0], "planted <reason>");
    }
    cv_run_derive(&run, &t, &options);
    cv_row_add(row, &run, &t);
    cv_trial_free(&t);
}

static int make_report(void **state)
{
    (void)state;
    options = (struct cv_options){.roles = {true, false},
                                  .runs = 12,
                                  .nodes = 3,
                                  .election_ms = 150,
                                  .heartbeat_ms = 15,
                                  .seed = 0x5eed,
                                  .baseline_libraft = true,
                                  .engine = "arena",
                                  .out = "x",
                                  .command = "rguard-converge --seed 0x5eed"};
    machine = (struct cv_machine){.cpu = "A <cpu>", .kernel = "6.1", .fs = "ext4", .cpus = 2};
    memset(rows, 0, sizeof rows);
    for (size_t f = 0; f < 3 && cv_faults[f].name != NULL; f++) {
        options.faults[options.n_faults++] = &cv_faults[f];
        for (int system = 0; system < 2; system++) {
            struct cv_row *row = &rows[2 * f + (size_t)system];
            *row = (struct cv_row){.system = system, .fault = &cv_faults[f]};
            for (unsigned i = 0; i < 12; i++) {
                bool quick = system == CV_RAFTGUARD && cv_faults[f].failpoint != NULL;
                double spread = (double)(i * i % 12) * 0.09;
                add_run(row, i, (quick ? 2.4 + (double)f * 0.3 : 380) * (1 + spread), CV_CORRECT);
            }
        }
    }
    report = (struct cv_report){
        .options = &options, .machine = &machine, .commit = "0123abc", .rows = rows, .n_rows = 6};
    cv_samples_add(&machine.fsync_us, 300);
    cv_samples_add(&machine.rtt_us, 20);
    return 0;
}

static int free_report(void **state)
{
    (void)state;
    for (size_t i = 0; i < 6; i++) {
        cv_row_free(&rows[i]);
    }
    cv_samples_free(&machine.fsync_us);
    cv_samples_free(&machine.rtt_us);
    return 0;
}

static void has(const struct cv_text *t, const char *words)
{
    if (strstr(t->data, words) == NULL) {
        fail_msg("'%s' is missing", words);
    }
}

static void first_line_says_it_all(void **state)
{
    (void)state;
    struct cv_text t = {0};
    report.n_rows = 1;
    cv_report_headline(&report, NULL, &t);
    assert_string_equal(t.data,
                        "leader/oob_write: 12/12 correct, write recovery p50 2.6 p95 4.3 max "
                        "4.3 ms (election 150 ms), 0 acked lost by raftguard, seed 0x5eed");
    cv_text_free(&t);
    report.n_rows = 6;
    cv_report_text(&report, &t);
    assert_memory_equal(t.data, "leader/oob_write: 12/12 correct", 31);
    has(&t, "127   etcd");
    has(&t, "89   TiKV");
    has(&t, "replay: rguard-converge --seed 0x5eed");
    cv_text_free(&t);
}

static void json_has_the_contract(void **state)
{
    (void)state;
    static const char *const keys[] = {"\"schema\": \"raftguard.converge/1\"",
                                       "\"version\"",
                                       "\"commit\"",
                                       "\"seed\": \"0x5eed\"",
                                       "\"command\"",
                                       "\"machine\"",
                                       "\"cpu\": \"A <cpu>\"",
                                       "\"kernel\"",
                                       "\"fs\"",
                                       "\"load1\"",
                                       "\"calibration\"",
                                       "\"fsync_us\"",
                                       "\"rtt_us\"",
                                       "\"config\"",
                                       "\"nodes\": 3",
                                       "\"engine\"",
                                       "\"election_ms\": 150",
                                       "\"heartbeat_ms\": 15",
                                       "\"handover\": \"gasp\"",
                                       "\"rows\"",
                                       "\"system\": \"raftguard\"",
                                       "\"system\": \"libraft\"",
                                       "\"fault\": \"kill\"",
                                       "\"role\": \"leader\"",
                                       "\"runs\": 12",
                                       "\"correct\": 12",
                                       "\"unavailable\": 0",
                                       "\"unsafe\": 0",
                                       "\"acked\": 10800",
                                       "\"lost\": 0",
                                       "\"write_recovery_ms\"",
                                       "\"convergence_ms\"",
                                       "\"p99\": null",
                                       "\"samples\": [",
                                       "\"redone\": 0",
                                       "\"phases_ms\"",
                                       "\"detect\": 0.020",
                                       "\"contain\"",
                                       "\"verify\"",
                                       "\"rollback\"",
                                       "\"handover\""};
    struct cv_text t = {0};
    cv_report_json(&report, &t);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        has(&t, keys[i]);
    }
    assert_null(strstr(t.data, "nan"));
    assert_null(strstr(t.data, "inf"));
    long depth = 0;
    for (const char *p = t.data; *p != '\0'; p++) {
        depth += *p == '{' || *p == '[' ? 1 : *p == '}' || *p == ']' ? -1 : 0;
        assert_true(depth >= 0);
    }
    assert_int_equal(depth, 0);
    cv_text_free(&t);
}

static void html_is_whole(void **state)
{
    (void)state;
    add_run(&rows[0], 12, 3, CV_UNSAFE);
    struct cv_text t = {0};
    cv_report_html(&report, &t);
    has(&t, "<h1>leader/oob_write: 12/13 correct, 1 UNSAFE");
    has(&t, "planted &lt;reason&gt;");
    has(&t, "A &lt;cpu&gt;");
    has(&t, "etcd, published: 127 ms");
    has(&t, "TiKV, published: 89 ms");
    has(&t, "election timeout: 150 ms");
    has(&t, "notice recv 0.30");
    assert_null(strstr(t.data, "nan"));
    assert_null(strstr(t.data, "inf "));
    assert_null(strstr(t.data, "<script"));
    assert_null(strstr(t.data, "http"));
    cv_text_free(&t);
}

/* A row in which nothing ever worked must still be drawn. */
static void html_of_failures_only(void **state)
{
    (void)state;
    cv_row_free(&rows[0]);
    rows[0] = (struct cv_row){.fault = &cv_faults[0]};
    struct cv_trial t = {.nodes = 3, .victim = 1, .leader0 = 1, .leader_fault = true};
    struct cv_run run = {.fired = true, .victim = 1, .times = {.fault = T0}};
    run.judgement.verdict = CV_UNAVAILABLE;
    cv_run_derive(&run, &t, &options);
    cv_row_add(&rows[0], &run, &t);
    report.n_rows = 1;
    struct cv_text out = {0};
    cv_report_html(&report, &out);
    cv_report_text(&report, &out);
    cv_report_json(&report, &out);
    has(&out, "no write recovered");
    assert_null(strstr(out.data, "nan"));
    cv_text_free(&out);
}

static void exit_codes(void **state)
{
    (void)state;
    assert_int_equal(cv_exit_code(&report), 0);
    add_run(&rows[1], 12, 3, CV_UNSAFE); /* a baseline row never counts */
    assert_int_equal(cv_exit_code(&report), 0);
    add_run(&rows[0], 12, 3, CV_UNAVAILABLE);
    assert_int_equal(cv_exit_code(&report), 4);
    rows[2].died = 1;
    assert_int_equal(cv_exit_code(&report), 3);
    add_run(&rows[4], 12, 3, CV_UNSAFE);
    assert_int_equal(cv_exit_code(&report), 5);
}

static void a_run_that_did_not_fire_is_redone(void **state)
{
    (void)state;
    struct cv_run run = {.fired = false};
    struct cv_trial t = {.nodes = 3};
    cv_row_add(&rows[0], &run, &t);
    assert_true(rows[0].redone == 1 && rows[0].n_runs == 12 && rows[0].correct == 12);
}

static void fast_means_notice_and_before_the_timer(void **state)
{
    (void)state;
    struct cv_trial t = {.nodes = 3, .victim = 1, .leader_fault = true};
    struct cv_run run = {.times = {.fault = T0, .first_ack = T0 + 119000000, .by_notice = true}};
    cv_run_derive(&run, &t, &options);
    assert_true(run.fast);
    run.times.first_ack = T0 + 120000000; /* 150 - 2 * 15 */
    cv_run_derive(&run, &t, &options);
    assert_false(run.fast);
    run.times = (struct cv_times){.fault = T0, .first_ack = T0 + 3000000};
    cv_run_derive(&run, &t, &options);
    assert_false(run.fast);
}

static void labels_never_overlap(void **state)
{
    (void)state;
    struct cv_labels l = {.n = 0};
    uint64_t rng = 1;
    for (int i = 0; i < 100; i++) {
        double left = (double)(cv_random(&rng) % 800),
               right = left + (double)(cv_random(&rng) % 150);
        cv_labels_place(&l, left, right);
    }
    for (size_t a = 0; a < l.n; a++) {
        for (size_t b = 0; b < a; b++) {
            assert_false(l.placed[a].row == l.placed[b].row &&
                         l.placed[a].left < l.placed[b].right &&
                         l.placed[b].left < l.placed[a].right);
        }
    }
    assert_true(l.rows > 1);
}

static void faults_and_names(void **state)
{
    (void)state;
    assert_non_null(cv_fault_find("oob_write,kill", 9));
    assert_null(cv_fault_find("oob_writ", 8));
    assert_null(cv_fault_find("ctrl", 4));
    assert_true(cv_fault_reserved("ctrl", 4));
    assert_false(cv_fault_reserved("x", 1));
}

#define RUN(f) cmocka_unit_test_setup_teardown(f, make_report, free_report)

int main(void)
{
    const struct CMUnitTest tests[] = {
        RUN(first_line_says_it_all),
        RUN(json_has_the_contract),
        RUN(html_is_whole),
        RUN(html_of_failures_only),
        RUN(exit_codes),
        RUN(a_run_that_did_not_fire_is_redone),
        RUN(fast_means_notice_and_before_the_timer),
        cmocka_unit_test(labels_never_overlap),
        cmocka_unit_test(faults_and_names),
    };
    return cmocka_run_group_tests_name("converge_report", tests, NULL, NULL);
}
