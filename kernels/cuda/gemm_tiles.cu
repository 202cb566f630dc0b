// SPDX-License-Identifier: Apache-2.0
// Our own matrix product by the tensor cores, out = x weight^T + bias + residual, for bf16 and for
// the eight-bit codes of fp8.h: for few rows, where only reading the weight matters, and for every
// number of rows where a row's bits may not depend on the others (PRODUCTS_INVARIANT).
//
// Idea: the weight is the operand of 16 rows of mma.sync, tokens are its 8 columns. A row of either
// is walked in chunks of 256 bytes, fetched by cp.async two chunks ahead; both lie in memory as
// Hugging Face stores them, so that nothing is packed. Bytes are what matters: an instruction takes
// 32 of each row, 16 bf16 or 32 codes, in the same registers.
//
// Few rows (split_kernel, up to 64): a block of four warps takes 64 rows of the weight and one part
// of the depth. How many parts there are depends on the weight's shape alone: as many as fill
// BLOCKS_WANTED blocks. Each stores its sums; the block that comes last adds those of all parts in
// ascending order, whichever block it is: no float atomics. 64 rows, because each block reads x as
// well, from the L2 cache: rows / 64 of the weight's bytes, at most a quarter at 16 rows.
// Many rows (whole_kernel): 128 rows of the weight x 128 tokens, a block of eight warps walks over
// all parts and adds their sums in the same order.
// So every result is the same chain of instructions: a part's steps of 32 bytes ascending, parts
// ascending, scale and bias, residual; whatever the number of rows and wherever a token stands.
//
// Bytes moved: the weight once. By Little's law a memory of 4.8 TB/s with a latency of 700 ns wants
// 3.4 MB in flight, 26 KB on each of 132 SMs; here are two chunks of 64 rows a block and three
// blocks an SM, 96 KB. Floors at 4.3 TB/s for Qwen2.5-32B: 17 us for the qkv projection (7168 x
// 5120), 12 for the output (5120 x 5120), 132 and 66 for the MLP's (55296 x 5120, 5120 x 27648),
// 362 for the head (152064 x 5120); half of that in codes. Every weight's blocks are on the SMs at
// once (320 to 396) but those of 55296 and 152064 rows, whose last wave is 1/3 and 1/7 of a block.
// Many rows: shared memory gives 128 bytes a clock, which is 24 clocks for the 16 instructions of
// a warp's step of 32 x 64 results; these take 25 at the 620 TFLOP/s that mma.sync is known to
// reach on Hopper, of wgmma's 990: at best half to two thirds of cuBLASLt's rate in prefill.
// Not measured on a GPU.
//
// Codes: on sm_90 ptxas makes of mma.m16n8k32 conversions to f16 and two HMMA with float32 sums:
// exact products, and none of the 14-bit sums of wgmma's.
#include "kernels/cuda/cuda.h"

enum {
    CHUNK = 128,         // words of two bytes of a row in a stage
    PITCH = CHUNK + 8,   // of rows in shared memory: eight of them fall into different banks
    STAGES = 3,          // chunks in shared memory
    STEP = 16,           // words of an instruction
    BLOCKS_WANTED = 396, // three on each SM of an H200
    PART_CHUNKS = 4,     // a part is not shorter, it would only wait for its first bytes
    SPLIT_ROWS_LIMIT = 64,
};

// One launch. Rows are counted in words: a bf16, or two codes.
struct tiles {
    struct gemm_call call;
    const bf16 *weight, *x;
    size_t words;
    unsigned chunks, parts;
    float *sums;        // [parts, m, n]
    unsigned *arrivals; // [tiles of rows], 0 between launches
};

template <int ROW_TILES_, int ROW_WARPS_, int TOKEN_TILES_, int TOKEN_WARPS_> struct tile_shape {
    enum {
        ROW_TILES = ROW_TILES_, // of 16, a warp's
        ROW_WARPS = ROW_WARPS_,
        TOKEN_TILES = TOKEN_TILES_, // of 8, a warp's
        WARPS = ROW_WARPS_ * TOKEN_WARPS_,
        ROWS = 16 * ROW_TILES_ * ROW_WARPS_,
        TOKENS = 8 * TOKEN_TILES_ * TOKEN_WARPS_,
        STAGE = (ROWS + TOKENS) * PITCH,
        RESULT_PITCH = ROWS + 4, // the rows and tokens of a warp's store fall into different banks
        BYTES = STAGES * STAGE * 2,
    };
};

template <int TOKENS>
using split_shape = tile_shape<1, 4, (TOKENS < 32 ? TOKENS / 8 : 4), (TOKENS < 64 ? 1 : 2)>;
// Codes are widened in registers, of which there are none left for 64 tokens a warp.
template <bool CODES> using whole_shape = tile_shape<2, 4, CODES ? 4 : 8, 2>;

static __device__ __forceinline__ unsigned part_begin(const struct tiles *a, unsigned part)
{
    return part * a->chunks / a->parts;
}

// What lies outside of weight and x counts as 0.
template <class S>
static __device__ __forceinline__ void fetch(const struct tiles *a, shared_pointer<bf16> stage,
                                             size_t row0, size_t token0, unsigned chunk)
{
#pragma unroll
    for (int i = threadIdx.x; i < (S::ROWS + S::TOKENS) * (CHUNK / 8); i += S::WARPS * WARP) {
        const int line = i / (CHUNK / 8), piece = i % (CHUNK / 8) * 8;
        const size_t word = (size_t)chunk * CHUNK + piece;
        const bool is_weight = line < S::ROWS;
        const size_t row = is_weight ? row0 + line : token0 + line - S::ROWS;
        const bool valid = word < a->words && row < (is_weight ? a->call.n : a->call.m);
        const bf16 *from = is_weight ? a->weight : a->x;
        async_copy8(stage + line * PITCH + piece, valid ? from + row * a->words + word : from,
                    valid);
    }
}

template <bool CODES>
static __device__ __forceinline__ void multiply(float sum[4], const uint32_t a[4], uint32_t b0,
                                                uint32_t b1)
{
    if (CODES)
        multiply_codes_16x8x32(sum, a, b0, b1);
    else
        multiply_16x8x16(sum, a, b0, b1);
}

// Steps come in twos, because four matrices of a token's words are loaded at once.
template <class S, bool CODES>
static __device__ __forceinline__ void multiply_chunk(float sum[S::ROW_TILES][S::TOKEN_TILES][4],
                                                      shared_pointer<bf16> stage)
{
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const shared_pointer<bf16> rows =
        stage + (warp % S::ROW_WARPS * 16 * S::ROW_TILES + lane % 16) * PITCH + lane / 16 * 8;
    const shared_pointer<bf16> tokens =
        stage + (S::ROWS + warp / S::ROW_WARPS * 8 * S::TOKEN_TILES + lane % 8) * PITCH +
        lane / 8 * 8;
#pragma unroll 2
    for (int word = 0; word < CHUNK; word += 2 * STEP) {
        uint32_t b[S::TOKEN_TILES][4];
#pragma unroll
        for (int t = 0; t < S::TOKEN_TILES; t++)
            load_matrices(b[t], tokens + (t * 8 * PITCH + word));
#pragma unroll
        for (int step = 0; step < 2; step++)
#pragma unroll
            for (int r = 0; r < S::ROW_TILES; r++) {
                uint32_t weight[4];
                load_matrices(weight, rows + (r * 16 * PITCH + word + step * STEP));
#pragma unroll
                for (int t = 0; t < S::TOKEN_TILES; t++)
                    multiply<CODES>(sum[r][t], weight, b[t][2 * step], b[t][2 * step + 1]);
            }
    }
}

// The block's sums as [token, row] in shared memory, so that neighbours in a row of the result are
// stored together.
template <class S>
static __device__ __forceinline__ void spread(const float sum[S::ROW_TILES][S::TOKEN_TILES][4])
{
    CUDA_SHARED_DYNAMIC(float, results);
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const int row0 = warp % S::ROW_WARPS * 16 * S::ROW_TILES + lane / 4;
    const int token0 = warp / S::ROW_WARPS * 8 * S::TOKEN_TILES + lane % 4 * 2;
    __syncthreads(); // the chunks are no longer needed
#pragma unroll
    for (int r = 0; r < S::ROW_TILES; r++)
#pragma unroll
        for (int t = 0; t < S::TOKEN_TILES; t++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                results[(token0 + t * 8 + i % 2) * S::RESULT_PITCH + row0 + r * 16 + i / 2 * 8] =
                    sum[r][t][i];
    __syncthreads();
}

// visit(sum, row, token) for each of the block's results that exist, after spread.
template <class S, class F>
static __device__ __forceinline__ void each_result(const struct tiles *a, size_t row0,
                                                   size_t token0, F visit)
{
    CUDA_SHARED_DYNAMIC(float, results);
    for (int i = threadIdx.x; i < S::ROWS * S::TOKENS; i += S::WARPS * WARP) {
        const size_t row = row0 + i % S::ROWS, token = token0 + i / S::ROWS;
        if (token >= a->call.m)
            return;
        if (row < a->call.n)
            visit(results[i / S::ROWS * S::RESULT_PITCH + i % S::ROWS], row, token);
    }
}

// The sum of all parts becomes the result; no two operations here can be contracted differently.
static __device__ __forceinline__ void finish(const struct gemm_call *call, float sum, size_t row,
                                              size_t token)
{
    const size_t at = token * call->n + row;
    const float scale = call->a_scales ? call->a_scales[token] * call->b_scales[row] : 1;
    sum = fmaf(sum, scale, call->bias.data ? load(call->bias, row) : 0);
    store(call->c, at, call->addend.data ? sum + load(call->addend, at) : sum);
}

// Chunks begin..end; ended(chunk) after each.
template <class S, bool CODES, class F>
static __device__ __forceinline__ void walk(const struct tiles *a, size_t row0, size_t token0,
                                            unsigned begin, unsigned end,
                                            float sum[S::ROW_TILES][S::TOKEN_TILES][4], F ended)
{
    CUDA_SHARED_DYNAMIC(bf16, stages);
    for (unsigned s = 0; s < STAGES - 1; s++) {
        if (begin + s < end)
            fetch<S>(a, stages + s * S::STAGE, row0, token0, begin + s);
        async_commit();
    }
    unsigned now = 0, next = STAGES - 1; // stages
    for (unsigned chunk = begin; chunk < end; chunk++) {
        async_wait<STAGES - 2>();
        __syncthreads(); // also: nobody reads the stage any more that is fetched into
        if (chunk + STAGES - 1 < end)
            fetch<S>(a, stages + next * S::STAGE, row0, token0, chunk + STAGES - 1);
        async_commit();
        multiply_chunk<S, CODES>(sum, stages + now * S::STAGE);
        ended(chunk);
        now = now + 1 < STAGES ? now + 1 : 0;
        next = next + 1 < STAGES ? next + 1 : 0;
    }
}

// Whether this block is the last of its rows' parts; what the others stored is then there.
static __device__ __forceinline__ bool is_last(const struct tiles *a)
{
    CUDA_SHARED(unsigned, before, 1);
    memory_fence();
    __syncthreads();
    if (threadIdx.x == 0) {
        before[0] = count_arrival(&a->arrivals[blockIdx.x]);
        if (before[0] == a->parts - 1)
            a->arrivals[blockIdx.x] = 0;
    }
    __syncthreads();
    memory_fence();
    return before[0] == a->parts - 1;
}

template <int TOKENS, bool CODES>
static __global__ void __launch_bounds__(split_shape<TOKENS>::WARPS *WARP, TOKENS <= 16 ? 3 : 2)
    gemm_split_kernel(struct tiles a)
{
    using S = split_shape<TOKENS>;
    const unsigned part = blockIdx.y;
    const size_t row0 = (size_t)blockIdx.x * S::ROWS, m = a.call.m, n = a.call.n;
    float sum[S::ROW_TILES][S::TOKEN_TILES][4] = {};
    walk<S, CODES>(&a, row0, 0, part_begin(&a, part), part_begin(&a, part + 1), sum,
                   [](unsigned) {});
    spread<S>(sum);
    if (a.parts > 1) {
        each_result<S>(&a, row0, 0, [&](float one, size_t row, size_t token) {
            a.sums[(part * m + token) * n + row] = one;
        });
        if (!is_last(&a))
            return;
    }
    each_result<S>(&a, row0, 0, [&](float one, size_t row, size_t token) {
        float all = 0;
        for (unsigned p = 0; p < a.parts; p++)
            all += a.parts > 1 ? load_shared_by_blocks(&a.sums[(p * m + token) * n + row]) : one;
        finish(&a.call, all, row, token);
    });
}

template <bool CODES>
static __global__ void __launch_bounds__(whole_shape<CODES>::WARPS *WARP)
    gemm_whole_kernel(struct tiles a)
{
    using S = whole_shape<CODES>;
    const size_t row0 = (size_t)blockIdx.y * S::ROWS, token0 = (size_t)blockIdx.x * S::TOKENS;
    float sum[S::ROW_TILES][S::TOKEN_TILES][4] = {}, all[S::ROW_TILES][S::TOKEN_TILES][4] = {};
    unsigned part = 1, boundary = part_begin(&a, 1);
    walk<S, CODES>(&a, row0, token0, 0, a.chunks, sum, [&](unsigned chunk) {
        if (chunk + 1 != boundary)
            return;
        boundary = part_begin(&a, ++part);
#pragma unroll
        for (int i = 0; i < S::ROW_TILES * S::TOKEN_TILES * 4; i++) {
            float *one = &sum[i / (S::TOKEN_TILES * 4)][i / 4 % S::TOKEN_TILES][i % 4];
            all[i / (S::TOKEN_TILES * 4)][i / 4 % S::TOKEN_TILES][i % 4] += *one;
            *one = 0;
        }
    });
    spread<S>(all);
    each_result<S>(&a, row0, token0,
                   [&](float one, size_t row, size_t token) { finish(&a.call, one, row, token); });
}

// --- launches ---

template <int TOKENS, bool CODES>
static void launch_split(struct device *device, const struct tiles *a)
{
    using S = split_shape<TOKENS>;
    (void)cudaFuncSetAttribute(gemm_split_kernel<TOKENS, CODES>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, (int)S::BYTES);
    CUDA_LAUNCH((gemm_split_kernel<TOKENS, CODES>), dim3(blocks_of(a->call.n, S::ROWS), a->parts),
                S::WARPS * WARP, S::BYTES, cuda_of(device)->stream, *a);
}

template <bool CODES> static void launch(struct device *device, const struct tiles *a)
{
    using S = whole_shape<CODES>;
    if (a->call.m <= 8)
        launch_split<8, CODES>(device, a);
    else if (a->call.m <= 16)
        launch_split<16, CODES>(device, a);
    else if (a->call.m <= 32)
        launch_split<32, CODES>(device, a);
    else if (a->call.m <= SPLIT_ROWS_LIMIT)
        launch_split<64, CODES>(device, a);
    else {
        (void)cudaFuncSetAttribute(gemm_whole_kernel<CODES>,
                                   cudaFuncAttributeMaxDynamicSharedMemorySize, (int)S::BYTES);
        CUDA_LAUNCH(gemm_whole_kernel<CODES>,
                    dim3(blocks_of(a->call.m, S::TOKENS), blocks_of(a->call.n, S::ROWS)),
                    S::WARPS * WARP, S::BYTES, cuda_of(device)->stream, *a);
    }
}

static size_t words_of(const struct gemm_call *call)
{
    return call->a_scales ? call->k / 2 : call->k;
}

static unsigned parts_of(size_t n, unsigned chunks)
{
    const unsigned rows = blocks_of(n, split_shape<8>::ROWS);
    const unsigned wanted = rows < BLOCKS_WANTED ? BLOCKS_WANTED / rows : 1;
    const unsigned longest = chunks / PART_CHUNKS > 0 ? chunks / PART_CHUNKS : 1;
    return wanted < longest ? wanted : longest;
}

static bool can_multiply(const struct device *device, const struct gemm_call *call)
{
    const struct cudaDeviceProp *gpu = &((const struct cuda_state *)device->state)->properties;
    const bool codes = call->a_scales != NULL;
    const bool types = codes ? gpu->major * 10 + gpu->minor >= 89
                             : call->a.dtype == DTYPE_BF16 && call->b.dtype == DTYPE_BF16;
    return types && !call->a_transposed && call->b_transposed && call->k > 0 &&
           call->k % (codes ? 16 : 8) == 0 && (uintptr_t)call->a.data % 16 == 0 &&
           (uintptr_t)call->b.data % 16 == 0;
}

int gemm_tiles_run(struct device *device, const struct gemm_call *call)
{
    if (!can_multiply(device, call))
        return -1;
    const unsigned chunks = blocks_of(words_of(call), CHUNK);
    const struct tiles a = {.call = *call,
                            .weight = (const bf16 *)call->b.data,
                            .x = (const bf16 *)call->a.data,
                            .words = words_of(call),
                            .chunks = chunks,
                            .parts = parts_of(call->n, chunks),
                            .sums = (float *)cuda_of(device)->scratch,
                            .arrivals = cuda_of(device)->arrivals};
    assert(a.parts == 1 || blocks_of(call->n, split_shape<8>::ROWS) <= ARRIVALS);
    assert(a.parts == 1 || a.parts * SPLIT_ROWS_LIMIT * a.call.n * sizeof(float) <= SCRATCH_BYTES);
    if (call->a_scales)
        launch<true>(device, &a);
    else
        launch<false>(device, &a);
    return 0;
}
