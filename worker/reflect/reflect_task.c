// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/reflect_task.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PROBLEM_BYTES 500

struct reflect_task *reflect_task_create(const struct reflect_task_ops *ops,
                                         const struct reflect_setup *setup,
                                         const struct generator_task *work)
{
    struct reflect_task *task = mem_calloc(1, sizeof *task);
    task->ops = ops;
    task->setup = setup;
    task->work = *work;
    task->work.members = NULL;
    task->started_seconds = clock_seconds();
    return task;
}

void reflect_task_destroy(struct reflect_task *task)
{
    if (!task) {
        return;
    }
    draft_list_release(&task->drafts);
    draft_list_release(&task->entities);
    draft_list_release(&task->members);
    strbuf_release(&task->document);
    strbuf_release(&task->item);
    free(task->queue.items);
    arena_release(&task->arena);
    free(task);
}

bool reflect_task_has_step(const struct reflect_task *task, enum reflection_step step)
{
    return task->setup->steps >> step & 1;
}

static void queue_push_back(struct request_queue *queue, struct step_request *request)
{
    queue->items = mem_grow(queue->items, &queue->capacity, queue->first + queue->count + 1,
                            sizeof *queue->items);
    queue->items[queue->first + queue->count++] = request;
}

// What was begun is done before anything new.
static void queue_push_front(struct request_queue *queue, struct step_request *request)
{
    if (queue->first == 0) {
        queue_push_back(queue, request);
        memmove(queue->items + 1, queue->items, (queue->count - 1) * sizeof *queue->items);
        queue->items[0] = request;
    } else {
        queue->items[--queue->first] = request;
        queue->count++;
    }
}

struct step_request *reflect_task_plan(struct reflect_task *task, enum request_kind kind,
                                       uint32_t index)
{
    struct step_request *request = arena_alloc(&task->arena, sizeof *request);
    request->kind = kind;
    request->index = index * REQUEST_SPAN;
    request->span = REQUEST_SPAN;
    request->written_end = &request->written;
    queue_push_back(&task->queue, request);
    return request;
}

void reflect_task_list(struct reflect_task *task, struct step_request *request,
                       struct draft *const *list, size_t count)
{
    struct draft *shown = arena_alloc(&task->arena, (count + 1) * sizeof *shown);
    for (size_t i = 0; i < count; i++) {
        shown[i] = *list[i];
    }
    request->list = list;
    request->shown = shown;
    request->list_count = count;
    request->list_text = reflect_task_list_text(task, request);
}

struct step_request *reflect_task_next(struct reflect_task *task)
{
    struct request_queue *queue = &task->queue;
    if (queue->count == 0) {
        return NULL;
    }
    struct step_request *request = queue->items[queue->first++];
    if (--queue->count == 0) {
        queue->first = 0;
    }
    task->in_flight++;
    return request;
}

void reflect_task_set_parents(struct reflect_task *task, const struct step_request *request,
                              const struct answer_item *item, struct draft *first,
                              struct draft *draft)
{
    struct draft **parents =
        arena_alloc(&task->arena, (item->from_count + 1) * sizeof(struct draft *));
    size_t count = 0;
    if (first) {
        parents[count++] = first;
    }
    for (size_t i = 0; i < item->from_count; i++) {
        parents[count++] = request->list[item->from[i]];
    }
    draft->parents = parents;
    draft->parent_count = count;
}

void reflect_task_settle(struct reflect_task *task)
{
    while (!task->finished && task->queue.count == 0 && task->in_flight == 0) {
        task->ops->advance(task);
    }
}

void reflect_task_set_aside(struct reflect_task *task, const char *problem)
{
    task->problem = problem;
    task->finished = true;
    task->queue.count = 0;
}

// A model's problem may quote a server: invalid UTF-8 and controls become question marks, and it is
// cut behind PROBLEM_BYTES.
static const char *quote_problem(struct reflect_task *task, const char *problem)
{
    const size_t length = strlen(problem);
    struct strbuf out = {0};
    strbuf_reserve(&out, 1);
    for (size_t at = 0, size; at < length && out.length < PROBLEM_BYTES; at += size) {
        uint32_t point = 0;
        const int decoded = utf8_decode(problem + at, length - at, &point);
        size = decoded > 0 ? (size_t)decoded : 1;
        if (decoded == 0 || point < ' ') {
            strbuf_addc(&out, '?');
        } else {
            strbuf_add(&out, problem + at, size);
        }
    }
    const char *quoted = arena_strndup(&task->arena, out.bytes, out.length);
    strbuf_release(&out);
    return quoted;
}

static void fail_request(struct reflect_task *task, const struct step_request *request,
                         const char *problem)
{
    const enum reflection_step step = request_kind_info(request->kind)->step;
    reflect_task_set_aside(
        task, arena_printf(&task->arena, "step %s (%s): %s", reflection_step_name(step),
                           request_kind_info(request->kind)->name, quote_problem(task, problem)));
}

// The position'th of `count` shares of a total.
static uint32_t share(uint32_t total, size_t count, size_t position)
{
    return (uint32_t)(total / count + (position < total % count));
}

static struct draft *make_draft(struct reflect_task *task, struct step_request *request,
                                const struct answer *answer, size_t position,
                                const struct lm_result *result)
{
    const struct answer_item *item = &answer->items[position];
    struct draft *draft = arena_alloc(&task->arena, sizeof *draft);
    const enum reflection_step step = request_kind_info(request->kind)->step;
    draft->origin = (struct draft_origin){step, request->index, request->items};
    draft->step = step;
    draft->question = item->question;
    draft->question_bytes = item->question_bytes;
    draft->answer = item->answer;
    draft->answer_bytes = item->answer_bytes;
    draft->seed = step_request_seed(task, request);
    draft->prompt_tokens = share(result->prompt_tokens, answer->count, position);
    draft->output_tokens = share(result->output_tokens, answer->count, position);
    return draft;
}

// Counts items that cannot be used; names are no pairs.
static void count_drop(struct reflect_task *task, const struct step_request *request,
                       const char *reason, size_t pairs)
{
    if (request->kind != REQUEST_ENTITIES || strcmp(reason, DROP_UNREADABLE) == 0) {
        tally_drop(&task->tally, request_kind_info(request->kind)->step, reason, (uint32_t)pairs);
    }
}

static void give_up_unreadable(struct reflect_task *task, struct step_request *request,
                               const char *problem)
{
    switch (request->kind) {
    case REQUEST_DIRECT:
    case REQUEST_INDIRECT:
        fail_request(task, request,
                     arena_printf(&task->arena, "no readable answer in %u tries, at last: %s",
                                  request->tries, problem));
        break;
    case REQUEST_JUDGE:
        draft_drop(request->subject, DROP_NO_VERDICT, &task->tally);
        break;
    case REQUEST_REWRITE:
        count_drop(task, request, DROP_UNREADABLE, 1);
        task->ops->take_rewrite(task, request, NULL);
        break;
    default:
        count_drop(task, request, DROP_UNREADABLE, 1);
    }
}

static void take_unreadable(struct reflect_task *task, struct step_request *request,
                            const char *problem)
{
    if (++request->tries < task->setup->config.tries) {
        queue_push_front(&task->queue, request);
    } else {
        give_up_unreadable(task, request, problem);
    }
}

// A list that leaves no room for an answer is asked about in two halves. False: it cannot be split.
static bool split_list(struct reflect_task *task, struct step_request *request)
{
    const size_t least = request->kind == REQUEST_CONSOLIDATE ? 2 : 1,
                 half = request->list_count / 2;
    if (half < least || request->span < 2 || request->part > 0) {
        return false;
    }
    struct step_request *rest = arena_alloc(&task->arena, sizeof *rest);
    request->span /= 2;
    request->tries = 0;
    *rest = *request;
    rest->index += rest->span;
    rest->written_end = &rest->written;
    rest->list += half;
    rest->shown += half;
    rest->list_count -= half;
    request->list_count = half;
    request->list_text = reflect_task_list_text(task, request);
    rest->list_text = reflect_task_list_text(task, rest);
    queue_push_front(&task->queue, rest);
    queue_push_front(&task->queue, request);
    return true;
}

// The rest of a list is asked for when its last item was cut or there was no room for more.
static void continue_request(struct reflect_task *task, struct step_request *request,
                             const struct answer *answer)
{
    const struct request_limits *limits = step_request_limits(task, request);
    const bool full = answer->count >= limits->answer.max_items;
    if ((answer->cut || !answer->whole || full) && request->part < limits->continuations) {
        request->part++;
        request->tries = 0;
        queue_push_front(&task->queue, request);
    }
}

static void add_written(struct reflect_task *task, struct step_request *request,
                        const struct draft *draft)
{
    struct written *written = arena_alloc(&task->arena, sizeof *written);
    written->text = request->kind == REQUEST_ENTITIES ? draft->answer : draft->question;
    *request->written_end = written;
    request->written_end = &written->next;
}

static void take_list(struct reflect_task *task, struct step_request *request,
                      const struct answer *answer, const struct lm_result *result)
{
    for (size_t i = 0; i < answer->count; i++) {
        const struct answer_item *item = &answer->items[i];
        if (item->dropped) {
            count_drop(task, request, item->dropped, 1);
        } else {
            struct draft *draft = make_draft(task, request, answer, i, result);
            add_written(task, request, draft);
            task->ops->take_draft(task, request, item, draft);
        }
        request->items++;
    }
    continue_request(task, request, answer);
}

static void take_rewrite(struct reflect_task *task, struct step_request *request,
                         const struct answer *answer, const struct lm_result *result)
{
    const struct draft *draft = NULL;
    for (size_t i = 0; i < answer->count; i++) {
        if (answer->items[i].dropped) {
            count_drop(task, request, answer->items[i].dropped, 1);
        } else if (draft) {
            count_drop(task, request, DROP_MALFORMED, 1);
        } else {
            draft = make_draft(task, request, answer, i, result);
        }
    }
    task->ops->take_rewrite(task, request, draft);
}

static void take_judgement(struct reflect_task *task, struct step_request *request,
                           const struct lm_result *result)
{
    struct error err = {""};
    bool good;
    if (answer_read_verdict(result, &good, &err)) {
        take_unreadable(task, request, err.text);
    } else {
        task->ops->take_verdict(task, request, good);
    }
}

static void take_items(struct reflect_task *task, struct step_request *request,
                       const struct lm_result *result)
{
    struct error err = {""};
    struct answer answer;
    const int rc = answer_read(request->kind, &step_request_limits(task, request)->answer,
                               request->list_count, result, &task->arena, &answer, &err);
    count_drop(task, request, DROP_CUT, answer.cut);
    count_drop(task, request, DROP_MALFORMED, answer.malformed);
    if (result->end == LM_LENGTH && answer.count == 0 && split_list(task, request)) {
        return;
    }
    if (rc) {
        take_unreadable(task, request, err.text);
    } else if (request->kind == REQUEST_REWRITE) {
        take_rewrite(task, request, &answer, result);
    } else {
        take_list(task, request, &answer, result);
    }
}

void reflect_task_take(struct reflect_task *task, struct step_request *request,
                       const struct lm_result *result)
{
    assert(task->in_flight > 0 && !task->finished);
    task->in_flight--;
    tally_use(&task->tally, request_kind_info(request->kind)->step, result);
    if (result->end == LM_STOP || result->end == LM_LENGTH) {
        if (request->kind == REQUEST_JUDGE) {
            take_judgement(task, request, result);
        } else {
            take_items(task, request, result);
        }
    } else if (result->end != LM_REJECTED || !split_list(task, request)) {
        task->fatal = result->end == LM_FATAL;
        fail_request(task, request, result->problem);
    }
    reflect_task_settle(task);
}
