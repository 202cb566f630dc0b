// SPDX-License-Identifier: Apache-2.0
// Messages become events, actions become messages.
#include "coordinator/shell_private.h"

#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>

double shell_seconds(const struct shell *shell)
{
    return clock_seconds() - shell->started_seconds;
}

static void tell_coordinator(struct shell *shell, enum coordinator_event_kind kind, int worker,
                             uint32_t task, const char *reason, uint32_t window)
{
    const struct coordinator_event event = {.kind = kind,
                                            .now_seconds = shell_seconds(shell),
                                            .worker = worker,
                                            .window = window,
                                            .task = task,
                                            .reason = reason};
    coordinator_handle(shell->coordinator, &event);
}

void shell_tell(struct shell *shell, enum coordinator_event_kind kind)
{
    tell_coordinator(shell, kind, 0, 0, NULL, 0);
}

// The same for a task that may become final by it: only the first time counts.
static void tell_final(struct shell *shell, enum coordinator_event_kind kind, int worker,
                       uint32_t task)
{
    const struct coordinator_counts before = coordinator_counts(shell->coordinator);
    tell_coordinator(shell, kind, worker, task, NULL, 0);
    const struct coordinator_counts after = coordinator_counts(shell->coordinator);
    if (after.done + after.aside > before.done + before.aside)
        shell->progress.weight_done += shell->job->weights ? shell->job->weights[task] : 1;
}

static int welcome(struct shell *shell, int peer, const struct message *hello, struct error *err)
{
    if (!digest_equal(hello->plan, shell->job->plan))
        return error_set(err,
                         "rank %d has a different task list: all ranks must see the same corpus "
                         "file, options and build",
                         peer);
    tell_coordinator(shell, EVENT_WORKER_JOINED, peer, 0, NULL, hello->window);
    worker_table_joined(&shell->workers, peer, shell_seconds(shell));
    return 0;
}

static int check_tasks(const struct shell *shell, int peer, const struct message *message,
                       struct error *err)
{
    for (size_t i = 0; i < message->count; i++) {
        if (message->tasks[i] >= shell->job->tasks)
            return error_set(err, "rank %d reported task %u of %zu", peer, message->tasks[i],
                             shell->job->tasks);
    }
    return 0;
}

void shell_note_goodbye(struct shell *shell, int peer)
{
    shell->agents_left += !shell->left[peer];
    shell->left[peer] = true;
}

static void take_committed(struct shell *shell, int peer, const struct message *message)
{
    for (size_t i = 0; i < message->count; i++)
        tell_final(shell, EVENT_COMMITTED, peer, message->tasks[i]);
    shell->progress.pairs += message->pairs;
    shell->progress.tokens += message->tokens;
    worker_table_committed(&shell->workers, peer, shell_seconds(shell), message->count,
                           message->pairs, message->tokens);
    if (shell->job->figures && message->text[0])
        shell->job->figures(shell->job->state, message->text);
}

static void take_failed(struct shell *shell, int peer, const struct message *message)
{
    log_warn("task %u failed on rank %d: %s", message->tasks[0], peer, message->text);
    coordinator_handle(shell->coordinator,
                       &(struct coordinator_event){.kind = EVENT_FAILED,
                                                   .now_seconds = shell_seconds(shell),
                                                   .worker = peer,
                                                   .task = message->tasks[0],
                                                   .reason = message->text,
                                                   .fatal = message->fatal});
}

static int receive_from_worker(struct shell *shell, int peer, const struct message *message,
                               struct error *err)
{
    if (check_tasks(shell, peer, message, err))
        return -1;
    switch (message->kind) {
    case MESSAGE_HELLO:
        return welcome(shell, peer, message, err);
    case MESSAGE_COMMITTED:
        take_committed(shell, peer, message);
        return 0;
    case MESSAGE_FAILED:
        take_failed(shell, peer, message);
        worker_table_failed(&shell->workers, peer, shell_seconds(shell));
        return 0;
    case MESSAGE_BYE:
        if (message->failed && !shell->worker_failure[0])
            snprintf(shell->worker_failure, sizeof(shell->worker_failure), "rank %d: %s", peer,
                     message->text);
        if (message->failed)
            tell_coordinator(shell, EVENT_STOP_REQUESTED, 0, 0, NULL, 0);
        tell_coordinator(shell, EVENT_WORKER_LEFT, peer, 0, NULL, 0);
        worker_table_left(&shell->workers, peer, shell_seconds(shell), message->failed);
        shell_note_goodbye(shell, peer);
        return 0;
    default:
        return error_set(err, "unexpected message of kind %d from rank %d", message->kind, peer);
    }
}

// With one rank both roles share the peer: what an agent never sends is for the agent.
static int dispatch(struct shell *shell, const struct transport_message *raw, struct error *err)
{
    struct message message;
    if (message_decode(raw->bytes, raw->length, &message, err))
        return error_prefix(err, "from rank %d", raw->peer);
    const bool for_agent = message.kind == MESSAGE_LEASE || message.kind == MESSAGE_DROP ||
                           message.kind == MESSAGE_STOP;
    int rc;
    if (for_agent && shell->agent)
        rc = agent_receive(shell->agent, &message, err);
    else if (!for_agent && shell->coordinator)
        rc = receive_from_worker(shell, raw->peer, &message, err);
    else
        rc = error_set(err, "unexpected message of kind %d from rank %d", message.kind, raw->peer);
    message_release(&message);
    return rc;
}

int shell_receive(struct shell *shell, bool *busy, struct error *err)
{
    struct transport_message raw;
    int rc;
    while ((rc = transport_poll(shell->transport, &raw, err)) > 0) {
        *busy = true;
        const int handled = dispatch(shell, &raw, err);
        free(raw.bytes);
        if (handled)
            return -1;
    }
    return rc;
}

int shell_post(struct shell *shell, int peer, const struct message *message, struct error *err)
{
    struct strbuf bytes = {0};
    message_encode(message, &bytes);
    const int rc = transport_post(shell->transport, peer, bytes.bytes, bytes.length, err);
    strbuf_release(&bytes);
    return rc;
}

int shell_flush_leases(struct shell *shell, int worker, struct error *err)
{
    struct lease_batch *batch = &shell->batches[worker];
    const struct message lease = {
        .kind = MESSAGE_LEASE, .tasks = batch->tasks, .count = batch->count};
    if (batch->count > 0 && shell_post(shell, worker, &lease, err))
        return -1;
    batch->count = 0;
    return 0;
}

static int post_drop(struct shell *shell, const struct coordinator_action *action,
                     struct error *err)
{
    uint32_t task = action->task;
    const struct message drop = {.kind = MESSAGE_DROP, .tasks = &task, .count = 1};
    return shell_flush_leases(shell, action->worker, err) ||
                   shell_post(shell, action->worker, &drop, err)
               ? -1
               : 0;
}

static int store_set_aside(struct shell *shell, const struct coordinator_action *action,
                           struct error *err)
{
    const int rc = shell->job->set_aside(shell->job->state, action->task, action->reason, err);
    if (rc == 0)
        tell_final(shell, EVENT_SET_ASIDE_COMMITTED, 0, action->task);
    return rc < 0 ? -1 : 0; // fenced: the job is about to stop
}

int shell_act(struct shell *shell, const struct coordinator_action *action, struct error *err)
{
    struct lease_batch *batch = &shell->batches[action->worker];
    switch (action->kind) {
    case ACTION_LEASE:
        batch->tasks[batch->count++] = action->task;
        if (batch->count == sizeof(batch->tasks) / sizeof(batch->tasks[0]))
            return shell_flush_leases(shell, action->worker, err);
        return 0;
    case ACTION_SET_ASIDE:
        log_warn("task %u set aside: %s", action->task, action->reason);
        return store_set_aside(shell, action, err);
    case ACTION_DROP:
        return post_drop(shell, action, err);
    case ACTION_CLAIM:
        return sharing_claim(&shell->sharing, action->block, shell_seconds(shell), err);
    case ACTION_BACKUP:
        sharing_back_up(&shell->sharing, action->task, shell_seconds(shell));
        return 0;
    case ACTION_STOP_WORKER:
        return shell_flush_leases(shell, action->worker, err) ||
                       shell_post(shell, action->worker, &(struct message){.kind = MESSAGE_STOP},
                                  err)
                   ? -1
                   : 0;
    }
    return error_set(err, "unknown action %d", action->kind);
}
