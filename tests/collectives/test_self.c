// SPDX-License-Identifier: Apache-2.0
#include "collectives/group.h"
#include "group_checks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void every_collective_works_alone(void **state)
{
    (void)state;
    struct error err = {{0}};
    struct group *group = NULL;
    assert_int_equal(group_open_self(&group, &err), 0);
    assert_int_equal(group_size(group), 1);
    assert_int_equal(group_rank(group), 0);
    assert_int_equal(group_local_rank(group), 0);
    assert_string_equal(group_transport(group), "self");
    for (const struct group_check *check = group_checks; check->name != NULL; check++) {
        if (check->run(group, NULL, &err) != 0) {
            fail_msg("%s: %s", check->name, err.text);
        }
    }
    group_close(group);
}

static void plain_start_opens_a_group_of_one(void **state)
{
    (void)state;
    struct error err = {{0}};
    struct group *group = NULL;
    assert_int_equal(group_open(&group, &err), 0);
    assert_string_equal(group_transport(group), "self");
    group_close(group);
}

// srun without PMIx starts tasks that cannot find each other.
static void unconnected_tasks_are_refused(void **state)
{
    (void)state;
    struct error err = {{0}};
    struct group *group = NULL;
    setenv("SLURM_STEP_NUM_TASKS", "3", 1);
    assert_int_equal(group_open(&group, &err), -1);
    assert_null(group);
    assert_non_null(strstr(err.text, "3 processes"));
    assert_non_null(strstr(err.text, "srun --mpi=pmix"));
    setenv("SLURM_STEP_NUM_TASKS", "1", 1);
    assert_int_equal(group_open(&group, &err), 0);
    group_close(group);
    unsetenv("SLURM_STEP_NUM_TASKS");
}

static void close_accepts_null(void **state)
{
    (void)state;
    group_close(NULL);
}

int main(void)
{
    // The test itself may run inside a job.
    unsetenv("SLURM_STEP_NUM_TASKS");
    unsetenv("PMIX_RANK");
    unsetenv("PMI_RANK");
    unsetenv("OMPI_COMM_WORLD_SIZE");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_collective_works_alone),
        cmocka_unit_test(plain_start_opens_a_group_of_one),
        cmocka_unit_test(unconnected_tasks_are_refused),
        cmocka_unit_test(close_accepts_null),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
