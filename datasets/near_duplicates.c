// SPDX-License-Identifier: Apache-2.0
// MinHash (Broder 1997) with banding. A text is the set of hashes of its five-word shingles, words
// in lower case; a text of fewer words has one shingle. 128 minima under independent hash functions
// make its signature; 32 bands of 4 minima each are looked up in a table of the texts kept so far.
// Two texts of similarity s meet in some band with probability 1 - (1 - s^4)^32: over 0.9999 at
// 0.8, 0.13 at 0.25. Whoever meets is compared exactly, so chance can miss a duplicate but never
// make one. Texts are taken longest first, then by digest; each is compared with kept texts alone.
#include "datasets/near_duplicates.h"

#include "base/log.h"
#include "base/mem.h"
#include "base/random.h"
#include "datasets/prose.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SHINGLE_WORDS 5
#define BANDS 32
#define BAND_ROWS 4
#define MINIMA (BANDS * BAND_ROWS)
#define HASH_SEED 0x6d656d6f

struct shingles {
    uint64_t *hashes; // ascending, each once
    size_t count;
};

static int compare_u64(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static uint64_t mix(uint64_t x) // the finaliser of splitmix64
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static struct shingles make_shingles(const struct near_duplicate_text *text)
{
    struct prose prose;
    prose_scan(text->text, text->length, &prose);
    uint64_t *words = mem_alloc((prose.word_count + 1) * sizeof *words);
    for (size_t i = 0; i < prose.word_count; i++) {
        words[i] = prose_word_hash(text->text, &prose.words[i]);
    }
    size_t words_each = prose.word_count < SHINGLE_WORDS ? prose.word_count : SHINGLE_WORDS;
    size_t total = prose.word_count == 0 ? 0 : prose.word_count - words_each + 1;
    for (size_t i = 0; i < total; i++) {
        uint64_t hash = words_each;
        for (size_t w = 0; w < words_each; w++) {
            hash = mix(hash ^ words[i + w]);
        }
        words[i] = hash; // no later shingle needs word i
    }
    qsort(words, total, sizeof *words, compare_u64);
    size_t unique = 0;
    for (size_t i = 0; i < total; i++) {
        if (unique == 0 || words[unique - 1] != words[i]) {
            words[unique++] = words[i];
        }
    }
    prose_release(&prose);
    return (struct shingles){words, unique};
}

static double jaccard(const struct shingles *a, const struct shingles *b)
{
    size_t i = 0, j = 0, common = 0;
    while (i < a->count && j < b->count) {
        if (a->hashes[i] == b->hashes[j]) {
            common++;
            i++;
            j++;
        } else if (a->hashes[i] < b->hashes[j]) {
            i++;
        } else {
            j++;
        }
    }
    size_t all = a->count + b->count - common;
    return all == 0 ? 0 : (double)common / (double)all;
}

double near_duplicate_similarity(const struct near_duplicate_text *a,
                                 const struct near_duplicate_text *b)
{
    struct shingles of_a = make_shingles(a), of_b = make_shingles(b);
    double similarity = jaccard(&of_a, &of_b);
    free(of_a.hashes);
    free(of_b.hashes);
    return similarity;
}

// Chained hash table from a band's key to the kept texts that have it.
struct band_entry {
    uint64_t key;
    size_t text;
    size_t next; // entry + 1, 0 at the end
};

struct band_table {
    size_t *heads; // entry + 1, 0 when empty
    size_t mask;
    struct band_entry *entries;
    size_t entry_count;
    uint64_t factors[MINIMA]; // odd
    uint64_t offsets[MINIMA];
};

static void table_init(struct band_table *table, size_t texts)
{
    size_t slots = 64;
    while (slots < texts * BANDS) {
        slots *= 2;
    }
    table->heads = mem_calloc(slots, sizeof *table->heads);
    table->mask = slots - 1;
    table->entries = mem_alloc((texts * BANDS + 1) * sizeof *table->entries);
    table->entry_count = 0;
    for (size_t i = 0; i < MINIMA; i++) {
        table->factors[i] = random_u64(HASH_SEED, 0, i) | 1;
        table->offsets[i] = random_u64(HASH_SEED, 1, i);
    }
}

static void table_release(struct band_table *table)
{
    free(table->heads);
    free(table->entries);
}

static void make_band_keys(const struct band_table *table, const struct shingles *shingles,
                           uint64_t keys[BANDS])
{
    uint32_t minima[MINIMA];
    memset(minima, 0xff, sizeof minima);
    for (size_t s = 0; s < shingles->count; s++) {
        uint64_t hash = shingles->hashes[s];
        for (size_t i = 0; i < MINIMA; i++) {
            uint32_t value = (uint32_t)((hash * table->factors[i] + table->offsets[i]) >> 32);
            minima[i] = value < minima[i] ? value : minima[i];
        }
    }
    for (size_t b = 0; b < BANDS; b++) {
        uint64_t key = b;
        for (size_t r = 0; r < BAND_ROWS; r++) {
            key = mix(key ^ minima[b * BAND_ROWS + r] ^ (key << 32));
        }
        keys[b] = key;
    }
}

static void table_add(struct band_table *table, const uint64_t keys[BANDS], size_t text)
{
    for (size_t b = 0; b < BANDS; b++) {
        size_t *head = &table->heads[keys[b] & table->mask];
        table->entries[table->entry_count] = (struct band_entry){keys[b], text, *head};
        *head = ++table->entry_count;
    }
}

// The most similar kept text, the first of them by the order of taking; NONE below the threshold.
static size_t find_similar(const struct band_table *table, const uint64_t keys[BANDS],
                           const struct shingles *shingles, const struct near_duplicate_text *texts,
                           const size_t *rank, size_t *seen, size_t stamp, double threshold)
{
    size_t best = NEAR_DUPLICATE_NONE;
    double best_similarity = 0;
    for (size_t b = 0; b < BANDS; b++) {
        for (size_t at = table->heads[keys[b] & table->mask]; at;
             at = table->entries[at - 1].next) {
            const struct band_entry *entry = &table->entries[at - 1];
            if (entry->key != keys[b] || seen[entry->text] == stamp) {
                continue;
            }
            seen[entry->text] = stamp;
            struct shingles other = make_shingles(&texts[entry->text]);
            double similarity = jaccard(shingles, &other);
            free(other.hashes);
            if (similarity >= threshold &&
                (best == NEAR_DUPLICATE_NONE || similarity > best_similarity ||
                 (similarity == best_similarity && rank[entry->text] < rank[best]))) {
                best = entry->text;
                best_similarity = similarity;
            }
        }
    }
    return best;
}

struct ranked_text {
    size_t length;
    struct digest digest;
    size_t index;
};

static int compare_longest_first(const void *left, const void *right)
{
    const struct ranked_text *a = left, *b = right;
    if (a->length != b->length) {
        return a->length < b->length ? 1 : -1;
    }
    return digest_compare(a->digest, b->digest);
}

void near_duplicates_find(const struct near_duplicate_text *texts, size_t count, double threshold,
                          size_t *of)
{
    struct ranked_text *order = mem_calloc(count + 1, sizeof *order);
    size_t *rank = mem_calloc(count + 1, sizeof *rank);
    size_t *seen = mem_calloc(count + 1, sizeof *seen);
    for (size_t i = 0; i < count; i++) {
        order[i] = (struct ranked_text){texts[i].length, texts[i].digest, i};
    }
    qsort(order, count, sizeof *order, compare_longest_first);
    struct band_table table;
    table_init(&table, count);
    for (size_t r = 0; r < count; r++) {
        size_t index = order[r].index;
        rank[index] = r;
        of[index] = NEAR_DUPLICATE_NONE;
        struct shingles shingles = make_shingles(&texts[index]);
        if (shingles.count > 0) {
            uint64_t keys[BANDS];
            make_band_keys(&table, &shingles, keys);
            of[index] = find_similar(&table, keys, &shingles, texts, rank, seen, r + 1, threshold);
            if (of[index] == NEAR_DUPLICATE_NONE) {
                table_add(&table, keys, index);
            }
        }
        free(shingles.hashes);
        if (count >= 1000) {
            log_progress("near duplicates: %zu of %zu documents", r + 1, count);
        }
    }
    if (count >= 1000) {
        log_progress_end();
    }
    table_release(&table);
    free(seen);
    free(rank);
    free(order);
}
