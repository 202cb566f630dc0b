// SPDX-License-Identifier: Apache-2.0
// Whatever happens in the engine, a request gets what a loop over one sequence would give it, bit
// for bit: the whole prompt in one step, then token by token.
#include "tests/worker/model_fixture.h"

#include "base/mem.h"
#include "base/random.h"
#include "worker/engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#ifndef REQUESTS // sanitizers take fewer
#define REQUESTS 200
#endif
enum { DOCUMENTS = 7, CAPACITY = 210, LONGEST = 60, VOCABULARY = 37, ANSWER = 96 };

struct request {
    int32_t prompt[CAPACITY];
    struct engine_request engine; // points at prompt and stops
};

struct answer {
    size_t count;
    enum engine_reason reason;
    int32_t ids[ANSWER];
    float logprobs[ANSWER];
};

struct rig {
    struct device *device;
    struct model *model;
    struct request *requests; // [REQUESTS]
    struct answer *expected;  // [REQUESTS]
};

static uint64_t pick(uint64_t stream, uint64_t counter, uint64_t limit)
{
    return random_u64(77, stream, counter) % limit;
}

static const struct sampling samplings[] = {
    {.temperature = 0},
    {.temperature = 1},
    {.temperature = 0.8f, .top_k = 7},
    {.temperature = 1.3f, .top_p = 0.8f},
    {.temperature = 1, .top_k = 20, .top_p = 0.9f, .min_p = 0.02f},
    {.repetition_penalty = 1.3f},
    {.temperature = 1.5f, .repetition_penalty = 1.1f, .min_p = 0.05f},
};

enum { SAMPLINGS = sizeof samplings / sizeof *samplings };

// A part of a document, mostly all of it, and some tokens of its own. Some are twins; two in five
// write so much that they outgrow what they found when they came.
static void make_request(struct request *out, uint64_t i)
{
    static const int32_t stops[] = {3, 14};
    uint64_t document = pick(1, i, DOCUMENTS), like = i % 11 == 10 ? i - 1 : i;
    document = pick(1, like, DOCUMENTS);
    size_t whole = 5 + pick(2, document, LONGEST - 20);
    size_t shared = pick(3, like, 4) == 0 ? 1 + pick(4, like, whole) : whole;
    size_t own = pick(5, like, 14), count = 0;
    for (size_t t = 0; t < shared; t++)
        out->prompt[count++] = (int32_t)pick(100 + document, t, VOCABULARY);
    for (size_t t = 0; t < own; t++)
        out->prompt[count++] = (int32_t)pick(200 + like, t, VOCABULARY);
    out->engine =
        (struct engine_request){.id = i,
                                .prompt = out->prompt,
                                .prompt_count = count,
                                .max_new = i % 5 < 2 ? ANSWER - pick(6, i, 32) : 1 + pick(6, i, 24),
                                .stop_ids = stops,
                                .stop_count = i % 3 == 0 ? 2 : 0,
                                .sampling = samplings[i % SAMPLINGS],
                                .seed = 1000 + like,
                                .logprobs = i % 4 == 0};
}

static bool stops_at(const struct engine_request *request, int32_t token)
{
    for (size_t i = 0; i < request->stop_count; i++)
        if (request->stop_ids[i] == token)
            return true;
    return false;
}

static void step_alone(struct rig *rig, struct kv_cache *cache, const int32_t *tokens, size_t first,
                       size_t count, float *logits)
{
    static int32_t table[CAPACITY / KV_BLOCK_TOKENS + 1], sequences[CAPACITY];
    int32_t positions[CAPACITY], wanted = (int32_t)count - 1;
    struct error err;
    for (int32_t b = 0; b <= CAPACITY / KV_BLOCK_TOKENS; b++)
        table[b] = b;
    for (size_t t = 0; t < count; t++)
        positions[t] = (int32_t)(first + t);
    if (model_step(rig->model, cache,
                   &(struct step_tokens){.ids = tokens + first,
                                         .sequences = sequences,
                                         .positions = positions,
                                         .tokens = count,
                                         .tables = table,
                                         .sequence_count = 1,
                                         .wanted = &wanted,
                                         .wanted_count = 1},
                   logits, &err))
        fail_msg("%s", err.text);
}

static void answer_alone(struct rig *rig, struct kv_cache *cache, struct sampler *sampler,
                         const struct engine_request *request, struct answer *out)
{
    int32_t tokens[CAPACITY + ANSWER];
    float logits[VOCABULARY];
    size_t count = request->prompt_count;
    memcpy(tokens, request->prompt, count * sizeof *tokens);
    *out = (struct answer){.reason = ENGINE_LENGTH};
    step_alone(rig, cache, tokens, 0, count, logits);
    for (;;) {
        struct draw draw = {.logits = logits,
                            .sampling = &request->sampling,
                            .seen = tokens,
                            .seen_count = count,
                            .seed = request->seed,
                            .index = out->count,
                            .wants_logprob = request->logprobs};
        sampler_draw(sampler, &draw, 1);
        if (stops_at(request, draw.token)) {
            out->reason = ENGINE_STOP;
            return;
        }
        out->logprobs[out->count] = draw.logprob;
        out->ids[out->count++] = tokens[count++] = draw.token;
        if (out->count == request->max_new)
            return;
        step_alone(rig, cache, tokens, count - 1, 1, logits);
    }
}

static void setup(struct rig *rig, struct model_config config, enum dtype dtype)
{
    struct error err;
    struct kv_cache *cache;
    struct sampler *sampler;
    struct kv_cache_size size = {.blocks = kv_blocks(CAPACITY),
                                 .capacity = CAPACITY,
                                 .sequences = 1,
                                 .max_tokens = CAPACITY};
    config.max_positions = CAPACITY;
    config.vocabulary = VOCABULARY;
    rig->device = fixture_device();
    rig->model = fixture_model(rig->device, &config, dtype, 5);
    rig->requests = mem_calloc(REQUESTS, sizeof *rig->requests);
    rig->expected = mem_calloc(REQUESTS, sizeof *rig->expected);
    model_pack(rig->model); // as the engine does
    if (kv_cache_create(rig->model, &size, &cache, &err) ||
        sampler_create(VOCABULARY, 1, &sampler, &err))
        fail_msg("%s", err.text);
    for (uint64_t i = 0; i < REQUESTS; i++) {
        make_request(&rig->requests[i], i);
        answer_alone(rig, cache, sampler, &rig->requests[i].engine, &rig->expected[i]);
    }
    sampler_destroy(sampler);
    kv_cache_destroy(cache);
    model_unpack(rig->model);
}

static void teardown(struct rig *rig)
{
    free(rig->requests);
    free(rig->expected);
    model_destroy(rig->model);
    device_destroy(rig->device);
}

static void expect_answer(const struct rig *rig, const struct engine_result *result)
{
    const struct answer *expected = &rig->expected[result->id];
    assert_int_equal(result->reason, expected->reason);
    assert_int_equal(result->count, expected->count);
    assert_memory_equal(result->ids, expected->ids, result->count * sizeof *result->ids);
    assert_int_equal(!!result->logprobs, rig->requests[result->id].engine.logprobs);
    if (result->logprobs)
        assert_memory_equal(result->logprobs, expected->logprobs,
                            result->count * sizeof *result->logprobs);
    assert_true(result->cached_count < result->prompt_count);
}

// All requests through one engine; `ahead` of them are in flight at once, and every ninth is
// cancelled a while after it was submitted unless it has ended.
static struct engine_statistics run_all(struct rig *rig, const struct engine_options *options,
                                        size_t ahead, bool cancels)
{
    struct engine *engine;
    struct error err;
    bool seen[REQUESTS] = {false}, cancelled[REQUESTS] = {false};
    size_t submitted = 0, done = 0;
    if (engine_create(rig->model, options, &engine, &err))
        fail_msg("%s", err.text);
    while (done < REQUESTS) {
        while (submitted < REQUESTS && submitted < done + ahead) {
            engine_submit(engine, &rig->requests[submitted++].engine);
            size_t old = submitted - 1 - submitted % 5;
            if (cancels && old % 9 == 0 && old < submitted && !seen[old] && !cancelled[old]) {
                engine_cancel(engine, old);
                cancelled[old] = true;
                done++;
            }
        }
        if (done == REQUESTS)
            break;
        struct engine_result result;
        enum engine_poll polled = engine_poll(engine, &result, &err);
        assert_true(polled > ENGINE_IDLE);
        if (polled != ENGINE_RESULT)
            continue;
        assert_false(seen[result.id] || cancelled[result.id]);
        seen[result.id] = true;
        done++;
        expect_answer(rig, &result);
    }
    assert_int_equal(engine_pending(engine), 0);
    struct engine_statistics statistics = engine_statistics(engine);
    assert_int_equal(statistics.blocks_used, 0);
    engine_destroy(engine);
    return statistics;
}

static void check_model(struct model_config config, enum dtype dtype)
{
    struct rig rig;
    setup(&rig, config, dtype);
    struct engine_options options = {.slots = 1, .capacity = CAPACITY, .max_tokens = 64};
    struct engine_statistics alone = run_all(&rig, &options, 1, false);
    assert_int_equal(alone.preemptions, 0);

    options = (struct engine_options){.slots = REQUESTS,
                                      .capacity = CAPACITY,
                                      .max_tokens = 256,
                                      .cache_tokens = REQUESTS * CAPACITY};
    struct engine_statistics together = run_all(&rig, &options, REQUESTS, false);
    assert_int_equal(together.preemptions + together.evictions, 0);
    assert_true(together.steps < alone.steps / 10);
    assert_true(together.cached_tokens > 0);

    options = (struct engine_options){
        .slots = 12, .capacity = CAPACITY, .max_tokens = 23, .cache_tokens = 9 * KV_BLOCK_TOKENS};
    struct engine_statistics pressed = run_all(&rig, &options, 40, false);
    assert_true(pressed.preemptions > 0 && pressed.evictions > 0);
    run_all(&rig, &options, 60, true);
    teardown(&rig);
}

static void qwen2_answers_as_alone(void **state)
{
    (void)state;
    check_model(fixture_config(), DTYPE_F32);
}

static void qwen2_in_bfloat16_answers_as_alone(void **state)
{
    (void)state;
    check_model(fixture_config(), DTYPE_BF16);
}

static void one_key_head_answers_as_alone(void **state)
{
    (void)state;
    check_model(fixture_config_untied(), DTYPE_BF16);
}

static void windows_answer_as_alone(void **state)
{
    (void)state;
    struct model_config config = fixture_config_gemma3();
    config.window = 40; // over the edges of blocks
    check_model(config, DTYPE_F32);
}

static void convolutions_answer_as_alone(void **state)
{
    (void)state;
    check_model(fixture_config_lfm2(), DTYPE_F32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen2_answers_as_alone),
        cmocka_unit_test(qwen2_in_bfloat16_answers_as_alone),
        cmocka_unit_test(one_key_head_answers_as_alone),
        cmocka_unit_test(windows_answer_as_alone),
        cmocka_unit_test(convolutions_answer_as_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
