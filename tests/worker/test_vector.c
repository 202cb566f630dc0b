// SPDX-License-Identifier: Apache-2.0
// Task vectors and merging on files: from two model directories to a vector, and from vectors back
// to a model; and everything that can be wrong with them.
#include "base/mem.h"
#include "base/random.h"
#include "kernels/device.h"
#include "tests/base/temporary_directory.h"
#include "worker/merge/vector.h"
#include "worker/merge/weights.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// A small model: some tensors, a dtype, one file or two shards.
struct shape {
    const char *name;
    uint64_t rows, columns;
};
static const struct shape shapes[] = {
    {"a.weight", 31, 33}, {"b.bias", 1, 1}, {"c.empty", 0, 4}, {"d.weight", 10, 100}};
#define TENSORS 4
#define MOST 1023

struct recipe {
    enum dtype dtype;
    bool sharded;
    uint64_t seed; // of the values
    double change; // standard deviation of what is added
    uint64_t change_seed;
    float poison;       // replaces element 3 of d.weight when not 0
    const char *rename; // d.weight's name, when not NULL
    uint64_t rows;      // of d.weight, when not 0
};

static enum safetensors_dtype file_dtype(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? ST_F32 : dtype == DTYPE_BF16 ? ST_BF16 : ST_F16;
}

static struct safetensors_entry entry_of(const struct recipe *recipe, size_t t)
{
    struct safetensors_entry entry = {.name = shapes[t].name,
                                      .dtype = file_dtype(recipe->dtype),
                                      .rank = 2,
                                      .shape = {shapes[t].rows, shapes[t].columns}};
    if (t == 3 && recipe->rename)
        entry.name = recipe->rename;
    if (t == 3 && recipe->rows)
        entry.shape[0] = recipe->rows;
    return entry;
}

static size_t make_values(const struct recipe *recipe, size_t t, void *stored)
{
    const struct safetensors_entry entry = entry_of(recipe, t);
    const size_t count = entry.shape[0] * entry.shape[1];
    float x[2 * MOST];
    for (size_t i = 0; i < count; i++)
        x[i] = (float)(random_normal(recipe->seed, t, i) +
                       recipe->change * random_normal(recipe->change_seed, 50 + t, i));
    if (t == 3 && recipe->poison != 0)
        x[3] = recipe->poison;
    convert_from_f32(stored, recipe->dtype, x, count);
    return count * dtype_bytes(recipe->dtype);
}

static void write_file(const struct recipe *recipe, const char *path, size_t first, size_t count)
{
    struct safetensors_entry entries[TENSORS];
    struct safetensors_writer *writer;
    struct error err;
    uint8_t stored[8 * MOST];
    for (size_t t = 0; t < count; t++)
        entries[t] = entry_of(recipe, first + t);
    assert_int_equal(
        safetensors_writer_create(fs_system(), path, entries, count, NULL, &writer, &err), 0);
    for (size_t t = first; t < first + count; t++) {
        const size_t bytes = make_values(recipe, t, stored);
        assert_int_equal(safetensors_writer_write(writer, stored, bytes, &err), 0);
    }
    assert_int_equal(safetensors_writer_finish(writer, &err), 0);
    safetensors_writer_destroy(writer);
}

static void write_text(const char *directory, const char *name, const char *text)
{
    struct error err;
    char *path = fs_join(directory, name);
    assert_int_equal(fs_write_text(fs_system(), path, text, strlen(text), &err), 0);
    free(path);
}

// Makes the model directory parent/name and returns its path.
static char *make_model(const char *parent, const char *name, const struct recipe *recipe)
{
    static const char index[] =
        "{\"weight_map\": {\"a.weight\": \"model-1.safetensors\", \"b.bias\": "
        "\"model-1.safetensors\", \"c.empty\": \"model-2.safetensors\", \"d.weight\": "
        "\"model-2.safetensors\"}}";
    struct error err;
    char *directory = fs_join(parent, name);
    assert_int_equal(fs_make_directories(fs_system(), directory, &err), 0);
    write_text(directory, "config.json", "{\"model_type\": \"qwen2\"}");
    char *one = fs_join(directory, recipe->sharded ? "model-1.safetensors" : "model.safetensors");
    char *two = fs_join(directory, "model-2.safetensors");
    write_file(recipe, one, 0, recipe->sharded ? 2 : TENSORS);
    if (recipe->sharded) {
        write_file(recipe, two, 2, 2);
        write_text(directory, "model.safetensors.index.json", index);
    }
    free(one);
    free(two);
    return directory;
}

static const double ones[] = {1, 1, 1};
static const struct merge_options add = {
    .method = MERGE_TASK_ARITHMETIC, .weights = ones, .lambda = 1, .density = 1};

static int merge_into(const char *base, const char *const *vectors, size_t count,
                      const struct merge_options *options, const char *out, struct error *err)
{
    struct merge_stats stats;
    return merge_models(fs_system(), base, vectors, count, options, out, &stats, err);
}

static char *make_vector(const char *parent, const char *name, const char *base, const char *tuned)
{
    struct vector_stats stats;
    struct error err;
    char *path = fs_join(parent, name);
    if (vector_write(fs_system(), base, tuned, path, &stats, &err))
        fail_msg("vector_write: %s", err.text);
    return path;
}

// Elements that differ between two models. None may by more than two roundings explain: of tau,
// whose magnitude is at most 1/16 here, to float32, and of the result.
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
        enum dtype dtype;
        assert_string_equal(a.entries[i].name, b.entries[i].name);
        assert_int_equal(a.entries[i].dtype, b.entries[i].dtype);
        assert_int_equal(weights_dtype(&a.entries[i], &dtype, &err), 0);
        const size_t count = weights_count(&a.entries[i]);
        convert_to_f32(x, a.entries[i].data, dtype, count);
        convert_to_f32(y, b.entries[i].data, dtype, count);
        for (size_t j = 0; j < count; j++) {
            assert_true(fabs((double)x[j] - (double)y[j]) <=
                        0x1p-29 + 0x1p-24 * fabs((double)y[j]));
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
    char *out = fs_join(parent, "merged");
    char *config = fs_join(out, "config.json");
    struct error err;
    if (merge_into(base, (const char *const[]){vector}, 1, &add, out, &err))
        fail_msg("merge_models: %s", err.text);
    // half precision has so few digits that the f32 difference is exact
    const size_t differences = count_differences(out, tuned);
    assert_true(dtype == DTYPE_F32 ? differences < 100 : differences == 0);
    assert_true(fs_exists(fs_system(), config));
    free(base);
    free(tuned);
    free(vector);
    free(out);
    free(config);
}

static void base_plus_vector_is_the_tuned_model(void **state)
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

static void statistics_describe_the_vector(void **state)
{
    const struct recipe base_recipe = {.dtype = DTYPE_F32, .seed = 1};
    const struct recipe tuned_recipe = {.dtype = DTYPE_F32, .seed = 1, .poison = 100};
    char *base = make_model(*state, "base", &base_recipe);
    char *tuned = make_model(*state, "tuned", &tuned_recipe);
    char *path = fs_join(*state, "v.safetensors");
    struct vector_stats stats;
    struct error err;
    assert_int_equal(vector_write(fs_system(), base, tuned, path, &stats, &err), 0);
    const double changed = 100 - (double)(float)random_normal(1, 3, 3);
    assert_int_equal(stats.io.tensors, 4);
    assert_int_equal(stats.io.parameters, 2024);
    assert_int_equal(stats.zeros, 2023);
    assert_true(fabs(stats.largest - changed) < 1e-4);
    assert_true(fabs(stats.norm - changed) < 1e-4);
    assert_int_equal(stats.io.bytes_read, 2 * 4 * 2024);
    free(base);
    free(tuned);
    free(path);
}

// Three vectors of one base; paths are freed by forget.
struct set {
    char *base;
    char *vectors[3];
};

static struct set make_set(const char *parent, enum dtype dtype)
{
    struct set set;
    const struct recipe base_recipe = {.dtype = dtype, .seed = 1};
    set.base = make_model(parent, "base", &base_recipe);
    for (uint64_t k = 0; k < 3; k++) {
        const struct recipe recipe = {
            .dtype = dtype, .seed = 1, .change = 0.1, .change_seed = 10 + k};
        char name[32];
        snprintf(name, sizeof(name), "tuned%d", (int)k);
        char *tuned = make_model(parent, name, &recipe);
        snprintf(name, sizeof(name), "v%d.safetensors", (int)k);
        set.vectors[k] = make_vector(parent, name, set.base, tuned);
        free(tuned);
    }
    return set;
}

static void forget(struct set *set)
{
    free(set->base);
    for (int k = 0; k < 3; k++)
        free(set->vectors[k]);
}

static void read_merged(const char *out, struct strbuf *bytes)
{
    struct error err;
    char *path = fs_join(out, "model.safetensors");
    strbuf_reset(bytes);
    assert_int_equal(fs_read(fs_system(), path, bytes, &err), 0);
    free(path);
}

static void the_order_of_vectors_changes_no_byte(void **state)
{
    static const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                     {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    const double weights[] = {1, 0.3, 0.7};
    struct set set = make_set(*state, DTYPE_F32);
    char *out = fs_join(*state, "merged");
    for (int m = 0; m < 3; m++) {
        struct strbuf first = {0}, bytes = {0};
        for (int o = 0; o < 6; o++) {
            const char *vectors[4];
            double w[4];
            struct error err;
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
            const struct merge_options options = {
                .method = (enum merge_method)m, .weights = w, .lambda = 0.9, .density = 0.3};
            assert_int_equal(merge_into(set.base, vectors, 4, &options, out, &err), 0);
            read_merged(out, o == 0 ? &first : &bytes);
            if (o > 0) {
                assert_int_equal(bytes.length, first.length);
                assert_memory_equal(bytes.bytes, first.bytes, first.length);
            }
        }
        strbuf_release(&first);
        strbuf_release(&bytes);
    }
    free(out);
    forget(&set);
}

// Merging fails, says so, and leaves no model.
static void refuse(const char *parent, const char *base, const char *vector,
                   const struct merge_options *options, const char *text)
{
    struct error err;
    char *out = fs_join(parent, "refused");
    char *path = fs_join(out, "model.safetensors");
    assert_int_equal(merge_into(base, &vector, 1, options, out, &err), -1);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
    assert_false(fs_exists(fs_system(), path));
    free(out);
    free(path);
}

static void vectors_of_another_base_are_refused(void **state)
{
    struct set set = make_set(*state, DTYPE_BF16);
    const struct recipe foreign = {.dtype = DTYPE_BF16, .seed = 77};
    const struct recipe renamed = {.dtype = DTYPE_BF16, .seed = 1, .rename = "e.weight"};
    const struct recipe reshaped = {.dtype = DTYPE_BF16, .seed = 1, .rows = 9};
    char *other = make_model(*state, "foreign", &foreign);
    refuse(*state, other, set.vectors[0], &add, "was taken from other weights than those in");
    free(other);
    other = make_model(*state, "renamed", &renamed);
    refuse(*state, other, set.vectors[0], &add, "2 tensors differ: 'e.weight' is in");
    refuse(*state, other, set.vectors[0], &add, "'d.weight' is in");
    free(other);
    other = make_model(*state, "reshaped", &reshaped);
    refuse(*state, other, set.vectors[0], &add, "1 tensors differ: 'd.weight' is [9, 100] in");
    refuse(*state, other, set.vectors[0], &add, "and [10, 100] in");
    free(other);
    forget(&set);
}

static void models_that_do_not_match_give_no_vector(void **state)
{
    const struct recipe base_recipe = {.dtype = DTYPE_F16, .seed = 1};
    const struct recipe reshaped = {.dtype = DTYPE_F16, .seed = 1, .rows = 11};
    char *base = make_model(*state, "base", &base_recipe);
    char *tuned = make_model(*state, "tuned", &reshaped);
    char *path = fs_join(*state, "v.safetensors");
    struct vector_stats stats;
    struct error err;
    assert_int_equal(vector_write(fs_system(), base, tuned, path, &stats, &err), -1);
    assert_non_null(strstr(err.text, "'d.weight' is [10, 100] in"));
    assert_false(fs_exists(fs_system(), path));
    free(base);
    free(tuned);
    free(path);
}

static void a_model_with_nan_or_infinity_gives_no_vector(void **state)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    const struct recipe base_recipe = {.dtype = DTYPE_BF16, .seed = 1};
    char *base = make_model(*state, "base", &base_recipe);
    char *path = fs_join(*state, "v.safetensors");
    for (int i = 0; i < 3; i++) {
        const struct recipe recipe = {.dtype = DTYPE_BF16, .seed = 1, .poison = bad[i]};
        char *tuned = make_model(*state, "tuned", &recipe);
        struct vector_stats stats;
        struct error err;
        assert_int_equal(vector_write(fs_system(), base, tuned, path, &stats, &err), -1);
        assert_non_null(strstr(err.text, "tensor 'd.weight' is not finite at element 3"));
        assert_false(fs_exists(fs_system(), path));
        free(tuned);
    }
    free(base);
    free(path);
}

// Changes one float of the file's data, counted from its end.
static void overwrite_float(const char *path, size_t from_end, float value)
{
    struct strbuf bytes = {0};
    struct error err;
    assert_int_equal(fs_read(fs_system(), path, &bytes, &err), 0);
    memcpy(bytes.bytes + bytes.length - 4 * from_end, &value, 4);
    assert_int_equal(fs_write_text(fs_system(), path, bytes.bytes, bytes.length, &err), 0);
    strbuf_release(&bytes);
}

static void a_vector_with_nan_is_refused_and_the_tensor_named(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    overwrite_float(set.vectors[0], 1, NAN);
    refuse(*state, set.base, set.vectors[0], &add, "tensor 'd.weight' is nan at element 999");
    overwrite_float(set.vectors[0], 1, -INFINITY);
    refuse(*state, set.base, set.vectors[0], &add, "tensor 'd.weight' is -inf at element 999");
    forget(&set);
}

static void a_result_too_large_for_the_dtype_is_refused(void **state)
{
    struct set set = make_set(*state, DTYPE_F16);
    struct merge_options large = add;
    large.lambda = 1e7;
    refuse(*state, set.base, set.vectors[0], &large, "inf at element");
    refuse(*state, set.base, set.vectors[0], &large, "as F16: lower lambda");
    forget(&set);
}

static void senseless_options_are_refused(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    const double nan_weight[] = {NAN}, zero[] = {0}, cancel[] = {0.1, 0.2, -0.3};
    struct merge_options o = add;
    struct error err;
    o.weights = nan_weight;
    refuse(*state, set.base, set.vectors[0], &o, "weight 1 is nan");
    o.weights = zero;
    o.method = MERGE_LINEAR;
    refuse(*state, set.base, set.vectors[0], &o, "the weights sum to 0");
    o.weights = cancel;
    assert_int_equal(merge_into(set.base, (const char *const *)set.vectors, 3, &o, "x", &err), -1);
    assert_non_null(strstr(err.text, "the weights sum to 0"));
    o = add;
    o.lambda = INFINITY;
    refuse(*state, set.base, set.vectors[0], &o, "lambda is inf");
    o = add;
    o.method = MERGE_TIES;
    o.density = 0;
    refuse(*state, set.base, set.vectors[0], &o, "density 0 is outside (0, 1]");
    o.density = NAN;
    refuse(*state, set.base, set.vectors[0], &o, "is outside (0, 1]");
    assert_int_equal(merge_into(set.base, NULL, 0, &add, "x", &err), -1);
    assert_non_null(strstr(err.text, "nothing to merge"));
    forget(&set);
}

static void the_base_is_never_overwritten(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    char *roundabout = fs_join(*state, "tuned0/../base/");
    struct error err;
    assert_int_equal(
        merge_into(set.base, (const char *const *)set.vectors, 1, &add, roundabout, &err), -1);
    assert_non_null(strstr(err.text, "is the base itself"));
    free(roundabout);
    forget(&set);
}

static void what_is_not_a_task_vector_is_refused(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    char *model = fs_join(set.base, "model.safetensors");
    char *absent = fs_join(*state, "absent.safetensors");
    refuse(*state, set.base, model, &add, "not a task vector: make one with `memo vector");
    refuse(*state, set.base, absent, &add, "absent.safetensors");
    free(model);
    free(absent);
    forget(&set);
}

static void a_truncated_vector_is_refused_at_every_length(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    char *cut = fs_join(*state, "cut.safetensors");
    struct strbuf bytes = {0};
    struct vector vector;
    struct error err;
    assert_int_equal(fs_read(fs_system(), set.vectors[0], &bytes, &err), 0);
    for (size_t length = 0; length < bytes.length; length += length < 700 ? 1 : 97) {
        assert_int_equal(fs_write_text(fs_system(), cut, bytes.bytes, length, &err), 0);
        assert_int_equal(vector_open(cut, &vector, &err), -1);
        assert_non_null(strstr(err.text, "cut.safetensors"));
    }
    strbuf_release(&bytes);
    free(cut);
    forget(&set);
}

// A safetensors file of one tensor with this metadata; opening it must fail and say so.
static void refuse_metadata(const char *parent, const char *const *metadata, const char *text)
{
    const struct safetensors_entry entry = {.name = "x", .dtype = ST_BF16, .rank = 1, .shape = {0}};
    struct safetensors_writer *writer;
    struct vector vector;
    struct error err;
    char *path = fs_join(parent, "odd.safetensors");
    assert_int_equal(
        safetensors_writer_create(fs_system(), path, &entry, 1, metadata, &writer, &err), 0);
    assert_int_equal(safetensors_writer_finish(writer, &err), 0);
    safetensors_writer_destroy(writer);
    assert_int_equal(vector_open(path, &vector, &err), -1);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
    free(path);
}

static void vectors_of_another_format_are_refused(void **state)
{
    refuse_metadata(*state, (const char *const[]){"format", "pt", NULL}, "not a task vector");
    refuse_metadata(*state,
                    (const char *const[]){"format", "memo task vector", "version", "2", NULL},
                    "version '2', this build reads '1'");
    refuse_metadata(*state, (const char *const[]){"format", "memo task vector", NULL},
                    "version 'none'");
    refuse_metadata(*state,
                    (const char *const[]){"format", "memo task vector", "version", "1", NULL},
                    "tensor 'x' is BF16, expected F32");
}

static size_t count_entries(const char *directory)
{
    struct fs_names names;
    struct error err;
    if (!fs_exists(fs_system(), directory))
        return 0;
    assert_int_equal(fs_list(fs_system(), directory, &names, &err), 0);
    const size_t count = names.count;
    fs_names_release(&names);
    return count;
}

static void a_full_disk_leaves_no_vector_and_no_model(void **state)
{
    struct set set = make_set(*state, DTYPE_BF16);
    char *tuned = fs_join(*state, "tuned0");
    char *v = fs_join(*state, "full.safetensors");
    char *out = fs_join(*state, "full");
    char *model = fs_join(out, "model.safetensors");
    const size_t before = count_entries(*state);
    for (uint64_t budget = 0; budget < 4096; budget += 409) {
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = budget};
        struct fs fs = fs_with_faults(&fault);
        struct vector_stats vector_stats;
        struct merge_stats stats;
        struct error err;
        assert_int_equal(vector_write(&fs, set.base, tuned, v, &vector_stats, &err), -1);
        assert_non_null(strstr(err.text, "no space left on device"));
        assert_int_equal(count_entries(*state), before);
        fault.write_budget_bytes = budget;
        assert_int_equal(merge_models(&fs, set.base, (const char *const *)set.vectors, 3, &add, out,
                                      &stats, &err),
                         -1);
        assert_non_null(strstr(err.text, "no space left on device"));
        assert_false(fs_exists(fs_system(), model));
        assert_true(count_entries(out) <= 1); // config.json
        char *config = fs_join(out, "config.json");
        remove(config);
        remove(out);
        free(config);
    }
    free(tuned);
    free(v);
    free(out);
    free(model);
    forget(&set);
}

static void every_failing_operation_leaves_nothing_under_the_final_name(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    char *tuned = fs_join(*state, "tuned0");
    char *v = fs_join(*state, "failing.safetensors");
    int64_t n = 1;
    for (;; n++) {
        struct fs_fault fault = {
            .inner = fs_system(), .write_budget_bytes = UINT64_MAX, .fail_operation = n};
        struct fs fs = fs_with_faults(&fault);
        struct vector_stats stats;
        struct error err;
        const int rc = vector_write(&fs, set.base, tuned, v, &stats, &err);
        if (fault.operations < n) {
            assert_int_equal(rc, 0);
            break;
        }
        assert_int_equal(rc, -1);
        // only the sync of the directory comes after the rename: then the file is whole
        struct vector vector;
        if (fs_exists(fs_system(), v)) {
            assert_int_equal(vector_open(v, &vector, &err), 0);
            vector_close(&vector);
            remove(v);
        }
    }
    assert_true(n > 5);
    free(tuned);
    free(v);
    forget(&set);
}

// The header's length decides where the data begins; other writers do not pad it.
static void tensors_at_odd_addresses_are_read(void **state)
{
    const struct recipe base_recipe = {.dtype = DTYPE_BF16, .seed = 1};
    char *base = make_model(*state, "base", &base_recipe);
    char *odd = make_model(*state, "odd", &base_recipe);
    char *path = fs_join(odd, "model.safetensors");
    char *v = fs_join(*state, "v.safetensors");
    struct strbuf bytes = {0}, moved = {0};
    struct vector_stats stats;
    struct error err;
    assert_int_equal(fs_read(fs_system(), path, &bytes, &err), 0);
    const size_t header = (size_t)(uint8_t)bytes.bytes[0] | (size_t)(uint8_t)bytes.bytes[1] << 8;
    const uint64_t longer = header + 1;
    for (int i = 0; i < 8; i++)
        strbuf_addc(&moved, (char)(longer >> (8 * i)));
    strbuf_add(&moved, bytes.bytes + 8, header);
    strbuf_addc(&moved, ' ');
    strbuf_add(&moved, bytes.bytes + 8 + header, bytes.length - 8 - header);
    assert_int_equal(fs_write_text(fs_system(), path, moved.bytes, moved.length, &err), 0);
    assert_int_equal(vector_write(fs_system(), base, odd, v, &stats, &err), 0);
    assert_int_equal(stats.zeros, stats.io.parameters);
    strbuf_release(&bytes);
    strbuf_release(&moved);
    free(base);
    free(odd);
    free(path);
    free(v);
}

#define WITH_DIRECTORY(test)                                                                       \
    cmocka_unit_test_setup_teardown(test, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_DIRECTORY(base_plus_vector_is_the_tuned_model),
        WITH_DIRECTORY(statistics_describe_the_vector),
        WITH_DIRECTORY(the_order_of_vectors_changes_no_byte),
        WITH_DIRECTORY(vectors_of_another_base_are_refused),
        WITH_DIRECTORY(models_that_do_not_match_give_no_vector),
        WITH_DIRECTORY(a_model_with_nan_or_infinity_gives_no_vector),
        WITH_DIRECTORY(a_vector_with_nan_is_refused_and_the_tensor_named),
        WITH_DIRECTORY(a_result_too_large_for_the_dtype_is_refused),
        WITH_DIRECTORY(senseless_options_are_refused),
        WITH_DIRECTORY(the_base_is_never_overwritten),
        WITH_DIRECTORY(what_is_not_a_task_vector_is_refused),
        WITH_DIRECTORY(a_truncated_vector_is_refused_at_every_length),
        WITH_DIRECTORY(vectors_of_another_format_are_refused),
        WITH_DIRECTORY(a_full_disk_leaves_no_vector_and_no_model),
        WITH_DIRECTORY(every_failing_operation_leaves_nothing_under_the_final_name),
        WITH_DIRECTORY(tensors_at_odd_addresses_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
