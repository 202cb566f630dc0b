// SPDX-License-Identifier: Apache-2.0
// What is left of a text when everything is taken away that does not tell two questions or two
// names apart: compatibility composition and case folding (Unicode, NFKC), punctuation and controls
// to spaces, words separated by one space. "Who was  NAN CORRIGLE?" has the key "who was nan
// corrigle".
#ifndef MEMO_DATASETS_TEXT_KEY_H
#define MEMO_DATASETS_TEXT_KEY_H

#include "base/strbuf.h"

#include <stdbool.h>
#include <stddef.h>

// Appends the key of valid UTF-8, which may hold NULs.
void text_key_add(const char *text, size_t bytes, struct strbuf *out);

// Whether nothing is left of the text. Reads no further than the first character that counts.
bool text_key_is_empty(const char *text, size_t bytes);

// Whether the words of one key stand in another, whole and in this order: "corrigle" is in "nan
// corrigle", "corri" is not. In scripts that write no spaces, any place will do. Both keys end in
// NUL; an empty needle is in nothing.
bool text_key_contains(const char *key, const char *needle);

#endif
