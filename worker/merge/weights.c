// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/weights.h"

#include "base/strbuf.h"

#include <inttypes.h>
#include <stdint.h>
#include <string.h>

#define MAX_LISTED 8 // differences named in one message

int weights_dtype(const struct safetensors_entry *entry, enum dtype *out, struct error *err)
{
    switch (entry->dtype) {
    case ST_F32:
        *out = DTYPE_F32;
        return 0;
    case ST_BF16:
        *out = DTYPE_BF16;
        return 0;
    case ST_F16:
        *out = DTYPE_F16;
        return 0;
    default:
        return error_set(err, "tensor '%s' in '%s' is %s: only F32, BF16 and F16 can be merged",
                         entry->name, entry->file, safetensors_dtype_name(entry->dtype));
    }
}

size_t weights_count(const struct safetensors_entry *entry)
{
    return entry->bytes / safetensors_dtype_bytes(entry->dtype);
}

const float *weights_f32(const struct safetensors_entry *entry, enum dtype dtype, float *scratch)
{
    const bool aligned = (uintptr_t)entry->data % _Alignof(float) == 0;
    if (dtype == DTYPE_F32 && aligned)
        return entry->data;
    convert_to_f32(scratch, entry->data, dtype, weights_count(entry));
    return scratch;
}

struct digest weights_digest(const struct safetensors *tensors)
{
    struct digest_builder builder;
    digest_begin(&builder);
    for (size_t i = 0; i < tensors->count; i++) {
        const struct safetensors_entry *entry = &tensors->entries[i];
        digest_field_text(&builder, entry->name);
        digest_field_text(&builder, safetensors_dtype_name(entry->dtype));
        digest_field(&builder, entry->shape, (size_t)entry->rank * sizeof(entry->shape[0]));
        digest_field(&builder, entry->data, entry->bytes);
    }
    return digest_end(&builder);
}

static bool same_shape(const struct safetensors_entry *a, const struct safetensors_entry *b)
{
    return a->rank == b->rank &&
           memcmp(a->shape, b->shape, (size_t)a->rank * sizeof(a->shape[0])) == 0;
}

static void add_shape(struct strbuf *out, const struct safetensors_entry *entry)
{
    strbuf_addc(out, '[');
    for (int i = 0; i < entry->rank; i++)
        strbuf_addf(out, "%s%" PRIu64, i ? ", " : "", entry->shape[i]);
    strbuf_addc(out, ']');
}

// Differences seen from a: names that b lacks and, once, shapes that differ.
static size_t list_differences(const struct safetensors *a, const char *a_name,
                               const struct safetensors *b, const char *b_name, bool shapes,
                               size_t listed, struct strbuf *text)
{
    size_t differences = 0;
    for (size_t i = 0; i < a->count; i++) {
        const struct safetensors_entry *mine = &a->entries[i];
        const struct safetensors_entry *other = safetensors_find(b, mine->name);
        const bool wrong_shape = shapes && other && !same_shape(mine, other);
        if (other && !wrong_shape)
            continue;
        if (listed + differences++ >= MAX_LISTED)
            continue;
        strbuf_addf(text, "%s'%s' ", listed + differences > 1 ? "; " : "", mine->name);
        if (!other) {
            strbuf_addf(text, "is in '%s' but not in '%s'", a_name, b_name);
        } else {
            strbuf_addf(text, "is ");
            add_shape(text, mine);
            strbuf_addf(text, " in '%s' and ", a_name);
            add_shape(text, other);
            strbuf_addf(text, " in '%s'", b_name);
        }
    }
    return differences;
}

int weights_match(const struct safetensors *a, const char *a_name, const struct safetensors *b,
                  const char *b_name, struct error *err)
{
    struct strbuf text = {0};
    size_t differences = list_differences(a, a_name, b, b_name, true, 0, &text);
    differences += list_differences(b, b_name, a, a_name, false, differences, &text);
    int rc = 0;
    if (differences > 0)
        rc = error_set(err, "%zu tensors differ: %s%s", differences, text.bytes,
                       differences > MAX_LISTED ? "; ..." : "");
    strbuf_release(&text);
    return rc;
}
