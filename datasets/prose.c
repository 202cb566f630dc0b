// SPDX-License-Identifier: Apache-2.0
#include "datasets/prose.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define TOKEN_BYTES 8 // longest word that counts as one token

enum class {
    CLASS_SPACE,
    CLASS_LOWER,
    CLASS_UPPER,
    CLASS_LETTER, // without case, and marks
    CLASS_DIGIT,
    CLASS_OPEN,  // quotes and brackets that open
    CLASS_CLOSE, // and that close; '"' and '\'' may do either
    CLASS_STOP,  // . ! ? …
    CLASS_OTHER,
};

static enum class classify_ascii(uint32_t c) { if (c >= 'a' && c <= 'z'){return CLASS_LOWER;}
if (c >= 'A' && c <= 'Z')
{
    return CLASS_UPPER;
}
if (c >= '0' && c <= '9') {
    return CLASS_DIGIT;
}
if (c == ' ' || (c >= '\t' && c <= '\r')) {
    return CLASS_SPACE;
}
switch (c) {
case '.':
case '!':
case '?':
    return CLASS_STOP;
case '(':
case '[':
    return CLASS_OPEN;
case '"':
case '\'':
case ')':
case ']':
case '_':
case '*':
    return CLASS_CLOSE;
default:
    return CLASS_OTHER;
}
}

static enum class classify(uint32_t c) { if (c < 0x80){return classify_ascii(c);}
if (c == 0x2026 || c == 0x3002 || c == 0xff01 || c == 0xff1f || c == 0x061f || c == 0x06d4 ||
    c == 0x0964)
{ // … and the full stops and marks of Chinese, Arabic, Urdu, Hindi
    return CLASS_STOP;
}
switch (utf8proc_category((utf8proc_int32_t)c)) {
case UTF8PROC_CATEGORY_LL:
    return CLASS_LOWER;
case UTF8PROC_CATEGORY_LU:
case UTF8PROC_CATEGORY_LT:
    return CLASS_UPPER;
case UTF8PROC_CATEGORY_LM:
case UTF8PROC_CATEGORY_LO:
case UTF8PROC_CATEGORY_MN:
case UTF8PROC_CATEGORY_MC:
    return CLASS_LETTER;
case UTF8PROC_CATEGORY_ND:
    return CLASS_DIGIT;
case UTF8PROC_CATEGORY_PI:
case UTF8PROC_CATEGORY_PS:
    return CLASS_OPEN;
case UTF8PROC_CATEGORY_PF:
case UTF8PROC_CATEGORY_PE:
    return CLASS_CLOSE;
case UTF8PROC_CATEGORY_ZS:
case UTF8PROC_CATEGORY_ZL:
case UTF8PROC_CATEGORY_ZP:
    return CLASS_SPACE;
default:
    return CLASS_OTHER;
}
}

static bool is_letter(enum class c)
{
    return c == CLASS_LOWER || c == CLASS_UPPER || c == CLASS_LETTER;
}

static bool is_word(enum class c)
{
    return is_letter(c) || c == CLASS_DIGIT;
}

struct scanner {
    const char *text;
    size_t length;
    size_t at;
    struct prose *out;
    size_t sentence_begin;      // SIZE_MAX between sentences
    size_t sentence_first_word; // index
    size_t last_visible;        // end of the last character that is not white space
    bool terminated;
    bool after_open; // the character before was an opening quote or bracket
};

// Class of the character at `at`, and its size; CLASS_SPACE of size 0 at the end.
static enum class peek(const struct scanner *s, size_t at, int *size, uint32_t *code) {
        *size = 0; *code = 0; if (at >= s->length){return CLASS_SPACE;}
uint8_t byte = (uint8_t)s->text[at];
if (byte < 0x80) {
    *size = 1;
    *code = byte;
    return classify_ascii(byte);
}
*size = utf8_decode(s->text + at, s->length - at, code);
if (*size == 0) { // not UTF-8: the caller's mistake, but no reason to hang
    *size = 1;
    return CLASS_OTHER;
}
return classify(*code);
}

static bool is_apostrophe(uint32_t code)
{
    return code == '\'' || code == 0x2019;
}

// A joint is a character inside a word: "don't", "well-known", "3.14", "1,200", "9:30".
static bool is_joint(uint32_t code, enum class before, enum class after)
{
    if (is_letter(before) && is_letter(after)) {
        return is_apostrophe(code) || code == '-' || code == 0x2010;
    }
    if (before == CLASS_DIGIT && after == CLASS_DIGIT) {
        return code == '.' || code == ',' || code == ':';
    }
    return is_word(before) && is_word(after) && code == '-';
}

static bool is_possessive(const struct scanner *s, size_t at, int joint_size)
{
    int size = 0;
    uint32_t code = 0;
    size_t letter = at + (size_t)joint_size;
    if (letter >= s->length || (s->text[letter] != 's' && s->text[letter] != 'S')) {
        return false;
    }
    return !is_word(peek(s, letter + 1, &size, &code));
}

static void scan_word(struct scanner *s)
{
    struct prose_word word = {.begin = s->at};
    word.lead = s->after_open || s->out->word_count == s->sentence_first_word;
    size_t letters = 0, lower = 0;
    int size = 0;
    uint32_t code = 0;
    enum class before = peek(s, s->at, &size, &code);
    word.capital = before == CLASS_UPPER;
    word.number = before == CLASS_DIGIT;
    for (;;) {
        letters += is_letter(before);
        lower += before == CLASS_LOWER;
        word.letters++;
        s->at += (size_t)size;
        enum class next = peek(s, s->at, &size, &code);
        if (!is_word(next)) {
            int after_size = 0;
            uint32_t after_code = 0;
            enum class after = peek(s, s->at + (size_t)size, &after_size, &after_code);
            if (size == 0 || !is_joint(code, before, after)) {
                word.end = s->at;
                break;
            }
            if (is_apostrophe(code) && is_possessive(s, s->at, size)) {
                word.end = s->at;
                s->at += (size_t)size + 1; // and the s
                break;
            }
            word.letters++;
            s->at += (size_t)size;
            size = after_size;
            next = after;
        }
        before = next;
    }
    word.shouted = letters >= 2 && lower == 0;
    struct prose *out = s->out;
    out->words = mem_grow(out->words, &out->word_capacity, out->word_count + 1, sizeof *out->words);
    out->words[out->word_count++] = word;
}

// Without the point. Lower case; what may well end a sentence ("etc.") is not here.
static const char *const abbreviations[] = {
    "adm",   "apr", "art",  "aug", "ave",    "bros", "brig", "capt", "cf",  "ch",   "chap", "cmdr",
    "co",    "col", "comm", "cpl", "dec",    "dept", "det",  "dr",   "e.g", "eg",   "ed",   "esq",
    "feb",   "fig", "figs", "fr",  "gen",    "gov",  "hon",  "i.e",  "ie",  "insp", "jan",  "jr",
    "lieut", "lt",  "maj",  "mar", "messrs", "mlle", "mme",  "mr",   "mrs", "ms",   "mt",   "mts",
    "nov",   "oct", "op",   "pp",  "prof",   "pvt",  "rep",  "rev",  "sec", "sen",  "sept", "sergt",
    "sgt",   "sr",  "st",   "ste", "supt",   "viz",  "vol",  "vols", "vs",
};

static bool is_abbreviation(const char *word, size_t length)
{
    char lower[8];
    if (length >= sizeof lower) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        char c = word[i];
        lower[i] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    }
    for (size_t i = 0; i < sizeof abbreviations / sizeof *abbreviations; i++) {
        if (strlen(abbreviations[i]) == length && memcmp(abbreviations[i], lower, length) == 0) {
            return true;
        }
    }
    return false;
}

// Whether the point at `at` belongs to the word before it. `next` is what the text goes on with.
static bool point_is_inside(const struct scanner *s, size_t at, enum class next)
{
    if (s->out->word_count == s->sentence_first_word) {
        return next == CLASS_DIGIT; // ".5"
    }
    const struct prose_word *word = &s->out->words[s->out->word_count - 1];
    if (word->end != at) {
        return false;
    }
    size_t length = word->end - word->begin;
    bool initial = word->letters == 1 && word->capital && s->text[word->begin] != 'I';
    bool number_sign = length == 2 && (memcmp(s->text + word->begin, "No", 2) == 0 ||
                                       memcmp(s->text + word->begin, "no", 2) == 0);
    return initial || is_abbreviation(s->text + word->begin, length) ||
           (number_sign && next == CLASS_DIGIT);
}

static void end_sentence(struct scanner *s, bool paragraph)
{
    struct prose *out = s->out;
    if (s->sentence_begin == SIZE_MAX) {
        if (paragraph && out->sentence_count > 0) {
            out->sentences[out->sentence_count - 1].paragraph = true;
        }
        return;
    }
    struct prose_sentence sentence = {
        .begin = s->sentence_begin,
        .end = s->last_visible,
        .next = s->length,
        .first_word = s->sentence_first_word,
        .word_count = out->word_count - s->sentence_first_word,
        .terminated = s->terminated,
        .paragraph = paragraph,
    };
    if (out->sentence_count > 0) {
        out->sentences[out->sentence_count - 1].next = sentence.begin;
    }
    out->sentences = mem_grow(out->sentences, &out->sentence_capacity, out->sentence_count + 1,
                              sizeof *out->sentences);
    out->sentences[out->sentence_count++] = sentence;
    s->sentence_begin = SIZE_MAX;
    s->sentence_first_word = out->word_count;
    s->terminated = false;
}

// At white space: consumes it and ends the sentence where it is over.
static void scan_space(struct scanner *s)
{
    int newlines = 0, size = 0;
    uint32_t code = 0;
    size_t before = s->at;
    enum class next = peek(s, s->at, &size, &code);
    while (next == CLASS_SPACE && size > 0) {
        newlines += code == '\n' || code == 0x2029 ? 1 : 0;
        s->at += (size_t)size;
        next = peek(s, s->at, &size, &code);
    }
    if (newlines >= 2 || s->at >= s->length) {
        end_sentence(s, true);
        return;
    }
    if (next == CLASS_STOP) { // ". . ."
        return;
    }
    if (!s->terminated || next == CLASS_LOWER) {
        s->terminated = false;
        return;
    }
    if (before > 0 && s->text[before - 1] == '.' && point_is_inside(s, before - 1, next)) {
        s->terminated = false;
        return;
    }
    end_sentence(s, false);
}

static void scan_mark(struct scanner *s)
{
    int size = 0;
    uint32_t code = 0;
    enum class mark = peek(s, s->at, &size, &code);
    bool first = s->sentence_begin == SIZE_MAX;
    bool quote_before_word = first || s->at == 0 || s->last_visible < s->at;
    if (first) {
        s->sentence_begin = s->at;
    }
    if (mark == CLASS_STOP) {
        s->terminated = true;
    } else if (mark != CLASS_CLOSE) {
        s->terminated = false;
    }
    // A plain quote opens when white space stands before it.
    s->after_open = mark == CLASS_OPEN ||
                    (mark == CLASS_CLOSE && (code == '"' || code == '\'') && quote_before_word);
    s->at += (size_t)size;
    s->last_visible = s->at;
    if (mark == CLASS_STOP && code >= 0x3002) { // no white space follows these
        end_sentence(s, false);
    }
}

void prose_scan(const char *text, size_t length, struct prose *out)
{
    memset(out, 0, sizeof *out);
    struct scanner s = {.text = text, .length = length, .out = out, .sentence_begin = SIZE_MAX};
    while (s.at < length) {
        int size = 0;
        uint32_t code = 0;
        enum class next = peek(&s, s.at, &size, &code);
        if (next == CLASS_SPACE) {
            scan_space(&s);
            s.after_open = false;
        } else if (is_word(next)) {
            size_t begin = s.at;
            scan_word(&s);
            s.sentence_begin = s.sentence_begin == SIZE_MAX ? begin : s.sentence_begin;
            s.last_visible = s.at;
            s.terminated = false;
            s.after_open = false;
        } else {
            scan_mark(&s);
        }
    }
    end_sentence(&s, true);
}

void prose_release(struct prose *prose)
{
    free(prose->words);
    free(prose->sentences);
    memset(prose, 0, sizeof *prose);
}

uint64_t prose_word_hash(const char *text, const struct prose_word *word)
{
    char lower[64]; // words cut here differ in what comes before in all but nonsense
    size_t used = 0;
    for (size_t at = word->begin; at < word->end && used + 4 <= sizeof lower;) {
        uint32_t code = 0;
        int size = utf8_decode(text + at, word->end - at, &code);
        if (size == 0) {
            break;
        }
        used +=
            (size_t)utf8_encode((uint32_t)utf8proc_tolower((utf8proc_int32_t)code), lower + used);
        at += (size_t)size;
    }
    struct digest digest = digest_bytes(lower, used);
    uint64_t hash = 0;
    memcpy(&hash, digest.bytes, sizeof hash);
    return hash;
}

size_t prose_count_tokens(void *unused, const char *bytes, size_t length)
{
    (void)unused;
    size_t tokens = 0, run = 0;
    for (size_t at = 0; at < length;) {
        uint32_t code = 0;
        int size = utf8_decode(bytes + at, length - at, &code);
        size = size ? size : 1;
        enum class kind = classify(code);
        if (is_word(kind)) {
            size_t counted = (run + TOKEN_BYTES - 1) / TOKEN_BYTES;
            run += (size_t)size;
            tokens += (run + TOKEN_BYTES - 1) / TOKEN_BYTES - counted;
        } else {
            tokens += kind != CLASS_SPACE;
            run = 0;
        }
        at += (size_t)size;
    }
    return tokens;
}
