// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/flights.h"

#include "base/mem.h"
#include "worker/supervisor/engine_message.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void release(struct flight *flight)
{
    strbuf_release(&flight->frame);
    free(flight->problem);
}

void flights_release(struct flights *flights)
{
    for (size_t i = 0; i < flights->count; i++)
        release(&flights->items[i]);
    for (size_t i = 0; i < flights->culprit_count; i++)
        free(flights->culprits[i].problem);
    free(flights->items);
    free(flights->culprits);
    *flights = (struct flights){0};
}

static void end_flight(struct flight *flight, enum lm_end end, char *problem)
{
    free(flight->problem);
    flight->problem = problem;
    flight->end = end;
    strbuf_release(&flight->frame);
}

static const char *known_problem(const struct flights *flights, uint64_t task)
{
    for (size_t i = 0; task != 0 && i < flights->culprit_count; i++) {
        if (flights->culprits[i].task == task)
            return flights->culprits[i].problem;
    }
    return NULL;
}

void flights_add(struct flights *flights, const struct lm_request *request)
{
    flights->items =
        mem_grow(flights->items, &flights->capacity, flights->count + 1, sizeof(*flights->items));
    struct flight *flight = &flights->items[flights->count++];
    struct engine_message message = {.kind = ENGINE_SUBMIT, .submit = *request};
    *flight = (struct flight){
        .sequence = flights->next_sequence++, .id = request->id, .task = request->task};
    const char *problem = known_problem(flights, request->task);
    const size_t bytes = engine_submit_bytes(request);
    if (problem) {
        end_flight(flight, LM_FATAL, mem_strdup(problem));
    } else if (bytes > ENGINE_BODY_LIMIT) {
        end_flight(
            flight, LM_REJECTED,
            mem_printf("the request has %zu bytes, more than %zu", bytes, ENGINE_BODY_LIMIT));
    } else {
        message.submit.id = flight->sequence;
        engine_message_encode(&message, &flight->frame);
    }
}

void flights_remove(struct flights *flights, size_t at)
{
    assert(at < flights->count);
    flights->sent -= flights->items[at].sent;
    release(&flights->items[at]);
    flights->count--;
    memmove(flights->items + at, flights->items + at + 1,
            (flights->count - at) * sizeof(*flights->items));
}

size_t flights_find(const struct flights *flights, uint64_t sequence)
{
    for (size_t i = 0; i < flights->count; i++) {
        if (flights->items[i].sequence == sequence)
            return i;
    }
    return SIZE_MAX;
}

size_t flights_ended(const struct flights *flights)
{
    for (size_t i = 0; i < flights->count; i++) {
        if (flights->items[i].problem)
            return i;
    }
    return SIZE_MAX;
}

// The first of those with the fewest lone deaths: what may be innocent is soon cleared, and chance
// does not hit the same one again and again.
static size_t next_suspect(const struct flights *flights)
{
    size_t found = SIZE_MAX;
    for (size_t i = 0; i < flights->count; i++) {
        const struct flight *flight = &flights->items[i];
        if (flight->deaths >= DEATHS_OF_SUSPECT && !flight->problem &&
            (found == SIZE_MAX || flight->lone_deaths < flights->items[found].lone_deaths))
            found = i;
    }
    return found;
}

size_t flights_next(const struct flights *flights, size_t window)
{
    const size_t suspect = next_suspect(flights);
    if (suspect != SIZE_MAX)
        return flights->sent == 0 ? suspect : SIZE_MAX;
    for (size_t i = 0; i < flights->count && flights->sent < window; i++) {
        if (!flights->items[i].sent && !flights->items[i].problem)
            return i;
    }
    return SIZE_MAX;
}

void flights_mark_sent(struct flights *flights, size_t at)
{
    assert(!flights->items[at].sent);
    flights->items[at].sent = true;
    flights->sent++;
}

static bool is_of(const struct flight *flight, const struct flight *culprit)
{
    return flight == culprit || (culprit->task != 0 && flight->task == culprit->task);
}

// The one flight that the engine had is a culprit.
static void convict(struct flights *flights, struct flight *culprit, const char *how)
{
    char *problem = mem_printf("the engine died %u times while it computed this and nothing else, "
                               "the last time it %s",
                               culprit->lone_deaths, how);
    for (size_t i = 0; i < flights->count; i++) {
        struct flight *flight = &flights->items[i];
        flight->deaths = flight->lone_deaths = 0;
        if (is_of(flight, culprit) && !flight->problem)
            end_flight(flight, LM_FATAL, mem_strdup(problem));
    }
    flights->culprits = mem_grow(flights->culprits, &flights->culprit_capacity,
                                 flights->culprit_count + 1, sizeof(*flights->culprits));
    flights->culprits[flights->culprit_count++] = (struct culprit){culprit->task, problem};
}

bool flights_engine_died(struct flights *flights, const char *how)
{
    struct flight *alone = NULL;
    for (size_t i = 0; i < flights->count; i++) {
        struct flight *flight = &flights->items[i];
        if (!flight->sent)
            continue;
        flight->sent = false;
        flight->deaths++;
        alone = flights->sent == 1 ? flight : NULL;
    }
    flights->sent = 0;
    if (!alone || ++alone->lone_deaths < LONE_DEATHS_OF_CULPRIT)
        return false;
    convict(flights, alone, how);
    return true;
}
