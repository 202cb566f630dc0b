// SPDX-License-Identifier: Apache-2.0
// memo generate: reflections from a corpus, by one process or by a coordinator and workers under
// mpirun.
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/time_limit.h"
#include "coordinator/shell.h"
#include "jobs/compute.h"
#include "jobs/generate_quote.h"
#include "jobs/generate_runner.h"
#include "jobs/generate_sharing.h"
#include "jobs/generate_status.h"
#include "jobs/generation.h"
#include "jobs/language_model.h"
#include "jobs/run_directory.h"
#include "jobs/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMIT_BYTES (64u << 20) // a segment is not made larger on purpose
#define LATE_SECONDS 10.0        // no task is given to a second worker before

// One rank's part of the job.
struct generate_job {
    const struct generate_options *options;
    struct generation generation;
    struct generate_runner runner;
    struct generate_sharing sharing; // of the current plan
    struct reflections_index *index;
    struct group *group;
    struct launcher *launcher; // NULL: nothing is supervised
    struct fs *fs;
    char *attempt;  // directory of this attempt's segments
    bool *restored; // rank 0: [plan.count]
    bool *restored_aside;
    uint64_t restored_pairs;         // of the plan
    struct cluster_progress earlier; // rank 0: what an earlier plan of this run brought
    struct run_directory run;        // rank 0
    struct time_limit limit;         // rank 0 sees to it
    bool limit_told;
    struct generate_status status; // rank 0
    double began_seconds;
};

static int set_aside(void *state, uint32_t task, const char *reason, struct error *err)
{
    struct generate_job *job = state;
    generate_status_aside(&job->status, reason);
    return generate_runner_set_aside(&job->runner, task, reason, err);
}

// Between a stop request and the end lies a commit.
static bool time_is_up(struct generate_job *job)
{
    const double now = clock_seconds();
    time_limit_observe(&job->limit, job->status.figures.commit_seconds);
    if (!time_limit_is_near(&job->limit, now))
        return false;
    if (!job->limit_told)
        log_warn("%.0f s are left, and stopping may take %.0f s: stopping",
                 job->limit.end_seconds - now, time_limit_margin(&job->limit));
    job->limit_told = true;
    return true;
}

static bool show_progress(void *state, const struct cluster_progress *progress,
                          const struct worker_table *workers)
{
    struct generate_job *job = state;
    const bool spent = generate_status_progress(&job->status, progress, workers);
    return time_is_up(job) || spent;
}

static void take_figures(void *state, const char *text)
{
    struct generate_job *job = state;
    task_figures_add_text(&job->status.figures, text);
}

static void attach_server(void *state, uv_loop_t *loop)
{
    struct generate_job *job = state;
    struct error err;
    if (job->status.server && status_server_attach(job->status.server, loop, &err))
        log_warn("%s", err.text);
}

// What is committed already, by earlier attempts or an earlier plan, is not done again.
static void restore(struct generate_job *job)
{
    const struct task_plan *plan = &job->generation.plan;
    job->restored = mem_realloc(job->restored, plan->count + 1);
    job->restored_aside = mem_realloc(job->restored_aside, plan->count + 1);
    job->restored_pairs = 0;
    size_t found = 0;
    for (size_t t = 0; t < plan->count; t++) {
        struct indexed_task row;
        job->restored[t] = reflections_index_find(job->index, plan->tasks[t].id, &row);
        job->restored_aside[t] = job->restored[t] && row.task->outcome == TASK_SET_ASIDE;
        job->restored_pairs += job->restored[t] ? row.task->pairs : 0;
        found += job->restored[t];
    }
    const size_t others = reflections_index_tasks(job->index) - found;
    if (found > 0)
        log_info("%zu of %zu tasks were done %s", found, plan->count,
                 job->earlier.counts.tasks > 0 ? "before" : "by earlier attempts");
    if (others > 0 && !job->generation.entities_follow)
        log_warn("'%s' also holds %zu tasks of another corpus, part, generator or seed; training "
                 "takes their pairs too",
                 job->options->out, others);
}

static size_t worker_count(const struct group *group)
{
    return group_size(group) == 1 ? 1 : (size_t)group_size(group) - 1;
}

// Rank 0 prepares the output directory; the others learn where segments go.
static int begin_attempt(struct generate_job *job, struct error *err)
{
    int rc = 0;
    uint64_t length = 0;
    job->index = reflections_index_create(job->fs, job->options->out);
    if (group_rank(job->group) == 0) {
        rc = run_directory_open(&job->run, job->options->out, true, &verb_generate, job->options,
                                err) ||
                     reflections_index_refresh(job->index, err) ||
                     reflections_begin_attempt(job->fs, job->options->out, &job->attempt, err)
                 ? -1
                 : 0;
        if (rc == 0)
            rc = generate_status_open(&job->status, job->options, &job->run, job->attempt,
                                      worker_count(job->group), job->began_seconds, err);
        length = rc == 0 ? strlen(job->attempt) + 1 : 0;
    }
    if (group_agree(job->group, rc, err) ||
        group_broadcast(job->group, &length, sizeof(length), 0, err))
        return -1;
    if (!job->attempt)
        job->attempt = mem_calloc(length, 1);
    return group_broadcast(job->group, job->attempt, length, 0, err);
}

static int judge(const struct generate_job *job, const struct cluster_progress *progress,
                 enum cluster_end end, struct error *err)
{
    const struct coordinator_counts *counts = &progress->counts;
    const double share = counts->tasks ? (double)counts->aside / (double)counts->tasks : 0;
    if (end == CLUSTER_STOPPED)
        return EXIT_STOPPED;
    if (counts->aside > 0)
        log_warn("%zu of %zu tasks were set aside; `memo audit %s` lists them with their reasons",
                 counts->aside, counts->tasks, job->options->out);
    if (share > job->options->max_set_aside) {
        error_set(err, "%zu of %zu tasks set aside, more than --max-set-aside %g allows",
                  counts->aside, counts->tasks, job->options->max_set_aside);
        return EXIT_FAILED;
    }
    return EXIT_DONE;
}

static void say_budget(const struct generate_job *job, const struct cluster_progress *progress)
{
    const struct coordinator_counts *counts = &progress->counts;
    const struct generate_status *status = &job->status;
    if (status->over_budget && counts->done + counts->aside < counts->tasks)
        log_warn(
            "stopped by --max-gpu-hours %g: %.4g GPU-hours are spent, %zu of %zu tasks remain; "
            "the same command with a larger budget continues",
            job->options->max_gpu_hours,
            status->earlier_gpu_hours + generate_status_gpu_hours(status),
            counts->tasks - counts->done - counts->aside, counts->tasks);
}

static int finish(struct generate_job *job, const struct cluster_progress *progress, int code,
                  struct error *err)
{
    if (group_rank(job->group) != 0)
        return code;
    log_progress_end();
    generate_status_end(&job->status, code == EXIT_DONE      ? "done"
                                      : code == EXIT_STOPPED ? "stopped"
                                                             : "failed");
    if (progress->counts.tasks == 0 && code == EXIT_FAILED) // it ended before anybody counted
        return run_directory_close(&job->run, code, err);
    const struct coordinator_counts *counts = &progress->counts;
    say_budget(job, progress);
    const uint64_t new_pairs = job->earlier.pairs + progress->pairs;
    const uint64_t pairs = job->restored_pairs + progress->pairs;
    log_info("%s: %zu of %zu tasks, %llu pairs, %llu of them new", job->options->out,
             counts->done + counts->aside, counts->tasks, (unsigned long long)pairs,
             (unsigned long long)new_pairs);
    if (counts->elsewhere > 0)
        log_info("%zu tasks were done here, %zu meanwhile by other jobs", counts->computed,
                 counts->elsewhere);
    if (counts->backups > 0)
        log_info("%zu tasks that slower jobs hold were begun here as well, when there was nothing "
                 "else to do",
                 counts->backups);
    run_directory_int(&job->run, "tasks", (int64_t)counts->tasks);
    run_directory_int(&job->run, "tasks_done", (int64_t)(counts->done + counts->aside));
    run_directory_int(&job->run, "tasks_computed",
                      (int64_t)(job->earlier.counts.computed + counts->computed));
    run_directory_int(&job->run, "set_aside", (int64_t)counts->aside);
    run_directory_int(&job->run, "retries",
                      (int64_t)(job->earlier.counts.retries + counts->retries));
    run_directory_int(&job->run, "pairs", (int64_t)pairs);
    run_directory_int(&job->run, "new_pairs", (int64_t)new_pairs);
    run_directory_int(&job->run, "tokens", (int64_t)(job->earlier.tokens + progress->tokens));
    run_directory_number(&job->run, "text_tokens", job->status.text_tokens);
    run_directory_number(&job->run, "gpu_hours",
                         job->status.earlier_gpu_hours + generate_status_gpu_hours(&job->status));
    return run_directory_close(&job->run, code, err);
}

// [*count], caller frees.
static struct cluster_dependency *list_dependencies(const struct task_plan *plan, size_t *count)
{
    struct cluster_dependency *list = NULL;
    size_t capacity = 0;
    *count = 0;
    for (size_t t = plan->chunk_tasks; t < plan->count; t++) {
        const struct planned_task *task = &plan->tasks[t];
        list = mem_grow(list, &capacity, *count + task->member_count, sizeof(*list));
        for (size_t i = 0; i < task->member_count; i++)
            list[(*count)++] = (struct cluster_dependency){(uint32_t)t, task->members[i]};
    }
    return list;
}

// Collective.
static int open_sharing(struct generate_job *job, struct error *err)
{
    job->sharing = (struct generate_sharing){.options = job->options,
                                             .plan = &job->generation.plan,
                                             .index = job->index,
                                             .fs = job->fs,
                                             .attempt = job->attempt,
                                             .coordinates = group_rank(job->group) == 0};
    const int rc = generate_sharing_open(&job->sharing, err);
    job->runner.owner_path = job->sharing.owner_path;
    return group_agree(job->group, rc, err);
}

static double gpus(const struct generate_job *job)
{
    return job->options->gpus > 0 ? job->options->gpus : (double)worker_count(job->group);
}

static int run_cluster(struct generate_job *job, enum cluster_end *end,
                       struct cluster_progress *progress, struct error *err)
{
    const struct generate_options *options = job->options;
    const struct task_plan *plan = &job->generation.plan;
    const bool coordinates = group_rank(job->group) == 0;
    const struct task_runner runner = generate_runner_interface(&job->runner);
    size_t dependency_count = 0;
    struct cluster_dependency *dependencies =
        coordinates ? list_dependencies(plan, &dependency_count) : NULL;
    uint32_t *priorities = coordinates ? task_plan_priorities(plan, job->generation.corpus) : NULL;
    const double *weights = NULL;
    if (coordinates) {
        restore(job);
        if (job->earlier.counts.tasks == 0)
            generate_quote_say(&job->generation, job->restored, gpus(job));
        weights = generate_status_plan(&job->status, plan, job->generation.corpus, &job->earlier);
    }
    const struct cluster_job cluster = {
        .plan = plan->digest,
        .tasks = plan->count,
        .dependencies = dependencies,
        .dependency_count = dependency_count,
        .priorities = priorities,
        .weights = weights,
        .restored = job->restored,
        .restored_aside = job->restored_aside,
        .sharing = job->sharing.claims ? &job->sharing.sharing : NULL,
        .lease_seconds = generation_lease_seconds(options),
        .late_seconds = LATE_SECONDS,
        .max_attempts = (int)options->max_attempts,
        .runner = &runner,
        .agent = {.plan = plan->digest,
                  .commit_seconds = options->commit_seconds,
                  .commit_bytes = COMMIT_BYTES,
                  .max_tasks_per_second = options->max_tasks_per_second},
        .state = job,
        .set_aside = set_aside,
        .progress = show_progress,
        .figures = take_figures,
        .attach = attach_server};
    const int rc = cluster_run(job->group, &cluster, end, progress, err);
    free(dependencies);
    free(priorities);
    return rc;
}

// Collective.
static int run_plan(struct generate_job *job, enum cluster_end *end,
                    struct cluster_progress *progress, struct error *err)
{
    int rc = open_sharing(job, err);
    if (rc == 0)
        rc = run_cluster(job, end, progress, err);
    job->restored_pairs += job->sharing.found_pairs;
    generate_sharing_close(&job->sharing, rc == 0 && *end == CLUSTER_COMPLETE);
    job->runner.owner_path = NULL;
    return rc;
}

// Rank 0 says what the groups are: a file server may show the others less. Collective.
static int share_groups(struct generate_job *job, struct chunk_groups *groups, struct error *err)
{
    const bool has_them = group_rank(job->group) == 0;
    uint64_t sizes[2] = {groups->count, has_them ? groups->offsets[groups->count] : 0};
    if (group_broadcast(job->group, sizes, sizeof(sizes), 0, err))
        return -1;
    if (!has_them)
        *groups = (struct chunk_groups){
            .offsets = mem_calloc((size_t)sizes[0] + 1, sizeof(*groups->offsets)),
            .chunks = mem_calloc((size_t)sizes[1] + 1, sizeof(*groups->chunks)),
            .count = (size_t)sizes[0]};
    return group_broadcast(job->group, groups->offsets,
                           ((size_t)sizes[0] + 1) * sizeof(*groups->offsets), 0, err) ||
                   group_broadcast(job->group, groups->chunks,
                                   (size_t)sizes[1] * sizeof(*groups->chunks), 0, err)
               ? -1
               : 0;
}

// All chunks are done: what their pairs name makes the groups. Collective.
static int plan_entities(struct generate_job *job, struct error *err)
{
    struct chunk_groups groups = {0};
    int rc = 0;
    if (group_rank(job->group) == 0) {
        rc = reflections_index_refresh(job->index, err);
        if (rc == 0)
            generation_find_entities(&job->generation, job->index, &groups);
    }
    rc = group_agree(job->group, rc, err);
    if (rc == 0)
        rc = share_groups(job, &groups, err);
    if (rc == 0)
        generation_add_groups(&job->generation, &groups);
    chunk_groups_release(&groups);
    return rc;
}

static int run_entities(struct generate_job *job, enum cluster_end *end,
                        struct cluster_progress *progress, struct error *err)
{
    if (plan_entities(job, err))
        return -1;
    job->earlier = *progress;
    if (group_rank(job->group) == 0) {
        const struct task_plan *plan = &job->generation.plan;
        log_progress_end();
        log_info("all %zu tasks of chunks are done; %zu groups of chunks share names that step 4 "
                 "surfaced",
                 plan->chunk_tasks, plan->count - plan->chunk_tasks);
    }
    return run_plan(job, end, progress, err);
}

static int run_plans(struct generate_job *job, struct error *err)
{
    enum cluster_end end = CLUSTER_STOPPED;
    struct cluster_progress progress = {0};
    int rc = run_plan(job, &end, &progress, err);
    if (rc == 0 && end == CLUSTER_COMPLETE && job->generation.entities_follow)
        rc = run_entities(job, &end, &progress, err);
    return finish(job, &progress, rc == 0 ? judge(job, &progress, end, err) : EXIT_FAILED, err);
}

static int open_everything(struct generate_job *job, struct error *err)
{
    const bool works = group_rank(job->group) != 0 || group_size(job->group) == 1;
    const int threads = works ? compute_threads(job->group, job->options->threads) : 0;
    job->fs = fs_system();
    if (group_agree(job->group,
                    generation_open(job->options, threads, job->launcher, &job->generation, err),
                    err) ||
        begin_attempt(job, err))
        return -1;
    job->runner = (struct generate_runner){.corpus = job->generation.corpus,
                                           .generator = job->generation.generator,
                                           .plan = &job->generation.plan,
                                           .index = job->index,
                                           .fs = job->fs,
                                           .attempt = job->attempt,
                                           .rank = group_rank(job->group),
                                           .seed = (uint64_t)job->options->seed,
                                           .clock = clock_seconds};
    generate_runner_open(&job->runner);
    return 0;
}

static void close_everything(struct generate_job *job)
{
    generate_status_close(&job->status);
    generate_runner_close(&job->runner);
    generation_close(&job->generation);
    reflections_index_destroy(job->index);
    free(job->attempt);
    free(job->restored);
    free(job->restored_aside);
    launcher_close(job->launcher);
    group_close(job->group);
}

// The launcher must come before the group: what it starts shall have nothing of MPI. It starts
// engines that see the GPU which was chosen before.
static int begin(struct generate_job *job, struct error *err)
{
    if (compute_choose_gpu(job->options->backend, err))
        return -1;
    if (language_model_is_supervised(job->options) && launcher_open(&job->launcher, err))
        return -1;
    if (group_open(&job->group, err)) {
        launcher_close(job->launcher);
        return -1;
    }
    return 0;
}

static int run_generate(const void *parsed, const struct option_list *positional, struct error *err)
{
    struct generate_job job = {.options = parsed, .began_seconds = clock_seconds()};
    int code = EXIT_FAILED;
    (void)positional;
    if (generation_check(job.options, err))
        return EXIT_USAGE;
    job.limit = time_limit_after(clock_seconds(), job.options->time_left);
    if (begin(&job, err))
        return EXIT_FAILED;
    if (open_everything(&job, err) == 0)
        code = run_plans(&job, err);
    else
        code = run_directory_close(&job.run, EXIT_FAILED, err);
    // Every rank fails with the job; one of them says why.
    if (group_rank(job.group) != 0)
        err->text[0] = '\0';
    else if (code != EXIT_DONE && code != EXIT_STOPPED)
        verb_report_failure(&verb_generate, err);
    close_everything(&job);
    return code;
}

const struct verb verb_generate = {
    .name = "generate",
    .summary = "make question-answer pairs (reflections) from a corpus",
    .examples = "  memo generate --corpus corpus.h5 --out reflections/\n"
                "  memo generate --corpus corpus.h5 --generator engine:models/qwen --out "
                "reflections/\n"
                "  mpirun -np 9 memo generate --corpus corpus.h5 --out reflections/\n"
                "The same command continues an interrupted run, with any number of workers.\n",
    .options = generate_option_table,
    .options_bytes = sizeof(struct generate_options),
    .run = run_generate,
};
