// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/model_fixture.h"

#include "base/fs.h"
#include "base/mem.h"
#include "datasets/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rig {
    char directory[64];
    struct device *device;
    struct model *model;
};

static char *path_of(const struct rig *rig, const char *name)
{
    return fs_join(rig->directory, name);
}

static int setup(void **state)
{
    struct rig *rig = mem_calloc(1, sizeof *rig);
    struct model_config config = fixture_config_untied();
    snprintf(rig->directory, sizeof rig->directory, "/tmp/memo-test-model-XXXXXX");
    assert_non_null(mkdtemp(rig->directory));
    rig->device = fixture_device();
    rig->model = fixture_model(rig->device, &config, DTYPE_F32, 17);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    struct rig *rig = *state;
    struct fs *fs = fs_system();
    struct fs_names names = {0};
    struct error err;
    assert_int_equal(fs_list(fs, rig->directory, &names, &err), 0);
    for (size_t i = 0; i < names.count; i++) {
        char *path = path_of(rig, names.names[i]);
        assert_int_equal(fs->ops->remove(fs->state, path), 0);
        free(path);
    }
    fs_names_release(&names);
    assert_int_equal(fs->ops->remove(fs->state, rig->directory), 0);
    model_destroy(rig->model);
    device_destroy(rig->device);
    free(rig);
    return 0;
}

static void save(struct rig *rig)
{
    struct error err;
    if (model_save(rig->model, fs_system(), rig->directory, NULL, &err))
        fail_msg("%s", err.text);
}

static void expect_load_fails(struct rig *rig, const char *part)
{
    struct error err = {{0}};
    struct model *model;
    assert_int_equal(model_load(rig->device, rig->directory, DTYPE_F32, &model, &err), -1);
    assert_null(model);
    if (!strstr(err.text, part))
        fail_msg("'%s' does not say '%s'", err.text, part);
}

static void saved_weights_load_with_the_same_bits(void **state)
{
    struct rig *rig = *state;
    struct error err;
    struct model *back;
    save(rig);
    save(rig); // over itself
    if (model_load(rig->device, rig->directory, DTYPE_F32, &back, &err))
        fail_msg("%s", err.text);
    size_t elements = rig->model->layout.elements;
    assert_int_equal(back->layout.elements, elements);
    float *expected = fixture_copy_out(rig->device, rig->model->weights.data, elements);
    float *got = fixture_copy_out(rig->device, back->weights.data, elements);
    assert_memory_equal(got, expected, elements * sizeof *got);
    free(expected);
    free(got);
    model_destroy(back);
}

static void narrow_types_round_once(void **state)
{
    static const enum dtype dtypes[] = {DTYPE_BF16, DTYPE_F16};
    struct rig *rig = *state;
    size_t elements = rig->model->layout.elements;
    float *expected = fixture_copy_out(rig->device, rig->model->weights.data, elements);
    for (size_t i = 0; i < 2; i++) {
        struct error err;
        struct model *wide, *narrow;
        rig->model->config.dtype = dtypes[i];
        save(rig);
        assert_int_equal(model_load(rig->device, rig->directory, DTYPE_F32, &wide, &err), 0);
        assert_int_equal(model_load(rig->device, rig->directory, dtypes[i], &narrow, &err), 0);
        assert_int_equal(wide->config.dtype, dtypes[i]);
        uint16_t *bits = mem_alloc(elements * sizeof *bits);
        float *rounded = mem_alloc(elements * sizeof *rounded);
        convert_from_f32(bits, dtypes[i], expected, elements);
        convert_to_f32(rounded, bits, dtypes[i], elements);
        float *got = fixture_copy_out(rig->device, wide->weights.data, elements);
        assert_memory_equal(got, rounded, elements * sizeof *got);
        assert_int_equal(
            device_copy_out(rig->device, got, narrow->weights.data, elements * 2, &err), 0);
        assert_memory_equal(got, bits, elements * 2);
        free(bits);
        free(rounded);
        free(got);
        model_destroy(wide);
        model_destroy(narrow);
    }
    free(expected);
}

// Writes the model's tensors, of which `edit` may drop (false), rename or reshape each.
static void save_edited(struct rig *rig, bool (*edit)(struct safetensors_entry *entry))
{
    struct error err;
    struct safetensors tensors;
    struct safetensors_writer *writer;
    char *path = path_of(rig, "model.safetensors");
    save(rig);
    assert_int_equal(safetensors_open(path, &tensors, &err), 0);
    struct safetensors_entry *entries = mem_calloc(tensors.count, sizeof *entries);
    size_t count = 0;
    for (size_t i = 0; i < tensors.count; i++) {
        entries[count] = tensors.entries[i];
        count += edit(&entries[count]);
    }
    assert_int_equal(
        safetensors_writer_create(fs_system(), path, entries, count, NULL, &writer, &err), 0);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(safetensors_writer_write(writer, entries[i].data, entries[i].bytes, &err),
                         0);
    assert_int_equal(safetensors_writer_finish(writer, &err), 0);
    safetensors_writer_destroy(writer);
    safetensors_close(&tensors);
    free(entries);
    free(path);
}

static bool drop_k_and_head(struct safetensors_entry *entry)
{
    return !strstr(entry->name, "k_proj.weight") && strcmp(entry->name, "lm_head.weight") != 0;
}

static void missing_tensors_are_listed(void **state)
{
    struct rig *rig = *state;
    save_edited(rig, drop_k_and_head);
    expect_load_fails(rig, "2 tensors do not fit config.json: "
                           "missing 'model.layers.0.self_attn.k_proj.weight'; "
                           "missing 'lm_head.weight'");
}

static bool rename_norm(struct safetensors_entry *entry)
{
    if (strcmp(entry->name, "model.norm.weight") == 0)
        entry->name = "model.nrom.weight";
    return true;
}

static void unexpected_tensors_are_listed(void **state)
{
    struct rig *rig = *state;
    save_edited(rig, rename_norm);
    expect_load_fails(rig, "missing 'model.norm.weight'; unexpected 'model.nrom.weight'");
}

static bool transpose_gate(struct safetensors_entry *entry)
{
    if (strstr(entry->name, "gate_proj")) {
        uint64_t rows = entry->shape[0];
        entry->shape[0] = entry->shape[1];
        entry->shape[1] = rows;
    }
    return true;
}

static void wrong_shapes_are_listed(void **state)
{
    struct rig *rig = *state;
    save_edited(rig, transpose_gate);
    expect_load_fails(rig, "shape [33, 17] instead of [17, 33] of "
                           "'model.layers.0.mlp.gate_proj.weight'");
}

static bool make_integers(struct safetensors_entry *entry)
{
    if (strcmp(entry->name, "model.norm.weight") == 0)
        entry->dtype = ST_I32;
    return true;
}

static void integer_weights_are_refused(void **state)
{
    struct rig *rig = *state;
    save_edited(rig, make_integers);
    expect_load_fails(rig, "unsupported type I32 of 'model.norm.weight'");
}

static bool prefix_everything(struct safetensors_entry *entry)
{
    static char names[64][128]; // alive until the file is written
    static size_t used;
    char *name = names[used++ % 64];
    snprintf(name, sizeof names[0], "module.%s", entry->name);
    entry->name = name;
    return true;
}

static void long_lists_are_cut(void **state)
{
    struct rig *rig = *state;
    save_edited(rig, prefix_everything);
    expect_load_fails(rig, "30 tensors do not fit config.json: missing");
    expect_load_fails(rig, "; and 18 more");
}

static bool keep_all(struct safetensors_entry *entry)
{
    (void)entry;
    return true;
}

static void write_config(struct rig *rig, const struct model_config *config)
{
    struct error err;
    struct strbuf text = {0};
    char *path = path_of(rig, "config.json");
    model_config_write(config, &text);
    assert_int_equal(fs_write_text(fs_system(), path, text.bytes, text.length, &err), 0);
    strbuf_release(&text);
    free(path);
}

static void head_of_a_tied_model_must_be_its_embedding(void **state)
{
    struct rig *rig = *state;
    struct error err;
    struct model *back;
    save_edited(rig, keep_all);
    struct model_config tied = rig->model->config;
    tied.tied = true;
    write_config(rig, &tied);
    expect_load_fails(rig, "unexpected 'lm_head.weight'");

    const struct layout *layout = &rig->model->layout;
    const struct parameter *embedding = layout_find(layout, PARAM_EMBEDDING, -1);
    const struct parameter *head = layout_find(layout, PARAM_HEAD, -1);
    float *weights = rig->model->weights.data;
    device_copy(rig->device, weights + head->offset, weights + embedding->offset,
                head->count * sizeof *weights);
    save(rig);
    write_config(rig, &tied);
    if (model_load(rig->device, rig->directory, DTYPE_F32, &back, &err))
        fail_msg("%s", err.text);
    model_destroy(back);
}

static void truncated_weights_are_refused_at_seventy_lengths(void **state)
{
    struct rig *rig = *state;
    struct error err;
    struct strbuf bytes = {0};
    char *path = path_of(rig, "model.safetensors");
    save(rig);
    assert_int_equal(fs_read(fs_system(), path, &bytes, &err), 0);
    for (size_t length = 0; length < bytes.length; length += 1 + length / 7) {
        assert_int_equal(fs_write_text(fs_system(), path, bytes.bytes, length, &err), 0);
        expect_load_fails(rig, "model.safetensors");
    }
    assert_int_equal(fs_write_text(fs_system(), path, bytes.bytes, bytes.length - 1, &err), 0);
    expect_load_fails(rig, "model.safetensors");
    strbuf_release(&bytes);
    free(path);
}

static void missing_files_are_named(void **state)
{
    struct rig *rig = *state;
    expect_load_fails(rig, "config.json");
    write_config(rig, &rig->model->config);
    expect_load_fails(rig, rig->directory);
}

// Wherever the disk fills, what stands under the final names is the old model or none at all.
static void full_disk_leaves_no_mixed_directory(void **state)
{
    struct rig *rig = *state;
    struct error err;
    struct model *back;
    save(rig);
    uint64_t whole = rig->model->layout.elements * sizeof(float);
    for (uint64_t budget = 0; budget < whole + 4096; budget += whole / 9 + 1) {
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = budget};
        struct fs fs = fs_with_faults(&fault);
        if (model_save(rig->model, &fs, rig->directory, NULL, &err) == 0)
            continue;
        assert_non_null(strstr(err.text, rig->directory));
        if (model_load(rig->device, rig->directory, DTYPE_F32, &back, &err))
            fail_msg("after %llu bytes: %s", (unsigned long long)budget, err.text);
        model_destroy(back);
    }
}

// A model of another shape is saved over the first; when that fails anywhere, no config.json stands
// beside the weights of the other.
static void every_failing_operation_is_reported(void **state)
{
    struct rig *rig = *state;
    struct error err;
    struct model *other, *back;
    struct model_config config = fixture_config();
    struct fs_fault count = {.inner = fs_system(), .write_budget_bytes = UINT64_MAX};
    struct fs counting = fs_with_faults(&count);
    other = fixture_model(rig->device, &config, DTYPE_F32, 18);
    save(rig);
    assert_int_equal(model_save(other, &counting, rig->directory, NULL, &err), 0);
    char *path = path_of(rig, "model.safetensors");
    for (int64_t i = 1; i <= count.operations; i++) {
        struct fs_fault fault = {
            .inner = fs_system(), .write_budget_bytes = UINT64_MAX, .fail_operation = i};
        struct fs fs = fs_with_faults(&fault);
        save(rig);
        assert_int_equal(model_save(other, &fs, rig->directory, NULL, &err), -1);
        if (!fs_exists(fs_system(), path))
            continue;
        if (model_load(rig->device, rig->directory, DTYPE_F32, &back, &err))
            fail_msg("after operation %lld failed: %s", (long long)i, err.text);
        model_destroy(back);
    }
    model_destroy(other);
    free(path);
}

static void tokenizer_files_come_along(void **state)
{
    struct rig *rig = *state;
    struct error err;
    struct rig other = *rig;
    char *from = path_of(rig, "tokenizer.json");
    assert_int_equal(fs_write_text(fs_system(), from, "{}", 2, &err), 0);
    snprintf(other.directory, sizeof other.directory, "/tmp/memo-test-model-XXXXXX");
    assert_non_null(mkdtemp(other.directory));
    char *to = path_of(&other, "tokenizer.json");
    char *config = path_of(&other, "config.json"), *weights = path_of(&other, "model.safetensors");
    assert_int_equal(model_save(rig->model, fs_system(), other.directory,
                                &(struct model_save_options){.tokenizer_from = rig->directory},
                                &err),
                     0);
    assert_true(fs_exists(fs_system(), to));
    remove(to);
    remove(config);
    remove(weights);
    assert_int_equal(remove(other.directory), 0); // nothing else was left
    free(from);
    free(to);
    free(config);
    free(weights);
}

static void save_shards(struct rig *rig, uint64_t max_bytes)
{
    struct error err;
    struct model_save_options options = {.max_shard_bytes = max_bytes};
    if (model_save(rig->model, fs_system(), rig->directory, &options, &err))
        fail_msg("%s", err.text);
}

static void expect_same_bits(struct rig *rig)
{
    struct error err;
    struct model *back;
    if (model_load(rig->device, rig->directory, DTYPE_F32, &back, &err))
        fail_msg("%s", err.text);
    size_t elements = rig->model->layout.elements;
    float *expected = fixture_copy_out(rig->device, rig->model->weights.data, elements);
    float *got = fixture_copy_out(rig->device, back->weights.data, elements);
    assert_memory_equal(got, expected, elements * sizeof *got);
    free(expected);
    free(got);
    model_destroy(back);
}

// The files of the directory that hold weights; the largest one's tensors in *largest.
static size_t count_weight_files(struct rig *rig, uint64_t *largest)
{
    struct error err;
    struct fs_names names = {0};
    size_t count = 0;
    *largest = 0;
    assert_int_equal(fs_list(fs_system(), rig->directory, &names, &err), 0);
    for (size_t i = 0; i < names.count; i++) {
        struct safetensors file;
        uint64_t bytes = 0;
        size_t length = strlen(names.names[i]);
        if (length < 12 || strcmp(names.names[i] + length - 12, ".safetensors") != 0)
            continue;
        char *path = path_of(rig, names.names[i]);
        assert_int_equal(safetensors_open(path, &file, &err), 0);
        for (size_t j = 0; j < file.count; j++)
            bytes += file.entries[j].bytes;
        if (file.count > 1 && bytes > *largest)
            *largest = bytes;
        safetensors_close(&file);
        free(path);
        count++;
    }
    fs_names_release(&names);
    return count;
}

static void shards_of_any_size_load_with_the_same_bits(void **state)
{
    struct rig *rig = *state;
    uint64_t whole = rig->model->layout.elements * sizeof(float), largest;
    static const uint64_t limits[] = {1, 100, 5000, 10000, UINT64_MAX};
    size_t before = rig->model->layout.parameter_count + 1;
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        save_shards(rig, limits[i]); // over the shards before
        expect_same_bits(rig);
        size_t count = count_weight_files(rig, &largest);
        assert_true(count < before && largest <= limits[i]);
        assert_true(count == 1 || count >= whole / limits[i] || limits[i] < 5000);
        before = count;
    }
    assert_int_equal(before, 1);
    char *index = path_of(rig, "model.safetensors.index.json");
    assert_false(fs_exists(fs_system(), index));
    save_shards(rig, 5000);
    char *single = path_of(rig, "model.safetensors");
    assert_true(fs_exists(fs_system(), index));
    assert_false(fs_exists(fs_system(), single));
    save(rig);
    assert_int_equal(count_weight_files(rig, &largest), 1);
    assert_false(fs_exists(fs_system(), index));
    free(index);
    free(single);
}

static void too_many_shards_are_refused(void **state)
{
    struct rig *rig = *state;
    struct error err;
    struct model *deep;
    struct model_config config = fixture_config();
    struct model_save_options options = {.max_shard_bytes = 1};
    config.layers = 50;
    deep = fixture_model(rig->device, &config, DTYPE_F32, 1);
    assert_int_equal(model_save(deep, fs_system(), rig->directory, &options, &err), -1);
    assert_non_null(strstr(err.text, "602 shards, at most 500"));
    model_destroy(deep);
}

// One kind of directory is saved over the other; wherever it fails, what can be loaded is whole.
static void every_failure_among_shards_is_reported(void **state)
{
    struct rig *rig = *state;
    struct error err;
    struct model *other, *back;
    struct model_config config = fixture_config();
    struct model_save_options options = {.max_shard_bytes = 8000};
    other = fixture_model(rig->device, &config, DTYPE_F32, 18);
    for (int sharded_first = 0; sharded_first < 2; sharded_first++) {
        options.max_shard_bytes = sharded_first ? 0 : 8000;
        int64_t operation = 0;
        for (int rc = -1; rc != 0;) {
            struct fs_fault fault = {.inner = fs_system(),
                                     .write_budget_bytes = UINT64_MAX,
                                     .fail_operation = ++operation};
            struct fs fs = fs_with_faults(&fault);
            save_shards(rig, sharded_first ? 2000 : 0);
            rc = model_save(other, &fs, rig->directory, &options, &err);
            if (rc != 0 && !strstr(err.text, "/tmp"))
                fail_msg("operation %lld: %s", (long long)operation, err.text);
            if (model_load(rig->device, rig->directory, DTYPE_F32, &back, &err))
                assert_non_null(strstr(err.text, "holds neither"));
            else
                model_destroy(back);
        }
        assert_true(operation > 15);
    }
    model_destroy(other);
}

static void models_of_every_family_survive_a_save(void **state)
{
    struct rig *rig = *state;
    struct model_config configs[] = {fixture_config_gemma3(), fixture_config_lfm2()};
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        struct rig other = *rig;
        other.model = fixture_model(rig->device, &configs[i], DTYPE_F32, 4);
        save_shards(&other, 3000);
        expect_same_bits(&other);
        model_destroy(other.model);
    }
}

#define FILE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        FILE_TEST(saved_weights_load_with_the_same_bits),
        FILE_TEST(narrow_types_round_once),
        FILE_TEST(missing_tensors_are_listed),
        FILE_TEST(unexpected_tensors_are_listed),
        FILE_TEST(wrong_shapes_are_listed),
        FILE_TEST(integer_weights_are_refused),
        FILE_TEST(long_lists_are_cut),
        FILE_TEST(head_of_a_tied_model_must_be_its_embedding),
        FILE_TEST(truncated_weights_are_refused_at_seventy_lengths),
        FILE_TEST(missing_files_are_named),
        FILE_TEST(full_disk_leaves_no_mixed_directory),
        FILE_TEST(every_failing_operation_is_reported),
        FILE_TEST(tokenizer_files_come_along),
        FILE_TEST(shards_of_any_size_load_with_the_same_bits),
        FILE_TEST(too_many_shards_are_refused),
        FILE_TEST(every_failure_among_shards_is_reported),
        FILE_TEST(models_of_every_family_survive_a_save),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
