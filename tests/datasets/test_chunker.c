// SPDX-License-Identifier: Apache-2.0
#include "datasets/chunker.h"

#include "base/mem.h"
#include "datasets/prose.h"
#include "tests/datasets/random_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static size_t count_bytes(void *context, const char *bytes, size_t length)
{
    (void)context;
    (void)bytes;
    return length;
}

static const struct token_counter by_rule = {prose_count_tokens, NULL};
static const struct token_counter by_bytes = {count_bytes, NULL};

static bool is_boundary(const char *text, size_t length, size_t at)
{
    return at == length || ((uint8_t)text[at] & 0xc0) != 0x80;
}

// Everything that chunker.h promises of any text.
static void check_promises(const char *text, size_t length, struct chunker_options options)
{
    struct error err = {""};
    struct chunk_span *spans = NULL, *again = NULL;
    size_t count = 0, count_again = 0;
    assert_int_equal(chunker_cut(text, length, &options, &spans, &count, &err), 0);
    assert_true(count > 0);
    assert_int_equal(spans[0].begin, 0);
    assert_int_equal(spans[count - 1].end, length);
    for (size_t i = 0; i < count; i++) {
        size_t bytes = spans[i].end - spans[i].begin;
        assert_true(is_boundary(text, length, spans[i].begin));
        assert_true(is_boundary(text, length, spans[i].end));
        assert_true(spans[i].end > spans[i].begin);
        assert_int_equal(
            spans[i].tokens,
            options.counter.count_tokens(options.counter.context, text + spans[i].begin, bytes));
        assert_true(spans[i].tokens <= options.chunk_tokens || bytes <= 4);
        if (i > 0) {
            assert_true(spans[i].begin > spans[i - 1].begin);
            assert_true(spans[i].begin <= spans[i - 1].end);
            assert_true(spans[i].end > spans[i - 1].end);
            size_t overlap = spans[i - 1].end - spans[i].begin;
            assert_true(options.counter.count_tokens(options.counter.context, text + spans[i].begin,
                                                     overlap) <= options.overlap_tokens);
        }
    }
    assert_int_equal(chunker_cut(text, length, &options, &again, &count_again, &err), 0);
    assert_int_equal(count, count_again);
    assert_memory_equal(spans, again, count * sizeof *spans);
    free(spans);
    free(again);
}

static void any_text_is_covered_within_the_limits(void **state)
{
    (void)state;
    const size_t limits[] = {1, 2, 5, 31, 33, 1000};
    for (uint64_t seed = 0; seed < 120; seed++) {
        struct strbuf text = {0};
        random_text(seed, 1 + seed * 23, &text);
        for (size_t l = 0; l < sizeof limits / sizeof *limits; l++) {
            for (size_t overlap = 0; overlap <= limits[l] / 2; overlap += 1 + limits[l] / 4) {
                check_promises(text.bytes, text.length,
                               (struct chunker_options){limits[l], overlap, by_bytes});
            }
        }
        strbuf_release(&text);
    }
}

static void text_without_any_space_is_cut_too(void **state)
{
    (void)state;
    size_t length = 1 << 20;
    char *text = mem_alloc(length);
    memset(text, 'x', length);
    check_promises(text, length, (struct chunker_options){500, 50, by_rule});
    for (size_t i = 0; i + 2 <= length; i += 2) {
        memcpy(text + i, "é", 2);
    }
    check_promises(text, length, (struct chunker_options){500, 50, by_bytes});
    memset(text, ' ', length);
    check_promises(text, length, (struct chunker_options){500, 50, by_bytes});
    free(text);
}

static void cuts_fall_on_paragraphs_then_on_sentences(void **state)
{
    (void)state;
    const char *text = "One two three. Four five six.\n\nSeven eight nine. Ten eleven twelve. "
                       "Thirteen fourteen.\n\nFifteen.";
    struct chunker_options options = {14, 0, by_rule};
    struct chunk_span *spans = NULL;
    size_t count = 0;
    struct error err = {""};
    assert_int_equal(chunker_cut(text, strlen(text), &options, &spans, &count, &err), 0);
    assert_int_equal(count, 2);
    assert_int_equal(strncmp(text + spans[1].begin, "Seven", 5), 0); // not after the third sentence
    free(spans);
    options.chunk_tokens = 6;
    options.overlap_tokens = 0;
    assert_int_equal(chunker_cut(text, strlen(text), &options, &spans, &count, &err), 0);
    assert_int_equal(strncmp(text + spans[1].begin, "Four", 4), 0);
    free(spans);
}

static void overlap_repeats_whole_sentences(void **state)
{
    (void)state;
    const char *text = "Aa bb cc. Dd ee ff. Gg hh ii. Jj kk ll. Mm nn oo.";
    struct chunker_options options = {12, 4, by_rule};
    struct chunk_span *spans = NULL;
    size_t count = 0;
    struct error err = {""};
    assert_int_equal(chunker_cut(text, strlen(text), &options, &spans, &count, &err), 0);
    assert_int_equal(count, 2);
    assert_int_equal(strncmp(text + spans[1].begin, "Gg", 2), 0);
    assert_int_equal(strncmp(text + spans[0].end, "Jj", 2), 0);
    free(spans);
}

static void senseless_sizes_are_an_error(void **state)
{
    (void)state;
    struct chunk_span *spans = NULL;
    size_t count = 0;
    struct error err = {""};
    struct chunker_options none = {0, 0, by_rule}, wide = {10, 6, by_rule};
    assert_int_equal(chunker_cut("a", 1, &none, &spans, &count, &err), -1);
    assert_int_equal(chunker_cut("a", 1, &wide, &spans, &count, &err), -1);
    assert_non_null(strstr(err.text, "cannot overlap by 6"));
    assert_null(spans);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_text_is_covered_within_the_limits),
        cmocka_unit_test(text_without_any_space_is_cut_too),
        cmocka_unit_test(cuts_fall_on_paragraphs_then_on_sentences),
        cmocka_unit_test(overlap_repeats_whole_sentences),
        cmocka_unit_test(senseless_sizes_are_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
