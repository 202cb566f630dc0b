// SPDX-License-Identifier: Apache-2.0
// Generation: new tokens of many sequences, whose earlier keys and values lie in a cache of slots.
#include "worker/model/decoder.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

struct kv_cache {
    struct model *model;
    struct workspace *workspace;
    struct cache_lookup lookup;
    int32_t *token_slots; // [max_tokens], device
    int32_t *chosen;      // [slice_rows], device, of the greedy step
    float *host_logits;   // [slice_rows, V], once a step by slices was made
    // [slots], of models with convolutions, whose state knows the latest positions only
    int32_t *next_positions;
};

static int cache_alloc(struct kv_cache *cache, size_t max_tokens, struct error *err)
{
    const struct model_config *config = &cache->model->config;
    struct cache_lookup *lookup = &cache->lookup;
    struct device *device = cache->model->device;
    size_t element = dtype_bytes(lookup->k.dtype), convolving = 0;
    for (int64_t i = 0; i < config->layers; i++)
        convolving += config->layer_kinds[i] == LAYER_CONV;
    size_t attending = (size_t)config->layers - convolving;
    size_t bytes = attending * lookup->slots * lookup->capacity * keys_width(config) * element;
    void *slots = NULL, *chosen = NULL;
    if (device_alloc(device, bytes, &lookup->k.data, err) ||
        device_alloc(device, bytes, &lookup->v.data, err) ||
        device_alloc(device, max_tokens * sizeof(int32_t), &slots, err))
        return -1;
    cache->token_slots = slots;
    lookup->token_slots = slots;
    if (device_alloc(device, cache->workspace->slice_rows * sizeof(int32_t), &chosen, err))
        return -1;
    cache->chosen = chosen;
    if (convolving == 0)
        return 0;
    cache->next_positions = mem_calloc(lookup->slots, sizeof *cache->next_positions);
    size_t kept = (size_t)config->conv_taps - 1;
    return device_alloc(device,
                        convolving * lookup->slots * kept * (size_t)config->hidden *
                            dtype_bytes(lookup->state.dtype),
                        &lookup->state.data, err);
}

int kv_cache_create(struct model *model, size_t slots, size_t capacity, size_t max_tokens,
                    struct kv_cache **out, struct error *err)
{
    *out = NULL;
    if (slots < 1 || slots > INT32_MAX)
        return error_set(err, "a cache of %zu slots: give 1 to %d", slots, INT32_MAX);
    if (capacity < 1 || capacity > (size_t)model_config_positions(&model->config))
        return error_set(err, "a cache of %zu positions: the model has %lld", capacity,
                         (long long)model_config_positions(&model->config));
    struct kv_cache *cache = mem_calloc(1, sizeof *cache);
    cache->model = model;
    cache->lookup = (struct cache_lookup){
        .k = {.dtype = model->weights.dtype},
        .v = {.dtype = model->weights.dtype},
        .state = {.dtype = DTYPE_F32},
        .slots = slots,
        .capacity = capacity,
    };
    if (workspace_create(model, max_tokens, false, &cache->workspace, err) ||
        cache_alloc(cache, max_tokens, err)) {
        error_prefix(err, "cache of %zu slots with %zu positions", slots, capacity);
        kv_cache_destroy(cache);
        return -1;
    }
    *out = cache;
    return 0;
}

void kv_cache_destroy(struct kv_cache *cache)
{
    if (!cache)
        return;
    struct device *device = cache->model->device;
    device_free(device, cache->lookup.k.data);
    device_free(device, cache->lookup.v.data);
    device_free(device, cache->lookup.state.data);
    device_free(device, cache->token_slots);
    device_free(device, cache->chosen);
    workspace_destroy(cache->workspace);
    free(cache->host_logits);
    free(cache->next_positions);
    free(cache);
}

static int check_step(const struct kv_cache *cache, const struct step_tokens *step,
                      struct error *err)
{
    const struct model_config *config = &cache->model->config;
    if (step->tokens > cache->workspace->max_tokens)
        return error_set(err, "a step of %zu tokens, at most %zu", step->tokens,
                         cache->workspace->max_tokens);
    if (step->wanted_count > step->tokens)
        return error_set(err, "%zu wanted rows of %zu tokens", step->wanted_count, step->tokens);
    for (size_t i = 0; i < step->tokens; i++) {
        if (step->ids[i] < 0 || step->ids[i] >= config->vocabulary)
            return error_set(err, "token %zu is %d, outside the vocabulary of %lld", i,
                             step->ids[i], (long long)config->vocabulary);
        if (step->slots[i] < 0 || (size_t)step->slots[i] >= cache->lookup.slots)
            return error_set(err, "token %zu in slot %d of %zu", i, step->slots[i],
                             cache->lookup.slots);
        if (step->positions[i] < 0 || (size_t)step->positions[i] >= cache->lookup.capacity)
            return error_set(err, "token %zu at position %d of %zu", i, step->positions[i],
                             cache->lookup.capacity);
    }
    for (size_t i = 0; i < step->wanted_count; i++) {
        if (step->wanted[i] < 0 || (size_t)step->wanted[i] >= step->tokens)
            return error_set(err, "wanted row %d of %zu tokens", step->wanted[i], step->tokens);
    }
    return 0;
}

// A slot continues where it ended or begins again at 0. Changes nothing when it fails.
static int advance_positions(struct kv_cache *cache, const struct step_tokens *step,
                             struct error *err)
{
    size_t bytes = cache->lookup.slots * sizeof *cache->next_positions;
    if (!cache->next_positions)
        return 0;
    int32_t *next = mem_dup(cache->next_positions, bytes);
    int rc = 0;
    for (size_t i = 0; i < step->tokens && rc == 0; i++) {
        int32_t position = step->positions[i], *expected = &next[step->slots[i]];
        if (position != 0 && position != *expected)
            rc = error_set(err, "token %zu at position %d; slot %d goes on at %d or begins at 0", i,
                           position, step->slots[i], *expected);
        *expected = position + 1;
    }
    if (rc == 0)
        memcpy(cache->next_positions, next, bytes);
    free(next);
    return rc;
}

// Forward up to the final norm.
static int run_step(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
                    struct pass *pass, struct error *err)
{
    if (check_step(cache, step, err) || advance_positions(cache, step, err))
        return error_prefix(err, "step");
    struct device *device = model->device;
    struct workspace *workspace = cache->workspace;
    size_t bytes = step->tokens * sizeof(int32_t);
    *pass = (struct pass){
        .model = model,
        .workspace = workspace,
        .tokens = step->tokens,
        .wanted = step->wanted_count,
        .cache = &cache->lookup,
    };
    if (step->tokens == 0)
        return 0;
    device_copy_in(device, workspace->ids, step->ids, bytes);
    device_copy_in(device, workspace->positions, step->positions, bytes);
    device_copy_in(device, cache->token_slots, step->slots, bytes);
    if (step->wanted_count > 0)
        device_copy_in(device, workspace->wanted, step->wanted,
                       step->wanted_count * sizeof(int32_t));
    decoder_forward(pass);
    if (step->wanted_count > 0)
        decoder_final_norm(pass);
    return 0;
}

int model_step(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
               float *out, struct error *err)
{
    struct pass pass;
    if (run_step(model, cache, step, &pass, err))
        return -1;
    return decoder_logits_out(&pass, out, err);
}

int model_step_greedy(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
                      int32_t *out, struct error *err)
{
    struct pass pass;
    if (run_step(model, cache, step, &pass, err))
        return -1;
    size_t slice = cache->workspace->slice_rows, vocabulary = (size_t)model->config.vocabulary;
    for (size_t row = 0; row < pass.wanted; row += slice) {
        size_t rows = pass.wanted - row < slice ? pass.wanted - row : slice;
        decoder_logits(&pass, row, rows);
        model->device->ops->argmax(model->device, cache->chosen, cache->workspace->logits, rows,
                                   vocabulary);
        if (device_copy_out(model->device, out + row, cache->chosen, rows * sizeof *out, err))
            return -1;
    }
    return 0;
}

int model_step_slices(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
                      const struct logits_taker *taker, struct error *err)
{
    struct pass pass;
    if (run_step(model, cache, step, &pass, err))
        return -1;
    size_t slice = cache->workspace->slice_rows, vocabulary = (size_t)model->config.vocabulary;
    if (!cache->host_logits)
        cache->host_logits = mem_alloc(slice * vocabulary * sizeof *cache->host_logits);
    for (size_t row = 0; row < pass.wanted; row += slice) {
        size_t rows = pass.wanted - row < slice ? pass.wanted - row : slice;
        decoder_logits(&pass, row, rows);
        if (device_copy_out(model->device, cache->host_logits, cache->workspace->logits.data,
                            rows * vocabulary * sizeof *cache->host_logits, err))
            return -1;
        taker->take(taker->context, cache->host_logits, row, rows);
    }
    return 0;
}
