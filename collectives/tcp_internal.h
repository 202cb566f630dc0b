// SPDX-License-Identifier: Apache-2.0
// Ranks over TCP, in host memory: tcp_meet.c brings them together, tcp.c makes the calls.
//
// Rank 0 has a connection to every other rank, and nobody else has one. A call over n bytes:
//
//     rank r to rank 0     head: which call, its number and bytes; then this rank's part
//     rank 0 to rank r     OUTCOME_GOOD, then what comes out; or OUTCOME_FAILED and a text
//
// Sums go through in pieces, so that nobody sends what nobody reads: a rank sends a piece and
// waits for its sum; rank 0 takes a piece of each rank in turn. All ranks run one program on
// machines of one kind: structures travel as they are in memory.
#ifndef MEMO_COLLECTIVES_TCP_INTERNAL_H
#define MEMO_COLLECTIVES_TCP_INTERNAL_H

#include "collectives/group_internal.h"

#include <limits.h>
#include <poll.h>

struct tcp_peer {
    int fd; // -1: none
    char host[HOST_NAME_MAX + 1];
};

struct tcp_state {
    // Of rank 0: [size], its own is unused. Of others: one, rank 0.
    struct tcp_peer *peers;
    struct pollfd *polls;  // [size]
    unsigned char *pieces; // of rank 0: [size][TCP_PIECE_BYTES], a sum's terms
};

#define TCP_PIECE_BYTES (64u << 10)

extern const struct group_ops tcp_ops; // of a group whose state is a struct tcp_state

// Brings the ranks of a job together: rank 0 listens, and leaves its address and a secret in a file
// of `directory` (id_file.h). hosts_are_one: connections never leave the machine. An error names
// the ranks that did not come within `seconds`.
int tcp_meet(const char *directory, int rank, int size, bool hosts_are_one, double seconds,
             struct group **out, struct error *err);

void tcp_state_release(struct tcp_state *state, int size);

#endif
