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

enum dimension { DIM_NONE, DIM_HIDDEN, DIM_QUERIES, DIM_KEYS, DIM_FFN, DIM_VOCABULARY };
enum condition { ALWAYS, IF_QKV_BIAS, IF_UNTIED };

struct parameter_spec {
    enum parameter_kind kind;
    const char *name; // in a layer: what follows "model.layers.N."
    enum dimension rows, columns;
    bool per_layer;
    bool decays;
    enum condition condition;
};

static const struct parameter_spec specs[] = {
    {PARAM_EMBEDDING, "model.embed_tokens.weight", DIM_VOCABULARY, DIM_HIDDEN, false, true, ALWAYS},

    {PARAM_INPUT_NORM, "input_layernorm.weight", DIM_HIDDEN, DIM_NONE, true, false, ALWAYS},
    {PARAM_Q, "self_attn.q_proj.weight", DIM_QUERIES, DIM_HIDDEN, true, true, ALWAYS},
    {PARAM_K, "self_attn.k_proj.weight", DIM_KEYS, DIM_HIDDEN, true, true, ALWAYS},
    {PARAM_V, "self_attn.v_proj.weight", DIM_KEYS, DIM_HIDDEN, true, true, ALWAYS},
    {PARAM_Q_BIAS, "self_attn.q_proj.bias", DIM_QUERIES, DIM_NONE, true, false, IF_QKV_BIAS},
    {PARAM_K_BIAS, "self_attn.k_proj.bias", DIM_KEYS, DIM_NONE, true, false, IF_QKV_BIAS},
    {PARAM_V_BIAS, "self_attn.v_proj.bias", DIM_KEYS, DIM_NONE, true, false, IF_QKV_BIAS},
    {PARAM_O, "self_attn.o_proj.weight", DIM_HIDDEN, DIM_QUERIES, true, true, ALWAYS},
    {PARAM_POST_NORM, "post_attention_layernorm.weight", DIM_HIDDEN, DIM_NONE, true, false, ALWAYS},
    {PARAM_GATE, "mlp.gate_proj.weight", DIM_FFN, DIM_HIDDEN, true, true, ALWAYS},
    {PARAM_UP, "mlp.up_proj.weight", DIM_FFN, DIM_HIDDEN, true, true, ALWAYS},
    {PARAM_DOWN, "mlp.down_proj.weight", DIM_HIDDEN, DIM_FFN, true, true, ALWAYS},

    {PARAM_FINAL_NORM, "model.norm.weight", DIM_HIDDEN, DIM_NONE, false, false, ALWAYS},
    {PARAM_HEAD, "lm_head.weight", DIM_VOCABULARY, DIM_HIDDEN, false, true, IF_UNTIED},
};

static const size_t spec_count = sizeof specs / sizeof *specs;

static uint64_t dimension_size(const struct model_config *config, enum dimension dimension)
{
    switch (dimension) {
    case DIM_NONE:
        return 1;
    case DIM_HIDDEN:
        return (uint64_t)config->hidden;
    case DIM_QUERIES:
        return (uint64_t)(config->heads * config->head_width);
    case DIM_KEYS:
        return (uint64_t)(config->kv_heads * config->head_width);
    case DIM_FFN:
        return (uint64_t)config->ffn;
    case DIM_VOCABULARY:
        return (uint64_t)config->vocabulary;
    }
    assert(!"unknown dimension");
    return 0;
}

static bool is_present(const struct model_config *config, enum condition condition)
{
    return condition == ALWAYS || (condition == IF_QKV_BIAS && config->qkv_bias) ||
           (condition == IF_UNTIED && !config->tied);
}

static void add_parameter(struct layout *layout, const struct model_config *config,
                          const struct parameter_spec *spec, int64_t layer)
{
    if (!is_present(config, spec->condition))
        return;
    struct parameter *p = &layout->parameters[layout->parameter_count++];
    if (spec->per_layer)
        snprintf(p->name, sizeof p->name, "model.layers.%" PRId64 ".%s", layer, spec->name);
    else
        snprintf(p->name, sizeof p->name, "%s", spec->name);
    p->kind = spec->kind;
    p->layer = layer;
    p->shape[0] = dimension_size(config, spec->rows);
    p->shape[1] = dimension_size(config, spec->columns);
    p->rank = spec->columns == DIM_NONE ? 1 : 2;
    p->offset = layout->elements;
    p->count = p->shape[0] * p->shape[1];
    p->decays = spec->decays;
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
