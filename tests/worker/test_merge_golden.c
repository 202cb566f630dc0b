// SPDX-License-Identifier: Apache-2.0
// Every method against mergekit's results (tests/oracle/merge_golden.py, which has the same table
// of cases): three architectures in bfloat16, float16 (sharded) and float32, within one place of
// bfloat16. Left out, counted, and few: elements exactly at a threshold, whose order among equals
// is chance in mergekit, and elements whose election comes out at nothing, where it takes the
// positive sign. della (ranks of a row) and sce's selection (weights from what is selected) depend
// on that order everywhere in a tensor, so they are compared only where magnitudes differ, in
// float32.
#include "base/mem.h"
#include "worker/merge/select.h"
#include "worker/merge/tensor.h"
#include "worker/merge/weights.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MOST 640 // elements of the largest tensor
#define MODELS 3

struct golden_case {
    const char *name;
    enum merge_method method;
    bool has_base;
    const char *models; // a letter each; 'B' is the base itself
    struct merge_parameters p;
};

static const double weights[] = {1, 0.5, 2.25}, ones[] = {1, 1, 1}, interpolation[] = {0.7, 0.3};
static const double densities[] = {0.3, 0.55, 0.1}, gammas[] = {0.05, 0.05, 0.05};
static const double epsilons[] = {0.09, 0.09, 0.09};
static const uint64_t streams[] = {11, 12, 13};

#define SUM(how, scale, divides)                                                                   \
    {                                                                                              \
        .weight = weights, .lambda = (scale), .normalize = (divides), .rescale = (how)             \
    }
#define SPAN(by, w)                                                                                \
    {                                                                                              \
        .weight = (w), .lambda = 1, .normalize = true, .groups = (by)                              \
    }

static const struct golden_case cases[] = {
    {"linear", MERGE_LINEAR, false, "abc", SUM(RESCALE_NONE, 1, true)},
    {"task_arithmetic", MERGE_TASK_ARITHMETIC, true, "abc", SUM(RESCALE_NONE, 0.7, false)},
    {"ties", MERGE_TIES, true, "abc", SUM(RESCALE_NONE, 0.7, true)},
    {"ties_l1", MERGE_TIES, true, "abc", SUM(RESCALE_L1, 1, true)},
    {"dare_linear", MERGE_DARE_LINEAR, true, "abc", SUM(RESCALE_L1, 1, false)},
    {"dare_ties", MERGE_DARE_TIES, true, "abc", SUM(RESCALE_L1, 1, false)},
    {"della", MERGE_DELLA, true, "abc", SUM(RESCALE_L1, 1, true)},
    {"della_linear", MERGE_DELLA_LINEAR, true, "abc", SUM(RESCALE_L1, 1, false)},
    {"breadcrumbs", MERGE_BREADCRUMBS, true, "abc", SUM(RESCALE_NONE, 1, false)},
    {"breadcrumbs_ties", MERGE_BREADCRUMBS_TIES, true, "abc", SUM(RESCALE_NONE, 1, false)},
    {"sce", MERGE_SCE, true, "abc", {.lambda = 1, .normalize = true, .select_topk = 0.4}},
    {"sce_all", MERGE_SCE, true, "abc", {.lambda = 1, .normalize = true, .select_topk = 1}},
    {"model_stock", MERGE_MODEL_STOCK, true, "abc", SPAN(GROUP_TENSOR, ones)},
    {"model_stock_rows", MERGE_MODEL_STOCK, true, "abc", SPAN(GROUP_ROW, ones)},
    {"slerp", MERGE_SLERP, false, "Ba", SPAN(GROUP_TENSOR, interpolation)},
    {"nuslerp", MERGE_NUSLERP, true, "ab", SPAN(GROUP_TENSOR, weights)},
    {"nuslerp_rows", MERGE_NUSLERP, true, "ab", SPAN(GROUP_ROW, weights)},
    {"nuslerp_columns", MERGE_NUSLERP, false, "ab", SPAN(GROUP_COLUMN, weights)},
    {"multislerp", MERGE_MULTISLERP, true, "abc", SPAN(GROUP_TENSOR, weights)},
    {"karcher", MERGE_KARCHER, false, "abc", SPAN(GROUP_TENSOR, ones)},
};
#define CASES (sizeof(cases) / sizeof(cases[0]))

struct values {
    size_t count;
    float base[MOST], x[MODELS][MOST]; // theta
};

static void read_values(void *context, size_t which, size_t begin, size_t count, float *out)
{
    const struct values *values = context;
    memcpy(out, (which == 0 ? values->base : values->x[which - 1]) + begin, count * sizeof(*out));
}

static void *give_buffer(void *context)
{
    return context;
}

static int take(void *context, void *buffer, size_t count, struct error *err)
{
    (void)context, (void)buffer, (void)count, (void)err;
    return 0;
}

static void merge(const struct golden_case *c, const struct merge_parameters *p,
                  const struct values *values, size_t rows, size_t columns, uint16_t *out)
{
    static const bool is_delta[MODELS] = {false};
    const struct merge_tensor tensor = {.rows = rows,
                                        .columns = columns,
                                        .has_base = c->has_base,
                                        .is_delta = is_delta,
                                        .read = read_values,
                                        .context = (void *)values};
    const struct merge_sink sink = {
        .dtype = DTYPE_BF16, .buffer = give_buffer, .submit = take, .context = out};
    struct merge_engine *engine;
    struct merge_tensor_stats stats;
    struct error err;
    assert_int_equal(merge_engine_create(2, p->vectors, 4096, columns, &engine, &err), 0);
    assert_int_equal(merge_tensor_run(engine, p, &tensor, NULL, &sink, &stats, &err), 0);
    merge_engine_destroy(engine);
}

// Elements whose magnitude in vector x is that of a threshold.
static void mark_threshold(const float *x, size_t count, uint64_t keep, bool *left_out)
{
    const struct magnitude_cut cut = magnitude_select(x, count, keep);
    for (size_t i = 0; i < count; i++)
        left_out[i] |= magnitude_bits(x[i]) == cut.bits;
}

static void mark_thresholds(const struct merge_parameters *p, const struct values *values,
                            bool *left_out)
{
    const size_t count = values->count;
    float tau[MODELS][MOST], deviation[MOST];
    for (size_t i = 0; i < count; i++) {
        double mean = 0, variance = 0;
        for (size_t k = 0; k < p->vectors; k++) {
            tau[k][i] = values->x[k][i] - values->base[i];
            mean += (double)tau[k][i] / (double)p->vectors;
        }
        for (size_t k = 0; k < p->vectors; k++)
            variance += ((double)tau[k][i] - mean) * ((double)tau[k][i] - mean);
        deviation[i] = (float)sqrt(variance);
    }
    for (size_t k = 0; k < p->vectors; k++) {
        uint64_t dropped = 0, kept = 0;
        if (merge_traits(p->method)->sparsify == SPARSIFY_TRIM)
            kept = merge_kept_count(p->density[k], count);
        if (merge_traits(p->method)->sparsify == SPARSIFY_OUTLIERS) {
            merge_kept_behind(p->density[k], p->gamma[k], count, &dropped, &kept);
            mark_threshold(tau[k], count, dropped, left_out);
        }
        mark_threshold(tau[k], count, dropped + kept, left_out);
    }
    if (p->method != MERGE_SCE || p->select_topk >= 1)
        return;
    size_t varying = 0;
    for (size_t i = 0; i < count; i++)
        varying += deviation[i] != 0;
    const struct magnitude_cut cut =
        magnitude_select(deviation, count, (uint64_t)(p->select_topk * (double)varying));
    float threshold;
    memcpy(&threshold, &cut.bits, sizeof(threshold));
    for (size_t i = 0; i < count; i++) // mergekit selects variances, in float32
        left_out[i] |= fabsf(deviation[i] - threshold) <= 1e-5f * threshold;
}

// Where any two models' parts can cancel exactly: +w_j tau_j = -w_k tau_k.
static void mark_cancelled(const struct golden_case *c, const struct merge_parameters *p,
                           const struct values *values, bool *left_out)
{
    for (size_t i = 0; merge_traits(c->method)->elects && i < values->count; i++) {
        for (size_t set = 1; set < (1u << p->vectors); set++) { // whichever are kept
            double total = 0, size = 0;
            for (size_t k = 0; k < p->vectors; k++) {
                const double w = p->method == MERGE_SCE ? 1 : p->weight[k];
                const double part = w * ((double)values->x[k][i] - (double)values->base[i]);
                total += set >> k & 1 ? part : 0;
                size += set >> k & 1 ? fabs(part) : 0;
            }
            left_out[i] |= size > 0 && fabs(total) <= 1e-6 * size;
        }
    }
}

static int64_t places_apart(uint16_t a, uint16_t b)
{
    const int32_t x = a & 0x8000 ? -(int32_t)(a & 0x7fff) : a;
    const int32_t y = b & 0x8000 ? -(int32_t)(b & 0x7fff) : b;
    return x > y ? x - y : y - x;
}

struct models {
    struct safetensors base, tuned[MODELS];
};

static const struct safetensors *model_of(const struct models *models, char letter)
{
    return letter == 'B' ? &models->base : &models->tuned[letter - 'a'];
}

static size_t left_out_count, compared_count;

static void check_tensor(const struct golden_case *c, const struct models *models,
                         const struct safetensors_entry *golden)
{
    struct values values = {.count = weights_count(golden)};
    struct merge_parameters p = c->p;
    bool left_out[MOST] = {false};
    uint16_t merged[4096 + MOST], expected;
    assert_true(values.count <= MOST && golden->dtype == ST_BF16);
    p.method = c->method;
    p.vectors = strlen(c->models);
    p.weight = p.weight ? p.weight : ones;
    p.density = densities;
    p.gamma = gammas;
    p.epsilon = epsilons;
    p.streams = streams;
    p.seed = 7;
    p.max_iter = 10;
    p.tol = 1e-5;
    weights_read(safetensors_find(&models->base, golden->name), 0, values.count, values.base);
    for (size_t k = 0; k < p.vectors; k++)
        weights_read(safetensors_find(model_of(models, c->models[k]), golden->name), 0,
                     values.count, values.x[k]);
    if (golden->rank < 2)
        p.groups = GROUP_TENSOR;
    const size_t columns = weights_columns(golden);
    merge(c, &p, &values, values.count / columns, columns, merged);
    if (merge_traits(c->method)->family != FAMILY_SPAN && c->has_base) {
        mark_thresholds(&p, &values, left_out);
        mark_cancelled(c, &p, &values, left_out);
    }
    for (size_t i = 0; i < values.count; i++) {
        memcpy(&expected, (const char *)golden->data + 2 * i, 2);
        left_out_count += left_out[i];
        compared_count += !left_out[i];
        if (!left_out[i] && places_apart(merged[i], expected) > 1)
            fail_msg("%s, %s: element %zu of %zu is %.9g, mergekit's %.9g", c->name, golden->name,
                     i, values.count, (double)bf16_to_f32(merged[i]),
                     (double)bf16_to_f32(expected));
    }
}

static void open_at(const char *architecture, const char *name, struct safetensors *out)
{
    struct error err;
    char *path = mem_printf(GOLDEN_DIRECTORY "/merge/%s/%s", architecture, name);
    if (safetensors_open(path, out, &err))
        fail_msg("%s", err.text);
    free(path);
}

static void check_case(const char *architecture, const struct golden_case *c,
                       const struct models *models)
{
    struct safetensors golden;
    char *name = mem_printf("merged/%s.safetensors", c->name);
    open_at(architecture, name, &golden);
    free(name);
    assert_true(golden.count == models->base.count);
    left_out_count = compared_count = 0;
    for (size_t t = 0; t < golden.count; t++)
        check_tensor(c, models, &golden.entries[t]);
    print_message("%s, %s: %zu elements compared, %zu left out\n", architecture, c->name,
                  compared_count, left_out_count);
    // differences of bfloat16 weights take few values, so that many are equal
    const size_t bound = models->base.entries[0].dtype == ST_F32 ? 20 : 4;
    assert_true(left_out_count * bound < compared_count);
    safetensors_close(&golden);
}

static void check_architecture(const char *architecture)
{
    struct models models;
    open_at(architecture, "base", &models.base);
    open_at(architecture, "a", &models.tuned[0]);
    open_at(architecture, "b", &models.tuned[1]);
    open_at(architecture, "c", &models.tuned[2]);
    for (size_t c = 0; c < CASES; c++) {
        const bool ordered = merge_traits(cases[c].method)->sparsify == SPARSIFY_RANKED ||
                             (cases[c].method == MERGE_SCE && cases[c].p.select_topk < 1);
        if (!ordered || models.base.entries[0].dtype == ST_F32)
            check_case(architecture, &cases[c], &models);
    }
    safetensors_close(&models.base);
    for (int k = 0; k < MODELS; k++)
        safetensors_close(&models.tuned[k]);
}

static void qwen2_in_bfloat16_is_merged_as_by_mergekit(void **state)
{
    (void)state;
    check_architecture("qwen2");
}

static void llama_in_float16_shards_is_merged_as_by_mergekit(void **state)
{
    (void)state;
    check_architecture("llama");
}

static void mistral_in_float32_is_merged_as_by_mergekit(void **state)
{
    (void)state;
    check_architecture("mistral");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(qwen2_in_bfloat16_is_merged_as_by_mergekit),
        cmocka_unit_test(llama_in_float16_shards_is_merged_as_by_mergekit),
        cmocka_unit_test(mistral_in_float32_is_merged_as_by_mergekit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
