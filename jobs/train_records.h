// SPDX-License-Identifier: Apache-2.0
// What a training run leaves for people and other programs: a line of figures per step, and the
// card of the model.
#ifndef MEMO_JOBS_TRAIN_RECORDS_H
#define MEMO_JOBS_TRAIN_RECORDS_H

#include "base/strbuf.h"
#include "jobs/closed_book.h"
#include "jobs/train_plan.h"

// What is measured on the sequences that are held out.
struct held_out_figures {
    double loss;
    struct closed_book_score answers; // none asked: there is no such figure
};

// One line of metrics.jsonl, appended to *line.
struct step_record {
    const struct step_stats *stats;
    double seconds;
    double flops;              // of the step
    double peak_flops;         // 0: unknown
    double checkpoint_seconds; // that the checkpoint before this step held the run up
    struct digest consumed;    // of the trainer after this step: which sequences it trained on
    const struct held_out_figures *held_out; // NULL: not measured after this step
};
void train_record_write(const struct step_record *record, struct strbuf *line);

struct model_card {
    const char *base;
    const char *const *data;
    size_t data_count;
    size_t pairs, sequences, too_long;
    const char *objective;
    struct digest data_digest;
    const struct trainer *trainer;
    double first_loss, last_loss;
    const struct held_out_figures *held_out; // of the weights that the model has; NULL: none
    const char *options;                     // JSON
    size_t best_step; // whose weights the model has; the last one when it has those
    const char *best_by;
};
// README.md of the model directory, which is created.
int model_card_write(const struct model_card *card, struct fs *fs, const char *directory,
                     struct error *err);

#endif
