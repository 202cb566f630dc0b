// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/engine_process.h"

#include "base/clock.h"
#include "base/log.h"
#include "worker/supervisor/process_usage.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define WATCH_SECONDS 0.5      // between looks at memory and activity
#define REPORT_SECONDS 10.0    // between lines while it loads
#define ORDER_SECONDS 60.0     // for the launcher to start a process, and for a killed one to end
#define LEAVE_SECONDS 5.0      // for a process that was asked to end
#define LAST_BYTES_SECONDS 1.0 // for what a dead process has written
#define GIGABYTE 1e9

static void enter(struct engine_process *process, enum engine_state state)
{
    process->state = state;
    process->since_seconds = clock_seconds();
}

void engine_process_init(struct engine_process *process)
{
    process->stream = (struct frame_stream){.fd = -1, .ended = true};
    process->log = (struct log_lines){.fd = -1};
    process->pid = -1;
    enter(process, ENGINE_ABSENT);
}

// *engine_end and *log_end are the new process's; the caller closes them, unless they are -1.
static int open_channels(struct engine_process *process, int *engine_end, int *log_end,
                         struct error *err)
{
    int ends[2];
    if (log_lines_open(&process->log, log_end, err))
        return -1;
    snprintf(process->log.prefix, sizeof(process->log.prefix), "engine");
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return error_set_errno(err, errno, "a socket for the engine");
    *engine_end = ends[1];
    return frame_stream_open(&process->stream, ends[0], err);
}

int engine_process_start(struct engine_process *process, const struct strbuf *open,
                         struct error *err)
{
    int engine_end = -1, log_end = -1;
    int rc = open_channels(process, &engine_end, &log_end, err);
    if (rc == 0)
        rc = launcher_start(process->launcher, process->program, engine_end, log_end, err);
    if (engine_end >= 0)
        close(engine_end);
    if (log_end >= 0)
        close(log_end);
    if (rc)
        return -1;
    frame_stream_send_frame(&process->stream, open);
    process->how[0] = '\0';
    process->has_exited = false;
    process->pid = -1;
    process->activity = 0;
    process->started_seconds = clock_seconds();
    process->report_seconds = process->started_seconds + REPORT_SECONDS;
    enter(process, ENGINE_STARTING);
    return 0;
}

void engine_process_sign(struct engine_process *process)
{
    process->sign_seconds = clock_seconds();
}

void engine_process_ready(struct engine_process *process)
{
    engine_process_sign(process);
    enter(process, ENGINE_SERVING);
    log_info("the engine of '%s' (process %d) is ready after %.2f s", process->model,
             (int)process->pid, process->since_seconds - process->started_seconds);
}

int engine_process_end(struct engine_process *process, const char *why, struct error *err)
{
    if (!process->how[0])
        snprintf(process->how, sizeof(process->how), "%s", why);
    if (process->state == ENGINE_ENDING || process->state == ENGINE_ABSENT)
        return 0;
    enter(process, ENGINE_ENDING);
    return launcher_kill(process->launcher, err);
}

// Unless why it was killed is known.
static void describe_exit(struct engine_process *process, int status)
{
    char last[sizeof(process->log.last) + 20] = "";
    if (process->how[0])
        return;
    if (process->log.last[0])
        snprintf(last, sizeof(last), "; its last line: %s", process->log.last);
    if (WIFSIGNALED(status))
        snprintf(process->how, sizeof(process->how), "was killed by signal %d (%s)%s",
                 WTERMSIG(status), strsignal(WTERMSIG(status)), last);
    else
        snprintf(process->how, sizeof(process->how), "ended with exit code %d%s",
                 WEXITSTATUS(status), last);
}

static void take_event(struct engine_process *process, const struct launcher_event *event)
{
    switch (event->kind) {
    case LAUNCHER_STARTED:
        process->pid = event->pid;
        engine_process_sign(process);
        if (process->state == ENGINE_STARTING)
            enter(process, ENGINE_LOADING);
        break;
    case LAUNCHER_NOT_STARTED:
        snprintf(process->how, sizeof(process->how), "could not be started from '%s': %s",
                 process->program, strerror(event->value));
        process->has_exited = true;
        break;
    case LAUNCHER_EXITED:
        log_lines_pump(&process->log);
        describe_exit(process, event->value);
        process->has_exited = true;
        break;
    }
    if (process->has_exited)
        enter(process, ENGINE_ENDING);
}

static int take_events(struct engine_process *process, struct error *err)
{
    struct launcher_event event;
    int rc;
    while (!process->has_exited && (rc = launcher_poll(process->launcher, &event, err)) != 0) {
        if (rc < 0)
            return -1;
        take_event(process, &event);
    }
    log_lines_pump(&process->log);
    return 0;
}

static void report_loading(struct engine_process *process, const struct process_usage *usage,
                           double now)
{
    if (process->state != ENGINE_LOADING || now < process->report_seconds)
        return;
    process->report_seconds = now + REPORT_SECONDS;
    log_info("the engine of '%s' (process %d) is loading: %.1f GB in memory after %.0f s",
             process->model, (int)process->pid, (double)usage->memory_bytes / GIGABYTE,
             now - process->started_seconds);
}

static int look(struct engine_process *process, double now, struct error *err)
{
    struct process_usage usage;
    char why[160];
    if (now < process->watch_seconds)
        return 0;
    process->watch_seconds = now + WATCH_SECONDS;
    if (process_usage_read(process->pid, &usage, NULL))
        return 0; // it is just ending
    if (process->state == ENGINE_LOADING && usage.activity != process->activity)
        process->sign_seconds = now;
    process->activity = usage.activity;
    report_loading(process, &usage, now);
    if (process->memory_gb <= 0 || (double)usage.memory_bytes <= process->memory_gb * GIGABYTE)
        return 0;
    snprintf(why, sizeof(why), "was killed: it used %.2f GB of memory and may use %.2f",
             (double)usage.memory_bytes / GIGABYTE, process->memory_gb);
    return engine_process_end(process, why, err);
}

static int look_for_silence(struct engine_process *process, bool has_requests, double now,
                            struct error *err)
{
    char why[160];
    const bool should_speak = process->state == ENGINE_LOADING || has_requests;
    if (process->silence_seconds <= 0 || !should_speak ||
        now - process->sign_seconds <= process->silence_seconds)
        return 0;
    snprintf(why, sizeof(why), "was killed: it gave no sign of life for %.1f s",
             now - process->sign_seconds);
    return engine_process_end(process, why, err);
}

static int look_after(struct engine_process *process, bool has_requests, double now,
                      struct error *err)
{
    if (process->stream.ended)
        return engine_process_end(process, "", err);
    return look(process, now, err) || look_for_silence(process, has_requests, now, err) ? -1 : 0;
}

static int is_over(struct engine_process *process, double now)
{
    if (!process->has_exited ||
        (!process->stream.ended && now - process->since_seconds < LAST_BYTES_SECONDS))
        return 0;
    frame_stream_close(&process->stream);
    log_lines_close(&process->log);
    enter(process, ENGINE_ABSENT);
    return 1;
}

int engine_process_watch(struct engine_process *process, bool has_requests, struct error *err)
{
    const double now = clock_seconds();
    if (process->state == ENGINE_ABSENT)
        return 0;
    if (take_events(process, err))
        return -1;
    if (process->state == ENGINE_LOADING || process->state == ENGINE_SERVING)
        return look_after(process, has_requests, now, err);
    if (!process->has_exited && now - process->since_seconds > ORDER_SECONDS)
        return error_set(err,
                         process->state == ENGINE_STARTING
                             ? "the engine of '%s' (process %d) was not started within %.0f s"
                             : "the engine of '%s' (process %d) was killed but does not end within "
                               "%.0f s: it may hang in a driver",
                         process->model, (int)process->pid, ORDER_SECONDS);
    return is_over(process, now);
}

void engine_process_wait(const struct engine_process *process, int timeout_ms)
{
    const struct frame_stream *stream = &process->stream;
    struct pollfd waits[] = {
        {.fd = launcher_descriptor(process->launcher), .events = POLLIN},
        {.fd = stream->ended ? -1 : stream->fd, .events = POLLIN},
    };
    if (frame_stream_unsent(stream) > 0)
        waits[1].events |= POLLOUT;
    (void)poll(waits, 2, timeout_ms);
}

static void wait_for_exit(struct engine_process *process)
{
    const double deadline = clock_seconds() + LEAVE_SECONDS;
    struct error ignored;
    while (!process->has_exited && clock_seconds() < deadline) {
        if (take_events(process, &ignored))
            return;
        if (!process->has_exited)
            engine_process_wait(process, 100);
    }
}

void engine_process_stop(struct engine_process *process)
{
    struct error ignored;
    if (process->state == ENGINE_SERVING) {
        frame_stream_close(&process->stream); // it reads end of file
        wait_for_exit(process);
    }
    if (process->state != ENGINE_ABSENT && !process->has_exited) {
        (void)engine_process_end(process, "was not needed any more", &ignored);
        wait_for_exit(process);
    }
    frame_stream_close(&process->stream);
    log_lines_close(&process->log);
    enter(process, ENGINE_ABSENT);
}
