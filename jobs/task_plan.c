// SPDX-License-Identifier: Apache-2.0
#include "jobs/task_plan.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PARTS 1000000
#define NO_TASK UINT32_MAX
#define GROUP_PRIORITY 64 // above every logarithm

int corpus_part_parse(const char *text, struct corpus_part *out, struct error *err)
{
    int used = 0;
    *out = (struct corpus_part){.part = 1, .parts = 1};
    if (!text)
        return 0;
    if (sscanf(text, "%d/%d%n", &out->part, &out->parts, &used) != 2 || text[used] != '\0' ||
        out->parts < 1 || out->parts > MAX_PARTS || out->part < 1 || out->part > out->parts)
        return error_set(err, "part '%s' is not K/N with 1 <= K <= N", text);
    return 0;
}

struct planner {
    const struct corpus *corpus;
    struct generator *generator;
    const struct task_plan_options *options;
    struct task_plan *plan;
    uint32_t *task_of_chunk; // [chunk_count] or NO_TASK
};

static struct digest identify(const struct planner *planner, const char *kind,
                              enum reflection_step step, struct digest input)
{
    const struct task_identity identity = {.kind = kind,
                                           .contents = &input,
                                           .content_count = 1,
                                           .step = step,
                                           .prompts = planner->options->prompts,
                                           .generator = planner->generator->digest,
                                           .sampling = planner->options->sampling,
                                           .seed = planner->options->seed};
    return task_identity_digest(&identity);
}

struct numbered_id {
    struct digest id;
    uint32_t number; // of the chunk or the group
};

static int compare_ids(const void *a, const void *b)
{
    const struct numbered_id *x = a, *y = b;
    const int order = digest_compare(x->id, y->id);
    return order != 0 ? order : (x->number > y->number) - (x->number < y->number);
}

// The same text in two documents is the same task: the first chunk stands for it. Sets the task of
// every chunk in ids and returns how many tasks there are; ids[] becomes those that stand.
static size_t drop_repeated(struct planner *planner, struct numbered_id *ids, size_t count)
{
    struct numbered_id *sorted = mem_dup(ids, count * sizeof(*sorted));
    uint32_t *stands = mem_calloc(planner->corpus->chunk_count + 1, sizeof(*stands));
    size_t kept = 0;
    qsort(sorted, count, sizeof(*sorted), compare_ids);
    for (size_t i = 0, first = 0; i < count; i++) {
        if (!digest_equal(sorted[first].id, sorted[i].id))
            first = i;
        stands[sorted[i].number] = sorted[first].number;
    }
    for (size_t i = 0; i < count; i++) {
        const uint32_t chunk = ids[i].number;
        planner->task_of_chunk[chunk] =
            stands[chunk] == chunk ? (uint32_t)kept : planner->task_of_chunk[stands[chunk]];
        if (stands[chunk] == chunk)
            ids[kept++] = ids[i];
    }
    free(stands);
    free(sorted);
    return kept;
}

static void plan_chunks(struct planner *planner)
{
    const struct corpus *corpus = planner->corpus;
    const struct corpus_part part = planner->options->part;
    struct task_plan *plan = planner->plan;
    bool *in_part = mem_calloc(corpus->document_count + 1, sizeof(*in_part));
    struct numbered_id *ids = mem_calloc(corpus->chunk_count + 1, sizeof(*ids));
    size_t count = 0;
    corpus_select_part(corpus, part.part, part.parts, in_part);
    for (size_t c = 0; c < corpus->chunk_count; c++) {
        planner->task_of_chunk[c] = NO_TASK;
        if (!in_part[corpus->chunks[c].document])
            continue;
        const struct digest input = generator_input_digest(planner->generator, corpus, c);
        ids[count++] = (struct numbered_id){
            identify(planner, "chunk", planner->options->chunk_step, input), (uint32_t)c};
    }
    plan->count = plan->chunk_tasks = drop_repeated(planner, ids, count);
    plan->repeated = count - plan->count;
    plan->tasks =
        mem_calloc(plan->count + planner->options->groups.count + 1, sizeof(*plan->tasks));
    for (size_t t = 0; t < plan->count; t++)
        plan->tasks[t] = (struct planned_task){.id = ids[t].id, .chunk = ids[t].number};
    free(ids);
    free(in_part);
}

static int compare_numbers(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

// The tasks of the group's chunks in this part, each once, ascending. [the group's size]
static size_t find_members(const struct planner *planner, size_t group, uint32_t *members)
{
    const struct plan_groups *groups = &planner->options->groups;
    size_t count = 0, kept = 0;
    for (uint32_t i = groups->offsets[group]; i < groups->offsets[group + 1]; i++) {
        const uint32_t task = planner->task_of_chunk[groups->chunks[i]];
        if (task != NO_TASK)
            members[count++] = task;
    }
    qsort(members, count, sizeof(*members), compare_numbers);
    for (size_t i = 0; i < count; i++) {
        if (kept == 0 || members[kept - 1] != members[i])
            members[kept++] = members[i];
    }
    return kept;
}

static bool joins_documents(const struct planner *planner, const uint32_t *members, size_t count)
{
    const struct corpus_chunk *chunks = planner->corpus->chunks;
    const struct planned_task *tasks = planner->plan->tasks;
    for (size_t i = 1; i < count; i++) {
        if (chunks[tasks[members[i]].chunk].document != chunks[tasks[members[0]].chunk].document)
            return true;
    }
    return false;
}

static struct digest group_task_id(const struct planner *planner, const uint32_t *members,
                                   size_t count)
{
    uint32_t *chunks = mem_calloc(count + 1, sizeof(*chunks));
    for (size_t i = 0; i < count; i++)
        chunks[i] = planner->plan->tasks[members[i]].chunk;
    const struct digest input = planner->generator->ops->group_input_digest(
        planner->generator, planner->corpus, chunks, count);
    free(chunks);
    return identify(planner, "group", STEP_CROSS, input);
}

// Room for the members of all groups is made first: tasks point into it.
static void plan_groups(struct planner *planner)
{
    const struct plan_groups *groups = &planner->options->groups;
    struct task_plan *plan = planner->plan;
    size_t used = 0;
    plan->members = mem_calloc((size_t)groups->offsets[groups->count] + 1, sizeof(*plan->members));
    for (size_t g = 0; g < groups->count; g++) {
        uint32_t *members = plan->members + used;
        const size_t count = find_members(planner, g, members);
        if (!joins_documents(planner, members, count))
            continue;
        plan->tasks[plan->count++] =
            (struct planned_task){.id = group_task_id(planner, members, count),
                                  .members = members,
                                  .member_count = count};
        used += count;
    }
}

// Groups of equal text are one task, as chunks are: the first stands for it.
static void drop_repeated_groups(struct task_plan *plan)
{
    const size_t count = plan->count - plan->chunk_tasks;
    struct numbered_id *sorted = mem_calloc(count + 1, sizeof(*sorted));
    bool *repeated = mem_calloc(count + 1, sizeof(*repeated));
    for (size_t g = 0; g < count; g++)
        sorted[g] = (struct numbered_id){plan->tasks[plan->chunk_tasks + g].id, (uint32_t)g};
    qsort(sorted, count, sizeof(*sorted), compare_ids);
    for (size_t i = 1; i < count; i++)
        repeated[sorted[i].number] = digest_equal(sorted[i - 1].id, sorted[i].id);
    plan->count = plan->chunk_tasks;
    for (size_t g = 0; g < count; g++) {
        if (!repeated[g])
            plan->tasks[plan->count++] = plan->tasks[plan->chunk_tasks + g];
    }
    free(repeated);
    free(sorted);
}

static struct digest plan_digest(const struct task_plan *plan)
{
    struct digest_builder builder;
    digest_begin(&builder);
    for (size_t t = 0; t < plan->count; t++)
        digest_field(&builder, plan->tasks[t].id.bytes, sizeof(plan->tasks[t].id.bytes));
    return digest_end(&builder);
}

void task_plan_create(const struct corpus *corpus, struct generator *generator,
                      const struct task_plan_options *options, struct task_plan *out)
{
    *out = (struct task_plan){0};
    struct planner planner = {
        .corpus = corpus, .generator = generator, .options = options, .plan = out};
    planner.task_of_chunk = mem_calloc(corpus->chunk_count + 1, sizeof(*planner.task_of_chunk));
    plan_chunks(&planner);
    if (generator->ops->group_input_digest && options->groups.count > 0) {
        plan_groups(&planner);
        drop_repeated_groups(out);
    }
    out->digest = plan_digest(out);
    free(planner.task_of_chunk);
}

void task_plan_release(struct task_plan *plan)
{
    free(plan->tasks);
    free(plan->members);
    *plan = (struct task_plan){0};
}

static uint32_t binary_logarithm(uint64_t value)
{
    uint32_t bits = 0;
    while (value >>= 1)
        bits++;
    return bits;
}

static uint64_t task_tokens(const struct task_plan *plan, const struct corpus *corpus,
                            const struct planned_task *task)
{
    uint64_t tokens = task->member_count == 0 ? corpus->chunks[task->chunk].tokens : 0;
    for (size_t i = 0; i < task->member_count; i++)
        tokens += corpus->chunks[plan->tasks[task->members[i]].chunk].tokens;
    return tokens;
}

double *task_plan_weights(const struct task_plan *plan, const struct corpus *corpus)
{
    double *weights = mem_calloc(plan->count + 1, sizeof(*weights));
    for (size_t t = 0; t < plan->count; t++) {
        const uint64_t tokens = task_tokens(plan, corpus, &plan->tasks[t]);
        weights[t] = tokens > 0 ? (double)tokens : 1;
    }
    return weights;
}

uint32_t *task_plan_priorities(const struct task_plan *plan, const struct corpus *corpus)
{
    uint32_t *priorities = mem_calloc(plan->count + 1, sizeof(*priorities));
    for (size_t t = 0; t < plan->count; t++) {
        const struct planned_task *task = &plan->tasks[t];
        const uint64_t tokens = task_tokens(plan, corpus, task);
        priorities[t] = (task->member_count > 0 ? GROUP_PRIORITY : 0) + binary_logarithm(tokens);
    }
    return priorities;
}
