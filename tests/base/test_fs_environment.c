// SPDX-License-Identifier: Apache-2.0
// MEMO_FS_FAULT is read once per process, so each case runs in a child.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/fs.h"
#include "temporary_directory.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KILLED = 77 };

// Writes 5 and then 5 bytes in a child; returns bit 0 and 1 for the writes that succeeded, or
// KILLED.
static int write_twice(const char *directory, const char *fault)
{
    pid_t child = fork();
    if (child == 0) {
        int quiet = open("/dev/null", O_WRONLY);
        dup2(quiet, STDERR_FILENO);
        close(quiet);
        if (fault)
            setenv("MEMO_FS_FAULT", fault, 1);
        else
            unsetenv("MEMO_FS_FAULT");
        struct error err = {""};
        char *first = fs_join(directory, "first");
        char *second = fs_join(directory, "second");
        int done = fs_write_text(fs_system(), first, "12345", 5, &err) == 0;
        setenv("MEMO_FS_FAULT", "enospc:0", 1); // no effect any more
        done |= (fs_write_text(fs_system(), second, "12345", 5, &err) == 0) << 1;
        bool is_full = strstr(err.text, "no space left on device") != NULL;
        free(first);
        free(second);
        _exit(done == 3 || is_full ? done : 99);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL)
        return KILLED;
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void writes_fail_after_the_budget(void **state)
{
    assert_int_equal(write_twice(*state, "enospc:4"), 0);
    assert_int_equal(write_twice(*state, "enospc:5"), 1);
    assert_int_equal(write_twice(*state, "enospc:9"), 1);
    assert_int_equal(write_twice(*state, "enospc:10"), 3);
}

static void the_process_is_killed_after_the_budget(void **state)
{
    struct error err;
    struct fs_names names;
    assert_int_equal(write_twice(*state, "kill:10"), 3);
    assert_int_equal(write_twice(*state, "kill:7"), KILLED);
    // The first file stands; of the second the begin, under a temporary name, and the old one.
    assert_int_equal(fs_list(fs_system(), *state, &names, &err), 0);
    assert_int_equal(names.count, 3);
    assert_string_equal(names.names[0], "first");
    assert_string_equal(names.names[1], "second");
    struct fs_info info;
    char *temporary = fs_join(*state, names.names[2]);
    assert_int_equal(fs_system()->ops->stat(fs_system()->state, temporary, &info), 0);
    assert_int_equal(info.size_bytes, 2);
    free(temporary);
    fs_names_release(&names);
}

static void other_values_have_no_effect(void **state)
{
    assert_int_equal(write_twice(*state, NULL), 3);
    assert_int_equal(write_twice(*state, ""), 3);
    assert_int_equal(write_twice(*state, "enospc"), 3);
    assert_int_equal(write_twice(*state, "enospc:0x"), 3);
    assert_int_equal(write_twice(*state, "kill:"), 3);
    assert_int_equal(write_twice(*state, "kill:0x"), 3);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(writes_fail_after_the_budget),
        TEST(the_process_is_killed_after_the_budget),
        TEST(other_values_have_no_effect),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
