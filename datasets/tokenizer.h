// SPDX-License-Identifier: Apache-2.0
// BPE tokenizers as Hugging Face stores them: byte-level ones (the GPT-2, Qwen 2 and 3, Llama 3 and
// LFM2 kinds) and those of SentencePiece with byte fallback (the Gemma and Llama 2 kinds). A
// tokenizer is immutable once loaded: any number of threads may encode and decode with the same
// one, each with its own scratch.
#ifndef MEMO_DATASETS_TOKENIZER_H
#define MEMO_DATASETS_TOKENIZER_H

#include "base/error.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/strbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;
struct tokenizer_scratch;

// A growing list of token ids. Zero-initialise.
struct token_list {
    int32_t *ids;
    size_t count;
    size_t capacity;
};

void token_list_release(struct token_list *list);
void token_list_add(struct token_list *list, int32_t id);

// Reads tokenizer.json, or, where that is absent, vocab.json and merges.txt (whose pre-tokenizer
// follows from tokenizer_class in tokenizer_config.json, and whose added tokens from there or from
// added_tokens.json). The names of the special tokens come from tokenizer_config.json when there is
// one. A kind of tokenizer that we do not implement exactly is
// an error.
int tokenizer_load(const char *model_dir, struct tokenizer **out, struct error *err);
void tokenizer_destroy(struct tokenizer *tokenizer);

// The same from the bytes of tokenizer.json and tokenizer_config.json; config may be NULL.
int tokenizer_parse(const char *json, size_t json_bytes, const char *config, size_t config_bytes,
                    struct tokenizer **out, struct error *err);

// Writes tokenizer.json, tokenizer_config.json and generation_config.json (the tokens that end an
// answer) into an existing directory, in the form that the
// Python packages `tokenizers` and `transformers` read, with a ChatML template. Meant for
// tokenizers of our own making; the files of a downloaded one carry more and are better copied. One
// with byte fallback is an error.
int tokenizer_save(const struct tokenizer *tokenizer, struct fs *fs, const char *model_dir,
                   struct error *err);

// Buffers and a cache of short words (about 1 MB) for encoding. A scratch serves one thread at a
// time and only the tokenizer it was created for, which must outlive it.
struct tokenizer_scratch *tokenizer_scratch_create(const struct tokenizer *tokenizer);
void tokenizer_scratch_destroy(struct tokenizer_scratch *scratch);

// Appends the ids of text. The text of a special token ("<|im_end|>") is ordinary text unless
// allow_special; added tokens that are not special, such as Gemma's runs of line breaks or Qwen's
// <think>, are found in any text, as by Python's `tokenizers`. No token is put in front or behind.
// With scratch NULL one is made for the call, which suits a single call only. Invalid UTF-8 is an
// error that names the byte offset; out then keeps the count it had.
int tokenizer_encode(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                     const char *bytes, size_t length, bool allow_special, struct token_list *out,
                     struct error *err);

// The same for text that stands right behind other text, without special tokens: a tokenizer that
// puts a space in front of every text (the Llama 2 kind) puts none in front of this one.
int tokenizer_encode_continued(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                               const char *bytes, size_t length, struct token_list *out,
                               struct error *err);

// Appends the bytes of the tokens, special ones included. The result of any ids is not always valid
// UTF-8. An id outside the vocabulary is an error; out then keeps the length it had.
int tokenizer_decode(const struct tokenizer *tokenizer, const int32_t *ids, size_t count,
                     struct strbuf *out, struct error *err);

// Decoding token by token: a character is appended once all its bytes are there, so what has been
// appended never ends inside a character. Bytes that belong to no character pass as they are. All
// that is appended equals tokenizer_decode of the same ids. Zero-initialise.
struct tokenizer_stream {
    char pending[4];
    int pending_bytes;
    bool begun;
};
int tokenizer_stream_add(struct tokenizer_stream *stream, const struct tokenizer *tokenizer,
                         int32_t id, struct strbuf *out, struct error *err);
void tokenizer_stream_end(struct tokenizer_stream *stream, struct strbuf *out);

// Highest id + 1. A model's embedding may have more rows than that.
int32_t tokenizer_vocabulary_size(const struct tokenizer *tokenizer);

// The id of the added token with this text or, without one, of the ordinary token whose decoded
// bytes these are. -1 when there is none.
int32_t tokenizer_token_id(const struct tokenizer *tokenizer, const char *text, size_t length);

// The decoded bytes of a token, not NUL-terminated; NULL when no token has this id.
const char *tokenizer_token_bytes(const struct tokenizer *tokenizer, int32_t id, size_t *length);

// True for added tokens marked special, such as <|im_end|>; false for ids without a token.
bool tokenizer_token_is_special(const struct tokenizer *tokenizer, int32_t id);

// True for every added token, special or not: text that is cut out before BPE.
bool tokenizer_token_is_added(const struct tokenizer *tokenizer, int32_t id);

int32_t tokenizer_eos_id(const struct tokenizer *tokenizer); // each -1 when none is named
int32_t tokenizer_bos_id(const struct tokenizer *tokenizer);
int32_t tokenizer_pad_id(const struct tokenizer *tokenizer);

// Identity of content: equal for two tokenizers that encode and decode alike by construction,
// whichever files they came from.
struct digest tokenizer_digest(const struct tokenizer *tokenizer);

#endif
