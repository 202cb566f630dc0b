// SPDX-License-Identifier: Apache-2.0
// memo plan: what a run will cost before it starts, with everything that was assumed
// (jobs/cost_model.h). `memo generate --quote FILE` holds its forecast against what --out writes.
#include "jobs/plan.h"
#include "base/fs.h"
#include "jobs/verbs.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPTION_AT(field) offsetof(struct plan_options, field)

static const struct option plan_option_table[] = {
    {"corpus", OPTION_STRING, OPTION_AT(corpus), "FILE", NULL, 0, 0, NULL,
     "what memo ingest made: its chunks, tokens and groups", false},
    {"words", OPTION_NUMBER, OPTION_AT(words), "N", "0", 0, 1e15, NULL,
     "instead of a corpus: words of text", false},
    {"chunk-words", OPTION_NUMBER, OPTION_AT(chunk_words), "N", "3600", 10, 1e6, NULL,
     "with --words: new words of a chunk, its overlap not among them", false},
    {"case", OPTION_CHOICE, OPTION_AT(example), "NAME", NULL, 0, 0, "narrativeqa",
     "instead of a corpus: the paper's, beside what its authors say it cost", false},
    {"model", OPTION_STRING, OPTION_AT(model), "NAME", "qwen2.5-32b", 0, 0, NULL,
     "the generator: a model directory or a published shape (memo init --help lists them)", false},
    {"memory-model", OPTION_STRING, OPTION_AT(memory_model), "NAME", "qwen2.5-14b", 0, 0, NULL,
     "what is trained, likewise", false},
    {"hardware", OPTION_CHOICE, OPTION_AT(hardware), "NAME", "h200", 0, 0, "h200|h100|a100|cpu",
     "one GPU of it; cpu measures this machine, which takes a second", false},
    {"gpus", OPTION_NUMBER, OPTION_AT(gpus), "N", "8", 1, 1e6, NULL,
     "that work at once, for wall times and memory", false},
    {"steps", OPTION_STRING, OPTION_AT(steps), "LIST", "1a,1b,2,3,4,5", 0, 0, NULL,
     "of the generation", false},
    {"rate-in", OPTION_NUMBER, OPTION_AT(rate_in), "X", "0", 0, 1e9, NULL,
     "prompt tokens per second of one GPU, as measured (0: from the hardware)", false},
    {"rate-out", OPTION_NUMBER, OPTION_AT(rate_out), "X", "0", 0, 1e9, NULL,
     "output tokens per second of one GPU, likewise", false},
    {"measured", OPTION_STRING, OPTION_AT(measured), "DIR", NULL, 0, 0, NULL,
     "reflections of a small run with the same model on the same hardware: its GPU-hours and pairs, in "
     "proportion to the text, replace the arithmetic",
     false},
    {"assume", OPTION_LIST, OPTION_AT(assume), "NAME=X...", NULL, 0, 0, NULL,
     "other values of the assumptions that are listed", false},
    {"epochs", OPTION_NUMBER, OPTION_AT(epochs), "N", "3", 0.01, 1000, NULL, "of the training",
     false},
    {"zero", OPTION_INT, OPTION_AT(zero), "N", "1", 0, 2, NULL, "training: memo train --zero",
     false},
    {"moments", OPTION_CHOICE, OPTION_AT(moments), "NAME", "f32", 0, 0, "f32|bf16|8bit",
     "training: memo train --moments", false},
    {"grad-dtype", OPTION_CHOICE, OPTION_AT(grad_dtype), "NAME", "f32", 0, 0, "f32|bf16",
     "training: memo train --grad-dtype", false},
    {"micro-batch-tokens", OPTION_INT, OPTION_AT(micro_batch_tokens), "N", "8192", 1, 1 << 24, NULL,
     "training: likewise", false},
    {"keep", OPTION_INT, OPTION_AT(keep), "N", "2", 1, 100, NULL, "training: checkpoints kept",
     false},
    {"json", OPTION_FLAG, OPTION_AT(json), NULL, NULL, 0, 0, NULL,
     "the quote as JSON instead of text", false},
    {"out", OPTION_STRING, OPTION_AT(out), "FILE", NULL, 0, 0, NULL,
     "also write the JSON there, for memo generate --quote", false},
    {0},
};

static int set_assumption(const char *word, struct cost_assumptions *out, struct error *err)
{
    const char *equals = strchr(word, '=');
    for (size_t i = 0; equals && i < cost_assumption_count; i++) {
        const struct cost_assumption *row = &cost_assumption_rows[i];
        char *end;
        if (strlen(row->name) != (size_t)(equals - word) ||
            strncmp(row->name, word, strlen(row->name)) != 0)
            continue;
        const double value = strtod(equals + 1, &end);
        if (*end || end == equals + 1 || !isfinite(value) || value < 0)
            return error_set(err, "--assume '%s': not a number of at least 0", word);
        *cost_assumption_value(row, out) = value;
        return 0;
    }
    return error_set(err, "--assume '%s': no assumption of that name; memo plan lists them", word);
}

static int check_assumptions(const struct cost_assumptions *a, struct error *err)
{
    if (a->prefill_share <= 0 || a->decode_share <= 0 || a->busy <= 0 || a->mfu <= 0 ||
        a->group_chunks <= 0 || a->tokens_per_word <= 0)
        return error_set(err, "prefill_share, decode_share, busy, mfu, group_chunks and "
                              "tokens_per_word must be above 0");
    return 0;
}

static int give_quote(const struct quote *quote, struct error *err)
{
    struct strbuf json = {0};
    int rc = 0;
    quote_write_json(quote, &json);
    if (quote->options->json) {
        printf("%s", json.bytes);
    } else {
        quote_print(quote);
    }
    if (quote->options->out)
        rc = fs_write_text(fs_system(), quote->options->out, json.bytes, json.length, err);
    strbuf_release(&json);
    return rc;
}

static int check_source(const struct plan_options *options, struct error *err)
{
    const int named = (options->corpus != NULL) + (options->words > 0) + (options->example != NULL);
    return named == 1 ? 0 : error_set(err, "name one of --corpus, --words and --case");
}

static int run_plan(const void *parsed, const struct option_list *positional, struct error *err)
{
    struct quote quote = {.options = parsed};
    (void)positional;
    cost_assumptions_default(&quote.assume);
    for (size_t i = 0; i < quote.options->assume.count; i++) {
        if (set_assumption(quote.options->assume.items[i], &quote.assume, err))
            return EXIT_USAGE;
    }
    if (check_assumptions(&quote.assume, err) || check_source(quote.options, err))
        return EXIT_USAGE;
    return quote_make(&quote, err) || give_quote(&quote, err) ? EXIT_FAILED : EXIT_DONE;
}

const struct verb verb_plan = {
    .name = "plan",
    .summary = "quote a run before it starts: tokens, GPU-hours, memory, disk",
    .examples =
        "  memo plan --case narrativeqa --gpus 8\n"
        "  memo plan --corpus corpus.h5 --model models/qwen --hardware h100 --gpus 64 --out "
        "quote.json\n"
        "  memo generate --corpus corpus.h5 --out reflections/ --quote quote.json\n"
        "  memo plan --corpus corpus.h5 --measured reflections-of-ten-books/ --gpus 64\n",
    .options = plan_option_table,
    .options_bytes = sizeof(struct plan_options),
    .run = run_plan,
};
