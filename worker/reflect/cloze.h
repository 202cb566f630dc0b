// SPDX-License-Identifier: Apache-2.0
// The generator without a model: cloze_pairs.h behind generator.h. Deterministic and instant; the
// seed changes nothing.
#ifndef MEMO_WORKER_CLOZE_H
#define MEMO_WORKER_CLOZE_H

#include "worker/reflect/cloze_pairs.h"
#include "worker/reflect/generator.h"

// A sentence belongs to one chunk alone: the one in whose bytes it begins behind the end of the
// chunk before (the overlap belongs to the earlier chunk). What it asks depends on the whole
// document, so that the chunks of a document together give exactly its pairs, each once.
struct generator *cloze_create(const struct cloze_options *options);

// The name by which questions call a document: its title; a long one up to its first comma or cut
// between words, if that is no other document's; titles that two documents share get the first
// digits of the document's digest.
#define CLOZE_TITLE_BYTES 60

// Names of all documents, allocated in the arena. [document_count]
const char **cloze_document_names(const struct corpus *corpus, struct arena *arena);

#endif
