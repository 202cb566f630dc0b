// SPDX-License-Identifier: Apache-2.0
// Inside worker/engine: a request through its life. What it has written so far and when it ends is
// kept here; where its keys and values lie is the scheduler's concern.
#ifndef MEMO_WORKER_ENGINE_JOB_H
#define MEMO_WORKER_ENGINE_JOB_H

#include "base/strbuf.h"
#include "worker/engine/engine.h"

enum { JOB_PROBLEM_BYTES = 160 };

struct job {
    struct job *next; // in a queue
    uint64_t id;
    uint64_t arrival; // earlier ones go first
    int32_t *tokens;  // [limit], prompt, then answer
    size_t prompt_count;
    size_t count; // tokens so far
    size_t limit; // count at which it ends

    int32_t *stop_ids;
    size_t stop_count;
    char **stop_strings;
    size_t stop_string_count, stop_string_longest;
    struct sampling sampling;
    uint64_t seed;
    float *logprobs; // [limit - prompt_count]; NULL unless asked for
    struct json_output *output;

    const struct tokenizer *tokenizer;
    struct tokenizer_stream stream;
    struct strbuf text; // of the answer
    bool undecodable;   // a token has no text; there is none from there on

    bool ended;
    enum engine_reason reason;
    char problem[JOB_PROBLEM_BYTES];

    // the scheduler's
    size_t cached;       // of the tokens, keys and values are in the cache
    size_t reached;      // the most that `cached` ever was
    size_t cached_count; // tokens of the prompt found computed
    bool in_prompt;      // when the step began
    int32_t *blocks;     // [block_count] of the cache, in order of positions
    size_t block_count;
    int32_t source; // block with whose first source_tokens tokens blocks[source_block] begins,
    size_t source_tokens; // too, and which is copied when they are computed; -1: none
    size_t source_block;
};

// Copies the request. A job that has ended already says so: rejected, or nothing to write.
struct job *job_create(const struct engine_request *request, size_t capacity, size_t vocabulary,
                       const struct tokenizer *tokenizer);
void job_destroy(struct job *job);

// The next token was drawn; what the schema forces behind it is appended, too. May end the job.
void job_take(struct job *job, int32_t token, float logprob);

// Of its text, those that no stop string can take back: all but what may be the begin of one.
size_t job_settled_bytes(const struct job *job);

struct queue {
    struct job *first;
    struct job **end; // where the next one is linked
};

void queue_init(struct queue *queue);
void queue_push(struct queue *queue, struct job *job);
void queue_insert(struct queue *queue, struct job *job); // by arrival
struct job *queue_pop(struct queue *queue);
void queue_remove(struct queue *queue, uint64_t id, size_t *removed); // destroys; adds how many
void queue_release(struct queue *queue);

#endif
