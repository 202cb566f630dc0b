// SPDX-License-Identifier: Apache-2.0
// Gated short convolution of LFM2 (Liquid AI 2025), a depthwise causal convolution between two
// gates. With u = B x, 0 outside the sequence, and K taps, for every channel:
//     y[t] = sum_k w[k] u[t - (K - 1) + k],  out[t] = C[t] y[t]
// Backward, with h = grad_out C, 0 outside the sequence:
//     grad_C[t] = grad_out[t] y[t]
//     grad_u[s] = sum_k w[k] h[s + (K - 1) - k],  grad_B = grad_u x,  grad_x = grad_u B
//     grad_w[k] += sum_t h[t] u[t - (K - 1) + k]
#include "kernels/ref/ref.h"

// B, C and x of one channel stand at row * 3 D + i, + D and + 2 D. u has the type of bcx, so that a
// state of that type changes nothing.
static double gated_input(struct tensor bcx, size_t width, size_t t, size_t i)
{
    size_t at = t * 3 * width + i;
    float rounded = 0; // room for any type
    struct tensor u = {.data = &rounded, .dtype = bcx.dtype};
    store(u, 0, load(bcx, at) * load(bcx, at + 2 * width));
    return load(u, 0);
}

static double convolved(struct tensor bcx, struct tensor weight, size_t width, size_t taps,
                        size_t begin, size_t t, size_t i)
{
    double sum = 0;
    for (size_t k = 0; k < taps; k++) {
        size_t back = taps - 1 - k;
        if (t - begin >= back)
            sum += load(weight, i * taps + k) * gated_input(bcx, width, t - back, i);
    }
    return sum;
}

void ref_short_conv_forward(struct device *device, const struct short_conv_forward *a)
{
    (void)device;
    for (size_t s = 0; s < a->sequences.count; s++) {
        size_t begin = (size_t)a->sequences.offsets[s], end = (size_t)a->sequences.offsets[s + 1];
        for (size_t t = begin; t < end; t++)
            for (size_t i = 0; i < a->width; i++)
                store(a->out, t * a->width + i,
                      load(a->bcx, t * 3 * a->width + a->width + i) *
                          convolved(a->bcx, a->weight, a->width, a->taps, begin, t, i));
    }
}

static void backward_element(const struct short_conv_backward *a, size_t begin, size_t end,
                             size_t t, size_t i)
{
    size_t width = a->width, at = t * 3 * width + i;
    double grad = load(a->grad_out, t * width + i), grad_u = 0;
    double h = grad * load(a->bcx, at + width);
    for (size_t k = 0; k < a->taps; k++) {
        size_t distance = a->taps - 1 - k, later = t + distance;
        if (later < end)
            grad_u += load(a->weight, i * a->taps + k) * load(a->grad_out, later * width + i) *
                      load(a->bcx, later * 3 * width + width + i);
        if (t - begin >= distance)
            store_sum(a->grad_weight, i * a->taps + k,
                      h * gated_input(a->bcx, width, t - distance, i));
    }
    store(a->grad_bcx, at, grad_u * load(a->bcx, at + 2 * width));
    store(a->grad_bcx, at + width,
          grad * convolved(a->bcx, a->weight, width, a->taps, begin, t, i));
    store(a->grad_bcx, at + 2 * width, grad_u * load(a->bcx, at));
}

void ref_short_conv_backward(struct device *device, const struct short_conv_backward *a)
{
    (void)device;
    for (size_t s = 0; s < a->sequences.count; s++) {
        size_t begin = (size_t)a->sequences.offsets[s], end = (size_t)a->sequences.offsets[s + 1];
        for (size_t t = begin; t < end; t++)
            for (size_t i = 0; i < a->width; i++)
                backward_element(a, begin, end, t, i);
    }
}

// Where the state of one position of a token's sequence begins.
static size_t state_row(const struct short_conv_cached *a, size_t t, size_t position)
{
    size_t kept = a->taps - 1, at = (size_t)a->sequences[t] * a->tables.stride;
    size_t block = (size_t)a->tables.blocks[at + position / KV_BLOCK_TOKENS];
    return (block * kept + position % kept) * a->width;
}

void ref_short_conv_cached(struct device *device, const struct short_conv_cached *a)
{
    (void)device;
    size_t kept = a->taps - 1;
    for (size_t t = 0; t < a->tokens; t++) {
        size_t position = (size_t)a->positions[t];
        for (size_t i = 0; i < a->width; i++) {
            double now = gated_input(a->bcx, a->width, t, i), sum = 0;
            for (size_t k = 0; k < kept; k++) {
                size_t back = kept - k;
                if (position >= back)
                    sum += load(a->weight, i * a->taps + k) *
                           load(a->state, state_row(a, t, position - back) + i);
            }
            sum += load(a->weight, i * a->taps + kept) * now;
            if (kept > 0)
                store(a->state, state_row(a, t, position) + i, now);
            store(a->out, t * a->width + i, load(a->bcx, t * 3 * a->width + a->width + i) * sum);
        }
    }
}
