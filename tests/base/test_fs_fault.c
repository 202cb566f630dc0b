// SPDX-License-Identifier: Apache-2.0
// Every operation of an atomic write fails in turn, and the disk fills up at every byte.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/fs.h"
#include "temporary_directory.h"

#include <errno.h>
#include <string.h>

static const struct fs_part new_parts[] = {{"new ", 4}, {"content", 7}};

static size_t count_entries(const char *directory)
{
    struct fs_names names;
    struct error err = {""};
    assert_int_equal(fs_list(fs_system(), directory, &names, &err), 0);
    size_t count = names.count;
    fs_names_release(&names);
    return count;
}

static void assert_content(const char *path, const char *text)
{
    struct strbuf content = {0};
    struct error err = {""};
    assert_int_equal(fs_read(fs_system(), path, &content, &err), 0);
    assert_string_equal(content.bytes, text);
    strbuf_release(&content);
}

// Fails operation 1, 2, ... of writing a new file, until one needs fewer operations and succeeds.
// Returns how many failed; each left the directory empty.
static int fail_each_operation(const char *directory, bool replace)
{
    char *path = fs_join(directory, "file");
    int failures = 0;
    for (;;) {
        struct fs_fault fault = {fs_system(), UINT64_MAX, failures + 1, 0};
        struct fs fs = fs_with_faults(&fault);
        struct error err = {""};
        if (fs_write_atomic(&fs, path, new_parts, 2, replace, &err) == 0)
            break;
        failures++;
        assert_non_null(strstr(err.text, "file': input/output error"));
        assert_int_equal(count_entries(directory), 0);
    }
    assert_content(path, "new content");
    assert_int_equal(count_entries(directory), 1);
    free(path);
    return failures;
}

static void failed_operations_leave_nothing_without_replacing(void **state)
{
    // create, write, write, sync, close, rename, sync_directory
    assert_int_equal(fail_each_operation(*state, false), 7);
}

static void failed_operations_leave_nothing_with_replacing(void **state)
{
    // the same and stat
    assert_int_equal(fail_each_operation(*state, true), 8);
}

static void failed_operations_keep_the_old_file_until_renamed(void **state)
{
    char *path = fs_join(*state, "file");
    struct error err = {""};
    for (int64_t operation = 1; operation <= 7; operation++) {
        assert_int_equal(fs_write_text(fs_system(), path, "old", 3, &err), 0);
        struct fs_fault fault = {fs_system(), UINT64_MAX, operation, 0};
        struct fs fs = fs_with_faults(&fault);
        assert_int_equal(fs_write_atomic(&fs, path, new_parts, 2, true, &err), -1);
        assert_content(path, "old");
        assert_int_equal(count_entries(*state), 1);
    }
    struct fs_fault fault = {fs_system(), UINT64_MAX, 8, 0}; // the directory's sync
    struct fs fs = fs_with_faults(&fault);
    assert_int_equal(fs_write_atomic(&fs, path, new_parts, 2, true, &err), -1);
    assert_content(path, "new content");
    assert_int_equal(count_entries(*state), 1);
    free(path);
}

static void full_disk_leaves_nothing_at_any_byte(void **state)
{
    char *path = fs_join(*state, "file");
    struct error err = {""};
    for (uint64_t budget = 0; budget < 11; budget++) {
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = budget};
        struct fs fs = fs_with_faults(&fault);
        assert_int_equal(fs_write_atomic(&fs, path, new_parts, 2, false, &err), -1);
        assert_non_null(strstr(err.text, "file': no space left on device"));
        assert_int_equal(fault.write_budget_bytes, 0);
        assert_int_equal(count_entries(*state), 0);
    }
    struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = 11};
    struct fs fs = fs_with_faults(&fault);
    assert_int_equal(fs_write_atomic(&fs, path, new_parts, 2, false, &err), 0);
    assert_content(path, "new content");
    free(path);
}

static void full_disk_stores_what_fits(void **state)
{
    char *path = fs_join(*state, "file");
    struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = 5};
    struct fs fs = fs_with_faults(&fault);
    int handle;
    assert_int_equal(fs.ops->create(fs.state, path, true, &handle), 0);
    assert_int_equal(fs.ops->write(fs.state, handle, "abc", 3), 0);
    assert_int_equal(fs.ops->write(fs.state, handle, "def", 3), -ENOSPC);
    assert_int_equal(fs.ops->close(fs.state, handle), 0);
    assert_content(path, "abcde");
    free(path);
}

static int ignore_name(void *context, const char *name)
{
    (void)context;
    (void)name;
    return 0;
}

static void every_operation_of_the_table_can_fail(void **state)
{
    const char *directory = *state;
    char *path = fs_join(directory, "file");
    struct error err = {""};
    assert_int_equal(fs_write_text(fs_system(), path, "old", 3, &err), 0);
    struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = UINT64_MAX};
    struct fs fs = fs_with_faults(&fault);
    struct strbuf out = {0};
    struct fs_info info;
    int handle;
    for (int operation = 0; operation < 8; operation++) {
        fault.fail_operation = 1;
        int rc = operation == 0   ? fs.ops->create(fs.state, path, false, &handle)
                 : operation == 1 ? fs.ops->rename(fs.state, path, path, true)
                 : operation == 2 ? fs.ops->sync_directory(fs.state, directory)
                 : operation == 3 ? fs.ops->remove(fs.state, path)
                 : operation == 4 ? fs.ops->make_directory(fs.state, path)
                 : operation == 5 ? fs.ops->read(fs.state, path, &out)
                 : operation == 6 ? fs.ops->stat(fs.state, path, &info)
                                  : fs.ops->list(fs.state, directory, ignore_name, NULL);
        assert_int_equal(rc, -EIO);
        assert_int_equal(fault.fail_operation, 0);
    }
    assert_int_equal(fault.operations, 8);
    assert_content(path, "old");
    assert_int_equal(fs.ops->read(fs.state, path, &out), 0);
    assert_string_equal(out.bytes, "old");
    strbuf_release(&out);
    free(path);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(failed_operations_leave_nothing_without_replacing),
        TEST(failed_operations_leave_nothing_with_replacing),
        TEST(failed_operations_keep_the_old_file_until_renamed),
        TEST(full_disk_leaves_nothing_at_any_byte),
        TEST(full_disk_stores_what_fits),
        TEST(every_operation_of_the_table_can_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
