// SPDX-License-Identifier: Apache-2.0
// 1. Names: runs of up to three capitalised words inside a sentence ("Edith Wharton", "Edith"; a
// first
//    word of a sentence only when the document has it capitalised elsewhere, and no word that it
//    has more often in lower case).
// 2. An inverted index from names to chunks. A name of one document alone connects nothing across
//    documents, one in more than hub_chunks chunks is a hub and connects everything: both are
//    dropped.
// 3. Every two chunks of different documents that share a name get, for each shared name, words *
//    65536 / chunks: longer names are surer, rarer ones say more, so that what is nearly a hub
//    counts little. Integers, so that every machine agrees.
// 4. Pairs join by descending score as long as the joined group is not larger than max_chunks. A
// score
//    below that of one word shared by eight chunks is too weak to join anything.
// Ties are broken by (document digest, place in the document), never by an index.
#include "datasets/groups.h"

#include "base/log.h"
#include "base/mem.h"
#include "datasets/prose.h"

#include <stdlib.h>
#include <string.h>

#define NAME_WORDS 3
#define SCORE_ONE 65536u
#define SCORE_MINIMUM (SCORE_ONE / 8)

struct mention {
    uint64_t name;
    uint32_t words;
    uint32_t document;
    uint32_t chunk; // rank in canonical order
};

struct link {
    uint32_t low; // ranks, low < high
    uint32_t high;
    uint64_t score;
};

struct grouper {
    const struct corpus *corpus;
    const struct groups_options *options;
    uint32_t *chunk_of_rank;
    struct mention *mentions;
    size_t mention_count;
    size_t mention_capacity;
    struct link *links;
    size_t link_count;
    size_t link_capacity;
};

struct ranked_chunk {
    struct digest document;
    uint64_t begin; // within the document
    uint32_t chunk;
};

static int compare_ranked(const void *left, const void *right)
{
    const struct ranked_chunk *a = left, *b = right;
    int order = digest_compare(a->document, b->document);
    return order ? order : (a->begin > b->begin) - (a->begin < b->begin);
}

static int compare_mentions(const void *left, const void *right)
{
    const struct mention *a = left, *b = right;
    if (a->name != b->name) {
        return a->name < b->name ? -1 : 1;
    }
    return (a->chunk > b->chunk) - (a->chunk < b->chunk);
}

static int compare_link_ends(const void *left, const void *right)
{
    const struct link *a = left, *b = right;
    if (a->low != b->low) {
        return a->low < b->low ? -1 : 1;
    }
    return (a->high > b->high) - (a->high < b->high);
}

static int compare_link_scores(const void *left, const void *right)
{
    const struct link *a = left, *b = right;
    if (a->score != b->score) {
        return a->score < b->score ? 1 : -1;
    }
    return compare_link_ends(left, right);
}

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

static void add_mention(struct grouper *grouper, uint64_t name, uint32_t words, uint32_t document,
                        uint32_t rank)
{
    grouper->mentions = mem_grow(grouper->mentions, &grouper->mention_capacity,
                                 grouper->mention_count + 1, sizeof *grouper->mentions);
    grouper->mentions[grouper->mention_count++] = (struct mention){name, words, document, rank};
}

// Whether word b follows word a with nothing but one space or line end between them.
static bool are_adjacent(const char *text, const struct prose_word *a, const struct prose_word *b)
{
    return b->begin == a->end + 1 && (text[a->end] == ' ' || text[a->end] == '\n');
}

static void add_names(struct grouper *grouper, const char *text, const struct prose *prose,
                      const uint64_t *hashes, const bool *is_name, size_t first, size_t end,
                      uint32_t document, uint32_t rank)
{
    for (size_t i = first; i < end; i++) {
        uint64_t name = 0;
        for (size_t n = 0; n < NAME_WORDS && i + n < end && is_name[i + n]; n++) {
            if (n > 0 && !are_adjacent(text, &prose->words[i + n - 1], &prose->words[i + n])) {
                break;
            }
            name = (name ^ hashes[i + n]) * 0x9e3779b97f4a7c15u;
            name ^= name >> 29;
            add_mention(grouper, name, (uint32_t)n + 1, document, rank);
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

// Chunks of ranks first_rank..end_rank are those of one document.
static void add_document(struct grouper *grouper, size_t first_rank, size_t end_rank)
{
    const struct corpus *corpus = grouper->corpus;
    uint32_t document = corpus->chunks[grouper->chunk_of_rank[first_rank]].document;
    const struct corpus_document *d = &corpus->documents[document];
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
    for (size_t rank = first_rank; rank < end_rank; rank++) {
        const struct corpus_chunk *chunk = &corpus->chunks[grouper->chunk_of_rank[rank]];
        add_names(grouper, text, &prose, hashes, is_name,
                  find_word(&prose, chunk->begin - d->begin),
                  find_word(&prose, chunk->end - d->begin), document, (uint32_t)rank);
    }
    free(cases);
    free(is_name);
    free(hashes);
    prose_release(&prose);
}

static void index_names(struct grouper *grouper)
{
    const struct corpus *corpus = grouper->corpus;
    struct ranked_chunk *order = mem_calloc(corpus->chunk_count + 1, sizeof *order);
    for (size_t i = 0; i < corpus->chunk_count; i++) {
        const struct corpus_document *document = &corpus->documents[corpus->chunks[i].document];
        order[i] = (struct ranked_chunk){document->digest,
                                         corpus->chunks[i].begin - document->begin, (uint32_t)i};
    }
    qsort(order, corpus->chunk_count, sizeof *order, compare_ranked);
    for (size_t i = 0; i < corpus->chunk_count; i++) {
        grouper->chunk_of_rank[i] = order[i].chunk;
    }
    free(order);
    for (size_t first = 0, end; first < corpus->chunk_count; first = end) {
        uint32_t document = corpus->chunks[grouper->chunk_of_rank[first]].document;
        for (end = first; end < corpus->chunk_count &&
                          corpus->chunks[grouper->chunk_of_rank[end]].document == document;) {
            end++;
        }
        add_document(grouper, first, end);
        if (corpus->chunk_count >= 1000) {
            log_progress("groups: %zu of %zu chunks", end, corpus->chunk_count);
        }
    }
    if (corpus->chunk_count >= 1000) {
        log_progress_end();
    }
}

// mentions[0..count) are those of one name, each chunk once.
static void link_chunks(struct grouper *grouper, const struct mention *mentions, size_t count)
{
    uint64_t score = (uint64_t)mentions[0].words * SCORE_ONE / count;
    for (size_t i = 0; i < count; i++) {
        for (size_t j = i + 1; j < count; j++) {
            if (mentions[i].document == mentions[j].document) {
                continue;
            }
            grouper->links = mem_grow(grouper->links, &grouper->link_capacity,
                                      grouper->link_count + 1, sizeof *grouper->links);
            grouper->links[grouper->link_count++] =
                (struct link){mentions[i].chunk, mentions[j].chunk, score};
        }
    }
}

static void find_links(struct grouper *grouper)
{
    struct mention *mentions = grouper->mentions;
    if (grouper->mention_count == 0) {
        return;
    }
    qsort(mentions, grouper->mention_count, sizeof *mentions, compare_mentions);
    for (size_t first = 0, end; first < grouper->mention_count; first = end) {
        size_t unique = first;
        for (end = first + 1;
             end < grouper->mention_count && mentions[end].name == mentions[first].name; end++) {
            if (mentions[end].chunk != mentions[unique].chunk) {
                mentions[++unique] = mentions[end];
            }
        }
        size_t count = unique - first + 1;
        if (count <= grouper->options->hub_chunks) {
            link_chunks(grouper, mentions + first, count);
        }
    }
    struct link *links = grouper->links;
    size_t unique = 0;
    if (grouper->link_count == 0) {
        return;
    }
    qsort(links, grouper->link_count, sizeof *links, compare_link_ends);
    for (size_t i = 0; i < grouper->link_count; i++) {
        if (unique > 0 && compare_link_ends(&links[unique - 1], &links[i]) == 0) {
            links[unique - 1].score += links[i].score;
        } else {
            links[unique++] = links[i];
        }
    }
    grouper->link_count = unique;
    qsort(links, unique, sizeof *links, compare_link_scores);
}

static uint32_t find_root(uint32_t *parents, uint32_t rank)
{
    while (parents[rank] != rank) {
        parents[rank] = parents[parents[rank]];
        rank = parents[rank];
    }
    return rank;
}

// root_of[chunk] becomes the root of the chunk's group; sizes[root] its size.
static void join_links(struct grouper *grouper, uint32_t *root_of, uint32_t *sizes)
{
    size_t count = grouper->corpus->chunk_count;
    uint32_t *parents = mem_calloc(count + 1, sizeof *parents);
    for (size_t i = 0; i < count; i++) {
        parents[i] = (uint32_t)i;
        sizes[i] = 1;
    }
    for (size_t i = 0; i < grouper->link_count && grouper->links[i].score >= SCORE_MINIMUM; i++) {
        uint32_t a = find_root(parents, grouper->links[i].low);
        uint32_t b = find_root(parents, grouper->links[i].high);
        if (a != b && sizes[a] + sizes[b] <= grouper->options->max_chunks) {
            parents[b] = a;
            sizes[a] += sizes[b];
        }
    }
    for (size_t rank = 0; rank < count; rank++) {
        root_of[grouper->chunk_of_rank[rank]] = find_root(parents, (uint32_t)rank);
    }
    free(parents);
}

// Groups in the order of their first chunk.
static void store_groups(struct corpus *corpus, const uint32_t *root_of, const uint32_t *sizes)
{
    struct arena *arena = corpus_arena(corpus);
    size_t count = corpus->chunk_count;
    uint32_t *offsets = arena_alloc(arena, (count + 1) * sizeof *offsets);
    uint32_t *chunks = arena_alloc(arena, (count + 1) * sizeof *chunks);
    uint32_t *place = mem_calloc(count + 1, sizeof *place); // of a root: where its next chunk goes
    size_t groups = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t root = root_of[i];
        if (sizes[root] < 2) {
            continue;
        }
        if (place[root] == 0) {
            place[root] = offsets[groups] + 1;
            offsets[groups + 1] = offsets[groups] + sizes[root];
            groups++;
        }
        chunks[place[root]++ - 1] = (uint32_t)i;
    }
    free(place);
    corpus->group_offsets = offsets;
    corpus->group_chunks = chunks;
    corpus->group_count = groups;
}

void groups_find(struct corpus *corpus, const struct groups_options *options)
{
    size_t count = corpus->chunk_count;
    struct grouper grouper = {.corpus = corpus, .options = options};
    grouper.chunk_of_rank = mem_calloc(count + 1, sizeof *grouper.chunk_of_rank);
    uint32_t *root_of = mem_calloc(count + 1, sizeof *root_of);
    uint32_t *sizes = mem_calloc(count + 1, sizeof *sizes);
    index_names(&grouper);
    find_links(&grouper);
    join_links(&grouper, root_of, sizes);
    store_groups(corpus, root_of, sizes);
    free(sizes);
    free(root_of);
    free(grouper.links);
    free(grouper.mentions);
    free(grouper.chunk_of_rank);
}
