// SPDX-License-Identifier: Apache-2.0
#include "datasets/entity_groups.h"

#include "base/mem.h"
#include "base/strbuf.h"
#include "datasets/text_key.h"

#include <stdlib.h>
#include <string.h>

static void add_name(struct entity_mentions *mentions, uint32_t chunk, const struct strbuf *key)
{
    const struct digest digest = digest_bytes(key->bytes, key->length);
    struct group_mention mention = {.words = 1, .chunk = chunk};
    memcpy(&mention.name, digest.bytes, sizeof(mention.name));
    for (size_t i = 0; i < key->length; i++)
        mention.words += key->bytes[i] == ' ';
    mentions->items = mem_grow(mentions->items, &mentions->capacity, mentions->count + 1,
                               sizeof(*mentions->items));
    mentions->items[mentions->count++] = mention;
}

void entity_mentions_add(struct entity_mentions *mentions, uint32_t chunk,
                         const struct reflection *pairs, size_t count)
{
    struct strbuf key = {0};
    for (size_t i = 0; i < count; i++) {
        if (pairs[i].step != STEP_ENTITY)
            continue;
        strbuf_reset(&key);
        text_key_add(pairs[i].answer, pairs[i].answer_bytes, &key);
        if (key.length > 0)
            add_name(mentions, chunk, &key);
    }
    strbuf_release(&key);
}

void entity_mentions_release(struct entity_mentions *mentions)
{
    free(mentions->items);
    *mentions = (struct entity_mentions){0};
}
