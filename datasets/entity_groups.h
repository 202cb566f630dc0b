// SPDX-License-Identifier: Apache-2.0
// The names that step 4 surfaced, as what groups_join brings chunks together by: the answers of its
// pairs, by their keys (text_key.h), so that spelling does not tell them apart.
#ifndef MEMO_DATASETS_ENTITY_GROUPS_H
#define MEMO_DATASETS_ENTITY_GROUPS_H

#include "datasets/groups_join.h"
#include "datasets/reflections.h"

struct entity_mentions {
    struct group_mention *items;
    size_t count;
    size_t capacity;
};

// pairs are those of the chunk's task; only entity pairs count. Zero-initialise; release frees.
void entity_mentions_add(struct entity_mentions *mentions, uint32_t chunk,
                         const struct reflection *pairs, size_t count);
void entity_mentions_release(struct entity_mentions *mentions);

#endif
