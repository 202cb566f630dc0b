// SPDX-License-Identifier: Apache-2.0
#include "worker/http/endpoints.h"

#include "base/random.h"

#include <assert.h>
#include <math.h>

#define LATENCY_WEIGHT 0.2 // of the newest latency: about the last ten count
#define SUCCESS_WEIGHT 0.05
#define SUCCESS_FLOOR 0.05 // an endpoint that always fails costs 20 times as much, not infinitely
#define LATENCY_HALF_LIFE_MS 30000.0
#define LATENCY_LEAST_MS 0.1 // below this they are all equal
#define CURIOSITY 0.9        // an unknown latency, as a share of the fastest: asked first
#define WINDOW_DECREASE 0.7
#define WINDOW_INCREASE 0.5
#define REST_BASE_MS 1000
#define REST_CAP_MS 30000

void endpoints_init(struct endpoints *set, size_t count, size_t window_limit, uint64_t seed)
{
    assert(count > 0 && count <= ENDPOINTS_LIMIT && window_limit > 0);
    *set = (struct endpoints){.count = count, .window_limit = window_limit, .seed = seed};
    for (size_t i = 0; i < count; i++)
        set->endpoint[i] = (struct endpoint){.success = 1, .window = (double)window_limit};
}

static bool has_room(const struct endpoint *endpoint, uint64_t now_ms)
{
    if (endpoint->is_out || now_ms < endpoint->rest_until_ms)
        return false;
    const double window = endpoint->rests > 0 ? 1 : floor(endpoint->window);
    return (double)endpoint->outstanding < window;
}

static double expected_latency(const struct endpoint *endpoint, uint64_t now_ms)
{
    double latency = endpoint->latency_ms;
    if (endpoint->outstanding == 0 && now_ms > endpoint->last_ms)
        latency *= exp2(-(double)(now_ms - endpoint->last_ms) / LATENCY_HALF_LIFE_MS);
    return fmax(latency, LATENCY_LEAST_MS);
}

static double fastest(const struct endpoints *set, uint64_t now_ms)
{
    double least = INFINITY;
    for (size_t i = 0; i < set->count; i++)
        if (set->endpoint[i].latency_ms > 0)
            least = fmin(least, expected_latency(&set->endpoint[i], now_ms));
    return isinf(least) ? LATENCY_LEAST_MS : least;
}

static double cost(const struct endpoint *endpoint, double fastest_ms, uint64_t now_ms)
{
    const double latency =
        endpoint->latency_ms > 0 ? expected_latency(endpoint, now_ms) : CURIOSITY * fastest_ms;
    return latency * (double)(endpoint->outstanding + 1) / fmax(endpoint->success, SUCCESS_FLOOR);
}

int endpoints_begin(struct endpoints *set, uint64_t now_ms, struct endpoint_try *out)
{
    const double fastest_ms = fastest(set, now_ms);
    struct endpoint *best = NULL;
    double best_cost = INFINITY;
    for (size_t i = 0; i < set->count; i++) {
        struct endpoint *endpoint = &set->endpoint[i];
        const double this_cost = cost(endpoint, fastest_ms, now_ms);
        if (has_room(endpoint, now_ms) && this_cost < best_cost) {
            best = endpoint;
            best_cost = this_cost;
        }
    }
    if (!best)
        return -1;
    best->outstanding++;
    best->last_ms = now_ms;
    *out = (struct endpoint_try){(size_t)(best - set->endpoint), best->epoch, now_ms};
    return 0;
}

static void measure(struct endpoint *endpoint, double latency_ms)
{
    latency_ms = fmax(latency_ms, LATENCY_LEAST_MS);
    if (endpoint->latency_ms > 0)
        endpoint->latency_ms += LATENCY_WEIGHT * (latency_ms - endpoint->latency_ms);
    else
        endpoint->latency_ms = latency_ms;
}

static enum endpoint_change work_again(struct endpoint *endpoint)
{
    const bool was_resting = endpoint->rests > 0;
    endpoint->failures = endpoint->refusals = endpoint->rests = 0;
    endpoint->rest_until_ms = 0;
    endpoint->has_answered = true;
    return was_resting ? ENDPOINT_RECOVERED : ENDPOINT_UNCHANGED;
}

static enum endpoint_change answered(struct endpoints *set, struct endpoint *endpoint,
                                     double latency_ms)
{
    measure(endpoint, latency_ms);
    endpoint->success += SUCCESS_WEIGHT * (1 - endpoint->success);
    endpoint->window = fmin(endpoint->window + WINDOW_INCREASE, (double)set->window_limit);
    return work_again(endpoint);
}

static enum endpoint_change rest(struct endpoints *set, struct endpoint *endpoint, uint64_t now_ms,
                                 int64_t retry_after_ms)
{
    double length = fmin(ldexp(REST_BASE_MS, (int)endpoint->rests), REST_CAP_MS);
    const uint64_t stream = (uint64_t)(endpoint - set->endpoint);
    length *= 0.5 + 0.5 * random_uniform(set->seed, stream, endpoint->epoch);
    if (retry_after_ms > 0)
        length = fmax(length, fmin((double)retry_after_ms, REST_CAP_MS));
    endpoint->rests += endpoint->rests < 16; // the length has long reached its cap
    endpoint->epoch++;
    endpoint->outstanding = 0;
    endpoint->window = 1;
    endpoint->rest_until_ms = now_ms + (uint64_t)length;
    return ENDPOINT_RESTS;
}

static enum endpoint_change failed(struct endpoints *set, struct endpoint *endpoint,
                                   enum endpoint_outcome outcome, uint64_t now_ms,
                                   int64_t retry_after_ms)
{
    endpoint->success -= SUCCESS_WEIGHT * endpoint->success;
    endpoint->failures++;
    // Too many at once is no reason to rest as long as fewer can be tried.
    const bool may_ask_less = outcome == ENDPOINT_THROTTLED && endpoint->window > 1;
    if (may_ask_less)
        endpoint->window = fmax(endpoint->window * WINDOW_DECREASE, 1);
    endpoint->refusals = outcome == ENDPOINT_REFUSED ? endpoint->refusals + 1 : 0;
    if (endpoint->refusals >= ENDPOINT_REFUSALS && !endpoint->has_answered) {
        endpoint->is_out = true;
        return ENDPOINT_OUT;
    }
    if (endpoint->rests > 0 || (endpoint->failures >= ENDPOINT_RESTS_AFTER && !may_ask_less))
        return rest(set, endpoint, now_ms, retry_after_ms);
    return ENDPOINT_UNCHANGED;
}

enum endpoint_change endpoints_end(struct endpoints *set, const struct endpoint_try *try,
                                   enum endpoint_outcome outcome, uint64_t now_ms,
                                   int64_t retry_after_ms)
{
    struct endpoint *endpoint = &set->endpoint[try->endpoint];
    const bool is_current = try->epoch == endpoint->epoch;
    if (is_current) {
        assert(endpoint->outstanding > 0);
        endpoint->outstanding--;
    }
    endpoint->last_ms = now_ms;
    switch (outcome) {
    case ENDPOINT_ANSWERED:
        return answered(set, endpoint, (double)(now_ms - try->started_ms));
    case ENDPOINT_REJECTED:
        return work_again(endpoint);
    case ENDPOINT_THROTTLED:
    case ENDPOINT_FAILED:
    case ENDPOINT_REFUSED:
        if (is_current && !endpoint->is_out)
            return failed(set, endpoint, outcome, now_ms, retry_after_ms);
        return ENDPOINT_UNCHANGED;
    case ENDPOINT_CANCELLED:
        return ENDPOINT_UNCHANGED;
    }
    return ENDPOINT_UNCHANGED;
}

bool endpoints_all_out(const struct endpoints *set)
{
    for (size_t i = 0; i < set->count; i++)
        if (!set->endpoint[i].is_out)
            return false;
    return true;
}
