// SPDX-License-Identifier: Apache-2.0
// Cuts a document into chunks of at most so many tokens that overlap, at paragraph or sentence ends
// where there are any.
#ifndef MEMO_DATASETS_CHUNKER_H
#define MEMO_DATASETS_CHUNKER_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

// How many tokens these bytes make. Texts are counted sentence by sentence and summed.
struct token_counter {
    size_t (*count_tokens)(void *context, const char *bytes, size_t length);
    void *context;
};

struct chunker_options {
    size_t chunk_tokens;   // at least 1
    size_t overlap_tokens; // at most half of chunk_tokens; whole sentences up to that many
    struct token_counter counter;
};

struct chunk_span {
    size_t begin;
    size_t end;
    size_t tokens; // of the span, counted as one text
};

// The spans cover the text: the first begins at 0, the last ends at length, each begins after the
// begin of the one before, not behind its end, and ends behind its end. A single character that
// makes more tokens than fit is a chunk of its own. text must be valid UTF-8 and not empty. *out is
// allocated by mem_alloc, caller frees.
int chunker_cut(const char *text, size_t length, const struct chunker_options *options,
                struct chunk_span **out, size_t *count, struct error *err);

#endif
