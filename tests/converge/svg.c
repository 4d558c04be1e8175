/* SPDX-License-Identifier: Apache-2.0 */
/* Labels that do not overlap, and the two small pictures: heat map and phases. */
#include "svg.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define CHAR_WIDTH 6.6 /* of the 11 px font, wide digits included */
#define LABEL_GAP  8.0

double cv_label_width(const char *text)
{
    return CHAR_WIDTH * (double)strlen(text);
}

int cv_labels_place(struct cv_labels *l, double left, double right)
{
    int row = 0;
    for (size_t i = 0; i < l->n; i++) {
        bool clash = l->placed[i].row == row && left < l->placed[i].right + LABEL_GAP &&
                     right + LABEL_GAP > l->placed[i].left;
        if (clash) {
            row++;
            i = (size_t)-1; /* from the beginning, one row further down */
        }
    }
    if (l->n < sizeof l->placed / sizeof *l->placed) {
        l->placed[l->n].left = left;
        l->placed[l->n].right = right;
        l->placed[l->n++].row = row;
    }
    l->rows = row + 1 > l->rows ? row + 1 : l->rows;
    return row;
}

double cv_label_left(double x, double width, double limit)
{
    return x + 3 + width <= limit ? x + 3 : x - 3 - width;
}

double cv_round_step(double span, int parts)
{
    double step = pow(10, floor(log10(span)));
    static const double factors[] = {0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5};
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++) {
        if (span / (step * factors[i]) <= parts) {
            return step * factors[i];
        }
    }
    return span;
}

void cv_format_ms(char *buf, size_t cap, double ms)
{
    double size = fabs(ms);
    if (size < 0.0005) {
        snprintf(buf, cap, "0");
        return;
    }
    snprintf(buf, cap, "%.*f", size >= 100 ? 0 : size >= 1 ? 1 : size >= 0.1 ? 2 : 3, ms);
}

/* ---- heat map -------------------------------------------------------------------------------- */

#define CELL_W 190.0
#define CELL_H 46.0
#define HEAD_W 130.0
#define HEAD_H 26.0

static const struct cv_row *find_row(const struct cv_report *r, const struct cv_fault *f,
                                     int system, int role)
{
    for (size_t i = 0; i < r->n_rows; i++) {
        if (r->rows[i].fault == f && r->rows[i].system == system && r->rows[i].role == role) {
            return &r->rows[i];
        }
    }
    return NULL;
}

static void heat_cell(const struct cv_row *row, double x, double y, struct cv_text *out)
{
    const char *color = row == NULL             ? "none"
                        : row->unsafe != 0      ? "bad"
                        : row->unavailable != 0 ? "warn"
                                                : "good";
    cv_text_add(out, "<rect class='cell %s' x='%.1f' y='%.1f' width='%.1f' height='%.1f' rx='4'/>",
                color, x + 2, y + 2, CELL_W - 4, CELL_H - 4);
    if (row == NULL) {
        cv_text_add(out, "<text class='mid' x='%.1f' y='%.1f'>not run</text>\n", x + CELL_W / 2,
                    y + 27);
        return;
    }
    char p50[24];
    cv_format_ms(p50, sizeof p50, cv_summarise(&row->write_recovery).p50);
    cv_text_add(out, "<text class='mid strong' x='%.1f' y='%.1f'>%u/%zu correct</text>",
                x + CELL_W / 2, y + 20, row->correct, row->n_runs);
    if (row->unsafe != 0) {
        cv_text_add(out, "<text class='mid' x='%.1f' y='%.1f'>%u unsafe, %llu lost</text>\n",
                    x + CELL_W / 2, y + 36, row->unsafe, (unsigned long long)row->lost);
    } else if (row->write_recovery.n == 0) {
        cv_text_add(out, "<text class='mid' x='%.1f' y='%.1f'>writes never back</text>\n",
                    x + CELL_W / 2, y + 36);
    } else {
        cv_text_add(out, "<text class='mid' x='%.1f' y='%.1f'>writes back p50 %s ms</text>\n",
                    x + CELL_W / 2, y + 36, p50);
    }
}

void cv_svg_heat(const struct cv_report *r, struct cv_text *out)
{
    const struct cv_options *o = r->options;
    int systems = o->baseline_libraft ? 2 : 1;
    double width = HEAD_W + CELL_W * systems * (o->roles[0] + o->roles[1]);
    double height = HEAD_H + CELL_H * (double)o->n_faults;
    cv_text_add(out, "<svg viewBox='0 0 %.0f %.0f' style='max-width:%.0fpx' role='img'>\n", width,
                height, width);
    for (size_t f = 0; f < o->n_faults; f++) {
        double x = HEAD_W, y = HEAD_H + CELL_H * (double)f;
        cv_text_add(out, "<text class='end' x='%.1f' y='%.1f'>%s</text>\n", HEAD_W - 8, y + 27,
                    o->faults[f]->name);
        for (int role = CV_LEADER; role <= CV_FOLLOWER; role++) {
            for (int system = 0; system < systems && o->roles[role]; system++, x += CELL_W) {
                if (f == 0) {
                    cv_text_add(out, "<text class='mid dim' x='%.1f' y='%.1f'>%s, %s</text>\n",
                                x + CELL_W / 2, HEAD_H - 9, cv_system_name(system),
                                cv_role_name(role));
                }
                heat_cell(find_row(r, o->faults[f], system, role), x, y, out);
            }
        }
    }
    cv_text_add(out, "</svg>\n");
}

/* ---- phases ---------------------------------------------------------------------------------- */

struct phase
{
    const char *name, *color;
    double ms;
};

static double total(const struct phase *p, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        sum += isfinite(p[i].ms) && p[i].ms > 0 ? p[i].ms : 0;
    }
    return sum;
}

/* The words stand above the bar, so that a phase too short to see can still be read. */
static double phase_bar(const char *what, const struct phase *p, size_t n, double scale, double y,
                        struct cv_text *out)
{
    double x = 4;
    char ms[24];
    cv_text_add(out, "<text x='4' y='%.1f'><tspan class='strong'>%s</tspan>", y + 12, what);
    for (size_t i = 0; i < n; i++) {
        if (isfinite(p[i].ms)) {
            cv_format_ms(ms, sizeof ms, p[i].ms);
            cv_text_add(out,
                        "<tspan dx='12' class='%st'>&#9632;</tspan><tspan dx='3'>%s %s</tspan>",
                        p[i].color, p[i].name, ms);
        }
    }
    cv_format_ms(ms, sizeof ms, total(p, n));
    cv_text_add(out, "<tspan dx='12' class='dim'>sum of these medians %s ms</tspan></text>\n", ms);
    for (size_t i = 0; i < n; i++) {
        double w = isfinite(p[i].ms) && p[i].ms > 0 ? p[i].ms * scale : 0;
        if (w > 0) {
            cv_text_add(out, "<rect class='%s' x='%.2f' y='%.1f' width='%.2f' height='14'/>\n",
                        p[i].color, x, y + 18, w);
        }
        x += w;
    }
    return y + 44;
}

void cv_svg_phases(const struct cv_row *row, struct cv_text *out)
{
    double detect = cv_summarise(&row->detect).p50, contain = cv_summarise(&row->contain).p50;
    struct phase writes[] = {{"detect", "p0", detect},
                             {"contain", "p1", contain},
                             {"hand over", "p2", cv_summarise(&row->handover).p50},
                             {"first write", "p3", cv_summarise(&row->first_ack).p50}};
    struct phase victim[] = {{"detect", "p0", detect},
                             {"contain", "p1", contain},
                             {"verify log", "p4", cv_summarise(&row->verify).p50},
                             {"roll back", "p5", cv_summarise(&row->rollback).p50},
                             {"catch up", "p6", cv_summarise(&row->rejoin).p50}};
    double a = total(writes, 4), b = total(victim, 5), most = a > b ? a : b;
    double scale = most > 0 ? (CV_SVG_WIDTH - 8) / most : 0;
    bool show_writes = row->role == CV_LEADER && a > 0;
    cv_text_add(out, "<svg viewBox='0 0 %.0f %d' role='img'>\n", CV_SVG_WIDTH,
                44 * ((show_writes ? 1 : 0) + (b > 0 ? 1 : 0)));
    double y = show_writes ? phase_bar("writes:", writes, 4, scale, 0, out) : 0;
    if (b > 0) {
        phase_bar("victim:", victim, 5, scale, y, out);
    }
    cv_text_add(out, "</svg>\n");
}
