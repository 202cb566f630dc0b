// SPDX-License-Identifier: Apache-2.0
// Keys and values into a paged cache: see kernels/ref/attention_cached.c. A block's elements lie as
// [H_kv, B, d], B = KV_BLOCK_TOKENS.
//
// Idea: a block of threads takes a part of one token. With the rope, the sines and cosines of its
// position are computed once, by one thread a pair, and kept in shared memory for all heads; then a
// thread takes 16 bytes of elements and those half a head further on.
// Queries turn in place, keys turn on their way to the cache, values are copied there. Launch:
// tokens x 1 to 4 parts of a row; 128 threads. Bytes: a row of queries, keys and values read once
// and written once. Other widths and rows that do not begin at multiples of 16 bytes: an element at
// a time. sincosf at full precision, as angles reach 131,072 radians.
#include "kernels/cuda/cuda.h"

enum { B = KV_BLOCK_TOKENS, WRITE_THREADS = 128, ANGLES = HEAD_WIDTH_LIMIT / 2 + 64, PARTS = 4 };

// As many parts of a row of `values` threads' work as have something to do, up to PARTS: a decode
// step has few tokens.
static dim3 grid_of(size_t tokens, size_t values)
{
    const unsigned parts = blocks_of(values, WRITE_THREADS);
    return dim3((unsigned)tokens, parts < PARTS ? parts : (unsigned)PARTS);
}

// The first value of a thread, and the step to its next.
static __device__ __forceinline__ size_t first_value(void)
{
    return (size_t)blockIdx.y * WRITE_THREADS + threadIdx.x;
}

static __device__ __forceinline__ size_t value_step(void)
{
    return (size_t)gridDim.y * WRITE_THREADS;
}

// Where element 0 of a key head's position begins in the cache.
static __device__ __forceinline__ size_t place_row(const struct kv_write *a, int32_t place,
                                                   size_t group)
{
    const size_t block = (size_t)place / B, offset = (size_t)place % B;
    return ((block * a->kv_heads + group) * B + offset) * a->head_width;
}

template <enum access A> static __global__ void kv_write_kernel(struct kv_write a)
{
    enum { V = lane<A>::COUNT };
    const size_t d = a.head_width, width = a.kv_heads * d, t = blockIdx.x;
    if (a.places[t] < 0)
        return;
    for (size_t i = first_value() * V; i < width; i += value_step() * V) {
        const size_t to = place_row(&a, a.places[t], i / d) + i % d;
        const struct lane<A> k = lane_load<A>(a.k, t * a.stride + i);
        const struct lane<A> v = lane_load<A>(a.v, t * a.stride + i);
        float values[V];
        lane_widen(values, k);
        lane_store<A>(a.k_cache, to, values);
        lane_widen(values, v);
        lane_store<A>(a.v_cache, to, values);
    }
}

// As access_of, for rows `stride` elements apart, of parts of `width`.
static enum access rows_access(const struct tensor *tensors, size_t count, size_t width,
                               size_t stride)
{
    const enum access access = access_of(tensors, count, width);
    return stride % access_elements(access) == 0 ? access : ACCESS_ANY;
}

void cuda_kv_write(struct device *device, const struct kv_write *a)
{
    const struct tensor tensors[] = {a->k_cache, a->v_cache, a->k, a->v};
    const size_t width = a->kv_heads * a->head_width;
    if (a->tokens == 0)
        return;
    const enum access access = rows_access(tensors, 4, a->head_width, a->stride);
    CUDA_LAUNCH_ACCESS(access, kv_write_kernel, grid_of(a->tokens, width / access_elements(access)),
                       WRITE_THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "kv_write");
}

// Where the angle of pair i lies in shared memory, for lanes that read V neighbours each, one after
// another: the first of all lanes lie side by side, then the second. With 4 elements more than a
// multiple of 8 from one to the next no bank is asked twice, neither when they are written.
template <int V> static __device__ __forceinline__ unsigned angle_place(size_t i, size_t half)
{
    const unsigned apart = ((unsigned)half / V + 3) / 8 * 8 + 4;
    return (unsigned)i % V * apart + (unsigned)i / V;
}

// Sines and cosines of a token's position, times the magnitude.
template <int V>
static __device__ __forceinline__ void turn_angles(const struct rope *a, size_t t,
                                                   shared_pointer<float> sines,
                                                   shared_pointer<float> cosines)
{
    const float position = (float)a->positions[t];
    for (size_t i = threadIdx.x; i < a->head_width / 2; i += WRITE_THREADS) {
        float s, c;
        sincosf(position * a->inverse_frequency[i], &s, &c);
        sines[angle_place<V>(i, a->head_width / 2)] = s * a->magnitude;
        cosines[angle_place<V>(i, a->head_width / 2)] = c * a->magnitude;
    }
}

template <enum access A>
static __global__ void rope_kv_write_kernel(struct rope rope, struct kv_write write)
{
    enum { V = lane<A>::COUNT };
    CUDA_SHARED(float, sines, ANGLES);
    CUDA_SHARED(float, cosines, ANGLES);
    const size_t d = rope.head_width, half = d / 2, t = blockIdx.x;
    const size_t heads = rope.heads + write.kv_heads, queries = rope.heads - write.kv_heads;
    const int32_t place = write.places[t];
    turn_angles<V>(&rope, t, sines, cosines);
    __syncthreads();
    for (size_t pair = first_value() * V; pair < heads * half; pair += value_step() * V) {
        const size_t head = pair / half, i = pair % half, at = t * rope.stride + head * d + i;
        if (head >= queries && place < 0)
            return;
        float x[V], y[V];
        lane_widen(x, lane_load<A>(rope.x, at));
        lane_widen(y, lane_load<A>(rope.x, at + half));
        for (int j = 0; head < rope.heads && j < V; j++) {
            const unsigned at_angle = angle_place<V>(i + j, half);
            const float s = sines[at_angle], c = cosines[at_angle], first = x[j];
            x[j] = first * c - y[j] * s;
            y[j] = y[j] * c + first * s;
        }
        const size_t group = head - (head < rope.heads ? queries : rope.heads);
        const struct tensor cache = head < rope.heads ? write.k_cache : write.v_cache;
        const size_t to = head < queries ? at : place_row(&write, place, group) + i;
        lane_store<A>(head < queries ? rope.x : cache, to, x);
        lane_store<A>(head < queries ? rope.x : cache, to + half, y);
    }
}

void cuda_rope_kv_write(struct device *device, const struct rope_kv_write *a)
{
    const struct tensor tensors[] = {a->rope.x, a->write.k_cache, a->write.v_cache};
    const size_t half = a->rope.head_width / 2;
    const size_t pairs = (a->rope.heads + a->write.kv_heads) * half;
    if (a->rope.tokens == 0)
        return;
    if (a->rope.head_width % 2 != 0) {
        cuda_rope(device, &a->rope);
        cuda_kv_write(device, &a->write);
        return;
    }
    const enum access access = rows_access(tensors, 3, half, a->rope.stride);
    CUDA_LAUNCH_ACCESS(access, rope_kv_write_kernel,
                       grid_of(a->rope.tokens, pairs / access_elements(access)), WRITE_THREADS, 0,
                       cuda_of(device)->stream, a->rope, a->write);
    cuda_launched(device, "rope_kv_write");
}
