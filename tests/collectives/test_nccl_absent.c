// SPDX-License-Identifier: Apache-2.0
// Linked with nccl_absent.c in place of nccl.c, as in a build without NCCL.
#include "collectives/group_device.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void several_gpus_are_refused(void **state)
{
    (void)state;
    struct error err = {{0}};
    struct group *control = NULL, *gpus = NULL;
    assert_int_equal(group_open_self(&control, &err), 0);
    assert_int_equal(group_open_nccl(control, &(struct group_device_options){0}, &gpus, &err), -1);
    assert_null(gpus);
    assert_non_null(strstr(err.text, "built without NCCL"));
    group_close(control);
}

static void groups_of_the_host_ignore_marks_and_batches(void **state)
{
    (void)state;
    struct error err = {{0}};
    struct group *group = NULL;
    float data[2] = {1, 2};
    uint64_t mark = 7;
    assert_int_equal(group_open_self(&group, &err), 0);
    assert_false(group_is_on_device(group));
    assert_int_equal(group_mark(group, &mark, &err), 0);
    assert_int_equal(group_after(group, mark, &err), 0);
    assert_null(group_stream(group));
    assert_int_equal(group_batch_begin(group, &err), 0);
    assert_int_equal(group_all_reduce_f32(group, data, 2, &err), 0);
    assert_int_equal(group_batch_end(group, &err), 0);
    assert_true(data[0] == 1 && data[1] == 2);
    group_close(group);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(several_gpus_are_refused),
        cmocka_unit_test(groups_of_the_host_ignore_marks_and_batches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
