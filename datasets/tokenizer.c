// SPDX-License-Identifier: Apache-2.0
// Construction, look-up and decoding.
#include "datasets/tokenizer_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

#define DIGEST_VERSION 2 // of the fields below

void token_list_release(struct token_list *list)
{
    free(list->ids);
    *list = (struct token_list){0};
}

void token_list_add(struct token_list *list, int32_t id)
{
    if (list->count == list->capacity) {
        list->ids = mem_grow(list->ids, &list->capacity, list->count + 1, sizeof *list->ids);
    }
    list->ids[list->count++] = id;
}

struct tokenizer *tokenizer_create_empty(void)
{
    struct tokenizer *t = mem_calloc(1, sizeof *t);
    t->eos_id = t->bos_id = t->pad_id = -1;
    return t;
}

void tokenizer_destroy(struct tokenizer *tokenizer)
{
    if (tokenizer == NULL) {
        return;
    }
    splitter_destroy(tokenizer->splitter);
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        strbuf_release(&tokenizer->added[i].content);
        strbuf_release(&tokenizer->added[i].match);
    }
    free(tokenizer->added);
    added_index_release(tokenizer);
    free(tokenizer->tokens);
    free(tokenizer->merges);
    free(tokenizer->merge_slots);
    strbuf_release(&tokenizer->bytes);
    bytes_map_release(&tokenizer->by_bytes);
    free(tokenizer);
}

struct token *tokenizer_reserve_token(struct tokenizer *t, int64_t id, struct error *err)
{
    if (id < 0 || id >= TOKENIZER_MAX_TOKENS) {
        error_set(err, "token id %lld is outside 0 to %d", (long long)id, TOKENIZER_MAX_TOKENS - 1);
        return NULL;
    }
    size_t needed = (size_t)id + 1;
    if (needed > t->token_capacity) {
        size_t old = t->token_capacity;
        t->tokens = mem_grow(t->tokens, &t->token_capacity, needed, sizeof *t->tokens);
        memset(t->tokens + old, 0, (t->token_capacity - old) * sizeof *t->tokens);
    }
    t->token_count = needed > t->token_count ? needed : t->token_count;
    return &t->tokens[id];
}

int tokenizer_add_token(struct tokenizer *t, int64_t id, const char *bytes, size_t length,
                        enum token_kind kind, struct error *err)
{
    struct token *token = tokenizer_reserve_token(t, id, err);
    if (token == NULL) {
        return -1;
    }
    if (token->kind != TOKEN_ABSENT) {
        return error_set(err, "token id %lld is given twice, to '%.*s' and to '%.*s'",
                         (long long)id, (int)token->length, t->bytes.bytes + token->offset,
                         (int)length, bytes);
    }
    *token = (struct token){.offset = t->bytes.length,
                            .length = (uint32_t)length,
                            .kind = (uint8_t)kind,
                            .model_kind = (uint8_t)kind};
    strbuf_add(&t->bytes, bytes, length);
    return 0;
}

void tokenizer_add_merge(struct tokenizer *t, int32_t left, int32_t right, int32_t result)
{
    if (t->merge_count == t->merge_capacity) {
        t->merges = mem_grow(t->merges, &t->merge_capacity, t->merge_count + 1, sizeof *t->merges);
    }
    t->merges[t->merge_count++] = (struct merge){.left = left, .right = right, .result = result};
}

bool tokenizer_normalize(const struct tokenizer *t, struct nfc_scratch *scratch, const char *bytes,
                         size_t length, struct strbuf *out)
{
    if (t->byte_fallback) {
        return fallback_normalize(t, bytes, length, out);
    }
    return t->nfc && nfc_normalize(scratch, bytes, length, out);
}

int tokenizer_name_special(const struct tokenizer *t, const char *key, const char *name,
                           int32_t *out, struct error *err)
{
    *out = name == NULL ? -1 : tokenizer_token_id(t, name, strlen(name));
    if (name != NULL && *out < 0) {
        return error_set(err, "%s '%s' is not a token of the vocabulary", key, name);
    }
    return 0;
}

static uint64_t pair_key(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static size_t pair_home(uint64_t pair, uint64_t mask)
{
    uint64_t hash = pair * UINT64_C(0x9E3779B97F4A7C15);
    return (size_t)((hash >> 32 ^ hash) & mask);
}

const struct merge_slot *tokenizer_find_merge(const struct tokenizer *t, int32_t left,
                                              int32_t right)
{
    uint64_t pair = pair_key(left, right);
    size_t i = pair_home(pair, t->merge_mask);
    while (t->merge_slots[i].pair != pair) {
        if (t->merge_slots[i].pair == MERGE_NONE) {
            return NULL;
        }
        i = (i + 1) & t->merge_mask;
    }
    return &t->merge_slots[i];
}

// Of a pair that is listed twice the last line counts, as in Hugging Face's `tokenizers`.
static void index_merges(struct tokenizer *t)
{
    size_t slots = 16;
    while (slots < 2 * t->merge_count) {
        slots *= 2;
    }
    t->merge_slots = mem_alloc(slots * sizeof *t->merge_slots);
    t->merge_mask = slots - 1;
    memset(t->merge_slots, 0xFF, slots * sizeof *t->merge_slots); // all MERGE_NONE
    for (size_t rank = 0; rank < t->merge_count; rank++) {
        const struct merge *merge = &t->merges[rank];
        uint64_t pair = pair_key(merge->left, merge->right);
        size_t i = pair_home(pair, t->merge_mask);
        while (t->merge_slots[i].pair != MERGE_NONE && t->merge_slots[i].pair != pair) {
            i = (i + 1) & t->merge_mask;
        }
        t->merge_slots[i] =
            (struct merge_slot){.pair = pair, .rank = (uint32_t)rank, .result = merge->result};
    }
}

static int index_tokens(struct tokenizer *t, struct error *err)
{
    bytes_map_reserve(&t->by_bytes, t->token_count);
    for (size_t id = 0; id < t->token_count; id++) {
        bool added;
        const struct token *token = &t->tokens[id];
        if (token->model_kind == TOKEN_ENCODED) {
            bytes_map_insert(&t->by_bytes, t->bytes.bytes + token->offset, token->length,
                             (int32_t)id, &added);
        }
    }
    if (t->byte_fallback) {
        return fallback_index(t, err);
    }
    for (int byte = 0; byte < 256; byte++) {
        char c = (char)byte;
        t->byte_ids[byte] = bytes_map_get(&t->by_bytes, &c, 1);
        if (t->byte_ids[byte] < 0) {
            return error_set(err,
                             "the vocabulary has no token for byte 0x%02x; only byte-level "
                             "vocabularies that hold all 256 are supported",
                             (unsigned)byte);
        }
    }
    return 0;
}

static struct digest compute_digest(const struct tokenizer *t)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field_text(&builder, "BPE tokenizer");
    digest_field_u64(&builder, DIGEST_VERSION);
    digest_field_text(&builder, t->byte_fallback ? "" : splitter_pattern(t->splitter));
    digest_field_u64(&builder, (uint64_t)t->byte_fallback << 2 | (uint64_t)t->prepend_space << 1 |
                                   t->strip_first_space);
    digest_field_u64(&builder, t->nfc);
    digest_field_u64(&builder, t->ignore_merges);
    digest_field_u64(&builder, t->token_count);
    for (size_t id = 0; id < t->token_count; id++) {
        const struct token *token = &t->tokens[id];
        digest_field_u64(&builder, (uint64_t)token->model_kind << 9 | (uint64_t)token->kind << 1 |
                                       token->special);
        digest_field(&builder, t->bytes.bytes + token->offset, token->length);
    }
    digest_field_u64(&builder, t->merge_count);
    for (size_t i = 0; i < t->merge_count; i++) {
        digest_field(&builder, &t->merges[i], sizeof t->merges[i]);
    }
    for (size_t i = 0; i < t->added_count; i++) {
        const struct added_rule *rule = &t->added[i].rule;
        digest_field_u64(&builder, (uint64_t)t->added[i].id << 4 |
                                       (uint64_t)rule->single_word << 3 |
                                       (uint64_t)rule->rstrip << 2 | (uint64_t)rule->lstrip << 1 |
                                       rule->normalized);
        digest_field(&builder, t->added[i].match.bytes, t->added[i].match.length);
    }
    return digest_end(&builder);
}

int tokenizer_finish(struct tokenizer *t, struct error *err)
{
    if (index_tokens(t, err) != 0) {
        return -1;
    }
    index_merges(t);
    added_index_build(t);
    t->digest = compute_digest(t);
    return 0;
}

int32_t tokenizer_vocabulary_size(const struct tokenizer *tokenizer)
{
    return (int32_t)tokenizer->token_count;
}

int32_t tokenizer_token_id(const struct tokenizer *tokenizer, const char *text, size_t length)
{
    for (size_t i = 0; i < tokenizer->added_count; i++) {
        const struct strbuf *content = &tokenizer->added[i].content;
        if (content->length == length && memcmp(content->bytes, text, length) == 0) {
            return tokenizer->added[i].id;
        }
    }
    int32_t id = bytes_map_get(&tokenizer->by_bytes, text, length);
    return id < 0 && length == 1 ? tokenizer->byte_ids[(unsigned char)*text] : id;
}

const char *tokenizer_token_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *length)
{
    if (id < 0 || (size_t)id >= tokenizer->token_count ||
        tokenizer->tokens[id].kind == TOKEN_ABSENT) {
        *length = 0;
        return NULL;
    }
    *length = tokenizer->tokens[id].length;
    return tokenizer->bytes.bytes + tokenizer->tokens[id].offset;
}

bool tokenizer_token_is_special(const struct tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && (size_t)id < tokenizer->token_count && tokenizer->tokens[id].special;
}

bool tokenizer_token_is_added(const struct tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && (size_t)id < tokenizer->token_count &&
           tokenizer->tokens[id].kind == TOKEN_ADDED;
}

int32_t tokenizer_eos_id(const struct tokenizer *tokenizer)
{
    return tokenizer->eos_id;
}

int32_t tokenizer_bos_id(const struct tokenizer *tokenizer)
{
    return tokenizer->bos_id;
}

int32_t tokenizer_pad_id(const struct tokenizer *tokenizer)
{
    return tokenizer->pad_id;
}

struct digest tokenizer_digest(const struct tokenizer *tokenizer)
{
    return tokenizer->digest;
}

static bool drops_first(const struct tokenizer *tokenizer, const char *bytes)
{
    return tokenizer->strip_first_space && *bytes == ' ';
}

int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                     struct strbuf *out, struct error *err)
{
    size_t start = out->length;
    bool begun = false;
    for (size_t i = 0; i < count; i++) {
        size_t length;
        const char *bytes = tokenizer_token_bytes(tokenizer, ids[i], &length);
        if (bytes == NULL) {
            out->length = start;
            if (out->bytes != NULL) {
                out->bytes[start] = '\0';
            }
            return error_set(err, "token id %d at place %zu is not in the vocabulary of %zu",
                             (int)ids[i], i, tokenizer->token_count);
        }
        bool stripped = length > 0 && !begun && drops_first(tokenizer, bytes);
        begun |= length > 0;
        strbuf_add(out, bytes + stripped, length - stripped);
    }
    return 0;
}

// True when bytes[0..length) could be continued to a valid character.
static bool is_unfinished(const unsigned char *bytes, int length)
{
    static const unsigned char tails[2] = {0x80, 0xBF}; // completes if anything does
    for (int tail = 0; tail < 2; tail++) {
        char padded[4];
        uint32_t point;
        memset(padded, tails[tail], sizeof padded);
        memcpy(padded, bytes, (size_t)length);
        int size = utf8_decode(padded, sizeof padded, &point);
        if (size > length) {
            return true;
        }
    }
    return false;
}

// How many bytes at the end begin a character that more bytes may complete: 0 to 3.
static size_t unfinished_bytes(const char *bytes, size_t length)
{
    for (size_t back = 1; back <= 3 && back <= length; back++) {
        if (is_unfinished((const unsigned char *)bytes + length - back, (int)back)) {
            return back;
        }
    }
    return 0;
}

int tokenizer_stream_add(struct tokenizer_stream *stream, const struct tokenizer *tokenizer,
                         int32_t id, struct strbuf *out, struct error *err)
{
    size_t length;
    const char *bytes = tokenizer_token_bytes(tokenizer, id, &length);
    if (bytes == NULL) {
        return error_set(err, "token id %d is not in the vocabulary of %zu", (int)id,
                         tokenizer->token_count);
    }
    size_t start = out->length;
    bool stripped = length > 0 && !stream->begun && drops_first(tokenizer, bytes);
    stream->begun |= length > 0;
    strbuf_add(out, stream->pending, (size_t)stream->pending_bytes);
    strbuf_add(out, bytes + stripped, length - stripped);
    size_t kept = unfinished_bytes(out->bytes + start, out->length - start);
    out->length -= kept;
    memcpy(stream->pending, out->bytes + out->length, kept);
    stream->pending_bytes = (int)kept;
    out->bytes[out->length] = '\0';
    return 0;
}

void tokenizer_stream_end(struct tokenizer_stream *stream, struct strbuf *out)
{
    strbuf_add(out, stream->pending, (size_t)stream->pending_bytes);
    *stream = (struct tokenizer_stream){0};
}
