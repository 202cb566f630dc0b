// SPDX-License-Identifier: Apache-2.0
#include "base/fs.h"
#include "collectives/id_file.h"
#include "tests/base/temporary_directory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

enum { BYTES = 128 };

static unsigned char id[BYTES];
static char *path;

static int setup(void **state)
{
    for (size_t i = 0; i < BYTES; i++) {
        id[i] = (unsigned char)(37 * i + 200);
    }
    if (temporary_directory_setup(state) != 0) {
        return -1;
    }
    path = fs_join(*state, "id-17.0-2");
    return 0;
}

static int teardown(void **state)
{
    free(path);
    return temporary_directory_teardown(state);
}

static void published_id_arrives(void **state)
{
    (void)state;
    struct error err = {{0}};
    unsigned char got[BYTES] = {0};
    assert_int_equal(id_file_publish(fs_system(), path, id, BYTES, &err), 0);
    assert_int_equal(id_file_read(fs_system(), path, got, BYTES, &err), 0);
    assert_memory_equal(got, id, BYTES);
    id_file_remove(fs_system(), path);
    assert_false(fs_exists(fs_system(), path));
}

static void id_that_an_earlier_process_left_is_replaced(void **state)
{
    (void)state;
    struct error err = {{0}};
    unsigned char old[BYTES] = {1}, got[BYTES] = {0};
    assert_int_equal(id_file_publish(fs_system(), path, old, BYTES, &err), 0);
    assert_int_equal(id_file_publish(fs_system(), path, id, BYTES, &err), 0);
    assert_int_equal(id_file_read(fs_system(), path, got, BYTES, &err), 0);
    assert_memory_equal(got, id, BYTES);
}

// Every byte changed, every length cut.
static void damaged_id_is_never_taken(void **state)
{
    (void)state;
    struct error err = {{0}};
    struct strbuf text = {0};
    unsigned char got[BYTES];
    assert_int_equal(id_file_publish(fs_system(), path, id, BYTES, &err), 0);
    assert_int_equal(fs_read(fs_system(), path, &text, &err), 0);
    for (size_t i = 0; i < text.length; i += 7) {
        text.bytes[i] ^= 1;
        assert_int_equal(fs_write_text(fs_system(), path, text.bytes, text.length, &err), 0);
        assert_int_equal(id_file_read(fs_system(), path, got, BYTES, &err), -1);
        text.bytes[i] ^= 1;
        assert_int_equal(fs_write_text(fs_system(), path, text.bytes, i, &err), 0);
        assert_int_equal(id_file_read(fs_system(), path, got, BYTES, &err), -1);
    }
    assert_int_equal(fs_write_text(fs_system(), path, text.bytes, text.length, &err), 0);
    assert_int_equal(id_file_read(fs_system(), path, got, BYTES - 1, &err), -1);
    assert_int_equal(id_file_read(fs_system(), path, got, BYTES, &err), 0);
    strbuf_release(&text);
}

static void full_disk_is_an_error_and_leaves_no_id(void **state)
{
    (void)state;
    struct error err = {{0}};
    struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = 100};
    struct fs full = fs_with_faults(&fault);
    assert_int_equal(id_file_publish(&full, path, id, BYTES, &err), -1);
    assert_non_null(strstr(err.text, "o space left"));
    assert_false(fs_exists(fs_system(), path));
}

static void path_names_job_step_and_attempt(void **state)
{
    (void)state;
    struct error err = {{0}};
    char *made = NULL;
    unsetenv("SLURM_JOB_ID");
    assert_int_equal(id_file_path("shared", &made, &err), -1);
    setenv("SLURM_JOB_ID", "17", 1);
    unsetenv("SLURM_STEP_ID");
    unsetenv("SLURM_RESTART_COUNT");
    assert_int_equal(id_file_path("shared", &made, &err), 0);
    assert_string_equal(made, "shared/id-17.0-0");
    free(made);
    setenv("SLURM_STEP_ID", "3", 1);
    setenv("SLURM_RESTART_COUNT", "2", 1);
    assert_int_equal(id_file_path("shared", &made, &err), 0);
    assert_string_equal(made, "shared/id-17.3-2");
    free(made);
}

#define IN_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(published_id_arrives),
        IN_DIRECTORY(id_that_an_earlier_process_left_is_replaced),
        IN_DIRECTORY(damaged_id_is_never_taken),
        IN_DIRECTORY(full_disk_is_an_error_and_leaves_no_id),
        cmocka_unit_test(path_names_job_step_and_attempt),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
