// SPDX-License-Identifier: Apache-2.0
// Small good and malformed files made after the format's public tests, with what is expected of
// each.
#include "base/json.h"
#include "datasets/safetensors.h"
#include "tests/test_data.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *directory;

static void shared_files_are_judged_as_expected(void **state)
{
    (void)state;
    char *list = fs_join(directory, "expected.json");
    struct arena arena = {0};
    struct strbuf text = {0};
    struct error err;
    const struct json *expected;
    assert_int_equal(fs_read(fs_system(), list, &text, &err), 0);
    assert_int_equal(json_parse(&arena, text.bytes, text.length, &expected, &err), 0);
    assert_true(expected->length >= 10);
    for (size_t i = 0; i < expected->length; i++) {
        char *path = fs_join(directory, expected->keys[i]);
        bool good = strncmp(expected->items[i].string, "ok", 2) == 0;
        struct safetensors tensors;
        int rc = safetensors_open(path, &tensors, &err);
        if ((rc == 0) != good)
            fail_msg("%s: %s", expected->keys[i], rc == 0 ? "accepted" : err.text);
        if (rc != 0)
            assert_non_null(strstr(err.text, path));
        else
            safetensors_close(&tensors);
        free(path);
    }
    arena_release(&arena);
    strbuf_release(&text);
    free(list);
}

int main(void)
{
    directory = test_data_path("safetensors");
    if (!directory)
        return SKIPPED;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_files_are_judged_as_expected),
    };
    int rc = cmocka_run_group_tests(tests, NULL, NULL);
    free(directory);
    return rc;
}
