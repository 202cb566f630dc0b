// SPDX-License-Identifier: Apache-2.0
// Generation: new tokens of many sequences, whose earlier keys and values lie in a cache of blocks.
#include "worker/model/kv_cache.h"

#include "base/mem.h"

static int check_tokens(const struct kv_cache *cache, const struct step_tokens *step,
                        struct error *err)
{
    const struct model_config *config = &cache->model->config;
    for (size_t i = 0; i < step->tokens; i++) {
        if (step->ids[i] < 0 || step->ids[i] >= config->vocabulary)
            return error_set(err, "token %zu is %d, outside the vocabulary of %lld", i,
                             step->ids[i], (long long)config->vocabulary);
        if (step->sequences[i] < 0 || (size_t)step->sequences[i] >= step->sequence_count)
            return error_set(err, "token %zu of sequence %d of %zu", i, step->sequences[i],
                             step->sequence_count);
        if (step->positions[i] < 0 || (size_t)step->positions[i] >= cache->size.capacity)
            return error_set(err, "token %zu at position %d of %zu", i, step->positions[i],
                             cache->size.capacity);
        if (i > 0 && step->sequences[i] == step->sequences[i - 1] &&
            step->positions[i] != step->positions[i - 1] + 1)
            return error_set(err, "token %zu at position %d follows position %d", i,
                             step->positions[i], step->positions[i - 1]);
        const int32_t *table = step->tables + (size_t)step->sequences[i] * cache->table_blocks;
        for (int32_t b = 0; b <= step->positions[i] / KV_BLOCK_TOKENS; b++)
            if (table[b] < 0 || (size_t)table[b] >= cache->size.blocks)
                return error_set(err, "block %d of sequence %d is %d of %zu", b, step->sequences[i],
                                 table[b], cache->size.blocks);
    }
    for (size_t i = 0; i < step->wanted_count; i++)
        if (step->wanted[i] < 0 || (size_t)step->wanted[i] >= step->tokens)
            return error_set(err, "wanted row %d of %zu tokens", step->wanted[i], step->tokens);
    return 0;
}

static int check_step(const struct kv_cache *cache, const struct step_tokens *step,
                      struct error *err)
{
    if (step->tokens > cache->size.max_tokens)
        return error_set(err, "a step of %zu tokens, at most %zu", step->tokens,
                         cache->size.max_tokens);
    if (step->sequence_count > cache->size.sequences)
        return error_set(err, "a step of %zu sequences, at most %zu", step->sequence_count,
                         cache->size.sequences);
    if (step->wanted_count > step->tokens)
        return error_set(err, "%zu wanted rows of %zu tokens", step->wanted_count, step->tokens);
    return check_tokens(cache, step, err);
}

// Forward up to the final norm.
static int run_step(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
                    struct pass *pass, struct error *err)
{
    if (check_step(cache, step, err) || kv_cache_advance(cache, step, err))
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
    kv_cache_look_up(cache, step);
    if (step->wanted_count > 0)
        device_copy_in(device, workspace->wanted, step->wanted,
                       step->wanted_count * sizeof(int32_t));
    decoder_forward(pass);
    if (step->wanted_count > 0)
        decoder_final_norm(pass);
    return 0;
}

// Rows of the head at once: as few slices as possible, of even height, as a low one costs nearly as
// much.
static size_t slice_rows(const struct pass *pass)
{
    size_t most = pass->workspace->slice_rows, slices = (pass->wanted + most - 1) / most;
    return slices > 0 ? (pass->wanted + slices - 1) / slices : most;
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
    size_t slice = slice_rows(&pass), vocabulary = (size_t)model->config.vocabulary;
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
    size_t slice = slice_rows(&pass), vocabulary = (size_t)model->config.vocabulary;
    if (!cache->host_logits)
        cache->host_logits =
            mem_alloc(cache->workspace->slice_rows * vocabulary * sizeof *cache->host_logits);
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
