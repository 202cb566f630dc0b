// SPDX-License-Identifier: Apache-2.0
// The same steps of training on the CPU and on the backend under test (MEMO_TEST_BACKEND, cuda
// unless told otherwise; MEMO_TEST_STEPS, 30): losses agree, and fall.
#include "base/random.h"
#include "worker/train/trainer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { STEPS_LIMIT = 30, SEQUENCES = 24, LONGEST = 70, PER_STEP = 6, SKIPPED = 77 };

static const char *backend;
static size_t steps = STEPS_LIMIT;

static const struct model_config config = {
    .architecture = ARCHITECTURE_QWEN2,
    .layers = 2,
    .hidden = 64,
    .heads = 2,
    .kv_heads = 1,
    .head_width = 32,
    .ffn = 136,
    .vocabulary = 211,
    .max_positions = 128,
    .rope_theta = 1e4,
    .rms_epsilon = 1e-6,
    .tied = true,
    .qkv_bias = true,
    .activation = ACTIVATION_SILU,
};

// Lengths that are odd, some longer than a tile of attention; few different tokens, to be learnt.
static void fill(struct sequence_set *set)
{
    int32_t ids[LONGEST];
    for (size_t s = 0; s < SEQUENCES; s++) {
        const size_t length = 3 + random_u64(1, s, 0) % (LONGEST - 2);
        for (size_t t = 0; t < length; t++)
            ids[t] = (int32_t)(random_u64(2, s, t) % 50);
        sequence_set_add(set, ids, length, length / 2, length, LONGEST);
    }
}

static void train(const char *name, struct state_form form, enum dtype grads, double *losses)
{
    const struct device_options options = {.backend = name, .threads = 1};
    const struct trainer_options how = {
        .plan = {.seed = 1, .per_step = PER_STEP, .epochs = STEPS_LIMIT},
        .schedule = {.peak = 2e-3},
        .micro_batch_tokens = 160,
        .optimizer = {.form = form, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8},
        .grads = grads,
        .clip_norm = 1};
    struct sequence_set set = {0};
    struct device *device = NULL;
    struct group *group = NULL;
    struct model *model = NULL;
    struct trainer *trainer = NULL;
    struct step_stats stats;
    struct error err;
    fill(&set);
    if (device_create(&options, &device, &err) || group_open_self(&group, &err) ||
        model_create(device, &config, DTYPE_F32, &model, &err) ||
        model_init_random(model, 3, &err) ||
        trainer_create(model, group, &set, &how, &trainer, &err))
        fail_msg("%s: %s", name, err.text);
    for (size_t s = 0; s < steps; s++) {
        if (trainer_step(trainer, &stats, &err))
            fail_msg("%s, step %zu: %s", name, s, err.text);
        losses[s] = stats.loss;
    }
    trainer_destroy(trainer);
    model_destroy(model);
    group_close(group);
    device_destroy(device);
    sequence_set_release(&set);
}

static void expect_agreement(struct state_form form, enum dtype grads, double tolerance)
{
    double expected[STEPS_LIMIT], got[STEPS_LIMIT], largest = 0;
    train("cpu", form, grads, expected);
    train(backend, form, grads, got);
    for (size_t s = 0; s < steps; s++)
        largest = fmax(largest, fabs(got[s] / expected[s] - 1));
    printf("%s weights, %s moments, %s gradients: losses %.4f to %.4f, off by %.2g at most\n",
           dtype_name(form.weights), moment_kind_name(form.moments), dtype_name(grads), got[0],
           got[steps - 1], largest);
    if (!(largest <= tolerance))
        fail_msg("losses differ by %.3g, %.3g is allowed", largest, tolerance);
    assert_true(got[steps - 1] < got[0]);
}

static void float32_losses_agree(void **state)
{
    (void)state;
    expect_agreement((struct state_form){DTYPE_F32, MOMENTS_F32}, DTYPE_F32, 1e-4);
}

static void bfloat16_losses_agree(void **state)
{
    (void)state;
    expect_agreement((struct state_form){DTYPE_BF16, MOMENTS_F32}, DTYPE_F32, 2e-2);
}

static void eight_bit_moments_agree(void **state)
{
    (void)state;
    expect_agreement((struct state_form){DTYPE_BF16, MOMENTS_8BIT}, DTYPE_F32, 2e-2);
}

static void bfloat16_gradients_agree(void **state)
{
    (void)state;
    expect_agreement((struct state_form){DTYPE_BF16, MOMENTS_8BIT}, DTYPE_BF16, 2e-2);
}

int main(void)
{
    const char *name = getenv("MEMO_TEST_BACKEND"), *count = getenv("MEMO_TEST_STEPS");
    struct device *device;
    struct error err;
    backend = name ? name : "cuda";
    if (count && atoi(count) > 1 && atoi(count) < STEPS_LIMIT)
        steps = (size_t)atoi(count);
    if (device_create(&(struct device_options){.backend = backend}, &device, &err)) {
        printf("skipped: %s\n", err.text);
        return SKIPPED;
    }
    device_destroy(device);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(float32_losses_agree),
        cmocka_unit_test(bfloat16_losses_agree),
        cmocka_unit_test(eight_bit_moments_agree),
        cmocka_unit_test(bfloat16_gradients_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
