// SPDX-License-Identifier: Apache-2.0
// The HTTP model against a server that misbehaves (scripted_server.py).
#include "base/log.h"
#include "base/mem.h"
#include "base/strbuf.h"
#include "tests/base/temporary_directory.h"
#include "tests/http/served.h"

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

static void every_request_ends_once_with_its_answer_despite_faults(void **state)
{
    (void)state;
    servers[0] = scripted_start("");
    servers[1] = scripted_start("--faults 0.2 --jitter-ms 20 --seed 3");
    struct lm *good = served_model(1, load_options(""));
    struct load_result *expected = served_run(good, COUNT);
    served_check_answered(expected, COUNT);
    assert_int_equal(lm_http_statistics(good).tries, COUNT);
    lm_destroy(good);
    scripted_kill(&servers[0]);
    servers[0] = servers[1];
    servers[1] = (struct scripted){0};
    struct lm_http_options options = load_options("");
    options.first_byte_timeout_ms = 1500;
    options.stall_timeout_ms = 700;
    struct lm *lm = served_model(1, options);
    struct load_result *results = served_run(lm, COUNT);
    served_check_answered(results, COUNT);
    for (size_t i = 0; i < COUNT; i++)
        assert_string_equal(results[i].answer, expected[i].answer);
    served_check_sums(lm);
    const struct lm_http_statistics s = lm_http_statistics(lm);
    assert_int_equal(s.answers, COUNT);
    for (int i = 0; i < LM_HTTP_REFUSED; i++)
        assert_true(s.faults[i] > 0);
    lm_destroy(lm);
    load_release(expected, COUNT);
    load_release(results, COUNT);
}

static void each_fault_is_seen_for_what_it_is(void **state)
{
    (void)state;
    static const struct {
        const char *mode;
        enum lm_http_fault fault;
        uint32_t first_byte_timeout_ms, stall_timeout_ms, request_timeout_ms; // 0: long
    } cases[] = {
        {"429", LM_HTTP_THROTTLED, 0, 0, 0},       {"429-after", LM_HTTP_THROTTLED, 0, 0, 0},
        {"429-date", LM_HTTP_THROTTLED, 0, 0, 0},  {"500", LM_HTTP_SERVER_ERROR, 0, 0, 0},
        {"503", LM_HTTP_SERVER_ERROR, 0, 0, 0},    {"error-200", LM_HTTP_SERVER_ERROR, 0, 0, 0},
        {"reset", LM_HTTP_CONNECTION, 0, 0, 0},    {"close", LM_HTTP_CONNECTION, 0, 0, 0},
        {"truncated", LM_HTTP_MALFORMED, 0, 0, 0}, {"chunk-cut", LM_HTTP_MALFORMED, 0, 0, 0},
        {"malformed", LM_HTTP_MALFORMED, 0, 0, 0}, {"html", LM_HTTP_MALFORMED, 0, 0, 0},
        {"huge", LM_HTTP_MALFORMED, 0, 0, 0},      {"redirect", LM_HTTP_REFUSED, 0, 0, 0},
        {"hang", LM_HTTP_TIMEOUT, 300, 0, 0},      {"hang", LM_HTTP_TIMEOUT, 0, 0, 300},
        {"drip", LM_HTTP_TIMEOUT, 0, 300, 0},
    };
    const size_t count = sizeof(cases) / sizeof(cases[0]);
    struct strbuf script = {0};
    strbuf_adds(&script, "--retry-after 0 --script ");
    for (size_t i = 0; i < count; i++)
        strbuf_addf(&script, "%s,ok,", cases[i].mode);
    servers[0] = scripted_start(script.bytes);
    for (size_t i = 0; i < count; i++) {
        struct lm_http_options options = load_options("");
        if (cases[i].first_byte_timeout_ms)
            options.first_byte_timeout_ms = cases[i].first_byte_timeout_ms;
        if (cases[i].stall_timeout_ms)
            options.stall_timeout_ms = cases[i].stall_timeout_ms;
        if (cases[i].request_timeout_ms)
            options.request_timeout_ms = cases[i].request_timeout_ms;
        struct lm *lm = served_model(1, options); // no kept connection, which libcurl would renew
        struct load_result *results = served_run(lm, 1);
        served_check_answered(results, 1);
        served_check_sums(lm);
        if (lm_http_statistics(lm).faults[cases[i].fault] == 0)
            fail_msg("%s was not seen as %s", cases[i].mode, lm_http_fault_name(cases[i].fault));
        lm_destroy(lm);
        load_release(results, 1);
    }
    strbuf_release(&script);
}

static void no_more_requests_are_in_flight_than_allowed(void **state)
{
    (void)state;
    servers[0] = scripted_start("--delay-ms 10 --faults 0.2 --modes 429,500,malformed,html");
    struct lm_http_options options = load_options("");
    options.max_in_flight = 9;
    struct lm *lm = served_model(1, options);
    assert_int_equal(lm->capacity, 9);
    struct load_result *results = served_run(lm, 100);
    served_check_answered(results, 100);
    served_check_sums(lm);
    const int64_t most = scripted_count(&servers[0], "most_at_once");
    assert_true(most <= 9 && most > 1);
    lm_destroy(lm);
    load_release(results, 100);
}

static void nobody_comes_back_before_retry_after_has_passed(void **state)
{
    (void)state;
    servers[0] = scripted_start("--faults 0.3 --modes 429-after,429-date --most-faults 1");
    struct lm *lm = served_model(1, load_options(""));
    struct load_result *results = served_run(lm, 60);
    served_check_answered(results, 60);
    assert_true(lm_http_statistics(lm).faults[LM_HTTP_THROTTLED] > 5);
    assert_int_equal(scripted_count(&servers[0], "early"), 0);
    assert_int_equal(scripted_count(&servers[0], "requests"), lm_http_statistics(lm).tries);
    lm_destroy(lm);
    load_release(results, 60);
}

static void retry_after_counts_only_up_to_the_cap(void **state)
{
    (void)state;
    servers[0] = scripted_start("--script 429-after --retry-after 86400");
    struct lm_http_options options = load_options("");
    options.retry_cap_ms = 50;
    struct lm *lm = served_model(1, options);
    struct load_result *results = served_run(lm, 1);
    served_check_answered(results, 1);
    assert_int_equal(scripted_count(&servers[0], "early"), 1);
    lm_destroy(lm);
    load_release(results, 1);
}

static void a_request_that_always_fails_fails_with_what_happened_last(void **state)
{
    (void)state;
    servers[0] = scripted_start("--faults 1 --modes 500 --most-faults 1000");
    struct lm_http_options options = load_options("");
    options.tries = 2;
    struct lm *lm = served_model(1, options);
    struct load_result *results = served_run(lm, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(results[i].times, 1);
        assert_int_equal(results[i].end, LM_FAILED);
        assert_non_null(strstr(results[i].problem, "tried 2 times; the last: 'http://127.0.0.1:"));
        assert_non_null(strstr(results[i].problem, "status 500: the scripted server failed"));
    }
    assert_int_equal(scripted_count(&servers[0], "requests"), 4);
    served_check_sums(lm);
    lm_destroy(lm);
    load_release(results, 2);
}

#define SECRET "sk-secret-0123456789abcdef"

static void check_file_is_without(FILE *file, const char *text)
{
    struct strbuf all = {0};
    char piece[4096];
    size_t length;
    rewind(file);
    while ((length = fread(piece, 1, sizeof(piece), file)) > 0)
        strbuf_add(&all, piece, length);
    assert_true(all.length > 0);
    assert_null(memmem(all.bytes, all.length, text, strlen(text)));
    strbuf_release(&all);
}

// The server says the key in its errors; the endpoint rests, so that lines are logged.
static void the_key_is_sent_and_never_shown(void **state)
{
    (void)state;
    FILE *log = tmpfile();
    log_tee(fileno(log));
    setenv("MEMO_API_KEY", SECRET, 1);
    setenv("OPENAI_API_KEY", "sk-other", 1);
    servers[0] = scripted_start("--key " SECRET " --faults 1 --modes echo-key --most-faults 1000");
    struct lm_http_options options = load_options("");
    options.tries = 5;
    struct lm *lm = served_model(1, options);
    struct load_result *results = served_run(lm, 1);
    assert_int_equal(results[0].end, LM_FAILED);
    assert_non_null(strstr(results[0].problem, "Bearer [key]"));
    assert_true(scripted_has_seen_key(&servers[0], SECRET));
    assert_false(scripted_has_seen_key(&servers[0], "sk-other"));
    log_tee(-1);
    check_file_is_without(log, SECRET);
    fclose(log);
    lm_destroy(lm);
    load_release(results, 1);
    unsetenv("OPENAI_API_KEY");
}

static void a_wrong_key_breaks_the_model_and_is_not_shown(void **state)
{
    (void)state;
    struct error err = {""};
    struct load_result *results = mem_calloc(20, sizeof(*results));
    FILE *log = tmpfile();
    log_tee(fileno(log));
    unsetenv("MEMO_API_KEY");
    setenv("OPENAI_API_KEY", SECRET, 1);
    servers[0] = scripted_start("--key another");
    struct lm *lm = served_model(1, load_options(""));
    for (size_t i = 0; i < 20; i++)
        load_submit(lm, i);
    assert_int_equal(load_drain(lm, results, 20, &err), LM_POLL_BROKEN);
    assert_non_null(strstr(err.text, "refuses every request: status 401: Incorrect API key"));
    assert_null(strstr(err.text, SECRET));
    assert_int_equal(load_drain(lm, results, 20, &err), LM_POLL_BROKEN);
    log_tee(-1);
    check_file_is_without(log, SECRET);
    fclose(log);
    lm_destroy(lm);
    load_release(results, 20);
    unsetenv("OPENAI_API_KEY");
}

static void without_a_key_none_is_sent(void **state)
{
    (void)state;
    servers[0] = scripted_start("");
    struct lm *lm = served_model(1, load_options(""));
    struct load_result *results = served_run(lm, 3);
    served_check_answered(results, 3);
    assert_true(scripted_has_seen_key(&servers[0], ""));
    lm_destroy(lm);
    load_release(results, 3);
}

static void what_the_server_will_never_take_is_rejected_with_its_words(void **state)
{
    (void)state;
    servers[0] = scripted_start("--context 5");
    struct lm *lm = served_model(1, load_options(""));
    struct load_result *results = served_run(lm, 2);
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(results[i].end, LM_REJECTED);
        assert_non_null(strstr(results[i].problem, "maximum context length is 5 tokens"));
    }
    assert_int_equal(scripted_count(&servers[0], "requests"), 2);
    served_check_sums(lm);
    lm_destroy(lm);
    load_release(results, 2);
}

static void what_cannot_be_written_as_json_is_rejected_unsent(void **state)
{
    (void)state;
    struct error err;
    servers[0] = scripted_start("");
    struct lm *lm = served_model(1, load_options(""));
    struct load_result *results = mem_calloc(2, sizeof(*results));
    lm_submit(lm, &(struct lm_request){.id = 0, .parts = {{"a\xff", 2}}, .part_count = 1});
    lm_submit(lm, &(struct lm_request){
                      .id = 1, .parts = {{"a", 1}}, .part_count = 1, .schema = "{\"type\":"});
    assert_int_equal(load_drain(lm, results, 2, &err), LM_POLL_IDLE);
    assert_string_equal(results[0].problem, "the prompt is not UTF-8 at byte 1");
    assert_int_equal(results[0].end, LM_REJECTED);
    assert_int_equal(results[1].end, LM_REJECTED);
    assert_int_equal(strncmp(results[1].problem, "the schema of the answer: ", 26), 0);
    assert_int_equal(scripted_count(&servers[0], "requests"), 0);
    lm_destroy(lm);
    load_release(results, 2);
}

static void an_answer_cut_at_max_tokens_says_so(void **state)
{
    (void)state;
    struct error err;
    servers[0] = scripted_start("");
    struct lm *lm = served_model(1, load_options(""));
    struct load_result *results = mem_calloc(1, sizeof(*results));
    lm_submit(lm, &(struct lm_request){
                      .parts = {{"one two three four", 18}}, .part_count = 1, .max_tokens = 3});
    assert_int_equal(load_drain(lm, results, 1, &err), LM_POLL_IDLE);
    assert_int_equal(results[0].end, LM_LENGTH);
    assert_int_equal(results[0].output_tokens, 3);
    assert_non_null(strstr(results[0].answer, " one"));
    assert_null(strstr(results[0].answer, "two"));
    lm_destroy(lm);
    load_release(results, 1);
}

static void cancelled_requests_bring_no_result(void **state)
{
    (void)state;
    struct error err;
    // 8 fly and hang, the others wait
    servers[0] = scripted_start("--faults 1 --modes hang");
    struct lm_http_options options = load_options("");
    struct load_result *results = mem_calloc(20, sizeof(*results));
    struct lm_result result;
    options.max_in_flight = 8;
    struct lm *lm = served_model(1, options);
    for (uint64_t i = 0; i < 20; i++)
        load_submit(lm, i);
    while (scripted_count(&servers[0], "requests") < 8)
        assert_int_equal(lm_poll(lm, &result, &err), LM_POLL_RUNNING);
    lm_cancel(lm, 99);
    for (uint64_t i = 0; i < 20; i++)
        lm_cancel(lm, i);
    assert_int_equal(lm_poll(lm, &result, &err), LM_POLL_IDLE);
    scripted_kill(&servers[0]);
    lm_destroy(lm);
    servers[0] = scripted_start("");
    lm = served_model(1, load_options(""));
    for (uint64_t i = 0; i < 20; i++)
        load_submit(lm, i);
    for (uint64_t i = 0; i < 10; i++)
        lm_cancel(lm, 2 * i);
    load_submit(lm, 4); // the id is free again
    assert_int_equal(load_drain(lm, results, 20, &err), LM_POLL_IDLE);
    for (size_t i = 0; i < 20; i++)
        assert_int_equal(results[i].times, i % 2 == 1 || i == 4);
    lm_destroy(lm);
    load_release(results, 20);
}

static void a_model_can_be_destroyed_with_requests_everywhere(void **state)
{
    (void)state;
    struct error err;
    struct lm_result result;
    servers[0] = scripted_start("--faults 0.7 --modes hang,drip,429-after,huge");
    struct lm_http_options options = load_options("");
    options.max_in_flight = 16;
    struct lm *lm = served_model(1, options);
    for (uint64_t i = 0; i < 60; i++)
        load_submit(lm, i);
    while (lm_http_statistics(lm).faults[LM_HTTP_THROTTLED] == 0)
        assert_true(lm_poll(lm, &result, &err) > LM_POLL_IDLE);
    assert_true(lm_http_statistics(lm).in_flight > 0);
    assert_true(lm_http_statistics(lm).waiting > 0);
    lm_destroy(lm);
    lm = served_model(1, options);
    load_submit(lm, 0);
    lm_destroy(lm); // before the first poll
}

static void check_refused(struct lm_http_options options, const char *why)
{
    struct error err = {""};
    struct lm *lm = NULL;
    assert_int_equal(lm_http_create(&options, &lm, &err), -1);
    assert_null(lm);
    if (!strstr(err.text, why))
        fail_msg("'%s' does not say '%s'", err.text, why);
}

static void options_that_cannot_be_used_are_errors(void **state)
{
    (void)state;
    struct lm_http_options options = load_options("http://127.0.0.1:1/v1");
    options.model = "";
    check_refused(options, "no name of a model");
    options = load_options("");
    check_refused(options, "no URL is given");
    check_refused(load_options("ftp://host/v1"), "only http:// and https://");
    check_refused(load_options("http://user:secret@host/v1"), "must not hold a user");
    check_refused(load_options("http://a/v1,http://a"), "given twice");
    options = load_options("http://127.0.0.1:1/v1");
    options.max_in_flight = LM_HTTP_IN_FLIGHT_LIMIT + 1;
    check_refused(options, "1025 requests in flight");
    options = load_options("http://127.0.0.1:1/v1");
    options.stall_timeout_ms = UINT32_MAX;
    check_refused(options, "stall timeout");
    setenv("MEMO_API_KEY", "sk-secret\r\nX-Injected: 1", 1);
    check_refused(load_options("http://127.0.0.1:1/v1"), "MEMO_API_KEY holds a space");
}

static struct digest digest_of(const char *urls, const char *model, const char *revision)
{
    struct lm_http_options options = load_options(urls);
    options.model = model;
    options.revision = revision;
    struct lm *lm = load_create(&options);
    const struct digest digest = lm->digest;
    lm_destroy(lm);
    return digest;
}

static void the_digest_is_that_of_urls_model_and_revision(void **state)
{
    (void)state;
    const struct digest digest = digest_of("http://a/v1,http://b", "m", "r1");
    assert_true(digest_equal(digest, digest_of("http://b/v1/ , http://a", "m", "r1")));
    assert_false(digest_equal(digest, digest_of("http://a/v1", "m", "r1")));
    assert_false(digest_equal(digest, digest_of("http://a/v1,http://b", "n", "r1")));
    assert_false(digest_equal(digest, digest_of("http://a/v1,http://b", "m", "r2")));
    assert_true(digest_equal(digest_of("http://a", "m", NULL), digest_of("http://a", "m", "")));
}

static void nothing_submitted_is_idle(void **state)
{
    (void)state;
    struct error err;
    struct lm_result result;
    struct lm_http_options options = load_options("http://127.0.0.1:1/v1");
    struct lm *lm = load_create(&options);
    assert_int_equal(lm_poll(lm, &result, &err), LM_POLL_IDLE);
    lm_destroy(lm);
}

static void this_machine_is_asked_without_a_proxy(void **state)
{
    (void)state;
    setenv("http_proxy", "http://127.0.0.1:9", 1); // nobody listens there
    servers[0] = scripted_start("");
    struct lm *lm = served_model(1, load_options(""));
    struct load_result *results = served_run(lm, 2);
    served_check_answered(results, 2);
    assert_int_equal(lm_http_statistics(lm).tries, 2);
    lm_destroy(lm);
    load_release(results, 2);
    unsetenv("http_proxy");
}

static void hundreds_are_in_flight_at_once(void **state)
{
    (void)state;
    struct error err;
    struct lm_result result;
    servers[0] = scripted_start("--faults 1 --modes hang");
    struct lm_http_options options = load_options("");
    options.max_in_flight = 400;
    struct lm *lm = served_model(1, options);
    for (uint64_t i = 0; i < 450; i++)
        load_submit(lm, i);
    while (scripted_count(&servers[0], "requests") < 400)
        for (int i = 0; i < 100; i++)
            assert_int_equal(lm_poll(lm, &result, &err), LM_POLL_RUNNING);
    assert_int_equal(scripted_count(&servers[0], "most_at_once"), 400);
    assert_int_equal(lm_http_statistics(lm).in_flight, 400);
    assert_int_equal(lm_http_statistics(lm).waiting, 50);
    lm_destroy(lm);
}

// Of a certificate that nobody signed but itself.
static void certificates_are_verified(void **state)
{
    struct error err = {""};
    struct load_result *results = mem_calloc(4, sizeof(*results));
    char *file = mem_printf("%s/server.pem", (char *)*state);
    char *make = mem_printf("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
                            "-addext subjectAltName=IP:127.0.0.1 -keyout %s -out %s.crt "
                            "2> /dev/null && cat %s.crt >> %s",
                            file, file, file, file);
    char *tls = mem_printf("--tls %s", file);
    if (system(make) != 0) {
        printf("left out: openssl is not installed\n");
        skip();
    }
    servers[0] = scripted_start(tls);
    char *url = mem_printf("https://127.0.0.1:%d/v1", servers[0].port);
    struct lm_http_options options = load_options(url);
    struct lm *lm = load_create(&options);
    for (uint64_t i = 0; i < 4; i++)
        load_submit(lm, i);
    assert_int_equal(load_drain(lm, results, 4, &err), LM_POLL_BROKEN);
    assert_non_null(strstr(err.text, "certificate"));
    lm_destroy(lm);
    setenv("SSL_CERT_FILE", file, 1);
    lm = load_create(&options);
    for (uint64_t i = 0; i < 4; i++)
        load_submit(lm, i);
    assert_int_equal(load_drain(lm, results, 4, &err), LM_POLL_IDLE);
    served_check_answered(results, 4);
    lm_destroy(lm);
    load_release(results, 4);
    unsetenv("SSL_CERT_FILE");
    free(url);
    free(tls);
    free(make);
    free(file);
}

static int stop_and_remove(void **state)
{
    served_stop(state);
    return temporary_directory_teardown(state);
}

int main(void)
{
    if (!scripted_is_possible())
        return 77;
    signal(SIGPIPE, SIG_IGN);
    unsetenv("MEMO_API_KEY");
    unsetenv("OPENAI_API_KEY");
    const struct CMUnitTest tests[] = {
        SERVED(every_request_ends_once_with_its_answer_despite_faults),
        SERVED(each_fault_is_seen_for_what_it_is),
        SERVED(no_more_requests_are_in_flight_than_allowed),
        SERVED(nobody_comes_back_before_retry_after_has_passed),
        SERVED(retry_after_counts_only_up_to_the_cap),
        SERVED(a_request_that_always_fails_fails_with_what_happened_last),
        SERVED(the_key_is_sent_and_never_shown),
        SERVED(a_wrong_key_breaks_the_model_and_is_not_shown),
        SERVED(without_a_key_none_is_sent),
        SERVED(what_the_server_will_never_take_is_rejected_with_its_words),
        SERVED(what_cannot_be_written_as_json_is_rejected_unsent),
        SERVED(an_answer_cut_at_max_tokens_says_so),
        SERVED(cancelled_requests_bring_no_result),
        SERVED(a_model_can_be_destroyed_with_requests_everywhere),
        SERVED(options_that_cannot_be_used_are_errors),
        SERVED(the_digest_is_that_of_urls_model_and_revision),
        SERVED(nothing_submitted_is_idle),
        SERVED(this_machine_is_asked_without_a_proxy),
        SERVED(hundreds_are_in_flight_at_once),
        cmocka_unit_test_setup_teardown(certificates_are_verified, temporary_directory_setup,
                                        stop_and_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
