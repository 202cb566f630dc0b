// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"
#include "base/mem.h"
#include "jobs/merge_job.h"
#include "jobs/score.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ranked {
    const char *name;
    struct score *scores; // [sets]
    size_t right;
};

static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->right != y->right)
        return x->right < y->right ? 1 : -1;
    return strcmp(x->name, y->name);
}

static int score_output(const struct merge_state *state, size_t o, const struct pair_list *sets,
                        struct ranked *out, struct error *err)
{
    const struct answer_options how = {.model = state->outs[o],
                                       .threads = state->options->threads,
                                       .max_new = 64,
                                       .capacity = 1024};
    struct answering answering;
    int rc = 0;
    if (answering_open(&how, &answering, err))
        return -1;
    for (size_t d = 0; rc == 0 && d < state->options->data.count; d++) {
        rc = score_pairs(&answering, &sets[d], 0, state->sweep.names[o], &out->scores[d], err);
        out->right += out->scores[d].right;
    }
    log_progress_end();
    answering_close(&answering);
    return rc;
}

static void print_scores(const struct merge_state *state, const struct ranked *ranked)
{
    const struct option_list *data = &state->options->data;
    int width = 6;
    for (size_t o = 0; o < state->sweep.count; o++)
        width = (int)strlen(ranked[o].name) > width ? (int)strlen(ranked[o].name) : width;
    printf("%-*s  %16s", width, "merged", "all");
    for (size_t d = 0; d < data->count; d++)
        printf("  %16s", data->items[d]);
    printf("\n");
    for (size_t o = 0; o < state->sweep.count; o++) {
        size_t asked = 0;
        for (size_t d = 0; d < data->count; d++)
            asked += ranked[o].scores[d].asked;
        printf("%-*s  %15.1f%%", width, ranked[o].name,
               100.0 * (double)ranked[o].right / (double)asked);
        for (size_t d = 0; d < data->count; d++) {
            const struct score *score = &ranked[o].scores[d];
            printf("  %15.1f%%", 100.0 * (double)score->right / (double)score->asked);
        }
        printf("\n");
    }
}

int merge_score_sweep(const struct merge_state *state, struct error *err)
{
    const struct option_list *data = &state->options->data;
    const size_t count = state->sweep.count;
    struct pair_list *sets = mem_calloc(data->count + 1, sizeof(*sets));
    struct ranked *ranked = mem_calloc(count, sizeof(*ranked));
    struct score *scores = mem_calloc(count * data->count + 1, sizeof(*scores));
    int rc = 0;
    for (size_t d = 0; rc == 0 && d < data->count; d++)
        rc = pair_list_open(fs_system(), &data->items[d], 1, (size_t)state->options->sample,
                            &sets[d], err);
    for (size_t o = 0; rc == 0 && o < count; o++) {
        ranked[o] = (struct ranked){state->sweep.names[o], scores + o * data->count, 0};
        rc = score_output(state, o, sets, &ranked[o], err);
    }
    if (rc == 0) {
        qsort(ranked, count, sizeof(*ranked), compare_ranked);
        print_scores(state, ranked);
    }
    for (size_t d = 0; d < data->count; d++)
        pair_list_close(&sets[d]);
    free(sets);
    free(ranked);
    free(scores);
    return rc;
}
