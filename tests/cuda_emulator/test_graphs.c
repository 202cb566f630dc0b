// SPDX-License-Identifier: Apache-2.0
// Decode steps captured in graphs: the engine answers the same with and without them, whatever
// joins and leaves the batch, and draws on the device what it draws on the host.
#include "tests/cuda_emulator/arrange.h"
#include "tests/worker/model_fixture.h"

#include "base/mem.h"
#include "base/random.h"
#include "kernels/backend.h"
#include "worker/engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Norm, queries with keys and values, rope with cache, attention, output, norm, gate
// and up, activation, down.
enum { LAUNCHES_PER_LAYER = 9, LAUNCHES_BESIDES = 15 };

enum { REQUESTS = 9, LONGEST = 14, CAPACITY = 60, DOCUMENT = 35 };

struct answers {
    int32_t ids[REQUESTS][LONGEST];
    size_t counts[REQUESTS];
};

static const struct sampling samplings[] = {{0},
                                            {.temperature = 1},
                                            {.temperature = 0.8f, .top_k = 5},
                                            {.temperature = 1.2f, .top_p = 0.8f, .min_p = 0.02f},
                                            {.temperature = 1, .repetition_penalty = 1.4f}};

// Requests of many lengths, more than there are slots; some begin with the same tokens.
static void submit_all(struct engine *engine, bool draws)
{
    for (uint64_t r = 0; r < REQUESTS; r++) {
        int32_t prompt[DOCUMENT + REQUESTS];
        const size_t count = r % 2 ? DOCUMENT + r : 3 + r;
        for (size_t t = 0; t < count; t++)
            prompt[t] = (int32_t)(random_u64(1, t < DOCUMENT ? r % 2 : r, t) % 37);
        engine_submit(engine, &(struct engine_request){
                                  .id = r,
                                  .prompt = prompt,
                                  .prompt_count = count,
                                  .max_new = 2 + r * 4 % (LONGEST - 1),
                                  .sampling = draws ? samplings[r % 5] : samplings[0],
                                  .seed = r,
                              });
    }
}

static void run(struct device *device, const struct model_config *config, bool draws,
                struct answers *out)
{
    const struct engine_options options = {.slots = 5, .capacity = CAPACITY, .max_tokens = 24};
    struct model *model = fixture_model(device, config, DTYPE_F32, 21);
    struct engine *engine = NULL;
    struct engine_result result;
    struct error err;
    enum engine_poll polled;
    memset(out, 0, sizeof *out);
    if (engine_create(model, &options, &engine, &err))
        fail_msg("%s", err.text);
    submit_all(engine, draws);
    while ((polled = engine_poll(engine, &result, &err)) > ENGINE_IDLE)
        if (polled == ENGINE_RESULT) {
            assert_true(result.count <= LONGEST);
            out->counts[result.id] = result.count;
            memcpy(out->ids[result.id], result.ids, result.count * sizeof *result.ids);
        }
    if (polled == ENGINE_FAILED)
        fail_msg("%s", err.text);
    engine_destroy(engine);
    model_destroy(model);
}

static struct device *create(const char *backend)
{
    struct device *device;
    struct error err;
    if (device_create(&(struct device_options){.backend = backend, .threads = 1}, &device, &err))
        fail_msg("%s", err.text);
    return device;
}

// The same backend without captured work, or without drawing.
static void run_without(const struct model_config *config, bool graphs, bool sample,
                        struct answers *out)
{
    struct device *device = create("cuda");
    struct memory memory = *device->backend->memory;
    struct backend backend = *device->backend;
    struct kernels ops = *device->ops;
    memory.capture = graphs ? memory.capture : NULL;
    ops.sample = sample ? ops.sample : NULL;
    backend.memory = &memory;
    device->backend = &backend;
    device->ops = &ops;
    run(device, config, true, out);
    device_destroy(device);
}

static void expect_same(const struct model_config *config, bool captures)
{
    struct answers captured, plain, on_host, greedy, expected;
    struct device *device = create("cuda"), *cpu = create("cpu");
    const unsigned before = emulator_graph_launches();
    run(device, config, true, &captured);
    assert_true((emulator_graph_launches() > before + 5) == captures);
    run_without(config, false, true, &plain);
    assert_memory_equal(&captured, &plain, sizeof plain);
    run_without(config, true, false, &on_host);
    assert_memory_equal(&captured, &on_host, sizeof on_host);
    run(device, config, false, &greedy);
    run(cpu, config, false, &expected);
    assert_memory_equal(&greedy, &expected, sizeof expected);
    device_destroy(device);
    device_destroy(cpu);
}

static void graphs_change_no_answer(void **state)
{
    (void)state;
    const struct model_config config = fixture_config();
    expect_same(&config, true);
}

static void graphs_change_no_answer_of_windows_and_norms(void **state)
{
    (void)state;
    const struct model_config config = fixture_config_gemma3();
    expect_same(&config, true);
}

static void models_with_states_are_not_captured(void **state)
{
    (void)state;
    const struct model_config config = fixture_config_lfm2();
    expect_same(&config, false);
}

// One decode step of a single sequence.
static int step(struct model *model, struct kv_cache *cache, int32_t position, int32_t *out,
                struct error *err)
{
    static const int32_t zero, tables[] = {0, 1};
    const int32_t id = position % 37;
    return model_step_greedy(model, cache,
                             &(struct step_tokens){.ids = &id,
                                                   .sequences = &zero,
                                                   .positions = &position,
                                                   .tokens = 1,
                                                   .tables = tables,
                                                   .sequence_count = 1,
                                                   .wanted = &zero,
                                                   .wanted_count = 1},
                             out, err);
}

// Weights that move take their graphs with them: none reads memory that was freed.
static void moved_weights_are_captured_anew(void **state)
{
    (void)state;
    const struct model_config config = fixture_config();
    struct device *device = create("cuda");
    struct model *model = fixture_model(device, &config, DTYPE_F32, 21);
    struct kv_cache *cache;
    struct error err;
    int32_t out;
    const struct kv_cache_size size = {
        .blocks = 2, .capacity = 40, .sequences = 1, .max_tokens = 4};
    assert_int_equal(kv_cache_create(model, &size, &cache, &err), 0);
    for (int32_t p = 0; p < 12; p++) {
        if (p == 6) {
            struct tensor weights = {.dtype = DTYPE_F32};
            const size_t bytes = model->layout.elements * sizeof(float);
            assert_int_equal(device_alloc(device, bytes, &weights.data, &err), 0);
            device_copy(device, weights.data, model->weights.data, bytes);
            model_replace_weights(model, weights);
        }
        if (step(model, cache, p, &out, &err))
            fail_msg("position %d: %s", p, err.text);
    }
    kv_cache_destroy(cache);
    model_destroy(model);
    device_destroy(device);
}

// Of a step that is captured already.
static unsigned launches_of_step(int layers, bool print)
{
    struct model_config config = fixture_config();
    struct device *device = create("cuda");
    struct kv_cache *cache;
    struct error err;
    int32_t out;
    config.layers = layers;
    struct model *model = fixture_model(device, &config, DTYPE_BF16, 21);
    const struct kv_cache_size size = {
        .blocks = 2, .capacity = 40, .sequences = 1, .max_tokens = 4};
    assert_int_equal(kv_cache_create(model, &size, &cache, &err), 0);
    for (int32_t p = 0; p < 4; p++) {
        emulator_count_launches();
        if (step(model, cache, p, &out, &err))
            fail_msg("position %d: %s", p, err.text);
    }
    const unsigned launches = emulator_launches();
    if (print)
        emulator_print_launches();
    kv_cache_destroy(cache);
    model_destroy(model);
    device_destroy(device);
    return launches;
}

// Each costs a GPU a microsecond or two, whatever it does: nine a layer are 576 of 64 layers.
static void a_step_launches_little(void **state)
{
    (void)state;
    const unsigned two = launches_of_step(2, true), four = launches_of_step(4, false);
    printf("launches of a decode step: %u a layer, %u besides\n", (four - two) / 2,
           two - (four - two));
    assert_true((four - two) / 2 <= LAUNCHES_PER_LAYER);
    assert_true(two - (four - two) <= LAUNCHES_BESIDES);
}

// What a graph names must stay: the emulator sees that it did not.
static void zero(void *context)
{
    device_zero(((void **)context)[0], ((void **)context)[1], 64);
}

static void replay_of_freed_memory_is_a_fault(void **state)
{
    (void)state;
    struct device *device = create("cuda");
    struct error err;
    void *block, *captured, *context[2];
    assert_int_equal(device_alloc(device, 64, &block, &err), 0);
    context[0] = device;
    context[1] = block;
    assert_int_equal(device_capture(device, zero, context, &captured, &err), 0);
    device_replay(device, captured);
    assert_int_equal(device_sync(device, &err), 0);
    device_free(device, block);
    device_replay(device, captured);
    assert_int_equal(device_sync(device, &err), -1);
    assert_non_null(strstr(err.text, "memory of the device that was freed"));
    device_forget(device, captured);
    device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(graphs_change_no_answer),
        cmocka_unit_test(graphs_change_no_answer_of_windows_and_norms),
        cmocka_unit_test(models_with_states_are_not_captured),
        cmocka_unit_test(moved_weights_are_captured_anew),
        cmocka_unit_test(a_step_launches_little),
        cmocka_unit_test(replay_of_freed_memory_is_a_fault), // its error stays: the last test
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
