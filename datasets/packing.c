// SPDX-License-Identifier: Apache-2.0
#include "datasets/packing.h"

#include "base/mem.h"
#include "base/random.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static size_t sequence_tokens(const struct sequence_set *set, uint32_t sequence)
{
    return (size_t)(set->offsets[sequence + 1] - set->offsets[sequence]);
}

int sequence_set_add(struct sequence_set *set, const int32_t *ids, size_t length,
                     size_t target_begin, size_t target_end, size_t max_tokens)
{
    assert(target_begin >= 1 && target_begin < target_end && target_end <= length);
    if (length > max_tokens) {
        set->too_long++;
        set->longest_refused = length > set->longest_refused ? length : set->longest_refused;
        return 1;
    }
    const size_t used = set->count ? (size_t)set->offsets[set->count] : 0;
    set->ids = mem_grow(set->ids, &set->ids_capacity, used + length, sizeof(*set->ids));
    if (set->count + 2 > set->count_capacity) {
        set->count_capacity = 2 * set->count_capacity + 64;
        const size_t bytes32 = set->count_capacity * sizeof(uint32_t);
        set->offsets = mem_realloc(set->offsets, set->count_capacity * sizeof(*set->offsets));
        set->target_begin = mem_realloc(set->target_begin, bytes32);
        set->target_end = mem_realloc(set->target_end, bytes32);
    }
    memcpy(set->ids + used, ids, length * sizeof(*ids));
    set->offsets[set->count] = used;
    set->offsets[set->count + 1] = used + length;
    set->target_begin[set->count] = (uint32_t)target_begin;
    set->target_end[set->count] = (uint32_t)target_end;
    set->count++;
    return 0;
}

void sequence_set_release(struct sequence_set *set)
{
    free(set->ids);
    free(set->offsets);
    free(set->target_begin);
    free(set->target_end);
    memset(set, 0, sizeof(*set));
}

struct digest sequence_set_digest(const struct sequence_set *set)
{
    struct digest_builder builder;
    const size_t tokens = set->count ? (size_t)set->offsets[set->count] : 0;
    digest_begin(&builder);
    digest_field_u64(&builder, set->count);
    digest_field(&builder, set->ids, tokens * sizeof(*set->ids));
    digest_field(&builder, set->offsets, (set->count ? set->count + 1 : 0) * sizeof(*set->offsets));
    digest_field(&builder, set->target_begin, set->count * sizeof(*set->target_begin));
    digest_field(&builder, set->target_end, set->count * sizeof(*set->target_end));
    return digest_end(&builder);
}

size_t plan_steps_per_epoch(const struct step_plan *plan, const struct sequence_set *set)
{
    return (set->count + plan->per_step - 1) / plan->per_step;
}

size_t plan_steps(const struct step_plan *plan, const struct sequence_set *set)
{
    return plan->epochs * plan_steps_per_epoch(plan, set);
}

size_t plan_step_sequences(const struct step_plan *plan, const struct sequence_set *set,
                           size_t step, uint32_t *out)
{
    const size_t per_epoch = plan_steps_per_epoch(plan, set);
    const size_t begin = step % per_epoch * plan->per_step;
    const size_t end = begin + plan->per_step < set->count ? begin + plan->per_step : set->count;
    uint32_t *order = mem_alloc(set->count * sizeof(*order));
    random_permutation(plan->seed, step / per_epoch, order, set->count);
    memcpy(out, order + begin, (end - begin) * sizeof(*out));
    free(order);
    return end - begin;
}

size_t sequences_target_tokens(const struct sequence_set *set, const uint32_t *sequences,
                               size_t count)
{
    size_t tokens = 0;
    for (size_t i = 0; i < count; i++)
        tokens += set->target_end[sequences[i]] - set->target_begin[sequences[i]];
    return tokens;
}

struct sized_sequence {
    size_t tokens;
    uint32_t sequence;
};

static int compare_longest_first(const void *a, const void *b)
{
    const struct sized_sequence *x = a, *y = b;
    if (x->tokens != y->tokens)
        return x->tokens < y->tokens ? 1 : -1;
    return x->sequence < y->sequence ? -1 : x->sequence > y->sequence;
}

static void sort_longest_first(const struct sequence_set *set, uint32_t *sequences, size_t count)
{
    struct sized_sequence *sized = mem_alloc(count * sizeof(*sized) + 1);
    for (size_t i = 0; i < count; i++)
        sized[i] = (struct sized_sequence){sequence_tokens(set, sequences[i]), sequences[i]};
    qsort(sized, count, sizeof(*sized), compare_longest_first);
    for (size_t i = 0; i < count; i++)
        sequences[i] = sized[i].sequence;
    free(sized);
}

size_t sequences_for_rank(const struct sequence_set *set, uint32_t *sequences, size_t count,
                          int rank, int ranks)
{
    uint64_t *load = mem_calloc((size_t)ranks, sizeof(*load));
    size_t kept = 0;
    sort_longest_first(set, sequences, count);
    for (size_t i = 0; i < count; i++) {
        int lightest = 0;
        for (int r = 1; r < ranks; r++) {
            if (load[r] < load[lightest])
                lightest = r;
        }
        load[lightest] += sequence_tokens(set, sequences[i]);
        if (lightest == rank)
            sequences[kept++] = sequences[i];
    }
    free(load);
    return kept;
}

size_t pack_sequences(const struct sequence_set *set, const uint32_t *sequences, size_t count,
                      size_t max_tokens, uint32_t *bins)
{
    size_t *room = mem_alloc(count * sizeof(*room) + 1);
    size_t used = 0;
    for (size_t i = 0; i < count; i++) {
        const size_t tokens = sequence_tokens(set, sequences[i]);
        assert(tokens <= max_tokens);
        size_t best = used;
        for (size_t b = 0; b < used; b++) {
            if (room[b] >= tokens && (best == used || room[b] < room[best]))
                best = b;
        }
        if (best == used)
            room[used++] = max_tokens;
        room[best] -= tokens;
        bins[i] = (uint32_t)best;
    }
    free(room);
    return used;
}

static void reserve(struct packed_batch *batch, size_t tokens, size_t sequences)
{
    if (tokens > batch->tokens_capacity) {
        batch->tokens_capacity = tokens;
        batch->ids = mem_realloc(batch->ids, tokens * sizeof(*batch->ids));
        batch->positions = mem_realloc(batch->positions, tokens * sizeof(*batch->positions));
        batch->targets = mem_realloc(batch->targets, tokens * sizeof(*batch->targets));
    }
    if (sequences + 1 > batch->sequences_capacity) {
        batch->sequences_capacity = sequences + 1;
        batch->offsets =
            mem_realloc(batch->offsets, batch->sequences_capacity * sizeof(*batch->offsets));
    }
}

static void append_sequence(struct packed_batch *batch, const struct sequence_set *set,
                            uint32_t sequence)
{
    const int32_t *ids = set->ids + set->offsets[sequence];
    const size_t length = sequence_tokens(set, sequence);
    const size_t at = batch->tokens;
    for (size_t t = 0; t < length; t++) {
        const size_t next = t + 1; // the token that this one predicts
        const bool target = next >= set->target_begin[sequence] && next < set->target_end[sequence];
        batch->ids[at + t] = ids[t];
        batch->positions[at + t] = (int32_t)t;
        batch->targets[at + t] = target ? ids[next] : -1;
    }
    batch->tokens += length;
    batch->offsets[++batch->sequences] = (int32_t)batch->tokens;
}

void packed_batch_fill(struct packed_batch *batch, const struct sequence_set *set,
                       const uint32_t *sequences, const uint32_t *bins, size_t count, uint32_t bin)
{
    size_t tokens = 0, in_bin = 0;
    for (size_t i = 0; i < count; i++) {
        if (bins[i] == bin) {
            tokens += sequence_tokens(set, sequences[i]);
            in_bin++;
        }
    }
    reserve(batch, tokens, in_bin);
    batch->tokens = 0;
    batch->sequences = 0;
    batch->offsets[0] = 0;
    for (size_t i = 0; i < count; i++) {
        if (bins[i] == bin)
            append_sequence(batch, set, sequences[i]);
    }
}

void packed_batch_release(struct packed_batch *batch)
{
    free(batch->ids);
    free(batch->positions);
    free(batch->targets);
    free(batch->offsets);
    memset(batch, 0, sizeof(*batch));
}
