// SPDX-License-Identifier: Apache-2.0
// How the ranks of a group over TCP find each other.
//
//     rank 0                                       rank r
//     listens, publishes its place      ───▶       reads the place, connects
//     (addresses, port, secret)         ◀───       hello: secret, rank, ranks, host
//     takes it: it is one of the job    ───▶       taken
//     ... until all have come           ───▶       start: its place among the ranks of its host
//     removes the file
//
// A rank that reads the file of an earlier attempt, or half of one, or is not taken, looks again
// until the time is over: rank 0 replaces what it finds. Who connects without the secret is sent
// away. IPv4.
#include "collectives/tcp_internal.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "collectives/id_file.h"

#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define ADDRESSES 8       // of a host; more than a node of a cluster has networks
#define SECRET_BYTES 16   // nobody guesses it
#define STEP_SECONDS 5.0  // for a connection, a hello or its answer: some round trips
#define AGAIN_NS 50000000 // between looks at the file
#define TAKEN 0x6d656d6f  // answer to a hello
#define OPTION_ON (&(int){1})

// What the file holds.
struct place {
    unsigned char secret[SECRET_BYTES];
    uint32_t addresses[ADDRESSES]; // network order; 0: none
    uint16_t port;                 // network order
    uint16_t unused;
};

struct hello {
    unsigned char secret[SECRET_BYTES];
    int32_t rank, size;
    char host[HOST_NAME_MAX + 1];
};

struct start {
    int32_t good; // 0: failure says why
    int32_t local_rank, local_size;
    char host[HOST_NAME_MAX + 1]; // rank 0's
    struct error failure;
};

struct meeting {
    int rank, size;
    double deadline; // clock_seconds()
    char *path;
    struct place place;
};

static double seconds_left(const struct meeting *meeting)
{
    const double left = meeting->deadline - clock_seconds();
    return left > 0 ? left : 0;
}

static double step_left(const struct meeting *meeting)
{
    const double left = seconds_left(meeting);
    return left < STEP_SECONDS ? left : STEP_SECONDS;
}

// Until fd is ready for `events`, or a signal came; false when neither was within the time.
static bool await(int fd, short events, double seconds)
{
    struct pollfd polled = {.fd = fd, .events = events};
    return poll(&polled, 1, (int)(seconds * 1e3) + 1) != 0;
}

// All of it within the time; false otherwise.
static bool exchange(int fd, void *bytes, size_t count, bool sends, double seconds)
{
    const double end = clock_seconds() + seconds;
    unsigned char *at = bytes;
    while (count > 0) {
        const ssize_t done = sends ? send(fd, at, count, MSG_DONTWAIT | MSG_NOSIGNAL)
                                   : recv(fd, at, count, MSG_DONTWAIT);
        if (done > 0) {
            at += done;
            count -= (size_t)done;
        } else if ((done == 0 && !sends) ||
                   (done < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
            return false;
        } else if (clock_seconds() >= end ||
                   !await(fd, sends ? POLLOUT : POLLIN, end - clock_seconds())) {
            return false;
        }
    }
    return true;
}

static void own_host(char host[HOST_NAME_MAX + 1])
{
    memset(host, 0, HOST_NAME_MAX + 1);
    gethostname(host, HOST_NAME_MAX);
}

// Small messages go at once; a peer whose machine is gone is noticed in the end.
static void tune(int fd)
{
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, OPTION_ON, sizeof(int));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, OPTION_ON, sizeof(int));
}

// --- rank 0 ---

static void list_addresses(bool hosts_are_one, struct place *place)
{
    struct ifaddrs *all = NULL;
    size_t count = 0;
    if (hosts_are_one || getifaddrs(&all) != 0) {
        place->addresses[0] = htonl(INADDR_LOOPBACK);
        return;
    }
    for (struct ifaddrs *each = all; each != NULL && count < ADDRESSES; each = each->ifa_next) {
        if (each->ifa_addr != NULL && each->ifa_addr->sa_family == AF_INET &&
            (each->ifa_flags & IFF_UP) && !(each->ifa_flags & IFF_LOOPBACK)) {
            struct sockaddr_in address;
            memcpy(&address, each->ifa_addr, sizeof(address));
            place->addresses[count++] = address.sin_addr.s_addr;
        }
    }
    freeifaddrs(all);
}

static int start_listening(bool hosts_are_one, struct place *place, int *out, struct error *err)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof(address);
    address.sin_addr.s_addr = htonl(hosts_are_one ? INADDR_LOOPBACK : INADDR_ANY);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 ||
        listen(fd, SOMAXCONN) != 0 || getsockname(fd, (struct sockaddr *)&address, &length) != 0) {
        error_set_errno(err, errno, "cannot listen for the other ranks");
        if (fd >= 0) {
            close(fd);
        }
        return -1;
    }
    place->port = address.sin_port;
    list_addresses(hosts_are_one, place);
    *out = fd;
    return 0;
}

static bool is_gone(int fd)
{
    char byte;
    const ssize_t got = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

// Whether the connection is a rank's that is not here yet; then it is taken.
static bool take(const struct meeting *meeting, struct tcp_state *state, int fd)
{
    struct hello hello;
    uint32_t answer = TAKEN;
    if (!exchange(fd, &hello, sizeof(hello), false, step_left(meeting)) ||
        memcmp(hello.secret, meeting->place.secret, SECRET_BYTES) != 0 ||
        hello.size != meeting->size || hello.rank < 1 || hello.rank >= meeting->size) {
        return false;
    }
    struct tcp_peer *peer = &state->peers[hello.rank];
    if (peer->fd >= 0 && !is_gone(peer->fd)) {
        return false;
    }
    if (!exchange(fd, &answer, sizeof(answer), true, step_left(meeting))) {
        return false;
    }
    if (peer->fd >= 0) {
        close(peer->fd);
    }
    tune(fd);
    peer->fd = fd;
    memcpy(peer->host, hello.host, sizeof(peer->host));
    peer->host[sizeof(peer->host) - 1] = '\0';
    return true;
}

static int count_missing(const struct meeting *meeting, const struct tcp_state *state)
{
    int missing = 0;
    for (int r = 1; r < meeting->size; r++) {
        missing += state->peers[r].fd < 0;
    }
    return missing;
}

static int name_missing(const struct meeting *meeting, const struct tcp_state *state,
                        double seconds, struct error *err)
{
    enum { NAMED = 16 };
    struct strbuf names = {0};
    const int missing = count_missing(meeting, state);
    for (int r = 1, named = 0; r < meeting->size && named < NAMED; r++) {
        if (state->peers[r].fd < 0) {
            strbuf_addf(&names, "%s%d", named++ ? ", " : "", r);
        }
    }
    error_set(err,
              "rank%s %s%s of %d did not come within %.0f s: have they started, and do all see "
              "'%s'?",
              missing == 1 ? "" : "s", names.bytes, missing > NAMED ? " and others" : "",
              meeting->size, seconds, meeting->path);
    strbuf_release(&names);
    return -1;
}

static int gather_ranks(const struct meeting *meeting, struct tcp_state *state, int listener,
                        double seconds, struct error *err)
{
    while (count_missing(meeting, state) > 0) {
        if (seconds_left(meeting) <= 0) {
            return name_missing(meeting, state, seconds, err);
        }
        if (!await(listener, POLLIN, step_left(meeting))) {
            continue;
        }
        const int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0 && !take(meeting, state, fd)) {
            close(fd);
        }
    }
    return 0;
}

// Where rank r stands among the ranks of its host.
static struct start start_of(const struct tcp_state *state, int size, int rank)
{
    struct start start = {.good = 1};
    memcpy(start.host, state->peers[0].host, sizeof(start.host));
    for (int r = 0; r < size; r++) {
        const bool same = strcmp(state->peers[r].host, state->peers[rank].host) == 0;
        start.local_size += same;
        start.local_rank += same && r < rank;
    }
    return start;
}

static void start_ranks(const struct meeting *meeting, struct tcp_state *state, int rc,
                        const struct error *failure)
{
    for (int r = 1; r < meeting->size; r++) {
        struct start start = {.failure = *failure};
        if (rc == 0) {
            start = start_of(state, meeting->size, r);
        }
        if (state->peers[r].fd >= 0) {
            (void)exchange(state->peers[r].fd, &start, sizeof(start), true, STEP_SECONDS);
        }
    }
}

static int host_meeting(struct meeting *meeting, struct tcp_state *state, bool hosts_are_one,
                        double seconds, struct start *own, struct error *err)
{
    int listener = -1;
    if (getrandom(meeting->place.secret, SECRET_BYTES, 0) != SECRET_BYTES) {
        return error_set_errno(err, errno, "cannot make a secret for the ranks");
    }
    if (start_listening(hosts_are_one, &meeting->place, &listener, err) != 0) {
        return -1;
    }
    own_host(state->peers[0].host);
    int rc =
        id_file_publish(fs_system(), meeting->path, &meeting->place, sizeof(meeting->place), err);
    if (rc == 0) {
        rc = gather_ranks(meeting, state, listener, seconds, err);
        id_file_remove(fs_system(), meeting->path);
    }
    start_ranks(meeting, state, rc, err);
    close(listener);
    *own = start_of(state, meeting->size, 0);
    return rc;
}

// --- the others ---

static int connect_to(const struct meeting *meeting, uint32_t address, struct error *err)
{
    int problem = 0;
    socklen_t length = sizeof(problem);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = meeting->place.port};
    to.sin_addr.s_addr = address;
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return error_set_errno(err, errno, "cannot open a connection");
    }
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) != 0 && errno != EINPROGRESS) {
        problem = errno;
    } else if (!await(fd, POLLOUT, step_left(meeting))) {
        problem = ETIMEDOUT;
    } else {
        (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &problem, &length);
    }
    if (problem != 0) {
        char text[INET_ADDRSTRLEN] = "?";
        (void)inet_ntop(AF_INET, &address, text, sizeof(text));
        close(fd);
        return error_set_errno(err, problem, "cannot connect to rank 0 at %s, port %u", text,
                               (unsigned)ntohs(meeting->place.port));
    }
    tune(fd);
    return fd;
}

static bool introduce(const struct meeting *meeting, int fd, struct error *err)
{
    struct hello hello = {.rank = meeting->rank, .size = meeting->size};
    uint32_t answer = 0;
    memcpy(hello.secret, meeting->place.secret, SECRET_BYTES);
    own_host(hello.host);
    if (exchange(fd, &hello, sizeof(hello), true, step_left(meeting)) &&
        exchange(fd, &answer, sizeof(answer), false, step_left(meeting)) && answer == TAKEN) {
        return true;
    }
    error_set(err, "who listens there does not take this rank: another attempt, or two jobs of "
                   "one number");
    return false;
}

// One look at the file and one try of each address: the connection, or -1.
static int try_once(struct meeting *meeting, struct error *err)
{
    if (id_file_read(fs_system(), meeting->path, &meeting->place, sizeof(meeting->place), err)) {
        return -1;
    }
    for (size_t i = 0; i < ADDRESSES && meeting->place.addresses[i] != 0; i++) {
        const int fd = connect_to(meeting, meeting->place.addresses[i], err);
        if (fd >= 0 && introduce(meeting, fd, err)) {
            return fd;
        }
        if (fd >= 0) {
            close(fd);
        }
    }
    return -1;
}

static int receive_start(const struct meeting *meeting, int fd, double seconds, struct start *start,
                         struct error *err)
{
    if (!exchange(fd, start, sizeof(*start), false, seconds_left(meeting) + STEP_SECONDS)) {
        return error_set(err, "rank 0 ended, or did not start the others within %.0f s", seconds);
    }
    start->failure.text[sizeof(start->failure.text) - 1] = '\0';
    return start->good ? 0 : error_set(err, "rank 0: %s", start->failure.text);
}

static int join_meeting(struct meeting *meeting, struct tcp_state *state, double seconds,
                        struct start *own, struct error *err)
{
    struct error why;
    struct tcp_peer *zero = &state->peers[0];
    while ((zero->fd = try_once(meeting, &why)) < 0) {
        if (seconds_left(meeting) <= 0) {
            return error_set(err, "rank %d of %d found no rank 0 within %.0f s: %s", meeting->rank,
                             meeting->size, seconds, why.text);
        }
        struct timespec pause = {.tv_nsec = AGAIN_NS};
        nanosleep(&pause, NULL);
    }
    if (receive_start(meeting, zero->fd, seconds, own, err) != 0) {
        return -1;
    }
    memcpy(zero->host, own->host, sizeof(zero->host) - 1);
    return 0;
}

int tcp_meet(const char *directory, int rank, int size, bool hosts_are_one, double seconds,
             struct group **out, struct error *err)
{
    struct start own = {0};
    struct meeting meeting = {.rank = rank, .size = size, .deadline = clock_seconds() + seconds};
    if (id_file_path(directory, &meeting.path, err) != 0) {
        return -1;
    }
    struct tcp_state *state = mem_calloc(1, sizeof(*state));
    const int peers = rank == 0 ? size : 1;
    state->peers = mem_calloc((size_t)peers, sizeof(*state->peers));
    for (int r = 0; r < peers; r++) {
        state->peers[r].fd = -1;
    }
    state->polls = mem_calloc((size_t)peers + 1, sizeof(*state->polls));
    state->pieces = rank == 0 ? mem_alloc((size_t)size * TCP_PIECE_BYTES) : NULL;
    const int rc = rank == 0 ? host_meeting(&meeting, state, hosts_are_one, seconds, &own, err)
                             : join_meeting(&meeting, state, seconds, &own, err);
    free(meeting.path);
    if (rc != 0) {
        tcp_state_release(state, peers);
        return -1;
    }
    *out = group_create(&tcp_ops, state, rank, size);
    (*out)->local_rank = own.local_rank;
    (*out)->local_size = own.local_size;
    return 0;
}
