// SPDX-License-Identifier: Apache-2.0
// The libuv loop of a rank: it sleeps between polls, and notes the signals that ask to stop.
#ifndef MEMO_COORDINATOR_EVENT_LOOP_H
#define MEMO_COORDINATOR_EVENT_LOOP_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <uv.h>

#define STOP_SIGNALS 3

// Stays where it is from init to release: libuv keeps pointers into it.
struct event_loop {
    uv_loop_t loop;
    uv_timer_t wakeup;
    uv_signal_t signals[STOP_SIGNALS];
    bool open;
    bool says_so; // a line in the log when a signal comes
    bool stop_signalled;
};

// Takes over SIGTERM, SIGINT and SIGUSR2 until release, which also ends a failed init.
int event_loop_init(struct event_loop *loop, bool says_so, struct error *err);
void event_loop_release(struct event_loop *loop);

void event_loop_poll(struct event_loop *loop); // never waits
void event_loop_sleep(struct event_loop *loop, uint64_t ms);

#endif
