// SPDX-License-Identifier: Apache-2.0
// A Hugging Face directory becomes a model: config.json says which tensors there must be, and the
// safetensors files must hold exactly those. All that is wrong is found before anything large is
// allocated, and listed in one message.
#include "worker/model/model.h"

#include "base/fs.h"
#include "base/mem.h"
#include "datasets/safetensors.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

// What is wrong with the tensors of a directory; lists end after a few names.
struct findings {
    struct strbuf text;
    size_t count;
};

enum { FINDINGS_NAMED = 12 };

static void add_finding(struct findings *findings, const char *what, const char *name)
{
    if (findings->count++ < FINDINGS_NAMED)
        strbuf_addf(&findings->text, "%s%s '%s'", findings->count > 1 ? "; " : "", what, name);
}

static int report_findings(struct findings *findings, struct error *err)
{
    int rc = 0;
    if (findings->count > FINDINGS_NAMED)
        strbuf_addf(&findings->text, "; and %zu more", findings->count - FINDINGS_NAMED);
    if (findings->count > 0)
        rc = error_set(err, "%zu tensors do not fit config.json: %s", findings->count,
                       findings->text.bytes);
    strbuf_release(&findings->text);
    return rc;
}

static bool dtype_of(const struct safetensors_entry *entry, enum dtype *out)
{
    switch (entry->dtype) {
    case ST_F32:
        *out = DTYPE_F32;
        return true;
    case ST_BF16:
        *out = DTYPE_BF16;
        return true;
    case ST_F16:
        *out = DTYPE_F16;
        return true;
    default:
        return false;
    }
}

static void describe_shape(struct strbuf *out, int rank, const uint64_t *shape)
{
    strbuf_addc(out, '[');
    for (int i = 0; i < rank; i++)
        strbuf_addf(out, "%s%" PRIu64, i ? ", " : "", shape[i]);
    strbuf_addc(out, ']');
}

static void check_parameter(const struct safetensors *tensors, const struct parameter *p,
                            struct findings *findings)
{
    const struct safetensors_entry *entry = safetensors_find(tensors, p->name);
    enum dtype dtype;
    if (!entry) {
        add_finding(findings, "missing", p->name);
        return;
    }
    struct strbuf what = {0};
    if (entry->rank != p->rank ||
        memcmp(entry->shape, p->shape, (size_t)p->rank * sizeof *p->shape) != 0) {
        strbuf_adds(&what, "shape ");
        describe_shape(&what, entry->rank, entry->shape);
        strbuf_adds(&what, " instead of ");
        describe_shape(&what, p->rank, p->shape);
        strbuf_adds(&what, " of");
    } else if (!dtype_of(entry, &dtype)) {
        strbuf_addf(&what, "unsupported type %s of", safetensors_dtype_name(entry->dtype));
    }
    if (what.length > 0)
        add_finding(findings, what.bytes, p->name);
    strbuf_release(&what);
}

// Some tools write the head of a tied model too; it must then be the embedding, bit for bit.
static bool is_tied_copy(const struct safetensors *tensors, const struct layout *layout,
                         const struct safetensors_entry *entry)
{
    if (strcmp(entry->name, "lm_head.weight") != 0)
        return false;
    const struct parameter *p = layout_find(layout, PARAM_EMBEDDING, -1);
    const struct safetensors_entry *embedding = safetensors_find(tensors, p->name);
    return embedding && embedding->dtype == entry->dtype && embedding->bytes == entry->bytes &&
           memcmp(embedding->data, entry->data, entry->bytes) == 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void check_leftovers(const struct safetensors *tensors, const struct layout *layout,
                            struct findings *findings)
{
    size_t count = layout->parameter_count;
    const char **names = mem_alloc(count * sizeof *names);
    for (size_t i = 0; i < count; i++)
        names[i] = layout->parameters[i].name;
    qsort(names, count, sizeof *names, compare_names);
    for (size_t i = 0; i < tensors->count; i++) {
        const struct safetensors_entry *entry = &tensors->entries[i];
        if (!bsearch(&entry->name, names, count, sizeof *names, compare_names) &&
            !is_tied_copy(tensors, layout, entry))
            add_finding(findings, "unexpected", entry->name);
    }
    free(names);
}

static int check_tensors(const struct safetensors *tensors, const struct model_config *config,
                         struct error *err)
{
    struct findings findings = {0};
    struct layout layout;
    layout_create(config, &layout);
    for (size_t i = 0; i < layout.parameter_count; i++)
        check_parameter(tensors, &layout.parameters[i], &findings);
    check_leftovers(tensors, &layout, &findings);
    layout_release(&layout);
    return report_findings(&findings, err);
}

// Through a staging buffer, because the bytes of the mapping need not be aligned.
static void copy_parameter(struct model *model, const struct parameter *p,
                           const struct safetensors_entry *entry)
{
    enum { STAGING_ELEMENTS = 1 << 16 };
    enum dtype from = DTYPE_F32, to = model->weights.dtype;
    dtype_of(entry, &from);
    char *target = (char *)model->weights.data + p->offset * dtype_bytes(to);
    if (from == to) {
        device_copy_in(model->device, target, entry->data, entry->bytes);
        return;
    }
    void *raw = mem_alloc(STAGING_ELEMENTS * sizeof(float));
    float *values = mem_alloc(STAGING_ELEMENTS * sizeof *values);
    for (uint64_t done = 0; done < p->count; done += STAGING_ELEMENTS) {
        size_t count = STAGING_ELEMENTS;
        if (count > p->count - done)
            count = (size_t)(p->count - done);
        memcpy(raw, (const char *)entry->data + done * dtype_bytes(from),
               count * dtype_bytes(from));
        convert_to_f32(values, raw, from, count);
        convert_from_f32(raw, to, values, count);
        device_copy_in(model->device, target + done * dtype_bytes(to), raw,
                       count * dtype_bytes(to));
    }
    free(raw);
    free(values);
}

static int read_config(const char *directory, struct model_config *out, struct error *err)
{
    struct strbuf json = {0};
    char *path = fs_join(directory, "config.json");
    int rc = fs_read(fs_system(), path, &json, err);
    if (rc == 0) {
        rc = model_config_parse(json.bytes, json.length, out, err);
        if (rc)
            error_prefix(err, "'%s'", path);
    }
    strbuf_release(&json);
    free(path);
    return rc;
}

int model_load(struct device *device, const char *directory, enum dtype dtype, struct model **out,
               struct error *err)
{
    struct model_config config;
    struct safetensors tensors = {0};
    struct model *model = NULL;
    *out = NULL;
    if (read_config(directory, &config, err) || safetensors_open(directory, &tensors, err))
        return -1;
    if (check_tensors(&tensors, &config, err) ||
        model_create(device, &config, dtype, &model, err)) {
        error_prefix(err, "'%s'", directory);
        goto fail;
    }
    for (size_t i = 0; i < model->layout.parameter_count; i++) {
        const struct parameter *p = &model->layout.parameters[i];
        copy_parameter(model, p, safetensors_find(&tensors, p->name));
    }
    if (device_sync(device, err))
        goto fail;
    safetensors_close(&tensors);
    *out = model;
    return 0;

fail:
    safetensors_close(&tensors);
    model_destroy(model);
    return -1;
}
