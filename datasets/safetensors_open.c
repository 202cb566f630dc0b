// SPDX-License-Identifier: Apache-2.0
// Opening a model: one safetensors file, or a directory with model.safetensors or with shards. A
// sharded model has model.safetensors.index.json with "weight_map": tensor name -> shard file. Map
// and shards must say the same, in both directions.
#include "datasets/safetensors_private.h"

#include "base/json.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define SHARDS_MAX 10000 // far above any published model; bounds what a hostile index can ask for

// Maps and parses one more file of the model; its tensors are appended, unsorted.
static int add_file(struct safetensors *out, const char *path, struct error *err)
{
    struct safetensors_memory *memory = out->memory;
    struct fs_map map;
    if (fs_map_open(path, &map, err) != 0)
        return -1;
    memory->maps = mem_realloc(memory->maps, (memory->map_count + 1) * sizeof(*memory->maps));
    memory->maps[memory->map_count++] = map;
    struct safetensors shard = {0};
    if (safetensors_parse_file(map.bytes, map.length, path, &memory->arena, &shard, err) != 0)
        return -1;
    size_t total = out->count + shard.count;
    struct safetensors_entry *all = arena_alloc(&memory->arena, total * sizeof(*all));
    if (out->count > 0)
        memcpy(all, out->entries, out->count * sizeof(*all));
    memcpy(all + out->count, shard.entries, shard.count * sizeof(*all));
    out->entries = all;
    out->count = total;
    if (memory->map_count == 1) {
        out->metadata_keys = shard.metadata_keys;
        out->metadata_values = shard.metadata_values;
        out->metadata_count = shard.metadata_count;
    }
    return 0;
}

static const char *file_name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// The merged tensors, sorted by name, must be exactly those of the map, each in the shard it names.
static int check_weight_map(const struct safetensors *out, const struct json *map,
                            const char *index, struct error *err)
{
    for (size_t i = 1; i < out->count; i++) {
        if (strcmp(out->entries[i - 1].name, out->entries[i].name) == 0)
            return error_set(err, "'%s': tensor '%s' is also in '%s'", out->entries[i - 1].file,
                             out->entries[i].name, out->entries[i].file);
    }
    for (size_t i = 0; i < map->length; i++) {
        const struct safetensors_entry *entry = safetensors_find(out, map->keys[i]);
        if (!entry || strcmp(file_name_of(entry->file), map->items[i].string) != 0)
            return error_set(err, "'%s': tensor '%s' is not in '%s', where the index says it is",
                             index, map->keys[i], map->items[i].string);
    }
    for (size_t i = 0; i < out->count && out->count != map->length; i++) {
        if (!json_get(map, out->entries[i].name))
            return error_set(err, "'%s': tensor '%s' is missing in the index '%s'",
                             out->entries[i].file, out->entries[i].name, index);
    }
    return 0;
}

static int compare_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

// The distinct shard names of the map, sorted. A shard lies beside its index, never elsewhere.
static int list_shards(const struct json *map, const char *index, struct arena *arena,
                       const char ***out, size_t *out_count, struct error *err)
{
    const char **names = arena_alloc(arena, map->length * sizeof(*names));
    for (size_t i = 0; i < map->length; i++) {
        const struct json *value = &map->items[i];
        if (value->type != JSON_STRING || strlen(value->string) != value->length ||
            value->length == 0 || strchr(value->string, '/') || value->string[0] == '.')
            return error_set(err, "'%s': the shard of tensor '%s' is not a plain file name", index,
                             map->keys[i]);
        names[i] = value->string;
    }
    qsort(names, map->length, sizeof(*names), compare_text);
    size_t count = 0;
    for (size_t i = 0; i < map->length; i++) {
        if (count == 0 || strcmp(names[count - 1], names[i]) != 0)
            names[count++] = names[i];
    }
    if (count > SHARDS_MAX)
        return error_set(err, "'%s': %zu shards, at most %d are supported", index, count,
                         SHARDS_MAX);
    *out = names;
    *out_count = count;
    return 0;
}

static int add_shards(struct safetensors *out, const char *directory, const char *index,
                      const struct strbuf *text, struct error *err)
{
    struct safetensors_memory *memory = out->memory;
    const struct json *root;
    if (json_parse(&memory->arena, text->bytes, text->length, &root, err) != 0)
        return error_prefix(err, "'%s'", index);
    const struct json *map = json_get(root, "weight_map");
    if (!map || map->type != JSON_OBJECT)
        return error_set(err, "'%s': no \"weight_map\" object", index);
    const char **shards = NULL;
    size_t shard_count = 0;
    if (list_shards(map, index, &memory->arena, &shards, &shard_count, err) != 0)
        return -1;
    for (size_t i = 0; i < shard_count; i++) {
        char *path = fs_join(directory, shards[i]);
        int rc = add_file(out, path, err);
        free(path);
        if (rc != 0)
            return error_prefix(err, "'%s'", index);
    }
    if (out->count > 0)
        qsort(out->entries, out->count, sizeof(*out->entries), safetensors_compare_names);
    return check_weight_map(out, map, index, err);
}

static int add_directory(struct safetensors *out, const char *directory, struct error *err)
{
    char *single = fs_join(directory, "model.safetensors");
    char *index = fs_join(directory, "model.safetensors.index.json");
    struct strbuf text = {0};
    int rc;
    if (fs_exists(fs_system(), single))
        rc = add_file(out, single, err);
    else if (!fs_exists(fs_system(), index))
        rc = error_set(err, "'%s' holds neither model.safetensors nor model.safetensors.index.json",
                       directory);
    else
        rc = fs_read(fs_system(), index, &text, err) != 0
                 ? -1
                 : add_shards(out, directory, index, &text, err);
    strbuf_release(&text);
    free(index);
    free(single);
    return rc;
}

int safetensors_open(const char *file_or_directory, struct safetensors *out, struct error *err)
{
    *out = (struct safetensors){.memory = mem_calloc(1, sizeof(struct safetensors_memory))};
    struct fs *fs = fs_system();
    struct fs_info info;
    int rc = fs->ops->stat(fs->state, file_or_directory, &info);
    if (rc != 0)
        rc = error_set_errno(err, -rc, "cannot open '%s'", file_or_directory);
    else if (info.is_directory)
        rc = add_directory(out, file_or_directory, err);
    else
        rc = add_file(out, file_or_directory, err);
    if (rc != 0)
        safetensors_close(out);
    return rc;
}
