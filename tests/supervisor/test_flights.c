// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/flights.h"

#include "base/random.h"
#include "worker/supervisor/engine_message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#define HOW "was killed by signal 11 (Segmentation fault)"

static void add(struct flights *flights, uint64_t id, uint64_t task)
{
    flights_add(
        flights,
        &(struct lm_request){
            .id = id, .task = task, .system = {"", 0}, .parts = {{"x", 1}}, .part_count = 1});
}

static size_t send_all(struct flights *flights, size_t window)
{
    size_t sent = 0;
    for (size_t at; (at = flights_next(flights, window)) != SIZE_MAX; sent++)
        flights_mark_sent(flights, at);
    return sent;
}

static void no_more_than_the_window_is_sent_in_order(void **state)
{
    (void)state;
    struct flights flights = {0};
    for (uint64_t i = 0; i < 5; i++)
        add(&flights, 100 + i, i + 1);
    assert_int_equal(send_all(&flights, 2), 2);
    assert_true(flights.items[0].sent && flights.items[1].sent && !flights.items[2].sent);
    flights_remove(&flights, 0);
    assert_int_equal(flights.sent, 1);
    assert_int_equal(flights_next(&flights, 2), 1);
    assert_int_equal(flights.items[1].id, 102);
    assert_int_equal(flights_find(&flights, 4), 3);
    assert_int_equal(flights_find(&flights, 0), SIZE_MAX);
    flights_release(&flights);
}

static void after_one_death_all_are_asked_again_together(void **state)
{
    (void)state;
    struct flights flights = {0};
    for (uint64_t i = 0; i < 5; i++)
        add(&flights, i, i + 1);
    assert_int_equal(send_all(&flights, 4), 4);
    assert_false(flights_engine_died(&flights, HOW));
    assert_int_equal(flights.sent, 0);
    assert_int_equal(send_all(&flights, 4), 4);
    assert_int_equal(flights_ended(&flights), SIZE_MAX);
    flights_release(&flights);
}

static void after_two_deaths_suspects_go_alone_until_none_is_left(void **state)
{
    (void)state;
    struct flights flights = {0};
    for (uint64_t i = 0; i < 4; i++)
        add(&flights, i, i + 1);
    for (int death = 0; death < 2; death++) {
        assert_int_equal(send_all(&flights, 3), 3);
        assert_false(flights_engine_died(&flights, HOW));
    }
    for (uint64_t i = 0; i < 3; i++) {
        assert_int_equal(send_all(&flights, 3), 1);
        assert_int_equal(flights.items[0].id, i);
        flights_remove(&flights, 0);
    }
    assert_int_equal(send_all(&flights, 3), 1); // the last was never under suspicion
    assert_int_equal(flights.items[0].deaths, 0);
    flights_release(&flights);
}

// The engine dies with everything that it gets, `deaths` times.
static bool die(struct flights *flights, int deaths)
{
    bool convicted = false;
    while (deaths-- > 0) {
        send_all(flights, 6);
        convicted = flights_engine_died(flights, HOW);
    }
    return convicted;
}

static void the_third_death_alone_convicts_the_whole_task(void **state)
{
    (void)state;
    struct flights flights = {0};
    for (uint64_t i = 0; i < 6; i++)
        add(&flights, i, i % 3 + 1); // tasks 1, 2, 3, 1, 2, 3
    assert_false(die(&flights, 2));
    for (size_t i = 5; i > 0; i--) { // the last five are cleared, each alone
        send_all(&flights, 6);
        assert_int_equal(flights.sent, 1);
        if (flights.items[0].sent)
            assert_false(flights_engine_died(&flights, HOW));
        assert_int_equal(flights.items[0].lone_deaths, 1);
        assert_int_equal(flights_next(&flights, 6), flights.sent ? SIZE_MAX : 1);
        if (flights.sent == 0)
            send_all(&flights, 6);
        flights_remove(&flights, 1);
    }
    for (uint64_t i = 1; i < 6; i++)
        add(&flights, i, i % 3 + 1);
    assert_false(die(&flights, 1));
    assert_true(die(&flights, 1));
    for (size_t i = 0; i < 6; i++) {
        const struct flight *flight = &flights.items[i];
        assert_int_equal(flight->problem != NULL, flight->task == 1);
        if (flight->problem) {
            assert_int_equal(flight->end, LM_FATAL);
            assert_string_equal(flight->problem,
                                "the engine died 3 times while it computed this and nothing else, "
                                "the last time it " HOW);
        }
    }
    assert_int_equal(flights_ended(&flights), 0);
    assert_int_equal(send_all(&flights, 6), 4); // the others go together
    add(&flights, 9, 1);
    assert_non_null(flights.items[6].problem);
    add(&flights, 10, 4);
    assert_null(flights.items[7].problem);
    flights_release(&flights);
}

// Whatever the deaths, none of several suspects is convicted before each has died alone twice.
static void suspects_take_turns(void **state)
{
    (void)state;
    struct flights flights = {0};
    for (uint64_t i = 0; i < 4; i++)
        add(&flights, i, i + 1);
    assert_false(die(&flights, 2 + 4 + 4));
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(flights.items[i].lone_deaths, 2);
    assert_true(die(&flights, 1));
    assert_non_null(flights.items[0].problem);
    flights_release(&flights);
}

static void requests_of_no_task_are_blamed_one_by_one(void **state)
{
    (void)state;
    struct flights flights = {0};
    add(&flights, 0, 0);
    add(&flights, 1, 0);
    assert_true(die(&flights, 2 + 2 + 2 + 1));
    assert_non_null(flights.items[0].problem);
    assert_null(flights.items[1].problem);
    add(&flights, 2, 0);
    assert_null(flights.items[2].problem);
    flights_release(&flights);
}

static void a_death_without_requests_blames_nobody(void **state)
{
    (void)state;
    struct flights flights = {0};
    add(&flights, 0, 1);
    for (int death = 0; death < 10; death++)
        assert_false(flights_engine_died(&flights, HOW));
    assert_int_equal(flights.items[0].deaths, 0);
    flights_release(&flights);
}

static void a_request_beyond_any_limit_is_rejected(void **state)
{
    (void)state;
    struct flights flights = {0};
    const struct lm_request request = {.parts = {{"", ENGINE_BODY_LIMIT}}, .part_count = 1};
    flights_add(&flights, &request); // its text is not looked at
    assert_int_equal(flights.items[0].end, LM_REJECTED);
    assert_non_null(strstr(flights.items[0].problem, "more than 67108864"));
    flights_release(&flights);
}

// Engines that work on some requests at once, in an order by chance, and die of the poisoned ones,
// and one time in twenty of nothing, though never more than twice while the same request ends
// first. Whatever the order, exactly the poisoned tasks end with LM_FATAL.
enum { TASKS = 40, REQUESTS_OF_TASK = 3, WINDOW = 8 };

struct world {
    struct flights flights;
    uint64_t seed, drawn;
    bool poisoned[TASKS + 1];
    int hits[TASKS * REQUESTS_OF_TASK]; // deaths by chance
    int answered[TASKS + 1], fatal[TASKS + 1];
    int deaths;
};

static uint64_t draw(struct world *w, uint64_t below)
{
    return random_u64(w->seed, 1, w->drawn++) % below;
}

static void compute_one(struct world *w)
{
    size_t at = draw(w, w->flights.count);
    while (!w->flights.items[at].sent)
        at = (at + 1) % w->flights.count;
    const uint64_t task = w->flights.items[at].task;
    int *hits = &w->hits[w->flights.items[at].id];
    const bool chance = *hits < LONE_DEATHS_OF_CULPRIT - 1 && draw(w, 20) == 0;
    *hits += chance;
    if (w->poisoned[task] || chance) {
        w->deaths++;
        flights_engine_died(&w->flights, HOW);
    } else {
        w->answered[task]++;
        flights_remove(&w->flights, at);
    }
}

static void run_world(struct world *w)
{
    for (size_t at; w->flights.count > 0;) {
        while ((at = flights_ended(&w->flights)) != SIZE_MAX) {
            assert_int_equal(w->flights.items[at].end, LM_FATAL);
            w->fatal[w->flights.items[at].task]++;
            flights_remove(&w->flights, at);
        }
        send_all(&w->flights, WINDOW);
        if (w->flights.count > 0)
            compute_one(w);
    }
}

static void only_the_poisoned_are_blamed(void **state)
{
    (void)state;
    int deaths = 0;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct world w = {.seed = seed};
        for (uint64_t task = 1; task <= TASKS; task++)
            w.poisoned[task] = draw(&w, 10) == 0;
        for (uint64_t i = 0; i < TASKS * REQUESTS_OF_TASK; i++)
            add(&w.flights, i, 1 + i % TASKS);
        run_world(&w);
        deaths += w.deaths;
        for (int task = 1; task <= TASKS; task++) {
            assert_int_equal(w.fatal[task], w.poisoned[task] ? REQUESTS_OF_TASK : 0);
            assert_int_equal(w.answered[task], w.poisoned[task] ? 0 : REQUESTS_OF_TASK);
        }
        flights_release(&w.flights);
    }
    printf("%d engines died in 300 worlds\n", deaths);
    assert_true(deaths > 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_more_than_the_window_is_sent_in_order),
        cmocka_unit_test(after_one_death_all_are_asked_again_together),
        cmocka_unit_test(after_two_deaths_suspects_go_alone_until_none_is_left),
        cmocka_unit_test(the_third_death_alone_convicts_the_whole_task),
        cmocka_unit_test(suspects_take_turns),
        cmocka_unit_test(requests_of_no_task_are_blamed_one_by_one),
        cmocka_unit_test(a_death_without_requests_blames_nobody),
        cmocka_unit_test(a_request_beyond_any_limit_is_rejected),
        cmocka_unit_test(only_the_poisoned_are_blamed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
