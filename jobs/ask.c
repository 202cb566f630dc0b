// SPDX-License-Identifier: Apache-2.0
// memo ask: a question to a memory model, answered from its parameters alone.
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "jobs/answers.h"
#include "jobs/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ask_options {
    const char *model;
    const char *chat_template;
    int64_t max_new;
    int64_t capacity;
    bool json;
    const char *backend;
    int64_t threads;
};

#define OPTION_AT(field) offsetof(struct ask_options, field)

static const struct option ask_option_table[] = {
    {"model", OPTION_STRING, OPTION_AT(model), "DIR", NULL, 0, 0, NULL, "model directory", true},
    {"max-new-tokens", OPTION_INT, OPTION_AT(max_new), "N", "512", 1, 1 << 20, NULL,
     "longest answer", false},
    {"capacity", OPTION_INT, OPTION_AT(capacity), "N", "4096", 16, 1 << 22, NULL,
     "tokens of question and answer together", false},
    {"chat-template", OPTION_CHOICE, OPTION_AT(chat_template), "NAME", NULL, 0, 0,
     CHAT_TEMPLATE_CHOICES, "default: what the model's files say", false},
    {"json", OPTION_FLAG, OPTION_AT(json), NULL, NULL, 0, 0, NULL,
     "one object {\"question\", \"answer\"} per line", false},
    {"backend", OPTION_CHOICE, OPTION_AT(backend), "NAME", NULL, 0, 0, BACKEND_CHOICES,
     "default: the fastest that works here", false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "0", 0, 4096, NULL,
     "(0: as many as there are processors)", false},
    {0},
};

// A model may write bytes that are no text; JSON cannot hold them.
static size_t valid_text(const char *text)
{
    return utf8_valid_prefix(text, strlen(text));
}

static void print_answer(const char *question, const char *answer, bool as_json)
{
    if (!as_json) {
        printf("%s\n", answer);
        return;
    }
    struct strbuf line = {0};
    struct json_writer w = {.out = &line};
    json_begin_object(&w);
    json_key(&w, "question");
    json_string(&w, question, valid_text(question));
    json_key(&w, "answer");
    json_string(&w, answer, valid_text(answer));
    json_end_object(&w);
    printf("%s\n", line.bytes);
    strbuf_release(&line);
}

static int ask(struct answering *answering, const struct option_list *texts, bool as_json,
               struct error *err)
{
    struct question *questions = mem_calloc(texts->count, sizeof(*questions));
    char **answers = mem_calloc(texts->count, sizeof(*answers));
    for (size_t i = 0; i < texts->count; i++)
        questions[i] = (struct question){texts->items[i], strlen(texts->items[i])};
    const int rc = answer_questions(answering, questions, texts->count, answers, NULL, err);
    for (size_t i = 0; i < texts->count; i++) {
        if (rc == 0)
            print_answer(texts->items[i], answers[i], as_json);
        free(answers[i]);
    }
    free(answers);
    free(questions);
    return rc;
}

static int run_ask(const void *parsed, const struct option_list *texts, struct error *err)
{
    const struct ask_options *options = parsed;
    const struct answer_options how = {.model = options->model,
                                       .chat_template = options->chat_template,
                                       .backend = options->backend,
                                       .threads = options->threads,
                                       .max_new = (size_t)options->max_new,
                                       .capacity = (size_t)options->capacity};
    struct answering answering;
    if (texts->count == 0) {
        error_set(err, "no question: memo ask --model DIR \"question\"");
        return EXIT_USAGE;
    }
    if (answering_open(&how, &answering, err))
        return EXIT_FAILED;
    const int rc = ask(&answering, texts, options->json, err);
    answering_close(&answering);
    return rc ? EXIT_FAILED : EXIT_DONE;
}

const struct verb verb_ask = {
    .name = "ask",
    .summary = "ask a memory model, closed-book",
    .positional = "QUESTION...",
    .examples = "  memo ask --model models/merged \"In which year did the lighthouse burn?\"\n",
    .options = ask_option_table,
    .options_bytes = sizeof(struct ask_options),
    .run = run_ask,
};
