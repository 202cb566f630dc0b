// SPDX-License-Identifier: Apache-2.0
#include "coordinator/index_heap.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>

void index_heap_init(struct index_heap *heap, size_t capacity,
                     bool (*is_better)(const void *state, uint32_t a, uint32_t b),
                     const void *state)
{
    *heap = (struct index_heap){.is_better = is_better, .state = state};
    index_heap_grow(heap, capacity);
}

void index_heap_grow(struct index_heap *heap, size_t capacity)
{
    assert(capacity < INDEX_HEAP_NONE && capacity >= heap->capacity);
    heap->places = mem_realloc(heap->places, (capacity + 1) * sizeof(*heap->places));
    heap->items = mem_realloc(heap->items, (capacity + 1) * sizeof(*heap->items));
    for (size_t i = heap->capacity; i < capacity; i++)
        heap->places[i] = INDEX_HEAP_NONE;
    heap->capacity = capacity;
}

void index_heap_release(struct index_heap *heap)
{
    free(heap->places);
    free(heap->items);
    *heap = (struct index_heap){0};
}

static void put(struct index_heap *heap, size_t place, uint32_t number)
{
    heap->items[place] = number;
    heap->places[number] = (uint32_t)place;
}

static void sift_up(struct index_heap *heap, size_t place, uint32_t number)
{
    while (place > 0 && heap->is_better(heap->state, number, heap->items[(place - 1) / 2])) {
        put(heap, place, heap->items[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    put(heap, place, number);
}

static void sift_down(struct index_heap *heap, size_t place, uint32_t number)
{
    for (size_t child; (child = 2 * place + 1) < heap->count; place = child) {
        if (child + 1 < heap->count &&
            heap->is_better(heap->state, heap->items[child + 1], heap->items[child]))
            child++;
        if (!heap->is_better(heap->state, heap->items[child], number))
            break;
        put(heap, place, heap->items[child]);
    }
    put(heap, place, number);
}

void index_heap_set(struct index_heap *heap, uint32_t number)
{
    size_t place = heap->places[number];
    if (place == INDEX_HEAP_NONE)
        place = heap->count++;
    sift_up(heap, place, number);
    sift_down(heap, heap->places[number], number);
}

void index_heap_remove(struct index_heap *heap, uint32_t number)
{
    const size_t place = heap->places[number];
    if (place == INDEX_HEAP_NONE)
        return;
    const uint32_t last = heap->items[--heap->count];
    heap->places[number] = INDEX_HEAP_NONE;
    if (last == number)
        return;
    sift_up(heap, place, last);
    sift_down(heap, heap->places[last], last);
}

uint32_t index_heap_first(const struct index_heap *heap)
{
    return heap->count > 0 ? heap->items[0] : INDEX_HEAP_NONE;
}
