// SPDX-License-Identifier: Apache-2.0
#include "base/arena.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "datasets/corpus.h"
#include "jobs/cost_sources.h"
#include "jobs/plan.h"
#include "worker/reflect/reflect.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int read_text(struct quote *quote, struct error *err)
{
    const struct plan_options *options = quote->options;
    struct corpus *corpus = NULL;
    if (!options->corpus) {
        const double words = options->example ? CASE_WORDS : options->words;
        const double chunks = ceil(words / options->chunk_words);
        const double shown = options->example ? chunks * 4000 : words; // with the overlap
        quote->text = (struct cost_text){.words = words,
                                         .tokens = shown * quote->assume.tokens_per_word,
                                         .chunks = chunks,
                                         .groups = -1};
        return 0;
    }
    if (corpus_open(options->corpus, &corpus, err))
        return -1;
    quote->text = (struct cost_text){.chunks = (double)corpus->chunk_count,
                                     .groups = (double)corpus->group_count};
    for (size_t c = 0; c < corpus->chunk_count; c++)
        quote->text.tokens += corpus->chunks[c].tokens;
    corpus_close(corpus);
    return quote->text.tokens > 0 ? 0 : error_set(err, "'%s' has no text", options->corpus);
}

// Scales what a small run took to this text.
static int use_measured(struct quote *quote, struct error *err)
{
    struct strbuf text = {0};
    struct arena arena = {0};
    const struct json *root;
    double tokens = 0, tasks = 0, done = 0, hours = 0, pairs = 0;
    char *path = mem_printf("%s/run/summary.json", quote->options->measured);
    int rc = fs_read(fs_system(), path, &text, err) ||
                     json_parse(&arena, text.bytes, text.length, &root, err) ||
                     json_get_number(root, "text_tokens", &tokens, err) ||
                     json_get_number(root, "tasks", &tasks, err) ||
                     json_get_number(root, "tasks_done", &done, err) ||
                     json_get_number(root, "gpu_hours", &hours, err) ||
                     json_get_number(root, "pairs", &pairs, err)
                 ? -1
                 : 0;
    if (rc == 0 && (tokens <= 0 || tasks <= 0 || done <= 0 || hours <= 0))
        rc = error_set(err, "it does not say text_tokens, tasks, tasks_done and gpu_hours of a run "
                            "that has done something");
    if (rc == 0) {
        const double times = quote->text.tokens / (tokens * done / tasks);
        quote->generation.gpu_hours = hours * times;
        quote->generation.all.pairs = pairs * times;
        quote->generation.disk_bytes = quote->generation.all.pairs * quote->assume.stored;
        quote->measured = true;
    }
    arena_release(&arena);
    strbuf_release(&text);
    if (rc != 0)
        rc = error_prefix(err, "'%s'", path);
    free(path);
    return rc;
}

int quote_make(struct quote *quote, struct error *err)
{
    const struct plan_options *options = quote->options;
    unsigned steps;
    if (reflect_steps_parse(options->steps, &steps, err) || read_text(quote, err) ||
        cost_model_read(options->model, &quote->generator, err) ||
        cost_model_read(options->memory_model, &quote->memory, err) ||
        cost_hardware_find(options->hardware, &quote->hardware, err) ||
        cost_generate(&quote->text, &quote->assume, &quote->generator, &quote->hardware, steps,
                      options->rate_in, options->rate_out, &quote->generation, err))
        return -1;
    if (options->measured && use_measured(quote, err))
        return -1;
    const struct cost_training_options training = {
        .pairs = quote->generation.all.pairs,
        .epochs = options->epochs,
        .gpus = options->gpus,
        .zero = (int)options->zero,
        .moment_bytes = strcmp(options->moments, "f32") == 0    ? 8
                        : strcmp(options->moments, "bf16") == 0 ? 4
                                                                : 2,
        .grad_bytes = strcmp(options->grad_dtype, "bf16") == 0 ? 2 : 4,
        .micro_tokens = (double)options->micro_batch_tokens,
        .checkpoints = (double)options->keep};
    cost_train(&training, &quote->assume, &quote->memory, &quote->hardware, &quote->training);
    return 0;
}
