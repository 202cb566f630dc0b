// SPDX-License-Identifier: Apache-2.0
#include "datasets/answer_score.h"

#include "base/mem.h"
#include "base/strbuf.h"
#include "base/utf8.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static bool is_plain_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void trim(const char **text, size_t *bytes)
{
    while (*bytes > 0 && is_plain_space((*text)[*bytes - 1]))
        --*bytes;
    while (*bytes > 0 && is_plain_space(**text)) {
        ++*text;
        --*bytes;
    }
}

bool answer_is_exact(const char *answer, size_t answer_bytes, const char *expected,
                     size_t expected_bytes)
{
    trim(&answer, &answer_bytes);
    trim(&expected, &expected_bytes);
    return answer_bytes == expected_bytes &&
           (answer_bytes == 0 || memcmp(answer, expected, answer_bytes) == 0);
}

static bool is_space(uint32_t point)
{
    if (point < 0x80)
        return point == ' ' || (point >= '\t' && point <= '\r');
    switch (utf8proc_category((utf8proc_int32_t)point)) {
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return true;
    default:
        return false;
    }
}

static bool is_punctuation(uint32_t point)
{
    return (point >= '!' && point <= '/') || (point >= ':' && point <= '@') ||
           (point >= '[' && point <= '`') || (point >= '{' && point <= '~');
}

// Words end in NUL, one behind the other.
static void add_words(const char *text, size_t bytes, struct strbuf *out)
{
    const size_t begin = out->length;
    for (size_t at = 0, size; at < bytes; at += size) {
        uint32_t point;
        char lower[4];
        size = (size_t)utf8_decode(text + at, bytes - at, &point);
        if (size == 0) { // no character: the byte counts as it is
            size = 1;
            strbuf_addc(out, text[at]);
        } else if (is_space(point) || point == 0) {
            if (out->length > begin && out->bytes[out->length - 1] != '\0')
                strbuf_addc(out, '\0');
        } else if (!is_punctuation(point)) {
            const int count =
                utf8_encode((uint32_t)utf8proc_tolower((utf8proc_int32_t)point), lower);
            strbuf_add(out, lower, (size_t)count);
        }
    }
    if (out->length > begin && out->bytes[out->length - 1] != '\0')
        strbuf_addc(out, '\0');
}

static bool is_article(const char *word)
{
    return strcmp(word, "a") == 0 || strcmp(word, "an") == 0 || strcmp(word, "the") == 0;
}

static int compare_words(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

struct words {
    struct strbuf text;
    const char **items; // ascending
    size_t count;
};

static struct words words_of(const char *text, size_t bytes)
{
    struct words words = {0};
    add_words(text, bytes, &words.text);
    words.items = mem_calloc(words.text.length + 1, sizeof(*words.items));
    for (size_t at = 0; at < words.text.length; at += strlen(words.text.bytes + at) + 1) {
        if (!is_article(words.text.bytes + at))
            words.items[words.count++] = words.text.bytes + at;
    }
    qsort(words.items, words.count, sizeof(*words.items), compare_words);
    return words;
}

static void words_release(struct words *words)
{
    strbuf_release(&words->text);
    free(words->items);
}

static size_t common_words(const struct words *a, const struct words *b)
{
    size_t common = 0;
    for (size_t i = 0, k = 0; i < a->count && k < b->count;) {
        const int order = strcmp(a->items[i], b->items[k]);
        common += order == 0;
        i += order <= 0;
        k += order >= 0;
    }
    return common;
}

double answer_token_f1(const char *answer, size_t answer_bytes, const char *expected,
                       size_t expected_bytes)
{
    struct words a = words_of(answer, answer_bytes), b = words_of(expected, expected_bytes);
    const size_t common = common_words(&a, &b), all = a.count + b.count;
    const double f1 = all == 0 ? 1 : 2.0 * (double)common / (double)all;
    words_release(&a);
    words_release(&b);
    return f1;
}
