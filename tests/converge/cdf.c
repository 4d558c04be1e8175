/* SPDX-License-Identifier: Apache-2.0 */
/* Cumulative distribution of write recovery, one curve per row, on a logarithmic axis.
 *
 *     labels of the reference lines, in rows above the plot
 *     +-----------------------------------+ 100 %
 *     |        ___/ :  : : |              |
 *     +-----------------------------------+ 0 %
 *       1 ms     10      100     1000
 *     legend, one line per curve */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "svg.h"

#define LEFT   52.0
#define RIGHT  (CV_SVG_WIDTH - 14)
#define PLOT_H 250.0

struct axis
{
    double low, high; /* log10 of ms */
    double top;       /* y of 100 % */
};

static double x_of(const struct axis *a, double ms)
{
    return LEFT + (RIGHT - LEFT) * (log10(ms) - a->low) / (a->high - a->low);
}

static double y_of(const struct axis *a, double share)
{
    return a->top + PLOT_H * (1 - share);
}

static void grid(const struct axis *a, struct cv_text *out)
{
    for (int i = 0; i <= 4; i++) {
        cv_text_add(out,
                    "<line class='grid' x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f'/><text class='end "
                    "dim' x='%.1f' y='%.1f'>%d%%</text>\n",
                    LEFT, RIGHT, y_of(a, i / 4.0), y_of(a, i / 4.0), LEFT - 6, y_of(a, i / 4.0) + 4,
                    i * 25);
    }
    static const int steps[] = {1, 2, 5};
    for (double decade = floor(a->low); decade <= a->high; decade++) {
        for (size_t k = 0; k < 3; k++) {
            double ms = steps[k] * pow(10, decade);
            if (log10(ms) < a->low - 1e-9 || log10(ms) > a->high + 1e-9) {
                continue;
            }
            cv_text_add(out,
                        "<line class='grid' x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f'/><text "
                        "class='mid dim' x='%.1f' y='%.1f'>%g</text>\n",
                        x_of(a, ms), x_of(a, ms), a->top, a->top + PLOT_H, x_of(a, ms),
                        a->top + PLOT_H + 16, ms);
        }
    }
    cv_text_add(out,
                "<text class='mid dim' x='%.1f' y='%.1f'>milliseconds from the fault to the "
                "first acknowledged write (log scale)</text>\n",
                (LEFT + RIGHT) / 2, a->top + PLOT_H + 34);
}

/* One colour per fault and role; the baseline has the same one, dashed. */
static size_t color_of(const struct cv_report *r, const struct cv_row *row)
{
    size_t f = 0;
    while (f < r->options->n_faults && r->options->faults[f] != row->fault) {
        f++;
    }
    static const size_t apart[8] = {0, 6, 2, 4, 1, 3, 5, 7}; /* first the hues that differ most */
    return apart[(2 * f + (size_t)row->role) % 8];
}

static void curve(const struct axis *a, const struct cv_row *row, size_t color, struct cv_text *out)
{
    double *v = cv_sorted(&row->write_recovery);
    size_t n = row->write_recovery.n;
    if (n == 0) {
        return;
    }
    cv_text_add(out, "<path class='curve s%zu%s' d='M%.2f %.2f", color,
                row->system == CV_LIBRAFT ? " dashed" : "", x_of(a, v[0]), y_of(a, 0));
    for (size_t i = 0; i < n; i++) {
        cv_text_add(out, "H%.2fV%.2f", x_of(a, v[i]), y_of(a, (double)(i + 1) / (double)n));
    }
    cv_text_add(out, "'/>\n");
    free(v);
}

struct mark
{
    double ms;
    const char *color;
    char text[64];
    int row;
    double left;
};

static void draw_mark(const struct axis *a, const struct mark *m, struct cv_text *out)
{
    double x = x_of(a, m->ms), y = 12 + CV_LABEL_STEP * m->row;
    cv_text_add(out,
                "<line class='mark %s' x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f'/><text class='ev "
                "%st' x='%.1f' y='%.1f'>%s</text>\n",
                m->color, x, x, y - 8, a->top + PLOT_H, m->color, m->left, y, m->text);
}

static void legend(const struct cv_report *r, double y, struct cv_text *out)
{
    for (size_t i = 0; i < r->n_rows; i++, y += 18) {
        const struct cv_row *row = &r->rows[i];
        struct cv_summary s = cv_summarise(&row->write_recovery);
        char p50[24], max[24];
        cv_format_ms(p50, sizeof p50, s.p50);
        cv_format_ms(max, sizeof max, s.max);
        cv_text_add(
            out,
            "<path class='curve s%zu%s' d='M%.1f %.1fh26'/><text x='%.1f' y='%.1f'>%s, %s/%s: ",
            color_of(r, row), row->system == CV_LIBRAFT ? " dashed" : "", LEFT, y, LEFT + 34, y + 4,
            cv_system_name(row->system), cv_role_name(row->role), row->fault->name);
        if (s.n == 0) {
            cv_text_add(out, "%s</text>\n",
                        row->role == CV_LEADER ? "no write in a newer term" : "no write came back");
        } else {
            cv_text_add(out, "p50 %s ms, max %s ms, n = %zu</text>\n", p50, max, s.n);
        }
    }
}

static void range(const struct cv_report *r, struct axis *a)
{
    double least = CV_PUBLISHED_TIKV_MS, most = CV_PUBLISHED_ETCD_MS;
    most = r->options->election_ms > most ? r->options->election_ms : most;
    least = r->options->election_ms < least ? r->options->election_ms : least;
    for (size_t i = 0; i < r->n_rows; i++) {
        struct cv_summary s = cv_summarise(&r->rows[i].write_recovery);
        least = s.n != 0 && s.min < least ? s.min : least;
        most = s.n != 0 && s.max > most ? s.max : most;
    }
    a->low = log10(least > 0.01 ? least * 0.8 : 0.01);
    a->high = log10(most * 1.6);
}

void cv_svg_cdf(const struct cv_report *r, struct cv_text *out)
{
    struct mark marks[3] = {{CV_PUBLISHED_TIKV_MS, "m0", "TiKV, published: 89 ms", 0, 0},
                            {CV_PUBLISHED_ETCD_MS, "m1", "etcd, published: 127 ms", 0, 0},
                            {r->options->election_ms, "m2", "", 0, 0}};
    snprintf(marks[2].text, sizeof marks[2].text, "election timeout: %u ms",
             r->options->election_ms);
    struct axis a;
    struct cv_labels labels = {.n = 0};
    range(r, &a);
    for (size_t i = 0; i < 3; i++) {
        double w = cv_label_width(marks[i].text);
        marks[i].left = cv_label_left(x_of(&a, marks[i].ms), w, RIGHT);
        marks[i].row = cv_labels_place(&labels, marks[i].left, marks[i].left + w);
    }
    a.top = CV_LABEL_STEP * labels.rows + 12;
    double below = a.top + PLOT_H + 58;
    cv_text_add(out, "<svg viewBox='0 0 %.0f %.0f' role='img'>\n", CV_SVG_WIDTH,
                below + 18 * (double)r->n_rows - 6);
    grid(&a, out);
    for (size_t i = 0; i < 3; i++) {
        draw_mark(&a, &marks[i], out);
    }
    for (size_t i = 0; i < r->n_rows; i++) {
        curve(&a, &r->rows[i], color_of(r, &r->rows[i]), out);
    }
    legend(r, below, out);
    cv_text_add(out, "</svg>\n");
}
