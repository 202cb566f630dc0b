// SPDX-License-Identifier: Apache-2.0
// Task vectors on disk: taken from two models, dense and trimmed, added and compared; and
// everything that can be wrong with them.
#include "base/mem.h"
#include "base/random.h"
#include "tests/base/temporary_directory.h"
#include "tests/worker/merge_fixture.h"
#include "worker/merge/select.h"
#include "worker/merge/vector_diff.h"
#include "worker/model/layout.h"
#include "worker/train/checkpoint_internal.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct vector_options dense = {DTYPE_F32, 1, 2};

static int take(const char *base, const char *tuned, const char *path, struct vector_stats *stats,
                struct error *err)
{
    return vector_write(fs_system(), base, tuned, path, &dense, stats, err);
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
    assert_int_equal(take(base, tuned, path, &stats, &err), 0);
    const double changed = 100 - (double)(float)random_normal(1, 3, 3);
    assert_int_equal(stats.tensors, 4);
    assert_int_equal(stats.parameters, 2024);
    assert_int_equal(stats.kept, 2024);
    assert_int_equal(stats.zeros, 2023);
    assert_true(fabs(stats.largest - changed) < 1e-4);
    assert_true(fabs(stats.norm - changed) < 1e-4);
    assert_int_equal(stats.bytes_read, 2 * 4 * 2024);
    assert_int_equal(stats.bytes_written, 4 * 2024);
    assert_false(stats.from_master);
    free(base);
    free(tuned);
    free(path);
}

// All of a tensor, and the same in pieces of odd lengths.
static float *read_all(const struct vector_tensor *tensor)
{
    const size_t count = vector_count(tensor);
    float *whole = mem_calloc(count + 1, sizeof(*whole));
    float *pieces = mem_calloc(count + 1, sizeof(*pieces));
    vector_read(tensor, 0, count, whole);
    for (size_t at = 0, length = 1; at < count; at += length, length = length * 3 % 101 + 1)
        vector_read(tensor, at, count - at < length ? count - at : length, pieces + at);
    assert_memory_equal(whole, pieces, count * sizeof(*whole));
    free(pieces);
    return whole;
}

static void a_trimmed_vector_holds_the_largest_changes(void **state)
{
    static const double densities[] = {0.001, 0.3, 0.77};
    struct set set = make_set(*state, DTYPE_BF16);
    struct vector whole, trimmed;
    struct vector_stats stats;
    struct error err;
    char *path = fs_join(*state, "trimmed.safetensors");
    assert_int_equal(vector_open(set.vectors[0], &whole, &err), 0);
    for (int d = 0; d < 6; d++) {
        const struct vector_options options = {d % 2 ? DTYPE_BF16 : DTYPE_F32, densities[d / 2], 2};
        assert_int_equal(
            vector_write(fs_system(), set.base, set.tuned[0], path, &options, &stats, &err), 0);
        assert_int_equal(vector_open(path, &trimmed, &err), 0);
        assert_true(trimmed.trimmed);
        assert_int_equal(trimmed.count, whole.count);
        for (size_t t = 0; t < whole.count; t++) {
            const size_t count = vector_count(&whole.tensors[t]);
            const uint64_t keep = merge_kept_count(options.density, count);
            float *x = read_all(&whole.tensors[t]), *y = read_all(&trimmed.tensors[t]);
            const struct magnitude_cut cut = magnitude_select(x, count, keep);
            assert_int_equal(vector_count(&trimmed.tensors[t]), count);
            for (size_t i = 0; i < count; i++) {
                float expected = magnitude_survives(x[i], i, cut) ? x[i] : 0;
                if (options.dtype == DTYPE_BF16)
                    expected = bf16_to_f32(bf16_from_f32(expected));
                assert_true(y[i] == expected);
            }
            free(x);
            free(y);
        }
        vector_close(&trimmed);
    }
    vector_close(&whole);
    free(path);
    forget(&set);
}

static void trimmed_bf16_takes_three_quarters_of_a_byte(void **state)
{
    struct set set = make_set(*state, DTYPE_BF16);
    const struct vector_options options = {DTYPE_BF16, 0.3, 1};
    struct vector_stats stats;
    struct error err;
    char *path = fs_join(*state, "v.safetensors");
    assert_int_equal(
        vector_write(fs_system(), set.base, set.tuned[0], path, &options, &stats, &err), 0);
    const double bytes = (double)stats.bytes_written / (double)stats.parameters;
    assert_true(bytes > 0.7 && bytes < 0.73);
    free(path);
    forget(&set);
}

static void vectors_are_added_scaled_and_negated(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    const double scales[] = {1, -0.5, 2};
    struct vector in[3], out;
    struct vector_stats stats;
    struct error err;
    char *path = fs_join(*state, "sum.safetensors");
    assert_int_equal(vector_combine(fs_system(), (const char *const *)set.vectors, scales, 3, "add",
                                    path, &dense, &stats, &err),
                     0);
    assert_int_equal(vector_open(path, &out, &err), 0);
    assert_string_equal(out.source, "add");
    for (int k = 0; k < 3; k++)
        assert_int_equal(vector_open(set.vectors[k], &in[k], &err), 0);
    assert_true(digest_equal(out.base, in[0].base));
    for (size_t t = 0; t < out.count; t++) {
        float *sum = read_all(&out.tensors[t]), *x[3];
        for (int k = 0; k < 3; k++)
            x[k] = read_all(&in[k].tensors[t]);
        for (size_t i = 0; i < vector_count(&out.tensors[t]); i++)
            assert_true(sum[i] ==
                        (float)((double)x[0][i] - 0.5 * (double)x[1][i] + 2 * (double)x[2][i]));
        for (int k = 0; k < 3; k++)
            free(x[k]);
        free(sum);
    }
    for (int k = 0; k < 3; k++)
        vector_close(&in[k]);
    vector_close(&out);
    free(path);
    forget(&set);
}

static void a_vector_minus_itself_is_nothing(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    const double scales[] = {1, -1};
    const char *const twice[] = {set.vectors[1], set.vectors[1]};
    struct vector_stats stats;
    struct error err;
    char *path = fs_join(*state, "nothing.safetensors");
    assert_int_equal(
        vector_combine(fs_system(), twice, scales, 2, "add", path, &dense, &stats, &err), 0);
    assert_true(stats.norm == 0);
    assert_int_equal(stats.zeros, stats.parameters);
    free(path);
    forget(&set);
}

static void two_vectors_are_compared_layer_by_layer(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    struct vector_diff diff;
    struct strbuf picture = {0};
    struct error err;
    assert_int_equal(vector_diff(set.vectors[0], set.vectors[0], &diff, &err), 0);
    assert_true(fabs(vector_cosine(&diff.total) - 1) < 1e-12);
    assert_int_equal(diff.total.conflicts, 0);
    assert_int_equal(diff.total.elements, 2024);
    assert_int_equal(diff.count, 0); // none of the tensors is in a layer
    vector_diff_release(&diff);
    assert_int_equal(vector_diff(set.vectors[0], set.vectors[1], &diff, &err), 0);
    assert_true(fabs(vector_cosine(&diff.total)) < 0.1); // independent changes
    assert_true(diff.total.conflicts > 2024 * 0.45 && diff.total.conflicts < 2024 * 0.55);
    vector_diff_draw(&diff, "<a>", "b", &picture);
    assert_non_null(strstr(picture.bytes, "A = &lt;a>"));
    assert_non_null(strstr(picture.bytes, "</svg>"));
    strbuf_release(&picture);
    vector_diff_release(&diff);
    forget(&set);
}

// A model of one layer in bf16, and a checkpoint whose float32 values round to it.
#define SMALL_CONFIG                                                                               \
    "{\"architectures\": [\"Qwen2ForCausalLM\"], \"model_type\": \"qwen2\", \"hidden_size\": 8, "  \
    "\"intermediate_size\": 12, \"vocab_size\": 20, \"num_hidden_layers\": 1, "                    \
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"rms_norm_eps\": 1e-6, "             \
    "\"tie_word_embeddings\": true, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\", "           \
    "\"max_position_embeddings\": 64}"

static void write_small(const char *directory, const struct layout *layout, const float *values)
{
    struct safetensors_entry entries[32] = {0};
    struct safetensors_writer *writer;
    struct error err;
    uint16_t stored[512];
    char *path = fs_join(directory, "model.safetensors");
    assert_int_equal(fs_make_directories(fs_system(), directory, &err), 0);
    write_text(directory, "config.json", SMALL_CONFIG);
    for (size_t i = 0; i < layout->parameter_count; i++) {
        const struct parameter *p = &layout->parameters[i];
        entries[i] = (struct safetensors_entry){.name = p->name, .dtype = ST_BF16, .rank = p->rank};
        memcpy(entries[i].shape, p->shape, (size_t)p->rank * sizeof(p->shape[0]));
    }
    assert_int_equal(safetensors_writer_create(fs_system(), path, entries, layout->parameter_count,
                                               NULL, &writer, &err),
                     0);
    for (size_t i = 0; i < layout->parameter_count; i++) {
        const struct parameter *p = &layout->parameters[i];
        convert_from_f32(stored, DTYPE_BF16, values + p->offset, p->count);
        assert_int_equal(safetensors_writer_write(writer, stored, 2 * p->count, &err), 0);
    }
    assert_int_equal(safetensors_writer_finish(writer, &err), 0);
    safetensors_writer_destroy(writer);
    free(path);
}

static void write_checkpoint(const char *directory, const float *values, uint64_t elements)
{
    struct digest digest;
    const struct manifest manifest = {.step = 3,
                                      .form = {DTYPE_F32, MOMENTS_F32},
                                      .elements = elements,
                                      .part_elements = 4096,
                                      .parts = &digest,
                                      .count = 1};
    const struct part_header header = part_header(&manifest, 0);
    const size_t bytes = sizeof(header) + weights_bytes(&manifest, &header);
    struct error err;
    char *checkpoints = fs_join(directory, "run/checkpoints"), *file = mem_calloc(bytes, 1);
    char *step = step_path(checkpoints, 3), *part = part_path(step, 0);
    memcpy(file, &header, sizeof(header));
    memcpy(file + sizeof(header), values, elements * sizeof(float));
    digest = digest_bytes(file, bytes);
    assert_int_equal(fs_make_directories(fs_system(), step, &err), 0);
    assert_int_equal(
        fs_write_atomic(fs_system(), part, &(struct fs_part){file, bytes}, 1, true, &err), 0);
    assert_int_equal(manifest_write(&manifest, fs_system(), step, &err), 0);
    free(checkpoints);
    free(file);
    free(step);
    free(part);
}

static void the_master_of_a_checkpoint_is_taken_where_it_is_of_these_weights(void **state)
{
    struct model_config config;
    struct layout layout;
    struct vector_stats stats;
    struct vector vector;
    struct error err;
    float base_values[2048], values[2048];
    char *base = fs_join(*state, "base"), *tuned = fs_join(*state, "tuned");
    char *path = fs_join(*state, "v.safetensors");
    assert_int_equal(model_config_parse(SMALL_CONFIG, strlen(SMALL_CONFIG), &config, &err), 0);
    layout_create(&config, &layout);
    assert_true(layout.elements <= 2048 && layout.parameter_count <= 32);
    for (size_t i = 0; i < layout.elements; i++) {
        base_values[i] = bf16_to_f32(bf16_from_f32((float)random_normal(1, 0, i)));
        values[i] = base_values[i] + (float)random_normal(1, 1, i) / 1e4f; // below a place of bf16
    }
    write_small(base, &layout, base_values);
    write_small(tuned, &layout, values);
    write_checkpoint(tuned, values, layout.elements);
    assert_int_equal(take(base, tuned, path, &stats, &err), 0);
    assert_true(stats.from_master);
    assert_int_equal(vector_open(path, &vector, &err), 0);
    assert_string_equal(vector.source, "checkpoint");
    for (size_t i = 0; i < layout.parameter_count; i++) {
        const struct parameter *p = &layout.parameters[i];
        float *tau = read_all(vector_find(&vector, p->name));
        for (size_t j = 0; j < p->count; j++)
            assert_true(tau[j] == values[p->offset + j] - base_values[p->offset + j]);
        free(tau);
    }
    vector_close(&vector);
    values[7] += 1; // the checkpoint of another step
    write_checkpoint(tuned, values, layout.elements);
    assert_int_equal(take(base, tuned, path, &stats, &err), 0);
    assert_false(stats.from_master);
    layout_release(&layout);
    free(base);
    free(tuned);
    free(path);
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
    assert_int_equal(take(base, tuned, path, &stats, &err), -1);
    assert_non_null(strstr(err.text, "1 tensors differ: 'd.weight' is [10, 100] in"));
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
        assert_int_equal(take(base, tuned, path, &stats, &err), -1);
        assert_non_null(strstr(err.text, "tensor 'd.weight' in"));
        assert_non_null(strstr(err.text, "holds 1 values that are not finite"));
        assert_false(fs_exists(fs_system(), path));
        free(tuned);
    }
    free(base);
    free(path);
}

static void a_truncated_vector_is_refused_at_every_length(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    const struct vector_options trim = {DTYPE_F32, 0.3, 1};
    char *cut = fs_join(*state, "cut.safetensors"), *trimmed = fs_join(*state, "t.safetensors");
    struct vector_stats stats;
    struct error err;
    assert_int_equal(
        vector_write(fs_system(), set.base, set.tuned[0], trimmed, &trim, &stats, &err), 0);
    for (int v = 0; v < 2; v++) {
        struct strbuf bytes = {0};
        struct vector vector;
        assert_int_equal(fs_read(fs_system(), v ? trimmed : set.vectors[0], &bytes, &err), 0);
        for (size_t length = 0; length < bytes.length; length += length < 64 ? 1 : 61) {
            assert_int_equal(fs_write_text(fs_system(), cut, bytes.bytes, length, &err), 0);
            assert_int_equal(vector_open(cut, &vector, &err), -1);
            assert_non_null(strstr(err.text, "cut.safetensors"));
        }
        strbuf_release(&bytes);
    }
    free(cut);
    free(trimmed);
    forget(&set);
}

// A flipped bit of a mask means another number of values, or one beyond the end.
static void a_mask_that_does_not_fit_its_values_is_refused(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    const struct vector_options trim = {DTYPE_F32, 0.3, 1};
    char *path = fs_join(*state, "t.safetensors");
    struct vector_stats stats;
    struct vector vector;
    struct strbuf bytes = {0};
    struct error err;
    assert_int_equal(vector_write(fs_system(), set.base, set.tuned[0], path, &trim, &stats, &err),
                     0);
    assert_int_equal(fs_read(fs_system(), path, &bytes, &err), 0);
    const size_t values = (size_t)(4 * (merge_kept_count(0.3, 1000)));
    const size_t masks = bytes.length - values - 125;
    for (size_t i = 0; i < 125 * 8; i += 31) {
        bytes.bytes[masks + i / 8] ^= (char)(1 << i % 8);
        assert_int_equal(fs_write_text(fs_system(), path, bytes.bytes, bytes.length, &err), 0);
        assert_int_equal(vector_open(path, &vector, &err), -1);
        assert_non_null(strstr(err.text, "the mask of tensor 'd.weight'"));
        bytes.bytes[masks + i / 8] ^= (char)(1 << i % 8);
    }
    strbuf_release(&bytes);
    free(path);
    forget(&set);
}

// A safetensors file of one tensor with this metadata; opening it must fail and say so.
static void refuse_metadata(const char *parent, const char *const *metadata, const char *text)
{
    const struct safetensors_entry entry = {.name = "x", .dtype = ST_F16, .rank = 1, .shape = {0}};
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

#define ZEROS "00000000000000000000000000000000"

static void vectors_of_another_format_are_refused(void **state)
{
    refuse_metadata(*state, (const char *const[]){"format", "pt", NULL}, "not a task vector");
    refuse_metadata(*state,
                    (const char *const[]){"format", "memo task vector", "version", "1", NULL},
                    "version '1', this build reads '2'");
    refuse_metadata(*state, (const char *const[]){"format", "memo task vector", NULL},
                    "version 'none'");
    refuse_metadata(*state,
                    (const char *const[]){"format", "memo task vector", "version", "2", "layout",
                                          "sparse", NULL},
                    "layout 'sparse' is neither");
    refuse_metadata(*state,
                    (const char *const[]){"format", "memo task vector", "version", "2", "layout",
                                          "dense", "base", "x", NULL},
                    "no digest 'base'");
    refuse_metadata(*state,
                    (const char *const[]){"format", "memo task vector", "version", "2", "layout",
                                          "dense", "base", ZEROS, "tuned", ZEROS, NULL},
                    "tensor 'x' is F16, expected F32 or BF16");
}

static void a_full_disk_leaves_no_vector(void **state)
{
    struct set set = make_set(*state, DTYPE_BF16);
    char *v = fs_join(*state, "full.safetensors");
    const size_t before = count_entries(*state);
    for (uint64_t budget = 0; budget < 4096; budget += 409) {
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = budget};
        struct fs fs = fs_with_faults(&fault);
        struct vector_stats stats;
        struct error err;
        assert_int_equal(vector_write(&fs, set.base, set.tuned[0], v, &dense, &stats, &err), -1);
        assert_non_null(strstr(err.text, "no space left on device"));
        assert_int_equal(count_entries(*state), before);
    }
    free(v);
    forget(&set);
}

static void every_failing_operation_leaves_nothing_under_the_final_name(void **state)
{
    struct set set = make_set(*state, DTYPE_F32);
    char *v = fs_join(*state, "failing.safetensors");
    int64_t n = 1;
    for (;; n++) {
        struct fs_fault fault = {
            .inner = fs_system(), .write_budget_bytes = UINT64_MAX, .fail_operation = n};
        struct fs fs = fs_with_faults(&fault);
        struct vector_stats stats;
        struct error err;
        const int rc = vector_write(&fs, set.base, set.tuned[0], v, &dense, &stats, &err);
        if (fault.operations < n) {
            assert_int_equal(rc, 0);
            break;
        }
        // a run directory that cannot be listed holds no master: that is no failure
        struct vector vector;
        if (fs_exists(fs_system(), v)) {
            assert_int_equal(vector_open(v, &vector, &err), 0);
            vector_close(&vector);
            remove(v);
        } else {
            assert_int_equal(rc, -1);
        }
    }
    assert_true(n > 5);
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
    assert_int_equal(take(base, odd, v, &stats, &err), 0);
    assert_int_equal(stats.zeros, stats.parameters);
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
        WITH_DIRECTORY(statistics_describe_the_vector),
        WITH_DIRECTORY(a_trimmed_vector_holds_the_largest_changes),
        WITH_DIRECTORY(trimmed_bf16_takes_three_quarters_of_a_byte),
        WITH_DIRECTORY(vectors_are_added_scaled_and_negated),
        WITH_DIRECTORY(a_vector_minus_itself_is_nothing),
        WITH_DIRECTORY(two_vectors_are_compared_layer_by_layer),
        WITH_DIRECTORY(the_master_of_a_checkpoint_is_taken_where_it_is_of_these_weights),
        WITH_DIRECTORY(models_that_do_not_match_give_no_vector),
        WITH_DIRECTORY(a_model_with_nan_or_infinity_gives_no_vector),
        WITH_DIRECTORY(a_truncated_vector_is_refused_at_every_length),
        WITH_DIRECTORY(a_mask_that_does_not_fit_its_values_is_refused),
        WITH_DIRECTORY(vectors_of_another_format_are_refused),
        WITH_DIRECTORY(a_full_disk_leaves_no_vector),
        WITH_DIRECTORY(every_failing_operation_leaves_nothing_under_the_final_name),
        WITH_DIRECTORY(tensors_at_odd_addresses_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
