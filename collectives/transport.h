// SPDX-License-Identifier: Apache-2.0
// Small messages between ranks for the control plane: nothing here ever waits. Messages of one
// sender arrive in the order they were posted. With one rank, messages to rank 0 come back to it.
#ifndef MEMO_COLLECTIVES_TRANSPORT_H
#define MEMO_COLLECTIVES_TRANSPORT_H

#include "collectives/group.h"

#define TRANSPORT_MAX_BYTES (1u << 20) // one message; larger data goes through files
#define TRANSPORT_CLOSE_SECONDS 5.0    // a rank that does not close by then is dead or stuck

struct transport;

struct transport_message {
    int peer;
    char *bytes; // owned by the receiver: free()
    size_t length;
};

// Over MPI or within a group of one. Collective.
int transport_open(struct group *group, struct transport **out, struct error *err);

// Drops what was not delivered; close it before the group. Over MPI it lets what is in flight
// arrive until every rank has closed, for at most TRANSPORT_CLOSE_SECONDS. Accepts NULL.
void transport_close(struct transport *transport);

// Copies the bytes and returns at once.
int transport_post(struct transport *transport, int peer, const void *bytes, size_t length,
                   struct error *err);

// Moves sends forward and takes one message if there is one: 1 and *out, 0 none, -1 error.
int transport_poll(struct transport *transport, struct transport_message *out, struct error *err);

// True when every posted message has left this rank.
bool transport_idle(const struct transport *transport);

#endif
