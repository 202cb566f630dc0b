// SPDX-License-Identifier: Apache-2.0
#include "worker/train/trainer.h"

#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int allocate(struct trainer *trainer, struct error *err)
{
    struct device *device = trainer->model->device;
    const size_t bytes = trainer->model->layout.elements * sizeof(float);
    if (device_alloc(device, bytes, (void **)&trainer->grads, err) ||
        device_alloc(device, bytes, (void **)&trainer->moment1, err) ||
        device_alloc(device, bytes, (void **)&trainer->moment2, err) ||
        device_alloc(device, sizeof(double), (void **)&trainer->norm_squared, err) ||
        workspace_create(trainer->model, trainer->options.micro_batch_tokens, true,
                         &trainer->workspace, err))
        return -1;
    trainer->sequences = mem_calloc(trainer->options.plan.per_step, sizeof(uint32_t));
    trainer->bins = mem_calloc(trainer->options.plan.per_step, sizeof(uint32_t));
    return 0;
}

int trainer_create(struct model *model, struct group *group, const struct sequence_set *set,
                   const struct trainer_options *options, struct trainer **out, struct error *err)
{
    assert(model->weights.dtype == DTYPE_F32);
    if (set->count == 0)
        return error_set(err, "no sequence to train on");
    struct trainer *trainer = mem_calloc(1, sizeof(*trainer));
    trainer->model = model;
    trainer->group = group;
    trainer->set = set;
    trainer->options = *options;
    if (trainer->options.plan.per_step > set->count)
        trainer->options.plan.per_step = set->count;
    trainer->steps = plan_steps(&trainer->options.plan, set);
    trainer->options.schedule.total_steps = trainer->steps;
    trainer->options.schedule.warmup_steps =
        (size_t)ceil(options->warmup_fraction * (double)trainer->steps);
    if (group_agree(group, allocate(trainer, err), err)) {
        trainer_destroy(trainer);
        return -1;
    }
    *out = trainer;
    return 0;
}

void trainer_destroy(struct trainer *trainer)
{
    if (!trainer)
        return;
    struct device *device = trainer->model->device;
    workspace_destroy(trainer->workspace);
    packed_batch_release(&trainer->batch);
    device_free(device, trainer->grads);
    device_free(device, trainer->moment1);
    device_free(device, trainer->moment2);
    device_free(device, trainer->norm_squared);
    free(trainer->sequences);
    free(trainer->bins);
    free(trainer);
}

size_t trainer_device_bytes(const struct trainer *trainer)
{
    const size_t flat = trainer->model->layout.elements * sizeof(float);
    return 4 * flat + workspace_bytes(trainer->workspace);
}

// Forward and backward of this rank's part; *loss_sum over its target tokens.
static int accumulate(struct trainer *trainer, size_t count, float grad_scale, double *loss_sum,
                      struct error *err)
{
    const size_t mine = sequences_for_rank(trainer->set, trainer->sequences, count,
                                           group_rank(trainer->group), group_size(trainer->group));
    const size_t batches = pack_sequences(trainer->set, trainer->sequences, mine,
                                          trainer->options.micro_batch_tokens, trainer->bins);
    *loss_sum = 0;
    for (uint32_t b = 0; b < batches; b++) {
        struct packed_batch *packed = &trainer->batch;
        packed_batch_fill(packed, trainer->set, trainer->sequences, trainer->bins, mine, b);
        const struct batch batch = {.ids = packed->ids,
                                    .positions = packed->positions,
                                    .targets = packed->targets,
                                    .offsets = packed->offsets,
                                    .tokens = packed->tokens,
                                    .sequences = packed->sequences};
        double loss;
        if (model_loss(trainer->model, trainer->workspace, &batch, trainer->grads, grad_scale,
                       &loss, err))
            return -1;
        *loss_sum += loss;
    }
    return 0;
}

static int reduce(struct trainer *trainer, double *loss_sum, struct error *err)
{
    const size_t elements = trainer->model->layout.elements;
    return device_sync(trainer->model->device, err) ||
                   group_all_reduce_f32(trainer->group, trainer->grads, elements, err) ||
                   group_all_reduce_f64(trainer->group, loss_sum, 1, err)
               ? -1
               : 0;
}

static int gradient_norm(struct trainer *trainer, double *norm, struct error *err)
{
    struct device *device = trainer->model->device;
    double squared;
    device->ops->sum_squares(device, trainer->norm_squared, trainer->grads,
                             trainer->model->layout.elements);
    if (device_copy_out(device, &squared, trainer->norm_squared, sizeof(squared), err))
        return -1;
    *norm = sqrt(squared);
    return 0;
}

static void update(struct trainer *trainer, double norm, double rate)
{
    const struct trainer_options *options = &trainer->options;
    const struct layout *layout = &trainer->model->layout;
    struct device *device = trainer->model->device;
    const bool clip = options->clip_norm > 0 && norm > options->clip_norm;
    for (size_t p = 0; p < layout->parameter_count; p++) {
        const struct parameter *parameter = &layout->parameters[p];
        const struct adamw step = {
            .parameter = (float *)trainer->model->weights.data + parameter->offset,
            .moment1 = trainer->moment1 + parameter->offset,
            .moment2 = trainer->moment2 + parameter->offset,
            .grad = trainer->grads + parameter->offset,
            .count = parameter->count,
            .grad_scale = clip ? (float)(options->clip_norm / norm) : 1,
            .learning_rate = (float)rate,
            .beta1 = (float)options->beta1,
            .beta2 = (float)options->beta2,
            .epsilon = (float)options->epsilon,
            .weight_decay = parameter->decays ? (float)options->weight_decay : 0,
            .step = (int64_t)trainer->step + 1};
        device->ops->adamw(device, &step);
    }
}

int trainer_step(struct trainer *trainer, struct step_stats *out, struct error *err)
{
    assert(trainer->step < trainer->steps);
    const struct sequence_set *set = trainer->set;
    const size_t count =
        plan_step_sequences(&trainer->options.plan, set, trainer->step, trainer->sequences);
    *out = (struct step_stats){.step = trainer->step, .sequences = count};
    out->target_tokens = sequences_target_tokens(set, trainer->sequences, count);
    for (size_t i = 0; i < count; i++) {
        const uint32_t s = trainer->sequences[i];
        out->tokens += set->offsets[s + 1] - set->offsets[s];
    }

    device_zero(trainer->model->device, trainer->grads,
                trainer->model->layout.elements * sizeof(float));
    double loss_sum = 0;
    const float grad_scale = 1.0f / (float)out->target_tokens;
    int rc = accumulate(trainer, count, grad_scale, &loss_sum, err);
    if (group_agree(trainer->group, rc, err) || reduce(trainer, &loss_sum, err) ||
        gradient_norm(trainer, &out->grad_norm, err))
        return error_prefix(err, "step %zu", trainer->step);
    out->loss = loss_sum / (double)out->target_tokens;
    out->learning_rate = schedule_rate(&trainer->options.schedule, trainer->step);
    if (!isfinite(out->loss) || !isfinite(out->grad_norm))
        return error_set(err,
                         "step %zu: loss %g, gradient norm %g: training diverged; lower --lr or "
                         "raise --warmup",
                         trainer->step, out->loss, out->grad_norm);
    update(trainer, out->grad_norm, out->learning_rate);
    trainer->step++;
    return 0;
}
