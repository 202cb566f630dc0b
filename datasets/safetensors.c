// SPDX-License-Identifier: Apache-2.0
// Reading safetensors. A file is
//
//     u64 little-endian   header length, at most HEADER_MAX_BYTES
//     header              JSON object: name -> {"dtype", "shape", "data_offsets": [begin, end]},
//     and
//                         optionally "__metadata__": an object of strings; white space may surround
//                         it
//     data                offsets count from here
//
// The tensors tile the data exactly: sorted by offset the first begins at 0, each begins where the
// one before ended, and the last ends where the file ends. So a file cannot hide bytes, and a
// truncated or concatenated one never passes. The parser trusts nothing: it reads only inside
// [bytes, bytes+length).
#include "datasets/safetensors_private.h"

#include "base/json.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define HEADER_MAX_BYTES 100000000 // the format's own limit

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
    [ST_BOOL] = {"BOOL", 1}, [ST_U8] = {"U8", 1},           [ST_I8] = {"I8", 1},
    [ST_U16] = {"U16", 2},   [ST_I16] = {"I16", 2},         [ST_F16] = {"F16", 2},
    [ST_BF16] = {"BF16", 2}, [ST_U32] = {"U32", 4},         [ST_I32] = {"I32", 4},
    [ST_F32] = {"F32", 4},   [ST_F64] = {"F64", 8},         [ST_I64] = {"I64", 8},
    [ST_U64] = {"U64", 8},   [ST_F8_E4M3] = {"F8_E4M3", 1}, [ST_F8_E5M2] = {"F8_E5M2", 1},
};
#define DTYPE_COUNT (sizeof(dtypes) / sizeof(dtypes[0]))

size_t safetensors_dtype_bytes(enum safetensors_dtype dtype)
{
    return dtypes[dtype].bytes;
}

const char *safetensors_dtype_name(enum safetensors_dtype dtype)
{
    return dtypes[dtype].name;
}

static int compare_by_place(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;
    if (x->data != y->data)
        return (const uint8_t *)x->data < (const uint8_t *)y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

int safetensors_compare_names(const void *a, const void *b)
{
    const struct safetensors_entry *x = a, *y = b;
    return strcmp(x->name, y->name);
}

// What one file's header is read from; names the place of an error.
struct source {
    const char *file;
    const uint8_t *data; // where offsets count from
    uint64_t data_bytes;
};

static int parse_dtype(const struct source *source, struct safetensors_entry *entry,
                       const struct json *info, struct error *err)
{
    const struct json *value = json_get(info, "dtype");
    if (!value || value->type != JSON_STRING)
        return error_set(err, "'%s': tensor '%s' has no dtype", source->file, entry->name);
    for (size_t i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(value->string, dtypes[i].name) == 0) {
            entry->dtype = (enum safetensors_dtype)i;
            return 0;
        }
    }
    return error_set(err, "'%s': tensor '%s' has the unknown dtype '%.32s'", source->file,
                     entry->name, value->string);
}

// Sets rank, shape and bytes; every product is checked before it is made.
static int parse_shape(const struct source *source, struct safetensors_entry *entry,
                       const struct json *info, struct error *err)
{
    const struct json *shape = json_get(info, "shape");
    if (!shape || shape->type != JSON_ARRAY)
        return error_set(err, "'%s': tensor '%s' has no shape", source->file, entry->name);
    if (shape->length > SAFETENSORS_MAX_RANK)
        return error_set(err, "'%s': tensor '%s' has %zu dimensions, at most %d are supported",
                         source->file, entry->name, shape->length, SAFETENSORS_MAX_RANK);
    entry->rank = (int)shape->length;
    entry->bytes = dtypes[entry->dtype].bytes;
    for (size_t i = 0; i < shape->length; i++) {
        const struct json *dimension = &shape->items[i];
        if (dimension->type != JSON_NUMBER || !dimension->is_integer || dimension->integer < 0)
            return error_set(err, "'%s': dimension %zu of tensor '%s' is not a valid size",
                             source->file, i, entry->name);
        entry->shape[i] = (uint64_t)dimension->integer;
        if (__builtin_mul_overflow(entry->bytes, entry->shape[i], &entry->bytes))
            return error_set(err, "'%s': the shape of tensor '%s' overflows 64 bits", source->file,
                             entry->name);
    }
    return 0;
}

static int parse_offsets(const struct source *source, struct safetensors_entry *entry,
                         const struct json *info, struct error *err)
{
    const struct json *offsets = json_get(info, "data_offsets");
    if (!offsets || offsets->type != JSON_ARRAY || offsets->length != 2)
        return error_set(err, "'%s': tensor '%s' has no pair of data_offsets", source->file,
                         entry->name);
    for (int i = 0; i < 2; i++) {
        const struct json *offset = &offsets->items[i];
        if (offset->type != JSON_NUMBER || !offset->is_integer || offset->integer < 0)
            return error_set(err, "'%s': data_offsets of tensor '%s' are not valid offsets",
                             source->file, entry->name);
    }
    uint64_t begin = (uint64_t)offsets->items[0].integer;
    uint64_t end = (uint64_t)offsets->items[1].integer;
    if (begin > end || end > source->data_bytes)
        return error_set(
            err,
            "'%s': tensor '%s' is at bytes %llu to %llu of %llu; the file is truncated "
            "or damaged",
            source->file, entry->name, (unsigned long long)begin, (unsigned long long)end,
            (unsigned long long)source->data_bytes);
    if (end - begin != entry->bytes)
        return error_set(err, "'%s': tensor '%s' has %llu bytes, its shape and dtype need %llu",
                         source->file, entry->name, (unsigned long long)(end - begin),
                         (unsigned long long)entry->bytes);
    entry->data = source->data + begin;
    return 0;
}

// Sorted by place, the tensors must tile the data.
static int check_tiling(const struct source *source, const struct safetensors *out,
                        struct error *err)
{
    uint64_t expected = 0;
    for (size_t i = 0; i < out->count; i++) {
        uint64_t begin = (uint64_t)((const uint8_t *)out->entries[i].data - source->data);
        if (begin != expected)
            return error_set(err, "'%s': %s before tensor '%s': it begins at byte %llu, not %llu",
                             source->file, begin > expected ? "a hole" : "an overlap",
                             out->entries[i].name, (unsigned long long)begin,
                             (unsigned long long)expected);
        expected += out->entries[i].bytes;
    }
    if (expected != source->data_bytes)
        return error_set(err, "'%s': %llu bytes follow the last tensor", source->file,
                         (unsigned long long)(source->data_bytes - expected));
    return 0;
}

static int parse_metadata(const struct source *source, const struct json *metadata,
                          struct arena *arena, struct safetensors *out, struct error *err)
{
    if (metadata->type != JSON_OBJECT)
        return error_set(err, "'%s': __metadata__ is not an object", source->file);
    out->metadata_keys = arena_alloc(arena, metadata->length * sizeof(char *));
    out->metadata_values = arena_alloc(arena, metadata->length * sizeof(char *));
    for (size_t i = 0; i < metadata->length; i++) {
        if (metadata->items[i].type != JSON_STRING)
            return error_set(err, "'%s': __metadata__ key '%s' is not a string", source->file,
                             metadata->keys[i]);
        out->metadata_keys[i] = metadata->keys[i];
        out->metadata_values[i] = metadata->items[i].string;
    }
    out->metadata_count = metadata->length;
    return 0;
}

static int parse_entries(const struct source *source, const struct json *root, struct arena *arena,
                         struct safetensors *out, struct error *err)
{
    out->entries = arena_alloc(arena, root->length * sizeof(*out->entries));
    for (size_t i = 0; i < root->length; i++) {
        const struct json *info = &root->items[i];
        const char *name = root->keys[i];
        if (strlen(name) != root->key_lengths[i])
            return error_set(err, "'%s': a tensor name holds a NUL byte", source->file);
        if (strcmp(name, "__metadata__") == 0) {
            if (parse_metadata(source, info, arena, out, err) != 0)
                return -1;
            continue;
        }
        if (info->type != JSON_OBJECT)
            return error_set(err, "'%s': tensor '%s' is not described by an object", source->file,
                             name);
        struct safetensors_entry *entry = &out->entries[out->count++];
        *entry = (struct safetensors_entry){.name = name, .file = source->file};
        if (parse_dtype(source, entry, info, err) != 0 ||
            parse_shape(source, entry, info, err) != 0 ||
            parse_offsets(source, entry, info, err) != 0)
            return -1;
    }
    qsort(out->entries, out->count, sizeof(*out->entries), compare_by_place);
    if (check_tiling(source, out, err) != 0)
        return -1;
    qsort(out->entries, out->count, sizeof(*out->entries), safetensors_compare_names);
    for (size_t i = 1; i < out->count; i++) {
        if (strcmp(out->entries[i - 1].name, out->entries[i].name) == 0)
            return error_set(err, "'%s': tensor '%s' is described twice", source->file,
                             out->entries[i].name);
    }
    return 0;
}

int safetensors_parse_file(const uint8_t *bytes, size_t length, const char *file,
                           struct arena *arena, struct safetensors *out, struct error *err)
{
    if (length < 8)
        return error_set(err, "'%s': too short for a safetensors file: %zu bytes", file, length);
    uint64_t header_bytes = 0;
    for (int i = 7; i >= 0; i--)
        header_bytes = header_bytes << 8 | bytes[i];
    if (header_bytes > HEADER_MAX_BYTES)
        return error_set(err,
                         "'%s': header of %llu bytes is above the limit of %d; this is not a "
                         "safetensors file",
                         file, (unsigned long long)header_bytes, HEADER_MAX_BYTES);
    if (header_bytes > length - 8)
        return error_set(err, "'%s': header of %llu bytes, but only %zu follow; file is truncated",
                         file, (unsigned long long)header_bytes, length - 8);
    const struct json *root;
    if (json_parse(arena, (const char *)bytes + 8, header_bytes, &root, err) != 0)
        return error_prefix(err, "'%s': header", file);
    if (root->type != JSON_OBJECT)
        return error_set(err, "'%s': header is not a JSON object", file);
    struct source source = {
        .file = arena_strndup(arena, file, strlen(file)),
        .data = bytes + 8 + header_bytes,
        .data_bytes = length - 8 - header_bytes,
    };
    return parse_entries(&source, root, arena, out, err);
}

int safetensors_parse(const void *bytes, size_t length, const char *file, struct safetensors *out,
                      struct error *err)
{
    struct safetensors_memory *memory = mem_calloc(1, sizeof(*memory));
    *out = (struct safetensors){.memory = memory};
    if (safetensors_parse_file(bytes, length, file, &memory->arena, out, err) != 0) {
        safetensors_close(out);
        return -1;
    }
    return 0;
}

void safetensors_close(struct safetensors *tensors)
{
    struct safetensors_memory *memory = tensors->memory;
    if (memory) {
        for (size_t i = 0; i < memory->map_count; i++)
            fs_map_close(&memory->maps[i]);
        free(memory->maps);
        arena_release(&memory->arena);
        free(memory);
    }
    *tensors = (struct safetensors){0};
}

const struct safetensors_entry *safetensors_find(const struct safetensors *tensors,
                                                 const char *name)
{
    struct safetensors_entry key = {.name = name};
    if (tensors->count == 0)
        return NULL;
    return bsearch(&key, tensors->entries, tensors->count, sizeof(key), safetensors_compare_names);
}

const char *safetensors_metadata(const struct safetensors *tensors, const char *key)
{
    for (size_t i = 0; i < tensors->metadata_count; i++) {
        if (strcmp(tensors->metadata_keys[i], key) == 0)
            return tensors->metadata_values[i];
    }
    return NULL;
}
