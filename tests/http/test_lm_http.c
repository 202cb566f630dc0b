// SPDX-License-Identifier: Apache-2.0
// The HTTP model against a server that misbehaves (scripted_server.py).
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "tests/http/load.h"
#include "tests/http/scripted.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define COUNT 500

static struct scripted servers[2]; // of the running test

static int stop_servers(void **state)
{
    (void)state;
    for (size_t i = 0; i < 2; i++)
        scripted_kill(&servers[i]);
    unsetenv("MEMO_API_KEY");
    return 0;
}

// A model that asks the first `count` servers.
static struct lm *ask(size_t count, struct lm_http_options options)
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

static struct load_result *run(struct lm *lm, size_t count)
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

static void check_answered(const struct load_result *results, size_t count)
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

static void check_sums(const struct lm *lm)
{
    const struct lm_http_statistics s = lm_http_statistics(lm);
    uint64_t sum = s.answers + s.rejections + s.narrowed;
    for (int i = 0; i < LM_HTTP_FAULTS; i++)
        sum += s.faults[i];
    assert_int_equal(sum, s.tries);
    assert_int_equal(s.in_flight + s.waiting, 0);
}

static void every_request_ends_once_with_its_answer_despite_faults(void **state)
{
    (void)state;
    servers[0] = scripted_start("");
    servers[1] = scripted_start("--faults 0.2 --jitter-ms 20 --seed 3");
    struct lm *good = ask(1, load_options(""));
    struct load_result *expected = run(good, COUNT);
    check_answered(expected, COUNT);
    assert_int_equal(lm_http_statistics(good).tries, COUNT);
    lm_destroy(good);
    scripted_kill(&servers[0]);
    servers[0] = servers[1];
    servers[1] = (struct scripted){0};
    struct lm *lm = ask(1, load_options(""));
    struct load_result *results = run(lm, COUNT);
    check_answered(results, COUNT);
    for (size_t i = 0; i < COUNT; i++)
        assert_string_equal(results[i].answer, expected[i].answer);
    check_sums(lm);
    const struct lm_http_statistics s = lm_http_statistics(lm);
    assert_int_equal(s.answers, COUNT);
    // libcurl repeats by itself what a kept connection lost before the first byte.
    assert_true(scripted_count(&servers[0], "requests") >= (int64_t)s.tries);
    for (int i = 0; i < LM_HTTP_REFUSED; i++)
        assert_true(s.faults[i] > 0);
    assert_int_equal(scripted_count(&servers[0], "early"), 0);
    lm_destroy(lm);
    load_release(expected, COUNT);
    load_release(results, COUNT);
}

int main(void)
{
    if (!scripted_is_possible())
        return 77;
    signal(SIGPIPE, SIG_IGN);
    unsetenv("MEMO_API_KEY");
    unsetenv("OPENAI_API_KEY");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(every_request_ends_once_with_its_answer_despite_faults,
                                  stop_servers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
