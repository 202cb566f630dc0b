// SPDX-License-Identifier: Apache-2.0
// What a way of carrying messages provides; transport.c checks the arguments.
#ifndef MEMO_COLLECTIVES_TRANSPORT_INTERNAL_H
#define MEMO_COLLECTIVES_TRANSPORT_INTERNAL_H

#include "collectives/transport.h"

struct transport_ops {
    void (*post)(struct transport *transport, int peer, const void *bytes, size_t length);
    bool (*poll)(struct transport *transport, struct transport_message *out);
    bool (*idle)(const struct transport *transport);
    void (*close)(struct transport *transport); // releases state, not the transport itself
};

struct transport {
    const struct transport_ops *ops;
    void *state;
    int size;
};

void transport_self_init(struct transport *transport);
int transport_mpi_init(struct transport *transport, struct group *group, struct error *err);

#endif
