// SPDX-License-Identifier: Apache-2.0
// A request moves between lists:
//
//   submit ─▶ waiting ─▶ flying ─▶ finished ─▶ delivered
//                ▲          │ a fault
//                └─ delayed ◀┘
#include "worker/http/lm_http_internal.h"

#include "base/log.h"
#include "base/mem.h"
#include "worker/http/chat_response.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *lm_http_fault_name(enum lm_http_fault fault)
{
    static const char *const names[LM_HTTP_FAULTS] = {"throttled", "server error", "connection",
                                                      "timeout",   "malformed",    "refused"};
    return names[fault];
}

static void finish(struct http_request *request, enum lm_end end, const char *problem)
{
    request->result.end = end;
    request->result.problem = problem;
    request->result.forced_from = SIZE_MAX;
    request_list_append(&request->http->finished, request);
}

static void http_submit(struct lm *lm, const struct lm_request *given)
{
    struct lm_http *http = (struct lm_http *)lm;
    struct http_request *request = http_request_create(http, given);
    struct error err;
    if (http->waiting.count + http->delayed.count + http->flying.count == 0)
        http->failing_since_ms = 0; // an outage is counted while there is something to ask
    if (chat_prompt_check(&request->prompt, &err))
        finish(request, LM_REJECTED, arena_printf(&request->arena, "%s", err.text));
    else
        request_list_append(&http->waiting, request);
}

static void start_try(struct lm_http *http, struct http_request *request)
{
    struct strbuf body = {0};
    const size_t at = request->try.endpoint;
    request->sent = http->dialects[at];
    chat_request_write(&body, http->model, &request->prompt, &request->sent);
    request->transfer = transfers_start(http->transfers, http->urls[at].address,
                                        http->urls[at].is_loopback, &body, request);
    request_list_append(&http->flying, request);
    http->statistics.tries++;
}

static void start_waiting(struct lm_http *http)
{
    const uint64_t now_ms = transfers_now_ms();
    struct endpoint_try try;
    while (http->waiting.count > 0 && http->flying.count < http->base.capacity &&
           endpoints_begin(&http->endpoints, now_ms, &try) == 0) {
        struct http_request *request = request_list_take(&http->waiting);
        request->try = try;
        start_try(http, request);
    }
}

static void end_delays(struct lm_http *http)
{
    const uint64_t now_ms = transfers_now_ms();
    struct http_request *next;
    for (struct http_request *request = http->delayed.first; request; request = next) {
        next = request->next;
        if (now_ms < request->due_ms)
            continue;
        request_list_remove(&http->delayed, request);
        request_list_prepend(&http->waiting, request);
    }
}

static void say_change(const struct lm_http *http, const struct http_request *request,
                       enum endpoint_change change, const char *problem)
{
    const size_t at = request->try.endpoint;
    const struct endpoint *endpoint = &http->endpoints.endpoint[at];
    const char *label = http->urls[at].label;
    if (change == ENDPOINT_RESTS)
        log_warn("'%s' rests for %.1f s after %u failures in a row, the last: %s", label,
                 (double)(endpoint->rest_until_ms - transfers_now_ms()) / 1000, endpoint->failures,
                 problem);
    else if (change == ENDPOINT_RECOVERED)
        log_info("'%s' answers again", label);
    else if (change == ENDPOINT_OUT)
        log_warn("'%s' is not asked any more: %s", label, problem);
}

static void break_model(struct lm_http *http, const struct http_request *request,
                        const char *problem, uint64_t now_ms)
{
    const char *label = http->urls[request->try.endpoint].label;
    if (http->broken.text[0])
        return;
    if (endpoints_all_out(&http->endpoints))
        error_set(&http->broken, "'%s' refuses every request: %s%s", label, problem,
                  http->key ? "" : " (no key was sent: MEMO_API_KEY is not set)");
    else if (now_ms - http->failing_since_ms >= http->outage_timeout_ms)
        error_set(&http->broken,
                  "no request was answered for %.0f s, the last failure: '%s': %s; run the same "
                  "command again when the server answers",
                  (double)(now_ms - http->failing_since_ms) / 1000, label, problem);
}

static enum endpoint_outcome outcome_of(enum lm_http_fault fault)
{
    if (fault == LM_HTTP_THROTTLED)
        return ENDPOINT_THROTTLED;
    return fault == LM_HTTP_REFUSED ? ENDPOINT_REFUSED : ENDPOINT_FAILED;
}

struct fault {
    enum lm_http_fault kind;
    bool is_overload;    // a server error that asks for less
    bool counts;         // as one of the request's tries: the request may be to blame
    const char *problem; // in the request's arena
    int64_t retry_after_ms;
};

static void fail_try(struct http_request *request, const struct fault *fault)
{
    struct lm_http *http = request->http;
    const uint64_t now_ms = transfers_now_ms();
    const enum endpoint_outcome outcome =
        fault->is_overload ? ENDPOINT_THROTTLED : outcome_of(fault->kind);
    const enum endpoint_change change =
        endpoints_end(&http->endpoints, &request->try, outcome, now_ms, fault->retry_after_ms);
    say_change(http, request, change, fault->problem);
    if (http->failing_since_ms == 0)
        http->failing_since_ms = now_ms;
    break_model(http, request, fault->problem, now_ms);
    http->statistics.faults[fault->kind]++;
    request->failures++;
    request->tries += fault->counts;
    if (request->tries >= http->tries) {
        finish(request, LM_FAILED,
               arena_printf(&request->arena, "tried %u times; the last: '%s': %s", request->tries,
                            http->urls[request->try.endpoint].label, fault->problem));
        return;
    }
    request->due_ms = now_ms + retry_delay_ms(&http->retry, request->result.id, request->failures,
                                              fault->retry_after_ms);
    request_list_append(&http->delayed, request);
}

static void end_try(struct http_request *request, enum endpoint_outcome outcome)
{
    struct lm_http *http = request->http;
    const enum endpoint_change change = endpoints_end(&http->endpoints, &request->try, outcome,
                                                      transfers_now_ms(), RETRY_AFTER_NONE);
    say_change(http, request, change, "");
    http->failing_since_ms = 0;
}

// The endpoint is asked for less from now on, and this request again. Others may have found out
// before.
static void ask_for_less(struct http_request *request, const struct dialect *narrower,
                         const char *why)
{
    struct lm_http *http = request->http;
    const size_t at = request->try.endpoint;
    if (dialect_equal(&http->dialects[at], &request->sent)) {
        log_warn("'%s' does not take %s, it is asked without from now on: %s", http->urls[at].label,
                 dialect_difference(&request->sent, narrower), why);
        http->dialects[at] = *narrower;
    }
    end_try(request, ENDPOINT_REJECTED);
    http->statistics.narrowed++;
    request_list_prepend(&http->waiting, request);
}

static bool narrow(struct http_request *request, const struct chat_response *response)
{
    struct dialect narrower = request->sent;
    if (!response->may_narrow || !dialect_narrow(&narrower, response->complaint))
        return false;
    ask_for_less(request, &narrower, response->problem);
    return true;
}

// A server that had read response_format would not have answered so: some leave it out without a
// word. The schema goes into the prompt then.
static bool ignores_schema(struct http_request *request, const struct chat_response *response)
{
    struct dialect narrower = request->sent;
    if (!request->prompt.schema || response->is_json || response->is_cut ||
        request->sent.form >= ANSWER_OBJECT)
        return false;
    narrower.form = ANSWER_OBJECT;
    ask_for_less(request, &narrower, "an answer was not JSON");
    return true;
}

static void answer(struct http_request *request, const struct chat_response *response)
{
    request->result.answer = response->answer;
    request->result.prompt_tokens = response->prompt_tokens;
    request->result.cached_tokens = response->cached_tokens;
    request->result.output_tokens = response->output_tokens;
    end_try(request, ENDPOINT_ANSWERED);
    request->http->statistics.answers++;
    finish(request, response->is_cut ? LM_LENGTH : LM_STOP, "");
}

static void take_reply(struct http_request *request, const struct transfer_result *result)
{
    struct lm_http *http = request->http;
    const struct chat_reply reply = {result->status, result->content_type,           result->body,
                                     result->bytes,  request->prompt.schema != NULL, http->key};
    struct chat_response response;
    chat_response_read(&request->arena, &reply, &response);
    if (response.verdict == CHAT_ANSWERED) {
        if (!ignores_schema(request, &response))
            answer(request, &response);
    } else if (narrow(request, &response)) {
        return;
    } else if (response.verdict == CHAT_REJECTED) {
        end_try(request, ENDPOINT_REJECTED);
        http->statistics.rejections++;
        finish(request, LM_REJECTED, response.problem);
    } else {
        const int64_t retry_after_ms =
            result->retry_after
                ? retry_after_parse(result->retry_after, strlen(result->retry_after), time(NULL))
                : RETRY_AFTER_NONE;
        fail_try(request, &(struct fault){response.fault, result->status == 503,
                                          response.fault != LM_HTTP_REFUSED, response.problem,
                                          retry_after_ms});
    }
}

void lm_http_transfer_ended(void *owner, const struct transfer_result *result)
{
    static const enum lm_http_fault faults[] = {
        [TRANSFER_UNREACHABLE] = LM_HTTP_CONNECTION, [TRANSFER_LOST] = LM_HTTP_CONNECTION,
        [TRANSFER_CUT] = LM_HTTP_MALFORMED,          [TRANSFER_TIMEOUT] = LM_HTTP_TIMEOUT,
        [TRANSFER_UNTRUSTED] = LM_HTTP_REFUSED,
    };
    struct http_request *request = owner;
    request->transfer = NULL;
    request_list_remove(&request->http->flying, request);
    if (result->end == TRANSFER_DONE) {
        take_reply(request, result);
        return;
    }
    const char *problem = text_for_people(&request->arena, result->problem, strlen(result->problem),
                                          CHAT_PROBLEM_BYTES, request->http->key);
    const bool counts = result->end != TRANSFER_UNREACHABLE && result->end != TRANSFER_UNTRUSTED;
    fail_try(request,
             &(struct fault){faults[result->end], false, counts, problem, RETRY_AFTER_NONE});
}

static enum lm_poll deliver(struct lm_http *http, struct lm_result *out)
{
    http->delivered = request_list_take(&http->finished);
    *out = http->delivered->result;
    return LM_POLL_RESULT;
}

static enum lm_poll http_poll(struct lm *lm, struct lm_result *out, struct error *err)
{
    struct lm_http *http = (struct lm_http *)lm;
    http_request_destroy(http->delivered);
    http->delivered = NULL;
    if (!http->broken.text[0]) {
        end_delays(http);
        start_waiting(http);
        const size_t left = http->waiting.count + http->delayed.count + http->flying.count;
        const bool may_sleep = left > 0 && http->finished.count == 0;
        transfers_turn(http->transfers, may_sleep ? http->poll_wait_ms : 0);
    }
    if (http->finished.count > 0)
        return deliver(http, out);
    if (http->broken.text[0]) {
        error_set(err, "%s", http->broken.text);
        return LM_POLL_BROKEN;
    }
    return http->waiting.count + http->delayed.count + http->flying.count > 0 ? LM_POLL_RUNNING
                                                                              : LM_POLL_IDLE;
}

static void stop_flying(struct lm_http *http, struct http_request *request)
{
    transfer_abort(request->transfer);
    request->transfer = NULL;
    endpoints_end(&http->endpoints, &request->try, ENDPOINT_CANCELLED, transfers_now_ms(),
                  RETRY_AFTER_NONE);
}

static void http_cancel(struct lm *lm, uint64_t id)
{
    struct lm_http *http = (struct lm_http *)lm;
    struct request_list *const lists[] = {&http->waiting, &http->delayed, &http->flying,
                                          &http->finished};
    for (size_t i = 0; i < sizeof(lists) / sizeof(lists[0]); i++) {
        struct http_request *request = request_list_find(lists[i], id);
        if (!request)
            continue;
        if (request->transfer)
            stop_flying(http, request);
        request_list_remove(lists[i], request);
        http_request_destroy(request);
    }
}

static void destroy_list(struct request_list *list)
{
    struct http_request *request;
    while ((request = request_list_take(list)))
        http_request_destroy(request);
}

static void forget_key(char *key)
{
    if (key)
        explicit_bzero(key, strlen(key));
    free(key);
}

static void http_destroy(struct lm *lm)
{
    struct lm_http *http = (struct lm_http *)lm;
    transfers_destroy(http->transfers);
    destroy_list(&http->waiting);
    destroy_list(&http->delayed);
    destroy_list(&http->flying);
    destroy_list(&http->finished);
    http_request_destroy(http->delivered);
    base_urls_release(http->urls, http->endpoints.count);
    forget_key(http->key);
    free(http->model);
    free(http);
}

const struct lm_ops lm_http_ops = {http_submit, http_poll, http_cancel, http_destroy};

struct lm_http_statistics lm_http_statistics(const struct lm *lm)
{
    const struct lm_http *http = (const struct lm_http *)lm;
    struct lm_http_statistics statistics = http->statistics;
    assert(lm->ops == &lm_http_ops);
    statistics.in_flight = http->flying.count;
    statistics.waiting = http->waiting.count + http->delayed.count;
    return statistics;
}
