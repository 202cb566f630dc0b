// SPDX-License-Identifier: Apache-2.0
#include "worker/serve/chat_call.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define HELLO "\"messages\": [{\"role\": \"user\", \"content\": \"hello\"}]"

static struct arena arena;

static int release(void **state)
{
    (void)state;
    arena_release(&arena);
    return 0;
}

static struct chat_call read_call(const char *body)
{
    struct chat_call call;
    struct error err = {""};
    const char *param;
    if (chat_call_read(&arena, body, strlen(body), &call, &param, &err))
        fail_msg("%s: %s", param, err.text);
    assert_string_equal(param, "");
    return call;
}

static void refuse(const char *body, const char *wanted_param, const char *text)
{
    struct chat_call call;
    struct error err = {""};
    const char *param;
    assert_int_equal(chat_call_read(&arena, body, strlen(body), &call, &param, &err), -1);
    assert_string_equal(param, wanted_param);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
}

static void a_question_alone_is_greedy_and_unlimited(void **state)
{
    (void)state;
    const struct chat_call call = read_call("{" HELLO "}");
    assert_int_equal(call.message_count, 1);
    assert_string_equal(call.messages[0].role, "user");
    assert_memory_equal(call.messages[0].content, "hello", 5);
    assert_true(sampling_is_argmax(&call.sampling));
    assert_int_equal(call.max_tokens, 0);
    assert_int_equal(call.stop_count, 0);
    assert_null(call.schema);
    assert_false(call.stream);
}

static void everything_is_read(void **state)
{
    (void)state;
    const struct chat_call call = read_call(
        "{\"model\": \"memory\", \"messages\": [{\"role\": \"developer\", \"content\": \"be "
        "brief\"}, {\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\"}, "
        "{\"type\": \"text\", \"text\": \"b\\u0000c\"}]}, {\"role\": \"assistant\", \"content\": "
        "\"yes\"}], \"max_completion_tokens\": 7, \"temperature\": 0.5, \"top_p\": 0.9, \"top_k\": "
        "-1, \"min_p\": 0.1, \"repetition_penalty\": 1.1, \"seed\": -3, \"stop\": [\"x\", \"yz\"], "
        "\"stream\": true, \"stream_options\": {\"include_usage\": true}, \"response_format\": "
        "{\"type\": \"json_schema\", \"json_schema\": {\"name\": \"n\", \"schema\": {\"type\": "
        "\"object\", \"properties\": {\"a\": {\"type\": \"integer\"}}}}}, \"n\": 1, \"user\": "
        "\"me\", \"tools\": [], \"frequency_penalty\": 0}");
    assert_string_equal(call.model, "memory");
    assert_int_equal(call.message_count, 3);
    assert_string_equal(call.messages[0].role, "system");
    assert_int_equal(call.messages[1].length, 4);
    assert_memory_equal(call.messages[1].content, "ab\0c", 4);
    assert_string_equal(call.messages[2].role, "assistant");
    assert_int_equal(call.max_tokens, 7);
    assert_true(call.sampling.temperature == 0.5f && call.sampling.top_p == 0.9f);
    assert_true(call.sampling.min_p == 0.1f && call.sampling.repetition_penalty == 1.1f);
    assert_int_equal(call.sampling.top_k, 0);
    assert_true(call.seed == (uint64_t)-3);
    assert_int_equal(call.stop_count, 2);
    assert_string_equal(call.stops[1], "yz");
    assert_true(call.stream && call.stream_usage);
    assert_string_equal(call.schema,
                        "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"}}}");
}

static void what_is_wrong_is_named(void **state)
{
    (void)state;
    refuse("", "", "no JSON");
    refuse("[]", "", "not an object");
    refuse("{}", "messages", "at least one message");
    refuse("{\"messages\": []}", "messages", "at least one message");
    refuse("{\"messages\": [1]}", "messages", "message 0");
    refuse("{\"messages\": [{\"role\": \"tool\", \"content\": \"\"}]}", "messages", "'tool'");
    refuse("{\"messages\": [{\"role\": \"user\"}]}", "messages", "content");
    refuse("{\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"image_url\"}]}]}",
           "messages", "part 0");
    refuse("{" HELLO ", \"max_tokens\": 0}", "max_tokens", "max_tokens");
    refuse("{" HELLO ", \"temperature\": -1}", "temperature", "temperature");
    refuse("{" HELLO ", \"temperature\": 1e300}", "temperature", "temperature");
    refuse("{" HELLO ", \"top_p\": 0}", "temperature", "top_p");
    refuse("{" HELLO ", \"stop\": \"\"}", "stop", "not empty");
    refuse("{" HELLO ", \"stop\": [\"a\\u0000\"]}", "stop", "NUL");
    refuse("{" HELLO ", \"response_format\": {\"type\": \"json_object\"}}", "response_format",
           "json_schema");
    refuse("{" HELLO ", \"n\": 2}", "n", "one answer");
    refuse("{" HELLO ", \"logprobs\": true}", "logprobs", "not served");
    refuse("{" HELLO ", \"tools\": [{}]}", "tools", "not served");
    refuse("{" HELLO ", \"presence_penalty\": 0.5}", "frequency_penalty", "only 0");
}

static void more_stops_than_there_is_room_for_are_refused(void **state)
{
    (void)state;
    struct strbuf body = {0};
    strbuf_adds(&body, "{" HELLO ", \"stop\": [\"s\"");
    for (int i = 1; i < CHAT_STOPS_LIMIT; i++)
        strbuf_adds(&body, ", \"s\"");
    strbuf_adds(&body, "]}");
    assert_int_equal(read_call(body.bytes).stop_count, CHAT_STOPS_LIMIT);
    body.length -= 2;
    strbuf_adds(&body, ", \"s\"]}");
    refuse(body.bytes, "stop", "at most 16");
    strbuf_release(&body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_question_alone_is_greedy_and_unlimited),
        cmocka_unit_test(everything_is_read),
        cmocka_unit_test(what_is_wrong_is_named),
        cmocka_unit_test(more_stops_than_there_is_room_for_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, release);
}
