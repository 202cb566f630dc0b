// SPDX-License-Identifier: Apache-2.0
// The inputs of a merge, everything that can be wrong with them, and their order.
#include "worker/merge/merge_private.h"

#include "base/mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define IDENTITY_VERSION 1
#define HEAD "lm_head.weight"
#define EMBEDDING "model.embed_tokens.weight"

static int open_sources(struct merge_job *job, struct error *err)
{
    const struct merge_request *request = job->request;
    if (request->base) {
        if (source_open(request->base, -1, &job->base, err))
            return -1;
        if (job->base.is_vector)
            return error_set(err, "the base '%s' is no model directory", request->base);
    }
    while (job->count < request->count) {
        const int position = (int)job->count;
        struct source *source = &job->sources[job->count++];
        if (source_open(request->sources[position], position, source, err))
            return -1;
        if (source->is_vector && !request->base)
            return error_set(err, "'%s' is a task vector: name the base that it was taken from",
                             source->path);
    }
    return 0;
}

// What everything is compared with.
static const struct source *reference(const struct merge_job *job)
{
    return job->base.path ? &job->base : &job->sources[0];
}

static int compare_source(struct merge_job *job, const struct source *source, struct error *err)
{
    const struct source *first = reference(job);
    struct differences *out = &job->report->differences;
    struct safetensors a = source_view(first), b = source_view(source);
    const bool models = !first->is_vector && !source->is_vector;
    weights_compare(&a, first->path, &b, source->path, models, out);
    free(a.entries);
    free(b.entries);
    return models ? directories_compare(job->request->fs, first->path, source->path, out, err) : 0;
}

static int compare_all(struct merge_job *job, struct error *err)
{
    for (size_t k = 0; k < job->count; k++) {
        if (&job->sources[k] != reference(job) && compare_source(job, &job->sources[k], err))
            return -1;
    }
    return differences_report(&job->report->differences, "differences between the inputs", err);
}

static int scan_all(struct merge_job *job, struct pool *pool, struct error *err)
{
    if (job->base.path && source_scan(&job->base, pool, err))
        return -1;
    for (size_t k = 0; k < job->count; k++) {
        struct source *source = &job->sources[k];
        if (source_scan(source, pool, err))
            return -1;
        if (source->is_vector && !digest_equal(source->vector.base, job->base.digest))
            return error_set(err, "'%s' was taken from other weights than those in '%s'",
                             source->path, job->base.path);
    }
    return 0;
}

static double general_weight(const struct merge_job *job, const struct source *source)
{
    const struct merge_recipe *recipe = &job->request->recipes[0];
    for (size_t r = 0; r < recipe->rule_count; r++) {
        if (recipe->rules[r].setting == SETTING_WEIGHT &&
            recipe->rules[r].model == source->position)
            return recipe->rules[r].values[0];
    }
    return 1;
}

static bool comes_before(const struct merge_job *job, const struct source *a,
                         const struct source *b)
{
    const int order = digest_compare(a->digest, b->digest);
    if (order != 0)
        return order < 0;
    return general_weight(job, a) < general_weight(job, b); // one model, named twice
}

// Insertion sort: a handful of models. memo-ref keeps the first one, its base, in front.
static void sort_sources(struct merge_job *job)
{
    for (size_t i = job->memo_ref ? 2 : 1; i < job->count; i++) {
        const struct source moved = job->sources[i];
        size_t at = i;
        for (; at > (job->memo_ref ? 1u : 0u) && comes_before(job, &moved, &job->sources[at - 1]);
             at--)
            job->sources[at] = job->sources[at - 1];
        job->sources[at] = moved;
    }
}

static const struct safetensors_entry *view_find(const struct merge_job *job, const char *name)
{
    return safetensors_find(&job->view, name);
}

static bool head_is_embedding(const struct source *source)
{
    const struct source_tensor head = source_find(source, HEAD);
    const struct source_tensor embedding = source_find(source, EMBEDDING);
    return source_equal(&head, &embedding);
}

// A head that is the embedding in all inputs gets the embedding's masks and rules, so that it stays
// the embedding; one that is in some inputs only is an error.
static int tie_heads(struct merge_job *job, struct error *err)
{
    size_t tied = 0, models = 0;
    const struct safetensors_entry *head = view_find(job, HEAD);
    for (size_t i = 0; i < job->view.count; i++)
        job->keys[i] = job->view.entries[i].name;
    if (!head || !view_find(job, EMBEDDING))
        return 0;
    for (size_t k = 0; k < job->count + (job->base.path != NULL); k++) {
        const struct source *source = k < job->count ? &job->sources[k] : &job->base;
        const bool same = head_is_embedding(source);
        models++;
        tied += same;
        if (!same)
            differences_add(&job->report->differences, "the head of '%s' is not its embedding",
                            source->path);
    }
    if (tied > 0 && tied < models)
        return differences_report(&job->report->differences,
                                  "inputs have a head of their own where others are tied", err);
    differences_release(&job->report->differences);
    job->report->differences = (struct differences){0};
    if (tied > 0)
        job->keys[head - job->view.entries] = EMBEDDING;
    return 0;
}

static int check_dtypes(const struct merge_job *job, struct error *err)
{
    for (size_t i = 0; i < job->view.count; i++) {
        enum dtype dtype;
        if (weights_dtype(&job->view.entries[i], &dtype, err))
            return -1;
    }
    return 0;
}

static int check_resolved(const struct merge_job *job, const struct merge_parameters *p,
                          const char *tensor, struct error *err)
{
    const struct merge_traits *traits = merge_traits(p->method);
    double total = 0, magnitude = 0;
    for (size_t k = 0; k < job->count; k++) {
        total += p->weight[k];
        magnitude += fabs(p->weight[k]);
        if (traits->sparsify == SPARSIFY_RANKED && p->density[k] < 1 &&
            (p->density[k] - p->epsilon[k] <= 0 || p->density[k] + p->epsilon[k] >= 1))
            return error_set(err, "tensor '%s': density %g +- epsilon %g must lie inside (0, 1)",
                             tensor, p->density[k], p->epsilon[k]);
    }
    const bool divides =
        p->method == MERGE_LINEAR || p->method == MERGE_MULTISLERP || p->method == MERGE_KARCHER;
    if (divides && p->normalize && fabs(total) <= 1e-12 * magnitude)
        return error_set(err, "the weights sum to 0: %s merging divides by their sum",
                         traits->name);
    return 0;
}

static int check_recipes(const struct merge_job *job, struct error *err)
{
    const struct merge_request *request = job->request;
    double *memory = mem_calloc(4 * job->count + 1, sizeof(*memory));
    const struct merge_parameter_arrays arrays = {memory, memory + job->count,
                                                  memory + 2 * job->count, memory + 3 * job->count};
    int rc = 0;
    for (size_t o = 0; rc == 0 && o < request->outputs; o++) {
        for (size_t i = 0; rc == 0 && i < job->view.count; i++) {
            struct merge_parameters p;
            merge_recipe_resolve(&request->recipes[o], job->keys[i], job->layers, job->count,
                                 &arrays, &p);
            rc = check_resolved(job, &p, job->keys[i], err);
        }
    }
    free(memory);
    return rc;
}

static void plan_entries(struct merge_job *job)
{
    const struct merge_request *request = job->request;
    for (size_t o = 0; o < request->outputs; o++) {
        const struct merge_recipe *recipe = &request->recipes[o];
        job->entries[o] = mem_calloc(job->view.count + 1, sizeof(**job->entries));
        for (size_t i = 0; i < job->view.count; i++) {
            struct safetensors_entry *entry = &job->entries[o][i];
            *entry = job->view.entries[i];
            if (recipe->has_out_dtype)
                entry->dtype = weights_file_dtype(recipe->out_dtype);
            entry->bytes =
                weights_count(&job->view.entries[i]) * safetensors_dtype_bytes(entry->dtype);
        }
    }
}

// Everything that determines the bytes of an output.
static struct digest identify(const struct merge_job *job, size_t output)
{
    struct digest_builder builder;
    struct strbuf recipe = {0};
    merge_recipe_describe(&job->request->recipes[output], &recipe);
    digest_begin(&builder);
    digest_field_u64(&builder, IDENTITY_VERSION);
    digest_field(&builder, recipe.bytes, recipe.length);
    digest_field(&builder, &job->base.digest, sizeof(job->base.digest));
    for (size_t k = 0; k < job->count; k++) {
        digest_field(&builder, &job->sources[k].digest, sizeof(job->sources[k].digest));
        digest_field_u64(&builder, (uint64_t)job->sources[k].position);
        digest_field_u64(&builder, job->sources[k].is_vector);
    }
    strbuf_release(&recipe);
    return digest_end(&builder);
}

// Contiguous in name order, by bytes: a tensor belongs to the rank where its middle falls.
static void divide_among_ranks(struct merge_job *job)
{
    const uint64_t ranks = (uint64_t)group_size(job->request->group);
    double total = 0, before = 0;
    for (size_t i = 0; i < job->view.count; i++)
        total += (double)job->view.entries[i].bytes;
    for (size_t i = 0; i < job->view.count; i++) {
        const double bytes = (double)job->view.entries[i].bytes;
        const double owner = total > 0 ? (before + bytes / 2) / total * (double)ranks : 0;
        job->owners[i] = owner < (double)(ranks - 1) ? (int)owner : (int)ranks - 1;
        before += bytes;
    }
}

static void plan(struct merge_job *job)
{
    for (size_t i = 0; i < job->view.count; i++) {
        const int layer = merge_layer_of(job->view.entries[i].name);
        job->layers = layer + 1 > job->layers ? layer + 1 : job->layers;
        job->report->parameters += weights_count(&job->view.entries[i]);
    }
    job->report->tensors = job->view.count;
    job->report->bytes_read = job->base.bytes;
    for (size_t k = 0; k < job->count; k++)
        job->report->bytes_read += job->sources[k].bytes;
    plan_entries(job);
    divide_among_ranks(job);
}

int merge_job_open(struct merge_job *job, struct pool *pool, struct error *err)
{
    const struct merge_request *request = job->request;
    job->sources = mem_calloc(request->count + 1, sizeof(*job->sources));
    job->entries = mem_calloc(request->outputs + 1, sizeof(*job->entries));
    job->identities = mem_calloc(request->outputs + 1, sizeof(*job->identities));
    job->memo_ref = request->recipes[0].semantics == MERGE_MEMO_REF;
    for (size_t o = 0; o < request->outputs; o++) {
        if (merge_recipe_check(&request->recipes[o], request->count, request->base != NULL, err))
            return -1;
        if ((request->recipes[o].semantics == MERGE_MEMO_REF) != job->memo_ref)
            return error_set(err, "paper and memo-ref cannot share one reading");
    }
    if (open_sources(job, err) || compare_all(job, err) || scan_all(job, pool, err))
        return -1;
    sort_sources(job);
    job->view = source_view(reference(job));
    job->keys = mem_calloc(job->view.count + 1, sizeof(*job->keys));
    job->owners = mem_calloc(job->view.count + 1, sizeof(*job->owners));
    job->changes = mem_calloc(request->outputs * job->view.count + 1, sizeof(*job->changes));
    plan(job);
    if (check_dtypes(job, err) || tie_heads(job, err) || check_recipes(job, err))
        return -1;
    for (size_t o = 0; o < request->outputs; o++)
        job->identities[o] = identify(job, o);
    return 0;
}

void merge_job_close(struct merge_job *job)
{
    for (size_t o = 0; job->entries && o < job->request->outputs; o++)
        free(job->entries[o]);
    for (size_t k = 0; k < job->count; k++)
        source_close(&job->sources[k]);
    if (job->base.path)
        source_close(&job->base);
    free(job->entries);
    free(job->identities);
    free(job->sources);
    free(job->view.entries);
    free(job->keys);
    free(job->owners);
    free(job->changes);
}
