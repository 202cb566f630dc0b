// SPDX-License-Identifier: Apache-2.0
// The reference operations: what each operation means, in the plainest C that states it. Any dtype
// is read and written element by element; sums and functions are computed in double, so that the
// only roundings are those of the stored results.
#ifndef MEMO_KERNELS_REF_H
#define MEMO_KERNELS_REF_H

#include "kernels/kernels.h"

#include <assert.h>

static inline double load(struct tensor tensor, size_t i)
{
    switch (tensor.dtype) {
    case DTYPE_F32:
        return ((const float *)tensor.data)[i];
    case DTYPE_BF16:
        return bf16_to_f32(((const uint16_t *)tensor.data)[i]);
    case DTYPE_F16:
        return f16_to_f32(((const uint16_t *)tensor.data)[i]);
    }
    assert(!"dtype");
    return 0;
}

static inline void store(struct tensor tensor, size_t i, double value)
{
    switch (tensor.dtype) {
    case DTYPE_F32:
        ((float *)tensor.data)[i] = (float)value;
        return;
    case DTYPE_BF16:
        ((uint16_t *)tensor.data)[i] = bf16_from_f32((float)value);
        return;
    case DTYPE_F16:
        ((uint16_t *)tensor.data)[i] = f16_from_f32((float)value);
        return;
    }
    assert(!"dtype");
}

static inline void store_sum(struct tensor tensor, size_t i, double value)
{
    store(tensor, i, load(tensor, i) + value);
}

// Where a row of a norm begins, see struct rmsnorm_forward.
static inline size_t norm_row(size_t row, size_t width, size_t heads, size_t stride)
{
    return heads ? row / heads * stride + row % heads * width : row * width;
}

void ref_embedding_forward(struct device *, const struct embedding_forward *);
void ref_embedding_backward(struct device *, const struct embedding_backward *);
void ref_rmsnorm_forward(struct device *, const struct rmsnorm_forward *);
void ref_rmsnorm_backward(struct device *, const struct rmsnorm_backward *);
void ref_linear_forward(struct device *, const struct linear_forward *);
void ref_linear_backward_input(struct device *, const struct linear_backward_input *);
void ref_linear_backward_weight(struct device *, const struct linear_backward_weight *);
void ref_linear_pack(struct device *, struct linear *);
void ref_linear_unpack(struct device *, struct linear *);
void ref_quantize_rows(struct device *, const struct quantize_rows *);
void ref_linear_fp8(struct device *, const struct linear_fp8 *);
void ref_rope(struct device *, const struct rope *);
void ref_attention_forward(struct device *, const struct attention_forward *);
void ref_attention_backward(struct device *, const struct attention_backward *);
void ref_kv_write(struct device *, const struct kv_write *);
void ref_rope_kv_write(struct device *, const struct rope_kv_write *);
void ref_sample(struct device *, const struct sample *);
void ref_attention_cached(struct device *, const struct attention_cached *);
void ref_gated_forward(struct device *, const struct gated_forward *);
void ref_gated_backward(struct device *, const struct gated_backward *);
void ref_short_conv_forward(struct device *, const struct short_conv_forward *);
void ref_short_conv_backward(struct device *, const struct short_conv_backward *);
void ref_short_conv_cached(struct device *, const struct short_conv_cached *);
void ref_cross_entropy(struct device *, const struct cross_entropy *);
void ref_rows_gather(struct device *, const struct rows_gather *);
void ref_rows_scatter_add(struct device *, const struct rows_scatter_add *);
void ref_dropout(struct device *, const struct dropout *);
void ref_accumulate(struct device *, const struct accumulate *);
void ref_adamw(struct device *, const struct adamw *);
void ref_adamw_compact(struct device *, const struct adamw_compact *);
void ref_fixed_accumulate(struct device *, const struct fixed_accumulate *);
void ref_fixed_add(struct device *, const struct fixed_add *);
void ref_fixed_value(struct device *, const struct fixed_value *);
void ref_argmax(struct device *, int32_t *out, struct tensor logits, size_t rows, size_t width);
void ref_sum_squares(struct device *, double *out, struct tensor x, size_t count);

#endif
