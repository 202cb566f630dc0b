// SPDX-License-Identifier: Apache-2.0
// The HTTP side of serving (libmicrohttpd, a thread of its own): takes calls, and sends what the
// thread that computes answers. One thread computes; all functions here are its own.
//
//     POST /v1/chat/completions   handed over by server_take
//     GET  /v1/models, /metrics   as server_publish gave them
//     GET  /health                "ok", without a key
//
// With a key, calls want "Authorization: Bearer KEY" and get 401 without it; without one, a server
// on loopback answers 403 to a Host that is not this machine. Bodies above SERVER_BODY_BYTES get
// 413; when SERVER_WAITING_CALLS wait, or SERVER_BODIES_BYTES of bodies are held, a call gets 503.
// A connection without a call, or that does not go on with one, is closed after
// SERVER_IDLE_SECONDS.
#ifndef MEMO_WORKER_SERVE_SERVER_H
#define MEMO_WORKER_SERVE_SERVER_H

#include "base/error.h"
#include "base/strbuf.h"

#include <stdbool.h>
#include <stddef.h>

#define SERVER_CONNECTIONS 1000
#define SERVER_WAITING_CALLS 512
#define SERVER_BODY_BYTES ((size_t)16 << 20)
#define SERVER_BODIES_BYTES ((size_t)256 << 20)
#define SERVER_IDLE_SECONDS 60
#define SERVER_LAST_MS 5000 // that clients have to receive the last answers when it closes

struct server;
struct exchange; // a call, from server_take until it is answered, ended or dropped

// Listens on host, an address or a name that resolves to one, and port; 0: any free one. key: NULL
// or "" for none; copied.
int server_open(const char *host, int port, const char *key, struct server **out,
                struct error *err);
// New calls get 503 from now on; those that were handed over can still be answered.
void server_stop_accepting(struct server *server);
// Accepts NULL. Exchanges not answered get 503; answers that were given are still sent.
void server_close(struct server *server);

// Beyond this machine and without a key: whoever reaches it may ask.
bool server_is_open_to_all(const struct server *server);
const char *server_url(const struct server *server); // "http://127.0.0.1:8000/"

enum server_document { SERVER_MODELS, SERVER_METRICS, SERVER_DOCUMENTS };
void server_publish(struct server *server, enum server_document document, const char *text,
                    size_t bytes); // copied

// The next call; NULL when none came for wait_ms.
struct exchange *server_take(struct server *server, int wait_ms);
const char *exchange_body(const struct exchange *exchange, size_t *bytes);

// The whole answer, JSON; status of HTTP. The exchange is not the caller's any more.
void exchange_answer(struct exchange *exchange, int status, const struct strbuf *json);

// Or piece by piece, as server-sent events (text/event-stream).
void exchange_begin_events(struct exchange *exchange);
void exchange_event(struct exchange *exchange, const struct strbuf *data);
void exchange_end_events(struct exchange *exchange); // "[DONE]"; not the caller's any more

// Looks at the connections of all exchanges handed over; afterwards exchange_hung_up says whose
// client has gone.
void server_look_for_hangups(struct server *server);
bool exchange_hung_up(const struct exchange *exchange);
// Ends it without an answer; not the caller's any more.
void exchange_drop(struct exchange *exchange);

#endif
