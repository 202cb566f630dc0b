// SPDX-License-Identifier: Apache-2.0
#include "worker/engine/sampling.h"

#include "base/mem.h"
#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct naive {
    double weight;
    int32_t token;
};

static int by_weight(const void *a, const void *b)
{
    const struct naive *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return (x->token > y->token) - (x->token < y->token);
}

// The definition in sampling.h, by sorting everything, in double.
static size_t naive_candidates(const struct draw *draw, size_t vocabulary, struct naive *out)
{
    const struct sampling *s = draw->sampling;
    double penalty = s->repetition_penalty, largest = -INFINITY, total = 0, sum = 0;
    for (size_t i = 0; i < vocabulary; i++) {
        double logit = draw->logits[i];
        bool masked = draw->mask && !(draw->mask[i / 64] >> (i % 64) & 1), seen = false;
        for (size_t j = 0; j < draw->seen_count; j++)
            seen = seen || draw->seen[j] == (int32_t)i;
        if (seen && penalty > 0)
            logit = logit > 0 ? logit / penalty : logit * penalty;
        out[i] = (struct naive){masked ? -INFINITY : logit / s->temperature, (int32_t)i};
        largest = fmax(largest, out[i].weight);
    }
    for (size_t i = 0; i < vocabulary; i++)
        out[i].weight = exp(out[i].weight - largest);
    qsort(out, vocabulary, sizeof *out, by_weight);
    size_t count = vocabulary, kept = 0;
    if (s->top_k > 0 && (size_t)s->top_k < count)
        count = (size_t)s->top_k;
    for (size_t i = 0; i < count; i++)
        total += out[i].weight;
    double top_p = s->top_p > 0 ? s->top_p : 1;
    while (kept < count && out[kept].weight > 0 && (kept == 0 || sum < top_p * total))
        sum += out[kept++].weight;
    while (kept > 1 && out[kept - 1].weight < s->min_p)
        kept--;
    return kept;
}

static void random_logits(float *out, size_t count, uint64_t seed, double deviation)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (float)(deviation * random_normal(seed, 1, i));
}

struct setting {
    struct sampling sampling;
    size_t vocabulary;
    double deviation;
    bool masked, seen;
};

static const struct setting settings[] = {
    {{.temperature = 1}, 300, 1, false, false},
    {{.temperature = 0.7f}, 5000, 3, false, false},
    {{.temperature = 1.5f, .min_p = 0.1f}, 1000, 2, false, false},
    {{.temperature = 1, .top_k = 1}, 1000, 2, false, false},
    {{.temperature = 1, .top_k = 40}, 3001, 2, false, false},
    {{.temperature = 1, .top_k = 100000}, 700, 1, false, false},
    {{.temperature = 1, .top_p = 0.9f}, 3000, 3, false, false},
    {{.temperature = 1, .top_p = 0.999999f}, 3000, 12, false, false},
    {{.temperature = 1.2f, .top_k = 50, .top_p = 0.8f, .min_p = 0.05f}, 2000, 2, true, true},
    {{.temperature = 1, .repetition_penalty = 1.5f}, 400, 2, true, true},
    {{.temperature = 1e-6f}, 400, 2, false, false},
    {{.temperature = 100, .top_p = 0.5f}, 2500, 1, false, false},
};

enum { SETTINGS = sizeof settings / sizeof *settings, DRAWS = 400, SEEN = 30 };

static void fill_mask(uint64_t *mask, size_t vocabulary)
{
    for (size_t w = 0; w < (vocabulary + 63) / 64; w++) // some words empty, some full
        mask[w] = w % 3 == 0 ? 0 : w % 3 == 1 ? ~UINT64_C(0) : random_u64(8, 2, w) | 1;
}

// Every draw lies in the naive set, and the frequencies are the naive probabilities (chi-square
// over the ten most probable, of which 5 are expected, and the rest: 30 of 10 degrees of freedom
// has probability 0.001).
static void draws_follow_the_definition(void **state)
{
    (void)state;
    for (size_t i = 0; i < SETTINGS; i++) {
        const struct setting *set = &settings[i];
        size_t n = set->vocabulary;
        struct error err;
        struct sampler *sampler;
        float *logits = mem_calloc(n, sizeof *logits), *work = mem_calloc(n, sizeof *work);
        uint64_t *mask = mem_calloc((n + 63) / 64, sizeof *mask);
        struct naive *naive = mem_calloc(n, sizeof *naive);
        size_t *hits = mem_calloc(n, sizeof *hits);
        int32_t seen[SEEN];
        random_logits(logits, n, i, set->deviation);
        fill_mask(mask, n);
        for (size_t j = 0; j < SEEN; j++)
            seen[j] = (int32_t)(random_u64(9, i, j) % n);
        struct draw draw = {.logits = logits,
                            .sampling = &set->sampling,
                            .mask = set->masked ? mask : NULL,
                            .seen = seen,
                            .seen_count = set->seen ? SEEN : 0};
        size_t count = naive_candidates(&draw, n, naive);
        assert_int_equal(sampler_create(n, 1, &sampler, &err), 0);
        for (uint64_t d = 0; d < DRAWS; d++) {
            memcpy(work, logits, n * sizeof *work);
            draw.logits = work;
            draw.seed = 5;
            draw.index = d;
            sampler_draw(sampler, &draw, 1);
            hits[draw.token]++;
        }
        double total = 0, chi = 0, rest = DRAWS;
        size_t inside = 0;
        for (size_t c = 0; c < count; c++) {
            total += naive[c].weight;
            inside += hits[naive[c].token];
        }
        assert_int_equal(inside, DRAWS);
        size_t rest_hits = DRAWS;
        for (size_t c = 0; c < count && c < 10; c++) {
            double expected = DRAWS * naive[c].weight / total, hit = hits[naive[c].token];
            if (expected < 5) // too few for the distribution of chi-square
                break;
            chi += (hit - expected) * (hit - expected) / expected;
            rest -= expected;
            rest_hits -= hits[naive[c].token];
        }
        if (rest >= 5)
            chi += ((double)rest_hits - rest) * ((double)rest_hits - rest) / rest;
        if (chi > 30)
            fail_msg("setting %zu: chi-square %.1f", i, chi);
        sampler_destroy(sampler);
        free(logits);
        free(work);
        free(mask);
        free(naive);
        free(hits);
    }
}

// The published order of steps, on numbers small enough to do by hand.
static void small_cases_are_as_by_hand(void **state)
{
    (void)state;
    static const struct {
        struct sampling sampling;
        float logits[4];
        uint64_t mask;
        int32_t seen;
        int32_t token; // the only one possible
    } cases[] = {
        {{.temperature = 0}, {1, 3, 3, 2}, 0, -1, 1},                     // the lowest of equals
        {{.temperature = 0}, {1, 3, 3, 2}, 9, -1, 3},                     // masked
        {{.repetition_penalty = 2}, {1, 3, 2.5f, 2}, 0, 1, 2},            // 3 / 2 < 2.5
        {{.repetition_penalty = 2}, {-5, -1, -1.5f, -9}, 0, 1, 2},        // -1 * 2 < -1.5
        {{.temperature = 1, .top_k = 1}, {1, 3, 3, 2}, 0, -1, 1},         // ties by token
        {{.temperature = 1, .top_p = 0.4f}, {0, 2, 0, 0}, 0, -1, 1},      // 0.71 alone
        {{.temperature = 1, .min_p = 0.5f}, {0, 2, 1, 0}, 0, -1, 1},      // e^-1 < 0.5
        {{.temperature = 0.01f}, {0.9f, 1, 0.5f, 0}, 0, -1, 1},           // e^-10
        {{.temperature = 1, .top_k = 3}, {-900, 0, -800, -700}, 0, -1, 1} // underflow
    };
    struct sampler *sampler;
    struct error err;
    assert_int_equal(sampler_create(4, 1, &sampler, &err), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (uint64_t seed = 0; seed < 50; seed++) {
            float logits[4];
            memcpy(logits, cases[i].logits, sizeof logits);
            struct draw draw = {.logits = logits,
                                .sampling = &cases[i].sampling,
                                .mask = cases[i].mask ? &cases[i].mask : NULL,
                                .seen = &cases[i].seen,
                                .seen_count = cases[i].seen >= 0,
                                .seed = seed};
            sampler_draw(sampler, &draw, 1);
            assert_int_equal(draw.token, cases[i].token);
        }
    sampler_destroy(sampler);
}

static void threads_and_neighbours_change_nothing(void **state)
{
    (void)state;
    enum { ROWS = 20, N = 1500 };
    static const struct sampling sampling = {
        .temperature = 1.1f, .top_p = 0.95f, .repetition_penalty = 1.2f};
    struct sampler *one, *three;
    struct error err;
    struct draw draws[ROWS];
    int32_t seen[ROWS], expected[ROWS];
    float *logits = mem_calloc(ROWS * N, sizeof *logits), *copy;
    random_logits(logits, ROWS * N, 3, 2);
    copy = mem_dup(logits, ROWS * N * sizeof *logits);
    assert_int_equal(sampler_create(N, 1, &one, &err), 0);
    assert_int_equal(sampler_create(N, 3, &three, &err), 0);
    for (size_t r = 0; r < ROWS; r++) {
        seen[r] = (int32_t)(r * 31);
        draws[r] = (struct draw){.logits = logits + r * N,
                                 .sampling = &sampling,
                                 .seen = seen,
                                 .seen_count = r,
                                 .seed = r,
                                 .index = 7,
                                 .wants_logprob = true};
        sampler_draw(one, &draws[r], 1);
        expected[r] = draws[r].token;
        draws[r].logits = copy + r * N;
    }
    sampler_draw(three, draws, ROWS);
    for (size_t r = 0; r < ROWS; r++)
        assert_int_equal(draws[r].token, expected[r]);
    sampler_destroy(one);
    sampler_destroy(three);
    free(logits);
    free(copy);
}

// Of the logits as they came, whatever mask and penalty.
static void logprob_is_the_models_own(void **state)
{
    (void)state;
    enum { N = 1000 };
    static const struct sampling sampling = {.temperature = 0.5f, .repetition_penalty = 2};
    struct sampler *sampler;
    struct error err;
    float logits[N], work[N];
    uint64_t mask[(N + 63) / 64];
    int32_t seen[N / 2];
    random_logits(logits, N, 11, 2);
    fill_mask(mask, N);
    for (int32_t i = 0; i < N / 2; i++)
        seen[i] = 2 * i;
    double total = 0;
    for (size_t i = 0; i < N; i++)
        total += exp(logits[i]);
    assert_int_equal(sampler_create(N, 1, &sampler, &err), 0);
    for (uint64_t seed = 0; seed < 50; seed++) {
        memcpy(work, logits, sizeof work);
        struct draw draw = {.logits = work,
                            .sampling = &sampling,
                            .mask = mask,
                            .seen = seen,
                            .seen_count = N / 2,
                            .seed = seed,
                            .wants_logprob = true};
        sampler_draw(sampler, &draw, 1);
        assert_true(fabs(draw.logprob - (logits[draw.token] - log(total))) < 1e-5);
    }
    sampler_destroy(sampler);
}

// The sampler and the operation that defines draws choose the same tokens.
static void draws_are_those_of_the_operation(void **state)
{
    (void)state;
    for (size_t i = 0; i < SETTINGS; i++) {
        const struct setting *set = &settings[i];
        const size_t n = set->vocabulary, words = (n + 63) / 64;
        struct error err;
        struct sampler *sampler;
        float *logits = mem_calloc(n, sizeof *logits), *work = mem_calloc(n, sizeof *work);
        uint64_t *bits = mem_calloc(2 * words, sizeof *bits); // mask, seen
        int32_t seen[SEEN], expected;
        random_logits(logits, n, i, set->deviation);
        fill_mask(bits, n);
        for (size_t j = 0; j < SEEN; j++) {
            seen[j] = (int32_t)(random_u64(9, i, j) % n);
            bits[words + (size_t)seen[j] / 64] |= UINT64_C(1) << (seen[j] % 64);
        }
        assert_int_equal(sampler_create(n, 1, &sampler, &err), 0);
        for (uint64_t d = 0; d < 60; d++) {
            struct draw draw = {.logits = work,
                                .sampling = &set->sampling,
                                .mask = set->masked ? bits : NULL,
                                .seen = seen,
                                .seen_count = set->seen ? SEEN : 0,
                                .seed = 6,
                                .index = d};
            struct sample_row row = draw_row(&draw);
            row.mask = set->masked ? 0 : -1;
            row.seen = set->seen ? 1 : -1;
            kernels_ref.sample(NULL, &(struct sample){.out = &expected,
                                                      .logits = {logits, DTYPE_F32},
                                                      .rows = &row,
                                                      .bits = bits,
                                                      .count = 1,
                                                      .vocabulary = n});
            memcpy(work, logits, n * sizeof *work);
            sampler_draw(sampler, &draw, 1);
            assert_int_equal(draw.token, expected);
        }
        sampler_destroy(sampler);
        free(logits);
        free(work);
        free(bits);
    }
}

static void senseless_fields_are_named(void **state)
{
    (void)state;
    assert_string_equal(sampling_problem(&(struct sampling){0}), "");
    assert_string_equal(
        sampling_problem(&(struct sampling){.temperature = 1, .top_p = 1, .min_p = 1, .top_k = 5}),
        "");
    static const struct {
        struct sampling sampling;
        const char *name;
    } cases[] = {{{.temperature = -1}, "temperature"},
                 {{.temperature = NAN}, "temperature"},
                 {{.top_p = 1.1f}, "top_p"},
                 {{.min_p = -0.1f}, "min_p"},
                 {{.top_k = -1}, "top_k"},
                 {{.repetition_penalty = INFINITY}, "rep"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_non_null(strstr(sampling_problem(&cases[i].sampling), cases[i].name));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_follow_the_definition),
        cmocka_unit_test(draws_are_those_of_the_operation),
        cmocka_unit_test(small_cases_are_as_by_hand),
        cmocka_unit_test(threads_and_neighbours_change_nothing),
        cmocka_unit_test(logprob_is_the_models_own),
        cmocka_unit_test(senseless_fields_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
