// SPDX-License-Identifier: Apache-2.0
// A corpus in memory: its life, its digest and what must hold between its parts.
#include "datasets/corpus.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct corpus_memory {
    struct corpus corpus;
    struct arena arena;
    void **blocks;
    size_t block_count;
    size_t block_capacity;
};

struct corpus *corpus_create(void)
{
    struct corpus_memory *memory = mem_calloc(1, sizeof *memory);
    memory->corpus.text = "";
    memory->corpus.memory = memory;
    memory->corpus.group_offsets = arena_alloc(&memory->arena, sizeof(uint32_t));
    return &memory->corpus;
}

struct arena *corpus_arena(struct corpus *corpus)
{
    struct corpus_memory *memory = corpus->memory;
    return &memory->arena;
}

void corpus_own(struct corpus *corpus, void *block)
{
    struct corpus_memory *memory = corpus->memory;
    memory->blocks = mem_grow(memory->blocks, &memory->block_capacity, memory->block_count + 1,
                              sizeof *memory->blocks);
    memory->blocks[memory->block_count++] = block;
}

void corpus_close(struct corpus *corpus)
{
    if (!corpus) {
        return;
    }
    struct corpus_memory *memory = corpus->memory;
    for (size_t i = 0; i < memory->block_count; i++) {
        free(memory->blocks[i]);
    }
    free(memory->blocks);
    arena_release(&memory->arena);
    free(memory);
}

struct digest corpus_content_digest(const struct corpus *corpus)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field_text(&builder, "memo corpus 1");
    digest_field(&builder, corpus->text, corpus->text_bytes);
    digest_field_u64(&builder, corpus->document_count);
    for (size_t i = 0; i < corpus->document_count; i++) {
        const struct corpus_document *document = &corpus->documents[i];
        digest_field_text(&builder, document->id);
        digest_field_text(&builder, document->title);
        digest_field_text(&builder, document->source);
        digest_field_text(&builder, document->date);
        digest_field_u64(&builder, document->begin);
        digest_field_u64(&builder, document->end);
        digest_field(&builder, document->digest.bytes, sizeof document->digest.bytes);
    }
    digest_field_u64(&builder, corpus->chunk_count);
    for (size_t i = 0; i < corpus->chunk_count; i++) {
        const struct corpus_chunk *chunk = &corpus->chunks[i];
        digest_field_u64(&builder, chunk->document);
        digest_field_u64(&builder, chunk->begin);
        digest_field_u64(&builder, chunk->end);
        digest_field_u64(&builder, chunk->tokens);
        digest_field(&builder, chunk->digest.bytes, sizeof chunk->digest.bytes);
    }
    digest_field_u64(&builder, corpus->group_count);
    for (size_t g = 0; g < corpus->group_count; g++) {
        digest_field_u64(&builder, corpus->group_offsets[g + 1]);
        for (uint32_t i = corpus->group_offsets[g]; i < corpus->group_offsets[g + 1]; i++) {
            digest_field_u64(&builder, corpus->group_chunks[i]);
        }
    }
    digest_field_u64(&builder, corpus->set_aside_count);
    for (size_t i = 0; i < corpus->set_aside_count; i++) {
        const struct corpus_set_aside *aside = &corpus->set_aside[i];
        digest_field_text(&builder, aside->source);
        digest_field_u64(&builder, aside->reason);
        digest_field_text(&builder, aside->of);
    }
    return digest_end(&builder);
}

static bool is_boundary(const struct corpus *corpus, uint64_t at)
{
    return at == corpus->text_bytes || ((uint8_t)corpus->text[at] & 0xc0) != 0x80;
}

static bool is_text(const char *text)
{
    size_t length = strlen(text);
    return utf8_valid_prefix(text, length) == length;
}

static bool has_digest(const struct corpus *corpus, uint64_t begin, uint64_t end,
                       struct digest expected)
{
    return digest_equal(digest_bytes(corpus->text + begin, end - begin), expected);
}

static int check_documents(const struct corpus *corpus, struct error *err)
{
    uint64_t end = 0;
    for (size_t i = 0; i < corpus->document_count; i++) {
        const struct corpus_document *document = &corpus->documents[i];
        if (document->begin < end || document->end <= document->begin ||
            document->end > corpus->text_bytes || !is_boundary(corpus, document->begin) ||
            !is_boundary(corpus, document->end)) {
            return error_set(err, "document %zu has a bad span, bytes %llu to %llu of %llu", i,
                             (unsigned long long)document->begin, (unsigned long long)document->end,
                             (unsigned long long)corpus->text_bytes);
        }
        if (!is_text(document->id) || !is_text(document->title) || !is_text(document->source) ||
            !is_text(document->date)) {
            return error_set(err, "document %zu has a name that is not UTF-8", i);
        }
        if (!has_digest(corpus, document->begin, document->end, document->digest)) {
            return error_set(err, "document %zu does not have its digest", i);
        }
        end = document->end;
    }
    return 0;
}

static int check_chunks(const struct corpus *corpus, struct error *err)
{
    for (size_t i = 0; i < corpus->chunk_count; i++) {
        const struct corpus_chunk *chunk = &corpus->chunks[i];
        if (chunk->document >= corpus->document_count) {
            return error_set(err, "chunk %zu belongs to document %u of %zu", i, chunk->document,
                             corpus->document_count);
        }
        const struct corpus_document *document = &corpus->documents[chunk->document];
        if (chunk->begin < document->begin || chunk->end <= chunk->begin ||
            chunk->end > document->end || !is_boundary(corpus, chunk->begin) ||
            !is_boundary(corpus, chunk->end)) {
            return error_set(err, "chunk %zu has a bad span, bytes %llu to %llu", i,
                             (unsigned long long)chunk->begin, (unsigned long long)chunk->end);
        }
        const struct corpus_chunk *before = i > 0 ? chunk - 1 : NULL;
        if (before && (before->document > chunk->document ||
                       (before->document == chunk->document && before->begin >= chunk->begin))) {
            return error_set(err, "chunk %zu is not in order", i);
        }
        if (!has_digest(corpus, chunk->begin, chunk->end, chunk->digest)) {
            return error_set(err, "chunk %zu does not have its digest", i);
        }
    }
    return 0;
}

static int check_groups(const struct corpus *corpus, struct error *err)
{
    if (corpus->group_offsets[0] != 0) {
        return error_set(err, "groups begin at %u, not at 0", corpus->group_offsets[0]);
    }
    for (size_t g = 0; g < corpus->group_count; g++) {
        uint32_t begin = corpus->group_offsets[g], end = corpus->group_offsets[g + 1];
        if (end <= begin) {
            return error_set(err, "group %zu is empty", g);
        }
        for (uint32_t i = begin; i < end; i++) {
            if (corpus->group_chunks[i] >= corpus->chunk_count ||
                (i > begin && corpus->group_chunks[i] <= corpus->group_chunks[i - 1])) {
                return error_set(err, "group %zu names chunk %u of %zu, or not in order", g,
                                 corpus->group_chunks[i], corpus->chunk_count);
            }
        }
    }
    return 0;
}

int corpus_check(const struct corpus *corpus, struct error *err)
{
    size_t valid = utf8_valid_prefix(corpus->text, corpus->text_bytes);
    if (valid != corpus->text_bytes) {
        return error_set(err, "text is not UTF-8 at byte %zu", valid);
    }
    if (check_documents(corpus, err) || check_chunks(corpus, err) || check_groups(corpus, err)) {
        return -1;
    }
    for (size_t i = 0; i < corpus->set_aside_count; i++) {
        const struct corpus_set_aside *aside = &corpus->set_aside[i];
        if ((unsigned)aside->reason > CORPUS_KNOWN || !is_text(aside->source) ||
            !is_text(aside->of)) {
            return error_set(err, "entry %zu of what was set aside has reason %u or a bad name", i,
                             (unsigned)aside->reason);
        }
    }
    return 0;
}

struct sized_document {
    uint64_t bytes;
    size_t index;
};

static int compare_largest_first(const void *left, const void *right)
{
    const struct sized_document *a = left, *b = right;
    if (a->bytes != b->bytes) {
        return a->bytes < b->bytes ? 1 : -1;
    }
    return (a->index > b->index) - (a->index < b->index);
}

void corpus_select_part(const struct corpus *corpus, int part, int parts, bool *in_part)
{
    assert(part >= 1 && part <= parts);
    struct sized_document *order = mem_calloc(corpus->document_count + 1, sizeof *order);
    uint64_t *weights = mem_calloc((size_t)parts, sizeof *weights);
    for (size_t i = 0; i < corpus->document_count; i++) {
        order[i].bytes = corpus->documents[i].end - corpus->documents[i].begin;
        order[i].index = i;
    }
    qsort(order, corpus->document_count, sizeof *order, compare_largest_first);
    for (size_t i = 0; i < corpus->document_count; i++) {
        int lightest = 0;
        for (int p = 1; p < parts; p++) {
            if (weights[p] < weights[lightest]) {
                lightest = p;
            }
        }
        weights[lightest] += order[i].bytes;
        in_part[order[i].index] = lightest == part - 1;
    }
    free(weights);
    free(order);
}
