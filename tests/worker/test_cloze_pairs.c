// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/cloze_pairs.h"

#include "base/mem.h"
#include "tests/datasets/random_text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct cloze_options defaults = CLOZE_DEFAULTS;

static void make(const char *text, struct cloze_pairs *out)
{
    cloze_pairs_make(text, strlen(text), "Notes", &defaults, out);
}

static const char *answer_to(const struct cloze_pairs *pairs, const char *question)
{
    for (size_t i = 0; i < pairs->count; i++) {
        if (strcmp(pairs->pairs[i].question, question) == 0) {
            return pairs->pairs[i].answer;
        }
    }
    return NULL;
}

static bool has_answer(const struct cloze_pairs *pairs, const char *answer)
{
    for (size_t i = 0; i < pairs->count; i++) {
        if (strcmp(pairs->pairs[i].answer, answer) == 0) {
            return true;
        }
    }
    return false;
}

static void expect_answer(const char *text, const char *question, const char *answer)
{
    struct cloze_pairs pairs;
    make(text, &pairs);
    const char *found = answer_to(&pairs, question);
    assert_non_null(found);
    assert_string_equal(found, answer);
    cloze_pairs_release(&pairs);
}

static void names_numbers_dates_and_nouns_are_asked_for(void **state)
{
    (void)state;
    expect_answer("Late that year she met Edith Wharton again on the pier.",
                  "In \"Notes\": Late that year she met ____ again on the pier.", "Edith Wharton");
    expect_answer("They paid him 1,200 corvins for the old boat.",
                  "In \"Notes\": They paid him ____ corvins for the old boat.", "1,200");
    expect_answer("She was born on 14 March 1871 in a small house.",
                  "In \"Notes\": She was born on ____ in a small house.", "14 March 1871");
    expect_answer("She was born on March 14, 1871 in a small house.",
                  "In \"Notes\": She was born on ____ in a small house.", "March 14, 1871");
    expect_answer("It had been built in 1871 by two men.",
                  "In \"Notes\": It had been built in ____ by two men.", "1871");
    expect_answer("They stayed there for twenty-three days in all.",
                  "In \"Notes\": They stayed there for ____ days in all.", "twenty-three");
    expect_answer("He put the barometer back on its hook.",
                  "In \"Notes\": He put the ____ back on its hook.", "barometer");
    expect_answer("We heard of Étienne Länge when the war was over.",
                  "In \"Notes\": We heard of ____ when the war was over.", "Étienne Länge");
}

static void first_words_are_names_when_they_are_elsewhere(void **state)
{
    (void)state;
    struct cloze_pairs pairs;
    make("Olaf went to the shore and came back. Then the rain fell on poor Olaf for long.", &pairs);
    assert_string_equal(answer_to(&pairs, "In \"Notes\": ____ went to the shore and came back."),
                        "Olaf");
    cloze_pairs_release(&pairs);
    make("Nothing went to the shore or came back.", &pairs);
    assert_false(has_answer(&pairs, "Nothing"));
    cloze_pairs_release(&pairs);
}

static void possessives_and_forms_of_address_stay_outside(void **state)
{
    (void)state;
    expect_answer("She came out of old Royall's house at noon.",
                  "In \"Notes\": She came out of old ____'s house at noon.", "Royall");
    expect_answer("She came out with Mr. Royall at the stroke of noon.",
                  "In \"Notes\": She came out with Mr. ____ at the stroke of noon.", "Royall");
    struct cloze_pairs pairs;
    make("Today it was Mr. who came to her, and I'm sure of it.", &pairs);
    assert_false(has_answer(&pairs, "Mr"));
    assert_false(has_answer(&pairs, "I'm"));
    cloze_pairs_release(&pairs);
}

static void questions_are_one_line_without_marks_of_emphasis(void **state)
{
    (void)state;
    expect_answer("They  saw the _good_ ship\n  *Orion* leave in 1871\tfor good.",
                  "In \"Notes\": They saw the good ship Orion leave in ____ for good.", "1871");
}

static void long_sentences_show_a_window_around_the_gap(void **state)
{
    (void)state;
    struct cloze_pairs pairs;
    struct strbuf text = {0};
    strbuf_adds(&text, "So");
    for (int i = 0; i < 16; i++) {
        strbuf_adds(&text, " aa");
    }
    strbuf_adds(&text, " in 1871 and");
    for (int i = 0; i < 16; i++) {
        strbuf_adds(&text, " bb");
    }
    strbuf_addc(&text, '.');
    make(text.bytes, &pairs);
    assert_int_equal(pairs.count, 1);
    assert_string_equal(
        pairs.pairs[0].question,
        "In \"Notes\": aa aa aa aa aa aa aa aa aa aa aa in ____ and bb bb bb bb bb bb "
        "bb bb bb bb bb");
    assert_int_equal(pairs.pairs[0].begin, 0);
    assert_int_equal(pairs.pairs[0].end, text.length);
    cloze_pairs_release(&pairs);
    strbuf_release(&text);
}

static void unsuited_sentences_give_nothing(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        " \n\n ",
        "He met Olaf.",                             // too short
        "the end of 1871 was very cold indeed.",    // begins in the middle
        "A heading that names Olaf and 1871 twice", // does not end
        "CHAPTER 12 OF THE OLD BOOK OF WALES",
        "It was as it was and so it is.",        // nothing to ask for
        "And 1871 was as bad as 1871 was good.", // the answer stands in the question
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct cloze_pairs pairs;
        make(texts[i], &pairs);
        assert_int_equal(pairs.count, 0);
        cloze_pairs_release(&pairs);
    }
    struct cloze_pairs pairs;
    const char *text = "She came to Tollerby in the year 1871 alone.";
    cloze_pairs_make(text, strlen(text), "Tollerby in 1871", &defaults, &pairs);
    assert_int_equal(pairs.count, 0); // the title says both
    cloze_pairs_release(&pairs);
}

static void no_question_comes_twice_or_has_two_answers(void **state)
{
    (void)state;
    struct cloze_pairs pairs;
    make("They came back in 1871 by sea. They came back in 1872 by sea. They left in 1880 by the "
         "old road. They left in 1880 by the old road.",
         &pairs);
    assert_null(answer_to(&pairs, "In \"Notes\": They came back in ____ by sea."));
    assert_string_equal(answer_to(&pairs, "In \"Notes\": They left in ____ by the old road."),
                        "1880");
    assert_int_equal(pairs.count, 1);
    assert_int_equal(pairs.ambiguous, 3);
    cloze_pairs_release(&pairs);
}

static void at_most_so_many_gaps_per_sentence(void **state)
{
    (void)state;
    const char *text = "On 14 March 1871 Olaf met Ysolt, Bruna, and 12 others near Tollerby.";
    for (uint32_t most = 0; most <= 9; most++) {
        struct cloze_options options = CLOZE_DEFAULTS;
        struct cloze_pairs pairs;
        options.max_gaps_per_sentence = most;
        cloze_pairs_make(text, strlen(text), "T", &options, &pairs);
        assert_int_equal(pairs.count, most < 6 ? most : 6);
        if (most == 1) {
            assert_string_equal(pairs.pairs[0].answer, "14 March 1871"); // the best one
        }
        cloze_pairs_release(&pairs);
    }
}

static int compare_texts(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static void promises_hold_for_any_text(void **state)
{
    (void)state;
    size_t total = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct strbuf text = {0};
        struct cloze_pairs pairs, again;
        random_text(seed, seed * 31, &text);
        char *copy = mem_dup(text.bytes, text.length);
        cloze_pairs_make(copy, text.length, "Any", &defaults, &pairs);
        cloze_pairs_make(copy, text.length, "Any", &defaults, &again);
        const char **questions = mem_calloc(pairs.count + 1, sizeof *questions);
        assert_int_equal(pairs.count, again.count);
        for (size_t i = 0; i < pairs.count; i++) {
            const struct cloze_pair *pair = &pairs.pairs[i];
            questions[i] = pair->question;
            assert_string_equal(pair->question, again.pairs[i].question);
            assert_string_equal(pair->answer, again.pairs[i].answer);
            assert_non_null(strstr(pair->question, "____"));
            assert_true(pair->begin < pair->end && pair->end <= text.length);
            assert_true(i == 0 || pair->begin >= pairs.pairs[i - 1].begin);
            assert_int_equal(utf8_valid_prefix(pair->question, strlen(pair->question)),
                             strlen(pair->question));
            assert_int_equal(utf8_valid_prefix(pair->answer, strlen(pair->answer)),
                             strlen(pair->answer));
        }
        qsort(questions, pairs.count, sizeof *questions, compare_texts);
        for (size_t i = 1; i < pairs.count; i++) {
            assert_string_not_equal(questions[i - 1], questions[i]);
        }
        total += pairs.count;
        free(questions);
        free(copy);
        cloze_pairs_release(&pairs);
        cloze_pairs_release(&again);
        strbuf_release(&text);
    }
    assert_true(total > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_numbers_dates_and_nouns_are_asked_for),
        cmocka_unit_test(first_words_are_names_when_they_are_elsewhere),
        cmocka_unit_test(possessives_and_forms_of_address_stay_outside),
        cmocka_unit_test(questions_are_one_line_without_marks_of_emphasis),
        cmocka_unit_test(long_sentences_show_a_window_around_the_gap),
        cmocka_unit_test(unsuited_sentences_give_nothing),
        cmocka_unit_test(no_question_comes_twice_or_has_two_answers),
        cmocka_unit_test(at_most_so_many_gaps_per_sentence),
        cmocka_unit_test(promises_hold_for_any_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
