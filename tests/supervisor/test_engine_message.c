// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/engine_message.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

static const struct lm_request request = {
    .id = UINT64_MAX - 1,
    .system = {"be\0brief", 8},
    .parts = {{"a document", 10}, {"", 0}, {"日本", 6}},
    .part_count = 3,
    .schema = "{\"type\":\"array\"}",
    .sampling = {.temperature = 0.7f,
                 .top_p = 0.9f,
                 .min_p = 0.01f,
                 .top_k = -3,
                 .repetition_penalty = 1.1f},
    .seed = 0x0123456789abcdefu,
    .max_tokens = 400,
};

static const struct engine_message messages[] = {
    {.kind = ENGINE_OPEN,
     .open = {.model = "models/qwen",
              .chat_template = "chatml",
              .device =
                  {.backend = "cpu", .isa = "plain", .threads = 3, .products = PRODUCTS_INVARIANT},
              .dtype = DTYPE_BF16,
              .slots = 7,
              .context_tokens = 1000,
              .step_tokens = 64,
              .cache_tokens = 5000}},
    {.kind = ENGINE_OPEN, .open = {.model = ""}},
    {.kind = ENGINE_READY, .ready = {.digest = {{1, 2, 255}}, .capacity = 64, .context_tokens = 9}},
    {.kind = ENGINE_SUBMIT, .submit = request},
    {.kind = ENGINE_SUBMIT, .submit = {.system = {"", 0}}},
    {.kind = ENGINE_CANCEL, .cancel = 77},
    {.kind = ENGINE_ANSWER,
     .answer = {.id = 5,
                .end = LM_LENGTH,
                .answer = {"[1,\0 2]", 7},
                .prompt_tokens = 10,
                .cached_tokens = 4,
                .output_tokens = 6,
                .forced_from = 3,
                .problem = ""}},
    {.kind = ENGINE_ANSWER,
     .answer = {.end = LM_REJECTED, .answer = {"", 0}, .forced_from = SIZE_MAX, .problem = "no"}},
    {.kind = ENGINE_ALIVE},
    {.kind = ENGINE_BROKEN, .broken = "the device is gone"},
};
#define MESSAGES (sizeof(messages) / sizeof(messages[0]))

static struct strbuf encode(const struct engine_message *message)
{
    struct strbuf frame = {0};
    engine_message_encode(message, &frame);
    return frame;
}

static void assert_texts(struct lm_text a, struct lm_text b)
{
    assert_int_equal(a.bytes, b.bytes);
    assert_memory_equal(a.text, b.text, a.bytes);
}

static void a_request_arrives_as_it_was(void **state)
{
    (void)state;
    struct error err;
    struct engine_message out;
    struct strbuf frame = encode(&messages[3]);
    assert_int_equal(engine_message_decode(frame.bytes, frame.length, &out, &err), 0);
    assert_int_equal(out.kind, ENGINE_SUBMIT);
    assert_true(out.submit.id == request.id && out.submit.seed == request.seed);
    assert_int_equal(out.submit.max_tokens, request.max_tokens);
    assert_memory_equal(&out.submit.sampling, &request.sampling, sizeof(request.sampling));
    assert_string_equal(out.submit.schema, request.schema);
    assert_texts(out.submit.system, request.system);
    assert_int_equal(out.submit.part_count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_texts(out.submit.parts[i], request.parts[i]);
    strbuf_release(&frame);
}

static void options_and_results_arrive_as_they_were(void **state)
{
    (void)state;
    struct error err;
    struct engine_message out;
    struct strbuf open = encode(&messages[0]), bare = encode(&messages[1]),
                  answer = encode(&messages[6]);
    assert_int_equal(engine_message_decode(open.bytes, open.length, &out, &err), 0);
    assert_string_equal(out.open.model, "models/qwen");
    assert_string_equal(out.open.device.isa, "plain");
    assert_int_equal(out.open.device.threads, 3);
    assert_int_equal(out.open.device.products, PRODUCTS_INVARIANT);
    assert_int_equal(out.open.dtype, DTYPE_BF16);
    assert_int_equal(out.open.cache_tokens, 5000);
    assert_int_equal(engine_message_decode(bare.bytes, bare.length, &out, &err), 0);
    assert_null(out.open.chat_template);
    assert_null(out.open.device.backend);
    assert_int_equal(engine_message_decode(answer.bytes, answer.length, &out, &err), 0);
    assert_int_equal(out.answer.end, LM_LENGTH);
    assert_int_equal(out.answer.forced_from, 3);
    assert_texts(out.answer.answer, messages[6].answer.answer);
    strbuf_release(&open);
    strbuf_release(&bare);
    strbuf_release(&answer);
}

static void what_was_decoded_is_encoded_to_the_same_bytes(void **state)
{
    (void)state;
    for (size_t i = 0; i < MESSAGES; i++) {
        struct error err;
        struct engine_message out;
        struct strbuf frame = encode(&messages[i]);
        if (engine_message_decode(frame.bytes, frame.length, &out, &err))
            fail_msg("message %zu: %s", i, err.text);
        struct strbuf again = encode(&out);
        assert_int_equal(frame.length, again.length);
        assert_memory_equal(frame.bytes, again.bytes, frame.length);
        strbuf_release(&frame);
        strbuf_release(&again);
    }
}

static void the_size_of_a_request_is_known_beforehand(void **state)
{
    (void)state;
    for (size_t i = 3; i <= 4; i++) {
        struct strbuf frame = encode(&messages[i]);
        assert_int_equal(frame.length,
                         ENGINE_HEAD_BYTES + engine_submit_bytes(&messages[i].submit));
        strbuf_release(&frame);
    }
}

static void a_frame_that_is_cut_or_flipped_is_an_error(void **state)
{
    (void)state;
    for (size_t i = 0; i < MESSAGES; i++) {
        struct error err;
        struct engine_message out;
        struct strbuf frame = encode(&messages[i]);
        for (size_t length = 0; length < frame.length; length++)
            assert_int_equal(engine_message_decode(frame.bytes, length, &out, &err), -1);
        for (size_t bit = 0; bit < 8 * frame.length; bit++) {
            frame.bytes[bit / 8] ^= (char)(1 << bit % 8);
            assert_int_equal(engine_message_decode(frame.bytes, frame.length, &out, &err), -1);
            frame.bytes[bit / 8] ^= (char)(1 << bit % 8);
        }
        assert_int_equal(engine_message_decode(frame.bytes, frame.length, &out, &err), 0);
        strbuf_release(&frame);
    }
}

static void a_head_tells_how_long_the_frame_is(void **state)
{
    (void)state;
    struct error err;
    size_t bytes = 0;
    struct strbuf frame = encode(&messages[3]);
    for (size_t length = 0; length < ENGINE_HEAD_BYTES; length++)
        assert_int_equal(engine_message_head(frame.bytes, length, &bytes, &err), 0);
    assert_int_equal(engine_message_head(frame.bytes, ENGINE_HEAD_BYTES, &bytes, &err), 1);
    assert_int_equal(bytes, frame.length);
    frame.bytes[2]++;
    assert_int_equal(engine_message_head(frame.bytes, 3, &bytes, &err), -1);
    assert_non_null(strstr(err.text, "another version"));
    frame.bytes[2]--;
    memset(frame.bytes + 8, 0xff, 4);
    assert_int_equal(engine_message_head(frame.bytes, frame.length, &bytes, &err), -1);
    assert_non_null(strstr(err.text, "4294967295 bytes"));
    strbuf_release(&frame);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_request_arrives_as_it_was),
        cmocka_unit_test(options_and_results_arrive_as_they_were),
        cmocka_unit_test(what_was_decoded_is_encoded_to_the_same_bytes),
        cmocka_unit_test(the_size_of_a_request_is_known_beforehand),
        cmocka_unit_test(a_frame_that_is_cut_or_flipped_is_an_error),
        cmocka_unit_test(a_head_tells_how_long_the_frame_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
