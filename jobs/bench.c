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
#include "kernels/kernels.h"
#include "worker/engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROMPT_TOKENS 48
#define ANSWER_TOKENS 16
#define USUAL_BATCH 64
#define BATCH_LIMIT (1 << 20)

#define OPTION_AT(field) offsetof(struct bench_options, field)

static const struct option bench_option_table[] = {
    {"shape", OPTION_STRING, OPTION_AT(shape), "NAME", NULL, 0, 0, NULL,
     "model shape, as in memo init (default tiny; model, train: qwen2.5-0.5b); weights are random",
     false},
    {"batch", OPTION_STRING, OPTION_AT(batch), "N[,N...]", NULL, 0, 0, NULL,
     "requests at once (default 64); model: sequences at once (1,4,8,16); kernels: those of cached "
     "attention (16), and the rows of the layers' products (1,2,4,8,16,32,64)",
     false},
    {"prompt", OPTION_INT, OPTION_AT(prompt), "N", "512", 1, 1 << 20, NULL,
     "model: tokens of a prompt; kernels: of a sequence", false},
    {"rows", OPTION_INT, OPTION_AT(rows), "N", "0", 0, 1 << 24, NULL,
     "kernels: tokens of those that only move memory (0: as --prompt)", false},
    {"dtype", OPTION_CHOICE, OPTION_AT(dtype), "TYPE", "bf16", 0, 0, "f32|bf16|fp8",
     "model, engine, training: type of the weights; fp8 (of products in layers): model, engine",
     false},
    {"tokenizer", OPTION_STRING, OPTION_AT(tokenizer), "DIR", NULL, 0, 0, NULL,
     "json, and training on --data: directory of a tokenizer", false},
    {"data", OPTION_LIST, OPTION_AT(data), "PATH...", NULL, 0, 0, NULL,
     "training: reflections directories or .jsonl files of pairs (default: made-up ones)", false},
    {"layers", OPTION_INT, OPTION_AT(layers), "N", "0", 0, MODEL_LAYERS_LIMIT, NULL,
     "training: of the shape (0: all; 6 when no shape is given)", false},
    {"step-tokens", OPTION_INT, OPTION_AT(step_tokens), "N", "8192", 128, 1 << 24, NULL,
     "training: tokens of a step on each rank, about", false},
    {"micro-batch-tokens", OPTION_INT, OPTION_AT(micro_batch_tokens), "N", "4096", 128, 1 << 24,
     NULL, "training: most tokens computed at once", false},
    {"ranks", OPTION_INT, OPTION_AT(ranks), "N", "1", 1, 64, NULL,
     "training: also by N ranks in shared memory, which divide the threads", false},
    {"checkpoint", OPTION_STRING, OPTION_AT(checkpoint), "DIR", NULL, 0, 0, NULL,
     "training: also write a checkpoint there behind the run (an empty directory)", false},
    {"zero", OPTION_INT, OPTION_AT(zero), "N", "0", 0, 2, NULL,
     "training: what ranks divide, as in memo train", false},
    {"moments", OPTION_CHOICE, OPTION_AT(moments), "TYPE", "f32", 0, 0, "f32|bf16|8bit",
     "training: of the optimizer, as in memo train", false},
    {"grad-dtype", OPTION_CHOICE, OPTION_AT(grad_dtype), "TYPE", "f32", 0, 0, "f32|bf16",
     "training: of gradients, as in memo train", false},
    {"checkpoint-activations", OPTION_FLAG, OPTION_AT(recompute), NULL, NULL, 0, 0, NULL,
     "training: keep layers' inputs only, as in memo train", false},
    {"documents", OPTION_INT, OPTION_AT(documents), "N", "4", 1, 1 << 16, NULL,
     "engine: documents that requests begin with", false},
    {"requests", OPTION_INT, OPTION_AT(requests), "N", "32", 1, 1 << 16, NULL,
     "engine: requests on each document, all at once", false},
    {"document-tokens", OPTION_INT, OPTION_AT(document_tokens), "N", "1500", 1, 1 << 20, NULL,
     "engine: tokens of a document", false},
    {"own-tokens", OPTION_INT, OPTION_AT(own_tokens), "N", "0", 0, 1 << 20, NULL,
     "engine: tokens of a request behind its document", false},
    {"answer-tokens", OPTION_INT, OPTION_AT(answer_tokens), "N", "64", 1, 1 << 20, NULL,
     "engine: tokens of an answer", false},
    {"seconds", OPTION_NUMBER, OPTION_AT(seconds), "S", "3", 0.1, 3600, NULL,
     "how long each measurement lasts, at least", false},
    {"backend", OPTION_CHOICE, OPTION_AT(backend), "NAME", NULL, 0, 0, BACKEND_CHOICES,
     "default: the fastest that works here", false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "0", 0, 4096, NULL,
     "(0: as many as there are processors)", false},
    {"batch-invariant", OPTION_FLAG, OPTION_AT(batch_invariant), NULL, NULL, 0, 0, NULL,
     "model, engine: as in memo generate", false},
    {"json", OPTION_FLAG, OPTION_AT(json), NULL, NULL, 0, 0, NULL, "one JSON object per line",
     false},
    {0},
};

void bench_report(const struct bench *bench, const char *what, double rate, const char *unit,
                  double share, const char *of)
{
    if (group_rank(bench->group) != 0)
        return;
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
    fflush(stdout);
    strbuf_release(&line);
}

void bench_report_figures(const char *what, const struct bench_figure *figures, size_t count)
{
    struct strbuf line = {0};
    struct json_writer w = {.out = &line};
    json_begin_object(&w);
    json_key(&w, "what");
    json_text(&w, what);
    for (size_t i = 0; i < count; i++) {
        json_key(&w, figures[i].name);
        json_number(&w, figures[i].value);
    }
    json_end_object(&w);
    printf("%s\n", line.bytes);
    fflush(stdout);
    strbuf_release(&line);
}

static int measure_limits(struct bench *bench, struct error *err)
{
    // One rank of mpirun's with all threads: the others wait.
    const int rc =
        group_rank(bench->group) == 0 ? bench_limits(bench->device, &bench->limits, err) : 0;
    if (group_agree(bench->group, rc, err) ||
        group_broadcast(bench->group, &bench->limits, sizeof(bench->limits), 0, err))
        return -1;
    const bool cpu = bench->device && strcmp(bench->device->ops->name, "cpu") == 0;
    bench_report(bench, cpu ? "limit: f32 multiply-add" : "limit: f32 product",
                 bench->limits.flops / 1e9, "GFLOP/s", 0, NULL);
    if (bench->limits.dot_flops > 0)
        bench_report(bench, cpu ? "limit: bf16 dot product" : "limit: bf16 product",
                     bench->limits.dot_flops / 1e9, "GFLOP/s", 0, NULL);
    bench_report(bench, cpu ? "limit: read" : "limit: copy, both sides",
                 bench->limits.read_bytes / 1e9, "GB/s", 0, NULL);
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
    bench_report(bench, what, rate / 1e9, "GFLOP/s",
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
    bench_report(bench, what, (double)(done.prompt_tokens + done.generated_tokens) / seconds,
                 "tokens/s", 0, NULL);
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

static int measure_generations(struct bench *bench, struct error *err)
{
    return for_each_batch(bench, measure_generation, err);
}

// What positional words choose; without any, all that fits everywhere.
static const struct part {
    const char *name;
    int (*run)(struct bench *bench, struct error *err);
    bool usual;
    bool small_model; // bench->model
} parts[] = {
    {"limits", NULL, true, false}, // measured in any case: the others are shares of them
    {"linear", measure_linears, true, true},
    {"train", bench_train, true, false},
    {"generate", measure_generations, true, true},
    {"model", bench_model, false, false},
    {"engine", bench_engine, false, false},
    {"kernels", bench_kernels, false, false},
    {"json", bench_json, false, false},
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
            return error_set(
                err,
                "cannot measure '%s': limits, linear, train, generate, model, engine, kernels or json",
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
    const struct device_options device = {
        .backend = bench->options->backend,
        .threads = (int)bench->options->threads,
        .products = bench->options->batch_invariant ? PRODUCTS_INVARIANT : PRODUCTS_FASTEST};
    return device_create(&device, &bench->device, err);
}

void bench_close_device(struct bench *bench)
{
    model_destroy(bench->model);
    device_destroy(bench->device);
    bench->model = NULL;
    bench->device = NULL;
}

static void describe_device(const struct bench *bench)
{
    char description[128];
    device_describe(bench->device, description, sizeof(description));
    if (!bench->options->json && group_rank(bench->group) == 0)
        printf("%s\n", description);
}

static int open_model(struct bench *bench, struct error *err)
{
    const char *shape = bench->options->shape ? bench->options->shape : "tiny";
    struct model_config config;
    if (model_config_shape(shape, &config, err) ||
        model_create(bench->device, &config, DTYPE_F32, &bench->model, err))
        return -1;
    bench_fill_weights(bench->model);
    if (!bench->options->json)
        printf("%s, %.2f M parameters\n", shape, (double)bench->model->layout.elements / 1e6);
    return 0;
}

static int run_parts(struct bench *bench, const bool chosen[PART_COUNT], struct error *err)
{
    if (open_device(bench, err))
        return -1;
    describe_device(bench);
    if (measure_limits(bench, err))
        return -1;
    for (size_t p = 0; p < PART_COUNT; p++) {
        if (!chosen[p] || !parts[p].run)
            continue;
        if ((!bench->device && open_device(bench, err)) ||
            (parts[p].small_model && !bench->model && open_model(bench, err)) ||
            parts[p].run(bench, err))
            return -1;
    }
    return 0;
}

static int run_bench(const void *parsed, const struct option_list *positional, struct error *err)
{
    struct bench bench = {.options = parsed, .is_usual = positional->count == 0};
    bool chosen[PART_COUNT];
    if (choose_parts(positional, chosen, err) ||
        (bench.options->batch && parse_batches(bench.options->batch, &bench, err)))
        return EXIT_USAGE;
    if (group_open(&bench.group, err))
        return EXIT_FAILED;
    const int rc = run_parts(&bench, chosen, err);
    if (group_rank(bench.group) != 0)
        err->text[0] = '\0'; // rank 0 speaks for all
    else if (rc != 0)
        verb_report_failure(&verb_bench, err);
    bench_close_device(&bench);
    group_close(bench.group);
    return rc ? EXIT_FAILED : EXIT_DONE;
}

const struct verb verb_bench = {
    .name = "bench",
    .summary = "measure this machine, and what memo reaches on it",
    .positional = "[limits|linear|train|generate|model|engine|kernels|json]...",
    .examples = "  memo bench\n"
                "  memo bench --threads 1 --seconds 10 --json\n"
                "  memo bench train --data pairs.jsonl --tokenizer model/ --ranks 2\n"
                "  memo bench model --shape qwen2.5-0.5b --batch 1,16 --prompt 512\n"
                "  memo bench json --tokenizer model/\n",
    .options = bench_option_table,
    .options_bytes = sizeof(struct bench_options),
    .run = run_bench,
};
