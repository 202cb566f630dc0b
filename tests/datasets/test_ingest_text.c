// SPDX-License-Identifier: Apache-2.0
#include "datasets/ingest_text.h"

#include "base/mem.h"
#include "base/strbuf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void expect_normalised(const char *text, size_t length, const char *expected)
{
    char *copy = mem_dup(text, length);
    size_t left = ingest_normalise(copy, length);
    assert_int_equal(left, strlen(expected));
    assert_memory_equal(copy, expected, left);
    free(copy);
}

static void line_ends_and_byte_order_marks_are_normalised(void **state)
{
    (void)state;
    expect_normalised("", 0, "");
    expect_normalised("\xef\xbb\xbf", 3, "");
    expect_normalised("\xef\xbb\xbf"
                      "a\r\nb\rc\nd\r",
                      12, "a\nb\nc\nd\n");
    expect_normalised("\r\r\n\n", 4, "\n\n\n");
    expect_normalised("a\xef\xbb\xbf", 4, "a\xef\xbb\xbf"); // only at the front
}

static const char modern[] = "The Project Gutenberg EBook of Summer, by Edith Wharton\n\n"
                             "Title: Summer\n       A Novel\n\nAuthor: Edith Wharton\n\n"
                             "*** START OF THIS PROJECT GUTENBERG EBOOK SUMMER ***\n\n"
                             "Produced by Meredith Ricker\nand others\n\n\nSUMMER\n\nA girl.\n\n"
                             "End of the Project Gutenberg EBook of Summer, by Edith Wharton\n\n"
                             "*** END OF THIS PROJECT GUTENBERG EBOOK SUMMER ***\nLicence.\n";

static const char old[] =
    "****The Project Gutenberg Etext of Crito, by Plato****\n#16 in our series\n"
    "***START**THE SMALL PRINT!**FOR PUBLIC DOMAIN ETEXTS**START***\nWhy?\n"
    "*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n\n\n"
    "This etext was prepared by Sue Asscher\n\n\nCRITO\n\nby Plato\n\n"
    "Leave me.\n\nEnd of this Project Gutenberg Etext of Crito, by Plato\n";

static void expect_book(const char *text, const char *title, const char *work)
{
    struct arena arena = {0};
    const char *found = NULL;
    struct ingest_span span = ingest_strip_gutenberg(text, strlen(text), &arena, &found);
    span = ingest_trim(text, span);
    assert_int_equal(span.end - span.begin, strlen(work));
    assert_memory_equal(text + span.begin, work, strlen(work));
    if (title) {
        assert_string_equal(found, title);
    } else {
        assert_null(found);
    }
    arena_release(&arena);
}

static void gutenberg_header_credits_and_licence_go(void **state)
{
    (void)state;
    expect_book(modern, "Summer", "SUMMER\n\nA girl.");
    expect_book(old, "Crito", "CRITO\n\nby Plato\n\nLeave me.");
}

static void a_text_with_one_mark_alone_stays_whole(void **state)
{
    (void)state;
    const char *start = "Title: X\n*** START OF THE PROJECT GUTENBERG EBOOK X ***\nA.";
    const char *end = "Title: X\nA.\n*** END OF THE PROJECT GUTENBERG EBOOK X ***";
    expect_book(start, NULL, start);
    expect_book(end, NULL, end);
    expect_book("", NULL, "");
}

static void every_truncation_of_a_book_is_safe(void **state)
{
    (void)state;
    for (size_t length = 0; length < sizeof modern; length++) {
        struct arena arena = {0};
        const char *title = NULL;
        char *copy = mem_dup(modern, length);
        struct ingest_span span = ingest_strip_gutenberg(copy, length, &arena, &title);
        assert_true(span.begin <= span.end && span.end <= length);
        span = ingest_trim(copy, span);
        assert_true(span.begin <= span.end && span.end <= length);
        ingest_find_title(copy, span, length % 2, &arena);
        free(copy);
        arena_release(&arena);
    }
}

static void expect_title(const char *text, bool markdown, const char *expected)
{
    struct arena arena = {0};
    struct ingest_span span = ingest_trim(text, (struct ingest_span){0, strlen(text)});
    const char *title = ingest_find_title(text, span, markdown, &arena);
    if (expected) {
        assert_non_null(title);
        assert_string_equal(title, expected);
    } else {
        assert_null(title);
    }
    arena_release(&arena);
}

static void titles_are_headings_or_short_first_lines(void **state)
{
    (void)state;
    expect_title("# The Goose Fair\n\nText.", true, "The Goose Fair");
    expect_title("Intro\n\n# The  *Goose*\n", true, "The *Goose");
    expect_title("Intro\n\n# The Goose\n", false, "Intro");
    expect_title("\n\n  A  short\tline \nText", false, "A short line");
    expect_title("A sentence is no title.\nText", false, NULL);
    expect_title("", false, NULL);
    expect_title("###\n", false, NULL);
    char wide[400];
    memset(wide, 'x', sizeof wide);
    wide[100] = '\0';
    expect_title(wide, false, wide);
    wide[100] = 'x';
    wide[101] = '\0';
    expect_title(wide, false, NULL);
}

static void hundred_characters_are_not_hundred_bytes(void **state)
{
    (void)state;
    struct strbuf line = {0};
    for (int i = 0; i < 100; i++) {
        strbuf_adds(&line, "ש");
    }
    expect_title(line.bytes, false, line.bytes);
    strbuf_release(&line);
}

static void trimming_keeps_the_first_lines_indentation(void **state)
{
    (void)state;
    const char *text = "\n \n  indented\nlast  \n\n";
    struct ingest_span span = ingest_trim(text, (struct ingest_span){0, strlen(text)});
    assert_memory_equal(text + span.begin, "  indented\nlast", 15);
    assert_int_equal(span.end - span.begin, 15);
    span = ingest_trim(" \n\t", (struct ingest_span){0, 3});
    assert_int_equal(span.end, span.begin);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(line_ends_and_byte_order_marks_are_normalised),
        cmocka_unit_test(gutenberg_header_credits_and_licence_go),
        cmocka_unit_test(a_text_with_one_mark_alone_stays_whole),
        cmocka_unit_test(every_truncation_of_a_book_is_safe),
        cmocka_unit_test(titles_are_headings_or_short_first_lines),
        cmocka_unit_test(hundred_characters_are_not_hundred_bytes),
        cmocka_unit_test(trimming_keeps_the_first_lines_indentation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
