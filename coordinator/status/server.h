// SPDX-License-Identifier: Apache-2.0
// The status server of a run: a small HTTP server (libmicrohttpd) on the caller's libuv loop.
//
//     GET /          the page (page.html); it holds no data of the run, and asks for /status
//     GET /status    application/json, see view.h
//     GET /metrics   text/plain; version=0.0.4, the Prometheus text format
//
// HEAD as GET; another method is 405, another path 404. With a key, /status and /metrics want
// "Authorization: Bearer KEY" and answer 401 without it; without a key, a server on loopback
// answers 403 to a Host that is not this machine, so that no web page reaches it by a name of its
// own.
//
// It never holds up the loop: documents are rendered by the owner, once, and sent from memory; no
// socket blocks; a connection serves one request, and is cut after STATUS_CONNECTION_SECONDS
// however slowly it reads or writes; a request's head is limited to STATUS_CONNECTION_BYTES;
// connections beyond STATUS_CONNECTIONS wait in the kernel's queue until others end.
#ifndef MEMO_COORDINATOR_STATUS_SERVER_H
#define MEMO_COORDINATOR_STATUS_SERVER_H

#include "base/error.h"
#include "base/strbuf.h"

#include <uv.h>

#define STATUS_CONNECTIONS 1000
#define STATUS_CONNECTION_SECONDS 15.0
#define STATUS_CONNECTION_BYTES 16384 // of memory; a browser's head takes about 1 KiB

struct status_server;

// Listens on host, an address or a name that resolves to one, and port; 0: any free one. key: NULL
// or "" for none; copied. No request is answered before status_server_attach.
int status_server_open(const char *host, int port, const char *key, struct status_server **out,
                       struct error *err);
// Accepts NULL. The loop that it was attached to must be closed, or have closed its handles.
void status_server_close(struct status_server *server);

const char *status_server_url(const struct status_server *server); // "http://127.0.0.1:8123/"

// Adds its handles to the loop, which closes them (no close callback is needed). May be attached to
// another loop afterwards.
int status_server_attach(struct status_server *server, uv_loop_t *loop, struct error *err);

// What is answered from now on; the bytes are copied.
void status_server_publish(struct status_server *server, const struct strbuf *json,
                           const struct strbuf *metrics);

#endif
