// SPDX-License-Identifier: Apache-2.0
#include "worker/serve/chat_reply.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct chat_head head = {.id = 7, .model = "memory", .created_unix = 16};

#define HEAD(object)                                                                               \
    "{\"id\":\"chatcmpl-10-7\",\"object\":\"" object "\",\"created\":16,\"model\":\"memory\","

static void check(struct strbuf *written, const char *expected)
{
    assert_string_equal(written->bytes, expected);
    strbuf_release(written);
}

static void an_answer_is_a_completion(void **state)
{
    (void)state;
    struct strbuf out = {0};
    chat_reply_write(&out, &head, "a\"b", 3, CHAT_FINISH_STOP, &(struct chat_usage){5, 4, 2});
    check(&out, HEAD("chat.completion") "\"choices\":[{\"index\":0,\"message\":{\"role\":"
                                        "\"assistant\",\"content\":\"a\\\"b\",\"refusal\":null},"
                                        "\"logprobs\":null,\"finish_reason\":\"stop\"}],"
                                        "\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,"
                                        "\"total_tokens\":7,\"prompt_tokens_details\":{"
                                        "\"cached_tokens\":4}}}");
}

static void a_stream_is_chunks(void **state)
{
    (void)state;
    struct strbuf out = {0};
    chat_event_begin(&out, &head);
    check(&out, HEAD("chat.completion.chunk") "\"choices\":[{\"index\":0,\"delta\":{\"role\":"
                                              "\"assistant\",\"content\":\"\"},\"logprobs\":null,"
                                              "\"finish_reason\":null}]}");
    chat_event_text(&out, &head, "x", 1);
    check(&out, HEAD("chat.completion.chunk") "\"choices\":[{\"index\":0,\"delta\":{\"content\":"
                                              "\"x\"},\"logprobs\":null,\"finish_reason\":null}]}");
    chat_event_end(&out, &head, CHAT_FINISH_LENGTH);
    check(&out,
          HEAD("chat.completion.chunk") "\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,"
                                        "\"finish_reason\":\"length\"}]}");
}

static void bytes_that_are_no_text_become_question_marks(void **state)
{
    (void)state;
    struct strbuf out = {0};
    chat_event_text(&out, &head, "a\xff\xc3\xa4\xe2\x82", 6);
    check(&out, HEAD("chat.completion.chunk") "\"choices\":[{\"index\":0,\"delta\":{\"content\":"
                                              "\"a?\xc3\xa4??\"},\"logprobs\":null,"
                                              "\"finish_reason\":null}]}");
}

static void an_error_names_its_member(void **state)
{
    (void)state;
    struct strbuf out = {0};
    chat_error_write(&out, "invalid_request_error", "seed", "no");
    check(&out, "{\"error\":{\"message\":\"no\",\"type\":\"invalid_request_error\",\"param\":"
                "\"seed\",\"code\":null}}");
    chat_error_write(&out, "server_error", "", "no");
    check(&out, "{\"error\":{\"message\":\"no\",\"type\":\"server_error\",\"param\":null,"
                "\"code\":null}}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_is_a_completion),
        cmocka_unit_test(a_stream_is_chunks),
        cmocka_unit_test(bytes_that_are_no_text_become_question_marks),
        cmocka_unit_test(an_error_names_its_member),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
