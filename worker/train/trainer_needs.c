// SPDX-License-Identifier: Apache-2.0
// What a training run needs: memory, tokens, operations.
#include "worker/train/trainer.h"

#include "worker/model/lora.h"

struct reducer_options trainer_sums(const struct model *model,
                                    const struct trainer_options *options)
{
    const struct layout *layout = model_trained_layout(model);
    return (struct reducer_options){.exact = options->exact_sums,
                                    .divided = options->zero != ZERO_0,
                                    .partial = options->zero == ZERO_2,
                                    .grads = options->grads,
                                    .vector_elements = (size_t)layout->vector_elements};
}

static uint64_t layer_elements(const struct layout *layout, int64_t layer)
{
    uint64_t count = 0;
    for (size_t i = 0; i < layout->parameter_count; i++)
        count += layout->parameters[i].layer == layer ? layout->parameters[i].count : 0;
    return count;
}

// Of ZeRO-2, before a bucket is summed: what belongs to no layer is complete last, two layers are
// under way, and buckets overlap layers.
static size_t partial_gradients(const struct model *model, const struct shards *shards,
                                enum dtype grads)
{
    const struct layout *layout = model_trained_layout(model);
    uint64_t largest = 0;
    for (int64_t layer = 0; layer < model->config.layers; layer++) {
        const uint64_t count = layer_elements(layout, layer);
        largest = count > largest ? count : largest;
    }
    const uint64_t live =
        layer_elements(layout, -1) + 2 * (largest + shards->unit * (uint64_t)shards->ranks);
    return (size_t)(live < layout->elements ? live : layout->elements) * dtype_bytes(grads);
}

struct trainer_bytes trainer_bytes_needed(struct model *model, int rank, int ranks,
                                          const struct trainer_options *options)
{
    const struct layout *layout = model_trained_layout(model);
    const struct shards shards = shards_make(layout->elements, rank, ranks);
    const size_t fixed =
        model->lora ? model->layout.elements * dtype_bytes(model->weights.dtype) : 0;
    const struct optimizer_bytes optimizer =
        optimizer_bytes_needed(layout, &shards, options->zero != ZERO_0, options->optimizer.form);
    size_t gradients = reducer_bytes_needed(&shards, trainer_sums(model, options));
    if (options->zero == ZERO_2 && device_gives_back(model->device))
        gradients -= (size_t)shards_padded_elements(&shards) * dtype_bytes(options->grads) -
                     partial_gradients(model, &shards, options->grads);
    const size_t cuts = (size_t)(shards_padded_elements(&shards) / shards.cut);
    const size_t squares = (cuts + 1) * sizeof(double);
    size_t workspace = optimizer.exchange + squares;
    if (options->grads == DTYPE_BF16)
        workspace += gradients_product_elements(&model->config) * sizeof(float);
    return (struct trainer_bytes){
        .weights = fixed + optimizer.weights,
        .remainder = optimizer.remainder,
        .moments = optimizer.moments,
        .gradients = gradients,
        .workspace = workspace,
        .conversion = optimizer.conversion > 0 ? optimizer.conversion + squares : 0,
        .activations =
            workspace_bytes_needed(model, options->micro_batch_tokens, options->recompute)};
}

size_t trainer_bytes_total(struct trainer_bytes bytes)
{
    const size_t sum = bytes.weights + bytes.remainder + bytes.moments + bytes.gradients +
                       bytes.activations + bytes.workspace;
    return sum > bytes.conversion ? sum : bytes.conversion;
}

uint64_t trainer_planned_tokens(const struct trainer *trainer)
{
    return trainer->options.plan.epochs * trainer->set->offsets[trainer->set->count];
}

static double matrix_parameters(const struct layout *layout)
{
    double count = 0;
    for (size_t p = 0; p < layout->parameter_count; p++) {
        if (layout->parameters[p].layer >= 0 && layout->parameters[p].rank == 2)
            count += (double)layout->parameters[p].count;
    }
    return count;
}

double trainer_flops(const struct model *model, const struct step_stats *stats)
{
    const struct model_config *config = &model->config;
    const double mean_length = (double)stats->tokens / (double)stats->sequences;
    const double attention =
        6.0 * (double)config->layers * mean_length * (double)(config->heads * config->head_width);
    const double each = model->lora ? 4 : 6; // of a weight, which may have no gradient
    const double adapters = model->lora ? 6 * matrix_parameters(&model->lora->layout) : 0;
    const double last_ffn = 3.0 * (double)config->hidden * (double)config->ffn;
    const double all = matrix_parameters(&model->layout) - last_ffn;
    const double wanted = last_ffn + (double)config->vocabulary * (double)config->hidden;
    return (double)stats->tokens * (each * all + adapters + attention) +
           (double)stats->target_tokens * each * wanted;
}
