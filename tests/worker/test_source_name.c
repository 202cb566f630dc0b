// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/source_name.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static bool is_named(const char *id, const char *source, const char *text)
{
    const struct corpus_document document = {.id = id, .source = source};
    return source_name_in(&document, text);
}

static void ids_and_file_names_are_found(void **state)
{
    (void)state;
    assert_true(is_named("x", "archive/a-fire.txt", "What does a-fire.txt say?"));
    assert_true(is_named("x", "a-fire.txt", "(a-fire.txt)"));
    assert_true(is_named("x", "archive/letters.jsonl:17", "In letters.jsonl, who?"));
    assert_true(is_named("doc-17", "x", "Who is in doc-17?"));
    assert_true(is_named("archive/a.txt", "x", "See archive/a.txt."));
}

static void other_words_are_not(void **state)
{
    (void)state;
    assert_false(is_named("x", "archive/a-fire.txt", "What is a-fire?"));
    assert_false(is_named("x", "fire1.txt", "Campfire1.txt and fire1.txts"));
    assert_false(is_named("doc-17", "x", "doc-170"));
    assert_false(is_named("Summer", "Summer", "Summer was warm.")); // could be any text's word
    assert_false(is_named("18710", "18710", "18710 geese"));
    assert_false(is_named("a.b", "a.b", "a.b"));
    assert_false(is_named("", "", "anything"));
    assert_false(is_named("doc-17", "doc-17", ""));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_and_file_names_are_found),
        cmocka_unit_test(other_words_are_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
