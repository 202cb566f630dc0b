// SPDX-License-Identifier: Apache-2.0
#include "kernels/ref/ref.h"

#include "kernels/backend.h"

#include <stdio.h>

const struct kernels kernels_ref = {
    .name = "ref",
    .embedding_forward = ref_embedding_forward,
    .embedding_backward = ref_embedding_backward,
    .rmsnorm_forward = ref_rmsnorm_forward,
    .rmsnorm_backward = ref_rmsnorm_backward,
    .linear_forward = ref_linear_forward,
    .linear_backward_input = ref_linear_backward_input,
    .linear_backward_weight = ref_linear_backward_weight,
    .linear_pack = ref_linear_pack,
    .linear_unpack = ref_linear_unpack,
    .quantize_rows = ref_quantize_rows,
    .linear_fp8 = ref_linear_fp8,
    .rope = ref_rope,
    .attention_forward = ref_attention_forward,
    .attention_backward = ref_attention_backward,
    .kv_write = ref_kv_write,
    .rope_kv_write = ref_rope_kv_write,
    .attention_cached = ref_attention_cached,
    .gated_forward = ref_gated_forward,
    .gated_backward = ref_gated_backward,
    .short_conv_forward = ref_short_conv_forward,
    .short_conv_backward = ref_short_conv_backward,
    .short_conv_cached = ref_short_conv_cached,
    .cross_entropy = ref_cross_entropy,
    .rows_gather = ref_rows_gather,
    .rows_scatter_add = ref_rows_scatter_add,
    .dropout = ref_dropout,
    .accumulate = ref_accumulate,
    .adamw = ref_adamw,
    .adamw_compact = ref_adamw_compact,
    .fixed_accumulate = ref_fixed_accumulate,
    .fixed_add = ref_fixed_add,
    .fixed_value = ref_fixed_value,
    .sample = ref_sample,
    .argmax = ref_argmax,
    .sum_squares = ref_sum_squares,
};

static int ref_create(struct device *device, const struct device_options *options,
                      struct error *err)
{
    if (options->isa)
        return error_set(err, "instruction set '%s' means nothing to it: leave it out or use 'cpu'",
                         options->isa);
    device->ops = &kernels_ref;
    device->threads = 1;
    return 0;
}

static int ref_create_beside(const struct device *device, void *stream, struct device *beside,
                             struct error *err)
{
    (void)stream, (void)err;
    beside->ops = device->ops;
    beside->threads = 1;
    return 0;
}

static void ref_destroy(struct device *device)
{
    (void)device;
}

static void ref_describe(const struct device *device, char *out, size_t out_bytes)
{
    (void)device;
    snprintf(out, out_bytes, "ref, 1 thread");
}

const struct backend backend_ref = {
    .name = "ref",
    .memory = &memory_host,
    .create = ref_create,
    .destroy = ref_destroy,
    .create_beside = ref_create_beside,
    .describe = ref_describe,
};
