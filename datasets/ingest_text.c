// SPDX-License-Identifier: Apache-2.0
#include "datasets/ingest_text.h"

#include <stdint.h>
#include <string.h>
#include <strings.h>

size_t ingest_normalise(char *text, size_t length)
{
    size_t from = length >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    size_t to = 0;
    for (; from < length; from++) {
        if (text[from] != '\r') {
            text[to++] = text[from];
        } else if (from + 1 == length || text[from + 1] != '\n') {
            text[to++] = '\n';
        }
    }
    return to;
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

struct ingest_span ingest_trim(const char *text, struct ingest_span span)
{
    while (span.end > span.begin && is_space(text[span.end - 1])) {
        span.end--;
    }
    for (size_t at = span.begin; at < span.end && is_space(text[at]); at++) {
        if (text[at] == '\n') {
            span.begin = at + 1; // the indentation of the first line stays
        }
    }
    return span;
}

static size_t line_end(const char *text, size_t at, size_t end)
{
    const char *newline = memchr(text + at, '\n', end - at);
    return newline ? (size_t)(newline - text) : end;
}

static bool line_has(const char *line, size_t length, const char *needle)
{
    size_t needle_length = strlen(needle);
    for (size_t i = 0; i + needle_length <= length; i++) {
        if (strncasecmp(line + i, needle, needle_length) == 0) {
            return true;
        }
    }
    return false;
}

static bool line_begins(const char *line, size_t length, const char *prefix)
{
    size_t prefix_length = strlen(prefix);
    return length >= prefix_length && strncasecmp(line, prefix, prefix_length) == 0;
}

static bool is_start_mark(const char *line, size_t length)
{
    bool modern = line_begins(line, length, "***") && line_has(line, length, "START OF") &&
                  line_has(line, length, "PROJECT GUTENBERG");
    bool old = (line_begins(line, length, "*END*THE SMALL PRINT") ||
                line_begins(line, length, "*END THE SMALL PRINT"));
    return modern || old;
}

static bool is_end_mark(const char *line, size_t length)
{
    bool modern = line_begins(line, length, "***") && line_has(line, length, "END OF") &&
                  line_has(line, length, "PROJECT GUTENBERG");
    bool sentence = line_begins(line, length, "End of Project Gutenberg") ||
                    line_begins(line, length, "End of the Project Gutenberg") ||
                    line_begins(line, length, "End of this Project Gutenberg");
    return modern || sentence;
}

static const char *header_title(const char *line, size_t length, struct arena *arena)
{
    if (line_begins(line, length, "Title:")) {
        return ingest_clean_title(line + 6, length - 6, arena);
    }
    // "***The Project Gutenberg Etext of Crito, by Plato***"
    static const char mark[] = "Project Gutenberg Etext of ";
    for (size_t i = 0; i + sizeof mark - 1 <= length; i++) {
        if (strncasecmp(line + i, mark, sizeof mark - 1) == 0) {
            size_t begin = i + sizeof mark - 1, end = begin;
            while (end < length && line[end] != '*' &&
                   strncasecmp(line + end, ", by ", length - end < 5 ? length - end : 5) != 0) {
                end++;
            }
            return ingest_clean_title(line + begin, end - begin, arena);
        }
    }
    return NULL;
}

// Paragraphs that credit who made the electronic text, at its front.
static size_t skip_credits(const char *text, size_t begin, size_t end)
{
    static const char *const credits[] = {
        "Produced by",
        "E-text prepared by",
        "This etext was prepared by",
        "This etext was produced by",
        "This eBook was prepared by",
        "This eBook was produced by",
        "Transcribed from",
        "[Transcriber's note",
        "HTML version by",
    };
    for (;;) {
        while (begin < end && is_space(text[begin])) {
            begin++;
        }
        bool is_credit = false;
        for (size_t i = 0; i < sizeof credits / sizeof *credits; i++) {
            is_credit = is_credit || line_begins(text + begin, end - begin, credits[i]);
        }
        if (!is_credit) {
            return begin;
        }
        while (begin < end && line_end(text, begin, end) > begin) { // up to the empty line
            begin = line_end(text, begin, end);
            begin += begin < end;
        }
    }
}

struct ingest_span ingest_strip_gutenberg(const char *text, size_t length, struct arena *arena,
                                          const char **title)
{
    struct ingest_span whole = {0, length};
    const char *stated = NULL;
    size_t begin = SIZE_MAX;
    for (size_t at = 0; at < length; at = line_end(text, at, length) + 1) {
        size_t line_length = line_end(text, at, length) - at;
        if (begin == SIZE_MAX) {
            stated = stated ? stated : header_title(text + at, line_length, arena);
            if (is_start_mark(text + at, line_length)) {
                begin = at + line_length;
            }
        } else if (is_end_mark(text + at, line_length)) {
            *title = stated && *stated ? stated : *title;
            return (struct ingest_span){skip_credits(text, begin, at), at};
        }
    }
    return whole;
}

const char *ingest_clean_title(const char *title, size_t length, struct arena *arena)
{
    while (length > 0 && (is_space(*title) || strchr("#*_", *title))) {
        title++;
        length--;
    }
    while (length > 0 && (is_space(title[length - 1]) || strchr("#*_", title[length - 1]))) {
        length--;
    }
    char *clean = arena_strndup(arena, title, length);
    size_t used = 0;
    for (size_t i = 0; i < length; i++) {
        if (!is_space(clean[i]) && clean[i] != '\0') {
            clean[used++] = clean[i];
        } else if (used > 0 && clean[used - 1] != ' ') {
            clean[used++] = ' ';
        }
    }
    clean[used] = '\0';
    return clean;
}

static size_t count_characters(const char *text, size_t length)
{
    size_t characters = 0;
    for (size_t i = 0; i < length; i++) {
        characters += ((uint8_t)text[i] & 0xc0) != 0x80;
    }
    return characters;
}

const char *ingest_find_title(const char *text, struct ingest_span span, bool markdown,
                              struct arena *arena)
{
    size_t first = span.begin, first_length = 0;
    bool have_first = false;
    for (size_t at = span.begin; at < span.end; at = line_end(text, at, span.end) + 1) {
        size_t length = line_end(text, at, span.end) - at;
        if (line_begins(text + at, length, "# ") && (markdown || !have_first)) {
            const char *title = ingest_clean_title(text + at, length, arena);
            if (*title) {
                return title;
            }
        }
        if (!have_first && ingest_trim(text, (struct ingest_span){at, at + length}).end > at) {
            have_first = true;
            first = at;
            first_length = length;
        }
        if (have_first && !markdown) {
            break;
        }
    }
    while (first_length > 0 && is_space(text[first + first_length - 1])) {
        first_length--;
    }
    if (first_length == 0 || strchr(".,;:", text[first + first_length - 1]) ||
        count_characters(text + first, first_length) > INGEST_TITLE_CHARACTERS) {
        return NULL;
    }
    const char *title = ingest_clean_title(text + first, first_length, arena);
    return *title ? title : NULL;
}
