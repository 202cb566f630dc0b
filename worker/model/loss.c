// SPDX-License-Identifier: Apache-2.0
// Loss and logits of a packed batch. The head runs over slices of the rows that have a target: the
// logits of a slice become the gradient in place, which goes straight into the head's weight and
// the rows' gradient, so that [tokens, vocabulary] never exists.
#include "worker/model/decoder.h"
#include "worker/model/lora.h"

#include <assert.h>
#include <string.h>

static int check_sequences(const struct batch *batch, struct error *err)
{
    if (batch->offsets[0] != 0)
        return error_set(err, "the first sequence begins at token %d, not 0", batch->offsets[0]);
    for (size_t i = 0; i < batch->sequences; i++) {
        if (batch->offsets[i + 1] < batch->offsets[i])
            return error_set(err, "sequence %zu ends before it begins", i);
    }
    if ((size_t)batch->offsets[batch->sequences] != batch->tokens)
        return error_set(err, "sequences end at token %d of %zu", batch->offsets[batch->sequences],
                         batch->tokens);
    return 0;
}

static int check_batch(const struct workspace *workspace, const struct batch *batch,
                       struct error *err)
{
    const struct model_config *config = &workspace->model->config;
    int64_t positions = model_config_positions(config);
    if (batch->tokens > workspace->max_tokens)
        return error_set(err, "a batch of %zu tokens in a workspace for %zu", batch->tokens,
                         workspace->max_tokens);
    if (batch->sequences > batch->tokens)
        return error_set(err, "%zu sequences in %zu tokens", batch->sequences, batch->tokens);
    for (size_t i = 0; i < batch->tokens; i++) {
        if (batch->ids[i] < 0 || batch->ids[i] >= config->vocabulary)
            return error_set(err, "token %zu is %d, outside the vocabulary of %lld", i,
                             batch->ids[i], (long long)config->vocabulary);
        if (batch->positions[i] < 0 || batch->positions[i] >= positions)
            return error_set(err, "position %d, the model has %lld", batch->positions[i],
                             (long long)positions);
        if (batch->targets && (batch->targets[i] < -1 || batch->targets[i] >= config->vocabulary))
            return error_set(err, "target %zu is %d, outside the vocabulary of %lld", i,
                             batch->targets[i], (long long)config->vocabulary);
    }
    return check_sequences(batch, err);
}

static size_t longest_sequence(const struct batch *batch)
{
    int32_t longest = 0;
    for (size_t i = 0; i < batch->sequences; i++) {
        int32_t length = batch->offsets[i + 1] - batch->offsets[i];
        longest = length > longest ? length : longest;
    }
    return (size_t)longest;
}

// Copies the inputs to the device. host_wanted and host_targets are filled already.
static struct pass begin_pass(struct model *model, struct workspace *workspace,
                              const struct batch *batch, size_t wanted)
{
    struct device *device = model->device;
    size_t bytes = batch->tokens * sizeof(int32_t);
    device_copy_in(device, workspace->ids, batch->ids, bytes);
    device_copy_in(device, workspace->positions, batch->positions, bytes);
    device_copy_in(device, workspace->offsets, batch->offsets,
                   (batch->sequences + 1) * sizeof(int32_t));
    device_copy_in(device, workspace->wanted, workspace->host_wanted, wanted * sizeof(int32_t));
    device_copy_in(device, workspace->targets, workspace->host_targets, wanted * sizeof(int32_t));
    const bool drops = lora_drops(model->lora) && batch->dropout_keys;
    if (drops) {
        for (size_t i = 0; i < wanted; i++)
            workspace->host_keys[i] = batch->dropout_keys[workspace->host_wanted[i]];
        device_copy_in(device, workspace->keys, batch->dropout_keys,
                       batch->tokens * sizeof(*workspace->keys));
        device_copy_in(device, workspace->wanted_keys, workspace->host_keys,
                       wanted * sizeof(*workspace->keys));
    }
    return (struct pass){
        .drops = drops,
        .model = model,
        .workspace = workspace,
        .tokens = batch->tokens,
        .wanted = wanted,
        .sequences = {.offsets = workspace->offsets,
                      .count = batch->sequences,
                      .longest = longest_sequence(batch)},
    };
}

// Losses of every wanted row and, with grads, the gradients of the head and of the final norm's
// output.
static void head_loss(const struct pass *pass, const struct decoder *grads, float grad_scale)
{
    const struct workspace *w = pass->workspace;
    struct device *device = pass->model->device;
    size_t hidden = (size_t)pass->model->config.hidden;
    decoder_final_norm(pass);
    const struct linear *head = &pass->model->decoder->head;
    const size_t count = head->out_width * head->in_width;
    const struct tensor sums = grads ? grads->head.weight : (struct tensor){.data = NULL};
    const struct linear grad_head = {.weight = gradients_open(pass, sums, count)};
    for (size_t row = 0; row < pass->wanted; row += w->slice_rows) {
        size_t left = pass->wanted - row;
        size_t rows = left < w->slice_rows ? left : w->slice_rows;
        decoder_logits(pass, row, rows);
        device->ops->cross_entropy(device, &(struct cross_entropy){
                                               .logits = w->logits,
                                               .losses = w->losses + row,
                                               .targets = w->targets + row,
                                               .rows = rows,
                                               .vocabulary = (size_t)pass->model->config.vocabulary,
                                               .grad_scale = grad_scale,
                                               .backward = grads != NULL,
                                           });
        if (grads)
            linear_backward(pass, head, &grad_head, tensor_at(w->normed, row * hidden), w->logits,
                            tensor_at(w->grad_normed, row * hidden), rows);
    }
    gradients_close(pass, sums, count);
}

// Only adapters are trained: matrices have no gradients, and what the kernels always write of norms
// and convolutions goes where nobody reads it.
static void bind_unused(struct workspace *workspace)
{
    const struct model *model = workspace->model;
    const struct tensor unused = {workspace->unused_grad, DTYPE_F32};
    for (int64_t i = 0; i < model->config.layers; i++) {
        struct decoder_layer *layer = &workspace->grads.layers[i];
        layer->input_norm = layer->q_norm = layer->k_norm = layer->conv = unused;
        layer->attention_out_norm = layer->post_norm = layer->ffn_out_norm = unused;
    }
    workspace->grads.final_norm = unused;
}

static bool is_bound(const struct workspace *workspace, const struct gradients *grads)
{
    const struct gradients *bound = &workspace->bound;
    return bound->sums.data == grads->sums.data && bound->sums.dtype == grads->sums.dtype &&
           bound->vectors == grads->vectors;
}

static const struct decoder *bind_gradients(struct workspace *workspace,
                                            const struct gradients *grads)
{
    const struct model *model = workspace->model;
    if (!grads)
        return NULL;
    assert(workspace->with_backward);
    assert(grads->sums.dtype == DTYPE_F32 || !model->lora);
    if (model->lora)
        bind_unused(workspace);
    else if (!is_bound(workspace, grads))
        decoder_bind(&workspace->grads, &model->config, &model->layout, grads->sums,
                     grads->vectors);
    workspace->bound = *grads;
    return &workspace->grads;
}

int model_loss(struct model *model, struct workspace *workspace, const struct batch *batch,
               const struct gradients *grads, float grad_scale, double *loss_sum, struct error *err)
{
    *loss_sum = 0;
    if (check_batch(workspace, batch, err))
        return error_prefix(err, "batch");
    size_t wanted = 0;
    for (size_t i = 0; i < batch->tokens; i++) {
        if (batch->targets[i] < 0)
            continue;
        workspace->host_wanted[wanted] = (int32_t)i;
        workspace->host_targets[wanted++] = batch->targets[i];
    }
    if (wanted == 0)
        return 0;
    const struct decoder *bound = bind_gradients(workspace, grads);
    struct pass pass = begin_pass(model, workspace, batch, wanted);
    decoder_forward(&pass);
    head_loss(&pass, bound, grad_scale);
    if (bound)
        decoder_backward(&pass, bound);
    if (device_copy_out(model->device, workspace->host_losses, workspace->losses,
                        wanted * sizeof(float), err))
        return -1;
    for (size_t i = 0; i < wanted; i++)
        *loss_sum += workspace->host_losses[i];
    return 0;
}

int model_logits(struct model *model, struct workspace *workspace, const struct batch *batch,
                 float *out, struct error *err)
{
    struct batch input = *batch;
    input.targets = NULL;
    if (check_batch(workspace, &input, err))
        return error_prefix(err, "batch");
    for (size_t i = 0; i < batch->tokens; i++) {
        workspace->host_wanted[i] = (int32_t)i;
        workspace->host_targets[i] = 0;
    }
    if (batch->tokens == 0)
        return 0;
    struct pass pass = begin_pass(model, workspace, batch, batch->tokens);
    decoder_forward(&pass);
    decoder_final_norm(&pass);
    return decoder_logits_out(&pass, out, err);
}
