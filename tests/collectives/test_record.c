// SPDX-License-Identifier: Apache-2.0
// Ranks over shared memory of which one hangs, dies or disagrees: the others say the same, one of
// them speaks, and the records tell who was missing.
#include "base/clock.h"
#include "base/fs.h"
#include "collectives/flight.h"
#include "collectives/group.h"
#include "tests/base/temporary_directory.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

enum { RANKS = 3, CALLS = 20 };

enum fault { FAULT_STOP, FAULT_KILL, FAULT_SLEEP, FAULT_OTHER_CALL, FAULT_AGREED };

struct job {
    const char *directory;
    enum fault fault;
    int victim;
};

static void leave_result(const struct job *job, const struct group *group, const struct error *err)
{
    struct error ignored;
    char *path = mem_printf("%s/%s-%d", job->directory, group_speaks(group) ? "speaks" : "silent",
                            group_rank(group));
    (void)fs_write_text(fs_system(), path, err->text, strlen(err->text), &ignored);
    free(path);
}

static int go_wrong(struct group *group, const struct job *job, struct error *err)
{
    struct timespec nap = {.tv_sec = 4};
    switch (job->fault) {
    case FAULT_STOP:
        raise(SIGSTOP);
        break;
    case FAULT_KILL:
        raise(SIGKILL);
        break;
    case FAULT_SLEEP:
        nanosleep(&nap, NULL);
        break;
    case FAULT_OTHER_CALL:
        return group_barrier(group, err);
    case FAULT_AGREED:
        break;
    }
    return 0;
}

static int make_calls(struct group *group, const struct job *job, struct error *err)
{
    float data[100] = {0};
    for (int call = 0; call < CALLS; call++) {
        group_set_step(group, (uint64_t)call / 2);
        if (call == CALLS / 2 && group_rank(group) == job->victim && go_wrong(group, job, err)) {
            return -1;
        }
        if (call == CALLS / 2 && job->fault == FAULT_AGREED) {
            const bool bad = group_rank(group) == job->victim;
            if (bad) {
                error_set(err, "disk 3 is full");
            }
            return group_agree(group, bad ? -1 : 0, err);
        }
        if (group_all_reduce_f32(group, data, 100, err)) {
            return -1;
        }
    }
    return error_set(err, "nothing went wrong");
}

static int run_rank(struct group *group, void *context, struct error *err)
{
    const struct job *job = context;
    char *records = fs_join(job->directory, "flight");
    group_set_deadline(group, 0.5);
    int rc = group_record(group, records, err);
    if (rc == 0) {
        rc = make_calls(group, job, err);
        leave_result(job, group, err);
    }
    free(records);
    return rc;
}

static int count_files(const char *directory, const char *prefix)
{
    struct error err = {{0}};
    struct fs_names names;
    int count = 0;
    assert_int_equal(fs_list(fs_system(), directory, &names, &err), 0);
    for (size_t i = 0; i < names.count; i++) {
        count += strncmp(names.names[i], prefix, strlen(prefix)) == 0;
    }
    fs_names_release(&names);
    return count;
}

static void survey(const struct job *job, int missing, struct strbuf *out)
{
    struct error err = {{0}};
    char *records = fs_join(job->directory, "flight");
    assert_int_equal(flight_survey(fs_system(), records, out, &err), missing);
    free(records);
}

// The ranks that are left all have the same message, and one of them speaks.
static void assert_one_message(const char *directory)
{
    struct error err = {{0}};
    struct fs_names names;
    struct strbuf first = {0};
    assert_int_equal(count_files(directory, "speaks-"), 1);
    assert_int_equal(fs_list(fs_system(), directory, &names, &err), 0);
    for (size_t i = 0; i < names.count; i++) {
        struct strbuf text = {0};
        char *path = fs_join(directory, names.names[i]);
        if (strncmp(names.names[i], "s", 1) == 0) {
            assert_int_equal(fs_read(fs_system(), path, &text, &err), 0);
            if (first.length == 0) {
                strbuf_adds(&first, text.bytes);
            }
            assert_string_equal(text.bytes, first.bytes);
        }
        free(path);
        strbuf_release(&text);
    }
    strbuf_release(&first);
    fs_names_release(&names);
}

static void missing_rank_is_named(const struct job *job)
{
    struct error err = {{0}};
    char want[128];
    struct strbuf text = {0};
    assert_int_equal(group_run_shm(RANKS, run_rank, (void *)job, &err), -1);
    snprintf(want, sizeof(want),
             "rank %d has not entered all-reduce f32 number 12 at step 5 (shm, 400 bytes)",
             job->victim);
    assert_one_message(job->directory);
    survey(job, 1, &text);
    assert_non_null(strstr(text.bytes, want));
    if (job->victim != 0) { // whose own word is the caller's
        assert_non_null(strstr(err.text, want));
        assert_non_null(strstr(err.text, "all-reduce f32 number 12, step 5: "));
    }
    strbuf_release(&text);
}

static void stopped_rank_is_named_and_ended(void **state)
{
    const struct job job = {*state, FAULT_STOP, 2};
    missing_rank_is_named(&job);
}

static void killed_rank_is_named(void **state)
{
    const struct job job = {*state, FAULT_KILL, 1};
    missing_rank_is_named(&job);
}

// It comes back when the others have ended: what it then writes must not hide that it was missing.
static void late_rank_is_named(void **state)
{
    const struct job job = {*state, FAULT_SLEEP, 0};
    struct error err = {{0}};
    struct strbuf text = {0};
    assert_int_equal(group_run_shm(RANKS, run_rank, (void *)&job, &err), -1);
    assert_one_message(*state);
    survey(&job, 1, &text);
    assert_non_null(
        strstr(text.bytes, "rank 0 has not entered all-reduce f32 number 12 at step 5"));
    assert_non_null(strstr(err.text, "rank 0 has not entered"));
    strbuf_release(&text);
}

static void rank_in_another_call_is_named(void **state)
{
    const struct job job = {*state, FAULT_OTHER_CALL, 1};
    struct error err = {{0}};
    struct strbuf text = {0};
    assert_int_equal(group_run_shm(RANKS, run_rank, (void *)&job, &err), -1);
    assert_one_message(*state);
    survey(&job, 1, &text);
    assert_non_null(strstr(text.bytes, "rank 1 has not entered all-reduce f32 number 12"));
    assert_non_null(strstr(text.bytes, "it is in barrier number 12 at step 5"));
    strbuf_release(&text);
}

static void agreed_failure_leaves_records_of_all_and_names_nobody(void **state)
{
    const struct job job = {*state, FAULT_AGREED, 2};
    struct error err = {{0}};
    struct strbuf text = {0};
    char *records = fs_join(*state, "flight");
    assert_int_equal(group_run_shm(RANKS, run_rank, (void *)&job, &err), -1);
    assert_string_equal(err.text, "rank 2: disk 3 is full");
    assert_int_equal(count_files(*state, "speaks-0"), 1);
    assert_int_equal(count_files(*state, "silent-"), RANKS - 1);
    assert_int_equal(count_files(records, "rank-"), RANKS);
    survey(&job, 0, &text);
    free(records);
    strbuf_release(&text);
}

static void older_records_are_cleared(void **state)
{
    const struct job job = {*state, FAULT_AGREED, 0};
    struct error err = {{0}};
    char *records = fs_join(*state, "flight");
    char *old = fs_join(records, "rank-0007.json"), *mark = fs_join(records, "failed");
    assert_int_equal(fs_make_directories(fs_system(), records, &err), 0);
    assert_int_equal(fs_write_text(fs_system(), old, "x", 1, &err), 0);
    assert_int_equal(fs_write_text(fs_system(), mark, "x", 1, &err), 0);
    assert_int_equal(group_run_shm(RANKS, run_rank, (void *)&job, &err), -1);
    assert_string_equal(err.text, "disk 3 is full");
    assert_false(fs_exists(fs_system(), old));
    assert_false(fs_exists(fs_system(), mark));
    free(old);
    free(mark);
    free(records);
}

static void directory_that_cannot_be_made_is_an_error_on_all(void **state)
{
    struct error err = {{0}};
    char *file = fs_join(*state, "flight");
    const struct job job = {*state, FAULT_AGREED, 0};
    assert_int_equal(fs_write_text(fs_system(), file, "x", 1, &err), 0);
    assert_int_equal(group_run_shm(RANKS, run_rank, (void *)&job, &err), -1);
    assert_non_null(strstr(err.text, "/flight'"));
    assert_int_equal(count_files(*state, "s"), 0);
    free(file);
}

#define IN_DIRECTORY(test)                                                                         \
    cmocka_unit_test_setup_teardown(test, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(stopped_rank_is_named_and_ended),
        IN_DIRECTORY(killed_rank_is_named),
        IN_DIRECTORY(late_rank_is_named),
        IN_DIRECTORY(rank_in_another_call_is_named),
        IN_DIRECTORY(agreed_failure_leaves_records_of_all_and_names_nobody),
        IN_DIRECTORY(older_records_are_cleared),
        IN_DIRECTORY(directory_that_cannot_be_made_is_an_error_on_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
