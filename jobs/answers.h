// SPDX-License-Identifier: Apache-2.0
// Closed-book answers: questions to a model directory, all in one batch.
#ifndef MEMO_JOBS_ANSWERS_H
#define MEMO_JOBS_ANSWERS_H

#include "jobs/compute.h"
#include "worker/engine/engine.h"

#include <stddef.h>
#include <stdint.h>

struct answering {
    struct device *device;
    struct model *model;
    struct text_codec codec;
    struct engine *engine;
    size_t max_new;
    uint64_t tokens; // prompts and answers so far
};

struct answer_options {
    const char *model;
    const char *chat_template; // NULL: detected
    const char *backend;
    int64_t threads;
    size_t max_new;  // tokens of an answer
    size_t capacity; // tokens of question and answer
};

int answering_open(const struct answer_options *options, struct answering *out, struct error *err);
void answering_close(struct answering *answering);

struct question {
    const char *text;
    size_t length;
};

// answers[i] becomes the text for questions[i], from mem_alloc, caller frees all. A question that
// does not fit is an error that quotes its begin. progress is for the progress line, may be NULL.
int answer_questions(struct answering *answering, const struct question *questions, size_t count,
                     char **answers, const char *progress, struct error *err);

#endif
