// SPDX-License-Identifier: Apache-2.0
// The contract of every operation. ref/ is the specification (naive, formula and source on top of
// each file), cpu/ and cuda/ compute the same faster, under the same names.
//
// T is the number of tokens of a packed batch, R any number of rows, D the model width, H heads, d
// the width of a head. "=" overwrites, "+=" accumulates. Arguments never alias unless said so.
// Index arrays (ids, positions, offsets) live on the device. Sums are float32 or better; a result
// does not depend on timing, and a row's result does not depend on the other rows of the call.
#ifndef MEMO_KERNELS_KERNELS_H
#define MEMO_KERNELS_KERNELS_H

#include "kernels/device.h"

// Attention keeps one head of a row on the stack; no known model has wider ones.
enum { HEAD_WIDTH_LIMIT = 256 };

// A short convolution keeps its taps on the stack; published models have 3.
enum { SHORT_CONV_TAPS_LIMIT = 8 };

// out[t] = weight[ids[t]] * scale
struct embedding_forward {
    struct tensor out;    // [T, D] =
    struct tensor weight; // [vocabulary, D]
    const int32_t *ids;   // [T], each below vocabulary
    size_t tokens;
    size_t width;
    float scale;
};

// grad_weight[ids[t]] += grad_out[t] * scale, tokens of one id added in ascending t.
struct embedding_backward {
    struct tensor grad_weight; // [vocabulary, D] +=
    struct tensor grad_out;    // [T, D]
    const int32_t *ids;
    size_t tokens;
    size_t vocabulary;
    size_t width;
    float scale;
};

// out = x * rstd * (weight + weight_offset), rstd = 1 / sqrt(mean(x^2) + epsilon).
// Zhang and Sennrich 2019; weight_offset 1 is Gemma's convention.
//
// With heads > 0 a row is one head: `heads` of them stand side by side at the start of every
// `stride` elements of x and out (and of the gradients); R counts heads. Otherwise rows follow one
// another.
struct rmsnorm_forward {
    struct tensor out;      // [R, D] =, may be x
    float *rstd;            // [R] = for backward; NULL: not kept
    struct tensor x;        // [R, D]
    struct tensor residual; // [R, D], added to the result, may be out; data NULL: none
    struct tensor weight;
    size_t rows;
    size_t width;
    size_t heads, stride;
    float epsilon;
    float weight_offset;
};

struct rmsnorm_backward {
    struct tensor grad_x;      // [R, D] += (the residual branch is already there)
    struct tensor grad_weight; // [D] +=
    struct tensor grad_out;    // [R, D]
    struct tensor x;
    const float *rstd;
    struct tensor weight;
    size_t rows;
    size_t width;
    size_t heads, stride;
    float weight_offset;
    bool overwrite; // grad_x =, which may then be grad_out
};

// A dense layer's parameters. A backend multiplies a bfloat16 weight as such: it may round x and
// grad_out to bfloat16, to nearest, before the product, which it adds in float32; subnormal numbers
// may count as 0. Activations and their gradients are float32 or bfloat16 whatever the weight's
// type, but slow where they are float16.
//
// packed is the backend's own copy in the layout it reads fastest, made
// by linear_pack for weights that no longer change; NULL otherwise.
struct linear {
    struct tensor weight; // [out_width, in_width], row-major as Hugging Face stores it
    struct tensor bias;   // [out_width]; data NULL: none
    size_t out_width;
    size_t in_width;
    void *packed;
    uint8_t *codes; // [out_width, in_width] for linear_fp8, of quantize_rows; NULL: none
    float *scales;  // [out_width]
};

// out = x weight^T + bias + residual, or out += with accumulate and no residual.
struct linear_forward {
    struct tensor out;      // [R, out_width]
    struct tensor x;        // [R, in_width]
    struct tensor residual; // [R, out_width], of out's type, may be out; data NULL: none
    const struct linear *linear;
    size_t rows;
    bool accumulate;
};

// Rows in eight bits, each with a scale of its own: fp8.h.
struct quantize_rows {
    uint8_t *codes; // [R, D] =
    float *scales;  // [R] =
    struct tensor x;
    size_t rows;
    size_t width;
};

// linear_forward by the codes of x and weight.
struct linear_fp8 {
    struct tensor out;
    const uint8_t *x;      // [R, in_width]
    const float *x_scales; // [R]
    struct tensor residual;
    const struct linear *linear;
    size_t rows;
};

// grad_x = grad_out weight, or += with accumulate.
struct linear_backward_input {
    struct tensor grad_x;
    struct tensor grad_out;
    const struct linear *linear;
    size_t rows;
    bool accumulate;
};

// grad_weight += grad_out^T x; grad_bias += column sums of grad_out. Both are float32 (slow
// otherwise). product bfloat16 means that the weight is, and grad_out and x may be rounded to it;
// where they are bfloat16 themselves it changes nothing.
struct linear_backward_weight {
    struct tensor grad_weight;
    struct tensor grad_bias; // data NULL: none
    struct tensor grad_out;
    struct tensor x;
    enum dtype product; // float32 unless told otherwise
    size_t rows;
    size_t out_width;
    size_t in_width;
};

// Rotary embedding, halves convention of Llama and Qwen (Su et al. 2021): element i of the first
// half pairs with element i of the second; angle = position * inverse_frequency[i]. In place on
// `heads` consecutive heads at the start of each row. backward rotates by the negative angle.
struct rope {
    struct tensor x; // [T] rows of `stride` elements
    const int32_t *positions;
    const float *inverse_frequency; // [d / 2]
    float magnitude;                // multiplies cos and sin (YaRN); 1 otherwise
    size_t tokens;
    size_t stride;
    size_t heads;
    size_t head_width;
    bool backward;
};

// Packed sequences: sequence s is tokens offsets[s]..offsets[s + 1].
struct sequences {
    const int32_t *offsets; // [count + 1], on the device
    size_t count;
    size_t longest;
};

// Causal grouped-query attention inside each sequence:
// out[t,h] = sum_u softmax_u(scale q[t,h] . k[u,g]) v[u,g], u <= t, t - u < window,
// g = h / (H / H_kv). Rows of q, k, v are `stride` elements apart (they may be parts of one
// buffer).
struct attention_forward {
    struct tensor out;  // [T, H, d] =
    float *log_sum_exp; // [T, H] = for backward; NULL: not kept
    struct tensor q, k, v;
    size_t stride;
    struct sequences sequences;
    size_t tokens;
    size_t heads, kv_heads, head_width;
    float scale;
    size_t window; // 0: no limit
};

struct attention_backward {
    struct tensor grad_q, grad_k, grad_v; // = , rows `stride` elements apart
    struct tensor grad_out;               // [T, H, d]
    struct tensor out;
    const float *log_sum_exp;
    struct tensor q, k, v;
    size_t stride;
    struct sequences sequences;
    size_t tokens;
    size_t heads, kv_heads, head_width;
    float scale;
    size_t window;
};

// --- generation ---
// Positions of a sequence are cut into blocks of KV_BLOCK_TOKENS: block i holds the positions from
// i KV_BLOCK_TOKENS on. Where it lies in the cache says the sequence's table, so that sequences
// which begin alike can share blocks.
//
// A cache of one layer has, for keys and for values each, `blocks` x H_kv KV_BLOCK_TOKENS d
// elements, float32 or bfloat16 (then d is even). The order of elements inside a block is the
// backend's own. All of the cache is finite at all times; begin with zeros.
enum { KV_BLOCK_TOKENS = 32 };

struct block_tables {
    const int32_t *blocks; // [sequences, stride]
    size_t stride;
};

struct kv_write {
    struct tensor k_cache, v_cache;
    struct tensor k, v; // [T] rows of `stride` elements
    size_t stride;
    // [T] block * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS; negative: the token is not kept
    const int32_t *places;
    size_t tokens;
    size_t kv_heads, head_width;
};

// The rope of queries and keys, which are neighbours, then the kv_write of these keys and the
// values behind them. Whether the keys in x are rotated afterwards is the backend's affair.
struct rope_kv_write {
    struct rope rope; // not backward
    struct kv_write write;
};

// Who reads together. A group's tokens are order[first..first + tokens]; its segments come in
// ascending order of blocks: the tokens order[first..first + tokens] of a segment have the blocks
// [first_block, end_block) of their tables in common. The segments of a token give all blocks up to
// that of its position, each once.
struct attention_group {
    int32_t first, tokens;
    int32_t first_segment, segments;
};

struct attention_segment {
    int32_t first, tokens;
    int32_t first_block, end_block;
};

struct attention_plan {
    const int32_t *order; // [T]
    const struct attention_group *groups;
    const struct attention_segment *segments;
    size_t group_count;
    size_t group_tokens; // of the largest
};

// Token t sees positions 0..positions[t] of its sequence (also those just written), within window.
// Each block gives every token a partial result (largest score, sum of weights, sum of weighted
// values); these are merged in the order of positions (Dao et al. 2023), so that the plan decides
// who reads a block with whom and never changes the arithmetic. With a bfloat16 cache queries and
// weights may be rounded to bfloat16 before they are multiplied.
struct attention_cached {
    struct tensor out; // [T, H, d] =
    struct tensor q;   // [T] rows of `stride` elements
    size_t stride;
    struct tensor k_cache, v_cache;
    struct block_tables tables;
    const int32_t *sequences; // [T] rows of the tables
    const int32_t *positions; // [T]
    struct attention_plan plan;
    size_t tokens;
    size_t heads, kv_heads, head_width;
    float scale;
    size_t window;
};

enum activation { ACTIVATION_SILU, ACTIVATION_GELU_TANH };

// out = activation(gate) * up, where a row of gate_up is [gate | up] (Shazeer 2020).
struct gated_forward {
    struct tensor out;     // [R, F] =
    struct tensor gate_up; // [R, 2 F]
    enum activation activation;
    size_t rows;
    size_t width; // F
};

struct gated_backward {
    struct tensor grad_gate_up; // [R, 2 F] =, may be gate_up
    struct tensor grad_out;     // [R, F]
    struct tensor gate_up;
    enum activation activation;
    size_t rows;
    size_t width;
};

// Gated short convolution (LFM2, Liquid AI 2025). A row of bcx is [B | C | x]; u = B * x, rounded
// to the type of bcx, and 0 before the first token of a sequence:
//     out[t, i] = C[t, i] sum_k weight[i, k] u[t - (K - 1) + k, i],  0 <= k < K.
struct short_conv_forward {
    struct tensor out;    // [T, D] =
    struct tensor bcx;    // [T, 3 D]
    struct tensor weight; // [D, K]
    struct sequences sequences;
    size_t tokens;
    size_t width; // D
    size_t taps;  // K, at most SHORT_CONV_TAPS_LIMIT
};

struct short_conv_backward {
    struct tensor grad_bcx;    // [T, 3 D] =
    struct tensor grad_weight; // [D, K] +=
    struct tensor grad_out;    // [T, D]
    struct tensor bcx;
    struct tensor weight;
    struct sequences sequences;
    size_t tokens;
    size_t width;
    size_t taps;
};

// Generation. A block of the state holds u of its last K - 1 positions written, that of position p
// in row p % (K - 1). Tokens of a sequence come in ascending order of positions, from call to call
// too; a block that is begun again is written from its first position on.
struct short_conv_cached {
    struct tensor out; // [T, D] =
    struct tensor bcx;
    struct tensor weight;
    struct tensor state; // [blocks, K - 1, D]
    struct block_tables tables;
    const int32_t *sequences; // [T]
    const int32_t *positions; // [T]
    size_t tokens;
    size_t width;
    size_t taps;
};

// losses[r] = log sum exp(logits[r]) - logits[r, targets[r]]; with backward the logits become
// (softmax - onehot) * grad_scale in place.
struct cross_entropy {
    struct tensor logits; // [R, V]
    float *losses;        // [R] =
    const int32_t *targets;
    size_t rows;
    size_t vocabulary;
    float grad_scale;
    bool backward;
};

// How the next token of a row is drawn. In this order: tokens that the mask leaves out go; logits
// of tokens seen are divided by the penalty where positive, else multiplied (Keskar et al. 2019);
// weights are those of sample_weight.h with scale = 1 / temperature; tokens are ordered by weight,
// equal ones by number; the top_k first stay; of these the fewest whose weights reach top_p of
// theirs (Holtzman et al. 2020); of these the ones of at least min_p (Nguyen et al. 2024). The one
// drawn is that at which the sum of weights, by token, passes sample_point(random, the whole sum).
struct sample_row {
    uint64_t random;
    float scale; // 0: the largest logit, the lowest token on ties
    float top_p; // 0 or 1: all
    float min_p;
    float penalty; // 0 or 1: none
    int32_t top_k; // 0: all
    int32_t mask;  // row of the bits; -1: every token is allowed
    int32_t seen;  // row of the bits; -1: no token was
};

struct sample {
    int32_t *out;         // [R] =, 0 where no token has any weight
    struct tensor logits; // [R, V], float32
    const struct sample_row *rows;
    const uint64_t *bits; // [, (V + 63) / 64], token i is bit i % 64 of word i / 64
    size_t count;         // R
    size_t vocabulary;    // V, below 2^31
};

// out[r] = x[index[r]]
struct rows_gather {
    struct tensor out; // [R, D] =
    struct tensor x;
    const int32_t *index;
    size_t rows;
    size_t width;
};

// out[index[r]] += x[r]; no index twice.
struct rows_scatter_add {
    struct tensor out;
    struct tensor x; // [R, D]
    const int32_t *index;
    size_t rows;
    size_t width;
};

// out = x * factor where an element is kept, 0 where it is dropped (Srivastava et al. 2014); added
// to out with accumulate. Whether element (r, i) is kept depends on keys[r], stream and i only, not
// on the other rows of the call nor on where the row stands.
struct dropout {
    struct tensor out;    // [R, D], may be x
    struct tensor x;      // [R, D]
    const uint64_t *keys; // [R], on the device; NULL: everything is kept
    uint64_t stream;
    uint32_t drop_below; // of 2^32: the probability of being dropped
    float factor;
    size_t rows;
    size_t width;
    bool accumulate;
};

// The finalizer of SplitMix64 (Steele, Lea and Flood 2014).
HOST_DEVICE static inline uint64_t dropout_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

HOST_DEVICE static inline uint64_t dropout_row(uint64_t key, uint64_t stream)
{
    return dropout_mix(key ^ dropout_mix(stream + 0x9E3779B97F4A7C15u));
}

// 32 random bits of an element, of what dropout_row gave for its row.
HOST_DEVICE static inline uint32_t dropout_bits(uint64_t row, uint64_t i)
{
    return (uint32_t)(dropout_mix(row + (i + 1) * 0x9E3779B97F4A7C15u) >> 32);
}

// sums[i] += terms[i], added in float32. Sums in bfloat16 are rounded stochastically, by the bits
// of moment_random(first + i, draw): a mean over draws is exact, equal draws give equal bits.
struct accumulate {
    struct tensor sums;  // [count] +=, float32 or bfloat16
    struct tensor terms; // [count], float32 or bfloat16
    size_t count;
    uint64_t first; // element 0's number in the model
    int64_t draw;   // of the call: another one for every term of a sum
};

// AdamW, Loshchilov and Hutter 2019, decoupled decay, bias-corrected, in the order of
// torch.optim.AdamW: g = grad * grad_scale; p *= 1 - lr * decay; m += (g - m) (1 - beta1); v =
// beta2 v + (1 - beta2) g^2; p -= lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) +
// epsilon)
struct adamw {
    float *parameter; // [count], in place; so are the moments
    float *moment1;
    float *moment2;
    const float *grad;
    size_t count;
    float grad_scale;
    float learning_rate, beta1, beta2, epsilon, weight_decay;
    int64_t step; // from 1
};

// A master weight in 32 bits of which the upper half is the bfloat16 that the products read:
// bits = (bfloat16 << 16) + remainder, the bfloat16 rounded to nearest, ties away from zero.
HOST_DEVICE static inline uint16_t master_upper(uint32_t bits)
{
    return (uint16_t)((bits + 0x8000u) >> 16);
}

HOST_DEVICE static inline int16_t master_remainder(uint32_t bits)
{
    return (int16_t)(bits - ((uint32_t)master_upper(bits) << 16));
}

HOST_DEVICE static inline uint32_t master_bits(uint16_t upper, int16_t remainder)
{
    return ((uint32_t)upper << 16) + (uint32_t)(int32_t)remainder;
}

// How AdamW keeps its moments. bf16: the first rounded to nearest, ties to even, the second
// stochastically, because a decay of 0.1% is less than half a unit in its last place. 8 bits: the
// dynamic codes of moment_code.h times the largest of the block.
enum moment_kind { MOMENTS_F32, MOMENTS_BF16, MOMENTS_8BIT };

// Elements that share a scale. Blocks begin at multiples of it in the whole model's numbering, so
// that no division of the model among ranks cuts one.
enum { MOMENT_BLOCK = 256 };

// AdamW on a master weight kept in two halves, on small moments, or both; in float32 throughout.
struct adamw_compact {
    struct tensor parameter; // [count], f32, or bf16 beside its remainder; in place, as all others
    int16_t *remainder;      // [count]; NULL with f32
    enum moment_kind moments;
    void *moment1;          // [count] float, bfloat16 or uint8_t
    void *moment2;          // the same
    float *scale1, *scale2; // [moment_blocks(first, count)], 8 bits only
    uint64_t first;         // element 0's number in the model: places blocks, seeds rounding
    struct tensor grad;     // [count], float32 or bfloat16
    size_t count;
    float grad_scale;
    float learning_rate, beta1, beta2, epsilon, weight_decay;
    int64_t step; // from 1
};

static inline size_t moment_blocks(uint64_t first, size_t count)
{
    return count ? (size_t)((first % MOMENT_BLOCK + count + MOMENT_BLOCK - 1) / MOMENT_BLOCK) : 0;
}

// Sums over ranks (worker/train/reducer.h). Those of integers are the same in any order: a gradient
// becomes the multiple of 2^-44 that is nearest to it.
#define FIXED_SCALE 0x1p44 // 5.7e-14 of a mean loss's gradient; 2^62 holds 262,144

// sums[i] += values[i] * FIXED_SCALE, rounded to an integer, ties to even. A value of which not
// |value| < limit, NaN too, adds nothing and sets *unfit to 1. limit <= 2^18, so that nothing
// overflows but sums of too many.
struct fixed_accumulate {
    int64_t *sums;        // [count] +=
    struct tensor values; // [count], f32 or bf16
    size_t count;
    float limit;
    int32_t *unfit; // left alone otherwise
};

// sums[i] += terms[i]; overflow wraps around.
struct fixed_add {
    int64_t *sums;        // [count] +=
    const int64_t *terms; // [count]
    size_t count;
};

// out[i] = sums[i] / FIXED_SCALE, by way of float64: rounded twice, to nearest, ties to even.
struct fixed_value {
    float *out;          // [count] =
    const int64_t *sums; // [count]
    size_t count;
};

struct kernels {
    const char *name;
    // Activations and their gradients best have the type of the weights; otherwise float32.
    bool half_activations;

    void (*embedding_forward)(struct device *, const struct embedding_forward *);
    void (*embedding_backward)(struct device *, const struct embedding_backward *);
    void (*rmsnorm_forward)(struct device *, const struct rmsnorm_forward *);
    void (*rmsnorm_backward)(struct device *, const struct rmsnorm_backward *);
    void (*linear_forward)(struct device *, const struct linear_forward *);
    void (*linear_backward_input)(struct device *, const struct linear_backward_input *);
    void (*linear_backward_weight)(struct device *, const struct linear_backward_weight *);
    void (*linear_pack)(struct device *, struct linear *);   // a hint; may do nothing
    void (*linear_unpack)(struct device *, struct linear *); // frees what linear_pack made
    void (*quantize_rows)(struct device *, const struct quantize_rows *);
    void (*linear_fp8)(struct device *, const struct linear_fp8 *);
    void (*rope)(struct device *, const struct rope *);
    void (*attention_forward)(struct device *, const struct attention_forward *);
    void (*attention_backward)(struct device *, const struct attention_backward *);
    void (*kv_write)(struct device *, const struct kv_write *);
    void (*rope_kv_write)(struct device *, const struct rope_kv_write *);
    void (*attention_cached)(struct device *, const struct attention_cached *);
    void (*gated_forward)(struct device *, const struct gated_forward *);
    void (*gated_backward)(struct device *, const struct gated_backward *);
    void (*short_conv_forward)(struct device *, const struct short_conv_forward *);
    void (*short_conv_backward)(struct device *, const struct short_conv_backward *);
    void (*short_conv_cached)(struct device *, const struct short_conv_cached *);
    void (*cross_entropy)(struct device *, const struct cross_entropy *);
    void (*rows_gather)(struct device *, const struct rows_gather *);
    void (*rows_scatter_add)(struct device *, const struct rows_scatter_add *);
    void (*dropout)(struct device *, const struct dropout *);
    void (*accumulate)(struct device *, const struct accumulate *);
    void (*adamw)(struct device *, const struct adamw *);
    void (*adamw_compact)(struct device *, const struct adamw_compact *); // NULL: not there
    // With accumulate the only ones of a device of device_create_beside.
    void (*fixed_accumulate)(struct device *, const struct fixed_accumulate *);
    void (*fixed_add)(struct device *, const struct fixed_add *);
    void (*fixed_value)(struct device *, const struct fixed_value *);

    // NULL: draws are made where the caller is, see worker/engine/sampling.h.
    void (*sample)(struct device *, const struct sample *);
    // out[r] = index of the largest of logits[r, 0..width), the lowest index on ties.
    void (*argmax)(struct device *, int32_t *out, struct tensor logits, size_t rows, size_t width);
    // *out = sum of x^2 in float64, in one order for every thread count.
    void (*sum_squares)(struct device *, double *out, struct tensor x, size_t count);
};

extern const struct kernels kernels_ref;

#endif
