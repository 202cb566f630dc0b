// SPDX-License-Identifier: Apache-2.0
// A trim over the whole vector: its histograms and its equal values are counted tensor by tensor,
// each by the rank that owns it, and summed over the ranks.
#include "base/mem.h"
#include "worker/merge/merge_run.h"

#include <stdlib.h>
#include <string.h>

static void add_histogram(struct run *run, size_t output, size_t k, const uint32_t *high,
                          uint64_t *bins)
{
    for (size_t i = 0; i < run->job->view.count; i++) {
        if (!merge_run_owns(run->job, i))
            continue;
        struct tensor_reading reading;
        struct merge_parameters p = merge_run_resolve(run, output, i);
        merge_reading_open(run->job, i, &reading);
        const struct merge_tensor tensor = merge_run_tensor(run, i, &p, &reading);
        merge_tensor_histogram(run->engine, &p, &tensor, k, high, bins);
        free(reading.sources);
    }
}

// How many values equal to bits each tensor of every rank holds.
static int count_ties(struct run *run, size_t output, size_t k, uint32_t bits, int64_t *ties,
                      struct error *err)
{
    for (size_t i = 0; i < run->job->view.count; i++) {
        if (!merge_run_owns(run->job, i))
            continue;
        struct tensor_reading reading;
        struct merge_parameters p = merge_run_resolve(run, output, i);
        merge_reading_open(run->job, i, &reading);
        const struct merge_tensor tensor = merge_run_tensor(run, i, &p, &reading);
        ties[i] = (int64_t)merge_tensor_equal(run->engine, &p, &tensor, k, bits);
        free(reading.sources);
    }
    return group_all_reduce_i64(run->job->request->group, ties, run->job->view.count, err);
}

static uint64_t end_of_ties(struct run *run, size_t output, size_t k, size_t i, uint32_t bits,
                            uint64_t ties)
{
    struct tensor_reading reading;
    struct merge_parameters p = merge_run_resolve(run, output, i);
    merge_reading_open(run->job, i, &reading);
    const struct merge_tensor tensor = merge_run_tensor(run, i, &p, &reading);
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
            cut->end = merge_run_owns(job, i) ? end_of_ties(run, output, k, i, bits, ties) : 0;
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
    const struct merge_parameters p = merge_run_resolve(run, output, 0);
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

int merge_run_cut(struct run *run, struct error *err)
{
    const struct merge_job *job = run->job;
    uint64_t *bins = mem_calloc(SELECT_BINS, sizeof(*bins));
    int rc = 0;
    for (size_t o = 0; rc == 0 && o < job->request->outputs; o++) {
        if (!job->request->recipes[o].global_trim || job->report->parameters == 0)
            continue;
        run->cuts[o] = mem_calloc(job->view.count * job->count + 1, sizeof(**run->cuts));
        for (size_t k = 0; rc == 0 && k < merge_run_vectors(job); k++)
            rc = cut_globally(run, o, k, bins, err);
    }
    free(bins);
    return rc;
}
