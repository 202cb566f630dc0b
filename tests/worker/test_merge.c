// SPDX-License-Identifier: Apache-2.0
// The formulas of merging against plain float64 ones, on tensors.
#include "base/mem.h"
#include "base/random.h"
#include "worker/merge/merge.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MOST 1000
#define VECTORS 3

static float base[MOST], out[MOST], tau[VECTORS][MOST];
static const float *taus[VECTORS] = {tau[0], tau[1], tau[2]};
static const double weights[VECTORS] = {1, 0.5, 2.25};

// coarse: magnitudes of few values, so that there are many ties and exact zeros.
static void fill(uint64_t seed, size_t count, bool coarse)
{
    for (size_t i = 0; i < count; i++) {
        base[i] = (float)random_normal(seed, 100, i);
        for (size_t k = 0; k < VECTORS; k++) {
            const double x = random_normal(seed, k, i);
            tau[k][i] = (float)(coarse ? floor(2 * x) / 4 : x / 100);
        }
    }
}

// Whether vector k's element i is among the keep largest: fewer than keep come before it.
static bool is_kept(size_t k, size_t i, size_t count, size_t keep)
{
    size_t before = 0;
    for (size_t j = 0; j < count; j++)
        before +=
            fabsf(tau[k][j]) > fabsf(tau[k][i]) || (j < i && fabsf(tau[k][j]) == fabsf(tau[k][i]));
    return before < keep;
}

static double ties_reference(const struct merge_options *options, size_t i, size_t count)
{
    const size_t keep = (size_t)floor(options->density * (double)count);
    double elected = 0, sum = 0, weight = 0;
    bool kept[VECTORS];
    for (size_t k = 0; k < VECTORS; k++) {
        kept[k] = is_kept(k, i, count, keep);
        elected += kept[k] ? options->weights[k] * (double)tau[k][i] : 0;
    }
    for (size_t k = 0; k < VECTORS; k++) {
        const double x = options->weights[k] * (double)tau[k][i];
        if (kept[k] && x * elected > 0) {
            sum += x;
            weight += options->weights[k];
        }
    }
    return weight > 0 ? sum / weight : 0;
}

static double reference(const struct merge_options *options, size_t i, size_t count)
{
    double sum = 0, total = 0;
    for (size_t k = 0; k < VECTORS; k++) {
        sum += options->weights[k] * (double)tau[k][i];
        total += options->weights[k];
    }
    switch (options->method) {
    case MERGE_LINEAR:
        return base[i] + sum / total;
    case MERGE_TASK_ARITHMETIC:
        return base[i] + options->lambda * sum;
    case MERGE_TIES:
        return base[i] + options->lambda * ties_reference(options, i, count);
    }
    return NAN;
}

static void check(enum merge_method method, double lambda, double density)
{
    static const size_t sizes[] = {0, 1, 31, 33, MOST};
    const struct merge_options options = {
        .method = method, .weights = weights, .lambda = lambda, .density = density};
    for (uint64_t s = 0; s < 10; s++) {
        const size_t count = sizes[s / 2];
        fill(s, count, s % 2 == 1);
        merge_tensor(&options, out, base, taus, VECTORS, count);
        for (size_t i = 0; i < count; i++) {
            const float expected = (float)reference(&options, i, count);
            if (out[i] != expected)
                fail_msg("element %zu of %zu: %.9g, expected %.9g", i, count, (double)out[i],
                         (double)expected);
        }
    }
}

static void linear_is_the_weighted_mean(void **state)
{
    (void)state;
    check(MERGE_LINEAR, 0.37, 1); // lambda is not of this method
}

static void task_arithmetic_is_the_scaled_sum(void **state)
{
    (void)state;
    check(MERGE_TASK_ARITHMETIC, 1, 1);
    check(MERGE_TASK_ARITHMETIC, 0.37, 1);
    check(MERGE_TASK_ARITHMETIC, -1, 1);
}

static void ties_trims_elects_and_merges(void **state)
{
    (void)state;
    static const double densities[] = {0.001, 0.1, 0.3, 0.5, 0.999, 1};
    for (int d = 0; d < 6; d++)
        check(MERGE_TIES, d % 2 ? 1 : 0.7, densities[d]);
}

static void ties_keeps_the_lowest_index_among_equals(void **state)
{
    (void)state;
    const double one = 1;
    const struct merge_options options = {
        .method = MERGE_TIES, .weights = &one, .lambda = 1, .density = 0.5};
    const float zero[6] = {0}, t[6] = {1, -1, 2, 1, -1, 1}, expected[6] = {1, -1, 2, 0, 0, 0};
    const float *const one_tau[] = {t};
    float merged[6];
    merge_tensor(&options, merged, zero, one_tau, 1, 6);
    assert_memory_equal(merged, expected, sizeof(expected));
}

static void ties_with_opposite_signs_of_equal_weight_merges_nothing(void **state)
{
    (void)state;
    const double equal[] = {1, 1};
    const struct merge_options options = {
        .method = MERGE_TIES, .weights = equal, .lambda = 1, .density = 1};
    const float zero[3] = {0}, a[3] = {1, 2, -1}, b[3] = {-1, -1, -3}, expected[3] = {0, 2, -2};
    const float *const pair[] = {a, b};
    float merged[3];
    merge_tensor(&options, merged, zero, pair, 2, 3);
    assert_memory_equal(merged, expected, sizeof(expected));
}

// tau = tuned - base is rounded once; base + tau gives tuned again where it was exact, and is the
// nearest or its neighbour elsewhere.
static void one_vector_gives_the_tuned_model_back(void **state)
{
    (void)state;
    const double one[] = {1};
    float tuned[MOST], back[MOST];
    size_t inexact = 0;
    for (size_t i = 0; i < MOST; i++) {
        base[i] = (float)random_normal(3, 0, i);
        tuned[i] = base[i] + (float)random_normal(3, 1, i) / (i % 2 ? 10.f : 1e4f);
        tau[0][i] = tuned[i] - base[i];
    }
    for (int m = 0; m < 3; m++) {
        const struct merge_options options = {
            .method = (enum merge_method)m, .weights = one, .lambda = 1, .density = 1};
        merge_tensor(&options, back, base, taus, 1, MOST);
        for (size_t i = 0; i < MOST; i++) {
            const bool exact = (double)tau[0][i] == (double)tuned[i] - (double)base[i];
            if (exact)
                assert_true(back[i] == tuned[i]);
            else
                assert_true(back[i] == tuned[i] || nextafterf(back[i], tuned[i]) == tuned[i]);
            inexact += back[i] != tuned[i];
        }
    }
    assert_true(inexact < 3 * MOST / 50); // a few in a hundred at most
}

static void a_single_linear_weight_does_not_matter(void **state)
{
    (void)state;
    const double three[] = {3};
    const struct merge_options options = {.method = MERGE_LINEAR, .weights = three};
    fill(1, MOST, false);
    merge_tensor(&options, out, base, taus, 1, MOST);
    for (size_t i = 0; i < MOST; i++)
        assert_true(out[i] == (float)((double)base[i] + (double)tau[0][i]));
}

static void the_result_may_overwrite_the_base(void **state)
{
    (void)state;
    for (int m = 0; m < 3; m++) {
        const struct merge_options options = {
            .method = (enum merge_method)m, .weights = weights, .lambda = 0.5, .density = 0.3};
        float apart[MOST];
        fill(9, MOST, false);
        merge_tensor(&options, apart, base, taus, VECTORS, MOST);
        merge_tensor(&options, base, base, taus, VECTORS, MOST);
        assert_memory_equal(apart, base, sizeof(apart));
    }
}

static void methods_are_parsed_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {"linear", "task_arithmetic", "ties"};
    enum merge_method method;
    struct error err;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(merge_parse_method(names[i], &method, &err), 0);
        assert_int_equal(method, i);
    }
    assert_int_equal(merge_parse_method("slerp", &method, &err), -1);
    assert_string_equal(err.text,
                        "unknown merge method 'slerp': use one of linear|task_arithmetic|ties");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linear_is_the_weighted_mean),
        cmocka_unit_test(task_arithmetic_is_the_scaled_sum),
        cmocka_unit_test(ties_trims_elects_and_merges),
        cmocka_unit_test(ties_keeps_the_lowest_index_among_equals),
        cmocka_unit_test(ties_with_opposite_signs_of_equal_weight_merges_nothing),
        cmocka_unit_test(one_vector_gives_the_tuned_model_back),
        cmocka_unit_test(a_single_linear_weight_does_not_matter),
        cmocka_unit_test(the_result_may_overwrite_the_base),
        cmocka_unit_test(methods_are_parsed_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
