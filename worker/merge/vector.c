// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/vector.h"

#include "base/arena.h"
#include "base/json.h"
#include "base/mem.h"
#include "worker/merge/vector_format.h"
#include "worker/merge/weights.h"

#include <stdlib.h>
#include <string.h>

static int metadata_digest(const struct vector *vector, const char *key, struct digest *out,
                           struct error *err)
{
    const char *text = safetensors_metadata(&vector->file, key);
    if (!text || !digest_parse(text, out))
        return error_set(err, "its metadata has no digest '%s'", key);
    return 0;
}

static int check_format(struct vector *vector, struct error *err)
{
    const char *format = safetensors_metadata(&vector->file, "format");
    const char *version = safetensors_metadata(&vector->file, "version");
    const char *layout = safetensors_metadata(&vector->file, "layout");
    if (!format || strcmp(format, VECTOR_FORMAT) != 0)
        return error_set(err,
                         "not a task vector: make one with `memo vector --base ... --tuned ...`");
    if (!version || strcmp(version, VECTOR_VERSION) != 0)
        return error_set(err, "version '%s', this build reads '%s': make it again",
                         version ? version : "none", VECTOR_VERSION);
    if (!layout || (strcmp(layout, "dense") != 0 && strcmp(layout, "trimmed") != 0))
        return error_set(err, "layout '%s' is neither dense nor trimmed", layout ? layout : "none");
    vector->trimmed = strcmp(layout, "trimmed") == 0;
    vector->source = safetensors_metadata(&vector->file, "source");
    return metadata_digest(vector, "base", &vector->base, err) ||
                   metadata_digest(vector, "tuned", &vector->tuned, err)
               ? -1
               : 0;
}

static int parse_shape(struct arena *arena, const char *text, struct safetensors_entry *out,
                       struct error *err)
{
    const struct json *shape;
    if (json_parse(arena, text, strlen(text), &shape, err))
        return -1;
    if (shape->type != JSON_ARRAY || shape->length > SAFETENSORS_MAX_RANK)
        return error_set(err, "not an array of at most %d sizes", SAFETENSORS_MAX_RANK);
    out->rank = (int)shape->length;
    out->bytes = sizeof(float);
    for (size_t i = 0; i < shape->length; i++) {
        if (!shape->items[i].is_integer || shape->items[i].integer < 0 ||
            __builtin_mul_overflow(out->bytes, (uint64_t)shape->items[i].integer, &out->bytes))
            return error_set(err, "size %zu is not valid", i);
        out->shape[i] = (uint64_t)shape->items[i].integer;
    }
    return 0;
}

static int open_shape(struct vector *vector, struct vector_tensor *tensor, struct error *err)
{
    char *key = mem_printf("shape %s", tensor->values->name);
    const char *text = safetensors_metadata(&vector->file, key);
    int rc =
        text ? parse_shape(vector->memory, text, &tensor->entry, err) : error_set(err, "missing");
    if (rc != 0)
        error_prefix(err, "metadata '%s'", key);
    free(key);
    return rc;
}

static size_t count_bits(const uint8_t *mask, size_t bytes)
{
    size_t bits = 0, at = 0;
    for (; at + 8 <= bytes; at += 8) {
        uint64_t word;
        memcpy(&word, mask + at, sizeof(word));
        bits += (size_t)__builtin_popcountll(word);
    }
    for (; at < bytes; at++)
        bits += (size_t)__builtin_popcount(mask[at]);
    return bits;
}

// The mask must be as long as the shape says, hold nothing beyond its end, and have as many bits as
// there are values.
static int open_mask(struct vector *vector, struct vector_tensor *tensor, struct error *err)
{
    char *name = mem_printf("%s" VECTOR_MASK_SUFFIX, tensor->values->name);
    const struct safetensors_entry *mask = safetensors_find(&vector->file, name);
    const size_t count = tensor->entry.bytes / sizeof(float), bytes = (count + 7) / 8;
    free(name);
    if (!mask || mask->dtype != ST_U8 || mask->bytes != bytes)
        return error_set(err, "tensor '%s' has no mask of %zu bytes", tensor->values->name, bytes);
    tensor->mask = mask->data;
    tensor->values_before = mem_calloc(count / VECTOR_STRIDE + 1, sizeof(uint64_t));
    uint64_t seen = 0;
    for (size_t at = 0; at < bytes; at += VECTOR_STRIDE / 8) {
        const size_t length = bytes - at < VECTOR_STRIDE / 8 ? bytes - at : VECTOR_STRIDE / 8;
        tensor->values_before[at / (VECTOR_STRIDE / 8)] = seen;
        seen += count_bits(tensor->mask + at, length);
    }
    const bool overhang = count % 8 != 0 && tensor->mask[bytes - 1] >> count % 8 != 0;
    if (overhang || seen != weights_count(tensor->values))
        return error_set(err, "the mask of tensor '%s' has %llu bits%s for %zu values",
                         tensor->values->name, (unsigned long long)seen,
                         overhang ? ", some beyond its end," : "", weights_count(tensor->values));
    return 0;
}

static bool is_mask(const char *name)
{
    const size_t length = strlen(name), suffix = strlen(VECTOR_MASK_SUFFIX);
    return length > suffix && strcmp(name + length - suffix, VECTOR_MASK_SUFFIX) == 0;
}

static int open_tensor(struct vector *vector, const struct safetensors_entry *values,
                       struct error *err)
{
    struct vector_tensor *tensor = &vector->tensors[vector->count++];
    *tensor = (struct vector_tensor){.entry = *values, .values = values};
    if (values->dtype != ST_F32 && values->dtype != ST_BF16)
        return error_set(err, "tensor '%s' is %s, expected F32 or BF16", values->name,
                         safetensors_dtype_name(values->dtype));
    if (!vector->trimmed)
        return 0;
    return open_shape(vector, tensor, err) || open_mask(vector, tensor, err) ? -1 : 0;
}

static int open_tensors(struct vector *vector, struct error *err)
{
    size_t masks = 0;
    vector->tensors = mem_calloc(vector->file.count + 1, sizeof(*vector->tensors));
    for (size_t i = 0; i < vector->file.count; i++) {
        if (vector->trimmed && is_mask(vector->file.entries[i].name)) {
            masks++;
            continue;
        }
        if (open_tensor(vector, &vector->file.entries[i], err))
            return -1;
    }
    if (vector->trimmed && masks != vector->count)
        return error_set(err, "%zu masks for %zu tensors", masks, vector->count);
    return 0;
}

int vector_open(const char *path, struct vector *out, struct error *err)
{
    *out = (struct vector){0};
    if (safetensors_open(path, &out->file, err))
        return -1;
    out->memory = mem_calloc(1, sizeof(struct arena));
    if (check_format(out, err) || open_tensors(out, err)) {
        vector_close(out);
        return error_prefix(err, "'%s'", path);
    }
    return 0;
}

void vector_close(struct vector *vector)
{
    for (size_t i = 0; i < vector->count; i++)
        free(vector->tensors[i].values_before);
    free(vector->tensors);
    if (vector->memory)
        arena_release(vector->memory);
    free(vector->memory);
    safetensors_close(&vector->file);
    *vector = (struct vector){0};
}

const struct vector_tensor *vector_find(const struct vector *vector, const char *name)
{
    size_t low = 0, high = vector->count;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        const int order = strcmp(name, vector->tensors[middle].entry.name);
        if (order == 0)
            return &vector->tensors[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

size_t vector_count(const struct vector_tensor *tensor)
{
    return tensor->mask ? tensor->entry.bytes / sizeof(float) : weights_count(&tensor->entry);
}

// The tensors with their own shapes; entries are the caller's to free.
static struct safetensors dense_view(const struct vector *vector)
{
    struct safetensors view = {.entries = mem_calloc(vector->count + 1, sizeof(*view.entries)),
                               .count = vector->count};
    for (size_t i = 0; i < vector->count; i++)
        view.entries[i] = vector->tensors[i].entry;
    return view;
}

int vectors_match(const struct vector *a, const char *a_name, const struct vector *b,
                  const char *b_name, struct error *err)
{
    struct differences differences = {0};
    struct safetensors x = dense_view(a), y = dense_view(b);
    if (!digest_equal(a->base, b->base))
        differences_add(&differences, "'%s' and '%s' were taken from different bases", a_name,
                        b_name);
    weights_compare(&x, a_name, &y, b_name, false, &differences);
    const int rc = differences_report(&differences, "differences", err);
    differences_release(&differences);
    free(x.entries);
    free(y.entries);
    return rc;
}

static float value_at(const struct safetensors_entry *values, size_t index)
{
    float value;
    weights_read(values, index, 1, &value);
    return value;
}

static void read_trimmed(const struct vector_tensor *tensor, size_t begin, size_t count, float *out)
{
    const size_t stride = begin / VECTOR_STRIDE;
    size_t next = (size_t)tensor->values_before[stride];
    for (size_t i = stride * VECTOR_STRIDE; i < begin; i += 8) {
        uint8_t byte = tensor->mask[i / 8];
        if (begin - i < 8)
            byte &= (uint8_t)((1u << (begin - i)) - 1);
        next += (size_t)__builtin_popcount(byte);
    }
    for (size_t i = begin; i < begin + count; i++)
        out[i - begin] = tensor->mask[i / 8] >> i % 8 & 1 ? value_at(tensor->values, next++) : 0;
}

void vector_read(const struct vector_tensor *tensor, size_t begin, size_t count, float *out)
{
    if (tensor->mask)
        read_trimmed(tensor, begin, count, out);
    else
        weights_read(tensor->values, begin, count, out);
}
