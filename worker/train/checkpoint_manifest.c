// SPDX-License-Identifier: Apache-2.0
#include "worker/train/checkpoint_manifest.h"

#include "base/json.h"
#include "base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MANIFEST_NAME "manifest.json"

size_t manifest_part_count(uint64_t elements, uint64_t part_elements)
{
    return (size_t)(elements / part_elements + (elements % part_elements != 0));
}

uint64_t manifest_part_begin(const struct manifest *manifest, size_t part)
{
    return part * manifest->part_elements;
}

uint64_t manifest_part_end(const struct manifest *manifest, size_t part)
{
    const uint64_t begin = manifest_part_begin(manifest, part);
    const uint64_t left = manifest->elements - begin;
    return begin + (left < manifest->part_elements ? left : manifest->part_elements);
}

static void write_digest(struct json_writer *w, struct digest digest)
{
    char text[DIGEST_TEXT_BYTES];
    digest_format(digest, text);
    json_text(w, text);
}

static void write_environment(struct json_writer *w, const struct environment *environment)
{
    json_key(w, "environment");
    json_begin_object(w);
    for (int f = 0; f < ENVIRONMENT_FIELDS; f++) {
        if (environment->values[f]) {
            json_key(w, environment_names[f]);
            json_text(w, environment->values[f]);
        }
    }
    json_end_object(w);
}

static void write_score(struct json_writer *w, const struct held_out_score *score)
{
    if (!score->known)
        return;
    json_key(w, "score");
    json_begin_object(w);
    json_key(w, "name");
    json_text(w, score->name);
    json_key(w, "value");
    json_number(w, score->value);
    json_end_object(w);
}

int manifest_write(const struct manifest *manifest, struct fs *fs, const char *directory,
                   struct error *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text, .indent = 2};
    json_begin_object(&w);
    json_key(&w, "version");
    json_int(&w, CHECKPOINT_VERSION);
    json_key(&w, "step");
    json_int(&w, (int64_t)manifest->step);
    json_key(&w, "identity");
    write_digest(&w, manifest->identity);
    json_key(&w, "tokens");
    json_int(&w, (int64_t)manifest->tokens);
    json_key(&w, "consumed");
    write_digest(&w, manifest->consumed);
    write_environment(&w, &manifest->environment);
    if (manifest->rounded) {
        json_key(&w, "rounded");
        json_text(&w, manifest->rounded);
    }
    write_score(&w, &manifest->score);
    json_key(&w, "weights");
    json_text(&w, dtype_name(manifest->form.weights));
    json_key(&w, "moments");
    json_text(&w, moment_kind_name(manifest->form.moments));
    json_key(&w, "elements");
    json_int(&w, (int64_t)manifest->elements);
    json_key(&w, "part_elements");
    json_int(&w, (int64_t)manifest->part_elements);
    json_key(&w, "parts");
    json_begin_array(&w);
    for (size_t i = 0; i < manifest->count; i++)
        write_digest(&w, manifest->parts[i]);
    json_end_array(&w);
    json_end_object(&w);
    char *path = fs_join(directory, MANIFEST_NAME);
    const int rc = fs_write_text(fs, path, text.bytes, text.length, err);
    free(path);
    strbuf_release(&text);
    return rc;
}

static int read_integer(const struct json *root, const char *key, int64_t minimum, uint64_t *out,
                        struct error *err)
{
    int64_t value = -1; // what json_get_int leaves when the key is missing
    if (json_get_int(root, key, minimum, INT64_MAX, &value, err))
        return -1;
    if (value < 0)
        return error_set(err, "'%s' is missing", key);
    *out = (uint64_t)value;
    return 0;
}

static int read_digest(const struct json *value, const char *what, struct digest *out,
                       struct error *err)
{
    if (!value || value->type != JSON_STRING || !digest_parse(value->string, out))
        return error_set(err, "'%s' is not a digest", what);
    return 0;
}

static int read_parts(const struct json *parts, struct manifest *out, struct error *err)
{
    const size_t expected = manifest_part_count(out->elements, out->part_elements);
    if (!parts || parts->type != JSON_ARRAY)
        return error_set(err, "'parts' is not a list");
    if (parts->length != expected)
        return error_set(err, "%zu parts, expected %zu", parts->length, expected);
    out->parts = mem_calloc(expected, sizeof(*out->parts));
    for (; out->count < expected; out->count++) {
        if (read_digest(&parts->items[out->count], "parts", &out->parts[out->count], err))
            return -1;
    }
    return 0;
}

static int read_form(const struct json *root, struct state_form *out, struct error *err)
{
    const char *weights = "", *moments = "";
    if (json_get_string(root, "weights", &weights, err) ||
        json_get_string(root, "moments", &moments, err))
        return -1;
    return state_form_parse(weights, moments, out, err);
}

// Also of a missing one, of which nothing is known. Who says nothing of gradients had them in f32.
static int read_environment(const struct json *root, struct environment *out, struct error *err)
{
    for (int f = 0; f < ENVIRONMENT_FIELDS; f++) {
        const char *value = NULL;
        if (json_get_string(root, environment_names[f], &value, err))
            return error_prefix(err, "'environment'");
        if (!value && f == ENVIRONMENT_GRADIENTS)
            value = dtype_name(DTYPE_F32);
        out->values[f] = value ? mem_strdup(value) : NULL;
    }
    return 0;
}

static int read_rounded(const struct json *root, char **out, struct error *err)
{
    const char *rounded = NULL;
    if (json_get_string(root, "rounded", &rounded, err))
        return -1;
    *out = rounded ? mem_strdup(rounded) : NULL;
    return 0;
}

static int read_score(const struct json *score, struct held_out_score *out, struct error *err)
{
    const char *name = "";
    if (!score)
        return 0;
    out->value = NAN;
    if (json_get_string(score, "name", &name, err) ||
        json_get_number(score, "value", &out->value, err))
        return error_prefix(err, "'score'");
    if (strlen(name) >= sizeof(out->name) || isnan(out->value))
        return error_set(err, "'score' has no name or no value");
    strcpy(out->name, name);
    out->known = true;
    return 0;
}

static int parse(const struct json *root, struct manifest *out, struct error *err)
{
    uint64_t version = 0;
    if (root->type != JSON_OBJECT)
        return error_set(err, "%s, expected an object", json_type_name(root->type));
    if (read_integer(root, "version", 0, &version, err))
        return -1;
    if (version != CHECKPOINT_VERSION)
        return error_set(err, "version %" PRIu64 ", this program reads version %d", version,
                         CHECKPOINT_VERSION);
    return read_integer(root, "step", 0, &out->step, err) ||
                   read_digest(json_get(root, "identity"), "identity", &out->identity, err) ||
                   read_integer(root, "tokens", 0, &out->tokens, err) ||
                   read_digest(json_get(root, "consumed"), "consumed", &out->consumed, err) ||
                   read_environment(json_get(root, "environment"), &out->environment, err) ||
                   read_rounded(root, &out->rounded, err) ||
                   read_score(json_get(root, "score"), &out->score, err) ||
                   read_form(root, &out->form, err) ||
                   read_integer(root, "elements", 1, &out->elements, err) ||
                   read_integer(root, "part_elements", 1, &out->part_elements, err) ||
                   read_parts(json_get(root, "parts"), out, err)
               ? -1
               : 0;
}

int manifest_read(struct fs *fs, const char *directory, struct manifest *out, struct error *err)
{
    struct strbuf text = {0};
    struct arena arena = {0};
    const struct json *root;
    char *path = fs_join(directory, MANIFEST_NAME);
    *out = (struct manifest){0};
    int rc = fs_read(fs, path, &text, err);
    if (rc == 0 &&
        (json_parse(&arena, text.bytes, text.length, &root, err) || parse(root, out, err)))
        rc = error_prefix(err, "'%s'", path);
    if (rc != 0)
        manifest_release(out);
    free(path);
    arena_release(&arena);
    strbuf_release(&text);
    return rc;
}

void manifest_release(struct manifest *manifest)
{
    environment_release(&manifest->environment);
    free(manifest->rounded);
    free(manifest->parts);
    *manifest = (struct manifest){0};
}

int manifest_exists(struct fs *fs, const char *directory, struct error *err)
{
    struct fs_info info;
    char *path = fs_join(directory, MANIFEST_NAME);
    int rc = fs->ops->stat(fs->state, path, &info);
    if (rc == -ENOENT)
        rc = 0;
    else if (rc < 0)
        rc = error_set_errno(err, -rc, "cannot read '%s'", path);
    else
        rc = 1;
    free(path);
    return rc;
}

int manifest_remove(struct fs *fs, const char *directory)
{
    char *path = fs_join(directory, MANIFEST_NAME);
    const int rc = fs->ops->remove(fs->state, path);
    free(path);
    return rc == 0 || rc == -ENOENT ? 0 : -1;
}
