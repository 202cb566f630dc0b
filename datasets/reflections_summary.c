// SPDX-License-Identifier: Apache-2.0
#include "datasets/reflections_summary.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static const double shares[SUMMARY_QUANTILES] = {0, 0.05, 0.5, 0.95, 1};
const char *const summary_quantile_names[SUMMARY_QUANTILES] = {"least", "5%", "median", "95%",
                                                               "most"};

static int compare_sizes(const void *a, const void *b)
{
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

static struct length_summary summarize_lengths(size_t *values, size_t count)
{
    struct length_summary out = {{0}};
    qsort(values, count, sizeof(*values), compare_sizes);
    for (size_t i = 0; i < SUMMARY_QUANTILES && count > 0; i++)
        out.quantiles[i] = values[(size_t)(shares[i] * (double)(count - 1) + 0.5)];
    return out;
}

static void find_lengths(const struct reflection_set *set, struct reflections_summary *out)
{
    const size_t most = set->pair_count > set->task_count ? set->pair_count : set->task_count;
    size_t *values = mem_calloc(most + 1, sizeof(*values));
    for (size_t i = 0; i < set->pair_count; i++)
        values[i] = set->pairs[i].question_bytes;
    out->question_bytes = summarize_lengths(values, set->pair_count);
    for (size_t i = 0; i < set->pair_count; i++)
        values[i] = set->pairs[i].answer_bytes;
    out->answer_bytes = summarize_lengths(values, set->pair_count);
    for (size_t t = 0; t < set->task_count; t++)
        values[t] = set->tasks[t].pairs;
    out->task_pairs = summarize_lengths(values, set->task_count);
    free(values);
}

static int compare_drops(const void *a, const void *b)
{
    const struct drop_summary *x = a, *y = b;
    return x->step != y->step ? (x->step > y->step) - (x->step < y->step)
                              : strcmp(x->reason, y->reason);
}

static int compare_drop_counts(const void *a, const void *b)
{
    const struct drop_summary *x = a, *y = b;
    if (x->step == y->step && x->pairs != y->pairs)
        return x->pairs < y->pairs ? 1 : -1;
    return compare_drops(a, b);
}

static void find_drops(const struct reflection_set *set, struct reflections_summary *out)
{
    size_t count = 0, kept = 0;
    for (size_t t = 0; t < set->task_count; t++)
        count += set->tasks[t].drop_count;
    struct drop_summary *drops = mem_calloc(count + 1, sizeof(*drops));
    count = 0;
    for (size_t t = 0; t < set->task_count; t++) {
        for (size_t i = 0; i < set->tasks[t].drop_count; i++) {
            const struct reflection_drop *drop = &set->tasks[t].drops[i];
            drops[count++] = (struct drop_summary){drop->step, drop->reason, drop->pairs};
            out->steps[drop->step].dropped += drop->pairs;
        }
    }
    qsort(drops, count, sizeof(*drops), compare_drops);
    for (size_t i = 0; i < count; i++) {
        if (kept > 0 && compare_drops(&drops[kept - 1], &drops[i]) == 0)
            drops[kept - 1].pairs += drops[i].pairs;
        else
            drops[kept++] = drops[i];
    }
    qsort(drops, kept, sizeof(*drops), compare_drop_counts);
    out->drops = drops;
    out->drop_count = kept;
}

static int compare_reasons(const void *a, const void *b)
{
    const struct aside_summary *x = a, *y = b;
    return strcmp(x->reason, y->reason);
}

static int compare_aside_counts(const void *a, const void *b)
{
    const struct aside_summary *x = a, *y = b;
    return x->tasks != y->tasks ? (x->tasks < y->tasks ? 1 : -1) : compare_reasons(a, b);
}

static void find_asides(const struct reflection_set *set, struct reflections_summary *out)
{
    const size_t count = out->outcomes[TASK_SET_ASIDE];
    struct aside_summary *asides = mem_calloc(count + 1, sizeof(*asides));
    size_t found = 0, kept = 0;
    for (size_t t = 0; t < set->task_count; t++) {
        if (set->tasks[t].outcome == TASK_SET_ASIDE)
            asides[found++] = (struct aside_summary){set->tasks[t].reason, 1};
    }
    qsort(asides, count, sizeof(*asides), compare_reasons);
    for (size_t i = 0; i < count; i++) {
        if (kept > 0 && compare_reasons(&asides[kept - 1], &asides[i]) == 0)
            asides[kept - 1].tasks++;
        else
            asides[kept++] = asides[i];
    }
    qsort(asides, kept, sizeof(*asides), compare_aside_counts);
    out->asides = asides;
    out->aside_count = kept;
}

static void add_usage(const struct reflection_task *task, struct reflections_summary *out)
{
    for (size_t i = 0; i < task->usage_count; i++) {
        const struct reflection_usage *usage = &task->usage[i];
        struct step_summary *step = &out->steps[usage->step];
        step->requests += usage->requests;
        step->prompt_tokens += usage->prompt_tokens;
        step->cached_tokens += usage->cached_tokens;
        step->output_tokens += usage->output_tokens;
    }
}

static void add_up(struct reflections_summary *out)
{
    for (int s = 0; s < REFLECTION_STEPS; s++) {
        const struct step_summary *step = &out->steps[s];
        out->all.pairs += step->pairs;
        out->all.dropped += step->dropped;
        out->all.requests += step->requests;
        out->all.prompt_tokens += step->prompt_tokens;
        out->all.cached_tokens += step->cached_tokens;
        out->all.output_tokens += step->output_tokens;
    }
}

void reflections_summarize(const struct reflection_set *set, struct reflections_summary *out)
{
    *out = (struct reflections_summary){0};
    for (size_t t = 0; t < set->task_count; t++) {
        out->outcomes[set->tasks[t].outcome]++;
        out->seconds += set->tasks[t].seconds;
        add_usage(&set->tasks[t], out);
    }
    for (size_t i = 0; i < set->pair_count; i++)
        out->steps[set->pairs[i].step].pairs++;
    find_drops(set, out);
    find_asides(set, out);
    find_lengths(set, out);
    add_up(out);
}

void reflections_summary_release(struct reflections_summary *summary)
{
    free(summary->drops);
    free(summary->asides);
    *summary = (struct reflections_summary){0};
}
