// SPDX-License-Identifier: Apache-2.0
// Conversations rendered by the published templates under the Python package `transformers`
// (tests/oracle/chat_template_golden.py), byte for byte; and the families' marks.
#include "base/json.h"
#include "datasets/chat_template.h"
#include "tokenizer_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MAX_MESSAGES 8

static const struct chat_template *find(const char *name)
{
    struct error err = {""};
    const struct chat_template *template = NULL;
    if (chat_template_find(name, &template, &err) != 0) {
        fail_msg("%s", err.text);
    }
    return template;
}

// Returns true when the template renders the conversation, false when it refuses it.
static bool check_vector(const char *line, const struct json *vector)
{
    struct error err = {""};
    struct chat_message messages[MAX_MESSAGES];
    struct strbuf text = {0};
    const struct json *list = json_get(vector, "messages");
    const struct json *expected = json_get(vector, "text");
    assert_true(list->length <= MAX_MESSAGES);
    for (size_t i = 0; i < list->length; i++) {
        const struct json *content = json_get(&list->items[i], "content");
        messages[i] = (struct chat_message){.role = json_get(&list->items[i], "role")->string,
                                            .content = content->string,
                                            .length = content->length};
    }
    int rc = chat_render_text(find(json_get(vector, "template")->string), messages, list->length,
                              json_get(vector, "add_generation_prompt")->boolean, &text, &err);
    if (expected->type != JSON_STRING) {
        assert_int_equal(rc, -1);
        assert_true(err.text[0] != '\0');
    } else if (rc != 0 || text.length != expected->length ||
               memcmp(text.bytes, expected->string, text.length) != 0) {
        fail_msg("%s\n%s\n%s", line, rc == 0 ? text.bytes : err.text, expected->string);
    }
    strbuf_release(&text);
    return expected->type == JSON_STRING;
}

static void conversations_agree(void **state)
{
    (void)state;
    struct strbuf lines = {0};
    size_t rendered = 0;
    size_t refused = 0;
    fixture_read(GOLDEN_DIRECTORY, "chat_templates/vectors.jsonl", &lines);
    for (char *line = strtok(lines.bytes, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        struct arena arena = {0};
        struct error err = {""};
        const struct json *vector;
        assert_int_equal(json_parse(&arena, line, strlen(line), &vector, &err), 0);
        bool accepted = check_vector(line, vector);
        rendered += accepted;
        refused += !accepted;
        arena_release(&arena);
    }
    assert_true(rendered > 200);
    assert_true(refused > 10);
    strbuf_release(&lines);
}

static const char *const names[] = {"chatml",
                                    "qwen2.5",
                                    "qwen3",
                                    "qwen3-no-think",
                                    "llama3",
                                    "llama3.1",
                                    "gemma2",
                                    "gemma3",
                                    "lfm2",
                                    "lfm2.5",
                                    "mistral-v1",
                                    "mistral-v3",
                                    "mistral-v3-tekken",
                                    "mistral-v7",
                                    "mistral-v7-tekken"};

#define FIRST_PLAIN 12   // <think> and </think> are not special
#define INSTRUCT_COUNT 4 // tokens at the end of the list that mistral-v1 writes as text

// A tokenizer with the special tokens of all families, and with <think>, which is not special.
static struct tokenizer *make_tokenizer(bool has_instruct)
{
    static const char *const specials[] = {"<|im_start|>",
                                           "<|im_end|>",
                                           "<|begin_of_text|>",
                                           "<|start_header_id|>",
                                           "<|end_header_id|>",
                                           "<|eot_id|>",
                                           "<bos>",
                                           "<start_of_turn>",
                                           "<end_of_turn>",
                                           "<|startoftext|>",
                                           "<s>",
                                           "</s>",
                                           "<think>",
                                           "</think>",
                                           "[INST]",
                                           "[/INST]",
                                           "[SYSTEM_PROMPT]",
                                           "[/SYSTEM_PROMPT]"};
    const int count =
        (int)(sizeof specials / sizeof *specials) - (has_instruct ? 0 : INSTRUCT_COUNT);
    struct error err = {""};
    struct strbuf saved = {0};
    struct strbuf json = {0};
    struct tokenizer *small = fixture_tokenizer(400);
    struct tokenizer *t = NULL;
    char *directory = fixture_directory_create();
    assert_int_equal(tokenizer_save(small, fs_system(), directory, &err), 0);
    fixture_read(directory, "tokenizer.json", &saved);
    const char *list = strstr(saved.bytes, "\"added_tokens\": [");
    const char *end = strchr(list, ']');
    strbuf_add(&json, saved.bytes, (size_t)(list - saved.bytes));
    strbuf_adds(&json, "\"added_tokens\": [");
    for (int i = 0; i < count; i++) {
        strbuf_addf(&json, "%s{\"id\": %d, \"content\": \"%s\", \"special\": %s}", i ? "," : "",
                    1000 + i, specials[i],
                    i == FIRST_PLAIN || i == FIRST_PLAIN + 1 ? "false" : "true");
    }
    strbuf_adds(&json, end);
    if (tokenizer_parse(json.bytes, json.length, NULL, 0, &t, &err) != 0) {
        fail_msg("%s", err.text);
    }
    strbuf_release(&saved);
    strbuf_release(&json);
    tokenizer_destroy(small);
    fixture_directory_remove(directory);
    return t;
}

static void ids_equal_those_of_the_text_and_answers_continue_prompts(void **state)
{
    (void)state;
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        struct tokenizer *t = make_tokenizer(strcmp(names[n], "mistral-v1") != 0);
        struct error err = {""};
        struct strbuf text = {0};
        struct token_list whole = {0};
        struct token_list ids = {0};
        struct token_list prompt = {0};
        struct chat_span spans[2];
        const struct chat_template *template = find(names[n]);
        assert_non_null(strstr(CHAT_TEMPLATE_CHOICES, names[n]));
        const struct chat_message messages[] = {
            {.role = "user", .content = "Which ship?", .length = 11},
            {.role = "assistant", .content = "the lantern ship", .length = 16}};
        assert_int_equal(chat_render_text(template, messages, 2, false, &text, &err), 0);
        assert_int_equal(tokenizer_encode(t, NULL, text.bytes, text.length, true, &whole, &err), 0);
        assert_int_equal(chat_render_ids(template, t, NULL, messages, 2, false, &ids, spans, &err),
                         0);
        fixture_assert_ids(names[n], &ids, whole.ids, whole.count);
        assert_int_equal(chat_render_ids(template, t, NULL, messages, 1, true, &prompt, NULL, &err),
                         0);
        assert_int_equal(spans[1].begin, prompt.count);
        assert_memory_equal(ids.ids, prompt.ids, prompt.count * sizeof *ids.ids);
        size_t length;
        const char *end = tokenizer_token_bytes(t, ids.ids[spans[1].end - 1], &length);
        assert_int_equal(spans[1].content_end, spans[1].end - 1);
        assert_int_equal(length, strlen(chat_template_end(template)));
        assert_memory_equal(end, chat_template_end(template), length);
        strbuf_release(&text);
        token_list_release(&whole);
        token_list_release(&ids);
        token_list_release(&prompt);
        tokenizer_destroy(t);
    }
}

// A tokenizer of the SentencePiece kind that puts a space in front of every text.
static struct tokenizer *load_llama2_kind(void)
{
    struct error err = {""};
    struct strbuf json = {0};
    struct tokenizer *t = NULL;
    fixture_read(GOLDEN_DIRECTORY, "tokenizer_llama2/tokenizer.json", &json);
    for (char *at = json.bytes; (at = strstr(at, "\"<bos>\"")) != NULL;) {
        memcpy(at, "\"<s>\"  ", 7);
    }
    for (char *at = json.bytes; (at = strstr(at, "\"<eos>\"")) != NULL;) {
        memcpy(at, "\"</s>\" ", 7);
    }
    if (tokenizer_parse(json.bytes, json.length, NULL, 0, &t, &err) != 0) {
        fail_msg("%s", err.text);
    }
    strbuf_release(&json);
    return t;
}

// In mistral-v1 a question and its answer are one stretch of text: the tokenizer's own space is put
// in front of the question only.
static void an_answer_behind_text_continues_it(void **state)
{
    (void)state;
    static const char *const questions[] = {"Which ship?", "Who", " the keeper", "x", "at sea"};
    static const char *const answers[] = {"the lantern ship", "", " two ", "at sea", "\n"};
    struct tokenizer *t = load_llama2_kind();
    for (size_t i = 0; i < 5; i++) {
        struct error err = {""};
        struct strbuf text = {0};
        struct token_list whole = {0};
        struct token_list ids = {0};
        struct token_list prompt = {0};
        struct chat_span spans[5];
        const char *question = questions[i];
        const char *answer = answers[i];
        const struct chat_message messages[] = {
            {.role = "system", .content = "Recall.", .length = 7},
            {.role = "user", .content = question, .length = strlen(question)},
            {.role = "assistant", .content = answer, .length = strlen(answer)},
            {.role = "user", .content = question, .length = strlen(question)},
            {.role = "assistant", .content = answer, .length = strlen(answer)}};
        const struct chat_template *template = find("mistral-v1");
        assert_int_equal(chat_render_text(template, messages, 5, true, &text, &err), 0);
        assert_int_equal(tokenizer_encode(t, NULL, text.bytes, text.length, true, &whole, &err), 0);
        assert_int_equal(chat_render_ids(template, t, NULL, messages, 5, true, &ids, spans, &err),
                         0);
        fixture_assert_ids(text.bytes, &ids, whole.ids, whole.count);
        assert_int_equal(chat_render_ids(template, t, NULL, messages, 4, true, &prompt, NULL, &err),
                         0);
        assert_int_equal(spans[4].begin, prompt.count);
        assert_memory_equal(ids.ids, prompt.ids, prompt.count * sizeof *ids.ids);
        strbuf_release(&text);
        token_list_release(&whole);
        token_list_release(&ids);
        token_list_release(&prompt);
    }
    tokenizer_destroy(t);
}

static void assert_decoded(const struct tokenizer *t, const struct token_list *ids, size_t begin,
                           size_t end, const char *expected)
{
    struct error err = {""};
    struct strbuf text = {0};
    assert_int_equal(tokenizer_decode(t, ids->ids + begin, end - begin, &text, &err), 0);
    assert_int_equal(text.length, strlen(expected));
    assert_true(text.length == 0 || memcmp(text.bytes, expected, text.length) == 0);
    strbuf_release(&text);
}

// What stands before and behind the content of a message is outside of its span or behind
// content_end, be it one token or text.
static void content_ends_before_what_closes_the_turn(void **state)
{
    (void)state;
    static const char *const closes[] = {"[/INST]", " [/INST]"};
    for (int i = 0; i < 2; i++) {
        struct error err = {""};
        struct token_list ids = {0};
        struct chat_span spans[2];
        struct tokenizer *t = make_tokenizer(i == 0);
        const struct chat_message messages[] = {
            {.role = "user", .content = "[INST]", .length = 6},
            {.role = "assistant", .content = "</s>", .length = 4}};
        assert_int_equal(chat_render_ids(find(i == 0 ? "mistral-v3" : "mistral-v1"), t, NULL,
                                         messages, 2, false, &ids, spans, &err),
                         0);
        assert_decoded(t, &ids, spans[0].begin, spans[0].content_end, " [INST]");
        assert_decoded(t, &ids, spans[0].content_end, spans[0].end, closes[i]);
        assert_decoded(t, &ids, spans[1].begin, spans[1].content_end, " </s>");
        assert_decoded(t, &ids, spans[1].content_end, spans[1].end, "</s>");
        int32_t end = tokenizer_token_id(t, "</s>", 4);
        size_t ends = 0;
        for (size_t at = 0; at < ids.count; at++) {
            ends += ids.ids[at] == end;
        }
        assert_int_equal(ends, 1);
        token_list_release(&ids);
        tokenizer_destroy(t);
    }
}

static void an_absent_instruct_token_is_an_error(void **state)
{
    (void)state;
    struct error err = {""};
    struct token_list ids = {0};
    struct tokenizer *t = make_tokenizer(false);
    const struct chat_message message = {.role = "user", .content = "Who?", .length = 4};
    assert_int_equal(
        chat_render_ids(find("mistral-v3"), t, NULL, &message, 1, true, &ids, NULL, &err), -1);
    assert_non_null(strstr(err.text, "no token '[INST]'"));
    assert_int_equal(ids.count, 0);
    token_list_release(&ids);
    tokenizer_destroy(t);
}

static void a_merged_system_message_has_an_empty_span(void **state)
{
    (void)state;
    struct error err = {""};
    struct tokenizer *t = make_tokenizer(true);
    struct token_list ids = {0};
    struct chat_span spans[2];
    const struct chat_message messages[] = {{.role = "system", .content = "Recall.", .length = 7},
                                            {.role = "user", .content = "Who?", .length = 4}};
    assert_int_equal(
        chat_render_ids(find("gemma3"), t, NULL, messages, 2, false, &ids, spans, &err), 0);
    assert_int_equal(spans[0].begin, spans[0].end);
    assert_true(spans[1].begin >= spans[0].end && spans[1].end > spans[1].begin);
    assert_int_equal(
        chat_render_ids(find("gemma2"), t, NULL, messages, 2, false, &ids, spans, &err), -1);
    assert_non_null(strstr(err.text, "'gemma2' has no system message"));
    token_list_release(&ids);
    tokenizer_destroy(t);
}

static void assert_detected(const char *directory, const char *jinja, const char *name)
{
    struct error err = {""};
    const struct chat_template *template = NULL;
    fixture_write(directory, "chat_template.jinja", jinja, strlen(jinja));
    int rc = chat_template_detect(directory, &template, &err);
    if (name == NULL) {
        assert_int_equal(rc, -1);
        assert_non_null(strstr(err.text, chat_template_names()));
        assert_non_null(strstr(err.text, "--chat-template"));
    } else if (rc != 0) {
        fail_msg("%s", err.text);
    } else {
        assert_string_equal(chat_template_name(template), name);
    }
}

// Texts with all the marks of a family, of none, and of none since one is another family's.
static void a_family_is_known_by_all_of_its_marks(void **state)
{
    (void)state;
    static const char gemma[] =
        "{{ bos_token }}{% set role = \"model\" %}{{ '<start_of_turn>' + role + (first_user_prefix "
        "if loop.first else '') + message | trim + '<end_of_turn>' }}";
    static const char llama[] = "{{ bos_token + '<|start_header_id|>' + role + '<|end_header_id|>' "
                                "+ content | trim + '<|eot_id|>' }}{% if loop.index0 == 0 %}";
    struct strbuf changed = {0};
    char *directory = fixture_directory_create();
    assert_detected(directory, gemma, "gemma3");
    assert_detected(directory, llama, "llama3");
    strbuf_addf(&changed, "%s{{ 'Date' }}", llama);
    assert_detected(directory, changed.bytes, NULL);
    strbuf_reset(&changed);
    strbuf_addf(&changed, "%s%s", gemma, llama);
    assert_detected(directory, changed.bytes, NULL);
    assert_detected(directory, gemma + 15, NULL);
    assert_detected(directory, "", NULL);
    strbuf_release(&changed);
    fixture_directory_remove(directory);
}

// The forms of Mistral's differ in spaces; a text that mixes them is none of these.
static void the_forms_of_mistral_are_told_apart(void **state)
{
    (void)state;
    static const char v1[] =
        "{{ bos_token }}{% if (role == 'user') != (loop.index0 % 2 == 0) %}{% endif %}"
        "{% if loop.first and system_message is defined %}"
        "{{ ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}"
        "{{ ' [INST] ' + message['content'] + ' [/INST]' }}{{ ' ' + message['content'] + eos_token}}";
    static const char v3[] =
        "{{ bos_token }}{%% if (role == 'user') != (ns.index %% 2 == 0) %%}{%% endif %%}"
        "{%% if loop.last and system_message is defined %%}"
        "{{- \"[INST]%s\" + system_message + \"\\n\\n\" + message[\"content\"] + \"[/INST]\" }}"
        "{{- \"[INST]%s\" + message[\"content\"] + \"[/INST]\" }}{{- %s + eos_token}}";
    static const char v7[] = "{{ bos_token }}{{ '[INST] ' + message['content'] + '[/INST]' }}"
                             "{{ '[SYSTEM_PROMPT] ' + message['content'] + '[/SYSTEM_PROMPT]' }}"
                             "{{ ' ' + message['content'] + eos_token }}";
    struct strbuf changed = {0};
    char *directory = fixture_directory_create();
    assert_detected(directory, v1, "mistral-v1");
    assert_detected(directory, v7, "mistral-v7");
    strbuf_addf(&changed, v3, " ", " ", "\" \" + message[\"content\"]|trim");
    assert_detected(directory, changed.bytes, "mistral-v3");
    strbuf_reset(&changed);
    strbuf_addf(&changed, v3, "", "", "message[\"content\"]");
    assert_detected(directory, changed.bytes, "mistral-v3-tekken");
    strbuf_reset(&changed); // as Ministral-8B-Instruct-2410: of no family that we know
    strbuf_addf(&changed, v3, "", "", "\" \" + message[\"content\"]|trim");
    assert_detected(directory, changed.bytes, NULL);
    strbuf_reset(&changed); // v1 before it had system messages
    strbuf_addf(&changed, "%s", strstr(v1, "{{ ' [INST] ' + message"));
    assert_detected(directory, changed.bytes, NULL);
    strbuf_release(&changed);
    fixture_directory_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(conversations_agree),
        cmocka_unit_test(ids_equal_those_of_the_text_and_answers_continue_prompts),
        cmocka_unit_test(an_answer_behind_text_continues_it),
        cmocka_unit_test(content_ends_before_what_closes_the_turn),
        cmocka_unit_test(an_absent_instruct_token_is_an_error),
        cmocka_unit_test(a_merged_system_message_has_an_empty_span),
        cmocka_unit_test(a_family_is_known_by_all_of_its_marks),
        cmocka_unit_test(the_forms_of_mistral_are_told_apart),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
