// SPDX-License-Identifier: Apache-2.0
// One static table says what a decoder is made of; everything that visits parameters loops over the
// layout made from it. The order of the table is the order in memory: embedding, the layers one
// after another, final norm, head. No gaps, so that q, k, v are one matrix [(H + 2 H_kv) d, D],
// their biases one vector, and gate, up one matrix [2 F, D].
#include "worker/model/layout.h"

#include "base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum dimension {
    DIM_NONE,
    DIM_ONE,
    DIM_HIDDEN,
    DIM_QUERIES,
    DIM_KEYS,
    DIM_HEAD,
    DIM_FFN,
    DIM_VOCABULARY,
    DIM_GATES, // B, C and x of a convolution
    DIM_TAPS,
};

enum condition {
    ALWAYS,
    IF_ATTENTION,
    IF_QKV_BIAS,
    IF_HEAD_NORMS,
    IF_CONV,
    IF_BLOCK_NORMS,
    IF_UNTIED,
};

// What the families call their tensors.
enum naming { NAMING_LLAMA, NAMING_GEMMA, NAMING_LFM2, NAMINGS };

struct parameter_spec {
    enum parameter_kind kind;
    enum dimension shape[3];
    bool per_layer;
    bool decays;
    enum condition condition;
    // In a layer: what follows "model.layers.N."; NULL: as Llama does.
    const char *names[NAMINGS];
};

// clang-format off
static const struct parameter_spec specs[] = {
    {PARAM_EMBEDDING, {DIM_VOCABULARY, DIM_HIDDEN}, false, true, ALWAYS,
     {"model.embed_tokens.weight"}},

    {PARAM_INPUT_NORM, {DIM_HIDDEN}, true, false, ALWAYS,
     {"input_layernorm.weight", NULL, "operator_norm.weight"}},
    {PARAM_Q, {DIM_QUERIES, DIM_HIDDEN}, true, true, IF_ATTENTION, {"self_attn.q_proj.weight"}},
    {PARAM_K, {DIM_KEYS, DIM_HIDDEN}, true, true, IF_ATTENTION, {"self_attn.k_proj.weight"}},
    {PARAM_V, {DIM_KEYS, DIM_HIDDEN}, true, true, IF_ATTENTION, {"self_attn.v_proj.weight"}},
    {PARAM_Q_BIAS, {DIM_QUERIES}, true, false, IF_QKV_BIAS, {"self_attn.q_proj.bias"}},
    {PARAM_K_BIAS, {DIM_KEYS}, true, false, IF_QKV_BIAS, {"self_attn.k_proj.bias"}},
    {PARAM_V_BIAS, {DIM_KEYS}, true, false, IF_QKV_BIAS, {"self_attn.v_proj.bias"}},
    {PARAM_Q_NORM, {DIM_HEAD}, true, false, IF_HEAD_NORMS,
     {"self_attn.q_norm.weight", NULL, "self_attn.q_layernorm.weight"}},
    {PARAM_K_NORM, {DIM_HEAD}, true, false, IF_HEAD_NORMS,
     {"self_attn.k_norm.weight", NULL, "self_attn.k_layernorm.weight"}},
    {PARAM_O, {DIM_HIDDEN, DIM_QUERIES}, true, true, IF_ATTENTION,
     {"self_attn.o_proj.weight", NULL, "self_attn.out_proj.weight"}},
    {PARAM_CONV_IN, {DIM_GATES, DIM_HIDDEN}, true, true, IF_CONV, {"conv.in_proj.weight"}},
    {PARAM_CONV, {DIM_HIDDEN, DIM_ONE, DIM_TAPS}, true, true, IF_CONV, {"conv.conv.weight"}},
    {PARAM_CONV_OUT, {DIM_HIDDEN, DIM_HIDDEN}, true, true, IF_CONV, {"conv.out_proj.weight"}},
    {PARAM_ATTENTION_OUT_NORM, {DIM_HIDDEN}, true, false, IF_BLOCK_NORMS,
     {"post_attention_layernorm.weight"}},
    {PARAM_POST_NORM, {DIM_HIDDEN}, true, false, ALWAYS,
     {"post_attention_layernorm.weight", "pre_feedforward_layernorm.weight", "ffn_norm.weight"}},
    {PARAM_GATE, {DIM_FFN, DIM_HIDDEN}, true, true, ALWAYS,
     {"mlp.gate_proj.weight", NULL, "feed_forward.w1.weight"}},
    {PARAM_UP, {DIM_FFN, DIM_HIDDEN}, true, true, ALWAYS,
     {"mlp.up_proj.weight", NULL, "feed_forward.w3.weight"}},
    {PARAM_DOWN, {DIM_HIDDEN, DIM_FFN}, true, true, ALWAYS,
     {"mlp.down_proj.weight", NULL, "feed_forward.w2.weight"}},
    {PARAM_FFN_OUT_NORM, {DIM_HIDDEN}, true, false, IF_BLOCK_NORMS,
     {"post_feedforward_layernorm.weight"}},

    {PARAM_FINAL_NORM, {DIM_HIDDEN}, false, false, ALWAYS,
     {"model.norm.weight", NULL, "model.embedding_norm.weight"}},
    {PARAM_HEAD, {DIM_VOCABULARY, DIM_HIDDEN}, false, true, IF_UNTIED, {"lm_head.weight"}},
};
// clang-format on

static const size_t spec_count = sizeof specs / sizeof *specs;

static uint64_t dimension_size(const struct model_config *config, enum dimension dimension)
{
    switch (dimension) {
    case DIM_NONE:
    case DIM_ONE:
        return 1;
    case DIM_HIDDEN:
        return (uint64_t)config->hidden;
    case DIM_QUERIES:
        return (uint64_t)(config->heads * config->head_width);
    case DIM_KEYS:
        return (uint64_t)(config->kv_heads * config->head_width);
    case DIM_HEAD:
        return (uint64_t)config->head_width;
    case DIM_FFN:
        return (uint64_t)config->ffn;
    case DIM_VOCABULARY:
        return (uint64_t)config->vocabulary;
    case DIM_GATES:
        return 3 * (uint64_t)config->hidden;
    case DIM_TAPS:
        return (uint64_t)config->conv_taps;
    }
    assert(!"unknown dimension");
    return 0;
}

static bool is_present(const struct model_config *config, enum condition condition, int64_t layer)
{
    bool attention = layer >= 0 && config->layer_kinds[layer] != LAYER_CONV;
    switch (condition) {
    case ALWAYS:
        return true;
    case IF_ATTENTION:
        return attention;
    case IF_QKV_BIAS:
        return attention && config->qkv_bias;
    case IF_HEAD_NORMS:
        return attention && config->head_norms;
    case IF_CONV:
        return !attention;
    case IF_BLOCK_NORMS:
        return config->block_norms;
    case IF_UNTIED:
        return !config->tied;
    }
    assert(!"unknown condition");
    return false;
}

static enum naming naming_of(enum architecture architecture)
{
    return architecture == ARCHITECTURE_GEMMA3 ? NAMING_GEMMA
           : architecture == ARCHITECTURE_LFM2 ? NAMING_LFM2
                                               : NAMING_LLAMA;
}

static void add_parameter(struct layout *layout, const struct model_config *config,
                          const struct parameter_spec *spec, int64_t layer)
{
    if (!is_present(config, spec->condition, layer))
        return;
    struct parameter *p = &layout->parameters[layout->parameter_count++];
    const char *name = spec->names[naming_of(config->architecture)];
    if (!name)
        name = spec->names[NAMING_LLAMA];
    if (spec->per_layer)
        snprintf(p->name, sizeof p->name, "model.layers.%" PRId64 ".%s", layer, name);
    else
        snprintf(p->name, sizeof p->name, "%s", name);
    p->kind = spec->kind;
    p->layer = layer;
    p->count = 1;
    for (int i = 0; i < 3; i++) {
        p->shape[i] = dimension_size(config, spec->shape[i]);
        p->count *= p->shape[i];
        p->rank += spec->shape[i] != DIM_NONE;
    }
    p->offset = layout->elements;
    p->decays = spec->decays;
    p->vector_offset = layout->vector_elements;
    layout->vector_elements += p->decays ? 0 : p->count;
    layout->elements += p->count;
}

void layout_create(const struct model_config *config, struct layout *out)
{
    size_t most = spec_count * (size_t)(config->layers + 1);
    *out = (struct layout){.parameters = mem_calloc(most, sizeof *out->parameters)};
    size_t i = 0;
    for (; !specs[i].per_layer; i++)
        add_parameter(out, config, &specs[i], -1);
    size_t first = i;
    for (int64_t layer = 0; layer < config->layers; layer++) {
        for (i = first; specs[i].per_layer; i++)
            add_parameter(out, config, &specs[i], layer);
    }
    for (; i < spec_count; i++)
        add_parameter(out, config, &specs[i], -1);
}

void layout_release(struct layout *layout)
{
    free(layout->parameters);
    *layout = (struct layout){0};
}

const struct parameter *layout_find(const struct layout *layout, enum parameter_kind kind,
                                    int64_t layer)
{
    for (size_t i = 0; i < layout->parameter_count; i++) {
        const struct parameter *p = &layout->parameters[i];
        if (p->kind == kind && p->layer == layer)
            return p;
    }
    return NULL;
}
