// SPDX-License-Identifier: Apache-2.0
// What each of the steps of a chunk does with what a model answers.
#include "tests/worker/lm_script.h"

#include "tests/datasets/corpus_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void facts_are_taken_from_both_passes_and_cleaned(void **state)
{
    (void)state;
    struct lm_script script = {
        .says[REQUEST_DIRECT] = {PAIRS(PAIR(" Who\\n met\\u0000 him? ", "Nan\\tCorrigle."))},
        .says[REQUEST_INDIRECT] = {PAIRS(PAIR("Whom did she meet?", "Gideon."))},
    };
    struct generated result = script_run(&script, "1a,1b");
    assert_int_equal(result.task.outcome, TASK_DONE);
    assert_int_equal(result.task.pairs, 2);
    assert_pair(&result, 0, STEP_DIRECT, "Who met him?", "Nan Corrigle.");
    assert_pair(&result, 1, STEP_INDIRECT, "Whom did she meet?", "Gideon.");
    assert_int_equal(result.pairs[0].seed, script.seeds[REQUEST_DIRECT][0]);
    assert_int_equal(script.asked[REQUEST_JUDGE], 0);
    assert_int_equal(script.asked[REQUEST_CONSOLIDATE], 0);
    generated_release(&result);
    script_release(&script);
}

static void questions_are_repeated_whatever_their_spelling(void **state)
{
    (void)state;
    struct lm_script script = {
        .says[REQUEST_DIRECT] = {PAIRS(
            PAIR("Who met him?", "A.") "," PAIR("WHO met \xE2\x80\x9Chim", "B."))},
        .says[REQUEST_INDIRECT] = {PAIRS(
            PAIR("who  met him", "C.") "," PAIR("Who met her?", "D."))},
    };
    struct generated result = script_run(&script, "1a,1b");
    assert_int_equal(result.task.pairs, 2);
    assert_pair(&result, 0, STEP_DIRECT, "Who met him?", "A.");
    assert_pair(&result, 1, STEP_INDIRECT, "Who met her?", "D.");
    assert_int_equal(script_dropped(&result, STEP_DIRECT, "repeated question"), 1);
    assert_int_equal(script_dropped(&result, STEP_INDIRECT, "repeated question"), 1);
    generated_release(&result);
    script_release(&script);
}

static void pairs_are_joined_and_stay(void **state)
{
    (void)state;
    struct lm_script script = {
        .says[REQUEST_DIRECT] = {THREE},
        .says[REQUEST_CONSOLIDATE] =
            {"{\"pairs\":[{\"from\":[3,1,3,9],\"question\":\"Both?\",\"answer\":\"Both.\"},"
             "{\"from\":[2],\"question\":\"Alone?\",\"answer\":\"Alone.\"},"
             "{\"from\":[2,2,0],\"question\":\"Twice?\",\"answer\":\"Twice.\"}]}"},
    };
    struct generated result = script_run(&script, "1a,1b,2");
    assert_int_equal(result.task.pairs, 4);
    assert_pair(&result, 3, STEP_CONSOLIDATE, "Both?", "Both.");
    assert_int_equal(result.pairs[3].parent_count, 2);
    assert_true(digest_equal(result.pairs[3].parents[0], result.pairs[2].record_id));
    assert_true(digest_equal(result.pairs[3].parents[1], result.pairs[0].record_id));
    assert_int_equal(script_dropped(&result, STEP_CONSOLIDATE, "not made from pairs of the list"),
                     2);
    assert_string_equal(script.prompts[REQUEST_CONSOLIDATE][0],
                        "1. Question: Q one?\n   Answer: A one.\n"
                        "2. Question: Q two?\n   Answer: A two.\n"
                        "3. Question: Q three?\n   Answer: A three.\n");
    generated_release(&result);
    script_release(&script);
}

static void fewer_than_three_pairs_are_not_joined(void **state)
{
    (void)state;
    struct lm_script script = {
        .says[REQUEST_DIRECT] = {PAIRS(PAIR("Q one?", "A.") "," PAIR("Q two?", "A."))}};
    struct generated result = script_run(&script, "1a,1b,2");
    assert_int_equal(result.task.pairs, 2);
    assert_int_equal(script.asked[REQUEST_CONSOLIDATE], 0);
    generated_release(&result);
    script_release(&script);
}

static void a_pair_is_rewritten_until_it_is_good(void **state)
{
    (void)state;
    struct lm_script script = {
        .says[REQUEST_DIRECT] = {PAIRS(PAIR("Where?", "There."))},
        .says[REQUEST_JUDGE] = {"{\"self_contained\":false}", "{\"self_contained\":false}",
                                "Well: {\"self_contained\":true}."},
        .says[REQUEST_REWRITE] = {PAIRS(PAIR("Where in 1801?", "There.")),
                                  PAIRS(PAIR("Where did Nan Corrigle go in 1801?", "To sea."))},
    };
    struct generated result = script_run(&script, "1a,3");
    assert_int_equal(result.task.pairs, 1);
    assert_pair(&result, 0, STEP_VERIFY, "Where did Nan Corrigle go in 1801?", "To sea.");
    assert_int_equal(result.pairs[0].seed, script.seeds[REQUEST_REWRITE][1]);
    assert_int_equal(script_dropped(&result, STEP_DIRECT, "rewritten"), 1);
    assert_int_equal(script_dropped(&result, STEP_VERIFY, "rewritten"), 1);
    assert_string_equal(script.prompts[REQUEST_REWRITE][1],
                        "Question: Where in 1801?\nAnswer: There.\n");
    generated_release(&result);
    script_release(&script);
}

static void a_pair_that_stays_bad_is_dropped(void **state)
{
    (void)state;
    struct lm_script script = {
        .says[REQUEST_DIRECT] = {PAIRS(PAIR("Where?", "There."))},
        .says[REQUEST_JUDGE] = {"{\"self_contained\":false}"},
        .says[REQUEST_REWRITE] = {PAIRS(PAIR("A?", "B.")), PAIRS(PAIR("C?", "D.")),
                                  PAIRS(PAIR("E?", "F.")), PAIRS(PAIR("G?", "H."))},
    };
    struct generated result = script_run(&script, "1a,3");
    assert_int_equal(result.task.outcome, TASK_EMPTY);
    assert_int_equal(script.asked[REQUEST_JUDGE], 4);
    assert_int_equal(script.asked[REQUEST_REWRITE], 3);
    assert_int_equal(script_dropped(&result, STEP_DIRECT, "rewritten"), 1);
    assert_int_equal(script_dropped(&result, STEP_VERIFY, "rewritten"), 2);
    assert_int_equal(script_dropped(&result, STEP_VERIFY, "not self-contained"), 1);
    generated_release(&result);
    script_release(&script);
}

static void a_rewrite_that_changes_nothing_is_not_judged_again(void **state)
{
    (void)state;
    struct lm_script script = {
        .says[REQUEST_DIRECT] = {PAIRS(PAIR("Where?", "There.") "," PAIR("When?", "Then."))},
        .says[REQUEST_JUDGE] = {"{\"self_contained\":false}"},
        .says[REQUEST_REWRITE] = {PAIRS(PAIR("Where?", " There.")), PAIRS("")},
    };
    struct generated result = script_run(&script, "1a,3");
    assert_int_equal(result.task.outcome, TASK_EMPTY);
    assert_int_equal(script.asked[REQUEST_JUDGE], 2);
    assert_int_equal(script_dropped(&result, STEP_DIRECT, "rewritten"), 1);
    assert_int_equal(script_dropped(&result, STEP_VERIFY, "not self-contained"), 1);
    assert_int_equal(script_dropped(&result, STEP_DIRECT, "not self-contained"), 1);
    generated_release(&result);
    script_release(&script);
}

static void a_pair_without_a_verdict_is_dropped(void **state)
{
    (void)state;
    struct lm_script script = {.says[REQUEST_DIRECT] = {PAIRS(PAIR("Where?", "There."))},
                               .says[REQUEST_JUDGE] = {"{\"self_contained\":\"yes\"}"}};
    struct generated result = script_run(&script, "1a,3");
    assert_int_equal(result.task.outcome, TASK_EMPTY);
    assert_int_equal(script.asked[REQUEST_JUDGE], 3);
    assert_int_equal(script_dropped(&result, STEP_DIRECT, "no verdict"), 1);
    generated_release(&result);
    script_release(&script);
}

static void names_are_looked_up_by_what_pairs_tell_of_them(void **state)
{
    (void)state;
    struct lm_script script = {
        .says[REQUEST_DIRECT] = {PAIRS(
            PAIR("Who sank the Salt Bride?", "Nan Corrigle.") "," PAIR("What is 2?", "Two."))},
        .says[REQUEST_ENTITIES] =
            {"{\"entities\":[\"Salt Bride\",\"salt  bride\",\"Salt Bri\",7]}"},
        .says[REQUEST_LOOKUP] =
            {"{\"pairs\":[{\"from\":[1],\"question\":\"Which ship did Nan Corrigle sink?\"},"
             "{\"from\":[1],\"question\":\"Was it the Salt Bride?\"},"
             "{\"from\":[2],\"question\":\"Which one?\"},"
             "{\"from\":[1],\"question\":\"WHAT is 2\"}]}"},
    };
    struct generated result = script_run(&script, "1a,4");
    assert_int_equal(result.task.pairs, 3);
    assert_pair(&result, 2, STEP_ENTITY, "Which ship did Nan Corrigle sink?", "Salt Bride");
    assert_int_equal(result.pairs[2].parent_count, 1);
    assert_true(digest_equal(result.pairs[2].parents[0], result.pairs[0].record_id));
    assert_int_equal(script.asked[REQUEST_LOOKUP], 1);
    assert_string_equal(script.prompts[REQUEST_LOOKUP][0],
                        "Name: Salt Bride\n"
                        "1. Question: Who sank the Salt Bride?\n   Answer: Nan Corrigle.\n");
    assert_int_equal(script_dropped(&result, STEP_ENTITY, "question tells the answer"), 1);
    assert_int_equal(script_dropped(&result, STEP_ENTITY, "not made from pairs of the list"), 1);
    assert_int_equal(script_dropped(&result, STEP_ENTITY, "repeated question"), 1);
    generated_release(&result);
    script_release(&script);
}

static void pairs_do_not_name_their_source(void **state)
{
    (void)state;
    struct lm_script script = {
        .says[REQUEST_DIRECT] = {PAIRS(
            PAIR("Who is in 0.txt?", "Nan.") "," PAIR("Who?", "10.txts."))},
        .says[REQUEST_REWRITE] = {PAIRS(PAIR("Who met Gideon?", "Nan."))},
    };
    struct generated plain = script_run(&script, "1a");
    assert_int_equal(plain.task.pairs, 1);
    assert_int_equal(script_dropped(&plain, STEP_DIRECT, "names its source file"), 1);
    generated_release(&plain);
    script_release(&script);
    memset(script.asked, 0, sizeof script.asked);
    struct generated mended = script_run(&script, "1a,3");
    assert_int_equal(mended.task.pairs, 2);
    assert_pair(&mended, 1, STEP_VERIFY, "Who met Gideon?", "Nan.");
    generated_release(&mended);
    script_release(&script);
}

static void a_chunk_without_words_is_set_aside(void **state)
{
    (void)state;
    const struct fixture_text one = {"Blank", " \n\t \xC2\xA0 ..."};
    struct corpus *corpus = corpus_from_texts(&one, 1);
    struct generator *generator = reflect_fixture_create(fake_lm_create(2), NULL);
    reflect_fixture_submit(generator, corpus, 0);
    struct generated result = reflect_fixture_wait(generator);
    assert_int_equal(result.task.outcome, TASK_SET_ASIDE);
    assert_string_equal(result.task.reason, "the chunk holds no words");
    generated_release(&result);
    generator_destroy(generator);
    corpus_close(corpus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(facts_are_taken_from_both_passes_and_cleaned),
        cmocka_unit_test(questions_are_repeated_whatever_their_spelling),
        cmocka_unit_test(pairs_are_joined_and_stay),
        cmocka_unit_test(fewer_than_three_pairs_are_not_joined),
        cmocka_unit_test(a_pair_is_rewritten_until_it_is_good),
        cmocka_unit_test(a_pair_that_stays_bad_is_dropped),
        cmocka_unit_test(a_rewrite_that_changes_nothing_is_not_judged_again),
        cmocka_unit_test(a_pair_without_a_verdict_is_dropped),
        cmocka_unit_test(names_are_looked_up_by_what_pairs_tell_of_them),
        cmocka_unit_test(pairs_do_not_name_their_source),
        cmocka_unit_test(a_chunk_without_words_is_set_aside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
