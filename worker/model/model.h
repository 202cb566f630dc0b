// SPDX-License-Identifier: Apache-2.0
// One decoder, written once over the kernels table: training and generation run the same layers and
// differ in where attention finds its keys.
#ifndef MEMO_WORKER_MODEL_MODEL_H
#define MEMO_WORKER_MODEL_MODEL_H

#include "kernels/kernels.h"
#include "worker/model/config.h"
#include "worker/model/gradients.h"
#include "worker/model/layout.h"

struct model {
    struct model_config config;
    struct layout layout;
    struct device *device;
    struct tensor weights;    // [layout.elements], on the device, f32 for training
    struct decoder *decoder;  // views into weights, see decoder.h
    float *inverse_frequency; // [2, head_width / 2], rotary embedding of full and of sliding
                              // layers, on the device
    int pack_count;
    void *codes;       // of eight bits, see model_quantize; NULL: none
    struct lora *lora; // adapters, see lora.h; NULL: none
};

// What training changes: the weights, or of a model with adapters those alone.
const struct layout *model_trained_layout(const struct model *model);
struct tensor model_trained_weights(const struct model *model);

// Allocates zeroed weights. dtype is that of the weights on the device.
int model_create(struct device *device, const struct model_config *config, enum dtype dtype,
                 struct model **out, struct error *err);
void model_destroy(struct model *model);

// The same weights in another type: takes over the device's memory [layout.elements] and frees that
// of before. Not while they are packed.
void model_replace_weights(struct model *model, struct tensor weights);

// Normal initialisation, deviation 0.02 (residual outputs divided by sqrt(2 layers)), norms 1 (0
// where they are stored less 1),
// biases 0. Element i of a tensor depends on seed, tensor name and i only.
int model_init_random(struct model *model, uint64_t seed, struct error *err);

// Lets the kernels keep their own copy of the dense weights in the layout that they read fastest.
// Between the first pack and the last unpack (they nest) the weights must not change.
void model_pack(struct model *model);
void model_unpack(struct model *model);

// Makes codes of eight bits (kernels/fp8.h) of the layers' dense weights, on the device, beside the
// weights; the steps of generation with caches created afterwards multiply those. The head keeps
// its type. Not for models with adapters; the weights must not change or move afterwards.
int model_quantize(struct model *model, struct error *err);

// --- training ---

// A packed batch, host memory. A target of -1 counts nothing.
struct batch {
    const int32_t *ids;       // [tokens]
    const int32_t *positions; // [tokens], from 0 in each sequence
    const int32_t *targets;   // [tokens]: the next token to predict, or -1
    const int32_t *offsets;   // [sequences + 1]
    size_t tokens;
    size_t sequences;
    // [tokens] of random numbers, by which adapters drop elements of a token; NULL: none is dropped
    const uint64_t *dropout_keys;
};

// Activations and workspace for batches of at most max_tokens, with or without gradients.
// A recomputing one has gradients but keeps only each layer's input and computes the rest of a
// layer again when backward comes to it (Chen et al. 2016): the same bits for about a third more
// time.
struct workspace;
int workspace_create(struct model *model, size_t max_tokens, bool with_backward,
                     struct workspace **out, struct error *err);
int workspace_create_recomputing(struct model *model, size_t max_tokens, struct workspace **out,
                                 struct error *err);
// What workspace_create with backward, or workspace_create_recomputing, will allocate.
size_t workspace_bytes_needed(struct model *model, size_t max_tokens, bool recomputing);
size_t workspace_bytes_forward(struct model *model, size_t max_tokens); // the same without backward
void workspace_destroy(struct workspace *workspace);
size_t workspace_bytes(const struct workspace *workspace);
// During backward `complete` is called, at last with 0, whenever this pass adds nothing more to the
// gradients of the elements from `from` on: the device has been told to compute them. NULL: nobody
// is.
void workspace_watch_gradients(struct workspace *workspace,
                               void (*complete)(void *context, uint64_t from), void *context);

// Sum of the losses over the batch's targets (not the mean). With grads not NULL accumulates d(sum
// of losses * grad_scale)/d trained weights there; those of adapters in float32 only. The head and
// the cross-entropy run over slices of the rows that have a target, so that [tokens, vocabulary]
// never exists.
int model_loss(struct model *model, struct workspace *workspace, const struct batch *batch,
               const struct gradients *grads, float grad_scale, double *loss_sum,
               struct error *err);

// Logits of every token of the batch, [tokens, vocabulary] f32 on the host.
int model_logits(struct model *model, struct workspace *workspace, const struct batch *batch,
                 float *out, struct error *err);

// --- generation ---

// Keys and values, of all layers, in blocks of KV_BLOCK_TOKENS positions (and the states of short
// convolutions at the end of each block). Which block holds what is the caller's affair.
struct kv_cache;
struct kv_cache_size {
    size_t blocks;
    size_t capacity;   // positions of a sequence
    size_t sequences;  // most in a step
    size_t max_tokens; // of a step
};
int kv_cache_create(struct model *model, const struct kv_cache_size *size, struct kv_cache **out,
                    struct error *err);
void kv_cache_destroy(struct kv_cache *cache);
size_t kv_cache_bytes(const struct kv_cache *cache); // of keys, values and states
// What kv_cache_create will allocate: keys, values, states, and the workspace of a step.
size_t kv_cache_bytes_needed(struct model *model, const struct kv_cache_size *size);

// Makes block `to` equal to `from`. Not for models with convolutions, whose blocks know the state
// after their latest position only.
void kv_cache_copy_block(struct kv_cache *cache, int32_t from, int32_t to);

static inline size_t kv_blocks(size_t tokens) // that this many positions take
{
    return (tokens + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
}

// Runs `tokens` new tokens (any mix of prompts and single steps; those of a sequence stand
// together, in ascending order of positions) and writes the logits of those listed in `wanted`
// (indices into the batch) to out [wanted_count, vocabulary] f32 on the host. Sequences may have
// blocks in common; of these each position is written by one. tokens is at most the cache's
// max_tokens.
struct step_tokens {
    const int32_t *ids;
    const int32_t *sequences; // [tokens] rows of tables
    const int32_t *positions;
    size_t tokens;
    const int32_t *tables; // [sequence_count, kv_blocks(capacity)]: blocks in order of positions
    size_t sequence_count;
    const int32_t *wanted;
    size_t wanted_count;
};
int model_step(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
               float *out, struct error *err);

// The same, but only the tokens drawn leave the device: out [wanted_count]. Where the device
// captures work, steps of one token a sequence are captured. Where its operations have no `sample`,
// only the NULL of greedy steps is taken.
struct step_draws {
    const struct sample_row *rows; // [wanted_count], at most the cache's sequences
    const uint64_t *bits;          // [bit_rows, (vocabulary + 63) / 64], at most two for a sequence
    size_t bit_rows;
};
int model_step_draw(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
                    const struct step_draws *draws, int32_t *out, struct error *err);

// The same, each wanted row's largest logit: the lowest token on ties.
int model_step_greedy(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
                      int32_t *out, struct error *err);

// The same, but the logits come to the host in slices that fit: take() is called with those of
// wanted rows row..row + rows, [rows, vocabulary], which it may change.
struct logits_taker {
    void (*take)(void *context, float *logits, size_t row, size_t rows);
    void *context;
};
int model_step_slices(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
                      const struct logits_taker *taker, struct error *err);

// --- files ---

// A Hugging Face directory. Every tensor is checked by name and shape; what is missing or left over
// is an error that lists it.
int model_load(struct device *device, const char *directory, enum dtype dtype, struct model **out,
               struct error *err);

struct fs;
struct model_save_options {
    const char *tokenizer_from; // its tokenizer files are copied beside the weights; NULL: none
    uint64_t max_shard_bytes;   // of the tensors in one file; 0: no limit. A larger tensor stands
                                // alone
};

// Writes config.json and the weights (dtype: config.dtype) into directory, which is created:
// model.safetensors, or shards and model.safetensors.index.json when one would be too large. The
// weights, or their index, come last: a directory that has either is whole. options may be NULL.
int model_save(const struct model *model, struct fs *fs, const char *directory,
               const struct model_save_options *options, struct error *err);

#endif
