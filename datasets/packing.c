// SPDX-License-Identifier: Apache-2.0
#include "datasets/packing.h"

#include "base/mem.h"
#include "base/random.h"

#include <assert.h>
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
    assert(set->count < UINT32_MAX && !set->borrowed);
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
    set->longest = length > set->longest ? length : set->longest;
    return 0;
}

void sequence_set_release(struct sequence_set *set)
{
    if (!set->borrowed) {
        free(set->ids);
        free(set->offsets);
        free(set->target_begin);
        free(set->target_end);
    }
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

const uint32_t *step_cursor_sequences(struct step_cursor *cursor, const struct step_plan *plan,
                                      const struct sequence_set *set, size_t step, size_t *count)
{
    const size_t per_epoch = plan_steps_per_epoch(plan, set);
    const size_t epoch = step / per_epoch;
    const size_t begin = step % per_epoch * plan->per_step;
    const size_t left = set->count - begin;
    if (!cursor->order || cursor->epoch != epoch) {
        if (!cursor->order)
            cursor->order = mem_alloc(set->count * sizeof(*cursor->order));
        random_permutation(plan->seed, epoch, cursor->order, set->count);
        cursor->epoch = epoch;
    }
    *count = left < plan->per_step ? left : plan->per_step;
    return cursor->order + begin;
}

void step_cursor_release(struct step_cursor *cursor)
{
    free(cursor->order);
    *cursor = (struct step_cursor){0};
}

size_t sequences_tokens(const struct sequence_set *set, const uint32_t *sequences, size_t count)
{
    size_t tokens = 0;
    for (size_t i = 0; i < count; i++)
        tokens += sequence_tokens(set, sequences[i]);
    return tokens;
}

size_t sequences_target_tokens(const struct sequence_set *set, const uint32_t *sequences,
                               size_t count)
{
    size_t tokens = 0;
    for (size_t i = 0; i < count; i++)
        tokens += set->target_end[sequences[i]] - set->target_begin[sequences[i]];
    return tokens;
}

static void layout_reserve(struct step_layout *layout, size_t count, size_t ranks)
{
    if (count > layout->capacity) {
        layout->capacity = count;
        layout->sequences = mem_realloc(layout->sequences, count * sizeof(*layout->sequences));
        layout->bins = mem_realloc(layout->bins, count * sizeof(*layout->bins));
        layout->rooms = mem_realloc(layout->rooms, count * sizeof(*layout->rooms));
        layout->order = mem_realloc(layout->order, count * sizeof(*layout->order));
        layout->owners = mem_realloc(layout->owners, count * sizeof(*layout->owners));
    }
    if (ranks > layout->ranks_capacity) {
        layout->ranks_capacity = ranks;
        layout->loads = mem_realloc(layout->loads, ranks * sizeof(*layout->loads));
    }
}

// Equally long sequences in the order of their numbers: the layout must not depend on the sort.
static int compare_longest_first(const void *a, const void *b, void *set)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    const size_t x_tokens = sequence_tokens(set, x), y_tokens = sequence_tokens(set, y);
    if (x_tokens != y_tokens)
        return x_tokens < y_tokens ? 1 : -1;
    return x < y ? -1 : x > y;
}

static int lightest_rank(const uint64_t *loads, int ranks)
{
    int lightest = 0;
    for (int r = 1; r < ranks; r++) {
        if (loads[r] < loads[lightest])
            lightest = r;
    }
    return lightest;
}

// Into the bin that it fills best, or a new one.
static void place_sequence(struct step_layout *layout, size_t place, size_t tokens,
                           size_t max_tokens)
{
    size_t *rooms = layout->rooms;
    size_t best = layout->bin_count;
    assert(tokens <= max_tokens);
    for (size_t b = 0; b < layout->bin_count; b++) {
        if (rooms[b] >= tokens && (best == layout->bin_count || rooms[b] < rooms[best]))
            best = b;
    }
    if (best == layout->bin_count)
        rooms[layout->bin_count++] = max_tokens;
    rooms[best] -= tokens;
    layout->bins[place] = (uint32_t)best;
}

static void place_sequences(struct step_layout *layout, const struct sequence_set *set,
                            size_t max_tokens)
{
    layout->bin_count = 0;
    for (size_t i = 0; i < layout->count; i++)
        place_sequence(layout, i, sequence_tokens(set, layout->sequences[i]), max_tokens);
}

static void choose_owners(struct step_layout *layout, const struct sequence_set *set, size_t count,
                          int ranks)
{
    uint64_t *loads = layout->loads;
    memset(loads, 0, (size_t)ranks * sizeof(*loads));
    for (size_t i = 0; i < count; i++) {
        const int lightest = lightest_rank(loads, ranks);
        loads[lightest] += sequence_tokens(set, layout->order[i]);
        layout->owners[i] = (uint32_t)lightest;
    }
}

static void take_sequences(struct step_layout *layout, size_t count, int rank)
{
    layout->count = 0;
    for (size_t i = 0; i < count; i++) {
        if (layout->owners[i] == (uint32_t)rank)
            layout->sequences[layout->count++] = layout->order[i];
    }
}

static void divide_sequences(struct step_layout *layout, const struct sequence_set *set,
                             size_t count, int rank, int ranks, size_t max_tokens)
{
    choose_owners(layout, set, count, ranks);
    layout->most_bins = layout->total_bins = 0;
    for (int i = 1; i <= ranks; i++) { // `rank` comes last: its part stays
        take_sequences(layout, count, (rank + i) % ranks);
        place_sequences(layout, set, max_tokens);
        layout->total_bins += layout->bin_count;
        if (layout->bin_count > layout->most_bins)
            layout->most_bins = layout->bin_count;
    }
}

// The fullest micro-batch that has no rank yet, the first of equally full ones.
static size_t fullest_bin(const struct step_layout *layout, const uint32_t *rank_of)
{
    size_t best = layout->bin_count;
    for (size_t b = 0; b < layout->bin_count; b++) {
        if (rank_of[b] == UINT32_MAX &&
            (best == layout->bin_count || layout->rooms[b] < layout->rooms[best]))
            best = b;
    }
    return best;
}

// Keeps the bins of `rank`, numbered anew in their order.
static void keep_bins(struct step_layout *layout, const uint32_t *rank_of, int rank)
{
    size_t kept = 0, bins = 0;
    size_t *renamed = layout->rooms;
    for (size_t b = 0; b < layout->bin_count; b++)
        renamed[b] = rank_of[b] == (uint32_t)rank ? bins++ : 0;
    for (size_t i = 0; i < layout->count; i++) {
        const uint32_t bin = layout->bins[i];
        if (rank_of[bin] != (uint32_t)rank)
            continue;
        layout->sequences[kept] = layout->sequences[i];
        layout->bins[kept++] = (uint32_t)renamed[bin];
    }
    layout->count = kept;
    layout->bin_count = bins;
}

static void divide_micro_batches(struct step_layout *layout, const struct sequence_set *set,
                                 size_t count, int rank, int ranks, size_t max_tokens)
{
    uint32_t *rank_of = layout->owners; // of a bin
    uint64_t *loads = layout->loads;
    memcpy(layout->sequences, layout->order, count * sizeof(*layout->sequences));
    layout->count = count;
    place_sequences(layout, set, max_tokens);
    layout->total_bins = layout->bin_count;
    layout->most_bins = 0;
    memset(loads, 0, (size_t)ranks * sizeof(*loads));
    memset(rank_of, 0xff, layout->bin_count * sizeof(*rank_of));
    for (size_t i = 0; i < layout->bin_count; i++) {
        const size_t bin = fullest_bin(layout, rank_of);
        rank_of[bin] = (uint32_t)lightest_rank(loads, ranks);
        loads[rank_of[bin]] += max_tokens - layout->rooms[bin];
    }
    for (int r = 0; r < ranks; r++) {
        size_t bins = 0;
        for (size_t b = 0; b < layout->bin_count; b++)
            bins += rank_of[b] == (uint32_t)r;
        layout->most_bins = bins > layout->most_bins ? bins : layout->most_bins;
    }
    keep_bins(layout, rank_of, rank);
}

void step_layout_make(struct step_layout *layout, const struct sequence_set *set,
                      const uint32_t *sequences, size_t count, enum step_division division,
                      int rank, int ranks, size_t max_tokens)
{
    assert(count > 0 && rank >= 0 && rank < ranks);
    layout_reserve(layout, count, (size_t)ranks);
    memcpy(layout->order, sequences, count * sizeof(*sequences));
    qsort_r(layout->order, count, sizeof(*sequences), compare_longest_first, (void *)set);
    if (division == DIVIDE_SEQUENCES)
        divide_sequences(layout, set, count, rank, ranks, max_tokens);
    else
        divide_micro_batches(layout, set, count, rank, ranks, max_tokens);
}

void step_layout_release(struct step_layout *layout)
{
    free(layout->sequences);
    free(layout->bins);
    free(layout->loads);
    free(layout->rooms);
    free(layout->order);
    free(layout->owners);
    *layout = (struct step_layout){0};
}

static void batch_reserve(struct packed_batch *batch, size_t tokens, size_t sequences)
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
                       const struct step_layout *layout, uint32_t bin)
{
    size_t tokens = 0, in_bin = 0;
    for (size_t i = 0; i < layout->count; i++) {
        if (layout->bins[i] == bin) {
            tokens += sequence_tokens(set, layout->sequences[i]);
            in_bin++;
        }
    }
    batch_reserve(batch, tokens, in_bin);
    batch->tokens = 0;
    batch->sequences = 0;
    batch->offsets[0] = 0;
    for (size_t i = 0; i < layout->count; i++) {
        if (layout->bins[i] == bin)
            append_sequence(batch, set, layout->sequences[i]);
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
