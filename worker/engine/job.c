// SPDX-License-Identifier: Apache-2.0
#include "worker/engine/job.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void queue_init(struct queue *queue)
{
    queue->first = NULL;
    queue->end = &queue->first;
}

void queue_push(struct queue *queue, struct job *job)
{
    job->next = NULL;
    *queue->end = job;
    queue->end = &job->next;
}

void queue_insert(struct queue *queue, struct job *job)
{
    struct job **at = &queue->first;
    while (*at && (*at)->arrival < job->arrival)
        at = &(*at)->next;
    job->next = *at;
    *at = job;
    if (!job->next)
        queue->end = &job->next;
}

struct job *queue_pop(struct queue *queue)
{
    struct job *job = queue->first;
    if (!job)
        return NULL;
    queue->first = job->next;
    if (!queue->first)
        queue->end = &queue->first;
    return job;
}

void queue_remove(struct queue *queue, uint64_t id, size_t *removed)
{
    struct queue kept;
    struct job *job;
    queue_init(&kept);
    while ((job = queue_pop(queue))) {
        if (job->id != id) {
            queue_push(&kept, job);
            continue;
        }
        job_destroy(job);
        ++*removed;
    }
    queue->first = kept.first;
    queue->end = kept.first ? kept.end : &queue->first;
}

void queue_release(struct queue *queue)
{
    struct job *job;
    while ((job = queue_pop(queue)))
        job_destroy(job);
}

void job_destroy(struct job *job)
{
    if (!job)
        return;
    for (size_t i = 0; i < job->stop_string_count; i++)
        free(job->stop_strings[i]);
    free(job->stop_strings);
    free(job->stop_ids);
    free(job->logprobs);
    free(job->tokens);
    free(job->blocks);
    strbuf_release(&job->text);
    if (job->output)
        json_output_destroy(job->output);
    free(job);
}

static void end(struct job *job, enum engine_reason reason)
{
    job->ended = true;
    job->reason = reason;
    if (job->tokenizer && !job->undecodable)
        tokenizer_stream_end(&job->stream, &job->text);
}

// Writes why the request cannot run; leaves "" when it can.
static void find_problem(const struct engine_request *request, size_t capacity, size_t vocabulary,
                         const struct tokenizer *tokenizer, char *out)
{
    const char *sampling = sampling_problem(&request->sampling);
    snprintf(out, JOB_PROBLEM_BYTES, "%s", sampling);
    if (request->prompt_count == 0)
        snprintf(out, JOB_PROBLEM_BYTES, "the prompt is empty");
    else if (request->prompt_count > capacity)
        snprintf(out, JOB_PROBLEM_BYTES, "the prompt has %zu tokens, at most %zu fit",
                 request->prompt_count, capacity);
    else if (request->stop_string_count > 0 && !tokenizer)
        snprintf(out, JOB_PROBLEM_BYTES, "stop strings need a tokenizer");
    for (size_t i = 0; i < request->stop_string_count && !*out; i++)
        if (!request->stop_strings[i][0])
            snprintf(out, JOB_PROBLEM_BYTES, "stop string %zu is empty", i);
    for (size_t i = 0; i < request->prompt_count && !*out; i++)
        if (request->prompt[i] < 0 || (size_t)request->prompt[i] >= vocabulary)
            snprintf(out, JOB_PROBLEM_BYTES,
                     "prompt token %zu is %d, outside the vocabulary of %zu", i, request->prompt[i],
                     vocabulary);
}

// Whether the text ends with the first `length` bytes of a stop string that is longer.
static bool ends_with_begin(const struct job *job, size_t length)
{
    for (size_t i = 0; i < job->stop_string_count; i++)
        if (strlen(job->stop_strings[i]) > length &&
            memcmp(job->text.bytes + job->text.length - length, job->stop_strings[i], length) == 0)
            return true;
    return false;
}

size_t job_settled_bytes(const struct job *job)
{
    size_t length =
        job->stop_string_longest < job->text.length ? job->stop_string_longest : job->text.length;
    while (length > 0 && !ends_with_begin(job, length))
        length--;
    return job->text.length - length;
}

static bool is_stop(const struct job *job, int32_t token)
{
    for (size_t i = 0; i < job->stop_count; i++)
        if (job->stop_ids[i] == token)
            return true;
    return false;
}

// Where the first stop string in text[from..] begins; SIZE_MAX: nowhere.
static size_t find_stop_string(const struct job *job, size_t from)
{
    size_t first = SIZE_MAX;
    if (job->text.length <= from)
        return first;
    for (size_t i = 0; i < job->stop_string_count; i++) {
        const char *at = memmem(job->text.bytes + from, job->text.length - from,
                                job->stop_strings[i], strlen(job->stop_strings[i]));
        if (at && (size_t)(at - job->text.bytes) < first)
            first = (size_t)(at - job->text.bytes);
    }
    return first;
}

// Leaves the text before byte `at` and the tokens that lie wholly before it.
static void cut_text(struct job *job, size_t at)
{
    struct tokenizer_stream stream = {0};
    struct strbuf text = {0};
    struct error err;
    size_t kept = job->prompt_count;
    for (size_t i = kept; i < job->count; i++) {
        if (tokenizer_stream_add(&stream, job->tokenizer, job->tokens[i], &text, &err) ||
            text.length + (size_t)stream.pending_bytes > at)
            break;
        kept = i + 1;
    }
    strbuf_release(&text);
    job->count = kept;
    job->text.length = at;
}

// The text of the token just appended; true when a stop string ended the job.
static bool extend_text(struct job *job)
{
    struct error err;
    size_t before = job->text.length;
    if (!job->tokenizer || job->undecodable)
        return false;
    if (tokenizer_stream_add(&job->stream, job->tokenizer, job->tokens[job->count - 1], &job->text,
                             &err)) {
        job->undecodable = true;
        return false;
    }
    size_t longest = job->stop_string_longest;
    size_t stop = find_stop_string(job, before < longest ? 0 : before - longest);
    if (stop == SIZE_MAX)
        return false;
    job->undecodable = true; // what is pending lies behind the cut
    cut_text(job, stop);
    end(job, ENGINE_STOP);
    return true;
}

// Ends the job when there is nothing left to write.
static void append(struct job *job, int32_t token, float logprob)
{
    if (job->logprobs)
        job->logprobs[job->count - job->prompt_count] = logprob;
    job->tokens[job->count++] = token;
    if (job->output)
        json_output_accept(job->output, token);
    if (extend_text(job))
        return;
    if (job->output && json_output_complete(job->output))
        end(job, ENGINE_STOP);
    else if (job->count == job->limit)
        end(job, ENGINE_LENGTH);
}

static void append_forced(struct job *job)
{
    struct token_list forced = {0};
    while (!job->ended && job->output &&
           json_output_forced(job->output, job->limit - job->count, &forced) > 0) {
        for (size_t i = 0; i < forced.count && !job->ended; i++)
            append(job, forced.ids[i], 0);
        forced.count = 0;
    }
    token_list_release(&forced);
}

void job_take(struct job *job, int32_t token, float logprob)
{
    if (!job->output && is_stop(job, token)) {
        end(job, ENGINE_STOP);
        return;
    }
    append(job, token, logprob);
    append_forced(job);
}

static void copy_stops(struct job *job, const struct engine_request *request)
{
    if (request->stop_count > 0) {
        job->stop_ids = mem_dup(request->stop_ids, request->stop_count * sizeof *job->stop_ids);
        job->stop_count = request->stop_count;
    }
    if (request->stop_string_count == 0)
        return;
    job->stop_strings = mem_calloc(request->stop_string_count, sizeof *job->stop_strings);
    job->stop_string_count = request->stop_string_count;
    for (size_t i = 0; i < job->stop_string_count; i++) {
        size_t length = strlen(request->stop_strings[i]);
        job->stop_strings[i] = mem_strdup(request->stop_strings[i]);
        if (length > job->stop_string_longest)
            job->stop_string_longest = length;
    }
}

// A schema needs room for its shortest output.
static void begin_output(struct job *job, struct json_schema *schema)
{
    if (!schema)
        return;
    job->output = json_output_create(schema);
    size_t shortest = json_output_shortest(job->output), room = job->limit - job->prompt_count;
    if (room < shortest) {
        snprintf(job->problem, sizeof job->problem,
                 "room for %zu tokens, the schema's shortest output takes %zu", room, shortest);
        end(job, ENGINE_REJECTED);
        return;
    }
    append_forced(job);
}

struct job *job_create(const struct engine_request *request, size_t capacity, size_t vocabulary,
                       const struct tokenizer *tokenizer)
{
    struct job *job = mem_calloc(1, sizeof *job);
    job->id = request->id;
    job->prompt_count = request->prompt_count;
    job->count = request->prompt_count;
    job->source = -1;
    find_problem(request, capacity, vocabulary, tokenizer, job->problem);
    if (job->problem[0]) {
        end(job, ENGINE_REJECTED);
        return job;
    }
    job->tokenizer = tokenizer;
    // The token generated last never enters the cache, so one more than capacity can be had.
    size_t most = capacity + 1 - job->prompt_count;
    size_t room = request->max_new < most ? request->max_new : most;
    job->limit = job->prompt_count + room;
    job->tokens = mem_calloc(job->limit, sizeof *job->tokens);
    memcpy(job->tokens, request->prompt, job->prompt_count * sizeof *job->tokens);
    copy_stops(job, request);
    job->sampling = request->sampling;
    job->seed = request->seed;
    if (request->logprobs)
        job->logprobs = mem_calloc(room + 1, sizeof *job->logprobs);
    begin_output(job, request->schema);
    if (!job->ended && room == 0)
        end(job, ENGINE_LENGTH);
    return job;
}
