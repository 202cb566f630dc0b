// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/merge_fixture.h"

#include "base/mem.h"
#include "base/random.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
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
#define MOST FIXTURE_MOST

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

void write_text(const char *directory, const char *name, const char *text)
{
    struct error err;
    char *path = fs_join(directory, name);
    assert_int_equal(fs_write_text(fs_system(), path, text, strlen(text), &err), 0);
    free(path);
}

char *make_model(const char *parent, const char *name, const struct recipe *recipe)
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

char *make_vector(const char *parent, const char *name, const char *base, const char *tuned)
{
    static const struct vector_options dense = {DTYPE_F32, 1, 2};
    struct vector_stats stats;
    struct error err;
    char *path = fs_join(parent, name);
    if (vector_write(fs_system(), base, tuned, path, &dense, &stats, &err))
        fail_msg("vector_write: %s", err.text);
    return path;
}

struct set make_set(const char *parent, enum dtype dtype)
{
    struct set set;
    const struct recipe base_recipe = {.dtype = dtype, .seed = 1};
    set.base = make_model(parent, "base", &base_recipe);
    for (uint64_t k = 0; k < 3; k++) {
        const struct recipe recipe = {
            .dtype = dtype, .seed = 1, .change = 0.1, .change_seed = 10 + k};
        char name[32];
        snprintf(name, sizeof(name), "tuned%d", (int)k);
        set.tuned[k] = make_model(parent, name, &recipe);
        snprintf(name, sizeof(name), "v%d.safetensors", (int)k);
        set.vectors[k] = make_vector(parent, name, set.base, set.tuned[k]);
    }
    return set;
}

void forget(struct set *set)
{
    free(set->base);
    for (int k = 0; k < 3; k++) {
        free(set->tuned[k]);
        free(set->vectors[k]);
    }
}

void read_merged(const char *out, struct strbuf *bytes)
{
    struct error err;
    char *path = fs_join(out, "model.safetensors");
    strbuf_reset(bytes);
    assert_int_equal(fs_read(fs_system(), path, bytes, &err), 0);
    free(path);
}

size_t count_entries(const char *directory)
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
