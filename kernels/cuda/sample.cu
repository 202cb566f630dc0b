// SPDX-License-Identifier: Apache-2.0
// Draws the next token of every row: see kernels/ref/sample.c; sums are of integers, so that the
// order of threads changes nothing.
// Idea: a block takes a row and reads its logits a few times (they stay in the L2 cache), weighing
// them anew each time. Where top_k or top_p choose, the last weight that stays is found digit by
// digit, eight bits at a time from the top, by counting tokens and adding weights of each digit;
// then which of its equals stay, and the draw itself, each thread knowing a run of tokens.
// Launch: one block of 512 threads a row. Bytes: 4 V a row and reading, of which memory sees one.
#include "kernels/cuda/cuda.h"

#include "kernels/sample_weight.h"

enum { THREADS = 512, WARPS = THREADS / WARP, DIGITS = 256, DIGIT_BITS = 8 };

typedef unsigned long long word;

// Tokens heavier than `weight`, and those of that weight up to `token`.
struct bound {
    int32_t weight, token;
};

struct drawing {
    const struct sample *a;
    struct sample_row row;
    size_t first; // of the row's logits
    float largest;
    shared_pointer<word> sums;   // [THREADS]
    shared_pointer<word> masses; // [DIGITS]
    shared_pointer<unsigned> counts;
    shared_pointer<word> answer; // [3], of one thread to all
};

static __device__ bool has_bit(const struct sample *a, int32_t row, size_t i)
{
    return a->bits[(size_t)row * ((a->vocabulary + 63) / 64) + i / 64] >> (i % 64) & 1;
}

static __device__ float adjusted(const struct drawing *d, size_t i)
{
    const float logit = load(d->a->logits, d->first + i);
    if (d->row.mask >= 0 && !has_bit(d->a, d->row.mask, i))
        return -INFINITY;
    return d->row.seen >= 0 && d->row.penalty != 0 && has_bit(d->a, d->row.seen, i)
               ? sample_penalise(logit, d->row.penalty)
               : logit;
}

static __device__ int32_t weight_of(const struct drawing *d, size_t i)
{
    return sample_weight(sample_exponent(adjusted(d, i), d->largest, d->row.scale));
}

// The largest, and the first token that has it (-1: none has a value).
static __device__ int32_t find_largest(struct drawing *d)
{
    float value = -INFINITY;
    int token = -1;
    for (size_t i = threadIdx.x; i < d->a->vocabulary; i += THREADS) {
        const float logit = adjusted(d, i);
        if (logit > value) {
            value = logit;
            token = (int)i;
        }
    }
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        const float other = __shfl_xor_sync(0xffffffffu, value, lanes);
        const int at = __shfl_xor_sync(0xffffffffu, token, lanes);
        if (at >= 0 && (token < 0 || other > value || (other == value && at < token))) {
            value = other;
            token = at;
        }
    }
    if (threadIdx.x % WARP == 0)
        d->sums[threadIdx.x / WARP] =
            token < 0 ? 0 : (word)__float_as_uint(value) << 32 | (unsigned)(token + 1);
    __syncthreads();
    for (int w = 0; w < WARPS; w++) {
        const word each = d->sums[w];
        const float other = __uint_as_float((unsigned)(each >> 32));
        const int at = (int)(unsigned)each - 1;
        if (at >= 0 && (token < 0 || other > value || (other == value && at < token))) {
            value = other;
            token = at;
        }
    }
    __syncthreads();
    d->largest = value;
    return token;
}

// The sum over all threads.
static __device__ word sum_all(const struct drawing *d, word mine)
{
    d->sums[threadIdx.x] = mine;
    __syncthreads();
    word sum = 0;
    if (threadIdx.x < WARP)
        for (int i = threadIdx.x; i < THREADS; i += WARP)
            sum += d->sums[i];
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    if (threadIdx.x == 0)
        d->answer[0] = sum;
    __syncthreads();
    sum = d->answer[0];
    __syncthreads();
    return sum;
}

static __device__ bool inside(struct bound bound, int32_t weight, size_t i)
{
    return weight > bound.weight || (weight == bound.weight && (int32_t)i <= bound.token);
}

static __device__ word mass_inside(const struct drawing *d, struct bound bound)
{
    word mine = 0;
    for (size_t i = threadIdx.x; i < d->a->vocabulary; i += THREADS) {
        const int32_t weight = weight_of(d, i);
        mine += inside(bound, weight, i) ? (word)weight : 0;
    }
    return sum_all(d, mine);
}

// Which tokens a thread has where their order counts.
static __device__ void run_of(const struct drawing *d, size_t *begin, size_t *end)
{
    const size_t each = (d->a->vocabulary + THREADS - 1) / THREADS;
    *begin = threadIdx.x * each;
    *end = *begin + each < d->a->vocabulary ? *begin + each : d->a->vocabulary;
}

// In whose run the running sum of what the threads have passes `point`; *left is the rest of it
// there.
static __device__ int find_run(const struct drawing *d, word mine, word point, word *left)
{
    d->sums[threadIdx.x] = mine;
    __syncthreads();
    if (threadIdx.x == 0) {
        int at = 0;
        while (at < THREADS - 1 && point >= d->sums[at])
            point -= d->sums[at++];
        d->answer[0] = (word)at;
        d->answer[1] = point;
    }
    __syncthreads();
    const int at = (int)d->answer[0];
    *left = d->answer[1];
    __syncthreads();
    return at;
}

// The token at which tokens of exactly this weight have been counted `wanted` times.
static __device__ int32_t nth_equal(const struct drawing *d, int32_t weight, word wanted)
{
    size_t begin, end;
    word mine = 0, left;
    run_of(d, &begin, &end);
    for (size_t i = begin; i < end; i++)
        mine += weight_of(d, i) == weight;
    if ((int)threadIdx.x == find_run(d, mine, wanted - 1, &left))
        for (size_t i = begin; i < end; i++)
            if (weight_of(d, i) == weight && left-- == 0)
                d->answer[2] = i;
    __syncthreads();
    const int32_t token = (int32_t)d->answer[2];
    __syncthreads();
    return token;
}

// Whether so many tokens, or so much weight, are enough.
static __device__ bool enough(word count, word mass, word top_k, double wanted)
{
    return top_k ? count >= top_k : (double)mass >= wanted;
}

// What one thread finds in the counts of a digit: its value, and what lies above it.
static __device__ void choose_digit(const struct drawing *d, word top_k, double wanted,
                                    word above_count, word above_mass)
{
    int digit = DIGITS - 1;
    for (; digit > 0; digit--) {
        const word count = above_count + d->counts[digit], mass = above_mass + d->masses[digit];
        if (enough(count, mass, top_k, wanted))
            break;
        above_count = count;
        above_mass = mass;
    }
    d->answer[0] = (word)digit;
    d->answer[1] = above_count;
    d->answer[2] = above_mass;
}

// The first top_k tokens, or with top_k 0 the fewest whose weights reach `wanted`.
static __device__ struct bound find_bound(const struct drawing *d, word top_k, double wanted)
{
    word above_count = 0, above_mass = 0;
    int32_t prefix = 0;
    for (int shift = SAMPLE_BITS + 2 - DIGIT_BITS; shift >= 0; shift -= DIGIT_BITS) {
        for (int i = threadIdx.x; i < DIGITS; i += THREADS) {
            d->counts[i] = 0;
            d->masses[i] = 0;
        }
        __syncthreads();
        for (size_t i = threadIdx.x; i < d->a->vocabulary; i += THREADS) {
            const int32_t weight = weight_of(d, i), digit = weight >> shift & (DIGITS - 1);
            // What has digit 0 is needed when all above is not enough, and then it is not counted.
            if (digit == 0 || (int64_t)weight >> (shift + DIGIT_BITS) != prefix)
                continue;
            atomicAdd(d->counts + digit, 1u);
            atomicAdd(d->masses + digit, (word)weight);
        }
        __syncthreads();
        if (threadIdx.x == 0)
            choose_digit(d, top_k, wanted, above_count, above_mass);
        __syncthreads();
        prefix = prefix << DIGIT_BITS | (int32_t)d->answer[0];
        above_count = d->answer[1];
        above_mass = d->answer[2];
        __syncthreads();
    }
    if (prefix == 0) // all that weigh anything
        return {1, INT32_MAX};
    word equals = top_k ? top_k - above_count : 1;
    if (!top_k && wanted > (double)above_mass)
        equals = (word)((wanted - (double)above_mass) / prefix);
    equals = equals > 1 ? equals - 1 : 1;
    while (!enough(above_count + equals, above_mass + equals * (word)prefix, top_k, wanted))
        equals++;
    return {prefix, nth_equal(d, prefix, equals)};
}

static __device__ struct bound choose(const struct drawing *d)
{
    const struct sample_row *row = &d->row;
    const struct bound all = {1, INT32_MAX}, heavy = {sample_least(row->min_p), INT32_MAX};
    const bool counts = row->top_k > 0 && (size_t)row->top_k < d->a->vocabulary;
    struct bound bound = counts ? find_bound(d, (word)row->top_k, 0) : all;
    if (row->top_p > 0 && row->top_p < 1)
        bound = find_bound(d, 0, (double)mass_inside(d, bound) * (double)row->top_p);
    return bound.weight >= heavy.weight ? bound : heavy;
}

static __device__ int32_t draw(const struct drawing *d, struct bound bound)
{
    size_t begin, end;
    word mine = 0, left;
    run_of(d, &begin, &end);
    for (size_t i = begin; i < end; i++) {
        const int32_t weight = weight_of(d, i);
        mine += inside(bound, weight, i) ? (word)weight : 0;
    }
    const word point = sample_point(d->row.random, sum_all(d, mine));
    if ((int)threadIdx.x == find_run(d, mine, point, &left))
        for (size_t i = begin; i < end; i++) {
            const int32_t weight = weight_of(d, i);
            if (!inside(bound, weight, i))
                continue;
            if (left < (word)weight) {
                d->answer[2] = i;
                break;
            }
            left -= (word)weight;
        }
    __syncthreads();
    return (int32_t)d->answer[2];
}

static __global__ void __launch_bounds__(THREADS) sample_kernel(struct sample a)
{
    CUDA_SHARED(word, sums, THREADS);
    CUDA_SHARED(word, masses, DIGITS);
    CUDA_SHARED(unsigned, counts, DIGITS);
    CUDA_SHARED(word, answer, 3);
    struct drawing d = {
        &a, a.rows[blockIdx.x], blockIdx.x * a.vocabulary, 0, sums, masses, counts, answer};
    int32_t token = find_largest(&d);
    if (token >= 0 && d.row.scale != 0)
        token = draw(&d, choose(&d));
    if (threadIdx.x == 0)
        a.out[blockIdx.x] = token < 0 ? 0 : token;
}

void cuda_sample(struct device *device, const struct sample *a)
{
    if (a->count == 0)
        return;
    CUDA_LAUNCH(sample_kernel, (unsigned)a->count, THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "sample");
}
