// SPDX-License-Identifier: Apache-2.0
// The state machine as it is, and the same behind wrappers with planted bugs, which the checks of
// the simulator must find.
#include "base/mem.h"
#include "tests/sim/sim.h"

#include <stdlib.h>

struct wrapped {
    struct coordinator *inner;
    size_t extra_done;
    struct coordinator_action last_lease;
    size_t leases;
    uint32_t asked_block;
};

static void *create(const struct coordinator_options *options)
{
    struct wrapped *w = mem_calloc(1, sizeof(*w));
    w->inner = coordinator_create(options);
    return w;
}

static struct coordinator *inner(void *machine)
{
    struct wrapped *w = machine;
    return w->inner;
}

static void destroy(void *machine)
{
    struct wrapped *w = machine;
    coordinator_destroy(w->inner);
    free(w);
}

static void depend(void *machine, uint32_t task, uint32_t prerequisite)
{
    struct wrapped *w = machine;
    coordinator_depend(w->inner, task, prerequisite);
}

static void set_priority(void *machine, uint32_t task, uint32_t priority)
{
    struct wrapped *w = machine;
    coordinator_set_priority(w->inner, task, priority);
}

static void restore(void *machine, uint32_t task, bool set_aside)
{
    struct wrapped *w = machine;
    coordinator_restore(w->inner, task, set_aside);
}

static void handle(void *machine, const struct coordinator_event *event)
{
    struct wrapped *w = machine;
    coordinator_handle(w->inner, event);
}

static bool next_action(void *machine, struct coordinator_action *out)
{
    struct wrapped *w = machine;
    return coordinator_next_action(w->inner, out);
}

static bool ended(const void *machine)
{
    const struct wrapped *w = machine;
    return coordinator_ended(w->inner);
}

static bool complete(const void *machine)
{
    const struct wrapped *w = machine;
    return coordinator_complete(w->inner);
}

static struct coordinator_counts counts(const void *machine)
{
    const struct wrapped *w = machine;
    struct coordinator_counts c = coordinator_counts(w->inner);
    c.done += w->extra_done;
    c.late_results -= w->extra_done;
    return c;
}

static void handle_counting_late_results(void *machine, const struct coordinator_event *event)
{
    struct wrapped *w = machine;
    const size_t before = coordinator_counts(w->inner).late_results;
    coordinator_handle(w->inner, event);
    if (event->kind == EVENT_COMMITTED)
        w->extra_done += coordinator_counts(w->inner).late_results - before;
}

static void handle_without_time(void *machine, const struct coordinator_event *event)
{
    struct coordinator_event still = *event;
    still.now_seconds = 0;
    handle(machine, &still);
}

static void handle_failure_as_result(void *machine, const struct coordinator_event *event)
{
    struct coordinator_event changed = *event;
    if (event->kind == EVENT_FAILED)
        changed.kind = EVENT_COMMITTED;
    handle(machine, &changed);
}

static void handle_loss_as_nothing(void *machine, const struct coordinator_event *event)
{
    struct coordinator_event changed = *event;
    if (event->kind == EVENT_WORKER_LOST)
        changed.kind = EVENT_TICK;
    handle(machine, &changed);
}

static void handle_leave_as_loss(void *machine, const struct coordinator_event *event)
{
    struct coordinator_event changed = *event;
    if (event->kind == EVENT_WORKER_LEFT)
        changed.kind = EVENT_WORKER_LOST;
    handle(machine, &changed);
}

static void handle_stop_as_nothing(void *machine, const struct coordinator_event *event)
{
    struct coordinator_event changed = *event;
    if (event->kind == EVENT_STOP_REQUESTED)
        changed.kind = EVENT_TICK;
    handle(machine, &changed);
}

static void handle_refused_backup_as_won(void *machine, const struct coordinator_event *event)
{
    struct coordinator_event changed = *event;
    if (event->kind == EVENT_BACKUP_REFUSED)
        changed.kind = EVENT_BACKUP_WON;
    handle(machine, &changed);
}

// A block whose task is backed up is taken for this job's.
static void handle_backup_as_block(void *machine, const struct coordinator_event *event)
{
    struct coordinator_event changed = *event;
    struct wrapped *w = machine;
    if (event->kind == EVENT_BACKUP_WON) {
        changed.kind = EVENT_CLAIM_WON;
        changed.block = w->asked_block;
    }
    if (event->kind == EVENT_CLAIM_REFUSED)
        w->asked_block = event->block;
    handle(machine, &changed);
}

static void handle_wider_windows(void *machine, const struct coordinator_event *event)
{
    struct coordinator_event changed = *event;
    if (event->kind == EVENT_WORKER_JOINED)
        changed.window++;
    handle(machine, &changed);
}

static void restore_nothing(void *machine, uint32_t task, bool set_aside)
{
    (void)machine;
    (void)task;
    (void)set_aside;
}

static void depend_on_few(void *machine, uint32_t task, uint32_t prerequisite)
{
    if (prerequisite % 5 != 0)
        depend(machine, task, prerequisite);
}

static void depend_on_one_more(void *machine, uint32_t task, uint32_t prerequisite)
{
    depend(machine, task, prerequisite);
    if (prerequisite > 0)
        depend(machine, task, prerequisite - 1);
}

static void set_priority_upside_down(void *machine, uint32_t task, uint32_t priority)
{
    set_priority(machine, task, UINT32_MAX - priority);
}

static void *create_impatient(const struct coordinator_options *options)
{
    struct coordinator_options fewer = *options;
    fewer.max_attempts = options->max_attempts > 1 ? options->max_attempts - 1 : 1;
    return create(&fewer);
}

static bool next_action_leasing_twice(void *machine, struct coordinator_action *out)
{
    struct wrapped *w = machine;
    if (w->leases % 7 == 6) {
        w->leases++;
        *out = w->last_lease;
        return true;
    }
    if (!coordinator_next_action(w->inner, out))
        return false;
    if (out->kind == ACTION_LEASE) {
        w->leases++;
        w->last_lease = *out;
    }
    return true;
}

// Never says that a task is to be set aside.
static bool next_action_without_set_aside(void *machine, struct coordinator_action *out)
{
    struct wrapped *w = machine;
    while (coordinator_next_action(w->inner, out)) {
        if (out->kind != ACTION_SET_ASIDE)
            return true;
    }
    return false;
}

// Keeps every third lease to itself: counted, and held by nobody.
// Forgets the fifth lease, once.
static bool next_action_forgetting(void *machine, struct coordinator_action *out)
{
    struct wrapped *w = machine;
    while (coordinator_next_action(w->inner, out)) {
        if (out->kind != ACTION_LEASE || ++w->leases != 5)
            return true;
    }
    return false;
}

static bool next_action_hiding_leases(void *machine, struct coordinator_action *out)
{
    struct wrapped *w = machine;
    while (coordinator_next_action(w->inner, out)) {
        if (out->kind != ACTION_LEASE || w->leases++ % 3 != 2)
            return true;
    }
    return false;
}

#define HONEST                                                                                     \
    .create = create, .inner = inner, .destroy = destroy, .depend = depend,                        \
    .set_priority = set_priority, .restore = restore, .handle = handle,                            \
    .next_action = next_action, .ended = ended, .complete = complete, .counts = counts

const struct sim_machine sim_real_machine = {.name = "the real one", HONEST};

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
const struct sim_machine sim_planted_bugs[] = {
    {.name = "accepts a result twice", HONEST, .handle = handle_counting_late_results},
    {.name = "never lets a lease expire", HONEST, .handle = handle_without_time},
    {.name = "takes a failure for a result", HONEST, .handle = handle_failure_as_result},
    {.name = "ignores that a worker was lost", HONEST, .handle = handle_loss_as_nothing},
    {.name = "counts a graceful leave as a loss", HONEST, .handle = handle_leave_as_loss},
    {.name = "ignores a stop", HONEST, .handle = handle_stop_as_nothing},
    {.name = "leases beyond the window", HONEST, .handle = handle_wider_windows},
    {.name = "forgets what it restored", HONEST, .restore = restore_nothing},
    {.name = "forgets a prerequisite", HONEST, .depend = depend_on_few},
    {.name = "waits for too much", HONEST, .depend = depend_on_one_more},
    {.name = "leases the least important first", HONEST, .set_priority = set_priority_upside_down},
    {.name = "sets aside one attempt early", HONEST, .create = create_impatient},
    {.name = "leases a task twice", HONEST, .next_action = next_action_leasing_twice},
    {.name = "never sets aside", HONEST, .next_action = next_action_without_set_aside},
    {.name = "forgets one lease", HONEST, .next_action = next_action_forgetting},
    {.name = "skips the sync of a directory", HONEST, .skips_directory_sync = true},
    {.name = "takes over a live claim", HONEST, .takes_live_claims = true},
    {.name = "mixes two executions of a task", HONEST, .mixes_executions = true},
    {.name = "backs up what another job does", HONEST, .handle = handle_refused_backup_as_won},
    {.name = "takes a backup for a block", HONEST, .handle = handle_backup_as_block},
    {.name = "removes claims that count", HONEST, .cleans_up_early = true},
    {.name = "holds leases of nobody", HONEST, .next_action = next_action_hiding_leases},
};
#pragma GCC diagnostic pop
const size_t sim_planted_bug_count = sizeof(sim_planted_bugs) / sizeof(sim_planted_bugs[0]);
