// SPDX-License-Identifier: Apache-2.0
// A step's tokens fall into runs, one per sequence. Sorted by their tables, runs that begin with
// the same blocks are neighbours; neighbours with the same first block become a group, whose common
// blocks are a segment, and so on inside it where they part: the tree of prefixes, from the root. A
// long run (a prompt) is cut into groups of its own.
#include "worker/model/reading_plan.h"

#include "base/mem.h"

#include <stdlib.h>

// Consecutive tokens of one sequence.
struct reading_run {
    size_t first, tokens;
    const int32_t *table;
    size_t blocks; // up to that of the last token
    size_t at;     // of its first token in the order
};

struct reading_plan *reading_plan_create(size_t max_tokens)
{
    struct reading_plan *plan = mem_calloc(1, sizeof *plan);
    plan->order = mem_calloc(max_tokens, sizeof *plan->order);
    plan->groups = mem_calloc(max_tokens, sizeof *plan->groups);
    plan->segments = mem_calloc(2 * max_tokens, sizeof *plan->segments);
    plan->runs = mem_calloc(max_tokens, sizeof *plan->runs);
    return plan;
}

void reading_plan_destroy(struct reading_plan *plan)
{
    if (!plan)
        return;
    free(plan->order);
    free(plan->groups);
    free(plan->segments);
    free(plan->runs);
    free(plan);
}

static size_t common_blocks(const struct reading_run *a, const struct reading_run *b)
{
    size_t count = 0, most = a->blocks < b->blocks ? a->blocks : b->blocks;
    while (count < most && a->table[count] == b->table[count])
        count++;
    return count;
}

static int compare_runs(const void *a, const void *b)
{
    const struct reading_run *x = a, *y = b;
    size_t at = common_blocks(x, y);
    if (at < x->blocks && at < y->blocks)
        return x->table[at] < y->table[at] ? -1 : 1;
    if (x->blocks != y->blocks)
        return x->blocks < y->blocks ? -1 : 1;
    return (x->first > y->first) - (x->first < y->first);
}

static size_t find_runs(struct reading_plan *plan, const struct step_tokens *step,
                        size_t table_blocks)
{
    size_t count = 0;
    for (size_t t = 0; t < step->tokens; t++) {
        if (t == 0 || step->sequences[t] != step->sequences[t - 1])
            plan->runs[count++] = (struct reading_run){
                .first = t,
                .table = step->tables + (size_t)step->sequences[t] * table_blocks,
            };
        struct reading_run *run = &plan->runs[count - 1];
        run->tokens++;
        run->blocks = (size_t)step->positions[t] / KV_BLOCK_TOKENS + 1;
    }
    qsort(plan->runs, count, sizeof *plan->runs, compare_runs);
    return count;
}

static void add_segment(struct reading_plan *plan, size_t first, size_t tokens, size_t first_block,
                        size_t end_block)
{
    if (first_block < end_block)
        plan->segments[plan->segment_count++] = (struct attention_segment){
            (int32_t)first, (int32_t)tokens, (int32_t)first_block, (int32_t)end_block};
}

// Segments of runs [0, count), whose first `depth` blocks are common and done.
static void add_segments(struct reading_plan *plan, const struct reading_run *runs, size_t count,
                         size_t depth)
{
    const struct reading_run *last = &runs[count - 1];
    size_t common = count == 1 ? last->blocks : common_blocks(&runs[0], last);
    add_segment(plan, runs[0].at, last->at + last->tokens - runs[0].at, depth, common);
    if (count == 1)
        return;
    for (size_t i = 0, next; i < count; i = next) {
        next = i + 1;
        if (runs[i].blocks <= common)
            continue;
        while (next < count && runs[next].table[common] == runs[i].table[common])
            next++;
        add_segments(plan, runs + i, next - i, common);
    }
}

static void put_tokens(struct reading_plan *plan, size_t first, size_t tokens)
{
    for (size_t t = 0; t < tokens; t++)
        plan->order[plan->tokens++] = (int32_t)(first + t);
}

static struct attention_group *begin_group(struct reading_plan *plan)
{
    struct attention_group *group = &plan->groups[plan->group_count++];
    *group = (struct attention_group){.first = (int32_t)plan->tokens,
                                      .first_segment = (int32_t)plan->segment_count};
    return group;
}

static void end_group(struct reading_plan *plan, struct attention_group *group)
{
    group->tokens = (int32_t)plan->tokens - group->first;
    group->segments = (int32_t)plan->segment_count - group->first_segment;
    if ((size_t)group->tokens > plan->group_tokens)
        plan->group_tokens = (size_t)group->tokens;
}

// A run by itself, in pieces.
static void add_long(struct reading_plan *plan, const struct step_tokens *step,
                     const struct reading_run *run, size_t limit)
{
    for (size_t t = 0; t < run->tokens; t += limit) {
        size_t tokens = run->tokens - t < limit ? run->tokens - t : limit;
        size_t last = (size_t)step->positions[run->first + t + tokens - 1];
        struct attention_group *group = begin_group(plan);
        add_segment(plan, plan->tokens, tokens, 0, last / KV_BLOCK_TOKENS + 1);
        put_tokens(plan, run->first + t, tokens);
        end_group(plan, group);
    }
}

// As many runs as share the first block and fit; returns how many.
static size_t add_short(struct reading_plan *plan, struct reading_run *runs, size_t count,
                        size_t limit)
{
    size_t taken = 0, tokens = 0;
    struct attention_group *group = begin_group(plan);
    while (taken < count && tokens + runs[taken].tokens <= limit &&
           runs[taken].table[0] == runs[0].table[0]) {
        runs[taken].at = plan->tokens;
        put_tokens(plan, runs[taken].first, runs[taken].tokens);
        tokens += runs[taken++].tokens;
    }
    add_segments(plan, runs, taken, 0);
    end_group(plan, group);
    return taken;
}

void reading_plan_make(struct reading_plan *plan, const struct step_tokens *step,
                       size_t table_blocks, size_t group_tokens)
{
    size_t limit = group_tokens < READING_GROUP_LIMIT ? group_tokens : READING_GROUP_LIMIT;
    limit = limit > 0 ? limit : 1;
    plan->group_count = plan->segment_count = plan->group_tokens = plan->tokens = 0;
    size_t count = find_runs(plan, step, table_blocks);
    for (size_t i = 0; i < count;) {
        if (plan->runs[i].tokens > limit)
            add_long(plan, step, &plan->runs[i++], limit);
        else
            i += add_short(plan, plan->runs + i, count - i, limit);
    }
}
