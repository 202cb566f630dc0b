// SPDX-License-Identifier: Apache-2.0
// Draws the next token of every row: see kernels/ref/sample.c; sums are of integers, so that the
// order of threads and blocks changes nothing.
// Idea: three launches. Blocks that take CHUNK logits each find the largest of a row; the same ones
// turn logits into weights, which stay in the L2 cache, and count and add these by binade (2^b up
// to 2^(b + 1)); then a block a row picks. Where top_k or top_p choose, sums by binade say in which
// one the last weight lies that stays, and its other bits are found eight at a time by counting the
// tokens of that binade; then which of its equals stay, and the draw itself, by sums of chunks.
// Bytes: a row's 4 V of logits are read twice and its 4 V of weights are written once by all
// multiprocessors; one multiprocessor reads these once (temperature alone) to six times: 6 us each
// time for 152,064 logits at 64 bytes a clock, some 40 us in all with top_p, beside a step of 14
// ms.
#include "kernels/cuda/cuda.h"

#include "kernels/sample_weight.h"

enum {
    THREADS = 256, // that take a chunk
    WARPS = THREADS / WARP,
    CHUNK = 4096,
    CHUNKS_LIMIT = 1024, // of a row
    BINADES = SAMPLE_BITS + 1,
    PICK_THREADS = CHUNK / 4, // each takes four tokens of the chunk that is looked through
    PICK_WARPS = PICK_THREADS / WARP,
    DEPTH = 4,
    DIGIT_BITS = 8,
    DIGITS = 1 << DIGIT_BITS,
    HALF_BITS = 15, // of a weight: sums of a warp's halves of weights fit 32 bits
};

typedef unsigned long long word;

// The lowest token that has the largest logit; -1: none has a value.
struct top {
    float logit;
    int token;
};

// Of the rows of a launch.
struct scratch {
    word *masses;     // [rows, chunks, BINADES] sums of weights
    unsigned *counts; // [rows, chunks, BINADES]
    struct top *tops; // [rows, chunks]
    int32_t *weights; // [rows, chunks, CHUNK]
    unsigned chunks;
};

static __device__ __forceinline__ struct top higher(struct top a, struct top b)
{
    if (b.token >= 0 &&
        (a.token < 0 || b.logit > a.logit || (b.logit == a.logit && b.token < a.token)))
        return b;
    return a;
}

static __device__ struct top highest_of_warp(struct top mine)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        const struct top other = {__shfl_xor_sync(0xffffffffu, mine.logit, lanes),
                                  __shfl_xor_sync(0xffffffffu, mine.token, lanes)};
        mine = higher(mine, other);
    }
    return mine;
}

// --- logits of a chunk ---

template <enum access A> struct part {
    enum { COUNT = lane<A>::COUNT, PIECES = CHUNK / (THREADS * COUNT) };
    float logits[PIECES][COUNT]; // -infinity where masked or behind the last
};

template <enum access A> static __device__ __forceinline__ size_t token_of(int piece, int j)
{
    return (size_t)blockIdx.x * CHUNK + (piece * THREADS + threadIdx.x) * lane<A>::COUNT + j;
}

// The bits of tokens i, i + 1..., which lie in one word.
static __device__ __forceinline__ uint64_t bits_from(const struct sample *a, int32_t row, size_t i)
{
    return a->bits[(size_t)row * ((a->vocabulary + 63) / 64) + i / 64] >> i % 64;
}

template <enum access A>
static __device__ __forceinline__ void load_part(struct part<A> *out, const struct sample *a,
                                                 const struct sample_row *row)
{
    struct lane<A> pieces[part<A>::PIECES];
#pragma unroll
    for (int n = 0; n < part<A>::PIECES; n++)
        if (token_of<A>(n, 0) < a->vocabulary)
            pieces[n] = lane_load<A>(a->logits, blockIdx.y * a->vocabulary + token_of<A>(n, 0));
#pragma unroll
    for (int n = 0; n < part<A>::PIECES; n++) {
        const size_t i = token_of<A>(n, 0);
        const bool there = i < a->vocabulary;
        const uint64_t allowed = there && row->mask >= 0 ? bits_from(a, row->mask, i) : ~0ull;
        const uint64_t seen =
            there && row->seen >= 0 && row->penalty != 0 ? bits_from(a, row->seen, i) : 0;
        if (there)
            lane_widen(out->logits[n], pieces[n]);
#pragma unroll
        for (int j = 0; j < part<A>::COUNT; j++) {
            float *logit = &out->logits[n][j];
            if (!there || !(allowed >> j & 1))
                *logit = -INFINITY;
            else if (seen >> j & 1)
                *logit = sample_penalise(*logit, row->penalty);
        }
    }
}

template <enum access A>
static __global__ void __launch_bounds__(THREADS)
    sample_top_kernel(struct sample a, struct scratch s)
{
    CUDA_SHARED(float, logits, WARPS);
    CUDA_SHARED(int, tokens, WARPS);
    struct part<A> part;
    struct top mine = {-INFINITY, -1};
    load_part<A>(&part, &a, &a.rows[blockIdx.y]);
#pragma unroll
    for (int n = 0; n < part.PIECES; n++)
#pragma unroll
        for (int j = 0; j < part.COUNT; j++)
            if (part.logits[n][j] > mine.logit)
                mine = {part.logits[n][j], (int)token_of<A>(n, j)};
    mine = highest_of_warp(mine);
    if (threadIdx.x % WARP == 0) {
        logits[threadIdx.x / WARP] = mine.logit;
        tokens[threadIdx.x / WARP] = mine.token;
    }
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    for (int w = 1; w < WARPS; w++)
        mine = higher(mine, {logits[w], tokens[w]});
    s.tops[blockIdx.y * s.chunks + blockIdx.x] = mine;
}

// --- weights of a chunk ---

// The largest of a row; every warp finds it.
static __device__ struct top top_of_row(const struct scratch *s, size_t row)
{
    struct top mine = {-INFINITY, -1};
    for (unsigned c = threadIdx.x % WARP; c < s->chunks; c += WARP)
        mine = higher(mine, s->tops[row * s->chunks + c]);
    return highest_of_warp(mine);
}

// Sums of a warp by binade: how many, and the lower and upper halves of their weights.
struct sums {
    shared_pointer<unsigned> counts, lower, upper; // [WARPS, WARP]
};

static __device__ __forceinline__ void add_weight(const struct sums *sums, int32_t weight)
{
    const int at = threadIdx.x / WARP * WARP + (31 - __clz(weight));
    atomicAdd(sums->counts + at, 1u);
    atomicAdd(sums->lower + at, (unsigned)weight & ((1u << HALF_BITS) - 1));
    atomicAdd(sums->upper + at, (unsigned)weight >> HALF_BITS);
}

static __device__ void write_sums(const struct sums *sums, const struct scratch *s)
{
    const size_t at = ((size_t)blockIdx.y * s->chunks + blockIdx.x) * BINADES + threadIdx.x;
    unsigned count = 0;
    word mass = 0;
    if (threadIdx.x >= BINADES)
        return;
    for (int w = 0; w < WARPS; w++) {
        count += sums->counts[w * WARP + threadIdx.x];
        mass += ((word)sums->upper[w * WARP + threadIdx.x] << HALF_BITS) +
                sums->lower[w * WARP + threadIdx.x];
    }
    s->counts[at] = count;
    s->masses[at] = mass;
}

template <enum access A>
static __global__ void __launch_bounds__(THREADS)
    sample_weigh_kernel(struct sample a, struct scratch s)
{
    CUDA_SHARED(unsigned, counts, THREADS);
    CUDA_SHARED(unsigned, lower, THREADS);
    CUDA_SHARED(unsigned, upper, THREADS);
    const struct sums sums = {counts, lower, upper};
    const struct sample_row row = a.rows[blockIdx.y];
    const struct top top = top_of_row(&s, blockIdx.y);
    int32_t *weights = s.weights + (size_t)blockIdx.y * s.chunks * CHUNK;
    if (top.token < 0 || row.scale == 0) { // nothing to draw
        if (blockIdx.x == 0 && threadIdx.x == 0)
            a.out[blockIdx.y] = top.token < 0 ? 0 : top.token;
        return;
    }
    counts[threadIdx.x] = 0;
    lower[threadIdx.x] = 0;
    upper[threadIdx.x] = 0;
    __syncthreads();
    struct part<A> part;
    load_part<A>(&part, &a, &row);
#pragma unroll
    for (int n = 0; n < part.PIECES; n++) {
        float bits[part.COUNT];
#pragma unroll
        for (int j = 0; j < part.COUNT; j++) {
            const float x = sample_exponent(part.logits[n][j], top.logit, row.scale);
            const int32_t weight = token_of<A>(n, j) < a.vocabulary ? sample_weight(x) : 0;
            bits[j] = __int_as_float(weight);
            if (weight > 0)
                add_weight(&sums, weight);
        }
        lane_store<A == ACCESS_ANY ? ACCESS_ANY : ACCESS_F32>({weights, DTYPE_F32},
                                                              token_of<A>(n, 0), bits);
    }
    __syncthreads();
    write_sums(&sums, &s);
}

// --- one block picks ---

// Tokens heavier than `weight`, and those of that weight up to `token`.
struct bound {
    int32_t weight, token;
};

static __device__ __forceinline__ bool inside(struct bound bound, int32_t weight, int32_t token)
{
    return weight > bound.weight || (weight == bound.weight && token <= bound.token);
}

struct drawing {
    struct sample_row row;
    const int32_t *weights; // of the row
    unsigned chunks;
    shared_pointer<word> masses; // [DIGITS], of binades and then of digits
    shared_pointer<unsigned> counts;
    shared_pointer<word> sums;   // [CHUNKS_LIMIT] of chunks
    shared_pointer<word> warps;  // [PICK_WARPS]
    shared_pointer<word> answer; // [4], of one thread to all
};

static __device__ __forceinline__ word warp_add(word value)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, lanes);
    return value;
}

// Four weights of a chunk.
static __device__ __forceinline__ void load_weights(int32_t out[4], const struct drawing *d,
                                                    size_t token)
{
    const uint4 bits = *(const uint4 *)(d->weights + token);
    out[0] = (int32_t)bits.x;
    out[1] = (int32_t)bits.y;
    out[2] = (int32_t)bits.z;
    out[3] = (int32_t)bits.w;
}

// Calls visit(weight) for all, DEPTH loads under way in each thread.
template <typename Visit>
static __device__ __forceinline__ void each_weight(const struct drawing *d, Visit visit)
{
    for (unsigned first = 0; first < d->chunks; first += DEPTH) {
        int32_t weights[DEPTH][4];
#pragma unroll
        for (int n = 0; n < DEPTH; n++)
            if (first + n < d->chunks)
                load_weights(weights[n], d, (size_t)(first + n) * CHUNK + threadIdx.x * 4);
#pragma unroll
        for (int n = 0; n < DEPTH; n++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (first + n < d->chunks)
                    visit(weights[n][j]);
    }
}

// sums[chunk] = sum of value(weight, token); a warp takes a chunk. Returns the sum of all.
template <typename Value> static __device__ word sum_chunks(const struct drawing *d, Value value)
{
    for (unsigned chunk = threadIdx.x / WARP; chunk < d->chunks; chunk += PICK_WARPS) {
        const int32_t begin = (int32_t)(chunk * CHUNK + threadIdx.x % WARP * 4);
        word sum = 0;
        for (int first = 0; first < CHUNK; first += DEPTH * WARP * 4) {
            int32_t weights[DEPTH][4];
#pragma unroll
            for (int n = 0; n < DEPTH; n++)
                load_weights(weights[n], d, (size_t)begin + first + n * WARP * 4);
#pragma unroll
            for (int n = 0; n < DEPTH; n++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sum += value(weights[n][j], begin + first + n * WARP * 4 + j);
        }
        sum = warp_add(sum);
        if (threadIdx.x % WARP == 0)
            d->sums[chunk] = sum;
    }
    __syncthreads();
    word sum = 0;
    for (unsigned chunk = threadIdx.x % WARP; chunk < d->chunks; chunk += WARP)
        sum += d->sums[chunk];
    return warp_add(sum);
}

// In which chunk the running sum of what sum_chunks left passes `point`; *left is the rest there.
static __device__ unsigned find_chunk(const struct drawing *d, word point, word *left)
{
    if (threadIdx.x == 0) {
        unsigned chunk = 0;
        for (word sum = d->sums[0]; chunk + 1 < d->chunks && point >= sum; sum = d->sums[chunk]) {
            point -= sum;
            chunk++;
        }
        d->answer[0] = chunk;
        d->answer[1] = point;
    }
    __syncthreads();
    const unsigned chunk = (unsigned)d->answer[0];
    *left = d->answer[1];
    __syncthreads();
    return chunk;
}

// The sum of what the threads before this one have.
static __device__ word sum_before(const struct drawing *d, word mine)
{
    const unsigned lane = threadIdx.x % WARP;
    word sum = mine;
    for (int lanes = 1; lanes < WARP; lanes *= 2) {
        const word other = __shfl_up_sync(0xffffffffu, sum, lanes);
        sum += lane >= (unsigned)lanes ? other : 0;
    }
    if (lane == WARP - 1)
        d->warps[threadIdx.x / WARP] = sum;
    __syncthreads();
    for (unsigned w = 0; w < threadIdx.x / WARP; w++)
        sum += d->warps[w];
    return sum - mine;
}

// The token at which the running sum of value(weight, token) passes `point`, after sum_chunks.
template <typename Value>
static __device__ int32_t find_token(const struct drawing *d, word point, Value value)
{
    const unsigned chunk = find_chunk(d, point, &point);
    const int32_t first = (int32_t)(chunk * CHUNK + threadIdx.x * 4);
    int32_t weights[4];
    word mine = 0;
    load_weights(weights, d, first);
#pragma unroll
    for (int j = 0; j < 4; j++)
        mine += value(weights[j], first + j);
    const word before = sum_before(d, mine);
    if (point >= before && point - before < mine) {
        word left = point - before;
        int j = 0;
        for (; j < 3 && left >= value(weights[j], first + j); j++)
            left -= value(weights[j], first + j);
        d->answer[2] = (word)(first + j);
    }
    __syncthreads();
    const int32_t token = (int32_t)d->answer[2];
    __syncthreads();
    return token;
}

// Whether so many tokens, or so much weight, are enough.
struct goal {
    word top_k; // 0: the weight counts
    double wanted;
};

static __device__ __forceinline__ bool enough(struct goal goal, word count, word mass)
{
    return goal.top_k ? count >= goal.top_k : (double)mass >= goal.wanted;
}

// Which digit, with what lies above it, reaches the goal first from above; DIGITS / WARP digits a
// lane. -1: none does.
struct choice {
    int digit;
    word above_count, above_mass, count;
};

static __device__ struct choice choose_digit(const struct drawing *d, struct goal goal,
                                             struct choice last)
{
    enum { EACH = DIGITS / WARP };
    if (threadIdx.x < 4)
        d->answer[threadIdx.x] = threadIdx.x == 0 ? (word)DIGITS : 0;
    __syncthreads();
    if (threadIdx.x < WARP) {
        const int top = DIGITS - 1 - (int)threadIdx.x * EACH;
        word count = 0, mass = 0;
        for (int i = 0; i < EACH; i++) {
            count += d->counts[top - i];
            mass += d->masses[top - i];
        }
        word above_count = last.above_count, above_mass = last.above_mass;
        for (int lane = 0; lane < WARP - 1; lane++) {
            const word other_count = __shfl_sync(0xffffffffu, count, lane);
            const word other_mass = __shfl_sync(0xffffffffu, mass, lane);
            above_count += lane < (int)threadIdx.x ? other_count : 0;
            above_mass += lane < (int)threadIdx.x ? other_mass : 0;
        }
        const bool here = !enough(goal, above_count, above_mass) &&
                          enough(goal, above_count + count, above_mass + mass);
        for (int i = 0; i < EACH && here; i++) {
            const word own_count = d->counts[top - i], own_mass = d->masses[top - i];
            if (enough(goal, above_count + own_count, above_mass + own_mass)) {
                d->answer[0] = (word)(top - i);
                d->answer[1] = above_count;
                d->answer[2] = above_mass;
                d->answer[3] = own_count;
                break;
            }
            above_count += own_count;
            above_mass += own_mass;
        }
    }
    __syncthreads();
    const int digit = (int)d->answer[0];
    const struct choice choice = {digit < DIGITS ? digit : -1, d->answer[1], d->answer[2],
                                  d->answer[3]};
    __syncthreads();
    return choice;
}

static __device__ void clear_digits(const struct drawing *d)
{
    for (int i = threadIdx.x; i < DIGITS; i += PICK_THREADS) {
        d->counts[i] = 0;
        d->masses[i] = 0;
    }
    __syncthreads();
}

// counts and masses of the row's binades, from those of its chunks; a warp takes a binade.
static __device__ void sum_binades(const struct drawing *d, const struct scratch *s)
{
    const unsigned binade = threadIdx.x / WARP;
    clear_digits(d);
    if (binade < BINADES) {
        word count = 0, mass = 0;
        for (unsigned c = threadIdx.x % WARP; c < s->chunks; c += WARP) {
            const size_t at = ((size_t)blockIdx.x * s->chunks + c) * BINADES + binade;
            count += s->counts[at];
            mass += s->masses[at];
        }
        count = warp_add(count);
        mass = warp_add(mass);
        if (threadIdx.x % WARP == 0) {
            d->counts[binade] = (unsigned)count;
            d->masses[binade] = mass;
        }
    }
    __syncthreads();
}

// The first top_k tokens, or with top_k 0 the fewest whose weights reach what is wanted.
static __device__ struct bound find_bound(const struct drawing *d, const struct scratch *s,
                                          struct goal goal)
{
    sum_binades(d, s);
    struct choice choice = choose_digit(d, goal, {0, 0, 0, 0});
    if (choice.digit < 0) // all that weigh anything
        return {1, INT32_MAX};
    int32_t prefix = 1;
    for (int shift = choice.digit; shift > 0;) {
        const int before = shift, bits = shift < DIGIT_BITS ? shift : DIGIT_BITS;
        shift -= bits;
        clear_digits(d);
        each_weight(d, [=](int32_t weight) {
            if (weight >> before != prefix)
                return;
            const int digit = weight >> shift & ((1 << bits) - 1);
            atomicAdd(d->counts + digit, 1u);
            atomicAdd(d->masses + digit, (word)weight);
        });
        __syncthreads();
        choice = choose_digit(d, goal, choice);
        prefix = prefix << bits | choice.digit;
    }
    word equals = goal.top_k ? goal.top_k - choice.above_count : 1;
    if (!goal.top_k && goal.wanted > (double)choice.above_mass)
        equals = (word)((goal.wanted - (double)choice.above_mass) / prefix);
    equals = equals > 1 ? equals - 1 : 1;
    while (!enough(goal, choice.above_count + equals, choice.above_mass + equals * (word)prefix))
        equals++;
    if (equals >= choice.count)
        return {prefix, INT32_MAX};
    const auto is_equal = [=](int32_t weight, int32_t) { return (word)(weight == prefix); };
    sum_chunks(d, is_equal);
    return {prefix, find_token(d, equals - 1, is_equal)};
}

static __device__ word mass_inside(const struct drawing *d, struct bound bound)
{
    return sum_chunks(d, [=](int32_t weight, int32_t token) {
        return inside(bound, weight, token) ? (word)weight : (word)0;
    });
}

static __device__ struct bound choose(const struct drawing *d, const struct scratch *s,
                                      size_t vocabulary)
{
    const struct sample_row *row = &d->row;
    const struct bound all = {1, INT32_MAX}, heavy = {sample_least(row->min_p), INT32_MAX};
    const bool counts = row->top_k > 0 && (size_t)row->top_k < vocabulary;
    struct bound bound = counts ? find_bound(d, s, {(word)row->top_k, 0}) : all;
    if (row->top_p > 0 && row->top_p < 1)
        bound = find_bound(d, s, {0, (double)mass_inside(d, bound) * (double)row->top_p});
    return bound.weight >= heavy.weight ? bound : heavy;
}

static __global__ void __launch_bounds__(PICK_THREADS)
    sample_pick_kernel(struct sample a, struct scratch s)
{
    CUDA_SHARED(word, masses, DIGITS);
    CUDA_SHARED(unsigned, counts, DIGITS);
    CUDA_SHARED(word, sums, CHUNKS_LIMIT);
    CUDA_SHARED(word, warps, PICK_WARPS);
    CUDA_SHARED(word, answer, 4);
    const struct drawing d = {a.rows[blockIdx.x],
                              s.weights + (size_t)blockIdx.x * s.chunks * CHUNK,
                              s.chunks,
                              masses,
                              counts,
                              sums,
                              warps,
                              answer};
    if (d.row.scale == 0 || top_of_row(&s, blockIdx.x).token < 0)
        return; // sample_weigh_kernel has answered
    const struct bound bound = choose(&d, &s, a.vocabulary);
    const auto weight_inside = [=](int32_t weight, int32_t token) {
        return inside(bound, weight, token) ? (word)weight : (word)0;
    };
    const word point = sample_point(d.row.random, sum_chunks(&d, weight_inside));
    const int32_t token = find_token(&d, point, weight_inside);
    if (threadIdx.x == 0)
        a.out[blockIdx.x] = token;
}

// --- launches ---

static size_t row_bytes(size_t chunks)
{
    return chunks * (BINADES * (sizeof(word) + sizeof(unsigned)) + sizeof(struct top) +
                     CHUNK * sizeof(int32_t));
}

static struct scratch scratch_of(struct device *device, size_t rows, size_t chunks)
{
    struct scratch s;
    s.weights = (int32_t *)cuda_of(device)->scratch;
    s.masses = (word *)(s.weights + rows * chunks * CHUNK);
    s.tops = (struct top *)(s.masses + rows * chunks * BINADES);
    s.counts = (unsigned *)(s.tops + rows * chunks);
    s.chunks = (unsigned)chunks;
    return s;
}

static void sample_rows(struct device *device, const struct sample *a)
{
    cudaStream_t stream = cuda_of(device)->stream;
    const size_t chunks = blocks_of(a->vocabulary, CHUNK);
    const struct scratch s = scratch_of(device, a->count, chunks);
    const dim3 grid((unsigned)chunks, (unsigned)a->count);
    if (access_of(&a->logits, 1, a->vocabulary) == ACCESS_F32) {
        CUDA_LAUNCH(sample_top_kernel<ACCESS_F32>, grid, THREADS, 0, stream, *a, s);
        CUDA_LAUNCH(sample_weigh_kernel<ACCESS_F32>, grid, THREADS, 0, stream, *a, s);
    } else {
        CUDA_LAUNCH(sample_top_kernel<ACCESS_ANY>, grid, THREADS, 0, stream, *a, s);
        CUDA_LAUNCH(sample_weigh_kernel<ACCESS_ANY>, grid, THREADS, 0, stream, *a, s);
    }
    CUDA_LAUNCH(sample_pick_kernel, (unsigned)a->count, PICK_THREADS, 0, stream, *a, s);
}

// As many rows at once as the scratch has room for.
void cuda_sample(struct device *device, const struct sample *a)
{
    const size_t chunks = blocks_of(a->vocabulary, CHUNK);
    assert(chunks <= CHUNKS_LIMIT);
    const size_t most = chunks ? SCRATCH_BYTES / row_bytes(chunks) : 0;
    for (size_t row = 0; row < a->count && most > 0; row += most) {
        struct sample some = *a;
        some.out = a->out + row;
        some.logits.data = (float *)a->logits.data + row * a->vocabulary;
        some.rows = a->rows + row;
        some.count = a->count - row < most ? a->count - row : most;
        sample_rows(device, &some);
    }
    cuda_launched(device, "sample");
}
