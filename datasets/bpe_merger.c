// SPDX-License-Identifier: Apache-2.0
// Every pair of adjacent tokens has its count and the list of words it has been seen in; a heap
// orders pairs by count. A merge visits only the words in its pair's list. Lists are never
// shortened and heap entries never removed: a word without the pair is skipped when visited, an
// entry whose count is outdated when it comes up (with a lower count it is put back). Two merges
// can give the same bytes ("ab"+"c", "a"+"bc"); they then share one token, and the counts of pairs
// with that token may grow again.
#include "datasets/bpe_merger.h"

#include "base/arena.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define MIN_PAIR_COUNT 2

struct pair {
    int32_t left;
    int32_t right;
    int64_t count;
    uint32_t *words; // places of words that had the pair when it was counted
    size_t word_count;
    size_t word_capacity;
    bool grown; // in merger.grown
};

struct heap_entry {
    int64_t count;
    uint32_t pair;
};

// The state of one run of merging.
struct merger {
    const struct bpe_word *words;
    size_t word_count;
    int32_t *symbols;   // of all words
    size_t *begins;     // of each word in symbols
    uint32_t *lengths;  // in symbols
    struct pair *pairs; // numbered in the order of discovery
    size_t pair_count;
    size_t pair_capacity;
    uint32_t *slots;   // open addressing: number of a pair + 1, or 0
    size_t slot_count; // a power of two
    struct heap_entry *heap;
    size_t heap_count;
    size_t heap_capacity;
    uint32_t *grown; // pairs whose count grew in this merge
    size_t grown_count;
    size_t grown_capacity;
};

static uint32_t *find_slot(const struct merger *m, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t i = bytes_hash_mix(0, key) & (m->slot_count - 1);
    while (m->slots[i] != 0) {
        const struct pair *pair = &m->pairs[m->slots[i] - 1];
        if (pair->left == left && pair->right == right) {
            break;
        }
        i = (i + 1) & (m->slot_count - 1);
    }
    return &m->slots[i];
}

static void grow_slots(struct merger *m)
{
    free(m->slots);
    m->slot_count = m->slot_count == 0 ? 1024 : 2 * m->slot_count;
    m->slots = mem_calloc(m->slot_count, sizeof *m->slots);
    for (size_t i = 0; i < m->pair_count; i++) {
        *find_slot(m, m->pairs[i].left, m->pairs[i].right) = (uint32_t)i + 1;
    }
}

static uint32_t find_pair(struct merger *m, int32_t left, int32_t right)
{
    if (2 * (m->pair_count + 1) > m->slot_count) {
        grow_slots(m);
    }
    uint32_t *slot = find_slot(m, left, right);
    if (*slot == 0) {
        if (m->pair_count == m->pair_capacity) {
            m->pairs = mem_grow(m->pairs, &m->pair_capacity, m->pair_count + 1, sizeof *m->pairs);
        }
        m->pairs[m->pair_count++] = (struct pair){.left = left, .right = right};
        *slot = (uint32_t)m->pair_count;
    }
    return *slot - 1;
}

static void remember_word(struct pair *pair, uint32_t word)
{
    if (pair->word_count > 0 && pair->words[pair->word_count - 1] == word) {
        return;
    }
    if (pair->word_count == pair->word_capacity) {
        pair->words =
            mem_grow(pair->words, &pair->word_capacity, pair->word_count + 1, sizeof *pair->words);
    }
    pair->words[pair->word_count++] = word;
}

static void mark_grown(struct merger *m, uint32_t pair)
{
    if (m->pairs[pair].grown) {
        return;
    }
    m->pairs[pair].grown = true;
    if (m->grown_count == m->grown_capacity) {
        m->grown = mem_grow(m->grown, &m->grown_capacity, m->grown_count + 1, sizeof *m->grown);
    }
    m->grown[m->grown_count++] = pair;
}

// Highest count first, of equals the lowest ids.
static bool comes_before(const struct merger *m, struct heap_entry a, struct heap_entry b)
{
    const struct pair *x = &m->pairs[a.pair];
    const struct pair *y = &m->pairs[b.pair];
    if (a.count != b.count) {
        return a.count > b.count;
    }
    return x->left != y->left ? x->left < y->left : x->right < y->right;
}

static void heap_push(struct merger *m, uint32_t pair)
{
    struct heap_entry added = {.count = m->pairs[pair].count, .pair = pair};
    if (added.count < MIN_PAIR_COUNT) {
        return;
    }
    if (m->heap_count == m->heap_capacity) {
        m->heap = mem_grow(m->heap, &m->heap_capacity, m->heap_count + 1, sizeof *m->heap);
    }
    size_t i = m->heap_count++;
    while (i > 0 && comes_before(m, added, m->heap[(i - 1) / 2])) {
        m->heap[i] = m->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    m->heap[i] = added;
}

static struct heap_entry heap_pop(struct merger *m)
{
    struct heap_entry top = m->heap[0];
    struct heap_entry last = m->heap[--m->heap_count];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child + 1 < m->heap_count && comes_before(m, m->heap[child + 1], m->heap[child])) {
            child++;
        }
        if (child >= m->heap_count || !comes_before(m, m->heap[child], last)) {
            break;
        }
        m->heap[i] = m->heap[child];
        i = child;
    }
    m->heap[i] = last;
    return top;
}

// The pair to merge next; false when none occurs often enough.
static bool pop_best(struct merger *m, uint32_t *pair)
{
    while (m->heap_count > 0) {
        struct heap_entry top = heap_pop(m);
        int64_t count = m->pairs[top.pair].count;
        if (top.count == count) {
            *pair = top.pair;
            return true;
        }
        if (top.count > count) {
            heap_push(m, top.pair);
        }
    }
    return false;
}

static void count_all_pairs(struct merger *m)
{
    for (size_t w = 0; w < m->word_count; w++) {
        const int32_t *symbols = m->symbols + m->begins[w];
        for (uint32_t i = 0; i + 1 < m->lengths[w]; i++) {
            uint32_t pair = find_pair(m, symbols[i], symbols[i + 1]);
            m->pairs[pair].count += m->words[w].count;
            remember_word(&m->pairs[pair], (uint32_t)w);
        }
    }
    for (size_t pair = 0; pair < m->pair_count; pair++) {
        heap_push(m, (uint32_t)pair);
    }
}

static bool word_has_pair(const int32_t *symbols, uint32_t length, int32_t left, int32_t right)
{
    for (uint32_t i = 0; i + 1 < length; i++) {
        if (symbols[i] == left && symbols[i + 1] == right) {
            return true;
        }
    }
    return false;
}

static uint32_t replace_pair(int32_t *symbols, uint32_t length, int32_t left, int32_t right,
                             int32_t result)
{
    uint32_t written = 0;
    for (uint32_t i = 0; i < length; i++) {
        if (i + 1 < length && symbols[i] == left && symbols[i + 1] == right) {
            symbols[written++] = result;
            i++;
        } else {
            symbols[written++] = symbols[i];
        }
    }
    return written;
}

static void merge_in_word(struct merger *m, uint32_t word, int32_t left, int32_t right,
                          int32_t result)
{
    int32_t *symbols = m->symbols + m->begins[word];
    uint32_t length = m->lengths[word];
    int64_t count = m->words[word].count;
    if (!word_has_pair(symbols, length, left, right)) {
        return;
    }
    for (uint32_t i = 0; i + 1 < length; i++) {
        uint32_t pair = find_pair(m, symbols[i], symbols[i + 1]);
        m->pairs[pair].count -= count;
    }
    length = replace_pair(symbols, length, left, right, result);
    m->lengths[word] = length;
    for (uint32_t i = 0; i + 1 < length; i++) {
        uint32_t pair = find_pair(m, symbols[i], symbols[i + 1]);
        m->pairs[pair].count += count;
        if (symbols[i] == result || symbols[i + 1] == result) {
            remember_word(&m->pairs[pair], word);
            mark_grown(m, pair);
        }
    }
}

static void merge_everywhere(struct merger *m, uint32_t chosen, int32_t result)
{
    // New pairs may move the array of pairs, so the list is taken out first. Should the pair come
    // up again, out of a token that two merges share, it starts a new list.
    struct pair pair = m->pairs[chosen];
    m->pairs[chosen].words = NULL;
    m->pairs[chosen].word_count = m->pairs[chosen].word_capacity = 0;
    for (size_t i = 0; i < pair.word_count; i++) {
        merge_in_word(m, pair.words[i], pair.left, pair.right, result);
    }
    free(pair.words);
    for (size_t i = 0; i < m->grown_count; i++) {
        m->pairs[m->grown[i]].grown = false;
        heap_push(m, m->grown[i]);
    }
    m->grown_count = 0;
}

static void merger_init(struct merger *m, const struct bpe_word *words, size_t word_count,
                        const struct tokenizer *t)
{
    int32_t byte_ids[256];
    for (int32_t id = 0; id < 256; id++) {
        byte_ids[(unsigned char)t->bytes.bytes[t->tokens[id].offset]] = id;
    }
    size_t total = 0;
    for (size_t w = 0; w < word_count; w++) {
        total += words[w].length;
    }
    *m = (struct merger){.words = words, .word_count = word_count};
    m->symbols = mem_calloc(total + 1, sizeof *m->symbols);
    m->begins = mem_calloc(word_count + 1, sizeof *m->begins);
    m->lengths = mem_calloc(word_count + 1, sizeof *m->lengths);
    size_t at = 0;
    for (size_t w = 0; w < word_count; w++) {
        m->begins[w] = at;
        m->lengths[w] = words[w].length;
        for (uint32_t i = 0; i < m->lengths[w]; i++) {
            m->symbols[at++] = byte_ids[(unsigned char)words[w].bytes[i]];
        }
    }
}

static void merger_release(struct merger *m)
{
    for (size_t i = 0; i < m->pair_count; i++) {
        free(m->pairs[i].words);
    }
    free(m->symbols);
    free(m->begins);
    free(m->lengths);
    free(m->pairs);
    free(m->slots);
    free(m->heap);
    free(m->grown);
}

// The token of the pair's bytes, which is new unless another merge made the same bytes.
static int add_merged_token(struct tokenizer *t, struct bytes_map *made, struct arena *arena,
                            const struct pair *pair, int32_t *result, struct error *err)
{
    const struct token *left = &t->tokens[pair->left];
    const struct token *right = &t->tokens[pair->right];
    size_t length = (size_t)left->length + right->length;
    char *bytes = arena_alloc(arena, length);
    memcpy(bytes, t->bytes.bytes + left->offset, left->length);
    memcpy(bytes + left->length, t->bytes.bytes + right->offset, right->length);
    bool added;
    *result = bytes_map_insert(made, bytes, length, (int32_t)t->token_count, &added)->value;
    if (added && tokenizer_add_token(t, *result, bytes, length, TOKEN_ENCODED, err) != 0) {
        return -1;
    }
    tokenizer_add_merge(t, pair->left, pair->right, *result);
    return 0;
}

int bpe_merge_words(const struct bpe_word *words, size_t word_count, struct tokenizer *t,
                    int32_t limit, struct error *err)
{
    struct merger m;
    struct bytes_map made = {0};
    struct arena arena = {0};
    int rc = 0;
    uint32_t chosen;
    merger_init(&m, words, word_count, t);
    count_all_pairs(&m);
    while (rc == 0 && t->token_count < (size_t)limit && pop_best(&m, &chosen)) {
        int32_t result;
        rc = add_merged_token(t, &made, &arena, &m.pairs[chosen], &result, err);
        if (rc == 0) {
            merge_everywhere(&m, chosen, result);
        }
    }
    merger_release(&m);
    bytes_map_release(&made);
    arena_release(&arena);
    return rc;
}
