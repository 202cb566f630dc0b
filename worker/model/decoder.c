// SPDX-License-Identifier: Apache-2.0
// The decoder's forward pass (Vaswani et al. 2017, pre-norm; Qwen2: Yang et al. 2024). Per layer:
//     x      = x + o(attention(rope(qkv(rmsnorm(x)))))
//     x      = x + down(silu(gate(rmsnorm(x))) * up(rmsnorm(x)))
// The residual stream is copied before a block adds to it, because backward needs both values.
//
// The last layer's feed-forward, the final norm and the head see only the rows whose logits
// somebody wants: nothing above the last attention mixes tokens.
#include "worker/model/decoder.h"

#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

void decoder_create(const struct model_config *config, struct decoder *out)
{
    *out = (struct decoder){.layers = mem_calloc((size_t)config->layers, sizeof *out->layers)};
}

void decoder_release(struct decoder *decoder)
{
    free(decoder->layers);
    *decoder = (struct decoder){0};
}

static struct tensor view(const struct layout *layout, enum parameter_kind kind, int64_t layer,
                          struct tensor flat)
{
    const struct parameter *p = layout_find(layout, kind, layer);
    return p ? tensor_at(flat, p->offset) : (struct tensor){.dtype = flat.dtype};
}

void decoder_bind(struct decoder *decoder, const struct model_config *config,
                  const struct layout *layout, struct tensor flat)
{
    size_t hidden = (size_t)config->hidden, ffn = (size_t)config->ffn;
    for (int64_t i = 0; i < config->layers; i++) {
        decoder->layers[i] = (struct decoder_layer){
            .input_norm = view(layout, PARAM_INPUT_NORM, i, flat),
            .qkv = {.weight = view(layout, PARAM_Q, i, flat),
                    .bias = view(layout, PARAM_Q_BIAS, i, flat),
                    .out_width = qkv_width(config),
                    .in_width = hidden},
            .o = {.weight = view(layout, PARAM_O, i, flat),
                  .out_width = hidden,
                  .in_width = queries_width(config)},
            .post_norm = view(layout, PARAM_POST_NORM, i, flat),
            .gate_up = {.weight = view(layout, PARAM_GATE, i, flat),
                        .out_width = 2 * ffn,
                        .in_width = hidden},
            .down = {.weight = view(layout, PARAM_DOWN, i, flat),
                     .out_width = hidden,
                     .in_width = ffn},
        };
    }
    decoder->embedding = view(layout, PARAM_EMBEDDING, -1, flat);
    decoder->final_norm = view(layout, PARAM_FINAL_NORM, -1, flat);
    decoder->head = (struct linear){
        .weight = config->tied ? decoder->embedding : view(layout, PARAM_HEAD, -1, flat),
        .out_width = (size_t)config->vocabulary,
        .in_width = hidden,
    };
}

static void copy_rows(const struct pass *pass, struct tensor out, struct tensor in, size_t rows)
{
    if (out.data != in.data)
        device_copy(pass->model->device, out.data, in.data,
                    rows * (size_t)pass->model->config.hidden * dtype_bytes(in.dtype));
}

static void norm(const struct pass *pass, struct tensor x, struct tensor weight, float *rstd,
                 size_t rows)
{
    struct device *device = pass->model->device;
    device->ops->rmsnorm_forward(device, &(struct rmsnorm_forward){
                                             .out = pass->workspace->normed,
                                             .rstd = rstd,
                                             .x = x,
                                             .weight = weight,
                                             .rows = rows,
                                             .width = (size_t)pass->model->config.hidden,
                                             .epsilon = (float)pass->model->config.rms_epsilon,
                                         });
}

static void dense(const struct pass *pass, const struct linear *linear, struct tensor out,
                  struct tensor x, size_t rows, bool accumulate)
{
    struct device *device = pass->model->device;
    device->ops->linear_forward(device, &(struct linear_forward){
                                            .out = out,
                                            .x = x,
                                            .linear = linear,
                                            .rows = rows,
                                            .accumulate = accumulate,
                                        });
}

// Queries and keys are neighbours in a row of qkv, so one call rotates both.
static void rotate(const struct pass *pass, struct tensor qkv)
{
    const struct model *model = pass->model;
    const struct model_config *config = &model->config;
    model->device->ops->rope(model->device, &(struct rope){
                                                .x = qkv,
                                                .positions = pass->workspace->positions,
                                                .inverse_frequency = model->inverse_frequency,
                                                .magnitude = 1.0f,
                                                .tokens = pass->tokens,
                                                .stride = qkv_width(config),
                                                .heads = (size_t)(config->heads + config->kv_heads),
                                                .head_width = (size_t)config->head_width,
                                            });
}

static void attend_packed(const struct pass *pass, const struct activations *a)
{
    struct device *device = pass->model->device;
    const struct model_config *config = &pass->model->config;
    device->ops->attention_forward(
        device, &(struct attention_forward){
                    .out = a->attention,
                    .log_sum_exp = a->log_sum_exp,
                    .q = a->qkv,
                    .k = tensor_at(a->qkv, queries_width(config)),
                    .v = tensor_at(a->qkv, queries_width(config) + keys_width(config)),
                    .stride = qkv_width(config),
                    .sequences = pass->sequences,
                    .tokens = pass->tokens,
                    .heads = (size_t)config->heads,
                    .kv_heads = (size_t)config->kv_heads,
                    .head_width = (size_t)config->head_width,
                    .scale = 1.0f / sqrtf((float)config->head_width),
                });
}

static void attend_cached(const struct pass *pass, const struct activations *a, size_t layer)
{
    struct device *device = pass->model->device;
    const struct model_config *config = &pass->model->config;
    const struct cache_lookup *cache = pass->cache;
    size_t at = layer * cache->slots * cache->capacity * keys_width(config);
    struct tensor k_cache = tensor_at(cache->k, at), v_cache = tensor_at(cache->v, at);
    device->ops->kv_write(device,
                          &(struct kv_write){
                              .k_cache = k_cache,
                              .v_cache = v_cache,
                              .k = tensor_at(a->qkv, queries_width(config)),
                              .v = tensor_at(a->qkv, queries_width(config) + keys_width(config)),
                              .stride = qkv_width(config),
                              .slots = cache->token_slots,
                              .positions = pass->workspace->positions,
                              .tokens = pass->tokens,
                              .capacity = cache->capacity,
                              .kv_heads = (size_t)config->kv_heads,
                              .head_width = (size_t)config->head_width,
                          });
    device->ops->attention_cached(device, &(struct attention_cached){
                                              .out = a->attention,
                                              .q = a->qkv,
                                              .stride = qkv_width(config),
                                              .k_cache = k_cache,
                                              .v_cache = v_cache,
                                              .slots = cache->token_slots,
                                              .positions = pass->workspace->positions,
                                              .tokens = pass->tokens,
                                              .capacity = cache->capacity,
                                              .heads = (size_t)config->heads,
                                              .kv_heads = (size_t)config->kv_heads,
                                              .head_width = (size_t)config->head_width,
                                              .scale = 1.0f / sqrtf((float)config->head_width),
                                          });
}

static void attention_block(const struct pass *pass, size_t layer)
{
    const struct decoder_layer *weights = &pass->model->decoder->layers[layer];
    const struct activations *a = &pass->workspace->layers[layer];
    norm(pass, a->x, weights->input_norm, a->input_rstd, pass->tokens);
    dense(pass, &weights->qkv, a->qkv, pass->workspace->normed, pass->tokens, false);
    rotate(pass, a->qkv);
    if (pass->cache)
        attend_cached(pass, a, layer);
    else
        attend_packed(pass, a);
    copy_rows(pass, a->middle, a->x, pass->tokens);
    dense(pass, &weights->o, a->middle, a->attention, pass->tokens, true);
}

static void ffn_block(const struct pass *pass, size_t layer, size_t rows)
{
    struct device *device = pass->model->device;
    const struct decoder_layer *weights = &pass->model->decoder->layers[layer];
    const struct activations *a = &pass->workspace->layers[layer];
    norm(pass, a->ffn_x, weights->post_norm, a->ffn_rstd, rows);
    dense(pass, &weights->gate_up, a->gate_up, pass->workspace->normed, rows, false);
    device->ops->gated_forward(device, &(struct gated_forward){
                                           .out = pass->workspace->gated,
                                           .gate_up = a->gate_up,
                                           .activation = pass->model->config.activation,
                                           .rows = rows,
                                           .width = (size_t)pass->model->config.ffn,
                                       });
    copy_rows(pass, a->ffn_out, a->ffn_x, rows);
    dense(pass, &weights->down, a->ffn_out, pass->workspace->gated, rows, true);
}

void decoder_forward(const struct pass *pass)
{
    const struct workspace *workspace = pass->workspace;
    struct device *device = pass->model->device;
    size_t last = (size_t)pass->model->config.layers - 1;
    size_t hidden = (size_t)pass->model->config.hidden;
    device->ops->embedding_forward(device, &(struct embedding_forward){
                                               .out = workspace->layers[0].x,
                                               .weight = pass->model->decoder->embedding,
                                               .ids = workspace->ids,
                                               .tokens = pass->tokens,
                                               .width = hidden,
                                               .scale = 1.0f,
                                           });
    for (size_t layer = 0; layer < last; layer++) {
        attention_block(pass, layer);
        ffn_block(pass, layer, pass->tokens);
    }
    attention_block(pass, last);
    if (pass->wanted == 0)
        return;
    device->ops->rows_gather(device, &(struct rows_gather){
                                         .out = workspace->layers[last].ffn_x,
                                         .x = workspace->layers[last].middle,
                                         .index = workspace->wanted,
                                         .rows = pass->wanted,
                                         .width = hidden,
                                     });
    ffn_block(pass, last, pass->wanted);
}

void decoder_final_norm(const struct pass *pass)
{
    norm(pass, pass->workspace->top, pass->model->decoder->final_norm, pass->workspace->top_rstd,
         pass->wanted);
}

void decoder_logits(const struct pass *pass, size_t row, size_t rows)
{
    const struct workspace *workspace = pass->workspace;
    assert(rows <= workspace->slice_rows);
    dense(pass, &pass->model->decoder->head, workspace->logits,
          tensor_at(workspace->normed, row * (size_t)pass->model->config.hidden), rows, false);
}

int decoder_logits_out(const struct pass *pass, float *out, struct error *err)
{
    const struct workspace *workspace = pass->workspace;
    size_t vocabulary = (size_t)pass->model->config.vocabulary;
    for (size_t row = 0; row < pass->wanted; row += workspace->slice_rows) {
        size_t left = pass->wanted - row;
        size_t rows = left < workspace->slice_rows ? left : workspace->slice_rows;
        decoder_logits(pass, row, rows);
        if (device_copy_out(pass->model->device, out + row * vocabulary, workspace->logits.data,
                            rows * vocabulary * sizeof *out, err))
            return -1;
    }
    return 0;
}
