// SPDX-License-Identifier: Apache-2.0
// HTTP POST requests, many at once: libcurl's multi interface on a libuv loop. Knows nothing of
// what is sent. One thread; callbacks run inside transfers_turn alone, and may start and abort
// transfers.
//
// libcurl says which sockets to watch (on_socket) and when it wants to be called (on_timeout);
// libuv tells it what happened. A watcher belongs to its socket and is freed in its close callback.
#ifndef MEMO_WORKER_HTTP_TRANSFERS_H
#define MEMO_WORKER_HTTP_TRANSFERS_H

#include "base/error.h"
#include "base/strbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    TRANSFER_BODY_LIMIT = 4 << 20,    // an answer of 32,000 tokens is about 200 KB
    TRANSFER_HEADER_LIMIT = 64 << 10, // of all header lines together
    TRANSFER_STALL_BYTES = 1024,      // that a body must bring in each stall_timeout_ms
};

struct transfer_limits {
    uint32_t connect_timeout_ms;
    uint32_t first_byte_timeout_ms; // of the reply, from the start
    uint32_t stall_timeout_ms;
    uint32_t total_timeout_ms;
    size_t connections; // that are kept open
};

enum transfer_end {
    TRANSFER_DONE,        // a whole reply, whatever its status
    TRANSFER_UNREACHABLE, // no connection could be made
    TRANSFER_LOST,        // there was one
    TRANSFER_CUT,         // the reply ended too early, or is larger than the limits
    TRANSFER_TIMEOUT,
    TRANSFER_UNTRUSTED, // the certificate is not to be trusted
};

struct transfer_result {
    enum transfer_end end;
    const char *problem; // "" when done
    int status;
    const char *content_type; // "" when there is none
    const char *retry_after;  // the header's value; NULL when there is none
    const char *body;
    size_t bytes;
};

struct transfers;
struct transfer;

// The result lives during the call.
typedef void transfer_ended(void *owner, const struct transfer_result *result);

// key: sent as bearer token, or NULL.
int transfers_create(const struct transfer_limits *limits, const char *key, transfer_ended *ended,
                     struct transfers **out, struct error *err);
void transfers_destroy(struct transfers *transfers); // aborts what is in flight; NULL is nothing

// Takes the body, JSON. direct: no proxy is asked. Failures come as results too.
struct transfer *transfers_start(struct transfers *transfers, const char *address, bool direct,
                                 struct strbuf *body, void *owner);
void transfer_abort(struct transfer *transfer); // `ended` is not called

// Lets things happen; sleeps at most wait_ms while nothing does. Calls `ended`.
void transfers_turn(struct transfers *transfers, uint32_t wait_ms);

uint64_t transfers_now_ms(void); // the clock that limits are measured with

#endif
