// SPDX-License-Identifier: Apache-2.0
// BPE as SentencePiece does it, in the form of tokenizer.json: Gemma, Llama 2 and their kin. Spaces
// are written as U+2581, symbols are characters, and a character without a token falls back to a
// token <0xXX> for each of its bytes. There is no pre-tokenizer.
//
// The normalizer turns spaces into U+2581 and the decoder turns it back, so U+2581 in a text is a
// space to the model. We go the other way: U+2581 becomes a space in vocabulary and text, which
// spares a pass over nearly every text. A token of the file that holds a real space can never be
// reached; it is kept for decoding alone.
//
// BPE would run over a whole document. But when no merge joins the character before a space to that
// space, no symbol ever spans the two, and what is left of the place does not depend on what is
// right of it: cutting there changes nothing and makes words, which repeat.
#include "datasets/tokenizer_internal.h"

#include <string.h>

static const char space_mark[] = "\xE2\x96\x81"; // U+2581
#define SPACE_MARK_BYTES 3

static const char *find_mark(const char *bytes, size_t length)
{
    const char *end = bytes + length;
    for (const char *p = bytes; p < end; p++) {
        p = memchr(p, space_mark[0], (size_t)(end - p));
        if (p == NULL || end - p < SPACE_MARK_BYTES) {
            return NULL;
        }
        if (memcmp(p, space_mark, SPACE_MARK_BYTES) == 0) {
            return p;
        }
    }
    return NULL;
}

static void add_spaces_for_marks(const char *bytes, size_t length, struct strbuf *out)
{
    const char *end = bytes + length;
    for (const char *mark; (mark = find_mark(bytes, (size_t)(end - bytes))) != NULL;) {
        strbuf_add(out, bytes, (size_t)(mark - bytes));
        strbuf_addc(out, ' ');
        bytes = mark + SPACE_MARK_BYTES;
    }
    strbuf_add(out, bytes, (size_t)(end - bytes));
}

bool fallback_normalize(const struct tokenizer *t, const char *bytes, size_t length,
                        struct strbuf *out)
{
    if (length == 0 || (!t->prepend_space && find_mark(bytes, length) == NULL)) {
        return false;
    }
    strbuf_reset(out);
    if (t->prepend_space) {
        strbuf_addc(out, ' ');
    }
    add_spaces_for_marks(bytes, length, out);
    return true;
}

static int hex_digit(char c)
{
    static const char digits[] = "0123456789ABCDEFabcdef";
    const char *at = c == '\0' ? NULL : strchr(digits, c);
    return at == NULL ? -1 : (int)(at - digits) < 16 ? (int)(at - digits) : (int)(at - digits) - 6;
}

// Upper-case digits make the token for a byte; lower-case ones are decoded, but never encoded to.
enum token_kind fallback_decode(const char *text, size_t length, struct strbuf *out)
{
    if (length == 6 && memcmp(text, "<0x", 3) == 0 && text[5] == '>') {
        int high = hex_digit(text[3]);
        int low = hex_digit(text[4]);
        if (high >= 0 && low >= 0) {
            strbuf_addc(out, (char)(high << 4 | low));
            return text[3] < 'a' && text[4] < 'a' ? TOKEN_BYTE : TOKEN_LITERAL;
        }
    }
    add_spaces_for_marks(text, length, out);
    return length == 0 || memchr(text, ' ', length) != NULL ? TOKEN_LITERAL : TOKEN_ENCODED;
}

size_t fallback_cut(const struct tokenizer *t, const char *bytes, size_t length, size_t begin)
{
    for (size_t at = begin + 1; at < length; at++) {
        const char *space = memchr(bytes + at, ' ', length - at);
        if (space == NULL) {
            break;
        }
        at = (size_t)(space - bytes);
        if (!t->joins_space[(unsigned char)bytes[at - 1]]) {
            return at;
        }
    }
    return length;
}

static void index_joins(struct tokenizer *t)
{
    for (size_t i = 0; i < t->merge_count; i++) {
        const struct merge *merge = &t->merges[i];
        if (t->tokens[merge->left].model_kind != TOKEN_ENCODED ||
            t->tokens[merge->right].model_kind != TOKEN_ENCODED) {
            memset(t->joins_space, true, sizeof t->joins_space); // their bytes are not their text
            return;
        }
        const struct token *result = &t->tokens[merge->result];
        const char *bytes = t->bytes.bytes + result->offset;
        for (size_t at = 1; at < result->length; at++) {
            t->joins_space[(unsigned char)bytes[at - 1]] |= bytes[at] == ' ';
        }
    }
}

int fallback_index(struct tokenizer *t, struct error *err)
{
    memset(t->byte_ids, 0xFF, sizeof t->byte_ids); // all -1
    for (size_t id = 0; id < t->token_count; id++) {
        if (t->tokens[id].model_kind == TOKEN_BYTE) {
            t->byte_ids[(unsigned char)t->bytes.bytes[t->tokens[id].offset]] = (int32_t)id;
        }
    }
    for (int byte = 0; byte < 256; byte++) {
        if (t->byte_ids[byte] < 0) {
            return error_set(err,
                             "the vocabulary has no token '<0x%02X>'; with byte_fallback all 256 "
                             "are needed",
                             (unsigned)byte);
        }
    }
    if (bytes_map_get(&t->by_bytes, " ", 1) < 0) {
        return error_set(err, "the vocabulary has no token '%s', which stands for a space",
                         space_mark);
    }
    index_joins(t);
    return 0;
}
