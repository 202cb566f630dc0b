// SPDX-License-Identifier: Apache-2.0
// Encoding: cut out added tokens, normalize, cut out those searched in normalized text, cut into
// words, BPE inside each word.
//
// BPE merges, again and again, the adjacent pair of lowest rank, the leftmost of equals. The
// symbols of a word form a doubly linked list in an array, the mergeable pairs a binary heap
// ordered by (rank, place); an entry whose symbols have changed since is skipped when it comes up.
// A word of n bytes gets at most 3n entries, so the whole is O(n log n) also for a megabyte without
// a space. Natural text repeats its words, so a direct-mapped cache of short words answers most of
// them.
#include "datasets/tokenizer_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

// A third of what places of 31 bits hold: normalization can make a text three times as long.
#define ENCODE_MAX_BYTES ((size_t)INT32_MAX / 3)
#define CACHE_SLOTS 16384 // of 64 bytes each
#define CACHE_WORD_BYTES 26
#define CACHE_WORD_TOKENS 9

struct cached_word {
    char bytes[CACHE_WORD_BYTES];
    uint8_t length; // 0: empty slot
    uint8_t count;
    int32_t ids[CACHE_WORD_TOKENS];
};

struct symbol {
    int32_t id; // -1 once merged into the symbol before
    int32_t previous;
    int32_t next; // -1 at the ends
};

struct candidate {
    uint64_t order; // rank << 32 | place of the left symbol
    int32_t left;
    int32_t right;
    int32_t result;
};

struct tokenizer_scratch {
    struct splitter_scratch *split;
    struct nfc_scratch nfc;
    struct strbuf normalized;
    bool is_continued; // the next stretch of text stands behind other text
    struct cached_word *cache;
    struct symbol *symbols;
    size_t symbol_capacity;
    struct candidate *heap;
    size_t heap_count;
    size_t heap_capacity;
};

struct tokenizer_scratch *tokenizer_scratch_create(const struct tokenizer *tokenizer)
{
    struct tokenizer_scratch *scratch = mem_calloc(1, sizeof *scratch);
    scratch->split = tokenizer->byte_fallback ? NULL : splitter_scratch_create(tokenizer->splitter);
    scratch->cache = mem_calloc(CACHE_SLOTS, sizeof *scratch->cache);
    return scratch;
}

void tokenizer_scratch_destroy(struct tokenizer_scratch *scratch)
{
    if (scratch == NULL) {
        return;
    }
    splitter_scratch_destroy(scratch->split);
    nfc_scratch_release(&scratch->nfc);
    strbuf_release(&scratch->normalized);
    free(scratch->cache);
    free(scratch->symbols);
    free(scratch->heap);
    free(scratch);
}

static void heap_push(struct tokenizer_scratch *s, struct candidate added)
{
    if (s->heap_count == s->heap_capacity) {
        s->heap = mem_grow(s->heap, &s->heap_capacity, s->heap_count + 1, sizeof *s->heap);
    }
    size_t i = s->heap_count++;
    while (i > 0 && s->heap[(i - 1) / 2].order > added.order) {
        s->heap[i] = s->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    s->heap[i] = added;
}

static struct candidate heap_pop(struct tokenizer_scratch *s)
{
    struct candidate top = s->heap[0];
    struct candidate last = s->heap[--s->heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child + 1 < s->heap_count && s->heap[child + 1].order < s->heap[child].order) {
            child++;
        }
        if (child >= s->heap_count || s->heap[child].order >= last.order) {
            break;
        }
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

static void consider_pair(const struct tokenizer *t, struct tokenizer_scratch *s, int32_t at)
{
    int32_t next = at < 0 ? -1 : s->symbols[at].next;
    if (next < 0) {
        return;
    }
    int32_t left = s->symbols[at].id;
    int32_t right = s->symbols[next].id;
    const struct merge_slot *merge = tokenizer_find_merge(t, left, right);
    if (merge != NULL) {
        heap_push(s, (struct candidate){.order = (uint64_t)merge->rank << 32 | (uint32_t)at,
                                        .left = left,
                                        .right = right,
                                        .result = merge->result});
    }
}

static void merge_symbols(const struct tokenizer *t, struct tokenizer_scratch *s)
{
    while (s->heap_count > 0) {
        struct candidate best = heap_pop(s);
        int32_t at = (int32_t)(best.order & UINT32_MAX);
        struct symbol *left = &s->symbols[at];
        if (left->id != best.left || left->next < 0 || s->symbols[left->next].id != best.right) {
            continue;
        }
        struct symbol *right = &s->symbols[left->next];
        left->id = best.result;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0) {
            s->symbols[left->next].previous = at;
        }
        consider_pair(t, s, left->previous);
        consider_pair(t, s, at);
    }
}

static size_t fill_bytes(const struct tokenizer *t, struct tokenizer_scratch *s, const char *bytes,
                         size_t length)
{
    for (size_t i = 0; i < length; i++) {
        s->symbols[i].id = t->byte_ids[(unsigned char)bytes[i]];
    }
    return length;
}

// A symbol for each character, or for each of its bytes when it has no token.
static size_t fill_characters(const struct tokenizer *t, struct tokenizer_scratch *s,
                              const char *bytes, size_t length)
{
    size_t count = 0;
    for (size_t at = 0; at < length;) {
        uint32_t point;
        size_t size = (size_t)utf8_decode(bytes + at, length - at, &point);
        int32_t id = bytes_map_get(&t->by_bytes, bytes + at, size);
        if (id >= 0) {
            s->symbols[count++].id = id;
        }
        for (size_t i = 0; id < 0 && i < size; i++) {
            s->symbols[count++].id = t->byte_ids[(unsigned char)bytes[at + i]];
        }
        at += size;
    }
    return count;
}

static void encode_by_merging(const struct tokenizer *t, struct tokenizer_scratch *s,
                              const char *bytes, size_t length, struct token_list *out)
{
    if (length > s->symbol_capacity) {
        s->symbols = mem_grow(s->symbols, &s->symbol_capacity, length, sizeof *s->symbols);
    }
    size_t count =
        t->byte_fallback ? fill_characters(t, s, bytes, length) : fill_bytes(t, s, bytes, length);
    for (size_t i = 0; i < count; i++) {
        s->symbols[i].previous = (int32_t)i - 1;
        s->symbols[i].next = i + 1 < count ? (int32_t)i + 1 : -1;
    }
    s->heap_count = 0;
    for (size_t i = 0; i < count; i++) {
        consider_pair(t, s, (int32_t)i);
    }
    merge_symbols(t, s);
    for (int32_t at = 0; at >= 0; at = s->symbols[at].next) {
        token_list_add(out, s->symbols[at].id);
    }
}

static void encode_new_word(const struct tokenizer *t, struct tokenizer_scratch *s,
                            const char *bytes, size_t length, struct token_list *out)
{
    if (t->ignore_merges) {
        int32_t whole = bytes_map_get(&t->by_bytes, bytes, length);
        if (whole >= 0) {
            token_list_add(out, whole);
            return;
        }
    }
    encode_by_merging(t, s, bytes, length, out);
}

static void encode_word(const struct tokenizer *t, struct tokenizer_scratch *s, const char *bytes,
                        size_t length, struct token_list *out)
{
    if (length > CACHE_WORD_BYTES) {
        encode_new_word(t, s, bytes, length, out);
        return;
    }
    struct cached_word *word = &s->cache[bytes_hash(bytes, length) % CACHE_SLOTS];
    if (word->length == length && memcmp(word->bytes, bytes, length) == 0) {
        for (int i = 0; i < word->count; i++) {
            token_list_add(out, word->ids[i]);
        }
        return;
    }
    size_t start = out->count;
    encode_new_word(t, s, bytes, length, out);
    if (out->count - start <= CACHE_WORD_TOKENS) {
        word->length = (uint8_t)length;
        word->count = (uint8_t)(out->count - start);
        memcpy(word->bytes, bytes, length);
        memcpy(word->ids, out->ids + start, (out->count - start) * sizeof *word->ids);
    }
}

static int encode_words(const struct tokenizer *t, struct tokenizer_scratch *s, const char *bytes,
                        size_t length, struct token_list *out, struct error *err)
{
    size_t end;
    for (size_t begin = 0; begin < length; begin = end) {
        if (t->byte_fallback) {
            end = fallback_cut(t, bytes, length, begin);
        } else if (splitter_next(t->splitter, s->split, bytes, length, begin, &end, err) != 0) {
            return -1;
        }
        encode_word(t, s, bytes + begin, end - begin, out);
    }
    return 0;
}

static int encode_normalized(const struct tokenizer *t, struct tokenizer_scratch *s,
                             const char *bytes, size_t length, bool allow_special,
                             struct token_list *out, struct error *err);

// Encodes text around the added tokens that are searched at this stage.
static int encode_around_added(const struct tokenizer *t, struct tokenizer_scratch *s,
                               bool normalized, const char *bytes, size_t length,
                               bool allow_special, struct token_list *out, struct error *err)
{
    struct added_match match = {0};
    size_t done = 0;
    do {
        match = added_find(t, normalized, allow_special, bytes, length, match.next, done);
        size_t plain = match.begin > done ? match.begin - done : 0;
        int rc = normalized ? encode_words(t, s, bytes + done, plain, out, err)
                            : encode_normalized(t, s, bytes + done, plain, allow_special, out, err);
        if (rc != 0) {
            return -1;
        }
        if (match.added != NULL) {
            token_list_add(out, match.added->id);
        }
        done = match.end;
    } while (match.added != NULL);
    return 0;
}

static int encode_normalized(const struct tokenizer *t, struct tokenizer_scratch *s,
                             const char *bytes, size_t length, bool allow_special,
                             struct token_list *out, struct error *err)
{
    size_t skipped = s->is_continued && t->prepend_space && length > 0;
    s->is_continued = false;
    if (tokenizer_normalize(t, &s->nfc, bytes, length, &s->normalized)) {
        bytes = s->normalized.bytes + skipped;
        length = s->normalized.length - skipped;
    }
    return encode_around_added(t, s, true, bytes, length, allow_special, out, err);
}

static int encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                  const char *bytes, size_t length, bool allow_special, bool is_continued,
                  struct token_list *out, struct error *err)
{
    size_t valid = utf8_valid_prefix(bytes, length);
    if (valid < length) {
        return error_set(err, "the text is not valid UTF-8 at byte %zu", valid);
    }
    if (length > ENCODE_MAX_BYTES) {
        return error_set(err, "the text has %zu bytes; at most %zu are encoded in one call", length,
                         ENCODE_MAX_BYTES);
    }
    struct tokenizer_scratch *own = scratch == NULL ? tokenizer_scratch_create(tokenizer) : NULL;
    struct tokenizer_scratch *used = scratch == NULL ? own : scratch;
    size_t start = out->count;
    used->is_continued = is_continued;
    int rc = encode_around_added(tokenizer, used, false, bytes, length, allow_special, out, err);
    if (rc != 0) {
        out->count = start;
    }
    tokenizer_scratch_destroy(own);
    return rc;
}

int tokenizer_encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                     const char *bytes, size_t length, bool allow_special, struct token_list *out,
                     struct error *err)
{
    return encode(tokenizer, scratch, bytes, length, allow_special, false, out, err);
}

int tokenizer_encode_continued(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                               const char *bytes, size_t length, struct token_list *out,
                               struct error *err)
{
    return encode(tokenizer, scratch, bytes, length, false, true, out, err);
}
