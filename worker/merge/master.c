// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/master.h"

#include "base/mem.h"
#include "worker/merge/weights.h"
#include "worker/model/layout.h"
#include "worker/train/checkpoint_manifest.h"

#include <stdlib.h>
#include <string.h>

#define PART_HEADER_BYTES 64 // see worker/train/checkpoint.h; float32 parameters follow
#define PART_VERSION_AT 8
#define PIECE 4096 // elements compared at once

struct master {
    struct layout layout;
    struct manifest manifest;
    struct fs_map *parts; // [manifest.count]
};

void master_close(struct master *master)
{
    if (!master)
        return;
    for (size_t p = 0; master->parts && p < master->manifest.count; p++)
        fs_map_close(&master->parts[p]);
    free(master->parts);
    manifest_release(&master->manifest);
    layout_release(&master->layout);
    free(master);
}

// The newest directory with a manifest, or NULL; the caller frees.
static char *newest_checkpoint(struct fs *fs, const char *checkpoints)
{
    struct fs_names names;
    char *found = NULL;
    if (fs_list(fs, checkpoints, &names, NULL))
        return NULL;
    for (size_t i = names.count; i-- > 0 && !found;) {
        char *path = fs_join(checkpoints, names.names[i]);
        if (strncmp(names.names[i], "step-", 5) == 0 && manifest_exists(fs, path, NULL) == 1)
            found = path;
        else
            free(path);
    }
    fs_names_release(&names);
    return found;
}

static int open_layout(struct fs *fs, const char *directory, struct layout *out, struct error *err)
{
    struct strbuf text = {0};
    struct model_config config;
    char *path = fs_join(directory, "config.json");
    int rc = fs_read(fs, path, &text, err);
    if (rc == 0 && model_config_parse(text.bytes, text.length, &config, err))
        rc = error_prefix(err, "'%s'", path);
    if (rc == 0)
        layout_create(&config, out);
    free(path);
    strbuf_release(&text);
    return rc;
}

static int open_parts(struct master *master, const char *checkpoint, struct error *err)
{
    master->parts = mem_calloc(master->manifest.count + 1, sizeof(*master->parts));
    for (size_t p = 0; p < master->manifest.count; p++) {
        const uint64_t count =
            manifest_part_end(&master->manifest, p) - manifest_part_begin(&master->manifest, p);
        uint32_t version = 0;
        char *path = mem_printf("%s/part-%05zu.bin", checkpoint, p);
        int rc = fs_map_open(path, &master->parts[p], err);
        if (rc == 0 && master->parts[p].length >= PART_HEADER_BYTES)
            memcpy(&version, master->parts[p].bytes + PART_VERSION_AT, sizeof(version));
        if (rc == 0 &&
            (version != 1 || master->parts[p].length < PART_HEADER_BYTES + count * sizeof(float)))
            rc = error_set(err, "'%s' does not hold float32 parameters", path);
        free(path);
        if (rc != 0)
            return -1;
    }
    return 0;
}

static const struct parameter *find_parameter(const struct master *master, const char *name)
{
    for (size_t i = 0; i < master->layout.parameter_count; i++) {
        if (strcmp(master->layout.parameters[i].name, name) == 0)
            return &master->layout.parameters[i];
    }
    return NULL;
}

static void read_flat(const struct master *master, uint64_t begin, size_t count, float *out)
{
    while (count > 0) {
        const size_t part = begin / master->manifest.part_elements;
        const uint64_t inside = begin - manifest_part_begin(&master->manifest, part);
        const uint64_t left = manifest_part_end(&master->manifest, part) - begin;
        const size_t length = left < count ? (size_t)left : count;
        memcpy(out, master->parts[part].bytes + PART_HEADER_BYTES + inside * sizeof(float),
               length * sizeof(float));
        begin += length;
        out += length;
        count -= length;
    }
}

void master_read(const struct master *master, const char *name, size_t begin, size_t count,
                 float *out)
{
    read_flat(master, find_parameter(master, name)->offset + begin, count, out);
}

static bool rounds_to(const struct master *master, const struct safetensors_entry *entry)
{
    const struct parameter *p = find_parameter(master, entry->name);
    const size_t count = weights_count(entry);
    enum dtype dtype;
    float values[PIECE];
    char rounded[PIECE * sizeof(float)];
    if (!p || p->count != count || weights_dtype(entry, &dtype, NULL))
        return false;
    for (size_t at = 0; at < count; at += PIECE) {
        const size_t length = count - at < PIECE ? count - at : PIECE, bytes = dtype_bytes(dtype);
        read_flat(master, p->offset + at, length, values);
        convert_from_f32(rounded, dtype, values, length);
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

int master_open(struct fs *fs, const char *directory, const struct safetensors *tensors,
                struct master **out, struct error *err)
{
    *out = NULL;
    char *checkpoints = fs_join(directory, "run/checkpoints");
    char *checkpoint = newest_checkpoint(fs, checkpoints);
    free(checkpoints);
    if (!checkpoint)
        return 0;
    struct master *master = mem_calloc(1, sizeof(*master));
    int rc = open_layout(fs, directory, &master->layout, err) ||
                     manifest_read(fs, checkpoint, &master->manifest, err) ||
                     open_parts(master, checkpoint, err)
                 ? -1
                 : 0;
    if (rc == 0 && master->manifest.elements == master->layout.elements && is_of(master, tensors))
        *out = master;
    else
        master_close(master);
    free(checkpoint);
    return rc;
}
