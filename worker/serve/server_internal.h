// SPDX-License-Identifier: Apache-2.0
// Inside the server. Two threads: the library's, which runs the callbacks of server_calls.c, and
// the one that computes (exchange.c). All fields of exchanges and of the server that both touch are
// guarded by server->lock. While a call waits its connection is suspended, and the library cannot
// end it; so the thread that computes looks for clients that have gone itself.
#ifndef MEMO_WORKER_SERVE_SERVER_INTERNAL_H
#define MEMO_WORKER_SERVE_SERVER_INTERNAL_H

#include "worker/serve/server.h"

#include <microhttpd.h>
#include <pthread.h>

enum exchange_state {
    EXCHANGE_READING,  // the body comes in
    EXCHANGE_WAITING,  // for server_take
    EXCHANGE_HELD,     // by the thread that computes
    EXCHANGE_ANSWERED, // the library sends it
};

struct exchange {
    struct server *server;
    struct exchange *next, *previous; // of all that wait or are held
    struct MHD_Connection *connection;
    int socket;
    enum exchange_state state;
    bool suspended;
    bool has_head; // the body has begun to be read
    bool too_large;
    bool hung_up; // seen by server_look_for_hangups, or the library has ended the connection
    bool gone;    // the library knows it no more: whoever holds it frees it
    struct strbuf body;

    int status;
    struct strbuf out; // what is to be sent; events are taken from its begin
    size_t sent;
    bool events;
    bool events_end;
};

struct server {
    struct MHD_Daemon *daemon;
    char *key;
    bool loopback;
    char url[96];

    pthread_mutex_t lock;
    pthread_cond_t came;
    struct exchange ring; // head; in order of arrival
    size_t waiting, body_bytes;
    size_t exchanges; // that exist; `gone` is signalled when there is none
    pthread_cond_t gone;
    bool stopping;
    struct strbuf documents[SERVER_DOCUMENTS];
};

// The library's callbacks; state is the server.
enum MHD_Result server_on_request(void *state, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_bytes, void **request);
void server_on_completed(void *state, struct MHD_Connection *connection, void **request,
                         enum MHD_RequestTerminationCode code);

// With the lock held. Gone from the ring; the memory of one that both threads have done with.
void exchange_unlink(struct exchange *exchange);
void exchange_destroy(struct exchange *exchange);
// With the lock held: the library ends what is left of it; cut: without its answer.
void exchange_give_back(struct exchange *exchange);
void exchange_cut(struct exchange *exchange);

#endif
