// SPDX-License-Identifier: Apache-2.0
#include "coordinator/event_loop.h"

#include "base/log.h"

#include <string.h>

static void on_signal(uv_signal_t *handle, int number)
{
    struct event_loop *loop = handle->data;
    if (!loop->stop_signalled && loop->says_so)
        log_warn("%s received: committing what is done, then stopping", strsignal(number));
    loop->stop_signalled = true;
}

static void on_wakeup(uv_timer_t *timer)
{
    (void)timer;
}

static int uv_check(int rc, const char *what, struct error *err)
{
    return rc < 0 ? error_set(err, "%s: %s", what, uv_strerror(rc)) : 0;
}

// SIGUSR1 is left alone: NCCL uses it.
static int start_signals(struct event_loop *loop, struct error *err)
{
    static const int numbers[STOP_SIGNALS] = {SIGTERM, SIGINT, SIGUSR2};
    for (int i = 0; i < STOP_SIGNALS; i++) {
        uv_signal_t *handle = &loop->signals[i];
        handle->data = loop;
        if (uv_check(uv_signal_init(&loop->loop, handle), "signal handler", err) ||
            uv_check(uv_signal_start(handle, on_signal, numbers[i]), "signal handler", err))
            return -1;
    }
    return 0;
}

int event_loop_init(struct event_loop *loop, bool says_so, struct error *err)
{
    memset(loop, 0, sizeof(*loop));
    loop->says_so = says_so;
    if (uv_check(uv_loop_init(&loop->loop), "event loop", err))
        return -1;
    loop->open = true;
    if (uv_check(uv_timer_init(&loop->loop, &loop->wakeup), "event loop", err))
        return -1;
    return start_signals(loop, err);
}

static void close_handle(uv_handle_t *handle, void *unused)
{
    (void)unused;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

void event_loop_release(struct event_loop *loop)
{
    if (!loop->open)
        return;
    uv_walk(&loop->loop, close_handle, NULL);
    uv_run(&loop->loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop->loop);
    loop->open = false;
}

void event_loop_poll(struct event_loop *loop)
{
    uv_run(&loop->loop, UV_RUN_NOWAIT);
}

// The timer repeats: uv_run first runs timers that are due, which this one is when the process was
// not scheduled since the loop last looked at its clock, and would then wait without any.
void event_loop_sleep(struct event_loop *loop, uint64_t ms)
{
    uv_timer_start(&loop->wakeup, on_wakeup, ms, ms);
    uv_run(&loop->loop, UV_RUN_ONCE); // returns early for a signal
    uv_timer_stop(&loop->wakeup);
}
