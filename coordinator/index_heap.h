// SPDX-License-Identifier: Apache-2.0
// A binary heap of numbers below a capacity, each in it once at most, the best one first. What is
// better the owner says, from keys that it keeps; it may change the key of a number only together
// with index_heap_set. Every call is O(log count).
#ifndef MEMO_COORDINATOR_INDEX_HEAP_H
#define MEMO_COORDINATOR_INDEX_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define INDEX_HEAP_NONE UINT32_MAX

struct index_heap {
    bool (*is_better)(const void *state, uint32_t a, uint32_t b); // a strict order
    const void *state;
    uint32_t *places; // [capacity] place in items, or INDEX_HEAP_NONE
    uint32_t *items;  // [count] every parent is better than its children
    size_t count;
    size_t capacity;
};

void index_heap_init(struct index_heap *heap, size_t capacity,
                     bool (*is_better)(const void *state, uint32_t a, uint32_t b),
                     const void *state);
void index_heap_release(struct index_heap *heap);
// Numbers below `capacity` may be used from now on; `capacity` was less before. O(capacity).
void index_heap_grow(struct index_heap *heap, size_t capacity);

void index_heap_set(struct index_heap *heap, uint32_t number);    // adds or moves
void index_heap_remove(struct index_heap *heap, uint32_t number); // nothing when it is not there
uint32_t index_heap_first(const struct index_heap *heap);         // INDEX_HEAP_NONE when empty

#endif
