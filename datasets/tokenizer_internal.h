// SPDX-License-Identifier: Apache-2.0
// The inside of a tokenizer, for its own files and the trainer. A tokenizer is built by creating an
// empty one, adding tokens and merges in order, and finishing it; after that it never changes.
#ifndef MEMO_DATASETS_TOKENIZER_INTERNAL_H
#define MEMO_DATASETS_TOKENIZER_INTERNAL_H

#include "datasets/tokenizer.h"
#include "datasets/tokenizer_map.h"
#include "datasets/tokenizer_split.h"

#define TOKENIZER_MAX_TOKENS (1 << 22) // sixteen times the largest vocabulary in use

enum token_kind {
    TOKEN_ABSENT,  // a gap between ids
    TOKEN_ENCODED, // stored in the file's alphabet (of bytes, or with U+2581), as nearly all are
    TOKEN_LITERAL, // text outside that alphabet, which BPE never meets
    TOKEN_BYTE,    // <0x0A>: a byte of a character without a token
    TOKEN_ADDED,   // found in the text before BPE
};

struct token {
    size_t offset; // of its decoded bytes in tokenizer.bytes
    uint32_t length;
    uint8_t kind;
    uint8_t model_kind; // in the model's vocabulary: kind, but for an added token the one it had
    bool special;
};

struct added_rule {
    bool special;     // found only when asked
    bool normalized;  // searched in the normalized text instead of the text as given
    bool lstrip;      // takes the white space before it along
    bool rstrip;      // and behind it
    bool single_word; // not beside a letter, mark, digit or underscore
};

struct added_token {
    int32_t id;
    struct added_rule rule;
    struct strbuf content; // as the file has it
    struct strbuf match;   // what is searched
};

// The added tokens that are searched at one stage: by text, and the lengths worth trying.
struct added_index {
    struct bytes_map by_match; // to places in tokenizer.added
    uint32_t *lengths;         // those of one first byte together, longest first
    size_t capacity;
    size_t first[257]; // of the lengths for a first byte
};

struct merge {
    int32_t left;
    int32_t right;
    int32_t result;
};

struct merge_slot {
    uint64_t pair; // left << 32 | right, or MERGE_NONE
    uint32_t rank; // lower merges first
    int32_t result;
};
#define MERGE_NONE UINT64_MAX

struct tokenizer {
    struct splitter *splitter; // NULL with byte_fallback
    bool nfc;
    bool byte_fallback;     // the SentencePiece kind: see tokenizer_fallback.c
    bool prepend_space;     // to every stretch of text; byte_fallback only
    bool strip_first_space; // of what is decoded; byte_fallback only
    bool ignore_merges;     // a pre-token that is a token as a whole is not taken apart

    struct token *tokens;
    size_t token_count; // highest id + 1
    size_t token_capacity;
    struct strbuf bytes;
    struct merge *merges; // by rank
    size_t merge_count;
    size_t merge_capacity;
    struct added_token *added; // in the order of ids; after finish, longest first
    size_t added_count;
    size_t added_capacity;

    // Derived by tokenizer_finish.
    struct bytes_map by_bytes;      // of the encoded tokens
    struct merge_slot *merge_slots; // open addressing, a power of two
    uint64_t merge_mask;
    int32_t byte_ids[256];
    bool joins_space[256]; // a merge joins a character that ends in this byte to a space behind it
    struct added_index added_index[2]; // for the text as given, and normalized
    int32_t eos_id;
    int32_t bos_id;
    int32_t pad_id;
    struct digest digest;
};

struct tokenizer *tokenizer_create_empty(void);
struct token *tokenizer_reserve_token(struct tokenizer *t, int64_t id, struct error *err);
int tokenizer_add_token(struct tokenizer *t, int64_t id, const char *bytes, size_t length,
                        enum token_kind kind, struct error *err);
void tokenizer_add_merge(struct tokenizer *t, int32_t left, int32_t right, int32_t result);

// text may already be an ordinary token with this id; it becomes an added one.
int tokenizer_add_added(struct tokenizer *t, int64_t id, const char *text, size_t length,
                        struct added_rule rule, struct error *err);

// name is NULL for none; a name that is no added or ordinary token is an error.
int tokenizer_name_special(const struct tokenizer *t, const char *key, const char *name,
                           int32_t *out, struct error *err);

// Needs the splitter and everything else in place. On failure destroy the tokenizer.
int tokenizer_finish(struct tokenizer *t, struct error *err);

// The text as BPE sees it: false when that is the text itself, else out's content is replaced.
struct nfc_scratch;
bool tokenizer_normalize(const struct tokenizer *t, struct nfc_scratch *scratch, const char *bytes,
                         size_t length, struct strbuf *out);

// Slot of a pair, or NULL when the pair does not merge.
const struct merge_slot *tokenizer_find_merge(const struct tokenizer *t, int32_t left,
                                              int32_t right);

// Reading and writing the files' text form of a vocabulary: every byte as one printable character.
// (The alphabet is GPT-2's: printable Latin-1 bytes stand for themselves, the 68 others follow in
// order from U+0100.) decode returns false when the text has a character outside the alphabet.
void byte_alphabet_encode(const char *bytes, size_t length, struct strbuf *out);
bool byte_alphabet_decode(const char *text, size_t length, struct strbuf *out);
uint8_t byte_alphabet_nth(int index); // the byte that vocabularies list as number `index`

// The SentencePiece kind (tokenizer_fallback.c). decode appends what a token of the file stands
// for and says which kind it is; cut gives where the piece that begins at `begin` ends.
enum token_kind fallback_decode(const char *text, size_t length, struct strbuf *out);
bool fallback_normalize(const struct tokenizer *t, const char *bytes, size_t length,
                        struct strbuf *out);
size_t fallback_cut(const struct tokenizer *t, const char *bytes, size_t length, size_t begin);
int fallback_index(struct tokenizer *t, struct error *err);

// Added tokens (tokenizer_added.c).
struct added_match {
    const struct added_token *added; // NULL: no more
    size_t begin;                    // of the text that it takes
    size_t end;
    size_t next; // where the search goes on
};
void added_index_build(struct tokenizer *t);
void added_index_release(struct tokenizer *t);

// The next added token of a stage in bytes[from..length); text before `done` is encoded already.
struct added_match added_find(const struct tokenizer *t, bool normalized, bool allow_special,
                              const char *bytes, size_t length, size_t from, size_t done);

// Unicode normalization form C of valid UTF-8. Returns false when the text is in that form already,
// and then leaves out alone; otherwise replaces out's content. Linear but for the sorting of
// combining marks, which is n log n.
struct nfc_scratch {
    int32_t *points;
    size_t capacity;
    uint64_t *marks;
    size_t mark_capacity;
};
bool nfc_normalize(struct nfc_scratch *scratch, const char *bytes, size_t length,
                   struct strbuf *out);
void nfc_scratch_release(struct nfc_scratch *scratch);

#endif
