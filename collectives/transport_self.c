// SPDX-License-Identifier: Apache-2.0
// One rank: what is posted waits in a list until it is polled.
#include "collectives/transport_internal.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

struct self_message {
    struct self_message *next;
    char *bytes;
    size_t length;
};

struct self_state {
    struct self_message *first;
    struct self_message *last; // valid when first is
};

static void self_post(struct transport *transport, int peer, const void *bytes, size_t length)
{
    (void)peer;
    struct self_state *state = transport->state;
    struct self_message *message = mem_calloc(1, sizeof(*message));
    message->bytes = mem_calloc(length + 1, 1); // a NUL behind it, for those that print text
    message->length = length;
    if (length != 0) {
        memcpy(message->bytes, bytes, length);
    }
    if (state->first == NULL) {
        state->first = message;
    } else {
        state->last->next = message;
    }
    state->last = message;
}

static bool self_poll(struct transport *transport, struct transport_message *out)
{
    struct self_state *state = transport->state;
    struct self_message *message = state->first;
    if (message == NULL) {
        return false;
    }
    state->first = message->next;
    *out = (struct transport_message){0, message->bytes, message->length};
    free(message);
    return true;
}

static bool self_idle(const struct transport *transport)
{
    (void)transport; // a posted message has arrived already
    return true;
}

static void self_close(struct transport *transport)
{
    struct transport_message message;
    while (self_poll(transport, &message)) {
        free(message.bytes);
    }
    free(transport->state);
}

static const struct transport_ops self_ops = {self_post, self_poll, self_idle, self_close};

void transport_self_init(struct transport *transport)
{
    transport->ops = &self_ops;
    transport->state = mem_calloc(1, sizeof(struct self_state));
}
