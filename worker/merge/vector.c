// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/vector.h"

#include "base/mem.h"
#include "worker/merge/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define VECTOR_FORMAT "memo task vector"
#define VECTOR_VERSION "1"

static size_t largest_count(const struct safetensors *tensors)
{
    size_t largest = 0;
    for (size_t i = 0; i < tensors->count; i++) {
        const size_t count = weights_count(&tensors->entries[i]);
        largest = count > largest ? count : largest;
    }
    return largest;
}

static void add_statistics(struct vector_stats *stats, double *squares, const float *x,
                           size_t count)
{
    for (size_t i = 0; i < count; i++) {
        *squares += (double)x[i] * (double)x[i];
        stats->zeros += x[i] == 0;
        stats->largest = fabs((double)x[i]) > stats->largest ? fabs((double)x[i]) : stats->largest;
    }
}

static int write_tensor(struct safetensors_writer *writer, const struct safetensors_entry *base,
                        const struct safetensors_entry *tuned, float *scratch[2],
                        struct vector_stats *stats, double *squares, struct error *err)
{
    enum dtype base_dtype, tuned_dtype;
    if (weights_dtype(base, &base_dtype, err) || weights_dtype(tuned, &tuned_dtype, err))
        return -1;
    const size_t count = weights_count(base);
    const float *from = weights_f32(base, base_dtype, scratch[0]);
    const float *to = weights_f32(tuned, tuned_dtype, scratch[1]);
    float *difference = scratch[0];
    for (size_t i = 0; i < count; i++) {
        difference[i] = to[i] - from[i];
        if (!isfinite(difference[i]))
            return error_set(err, "tensor '%s' is not finite at element %zu of '%s' or '%s'",
                             base->name, i, base->file, tuned->file);
    }
    add_statistics(stats, squares, difference, count);
    stats->io.tensors++;
    stats->io.parameters += count;
    stats->io.bytes_read += base->bytes + tuned->bytes;
    stats->io.bytes_written += count * sizeof(float);
    return safetensors_writer_write(writer, difference, count * sizeof(float), err);
}

static int create_writer(struct fs *fs, const char *out, const struct safetensors *base,
                         const struct safetensors *tuned, struct safetensors_writer **writer,
                         struct error *err)
{
    char base_digest[DIGEST_TEXT_BYTES], tuned_digest[DIGEST_TEXT_BYTES];
    digest_format(weights_digest(base), base_digest);
    digest_format(weights_digest(tuned), tuned_digest);
    const char *const metadata[] = {"format",       VECTOR_FORMAT, "version",
                                    VECTOR_VERSION, "base",        base_digest,
                                    "tuned",        tuned_digest,  NULL};
    struct safetensors_entry *entries = mem_calloc(base->count + 1, sizeof(*entries));
    for (size_t i = 0; i < base->count; i++) {
        entries[i] = base->entries[i];
        entries[i].dtype = ST_F32;
        entries[i].bytes = weights_count(&base->entries[i]) * sizeof(float);
    }
    const int rc = safetensors_writer_create(fs, out, entries, base->count, metadata, writer, err);
    free(entries);
    return rc;
}

static int write_difference(struct fs *fs, const struct safetensors *base,
                            const struct safetensors *tuned, const char *out,
                            struct vector_stats *stats, struct error *err)
{
    struct safetensors_writer *writer = NULL;
    double squares = 0;
    const size_t largest = largest_count(base);
    float *scratch[2] = {mem_alloc(largest * sizeof(float) + 1),
                         mem_alloc(largest * sizeof(float) + 1)};
    int rc = create_writer(fs, out, base, tuned, &writer, err);
    for (size_t i = 0; rc == 0 && i < base->count; i++)
        rc = write_tensor(writer, &base->entries[i], safetensors_find(tuned, base->entries[i].name),
                          scratch, stats, &squares, err);
    if (rc == 0)
        rc = safetensors_writer_finish(writer, err);
    safetensors_writer_destroy(writer);
    stats->norm = sqrt(squares);
    free(scratch[0]);
    free(scratch[1]);
    return rc;
}

int vector_write(struct fs *fs, const char *base_directory, const char *tuned_directory,
                 const char *out, struct vector_stats *stats, struct error *err)
{
    struct safetensors base = {0}, tuned = {0};
    *stats = (struct vector_stats){0};
    int rc = safetensors_open(base_directory, &base, err) ||
                     safetensors_open(tuned_directory, &tuned, err) ||
                     weights_match(&base, base_directory, &tuned, tuned_directory, err) ||
                     write_difference(fs, &base, &tuned, out, stats, err)
                 ? -1
                 : 0;
    safetensors_close(&base);
    safetensors_close(&tuned);
    return rc;
}

static int metadata_digest(const struct vector *vector, const char *key, struct digest *out,
                           struct error *err)
{
    const char *text = safetensors_metadata(&vector->tensors, key);
    if (!text || !digest_parse(text, out))
        return error_set(err, "its metadata has no digest '%s'", key);
    return 0;
}

static int check_vector(struct vector *vector, struct error *err)
{
    const char *format = safetensors_metadata(&vector->tensors, "format");
    const char *version = safetensors_metadata(&vector->tensors, "version");
    if (!format || strcmp(format, VECTOR_FORMAT) != 0)
        return error_set(err,
                         "not a task vector: make one with `memo vector --base ... --tuned ...`");
    if (!version || strcmp(version, VECTOR_VERSION) != 0)
        return error_set(err, "version '%s', this build reads '%s'", version ? version : "none",
                         VECTOR_VERSION);
    for (size_t i = 0; i < vector->tensors.count; i++) {
        if (vector->tensors.entries[i].dtype != ST_F32)
            return error_set(err, "tensor '%s' is %s, expected F32",
                             vector->tensors.entries[i].name,
                             safetensors_dtype_name(vector->tensors.entries[i].dtype));
    }
    return metadata_digest(vector, "base", &vector->base, err) ||
                   metadata_digest(vector, "tuned", &vector->tuned, err)
               ? -1
               : 0;
}

int vector_open(const char *path, struct vector *out, struct error *err)
{
    memset(out, 0, sizeof(*out));
    if (safetensors_open(path, &out->tensors, err))
        return -1;
    if (check_vector(out, err)) {
        vector_close(out);
        return error_prefix(err, "'%s'", path);
    }
    return 0;
}

void vector_close(struct vector *vector)
{
    safetensors_close(&vector->tensors);
}
