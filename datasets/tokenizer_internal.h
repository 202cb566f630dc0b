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
    TOKEN_ENCODED, // stored in the byte alphabet, as nearly all are
    TOKEN_LITERAL, // text outside the byte alphabet, stored and decoded as it stands
    TOKEN_ADDED,   // found in the text before BPE, and only when asked
};

struct token {
    size_t offset; // of its decoded bytes in tokenizer.bytes
    uint32_t length;
    uint8_t kind;
    bool special;
};

struct added_token {
    int32_t id;
    bool normalized;     // searched in the normalized text instead of the text as given
    struct strbuf match; // what is searched
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
    struct splitter *splitter;
    bool nfc;
    bool ignore_merges; // a pre-token that is a token as a whole is not taken apart

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
    bool added_first[256]; // bytes with which an added token begins
    bool has_normalized_added;
    int32_t eos_id;
    int32_t bos_id;
    int32_t pad_id;
    struct digest digest;
};

struct tokenizer *tokenizer_create_empty(void);
int tokenizer_add_token(struct tokenizer *t, int64_t id, const char *bytes, size_t length,
                        enum token_kind kind, struct error *err);
void tokenizer_add_merge(struct tokenizer *t, int32_t left, int32_t right, int32_t result);

// text may already be an ordinary token with this id; it becomes an added one.
int tokenizer_add_added(struct tokenizer *t, int64_t id, const char *text, size_t length,
                        bool special, bool normalized, struct error *err);

// name is NULL for none; a name that is no added or ordinary token is an error.
int tokenizer_name_special(const struct tokenizer *t, const char *key, const char *name,
                           int32_t *out, struct error *err);

// Needs the splitter and everything else in place. On failure destroy the tokenizer.
int tokenizer_finish(struct tokenizer *t, struct error *err);

// Slot of a pair, or NULL when the pair does not merge.
const struct merge_slot *tokenizer_find_merge(const struct tokenizer *t, int32_t left,
                                              int32_t right);

// Reading and writing the files' text form of a vocabulary: every byte as one printable character.
// (The alphabet is GPT-2's: printable Latin-1 bytes stand for themselves, the 68 others follow in
// order from U+0100.) decode returns false when the text has a character outside the alphabet.
void byte_alphabet_encode(const char *bytes, size_t length, struct strbuf *out);
bool byte_alphabet_decode(const char *text, size_t length, struct strbuf *out);
uint8_t byte_alphabet_nth(int index); // the byte that vocabularies list as number `index`

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
