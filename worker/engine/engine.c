// SPDX-License-Identifier: Apache-2.0
// One step of the engine: waiting requests take free slots; every running request contributes its
// next token, or the next piece of its prompt as far as the step's token budget goes (requests that
// already generate come first, so that a long prompt cannot stall them); the model runs once;
// requests whose prompt is complete get one token, and those that end free their slot.
#include "worker/engine/engine.h"

#include "base/mem.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// A request through its life: waiting, in a slot, ended. Kept in singly linked queues.
struct job {
    struct job *next;
    uint64_t id;
    int32_t *tokens; // prompt, then what was generated
    size_t prompt_count;
    size_t count;  // tokens so far
    size_t cached; // of them, keys and values are in the cache
    size_t limit;  // count at which it ends
    int32_t *stop_ids;
    size_t stop_count;
    enum engine_reason reason;
    char problem[128];
};

struct queue {
    struct job *first;
    struct job **end; // where the next one is linked
};

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

    // the step being put together
    int32_t *ids, *token_slots, *positions; // [max_tokens]
    int32_t *wanted, *wanted_slots;         // [slot_count]
    int32_t *chosen;                        // [slot_count], what the step answers
    size_t tokens, wanted_count;
};

static void queue_init(struct queue *queue)
{
    queue->first = NULL;
    queue->end = &queue->first;
}

static void queue_push(struct queue *queue, struct job *job)
{
    job->next = NULL;
    *queue->end = job;
    queue->end = &job->next;
}

static struct job *queue_pop(struct queue *queue)
{
    struct job *job = queue->first;
    if (!job)
        return NULL;
    queue->first = job->next;
    if (!queue->first)
        queue->end = &queue->first;
    return job;
}

static void job_destroy(struct job *job)
{
    if (!job)
        return;
    free(job->tokens);
    free(job->stop_ids);
    free(job);
}

static void queue_release(struct queue *queue)
{
    struct job *job;
    while ((job = queue_pop(queue)))
        job_destroy(job);
}

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
    if (kv_cache_create(model, options->slots, options->capacity, options->max_tokens,
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
    free(engine);
}

// Writes why the request cannot run; leaves "" when it can.
static void find_problem(const struct engine *engine, const struct engine_request *request,
                         char *out, size_t out_bytes)
{
    int64_t vocabulary = engine->model->config.vocabulary;
    *out = '\0';
    if (request->prompt_count == 0)
        snprintf(out, out_bytes, "the prompt is empty");
    else if (request->prompt_count > engine->capacity)
        snprintf(out, out_bytes, "the prompt has %zu tokens, at most %zu fit",
                 request->prompt_count, engine->capacity);
    for (size_t i = 0; i < request->prompt_count && !*out; i++) {
        if (request->prompt[i] < 0 || request->prompt[i] >= vocabulary)
            snprintf(out, out_bytes, "prompt token %zu is %d, outside the vocabulary of %lld", i,
                     request->prompt[i], (long long)vocabulary);
    }
}

void engine_submit(struct engine *engine, const struct engine_request *request)
{
    struct job *job = mem_calloc(1, sizeof *job);
    engine->pending++;
    job->id = request->id;
    job->prompt_count = request->prompt_count;
    job->count = request->prompt_count;
    find_problem(engine, request, job->problem, sizeof job->problem);
    if (job->problem[0]) {
        job->reason = ENGINE_REJECTED;
        queue_push(&engine->ended, job);
        return;
    }
    // The token generated last never enters the cache, so one more than capacity can be had.
    size_t most = engine->capacity + 1 - job->prompt_count;
    job->limit = job->prompt_count + (request->max_new < most ? request->max_new : most);
    job->tokens = mem_calloc(job->limit, sizeof *job->tokens);
    memcpy(job->tokens, request->prompt, job->prompt_count * sizeof *job->tokens);
    if (request->stop_count > 0) {
        job->stop_ids = mem_dup(request->stop_ids, request->stop_count * sizeof *job->stop_ids);
        job->stop_count = request->stop_count;
    }
    job->reason = ENGINE_LENGTH;
    queue_push(job->limit > job->count ? &engine->waiting : &engine->ended, job);
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

static bool is_stop(const struct job *job, int32_t token)
{
    for (size_t i = 0; i < job->stop_count; i++) {
        if (job->stop_ids[i] == token)
            return true;
    }
    return false;
}

static void take_token(struct engine *engine, size_t slot, int32_t token)
{
    struct job *job = engine->slots[slot];
    bool stop = is_stop(job, token);
    engine->statistics.generated_tokens++;
    if (stop)
        job->reason = ENGINE_STOP;
    else
        job->tokens[job->count++] = token;
    if (stop || job->count == job->limit) {
        engine->slots[slot] = NULL;
        queue_push(&engine->ended, job);
    }
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
    if (model_step_greedy(engine->model, engine->cache, &step, engine->chosen, err))
        return -1;
    engine->statistics.steps++;
    for (size_t i = 0; i < engine->wanted_count; i++)
        take_token(engine, (size_t)engine->wanted_slots[i], engine->chosen[i]);
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
        .prompt_count = job->prompt_count,
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
