// SPDX-License-Identifier: Apache-2.0
#include "coordinator/room_queue.h"

#include "base/mem.h"
#include "coordinator/index_heap.h"

#include <stdlib.h>

struct room_queue {
    struct room_key *keys; // [workers]
    struct index_heap heap;
};

static bool is_better(const void *state, uint32_t a, uint32_t b)
{
    const struct room_key *keys = state, *x = &keys[a], *y = &keys[b];
    if (x->silent != y->silent)
        return y->silent;
    if (x->held != y->held)
        return x->held < y->held;
    if (x->turn != y->turn)
        return x->turn < y->turn;
    return a < b;
}

struct room_queue *room_queue_create(size_t workers)
{
    struct room_queue *queue = mem_calloc(1, sizeof(*queue));
    queue->keys = mem_calloc(workers, sizeof(*queue->keys));
    index_heap_init(&queue->heap, workers, is_better, queue->keys);
    return queue;
}

void room_queue_destroy(struct room_queue *queue)
{
    if (!queue)
        return;
    index_heap_release(&queue->heap);
    free(queue->keys);
    free(queue);
}

void room_queue_set(struct room_queue *queue, int worker, struct room_key key)
{
    queue->keys[worker] = key;
    index_heap_set(&queue->heap, (uint32_t)worker);
}

void room_queue_remove(struct room_queue *queue, int worker)
{
    index_heap_remove(&queue->heap, (uint32_t)worker);
}

int room_queue_first(const struct room_queue *queue)
{
    const uint32_t first = index_heap_first(&queue->heap);
    return first == INDEX_HEAP_NONE ? -1 : (int)first;
}

// The second best is a child of the best.
int room_queue_first_but(const struct room_queue *queue, int worker)
{
    const struct index_heap *heap = &queue->heap;
    const int first = room_queue_first(queue);
    if (first != worker || first < 0)
        return first;
    if (heap->count < 3)
        return heap->count < 2 ? -1 : (int)heap->items[1];
    return (int)heap->items[is_better(queue->keys, heap->items[1], heap->items[2]) ? 1 : 2];
}
