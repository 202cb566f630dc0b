// SPDX-License-Identifier: Apache-2.0
// One step of the engine: waiting requests take free slots; every running request contributes its
// next token, or the next piece of its prompt as far as the step's token budget goes (requests that
// already generate come first, so that a long prompt cannot stall them); the model runs once;
// requests whose prompt is complete get one token, and those that end free their slot.
#include "worker/engine/job.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#pragma weak json_output_mask
#pragma weak json_output_forced_from

struct engine {
    struct model *model;
    struct kv_cache *cache;
    size_t slot_count;
    size_t capacity;
    size_t max_tokens;
    struct job **slots; // [slot_count]; NULL: free
    struct queue waiting;
    struct queue ended;
    struct job *taken; // whose result the caller holds
    size_t pending;
    struct engine_statistics statistics;
    const struct tokenizer *tokenizer;
    struct sampler *sampler;
    uint64_t arrivals;

    // the step being put together
    int32_t *ids, *token_slots, *positions; // [max_tokens]
    int32_t *wanted, *wanted_slots;         // [slot_count]
    int32_t *chosen;                        // [slot_count], what a greedy step answers
    struct draw *draws;                     // [slot_count]
    uint64_t *masks;                        // [slot_count, mask_words]
    size_t mask_words;
    size_t tokens, wanted_count;
};

int engine_create(struct model *model, const struct engine_options *options, struct engine **out,
                  struct error *err)
{
    *out = NULL;
    if (options->slots < 1 || options->max_tokens < options->slots)
        return error_set(err,
                         "an engine of %zu slots and %zu tokens a step: give at least 1 slot, and "
                         "as many tokens as slots",
                         options->slots, options->max_tokens);
    struct engine *engine = mem_calloc(1, sizeof *engine);
    queue_init(&engine->waiting);
    queue_init(&engine->ended);
    engine->slot_count = options->slots;
    engine->capacity = options->capacity;
    engine->max_tokens = options->max_tokens;
    engine->slots = mem_calloc(options->slots, sizeof(struct job *));
    engine->ids = mem_calloc(options->max_tokens, sizeof *engine->ids);
    engine->token_slots = mem_calloc(options->max_tokens, sizeof *engine->token_slots);
    engine->positions = mem_calloc(options->max_tokens, sizeof *engine->positions);
    engine->wanted = mem_calloc(options->slots, sizeof *engine->wanted);
    engine->wanted_slots = mem_calloc(options->slots, sizeof *engine->wanted_slots);
    engine->chosen = mem_calloc(options->slots, sizeof *engine->chosen);
    engine->draws = mem_calloc(options->slots, sizeof *engine->draws);
    engine->tokenizer = options->tokenizer;
    engine->mask_words = ((size_t)model->config.vocabulary + 63) / 64;
    if (sampler_create((size_t)model->config.vocabulary, model->device->threads, &engine->sampler,
                       err) ||
        kv_cache_create(model, options->slots, options->capacity, options->max_tokens,
                        &engine->cache, err)) {
        engine_destroy(engine);
        return -1;
    }
    engine->model = model;
    model_pack(model);
    *out = engine;
    return 0;
}

void engine_destroy(struct engine *engine)
{
    if (!engine)
        return;
    if (engine->model)
        model_unpack(engine->model);
    for (size_t i = 0; i < engine->slot_count; i++)
        job_destroy(engine->slots[i]);
    queue_release(&engine->waiting);
    queue_release(&engine->ended);
    job_destroy(engine->taken);
    kv_cache_destroy(engine->cache);
    free(engine->slots);
    free(engine->ids);
    free(engine->token_slots);
    free(engine->positions);
    free(engine->wanted);
    free(engine->wanted_slots);
    free(engine->chosen);
    free(engine->draws);
    free(engine->masks);
    sampler_destroy(engine->sampler);
    free(engine);
}

void engine_submit(struct engine *engine, const struct engine_request *request)
{
    struct job *job = job_create(request, engine->capacity,
                                 (size_t)engine->model->config.vocabulary, engine->tokenizer);
    engine->pending++;
    job->arrival = engine->arrivals++;
    queue_push(job->ended ? &engine->ended : &engine->waiting, job);
}

void engine_cancel(struct engine *engine, uint64_t id)
{
    size_t removed = 0;
    queue_remove(&engine->waiting, id, &removed);
    queue_remove(&engine->ended, id, &removed);
    for (size_t i = 0; i < engine->slot_count; i++) {
        if (!engine->slots[i] || engine->slots[i]->id != id)
            continue;
        job_destroy(engine->slots[i]);
        engine->slots[i] = NULL;
        removed++;
    }
    engine->pending -= removed;
}

static void fill_slots(struct engine *engine)
{
    for (size_t i = 0; i < engine->slot_count; i++) {
        if (!engine->slots[i])
            engine->slots[i] = queue_pop(&engine->waiting);
    }
}

// Puts as many uncached tokens of a job into the step as the budget still allows.
static void add_tokens(struct engine *engine, size_t slot)
{
    struct job *job = engine->slots[slot];
    size_t left = job->count - job->cached, budget = engine->max_tokens - engine->tokens;
    size_t count = left < budget ? left : budget;
    for (size_t i = 0; i < count; i++) {
        size_t at = engine->tokens++;
        engine->ids[at] = job->tokens[job->cached + i];
        engine->positions[at] = (int32_t)(job->cached + i);
        engine->token_slots[at] = (int32_t)slot;
    }
    if (job->cached < job->prompt_count)
        engine->statistics.prompt_tokens += count;
    job->cached += count;
    if (count > 0 && job->cached == job->count) {
        engine->wanted[engine->wanted_count] = (int32_t)engine->tokens - 1;
        engine->wanted_slots[engine->wanted_count++] = (int32_t)slot;
    }
}

static void plan_step(struct engine *engine)
{
    engine->tokens = 0;
    engine->wanted_count = 0;
    for (int prompts = 0; prompts < 2; prompts++) {
        for (size_t i = 0; i < engine->slot_count; i++) {
            const struct job *job = engine->slots[i];
            if (job && job->cached < job->count && (job->cached < job->prompt_count) == prompts)
                add_tokens(engine, i);
        }
    }
}

static void take_token(struct engine *engine, size_t slot, int32_t token, float logprob)
{
    struct job *job = engine->slots[slot];
    engine->statistics.generated_tokens++;
    job_take(job, token, logprob);
    if (job->ended) {
        engine->slots[slot] = NULL;
        queue_push(&engine->ended, job);
    }
}

// The schema's mask is good until the next one is asked for, so it is copied.
static const uint64_t *mask_of(struct engine *engine, size_t row, struct job *job)
{
    if (!job->output)
        return NULL;
    size_t words = engine->mask_words;
    if (!engine->masks)
        engine->masks = mem_alloc(engine->slot_count * words * sizeof *engine->masks);
    uint64_t *mask = engine->masks + row * words;
    memcpy(mask, json_output_mask(job->output, job->limit - job->count), words * sizeof *mask);
    return mask;
}

static void take_logits(void *context, float *logits, size_t row, size_t rows)
{
    struct engine *engine = context;
    size_t vocabulary = (size_t)engine->model->config.vocabulary;
    for (size_t i = 0; i < rows; i++) {
        struct job *job = engine->slots[engine->wanted_slots[row + i]];
        engine->draws[row + i] = (struct draw){
            .logits = logits + i * vocabulary,
            .sampling = &job->sampling,
            .mask = mask_of(engine, row + i, job),
            .seen = job->tokens,
            .seen_count = job->count,
            .seed = job->seed,
            .index = job->count - job->prompt_count,
            .wants_logprob = job->logprobs != NULL,
        };
    }
    sampler_draw(engine->sampler, engine->draws + row, rows);
}

// Whether the largest logits are all that is asked for; they need not leave the device then.
static bool is_greedy(const struct engine *engine)
{
    for (size_t i = 0; i < engine->wanted_count; i++) {
        const struct job *job = engine->slots[engine->wanted_slots[i]];
        if (job->output || job->logprobs || !sampling_is_argmax(&job->sampling))
            return false;
    }
    return true;
}

static int compute(struct engine *engine, const struct step_tokens *step, struct error *err)
{
    for (size_t i = 0; i < engine->wanted_count; i++)
        engine->draws[i] = (struct draw){0};
    if (is_greedy(engine)) {
        if (model_step_greedy(engine->model, engine->cache, step, engine->chosen, err))
            return -1;
        for (size_t i = 0; i < engine->wanted_count; i++)
            engine->draws[i].token = engine->chosen[i];
        return 0;
    }
    return model_step_slices(engine->model, engine->cache, step,
                             &(struct logits_taker){take_logits, engine}, err);
}

static int run_step(struct engine *engine, struct error *err)
{
    fill_slots(engine);
    plan_step(engine);
    assert(engine->tokens > 0);
    struct step_tokens step = {
        .ids = engine->ids,
        .slots = engine->token_slots,
        .positions = engine->positions,
        .tokens = engine->tokens,
        .wanted = engine->wanted,
        .wanted_count = engine->wanted_count,
    };
    if (compute(engine, &step, err))
        return -1;
    engine->statistics.steps++;
    for (size_t i = 0; i < engine->wanted_count; i++)
        take_token(engine, (size_t)engine->wanted_slots[i], engine->draws[i].token,
                   engine->draws[i].logprob);
    return 0;
}

static void hand_out(struct engine *engine, struct job *job, struct engine_result *result)
{
    engine->taken = job;
    engine->pending--;
    *result = (struct engine_result){
        .id = job->id,
        .reason = job->reason,
        .ids = job->tokens ? job->tokens + job->prompt_count : NULL,
        .count = job->count - job->prompt_count,
        .text = job->tokenizer ? (job->text.bytes ? job->text.bytes : "") : NULL,
        .text_bytes = job->text.length,
        .logprobs = job->logprobs,
        .prompt_count = job->prompt_count,
        .cached_count = job->cached_count,
        .forced_from = job->output ? json_output_forced_from(job->output) : SIZE_MAX,
        .problem = job->problem,
    };
}

enum engine_poll engine_poll(struct engine *engine, struct engine_result *result, struct error *err)
{
    job_destroy(engine->taken);
    engine->taken = NULL;
    if (engine->pending == 0)
        return ENGINE_IDLE;
    struct job *job = queue_pop(&engine->ended);
    if (!job) {
        if (run_step(engine, err))
            return ENGINE_FAILED;
        job = queue_pop(&engine->ended);
    }
    if (!job)
        return ENGINE_RUNNING;
    hand_out(engine, job, result);
    return ENGINE_RESULT;
}

size_t engine_pending(const struct engine *engine)
{
    return engine->pending;
}

struct engine_statistics engine_statistics(const struct engine *engine)
{
    return engine->statistics;
}
