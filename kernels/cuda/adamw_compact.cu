// SPDX-License-Identifier: Apache-2.0
// AdamW on few bits: see kernels/ref/adamw_compact.c.
// A warp takes a block of scales, a lane two times four neighbours of it: ten loads are under way,
// 80 bytes a lane with bf16 weights and 8-bit moments. The new scale is the largest of the block,
// which only its warp needs; codes are found through tables in shared memory (moment_code.h), so
// blocks of threads stay and take one block of scales after another. Where a block of scales is
// cut, or nothing begins at a multiple of 16 bytes, a block of threads takes it, one thread an
// element. Of each element gradient, parameter and moments are read and all but the gradient
// written: 4 + 2 (2 + 2 + 1 + 1) = 16 bytes with bf16 weights and 8-bit moments, 14 with bf16
// gradients.
#include "kernels/cuda/adamw.h"

enum {
    THREADS = MOMENT_BLOCK,
    WARPS = THREADS / WARP,
    PARTS = 2, // of a block of scales: a lane takes four elements of each
    COUNT = 4,
    BLOCKS_PER_PROCESSOR = 4,
};

static __device__ __forceinline__ bf16 round_stochastically(float value, uint32_t random)
{
    return {(uint16_t)((__float_as_uint(value) + (random & 0xffffu)) >> 16)};
}

// --- codes ---

// Both moments' tables, one behind the other.
struct tables {
    shared_pointer<float> values, middles; // [2][256]
    shared_pointer<unsigned> cells;        // [2][sizeof moment_code.cells / 4], four codes each
};

enum { CELL_WORDS = sizeof(((struct moment_code *)0)->cells) / 4 };

static __device__ void copy_tables(const struct tables *tables, const struct moment_code *codes)
{
    for (int which = 0; which < 2; which++) {
        for (int i = threadIdx.x; i < 256; i += THREADS) {
            tables->values[which * 256 + i] = codes[which].values[i];
            tables->middles[which * 256 + i] = codes[which].middles[i];
        }
        for (int i = threadIdx.x; i < CELL_WORDS; i += THREADS)
            tables->cells[which * CELL_WORDS + i] = ((const unsigned *)codes[which].cells)[i];
    }
    __syncthreads();
}

// As moment_encode. which 0: the first moment, with a sign; 1: the second, never 0 above 0.
static __device__ __forceinline__ unsigned encode(const struct tables *tables, int which, float x)
{
    const float size = fabsf(x);
    const int cell = (int)(__float_as_uint(size) >> MOMENT_CELL_SHIFT) - MOMENT_CELL_FIRST;
    const int inside = cell < 0 ? 0 : cell < MOMENT_CELLS ? cell : MOMENT_CELLS - 1;
    const unsigned word = tables->cells[which * CELL_WORDS + inside / 4];
    unsigned code = word >> inside % 4 * 8 & 0xff;
    code += size > tables->middles[which * 256 + code];
    if (which == 1)
        return code == 0 && size > 0 ? 1 : code;
    return x < 0 ? 128 + code : code;
}

// Numbers over the largest of them, by a product: where its inverse would be infinite all are
// lifted.
struct unit {
    float lift, inverse;
};

static __device__ __forceinline__ struct unit unit_of(float largest)
{
    const float lift = largest < 0x1p-60f ? 0x1p80f : 1;
    return {lift, largest > 0 ? 1 / (largest * lift) : 0};
}

static __device__ __forceinline__ float in_units(float x, struct unit unit)
{
    return x * unit.lift * unit.inverse;
}

// --- four neighbours' moments ---

template <enum moment_kind K> struct moments {
    uint4 bits;
};
template <> struct moments<MOMENTS_BF16> {
    uint2 bits;
};
template <> struct moments<MOMENTS_8BIT> {
    unsigned bits;
};

template <enum moment_kind K>
static __device__ __forceinline__ struct moments<K> load_moments(const void *all, size_t i) {
    return ((const struct moments<K> *)all)[i / COUNT];
}

static __device__ __forceinline__ void
widen(float *out, struct moments<MOMENTS_F32> from, const struct tables *, int, float)
{
    lane_widen(out, (struct lane<ACCESS_F32>){from.bits});
}

static __device__ __forceinline__ void widen(float *out, struct moments<MOMENTS_BF16> from,
                                             const struct tables *, int, float)
{
    lane_widen(out, (struct lane<ACCESS_BF16_SHORT>){from.bits});
}

static __device__ __forceinline__ void widen(float *out, struct moments<MOMENTS_8BIT> from,
                                             const struct tables *tables, int which, float scale)
{
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        out[j] = tables->values[which * 256 + (from.bits >> 8 * j & 0xff)] * scale;
}

// --- the master weight ---

template <enum access P> struct master {
    struct lane<ACCESS_BF16_SHORT> upper, remainder;
};
template <> struct master<ACCESS_F32> {
    struct lane<ACCESS_F32> value;
};

static __device__ __forceinline__ unsigned half_of(struct lane<ACCESS_BF16_SHORT> four, int j)
{
    return (j < 2 ? four.bits.x : four.bits.y) >> 16 * (j % 2) & 0xffff;
}

static __device__ __forceinline__ void load_master(struct master<ACCESS_F32> *out,
                                                   const struct adamw_compact *a, size_t i)
{
    out->value = lane_load<ACCESS_F32>(a->parameter, i);
}

static __device__ __forceinline__ void load_master(struct master<ACCESS_BF16_SHORT> *out,
                                                   const struct adamw_compact *a, size_t i)
{
    out->upper = lane_load<ACCESS_BF16_SHORT>(a->parameter, i);
    out->remainder = lane_load<ACCESS_BF16_SHORT>({a->remainder, DTYPE_BF16}, i);
}

static __device__ __forceinline__ void widen_master(float *out, struct master<ACCESS_F32> from)
{
    lane_widen(out, from.value);
}

static __device__ __forceinline__ void widen_master(float *out,
                                                    struct master<ACCESS_BF16_SHORT> from)
{
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        out[j] = __uint_as_float(
            master_bits((uint16_t)half_of(from.upper, j), (int16_t)half_of(from.remainder, j)));
}

template <enum access P>
static __device__ __forceinline__ void store_master(const struct adamw_compact *a, size_t i,
                                                    const float *values)
{
    if constexpr (P == ACCESS_F32) {
        lane_store<ACCESS_F32>(a->parameter, i, values);
    } else {
        unsigned upper[COUNT], rest[COUNT];
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            upper[j] = master_upper(__float_as_uint(values[j]));
            rest[j] = (uint16_t)master_remainder(__float_as_uint(values[j]));
        }
        ((uint2 *)a->parameter.data)[i / COUNT] = {upper[1] << 16 | upper[0],
                                                   upper[3] << 16 | upper[2]};
        ((uint2 *)a->remainder)[i / COUNT] = {rest[1] << 16 | rest[0], rest[3] << 16 | rest[2]};
    }
}

// --- a block of scales by a warp ---

template <enum moment_kind K>
static __device__ __forceinline__ void store_moments(const struct adamw_compact *a,
                                                     const struct tables *, size_t i,
                                                     const float *m, const float *v, struct unit,
                                                     struct unit)
{
    if constexpr (K == MOMENTS_F32) {
        lane_store<ACCESS_F32>({a->moment1, DTYPE_F32}, i, m);
        lane_store<ACCESS_F32>({a->moment2, DTYPE_F32}, i, v);
    } else {
        unsigned rounded[COUNT];
#pragma unroll
        for (int j = 0; j < COUNT; j++)
            rounded[j] = round_stochastically(v[j], moment_random(a->first + i + j, a->step)).bits;
        lane_store<ACCESS_BF16_SHORT>({a->moment1, DTYPE_BF16}, i, m);
        ((uint2 *)a->moment2)[i / COUNT] = {rounded[1] << 16 | rounded[0],
                                            rounded[3] << 16 | rounded[2]};
    }
}

template <>
__device__ __forceinline__ void store_moments<MOMENTS_8BIT>(const struct adamw_compact *a,
                                                            const struct tables *tables, size_t i,
                                                            const float *m, const float *v,
                                                            struct unit unit1, struct unit unit2)
{
    unsigned codes1 = 0, codes2 = 0;
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        codes1 |= encode(tables, 0, in_units(m[j], unit1)) << 8 * j;
        codes2 |= encode(tables, 1, in_units(v[j], unit2)) << 8 * j;
    }
    ((unsigned *)a->moment1)[i / COUNT] = codes1;
    ((unsigned *)a->moment2)[i / COUNT] = codes2;
}

static __device__ __forceinline__ float largest_of_warp(const float x[PARTS][COUNT])
{
    float largest = 0;
#pragma unroll
    for (int p = 0; p < PARTS; p++)
#pragma unroll
        for (int j = 0; j < COUNT; j++)
            largest = fmaxf(largest, fabsf(x[p][j]));
    return warp_max(largest);
}

template <enum moment_kind K, enum access P, enum access G>
static __device__ __forceinline__ void step_block(const struct adamw_compact *a,
                                                  const struct adamw_factors *factors,
                                                  const struct tables *tables, size_t block)
{
    const size_t first =
        block * MOMENT_BLOCK - a->first % MOMENT_BLOCK + threadIdx.x % WARP * COUNT;
    const bool coded = K == MOMENTS_8BIT;
    struct master<P> masters[PARTS];
    struct moments<K> moments1[PARTS], moments2[PARTS];
    struct lane<G> grads[PARTS];
    float p[COUNT], g[COUNT], m[PARTS][COUNT], v[PARTS][COUNT];
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        const size_t i = first + part * WARP * COUNT;
        load_master(&masters[part], a, i);
        moments1[part] = load_moments<K>(a->moment1, i);
        moments2[part] = load_moments<K>(a->moment2, i);
        grads[part] = lane_load<G>(a->grad, i);
    }
    const float scale1 = coded ? a->scale1[block] : 0, scale2 = coded ? a->scale2[block] : 0;
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        widen_master(p, masters[part]);
        lane_widen(g, grads[part]);
        widen(m[part], moments1[part], tables, 0, scale1);
        widen(v[part], moments2[part], tables, 1, scale2);
#pragma unroll
        for (int j = 0; j < COUNT; j++)
            adamw_element(factors, g[j], p + j, m[part] + j, v[part] + j);
        store_master<P>(a, first + part * WARP * COUNT, p);
    }
    const float largest1 = coded ? largest_of_warp(m) : 0,
                largest2 = coded ? largest_of_warp(v) : 0;
    const struct unit unit1 = unit_of(largest1), unit2 = unit_of(largest2);
#pragma unroll
    for (int part = 0; part < PARTS; part++)
        store_moments<K>(a, tables, first + part * WARP * COUNT, m[part], v[part], unit1, unit2);
    if (coded && threadIdx.x % WARP == 0) {
        a->scale1[block] = largest1;
        a->scale2[block] = largest2;
    }
}

// Blocks of scales begin..end, all of them whole.
template <enum moment_kind K, enum access P, enum access G>
static __global__ void __launch_bounds__(THREADS, BLOCKS_PER_PROCESSOR)
    adamw_compact_kernel(struct adamw_compact a, struct adamw_factors factors,
                         const struct moment_code *codes, size_t begin, size_t end)
{
    CUDA_SHARED(float, values, 2 * 256);
    CUDA_SHARED(float, middles, 2 * 256);
    CUDA_SHARED(unsigned, cells, 2 * CELL_WORDS);
    const struct tables tables = {values, middles, cells};
    if (K == MOMENTS_8BIT)
        copy_tables(&tables, codes);
    for (size_t block = begin + blockIdx.x * WARPS + threadIdx.x / WARP; block < end;
         block += gridDim.x * WARPS)
        step_block<K, P, G>(&a, &factors, &tables, block);
}

// --- a block of scales that is cut, or not aligned, by a block of threads ---

static __device__ __forceinline__ float load_moment(const void *values, enum moment_kind kind,
                                                    const struct tables *tables, int which,
                                                    float scale, size_t i)
{
    if (kind == MOMENTS_F32)
        return ((const float *)values)[i];
    if (kind == MOMENTS_BF16)
        return bf16_widen(((const bf16 *)values)[i]);
    return tables->values[which * 256 + ((const uint8_t *)values)[i]] * scale;
}

static __device__ __forceinline__ float load_one(const struct adamw_compact *a, size_t i)
{
    if (!a->remainder)
        return ((const float *)a->parameter.data)[i];
    return __uint_as_float(master_bits(((const uint16_t *)a->parameter.data)[i], a->remainder[i]));
}

static __device__ __forceinline__ void store_one(const struct adamw_compact *a, size_t i,
                                                 float value)
{
    if (!a->remainder) {
        ((float *)a->parameter.data)[i] = value;
        return;
    }
    ((uint16_t *)a->parameter.data)[i] = master_upper(__float_as_uint(value));
    a->remainder[i] = master_remainder(__float_as_uint(value));
}

// The largest magnitude of the block, for all its threads.
static __device__ float block_largest(float value, shared_pointer<float> slots)
{
    value = warp_max(fabsf(value));
    if (threadIdx.x % WARP == 0)
        slots[threadIdx.x / WARP] = value;
    __syncthreads();
    float largest = 0;
    for (int w = 0; w < WARPS; w++)
        largest = fmaxf(largest, slots[w]);
    return largest;
}

static __global__ void adamw_compact_any_kernel(struct adamw_compact a,
                                                struct adamw_factors factors,
                                                const struct moment_code *codes, size_t begin)
{
    CUDA_SHARED(float, slots1, WARPS);
    CUDA_SHARED(float, slots2, WARPS);
    CUDA_SHARED(float, values, 2 * 256);
    CUDA_SHARED(float, middles, 2 * 256);
    CUDA_SHARED(unsigned, cells, 2 * CELL_WORDS);
    const struct tables tables = {values, middles, cells};
    const bool coded = a.moments == MOMENTS_8BIT;
    // Threads are the elements of a block of the whole model; the first and last may be cut.
    const size_t skipped = a.first % MOMENT_BLOCK, block = begin + blockIdx.x;
    const size_t place = block * MOMENT_BLOCK + threadIdx.x;
    const bool mine = place >= skipped && place - skipped < a.count;
    const size_t i = mine ? place - skipped : 0;
    float m = 0, v = 0;
    if (coded)
        copy_tables(&tables, codes);
    if (mine) {
        float p = load_one(&a, i);
        m = load_moment(a.moment1, a.moments, &tables, 0, coded ? a.scale1[block] : 0, i);
        v = load_moment(a.moment2, a.moments, &tables, 1, coded ? a.scale2[block] : 0, i);
        adamw_element(&factors, load(a.grad, i), &p, &m, &v);
        store_one(&a, i, p);
    }
    if (coded) {
        const float largest1 = block_largest(m, slots1), largest2 = block_largest(v, slots2);
        if (mine) {
            ((uint8_t *)a.moment1)[i] = (uint8_t)encode(&tables, 0, in_units(m, unit_of(largest1)));
            ((uint8_t *)a.moment2)[i] = (uint8_t)encode(&tables, 1, in_units(v, unit_of(largest2)));
        }
        if (threadIdx.x == 0) {
            a.scale1[block] = largest1;
            a.scale2[block] = largest2;
        }
    } else if (mine && a.moments == MOMENTS_F32) {
        ((float *)a.moment1)[i] = m;
        ((float *)a.moment2)[i] = v;
    } else if (mine) {
        ((bf16 *)a.moment1)[i] = bf16_round(m);
        ((bf16 *)a.moment2)[i] = round_stochastically(v, moment_random(a.first + i, a.step));
    }
}

// --- launches ---

struct step {
    const struct adamw_compact *a;
    struct adamw_factors factors;
    const struct moment_code *codes;
};

static void launch_any(struct device *device, const struct step *s, size_t begin, size_t end)
{
    if (begin < end)
        CUDA_LAUNCH(adamw_compact_any_kernel, (unsigned)(end - begin), THREADS, 0,
                    cuda_of(device)->stream, *s->a, s->factors, s->codes, begin);
}

template <enum moment_kind K, enum access P, enum access G>
static void launch(struct device *device, const struct step *s, size_t begin, size_t end)
{
    const unsigned wanted = blocks_of(end - begin, WARPS);
    const unsigned most =
        BLOCKS_PER_PROCESSOR * (unsigned)cuda_of(device)->properties.multiProcessorCount;
    CUDA_LAUNCH((adamw_compact_kernel<K, P, G>), wanted < most ? wanted : most, THREADS, 0,
                cuda_of(device)->stream, *s->a, s->factors, s->codes, begin, end);
}

template <enum moment_kind K>
static void launch_whole(struct device *device, const struct step *s, size_t begin, size_t end)
{
    if (begin >= end)
        return;
    const bool short_grads = s->a->grad.dtype == DTYPE_BF16;
    if (s->a->remainder && short_grads)
        launch<K, ACCESS_BF16_SHORT, ACCESS_BF16_SHORT>(device, s, begin, end);
    else if (s->a->remainder)
        launch<K, ACCESS_BF16_SHORT, ACCESS_F32>(device, s, begin, end);
    else if (short_grads)
        launch<K, ACCESS_F32, ACCESS_BF16_SHORT>(device, s, begin, end);
    else
        launch<K, ACCESS_F32, ACCESS_F32>(device, s, begin, end);
}

// Whether four neighbours of each array begin at a multiple of their size.
static bool is_aligned(const struct adamw_compact *a)
{
    const size_t moment = a->moments == MOMENTS_F32 ? 16 : a->moments == MOMENTS_BF16 ? 8 : 4;
    return a->first % COUNT == 0 && (uintptr_t)a->parameter.data % (a->remainder ? 8 : 16) == 0 &&
           (uintptr_t)a->remainder % 8 == 0 && (uintptr_t)a->moment1 % moment == 0 &&
           (uintptr_t)a->moment2 % moment == 0 &&
           (uintptr_t)a->grad.data % (a->grad.dtype == DTYPE_BF16 ? 8 : 16) == 0;
}

void cuda_adamw_compact(struct device *device, const struct adamw_compact *a)
{
    if (a->count == 0)
        return;
    const struct step s = {a, adamw_factors_of(a), cuda_of(device)->codes};
    const size_t blocks = moment_blocks(a->first, a->count);
    const bool cut_first = a->first % MOMENT_BLOCK != 0;
    const bool cut_last = (a->first + a->count) % MOMENT_BLOCK != 0;
    size_t begin = cut_first ? 1 : 0, end = blocks - (cut_last ? 1 : 0);
    if (!is_aligned(a) || begin >= end)
        begin = end = blocks;
    launch_any(device, &s, 0, begin);
    if (a->moments == MOMENTS_8BIT)
        launch_whole<MOMENTS_8BIT>(device, &s, begin, end);
    else if (a->moments == MOMENTS_BF16)
        launch_whole<MOMENTS_BF16>(device, &s, begin, end);
    else
        launch_whole<MOMENTS_F32>(device, &s, begin, end);
    launch_any(device, &s, end, blocks);
    cuda_launched(device, "adamw_compact");
}
