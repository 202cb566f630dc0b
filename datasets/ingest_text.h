// SPDX-License-Identifier: Apache-2.0
// What happens to the text of one document on its way in. Pure functions.
#ifndef MEMO_DATASETS_INGEST_TEXT_H
#define MEMO_DATASETS_INGEST_TEXT_H

#include "base/arena.h"

#include <stdbool.h>
#include <stddef.h>

#define INGEST_TITLE_CHARACTERS 100 // a first line longer than this is not a title

// In place: a byte order mark at the front goes, CR LF and lone CR become LF. Returns the new
// length.
size_t ingest_normalise(char *text, size_t length);

// A span of the text without empty lines before and white space behind; empty when nothing is left.
struct ingest_span {
    size_t begin;
    size_t end;
};
struct ingest_span ingest_trim(const char *text, struct ingest_span span);

// The work itself inside a Project Gutenberg file, without header, licence and credits; the whole
// span when the text does not have both of Gutenberg's marks. Knows "*** START OF" ... "*** END OF"
// and the older "*END*THE SMALL PRINT" ... "End of this Project Gutenberg Etext". *title becomes
// what the header states, or stays.
struct ingest_span ingest_strip_gutenberg(const char *text, size_t length, struct arena *arena,
                                          const char **title);

// The first "# " heading, or a first line of at most INGEST_TITLE_CHARACTERS that does not end like
// a sentence; NULL otherwise. In Markdown the heading may stand anywhere, elsewhere on the first
// line.
const char *ingest_find_title(const char *text, struct ingest_span span, bool markdown,
                              struct arena *arena);

// One line, single spaces, without marks of emphasis around it.
const char *ingest_clean_title(const char *title, size_t length, struct arena *arena);

#endif
