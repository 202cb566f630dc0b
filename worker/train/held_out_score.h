// SPDX-License-Identifier: Apache-2.0
// How good the weights after a step are, by a figure that was measured on data held out.
#ifndef MEMO_WORKER_TRAIN_HELD_OUT_SCORE_H
#define MEMO_WORKER_TRAIN_HELD_OUT_SCORE_H

#include <stdbool.h>
#include <string.h>

struct held_out_score {
    char name[16]; // of the figure; "": none is measured. Scores of other names are not compared
    bool known;
    double value; // lower is better
};

static inline bool held_out_score_is_better(const struct held_out_score *a,
                                            const struct held_out_score *b)
{
    return a->known && strcmp(a->name, b->name) == 0 && (!b->known || a->value < b->value);
}

#endif
