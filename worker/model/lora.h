// SPDX-License-Identifier: Apache-2.0
// Low-rank adapters (Hu et al. 2021, LoRA) as PEFT has them: a projection y = W x also adds
//     alpha / r * B A dropout(x),   A [r, in], B [out, r],
// and training changes A and B only. Adapters of all projections stand in a layout of their own, in
// ascending order of layers, so that optimizer, gradients and checkpoints run on it as they would
// on the model's.
#ifndef MEMO_WORKER_MODEL_LORA_H
#define MEMO_WORKER_MODEL_LORA_H

#include "worker/model/model.h"

// Projections that can have an adapter. Those that one matrix holds to the kernels are neighbours.
enum lora_target {
    LORA_Q,
    LORA_K,
    LORA_V,
    LORA_O,
    LORA_GATE,
    LORA_UP,
    LORA_DOWN,
    LORA_TARGETS,
};

#define LORA_TARGET_NAMES "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"

struct lora_options {
    int64_t r;
    double alpha;
    double dropout;   // probability, below 1
    uint32_t targets; // 1 << enum lora_target, together
    uint64_t seed;    // of A's initial values
};

// Names of Hugging Face's Llama, separated by commas, for every family of models.
int lora_targets_parse(const char *names, uint32_t *out, struct error *err);

struct lora_adapter {
    bool present;
    uint64_t a, b; // elements into the weights
    size_t in_width, out_width;
    size_t row; // of the fused matrix where the projection begins
};

struct lora {
    struct lora_options options;
    struct layout layout;          // PEFT's names
    struct tensor weights;         // [layout.elements], f32, on the device
    struct lora_adapter *adapters; // [layers, LORA_TARGETS]
    uint64_t *layer_begin;         // [layers] elements: where a layer's adapters begin
};

// Gives the model adapters: A uniform within 1 / sqrt(in), a function of seed, name and element
// only; B zero, so that the model computes the same as before. Before workspaces are made of it. An
// error when it has none of the targets.
int model_add_lora(struct model *model, const struct lora_options *options, struct error *err);

// The weights become W + alpha / r B A, and the adapters are gone. No workspace may be used after.
int model_merge_lora(struct model *model, struct error *err);

void lora_destroy(struct device *device, struct lora *lora);

// adapter_config.json and adapter_model.safetensors (f32), which PEFT loads, into directory, which
// is created. base: what the configuration names as the base model.
int lora_save(const struct model *model, struct fs *fs, const char *directory, const char *base,
              struct error *err);

static inline float lora_scale(const struct lora *lora)
{
    return (float)(lora->options.alpha / (double)lora->options.r);
}

static inline bool lora_drops(const struct lora *lora)
{
    return lora && lora->options.dropout > 0;
}

#endif
