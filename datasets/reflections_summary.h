// SPDX-License-Identifier: Apache-2.0
// A set of reflections in numbers: what each step made, dropped and cost.
#ifndef MEMO_DATASETS_REFLECTIONS_SUMMARY_H
#define MEMO_DATASETS_REFLECTIONS_SUMMARY_H

#include "datasets/reflections.h"

struct step_summary {
    uint64_t pairs; // kept
    uint64_t dropped;
    uint64_t requests;
    uint64_t prompt_tokens;
    uint64_t cached_tokens;
    uint64_t output_tokens;
};

struct drop_summary {
    enum reflection_step step;
    const char *reason; // the set's
    uint64_t pairs;
};

struct aside_summary {
    const char *reason; // the set's
    uint64_t tasks;
};

// Least, 5%, median, 95% and most of some lengths; zero when there are none.
#define SUMMARY_QUANTILES 5
extern const char *const summary_quantile_names[SUMMARY_QUANTILES];
struct length_summary {
    size_t quantiles[SUMMARY_QUANTILES];
};

struct reflections_summary {
    size_t outcomes[TASK_SET_ASIDE + 1];
    struct step_summary steps[REFLECTION_STEPS];
    struct step_summary all;
    double seconds;             // of work
    struct drop_summary *drops; // by step, then the most frequent reason first
    size_t drop_count;
    struct aside_summary *asides; // the most frequent reason first
    size_t aside_count;
    struct length_summary question_bytes;
    struct length_summary answer_bytes;
    struct length_summary task_pairs;
};

// The set outlives the summary. Release *out.
void reflections_summarize(const struct reflection_set *set, struct reflections_summary *out);
void reflections_summary_release(struct reflections_summary *summary);

#endif
