// SPDX-License-Identifier: Apache-2.0
#include "tests/datasets/corpus_fixture.h"

#include "base/arena.h"

#include <string.h>

static struct corpus_chunk make_chunk(const struct corpus *corpus, uint32_t document,
                                      uint64_t begin, uint64_t end)
{
    return (struct corpus_chunk){.document = document,
                                 .begin = begin,
                                 .end = end,
                                 .tokens = (uint32_t)(end - begin),
                                 .digest = digest_bytes(corpus->text + begin, end - begin)};
}

static struct corpus_document make_document(struct corpus *corpus, const char *title, char *at,
                                            const char *text)
{
    size_t length = strlen(text);
    memcpy(at, text, length);
    char *source = arena_printf(corpus_arena(corpus), "%zu.txt", corpus->document_count);
    return (struct corpus_document){.id = source,
                                    .title = title,
                                    .source = source,
                                    .date = "",
                                    .begin = corpus->text_bytes,
                                    .end = corpus->text_bytes + length,
                                    .digest = digest_bytes(text, length)};
}

struct corpus *corpus_from_texts(const struct fixture_text *texts, size_t count)
{
    struct corpus *corpus = corpus_create();
    struct arena *arena = corpus_arena(corpus);
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        bytes += strlen(texts[i].text);
    }
    char *text = arena_alloc(arena, bytes + 1);
    struct corpus_document *documents = arena_alloc(arena, (count + 1) * sizeof *documents);
    struct corpus_chunk *chunks = arena_alloc(arena, (bytes + 1) * sizeof *chunks);
    corpus->text = text;
    corpus->documents = documents;
    corpus->chunks = chunks;
    for (uint32_t i = 0; i < count; i++) {
        documents[i] =
            make_document(corpus, texts[i].title, text + corpus->text_bytes, texts[i].text);
        corpus->document_count++;
        corpus->text_bytes = documents[i].end;
        for (uint64_t begin = documents[i].begin, end; begin < documents[i].end; begin = end) {
            const char *blank = strstr(text + begin, "\n\n");
            end = blank ? (uint64_t)(blank - text) + 2 : documents[i].end;
            end = end < documents[i].end ? end : documents[i].end;
            chunks[corpus->chunk_count++] = make_chunk(corpus, i, begin, end);
        }
    }
    corpus->digest = corpus_content_digest(corpus);
    return corpus;
}

struct corpus *corpus_from_spans(const char *title, const char *text, const size_t *begins,
                                 size_t count, size_t overlap)
{
    struct fixture_text one = {title, text};
    struct corpus *corpus = corpus_from_texts(&one, 1);
    struct corpus_chunk *chunks = arena_alloc(corpus_arena(corpus), count * sizeof *chunks);
    for (size_t i = 0; i < count; i++) {
        uint64_t end = i + 1 < count ? begins[i + 1] + overlap : corpus->text_bytes;
        chunks[i] = make_chunk(corpus, 0, begins[i], end);
    }
    corpus->chunks = chunks;
    corpus->chunk_count = count;
    corpus->digest = corpus_content_digest(corpus);
    return corpus;
}
