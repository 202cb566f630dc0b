// SPDX-License-Identifier: Apache-2.0
// Engines without a model (fake_engine.h) that die in every way.
#include "tests/supervisor/fake_engine.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "worker/supervisor/lm_supervised.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LONG_SILENCE_SECONDS 30.0 // a busy machine may hold an engine up
#define SHORT_SILENCE_SECONDS 1.0
#define PATIENCE_SECONDS 60.0 // then a test hangs

struct fixture {
    struct launcher *launcher;
    struct lm *lm;
    double silence_seconds;
    char said[8192]; // the log, see read_log
    int log[2];
};

static struct fixture fixture;

static int set_up(void **state)
{
    (void)state;
    struct error err;
    fixture = (struct fixture){.silence_seconds = LONG_SILENCE_SECONDS};
    assert_int_equal(pipe2(fixture.log, O_CLOEXEC | O_NONBLOCK), 0);
    log_tee(fixture.log[1]);
    assert_int_equal(launcher_open(&fixture.launcher, &err), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    lm_destroy(fixture.lm);
    launcher_close(fixture.launcher);
    log_tee(-1);
    close(fixture.log[0]);
    close(fixture.log[1]);
    return 0;
}

static int create(const char *model, const char *program, struct error *err)
{
    const struct lm_engine_options options = {.model = model};
    const struct supervision how = {.launcher = fixture.launcher,
                                    .program = program,
                                    .silence_seconds = fixture.silence_seconds,
                                    .pause_seconds = 0.01,
                                    .memory_gb = 4};
    return lm_supervised_create(&options, &how, &fixture.lm, err);
}

static struct lm *open_model(const char *model)
{
    struct error err;
    if (create(model, NULL, &err))
        fail_msg("%s", err.text);
    assert_int_equal(fixture.lm->capacity, FAKE_CAPACITY);
    return fixture.lm;
}

static void expect_log(const char *text)
{
    const size_t length = strlen(fixture.said);
    const ssize_t got =
        read(fixture.log[0], fixture.said + length, sizeof(fixture.said) - 1 - length);
    fixture.said[length + (got > 0 ? (size_t)got : 0)] = '\0';
    if (!strstr(fixture.said, text))
        fail_msg("the log does not say '%s' but: %s", text, fixture.said);
}

static struct lm_request make_request(uint64_t id, uint64_t task, const char *text)
{
    return (struct lm_request){.id = id,
                               .task = task,
                               .seed = 1000 + id,
                               .system = {"", 0},
                               .parts = {{"part\0 ", 6}, {text, strlen(text)}},
                               .part_count = 2};
}

static void submit(uint64_t id, uint64_t task, const char *text)
{
    const struct lm_request request = make_request(id, task, text);
    lm_submit(fixture.lm, &request);
}

// The next result; false: nothing is left.
static bool next(struct lm_result *out)
{
    struct error err;
    const double begin = clock_seconds();
    while (clock_seconds() - begin < PATIENCE_SECONDS) {
        switch (lm_poll(fixture.lm, out, &err)) {
        case LM_POLL_RESULT:
            return true;
        case LM_POLL_IDLE:
            return false;
        case LM_POLL_RUNNING:
            break;
        default:
            fail_msg("%s", err.text);
        }
    }
    fail_msg("no answer in time");
    return false;
}

static void expect_answer(const struct lm_result *result, const char *text)
{
    struct strbuf answer = {0};
    const struct lm_request request = make_request(result->id, 0, text);
    fake_engine_answer(&request, &answer);
    if (result->end != LM_STOP)
        fail_msg("request %llu: %s", (unsigned long long)result->id, result->problem);
    assert_int_equal(result->answer.bytes, answer.length);
    assert_memory_equal(result->answer.text, answer.bytes, answer.length);
    strbuf_release(&answer);
}

// All `count` requests of this text have their answers, each once.
static void expect_answers(size_t count, const char *text)
{
    struct lm_result result;
    bool *seen = mem_calloc(count, sizeof(*seen));
    for (size_t i = 0; i < count; i++) {
        assert_true(next(&result));
        assert_true(result.id < count && !seen[result.id]);
        seen[result.id] = true;
        expect_answer(&result, text);
    }
    assert_false(next(&result));
    free(seen);
}

static void requests_are_answered(void **state)
{
    (void)state;
    struct lm_result result;
    open_model("plain");
    assert_int_equal(fixture.lm->context_tokens, 100);
    assert_false(next(&result));
    for (uint64_t id = 0; id < 50; id++)
        submit(id, 1, "hello");
    expect_answers(50, "hello");
    assert_int_equal(lm_supervised_counts(fixture.lm).starts, 1);
    expect_log("the engine of 'plain'");
}

static void long_answers_pass_and_hold_the_engine_back(void **state)
{
    (void)state;
    open_model("plain");
    for (uint64_t id = 0; id < 20; id++)
        submit(id, 1, "long");
    usleep(300000); // nobody reads
    expect_answers(20, "long");
}

static void cancelled_requests_have_no_result(void **state)
{
    (void)state;
    struct lm_result result;
    struct error err;
    open_model("plain");
    for (uint64_t id = 0; id < 20; id++)
        submit(id, 1, "slow");
    assert_int_equal(lm_poll(fixture.lm, &result, &err), LM_POLL_RUNNING);
    for (uint64_t id = 5; id < 20; id++)
        lm_cancel(fixture.lm, id);
    lm_cancel(fixture.lm, 99);
    expect_answers(5, "slow");
    submit(0, 1, "hello");
    expect_answers(1, "hello");
}

static void a_slow_engine_that_shows_life_is_left_alone(void **state)
{
    (void)state;
    open_model("plain");
    for (int round = 0; round < 5; round++) { // each longer than ENGINE_ALIVE_SECONDS
        submit(0, 1, "slow");
        expect_answers(1, "slow");
    }
    assert_int_equal(lm_supervised_counts(fixture.lm).deaths, 0);
}

static void kill_engine(int number)
{
    const pid_t pid = lm_supervised_process(fixture.lm);
    assert_true(pid > 0);
    assert_int_equal(kill(pid, number), 0);
}

static void a_killed_engine_is_replaced_and_asked_again(void **state)
{
    (void)state;
    static const int numbers[] = {SIGKILL, SIGSEGV, SIGSTOP, SIGABRT};
    struct lm_result result;
    struct error err;
    fixture.silence_seconds = SHORT_SILENCE_SECONDS;
    open_model("plain");
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        for (uint64_t id = 0; id < 12; id++)
            submit(id, id, "slow");
        assert_int_equal(lm_poll(fixture.lm, &result, &err), LM_POLL_RUNNING);
        kill_engine(numbers[i]);
        expect_answers(12, "slow");
        assert_int_equal(lm_supervised_counts(fixture.lm).deaths, i + 1);
    }
    assert_int_equal(lm_supervised_counts(fixture.lm).culprits, 0);
    expect_log("was killed by signal 9 (Killed); 8 requests had no answer yet");
    expect_log("was killed by signal 11");
    expect_log("was killed: it gave no sign of life for 1.");
    expect_log("was killed by signal 6");
}

static void an_engine_killed_while_idle_is_replaced_when_needed(void **state)
{
    (void)state;
    struct lm_result result;
    open_model("plain");
    kill_engine(SIGKILL);
    usleep(50000);
    assert_false(next(&result));
    submit(0, 1, "hello");
    expect_answers(1, "hello");
    assert_int_equal(lm_supervised_counts(fixture.lm).starts, 2);
}

static void an_engine_ignores_what_asks_a_job_to_stop(void **state)
{
    (void)state;
    static const int numbers[] = {SIGTERM, SIGINT, SIGUSR2, SIGHUP, SIGPIPE};
    open_model("plain");
    submit(0, 1, "slow");
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        kill_engine(numbers[i]);
    expect_answers(1, "slow");
    assert_int_equal(lm_supervised_counts(fixture.lm).deaths, 0);
}

// The poisoned request of task 7 and everything else of that task end with LM_FATAL; the rest is
// answered.
static void expect_poison(const char *poison, const char *how)
{
    struct lm_result result;
    size_t fatal = 0, answered = 0;
    open_model("plain");
    for (uint64_t id = 0; id < 30; id++)
        submit(id, id % 10, id == 17 ? poison : "hello");
    while (next(&result)) {
        const bool may_be_fatal = result.id % 10 == 7;
        if (result.end != LM_FATAL) {
            expect_answer(&result, "hello");
            answered++;
            continue;
        }
        fatal++;
        assert_true(may_be_fatal);
        if (!strstr(result.problem, how))
            fail_msg("'%s' does not say '%s'", result.problem, how);
    }
    assert_true(fatal >= 1 && fatal + answered == 30);
    const uint64_t deaths = lm_supervised_counts(fixture.lm).deaths;
    assert_true(deaths == 3 || deaths == 5); // alone from the first on, or not
    submit(0, 7, "hello");
    assert_true(next(&result));
    assert_int_equal(result.end, LM_FATAL);
    assert_int_equal(lm_supervised_counts(fixture.lm).deaths, deaths);
}

static void a_request_that_crashes_three_engines_is_fatal(void **state)
{
    (void)state;
    expect_poison("segv", "the last time it was killed by signal 11");
}

static void a_request_that_ends_three_engines_is_fatal(void **state)
{
    (void)state;
    expect_poison("exit", "the last time it ended with exit code 7");
}

static void a_request_that_stops_three_engines_is_fatal(void **state)
{
    (void)state;
    fixture.silence_seconds = SHORT_SILENCE_SECONDS;
    expect_poison("stop", "the last time it was killed: it gave no sign of life");
}

static void two_poisoned_requests_at_once_are_told_apart(void **state)
{
    (void)state;
    struct lm_result result;
    open_model("plain");
    for (uint64_t id = 0; id < 8; id++)
        submit(id, id + 1, id == 2 || id == 5 ? "segv" : "hello");
    for (size_t i = 0; i < 8; i++) {
        assert_true(next(&result));
        assert_int_equal(result.end, result.id == 2 || result.id == 5 ? LM_FATAL : LM_STOP);
    }
    assert_false(next(&result));
    assert_int_equal(lm_supervised_counts(fixture.lm).culprits, 2);
}

static void when_every_request_kills_it_is_the_machine(void **state)
{
    (void)state;
    struct lm_result result;
    struct error err;
    enum lm_poll polled = LM_POLL_RUNNING;
    size_t fatal = 0;
    open_model("plain");
    for (uint64_t id = 0; id < 10; id++)
        submit(id, id + 1, "exit");
    while (polled != LM_POLL_BROKEN) {
        polled = lm_poll(fixture.lm, &result, &err);
        fatal += polled == LM_POLL_RESULT;
        assert_true(polled != LM_POLL_IDLE && fatal < 3);
    }
    assert_non_null(
        strstr(err.text, "20 engines of 'plain' died in a row, with no answer between"));
    assert_int_equal(lm_poll(fixture.lm, &result, &err), LM_POLL_BROKEN);
}

static char *make_counter(int deaths)
{
    char *path = mem_strdup("/tmp/memo-test-engine-XXXXXX");
    const int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(ftruncate(file, deaths), 0);
    close(file);
    return path;
}

static void an_engine_that_dies_while_it_loads_is_started_again(void **state)
{
    (void)state;
    char *counter = make_counter(3), *model = mem_printf("dies:%s", counter);
    open_model(model);
    assert_int_equal(lm_supervised_counts(fixture.lm).deaths, 3);
    submit(0, 1, "hello");
    expect_answers(1, "hello");
    unlink(counter);
    free(counter);
    free(model);
}

static void engines_that_always_die_while_they_load_are_an_error(void **state)
{
    (void)state;
    struct error err;
    char *counter = make_counter(100), *model = mem_printf("dies:%s", counter);
    assert_int_equal(create(model, NULL, &err), -1);
    assert_non_null(strstr(err.text, "6 engines of 'dies:"));
    assert_non_null(strstr(err.text, "the last one ended with exit code 9"));
    unlink(counter);
    free(counter);
    free(model);
}

static void a_load_that_hangs_is_ended(void **state)
{
    (void)state;
    struct error err;
    fixture.silence_seconds = SHORT_SILENCE_SECONDS;
    assert_int_equal(create("stops-loading", NULL, &err), -1);
    assert_non_null(strstr(err.text, "the last one was killed: it gave no sign of life"));
}

static void a_model_that_cannot_be_opened_is_the_engines_own_error(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(create("refuses", NULL, &err), -1);
    assert_string_equal(err.text, "no such model");
}

static void a_program_that_cannot_be_run_is_an_error(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(create("plain", "/no/such/program", &err), -1);
    assert_non_null(strstr(
        err.text, "could not be started from '/no/such/program': No such file or directory"));
}

static void garbage_from_an_engine_is_no_message(void **state)
{
    (void)state;
    struct error err;
    assert_int_equal(create("babbles", NULL, &err), -1);
    assert_non_null(strstr(err.text, "the last one failed: not a message of an engine"));
}

static void a_model_that_changed_is_not_used(void **state)
{
    (void)state;
    struct lm_result result;
    struct error err;
    enum lm_poll polled = LM_POLL_RUNNING;
    open_model("changes");
    kill_engine(SIGKILL);
    submit(0, 1, "hello");
    while (polled == LM_POLL_RUNNING)
        polled = lm_poll(fixture.lm, &result, &err);
    assert_int_equal(polled, LM_POLL_BROKEN);
    assert_non_null(strstr(err.text, "the model in 'changes' was changed while the job ran"));
}

static void what_an_engine_writes_is_in_our_log(void **state)
{
    (void)state;
    open_model("talks");
    submit(0, 1, "exit");
    for (struct lm_result result; next(&result);)
        ;
    expect_log(" engine: warning: one line\n");
    expect_log(" engine: and \x01 another\n");
    expect_log("ended with exit code 7; its last line: ");
}

static bool is_gone(pid_t pid)
{
    for (int i = 0; i < 500; i++) {
        if (kill(pid, 0) != 0 && errno == ESRCH)
            return true;
        usleep(10000);
    }
    return false;
}

static void nothing_is_left_of_a_model_that_is_destroyed(void **state)
{
    (void)state;
    static const char *const texts[] = {"hello", "slow", "stop"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct lm_result result;
        struct error err;
        open_model("plain");
        submit(0, 1, texts[i]);
        (void)lm_poll(fixture.lm, &result, &err);
        const pid_t pid = lm_supervised_process(fixture.lm);
        lm_destroy(fixture.lm);
        fixture.lm = NULL;
        assert_true(is_gone(pid));
    }
}

static void without_its_launcher_the_model_is_broken(void **state)
{
    (void)state;
    struct lm_result result;
    struct error err;
    enum lm_poll polled = LM_POLL_RUNNING;
    open_model("plain");
    const pid_t engine = lm_supervised_process(fixture.lm);
    const pid_t launcher = launcher_process(fixture.launcher);
    assert_int_equal(kill(launcher, SIGKILL), 0);
    submit(0, 1, "slow");
    while (polled == LM_POLL_RUNNING)
        polled = lm_poll(fixture.lm, &result, &err);
    assert_int_equal(polled, LM_POLL_BROKEN);
    assert_non_null(strstr(err.text, "is gone"));
    assert_true(is_gone(engine));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "engine") == 0)
        return fake_engine_main();
    signal(SIGPIPE, SIG_IGN);
    const struct CMUnitTest tests[] = {
        TEST(requests_are_answered),
        TEST(long_answers_pass_and_hold_the_engine_back),
        TEST(cancelled_requests_have_no_result),
        TEST(a_slow_engine_that_shows_life_is_left_alone),
        TEST(a_killed_engine_is_replaced_and_asked_again),
        TEST(an_engine_killed_while_idle_is_replaced_when_needed),
        TEST(an_engine_ignores_what_asks_a_job_to_stop),
        TEST(a_request_that_crashes_three_engines_is_fatal),
        TEST(a_request_that_ends_three_engines_is_fatal),
        TEST(a_request_that_stops_three_engines_is_fatal),
        TEST(two_poisoned_requests_at_once_are_told_apart),
        TEST(when_every_request_kills_it_is_the_machine),
        TEST(an_engine_that_dies_while_it_loads_is_started_again),
        TEST(engines_that_always_die_while_they_load_are_an_error),
        TEST(a_load_that_hangs_is_ended),
        TEST(a_model_that_cannot_be_opened_is_the_engines_own_error),
        TEST(a_program_that_cannot_be_run_is_an_error),
        TEST(garbage_from_an_engine_is_no_message),
        TEST(a_model_that_changed_is_not_used),
        TEST(what_an_engine_writes_is_in_our_log),
        TEST(nothing_is_left_of_a_model_that_is_destroyed),
        TEST(without_its_launcher_the_model_is_broken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
