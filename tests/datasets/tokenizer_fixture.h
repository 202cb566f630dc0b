// SPDX-License-Identifier: Apache-2.0
// What the tests of tokenizers and chat templates share.
#ifndef MEMO_TESTS_TOKENIZER_FIXTURE_H
#define MEMO_TESTS_TOKENIZER_FIXTURE_H

#include "datasets/tokenizer.h"

// Sentences drawn from a small word list, some of it beyond ASCII; the same for the same seed.
void fixture_text(uint64_t seed, size_t bytes, struct strbuf *out);

// Random valid UTF-8 of `characters` characters from many ranges, marks and spaces among them.
void fixture_unicode(uint64_t seed, size_t characters, struct strbuf *out);

// Trained on fixture_text(1, 100,000).
struct tokenizer *fixture_tokenizer(int32_t vocabulary_size);

char *fixture_directory_create(void); // a fresh temporary directory
void fixture_directory_remove(char *directory);
void fixture_write(const char *directory, const char *name, const char *bytes, size_t length);
void fixture_read(const char *directory, const char *name, struct strbuf *out);
void fixture_copy(const char *from, const char *to, const char *name);

void fixture_assert_ids(const char *what, const struct token_list *got, const int32_t *expected,
                        size_t count);

#endif
