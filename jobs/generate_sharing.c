// SPDX-License-Identifier: Apache-2.0
#include "jobs/generate_sharing.h"

#include "base/log.h"
#include "base/mem.h"
#include "coordinator/claims_process.h"

#include <stdlib.h>
#include <string.h>

#define BLOCKS_WANTED 512 // about, so that no job claims much at once and few files are made
#define LEAST_TASKS 4     // of a block
#define MOST_TASKS 1024
#define BEATS_TO_STALE 12
#define PLAN_DIGITS 16
#define LOOK_SECONDS 2.0
#define LOOK_TASKS 100000.0 // a plan of so many tasks is looked at half as often

static uint32_t block_tasks(const struct generate_options *options, size_t tasks)
{
    const size_t chosen = tasks / BLOCKS_WANTED;
    if (options->claim_tasks > 0)
        return (uint32_t)options->claim_tasks;
    return (uint32_t)(chosen < LEAST_TASKS  ? LEAST_TASKS
                      : chosen > MOST_TASKS ? MOST_TASKS
                                            : chosen);
}

static size_t count_blocks(size_t tasks, uint32_t each)
{
    return (tasks + each - 1) / each;
}

static size_t cut(struct sharing_block *out, size_t first, size_t end, uint32_t each)
{
    size_t count = 0;
    for (size_t t = first; t < end; t += each)
        out[count++] =
            (struct sharing_block){(uint32_t)t, (uint32_t)(end - t < each ? end - t : each)};
    return count;
}

// Chunks and groups in blocks of their own: groups become ready later.
static size_t cut_into_blocks(struct generate_sharing *sharing)
{
    const struct task_plan *plan = sharing->plan;
    const size_t chunks = plan->chunk_tasks, groups = plan->count - chunks;
    const uint32_t of_chunks = block_tasks(sharing->options, chunks);
    const uint32_t of_groups = block_tasks(sharing->options, groups);
    sharing->blocks =
        mem_calloc(count_blocks(chunks, of_chunks) + count_blocks(groups, of_groups) + 1,
                   sizeof(*sharing->blocks));
    const size_t count = cut(sharing->blocks, 0, chunks, of_chunks);
    return count + cut(sharing->blocks + count, chunks, plan->count, of_groups);
}

static int look(void *state, struct error *err)
{
    const struct generate_sharing *sharing = state;
    return reflections_index_refresh(sharing->index, err) ||
                   reflections_index_make_durable(sharing->index, err)
               ? -1
               : 0;
}

static bool find(void *state, uint32_t task, bool *aside)
{
    struct generate_sharing *sharing = state;
    struct indexed_task row;
    const bool found = reflections_index_find(sharing->index, sharing->plan->tasks[task].id, &row);
    sharing->found_pairs += found ? row.task->pairs : 0;
    *aside = found && row.task->outcome == TASK_SET_ASIDE;
    return found;
}

static const char *owner_name(const struct generate_sharing *sharing)
{
    const char *slash = strrchr(sharing->attempt, '/');
    return slash ? slash + 1 : sharing->attempt;
}

static int open_claims(struct generate_sharing *sharing, size_t blocks, struct error *err)
{
    char process[CLAIMS_PROCESS_BYTES];
    claims_process_describe(process);
    const double stale_seconds = sharing->options->claim_seconds;
    const struct claims_options options = {.fs = sharing->fs,
                                           .directory = sharing->directory,
                                           .owner = owner_name(sharing),
                                           .process = process,
                                           .blocks = (uint32_t)blocks,
                                           .beat_seconds = stale_seconds / BEATS_TO_STALE,
                                           .stale_seconds = stale_seconds,
                                           .is_gone = claims_process_is_gone};
    return claims_open(&options, 0, &sharing->claims, err) || look(sharing, err) ? -1 : 0;
}

// Slurm says how many jobs of an array there are; they do not begin all at once.
static size_t expected_jobs(void)
{
    const char *count = getenv("SLURM_ARRAY_TASK_COUNT");
    const long jobs = count ? strtol(count, NULL, 10) : 1;
    return jobs > 1 ? (size_t)jobs : 1;
}

int generate_sharing_open(struct generate_sharing *sharing, struct error *err)
{
    char plan[DIGEST_TEXT_BYTES];
    if (strcmp(sharing->options->claims, "off") == 0)
        return 0;
    digest_format(sharing->plan->digest, plan);
    sharing->directory = mem_printf("%s/claims/%.*s", sharing->options->out, PLAN_DIGITS, plan);
    sharing->owner_path = claims_owner_path(sharing->directory, owner_name(sharing));
    if (!sharing->coordinates)
        return 0;
    const size_t blocks = cut_into_blocks(sharing);
    sharing->sharing = (struct sharing_options){
        .blocks = sharing->blocks,
        .block_count = blocks,
        .tasks = sharing->plan->count,
        .patience_seconds = sharing->options->claim_seconds,
        .look_seconds = LOOK_SECONDS * (1 + (double)sharing->plan->count / LOOK_TASKS),
        .expected_jobs = expected_jobs(),
        .expected_seconds = sharing->options->claim_seconds,
        .state = sharing,
        .look = look,
        .find = find};
    if (open_claims(sharing, blocks, err))
        return -1;
    sharing->sharing.claims = sharing->claims;
    return 0;
}

void generate_sharing_close(struct generate_sharing *sharing)
{
    struct error err;
    if (sharing->claims && claims_are_over(sharing->claims))
        log_warn("other jobs took this one for dead and its tasks over: it gave no sign of life "
                 "for %.0f s (--claim-seconds); the same command continues",
                 sharing->options->claim_seconds);
    else if (sharing->claims && claims_leave(sharing->claims, &err))
        log_warn("%s: other jobs will wait for its tasks for %.0f s", err.text,
                 sharing->options->claim_seconds);
    claims_close(sharing->claims);
    free(sharing->blocks);
    free(sharing->directory);
    free(sharing->owner_path);
    *sharing = (struct generate_sharing){0};
}
