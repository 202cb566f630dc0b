// SPDX-License-Identifier: Apache-2.0
#include "tests/http/served.h"

#include "base/json.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct scripted servers[2];

int served_stop(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++)
        scripted_kill(&servers[i]);
    unsetenv("MEMO_API_KEY");
    unsetenv("OPENAI_API_KEY");
    return 0;
}

struct lm *served_model(size_t count, struct lm_http_options options)
{
    char *first = scripted_url(&servers[0]);
    char *second = count > 1 ? scripted_url(&servers[1]) : NULL;
    char *urls = mem_printf("%s%s%s", first, second ? ", " : "", second ? second : "");
    options.urls = urls;
    struct lm *lm = load_create(&options);
    free(first);
    free(second);
    free(urls);
    return lm;
}

struct load_result *served_run(struct lm *lm, size_t count)
{
    struct error err = {""};
    struct load_result *results = mem_calloc(count, sizeof(*results));
    for (size_t i = 0; i < count; i++)
        load_submit(lm, i);
    if (load_drain(lm, results, count, &err) != LM_POLL_IDLE)
        fail_msg("%s", err.text);
    return results;
}

static bool is_pairs(const char *text)
{
    struct arena arena = {0};
    const struct json *root = NULL;
    const bool parses = json_parse(&arena, text, strlen(text), &root, NULL) == 0;
    const struct json *pairs = parses ? json_get(root, "pairs") : NULL;
    const struct json *good = parses ? json_get(root, "good") : NULL;
    const bool obeys = pairs && pairs->type == JSON_ARRAY && good && good->type == JSON_BOOL;
    arena_release(&arena);
    return obeys;
}

void served_check_answered(const struct load_result *results, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct load_result *result = &results[i];
        assert_int_equal(result->times, 1);
        if (result->end != LM_STOP)
            fail_msg("request %zu: %s", i, result->problem);
        assert_string_equal(result->problem, "");
        if (i % 2)
            assert_true(is_pairs(result->answer));
        else
            assert_int_equal(strncmp(result->answer, "answer ", 7), 0);
        assert_true(result->prompt_tokens > result->cached_tokens);
        assert_true(result->output_tokens > 0);
    }
}

void served_check_sums(const struct lm *lm)
{
    const struct lm_http_statistics s = lm_http_statistics(lm);
    uint64_t sum = s.answers + s.rejections + s.narrowed;
    for (int i = 0; i < LM_HTTP_FAULTS; i++)
        sum += s.faults[i];
    assert_int_equal(sum, s.tries);
    assert_int_equal(s.in_flight + s.waiting, 0);
}
