// SPDX-License-Identifier: Apache-2.0
#include "worker/http/chat_response.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SECRET "sk-secret-1234"

static struct arena arena;

static int release(void **state)
{
    (void)state;
    arena_release(&arena);
    return 0;
}

static struct chat_response read_reply(int status, const char *body, bool by_schema)
{
    const struct chat_reply reply = {status,       "application/json", body,
                                     strlen(body), by_schema,          SECRET};
    struct chat_response response;
    chat_response_read(&arena, &reply, &response);
    return response;
}

static void check_answer(struct chat_response response, const char *answer, bool is_cut)
{
    assert_int_equal(response.verdict, CHAT_ANSWERED);
    assert_int_equal(response.answer.bytes, strlen(answer));
    assert_memory_equal(response.answer.text, answer, strlen(answer));
    assert_int_equal(response.is_cut, is_cut);
    assert_string_equal(response.problem, "");
    assert_string_equal(response.complaint, "");
}

static void an_answer_is_read_with_its_counts(void **state)
{
    (void)state;
    struct chat_response response = read_reply(
        200,
        "{\"id\":\"x\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
        "\"Paris \\u00e9\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":12,"
        "\"completion_tokens\":3,\"prompt_tokens_details\":{\"cached_tokens\":8}}}",
        false);
    check_answer(response, "Paris \xc3\xa9", false);
    assert_int_equal(response.prompt_tokens, 12);
    assert_int_equal(response.cached_tokens, 8);
    assert_int_equal(response.output_tokens, 3);
    response = read_reply(200,
                          "{\"choices\":[{\"message\":{\"content\":\" a\"},\"finish_reason\":"
                          "\"length\"}],\"error\":null}",
                          false);
    check_answer(response, " a", true);
    assert_int_equal(response.prompt_tokens + response.cached_tokens + response.output_tokens, 0);
}

static void counts_that_make_no_sense_do_not_harm(void **state)
{
    (void)state;
    static const char *const usages[] = {"null", "[]",
                                         "{\"prompt_tokens\":-1,\"completion_tokens\":\"7\"}",
                                         "{\"prompt_tokens\":1.5,\"completion_tokens\":null}"};
    for (size_t i = 0; i < 4; i++) {
        char body[200];
        snprintf(body, sizeof(body),
                 "{\"choices\":[{\"message\":{\"content\":\"a\"}}],\"usage\":%s}", usages[i]);
        const struct chat_response response = read_reply(200, body, false);
        check_answer(response, "a", false);
        assert_int_equal(response.prompt_tokens + response.output_tokens, 0);
    }
    const struct chat_response response =
        read_reply(200,
                   "{\"choices\":[{\"message\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":"
                   "99999999999,\"completion_tokens\":5,\"prompt_tokens_details\":{"
                   "\"cached_tokens\":4294967295}}}",
                   false);
    assert_int_equal(response.prompt_tokens, UINT32_MAX);
    assert_int_equal(response.cached_tokens, UINT32_MAX);
}

static struct chat_response read_content(const char *content, bool by_schema)
{
    char body[400];
    snprintf(body, sizeof(body), "{\"choices\":[{\"message\":{\"content\":\"%s\"}}]}", content);
    return read_reply(200, body, by_schema);
}

static void json_is_taken_out_of_what_models_put_around_it(void **state)
{
    (void)state;
    static const char *const wrapped[] = {"{}",
                                          " \\n{}\\n",
                                          "```json\\n{}\\n```",
                                          "```\\n{}\\n```\\n",
                                          "\\n```json {} ```",
                                          "<think>a { b\\n</think>\\n\\n{}",
                                          "<think></think>```json\\n{}```",
                                          "```json\\n{}"};
    for (size_t i = 0; i < sizeof(wrapped) / sizeof(wrapped[0]); i++)
        check_answer(read_content(wrapped[i], true), "{}", false);
    assert_true(read_content("```json\\n{}\\n```", true).is_json);
    assert_false(read_content("Sure! {}", true).is_json);
    check_answer(read_content("<think>never done {}", true), "", false);
    check_answer(read_content("{\\\"a\\\":\\\"```\\\"}", true), "{\"a\":\"```\"}", false);
    check_answer(read_content("```json\\n{}\\n```", false), "```json\n{}\n```", false);
}

static void a_refusal_of_the_model_is_a_rejection(void **state)
{
    (void)state;
    struct chat_response response = read_reply(
        200, "{\"choices\":[{\"message\":{\"content\":null,\"refusal\":\"I won't\"}}]}", false);
    assert_int_equal(response.verdict, CHAT_REJECTED);
    assert_string_equal(response.problem, "the model refuses: I won't");
    response = read_reply(200,
                          "{\"choices\":[{\"message\":{\"content\":\"\"},\"finish_reason\":"
                          "\"content_filter\"}]}",
                          false);
    assert_int_equal(response.verdict, CHAT_REJECTED);
    assert_string_equal(response.problem, "the server's content filter stopped the answer");
}

static void check_fault(struct chat_response response, enum lm_http_fault fault, const char *words)
{
    assert_int_equal(response.verdict, CHAT_FAULT);
    assert_int_equal(response.fault, fault);
    if (!strstr(response.problem, words))
        fail_msg("'%s' does not say '%s'", response.problem, words);
}

static void what_is_no_answer_is_malformed(void **state)
{
    (void)state;
    check_fault(read_reply(200, "", false), LM_HTTP_MALFORMED,
                "status 200 with 0 bytes of 'application/json' that are no answer: ");
    check_fault(read_reply(200, "{\"choices\":[{\"mess", false), LM_HTTP_MALFORMED, "18 bytes");
    check_fault(read_reply(200, "[]", false), LM_HTTP_MALFORMED, "there is no 'choices[0]'");
    check_fault(read_reply(200, "{\"choices\":[]}", false), LM_HTTP_MALFORMED, "no 'choices[0]'");
    check_fault(read_reply(200, "{\"choices\":[7]}", false), LM_HTTP_MALFORMED, "is no string");
    check_fault(read_reply(200, "{\"choices\":[{\"message\":{\"content\":[]}}]}", false),
                LM_HTTP_MALFORMED, "is no string");
    check_fault(read_reply(200, "{\"choices\":[{\"message\":{\"content\":\"\xff\"}}]}", false),
                LM_HTTP_MALFORMED, "UTF-8");
    check_fault(read_reply(204, "", false), LM_HTTP_MALFORMED, "status 204");
    const struct chat_reply page = {200, "text/html\x1b[2J", "<html>", 6, false, NULL};
    struct chat_response response;
    chat_response_read(&arena, &page, &response);
    check_fault(response, LM_HTTP_MALFORMED, "6 bytes of 'text/html [2J'");
}

static void statuses_say_whether_to_try_again(void **state)
{
    (void)state;
    static const int refused[] = {301, 302, 307, 401, 402, 403, 404, 405, 407};
    static const int failed[] = {408, 409, 425, 500, 501, 502, 503, 504, 529, 599};
    static const int rejected[] = {400, 410, 413, 414, 415, 422, 451};
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
        check_fault(read_reply(refused[i], "no", false), LM_HTTP_REFUSED, ": no");
    for (size_t i = 0; i < sizeof(failed) / sizeof(failed[0]); i++)
        check_fault(read_reply(failed[i], "no", false), LM_HTTP_SERVER_ERROR, ": no");
    check_fault(read_reply(429, "{}", false), LM_HTTP_THROTTLED, "status 429: {}");
    check_fault(read_reply(429, "", false), LM_HTTP_THROTTLED, "status 429");
    check_fault(
        read_reply(429, "{\"error\":{\"message\":\"pay\",\"code\":\"insufficient_quota\"}}", false),
        LM_HTTP_REFUSED, "status 429: pay");
    for (size_t i = 0; i < sizeof(rejected) / sizeof(rejected[0]); i++)
        assert_int_equal(read_reply(rejected[i], "no", false).verdict, CHAT_REJECTED);
}

static void the_servers_own_words_are_found(void **state)
{
    (void)state;
    static const struct {
        const char *body, *problem;
    } cases[] = {
        {"{\"error\":{\"message\":\"too long\",\"param\":\"messages\",\"code\":null}}",
         "status 400: too long: messages"},
        {"{\"error\":\"too long\"}", "status 400: too long"},
        {"{\"object\":\"error\",\"message\":\"too long\"}", "status 400: too long"},
        {"{\"detail\":\"too long\"}", "status 400: too long"},
        {"{\"detail\":[{\"loc\":[\"body\",0,\"seed\"],\"msg\":\"not permitted\"}]}",
         "status 400: body: seed: not permitted"},
        {"<html>\r\n<b>Bad\x80</b>", "status 400: <html>  <b>Bad?</b>"},
        {"{\"error\":{\"message\":\"a\\u0000\\u001b[31mb\\u0085c\"}}", "status 400: a  [31mb c"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_string_equal(read_reply(400, cases[i].body, false).problem, cases[i].problem);
}

static void an_error_with_status_200_counts_by_its_code(void **state)
{
    (void)state;
    check_fault(read_reply(200, "{\"error\":{\"message\":\"up\",\"code\":429}}", false),
                LM_HTTP_THROTTLED, "status 429: up");
    check_fault(read_reply(200, "{\"error\":{\"message\":\"up\",\"code\":\"x\"}}", false),
                LM_HTTP_SERVER_ERROR, "status 500: up");
    assert_int_equal(
        read_reply(200, "{\"error\":{\"message\":\"up\",\"code\":400}}", false).verdict,
        CHAT_REJECTED);
}

static void long_words_are_cut_between_characters(void **state)
{
    (void)state;
    char body[3000] = "";
    for (int i = 0; i < 900; i++)
        strcat(body, "\xe2\x82\xac");
    const struct chat_response response = read_reply(400, body, false);
    const size_t length = strlen(response.problem);
    assert_in_range(length, CHAT_PROBLEM_BYTES - 4, CHAT_PROBLEM_BYTES);
    assert_string_equal(response.problem + length - 6, "\xe2\x82\xac...");
}

// Also where the words are cut, a part of the key must not be left.
static void the_key_is_taken_out_of_what_servers_say(void **state)
{
    (void)state;
    for (int before = 0; before < 500; before++) {
        char body[700];
        snprintf(body, sizeof(body), "{\"error\":{\"message\":\"%*s" SECRET " " SECRET "\"}}",
                 before, "");
        const struct chat_response response = read_reply(401, body, false);
        assert_null(strstr(response.problem, "sk-"));
        assert_null(strstr(response.complaint, "sk-"));
    }
    assert_string_equal(read_reply(401, "key " SECRET " is wrong", false).problem,
                        "status 401: key [key] is wrong");
    assert_null(strstr(read_reply(200,
                                  "{\"choices\":[{\"message\":{\"content\":null,\"refusal\":"
                                  "\"" SECRET "\"}}]}",
                                  false)
                           .problem,
                       SECRET));
}

static void only_some_refusals_are_about_fields(void **state)
{
    (void)state;
    assert_true(read_reply(400, "x", false).may_narrow);
    assert_true(read_reply(422, "x", false).may_narrow);
    assert_true(read_reply(501, "x", false).may_narrow);
    assert_false(read_reply(401, "x", false).may_narrow);
    assert_false(read_reply(429, "x", false).may_narrow);
    assert_false(read_reply(503, "x", false).may_narrow);
}

#define READ(test) cmocka_unit_test_teardown(test, release)

int main(void)
{
    const struct CMUnitTest tests[] = {
        READ(an_answer_is_read_with_its_counts),
        READ(counts_that_make_no_sense_do_not_harm),
        READ(json_is_taken_out_of_what_models_put_around_it),
        READ(a_refusal_of_the_model_is_a_rejection),
        READ(what_is_no_answer_is_malformed),
        READ(statuses_say_whether_to_try_again),
        READ(the_servers_own_words_are_found),
        READ(an_error_with_status_200_counts_by_its_code),
        READ(long_words_are_cut_between_characters),
        READ(the_key_is_taken_out_of_what_servers_say),
        READ(only_some_refusals_are_about_fields),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
