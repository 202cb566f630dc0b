// SPDX-License-Identifier: Apache-2.0
// Inside worker/model: the cache of keys, values and states, and what a step looks up in it.
#ifndef MEMO_WORKER_MODEL_KV_CACHE_H
#define MEMO_WORKER_MODEL_KV_CACHE_H

#include "worker/model/decoder.h"
#include "worker/model/reading_plan.h"

struct kv_cache {
    struct model *model;
    struct kv_cache_size size;
    size_t table_blocks; // of a row of the tables
    struct workspace *workspace;
    struct cache_lookup lookup;
    struct reading_plan *plan;
    // [blocks], of models with convolutions: positions of the block that its state has taken in
    int32_t *filled;
    int32_t *host_places; // [max_tokens]
    struct step_graphs *graphs;
    // on the device
    int32_t *tables;                    // [sequences, table_blocks]
    int32_t *token_sequences, *places;  // [max_tokens]
    int32_t *order;                     // [max_tokens]
    struct attention_group *groups;     // [max_tokens]
    struct attention_segment *segments; // [2 max_tokens]
    int32_t *chosen;                    // [max_tokens], the tokens drawn
    struct sample_row *sample_rows;     // [sequences]; NULL: the device does not draw
    uint64_t *sample_bits;              // [2 sequences, mask words]
    // of model_step_slices, once it was called
    float *host_logits; // [slice_rows, V]
};

// Notes what the step will write. Fails, and changes nothing, when a convolution would go on where
// it did not end.
int kv_cache_advance(struct kv_cache *cache, const struct step_tokens *step, struct error *err);

// Fills cache->lookup for a step of `padded` tokens, of which those behind the step's own are kept
// nowhere and attend to nobody (`pads`: its plan is padded too), and clears the blocks that the
// step begins: what lies behind a sequence's last position is multiplied by 0 and must be finite.
void kv_cache_look_up(struct kv_cache *cache, const struct step_tokens *step, size_t padded,
                      bool pads);

static inline size_t mask_words(const struct model_config *config)
{
    return ((size_t)config->vocabulary + 63) / 64;
}

#endif
