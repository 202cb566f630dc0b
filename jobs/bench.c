// SPDX-License-Identifier: Apache-2.0
// memo bench: what this machine can do, measured in the same run as what memo does on it. Rates on
// shared machines move from minute to minute; shares of a limit measured beside them can be
// compared.
#include "kernels/bench.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/random.h"
#include "jobs/verbs.h"
#include "worker/engine/engine.h"
#include "worker/train/trainer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Lengths of question-answer pairs made by the cloze generator, in tokens of a small vocabulary.
#define PAIR_MIN_TOKENS 30
#define PAIR_MAX_TOKENS 80
#define PAIR_TARGETS 5
#define PROMPT_TOKENS 48
#define ANSWER_TOKENS 16

struct bench_options {
    const char *shape;
    int64_t batch;
    int64_t micro_batch_tokens;
    double seconds;
    const char *backend;
    int64_t threads;
    bool json;
};

#define OPTION_AT(field) offsetof(struct bench_options, field)

static const struct option bench_option_table[] = {
    {"shape", OPTION_STRING, OPTION_AT(shape), "NAME", "tiny", 0, 0, NULL,
     "model shape, as in memo init; weights are random", false},
    {"batch", OPTION_INT, OPTION_AT(batch), "N", "64", 1, 1 << 20, NULL,
     "training: pairs per step; generation: requests at once", false},
    {"micro-batch-tokens", OPTION_INT, OPTION_AT(micro_batch_tokens), "N", "4096", 128, 1 << 24,
     NULL, "training: most tokens computed at once", false},
    {"seconds", OPTION_NUMBER, OPTION_AT(seconds), "S", "3", 0.1, 3600, NULL,
     "how long each measurement lasts, at least", false},
    {"backend", OPTION_CHOICE, OPTION_AT(backend), "NAME", NULL, 0, 0, BACKEND_CHOICES,
     "default: the fastest that works here", false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "0", 0, 4096, NULL,
     "(0: as many as there are processors)", false},
    {"json", OPTION_FLAG, OPTION_AT(json), NULL, NULL, 0, 0, NULL, "one JSON object per line",
     false},
    {0},
};

struct bench {
    const struct bench_options *options;
    struct device *device;
    struct model *model;
    struct bench_limits limits;
};

// One measurement: a rate, and its share of a limit when there is one.
static void report(const struct bench *bench, const char *what, double rate, const char *unit,
                   double share, const char *of)
{
    if (!bench->options->json) {
        printf("%-42s %10.1f %-9s", what, rate, unit);
        if (of)
            printf(" %5.1f%% of %s", 100 * share, of);
        printf("\n");
        fflush(stdout);
        return;
    }
    struct strbuf line = {0};
    struct json_writer w = {.out = &line};
    json_begin_object(&w);
    json_key(&w, "what");
    json_text(&w, what);
    json_key(&w, "rate");
    json_number(&w, rate);
    json_key(&w, "unit");
    json_text(&w, unit);
    if (of) {
        json_key(&w, "share");
        json_number(&w, share);
        json_key(&w, "of");
        json_text(&w, of);
    }
    json_end_object(&w);
    printf("%s\n", line.bytes);
    strbuf_release(&line);
}

static int measure_limits(struct bench *bench, struct error *err)
{
    if (bench_limits(bench->device, &bench->limits, err))
        return -1;
    report(bench, "limit: f32 multiply-add", bench->limits.flops / 1e9, "GFLOP/s", 0, NULL);
    report(bench, "limit: read", bench->limits.read_bytes / 1e9, "GB/s", 0, NULL);
    return 0;
}

static int measure_linear(struct bench *bench, const char *name, enum bench_pass pass, size_t rows,
                          size_t out_width, size_t in_width, struct error *err)
{
    const struct bench_linear shape = {.pass = pass,
                                       .weight = DTYPE_F32,
                                       .rows = rows,
                                       .out_width = out_width,
                                       .in_width = in_width};
    double rate;
    char what[64];
    if (bench_linear(bench->device, &shape, &rate, err))
        return -1;
    snprintf(what, sizeof(what), "%s %zu x %zu x %zu", name, rows, out_width, in_width);
    report(bench, what, rate / 1e9, "GFLOP/s", rate / bench->limits.flops, "multiply-add");
    return 0;
}

static int measure_linears(struct bench *bench, struct error *err)
{
    const struct model_config *config = &bench->model->config;
    const size_t rows = (size_t)bench->options->micro_batch_tokens;
    const size_t up = 2 * (size_t)config->ffn, width = (size_t)config->hidden;
    return measure_linear(bench, "linear forward", BENCH_FORWARD, rows, up, width, err) ||
                   measure_linear(bench, "linear backward input", BENCH_BACKWARD_INPUT, rows, up,
                                  width, err) ||
                   measure_linear(bench, "linear backward weight", BENCH_BACKWARD_WEIGHT, rows, up,
                                  width, err)
               ? -1
               : 0;
}

static void make_pairs(const struct model_config *config, size_t count, struct sequence_set *out)
{
    int32_t ids[PAIR_MAX_TOKENS];
    for (size_t s = 0; s < count; s++) {
        const size_t spread = PAIR_MAX_TOKENS - PAIR_MIN_TOKENS + 1;
        const size_t length = PAIR_MIN_TOKENS + random_u64(1, s, 0) % spread;
        for (size_t t = 0; t < length; t++)
            ids[t] = (int32_t)(random_u64(2, s, t) % (uint64_t)config->vocabulary);
        sequence_set_add(out, ids, length, length - PAIR_TARGETS, length, PAIR_MAX_TOKENS);
    }
}

// Parameters of the matrices inside the layers: each costs 2 FLOP per token forward, 4 backward.
static double layer_parameters(const struct layout *layout)
{
    double count = 0;
    for (size_t p = 0; p < layout->parameter_count; p++) {
        if (layout->parameters[p].layer >= 0 && layout->parameters[p].rank == 2)
            count += (double)layout->parameters[p].count;
    }
    return count;
}

// 6 FLOP per layer parameter and token, 6 per head parameter and target, and causal attention.
static double training_flops(const struct model *model, const struct step_stats *stats)
{
    const struct model_config *config = &model->config;
    const double mean_length = (double)stats->tokens / (double)stats->sequences;
    const double attention =
        6.0 * (double)config->layers * mean_length * (double)(config->heads * config->head_width);
    return (double)stats->tokens * (6 * layer_parameters(&model->layout) + attention) +
           (double)stats->target_tokens * 6 * (double)(config->vocabulary * config->hidden);
}

static int time_training(struct bench *bench, struct trainer *trainer, struct error *err)
{
    struct step_stats stats;
    double flops = 0, seconds = 0, tokens = 0;
    if (trainer_step(trainer, &stats, err)) // the first step warms up
        return -1;
    const double start = clock_seconds();
    while (seconds < bench->options->seconds && trainer->step < trainer->steps) {
        if (trainer_step(trainer, &stats, err))
            return -1;
        flops += training_flops(bench->model, &stats);
        tokens += (double)stats.tokens;
        seconds = clock_seconds() - start;
    }
    report(bench, "training step", tokens / seconds, "tokens/s",
           flops / seconds / bench->limits.flops, "multiply-add");
    return 0;
}

static int measure_training(struct bench *bench, struct error *err)
{
    const struct bench_options *options = bench->options;
    struct sequence_set set = {0};
    struct group *group = NULL;
    struct trainer *trainer = NULL;
    const struct trainer_options how = {
        .plan = {.seed = 1, .per_step = (size_t)options->batch, .epochs = 1 << 20},
        .schedule = {.peak = 1e-4},
        .micro_batch_tokens = (size_t)options->micro_batch_tokens,
        .beta1 = 0.9,
        .beta2 = 0.999,
        .epsilon = 1e-8,
        .clip_norm = 1};
    make_pairs(&bench->model->config, 4 * (size_t)options->batch, &set);
    const int rc = group_open_self(&group, err) ||
                           trainer_create(bench->model, group, &set, &how, &trainer, err) ||
                           time_training(bench, trainer, err)
                       ? -1
                       : 0;
    trainer_destroy(trainer);
    group_close(group);
    sequence_set_release(&set);
    return rc;
}

static void submit_requests(struct engine *engine, const struct model_config *config, size_t count)
{
    int32_t prompt[PROMPT_TOKENS];
    for (size_t r = 0; r < count; r++) {
        for (size_t t = 0; t < PROMPT_TOKENS; t++)
            prompt[t] = (int32_t)(random_u64(3, r, t) % (uint64_t)config->vocabulary);
        engine_submit(engine, &(struct engine_request){.id = r,
                                                       .prompt = prompt,
                                                       .prompt_count = PROMPT_TOKENS,
                                                       .max_new = ANSWER_TOKENS});
    }
}

static int time_generation(struct bench *bench, struct engine *engine, struct error *err)
{
    const double start = clock_seconds();
    double seconds = 0;
    while (seconds < bench->options->seconds) {
        enum engine_poll polled;
        struct engine_result result;
        submit_requests(engine, &bench->model->config, (size_t)bench->options->batch);
        while ((polled = engine_poll(engine, &result, err)) > ENGINE_IDLE)
            continue;
        if (polled == ENGINE_FAILED)
            return -1;
        seconds = clock_seconds() - start;
    }
    const struct engine_statistics done = engine_statistics(engine);
    char what[64];
    snprintf(what, sizeof(what), "generation, %zu requests at once", (size_t)bench->options->batch);
    report(bench, what, (double)(done.prompt_tokens + done.generated_tokens) / seconds, "tokens/s",
           0, NULL);
    return 0;
}

static int measure_generation(struct bench *bench, struct error *err)
{
    const struct engine_options how = {.slots = (size_t)bench->options->batch,
                                       .capacity = PROMPT_TOKENS + ANSWER_TOKENS,
                                       .max_tokens = 512 + (size_t)bench->options->batch};
    struct engine *engine = NULL;
    const int rc =
        engine_create(bench->model, &how, &engine, err) || time_generation(bench, engine, err) ? -1
                                                                                               : 0;
    engine_destroy(engine);
    return rc;
}

static int open_bench(struct bench *bench, struct error *err)
{
    const struct device_options device = {.backend = bench->options->backend,
                                          .threads = (int)bench->options->threads};
    struct model_config config;
    if (model_config_shape(bench->options->shape, &config, err) ||
        device_create(&device, &bench->device, err) ||
        model_create(bench->device, &config, DTYPE_F32, &bench->model, err) ||
        model_init_random(bench->model, 1, err))
        return -1;
    if (!bench->options->json) {
        char description[128];
        device_describe(bench->device, description, sizeof(description));
        printf("%s, %s, %.2f M parameters\n", description, bench->options->shape,
               (double)bench->model->layout.elements / 1e6);
    }
    return 0;
}

static int run_bench(const void *parsed, const struct option_list *positional, struct error *err)
{
    struct bench bench = {.options = parsed};
    (void)positional;
    const int rc = open_bench(&bench, err) || measure_limits(&bench, err) ||
                           measure_linears(&bench, err) || measure_training(&bench, err) ||
                           measure_generation(&bench, err)
                       ? -1
                       : 0;
    model_destroy(bench.model);
    device_destroy(bench.device);
    return rc ? EXIT_FAILED : EXIT_DONE;
}

const struct verb verb_bench = {
    .name = "bench",
    .summary = "measure this machine, and what memo reaches on it",
    .examples = "  memo bench\n"
                "  memo bench --threads 1 --seconds 10 --json\n",
    .options = bench_option_table,
    .options_bytes = sizeof(struct bench_options),
    .run = run_bench,
};
