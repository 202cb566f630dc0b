// SPDX-License-Identifier: Apache-2.0
// The HTTP model and endpoints that are slow, choosy, dead or come back (scripted_server.py).
#include "base/mem.h"
#include "tests/http/served.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void poll_until_tries(struct lm *lm, struct load_result *results, uint64_t tries)
{
    struct error err;
    struct lm_result result;
    while (lm_http_statistics(lm).tries < tries) {
        const enum lm_poll poll = lm_poll(lm, &result, &err);
        assert_true(poll > LM_POLL_IDLE);
        if (poll == LM_POLL_RESULT)
            results[result.id].times++;
    }
}

static void a_server_that_dies_and_comes_back_costs_nothing(void **state)
{
    (void)state;
    struct error err;
    servers[0] = scripted_start("--delay-ms 20");
    struct lm_http_options options = load_options("");
    struct load_result *results = mem_calloc(120, sizeof(*results));
    options.max_in_flight = 8;
    options.tries = 3;
    struct lm *lm = served_model(1, options);
    for (uint64_t i = 0; i < 120; i++)
        load_submit(lm, i);
    poll_until_tries(lm, results, 40);
    const int port = servers[0].port;
    scripted_kill(&servers[0]);
    poll_until_tries(lm, results, lm_http_statistics(lm).tries + 2);
    assert_true(lm_http_statistics(lm).faults[LM_HTTP_CONNECTION] > 0);
    char *same_port = mem_printf("--delay-ms 20 --port %d", port);
    servers[0] = scripted_start(same_port);
    assert_int_equal(load_drain(lm, results, 120, &err), LM_POLL_IDLE);
    for (size_t i = 0; i < 120; i++)
        assert_int_equal(results[i].times, 1);
    served_check_sums(lm);
    lm_destroy(lm);
    load_release(results, 120);
    free(same_port);
}

static void a_server_that_stays_away_breaks_the_model(void **state)
{
    (void)state;
    struct error err = {""};
    struct load_result *results = mem_calloc(10, sizeof(*results));
    servers[0] = scripted_start("");
    struct lm_http_options options = load_options("");
    options.outage_timeout_ms = 400;
    options.tries = 1; // connections that could not be made do not count
    struct lm *lm = served_model(1, options);
    scripted_kill(&servers[0]);
    for (uint64_t i = 0; i < 10; i++)
        load_submit(lm, i);
    assert_int_equal(load_drain(lm, results, 10, &err), LM_POLL_BROKEN);
    assert_non_null(strstr(err.text, "no request was answered for "));
    assert_non_null(strstr(err.text, "run the same command again"));
    for (size_t i = 0; i < 10; i++)
        assert_int_equal(results[i].times, 0);
    lm_destroy(lm);
    load_release(results, 10);
}

// One endpoint's window alone would allow all that are in flight.
static void the_limit_in_flight_is_that_of_all_endpoints_together(void **state)
{
    (void)state;
    struct error err;
    struct lm_result result;
    servers[0] = scripted_start("--faults 1 --modes hang");
    servers[1] = scripted_start("--faults 1 --modes hang");
    struct lm_http_options options = load_options("");
    options.max_in_flight = 10;
    struct lm *lm = served_model(2, options);
    for (uint64_t i = 0; i < 30; i++)
        load_submit(lm, i);
    int64_t first = 0, second = 0;
    for (int turns = 0; turns < 10 || first + second < 10; turns++) {
        assert_int_equal(lm_poll(lm, &result, &err), LM_POLL_RUNNING);
        first = scripted_count(&servers[0], "requests");
        second = scripted_count(&servers[1], "requests");
    }
    assert_int_equal(first, 5);
    assert_int_equal(second, 5);
    lm_destroy(lm);
}

static void a_slow_endpoint_gets_far_less(void **state)
{
    (void)state;
    servers[0] = scripted_start("--delay-ms 30");
    servers[1] = scripted_start("--delay-ms 300");
    struct lm_http_options options = load_options("");
    options.max_in_flight = 16;
    struct lm *lm = served_model(2, options);
    struct load_result *results = served_run(lm, 300);
    served_check_answered(results, 300);
    const int64_t fast = scripted_count(&servers[0], "answers");
    const int64_t slow = scripted_count(&servers[1], "answers");
    assert_int_equal(fast + slow, 300);
    assert_true(slow > 0 && 4 * slow < fast);
    lm_destroy(lm);
    load_release(results, 300);
}

static void a_failing_endpoint_gets_far_less(void **state)
{
    (void)state;
    servers[0] = scripted_start("--delay-ms 10");
    servers[1] = scripted_start("--faults 1 --modes 500,reset --most-faults 1000");
    struct lm_http_options options = load_options("");
    options.max_in_flight = 16;
    struct lm *lm = served_model(2, options);
    struct load_result *results = served_run(lm, 300);
    served_check_answered(results, 300);
    assert_true(scripted_count(&servers[1], "requests") < 100);
    lm_destroy(lm);
    load_release(results, 300);
}

static void an_endpoint_that_takes_few_at_once_is_given_few(void **state)
{
    (void)state;
    servers[0] = scripted_start("--delay-ms 10 --limit 4");
    struct lm *lm = served_model(1, load_options(""));
    struct load_result *results = served_run(lm, 200);
    served_check_answered(results, 200);
    served_check_sums(lm);
    const struct lm_http_statistics s = lm_http_statistics(lm);
    assert_true(s.faults[LM_HTTP_THROTTLED] > 0);
    assert_true(s.faults[LM_HTTP_THROTTLED] < 2 * s.answers);
    lm_destroy(lm);
    load_release(results, 200);
}

static void a_redirect_is_not_followed(void **state)
{
    (void)state;
    struct error err = {""};
    struct load_result *results = mem_calloc(4, sizeof(*results));
    servers[0] = scripted_start("--script redirect,redirect,redirect,redirect");
    struct lm *lm = served_model(1, load_options(""));
    for (uint64_t i = 0; i < 4; i++)
        load_submit(lm, i);
    assert_int_equal(load_drain(lm, results, 4, &err), LM_POLL_BROKEN);
    assert_non_null(strstr(err.text, "status 307"));
    lm_destroy(lm);
    load_release(results, 4);
}

static void many_in_flight_find_out_together_what_an_endpoint_takes(void **state)
{
    (void)state;
    servers[0] = scripted_start("--forms none --refuse-fields top_k,min_p,seed --delay-ms 5");
    servers[1] = scripted_start("--delay-ms 5");
    struct lm *lm = served_model(2, load_options(""));
    struct load_result *results = served_run(lm, 200);
    served_check_answered(results, 200);
    served_check_sums(lm);
    assert_true(scripted_count(&servers[0], "answers") > 0);
    lm_destroy(lm);
    load_release(results, 200);
}

// Each form, and the fields that OpenAI itself does not know.
static void an_endpoint_is_asked_without_what_it_does_not_take(void **state)
{
    (void)state;
    static const char *const options[] = {"--forms schema", "--forms object", "--forms none",
                                          "--refuse-fields top_k,min_p"};
    static const uint64_t narrowings[] = {1, 2, 3, 2};
    for (size_t i = 0; i < 4; i++) {
        servers[0] = scripted_start(options[i]);
        struct lm_http_options one = load_options("");
        one.max_in_flight = 1;
        struct lm *lm = served_model(1, one);
        struct load_result *results = served_run(lm, 20);
        served_check_answered(results, 20);
        assert_int_equal(lm_http_statistics(lm).narrowed, narrowings[i]);
        served_check_sums(lm);
        lm_destroy(lm);
        load_release(results, 20);
        scripted_kill(&servers[0]);
    }
}

static void an_endpoint_that_ignores_the_schema_is_told_it_in_words(void **state)
{
    (void)state;
    servers[0] = scripted_start("--ignore-format");
    struct lm *lm = served_model(1, load_options(""));
    struct load_result *results = served_run(lm, 40);
    served_check_answered(results, 40);
    served_check_sums(lm);
    assert_in_range(lm_http_statistics(lm).narrowed, 1, 20); // those that flew together
    lm_destroy(lm);
    load_release(results, 40);
}

int main(void)
{
    if (!scripted_is_possible())
        return 77;
    signal(SIGPIPE, SIG_IGN);
    unsetenv("MEMO_API_KEY");
    unsetenv("OPENAI_API_KEY");
    const struct CMUnitTest tests[] = {
        SERVED(a_server_that_dies_and_comes_back_costs_nothing),
        SERVED(a_server_that_stays_away_breaks_the_model),
        SERVED(the_limit_in_flight_is_that_of_all_endpoints_together),
        SERVED(a_slow_endpoint_gets_far_less),
        SERVED(a_failing_endpoint_gets_far_less),
        SERVED(an_endpoint_that_takes_few_at_once_is_given_few),
        SERVED(a_redirect_is_not_followed),
        SERVED(many_in_flight_find_out_together_what_an_endpoint_takes),
        SERVED(an_endpoint_is_asked_without_what_it_does_not_take),
        SERVED(an_endpoint_that_ignores_the_schema_is_told_it_in_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
