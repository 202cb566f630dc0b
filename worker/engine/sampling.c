// SPDX-License-Identifier: Apache-2.0
// A draw never sorts the vocabulary. Integer weights (sample_weight.h) replace the logits in one
// pass of vectors. Where top_k or top_p choose, weights are counted in buckets of an eighth of an
// octave, from which follows the bucket in which the choice ends; only tokens in it or above are
// collected and sorted. The token drawn is that of the operation `sample` (kernels/ref/sample.c),
// bit for bit.
#include "worker/engine/sampling.h"

#include "base/mem.h"
#include "base/random.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/simd.h"
#include "kernels/sample_weight.h"

#include <math.h>
#include <stdlib.h>

enum {
    CHUNK = 512,                     // weights whose sum is kept
    BUCKET_SHIFT = 20,               // of a float's bits: leaves exponent and three of mantissa
    BUCKET_FIRST = 127 << 3,         // that of weight 1
    BUCKETS = (SAMPLE_BITS + 1) * 8, // up to the largest weight
    DRAW_STREAM = 0x64726177,
};

struct candidate {
    int32_t weight, token;
};

// Of one thread.
struct scratch {
    uint64_t *sums;               // [chunks]
    struct candidate *candidates; // [vocabulary]
    uint64_t *seen;               // [(vocabulary + 63) / 64], all zero between draws
    uint32_t counts[BUCKETS];
    uint64_t masses[BUCKETS];
};

struct sampler {
    size_t vocabulary;
    struct pool *pool;
    int threads;
    struct scratch *scratch; // [threads]
    struct draw *draws;      // of the call in progress
};

const char *sampling_problem(const struct sampling *s)
{
    if (!(s->temperature >= 0) || !isfinite(s->temperature))
        return "temperature must be 0 or more";
    if (!(s->top_p >= 0 && s->top_p <= 1))
        return "top_p must be between 0 and 1";
    if (!(s->min_p >= 0 && s->min_p <= 1))
        return "min_p must be between 0 and 1";
    if (s->top_k < 0)
        return "top_k must be 0 or more";
    if (!(s->repetition_penalty >= 0) || !isfinite(s->repetition_penalty))
        return "repetition_penalty must be 0 or more";
    return "";
}

static void apply_mask(const struct draw *draw, size_t vocabulary)
{
    for (size_t base = 0; base < vocabulary; base += 64) {
        uint64_t word = draw->mask[base / 64];
        size_t end = vocabulary - base < 64 ? vocabulary - base : 64;
        for (size_t i = 0; i < end && ~word; i++)
            if (!(word >> i & 1))
                draw->logits[base + i] = -INFINITY;
    }
}

static void penalise(struct scratch *scratch, const struct draw *draw)
{
    float penalty = draw->sampling->repetition_penalty;
    if (penalty == 0 || penalty == 1)
        return;
    for (size_t i = 0; i < draw->seen_count; i++) {
        int32_t token = draw->seen[i];
        uint64_t bit = UINT64_C(1) << (token % 64);
        if (scratch->seen[token / 64] & bit)
            continue; // once each
        scratch->seen[token / 64] |= bit;
        float *logit = &draw->logits[token];
        *logit = sample_penalise(*logit, penalty);
    }
    for (size_t i = 0; i < draw->seen_count; i++)
        scratch->seen[draw->seen[i] / 64] = 0;
}

static float largest_of(const float *logits, size_t count)
{
    vf most = vf_set(-INFINITY);
    size_t i = 0;
    for (; i + VF_LANES <= count; i += VF_LANES)
        most = vf_max(vf_load(logits + i), most);
    float largest = vf_largest(most);
    for (; i < count; i++)
        largest = logits[i] > largest ? logits[i] : largest;
    return largest;
}

// The same for vectors.
static vi weigh_lanes(vf logits, float largest, float scale)
{
    const float series[SAMPLE_TERMS] = SAMPLE_SERIES;
    const vf x = vf_select(logits == largest, vf_set(0), (logits - largest) * scale);
    const vi counts = x > SAMPLE_LEAST;
    const vf y = vf_select(counts, x, vf_set(0)) * SAMPLE_LOG2_E;
    const vi n = __builtin_convertvector(y + -0.5f, vi);
    const vf f = y - __builtin_convertvector(n, vf);
    vf power = vf_set(series[0]);
    for (int i = 1; i < SAMPLE_TERMS; i++)
        power = power * f + series[i];
    const vf scaled = power * (vf)((n + (127 + SAMPLE_BITS)) << 23);
    return __builtin_convertvector(scaled + 0.5f, vi) & counts;
}

// Puts weights in the logits' place, smaller ones than `least` as 0, and adds them up by chunks.
static uint64_t weigh(float *logits, size_t count, float scale, int32_t least, uint64_t *sums)
{
    const float largest = largest_of(logits, count);
    uint64_t total = 0;
    for (size_t chunk = 0; chunk < count; chunk += CHUNK) {
        size_t end = count - chunk < CHUNK ? count : chunk + CHUNK;
        int32_t weights[CHUNK + VF_LANES];
        for (size_t i = chunk; i < end; i += VF_LANES) {
            size_t lanes = end - i < VF_LANES ? end - i : VF_LANES;
            vf value = vf_set(-INFINITY);
            memcpy(&value, logits + i, lanes * sizeof *logits);
            vi weight = weigh_lanes(value, largest, scale);
            weight &= weight >= least;
            memcpy(weights + (i - chunk), &weight, sizeof weight);
        }
        uint64_t sum = 0;
        for (size_t i = 0; i < end - chunk; i++)
            sum += (uint64_t)weights[i];
        memcpy(logits + chunk, weights, (end - chunk) * sizeof *weights);
        sums[chunk / CHUNK] = sum;
        total += sum;
    }
    return largest > -INFINITY ? total : 0;
}

// The sum of e^(x - largest).
static double sum_exponentials(const float *x, size_t count, float largest)
{
    double total = 0;
    for (size_t chunk = 0; chunk < count; chunk += CHUNK) {
        size_t end = count - chunk < CHUNK ? count : chunk + CHUNK;
        vf sum = vf_set(0);
        for (size_t i = chunk; i < end; i += VF_LANES) {
            size_t lanes = end - i < VF_LANES ? end - i : VF_LANES;
            vf value = vf_set(-INFINITY);
            memcpy(&value, x + i, lanes * sizeof *x);
            sum += vf_exp(value - largest);
        }
        total += vf_sum(sum);
    }
    return total;
}

static int32_t argmax(const float *logits, size_t count)
{
    float largest = largest_of(logits, count);
    size_t i = 0;
    if (!(largest > -INFINITY))
        return 0;
    while (i < count - 1 && logits[i] != largest)
        i++;
    return (int32_t)i;
}

// The token at which the running sum of weights passes `point`, which is below their sum.
static int32_t walk(const int32_t *weights, const uint64_t *sums, uint64_t point)
{
    size_t chunk = 0;
    while (point >= sums[chunk])
        point -= sums[chunk++];
    size_t i = chunk * CHUNK;
    while (point >= (uint64_t)weights[i])
        point -= (uint64_t)weights[i++];
    return (int32_t)i;
}

static uint32_t bucket_of(int32_t weight)
{
    const float value = (float)weight;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (bits >> BUCKET_SHIFT) - BUCKET_FIRST;
}

static void count_buckets(struct scratch *scratch, const int32_t *weights, size_t count)
{
    memset(scratch->counts, 0, sizeof scratch->counts);
    memset(scratch->masses, 0, sizeof scratch->masses);
    for (size_t i = 0; i < count; i++) {
        if (weights[i] == 0)
            continue;
        uint32_t bucket = bucket_of(weights[i]);
        scratch->counts[bucket]++;
        scratch->masses[bucket] += (uint64_t)weights[i];
    }
}

// The highest bucket such that it and those above hold top_k tokens, or the mass; 0 when all
// together do not.
static uint32_t last_bucket(const struct scratch *scratch, size_t top_k, double mass)
{
    size_t tokens = 0;
    uint64_t sum = 0;
    for (uint32_t bucket = BUCKETS - 1; bucket > 0; bucket--) {
        tokens += scratch->counts[bucket];
        sum += scratch->masses[bucket];
        if (top_k ? tokens >= top_k : (double)sum >= mass)
            return bucket;
    }
    return 0;
}

static int by_weight(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return (x->token > y->token) - (x->token < y->token);
}

static int by_token(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    return (x->token > y->token) - (x->token < y->token);
}

// The most probable tokens, sorted: at least top_k of them, or those that hold the mass.
static size_t collect(struct scratch *scratch, const int32_t *weights, size_t count, size_t top_k,
                      double mass)
{
    count_buckets(scratch, weights, count);
    const uint32_t bucket = last_bucket(scratch, top_k, mass);
    size_t found = 0;
    for (size_t i = 0; i < count; i++)
        if (weights[i] > 0 && bucket_of(weights[i]) >= bucket)
            scratch->candidates[found++] = (struct candidate){weights[i], (int32_t)i};
    qsort(scratch->candidates, found, sizeof *scratch->candidates, by_weight);
    return found;
}

static int32_t draw_chosen(struct scratch *scratch, const struct draw *draw, const int32_t *weights,
                           size_t vocabulary, uint64_t total)
{
    const struct sample_row row = draw_row(draw);
    size_t top_k = row.top_k > 0 && (size_t)row.top_k < vocabulary ? (size_t)row.top_k : 0;
    double top_p = row.top_p > 0 && row.top_p < 1 ? (double)row.top_p : 1;
    struct candidate *candidates = scratch->candidates;
    size_t count = collect(scratch, weights, vocabulary, top_k, (double)total * top_p), kept = 0;
    if (top_k > 0) {
        count = count < top_k ? count : top_k;
        total = 0;
        for (size_t i = 0; i < count; i++)
            total += (uint64_t)candidates[i].weight;
    }
    uint64_t sum = 0;
    const int32_t least = sample_least(row.min_p);
    while (kept < count && (kept == 0 || (double)sum < (double)total * top_p) &&
           candidates[kept].weight >= least)
        sum += (uint64_t)candidates[kept++].weight;
    qsort(candidates, kept, sizeof *candidates, by_token);
    uint64_t point = sample_point(row.random, sum);
    size_t i = 0;
    while (point >= (uint64_t)candidates[i].weight)
        point -= (uint64_t)candidates[i++].weight;
    return candidates[i].token;
}

struct sample_row draw_row(const struct draw *draw)
{
    const struct sampling *s = draw->sampling;
    return (struct sample_row){
        .random = random_u64(draw->seed, DRAW_STREAM, draw->index),
        .scale = s->temperature == 0 ? 0 : fminf(1 / s->temperature, 1e30f),
        .top_p = s->top_p,
        .min_p = s->min_p,
        .penalty = s->repetition_penalty,
        .top_k = s->top_k,
        .mask = -1,
        .seen = -1,
    };
}

static int32_t draw_token(struct scratch *scratch, const struct draw *draw, size_t vocabulary)
{
    const struct sampling *s = draw->sampling;
    if (s->temperature == 0)
        return argmax(draw->logits, vocabulary);
    const struct sample_row row = draw_row(draw);
    bool chooses = s->top_k > 0 || (s->top_p > 0 && s->top_p < 1);
    const uint64_t total = weigh(draw->logits, vocabulary, row.scale,
                                 chooses ? 1 : sample_least(s->min_p), scratch->sums);
    const int32_t *weights = (const int32_t *)(const void *)draw->logits;
    if (total == 0) // nothing but infinities
        return 0;
    if (chooses)
        return draw_chosen(scratch, draw, weights, vocabulary, total);
    return walk(weights, scratch->sums, sample_point(row.random, total));
}

static void run_draw(void *argument, size_t task, int thread)
{
    struct sampler *sampler = argument;
    struct scratch *scratch = &sampler->scratch[thread];
    struct draw *draw = &sampler->draws[task];
    size_t vocabulary = sampler->vocabulary;
    float *raw = NULL, largest = 0;
    double total = 1;
    if (draw->wants_logprob) {
        raw = mem_dup(draw->logits, vocabulary * sizeof *raw);
        largest = largest_of(raw, vocabulary);
        total = sum_exponentials(raw, vocabulary, largest);
    }
    if (draw->mask)
        apply_mask(draw, vocabulary);
    penalise(scratch, draw);
    draw->token = draw_token(scratch, draw, vocabulary);
    if (raw)
        draw->logprob = (float)((double)raw[draw->token] - largest - log(total));
    free(raw);
}

void sampler_draw(struct sampler *sampler, struct draw *draws, size_t count)
{
    sampler->draws = draws;
    pool_run(sampler->pool, count, run_draw, sampler);
}

int sampler_create(size_t vocabulary, int threads, struct sampler **out, struct error *err)
{
    *out = NULL;
    struct sampler *sampler = mem_calloc(1, sizeof *sampler);
    sampler->vocabulary = vocabulary;
    sampler->threads = threads;
    sampler->scratch = mem_calloc((size_t)threads, sizeof *sampler->scratch);
    for (int i = 0; i < threads; i++) {
        struct scratch *scratch = &sampler->scratch[i];
        scratch->sums = mem_calloc(vocabulary / CHUNK + 1, sizeof *scratch->sums);
        scratch->candidates = mem_calloc(vocabulary, sizeof *scratch->candidates);
        scratch->seen = mem_calloc((vocabulary + 63) / 64, sizeof *scratch->seen);
    }
    if (pool_create(threads, &sampler->pool, err)) {
        sampler_destroy(sampler);
        return -1;
    }
    *out = sampler;
    return 0;
}

void sampler_destroy(struct sampler *sampler)
{
    if (!sampler)
        return;
    if (sampler->pool)
        pool_destroy(sampler->pool);
    for (int i = 0; i < sampler->threads; i++) {
        free(sampler->scratch[i].sums);
        free(sampler->scratch[i].candidates);
        free(sampler->scratch[i].seen);
    }
    free(sampler->scratch);
    free(sampler);
}
