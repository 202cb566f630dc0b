// SPDX-License-Identifier: Apache-2.0
// The started process is this binary again: `test engine` tells on its log what it has inherited,
// then reads its socket to the end.
#include "worker/supervisor/launcher.h"

#include "base/mem.h"
#include "base/strbuf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static int run_started(void)
{
    char byte;
    printf("session %s\n", getsid(0) == getpid() ? "own" : "another's");
    for (char **variable = environ; *variable; variable++)
        printf("variable %s\n", *variable);
    for (int fd = 0; fd < 100; fd++) {
        if (fcntl(fd, F_GETFD) >= 0)
            printf("descriptor %d\n", fd);
    }
    fflush(stdout);
    while (read(LAUNCHER_CHANNEL, &byte, 1) > 0) {
        if (byte == 'x')
            return 5;
    }
    return 0;
}

struct started {
    struct launcher *launcher;
    int socket; // our end
    int log;
    pid_t pid;
};

static struct launcher_event wait_event(struct launcher *launcher)
{
    struct error err;
    struct launcher_event event;
    struct pollfd wait = {.fd = launcher_descriptor(launcher), .events = POLLIN};
    assert_int_equal(poll(&wait, 1, 30000), 1);
    if (launcher_poll(launcher, &event, &err) != 1)
        fail_msg("no event");
    return event;
}

static struct started start(struct launcher *launcher)
{
    struct error err;
    int sockets[2], pipes[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets), 0);
    assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
    if (launcher_start(launcher, "/proc/self/exe", sockets[1], pipes[1], &err))
        fail_msg("%s", err.text);
    close(sockets[1]);
    close(pipes[1]);
    const struct launcher_event event = wait_event(launcher);
    assert_int_equal(event.kind, LAUNCHER_STARTED);
    return (struct started){launcher, sockets[0], pipes[0], event.pid};
}

static void release(struct started *started)
{
    close(started->socket);
    close(started->log);
}

// What the process has written, to its end.
static char *read_log(const struct started *started)
{
    struct strbuf text = {0};
    char bytes[512];
    for (ssize_t got; (got = read(started->log, bytes, sizeof(bytes))) > 0;)
        strbuf_add(&text, bytes, (size_t)got);
    return strbuf_detach(&text);
}

static bool is_gone(pid_t pid)
{
    for (int i = 0; i < 500; i++) {
        if (kill(pid, 0) != 0 && errno == ESRCH)
            return true;
        usleep(10000);
    }
    return false;
}

static void a_started_process_inherits_nothing_of_the_launch(void **state)
{
    (void)state;
    struct error err;
    struct launcher *launcher;
    const int left_open = open("/dev/null", O_RDONLY); // no O_CLOEXEC
    setenv("OMPI_COMM_WORLD_RANK", "3", 1);
    setenv("PMIX_RANK", "3", 1);
    setenv("SLURM_JOB_ID", "17", 1);
    setenv("MEMO_KEPT", "yes", 1);
    assert_int_equal(launcher_open(&launcher, &err), 0);
    unsetenv("OMPI_COMM_WORLD_RANK");
    unsetenv("PMIX_RANK");
    unsetenv("SLURM_JOB_ID");
    struct started started = start(launcher);
    shutdown(started.socket, SHUT_WR);
    const struct launcher_event event = wait_event(launcher);
    assert_int_equal(event.kind, LAUNCHER_EXITED);
    assert_true(WIFEXITED(event.value) && WEXITSTATUS(event.value) == 0);
    char *said = read_log(&started);
    assert_non_null(strstr(said, "session own\n"));
    assert_non_null(strstr(said, "variable MEMO_KEPT=yes\n"));
    assert_null(strstr(said, "OMPI_"));
    assert_null(strstr(said, "PMIX_"));
    assert_null(strstr(said, "SLURM_"));
    assert_non_null(strstr(said, "descriptor 0\ndescriptor 1\ndescriptor 2\ndescriptor 3\n"));
    assert_null(strstr(said, "descriptor 4"));
    assert_null(strstr(said, "descriptor 5"));
    assert_null(strstr(strstr(said, "descriptor 3\n") + 1, "descriptor"));
    free(said);
    release(&started);
    launcher_close(launcher);
    close(left_open);
}

static void ends_are_told_as_they_were(void **state)
{
    (void)state;
    struct error err;
    struct launcher *launcher;
    struct launcher_event event;
    assert_int_equal(launcher_open(&launcher, &err), 0);
    assert_int_equal(launcher_kill(launcher, &err), 0); // nobody there
    for (int round = 0; round < 3; round++) {
        struct started started = start(launcher);
        assert_int_equal(launcher_poll(launcher, &event, &err), 0);
        if (round == 0)
            assert_int_equal(launcher_kill(launcher, &err), 0);
        else if (round == 1)
            assert_int_equal(kill(started.pid, SIGABRT), 0);
        else
            assert_int_equal(write(started.socket, "x", 1), 1);
        event = wait_event(launcher);
        assert_int_equal(event.kind, LAUNCHER_EXITED);
        assert_int_equal(event.pid, started.pid);
        if (round == 2)
            assert_int_equal(WEXITSTATUS(event.value), 5);
        else
            assert_int_equal(WTERMSIG(event.value), round == 0 ? SIGKILL : SIGABRT);
        release(&started);
    }
    launcher_close(launcher);
}

static void a_program_that_is_not_there_is_told(void **state)
{
    (void)state;
    struct error err;
    struct launcher *launcher;
    assert_int_equal(launcher_open(&launcher, &err), 0);
    const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    assert_int_equal(launcher_start(launcher, "/no/such/program", null, null, &err), 0);
    const struct launcher_event event = wait_event(launcher);
    assert_int_equal(event.kind, LAUNCHER_NOT_STARTED);
    assert_int_equal(event.value, ENOENT);
    struct started started = start(launcher); // it goes on
    release(&started);
    close(null);
    launcher_close(launcher);
    assert_true(is_gone(started.pid));
}

static void closing_kills_what_runs_even_when_it_is_stopped(void **state)
{
    (void)state;
    struct error err;
    struct launcher *launcher;
    assert_int_equal(launcher_open(&launcher, &err), 0);
    struct started started = start(launcher);
    assert_int_equal(kill(started.pid, SIGSTOP), 0);
    launcher_close(launcher);
    assert_true(is_gone(started.pid));
    release(&started);
}

// A rank that is killed: launcher and process vanish at once, also a stopped one.
static void nothing_outlives_a_rank_that_is_killed(void **state)
{
    (void)state;
    for (int stopped = 0; stopped < 2; stopped++) {
        int told[2];
        pid_t pids[2];
        assert_int_equal(pipe(told), 0);
        const pid_t rank = fork();
        assert_true(rank >= 0);
        if (rank == 0) {
            struct error err;
            struct launcher *launcher;
            if (launcher_open(&launcher, &err))
                _exit(1);
            const struct started started = start(launcher);
            pids[0] = launcher_process(launcher);
            pids[1] = started.pid;
            if (write(told[1], pids, sizeof(pids)) == (ssize_t)sizeof(pids))
                pause();
            _exit(1);
        }
        assert_int_equal(read(told[0], pids, sizeof(pids)), sizeof(pids));
        if (stopped)
            assert_int_equal(kill(pids[1], SIGSTOP), 0);
        assert_int_equal(kill(rank, SIGKILL), 0);
        assert_int_equal(waitpid(rank, NULL, 0), rank);
        assert_true(is_gone(pids[0]));
        assert_true(is_gone(pids[1]));
        close(told[0]);
        close(told[1]);
    }
}

static void a_launcher_that_is_killed_takes_its_process_along(void **state)
{
    (void)state;
    struct error err;
    struct launcher *launcher;
    struct launcher_event event;
    int rc;
    assert_int_equal(launcher_open(&launcher, &err), 0);
    struct started started = start(launcher);
    assert_int_equal(kill(launcher_process(launcher), SIGKILL), 0);
    assert_true(is_gone(started.pid));
    while ((rc = launcher_poll(launcher, &event, &err)) == 0)
        usleep(1000);
    assert_int_equal(rc, -1);
    assert_int_equal(launcher_kill(launcher, &err), -1);
    release(&started);
    launcher_close(launcher);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "engine") == 0)
        return run_started();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_started_process_inherits_nothing_of_the_launch),
        cmocka_unit_test(ends_are_told_as_they_were),
        cmocka_unit_test(a_program_that_is_not_there_is_told),
        cmocka_unit_test(closing_kills_what_runs_even_when_it_is_stopped),
        cmocka_unit_test(nothing_outlives_a_rank_that_is_killed),
        cmocka_unit_test(a_launcher_that_is_killed_takes_its_process_along),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
