// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/merge.h"

#include "base/mem.h"
#include "datasets/model_directory.h"
#include "worker/merge/merge_run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PROCESS_BYTES ((uint64_t)64 << 20) // code, libraries, MPI, headers: what is not tiles
#define TILE_LIMIT ((size_t)1 << 23)       // elements; larger ones are no faster

// Hands tiles of one tensor to an output.
struct tensor_sink {
    struct merge_output *output;
    size_t tensor;
    uint64_t offset;
    size_t element_bytes;
};

static void *sink_buffer(void *context)
{
    const struct tensor_sink *sink = context;
    return merge_output_buffer(sink->output, sink->tensor, sink->offset);
}

static int sink_submit(void *context, void *buffer, size_t count, struct error *err)
{
    struct tensor_sink *sink = context;
    const size_t bytes = count * sink->element_bytes;
    const int rc =
        merge_output_submit(sink->output, sink->tensor, sink->offset, buffer, bytes, err);
    sink->offset += bytes;
    return rc;
}

static int merge_into(struct run *run, size_t output, size_t i, struct tensor_reading *reading,
                      struct error *err)
{
    struct merge_job *job = run->job;
    const struct safetensors_entry *entry = &job->entries[output][i];
    double *change = &job->changes[output * job->view.count + i];
    if (entry->bytes == 0)
        return 0;
    if (merge_output_has(run->outputs[output], i, change)) {
        job->report->continued++;
        return 0;
    }
    struct merge_parameters p = merge_run_resolve(run, output, i);
    const struct merge_tensor tensor = merge_run_tensor(run, i, &p, reading);
    struct tensor_sink to = {run->outputs[output], i, 0, safetensors_dtype_bytes(entry->dtype)};
    struct merge_sink sink = {.buffer = sink_buffer, .submit = sink_submit, .context = &to};
    struct merge_tensor_stats stats;
    if (weights_dtype(entry, &sink.dtype, err) ||
        merge_tensor_run(run->engine, &p, &tensor,
                         run->cuts[output] ? run->cuts[output] + i * job->count : NULL, &sink,
                         &stats, err))
        return -1;
    if (stats.infinite > 0)
        return error_set(err,
                         "%llu elements of merged tensor '%s' are too large for %s, the first "
                         "behind element %llu: lower lambda or the weights",
                         (unsigned long long)stats.infinite, entry->name, dtype_name(sink.dtype),
                         (unsigned long long)stats.first_infinite);
    *change = stats.change;
    job->report->bytes_written += entry->bytes;
    return merge_output_end(run->outputs[output], i, stats.change, err);
}

static int merge_tensors(struct run *run, struct error *err)
{
    struct merge_job *job = run->job;
    for (size_t i = 0; i < job->view.count; i++) {
        if (!merge_run_owns(job, i))
            continue;
        struct tensor_reading reading;
        int rc = 0;
        merge_reading_open(job, i, &reading);
        for (size_t o = 0; rc == 0 && o < job->request->outputs; o++)
            rc = merge_into(run, o, i, &reading, err);
        free(reading.sources);
        if (rc != 0)
            return -1;
    }
    for (size_t o = 0; o < job->request->outputs; o++) {
        if (merge_output_sync(run->outputs[o], err))
            return -1;
    }
    return 0;
}

// --- memory, directories, the whole ---

static size_t widest_row(const struct merge_job *job)
{
    size_t widest = 0;
    for (size_t o = 0; o < job->request->outputs; o++) {
        const struct merge_recipe *recipe = &job->request->recipes[o];
        if (merge_traits(recipe->method)->sparsify != SPARSIFY_RANKED &&
            recipe->method != MERGE_MODEL_STOCK && recipe->method != MERGE_NUSLERP)
            continue;
        for (size_t i = 0; i < job->view.count; i++) {
            const size_t columns = weights_columns(&job->view.entries[i]);
            widest = columns > widest ? columns : widest;
        }
    }
    return widest;
}

// What fits: mapped pages of every input's tile, the engine's two values for each element of a
// tile, and two buffers for each output.
static int choose_tile(const struct merge_job *job, size_t widest, size_t *tile, struct error *err)
{
    const struct merge_request *request = job->request;
    const uint64_t fixed = PROCESS_BYTES + merge_engine_bytes(request->threads, job->count, widest);
    const uint64_t element = 4 * (job->count + 1) + 2 * 4 + 2 * 4 * request->outputs;
    const uint64_t block = widest > 4096 ? widest : 4096;
    if (request->memory_bytes < fixed + element * block)
        return error_set(err,
                         "%.0f MB of memory are not enough for %d threads and %zu models: "
                         "give at least %.0f",
                         (double)request->memory_bytes / 1e6, request->threads, job->count,
                         ceil((double)(fixed + element * block) / 1e6));
    const uint64_t fits = (request->memory_bytes - fixed) / element;
    *tile = fits < TILE_LIMIT ? (size_t)fits : TILE_LIMIT;
    *tile = *tile > block ? *tile : block;
    return 0;
}

// An input would be replaced by the result.
static int check_directories(const struct merge_request *request, struct error *err)
{
    int rc = 0;
    for (size_t o = 0; o < request->outputs; o++) {
        char *to = realpath(request->outs[o], NULL);
        for (size_t k = 0; rc == 0 && to && k <= request->count; k++) {
            const char *input = k < request->count ? request->sources[k] : request->base;
            char *from = input ? realpath(input, NULL) : NULL;
            if (from && strcmp(from, to) == 0)
                rc = error_set(err, "'%s' is an input itself: merge into another directory",
                               request->outs[o]);
            free(from);
        }
        free(to);
    }
    return rc;
}

static int run_open(struct run *run, struct merge_job *job, struct error *err)
{
    const struct merge_request *request = job->request;
    const int rank = group_rank(request->group);
    const size_t widest = widest_row(job), tile = job->report->tile;
    run->numbers = mem_calloc(4 * job->count, sizeof(*run->numbers));
    run->arrays = (struct merge_parameter_arrays){run->numbers, run->numbers + job->count,
                                                  run->numbers + 2 * job->count,
                                                  run->numbers + 3 * job->count};
    run->streams = mem_calloc(job->count, sizeof(*run->streams));
    run->is_delta = mem_calloc(job->count, sizeof(*run->is_delta));
    if (merge_engine_create(request->threads, job->count, tile, widest, &run->engine, err))
        return -1;
    const size_t tile_bytes = (tile > 4096 ? tile : 4096) * sizeof(float) + 1;
    for (size_t o = 0; o < request->outputs; o++) {
        if (merge_output_open(request->fs, request->outs[o], job->entries[o], job->view.count, rank,
                              tile_bytes, &run->outputs[o], err))
            return error_prefix(err, "'%s'", request->outs[o]);
    }
    return 0;
}

static void run_close(struct run *run)
{
    for (size_t o = 0; o < run->job->request->outputs; o++) {
        merge_output_destroy(run->outputs[o]);
        free(run->cuts[o]);
    }
    merge_engine_destroy(run->engine);
    free(run->outputs);
    free(run->cuts);
    free(run->numbers);
    free(run->streams);
    free(run->is_delta);
}

static int prepare(const struct merge_job *job, struct error *err)
{
    const struct merge_request *request = job->request;
    for (size_t o = 0; group_rank(request->group) == 0 && o < request->outputs; o++) {
        if (merge_output_prepare(request->fs, request->outs[o], job->entries[o], job->view.count,
                                 job->identities[o], err))
            return -1;
    }
    return 0;
}

// Every tensor has one owner; the others' changes are 0.
static int gather(struct merge_job *job, struct error *err)
{
    struct group *group = job->request->group;
    int64_t counts[] = {(int64_t)job->report->continued, (int64_t)job->report->bytes_written};
    if (group_all_reduce_f64(group, job->changes, job->request->outputs * job->view.count, err) ||
        group_all_reduce_i64(group, counts, 2, err))
        return -1;
    job->report->continued = (size_t)counts[0];
    job->report->bytes_written = (uint64_t)counts[1];
    for (size_t i = 0; i < job->view.count; i++)
        job->report->change += job->changes[i];
    job->report->change = sqrt(job->report->change);
    return 0;
}

static int finish(const struct merge_job *job, struct error *err)
{
    const struct merge_request *request = job->request;
    const char *from = job->base.path ? job->base.path : job->sources[0].path;
    for (size_t o = 0; group_rank(request->group) == 0 && o < request->outputs; o++) {
        struct strbuf card = {0};
        char *path = fs_join(request->outs[o], "README.md");
        merge_card(job, o, &card);
        const int rc = model_directory_copy(request->fs, from, request->outs[o], err) ||
                               fs_write_text(request->fs, path, card.bytes, card.length, err)
                           ? -1
                           : 0;
        free(path);
        strbuf_release(&card);
        if (rc != 0)
            return -1;
    }
    return 0;
}

static int merge_job_run(struct merge_job *job, struct error *err)
{
    struct group *group = job->request->group;
    struct run run = {.job = job};
    run.outputs = mem_calloc(job->request->outputs, sizeof(*run.outputs));
    run.cuts = mem_calloc(job->request->outputs, sizeof(*run.cuts));
    int rc = choose_tile(job, widest_row(job), &job->report->tile, err) || prepare(job, err);
    rc = group_agree(group, rc ? -1 : 0, err);
    if (rc == 0)
        rc = group_agree(group, run_open(&run, job, err), err);
    if (rc == 0)
        rc = merge_run_cut(&run, err);
    if (rc == 0)
        rc = group_agree(group, merge_tensors(&run, err), err);
    run_close(&run);
    if (rc == 0)
        rc = gather(job, err);
    return rc == 0 ? group_agree(group, finish(job, err), err) : rc;
}

static int begin(struct merge_job *job, struct error *err)
{
    const struct merge_request *request = job->request;
    char identity[DIGEST_TEXT_BYTES];
    int rc = 0;
    if (!request->begin)
        return 0;
    digest_format(digest_bytes(job->identities, request->outputs * sizeof(*job->identities)),
                  identity);
    if (group_rank(request->group) == 0)
        rc = request->begin(request->context, identity, &job->report->done, err);
    return group_agree(request->group, rc, err) ||
                   group_broadcast(request->group, &job->report->done, sizeof(job->report->done), 0,
                                   err)
               ? -1
               : 0;
}

int merge_models(const struct merge_request *request, struct merge_report *report,
                 struct error *err)
{
    struct merge_job job = {.request = request, .report = report};
    struct pool *pool = NULL;
    *report = (struct merge_report){0};
    int rc = check_directories(request, err) || pool_create(request->threads, &pool, err) ||
                     merge_job_open(&job, pool, err)
                 ? -1
                 : 0;
    pool_destroy(pool);
    rc = group_agree(request->group, rc, err);
    if (rc == 0)
        rc = begin(&job, err);
    if (rc == 0 && !report->done)
        rc = merge_job_run(&job, err);
    merge_job_close(&job);
    return rc;
}

int merge_seal(struct fs *fs, const char *directory, struct error *err)
{
    return merge_output_finish(fs, directory, err);
}

void merge_report_release(struct merge_report *report)
{
    differences_release(&report->differences);
}
