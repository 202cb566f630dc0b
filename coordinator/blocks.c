// SPDX-License-Identifier: Apache-2.0
#include "coordinator/blocks.h"

#include "base/mem.h"

#include <stdlib.h>

static bool goes_first(const void *state, uint32_t a, uint32_t b)
{
    const struct blocks *blocks = state;
    const struct block *x = &blocks->items[a], *y = &blocks->items[b];
    return x->priority != y->priority ? x->priority > y->priority : a < b;
}

void blocks_init(struct blocks *blocks)
{
    *blocks = (struct blocks){0};
    index_heap_init(&blocks->claimable, 0, goes_first, blocks);
}

void blocks_release(struct blocks *blocks)
{
    index_heap_release(&blocks->claimable);
    free(blocks->items);
}

static bool is_claimable(const struct block *block)
{
    return block->state == BLOCK_UNCLAIMED && block->ready > 0;
}

// Takes the block out of the sums, or adds it to them again, around a change.
static void discount(struct blocks *blocks, uint32_t number)
{
    const struct block *block = &blocks->items[number];
    blocks->claimable_tasks -= is_claimable(block) ? block->ready : 0;
    blocks->foreign_tasks -= block->state != BLOCK_OURS ? block->open : 0;
    blocks->refused -= block->state == BLOCK_REFUSED && block->open > 0;
}

static void count_again(struct blocks *blocks, uint32_t number)
{
    const struct block *block = &blocks->items[number];
    blocks->claimable_tasks += is_claimable(block) ? block->ready : 0;
    blocks->foreign_tasks += block->state != BLOCK_OURS ? block->open : 0;
    blocks->refused += block->state == BLOCK_REFUSED && block->open > 0;
    if (is_claimable(block))
        index_heap_set(&blocks->claimable, number);
    else
        index_heap_remove(&blocks->claimable, number);
}

uint32_t blocks_add(struct blocks *blocks, uint32_t first, uint32_t count, uint32_t priority)
{
    const uint32_t number = (uint32_t)blocks->count++;
    blocks->items =
        mem_grow(blocks->items, &blocks->capacity, blocks->count, sizeof(*blocks->items));
    if (blocks->claimable.capacity < blocks->capacity)
        index_heap_grow(&blocks->claimable, blocks->capacity);
    blocks->items[number] =
        (struct block){.first = first, .count = count, .open = count, .priority = priority};
    count_again(blocks, number);
    return number;
}

void blocks_set_state(struct blocks *blocks, uint32_t number, enum block_state state)
{
    discount(blocks, number);
    blocks->items[number].state = state;
    count_again(blocks, number);
}

void blocks_task_ready(struct blocks *blocks, uint32_t number, bool ready)
{
    discount(blocks, number);
    blocks->items[number].ready += ready ? 1 : UINT32_MAX;
    count_again(blocks, number);
}

void blocks_task_final(struct blocks *blocks, uint32_t number)
{
    discount(blocks, number);
    blocks->items[number].open--;
    count_again(blocks, number);
}

uint32_t blocks_first_claimable(const struct blocks *blocks)
{
    return index_heap_first(&blocks->claimable);
}

void blocks_reopen(struct blocks *blocks)
{
    for (uint32_t b = 0; b < blocks->count; b++) {
        if (blocks->items[b].state == BLOCK_REFUSED && blocks->items[b].open > 0)
            blocks_set_state(blocks, b, BLOCK_UNCLAIMED);
    }
}
