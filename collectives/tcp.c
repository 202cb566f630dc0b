// SPDX-License-Identifier: Apache-2.0
// The calls of a group over TCP: see tcp_internal.h. No wait is unbounded: each ends at the group's
// deadline, counted from the last byte that came or went, or when a connection that the group needs
// is gone.
#include "collectives/tcp_internal.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define POLL_MS 10             // between looks at the deadline
#define LAST_WORDS_SECONDS 1.0 // for a failure's text to be read

enum call_kind { CALL_SUM, CALL_SCATTER, CALL_GATHER, CALL_BROADCAST, CALL_BARRIER, CALL_LEAVE };

struct head {
    uint64_t number; // of the call
    uint64_t bytes;
    uint32_t kind;
    uint32_t unused;
};

enum { OUTCOME_GOOD = 1, OUTCOME_FAILED = 2 };

static struct tcp_peer *peer_of(struct group *group, int rank)
{
    struct tcp_state *state = group->state;
    return &state->peers[group->rank == 0 ? rank : 0];
}

static int lost(struct group *group, int rank, const char *how, struct error *err)
{
    return error_set(err, "rank %d on %s %s", rank, peer_of(group, rank)->host, how);
}

// --- bytes ---

// Of rank 0 while it waits for one rank: another one's end must not wait for that.
static int check_others(struct group *group, int count, struct error *err)
{
    const struct tcp_state *state = group->state;
    for (int i = 1; i < count; i++) {
        if (state->polls[i].revents & (POLLRDHUP | POLLERR | POLLHUP)) {
            for (int r = 1; r < group->size; r++) {
                if (state->peers[r].fd == state->polls[i].fd) {
                    return lost(group, r, "closed its connection", err);
                }
            }
        }
    }
    return 0;
}

static int wait_for(struct group *group, int rank, short events, double begin, struct error *err)
{
    struct tcp_state *state = group->state;
    const int fd = peer_of(group, rank)->fd;
    const double waited = clock_seconds() - begin;
    bool told;
    int count = 0;
    state->polls[count++] = (struct pollfd){.fd = fd, .events = events};
    for (int r = 1; group->rank == 0 && r < group->size; r++) {
        if (r != rank) {
            state->polls[count++] = (struct pollfd){.fd = state->peers[r].fd, .events = POLLRDHUP};
        }
    }
    (void)poll(state->polls, (nfds_t)count, POLL_MS);
    if (state->polls[0].revents == 0 && check_others(group, count, err) != 0) {
        return -1;
    }
    if (group_keep_waiting(group, waited, &told, err) == 0) {
        return 0;
    }
    if (told) {
        return -1;
    }
    return error_set(err, "rank %d on %s did not %s within %.0f s", rank,
                     peer_of(group, rank)->host, events == POLLIN ? "answer" : "listen",
                     group->deadline_seconds);
}

static int send_bytes(struct group *group, int rank, const void *bytes, size_t count,
                      struct error *err)
{
    const unsigned char *from = bytes;
    double begin = clock_seconds();
    while (count > 0) {
        const ssize_t sent =
            send(peer_of(group, rank)->fd, from, count, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            from += sent;
            count -= (size_t)sent;
            begin = clock_seconds();
        } else if (sent < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
            return lost(group, rank, "closed its connection", err);
        } else if (wait_for(group, rank, POLLOUT, begin, err) != 0) {
            return -1;
        }
    }
    return 0;
}

static int receive_bytes(struct group *group, int rank, void *bytes, size_t count,
                         struct error *err)
{
    unsigned char *to = bytes;
    double begin = clock_seconds();
    while (count > 0) {
        const ssize_t got = recv(peer_of(group, rank)->fd, to, count, MSG_DONTWAIT);
        if (got > 0) {
            to += got;
            count -= (size_t)got;
            begin = clock_seconds();
        } else if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) {
            return lost(group, rank, "closed its connection", err);
        } else if (wait_for(group, rank, POLLIN, begin, err) != 0) {
            return -1;
        }
    }
    return 0;
}

// --- heads and outcomes ---

static struct head head_of(const struct group *group, enum call_kind kind, size_t bytes)
{
    return (struct head){.number = group->sequence, .bytes = bytes, .kind = kind};
}

// Of rank 0: rank r begins the same call.
static int receive_head(struct group *group, int rank, struct head want, struct error *err)
{
    struct head got;
    if (receive_bytes(group, rank, &got, sizeof(got), err) != 0) {
        return -1;
    }
    if (got.kind == CALL_LEAVE && want.kind != CALL_LEAVE) {
        return error_set(err, "rank %d left the group after its call number %" PRIu64, rank,
                         got.number);
    }
    if (memcmp(&got, &want, sizeof(got)) != 0) {
        return error_set(err,
                         "rank %d makes another call, its number %" PRIu64 " over %" PRIu64
                         " bytes: a mistake of the program or a mixture of versions",
                         rank, got.number, got.bytes);
    }
    return 0;
}

static int receive_heads(struct group *group, enum call_kind kind, size_t bytes, struct error *err)
{
    for (int r = 1; r < group->size; r++) {
        if (receive_head(group, r, head_of(group, kind, bytes), err) != 0) {
            return -1;
        }
    }
    return 0;
}

static int send_head(struct group *group, enum call_kind kind, size_t bytes, struct error *err)
{
    const struct head head = head_of(group, kind, bytes);
    return send_bytes(group, 0, &head, sizeof(head), err);
}

// Of rank 0: what came out, for rank r.
static int send_result(struct group *group, int rank, const void *bytes, size_t count,
                       struct error *err)
{
    const uint32_t outcome = OUTCOME_GOOD;
    return send_bytes(group, rank, &outcome, sizeof(outcome), err) ||
                   send_bytes(group, rank, bytes, count, err)
               ? -1
               : 0;
}

static int receive_result(struct group *group, void *bytes, size_t count, struct error *err)
{
    uint32_t outcome;
    struct error text = {{0}};
    if (receive_bytes(group, 0, &outcome, sizeof(outcome), err) != 0) {
        return -1;
    }
    if (outcome == OUTCOME_GOOD) {
        return receive_bytes(group, 0, bytes, count, err);
    }
    if (outcome != OUTCOME_FAILED || receive_bytes(group, 0, text.text, sizeof(text.text), err)) {
        return lost(group, 0, "closed its connection", err);
    }
    text.text[sizeof(text.text) - 1] = '\0';
    return error_set(err, "%s", text.text);
}

// --- sums ---

static size_t piece_elements(const struct group_element *element)
{
    return TCP_PIECE_BYTES / element->bytes;
}

// Of rank 0: the sum of all ranks' next pieces, of which `own` is its own. sum may be own.
static int add_pieces(struct group *group, void *sum, const void *own, size_t count,
                      const struct group_element *element, struct error *err)
{
    struct tcp_state *state = group->state;
    const size_t bytes = count * element->bytes;
    memcpy(state->pieces, own, bytes);
    for (int r = 1; r < group->size; r++) {
        if (receive_bytes(group, r, state->pieces + (size_t)r * TCP_PIECE_BYTES, bytes, err) != 0) {
            return -1;
        }
    }
    element->sum(sum, state->pieces, TCP_PIECE_BYTES, group->size, count);
    return 0;
}

static int sum_piece(struct group *group, void *piece, size_t count,
                     const struct group_element *element, struct error *err)
{
    const size_t bytes = count * element->bytes;
    if (group->rank != 0) {
        return send_bytes(group, 0, piece, bytes, err) || receive_result(group, piece, bytes, err)
                   ? -1
                   : 0;
    }
    int rc = add_pieces(group, piece, piece, count, element, err);
    for (int r = 1; rc == 0 && r < group->size; r++) {
        rc = send_result(group, r, piece, bytes, err);
    }
    return rc;
}

static int begin_call(struct group *group, enum call_kind kind, size_t bytes, struct error *err)
{
    return group->rank == 0 ? receive_heads(group, kind, bytes, err)
                            : send_head(group, kind, bytes, err);
}

static int tcp_all_reduce(struct group *group, void *data, size_t count,
                          const struct group_element *element, struct error *err)
{
    int rc = begin_call(group, CALL_SUM, count * element->bytes, err);
    for (size_t at = 0; rc == 0 && at < count; at += piece_elements(element)) {
        const size_t left = count - at, most = piece_elements(element);
        rc = sum_piece(group, (unsigned char *)data + at * element->bytes,
                       left < most ? left : most, element, err);
    }
    return rc;
}

// A piece of the part of rank `owner`, which alone gets the sum.
static int scatter_piece(struct group *group, int owner, void *out, const void *in, size_t count,
                         const struct group_element *element, struct error *err)
{
    struct tcp_state *state = group->state;
    const size_t bytes = count * element->bytes;
    if (group->rank != 0) {
        return send_bytes(group, 0, in, bytes, err) ||
                       (owner == group->rank && receive_result(group, out, bytes, err))
                   ? -1
                   : 0;
    }
    void *sum = owner == 0 ? out : state->pieces;
    return add_pieces(group, sum, in, count, element, err) ||
                   (owner != 0 && send_result(group, owner, sum, bytes, err))
               ? -1
               : 0;
}

static int tcp_reduce_scatter(struct group *group, void *out, const void *in, size_t count,
                              const struct group_element *element, struct error *err)
{
    const unsigned char *from = in;
    int rc = begin_call(group, CALL_SCATTER, count * element->bytes, err);
    for (int owner = 0; owner < group->size; owner++) {
        const unsigned char *part = from + (size_t)owner * count * element->bytes;
        for (size_t at = 0; rc == 0 && at < count; at += piece_elements(element)) {
            const size_t left = count - at, most = piece_elements(element);
            const size_t before = at * element->bytes;
            rc = scatter_piece(group, owner, (unsigned char *)out + before, part + before,
                               left < most ? left : most, element, err);
        }
    }
    return rc;
}

// --- moves ---

static int tcp_all_gather(struct group *group, void *out, const void *in, size_t bytes,
                          struct error *err)
{
    unsigned char *to = out, *own = to + (size_t)group->rank * bytes;
    int rc = begin_call(group, CALL_GATHER, bytes, err);
    if (bytes != 0 && own != in) {
        memcpy(own, in, bytes);
    }
    if (group->rank != 0) {
        return rc || send_bytes(group, 0, own, bytes, err) ||
                       receive_result(group, out, (size_t)group->size * bytes, err)
                   ? -1
                   : 0;
    }
    for (int r = 1; rc == 0 && r < group->size; r++) {
        rc = receive_bytes(group, r, to + (size_t)r * bytes, bytes, err);
    }
    for (int r = 1; rc == 0 && r < group->size; r++) {
        rc = send_result(group, r, out, (size_t)group->size * bytes, err);
    }
    return rc;
}

static int tcp_broadcast(struct group *group, void *data, size_t bytes, int root, struct error *err)
{
    int rc = begin_call(group, CALL_BROADCAST, bytes, err);
    if (group->rank != 0) {
        return rc || (root == group->rank && send_bytes(group, 0, data, bytes, err)) ||
                       receive_result(group, data, root == group->rank ? 0 : bytes, err)
                   ? -1
                   : 0;
    }
    if (rc == 0 && root != 0) {
        rc = receive_bytes(group, root, data, bytes, err);
    }
    for (int r = 1; rc == 0 && r < group->size; r++) {
        rc = send_result(group, r, data, r == root ? 0 : bytes, err);
    }
    return rc;
}

static int all_arrive(struct group *group, enum call_kind kind, struct error *err)
{
    int rc = begin_call(group, kind, 0, err);
    if (group->rank != 0) {
        return rc || receive_result(group, NULL, 0, err) ? -1 : 0;
    }
    for (int r = 1; rc == 0 && r < group->size; r++) {
        rc = send_result(group, r, NULL, 0, err);
    }
    return rc;
}

static int tcp_barrier(struct group *group, struct error *err)
{
    return all_arrive(group, CALL_BARRIER, err);
}

// --- the end ---

void tcp_state_release(struct tcp_state *state, int size)
{
    for (int r = 0; r < size; r++) {
        if (state->peers[r].fd >= 0) {
            close(state->peers[r].fd);
        }
    }
    free(state->peers);
    free(state->polls);
    free(state->pieces);
    free(state);
}

// A connection that is closed before all was read from it is reset, and what was sent is lost.
static void read_out(int fd, double end)
{
    unsigned char unread[4096];
    for (;;) {
        const ssize_t got = recv(fd, unread, sizeof(unread), MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) ||
            clock_seconds() > end) {
            return;
        }
        struct pollfd polled = {.fd = fd, .events = POLLIN};
        if (got < 0) {
            (void)poll(&polled, 1, POLL_MS);
        }
    }
}

// The other ranks, which wait in a call, learn why it fails: as far as it can be told at once.
static void tell_failure(struct group *group)
{
    struct {
        uint32_t outcome;
        struct error error;
    } message = {OUTCOME_FAILED, group->failure};
    for (int r = 1; r < group->size; r++) {
        const int fd = peer_of(group, r)->fd;
        (void)send(fd, &message, sizeof(message), MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)shutdown(fd, SHUT_WR);
    }
    const double end = clock_seconds() + LAST_WORDS_SECONDS;
    for (int r = 1; r < group->size; r++) {
        read_out(peer_of(group, r)->fd, end);
    }
}

// Waits until every rank closes, so that nobody's last call is cut off.
static void tcp_close(struct group *group)
{
    struct error ignored;
    if (group->broken) {
        if (group->rank == 0) {
            tell_failure(group);
        }
        group_await_last_words(group);
    } else if (all_arrive(group, CALL_LEAVE, &ignored) != 0 && group->rank == 0) {
        error_set(&group->failure, "rank 0 left the group after its call number %" PRIu64,
                  group->sequence);
        tell_failure(group);
    }
    tcp_state_release(group->state, group->rank == 0 ? group->size : 1);
}

const struct group_ops tcp_ops = {
    .transport = "tcp",
    .all_reduce = tcp_all_reduce,
    .reduce_scatter = tcp_reduce_scatter,
    .all_gather = tcp_all_gather,
    .broadcast = tcp_broadcast,
    .barrier = tcp_barrier,
    .close = tcp_close,
};
