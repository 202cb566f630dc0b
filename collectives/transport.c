// SPDX-License-Identifier: Apache-2.0
#include "collectives/transport.h"

#include "base/mem.h"
#include "collectives/transport_internal.h"

#include <stdlib.h>
#include <string.h>

int transport_open(struct group *group, struct transport **out, struct error *err)
{
    struct transport *transport = mem_calloc(1, sizeof(*transport));
    int rc = 0;
    transport->size = group_size(group);
    if (strcmp(group_transport(group), "mpi") == 0) {
        rc = transport_mpi_init(transport, group, err);
    } else if (transport->size == 1) {
        transport_self_init(transport);
    } else {
        rc = error_set(err, "no messages between the %d ranks of a group over '%s'; use mpirun",
                       transport->size, group_transport(group));
    }
    if (rc != 0) {
        free(transport);
        return -1;
    }
    *out = transport;
    return 0;
}

void transport_close(struct transport *transport)
{
    if (transport == NULL) {
        return;
    }
    transport->ops->close(transport);
    free(transport);
}

int transport_post(struct transport *transport, int peer, const void *bytes, size_t length,
                   struct error *err)
{
    if (peer < 0 || peer >= transport->size) {
        return error_set(err, "message to rank %d, but there are %d ranks", peer, transport->size);
    }
    if (length > TRANSPORT_MAX_BYTES) {
        return error_set(err,
                         "message of %zu bytes to rank %d, but at most %u fit; larger data goes "
                         "through files",
                         length, peer, TRANSPORT_MAX_BYTES);
    }
    transport->ops->post(transport, peer, bytes, length);
    return 0;
}

int transport_poll(struct transport *transport, struct transport_message *out, struct error *err)
{
    (void)err; // today's carriers abort on their own errors
    return transport->ops->poll(transport, out) ? 1 : 0;
}

bool transport_idle(const struct transport *transport)
{
    return transport->ops->idle(transport);
}
