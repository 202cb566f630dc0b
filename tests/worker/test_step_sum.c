// SPDX-License-Identifier: Apache-2.0
// A step that skips a sequence, repeats one or takes another is noticed, however ranks share it.
#include "worker/train/step_sum.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

static struct step_sum sum_of(const uint32_t *sequences, size_t count)
{
    struct step_sum sum = {0};
    for (size_t i = 0; i < count; i++)
        step_sum_add_sequence(&sum, sequences[i]);
    return sum;
}

static void the_order_does_not_matter(void **state)
{
    (void)state;
    const uint32_t a[] = {5, 0, 900000, 17}, b[] = {17, 900000, 5, 0};
    const struct step_sum x = sum_of(a, 4), y = sum_of(b, 4);
    struct error err;
    assert_int_equal(step_sum_check(&x, &y, &err), 0);
}

static void other_sequences_are_noticed(void **state)
{
    (void)state;
    enum { COUNT = 64 };
    uint32_t planned[COUNT], done[COUNT + 1];
    struct error err;
    for (uint32_t i = 0; i < COUNT; i++)
        planned[i] = 3 * i;
    const struct step_sum plan = sum_of(planned, COUNT);
    for (size_t i = 0; i < COUNT; i++) {
        memcpy(done, planned, sizeof(planned));
        done[COUNT] = planned[i];
        const struct step_sum twice = sum_of(done, COUNT + 1);
        assert_int_equal(step_sum_check(&twice, &plan, &err), -1);
        assert_non_null(strstr(err.text, "computed 65 sequences, which are not the 64"));
        done[i] = planned[(i + 1) % COUNT]; // one in the place of another
        const struct step_sum instead = sum_of(done, COUNT);
        assert_int_equal(step_sum_check(&instead, &plan, &err), -1);
        done[i] = planned[COUNT - 1];
        const struct step_sum skipped = sum_of(done, COUNT - 1);
        assert_int_equal(step_sum_check(&skipped, &plan, &err), -1);
    }
}

struct shared {
    struct step_sum sum; // of rank 0
};

static int reduce(struct group *group, void *context, struct error *err)
{
    struct shared *shared = context;
    struct step_sum sum = {0};
    const int rank = group_rank(group), ranks = group_size(group);
    for (uint32_t s = (uint32_t)rank; s < 31; s += (uint32_t)ranks) {
        step_sum_add_sequence(&sum, s);
        if (step_sum_add_loss(&sum, 0.1 * s, err))
            return -1;
    }
    if (step_sum_reduce(&sum, group, err))
        return -1;
    shared->sum = sum;
    return 0;
}

static void any_number_of_ranks_adds_up_to_the_same(void **state)
{
    (void)state;
    struct step_sum planned = {0};
    struct shared one = {0};
    struct error err;
    for (uint32_t s = 0; s < 31; s++)
        step_sum_add_sequence(&planned, s);
    for (int ranks = 1; ranks <= 4; ranks++) {
        struct shared shared = {0};
        if (group_run_shm(ranks, reduce, &shared, &err))
            fail_msg("%s", err.text);
        if (ranks == 1)
            one = shared;
        assert_int_equal(step_sum_check(&shared.sum, &planned, &err), 0);
        assert_int_equal(shared.sum.fixed_loss, one.sum.fixed_loss);
        assert_true(step_sum_loss(&shared.sum, true) == step_sum_loss(&one.sum, true));
        assert_true(fabs(step_sum_loss(&shared.sum, false) - 46.5) < 1e-9);
    }
}

static void a_loss_that_is_none_is_refused(void **state)
{
    (void)state;
    static const double losses[] = {NAN, INFINITY, 1e9};
    for (size_t i = 0; i < sizeof(losses) / sizeof(*losses); i++) {
        struct step_sum sum = {0};
        struct error err;
        assert_int_equal(step_sum_add_loss(&sum, losses[i], &err), -1);
        assert_non_null(strstr(err.text, "diverged"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_order_does_not_matter),
        cmocka_unit_test(other_sequences_are_noticed),
        cmocka_unit_test(any_number_of_ranks_adds_up_to_the_same),
        cmocka_unit_test(a_loss_that_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
