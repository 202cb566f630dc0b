// SPDX-License-Identifier: Apache-2.0
// Small messages between ranks for the control plane: nothing here ever waits. Messages of one sender
// arrive in the order they were posted. With one rank, messages to rank 0 come back to it.
#ifndef MEMO_COLLECTIVES_TRANSPORT_H
#define MEMO_COLLECTIVES_TRANSPORT_H

#include "collectives/group.h"

#define TRANSPORT_MAX_BYTES (1u << 20) // one message; larger data goes through files

struct transport;

struct transport_message {
    int peer;
    char *bytes; // owned by the receiver: free()
    size_t length;
};

int transport_open(struct group *group, struct transport **out, struct error *err);
void transport_close(struct transport *transport); // drops what was not delivered

// Copies the bytes and returns at once.
int transport_post(struct transport *transport, int peer, const void *bytes, size_t length,
                   struct error *err);

// Moves sends forward and takes one message if there is one: 1 and *out, 0 none, -1 error.
int transport_poll(struct transport *transport, struct transport_message *out, struct error *err);

// True when every posted message has left this rank.
bool transport_idle(const struct transport *transport);

#endif
