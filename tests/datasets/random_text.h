// SPDX-License-Identifier: Apache-2.0
// Random UTF-8 of several kinds, for properties that must hold of any text. For tests only.
#ifndef MEMO_TESTS_DATASETS_RANDOM_TEXT_H
#define MEMO_TESTS_DATASETS_RANDOM_TEXT_H

#include "base/random.h"
#include "base/strbuf.h"
#include "base/utf8.h"

// At least `bytes` bytes of valid UTF-8 without NULs: words, sentences, paragraphs and marks, and
// now and then a character of any script.
static inline void random_text(uint64_t seed, size_t bytes, struct strbuf *out)
{
    static const char *const parts[] = {
        " ",         " ",
        " ",         "\n",
        "\n\n",      ". ",
        "! ",        "? ",
        ", ",        "the ",
        "Diana",     "house",
        "Mr.",       "1871",
        "14 March ", "\"",
        "'s",        "-",
        "_",         "—",
        "ß",         "שלום",
        "世界",      "。",
        "مرحبا",     "\xf0\x9f\x98\x80",
        "e\xcc\x81", "...",
        "…",         "A. ",
    };
    uint64_t counter = 0;
    while (out->length < bytes) {
        uint64_t value = random_u64(seed, 1, counter++);
        if (value % 8 == 0) {
            char encoded[4];
            uint32_t code = (uint32_t)(value >> 8) % 0x110000;
            strbuf_add(out, encoded, code == 0 ? 0 : (size_t)utf8_encode(code, encoded));
        } else if (value % 8 < 3) {
            strbuf_addc(out, (char)('a' + (value >> 8) % 26));
        } else {
            strbuf_adds(out, parts[(value >> 8) % (sizeof parts / sizeof *parts)]);
        }
    }
}

#endif
