// SPDX-License-Identifier: Apache-2.0
// Runs under mpirun with any number of ranks.
#include "collectives/group.h"
#include "group_checks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static struct group *group;

static void group_describes_itself(void **state)
{
    (void)state;
    assert_string_equal(group_transport(group), "mpi");
    assert_true(group_rank(group) >= 0 && group_rank(group) < group_size(group));
    assert_int_equal(group_local_rank(group), group_rank(group)); // all on this machine
}

static void every_collective_works(void **state)
{
    (void)state;
    for (const struct group_check *check = group_checks; check->name != NULL; check++) {
        struct error err = {{0}};
        int rc = check->run(group, NULL, &err);
        if (group_agree(group, rc, &err) != 0) {
            fail_msg("%s: %s", check->name, err.text);
        }
    }
}

int main(void)
{
    struct error err = {{0}};
    if (group_open(&group, &err) != 0) {
        print_error("%s\n", err.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(group_describes_itself),
        cmocka_unit_test(every_collective_works),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    group_close(group);
    return failed;
}
