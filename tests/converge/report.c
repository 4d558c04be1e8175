/* SPDX-License-Identifier: Apache-2.0 */
/* run.json and report.txt. Every figure in them was measured in this invocation; the two published
 * ones are marked as such. */
#include <inttypes.h>
#include <math.h>
#include <raftguard/version.h>
#include <stdio.h>
#include <stdlib.h>

#include "converge.h"
#include "load.h"

/* ---- the line that says it all --------------------------------------------------------------- */

static void clause(const struct cv_row *row, struct cv_text *out)
{
    struct cv_summary w = cv_summarise(&row->write_recovery);
    cv_text_add(out, "%s/%s: %u/%zu correct", cv_role_name(row->role), row->fault->name,
                row->correct, row->n_runs);
    if (row->unsafe != 0) {
        cv_text_add(out, ", %u UNSAFE", row->unsafe);
    }
    if (w.n == 0) {
        cv_text_add(out, ", no write recovered");
        return;
    }
    cv_text_add(out, ", write recovery p50 %.1f p95 %.1f", w.p50, w.p95);
    if (isfinite(w.p99)) {
        cv_text_add(out, " p99 %.1f", w.p99);
    }
    cv_text_add(out, " max %.1f ms", w.max);
}

void cv_report_headline(const struct cv_report *r, const struct cv_row *row, struct cv_text *out)
{
    uint64_t lost = 0;
    bool first = true;
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct cv_row *k = &r->rows[i];
        if ((row != NULL && row != k) || (row == NULL && k->system != CV_RAFTGUARD)) {
            continue;
        }
        cv_text_add(out, first ? "" : "; ");
        first = false;
        clause(k, out);
        lost += k->lost;
    }
    cv_text_add(out, " (election %u ms), %" PRIu64 " acked lost by %s, seed 0x%" PRIx64,
                r->options->election_ms, lost,
                cv_system_name(row != NULL ? row->system : CV_RAFTGUARD), r->options->seed);
}

/* ---- run.json -------------------------------------------------------------------------------- */

static void json_samples(struct cv_json *j, const char *key, const struct cv_samples *s)
{
    struct cv_summary m = cv_summarise(s);
    cv_json_open(j, key, '{');
    cv_json_number(j, "min", m.min, 3);
    cv_json_number(j, "p50", m.p50, 3);
    cv_json_number(j, "p95", m.p95, 3);
    cv_json_number(j, "p99", m.p99, 3);
    cv_json_number(j, "max", m.max, 3);
    cv_json_open(j, "samples", '[');
    for (size_t i = 0; i < s->n; i++) {
        cv_json_number(j, NULL, s->v[i], 3);
    }
    cv_json_close(j, ']');
    cv_json_close(j, '}');
}

static void json_run(struct cv_json *j, const struct cv_run *k)
{
    const struct cv_times *m = &k->times;
    cv_json_open(j, NULL, '{');
    cv_json_uint(j, "run", k->number);
    cv_json_string(j, "verdict", cv_verdict_name(k->judgement.verdict));
    cv_json_uint(j, "victim", k->victim);
    cv_json_uint(j, "winner", m->winner);
    cv_json_bool(j, "by_notice", m->by_notice);
    cv_json_bool(j, "fast", k->fast);
    cv_json_bool(j, "died_unasked", k->died);
    cv_json_number(j, "write_recovery_ms", k->write_recovery_ms, 3);
    cv_json_number(j, "longest_gap_ms", k->longest_gap_ms, 3);
    cv_json_number(j, "outage_ms", cv_ms(m->last_ack_before, m->first_ack), 3);
    cv_json_number(j, "convergence_ms", k->convergence_ms, 3);
    cv_json_uint(j, "converged_index", m->converged_index);
    cv_json_open(j, "events_ms", '{');
    cv_json_number(j, "detected", cv_ms(m->fault, m->detected), 3);
    cv_json_number(j, "contained", cv_ms(m->fault, m->contained), 3);
    cv_json_number(j, "notice_sent", cv_ms(m->fault, m->notice_sent), 3);
    cv_json_number(j, "notice_received", cv_ms(m->fault, m->notice_recv), 3);
    cv_json_number(j, "wal_verified", cv_ms(m->fault, m->wal_verified), 3);
    cv_json_number(j, "rolled_back", cv_ms(m->fault, m->rolled_back), 3);
    cv_json_number(j, "candidate", cv_ms(m->fault, m->candidate), 3);
    cv_json_number(j, "leader", cv_ms(m->fault, m->leader), 3);
    cv_json_number(j, "first_ack", cv_ms(m->fault, m->first_ack), 3);
    cv_json_number(j, "restarted", cv_ms(m->fault, m->restarted), 3);
    cv_json_number(j, "serving", cv_ms(m->fault, m->serving), 3);
    cv_json_number(j, "converged", cv_ms(m->fault, m->converged), 3);
    cv_json_close(j, '}');
    cv_json_uint(j, "acked", k->judgement.acked);
    cv_json_uint(j, "lost", k->judgement.lost);
    cv_json_uint(j, "logs_checked", k->logs_checked);
    cv_json_uint(j, "trace_records_lost", k->trace_lost);
    cv_json_string(j, "violation", k->violation[0] != '\0' ? k->violation : NULL);
    cv_json_open(j, "reasons", '[');
    for (unsigned i = 0; i < k->judgement.n_reasons; i++) {
        cv_json_string(j, NULL, k->judgement.reasons[i]);
    }
    cv_json_close(j, ']');
    cv_json_string(j, "kept", k->kept[0] != '\0' ? k->kept : NULL);
    cv_json_close(j, '}');
}

static void json_row(struct cv_json *j, const struct cv_row *row)
{
    cv_json_open(j, NULL, '{');
    cv_json_string(j, "system", cv_system_name(row->system));
    cv_json_string(j, "fault", row->fault->name);
    cv_json_string(j, "role", cv_role_name(row->role));
    cv_json_uint(j, "runs", row->n_runs);
    cv_json_uint(j, "correct", row->correct);
    cv_json_uint(j, "unavailable", row->unavailable);
    cv_json_uint(j, "unsafe", row->unsafe);
    cv_json_uint(j, "acked", row->acked);
    cv_json_uint(j, "lost", row->lost);
    json_samples(j, "write_recovery_ms", &row->write_recovery);
    json_samples(j, "convergence_ms", &row->convergence);
    json_samples(j, "longest_gap_ms", &row->longest_gap);
    cv_json_uint(j, "redone", row->redone);
    cv_json_uint(j, "fast", row->fast);
    cv_json_uint(j, "died_unasked", row->died);
    cv_json_open(j, "phases_ms", '{');
    cv_json_number(j, "detect", cv_summarise(&row->detect).p50, 3);
    cv_json_number(j, "contain", cv_summarise(&row->contain).p50, 3);
    cv_json_number(j, "verify", cv_summarise(&row->verify).p50, 3);
    cv_json_number(j, "rollback", cv_summarise(&row->rollback).p50, 3);
    cv_json_number(j, "handover", cv_summarise(&row->handover).p50, 3);
    cv_json_close(j, '}');
    cv_json_open(j, "details", '[');
    for (size_t i = 0; i < row->n_runs; i++) {
        json_run(j, &row->runs[i]);
    }
    cv_json_close(j, ']');
    cv_json_close(j, '}');
}

static void json_quantiles(struct cv_json *j, const char *key, const struct cv_samples *s)
{
    double *v = cv_sorted(s);
    cv_json_open(j, key, '{');
    cv_json_number(j, "p50", cv_quantile(v, s->n, 0.50), 1);
    cv_json_number(j, "p99", cv_quantile(v, s->n, 0.99), 1);
    cv_json_uint(j, "n", s->n);
    cv_json_close(j, '}');
    free(v);
}

void cv_report_json(const struct cv_report *r, struct cv_text *out)
{
    const struct cv_options *o = r->options;
    char seed[24];
    snprintf(seed, sizeof seed, "0x%" PRIx64, o->seed);
    struct cv_json j = {.out = out};
    cv_json_open(&j, NULL, '{');
    cv_json_string(&j, "schema", "raftguard.converge/1");
    cv_json_string(&j, "version", rguard_version());
    cv_json_string(&j, "commit", r->commit);
    cv_json_string(&j, "seed", seed);
    cv_json_string(&j, "command", o->command);
    cv_json_open(&j, "machine", '{');
    cv_json_string(&j, "cpu", r->machine->cpu);
    cv_json_uint(&j, "cpus", r->machine->cpus);
    cv_json_string(&j, "kernel", r->machine->kernel);
    cv_json_string(&j, "fs", r->machine->fs);
    cv_json_number(&j, "load1", r->machine->load1, 2);
    cv_json_close(&j, '}');
    cv_json_open(&j, "calibration", '{');
    json_quantiles(&j, "fsync_us", &r->machine->fsync_us);
    json_quantiles(&j, "rtt_us", &r->machine->rtt_us);
    cv_json_close(&j, '}');
    cv_json_open(&j, "config", '{');
    cv_json_uint(&j, "nodes", o->nodes);
    cv_json_string(&j, "engine", o->engine);
    cv_json_uint(&j, "election_ms", o->election_ms);
    cv_json_uint(&j, "heartbeat_ms", o->heartbeat_ms);
    cv_json_string(&j, "handover", o->timeout_handover ? "timeout" : "gasp");
    cv_json_close(&j, '}');
    cv_json_open(&j, "published_ms", '{');
    cv_json_number(&j, "etcd_out_of_bounds", CV_PUBLISHED_ETCD_MS, 0);
    cv_json_number(&j, "tikv_double_free", CV_PUBLISHED_TIKV_MS, 0);
    cv_json_close(&j, '}');
    cv_json_open(&j, "rows", '[');
    for (size_t i = 0; i < r->n_rows; i++) {
        json_row(&j, &r->rows[i]);
    }
    cv_json_close(&j, ']');
    cv_json_close(&j, '}');
}

/* ---- report.txt ------------------------------------------------------------------------------ */

static void cell(struct cv_text *out, double ms, int width)
{
    if (isfinite(ms)) {
        cv_text_add(out, " %*.*f", width, ms < 100 ? 1 : 0, ms);
    } else {
        cv_text_add(out, " %*s", width, "-");
    }
}

static void text_row(const struct cv_row *row, struct cv_text *out)
{
    struct cv_summary w = cv_summarise(&row->write_recovery);
    struct cv_summary c = cv_summarise(&row->convergence);
    cv_text_add(out, "%-10s %-12s %-9s %4zu %7u %7u %6u", cv_system_name(row->system),
                row->fault->name, cv_role_name(row->role), row->n_runs, row->correct,
                row->unavailable, row->unsafe);
    cell(out, w.min, 7);
    cell(out, w.p50, 7);
    cell(out, w.p95, 7);
    if (isfinite(w.p99)) {
        cell(out, w.p99, 7);
    } else {
        cv_text_add(out, " %7s", "n<1000");
    }
    cell(out, w.max, 7);
    cv_text_add(out, "  |");
    cell(out, c.p50, 7);
    cell(out, c.p95, 7);
    cell(out, c.max, 7);
    cv_text_add(out, "  |");
    cell(out, cv_summarise(&row->longest_gap).max, 7);
    cv_text_add(out, "  | %7" PRIu64 " %4" PRIu64 "  ", row->acked, row->lost);
    if (row->role == CV_LEADER) {
        cv_text_add(out, "%u/%zu", row->fast, row->n_runs);
    } else {
        cv_text_add(out, "-"); /* nothing was handed over */
    }
    if (row->redone != 0) {
        cv_text_add(out, "  (%u redone)", row->redone);
    }
    cv_text_add(out, "\n");
}

static void text_table(const struct cv_report *r, struct cv_text *out)
{
    cv_text_add(out, "%-61s %39s  |%24s  |%8s  |\n", "", "write recovery ms", "convergence ms",
                "gap ms");
    cv_text_add(out,
                "%-10s %-12s %-9s %4s %7s %7s %6s %7s %7s %7s %7s %7s  | %7s %7s %7s  | %7s  | %7s "
                "%4s  %s\n",
                "system", "fault", "role", "runs", "correct", "unavail", "unsafe", "min", "p50",
                "p95", "p99", "max", "p50", "p95", "max", "max", "acked", "lost", "fast");
    for (size_t i = 0; i < r->n_rows; i++) {
        text_row(&r->rows[i], out);
    }
    cv_text_add(out,
                "%-10s %-12s %-9s %34s %7.0f   etcd, out-of-bounds access; not measured here\n",
                "published", "oob_write", "leader", "", CV_PUBLISHED_ETCD_MS);
    cv_text_add(out, "%-10s %-12s %-9s %34s %7.0f   TiKV, double free; not measured here\n",
                "published", "double_free", "leader", "", CV_PUBLISHED_TIKV_MS);
}

static void text_phases(const struct cv_report *r, struct cv_text *out)
{
    cv_text_add(out, "\nphases, median ms\n%-10s %-12s %-9s %8s %8s %8s %8s %8s\n", "system",
                "fault", "role", "detect", "contain", "verify", "rollback", "handover");
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct cv_row *row = &r->rows[i];
        const struct cv_samples *p[] = {&row->detect, &row->contain, &row->verify, &row->rollback,
                                        &row->handover};
        cv_text_add(out, "%-10s %-12s %-9s", cv_system_name(row->system), row->fault->name,
                    cv_role_name(row->role));
        for (size_t k = 0; k < sizeof p / sizeof *p; k++) {
            double ms = cv_summarise(p[k]).p50;
            if (isfinite(ms)) {
                cv_text_add(out, " %8.2f", ms);
            } else {
                cv_text_add(out, " %8s", "-");
            }
        }
        cv_text_add(out, "\n");
    }
}

static void text_problems(const struct cv_report *r, struct cv_text *out)
{
    bool any = false;
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct cv_row *row = &r->rows[i];
        for (size_t k = 0; k < row->n_runs; k++) {
            const struct cv_run *run = &row->runs[k];
            if (run->judgement.verdict == CV_CORRECT || !cv_row_lists(row, k)) {
                continue;
            }
            cv_text_add(out, any ? "" : "\nruns that were not correct\n");
            any = true;
            cv_text_add(out, "run %u, %s %s/%s: %s\n", run->number, cv_system_name(row->system),
                        cv_role_name(row->role), row->fault->name,
                        cv_verdict_name(run->judgement.verdict));
            for (unsigned n = 0; n < run->judgement.n_reasons; n++) {
                cv_text_add(out, "    %s\n", run->judgement.reasons[n]);
            }
            if (run->kept[0] != '\0') {
                cv_text_add(out, "    kept: %s\n", run->kept);
            }
            if (row->system != CV_RAFTGUARD && row->unavailable + row->unsafe > 1) {
                cv_text_add(out, "    and %u more of this baseline row, see run.json\n",
                            row->unavailable + row->unsafe - 1);
            }
        }
    }
}

void cv_report_text(const struct cv_report *r, struct cv_text *out)
{
    const struct cv_machine *m = r->machine;
    const struct cv_options *o = r->options;
    double *f = cv_sorted(&m->fsync_us);
    double *t = cv_sorted(&m->rtt_us);
    cv_report_headline(r, NULL, out);
    cv_text_add(out, "\n\n");
    text_table(r, out);
    cv_text_add(out,
                "\nwrite recovery: from the fault to the first write that was sent after it and "
                "acknowledged, for leader faults in a newer term.\nconvergence: from the fault "
                "until all replicas hold one content digest at one index. fast: won by notice, "
                "before any election timeout could end. gap: longest time without any "
                "acknowledged write, from the fault to the end of the load.\n");
    text_phases(r, out);
    text_problems(r, out);
    cv_text_add(
        out,
        "\n%u nodes, %s engine, election %u ms, heartbeat %u ms, handover by %s, %u writes/s "
        "offered to each node\n",
        o->nodes, o->engine, o->election_ms, o->heartbeat_ms,
        o->timeout_handover ? "timeout" : "notice", CV_RATE_PER_NODE);
    cv_text_add(out, "%s, %u cpus, Linux %s, %s, load %.2f; commit %s\n", m->cpu, m->cpus,
                m->kernel, m->fs, m->load1, r->commit);
    cv_text_add(
        out,
        "4 KiB durable write p50 %.0f p99 %.0f us (n=%zu); loopback round trip p50 %.0f p99 "
        "%.0f us (n=%zu)\n",
        cv_quantile(f, m->fsync_us.n, 0.5), cv_quantile(f, m->fsync_us.n, 0.99), m->fsync_us.n,
        cv_quantile(t, m->rtt_us.n, 0.5), cv_quantile(t, m->rtt_us.n, 0.99), m->rtt_us.n);
    cv_text_add(out, "replay: %s\n", o->command);
    free(f);
    free(t);
}
