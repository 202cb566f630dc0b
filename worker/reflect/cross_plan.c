// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/cross_plan.h"

#include "base/mem.h"
#include "datasets/text_key.h"

#include <stdlib.h>
#include <string.h>

#define NO_NAME UINT32_MAX

struct name {
    char *key;
    size_t pairs; // that hold it
    uint32_t document;
    bool shared; // by pairs of different documents
};

// A pair that can be anchor or be compared.
struct candidate {
    struct draft *draft;
    char *key;
    uint32_t rank; // of its most telling shared name; NO_NAME: it has none
    uint32_t position;
};

struct planner {
    struct candidate *candidates; // in the order of the members, later by rank
    size_t candidate_count;
    struct name *names;
    size_t name_count;
};

static int compare_keys(const void *left, const void *right)
{
    return strcmp(((const struct name *)left)->key, ((const struct name *)right)->key);
}

// Shared names first, by the number of pairs that hold them.
static int compare_names(const void *left, const void *right)
{
    const struct name *a = left, *b = right;
    if (a->shared != b->shared) {
        return a->shared ? -1 : 1;
    }
    if (a->pairs != b->pairs) {
        return a->pairs < b->pairs ? -1 : 1;
    }
    return strcmp(a->key, b->key);
}

static int compare_ranks(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    if (a->rank != b->rank) {
        return a->rank < b->rank ? -1 : 1;
    }
    return (a->position > b->position) - (a->position < b->position);
}

static char *name_key(const struct draft *draft)
{
    struct strbuf key = {0};
    text_key_add(draft->answer, draft->answer_bytes, &key);
    return strbuf_detach(&key);
}

static void keep_each_name_once(struct planner *planner)
{
    size_t kept = 0;
    qsort(planner->names, planner->name_count, sizeof *planner->names, compare_keys);
    for (size_t i = 0; i < planner->name_count; i++) {
        if (kept > 0 && strcmp(planner->names[kept - 1].key, planner->names[i].key) == 0) {
            free(planner->names[i].key);
        } else {
            planner->names[kept++] = planner->names[i];
        }
    }
    planner->name_count = kept;
}

static void collect(struct planner *planner, const struct draft_list *members)
{
    planner->candidates = mem_calloc(members->count + 1, sizeof *planner->candidates);
    planner->names = mem_calloc(members->count + 1, sizeof *planner->names);
    for (size_t i = 0; i < members->count; i++) {
        struct draft *draft = members->items[i];
        if (draft->step == STEP_ENTITY) {
            planner->names[planner->name_count++] = (struct name){.key = name_key(draft)};
        } else {
            planner->candidates[planner->candidate_count++] =
                (struct candidate){draft, draft_key(draft), NO_NAME, (uint32_t)i};
        }
    }
    keep_each_name_once(planner);
}

static void count_mentions(struct planner *planner)
{
    for (size_t n = 0; n < planner->name_count; n++) {
        struct name *name = &planner->names[n];
        for (size_t i = 0; i < planner->candidate_count; i++) {
            const struct candidate *candidate = &planner->candidates[i];
            if (text_key_contains(candidate->key, name->key)) {
                const uint32_t document = candidate->draft->document;
                name->shared = name->shared || (name->pairs > 0 && name->document != document);
                name->document = document;
                name->pairs++;
            }
        }
    }
}

static void rank_candidates(struct planner *planner)
{
    qsort(planner->names, planner->name_count, sizeof *planner->names, compare_names);
    for (size_t i = 0; i < planner->candidate_count; i++) {
        struct candidate *candidate = &planner->candidates[i];
        for (uint32_t n = 0; n < planner->name_count && planner->names[n].shared; n++) {
            if (text_key_contains(candidate->key, planner->names[n].key)) {
                candidate->rank = n;
                break;
            }
        }
    }
    qsort(planner->candidates, planner->candidate_count, sizeof *planner->candidates,
          compare_ranks);
}

// The anchors are the first so many candidates.
static size_t count_anchors(const struct planner *planner, size_t limit)
{
    size_t count = 0;
    while (count < planner->candidate_count && planner->candidates[count].rank != NO_NAME) {
        count++;
    }
    if (count == 0) {
        count = planner->candidate_count;
    }
    return limit > 0 && count > limit ? limit : count;
}

static int compare_positions(const void *left, const void *right)
{
    const struct candidate *a = left, *b = right;
    return (a->position > b->position) - (a->position < b->position);
}

// The drafts of some candidates, those of the document or all the others.
static struct draft **select_drafts(const struct candidate *candidates, size_t count,
                                    uint32_t document, bool own, struct arena *arena,
                                    size_t *out_count)
{
    struct draft **drafts = arena_alloc(arena, (count + 1) * sizeof *drafts);
    *out_count = 0;
    for (size_t i = 0; i < count; i++) {
        if ((candidates[i].draft->document == document) == own) {
            drafts[(*out_count)++] = candidates[i].draft;
        }
    }
    return drafts;
}

static void add_batches(const struct planner *planner, const struct candidate *anchors,
                        size_t anchor_count, uint32_t document, const struct cross_limits *limits,
                        struct arena *arena, struct cross_plan *out)
{
    size_t count, own_count;
    struct draft **pairs = select_drafts(planner->candidates, planner->candidate_count, document,
                                         false, arena, &count);
    struct draft **own = select_drafts(anchors, anchor_count, document, true, arena, &own_count);
    for (size_t first = 0, made = 0; first < count; first += limits->batch, made++) {
        if (limits->batches > 0 && made == limits->batches) {
            return;
        }
        const size_t left = count - first;
        out->batches[out->count++] = (struct cross_batch){
            pairs + first, left < limits->batch ? left : limits->batch, own, own_count};
    }
}

static bool is_first_of_document(const struct candidate *anchors, size_t position)
{
    for (size_t i = 0; i < position; i++) {
        if (anchors[i].draft->document == anchors[position].draft->document) {
            return false;
        }
    }
    return true;
}

void cross_plan_make(const struct draft_list *members, const struct cross_limits *limits,
                     struct arena *arena, struct cross_plan *out)
{
    struct planner planner = {0};
    collect(&planner, members);
    count_mentions(&planner);
    rank_candidates(&planner);
    const size_t count = count_anchors(&planner, limits->anchors);
    struct candidate *anchors = mem_dup(planner.candidates, (count + 1) * sizeof *anchors);
    qsort(anchors, count, sizeof *anchors, compare_positions);
    size_t documents = 0;
    for (size_t i = 0; i < count; i++) {
        documents += is_first_of_document(anchors, i);
    }
    const size_t most = documents * (planner.candidate_count / limits->batch + 1);
    *out = (struct cross_plan){.batches = arena_alloc(arena, (most + 1) * sizeof *out->batches)};
    for (size_t i = 0; i < count; i++) {
        if (is_first_of_document(anchors, i)) {
            add_batches(&planner, anchors, count, anchors[i].draft->document, limits, arena, out);
        }
    }
    for (size_t i = 0; i < planner.candidate_count; i++) {
        free(planner.candidates[i].key);
    }
    for (size_t i = 0; i < planner.name_count; i++) {
        free(planner.names[i].key);
    }
    free(planner.candidates);
    free(planner.names);
    free(anchors);
}
