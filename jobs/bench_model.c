// SPDX-License-Identifier: Apache-2.0
// memo bench model: prefill of one prompt, and one more token for each of several sequences that
// have such a prompt behind them. The median step counts, so that one disturbance does not. The
// limits are measured again before each line, as shared machines change from second to second. The
// peak is that of bfloat16 dot products where weights and processor allow them, else of float32
// multiply-adds.
#include "jobs/bench.h"
#include "jobs/bench_floor.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/random.h"
#include "worker/model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    STEPS_LIMIT = 1024, // timed ones
    DECODE_ROOM = 256,  // positions behind the prompt; a sequence that fills them begins again
};

struct run {
    struct bench *bench;
    struct model *model;
    struct kv_cache *cache;
    int32_t *chosen; // [slots]
    int32_t *tables; // of `room` positions each, one after the other
    size_t room;     // positions of a sequence
};

void bench_fill_weights(struct model *model)
{
    bench_fill_noise(model->device, model->weights, model->layout.elements, 0.02);
}

static int step_once(struct run *run, struct decode_step shape, double *seconds, struct error *err)
{
    const size_t tokens = shape.sequences * shape.length;
    int32_t *ids = mem_alloc(4 * tokens * sizeof *ids);
    int32_t *sequences = ids + tokens, *positions = sequences + tokens;
    int32_t *wanted = positions + tokens;
    const uint64_t vocabulary = (uint64_t)run->model->config.vocabulary;
    for (size_t t = 0; t < tokens; t++) {
        ids[t] = (int32_t)(random_u64(2, shape.position, t) % vocabulary);
        sequences[t] = (int32_t)(t / shape.length);
        positions[t] = (int32_t)(shape.position + t % shape.length);
        wanted[t] = (int32_t)((t + 1) * shape.length - 1);
    }
    const struct step_tokens step = {.ids = ids,
                                     .sequences = sequences,
                                     .positions = positions,
                                     .tokens = tokens,
                                     .tables = run->tables,
                                     .sequence_count = shape.sequences,
                                     .wanted = wanted,
                                     .wanted_count = shape.sequences};
    const double start = clock_seconds();
    const int rc = model_step_greedy(run->model, run->cache, &step, run->chosen, err);
    *seconds = clock_seconds() - start;
    free(ids);
    return rc;
}

static int compare_doubles(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The median of as many steps as --seconds allow, at least three; `advance` of them follow one
// another before they begin again. The first step warms up.
static int time_steps(struct run *run, struct decode_step shape, size_t advance, double *median,
                      struct error *err)
{
    double *seconds = mem_alloc(STEPS_LIMIT * sizeof *seconds), ignored;
    const double limit = run->bench->options->seconds;
    double total = 0;
    size_t count = 0;
    int rc = step_once(run, shape, &ignored, err);
    while (rc == 0 && count < STEPS_LIMIT && (count < 3 || total < limit)) {
        struct decode_step now = shape;
        now.position += (count + 1) % advance;
        rc = step_once(run, now, &seconds[count], err);
        total += seconds[count++];
    }
    qsort(seconds, count, sizeof *seconds, compare_doubles);
    *median = count > 0 ? seconds[count / 2] : 0;
    free(seconds);
    return rc;
}

// Operations per second that the processor can do on weights of this type.
static double peak_flops(const struct bench *bench)
{
    const bool dot = strcmp(bench->options->dtype, "f32") != 0 && bench->limits.dot_flops > 0;
    return dot ? bench->limits.dot_flops : bench->limits.flops;
}

// The share of the floor: of the time that nothing but the step's bytes, or its operations, takes.
struct figures {
    struct decode_step shape;
    struct effort rate; // per second
    double floor_share;
};

static void report_text(const char *name, const struct bench *bench, const struct figures *figures)
{
    const struct decode_step shape = figures->shape;
    const struct effort rate = figures->rate;
    char what[64];
    if (shape.length > 1)
        snprintf(what, sizeof what, "%s, %zu tokens", name, shape.length);
    else
        snprintf(what, sizeof what, "%s, batch %zu at position %zu", name, shape.sequences,
                 shape.position);
    printf("%-36s %9.1f %8.2f %7.1f%% %9.1f %7.1f%% %7.1f%%\n", what, rate.tokens, rate.bytes / 1e9,
           100 * rate.bytes / bench->limits.read_bytes, rate.flops / 1e9,
           100 * rate.flops / peak_flops(bench), 100 * figures->floor_share);
    fflush(stdout);
}

static void report_json(const char *what, const struct bench *bench, const struct figures *figures)
{
    const struct effort rate = figures->rate;
    const struct bench_figure named[] = {
        {"sequences", (double)figures->shape.sequences},
        {"new_tokens", (double)figures->shape.length},
        {"position", (double)figures->shape.position},
        {"tokens_per_second", rate.tokens},
        {"gigabytes_per_second", rate.bytes / 1e9},
        {"read_share", rate.bytes / bench->limits.read_bytes},
        {"gigaflops", rate.flops / 1e9},
        {"peak_share", rate.flops / peak_flops(bench)},
        {"floor_share", figures->floor_share},
        {"floor_tokens_per_second", rate.tokens / figures->floor_share},
        {"read_limit_gigabytes_per_second", bench->limits.read_bytes / 1e9},
        {"peak_gigaflops", peak_flops(bench) / 1e9}};
    bench_report_figures(what, named, sizeof named / sizeof *named);
}

static int measure(struct run *run, const char *name, struct decode_step shape, size_t advance,
                   struct error *err)
{
    struct bench *bench = run->bench;
    double median;
    if (bench_limits(bench->device, &bench->limits, err) ||
        time_steps(run, shape, advance, &median, err))
        return -1;
    const struct decoder_cost cost =
        decoder_cost_of(&run->model->config, run->model->weights.dtype, run->model->codes != NULL);
    const struct effort effort = decode_step_effort(&cost, shape);
    const struct figures figures = {
        .shape = shape,
        .rate = {effort.tokens / median, effort.bytes / median, effort.flops / median},
        .floor_share =
            effort_seconds(effort, bench->limits.read_bytes, peak_flops(bench)) / median};
    (bench->options->json ? report_json : report_text)(name, bench, &figures);
    return 0;
}

// Sequences with convolutions only go on where they ended, so theirs begin at 0.
static size_t decode_position(const struct run *run)
{
    const struct model_config *config = &run->model->config;
    for (int64_t i = 0; i < config->layers; i++)
        if (config->layer_kinds[i] == LAYER_CONV)
            return 0;
    return (size_t)run->bench->options->prompt;
}

static int measure_all(struct run *run, const size_t *batches, size_t count, struct error *err)
{
    const size_t prompt = (size_t)run->bench->options->prompt;
    if (!run->bench->options->json)
        printf("%-36s %9s %8s %8s %9s %8s %8s\n", "", "tokens/s", "GB/s", "of read", "GFLOP/s",
               "of peak", "of floor");
    if (measure(run, "prefill", (struct decode_step){1, prompt, 0}, 1, err))
        return -1;
    for (size_t i = 0; i < count; i++) {
        const struct decode_step shape = {batches[i], 1, decode_position(run)};
        if (measure(run, "decode", shape, run->room - shape.position, err))
            return -1;
    }
    return 0;
}

static int open_run(struct run *run, const struct model_config *config, size_t slots,
                    struct error *err)
{
    const struct bench_options *options = run->bench->options;
    const enum dtype dtype = strcmp(options->dtype, "f32") == 0 ? DTYPE_F32 : DTYPE_BF16;
    const size_t prompt = (size_t)options->prompt;
    run->room = prompt + DECODE_ROOM;
    if (model_create(run->bench->device, config, dtype, &run->model, err))
        return -1;
    bench_fill_weights(run->model);
    if (strcmp(options->dtype, "fp8") == 0 && model_quantize(run->model, err))
        return -1;
    model_pack(run->model);
    run->chosen = mem_calloc(slots, sizeof *run->chosen);
    const struct kv_cache_size size = {.blocks = slots * kv_blocks(run->room),
                                       .capacity = run->room,
                                       .sequences = slots,
                                       .max_tokens = prompt > slots ? prompt : slots};
    run->tables = mem_calloc(size.blocks, sizeof *run->tables);
    for (size_t i = 0; i < size.blocks; i++)
        run->tables[i] = (int32_t)i;
    return kv_cache_create(run->model, &size, &run->cache, err);
}

int bench_model(struct bench *bench, struct error *err)
{
    static const size_t usual[] = {1, 4, 8, 16};
    const bool given = bench->batch_count > 0;
    const size_t *batches = given ? bench->batches : usual;
    const size_t count = given ? bench->batch_count : sizeof usual / sizeof *usual;
    const char *shape = bench->options->shape ? bench->options->shape : "qwen2.5-0.5b";
    size_t slots = 1;
    for (size_t i = 0; i < count; i++)
        slots = batches[i] > slots ? batches[i] : slots;
    struct run run = {.bench = bench};
    struct model_config config;
    int rc = model_config_shape(shape, &config, err) || open_run(&run, &config, slots, err);
    if (rc == 0 && !bench->options->json)
        printf("%s, random %s weights, %.2f M parameters\n", shape, bench->options->dtype,
               (double)run.model->layout.elements / 1e6);
    if (rc == 0)
        rc = measure_all(&run, batches, count, err);
    kv_cache_destroy(run.cache);
    free(run.chosen);
    free(run.tables);
    if (run.model)
        model_unpack(run.model);
    model_destroy(run.model);
    return rc ? -1 : 0;
}
