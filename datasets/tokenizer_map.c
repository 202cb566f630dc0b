// SPDX-License-Identifier: Apache-2.0
#include "datasets/tokenizer_map.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

uint64_t bytes_hash(const char *bytes, size_t length)
{
    uint64_t hash = length;
    uint64_t word;
    for (; length >= sizeof word; bytes += sizeof word, length -= sizeof word) {
        memcpy(&word, bytes, sizeof word);
        hash = bytes_hash_mix(hash, word);
    }
    word = 0;
    memcpy(&word, bytes, length);
    hash = bytes_hash_mix(hash, word);
    return bytes_hash_mix(hash, hash >> 32);
}

static struct bytes_slot *find_slot(const struct bytes_map *map, const char *key, size_t length)
{
    size_t i = bytes_hash(key, length) & (map->slot_count - 1);
    for (;; i = (i + 1) & (map->slot_count - 1)) {
        struct bytes_slot *slot = &map->slots[i];
        if (slot->key == NULL || (slot->length == length && memcmp(slot->key, key, length) == 0)) {
            return slot;
        }
    }
}

void bytes_map_reserve(struct bytes_map *map, size_t count)
{
    if (2 * count <= map->slot_count) {
        return;
    }
    struct bytes_map bigger = {.slot_count = 64, .count = map->count};
    while (bigger.slot_count < 2 * count) {
        bigger.slot_count *= 2;
    }
    bigger.slots = mem_calloc(bigger.slot_count, sizeof *bigger.slots);
    for (size_t i = 0; i < map->slot_count; i++) {
        if (map->slots[i].key != NULL) {
            *find_slot(&bigger, map->slots[i].key, map->slots[i].length) = map->slots[i];
        }
    }
    free(map->slots);
    *map = bigger;
}

struct bytes_slot *bytes_map_insert(struct bytes_map *map, const char *key, size_t length,
                                    int32_t value, bool *added)
{
    bytes_map_reserve(map, map->count + 1);
    struct bytes_slot *slot = find_slot(map, key, length);
    *added = slot->key == NULL;
    if (*added) {
        *slot = (struct bytes_slot){.key = key, .length = (uint32_t)length, .value = value};
        map->count++;
    }
    return slot;
}

int32_t bytes_map_get(const struct bytes_map *map, const char *key, size_t length)
{
    if (map->slot_count == 0) {
        return -1;
    }
    const struct bytes_slot *slot = find_slot(map, key, length);
    return slot->key == NULL ? -1 : slot->value;
}

void bytes_map_release(struct bytes_map *map)
{
    free(map->slots);
    *map = (struct bytes_map){0};
}
