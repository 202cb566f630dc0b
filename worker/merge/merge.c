// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/merge.h"

#include "base/mem.h"
#include "datasets/model_directory.h"
#include "worker/merge/merge_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PROCESS_BYTES ((uint64_t)64 << 20) // code, libraries, MPI, headers: what is not tiles
#define TILE_LIMIT ((size_t)1 << 22)       // elements; larger ones are no faster

// The state of one rank while it merges.
struct run {
    struct merge_job *job;
    struct merge_engine *engine;
    struct merge_output **outputs;
    struct magnitude_cut **cuts; // [outputs] NULL, or [tensors * vectors] of a global trim
    double *numbers;             // [4 * count]
    struct merge_parameter_arrays arrays;
    uint64_t *streams; // [count]
    bool *is_delta;    // [count]
};

// One tensor while it is read.
struct tensor_reading {
    const struct merge_job *job;
    struct source_tensor base;
    struct source_tensor *sources; // [count]
};

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
static size_t vectors_of(const struct merge_job *job)
{
    return job->memo_ref ? job->count - 1 : job->count;
}

static void reading_open(const struct merge_job *job, size_t i, struct tensor_reading *out)
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

static struct merge_parameters resolve(struct run *run, size_t output, size_t i)
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
static struct merge_tensor tensor_of(const struct run *run, size_t i, struct merge_parameters *p,
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
    return merge_output_buffer(sink->output);
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
    struct merge_parameters p = resolve(run, output, i);
    const struct merge_tensor tensor = tensor_of(run, i, &p, reading);
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

static bool is_mine(const struct merge_job *job, size_t i)
{
    return job->owners[i] == group_rank(job->request->group);
}

static int merge_tensors(struct run *run, struct error *err)
{
    struct merge_job *job = run->job;
    for (size_t i = 0; i < job->view.count; i++) {
        if (!is_mine(job, i))
            continue;
        struct tensor_reading reading;
        int rc = 0;
        reading_open(job, i, &reading);
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

// --- a trim over the whole vector ---

static void add_histogram(struct run *run, size_t output, size_t k, const uint32_t *high,
                          uint64_t *bins)
{
    for (size_t i = 0; i < run->job->view.count; i++) {
        if (!is_mine(run->job, i))
            continue;
        struct tensor_reading reading;
        struct merge_parameters p = resolve(run, output, i);
        reading_open(run->job, i, &reading);
        const struct merge_tensor tensor = tensor_of(run, i, &p, &reading);
        merge_tensor_histogram(run->engine, &p, &tensor, k, high, bins);
        free(reading.sources);
    }
}

// How many values equal to bits each tensor of every rank holds.
static int count_ties(struct run *run, size_t output, size_t k, uint32_t bits, int64_t *ties,
                      struct error *err)
{
    for (size_t i = 0; i < run->job->view.count; i++) {
        if (!is_mine(run->job, i))
            continue;
        struct tensor_reading reading;
        struct merge_parameters p = resolve(run, output, i);
        reading_open(run->job, i, &reading);
        const struct merge_tensor tensor = tensor_of(run, i, &p, &reading);
        ties[i] = (int64_t)merge_tensor_equal(run->engine, &p, &tensor, k, bits);
        free(reading.sources);
    }
    return group_all_reduce_i64(run->job->request->group, ties, run->job->view.count, err);
}

static uint64_t end_of_ties(struct run *run, size_t output, size_t k, size_t i, uint32_t bits,
                            uint64_t ties)
{
    struct tensor_reading reading;
    struct merge_parameters p = resolve(run, output, i);
    reading_open(run->job, i, &reading);
    const struct merge_tensor tensor = tensor_of(run, i, &p, &reading);
    const uint64_t end = merge_tensor_end_of_ties(run->engine, &p, &tensor, k, bits, ties);
    free(reading.sources);
    return end;
}

// Equal values are kept by lowest tensor name, then lowest index.
static int place_ties(struct run *run, size_t output, size_t k, uint32_t bits, uint64_t ties,
                      struct error *err)
{
    const struct merge_job *job = run->job;
    int64_t *equal = mem_calloc(job->view.count + 1, sizeof(*equal));
    const int rc = count_ties(run, output, k, bits, equal, err);
    for (size_t i = 0; rc == 0 && i < job->view.count; i++) {
        struct magnitude_cut *cut = &run->cuts[output][i * job->count + k];
        *cut = (struct magnitude_cut){.bits = bits, .end = UINT64_MAX};
        if (ties < (uint64_t)equal[i])
            cut->end = is_mine(job, i) ? end_of_ties(run, output, k, i, bits, ties) : 0;
        ties -= ties < (uint64_t)equal[i] ? ties : (uint64_t)equal[i];
    }
    free(equal);
    return rc;
}

static int sum_bins(struct run *run, uint64_t *bins, struct error *err)
{
    return group_all_reduce_i64(run->job->request->group, (int64_t *)bins, SELECT_BINS, err);
}

static int cut_globally(struct run *run, size_t output, size_t k, uint64_t *bins, struct error *err)
{
    const struct merge_job *job = run->job;
    const struct merge_parameters p = resolve(run, output, 0);
    const uint64_t keep = merge_kept_count(p.density[k], job->report->parameters);
    uint64_t above, above_low;
    if (keep >= job->report->parameters) {
        for (size_t i = 0; i < job->view.count; i++)
            run->cuts[output][i * job->count + k] = MAGNITUDE_KEEP_ALL;
        return 0;
    }
    memset(bins, 0, SELECT_BINS * sizeof(*bins));
    add_histogram(run, output, k, NULL, bins);
    if (sum_bins(run, bins, err))
        return -1;
    const uint32_t high = select_bin(bins, keep, &above);
    memset(bins, 0, SELECT_BINS * sizeof(*bins));
    add_histogram(run, output, k, &high, bins);
    if (sum_bins(run, bins, err))
        return -1;
    const uint32_t low = select_bin(bins, keep - above, &above_low);
    return place_ties(run, output, k, high << 16 | low, keep - above - above_low, err);
}

static int find_global_cuts(struct run *run, struct error *err)
{
    const struct merge_job *job = run->job;
    uint64_t *bins = mem_calloc(SELECT_BINS, sizeof(*bins));
    int rc = 0;
    for (size_t o = 0; rc == 0 && o < job->request->outputs; o++) {
        if (!job->request->recipes[o].global_trim || job->report->parameters == 0)
            continue;
        run->cuts[o] = mem_calloc(job->view.count * job->count + 1, sizeof(**run->cuts));
        for (size_t k = 0; rc == 0 && k < vectors_of(job); k++)
            rc = cut_globally(run, o, k, bins, err);
    }
    free(bins);
    return rc;
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

// What fits: mapped pages of every input's tile, and two buffers for each output.
static int choose_tile(const struct merge_job *job, size_t widest, size_t *tile, struct error *err)
{
    const struct merge_request *request = job->request;
    const uint64_t fixed = PROCESS_BYTES + merge_engine_bytes(request->threads, job->count, widest);
    const uint64_t element = 4 * (job->count + 1) + 2 * 4 * request->outputs;
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
        rc = find_global_cuts(&run, err);
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
