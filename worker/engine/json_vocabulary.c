// SPDX-License-Identifier: Apache-2.0
#include "worker/engine/json_vocabulary.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define HASH_BASIS 14695981039346656037u // FNV-1a, which grows byte by byte
#define HASH_PRIME 1099511628211u

static int compare_tokens(const void *left, const void *right)
{
    const struct json_token *a = left, *b = right;
    const size_t common = a->length < b->length ? a->length : b->length;
    const int order = memcmp(a->bytes, b->bytes, common);
    if (order != 0)
        return order;
    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    return a->id < b->id ? -1 : 1;
}

static void collect(struct json_vocabulary *v, size_t count)
{
    v->tokens = mem_alloc((count + 1) * sizeof *v->tokens);
    for (size_t id = 0; id < count; id++) {
        size_t length;
        const char *bytes = tokenizer_token_bytes(v->tokenizer, (int32_t)id, &length);
        if (!bytes || length == 0 || length > UINT16_MAX ||
            tokenizer_token_is_added(v->tokenizer, (int32_t)id))
            continue;
        v->tokens[v->token_count++] =
            (struct json_token){(const uint8_t *)bytes, (uint32_t)length, (int32_t)id};
        if (length > v->longest)
            v->longest = (uint32_t)length;
    }
    qsort(v->tokens, v->token_count, sizeof *v->tokens, compare_tokens);
}

static void find_shared(struct json_vocabulary *v)
{
    v->shared = mem_calloc(v->token_count + 1, sizeof *v->shared);
    for (size_t i = 1; i < v->token_count; i++) {
        const struct json_token *before = &v->tokens[i - 1], *token = &v->tokens[i];
        uint32_t n = 0;
        while (n < before->length && n < token->length && before->bytes[n] == token->bytes[n])
            n++;
        v->shared[i] = n;
    }
}

static size_t pair_index(const uint8_t *bytes, size_t length)
{
    return (size_t)bytes[0] << 8 | (length > 1 ? bytes[1] : 0);
}

static uint64_t hash_more(uint64_t hash, uint8_t byte)
{
    return (hash ^ byte) * HASH_PRIME;
}

// The slot of these bytes, or the empty one where they would be.
static uint32_t *find_slot(const struct json_vocabulary *v, uint64_t hash, const uint8_t *bytes,
                           size_t length)
{
    size_t at = (hash ^ hash >> 32) & v->slot_mask;
    while (v->slots[at]) {
        const struct json_token *token = &v->tokens[v->slots[at] - 1];
        if (token->length == length && memcmp(token->bytes, bytes, length) == 0)
            break;
        at = (at + 1) & v->slot_mask;
    }
    return &v->slots[at];
}

static void index_tokens(struct json_vocabulary *v)
{
    size_t slots = 16;
    while (slots < 2 * v->token_count)
        slots *= 2;
    v->slots = mem_calloc(slots, sizeof *v->slots);
    v->slot_mask = slots - 1;
    v->lengths = mem_calloc(1 << 16, sizeof *v->lengths);
    for (size_t i = 0; i < v->token_count; i++) {
        const struct json_token *token = &v->tokens[i];
        uint64_t hash = HASH_BASIS;
        if (token->length > JSON_LOOKUP_BYTES)
            continue;
        for (uint32_t n = 0; n < token->length; n++)
            hash = hash_more(hash, token->bytes[n]);
        *find_slot(v, hash, token->bytes, token->length) = (uint32_t)i + 1;
        v->lengths[pair_index(token->bytes, token->length)] |= 1u << (token->length - 1);
    }
}

uint32_t json_vocabulary_lengths(const struct json_vocabulary *v, const uint8_t *bytes,
                                 size_t length)
{
    uint32_t candidates = v->lengths[pair_index(bytes, 1)] & 1;
    if (length > 1)
        candidates |= v->lengths[pair_index(bytes, 2)] & ~1u;
    if (length < JSON_LOOKUP_BYTES)
        candidates &= (1u << length) - 1;
    uint32_t found = 0;
    uint64_t hash = HASH_BASIS;
    for (size_t n = 0; candidates >> n; n++) {
        hash = hash_more(hash, bytes[n]);
        if (candidates >> n & 1 && *find_slot(v, hash, bytes, n + 1))
            found |= 1u << n;
        if (n + 1 == JSON_LOOKUP_BYTES)
            break;
    }
    return found;
}

// Where a token leads inside a string, how many code points it begins, and how many of its bytes
// belong to the string.
static enum json_place read_token(const struct json_vocabulary *v, enum json_place place,
                                  const struct json_token *token, uint16_t *points, uint32_t *read)
{
    uint32_t n = 0;
    *points = 0;
    while (n < token->length && place < JSON_PLACE_COUNT) {
        *points += place == JSON_PLACE_TEXT && token->bytes[n] != '"';
        place = v->next[place][token->bytes[n++]];
    }
    *read = n;
    return place;
}

const struct json_string_tokens *json_vocabulary_place(struct json_vocabulary *v,
                                                       enum json_place place)
{
    struct json_string_tokens *made = &v->places[place];
    if (made->made)
        return made;
    made->stays = mem_alloc((v->token_count + 1) * sizeof *made->stays);
    size_t close_capacity = 0;
    for (size_t i = 0; i < v->token_count; i++) {
        const struct json_token *token = &v->tokens[i];
        uint16_t points;
        uint32_t read;
        const enum json_place end = read_token(v, place, token, &points, &read);
        if (end < JSON_PLACE_COUNT) {
            made->stays[made->stay_count++] = (struct json_stay){token->id, points, (uint16_t)end};
        } else if (end == JSON_PLACE_CLOSED) {
            made->closes = mem_grow(made->closes, &close_capacity, made->close_count + 1,
                                    sizeof *made->closes);
            made->closes[made->close_count++] =
                (struct json_close){token->id, points, token->bytes + read, token->length - read};
        }
    }
    made->stays = mem_realloc(made->stays, (made->stay_count + 1) * sizeof *made->stays);
    made->made = true;
    return made;
}

struct json_vocabulary *json_vocabulary_create(const struct tokenizer *tokenizer, size_t count)
{
    struct json_vocabulary *v = mem_calloc(1, sizeof *v);
    v->tokenizer = tokenizer;
    v->scratch = tokenizer_scratch_create(tokenizer);
    v->words = (count + 63) / 64;
    for (int place = 0; place < JSON_PLACE_COUNT; place++) {
        for (int byte = 0; byte < 256; byte++) {
            bool starts;
            v->next[place][byte] =
                (uint8_t)json_place_next((enum json_place)place, (uint8_t)byte, &starts);
        }
    }
    collect(v, count);
    find_shared(v);
    index_tokens(v);
    json_vocabulary_place(v, JSON_PLACE_TEXT);
    return v;
}

void json_vocabulary_destroy(struct json_vocabulary *v)
{
    if (!v)
        return;
    for (int place = 0; place < JSON_PLACE_COUNT; place++) {
        free(v->places[place].stays);
        free(v->places[place].closes);
    }
    tokenizer_scratch_destroy(v->scratch);
    free(v->tokens);
    free(v->shared);
    free(v->slots);
    free(v->lengths);
    free(v);
}
