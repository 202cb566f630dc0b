// SPDX-License-Identifier: Apache-2.0
#include "worker/model/lora.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct target_spec {
    const char *name;
    enum parameter_kind kind;
    enum parameter_kind first; // of the matrix that it is a part of
};

static const struct target_spec specs[LORA_TARGETS] = {
    [LORA_Q] = {"q_proj", PARAM_Q, PARAM_Q},
    [LORA_K] = {"k_proj", PARAM_K, PARAM_Q},
    [LORA_V] = {"v_proj", PARAM_V, PARAM_Q},
    [LORA_O] = {"o_proj", PARAM_O, PARAM_O},
    [LORA_GATE] = {"gate_proj", PARAM_GATE, PARAM_GATE},
    [LORA_UP] = {"up_proj", PARAM_UP, PARAM_GATE},
    [LORA_DOWN] = {"down_proj", PARAM_DOWN, PARAM_DOWN},
};

int lora_targets_parse(const char *names, uint32_t *out, struct error *err)
{
    *out = 0;
    for (const char *at = names;;) {
        const size_t length = strcspn(at, ",");
        int target = 0;
        while (target < LORA_TARGETS && (strlen(specs[target].name) != length ||
                                         strncmp(specs[target].name, at, length) != 0))
            target++;
        if (target == LORA_TARGETS)
            return error_set(err, "LoRA target '%.*s': give some of " LORA_TARGET_NAMES,
                             (int)length, at);
        *out |= 1u << target;
        if (at[length] == '\0')
            return 0;
        at += length + 1;
    }
}

static uint64_t add_matrix(struct layout *layout, const struct parameter *p, const char *which,
                           uint64_t rows, uint64_t columns)
{
    struct parameter *added = &layout->parameters[layout->parameter_count++];
    const int module = (int)(strlen(p->name) - strlen(".weight"));
    *added = (struct parameter){.kind = p->kind,
                                .layer = p->layer,
                                .shape = {rows, columns, 1},
                                .rank = 2,
                                .offset = layout->elements,
                                .count = rows * columns,
                                .decays = true};
    snprintf(added->name, sizeof(added->name), "base_model.model.%.*s.%s.weight", module, p->name,
             which);
    layout->elements += added->count;
    return added->offset;
}

static void add_adapter(struct lora *lora, const struct model *model, int64_t layer, int target)
{
    const struct target_spec *spec = &specs[target];
    const struct parameter *p = layout_find(&model->layout, spec->kind, layer);
    const uint64_t r = (uint64_t)lora->options.r;
    if (!p || !(lora->options.targets & 1u << target))
        return;
    struct lora_adapter *adapter = &lora->adapters[layer * LORA_TARGETS + target];
    const struct parameter *first = layout_find(&model->layout, spec->first, layer);
    adapter->present = true;
    adapter->out_width = (size_t)p->shape[0];
    adapter->in_width = (size_t)p->shape[1];
    adapter->row = (size_t)((p->offset - first->offset) / p->shape[1]);
    adapter->a = add_matrix(&lora->layout, p, "lora_A", r, p->shape[1]);
    adapter->b = add_matrix(&lora->layout, p, "lora_B", p->shape[0], r);
}

static struct lora *make_lora(const struct model *model, const struct lora_options *options)
{
    const size_t layers = (size_t)model->config.layers;
    struct lora *lora = mem_calloc(1, sizeof(*lora));
    lora->options = *options;
    lora->weights.dtype = DTYPE_F32;
    lora->layout.parameters =
        mem_calloc(2 * LORA_TARGETS * layers, sizeof(*lora->layout.parameters));
    lora->adapters = mem_calloc(LORA_TARGETS * layers, sizeof(*lora->adapters));
    lora->layer_begin = mem_calloc(layers, sizeof(*lora->layer_begin));
    for (size_t layer = 0; layer < layers; layer++) {
        lora->layer_begin[layer] = lora->layout.elements;
        for (int target = 0; target < LORA_TARGETS; target++)
            add_adapter(lora, model, (int64_t)layer, target);
    }
    return lora;
}

// PEFT's: kaiming_uniform_ with a = sqrt(5), whose bound is 1 / sqrt(in).
static void init_a(const struct model *model, const struct lora *lora, const struct parameter *p)
{
    const struct digest name = digest_bytes(p->name, strlen(p->name));
    const double bound = 1 / sqrt((double)p->shape[1]);
    uint64_t stream;
    memcpy(&stream, name.bytes, sizeof(stream));
    float *values = mem_alloc(p->count * sizeof(*values));
    for (uint64_t i = 0; i < p->count; i++)
        values[i] = (float)(bound * (2 * random_uniform(lora->options.seed, stream, i) - 1));
    device_copy_in(model->device, (float *)lora->weights.data + p->offset, values,
                   p->count * sizeof(*values));
    free(values);
}

int model_add_lora(struct model *model, const struct lora_options *options, struct error *err)
{
    struct lora *lora = make_lora(model, options);
    const size_t bytes = lora->layout.elements * sizeof(float);
    if (lora->layout.elements == 0) {
        lora_destroy(model->device, lora);
        return error_set(err, "the model has none of the LoRA targets");
    }
    if (device_alloc(model->device, bytes, &lora->weights.data, err)) {
        error_prefix(err, "LoRA of %llu parameters", (unsigned long long)lora->layout.elements);
        lora_destroy(model->device, lora);
        return -1;
    }
    device_zero(model->device, lora->weights.data, bytes);
    for (size_t i = 0; i < lora->layout.parameter_count; i += 2) // A, B, A, B
        init_a(model, lora, &lora->layout.parameters[i]);
    model->lora = lora;
    return device_sync(model->device, err);
}

void lora_destroy(struct device *device, struct lora *lora)
{
    if (!lora)
        return;
    device_free(device, lora->weights.data);
    layout_release(&lora->layout);
    free(lora->adapters);
    free(lora->layer_begin);
    free(lora);
}

// W += B scaled times A: what linear_backward_input computes for B as the gradient and A as the
// weight.
static void merge_adapter(struct model *model, int64_t layer, int target, float *scaled)
{
    struct device *device = model->device;
    const struct lora *lora = model->lora;
    const struct lora_adapter *adapter = &lora->adapters[layer * LORA_TARGETS + target];
    const size_t r = (size_t)lora->options.r;
    const struct tensor b = {scaled, DTYPE_F32};
    float *weights = lora->weights.data;
    struct tensor out = model->weights;
    if (!adapter->present)
        return;
    const struct linear a = {
        .weight = {weights + adapter->a, DTYPE_F32}, .out_width = r, .in_width = adapter->in_width};
    out.data = (char *)out.data + layout_find(&model->layout, specs[target].kind, layer)->offset *
                                      dtype_bytes(out.dtype);
    device->ops->dropout(device, &(struct dropout){.out = b,
                                                   .x = {weights + adapter->b, DTYPE_F32},
                                                   .factor = lora_scale(lora),
                                                   .rows = adapter->out_width,
                                                   .width = r});
    device->ops->linear_backward_input(device,
                                       &(struct linear_backward_input){.grad_x = out,
                                                                       .grad_out = b,
                                                                       .linear = &a,
                                                                       .rows = adapter->out_width,
                                                                       .accumulate = true});
}

int model_merge_lora(struct model *model, struct error *err)
{
    struct lora *lora = model->lora;
    size_t widest = 0;
    void *scaled;
    for (size_t i = 0; i < (size_t)model->config.layers * LORA_TARGETS; i++)
        widest = lora->adapters[i].out_width > widest ? lora->adapters[i].out_width : widest;
    if (device_alloc(model->device, widest * (size_t)lora->options.r * sizeof(float), &scaled, err))
        return error_prefix(err, "merging LoRA");
    for (int64_t layer = 0; layer < model->config.layers; layer++) {
        for (int target = 0; target < LORA_TARGETS; target++)
            merge_adapter(model, layer, target, scaled);
    }
    const int rc = device_sync(model->device, err);
    device_free(model->device, scaled);
    lora_destroy(model->device, lora);
    model->lora = NULL;
    return rc;
}
