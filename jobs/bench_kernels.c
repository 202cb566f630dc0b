// SPDX-License-Identifier: Apache-2.0
// memo bench kernels: every operation alone, at the sizes of a shape: --prompt tokens, or --rows of
// those that only move memory, and for generation as many positions of each of the first --batch
// sequences. Where a backend multiplies in more than one way, the layers' products by each, for all
// of --batch: bytes of the weight per second. Operands take turns, so that no cache holds them.
#include "jobs/bench.h"

#include "worker/model/model.h"

#include <stdio.h>

enum { USUAL_SEQUENCES = 16 };

static void report(const struct bench *bench, const struct bench_operation *operation)
{
    const double peak =
        bench->device->ops->half_activations ? bench->limits.dot_flops : bench->limits.flops;
    const double limit = operation->computes ? peak : bench->limits.read_bytes;
    char what[64];
    snprintf(what, sizeof what, "kernel %s", operation->name);
    bench_report(bench, what, operation->rate / 1e9, operation->computes ? "GFLOP/s" : "GB/s",
                 operation->rate / limit, operation->computes ? "the peak" : "the bandwidth");
}

struct weight {
    const char *name;
    size_t out_width, in_width;
};

static int measure_product(struct bench *bench, const struct weight *weight, size_t rows,
                           bool codes, enum products products, struct error *err)
{
    const struct bench_product product = {rows, weight->out_width, weight->in_width, codes,
                                          products};
    char what[96];
    double rate;
    if (bench_product(bench->device, &product, &rate, err))
        return -1;
    snprintf(what, sizeof what, "product %s %zu x %zu %s, %zu row%s, %s", weight->name,
             weight->out_width, weight->in_width, codes ? "fp8" : "bf16", rows,
             rows == 1 ? "" : "s", products == PRODUCTS_LIBRARY ? "library" : "own");
    bench_report(bench, what, rate / 1e9, "GB/s", rate / bench->limits.read_bytes, "the bandwidth");
    return 0;
}

// Our own beside the library's, so that the first run on a GPU tells from how many rows on the
// library is the faster one.
static int measure_products(struct bench *bench, const struct bench_sizes *s, struct error *err)
{
    const struct weight weights[] = {
        {"qkv", (s->heads + 2 * s->kv_heads) * s->head_width, s->hidden},
        {"attention", s->hidden, s->heads * s->head_width},
        {"gate and up", 2 * s->ffn, s->hidden},
        {"down", s->hidden, s->ffn},
        {"head", s->vocabulary, s->hidden},
    };
    static const size_t usual[] = {1, 2, 4, 8, 16, 32, 64};
    const size_t *rows = bench->batch_count ? bench->batches : usual;
    const size_t count = bench->batch_count ? bench->batch_count : sizeof usual / sizeof usual[0];
    if (!device_choose_products(bench->device, PRODUCTS_FASTEST))
        return 0;
    for (size_t w = 0; w < sizeof weights / sizeof weights[0]; w++)
        for (int codes = 0; codes < 2; codes++)
            for (size_t r = 0; r < count; r++)
                if (measure_product(bench, &weights[w], rows[r], codes, PRODUCTS_INVARIANT, err) ||
                    measure_product(bench, &weights[w], rows[r], codes, PRODUCTS_LIBRARY, err))
                    return -1;
    return 0;
}

int bench_kernels(struct bench *bench, struct error *err)
{
    const struct bench_options *options = bench->options;
    struct model_config config;
    if (model_config_shape(options->shape ? options->shape : "tiny", &config, err))
        return -1;
    const size_t blocks = kv_blocks((size_t)options->prompt);
    const struct bench_sizes sizes = {
        .tokens = blocks * KV_BLOCK_TOKENS,
        .hidden = (size_t)config.hidden,
        .heads = (size_t)config.heads,
        .kv_heads = (size_t)config.kv_heads,
        .head_width = (size_t)config.head_width,
        .ffn = (size_t)config.ffn,
        .vocabulary = (size_t)config.vocabulary,
        .rows = (size_t)options->rows,
        .sequences = bench->batch_count ? bench->batches[0] : USUAL_SEQUENCES,
    };
    struct bench_operation operations[BENCH_OPERATIONS];
    if (bench_operations(bench->device, &sizes, operations, err))
        return -1;
    for (size_t i = 0; i < BENCH_OPERATIONS; i++)
        report(bench, &operations[i]);
    return measure_products(bench, &sizes, err);
}
