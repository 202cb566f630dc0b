// SPDX-License-Identifier: Apache-2.0
#include "base/http_access.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

int http_listen_resolve(const char *host, int port, struct addrinfo **out, struct error *err)
{
    const struct addrinfo hints = {.ai_family = AF_UNSPEC,
                                   .ai_socktype = SOCK_STREAM,
                                   .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    char service[16];
    snprintf(service, sizeof(service), "%d", port);
    const int rc = getaddrinfo(host, service, &hints, out);
    return rc == 0 ? 0 : error_set(err, "'%s' is no address: %s", host, gai_strerror(rc));
}

bool http_address_is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)address)->sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)address)->sin6_addr);
}

void http_url_format(const struct addrinfo *address, int port, char *out, size_t out_bytes)
{
    char host[64] = "";
    (void)getnameinfo(address->ai_addr, address->ai_addrlen, host, sizeof(host), NULL, 0,
                      NI_NUMERICHOST);
    const bool v6 = address->ai_family == AF_INET6;
    snprintf(out, out_bytes, "http://%s%s%s:%d/", v6 ? "[" : "", host, v6 ? "]" : "", port);
}

static bool equal_secrets(const char *given, const char *secret)
{
    const size_t given_length = strlen(given), length = strlen(secret);
    unsigned difference = given_length != length;
    for (size_t i = 0; i < length; i++)
        difference |=
            (unsigned char)secret[i] ^ (unsigned char)given[i < given_length ? i : given_length];
    return difference == 0;
}

bool http_bearer_matches(const char *authorization, const char *key)
{
    static const char scheme[] = "Bearer ";
    return authorization && strncasecmp(authorization, scheme, sizeof(scheme) - 1) == 0 &&
           equal_secrets(authorization + sizeof(scheme) - 1, key);
}

bool http_host_is_local(const char *host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    if (!host)
        return true;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const size_t length = strlen(names[i]);
        if (strncasecmp(host, names[i], length) == 0 && (!host[length] || host[length] == ':'))
            return true;
    }
    return false;
}
