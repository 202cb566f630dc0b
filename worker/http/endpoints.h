// SPDX-License-Identifier: Apache-2.0
// Which of several endpoints is asked next, and how many requests it gets at once. A pure state
// machine: the time comes from outside, in milliseconds of any origin.
//
// Choice. The least expected completion time ("peak EWMA" of Finagle and Linkerd, with the share of
// tries that succeed):
//
//   cost = latency (outstanding + 1) / success
//
// latency and success are exponentially weighted means over the last tries; one without a latency
// yet is taken for a little faster than the fastest known; the latency of an endpoint that has been
// idle is halved every 30 s, so that a slow one is measured again.
//
// Window. How many may be outstanding: it begins at the limit, is multiplied by 0.7 when the
// endpoint says that it gets too many (429, 503), and grows by 0.5 with every answer. With a share
// p of such replies it settles near 0.5 (1 - p) / (0.3 p): 32 at 5%, 2 at 50%.
//
// Rest. After ENDPOINT_RESTS_AFTER failures in a row (too many at once is one when the window is
// down to 1) it rests, up to 1 s at first and twice as long each time, at most 30 s, by half at
// random; then one request at a time probes it until one is answered. Requests that were begun
// before a rest count neither as outstanding nor as failures afterwards.
//
// Refusal. One that never answered and refused us ENDPOINT_REFUSALS times in a row is not asked
// again: it will not change its mind.
#ifndef MEMO_WORKER_HTTP_ENDPOINTS_H
#define MEMO_WORKER_HTTP_ENDPOINTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { ENDPOINTS_LIMIT = 16, ENDPOINT_RESTS_AFTER = 5, ENDPOINT_REFUSALS = 3 };

struct endpoint {
    size_t outstanding; // begun since the last rest and not ended
    double latency_ms;  // 0: unknown
    double success;     // share of tries, 0 to 1
    double window;
    uint32_t failures; // in a row
    uint32_t refusals; // in a row
    uint32_t rests;    // in a row; above 0 it rests or is probed
    uint32_t epoch;    // counts rests
    uint64_t rest_until_ms;
    uint64_t last_ms; // when a try last began or ended
    bool has_answered;
    bool is_out; // refuses us for good
};

struct endpoints {
    struct endpoint endpoint[ENDPOINTS_LIMIT];
    size_t count;
    size_t window_limit;
    uint64_t seed; // of the jitter of rests
};

struct endpoint_try {
    size_t endpoint;
    uint32_t epoch;
    uint64_t started_ms;
};

enum endpoint_outcome {
    ENDPOINT_ANSWERED,
    ENDPOINT_REJECTED, // the request was at fault; the endpoint works
    ENDPOINT_THROTTLED,
    ENDPOINT_FAILED,
    ENDPOINT_REFUSED,
    ENDPOINT_CANCELLED, // says nothing about it
};

enum endpoint_change {
    ENDPOINT_UNCHANGED,
    ENDPOINT_RESTS,     // until rest_until_ms
    ENDPOINT_RECOVERED, // answered after a rest
    ENDPOINT_OUT,       // refuses us for good
};

void endpoints_init(struct endpoints *set, size_t count, size_t window_limit, uint64_t seed);

// 0: the try is begun at the cheapest endpoint. -1: none has room now.
int endpoints_begin(struct endpoints *set, uint64_t now_ms, struct endpoint_try *out);

// retry_after_ms: what the server said, or RETRY_AFTER_NONE; a rest is at least that long, up to
// its own limit.
enum endpoint_change endpoints_end(struct endpoints *set, const struct endpoint_try *try,
                                   enum endpoint_outcome outcome, uint64_t now_ms,
                                   int64_t retry_after_ms);

bool endpoints_all_out(const struct endpoints *set);

#endif
