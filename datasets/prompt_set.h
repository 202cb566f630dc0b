// SPDX-License-Identifier: Apache-2.0
// The texts from which the reflection steps put their prompts together (datasets/prompts/README.md
// says what each is for). The built-in set is compiled in; a directory overrides it file by file.
#ifndef MEMO_DATASETS_PROMPT_SET_H
#define MEMO_DATASETS_PROMPT_SET_H

#include "base/error.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/strbuf.h"

#include <stddef.h>

enum prompt {
    PROMPT_SYSTEM,
    PROMPT_DOCUMENT, // with the places {{title}}, {{date}} and {{text}}
    PROMPT_DIRECT,
    PROMPT_INDIRECT,
    PROMPT_CONSOLIDATE,
    PROMPT_JUDGE,
    PROMPT_REWRITE,
    PROMPT_ENTITIES,
    PROMPT_LOOKUP,
    PROMPT_CROSS,
    PROMPT_CONTINUE,
};
#define PROMPT_COUNT 11

struct prompt_text {
    const char *text; // UTF-8, a NUL follows
    size_t bytes;
};

struct prompt_set {
    struct prompt_text texts[PROMPT_COUNT];
    struct digest digest; // of all of them
    void *memory;
};

// directory NULL: the built-in set. Otherwise the directory's system.txt, direct.txt, ... take the
// place of the built-in ones; a .txt file of another name is an error, so is a directory without
// any, an empty file, one that is not UTF-8, and a document.txt without {{text}}.
int prompt_set_open(struct fs *fs, const char *directory, struct prompt_set *out,
                    struct error *err);
void prompt_set_close(struct prompt_set *set);

const char *prompt_name(enum prompt prompt); // "direct"

struct prompt_document {
    const char *title;
    const char *date;
    const char *text; // of the chunk
    size_t bytes;
};

// Appends the document part. What stands in the document's own text is never taken for a place.
void prompt_set_add_document(const struct prompt_set *set, const struct prompt_document *document,
                             struct strbuf *out);

#endif
