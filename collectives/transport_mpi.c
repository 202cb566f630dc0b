// SPDX-License-Identifier: Apache-2.0
// Messages over MPI, on a communicator of their own, by calls that return at once.
//
// Sending: a copy of the bytes per message, in one list per receiver; MPI completes the sends to
// one receiver in order, so only the heads are tested, and a receiver that died holds up nobody
// else. Receiving: a matched probe finds the next message of anybody, its receive runs in the
// background, and messages of one sender are handed out in the order in which they were matched,
// which MPI keeps equal to the order of posting. A sender that died in the middle of a message
// leaves an entry in the list of arrivals that never completes; the limit on their number bounds
// memory.
//
// Closing: a farewell follows the last message to each peer (same order, another tag). A rank that
// has said farewell to all and heard it from all, and whose sends are complete, has nothing in
// flight. Until then, or until the time is up, it receives and drops.
#include "collectives/mpi_internal.h"
#include "collectives/transport_internal.h"

#include "base/clock.h"
#include "base/mem.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

// Enough for a burst of every worker; at most 64 MiB. A dead sender blocks one entry per large
// message it had under way, of which a worker has one or two.
#define MAX_ARRIVALS 64

enum { TAG_MESSAGE = 1, TAG_FAREWELL };

struct outgoing {
    struct outgoing *next;
    MPI_Request request;
    char bytes[];
};

struct outbox { // per receiver, oldest first
    struct outgoing *first;
    struct outgoing *last; // valid when first is
};

struct arrival {
    MPI_Request request; // MPI_REQUEST_NULL once complete
    int peer;
    int tag;
    size_t length;
    char *bytes;
};

struct post_state {
    MPI_Comm comm;
    struct outbox *outboxes; // [size]
    size_t unsent;           // messages in all outboxes
    struct arrival arrivals[MAX_ARRIVALS];
    int arrival_count; // oldest first
    int farewells;     // heard
};

static void send_copy(struct transport *transport, int peer, int tag, const void *bytes,
                      size_t length)
{
    struct post_state *state = transport->state;
    struct outbox *box = &state->outboxes[peer];
    struct outgoing *message = mem_calloc(1, sizeof(*message) + length);
    if (length != 0) {
        memcpy(message->bytes, bytes, length);
    }
    MPI_Isend(message->bytes, (int)length, MPI_BYTE, peer, tag, state->comm, &message->request);
    if (box->first == NULL) {
        box->first = message;
    } else {
        box->last->next = message;
    }
    box->last = message;
    state->unsent++;
}

static void mpi_post(struct transport *transport, int peer, const void *bytes, size_t length)
{
    send_copy(transport, peer, TAG_MESSAGE, bytes, length);
}

static void sends_advance(struct transport *transport)
{
    struct post_state *state = transport->state;
    for (int peer = 0; peer < transport->size && state->unsent != 0; peer++) {
        struct outbox *box = &state->outboxes[peer];
        while (box->first != NULL) {
            int done = 0;
            MPI_Test(&box->first->request, &done, MPI_STATUS_IGNORE);
            if (!done) {
                break;
            }
            struct outgoing *sent = box->first;
            box->first = sent->next;
            state->unsent--;
            free(sent);
        }
    }
}

// Begins to receive everything that has been announced and fits into the list.
static void arrivals_match(struct post_state *state)
{
    while (state->arrival_count < MAX_ARRIVALS) {
        int found = 0;
        MPI_Message handle;
        MPI_Status status;
        MPI_Improbe(MPI_ANY_SOURCE, MPI_ANY_TAG, state->comm, &found, &handle, &status);
        if (!found) {
            return;
        }
        int length = 0;
        MPI_Get_count(&status, MPI_BYTE, &length);
        struct arrival *arrival = &state->arrivals[state->arrival_count++];
        *arrival = (struct arrival){.peer = status.MPI_SOURCE, .tag = status.MPI_TAG};
        arrival->length = (size_t)length;
        arrival->bytes = mem_alloc((size_t)length + 1);
        arrival->bytes[length] = '\0'; // for those that print text
        MPI_Imrecv(arrival->bytes, length, MPI_BYTE, &handle, &arrival->request);
    }
}

static bool arrival_is_first_of_peer(const struct post_state *state, int index)
{
    for (int i = 0; i < index; i++) {
        if (state->arrivals[i].peer == state->arrivals[index].peer) {
            return false;
        }
    }
    return true;
}

static struct arrival arrival_remove(struct post_state *state, int index)
{
    struct arrival arrival = state->arrivals[index];
    state->arrival_count--;
    memmove(&state->arrivals[index], &state->arrivals[index + 1],
            (size_t)(state->arrival_count - index) * sizeof(arrival));
    return arrival;
}

// Takes the oldest complete message that no earlier one of its sender precedes.
static bool arrival_take(struct post_state *state, struct transport_message *out)
{
    for (int i = 0; i < state->arrival_count;) {
        int done = 0;
        MPI_Test(&state->arrivals[i].request, &done, MPI_STATUS_IGNORE);
        if (!done || !arrival_is_first_of_peer(state, i)) {
            i++;
            continue;
        }
        struct arrival arrival = arrival_remove(state, i);
        if (arrival.tag == TAG_MESSAGE) {
            *out = (struct transport_message){arrival.peer, arrival.bytes, arrival.length};
            return true;
        }
        state->farewells++;
        free(arrival.bytes);
    }
    return false;
}

static bool mpi_poll(struct transport *transport, struct transport_message *out)
{
    sends_advance(transport);
    arrivals_match(transport->state);
    return arrival_take(transport->state, out);
}

static bool mpi_idle(const struct transport *transport)
{
    const struct post_state *state = transport->state;
    return state->unsent == 0;
}

static void mpi_close(struct transport *transport)
{
    struct post_state *state = transport->state;
    double begin = clock_seconds();
    for (int peer = 0; peer < transport->size; peer++) {
        send_copy(transport, peer, TAG_FAREWELL, NULL, 0);
    }
    while (state->unsent != 0 || state->farewells < transport->size) {
        struct transport_message message;
        if (mpi_poll(transport, &message)) {
            free(message.bytes);
        } else if (clock_seconds() - begin > TRANSPORT_CLOSE_SECONDS) {
            break;
        } else {
            sched_yield();
        }
    }
    if (state->unsent == 0 && state->arrival_count == 0) {
        MPI_Comm_free(&state->comm);
        free(state->outboxes);
        free(state);
    } // else MPI may still read and write these bytes: they stay until the process ends
}

static const struct transport_ops mpi_ops = {mpi_post, mpi_poll, mpi_idle, mpi_close};

int transport_mpi_init(struct transport *transport, struct group *group, struct error *err)
{
    struct post_state *state = mem_calloc(1, sizeof(*state));
    if (mpi_group_duplicate(group, &state->comm, err) != 0) {
        free(state);
        return error_prefix(err, "cannot open the transport");
    }
    state->outboxes = mem_calloc((size_t)transport->size, sizeof(*state->outboxes));
    transport->ops = &mpi_ops;
    transport->state = state;
    return 0;
}
