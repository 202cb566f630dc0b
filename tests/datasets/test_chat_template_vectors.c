// SPDX-License-Identifier: Apache-2.0
// Qwen2.5's template against published conversations. One of them holds the text of a special token
// in a user's content: there the text must agree, and the ids must not, because ours never let
// content end its own message.
#include "base/json.h"
#include "datasets/chat_template.h"
#include "tests/test_data.h"
#include "tokenizer_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MAX_MESSAGES 8

static struct tokenizer *tokenizer;
static const struct chat_template *template;

static size_t read_messages(const struct json *list, struct chat_message *out, bool *has_special)
{
    assert_true(list->length <= MAX_MESSAGES);
    *has_special = false;
    for (size_t i = 0; i < list->length; i++) {
        const struct json *content = json_get(&list->items[i], "content");
        out[i] = (struct chat_message){.role = json_get(&list->items[i], "role")->string,
                                       .content = content->string,
                                       .length = content->length};
        *has_special |= strstr(content->string, "<|im_") != NULL;
    }
    return list->length;
}

// Returns true when the conversation holds the text of a special token.
static bool check_vector(const struct json *vector)
{
    struct error err = {""};
    struct chat_message messages[MAX_MESSAGES];
    struct strbuf text = {0};
    struct token_list ids = {0};
    struct token_list whole = {0};
    struct token_list expected = {0};
    bool has_special;
    size_t count = read_messages(json_get(vector, "messages"), messages, &has_special);
    bool prompt = json_get(vector, "add_generation_prompt")->boolean;
    const struct json *list = json_get(vector, "ids");
    for (size_t i = 0; i < list->length; i++) {
        token_list_add(&expected, (int32_t)list->items[i].integer);
    }
    assert_int_equal(chat_render_text(template, messages, count, prompt, &text, &err), 0);
    assert_string_equal(text.bytes, json_get(vector, "text")->string);
    assert_int_equal(tokenizer_encode(tokenizer, NULL, text.bytes, text.length, true, &whole, &err),
                     0);
    fixture_assert_ids(text.bytes, &whole, expected.ids, expected.count);
    assert_int_equal(
        chat_render_ids(template, tokenizer, NULL, messages, count, prompt, &ids, NULL, &err), 0);
    if (has_special) {
        assert_int_not_equal(ids.count, expected.count);
    } else {
        fixture_assert_ids(text.bytes, &ids, expected.ids, expected.count);
    }
    strbuf_reset(&text);
    assert_int_equal(tokenizer_decode(tokenizer, ids.ids, ids.count, &text, &err), 0);
    strbuf_release(&text);
    token_list_release(&ids);
    token_list_release(&whole);
    token_list_release(&expected);
    return has_special;
}

static void conversations_agree(void **state)
{
    (void)state;
    struct strbuf lines = {0};
    struct error err = {""};
    size_t count = 0;
    size_t special = 0;
    char *path = test_data_path("qwen2.5/vectors/chat-template-vectors.jsonl");
    assert_non_null(path);
    assert_int_equal(fs_read(fs_system(), path, &lines, &err), 0);
    for (char *line = strtok(lines.bytes, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        struct arena arena = {0};
        const struct json *vector;
        assert_int_equal(json_parse(&arena, line, strlen(line), &vector, &err), 0);
        special += check_vector(vector);
        arena_release(&arena);
        count++;
    }
    assert_int_equal(count, 6);
    assert_int_equal(special, 1);
    strbuf_release(&lines);
    free(path);
}

static void published_directories_are_recognized(void **state)
{
    (void)state;
    static const char *const directories[] = {"qwen2.5/tokenizer",
                                              "model-configs/Qwen2.5-0.5B-Instruct",
                                              "model-configs/Qwen2.5-1.5B-Instruct"};
    for (size_t i = 0; i < sizeof directories / sizeof *directories; i++) {
        struct error err = {""};
        const struct chat_template *found = NULL;
        char *path = test_data_path(directories[i]);
        assert_non_null(path);
        if (chat_template_detect(path, &found, &err) != 0) {
            fail_msg("%s", err.text);
        }
        assert_string_equal(chat_template_name(found), "qwen2.5");
        free(path);
    }
}

int main(void)
{
    char *data = test_data_path("qwen2.5/tokenizer");
    struct error err = {""};
    if (data == NULL) {
        return SKIPPED;
    }
    if (tokenizer_load(data, &tokenizer, &err) != 0 ||
        chat_template_detect(data, &template, &err) != 0) {
        printf("%s\n", err.text);
        return 1;
    }
    free(data);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversations_agree),
        cmocka_unit_test(published_directories_are_recognized),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    tokenizer_destroy(tokenizer);
    return rc;
}
