// SPDX-License-Identifier: Apache-2.0
// Every method, out of core, against its plain float64 formulas: all shapes, dtypes, tile sizes and
// numbers of threads.
#include "base/mem.h"
#include "base/random.h"
#include "worker/merge/reference.h"
#include "worker/merge/tensor.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MOST 20000
#define VECTORS 4

struct values {
    size_t rows, columns, vectors;
    bool has_base;
    float base[MOST], x[VECTORS][MOST]; // tau_k or theta_k
    bool is_delta[VECTORS];
};

struct taken {
    enum dtype dtype;
    char bytes[4 * MOST];
    size_t count;
    float buffer[MOST];
};

static struct values values;
static struct taken taken, other;

static void read_values(void *context, size_t which, size_t begin, size_t count, float *out)
{
    (void)context;
    const float *from = which == 0 ? values.base : values.x[which - 1];
    assert_true(begin + count <= values.rows * values.columns);
    memcpy(out, from + begin, count * sizeof(*out));
}

static void *give_buffer(void *context)
{
    struct taken *t = context;
    return t->buffer;
}

static int take(void *context, void *buffer, size_t count, struct error *err)
{
    struct taken *t = context;
    (void)err;
    memcpy(t->bytes + t->count * dtype_bytes(t->dtype), buffer, count * dtype_bytes(t->dtype));
    t->count += count;
    return 0;
}

// coarse: magnitudes of few values, so that there are many ties and exact zeros.
static void fill(uint64_t seed, size_t rows, size_t columns, size_t vectors, bool models,
                 bool coarse)
{
    values.rows = rows;
    values.columns = columns;
    values.vectors = vectors;
    values.has_base = true;
    for (size_t i = 0; i < rows * columns; i++) {
        values.base[i] = (float)random_normal(seed, 100, i);
        for (size_t k = 0; k < vectors; k++) {
            const double x =
                random_normal(seed, k, i) + (k > 0 ? 0.5 * random_normal(seed, 0, i) : 0);
            const float tau = (float)(coarse ? floor(2 * x) / 4 : x / 100);
            values.x[k][i] = models ? values.base[i] + tau : tau;
            values.is_delta[k] = !models;
        }
    }
}

static const double weights[VECTORS] = {1, 0.5, 2.25, 0.75};
static const double densities[VECTORS] = {0.3, 0.55, 0.1, 1};
static const double gammas[VECTORS] = {0.01, 0.1, 0.02, 0};
static const double epsilons[VECTORS] = {0.1, 0.2, 0.05, 0.15};
static const uint64_t streams[VECTORS] = {11, 12, 13, 14};

static struct merge_parameters usual(enum merge_method method)
{
    const struct merge_traits *traits = merge_traits(method);
    return (struct merge_parameters){.method = method,
                                     .vectors = traits->most < VECTORS ? traits->most : VECTORS,
                                     .weight = weights,
                                     .density = densities,
                                     .gamma = gammas,
                                     .epsilon = epsilons,
                                     .streams = streams,
                                     .seed = 7,
                                     .lambda = method == MERGE_LINEAR ? 1 : 0.7,
                                     .normalize = traits->normalizes || method == MERGE_MULTISLERP,
                                     .rescale = traits->rescale,
                                     .select_topk = 0.4,
                                     .max_iter = 10,
                                     .tol = 1e-5};
}

static void run(const struct merge_parameters *p, int threads, size_t tile, struct taken *out,
                struct merge_tensor_stats *stats)
{
    struct error err;
    struct merge_engine *engine;
    const struct merge_tensor tensor = {.rows = values.rows,
                                        .columns = values.columns,
                                        .has_base = values.has_base,
                                        .is_delta = values.is_delta,
                                        .read = read_values};
    const struct merge_sink sink = {
        .dtype = out->dtype, .buffer = give_buffer, .submit = take, .context = out};
    out->count = 0;
    assert_int_equal(merge_engine_create(threads, p->vectors, tile, values.columns, &engine, &err),
                     0);
    assert_int_equal(merge_tensor_run(engine, p, &tensor, NULL, &sink, stats, &err), 0);
    assert_int_equal(out->count, values.rows * values.columns);
    merge_engine_destroy(engine);
}

// The distance of two stored numbers in units of the last place, when they have one sign.
static int64_t places_apart(const void *a, const void *b, enum dtype dtype, size_t i)
{
    int64_t x, y;
    if (dtype == DTYPE_F32) {
        int32_t u, v;
        memcpy(&u, (const char *)a + 4 * i, 4);
        memcpy(&v, (const char *)b + 4 * i, 4);
        x = u < 0 ? INT32_MIN - (int64_t)u : u;
        y = v < 0 ? INT32_MIN - (int64_t)v : v;
    } else {
        int16_t u, v;
        memcpy(&u, (const char *)a + 2 * i, 2);
        memcpy(&v, (const char *)b + 2 * i, 2);
        x = u < 0 ? INT16_MIN - (int64_t)u : u;
        y = v < 0 ? INT16_MIN - (int64_t)v : v;
    }
    return x > y ? x - y : y - x;
}

static void compare_with_reference(const struct merge_parameters *p)
{
    const size_t count = values.rows * values.columns;
    const bool on_models = merge_traits(p->method)->on_models;
    static float x[VECTORS][MOST], rounded[MOST];
    static double expected[MOST];
    static char stored[4 * MOST];
    const float *in[VECTORS];
    for (size_t k = 0; k < p->vectors; k++) {
        in[k] = x[k];
        for (size_t i = 0; i < count; i++) {
            const float base = values.has_base ? values.base[i] : 0;
            const float theta = values.is_delta[k] ? base + values.x[k][i] : values.x[k][i];
            const float tau = values.is_delta[k] ? values.x[k][i] : values.x[k][i] - base;
            x[k][i] = on_models ? theta : tau;
        }
    }
    merge_reference(p, values.rows, values.columns, expected, values.has_base ? values.base : NULL,
                    in);
    for (size_t i = 0; i < count; i++)
        rounded[i] = (float)expected[i];
    convert_from_f32(stored, taken.dtype, rounded, count);
    for (size_t i = 0; i < count; i++) {
        const int64_t apart = places_apart(stored, taken.bytes, taken.dtype, i);
        if (apart > 1)
            fail_msg("%s, %zu x %zu: element %zu is %lld places from %.9g",
                     merge_traits(p->method)->name, values.rows, values.columns, i,
                     (long long)apart, expected[i]);
    }
}

static void check(const struct merge_parameters *p, bool deltas_only)
{
    static const size_t shapes[][2] = {{1, 1},    {1, 31},   {3, 11},    {0, 4},
                                       {100, 10}, {1, 5000}, {130, 150}, {2, 9000}};
    struct merge_tensor_stats stats;
    for (size_t s = 0; s < sizeof(shapes) / sizeof(shapes[0]); s++) {
        for (int variant = 0; variant < 4; variant++) {
            fill(s + 1, shapes[s][0], shapes[s][1], p->vectors, !deltas_only && variant % 2,
                 variant / 2);
            taken.dtype = (enum dtype)((s + (size_t)variant) % 3);
            run(p, 1 + variant % 2, 1 + s * 1000, &taken, &stats);
            assert_int_equal(stats.infinite, 0);
            compare_with_reference(p);
        }
    }
}

static void every_method_follows_its_formula(void **state)
{
    (void)state;
    for (int m = 0; m < MERGE_METHODS; m++) {
        struct merge_parameters p = usual((enum merge_method)m);
        check(&p, false);
        p.lambda = m == MERGE_LINEAR ? 1 : -1.5;
        p.normalize = !p.normalize;
        p.select_topk = 1;
        check(&p, false);
    }
}

static void rescaling_restores_the_sum_of_magnitudes_when_asked(void **state)
{
    (void)state;
    static const enum merge_method thinning[] = {MERGE_TIES, MERGE_DARE_LINEAR, MERGE_DARE_TIES,
                                                 MERGE_DELLA, MERGE_BREADCRUMBS};
    for (size_t m = 0; m < 5; m++) {
        struct merge_parameters p = usual(thinning[m]);
        p.rescale = RESCALE_L1;
        check(&p, false);
        p.rescale = RESCALE_NONE;
        check(&p, false);
    }
}

static void angles_are_per_row_or_per_column_when_asked(void **state)
{
    (void)state;
    struct merge_parameters p = usual(MERGE_NUSLERP);
    p.groups = GROUP_ROW;
    check(&p, false);
    p.groups = GROUP_COLUMN;
    check(&p, false);
    p = usual(MERGE_MODEL_STOCK);
    p.groups = GROUP_ROW;
    check(&p, false);
}

static void models_are_combined_without_a_base(void **state)
{
    (void)state;
    static const enum merge_method baseless[] = {MERGE_LINEAR, MERGE_SLERP, MERGE_NUSLERP,
                                                 MERGE_MULTISLERP, MERGE_KARCHER};
    struct merge_tensor_stats stats;
    for (size_t m = 0; m < 5; m++) {
        const struct merge_parameters p = usual(baseless[m]);
        fill(3, 40, 250, p.vectors, true, false);
        values.has_base = false;
        taken.dtype = DTYPE_F32;
        run(&p, 2, 5000, &taken, &stats);
        compare_with_reference(&p);
    }
}

static void threads_and_tiles_change_no_byte(void **state)
{
    (void)state;
    static const size_t tiles[] = {1, 4096, 10000, 1 << 20};
    struct merge_tensor_stats stats, first_stats;
    for (int m = 0; m < MERGE_METHODS; m++) {
        const struct merge_parameters p = usual((enum merge_method)m);
        fill(5, 133, 150, p.vectors, m % 2, m % 3 == 0);
        taken.dtype = other.dtype = DTYPE_F32;
        run(&p, 1, 4096, &taken, &first_stats);
        for (int t = 0; t < 8; t++) {
            run(&p, 1 + t % 4, tiles[t / 2], &other, &stats);
            assert_memory_equal(taken.bytes, other.bytes, 4 * taken.count);
            assert_memory_equal(&stats, &first_stats, sizeof(stats));
        }
    }
}

static void one_vector_gives_the_tuned_model_back(void **state)
{
    (void)state;
    static const enum merge_method exact[] = {
        MERGE_LINEAR, MERGE_TASK_ARITHMETIC, MERGE_TIES, MERGE_DARE_LINEAR, MERGE_DARE_TIES,
        MERGE_DELLA,  MERGE_BREADCRUMBS,     MERGE_SCE,  MERGE_KARCHER,     MERGE_MULTISLERP};
    static const double one[] = {1}, zero[] = {0};
    struct merge_tensor_stats stats;
    fill(3, 100, 130, 1, false, false);
    static float tuned[MOST];
    for (size_t i = 0; i < 13000; i++) {
        tuned[i] = values.base[i] + (float)random_normal(3, 1, i) / (i % 2 ? 10.f : 1e4f);
        values.x[0][i] = tuned[i] - values.base[i];
    }
    for (size_t m = 0; m < sizeof(exact) / sizeof(exact[0]); m++) {
        struct merge_parameters p = usual(exact[m]);
        size_t inexact = 0;
        p.vectors = 1;
        p.weight = p.density = one;
        p.gamma = p.epsilon = zero;
        p.lambda = p.select_topk = 1;
        taken.dtype = DTYPE_F32;
        run(&p, 2, 4096, &taken, &stats);
        const float *back = (const float *)(const void *)taken.bytes;
        for (size_t i = 0; i < 13000; i++) {
            const double difference = (double)tuned[i] - (double)values.base[i];
            if ((double)values.x[0][i] == difference)
                assert_true(back[i] == tuned[i]);
            else
                assert_true(back[i] == tuned[i] || nextafterf(back[i], tuned[i]) == tuned[i]);
            inexact += back[i] != tuned[i];
        }
        assert_true(inexact < 13000 / 50); // a few in a hundred at most
    }
}

static void opposite_signs_of_equal_weight_merge_nothing(void **state)
{
    (void)state;
    static const double equal[] = {1, 1};
    const float a[3] = {1, 2, -1}, b[3] = {-1, -1, -3}, expected[3] = {0, 2, -2};
    struct merge_tensor_stats stats;
    struct merge_parameters p = usual(MERGE_TIES);
    fill(1, 1, 3, 2, false, false);
    memset(values.base, 0, 3 * sizeof(float));
    memcpy(values.x[0], a, sizeof(a));
    memcpy(values.x[1], b, sizeof(b));
    p.vectors = 2;
    p.weight = p.density = equal;
    p.lambda = 1;
    taken.dtype = DTYPE_F32;
    run(&p, 1, 4096, &taken, &stats);
    // the last: -4 is elected, both agree: (-1 - 3) / 2
    assert_memory_equal(taken.bytes, expected, sizeof(expected));
}

static void random_masks_keep_the_share_that_they_should(void **state)
{
    (void)state;
    size_t kept = 0, both = 0;
    for (uint64_t i = 0; i < 100000; i++) {
        const bool a = merge_uniform(1, 2, i) < 0.3, b = merge_uniform(1, 3, i) < 0.3;
        kept += a;
        both += a && b;
    }
    assert_true(kept > 29400 && kept < 30600); // four standard deviations
    assert_true(both > 8600 && both < 9400);   // streams are independent
}

static void results_beyond_the_dtype_are_counted(void **state)
{
    (void)state;
    struct merge_tensor_stats stats;
    struct merge_parameters p = usual(MERGE_TASK_ARITHMETIC);
    fill(1, 3, 5000, 1, false, false);
    p.vectors = 1;
    values.x[0][9000] = 1e5f;
    taken.dtype = DTYPE_F16;
    run(&p, 2, 4096, &taken, &stats);
    assert_int_equal(stats.infinite, 1);
    assert_true(stats.first_infinite <= 9000 && stats.first_infinite + 4096 > 9000);
}

static void methods_are_parsed_by_name(void **state)
{
    (void)state;
    enum merge_method method;
    struct error err;
    for (int i = 0; i < MERGE_METHODS; i++) {
        const char *name = merge_traits((enum merge_method)i)->name;
        assert_int_equal(merge_parse_method(name, &method, &err), 0);
        assert_int_equal(method, i);
        assert_non_null(strstr(MERGE_METHOD_CHOICES, name));
    }
    assert_int_equal(merge_parse_method("tie", &method, &err), -1);
    assert_string_equal(err.text, "unknown merge method 'tie': use one of " MERGE_METHOD_CHOICES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_method_follows_its_formula),
        cmocka_unit_test(rescaling_restores_the_sum_of_magnitudes_when_asked),
        cmocka_unit_test(angles_are_per_row_or_per_column_when_asked),
        cmocka_unit_test(models_are_combined_without_a_base),
        cmocka_unit_test(threads_and_tiles_change_no_byte),
        cmocka_unit_test(one_vector_gives_the_tuned_model_back),
        cmocka_unit_test(opposite_signs_of_equal_weight_merge_nothing),
        cmocka_unit_test(random_masks_keep_the_share_that_they_should),
        cmocka_unit_test(results_beyond_the_dtype_are_counted),
        cmocka_unit_test(methods_are_parsed_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
