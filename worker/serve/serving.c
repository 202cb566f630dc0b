// SPDX-License-Identifier: Apache-2.0
// One loop: take what calls have come, compute one step, send what it gave.
#include "worker/serve/serving.h"

#include "base/clock.h"
#include "base/mem.h"
#include "worker/serve/chat_call.h"
#include "worker/serve/chat_reply.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { IDLE_MS = 100 };
#define LOOK_SECONDS 0.1 // between looks for clients that have gone
#define PUBLISH_SECONDS 1.0

struct conversation {
    struct conversation *next;
    struct exchange *exchange;
    struct chat_head head; // its id is the engine's, too
    struct json_schema *schema;
    bool stream, stream_usage;
    size_t sent_bytes; // of the answer
};

struct serving {
    struct engine_host *host;
    struct server *server;
    const struct serving_options *options;
    struct tokenizer_scratch *scratch;
    struct arena arena; // of one call's body
    struct token_list prompt;
    struct strbuf json;
    struct conversation *running;
    size_t running_count;
    uint64_t calls, refused, hung_up, answered;
    uint64_t prompt_tokens, cached_tokens, output_tokens;
    double looked_seconds, published_seconds;
};

// --- a call comes ---

static void refuse(struct serving *s, struct exchange *exchange, const char *param,
                   const char *message)
{
    s->refused++;
    strbuf_reset(&s->json);
    chat_error_write(&s->json, "invalid_request_error", param, message);
    exchange_answer(exchange, 400, &s->json);
}

static int render(struct serving *s, const struct chat_call *call, struct error *err)
{
    s->prompt.count = 0;
    if (chat_render_ids(s->host->chat, s->host->tokenizer, s->scratch, call->messages,
                        call->message_count, true, &s->prompt, NULL, err))
        return -1;
    if (s->prompt.count >= s->host->context_tokens)
        return error_set(
            err,
            "the messages have %zu tokens, which leaves none of the context of %zu for "
            "an answer",
            s->prompt.count, s->host->context_tokens);
    return 0;
}

static void submit(struct serving *s, const struct chat_call *call, struct conversation *new)
{
    const size_t room = s->host->context_tokens - s->prompt.count;
    engine_submit(
        s->host->engine,
        &(struct engine_request){
            .id = new->head.id,
            .prompt = s->prompt.ids,
            .prompt_count = s->prompt.count,
            .max_new = call->max_tokens && call->max_tokens < room ? call->max_tokens : room,
            .stop_ids = s->host->stops,
            .stop_count = s->host->stop_count,
            .stop_strings = call->stops,
            .stop_string_count = call->stop_count,
            .sampling = call->sampling,
            .seed = call->seed,
            .schema = new->schema,
        });
}

static void send_event(struct serving *s, struct conversation *c)
{
    exchange_event(c->exchange, &s->json);
    strbuf_reset(&s->json);
}

static void begin(struct serving *s, struct exchange *exchange, const struct chat_call *call,
                  struct json_schema *schema)
{
    struct conversation *new = mem_calloc(1, sizeof *new);
    *new = (struct conversation){
        .next = s->running,
        .exchange = exchange,
        .head = {.id = s->calls, .model = s->options->name, .created_unix = (int64_t)time(NULL)},
        .schema = schema,
        .stream = call->stream,
        .stream_usage = call->stream_usage};
    s->running = new;
    s->running_count++;
    submit(s, call, new);
    if (!new->stream)
        return;
    strbuf_reset(&s->json);
    exchange_begin_events(exchange);
    chat_event_begin(&s->json, &new->head);
    send_event(s, new);
}

static void take_call(struct serving *s, struct exchange *exchange)
{
    struct chat_call call;
    struct json_schema *schema = NULL;
    const char *param;
    struct error err = {""};
    size_t bytes;
    const char *body = exchange_body(exchange, &bytes);
    s->calls++;
    arena_reset(&s->arena);
    if (chat_call_read(&s->arena, body, bytes, &call, &param, &err)) {
        refuse(s, exchange, param, err.text);
        return;
    }
    if (render(s, &call, &err)) {
        refuse(s, exchange, "messages", err.text);
        return;
    }
    if (call.schema && schema_cache_take(s->host->schemas, call.schema, &schema, &err)) {
        refuse(s, exchange, "response_format", err.text);
        return;
    }
    begin(s, exchange, &call, schema);
}

static void take_calls(struct serving *s, bool idle)
{
    struct exchange *exchange = server_take(s->server, idle ? IDLE_MS : 0);
    while (exchange) {
        take_call(s, exchange);
        exchange = server_take(s->server, 0);
    }
}

// --- an answer goes ---

static void conversation_free(struct serving *s, struct conversation **at)
{
    struct conversation *c = *at;
    *at = c->next;
    if (c->schema)
        schema_cache_give_back(s->host->schemas, c->schema);
    s->running_count--;
    free(c);
}

static void send_more(struct serving *s, struct conversation *c, const char *text, size_t bytes)
{
    if (bytes <= c->sent_bytes)
        return;
    chat_event_text(&s->json, &c->head, text + c->sent_bytes, bytes - c->sent_bytes);
    c->sent_bytes = bytes;
    send_event(s, c);
}

static void end_events(struct serving *s, struct conversation *c,
                       const struct engine_result *result, enum chat_finish finish,
                       const struct chat_usage *usage)
{
    strbuf_reset(&s->json);
    send_more(s, c, result->text, result->text_bytes);
    chat_event_end(&s->json, &c->head, finish);
    send_event(s, c);
    if (c->stream_usage) {
        chat_event_usage(&s->json, &c->head, usage);
        send_event(s, c);
    }
    exchange_end_events(c->exchange);
}

static void reject(struct serving *s, struct conversation *c, const char *problem)
{
    if (!c->stream) {
        refuse(s, c->exchange, "", problem);
        return;
    }
    strbuf_reset(&s->json);
    chat_error_write(&s->json, "invalid_request_error", "", problem);
    send_event(s, c);
    exchange_end_events(c->exchange);
}

static void finish(struct serving *s, struct conversation *c, const struct engine_result *result)
{
    const bool whole = result->reason == ENGINE_STOP && result->forced_from == SIZE_MAX;
    const enum chat_finish how = whole ? CHAT_FINISH_STOP : CHAT_FINISH_LENGTH;
    const struct chat_usage usage = {result->prompt_count, result->cached_count, result->count};
    if (result->reason == ENGINE_REJECTED) {
        reject(s, c, result->problem);
        return;
    }
    s->answered++;
    s->prompt_tokens += usage.prompt_tokens;
    s->cached_tokens += usage.cached_tokens;
    s->output_tokens += usage.output_tokens;
    if (c->stream) {
        end_events(s, c, result, how, &usage);
        return;
    }
    strbuf_reset(&s->json);
    chat_reply_write(&s->json, &c->head, result->text, result->text_bytes, how, &usage);
    exchange_answer(c->exchange, 200, &s->json);
}

static void take_result(struct serving *s, const struct engine_result *result)
{
    struct conversation **at = &s->running;
    while ((*at)->head.id != result->id)
        at = &(*at)->next;
    finish(s, *at, result);
    conversation_free(s, at);
}

static void send_pieces(struct serving *s)
{
    const char *text;
    size_t bytes;
    strbuf_reset(&s->json);
    for (struct conversation *c = s->running; c; c = c->next)
        if (c->stream && engine_peek(s->host->engine, c->head.id, &text, &bytes))
            send_more(s, c, text, bytes);
}

// --- now and then ---

static void drop_those_gone(struct serving *s)
{
    server_look_for_hangups(s->server);
    for (struct conversation **at = &s->running; *at;) {
        if (!exchange_hung_up((*at)->exchange)) {
            at = &(*at)->next;
            continue;
        }
        s->hung_up++;
        engine_cancel(s->host->engine, (*at)->head.id);
        exchange_drop((*at)->exchange);
        conversation_free(s, at);
    }
}

static void publish_metrics(struct serving *s)
{
    const struct engine_statistics now = engine_statistics(s->host->engine);
    const struct {
        const char *name, *type, *help;
        uint64_t value;
    } metrics[] = {
        {"memo_serve_calls_total", "counter", "calls read", s->calls},
        {"memo_serve_answers_total", "counter", "calls answered", s->answered},
        {"memo_serve_refused_total", "counter", "calls that could not run", s->refused},
        {"memo_serve_hung_up_total", "counter", "calls whose client went away", s->hung_up},
        {"memo_serve_running", "gauge", "calls being computed", s->running_count},
        {"memo_serve_prompt_tokens_total", "counter", "of calls answered", s->prompt_tokens},
        {"memo_serve_cached_tokens_total", "counter", "of prompts, not computed again",
         s->cached_tokens},
        {"memo_serve_output_tokens_total", "counter", "of calls answered", s->output_tokens},
        {"memo_serve_preemptions_total", "counter", "calls put back for want of cache",
         now.preemptions},
        {"memo_serve_cache_blocks_used", "gauge", "by calls being computed", now.blocks_used},
        {"memo_serve_cache_blocks", "gauge", "in all", now.blocks},
    };
    strbuf_reset(&s->json);
    for (size_t i = 0; i < sizeof metrics / sizeof *metrics; i++)
        strbuf_addf(&s->json, "# HELP %s %s\n# TYPE %s %s\n%s %" PRIu64 "\n", metrics[i].name,
                    metrics[i].help, metrics[i].name, metrics[i].type, metrics[i].name,
                    metrics[i].value);
    server_publish(s->server, SERVER_METRICS, s->json.bytes, s->json.length);
}

static void publish_model(struct serving *s)
{
    strbuf_reset(&s->json);
    chat_models_write(&s->json, s->options->name, (int64_t)time(NULL), s->host->context_tokens);
    server_publish(s->server, SERVER_MODELS, s->json.bytes, s->json.length);
}

static void look_around(struct serving *s)
{
    const double now = clock_seconds();
    if (now - s->looked_seconds >= LOOK_SECONDS) {
        s->looked_seconds = now;
        drop_those_gone(s);
    }
    if (now - s->published_seconds >= PUBLISH_SECONDS) {
        s->published_seconds = now;
        publish_metrics(s);
    }
}

static int compute(struct serving *s, struct error *err)
{
    struct engine_result result;
    enum engine_poll polled;
    while ((polled = engine_poll(s->host->engine, &result, err)) == ENGINE_RESULT)
        take_result(s, &result);
    send_pieces(s);
    return polled == ENGINE_FAILED ? -1 : 0;
}

int serving_run(struct serving *s, bool (*stop)(void), struct error *err)
{
    double stop_seconds = 0; // when it was asked for
    for (;;) {
        const bool idle = s->running_count == 0;
        if (!stop_seconds && stop()) {
            stop_seconds = clock_seconds();
            server_stop_accepting(s->server);
        }
        take_calls(s, idle && !stop_seconds);
        if (stop_seconds &&
            (s->running_count == 0 || clock_seconds() - stop_seconds > s->options->drain_seconds))
            return 0;
        if (compute(s, err))
            return -1;
        look_around(s);
    }
}

struct serving *serving_create(struct engine_host *host, struct server *server,
                               const struct serving_options *options)
{
    struct serving *s = mem_calloc(1, sizeof *s);
    s->host = host;
    s->server = server;
    s->options = options;
    s->scratch = tokenizer_scratch_create(host->tokenizer);
    publish_model(s);
    publish_metrics(s);
    return s;
}

void serving_destroy(struct serving *s)
{
    while (s->running) {
        engine_cancel(s->host->engine, s->running->head.id);
        exchange_drop(s->running->exchange);
        conversation_free(s, &s->running);
    }
    tokenizer_scratch_destroy(s->scratch);
    arena_release(&s->arena);
    token_list_release(&s->prompt);
    strbuf_release(&s->json);
    free(s);
}
