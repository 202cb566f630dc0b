// SPDX-License-Identifier: Apache-2.0
// memo bench kernels: every operation alone, at the sizes of a shape: --prompt tokens, or --rows of
// those that only move memory, and for generation as many positions of each of the first --batch
// sequences. Operands take turns, so that no cache holds them.
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
    return 0;
}
