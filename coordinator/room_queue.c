// SPDX-License-Identifier: Apache-2.0
#include "coordinator/room_queue.h"

#include "base/mem.h"

#include <stdlib.h>

#define NOWHERE SIZE_MAX

struct room_queue {
    struct room_key *keys; // [workers]
    size_t *places;        // [workers] index in heap, or NOWHERE
    int *heap;             // [count] every parent is better than its children
    size_t count;
};

struct room_queue *room_queue_create(size_t workers)
{
    struct room_queue *queue = mem_calloc(1, sizeof(*queue));
    queue->keys = mem_calloc(workers, sizeof(*queue->keys));
    queue->places = mem_calloc(workers, sizeof(*queue->places));
    queue->heap = mem_calloc(workers, sizeof(*queue->heap));
    for (size_t w = 0; w < workers; w++)
        queue->places[w] = NOWHERE;
    return queue;
}

void room_queue_destroy(struct room_queue *queue)
{
    if (!queue)
        return;
    free(queue->keys);
    free(queue->places);
    free(queue->heap);
    free(queue);
}

static bool is_better(const struct room_queue *queue, int a, int b)
{
    const struct room_key *x = &queue->keys[a], *y = &queue->keys[b];
    if (x->silent != y->silent)
        return y->silent;
    if (x->held != y->held)
        return x->held < y->held;
    if (x->turn != y->turn)
        return x->turn < y->turn;
    return a < b;
}

static void put(struct room_queue *queue, size_t place, int worker)
{
    queue->heap[place] = worker;
    queue->places[worker] = place;
}

static void sift_up(struct room_queue *queue, size_t place, int worker)
{
    while (place > 0 && is_better(queue, worker, queue->heap[(place - 1) / 2])) {
        put(queue, place, queue->heap[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    put(queue, place, worker);
}

static void sift_down(struct room_queue *queue, size_t place, int worker)
{
    for (size_t child; (child = 2 * place + 1) < queue->count; place = child) {
        if (child + 1 < queue->count &&
            is_better(queue, queue->heap[child + 1], queue->heap[child]))
            child++;
        if (!is_better(queue, queue->heap[child], worker))
            break;
        put(queue, place, queue->heap[child]);
    }
    put(queue, place, worker);
}

void room_queue_set(struct room_queue *queue, int worker, struct room_key key)
{
    size_t place = queue->places[worker];
    queue->keys[worker] = key;
    if (place == NOWHERE)
        place = queue->count++;
    sift_up(queue, place, worker);
    sift_down(queue, queue->places[worker], worker);
}

void room_queue_remove(struct room_queue *queue, int worker)
{
    const size_t place = queue->places[worker];
    if (place == NOWHERE)
        return;
    const int last = queue->heap[--queue->count];
    queue->places[worker] = NOWHERE;
    if (last == worker)
        return;
    sift_up(queue, place, last);
    sift_down(queue, queue->places[last], last);
}

int room_queue_first(const struct room_queue *queue)
{
    return queue->count > 0 ? queue->heap[0] : -1;
}
