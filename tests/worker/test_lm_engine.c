// SPDX-License-Identifier: Apache-2.0
// $MEMO_TEST_OUTPUTS says how many answers in JSON (default 200).
#include "tests/worker/lm_fixture.h"

#include "base/mem.h"
#include "base/random.h"
#include "datasets/chat_template.h"
#include "tests/worker/json_fixture.h"
#include "worker/lm/salvage.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUESTS = 24 };

static char *directory;

static int create_directory(void **state)
{
    (void)state;
    directory = lm_fixture_directory(3);
    return 0;
}

static int remove_directory(void **state)
{
    (void)state;
    lm_fixture_remove(directory);
    return 0;
}

static struct lm_text text_of(const char *text)
{
    return lm_fixture_text(text, strlen(text));
}

// Four documents, three instructions; free text, pairs, and other schemas.
static struct lm_request make_request(uint64_t i)
{
    static const char *const documents[] = {"the ship wrote 12 naïve lantern", "东京 🚢 keeper",
                                            "yes no yes no", "the the the the the the"};
    static const char *const steps[] = {" wrote the ship ", " no ", "\n\nthe lantern:"};
    return (struct lm_request){
        .id = i,
        .system = text_of(i % 2 ? "keeper of the ship" : ""),
        .parts = {text_of(documents[i % 4]), text_of(steps[i % 3]), text_of("ship")},
        .part_count = 2 + i % 2,
        .schema = i % 3 == 0 ? NULL
                  : i % 3 == 1
                      ? json_fixture_pairs
                      : json_fixture_schemas[random_u64(1, 0, i) % json_fixture_schema_count],
        .sampling = {.temperature = i % 5 == 0 ? 0 : 1.2f, .top_p = 0.95f},
        .seed = 1000 + i,
        .max_tokens = 20 + random_u64(1, 1, i) % 60,
    };
}

static void submit_all(struct lm *lm, uint64_t begin, uint64_t end)
{
    for (uint64_t i = begin; i < end; i++) {
        const struct lm_request request = make_request(i);
        lm_submit(lm, &request);
    }
}

static void assert_same(const struct lm_answer *a, const struct lm_answer *b)
{
    assert_true(a->is_there && b->is_there);
    assert_int_equal(a->end, b->end);
    assert_int_equal(a->forced_from, b->forced_from);
    assert_int_equal(a->prompt_tokens, b->prompt_tokens);
    assert_int_equal(a->output_tokens, b->output_tokens);
    assert_int_equal(a->answer.length, b->answer.length);
    assert_memory_equal(a->answer.bytes, b->answer.bytes, a->answer.length);
}

static void expect_same_alone_and_together(bool fp8)
{
    struct lm_answer alone[REQUESTS] = {0}, together[REQUESTS] = {0};
    size_t texts = 0;
    for (uint64_t i = 0; i < REQUESTS; i++) {
        struct lm *lm =
            lm_fixture_open(directory, &(struct lm_engine_options){.slots = 1, .fp8 = fp8});
        submit_all(lm, i, i + 1);
        lm_fixture_collect(lm, alone, REQUESTS);
        lm_destroy(lm);
        texts += alone[i].answer.length > 0;
        assert_int_not_equal(alone[i].end, LM_REJECTED);
    }
    assert_true(texts > REQUESTS / 2);
    struct lm *lm = lm_fixture_open(directory, &(struct lm_engine_options){.slots = 5, .fp8 = fp8});
    assert_int_equal(lm->capacity, 10);
    assert_int_equal(lm->context_tokens, LM_FIXTURE_POSITIONS);
    submit_all(lm, 0, REQUESTS);
    lm_fixture_collect(lm, together, REQUESTS);
    for (size_t i = 0; i < REQUESTS; i++)
        assert_same(&alone[i], &together[i]);
    lm_destroy(lm);
    lm_fixture_release(alone, REQUESTS);
    lm_fixture_release(together, REQUESTS);
}

static void answers_are_the_same_alone_and_together(void **state)
{
    (void)state;
    expect_same_alone_and_together(false);
}

static void answers_in_eight_bits_are_too(void **state)
{
    (void)state;
    expect_same_alone_and_together(true);
}

// The tokens of a document are computed for its first request only.
static void a_document_is_computed_once(void **state)
{
    (void)state;
    struct lm_answer answers[REQUESTS] = {0};
    struct strbuf document = {0};
    struct lm *lm = lm_fixture_open(directory, NULL);
    for (uint64_t i = 0; i < 60; i++)
        strbuf_addf(&document, "the ship wrote %d ", (int)(random_u64(3, 0, i) % 1000));
    for (uint64_t i = 0; i < REQUESTS; i++) {
        struct lm_request request = make_request(i);
        request.system = text_of("keeper");
        request.parts[0] = lm_fixture_text(document.bytes, document.length);
        request.schema = json_fixture_pairs;
        lm_submit(lm, &request);
        if (i == 0)
            lm_fixture_collect(lm, answers, REQUESTS);
    }
    lm_fixture_collect(lm, answers, REQUESTS);
    for (size_t i = 0; i < REQUESTS; i++) {
        assert_true(answers[i].prompt_tokens > 240);
        if (i > 0)
            assert_in_range(answers[i].cached_tokens, answers[i].prompt_tokens - 60,
                            answers[i].prompt_tokens); // all of it: forced tokens follow
    }
    assert_int_equal(answers[0].cached_tokens, 0);
    const struct engine_statistics done = lm_engine_statistics(lm);
    assert_true(done.cached_tokens > 5 * done.prompt_tokens);
    lm_destroy(lm);
    strbuf_release(&document);
    lm_fixture_release(answers, REQUESTS);
}

static void cancelled_requests_have_no_result_and_leave_the_others_alone(void **state)
{
    (void)state;
    struct lm_answer undisturbed[REQUESTS] = {0}, answers[REQUESTS] = {0};
    struct lm *lm = lm_fixture_open(directory, NULL);
    submit_all(lm, 0, REQUESTS);
    lm_fixture_collect(lm, undisturbed, REQUESTS);
    lm_destroy(lm);
    lm = lm_fixture_open(directory, &(struct lm_engine_options){.slots = 3});
    submit_all(lm, 0, REQUESTS);
    struct lm_request refused = make_request(1);
    refused.schema = "{";
    refused.id = 4;
    lm_submit(lm, &refused);
    struct lm_result result;
    struct error err;
    lm_cancel(lm, 4); // waiting, and refused
    while (lm_poll(lm, &result, &err) == LM_POLL_RESULT)
        lm_fixture_keep(answers, REQUESTS, &result);
    lm_cancel(lm, 2); // running
    lm_cancel(lm, 12345);
    lm_fixture_collect(lm, answers, REQUESTS);
    lm_cancel(lm, 1); // ended
    for (size_t i = 0; i < REQUESTS; i++) {
        if (i == 2 || i == 4)
            assert_false(answers[i].is_there);
        else
            assert_same(&answers[i], &undisturbed[i]);
    }
    lm_destroy(lm);
    lm_fixture_release(answers, REQUESTS);
    lm_fixture_release(undisturbed, REQUESTS);
}

static void unanswered_requests_are_freed_with_the_model(void **state)
{
    (void)state;
    struct lm *lm = lm_fixture_open(directory, NULL);
    submit_all(lm, 0, REQUESTS);
    struct lm_request refused = make_request(1);
    refused.schema = "{";
    lm_submit(lm, &refused);
    lm_destroy(lm);
}

static struct lm_answer answer_one(const struct lm_request *request,
                                   const struct lm_engine_options *options)
{
    struct lm_answer answer = {0};
    struct lm *lm = lm_fixture_open(directory, options);
    struct lm_request numbered = *request;
    numbered.id = 0;
    lm_submit(lm, &numbered);
    lm_fixture_collect(lm, &answer, 1);
    assert_true(answer.is_there);
    lm_destroy(lm);
    return answer;
}

static void expect_rejected(const struct lm_request *request, const char *said)
{
    struct lm_answer answer = answer_one(request, NULL);
    assert_int_equal(answer.end, LM_REJECTED);
    assert_int_equal(answer.answer.length, 0);
    if (!strstr(answer.problem, said))
        fail_msg("'%s' does not say '%s'", answer.problem, said);
    lm_fixture_release(&answer, 1);
}

static void what_cannot_be_answered_is_rejected_with_its_reason(void **state)
{
    (void)state;
    struct strbuf line = {0};
    while (line.length < 1 << 20)
        strbuf_adds(&line, "ship,");
    struct lm_request request = make_request(0);
    request.parts[0] = lm_fixture_text(line.bytes, line.length);
    expect_rejected(&request, "of 1024 for an answer");
    request.parts[0] = text_of("a\xff"
                               "b");
    expect_rejected(&request, "part 0 of the user's turn");
    request = make_request(1);
    request.system = text_of("\xc3");
    expect_rejected(&request, "the system's turn");
    request = make_request(0);
    request.schema = "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"pattern\":\"x\"}}";
    expect_rejected(&request, "keyword 'pattern'");
    request.schema = json_fixture_pairs;
    request.max_tokens = 1;
    expect_rejected(&request, "the schema's shortest output takes");
    request.sampling.temperature = -1;
    expect_rejected(&request, "temperature");
    strbuf_release(&line);
}

static void an_answer_ends_with_the_context(void **state)
{
    (void)state;
    enum { CONTEXT = 60 };
    const struct lm_engine_options small = {.context_tokens = CONTEXT, .slots = 2};
    struct lm_answer answers[REQUESTS] = {0};
    struct lm *lm = lm_fixture_open(directory, &small);
    size_t closed = 0;
    for (uint64_t i = 0; i < REQUESTS; i++) {
        struct lm_request request = make_request(1);
        request.id = request.seed = i;
        request.max_tokens = 100000;
        request.schema = json_fixture_schemas[6]; // a string without a maximum
        request.sampling = (struct sampling){.temperature = 1.5f};
        lm_submit(lm, &request);
    }
    lm_fixture_collect(lm, answers, REQUESTS);
    for (size_t i = 0; i < REQUESTS; i++) {
        const uint32_t tokens = answers[i].prompt_tokens + answers[i].output_tokens;
        assert_true(tokens <= CONTEXT);
        if (answers[i].end == LM_STOP)
            continue;
        assert_int_equal(answers[i].end, LM_LENGTH);
        assert_true(answers[i].forced_from < answers[i].answer.length);
        assert_int_equal(tokens, CONTEXT);
        closed++;
    }
    assert_true(closed > 0);
    lm_destroy(lm);
    lm_fixture_release(answers, REQUESTS);
}

static void every_answer_in_json_parses(void **state)
{
    (void)state;
    const char *asked = getenv("MEMO_TEST_OUTPUTS");
    const size_t outputs = asked ? strtoul(asked, NULL, 10) : 200;
    struct lm_answer *answers = mem_calloc(outputs, sizeof *answers);
    struct lm *lm = lm_fixture_open(directory, NULL);
    size_t forced = 0, whole = 0, items = 0;
    for (uint64_t i = 0; i < outputs; i++) {
        struct lm_request request = make_request(3 * i + 1);
        request.id = i;
        request.sampling = (struct sampling){.temperature = 1.5f};
        request.max_tokens = 14 + random_u64(2, 0, i) % (i % 2 ? 20 : 200);
        lm_submit(lm, &request);
    }
    lm_fixture_collect(lm, answers, outputs);
    for (size_t i = 0; i < outputs; i++) {
        struct arena arena = {0};
        struct error err = {""};
        struct salvage saved;
        const struct json *root, *schema;
        assert_true(answers[i].is_there);
        assert_int_equal(
            json_parse(&arena, json_fixture_pairs, strlen(json_fixture_pairs), &schema, &err), 0);
        if (json_parse(&arena, answers[i].answer.bytes, answers[i].answer.length, &root, &err))
            fail_msg("%s: %s", answers[i].answer.bytes, err.text);
        assert_int_equal(
            json_fixture_read(schema, answers[i].answer.bytes, answers[i].answer.length),
            READING_WHOLE);
        assert_int_equal(answers[i].end, answers[i].forced_from == SIZE_MAX ? LM_STOP : LM_LENGTH);
        salvage_items(&arena, answers[i].answer.bytes, answers[i].answer.length,
                      answers[i].forced_from, "pairs", &saved);
        const size_t written = json_get(root, "pairs")->length;
        assert_true(saved.count == written || (saved.count + 1 == written && !saved.whole));
        items += saved.count;
        forced += answers[i].end == LM_LENGTH;
        whole += answers[i].end == LM_STOP;
        arena_release(&arena);
    }
    printf("%zu answers, %zu closed by the budget, %zu complete pairs\n", outputs, forced, items);
    assert_true(forced > outputs / 20 && whole > outputs / 20 && items > 0);
    lm_destroy(lm);
    lm_fixture_release(answers, outputs);
    free(answers);
}

static void a_missing_or_unfit_directory_is_an_error(void **state)
{
    (void)state;
    struct error err;
    struct lm *lm = NULL;
    struct lm_engine_options options = {.model = "/tmp/memo-no-such-model"};
    assert_int_equal(lm_engine_create(&options, &lm, &err), -1);
    assert_non_null(strstr(err.text, "memo-no-such-model"));
    options = (struct lm_engine_options){.model = directory, .context_tokens = 5000};
    options.device.backend = "ref";
    assert_int_equal(lm_engine_create(&options, &lm, &err), -1);
    assert_string_equal(err.text, "a context of 5000 tokens, but the model has 1024 positions");
    options = (struct lm_engine_options){.model = directory, .chat_template = "gpt"};
    assert_int_equal(lm_engine_create(&options, &lm, &err), -1);
    assert_non_null(strstr(err.text, "gpt"));
    assert_null(lm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_the_same_alone_and_together),
        cmocka_unit_test(answers_in_eight_bits_are_too),
        cmocka_unit_test(a_document_is_computed_once),
        cmocka_unit_test(cancelled_requests_have_no_result_and_leave_the_others_alone),
        cmocka_unit_test(unanswered_requests_are_freed_with_the_model),
        cmocka_unit_test(what_cannot_be_answered_is_rejected_with_its_reason),
        cmocka_unit_test(an_answer_ends_with_the_context),
        cmocka_unit_test(every_answer_in_json_parses),
        cmocka_unit_test(a_missing_or_unfit_directory_is_an_error),
    };
    return cmocka_run_group_tests(tests, create_directory, remove_directory);
}
