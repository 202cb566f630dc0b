// SPDX-License-Identifier: Apache-2.0
// A draw never sorts the vocabulary. Weights e^((logit - largest) / temperature) replace the logits
// in one pass of vectors. Where top_k or top_p choose, weights are counted in buckets of an eighth
// of an octave, from which follows the bucket in which the choice ends; only tokens in it or above
// are collected and sorted. Weights below 2^-24 are counted only when the others do not suffice.
#include "worker/engine/sampling.h"

#include "base/mem.h"
#include "base/random.h"
#include "kernels/cpu/pool.h"
#include "kernels/cpu/simd.h"

#include <math.h>
#include <stdlib.h>

enum {
    CHUNK = 512,       // weights whose sum is kept
    BUCKETS = 1017,    // of weights up to 1, by exponent and three bits of mantissa
    BUCKET_SHIFT = 20, // of a float's bits
    DRAW_STREAM = 0x64726177,
};

struct candidate {
    float weight;
    int32_t token;
};

// Of one thread.
struct scratch {
    double *sums;                 // [chunks]
    struct candidate *candidates; // [vocabulary]
    uint64_t *seen;               // [(vocabulary + 63) / 64], all zero between draws
    uint32_t counts[BUCKETS];
    double masses[BUCKETS];
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
        *logit = *logit > 0 ? *logit / penalty : *logit * penalty;
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

// e^((x - largest) scale), kept in out when that is not NULL, smaller ones than `least` as 0; sums
// of chunks.
static double weigh(const float *x, float *out, size_t count, float largest, float scale,
                    float least, double *sums)
{
    double total = 0;
    for (size_t chunk = 0; chunk < count; chunk += CHUNK) {
        size_t end = count - chunk < CHUNK ? count : chunk + CHUNK;
        vf sum = vf_set(0);
        for (size_t i = chunk; i < end; i += VF_LANES) {
            size_t lanes = end - i < VF_LANES ? end - i : VF_LANES;
            vf value = vf_set(-INFINITY);
            memcpy(&value, x + i, lanes * sizeof *x);
            vf weight = vf_exp((value - largest) * scale);
            weight = vf_select(weight >= least, weight, vf_set(0));
            sum += weight;
            if (out)
                vf_store_part(out + i, weight, lanes);
        }
        sums[chunk / CHUNK] = vf_sum(sum);
        total += sums[chunk / CHUNK];
    }
    return total;
}

static int32_t argmax(const float *logits, size_t count)
{
    float largest = largest_of(logits, count);
    size_t i = 0;
    while (i < count - 1 && logits[i] != largest)
        i++;
    return (int32_t)i;
}

// The token at which the running sum of weights passes `point`.
static int32_t walk(const float *weights, size_t count, const double *sums, double point)
{
    size_t chunk = 0, last = (count - 1) / CHUNK;
    while (chunk < last && point >= sums[chunk])
        point -= sums[chunk++];
    size_t chosen = SIZE_MAX;
    for (size_t i = chunk * CHUNK; i < count; i++) {
        if (weights[i] <= 0)
            continue;
        chosen = i;
        if (point < weights[i])
            break;
        point -= weights[i];
    }
    if (chosen == SIZE_MAX) // rounding led behind the last weight
        for (size_t i = 0; i < count; i++)
            chosen = weights[i] > 0 ? i : chosen;
    return (int32_t)chosen;
}

static uint32_t bucket_of(float weight)
{
    uint32_t bits;
    memcpy(&bits, &weight, sizeof bits);
    return bits >> BUCKET_SHIFT;
}

static void count_buckets(struct scratch *scratch, const float *weights, size_t count, float least)
{
    memset(scratch->counts, 0, sizeof scratch->counts);
    memset(scratch->masses, 0, sizeof scratch->masses);
    for (size_t i = 0; i < count; i++) {
        if (weights[i] < least || weights[i] == 0)
            continue;
        uint32_t bucket = bucket_of(weights[i]);
        scratch->counts[bucket]++;
        scratch->masses[bucket] += weights[i];
    }
}

// The highest bucket such that it and those above hold top_k tokens, or the mass; 0 when all
// together do not.
static uint32_t last_bucket(const struct scratch *scratch, size_t top_k, double mass)
{
    size_t tokens = 0;
    double sum = 0;
    for (uint32_t bucket = BUCKETS - 1; bucket > 0; bucket--) {
        tokens += scratch->counts[bucket];
        sum += scratch->masses[bucket];
        if (top_k ? tokens >= top_k : sum >= mass)
            return bucket;
    }
    return 0;
}

static int compare_candidates(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return (x->token > y->token) - (x->token < y->token);
}

// The most probable tokens, sorted: at least top_k of them, or those that hold the mass.
static size_t collect(struct scratch *scratch, const float *weights, size_t count, size_t top_k,
                      double mass)
{
    count_buckets(scratch, weights, count, 0x1p-24f);
    uint32_t bucket = last_bucket(scratch, top_k, mass);
    if (bucket == 0) {
        count_buckets(scratch, weights, count, 0);
        bucket = last_bucket(scratch, top_k, mass);
    }
    size_t found = 0;
    for (size_t i = 0; i < count; i++)
        if (weights[i] > 0 && bucket_of(weights[i]) >= bucket)
            scratch->candidates[found++] = (struct candidate){weights[i], (int32_t)i};
    qsort(scratch->candidates, found, sizeof *scratch->candidates, compare_candidates);
    return found;
}

static int32_t draw_chosen(struct scratch *scratch, const struct draw *draw, size_t vocabulary,
                           double total)
{
    const struct sampling *s = draw->sampling;
    size_t top_k = s->top_k > 0 && (size_t)s->top_k < vocabulary ? (size_t)s->top_k : 0;
    double top_p = s->top_p > 0 && s->top_p < 1 ? (double)s->top_p : 1;
    const struct candidate *candidates = scratch->candidates;
    size_t count = collect(scratch, draw->logits, vocabulary, top_k, total * top_p), kept = 0;
    if (top_k > 0) {
        count = count < top_k ? count : top_k;
        total = 0;
        for (size_t i = 0; i < count; i++)
            total += candidates[i].weight;
    }
    double sum = 0;
    while (kept < count && (kept == 0 || (top_p == 1 || sum < total * top_p)) &&
           candidates[kept].weight >= s->min_p)
        sum += candidates[kept++].weight;
    double point = random_uniform(draw->seed, DRAW_STREAM, draw->index) * sum;
    size_t i = 0;
    while (i + 1 < kept && point >= candidates[i].weight)
        point -= candidates[i++].weight;
    return candidates[i].token;
}

static int32_t draw_token(struct scratch *scratch, const struct draw *draw, size_t vocabulary)
{
    const struct sampling *s = draw->sampling;
    if (s->temperature == 0)
        return argmax(draw->logits, vocabulary);
    bool chooses = s->top_k > 0 || (s->top_p > 0 && s->top_p < 1);
    float largest = largest_of(draw->logits, vocabulary);
    double total = weigh(draw->logits, draw->logits, vocabulary, largest,
                         fminf(1 / s->temperature, 1e30f), chooses ? 0 : s->min_p, scratch->sums);
    if (chooses)
        return draw_chosen(scratch, draw, vocabulary, total);
    double point = random_uniform(draw->seed, DRAW_STREAM, draw->index) * total;
    return walk(draw->logits, vocabulary, scratch->sums, point);
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
        total = weigh(raw, NULL, vocabulary, largest, 1, 0, scratch->sums);
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
