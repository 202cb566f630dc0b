// SPDX-License-Identifier: Apache-2.0
#include "datasets/text_key.h"

#include "base/utf8.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static bool is_separator(uint32_t point)
{
    switch (utf8proc_category((utf8proc_int32_t)point)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
        return true;
    default:
        return false;
    }
}

static void add_words(const char *text, size_t bytes, struct strbuf *out)
{
    const size_t start = out->length;
    bool space = false;
    for (size_t at = 0; at < bytes;) {
        uint32_t point;
        const int size = utf8_decode(text + at, bytes - at, &point);
        if (size == 0) {
            return;
        }
        if (is_separator(point)) {
            space = true;
        } else {
            if (space && out->length > start) {
                strbuf_addc(out, ' ');
            }
            space = false;
            strbuf_add(out, text + at, (size_t)size);
        }
        at += (size_t)size;
    }
}

void text_key_add(const char *text, size_t bytes, struct strbuf *out)
{
    utf8proc_uint8_t *folded = NULL;
    const utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &folded,
                     UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT | UTF8PROC_CASEFOLD);
    strbuf_reserve(out, 1); // a key is never NULL
    if (length >= 0) {
        add_words((const char *)folded, (size_t)length, out);
    } else {
        add_words(text, bytes, out);
    }
    free(folded);
}

bool text_key_is_empty(const char *text, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        uint32_t point;
        const int size = utf8_decode(text + at, bytes - at, &point);
        if (size == 0 || !is_separator(point)) {
            return false;
        }
        at += (size_t)size;
    }
    return true;
}

// Scripts without spaces between words: Thai to Khmer, Chinese, Japanese, and Korean, whose
// particles are joined to the word.
static bool is_unspaced(const char *at, const char *end)
{
    uint32_t point;
    if (utf8_decode(at, (size_t)(end - at), &point) == 0) {
        return false;
    }
    return (point >= 0x0E00 && point < 0x1100) || (point >= 0x1780 && point < 0x1800) ||
           (point >= 0x2E80 && point < 0xD7B0) || (point >= 0x20000 && point < 0x40000);
}

static const char *last_character(const char *begin, const char *end)
{
    do {
        end--;
    } while (end > begin && ((uint8_t)*end & 0xC0) == 0x80);
    return end;
}

bool text_key_contains(const char *key, const char *needle)
{
    const size_t length = strlen(needle);
    if (length == 0) {
        return false;
    }
    const bool free_begin = is_unspaced(needle, needle + length);
    const bool free_end = is_unspaced(last_character(needle, needle + length), needle + length);
    for (const char *at = strstr(key, needle); at; at = strstr(at + 1, needle)) {
        const bool begins = at == key || at[-1] == ' ' || free_begin;
        const bool ends = at[length] == '\0' || at[length] == ' ' || free_end;
        if (begins && ends) {
            return true;
        }
    }
    return false;
}
