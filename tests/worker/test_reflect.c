// SPDX-License-Identifier: Apache-2.0
// What each of the five steps does with what a model answers.
#include "tests/worker/reflect_fixture.h"

#include "base/mem.h"
#include "tests/datasets/corpus_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEVERAL 4

// What the model says to the n-th request of a kind; the last answer stands for all that follow.
// NULL: an empty list, or the verdict "good".
struct script {
    const char *says[REQUEST_KINDS][SEVERAL];
    size_t cut_from[REQUEST_KINDS]; // bytes behind are forced; 0: none are
    bool length[REQUEST_KINDS];     // the first answer ends at the token budget
    size_t asked[REQUEST_KINDS];
    const char *fails[REQUEST_KINDS]; // with this problem
    enum lm_end end;                  // of failures
    uint64_t seeds[REQUEST_KINDS][SEVERAL];
    char *prompts[REQUEST_KINDS][SEVERAL];
};

static void play(void *state, const struct fake_request *request, struct fake_answer *answer)
{
    struct script *script = state;
    const enum request_kind kind = request->kind;
    const size_t turn = script->asked[kind]++;
    const char *says = NULL;
    for (size_t i = 0; i <= turn && i < SEVERAL; i++) {
        says = script->says[kind][i] ? script->says[kind][i] : says;
    }
    if (turn < SEVERAL) {
        script->seeds[kind][turn] = request->lm->seed;
        script->prompts[kind][turn] = mem_strdup(request->item);
    }
    if (script->fails[kind]) {
        answer->end = script->end;
        answer->problem = script->fails[kind];
    } else if (says) {
        strbuf_adds(&answer->text, says);
    } else if (kind == REQUEST_JUDGE) {
        strbuf_adds(&answer->text, "{\"self_contained\":true}");
    } else {
        strbuf_addf(&answer->text, "{\"%s\":[]}", request_kind_info(kind)->answer_key);
    }
    if (turn == 0 && script->length[kind]) {
        answer->end = LM_LENGTH;
        answer->forced_from = script->cut_from[kind] ? script->cut_from[kind] : SIZE_MAX;
    }
}

static void forget(struct script *script)
{
    for (size_t i = 0; i < REQUEST_KINDS * SEVERAL; i++) {
        free(script->prompts[i / SEVERAL][i % SEVERAL]);
    }
}

// The first chunk's result with the steps.
static struct generated run(struct script *script, const char *steps)
{
    struct corpus *corpus = reflect_fixture_corpus();
    struct fake_lm *fake = fake_lm_create(4);
    fake->answer = play;
    fake->state = script;
    struct generator *generator = reflect_fixture_create(fake, steps);
    reflect_fixture_submit(generator, corpus, 0);
    struct generated result = reflect_fixture_wait(generator);
    generator_destroy(generator);
    corpus_close(corpus);
    return result;
}

static uint32_t dropped(const struct generated *result, enum reflection_step step,
                        const char *reason)
{
    for (size_t i = 0; i < result->task.drop_count; i++) {
        const struct reflection_drop *drop = &result->task.drops[i];
        if (drop->step == step && strcmp(drop->reason, reason) == 0) {
            return drop->pairs;
        }
    }
    return 0;
}

static void assert_pair(const struct generated *result, uint32_t ordinal, enum reflection_step step,
                        const char *question, const char *answer)
{
    assert_true(ordinal < result->task.pairs);
    const struct reflection *pair = &result->pairs[ordinal];
    assert_int_equal(pair->step, step);
    assert_string_equal(pair->question, question);
    assert_string_equal(pair->answer, answer);
}

#define PAIR(question, answer) "{\"question\":\"" question "\",\"answer\":\"" answer "\"}"
#define PAIRS(items) "{\"pairs\":[" items "]}"

static void facts_are_taken_from_both_passes_and_cleaned(void **state)
{
    (void)state;
    struct script script = {
        .says[REQUEST_DIRECT] = {PAIRS(PAIR(" Who\\n met\\u0000 him? ", "Nan\\tCorrigle."))},
        .says[REQUEST_INDIRECT] = {PAIRS(PAIR("Whom did she meet?", "Gideon."))},
    };
    struct generated result = run(&script, "1a,1b");
    assert_int_equal(result.task.outcome, TASK_DONE);
    assert_int_equal(result.task.pairs, 2);
    assert_pair(&result, 0, STEP_DIRECT, "Who met him?", "Nan Corrigle.");
    assert_pair(&result, 1, STEP_INDIRECT, "Whom did she meet?", "Gideon.");
    assert_int_equal(result.pairs[0].seed, script.seeds[REQUEST_DIRECT][0]);
    assert_int_equal(script.asked[REQUEST_JUDGE], 0);
    assert_int_equal(script.asked[REQUEST_CONSOLIDATE], 0);
    generated_release(&result);
    forget(&script);
}

static void questions_are_repeated_whatever_their_spelling(void **state)
{
    (void)state;
    struct script script = {
        .says[REQUEST_DIRECT] = {PAIRS(
            PAIR("Who met him?", "A.") "," PAIR("WHO met \xE2\x80\x9Chim", "B."))},
        .says[REQUEST_INDIRECT] = {PAIRS(
            PAIR("who  met him", "C.") "," PAIR("Who met her?", "D."))},
    };
    struct generated result = run(&script, "1a,1b");
    assert_int_equal(result.task.pairs, 2);
    assert_pair(&result, 0, STEP_DIRECT, "Who met him?", "A.");
    assert_pair(&result, 1, STEP_INDIRECT, "Who met her?", "D.");
    assert_int_equal(dropped(&result, STEP_DIRECT, "repeated question"), 1);
    assert_int_equal(dropped(&result, STEP_INDIRECT, "repeated question"), 1);
    generated_release(&result);
    forget(&script);
}

#define THREE                                                                                      \
    PAIRS(PAIR("Q one?", "A one.") "," PAIR("Q two?", "A two.") "," PAIR("Q three?", "A three."))

static void pairs_are_joined_and_stay(void **state)
{
    (void)state;
    struct script script = {
        .says[REQUEST_DIRECT] = {THREE},
        .says[REQUEST_CONSOLIDATE] =
            {"{\"pairs\":[{\"from\":[3,1,3,9],\"question\":\"Both?\",\"answer\":\"Both.\"},"
             "{\"from\":[2],\"question\":\"Alone?\",\"answer\":\"Alone.\"},"
             "{\"from\":[2,2,0],\"question\":\"Twice?\",\"answer\":\"Twice.\"}]}"},
    };
    struct generated result = run(&script, "1a,1b,2");
    assert_int_equal(result.task.pairs, 4);
    assert_pair(&result, 3, STEP_CONSOLIDATE, "Both?", "Both.");
    assert_int_equal(result.pairs[3].parent_count, 2);
    assert_true(digest_equal(result.pairs[3].parents[0], result.pairs[2].record_id));
    assert_true(digest_equal(result.pairs[3].parents[1], result.pairs[0].record_id));
    assert_int_equal(dropped(&result, STEP_CONSOLIDATE, "not made from pairs of the list"), 2);
    assert_string_equal(script.prompts[REQUEST_CONSOLIDATE][0],
                        "1. Question: Q one?\n   Answer: A one.\n"
                        "2. Question: Q two?\n   Answer: A two.\n"
                        "3. Question: Q three?\n   Answer: A three.\n");
    generated_release(&result);
    forget(&script);
}

static void fewer_than_three_pairs_are_not_joined(void **state)
{
    (void)state;
    struct script script = {
        .says[REQUEST_DIRECT] = {PAIRS(PAIR("Q one?", "A.") "," PAIR("Q two?", "A."))}};
    struct generated result = run(&script, "1a,1b,2");
    assert_int_equal(result.task.pairs, 2);
    assert_int_equal(script.asked[REQUEST_CONSOLIDATE], 0);
    generated_release(&result);
    forget(&script);
}

static void a_pair_is_rewritten_until_it_is_good(void **state)
{
    (void)state;
    struct script script = {
        .says[REQUEST_DIRECT] = {PAIRS(PAIR("Where?", "There."))},
        .says[REQUEST_JUDGE] = {"{\"self_contained\":false}", "{\"self_contained\":false}",
                                "Well: {\"self_contained\":true}."},
        .says[REQUEST_REWRITE] = {PAIRS(PAIR("Where in 1801?", "There.")),
                                  PAIRS(PAIR("Where did Nan Corrigle go in 1801?", "To sea."))},
    };
    struct generated result = run(&script, "1a,3");
    assert_int_equal(result.task.pairs, 1);
    assert_pair(&result, 0, STEP_VERIFY, "Where did Nan Corrigle go in 1801?", "To sea.");
    assert_int_equal(result.pairs[0].seed, script.seeds[REQUEST_REWRITE][1]);
    assert_int_equal(dropped(&result, STEP_DIRECT, "rewritten"), 1);
    assert_int_equal(dropped(&result, STEP_VERIFY, "rewritten"), 1);
    assert_string_equal(script.prompts[REQUEST_REWRITE][1],
                        "Question: Where in 1801?\nAnswer: There.\n");
    generated_release(&result);
    forget(&script);
}

static void a_pair_that_stays_bad_is_dropped(void **state)
{
    (void)state;
    struct script script = {
        .says[REQUEST_DIRECT] = {PAIRS(PAIR("Where?", "There."))},
        .says[REQUEST_JUDGE] = {"{\"self_contained\":false}"},
        .says[REQUEST_REWRITE] = {PAIRS(PAIR("A?", "B.")), PAIRS(PAIR("C?", "D.")),
                                  PAIRS(PAIR("E?", "F.")), PAIRS(PAIR("G?", "H."))},
    };
    struct generated result = run(&script, "1a,3");
    assert_int_equal(result.task.outcome, TASK_EMPTY);
    assert_int_equal(script.asked[REQUEST_JUDGE], 4);
    assert_int_equal(script.asked[REQUEST_REWRITE], 3);
    assert_int_equal(dropped(&result, STEP_DIRECT, "rewritten"), 1);
    assert_int_equal(dropped(&result, STEP_VERIFY, "rewritten"), 2);
    assert_int_equal(dropped(&result, STEP_VERIFY, "not self-contained"), 1);
    generated_release(&result);
    forget(&script);
}

static void a_rewrite_that_changes_nothing_is_not_judged_again(void **state)
{
    (void)state;
    struct script script = {
        .says[REQUEST_DIRECT] = {PAIRS(PAIR("Where?", "There.") "," PAIR("When?", "Then."))},
        .says[REQUEST_JUDGE] = {"{\"self_contained\":false}"},
        .says[REQUEST_REWRITE] = {PAIRS(PAIR("Where?", " There.")), PAIRS("")},
    };
    struct generated result = run(&script, "1a,3");
    assert_int_equal(result.task.outcome, TASK_EMPTY);
    assert_int_equal(script.asked[REQUEST_JUDGE], 2);
    assert_int_equal(dropped(&result, STEP_DIRECT, "rewritten"), 1);
    assert_int_equal(dropped(&result, STEP_VERIFY, "not self-contained"), 1);
    assert_int_equal(dropped(&result, STEP_DIRECT, "not self-contained"), 1);
    generated_release(&result);
    forget(&script);
}

static void a_pair_without_a_verdict_is_dropped(void **state)
{
    (void)state;
    struct script script = {.says[REQUEST_DIRECT] = {PAIRS(PAIR("Where?", "There."))},
                            .says[REQUEST_JUDGE] = {"{\"self_contained\":\"yes\"}"}};
    struct generated result = run(&script, "1a,3");
    assert_int_equal(result.task.outcome, TASK_EMPTY);
    assert_int_equal(script.asked[REQUEST_JUDGE], 3);
    assert_int_equal(dropped(&result, STEP_DIRECT, "no verdict"), 1);
    generated_release(&result);
    forget(&script);
}

static void names_are_looked_up_by_what_pairs_tell_of_them(void **state)
{
    (void)state;
    struct script script = {
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
    struct generated result = run(&script, "1a,4");
    assert_int_equal(result.task.pairs, 3);
    assert_pair(&result, 2, STEP_ENTITY, "Which ship did Nan Corrigle sink?", "Salt Bride");
    assert_int_equal(result.pairs[2].parent_count, 1);
    assert_true(digest_equal(result.pairs[2].parents[0], result.pairs[0].record_id));
    assert_int_equal(script.asked[REQUEST_LOOKUP], 1);
    assert_string_equal(script.prompts[REQUEST_LOOKUP][0],
                        "Name: Salt Bride\n"
                        "1. Question: Who sank the Salt Bride?\n   Answer: Nan Corrigle.\n");
    assert_int_equal(dropped(&result, STEP_ENTITY, "question tells the answer"), 1);
    assert_int_equal(dropped(&result, STEP_ENTITY, "not made from pairs of the list"), 1);
    assert_int_equal(dropped(&result, STEP_ENTITY, "repeated question"), 1);
    generated_release(&result);
    forget(&script);
}

static void a_cut_answer_is_continued_with_what_is_there(void **state)
{
    (void)state;
    static const char first[] =
        PAIRS(PAIR("Q one?", "A.") "," PAIR("Q two?", "A.") "," PAIR("Q th", ""));
    struct script script = {
        .says[REQUEST_DIRECT] = {first, PAIRS(PAIR("Q three?", "A."))},
        .length[REQUEST_DIRECT] = true,
        .cut_from[REQUEST_DIRECT] = sizeof first - 1 - strlen("\",\"answer\":\"\"}]}"),
    };
    struct generated result = run(&script, "1a");
    assert_int_equal(result.task.pairs, 3);
    assert_pair(&result, 2, STEP_DIRECT, "Q three?", "A.");
    assert_int_equal(script.asked[REQUEST_DIRECT], 2);
    assert_int_equal(dropped(&result, STEP_DIRECT, "cut short"), 1);
    assert_string_equal(script.prompts[REQUEST_DIRECT][0], "");
    const char *continued = strstr(script.prompts[REQUEST_DIRECT][1], "- Q one?\n- Q two?\n");
    assert_non_null(continued);
    assert_string_equal(continued, "- Q one?\n- Q two?\n");
    assert_true(script.seeds[REQUEST_DIRECT][0] != script.seeds[REQUEST_DIRECT][1]);
    assert_int_equal(result.pairs[2].seed, script.seeds[REQUEST_DIRECT][1]);
    generated_release(&result);
    forget(&script);
}

static void continuations_end(void **state)
{
    (void)state;
    struct script script = {.says[REQUEST_DIRECT] = {"{\"pairs\":[{\"question\":\"endless"},
                            .says[REQUEST_INDIRECT] = {PAIRS(PAIR("Q?", "A."))}};
    struct generated result = run(&script, "1a,1b");
    assert_int_equal(result.task.outcome, TASK_DONE);
    assert_int_equal(script.asked[REQUEST_DIRECT], 3); // one and two continuations
    assert_int_equal(dropped(&result, STEP_DIRECT, "cut short"), 3);
    generated_release(&result);
    forget(&script);
}

static void a_chunk_that_leaves_no_room_for_an_answer_is_set_aside(void **state)
{
    (void)state;
    struct script script = {.says[REQUEST_DIRECT] = {"{\"pairs\":[{\"question\":\"endless"}};
    struct generated result = run(&script, NULL);
    assert_int_equal(result.task.outcome, TASK_SET_ASIDE);
    assert_non_null(strstr(result.task.reason, "step 1: every answer was cut"));
    generated_release(&result);
    forget(&script);
}

// The model takes lists of at most one pair; the parts keep their order.
static void take_one_pair(void *state, const struct fake_request *request,
                          struct fake_answer *answer)
{
    if (request->kind == REQUEST_ENTITIES && strstr(request->item, "\n2. Question")) {
        answer->end = LM_REJECTED;
        answer->problem = "too long";
    } else if (request->kind == REQUEST_ENTITIES) {
        const bool third = strstr(request->item, "three") != NULL;
        strbuf_adds(&answer->text,
                    third ? "{\"entities\":[\"three\",\"Q\"]}" : "{\"entities\":[\"Q\"]}");
    } else if (request->kind == REQUEST_LOOKUP) {
        const bool third = strstr(request->item, "Name: three") != NULL;
        if (!third && strstr(request->item, "\n3. ")) {
            strbuf_adds(&answer->text, "{\"pairs\":[{\"from\":[1],\"quest");
            answer->end = LM_LENGTH;
        } else if (!third && strstr(request->item, "\n2. ")) {
            strbuf_adds(&answer->text, "{\"pai");
            answer->end = LM_LENGTH;
        } else {
            strbuf_addf(&answer->text, "{\"pairs\":[{\"from\":[1],\"question\":\"Who of %zu?\"}]}",
                        request->prompt_bytes);
        }
    } else {
        play(state, request, answer);
    }
}

static void lists_that_are_too_long_are_split(void **state)
{
    (void)state;
    struct script script = {.says[REQUEST_DIRECT] = {THREE}};
    struct corpus *corpus = reflect_fixture_corpus();
    struct fake_lm *fake = fake_lm_create(4);
    fake->answer = take_one_pair;
    fake->state = &script;
    struct generator *generator = reflect_fixture_create(fake, "1a,4");
    reflect_fixture_submit(generator, corpus, 0);
    struct generated result = reflect_fixture_wait(generator);
    assert_int_equal(result.task.outcome, TASK_DONE);
    assert_int_equal(fake->requests[REQUEST_ENTITIES], 5); // 3, 1 + 2, 1 + 1
    assert_int_equal(fake->requests[REQUEST_LOOKUP], 6);   // of Q the same, and of three
    assert_int_equal(result.task.pairs, 6);
    assert_string_equal(result.pairs[3].answer, "Q");
    assert_string_equal(result.pairs[4].answer, "Q");
    assert_string_equal(result.pairs[5].answer, "three");
    assert_true(digest_equal(result.pairs[3].parents[0], result.pairs[0].record_id));
    assert_true(digest_equal(result.pairs[4].parents[0], result.pairs[2].record_id));
    assert_int_equal(dropped(&result, STEP_ENTITY, "cut short"), 1);
    assert_int_equal(dropped(&result, STEP_ENTITY, "repeated question"), 1); // of one and of two
    assert_int_equal(dropped(&result, STEP_ENTITY, "unreadable answer"), 0);
    generated_release(&result);
    generator_destroy(generator);
    corpus_close(corpus);
    forget(&script);
}

static void an_unreadable_answer_is_asked_for_again(void **state)
{
    (void)state;
    struct script script = {
        .says[REQUEST_DIRECT] = {"No.", "[", PAIRS(PAIR("Q?", "A."))},
        .says[REQUEST_ENTITIES] = {"None that I see."},
    };
    struct generated result = run(&script, "1a,4");
    assert_int_equal(result.task.pairs, 1);
    assert_int_equal(script.asked[REQUEST_DIRECT], 3);
    assert_true(script.seeds[REQUEST_DIRECT][0] != script.seeds[REQUEST_DIRECT][1]);
    assert_int_equal(script.asked[REQUEST_ENTITIES], 3);
    assert_int_equal(dropped(&result, STEP_ENTITY, "unreadable answer"), 1);
    generated_release(&result);
    forget(&script);
}

static void a_chunk_whose_facts_cannot_be_read_is_set_aside(void **state)
{
    (void)state;
    struct script script = {.says[REQUEST_DIRECT] = {"No."},
                            .says[REQUEST_INDIRECT] = {PAIRS(PAIR("Q?", "A."))}};
    struct generated result = run(&script, NULL);
    assert_int_equal(result.task.outcome, TASK_SET_ASIDE);
    assert_string_equal(result.task.reason, "step 1a (direct): no readable answer in 3 tries, at "
                                            "last: no array 'pairs' in an answer of 3 bytes");
    assert_int_equal(result.task.pairs, 0);
    generated_release(&result);
    forget(&script);
}

static void items_of_wrong_form_are_counted(void **state)
{
    (void)state;
    struct strbuf says = {0};
    strbuf_adds(&says, "{\"pairs\":[7,{},{\"question\":\"Q\"},{\"question\":\"Q\",\"answer\":1},"
                       "{\"question\":\"?!\",\"answer\":\"A\"},{\"question\":\"");
    for (int i = 0; i < 501; i++) {
        strbuf_adds(&says, "\xC3\xA9");
    }
    strbuf_adds(&says, "\",\"answer\":\"A\"},{\"question\":\"");
    for (int i = 0; i < 500; i++) {
        strbuf_adds(&says, "\xC3\xA9");
    }
    strbuf_adds(&says, "\",\"answer\":\"A\"}]}");
    struct script script = {.says[REQUEST_DIRECT] = {says.bytes}};
    struct generated result = run(&script, "1a");
    assert_int_equal(result.task.pairs, 1);
    assert_int_equal(result.pairs[0].question_bytes, 1000);
    assert_int_equal(dropped(&result, STEP_DIRECT, "malformed"), 5);
    assert_int_equal(dropped(&result, STEP_DIRECT, "too long"), 1);
    generated_release(&result);
    forget(&script);
    strbuf_release(&says);
}

static void a_failing_request_sets_its_task_aside(void **state)
{
    (void)state;
    const char *const reasons[REQUEST_KINDS] = {
        [REQUEST_DIRECT] = "step 1a (direct): it is over",
        [REQUEST_INDIRECT] = "step 1b (indirect): it is over",
        [REQUEST_CONSOLIDATE] = "step 2 (consolidate): it is over",
        [REQUEST_JUDGE] = "step 3 (judge): it is over",
        [REQUEST_REWRITE] = "step 3 (rewrite): it is over",
        [REQUEST_ENTITIES] = "step 4 (entities): it is over",
        [REQUEST_LOOKUP] = "step 4 (lookup): it is over",
    };
    for (int kind = REQUEST_DIRECT; kind <= REQUEST_LOOKUP; kind++) {
        struct script script = {
            .says[REQUEST_DIRECT] = {THREE},
            .says[REQUEST_JUDGE] = {kind == REQUEST_REWRITE ? "{\"self_contained\":false}" : NULL},
            .says[REQUEST_ENTITIES] = {"{\"entities\":[\"three\"]}"},
            .end = kind % 2 ? LM_REJECTED : LM_FAILED,
        };
        script.fails[kind] = "it is over";
        struct generated result = run(&script, NULL);
        assert_int_equal(result.task.outcome, TASK_SET_ASIDE);
        assert_string_equal(result.task.reason, reasons[kind]);
        assert_int_equal(result.task.pairs, 0);
        assert_int_equal(result.task.drop_count, 0);
        assert_true(result.task.usage_count > 0);
        generated_release(&result);
        forget(&script);
    }
}

static void problems_are_quoted_as_text(void **state)
{
    (void)state;
    struct strbuf problem = {0};
    strbuf_adds(&problem, "503\n\xFF\xC3\xA9: ");
    for (int i = 0; i < 1000; i++) {
        strbuf_adds(&problem, "\xC3\xA9");
    }
    struct script script = {.fails[REQUEST_DIRECT] = problem.bytes, .end = LM_FAILED};
    struct generated result = run(&script, "1a");
    const char expected[] = "step 1a (direct): 503??\xC3\xA9: \xC3\xA9\xC3\xA9";
    assert_memory_equal(result.task.reason, expected, sizeof expected - 1);
    assert_true(strlen(result.task.reason) < 600);
    generated_release(&result);
    forget(&script);
    strbuf_release(&problem);
}

static void pairs_do_not_name_their_source(void **state)
{
    (void)state;
    struct script script = {
        .says[REQUEST_DIRECT] = {PAIRS(
            PAIR("Who is in 0.txt?", "Nan.") "," PAIR("Who?", "10.txts."))},
        .says[REQUEST_REWRITE] = {PAIRS(PAIR("Who met Gideon?", "Nan."))},
    };
    struct generated plain = run(&script, "1a");
    assert_int_equal(plain.task.pairs, 1);
    assert_int_equal(dropped(&plain, STEP_DIRECT, "names its source file"), 1);
    generated_release(&plain);
    forget(&script);
    memset(script.asked, 0, sizeof script.asked);
    struct generated mended = run(&script, "1a,3");
    assert_int_equal(mended.task.pairs, 2);
    assert_pair(&mended, 1, STEP_VERIFY, "Who met Gideon?", "Nan.");
    generated_release(&mended);
    forget(&script);
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
        cmocka_unit_test(a_cut_answer_is_continued_with_what_is_there),
        cmocka_unit_test(continuations_end),
        cmocka_unit_test(a_chunk_that_leaves_no_room_for_an_answer_is_set_aside),
        cmocka_unit_test(lists_that_are_too_long_are_split),
        cmocka_unit_test(an_unreadable_answer_is_asked_for_again),
        cmocka_unit_test(a_chunk_whose_facts_cannot_be_read_is_set_aside),
        cmocka_unit_test(items_of_wrong_form_are_counted),
        cmocka_unit_test(a_failing_request_sets_its_task_aside),
        cmocka_unit_test(problems_are_quoted_as_text),
        cmocka_unit_test(pairs_do_not_name_their_source),
        cmocka_unit_test(a_chunk_without_words_is_set_aside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
