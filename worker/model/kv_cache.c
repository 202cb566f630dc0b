// SPDX-License-Identifier: Apache-2.0
#include "worker/model/kv_cache.h"
#include "worker/model/step_graph.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

// Elements of all layers of a kind, for one block each.
static size_t attention_elements(const struct model_config *config)
{
    return layers_before(config, (size_t)config->layers, false) * block_width(config);
}

static size_t state_elements(const struct model_config *config)
{
    size_t layers = layers_before(config, (size_t)config->layers, true);
    return layers > 0 ? layers * (size_t)(config->conv_taps - 1) * (size_t)config->hidden : 0;
}

static int alloc_indices(struct device *device, size_t count, int32_t **out, struct error *err)
{
    void *block = NULL;
    int rc = device_alloc(device, count * sizeof **out, &block, err);
    *out = block;
    return rc;
}

static int alloc_plan(struct kv_cache *cache, struct error *err)
{
    struct device *device = cache->model->device;
    size_t tokens = cache->size.max_tokens;
    void *groups = NULL, *segments = NULL;
    int rc = alloc_indices(device, tokens, &cache->order, err) ||
             device_alloc(device, tokens * sizeof *cache->groups, &groups, err) ||
             device_alloc(device, 2 * tokens * sizeof *cache->segments, &segments, err);
    cache->groups = groups;
    cache->segments = segments;
    return rc ? -1 : 0;
}

static int alloc_draws(struct kv_cache *cache, struct error *err)
{
    struct device *device = cache->model->device;
    const size_t sequences = cache->size.sequences;
    const size_t words = mask_words(&cache->model->config);
    void *rows = NULL, *bits = NULL;
    if (!device->ops->sample)
        return 0;
    const int rc =
        device_alloc(device, sequences * sizeof *cache->sample_rows, &rows, err) ||
        device_alloc(device, 2 * sequences * words * sizeof *cache->sample_bits, &bits, err);
    cache->sample_rows = rows;
    cache->sample_bits = bits;
    return rc ? -1 : 0;
}

static int cache_alloc(struct kv_cache *cache, struct error *err)
{
    const struct model_config *config = &cache->model->config;
    struct cache_lookup *lookup = &cache->lookup;
    struct device *device = cache->model->device;
    size_t blocks = cache->size.blocks, tokens = cache->size.max_tokens;
    size_t bytes = blocks * attention_elements(config) * dtype_bytes(lookup->k.dtype);
    if (device_alloc(device, bytes, &lookup->k.data, err) ||
        device_alloc(device, bytes, &lookup->v.data, err) ||
        device_alloc(device, blocks * state_elements(config) * dtype_bytes(lookup->state.dtype),
                     &lookup->state.data, err) ||
        alloc_indices(device, cache->size.sequences * cache->table_blocks, &cache->tables, err) ||
        alloc_indices(device, tokens, &cache->token_sequences, err) ||
        alloc_indices(device, tokens, &cache->places, err) ||
        alloc_indices(device, tokens, &cache->chosen, err))
        return -1;
    return alloc_plan(cache, err) || alloc_draws(cache, err) ? -1 : 0;
}

static int check_size(const struct model *model, const struct kv_cache_size *size,
                      struct error *err)
{
    size_t positions = (size_t)model_config_positions(&model->config);
    if (size->blocks < 1 || size->blocks > INT32_MAX / KV_BLOCK_TOKENS)
        return error_set(err, "a cache of %zu blocks: give 1 to %d", size->blocks,
                         INT32_MAX / KV_BLOCK_TOKENS);
    if (size->sequences < 1 || size->sequences > INT32_MAX)
        return error_set(err, "a cache for %zu sequences: give 1 to %d", size->sequences,
                         INT32_MAX);
    if (size->capacity < 1 || size->capacity > positions)
        return error_set(err, "a cache of %zu positions: the model has %zu", size->capacity,
                         positions);
    return 0;
}

// float16 has no kernels of its own here; widened it loses nothing.
static enum dtype cache_dtype(const struct model *model)
{
    return model->weights.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

int kv_cache_create(struct model *model, const struct kv_cache_size *size, struct kv_cache **out,
                    struct error *err)
{
    *out = NULL;
    if (check_size(model, size, err))
        return -1;
    struct kv_cache *cache = mem_calloc(1, sizeof *cache);
    enum dtype dtype = cache_dtype(model);
    cache->model = model;
    cache->size = *size;
    cache->table_blocks = kv_blocks(size->capacity);
    cache->lookup = (struct cache_lookup){
        .k = {.dtype = dtype},
        .v = {.dtype = dtype},
        .state = {.dtype = DTYPE_F32},
        .blocks = size->blocks,
    };
    if (workspace_create(model, size->max_tokens, false, &cache->workspace, err) ||
        cache_alloc(cache, err)) {
        error_prefix(err, "cache of %zu tokens", size->blocks * KV_BLOCK_TOKENS);
        kv_cache_destroy(cache);
        return -1;
    }
    cache->plan = reading_plan_create(size->max_tokens);
    cache->host_places = mem_calloc(size->max_tokens, sizeof *cache->host_places);
    if (state_elements(&model->config) > 0)
        cache->filled = mem_calloc(size->blocks, sizeof *cache->filled);
    cache->graphs = step_graphs_create(cache);
    *out = cache;
    return 0;
}

void kv_cache_destroy(struct kv_cache *cache)
{
    if (!cache)
        return;
    struct device *device = cache->model->device;
    step_graphs_destroy(cache->graphs);
    device_free(device, cache->sample_rows);
    device_free(device, cache->sample_bits);
    device_free(device, cache->lookup.k.data);
    device_free(device, cache->lookup.v.data);
    device_free(device, cache->lookup.state.data);
    device_free(device, cache->tables);
    device_free(device, cache->token_sequences);
    device_free(device, cache->places);
    device_free(device, cache->order);
    device_free(device, cache->groups);
    device_free(device, cache->segments);
    device_free(device, cache->chosen);
    workspace_destroy(cache->workspace);
    reading_plan_destroy(cache->plan);
    free(cache->host_places);
    free(cache->host_logits);
    free(cache->filled);
    free(cache);
}

static size_t content_bytes(const struct model_config *config, size_t blocks, enum dtype keys)
{
    return blocks * (2 * attention_elements(config) * dtype_bytes(keys) +
                     state_elements(config) * dtype_bytes(DTYPE_F32));
}

size_t kv_cache_bytes(const struct kv_cache *cache)
{
    return content_bytes(&cache->model->config, cache->size.blocks, cache->lookup.k.dtype);
}

size_t kv_cache_bytes_needed(struct model *model, const struct kv_cache_size *size)
{
    return content_bytes(&model->config, size->blocks, cache_dtype(model)) +
           workspace_bytes_forward(model, size->max_tokens);
}

// Block `number` of every layer's keys or values, one after the other.
static void *block_at(const struct kv_cache *cache, struct tensor tensor, size_t layer,
                      int32_t number)
{
    size_t block = layer * cache->size.blocks + (size_t)number;
    return tensor_at(tensor, block * block_width(&cache->model->config)).data;
}

void kv_cache_copy_block(struct kv_cache *cache, int32_t from, int32_t to)
{
    const struct model_config *config = &cache->model->config;
    struct tensor tensors[] = {cache->lookup.k, cache->lookup.v};
    size_t layers = layers_before(config, (size_t)config->layers, false);
    for (size_t i = 0; i < 2; i++)
        for (size_t layer = 0; layer < layers; layer++)
            device_copy(cache->model->device, block_at(cache, tensors[i], layer, to),
                        block_at(cache, tensors[i], layer, from),
                        block_width(config) * dtype_bytes(tensors[i].dtype));
}

static void clear_block(struct kv_cache *cache, int32_t number)
{
    const struct model_config *config = &cache->model->config;
    struct tensor tensors[] = {cache->lookup.k, cache->lookup.v};
    size_t layers = layers_before(config, (size_t)config->layers, false);
    for (size_t i = 0; i < 2; i++)
        for (size_t layer = 0; layer < layers; layer++)
            device_zero(cache->model->device, block_at(cache, tensors[i], layer, number),
                        block_width(config) * dtype_bytes(tensors[i].dtype));
}

static int32_t block_of(const struct kv_cache *cache, const struct step_tokens *step, size_t t,
                        int32_t position)
{
    size_t row = (size_t)step->sequences[t] * cache->table_blocks;
    return step->tables[row + (size_t)position / KV_BLOCK_TOKENS];
}

// A block's state goes on where it ended, and leans on that of the block before.
static int advance(struct kv_cache *cache, int32_t *filled, const struct step_tokens *step,
                   struct error *err)
{
    int32_t kept = (int32_t)cache->model->config.conv_taps - 1;
    for (size_t t = 0; t < step->tokens; t++) {
        int32_t position = step->positions[t], offset = position % KV_BLOCK_TOKENS;
        int32_t *here = &filled[block_of(cache, step, t, position)];
        int32_t before = position - offset - KV_BLOCK_TOKENS;
        if (offset > 0 && *here != offset)
            return error_set(err, "token %zu at position %d; its block goes on at %d", t, position,
                             position - offset + *here);
        if (before >= 0 && offset < kept &&
            filled[block_of(cache, step, t, before)] != KV_BLOCK_TOKENS)
            return error_set(err, "token %zu at position %d; the block before it is not full", t,
                             position);
        *here = offset + 1;
    }
    return 0;
}

int kv_cache_advance(struct kv_cache *cache, const struct step_tokens *step, struct error *err)
{
    size_t bytes = cache->size.blocks * sizeof *cache->filled;
    if (!cache->filled)
        return 0;
    int32_t *filled = mem_dup(cache->filled, bytes);
    int rc = advance(cache, filled, step, err);
    if (rc == 0)
        memcpy(cache->filled, filled, bytes);
    free(filled);
    return rc;
}

// A padded step has as many groups as tokens, some of them empty, and room for groups of the next
// power of two: so that steps of one size differ in nothing that a kernel's launch says.
static void pad_plan(struct reading_plan *plan, size_t padded)
{
    size_t tokens = 1;
    while (tokens < plan->group_tokens)
        tokens *= 2;
    plan->group_tokens = tokens < padded ? tokens : padded;
    for (; plan->group_count < padded; plan->group_count++)
        plan->groups[plan->group_count] = (struct attention_group){0};
}

static void look_up_plan(struct kv_cache *cache, const struct step_tokens *step, size_t padded,
                         bool pads)
{
    struct device *device = cache->model->device;
    const struct reading_plan *plan = cache->plan;
    size_t threads = device->threads > 0 ? (size_t)device->threads : 1;
    size_t tasks = step->tokens * (size_t)cache->model->config.kv_heads;
    reading_plan_make(cache->plan, step, cache->table_blocks, tasks / (4 * threads));
    if (pads)
        pad_plan(cache->plan, padded);
    device_copy_in(device, cache->order, plan->order, step->tokens * sizeof *plan->order);
    device_copy_in(device, cache->groups, plan->groups, plan->group_count * sizeof *plan->groups);
    device_copy_in(device, cache->segments, plan->segments,
                   plan->segment_count * sizeof *plan->segments);
    cache->lookup.plan = (struct attention_plan){
        .order = cache->order,
        .groups = cache->groups,
        .segments = cache->segments,
        .group_count = plan->group_count,
        .group_tokens = plan->group_tokens,
    };
}

void kv_cache_look_up(struct kv_cache *cache, const struct step_tokens *step, size_t padded,
                      bool pads)
{
    struct device *device = cache->model->device;
    for (size_t t = 0; t < step->tokens; t++) {
        int32_t block = block_of(cache, step, t, step->positions[t]);
        int32_t offset = step->positions[t] % KV_BLOCK_TOKENS;
        cache->host_places[t] = block * KV_BLOCK_TOKENS + offset;
        if (offset == 0)
            clear_block(cache, block);
    }
    for (size_t t = step->tokens; t < padded; t++)
        cache->host_places[t] = -1;
    device_copy_in(device, cache->places, cache->host_places, padded * sizeof *cache->places);
    device_copy_in(device, cache->token_sequences, step->sequences,
                   step->tokens * sizeof *cache->token_sequences);
    if (padded > step->tokens)
        device_zero(device, cache->token_sequences + step->tokens,
                    (padded - step->tokens) * sizeof *cache->token_sequences);
    device_copy_in(device, cache->tables, step->tables,
                   step->sequence_count * cache->table_blocks * sizeof *cache->tables);
    cache->lookup.places = cache->places;
    cache->lookup.sequences = cache->token_sequences;
    cache->lookup.tables = (struct block_tables){cache->tables, cache->table_blocks};
    look_up_plan(cache, step, padded, pads);
}
