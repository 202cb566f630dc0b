// SPDX-License-Identifier: Apache-2.0
// Attention for any type and width, in float32: a warp takes one row of one head. Each lane scores
// one key of 32; then the lanes share out the columns of the row's result.
#ifndef MEMO_KERNELS_CUDA_ATTENTION_ROWS_H
#define MEMO_KERNELS_CUDA_ATTENTION_ROWS_H

#include "kernels/cuda/cuda.h"

enum { LANE_VALUES = HEAD_WIDTH_LIMIT / WARP };

static __device__ __forceinline__ float row_dot(struct tensor x, size_t x_at, struct tensor y,
                                                size_t y_at, size_t d)
{
    float sum = 0;
    for (size_t i = 0; i < d; i++)
        sum += load(x, x_at + i) * load(y, y_at + i);
    return sum;
}

// sums += sum over the lanes' rows of factor x[row], where row(i) is where that of lane i begins.
template <typename Row>
static __device__ __forceinline__ void add_rows(float sums[LANE_VALUES], float factor,
                                                shared_pointer<float> factors, struct tensor x,
                                                size_t d, Row row)
{
    factors[threadIdx.x] = factor;
    __syncwarp();
    for (int i = 0; i < WARP; i++) {
        const float f = factors[i];
        if (f == 0)
            continue;
        for (int j = 0; j < LANE_VALUES; j++)
            if (threadIdx.x + j * WARP < d)
                sums[j] += f * load(x, row(i) + threadIdx.x + j * WARP);
    }
    __syncwarp();
}

static __device__ __forceinline__ void store_row(struct tensor to, size_t at,
                                                 const float sums[LANE_VALUES], float divisor,
                                                 size_t d)
{
    for (int j = 0; j < LANE_VALUES; j++)
        if (threadIdx.x + j * WARP < d)
            store(to, at + threadIdx.x + j * WARP, sums[j] / divisor);
}

// The softmax of a row over keys first..last, whose keys begin at row(u) of k, and values of v.
// Keys are taken by 32 from `begin` on, so that the result does not depend on what comes later.
struct softmax_row {
    float out[LANE_VALUES];
    float largest, sum;
};

template <typename Row>
static __device__ void attend_row(struct softmax_row *r, struct tensor q, size_t q_at,
                                  struct tensor k, struct tensor v, size_t begin, size_t first,
                                  size_t last, float scale, size_t d, shared_pointer<float> weights,
                                  Row row)
{
    *r = {{0}, -INFINITY, 0};
    for (size_t base = begin + (first - begin) / WARP * WARP; base <= last; base += WARP) {
        const size_t u = base + threadIdx.x;
        const bool seen = u >= first && u <= last;
        const float score = seen ? row_dot(q, q_at, k, row(u), d) * scale : -INFINITY;
        const float largest = fmaxf(r->largest, warp_max(score));
        const float shrink = largest == r->largest ? 1 : expf(r->largest - largest);
        const float weight = seen ? expf(score - largest) : 0;
        r->largest = largest;
        r->sum = r->sum * shrink + warp_sum(weight);
        for (int j = 0; j < LANE_VALUES; j++)
            r->out[j] *= shrink;
        add_rows(r->out, weight, weights, v, d, [&](int i) { return row(base + i); });
    }
}

#endif
