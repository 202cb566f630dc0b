// SPDX-License-Identifier: Apache-2.0
#include "worker/train/checkpoint.h"

#include "base/json.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PART_VERSION 1
#define CUT_ELEMENTS 4096 // ranges begin at multiples of it
#define TENSORS 3         // parameters, first and second moments
static const char part_magic[8] = {'M', 'E', 'M', 'O', 'C', 'K', 'P', 'T'};

struct part_header {
    char magic[8];
    uint32_t version;
    uint32_t zero;
    uint64_t begin;
    uint64_t end;
    uint64_t step;
    uint8_t zeros[24];
};
_Static_assert(sizeof(struct part_header) == 64, "the header is 64 bytes on disk");

struct part {
    uint64_t begin;
    uint64_t end;
    struct digest digest;
};

struct digest trainer_identity(const struct trainer *trainer)
{
    const struct trainer_options *options = &trainer->options;
    const struct digest data = sequence_set_digest(trainer->set);
    struct strbuf config = {0};
    struct digest_builder builder;
    model_config_write(&trainer->model->config, &config);
    digest_begin(&builder);
    digest_field(&builder, data.bytes, sizeof(data.bytes));
    digest_field(&builder, config.bytes, config.length);
    digest_field_u64(&builder, options->plan.seed);
    digest_field_u64(&builder, options->plan.per_step);
    digest_field_u64(&builder, options->plan.epochs);
    digest_field_u64(&builder, (uint64_t)options->schedule.kind);
    const double numbers[] = {
        options->schedule.peak, options->warmup_fraction, options->beta1,    options->beta2,
        options->epsilon,       options->weight_decay,    options->clip_norm};
    digest_field(&builder, numbers, sizeof(numbers));
    strbuf_release(&config);
    return digest_end(&builder);
}

// The range of rank `rank` of `ranks`.
static struct part part_range(uint64_t elements, int rank, int ranks)
{
    const uint64_t cuts = (elements + CUT_ELEMENTS - 1) / CUT_ELEMENTS;
    const uint64_t begin = cuts * (uint64_t)rank / (uint64_t)ranks * CUT_ELEMENTS;
    const uint64_t end = cuts * (uint64_t)(rank + 1) / (uint64_t)ranks * CUT_ELEMENTS;
    return (struct part){.begin = begin < elements ? begin : elements,
                         .end = end < elements ? end : elements};
}

static void trainer_tensors(const struct trainer *trainer, float *out[TENSORS])
{
    out[0] = trainer->model->weights.data;
    out[1] = trainer->moment1;
    out[2] = trainer->moment2;
}

static char *part_path(const char *directory, int rank)
{
    return mem_printf("%s/part-%04d.bin", directory, rank);
}

// Copies this rank's range to the host and writes it; *digest is that of the file.
static int write_part(struct trainer *trainer, struct fs *fs, const char *directory,
                      struct part *part, struct error *err)
{
    const size_t count = part->end - part->begin;
    struct part_header header = {
        .version = PART_VERSION, .begin = part->begin, .end = part->end, .step = trainer->step};
    memcpy(header.magic, part_magic, sizeof(part_magic));
    float *tensors[TENSORS];
    trainer_tensors(trainer, tensors);
    float *host = mem_alloc(TENSORS * count * sizeof(float) + 1);
    int rc = 0;
    for (int t = 0; rc == 0 && t < TENSORS; t++)
        rc = device_copy_out(trainer->model->device, host + (size_t)t * count,
                             tensors[t] + part->begin, count * sizeof(float), err);
    if (rc == 0) {
        struct digest_builder builder;
        digest_begin(&builder);
        digest_update(&builder, &header, sizeof(header));
        digest_update(&builder, host, TENSORS * count * sizeof(float));
        part->digest = digest_end(&builder);
        const struct fs_part parts[] = {{&header, sizeof(header)},
                                        {host, TENSORS * count * sizeof(float)}};
        char *path = part_path(directory, group_rank(trainer->group));
        rc = fs_write_atomic(fs, path, parts, 2, true, err);
        free(path);
    }
    free(host);
    return rc;
}

static int write_manifest(const struct trainer *trainer, struct fs *fs, const char *directory,
                          const struct part *parts, int count, struct error *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text, .indent = 2};
    char digest[DIGEST_TEXT_BYTES];
    json_begin_object(&w);
    json_key(&w, "version");
    json_int(&w, PART_VERSION);
    json_key(&w, "step");
    json_int(&w, (int64_t)trainer->step);
    json_key(&w, "identity");
    digest_format(trainer_identity(trainer), digest);
    json_text(&w, digest);
    json_key(&w, "elements");
    json_int(&w, (int64_t)trainer->model->layout.elements);
    json_key(&w, "parts");
    json_begin_array(&w);
    for (int i = 0; i < count; i++) {
        json_begin_object(&w);
        json_key(&w, "begin");
        json_int(&w, (int64_t)parts[i].begin);
        json_key(&w, "end");
        json_int(&w, (int64_t)parts[i].end);
        json_key(&w, "digest");
        digest_format(parts[i].digest, digest);
        json_text(&w, digest);
        json_end_object(&w);
    }
    json_end_array(&w);
    json_end_object(&w);
    char *path = fs_join(directory, "manifest.json");
    const int rc = fs_write_text(fs, path, text.bytes, text.length, err);
    free(path);
    strbuf_release(&text);
    return rc;
}

static void remove_directory(struct fs *fs, const char *path)
{
    struct error ignored; // what cannot be removed now is removed by the next save
    struct fs_names names;
    if (fs_list(fs, path, &names, &ignored))
        return;
    // The manifest first: a directory that loses a part must not look whole.
    char *manifest = fs_join(path, "manifest.json");
    fs->ops->remove(fs->state, manifest);
    free(manifest);
    for (size_t i = 0; i < names.count; i++) {
        char *file = fs_join(path, names.names[i]);
        fs->ops->remove(fs->state, file);
        free(file);
    }
    fs->ops->remove(fs->state, path);
    fs_names_release(&names);
}

static bool is_whole(struct fs *fs, const char *path)
{
    char *manifest = fs_join(path, "manifest.json");
    const bool whole = fs_exists(fs, manifest);
    free(manifest);
    return whole;
}

static bool is_step_name(const char *name)
{
    return strncmp(name, "step-", 5) == 0 && strlen(name) == 13 &&
           strspn(name + 5, "0123456789") == 8;
}

// Keeps the newest `keep` whole checkpoints; removes the others and what was interrupted.
static int remove_old(struct fs *fs, const char *directory, size_t keep, struct error *err)
{
    struct fs_names names;
    if (fs_list(fs, directory, &names, err))
        return -1;
    size_t kept = 0;
    for (size_t i = names.count; i-- > 0;) {
        char *path = fs_join(directory, names.names[i]);
        if (is_step_name(names.names[i])) {
            if (is_whole(fs, path) && kept < keep)
                kept++;
            else
                remove_directory(fs, path);
        }
        free(path);
    }
    fs_names_release(&names);
    return 0;
}

int checkpoint_save(struct trainer *trainer, struct fs *fs, const char *directory, size_t keep,
                    struct error *err)
{
    const int rank = group_rank(trainer->group), ranks = group_size(trainer->group);
    char *path = mem_printf("%s/step-%08zu", directory, trainer->step);
    struct part *parts = mem_calloc((size_t)ranks, sizeof(*parts));
    struct part mine = part_range(trainer->model->layout.elements, rank, ranks);

    int rc = rank == 0 ? fs_make_directories(fs, path, err) : 0;
    rc = group_agree(trainer->group, rc, err);
    if (rc == 0)
        rc = group_agree(trainer->group, write_part(trainer, fs, path, &mine, err), err);
    if (rc == 0)
        rc = group_all_gather(trainer->group, parts, &mine, sizeof(mine), err);
    if (rc == 0) {
        if (rank == 0)
            rc = write_manifest(trainer, fs, path, parts, ranks, err) ||
                         remove_old(fs, directory, keep, err)
                     ? -1
                     : 0;
        rc = group_agree(trainer->group, rc, err);
    }
    if (rc != 0)
        error_prefix(err, "checkpoint '%s'", path);
    free(parts);
    free(path);
    return rc;
}

struct manifest {
    uint64_t step;
    uint64_t elements;
    struct digest identity;
    struct part *parts;
    size_t count;
};

static int manifest_digest(const struct json *object, const char *key, struct digest *out,
                           struct error *err)
{
    const char *text = "";
    if (json_get_string(object, key, &text, err))
        return -1;
    return digest_parse(text, out) ? 0 : error_set(err, "'%s' is not a digest: '%s'", key, text);
}

static int manifest_parts(const struct json *parts, struct manifest *out, struct error *err)
{
    if (!parts || parts->type != JSON_ARRAY)
        return error_set(err, "'parts' is missing");
    out->parts = mem_calloc(parts->length + 1, sizeof(*out->parts));
    uint64_t expected = 0;
    for (size_t i = 0; i < parts->length; i++) {
        int64_t begin = -1, end = -1;
        if (json_get_int(&parts->items[i], "begin", 0, INT64_MAX, &begin, err) ||
            json_get_int(&parts->items[i], "end", 0, INT64_MAX, &end, err) ||
            manifest_digest(&parts->items[i], "digest", &out->parts[i].digest, err))
            return -1;
        if ((uint64_t)begin != expected || end < begin)
            return error_set(err,
                             "part %zu covers %" PRId64 "..%" PRId64 ", expected begin %" PRIu64, i,
                             begin, end, expected);
        out->parts[i].begin = (uint64_t)begin;
        out->parts[i].end = (uint64_t)end;
        expected = (uint64_t)end;
    }
    out->count = parts->length;
    return expected == out->elements
               ? 0
               : error_set(err, "parts cover %" PRIu64 " of %" PRIu64 " elements", expected,
                           out->elements);
}

static int manifest_read(struct fs *fs, const char *directory, struct manifest *out,
                         struct error *err)
{
    struct strbuf text = {0};
    struct arena arena = {0};
    const struct json *root;
    int64_t version = 0, step = -1, elements = -1;
    char *path = fs_join(directory, "manifest.json");
    memset(out, 0, sizeof(*out));
    int rc = fs_read(fs, path, &text, err) ||
                     json_parse(&arena, text.bytes, text.length, &root, err) ||
                     json_get_int(root, "version", 1, PART_VERSION, &version, err) ||
                     json_get_int(root, "step", 0, INT64_MAX, &step, err) ||
                     json_get_int(root, "elements", 1, INT64_MAX, &elements, err) ||
                     manifest_digest(root, "identity", &out->identity, err)
                 ? -1
                 : 0;
    if (rc == 0 && (version < 1 || step < 0 || elements < 0))
        rc = error_set(err, "'version', 'step' or 'elements' is missing");
    if (rc == 0) {
        out->step = (uint64_t)step;
        out->elements = (uint64_t)elements;
        rc = manifest_parts(json_get(root, "parts"), out, err);
    }
    if (rc != 0)
        error_prefix(err, "'%s'", path);
    free(path);
    arena_release(&arena);
    strbuf_release(&text);
    return rc;
}

static int load_part(struct trainer *trainer, struct fs *fs, const char *directory, int number,
                     const struct manifest *manifest, struct error *err)
{
    const struct part *part = &manifest->parts[number];
    const size_t count = part->end - part->begin;
    const size_t bytes = sizeof(struct part_header) + TENSORS * count * sizeof(float);
    struct strbuf file = {0};
    char *path = part_path(directory, number);
    int rc = fs_read(fs, path, &file, err);
    if (rc == 0 && file.length != bytes)
        rc = error_set(err, "%zu bytes, expected %zu", file.length, bytes);
    if (rc == 0 && !digest_equal(digest_bytes(file.bytes, file.length), part->digest))
        rc = error_set(err, "the content does not match its digest");
    struct part_header header;
    if (rc == 0) {
        memcpy(&header, file.bytes, sizeof(header));
        if (memcmp(header.magic, part_magic, sizeof(part_magic)) != 0 ||
            header.version != PART_VERSION || header.begin != part->begin ||
            header.end != part->end || header.step != manifest->step)
            rc = error_set(err, "the header does not match the manifest");
    }
    float *tensors[TENSORS];
    trainer_tensors(trainer, tensors);
    for (int t = 0; rc == 0 && t < TENSORS; t++)
        device_copy_in(trainer->model->device, tensors[t] + part->begin,
                       file.bytes + sizeof(header) + (size_t)t * count * sizeof(float),
                       count * sizeof(float));
    if (rc == 0)
        rc = device_sync(trainer->model->device, err);
    if (rc != 0)
        error_prefix(err, "'%s'", path);
    free(path);
    strbuf_release(&file);
    return rc;
}

static int load_whole(struct trainer *trainer, struct fs *fs, const char *path, struct error *err)
{
    struct manifest manifest;
    int rc = manifest_read(fs, path, &manifest, err);
    if (rc == 0 && (manifest.elements != trainer->model->layout.elements ||
                    !digest_equal(manifest.identity, trainer_identity(trainer))))
        rc = error_set(err,
                       "checkpoint '%s' was made with other data, options or model; use another "
                       "--out, or remove it to start over",
                       path);
    for (size_t i = 0; rc == 0 && i < manifest.count; i++)
        rc = load_part(trainer, fs, path, (int)i, &manifest, err);
    if (rc == 0)
        trainer->step = manifest.step;
    free(manifest.parts);
    return rc;
}

// Newest whole checkpoint's path (caller frees), or NULL.
static char *newest(struct fs *fs, const char *directory)
{
    struct error ignored; // no directory: no checkpoint
    struct fs_names names;
    char *found = NULL;
    if (!fs_exists(fs, directory) || fs_list(fs, directory, &names, &ignored))
        return NULL;
    for (size_t i = names.count; i-- > 0 && !found;) {
        char *path = fs_join(directory, names.names[i]);
        if (is_step_name(names.names[i]) && is_whole(fs, path))
            found = path;
        else
            free(path);
    }
    fs_names_release(&names);
    return found;
}

int checkpoint_load(struct trainer *trainer, struct fs *fs, const char *directory,
                    struct error *err)
{
    char *path = newest(fs, directory);
    int rc = path ? load_whole(trainer, fs, path, err) : 0;
    rc = group_agree(trainer->group, rc, err);
    const int found = path != NULL;
    free(path);
    return rc == 0 ? found : -1;
}
