// SPDX-License-Identifier: Apache-2.0
// A hash map from byte strings to non-negative numbers. Keys are not copied: they must outlive the
// map. Zero-initialise.
#ifndef MEMO_DATASETS_TOKENIZER_MAP_H
#define MEMO_DATASETS_TOKENIZER_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bytes_slot {
    const char *key;
    uint32_t length;
    int32_t value; // meaningful when key is not NULL
};

struct bytes_map {
    struct bytes_slot *slots; // open addressing, at most half full
    size_t slot_count;        // a power of two, or 0
    size_t count;
};

void bytes_map_reserve(struct bytes_map *map, size_t count);

// Adds key with value unless it is there. Returns the slot; *added says which. The slot is valid
// until the next insertion.
struct bytes_slot *bytes_map_insert(struct bytes_map *map, const char *key, size_t length,
                                    int32_t value, bool *added);
int32_t bytes_map_get(const struct bytes_map *map, const char *key, size_t length); // -1: none
void bytes_map_release(struct bytes_map *map);

static inline uint64_t bytes_hash_mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    return hash ^ (hash >> 29);
}

uint64_t bytes_hash(const char *bytes, size_t length);

#endif
