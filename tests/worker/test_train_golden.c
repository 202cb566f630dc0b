// SPDX-License-Identifier: Apache-2.0
// Thirty-two steps against torch.optim.AdamW on a model of transformers:
// tests/oracle/adamw_golden.py wrote the files.
#include "tests/worker/train_fixture.h"

#include "datasets/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <string.h>

static const char directory[] = GOLDEN_DIRECTORY "/adamw";

static const struct safetensors_entry *entry_of(const struct safetensors *file, const char *name)
{
    const struct safetensors_entry *entry = safetensors_find(file, name);
    if (!entry)
        fail_msg("the golden file has no '%s'", name);
    return entry;
}

static int32_t integer_at(const struct safetensors *file, const char *name, size_t i)
{
    const struct safetensors_entry *entry = entry_of(file, name);
    int32_t value;
    assert_true((i + 1) * sizeof(value) <= entry->bytes);
    memcpy(&value, (const char *)entry->data + i * sizeof(value), sizeof(value));
    return value;
}

static double double_at(const struct safetensors *file, const char *name, size_t i)
{
    const struct safetensors_entry *entry = entry_of(file, name);
    double value;
    assert_true((i + 1) * sizeof(value) <= entry->bytes);
    memcpy(&value, (const char *)entry->data + i * sizeof(value), sizeof(value));
    return value;
}

static void read_sequences(const struct safetensors *file, struct sequence_set *set)
{
    const size_t count = entry_of(file, "target_begin")->bytes / sizeof(int32_t);
    for (size_t s = 0; s < count; s++) {
        int32_t ids[64];
        const int32_t begin = integer_at(file, "offsets", s);
        const int32_t end = integer_at(file, "offsets", s + 1);
        for (int32_t t = begin; t < end; t++)
            ids[t - begin] = integer_at(file, "ids", (size_t)t);
        assert_int_equal(sequence_set_add(set, ids, (size_t)(end - begin),
                                          (size_t)integer_at(file, "target_begin", s),
                                          (size_t)integer_at(file, "target_end", s), 64),
                         0);
    }
}

static struct training golden_training(const struct sequence_set *set)
{
    struct training training = training_default(set);
    training.model = directory;
    training.options.plan = (struct step_plan){.seed = 5, .per_step = 8, .epochs = 8};
    training.options.schedule.peak = 1e-3;
    training.options.warmup_fraction = 0.2;
    training.options.micro_batch_tokens = 64;
    return training;
}

static void the_order_of_sequences_is_the_golden_one(void **state)
{
    const struct safetensors *file = *state;
    struct sequence_set set = {0};
    struct step_cursor cursor = {0};
    read_sequences(file, &set);
    const struct step_plan plan = golden_training(&set).options.plan;
    size_t at = 0;
    for (size_t step = 0; step < plan_steps(&plan, &set); step++) {
        size_t count;
        const uint32_t *sequences = step_cursor_sequences(&cursor, &plan, &set, step, &count);
        for (size_t i = 0; i < count; i++)
            assert_int_equal(sequences[i], integer_at(file, "order", at++));
    }
    assert_int_equal(at * sizeof(int32_t), entry_of(file, "order")->bytes);
    step_cursor_release(&cursor);
    sequence_set_release(&set);
}

// Against the largest weight of the tensor. Decay alone moves a weight by 2e-4 of itself, so that
// the tolerance sees what decays and what does not.
static void assert_weights_near(const struct training *training, const struct safetensors *file,
                                const struct parameter *p)
{
    char name[128];
    snprintf(name, sizeof(name), "final.%s", p->name);
    const struct safetensors_entry *entry = entry_of(file, name);
    assert_int_equal(entry->bytes, p->count * sizeof(float));
    double largest = 0, error = 0;
    for (uint64_t i = 0; i < p->count; i++) {
        float expected;
        memcpy(&expected, (const char *)entry->data + i * sizeof(expected), sizeof(expected));
        largest = fmax(largest, fabs(expected));
        error = fmax(error, fabs((double)training->state[p->offset + i] - expected));
    }
    if (!(error <= 2e-5 * largest))
        fail_msg("%s is %g off, its largest weight is %g", p->name, error, largest);
}

static void thirty_two_steps_agree_with_torch(void **state)
{
    const struct safetensors *file = *state;
    struct sequence_set set = {0};
    read_sequences(file, &set);
    struct training training = golden_training(&set);
    training_run_well(&training);
    assert_int_equal(training.steps, 32);
    for (size_t i = 0; i < 32; i++) {
        const double loss = double_at(file, "losses", i), norm = double_at(file, "norms", i);
        if (!(fabs(training.stats[i].loss - loss) <= 5e-6 * loss))
            fail_msg("step %zu: loss %.9g, torch %.9g", i, training.stats[i].loss, loss);
        if (!(fabs(training.stats[i].grad_norm - norm) <= 1e-5 * norm))
            fail_msg("step %zu: norm %.9g, torch %.9g", i, training.stats[i].grad_norm, norm);
    }
    struct error err;
    struct device *device;
    struct model *model;
    const struct device_options options = {.backend = "ref", .threads = 1};
    if (device_create(&options, &device, &err) ||
        model_load(device, directory, DTYPE_F32, &model, &err))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < model->layout.parameter_count; i++)
        assert_weights_near(&training, file, &model->layout.parameters[i]);
    model_destroy(model);
    device_destroy(device);
    training_release(&training);
    sequence_set_release(&set);
}

static int open_golden(void **state)
{
    static struct safetensors file;
    struct error err;
    *state = &file;
    return safetensors_open(GOLDEN_DIRECTORY "/adamw/expected.safetensors", &file, &err);
}

static int close_golden(void **state)
{
    safetensors_close(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_order_of_sequences_is_the_golden_one),
        cmocka_unit_test(thirty_two_steps_agree_with_torch),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
