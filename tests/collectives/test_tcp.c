// SPDX-License-Identifier: Apache-2.0
// Ranks over TCP: processes that nobody but this test started, with the environment that srun
// --mpi=none gives them. All traffic is on loopback.
#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "collectives/flight.h"
#include "collectives/id_file.h"
#include "group_checks.h"
#include "tests/base/temporary_directory.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { RANKS_LIMIT = 8 };

// As in collectives/tcp_meet.c.
struct place {
    unsigned char secret[16];
    uint32_t addresses[8];
    uint16_t port;
    uint16_t unused;
};

struct job {
    int ranks;
    int (*body)(struct group *group, struct error *err);
    int absent;          // this rank never comes; 0: all do (rank 0 comes, unless without_zero)
    bool without_zero;   // rank 0 never comes
    double zero_late;    // seconds
    double meet_seconds; // 0: 20
    double deadline;     // of calls; 0: 20
    const char *directory;
    const char *records; // of flight; NULL: none
};

struct outcome {
    int rc;
    int status; // of the process
    struct error err;
};

static void nap(double seconds)
{
    struct timespec pause = {.tv_sec = (time_t)seconds,
                             .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&pause, NULL);
}

static void set_number(const char *name, int value)
{
    char text[16];
    snprintf(text, sizeof(text), "%d", value);
    setenv(name, text, 1);
}

static void set_environment(const struct job *job, int rank)
{
    unsetenv("OMPI_COMM_WORLD_SIZE");
    unsetenv("PMIX_RANK");
    set_number("SLURM_PROCID", rank);
    set_number("SLURM_STEP_NUM_TASKS", job->ranks);
    setenv("SLURM_STEP_NUM_NODES", "1", 1);
    setenv("SLURM_JOB_ID", "17", 1);
    setenv("SLURM_STEP_ID", "0", 1);
}

static int run_rank(const struct job *job, int rank, struct error *err)
{
    struct group *group = NULL;
    set_environment(job, rank);
    if (rank == 0)
        nap(job->zero_late);
    if (group_open_meeting(job->directory, job->meet_seconds > 0 ? job->meet_seconds : 20, &group,
                           err))
        return -1;
    group_set_deadline(group, job->deadline > 0 ? job->deadline : 20);
    int rc = job->records ? group_record(group, job->records, err) : 0;
    if (rc == 0)
        rc = job->body(group, err);
    group_close(group);
    return rc;
}

static bool comes(const struct job *job, int rank)
{
    return rank == 0 ? !job->without_zero : rank != job->absent;
}

// What became of every rank. The processes end by themselves, or by their own signals.
static void run_job(const struct job *job, struct outcome *out)
{
    struct outcome *shared = mmap(NULL, RANKS_LIMIT * sizeof(*shared), PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t pids[RANKS_LIMIT] = {0};
    assert_true(shared != MAP_FAILED && job->ranks <= RANKS_LIMIT);
    for (int r = 0; r < job->ranks; r++) {
        if (!comes(job, r))
            continue;
        pids[r] = fork();
        if (pids[r] == 0) {
            shared[r].rc = run_rank(job, r, &shared[r].err);
            _exit(0);
        }
    }
    for (int r = 0; r < job->ranks; r++)
        if (pids[r] > 0)
            assert_int_equal(waitpid(pids[r], &shared[r].status, 0), pids[r]);
    memcpy(out, shared, RANKS_LIMIT * sizeof(*shared));
    munmap(shared, RANKS_LIMIT * sizeof(*shared));
}

static void run_well(const struct job *job)
{
    struct outcome outcomes[RANKS_LIMIT];
    run_job(job, outcomes);
    for (int r = 0; r < job->ranks; r++)
        if (comes(job, r) && (outcomes[r].rc != 0 || outcomes[r].status != 0))
            fail_msg("rank %d: %s", r, outcomes[r].err.text);
}

static void assert_says(const struct outcome *outcome, const char *want)
{
    assert_int_equal(outcome->rc, -1);
    if (strstr(outcome->err.text, want) == NULL)
        fail_msg("'%s' does not say '%s'", outcome->err.text, want);
}

// --- sums and moves ---

static int run_checks(struct group *group, struct error *err)
{
    int rc = 0;
    for (const struct group_check *check = group_checks; rc == 0 && check->name; check++)
        rc = group_agree(group, check->run(group, NULL, err), err);
    return rc;
}

static void calls_work_with_1_to_5_ranks(void **state)
{
    for (int ranks = 1; ranks <= 5; ranks++)
        run_well(&(struct job){.ranks = ranks, .body = run_checks, .directory = *state});
    struct fs_names names;
    struct error err = {{0}};
    assert_int_equal(fs_list(fs_system(), *state, &names, &err), 0);
    assert_int_equal(names.count, 0); // the file is gone once all have met
    fs_names_release(&names);
}

static int check_description(struct group *group, struct error *err)
{
    const bool good = strcmp(group_transport(group), "tcp") == 0 && group_size(group) == 3 &&
                      group_rank(group) == atoi(getenv("SLURM_PROCID")) &&
                      group_local_rank(group) == group_rank(group) && group_local_size(group) == 3;
    return good ? group_barrier(group, err) : error_set(err, "wrong description");
}

static void group_describes_itself(void **state)
{
    run_well(&(struct job){.ranks = 3, .body = check_description, .directory = *state});
}

// --- the meeting ---

static int only_meet(struct group *group, struct error *err)
{
    return group_barrier(group, err);
}

static char *id_path(const char *directory)
{
    return fs_join(directory, "id-17.0-0");
}

static void publish(const char *directory, const struct place *place)
{
    struct error err = {{0}};
    char *path = id_path(directory);
    assert_int_equal(id_file_publish(fs_system(), path, place, sizeof(*place), &err), 0);
    free(path);
}

static int listen_on_loopback(struct place *place)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof(address);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &length), 0);
    place->addresses[0] = address.sin_addr.s_addr;
    place->port = address.sin_port;
    return fd;
}

// Of an attempt that nobody listens to any more.
static void file_of_an_earlier_attempt_is_not_believed(void **state)
{
    struct place place = {.secret = {1}};
    close(listen_on_loopback(&place));
    publish(*state, &place);
    run_well(&(struct job){.ranks = 3, .body = only_meet, .zero_late = 0.3, .directory = *state});
}

// The port is another program's by now, which closes what it does not know.
static void port_that_is_somebody_elses_is_left(void **state)
{
    struct place place = {.secret = {1}};
    const int fd = listen_on_loopback(&place);
    publish(*state, &place);
    const pid_t other = fork();
    if (other == 0) {
        for (;;) {
            const int connection = accept(fd, NULL, NULL);
            if (connection >= 0)
                close(connection);
        }
    }
    run_well(&(struct job){.ranks = 3, .body = only_meet, .zero_late = 0.3, .directory = *state});
    kill(other, SIGKILL);
    assert_int_equal(waitpid(other, NULL, 0), other);
    close(fd);
}

static void torn_file_is_read_again(void **state)
{
    struct error err = {{0}};
    struct strbuf text = {0};
    struct place place = {.secret = {1}};
    char *path = id_path(*state);
    publish(*state, &place);
    assert_int_equal(fs_read(fs_system(), path, &text, &err), 0);
    assert_int_equal(fs_write_text(fs_system(), path, text.bytes, text.length / 2, &err), 0);
    struct outcome outcomes[RANKS_LIMIT];
    run_job(&(struct job){.ranks = 2,
                          .body = only_meet,
                          .without_zero = true,
                          .meet_seconds = 0.3,
                          .directory = *state},
            outcomes);
    assert_says(&outcomes[1], "rank 1 of 2 found no rank 0 within 0 s: '");
    assert_says(&outcomes[1], "' does not hold an id of ");
    run_well(&(struct job){.ranks = 3, .body = only_meet, .zero_late = 0.3, .directory = *state});
    strbuf_release(&text);
    free(path);
}

static void rank_that_never_comes_is_named_on_every_rank(void **state)
{
    struct outcome outcomes[RANKS_LIMIT];
    run_job(
        &(struct job){
            .ranks = 4, .body = only_meet, .absent = 2, .meet_seconds = 1, .directory = *state},
        outcomes);
    assert_says(&outcomes[0], "rank 2 of 4 did not come within 1 s: have they started");
    assert_says(&outcomes[1], "rank 0: rank 2 of 4 did not come within 1 s");
    assert_says(&outcomes[3], "rank 0: rank 2 of 4 did not come within 1 s");
}

static void missing_rank_0_is_told(void **state)
{
    struct outcome outcomes[RANKS_LIMIT];
    run_job(&(struct job){.ranks = 2,
                          .body = only_meet,
                          .without_zero = true,
                          .meet_seconds = 0.5,
                          .directory = *state},
            outcomes);
    assert_says(&outcomes[1], "found no rank 0 within 0 s");
    assert_says(&outcomes[1], "o such file");
}

static void directory_that_is_not_there_is_an_error(void **state)
{
    (void)state;
    struct outcome outcomes[RANKS_LIMIT];
    run_job(
        &(struct job){
            .ranks = 2, .body = only_meet, .meet_seconds = 0.3, .directory = "/nonexistent/here"},
        outcomes);
    assert_says(&outcomes[0], "/nonexistent/here");
    assert_says(&outcomes[1], "/nonexistent/here");
}

// Reads the place as a rank would, and sends something else than a hello.
static void send_garbage(const char *directory, size_t bytes)
{
    struct place place;
    struct error err;
    char *path = id_path(directory);
    const double begin = clock_seconds();
    while (id_file_read(fs_system(), path, &place, sizeof(place), &err) &&
           clock_seconds() - begin < 20)
        nap(0.01);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = place.port};
    to.sin_addr.s_addr = place.addresses[0];
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    unsigned char garbage[4096];
    memset(garbage, 'x', sizeof(garbage));
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
        (void)send(fd, garbage, bytes, MSG_NOSIGNAL);
    close(fd);
    free(path);
}

static void strangers_are_sent_away(void **state)
{
    const pid_t stranger = fork();
    if (stranger == 0) {
        send_garbage(*state, 4096);
        send_garbage(*state, 3);
        send_garbage(*state, 0);
        _exit(0);
    }
    struct outcome outcomes[RANKS_LIMIT];
    // Rank 1 never comes, so that rank 0 listens until the end.
    run_job(
        &(struct job){
            .ranks = 3, .body = only_meet, .absent = 1, .meet_seconds = 1, .directory = *state},
        outcomes);
    assert_int_equal(waitpid(stranger, NULL, 0), stranger);
    assert_says(&outcomes[0], "rank 1 of 3 did not come");
    assert_says(&outcomes[2], "rank 0: rank 1 of 3 did not come");
}

static void second_process_of_one_rank_is_not_taken(void **state)
{
    const pid_t second = fork();
    if (second == 0) {
        struct error err = {{0}};
        const struct job twin = {
            .ranks = 3, .body = only_meet, .meet_seconds = 1, .directory = *state};
        nap(0.4);
        const int rc = run_rank(&twin, 1, &err);
        _exit(rc != 0 && strstr(err.text, "does not take this rank") ? 0 : 1);
    }
    struct outcome outcomes[RANKS_LIMIT];
    run_job(
        &(struct job){
            .ranks = 3, .body = only_meet, .absent = 2, .meet_seconds = 2, .directory = *state},
        outcomes);
    int status = 1;
    assert_int_equal(waitpid(second, &status, 0), second);
    assert_int_equal(status, 0);
    assert_says(&outcomes[1], "rank 0: rank 2 of 3 did not come");
}

// --- what goes wrong later ---

static int die_in_the_middle(struct group *group, struct error *err)
{
    float data[1000] = {0};
    if (group_all_reduce_f32(group, data, 1000, err))
        return -1;
    if (group_rank(group) == 2)
        raise(SIGKILL);
    return group_all_reduce_f32(group, data, 1000, err);
}

static void death_of_a_rank_is_told_at_once(void **state)
{
    struct outcome outcomes[RANKS_LIMIT];
    const double begin = clock_seconds();
    run_job(
        &(struct job){.ranks = 4, .body = die_in_the_middle, .deadline = 60, .directory = *state},
        outcomes);
    assert_true(clock_seconds() - begin < 30); // and not at the deadline
    assert_says(&outcomes[0], "rank 0 of 4, all-reduce f32 number 2: rank 2 on ");
    assert_says(&outcomes[0], " closed its connection");
    assert_says(&outcomes[1], "rank 2 on ");
    assert_says(&outcomes[3], "rank 2 on ");
}

static int stop_in_the_middle(struct group *group, struct error *err)
{
    const int rc = group_barrier(group, err);
    if (rc == 0 && group_rank(group) == 1)
        nap(3); // as one that hangs
    return rc ? rc : group_barrier(group, err);
}

static void rank_that_hangs_is_named_at_the_deadline(void **state)
{
    struct outcome outcomes[RANKS_LIMIT];
    char *records = fs_join(*state, "flight");
    run_job(&(struct job){.ranks = 3,
                          .body = stop_in_the_middle,
                          .deadline = 0.7,
                          .directory = *state,
                          .records = records},
            outcomes);
    assert_says(&outcomes[0], "rank 1 has not entered barrier number ");
    assert_says(&outcomes[2], "rank 1 has not entered barrier number ");
    assert_int_equal(outcomes[1].rc, -1);
    free(records);
}

static int leave_early(struct group *group, struct error *err)
{
    const int rc = group_barrier(group, err);
    return rc || group_rank(group) == 1 ? rc : group_barrier(group, err);
}

static void rank_that_leaves_early_is_named(void **state)
{
    struct outcome outcomes[RANKS_LIMIT];
    run_job(&(struct job){.ranks = 3, .body = leave_early, .directory = *state}, outcomes);
    assert_says(&outcomes[0], "barrier number 2: rank 1 left the group after its call number 1");
    assert_says(&outcomes[2], "rank 1 left the group after its call number 1");
}

static int zero_leaves_early(struct group *group, struct error *err)
{
    const int rc = group_barrier(group, err);
    return rc || group_rank(group) == 0 ? rc : group_barrier(group, err);
}

static void rank_0_that_leaves_early_is_named(void **state)
{
    struct outcome outcomes[RANKS_LIMIT];
    run_job(&(struct job){.ranks = 3, .body = zero_leaves_early, .directory = *state}, outcomes);
    assert_says(&outcomes[1], "rank 0 left the group after its call number 1");
    assert_says(&outcomes[2], "rank 0 left the group after its call number 1");
}

static int make_other_calls(struct group *group, struct error *err)
{
    float data[8] = {0};
    return group_all_reduce_f32(group, data, group_rank(group) == 1 ? 7 : 8, err);
}

static void other_calls_are_noticed(void **state)
{
    struct outcome outcomes[RANKS_LIMIT];
    run_job(&(struct job){.ranks = 3, .body = make_other_calls, .directory = *state}, outcomes);
    assert_says(&outcomes[0], "rank 1 makes another call, its number 1 over 28 bytes");
    assert_says(&outcomes[1], "rank 1 makes another call");
    assert_says(&outcomes[2], "rank 1 makes another call");
}

#define IN_DIRECTORY(test)                                                                         \
    cmocka_unit_test_setup_teardown(test, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(calls_work_with_1_to_5_ranks),
        IN_DIRECTORY(group_describes_itself),
        IN_DIRECTORY(file_of_an_earlier_attempt_is_not_believed),
        IN_DIRECTORY(port_that_is_somebody_elses_is_left),
        IN_DIRECTORY(torn_file_is_read_again),
        IN_DIRECTORY(rank_that_never_comes_is_named_on_every_rank),
        IN_DIRECTORY(missing_rank_0_is_told),
        cmocka_unit_test(directory_that_is_not_there_is_an_error),
        IN_DIRECTORY(strangers_are_sent_away),
        IN_DIRECTORY(second_process_of_one_rank_is_not_taken),
        IN_DIRECTORY(death_of_a_rank_is_told_at_once),
        IN_DIRECTORY(rank_that_hangs_is_named_at_the_deadline),
        IN_DIRECTORY(rank_that_leaves_early_is_named),
        IN_DIRECTORY(rank_0_that_leaves_early_is_named),
        IN_DIRECTORY(other_calls_are_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
