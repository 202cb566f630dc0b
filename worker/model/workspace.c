// SPDX-License-Identifier: Apache-2.0
// Planned once: one block on the device holds every activation and temporary of a pass of at most
// max_tokens, so that a step allocates nothing.
//
// On the host activations are float32 whatever the weights' type: every backend adds in float32,
// and rounding what passes between operations costs more than the memory it saves. A backend that
// has half_activations keeps them in the weights' type, all but the residual stream.
//
// Per token with backward, in elements: per layer
//     2 D + (H + 2 H_kv) d + H d + 2 F      and H + 2 float32 statistics
// (a convolution has 3 D and D in place of the heads' widths; head norms keep (H + 2 H_kv) d more,
// block norms 2 D),
// once 6 D + (H + 2 H_kv) d + H d + 2 F more; without backward one layer's share serves all, and
// when layers are computed again for backward, one share serves all and each has D besides. The
// tiny shape takes 11 KiB a token and layer, Qwen2.5-0.5B 53 KiB (f32). The slice of logits adds 64
// MiB at most.
#include "worker/model/decoder.h"
#include "worker/model/lora.h"

#include "base/mem.h"

#include <stdlib.h>

enum { LOGITS_SLICE_BYTES = 64 << 20 };

// Hands out consecutive, aligned parts of a block. With base 0 it only measures.
struct planner {
    uintptr_t base;
    size_t used_bytes;
};

static void *plan(struct planner *planner, size_t count, size_t element_bytes)
{
    enum { ALIGNMENT = 64 };
    size_t at = planner->used_bytes;
    planner->used_bytes += (count * element_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return planner->base ? (void *)(planner->base + at) : NULL;
}

static struct tensor plan_tensor(struct planner *planner, enum dtype dtype, size_t rows,
                                 size_t width)
{
    return (struct tensor){plan(planner, rows * width, dtype_bytes(dtype)), dtype};
}

// Of the residual stream.
static struct tensor plan_stream(struct planner *planner, const struct workspace *w)
{
    return plan_tensor(planner, DTYPE_F32, w->max_tokens, (size_t)w->model->config.hidden);
}

static float *plan_floats(struct planner *planner, size_t count)
{
    return plan(planner, count, sizeof(float));
}

static int32_t *plan_indices(struct planner *planner, size_t count)
{
    return plan(planner, count, sizeof(int32_t));
}

// Without backward, or when layers are computed again, layers of every kind share one row.
static bool shares_layers(const struct workspace *w)
{
    return !w->with_backward || w->recomputes;
}

static size_t widest(const struct workspace *w, size_t layer,
                     size_t (*width)(const struct model_config *, enum layer_kind))
{
    const struct model_config *config = &w->model->config;
    size_t result = width(config, (enum layer_kind)config->layer_kinds[layer]);
    for (int64_t i = 0; i < config->layers && shares_layers(w); i++) {
        size_t other = width(config, (enum layer_kind)config->layer_kinds[i]);
        result = other > result ? other : result;
    }
    return result;
}

static void plan_statistics(struct planner *planner, const struct workspace *w,
                            struct activations *a, bool conv)
{
    const struct model_config *config = &w->model->config;
    enum dtype dtype = w->activations;
    size_t rows = w->max_tokens, heads = (size_t)config->heads, kv_heads = (size_t)config->kv_heads;
    a->input_rstd = plan_floats(planner, rows);
    a->ffn_rstd = plan_floats(planner, rows);
    if (!conv)
        a->log_sum_exp = plan_floats(planner, rows * heads);
    if (config->head_norms && !conv) {
        a->raw_qkv = plan_tensor(planner, dtype, rows, qkv_width(config));
        a->q_rstd = plan_floats(planner, rows * heads);
        a->k_rstd = plan_floats(planner, rows * kv_heads);
    }
    if (config->block_norms) {
        a->attention_out_rstd = plan_floats(planner, rows);
        a->ffn_out_rstd = plan_floats(planner, rows);
    }
}

static bool attends_between(const struct model_config *config, size_t begin, size_t end)
{
    for (size_t i = begin; i < end; i++) {
        if (config->layer_kinds[i] != LAYER_CONV)
            return true;
    }
    return false;
}

static void plan_layer(struct planner *planner, const struct workspace *w, struct activations *a,
                       size_t layer)
{
    const struct model_config *config = &w->model->config;
    enum dtype dtype = w->activations;
    size_t rows = w->max_tokens, hidden = (size_t)config->hidden, layers = (size_t)config->layers;
    a->x = plan_stream(planner, w);
    a->qkv = plan_tensor(planner, dtype, rows, widest(w, layer, mixer_in_width));
    a->attention = plan_tensor(planner, dtype, rows, widest(w, layer, mixer_out_width));
    a->middle = w->with_backward ? plan_stream(planner, w) : a->x;
    a->ffn_x = a->middle;
    a->gate_up = plan_tensor(planner, dtype, rows, 2 * (size_t)config->ffn);
    if (config->block_norms) {
        a->attention_out = plan_tensor(planner, dtype, rows, hidden);
        a->down = plan_tensor(planner, dtype, rows, hidden);
    }
    if (w->with_backward)
        plan_statistics(planner, w, a,
                        !attends_between(config, layer, shares_layers(w) ? layers : layer + 1));
}

static void plan_layers(struct planner *planner, struct workspace *w)
{
    size_t layers = (size_t)w->model->config.layers;
    for (size_t i = 0; i < layers; i++) {
        if (i == 0 || !shares_layers(w))
            plan_layer(planner, w, &w->layers[i], i);
        else
            w->layers[i] = w->layers[0];
        if (i > 0 && w->recomputes)
            w->layers[i].x = plan_stream(planner, w);
    }
    for (size_t i = 0; i + 1 < layers; i++)
        w->layers[i].ffn_out = w->layers[i + 1].x;
    struct activations *last = &w->layers[layers - 1];
    w->top = plan_stream(planner, w);
    last->ffn_x = w->with_backward ? plan_stream(planner, w) : w->top;
    last->ffn_out = w->top;
}

static void plan_inputs(struct planner *planner, struct workspace *w)
{
    w->ids = plan_indices(planner, w->max_tokens);
    w->positions = plan_indices(planner, w->max_tokens);
    w->targets = plan_indices(planner, w->max_tokens);
    w->wanted = plan_indices(planner, w->max_tokens);
    w->offsets = plan_indices(planner, w->max_tokens + 1);
}

static void plan_gradients(struct planner *planner, struct workspace *w)
{
    const struct model_config *config = &w->model->config;
    enum dtype dtype = w->activations;
    size_t rows = w->max_tokens, hidden = (size_t)config->hidden;
    w->top_rstd = plan_floats(planner, rows);
    w->grad_x = plan_tensor(planner, dtype, rows, hidden);
    w->grad_top = plan_tensor(planner, dtype, rows, hidden);
    w->grad_normed = plan_tensor(planner, dtype, rows, hidden);
    size_t in_width = qkv_width(config), out_width = queries_width(config);
    for (int64_t i = 0; i < config->layers; i++) {
        if (config->layer_kinds[i] == LAYER_CONV) {
            in_width = in_width > 3 * hidden ? in_width : 3 * hidden;
            out_width = out_width > hidden ? out_width : hidden;
        }
    }
    w->grad_qkv = plan_tensor(planner, dtype, rows, in_width);
    w->grad_attention = plan_tensor(planner, dtype, rows, out_width);
    w->grad_gated = plan_tensor(planner, dtype, rows, (size_t)config->ffn);
}

static void plan_lora(struct planner *planner, struct workspace *w)
{
    const struct model_config *config = &w->model->config;
    const size_t rows = w->max_tokens, hidden = (size_t)config->hidden, ffn = (size_t)config->ffn;
    size_t in_width = hidden > ffn ? hidden : ffn;
    size_t out_width = hidden > 2 * ffn ? hidden : 2 * ffn;
    if (!w->model->lora)
        return;
    const size_t r = (size_t)w->model->lora->options.r;
    in_width = in_width > queries_width(config) ? in_width : queries_width(config);
    out_width = out_width > qkv_width(config) ? out_width : qkv_width(config);
    w->keys = plan(planner, rows, sizeof(*w->keys));
    w->wanted_keys = plan(planner, rows, sizeof(*w->wanted_keys));
    w->lora_x = plan_floats(planner, rows * in_width);
    w->lora_hidden = plan_floats(planner, rows * r);
    w->lora_b = plan_floats(planner, out_width * r);
    if (!w->with_backward)
        return;
    w->lora_grad_hidden = plan_floats(planner, rows * r);
    w->lora_grad_b = plan_floats(planner, out_width * r);
    const size_t taps = config->conv_taps > 1 ? (size_t)config->conv_taps : 1;
    const size_t head = (size_t)config->head_width;
    w->unused_grad = plan_floats(planner, hidden * taps > head ? hidden * taps : head);
}

static void plan_workspace(struct planner *planner, struct workspace *w)
{
    const struct model_config *config = &w->model->config;
    enum dtype dtype = w->activations;
    plan_inputs(planner, w);
    plan_layers(planner, w);
    w->normed = plan_tensor(planner, dtype, w->max_tokens, (size_t)config->hidden);
    w->gated = plan_tensor(planner, dtype, w->max_tokens, (size_t)config->ffn);
    w->logits = plan_tensor(planner, DTYPE_F32, w->slice_rows, (size_t)config->vocabulary);
    w->losses = plan_floats(planner, w->max_tokens);
    if (w->with_backward)
        plan_gradients(planner, w);
    plan_lora(planner, w);
}

static size_t choose_slice_rows(const struct model_config *config, size_t max_tokens)
{
    size_t rows = LOGITS_SLICE_BYTES / (sizeof(float) * (size_t)config->vocabulary);
    if (rows > max_tokens)
        rows = max_tokens;
    return rows ? rows : 1;
}

// Everything but the block; destroy it either way.
static struct workspace *workspace_prepare(struct model *model, size_t max_tokens,
                                           bool with_backward, bool recomputes)
{
    struct workspace *w = mem_calloc(1, sizeof *w);
    w->model = model;
    w->max_tokens = max_tokens;
    w->slice_rows = choose_slice_rows(&model->config, max_tokens);
    w->with_backward = with_backward;
    w->recomputes = recomputes;
    w->activations = model->device->ops->half_activations ? model->weights.dtype : DTYPE_F32;
    w->layers = mem_calloc((size_t)model->config.layers, sizeof *w->layers);
    w->host_targets = mem_calloc(max_tokens, sizeof *w->host_targets);
    w->host_wanted = mem_calloc(max_tokens, sizeof *w->host_wanted);
    w->host_keys = mem_calloc(max_tokens, sizeof *w->host_keys);
    w->host_losses = mem_calloc(max_tokens, sizeof *w->host_losses);
    decoder_create(&model->config, &w->grads);
    struct planner measure = {0};
    plan_workspace(&measure, w);
    w->block_bytes = measure.used_bytes;
    return w;
}

static int create(struct model *model, size_t max_tokens, bool with_backward, bool recomputes,
                  struct workspace **out, struct error *err)
{
    *out = NULL;
    if (max_tokens < 1 || max_tokens > INT32_MAX)
        return error_set(err, "a workspace for %zu tokens: give 1 to %d", max_tokens, INT32_MAX);
    struct workspace *w = workspace_prepare(model, max_tokens, with_backward, recomputes);
    if (device_alloc(model->device, w->block_bytes, &w->block, err)) {
        error_prefix(err, "workspace of %zu tokens", max_tokens);
        workspace_destroy(w);
        return -1;
    }
    struct planner place = {.base = (uintptr_t)w->block};
    plan_workspace(&place, w);
    *out = w;
    return 0;
}

int workspace_create(struct model *model, size_t max_tokens, bool with_backward,
                     struct workspace **out, struct error *err)
{
    return create(model, max_tokens, with_backward, false, out, err);
}

int workspace_create_recomputing(struct model *model, size_t max_tokens, struct workspace **out,
                                 struct error *err)
{
    return create(model, max_tokens, true, true, out, err);
}

static size_t measure(struct model *model, size_t max_tokens, bool with_backward, bool recomputing)
{
    struct workspace *w = workspace_prepare(model, max_tokens, with_backward, recomputing);
    const size_t bytes = w->block_bytes;
    workspace_destroy(w);
    return bytes;
}

size_t workspace_bytes_needed(struct model *model, size_t max_tokens, bool recomputing)
{
    return measure(model, max_tokens, true, recomputing);
}

size_t workspace_bytes_forward(struct model *model, size_t max_tokens)
{
    return measure(model, max_tokens, false, false);
}

void workspace_destroy(struct workspace *workspace)
{
    if (!workspace)
        return;
    device_free(workspace->model->device, workspace->block);
    decoder_release(&workspace->grads);
    free(workspace->layers);
    free(workspace->host_targets);
    free(workspace->host_wanted);
    free(workspace->host_keys);
    free(workspace->host_losses);
    free(workspace);
}

void workspace_watch_gradients(struct workspace *workspace,
                               void (*complete)(void *context, uint64_t from), void *context)
{
    workspace->complete = complete;
    workspace->complete_context = context;
}

size_t workspace_bytes(const struct workspace *workspace)
{
    return workspace->block_bytes;
}
