// SPDX-License-Identifier: Apache-2.0
// Twenty-four steps of adapters against PEFT: tests/oracle/lora_golden.py wrote the files.
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

static const char directory[] = GOLDEN_DIRECTORY "/lora";

enum { STEPS = 24 };

static const struct lora_options options = {
    .r = 4, .alpha = 6, .targets = (1u << LORA_TARGETS) - 1};

static const struct safetensors_entry *entry_of(const struct safetensors *file, const char *name)
{
    const struct safetensors_entry *entry = safetensors_find(file, name);
    if (!entry)
        fail_msg("the golden file has no '%s'", name);
    return entry;
}

static size_t integer_at(const struct safetensors *file, const char *name, size_t i)
{
    const struct safetensors_entry *entry = entry_of(file, name);
    int32_t value;
    assert_true((i + 1) * sizeof(value) <= entry->bytes);
    memcpy(&value, (const char *)entry->data + i * sizeof(value), sizeof(value));
    return (size_t)value;
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
        const size_t begin = integer_at(file, "offsets", s);
        const size_t end = integer_at(file, "offsets", s + 1);
        for (size_t t = begin; t < end; t++)
            ids[t - begin] = (int32_t)integer_at(file, "ids", t);
        assert_int_equal(sequence_set_add(set, ids, end - begin,
                                          integer_at(file, "target_begin", s),
                                          integer_at(file, "target_end", s), 64),
                         0);
    }
}

static struct training golden_training(const struct sequence_set *set)
{
    struct training training = training_default(set);
    training.model = directory;
    training.lora = &options;
    training.lora_initial = GOLDEN_DIRECTORY "/lora/expected.safetensors";
    training.options.plan = (struct step_plan){.seed = 5, .per_step = 8, .epochs = 8};
    training.options.schedule.peak = 5e-3;
    training.options.warmup_fraction = 0.2;
    training.options.micro_batch_tokens = 64;
    training.stop_after = STEPS;
    return training;
}

// Against the largest weight of the tensor.
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
        largest = fmax(largest, fabs((double)expected));
        error = fmax(error, fabs((double)training->state[p->offset + i] - (double)expected));
    }
    if (!(error <= 1e-3 * largest))
        fail_msg("%s is %g off, its largest weight is %g", p->name, error, largest);
}

static void assert_steps_near(const struct training *training, const struct safetensors *file)
{
    assert_int_equal(training->steps, STEPS);
    for (size_t i = 0; i < STEPS; i++) {
        const double loss = double_at(file, "losses", i), norm = double_at(file, "norms", i);
        if (!(fabs(training->stats[i].loss - loss) <= 1e-4 * loss))
            fail_msg("step %zu: loss %.9g, PEFT %.9g", i, training->stats[i].loss, loss);
        if (!(fabs(training->stats[i].grad_norm - norm) <= 1e-3 * norm))
            fail_msg("step %zu: norm %.9g, PEFT %.9g", i, training->stats[i].grad_norm, norm);
    }
}

static void twenty_four_steps_agree_with_peft(void **state)
{
    const struct safetensors *file = *state;
    struct sequence_set set = {0};
    read_sequences(file, &set);
    struct training training = golden_training(&set);
    training_run_well(&training);
    assert_steps_near(&training, file);
    struct error err;
    struct device *device;
    struct model *model;
    const struct device_options ref = {.backend = "ref", .threads = 1};
    if (device_create(&ref, &device, &err) ||
        model_load(device, directory, DTYPE_F32, &model, &err) ||
        model_add_lora(model, &options, &err))
        fail_msg("%s", err.text);
    assert_int_equal(training.elements, model->lora->layout.elements);
    assert_int_equal(model->lora->layout.parameter_count, 2 * 2 * LORA_TARGETS);
    for (size_t i = 0; i < model->lora->layout.parameter_count; i++)
        assert_weights_near(&training, file, &model->lora->layout.parameters[i]);
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
    return safetensors_open(GOLDEN_DIRECTORY "/lora/expected.safetensors", &file, &err);
}

static int close_golden(void **state)
{
    safetensors_close(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(twenty_four_steps_agree_with_peft),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
