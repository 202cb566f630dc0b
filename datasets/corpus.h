// SPDX-License-Identifier: Apache-2.0
// A corpus in memory, as corpus.h5 holds it: documents, chunks, groups of related chunks, and what
// was set aside. All text is one UTF-8 blob; documents and chunks are spans of it.
#ifndef MEMO_DATASETS_CORPUS_H
#define MEMO_DATASETS_CORPUS_H

#include "base/arena.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct corpus_document {
    const char *id;     // as given, or the source path
    const char *title;  // first heading or line, or the file name
    const char *source; // path, with ":LINE" for JSON Lines
    const char *date;   // as given, may be empty
    uint64_t begin;     // bytes of corpus->text
    uint64_t end;
    struct digest digest; // of the text
};

struct corpus_chunk {
    uint32_t document;
    uint64_t begin; // bytes of corpus->text, on character boundaries, inside the document
    uint64_t end;
    uint32_t tokens;
    struct digest digest; // of the chunk's text
};

enum corpus_aside { CORPUS_EXACT_DUPLICATE, CORPUS_NEAR_DUPLICATE, CORPUS_EMPTY, CORPUS_KNOWN };

struct corpus_set_aside {
    const char *source;
    enum corpus_aside reason;
    const char *of; // source of the document that was kept instead, or empty
};

struct corpus {
    const char *text;
    uint64_t text_bytes;
    const struct corpus_document *documents;
    size_t document_count;
    const struct corpus_chunk *chunks; // by document, then by begin
    size_t chunk_count;
    const uint32_t *group_offsets; // [group_count + 1] into group_chunks
    const uint32_t *group_chunks;  // chunk indices, ascending inside a group
    size_t group_count;
    const struct corpus_set_aside *set_aside;
    size_t set_aside_count;
    struct digest digest; // of everything above
    void *memory;         // owned by the corpus
};

// Verified as a whole before anything of it is used: damage and foreign files are errors.
int corpus_open(const char *path, struct corpus **out, struct error *err);
void corpus_close(struct corpus *corpus);

// For those who build one: an empty corpus, the arena that lives as long as it, and blocks of the
// heap that it shall free.
struct corpus *corpus_create(void);
struct arena *corpus_arena(struct corpus *corpus);
void corpus_own(struct corpus *corpus, void *block);

// What belongs into corpus->digest.
struct digest corpus_content_digest(const struct corpus *corpus);

// Spans inside each other, ascending and on character boundaries, indices in range, text and names
// valid UTF-8, every document and chunk with the digest of its text: what users of a corpus rely
// on.
int corpus_check(const struct corpus *corpus, struct error *err);

// Written through fs under a temporary name and renamed; replaces.
int corpus_write(struct fs *fs, const char *path, const struct corpus *corpus, struct error *err);

// Divides the documents into `parts` of about equal bytes (largest first, each to the lightest
// part, ties to the lowest) and sets in_part[document] for those of `part` (from 1).
// [document_count]
void corpus_select_part(const struct corpus *corpus, int part, int parts, bool *in_part);

#endif
