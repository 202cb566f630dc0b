// SPDX-License-Identifier: Apache-2.0
// The files of this folder that compute are compiled once per instruction set, with ISA_SUFFIX
// plain, avx2 or avx512; dispatch.c, compiled once and for every processor, picks a table at start.
#ifndef MEMO_KERNELS_CPU_ISA_H
#define MEMO_KERNELS_CPU_ISA_H

#include "kernels/cpu/cpu.h"
#include "kernels/ref/ref.h"

#define ISA_JOIN(name, suffix) cpu_##name##_##suffix
#define ISA_EXPAND(name, suffix) ISA_JOIN(name, suffix)
#define ISA(name) ISA_EXPAND(name, ISA_SUFFIX) // ISA(rope) is cpu_rope_avx2

extern const struct probes ISA(probes);

void ISA(embedding_forward)(struct device *, const struct embedding_forward *);
void ISA(embedding_backward)(struct device *, const struct embedding_backward *);
void ISA(rmsnorm_forward)(struct device *, const struct rmsnorm_forward *);
void ISA(rmsnorm_backward)(struct device *, const struct rmsnorm_backward *);
void ISA(linear_forward)(struct device *, const struct linear_forward *);
void ISA(linear_backward_input)(struct device *, const struct linear_backward_input *);
void ISA(linear_backward_weight)(struct device *, const struct linear_backward_weight *);
void ISA(linear_pack)(struct device *, struct linear *);
void ISA(linear_unpack)(struct device *, struct linear *);
void ISA(rope)(struct device *, const struct rope *);
void ISA(attention_forward)(struct device *, const struct attention_forward *);
void ISA(attention_backward)(struct device *, const struct attention_backward *);
void ISA(kv_write)(struct device *, const struct kv_write *);
void ISA(rope_kv_write)(struct device *, const struct rope_kv_write *);
void ISA(attention_cached)(struct device *, const struct attention_cached *);
void ISA(gated_forward)(struct device *, const struct gated_forward *);
void ISA(gated_backward)(struct device *, const struct gated_backward *);
void ISA(short_conv_forward)(struct device *, const struct short_conv_forward *);
void ISA(short_conv_backward)(struct device *, const struct short_conv_backward *);
void ISA(short_conv_cached)(struct device *, const struct short_conv_cached *);
void ISA(cross_entropy)(struct device *, const struct cross_entropy *);
void ISA(rows_gather)(struct device *, const struct rows_gather *);
void ISA(rows_scatter_add)(struct device *, const struct rows_scatter_add *);
void ISA(dropout)(struct device *, const struct dropout *);
void ISA(accumulate)(struct device *, const struct accumulate *);
void ISA(adamw)(struct device *, const struct adamw *);
void ISA(adamw_compact)(struct device *, const struct adamw_compact *);
void ISA(fixed_accumulate)(struct device *, const struct fixed_accumulate *);
void ISA(fixed_add)(struct device *, const struct fixed_add *);
void ISA(fixed_value)(struct device *, const struct fixed_value *);
void ISA(argmax)(struct device *, int32_t *out, struct tensor logits, size_t rows, size_t width);
void ISA(sum_squares)(struct device *, double *out, struct tensor x, size_t count);

#endif
