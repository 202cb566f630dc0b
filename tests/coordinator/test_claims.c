// SPDX-License-Identifier: Apache-2.0
// Claims of several jobs on one directory. Time passes by setting the clock of each job and the
// times of modification that the "file server" gives, which have nothing to do with each other.
#include "base/mem.h"
#include "coordinator/claims.h"
#include "coordinator/claims_process.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/base/temporary_directory.h"

#define BLOCKS 8
#define BEAT 1.0
#define STALE 5.0

// The system's files with the times of another clock.
struct server {
    struct fs_ops ops;
    struct fs fs;
    double seconds;
    struct {
        char path[256];
        int handle;
        int64_t ns;
    } files[64];
    size_t count;
};

static struct server *the_server; // of the running test

static int server_open_update(void *state, const char *path, int *handle)
{
    struct server *server = the_server;
    const int rc = fs_system()->ops->open_update(state, path, handle);
    size_t i = 0;
    while (i < server->count && strcmp(server->files[i].path, path) != 0)
        i++;
    assert_true(i < 64);
    if (i == server->count)
        snprintf(server->files[server->count++].path, sizeof(server->files[0].path), "%s", path);
    server->files[i].handle = *handle;
    server->files[i].ns = (int64_t)(server->seconds * 1e9);
    return rc;
}

static int server_stat(void *state, const char *path, struct fs_info *out)
{
    const int rc = fs_system()->ops->stat(state, path, out);
    for (size_t i = 0; i < the_server->count; i++) {
        if (strcmp(the_server->files[i].path, path) == 0)
            out->modified_ns = the_server->files[i].ns;
    }
    return rc;
}

static int setup(void **state)
{
    the_server = mem_calloc(1, sizeof(*the_server));
    the_server->ops = *fs_system()->ops;
    the_server->ops.open_update = server_open_update;
    the_server->ops.stat = server_stat;
    the_server->fs = (struct fs){.ops = &the_server->ops, .state = fs_system()->state};
    return temporary_directory_setup(state);
}

static int teardown(void **state)
{
    free(the_server);
    return temporary_directory_teardown(state);
}

static bool is_gone(const char *process)
{
    return strcmp(process, "gone") == 0;
}

static struct claims *open_job(const char *directory, const char *owner, const char *process,
                               double now)
{
    const struct claims_options options = {.fs = &the_server->fs,
                                           .directory = directory,
                                           .owner = owner,
                                           .process = process,
                                           .blocks = BLOCKS,
                                           .beat_seconds = BEAT,
                                           .stale_seconds = STALE,
                                           .is_gone = is_gone};
    struct claims *claims;
    struct error err;
    assert_int_equal(claims_open(&options, now, &claims, &err), 0);
    return claims;
}

static int take(struct claims *claims, uint32_t block)
{
    struct error err;
    return claims_take(claims, block, &err);
}

static void step(struct claims *claims, double now)
{
    struct error err;
    assert_int_equal(claims_step(claims, now, &err), 0);
}

// Both the server's clock and the job's go on by a beat, `times` times.
static double beats(struct claims *claims, double now, int times)
{
    for (int i = 0; i < times; i++) {
        the_server->seconds += BEAT;
        now += BEAT;
        step(claims, now);
    }
    return now;
}

static void a_block_has_one_owner(void **state)
{
    struct claims *a = open_job(*state, "a", "alive", 0), *b = open_job(*state, "b", "alive", 0);
    for (uint32_t block = 0; block < BLOCKS; block++) {
        assert_int_equal(take(block % 2 ? b : a, block), CLAIM_WON);
        assert_int_equal(take(block % 2 ? a : b, block), CLAIM_REFUSED);
        assert_int_equal(take(block % 2 ? a : b, block), CLAIM_REFUSED);
    }
    step(a, BEAT);
    assert_int_equal(claims_owners(a), 2);
    claims_close(a);
    claims_close(b);
}

static void what_an_owner_leaves_is_taken_over_at_once(void **state)
{
    struct error err;
    struct claims *a = open_job(*state, "a", "alive", 0), *b = open_job(*state, "b", "alive", 0);
    assert_int_equal(take(a, 3), CLAIM_WON);
    assert_int_equal(claims_leave(a, &err), 0);
    assert_true(claims_are_over(a));
    assert_int_equal(take(a, 4), CLAIM_REFUSED);
    step(b, BEAT);
    assert_int_equal(claims_owners(b), 1);
    assert_true(claims_last_over_seconds(b) == BEAT);
    assert_int_equal(take(b, 3), CLAIM_TAKEN_OVER);
    assert_int_equal(take(b, 4), CLAIM_WON);
    claims_close(a);
    claims_close(b);
}

static void a_silent_owner_is_found_dead_and_finds_out(void **state)
{
    struct error err;
    struct claims *a = open_job(*state, "a", "alive", 0), *b = open_job(*state, "b", "alive", 1000);
    char *path = claims_owner_path(*state, "a");
    assert_int_equal(take(a, 0), CLAIM_WON);
    double now = 1000;
    for (int i = 0; i < 5; i++) {
        now = beats(b, now, 1);
        assert_int_equal(take(b, 0), CLAIM_REFUSED);
        assert_int_equal(claims_owner_is_over(&the_server->fs, path, &err), 0);
    }
    now = beats(b, now, 1);
    assert_int_equal(claims_owner_is_over(&the_server->fs, path, &err), 1);
    assert_int_equal(take(b, 0), CLAIM_TAKEN_OVER);
    step(a, 50); // it wakes up
    assert_true(claims_are_over(a));
    assert_int_equal(take(a, 1), CLAIM_REFUSED);
    free(path);
    claims_close(a);
    claims_close(b);
}

static void an_owner_that_beats_lives_whatever_the_clocks_say(void **state)
{
    struct claims *a = open_job(*state, "a", "alive", 0), *b = open_job(*state, "b", "alive", 1e6);
    double now_a = 0, now_b = 1e6;
    assert_int_equal(take(a, 0), CLAIM_WON);
    for (int i = 0; i < 40; i++) {
        now_a = beats(a, now_a, 1);
        now_b = beats(b, now_b, 1);
        the_server->seconds += i % 7 == 3   ? 1000
                               : i % 7 == 5 ? -900
                                            : 0; // the server's clock jumps
        assert_int_equal(take(b, 0), CLAIM_REFUSED);
    }
    assert_false(claims_are_over(a));
    claims_close(a);
    claims_close(b);
}

static void a_looker_that_was_paused_kills_nobody(void **state)
{
    struct claims *a = open_job(*state, "a", "alive", 0), *b = open_job(*state, "b", "alive", 0);
    assert_int_equal(take(a, 0), CLAIM_WON);
    for (int pause = 0; pause < 10; pause++) { // the file server is away for both, b beats first
        the_server->seconds += 10 * STALE;
        step(b, 10 * STALE * (pause + 1));
        assert_int_equal(take(b, 0), CLAIM_REFUSED);
    }
    step(a, 500);
    assert_false(claims_are_over(a));
    claims_close(a);
    claims_close(b);
}

static void a_process_that_is_known_to_be_gone_is_not_waited_for(void **state)
{
    struct claims *a = open_job(*state, "a", "gone", 0);
    assert_int_equal(take(a, 0), CLAIM_WON);
    struct claims *b = open_job(*state, "b", "alive", 0);
    assert_int_equal(take(b, 0), CLAIM_TAKEN_OVER);
    step(a, BEAT);
    assert_true(claims_are_over(a));
    claims_close(a);
    claims_close(b);
}

static void of_two_takers_one_succeeds(void **state)
{
    struct claims *a = open_job(*state, "a", "gone", 0);
    assert_int_equal(take(a, 0), CLAIM_WON);
    assert_int_equal(take(a, 1), CLAIM_WON);
    struct claims *b = open_job(*state, "b", "alive", 0), *c = open_job(*state, "c", "alive", 0);
    assert_int_equal(take(b, 0), CLAIM_TAKEN_OVER);
    assert_int_equal(take(c, 0), CLAIM_REFUSED);
    assert_int_equal(take(c, 1), CLAIM_TAKEN_OVER);
    assert_int_equal(take(b, 1), CLAIM_REFUSED);
    claims_close(a);
    claims_close(b);
    claims_close(c);
}

static void an_owner_without_a_readable_file_is_over(void **state)
{
    struct claims *a = open_job(*state, "a", "alive", 0);
    assert_int_equal(take(a, 0), CLAIM_WON);
    char *path = claims_owner_path(*state, "a");
    struct claims *b = open_job(*state, "b", "alive", 0);
    assert_int_equal(take(b, 0), CLAIM_REFUSED);
    assert_int_equal(truncate(path, 10), 0);
    step(b, BEAT);
    assert_int_equal(take(b, 0), CLAIM_TAKEN_OVER);
    assert_int_equal(unlink(path), 0);
    step(a, BEAT);
    assert_true(claims_are_over(a));
    free(path);
    claims_close(a);
    claims_close(b);
}

static void names_that_are_no_claims_are_not_looked_at(void **state)
{
    struct claims *a = open_job(*state, "a", "alive", 0);
    char *stray = mem_printf("%s/owners/x.tmp-1-2", (char *)*state);
    FILE *file = fopen(stray, "w");
    assert_non_null(file);
    fclose(file);
    step(a, BEAT);
    assert_int_equal(claims_owners(a), 1);
    free(stray);
    claims_close(a);
}

static bool exists(const char *directory, const char *name)
{
    char *path = fs_join(directory, name);
    const bool found = fs_exists(fs_system(), path);
    free(path);
    return found;
}

static void leave_and_remove(struct claims *claims)
{
    struct error err;
    assert_int_equal(claims_leave(claims, &err), 0);
    assert_int_equal(claims_remove(claims, &err), 0);
    claims_close(claims);
}

static void the_last_job_removes_the_files(void **state)
{
    char *directory = fs_join(*state, "claims");
    struct claims *a = open_job(directory, "a", "alive", 0);
    struct claims *b = open_job(directory, "b", "alive", 0);
    assert_int_equal(take(a, 0), CLAIM_WON);
    assert_int_equal(take(b, 1), CLAIM_WON);
    leave_and_remove(a);
    assert_true(exists(directory, "owners/a"));
    assert_true(exists(directory, "blocks/00000000.1"));
    step(b, BEAT);
    assert_false(claims_are_over(b));
    leave_and_remove(b);
    assert_false(exists(*state, "claims"));
    free(directory);
}

// c begins while b removes: after b has looked who is there.
static void a_job_that_begins_during_the_removal_keeps_its_file(void **state)
{
    struct error err;
    char *directory = fs_join(*state, "claims");
    struct claims *b = open_job(directory, "b", "alive", 0);
    struct claims *same = open_job(directory, "d", "alive", 0);
    assert_int_equal(take(b, 1), CLAIM_WON);
    assert_int_equal(claims_leave(b, &err), 0);
    assert_int_equal(claims_leave(same, &err), 0);
    assert_int_equal(claims_remove(same, &err), 0); // both are the last: one is first
    assert_false(exists(directory, "owners"));
    struct claims *c = open_job(directory, "c", "alive", 0);
    assert_int_equal(claims_remove(b, &err), 0);
    assert_true(exists(directory, "owners/c"));
    step(c, BEAT);
    assert_false(claims_are_over(c));
    claims_close(b);
    claims_close(same);
    leave_and_remove(c);
    assert_false(exists(*state, "claims"));
    free(directory);
}

// Each operation on files fails once, among them those after the claim stands: the block is never
// lost to the job itself.
static void a_failing_disk_is_an_error_that_can_be_tried_again(void **state)
{
    struct error err;
    size_t failed = 0;
    for (int64_t at = 1; at <= 16; at++) {
        char *directory = mem_printf("%s/%d", (char *)*state, (int)at);
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = UINT64_MAX};
        struct fs fs = fs_with_faults(&fault);
        const struct claims_options options = {.fs = &fs,
                                               .directory = directory,
                                               .owner = "a",
                                               .process = "alive",
                                               .blocks = 1,
                                               .beat_seconds = BEAT,
                                               .stale_seconds = STALE};
        struct claims *claims;
        assert_int_equal(claims_open(&options, 0, &claims, &err), 0);
        fault.fail_operation = at;
        int won = claims_take(claims, 0, &err);
        failed += won < 0;
        if (won < 0)
            won = claims_take(claims, 0, &err);
        assert_true(won == CLAIM_WON || won == CLAIM_TAKEN_OVER);
        claims_close(claims);
        free(directory);
    }
    assert_true(failed >= 6);
}

static void a_process_knows_whether_another_one_has_ended(void **state)
{
    (void)state;
    char self[CLAIMS_PROCESS_BYTES], child[CLAIMS_PROCESS_BYTES];
    int pipes[2];
    claims_process_describe(self);
    assert_false(claims_process_is_gone(self));
    assert_false(claims_process_is_gone(""));
    assert_false(claims_process_is_gone("elsewhere boot pid:[1] 99999999 5 - 0"));
    assert_int_equal(pipe(pipes), 0);
    const pid_t pid = fork();
    if (pid == 0) {
        claims_process_describe(child);
        _exit(write(pipes[1], child, sizeof(child)) == sizeof(child) ? 0 : 1);
    }
    assert_int_equal(read(pipes[0], child, sizeof(child)), sizeof(child));
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_true(claims_process_is_gone(child));
    close(pipes[0]);
    close(pipes[1]);
}

static void slurm_starts_a_job_again_only_when_it_has_ended(void **state)
{
    (void)state;
    char first[CLAIMS_PROCESS_BYTES], second[CLAIMS_PROCESS_BYTES];
    setenv("SLURM_JOB_ID", "77", 1);
    claims_process_describe(first);
    setenv("SLURM_RESTART_COUNT", "1", 1);
    claims_process_describe(second);
    assert_true(claims_process_is_gone(first));
    assert_false(claims_process_is_gone(second));
    setenv("SLURM_JOB_ID", "78", 1);
    assert_false(claims_process_is_gone(first));
    unsetenv("SLURM_JOB_ID");
    unsetenv("SLURM_RESTART_COUNT");
}

#define test(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(a_block_has_one_owner),
        test(what_an_owner_leaves_is_taken_over_at_once),
        test(a_silent_owner_is_found_dead_and_finds_out),
        test(an_owner_that_beats_lives_whatever_the_clocks_say),
        test(a_looker_that_was_paused_kills_nobody),
        test(a_process_that_is_known_to_be_gone_is_not_waited_for),
        test(of_two_takers_one_succeeds),
        test(an_owner_without_a_readable_file_is_over),
        test(the_last_job_removes_the_files),
        test(a_job_that_begins_during_the_removal_keeps_its_file),
        test(names_that_are_no_claims_are_not_looked_at),
        test(a_failing_disk_is_an_error_that_can_be_tried_again),
        test(a_process_knows_whether_another_one_has_ended),
        test(slurm_starts_a_job_again_only_when_it_has_ended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
