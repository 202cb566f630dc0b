// SPDX-License-Identifier: Apache-2.0
// Cross-entropy: see kernels/ref/cross_entropy.c. One block a row; the maximum and the sum in one
// pass (Milakov and Gimelshein 2018), the gradient from what the block has kept of the row: 80 KB
// in registers and 224 KB in shared memory take 152,064 bf16 logits, nearly all of it; what is
// wider is read again. Moves R V elements forward, 2 R V with backward (3 R V of what was not
// kept). 80 KB are under way on a multiprocessor while it reads.
#include "kernels/cuda/cuda.h"

enum {
    THREADS = 1024,
    WARPS = THREADS / WARP,
    EARLY = 5,
    DEPTH = 4,
    STATIC_BYTES = 2 * WARPS * sizeof(float)
};

// sum exp(x - largest)
struct partial {
    float largest, sum;
};

// Infinity less infinity would be no number; a logit that is none must show in the sum.
static __device__ __forceinline__ float shrunk(struct partial p, float largest)
{
    return p.largest == largest ? p.sum : p.sum * expf(p.largest - largest);
}

static __device__ __forceinline__ struct partial join(struct partial a, struct partial b)
{
    const float largest = fmaxf(a.largest, b.largest);
    return {largest, shrunk(a, largest) + shrunk(b, largest)};
}

static __device__ struct partial join_block(struct partial mine, shared_pointer<float> largest,
                                            shared_pointer<float> sums)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        const struct partial other = {__shfl_xor_sync(0xffffffffu, mine.largest, lanes),
                                      __shfl_xor_sync(0xffffffffu, mine.sum, lanes)};
        mine = join(mine, other);
    }
    if (threadIdx.x % WARP == 0) {
        largest[threadIdx.x / WARP] = mine.largest;
        sums[threadIdx.x / WARP] = mine.sum;
    }
    __syncthreads();
    struct partial all = {-INFINITY, 0};
    for (int w = 0; w < WARPS; w++)
        all = join(all, {largest[w], sums[w]});
    return all;
}

// sum exp(x - largest) of one more piece; the sum is shrunk at most once.
template <int COUNT>
static __device__ __forceinline__ struct partial join_piece(struct partial mine, const float *x)
{
    float largest = mine.largest;
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        largest = fmaxf(largest, x[j]);
    float sum = shrunk(mine, largest);
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        sum += shrunk({x[j], 1}, largest);
    return {largest, sum};
}

// Pieces n..n + N of this thread, those that there are.
template <int N, enum access A>
static __device__ __forceinline__ void load_pieces(struct lane<A> *pieces, struct tensor logits,
                                                   size_t at, size_t n, size_t end)
{
#pragma unroll
    for (int d = 0; d < N; d++)
        if (n + d < end)
            pieces[d] = lane_load<A>(logits, at + (n + d) * THREADS * lane<A>::COUNT);
}

template <int N, enum access A>
static __device__ __forceinline__ struct partial join_pieces(struct partial mine,
                                                             const struct lane<A> *pieces, size_t n,
                                                             size_t end)
{
    float x[lane<A>::COUNT];
#pragma unroll
    for (int d = 0; d < N; d++)
        if (n + d < end) {
            lane_widen(x, pieces[d]);
            mine = join_piece<lane<A>::COUNT>(mine, x);
        }
    return mine;
}

struct slope {
    float largest, factor, scale;
    size_t target;
};

// The gradient of one piece, elements i..i + COUNT of the row.
template <enum access A>
static __device__ __forceinline__ void store_gradient(const struct cross_entropy *a,
                                                      struct lane<A> piece, size_t row, size_t i,
                                                      struct slope s)
{
    float x[lane<A>::COUNT];
    lane_widen(x, piece);
#pragma unroll
    for (int j = 0; j < lane<A>::COUNT; j++)
        x[j] = expf(x[j] - s.largest) * s.factor - (i + j == s.target ? s.scale : 0.0f);
    lane_store<A>(a->logits, row * a->vocabulary + i, x);
}

// The first EARLY pieces of a thread stay in registers, the next `held` ones in shared memory, the
// rest is read again.
template <enum access A>
static __global__ void __launch_bounds__(THREADS)
    cross_entropy_kernel(struct cross_entropy a, unsigned held)
{
    enum { COUNT = lane<A>::COUNT, STEP = THREADS * COUNT };
    CUDA_SHARED(float, largest, WARPS);
    CUDA_SHARED(float, sums, WARPS);
    CUDA_SHARED_DYNAMIC(struct lane<A>, kept);
    const size_t row = blockIdx.x, target = (size_t)a.targets[row], first = threadIdx.x * COUNT;
    const size_t at = row * a.vocabulary + first;
    const size_t end = first < a.vocabulary ? (a.vocabulary - first + STEP - 1) / STEP : 0;
    struct lane<A> early[EARLY], pieces[DEPTH];
    load_pieces<EARLY, A>(early, a.logits, at, 0, end);
    struct partial mine = join_pieces<EARLY, A>({-INFINITY, 0}, early, 0, end);
    for (size_t n = EARLY; n < end; n += DEPTH) {
        load_pieces<DEPTH, A>(pieces, a.logits, at, n, end);
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (n + d < end && n + d - EARLY < held)
                kept[(n + d - EARLY) * THREADS + threadIdx.x] = pieces[d];
        mine = join_pieces<DEPTH, A>(mine, pieces, n, end);
    }
    const struct partial all = join_block(mine, largest, sums);
    // The largest logit and the logarithm are never added: large logits would swallow it.
    if (threadIdx.x == 0)
        a.losses[row] = all.largest - load(a.logits, row * a.vocabulary + target) + logf(all.sum);
    if (!a.backward)
        return;
    __syncthreads(); // the target's logit has been read
    const struct slope slope = {all.largest, a.grad_scale / all.sum, a.grad_scale, target};
#pragma unroll
    for (int d = 0; d < EARLY; d++)
        if ((size_t)d < end)
            store_gradient<A>(&a, early[d], row, first + d * STEP, slope);
    for (size_t n = EARLY; n < end && n - EARLY < held; n++) {
        const struct lane<A> piece = kept[(n - EARLY) * THREADS + threadIdx.x];
        store_gradient<A>(&a, piece, row, first + n * STEP, slope);
    }
    for (size_t n = EARLY + held; n < end; n += DEPTH) {
        load_pieces<DEPTH, A>(pieces, a.logits, at, n, end);
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (n + d < end)
                store_gradient<A>(&a, pieces[d], row, first + (n + d) * STEP, slope);
    }
}

template <enum access A> static void launch(struct device *device, const struct cross_entropy *a)
{
    const size_t piece_bytes = THREADS * sizeof(struct lane<A>);
    const size_t room = cuda_of(device)->properties.sharedMemPerBlockOptin - STATIC_BYTES;
    const size_t pieces = blocks_of(a->vocabulary, THREADS * lane<A>::COUNT);
    const size_t wanted = a->backward && pieces > EARLY ? pieces - EARLY : 0;
    const size_t held = wanted < room / piece_bytes ? wanted : room / piece_bytes;
    (void)cudaFuncSetAttribute(cross_entropy_kernel<A>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               (int)(held * piece_bytes));
    CUDA_LAUNCH(cross_entropy_kernel<A>, (unsigned)a->rows, THREADS, held * piece_bytes,
                cuda_of(device)->stream, *a, (unsigned)held);
}

void cuda_cross_entropy(struct device *device, const struct cross_entropy *a)
{
    if (a->rows == 0)
        return;
    switch (access_of(&a->logits, 1, a->vocabulary)) {
    case ACCESS_BF16:
        launch<ACCESS_BF16>(device, a);
        break;
    case ACCESS_F32:
        launch<ACCESS_F32>(device, a);
        break;
    default:
        launch<ACCESS_ANY>(device, a);
    }
    cuda_launched(device, "cross_entropy");
}
