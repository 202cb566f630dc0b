// SPDX-License-Identifier: Apache-2.0
// What lm_http.c (requests on their way) and lm_http_create.c (options) share.
#ifndef MEMO_WORKER_HTTP_LM_HTTP_INTERNAL_H
#define MEMO_WORKER_HTTP_LM_HTTP_INTERNAL_H

#include "worker/http/base_url.h"
#include "worker/http/chat_request.h"
#include "worker/http/endpoints.h"
#include "worker/http/lm_http.h"
#include "worker/http/request_list.h"
#include "worker/http/retry.h"
#include "worker/http/transfers.h"

struct lm_http {
    struct lm base; // first
    char *model;
    char *key; // NULL: none
    struct base_url urls[LM_HTTP_ENDPOINTS_LIMIT];
    struct dialect dialects[LM_HTTP_ENDPOINTS_LIMIT];
    struct endpoints endpoints;
    struct retry_policy retry;
    uint32_t tries;
    uint32_t outage_timeout_ms;
    uint32_t poll_wait_ms;
    struct transfers *transfers;
    struct request_list waiting; // for a place, first come first served
    struct request_list delayed; // until due_ms
    struct request_list flying;
    struct request_list finished;
    struct http_request *delivered; // its result was given out by the last poll
    uint64_t failing_since_ms;      // nothing was answered since; 0: something was
    struct error broken;            // text "" while it works
    struct lm_http_statistics statistics;
};

extern const struct lm_ops lm_http_ops;

// The `ended` of the model's transfers.
void lm_http_transfer_ended(void *owner, const struct transfer_result *result);

#endif
