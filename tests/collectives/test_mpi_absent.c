// SPDX-License-Identifier: Apache-2.0
// Linked with mpi_absent.c in place of mpi.c, as in a build without MPI.
#include "collectives/group.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const variables[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE",
                                        "SLURM_STEP_NUM_TASKS"};

static int environment_clear(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++) {
        unsetenv(variables[i]);
    }
    return 0;
}

static void assert_alone(void)
{
    struct error err = {{0}};
    struct group *group = NULL;
    assert_int_equal(group_open(&group, &err), 0);
    assert_string_equal(group_transport(group), "self");
    group_close(group);
}

static void assert_refused(const char *variable)
{
    struct error err = {{0}};
    struct group *group = NULL;
    assert_int_equal(group_open(&group, &err), -1);
    assert_null(group);
    assert_non_null(strstr(err.text, variable));
    assert_non_null(strstr(err.text, "built without MPI"));
}

static void one_process_is_a_group_of_one(void **state)
{
    (void)state;
    assert_alone();
    setenv("OMPI_COMM_WORLD_SIZE", "1", 1);
    assert_alone();
}

static void mpirun_with_two_processes_is_refused(void **state)
{
    (void)state;
    setenv("OMPI_COMM_WORLD_SIZE", "2", 1);
    assert_refused("'OMPI_COMM_WORLD_SIZE'");
}

static void srun_with_two_tasks_is_refused(void **state)
{
    (void)state;
    setenv("PMIX_RANK", "0", 1);
    setenv("SLURM_STEP_NUM_TASKS", "2", 1);
    assert_refused("'PMIX_RANK'");
    setenv("SLURM_STEP_NUM_TASKS", "1", 1);
    assert_alone();
}

static void launch_of_unknown_size_is_refused(void **state)
{
    (void)state;
    setenv("PMI_RANK", "0", 1);
    assert_refused("'PMI_RANK'");
    setenv("PMI_SIZE", "1", 1);
    assert_alone();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(one_process_is_a_group_of_one, environment_clear),
        cmocka_unit_test_setup(mpirun_with_two_processes_is_refused, environment_clear),
        cmocka_unit_test_setup(srun_with_two_tasks_is_refused, environment_clear),
        cmocka_unit_test_setup(launch_of_unknown_size_is_refused, environment_clear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
