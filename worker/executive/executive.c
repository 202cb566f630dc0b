// SPDX-License-Identifier: Apache-2.0
#include "worker/executive/executive.h"

#include "base/mem.h"

#include <stdlib.h>

// A request that has no result yet.
struct flight {
    uint64_t id; // of the language model; 0: the place is free
    size_t inquiry;
    uint64_t request; // of the inquiry
    enum inquiry_whom whom;
};

struct run {
    const struct executive *how;
    const char *const *questions;
    size_t count, begun, ended;
    struct inquiry **inquiries; // [count], NULL before and after
    struct flight *flights;     // [limit]
    size_t limit, in_flight;
    uint64_t submitted;
};

static struct lm *model_of(const struct executive *how, enum inquiry_whom whom)
{
    return whom == INQUIRY_EXECUTIVE ? how->executive : how->memory;
}

static void submit(struct run *run, size_t at, enum inquiry_whom whom, struct lm_request *request)
{
    struct flight *flight = run->flights;
    while (flight->id)
        flight++;
    *flight = (struct flight){++run->submitted, at, request->id, whom};
    request->id = flight->id;
    request->task = at + 1;
    run->in_flight++;
    lm_submit(model_of(run->how, whom), request);
}

// Sends what the inquiry can send now, as far as there is room; says when it has ended.
static void advance(struct run *run, size_t at)
{
    struct inquiry *inquiry = run->inquiries[at];
    struct lm_request request;
    enum inquiry_whom whom;
    while (run->in_flight < run->limit && inquiry_next(inquiry, &whom, &request))
        submit(run, at, whom, &request);
    if (inquiry_stage(inquiry) < INQUIRY_ANSWERED)
        return;
    run->how->ended(run->how->context, at, inquiry);
    inquiry_destroy(inquiry);
    run->inquiries[at] = NULL;
    run->ended++;
}

// Earlier inquiries first, so that they end.
static void advance_all(struct run *run)
{
    for (size_t at = 0; at < run->begun; at++)
        if (run->inquiries[at])
            advance(run, at);
    while (run->begun < run->count && run->in_flight < run->limit) {
        const size_t at = run->begun++;
        run->inquiries[at] =
            inquiry_create(run->questions[at], &run->how->limits, run->how->seed + at);
        advance(run, at);
    }
}

static void take(struct run *run, const struct lm_result *result)
{
    struct flight *flight = run->flights;
    while (flight->id != result->id)
        flight++;
    struct lm_result of_inquiry = *result;
    of_inquiry.id = flight->request;
    flight->id = 0;
    run->in_flight--;
    inquiry_take(run->inquiries[flight->inquiry], flight->whom, &of_inquiry);
}

static int poll_model(struct run *run, struct lm *lm, struct error *err)
{
    struct lm_result result;
    for (;;) {
        switch (lm_poll(lm, &result, err)) {
        case LM_POLL_BROKEN:
            return -1;
        case LM_POLL_RESULT:
            take(run, &result);
            break;
        default:
            return 0;
        }
    }
}

static int run_all(struct run *run, struct error *err)
{
    const struct executive *how = run->how;
    while (run->ended < run->count && !(how->stop && how->stop())) {
        advance_all(run);
        if (poll_model(run, how->executive, err))
            return error_prefix(err, "the executive");
        if (how->memory != how->executive && poll_model(run, how->memory, err))
            return error_prefix(err, "the memory");
    }
    return 0;
}

int executive_run(const struct executive *executive, const char *const *questions, size_t count,
                  struct error *err)
{
    const size_t limit = executive->executive->capacity + executive->memory->capacity;
    struct run run = {.how = executive,
                      .questions = questions,
                      .count = count,
                      .limit = limit,
                      .inquiries = mem_calloc(count ? count : 1, sizeof *run.inquiries),
                      .flights = mem_calloc(limit, sizeof *run.flights)};
    const int rc = run_all(&run, err);
    for (size_t i = 0; i < limit; i++)
        if (run.flights[i].id)
            lm_cancel(model_of(executive, run.flights[i].whom), run.flights[i].id);
    for (size_t i = 0; i < count; i++)
        inquiry_destroy(run.inquiries[i]);
    free(run.inquiries);
    free(run.flights);
    return rc;
}
