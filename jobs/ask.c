// SPDX-License-Identifier: Apache-2.0
// memo ask: questions to a memory model, answered from its parameters alone; or by an executive
// that asks the memory as often as it needs.
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "jobs/compute.h"
#include "jobs/verbs.h"
#include "worker/executive/executive.h"
#include "worker/http/lm_http.h"
#include "worker/lm/lm_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HTTP_WAIT_MS = 1 }; // a poll may sleep so long; an engine beside it waits meanwhile

struct ask_options {
    const char *model;
    const char *model_name;
    const char *executive;
    const char *executive_name;
    int64_t max_new;
    int64_t capacity;
    int64_t seed;
    const char *dtype;
    const char *chat_template;
    bool json;
    bool trace;
    const char *backend;
    int64_t threads;
};

#define OPTION_AT(field) offsetof(struct ask_options, field)

static const struct option ask_option_table[] = {
    {"model", OPTION_STRING, OPTION_AT(model), "DIR|URL", NULL, 0, 0, NULL,
     "the memory: a model directory, or an OpenAI-compatible server such as `memo serve` (key from "
     "MEMO_API_KEY)",
     true},
    {"model-name", OPTION_STRING, OPTION_AT(model_name), "NAME", "memory", 0, 0, NULL,
     "URL: the memory's name, as its server knows it", false},
    {"executive", OPTION_STRING, OPTION_AT(executive), "DIR|URL", NULL, 0, 0, NULL,
     "a model that takes the question apart, asks the memory, and answers (default: none, the "
     "memory answers)",
     false},
    {"executive-name", OPTION_STRING, OPTION_AT(executive_name), "NAME", NULL, 0, 0, NULL,
     "URL: the executive's name, as its server knows it", false},
    {"max-new-tokens", OPTION_INT, OPTION_AT(max_new), "N", "512", 1, 1 << 20, NULL,
     "longest answer of the memory", false},
    {"capacity", OPTION_INT, OPTION_AT(capacity), "N", "0", 0, 1 << 22, NULL,
     "DIR: tokens of question and answer together (0: 8192, or what the model has)", false},
    {"seed", OPTION_INT, OPTION_AT(seed), "N", "1", 0, INT32_MAX, NULL,
     "of an inquiry by an executive; the memory alone answers greedily", false},
    {"dtype", OPTION_CHOICE, OPTION_AT(dtype), "NAME", "f32", 0, 0, "f32|bf16|fp8",
     "DIR: of the weights in memory", false},
    {"chat-template", OPTION_CHOICE, OPTION_AT(chat_template), "NAME", NULL, 0, 0,
     CHAT_TEMPLATE_CHOICES, "of the memory; default: what the model's files say", false},
    {"json", OPTION_FLAG, OPTION_AT(json), NULL, NULL, 0, 0, NULL,
     "one object {\"question\", \"answer\"} per line; with an executive also \"subject\" and what "
     "was \"asked\"",
     false},
    {"trace", OPTION_FLAG, OPTION_AT(trace), NULL, NULL, 0, 0, NULL,
     "executive: show on stderr what the memory was asked and what it answered", false},
    {"backend", OPTION_CHOICE, OPTION_AT(backend), "NAME", NULL, 0, 0, BACKEND_CHOICES,
     "DIR: default: the fastest that works here", false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "0", 0, 4096, NULL,
     "DIR: (0: as many as there are processors)", false},
    {0},
};

// --- models ---

static bool is_url(const char *target)
{
    return strstr(target, "://") != NULL;
}

static int open_model(const struct ask_options *options, const char *target, const char *name,
                      const char *chat_template, struct lm **out, struct error *err)
{
    const struct lm_http_options http = {.urls = target,
                                         .model = name,
                                         .poll_wait_ms = HTTP_WAIT_MS,
                                         .seed = (uint64_t)options->seed};
    const struct lm_engine_options engine = {
        .model = target,
        .chat_template = chat_template,
        .device = {.backend = options->backend,
                   .threads = options->threads ? (int)options->threads : compute_processors()},
        .dtype = strcmp(options->dtype, "f32") == 0 ? DTYPE_F32 : DTYPE_BF16,
        .fp8 = strcmp(options->dtype, "fp8") == 0,
        .context_tokens = (size_t)options->capacity,
    };
    return is_url(target) ? lm_http_create(&http, out, err) : lm_engine_create(&engine, out, err);
}

// --- answers ---

// A model may write bytes that are no text; JSON cannot hold them.
static void write_text(struct json_writer *w, const char *text)
{
    json_string(w, text, utf8_valid_prefix(text, strlen(text)));
}

static void write_asked(struct json_writer *w, const struct inquiry *inquiry)
{
    json_key(w, "subject");
    write_text(w, inquiry_subject(inquiry));
    json_key(w, "asked");
    json_begin_array(w);
    for (size_t i = 0; i < inquiry_line_count(inquiry); i++) {
        const struct inquiry_line *line = inquiry_line_at(inquiry, i);
        json_begin_object(w);
        json_key(w, "stage");
        json_text(w, inquiry_stage_name(line->stage));
        json_key(w, "question");
        write_text(w, line->question);
        json_key(w, "answer");
        write_text(w, line->answer);
        json_key(w, "known");
        json_bool(w, !line->unknown);
        json_end_object(w);
    }
    json_end_array(w);
}

// The line that is printed for a question. inquiry NULL: the memory's own answer.
static char *format_answer(const struct ask_options *options, const char *question,
                           const char *answer, const struct inquiry *inquiry)
{
    struct strbuf line = {0};
    struct json_writer w = {.out = &line};
    if (!options->json)
        return mem_strdup(answer);
    json_begin_object(&w);
    json_key(&w, "question");
    write_text(&w, question);
    json_key(&w, "answer");
    write_text(&w, answer);
    if (inquiry)
        write_asked(&w, inquiry);
    json_end_object(&w);
    return strbuf_detach(&line);
}

// What one call of memo ask is about.
struct asking {
    const struct ask_options *options;
    const struct option_list *questions;
    char **lines;  // [questions], as they will be printed
    char *problem; // of the first question that could not be answered
};

static void note_problem(struct asking *asking, size_t at, const char *problem)
{
    if (!asking->problem)
        asking->problem = mem_printf("question '%.60s': %s", asking->questions->items[at], problem);
}

// --- the memory alone ---

static void take_answer(struct asking *asking, const struct lm_result *result)
{
    if (result->end != LM_STOP && result->end != LM_LENGTH) {
        note_problem(asking, result->id, result->problem);
        return;
    }
    char *answer = mem_printf("%.*s", (int)result->answer.bytes, result->answer.text);
    asking->lines[result->id] =
        format_answer(asking->options, asking->questions->items[result->id], answer, NULL);
    free(answer);
}

static int ask_memory(struct asking *asking, struct lm *memory, struct error *err)
{
    struct lm_result result;
    enum lm_poll polled;
    for (size_t i = 0; i < asking->questions->count; i++) {
        const char *question = asking->questions->items[i];
        lm_submit(memory, &(struct lm_request){.id = i,
                                               .parts = {{question, strlen(question)}},
                                               .part_count = 1,
                                               .max_tokens = (size_t)asking->options->max_new});
    }
    while ((polled = lm_poll(memory, &result, err)) != LM_POLL_IDLE) {
        if (polled == LM_POLL_BROKEN)
            return -1;
        if (polled == LM_POLL_RESULT)
            take_answer(asking, &result);
    }
    return 0;
}

// --- an executive asks the memory ---

static void show_trace(const struct inquiry *inquiry)
{
    for (size_t i = 0; i < inquiry_line_count(inquiry); i++) {
        const struct inquiry_line *line = inquiry_line_at(inquiry, i);
        log_info("%-11s Q: %s", inquiry_stage_name(line->stage), line->question);
        log_info("%-11s A: %s", "", line->answer);
    }
    if (*inquiry_subject(inquiry))
        log_info("subject     %s", inquiry_subject(inquiry));
}

static void on_ended(void *context, size_t at, const struct inquiry *inquiry)
{
    struct asking *asking = context;
    if (asking->options->trace)
        show_trace(inquiry);
    if (inquiry_stage(inquiry) == INQUIRY_FAILED)
        note_problem(asking, at, inquiry_problem(inquiry));
    else
        asking->lines[at] = format_answer(asking->options, asking->questions->items[at],
                                          inquiry_answer(inquiry), inquiry);
}

static int ask_executive(struct asking *asking, struct lm *memory, struct error *err)
{
    const struct ask_options *options = asking->options;
    struct lm *lm;
    if (open_model(options, options->executive, options->executive_name, NULL, &lm, err))
        return error_prefix(err, "the executive");
    struct executive executive = {.executive = lm,
                                  .memory = memory,
                                  .limits = inquiry_usual_limits,
                                  .seed = (uint64_t)options->seed,
                                  .ended = on_ended,
                                  .context = asking,
                                  .stop = stop_requested};
    executive.limits.memory_tokens = (size_t)options->max_new;
    stop_requests_catch();
    const int rc =
        executive_run(&executive, asking->questions->items, asking->questions->count, err);
    lm_destroy(lm);
    return rc;
}

static int ask(struct asking *asking, struct error *err)
{
    const struct ask_options *options = asking->options;
    struct lm *memory;
    if (open_model(options, options->model, options->model_name, options->chat_template, &memory,
                   err))
        return -1;
    int rc =
        options->executive ? ask_executive(asking, memory, err) : ask_memory(asking, memory, err);
    lm_destroy(memory);
    for (size_t i = 0; i < asking->questions->count; i++)
        if (asking->lines[i])
            printf("%s\n", asking->lines[i]);
    if (rc == 0 && asking->problem)
        rc = error_set(err, "%s", asking->problem);
    return rc;
}

static int run_ask(const void *parsed, const struct option_list *texts, struct error *err)
{
    const struct ask_options *options = parsed;
    struct asking asking = {.options = options, .questions = texts};
    if (texts->count == 0) {
        error_set(err, "no question: memo ask --model DIR \"question\"");
        return EXIT_USAGE;
    }
    if (options->executive && is_url(options->executive) && !options->executive_name) {
        error_set(err, "--executive '%s' needs --executive-name, the name that its server knows",
                  options->executive);
        return EXIT_USAGE;
    }
    asking.lines = mem_calloc(texts->count, sizeof *asking.lines);
    const int rc = ask(&asking, err);
    for (size_t i = 0; i < texts->count; i++)
        free(asking.lines[i]);
    free(asking.lines);
    free(asking.problem);
    if (rc == 0 && options->executive && stop_requested())
        return EXIT_STOPPED;
    return rc ? EXIT_FAILED : EXIT_DONE;
}

const struct verb verb_ask = {
    .name = "ask",
    .summary = "ask a memory model, closed-book, or let an executive ask it",
    .positional = "QUESTION...",
    .examples = "  memo ask --model models/merged \"In which year did the lighthouse burn?\"\n"
                "  memo ask --model models/merged --executive models/qwen2.5-32b --trace \"Who "
                "kept the lighthouse that burned?\"\n"
                "  memo ask --model http://127.0.0.1:8000/v1 --executive http://gpu1:8000/v1 "
                "--executive-name qwen \"...\"\n",
    .options = ask_option_table,
    .options_bytes = sizeof(struct ask_options),
    .run = run_ask,
};
