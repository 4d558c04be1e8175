/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CV_SVG_H
#define CV_SVG_H

#include "converge.h"

/* What the pictures share: a place for every label such that no two overlap, axes with round
 * numbers, and the drawings themselves. Colours are CSS classes of html.c, so that one set of rules
 * serves light and dark. */

#define CV_SVG_WIDTH  940.0
#define CV_LABEL_STEP 14.0 /* distance between two rows of labels */

/* Rows of labels that fill up from the first one. */
struct cv_labels
{
    struct
    {
        double left, right;
        int row;
    } placed[160];
    size_t n;
    int rows; /* rows in use */
};

/* Width of @text in the labels' font, on the safe side. */
double cv_label_width(const char *text);

/* The row in which a label from @left to @right overlaps nothing. */
int cv_labels_place(struct cv_labels *l, double left, double right);

/* Where the label of a mark at @x begins: right of it, or left of it near the edge @limit. */
double cv_label_left(double x, double width, double limit);

/* 1, 2 or 5 times a power of ten: the step that cuts @span into at most @parts. */
double cv_round_step(double span, int parts);

/* "0.04", "3.1", "127": enough digits for the size. */
void cv_format_ms(char *buf, size_t cap, double ms);

/* The pictures, each a complete <svg>. */
void cv_svg_cdf(const struct cv_report *r, struct cv_text *out);
void cv_svg_lanes(const struct cv_report *r, const struct cv_row *row, struct cv_text *out);
void cv_svg_heat(const struct cv_report *r, struct cv_text *out);
void cv_svg_phases(const struct cv_row *row, struct cv_text *out);

#endif
