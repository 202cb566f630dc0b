// SPDX-License-Identifier: Apache-2.0
#include "worker/lm/lm_engine.h"

#include "base/mem.h"
#include "worker/lm/model_digest.h"
#include "worker/lm/prompt.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { WAITING_PER_SLOT = 2 };              // so that a slot never waits for the caller
#define REMEMBERED_BYTES ((size_t)64 << 20) // of tokenized parts

// A request that has no result yet. The engine knows it by its place in the order of submission.
struct flight {
    uint64_t sequence;
    uint64_t id; // the caller's
    struct json_schema *schema;
    char *problem; // why it was rejected before it reached the engine; NULL: it did
};

struct lm_engine {
    struct lm lm;
    struct engine_host host;
    struct prompt_maker *prompts;
    uint64_t submitted;

    struct flight *flights; // [flight_count], in no order
    size_t flight_count;
    size_t flight_capacity;
    size_t rejected; // how many of them have a problem
    char *told;      // the problem that the caller holds
    struct token_list prompt;
};

static struct lm_engine *of(struct lm *lm)
{
    return (struct lm_engine *)lm;
}

static struct flight *add_flight(struct lm_engine *e, uint64_t id)
{
    e->flights = mem_grow(e->flights, &e->flight_capacity, e->flight_count + 1, sizeof *e->flights);
    struct flight *flight = &e->flights[e->flight_count++];
    *flight = (struct flight){.sequence = e->submitted++, .id = id};
    return flight;
}

// Frees what the flight holds but its problem.
static void remove_flight(struct lm_engine *e, size_t at)
{
    if (e->flights[at].schema)
        schema_cache_give_back(e->host.schemas, e->flights[at].schema);
    e->flights[at] = e->flights[--e->flight_count];
}

static void submit(struct lm *lm, const struct lm_request *request)
{
    struct lm_engine *e = of(lm);
    struct error err = {""};
    struct flight *flight = add_flight(e, request->id);
    e->prompt.count = 0;
    int rc = prompt_make(e->prompts, request, &e->prompt, &err);
    if (rc == 0 && e->prompt.count >= lm->context_tokens)
        rc = error_set(&err, "the prompt has %zu tokens, which leaves none of %zu for an answer",
                       e->prompt.count, lm->context_tokens);
    if (rc == 0 && request->schema)
        rc = schema_cache_take(e->host.schemas, request->schema, &flight->schema, &err);
    if (rc) {
        flight->problem = mem_strdup(err.text);
        e->rejected++;
        return;
    }
    const size_t room = lm->context_tokens - e->prompt.count;
    engine_submit(e->host.engine,
                  &(struct engine_request){
                      .id = flight->sequence,
                      .prompt = e->prompt.ids,
                      .prompt_count = e->prompt.count,
                      .max_new = request->max_tokens < room ? request->max_tokens : room,
                      .stop_ids = e->host.stops,
                      .stop_count = e->host.stop_count,
                      .sampling = request->sampling,
                      .seed = request->seed,
                      .schema = flight->schema,
                  });
}

static enum lm_poll tell_rejected(struct lm_engine *e, struct lm_result *out)
{
    size_t at = 0;
    while (!e->flights[at].problem)
        at++;
    e->told = e->flights[at].problem;
    e->rejected--;
    *out = (struct lm_result){.id = e->flights[at].id,
                              .end = LM_REJECTED,
                              .answer = {"", 0},
                              .forced_from = SIZE_MAX,
                              .problem = e->told};
    remove_flight(e, at);
    return LM_POLL_RESULT;
}

static enum lm_end end_of(const struct engine_result *result)
{
    if (result->reason == ENGINE_REJECTED)
        return LM_REJECTED;
    return result->reason == ENGINE_LENGTH || result->forced_from != SIZE_MAX ? LM_LENGTH : LM_STOP;
}

static enum lm_poll tell_result(struct lm_engine *e, const struct engine_result *result,
                                struct lm_result *out)
{
    size_t at = 0;
    while (e->flights[at].problem || e->flights[at].sequence != result->id)
        at++;
    *out = (struct lm_result){.id = e->flights[at].id,
                              .end = end_of(result),
                              .answer = {result->text, result->text_bytes},
                              .prompt_tokens = (uint32_t)result->prompt_count,
                              .cached_tokens = (uint32_t)result->cached_count,
                              .output_tokens = (uint32_t)result->count,
                              .forced_from = result->forced_from,
                              .problem = result->problem};
    remove_flight(e, at);
    return LM_POLL_RESULT;
}

static enum lm_poll poll(struct lm *lm, struct lm_result *out, struct error *err)
{
    struct lm_engine *e = of(lm);
    struct engine_result result;
    free(e->told);
    e->told = NULL;
    if (e->rejected > 0)
        return tell_rejected(e, out);
    switch (engine_poll(e->host.engine, &result, err)) {
    case ENGINE_IDLE:
        return LM_POLL_IDLE;
    case ENGINE_RUNNING:
        return LM_POLL_RUNNING;
    case ENGINE_RESULT:
        return tell_result(e, &result, out);
    default:
        return LM_POLL_BROKEN;
    }
}

static void cancel(struct lm *lm, uint64_t id)
{
    struct lm_engine *e = of(lm);
    for (size_t at = e->flight_count; at-- > 0;) {
        if (e->flights[at].id != id)
            continue;
        if (e->flights[at].problem) {
            free(e->flights[at].problem);
            e->rejected--;
        } else {
            engine_cancel(e->host.engine, e->flights[at].sequence);
        }
        remove_flight(e, at);
    }
}

static void destroy(struct lm *lm)
{
    struct lm_engine *e = of(lm);
    engine_destroy(e->host.engine); // lets go of the schemas
    e->host.engine = NULL;
    while (e->flight_count > 0) {
        free(e->flights[0].problem);
        remove_flight(e, 0);
    }
    prompt_maker_destroy(e->prompts);
    engine_host_close(&e->host);
    token_list_release(&e->prompt);
    free(e->told);
    free(e->flights);
    free(e);
}

static const struct lm_ops engine_ops = {submit, poll, cancel, destroy};

static int compute_digest(struct lm_engine *e, const char *directory, struct error *err)
{
    const struct digest text = tokenizer_digest(e->host.tokenizer);
    struct digest weights;
    struct digest_builder builder;
    if (model_digest(fs_system(), directory, &weights, err))
        return -1;
    digest_begin(&builder);
    digest_field(&builder, weights.bytes, sizeof weights.bytes);
    digest_field(&builder, text.bytes, sizeof text.bytes);
    digest_field_text(&builder, chat_template_name(e->host.chat));
    e->lm.digest = digest_end(&builder);
    return 0;
}

static int open_all(struct lm_engine *e, const struct lm_engine_options *options, struct error *err)
{
    if (engine_host_open(options, &e->host, err) || compute_digest(e, options->model, err))
        return -1;
    e->lm.context_tokens = e->host.context_tokens;
    e->lm.capacity = WAITING_PER_SLOT * e->host.slots;
    e->prompts = prompt_maker_create(e->host.tokenizer, e->host.chat, REMEMBERED_BYTES);
    return 0;
}

int lm_engine_create(const struct lm_engine_options *options, struct lm **out, struct error *err)
{
    struct lm_engine *e = mem_calloc(1, sizeof *e);
    e->lm.ops = &engine_ops;
    if (open_all(e, options, err)) {
        destroy(&e->lm);
        return -1;
    }
    *out = &e->lm;
    return 0;
}

int lm_engine_digest(const struct lm_engine_options *options, struct digest *out, struct error *err)
{
    struct lm_engine e = {0};
    if (engine_host_open_text(options, &e.host, err))
        return -1;
    const int rc = compute_digest(&e, options->model, err);
    *out = e.lm.digest;
    engine_host_close(&e.host);
    return rc;
}

struct engine_statistics lm_engine_statistics(const struct lm *lm)
{
    assert(lm->ops == &engine_ops);
    return engine_statistics(((const struct lm_engine *)lm)->host.engine);
}
