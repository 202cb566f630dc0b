// SPDX-License-Identifier: Apache-2.0
#include "jobs/answers.h"

#include "base/log.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS 32            // questions answered at once
#define TOKENS_PER_STEP 512 // prompts are cut up to keep steps short

static int open_engine(struct answering *answering, const struct answer_options *options,
                       struct error *err)
{
    const struct engine_options engine = {
        .slots = SLOTS, .capacity = options->capacity, .max_tokens = TOKENS_PER_STEP};
    return compute_device_open_alone(options->backend, options->threads, &answering->device, err) ||
                   text_codec_open(options->model, options->chat_template, &answering->codec,
                                   err) ||
                   model_load(answering->device, options->model, DTYPE_F32, &answering->model,
                              err) ||
                   text_codec_check(&answering->codec, &answering->model->config, err) ||
                   engine_create(answering->model, &engine, &answering->engine, err)
               ? -1
               : 0;
}

int answering_open(const struct answer_options *options, struct answering *out, struct error *err)
{
    *out = (struct answering){.max_new = options->max_new};
    if (open_engine(out, options, err)) {
        answering_close(out);
        return -1;
    }
    return 0;
}

void answering_close(struct answering *answering)
{
    engine_destroy(answering->engine);
    model_destroy(answering->model);
    text_codec_close(&answering->codec);
    device_destroy(answering->device);
    *answering = (struct answering){0};
}

static int submit(struct answering *answering, uint64_t id, const struct question *question,
                  struct error *err)
{
    const struct chat_message message = {
        .role = "user", .content = question->text, .length = question->length};
    const struct tokenizer *tokenizer = answering->codec.tokenizer;
    const char *end = chat_template_end(answering->codec.chat);
    const int32_t stops[] = {tokenizer_token_id(tokenizer, end, strlen(end)),
                             tokenizer_eos_id(tokenizer), tokenizer_pad_id(tokenizer)};
    struct token_list prompt = {0};
    const int rc = chat_render_ids(answering->codec.chat, answering->codec.tokenizer,
                                   answering->codec.scratch, &message, 1, true, &prompt, NULL, err);
    if (rc == 0)
        engine_submit(answering->engine, &(struct engine_request){.id = id,
                                                                  .prompt = prompt.ids,
                                                                  .prompt_count = prompt.count,
                                                                  .max_new = answering->max_new,
                                                                  .stop_ids = stops,
                                                                  .stop_count = 3});
    token_list_release(&prompt);
    return rc;
}

static int take(struct answering *answering, const struct engine_result *result,
                const struct question *questions, char **answers, struct error *err)
{
    struct strbuf text = {0};
    if (result->reason == ENGINE_REJECTED)
        return error_set(err, "question '%.60s': %s", questions[result->id].text, result->problem);
    if (tokenizer_decode(answering->codec.tokenizer, result->ids, result->count, &text, err)) {
        strbuf_release(&text);
        return -1;
    }
    strbuf_reserve(&text, 1); // an empty answer is "", not NULL
    answering->tokens += result->prompt_count + result->count;
    answers[result->id] = strbuf_detach(&text);
    return 0;
}

int answer_questions(struct answering *answering, const struct question *questions, size_t count,
                     char **answers, const char *progress, struct error *err)
{
    for (size_t i = 0; i < count; i++)
        answers[i] = NULL;
    for (size_t i = 0; i < count; i++) {
        if (submit(answering, i, &questions[i], err))
            return -1;
    }
    size_t done = 0;
    for (;;) {
        struct engine_result result;
        const enum engine_poll polled = engine_poll(answering->engine, &result, err);
        if (polled == ENGINE_FAILED)
            return -1;
        if (polled == ENGINE_IDLE)
            return 0;
        if (polled != ENGINE_RESULT)
            continue;
        if (take(answering, &result, questions, answers, err))
            return -1;
        if (progress)
            log_progress("%s: %zu of %zu answers", progress, ++done, count);
    }
}
