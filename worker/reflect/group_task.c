// SPDX-License-Identifier: Apache-2.0
// Step 5 for one group: anchors compared with batches of pairs of the group's other documents
// (cross_plan.h). A pair that is kept joins its anchor with at least one pair of another document,
// and asks what no pair of the group asks already.
#include "worker/reflect/reflect_task.h"

#include "worker/reflect/cross_plan.h"
#include "worker/reflect/source_name.h"

#include <string.h>

enum phase { PHASE_COMPARE, PHASE_END };

static void plan_batch(struct reflect_task *task, const struct cross_batch *batch, uint32_t *index)
{
    const struct step_request *first = NULL;
    for (size_t i = 0; i < batch->anchor_count; i++) {
        struct step_request *request = reflect_task_plan(task, REQUEST_CROSS, (*index)++);
        request->subject = batch->anchors[i];
        if (!first) {
            reflect_task_list(task, request, batch->pairs, batch->pair_count);
            first = request;
        }
        request->list = first->list;
        request->shown = first->shown;
        request->list_count = first->list_count;
        request->list_text = first->list_text;
    }
}

static void compare(struct reflect_task *task)
{
    const struct reflect_config *config = &task->setup->config;
    const struct cross_limits limits = {config->requests[REQUEST_CROSS].answer.batch,
                                        config->anchors, config->batches};
    struct cross_plan plan;
    uint32_t index = 0;
    cross_plan_make(&task->members, &limits, &task->arena, &plan);
    for (size_t i = 0; i < plan.count; i++) {
        plan_batch(task, &plan.batches[i], &index);
    }
}

static void end(struct reflect_task *task)
{
    draft_list_drop_repeated(&task->drafts, &task->members, &task->tally);
    task->finished = true;
}

static void group_advance(struct reflect_task *task)
{
    if (task->phase++ == PHASE_COMPARE) {
        compare(task);
    } else {
        end(task);
    }
}

static bool is_source(const struct reflection_source *sources, size_t count,
                      const struct reflection_source *source)
{
    for (size_t i = 0; i < count; i++) {
        if (digest_equal(sources[i].document, source->document) &&
            sources[i].begin == source->begin && sources[i].end == source->end) {
            return true;
        }
    }
    return false;
}

// The sources of the parents, each once, in their order.
static void join_sources(struct reflect_task *task, struct draft *draft)
{
    size_t most = 0;
    for (size_t i = 0; i < draft->parent_count; i++) {
        most += draft->parents[i]->source_count;
    }
    struct reflection_source *sources = arena_alloc(&task->arena, (most + 1) * sizeof *sources);
    for (size_t i = 0; i < draft->parent_count; i++) {
        const struct draft *parent = draft->parents[i];
        for (size_t k = 0; k < parent->source_count; k++) {
            if (!is_source(sources, draft->source_count, &parent->sources[k])) {
                sources[draft->source_count++] = parent->sources[k];
            }
        }
    }
    draft->sources = sources;
}

static bool names_source(const struct reflect_task *task, const struct draft *draft)
{
    for (size_t i = 0; i < draft->parent_count; i++) {
        const struct corpus_document *document =
            &task->work.corpus->documents[draft->parents[i]->document];
        if (source_name_in(document, draft->question) || source_name_in(document, draft->answer)) {
            return true;
        }
    }
    return false;
}

static void group_take_draft(struct reflect_task *task, struct step_request *request,
                             const struct answer_item *item, struct draft *draft)
{
    reflect_task_set_parents(task, request, item, request->subject, draft);
    join_sources(task, draft);
    draft_list_add(&task->drafts, draft);
    if (item->converging && draft_tells_answer(draft)) {
        draft_drop(draft, DROP_TELLS_ANSWER, &task->tally);
    } else if (names_source(task, draft)) {
        draft_drop(draft, DROP_NAMES_SOURCE, &task->tally);
    }
}

static const struct reflect_task_ops group_ops = {
    .advance = group_advance,
    .take_draft = group_take_draft,
};

// The first document of the corpus among the members that has the same text: documents are told
// apart by it.
static uint32_t canonical_document(const struct generator_task *work, size_t member)
{
    const struct corpus *corpus = work->corpus;
    const uint32_t document = corpus->chunks[work->members[member].chunk].document;
    for (size_t i = 0; i < member; i++) {
        const uint32_t other = corpus->chunks[work->members[i].chunk].document;
        if (digest_equal(corpus->documents[other].digest, corpus->documents[document].digest)) {
            return other;
        }
    }
    return document;
}

static struct draft *copy_member(struct reflect_task *task, const struct reflection *pair,
                                 uint32_t document)
{
    struct draft *draft = arena_alloc(&task->arena, sizeof *draft);
    struct reflection_source *sources =
        arena_alloc(&task->arena, (pair->source_count + 1) * sizeof *sources);
    if (pair->source_count > 0) {
        memcpy(sources, pair->sources, pair->source_count * sizeof *sources);
    }
    draft->origin = (struct draft_origin){pair->step, (uint32_t)task->members.count, pair->ordinal};
    draft->step = pair->step;
    draft->question = arena_strndup(&task->arena, pair->question, pair->question_bytes);
    draft->question_bytes = pair->question_bytes;
    draft->answer = arena_strndup(&task->arena, pair->answer, pair->answer_bytes);
    draft->answer_bytes = pair->answer_bytes;
    draft->sources = sources;
    draft->source_count = pair->source_count;
    draft->document = document;
    draft->record_id = pair->record_id;
    return draft;
}

struct reflect_task *group_task_create(const struct reflect_setup *setup,
                                       const struct generator_task *work)
{
    struct reflect_task *task = reflect_task_create(&group_ops, setup, work);
    for (size_t m = 0; m < work->member_count; m++) {
        const struct generator_member *member = &work->members[m];
        const uint32_t document = canonical_document(work, m);
        for (size_t i = 0; i < member->pair_count; i++) {
            draft_list_add(&task->members, copy_member(task, &member->pairs[i], document));
        }
    }
    reflect_task_settle(task);
    return task;
}
