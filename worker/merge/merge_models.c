// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "datasets/model_directory.h"
#include "worker/merge/merge.h"
#include "worker/merge/vector.h"
#include "worker/merge/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ZERO_SUM 1e-12 // a sum of weights this small beside them is rounding

struct input {
    struct vector vector;
    const char *path;
    double weight;
};

struct merge_job {
    struct safetensors base;
    struct input *inputs; // in digest order
    size_t count;
    double *weights;    // of inputs, in their order
    float *tensor;      // base in f32, then the result
    float **scratch;    // one per input, for what is not readable in place
    void *converted;    // the result in the base's dtype
    const float **taus; // of the current tensor
};

static int compare_inputs(const void *a, const void *b)
{
    const struct input *x = a, *y = b;
    const int order = digest_compare(x->vector.tuned, y->vector.tuned);
    if (order != 0)
        return order;
    return (x->weight > y->weight) - (x->weight < y->weight); // one vector, named twice
}

static int open_inputs(struct merge_job *job, const char *base, const char *const *paths,
                       const double *weights, struct error *err)
{
    for (size_t k = 0; k < job->count; k++) {
        job->inputs[k].path = paths[k];
        job->inputs[k].weight = weights[k];
        if (vector_open(paths[k], &job->inputs[k].vector, err))
            return -1;
    }
    if (safetensors_open(base, &job->base, err))
        return -1;
    const struct digest digest = weights_digest(&job->base);
    for (size_t k = 0; k < job->count; k++) {
        const struct vector *vector = &job->inputs[k].vector;
        if (weights_match(&job->base, base, &vector->tensors, paths[k], err))
            return -1;
        if (!digest_equal(vector->base, digest))
            return error_set(err, "'%s' was taken from other weights than those in '%s'", paths[k],
                             base);
    }
    qsort(job->inputs, job->count, sizeof(*job->inputs), compare_inputs);
    for (size_t k = 0; k < job->count; k++)
        job->weights[k] = job->inputs[k].weight;
    return 0;
}

static void allocate_scratch(struct merge_job *job)
{
    size_t largest = 0;
    for (size_t i = 0; i < job->base.count; i++) {
        const size_t count = weights_count(&job->base.entries[i]);
        largest = count > largest ? count : largest;
    }
    const size_t bytes = largest * sizeof(float) + 1;
    job->tensor = mem_alloc(bytes);
    job->converted = mem_alloc(bytes);
    for (size_t k = 0; k < job->count; k++)
        job->scratch[k] = mem_alloc(bytes);
}

static int check_finite(const struct input *input, const char *tensor, const float *x, size_t count,
                        struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(x[i]))
            return error_set(err, "'%s': tensor '%s' is %g at element %zu", input->path, tensor,
                             (double)x[i], i);
    }
    return 0;
}

// As it will be stored: also what is finite in float32 may be too large for the dtype.
static int check_result(const struct safetensors_entry *entry, const float *x, size_t count,
                        struct error *err)
{
    for (size_t i = 0; i < count; i++) {
        if (!isfinite(x[i]))
            return error_set(err,
                             "merged tensor '%s' is %g at element %zu as %s: lower lambda or "
                             "the weights",
                             entry->name, (double)x[i], i, safetensors_dtype_name(entry->dtype));
    }
    return 0;
}

static int merge_entry(struct merge_job *job, const struct merge_options *options,
                       const struct safetensors_entry *entry, struct safetensors_writer *writer,
                       struct merge_stats *stats, struct error *err)
{
    enum dtype dtype;
    if (weights_dtype(entry, &dtype, err))
        return -1;
    const size_t count = weights_count(entry);
    for (size_t k = 0; k < job->count; k++) {
        const struct safetensors_entry *tau =
            safetensors_find(&job->inputs[k].vector.tensors, entry->name);
        job->taus[k] = weights_f32(tau, DTYPE_F32, job->scratch[k]);
        if (check_finite(&job->inputs[k], entry->name, job->taus[k], count, err))
            return -1;
        stats->bytes_read += tau->bytes;
    }
    convert_to_f32(job->tensor, entry->data, dtype, count);
    merge_tensor(options, job->tensor, job->tensor, job->taus, job->count, count);
    convert_from_f32(job->converted, dtype, job->tensor, count);
    convert_to_f32(job->tensor, job->converted, dtype, count);
    if (check_result(entry, job->tensor, count, err))
        return -1;
    stats->tensors++;
    stats->parameters += count;
    stats->bytes_read += entry->bytes;
    stats->bytes_written += entry->bytes;
    return safetensors_writer_write(writer, job->converted, entry->bytes, err);
}

static int write_merged(struct merge_job *job, struct fs *fs, const struct merge_options *options,
                        const char *out, struct merge_stats *stats, struct error *err)
{
    struct safetensors_writer *writer = NULL;
    const char *const metadata[] = {"format", "pt", NULL};
    const struct merge_options sorted = {.method = options->method,
                                         .weights = job->weights,
                                         .lambda = options->lambda,
                                         .density = options->density};
    char *path = fs_join(out, "model.safetensors");
    allocate_scratch(job);
    int rc = safetensors_writer_create(fs, path, job->base.entries, job->base.count, metadata,
                                       &writer, err);
    for (size_t i = 0; rc == 0 && i < job->base.count; i++)
        rc = merge_entry(job, &sorted, &job->base.entries[i], writer, stats, err);
    if (rc == 0)
        rc = safetensors_writer_finish(writer, err);
    safetensors_writer_destroy(writer);
    free(path);
    return rc;
}

static int check_options(const struct merge_options *options, size_t count, struct error *err)
{
    double total = 0, magnitude = 0;
    if (count == 0)
        return error_set(err, "nothing to merge: name at least one task vector");
    for (size_t k = 0; k < count; k++) {
        if (!isfinite(options->weights[k]))
            return error_set(err, "weight %zu is %g", k + 1, options->weights[k]);
        total += options->weights[k];
        magnitude += fabs(options->weights[k]);
    }
    if (!isfinite(options->lambda))
        return error_set(err, "lambda is %g", options->lambda);
    if (options->method == MERGE_LINEAR && fabs(total) <= ZERO_SUM * magnitude)
        return error_set(err, "the weights sum to 0: linear merging divides by their sum");
    if (options->method == MERGE_TIES && !(options->density > 0 && options->density <= 1))
        return error_set(err, "density %g is outside (0, 1]", options->density);
    return 0;
}

// The base would be replaced by the merged model.
static int check_directories(const char *base, const char *out, struct error *err)
{
    char *from = realpath(base, NULL);
    char *to = realpath(out, NULL);
    const bool same = from && to && strcmp(from, to) == 0;
    free(from);
    free(to);
    return same ? error_set(err, "'%s' is the base itself: merge into another directory", out) : 0;
}

int merge_models(struct fs *fs, const char *base, const char *const *vectors, size_t count,
                 const struct merge_options *options, const char *out, struct merge_stats *stats,
                 struct error *err)
{
    struct merge_job job = {.count = count};
    *stats = (struct merge_stats){0};
    job.inputs = mem_calloc(count + 1, sizeof(*job.inputs));
    job.weights = mem_calloc(count + 1, sizeof(*job.weights));
    job.scratch = mem_calloc(count + 1, sizeof(*job.scratch));
    job.taus = mem_calloc(count + 1, sizeof(*job.taus));
    int rc = check_options(options, count, err) || check_directories(base, out, err) ||
                     open_inputs(&job, base, vectors, options->weights, err) ||
                     model_directory_copy(fs, base, out, err) ||
                     write_merged(&job, fs, options, out, stats, err)
                 ? -1
                 : 0;
    for (size_t k = 0; k < count; k++) {
        vector_close(&job.inputs[k].vector);
        free(job.scratch[k]);
    }
    safetensors_close(&job.base);
    free(job.inputs);
    free(job.weights);
    free(job.scratch);
    free(job.taus);
    free(job.tensor);
    free(job.converted);
    return rc;
}
