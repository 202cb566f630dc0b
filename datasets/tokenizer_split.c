// SPDX-License-Identifier: Apache-2.0
// Patterns are written for Oniguruma and run by PCRE2, both with Unicode properties. They are
// translated where the two differ:
//   \s \S       PCRE2 counts U+180E as a space, Unicode's White_Space does not: spelled out
//   \p{Name}    names longer than a general category are scripts; PCRE2 would also match the
//               script extensions: written as \p{sc:Name}
//   \uXXXX      \x{XXXX}
// and refused where they differ and no published pattern needs it: \w \b \h and other letters, sets
// inside sets, ^ and $ (which Oniguruma matches at every line), possessive or lazy {n,m}, (* and
// groups with flags other than i.
#define PCRE2_CODE_UNIT_WIDTH 8
#include "datasets/tokenizer_split.h"

#include "base/mem.h"
#include "base/strbuf.h"

#include <ctype.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define PATTERN_MAX_BYTES 65536 // published ones have under 1,000
#define STACK_START_BYTES ((size_t)32 * 1024)
#define STACK_MAX_BYTES ((size_t)8 * 1024 * 1024)
// Steps that one match may take without the JIT: above the length of any run of spaces in real
// text, and few enough that a pattern made to explode fails within seconds.
#define MATCH_STEP_LIMIT 100000000

const char splitter_pattern_gpt2[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
const char splitter_pattern_qwen2[] =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+"
    "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

#define SPACES                                                                                     \
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"    \
    "\\x{205f}\\x{3000}"
#define NO_SPACES                                                                                  \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}"                   \
    "\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}"                 \
    "\\x{2060}-\\x{2fff}\\x{3001}-\\x{d7ff}\\x{e000}-\\x{10ffff}"

struct splitter {
    char *pattern;
    pcre2_code *code;
};

struct splitter_scratch {
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

// Translates what follows a backslash at p; returns the bytes consumed after it, or 0 on error.
static size_t translate_escape(const char *p, size_t left, bool in_class, struct strbuf *out,
                               struct error *err)
{
    char c = left == 0 ? '\0' : *p;
    if (c == 's' || c == 'S') {
        const char *set = c == 's' ? SPACES : NO_SPACES;
        strbuf_addf(out, in_class ? "%s" : "[%s]", set);
        return 1;
    }
    if (c == 'p' || c == 'P') {
        const char *close = memchr(p, '}', left);
        if (close != NULL && p[1] == '{') {
            const char *name = p + 2 + (p[2] == '^');
            bool is_script = close - name > 2;
            strbuf_addf(out, "\\%c{%s%s%.*s}", c, name > p + 2 ? "^" : "", is_script ? "sc:" : "",
                        (int)(close - name), name);
            return (size_t)(close - p) + 1;
        }
    } else if (c == 'u') {
        size_t digits = 0;
        while (digits < 4 && 1 + digits < left && isxdigit((unsigned char)p[1 + digits])) {
            digits++;
        }
        if (digits == 4) {
            strbuf_addf(out, "\\x{%.4s}", p + 1);
            return 5;
        }
    } else if (c != '\0' && (strchr("rntdDx", c) != NULL || ispunct((unsigned char)c))) {
        strbuf_addc(out, '\\');
        strbuf_addc(out, c);
        return 1;
    }
    error_set(err, "the pre-tokenizer's pattern uses '\\%.*s', which is not supported",
              left == 0 ? 0 : 1, p);
    return 0;
}

// What means something else, or nothing, in the other dialect.
static bool is_refused(const char *p, size_t left, bool in_class)
{
    static const char *const in_sets[] = {"[", "&&"};
    static const char *const outside[] = {"^", "$", "(*", "{,", "}+", "}?"};
    static const char *const groups[] = {":", "=", "!", ">", "<=", "<!", "i:", "i)"};
    const char *const *list = in_class ? in_sets : outside;
    size_t count = in_class ? sizeof in_sets / sizeof *in_sets : sizeof outside / sizeof *outside;
    for (size_t i = 0; i < count; i++) {
        if (left >= strlen(list[i]) && memcmp(p, list[i], strlen(list[i])) == 0) {
            return true;
        }
    }
    if (in_class || left < 2 || memcmp(p, "(?", 2) != 0) {
        return *p == '\0';
    }
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++) {
        if (left - 2 >= strlen(groups[i]) && memcmp(p + 2, groups[i], strlen(groups[i])) == 0) {
            return false;
        }
    }
    return true;
}

// Copies the opening of a set, [ or [^; returns its length, or 0 when the set is empty.
static size_t translate_set_begin(const char *p, size_t left, struct strbuf *out)
{
    size_t used = left > 1 && p[1] == '^' ? 2 : 1;
    strbuf_add(out, p, used);
    return used < left && p[used] == ']' ? 0 : used;
}

// One construct at p; returns the bytes consumed, or 0 on error.
static size_t translate_next(const char *p, size_t left, bool *in_class, struct strbuf *out,
                             struct error *err)
{
    if (*p == '\\') {
        size_t used = translate_escape(p + 1, left - 1, *in_class, out, err);
        if (used > 0 && *in_class && (p[1] == 's' || p[1] == 'S') && used + 1 < left &&
            p[used + 1] == '-') {
            strbuf_adds(out, "\\-"); // after a set such as \s it stands for itself
            used++;
        }
        return used == 0 ? 0 : used + 1;
    }
    size_t used = 1;
    if (!is_refused(p, left, *in_class)) {
        if (!*in_class && *p == '[') {
            used = translate_set_begin(p, left, out);
            *in_class = true;
        } else {
            strbuf_addc(out, *p);
            *in_class = *in_class && *p != ']';
        }
        if (used > 0) {
            return used;
        }
    }
    error_set(err, "the pre-tokenizer's pattern has '%.*s', which is not supported",
              (int)(left < 3 ? left : 3), p);
    return 0;
}

static int translate(const char *pattern, size_t length, struct strbuf *out, struct error *err)
{
    bool in_class = false;
    for (size_t i = 0; i < length;) {
        size_t used = translate_next(pattern + i, length - i, &in_class, out, err);
        if (used == 0) {
            return -1;
        }
        i += used;
    }
    return 0;
}

int splitter_create(const char *pattern, size_t length, struct splitter **out, struct error *err)
{
    if (length == 0 || length > PATTERN_MAX_BYTES) {
        return error_set(err, "the pre-tokenizer's pattern has %zu bytes; 1 to %d are supported",
                         length, PATTERN_MAX_BYTES);
    }
    struct strbuf translated = {0};
    if (translate(pattern, length, &translated, err) != 0) {
        strbuf_release(&translated);
        return -1;
    }
    int code;
    PCRE2_SIZE offset;
    pcre2_code *compiled =
        pcre2_compile((PCRE2_SPTR)translated.bytes, translated.length,
                      PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &offset, NULL);
    strbuf_release(&translated);
    if (compiled == NULL) {
        PCRE2_UCHAR text[256];
        pcre2_get_error_message(code, text, sizeof text);
        return error_set(err, "the pre-tokenizer's pattern does not compile: %s", (char *)text);
    }
    // Where the system forbids generated code this fails, and matching is slower but the same.
    pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);
    struct splitter *splitter = mem_calloc(1, sizeof *splitter);
    splitter->pattern = mem_calloc(length + 1, 1);
    memcpy(splitter->pattern, pattern, length);
    splitter->code = compiled;
    *out = splitter;
    return 0;
}

void splitter_destroy(struct splitter *splitter)
{
    if (splitter == NULL) {
        return;
    }
    pcre2_code_free(splitter->code);
    free(splitter->pattern);
    free(splitter);
}

const char *splitter_pattern(const struct splitter *splitter)
{
    return splitter->pattern;
}

struct splitter_scratch *splitter_scratch_create(const struct splitter *splitter)
{
    struct splitter_scratch *scratch = mem_calloc(1, sizeof *scratch);
    scratch->match = pcre2_match_data_create_from_pattern(splitter->code, NULL);
    scratch->context = pcre2_match_context_create(NULL);
    scratch->stack = pcre2_jit_stack_create(STACK_START_BYTES, STACK_MAX_BYTES, NULL);
    if (scratch->context != NULL) {
        pcre2_set_match_limit(scratch->context, MATCH_STEP_LIMIT);
        pcre2_jit_stack_assign(scratch->context, NULL, scratch->stack); // NULL: a smaller one
    }
    return scratch;
}

void splitter_scratch_destroy(struct splitter_scratch *scratch)
{
    if (scratch == NULL) {
        return;
    }
    pcre2_match_data_free(scratch->match);
    pcre2_match_context_free(scratch->context);
    pcre2_jit_stack_free(scratch->stack);
    free(scratch);
}

static size_t next_character(const char *text, size_t length, size_t at)
{
    do {
        at++;
    } while (at < length && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

int splitter_next(const struct splitter *splitter, struct splitter_scratch *scratch,
                  const char *text, size_t length, size_t begin, size_t *end, struct error *err)
{
    size_t from = begin;
    for (;;) {
        int rc = pcre2_match(splitter->code, (PCRE2_SPTR)text, length, from, PCRE2_NO_UTF_CHECK,
                             scratch->match, scratch->context);
        if (rc == PCRE2_ERROR_NOMATCH) {
            *end = length;
            return 0;
        }
        if (rc < 0) {
            PCRE2_UCHAR reason[256];
            pcre2_get_error_message(rc, reason, sizeof reason);
            return error_set(err, "the pre-tokenizer's pattern fails at byte %zu of the text: %s",
                             from, (char *)reason);
        }
        const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(scratch->match);
        if (bounds[0] > begin) { // a gap; the match itself is found again by the next call
            *end = bounds[0];
            return 0;
        }
        if (bounds[1] > begin) {
            *end = bounds[1];
            return 0;
        }
        from = next_character(text, length, from); // an empty match here cuts nothing
        if (from >= length) {
            *end = length;
            return 0;
        }
    }
}
