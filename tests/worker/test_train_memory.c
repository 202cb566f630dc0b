// SPDX-License-Identifier: Apache-2.0
// What trainer_bytes_needed says is what a trainer takes, to the byte, by a device that counts.
#include "tests/worker/model_fixture.h"
#include "tests/worker/train_fixture.h"

#include "base/mem.h"
#include "kernels/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// --- a device that counts ---

enum { BLOCKS_LIMIT = 256 };

static struct {
    const struct backend *real;
    struct {
        void *block;
        size_t bytes;
    } blocks[BLOCKS_LIMIT];
    size_t bytes, peak;
} counter;

static int counting_alloc(struct device *device, size_t bytes, void **out, struct error *err)
{
    if (counter.real->memory->alloc(device, bytes, out, err))
        return -1;
    size_t i = 0;
    while (counter.blocks[i].block)
        assert_true(++i < BLOCKS_LIMIT);
    counter.blocks[i].block = *out;
    counter.blocks[i].bytes = bytes;
    counter.bytes += bytes;
    counter.peak = counter.bytes > counter.peak ? counter.bytes : counter.peak;
    return 0;
}

static void counting_free(struct device *device, void *block)
{
    for (size_t i = 0; block && i < BLOCKS_LIMIT; i++) {
        if (counter.blocks[i].block == block) {
            counter.bytes -= counter.blocks[i].bytes;
            counter.blocks[i].block = NULL;
        }
    }
    counter.real->memory->free(device, block);
}

static struct device *counting_device(void)
{
    static struct memory memory;
    static struct backend backend;
    struct device *device = fixture_device();
    counter.real = device->backend;
    memory = *device->backend->memory;
    memory.alloc = counting_alloc;
    memory.free = counting_free;
    backend = *device->backend;
    backend.memory = &memory;
    device->backend = &backend;
    return device;
}

// --- small models ---

struct run {
    struct sequence_set set;
    struct trainer_options options;
};

// Of what the model keeps beside its weights: angles of the rotary embedding.
static size_t angle_bytes(const struct model *model)
{
    return (size_t)model->config.head_width * sizeof(float);
}

static int expect_bytes(const char *when, size_t taken, size_t said, struct error *err)
{
    return taken == said
               ? 0
               : error_set(err, "%s %zu bytes are taken, %zu were said", when, taken, said);
}

static int train(struct model *model, struct group *group, const struct run *run,
                 struct trainer **trainer, struct error *err)
{
    const struct trainer_bytes said =
        trainer_bytes_needed(model, group_rank(group), group_size(group), &run->options);
    const size_t angles = angle_bytes(model), total = trainer_bytes_total(said) + angles;
    struct step_stats stats;
    counter.peak = counter.bytes;
    if (trainer_create(model, group, &run->set, &run->options, trainer, err) ||
        trainer_step(*trainer, &stats, err))
        return -1;
    const size_t parts = said.weights + said.remainder + said.moments + said.gradients +
                         said.activations + said.workspace + angles;
    if (expect_bytes("while it trains,", counter.bytes, parts, err))
        return -1;
    if (counter.peak > total)
        return error_set(err, "%zu bytes at the peak, %zu were said", counter.peak, total);
    counter.peak = 0;
    if (trainer_finish(*trainer, err))
        return -1;
    return said.conversion == 0
               ? 0
               : expect_bytes("at the end", counter.peak, said.conversion + angles, err);
}

static int run_rank(struct group *group, void *context, struct error *err)
{
    struct model_config config = fixture_config();
    struct device *device = counting_device();
    struct model *model = NULL;
    struct trainer *trainer = NULL;
    config.vocabulary = 365;
    int rc = model_create(device, &config, DTYPE_F32, &model, err) ||
                     model_init_random(model, 1, err) || train(model, group, context, &trainer, err)
                 ? -1
                 : 0;
    trainer_destroy(trainer);
    model_destroy(model);
    if (rc == 0)
        rc = expect_bytes("afterwards", counter.bytes, 0, err);
    device_destroy(device);
    return rc;
}

static const struct state_form forms[] = {
    {DTYPE_F32, MOMENTS_F32}, {DTYPE_F32, MOMENTS_8BIT}, {DTYPE_BF16, MOMENTS_8BIT}};

static void run_form(struct run *run, int ranks)
{
    struct error err;
    if (group_run_shm(ranks, run_rank, run, &err))
        fail_msg("%d ranks, stage %d, %s weights, %s moments, %s gradients: %s", ranks,
                 (int)run->options.zero, dtype_name(run->options.optimizer.form.weights),
                 moment_kind_name(run->options.optimizer.form.moments),
                 dtype_name(run->options.grads), err.text);
}

// Of ZeRO-2, whose gradients are pages that come and go, see tests/jobs/train_memory.sh.
static void a_trainer_takes_what_was_said_to_the_byte(void **state)
{
    (void)state;
    struct run run = {.options = {.plan = {.seed = 3, .per_step = 8, .epochs = 1},
                                  .schedule = {.kind = SCHEDULE_CONSTANT, .peak = 1e-3},
                                  .micro_batch_tokens = 48,
                                  .optimizer = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8}}};
    fixture_set_fill(&run.set, 31, 9);
    for (int ranks = 1; ranks <= 3; ranks++)
        for (int choice = 0; choice < 24; choice++) {
            run.options.optimizer.form = forms[choice % 3];
            run.options.recompute = choice / 3 % 2 == 1;
            run.options.grads = choice / 6 % 2 == 1 ? DTYPE_BF16 : DTYPE_F32;
            run.options.zero = choice / 12 == 1 ? ZERO_1 : ZERO_0;
            run_form(&run, ranks);
        }
    run.options.grads = DTYPE_F32;
    run.options.exact_sums = true;
    run_form(&run, 1);
    run_form(&run, 2);
    sequence_set_release(&run.set);
}

// --- large ones ---

// As tests/gpu/run.sh trains it. A GPU keeps activations in bfloat16.
static struct trainer_bytes needed_by(const char *shape, enum dtype grads)
{
    struct model model = {.weights = {NULL, DTYPE_BF16}};
    struct kernels half;
    struct error err;
    const struct trainer_options options = {
        .micro_batch_tokens = 8192,
        .optimizer.form = {DTYPE_BF16, MOMENTS_8BIT},
        .grads = grads,
        .recompute = true,
    };
    assert_int_equal(model_config_shape(shape, &model.config, &err), 0);
    layout_create(&model.config, &model.layout);
    model.device = fixture_device();
    half = *model.device->ops;
    half.half_activations = true;
    model.device->ops = &half;
    const struct trainer_bytes needed = trainer_bytes_needed(&model, 0, 1, &options);
    device_destroy(model.device);
    layout_release(&model.layout);
    printf("%s, %s gradients: weights %.2f GB, remainders %.2f, moments %.2f, gradients %.2f, "
           "activations %.2f, workspace %.2f: %.2f GB; before and after %.2f GB\n",
           shape, dtype_name(grads), (double)needed.weights / 1e9, (double)needed.remainder / 1e9,
           (double)needed.moments / 1e9, (double)needed.gradients / 1e9,
           (double)needed.activations / 1e9, (double)needed.workspace / 1e9,
           (double)trainer_bytes_total(needed) / 1e9, (double)needed.conversion / 1e9);
    return needed;
}

// An H200 has 150.8 GB. CUDA and cuBLASLt take less than 2 GB of them, the backend's scratch 0.1.
static void the_14b_shape_fits_one_h200(void **state)
{
    (void)state;
    const double room = 150.8e9 - 2.1e9;
    const struct trainer_bytes half = needed_by("qwen2.5-14b", DTYPE_BF16);
    const struct trainer_bytes whole = needed_by("qwen2.5-14b", DTYPE_F32);
    assert_true((double)trainer_bytes_total(half) < 0.95 * room);
    assert_true((double)half.conversion < 0.95 * room);
    assert_true((double)trainer_bytes_total(whole) > room);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_trainer_takes_what_was_said_to_the_byte),
        cmocka_unit_test(the_14b_shape_fits_one_h200),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
