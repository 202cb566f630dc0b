// SPDX-License-Identifier: Apache-2.0
#include "jobs/generate_sharing.h"

#include "base/log.h"
#include "base/mem.h"
#include "coordinator/claims_process.h"

#include <stdlib.h>
#include <string.h>

#define LEAST_TASKS 4 // of a block
#define MOST_TASKS 1024
#define BLOCK_SHARE 32 // of the tasks that follow
#define BEATS_TO_STALE 12
#define DIRECTORY_DIGITS 16
#define LOOK_SECONDS 2.0
#define LOOK_TASKS 100000.0 // a plan of so many tasks is looked at half as often

// Large blocks first, for a claim costs a synced file; small ones at the end, so that jobs end
// together.
static uint32_t block_tasks(const struct generate_options *options, size_t left)
{
    size_t tasks = left / BLOCK_SHARE;
    if (options->claim_tasks > 0)
        tasks = (size_t)options->claim_tasks;
    else if (tasks < LEAST_TASKS)
        tasks = LEAST_TASKS;
    else if (tasks > MOST_TASKS)
        tasks = MOST_TASKS;
    return (uint32_t)(tasks < left ? tasks : left);
}

static void cut(struct generate_sharing *sharing, size_t first, size_t end)
{
    while (first < end) {
        const uint32_t tasks = block_tasks(sharing->options, end - first);
        sharing->blocks = mem_grow(sharing->blocks, &sharing->block_capacity,
                                   sharing->block_count + 1, sizeof(*sharing->blocks));
        sharing->blocks[sharing->block_count++] = (struct sharing_block){(uint32_t)first, tasks};
        first += tasks;
    }
}

// Chunks and groups in blocks of their own: groups become ready later.
static void cut_into_blocks(struct generate_sharing *sharing)
{
    const struct task_plan *plan = sharing->plan;
    cut(sharing, 0, plan->chunk_tasks);
    cut(sharing, plan->chunk_tasks, plan->count);
}

// Jobs that cut the tasks of a plan alike claim in one directory.
static char *claims_directory(const struct generate_sharing *sharing)
{
    char text[DIGEST_TEXT_BYTES];
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field(&builder, &sharing->plan->digest, sizeof(sharing->plan->digest));
    digest_field(&builder, sharing->blocks, sharing->block_count * sizeof(*sharing->blocks));
    digest_format(digest_end(&builder), text);
    return mem_printf("%s/claims/%.*s", sharing->options->out, DIRECTORY_DIGITS, text);
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

static int open_claims(struct generate_sharing *sharing, struct error *err)
{
    char process[CLAIMS_PROCESS_BYTES];
    claims_process_describe(process);
    const double stale_seconds = sharing->options->claim_seconds;
    const struct claims_options options = {
        .fs = sharing->fs,
        .directory = sharing->directory,
        .owner = owner_name(sharing),
        .process = process,
        .blocks = (uint32_t)(sharing->block_count + sharing->plan->count),
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
    if (strcmp(sharing->options->claims, "off") == 0)
        return 0;
    cut_into_blocks(sharing);
    sharing->directory = claims_directory(sharing);
    sharing->owner_path = claims_owner_path(sharing->directory, owner_name(sharing));
    if (!sharing->coordinates)
        return 0;
    sharing->sharing = (struct sharing_options){
        .blocks = sharing->blocks,
        .block_count = sharing->block_count,
        .tasks = sharing->plan->count,
        .patience_seconds = sharing->options->claim_seconds,
        .look_seconds = LOOK_SECONDS * (1 + (double)sharing->plan->count / LOOK_TASKS),
        .expected_jobs = expected_jobs(),
        .expected_seconds = sharing->options->claim_seconds,
        .state = sharing,
        .look = look,
        .find = find};
    if (open_claims(sharing, err))
        return -1;
    sharing->sharing.claims = sharing->claims;
    return 0;
}

// What stays behind costs a little space and means nothing.
static void remove_claims(const struct generate_sharing *sharing)
{
    struct error err;
    if (claims_remove(sharing->claims, &err))
        log_warn("%s: '%s' may be deleted", err.text, sharing->directory);
    char *parent = fs_join(sharing->options->out, "claims");
    (void)sharing->fs->ops->remove(sharing->fs->state, parent); // empty, or of other plans too
    free(parent);
}

void generate_sharing_close(struct generate_sharing *sharing, bool complete)
{
    struct error err;
    if (sharing->claims && claims_are_over(sharing->claims))
        log_warn("other jobs took this one for dead and its tasks over: it gave no sign of life "
                 "for %.0f s (--claim-seconds); the same command continues",
                 sharing->options->claim_seconds);
    else if (sharing->claims && claims_leave(sharing->claims, &err))
        log_warn("%s: other jobs will wait for its tasks for %.0f s", err.text,
                 sharing->options->claim_seconds);
    if (sharing->claims && complete)
        remove_claims(sharing);
    claims_close(sharing->claims);
    free(sharing->blocks);
    free(sharing->directory);
    free(sharing->owner_path);
    *sharing = (struct generate_sharing){0};
}
