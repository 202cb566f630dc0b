// SPDX-License-Identifier: Apache-2.0
// Generation: new tokens of many sequences, whose earlier keys and values lie in a cache of blocks.
#include "worker/model/kv_cache.h"
#include "worker/model/step_graph.h"

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

// Indices of the step on the device, zeros behind them.
static void copy_indices(struct device *device, int32_t *to, const int32_t *from, size_t count,
                         size_t padded)
{
    device_copy_in(device, to, from, count * sizeof *from);
    if (padded > count)
        device_zero(device, to + count, (padded - count) * sizeof *from);
}

// Everything that the step reads, on the device. A step that pads wants all its rows.
static int prepare_step(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
                        size_t padded, bool pads, struct pass *pass, struct error *err)
{
    if (kv_cache_advance(cache, step, err))
        return error_prefix(err, "step");
    struct device *device = model->device;
    struct workspace *workspace = cache->workspace;
    *pass = (struct pass){
        .model = model,
        .workspace = workspace,
        .tokens = padded,
        .wanted = pads ? padded : step->wanted_count,
        .cache = &cache->lookup,
    };
    if (step->tokens == 0)
        return 0;
    copy_indices(device, workspace->ids, step->ids, step->tokens, padded);
    copy_indices(device, workspace->positions, step->positions, step->tokens, padded);
    kv_cache_look_up(cache, step, padded, pads);
    if (step->wanted_count > 0)
        copy_indices(device, workspace->wanted, step->wanted, step->wanted_count, pass->wanted);
    return 0;
}

static void forward(const struct pass *pass)
{
    if (pass->tokens == 0)
        return;
    decoder_forward(pass);
    if (pass->wanted > 0)
        decoder_final_norm(pass);
}

// Forward up to the final norm.
static int run_step(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
                    struct pass *pass, struct error *err)
{
    if (check_step(cache, step, err))
        return error_prefix(err, "step");
    if (prepare_step(model, cache, step, step->tokens, false, pass, err))
        return -1;
    forward(pass);
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

// A step whose logits stay on the device.
struct drawing {
    struct pass pass;
    struct kv_cache *cache;
    bool draws; // else the largest logits' tokens are taken
};

static void choose(const struct drawing *drawing, size_t row, size_t rows)
{
    struct device *device = drawing->pass.model->device;
    struct kv_cache *cache = drawing->cache;
    const size_t vocabulary = (size_t)drawing->pass.model->config.vocabulary;
    const struct tensor logits = drawing->pass.workspace->logits;
    if (drawing->draws)
        device->ops->sample(device, &(struct sample){.out = cache->chosen + row,
                                                     .logits = logits,
                                                     .rows = cache->sample_rows + row,
                                                     .bits = cache->sample_bits,
                                                     .count = rows,
                                                     .vocabulary = vocabulary});
    else
        device->ops->argmax(device, cache->chosen + row, logits, rows, vocabulary);
}

static void enqueue_drawing(void *context)
{
    const struct drawing *drawing = context;
    const struct pass *pass = &drawing->pass;
    const size_t slice = slice_rows(pass);
    forward(pass);
    for (size_t row = 0; row < pass->wanted; row += slice) {
        const size_t rows = pass->wanted - row < slice ? pass->wanted - row : slice;
        decoder_logits(pass, row, rows);
        choose(drawing, row, rows);
    }
}

// Rows behind those given take the largest logit of whatever they have.
static int copy_draws(struct kv_cache *cache, const struct step_draws *draws, size_t count,
                      size_t padded, struct error *err)
{
    struct device *device = cache->model->device;
    const struct sample_row idle = {.mask = -1, .seen = -1};
    if (!cache->sample_rows)
        return error_set(err, "backend '%s' does not draw tokens", device->ops->name);
    if (count > cache->size.sequences || draws->bit_rows > 2 * cache->size.sequences)
        return error_set(err, "%zu draws with %zu rows of bits, at most %zu and twice as many",
                         count, draws->bit_rows, cache->size.sequences);
    device_copy_in(device, cache->sample_rows, draws->rows, count * sizeof *draws->rows);
    for (size_t r = count; r < padded; r++)
        device_copy_in(device, cache->sample_rows + r, &idle, sizeof idle);
    device_copy_in(device, cache->sample_bits, draws->bits,
                   draws->bit_rows * mask_words(&cache->model->config) * sizeof *draws->bits);
    return 0;
}

int model_step_draw(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
                    const struct step_draws *draws, int32_t *out, struct error *err)
{
    struct drawing drawing = {.cache = cache, .draws = draws != NULL};
    if (check_step(cache, step, err))
        return error_prefix(err, "step");
    const size_t padded = step_graphs_padded(cache, step);
    const bool pads = step_graphs_captures(cache, step);
    if ((draws &&
         copy_draws(cache, draws, step->wanted_count, pads ? padded : step->wanted_count, err)) ||
        prepare_step(model, cache, step, padded, pads, &drawing.pass, err))
        return -1;
    if (!pads)
        enqueue_drawing(&drawing);
    else if (step_graphs_run(cache, padded, drawing.draws, enqueue_drawing, &drawing, err))
        return -1;
    if (step->wanted_count == 0)
        return 0;
    return device_copy_out(model->device, out, cache->chosen, step->wanted_count * sizeof *out,
                           err);
}

int model_step_greedy(struct model *model, struct kv_cache *cache, const struct step_tokens *step,
                      int32_t *out, struct error *err)
{
    return model_step_draw(model, cache, step, NULL, out, err);
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
