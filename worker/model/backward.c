// SPDX-License-Identifier: Apache-2.0
// The decoder's backward pass, the forward's mirror. grad_x runs down the residual stream: a
// block's gradient is added to it by the norm in front of the block, while the stream itself passes
// through untouched. Norm outputs and the gated product are computed again from what forward kept:
// they are one cheap sweep each, and storing them would add 2 D + F numbers per token and layer.
#include "worker/model/decoder.h"

#include <math.h>

void linear_backward(const struct pass *pass, const struct linear *linear,
                     const struct linear *grads, struct tensor x, struct tensor grad_out,
                     struct tensor grad_x, size_t rows)
{
    struct device *device = pass->model->device;
    device->ops->linear_backward_weight(device, &(struct linear_backward_weight){
                                                    .grad_weight = grads->weight,
                                                    .grad_bias = grads->bias,
                                                    .grad_out = grad_out,
                                                    .x = x,
                                                    .rows = rows,
                                                    .out_width = linear->out_width,
                                                    .in_width = linear->in_width,
                                                });
    device->ops->linear_backward_input(device, &(struct linear_backward_input){
                                                   .grad_x = grad_x,
                                                   .grad_out = grad_out,
                                                   .linear = linear,
                                                   .rows = rows,
                                               });
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
                                          });
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
    linear_backward(pass, &weights->down, &grad->down, workspace->gated, grad_x,
                    workspace->grad_gated, rows);
    gated_backward(pass, a, rows);
    norm_again(pass, a->ffn_x, weights->post_norm, rows);
    linear_backward(pass, &weights->gate_up, &grad->gate_up, workspace->normed, a->gate_up,
                    workspace->grad_normed, rows);
    norm_backward(pass, grad_x, grad->post_norm, a->ffn_x, a->ffn_rstd, weights->post_norm, rows);
}

static void attend_backward(const struct pass *pass, const struct activations *a)
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
                                                .scale = 1.0f / sqrtf((float)config->head_width),
                                            });
    device->ops->rope(device, &(struct rope){
                                  .x = workspace->grad_qkv,
                                  .positions = workspace->positions,
                                  .inverse_frequency = pass->model->inverse_frequency,
                                  .magnitude = 1.0f,
                                  .tokens = pass->tokens,
                                  .stride = qkv_width(config),
                                  .heads = (size_t)(config->heads + config->kv_heads),
                                  .head_width = (size_t)config->head_width,
                                  .backward = true,
                              });
}

static void attention_block_backward(const struct pass *pass, const struct decoder *grads,
                                     size_t layer)
{
    const struct workspace *workspace = pass->workspace;
    const struct activations *a = &workspace->layers[layer];
    const struct decoder_layer *weights = &pass->model->decoder->layers[layer];
    const struct decoder_layer *grad = &grads->layers[layer];
    linear_backward(pass, &weights->o, &grad->o, a->attention, workspace->grad_x,
                    workspace->grad_attention, pass->tokens);
    attend_backward(pass, a);
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

void decoder_backward(const struct pass *pass, const struct decoder *grads)
{
    struct device *device = pass->model->device;
    size_t last = (size_t)pass->model->config.layers - 1;
    final_norm_backward(pass, grads);
    ffn_backward(pass, grads, last, pass->workspace->grad_top, pass->wanted);
    scatter_top(pass);
    attention_block_backward(pass, grads, last);
    for (size_t layer = last; layer-- > 0;) {
        ffn_backward(pass, grads, layer, pass->workspace->grad_x, pass->tokens);
        attention_block_backward(pass, grads, layer);
    }
    device->ops->embedding_backward(device,
                                    &(struct embedding_backward){
                                        .grad_weight = grads->embedding,
                                        .grad_out = pass->workspace->grad_x,
                                        .ids = pass->workspace->ids,
                                        .tokens = pass->tokens,
                                        .vocabulary = (size_t)pass->model->config.vocabulary,
                                        .width = (size_t)pass->model->config.hidden,
                                        .scale = 1.0f,
                                    });
}
