// SPDX-License-Identifier: Apache-2.0
// Fill-the-gap pairs from prose: a sentence with one name, number, date or rare noun removed.
//
//   question: In "Summer": She came out of lawyer ____'s house, at the end of the one street.
//   answer:   Royall
//
// The question names the source and shows up to window_words of the sentence around the gap, on one
// line, without marks of emphasis; the answer is what was removed. Within one document no question
// comes twice, and none with two answers; no answer stands elsewhere in its question.
#ifndef MEMO_WORKER_CLOZE_PAIRS_H
#define MEMO_WORKER_CLOZE_PAIRS_H

#include "base/arena.h"

#include <stddef.h>
#include <stdint.h>

struct cloze_options {
    uint32_t max_gaps_per_sentence;
    uint32_t min_words; // of a sentence
    uint32_t max_words;
    uint32_t window_words; // of context, left and right together
};
#define CLOZE_DEFAULTS                                                                             \
    {                                                                                              \
        .max_gaps_per_sentence = 2, .min_words = 6, .max_words = 40, .window_words = 24            \
    }

struct cloze_pair {
    const char *question; // NUL-terminated
    const char *answer;
    size_t begin; // of the sentence, bytes of the text
    size_t end;
};

struct cloze_pairs {
    struct cloze_pair *pairs; // in the order of the text
    size_t count;
    size_t ambiguous; // candidates dropped because their question came twice
    struct arena arena;
};

// Everything that a document gives. text must be valid UTF-8. Depends on nothing but its arguments.
void cloze_pairs_make(const char *text, size_t length, const char *title,
                      const struct cloze_options *options, struct cloze_pairs *out);
void cloze_pairs_release(struct cloze_pairs *pairs);

#endif
