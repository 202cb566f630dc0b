// SPDX-License-Identifier: Apache-2.0
// Answers that are cut, unreadable, of wrong form, or that never come.
#include "tests/worker/lm_script.h"

#include "tests/datasets/corpus_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void a_cut_answer_is_continued_with_what_is_there(void **state)
{
    (void)state;
    static const char first[] =
        PAIRS(PAIR("Q one?", "A.") "," PAIR("Q two?", "A.") "," PAIR("Q th", ""));
    struct lm_script script = {
        .says[REQUEST_DIRECT] = {first, PAIRS(PAIR("Q three?", "A."))},
        .length[REQUEST_DIRECT] = true,
        .cut_from[REQUEST_DIRECT] = sizeof first - 1 - strlen("\",\"answer\":\"\"}]}"),
    };
    struct generated result = script_run(&script, "1a");
    assert_int_equal(result.task.pairs, 3);
    assert_pair(&result, 2, STEP_DIRECT, "Q three?", "A.");
    assert_int_equal(script.asked[REQUEST_DIRECT], 2);
    assert_int_equal(script_dropped(&result, STEP_DIRECT, "cut short"), 1);
    assert_string_equal(script.prompts[REQUEST_DIRECT][0], "");
    const char *continued = strstr(script.prompts[REQUEST_DIRECT][1], "- Q one?\n- Q two?\n");
    assert_non_null(continued);
    assert_string_equal(continued, "- Q one?\n- Q two?\n");
    assert_true(script.seeds[REQUEST_DIRECT][0] != script.seeds[REQUEST_DIRECT][1]);
    assert_int_equal(result.pairs[2].seed, script.seeds[REQUEST_DIRECT][1]);
    generated_release(&result);
    script_release(&script);
}

static void continuations_end(void **state)
{
    (void)state;
    struct lm_script script = {.says[REQUEST_DIRECT] = {"{\"pairs\":[{\"question\":\"endless"},
                               .says[REQUEST_INDIRECT] = {PAIRS(PAIR("Q?", "A."))}};
    struct generated result = script_run(&script, "1a,1b");
    assert_int_equal(result.task.outcome, TASK_DONE);
    assert_int_equal(script.asked[REQUEST_DIRECT], 3); // one and two continuations
    assert_int_equal(script_dropped(&result, STEP_DIRECT, "cut short"), 3);
    generated_release(&result);
    script_release(&script);
}

static void a_chunk_that_leaves_no_room_for_an_answer_is_set_aside(void **state)
{
    (void)state;
    struct lm_script script = {.says[REQUEST_DIRECT] = {"{\"pairs\":[{\"question\":\"endless"}};
    struct generated result = script_run(&script, NULL);
    assert_int_equal(result.task.outcome, TASK_SET_ASIDE);
    assert_non_null(strstr(result.task.reason, "step 1: every answer was cut"));
    generated_release(&result);
    script_release(&script);
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
        script_play(state, request, answer);
    }
}

static void lists_that_are_too_long_are_split(void **state)
{
    (void)state;
    struct lm_script script = {.says[REQUEST_DIRECT] = {THREE}};
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
    assert_int_equal(script_dropped(&result, STEP_ENTITY, "cut short"), 1);
    assert_int_equal(script_dropped(&result, STEP_ENTITY, "repeated question"),
                     1); // of one and of two
    assert_int_equal(script_dropped(&result, STEP_ENTITY, "unreadable answer"), 0);
    generated_release(&result);
    generator_destroy(generator);
    corpus_close(corpus);
    script_release(&script);
}

static void an_unreadable_answer_is_asked_for_again(void **state)
{
    (void)state;
    struct lm_script script = {
        .says[REQUEST_DIRECT] = {"No.", "[", PAIRS(PAIR("Q?", "A."))},
        .says[REQUEST_ENTITIES] = {"None that I see."},
    };
    struct generated result = script_run(&script, "1a,4");
    assert_int_equal(result.task.pairs, 1);
    assert_int_equal(script.asked[REQUEST_DIRECT], 3);
    assert_true(script.seeds[REQUEST_DIRECT][0] != script.seeds[REQUEST_DIRECT][1]);
    assert_int_equal(script.asked[REQUEST_ENTITIES], 3);
    assert_int_equal(script_dropped(&result, STEP_ENTITY, "unreadable answer"), 1);
    generated_release(&result);
    script_release(&script);
}

static void a_chunk_whose_facts_cannot_be_read_is_set_aside(void **state)
{
    (void)state;
    struct lm_script script = {.says[REQUEST_DIRECT] = {"No."},
                               .says[REQUEST_INDIRECT] = {PAIRS(PAIR("Q?", "A."))}};
    struct generated result = script_run(&script, NULL);
    assert_int_equal(result.task.outcome, TASK_SET_ASIDE);
    assert_string_equal(result.task.reason, "step 1a (direct): no readable answer in 3 tries, at "
                                            "last: no array 'pairs' in an answer of 3 bytes");
    assert_int_equal(result.task.pairs, 0);
    generated_release(&result);
    script_release(&script);
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
    struct lm_script script = {.says[REQUEST_DIRECT] = {says.bytes}};
    struct generated result = script_run(&script, "1a");
    assert_int_equal(result.task.pairs, 1);
    assert_int_equal(result.pairs[0].question_bytes, 1000);
    assert_int_equal(script_dropped(&result, STEP_DIRECT, "malformed"), 5);
    assert_int_equal(script_dropped(&result, STEP_DIRECT, "too long"), 1);
    generated_release(&result);
    script_release(&script);
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
        struct lm_script script = {
            .says[REQUEST_DIRECT] = {THREE},
            .says[REQUEST_JUDGE] = {kind == REQUEST_REWRITE ? "{\"self_contained\":false}" : NULL},
            .says[REQUEST_ENTITIES] = {"{\"entities\":[\"three\"]}"},
            .end = kind % 2 ? LM_REJECTED : LM_FAILED,
        };
        script.fails[kind] = "it is over";
        struct generated result = script_run(&script, NULL);
        assert_int_equal(result.task.outcome, TASK_SET_ASIDE);
        assert_string_equal(result.task.reason, reasons[kind]);
        assert_int_equal(result.task.pairs, 0);
        assert_int_equal(result.task.drop_count, 0);
        assert_true(result.task.usage_count > 0);
        generated_release(&result);
        script_release(&script);
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
    struct lm_script script = {.fails[REQUEST_DIRECT] = problem.bytes, .end = LM_FAILED};
    struct generated result = script_run(&script, "1a");
    const char expected[] = "step 1a (direct): 503??\xC3\xA9: \xC3\xA9\xC3\xA9";
    assert_memory_equal(result.task.reason, expected, sizeof expected - 1);
    assert_true(strlen(result.task.reason) < 600);
    generated_release(&result);
    script_release(&script);
    strbuf_release(&problem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cut_answer_is_continued_with_what_is_there),
        cmocka_unit_test(continuations_end),
        cmocka_unit_test(a_chunk_that_leaves_no_room_for_an_answer_is_set_aside),
        cmocka_unit_test(lists_that_are_too_long_are_split),
        cmocka_unit_test(an_unreadable_answer_is_asked_for_again),
        cmocka_unit_test(a_chunk_whose_facts_cannot_be_read_is_set_aside),
        cmocka_unit_test(items_of_wrong_form_are_counted),
        cmocka_unit_test(a_failing_request_sets_its_task_aside),
        cmocka_unit_test(problems_are_quoted_as_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
