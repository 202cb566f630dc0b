// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/source.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static uint64_t data_bytes(const struct safetensors *tensors)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < tensors->count; i++)
        bytes += tensors->entries[i].bytes;
    return bytes;
}

int source_open(const char *path, int position, struct source *out, struct error *err)
{
    struct fs *fs = fs_system();
    struct fs_info info;
    *out = (struct source){.path = mem_strdup(path), .position = position};
    const int rc = fs->ops->stat(fs->state, path, &info);
    if (rc != 0)
        return error_set_errno(err, -rc, "cannot open '%s'", path);
    out->is_vector = !info.is_directory;
    if (out->is_vector ? vector_open(path, &out->vector, err)
                       : safetensors_open(path, &out->model, err))
        return -1;
    out->digest = out->vector.tuned;
    out->bytes = data_bytes(out->is_vector ? &out->vector.file : &out->model);
    return 0;
}

int source_scan(struct source *source, struct pool *pool, struct error *err)
{
    struct weights_scan scan;
    if (weights_scan(source->is_vector ? &source->vector.file : &source->model, pool, &scan, err))
        return error_prefix(err, "'%s'", source->path);
    if (!source->is_vector)
        source->digest = scan.digest;
    weights_scan_release(&scan);
    return 0;
}

void source_close(struct source *source)
{
    if (source->is_vector)
        vector_close(&source->vector);
    else
        safetensors_close(&source->model);
    free(source->path);
}

struct safetensors source_view(const struct source *source)
{
    const size_t count = source->is_vector ? source->vector.count : source->model.count;
    struct safetensors view = {.entries = mem_calloc(count + 1, sizeof(*view.entries)),
                               .count = count};
    for (size_t i = 0; i < count; i++)
        view.entries[i] =
            source->is_vector ? source->vector.tensors[i].entry : source->model.entries[i];
    return view;
}

struct source_tensor source_find(const struct source *source, const char *name)
{
    struct source_tensor found = {0};
    if (source->is_vector)
        found.vector = vector_find(&source->vector, name);
    else
        found.entry = safetensors_find(&source->model, name);
    assert(found.vector || found.entry);
    return found;
}

void source_read(const struct source_tensor *tensor, size_t begin, size_t count, float *out)
{
    if (tensor->vector)
        vector_read(tensor->vector, begin, count, out);
    else
        weights_read(tensor->entry, begin, count, out);
}

static void release_values(const struct safetensors_entry *entry, uint64_t begin, uint64_t count)
{
    const uint64_t bytes = safetensors_dtype_bytes(entry->dtype);
    weights_release((const char *)entry->data + begin * bytes, count * bytes);
}

void source_release(const struct source_tensor *tensor, size_t begin, size_t count)
{
    if (tensor->entry) {
        release_values(tensor->entry, begin, count);
        return;
    }
    const struct vector_tensor *vector = tensor->vector;
    if (!vector->mask) {
        release_values(vector->values, begin, count);
        return;
    }
    const uint64_t first = vector->values_before[begin / VECTOR_STRIDE];
    const uint64_t end = vector->values_before[(begin + count) / VECTOR_STRIDE];
    release_values(vector->values, first, end - first);
    weights_release(vector->mask + begin / 8, count / 8);
}

bool source_equal(const struct source_tensor *a, const struct source_tensor *b)
{
    const struct safetensors_entry *x = a->entry ? a->entry : a->vector->values;
    const struct safetensors_entry *y = b->entry ? b->entry : b->vector->values;
    if (x->dtype != y->dtype || x->bytes != y->bytes || memcmp(x->data, y->data, x->bytes) != 0)
        return false;
    const uint8_t *masks[] = {a->entry ? NULL : a->vector->mask, b->entry ? NULL : b->vector->mask};
    return !masks[0] || memcmp(masks[0], masks[1], (vector_count(a->vector) + 7) / 8) == 0;
}
