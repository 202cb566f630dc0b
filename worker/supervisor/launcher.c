// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/launcher.h"

#include "base/mem.h"
#include "worker/supervisor/launcher_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct launcher {
    int control; // orders there, events back
    pid_t pid;
};

int launcher_open(struct launcher **out, struct error *err)
{
    int ends[2];
    const pid_t rank = getpid();
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
        return error_set_errno(err, errno, "a socket for the process that starts engines");
    const pid_t pid = fork();
    if (pid == 0)
        launcher_run(ends[1], rank);
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
