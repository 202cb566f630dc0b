// SPDX-License-Identifier: Apache-2.0
// What may be removed from a sentence, best first by its score:
//
//   date     "14 March 1871", "March 14, 1871", "14 March", "March 1871", as one unit
//   number   a word that begins with a digit and does not open the sentence
//   name     up to four capitalised words in a row, each of which the document has capitalised
//   inside
//            sentences, and that more often than in lower case
//   numeral  "seven", "twenty-three"
//   noun     a lower-case word of six letters or more that the document has at most twice, shortly
//   behind
//            an article, a possessive or "of", that does not end like an adverb or a verb, and that
//            no other such word follows, as it would an adjective
//
// score = base of the kind + 30 / (how often the document has the rarest word of it) + its length
// up to 16 characters.
#ifndef MEMO_WORKER_CLOZE_CANDIDATES_H
#define MEMO_WORKER_CLOZE_CANDIDATES_H

#include "datasets/prose.h"

#include <stddef.h>
#include <stdint.h>

#define CLOZE_MAX_CANDIDATES 64 // of one sentence; what follows is not looked at

struct cloze_candidate {
    size_t first; // words
    size_t end;
    uint32_t score;
};

// What a document knows of one word.
struct cloze_word_fact {
    uint64_t hash;
    uint32_t total;
    uint32_t capital; // inside sentences
    uint32_t lower;
};

struct cloze_words {
    const char *text;
    struct prose prose;
    const struct cloze_word_fact **facts; // of every word of prose
    struct cloze_word_fact *table;
};

void cloze_words_init(struct cloze_words *words, const char *text, size_t length);
void cloze_words_release(struct cloze_words *words);

// Candidates among words first..end-1, one sentence, in the order of the text; no two overlap.
size_t cloze_candidates_find(const struct cloze_words *words, size_t first, size_t end,
                             struct cloze_candidate out[CLOZE_MAX_CANDIDATES]);

#endif
