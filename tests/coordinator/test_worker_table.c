// SPDX-License-Identifier: Apache-2.0
#include "coordinator/worker_table.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void a_steady_rate_is_read_as_itself(void **state)
{
    (void)state;
    static const double every_seconds[] = {0.5, 10, 60};
    for (int i = 0; i < 3; i++) {
        struct fading_rate rate = {0};
        double now = 0;
        for (int n = 0; n < 200; n++)
            fading_rate_add(&rate, now += every_seconds[i], 7 * every_seconds[i]);
        // right behind a commit the sum is high by at most half an interval's fading
        const double high = exp(every_seconds[i] / WORKER_RATE_SECONDS);
        assert_true(fading_rate_read(&rate, now) >= 7 * 0.99);
        assert_true(fading_rate_read(&rate, now) <= 7 * high);
    }
}

static void a_rate_fades_when_nothing_comes(void **state)
{
    (void)state;
    struct fading_rate rate = {0};
    assert_true(fading_rate_read(&rate, 0) == 0);
    fading_rate_add(&rate, 10, 1000);
    assert_true(fabs(fading_rate_read(&rate, 10) - 100) < 5);
    assert_true(fading_rate_read(&rate, 20) < fading_rate_read(&rate, 10));
    assert_true(fading_rate_read(&rate, 10 + 20 * WORKER_RATE_SECONDS) < 1e-4);
    assert_true(fading_rate_read(&rate, 5) == fading_rate_read(&rate, 10)); // never backwards
}

static void a_row_follows_its_worker(void **state)
{
    (void)state;
    struct worker_table table;
    worker_table_init(&table, 3);
    const struct worker_row *row = &table.rows[2];
    assert_int_equal(row->worker, 2);
    assert_int_equal(row->state, WORKER_AWAITED);
    assert_true(row->heard_seconds < 0);
    worker_table_joined(&table, 2, 1);
    assert_int_equal(row->state, WORKER_IDLE);
    worker_table_observe(&table, 2, 5, false);
    assert_int_equal(row->state, WORKER_WORKING);
    worker_table_committed(&table, 2, 3, 4, 40, 400);
    worker_table_failed(&table, 2, 5);
    assert_true(row->tasks == 4 && row->pairs == 40 && row->tokens == 400 && row->failed == 1);
    assert_true(row->heard_seconds == 5);
    worker_table_observe(&table, 2, 1, true);
    assert_int_equal(row->state, WORKER_SILENT);
    worker_table_left(&table, 2, 6, false);
    assert_int_equal(row->state, WORKER_LEFT);
    assert_int_equal(row->held, 0);
    worker_table_left(&table, 1, 6, true);
    assert_string_equal(worker_state_name(table.rows[1].state), "failed");
    assert_int_equal(table.rows[0].state, WORKER_AWAITED);
    worker_table_release(&table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_steady_rate_is_read_as_itself),
        cmocka_unit_test(a_rate_fades_when_nothing_comes),
        cmocka_unit_test(a_row_follows_its_worker),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
