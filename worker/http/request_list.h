// SPDX-License-Identifier: Apache-2.0
// A request on its way through the HTTP model, and lists of such requests. A request is in exactly
// one list from its creation to its end.
#ifndef MEMO_WORKER_HTTP_REQUEST_LIST_H
#define MEMO_WORKER_HTTP_REQUEST_LIST_H

#include "base/arena.h"
#include "worker/http/chat_request.h"
#include "worker/http/endpoints.h"
#include "worker/http/transfers.h"

struct lm_http;

struct http_request {
    struct http_request *previous, *next;
    struct lm_http *http;
    struct chat_prompt prompt; // its texts lie in the arena
    struct arena arena;        // also the answer
    struct transfer *transfer; // while flying
    struct endpoint_try try;
    struct dialect sent;
    uint32_t tries;    // that failed and count
    uint32_t failures; // in a row, for the backoff
    uint64_t due_ms;   // while delayed
    struct lm_result result;
};

// Copies the request.
struct http_request *http_request_create(struct lm_http *http, const struct lm_request *request);
void http_request_destroy(struct http_request *request); // out of any list, not flying; or NULL

struct request_list {
    struct http_request *first, *last;
    size_t count;
};

void request_list_append(struct request_list *list, struct http_request *request);
void request_list_prepend(struct request_list *list, struct http_request *request);
void request_list_remove(struct request_list *list, struct http_request *request);
struct http_request *request_list_find(const struct request_list *list, uint64_t id); // or NULL
struct http_request *request_list_take(struct request_list *list); // the first, or NULL

#endif
