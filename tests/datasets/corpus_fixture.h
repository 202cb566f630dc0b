// SPDX-License-Identifier: Apache-2.0
// Corpora made from texts in memory. For tests only.
#ifndef MEMO_TESTS_DATASETS_CORPUS_FIXTURE_H
#define MEMO_TESTS_DATASETS_CORPUS_FIXTURE_H

#include "datasets/corpus.h"

struct fixture_text {
    const char *title;
    const char *text;
};

// One document per text in this order, one chunk per paragraph (cut behind "\n\n"), no groups.
struct corpus *corpus_from_texts(const struct fixture_text *texts, size_t count);

// A chunk of `document` begins at each offset and overlaps the one before by `overlap` bytes.
struct corpus *corpus_from_spans(const char *title, const char *text, const size_t *begins,
                                 size_t count, size_t overlap);

#endif
