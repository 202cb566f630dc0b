// SPDX-License-Identifier: Apache-2.0
#include "coordinator/agent.h"

#include "base/mem.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COORDINATOR_PEER 0
#define LEASE_AHEAD 2        // windows of tasks held: one runs, one waits
#define BURST_SECONDS 0.1    // a limited rate is made up for after a pause of at most so long
#define COMPACT_QUEUE_AT 256 // taken entries; then the queue moves to the front of its memory

struct task_numbers {
    uint32_t *items;
    size_t count;
    size_t capacity;
};

struct agent {
    struct transport *transport;
    const struct task_runner *runner;
    struct agent_options options;
    struct task_numbers held;   // leased and neither committed nor failed, in no order
    struct task_numbers leased; // not yet submitted, a queue from leased_first
    size_t leased_first;
    size_t running;
    struct task_numbers finished; // computed, not yet committed
    uint64_t pairs;               // of finished
    uint64_t tokens;
    double oldest_finished_seconds;
    double next_submit_seconds; // the rate limit
    bool commit_failed;
    bool stopping;
    bool ended;
};

static void numbers_add(struct task_numbers *numbers, uint32_t task)
{
    numbers->items =
        mem_grow(numbers->items, &numbers->capacity, numbers->count + 1, sizeof(*numbers->items));
    numbers->items[numbers->count++] = task;
}

static size_t numbers_find(const struct task_numbers *numbers, uint32_t task)
{
    size_t i = 0;
    while (i < numbers->count && numbers->items[i] != task)
        i++;
    return i;
}

static void numbers_remove(struct task_numbers *numbers, uint32_t task)
{
    const size_t i = numbers_find(numbers, task);
    if (i < numbers->count)
        numbers->items[i] = numbers->items[--numbers->count];
}

static int send_message(struct agent *agent, const struct message *message, struct error *err)
{
    struct strbuf bytes = {0};
    message_encode(message, &bytes);
    const int rc =
        transport_post(agent->transport, COORDINATOR_PEER, bytes.bytes, bytes.length, err);
    strbuf_release(&bytes);
    return rc;
}

// Tasks to ask for. With a rate limit no more than can start within half a lease, so that the last
// of them does not expire while it waits for its turn.
static uint32_t lease_window(const struct task_runner *runner, const struct agent_options *options)
{
    const uint32_t most = PROTOCOL_MAX_TASKS / LEASE_AHEAD;
    const uint32_t window = LEASE_AHEAD * (runner->window < most ? runner->window : most);
    const double startable = options->max_tasks_per_second * options->lease_seconds / 2;
    if (startable <= 0 || startable >= window)
        return window;
    return startable < 1 ? 1 : (uint32_t)startable;
}

int agent_create(struct transport *transport, const struct task_runner *runner,
                 const struct agent_options *options, struct agent **out, struct error *err)
{
    assert(runner->window > 0);
    struct agent *agent = mem_calloc(1, sizeof(*agent));
    agent->transport = transport;
    agent->runner = runner;
    agent->options = *options;
    const struct message hello = {
        .kind = MESSAGE_HELLO, .plan = options->plan, .window = lease_window(runner, options)};
    if (send_message(agent, &hello, err)) {
        agent_destroy(agent);
        return -1;
    }
    *out = agent;
    return 0;
}

void agent_destroy(struct agent *agent)
{
    if (!agent)
        return;
    free(agent->held.items);
    free(agent->leased.items);
    free(agent->finished.items);
    free(agent);
}

bool agent_ended(const struct agent *agent)
{
    return agent->ended;
}

static void accept_lease(struct agent *agent, uint32_t task)
{
    if (numbers_find(&agent->held, task) < agent->held.count)
        return;
    numbers_add(&agent->held, task);
    numbers_add(&agent->leased, task);
}

// What is neither submitted nor finished is given back at once; what runs, when it ends.
static void drop_task(struct agent *agent, uint32_t task)
{
    struct task_numbers *leased = &agent->leased;
    size_t place = agent->leased_first;
    if (numbers_find(&agent->held, task) == agent->held.count)
        return;
    while (place < leased->count && leased->items[place] != task)
        place++;
    if (place == leased->count) {
        if (agent->runner->drop && numbers_find(&agent->finished, task) == agent->finished.count)
            agent->runner->drop(agent->runner->state, task);
        return;
    }
    leased->count--;
    memmove(leased->items + place, leased->items + place + 1,
            (leased->count - place) * sizeof(*leased->items));
    numbers_remove(&agent->held, task);
}

int agent_receive(struct agent *agent, const struct message *message, struct error *err)
{
    switch (message->kind) {
    case MESSAGE_LEASE:
        for (size_t i = 0; i < message->count; i++)
            accept_lease(agent, message->tasks[i]);
        return 0;
    case MESSAGE_DROP:
        for (size_t i = 0; i < message->count; i++)
            drop_task(agent, message->tasks[i]);
        return 0;
    case MESSAGE_STOP:
        agent->stopping = true;
        return 0;
    default:
        return error_set(err, "unexpected message of kind %d from the coordinator", message->kind);
    }
}

static int say_goodbye(struct agent *agent, bool failed, const char *reason, struct error *err)
{
    struct message bye = {.kind = MESSAGE_BYE, .failed = failed};
    snprintf(bye.text, sizeof(bye.text), "%s", reason);
    agent->ended = true;
    return send_message(agent, &bye, err);
}

// Whether the rate limit lets one more task start now; takes its place when it does.
static bool rate_allows(struct agent *agent, double now_seconds)
{
    const double rate = agent->options.max_tasks_per_second;
    if (rate <= 0)
        return true;
    if (now_seconds < agent->next_submit_seconds)
        return false;
    if (agent->next_submit_seconds < now_seconds - BURST_SECONDS)
        agent->next_submit_seconds = now_seconds - BURST_SECONDS;
    agent->next_submit_seconds += 1 / rate;
    return true;
}

static void compact_queue(struct agent *agent)
{
    struct task_numbers *leased = &agent->leased;
    const size_t left = leased->count - agent->leased_first;
    if (left > 0 && agent->leased_first < COMPACT_QUEUE_AT)
        return;
    if (left > 0)
        memmove(leased->items, leased->items + agent->leased_first, left * sizeof(*leased->items));
    leased->count = left;
    agent->leased_first = 0;
}

static int submit_leased(struct agent *agent, double now_seconds, bool *busy, struct error *err)
{
    while (agent->leased_first < agent->leased.count && agent->running < agent->runner->window &&
           rate_allows(agent, now_seconds)) {
        const uint32_t task = agent->leased.items[agent->leased_first++];
        if (agent->runner->submit(agent->runner->state, task, err))
            return -1;
        agent->running++;
        *busy = true;
    }
    compact_queue(agent);
    return 0;
}

static int report_failure(struct agent *agent, const struct task_result *result, struct error *err)
{
    uint32_t task = result->task;
    struct message failed = {.kind = MESSAGE_FAILED, .tasks = &task, .count = 1};
    snprintf(failed.text, sizeof(failed.text), "%s", result->reason);
    return send_message(agent, &failed, err);
}

// Takes what the runner has finished; 1 when there was something.
static int collect_one(struct agent *agent, double now_seconds, struct error *err)
{
    struct task_result result;
    const int rc = agent->runner->poll(agent->runner->state, &result, err);
    if (rc <= 0)
        return rc;
    agent->running--;
    if (result.failed || result.dropped)
        numbers_remove(&agent->held, result.task);
    if (result.dropped)
        return 1;
    if (result.failed)
        return report_failure(agent, &result, err) ? -1 : 1;
    if (agent->finished.count == 0)
        agent->oldest_finished_seconds = now_seconds;
    numbers_add(&agent->finished, result.task);
    agent->pairs += result.pairs;
    agent->tokens += result.tokens;
    return 1;
}

// The queue is empty and only a commit brings new leases.
static bool is_starving(const struct agent *agent)
{
    return agent->leased_first == agent->leased.count &&
           (agent->running == 0 || agent->finished.count >= agent->runner->window);
}

static bool commit_is_due(const struct agent *agent, double now_seconds)
{
    return agent->finished.count > 0 &&
           (is_starving(agent) || agent->stopping || agent->finished.count >= PROTOCOL_MAX_TASKS ||
            now_seconds - agent->oldest_finished_seconds >= agent->options.commit_seconds ||
            agent->runner->uncommitted_bytes(agent->runner->state) >= agent->options.commit_bytes);
}

static void add_figures(const struct agent *agent, struct message *message)
{
    struct strbuf text = {0};
    if (!agent->runner->figures)
        return;
    agent->runner->figures(agent->runner->state, &text);
    snprintf(message->text, sizeof(message->text), "%s", text.bytes ? text.bytes : "");
    strbuf_release(&text);
}

static int commit_finished(struct agent *agent, struct error *err)
{
    const int stored = agent->runner->commit(agent->runner->state, err);
    agent->commit_failed = stored < 0;
    if (agent->commit_failed)
        return -1;
    struct message committed = {.kind = MESSAGE_COMMITTED,
                                .tasks = agent->finished.items,
                                .count = agent->finished.count,
                                .pairs = agent->pairs,
                                .tokens = agent->tokens};
    add_figures(agent, &committed);
    const int rc = stored == TASK_RUNNER_FENCED ? 0 : send_message(agent, &committed, err);
    for (size_t i = 0; i < agent->finished.count; i++)
        numbers_remove(&agent->held, agent->finished.items[i]);
    agent->finished.count = 0;
    agent->pairs = 0;
    agent->tokens = 0;
    return rc;
}

static int work(struct agent *agent, double now_seconds, bool *busy, struct error *err)
{
    if (!agent->stopping && submit_leased(agent, now_seconds, busy, err))
        return -1;
    if (agent->running > 0) {
        const int rc = collect_one(agent, now_seconds, err);
        if (rc < 0)
            return -1;
        *busy = *busy || rc > 0;
    }
    if (commit_is_due(agent, now_seconds)) {
        *busy = true;
        return commit_finished(agent, err);
    }
    return 0;
}

// What is finished is saved, unless saving it is what failed; the first failure is the one to
// report.
static void give_up(struct agent *agent, const char *reason)
{
    struct error ignored;
    if (agent->finished.count > 0 && !agent->commit_failed)
        (void)commit_finished(agent, &ignored);
    (void)say_goodbye(agent, true, reason, &ignored);
}

int agent_step(struct agent *agent, double now_seconds, bool *busy, struct error *err)
{
    if (agent->ended)
        return 0;
    if (work(agent, now_seconds, busy, err)) {
        give_up(agent, err->text);
        return -1;
    }
    if (agent->stopping && agent->finished.count == 0) {
        *busy = true;
        return say_goodbye(agent, false, "", err);
    }
    return 0;
}
