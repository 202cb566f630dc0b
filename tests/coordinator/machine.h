// SPDX-License-Identifier: Apache-2.0
// Short words for tests of the state machine.
#ifndef MEMO_TESTS_COORDINATOR_MACHINE_H
#define MEMO_TESTS_COORDINATOR_MACHINE_H

#include "coordinator/coordinator.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static inline void tell_event(struct coordinator *c, struct coordinator_event event)
{
    if (!event.reason)
        event.reason = "it broke";
    coordinator_handle(c, &event);
}

static inline void tell(struct coordinator *c, double now, enum coordinator_event_kind kind,
                        int worker, uint32_t task)
{
    tell_event(c, (struct coordinator_event){
                      .kind = kind, .now_seconds = now, .worker = worker, .task = task});
}

static inline void join(struct coordinator *c, double now, int worker, uint32_t window)
{
    tell_event(c, (struct coordinator_event){.kind = EVENT_WORKER_JOINED,
                                             .now_seconds = now,
                                             .worker = worker,
                                             .window = window});
}

static inline void tell_claim(struct coordinator *c, double now, uint32_t block, bool won)
{
    tell_event(c, (struct coordinator_event){.kind = won ? EVENT_CLAIM_WON : EVENT_CLAIM_REFUSED,
                                             .now_seconds = now,
                                             .block = block});
}

static inline void tell_backup(struct coordinator *c, double now, uint32_t task, bool won)
{
    tell(c, now, won ? EVENT_BACKUP_WON : EVENT_BACKUP_REFUSED, 0, task);
}

static inline void tell_found(struct coordinator *c, double now, uint32_t task)
{
    tell(c, now, EVENT_FOUND, 0, task);
}

static inline void tell_jobs(struct coordinator *c, double now, size_t jobs)
{
    tell_event(c, (struct coordinator_event){.kind = EVENT_JOBS, .now_seconds = now, .jobs = jobs});
}

static inline void expect_nothing(struct coordinator *c)
{
    struct coordinator_action action;
    assert_false(coordinator_next_action(c, &action));
}

static inline struct coordinator_action expect(struct coordinator *c,
                                               enum coordinator_action_kind kind)
{
    struct coordinator_action action;
    assert_true(coordinator_next_action(c, &action));
    assert_int_equal(action.kind, kind);
    return action;
}

static inline uint32_t expect_lease(struct coordinator *c, int worker)
{
    const struct coordinator_action action = expect(c, ACTION_LEASE);
    assert_int_equal(action.worker, worker);
    return action.task;
}

static inline uint32_t expect_backup(struct coordinator *c)
{
    return expect(c, ACTION_BACKUP).task;
}

static inline uint32_t expect_claim(struct coordinator *c)
{
    return expect(c, ACTION_CLAIM).block;
}

#endif
