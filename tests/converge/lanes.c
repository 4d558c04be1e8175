/* SPDX-License-Identifier: Apache-2.0 */
/* The timeline of one run: a lane per node with its state as a coloured bar and its events named
 * below, and a lane of the clients with a tick per acknowledged write.
 *
 *               fault|  |first write   |converged        labels in rows, so that none overlap
 *     node 1  =======####::::::::::::::========
 *                    detected 0.02 ms
 *                    contained 0.03 ms
 *     clients |||||||    |||||||||||||||||||||
 *             0        2        4        6  ms */
#include <math.h>
#include <raftguard/raftlog.h>
#include <stdio.h>
#include <string.h>

#include "svg.h"

#define LEFT       118.0
#define RIGHT      (CV_SVG_WIDTH - 10)
#define BAR        14.0
#define EDGE       (CV_SVG_WIDTH - 4)
#define MAX_EVENTS 48u

struct span
{
    uint64_t t0;
    double from, to; /* ms relative to t0 */
};

static double x_at(const struct span *s, double ms)
{
    double x = LEFT + (RIGHT - LEFT) * (ms - s->from) / (s->to - s->from);
    return x < LEFT ? LEFT : x > RIGHT ? RIGHT : x;
}

static double rel(const struct span *s, uint64_t ns)
{
    return ((double)ns - (double)s->t0) / 1e6;
}

static void add_label(struct cv_labels *labels, double x, double y, const char *color,
                      const char *text, struct cv_text *out)
{
    double w = cv_label_width(text), left = cv_label_left(x, w, EDGE);
    int row = cv_labels_place(labels, left, left + w);
    cv_text_add(out, "<text class='%s' x='%.1f' y='%.1f'>%s</text>\n", color, left,
                y + CV_LABEL_STEP * row, text);
}

/* ---- states ---------------------------------------------------------------------------------- */

/* What a node is after @r, NULL: as before. */
static const char *state_after(const struct rguard_trace_record *r, const char *before)
{
    bool recovering = strcmp(before, "contained") == 0 || strcmp(before, "probation") == 0;
    switch (r->event) {
        case RGUARD_TRACE_LADDER:
            return r->b == RGUARD_LADDER_PROBATION ? "probation" : NULL;
        case RGUARD_TRACE_CONTAINED:
            return "contained";
        case RGUARD_TRACE_DIED:
        case RGUARD_TRACE_STOP:
            return "down";
        case RGUARD_TRACE_START:
            return "starting";
        case RGUARD_TRACE_CANDIDATE:
            return "candidate";
        case RGUARD_TRACE_LEADER:
            return "leader";
        case RGUARD_TRACE_FOLLOWER:
            return recovering ? NULL : "follower";
        case RGUARD_TRACE_SERVING:
            return strcmp(before, "leader") == 0 ? NULL : "follower";
        default:
            return NULL;
    }
}

static void bar(const struct span *s, double from, double to, const char *state, double y,
                struct cv_text *out)
{
    double a = x_at(s, from), b = x_at(s, to);
    if (b > a) {
        cv_text_add(out,
                    "<rect class='st-%s' x='%.2f' y='%.1f' width='%.2f' height='%.0f'><title>%s "
                    "%.3f to %.3f ms</title></rect>\n",
                    state, a, y, b - a, BAR, state, from, to);
    }
}

static void draw_states(const struct cv_timeline *k, unsigned node, const struct span *s, double y,
                        struct cv_text *out)
{
    const char *state = node == k->leader0 ? "leader" : "follower";
    double from = s->from;
    double down = node == k->victim && k->down_ns != 0 ? rel(s, k->down_ns) : INFINITY;
    for (size_t i = 0; i <= k->ev[node - 1].n; i++) {
        bool end = i == k->ev[node - 1].n;
        double at = end ? s->to : rel(s, k->ev[node - 1].v[i].ns);
        if (at > down && down > from) {
            bar(s, from, down, state, y, out);
            from = down;
            state = "down";
            down = INFINITY;
        }
        if (end) {
            break;
        }
        const struct rguard_trace_record *r = &k->ev[node - 1].v[i];
        const char *next = at < s->from ? NULL : state_after(r, state);
        if (next != NULL && at <= s->to) {
            bar(s, from, at, state, y, out);
            from = at;
            state = next;
        }
    }
    bar(s, from, s->to, state, y, out);
}

/* ---- events ---------------------------------------------------------------------------------- */

static bool has_name(uint32_t event)
{
    return event != RGUARD_TRACE_LADDER && event != RGUARD_TRACE_STOP &&
           event != RGUARD_TRACE_APPLIED && event != RGUARD_TRACE_ACK;
}

static int draw_events(const struct cv_timeline *k, unsigned node, const struct span *s, double y,
                       struct cv_text *out)
{
    struct cv_labels labels = {.n = 0};
    unsigned drawn = 0;
    for (size_t i = 0; i < k->ev[node - 1].n && drawn < MAX_EVENTS; i++) {
        const struct rguard_trace_record *r = &k->ev[node - 1].v[i];
        double at = rel(s, r->ns);
        if (!has_name(r->event) || at < s->from || at > s->to) {
            continue;
        }
        char name[32], ms[24], text[80];
        snprintf(name, sizeof name, "%s", rguard_trace_event_name(r->event));
        for (char *p = name; *p != '\0'; p++) {
            *p = *p == '_' ? ' ' : *p;
        }
        cv_format_ms(ms, sizeof ms, at);
        snprintf(text, sizeof text, "%s %s", name, ms);
        double x = x_at(s, at);
        cv_text_add(out, "<line class='tick' x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f'/>\n", x, x,
                    y - 2, y + BAR + 3);
        add_label(&labels, x, y + BAR + 13, "ev", text, out);
        drawn++;
    }
    return labels.rows;
}

static void draw_acks(const struct cv_timeline *k, const struct span *s, double y,
                      struct cv_text *out)
{
    double last = -1;
    cv_text_add(out, "<path class='ack' d='");
    for (size_t i = 0; i < k->acks.n; i++) {
        double at = rel(s, k->acks.v[i].reply), x = x_at(s, at);
        if (at >= s->from && at <= s->to && fabs(x - last) >= 0.8) {
            cv_text_add(out, "M%.1f %.1fv%.0f", x, y, BAR);
            last = x;
        }
    }
    cv_text_add(out, "'/>\n");
}

/* ---- the picture ----------------------------------------------------------------------------- */

static struct span span_of(const struct cv_timeline *k)
{
    const struct cv_times *m = &k->times;
    struct span s = {.t0 = m->fault};
    uint64_t ends[] = {m->first_ack,   m->converged, m->serving,
                       m->rolled_back, m->leader,    m->restarted};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        double ms = ends[i] != 0 ? rel(&s, ends[i]) : 0;
        s.to = ms > s.to ? ms : s.to;
    }
    s.to = s.to > 0 ? s.to * 1.12 : 10;
    s.from = -s.to * 0.06;
    return s;
}

static void vertical(const struct span *s, uint64_t ns, const char *color, double top,
                     double bottom, struct cv_text *out)
{
    if (ns != 0) {
        double x = x_at(s, rel(s, ns));
        cv_text_add(out, "<line class='mark %s' x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f'/>\n", color,
                    x, x, top, bottom);
    }
}

static void head_label(struct cv_labels *labels, const struct span *s, uint64_t ns,
                       const char *color, const char *what, struct cv_text *out)
{
    if (ns != 0) {
        char ms[24], text[80];
        cv_format_ms(ms, sizeof ms, rel(s, ns));
        snprintf(text, sizeof text, ns == s->t0 ? "%s" : "%s %s ms", what, ms);
        add_label(labels, x_at(s, rel(s, ns)), 12, color, text, out);
    }
}

static void axis(const struct span *s, double y, struct cv_text *out)
{
    double step = cv_round_step(s->to - s->from, 10);
    for (double ms = ceil(s->from / step) * step; ms <= s->to; ms += step) {
        cv_text_add(out,
                    "<line class='grid' x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f'/><text class='mid "
                    "dim' x='%.1f' y='%.1f'>%g</text>\n",
                    x_at(s, ms), x_at(s, ms), y - 6, y, x_at(s, ms), y + 13,
                    fabs(ms) < step / 2 ? 0 : ms);
    }
    cv_text_add(out, "<text class='end dim' x='%.1f' y='%.1f'>ms from the fault</text>\n", LEFT - 8,
                y + 13);
}

static void state_legend(double y, struct cv_text *out)
{
    static const char *const states[] = {"leader",    "follower", "candidate", "contained",
                                         "probation", "down",     "starting"};
    double x = LEFT;
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        cv_text_add(out,
                    "<rect class='st-%s' x='%.1f' y='%.1f' width='14' height='10'/><text x='%.1f' "
                    "y='%.1f'>%s</text>\n",
                    states[i], x, y - 9, x + 19, y, states[i]);
        x += 19 + cv_label_width(states[i]) + 18;
    }
}

/* The lanes are laid out first, because the height of each depends on how many rows its labels
 * need; the vertical lines are drawn under them last. */
void cv_svg_lanes(const struct cv_report *r, const struct cv_row *row, struct cv_text *out)
{
    const struct cv_timeline *k = &row->worst;
    if (k->times.fault == 0) {
        return;
    }
    struct span s = span_of(k);
    struct cv_text body = {0};
    struct cv_labels head = {.n = 0};
    double election = r->options->election_ms;
    head_label(&head, &s, s.t0, "m3t", row->fault->name, &body);
    head_label(&head, &s, k->times.first_ack, "m4t", "first write", &body);
    head_label(&head, &s, k->times.converged, "m5t", "converged", &body);
    uint64_t timeout = election < s.to ? s.t0 + (uint64_t)(election * 1e6) : 0;
    head_label(&head, &s, timeout, "m2t", "election timeout", &body);
    double top = CV_LABEL_STEP * head.rows + 6, y = top + 6;
    for (unsigned n = 1; n <= k->nodes; n++) {
        cv_text_add(&body, "<text class='end' x='%.1f' y='%.1f'>node %u%s</text>\n", LEFT - 8,
                    y + 11, n,
                    n == k->victim         ? ", hit"
                    : n == k->times.winner ? ", new leader"
                                           : "");
        draw_states(k, n, &s, y, &body);
        int rows = draw_events(k, n, &s, y, &body);
        y += BAR + 10 + CV_LABEL_STEP * rows + 4;
    }
    cv_text_add(&body, "<text class='end' x='%.1f' y='%.1f'>writes acked</text>\n", LEFT - 8,
                y + 11);
    draw_acks(k, &s, y, &body);
    y += BAR + 8;
    axis(&s, y, &body);
    state_legend(y + 36, &body);
    cv_text_add(out, "<svg viewBox='0 0 %.0f %.0f' role='img'>\n", CV_SVG_WIDTH, y + 44);
    vertical(&s, s.t0, "m3", top - 4, y, out);
    vertical(&s, k->times.first_ack, "m4", top - 4, y, out);
    vertical(&s, k->times.converged, "m5", top - 4, y, out);
    vertical(&s, timeout, "m2", top - 4, y, out);
    cv_text_add(out, "%s</svg>\n", body.data);
    cv_text_free(&body);
}
