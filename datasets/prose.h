// SPDX-License-Identifier: Apache-2.0
// Words and sentences of prose, found by rules written for English that do no harm elsewhere. Spans
// are bytes of the text that was scanned, on character boundaries.
//
// A word is a run of letters, marks and digits; an apostrophe or a hyphen between letters and a
// comma, point or colon between digits belong to it. A possessive "'s" is cut off.
//
// A sentence ends after . ! ? or … (with the quotes and brackets that close behind it) when white
// space follows and then not a lower-case letter, and at every blank line. A point does not end one
// after a known abbreviation ("Mr."), after a single capital ("J. Smith") or before a number behind
// "No.".
#ifndef MEMO_DATASETS_PROSE_H
#define MEMO_DATASETS_PROSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct prose_word {
    size_t begin;
    size_t end;
    uint32_t letters; // characters of the word
    bool capital;     // begins with an upper-case letter
    bool shouted;     // two or more letters, none of them lower-case
    bool number;      // begins with a digit
    bool lead;        // first of a sentence, or directly behind an opening quote
};

struct prose_sentence {
    size_t begin; // of its first character that is not white space
    size_t end;   // behind its last character that is not white space
    size_t next;  // where the following sentence begins, or the end of the text
    size_t first_word;
    size_t word_count;
    bool terminated; // by . ! ? or …, not by a blank line or the end alone
    bool paragraph;  // a blank line follows, or the end
};

struct prose {
    struct prose_word *words;
    size_t word_count;
    struct prose_sentence
        *sentences; // they cover the text: each one's next is the begin of another
    size_t sentence_count;
    size_t word_capacity;
    size_t sentence_capacity;
};

// text must be valid UTF-8.
void prose_scan(const char *text, size_t length, struct prose *out);
void prose_release(struct prose *prose);

// XXH3 of the word in lower case: equal for "Royall" and "royall".
uint64_t prose_word_hash(const char *text, const struct prose_word *word);

// Counts tokens when there is no tokenizer: a run of letters and digits is one token for every
// eight bytes begun, every other character that is not white space is one. About what a byte-level
// BPE makes of English.
size_t prose_count_tokens(void *unused, const char *bytes, size_t length);

#endif
