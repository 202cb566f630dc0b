// SPDX-License-Identifier: Apache-2.0
// The decoder's forward pass (Vaswani et al. 2017, pre-norm). Per layer:
//     x      = x + o(attention(rope(qkv(rmsnorm(x)))))
//     x      = x + down(act(gate(rmsnorm(x))) * up(rmsnorm(x)))
// Models differ by what config says: heads of q and k are normalised before rope (head_norms), a
// norm stands in front of each + (block_norms), a short convolution takes the place of rope and
// attention (LAYER_CONV), tokens see a window only (LAYER_SLIDING).
//
// The residual stream is float32 whatever the other activations are: what layers add to it is small
// beside it. Backward needs its values before and after a block, generation keeps one.
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

static const struct tensor nothing = {.data = NULL};

// What parameters are views of.
struct ground {
    const struct layout *layout;
    struct tensor flat;
    float *vectors;
};

static struct tensor view(const struct ground *ground, enum parameter_kind kind, int64_t layer)
{
    const struct parameter *p = layout_find(ground->layout, kind, layer);
    if (p && ground->vectors && !p->decays)
        return (struct tensor){ground->vectors + p->vector_offset, DTYPE_F32};
    return p ? tensor_at(ground->flat, p->offset) : (struct tensor){.dtype = ground->flat.dtype};
}

void decoder_bind(struct decoder *decoder, const struct model_config *config,
                  const struct layout *layout, struct tensor flat, float *vectors)
{
    const struct ground ground = {layout, flat, vectors};
    size_t hidden = (size_t)config->hidden, ffn = (size_t)config->ffn;
    for (int64_t i = 0; i < config->layers; i++) {
        enum layer_kind kind = (enum layer_kind)config->layer_kinds[i];
        bool conv = kind == LAYER_CONV;
        decoder->layers[i] = (struct decoder_layer){
            .kind = kind,
            .input_norm = view(&ground, PARAM_INPUT_NORM, i),
            .qkv = {.weight = view(&ground, conv ? PARAM_CONV_IN : PARAM_Q, i),
                    .bias = view(&ground, PARAM_Q_BIAS, i),
                    .out_width = mixer_in_width(config, kind),
                    .in_width = hidden},
            .q_norm = view(&ground, PARAM_Q_NORM, i),
            .k_norm = view(&ground, PARAM_K_NORM, i),
            .conv = view(&ground, PARAM_CONV, i),
            .o = {.weight = view(&ground, conv ? PARAM_CONV_OUT : PARAM_O, i),
                  .out_width = hidden,
                  .in_width = mixer_out_width(config, kind)},
            .attention_out_norm = view(&ground, PARAM_ATTENTION_OUT_NORM, i),
            .post_norm = view(&ground, PARAM_POST_NORM, i),
            .gate_up = {.weight = view(&ground, PARAM_GATE, i),
                        .out_width = 2 * ffn,
                        .in_width = hidden},
            .down = {.weight = view(&ground, PARAM_DOWN, i), .out_width = hidden, .in_width = ffn},
            .ffn_out_norm = view(&ground, PARAM_FFN_OUT_NORM, i),
        };
    }
    decoder->embedding = view(&ground, PARAM_EMBEDDING, -1);
    decoder->final_norm = view(&ground, PARAM_FINAL_NORM, -1);
    decoder->head = (struct linear){
        .weight = config->tied ? decoder->embedding : view(&ground, PARAM_HEAD, -1),
        .out_width = (size_t)config->vocabulary,
        .in_width = hidden,
    };
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
                                             .weight_offset = norm_offset(&pass->model->config),
                                         });
}

static void dense_fp8(const struct pass *pass, const struct linear *linear, struct tensor out,
                      struct tensor x, size_t rows, struct tensor residual)
{
    struct device *device = pass->model->device;
    const struct workspace *workspace = pass->workspace;
    device->ops->quantize_rows(device, &(struct quantize_rows){.codes = workspace->codes,
                                                               .scales = workspace->scales,
                                                               .x = x,
                                                               .rows = rows,
                                                               .width = linear->in_width});
    device->ops->linear_fp8(device, &(struct linear_fp8){.out = out,
                                                         .x = workspace->codes,
                                                         .x_scales = workspace->scales,
                                                         .residual = residual,
                                                         .linear = linear,
                                                         .rows = rows});
}

// residual may be none.
static void dense(const struct pass *pass, const struct linear *linear, struct tensor out,
                  struct tensor x, size_t rows, struct tensor residual)
{
    struct device *device = pass->model->device;
    if (linear->codes && pass->workspace->codes) {
        dense_fp8(pass, linear, out, x, rows, residual);
        return;
    }
    device->ops->linear_forward(device, &(struct linear_forward){
                                            .out = out,
                                            .x = x,
                                            .linear = linear,
                                            .rows = rows,
                                            .residual = residual,
                                        });
    lora_forward(pass, linear, out, x, rows);
}

// out = residual + what a block adds: linear(x), through `weight`'s norm when the model has one.
// `added` keeps linear(x) for backward then.
static void add_block(const struct pass *pass, const struct linear *linear, struct tensor weight,
                      struct tensor out, struct tensor residual, struct tensor x,
                      struct tensor added, float *rstd, size_t rows)
{
    struct device *device = pass->model->device;
    if (!weight.data) {
        dense(pass, linear, out, x, rows, residual);
        return;
    }
    dense(pass, linear, added, x, rows, nothing);
    device->ops->rmsnorm_forward(device, &(struct rmsnorm_forward){
                                             .out = out,
                                             .rstd = rstd,
                                             .x = added,
                                             .residual = residual,
                                             .weight = weight,
                                             .rows = rows,
                                             .width = (size_t)pass->model->config.hidden,
                                             .epsilon = (float)pass->model->config.rms_epsilon,
                                             .weight_offset = norm_offset(&pass->model->config),
                                         });
}

static void normalise_heads(const struct pass *pass, struct tensor x, struct tensor weight,
                            float *rstd, size_t heads)
{
    struct device *device = pass->model->device;
    const struct model_config *config = &pass->model->config;
    device->ops->rmsnorm_forward(device, &(struct rmsnorm_forward){
                                             .out = x,
                                             .rstd = rstd,
                                             .x = x,
                                             .weight = weight,
                                             .rows = pass->tokens * heads,
                                             .width = (size_t)config->head_width,
                                             .heads = heads,
                                             .stride = qkv_width(config),
                                             .epsilon = (float)config->rms_epsilon,
                                             .weight_offset = norm_offset(config),
                                         });
}

static void norm_heads(const struct pass *pass, const struct decoder_layer *weights,
                       const struct activations *a)
{
    const struct model_config *config = &pass->model->config;
    if (!config->head_norms)
        return;
    if (a->raw_qkv.data)
        device_copy(pass->model->device, a->raw_qkv.data, a->qkv.data,
                    pass->tokens * qkv_width(config) * dtype_bytes(a->qkv.dtype));
    normalise_heads(pass, a->qkv, weights->q_norm, a->q_rstd, (size_t)config->heads);
    normalise_heads(pass, tensor_at(a->qkv, queries_width(config)), weights->k_norm, a->k_rstd,
                    (size_t)config->kv_heads);
}

// Queries and keys are neighbours in a row of qkv, so one call rotates both.
static struct rope rotation(const struct pass *pass, size_t layer, struct tensor qkv, bool backward)
{
    const struct model *model = pass->model;
    const struct model_config *config = &model->config;
    size_t sliding = config->layer_kinds[layer] == LAYER_SLIDING;
    bool scaled = !sliding || config->local_rope_theta == 0;
    return (struct rope){
        .x = qkv,
        .positions = pass->workspace->positions,
        .inverse_frequency = model->inverse_frequency + sliding * (size_t)config->head_width / 2,
        .magnitude = scaled && config->rope_scaling.kind == ROPE_YARN
                         ? (float)config->rope_scaling.attention_factor
                         : 1.0f,
        .tokens = pass->tokens,
        .stride = qkv_width(config),
        .heads = (size_t)(config->heads + config->kv_heads),
        .head_width = (size_t)config->head_width,
        .backward = backward,
    };
}

void decoder_rotate(const struct pass *pass, size_t layer, struct tensor qkv, bool backward)
{
    const struct rope rope = rotation(pass, layer, qkv, backward);
    pass->model->device->ops->rope(pass->model->device, &rope);
}

static void attend_packed(const struct pass *pass, const struct activations *a, size_t layer)
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
                    .scale = attention_scale(config),
                    .window = layer_window(config, layer),
                });
}

size_t layers_before(const struct model_config *config, size_t layer, bool conv)
{
    size_t count = 0;
    for (size_t i = 0; i < layer; i++)
        count += (config->layer_kinds[i] == LAYER_CONV) == conv;
    return count;
}

static void attend_cached(const struct pass *pass, const struct activations *a, size_t layer)
{
    struct device *device = pass->model->device;
    const struct model_config *config = &pass->model->config;
    const struct cache_lookup *cache = pass->cache;
    size_t at = layers_before(config, layer, false) * cache->blocks * block_width(config);
    struct tensor k_cache = tensor_at(cache->k, at), v_cache = tensor_at(cache->v, at);
    device->ops->rope_kv_write(
        device, &(struct rope_kv_write){
                    .rope = rotation(pass, layer, a->qkv, false),
                    .write = {.k_cache = k_cache,
                              .v_cache = v_cache,
                              .k = tensor_at(a->qkv, queries_width(config)),
                              .v = tensor_at(a->qkv, queries_width(config) + keys_width(config)),
                              .stride = qkv_width(config),
                              .places = cache->places,
                              .tokens = pass->tokens,
                              .kv_heads = (size_t)config->kv_heads,
                              .head_width = (size_t)config->head_width},
                });
    device->ops->attention_cached(device, &(struct attention_cached){
                                              .out = a->attention,
                                              .q = a->qkv,
                                              .stride = qkv_width(config),
                                              .k_cache = k_cache,
                                              .v_cache = v_cache,
                                              .tables = cache->tables,
                                              .sequences = cache->sequences,
                                              .positions = pass->workspace->positions,
                                              .plan = cache->plan,
                                              .tokens = pass->tokens,
                                              .heads = (size_t)config->heads,
                                              .kv_heads = (size_t)config->kv_heads,
                                              .head_width = (size_t)config->head_width,
                                              .scale = attention_scale(config),
                                              .window = layer_window(config, layer),
                                          });
}

static void attend(const struct pass *pass, const struct decoder_layer *weights,
                   const struct activations *a, size_t layer)
{
    norm_heads(pass, weights, a);
    if (pass->cache) {
        attend_cached(pass, a, layer);
        return;
    }
    decoder_rotate(pass, layer, a->qkv, false);
    attend_packed(pass, a, layer);
}

static void convolve_cached(const struct pass *pass, const struct decoder_layer *weights,
                            const struct activations *a, size_t layer)
{
    struct device *device = pass->model->device;
    const struct model_config *config = &pass->model->config;
    size_t width = (size_t)config->hidden, taps = (size_t)config->conv_taps;
    size_t state_at = layers_before(config, layer, true) * pass->cache->blocks * (taps - 1) * width;
    device->ops->short_conv_cached(device, &(struct short_conv_cached){
                                               .out = a->attention,
                                               .bcx = a->qkv,
                                               .weight = weights->conv,
                                               .state = tensor_at(pass->cache->state, state_at),
                                               .tables = pass->cache->tables,
                                               .sequences = pass->cache->sequences,
                                               .positions = pass->workspace->positions,
                                               .tokens = pass->tokens,
                                               .width = width,
                                               .taps = taps,
                                           });
}

static void convolve(const struct pass *pass, const struct decoder_layer *weights,
                     const struct activations *a, size_t layer)
{
    struct device *device = pass->model->device;
    const struct model_config *config = &pass->model->config;
    if (pass->cache)
        convolve_cached(pass, weights, a, layer);
    else
        device->ops->short_conv_forward(device, &(struct short_conv_forward){
                                                    .out = a->attention,
                                                    .bcx = a->qkv,
                                                    .weight = weights->conv,
                                                    .sequences = pass->sequences,
                                                    .tokens = pass->tokens,
                                                    .width = (size_t)config->hidden,
                                                    .taps = (size_t)config->conv_taps,
                                                });
}

static void attention_block(const struct pass *pass, size_t layer)
{
    const struct decoder_layer *weights = &pass->model->decoder->layers[layer];
    const struct activations *a = &pass->workspace->layers[layer];
    norm(pass, a->x, weights->input_norm, a->input_rstd, pass->tokens);
    dense(pass, &weights->qkv, a->qkv, pass->workspace->normed, pass->tokens, nothing);
    if (weights->kind == LAYER_CONV)
        convolve(pass, weights, a, layer);
    else
        attend(pass, weights, a, layer);
    add_block(pass, &weights->o, weights->attention_out_norm, a->middle, a->x, a->attention,
              a->attention_out, a->attention_out_rstd, pass->tokens);
}

static void ffn_gates(const struct pass *pass, size_t layer, size_t rows)
{
    const struct decoder_layer *weights = &pass->model->decoder->layers[layer];
    const struct activations *a = &pass->workspace->layers[layer];
    norm(pass, a->ffn_x, weights->post_norm, a->ffn_rstd, rows);
    dense(pass, &weights->gate_up, a->gate_up, pass->workspace->normed, rows, nothing);
}

static void ffn_gated(const struct pass *pass, size_t layer, size_t rows)
{
    struct device *device = pass->model->device;
    device->ops->gated_forward(device, &(struct gated_forward){
                                           .out = pass->workspace->gated,
                                           .gate_up = pass->workspace->layers[layer].gate_up,
                                           .activation = pass->model->config.activation,
                                           .rows = rows,
                                           .width = (size_t)pass->model->config.ffn,
                                       });
}

static void ffn_block(const struct pass *pass, size_t layer, size_t rows)
{
    const struct decoder_layer *weights = &pass->model->decoder->layers[layer];
    const struct activations *a = &pass->workspace->layers[layer];
    ffn_gates(pass, layer, rows);
    ffn_gated(pass, layer, rows);
    add_block(pass, &weights->down, weights->ffn_out_norm, a->ffn_out, a->ffn_x,
              pass->workspace->gated, a->down, a->ffn_out_rstd, rows);
}

// The layer's output is the next one's x, which is there: only with a norm in front of the + does
// backward read what the last product gave.
void decoder_recompute(const struct pass *pass, size_t layer)
{
    const struct decoder_layer *weights = &pass->model->decoder->layers[layer];
    attention_block(pass, layer);
    if (weights->ffn_out_norm.data)
        ffn_block(pass, layer, pass->tokens);
    else
        ffn_gates(pass, layer, pass->tokens);
}

// transformers keeps the factor in the weights' type: in bfloat16 the root of 1,152 is 34.
float decoder_embedding_scale(const struct model *model)
{
    if (!model->config.scaled_embedding)
        return 1.0f;
    float scale = (float)sqrt((double)model->config.hidden);
    uint32_t rounded = 0; // room for any type
    convert_from_f32(&rounded, model->weights.dtype, &scale, 1);
    convert_to_f32(&scale, &rounded, model->weights.dtype, 1);
    return scale;
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
                                               .scale = decoder_embedding_scale(pass->model),
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
          tensor_at(workspace->normed, row * (size_t)pass->model->config.hidden), rows, nothing);
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
