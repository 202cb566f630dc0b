// SPDX-License-Identifier: Apache-2.0
// Plan and set are both sorted by task id: one merge tells what is done, missing and unknown.
#include "datasets/reflections_tools.h"

#include "base/mem.h"

#include <stdlib.h>

static void count_outcome(struct reflections_audit *audit, enum task_outcome outcome)
{
    audit->done += outcome == TASK_DONE;
    audit->empty += outcome == TASK_EMPTY;
    audit->set_aside += outcome == TASK_SET_ASIDE;
}

static int compare_digests(const void *a, const void *b)
{
    return digest_compare(*(const struct digest *)a, *(const struct digest *)b);
}

static size_t count_lost_parents(const struct reflection_set *set)
{
    struct digest *records = mem_calloc(set->pair_count + 1, sizeof(*records));
    size_t lost = 0;
    for (size_t i = 0; i < set->pair_count; i++)
        records[i] = set->pairs[i].record_id;
    qsort(records, set->pair_count, sizeof(*records), compare_digests);
    for (size_t i = 0; i < set->pair_count; i++) {
        for (size_t k = 0; k < set->pairs[i].parent_count; k++)
            lost += bsearch(&set->pairs[i].parents[k], records, set->pair_count, sizeof(*records),
                            compare_digests) == NULL;
    }
    free(records);
    return lost;
}

void reflections_audit(const struct digest *planned, size_t planned_count,
                       const struct reflection_set *set, struct reflections_audit *out)
{
    *out = (struct reflections_audit){
        .missing = mem_calloc(planned_count + 1, sizeof(*out->missing)),
        .unknown = mem_calloc(set->task_count + 1, sizeof(*out->unknown)),
        .lost_parents = count_lost_parents(set),
    };
    size_t p = 0, t = 0;
    while (p < planned_count || t < set->task_count) {
        if (p > 0 && p < planned_count && digest_equal(planned[p - 1], planned[p])) {
            p++;
            continue;
        }
        int order = p == planned_count     ? 1
                    : t == set->task_count ? -1
                                           : digest_compare(planned[p], set->tasks[t].task_id);
        if (order < 0)
            out->missing[out->missing_count++] = planned[p];
        else if (order > 0)
            out->unknown[out->unknown_count++] = set->tasks[t].task_id;
        else
            count_outcome(out, set->tasks[t].outcome);
        out->planned += order <= 0;
        p += order <= 0;
        t += order >= 0;
    }
}

void reflections_audit_release(struct reflections_audit *audit)
{
    free(audit->missing);
    free(audit->unknown);
    *audit = (struct reflections_audit){0};
}
