// SPDX-License-Identifier: Apache-2.0
// The decoder's backward pass, the forward's mirror. grad_x runs down the residual stream: a
// block's gradient is added to it by the norm in front of the block, while the stream itself passes
// through untouched. Norm outputs and the gated product are computed again from what forward kept:
// they are one cheap sweep each, and storing them would add 2 D + F numbers per token and layer.
#include "worker/model/decoder.h"
#include "worker/model/lora.h"

static void weight_backward(const struct pass *pass, const struct linear *linear,
                            const struct linear *grads, struct tensor x, struct tensor grad_out,
                            size_t rows)
{
    struct device *device = pass->model->device;
    const size_t count = linear->out_width * linear->in_width;
    const struct tensor sums = gradients_open(pass, grads->weight, count);
    if (sums.data)
        device->ops->linear_backward_weight(device, &(struct linear_backward_weight){
                                                        .grad_weight = sums,
                                                        .grad_bias = grads->bias,
                                                        .grad_out = grad_out,
                                                        .x = x,
                                                        .product = linear->weight.dtype,
                                                        .rows = rows,
                                                        .out_width = linear->out_width,
                                                        .in_width = linear->in_width,
                                                    });
    gradients_close(pass, grads->weight, count);
}

void linear_backward(const struct pass *pass, const struct linear *linear,
                     const struct linear *grads, struct tensor x, struct tensor grad_out,
                     struct tensor grad_x, size_t rows)
{
    struct device *device = pass->model->device;
    weight_backward(pass, linear, grads, x, grad_out, rows);
    device->ops->linear_backward_input(device, &(struct linear_backward_input){
                                                   .grad_x = grad_x,
                                                   .grad_out = grad_out,
                                                   .linear = linear,
                                                   .rows = rows,
                                               });
    lora_backward(pass, linear, x, grad_out, grad_x, rows);
}

// workspace->normed of x once more; its statistics are still there.
static void norm_again(const struct pass *pass, struct tensor x, struct tensor weight, size_t rows)
{
    struct device *device = pass->model->device;
    device->ops->rmsnorm_forward(device, &(struct rmsnorm_forward){
                                             .out = pass->workspace->normed,
                                             .x = x,
                                             .weight = weight,
                                             .rows = rows,
                                             .width = (size_t)pass->model->config.hidden,
                                             .epsilon = (float)pass->model->config.rms_epsilon,
                                             .weight_offset = norm_offset(&pass->model->config),
                                         });
}

// grad_x += what flows through the norm from workspace->grad_normed.
static void norm_backward(const struct pass *pass, struct tensor grad_x, struct tensor grad_weight,
                          struct tensor x, const float *rstd, struct tensor weight, size_t rows)
{
    struct device *device = pass->model->device;
    device->ops->rmsnorm_backward(device, &(struct rmsnorm_backward){
                                              .grad_x = grad_x,
                                              .grad_weight = grad_weight,
                                              .grad_out = pass->workspace->grad_normed,
                                              .x = x,
                                              .rstd = rstd,
                                              .weight = weight,
                                              .rows = rows,
                                              .width = (size_t)pass->model->config.hidden,
                                              .weight_offset = norm_offset(&pass->model->config),
                                          });
}

// The gradient of what a block added to the stream before its norm, from that of the stream: in
// workspace->grad_normed, or the stream's itself where there is no norm.
static struct tensor added_backward(const struct pass *pass, struct tensor grad_x,
                                    struct tensor grad_weight, struct tensor added,
                                    const float *rstd, struct tensor weight, size_t rows)
{
    struct device *device = pass->model->device;
    if (!weight.data)
        return grad_x;
    device->ops->rmsnorm_backward(device, &(struct rmsnorm_backward){
                                              .grad_x = pass->workspace->grad_normed,
                                              .grad_weight = grad_weight,
                                              .grad_out = grad_x,
                                              .x = added,
                                              .rstd = rstd,
                                              .weight = weight,
                                              .rows = rows,
                                              .width = (size_t)pass->model->config.hidden,
                                              .weight_offset = norm_offset(&pass->model->config),
                                              .overwrite = true,
                                          });
    return pass->workspace->grad_normed;
}

static void gated_again(const struct pass *pass, const struct activations *a, size_t rows)
{
    struct device *device = pass->model->device;
    device->ops->gated_forward(device, &(struct gated_forward){
                                           .out = pass->workspace->gated,
                                           .gate_up = a->gate_up,
                                           .activation = pass->model->config.activation,
                                           .rows = rows,
                                           .width = (size_t)pass->model->config.ffn,
                                       });
}

static void gated_backward(const struct pass *pass, const struct activations *a, size_t rows)
{
    struct device *device = pass->model->device;
    device->ops->gated_backward(device, &(struct gated_backward){
                                            .grad_gate_up = a->gate_up,
                                            .grad_out = pass->workspace->grad_gated,
                                            .gate_up = a->gate_up,
                                            .activation = pass->model->config.activation,
                                            .rows = rows,
                                            .width = (size_t)pass->model->config.ffn,
                                        });
}

static void ffn_backward(const struct pass *pass, const struct decoder *grads, size_t layer,
                         struct tensor grad_x, size_t rows)
{
    const struct workspace *workspace = pass->workspace;
    const struct activations *a = &workspace->layers[layer];
    const struct decoder_layer *weights = &pass->model->decoder->layers[layer];
    const struct decoder_layer *grad = &grads->layers[layer];
    gated_again(pass, a, rows);
    struct tensor grad_down = added_backward(pass, grad_x, grad->ffn_out_norm, a->down,
                                             a->ffn_out_rstd, weights->ffn_out_norm, rows);
    linear_backward(pass, &weights->down, &grad->down, workspace->gated, grad_down,
                    workspace->grad_gated, rows);
    gated_backward(pass, a, rows);
    norm_again(pass, a->ffn_x, weights->post_norm, rows);
    linear_backward(pass, &weights->gate_up, &grad->gate_up, workspace->normed, a->gate_up,
                    workspace->grad_normed, rows);
    norm_backward(pass, grad_x, grad->post_norm, a->ffn_x, a->ffn_rstd, weights->post_norm, rows);
}

static void heads_backward(const struct pass *pass, struct tensor grad, struct tensor grad_weight,
                           struct tensor x, const float *rstd, struct tensor weight, size_t heads)
{
    struct device *device = pass->model->device;
    const struct model_config *config = &pass->model->config;
    device->ops->rmsnorm_backward(device, &(struct rmsnorm_backward){
                                              .grad_x = grad,
                                              .grad_weight = grad_weight,
                                              .grad_out = grad,
                                              .x = x,
                                              .rstd = rstd,
                                              .weight = weight,
                                              .rows = pass->tokens * heads,
                                              .width = (size_t)config->head_width,
                                              .heads = heads,
                                              .stride = qkv_width(config),
                                              .weight_offset = norm_offset(config),
                                              .overwrite = true,
                                          });
}

// In place, of queries and keys.
static void head_norms_backward(const struct pass *pass, const struct decoder_layer *weights,
                                const struct decoder_layer *grad, const struct activations *a)
{
    const struct model_config *config = &pass->model->config;
    struct tensor grad_qkv = pass->workspace->grad_qkv;
    size_t k_at = queries_width(config);
    heads_backward(pass, grad_qkv, grad->q_norm, a->raw_qkv, a->q_rstd, weights->q_norm,
                   (size_t)config->heads);
    heads_backward(pass, tensor_at(grad_qkv, k_at), grad->k_norm, tensor_at(a->raw_qkv, k_at),
                   a->k_rstd, weights->k_norm, (size_t)config->kv_heads);
}

static void attend_backward(const struct pass *pass, const struct decoder_layer *weights,
                            const struct decoder_layer *grad, const struct activations *a,
                            size_t layer)
{
    const struct workspace *workspace = pass->workspace;
    struct device *device = pass->model->device;
    const struct model_config *config = &pass->model->config;
    size_t k_at = queries_width(config), v_at = k_at + keys_width(config);
    device->ops->attention_backward(device, &(struct attention_backward){
                                                .grad_q = workspace->grad_qkv,
                                                .grad_k = tensor_at(workspace->grad_qkv, k_at),
                                                .grad_v = tensor_at(workspace->grad_qkv, v_at),
                                                .grad_out = workspace->grad_attention,
                                                .out = a->attention,
                                                .log_sum_exp = a->log_sum_exp,
                                                .q = a->qkv,
                                                .k = tensor_at(a->qkv, k_at),
                                                .v = tensor_at(a->qkv, v_at),
                                                .stride = qkv_width(config),
                                                .sequences = pass->sequences,
                                                .tokens = pass->tokens,
                                                .heads = (size_t)config->heads,
                                                .kv_heads = (size_t)config->kv_heads,
                                                .head_width = (size_t)config->head_width,
                                                .scale = attention_scale(config),
                                                .window = layer_window(config, layer),
                                            });
    decoder_rotate(pass, layer, workspace->grad_qkv, true);
    if (config->head_norms)
        head_norms_backward(pass, weights, grad, a);
}

static void convolve_backward(const struct pass *pass, const struct decoder_layer *weights,
                              const struct decoder_layer *grad, const struct activations *a)
{
    struct device *device = pass->model->device;
    const struct model_config *config = &pass->model->config;
    const size_t count = (size_t)(config->hidden * config->conv_taps);
    const struct tensor sums = gradients_open(pass, grad->conv, count);
    device->ops->short_conv_backward(device, &(struct short_conv_backward){
                                                 .grad_bcx = pass->workspace->grad_qkv,
                                                 .grad_weight = sums,
                                                 .grad_out = pass->workspace->grad_attention,
                                                 .bcx = a->qkv,
                                                 .weight = weights->conv,
                                                 .sequences = pass->sequences,
                                                 .tokens = pass->tokens,
                                                 .width = (size_t)config->hidden,
                                                 .taps = (size_t)config->conv_taps,
                                             });
    gradients_close(pass, grad->conv, count);
}

static void attention_block_backward(const struct pass *pass, const struct decoder *grads,
                                     size_t layer)
{
    const struct workspace *workspace = pass->workspace;
    const struct activations *a = &workspace->layers[layer];
    const struct decoder_layer *weights = &pass->model->decoder->layers[layer];
    const struct decoder_layer *grad = &grads->layers[layer];
    struct tensor grad_o =
        added_backward(pass, workspace->grad_x, grad->attention_out_norm, a->attention_out,
                       a->attention_out_rstd, weights->attention_out_norm, pass->tokens);
    linear_backward(pass, &weights->o, &grad->o, a->attention, grad_o, workspace->grad_attention,
                    pass->tokens);
    if (weights->kind == LAYER_CONV)
        convolve_backward(pass, weights, grad, a);
    else
        attend_backward(pass, weights, grad, a, layer);
    norm_again(pass, a->x, weights->input_norm, pass->tokens);
    linear_backward(pass, &weights->qkv, &grad->qkv, workspace->normed, workspace->grad_qkv,
                    workspace->grad_normed, pass->tokens);
    norm_backward(pass, workspace->grad_x, grad->input_norm, a->x, a->input_rstd,
                  weights->input_norm, pass->tokens);
}

// The wanted rows' gradient becomes the whole stream's: zero elsewhere.
static void scatter_top(const struct pass *pass)
{
    const struct workspace *workspace = pass->workspace;
    struct device *device = pass->model->device;
    size_t hidden = (size_t)pass->model->config.hidden;
    device_zero(device, workspace->grad_x.data,
                pass->tokens * hidden * dtype_bytes(workspace->grad_x.dtype));
    device->ops->rows_scatter_add(device, &(struct rows_scatter_add){
                                              .out = workspace->grad_x,
                                              .x = workspace->grad_top,
                                              .index = workspace->wanted,
                                              .rows = pass->wanted,
                                              .width = hidden,
                                          });
}

// The head left the gradient of the norm's output in grad_normed.
static void final_norm_backward(const struct pass *pass, const struct decoder *grads)
{
    const struct workspace *workspace = pass->workspace;
    size_t hidden = (size_t)pass->model->config.hidden;
    device_zero(pass->model->device, workspace->grad_top.data,
                pass->wanted * hidden * dtype_bytes(workspace->grad_top.dtype));
    norm_backward(pass, workspace->grad_top, grads->final_norm, workspace->top, workspace->top_rstd,
                  pass->model->decoder->final_norm, pass->wanted);
}

// Layers stand in ascending order in memory, and backward visits them in descending order.
static void layer_complete(const struct pass *pass, size_t layer)
{
    const struct workspace *workspace = pass->workspace;
    const struct model *model = pass->model;
    if (!workspace->complete)
        return;
    workspace->complete(
        workspace->complete_context,
        model->lora ? model->lora->layer_begin[layer]
                    : layout_find(&model->layout, PARAM_INPUT_NORM, (int64_t)layer)->offset);
}

static void embedding_backward(const struct pass *pass, struct tensor grad)
{
    struct device *device = pass->model->device;
    const struct model_config *config = &pass->model->config;
    const size_t count = (size_t)(config->vocabulary * config->hidden);
    if (!grad.data)
        return;
    const struct tensor sums = gradients_open(pass, grad, count);
    device->ops->embedding_backward(device, &(struct embedding_backward){
                                                .grad_weight = sums,
                                                .grad_out = pass->workspace->grad_x,
                                                .ids = pass->workspace->ids,
                                                .tokens = pass->tokens,
                                                .vocabulary = (size_t)config->vocabulary,
                                                .width = (size_t)config->hidden,
                                                .scale = decoder_embedding_scale(pass->model),
                                            });
    gradients_close(pass, grad, count);
}

void decoder_backward(const struct pass *pass, const struct decoder *grads)
{
    size_t last = (size_t)pass->model->config.layers - 1;
    final_norm_backward(pass, grads);
    ffn_backward(pass, grads, last, pass->workspace->grad_top, pass->wanted);
    scatter_top(pass);
    attention_block_backward(pass, grads, last);
    layer_complete(pass, last);
    for (size_t layer = last; layer-- > 0;) {
        if (pass->workspace->recomputes)
            decoder_recompute(pass, layer);
        ffn_backward(pass, grads, layer, pass->workspace->grad_x, pass->tokens);
        attention_block_backward(pass, grads, layer);
        layer_complete(pass, layer);
    }
    embedding_backward(pass, grads->embedding);
    if (pass->workspace->complete)
        pass->workspace->complete(pass->workspace->complete_context, 0);
}
