// SPDX-License-Identifier: Apache-2.0
// The curves of a training run, from its metrics.jsonl: as text for a terminal and as SVG.
#ifndef MEMO_JOBS_CURVES_H
#define MEMO_JOBS_CURVES_H

#include "base/error.h"
#include "base/strbuf.h"

#include <stddef.h>

struct curve_point {
    double step, value;
};

struct curve {
    const char *name;
    struct curve_point *points; // ascending steps
    size_t count, capacity;
};

struct curves {
    struct curve loss, held_out_loss;
    struct curve held_out_exact, held_out_f1; // shares of 1
};

// Lines without a step or loss are passed over; of a step that several attempts did the last
// counts. A last line that was cut is passed over too: the run may be writing it.
int curves_parse(const char *text, size_t length, struct curves *out, struct error *err);
void curves_release(struct curves *curves);

// The loss over the steps, `columns` wide and `rows` high besides the axes; held-out losses are
// 'o'. Below it, where held-out questions were answered, the shares of exact answers 'e' and the F1
// 'f' of words in percent.
void curves_plot(const struct curves *curves, int columns, int rows, struct strbuf *out);

// A picture of 800 x 400 that needs nothing else; shares have an axis of their own at the right.
void curves_svg(const struct curves *curves, const char *title, struct strbuf *out);

// One curve as text, its values from 0 to a little above the highest; x_name says what its steps
// are.
void curve_plot(const struct curve *curve, const char *x_name, int columns, int rows,
                struct strbuf *out);

#endif
