// SPDX-License-Identifier: Apache-2.0
// JSONTestSuite: files named y_ must be read, n_ must be refused, i_ may be either. What is read
// must survive writing.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/mem.h"
#include "json_tree.h"
#include "tests/test_data.h"

#include <stdio.h>
#include <stdlib.h>

static char *suite_directory;

static bool parse_file(const char *path, bool *survived)
{
    struct strbuf text = {0}, written = {0};
    struct arena arena = {0};
    struct error err = {""};
    const struct json *root = NULL, *again = NULL;
    assert_int_equal(fs_read(fs_system(), path, &text, &err), 0);
    bool accepted = json_parse(&arena, text.bytes, text.length, &root, &err) == 0;
    if (accepted) {
        struct json_writer w = {.out = &written};
        json_value(&w, root);
        *survived = json_parse(&arena, written.bytes, written.length, &again, &err) == 0 &&
                    json_tree_equal(root, again);
    }
    arena_release(&arena);
    strbuf_release(&written);
    strbuf_release(&text);
    return accepted;
}

static void suite_files_are_judged_as_their_names_say(void **state)
{
    (void)state;
    struct fs_names names;
    struct error err = {""};
    assert_int_equal(fs_list(fs_system(), suite_directory, &names, &err), 0);
    int wrong = 0;
    size_t counts[2] = {0};
    for (size_t i = 0; i < names.count; i++) {
        char *path = fs_join(suite_directory, names.names[i]);
        char kind = names.names[i][0];
        bool survived = true;
        bool accepted = parse_file(path, &survived);
        if ((kind == 'y' && !accepted) || (kind == 'n' && accepted) || !survived) {
            fprintf(stderr, "%s: accepted %d, survived writing %d\n", path, accepted, survived);
            wrong++;
        }
        counts[0] += kind == 'y';
        counts[1] += kind == 'n';
        free(path);
    }
    fs_names_release(&names);
    assert_int_equal(wrong, 0);
    assert_true(counts[0] >= 90 && counts[1] >= 180);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(suite_files_are_judged_as_their_names_say),
    };
    suite_directory = test_data_path("robustness/JSONTestSuite/test_parsing");
    const int rc = suite_directory ? cmocka_run_group_tests(tests, NULL, NULL) : SKIPPED;
    free(suite_directory);
    return rc;
}
