// SPDX-License-Identifier: Apache-2.0
// Names are runs of up to three capitalised words inside a sentence ("Edith Wharton", "Edith"; a
// first word of a sentence only when the document has it capitalised elsewhere, and no word that it
// has more often in lower case). groups_join.c brings the chunks together that share them.
#include "datasets/groups.h"

#include "base/log.h"
#include "base/mem.h"
#include "datasets/groups_join.h"
#include "datasets/prose.h"

#include <stdlib.h>
#include <string.h>

#define NAME_WORDS 3

struct name_index {
    const struct corpus *corpus;
    struct group_mention *mentions;
    size_t count;
    size_t capacity;
};

// How often a document has a word capitalised inside a sentence, and how often in lower case.
struct word_case {
    uint64_t hash;
    int32_t balance; // capitalised minus lower case
};

static int compare_word_cases(const void *left, const void *right)
{
    const struct word_case *a = left, *b = right;
    return (a->hash > b->hash) - (a->hash < b->hash);
}

// One entry per word of the document, sorted by hash, summed.
static size_t sum_word_cases(struct word_case *cases, size_t count)
{
    size_t unique = 0;
    qsort(cases, count, sizeof *cases, compare_word_cases);
    for (size_t i = 0; i < count; i++) {
        if (unique > 0 && cases[unique - 1].hash == cases[i].hash) {
            cases[unique - 1].balance += cases[i].balance;
        } else {
            cases[unique++] = cases[i];
        }
    }
    return unique;
}

static void add_mention(struct name_index *index, uint64_t name, uint32_t words, uint32_t chunk)
{
    index->mentions =
        mem_grow(index->mentions, &index->capacity, index->count + 1, sizeof *index->mentions);
    index->mentions[index->count++] = (struct group_mention){name, words, chunk};
}

// Whether word b follows word a with nothing but one space or line end between them.
static bool are_adjacent(const char *text, const struct prose_word *a, const struct prose_word *b)
{
    return b->begin == a->end + 1 && (text[a->end] == ' ' || text[a->end] == '\n');
}

static void add_names(struct name_index *index, const char *text, const struct prose *prose,
                      const uint64_t *hashes, const bool *is_name, size_t first, size_t end,
                      uint32_t chunk)
{
    for (size_t i = first; i < end; i++) {
        uint64_t name = 0;
        for (size_t n = 0; n < NAME_WORDS && i + n < end && is_name[i + n]; n++) {
            if (n > 0 && !are_adjacent(text, &prose->words[i + n - 1], &prose->words[i + n])) {
                break;
            }
            name = (name ^ hashes[i + n]) * 0x9e3779b97f4a7c15u;
            name ^= name >> 29;
            add_mention(index, name, (uint32_t)n + 1, chunk);
        }
    }
}

static size_t find_word(const struct prose *prose, size_t byte)
{
    size_t low = 0, high = prose->word_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (prose->words[middle].begin < byte) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// Chunks first..end are those of one document.
static void add_document(struct name_index *index, size_t first, size_t end)
{
    const struct corpus *corpus = index->corpus;
    const struct corpus_document *d = &corpus->documents[corpus->chunks[first].document];
    const char *text = corpus->text + d->begin;
    struct prose prose;
    prose_scan(text, d->end - d->begin, &prose);
    uint64_t *hashes = mem_calloc(prose.word_count + 1, sizeof *hashes);
    bool *is_name = mem_calloc(prose.word_count + 1, sizeof *is_name);
    struct word_case *cases = mem_calloc(prose.word_count + 1, sizeof *cases);
    for (size_t i = 0; i < prose.word_count; i++) {
        const struct prose_word *word = &prose.words[i];
        hashes[i] = prose_word_hash(text, word);
        cases[i].hash = hashes[i];
        cases[i].balance = !word->capital ? -1 : word->lead ? 0 : 1;
    }
    size_t unique = sum_word_cases(cases, prose.word_count);
    for (size_t i = 0; i < prose.word_count; i++) {
        const struct word_case *found = bsearch(&(struct word_case){.hash = hashes[i]}, cases,
                                                unique, sizeof *cases, compare_word_cases);
        is_name[i] = prose.words[i].capital && prose.words[i].letters > 1 && found->balance > 0;
    }
    for (size_t c = first; c < end; c++) {
        const struct corpus_chunk *chunk = &corpus->chunks[c];
        add_names(index, text, &prose, hashes, is_name, find_word(&prose, chunk->begin - d->begin),
                  find_word(&prose, chunk->end - d->begin), (uint32_t)c);
    }
    free(cases);
    free(is_name);
    free(hashes);
    prose_release(&prose);
}

static void index_names(struct name_index *index)
{
    const struct corpus *corpus = index->corpus;
    for (size_t first = 0, end; first < corpus->chunk_count; first = end) {
        const uint32_t document = corpus->chunks[first].document;
        for (end = first; end < corpus->chunk_count && corpus->chunks[end].document == document;) {
            end++;
        }
        add_document(index, first, end);
        if (corpus->chunk_count >= 1000) {
            log_progress("groups: %zu of %zu chunks", end, corpus->chunk_count);
        }
    }
    if (corpus->chunk_count >= 1000) {
        log_progress_end();
    }
}

void groups_find(struct corpus *corpus, const struct groups_options *options)
{
    struct name_index index = {.corpus = corpus};
    struct chunk_groups groups;
    index_names(&index);
    groups_join(corpus, index.mentions, index.count, options, &groups);
    corpus->group_offsets = groups.offsets;
    corpus->group_chunks = groups.chunks;
    corpus->group_count = groups.count;
    corpus_own(corpus, groups.offsets);
    corpus_own(corpus, groups.chunks);
    free(index.mentions);
}
