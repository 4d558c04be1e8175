/* SPDX-License-Identifier: Apache-2.0 */
/* report.html: one file, no script, nothing fetched. The first line of text says it all; then the
 * table, the distribution, the timelines, the map, the phases, and what the figures belong to. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "load.h"
#include "svg.h"

static const char style[] =
    ":root{color-scheme:light dark;--bg:#ffffff;--fg:#1c2026;--dim:#656d78;--line:#dde1e6;"
    "--good:#cfe9d6;--warn:#fbe3b3;--bad:#f6c1bd;--s0:#1f6fd0;--s1:#d1660f;--s2:#1f8a55;"
    "--s3:#a0398f;--s4:#0f8a94;--s5:#b5303a;--s6:#6b5bd0;--s7:#7a6a2f;--grey:#c9d1db}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171b;--fg:#e4e8ed;--dim:#98a2ae;"
    "--line:#2d333b;--good:#1d4a2f;--warn:#57431a;--bad:#632723;--s0:#6cb0ff;--s1:#ff9d4d;"
    "--s2:#5fd08f;--s3:#e58bd6;--s4:#4fd0da;--s5:#ff7b80;--s6:#aa9dff;--s7:#d0bd6a;"
    "--grey:#434c58}}\n"
    "body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,'DejaVu Sans',sans-serif;"
    "max-width:980px;margin:24px auto;padding:0 16px}\n"
    "h1{font-size:19px;line-height:1.4;margin:0 0 8px}h2{font-size:17px;margin:36px 0 4px}"
    "h3{font-size:14px;margin:22px 0 2px}p{margin:4px 0 10px}.note{color:var(--dim);"
    "font-size:13px}\n"
    "table{border-collapse:collapse;font-size:13px;width:100%}td,th{padding:4px 8px;"
    "border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}td:first-child,"
    "th:first-child{text-align:left;white-space:normal;min-width:13em}.wrap{overflow-x:auto}tr.ref{"
    "color:var(--"
    "dim)}"
    "td.bad{background:var(--bad)}td.good{background:var(--good)}td.warn{background:var(--warn)}\n"
    "svg{width:100%;height:auto;display:block;font:11px system-ui,'DejaVu Sans',sans-serif}"
    "text{fill:var(--fg)}.mid{text-anchor:middle}.end{text-anchor:end}.strong{font-weight:600}"
    "text.dim,tspan.dim{fill:var(--dim)}.grid{stroke:var(--line)}\n"
    ".curve{fill:none;stroke-width:2}.dashed{stroke-dasharray:6 4}.s0{stroke:var(--s0)}"
    ".s1{stroke:var(--s1)}.s2{stroke:var(--s2)}.s3{stroke:var(--s3)}.s4{stroke:var(--s4)}"
    ".s5{stroke:var(--s5)}.s6{stroke:var(--s6)}.s7{stroke:var(--s7)}\n"
    ".mark{stroke-width:1.4;stroke-dasharray:3 3}.m0{stroke:var(--s3)}.m1{stroke:var(--s5)}"
    ".m2{stroke:var(--dim)}.m3{stroke:var(--s5)}.m4{stroke:var(--s2)}.m5{stroke:var(--s0)}"
    ".m0t{fill:var(--s3)}.m1t{fill:var(--s5)}.m2t{fill:var(--dim)}.m3t{fill:var(--s5)}"
    ".m4t{fill:var(--s2)}.m5t{fill:var(--s0)}\n"
    ".cell.good{fill:var(--good)}.cell.warn{fill:var(--warn)}.cell.bad{fill:var(--bad)}"
    ".cell.none{fill:none;stroke:var(--line)}\n"
    ".p0,.p0t{fill:var(--s5)}.p1,.p1t{fill:var(--s1)}.p2,.p2t{fill:var(--s0)}.p3,.p3t{fill:var(--"
    "s2)}"
    ".p4,.p4t{fill:var(--s6)}.p5,.p5t{fill:var(--s3)}.p6,.p6t{fill:var(--s4)}\n"
    ".st-leader{fill:var(--s0)}.st-follower{fill:var(--grey)}.st-candidate{fill:var(--s1)}"
    ".st-contained{fill:var(--s5)}.st-down{fill:none;stroke:var(--dim);stroke-dasharray:2 2}"
    ".st-probation{fill:var(--s6)}.st-starting{fill:var(--s4)}.tick{stroke:var(--fg)}.ev{paint-"
    "order:stroke;stroke:var(--bg);"
    "stroke-width:3px;"
    "stroke-linejoin:round}.ack{stroke:var(--s2);fill:none}"
    "code{font-size:13px;overflow-wrap:anywhere}\n";

static void cell(struct cv_text *out, double ms)
{
    char text[24] = "-";
    if (isfinite(ms)) {
        cv_format_ms(text, sizeof text, ms);
    }
    cv_text_add(out, "<td>%s</td>", text);
}

static void table_row(const struct cv_row *row, struct cv_text *out)
{
    struct cv_summary w = cv_summarise(&row->write_recovery);
    struct cv_summary c = cv_summarise(&row->convergence);
    const char *color = row->unsafe != 0 ? "bad" : row->unavailable != 0 ? "warn" : "good";
    cv_text_add(out, "<tr><td>%s, %s/%s</td><td class='%s'>%u/%zu</td>",
                cv_system_name(row->system), cv_role_name(row->role), row->fault->name, color,
                row->correct, row->n_runs);
    cell(out, w.min);
    cell(out, w.p50);
    cell(out, w.p95);
    if (isfinite(w.p99)) {
        cell(out, w.p99);
    } else {
        cv_text_add(out, "<td>n&lt;1000</td>");
    }
    cell(out, w.max);
    cell(out, c.p50);
    cell(out, c.p95);
    cell(out, c.max);
    cell(out, cv_summarise(&row->longest_gap).max);
    if (row->role == CV_LEADER) {
        cv_text_add(out, "<td>%u/%zu</td>", row->fast, row->n_runs);
    } else {
        cv_text_add(out, "<td>-</td>"); /* nothing was handed over */
    }
    cv_text_add(out, "<td>%" PRIu64 "</td><td>%" PRIu64 "</td><td>%u</td></tr>\n", row->acked,
                row->lost, row->redone);
}

static void table(const struct cv_report *r, struct cv_text *out)
{
    cv_text_add(
        out,
        "<div class='wrap'><table><tr><th></th><th></th><th colspan='5'>write recovery, "
        "ms</th><th colspan='3'>convergence, ms</th><th>gap, "
        "ms</th><th></th><th></th><th></th><th></th>"
        "</tr>\n<tr><th>system, role/fault</th><th>correct</th><th>min</th><th>p50</th>"
        "<th>p95</th><th>p99</th><th>max</th><th>p50</th><th>p95</th><th>max</th><th>max</th>"
        "<th>fast</th><th>acked</th><th>lost</th><th>redone</th></tr>\n");
    for (size_t i = 0; i < r->n_rows; i++) {
        table_row(&r->rows[i], out);
    }
    static const char rest[] =
        "<td></td><td></td><td></td><td></td><td></td><td></td><td></td>"
        "<td></td><td></td><td></td>";
    cv_text_add(out,
                "<tr class='ref'><td>published, not measured here: etcd, out-of-bounds "
                "access</td><td></td><td></td><td>%.0f</td><td></td>%s</tr>\n",
                CV_PUBLISHED_ETCD_MS, rest);
    cv_text_add(out,
                "<tr class='ref'><td>published, not measured here: TiKV, double "
                "free</td><td></td><td></td><td>%.0f</td><td></td>%s</tr></table></div>\n",
                CV_PUBLISHED_TIKV_MS, rest);
    cv_text_add(out,
                "<p class='note'>Write recovery: from the fault to the first write that was sent "
                "after it and acknowledged, for leader faults in a newer term. Convergence: from "
                "the fault until all replicas hold one content digest at one index. Fast: the new "
                "leader stood for election because of a notice, and writes were back before any "
                "election timeout could end. Gap: the longest time without any acknowledged write "
                "from the fault to the end of the load. p99 is quoted from 1000 runs on.</p>\n");
}

static void problems(const struct cv_report *r, struct cv_text *out)
{
    bool any = false;
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct cv_row *row = &r->rows[i];
        for (size_t k = 0; k < row->n_runs; k++) {
            const struct cv_run *run = &row->runs[k];
            if (run->judgement.verdict == CV_CORRECT || !cv_row_lists(row, k)) {
                continue;
            }
            cv_text_add(out, any ? "" : "<h2>Runs that were not correct</h2><ul>\n");
            any = true;
            cv_text_add(out, "<li>run %u, %s %s/%s: <b>%s</b>", run->number,
                        cv_system_name(row->system), cv_role_name(row->role), row->fault->name,
                        cv_verdict_name(run->judgement.verdict));
            for (unsigned n = 0; n < run->judgement.n_reasons; n++) {
                cv_text_add(out, "<br>");
                cv_text_html(out, run->judgement.reasons[n]);
            }
            if (run->kept[0] != '\0') {
                cv_text_add(out, "<br>kept: <code>");
                cv_text_html(out, run->kept);
                cv_text_add(out, "</code>");
            }
            if (row->system != CV_RAFTGUARD && row->unavailable + row->unsafe > 1) {
                cv_text_add(out, "<br>and %u more of this baseline row, see run.json",
                            row->unavailable + row->unsafe - 1);
            }
            cv_text_add(out, "</li>\n");
        }
    }
    cv_text_add(out, any ? "</ul>\n" : "");
}

static void pictures(const struct cv_report *r, struct cv_text *out)
{
    cv_text_add(out, "<h2>How long until writes were back</h2>\n");
    cv_svg_cdf(r, out);
    cv_text_add(out, "<h2>The worst run of each fault</h2>\n");
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct cv_row *row = &r->rows[i];
        if (row->n_runs != 0) {
            cv_text_add(out, "<h3>%s, %s/%s, run %u</h3>\n", cv_system_name(row->system),
                        cv_role_name(row->role), row->fault->name, row->worst.number);
            cv_svg_lanes(r, row, out);
        }
    }
    cv_text_add(out, "<h2>Fault by role</h2>\n");
    cv_svg_heat(r, out);
    cv_text_add(out,
                "<h2>Phases</h2><p class='note'>Medians. Both bars of a pair have one scale; "
                "pairs have their own.</p>\n");
    for (size_t i = 0; i < r->n_rows; i++) {
        const struct cv_row *row = &r->rows[i];
        if (row->n_runs != 0) {
            cv_text_add(out, "<h3>%s, %s/%s</h3>\n", cv_system_name(row->system),
                        cv_role_name(row->role), row->fault->name);
            cv_svg_phases(row, out);
        }
    }
}

static void circumstances(const struct cv_report *r, struct cv_text *out)
{
    const struct cv_machine *m = r->machine;
    const struct cv_options *o = r->options;
    double *f = cv_sorted(&m->fsync_us);
    double *t = cv_sorted(&m->rtt_us);
    cv_text_add(out, "<h2>What the figures belong to</h2><p>");
    cv_text_html(out, m->cpu);
    cv_text_add(out, ", %u cpus, Linux ", m->cpus);
    cv_text_html(out, m->kernel);
    cv_text_add(out,
                ", %s, load %.2f; commit %s. 4 KiB durable write p50 %.0f p99 %.0f &micro;s, "
                "loopback round trip p50 %.0f p99 %.0f &micro;s. %u nodes, %s engine, election %u "
                "ms, heartbeat %u ms, handover by %s, %u writes/s offered to each node.</p>\n",
                m->fs, m->load1, r->commit, cv_quantile(f, m->fsync_us.n, 0.5),
                cv_quantile(f, m->fsync_us.n, 0.99), cv_quantile(t, m->rtt_us.n, 0.5),
                cv_quantile(t, m->rtt_us.n, 0.99), o->nodes, o->engine, o->election_ms,
                o->heartbeat_ms, o->timeout_handover ? "timeout" : "notice", CV_RATE_PER_NODE);
    cv_text_add(out, "<p>Replay: <code>");
    cv_text_html(out, o->command);
    cv_text_add(out, "</code></p>\n");
    free(f);
    free(t);
}

void cv_report_html(const struct cv_report *r, struct cv_text *out)
{
    struct cv_text head = {0};
    cv_report_headline(r, NULL, &head);
    cv_text_add(out,
                "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><meta "
                "name='viewport' content='width=device-width'><title>");
    cv_text_html(out, head.data);
    cv_text_add(out, "</title><style>\n%s</style></head><body>\n<h1>", style);
    cv_text_html(out, head.data);
    cv_text_add(out, "</h1>\n");
    cv_text_free(&head);
    table(r, out);
    problems(r, out);
    pictures(r, out);
    circumstances(r, out);
    cv_text_add(out, "</body></html>\n");
}
