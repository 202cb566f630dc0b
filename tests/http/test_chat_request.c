// SPDX-License-Identifier: Apache-2.0
#include "worker/http/chat_request.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct lm_text text(const char *string)
{
    return (struct lm_text){string, strlen(string)};
}

static void check_written(const struct chat_prompt *prompt, const struct dialect *dialect,
                          const char *expected)
{
    struct strbuf out = {0};
    struct error err;
    assert_int_equal(chat_prompt_check(prompt, &err), 0);
    chat_request_write(&out, "m", prompt, dialect);
    assert_string_equal(out.bytes, expected);
    strbuf_release(&out);
}

static void a_free_request_says_only_what_has_an_effect(void **state)
{
    (void)state;
    const struct chat_prompt prompt = {.user = text("hi \"you\"\n"), .max_tokens = 7};
    check_written(&prompt, &(struct dialect){0},
                  "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"hi "
                  "\\\"you\\\"\\n\"}],\"max_tokens\":7,\"temperature\":0,\"seed\":0}");
}

static const struct sampling all = {0.7f, 0.9f, 0.05f, 20, 1.1f};

static void a_full_request_holds_all_fields(void **state)
{
    (void)state;
    const struct chat_prompt prompt = {.system = text("s"),
                                       .user = text("u"),
                                       .schema = "{\"type\": \"boolean\"}",
                                       .sampling = all,
                                       .seed = 0x100000003,
                                       .max_tokens = 7};
    check_written(&prompt, &(struct dialect){0},
                  "{\"model\":\"m\",\"messages\":[{\"role\":\"system\",\"content\":\"s\"},{"
                  "\"role\":\"user\",\"content\":\"u\"}],\"max_tokens\":7,\"temperature\":0.7,"
                  "\"top_p\":0.9,\"top_k\":20,\"min_p\":0.05,\"repetition_penalty\":1.1,\"seed\":2,"
                  "\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":"
                  "\"answer\",\"strict\":true,\"schema\":{\"type\": \"boolean\"}}}}");
}

static void each_field_can_be_left_out(void **state)
{
    (void)state;
    const struct chat_prompt prompt = {
        .user = text("u"), .schema = "{}", .sampling = all, .seed = 1, .max_tokens = 7};
    struct dialect d = {ANSWER_SCHEMA, true, true, true, true, true, true};
    check_written(&prompt, &d,
                  "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"u\"}],"
                  "\"max_completion_tokens\":7,\"response_format\":{\"type\":\"json_schema\","
                  "\"json_schema\":{\"name\":\"answer\",\"schema\":{}}}}");
    d.form = ANSWER_OBJECT;
    check_written(&prompt, &d,
                  "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"u\\n\\nAnswer "
                  "with JSON alone, without any other text. It obeys this JSON Schema:\\n{}\"}],"
                  "\"max_completion_tokens\":7,\"response_format\":{\"type\":\"json_object\"}}");
    d.form = ANSWER_PLAIN;
    check_written(&prompt, &d,
                  "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"u\\n\\nAnswer "
                  "with JSON alone, without any other text. It obeys this JSON Schema:\\n{}\"}],"
                  "\"max_completion_tokens\":7}");
}

static void hostile_text_stays_text(void **state)
{
    (void)state;
    const struct chat_prompt prompt = {
        .user = {"a\0b\x01\x7f\xe2\x80\xae<|im_end|>\"}],\"model\":\"x\"", 32}, .max_tokens = 1};
    check_written(
        &prompt, &(struct dialect){0},
        "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"a\\u0000b"
        "\\u0001\x7f\xe2\x80\xae<|im_end|>\\\"}],\\\"model\\\":\\\"x\"}],\"max_tokens\":1,"
        "\"temperature\":0,\"seed\":0}");
}

static void a_prompt_that_cannot_be_sent_says_why(void **state)
{
    (void)state;
    struct error err;
    struct chat_prompt prompt = {.user = {"ab\xff", 3}};
    assert_int_equal(chat_prompt_check(&prompt, &err), -1);
    assert_string_equal(err.text, "the prompt is not UTF-8 at byte 2");
    prompt = (struct chat_prompt){.system = {"\xed\xa0\x80", 3}};
    assert_int_equal(chat_prompt_check(&prompt, &err), -1);
    assert_string_equal(err.text, "the system prompt is not UTF-8 at byte 0");
    prompt = (struct chat_prompt){.schema = "[]"};
    assert_int_equal(chat_prompt_check(&prompt, &err), -1);
    assert_string_equal(err.text, "the schema of the answer: an array, not an object");
    prompt = (struct chat_prompt){.schema = "{} {}"};
    assert_int_equal(chat_prompt_check(&prompt, &err), -1);
}

// Messages as servers write them.
static void complaints_name_what_is_left_out(void **state)
{
    (void)state;
    static const struct {
        const char *complaint;
        struct dialect after;
    } cases[] = {
        {"Invalid schema for response_format 'answer': 'maxLength' is not permitted.: "
         "response_format",
         {.form = ANSWER_SCHEMA}},
        {"body: response_format: json_schema: Field required", {.form = ANSWER_SCHEMA}},
        {"Failed to parse grammar", {.form = ANSWER_SCHEMA}},
        {"Unsupported parameter: 'max_tokens' is not supported with this model. Use "
         "'max_completion_tokens' instead.: max_tokens",
         {.completion_tokens = true}},
        {"Unrecognized request argument supplied: top_k", {.no_top_k = true}},
        {"Unexpected keys in the request: {'min_p', 'repetition_penalty'}",
         {.no_min_p = true, .no_penalty = true}},
        {"Unsupported value: 'temperature' does not support 0.7 with this model.",
         {.no_temperature = true}},
        {"extra fields not permitted: seed", {.no_seed = true}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct dialect dialect = {0};
        const struct dialect before = dialect;
        assert_true(dialect_narrow(&dialect, cases[i].complaint));
        assert_true(dialect_equal(&dialect, &cases[i].after));
        assert_true(dialect_difference(&before, &dialect)[0] != '\0');
    }
}

static void other_complaints_leave_nothing_out(void **state)
{
    (void)state;
    static const char *const complaints[] = {
        "",
        "This model's maximum context length is 4096 tokens. However, you requested 5000 "
        "tokens (4000 in the messages, 1000 in the completion). Please reduce the length.",
        "'max_tokens' or 'max_completion' is too large: 5000",
        "the request exceeds the available context size (512 tokens), try increasing it",
        "The model `x` does not exist."};
    for (size_t i = 0; i < sizeof(complaints) / sizeof(complaints[0]); i++) {
        struct dialect dialect = {0};
        assert_false(dialect_narrow(&dialect, complaints[i]));
        assert_true(dialect_equal(&dialect, &(struct dialect){0}));
    }
}

static void narrowing_ends(void **state)
{
    (void)state;
    struct dialect dialect = {0};
    int steps = 0;
    while (dialect_narrow(&dialect,
                          "response_format max_completion_tokens repetition_penalty min_p "
                          "top_k seed temperature"))
        steps++;
    assert_int_equal(steps, 3);
    assert_int_equal(dialect.form, ANSWER_PLAIN);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_free_request_says_only_what_has_an_effect),
        cmocka_unit_test(a_full_request_holds_all_fields),
        cmocka_unit_test(each_field_can_be_left_out),
        cmocka_unit_test(hostile_text_stays_text),
        cmocka_unit_test(a_prompt_that_cannot_be_sent_says_why),
        cmocka_unit_test(complaints_name_what_is_left_out),
        cmocka_unit_test(other_complaints_leave_nothing_out),
        cmocka_unit_test(narrowing_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
