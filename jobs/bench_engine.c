// SPDX-License-Identifier: Apache-2.0
// memo bench engine: many requests on few documents, as reflections make them, beside the floor:
// the time that the same work would take if nothing but its operations, or its bytes, took time.
//
// Counted as work, once each: the tokens of the documents; of every request its own tokens and all
// but the last of its answer; a head for every answer token; attention to all positions before; and
// as bytes the weights once per step, keys and values of a document once per step for all requests
// on it, of a request's own tokens once per step. Steps are as few as the budget of tokens and the
// length of the answers allow.
#include "jobs/bench.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/random.h"
#include "worker/engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEP_TOKENS = 512 };

struct load {
    size_t documents, requests;   // requests on each document
    size_t document, own, answer; // tokens
};

struct floor {
    double flops, bytes, steps;
    double computing, reading; // seconds
};

static double layer_weights(const struct model *model)
{
    double count = 0;
    for (size_t p = 0; p < model->layout.parameter_count; p++)
        if (model->layout.parameters[p].layer >= 0 && model->layout.parameters[p].rank == 2)
            count += (double)model->layout.parameters[p].count;
    return count;
}

// Pairs of positions in which one attends to another, of `count` tokens behind `before` others.
static double pairs(double before, double count)
{
    return count * before + count * (count + 1) / 2;
}

static struct floor floor_of(const struct bench *bench, const struct load *load)
{
    const struct model_config *config = &bench->model->config;
    const double documents = (double)load->documents;
    const double requests = documents * (double)load->requests;
    const double document = (double)load->document, answer = (double)load->answer;
    const double own = (double)load->own + answer - 1;
    const double head = (double)(config->vocabulary * config->hidden);
    const double tokens = documents * document + requests * own;
    const double scores = documents * pairs(0, document) + requests * pairs(document, own);
    const double layers = layer_weights(bench->model);
    const double element = (double)dtype_bytes(bench->model->weights.dtype);
    double attending = 0;
    for (int64_t i = 0; i < config->layers; i++)
        attending += config->layer_kinds[i] != LAYER_CONV;
    const double kept = 2 * attending * (double)(config->kv_heads * config->head_width) * element;
    struct floor floor = {
        .flops = 2 * layers * tokens + 2 * head * requests * answer +
                 4 * attending * (double)(config->heads * config->head_width) * scores,
        .steps = documents * document / STEP_TOKENS + answer,
    };
    floor.bytes = floor.steps * (layers * (bench->model->codes ? 1 : element) + head * element) +
                  kept * answer * (documents * document + requests * own / 2);
    const bool pairs_of_bf16 =
        bench->model->weights.dtype == DTYPE_BF16 && bench->limits.dot_flops > 0;
    floor.computing = floor.flops / (pairs_of_bf16 ? bench->limits.dot_flops : bench->limits.flops);
    floor.reading = floor.bytes / bench->limits.read_bytes;
    return floor;
}

static void submit(struct engine *engine, const struct load *load, uint64_t vocabulary)
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

static int run_load(struct engine *engine, const struct load *load, uint64_t vocabulary,
                    double *seconds, struct error *err)
{
    struct engine_result result;
    enum engine_poll polled;
    const double start = clock_seconds();
    submit(engine, load, vocabulary);
    while ((polled = engine_poll(engine, &result, err)) > ENGINE_IDLE)
        if (polled == ENGINE_RESULT && result.count != load->answer)
            return error_set(err, "request %llu ended after %zu tokens: %s",
                             (unsigned long long)result.id, result.count, result.problem);
    *seconds = clock_seconds() - start;
    return polled == ENGINE_FAILED ? -1 : 0;
}

static void report_text(const struct engine_statistics *done, const struct floor *floor,
                        double seconds)
{
    const double bound = floor->computing > floor->reading ? floor->computing : floor->reading;
    printf("%llu prompt tokens computed, %llu found computed, %llu generated, %llu steps\n",
           (unsigned long long)done->prompt_tokens, (unsigned long long)done->cached_tokens,
           (unsigned long long)done->generated_tokens, (unsigned long long)done->steps);
    printf("%llu preemptions, %llu evictions, %zu blocks\n", (unsigned long long)done->preemptions,
           (unsigned long long)done->evictions, done->blocks);
    printf("floor: %.2f T operations in %.1f s, %.1f GB in %.1f s\n", floor->flops / 1e12,
           floor->computing, floor->bytes / 1e9, floor->reading);
    printf("%.2f s, %.1f answer tokens/s, %.1f%% of the floor\n", seconds,
           (double)done->generated_tokens / seconds, 100 * bound / seconds);
}

static void report_json(const struct engine_statistics *done, const struct floor *floor,
                        double seconds)
{
    const double bound = floor->computing > floor->reading ? floor->computing : floor->reading;
    const struct {
        const char *name;
        double value;
    } figures[] = {{"prompt_tokens", (double)done->prompt_tokens},
                   {"cached_tokens", (double)done->cached_tokens},
                   {"generated_tokens", (double)done->generated_tokens},
                   {"steps", (double)done->steps},
                   {"floor_operations", floor->flops},
                   {"floor_bytes", floor->bytes},
                   {"floor_seconds", bound},
                   {"seconds", seconds},
                   {"answer_tokens_per_second", (double)done->generated_tokens / seconds},
                   {"floor_share", bound / seconds}};
    struct strbuf line = {0};
    struct json_writer w = {.out = &line};
    json_begin_object(&w);
    json_key(&w, "what");
    json_text(&w, "engine");
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        json_key(&w, figures[i].name);
        json_number(&w, figures[i].value);
    }
    json_end_object(&w);
    printf("%s\n", line.bytes);
    strbuf_release(&line);
}

static int measure(struct bench *bench, const struct load *load, struct error *err)
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
    double seconds = 0;
    if (engine_create(bench->model, &how, &engine, err))
        return -1;
    const int rc = run_load(engine, load, (uint64_t)bench->model->config.vocabulary, &seconds, err);
    const struct engine_statistics done = engine_statistics(engine);
    engine_destroy(engine);
    if (rc)
        return -1;
    const struct floor floor = floor_of(bench, load);
    (bench->options->json ? report_json : report_text)(&done, &floor, seconds);
    return 0;
}

int bench_engine(struct bench *bench, struct error *err)
{
    const struct bench_options *options = bench->options;
    const char *shape = options->shape ? options->shape : "qwen2.5-0.5b";
    const enum dtype dtype = strcmp(options->dtype, "f32") == 0 ? DTYPE_F32 : DTYPE_BF16;
    const struct load load = {.documents = (size_t)options->documents,
                              .requests = (size_t)options->requests,
                              .document = (size_t)options->document_tokens,
                              .own = (size_t)options->own_tokens,
                              .answer = (size_t)options->answer_tokens};
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
