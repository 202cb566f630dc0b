// SPDX-License-Identifier: Apache-2.0
#include "datasets/prose.h"

#include "base/mem.h"
#include "tests/datasets/random_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// The sentences of text joined with '|', its words with '/'.
static char *cut(const char *text, bool words)
{
    struct prose prose;
    struct strbuf out = {0};
    prose_scan(text, strlen(text), &prose);
    for (size_t i = 0; i < (words ? prose.word_count : prose.sentence_count); i++) {
        size_t begin = words ? prose.words[i].begin : prose.sentences[i].begin;
        size_t end = words ? prose.words[i].end : prose.sentences[i].end;
        strbuf_adds(&out, i ? (words ? "/" : "|") : "");
        strbuf_add(&out, text + begin, end - begin);
    }
    prose_release(&prose);
    return out.bytes ? strbuf_detach(&out) : mem_strdup("");
}

static void expect(const char *text, bool words, const char *expected)
{
    char *found = cut(text, words);
    assert_string_equal(found, expected);
    free(found);
}

static void words_keep_their_joints_and_lose_possessives(void **state)
{
    (void)state;
    expect("", true, "");
    expect("He didn't see Royall's well-known house.", true,
           "He/didn't/see/Royall/well-known/house");
    expect("On 14.3.1871, 1,200 men; 9:30 a.m.", true, "On/14.3.1871/1,200/men/9:30/a/m");
    expect("the dogs' bowl -- l\xe2\x80\x99homme, it\xe2\x80\x99s", true,
           "the/dogs/bowl/l\xe2\x80\x99homme/it");
    expect("Étienne Länge said _no_.", true, "Étienne/Länge/said/no");
}

static void sentences_end_where_a_reader_ends_them(void **state)
{
    (void)state;
    expect("One. Two! Three? Four", false, "One.|Two!|Three?|Four");
    expect("Mr. Royall met Dr. J. M. Synge on St. James St. at noon. He left.", false,
           "Mr. Royall met Dr. J. M. Synge on St. James St. at noon.|He left.");
    expect("\"Where are you going?\" he asked. \"Home.\" She went.", false,
           "\"Where are you going?\" he asked.|\"Home.\"|She went.");
    expect("She read No. 7 twice. No. It was late.", false,
           "She read No. 7 twice.|No.|It was late.");
    expect("A heading\n\nA line\nand another. End.", false, "A heading|A line\nand another.|End.");
    expect("He paused . . . and went on. Then...", false, "He paused . . . and went on.|Then...");
    expect("It cost 3.50 in all. So I.", false, "It cost 3.50 in all.|So I.");
    expect("  \n\n \n", false, "");
    expect("世界。你好！", false, "世界。|你好！");
    expect("שלום עולם. מה שלומך?", false, "שלום עולם.|מה שלומך?");
}

static void flags_tell_names_numbers_and_sentence_starts(void **state)
{
    (void)state;
    const char *text = "The girl, \"Come here,\" said Charity. CRITO: In 1871.";
    struct prose prose;
    prose_scan(text, strlen(text), &prose);
    assert_int_equal(prose.word_count, 9);
    assert_true(prose.words[0].lead && prose.words[0].capital);     // The
    assert_true(!prose.words[1].lead && !prose.words[1].capital);   // girl
    assert_true(prose.words[2].lead && prose.words[2].capital);     // Come, behind a quote
    assert_true(!prose.words[5].lead && prose.words[5].capital);    // Charity
    assert_true(prose.words[6].shouted && !prose.words[5].shouted); // CRITO
    assert_true(prose.words[8].number && prose.words[8].letters == 4);
    assert_int_equal(prose.sentence_count, 2);
    assert_true(prose.sentences[0].terminated && !prose.sentences[0].paragraph);
    assert_true(prose.sentences[1].paragraph);
    assert_int_equal(prose.sentences[1].first_word, 6);
    assert_int_equal(prose.sentences[1].word_count, 3);
    prose_release(&prose);
}

static void any_text_is_covered_by_its_sentences(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct strbuf text = {0};
        random_text(seed, 1 + seed * 7, &text);
        char *copy = mem_dup(text.bytes, text.length); // no NUL behind it
        struct prose prose;
        prose_scan(copy, text.length, &prose);
        size_t next = prose.sentence_count ? prose.sentences[0].begin : text.length;
        size_t words = 0;
        for (size_t i = 0; i < prose.sentence_count; i++) {
            const struct prose_sentence *sentence = &prose.sentences[i];
            assert_int_equal(sentence->begin, next);
            assert_true(sentence->end > sentence->begin && sentence->end <= sentence->next);
            assert_int_equal(sentence->first_word, words);
            words += sentence->word_count;
            for (size_t w = sentence->first_word; w < words; w++) {
                assert_true(prose.words[w].begin >= sentence->begin);
                assert_true(prose.words[w].end <= sentence->end);
                assert_true(prose.words[w].end > prose.words[w].begin);
            }
            next = sentence->next;
        }
        assert_int_equal(next, text.length);
        assert_int_equal(words, prose.word_count);
        prose_release(&prose);
        free(copy);
        strbuf_release(&text);
    }
}

static void hashes_ignore_case(void **state)
{
    (void)state;
    const char *text = "Étienne étienne Etienne";
    struct prose prose;
    prose_scan(text, strlen(text), &prose);
    assert_true(prose_word_hash(text, &prose.words[0]) == prose_word_hash(text, &prose.words[1]));
    assert_true(prose_word_hash(text, &prose.words[0]) != prose_word_hash(text, &prose.words[2]));
    prose_release(&prose);
}

static size_t tokens(const char *text)
{
    return prose_count_tokens(NULL, text, strlen(text));
}

static void token_rule_counts_words_and_marks(void **state)
{
    (void)state;
    assert_int_equal(tokens(""), 0);
    assert_int_equal(tokens(" \n\t"), 0);
    assert_int_equal(tokens("A girl came."), 4);
    assert_int_equal(tokens("abcdefgh"), 1);
    assert_int_equal(tokens("abcdefghi"), 2);
    assert_int_equal(tokens("don't"), 3);
    assert_int_equal(tokens("世界。"), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_keep_their_joints_and_lose_possessives),
        cmocka_unit_test(sentences_end_where_a_reader_ends_them),
        cmocka_unit_test(flags_tell_names_numbers_and_sentence_starts),
        cmocka_unit_test(any_text_is_covered_by_its_sentences),
        cmocka_unit_test(hashes_ignore_case),
        cmocka_unit_test(token_rule_counts_words_and_marks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
