// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/model.h"

#include "base/mem.h"
#include "coordinator/claims.h"

#include <math.h>
#include <stdlib.h>

static struct model_task *model_task(struct sim_job *job, uint32_t task)
{
    return &job->head.tasks[task];
}

static uint32_t block_of(const struct sim_world *world, uint32_t task)
{
    return task / world->shape.block_tasks;
}

static bool is_owned(const struct sim_job *job, uint32_t task)
{
    return !job->claims || job->head.owned[block_of(job->world, task)];
}

static bool is_final(const struct model_task *task)
{
    return task->state == MODEL_DONE || task->state == MODEL_ASIDE;
}

static bool is_late(const struct model_task *task)
{
    return task->state == MODEL_HELD && task->leases[0].held != task->leases[1].held &&
           (task->leases[0].held ? task->leases[0].late : task->leases[1].late);
}

static void end_lease(struct sim_job *job, struct model_lease *lease)
{
    if (lease->held)
        job->head.workers[lease->worker].held--;
    lease->held = false;
}

// Takes the task out of the sums of its state.
static void leave_state(struct sim_job *job, uint32_t task)
{
    struct model_task *t = model_task(job, task);
    struct sim_head *head = &job->head;
    head->late_tasks -= is_late(t);
    if (t->state == MODEL_HELD) {
        end_lease(job, &t->leases[0]);
        end_lease(job, &t->leases[1]);
        head->counts.leased--;
    }
    head->counts.waiting -= t->state == MODEL_WAITING;
    if (t->state == MODEL_FREE) {
        head->free_tasks--;
        head->free_of[sim_task_priority(job->world, task)]--;
    }
}

static void make_free(struct sim_job *job, uint32_t task)
{
    model_task(job, task)->state = MODEL_FREE;
    job->head.free_tasks++;
    job->head.free_of[sim_task_priority(job->world, task)]++;
}

static void make_ready(struct sim_job *job, uint32_t task)
{
    if (is_owned(job, task))
        make_free(job, task);
    else
        model_task(job, task)->state = MODEL_CLOSED;
}

static void release_dependents(struct sim_job *job, uint32_t task)
{
    const struct sim_world *world = job->world;
    for (uint32_t i = world->dependent_offsets[task]; i < world->dependent_offsets[task + 1]; i++) {
        struct model_task *t = model_task(job, world->dependents[i]);
        if (--t->waits_for > 0 || t->state != MODEL_WAITING)
            continue;
        job->head.counts.waiting--;
        make_ready(job, world->dependents[i]);
    }
}

// False: it was final already.
static bool finish(struct sim_job *job, uint32_t task, bool aside)
{
    struct model_task *t = model_task(job, task);
    if (is_final(t))
        return false;
    leave_state(job, task);
    t->state = aside ? MODEL_ASIDE : MODEL_DONE;
    job->head.counts.done += !aside;
    job->head.counts.aside += aside;
    release_dependents(job, task);
    return true;
}

static void give_back(struct sim_job *job, uint32_t task, struct model_lease *lease, bool counts)
{
    struct model_task *t = model_task(job, task);
    job->head.late_tasks -= is_late(t);
    end_lease(job, lease);
    t->attempts += counts && !t->backup;
    t->backup_failed |= counts && t->backup;
    job->head.counts.retries += counts;
    job->head.late_tasks += is_late(t);
    if (t->leases[0].held || t->leases[1].held)
        return;
    leave_state(job, task);
    if (t->attempts < job->world->shape.max_attempts)
        make_ready(job, task);
    else
        t->state = MODEL_SPENT;
}

static struct model_lease *find_lease(struct model_task *task, int worker)
{
    for (int i = 0; i < 2; i++) {
        if (task->state == MODEL_HELD && task->leases[i].held && task->leases[i].worker == worker)
            return &task->leases[i];
    }
    return NULL;
}

static void leave(struct sim_job *job, int worker, bool lost)
{
    struct model_worker *w = &job->head.workers[worker];
    if (!w->present)
        return;
    for (uint32_t t = 0; t < job->world->shape.tasks && w->held > 0; t++) {
        struct model_lease *lease = find_lease(model_task(job, t), worker);
        if (lease)
            give_back(job, t, lease, lost);
    }
    w->present = w->silent = w->stopped = false;
    job->head.counts.workers--;
}

static void ring(struct sim_job *job, uint32_t task, struct model_lease *lease, double now)
{
    struct model_worker *w = &job->head.workers[lease->worker];
    if (!lease->late && lease->late_seconds <= now) {
        job->head.late_tasks -= is_late(model_task(job, task));
        lease->late = true;
        job->head.late_tasks += is_late(model_task(job, task));
        if (lease->deadline_seconds > now)
            w->limit = w->limit > 1 ? w->limit / 2 : 1;
    }
    if (lease->deadline_seconds > now)
        return;
    sim_tell_story(job->world, "the lease of task %u by worker %d.%d expires", task, job->number,
                   lease->worker);
    w->silent = true;
    give_back(job, task, lease, true);
}

static double next_alarm(const struct model_lease *lease)
{
    if (!lease->held)
        return INFINITY;
    return lease->late ? lease->deadline_seconds : lease->late_seconds;
}

static void ring_alarms(struct sim_job *job, double now)
{
    if (job->head.next_alarm_seconds > now)
        return;
    job->head.next_alarm_seconds = INFINITY;
    for (uint32_t t = 0; t < job->world->shape.tasks; t++) {
        struct model_task *task = model_task(job, t);
        for (int i = 0; i < 2; i++) {
            if (task->state == MODEL_HELD && next_alarm(&task->leases[i]) <= now)
                ring(job, t, &task->leases[i], now);
            if (task->state == MODEL_HELD)
                job->head.next_alarm_seconds =
                    fmin(job->head.next_alarm_seconds, next_alarm(&task->leases[i]));
        }
    }
}

static void hear_from(struct model_worker *w)
{
    w->silent = false;
    if (w->present && w->limit < w->window)
        w->limit++;
}

static bool counts(const struct sim_job *job)
{
    struct sim_client observer = {.disk = job->world->disk};
    struct error err;
    sim_client_init(&observer);
    return claims_owner_is_over(&observer.fs, job->owner_path, &err) == 0;
}

// Of those who believe that a block is theirs one counts at most: the others were paused, and will
// find out before they commit.
static void win_block(struct sim_job *job, uint32_t block)
{
    struct sim_world *world = job->world;
    for (size_t j = 0; j < world->shape.jobs; j++) {
        const struct sim_job *other = &world->jobs[j];
        if (other != job && other->state == SIM_JOB_RUNNING && other->head.machine &&
            other->head.owned[block] && counts(other) && counts(job))
            sim_broken(world, "job %d claims block %u, which job %d holds", job->number, block,
                       other->number);
    }
    sim_tell_story(world, "job %d claims block %u", job->number, block);
    job->head.owned[block] = true;
    const uint32_t first = block * world->shape.block_tasks;
    for (uint32_t t = first; t < first + world->shape.block_tasks && t < world->shape.tasks; t++) {
        model_task(job, t)->backup = model_task(job, t)->backup_failed = false;
        if (model_task(job, t)->state == MODEL_CLOSED)
            make_ready(job, t);
    }
}

void model_ask_backup(struct sim_job *job, uint32_t task)
{
    const struct sim_head *head = &job->head;
    const struct model_task *t = model_task(job, task);
    const double idle = sim_now(job) - head->own_work_seconds;
    if (head->stopping || head->free_tasks > 0 || is_owned(job, task) || t->state != MODEL_CLOSED ||
        t->backup_failed)
        sim_broken(job->world, "job %d asks for the backup of task %u without need", job->number,
                   task);
    if (job->world->shape.late_seconds <= 0 || idle < job->world->shape.late_seconds)
        sim_broken(job->world, "job %d asks for the backup of task %u after %g s", job->number,
                   task, idle);
}

static void win_backup(struct sim_job *job, uint32_t task)
{
    struct sim_world *world = job->world;
    struct model_task *t = model_task(job, task);
    for (size_t j = 0; j < world->shape.jobs; j++) {
        const struct sim_job *other = &world->jobs[j];
        if (other != job && other->state == SIM_JOB_RUNNING && other->head.machine &&
            other->head.tasks[task].backup_ours && counts(other) && counts(job))
            sim_broken(world, "job %d backs task %u up, which job %d does", job->number, task,
                       other->number);
    }
    sim_tell_story(world, "job %d backs task %u up", job->number, task);
    world->stats.backups++;
    t->backup_ours = true;
    if (t->state != MODEL_CLOSED)
        return;
    t->backup = true;
    make_free(job, task);
}

static void handle_worker(struct sim_job *job, const struct coordinator_event *event)
{
    struct sim_head *head = &job->head;
    struct model_worker *w = &head->workers[event->worker];
    struct model_lease *lease;
    switch (event->kind) {
    case EVENT_WORKER_JOINED:
        leave(job, event->worker, true);
        w->present = true;
        w->window = w->limit = event->window;
        head->counts.workers++;
        break;
    case EVENT_WORKER_LEFT:
    case EVENT_WORKER_LOST:
        leave(job, event->worker, event->kind == EVENT_WORKER_LOST);
        break;
    case EVENT_COMMITTED:
        hear_from(w);
        if (!model_task(job, event->task)->backup)
            head->own_work_seconds = sim_now(job);
        head->counts.computed++;
        head->counts.late_results += !finish(job, event->task, false);
        break;
    default:
        hear_from(w);
        lease = find_lease(model_task(job, event->task), event->worker);
        if (lease)
            give_back(job, event->task, lease, true);
        break;
    }
}

void model_handle(struct sim_job *job, const struct coordinator_event *event)
{
    struct sim_head *head = &job->head;
    switch (event->kind) {
    case EVENT_SET_ASIDE_COMMITTED:
        head->counts.late_results += !finish(job, event->task, true);
        break;
    case EVENT_FOUND:
        head->counts.elsewhere += finish(job, event->task, event->set_aside);
        break;
    case EVENT_CLAIM_WON:
        win_block(job, event->block);
        break;
    case EVENT_STOP_REQUESTED:
        head->stopping = true;
        break;
    case EVENT_BACKUP_WON:
        win_backup(job, event->task);
        break;
    case EVENT_BACKUP_REFUSED:
    case EVENT_CLAIM_REFUSED:
    case EVENT_JOBS:
    case EVENT_TICK:
        break;
    default:
        handle_worker(job, event);
        break;
    }
    ring_alarms(job, event->now_seconds);
}

static void check_count(struct sim_job *job, const char *what, size_t machine, size_t model)
{
    if (machine != model)
        sim_broken(job->world, "the coordinator of job %d counts %zu %s, the model %zu",
                   job->number, machine, what, model);
}

void model_check_counts(struct sim_job *job)
{
    const struct coordinator_counts machine = job->world->machine->counts(job->head.machine);
    const struct coordinator_counts *model = &job->head.counts;
    check_count(job, "tasks done", machine.done, model->done);
    check_count(job, "tasks set aside", machine.aside, model->aside);
    check_count(job, "waiting tasks", machine.waiting, model->waiting);
    check_count(job, "leased tasks", machine.leased, model->leased);
    check_count(job, "workers", machine.workers, model->workers);
    check_count(job, "retries", machine.retries, model->retries);
    check_count(job, "late results", machine.late_results, model->late_results);
    check_count(job, "second leases", machine.second_leases, model->second_leases);
    check_count(job, "backups", machine.backups, model->backups);
    check_count(job, "results", machine.computed, model->computed);
    check_count(job, "tasks done elsewhere", machine.elsewhere, model->elsewhere);
}

static void check_lease(struct sim_job *job, const struct coordinator_action *action)
{
    struct sim_head *head = &job->head;
    struct sim_world *world = job->world;
    const struct sim_shape *shape = &world->shape;
    const struct model_worker *w = &head->workers[action->worker];
    struct model_task *t = model_task(job, action->task);
    const double now = sim_now(job);
    if (head->stopping)
        sim_broken(world, "task %u is leased after the stop", action->task);
    if (action->second ? !is_late(t) || head->free_tasks > 0 : t->state != MODEL_FREE)
        sim_broken(world, "task %u is leased to worker %d.%d, but it is not %s", action->task,
                   job->number, action->worker, action->second ? "late" : "free");
    if (find_lease(t, action->worker))
        sim_broken(world, "task %u is leased to worker %d.%d twice", action->task, job->number,
                   action->worker);
    for (uint32_t p = sim_task_priority(world, action->task) + 1; p < SIM_PRIORITIES; p++) {
        if (head->free_of[p] > 0)
            sim_broken(world, "task %u is leased before %zu tasks of higher priority", action->task,
                       head->free_of[p]);
    }
    if (!w->present || w->held >= (w->silent ? 1 : w->limit))
        sim_broken(world, "worker %d.%d gets task %u: it is %s", job->number, action->worker,
                   action->task, w->present ? "full" : "not there");
    if (fabs(action->deadline_seconds - now - shape->lease_seconds) > 1e-6 ||
        action->late_seconds > action->deadline_seconds ||
        action->late_seconds < now + fmin(shape->late_seconds, shape->lease_seconds))
        sim_broken(world, "the lease of task %u is late after %g s and ends after %g s",
                   action->task, action->late_seconds - now, action->deadline_seconds - now);
    sim_check_prerequisites(world, action->task);
}

void model_lease_task(struct sim_job *job, const struct coordinator_action *action)
{
    struct sim_head *head = &job->head;
    struct model_task *t = model_task(job, action->task);
    check_lease(job, action);
    if (job->world->broken)
        return;
    if (t->backup)
        head->counts.backups++;
    else
        head->own_work_seconds = sim_now(job);
    if (action->second) {
        head->counts.second_leases++;
        head->late_tasks--;
    } else {
        leave_state(job, action->task);
        t->state = MODEL_HELD;
        head->counts.leased++;
    }
    t->leases[t->leases[0].held] =
        (struct model_lease){.held = true,
                             .worker = action->worker,
                             .late_seconds = action->late_seconds,
                             .deadline_seconds = action->deadline_seconds};
    head->next_alarm_seconds = fmin(head->next_alarm_seconds, action->late_seconds);
    head->workers[action->worker].held++;
}

void model_set_aside(struct sim_job *job, uint32_t task)
{
    struct model_task *t = model_task(job, task);
    if (t->state != MODEL_SPENT || t->aside_sent)
        sim_broken(job->world, "task %u is set aside after %d attempts", task, t->attempts);
    t->aside_sent = true;
}

void model_drop(struct sim_job *job, const struct coordinator_action *action)
{
    if (!is_final(model_task(job, action->task)))
        sim_broken(job->world, "worker %d.%d is to drop task %u, which is not final", job->number,
                   action->worker, action->task);
}

void model_stop_worker(struct sim_job *job, int worker)
{
    struct model_worker *w = &job->head.workers[worker];
    if (!w->present || w->stopped)
        sim_broken(job->world, "worker %d.%d is told to stop: it is not there or was told",
                   job->number, worker);
    w->stopped = true;
    w->stopped_seconds = job->world->now_seconds;
}

void model_check_idle(struct sim_job *job)
{
    const struct sim_head *head = &job->head;
    size_t answering = 0, known = 0;
    if (head->stopping || head->free_tasks == 0)
        return;
    for (size_t w = 0; w < job->worker_count; w++) {
        answering += head->workers[w].present && !head->workers[w].silent;
        known += head->workers[w].incarnation > 0;
    }
    const size_t expected = job->world->shape.expected_workers;
    const size_t sharers = answering + (expected > known ? expected - known : 0);
    for (size_t w = 0; w < job->worker_count && answering > 0; w++) {
        const struct model_worker *worker = &head->workers[w];
        const size_t share = (head->free_tasks + head->counts.leased + sharers - 1) / sharers;
        if (worker->present && !worker->silent && worker->held < worker->limit &&
            worker->held < share)
            sim_broken(job->world, "worker %d.%zu holds %u tasks while %zu wait", job->number, w,
                       worker->held, head->free_tasks);
    }
}

static void start_task(struct sim_job *job, uint32_t task)
{
    struct model_task *t = model_task(job, task);
    t->waits_for = job->world->prerequisite_counts[task];
    if (t->waits_for == 0) {
        make_ready(job, task);
        return;
    }
    t->state = MODEL_WAITING;
    job->head.counts.waiting++;
}

void model_start(struct sim_job *job)
{
    const struct sim_shape *shape = &job->world->shape;
    job->head.tasks = mem_calloc(shape->tasks, sizeof(*job->head.tasks));
    job->head.workers = mem_calloc(job->worker_count, sizeof(*job->head.workers));
    job->head.owned = mem_calloc(job->world->block_count + 1, sizeof(*job->head.owned));
    job->head.next_alarm_seconds = INFINITY;
    job->head.own_work_seconds = -INFINITY;
    for (uint32_t t = 0; t < shape->tasks; t++)
        start_task(job, t);
}

void model_restore(struct sim_job *job, uint32_t task, bool aside)
{
    (void)finish(job, task, aside);
}
