// SPDX-License-Identifier: Apache-2.0
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

enum { REQUESTS = 17, CAPACITY = 40, WIDE_CAPACITY = 120, VOCABULARY = 37 };

struct rig {
    struct device *device;
    struct model *model;
    size_t capacity;
};

static void setup_typed(struct rig *rig, enum dtype dtype)
{
    struct model_config config = fixture_config();
    rig->device = fixture_device();
    rig->model = fixture_model(rig->device, &config, dtype, 3);
    rig->capacity = CAPACITY;
}

static void setup(struct rig *rig)
{
    setup_typed(rig, fixture_dtype());
}

// Wide enough for every vector register and long enough for every block of a fast backend.
static void setup_wide(struct rig *rig)
{
    struct model_config config = fixture_config();
    config.hidden = 144;
    config.heads = 4;
    config.kv_heads = 2;
    config.head_width = 40;
    config.ffn = 200;
    config.max_positions = WIDE_CAPACITY;
    rig->device = fixture_device();
    rig->model = fixture_model(rig->device, &config, fixture_dtype(), 3);
    rig->capacity = WIDE_CAPACITY;
}

static void teardown(struct rig *rig)
{
    model_destroy(rig->model);
    device_destroy(rig->device);
}

static struct engine *create(struct rig *rig, size_t slots, size_t max_tokens)
{
    struct error err;
    struct engine *engine;
    struct engine_options options = {
        .slots = slots, .capacity = rig->capacity, .max_tokens = max_tokens};
    if (engine_create(rig->model, &options, &engine, &err))
        fail_msg("%s", err.text);
    return engine;
}

struct answer {
    enum engine_reason reason;
    size_t count;
    int32_t ids[WIDE_CAPACITY + 1];
};

// Polls until a result comes; false when nothing is left.
static bool next_result(struct engine *engine, struct engine_result *result)
{
    struct error err;
    for (;;) {
        enum engine_poll poll = engine_poll(engine, result, &err);
        if (poll == ENGINE_FAILED)
            fail_msg("%s", err.text);
        if (poll != ENGINE_RUNNING)
            return poll == ENGINE_RESULT;
    }
}

static void keep(struct answer *out, const struct engine_result *result)
{
    out->reason = result->reason;
    out->count = result->count;
    memcpy(out->ids, result->ids, result->count * sizeof *out->ids);
}

// Request i: a random prompt that leaves at least 12 tokens of capacity, up to 12 new ones; five of
// the tokens stop it.
static void submit(struct engine *engine, const struct rig *rig, uint64_t i)
{
    static const int32_t stops[] = {2, 5, 11, 19, 30};
    int32_t prompt[WIDE_CAPACITY];
    size_t count = 1 + random_u64(1, i, 0) % (rig->capacity - 12);
    for (size_t j = 0; j < count; j++)
        prompt[j] = (int32_t)(random_u64(1, i, j + 1) % VOCABULARY);
    struct engine_request request = {.id = 100 + i,
                                     .prompt = prompt,
                                     .prompt_count = count,
                                     .max_new = 1 + i % 12,
                                     .stop_ids = stops,
                                     .stop_count = 5};
    engine_submit(engine, &request);
    memset(prompt, -1, sizeof prompt); // the engine keeps its own copy
}

static void answers_alone(struct rig *rig, struct answer *out)
{
    for (uint64_t i = 0; i < REQUESTS; i++) {
        struct engine *engine = create(rig, 1, 64);
        struct engine_result result;
        submit(engine, rig, i);
        assert_true(next_result(engine, &result));
        keep(&out[i], &result);
        assert_false(next_result(engine, &result));
        engine_destroy(engine);
    }
}

// All requests in one engine, half of them joining while it runs; counts those that met a stop
// token.
static size_t answers_together(struct rig *rig, struct engine *engine, const struct answer *alone)
{
    bool seen[REQUESTS] = {false};
    uint64_t submitted = 0;
    size_t stopped = 0;
    struct engine_result result;
    for (; submitted < REQUESTS / 2; submitted++)
        submit(engine, rig, submitted);
    for (size_t done = 0; done < REQUESTS; done++) {
        if (submitted < REQUESTS)
            submit(engine, rig, submitted++);
        assert_true(next_result(engine, &result));
        const struct answer *expected = &alone[result.id - 100];
        assert_false(seen[result.id - 100]);
        seen[result.id - 100] = true;
        assert_int_equal(result.reason, expected->reason);
        assert_int_equal(result.count, expected->count);
        assert_memory_equal(result.ids, expected->ids, result.count * sizeof *result.ids);
        stopped += result.reason == ENGINE_STOP;
    }
    assert_false(next_result(engine, &result));
    assert_int_equal(engine_pending(engine), 0);
    return stopped;
}

static void check_layouts(struct rig *rig)
{
    static const size_t layouts[][2] = {{1, 1}, {4, 4}, {3, 7}, {5, 64}, {17, 512}};
    enum { LAYOUTS = sizeof layouts / sizeof *layouts };
    struct answer *alone = mem_calloc(REQUESTS, sizeof *alone);
    size_t stopped = 0;
    answers_alone(rig, alone);
    for (size_t i = 0; i < LAYOUTS; i++) {
        struct engine *engine = create(rig, layouts[i][0], layouts[i][1]);
        stopped += answers_together(rig, engine, alone);
        engine_destroy(engine);
    }
    assert_true(stopped > 0 && stopped < REQUESTS * LAYOUTS); // both kinds of end occurred
    free(alone);
}

static void answers_do_not_depend_on_the_batch(void **state)
{
    (void)state;
    struct rig rig;
    setup(&rig);
    check_layouts(&rig);
    teardown(&rig);
}

static void long_answers_of_a_wide_model_do_not_either(void **state)
{
    (void)state;
    struct rig rig;
    setup_wide(&rig);
    check_layouts(&rig);
    teardown(&rig);
}

static void answer_is_the_greedy_continuation(void **state)
{
    (void)state;
    struct rig rig;
    struct error err;
    struct workspace *workspace;
    struct fixture_batch batch;
    static const int lengths[] = {20, -1};
    setup_typed(&rig, DTYPE_F32);
    fixture_batch_fill(&batch, lengths, VOCABULARY, 9);
    struct engine *engine = create(&rig, 2, 8);
    engine_submit(engine,
                  &(struct engine_request){.prompt = batch.ids, .prompt_count = 10, .max_new = 10});
    struct engine_result result;
    assert_true(next_result(engine, &result));
    assert_int_equal(result.count, 10);
    assert_int_equal(result.prompt_count, 10);
    assert_int_equal(result.reason, ENGINE_LENGTH);
    memcpy(batch.ids + 10, result.ids, 10 * sizeof *result.ids);
    float *logits = mem_calloc(20 * VOCABULARY, sizeof *logits);
    assert_int_equal(workspace_create(rig.model, 20, false, &workspace, &err), 0);
    assert_int_equal(model_logits(rig.model, workspace, &batch.batch, logits, &err), 0);
    for (size_t t = 9; t < 19; t++) {
        const float *row = logits + t * VOCABULARY;
        for (size_t v = 0; v < VOCABULARY; v++)
            assert_true(row[v] <= row[batch.ids[t + 1]] + 1e-4f);
    }
    struct engine_statistics statistics = engine_statistics(engine);
    assert_int_equal(statistics.prompt_tokens, 10);
    assert_int_equal(statistics.generated_tokens, 10);
    assert_int_equal(statistics.steps, 11); // the prompt in two pieces
    free(logits);
    workspace_destroy(workspace);
    engine_destroy(engine);
    teardown(&rig);
}

static void capacity_ends_an_answer(void **state)
{
    (void)state;
    struct rig rig;
    int32_t prompt[CAPACITY + 1] = {0};
    struct engine_result result;
    setup(&rig);
    struct engine *engine = create(&rig, 2, 64);
    struct engine_request request = {.prompt = prompt, .max_new = SIZE_MAX};
    request.prompt_count = CAPACITY;
    engine_submit(engine, &request);
    assert_true(next_result(engine, &result));
    assert_int_equal(result.reason, ENGINE_LENGTH);
    assert_int_equal(result.count, 1);
    request.prompt_count = CAPACITY - 3;
    engine_submit(engine, &request);
    assert_true(next_result(engine, &result));
    assert_int_equal(result.count, 4);
    request.max_new = 0;
    engine_submit(engine, &request);
    assert_true(next_result(engine, &result));
    assert_int_equal(result.reason, ENGINE_LENGTH);
    assert_int_equal(result.count, 0);
    engine_destroy(engine);
    teardown(&rig);
}

static void impossible_requests_come_back_with_the_reason(void **state)
{
    (void)state;
    static const struct {
        size_t count;
        int32_t id;
        const char *problem;
    } cases[] = {
        {CAPACITY + 1, 0, "the prompt has 41 tokens, at most 40 fit"},
        {0, 0, "the prompt is empty"},
        {3, 37, "prompt token 2 is 37, outside the vocabulary of 37"},
        {3, -1, "prompt token 2 is -1, outside the vocabulary of 37"},
    };
    struct rig rig;
    setup(&rig);
    struct engine *engine = create(&rig, 1, 64);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t prompt[CAPACITY + 1] = {0};
        struct engine_result result;
        prompt[2] = cases[i].id;
        engine_submit(engine,
                      &(struct engine_request){
                          .id = i, .prompt = prompt, .prompt_count = cases[i].count, .max_new = 4});
        assert_true(next_result(engine, &result));
        assert_int_equal(result.id, i);
        assert_int_equal(result.reason, ENGINE_REJECTED);
        assert_int_equal(result.count, 0);
        assert_string_equal(result.problem, cases[i].problem);
    }
    engine_destroy(engine);
    teardown(&rig);
}

static void engine_can_be_destroyed_while_it_runs(void **state)
{
    (void)state;
    struct rig rig;
    struct engine_result result;
    struct error err;
    setup(&rig);
    struct engine *engine = create(&rig, 2, 4);
    for (uint64_t i = 0; i < 6; i++)
        submit(engine, &rig, i);
    engine_poll(engine, &result, &err);
    engine_poll(engine, &result, &err);
    engine_destroy(engine);
    engine_destroy(NULL);
    teardown(&rig);
}

static void senseless_options_are_rejected(void **state)
{
    (void)state;
    struct rig rig;
    struct error err = {{0}};
    struct engine *engine;
    setup(&rig);
    struct engine_options no_slots = {.slots = 0, .capacity = 8, .max_tokens = 8};
    struct engine_options few_tokens = {.slots = 4, .capacity = 8, .max_tokens = 3};
    struct engine_options too_long = {.slots = 1, .capacity = 65, .max_tokens = 8};
    assert_int_equal(engine_create(rig.model, &no_slots, &engine, &err), -1);
    assert_int_equal(engine_create(rig.model, &few_tokens, &engine, &err), -1);
    assert_non_null(strstr(err.text, "4 slots and 3 tokens"));
    assert_int_equal(engine_create(rig.model, &too_long, &engine, &err), -1);
    assert_null(engine);
    teardown(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_do_not_depend_on_the_batch),
        cmocka_unit_test(long_answers_of_a_wide_model_do_not_either),
        cmocka_unit_test(answer_is_the_greedy_continuation),
        cmocka_unit_test(capacity_ends_an_answer),
        cmocka_unit_test(impossible_requests_come_back_with_the_reason),
        cmocka_unit_test(engine_can_be_destroyed_while_it_runs),
        cmocka_unit_test(senseless_options_are_rejected),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
