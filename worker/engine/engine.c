// SPDX-License-Identifier: Apache-2.0
// One step: the scheduler chooses tokens, the model runs once, requests whose tokens are all in the
// cache get one more, and those that end leave.
#include "worker/engine/scheduler.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct engine {
    struct model *model;
    bool packs;
    struct kv_cache *cache;
    struct scheduler *scheduler;
    struct sampler *sampler;
    const struct tokenizer *tokenizer;
    size_t capacity, slots;
    struct queue ended;
    struct job *taken; // whose result the caller holds
    size_t pending;
    uint64_t arrivals;
    struct engine_statistics statistics;
    int32_t *chosen;         // [slots], what a greedy step answers
    struct draw *draws;      // [slots]
    struct sample_row *rows; // [slots], what the device draws by
    uint64_t *masks;         // [2 slots, mask_words], once bits were needed
    size_t mask_words;
};

static int check_options(const struct engine_options *options, struct error *err)
{
    if (options->slots < 1 || options->max_tokens < options->slots)
        return error_set(err,
                         "an engine of %zu slots and %zu tokens a step: give at least 1 slot, and "
                         "as many tokens as slots",
                         options->slots, options->max_tokens);
    if (options->cache_tokens > 0 && options->cache_tokens < options->capacity)
        return error_set(err, "a cache of %zu tokens for requests of up to %zu: give at least that",
                         options->cache_tokens, options->capacity);
    return 0;
}

static struct kv_cache_size cache_size(const struct engine_options *options)
{
    const size_t tokens = options->cache_tokens;
    return (struct kv_cache_size){
        .blocks = tokens ? kv_blocks(tokens) : options->slots * kv_blocks(options->capacity),
        .capacity = options->capacity,
        .sequences = options->slots,
        .max_tokens = options->max_tokens,
    };
}

size_t engine_bytes_needed(struct model *model, const struct engine_options *options)
{
    const struct kv_cache_size size = cache_size(options);
    return kv_cache_bytes_needed(model, &size);
}

static int open_parts(struct engine *engine, struct model *model,
                      const struct engine_options *options, struct error *err)
{
    const struct kv_cache_size size = cache_size(options);
    if (kv_cache_create(model, &size, &engine->cache, err) ||
        sampler_create((size_t)model->config.vocabulary, model->device->threads, &engine->sampler,
                       err))
        return -1;
    engine->statistics.blocks = size.blocks;
    engine->scheduler =
        scheduler_create(model, engine->cache, options, size.blocks, &engine->statistics);
    return 0;
}

int engine_create(struct model *model, const struct engine_options *options, struct engine **out,
                  struct error *err)
{
    *out = NULL;
    if (check_options(options, err))
        return -1;
    struct engine *engine = mem_calloc(1, sizeof *engine);
    queue_init(&engine->ended);
    engine->slots = options->slots;
    engine->capacity = options->capacity;
    engine->tokenizer = options->tokenizer;
    engine->mask_words = ((size_t)model->config.vocabulary + 63) / 64;
    engine->chosen = mem_calloc(options->slots, sizeof *engine->chosen);
    engine->draws = mem_calloc(options->slots, sizeof *engine->draws);
    engine->rows = mem_calloc(options->slots, sizeof *engine->rows);
    if (open_parts(engine, model, options, err)) {
        engine_destroy(engine);
        return -1;
    }
    engine->model = model;
    engine->packs = !options->unpacked;
    if (engine->packs)
        model_pack(model);
    *out = engine;
    return 0;
}

void engine_destroy(struct engine *engine)
{
    if (!engine)
        return;
    if (engine->packs)
        model_unpack(engine->model);
    scheduler_destroy(engine->scheduler);
    sampler_destroy(engine->sampler);
    kv_cache_destroy(engine->cache);
    queue_release(&engine->ended);
    job_destroy(engine->taken);
    free(engine->chosen);
    free(engine->draws);
    free(engine->rows);
    free(engine->masks);
    free(engine);
}

void engine_submit(struct engine *engine, const struct engine_request *request)
{
    struct job *job = job_create(request, engine->capacity,
                                 (size_t)engine->model->config.vocabulary, engine->tokenizer);
    engine->pending++;
    job->arrival = engine->arrivals++;
    queue_push(job->ended ? &engine->ended : &engine->scheduler->waiting, job);
}

void engine_cancel(struct engine *engine, uint64_t id)
{
    size_t removed = 0;
    queue_remove(&engine->ended, id, &removed);
    scheduler_cancel(engine->scheduler, id, &removed);
    engine->pending -= removed;
}

static void take_token(struct engine *engine, struct job *job, const struct draw *draw)
{
    engine->statistics.generated_tokens++;
    job_take(job, draw->token, draw->logprob);
    if (!job->ended)
        return;
    scheduler_remove(engine->scheduler, job);
    queue_push(&engine->ended, job);
}

static uint64_t *bits_at(struct engine *engine, size_t row)
{
    if (!engine->masks)
        engine->masks = mem_alloc(2 * engine->slots * engine->mask_words * sizeof *engine->masks);
    return engine->masks + row * engine->mask_words;
}

// The schema's mask is good until the next one is asked for, so it is copied.
static const uint64_t *mask_of(struct engine *engine, size_t row, struct job *job)
{
    if (!job->output)
        return NULL;
    uint64_t *mask = bits_at(engine, row);
    memcpy(mask, json_output_mask(job->output, job->limit - job->count),
           engine->mask_words * sizeof *mask);
    return mask;
}

static void set_seen(struct engine *engine, size_t row, const struct job *job)
{
    uint64_t *bits = bits_at(engine, row);
    memset(bits, 0, engine->mask_words * sizeof *bits);
    for (size_t i = 0; i < job->count; i++)
        bits[job->tokens[i] / 64] |= UINT64_C(1) << (job->tokens[i] % 64);
}

static void take_logits(void *context, float *logits, size_t row, size_t rows)
{
    struct engine *engine = context;
    size_t vocabulary = (size_t)engine->model->config.vocabulary;
    for (size_t i = 0; i < rows; i++) {
        struct job *job = engine->scheduler->wanted_jobs[row + i];
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
static bool is_greedy(const struct scheduler *scheduler)
{
    for (size_t i = 0; i < scheduler->wanted_count; i++) {
        const struct job *job = scheduler->wanted_jobs[i];
        if (job->output || job->logprobs || !sampling_is_argmax(&job->sampling))
            return false;
    }
    return true;
}

// Probabilities of the model's own are asked for on the host.
static bool device_draws(const struct engine *engine)
{
    const struct scheduler *scheduler = engine->scheduler;
    bool draws = engine->model->device->ops->sample != NULL;
    for (size_t i = 0; i < scheduler->wanted_count; i++)
        draws = draws && !scheduler->wanted_jobs[i]->logprobs;
    return draws;
}

// Fills the rows that the device draws by; returns how many rows of bits they need.
static size_t set_rows(struct engine *engine, size_t count)
{
    size_t bits = 0;
    for (size_t i = 0; i < count; i++) {
        struct job *job = engine->scheduler->wanted_jobs[i];
        const float penalty = job->sampling.repetition_penalty;
        const struct draw draw = {
            .sampling = &job->sampling, .seed = job->seed, .index = job->count - job->prompt_count};
        engine->rows[i] = draw_row(&draw);
        if (mask_of(engine, bits, job))
            engine->rows[i].mask = (int32_t)bits++;
        if (penalty != 0 && penalty != 1) {
            set_seen(engine, bits, job);
            engine->rows[i].seen = (int32_t)bits++;
        }
    }
    return bits;
}

static int compute(struct engine *engine, const struct step_tokens *step, struct error *err)
{
    const bool greedy = is_greedy(engine->scheduler);
    struct step_draws draws = {.rows = engine->rows};
    if (!greedy && !device_draws(engine))
        return model_step_slices(engine->model, engine->cache, step,
                                 &(struct logits_taker){take_logits, engine}, err);
    if (!greedy) {
        draws.bit_rows = set_rows(engine, step->wanted_count);
        draws.bits = engine->masks;
    }
    if (model_step_draw(engine->model, engine->cache, step, greedy ? NULL : &draws, engine->chosen,
                        err))
        return -1;
    for (size_t i = 0; i < step->wanted_count; i++)
        engine->draws[i] = (struct draw){.token = engine->chosen[i]};
    return 0;
}

static int run_step(struct engine *engine, struct error *err)
{
    struct scheduler *scheduler = engine->scheduler;
    scheduler_plan(scheduler);
    assert(scheduler->tokens > 0);
    const struct step_tokens step = {
        .ids = scheduler->ids,
        .sequences = scheduler->sequences,
        .positions = scheduler->positions,
        .tokens = scheduler->tokens,
        .tables = scheduler->tables,
        .sequence_count = scheduler->piece_count,
        .wanted = scheduler->wanted,
        .wanted_count = scheduler->wanted_count,
    };
    if (compute(engine, &step, err))
        return -1;
    engine->statistics.steps++;
    scheduler_computed(scheduler);
    for (size_t i = 0; i < step.wanted_count; i++)
        take_token(engine, scheduler->wanted_jobs[i], &engine->draws[i]);
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

bool engine_peek(const struct engine *engine, uint64_t id, const char **text, size_t *bytes)
{
    const struct scheduler *scheduler = engine->scheduler;
    for (size_t i = 0; i < scheduler->running_count; i++) {
        const struct job *job = scheduler->running[i];
        if (job->id != id)
            continue;
        *text = job->text.length ? job->text.bytes : "";
        *bytes = job_settled_bytes(job);
        return true;
    }
    return false;
}

size_t engine_pending(const struct engine *engine)
{
    return engine->pending;
}

struct engine_statistics engine_statistics(const struct engine *engine)
{
    const struct prefix_tree *tree = engine->scheduler->tree;
    struct engine_statistics statistics = engine->statistics;
    statistics.evictions = tree->evictions;
    statistics.blocks_kept = tree->kept_count;
    statistics.blocks_used = tree->block_count - tree->free_count - tree->kept_count;
    return statistics;
}
