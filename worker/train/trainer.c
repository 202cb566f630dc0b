// SPDX-License-Identifier: Apache-2.0
#include "worker/train/trainer.h"

#include "base/mem.h"
#include "worker/train/identity.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

// What would otherwise fail in the middle of the run.
static int check_sequences(const struct model_config *config, const struct sequence_set *set,
                           size_t micro_batch_tokens, struct error *err)
{
    if (set->count == 0)
        return error_set(err, "no sequence to train on");
    if (set->longest > micro_batch_tokens)
        return error_set(err, "a sequence of %zu tokens does not fit a micro-batch of %zu tokens",
                         set->longest, micro_batch_tokens);
    if (set->longest > (uint64_t)config->max_positions)
        return error_set(err, "a sequence of %zu tokens, but the model has %" PRId64 " positions",
                         set->longest, config->max_positions);
    for (uint64_t i = 0; i < set->offsets[set->count]; i++) {
        if (set->ids[i] < 0 || set->ids[i] >= config->vocabulary)
            return error_set(err, "token %d is outside the model's vocabulary of %" PRId64,
                             set->ids[i], config->vocabulary);
    }
    return 0;
}

static int allocate(struct trainer *trainer, struct error *err)
{
    struct device *device = trainer->model->device;
    const size_t bytes = trainer->model->layout.elements * sizeof(float);
    return device_alloc(device, bytes, (void **)&trainer->grads, err) ||
                   device_alloc(device, bytes, (void **)&trainer->moment1, err) ||
                   device_alloc(device, bytes, (void **)&trainer->moment2, err) ||
                   device_alloc(device, sizeof(double), (void **)&trainer->norm_squared, err) ||
                   workspace_create(trainer->model, trainer->options.micro_batch_tokens, true,
                                    &trainer->workspace, err)
               ? -1
               : 0;
}

static int prepare(struct trainer *trainer, struct error *err)
{
    struct trainer_options *options = &trainer->options;
    const struct sequence_set *set = trainer->set;
    if (check_sequences(&trainer->model->config, set, options->micro_batch_tokens, err))
        return -1;
    if (options->plan.per_step > set->count)
        options->plan.per_step = set->count;
    trainer->steps = plan_steps(&options->plan, set);
    options->schedule.total_steps = trainer->steps;
    options->schedule.warmup_steps =
        (size_t)ceil(options->warmup_fraction * (double)trainer->steps);
    return allocate(trainer, err) ||
                   identity_compute(trainer->model, set, options, &trainer->identity, err)
               ? -1
               : 0;
}

int trainer_create(struct model *model, struct group *group, const struct sequence_set *set,
                   const struct trainer_options *options, struct trainer **out, struct error *err)
{
    assert(model->weights.dtype == DTYPE_F32);
    assert(options->plan.per_step > 0 && options->plan.epochs > 0);
    *out = NULL;
    struct trainer *trainer = mem_calloc(1, sizeof(*trainer));
    trainer->model = model;
    trainer->group = group;
    trainer->set = set;
    trainer->options = *options;
    if (group_agree(group, prepare(trainer, err), err) ||
        identity_agree(group, trainer->identity, err)) {
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
    step_layout_release(&trainer->layout);
    step_cursor_release(&trainer->cursor);
    device_free(device, trainer->grads);
    device_free(device, trainer->moment1);
    device_free(device, trainer->moment2);
    device_free(device, trainer->norm_squared);
    free(trainer);
}

struct digest trainer_identity(const struct trainer *trainer)
{
    return trainer->identity;
}

size_t trainer_device_bytes(const struct trainer *trainer)
{
    const size_t flat = trainer->model->layout.elements * sizeof(float);
    return 4 * flat + workspace_bytes(trainer->workspace);
}

// Forward and backward of this rank's part, after which the gradients are complete on the device;
// *loss_sum over its target tokens.
static int accumulate(struct trainer *trainer, float grad_scale, double *loss_sum,
                      struct error *err)
{
    struct device *device = trainer->model->device;
    struct packed_batch *packed = &trainer->batch;
    device_zero(device, trainer->grads, trainer->model->layout.elements * sizeof(float));
    *loss_sum = 0;
    for (uint32_t bin = 0; bin < trainer->layout.bin_count; bin++) {
        packed_batch_fill(packed, trainer->set, &trainer->layout, bin);
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
    return device_sync(device, err);
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

// Fallible work of one rank is agreed upon before the next collective, and before the weights
// change.
static int compute_gradients(struct trainer *trainer, struct step_stats *stats, struct error *err)
{
    struct group *group = trainer->group;
    const float grad_scale = 1.0f / (float)stats->target_tokens;
    double loss_sum;
    if (group_agree(group, accumulate(trainer, grad_scale, &loss_sum, err), err) ||
        group_all_reduce_f32(group, trainer->grads, trainer->model->layout.elements, err) ||
        group_all_reduce_f64(group, &loss_sum, 1, err) ||
        group_agree(group, gradient_norm(trainer, &stats->grad_norm, err), err))
        return -1;
    stats->loss = loss_sum / (double)stats->target_tokens;
    return 0;
}

// Neighbours in the layout that decay alike are updated as one: six calls a layer instead of
// twelve.
static void update(struct trainer *trainer, double norm, double rate)
{
    const struct trainer_options *options = &trainer->options;
    const struct layout *layout = &trainer->model->layout;
    const struct parameter *parameter = layout->parameters;
    const struct parameter *end = parameter + layout->parameter_count;
    struct device *device = trainer->model->device;
    const bool clip = options->clip_norm > 0 && norm > options->clip_norm;
    while (parameter < end) {
        const uint64_t offset = parameter->offset;
        const bool decays = parameter->decays;
        uint64_t count = 0;
        for (; parameter < end && parameter->decays == decays; parameter++)
            count += parameter->count;
        const struct adamw step = {.parameter = (float *)trainer->model->weights.data + offset,
                                   .moment1 = trainer->moment1 + offset,
                                   .moment2 = trainer->moment2 + offset,
                                   .grad = trainer->grads + offset,
                                   .count = count,
                                   .grad_scale = clip ? (float)(options->clip_norm / norm) : 1,
                                   .learning_rate = (float)rate,
                                   .beta1 = (float)options->beta1,
                                   .beta2 = (float)options->beta2,
                                   .epsilon = (float)options->epsilon,
                                   .weight_decay = decays ? (float)options->weight_decay : 0,
                                   .step = (int64_t)trainer->step + 1};
        device->ops->adamw(device, &step);
    }
}

// Lays the step out for this rank; *out says what all ranks together will do.
static void begin_step(struct trainer *trainer, struct step_stats *out)
{
    const struct sequence_set *set = trainer->set;
    size_t count;
    const uint32_t *sequences =
        step_cursor_sequences(&trainer->cursor, &trainer->options.plan, set, trainer->step, &count);
    *out = (struct step_stats){.step = trainer->step,
                               .learning_rate =
                                   schedule_rate(&trainer->options.schedule, trainer->step),
                               .sequences = count,
                               .tokens = sequences_tokens(set, sequences, count),
                               .target_tokens = sequences_target_tokens(set, sequences, count)};
    step_layout_make(&trainer->layout, set, sequences, count, group_rank(trainer->group),
                     group_size(trainer->group), trainer->options.micro_batch_tokens);
}

int trainer_step(struct trainer *trainer, struct step_stats *out, struct error *err)
{
    assert(trainer->step < trainer->steps);
    begin_step(trainer, out);
    if (compute_gradients(trainer, out, err))
        return error_prefix(err, "step %zu", trainer->step);
    // Every rank has the same sums, so that all take the same branch.
    if (!isfinite(out->loss) || !isfinite(out->grad_norm))
        return error_set(err,
                         "step %zu: loss %g, gradient norm %g: training diverged; lower --lr or "
                         "raise --warmup",
                         trainer->step, out->loss, out->grad_norm);
    update(trainer, out->grad_norm, out->learning_rate);
    trainer->step++;
    return 0;
}
