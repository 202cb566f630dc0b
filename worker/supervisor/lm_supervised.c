// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/lm_supervised.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "worker/supervisor/engine_process.h"
#include "worker/supervisor/flights.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THIS_PROGRAM "/proc/self/exe" // of the launcher: right also when the file was replaced
#define WAIT_MS 5                     // of one poll
#define CREATE_WAIT_MS 100

struct supervised {
    struct lm lm;
    struct engine_process engine;
    struct strbuf open; // the frame that opens the model
    char *model;
    struct flights flights;
    char *told; // the problem that the caller holds

    double pause_seconds;
    double died_seconds;
    double resume_seconds;  // no engine is started before
    unsigned failed_starts; // in a row
    unsigned failures;      // deaths since the last answer
    bool ready;             // the engine was, before it died
    bool refused;           // the first engine says that the model cannot be opened
    struct error broken;    // why no engine will work any more; "" otherwise
    struct supervised_counts counts;
};

static struct supervised *of(struct lm *lm)
{
    return (struct supervised *)lm;
}

static int take_ready(struct supervised *s, const struct engine_message *message, struct error *err)
{
    if (s->engine.state != ENGINE_LOADING)
        return error_set(err, "it became ready out of turn");
    if (s->counts.starts > 0 && !digest_equal(s->lm.digest, message->ready.digest))
        return error_set(err, "the model in '%s' was changed while the job ran", s->model);
    engine_process_ready(&s->engine);
    s->lm.digest = message->ready.digest;
    s->lm.capacity = (size_t)message->ready.capacity;
    s->lm.context_tokens = (size_t)message->ready.context_tokens;
    s->ready = true;
    s->counts.loading_seconds += s->engine.since_seconds - s->engine.started_seconds;
    if (s->counts.starts++ > 0)
        s->counts.recovery_seconds += s->engine.since_seconds - s->died_seconds;
    return 0;
}

// 1: *out is the result; 0: nobody waits for it any more.
static int take_answer(struct supervised *s, const struct lm_result *answer, struct lm_result *out,
                       struct error *err)
{
    const size_t at = flights_find(&s->flights, answer->id);
    if (answer->id >= s->flights.next_sequence || (at != SIZE_MAX && !s->flights.items[at].sent))
        return error_set(err, "it answered a request that nobody sent");
    if (at == SIZE_MAX)
        return 0;
    *out = *answer;
    out->id = s->flights.items[at].id;
    flights_remove(&s->flights, at);
    s->failures = 0;
    return 1;
}

static int take_message(struct supervised *s, const struct engine_message *message,
                        struct lm_result *out, struct error *err)
{
    switch (message->kind) {
    case ENGINE_READY:
        return take_ready(s, message, err);
    case ENGINE_ANSWER:
        return take_answer(s, &message->answer, out, err);
    case ENGINE_ALIVE:
        return 0;
    case ENGINE_BROKEN:
        s->refused = s->counts.starts == 0;
        return error_set(err, "%s", message->broken);
    default:
        return error_set(err, "it sent a message of kind %d, which is not for a rank",
                         (int)message->kind);
    }
}

// 1: *out is a result; 0: nothing is left to read; -1: this engine is not to be used any more.
static int read_messages(struct supervised *s, struct lm_result *out, struct error *err)
{
    struct engine_message message;
    if (s->engine.state == ENGINE_STARTING)
        return 0; // the launcher's word that it runs comes first
    int rc = frame_stream_pump(&s->engine.stream, err);
    while (rc == 0 && (rc = frame_stream_next(&s->engine.stream, &message, err)) > 0) {
        engine_process_sign(&s->engine);
        rc = take_message(s, &message, out, err);
        if (rc != 0)
            return rc;
    }
    return rc;
}

// An engine that says what it must not, or that it is broken, is heard no further.
static int give_up_engine(struct supervised *s, const struct error *why, struct error *err)
{
    char how[sizeof(why->text) + 16];
    snprintf(how, sizeof(how), "failed: %s", why->text);
    if (s->refused)
        return error_set(err, "%s", why->text);
    frame_stream_close(&s->engine.stream);
    return engine_process_end(&s->engine, how, err);
}

static double next_pause(const struct supervised *s)
{
    double pause = s->pause_seconds;
    if (s->failures < 2)
        return 0;
    for (unsigned i = 2; i < s->failures && pause < PAUSE_GROWTH * s->pause_seconds; i++)
        pause *= 2;
    return pause;
}

static int judge_machine(const struct supervised *s, struct error *err)
{
    if (s->failed_starts >= ENGINE_STARTS_LIMIT)
        return error_set(err, "%u engines of '%s' died before they were ready; the last one %s",
                         s->failed_starts, s->model, s->engine.how);
    if (s->failures >= ENGINES_LIMIT)
        return error_set(err,
                         "%u engines of '%s' died in a row, with no answer between, so it is not "
                         "the text; the last one %s",
                         s->failures, s->model, s->engine.how);
    return 0;
}

// The engine is over.
static int mourn(struct supervised *s, struct error *err)
{
    const size_t unanswered = s->flights.sent;
    s->counts.deaths++;
    s->failures++;
    s->failed_starts = s->ready ? 0 : s->failed_starts + 1;
    s->ready = false;
    const bool convicted = flights_engine_died(&s->flights, s->engine.how);
    s->counts.culprits += convicted;
    s->died_seconds = clock_seconds();
    s->resume_seconds = s->died_seconds + next_pause(s);
    log_warn("the engine of '%s' (process %d) %s; %zu requests had no answer yet%s", s->model,
             (int)s->engine.pid, s->engine.how, unanswered,
             convicted ? ", and one of them is to blame" : "");
    return judge_machine(s, err);
}

static void send_requests(struct supervised *s)
{
    while (frame_stream_unsent(&s->engine.stream) < STREAM_UNSENT_LIMIT) {
        const size_t at = flights_next(&s->flights, s->lm.capacity);
        if (at == SIZE_MAX)
            return;
        if (s->flights.sent == 0)
            engine_process_sign(&s->engine);
        frame_stream_send_frame(&s->engine.stream, &s->flights.items[at].frame);
        flights_mark_sent(&s->flights, at);
    }
}

// An engine is there or on its way, and has all that it should have.
static int keep_engine_busy(struct supervised *s, struct error *err)
{
    const bool is_wanted = s->counts.starts == 0 || s->flights.count > 0;
    if (s->engine.state == ENGINE_ABSENT && is_wanted && clock_seconds() >= s->resume_seconds)
        return engine_process_start(&s->engine, &s->open, err);
    if (s->engine.state == ENGINE_SERVING)
        send_requests(s);
    return 0;
}

// One round without waiting. 1: *out is a result; 0: none; -1: no engine will work any more.
static int advance(struct supervised *s, struct lm_result *out, struct error *err)
{
    struct error why = {""};
    int rc = read_messages(s, out, &why);
    if (rc > 0)
        return 1;
    if (rc < 0 && give_up_engine(s, &why, err))
        return -1;
    rc = engine_process_watch(&s->engine, s->flights.sent > 0, err);
    if (rc > 0)
        rc = mourn(s, err);
    return rc < 0 || keep_engine_busy(s, err) ? -1 : 0;
}

static void submit(struct lm *lm, const struct lm_request *request)
{
    flights_add(&of(lm)->flights, request);
}

static enum lm_poll tell_ended(struct supervised *s, size_t at, struct lm_result *out)
{
    struct flight *flight = &s->flights.items[at];
    s->told = flight->problem;
    flight->problem = NULL;
    *out = (struct lm_result){.id = flight->id,
                              .end = flight->end,
                              .answer = {"", 0},
                              .forced_from = SIZE_MAX,
                              .problem = s->told};
    flights_remove(&s->flights, at);
    return LM_POLL_RESULT;
}

static enum lm_poll tell(int rc)
{
    if (rc < 0)
        return LM_POLL_BROKEN;
    return rc > 0 ? LM_POLL_RESULT : LM_POLL_RUNNING;
}

static enum lm_poll poll_supervised(struct lm *lm, struct lm_result *out, struct error *err)
{
    struct supervised *s = of(lm);
    free(s->told);
    s->told = NULL;
    if (s->broken.text[0])
        return tell(error_set(err, "%s", s->broken.text));
    const size_t ended = flights_ended(&s->flights);
    if (ended != SIZE_MAX)
        return tell_ended(s, ended, out);
    if (s->flights.count == 0)
        return LM_POLL_IDLE;
    int rc = advance(s, out, &s->broken);
    if (rc == 0) {
        engine_process_wait(&s->engine, WAIT_MS);
        rc = advance(s, out, &s->broken);
    }
    return tell(rc < 0 ? error_set(err, "%s", s->broken.text) : rc);
}

static void cancel(struct lm *lm, uint64_t id)
{
    struct supervised *s = of(lm);
    for (size_t at = s->flights.count; at-- > 0;) {
        const struct flight *flight = &s->flights.items[at];
        if (flight->id != id)
            continue;
        if (flight->sent && s->engine.state == ENGINE_SERVING)
            frame_stream_send(
                &s->engine.stream,
                &(struct engine_message){.kind = ENGINE_CANCEL, .cancel = flight->sequence});
        flights_remove(&s->flights, at);
    }
}

static void destroy(struct lm *lm)
{
    struct supervised *s = of(lm);
    engine_process_stop(&s->engine);
    if (s->counts.deaths > 0)
        log_info("engines of '%s' died %llu times; it took %.2f s to have another one ready",
                 s->model, (unsigned long long)s->counts.deaths, s->counts.recovery_seconds);
    flights_release(&s->flights);
    strbuf_release(&s->open);
    free(s->model);
    free(s->told);
    free(s);
}

static const struct lm_ops supervised_ops = {submit, poll_supervised, cancel, destroy};

static int wait_until_ready(struct supervised *s, struct error *err)
{
    struct lm_result none;
    while (s->engine.state != ENGINE_SERVING) {
        if (advance(s, &none, err) < 0)
            return -1;
        if (s->engine.state != ENGINE_SERVING)
            engine_process_wait(&s->engine, CREATE_WAIT_MS);
    }
    return 0;
}

int lm_supervised_create(const struct lm_engine_options *options, const struct supervision *how,
                         struct lm **out, struct error *err)
{
    struct supervised *s = mem_calloc(1, sizeof(*s));
    s->lm.ops = &supervised_ops;
    s->model = mem_strdup(options->model);
    s->pause_seconds = how->pause_seconds > 0 ? how->pause_seconds : RESTART_PAUSE_SECONDS;
    engine_message_encode(&(struct engine_message){.kind = ENGINE_OPEN, .open = *options},
                          &s->open);
    s->engine = (struct engine_process){.launcher = how->launcher,
                                        .program = how->program ? how->program : THIS_PROGRAM,
                                        .model = s->model,
                                        .silence_seconds = how->silence_seconds,
                                        .memory_gb = how->memory_gb};
    engine_process_init(&s->engine);
    if (wait_until_ready(s, err)) {
        destroy(&s->lm);
        return -1;
    }
    *out = &s->lm;
    return 0;
}

struct supervised_counts lm_supervised_counts(const struct lm *lm)
{
    assert(lm->ops == &supervised_ops);
    return ((const struct supervised *)lm)->counts;
}

pid_t lm_supervised_process(const struct lm *lm)
{
    assert(lm->ops == &supervised_ops);
    const struct engine_process *engine = &((const struct supervised *)lm)->engine;
    return engine->state == ENGINE_ABSENT ? -1 : engine->pid;
}
