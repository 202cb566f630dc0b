// SPDX-License-Identifier: Apache-2.0
// The real engine behind the supervisor answers what it answers in this process, bit for bit, also
// when it is killed on the way.
#include "tests/worker/json_fixture.h"
#include "tests/worker/lm_fixture.h"

#include "base/mem.h"
#include "worker/supervisor/engine_child.h"
#include "worker/supervisor/lm_supervised.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { REQUESTS = 24 };

static char *directory;
static struct launcher *launcher;

static struct lm_request make_request(uint64_t i)
{
    static const char *const documents[] = {"the ship wrote 12 naïve lantern", "东京 🚢 keeper",
                                            "yes no yes no", "a\xff is no text"};
    const char *document = documents[i % 4];
    return (struct lm_request){
        .id = i,
        .task = i,
        .system = {"keeper", i % 2 ? 6 : 0},
        .parts = {{document, strlen(document)}, {" wrote the ship ", 16}},
        .part_count = 2,
        .schema = i % 3 == 0   ? NULL
                  : i % 3 == 1 ? json_fixture_pairs
                               : "{\"type\":\"nothing\"}",
        .sampling = {.temperature = i % 5 == 0 ? 0 : 1.2f, .top_p = 0.95f, .top_k = 50},
        .seed = 1000 + i,
        .max_tokens = 20 + 2 * i,
    };
}

static void submit_all(struct lm *lm)
{
    for (uint64_t i = 0; i < REQUESTS; i++) {
        const struct lm_request request = make_request(i);
        lm_submit(lm, &request);
    }
}

static void assert_same(const struct lm_answer *a, const struct lm_answer *b)
{
    assert_true(a->is_there && b->is_there);
    assert_int_equal(a->end, b->end);
    assert_string_equal(a->problem, b->problem);
    assert_int_equal(a->forced_from, b->forced_from);
    assert_int_equal(a->prompt_tokens, b->prompt_tokens);
    assert_int_equal(a->output_tokens, b->output_tokens);
    assert_int_equal(a->answer.length, b->answer.length);
    if (a->answer.length > 0)
        assert_memory_equal(a->answer.bytes, b->answer.bytes, a->answer.length);
}

static struct lm *open_supervised(const struct lm_engine_options *options)
{
    struct error err;
    struct lm *lm = NULL;
    struct lm_engine_options mine = *options;
    const struct supervision how = {.launcher = launcher};
    mine.model = directory;
    mine.device = (struct device_options){.backend = getenv("MEMO_TEST_BACKEND"), .threads = 2};
    if (lm_supervised_create(&mine, &how, &lm, &err))
        fail_msg("%s", err.text);
    return lm;
}

static void answers_are_those_of_an_engine_in_this_process(void **state)
{
    (void)state;
    const struct lm_engine_options options = {.slots = 5};
    struct lm_answer here[REQUESTS] = {0}, there[REQUESTS] = {0};
    struct lm *inside = lm_fixture_open(directory, &options);
    struct lm *outside = open_supervised(&options);
    assert_true(digest_equal(inside->digest, outside->digest));
    assert_int_equal(inside->capacity, outside->capacity);
    assert_int_equal(inside->context_tokens, outside->context_tokens);
    submit_all(inside);
    submit_all(outside);
    lm_fixture_collect(inside, here, REQUESTS);
    lm_fixture_collect(outside, there, REQUESTS);
    for (size_t i = 0; i < REQUESTS; i++)
        assert_same(&here[i], &there[i]);
    lm_destroy(inside);
    lm_destroy(outside);
    lm_fixture_release(here, REQUESTS);
    lm_fixture_release(there, REQUESTS);
}

// Kills the engine behind its first answer and returns when another one is on its way.
static void kill_when_it_has_answered(struct lm *lm, struct lm_answer *answers)
{
    struct lm_result result;
    struct error err;
    const uint64_t deaths = lm_supervised_counts(lm).deaths;
    const pid_t engine = lm_supervised_process(lm);
    bool killed = false;
    while (lm_supervised_counts(lm).deaths == deaths || lm_supervised_process(lm) < 0) {
        const enum lm_poll polled = lm_poll(lm, &result, &err);
        assert_true(polled == LM_POLL_RESULT || polled == LM_POLL_RUNNING);
        if (polled != LM_POLL_RESULT)
            continue;
        lm_fixture_keep(answers, REQUESTS, &result);
        if (!killed)
            assert_int_equal(kill(engine, SIGKILL), 0);
        killed = true;
    }
}

static void answers_are_the_same_when_the_engine_is_killed_on_the_way(void **state)
{
    (void)state;
    const struct lm_engine_options options = {.slots = 5};
    struct lm_answer here[REQUESTS] = {0}, there[REQUESTS] = {0};
    struct lm *inside = lm_fixture_open(directory, &options);
    struct lm *outside = open_supervised(&options);
    submit_all(inside);
    lm_fixture_collect(inside, here, REQUESTS);
    submit_all(outside);
    kill_when_it_has_answered(outside, there);
    kill_when_it_has_answered(outside, there);
    lm_fixture_collect(outside, there, REQUESTS);
    for (size_t i = 0; i < REQUESTS; i++)
        assert_same(&here[i], &there[i]);
    assert_int_equal(lm_supervised_counts(outside).deaths, 2);
    lm_destroy(inside);
    lm_destroy(outside);
    lm_fixture_release(here, REQUESTS);
    lm_fixture_release(there, REQUESTS);
}

static void a_missing_model_is_the_same_error(void **state)
{
    (void)state;
    struct error here, there;
    struct lm *lm = NULL;
    const struct lm_engine_options options = {.model = "/tmp/memo-no-such-model"};
    const struct supervision how = {.launcher = launcher};
    assert_int_equal(lm_engine_create(&options, &lm, &here), -1);
    assert_int_equal(lm_supervised_create(&options, &how, &lm, &there), -1);
    assert_string_equal(here.text, there.text);
}

static int set_up(void **state)
{
    struct error err;
    (void)state;
    directory = lm_fixture_directory(3);
    return launcher_open(&launcher, &err);
}

static int tear_down(void **state)
{
    (void)state;
    launcher_close(launcher);
    lm_fixture_remove(directory);
    return 0;
}

static int run_engine(void)
{
    struct error err;
    const struct engine_child_options options = {.socket = LAUNCHER_CHANNEL,
                                                 .open = lm_engine_create};
    return engine_child_run(&options, &err) ? 1 : 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "engine") == 0)
        return run_engine();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_are_those_of_an_engine_in_this_process),
        cmocka_unit_test(answers_are_the_same_when_the_engine_is_killed_on_the_way),
        cmocka_unit_test(a_missing_model_is_the_same_error),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
