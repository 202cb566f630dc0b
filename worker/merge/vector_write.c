// SPDX-License-Identifier: Apache-2.0
// Writing task vectors, tensor by tensor and piece by piece: values come from a reader and are
// never held whole. A trimmed tensor is read for its threshold, for its mask and for its values.
#include "worker/merge/vector.h"

#include "base/mem.h"
#include "worker/merge/master.h"
#include "worker/merge/tensor.h"
#include "worker/merge/vector_format.h"
#include "worker/merge/weights.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PIECE 65536 // elements; a multiple of 8, so that pieces of a mask are whole bytes

// The vector to be written.
struct content {
    const struct safetensors_entry *shapes; // [count] names and shapes
    size_t count;
    void (*read)(void *context, size_t tensor, size_t begin, size_t count, float *out);
    void *context;
    const char *metadata[16]; // key, value, ..., NULL; room for the layout is left
    const struct vector_options *options;
};

struct writing {
    struct fs *fs;
    const struct content *content;
    struct safetensors_writer *writer;
    struct merge_engine *engine; // trimmed only
    struct vector_stats *stats;
    double squares;
    float *values;
    void *stored;
};

static bool is_trimmed(const struct content *content)
{
    return content->options->density < 1;
}

static void count_values(struct writing *w, const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        w->squares += (double)x[i] * (double)x[i];
        w->stats->zeros += x[i] == 0;
        if (fabs((double)x[i]) > w->stats->largest)
            w->stats->largest = fabs((double)x[i]);
    }
}

static int check_finite(const struct content *content, size_t tensor, size_t begin, const float *x,
                        size_t count, struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(x[i]))
            return error_set(err, "tensor '%s' is not finite at element %zu",
                             content->shapes[tensor].name, begin + i);
    }
    return 0;
}

static int write_values(struct writing *w, const float *x, size_t count, struct error *err)
{
    const enum dtype dtype = w->content->options->dtype;
    const size_t bytes = count * dtype_bytes(dtype);
    convert_from_f32(w->stored, dtype, x, count);
    w->stats->bytes_written += bytes;
    w->stats->kept += count;
    return safetensors_writer_write(w->writer, w->stored, bytes, err);
}

static int write_dense(struct writing *w, size_t tensor, size_t count, struct error *err)
{
    const struct content *content = w->content;
    for (size_t at = 0; at < count; at += PIECE) {
        const size_t length = count - at < PIECE ? count - at : PIECE;
        content->read(content->context, tensor, at, length, w->values);
        if (check_finite(content, tensor, at, w->values, length, err))
            return -1;
        count_values(w, w->values, length);
        if (write_values(w, w->values, length, err))
            return -1;
    }
    return 0;
}

struct reading {
    const struct content *content;
    size_t tensor;
};

static void read_for_cut(void *context, size_t which, size_t begin, size_t count, float *out)
{
    const struct reading *reading = context;
    (void)which;
    reading->content->read(reading->content->context, reading->tensor, begin, count, out);
}

static struct magnitude_cut find_cut(struct writing *w, size_t tensor, size_t count)
{
    static const bool is_delta[] = {true};
    struct reading reading = {w->content, tensor};
    const struct merge_tensor source = {.rows = 1,
                                        .columns = count,
                                        .is_delta = is_delta,
                                        .read = read_for_cut,
                                        .context = &reading};
    return merge_tensor_cut(w->engine, &source,
                            merge_kept_count(w->content->options->density, count));
}

static int write_mask(struct writing *w, size_t tensor, size_t count, struct magnitude_cut cut,
                      struct error *err)
{
    const struct content *content = w->content;
    uint8_t *bits = w->stored;
    for (size_t at = 0; at < count; at += PIECE) {
        const size_t length = count - at < PIECE ? count - at : PIECE, bytes = (length + 7) / 8;
        content->read(content->context, tensor, at, length, w->values);
        if (check_finite(content, tensor, at, w->values, length, err))
            return -1;
        count_values(w, w->values, length);
        memset(bits, 0, bytes);
        for (size_t i = 0; i < length; i++)
            bits[i / 8] |= (uint8_t)(magnitude_survives(w->values[i], at + i, cut) << i % 8);
        w->stats->bytes_written += bytes;
        if (safetensors_writer_write(w->writer, bits, bytes, err))
            return -1;
    }
    return 0;
}

static int write_kept(struct writing *w, size_t tensor, size_t count, struct magnitude_cut cut,
                      struct error *err)
{
    const struct content *content = w->content;
    for (size_t at = 0; at < count; at += PIECE) {
        const size_t length = count - at < PIECE ? count - at : PIECE;
        size_t kept = 0;
        content->read(content->context, tensor, at, length, w->values);
        for (size_t i = 0; i < length; i++) {
            if (magnitude_survives(w->values[i], at + i, cut))
                w->values[kept++] = w->values[i];
        }
        if (write_values(w, w->values, kept, err))
            return -1;
    }
    return 0;
}

static size_t count_of(const struct safetensors_entry *shape)
{
    size_t count = 1;
    for (int i = 0; i < shape->rank; i++)
        count *= (size_t)shape->shape[i];
    return count;
}

static int write_tensor(struct writing *w, size_t tensor, struct error *err)
{
    const size_t count = count_of(&w->content->shapes[tensor]);
    w->stats->tensors++;
    w->stats->parameters += count;
    if (!is_trimmed(w->content))
        return write_dense(w, tensor, count, err);
    const struct magnitude_cut cut = find_cut(w, tensor, count);
    return write_mask(w, tensor, count, cut, err) || write_kept(w, tensor, count, cut, err) ? -1
                                                                                            : 0;
}

static char *shape_text(const struct safetensors_entry *shape)
{
    struct strbuf text = {0};
    strbuf_addc(&text, '[');
    for (int i = 0; i < shape->rank; i++)
        strbuf_addf(&text, "%s%" PRIu64, i ? ", " : "", shape->shape[i]);
    strbuf_addc(&text, ']');
    return strbuf_detach(&text);
}

// Declares the file's tensors and metadata.
static int create_writer(struct writing *w, const char *out, struct error *err)
{
    const struct content *content = w->content;
    const bool trimmed = is_trimmed(content);
    const enum safetensors_dtype dtype = weights_file_dtype(content->options->dtype);
    struct safetensors_entry *entries = mem_calloc(2 * content->count + 1, sizeof(*entries));
    char **owned = mem_calloc(3 * content->count + 1, sizeof(*owned));
    const char **metadata = mem_calloc(20 + 2 * content->count, sizeof(*metadata));
    size_t n = 0, m = 0, o = 0;
    for (; content->metadata[m]; m++)
        metadata[m] = content->metadata[m];
    metadata[m++] = "layout";
    metadata[m++] = trimmed ? "trimmed" : "dense";
    for (size_t i = 0; i < content->count; i++) {
        const struct safetensors_entry *shape = &content->shapes[i];
        const uint64_t count = count_of(shape);
        struct safetensors_entry values = *shape;
        values.dtype = dtype;
        if (trimmed) {
            owned[o] = mem_printf("%s" VECTOR_MASK_SUFFIX, shape->name);
            entries[n++] = (struct safetensors_entry){
                .name = owned[o++], .dtype = ST_U8, .rank = 1, .shape = {(count + 7) / 8}};
            values.rank = 1;
            values.shape[0] = merge_kept_count(content->options->density, count);
            metadata[m++] = owned[o++] = mem_printf("shape %s", shape->name);
            metadata[m++] = owned[o++] = shape_text(shape);
        }
        entries[n++] = values;
    }
    const int rc = safetensors_writer_create(w->fs, out, entries, n, metadata, &w->writer, err);
    for (size_t i = 0; i < o; i++)
        free(owned[i]);
    free(owned);
    free(metadata);
    free(entries);
    return rc;
}

static int write_content(struct fs *fs, const struct content *content, const char *out,
                         struct vector_stats *stats, struct error *err)
{
    struct writing w = {.fs = fs, .content = content, .stats = stats};
    w.values = mem_alloc(PIECE * sizeof(*w.values));
    w.stored = mem_alloc(PIECE * sizeof(float));
    int rc = create_writer(&w, out, err);
    if (rc == 0 && is_trimmed(content))
        rc = merge_engine_create(content->options->threads, 1, 1 << 22, 1, &w.engine, err);
    for (size_t i = 0; rc == 0 && i < content->count; i++)
        rc = write_tensor(&w, i, err);
    if (rc == 0)
        rc = safetensors_writer_finish(w.writer, err);
    safetensors_writer_destroy(w.writer);
    merge_engine_destroy(w.engine);
    stats->norm = sqrt(w.squares);
    free(w.values);
    free(w.stored);
    return rc;
}

struct subtraction {
    struct safetensors base, tuned;
    struct master *master; // NULL: tuned's weights
};

static void read_difference(void *context, size_t tensor, size_t begin, size_t count, float *out)
{
    const struct subtraction *s = context;
    const struct safetensors_entry *base = &s->base.entries[tensor];
    const struct safetensors_entry *tuned = safetensors_find(&s->tuned, base->name);
    float from[1024];
    if (s->master)
        master_read(s->master, base->name, begin, count, out);
    else
        weights_read(tuned, begin, count, out);
    for (size_t at = 0; at < count; at += 1024) {
        const size_t length = count - at < 1024 ? count - at : 1024;
        weights_read(base, begin + at, length, from);
        for (size_t i = 0; i < length; i++)
            out[at + i] -= from[i];
    }
    const uint64_t bytes = safetensors_dtype_bytes(base->dtype);
    weights_release((const char *)base->data + begin * bytes, count * bytes);
}

static int check_pair(const struct subtraction *s, const char *base, const char *tuned,
                      struct error *err)
{
    struct differences differences = {0};
    enum dtype dtype;
    weights_compare(&s->base, base, &s->tuned, tuned, false, &differences);
    int rc = differences_report(&differences, "tensors differ", err);
    differences_release(&differences);
    for (size_t i = 0; rc == 0 && i < s->base.count; i++)
        rc = weights_dtype(&s->base.entries[i], &dtype, err) ||
                     weights_dtype(&s->tuned.entries[i], &dtype, err)
                 ? -1
                 : 0;
    return rc;
}

static int scan_pair(const struct subtraction *s, int threads, char base[DIGEST_TEXT_BYTES],
                     char tuned[DIGEST_TEXT_BYTES], struct error *err)
{
    struct weights_scan scan;
    struct pool *pool;
    if (pool_create(threads, &pool, err))
        return -1;
    int rc = weights_scan(&s->base, pool, &scan, err);
    if (rc == 0)
        digest_format(scan.digest, base);
    if (rc == 0)
        rc = weights_scan(&s->tuned, pool, &scan, err);
    if (rc == 0)
        digest_format(scan.digest, tuned);
    pool_destroy(pool);
    return rc;
}

static uint64_t data_bytes(const struct safetensors *tensors)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < tensors->count; i++)
        bytes += tensors->entries[i].bytes;
    return bytes;
}

static int write_difference(struct fs *fs, struct subtraction *s, const char *out,
                            const struct vector_options *options, struct vector_stats *stats,
                            struct error *err)
{
    char base[DIGEST_TEXT_BYTES], tuned[DIGEST_TEXT_BYTES];
    if (scan_pair(s, options->threads, base, tuned, err))
        return -1;
    const struct content content = {.shapes = s->base.entries,
                                    .count = s->base.count,
                                    .read = read_difference,
                                    .context = s,
                                    .metadata = {"format", VECTOR_FORMAT, "version", VECTOR_VERSION,
                                                 "base", base, "tuned", tuned, "source",
                                                 s->master ? "checkpoint" : "weights"},
                                    .options = options};
    stats->from_master = s->master != NULL;
    stats->bytes_read = data_bytes(&s->base) + data_bytes(&s->tuned);
    return write_content(fs, &content, out, stats, err);
}

int vector_write(struct fs *fs, const char *base, const char *tuned, const char *out,
                 const struct vector_options *options, struct vector_stats *stats,
                 struct error *err)
{
    struct subtraction s = {0};
    *stats = (struct vector_stats){0};
    int rc = safetensors_open(base, &s.base, err) || safetensors_open(tuned, &s.tuned, err) ||
                     check_pair(&s, base, tuned, err)
                 ? -1
                 : 0;
    if (rc == 0) {
        s.master = master_open(fs, tuned, &s.tuned);
        rc = write_difference(fs, &s, out, options, stats, err);
    }
    master_close(s.master);
    safetensors_close(&s.base);
    safetensors_close(&s.tuned);
    return rc;
}

struct combination {
    struct vector *vectors; // [count]
    const double *scales;
    size_t count;
};

static void read_combination(void *context, size_t tensor, size_t begin, size_t count, float *out)
{
    const struct combination *c = context;
    const char *name = c->vectors[0].tensors[tensor].entry.name;
    float x[1024];
    double sum[1024];
    for (size_t at = 0; at < count; at += 1024) {
        const size_t length = count - at < 1024 ? count - at : 1024;
        memset(sum, 0, sizeof(sum));
        for (size_t k = 0; k < c->count; k++) {
            vector_read(vector_find(&c->vectors[k], name), begin + at, length, x);
            for (size_t i = 0; i < length; i++)
                sum[i] += c->scales[k] * (double)x[i];
        }
        for (size_t i = 0; i < length; i++)
            out[at + i] = (float)sum[i];
    }
}

static int open_combination(struct combination *c, const char *const *paths, struct error *err)
{
    for (size_t k = 0; k < c->count; k++) {
        if (vector_open(paths[k], &c->vectors[k], err) ||
            vectors_match(&c->vectors[0], paths[0], &c->vectors[k], paths[k], err))
            return -1;
    }
    return 0;
}

int vector_combine(struct fs *fs, const char *const *paths, const double *scales, size_t count,
                   const char *name, const char *out, const struct vector_options *options,
                   struct vector_stats *stats, struct error *err)
{
    struct combination c = {mem_calloc(count, sizeof(*c.vectors)), scales, count};
    struct digest_builder builder;
    char base[DIGEST_TEXT_BYTES] = "", tuned[DIGEST_TEXT_BYTES];
    *stats = (struct vector_stats){0};
    int rc = open_combination(&c, paths, err);
    digest_begin(&builder); // of "the tuned model" that this vector leads to
    digest_field_text(&builder, name);
    for (size_t k = 0; rc == 0 && k < count; k++) {
        digest_field(&builder, &c.vectors[k].tuned, sizeof(c.vectors[k].tuned));
        digest_field(&builder, &scales[k], sizeof(scales[k]));
        stats->bytes_read += data_bytes(&c.vectors[k].file);
    }
    digest_format(digest_end(&builder), tuned);
    if (rc == 0) {
        struct safetensors_entry *shapes = mem_calloc(c.vectors[0].count + 1, sizeof(*shapes));
        for (size_t i = 0; i < c.vectors[0].count; i++)
            shapes[i] = c.vectors[0].tensors[i].entry;
        digest_format(c.vectors[0].base, base);
        const struct content content = {.shapes = shapes,
                                        .count = c.vectors[0].count,
                                        .read = read_combination,
                                        .context = &c,
                                        .metadata = {"format", VECTOR_FORMAT, "version",
                                                     VECTOR_VERSION, "base", base, "tuned", tuned,
                                                     "source", name},
                                        .options = options};
        rc = write_content(fs, &content, out, stats, err);
        free(shapes);
    }
    for (size_t k = 0; k < count; k++)
        vector_close(&c.vectors[k]);
    free(c.vectors);
    return rc;
}
