// SPDX-License-Identifier: Apache-2.0
// 1. An inverted index from names to chunks. A name of one document alone connects nothing across
//    documents, one in more than hub_chunks chunks is a hub and connects everything: both are
//    dropped.
// 2. Every two chunks of different documents that share a name get, for each shared name, words *
//    65536 / chunks: longer names are surer, rarer ones say more, so that what is nearly a hub
//    counts little. Integers, so that every machine agrees.
// 3. Pairs join by descending score as long as the joined group is not larger than max_chunks. A
//    score below that of one word shared by eight chunks is too weak to join anything.
// Ties are broken by (document digest, place in the document), never by an index.
#include "datasets/groups_join.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

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

// Sorts the chunks into canonical order and takes the mentions over into it.
static void rank_mentions(struct grouper *grouper, const struct group_mention *mentions,
                          size_t count)
{
    const struct corpus *corpus = grouper->corpus;
    struct ranked_chunk *order = mem_calloc(corpus->chunk_count + 1, sizeof *order);
    uint32_t *rank_of = mem_calloc(corpus->chunk_count + 1, sizeof *rank_of);
    for (size_t i = 0; i < corpus->chunk_count; i++) {
        const struct corpus_document *document = &corpus->documents[corpus->chunks[i].document];
        order[i] = (struct ranked_chunk){document->digest,
                                         corpus->chunks[i].begin - document->begin, (uint32_t)i};
    }
    qsort(order, corpus->chunk_count, sizeof *order, compare_ranked);
    for (size_t i = 0; i < corpus->chunk_count; i++) {
        grouper->chunk_of_rank[i] = order[i].chunk;
        rank_of[order[i].chunk] = (uint32_t)i;
    }
    grouper->mentions = mem_calloc(count + 1, sizeof *grouper->mentions);
    grouper->mention_count = count;
    for (size_t i = 0; i < count; i++) {
        grouper->mentions[i] = (struct mention){mentions[i].name, mentions[i].words,
                                                corpus->chunks[mentions[i].chunk].document,
                                                rank_of[mentions[i].chunk]};
    }
    free(rank_of);
    free(order);
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
static void store_groups(size_t count, const uint32_t *root_of, const uint32_t *sizes,
                         struct chunk_groups *out)
{
    uint32_t *offsets = mem_calloc(count + 1, sizeof *offsets);
    uint32_t *chunks = mem_calloc(count + 1, sizeof *chunks);
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
    *out = (struct chunk_groups){.offsets = offsets, .chunks = chunks, .count = groups};
}

void groups_join(const struct corpus *corpus, const struct group_mention *mentions, size_t count,
                 const struct groups_options *options, struct chunk_groups *out)
{
    const size_t chunks = corpus->chunk_count;
    struct grouper grouper = {.corpus = corpus, .options = options};
    grouper.chunk_of_rank = mem_calloc(chunks + 1, sizeof *grouper.chunk_of_rank);
    uint32_t *root_of = mem_calloc(chunks + 1, sizeof *root_of);
    uint32_t *sizes = mem_calloc(chunks + 1, sizeof *sizes);
    rank_mentions(&grouper, mentions, count);
    find_links(&grouper);
    join_links(&grouper, root_of, sizes);
    store_groups(chunks, root_of, sizes, out);
    free(sizes);
    free(root_of);
    free(grouper.links);
    free(grouper.mentions);
    free(grouper.chunk_of_rank);
}

void chunk_groups_release(struct chunk_groups *groups)
{
    free(groups->offsets);
    free(groups->chunks);
    *groups = (struct chunk_groups){0};
}
