// SPDX-License-Identifier: Apache-2.0
// A model becomes a Hugging Face directory. The order keeps one promise: a directory that has
// model.safetensors is whole, and its config.json belongs to those weights.
//     1. weights under a temporary name (a full disk fails here, while the old model still stands)
//     2. an older model.safetensors is removed
//     3. tokenizer files and config.json
//     4. the weights get their name
#include "worker/model/model.h"

#include "base/fs.h"
#include "base/mem.h"
#include "datasets/model_directory.h"
#include "datasets/safetensors.h"

#include <errno.h>
#include <stdlib.h>

static enum safetensors_dtype file_dtype(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? ST_F32 : dtype == DTYPE_BF16 ? ST_BF16 : ST_F16;
}

static int create_writer(const struct model *model, struct fs *fs, const char *path,
                         struct safetensors_writer **out, struct error *err)
{
    static const char *const metadata[] = {"format", "pt", NULL}; // transformers asks for it
    const struct layout *layout = &model->layout;
    enum dtype dtype = model->config.dtype;
    struct safetensors_entry *entries = mem_calloc(layout->parameter_count, sizeof *entries);
    for (size_t i = 0; i < layout->parameter_count; i++) {
        const struct parameter *p = &layout->parameters[i];
        entries[i] = (struct safetensors_entry){
            .name = p->name,
            .dtype = file_dtype(dtype),
            .rank = p->rank,
            .shape = {p->shape[0], p->shape[1], p->shape[2]},
            .bytes = p->count * dtype_bytes(dtype),
        };
    }
    int rc =
        safetensors_writer_create(fs, path, entries, layout->parameter_count, metadata, out, err);
    free(entries);
    return rc;
}

// The layout has no gaps and the entries stand in its order, so the weights are one stream.
static int write_weights(const struct model *model, struct safetensors_writer *writer,
                         struct error *err)
{
    enum { STAGING_ELEMENTS = 1 << 18 };
    enum dtype from = model->weights.dtype, to = model->config.dtype;
    void *raw = mem_alloc(STAGING_ELEMENTS * sizeof(float));
    float *values = mem_alloc(STAGING_ELEMENTS * sizeof *values);
    int rc = 0;
    for (uint64_t done = 0; done < model->layout.elements && rc == 0; done += STAGING_ELEMENTS) {
        size_t count = STAGING_ELEMENTS;
        if (count > model->layout.elements - done)
            count = (size_t)(model->layout.elements - done);
        rc = device_copy_out(model->device, raw,
                             (const char *)model->weights.data + done * dtype_bytes(from),
                             count * dtype_bytes(from), err);
        if (rc == 0 && from != to) {
            convert_to_f32(values, raw, from, count);
            convert_from_f32(raw, to, values, count);
        }
        if (rc == 0)
            rc = safetensors_writer_write(writer, raw, count * dtype_bytes(to), err);
    }
    free(raw);
    free(values);
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

static int remove_old(struct fs *fs, const char *path, struct error *err)
{
    int rc = fs->ops->remove(fs->state, path);
    return rc == 0 || rc == -ENOENT ? 0 : error_set_errno(err, -rc, "cannot remove '%s'", path);
}

int model_save(const struct model *model, struct fs *fs, const char *directory,
               const char *tokenizer_from, struct error *err)
{
    struct safetensors_writer *writer = NULL;
    char *weights = fs_join(directory, "model.safetensors");
    int rc = -1;
    if (fs_make_directories(fs, directory, err) ||
        create_writer(model, fs, weights, &writer, err) || write_weights(model, writer, err) ||
        remove_old(fs, weights, err))
        goto done;
    if (tokenizer_from && model_directory_copy_tokenizer(fs, tokenizer_from, directory, err))
        goto done;
    if (write_config(model, fs, directory, err))
        goto done;
    rc = safetensors_writer_finish(writer, err);
done:
    safetensors_writer_destroy(writer);
    free(weights);
    return rc;
}
