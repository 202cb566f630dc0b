// SPDX-License-Identifier: Apache-2.0
// kernels_cpu_plain, _avx2 or _avx512: the operations of this compilation.
#include "kernels/cpu/isa.h"

#define TABLE_JOIN(suffix) kernels_cpu_##suffix
#define TABLE_EXPAND(suffix) TABLE_JOIN(suffix)

const struct kernels TABLE_EXPAND(ISA_SUFFIX) = {
    .name = "cpu",
    .embedding_forward = ISA(embedding_forward),
    .embedding_backward = ISA(embedding_backward),
    .rmsnorm_forward = ISA(rmsnorm_forward),
    .rmsnorm_backward = ISA(rmsnorm_backward),
    .linear_forward = ISA(linear_forward),
    .linear_backward_input = ISA(linear_backward_input),
    .linear_backward_weight = ISA(linear_backward_weight),
    .linear_pack = ISA(linear_pack),
    .linear_unpack = ISA(linear_unpack),
    .quantize_rows = ref_quantize_rows, // no processor multiplies these
    .linear_fp8 = ref_linear_fp8,
    .rope = ISA(rope),
    .attention_forward = ISA(attention_forward),
    .attention_backward = ISA(attention_backward),
    .kv_write = ISA(kv_write),
    .rope_kv_write = ISA(rope_kv_write),
    .attention_cached = ISA(attention_cached),
    .gated_forward = ISA(gated_forward),
    .gated_backward = ISA(gated_backward),
    .short_conv_forward = ISA(short_conv_forward),
    .short_conv_backward = ISA(short_conv_backward),
    .short_conv_cached = ISA(short_conv_cached),
    .cross_entropy = ISA(cross_entropy),
    .rows_gather = ISA(rows_gather),
    .rows_scatter_add = ISA(rows_scatter_add),
    .dropout = ISA(dropout),
    .accumulate = ISA(accumulate),
    .adamw = ISA(adamw),
    .adamw_compact = ISA(adamw_compact),
    .fixed_accumulate = ISA(fixed_accumulate),
    .fixed_add = ISA(fixed_add),
    .fixed_value = ISA(fixed_value),
    .argmax = ISA(argmax),
    .sum_squares = ISA(sum_squares),
};
