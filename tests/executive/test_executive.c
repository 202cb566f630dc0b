// SPDX-License-Identifier: Apache-2.0
#include "worker/executive/executive.h"

#include "base/mem.h"
#include "tests/executive/scripted_lm.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { QUESTIONS = 40 };

// What came out of each inquiry, as text.
struct outcome {
    enum inquiry_stage stage;
    char *answer, *subject, *transcript, *problem;
    size_t lines;
};

struct test {
    struct outcome outcomes[QUESTIONS];
    int turns[INQUIRY_ANSWERED]; // of the executive, by stage
    int retries;
    size_t shown_most;
    uint64_t seed;
};

static void ended(void *context, size_t at, const struct inquiry *inquiry)
{
    struct test *test = context;
    struct strbuf text = {0};
    for (size_t i = 0; i < inquiry_line_count(inquiry); i++) {
        const struct inquiry_line *line = inquiry_line_at(inquiry, i);
        strbuf_addf(&text, "%s|%s|%s|%s\n", inquiry_stage_name(line->stage), line->candidate,
                    line->question, line->answer);
    }
    strbuf_reserve(&text, 1);
    const char *answer = inquiry_answer(inquiry);
    assert_null(test->outcomes[at].answer);
    test->outcomes[at] = (struct outcome){.stage = inquiry_stage(inquiry),
                                          .answer = mem_strdup(answer ? answer : ""),
                                          .subject = mem_strdup(inquiry_subject(inquiry)),
                                          .problem = mem_strdup(inquiry_problem(inquiry)),
                                          .lines = inquiry_line_count(inquiry)};
    test->outcomes[at].transcript = strbuf_detach(&text);
}

static void release(struct test *test)
{
    for (size_t i = 0; i < QUESTIONS; i++) {
        free(test->outcomes[i].answer);
        free(test->outcomes[i].subject);
        free(test->outcomes[i].problem);
        free(test->outcomes[i].transcript);
    }
}

static size_t run(struct test *test, scripted_answer *executive, scripted_answer *memory,
                  size_t count, size_t capacity, const struct inquiry_limits *limits)
{
    const char *questions[QUESTIONS];
    char texts[QUESTIONS][64];
    struct error err = {""};
    for (size_t i = 0; i < count; i++) {
        snprintf(texts[i], sizeof texts[i], "Who kept light %zu?", i);
        questions[i] = texts[i];
    }
    struct lm *models[] = {scripted_lm_create(executive, test, capacity, test->seed),
                           scripted_lm_create(memory, test, capacity, test->seed + 1)};
    const struct executive how = {.executive = models[0],
                                  .memory = models[1],
                                  .limits = *limits,
                                  .seed = 5,
                                  .ended = ended,
                                  .context = test};
    if (executive_run(&how, questions, count, &err))
        fail_msg("%s", err.text);
    const size_t most =
        scripted_lm_most_in_flight(models[0]) + scripted_lm_most_in_flight(models[1]);
    lm_destroy(models[0]);
    lm_destroy(models[1]);
    return most;
}

static enum inquiry_stage stage_of(struct test *test, const char *prompt)
{
    static const char *const marks[] = {"take the user's question apart", "find out which person",
                                        "collect what is needed", "answer the user's question."};
    const char *shown = strstr(prompt, "User's question:");
    assert_non_null(shown);
    test->shown_most = strlen(shown) > test->shown_most ? strlen(shown) : test->shown_most;
    for (int s = 0; s < INQUIRY_ANSWERED; s++)
        if (strstr(prompt, marks[s])) {
            test->turns[s]++;
            return (enum inquiry_stage)s;
        }
    fail_msg("a turn of no stage: %s", prompt);
    return INQUIRY_FAILED;
}

static bool knows(const char *prompt, const char *answer)
{
    return strstr(prompt, answer) != NULL;
}

// --- an inquiry as it should be: who kept the light is found over the island ---

static void keeper_executive(void *context, const char *prompt, const struct lm_request *request,
                             struct strbuf *out)
{
    assert_non_null(request->schema);
    switch (stage_of(context, prompt)) {
    case INQUIRY_GROUNDING:
        strbuf_adds(out, "{\"questions\":[\"Which island has the light?\",\"Who is Ada?\"]}");
        return;
    case INQUIRY_IDENTIFYING:
        strbuf_adds(out, knows(prompt, "A: the island of Lasp")
                             ? "{\"known\":\"Lasp\",\"candidates\":[],\"confirmed\":\"Lasp "
                               "Light\",\"questions\":[]}"
                             : "{\"known\":\"\",\"candidates\":[],\"confirmed\":\"\",\"questions\":"
                               "[{\"candidate\":\"Lasp Light\",\"question\":\"Where is Lasp "
                               "Light?\"}]}");
        return;
    case INQUIRY_SEEKING:
        assert_true(knows(prompt, "Subject: Lasp Light"));
        strbuf_adds(out, knows(prompt, "A: Ada Brook")
                             ? "{\"subject\":\"Lasp Light\",\"known\":\"Ada\",\"enough\":true,"
                               "\"questions\":[\"never asked\"]}"
                             : "{\"subject\":\"\",\"known\":\"\",\"enough\":false,\"questions\":["
                               "\"Who kept Lasp Light?\"]}");
        return;
    default:
        strbuf_adds(out, knows(prompt, "A: Ada Brook") ? "{\"answer\":\"Ada Brook\"}"
                                                       : "{\"answer\":\"lost\"}");
    }
}

static void keeper_memory(void *context, const char *prompt, const struct lm_request *request,
                          struct strbuf *out)
{
    (void)context;
    assert_null(request->schema);
    assert_int_equal(request->system.bytes, 0);
    strbuf_adds(out, strcmp(prompt, "Which island has the light?") == 0 ? "the island of Lasp"
                     : strcmp(prompt, "Who kept Lasp Light?") == 0      ? "Ada Brook"
                                                                        : "I don't know.");
}

static void an_inquiry_ends_with_what_the_memory_knew(void **state)
{
    (void)state;
    struct test test = {.seed = 1};
    run(&test, keeper_executive, keeper_memory, 1, 4, &inquiry_usual_limits);
    assert_int_equal(test.outcomes[0].stage, INQUIRY_ANSWERED);
    assert_string_equal(test.outcomes[0].answer, "Ada Brook");
    assert_string_equal(test.outcomes[0].subject, "Lasp Light");
    assert_string_equal(test.outcomes[0].transcript,
                        "grounding||Which island has the light?|the island of Lasp\n"
                        "grounding||Who is Ada?|I don't know.\n"
                        "seeking||Who kept Lasp Light?|Ada Brook\n");
    const int turns[] = {1, 1, 2, 1};
    assert_memory_equal(test.turns, turns, sizeof turns);
    release(&test);
}

// --- an executive that never has enough ---

static void curious_executive(void *context, const char *prompt, const struct lm_request *request,
                              struct strbuf *out)
{
    struct test *test = context;
    (void)request;
    switch (stage_of(test, prompt)) {
    case INQUIRY_GROUNDING:
        strbuf_adds(out, "{\"questions\":[\"a\",\"a\",\"A\",\"\"]}");
        return;
    case INQUIRY_IDENTIFYING:
        strbuf_addf(out,
                    "{\"known\":\"\",\"candidates\":[],\"confirmed\":\"\",\"questions\":[{"
                    "\"candidate\":\"B\",\"question\":\"b%d\"},{\"candidate\":\"b\",\"question\":"
                    "\"bb%d\"},{\"candidate\":\"\",\"question\":\"n%d\"}]}",
                    test->turns[1], test->turns[1], test->turns[1]);
        return;
    case INQUIRY_SEEKING:
        strbuf_addf(out,
                    "{\"subject\":\"\",\"known\":\"\",\"enough\":false,\"questions\":[\"s%d\"]}",
                    test->turns[2]);
        return;
    default:
        strbuf_adds(out, "{\"answer\":\"x\"}");
    }
}

static void unknowing_memory(void *context, const char *prompt, const struct lm_request *request,
                             struct strbuf *out)
{
    (void)context, (void)prompt, (void)request;
    strbuf_adds(out, "i do NOT know");
}

static void turns_end_and_dead_candidates_are_left_alone(void **state)
{
    (void)state;
    struct test test = {.seed = 2};
    run(&test, curious_executive, unknowing_memory, 1, 4, &inquiry_usual_limits);
    assert_int_equal(test.outcomes[0].stage, INQUIRY_ANSWERED);
    const int turns[] = {1, 7, 8, 1};
    assert_memory_equal(test.turns, turns, sizeof turns);
    // "a" once; of B two in the first turn and two in the second, when it has two unknowns; then it
    // has four; n in each of seven turns; s in each of eight
    assert_int_equal(test.outcomes[0].lines, 1 + 4 + 7 + 8);
    release(&test);
}

static void the_memory_is_not_asked_without_end(void **state)
{
    (void)state;
    struct test test = {.seed = 2};
    struct inquiry_limits limits = inquiry_usual_limits;
    limits.memory_questions = 6;
    limits.transcript_bytes = 30;
    run(&test, curious_executive, unknowing_memory, 1, 4, &limits);
    assert_int_equal(test.outcomes[0].lines, 6);
    assert_in_range(test.shown_most, 1, 120); // the question, what was given up, 30 bytes of lines
    release(&test);
}

// --- executives that cannot be understood ---

static void babbling_executive(void *context, const char *prompt, const struct lm_request *request,
                               struct strbuf *out)
{
    (void)request;
    stage_of(context, prompt);
    strbuf_adds(out, "Let me think about it.");
}

static void what_cannot_be_read_is_asked_for_again_and_then_given_up(void **state)
{
    (void)state;
    struct test test = {.seed = 3};
    run(&test, babbling_executive, keeper_memory, 1, 4, &inquiry_usual_limits);
    assert_int_equal(test.outcomes[0].stage, INQUIRY_FAILED);
    const int turns[] = {3, 3, 3, 3};
    assert_memory_equal(test.turns, turns, sizeof turns);
    assert_non_null(strstr(test.outcomes[0].problem, "while concluding"));
    release(&test);
}

static void stammering_executive(void *context, const char *prompt,
                                 const struct lm_request *request, struct strbuf *out)
{
    struct test *test = context;
    if (++test->retries % 3 != 0)
        strbuf_adds(out, "{\"questions\":7,\"known\":1,\"enough\":\"?\",\"answer\":[]}");
    else
        keeper_executive(context, prompt, request, out);
}

static void a_turn_that_was_read_at_last_counts(void **state)
{
    (void)state;
    struct test test = {.seed = 4};
    run(&test, stammering_executive, keeper_memory, 1, 4, &inquiry_usual_limits);
    assert_string_equal(test.outcomes[0].answer, "Ada Brook");
    release(&test);
}

// --- many at once ---

static void many_at_once_are_as_one_after_another(void **state)
{
    (void)state;
    struct test alone = {.seed = 6}, crowd = {.seed = 7};
    assert_in_range(
        run(&alone, keeper_executive, keeper_memory, QUESTIONS, 1, &inquiry_usual_limits), 1, 4);
    assert_in_range(
        run(&crowd, keeper_executive, keeper_memory, QUESTIONS, 9, &inquiry_usual_limits), 10, 36);
    for (size_t i = 0; i < QUESTIONS; i++) {
        assert_string_equal(alone.outcomes[i].answer, crowd.outcomes[i].answer);
        assert_string_equal(alone.outcomes[i].transcript, crowd.outcomes[i].transcript);
    }
    release(&alone);
    release(&crowd);
}

// Anything at all, chosen by the request's seed.
static void random_executive(void *context, const char *prompt, const struct lm_request *request,
                             struct strbuf *out)
{
    static const char *const pieces[] = {
        "{\"questions\":[\"q\",\"r\"]}",
        "{\"known\":\"k\",\"confirmed\":\"c\",\"questions\":[{\"candidate\":\"c\"}]}",
        "{\"known\":\"k\",\"confirmed\":\"\",\"questions\":[{\"candidate\":\"c\",\"question\":\"u\"}]}",
        "{\"subject\":\"s\",\"enough\":false,\"questions\":[\"v\",\"w\",3]}",
        "{\"answer\":\"a\"}",
        "[]",
        "{\"questions\":[[]]}",
        "{",
        "",
    };
    (void)context, (void)prompt;
    strbuf_adds(out, pieces[request->seed % (sizeof pieces / sizeof *pieces)]);
}

static void whatever_the_executive_says_every_inquiry_ends(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct test test = {.seed = seed};
        run(&test, random_executive, unknowing_memory, QUESTIONS, 5, &inquiry_usual_limits);
        for (size_t i = 0; i < QUESTIONS; i++)
            assert_true(test.outcomes[i].stage == INQUIRY_ANSWERED ||
                        test.outcomes[i].stage == INQUIRY_FAILED);
        release(&test);
    }
}

static void ignorance_is_recognized(void **state)
{
    (void)state;
    static const char *const unknown[] = {"",
                                          " \n",
                                          "I don't know.",
                                          "i don\u2019t know",
                                          "I do not know who.",
                                          "Unknown",
                                          "I'm not sure, but"};
    static const char *const known[] = {
        "I", "Ida Knowles", "The unknown soldier", "Unknown Pleasures", "Don", "I do"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        assert_true(answer_is_unknown(unknown[i], strlen(unknown[i])));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_false(answer_is_unknown(known[i], strlen(known[i])));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_inquiry_ends_with_what_the_memory_knew),
        cmocka_unit_test(turns_end_and_dead_candidates_are_left_alone),
        cmocka_unit_test(the_memory_is_not_asked_without_end),
        cmocka_unit_test(what_cannot_be_read_is_asked_for_again_and_then_given_up),
        cmocka_unit_test(a_turn_that_was_read_at_last_counts),
        cmocka_unit_test(many_at_once_are_as_one_after_another),
        cmocka_unit_test(whatever_the_executive_says_every_inquiry_ends),
        cmocka_unit_test(ignorance_is_recognized),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
