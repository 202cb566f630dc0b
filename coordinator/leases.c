// SPDX-License-Identifier: Apache-2.0
#include "coordinator/leases.h"

#include "base/mem.h"

#include <stdlib.h>

double lease_alarm_seconds(const struct lease *lease)
{
    return lease->late ? lease->deadline_seconds : lease->late_seconds;
}

static bool rings_first(const void *state, uint32_t a, uint32_t b)
{
    const struct leases *leases = state;
    const double x = lease_alarm_seconds(&leases->items[a]);
    const double y = lease_alarm_seconds(&leases->items[b]);
    return x != y ? x < y : leases->items[a].task < leases->items[b].task;
}

void leases_init(struct leases *leases, size_t workers)
{
    *leases = (struct leases){.first_free = NO_LEASE};
    leases->first_of_worker = mem_calloc(workers + 1, sizeof(*leases->first_of_worker));
    for (size_t w = 0; w < workers; w++)
        leases->first_of_worker[w] = NO_LEASE;
    index_heap_init(&leases->alarms, 0, rings_first, leases);
}

void leases_release(struct leases *leases)
{
    index_heap_release(&leases->alarms);
    free(leases->first_of_worker);
    free(leases->items);
}

static uint32_t take_slot(struct leases *leases)
{
    const uint32_t number = leases->first_free;
    if (number != NO_LEASE) {
        leases->first_free = leases->items[number].next;
        return number;
    }
    leases->items =
        mem_grow(leases->items, &leases->capacity, leases->count + 1, sizeof(*leases->items));
    if (leases->alarms.capacity < leases->capacity)
        index_heap_grow(&leases->alarms, leases->capacity);
    return (uint32_t)leases->count++;
}

uint32_t leases_add(struct leases *leases, const struct lease *lease)
{
    const uint32_t number = take_slot(leases);
    uint32_t *first = &leases->first_of_worker[lease->worker];
    leases->items[number] = *lease;
    leases->items[number].next = *first;
    leases->items[number].previous = NO_LEASE;
    if (*first != NO_LEASE)
        leases->items[*first].previous = number;
    *first = number;
    index_heap_set(&leases->alarms, number);
    return number;
}

void leases_remove(struct leases *leases, uint32_t number)
{
    struct lease *lease = &leases->items[number];
    index_heap_remove(&leases->alarms, number);
    if (lease->previous == NO_LEASE)
        leases->first_of_worker[lease->worker] = lease->next;
    else
        leases->items[lease->previous].next = lease->next;
    if (lease->next != NO_LEASE)
        leases->items[lease->next].previous = lease->previous;
    lease->next = leases->first_free;
    leases->first_free = number;
}

uint32_t leases_next_alarm(const struct leases *leases)
{
    return index_heap_first(&leases->alarms);
}

void leases_set_late(struct leases *leases, uint32_t number)
{
    leases->items[number].late = true;
    index_heap_set(&leases->alarms, number);
}
