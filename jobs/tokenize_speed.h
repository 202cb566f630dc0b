// SPDX-License-Identifier: Apache-2.0
// How fast a tokenizer encodes, without reading and printing.
#ifndef MEMO_JOBS_TOKENIZE_SPEED_H
#define MEMO_JOBS_TOKENIZE_SPEED_H

#include "base/strbuf.h"
#include "datasets/tokenizer.h"

// Documents to encode. Zero-initialise.
struct documents {
    struct strbuf *items;
    size_t count, capacity;
};

void documents_add(struct documents *documents, const char *bytes, size_t length);
void documents_release(struct documents *documents);

struct tokenize_speed {
    double bytes, tokens; // of one pass over all documents
    double seconds;       // of the fastest pass
};

// Passes over all documents for at least `seconds`, each document on one of `threads` threads.
// Caches of words are warm in all but the first pass.
int tokenize_speed_measure(const struct tokenizer *tokenizer, const struct documents *documents,
                           bool special, int threads, double seconds, struct tokenize_speed *out,
                           struct error *err);

#endif
