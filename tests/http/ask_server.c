// SPDX-License-Identifier: Apache-2.0
// usage: ask_server URL MODEL COUNT
//
// Asks a server COUNT questions, every second one with a schema, and prints how they ended, as one
// line of "name=number" words. For tests/http/real_server.sh.
#include "base/json.h"
#include "base/mem.h"
#include "tests/http/load.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ends {
    size_t ends[LM_FAILED + 1];
    size_t objects; // answers by schema that parse as an object
    size_t strays;  // those that do not, though the model ended them itself
    uint64_t prompt_tokens, cached_tokens, output_tokens;
};

static bool is_object(const struct lm_text *text)
{
    struct arena arena = {0};
    const struct json *root = NULL;
    const bool parses = json_parse(&arena, text->text, text->bytes, &root, NULL) == 0;
    const bool is = parses && root->type == JSON_OBJECT;
    arena_release(&arena);
    return is;
}

static void count_result(struct ends *ends, const struct lm_result *result)
{
    ends->ends[result->end]++;
    ends->prompt_tokens += result->prompt_tokens;
    ends->cached_tokens += result->cached_tokens;
    ends->output_tokens += result->output_tokens;
    if (result->id % 2 && result->end <= LM_LENGTH) {
        const bool obeys = is_object(&result->answer);
        ends->objects += obeys;
        ends->strays += !obeys && result->end == LM_STOP;
    }
    if (result->problem[0])
        fprintf(stderr, "request %" PRIu64 ": %s\n", result->id, result->problem);
    else if (result->id < 4)
        fprintf(stderr, "request %" PRIu64 ": %.*s\n", result->id,
                (int)(result->answer.bytes < 300 ? result->answer.bytes : 300),
                result->answer.text);
}

static void print(const struct lm *lm, const struct ends *ends)
{
    const struct lm_http_statistics s = lm_http_statistics(lm);
    printf("stop=%zu length=%zu rejected=%zu failed=%zu objects=%zu strays=%zu narrowed=%" PRIu64
           " tries=%" PRIu64 " prompt_tokens=%" PRIu64 " cached_tokens=%" PRIu64
           " output_tokens=%" PRIu64 "\n",
           ends->ends[LM_STOP], ends->ends[LM_LENGTH], ends->ends[LM_REJECTED],
           ends->ends[LM_FAILED], ends->objects, ends->strays, s.narrowed, s.tries,
           ends->prompt_tokens, ends->cached_tokens, ends->output_tokens);
}

static int ask_all(struct lm *lm, uint64_t count)
{
    struct ends ends = {0};
    struct error err;
    struct lm_result result;
    enum lm_poll poll;
    for (uint64_t i = 0; i < count; i++)
        load_submit(lm, i);
    while ((poll = lm_poll(lm, &result, &err)) > LM_POLL_IDLE)
        if (poll == LM_POLL_RESULT)
            count_result(&ends, &result);
    if (poll == LM_POLL_BROKEN)
        fprintf(stderr, "ask_server: %s\n", err.text);
    print(lm, &ends);
    return poll == LM_POLL_BROKEN;
}

int main(int argc, char **argv)
{
    struct error err;
    struct lm *lm;
    if (argc != 4) {
        fprintf(stderr, "usage: ask_server URL MODEL COUNT\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    const struct lm_http_options options = {
        .urls = argv[1], .model = argv[2], .max_in_flight = 8, .poll_wait_ms = 20};
    if (lm_http_create(&options, &lm, &err)) {
        fprintf(stderr, "ask_server: %s\n", err.text);
        return 1;
    }
    const int code = ask_all(lm, strtoull(argv[3], NULL, 10));
    lm_destroy(lm);
    return code;
}
