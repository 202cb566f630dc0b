// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/reflect_task.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

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
    request->index = index;
    request->written_end = &request->written;
    queue_push_back(&task->queue, request);
    return request;
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

static void fail_request(struct reflect_task *task, const struct step_request *request,
                         const char *problem)
{
    const enum reflection_step step = request_kind_info(request->kind)->step;
    reflect_task_set_aside(task, arena_printf(&task->arena, "step %s (%s): %s",
                                              reflection_step_name(step),
                                              request_kind_info(request->kind)->name, problem));
}

static const struct request_limits *limits_of(const struct reflect_task *task,
                                              const struct step_request *request)
{
    return &task->setup->config.requests[request->kind];
}

// Everything that tells a request of a task from its others, and nothing that depends on when it
// was made.
static uint64_t request_seed(const struct reflect_task *task, const struct step_request *request)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field_u64(&builder, task->work.seed);
    digest_field(&builder, task->work.task_id.bytes, sizeof task->work.task_id.bytes);
    digest_field_u64(&builder, request->kind);
    digest_field_u64(&builder, request->index);
    digest_field_u64(&builder, request->part);
    digest_field_u64(&builder, request->tries);
    if (request->subject) {
        digest_field_u64(&builder, request->subject->origin.step);
        digest_field_u64(&builder, request->subject->origin.request);
        digest_field_u64(&builder, request->subject->origin.item);
        digest_field_u64(&builder, request->subject->rounds);
    }
    const struct digest digest = digest_end(&builder);
    uint64_t seed = 0;
    for (int i = 0; i < 8; i++) {
        seed = seed << 8 | digest.bytes[i];
    }
    return seed;
}

static void add_pair(const char *indent, const struct draft *draft, struct strbuf *out)
{
    strbuf_adds(out, "Question: ");
    strbuf_add(out, draft->question, draft->question_bytes);
    strbuf_addf(out, "\n%sAnswer: ", indent);
    strbuf_add(out, draft->answer, draft->answer_bytes);
    strbuf_addc(out, '\n');
}

struct lm_text reflect_task_list_text(struct reflect_task *task, const char *heading,
                                      struct draft *const *list, size_t count)
{
    struct strbuf text = {0};
    strbuf_adds(&text, heading);
    for (size_t i = 0; i < count; i++) {
        strbuf_addf(&text, "%zu. ", i + 1);
        add_pair("   ", list[i], &text);
    }
    const char *copy = arena_strndup(&task->arena, text.bytes, text.length);
    const struct lm_text out = {copy, text.length};
    strbuf_release(&text);
    return out;
}

// The part that is the request's own: what it is about, and what its continuations know already.
static void render_item(const struct reflect_task *task, const struct step_request *request,
                        struct strbuf *out)
{
    switch (request->kind) {
    case REQUEST_JUDGE:
    case REQUEST_REWRITE:
        add_pair("", request->subject, out);
        break;
    case REQUEST_CONSOLIDATE:
    case REQUEST_ENTITIES:
        strbuf_add(out, request->list_text.text, request->list_text.bytes);
        break;
    case REQUEST_LOOKUP:
        strbuf_addf(out, "Name: %s\n", request->subject->answer);
        strbuf_add(out, request->list_text.text, request->list_text.bytes);
        break;
    case REQUEST_CROSS:
        strbuf_adds(out, "Anchor:\n");
        add_pair("", request->subject, out);
        break;
    default:
        break;
    }
    const struct prompt_text *continued = &task->setup->prompts.texts[PROMPT_CONTINUE];
    if (request->written) {
        strbuf_add(out, continued->text, continued->bytes);
    }
    for (const struct written *w = request->written; w; w = w->next) {
        strbuf_addf(out, "- %s\n", w->text);
    }
}

static void add_part(struct lm_request *out, const char *text, size_t bytes)
{
    if (bytes > 0) {
        out->parts[out->part_count++] = (struct lm_text){text, bytes};
    }
}

void reflect_task_render(struct reflect_task *task, const struct step_request *request,
                         struct lm_request *out)
{
    const struct request_kind_info *info = request_kind_info(request->kind);
    const struct prompt_set *prompts = &task->setup->prompts;
    const struct prompt_text *instruction = &prompts->texts[info->prompt];
    const struct prompt_text *system = &prompts->texts[PROMPT_SYSTEM];
    strbuf_reset(&task->item);
    render_item(task, request, &task->item);
    *out = (struct lm_request){
        .system = {system->text, system->bytes},
        .schema = task->setup->schemas[request->kind],
        .sampling = limits_of(task, request)->sampling,
        .seed = request_seed(task, request),
        .max_tokens = limits_of(task, request)->max_tokens,
    };
    if (info->with_document) {
        add_part(out, task->document.bytes, task->document.length);
    }
    if (request->kind == REQUEST_CROSS) {
        add_part(out, request->list_text.text, request->list_text.bytes);
    }
    add_part(out, instruction->text, instruction->bytes);
    add_part(out, task->item.bytes, task->item.length);
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
    draft->seed = request_seed(task, request);
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

// The rest of a list is asked for when its last item was cut or there was no room for more.
static void continue_request(struct reflect_task *task, struct step_request *request,
                             const struct answer *answer)
{
    const struct request_limits *limits = limits_of(task, request);
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

static void take_answer(struct reflect_task *task, struct step_request *request,
                        const struct lm_result *result)
{
    struct error err = {""};
    struct answer answer;
    bool good;
    if (request->kind == REQUEST_JUDGE) {
        if (answer_read_verdict(result, &good, &err)) {
            take_unreadable(task, request, err.text);
        } else {
            task->ops->take_verdict(task, request, good);
        }
        return;
    }
    if (answer_read(request->kind, &limits_of(task, request)->answer, request->list_count, result,
                    &task->arena, &answer, &err)) {
        take_unreadable(task, request, err.text);
        return;
    }
    count_drop(task, request, DROP_CUT, answer.cut);
    count_drop(task, request, DROP_MALFORMED, answer.malformed);
    if (request->kind == REQUEST_REWRITE) {
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
    if (result->end == LM_REJECTED || result->end == LM_FAILED) {
        fail_request(task, request, result->problem);
    } else {
        take_answer(task, request, result);
    }
    reflect_task_settle(task);
}
