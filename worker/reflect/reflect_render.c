// SPDX-License-Identifier: Apache-2.0
// What a request of a task says to the model.
#include "worker/reflect/reflect_task.h"

const struct request_limits *step_request_limits(const struct reflect_task *task,
                                                 const struct step_request *request)
{
    return &task->setup->config.requests[request->kind];
}

// Everything that tells a request of a task from its others, and nothing that depends on when it
// was made.
uint64_t step_request_seed(const struct reflect_task *task, const struct step_request *request)
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

struct lm_text reflect_task_list_text(struct reflect_task *task, const struct step_request *request)
{
    struct strbuf text = {0};
    strbuf_adds(&text, request->kind == REQUEST_CROSS ? "The list:\n" : "");
    for (size_t i = 0; i < request->list_count; i++) {
        strbuf_addf(&text, "%zu. ", i + 1);
        add_pair("   ", &request->shown[i], &text);
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
        .sampling = step_request_limits(task, request)->sampling,
        .seed = step_request_seed(task, request),
        .max_tokens = step_request_limits(task, request)->max_tokens,
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
