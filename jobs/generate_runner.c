// SPDX-License-Identifier: Apache-2.0
#include "jobs/generate_runner.h"

#include "base/mem.h"
#include "coordinator/claims.h"

#include <stdio.h>
#include <stdlib.h>

#define NAME_BYTES 64

struct flying_task {
    uint32_t task;
    bool dropped;
};

struct waiting_task {
    uint32_t task;
    bool dropped;
    double since_seconds;
};

void generate_runner_open(struct generate_runner *runner)
{
    const size_t capacity = runner->generator->capacity;
    runner->segment = segment_writer_create();
    runner->in_flight = mem_calloc(capacity + 1, sizeof(*runner->in_flight));
    runner->waiting = mem_calloc(capacity + 1, sizeof(*runner->waiting));
}

void generate_runner_close(struct generate_runner *runner)
{
    segment_writer_destroy(runner->segment);
    task_figures_release(&runner->figures);
    free(runner->in_flight);
    free(runner->waiting);
}

static int submit(struct generate_runner *runner, uint32_t number, struct generator_task *work,
                  struct error *err)
{
    work->task_id = runner->plan->tasks[number].id;
    work->corpus = runner->corpus;
    work->seed = runner->seed;
    runner->in_flight[runner->in_flight_count++] = (struct flying_task){.task = number};
    return generator_submit(runner->generator, work, err);
}

// False: not all of its chunks' rows are in the index.
static bool find_members(const struct generate_runner *runner, const struct planned_task *task,
                         struct generator_member *members)
{
    for (size_t i = 0; i < task->member_count; i++) {
        const struct planned_task *member = &runner->plan->tasks[task->members[i]];
        struct indexed_task found;
        if (!reflections_index_find(runner->index, member->id, &found))
            return false;
        members[i] = (struct generator_member){
            .chunk = member->chunk, .pairs = found.pairs, .pair_count = found.task->pairs};
    }
    return true;
}

// 1: submitted, 0: the pairs of its chunks are not all there yet.
static int try_group(struct generate_runner *runner, uint32_t number, struct error *err)
{
    const struct planned_task *task = &runner->plan->tasks[number];
    struct generator_member *members = mem_calloc(task->member_count, sizeof(*members));
    int rc = 0;
    if (find_members(runner, task, members)) {
        struct generator_task work = {.members = members, .member_count = task->member_count};
        rc = submit(runner, number, &work, err) ? -1 : 1;
    }
    free(members);
    return rc;
}

static int submit_task(void *state, uint32_t number, struct error *err)
{
    struct generate_runner *runner = state;
    const struct planned_task *task = &runner->plan->tasks[number];
    if (task->member_count == 0) {
        struct generator_task work = {.chunk = task->chunk};
        return submit(runner, number, &work, err);
    }
    const int rc = try_group(runner, number, err);
    if (rc == 0)
        runner->waiting[runner->waiting_count++] =
            (struct waiting_task){.task = number, .since_seconds = runner->clock()};
    return rc < 0 ? -1 : 0;
}

static int fail_waiting(struct generate_runner *runner, size_t place, struct task_result *out)
{
    *out = (struct task_result){.task = runner->waiting[place].task, .failed = true};
    snprintf(out->reason, sizeof(out->reason),
             "the pairs of its chunks, committed by others, are not to be seen beside '%s' after "
             "%.0f s",
             runner->attempt, GENERATE_MEMBER_SECONDS);
    runner->waiting[place] = runner->waiting[--runner->waiting_count];
    return 1;
}

static int end_waiting_dropped(struct generate_runner *runner, struct task_result *out)
{
    size_t i = 0;
    while (i < runner->waiting_count && !runner->waiting[i].dropped)
        i++;
    if (i == runner->waiting_count)
        return 0;
    *out = (struct task_result){.task = runner->waiting[i].task, .dropped = true};
    runner->waiting[i] = runner->waiting[--runner->waiting_count];
    return 1;
}

// Looks for the pairs that tasks wait for; 1: one waited too long or was dropped, *out says so.
static int look_for_members(struct generate_runner *runner, struct task_result *out,
                            struct error *err)
{
    const double now = runner->clock();
    if (runner->waiting_count == 0 || now < runner->refreshed_seconds + GENERATE_REFRESH_SECONDS)
        return 0;
    if (end_waiting_dropped(runner, out))
        return 1;
    if (reflections_index_refresh(runner->index, err))
        return -1;
    runner->refreshed_seconds = runner->clock();
    for (size_t i = 0; i < runner->waiting_count;) {
        const int rc = try_group(runner, runner->waiting[i].task, err);
        if (rc < 0)
            return -1;
        if (rc > 0)
            runner->waiting[i] = runner->waiting[--runner->waiting_count];
        else if (now - runner->waiting[i].since_seconds >= GENERATE_MEMBER_SECONDS)
            return fail_waiting(runner, i, out);
        else
            i++;
    }
    return 0;
}

// Takes the task out of flight; what the generator reports was submitted.
static int land_task(struct generate_runner *runner, struct digest id, struct task_result *out,
                     struct error *err)
{
    for (size_t i = 0; i < runner->in_flight_count; i++) {
        const struct flying_task flying = runner->in_flight[i];
        if (digest_equal(runner->plan->tasks[flying.task].id, id)) {
            out->task = flying.task;
            out->dropped = flying.dropped;
            runner->in_flight[i] = runner->in_flight[--runner->in_flight_count];
            return 0;
        }
    }
    return error_set(err, "generator '%s' reported a task that it was not given",
                     runner->generator->name);
}

static int keep(struct generate_runner *runner, const struct generated *made,
                struct task_result *out, struct error *err)
{
    *out = (struct task_result){.pairs = made->task.pairs,
                                .tokens = reflection_task_tokens(&made->task)};
    if (land_task(runner, made->task.task_id, out, err))
        return -1;
    if (out->dropped)
        return 0;
    if (made->task.outcome == TASK_SET_ASIDE) {
        out->failed = true;
        snprintf(out->reason, sizeof(out->reason), "%s", made->task.reason);
        return 0;
    }
    if (segment_writer_add(runner->segment, &made->task, made->pairs, made->task.pairs, err))
        return error_prefix(err, "generator '%s'", runner->generator->name);
    task_figures_add(&runner->figures, &made->task);
    return 0;
}

static int poll_task(void *state, struct task_result *out, struct error *err)
{
    struct generate_runner *runner = state;
    struct generated made;
    int rc = look_for_members(runner, out, err);
    if (rc == 0)
        rc = generator_poll(runner->generator, &made, err);
    else
        return rc;
    if (rc <= 0)
        return rc;
    rc = keep(runner, &made, out, err) ? -1 : 1;
    generated_release(&made);
    return rc;
}

static void drop_task(void *state, uint32_t task)
{
    struct generate_runner *runner = state;
    for (size_t i = 0; i < runner->in_flight_count; i++)
        runner->in_flight[i].dropped |= runner->in_flight[i].task == task;
    for (size_t i = 0; i < runner->waiting_count; i++)
        runner->waiting[i].dropped |= runner->waiting[i].task == task;
}

// Whether other jobs took this one for dead and its tasks over: TASK_RUNNER_FENCED, 0 or -1.
static int look_at_fence(const struct generate_runner *runner, struct error *err)
{
    const int over =
        runner->owner_path ? claims_owner_is_over(runner->fs, runner->owner_path, err) : 0;
    return over > 0 ? TASK_RUNNER_FENCED : over;
}

static int commit_segment(void *state, struct error *err)
{
    struct generate_runner *runner = state;
    char name[NAME_BYTES];
    if (segment_writer_tasks(runner->segment) == 0)
        return 0;
    const int fenced = look_at_fence(runner, err);
    if (fenced > 0) {
        segment_writer_destroy(runner->segment);
        runner->segment = segment_writer_create();
    }
    if (fenced != 0)
        return fenced;
    snprintf(name, sizeof(name), "rank-%04d-%06u", runner->rank, runner->segments);
    if (segment_writer_commit(runner->segment, runner->fs, runner->attempt, name, err))
        return -1;
    runner->segments++;
    return 0;
}

static size_t uncommitted_bytes(void *state)
{
    const struct generate_runner *runner = state;
    return segment_writer_bytes(runner->segment);
}

static void tell_figures(void *state, struct strbuf *out)
{
    struct generate_runner *runner = state;
    task_figures_take(&runner->figures, PROTOCOL_MAX_TEXT - 1, out);
}

struct task_runner generate_runner_interface(struct generate_runner *runner)
{
    return (struct task_runner){.state = runner,
                                .window = (uint32_t)runner->generator->capacity,
                                .submit = submit_task,
                                .poll = poll_task,
                                .commit = commit_segment,
                                .drop = drop_task,
                                .uncommitted_bytes = uncommitted_bytes,
                                .figures = tell_figures};
}

int generate_runner_set_aside(const struct generate_runner *runner, uint32_t task,
                              const char *reason, struct error *err)
{
    char name[NAME_BYTES];
    const int fenced = look_at_fence(runner, err);
    if (fenced != 0)
        return fenced;
    struct segment_writer *writer = segment_writer_create();
    const struct reflection_task row = {
        .task_id = runner->plan->tasks[task].id, .outcome = TASK_SET_ASIDE, .reason = reason};
    snprintf(name, sizeof(name), "set-aside-%08u", task);
    const int rc = segment_writer_add(writer, &row, NULL, 0, err) ||
                           segment_writer_commit(writer, runner->fs, runner->attempt, name, err)
                       ? -1
                       : 0;
    segment_writer_destroy(writer);
    return rc;
}
