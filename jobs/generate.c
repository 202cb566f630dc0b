// SPDX-License-Identifier: Apache-2.0
// memo generate: reflections from a corpus, by one process or by a coordinator and workers under
// mpirun.
#include "jobs/generate.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "coordinator/shell.h"
#include "jobs/run_directory.h"
#include "jobs/verbs.h"
#include "worker/reflect/cloze.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COMMIT_BYTES (64u << 20) // a segment is not made larger on purpose

#define OPTION_AT(field) offsetof(struct generate_options, field)

static const struct option generate_option_table[] = {
    {"corpus", OPTION_STRING, OPTION_AT(corpus), "FILE", NULL, 0, 0, NULL, "corpus.h5", true},
    {"generator", OPTION_STRING, OPTION_AT(generator), "NAME", "cloze", 0, 0, NULL,
     "cloze: fill-the-gap pairs without a model", false},
    {"out", OPTION_STRING, OPTION_AT(out), "DIR", NULL, 0, 0, NULL,
     "reflections directory; what is there already is not done again", true},
    {"part", OPTION_STRING, OPTION_AT(part), "K/N", "1/1", 0, 0, NULL,
     "only the documents of part K of N parts of about equal size", false},
    {"seed", OPTION_INT, OPTION_AT(seed), "N", "1", 0, INT32_MAX, NULL,
     "of the run; another seed makes other tasks", false},
    {"lease-seconds", OPTION_NUMBER, OPTION_AT(lease_seconds), "S", "600", 0.1, 1e6, NULL,
     "a task that a worker has not reported for so long goes to another", false},
    {"max-attempts", OPTION_INT, OPTION_AT(max_attempts), "N", "3", 1, 100, NULL,
     "then a task is set aside with its reason", false},
    {"max-set-aside", OPTION_NUMBER, OPTION_AT(max_set_aside), "X", "0.001", 0, 1, NULL,
     "share of tasks that may be set aside before the job counts as failed", false},
    {"commit-seconds", OPTION_NUMBER, OPTION_AT(commit_seconds), "S", "60", 0, 1e6, NULL,
     "finished work waits at most so long until it is durable", false},
    {"max-tasks-per-second", OPTION_NUMBER, OPTION_AT(max_tasks_per_second), "X", "0", 0, 1e9, NULL,
     "of one worker (0: no limit)", false},
    {"max-gaps", OPTION_INT, OPTION_AT(max_gaps), "N", "2", 1, 16, NULL,
     "cloze: most pairs made of one sentence", false},
    {0},
};

static int check_generator(const char *name, struct error *err)
{
    if (strcmp(name, "cloze") != 0)
        return error_set(err, "unknown generator '%s': this build has 'cloze'", name);
    return 0;
}

static int create_generator(const struct generate_options *options, struct generator **out,
                            struct error *err)
{
    if (check_generator(options->generator, err))
        return -1;
    struct cloze_options cloze = CLOZE_DEFAULTS;
    cloze.max_gaps_per_sentence = (uint32_t)options->max_gaps;
    *out = cloze_create(&cloze);
    return 0;
}

int generation_open(const struct generate_options *options, struct generation *out,
                    struct error *err)
{
    struct corpus_part part;
    *out = (struct generation){0};
    if (corpus_part_parse(options->part, &part, err) ||
        corpus_open(options->corpus, &out->corpus, err) ||
        create_generator(options, &out->generator, err)) {
        generation_close(out);
        return -1;
    }
    task_plan_create(out->corpus, part, STEP_CLOZE, out->generator, (uint64_t)options->seed,
                     &out->plan);
    return 0;
}

void generation_close(struct generation *generation)
{
    task_plan_release(&generation->plan);
    generator_destroy(generation->generator);
    corpus_close(generation->corpus);
    *generation = (struct generation){0};
}

// One rank's part of the job: tasks in flight, and the segment that collects their results.
struct generate_job {
    const struct generate_options *options;
    struct generation generation;
    struct group *group;
    struct fs *fs;
    char *attempt; // directory of this attempt's segments
    struct segment_writer *segment;
    unsigned segments; // committed by this rank
    uint32_t *in_flight;
    size_t in_flight_count;
    bool *restored; // rank 0: [plan.count]
    bool *restored_aside;
    uint64_t restored_pairs;
    struct run_directory run; // rank 0
};

static int submit_task(void *state, uint32_t task, struct error *err)
{
    struct generate_job *job = state;
    const struct generator_task work = {.task_id = job->generation.plan.ids[task],
                                        .corpus = job->generation.corpus,
                                        .chunk = job->generation.plan.chunks[task],
                                        .seed = (uint64_t)job->options->seed};
    job->in_flight[job->in_flight_count++] = task;
    return generator_submit(job->generation.generator, &work, err);
}

// Takes the task out of flight; what the generator reports was submitted.
static int land_task(struct generate_job *job, struct digest id, uint32_t *task, struct error *err)
{
    for (size_t i = 0; i < job->in_flight_count; i++) {
        if (digest_equal(job->generation.plan.ids[job->in_flight[i]], id)) {
            *task = job->in_flight[i];
            job->in_flight[i] = job->in_flight[--job->in_flight_count];
            return 0;
        }
    }
    return error_set(err, "generator '%s' reported a task that it was not given",
                     job->generation.generator->name);
}

static int poll_task(void *state, struct task_result *out, struct error *err)
{
    struct generate_job *job = state;
    struct generated made;
    int rc = generator_poll(job->generation.generator, &made, err);
    if (rc <= 0)
        return rc;
    *out = (struct task_result){.pairs = made.task.pairs,
                                .tokens = reflection_task_tokens(&made.task)};
    if (land_task(job, made.task.task_id, &out->task, err)) {
        rc = -1;
    } else if (made.task.outcome == TASK_SET_ASIDE) {
        out->failed = true;
        snprintf(out->reason, sizeof(out->reason), "%s", made.task.reason);
    } else if (segment_writer_add(job->segment, &made.task, made.pairs, made.task.pairs, err)) {
        rc = error_prefix(err, "generator '%s'", job->generation.generator->name);
    }
    generated_release(&made);
    return rc;
}

static int commit_segment(void *state, struct error *err)
{
    struct generate_job *job = state;
    char name[64];
    if (segment_writer_tasks(job->segment) == 0)
        return 0;
    snprintf(name, sizeof(name), "rank-%04d-%06u", group_rank(job->group), job->segments);
    if (segment_writer_commit(job->segment, job->fs, job->attempt, name, err))
        return -1;
    job->segments++;
    return 0;
}

static size_t uncommitted_bytes(void *state)
{
    const struct generate_job *job = state;
    return segment_writer_bytes(job->segment);
}

// Rank 0 records that nobody could do the task. It goes through the same writer as other results,
// in a segment of its own.
static int set_aside(void *state, uint32_t task, const char *reason, struct error *err)
{
    struct generate_job *job = state;
    char name[64];
    struct segment_writer *writer = segment_writer_create();
    const struct reflection_task row = {
        .task_id = job->generation.plan.ids[task], .outcome = TASK_SET_ASIDE, .reason = reason};
    snprintf(name, sizeof(name), "set-aside-%08u", task);
    const int rc = segment_writer_add(writer, &row, NULL, 0, err) ||
                           segment_writer_commit(writer, job->fs, job->attempt, name, err)
                       ? -1
                       : 0;
    segment_writer_destroy(writer);
    return rc;
}

static void show_progress(void *state, const struct cluster_progress *progress)
{
    struct generate_job *job = state;
    const struct coordinator_counts *counts = &progress->counts;
    const size_t finished = counts->done + counts->aside;
    const size_t new_tasks = finished - progress->done_at_start;
    const double rate = progress->seconds > 0 ? (double)new_tasks / progress->seconds : 0;
    char left[32] = "unknown";
    if (rate > 0 || finished == counts->tasks)
        clock_format_duration(rate > 0 ? (double)(counts->tasks - finished) / rate : 0, left,
                              sizeof(left));
    log_progress(
        "%zu of %zu tasks, %llu new pairs, %.1f tasks/s, %zu workers, %zu set aside, left %s",
        finished, counts->tasks, (unsigned long long)progress->pairs, rate, counts->workers,
        counts->aside, left);

    struct strbuf line = {0};
    struct json_writer w = {.out = &line};
    struct error ignored; // the metrics of one second are not worth the job
    json_begin_object(&w);
    json_key(&w, "seconds");
    json_number(&w, progress->seconds);
    json_key(&w, "tasks_done");
    json_int(&w, (int64_t)finished);
    json_key(&w, "pairs");
    json_int(&w, (int64_t)progress->pairs);
    json_key(&w, "workers");
    json_int(&w, (int64_t)counts->workers);
    json_key(&w, "retries");
    json_int(&w, (int64_t)counts->retries);
    json_end_object(&w);
    (void)run_directory_metric(&job->run, &line, &ignored);
    strbuf_release(&line);
}

static const struct reflection_task *find_row(const struct reflection_set *set, struct digest id)
{
    size_t low = 0, high = set->task_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        const int order = digest_compare(set->tasks[middle].task_id, id);
        if (order == 0)
            return &set->tasks[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

// What earlier attempts committed is not done again.
static int restore(struct generate_job *job, struct error *err)
{
    const struct task_plan *plan = &job->generation.plan;
    struct reflection_set set;
    job->restored = mem_calloc(plan->count + 1, sizeof(*job->restored));
    job->restored_aside = mem_calloc(plan->count + 1, sizeof(*job->restored_aside));
    if (reflection_set_open(job->fs, job->options->out, &set, err))
        return -1;
    size_t found = 0;
    for (size_t t = 0; t < plan->count; t++) {
        const struct reflection_task *row = find_row(&set, plan->ids[t]);
        job->restored[t] = row != NULL;
        job->restored_aside[t] = row && row->outcome == TASK_SET_ASIDE;
        job->restored_pairs += row ? row->pairs : 0;
        found += row != NULL;
    }
    if (found > 0)
        log_info("%zu of %zu tasks were done by earlier attempts", found, plan->count);
    if (found < set.task_count)
        log_warn("'%s' also holds %zu tasks of another corpus, part, generator or seed; training "
                 "takes their pairs too",
                 job->options->out, set.task_count - found);
    reflection_set_close(&set);
    return 0;
}

// Rank 0 prepares the output directory; the others learn where segments go.
static int begin_attempt(struct generate_job *job, struct error *err)
{
    int rc = 0;
    uint64_t length = 0;
    if (group_rank(job->group) == 0) {
        rc = run_directory_open(&job->run, job->options->out, true, &verb_generate, job->options,
                                err) ||
                     restore(job, err) ||
                     reflections_begin_attempt(job->fs, job->options->out, &job->attempt, err)
                 ? -1
                 : 0;
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

static int finish(struct generate_job *job, const struct cluster_progress *progress, int code,
                  struct error *err)
{
    if (group_rank(job->group) != 0)
        return code;
    log_progress_end();
    if (progress->counts.tasks == 0 && code == EXIT_FAILED) // it ended before anybody counted
        return run_directory_close(&job->run, code, err);
    const uint64_t pairs = job->restored_pairs + progress->pairs;
    log_info("%s: %zu of %zu tasks, %llu pairs, %llu of them new", job->options->out,
             progress->counts.done + progress->counts.aside, progress->counts.tasks,
             (unsigned long long)pairs, (unsigned long long)progress->pairs);
    run_directory_int(&job->run, "tasks", (int64_t)progress->counts.tasks);
    run_directory_int(&job->run, "tasks_done",
                      (int64_t)(progress->counts.done + progress->counts.aside));
    run_directory_int(&job->run, "set_aside", (int64_t)progress->counts.aside);
    run_directory_int(&job->run, "retries", (int64_t)progress->counts.retries);
    run_directory_int(&job->run, "pairs", (int64_t)pairs);
    run_directory_int(&job->run, "new_pairs", (int64_t)progress->pairs);
    run_directory_int(&job->run, "tokens", (int64_t)progress->tokens);
    return run_directory_close(&job->run, code, err);
}

static int run_cluster(struct generate_job *job, struct error *err)
{
    const struct generate_options *options = job->options;
    const struct task_runner runner = {.state = job,
                                       .window = (uint32_t)job->generation.generator->capacity,
                                       .submit = submit_task,
                                       .poll = poll_task,
                                       .commit = commit_segment,
                                       .uncommitted_bytes = uncommitted_bytes};
    const struct cluster_job cluster = {
        .plan = job->generation.plan.digest,
        .tasks = job->generation.plan.count,
        .restored = job->restored,
        .restored_aside = job->restored_aside,
        .lease_seconds = options->lease_seconds,
        .max_attempts = (int)options->max_attempts,
        .runner = &runner,
        .agent = {.plan = job->generation.plan.digest,
                  .commit_seconds = options->commit_seconds,
                  .commit_bytes = COMMIT_BYTES,
                  .max_tasks_per_second = options->max_tasks_per_second},
        .state = job,
        .set_aside = set_aside,
        .progress = show_progress};
    enum cluster_end end = CLUSTER_STOPPED;
    struct cluster_progress progress = {0};
    int code = EXIT_FAILED;
    if (cluster_run(job->group, &cluster, &end, &progress, err) == 0)
        code = judge(job, &progress, end, err);
    return finish(job, &progress, code, err);
}

static int open_everything(struct generate_job *job, struct error *err)
{
    job->fs = fs_system();
    if (group_agree(job->group, generation_open(job->options, &job->generation, err), err))
        return -1;
    job->segment = segment_writer_create();
    job->in_flight = mem_calloc(job->generation.generator->capacity + 1, sizeof(*job->in_flight));
    return begin_attempt(job, err);
}

static void close_everything(struct generate_job *job)
{
    segment_writer_destroy(job->segment);
    generation_close(&job->generation);
    free(job->attempt);
    free(job->in_flight);
    free(job->restored);
    free(job->restored_aside);
    group_close(job->group);
}

static int run_generate(const void *parsed, const struct option_list *positional, struct error *err)
{
    struct generate_job job = {.options = parsed};
    struct corpus_part part;
    int code = EXIT_FAILED;
    (void)positional;
    if (corpus_part_parse(job.options->part, &part, err) ||
        check_generator(job.options->generator, err))
        return EXIT_USAGE;
    if (group_open(&job.group, err))
        return EXIT_FAILED;
    if (open_everything(&job, err) == 0)
        code = run_cluster(&job, err);
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
                "  mpirun -np 9 memo generate --corpus corpus.h5 --out reflections/\n"
                "The same command continues an interrupted run, with any number of workers.\n",
    .options = generate_option_table,
    .options_bytes = sizeof(struct generate_options),
    .run = run_generate,
};
