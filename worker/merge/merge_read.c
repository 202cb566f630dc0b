// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "worker/merge/merge_run.h"

#include <stdlib.h>
#include <string.h>

static void read_theta(const struct tensor_reading *r, size_t k, size_t begin, size_t count,
                       float *out)
{
    float base[1024];
    source_read(&r->sources[k], begin, count, out);
    for (size_t at = 0; r->job->sources[k].is_vector && at < count; at += 1024) {
        const size_t length = count - at < 1024 ? count - at : 1024;
        source_read(&r->base, begin + at, length, base);
        for (size_t i = 0; i < length; i++)
            out[at + i] += base[i];
    }
}

static void read_values(void *context, size_t which, size_t begin, size_t count, float *out)
{
    const struct tensor_reading *r = context;
    if (r->job->memo_ref) // the first model is the base, the others are models
        read_theta(r, which, begin, count, out);
    else if (which == 0)
        source_read(&r->base, begin, count, out);
    else
        source_read(&r->sources[which - 1], begin, count, out);
}

static void release_values(void *context, size_t begin, size_t count)
{
    const struct tensor_reading *r = context;
    if (r->job->base.path)
        source_release(&r->base, begin, count);
    for (size_t k = 0; k < r->job->count; k++)
        source_release(&r->sources[k], begin, count);
}

// How many vectors the engine sees: memo-ref's first model is the base.
size_t merge_run_vectors(const struct merge_job *job)
{
    return job->memo_ref ? job->count - 1 : job->count;
}

void merge_reading_open(const struct merge_job *job, size_t i, struct tensor_reading *out)
{
    const char *name = job->view.entries[i].name;
    *out = (struct tensor_reading){.job = job};
    out->sources = mem_calloc(job->count, sizeof(*out->sources));
    if (job->base.path)
        out->base = source_find(&job->base, name);
    for (size_t k = 0; k < job->count; k++)
        out->sources[k] = source_find(&job->sources[k], name);
}

// The stream of a model's masks in one tensor.
static uint64_t stream_of(const struct source *source, const char *key)
{
    struct digest_builder builder;
    uint64_t stream;
    digest_begin(&builder);
    digest_field(&builder, &source->digest, sizeof(source->digest));
    digest_field_text(&builder, key);
    const struct digest digest = digest_end(&builder);
    memcpy(&stream, digest.bytes, sizeof(stream));
    return __builtin_bswap64(stream); // numeric order of the digest, on any little-endian machine
}

// Given order -> the order of the sources.
static void reorder(const struct merge_job *job, double *values)
{
    double *given = mem_dup(values, job->count * sizeof(*values));
    for (size_t k = 0; k < job->count; k++)
        values[k] = given[job->sources[k].position];
    free(given);
}

// memo-ref: weights are shares of all models, and the first one's difference to itself is nothing.
static void drop_first(const struct merge_job *job, const struct merge_parameter_arrays *arrays,
                       struct merge_parameters *p)
{
    double total = 0;
    for (size_t k = 0; k < job->count; k++)
        total += arrays->weight[k];
    for (size_t k = 0; k < job->count; k++)
        arrays->weight[k] /= total != 0 ? total : 1;
    p->vectors = job->count - 1;
    p->weight = arrays->weight + 1;
    p->density = arrays->density + 1;
    p->gamma = arrays->gamma + 1;
    p->epsilon = arrays->epsilon + 1;
    if (p->method == MERGE_LINEAR) { // the mean of all of them, as task arithmetic
        p->method = MERGE_TASK_ARITHMETIC;
        p->normalize = false;
        p->lambda = 1;
    }
}

struct merge_parameters merge_run_resolve(struct run *run, size_t output, size_t i)
{
    const struct merge_job *job = run->job;
    struct merge_parameters p;
    merge_recipe_resolve(&job->request->recipes[output], job->keys[i], job->layers, job->count,
                         &run->arrays, &p);
    reorder(job, run->arrays.weight);
    reorder(job, run->arrays.density);
    reorder(job, run->arrays.gamma);
    reorder(job, run->arrays.epsilon);
    for (size_t k = 0; k < job->count; k++) {
        run->streams[k] = stream_of(&job->sources[k], job->keys[i]);
        run->is_delta[k] = !job->memo_ref && job->sources[k].is_vector;
    }
    p.streams = run->streams;
    if (job->memo_ref)
        drop_first(job, &run->arrays, &p);
    return p;
}

// Columns are the positions behind the first dimension; a vector has one angle.
struct merge_tensor merge_run_tensor(const struct run *run, size_t i, struct merge_parameters *p,
                                     struct tensor_reading *reading)
{
    const struct safetensors_entry *entry = &run->job->view.entries[i];
    const size_t count = weights_count(entry);
    size_t columns = weights_columns(entry);
    if (p->groups != GROUP_TENSOR && entry->rank < 2)
        p->groups = GROUP_TENSOR;
    if (p->groups == GROUP_COLUMN)
        columns = entry->shape[0] > 0 ? count / entry->shape[0] : 0;
    return (struct merge_tensor){.rows = columns > 0 ? count / columns : 0,
                                 .columns = columns,
                                 .has_base = run->job->base.path || run->job->memo_ref,
                                 .is_delta = run->is_delta,
                                 .read = read_values,
                                 .release = release_values,
                                 .context = reading};
}

bool merge_run_owns(const struct merge_job *job, size_t i)
{
    return job->owners[i] == group_rank(job->request->group);
}
