// SPDX-License-Identifier: Apache-2.0
// Added tokens: construction, and finding them in text as Hugging Face's `tokenizers` finds them:
// from the left, at each place the longest; a match that its rules turn down is passed over as a
// whole.
#include "datasets/tokenizer_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static void set_match(struct tokenizer *t, struct added_token *added, const char *text,
                      size_t length)
{
    struct nfc_scratch scratch = {0};
    if (!added->rule.normalized || !tokenizer_normalize(t, &scratch, text, length, &added->match)) {
        strbuf_add(&added->match, text, length);
    }
    nfc_scratch_release(&scratch);
}

// Appends what an added token decodes to. With byte_fallback the decoder sees its text as that of
// any other token; and of a normalized one the normalized text, as in `tokenizers`.
static void add_decoded(struct tokenizer *t, const char *text, size_t length)
{
    if (t->byte_fallback) {
        fallback_decode(text, length, &t->bytes);
    } else {
        strbuf_add(&t->bytes, text, length);
    }
}

// The id must be free, or that of an ordinary token with the same text.
static int check_id(struct tokenizer *t, int64_t id, const char *text, size_t length,
                    struct error *err)
{
    const struct token *token = tokenizer_reserve_token(t, id, err);
    if (token == NULL) {
        return -1;
    }
    size_t offset = t->bytes.length;
    add_decoded(t, text, length);
    size_t decoded = t->bytes.length - offset;
    const char *bytes = t->bytes.bytes;
    t->bytes.length = offset;
    bool same =
        token->length == decoded && memcmp(bytes + token->offset, bytes + offset, decoded) == 0;
    if (token->kind != TOKEN_ABSENT && (!same || token->kind == TOKEN_ADDED)) {
        return error_set(err, "added token '%.*s' has id %lld, which belongs to '%.*s'",
                         (int)length, text, (long long)id, (int)token->length,
                         bytes + token->offset);
    }
    return 0;
}

int tokenizer_add_added(struct tokenizer *t, int64_t id, const char *text, size_t length,
                        struct added_rule rule, struct error *err)
{
    if (length == 0) {
        return error_set(err, "added token %lld has no text", (long long)id);
    }
    if (check_id(t, id, text, length, err) != 0) {
        return -1;
    }
    if (t->added_count == t->added_capacity) {
        t->added = mem_grow(t->added, &t->added_capacity, t->added_count + 1, sizeof *t->added);
    }
    struct added_token *added = &t->added[t->added_count++];
    *added = (struct added_token){.id = (int32_t)id, .rule = rule};
    strbuf_add(&added->content, text, length);
    set_match(t, added, text, length);
    const struct strbuf *shown = t->byte_fallback ? &added->match : &added->content;
    size_t offset = t->bytes.length;
    add_decoded(t, shown->bytes, shown->length);
    t->tokens[id] = (struct token){.offset = offset,
                                   .length = (uint32_t)(t->bytes.length - offset),
                                   .kind = TOKEN_ADDED,
                                   .model_kind = t->tokens[id].model_kind,
                                   .special = rule.special};
    return 0;
}

static int compare_added(const void *a, const void *b)
{
    const struct added_token *x = a;
    const struct added_token *y = b;
    if (x->match.length != y->match.length) {
        return x->match.length < y->match.length ? 1 : -1;
    }
    return (x->id > y->id) - (x->id < y->id);
}

// Of two tokens with the same text the special one counts, then the one of the lower id.
static void insert_matches(struct tokenizer *t, bool normalized, bool special)
{
    struct bytes_map *map = &t->added_index[normalized].by_match;
    for (size_t i = 0; i < t->added_count; i++) {
        const struct added_token *added = &t->added[i];
        bool inserted;
        if (added->rule.normalized == normalized && added->rule.special == special) {
            bytes_map_insert(map, added->match.bytes, added->match.length, (int32_t)i, &inserted);
        }
    }
}

static size_t list_lengths(const struct tokenizer *t, bool normalized, int first,
                           struct added_index *index, size_t count)
{
    size_t last = 0;
    for (size_t i = 0; i < t->added_count; i++) {
        const struct added_token *added = &t->added[i];
        if (added->rule.normalized != normalized || added->match.length == last ||
            (unsigned char)added->match.bytes[0] != first) {
            continue;
        }
        if (count == index->capacity) {
            index->lengths =
                mem_grow(index->lengths, &index->capacity, count + 1, sizeof *index->lengths);
        }
        last = added->match.length;
        index->lengths[count++] = (uint32_t)last;
    }
    return count;
}

void added_index_build(struct tokenizer *t)
{
    if (t->added_count > 1) {
        qsort(t->added, t->added_count, sizeof *t->added, compare_added);
    }
    for (int normalized = 0; normalized < 2; normalized++) {
        struct added_index *index = &t->added_index[normalized];
        size_t count = 0;
        insert_matches(t, normalized, true);
        insert_matches(t, normalized, false);
        for (int first = 0; first < 256; first++) {
            index->first[first] = count;
            count = list_lengths(t, normalized, first, index, count);
        }
        index->first[256] = count;
    }
}

void added_index_release(struct tokenizer *t)
{
    for (int normalized = 0; normalized < 2; normalized++) {
        bytes_map_release(&t->added_index[normalized].by_match);
        free(t->added_index[normalized].lengths);
    }
}

static const struct added_token *longest_at(const struct tokenizer *t,
                                            const struct added_index *index, const char *bytes,
                                            size_t left)
{
    unsigned char first = (unsigned char)*bytes;
    for (size_t i = index->first[first]; i < index->first[first + 1]; i++) {
        size_t length = index->lengths[i];
        int32_t found = length <= left ? bytes_map_get(&index->by_match, bytes, length) : -1;
        if (found >= 0) {
            return &t->added[found];
        }
    }
    return NULL;
}

// Unicode's White_Space. In the normalized text of the SentencePiece kind a space stands for
// U+2581, which is none.
static bool is_space(const struct tokenizer *t, bool normalized, uint32_t point)
{
    if (point == ' ') {
        return !(normalized && t->byte_fallback);
    }
    return (point >= 0x9 && point <= 0xD) || point == 0x85 || point == 0xA0 || point == 0x1680 ||
           (point >= 0x2000 && point <= 0x200A) || point == 0x2028 || point == 0x2029 ||
           point == 0x202F || point == 0x205F || point == 0x3000;
}

// \w of Rust's regex: letters and other alphabetic characters, marks, decimal digits, connectors
// and joiners.
static bool is_word(uint32_t point)
{
    bool circled = (point >= 0x24B6 && point <= 0x24E9) || (point >= 0x1F130 && point <= 0x1F149) ||
                   (point >= 0x1F150 && point <= 0x1F169) || (point >= 0x1F170 && point <= 0x1F189);
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)point);
    return circled || point == 0x200C || point == 0x200D || category == UTF8PROC_CATEGORY_PC ||
           (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_NL);
}

static size_t character_before(const char *bytes, size_t at)
{
    do {
        at--;
    } while (at > 0 && ((unsigned char)bytes[at] & 0xC0) == 0x80);
    return at;
}

static bool stands_alone(const char *bytes, size_t length, size_t begin, size_t end)
{
    uint32_t point;
    if (begin > 0) {
        size_t before = character_before(bytes, begin);
        utf8_decode(bytes + before, begin - before, &point);
        if (is_word(point)) {
            return false;
        }
    }
    if (end < length) {
        utf8_decode(bytes + end, length - end, &point);
        return !is_word(point);
    }
    return true;
}

// Widens a match by the white space around it that its rules ask for, on the left not beyond done.
static void take_spaces(const struct tokenizer *t, bool normalized, const char *bytes,
                        size_t length, size_t done, struct added_match *match)
{
    uint32_t point;
    while (match->added->rule.lstrip && match->begin > done) {
        size_t before = character_before(bytes, match->begin);
        utf8_decode(bytes + before, match->begin - before, &point);
        if (!is_space(t, normalized, point)) {
            break;
        }
        match->begin = before;
    }
    while (match->added->rule.rstrip && match->end < length) {
        size_t size = (size_t)utf8_decode(bytes + match->end, length - match->end, &point);
        if (!is_space(t, normalized, point)) {
            break;
        }
        match->end += size;
    }
}

struct added_match added_find(const struct tokenizer *t, bool normalized, bool allow_special,
                              const char *bytes, size_t length, size_t from, size_t done)
{
    const struct added_index *index = &t->added_index[normalized];
    for (size_t at = index->first[256] > 0 ? from : length; at < length;) {
        const struct added_token *added = longest_at(t, index, bytes + at, length - at);
        if (added == NULL) {
            at++;
            continue;
        }
        size_t end = at + added->match.length;
        if ((allow_special || !added->rule.special) &&
            (!added->rule.single_word || stands_alone(bytes, length, at, end))) {
            struct added_match match = {.added = added, .begin = at, .end = end, .next = end};
            take_spaces(t, normalized, bytes, length, done, &match);
            return match;
        }
        at = end;
    }
    return (struct added_match){.begin = length, .end = length, .next = length};
}
