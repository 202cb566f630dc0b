// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/launcher.h"

#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

// The launcher's own descriptors. What it receives has higher numbers.
enum { CONTROL = 3, CHILD_SIGNALS = 4, FIRST_FREE = 5 };
enum { EXEC_STATUS = 4 }; // in the process about to become an engine: where a failed exec is told
enum { PASSED = 2 };      // descriptors of an order: socket, log

#define PROGRAM_BYTES 4096
#define BURIAL_MS 2000 // a killed process may hang in a driver

struct order {
    enum { ORDER_START, ORDER_KILL } kind;
    char program[PROGRAM_BYTES];
};

struct launcher {
    int control; // sequenced packets: orders there, events back
    pid_t pid;
};

// ---- in the launcher's process, which ends by _exit ----

static const char *const launch_variables[] = {"OMPI_", "OPAL_", "ORTE_",  "PRTE_",
                                               "PMIX_", "PMI_",  "SLURM_", NULL};

static bool is_of_launch(const char *variable)
{
    for (const char *const *prefix = launch_variables; *prefix; prefix++) {
        if (strncmp(variable, *prefix, strlen(*prefix)) == 0)
            return true;
    }
    return false;
}

static void forget_launch(void)
{
    size_t kept = 0;
    for (size_t i = 0; environ && environ[i]; i++) {
        if (!is_of_launch(environ[i]))
            environ[kept++] = environ[i];
    }
    if (environ)
        environ[kept] = NULL;
}

static void ignore_signals(void)
{
    static const int numbers[] = {SIGPIPE, SIGHUP, SIGINT, SIGTERM, SIGUSR2};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        signal(numbers[i], SIG_IGN);
}

// The kernel kills this process when its parent ends; it may have ended already.
static void die_with(pid_t parent)
{
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        _exit(1);
}

// Called by the forked process alone; returns only when exec failed.
static void become_engine(const char *program, const int *passed, int status, pid_t parent)
{
    static char *const arguments[] = {(char *)"memo", (char *)"engine", NULL};
    sigset_t none;
    die_with(parent);
    setsid();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup3(status, EXEC_STATUS, O_CLOEXEC) < 0)
        _exit(127);
    if (dup2(passed[1], STDOUT_FILENO) >= 0 && dup2(passed[1], STDERR_FILENO) >= 0 &&
        dup2(passed[0], LAUNCHER_CHANNEL) >= 0 && close_range(FIRST_FREE, ~0U, 0) == 0)
        execv(program, arguments);
}

static void report(enum launcher_event_kind kind, pid_t pid, int value)
{
    const struct launcher_event event = {.kind = kind, .pid = pid, .value = value};
    if (send(CONTROL, &event, sizeof(event), MSG_NOSIGNAL) < 0)
        _exit(1); // the rank is gone
}

// The engine's process, or -1 when it could not be started; *failure is then its errno.
static pid_t start_process(const char *program, const int *passed, int *failure)
{
    int status[2];
    const pid_t parent = getpid();
    *failure = 0;
    if (pipe2(status, O_CLOEXEC) < 0) {
        *failure = errno;
        return -1;
    }
    const pid_t pid = fork();
    if (pid == 0) {
        become_engine(program, passed, status[1], parent);
        const int why = errno;
        _exit(write(EXEC_STATUS, &why, sizeof(why)) == (ssize_t)sizeof(why) ? 126 : 127);
    }
    *failure = pid < 0 ? errno : 0;
    close(status[1]);
    if (pid > 0 && read(status[0], failure, sizeof(*failure)) > 0)
        waitpid(pid, NULL, 0);
    close(status[0]);
    return *failure ? -1 : pid;
}

// Waits for an order and the descriptors that come with it. False: the rank is gone.
static bool receive_order(struct order *order, int *passed)
{
    struct iovec part = {.iov_base = order, .iov_len = sizeof(*order)};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(PASSED * sizeof(int))];
    } control;
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control.bytes,
                             .msg_controllen = sizeof(control.bytes)};
    passed[0] = passed[1] = -1;
    if (recvmsg(CONTROL, &message, MSG_CMSG_CLOEXEC) != (ssize_t)sizeof(*order))
        return false;
    const struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (head && head->cmsg_type == SCM_RIGHTS && head->cmsg_len == CMSG_LEN(PASSED * sizeof(int)))
        memcpy(passed, CMSG_DATA(head), PASSED * sizeof(int));
    return true;
}

static void obey(const struct order *order, const int *passed, pid_t *engine)
{
    int failure;
    if (order->kind == ORDER_KILL) {
        if (*engine > 0)
            kill(*engine, SIGKILL);
        return;
    }
    *engine = start_process(order->program, passed, &failure);
    close(passed[0]);
    close(passed[1]);
    report(*engine > 0 ? LAUNCHER_STARTED : LAUNCHER_NOT_STARTED, *engine, failure);
}

static void bury(pid_t *engine)
{
    struct signalfd_siginfo ignored;
    int status;
    while (read(CHILD_SIGNALS, &ignored, sizeof(ignored)) > 0)
        ;
    if (*engine > 0 && waitpid(*engine, &status, WNOHANG) == *engine) {
        report(LAUNCHER_EXITED, *engine, status);
        *engine = -1;
    }
}

// From wherever the numbers are now: first out of the way, then to their places.
static void arrange_descriptors(int control)
{
    sigset_t children;
    const int null = open("/dev/null", O_RDWR);
    const int high_null = fcntl(null, F_DUPFD, FIRST_FREE);
    const int high_control = fcntl(control, F_DUPFD, FIRST_FREE);
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigprocmask(SIG_BLOCK, &children, NULL);
    const int signals = signalfd(-1, &children, SFD_NONBLOCK | SFD_CLOEXEC);
    const int high_signals = fcntl(signals, F_DUPFD, FIRST_FREE);
    if (dup2(high_null, STDIN_FILENO) < 0 || dup2(high_null, STDOUT_FILENO) < 0 ||
        dup2(high_null, STDERR_FILENO) < 0 || dup3(high_control, CONTROL, O_CLOEXEC) < 0 ||
        dup3(high_signals, CHILD_SIGNALS, O_CLOEXEC) < 0 || close_range(FIRST_FREE, ~0U, 0) < 0)
        _exit(1);
}

static _Noreturn void run_launcher(int control, pid_t rank)
{
    pid_t engine = -1;
    struct order order;
    int passed[PASSED];
    die_with(rank);
    setsid();
    prctl(PR_SET_NAME, "memo-launcher");
    ignore_signals();
    forget_launch();
    arrange_descriptors(control);
    for (;;) {
        struct pollfd waits[] = {{.fd = CONTROL, .events = POLLIN},
                                 {.fd = CHILD_SIGNALS, .events = POLLIN}};
        (void)poll(waits, 2, -1);
        if (waits[1].revents)
            bury(&engine);
        if (waits[0].revents) {
            if (!receive_order(&order, passed))
                break;
            obey(&order, passed, &engine);
        }
    }
    if (engine > 0) {
        struct pollfd buried = {.fd = CHILD_SIGNALS, .events = POLLIN};
        kill(engine, SIGKILL);
        (void)poll(&buried, 1, BURIAL_MS);
    }
    _exit(0);
}

// ---- in the rank ----

int launcher_open(struct launcher **out, struct error *err)
{
    int ends[2];
    const pid_t rank = getpid();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return error_set_errno(err, errno, "a socket for the process that starts engines");
    const pid_t pid = fork();
    if (pid == 0)
        run_launcher(ends[1], rank);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return error_set_errno(err, errno, "the process that starts engines cannot be forked");
    }
    struct launcher *launcher = mem_calloc(1, sizeof(*launcher));
    *launcher = (struct launcher){.control = ends[0], .pid = pid};
    *out = launcher;
    return 0;
}

void launcher_close(struct launcher *launcher)
{
    if (!launcher)
        return;
    close(launcher->control);
    while (waitpid(launcher->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    free(launcher);
}

static int give_order(struct launcher *launcher, const struct order *order, const int *passed,
                      struct error *err)
{
    struct iovec part = {.iov_base = (void *)order, .iov_len = sizeof(*order)};
    union {
        struct cmsghdr head;
        char bytes[CMSG_SPACE(PASSED * sizeof(int))];
    } control = {.bytes = {0}};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (passed) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        struct cmsghdr *head = CMSG_FIRSTHDR(&message);
        head->cmsg_level = SOL_SOCKET;
        head->cmsg_type = SCM_RIGHTS;
        head->cmsg_len = CMSG_LEN(PASSED * sizeof(int));
        memcpy(CMSG_DATA(head), passed, PASSED * sizeof(int));
    }
    if (sendmsg(launcher->control, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        return error_set_errno(err, errno, "the process that starts engines (%d) does not listen",
                               (int)launcher->pid);
    return 0;
}

int launcher_start(struct launcher *launcher, const char *program, int socket, int log,
                   struct error *err)
{
    struct order order = {.kind = ORDER_START};
    const int passed[PASSED] = {socket, log};
    if (strlen(program) >= sizeof(order.program))
        return error_set(err, "the path '%s' is too long", program);
    memcpy(order.program, program, strlen(program) + 1);
    return give_order(launcher, &order, passed, err);
}

int launcher_kill(struct launcher *launcher, struct error *err)
{
    const struct order order = {.kind = ORDER_KILL};
    return give_order(launcher, &order, NULL, err);
}

int launcher_poll(struct launcher *launcher, struct launcher_event *out, struct error *err)
{
    const ssize_t got = recv(launcher->control, out, sizeof(*out), MSG_DONTWAIT);
    if (got == (ssize_t)sizeof(*out))
        return 1;
    if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return 0;
    return error_set(err, "the process that starts engines (%d) is gone", (int)launcher->pid);
}

int launcher_descriptor(const struct launcher *launcher)
{
    return launcher->control;
}

pid_t launcher_process(const struct launcher *launcher)
{
    return launcher->pid;
}
