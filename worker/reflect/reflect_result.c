// SPDX-License-Identifier: Apache-2.0
// From a finished task to what the generator hands out: live drafts become records, in one block of
// memory.
#include "worker/reflect/reflect_task.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <string.h>

#define ALIGNMENT 16

// Hands out pieces of one block; first run without a block, to learn how large it must be.
struct packer {
    char *block;
    size_t used;
};

static void *pack(struct packer *packer, const void *bytes, size_t length)
{
    char *place = packer->block ? packer->block + packer->used : NULL;
    packer->used += (length + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (place && bytes && length > 0) {
        memcpy(place, bytes, length);
    }
    return place;
}

static size_t count_live(const struct draft_list *drafts)
{
    size_t live = 0;
    for (size_t i = 0; i < drafts->count; i++) {
        live += drafts->items[i]->dropped == NULL;
    }
    return live;
}

static void number_records(struct reflect_task *task)
{
    uint32_t ordinal = 0;
    draft_list_sort(&task->drafts);
    for (size_t i = 0; i < task->drafts.count; i++) {
        struct draft *draft = task->drafts.items[i];
        if (!draft->dropped) {
            draft->record_id = reflection_record_id(task->work.task_id, draft->step, ordinal++);
        }
    }
}

// The parents that are records themselves, in the order in which they were named.
static const struct digest *pack_parents(struct packer *packer, const struct draft *draft,
                                         size_t *out_count)
{
    struct digest *ids = pack(packer, NULL, draft->parent_count * sizeof *ids);
    *out_count = 0;
    for (size_t i = 0; i < draft->parent_count; i++) {
        if (!draft->parents[i]->dropped) {
            if (ids) {
                ids[*out_count] = draft->parents[i]->record_id;
            }
            ++*out_count;
        }
    }
    return ids;
}

static struct reflection pack_record(struct packer *packer, const struct reflect_task *task,
                                     const struct draft *draft, uint32_t ordinal)
{
    struct reflection record = {
        .record_id = draft->record_id,
        .task_id = task->work.task_id,
        .step = draft->step,
        .ordinal = ordinal,
        .question = pack(packer, draft->question, draft->question_bytes + 1),
        .question_bytes = draft->question_bytes,
        .answer = pack(packer, draft->answer, draft->answer_bytes + 1),
        .answer_bytes = draft->answer_bytes,
        .sources = pack(packer, draft->sources, draft->source_count * sizeof *draft->sources),
        .source_count = draft->source_count,
        .seed = draft->seed,
        .prompt_tokens = draft->prompt_tokens,
        .output_tokens = draft->output_tokens,
    };
    record.parents = pack_parents(packer, draft, &record.parent_count);
    return record;
}

static void pack_result(struct packer *packer, const struct reflect_task *task, size_t live,
                        struct generated *out)
{
    const struct tally *tally = &task->tally;
    const char *problem = task->problem ? task->problem : "";
    struct reflection *records = pack(packer, NULL, live * sizeof *records);
    uint32_t ordinal = 0;
    for (size_t i = 0; live > 0 && i < task->drafts.count; i++) {
        if (!task->drafts.items[i]->dropped) {
            const struct reflection record =
                pack_record(packer, task, task->drafts.items[i], ordinal);
            if (records) {
                records[ordinal] = record;
            }
            ordinal++;
        }
    }
    out->pairs = records;
    out->task.pairs = ordinal;
    out->task.reason = pack(packer, problem, strlen(problem) + 1);
    out->task.drop_count = task->problem ? 0 : tally->drop_count;
    out->task.drops = pack(packer, tally->drops, out->task.drop_count * sizeof *tally->drops);
    out->task.usage_count = tally->usage_count;
    out->task.usage = pack(packer, tally->usage, tally->usage_count * sizeof *tally->usage);
}

void reflect_task_result(struct reflect_task *task, struct generated *out)
{
    struct packer packer = {0};
    assert(task->finished);
    number_records(task);
    tally_sort(&task->tally);
    const size_t live = task->problem ? 0 : count_live(&task->drafts);
    *out = (struct generated){0};
    pack_result(&packer, task, live, out); // measures
    packer = (struct packer){.block = mem_calloc(1, packer.used)};
    pack_result(&packer, task, live, out);
    out->memory = packer.block;
    out->fatal = task->fatal;
    out->task.task_id = task->work.task_id;
    out->task.outcome = task->problem ? TASK_SET_ASIDE : live > 0 ? TASK_DONE : TASK_EMPTY;
    out->task.seconds = clock_seconds() - task->started_seconds;
}
