// SPDX-License-Identifier: Apache-2.0
// Where a server of ours listens, and who may ask it.
#ifndef MEMO_BASE_HTTP_ACCESS_H
#define MEMO_BASE_HTTP_ACCESS_H

#include "base/error.h"

#include <netdb.h>
#include <stdbool.h>
#include <stddef.h>

// host: an address, or a name that resolves to one. The caller frees *out with freeaddrinfo.
int http_listen_resolve(const char *host, int port, struct addrinfo **out, struct error *err);
bool http_address_is_loopback(const struct sockaddr *address);
// "http://127.0.0.1:8123/"
void http_url_format(const struct addrinfo *address, int port, char *out, size_t out_bytes);

// Whether the value of an Authorization header is "Bearer KEY", in a time that depends on the
// lengths alone. NULL is no header.
bool http_bearer_matches(const char *authorization, const char *key);

// Whether the value of a Host header names this machine: a server on loopback without a key answers
// no other, so that no web page reaches it by a name of its own. NULL, no header, does.
bool http_host_is_local(const char *host);

#endif
