// SPDX-License-Identifier: Apache-2.0
// Merging on files: inputs, order, ranks, memory, kills, and everything that can be wrong.
#include "base/mem.h"
#include "base/random.h"
#include "tests/base/temporary_directory.h"
#include "tests/worker/merge_fixture.h"
#include "worker/merge/reference.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MOST FIXTURE_MOST
#define MEMORY ((uint64_t)96 << 20) // small tiles: sanitizers pay for each byte of a buffer

static struct merge_recipe recipe_of(enum merge_method method)
{
    return (struct merge_recipe){.method = method, .seed = 5};
}

static struct merge_recipe usual(enum merge_method method)
{
    struct merge_recipe recipe = recipe_of(method);
    merge_recipe_set(&recipe, SETTING_DENSITY, 0.3);
    merge_recipe_set(&recipe, SETTING_LAMBDA, 0.9);
    return recipe;
}

struct merging {
    const char *base;
    const char *const *sources;
    size_t count;
    const struct merge_recipe *recipe;
    const char *out;
    uint64_t memory;
    int threads;
    struct fs *fs;
    size_t continued;
};

static int merge_in_group(struct group *group, void *context, struct error *err)
{
    struct merging *m = context;
    const struct merge_request request = {.fs = m->fs ? m->fs : fs_system(),
                                          .group = group,
                                          .base = m->base,
                                          .sources = m->sources,
                                          .count = m->count,
                                          .recipes = m->recipe,
                                          .outs = &m->out,
                                          .outputs = 1,
                                          .threads = m->threads ? m->threads : 2,
                                          .memory_bytes = m->memory ? m->memory : MEMORY};
    struct merge_report report;
    const int rc = merge_models(&request, &report, err);
    m->continued = report.continued;
    merge_report_release(&report);
    return rc;
}

static int merge(struct merging *m, struct error *err)
{
    struct group *group;
    assert_int_equal(group_open_self(&group, err), 0);
    const int rc = merge_in_group(group, m, err);
    group_close(group);
    return rc;
}

static void must_merge(struct merging *m)
{
    struct error err;
    if (merge(m, &err))
        fail_msg("merge_models: %s", err.text);
}

// Elements that differ between two models. None may by more than two roundings explain: of tau,
// whose magnitude is at most 1/2 here, to float32, and of the result.
static size_t count_differences(const char *a_path, const char *b_path)
{
    struct safetensors a, b;
    struct error err;
    size_t differences = 0;
    float x[MOST], y[MOST];
    assert_int_equal(safetensors_open(a_path, &a, &err), 0);
    assert_int_equal(safetensors_open(b_path, &b, &err), 0);
    assert_int_equal(a.count, b.count);
    for (size_t i = 0; i < a.count; i++) {
        assert_string_equal(a.entries[i].name, b.entries[i].name);
        assert_int_equal(a.entries[i].dtype, b.entries[i].dtype);
        const size_t count = weights_count(&a.entries[i]);
        weights_read(&a.entries[i], 0, count, x);
        weights_read(&b.entries[i], 0, count, y);
        for (size_t j = 0; j < count; j++) {
            assert_true(fabs((double)x[j] - (double)y[j]) <=
                        0x1p-26 + 0x1p-24 * fabs((double)y[j]));
            differences += x[j] != y[j];
        }
    }
    safetensors_close(&a);
    safetensors_close(&b);
    return differences;
}

static void round_trip(const char *parent, enum dtype dtype, bool sharded)
{
    const struct recipe base_recipe = {.dtype = dtype, .sharded = sharded, .seed = 1};
    const struct recipe tuned_recipe = {
        .dtype = dtype, .seed = 1, .change = 0.01, .change_seed = 2};
    char *base = make_model(parent, "base", &base_recipe);
    char *tuned = make_model(parent, "tuned", &tuned_recipe);
    char *vector = make_vector(parent, "v.safetensors", base, tuned);
    char *out = fs_join(parent, "merged"), *back = fs_join(parent, "back");
    struct merge_recipe add = recipe_of(MERGE_TASK_ARITHMETIC);
    struct merging m = {.base = base,
                        .sources = (const char *const[]){vector},
                        .count = 1,
                        .recipe = &add,
                        .out = out};
    must_merge(&m);
    // half precision has so few digits that the f32 difference is exact
    const size_t differences = count_differences(out, tuned);
    assert_true(dtype == DTYPE_F32 ? differences < 100 : differences == 0);
    char *config = fs_join(out, "config.json"), *card = fs_join(out, "README.md");
    assert_true(fs_exists(fs_system(), config) && fs_exists(fs_system(), card));
    // base + vector - vector = base: the same bound
    merge_recipe_set(&add, SETTING_LAMBDA, -1);
    char *vector_back = make_vector(parent, "back.safetensors", base, tuned);
    char *from_out = make_vector(parent, "out.safetensors", out, base);
    merge_recipe_release(&add);
    add = recipe_of(MERGE_TASK_ARITHMETIC);
    m = (struct merging){.base = out,
                         .sources = (const char *const[]){from_out},
                         .count = 1,
                         .recipe = &add,
                         .out = back};
    must_merge(&m);
    const size_t returned = count_differences(back, base);
    assert_true(dtype == DTYPE_F32 ? returned < 100 : returned == 0);
    merge_recipe_release(&add);
    free(config);
    free(card);
    free(base);
    free(tuned);
    free(vector);
    free(vector_back);
    free(from_out);
    free(out);
    free(back);
}

static void base_plus_vector_is_the_tuned_model_and_minus_it_the_base(void **state)
{
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    struct error err;
    for (int d = 0; d < 3; d++) {
        for (int sharded = 0; sharded < 2; sharded++) {
            char *parent = mem_printf("%s/%d%d", (char *)*state, d, sharded);
            assert_int_equal(fs_make_directories(fs_system(), parent, &err), 0);
            round_trip(parent, dtypes[d], sharded);
            free(parent);
        }
    }
}

static void vectors_and_models_give_the_same(void **state)
{
    struct set set = make_set(*state, DTYPE_BF16);
    char *one = fs_join(*state, "one"), *two = fs_join(*state, "two");
    for (int method = 0; method < MERGE_METHODS; method++) {
        struct merge_recipe recipe = usual((enum merge_method)method);
        const size_t count = merge_traits((enum merge_method)method)->most < 3 ? 2 : 3;
        struct strbuf a = {0}, b = {0};
        struct merging m = {.base = set.base,
                            .sources = (const char *const *)set.vectors,
                            .count = count,
                            .recipe = &recipe,
                            .out = one};
        must_merge(&m);
        m.sources = (const char *const *)set.tuned;
        m.out = two;
        must_merge(&m);
        read_merged(one, &a);
        read_merged(two, &b);
        assert_int_equal(a.length, b.length);
        assert_memory_equal(a.bytes, b.bytes, a.length);
        strbuf_release(&a);
        strbuf_release(&b);
        merge_recipe_release(&recipe);
    }
    free(one);
    free(two);
    forget(&set);
}

static void the_order_of_vectors_changes_no_byte(void **state)
{
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                     {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    static const double weights[] = {1, 0.3, 0.7};
    struct set set = make_set(*state, DTYPE_F32);
    char *out = fs_join(*state, "merged");
    for (int method = 0; method < MERGE_METHODS; method++) {
        struct strbuf first = {0}, bytes = {0};
        if (merge_traits((enum merge_method)method)->most < 4)
            continue;
        for (int o = 0; o < 6; o++) {
            struct merge_recipe recipe = usual((enum merge_method)method);
            const char *vectors[4];
            double w[4];
            for (int k = 0; k < 3; k++) {
                vectors[k] = set.vectors[orders[o][k]];
                w[k] = weights[orders[o][k]];
            }
            vectors[3] = set.vectors[1]; // one twice, with two weights
            w[3] = 0.2;
            if (o % 2) {
                vectors[3] = vectors[0], w[3] = w[0];
                vectors[0] = set.vectors[1], w[0] = 0.2;
            }
            for (int k = 0; k < 4; k++)
                merge_recipe_add(&recipe, SETTING_WEIGHT, k, NULL, &w[k], 1);
            struct merging m = {
                .base = set.base, .sources = vectors, .count = 4, .recipe = &recipe, .out = out};
            must_merge(&m);
            read_merged(out, o == 0 ? &first : &bytes);
            if (o > 0) {
                assert_int_equal(bytes.length, first.length);
                assert_memory_equal(bytes.bytes, first.bytes, first.length);
            }
            merge_recipe_release(&recipe);
        }
        strbuf_release(&first);
        strbuf_release(&bytes);
    }
    free(out);
    forget(&set);
}

// The forked ranks share the test's directory; rank 0 is this process.
static void ranks_and_threads_change_no_byte(void **state)
{
    struct set set = make_set(*state, DTYPE_BF16);
    for (int method = 0; method < MERGE_METHODS; method++) {
        struct strbuf first = {0}, bytes = {0};
        const size_t count = merge_traits((enum merge_method)method)->most < 3 ? 2 : 3;
        for (int ranks = 1; ranks <= 8; ranks *= 2) {
            struct merge_recipe recipe = usual((enum merge_method)method);
            struct error err;
            char *out = mem_printf("%s/%d-%d", (char *)*state, method, ranks);
            recipe.global_trim = method == MERGE_TIES;
            struct merging m = {.base = set.base,
                                .sources = (const char *const *)set.vectors,
                                .count = count,
                                .recipe = &recipe,
                                .out = out,
                                .threads = ranks};
            if (ranks == 1)
                must_merge(&m);
            else if (group_run_shm(ranks, merge_in_group, &m, &err))
                fail_msg("%d ranks: %s", ranks, err.text);
            read_merged(out, ranks == 1 ? &first : &bytes);
            if (ranks > 1)
                assert_memory_equal(bytes.bytes, first.bytes, first.length);
            merge_recipe_release(&recipe);
            free(out);
        }
        strbuf_release(&first);
        strbuf_release(&bytes);
    }
    forget(&set);
}

struct ranked {
    float magnitude;
    size_t index;
};

static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->magnitude != y->magnitude)
        return x->magnitude < y->magnitude ? 1 : -1;
    return x->index < y->index ? -1 : 1;
}

// One vector, weight 1: what a global trim keeps is what is largest in the whole vector.
static void a_global_trim_has_one_threshold(void **state)
{
    struct set set = make_set(*state, DTYPE_BF16); // bf16 differences: many equal ones
    struct merge_recipe recipe = usual(MERGE_TIES);
    char *out = fs_join(*state, "global");
    struct merging m = {.base = set.base,
                        .sources = (const char *const *)set.vectors,
                        .count = 1,
                        .recipe = &recipe,
                        .out = out};
    struct vector vector;
    struct safetensors base, merged;
    struct error err;
    struct ranked ranked[2024];
    bool keep[2024] = {false};
    size_t n = 0, at = 0;
    recipe.global_trim = true;
    must_merge(&m);
    assert_int_equal(vector_open(set.vectors[0], &vector, &err), 0);
    assert_int_equal(safetensors_open(set.base, &base, &err), 0);
    assert_int_equal(safetensors_open(out, &merged, &err), 0);
    for (size_t t = 0; t < vector.count; t++) {
        float tau[MOST];
        const size_t count = vector_count(&vector.tensors[t]);
        vector_read(&vector.tensors[t], 0, count, tau);
        for (size_t i = 0; i < count; i++, n++)
            ranked[n] = (struct ranked){fabsf(tau[i]), n};
    }
    qsort(ranked, n, sizeof(*ranked), compare_ranked);
    for (size_t i = 0; i < (size_t)(0.3 * (double)n); i++)
        keep[ranked[i].index] = true;
    for (size_t t = 0; t < vector.count; t++) {
        float tau[MOST], from[MOST], to[MOST];
        const size_t count = vector_count(&vector.tensors[t]);
        vector_read(&vector.tensors[t], 0, count, tau);
        weights_read(&base.entries[t], 0, count, from);
        weights_read(&merged.entries[t], 0, count, to);
        for (size_t i = 0; i < count; i++, at++) {
            const double moved = keep[at] ? 0.9 * (double)tau[i] : 0;
            assert_true(to[i] == bf16_to_f32(bf16_from_f32((float)((double)from[i] + moved))));
        }
    }
    vector_close(&vector);
    safetensors_close(&base);
    safetensors_close(&merged);
    merge_recipe_release(&recipe);
    free(out);
    forget(&set);
}

// The first model is the base, and all models share the weight: averaging; ties moves only what is
// among the largest differences to the first model.
static void memo_ref_is_what_its_authors_computed(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    char *out = fs_join(*state, "ref");
    struct safetensors models[3], merged;
    struct error err;
    for (int k = 0; k < 3; k++)
        assert_int_equal(safetensors_open(set.tuned[k], &models[k], &err), 0);
    for (int method = 0; method < 2; method++) {
        struct merge_recipe recipe = recipe_of(method ? MERGE_TIES : MERGE_TASK_ARITHMETIC);
        recipe.semantics = MERGE_MEMO_REF;
        merge_recipe_set(&recipe, SETTING_DENSITY, 0.3);
        struct merging m = {
            .sources = (const char *const *)set.tuned, .count = 3, .recipe = &recipe, .out = out};
        must_merge(&m);
        assert_int_equal(safetensors_open(out, &merged, &err), 0);
        for (size_t t = 0; t < merged.count; t++) {
            static float first[MOST], delta[2][MOST], got[MOST];
            static double expected[MOST];
            static const double thirds[] = {1.0 / 3, 1.0 / 3}, density[] = {0.3, 0.3};
            const size_t count = weights_count(&merged.entries[t]);
            weights_read(&models[0].entries[t], 0, count, first);
            weights_read(&merged.entries[t], 0, count, got);
            for (int k = 0; k < 2; k++) {
                weights_read(&models[k + 1].entries[t], 0, count, delta[k]);
                for (size_t i = 0; i < count; i++)
                    delta[k][i] -= first[i];
            }
            const struct merge_parameters p = {.method = recipe.method,
                                               .vectors = 2,
                                               .weight = thirds,
                                               .density = density,
                                               .lambda = 1,
                                               .normalize = method};
            merge_reference(&p, 1, count, expected, first,
                            (const float *const[]){delta[0], delta[1]});
            for (size_t i = 0; i < count; i++)
                assert_true(fabs((double)got[i] - expected[i]) <=
                            1.2e-7 * (fabs(expected[i]) + 1e-3));
            for (size_t i = 0; !method && i < count; i++) { // the plain mean
                const double mean =
                    (double)first[i] + ((double)delta[0][i] + (double)delta[1][i]) / 3;
                assert_true(fabs((double)got[i] - mean) <= 1.2e-7 * (fabs(mean) + 1e-3));
            }
        }
        safetensors_close(&merged);
        merge_recipe_release(&recipe);
    }
    for (int k = 0; k < 3; k++)
        safetensors_close(&models[k]);
    free(out);
    forget(&set);
}

// --- kills and faults ---

// A merge dies at every one of its file operations; the next attempt continues, to the same bytes.
static void a_merge_that_dies_anywhere_continues(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    struct merge_recipe recipe = usual(MERGE_TIES);
    char *whole = fs_join(*state, "whole"), *out = fs_join(*state, "out");
    struct merging m = {.base = set.base,
                        .sources = (const char *const *)set.vectors,
                        .count = 3,
                        .recipe = &recipe,
                        .out = whole};
    struct strbuf expected = {0}, bytes = {0};
    size_t continued = 0;
    int64_t n = 1;
    must_merge(&m);
    read_merged(whole, &expected);
    for (;; n++) {
        struct fs_fault fault = {
            .inner = fs_system(), .write_budget_bytes = UINT64_MAX, .fail_operation = n};
        struct fs fs = fs_with_faults(&fault);
        struct error err;
        m.out = out;
        m.fs = &fs;
        const int rc = merge(&m, &err);
        if (fault.operations < n)
            break;
        m.fs = NULL;
        if (rc != 0)
            must_merge(&m);
        continued += m.continued;
        read_merged(out, &bytes);
        assert_int_equal(bytes.length, expected.length);
        assert_memory_equal(bytes.bytes, expected.bytes, expected.length);
        assert_int_equal(merge_seal(fs_system(), out, &err), 0);
        char *file = fs_join(out, "model.safetensors");
        remove(file);
        free(file);
    }
    assert_true(n > 10);
    assert_true(continued > 0);
    strbuf_release(&expected);
    strbuf_release(&bytes);
    merge_recipe_release(&recipe);
    free(whole);
    free(out);
    forget(&set);
}

// What stands there is believed only as far as its digests go.
static void damaged_remains_are_merged_again(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    struct merge_recipe recipe = usual(MERGE_DARE_TIES);
    char *out = fs_join(*state, "out"), *file = fs_join(out, "model.safetensors");
    char *records = fs_join(out, "done-00000");
    struct merging m = {.base = set.base,
                        .sources = (const char *const *)set.vectors,
                        .count = 3,
                        .recipe = &recipe,
                        .out = out};
    struct strbuf expected = {0}, damaged = {0}, bytes = {0};
    struct error err;
    must_merge(&m);
    read_merged(out, &expected);
    assert_int_equal(fs_read(fs_system(), records, &damaged, &err), 0);
    for (int i = 0; i < 40; i++) {
        if (i % 2) { // a byte of the model
            strbuf_reset(&bytes);
            strbuf_add(&bytes, expected.bytes, expected.length);
            bytes.bytes[bytes.length - 1 - (size_t)random_u64(1, 2, (uint64_t)i) % 8000] ^= 0x11;
            assert_int_equal(fs_write_text(fs_system(), file, bytes.bytes, bytes.length, &err), 0);
        } else { // a torn record
            const size_t length = (size_t)random_u64(1, 3, (uint64_t)i) % damaged.length;
            assert_int_equal(fs_write_text(fs_system(), records, damaged.bytes, length, &err), 0);
        }
        must_merge(&m);
        read_merged(out, &bytes);
        assert_memory_equal(bytes.bytes, expected.bytes, expected.length);
    }
    must_merge(&m);
    assert_int_equal(m.continued, 3);                // all but the empty one
    merge_recipe_set(&recipe, SETTING_EPSILON, 0.1); // another recipe begins again
    must_merge(&m);
    assert_int_equal(m.continued, 0);
    strbuf_release(&expected);
    strbuf_release(&damaged);
    strbuf_release(&bytes);
    merge_recipe_release(&recipe);
    free(out);
    free(file);
    free(records);
    forget(&set);
}

// --- what is refused ---

static void refuse(struct merging *m, const char *text)
{
    struct error err;
    assert_int_equal(merge(m, &err), -1);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
    char *path = fs_join(m->out, "model.safetensors");
    assert_false(fs_exists(fs_system(), path));
    free(path);
}

static void inputs_that_do_not_fit_are_refused_with_every_difference(void **state)
{
    struct set set = make_set(*state, DTYPE_BF16);
    const struct recipe foreign = {.dtype = DTYPE_BF16, .seed = 77};
    const struct recipe renamed = {.dtype = DTYPE_BF16, .seed = 1, .rename = "e.weight"};
    const struct recipe reshaped = {.dtype = DTYPE_BF16, .seed = 1, .rows = 9};
    const struct recipe wide = {.dtype = DTYPE_F32, .seed = 1};
    struct merge_recipe recipe = usual(MERGE_TIES);
    char *out = fs_join(*state, "refused");
    struct merging m = {
        .sources = (const char *const *)set.vectors, .count = 2, .recipe = &recipe, .out = out};
    char *other = make_model(*state, "foreign", &foreign);
    m.base = other;
    refuse(&m, "was taken from other weights than those in");
    free(other);
    m.base = other = make_model(*state, "renamed", &renamed);
    refuse(&m, "4 differences between the inputs: 'e.weight' is in");
    refuse(&m, "'d.weight' is in");
    free(other);
    m.base = other = make_model(*state, "reshaped", &reshaped);
    refuse(&m, "'d.weight' is [9, 100] in");
    m.sources = (const char *const *)set.tuned;
    refuse(&m, "and [10, 100] in");
    free(other);
    m.base = other = make_model(*state, "wide", &wide);
    refuse(&m, "'a.weight' is F32 in");
    free(other);
    merge_recipe_release(&recipe);
    free(out);
    forget(&set);
}

static void another_tokenizer_or_vocabulary_is_refused(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    struct merge_recipe recipe = usual(MERGE_TIES);
    char *out = fs_join(*state, "refused");
    struct merging m = {.base = set.base,
                        .sources = (const char *const *)set.tuned,
                        .count = 2,
                        .recipe = &recipe,
                        .out = out};
    write_text(set.base, "tokenizer.json", "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 1}}}");
    write_text(set.tuned[0], "tokenizer.json", "{\"model\": {\"vocab\": {\"b\": 1, \"a\": 0}}}");
    refuse(&m, "1 differences between the inputs: tokenizer.json is in");
    write_text(set.tuned[1], "tokenizer.json",
               "{\"model\":{\"vocab\":{\"a\": 0, \"b\": 2, \"c\": 3}}}");
    refuse(&m, "2 differences between the inputs: tokenizer.json/model/vocab/b is 1 in");
    refuse(&m, "tokenizer.json/model/vocab/c is absent in");
    write_text(set.tuned[1], "tokenizer.json", "{\"model\": {\"vocab\": {\"a\": 0, \"b\": 1}}}");
    write_text(set.base, "config.json", "{\"vocab_size\": 10}");
    write_text(set.tuned[1], "config.json", "{\"vocab_size\": 12}");
    refuse(&m, "config.json/vocab_size is 10 in");
    write_text(set.tuned[1], "config.json", "{\"vocab_size\": 10, \"use_cache\": true}");
    must_merge(&m);
    merge_recipe_release(&recipe);
    free(out);
    forget(&set);
}

static void values_that_are_not_finite_are_refused_and_the_tensor_named(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    struct set set = make_set(*state, DTYPE_F16);
    struct merge_recipe recipe = usual(MERGE_TASK_ARITHMETIC);
    char *out = fs_join(*state, "refused");
    struct merging m = {.base = set.base, .count = 1, .recipe = &recipe, .out = out};
    for (int i = 0; i < 3; i++) {
        const struct recipe poisoned = {.dtype = DTYPE_F16, .seed = 1, .poison = bad[i]};
        char *model = make_model(*state, "poisoned", &poisoned);
        m.sources = (const char *const[]){model};
        refuse(&m, "tensor 'd.weight' in");
        refuse(&m, "holds 1 values that are not finite");
        free(model);
    }
    merge_recipe_release(&recipe);
    recipe = recipe_of(MERGE_TASK_ARITHMETIC);
    merge_recipe_set(&recipe, SETTING_LAMBDA, 1e6);
    m.sources = (const char *const *)set.vectors;
    struct error err;
    assert_int_equal(merge(&m, &err), -1);
    assert_non_null(strstr(err.text, "elements of merged tensor 'a.weight' are too large for f16"));
    merge_recipe_release(&recipe);
    free(out);
    forget(&set);
}

static void senseless_recipes_are_refused(void **state)
{
    static const struct {
        enum merge_method method;
        enum merge_setting setting;
        double value;
        size_t count;
        const char *text;
    } cases[] = {
        {MERGE_LINEAR, SETTING_WEIGHT, NAN, 2, "weight nan is outside"},
        {MERGE_LINEAR, SETTING_WEIGHT, 0, 2, "the weights sum to 0"},
        {MERGE_TIES, SETTING_LAMBDA, INFINITY, 2, "lambda inf is outside"},
        {MERGE_TIES, SETTING_DENSITY, 0, 2, "density 0 is outside"},
        {MERGE_TIES, SETTING_DENSITY, 1.5, 2, "density 1.5 is outside"},
        {MERGE_DELLA, SETTING_DENSITY, 0.1, 2, "density 0.1 +- epsilon 0.15 must lie inside"},
        {MERGE_SLERP, SETTING_T, 0.5, 3, "slerp merges 2 models, not 3"},
        {MERGE_MODEL_STOCK, SETTING_WEIGHT, 1, 1, "model_stock merges at least 2 models, not 1"},
        {MERGE_TIES, SETTING_WEIGHT, 1, 0, "nothing to merge"},
    };
    struct set set = make_set(*state, DTYPE_F32);
    char *out = fs_join(*state, "refused");
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct merge_recipe recipe = recipe_of(cases[c].method);
        merge_recipe_set(&recipe, cases[c].setting, cases[c].value);
        struct merging m = {.base = set.base,
                            .sources = (const char *const *)set.vectors,
                            .count = cases[c].count,
                            .recipe = &recipe,
                            .out = out};
        refuse(&m, cases[c].text);
        merge_recipe_release(&recipe);
    }
    struct merge_recipe recipe = usual(MERGE_TIES);
    struct merging m = {
        .sources = (const char *const *)set.tuned, .count = 2, .recipe = &recipe, .out = out};
    refuse(&m, "ties needs the base");
    recipe.method = MERGE_LINEAR;
    m.sources = (const char *const *)set.vectors;
    refuse(&m, "is a task vector: name the base");
    m.base = set.base;
    m.memory = 1 << 20;
    refuse(&m, "MB of memory are not enough");
    merge_recipe_release(&recipe);
    free(out);
    forget(&set);
}

static void an_input_is_never_overwritten(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    struct merge_recipe recipe = usual(MERGE_TIES);
    struct error err;
    char *roundabout = fs_join(*state, "tuned0/../base/");
    struct merging m = {.base = set.base,
                        .sources = (const char *const *)set.tuned,
                        .count = 2,
                        .recipe = &recipe,
                        .out = roundabout};
    assert_int_equal(merge(&m, &err), -1);
    assert_non_null(strstr(err.text, "is an input itself"));
    m.out = set.tuned[1];
    assert_int_equal(merge(&m, &err), -1);
    assert_non_null(strstr(err.text, "is an input itself"));
    merge_recipe_release(&recipe);
    free(roundabout);
    forget(&set);
}

static void what_is_not_a_task_vector_is_refused(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    struct merge_recipe recipe = usual(MERGE_TIES);
    char *model = fs_join(set.base, "model.safetensors"), *out = fs_join(*state, "refused");
    char *absent = fs_join(*state, "absent.safetensors");
    struct merging m = {.base = set.base, .count = 1, .recipe = &recipe, .out = out};
    m.sources = (const char *const[]){model};
    refuse(&m, "not a task vector: make one with `memo vector");
    m.sources = (const char *const[]){absent};
    refuse(&m, "absent.safetensors");
    merge_recipe_release(&recipe);
    free(model);
    free(absent);
    free(out);
    forget(&set);
}

// --- tied heads ---

static char *make_tied(const char *parent, const char *name, uint64_t seed, bool tied)
{
    static const struct safetensors_entry entries[] = {
        {.name = "lm_head.weight", .dtype = ST_BF16, .rank = 2, .shape = {20, 10}},
        {.name = "model.embed_tokens.weight", .dtype = ST_BF16, .rank = 2, .shape = {20, 10}}};
    struct safetensors_writer *writer;
    struct error err;
    char *directory = fs_join(parent, name), *path = fs_join(directory, "model.safetensors");
    uint16_t values[200];
    assert_int_equal(fs_make_directories(fs_system(), directory, &err), 0);
    assert_int_equal(safetensors_writer_create(fs_system(), path, entries, 2, NULL, &writer, &err),
                     0);
    for (uint64_t t = 0; t < 2; t++) {
        for (size_t i = 0; i < 200; i++)
            values[i] = bf16_from_f32((float)random_normal(seed, tied ? 0 : t, i));
        assert_int_equal(safetensors_writer_write(writer, values, sizeof(values), &err), 0);
    }
    assert_int_equal(safetensors_writer_finish(writer, &err), 0);
    safetensors_writer_destroy(writer);
    free(path);
    return directory;
}

static void tied_heads_stay_tied(void **state)
{
    char *base = make_tied(*state, "base", 1, true), *a = make_tied(*state, "a", 2, true);
    char *b = make_tied(*state, "b", 3, true), *untied = make_tied(*state, "untied", 4, false);
    char *out = fs_join(*state, "out");
    struct merge_recipe recipe = usual(MERGE_DARE_TIES); // its masks depend on the tensor's name
    struct merging m = {.base = base,
                        .sources = (const char *const[]){a, b},
                        .count = 2,
                        .recipe = &recipe,
                        .out = out};
    struct safetensors merged;
    struct error err;
    must_merge(&m);
    assert_int_equal(safetensors_open(out, &merged, &err), 0);
    assert_memory_equal(merged.entries[0].data, merged.entries[1].data, merged.entries[0].bytes);
    safetensors_close(&merged);
    m.sources = (const char *const[]){a, untied};
    assert_int_equal(merge(&m, &err), -1);
    assert_non_null(strstr(err.text, "the head of '"));
    assert_non_null(strstr(err.text, "untied' is not its embedding"));
    merge_recipe_release(&recipe);
    free(base);
    free(a);
    free(b);
    free(untied);
    free(out);
}

#define WITH_DIRECTORY(test)                                                                       \
    cmocka_unit_test_setup_teardown(test, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_DIRECTORY(ranks_and_threads_change_no_byte),
        WITH_DIRECTORY(base_plus_vector_is_the_tuned_model_and_minus_it_the_base),
        WITH_DIRECTORY(vectors_and_models_give_the_same),
        WITH_DIRECTORY(the_order_of_vectors_changes_no_byte),
        WITH_DIRECTORY(a_global_trim_has_one_threshold),
        WITH_DIRECTORY(memo_ref_is_what_its_authors_computed),
        WITH_DIRECTORY(a_merge_that_dies_anywhere_continues),
        WITH_DIRECTORY(damaged_remains_are_merged_again),
        WITH_DIRECTORY(inputs_that_do_not_fit_are_refused_with_every_difference),
        WITH_DIRECTORY(another_tokenizer_or_vocabulary_is_refused),
        WITH_DIRECTORY(values_that_are_not_finite_are_refused_and_the_tensor_named),
        WITH_DIRECTORY(senseless_recipes_are_refused),
        WITH_DIRECTORY(an_input_is_never_overwritten),
        WITH_DIRECTORY(what_is_not_a_task_vector_is_refused),
        WITH_DIRECTORY(tied_heads_stay_tied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
