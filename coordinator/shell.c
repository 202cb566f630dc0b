// SPDX-License-Identifier: Apache-2.0
#include "coordinator/shell_private.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUSY_SLEEP_MS 1  // between rounds while something happens
#define IDLE_SLEEP_MS 20 // and when nothing did for QUIET_SECONDS; no message is later by more
#define QUIET_SECONDS 0.2
#define WORK_SECONDS 0.0002  // a longer round has computed, though nothing ended: no sleep after it
#define PROGRESS_SECONDS 1.0 // between calls of the progress callback
#define CLAIM_RETRY_SECONDS 2.0 // until blocks that others hold are asked for again
#define DRAIN_SECONDS 30.0      // for the last messages to leave at the end

static int coordinate(struct shell *shell, bool *busy, struct error *err)
{
    if (shell->loop.stop_signalled && !shell->stop_told) {
        shell_tell(shell, EVENT_STOP_REQUESTED);
        shell->stop_told = true;
    }
    shell_tell(shell, EVENT_TICK);
    if (shell->job->sharing && sharing_step(&shell->sharing, shell_seconds(shell), err))
        return -1;

    struct coordinator_action action;
    while (coordinator_next_action(shell->coordinator, &action)) {
        *busy = true;
        if (shell_act(shell, &action, err))
            return -1;
    }
    for (int w = 0; w < group_size(shell->group); w++) {
        if (shell_flush_leases(shell, w, err))
            return -1;
    }
    return 0;
}

static void observe_workers(struct shell *shell)
{
    for (size_t w = 0; w < shell->workers.count; w++) {
        const struct coordinator_worker at = coordinator_worker(shell->coordinator, (int)w);
        if (at.present)
            worker_table_observe(&shell->workers, (int)w, at.held, at.silent);
    }
}

static double weight_left(const struct shell *shell)
{
    double left = 0;
    for (size_t t = 0; t < shell->job->tasks; t++) {
        if (!coordinator_is_final(shell->coordinator, (uint32_t)t))
            left += shell->job->weights ? shell->job->weights[t] : 1;
    }
    return left;
}

static void report_progress(struct shell *shell, bool last)
{
    const double now = shell_seconds(shell);
    shell->progress.counts = coordinator_counts(shell->coordinator);
    shell->progress.seconds = now;
    if (!last && now < shell->next_progress_seconds)
        return;
    shell->next_progress_seconds = now + PROGRESS_SECONDS;
    shell->progress.weight_left = weight_left(shell);
    observe_workers(shell);
    if (shell->job->progress &&
        shell->job->progress(shell->job->state, &shell->progress, &shell->workers))
        shell->loop.stop_signalled = true;
}

static int agent_count(const struct shell *shell)
{
    const int size = group_size(shell->group);
    return size == 1 ? 1 : size - 1;
}

// One round of everything this rank does; *over when its part has ended.
static int run_round(struct shell *shell, bool *busy, bool *over, struct error *err)
{
    event_loop_poll(&shell->loop);
    if (shell_receive(shell, busy, err))
        return -1;
    if (shell->coordinator) {
        if (coordinate(shell, busy, err))
            return -1;
        report_progress(shell, false);
    }
    struct error agent_err; // the agent has told the coordinator, which ends the job for everybody
    if (shell->agent && !agent_ended(shell->agent))
        (void)agent_step(shell->agent, shell_seconds(shell), busy, &agent_err);
    *over = (!shell->agent || agent_ended(shell->agent)) &&
            (!shell->coordinator ||
             (coordinator_ended(shell->coordinator) && shell->agents_left == agent_count(shell)));
    return 0;
}

// Takes one message at the end: only a goodbye still matters.
static int drain_one(struct shell *shell, bool *busy, struct error *err)
{
    struct transport_message raw;
    struct message message;
    const int rc = transport_poll(shell->transport, &raw, err);
    if (rc <= 0)
        return rc;
    *busy = true;
    if (shell->coordinator && message_decode(raw.bytes, raw.length, &message, NULL) == 0) {
        if (message.kind == MESSAGE_BYE)
            shell_note_goodbye(shell, raw.peer);
        message_release(&message);
    }
    free(raw.bytes);
    return 0;
}

// Lets posted messages leave. Workers can only leave when theirs arrive, so rank 0 takes messages
// until it has heard every goodbye.
static int drain(struct shell *shell, struct error *err)
{
    const double deadline = shell_seconds(shell) + DRAIN_SECONDS;
    const bool hears_all = shell->coordinator && group_size(shell->group) > 1;
    while (!transport_idle(shell->transport) ||
           (hears_all && shell->agents_left < agent_count(shell))) {
        bool busy = false;
        if (drain_one(shell, &busy, err))
            return -1;
        if (shell_seconds(shell) > deadline)
            return error_set(err, "the last messages did not arrive within %.0f s", DRAIN_SECONDS);
        if (!busy)
            event_loop_sleep(&shell->loop, BUSY_SLEEP_MS);
    }
    return 0;
}

static int run_rounds(struct shell *shell, struct error *err)
{
    double last_busy_seconds = 0;
    bool over = false;
    while (!over) {
        const double begin = shell_seconds(shell);
        bool busy = false;
        if (run_round(shell, &busy, &over, err))
            return -1;
        const double now = shell_seconds(shell);
        const bool quiet = now - last_busy_seconds >= QUIET_SECONDS;
        if (busy || now - begin > WORK_SECONDS)
            last_busy_seconds = now;
        else if (!over)
            event_loop_sleep(&shell->loop, quiet ? IDLE_SLEEP_MS : BUSY_SLEEP_MS);
    }
    return drain(shell, err);
}

// This rank failed outside the protocol: the others are told to end, so that nobody waits for it.
static void abandon(struct shell *shell, const char *reason)
{
    struct error ignored; // the first failure is the one to report
    if (shell->coordinator) {
        for (int w = 1; w < group_size(shell->group); w++) {
            if (!shell->left[w])
                (void)shell_post(shell, w, &(struct message){.kind = MESSAGE_STOP}, &ignored);
        }
    } else if (!shell->agent || !agent_ended(shell->agent)) {
        struct message bye = {.kind = MESSAGE_BYE, .failed = true};
        snprintf(bye.text, sizeof(bye.text), "%s", reason);
        (void)shell_post(shell, 0, &bye, &ignored);
    }
    (void)drain(shell, &ignored);
}

static void describe_plan(struct shell *shell)
{
    const struct cluster_job *job = shell->job;
    for (size_t i = 0; i < job->dependency_count; i++)
        coordinator_depend(shell->coordinator, job->dependencies[i].task,
                           job->dependencies[i].prerequisite);
    for (size_t t = 0; t < job->tasks && job->priorities; t++)
        coordinator_set_priority(shell->coordinator, (uint32_t)t, job->priorities[t]);
    if (job->sharing)
        sharing_init(&shell->sharing, job->sharing, shell->coordinator, 0);
}

static void restore_tasks(struct shell *shell)
{
    const struct cluster_job *job = shell->job;
    for (size_t t = 0; t < job->tasks; t++) {
        if (job->restored[t])
            coordinator_restore(shell->coordinator, (uint32_t)t, job->restored_aside[t]);
    }
    const struct coordinator_counts counts = coordinator_counts(shell->coordinator);
    shell->progress.done_at_start = counts.done + counts.aside;
}

static int start_roles(struct shell *shell, struct error *err)
{
    const struct cluster_job *job = shell->job;
    if (transport_open(shell->group, &shell->transport, err))
        return -1;
    if (group_rank(shell->group) == 0) {
        const struct coordinator_options options = {.tasks = job->tasks,
                                                    .expected_workers = (size_t)agent_count(shell),
                                                    .max_workers = (size_t)group_size(shell->group),
                                                    .lease_seconds = job->lease_seconds,
                                                    .late_seconds = job->late_seconds,
                                                    .claim_retry_seconds = CLAIM_RETRY_SECONDS,
                                                    .max_attempts = job->max_attempts};
        shell->coordinator = coordinator_create(&options);
        shell->batches = mem_calloc(options.max_workers, sizeof(*shell->batches));
        shell->left = mem_calloc(options.max_workers, sizeof(*shell->left));
        shell->progress.agents = options.expected_workers;
        worker_table_init(&shell->workers, options.max_workers);
        describe_plan(shell);
        restore_tasks(shell);
        if (job->attach)
            job->attach(job->state, &shell->loop.loop);
    }
    struct agent_options agent = job->agent;
    agent.lease_seconds = job->lease_seconds;
    if (group_rank(shell->group) != 0 || group_size(shell->group) == 1)
        return agent_create(shell->transport, job->runner, &agent, &shell->agent, err);
    return 0;
}

static void stop_roles(struct shell *shell)
{
    agent_destroy(shell->agent);
    coordinator_destroy(shell->coordinator);
    free(shell->batches);
    free(shell->left);
    worker_table_release(&shell->workers);
    transport_close(shell->transport);
}

// Every rank learns how it ended.
static int share_result(struct shell *shell, enum cluster_end *end,
                        struct cluster_progress *progress, struct error *err)
{
    if (shell->coordinator) {
        report_progress(shell, true);
        *end = coordinator_complete(shell->coordinator) ? CLUSTER_COMPLETE : CLUSTER_STOPPED;
        *progress = shell->progress;
    }
    return group_broadcast(shell->group, end, sizeof(*end), 0, err) ||
                   group_broadcast(shell->group, progress, sizeof(*progress), 0, err)
               ? -1
               : 0;
}

// Collective.
static int run_until_over(struct shell *shell, struct error *err)
{
    int rc = run_rounds(shell, err);
    if (rc != 0)
        abandon(shell, err->text);
    else if (shell->worker_failure[0])
        rc = error_set(err, "%s", shell->worker_failure);
    return group_agree(shell->group, rc, err);
}

int cluster_run(struct group *group, const struct cluster_job *job, enum cluster_end *end,
                struct cluster_progress *progress, struct error *err)
{
    struct shell shell = {.group = group, .job = job, .started_seconds = clock_seconds()};
    signal(SIGPIPE, SIG_IGN);
    const bool coordinates = group_rank(group) == 0;
    int rc = event_loop_init(&shell.loop, coordinates, err) || start_roles(&shell, err) ? -1 : 0;
    rc = group_agree(group, rc, err); // a rank that did not start would never say goodbye
    if (rc == 0)
        rc = run_until_over(&shell, err);
    if (rc == 0)
        rc = share_result(&shell, end, progress, err);
    stop_roles(&shell);
    event_loop_release(&shell.loop);
    return rc;
}
