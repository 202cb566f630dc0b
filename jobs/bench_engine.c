// SPDX-License-Identifier: Apache-2.0
// memo bench engine: many requests on few documents, as reflections make them, beside the floor:
// the time that the same work would take if nothing but its operations, or its bytes, took time
// (bench_floor.h). All of it is timed, and by itself what comes when the documents are computed and
// every request generates a token a step.
#include "jobs/bench.h"
#include "jobs/bench_floor.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/random.h"
#include "worker/engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEP_TOKENS = 512, WARM_UP_ANSWER = 8 };

// The steps in which every request generated a token and none ended.
struct decoding {
    double seconds, floor_seconds, tokens;
    size_t steps;
};

struct measured {
    double seconds;
    struct decoding decoding;
};

static double peak_flops(const struct bench *bench)
{
    const bool dot = bench->model->weights.dtype == DTYPE_BF16 && bench->limits.dot_flops > 0;
    return dot ? bench->limits.dot_flops : bench->limits.flops;
}

static double floor_seconds(const struct bench *bench, struct effort effort)
{
    return effort_seconds(effort, bench->limits.read_bytes, peak_flops(bench));
}

static struct decoder_cost cost_of(const struct bench *bench)
{
    const struct model *model = bench->model;
    return decoder_cost_of(&model->config, model->weights.dtype, model->codes != NULL);
}

static void submit(struct engine *engine, const struct document_load *load, uint64_t vocabulary)
{
    const size_t count = load->document + load->own;
    int32_t *prompt = mem_calloc(count, sizeof *prompt);
    for (size_t r = 0; r < load->documents * load->requests; r++) {
        const size_t document = r / load->requests;
        for (size_t t = 0; t < load->document; t++)
            prompt[t] = (int32_t)(random_u64(4, document, t) % vocabulary);
        for (size_t t = 0; t < load->own; t++)
            prompt[load->document + t] = (int32_t)(random_u64(5, r, t) % vocabulary);
        engine_submit(
            engine, &(struct engine_request){
                        .id = r, .prompt = prompt, .prompt_count = count, .max_new = load->answer});
    }
    free(prompt);
}

// A step that gave every request a token, after `before` of them in all.
static void add_step(const struct bench *bench, const struct document_load *load, double before,
                     double seconds, struct decoding *out)
{
    const double requests = (double)(load->documents * load->requests);
    const struct decoder_cost cost = cost_of(bench);
    out->seconds += seconds;
    out->floor_seconds +=
        floor_seconds(bench, document_step_effort(&cost, load, before / requests));
    out->tokens += requests;
    out->steps++;
}

static int run_load(const struct bench *bench, struct engine *engine,
                    const struct document_load *load, struct measured *out, struct error *err)
{
    const uint64_t requests = load->documents * load->requests;
    struct engine_result result;
    enum engine_poll polled;
    const double start = clock_seconds();
    double step_start = start;
    uint64_t before = 0;
    bool ended = false;
    submit(engine, load, (uint64_t)bench->model->config.vocabulary);
    while ((polled = engine_poll(engine, &result, err)) > ENGINE_IDLE) {
        const double now = clock_seconds();
        const uint64_t generated = engine_statistics(engine).generated_tokens;
        if (polled == ENGINE_RESULT && result.count != load->answer)
            return error_set(err, "request %llu ended after %zu tokens: %s",
                             (unsigned long long)result.id, result.count, result.problem);
        ended = ended || polled == ENGINE_RESULT;
        if (!ended && before > 0 && generated == before + requests)
            add_step(bench, load, (double)before, now - step_start, &out->decoding);
        before = generated;
        step_start = now;
    }
    out->seconds = clock_seconds() - start;
    return polled == ENGINE_FAILED ? -1 : 0;
}

static void report_text(const struct engine_statistics *done, struct effort effort, double floor,
                        const struct measured *measured)
{
    const struct decoding *decoding = &measured->decoding;
    printf("%llu prompt tokens computed, %llu found computed, %llu generated, %llu steps\n",
           (unsigned long long)done->prompt_tokens, (unsigned long long)done->cached_tokens,
           (unsigned long long)done->generated_tokens, (unsigned long long)done->steps);
    printf("%llu preemptions, %llu evictions, %zu blocks\n", (unsigned long long)done->preemptions,
           (unsigned long long)done->evictions, done->blocks);
    printf("floor: %.2f T operations, %.1f GB, %.1f s\n", effort.flops / 1e12, effort.bytes / 1e9,
           floor);
    printf("%.2f s, %.1f answer tokens/s, %.1f%% of the floor\n", measured->seconds,
           effort.tokens / measured->seconds, 100 * floor / measured->seconds);
    if (decoding->steps > 0)
        printf("%zu steps with a token for every request: %.1f answer tokens/s, %.1f%% of the "
               "floor\n",
               decoding->steps, decoding->tokens / decoding->seconds,
               100 * decoding->floor_seconds / decoding->seconds);
}

static void report_json(const struct engine_statistics *done, struct effort effort, double floor,
                        const struct measured *measured)
{
    const struct decoding *decoding = &measured->decoding;
    const struct bench_figure all[] = {
        {"prompt_tokens", (double)done->prompt_tokens},
        {"cached_tokens", (double)done->cached_tokens},
        {"generated_tokens", (double)done->generated_tokens},
        {"steps", (double)done->steps},
        {"floor_operations", effort.flops},
        {"floor_bytes", effort.bytes},
        {"floor_seconds", floor},
        {"seconds", measured->seconds},
        {"answer_tokens_per_second", effort.tokens / measured->seconds},
        {"floor_share", floor / measured->seconds}};
    const struct bench_figure decoded[] = {
        {"steps", (double)decoding->steps},
        {"floor_seconds", decoding->floor_seconds},
        {"seconds", decoding->seconds},
        {"answer_tokens_per_second", decoding->tokens / decoding->seconds},
        {"floor_share", decoding->floor_seconds / decoding->seconds}};
    bench_report_figures("engine", all, sizeof all / sizeof *all);
    if (decoding->steps > 0)
        bench_report_figures("engine, decoding", decoded, sizeof decoded / sizeof *decoded);
}

static int run_engine(const struct bench *bench, const struct document_load *load,
                      struct measured *out, struct engine_statistics *done, struct error *err)
{
    const size_t requests = load->documents * load->requests;
    const size_t prompt = load->document + load->own;
    // Each document once, of every request what it has alone, and room for copies.
    const struct engine_options how = {
        .slots = requests,
        .capacity = prompt + load->answer,
        .max_tokens = STEP_TOKENS > requests ? STEP_TOKENS : requests,
        .cache_tokens = load->documents * (load->document + KV_BLOCK_TOKENS) +
                        requests * (load->own + load->answer + 2 * KV_BLOCK_TOKENS) + prompt};
    struct engine *engine = NULL;
    if (engine_create(bench->model, &how, &engine, err))
        return -1;
    const int rc = run_load(bench, engine, load, out, err);
    *done = engine_statistics(engine);
    engine_destroy(engine);
    return rc;
}

// On a GPU the first steps of every size load kernels and choose algorithms: once without a clock.
static int warm_up(const struct bench *bench, const struct document_load *load, struct error *err)
{
    struct document_load few = *load;
    struct measured ignored = {0};
    struct engine_statistics done;
    if (!device_stream(bench->device))
        return 0;
    few.answer = load->answer < WARM_UP_ANSWER ? load->answer : WARM_UP_ANSWER;
    return run_engine(bench, &few, &ignored, &done, err);
}

static int measure(const struct bench *bench, const struct document_load *load, struct error *err)
{
    struct measured measured = {0};
    struct engine_statistics done;
    if (warm_up(bench, load, err) || run_engine(bench, load, &measured, &done, err))
        return -1;
    const struct decoder_cost cost = cost_of(bench);
    const struct effort effort = document_load_effort(&cost, load);
    (bench->options->json ? report_json : report_text)(&done, effort, floor_seconds(bench, effort),
                                                       &measured);
    return 0;
}

int bench_engine(struct bench *bench, struct error *err)
{
    const struct bench_options *options = bench->options;
    const char *shape = options->shape ? options->shape : "qwen2.5-0.5b";
    const enum dtype dtype = strcmp(options->dtype, "f32") == 0 ? DTYPE_F32 : DTYPE_BF16;
    const struct document_load load = {.documents = (size_t)options->documents,
                                       .requests = (size_t)options->requests,
                                       .document = (size_t)options->document_tokens,
                                       .own = (size_t)options->own_tokens,
                                       .answer = (size_t)options->answer_tokens,
                                       .step_tokens = STEP_TOKENS};
    struct bench own = *bench;
    struct model_config config;
    own.model = NULL;
    if (model_config_shape(shape, &config, err) ||
        model_create(bench->device, &config, dtype, &own.model, err))
        return -1;
    bench_fill_weights(own.model);
    if (strcmp(options->dtype, "fp8") == 0 && model_quantize(own.model, err)) {
        model_destroy(own.model);
        return -1;
    }
    if (!options->json)
        printf("%s, random %s weights; %zu documents of %zu tokens, %zu requests on each with %zu "
               "of their own, answers of %zu\n",
               shape, options->dtype, load.documents, load.document, load.requests, load.own,
               load.answer);
    const int rc = measure(&own, &load, err);
    model_destroy(own.model);
    return rc;
}
