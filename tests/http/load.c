// SPDX-License-Identifier: Apache-2.0
#include "tests/http/load.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

const char load_schema[] =
    "{\"type\":\"object\",\"properties\":{\"pairs\":{\"type\":\"array\",\"maxItems\":4,\"items\":{"
    "\"type\":\"object\",\"properties\":{\"question\":{\"type\":\"string\",\"maxLength\":80},"
    "\"answer\":{\"type\":\"string\",\"maxLength\":40}},\"required\":[\"question\",\"answer\"],"
    "\"additionalProperties\":false}},\"good\":{\"type\":\"boolean\"}},"
    "\"required\":[\"pairs\",\"good\"],\"additionalProperties\":false}";

struct lm_http_options load_options(const char *urls)
{
    return (struct lm_http_options){
        .urls = urls,
        .model = "scripted",
        .max_in_flight = 64,
        .tries = 40,
        .connect_timeout_ms = 10000,
        .first_byte_timeout_ms = 60000,
        .stall_timeout_ms = 60000,
        .request_timeout_ms = 60000,
        .outage_timeout_ms = 60000,
        .retry_base_ms = 20,
        .retry_cap_ms = 1500,
        .poll_wait_ms = 5,
        .seed = 7,
    };
}

struct lm *load_create(const struct lm_http_options *options)
{
    struct error err = {""};
    struct lm *lm = NULL;
    if (lm_http_create(options, &lm, &err))
        fail_msg("%s", err.text);
    return lm;
}

static struct lm_text text(const char *string)
{
    return (struct lm_text){string, strlen(string)};
}

void load_submit(struct lm *lm, uint64_t id)
{
    char item[64];
    snprintf(item, sizeof(item), "Item number%llu", (unsigned long long)id);
    const struct lm_request request = {
        .id = id,
        .system = text("You read archives."),
        .parts = {text("The lantern theatre opened in May.\n"), text("Ask about it.\n"),
                  text(item)},
        .part_count = 3,
        .schema = id % 2 ? load_schema : NULL,
        .sampling = {.temperature = 0.7f, .top_p = 0.9f, .top_k = 20, .min_p = 0.05f},
        .seed = 1000 + id,
        .max_tokens = 200,
    };
    lm_submit(lm, &request);
}

static void keep(struct load_result *kept, const struct lm_result *result)
{
    kept->times++;
    free(kept->answer);
    free(kept->problem);
    kept->end = result->end;
    kept->answer = mem_printf("%.*s", (int)result->answer.bytes,
                              result->answer.bytes ? result->answer.text : "");
    kept->problem = mem_strdup(result->problem);
    kept->prompt_tokens = result->prompt_tokens;
    kept->cached_tokens = result->cached_tokens;
    kept->output_tokens = result->output_tokens;
}

enum lm_poll load_drain(struct lm *lm, struct load_result *results, size_t count, struct error *err)
{
    for (;;) {
        struct lm_result result;
        const enum lm_poll poll = lm_poll(lm, &result, err);
        if (poll == LM_POLL_IDLE || poll == LM_POLL_BROKEN)
            return poll;
        if (poll == LM_POLL_RUNNING)
            continue;
        assert_true(result.id < count);
        keep(&results[result.id], &result);
    }
}

void load_release(struct load_result *results, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        free(results[i].answer);
        free(results[i].problem);
    }
    free(results);
}
