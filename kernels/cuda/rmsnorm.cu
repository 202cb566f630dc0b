// SPDX-License-Identifier: Apache-2.0
// Root mean square norm: see kernels/ref/rmsnorm.c.
// 16 threads take a row of a head, a warp a narrow row, a block a wide one, in pieces of 16 bytes
// that are all under way together and stay in registers, so that a row is read once. Rows that are
// wider, and those that do not begin at multiples of 16 bytes, are read again from the cache.
// Forward moves 2 R D elements (3 with a residual), backward 3 R D (4 when it adds to grad_x): a
// block takes many rows, and sums the weight's gradient of its columns in registers on the way.
// With two blocks of 256 threads on a multiprocessor and rows of 5,120 bf16 elements 40 KB are
// under way.
#include "kernels/cuda/cuda.h"

enum { BLOCK = 256, HALF_WARP = 16, NORM_PARTS = 264 };

static __device__ __forceinline__ size_t norm_row(size_t row, size_t width, size_t heads,
                                                  size_t stride)
{
    return heads ? row / heads * stride + row % heads * width : row * width;
}

// Of a row held by THREADS lanes or threads, for all of them.
template <int THREADS>
static __device__ __forceinline__ float row_total(float value, shared_pointer<float> slots)
{
    if constexpr (THREADS >= WARP) {
        return block_sum<THREADS>(value, slots);
    } else {
        for (int lanes = THREADS / 2; lanes > 0; lanes /= 2)
            value += __shfl_xor_sync(0xffffffffu, value, lanes);
        return value;
    }
}

// --- forward ---

// THREADS threads a row, each holding up to N pieces of it.
template <enum access A, int THREADS, int N>
static __global__ void __launch_bounds__(BLOCK) rmsnorm_forward_kernel(struct rmsnorm_forward a)
{
    enum { COUNT = lane<A>::COUNT, STEP = THREADS * COUNT };
    CUDA_SHARED(float, slots, BLOCK / WARP);
    const size_t row = (size_t)blockIdx.x * (BLOCK / THREADS) + threadIdx.x / THREADS;
    const size_t first = threadIdx.x % THREADS * COUNT;
    const size_t end = row < a.rows ? a.width : 0;
    const size_t at = norm_row(row, a.width, a.heads, a.stride);
    struct lane<A> held[N], weights[N];
    float x[COUNT], w[COUNT], squares = 0;
#pragma unroll
    for (int n = 0; n < N; n++)
        if (first + n * STEP < end)
            held[n] = lane_load<A>(a.x, at + first + n * STEP);
#pragma unroll
    for (int n = 0; n < N; n++)
        if (first + n * STEP < end)
            weights[n] = lane_load<A>(a.weight, first + n * STEP);
#pragma unroll
    for (int n = 0; n < N; n++)
        if (first + n * STEP < end) {
            lane_widen(x, held[n]);
#pragma unroll
            for (int j = 0; j < COUNT; j++)
                squares += x[j] * x[j];
        }
    squares = row_total<THREADS>(squares, slots);
    const float r = 1.0f / sqrtf(squares / (float)a.width + a.epsilon);
#pragma unroll
    for (int n = 0; n < N; n++)
        if (first + n * STEP < end) {
            float out[COUNT];
            lane_widen(x, held[n]);
            lane_widen(w, weights[n]);
#pragma unroll
            for (int j = 0; j < COUNT; j++)
                out[j] = x[j] * r * (w[j] + a.weight_offset);
            if (a.residual.data) {
                lane_widen(x, lane_load<A>(a.residual, at + first + n * STEP));
#pragma unroll
                for (int j = 0; j < COUNT; j++)
                    out[j] += x[j];
            }
            lane_store<A>(a.out, at + first + n * STEP, out);
        }
    if (a.rstd && first == 0 && end > 0)
        a.rstd[row] = r;
}

// Any type and width, a row read twice.
static __global__ void rmsnorm_forward_any_kernel(struct rmsnorm_forward a)
{
    CUDA_SHARED(float, slots, BLOCK / WARP);
    const size_t row = blockIdx.x, at = norm_row(row, a.width, a.heads, a.stride);
    float squares = 0;
    for (size_t i = threadIdx.x; i < a.width; i += BLOCK)
        squares += load(a.x, at + i) * load(a.x, at + i);
    squares = block_sum<BLOCK>(squares, slots);
    const float r = 1.0f / sqrtf(squares / (float)a.width + a.epsilon);
    for (size_t i = threadIdx.x; i < a.width; i += BLOCK) {
        const float out = load(a.x, at + i) * r * (load(a.weight, i) + a.weight_offset);
        store(a.out, at + i, out + (a.residual.data ? load(a.residual, at + i) : 0));
    }
    if (a.rstd && threadIdx.x == 0)
        a.rstd[row] = r;
}

// Pieces that 256 threads hold of a row of up to 8,192 elements.
template <enum access A> struct wide {
    enum { PIECES = 8192 / (BLOCK * lane<A>::COUNT) };
};

enum norm_shape { NORM_HEAD, NORM_NARROW, NORM_WIDE, NORM_ANY };

static enum norm_shape shape_of(enum access access, size_t width)
{
    const size_t count = access_elements(access);
    if (access == ACCESS_ANY || width > 8192)
        return NORM_ANY;
    return width <= HALF_WARP * count  ? NORM_HEAD
           : width <= 4 * WARP * count ? NORM_NARROW
                                       : NORM_WIDE;
}

template <enum access A>
static void forward_as(struct device *device, const struct rmsnorm_forward *a)
{
    cudaStream_t stream = cuda_of(device)->stream;
    switch (shape_of(A, a->width)) {
    case NORM_HEAD:
        CUDA_LAUNCH((rmsnorm_forward_kernel<A, HALF_WARP, 1>),
                    blocks_of(a->rows, BLOCK / HALF_WARP), BLOCK, 0, stream, *a);
        return;
    case NORM_NARROW:
        CUDA_LAUNCH((rmsnorm_forward_kernel<A, WARP, 4>), blocks_of(a->rows, BLOCK / WARP), BLOCK,
                    0, stream, *a);
        return;
    default:
        CUDA_LAUNCH((rmsnorm_forward_kernel<A, BLOCK, wide<A>::PIECES>), (unsigned)a->rows, BLOCK,
                    0, stream, *a);
    }
}

static enum access norm_access(const struct tensor *tensors, size_t count, size_t width,
                               size_t heads, size_t stride)
{
    const enum access access = access_of(tensors, count, width);
    const bool rows = !heads || access_of(tensors, 1, stride) != ACCESS_ANY;
    return rows && shape_of(access, width) != NORM_ANY ? access : ACCESS_ANY;
}

void cuda_rmsnorm_forward(struct device *device, const struct rmsnorm_forward *a)
{
    if (a->rows == 0)
        return;
    const struct tensor tensors[] = {a->out, a->x, a->weight,
                                     a->residual.data ? a->residual : a->x};
    switch (norm_access(tensors, 4, a->width, a->heads, a->stride)) {
    case ACCESS_BF16:
        forward_as<ACCESS_BF16>(device, a);
        break;
    case ACCESS_F32:
        forward_as<ACCESS_F32>(device, a);
        break;
    default:
        CUDA_LAUNCH(rmsnorm_forward_any_kernel, (unsigned)a->rows, BLOCK, 0,
                    cuda_of(device)->stream, *a);
    }
    cuda_launched(device, "rmsnorm_forward");
}

// --- backward ---

// scratch[block, i] = sums of the rows' groups of threads, added in ascending order.
template <int THREADS, int COUNT, int N>
static __device__ void write_sums(const float sums[N][COUNT], float *scratch, size_t width)
{
    enum { GROUPS = BLOCK / THREADS, STEP = THREADS * COUNT };
    CUDA_SHARED(float, all, GROUPS == 1 ? 1 : GROUPS * N * STEP);
    const size_t group = threadIdx.x / THREADS, first = threadIdx.x % THREADS * COUNT;
#pragma unroll
    for (int n = 0; n < N; n++) {
        if (GROUPS > 1)
#pragma unroll
            for (int j = 0; j < COUNT; j++)
                all[(group * N + n) * STEP + j * THREADS + first / COUNT] = sums[n][j];
        else if (first + n * STEP < width)
#pragma unroll
            for (int j = 0; j < COUNT; j += 4)
                lane_store<ACCESS_F32>({scratch, DTYPE_F32},
                                       blockIdx.x * width + first + n * STEP + j, sums[n] + j);
    }
    if (GROUPS == 1)
        return;
    __syncthreads();
    for (int i = threadIdx.x; i < N * STEP; i += BLOCK) {
        const size_t column = i / STEP * STEP + i % THREADS * COUNT + i % STEP / THREADS;
        float sum = 0;
        for (int g = 0; g < GROUPS; g++)
            sum += all[g * N * STEP + i];
        if (column < width)
            scratch[blockIdx.x * width + column] = sum;
    }
}

// Block b takes the groups of rows b, b + gridDim.x...; a thread reads all that it needs of a row
// before it writes, as grad_x may be grad_out.
template <enum access A, int THREADS, int N>
static __global__ void __launch_bounds__(BLOCK)
    rmsnorm_backward_kernel(struct rmsnorm_backward a, float *scratch)
{
    enum { COUNT = lane<A>::COUNT, STEP = THREADS * COUNT, GROUPS = BLOCK / THREADS };
    CUDA_SHARED(float, slots, BLOCK / WARP);
    const size_t first = threadIdx.x % THREADS * COUNT;
    struct lane<A> weights[N], xs[N], grads[N], before[N];
    float sums[N][COUNT] = {};
#pragma unroll
    for (int n = 0; n < N; n++)
        if (first + n * STEP < a.width)
            weights[n] = lane_load<A>(a.weight, first + n * STEP);
    for (size_t group = blockIdx.x; group * GROUPS < a.rows; group += gridDim.x) {
        const size_t row = group * GROUPS + threadIdx.x / THREADS;
        const size_t end = row < a.rows ? a.width : 0;
        const size_t at = norm_row(row, a.width, a.heads, a.stride);
        const float r = end > 0 ? a.rstd[row] : 0;
        float x[COUNT], g[COUNT], w[COUNT], old[COUNT], dot = 0;
#pragma unroll
        for (int n = 0; n < N; n++)
            if (first + n * STEP < end) {
                xs[n] = lane_load<A>(a.x, at + first + n * STEP);
                grads[n] = lane_load<A>(a.grad_out, at + first + n * STEP);
                if (!a.overwrite)
                    before[n] = lane_load<A>(a.grad_x, at + first + n * STEP);
            }
#pragma unroll
        for (int n = 0; n < N; n++)
            if (first + n * STEP < end) {
                lane_widen(x, xs[n]);
                lane_widen(g, grads[n]);
                lane_widen(w, weights[n]);
#pragma unroll
                for (int j = 0; j < COUNT; j++) {
                    dot += g[j] * (w[j] + a.weight_offset) * x[j];
                    sums[n][j] += g[j] * x[j] * r;
                }
            }
        dot = row_total<THREADS>(dot, slots);
        const float back = r * r * r / (float)a.width * dot;
#pragma unroll
        for (int n = 0; n < N; n++)
            if (first + n * STEP < end) {
                lane_widen(x, xs[n]);
                lane_widen(g, grads[n]);
                lane_widen(w, weights[n]);
                lane_widen(old, a.overwrite ? xs[n] : before[n]);
#pragma unroll
                for (int j = 0; j < COUNT; j++)
                    x[j] = (a.overwrite ? 0 : old[j]) +
                           (r * g[j] * (w[j] + a.weight_offset) - x[j] * back);
                lane_store<A>(a.grad_x, at + first + n * STEP, x);
            }
    }
    write_sums<THREADS, COUNT, N>(sums, scratch, a.width);
}

static __global__ void rmsnorm_backward_any_kernel(struct rmsnorm_backward a)
{
    CUDA_SHARED(float, slots, BLOCK / WARP);
    const size_t row = blockIdx.x, at = norm_row(row, a.width, a.heads, a.stride);
    float dot = 0;
    for (size_t i = threadIdx.x; i < a.width; i += BLOCK)
        dot += load(a.grad_out, at + i) * (load(a.weight, i) + a.weight_offset) * load(a.x, at + i);
    dot = block_sum<BLOCK>(dot, slots);
    const float r = a.rstd[row], back = r * r * r / (float)a.width * dot;
    for (size_t i = threadIdx.x; i < a.width; i += BLOCK) {
        const float own = r * load(a.grad_out, at + i) * (load(a.weight, i) + a.weight_offset);
        store(a.grad_x, at + i,
              (a.overwrite ? 0 : load(a.grad_x, at + i)) + (own - load(a.x, at + i) * back));
    }
}

// scratch[part, i] = sum over the part's rows of g x rstd, one thread a column.
static __global__ void rmsnorm_backward_weight_kernel(struct rmsnorm_backward a, float *scratch)
{
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x, part = blockIdx.y;
    const size_t per_part = (a.rows + gridDim.y - 1) / gridDim.y;
    const size_t end = (part + 1) * per_part < a.rows ? (part + 1) * per_part : a.rows;
    if (i >= a.width)
        return;
    float sum = 0;
    for (size_t row = part * per_part; row < end; row++) {
        const size_t at = norm_row(row, a.width, a.heads, a.stride);
        sum += load(a.grad_out, at + i) * load(a.x, at + i) * a.rstd[row];
    }
    scratch[part * a.width + i] = sum;
}

// The weight's gradient first: grad_x may be grad_out.
static void backward_any(struct device *device, const struct rmsnorm_backward *a)
{
    cudaStream_t stream = cuda_of(device)->stream;
    const unsigned parts = reduction_parts(a->rows, a->width);
    CUDA_LAUNCH(rmsnorm_backward_weight_kernel, dim3(blocks_of(a->width, BLOCK), parts), BLOCK, 0,
                stream, *a, (float *)cuda_of(device)->scratch);
    reduce_parts(device, a->grad_weight, parts, a->width);
    CUDA_LAUNCH(rmsnorm_backward_any_kernel, (unsigned)a->rows, BLOCK, 0, stream, *a);
}

template <enum access A>
static void backward_as(struct device *device, const struct rmsnorm_backward *a)
{
    cudaStream_t stream = cuda_of(device)->stream;
    float *scratch = (float *)cuda_of(device)->scratch;
    const enum norm_shape shape = shape_of(A, a->width);
    const int threads = shape == NORM_HEAD     ? (int)HALF_WARP
                        : shape == NORM_NARROW ? (int)WARP
                                               : (int)BLOCK;
    const unsigned groups = blocks_of(a->rows, (size_t)(BLOCK / threads));
    const unsigned parts = groups < (unsigned)NORM_PARTS ? groups : (unsigned)NORM_PARTS;
    static_assert((size_t)NORM_PARTS * 8192 * sizeof(float) <= SCRATCH_BYTES, "parts of one row");
    if (shape == NORM_HEAD)
        CUDA_LAUNCH((rmsnorm_backward_kernel<A, HALF_WARP, 1>), parts, BLOCK, 0, stream, *a,
                    scratch);
    else if (shape == NORM_NARROW)
        CUDA_LAUNCH((rmsnorm_backward_kernel<A, WARP, 4>), parts, BLOCK, 0, stream, *a, scratch);
    else
        CUDA_LAUNCH((rmsnorm_backward_kernel<A, BLOCK, wide<A>::PIECES>), parts, BLOCK, 0, stream,
                    *a, scratch);
    reduce_parts(device, a->grad_weight, parts, a->width);
}

void cuda_rmsnorm_backward(struct device *device, const struct rmsnorm_backward *a)
{
    if (a->rows == 0)
        return;
    const struct tensor tensors[] = {a->grad_x, a->grad_out, a->x, a->weight};
    switch (norm_access(tensors, 4, a->width, a->heads, a->stride)) {
    case ACCESS_BF16:
        backward_as<ACCESS_BF16>(device, a);
        break;
    case ACCESS_F32:
        backward_as<ACCESS_F32>(device, a);
        break;
    default:
        backward_any(device, a);
    }
    cuda_launched(device, "rmsnorm_backward");
}
