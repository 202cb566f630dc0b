// SPDX-License-Identifier: Apache-2.0
// A language model behind OpenAI-compatible endpoints ("POST URL/chat/completions"), as an
// implementation of worker/lm/lm.h: libcurl on a libuv loop of its own, hundreds of requests in
// flight, one thread, no thread of its own beside libcurl's resolver.
//
// What happens to a request:
//   answered                        LM_STOP, or LM_LENGTH when the server says so
//   400, 413, 422 ...               LM_REJECTED with the server's message, unless the message names
//                                   a field that the endpoint can do without: then that endpoint is
//                                   asked without it from now on (chat_request.h)
//   429, 5xx, timeout, connection   tried again after exponential backoff with full jitter, or what
//   lost, body cut off, not JSON    Retry-After says (retry.h); after `tries` of them LM_FAILED
//   no connection; 401, 403, 404,   tried again without limit: it says nothing of the request, but
//   redirect                        something of the endpoint; others are asked
// lm_poll returns LM_POLL_BROKEN when every endpoint refuses us, or none has answered for
// outage_timeout_ms: no single request is to blame then, and the same command can be run again.
//
// Endpoints are chosen by least expected completion time; one that fails again and again rests and
// is probed (endpoints.h).
//
// The key is read from the environment, MEMO_API_KEY or else OPENAI_API_KEY, and sent as a bearer
// token. It is never logged, and removed from what servers say. TLS certificates are verified,
// with the system's authorities or those in the file that SSL_CERT_FILE names. Proxies are taken
// from the environment as libcurl does (https_proxy, no_proxy, ...), never for this machine itself.
// The process ignores SIGPIPE.
#ifndef MEMO_WORKER_HTTP_LM_HTTP_H
#define MEMO_WORKER_HTTP_LM_HTTP_H

#include "worker/lm/lm.h"

enum {
    LM_HTTP_ENDPOINTS_LIMIT = 16,
    LM_HTTP_IN_FLIGHT_LIMIT = 1024, // each may hold a socket; a process has 1024 without asking
    LM_HTTP_TRIES_LIMIT = 100,
};

// Zero means the default in brackets. Texts are copied.
struct lm_http_options {
    // Base URLs, separated by commas: "http://host:8000/v1". Without a path "/v1" is meant.
    // "?query" is kept. A user or password in it is an error.
    const char *urls;
    const char *model;              // the name that the server knows
    const char *revision;           // of the model, as far as the caller knows it; NULL is ""
    size_t max_in_flight;           // over all endpoints [128]; becomes lm.capacity
    size_t context_tokens;          // as stated by the caller; becomes lm.context_tokens
    uint32_t tries;                 // of one request [10]
    uint32_t connect_timeout_ms;    // name, TCP and TLS [10 s]
    uint32_t first_byte_timeout_ms; // from the start; the model works meanwhile [300 s]
    uint32_t
        stall_timeout_ms; // a body that brings fewer than 1 KiB in this time is given up [30 s]
    uint32_t request_timeout_ms; // the whole of one try [600 s]
    uint32_t outage_timeout_ms;  // nothing but failures for so long: broken [600 s]
    uint32_t
        retry_base_ms; // the first delay lies between 0 and this, the next up to twice ... [500 ms]
    uint32_t retry_cap_ms; // no delay is longer, whatever Retry-After says [60 s]
    uint32_t poll_wait_ms; // lm_poll may sleep so long when nothing happens [never]
    uint64_t seed;         // of the jitter
};

// An error when a URL, the key or a limit is not usable; no connection is made. lm.digest is that
// of the URLs (sorted), the model's name and the revision.
int lm_http_create(const struct lm_http_options *options, struct lm **out, struct error *err);

// Why tries of requests failed, and how often, since creation.
enum lm_http_fault {
    LM_HTTP_THROTTLED,    // 429
    LM_HTTP_SERVER_ERROR, // 5xx, 408, 409, 425
    LM_HTTP_CONNECTION,   // none, or lost before the answer was there
    LM_HTTP_TIMEOUT,
    LM_HTTP_MALFORMED, // cut off, too large, not JSON, not an answer
    LM_HTTP_REFUSED,   // 401, 402, 403, 404, 405, redirects
    LM_HTTP_FAULTS,
};
const char *lm_http_fault_name(enum lm_http_fault fault); // "throttled"

// For progress lines and reports. tries = answers + rejections + narrowed + sum of faults + those
// in flight or cancelled.
struct lm_http_statistics {
    uint64_t tries;
    uint64_t answers;
    uint64_t rejections;
    uint64_t narrowed; // asked again with fewer fields
    uint64_t faults[LM_HTTP_FAULTS];
    size_t in_flight;
    size_t waiting; // for a free place, or for the end of a delay
};
struct lm_http_statistics lm_http_statistics(const struct lm *lm); // of a model made here

#endif
