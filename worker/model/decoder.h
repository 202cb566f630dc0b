// SPDX-License-Identifier: Apache-2.0
// Inside worker/model: the decoder as its operations see it, and one pass over a packed batch.
#ifndef MEMO_WORKER_MODEL_DECODER_H
#define MEMO_WORKER_MODEL_DECODER_H

#include "worker/model/model.h"

#include <math.h>

// A layer mixes tokens by attention or by a short convolution; what a model has not is NULL.
struct decoder_layer {
    enum layer_kind kind;
    struct tensor input_norm;         // [D]
    struct linear qkv;                // [(H + 2 H_kv) d, D], of a convolution [3 D, D]
    struct tensor q_norm, k_norm;     // [d]
    struct tensor conv;               // [D, K]
    struct linear o;                  // [D, H d], of a convolution [D, D]
    struct tensor attention_out_norm; // [D]
    struct tensor post_norm;          // [D]
    struct linear gate_up;            // [2 F, D]
    struct linear down;               // [D, F]
    struct tensor ffn_out_norm;       // [D]
};

// Views into one flat allocation of a layout: the weights, or the gradients.
struct decoder {
    struct tensor embedding; // [V, D]
    struct decoder_layer *layers;
    struct tensor final_norm; // [D]
    struct linear head;       // [V, D], the embedding when tied
};

void decoder_create(const struct model_config *config, struct decoder *out);
void decoder_release(struct decoder *decoder);
// vectors: where what does not decay stands instead (gradients.h); NULL: in flat too.
void decoder_bind(struct decoder *decoder, const struct model_config *config,
                  const struct layout *layout, struct tensor flat, float *vectors);

// What one layer leaves behind for its backward; without backward all layers share one set.
struct activations {
    struct tensor x;             // [T, D], the layer's input
    float *input_rstd;           // [T]; NULL without backward, as the other statistics
    struct tensor raw_qkv;       // as qkv, before norms and rotation; NULL without head norms
    float *q_rstd, *k_rstd;      // [T, H], [T, H_kv]
    struct tensor qkv;           // [T, (H + 2 H_kv) d], rotated; of a convolution [T, 3 D]
    struct tensor attention;     // [T, H d], of a convolution [T, D]
    float *log_sum_exp;          // [T, H]
    struct tensor attention_out; // [T, D], before its norm; NULL without block norms
    float *attention_out_rstd;   // [T]
    struct tensor middle;        // [T, D], x + attention block
    struct tensor ffn_x;         // middle; in the last layer its wanted rows only
    float *ffn_rstd;             // [T]
    struct tensor gate_up;       // [T, 2 F]
    struct tensor down;          // [T, D], before its norm; NULL without block norms
    float *ffn_out_rstd;         // [T]
    struct tensor ffn_out;       // [T, D], ffn_x + feed-forward block: the next layer's x, or top
};

struct workspace {
    struct model *model;
    size_t max_tokens;
    size_t slice_rows; // of the head, see loss.c
    bool with_backward;
    bool recomputes;        // layers share all activations but x, see decoder_recompute
    enum dtype activations; // type of the tensors below but x, middle, ffn_x, ffn_out and top: f32
    void *block;            // everything below that lives on the device
    size_t block_bytes;

    // inputs of the pass
    int32_t *ids, *positions, *targets, *wanted; // [T]
    int32_t *offsets;                            // [T + 1]

    struct activations *layers; // [layers], host
    struct tensor normed;       // [T, D]
    struct tensor gated;        // [T, F]
    struct tensor top;          // [R, D], what the final norm reads: rows with a wanted output
    float *top_rstd;            // [T]
    struct tensor logits;       // [slice_rows, V], f32
    uint8_t *codes;             // [T, widest input] of a quantized model's products
    float *scales;              // [T]
    float *losses;              // [T]

    // with_backward
    struct tensor grad_x;         // [T, D], of the residual stream
    struct tensor grad_top;       // [R, D], the same where only wanted rows exist
    struct tensor grad_normed;    // [T, D]
    struct tensor grad_qkv;       // [T, (H + 2 H_kv) d], or [T, 3 D]
    struct tensor grad_attention; // [T, H d], or [T, D]
    struct tensor grad_gated;     // [T, F]
    struct decoder grads;         // views of what is bound
    struct gradients bound;
    float *unused_grad; // of what is not trained and has to be written: any values
    void (*complete)(void *context, uint64_t from); // see workspace_watch_gradients
    void *complete_context;

    // of a model with adapters, see lora_pass.c
    uint64_t *keys, *wanted_keys; // [T] of dropout, of all tokens and of the wanted rows
    float *lora_x;                // [T, widest input]
    float *lora_hidden;           // [T, r]
    float *lora_grad_hidden;      // [T, r], with_backward
    float *lora_b, *lora_grad_b;  // [widest output, r], the latter with_backward

    // host
    int32_t *host_targets, *host_wanted; // [T]
    uint64_t *host_keys;                 // [T], of the wanted rows
    float *host_losses;                  // [T]
};

// Keys and values of earlier tokens, when there are any to look up. Arrays are on the device.
struct cache_lookup {
    struct tensor k, v;  // [attention layers, blocks, H_kv KV_BLOCK_TOKENS d]
    struct tensor state; // [convolution layers, blocks, K - 1, D]
    size_t blocks;
    struct block_tables tables;
    const int32_t *sequences; // [T] rows of the tables
    const int32_t *places;    // [T], see struct kv_write
    struct attention_plan plan;
};

// One forward pass. Inputs have been copied into the workspace.
struct pass {
    struct model *model;
    struct workspace *workspace;
    size_t tokens;
    size_t wanted;                    // rows of workspace->top
    struct sequences sequences;       // packed sequences, or
    const struct cache_lookup *cache; // a cache (then sequences are unused)
    bool drops;                       // adapters drop elements of their input
};

// Layers below `layer` that convolve, or those that attend: each kind has a cache of its own.
size_t layers_before(const struct model_config *config, size_t layer, bool conv);

void decoder_forward(const struct pass *pass); // leaves workspace->top

// From workspace->grad_normed (of the final norm's output) to the gradients of everything below the
// head. Overwrites the kept gate_up.
void decoder_backward(const struct pass *pass, const struct decoder *grads);

// Everything that backward of a layer below the last reads, from its kept x.
void decoder_recompute(const struct pass *pass, size_t layer);

// What adapters add to a dense layer: to out, and to grad_x and the gradients.
void lora_forward(const struct pass *pass, const struct linear *linear, struct tensor out,
                  struct tensor x, size_t rows);
void lora_backward(const struct pass *pass, const struct linear *linear, struct tensor x,
                   struct tensor grad_out, struct tensor grad_x, size_t rows);

// Through one dense layer and its adapters: grads += , which may be empty, grad_x = .
void linear_backward(const struct pass *pass, const struct linear *linear,
                     const struct linear *grads, struct tensor x, struct tensor grad_out,
                     struct tensor grad_x, size_t rows);

// Where a matrix's gradients of this pass are to be added, grad [count] itself or memory that
// starts with zeros, until they are closed; one matrix at a time. grad may be empty.
struct tensor gradients_open(const struct pass *pass, struct tensor grad, size_t count);
void gradients_close(const struct pass *pass, struct tensor grad, size_t count);

// Rotates queries and keys of a row, or its gradients back.
void decoder_rotate(const struct pass *pass, size_t layer, struct tensor qkv, bool backward);

// What embeddings are multiplied by.
float decoder_embedding_scale(const struct model *model);

// The final norm of workspace->top into workspace->normed.
void decoder_final_norm(const struct pass *pass);

// workspace->logits of `rows` rows of workspace->normed from `row` on.
void decoder_logits(const struct pass *pass, size_t row, size_t rows);

// Logits of every wanted row, slice by slice, to the host: [pass->wanted, V].
int decoder_logits_out(const struct pass *pass, float *out, struct error *err);

static inline struct tensor tensor_at(struct tensor tensor, size_t element)
{
    tensor.data = (char *)tensor.data + element * dtype_bytes(tensor.dtype);
    return tensor;
}

static inline size_t queries_width(const struct model_config *config) // H d
{
    return (size_t)(config->heads * config->head_width);
}

static inline size_t keys_width(const struct model_config *config) // H_kv d
{
    return (size_t)(config->kv_heads * config->head_width);
}

static inline size_t block_width(const struct model_config *config) // of keys, or of values
{
    return KV_BLOCK_TOKENS * keys_width(config);
}

static inline size_t qkv_width(const struct model_config *config)
{
    return queries_width(config) + 2 * keys_width(config);
}

// Of the rows that a layer's mixing of tokens reads and writes.
static inline size_t mixer_in_width(const struct model_config *config, enum layer_kind kind)
{
    return kind == LAYER_CONV ? 3 * (size_t)config->hidden : qkv_width(config);
}

static inline size_t mixer_out_width(const struct model_config *config, enum layer_kind kind)
{
    return kind == LAYER_CONV ? (size_t)config->hidden : queries_width(config);
}

static inline float attention_scale(const struct model_config *config)
{
    double scalar = config->attention_scalar;
    return scalar > 0 ? (float)(1.0 / sqrt(scalar)) : 1.0f / sqrtf((float)config->head_width);
}

static inline size_t layer_window(const struct model_config *config, size_t layer)
{
    return config->layer_kinds[layer] == LAYER_SLIDING ? (size_t)config->window : 0;
}

static inline float norm_offset(const struct model_config *config)
{
    return config->offset_norms ? 1.0f : 0.0f;
}

#endif
