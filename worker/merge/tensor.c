// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/tensor_private.h"

#include "base/mem.h"
#include "worker/merge/clones.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

size_t merge_engine_block(enum merge_method method, enum merge_groups groups, size_t columns)
{
    const struct merge_traits *traits = merge_traits(method);
    const bool by_row = traits->sparsify == SPARSIFY_RANKED ||
                        (traits->family == FAMILY_SPAN && groups == GROUP_ROW);
    if (!by_row || columns == 0)
        return BLOCK;
    return columns >= BLOCK ? columns : BLOCK / columns * columns;
}

static size_t block_capacity(size_t widest)
{
    return widest > BLOCK ? widest : BLOCK;
}

uint64_t merge_engine_bytes(int threads, size_t vectors, size_t widest)
{
    const uint64_t block = block_capacity(widest);
    const uint64_t elements = block * (4 + 4 * vectors + 8 * vectors + 3 * 8 + 2 * 8);
    return (uint64_t)threads * (elements + SELECT_BINS * 4) + SELECT_BINS * 8;
}

// Carves arrays out of one block of memory. Arrays that begin at equal places of different pages
// would make loads wait for stores to the other: each begins 320 bytes further in its page, and has
// as many behind its end.
static void *carve(char **at, size_t bytes)
{
    char *begin = *at;
    *at += (bytes + 4095) / 4096 * 4096 + 320;
    return begin;
}

static size_t carved_bytes(size_t bytes)
{
    return (bytes + 4095) / 4096 * 4096 + 320;
}

static void scratch_init(struct scratch *s, size_t vectors, size_t block, size_t candidates)
{
    const size_t total = (1 + vectors) * carved_bytes(block * sizeof(float)) +
                         (5 + vectors) * carved_bytes(block * sizeof(double)) + 64;
    s->memory = mem_calloc(total, 1);
    char *at = (char *)(((uintptr_t)s->memory + 63) / 64 * 64);
    s->base = carve(&at, block * sizeof(float));
    s->x = mem_calloc(vectors, sizeof(*s->x));
    s->kept = mem_calloc(vectors, sizeof(*s->kept));
    for (size_t k = 0; k < vectors; k++) {
        s->x[k] = carve(&at, block * sizeof(float));
        s->kept[k] = carve(&at, block * sizeof(double));
    }
    s->out = carve(&at, block * sizeof(double));
    s->total = carve(&at, block * sizeof(double));
    s->divisor = carve(&at, block * sizeof(double));
    s->keys[0] = carve(&at, block * sizeof(double));
    s->keys[1] = carve(&at, block * sizeof(double));
    s->bins = mem_calloc(SELECT_BINS, sizeof(*s->bins));
    s->candidates = mem_alloc((candidates + 1) * sizeof(*s->candidates));
}

static void scratch_release(struct scratch *s)
{
    free(s->x);
    free(s->kept);
    free(s->bins);
    free(s->candidates);
    free(s->memory);
}

int merge_engine_create(int threads, size_t vectors, size_t tile, size_t widest,
                        struct merge_engine **out, struct error *err)
{
    struct merge_engine *engine = mem_calloc(1, sizeof(*engine));
    *engine = (struct merge_engine){.threads = threads,
                                    .vectors = vectors,
                                    .tile = tile,
                                    .block_capacity = block_capacity(widest),
                                    .candidates = 2 * tile / (size_t)threads};
    engine->scratch = mem_calloc((size_t)threads, sizeof(*engine->scratch));
    engine->bins = mem_calloc(SELECT_BINS, sizeof(*engine->bins));
    for (int i = 0; i < threads; i++)
        scratch_init(&engine->scratch[i], vectors, engine->block_capacity, engine->candidates);
    if (pool_create(threads, &engine->pool, err)) {
        merge_engine_destroy(engine);
        return -1;
    }
    *out = engine;
    return 0;
}

void merge_engine_destroy(struct merge_engine *engine)
{
    if (!engine)
        return;
    pool_destroy(engine->pool);
    for (int i = 0; i < engine->threads; i++)
        scratch_release(&engine->scratch[i]);
    free(engine->scratch);
    free(engine->bins);
    free(engine);
}

void pass_gather_bins(struct merge_engine *engine, size_t first, size_t last)
{
    const size_t count = last - first + 1;
    memset(engine->bins, 0, SELECT_BINS * sizeof(*engine->bins));
    for (int t = 0; t < engine->threads; t++) {
        struct scratch *s = &engine->scratch[t];
        if (!s->counted)
            continue;
        for (size_t i = first; i <= last; i++)
            engine->bins[i] += s->bins[i];
        memset(s->bins + first, 0, count * sizeof(*s->bins));
        s->counted = false;
    }
}

void pass_release(const struct pass *pass)
{
    if (pass->tensor->release)
        pass->tensor->release(pass->tensor->context, 0, pass->count);
}

struct extent pass_extent(const struct pass *pass, size_t task)
{
    const size_t begin = pass->first + task * pass->block;
    const size_t left = pass->last - begin;
    return (struct extent){begin, left < pass->block ? left : pass->block, begin / pass->block};
}

size_t pass_blocks(const struct pass *pass)
{
    return (pass->count + pass->block - 1) / pass->block;
}

void pass_run(struct pass *pass, void (*run)(void *pass, size_t task, int thread))
{
    const struct merge_tensor *tensor = pass->tensor;
    size_t tile = pass->engine->tile / pass->block * pass->block;
    tile = tile > 0 ? tile : pass->block;
    for (size_t begin = 0; begin < pass->count; begin += tile) {
        pass->first = begin;
        pass->last = pass->count - begin < tile ? pass->count : begin + tile;
        const size_t blocks = (pass->last - begin + pass->block - 1) / pass->block;
        pool_run(pass->engine->pool, blocks, run, pass);
        if (tensor->release && pass->count > tile) // a tensor of one tile stays for the next pass
            tensor->release(tensor->context, begin, pass->last - begin);
    }
}

void pass_load_base(const struct pass *pass, struct scratch *s, struct extent e)
{
    if (pass->tensor->has_base)
        pass->tensor->read(pass->tensor->context, 0, e.begin, e.count, s->base);
}

MERGE_CLONES static void subtract(float *x, const float *base, size_t count)
{
    for (size_t i = 0; i < count; i++)
        x[i] -= base[i];
}

MERGE_CLONES static void add(float *x, const float *base, size_t count)
{
    for (size_t i = 0; i < count; i++)
        x[i] += base[i];
}

void pass_load(const struct pass *pass, struct scratch *s, size_t k, struct extent e)
{
    const struct merge_tensor *tensor = pass->tensor;
    float *x = s->x[k];
    tensor->read(tensor->context, k + 1, e.begin, e.count, x);
    if (!tensor->has_base)
        return;
    if (pass->traits->on_models && tensor->is_delta[k])
        add(x, s->base, e.count);
    if (!pass->traits->on_models && !tensor->is_delta[k])
        subtract(x, s->base, e.count);
}

void pass_load_all(const struct pass *pass, struct scratch *s, struct extent e)
{
    pass_load_base(pass, s, e);
    for (size_t k = 0; k < pass->p->vectors; k++)
        pass_load(pass, s, k, e);
}

void pass_reduce(const struct pass *pass, double *out)
{
    const size_t blocks = pass_blocks(pass);
    memset(out, 0, pass->sums * sizeof(*out));
    for (size_t b = 0; b < blocks; b++)
        for (size_t i = 0; i < pass->sums; i++)
            out[i] += pass->partial[b * pass->sums + i];
}

MERGE_CLONES static void add_weighted(double *total, const double *kept, double weight,
                                      size_t count)
{
    for (size_t i = 0; i < count; i++)
        total[i] += weight * kept[i];
}

// Four elements side by side, whatever the instruction set makes of them: as plain loops the
// choices below become branches, and which vector agrees is as good as chance.
typedef double group_values __attribute__((vector_size(32)));
typedef int64_t group_mask __attribute__((vector_size(32)));
#define GROUP 4

struct election {
    double *const *kept;  // [vectors][count]
    const double *weight; // [vectors]
    const double *vote;   // [vectors] weights by which the sign is elected
    size_t vectors;
    bool normalize;
};

// out: the sum of the parts whose vote has the sign of all votes' sum, divided by their weights.
MERGE_INLINE void elect_group(const struct election *e, double *out, size_t begin)
{
    group_values total = {0}, sum = {0}, divisor = {0}, x;
    for (size_t k = 0; k < e->vectors; k++) {
        memcpy(&x, e->kept[k] + begin, sizeof(x));
        total += e->vote[k] * x;
    }
    for (size_t k = 0; k < e->vectors; k++) {
        memcpy(&x, e->kept[k] + begin, sizeof(x));
        const group_values vote = e->vote[k] * x, part = e->weight[k] * x;
        const group_values weight = e->weight[k] + (group_values){0};
        const group_mask agrees = ((vote > 0) & (total > 0)) | ((vote < 0) & (total < 0));
        sum += (group_values)((group_mask)part & agrees);
        divisor += (group_values)((group_mask)weight & agrees);
    }
    const group_mask none = divisor == 0;
    const group_values one = 1.0 + (group_values){0};
    if (e->normalize)
        sum /= (group_values)(((group_mask)one & none) | ((group_mask)divisor & ~none));
    memcpy(out + begin, &sum, sizeof(sum));
}

// Whole groups: behind the last element the arrays of a scratch have room for one.
MERGE_CLONES static void elect_values(const struct election *e, double *out, size_t count)
{
    for (size_t begin = 0; begin < count; begin += GROUP)
        elect_group(e, out, begin);
}

// sce elects without weights: its own follow from the vectors and are never negative.
static void elect(const struct pass *pass, struct scratch *s, size_t count)
{
    double ones[MERGE_MODELS_LIMIT];
    for (size_t k = 0; k < MERGE_MODELS_LIMIT; k++)
        ones[k] = 1;
    const struct election election = {.kept = s->kept,
                                      .weight = pass->weight,
                                      .vote =
                                          pass->traits->family == FAMILY_SCE ? ones : pass->weight,
                                      .vectors = pass->p->vectors,
                                      .normalize = pass->p->normalize};
    elect_values(&election, s->out, count);
}

static void sum_up(const struct pass *pass, struct scratch *s, size_t count)
{
    double total = 0;
    memset(s->out, 0, count * sizeof(*s->out));
    for (size_t k = 0; k < pass->p->vectors; k++) {
        add_weighted(s->out, s->kept[k], pass->weight[k], count);
        total += pass->weight[k];
    }
    if (!pass->p->normalize || total == 0)
        return;
    for (size_t i = 0; i < count; i++)
        s->out[i] /= total;
}

static void combine_block(const struct pass *pass, struct scratch *s, struct extent e)
{
    const double lambda = pass->p->method == MERGE_LINEAR ? 1 : pass->p->lambda;
    for (size_t k = 0; k < pass->p->vectors; k++)
        thin_block(pass, s, k, e, s->kept[k]);
    if (pass->traits->elects)
        elect(pass, s, e.count);
    else
        sum_up(pass, s, e.count);
    for (size_t i = 0; lambda != 1 && i < e.count; i++)
        s->out[i] *= lambda;
}

#define LANES 8 // sums that run side by side, in an order that no instruction set changes

MERGE_INLINE double add_one_change(double *out, double from, bool on_top)
{
    const double moved = on_top ? *out : *out - from;
    *out = on_top ? from + *out : *out;
    return moved * moved;
}

MERGE_CLONES static double add_change(double *out, const float *base, bool has_base, bool on_top,
                                      size_t count)
{
    double lanes[LANES] = {0}, change = 0;
    size_t i = 0;
    for (; i + LANES <= count; i += LANES)
        for (size_t lane = 0; lane < LANES; lane++)
            lanes[lane] +=
                add_one_change(&out[i + lane], has_base ? (double)base[i + lane] : 0, on_top);
    for (; i < count; i++)
        change += add_one_change(&out[i], has_base ? (double)base[i] : 0, on_top);
    for (size_t lane = 0; lane < LANES; lane++)
        change += lanes[lane];
    return change;
}

MERGE_CLONES static void narrow(float *out, const double *in, size_t count)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (float)in[i];
}

// Rounds to nearest, ties to even; returns how many are not finite in bfloat16.
MERGE_CLONES static uint64_t store_bf16(uint16_t *out, const float *in, size_t count)
{
    uint32_t infinite = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &in[i], sizeof(bits));
        const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
        infinite += (bits & 0x7f800000u) == 0x7f800000u || (rounded & 0x7f80u) == 0x7f80u;
        out[i] = (uint16_t)rounded;
    }
    return infinite;
}

static uint64_t store_f16(uint16_t *out, const float *in, size_t count)
{
    uint64_t infinite = 0;
    convert_from_f32(out, DTYPE_F16, in, count);
    for (size_t i = 0; i < count; i++)
        infinite += (out[i] & 0x7c00u) == 0x7c00u;
    return infinite;
}

MERGE_CLONES static uint64_t store_f32(float *out, const float *in, size_t count)
{
    uint32_t infinite = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &in[i], sizeof(bits));
        infinite += (bits & 0x7f800000u) == 0x7f800000u;
        out[i] = in[i];
    }
    return infinite;
}

// What is finite in float64 may be too large for the dtype: those are counted.
static uint64_t store(void *out, enum dtype dtype, const float *in, size_t count)
{
    switch (dtype) {
    case DTYPE_F32:
        return store_f32(out, in, count);
    case DTYPE_BF16:
        return store_bf16(out, in, count);
    case DTYPE_F16:
        return store_f16(out, in, count);
    }
    return 0;
}

static void result_block(void *argument, size_t task, int thread)
{
    struct pass *pass = argument;
    struct scratch *s = &pass->engine->scratch[thread];
    const struct extent e = pass_extent(pass, task);
    const enum dtype dtype = pass->sink->dtype;
    float *values = (float *)s->total;
    pass_load_all(pass, s, e);
    if (pass->traits->family == FAMILY_SPAN)
        span_block(pass, s, e);
    else
        combine_block(pass, s, e);
    pass->block_change[e.index] =
        add_change(s->out, s->base, pass->tensor->has_base, !pass->traits->on_models, e.count);
    char *to = pass->tile_out + (e.begin - pass->first) * dtype_bytes(dtype);
    narrow(values, s->out, e.count);
    pass->block_counts[e.index] = store(to, dtype, values, e.count);
}

static int write_result(struct pass *pass, struct error *err)
{
    const struct merge_tensor *tensor = pass->tensor;
    size_t tile = pass->engine->tile / pass->block * pass->block;
    tile = tile > 0 ? tile : pass->block;
    for (size_t begin = 0; begin < pass->count; begin += tile) {
        pass->first = begin;
        pass->last = pass->count - begin < tile ? pass->count : begin + tile;
        pass->tile_out = pass->sink->buffer(pass->sink->context);
        pool_run(pass->engine->pool, (pass->last - begin + pass->block - 1) / pass->block,
                 result_block, pass);
        if (tensor->release)
            tensor->release(tensor->context, begin, pass->last - begin);
        if (pass->sink->submit(pass->sink->context, pass->tile_out, pass->last - begin, err))
            return -1;
    }
    return 0;
}

static void collect_stats(const struct pass *pass, size_t blocks, struct merge_tensor_stats *stats)
{
    *stats = (struct merge_tensor_stats){0};
    for (size_t b = 0; b < blocks; b++) {
        stats->change += pass->block_change[b];
        if (pass->block_counts[b] > 0 && stats->infinite == 0)
            stats->first_infinite = b * pass->block;
        stats->infinite += pass->block_counts[b];
    }
}

struct pass pass_begin(struct merge_engine *engine, const struct merge_parameters *parameters,
                       const struct merge_tensor *tensor)
{
    return (struct pass){
        .engine = engine,
        .p = parameters,
        .traits = merge_traits(parameters->method),
        .tensor = tensor,
        .count = tensor->rows * tensor->columns,
        .block = merge_engine_block(parameters->method, parameters->groups, tensor->columns)};
}

int merge_tensor_run(struct merge_engine *engine, const struct merge_parameters *parameters,
                     const struct merge_tensor *tensor, const struct magnitude_cut *cuts,
                     const struct merge_sink *sink, struct merge_tensor_stats *stats,
                     struct error *err)
{
    struct pass pass = pass_begin(engine, parameters, tensor);
    const size_t blocks = pass_blocks(&pass), n = parameters->vectors;
    const bool by_column = pass.traits->family == FAMILY_SPAN && parameters->groups == GROUP_COLUMN;
    pass.sink = sink;
    pass.sums = 2 * n > n * (n + 1) / 2 ? 2 * n : n * (n + 1) / 2;
    pass.lower = mem_calloc(n, sizeof(*pass.lower));
    pass.upper = mem_calloc(n, sizeof(*pass.upper));
    pass.scale = mem_calloc(n, sizeof(*pass.scale));
    pass.weight = mem_calloc(n, sizeof(*pass.weight));
    pass.partial = mem_calloc(blocks * pass.sums + 1, sizeof(*pass.partial));
    pass.coefficients =
        mem_calloc(n * (by_column ? tensor->columns : 1) + 1, sizeof(*pass.coefficients));
    pass.block_change = mem_calloc(blocks + 1, sizeof(*pass.block_change));
    pass.block_counts = mem_calloc(blocks + 1, sizeof(*pass.block_counts));
    pass.collected = mem_calloc(blocks + 1, sizeof(*pass.collected));
    if (pass.traits->family == FAMILY_SPAN)
        span_prepare(&pass);
    else
        thin_prepare(&pass, cuts);
    const int rc = write_result(&pass, err);
    collect_stats(&pass, blocks, stats);
    free(pass.lower);
    free(pass.upper);
    free(pass.scale);
    free(pass.weight);
    free(pass.partial);
    free(pass.coefficients);
    free(pass.block_change);
    free(pass.block_counts);
    free(pass.collected);
    return rc;
}
