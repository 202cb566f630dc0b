// SPDX-License-Identifier: Apache-2.0
// Steps 1 to 4 for one chunk.
//
//   phase    requests                                          then
//   extract  1a and 1b at once                                 repeated questions are dropped
//   verify   2 over batches of the pairs, and 3 for every      repeated questions are dropped
//            pair as soon as it exists: judge, and while the
//            verdict is no, rewrite and judge again
//   surface  4: names in batches of the pairs                  names that no pair holds are dropped
//   look up  4: for each name the questions that it answers    repeated questions are dropped
//
// Steps that are switched off plan nothing. Without step 3 every pair counts as verified.
#include "worker/reflect/reflect_task.h"

#include "base/mem.h"
#include "datasets/text_key.h"
#include "worker/reflect/source_name.h"

#include <stdlib.h>
#include <string.h>

enum phase { PHASE_EXTRACT, PHASE_VERIFY, PHASE_SURFACE, PHASE_LOOK_UP, PHASE_END };

static const struct corpus_document *document_of(const struct reflect_task *task)
{
    const struct corpus *corpus = task->work.corpus;
    return &corpus->documents[corpus->chunks[task->work.chunk].document];
}

// Whether a pair names what only the corpus knows.
static bool names_source(const struct reflect_task *task, const struct draft *draft)
{
    const struct corpus_document *document = document_of(task);
    return source_name_in(document, draft->question) || source_name_in(document, draft->answer);
}

static void plan_rewrite_or_drop(struct reflect_task *task, struct draft *draft)
{
    if (draft->rounds >= task->setup->config.rounds) {
        draft_drop(draft, DROP_NOT_SELF_CONTAINED, &task->tally);
    } else {
        reflect_task_plan(task, REQUEST_REWRITE, 0)->subject = draft;
    }
}

static void plan_judgement(struct reflect_task *task, struct draft *draft)
{
    if (!reflect_task_has_step(task, STEP_VERIFY)) {
        return;
    }
    if (names_source(task, draft)) {
        plan_rewrite_or_drop(task, draft);
    } else {
        reflect_task_plan(task, REQUEST_JUDGE, 0)->subject = draft;
    }
}

// The live drafts in order, in the arena.
static struct draft **list_live(struct reflect_task *task, size_t *out_count)
{
    draft_list_sort(&task->drafts);
    struct draft **live = arena_alloc(&task->arena, (task->drafts.count + 1) * sizeof *live);
    *out_count = 0;
    for (size_t i = 0; i < task->drafts.count; i++) {
        if (!task->drafts.items[i]->dropped) {
            live[(*out_count)++] = task->drafts.items[i];
        }
    }
    return live;
}

// One request of the kind for every batch of the pairs. A last batch of one pair joins the one
// before, so that there is always something to join it with.
static void plan_batches(struct reflect_task *task, enum request_kind kind, struct draft **pairs,
                         size_t count)
{
    const size_t batch = task->setup->config.requests[kind].answer.batch;
    uint32_t index = 0;
    for (size_t first = 0, size; first < count; first += size) {
        const size_t left = count - first;
        size = left <= batch + 1 ? left : batch;
        struct step_request *request = reflect_task_plan(task, kind, index++);
        reflect_task_list(task, request, pairs + first, size);
    }
}

static void extract(struct reflect_task *task)
{
    if (reflect_task_has_step(task, STEP_DIRECT)) {
        reflect_task_plan(task, REQUEST_DIRECT, 0);
    }
    if (reflect_task_has_step(task, STEP_INDIRECT)) {
        reflect_task_plan(task, REQUEST_INDIRECT, 0);
    }
}

// Whether step 1 made nothing because every answer was cut before its first pair was complete.
static bool is_too_long(const struct reflect_task *task)
{
    for (size_t i = 0; i < task->tally.drop_count; i++) {
        if (task->drafts.count == 0 && strcmp(task->tally.drops[i].reason, DROP_CUT) == 0) {
            return true;
        }
    }
    return false;
}

static void consolidate_and_verify(struct reflect_task *task)
{
    if (is_too_long(task)) {
        reflect_task_set_aside(task, "step 1: every answer was cut before its first pair was "
                                     "complete; the chunk may be too long for the model");
        return;
    }
    draft_list_drop_repeated(&task->drafts, NULL, &task->tally);
    size_t count;
    struct draft **pairs = list_live(task, &count);
    if (reflect_task_has_step(task, STEP_CONSOLIDATE) && count >= task->setup->config.least_pairs) {
        plan_batches(task, REQUEST_CONSOLIDATE, pairs, count);
    }
    for (size_t i = 0; i < count; i++) {
        plan_judgement(task, pairs[i]);
    }
}

static void drop_unfit(struct reflect_task *task)
{
    for (size_t i = 0; i < task->drafts.count; i++) {
        struct draft *draft = task->drafts.items[i];
        if (!draft->dropped && names_source(task, draft)) {
            draft_drop(draft, DROP_NAMES_SOURCE, &task->tally);
        }
    }
    draft_list_drop_repeated(&task->drafts, NULL, &task->tally);
}

static void surface(struct reflect_task *task)
{
    drop_unfit(task);
    size_t count;
    struct draft **pairs = list_live(task, &count);
    if (reflect_task_has_step(task, STEP_ENTITY)) {
        plan_batches(task, REQUEST_ENTITIES, pairs, count);
    }
}

static bool is_repeated(char *const *keys, size_t position)
{
    for (size_t i = 0; i < position; i++) {
        if (strcmp(keys[i], keys[position]) == 0) {
            return true;
        }
    }
    return false;
}

// A request for one name, with the pairs that hold it, up to a batch of them.
static void plan_lookup(struct reflect_task *task, struct draft *entity, uint32_t index,
                        const char *name, struct draft **pairs, char *const *keys, size_t count)
{
    const size_t batch = task->setup->config.requests[REQUEST_LOOKUP].answer.batch;
    struct draft **list = arena_alloc(&task->arena, batch * sizeof *list);
    size_t listed = 0;
    for (size_t i = 0; i < count && listed < batch; i++) {
        if (text_key_contains(keys[i], name)) {
            list[listed++] = pairs[i];
        }
    }
    if (listed > 0) {
        struct step_request *request = reflect_task_plan(task, REQUEST_LOOKUP, index);
        request->subject = entity;
        reflect_task_list(task, request, list, listed);
    }
}

static void look_up(struct reflect_task *task)
{
    size_t count;
    struct draft **pairs = list_live(task, &count);
    draft_list_sort(&task->entities);
    const size_t names = task->entities.count;
    char **keys = mem_calloc(count + names + 1, sizeof *keys), **name_keys = keys + count;
    for (size_t i = 0; i < count; i++) {
        keys[i] = draft_key(pairs[i]);
    }
    for (size_t i = 0; i < names; i++) {
        struct draft *entity = task->entities.items[i];
        name_keys[i] = draft_key(entity);
        if (!is_repeated(name_keys, i)) {
            plan_lookup(task, entity, (uint32_t)i, name_keys[i], pairs, keys, count);
        }
    }
    for (size_t i = 0; i < count + names; i++) {
        free(keys[i]);
    }
    free(keys);
}

static void end(struct reflect_task *task)
{
    drop_unfit(task);
    task->finished = true;
}

static void chunk_advance(struct reflect_task *task)
{
    static void (*const phases[])(struct reflect_task *) = {
        [PHASE_EXTRACT] = extract, [PHASE_VERIFY] = consolidate_and_verify,
        [PHASE_SURFACE] = surface, [PHASE_LOOK_UP] = look_up,
        [PHASE_END] = end,
    };
    phases[task->phase++](task);
}

static const struct reflection_source *chunk_source(struct reflect_task *task)
{
    const struct corpus_chunk *chunk = &task->work.corpus->chunks[task->work.chunk];
    const struct corpus_document *document = document_of(task);
    struct reflection_source *source = arena_alloc(&task->arena, sizeof *source);
    *source = (struct reflection_source){document->digest, chunk->begin - document->begin,
                                         chunk->end - document->begin};
    return source;
}

static void chunk_take_draft(struct reflect_task *task, struct step_request *request,
                             const struct answer_item *item, struct draft *draft)
{
    if (request->kind == REQUEST_ENTITIES) {
        draft_list_add(&task->entities, draft);
        return;
    }
    draft->sources = chunk_source(task);
    draft->source_count = 1;
    draft->document = task->work.corpus->chunks[task->work.chunk].document;
    reflect_task_set_parents(task, request, item, NULL, draft);
    draft_list_add(&task->drafts, draft);
    if (request->kind == REQUEST_LOOKUP) {
        draft->answer = request->subject->answer;
        draft->answer_bytes = request->subject->answer_bytes;
        if (draft_tells_answer(draft)) {
            draft_drop(draft, DROP_TELLS_ANSWER, &task->tally);
        }
    }
    if (request->kind == REQUEST_CONSOLIDATE) {
        plan_judgement(task, draft);
    }
}

static void chunk_take_verdict(struct reflect_task *task, struct step_request *request, bool good)
{
    if (!good) {
        plan_rewrite_or_drop(task, request->subject);
    }
}

static bool is_unchanged(const struct draft *before, const struct draft *after)
{
    return before->question_bytes == after->question_bytes &&
           before->answer_bytes == after->answer_bytes &&
           memcmp(before->question, after->question, after->question_bytes) == 0 &&
           memcmp(before->answer, after->answer, after->answer_bytes) == 0;
}

// The words that failed count as dropped by the step that wrote them; the new ones are step 3's.
static void chunk_take_rewrite(struct reflect_task *task, struct step_request *request,
                               const struct draft *rewritten)
{
    struct draft *draft = request->subject;
    if (!rewritten) {
        draft_drop(draft, DROP_NOT_SELF_CONTAINED, &task->tally);
        return;
    }
    const bool unchanged = is_unchanged(draft, rewritten);
    tally_drop(&task->tally, draft->step, DROP_REWRITTEN, 1);
    draft->step = rewritten->step;
    draft->question = rewritten->question;
    draft->question_bytes = rewritten->question_bytes;
    draft->answer = rewritten->answer;
    draft->answer_bytes = rewritten->answer_bytes;
    draft->seed = rewritten->seed;
    draft->prompt_tokens = rewritten->prompt_tokens;
    draft->output_tokens = rewritten->output_tokens;
    draft->rounds++;
    if (unchanged) { // greedy: it would be judged as before
        draft_drop(draft, DROP_NOT_SELF_CONTAINED, &task->tally);
    } else {
        plan_judgement(task, draft);
    }
}

static const struct reflect_task_ops chunk_ops = {
    .advance = chunk_advance,
    .take_draft = chunk_take_draft,
    .take_verdict = chunk_take_verdict,
    .take_rewrite = chunk_take_rewrite,
};

struct reflect_task *chunk_task_create(const struct reflect_setup *setup,
                                       const struct generator_task *work)
{
    struct reflect_task *task = reflect_task_create(&chunk_ops, setup, work);
    const struct corpus_chunk *chunk = &work->corpus->chunks[work->chunk];
    const struct corpus_document *document = document_of(task);
    const struct prompt_document part = {document->title, document->date,
                                         work->corpus->text + chunk->begin,
                                         chunk->end - chunk->begin};
    if (text_key_is_empty(part.text, part.bytes)) {
        reflect_task_set_aside(task, "the chunk holds no words");
        return task;
    }
    prompt_set_add_document(&setup->prompts, &part, &task->document);
    reflect_task_settle(task);
    return task;
}
