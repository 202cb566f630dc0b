// SPDX-License-Identifier: Apache-2.0
// The leases that are held: who has which task until when. Each rings twice: when it is late, and
// at its deadline. Every call is O(log leases), growth aside.
#ifndef MEMO_COORDINATOR_LEASES_H
#define MEMO_COORDINATOR_LEASES_H

#include "coordinator/index_heap.h"

#define NO_LEASE UINT32_MAX

struct lease {
    uint32_t task;
    int worker;
    double given_seconds;
    double late_seconds;     // longer than such tasks usually take
    double deadline_seconds; // not before late_seconds
    bool late;               // late_seconds has passed
    uint32_t next;           // of the same worker; of a free slot: the next free one
    uint32_t previous;
};

struct leases {
    struct lease *items; // [count] slots, some of them free
    size_t count;
    size_t capacity;
    uint32_t first_free;
    uint32_t *first_of_worker; // [workers]
    struct index_heap alarms;
};

void leases_init(struct leases *leases, size_t workers); // stays where it is until release
void leases_release(struct leases *leases);

uint32_t leases_add(struct leases *leases, const struct lease *lease); // copied; its number
void leases_remove(struct leases *leases, uint32_t number);

// The lease whose alarm is next, NO_LEASE when there is none.
uint32_t leases_next_alarm(const struct leases *leases);
double lease_alarm_seconds(const struct lease *lease);
void leases_set_late(struct leases *leases, uint32_t number); // rings next at its deadline

#endif
