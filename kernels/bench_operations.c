// SPDX-License-Identifier: Apache-2.0
// Every operation on random values at the sizes of a model: what it must move, each byte once, or
// compute, beside how long it takes.
#include "kernels/bench.h"

#include "base/mem.h"
#include "kernels/kernels.h"

#include <stdlib.h>

enum {
    PARTS_LIMIT = 32,
    // Sets of operands that take turns, until together they are beyond any cache (50 MB on a
    // Hopper GPU).
    SETS_LIMIT = 16,
    SETS_BYTES = 256 << 20,
};

struct parts {
    struct device *device;
    struct bench_sizes sizes;
    enum dtype dtype;
    size_t element; // bytes
    size_t bytes;   // of the blocks
    void *blocks[PARTS_LIMIT];
    size_t count;
    struct error *err;
    bool failed;
    // of the operation
    struct tensor a, b, c, d, weight;
    float *f, *g;
    int32_t *indices;
    void *states[5];
    struct attention_plan plan;
};

static void *take(struct parts *p, size_t bytes)
{
    void *block = NULL;
    if (p->failed || device_alloc(p->device, bytes, &block, p->err))
        p->failed = true;
    else
        p->blocks[p->count++] = block;
    p->bytes += bytes;
    return block;
}

static void release(struct parts *p)
{
    while (p->count > 0)
        device_free(p->device, p->blocks[--p->count]);
}

static struct tensor take_noise(struct parts *p, enum dtype dtype, size_t count)
{
    struct tensor tensor = {take(p, count * dtype_bytes(dtype)), dtype};
    if (!p->failed)
        bench_fill_noise(p->device, tensor, count, 1);
    return tensor;
}

static int32_t *take_indices(struct parts *p, size_t count, size_t limit)
{
    int32_t *host = malloc((count + 1) * sizeof *host), *out = take(p, count * sizeof *out);
    for (size_t i = 0; host && i < count; i++)
        host[i] = (int32_t)(i % limit);
    if (host && !p->failed)
        device_copy_in(p->device, out, host, count * sizeof *host);
    free(host);
    return out;
}

static size_t qkv(const struct bench_sizes *s)
{
    return (s->heads + 2 * s->kv_heads) * s->head_width;
}

// --- what moves memory ---

static double norm_forward(void *context)
{
    struct parts *p = context;
    const struct bench_sizes *s = &p->sizes;
    p->device->ops->rmsnorm_forward(p->device, &(struct rmsnorm_forward){.out = p->b,
                                                                         .rstd = p->f,
                                                                         .x = p->a,
                                                                         .weight = p->weight,
                                                                         .rows = s->tokens,
                                                                         .width = s->hidden,
                                                                         .epsilon = 1e-6f});
    return 2.0 * (double)(s->tokens * s->hidden * p->element);
}

static double norm_backward(void *context)
{
    struct parts *p = context;
    const struct bench_sizes *s = &p->sizes;
    p->device->ops->rmsnorm_backward(p->device,
                                     &(struct rmsnorm_backward){.grad_x = p->c,
                                                                .grad_weight = {p->g, DTYPE_F32},
                                                                .grad_out = p->b,
                                                                .x = p->a,
                                                                .rstd = p->f,
                                                                .weight = p->weight,
                                                                .rows = s->tokens,
                                                                .width = s->hidden});
    return 4.0 * (double)(s->tokens * s->hidden * p->element);
}

static double rotate(void *context)
{
    struct parts *p = context;
    const struct bench_sizes *s = &p->sizes;
    const size_t heads = s->heads + s->kv_heads;
    p->device->ops->rope(p->device, &(struct rope){.x = p->d,
                                                   .positions = p->indices,
                                                   .inverse_frequency = p->f,
                                                   .magnitude = 1,
                                                   .tokens = s->tokens,
                                                   .stride = qkv(s),
                                                   .heads = heads,
                                                   .head_width = s->head_width});
    return 2.0 * (double)(s->tokens * heads * s->head_width * p->element);
}

static double gate_forward(void *context)
{
    struct parts *p = context;
    const struct bench_sizes *s = &p->sizes;
    p->device->ops->gated_forward(
        p->device,
        &(struct gated_forward){.out = p->b, .gate_up = p->a, .rows = s->tokens, .width = s->ffn});
    return 3.0 * (double)(s->tokens * s->ffn * p->element);
}

static double gate_backward(void *context)
{
    struct parts *p = context;
    const struct bench_sizes *s = &p->sizes;
    p->device->ops->gated_backward(p->device, &(struct gated_backward){.grad_gate_up = p->c,
                                                                       .grad_out = p->b,
                                                                       .gate_up = p->a,
                                                                       .rows = s->tokens,
                                                                       .width = s->ffn});
    return 5.0 * (double)(s->tokens * s->ffn * p->element);
}

static double embed(void *context)
{
    struct parts *p = context;
    const struct bench_sizes *s = &p->sizes;
    p->device->ops->embedding_forward(p->device, &(struct embedding_forward){.out = p->b,
                                                                             .weight = p->a,
                                                                             .ids = p->indices,
                                                                             .tokens = s->tokens,
                                                                             .width = s->hidden,
                                                                             .scale = 1});
    return 2.0 * (double)(s->tokens * s->hidden * p->element);
}

static double gather(void *context)
{
    struct parts *p = context;
    const struct bench_sizes *s = &p->sizes;
    p->device->ops->rows_gather(
        p->device,
        &(struct rows_gather){
            .out = p->b, .x = p->a, .index = p->indices, .rows = s->tokens, .width = s->hidden});
    return 2.0 * (double)(s->tokens * s->hidden * p->element);
}

static size_t slice_rows(const struct bench_sizes *s)
{
    const size_t rows = ((size_t)64 << 20) / (s->vocabulary * sizeof(float));
    return rows < s->tokens ? rows : s->tokens;
}

static double loss(void *context)
{
    struct parts *p = context;
    const struct bench_sizes *s = &p->sizes;
    const size_t rows = slice_rows(s);
    p->device->ops->cross_entropy(p->device, &(struct cross_entropy){.logits = p->a,
                                                                     .losses = p->f,
                                                                     .targets = p->indices,
                                                                     .rows = rows,
                                                                     .vocabulary = s->vocabulary,
                                                                     .grad_scale = 1,
                                                                     .backward = true});
    return 2.0 * (double)(rows * s->vocabulary * sizeof(float));
}

static double optimize(void *context)
{
    struct parts *p = context;
    const size_t count = p->sizes.hidden * p->sizes.ffn;
    p->device->ops->adamw_compact(p->device, &(struct adamw_compact){.parameter = p->a,
                                                                     .remainder = p->states[0],
                                                                     .moments = MOMENTS_8BIT,
                                                                     .moment1 = p->states[1],
                                                                     .moment2 = p->states[2],
                                                                     .scale1 = p->states[3],
                                                                     .scale2 = p->states[4],
                                                                     .grad = {p->f, DTYPE_F32},
                                                                     .count = count,
                                                                     .grad_scale = 1,
                                                                     .learning_rate = 1e-5f,
                                                                     .beta1 = 0.9f,
                                                                     .beta2 = 0.999f,
                                                                     .epsilon = 1e-8f,
                                                                     .step = 1});
    return 16.0 * (double)count; // master 8, moments 4, gradient 4
}

static double keep(void *context)
{
    struct parts *p = context;
    const struct bench_sizes *s = &p->sizes;
    const size_t width = s->kv_heads * s->head_width;
    p->device->ops->kv_write(p->device, &(struct kv_write){.k_cache = p->a,
                                                           .v_cache = p->b,
                                                           .k = p->d,
                                                           .v = p->d,
                                                           .stride = qkv(s),
                                                           .places = p->indices,
                                                           .tokens = s->tokens,
                                                           .kv_heads = s->kv_heads,
                                                           .head_width = s->head_width});
    return 4.0 * (double)(s->tokens * width * p->element);
}

// Every sequence's own positions, one new token each.
static double attend_to_cache(void *context)
{
    struct parts *p = context;
    const struct bench_sizes *s = &p->sizes;
    const size_t blocks = s->tokens / KV_BLOCK_TOKENS, width = s->kv_heads * s->head_width;
    p->device->ops->attention_cached(p->device,
                                     &(struct attention_cached){.out = p->c,
                                                                .q = p->d,
                                                                .stride = qkv(s),
                                                                .k_cache = p->a,
                                                                .v_cache = p->b,
                                                                .tables = {p->states[0], blocks},
                                                                .sequences = p->indices,
                                                                .positions = p->states[1],
                                                                .plan = p->plan,
                                                                .tokens = s->sequences,
                                                                .heads = s->heads,
                                                                .kv_heads = s->kv_heads,
                                                                .head_width = s->head_width,
                                                                .scale = 0.1f});
    return 2.0 * (double)(s->sequences * blocks * KV_BLOCK_TOKENS * width * p->element);
}

// --- what computes ---

static double pairs(const struct bench_sizes *s) // of positions, one behind the other
{
    return (double)s->tokens * ((double)s->tokens + 1) / 2;
}

static struct sequences one_sequence(const struct parts *p)
{
    return (struct sequences){p->indices, 1, p->sizes.tokens};
}

static struct tensor part(struct tensor t, size_t element)
{
    return (struct tensor){(char *)t.data + element * dtype_bytes(t.dtype), t.dtype};
}

static double attend(void *context)
{
    struct parts *p = context;
    const struct bench_sizes *s = &p->sizes;
    const size_t keys = s->heads * s->head_width, values = keys + s->kv_heads * s->head_width;
    p->device->ops->attention_forward(p->device,
                                      &(struct attention_forward){.out = p->c,
                                                                  .log_sum_exp = p->f,
                                                                  .q = p->d,
                                                                  .k = part(p->d, keys),
                                                                  .v = part(p->d, values),
                                                                  .stride = qkv(s),
                                                                  .sequences = one_sequence(p),
                                                                  .tokens = s->tokens,
                                                                  .heads = s->heads,
                                                                  .kv_heads = s->kv_heads,
                                                                  .head_width = s->head_width,
                                                                  .scale = 0.1f});
    return 4.0 * (double)keys * pairs(s);
}

static double attend_backward(void *context)
{
    struct parts *p = context;
    const struct bench_sizes *s = &p->sizes;
    const size_t keys = s->heads * s->head_width, values = keys + s->kv_heads * s->head_width;
    p->device->ops->attention_backward(p->device,
                                       &(struct attention_backward){.grad_q = p->a,
                                                                    .grad_k = part(p->a, keys),
                                                                    .grad_v = part(p->a, values),
                                                                    .grad_out = p->b,
                                                                    .out = p->c,
                                                                    .log_sum_exp = p->f,
                                                                    .q = p->d,
                                                                    .k = part(p->d, keys),
                                                                    .v = part(p->d, values),
                                                                    .stride = qkv(s),
                                                                    .sequences = one_sequence(p),
                                                                    .tokens = s->tokens,
                                                                    .heads = s->heads,
                                                                    .kv_heads = s->kv_heads,
                                                                    .head_width = s->head_width,
                                                                    .scale = 0.1f});
    return 10.0 * (double)keys * pairs(s); // five products instead of two
}

// --- their memory ---

static void rows_of_hidden(struct parts *p)
{
    const size_t count = p->sizes.tokens * p->sizes.hidden;
    p->a = take_noise(p, p->dtype, count);
    p->b = take_noise(p, p->dtype, count);
    p->c = take_noise(p, p->dtype, count);
    p->weight = take_noise(p, p->dtype, p->sizes.hidden);
    p->f = take_noise(p, DTYPE_F32, p->sizes.tokens).data;
    p->g = take_noise(p, DTYPE_F32, p->sizes.hidden).data;
    p->indices = take_indices(p, p->sizes.tokens, p->sizes.tokens);
}

static void rows_of_ffn(struct parts *p)
{
    const size_t count = p->sizes.tokens * p->sizes.ffn;
    p->a = take_noise(p, p->dtype, 2 * count);
    p->b = take_noise(p, p->dtype, count);
    p->c = take_noise(p, p->dtype, 2 * count);
}

static void rows_of_logits(struct parts *p)
{
    p->a = take_noise(p, DTYPE_F32, slice_rows(&p->sizes) * p->sizes.vocabulary);
    p->f = take_noise(p, DTYPE_F32, p->sizes.tokens).data;
    p->indices = take_indices(p, p->sizes.tokens, p->sizes.vocabulary);
}

static void states_of_optimizer(struct parts *p)
{
    const size_t count = p->sizes.hidden * p->sizes.ffn;
    p->a = take_noise(p, DTYPE_BF16, count);
    p->states[0] = take(p, count * 2);
    p->states[1] = take(p, count);
    p->states[2] = take(p, count);
    p->states[3] = take(p, moment_blocks(0, count) * sizeof(float));
    p->states[4] = take(p, moment_blocks(0, count) * sizeof(float));
    p->f = take_noise(p, DTYPE_F32, count).data;
}

static void rows_of_heads(struct parts *p)
{
    const struct bench_sizes *s = &p->sizes;
    const size_t out = s->tokens * s->heads * s->head_width;
    p->d = take_noise(p, p->dtype, s->tokens * qkv(s));
    p->a = take_noise(p, p->dtype, s->tokens * qkv(s));
    p->b = take_noise(p, p->dtype, out > s->tokens * qkv(s) ? out : s->tokens * qkv(s));
    p->c = take_noise(p, p->dtype, out);
    p->f = take_noise(p, DTYPE_F32, s->tokens * s->heads).data;
    p->indices = take_indices(p, s->tokens, s->tokens);
}

static void one_long_sequence(struct parts *p)
{
    const int32_t offsets[] = {0, (int32_t)p->sizes.tokens};
    rows_of_heads(p);
    if (!p->failed)
        device_copy_in(p->device, p->indices, offsets, sizeof offsets);
}

static void cached_sequences(struct parts *p)
{
    const struct bench_sizes *s = &p->sizes;
    const size_t blocks = s->tokens / KV_BLOCK_TOKENS, tokens = s->sequences;
    const size_t cache = tokens * blocks * KV_BLOCK_TOKENS * s->kv_heads * s->head_width;
    int32_t *positions = malloc(tokens * sizeof *positions);
    struct attention_group *groups = malloc(tokens * sizeof *groups);
    struct attention_segment *segments = malloc(tokens * sizeof *segments);
    p->a = take_noise(p, p->dtype, cache);
    p->b = take_noise(p, p->dtype, cache);
    p->c = take_noise(p, p->dtype, tokens * s->heads * s->head_width);
    p->d = take_noise(p, p->dtype, tokens * qkv(s));
    p->indices = take_indices(p, tokens, tokens);
    p->states[0] = take_indices(p, tokens * blocks, tokens * blocks);
    p->states[1] = take(p, tokens * sizeof *positions);
    p->states[2] = take(p, tokens * sizeof *groups);
    p->states[3] = take(p, tokens * sizeof *segments);
    for (size_t t = 0; t < tokens && positions && groups && segments; t++) {
        const int32_t at = (int32_t)t;
        positions[t] = (int32_t)(blocks * KV_BLOCK_TOKENS) - 1;
        groups[t] = (struct attention_group){at, 1, at, 1};
        segments[t] = (struct attention_segment){at, 1, 0, (int32_t)blocks};
    }
    if (!p->failed && positions && groups && segments) {
        device_copy_in(p->device, p->states[1], positions, tokens * sizeof *positions);
        device_copy_in(p->device, p->states[2], groups, tokens * sizeof *groups);
        device_copy_in(p->device, p->states[3], segments, tokens * sizeof *segments);
    }
    p->plan = (struct attention_plan){p->indices, p->states[2], p->states[3], tokens, 1};
    free(positions);
    free(groups);
    free(segments);
}

enum limit {
    BY_ROWS,
    BY_CACHE,
    BY_COMPUTING
}; // of what: rows or a cache that are moved, or products

static const struct operation {
    const char *name;
    void (*prepare)(struct parts *);
    double (*call)(void *);
    enum limit limit;
} operations[BENCH_OPERATIONS] = {
    {"rmsnorm_forward", rows_of_hidden, norm_forward, BY_ROWS},
    {"rmsnorm_backward", rows_of_hidden, norm_backward, BY_ROWS},
    {"embedding_forward", rows_of_hidden, embed, BY_ROWS},
    {"rows_gather", rows_of_hidden, gather, BY_ROWS},
    {"rope", rows_of_heads, rotate, BY_ROWS},
    {"kv_write", rows_of_heads, keep, BY_ROWS},
    {"gated_forward", rows_of_ffn, gate_forward, BY_ROWS},
    {"gated_backward", rows_of_ffn, gate_backward, BY_ROWS},
    {"cross_entropy", rows_of_logits, loss, BY_ROWS},
    {"adamw_compact, 8 bits", states_of_optimizer, optimize, BY_ROWS},
    {"attention_cached", cached_sequences, attend_to_cache, BY_CACHE},
    {"attention_forward", one_long_sequence, attend, BY_COMPUTING},
    {"attention_backward", one_long_sequence, attend_backward, BY_COMPUTING},
};

// The same operation on one set of operands after the other.
struct turns {
    const struct operation *operation;
    struct parts sets[SETS_LIMIT];
    size_t count, next;
};

static double take_turn(void *context)
{
    struct turns *turns = context;
    struct parts *set = &turns->sets[turns->next++ % turns->count];
    return turns->operation->call(set);
}

// One when it computes, as its operands are read again and again anyway.
static int prepare_sets(struct turns *turns, const struct parts *common)
{
    size_t bytes = 0;
    do {
        struct parts *set = &turns->sets[turns->count++];
        *set = *common;
        turns->operation->prepare(set);
        bytes += set->bytes;
        if (set->failed)
            return -1;
    } while (turns->operation->limit != BY_COMPUTING && turns->count < SETS_LIMIT &&
             bytes < SETS_BYTES);
    return 0;
}

static int measure(const struct parts *common, const struct bench_sizes *sizes,
                   const struct operation *operation, struct bench_operation *out)
{
    struct turns *turns = mem_calloc(1, sizeof *turns);
    struct parts own = *common;
    turns->operation = operation;
    own.sizes = *sizes;
    if (operation->limit == BY_ROWS && sizes->rows > 0)
        own.sizes.tokens = sizes->rows;
    out->name = operation->name;
    out->computes = operation->limit == BY_COMPUTING;
    int rc = prepare_sets(turns, &own);
    if (rc == 0) {
        out->amount = take_turn(turns);
        rc = bench_best_rate(common->device, (struct bench_work){take_turn, turns}, &out->rate,
                             common->err);
    }
    for (size_t i = 0; i < turns->count; i++)
        release(&turns->sets[i]);
    free(turns);
    return rc ? error_prefix(common->err, "%s", out->name) : 0;
}

int bench_operations(struct device *device, const struct bench_sizes *sizes,
                     struct bench_operation out[BENCH_OPERATIONS], struct error *err)
{
    const enum dtype dtype = device->ops->half_activations ? DTYPE_BF16 : DTYPE_F32;
    const struct parts common = {
        .device = device, .dtype = dtype, .element = dtype_bytes(dtype), .err = err};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < BENCH_OPERATIONS; i++)
        rc = measure(&common, sizes, &operations[i], &out[i]);
    return rc;
}
