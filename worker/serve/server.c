// SPDX-License-Identifier: Apache-2.0
#include "worker/serve/server_internal.h"

#include "base/clock.h"
#include "base/http_access.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LISTEN_BACKLOG = 1024 };
#define CONNECTION_BYTES ((size_t)32 << 10) // of memory, for heads

static void on_log(void *state, const char *format, va_list args)
{
    (void)state, (void)format, (void)args; // what strangers send is not worth a line
}

static int start(struct server *server, const struct addrinfo *address, struct error *err)
{
    server->loopback = http_address_is_loopback(address->ai_addr); // asked from the first call on
    const unsigned v6 = address->ai_family == AF_INET6 ? MHD_USE_IPv6 : 0;
    errno = 0;
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | v6, 0, NULL,
        NULL, server_on_request, server, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
        MHD_OPTION_SOCK_ADDR, address->ai_addr, MHD_OPTION_LISTEN_BACKLOG_SIZE,
        (unsigned)LISTEN_BACKLOG, MHD_OPTION_CONNECTION_LIMIT, (unsigned)SERVER_CONNECTIONS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_BYTES, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)SERVER_IDLE_SECONDS, MHD_OPTION_NOTIFY_COMPLETED, server_on_completed, server,
        MHD_OPTION_END);
    if (!server->daemon)
        return error_set_errno(err, errno ? errno : EADDRINUSE, "cannot listen");
    http_url_format(address, MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_BIND_PORT)->port,
                    server->url, sizeof server->url);
    return 0;
}

static void init_waiting(struct server *server)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&server->came, &attributes);
    pthread_cond_init(&server->gone, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&server->lock, NULL);
    server->ring.next = server->ring.previous = &server->ring;
}

int server_open(const char *host, int port, const char *key, struct server **out, struct error *err)
{
    struct addrinfo *address = NULL;
    struct server *server = mem_calloc(1, sizeof *server);
    init_waiting(server);
    server->key = key && key[0] ? mem_strdup(key) : NULL;
    int rc = http_listen_resolve(host, port, &address, err);
    if (rc == 0)
        rc = start(server, address, err);
    if (address)
        freeaddrinfo(address);
    if (rc != 0) {
        server_close(server);
        return error_prefix(err, "server on %s port %d", host, port);
    }
    *out = server;
    return 0;
}

void server_stop_accepting(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    server->stopping = true;
    pthread_mutex_unlock(&server->lock);
}

bool server_is_open_to_all(const struct server *server)
{
    return !server->loopback && !server->key;
}

const char *server_url(const struct server *server)
{
    return server->url;
}

void server_publish(struct server *server, enum server_document document, const char *text,
                    size_t bytes)
{
    pthread_mutex_lock(&server->lock);
    strbuf_reset(&server->documents[document]);
    strbuf_add(&server->documents[document], text, bytes);
    pthread_mutex_unlock(&server->lock);
}

// The library refuses to stop while connections are suspended, and when it stops it cuts those that
// have not been sent all of their answer: they get some time for it.
static void drop_all(struct server *server)
{
    const struct timespec deadline = clock_deadline(SERVER_LAST_MS);
    server_stop_accepting(server);
    pthread_mutex_lock(&server->lock);
    while (server->ring.next != &server->ring) {
        struct exchange *exchange = server->ring.next;
        if (exchange->state == EXCHANGE_WAITING)
            server->waiting--;
        exchange_cut(exchange);
    }
    while (server->exchanges > 0)
        if (pthread_cond_timedwait(&server->gone, &server->lock, &deadline) != 0)
            break;
    pthread_mutex_unlock(&server->lock);
}

void server_close(struct server *server)
{
    if (!server)
        return;
    if (server->daemon) {
        drop_all(server);
        MHD_stop_daemon(server->daemon);
    }
    pthread_mutex_destroy(&server->lock);
    pthread_cond_destroy(&server->came);
    pthread_cond_destroy(&server->gone);
    for (int i = 0; i < SERVER_DOCUMENTS; i++)
        strbuf_release(&server->documents[i]);
    free(server->key);
    free(server);
}
