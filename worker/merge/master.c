// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/master.h"

#include "base/mem.h"
#include "worker/merge/weights.h"
#include "worker/model/layout.h"
#include "worker/train/checkpoint.h"

#include <stdlib.h>
#include <string.h>

#define PIECE 4096 // elements compared at once

struct master {
    struct layout layout;
    float *values; // [layout.elements]
};

void master_close(struct master *master)
{
    if (!master)
        return;
    free(master->values);
    layout_release(&master->layout);
    free(master);
}

static int open_layout(struct fs *fs, const char *directory, struct layout *out)
{
    struct strbuf text = {0};
    struct model_config config;
    char *path = fs_join(directory, "config.json");
    const int rc =
        fs_read(fs, path, &text, NULL) || model_config_parse(text.bytes, text.length, &config, NULL)
            ? -1
            : 0;
    if (rc == 0)
        layout_create(&config, out);
    free(path);
    strbuf_release(&text);
    return rc;
}

static const struct parameter *find_parameter(const struct master *master, const char *name)
{
    for (size_t i = 0; i < master->layout.parameter_count; i++) {
        if (strcmp(master->layout.parameters[i].name, name) == 0)
            return &master->layout.parameters[i];
    }
    return NULL;
}

void master_read(const struct master *master, const char *name, size_t begin, size_t count,
                 float *out)
{
    const struct parameter *p = find_parameter(master, name);
    memcpy(out, master->values + p->offset + begin, count * sizeof(*out));
}

static bool rounds_to(const struct master *master, const struct safetensors_entry *entry)
{
    const struct parameter *p = find_parameter(master, entry->name);
    const size_t count = weights_count(entry);
    enum dtype dtype;
    char rounded[PIECE * sizeof(float)];
    if (!p || p->count != count || weights_dtype(entry, &dtype, NULL))
        return false;
    for (size_t at = 0; at < count; at += PIECE) {
        const size_t length = count - at < PIECE ? count - at : PIECE, bytes = dtype_bytes(dtype);
        convert_from_f32(rounded, dtype, master->values + p->offset + at, length);
        if (memcmp(rounded, (const char *)entry->data + at * bytes, length * bytes) != 0)
            return false;
    }
    return true;
}

static bool is_of(const struct master *master, const struct safetensors *tensors)
{
    uint64_t elements = 0;
    for (size_t i = 0; i < tensors->count; i++) {
        if (!rounds_to(master, &tensors->entries[i]))
            return false;
        elements += weights_count(&tensors->entries[i]);
    }
    return elements == master->layout.elements;
}

struct master *master_open(struct fs *fs, const char *directory, const struct safetensors *tensors)
{
    char *checkpoints = fs_join(directory, "run/checkpoints");
    struct master *master = NULL;
    if (fs_exists(fs, checkpoints)) {
        master = mem_calloc(1, sizeof(*master));
        bool good = open_layout(fs, directory, &master->layout) == 0;
        if (good) {
            master->values = mem_alloc(master->layout.elements * sizeof(float) + 1);
            good = checkpoint_read_master(fs, checkpoints, master->layout.elements, master->values,
                                          NULL) == 0 &&
                   is_of(master, tensors);
        }
        if (!good) {
            master_close(master);
            master = NULL;
        }
    }
    free(checkpoints);
    return master;
}
