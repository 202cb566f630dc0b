// SPDX-License-Identifier: Apache-2.0
// What becomes of the documents that were read: each is set aside (empty, known, an exact duplicate
// of an earlier one, a near duplicate of a longer one; the first that applies), or cut and kept, in
// the order in which they were added.
#include "datasets/ingest.h"

#include "base/log.h"
#include "base/mem.h"
#include "datasets/groups.h"
#include "datasets/ingest_internal.h"
#include "datasets/near_duplicates.h"

#include <stdlib.h>
#include <string.h>

#define PROGRESS_DOCUMENTS 100

static void set_aside(struct ingest *ingest, size_t index, enum corpus_aside reason, const char *of)
{
    struct ingest_document *document = &ingest->documents[index];
    document->aside = true;
    document->reason = reason;
    document->of = of;
    free(document->text);
    document->text = NULL;
    size_t *const counters[] = {
        [CORPUS_EXACT_DUPLICATE] = &ingest->report.exact_duplicates,
        [CORPUS_NEAR_DUPLICATE] = &ingest->report.near_duplicates,
        [CORPUS_EMPTY] = &ingest->report.empty,
        [CORPUS_KNOWN] = &ingest->report.known,
    };
    ++*counters[reason];
}

static const struct ingest_known *find_known(const struct ingest *ingest, struct digest digest)
{
    size_t low = 0, high = ingest->known_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (digest_compare(ingest->known[middle].digest, digest) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    bool found = low < ingest->known_count && digest_equal(ingest->known[low].digest, digest);
    return found ? &ingest->known[low] : NULL;
}

static int compare_texts(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static bool has_text(const char **sorted, size_t count, const char *text)
{
    return count > 0 && bsearch(&text, sorted, count, sizeof *sorted, compare_texts);
}

struct indexed_digest {
    struct digest digest;
    size_t index;
};

static int compare_indexed(const void *left, const void *right)
{
    const struct indexed_digest *a = left, *b = right;
    int order = digest_compare(a->digest, b->digest);
    return order ? order : (a->index > b->index) - (a->index < b->index);
}

static bool has_digest(const struct indexed_digest *sorted, size_t count, struct digest digest)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (digest_compare(sorted[middle].digest, digest) < 0) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < count && digest_equal(sorted[low].digest, digest);
}

static void list_changed(struct ingest *ingest)
{
    const char **known = mem_calloc(ingest->known_count + 1, sizeof *known);
    for (size_t i = 0; i < ingest->known_count; i++) {
        known[i] = ingest->known[i].source;
    }
    qsort(known, ingest->known_count, sizeof *known, compare_texts);
    for (size_t i = 0; i < ingest->document_count; i++) {
        const struct ingest_document *document = &ingest->documents[i];
        if (!find_known(ingest, document->digest) &&
            has_text(known, ingest->known_count, document->source)) {
            ingest_names_add(ingest, &ingest->report.changed, document->source);
        }
    }
    free(known);
}

static void list_vanished(struct ingest *ingest, const struct indexed_digest *digests)
{
    size_t count = ingest->document_count, gone_count = 0;
    const char **sources = mem_calloc(count + 1, sizeof *sources);
    const char **gone = mem_calloc(ingest->known_count + 1, sizeof *gone);
    for (size_t i = 0; i < count; i++) {
        sources[i] = ingest->documents[i].source;
    }
    qsort(sources, count, sizeof *sources, compare_texts);
    for (size_t i = 0; i < ingest->known_count; i++) {
        const struct ingest_known *known = &ingest->known[i];
        if (!has_text(sources, count, known->source) &&
            !has_digest(digests, count, known->digest)) {
            gone[gone_count++] = known->source;
        }
    }
    qsort(gone, gone_count, sizeof *gone, compare_texts);
    for (size_t i = 0; i < gone_count; i++) {
        if (i == 0 || strcmp(gone[i - 1], gone[i]) != 0) {
            ingest_names_add(ingest, &ingest->report.vanished, gone[i]);
        }
    }
    free(gone);
    free(sources);
}

static void set_aside_same(struct ingest *ingest)
{
    size_t count = ingest->document_count;
    struct indexed_digest *digests = mem_calloc(count + 1, sizeof *digests);
    for (size_t i = 0; i < count; i++) {
        digests[i] = (struct indexed_digest){ingest->documents[i].digest, i};
    }
    qsort(digests, count, sizeof *digests, compare_indexed);
    if (ingest->known_count > 0) {
        list_changed(ingest);
        list_vanished(ingest, digests);
    }
    size_t first = 0;
    for (size_t d = 0; d < count; d++) {
        if (!digest_equal(digests[first].digest, digests[d].digest)) {
            first = d;
        }
        size_t index = digests[d].index;
        const struct ingest_known *known = find_known(ingest, digests[d].digest);
        if (ingest->documents[index].length == 0) {
            set_aside(ingest, index, CORPUS_EMPTY, "");
        } else if (known) {
            set_aside(ingest, index, CORPUS_KNOWN, known->source);
        } else if (d > first) {
            set_aside(ingest, index, CORPUS_EXACT_DUPLICATE,
                      ingest->documents[digests[first].index].source);
        }
    }
    free(digests);
}

static void set_aside_similar(struct ingest *ingest)
{
    if (ingest->options.near_duplicate_threshold > 1) {
        return;
    }
    size_t count = 0;
    struct near_duplicate_text *texts = mem_calloc(ingest->document_count + 1, sizeof *texts);
    size_t *indices = mem_calloc(ingest->document_count + 1, sizeof *indices);
    size_t *of = mem_calloc(ingest->document_count + 1, sizeof *of);
    for (size_t i = 0; i < ingest->document_count; i++) {
        const struct ingest_document *document = &ingest->documents[i];
        if (!document->aside) {
            indices[count] = i;
            texts[count++] =
                (struct near_duplicate_text){document->text, document->length, document->digest};
        }
    }
    near_duplicates_find(texts, count, ingest->options.near_duplicate_threshold, of);
    for (size_t i = 0; i < count; i++) {
        if (of[i] != NEAR_DUPLICATE_NONE) {
            set_aside(ingest, indices[i], CORPUS_NEAR_DUPLICATE,
                      ingest->documents[indices[of[i]]].source);
        }
    }
    free(of);
    free(indices);
    free(texts);
}

struct named_source {
    const char *id;
    const char *source;
};

static int compare_ids(const void *left, const void *right)
{
    const struct named_source *a = left, *b = right;
    int order = strcmp(a->id, b->id);
    return order ? order : strcmp(a->source, b->source);
}

// Ids name documents in messages and in questions, so no two kept documents may share one.
static int check_ids(const struct ingest *ingest, struct error *err)
{
    struct named_source *ids = mem_calloc(ingest->document_count + 1, sizeof *ids);
    size_t count = 0;
    for (size_t i = 0; i < ingest->document_count; i++) {
        if (!ingest->documents[i].aside) {
            ids[count++] =
                (struct named_source){ingest->documents[i].id, ingest->documents[i].source};
        }
    }
    qsort(ids, count, sizeof *ids, compare_ids);
    int rc = 0;
    for (size_t i = 1; rc == 0 && i < count; i++) {
        if (strcmp(ids[i - 1].id, ids[i].id) == 0) {
            rc = error_set(err, "two documents have the id '%s': '%s' and '%s'", ids[i].id,
                           ids[i - 1].source, ids[i].source);
        }
    }
    free(ids);
    return rc;
}

struct assembly {
    struct corpus *corpus;
    struct corpus_document *documents;
    struct corpus_chunk *chunks;
    size_t chunk_capacity;
    char *text;
};

static int append_chunks(struct ingest *ingest, struct assembly *assembly, size_t document,
                         struct error *err)
{
    struct corpus *corpus = assembly->corpus;
    const struct corpus_document *d = &assembly->documents[document];
    struct chunk_span *spans = NULL;
    size_t count = 0;
    if (chunker_cut(assembly->text + d->begin, d->end - d->begin, &ingest->options.chunker, &spans,
                    &count, err)) {
        return -1;
    }
    if (corpus->chunk_count + count >= UINT32_MAX) {
        free(spans);
        return error_set(err, "more than %u chunks; cut larger ones", UINT32_MAX);
    }
    assembly->chunks = mem_grow(assembly->chunks, &assembly->chunk_capacity,
                                corpus->chunk_count + count, sizeof *assembly->chunks);
    for (size_t i = 0; i < count; i++) {
        const char *text = assembly->text + d->begin + spans[i].begin;
        assembly->chunks[corpus->chunk_count++] = (struct corpus_chunk){
            .document = (uint32_t)document,
            .begin = d->begin + spans[i].begin,
            .end = d->begin + spans[i].end,
            .tokens = (uint32_t)spans[i].tokens,
            .digest = digest_bytes(text, spans[i].end - spans[i].begin),
        };
        ingest->report.tokens += spans[i].tokens;
    }
    free(spans);
    return 0;
}

static const char *copy_text(struct corpus *corpus, const char *text)
{
    return arena_strndup(corpus_arena(corpus), text, strlen(text));
}

static void append_document(struct assembly *assembly, struct ingest_document *document)
{
    struct corpus *corpus = assembly->corpus;
    uint64_t begin = corpus->text_bytes;
    memcpy(assembly->text + begin, document->text, document->length);
    free(document->text);
    document->text = NULL;
    corpus->text_bytes += document->length;
    assembly->documents[corpus->document_count++] = (struct corpus_document){
        .id = copy_text(corpus, document->id),
        .title = copy_text(corpus, document->title),
        .source = copy_text(corpus, document->source),
        .date = copy_text(corpus, document->date),
        .begin = begin,
        .end = corpus->text_bytes,
        .digest = document->digest,
    };
}

static void store_set_aside(const struct ingest *ingest, struct corpus *corpus)
{
    struct corpus_set_aside *entries =
        arena_alloc(corpus_arena(corpus), (ingest->document_count + 1) * sizeof *entries);
    for (size_t i = 0; i < ingest->document_count; i++) {
        const struct ingest_document *document = &ingest->documents[i];
        if (document->aside) {
            entries[corpus->set_aside_count++] = (struct corpus_set_aside){
                .source = copy_text(corpus, document->source),
                .reason = document->reason,
                .of = copy_text(corpus, document->of),
            };
        }
    }
    corpus->set_aside = entries;
}

static int assemble(struct ingest *ingest, struct corpus *corpus, struct error *err)
{
    struct assembly assembly = {.corpus = corpus};
    size_t kept = 0;
    uint64_t bytes = 0;
    for (size_t i = 0; i < ingest->document_count; i++) {
        kept += !ingest->documents[i].aside;
        bytes += ingest->documents[i].aside ? 0 : ingest->documents[i].length;
    }
    assembly.text = mem_alloc(bytes + 1);
    assembly.text[bytes] = '\0';
    corpus_own(corpus, assembly.text);
    assembly.documents = arena_alloc(corpus_arena(corpus), kept * sizeof *assembly.documents);
    corpus->text = assembly.text;
    corpus->documents = assembly.documents;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < ingest->document_count; i++) {
        if (ingest->documents[i].aside) {
            continue;
        }
        append_document(&assembly, &ingest->documents[i]);
        rc = append_chunks(ingest, &assembly, corpus->document_count - 1, err);
        if (corpus->document_count % PROGRESS_DOCUMENTS == 0) {
            log_progress("cutting: %zu of %zu documents, %zu chunks", corpus->document_count, kept,
                         corpus->chunk_count);
        }
    }
    if (ingest->report.files >= PROGRESS_DOCUMENTS || kept >= PROGRESS_DOCUMENTS) {
        log_progress_end();
    }
    corpus->chunks = assembly.chunks;
    corpus_own(corpus, assembly.chunks);
    return rc;
}

int ingest_finish(struct ingest *ingest, struct corpus **out, struct ingest_report *report,
                  struct error *err)
{
    *out = NULL;
    struct ingest_report *counts = &ingest->report;
    set_aside_same(ingest);
    set_aside_similar(ingest);
    size_t aside =
        counts->empty + counts->known + counts->exact_duplicates + counts->near_duplicates;
    *report = *counts;
    if (aside == ingest->document_count) {
        if (counts->known > 0) {
            return INGEST_NOTHING_NEW;
        }
        return error_set(err,
                         "corpus is empty: no text in the input (%zu files read, %zu without text, "
                         "%zu skipped because they are not UTF-8 text)",
                         counts->files, counts->empty, counts->skipped.count);
    }
    struct corpus *corpus = corpus_create();
    if (check_ids(ingest, err) || assemble(ingest, corpus, err)) {
        corpus_close(corpus);
        return -1;
    }
    store_set_aside(ingest, corpus);
    groups_find(corpus, &ingest->options.groups);
    corpus->digest = corpus_content_digest(corpus);
    counts->documents = corpus->document_count;
    counts->chunks = corpus->chunk_count;
    counts->groups = corpus->group_count;
    counts->text_bytes = corpus->text_bytes;
    *report = *counts;
    *out = corpus;
    return 0;
}
