// SPDX-License-Identifier: Apache-2.0
#include "jobs/run_cost.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char directory[] = "/tmp/memo-run-cost-XXXXXX";

static void write_attempt(const char *name, const char *json)
{
    struct strbuf text = {0};
    struct error err;
    strbuf_adds(&text, json);
    if (run_cost_write(fs_system(), directory, name, &text, &err))
        fail_msg("%s", err.text);
    strbuf_release(&text);
}

static double spent(const char *except)
{
    double hours = -1;
    struct error err;
    if (run_cost_spent(fs_system(), directory, except, &hours, &err))
        fail_msg("%s", err.text);
    return hours;
}

static void hours_of_all_attempts_add_up(void **state)
{
    (void)state;
    assert_true(spent(NULL) == 0); // nothing is there yet
    write_attempt("attempt-0001", "{\"gpu_hours\":{\"spent\":1.5}}");
    write_attempt("attempt-0002", "{\"gpu_hours\":{\"spent\":2}}");
    write_attempt("attempt-0002", "{\"gpu_hours\":{\"spent\":2.25}}"); // replaced
    write_attempt("attempt-00020", "{}");                              // says nothing of it
    assert_true(spent(NULL) == 3.75);
    assert_true(spent("attempt-0002") == 1.5);
    assert_true(spent("attempt-0003") == 3.75);
}

static void a_damaged_record_is_named(void **state)
{
    (void)state;
    static const char *const damaged[] = {"", "{\"gpu_hours\":{\"spent\":1",
                                          "{\"gpu_hours\":{\"spent\":\"1\"}}"};
    for (size_t i = 0; i < 3; i++) {
        double hours;
        struct error err;
        write_attempt("attempt-0009", damaged[i]);
        assert_int_equal(run_cost_spent(fs_system(), directory, NULL, &hours, &err), -1);
        assert_non_null(strstr(err.text, "attempt-0009.json"));
    }
    write_attempt("attempt-0009", "{\"gpu_hours\":null}");
    assert_true(spent(NULL) == 3.75);
}

static void a_full_disk_leaves_the_record_that_was_there(void **state)
{
    (void)state;
    struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = 5};
    struct fs full = fs_with_faults(&fault);
    struct strbuf text = {0};
    struct error err;
    strbuf_adds(&text, "{\"gpu_hours\":{\"spent\":100}}");
    assert_int_equal(run_cost_write(&full, directory, "attempt-0001", &text, &err), -1);
    assert_non_null(strstr(err.text, "no space"));
    assert_true(spent(NULL) == 3.75);
    strbuf_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hours_of_all_attempts_add_up),
        cmocka_unit_test(a_damaged_record_is_named),
        cmocka_unit_test(a_full_disk_leaves_the_record_that_was_there),
    };
    if (!mkdtemp(directory))
        return 1;
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[64];
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command) == 0 ? failed : 1;
}
