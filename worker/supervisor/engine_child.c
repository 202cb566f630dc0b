// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/engine_child.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "worker/supervisor/engine_fault.h"
#include "worker/supervisor/frame_stream.h"

#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>

#define FLUSH_SECONDS 5.0 // for the last words of a broken engine
#define FLUSH_MS 100

struct engine_child {
    const struct engine_child_options *options;
    struct frame_stream stream;
    struct lm *lm;     // NULL until OPEN came
    uint64_t *pending; // [capacity of lm] requests without a result, in no order
    size_t pending_count;
    double last_sent_seconds;
};

// The kernel, when it runs out of memory, ends this process rather than the rank. It is no fault
// when that cannot be said.
static void offer_to_die_first(void)
{
    static const char score[] = "500";
    struct fs *fs = fs_system();
    int file;
    if (fs->ops->open_update(fs->state, "/proc/self/oom_score_adj", &file) == 0) {
        (void)fs->ops->write_at(fs->state, file, 0, score, sizeof(score) - 1);
        (void)fs->ops->close(fs->state, file);
    }
}

// Until the peer takes what is not sent yet, or, when it may speak, until it speaks.
static void wait_for_peer(const struct engine_child *child, bool may_speak, int timeout_ms)
{
    struct pollfd wait = {.fd = child->stream.fd, .events = may_speak ? POLLIN : 0};
    if (frame_stream_unsent(&child->stream) > 0)
        wait.events |= POLLOUT;
    (void)poll(&wait, 1, timeout_ms);
}

static void send_message(struct engine_child *child, const struct engine_message *message)
{
    frame_stream_send(&child->stream, message);
    child->last_sent_seconds = clock_seconds();
}

static int open_model(struct engine_child *child, const struct lm_engine_options *options,
                      struct error *err)
{
    if (child->lm)
        return error_set(err, "the model is opened twice");
    if (child->options->open(options, &child->lm, err))
        return -1;
    send_message(child,
                 &(struct engine_message){.kind = ENGINE_READY,
                                          .ready = {.digest = child->lm->digest,
                                                    .capacity = child->lm->capacity,
                                                    .context_tokens = child->lm->context_tokens}});
    child->pending = mem_calloc(child->lm->capacity, sizeof(*child->pending));
    return 0;
}

static int take_request(struct engine_child *child, const struct lm_request *request,
                        struct error *err)
{
    if (engine_fault_trip(child->options->fault, request, err))
        return -1;
    lm_submit(child->lm, request);
    child->pending[child->pending_count++] = request->id;
    return 0;
}

static void forget_request(struct engine_child *child, uint64_t id)
{
    for (size_t i = 0; i < child->pending_count; i++) {
        if (child->pending[i] == id) {
            child->pending[i] = child->pending[--child->pending_count];
            return;
        }
    }
}

static int handle(struct engine_child *child, const struct engine_message *message,
                  struct error *err)
{
    if (message->kind == ENGINE_OPEN)
        return open_model(child, &message->open, err);
    if (!child->lm)
        return error_set(err, "a message of kind %d before the model was opened",
                         (int)message->kind);
    switch (message->kind) {
    case ENGINE_SUBMIT:
        return take_request(child, &message->submit, err);
    case ENGINE_CANCEL:
        lm_cancel(child->lm, message->cancel);
        forget_request(child, message->cancel);
        return 0;
    default:
        return error_set(err, "a message of kind %d is not for an engine", (int)message->kind);
    }
}

static int handle_messages(struct engine_child *child, struct error *err)
{
    struct engine_message message;
    int rc = 0;
    while (!child->lm || child->pending_count < child->lm->capacity) {
        rc = frame_stream_next(&child->stream, &message, err);
        if (rc <= 0)
            break;
        if (handle(child, &message, err))
            return -1;
    }
    return rc < 0 ? -1 : 0;
}

// One step of the model.
static int work(struct engine_child *child, struct error *err)
{
    struct engine_message message = {.kind = ENGINE_ANSWER};
    switch (lm_poll(child->lm, &message.answer, err)) {
    case LM_POLL_RESULT:
        forget_request(child, message.answer.id);
        send_message(child, &message);
        return 0;
    case LM_POLL_RUNNING:
        return 0;
    case LM_POLL_IDLE:
        return error_set(err, "the model lost %zu requests", child->pending_count);
    default:
        return -1;
    }
}

static void show_life(struct engine_child *child)
{
    if (frame_stream_unsent(&child->stream) == 0 &&
        clock_seconds() - child->last_sent_seconds >= ENGINE_ALIVE_SECONDS)
        send_message(child, &(struct engine_message){.kind = ENGINE_ALIVE});
}

static int run(struct engine_child *child, struct error *err)
{
    while (!child->stream.ended) {
        if (frame_stream_pump(&child->stream, err) || handle_messages(child, err))
            return -1;
        const bool full = frame_stream_unsent(&child->stream) >= STREAM_UNSENT_LIMIT;
        if (full || child->pending_count == 0) {
            wait_for_peer(child, !full, -1);
        } else {
            show_life(child);
            if (work(child, err))
                return -1;
        }
    }
    return 0;
}

static void say_why(struct engine_child *child, const struct error *why)
{
    const double deadline = clock_seconds() + FLUSH_SECONDS;
    struct error ignored;
    send_message(child, &(struct engine_message){.kind = ENGINE_BROKEN, .broken = why->text});
    while (frame_stream_pump(&child->stream, &ignored) == 0 && !child->stream.ended &&
           frame_stream_unsent(&child->stream) > 0 && clock_seconds() < deadline)
        wait_for_peer(child, false, FLUSH_MS);
}

int engine_child_run(const struct engine_child_options *options, struct error *err)
{
    struct engine_child child = {.options = options};
    offer_to_die_first();
    int rc = frame_stream_open(&child.stream, options->socket, err);
    if (rc == 0)
        rc = run(&child, err);
    if (rc)
        say_why(&child, err);
    lm_destroy(child.lm);
    free(child.pending);
    frame_stream_close(&child.stream);
    return rc;
}
