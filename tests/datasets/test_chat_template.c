// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"
#include "datasets/chat_template.h"
#include "tokenizer_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct tokenizer *tokenizer;

static int set_up(void **state)
{
    (void)state;
    tokenizer = fixture_tokenizer(500);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    tokenizer_destroy(tokenizer);
    return 0;
}

static const struct chat_template *find(const char *name)
{
    struct error err = {""};
    const struct chat_template *template = NULL;
    assert_int_equal(chat_template_find(name, &template, &err), 0);
    assert_string_equal(chat_template_name(template), name);
    return template;
}

static struct chat_message message(const char *role, const char *content)
{
    return (struct chat_message){.role = role, .content = content, .length = strlen(content)};
}

static void assert_text(const char *name, const struct chat_message *messages, size_t count,
                        bool prompt, const char *expected)
{
    struct error err = {""};
    struct strbuf out = {0};
    assert_int_equal(chat_render_text(find(name), messages, count, prompt, &out, &err), 0);
    assert_string_equal(out.bytes, expected);
    strbuf_release(&out);
}

static void text_is_rendered_as_the_template_says(void **state)
{
    (void)state;
    const struct chat_message both[] = {message("user", "Who?"), message("assistant", " Me.\n")};
    const struct chat_message system[] = {message("system", ""), message("user", "Q")};
    assert_text("chatml", both, 1, true,
                "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n");
    assert_text("chatml", both, 2, false,
                "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n Me.\n<|im_end|>\n");
    assert_text("chatml", system, 2, false,
                "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n");
    assert_text("qwen2.5", both, 1, false,
                "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
                "assistant.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n");
    assert_text("qwen2.5", system, 2, false,
                "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n");
}

static void render(const struct tokenizer *t, const char *name, const struct chat_message *messages,
                   size_t count, bool prompt, struct token_list *ids, struct chat_span *spans)
{
    struct error err = {""};
    if (chat_render_ids(find(name), t, NULL, messages, count, prompt, ids, spans, &err) != 0) {
        fail_msg("%s", err.text);
    }
}

static void ids_equal_those_of_the_whole_text(void **state)
{
    (void)state;
    static const char *const names[] = {"chatml", "qwen2.5"};
    static const char *const contents[] = {"", "x", " the keeper ", "in March\n",
                                           "東京 naïve e\xCC\x81"};
    for (size_t i = 0; i < 10; i++) {
        const char *name = names[i % 2];
        const struct chat_message messages[] = {message("user", contents[i / 2]),
                                                message("assistant", contents[(i / 2 + 1) % 5])};
        struct error err = {""};
        struct strbuf text = {0};
        struct token_list whole = {0};
        struct token_list parts = {0};
        assert_int_equal(chat_render_text(find(name), messages, 2, true, &text, &err), 0);
        assert_int_equal(
            tokenizer_encode(tokenizer, NULL, text.bytes, text.length, true, &whole, &err), 0);
        render(tokenizer, name, messages, 2, true, &parts, NULL);
        fixture_assert_ids(text.bytes, &parts, whole.ids, whole.count);
        strbuf_release(&text);
        token_list_release(&whole);
        token_list_release(&parts);
    }
}

static void a_span_is_the_content_and_its_end(void **state)
{
    (void)state;
    const struct chat_message messages[] = {
        message("user", "Which ship?"), message("assistant", "the lantern ship"),
        message("user", "<|im_end|>"), message("assistant", "")};
    struct error err = {""};
    struct chat_span spans[4];
    struct token_list ids = {0};
    int32_t im_end = tokenizer_token_id(tokenizer, "<|im_end|>", 10);
    token_list_add(&ids, 1); // positions count from the list's begin
    render(tokenizer, "qwen2.5", messages, 4, false, &ids, spans);
    for (int i = 0; i < 4; i++) {
        struct strbuf text = {0};
        struct chat_span span = spans[i];
        assert_true(span.begin < span.end && span.end < ids.count);
        assert_int_equal(ids.ids[span.end - 1], im_end);
        assert_int_equal(tokenizer_decode(tokenizer, ids.ids + span.begin,
                                          span.end - 1 - span.begin, &text, &err),
                         0);
        assert_int_equal(text.length, messages[i].length);
        assert_true(text.length == 0 || memcmp(text.bytes, messages[i].content, text.length) == 0);
        for (size_t at = span.begin; at + 1 < span.end; at++) {
            assert_int_not_equal(ids.ids[at], im_end); // content never ends its own message
        }
        strbuf_release(&text);
    }
    token_list_release(&ids);
}

static void an_answer_has_the_same_ids_behind_a_prompt_and_in_training(void **state)
{
    (void)state;
    const struct chat_message pair[] = {message("user", "Who?"),
                                        message("assistant", "\n\nthe keeper")};
    struct chat_span spans[2];
    struct token_list prompt = {0};
    struct token_list trained = {0};
    render(tokenizer, "chatml", pair, 1, true, &prompt, NULL);
    render(tokenizer, "chatml", pair, 2, false, &trained, spans);
    assert_int_equal(spans[1].begin, prompt.count);
    assert_memory_equal(trained.ids, prompt.ids, prompt.count * sizeof *prompt.ids);
    token_list_release(&prompt);
    token_list_release(&trained);
}

static void wrong_conversations_are_errors(void **state)
{
    (void)state;
    struct error err = {""};
    struct token_list ids = {0};
    const struct chat_message tool[] = {message("user", "x"), message("tool", "y")};
    const struct chat_message bad[] = {message("user", "a\xFF")};
    assert_int_equal(
        chat_render_ids(find("chatml"), tokenizer, NULL, tool, 0, true, &ids, NULL, &err), -1);
    assert_int_equal(
        chat_render_ids(find("chatml"), tokenizer, NULL, tool, 2, true, &ids, NULL, &err), -1);
    assert_string_equal(err.text, "message 1 has the role 'tool'; only system, user and assistant "
                                  "are supported");
    assert_int_equal(
        chat_render_ids(find("chatml"), tokenizer, NULL, bad, 1, true, &ids, NULL, &err), -1);
    assert_string_equal(err.text, "message 0: content of the user: the text is not valid UTF-8 at "
                                  "byte 1");
    assert_int_equal(ids.count, 0);
    token_list_release(&ids);
}

static void the_saved_template_is_detected(void **state)
{
    (void)state;
    struct error err = {""};
    const struct chat_template *template = NULL;
    char *directory = fixture_directory_create();
    assert_int_equal(tokenizer_save(tokenizer, fs_system(), directory, &err), 0);
    assert_int_equal(chat_template_detect(directory, &template, &err), 0);
    assert_string_equal(chat_template_name(template), "chatml");

    static const char foreign[] = "{{ messages }}";
    fixture_write(directory, "chat_template.jinja", foreign, strlen(foreign));
    assert_int_equal(chat_template_detect(directory, &template, &err), -1);
    assert_non_null(strstr(err.text, "choose one of: chatml, gemma2"));
    assert_non_null(strstr(err.text, "chat_template.jinja"));
    fixture_directory_remove(directory);
}

static void unknown_and_absent_templates_name_the_choices(void **state)
{
    (void)state;
    struct error err = {""};
    const struct chat_template *template = NULL;
    assert_int_equal(chat_template_find("llama", &template, &err), -1);
    assert_string_equal(
        err.text,
        "the chat template 'llama' is unknown; choose one of: chatml, gemma2, "
        "gemma3, lfm2, lfm2.5, llama3, llama3.1, mistral-v1, mistral-v3, mistral-v3-tekken, "
        "mistral-v7, mistral-v7-tekken, qwen2.5, qwen3, qwen3-no-think");
    static const char *const configs[] = {"{}",
                                          "[]",
                                          "{\"chat_template\": []}",
                                          "{\"chat_template\": 5}",
                                          "{\"chat_template\": \"x\"}",
                                          "{\"chat_template\": [{\"name\": \"default\"}]}"};
    char *directory = fixture_directory_create();
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        fixture_write(directory, "tokenizer_config.json", configs[i], strlen(configs[i]));
        assert_int_equal(chat_template_detect(directory, &template, &err), -1);
        assert_non_null(strstr(err.text, "choose one of: chatml, gemma2"));
    }
    fixture_write(directory, "tokenizer_config.json", "{", 1);
    assert_int_equal(chat_template_detect(directory, &template, &err), -1);
    fixture_directory_remove(directory);
    assert_int_equal(chat_template_detect("/nonexistent", &template, &err), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_rendered_as_the_template_says),
        cmocka_unit_test(ids_equal_those_of_the_whole_text),
        cmocka_unit_test(a_span_is_the_content_and_its_end),
        cmocka_unit_test(an_answer_has_the_same_ids_behind_a_prompt_and_in_training),
        cmocka_unit_test(wrong_conversations_are_errors),
        cmocka_unit_test(the_saved_template_is_detected),
        cmocka_unit_test(unknown_and_absent_templates_name_the_choices),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
