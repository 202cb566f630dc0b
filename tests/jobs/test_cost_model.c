// SPDX-License-Identifier: Apache-2.0
// The arithmetic of memo plan against figures that are known otherwise.
#include "jobs/cost_model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct cost_model shape(const char *name)
{
    struct model_config *config = calloc(1, sizeof(*config));
    struct cost_model model;
    struct error err;
    if (model_config_shape(name, config, &err))
        fail_msg("%s", err.text);
    cost_model_shape(config, &model);
    free(config);
    return model;
}

static const struct cost_hardware *hardware(const char *name)
{
    size_t i = 0;
    while (i < cost_hardware_count && strcmp(cost_hardware_rows[i].name, name) != 0)
        i++;
    assert_true(i < cost_hardware_count);
    return &cost_hardware_rows[i];
}

#define ALL_STEPS 0x7eu

static void shapes_are_those_of_the_published_models(void **state)
{
    (void)state;
    const struct cost_model small = shape("qwen2.5-14b"), large = shape("qwen2.5-32b");
    assert_true(fabs(small.parameters / 14.77e9 - 1) < 1e-3);
    assert_true(fabs(large.parameters / 32.76e9 - 1) < 1e-3);
    assert_true(large.kv_bytes == 2.0 * 2 * 64 * 8 * 128);
    assert_true(small.activation_bytes == 2.0 * 48 * 5120);           // 0.49 MB
    assert_true(shape("lfm2-1.2b").kv_bytes == 2.0 * 2 * 6 * 8 * 64); // 6 layers attend
}

// 14.77 G parameters: ZeRO-1 on 8 ranks 77.5 GB, one rank with 8-bit moments 118 GB.
static void memory_of_training_is_that_of_the_design(void **state)
{
    (void)state;
    const struct cost_model model = shape("qwen2.5-14b");
    struct cost_assumptions assume;
    struct cost_training out;
    cost_assumptions_default(&assume);
    struct cost_training_options options = {.pairs = 1000,
                                            .epochs = 3,
                                            .gpus = 8,
                                            .zero = 1,
                                            .moment_bytes = 8,
                                            .micro_tokens = 1000,
                                            .checkpoints = 1};
    cost_train(&options, &assume, &model, hardware("h200"), &out);
    assert_true(fabs(out.memory_bytes / 77.5e9 - 1) < 2e-3);
    assert_true(out.tokens == 3000 * assume.trained);
    assert_true(fabs(out.flops / (6 * model.parameters * out.tokens) - 1) < 1e-12);
    const double hours = out.gpu_hours;
    options.gpus = 1;
    options.moment_bytes = 2;
    cost_train(&options, &assume, &model, hardware("h200"), &out);
    assert_true(fabs(out.memory_bytes / 118.2e9 - 1) < 2e-3);
    assert_true(out.gpu_hours == hours); // GPU-hours do not depend on how many share them
    options.zero = 2;
    options.gpus = 8;
    cost_train(&options, &assume, &model, hardware("h200"), &out);
    assert_true(fabs(out.memory_bytes / (14.77e9 * (2 + 2.0 / 8 + 4.0 / 8)) - 1) < 2e-3);
}

static struct cost_generation generate(const struct cost_text *text, unsigned steps,
                                       const struct cost_assumptions *assume)
{
    const struct cost_model model = shape("qwen2.5-32b");
    struct cost_generation out;
    struct error err;
    if (cost_generate(text, assume, &model, hardware("h200"), steps, 0, 0, &out, &err))
        fail_msg("%s", err.text);
    return out;
}

static void twice_the_text_costs_twice(void **state)
{
    (void)state;
    struct cost_assumptions assume;
    cost_assumptions_default(&assume);
    const struct cost_text once = {.tokens = 1e6, .chunks = 200, .groups = 20};
    const struct cost_text twice = {.tokens = 2e6, .chunks = 400, .groups = 40};
    const struct cost_generation a = generate(&once, ALL_STEPS, &assume);
    const struct cost_generation b = generate(&twice, ALL_STEPS, &assume);
    assert_true(a.tasks == 220 && b.tasks == 440);
    assert_true(fabs(b.gpu_hours / a.gpu_hours - 2) < 1e-9);
    assert_true(fabs(b.all.pairs / a.all.pairs - 2) < 1e-9);
}

static void steps_are_counted_by_hand(void **state)
{
    (void)state;
    struct cost_assumptions assume;
    cost_assumptions_default(&assume);
    assume.direct = 10;
    assume.indirect = 5;
    assume.instruction = 100;
    assume.pair = 50;
    const struct cost_text text = {.tokens = 40000, .chunks = 10, .groups = 0};
    const struct cost_generation g =
        generate(&text, 1u << STEP_DIRECT | 1u << STEP_INDIRECT, &assume);
    const struct cost_step *direct = &g.steps[STEP_DIRECT], *indirect = &g.steps[STEP_INDIRECT];
    assert_true(direct->requests == 10 && direct->pairs == 400 && direct->output_tokens == 20000);
    assert_true(direct->prompt_tokens == 41000 && direct->cached_tokens == 0);
    assert_true(indirect->cached_tokens == 40000 && indirect->pairs == 200);
    assert_true(g.all.requests == 20 && g.all.pairs == 600 && g.tasks == 10);
    const double seconds = (82000 - 40000) / g.prefill_rate + 30000 / g.decode_rate;
    assert_true(fabs(g.gpu_hours / (seconds / assume.busy / 3600) - 1) < 1e-9);
    assert_true(fabs(g.prefill_rate / (0.5 * 780e12 / (2 * 32.76e9)) - 1) < 1e-3);
}

static void given_rates_replace_the_hardware(void **state)
{
    (void)state;
    struct cost_assumptions assume;
    struct cost_generation out;
    struct error err;
    cost_assumptions_default(&assume);
    const struct cost_model model = shape("qwen2.5-32b");
    const struct cost_text text = {.tokens = 1e6, .chunks = 200, .groups = 20};
    assert_int_equal(
        cost_generate(&text, &assume, &model, hardware("h200"), ALL_STEPS, 1000, 500, &out, &err),
        0);
    const double read = out.all.prompt_tokens - out.all.cached_tokens;
    assert_true(
        fabs(out.gpu_hours / ((read / 1000 + out.all.output_tokens / 500) / assume.busy / 3600) -
             1) < 1e-9);
}

static void a_model_that_does_not_fit_is_refused(void **state)
{
    (void)state;
    struct cost_assumptions assume;
    struct cost_generation out;
    struct error err;
    const struct cost_hardware little = {"little", 16e9, 1e12, 1e11, ""};
    const struct cost_model model = shape("qwen2.5-32b");
    const struct cost_text text = {.tokens = 1e6, .chunks = 200, .groups = 20};
    cost_assumptions_default(&assume);
    assert_int_equal(cost_generate(&text, &assume, &model, &little, ALL_STEPS, 0, 0, &out, &err),
                     -1);
    assert_non_null(strstr(err.text, "do not fit"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes_are_those_of_the_published_models),
        cmocka_unit_test(memory_of_training_is_that_of_the_design),
        cmocka_unit_test(twice_the_text_costs_twice),
        cmocka_unit_test(steps_are_counted_by_hand),
        cmocka_unit_test(given_rates_replace_the_hardware),
        cmocka_unit_test(a_model_that_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
