// SPDX-License-Identifier: Apache-2.0
// The schemas of the steps' answers: in the subset that models are constrained by, and whatever a
// model without sense writes under them is read to the last item.
#include "tests/worker/json_fixture.h"
#include "worker/reflect/answer.h"
#include "worker/reflect/reflect_config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WALKS 60
#define LISTED 4

static const struct answer_limits limits = {
    .max_items = 3, .question_chars = 12, .answer_chars = 15, .batch = LISTED};

static void schemas_have_the_forms_that_prompts_show(void **state)
{
    (void)state;
    char *judge = request_kind_schema(REQUEST_JUDGE, &limits);
    char *cross = request_kind_schema(REQUEST_CROSS, &limits);
    assert_string_equal(judge, "{\"type\":\"object\",\"properties\":{\"self_contained\":"
                               "{\"type\":\"boolean\"}},\"required\":[\"self_contained\"],"
                               "\"additionalProperties\":false}");
    assert_string_equal(
        cross, "{\"type\":\"object\",\"properties\":{\"pairs\":{\"type\":\"array\",\"items\":"
               "{\"type\":\"object\",\"properties\":{"
               "\"kind\":{\"type\":\"string\",\"enum\":[\"converging\",\"parallel\"]},"
               "\"from\":{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,"
               "\"maxItems\":4},"
               "\"question\":{\"type\":\"string\",\"maxLength\":12},"
               "\"answer\":{\"type\":\"string\",\"maxLength\":15}},"
               "\"required\":[\"kind\",\"from\",\"question\",\"answer\"],"
               "\"additionalProperties\":false},\"maxItems\":3}},\"required\":[\"pairs\"],"
               "\"additionalProperties\":false}");
    free(judge);
    free(cross);
}

static void read_walk(enum request_kind kind, const struct json_walk *walk)
{
    struct arena arena = {0};
    struct error err = {""};
    struct answer answer;
    bool good;
    const struct lm_result result = {.end = walk->forced_from == SIZE_MAX ? LM_STOP : LM_LENGTH,
                                     .answer = {walk->text.bytes, walk->text.length},
                                     .forced_from = walk->forced_from};
    if (kind == REQUEST_JUDGE) {
        const int rc = answer_read_verdict(&result, &good, &err);
        assert_int_equal(rc, walk->forced_from == SIZE_MAX ? 0 : -1);
    } else if (answer_read(kind, &limits, LISTED, &result, &arena, &answer, &err) == 0) {
        assert_true(answer.count <= limits.max_items);
        assert_int_equal(answer.malformed, 0);
        assert_true(answer.whole == (walk->forced_from == SIZE_MAX));
        for (size_t i = 0; i < answer.count; i++) {
            const char *reason = answer.items[i].dropped;
            assert_true(!reason || strcmp(reason, "too long") != 0);
            assert_true(answer.items[i].from_count <= LISTED);
        }
    } else {
        assert_true(walk->forced_from < SIZE_MAX); // cut before the array began
    }
    arena_release(&arena);
}

static void answers_under_a_schema_are_read(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = json_fixture_tokenizer(400);
    const size_t count = (size_t)tokenizer_vocabulary_size(tokenizer);
    struct json_vocabulary *vocabulary = json_vocabulary_create(tokenizer, count);
    for (int kind = 0; kind < REQUEST_KINDS; kind++) {
        char *text = request_kind_schema((enum request_kind)kind, &limits);
        struct json_schema *schema = json_fixture_compile(text, vocabulary);
        for (uint64_t seed = 0; seed < WALKS; seed++) {
            struct json_walk walk = {0};
            json_fixture_walk(schema, tokenizer, count, 60 + 40 * (seed % 10), seed, &walk);
            read_walk((enum request_kind)kind, &walk);
            strbuf_release(&walk.text);
        }
        json_schema_destroy(schema);
        free(text);
    }
    json_vocabulary_destroy(vocabulary);
    tokenizer_destroy(tokenizer);
}

// The built-in limits compile too.
static void built_in_limits_make_schemas(void **state)
{
    (void)state;
    struct tokenizer *tokenizer = json_fixture_tokenizer(400);
    struct json_vocabulary *vocabulary =
        json_vocabulary_create(tokenizer, (size_t)tokenizer_vocabulary_size(tokenizer));
    struct reflect_config config;
    struct error err = {""};
    assert_int_equal(reflect_config_load(NULL, NULL, &config, &err), 0);
    for (int kind = 0; kind < REQUEST_KINDS; kind++) {
        char *text = request_kind_schema((enum request_kind)kind, &config.requests[kind].answer);
        json_schema_destroy(json_fixture_compile(text, vocabulary));
        free(text);
    }
    json_vocabulary_destroy(vocabulary);
    tokenizer_destroy(tokenizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schemas_have_the_forms_that_prompts_show),
        cmocka_unit_test(answers_under_a_schema_are_read),
        cmocka_unit_test(built_in_limits_make_schemas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
