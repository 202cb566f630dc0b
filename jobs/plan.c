// SPDX-License-Identifier: Apache-2.0
// memo plan: what a run will cost before it starts, with everything that was assumed
// (jobs/cost_model.h). The quote that --out writes is JSON: format "memo quote 1", text,
// assumptions, generation, training; `memo generate --quote FILE` holds its forecast against it.
#include "base/arena.h"
#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "datasets/corpus.h"
#include "jobs/compute.h"
#include "jobs/cost_model.h"
#include "jobs/verbs.h"
#include "kernels/bench.h"
#include "worker/reflect/reflect.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// The paper's NarrativeQA (arXiv 2605.15156): books cut into chunks of 4,000 words that overlap by
// 400. How much text it took is assumed: the 355 stories of the test part, of 62,528 words on
// average (Kocisky et al. 2018, table 3). What the authors state of its cost is printed beside the
// quote.
#define CASE_WORDS (355 * 62528.0)
#define CASE_GENERATION_HOURS 240.0
#define CASE_TRAINING_HOURS 180.0

struct plan_options {
    const char *example;
    const char *corpus;
    double words;
    double chunk_words;
    const char *model;
    const char *memory_model;
    const char *hardware;
    const char *steps;
    double gpus;
    double rate_in, rate_out;
    const char *measured;
    struct option_list assume;
    double epochs;
    int64_t zero;
    const char *moments;
    int64_t micro_batch_tokens;
    int64_t keep;
    bool json;
    const char *out;
};

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

struct quote {
    const struct plan_options *options;
    struct cost_text text;
    struct cost_assumptions assume;
    struct cost_hardware hardware;
    struct cost_model generator, memory;
    struct cost_generation generation;
    struct cost_training training;
    bool measured;
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

static int read_model(const char *name, struct cost_model *out, struct error *err)
{
    struct model_config *config = mem_calloc(1, sizeof(*config));
    struct strbuf text = {0};
    char *path = fs_join(name, "config.json");
    int rc;
    if (fs_exists(fs_system(), path))
        rc = fs_read(fs_system(), path, &text, err) ||
                     model_config_parse(text.bytes, text.length, config, err)
                 ? error_prefix(err, "'%s'", path)
                 : 0;
    else
        rc = model_config_shape(name, config, err);
    if (rc == 0)
        cost_model_shape(config, out);
    free(path);
    strbuf_release(&text);
    free(config);
    return rc;
}

static int measure_cpu(struct cost_hardware *out, struct error *err)
{
    struct device *device;
    struct bench_limits limits;
    if (compute_device_open_alone(NULL, 0, &device, err))
        return -1;
    const int rc = bench_limits(device, &limits, err);
    device_destroy(device);
    if (rc == 0)
        *out = (struct cost_hardware){
            .name = "cpu",
            .memory_bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE),
            .flops = fmax(limits.flops, limits.dot_flops),
            .bandwidth = limits.read_bytes,
            .source = "measured just now, all processors of this machine"};
    return rc;
}

static int find_hardware(const char *name, struct cost_hardware *out, struct error *err)
{
    for (size_t i = 0; i < cost_hardware_count; i++) {
        if (strcmp(cost_hardware_rows[i].name, name) == 0) {
            *out = cost_hardware_rows[i];
            return 0;
        }
    }
    return measure_cpu(out, err);
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

static int make_quote(struct quote *quote, struct error *err)
{
    const struct plan_options *options = quote->options;
    unsigned steps;
    if (reflect_steps_parse(options->steps, &steps, err) || read_text(quote, err) ||
        read_model(options->model, &quote->generator, err) ||
        read_model(options->memory_model, &quote->memory, err) ||
        find_hardware(options->hardware, &quote->hardware, err) ||
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
        .micro_tokens = (double)options->micro_batch_tokens,
        .checkpoints = (double)options->keep};
    cost_train(&training, &quote->assume, &quote->memory, &quote->hardware, &quote->training);
    return 0;
}

static void print_count(double value)
{
    if (value >= 1e9)
        printf("  %8.2f G", value / 1e9);
    else if (value >= 1e6)
        printf("  %8.2f M", value / 1e6);
    else
        printf("  %8.0f  ", value);
}

static void print_step(const char *name, const struct cost_step *step)
{
    printf("  %-5s", name);
    print_count(step->requests);
    print_count(step->prompt_tokens);
    print_count(step->cached_tokens);
    print_count(step->output_tokens);
    print_count(step->pairs);
    printf("\n");
}

static void print_hours(const char *what, double gpu_hours, double gpus, double stated)
{
    char wall[32];
    clock_format_duration(gpu_hours / gpus * 3600, wall, sizeof(wall));
    printf("%s: %.4g GPU-hours, %s on %.0f at once", what, gpu_hours, wall, gpus);
    if (stated > 0)
        printf(" (the paper's authors state about %.0f)", stated);
    printf("\n");
}

static void print_generation(const struct quote *quote)
{
    const struct cost_generation *g = &quote->generation;
    const struct plan_options *options = quote->options;
    printf("text: %.0f chunks, %.4g M tokens\n", quote->text.chunks, quote->text.tokens / 1e6);
    printf("generation with %s on %s: %.0f tasks\n\n", options->model, quote->hardware.name,
           g->tasks);
    printf("  step   requests    prompt tokens  of it cached  output tokens  pairs\n");
    for (int s = STEP_DIRECT; s < REFLECTION_STEPS; s++) {
        if (g->steps[s].requests > 0)
            print_step(reflection_step_name((enum reflection_step)s), &g->steps[s]);
    }
    print_step("all", &g->all);
    printf("\n");
    if (quote->measured)
        printf("hours and pairs: those of '%s', in proportion to the text\n", options->measured);
    else
        printf("of one GPU: %.0f prompt tokens/s, %.0f output tokens/s%s\n", g->prefill_rate,
               g->decode_rate, options->rate_in > 0 && options->rate_out > 0 ? ", as given" : "");
    if (g->batch > 0)
        printf(
            "memory of one GPU: weights %.1f GB, and %.0f sequences of %.0f tokens at %.3g MB each\n",
            quote->generator.weight_bytes / 1e9, g->batch, g->context,
            g->context * quote->generator.kv_bytes / 1e6);
    print_hours("generation", g->gpu_hours, options->gpus,
                options->example ? CASE_GENERATION_HOURS : 0);
    printf("reflections: %.0f pairs, %.2f GB on disk\n", g->all.pairs, g->disk_bytes / 1e9);
}

static void print_training(const struct quote *quote)
{
    const struct cost_training *t = &quote->training;
    const struct plan_options *options = quote->options;
    const double needed = t->memory_bytes + t->activation_bytes;
    printf("\ntraining of %s (%.2f G parameters): %.3g epochs, %.4g M tokens, %.3g FLOP\n",
           options->memory_model, quote->memory.parameters / 1e9, options->epochs, t->tokens / 1e6,
           t->flops);
    printf("memory of one GPU: %.1f GB of states (--zero %d, --moments %s) and %.1f GB of "
           "activations%s\n",
           t->memory_bytes / 1e9, (int)options->zero, options->moments, t->activation_bytes / 1e9,
           needed > quote->hardware.memory_bytes
               ? ": DOES NOT FIT; more --gpus, --zero 2 or --moments 8bit need less"
               : "");
    print_hours("training", t->gpu_hours, options->gpus,
                options->example ? CASE_TRAINING_HOURS : 0);
    printf("checkpoints and model: %.1f GB on disk\n", t->disk_bytes / 1e9);
}

static void print_assumptions(const struct quote *quote)
{
    const struct cost_hardware *h = &quote->hardware;
    printf(
        "\nassumed (--assume NAME=X replaces; --measured and --rate-in, --rate-out are better):\n");
    printf("  %-16s %8s  %.0f TFLOP/s, %.2f TB/s, %.1f GB: %s\n", "hardware", h->name,
           h->flops / 1e12, h->bandwidth / 1e12, h->memory_bytes / 1e9, h->source);
    if (quote->options->example)
        printf(
            "  %-16s %8.4g  M words: 355 stories of 62,528 words, the test part of NarrativeQA\n",
            "text", quote->text.words / 1e6);
    struct cost_assumptions values = quote->assume;
    for (size_t i = 0; i < cost_assumption_count; i++)
        printf("  %-16s %8.4g  %s\n", cost_assumption_rows[i].name,
               *cost_assumption_value(&cost_assumption_rows[i], &values),
               cost_assumption_rows[i].meaning);
}

static void add_number(struct json_writer *w, const char *key, double value)
{
    json_key(w, key);
    json_number(w, value);
}

static void add_step(struct json_writer *w, const char *key, const struct cost_step *step)
{
    json_key(w, key);
    json_begin_object(w);
    add_number(w, "requests", step->requests);
    add_number(w, "prompt_tokens", step->prompt_tokens);
    add_number(w, "cached_tokens", step->cached_tokens);
    add_number(w, "output_tokens", step->output_tokens);
    add_number(w, "pairs", step->pairs);
    json_end_object(w);
}

static void add_generation(struct json_writer *w, const struct quote *quote)
{
    const struct cost_generation *g = &quote->generation;
    json_key(w, "generation");
    json_begin_object(w);
    json_key(w, "model");
    json_text(w, quote->options->model);
    add_number(w, "tasks", g->tasks);
    json_key(w, "steps");
    json_begin_object(w);
    for (int s = STEP_DIRECT; s < REFLECTION_STEPS; s++) {
        if (g->steps[s].requests > 0)
            add_step(w, reflection_step_name((enum reflection_step)s), &g->steps[s]);
    }
    json_end_object(w);
    add_step(w, "all", &g->all);
    add_number(w, "prompt_tokens_per_second", g->prefill_rate);
    add_number(w, "output_tokens_per_second", g->decode_rate);
    add_number(w, "weight_bytes", quote->generator.weight_bytes);
    add_number(w, "sequences", g->batch);
    add_number(w, "gpu_hours", g->gpu_hours);
    add_number(w, "wall_hours", g->gpu_hours / quote->options->gpus);
    add_number(w, "disk_bytes", g->disk_bytes);
    json_key(w, "measured");
    json_bool(w, quote->measured);
    json_end_object(w);
}

static void add_training(struct json_writer *w, const struct quote *quote)
{
    const struct cost_training *t = &quote->training;
    json_key(w, "training");
    json_begin_object(w);
    json_key(w, "model");
    json_text(w, quote->options->memory_model);
    add_number(w, "parameters", quote->memory.parameters);
    add_number(w, "pairs", t->pairs);
    add_number(w, "tokens", t->tokens);
    add_number(w, "flops", t->flops);
    add_number(w, "state_bytes", t->memory_bytes);
    add_number(w, "activation_bytes", t->activation_bytes);
    add_number(w, "gpu_hours", t->gpu_hours);
    add_number(w, "wall_hours", t->gpu_hours / quote->options->gpus);
    add_number(w, "disk_bytes", t->disk_bytes);
    json_end_object(w);
}

static void write_json(const struct quote *quote, struct strbuf *out)
{
    struct json_writer w = {.out = out};
    struct cost_assumptions values = quote->assume;
    json_begin_object(&w);
    json_key(&w, "format");
    json_text(&w, "memo quote 1");
    json_key(&w, "hardware");
    json_text(&w, quote->hardware.name);
    add_number(&w, "gpus", quote->options->gpus);
    json_key(&w, "text");
    json_begin_object(&w);
    add_number(&w, "chunks", quote->text.chunks);
    add_number(&w, "tokens", quote->text.tokens);
    json_end_object(&w);
    add_generation(&w, quote);
    add_training(&w, quote);
    json_key(&w, "assumptions");
    json_begin_object(&w);
    for (size_t i = 0; i < cost_assumption_count; i++)
        add_number(&w, cost_assumption_rows[i].name,
                   *cost_assumption_value(&cost_assumption_rows[i], &values));
    json_end_object(&w);
    json_end_object(&w);
    strbuf_addc(out, '\n');
}

static int give_quote(const struct quote *quote, struct error *err)
{
    struct strbuf json = {0};
    int rc = 0;
    write_json(quote, &json);
    if (quote->options->json) {
        printf("%s", json.bytes);
    } else {
        print_generation(quote);
        print_training(quote);
        print_assumptions(quote);
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
    return make_quote(&quote, err) || give_quote(&quote, err) ? EXIT_FAILED : EXIT_DONE;
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
