// SPDX-License-Identifier: Apache-2.0
// A model becomes a Hugging Face directory: one model.safetensors, or shards and the index that
// names them. The order keeps one promise: a directory that has model.safetensors or an index is
// whole, and its config.json belongs to those weights.
//     1. weights under temporary names (a full disk fails here, while the old model still stands)
//     2. an older model's file, index and shards are removed
//     3. tokenizer files and config.json
//     4. the weights get their names, then the index is written
#include "worker/model/model.h"

#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "datasets/model_directory.h"
#include "datasets/safetensors.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum safetensors_dtype file_dtype(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? ST_F32 : dtype == DTYPE_BF16 ? ST_BF16 : ST_F16;
}

// Some neighbours of the layout, which has no gaps.
struct shard {
    char name[64];
    size_t first, count; // parameters
    uint64_t elements;
    struct safetensors_writer *writer;
};

struct shards {
    struct shard *all;
    size_t count;
};

enum { SHARDS_LIMIT = 500 }; // all are open at once

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

// A shard ends before the parameter that would make it larger than max_bytes.
static void divide(const struct model *model, uint64_t max_bytes, struct shards *out)
{
    const struct layout *layout = &model->layout;
    uint64_t bytes = 0;
    out->all = mem_calloc(layout->parameter_count, sizeof *out->all);
    for (size_t i = 0; i < layout->parameter_count; i++) {
        uint64_t more = layout->parameters[i].count * dtype_bytes(model->config.dtype);
        if (i == 0 ||
            (max_bytes > 0 && more > max_bytes - (bytes < max_bytes ? bytes : max_bytes))) {
            out->all[out->count++].first = i;
            bytes = 0;
        }
        struct shard *shard = &out->all[out->count - 1];
        bytes += more;
        shard->count++;
        shard->elements += layout->parameters[i].count;
    }
    for (size_t i = 0; i < out->count; i++) {
        struct shard *shard = &out->all[i];
        if (out->count == 1)
            snprintf(shard->name, sizeof shard->name, "%s", single_name);
        else
            snprintf(shard->name, sizeof shard->name, "model-%05zu-of-%05zu.safetensors", i + 1,
                     out->count);
    }
}

static void shards_release(struct shards *shards)
{
    for (size_t i = 0; i < shards->count; i++)
        safetensors_writer_destroy(shards->all[i].writer);
    free(shards->all);
}

static int create_writer(const struct model *model, struct fs *fs, const char *directory,
                         struct shard *shard, struct error *err)
{
    static const char *const metadata[] = {"format", "pt", NULL}; // transformers asks for it
    enum dtype dtype = model->config.dtype;
    struct safetensors_entry *entries = mem_calloc(shard->count, sizeof *entries);
    for (size_t i = 0; i < shard->count; i++) {
        const struct parameter *p = &model->layout.parameters[shard->first + i];
        entries[i] = (struct safetensors_entry){
            .name = p->name,
            .dtype = file_dtype(dtype),
            .rank = p->rank,
            .shape = {p->shape[0], p->shape[1], p->shape[2]},
            .bytes = p->count * dtype_bytes(dtype),
        };
    }
    char *path = fs_join(directory, shard->name);
    int rc =
        safetensors_writer_create(fs, path, entries, shard->count, metadata, &shard->writer, err);
    free(path);
    free(entries);
    return rc;
}

// The entries stand in the layout's order, so a shard's weights are one stream.
static int write_weights(const struct model *model, const struct shard *shard, struct error *err)
{
    enum { STAGING_ELEMENTS = 1 << 18 };
    enum dtype from = model->weights.dtype, to = model->config.dtype;
    uint64_t begin = model->layout.parameters[shard->first].offset;
    void *raw = mem_alloc(STAGING_ELEMENTS * sizeof(float));
    float *values = mem_alloc(STAGING_ELEMENTS * sizeof *values);
    int rc = 0;
    for (uint64_t done = 0; done < shard->elements && rc == 0; done += STAGING_ELEMENTS) {
        size_t count = STAGING_ELEMENTS;
        if (count > shard->elements - done)
            count = (size_t)(shard->elements - done);
        rc = device_copy_out(model->device, raw,
                             (const char *)model->weights.data + (begin + done) * dtype_bytes(from),
                             count * dtype_bytes(from), err);
        if (rc == 0 && from != to) {
            convert_to_f32(values, raw, from, count);
            convert_from_f32(raw, to, values, count);
        }
        if (rc == 0)
            rc = safetensors_writer_write(shard->writer, raw, count * dtype_bytes(to), err);
    }
    free(raw);
    free(values);
    return rc;
}

static int write_shards(const struct model *model, struct fs *fs, const char *directory,
                        struct shards *shards, struct error *err)
{
    if (shards->count > SHARDS_LIMIT)
        return error_set(err, "'%s': %zu shards, at most %d: allow larger ones", directory,
                         shards->count, SHARDS_LIMIT);
    for (size_t i = 0; i < shards->count; i++) {
        if (create_writer(model, fs, directory, &shards->all[i], err) ||
            write_weights(model, &shards->all[i], err))
            return -1;
    }
    return 0;
}

static void add_index(const struct model *model, const struct shards *shards, struct strbuf *out)
{
    struct json_writer w = {.out = out, .indent = 2};
    json_begin_object(&w);
    json_key(&w, "metadata");
    json_begin_object(&w);
    json_key(&w, "total_size");
    json_int(&w, (int64_t)(model->layout.elements * dtype_bytes(model->config.dtype)));
    json_end_object(&w);
    json_key(&w, "weight_map");
    json_begin_object(&w);
    for (size_t i = 0; i < shards->count; i++) {
        const struct shard *shard = &shards->all[i];
        for (size_t j = 0; j < shard->count; j++) {
            json_key(&w, model->layout.parameters[shard->first + j].name);
            json_text(&w, shard->name);
        }
    }
    json_end_object(&w);
    json_end_object(&w);
    strbuf_addc(out, '\n');
}

static int finish_shards(const struct model *model, struct fs *fs, const char *directory,
                         const struct shards *shards, struct error *err)
{
    for (size_t i = 0; i < shards->count; i++) {
        if (safetensors_writer_finish(shards->all[i].writer, err))
            return -1;
    }
    if (shards->count == 1)
        return 0;
    struct strbuf json = {0};
    char *path = fs_join(directory, index_name);
    add_index(model, shards, &json);
    int rc = fs_write_text(fs, path, json.bytes, json.length, err);
    strbuf_release(&json);
    free(path);
    return rc;
}

static int write_config(const struct model *model, struct fs *fs, const char *directory,
                        struct error *err)
{
    struct strbuf json = {0};
    char *path = fs_join(directory, "config.json");
    model_config_write(&model->config, &json);
    int rc = fs_write_text(fs, path, json.bytes, json.length, err);
    strbuf_release(&json);
    free(path);
    return rc;
}

static int remove_file(struct fs *fs, const char *directory, const char *name, struct error *err)
{
    char *path = fs_join(directory, name);
    int rc = fs->ops->remove(fs->state, path);
    if (rc != 0)
        rc = rc == -ENOENT ? 0 : error_set_errno(err, -rc, "cannot remove '%s'", path);
    free(path);
    return rc;
}

static bool is_shard(const char *name)
{
    static const char pattern[] = "model-00000-of-00000.safetensors"; // a 0 is any digit
    if (strlen(name) != sizeof pattern - 1)
        return false;
    for (size_t i = 0; i < sizeof pattern - 1; i++) {
        bool digit = name[i] >= '0' && name[i] <= '9';
        if (pattern[i] == '0' ? !digit : name[i] != pattern[i])
            return false;
    }
    return true;
}

// First what makes a directory whole, then the shards, which nothing refers to any more.
static int remove_old(struct fs *fs, const char *directory, struct error *err)
{
    struct fs_names names = {0};
    if (remove_file(fs, directory, single_name, err) ||
        remove_file(fs, directory, index_name, err) || fs_list(fs, directory, &names, err))
        return -1;
    int rc = 0;
    for (size_t i = 0; i < names.count && rc == 0; i++) {
        if (is_shard(names.names[i]))
            rc = remove_file(fs, directory, names.names[i], err);
    }
    fs_names_release(&names);
    return rc;
}

int model_save(const struct model *model, struct fs *fs, const char *directory,
               const struct model_save_options *options, struct error *err)
{
    const struct model_save_options defaults = {0};
    struct shards shards = {0};
    if (!options)
        options = &defaults;
    const char *from = options->tokenizer_from;
    divide(model, options->max_shard_bytes, &shards);
    int rc = fs_make_directories(fs, directory, err) ||
                     write_shards(model, fs, directory, &shards, err) ||
                     remove_old(fs, directory, err) ||
                     (from && model_directory_copy_tokenizer(fs, from, directory, err)) ||
                     write_config(model, fs, directory, err) ||
                     finish_shards(model, fs, directory, &shards, err)
                 ? -1
                 : 0;
    shards_release(&shards);
    return rc;
}
