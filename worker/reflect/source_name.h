// SPDX-License-Identifier: Apache-2.0
// The names by which a corpus knows a document and a reader of pairs does not: they must not stand
// in a pair.
#ifndef MEMO_WORKER_SOURCE_NAME_H
#define MEMO_WORKER_SOURCE_NAME_H

#include "datasets/corpus.h"

#include <stdbool.h>

// Whether the text holds the document's id or the name of its file, as a whole word. Names that
// could be words of any text (no digit, dot, slash, underscore or hyphen in them, or no letter, or
// fewer than 5 characters) are not looked for.
bool source_name_in(const struct corpus_document *document, const char *text);

#endif
