// SPDX-License-Identifier: Apache-2.0
// A file system without RENAME_NOREPLACE: this file's renameat2 takes the place of the C library's.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/fs.h"
#include "temporary_directory.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static int renameat2_errno;
static int renameat2_calls;

int renameat2(int old_directory, const char *from, int new_directory, const char *to,
              unsigned int flags)
{
    (void)old_directory;
    (void)from;
    (void)new_directory;
    (void)to;
    (void)flags;
    renameat2_calls++;
    errno = renameat2_errno;
    return -1;
}

static void rename_falls_back_to_link_and_unlink(void **state)
{
    static const int missing[] = {EINVAL, ENOSYS, EOPNOTSUPP};
    struct fs_part part = {"new", 3};
    for (size_t i = 0; i < 3; i++) {
        char *name = mem_printf("file%zu", i);
        char *path = fs_join(*state, name);
        struct error err = {""};
        renameat2_errno = missing[i];
        renameat2_calls = 0;
        assert_int_equal(fs_write_atomic(fs_system(), path, &part, 1, false, &err), 0);
        assert_int_equal(fs_write_atomic(fs_system(), path, &part, 1, false, &err), -1);
        assert_non_null(strstr(err.text, "file exists"));
        assert_int_equal(renameat2_calls, 2);
        free(path);
        free(name);
    }
    struct fs_names names;
    struct error err = {""};
    assert_int_equal(fs_list(fs_system(), *state, &names, &err), 0);
    assert_int_equal(names.count, 3); // no temporary file
    fs_names_release(&names);
}

// NFS repeats a link whose answer was lost and then reports EEXIST, although it was made by us.
static void link_made_before_the_error_counts_as_success(void **state)
{
    char *from = fs_join(*state, "from");
    char *to = fs_join(*state, "to");
    struct fs *fs = fs_system();
    struct error err = {""};
    renameat2_errno = EINVAL;
    assert_int_equal(fs_write_text(fs, from, "x", 1, &err), 0);
    assert_int_equal(link(from, to), 0);
    assert_int_equal(fs->ops->rename(fs->state, from, to, false), 0);
    assert_false(fs_exists(fs, from));
    assert_true(fs_exists(fs, to));
    free(from);
    free(to);
}

static void other_errors_do_not_fall_back(void **state)
{
    char *path = fs_join(*state, "file");
    struct fs_part part = {"new", 3};
    struct error err = {""};
    renameat2_errno = EACCES;
    assert_int_equal(fs_write_atomic(fs_system(), path, &part, 1, false, &err), -1);
    assert_non_null(strstr(err.text, "permission denied"));
    assert_false(fs_exists(fs_system(), path));
    free(path);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(rename_falls_back_to_link_and_unlink),
        TEST(link_made_before_the_error_counts_as_success),
        TEST(other_errors_do_not_fall_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
