// SPDX-License-Identifier: Apache-2.0
#include "worker/lm/schema_cache.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct cached_schema {
    char *text;
    struct json_schema *schema;
    size_t users;
    uint64_t used; // when, by the cache's clock
};

struct schema_cache {
    const struct tokenizer *tokenizer;
    size_t vocabulary_count;
    struct json_vocabulary *vocabulary; // made for the first schema
    struct cached_schema *schemas;
    size_t count;
    size_t capacity;
    size_t limit;
    uint64_t clock;
};

struct schema_cache *schema_cache_create(const struct tokenizer *tokenizer, size_t vocabulary,
                                         size_t limit)
{
    struct schema_cache *cache = mem_calloc(1, sizeof *cache);
    cache->tokenizer = tokenizer;
    cache->vocabulary_count = vocabulary;
    cache->limit = limit;
    return cache;
}

static void drop(struct schema_cache *cache, size_t at)
{
    assert(cache->schemas[at].users == 0);
    json_schema_destroy(cache->schemas[at].schema);
    free(cache->schemas[at].text);
    cache->schemas[at] = cache->schemas[--cache->count];
}

void schema_cache_destroy(struct schema_cache *cache)
{
    if (!cache)
        return;
    while (cache->count > 0)
        drop(cache, 0);
    json_vocabulary_destroy(cache->vocabulary);
    free(cache->schemas);
    free(cache);
}

// Drops those used longest ago until there is room for one more, as far as nobody uses them.
static void make_room(struct schema_cache *cache)
{
    while (cache->count >= cache->limit) {
        size_t oldest = SIZE_MAX;
        for (size_t i = 0; i < cache->count; i++)
            if (cache->schemas[i].users == 0 &&
                (oldest == SIZE_MAX || cache->schemas[i].used < cache->schemas[oldest].used))
                oldest = i;
        if (oldest == SIZE_MAX)
            return;
        drop(cache, oldest);
    }
}

static void take(struct schema_cache *cache, struct cached_schema *schema, struct json_schema **out)
{
    schema->users++;
    schema->used = ++cache->clock;
    *out = schema->schema;
}

int schema_cache_take(struct schema_cache *cache, const char *text, struct json_schema **out,
                      struct error *err)
{
    struct json_schema *compiled;
    for (size_t i = 0; i < cache->count; i++) {
        if (strcmp(cache->schemas[i].text, text) == 0) {
            take(cache, &cache->schemas[i], out);
            return 0;
        }
    }
    if (!cache->vocabulary)
        cache->vocabulary = json_vocabulary_create(cache->tokenizer, cache->vocabulary_count);
    if (json_schema_compile_shared(text, strlen(text), cache->vocabulary, &compiled, err))
        return -1;
    make_room(cache);
    cache->schemas =
        mem_grow(cache->schemas, &cache->capacity, cache->count + 1, sizeof *cache->schemas);
    cache->schemas[cache->count] =
        (struct cached_schema){.text = mem_strdup(text), .schema = compiled};
    take(cache, &cache->schemas[cache->count++], out);
    return 0;
}

void schema_cache_give_back(struct schema_cache *cache, const struct json_schema *schema)
{
    for (size_t i = 0; i < cache->count; i++) {
        if (cache->schemas[i].schema == schema) {
            assert(cache->schemas[i].users > 0);
            cache->schemas[i].users--;
            return;
        }
    }
    assert(!"a schema of this cache");
}

size_t schema_cache_count(const struct schema_cache *cache)
{
    return cache->count;
}
