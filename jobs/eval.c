// SPDX-License-Identifier: Apache-2.0
// memo eval: closed-book exact match of models on sets of pairs.
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "datasets/pairs.h"
#include "jobs/score.h"
#include "jobs/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct eval_options {
    struct option_list models;
    struct option_list data;
    int64_t sample;
    int64_t max_new;
    int64_t capacity;
    const char *chat_template;
    bool json;
    int64_t misses;
    const char *backend;
    int64_t threads;
};

#define OPTION_AT(field) offsetof(struct eval_options, field)

static const struct option eval_option_table[] = {
    {"models", OPTION_LIST, OPTION_AT(models), "DIR...", NULL, 0, 0, NULL, "model directories",
     true},
    {"data", OPTION_LIST, OPTION_AT(data), "PATH...", NULL, 0, 0, NULL,
     "each a reflections directory or a .jsonl file of pairs; one column each", true},
    {"sample", OPTION_INT, OPTION_AT(sample), "N", "0", 0, INT32_MAX, NULL,
     "ask the N pairs with the smallest record ids, those that `memo train --sample N` trains on "
     "(0: all)",
     false},
    {"max-new-tokens", OPTION_INT, OPTION_AT(max_new), "N", "64", 1, 1 << 20, NULL,
     "longest answer", false},
    {"capacity", OPTION_INT, OPTION_AT(capacity), "N", "1024", 16, 1 << 22, NULL,
     "tokens of question and answer together", false},
    {"chat-template", OPTION_CHOICE, OPTION_AT(chat_template), "NAME", NULL, 0, 0,
     CHAT_TEMPLATE_CHOICES, "default: what the model's files say", false},
    {"json", OPTION_FLAG, OPTION_AT(json), NULL, NULL, 0, 0, NULL,
     "one JSON object per model and data set instead of the table", false},
    {"misses", OPTION_INT, OPTION_AT(misses), "N", "0", 0, INT32_MAX, NULL,
     "also show the first N wrong answers of each, on stderr", false},
    {"backend", OPTION_CHOICE, OPTION_AT(backend), "NAME", NULL, 0, 0, BACKEND_CHOICES,
     "default: the fastest that works here", false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "0", 0, 4096, NULL,
     "(0: as many as there are processors)", false},
    {0},
};

static int score_model(const struct eval_options *options, const char *model,
                       const struct pair_list *sets, struct score *scores, struct error *err)
{
    const struct answer_options how = {.model = model,
                                       .chat_template = options->chat_template,
                                       .backend = options->backend,
                                       .threads = options->threads,
                                       .max_new = (size_t)options->max_new,
                                       .capacity = (size_t)options->capacity};
    struct answering answering;
    if (answering_open(&how, &answering, err))
        return -1;
    int rc = 0;
    for (size_t d = 0; rc == 0 && d < options->data.count; d++) {
        char *label = mem_printf("%s on %s", model, options->data.items[d]);
        rc = score_pairs(&answering, &sets[d], options->misses, label, &scores[d], err);
        free(label);
    }
    log_progress_end();
    answering_close(&answering);
    return rc;
}

static void print_json(const char *model, const char *data, const struct score *score)
{
    struct strbuf line = {0};
    struct json_writer w = {.out = &line};
    json_begin_object(&w);
    json_key(&w, "model");
    json_text(&w, model);
    json_key(&w, "data");
    json_text(&w, data);
    json_key(&w, "pairs");
    json_int(&w, (int64_t)score->asked);
    json_key(&w, "exact");
    json_int(&w, (int64_t)score->right);
    json_key(&w, "f1");
    json_number(&w, score->f1);
    json_key(&w, "tokens");
    json_int(&w, (int64_t)score->tokens);
    json_key(&w, "seconds");
    json_number(&w, score->seconds);
    json_end_object(&w);
    printf("%s\n", line.bytes);
    strbuf_release(&line);
}

static int widest(const struct option_list *list, int at_least)
{
    int width = at_least;
    for (size_t i = 0; i < list->count; i++) {
        const int length = (int)strlen(list->items[i]);
        width = length > width ? length : width;
    }
    return width;
}

static void print_table(const struct eval_options *options, const struct score *scores)
{
    const int name = widest(&options->models, 5), column = widest(&options->data, 18);
    const size_t sets = options->data.count;
    printf("exact match, closed-book\n%-*s", name, "model");
    for (size_t d = 0; d < sets; d++)
        printf("  %*s", column, options->data.items[d]);
    printf("\n");
    for (size_t m = 0; m < options->models.count; m++) {
        printf("%-*s", name, options->models.items[m]);
        for (size_t d = 0; d < sets; d++) {
            const struct score *score = &scores[m * sets + d];
            char cell[64];
            snprintf(cell, sizeof(cell), "%.1f%% (%zu of %zu)",
                     100.0 * (double)score->right / (double)score->asked, score->right,
                     score->asked);
            printf("  %*s", column, cell);
        }
        printf("\n");
    }
}

static int load_sets(const struct eval_options *options, struct pair_list *sets, struct error *err)
{
    for (size_t d = 0; d < options->data.count; d++) {
        if (pair_list_open(fs_system(), &options->data.items[d], 1, (size_t)options->sample,
                           &sets[d], err))
            return -1;
    }
    return 0;
}

static int run_eval(const void *parsed, const struct option_list *positional, struct error *err)
{
    const struct eval_options *options = parsed;
    const size_t models = options->models.count, count = options->data.count;
    struct pair_list *sets = mem_calloc(count, sizeof(*sets));
    struct score *scores = mem_calloc(models * count, sizeof(*scores));
    (void)positional;
    int rc = load_sets(options, sets, err);
    for (size_t m = 0; rc == 0 && m < models; m++) {
        rc = score_model(options, options->models.items[m], sets, &scores[m * count], err);
        for (size_t d = 0; rc == 0 && options->json && d < count; d++)
            print_json(options->models.items[m], options->data.items[d], &scores[m * count + d]);
    }
    if (rc == 0 && !options->json)
        print_table(options, scores);
    for (size_t d = 0; d < count; d++)
        pair_list_close(&sets[d]);
    free(sets);
    free(scores);
    return rc ? EXIT_FAILED : EXIT_DONE;
}

const struct verb verb_eval = {
    .name = "eval",
    .summary = "score models closed-book on sets of pairs",
    .examples = "  memo eval --models models/base models/A --data reflections/A --sample 300\n",
    .options = eval_option_table,
    .options_bytes = sizeof(struct eval_options),
    .run = run_eval,
};
