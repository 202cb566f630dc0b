// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/reflect.h"

#include "base/mem.h"
#include "worker/reflect/reflect_task.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT_VERSION 1 // to be raised whenever the same answers give other pairs
#define MIN_TASKS 2      // one waits for its last answers while another begins
#define FIRST_REQUESTS 2 // that a chunk's task begins with
#define ALL_STEPS "1a,1b,2,3,4,5"
#define STEP_NAME_BYTES 8

struct flight {
    uint64_t id; // of the language model's request
    struct reflect_task *task;
    struct step_request *request;
};

struct reflector {
    struct generator base; // first
    struct lm *lm;
    struct reflect_setup setup;
    struct reflect_task **tasks; // in the order in which they were submitted
    size_t task_count;
    size_t task_capacity;
    struct flight *flights; // [flight_capacity]
    size_t flight_count;
    size_t flight_capacity;
    uint64_t next_id;
};

static void reflector_destroy(struct generator *generator);

static int add_step(const char *name, size_t bytes, unsigned *steps, struct error *err)
{
    char copy[STEP_NAME_BYTES] = "";
    enum reflection_step step;
    if (bytes < sizeof copy) {
        memcpy(copy, name, bytes);
    }
    if (reflection_step_parse(copy, &step, err) || step == STEP_CLOZE) {
        return error_set(err, "unknown step '%.*s': the steps are %s", (int)bytes, name, ALL_STEPS);
    }
    if (*steps >> step & 1) {
        return error_set(err, "step '%s' is named twice", copy);
    }
    *steps |= 1u << step;
    return 0;
}

int reflect_steps_parse(const char *text, unsigned *out, struct error *err)
{
    *out = 0;
    for (const char *at = text;; at++) {
        const size_t bytes = strcspn(at, ",");
        if (add_step(at, bytes, out, err)) {
            return -1;
        }
        at += bytes;
        if (*at == '\0') {
            break;
        }
    }
    if (!(*out & (1u << STEP_DIRECT | 1u << STEP_INDIRECT))) {
        return error_set(err, "steps '%s' make no pairs: name 1a or 1b as well", text);
    }
    return 0;
}

static void add_digest(struct digest_builder *builder, struct digest digest)
{
    digest_field(builder, digest.bytes, sizeof digest.bytes);
}

static struct digest generator_digest(const struct reflector *reflector)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field_text(&builder, "reflect");
    digest_field_u64(&builder, FORMAT_VERSION);
    digest_field_u64(&builder, reflector->setup.steps);
    add_digest(&builder, reflector->lm->digest);
    add_digest(&builder, reflector->setup.prompts.digest);
    add_digest(&builder, reflect_config_digest(&reflector->setup.config));
    return digest_end(&builder);
}

struct digest reflect_prompts_digest(const struct generator *generator)
{
    return ((const struct reflector *)generator)->setup.prompts.digest;
}

struct digest reflect_config_digest_of(const struct generator *generator)
{
    return reflect_config_digest(&((const struct reflector *)generator)->setup.config);
}

// What a prompt shows of the chunk. Names that serve to keep file names out of pairs are not in it,
// so that a moved file is no new task.
static struct digest reflector_input_digest(struct generator *generator,
                                            const struct corpus *corpus, size_t chunk)
{
    (void)generator;
    const struct corpus_chunk *c = &corpus->chunks[chunk];
    const struct corpus_document *document = &corpus->documents[c->document];
    struct digest_builder builder;
    digest_begin(&builder);
    add_digest(&builder, c->digest);
    digest_field_text(&builder, document->title);
    digest_field_text(&builder, document->date);
    return digest_end(&builder);
}

static int compare_digests(const void *left, const void *right)
{
    return digest_compare(*(const struct digest *)left, *(const struct digest *)right);
}

static struct digest reflector_group_input_digest(struct generator *generator,
                                                  const struct corpus *corpus,
                                                  const uint32_t *chunks, size_t chunk_count)
{
    struct digest *digests = mem_calloc(chunk_count + 1, sizeof *digests);
    struct digest_builder builder;
    for (size_t i = 0; i < chunk_count; i++) {
        digests[i] = reflector_input_digest(generator, corpus, chunks[i]);
    }
    qsort(digests, chunk_count, sizeof *digests, compare_digests);
    digest_begin(&builder);
    for (size_t i = 0; i < chunk_count; i++) {
        add_digest(&builder, digests[i]);
    }
    free(digests);
    return digest_end(&builder);
}

static int check_task(const struct generator_task *task, struct error *err)
{
    const size_t chunks = task->corpus->chunk_count;
    if (task->member_count == 0 && task->chunk >= chunks) {
        return error_set(err, "task names chunk %zu of a corpus of %zu", task->chunk, chunks);
    }
    for (size_t i = 0; i < task->member_count; i++) {
        if (task->members[i].chunk >= chunks) {
            return error_set(err, "task names chunk %zu of a corpus of %zu", task->members[i].chunk,
                             chunks);
        }
    }
    return 0;
}

static int reflector_submit(struct generator *generator, const struct generator_task *work,
                            struct error *err)
{
    struct reflector *reflector = (struct reflector *)generator;
    if (check_task(work, err)) {
        return -1;
    }
    reflector->tasks = mem_grow(reflector->tasks, &reflector->task_capacity,
                                reflector->task_count + 1, sizeof *reflector->tasks);
    reflector->tasks[reflector->task_count++] = work->member_count > 0
                                                    ? group_task_create(&reflector->setup, work)
                                                    : chunk_task_create(&reflector->setup, work);
    return 0;
}

static void send_request(struct reflector *reflector, struct reflect_task *task,
                         struct step_request *request)
{
    struct lm_request wire;
    reflect_task_render(task, request, &wire);
    wire.id = reflector->next_id++;
    memcpy(&wire.task, task->work.task_id.bytes, sizeof wire.task);
    reflector->flights[reflector->flight_count++] = (struct flight){wire.id, task, request};
    lm_submit(reflector->lm, &wire);
}

// Sends what the model has room for, of the earliest task first.
static void send_requests(struct reflector *reflector)
{
    for (size_t i = 0; i < reflector->task_count; i++) {
        while (reflector->flight_count < reflector->flight_capacity) {
            struct step_request *request = reflect_task_next(reflector->tasks[i]);
            if (!request) {
                break;
            }
            send_request(reflector, reflector->tasks[i], request);
        }
    }
}

// Takes back the requests of a task that needs them no more.
static void recall_requests(struct reflector *reflector, const struct reflect_task *task)
{
    size_t kept = 0;
    for (size_t i = 0; i < reflector->flight_count; i++) {
        if (reflector->flights[i].task == task) {
            lm_cancel(reflector->lm, reflector->flights[i].id);
        } else {
            reflector->flights[kept++] = reflector->flights[i];
        }
    }
    reflector->flight_count = kept;
}

static void remove_task(struct reflector *reflector, size_t position)
{
    recall_requests(reflector, reflector->tasks[position]);
    reflect_task_destroy(reflector->tasks[position]);
    reflector->task_count--;
    memmove(reflector->tasks + position, reflector->tasks + position + 1,
            (reflector->task_count - position) * sizeof(struct reflect_task *));
}

static int deliver(struct reflector *reflector, const struct lm_result *result, struct error *err)
{
    for (size_t i = 0; i < reflector->flight_count; i++) {
        const struct flight flight = reflector->flights[i];
        if (flight.id == result->id) {
            reflector->flights[i] = reflector->flights[--reflector->flight_count];
            reflect_task_take(flight.task, flight.request, result);
            return 0;
        }
    }
    return error_set(err, "the language model answered a request that is not in flight");
}

// 1 when a task was finished.
static int take_finished(struct reflector *reflector, struct generated *out)
{
    for (size_t i = 0; i < reflector->task_count; i++) {
        if (reflector->tasks[i]->finished) {
            reflect_task_result(reflector->tasks[i], out);
            remove_task(reflector, i);
            return 1;
        }
    }
    return 0;
}

static int reflector_poll(struct generator *generator, struct generated *out, struct error *err)
{
    struct reflector *reflector = (struct reflector *)generator;
    struct lm_result result;
    while (!take_finished(reflector, out)) {
        send_requests(reflector);
        if (reflector->flight_count == 0) {
            return 0;
        }
        switch (lm_poll(reflector->lm, &result, err)) {
        case LM_POLL_RESULT:
            if (deliver(reflector, &result, err)) {
                return -1;
            }
            break;
        case LM_POLL_RUNNING:
            return 0;
        case LM_POLL_IDLE:
            return error_set(err, "the language model lost %zu requests", reflector->flight_count);
        default:
            return -1;
        }
    }
    return 1;
}

static void reflector_cancel(struct generator *generator, struct digest task_id)
{
    struct reflector *reflector = (struct reflector *)generator;
    for (size_t i = reflector->task_count; i-- > 0;) {
        if (digest_equal(reflector->tasks[i]->work.task_id, task_id)) {
            remove_task(reflector, i);
        }
    }
}

static void reflector_destroy(struct generator *generator)
{
    struct reflector *reflector = (struct reflector *)generator;
    while (reflector->task_count > 0) {
        remove_task(reflector, reflector->task_count - 1);
    }
    for (int kind = 0; kind < REQUEST_KINDS; kind++) {
        free(reflector->setup.schemas[kind]);
    }
    prompt_set_close(&reflector->setup.prompts);
    lm_destroy(reflector->lm);
    free(reflector->tasks);
    free(reflector->flights);
    free(reflector);
}

static const struct generator_ops chunk_generator_ops = {
    .input_digest = reflector_input_digest,
    .submit = reflector_submit,
    .poll = reflector_poll,
    .cancel = reflector_cancel,
    .destroy = reflector_destroy,
};

static const struct generator_ops group_generator_ops = {
    .input_digest = reflector_input_digest,
    .group_input_digest = reflector_group_input_digest,
    .submit = reflector_submit,
    .poll = reflector_poll,
    .cancel = reflector_cancel,
    .destroy = reflector_destroy,
};

// So many tasks that even those that have just begun keep the model busy.
static size_t task_capacity(const struct lm *lm)
{
    const size_t tasks = (lm->capacity + FIRST_REQUESTS - 1) / FIRST_REQUESTS;
    return tasks > MIN_TASKS ? tasks : MIN_TASKS;
}

static int set_up(const struct reflect_options *options, struct reflect_setup *setup,
                  struct error *err)
{
    if (reflect_steps_parse(options->steps ? options->steps : ALL_STEPS, &setup->steps, err) ||
        prompt_set_open(options->fs, options->prompts, &setup->prompts, err) ||
        reflect_config_load(options->fs, options->config, &setup->config, err)) {
        return -1;
    }
    for (int kind = 0; kind < REQUEST_KINDS; kind++) {
        setup->schemas[kind] =
            request_kind_schema((enum request_kind)kind, &setup->config.requests[kind].answer);
    }
    return 0;
}

int reflect_create(struct lm *lm, const struct reflect_options *options, struct generator **out,
                   struct error *err)
{
    assert(lm->capacity > 0);
    struct reflector *reflector = mem_calloc(1, sizeof *reflector);
    reflector->lm = lm;
    if (set_up(options, &reflector->setup, err)) {
        reflector_destroy(&reflector->base);
        return -1;
    }
    const bool groups = reflector->setup.steps >> STEP_CROSS & 1;
    reflector->flight_capacity = lm->capacity;
    reflector->flights = mem_calloc(lm->capacity, sizeof *reflector->flights);
    reflector->next_id = 1;
    reflector->base = (struct generator){
        .ops = groups ? &group_generator_ops : &chunk_generator_ops,
        .name = "reflect",
        .digest = generator_digest(reflector),
        .capacity = task_capacity(lm),
    };
    *out = &reflector->base;
    return 0;
}
