// SPDX-License-Identifier: Apache-2.0
// memo bench: what this machine can do, measured in the same run as what memo does on it. Rates on
// shared machines move from minute to minute; shares of a limit measured beside them can be
// compared.
#include "jobs/bench.h"
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
#define USUAL_BATCH 64
#define BATCH_LIMIT (1 << 20)

#define OPTION_AT(field) offsetof(struct bench_options, field)

static const struct option bench_option_table[] = {
    {"shape", OPTION_STRING, OPTION_AT(shape), "NAME", NULL, 0, 0, NULL,
     "model shape, as in memo init (default tiny; model: qwen2.5-0.5b); weights are random", false},
    {"batch", OPTION_STRING, OPTION_AT(batch), "N[,N...]", NULL, 0, 0, NULL,
     "pairs per step, requests at once (default 64); model: sequences at once (1,4,8,16)", false},
    {"prompt", OPTION_INT, OPTION_AT(prompt), "N", "512", 1, 1 << 20, NULL,
     "model: tokens of a prompt", false},
    {"dtype", OPTION_CHOICE, OPTION_AT(dtype), "TYPE", "bf16", 0, 0, "f32|bf16",
     "model: type of the weights", false},
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
    if (bench->limits.dot_flops > 0)
        report(bench, "limit: bf16 dot product", bench->limits.dot_flops / 1e9, "GFLOP/s", 0, NULL);
    report(bench, "limit: read", bench->limits.read_bytes / 1e9, "GB/s", 0, NULL);
    return 0;
}

static int measure_linear(struct bench *bench, const char *name, struct bench_linear shape,
                          struct error *err)
{
    const bool dot = shape.weight == DTYPE_BF16 && bench->limits.dot_flops > 0;
    double rate;
    char what[64];
    if (bench_linear(bench->device, &shape, &rate, err))
        return -1;
    snprintf(what, sizeof(what), "%s %s %zu x %zu x %zu", dtype_name(shape.weight), name,
             shape.rows, shape.out_width, shape.in_width);
    report(bench, what, rate / 1e9, "GFLOP/s",
           rate / (dot ? bench->limits.dot_flops : bench->limits.flops),
           dot ? "dot product" : "multiply-add");
    return 0;
}

static int measure_linears(struct bench *bench, struct error *err)
{
    static const struct {
        const char *name;
        enum bench_pass pass;
    } passes[] = {{"forward", BENCH_FORWARD},
                  {"backward input", BENCH_BACKWARD_INPUT},
                  {"backward weight", BENCH_BACKWARD_WEIGHT}};
    const struct model_config *config = &bench->model->config;
    struct bench_linear shape = {.rows = (size_t)bench->options->micro_batch_tokens,
                                 .out_width = 2 * (size_t)config->ffn,
                                 .in_width = (size_t)config->hidden};
    for (shape.weight = DTYPE_F32; shape.weight <= DTYPE_BF16; shape.weight++)
        for (size_t i = 0; i < sizeof(passes) / sizeof(*passes); i++) {
            shape.pass = passes[i].pass;
            if (measure_linear(bench, passes[i].name, shape, err))
                return -1;
        }
    return 0;
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
        flops += trainer_flops(bench->model, &stats);
        tokens += (double)stats.tokens;
        seconds = clock_seconds() - start;
    }
    char what[64];
    snprintf(what, sizeof(what), "training step, %zu pairs", trainer->options.plan.per_step);
    report(bench, what, tokens / seconds, "tokens/s", flops / seconds / bench->limits.flops,
           "multiply-add");
    return 0;
}

static int measure_training(struct bench *bench, size_t batch, struct error *err)
{
    const struct bench_options *options = bench->options;
    struct sequence_set set = {0};
    struct group *group = NULL;
    struct trainer *trainer = NULL;
    const struct trainer_options how = {
        .plan = {.seed = 1, .per_step = batch, .epochs = 1 << 20},
        .schedule = {.peak = 1e-4},
        .micro_batch_tokens = (size_t)options->micro_batch_tokens,
        .optimizer = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8},
        .clip_norm = 1};
    make_pairs(&bench->model->config, 4 * batch, &set);
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

static int time_generation(struct bench *bench, struct engine *engine, size_t batch,
                           struct error *err)
{
    const double start = clock_seconds();
    double seconds = 0;
    while (seconds < bench->options->seconds) {
        enum engine_poll polled;
        struct engine_result result;
        submit_requests(engine, &bench->model->config, batch);
        while ((polled = engine_poll(engine, &result, err)) > ENGINE_IDLE)
            continue;
        if (polled == ENGINE_FAILED)
            return -1;
        seconds = clock_seconds() - start;
    }
    const struct engine_statistics done = engine_statistics(engine);
    char what[64];
    snprintf(what, sizeof(what), "generation, %zu requests at once", batch);
    report(bench, what, (double)(done.prompt_tokens + done.generated_tokens) / seconds, "tokens/s",
           0, NULL);
    return 0;
}

static int measure_generation(struct bench *bench, size_t batch, struct error *err)
{
    const struct engine_options how = {
        .slots = batch, .capacity = PROMPT_TOKENS + ANSWER_TOKENS, .max_tokens = 512 + batch};
    struct engine *engine = NULL;
    const int rc = engine_create(bench->model, &how, &engine, err) ||
                           time_generation(bench, engine, batch, err)
                       ? -1
                       : 0;
    engine_destroy(engine);
    return rc;
}

static int for_each_batch(struct bench *bench,
                          int (*measurement)(struct bench *, size_t batch, struct error *),
                          struct error *err)
{
    if (bench->batch_count == 0)
        return measurement(bench, USUAL_BATCH, err);
    for (size_t i = 0; i < bench->batch_count; i++)
        if (measurement(bench, bench->batches[i], err))
            return -1;
    return 0;
}

static int measure_trainings(struct bench *bench, struct error *err)
{
    return for_each_batch(bench, measure_training, err);
}

static int measure_generations(struct bench *bench, struct error *err)
{
    return for_each_batch(bench, measure_generation, err);
}

// What positional words choose; without any, all that fits everywhere.
static const struct part {
    const char *name;
    int (*run)(struct bench *bench, struct error *err);
    bool usual;
} parts[] = {
    {"limits", NULL, true}, // measured in any case: the others are shares of them
    {"linear", measure_linears, true},
    {"train", measure_trainings, true},
    {"generate", measure_generations, true},
    {"model", bench_model, false},
};

enum { PART_COUNT = sizeof parts / sizeof *parts };

static int choose_parts(const struct option_list *words, bool chosen[PART_COUNT], struct error *err)
{
    for (size_t p = 0; p < PART_COUNT; p++)
        chosen[p] = words->count == 0 && parts[p].usual;
    for (size_t i = 0; i < words->count; i++) {
        size_t p = 0;
        while (p < PART_COUNT && strcmp(words->items[i], parts[p].name) != 0)
            p++;
        if (p == PART_COUNT)
            return error_set(err, "cannot measure '%s': limits, linear, train, generate or model",
                             words->items[i]);
        chosen[p] = true;
    }
    return 0;
}

// "1,4,8"
static int parse_batches(const char *text, struct bench *bench, struct error *err)
{
    const char *at = text;
    while (at) {
        char *end;
        const long batch = strtol(at, &end, 10);
        if (end == at || (*end != ',' && *end != '\0') || batch < 1 || batch > BATCH_LIMIT)
            return error_set(err, "'--batch %s': numbers from 1 to %d with commas between them",
                             text, BATCH_LIMIT);
        if (bench->batch_count == BENCH_BATCHES_LIMIT)
            return error_set(err, "'--batch %s': at most %d numbers", text, BENCH_BATCHES_LIMIT);
        bench->batches[bench->batch_count++] = (size_t)batch;
        at = *end ? end + 1 : NULL;
    }
    return 0;
}

static int open_device(struct bench *bench, struct error *err)
{
    const struct device_options device = {.backend = bench->options->backend,
                                          .threads = (int)bench->options->threads};
    if (device_create(&device, &bench->device, err))
        return -1;
    if (!bench->options->json) {
        char description[128];
        device_describe(bench->device, description, sizeof(description));
        printf("%s\n", description);
    }
    return 0;
}

static int open_model(struct bench *bench, struct error *err)
{
    const char *shape = bench->options->shape ? bench->options->shape : "tiny";
    struct model_config config;
    if (model_config_shape(shape, &config, err) ||
        model_create(bench->device, &config, DTYPE_F32, &bench->model, err) ||
        model_init_random(bench->model, 1, err))
        return -1;
    if (!bench->options->json)
        printf("%s, %.2f M parameters\n", shape, (double)bench->model->layout.elements / 1e6);
    return 0;
}

static int run_parts(struct bench *bench, const bool chosen[PART_COUNT], struct error *err)
{
    if (open_device(bench, err) || measure_limits(bench, err))
        return -1;
    for (size_t p = 0; p < PART_COUNT; p++) {
        if (!chosen[p] || !parts[p].run)
            continue;
        if (parts[p].run != bench_model && !bench->model && open_model(bench, err))
            return -1;
        if (parts[p].run(bench, err))
            return -1;
    }
    return 0;
}

static int run_bench(const void *parsed, const struct option_list *positional, struct error *err)
{
    struct bench bench = {.options = parsed};
    bool chosen[PART_COUNT];
    if (choose_parts(positional, chosen, err) ||
        (bench.options->batch && parse_batches(bench.options->batch, &bench, err)))
        return EXIT_USAGE;
    const int rc = run_parts(&bench, chosen, err);
    model_destroy(bench.model);
    device_destroy(bench.device);
    return rc ? EXIT_FAILED : EXIT_DONE;
}

const struct verb verb_bench = {
    .name = "bench",
    .summary = "measure this machine, and what memo reaches on it",
    .positional = "[limits|linear|train|generate|model]...",
    .examples = "  memo bench\n"
                "  memo bench --threads 1 --seconds 10 --json\n"
                "  memo bench model --shape qwen2.5-0.5b --batch 1,16 --prompt 512\n",
    .options = bench_option_table,
    .options_bytes = sizeof(struct bench_options),
    .run = run_bench,
};
