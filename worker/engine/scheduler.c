// SPDX-License-Identifier: Apache-2.0
#include "worker/engine/scheduler.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { B = KV_BLOCK_TOKENS };

struct scheduler *scheduler_create(const struct model *model, struct kv_cache *cache,
                                   const struct engine_options *options, size_t blocks,
                                   struct engine_statistics *statistics)
{
    struct scheduler *s = mem_calloc(1, sizeof *s);
    s->cache = cache;
    s->tree = prefix_tree_create(blocks);
    s->slots = options->slots;
    s->max_tokens = options->max_tokens;
    s->table_blocks = kv_blocks(options->capacity);
    s->copies = true;
    for (int64_t i = 0; i < model->config.layers; i++)
        s->copies = s->copies && model->config.layer_kinds[i] != LAYER_CONV;
    s->statistics = statistics;
    queue_init(&s->waiting);
    s->running = mem_calloc(s->slots, sizeof *s->running);
    s->pieces = mem_calloc(s->slots, sizeof *s->pieces);
    s->ids = mem_calloc(s->max_tokens, sizeof *s->ids);
    s->sequences = mem_calloc(s->max_tokens, sizeof *s->sequences);
    s->positions = mem_calloc(s->max_tokens, sizeof *s->positions);
    s->tables = mem_calloc(s->slots * s->table_blocks, sizeof *s->tables);
    s->wanted = mem_calloc(s->slots, sizeof *s->wanted);
    s->wanted_jobs = mem_calloc(s->slots, sizeof *s->wanted_jobs);
    return s;
}

void scheduler_destroy(struct scheduler *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->running_count; i++)
        job_destroy(s->running[i]);
    queue_release(&s->waiting);
    prefix_tree_destroy(s->tree);
    free(s->running);
    free(s->pieces);
    free(s->ids);
    free(s->sequences);
    free(s->positions);
    free(s->tables);
    free(s->wanted);
    free(s->wanted_jobs);
    free(s);
}

static void release_source(struct scheduler *s, struct job *job)
{
    if (job->source != NO_BLOCK)
        prefix_tree_release(s->tree, job->source);
    job->source = NO_BLOCK;
}

static void release_blocks(struct scheduler *s, struct job *job)
{
    release_source(s, job);
    while (job->block_count > 0) {
        struct prefix_block *block = &s->tree->blocks[job->blocks[--job->block_count]];
        if (block->owner == job)
            block->owner = NULL;
        prefix_tree_release(s->tree, job->blocks[job->block_count]);
    }
    job->cached = 0;
}

static void add_block(struct scheduler *s, struct job *job)
{
    size_t at = job->block_count * B, count = job->count - at < B ? job->count - at : B;
    int32_t parent = at > 0 ? job->blocks[job->block_count - 1] : NO_BLOCK;
    job->blocks[job->block_count++] =
        prefix_tree_add(s->tree, parent, job->tokens + at, count, job);
}

// Takes the blocks that the tree knows, but never that of the last token, whose logits are wanted;
// and finds out whose first tokens the next one repeats.
static void take_known(struct scheduler *s, struct job *job)
{
    size_t last = (job->count - 1) / B, common = 0;
    int32_t match = NO_BLOCK;
    for (;;) {
        size_t at = job->block_count * B, left = job->count - 1 - at;
        int32_t parent = at > 0 ? job->blocks[job->block_count - 1] : NO_BLOCK;
        match = prefix_tree_match(s->tree, parent, job->tokens + at, left < B ? left : B, &common);
        if (job->block_count == last || common < B)
            break;
        prefix_tree_retain(s->tree, match);
        job->blocks[job->block_count++] = match;
    }
    if (match == NO_BLOCK || !s->copies)
        return;
    prefix_tree_retain(s->tree, match);
    job->source = match;
    job->source_tokens = common;
    job->source_block = job->block_count;
}

// False, and nothing changed, when there is no room. Jobs that run already need one more block each
// before long.
static bool admit(struct scheduler *s, struct job *job)
{
    size_t total = kv_blocks(job->count);
    if (!job->blocks)
        job->blocks = mem_calloc(s->table_blocks, sizeof *job->blocks);
    take_known(s, job);
    if (prefix_tree_available(s->tree) < total - job->block_count + s->running_count)
        release_source(s, job);
    if (prefix_tree_available(s->tree) < total - job->block_count + s->running_count) {
        release_blocks(s, job);
        return false;
    }
    while (job->block_count < total)
        add_block(s, job);
    size_t at = s->running_count++;
    for (; at > 0 && s->running[at - 1]->arrival > job->arrival; at--)
        s->running[at] = s->running[at - 1];
    s->running[at] = job;
    return true;
}

static void admit_all(struct scheduler *s)
{
    while (s->running_count < s->slots && s->waiting.first) {
        struct job *job = queue_pop(&s->waiting);
        if (!admit(s, job)) {
            queue_insert(&s->waiting, job);
            return;
        }
    }
}

void scheduler_remove(struct scheduler *s, struct job *job)
{
    size_t at = 0;
    while (s->running[at] != job)
        at++;
    release_blocks(s, job);
    s->running_count--;
    memmove(s->running + at, s->running + at + 1, (s->running_count - at) * sizeof *s->running);
}

void scheduler_cancel(struct scheduler *s, uint64_t id, size_t *removed)
{
    queue_remove(&s->waiting, id, removed);
    for (size_t i = s->running_count; i-- > 0;) {
        struct job *job = s->running[i];
        if (job->id != id)
            continue;
        scheduler_remove(s, job);
        job_destroy(job);
        ++*removed;
    }
}

static void preempt_last(struct scheduler *s)
{
    struct job *job = s->running[s->running_count - 1];
    scheduler_remove(s, job);
    queue_insert(&s->waiting, job);
    s->statistics->preemptions++;
}

// Tokens [job->cached, end) are in the cache without having been computed for it.
static void skip_to(struct scheduler *s, struct job *job, size_t end)
{
    size_t from = job->cached > job->reached ? job->cached : job->reached;
    size_t to = end < job->prompt_count ? end : job->prompt_count;
    if (to > from) {
        job->cached_count += to - from;
        s->statistics->cached_tokens += to - from;
    }
    job->cached = end;
    job->reached = end > job->reached ? end : job->reached;
}

// Begins the job's own block with the tokens that it has in common with another; false: they are
// being computed.
static bool copy_source(struct scheduler *s, struct job *job)
{
    const struct prefix_block *source = &s->tree->blocks[job->source];
    int32_t own = job->blocks[job->source_block];
    int32_t ready = source->computed, want = (int32_t)job->source_tokens;
    if (ready < want && source->owner)
        return false;
    if (ready > 0) {
        kv_cache_copy_block(s->cache, job->source, own);
        s->tree->blocks[own].computed = ready < want ? ready : want;
    }
    release_source(s, job);
    return true;
}

// Passes what is computed; false when the next token is somebody else's to compute.
static bool advance(struct scheduler *s, struct job *job)
{
    while (job->cached / B < job->block_count) {
        size_t number = job->cached / B;
        struct prefix_block *block = &s->tree->blocks[job->blocks[number]];
        if (job->source != NO_BLOCK && number == job->source_block && !copy_source(s, job))
            return false;
        if (!block->owner)
            block->owner = job;
        bool own = block->owner == job;
        if (!own && block->computed < B)
            return false;
        size_t end = number * B + (size_t)block->computed;
        if (end > job->cached)
            skip_to(s, job, end);
        if (block->computed < B)
            return true;
    }
    return true;
}

// Blocks for tokens up to `end`; false when the job itself had to give way.
static bool grow(struct scheduler *s, struct job *job, size_t end)
{
    while (job->block_count * B < end) {
        while (prefix_tree_available(s->tree) == 0) {
            bool itself = s->running[s->running_count - 1] == job;
            preempt_last(s);
            if (itself)
                return false;
        }
        add_block(s, job);
    }
    return true;
}

// The tree learns which tokens a block holds as they come.
static void note_token(struct scheduler *s, const struct job *job, size_t position)
{
    struct prefix_block *block = &s->tree->blocks[job->blocks[position / B]];
    if (position % B < (size_t)block->count)
        return;
    block->tokens[position % B] = job->tokens[position];
    block->count = (int32_t)(position % B) + 1;
}

static void count_tokens(struct scheduler *s, struct job *job, size_t end)
{
    size_t again = job->reached < end ? job->reached : end;
    size_t from = job->cached > job->reached ? job->cached : job->reached;
    size_t to = end < job->prompt_count ? end : job->prompt_count;
    if (again > job->cached)
        s->statistics->recomputed_tokens += again - job->cached;
    if (to > from)
        s->statistics->prompt_tokens += to - from;
    job->reached = end > job->reached ? end : job->reached;
}

// Puts as many uncached tokens of a job into the step as the budget still allows.
static void add_tokens(struct scheduler *s, struct job *job)
{
    size_t left = job->count - job->cached, budget = s->max_tokens - s->tokens;
    size_t count = left < budget ? left : budget;
    if (count == 0 || !grow(s, job, job->cached + count))
        return;
    size_t sequence = s->piece_count++;
    s->pieces[sequence] = (struct piece){job, job->cached, count};
    for (size_t i = 0; i < count; i++) {
        size_t at = s->tokens++, position = job->cached + i;
        note_token(s, job, position);
        s->ids[at] = job->tokens[position];
        s->positions[at] = (int32_t)position;
        s->sequences[at] = (int32_t)sequence;
    }
    memcpy(s->tables + sequence * s->table_blocks, job->blocks,
           job->block_count * sizeof *job->blocks);
    count_tokens(s, job, job->cached + count);
    job->cached += count;
    if (job->cached == job->count) {
        s->wanted[s->wanted_count] = (int32_t)s->tokens - 1;
        s->wanted_jobs[s->wanted_count++] = job;
    }
}

void scheduler_plan(struct scheduler *s)
{
    s->tokens = s->wanted_count = s->piece_count = 0;
    admit_all(s);
    for (size_t i = 0; i < s->running_count; i++)
        s->running[i]->in_prompt = s->running[i]->cached < s->running[i]->prompt_count;
    for (int prompts = 0; prompts < 2; prompts++)
        for (size_t i = 0; i < s->running_count; i++)
            if (s->running[i]->in_prompt == prompts && advance(s, s->running[i]))
                add_tokens(s, s->running[i]);
}

void scheduler_computed(struct scheduler *s)
{
    for (size_t i = 0; i < s->piece_count; i++) {
        const struct piece *piece = &s->pieces[i];
        size_t end = piece->first + piece->count;
        for (size_t number = piece->first / B; number * B < end; number++) {
            struct prefix_block *block = &s->tree->blocks[piece->job->blocks[number]];
            size_t here = end - number * B < B ? end - number * B : B;
            if (here > (size_t)block->computed)
                block->computed = (int32_t)here;
        }
    }
}
