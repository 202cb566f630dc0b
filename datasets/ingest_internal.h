// SPDX-License-Identifier: Apache-2.0
// Shared by ingest.c (reading) and ingest_finish.c (setting aside, cutting, assembling).
#ifndef MEMO_DATASETS_INGEST_INTERNAL_H
#define MEMO_DATASETS_INGEST_INTERNAL_H

#include "base/arena.h"
#include "datasets/ingest.h"

struct ingest_document {
    const char *id;
    const char *title;
    const char *source;
    const char *date;
    char *text; // of the heap; NULL once set aside or copied
    size_t length;
    struct digest digest;
    bool aside;
    enum corpus_aside reason;
    const char *of;
};

struct ingest_known {
    struct digest digest;
    const char *source; // inside a corpus of `known`
};

struct ingest {
    struct fs *fs;
    struct ingest_options options;
    struct arena arena; // names, and what the report points to
    struct ingest_document *documents;
    size_t document_count;
    size_t document_capacity;
    struct corpus **known_corpora;
    size_t known_corpus_count;
    struct ingest_known *known; // by digest
    size_t known_count;
    struct ingest_report report;
    uint64_t bytes_read;
};

// Appends to a list whose items are kept in the arena.
void ingest_names_add(struct ingest *ingest, struct ingest_names *names, const char *name);

#endif
