// SPDX-License-Identifier: Apache-2.0
#include "worker/http/endpoints.h"
#include "worker/http/retry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static struct endpoints set;
static uint64_t now_ms;

static int setup(void **state)
{
    (void)state;
    now_ms = 1000000;
    return 0;
}

static struct endpoint_try begin(void)
{
    struct endpoint_try try;
    assert_int_equal(endpoints_begin(&set, now_ms, &try), 0);
    return try;
}

static enum endpoint_change end(struct endpoint_try try, enum endpoint_outcome outcome)
{
    return endpoints_end(&set, &try, outcome, now_ms, RETRY_AFTER_NONE);
}

static void check_none_has_room(void)
{
    struct endpoint_try try;
    assert_int_equal(endpoints_begin(&set, now_ms, &try), -1);
}

static void unknown_endpoints_share_evenly(void **state)
{
    (void)state;
    size_t begun[3] = {0};
    endpoints_init(&set, 3, 100, 1);
    for (int i = 0; i < 30; i++)
        begun[begin().endpoint]++;
    for (int i = 0; i < 3; i++)
        assert_int_equal(begun[i], 10);
}

static void the_window_limits_what_is_outstanding(void **state)
{
    (void)state;
    struct endpoint_try first;
    endpoints_init(&set, 1, 3, 1);
    first = begin();
    begin();
    begin();
    check_none_has_room();
    end(first, ENDPOINT_CANCELLED);
    begin();
    check_none_has_room();
}

// A closed loop of 12 requests; endpoint 1 takes ten times as long.
static void a_slow_endpoint_gets_its_share_of_speed(void **state)
{
    (void)state;
    struct endpoint_try tries[12];
    uint64_t ends[12], answers[2] = {0};
    endpoints_init(&set, 2, 100, 1);
    for (int i = 0; i < 12; i++) {
        tries[i] = begin();
        ends[i] = now_ms + (tries[i].endpoint ? 1000 : 100) + (uint64_t)i;
    }
    for (int step = 0; step < 2000; step++) {
        int next = 0;
        for (int i = 1; i < 12; i++)
            next = ends[i] < ends[next] ? i : next;
        now_ms = ends[next];
        end(tries[next], ENDPOINT_ANSWERED);
        answers[tries[next].endpoint]++;
        tries[next] = begin();
        ends[next] = now_ms + (tries[next].endpoint ? 1000 : 100);
    }
    // 10 or 11 of 12 are outstanding at the fast one: 100 to 110 answers for each of the slow one's
    assert_true(answers[1] > 0);
    assert_in_range(answers[0] / answers[1], 40, 130);
}

static void an_idle_endpoint_is_measured_again(void **state)
{
    (void)state;
    struct endpoint_try try;
    endpoints_init(&set, 2, 100, 1);
    for (size_t which = 0; which < 2; which++) {
        try = begin();
        now_ms += try.endpoint ? 1600 : 100;
        end(try, ENDPOINT_ANSWERED);
    }
    try = begin();
    assert_int_equal(try.endpoint, 0);
    end(try, ENDPOINT_CANCELLED);
    now_ms += 30000;
    for (int i = 0; i < 20; i++) { // the fast one stays in use, the slow one is forgiven
        now_ms += 10000;
        try = begin();
        if (try.endpoint == 1)
            return;
        now_ms += 100;
        end(try, ENDPOINT_ANSWERED);
    }
    fail();
}

static void an_endpoint_that_fails_often_costs_more(void **state)
{
    (void)state;
    endpoints_init(&set, 2, 100, 1);
    size_t begun[2] = {0};
    for (int i = 0; i < 400; i++) {
        const struct endpoint_try a = begin(), b = begin();
        begun[a.endpoint]++;
        begun[b.endpoint]++;
        now_ms += 100;
        end(a, a.endpoint == 1 && i % 4 ? ENDPOINT_FAILED : ENDPOINT_ANSWERED);
        end(b, b.endpoint == 1 && i % 4 ? ENDPOINT_FAILED : ENDPOINT_ANSWERED);
    }
    assert_true(begun[1] > 0 && begun[0] > 3 * begun[1]);
}

static void fail_in_a_row(uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(end(begin(), ENDPOINT_FAILED), ENDPOINT_UNCHANGED);
}

static void failures_in_a_row_make_it_rest_longer_and_longer(void **state)
{
    (void)state;
    uint64_t most = 1000;
    endpoints_init(&set, 1, 100, 1);
    fail_in_a_row(ENDPOINT_RESTS_AFTER - 1);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(end(begin(), ENDPOINT_FAILED), ENDPOINT_RESTS);
        const uint64_t rest = set.endpoint[0].rest_until_ms - now_ms;
        assert_in_range(rest, most / 2, most);
        check_none_has_room();
        now_ms += rest - 1;
        check_none_has_room();
        now_ms++;
        most = 2 * most < 30000 ? 2 * most : 30000;
    }
}

static void an_answer_in_between_is_no_row(void **state)
{
    (void)state;
    endpoints_init(&set, 1, 100, 1);
    for (int i = 0; i < 20; i++) {
        fail_in_a_row(ENDPOINT_RESTS_AFTER - 1);
        assert_int_equal(end(begin(), i % 2 ? ENDPOINT_ANSWERED : ENDPOINT_REJECTED),
                         ENDPOINT_UNCHANGED);
    }
}

static void after_a_rest_one_request_probes(void **state)
{
    (void)state;
    endpoints_init(&set, 1, 100, 1);
    const struct endpoint_try old = begin(); // hangs
    fail_in_a_row(ENDPOINT_RESTS_AFTER - 1);
    end(begin(), ENDPOINT_FAILED);
    now_ms += 30000;
    const struct endpoint_try probe = begin();
    check_none_has_room();
    // an old one neither lengthens the rest nor makes room
    assert_int_equal(end(old, ENDPOINT_FAILED), ENDPOINT_UNCHANGED);
    check_none_has_room();
    assert_int_equal(end(probe, ENDPOINT_ANSWERED), ENDPOINT_RECOVERED);
    for (int answers = 0; answers < 300; answers++)
        assert_int_equal(end(begin(), ENDPOINT_ANSWERED), ENDPOINT_UNCHANGED);
    for (int i = 0; i < 100; i++) // the window has grown to its limit
        begin();
    check_none_has_room();
}

static void an_old_request_that_is_answered_ends_the_rest(void **state)
{
    (void)state;
    endpoints_init(&set, 1, 100, 1);
    const struct endpoint_try old = begin();
    fail_in_a_row(ENDPOINT_RESTS_AFTER - 1);
    end(begin(), ENDPOINT_FAILED);
    check_none_has_room();
    assert_int_equal(end(old, ENDPOINT_ANSWERED), ENDPOINT_RECOVERED);
    begin();
}

static void a_rest_is_as_long_as_retry_after_says(void **state)
{
    (void)state;
    endpoints_init(&set, 1, 100, 1);
    fail_in_a_row(ENDPOINT_RESTS_AFTER - 1);
    struct endpoint_try try = begin();
    endpoints_end(&set, &try, ENDPOINT_FAILED, now_ms, 12000);
    assert_int_equal(set.endpoint[0].rest_until_ms, now_ms + 12000);
    now_ms += 12000;
    try = begin();
    endpoints_end(&set, &try, ENDPOINT_FAILED, now_ms, 86400000);
    assert_int_equal(set.endpoint[0].rest_until_ms, now_ms + 30000);
}

// The server takes 8 at once and answers others with 429; 64 would like to be asked.
static void the_window_settles_near_what_the_endpoint_takes(void **state)
{
    (void)state;
    int answered = 0, throttled = 0;
    endpoints_init(&set, 1, 64, 1);
    for (int round = 0; round < 200; round++) {
        struct endpoint_try tries[64];
        int count = 0;
        while (endpoints_begin(&set, now_ms, &tries[count]) == 0)
            count++;
        now_ms += 100;
        for (int i = 0; i < count; i++)
            end(tries[i], i < 8 ? ENDPOINT_ANSWERED : ENDPOINT_THROTTLED);
        if (round >= 20) {
            answered += count < 8 ? count : 8;
            throttled += count > 8 ? count - 8 : 0;
        }
    }
    assert_true(answered > 180 * 6);
    assert_true(throttled < answered / 2);
    assert_int_equal(set.endpoint[0].rests, 0);
}

static void one_that_never_answered_and_refuses_is_out(void **state)
{
    (void)state;
    endpoints_init(&set, 2, 100, 1);
    struct endpoint_try tries[8];
    for (int i = 0; i < 8; i++)
        tries[i] = begin();
    int outs = 0;
    for (int i = 0; i < 8; i++)
        if (tries[i].endpoint == 1)
            outs += end(tries[i], ENDPOINT_REFUSED) == ENDPOINT_OUT;
    assert_int_equal(outs, 1);
    assert_true(set.endpoint[1].is_out);
    assert_false(endpoints_all_out(&set));
    now_ms += 1000000;
    for (int i = 0; i < 50; i++)
        assert_int_equal(begin().endpoint, 0);
}

static void one_that_answered_before_only_rests_when_it_refuses(void **state)
{
    (void)state;
    endpoints_init(&set, 1, 100, 1);
    end(begin(), ENDPOINT_ANSWERED);
    for (int i = 0; i < ENDPOINT_RESTS_AFTER - 1; i++)
        assert_int_equal(end(begin(), ENDPOINT_REFUSED), ENDPOINT_UNCHANGED);
    assert_int_equal(end(begin(), ENDPOINT_REFUSED), ENDPOINT_RESTS);
    assert_false(endpoints_all_out(&set));
}

// Whatever happens in whatever order: counts never go wrong, and a good endpoint is found again.
static void random_events_keep_the_counts(void **state)
{
    (void)state;
    uint64_t random = 42;
    struct endpoint_try tries[200];
    size_t flying = 0;
    endpoints_init(&set, 3, 40, 9);
    for (int step = 0; step < 100000; step++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        const uint32_t draw = (uint32_t)(random >> 33);
        now_ms += draw % 300;
        if (draw & 1024 && flying < 200 && endpoints_begin(&set, now_ms, &tries[flying]) == 0) {
            flying++;
        } else if (flying > 0) {
            const size_t which = (draw >> 11) % flying;
            const enum endpoint_outcome outcome = (draw >> 3) % 5; // never refused
            end(tries[which], outcome == ENDPOINT_REFUSED ? ENDPOINT_CANCELLED : outcome);
            tries[which] = tries[--flying];
        }
        size_t outstanding = 0;
        for (size_t i = 0; i < 3; i++) {
            const struct endpoint *endpoint = &set.endpoint[i];
            outstanding += endpoint->outstanding;
            assert_true(endpoint->window >= 1 && endpoint->window <= 40);
            assert_true(endpoint->success >= 0 && endpoint->success <= 1);
        }
        assert_true(outstanding <= flying);
    }
    while (flying > 0)
        end(tries[--flying], ENDPOINT_CANCELLED);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(set.endpoint[i].outstanding, 0);
    now_ms += 30000;
    begin();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(unknown_endpoints_share_evenly, setup),
        cmocka_unit_test_setup(the_window_limits_what_is_outstanding, setup),
        cmocka_unit_test_setup(a_slow_endpoint_gets_its_share_of_speed, setup),
        cmocka_unit_test_setup(an_idle_endpoint_is_measured_again, setup),
        cmocka_unit_test_setup(an_endpoint_that_fails_often_costs_more, setup),
        cmocka_unit_test_setup(failures_in_a_row_make_it_rest_longer_and_longer, setup),
        cmocka_unit_test_setup(an_answer_in_between_is_no_row, setup),
        cmocka_unit_test_setup(after_a_rest_one_request_probes, setup),
        cmocka_unit_test_setup(an_old_request_that_is_answered_ends_the_rest, setup),
        cmocka_unit_test_setup(a_rest_is_as_long_as_retry_after_says, setup),
        cmocka_unit_test_setup(the_window_settles_near_what_the_endpoint_takes, setup),
        cmocka_unit_test_setup(one_that_never_answered_and_refuses_is_out, setup),
        cmocka_unit_test_setup(one_that_answered_before_only_rests_when_it_refuses, setup),
        cmocka_unit_test_setup(random_events_keep_the_counts, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
