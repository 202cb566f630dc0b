// SPDX-License-Identifier: Apache-2.0
#include "coordinator/status/server.h"

#include "base/clock.h"
#include "base/http_access.h"
#include "base/mem.h"
#include "coordinator/status/page.h"

#include <assert.h>
#include <errno.h>
#include <microhttpd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define LISTEN_BACKLOG 1024
#define OWN_DESCRIPTORS 128 // that the rest of the process needs, however many clients come
#define CHECK_SECONDS 0.5   // between looks for connections that have lasted too long
#define AGAIN_MS 1          // the library has more to do than it did in one go
#define CUT_CONNECTIONS 64  // at one look at most; the rest at the next

// One connection, from accept to close, in the order of arrival.
struct client {
    struct client *next, *previous;
    double since_seconds;
    int socket;
    bool cut;
};

enum document { DOCUMENT_PAGE, DOCUMENT_STATUS, DOCUMENT_METRICS, DOCUMENTS };

struct status_server {
    struct MHD_Daemon *daemon;
    uv_poll_t poll;
    uv_timer_t timer;
    struct MHD_Response *documents[DOCUMENTS];
    struct client clients; // head of the ring
    char *key;
    bool loopback;
    char url[96];
};

static void add_headers(struct MHD_Response *response, const char *type)
{
    static const char *const headers[][2] = {
        {"Connection", "close"},
        {"Cache-Control", "no-store"},
        {"X-Content-Type-Options", "nosniff"},
        {"Referrer-Policy", "no-referrer"},
        {"Content-Security-Policy",
         "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
         "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
         "frame-ancestors 'none'"},
    };
    for (size_t i = 0; i < sizeof(headers) / sizeof(headers[0]); i++)
        (void)MHD_add_response_header(response, headers[i][0], headers[i][1]);
    (void)MHD_add_response_header(response, "Content-Type", type);
}

static struct MHD_Response *make_response(const char *bytes, size_t length, const char *type)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(length, (void *)bytes, MHD_RESPMEM_MUST_COPY);
    if (response)
        add_headers(response, type);
    return response;
}

static enum MHD_Result answer_text(struct MHD_Connection *connection, unsigned status,
                                   const char *text, const char *header, const char *value)
{
    struct MHD_Response *response = make_response(text, strlen(text), "text/plain; charset=utf-8");
    if (!response)
        return MHD_NO;
    if (header)
        (void)MHD_add_response_header(response, header, value);
    const enum MHD_Result rc = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return rc;
}

static bool is_authorized(const struct status_server *server, struct MHD_Connection *connection)
{
    return !server->key || http_bearer_matches(MHD_lookup_connection_value(
                                                   connection, MHD_HEADER_KIND, "Authorization"),
                                               server->key);
}

static bool host_is_allowed(const struct status_server *server, struct MHD_Connection *connection)
{
    return server->key || !server->loopback ||
           http_host_is_local(MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host"));
}

static int find_document(const char *path)
{
    static const char *const paths[DOCUMENTS] = {"/", "/status", "/metrics"};
    for (int i = 0; i < DOCUMENTS; i++) {
        if (strcmp(path, paths[i]) == 0)
            return i;
    }
    return -1;
}

// Called when a request's head is complete; a body is never read.
static enum MHD_Result on_request(void *state, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_bytes, void **request)
{
    struct status_server *server = state;
    (void)version, (void)upload, (void)upload_bytes, (void)request;
    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0)
        return answer_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n", "Allow",
                           "GET, HEAD");
    if (!host_is_allowed(server, connection))
        return answer_text(connection, MHD_HTTP_FORBIDDEN,
                           "this server answers to localhost only\n", NULL, NULL);
    const int document = find_document(path);
    if (document < 0)
        return answer_text(connection, MHD_HTTP_NOT_FOUND, "try /, /status or /metrics\n", NULL,
                           NULL);
    if (document != DOCUMENT_PAGE && !is_authorized(server, connection))
        return answer_text(connection, MHD_HTTP_UNAUTHORIZED,
                           "the key of the run is needed: Authorization: Bearer KEY\n",
                           "WWW-Authenticate", "Bearer");
    if (!server->documents[document])
        return answer_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "the run is starting\n",
                           "Retry-After", "1");
    return MHD_queue_response(connection, MHD_HTTP_OK, server->documents[document]);
}

static void on_connection(void *state, struct MHD_Connection *connection, void **context,
                          enum MHD_ConnectionNotificationCode code)
{
    struct status_server *server = state;
    struct client *client = *context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        client = mem_calloc(1, sizeof(*client));
        client->since_seconds = clock_seconds();
        client->socket =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
        client->next = &server->clients;
        client->previous = server->clients.previous;
        client->previous->next = client->next->previous = client;
        *context = client;
    } else if (client) {
        client->previous->next = client->next;
        client->next->previous = client->previous;
        free(client);
        *context = NULL;
    }
}

static void on_log(void *state, const char *format, va_list args)
{
    (void)state, (void)format, (void)args; // what strangers send is not worth a line
}

// The library notices that the socket has ended and closes the connection.
static void cut_old_clients(struct status_server *server)
{
    const double oldest = clock_seconds() - STATUS_CONNECTION_SECONDS;
    int cut = 0;
    for (struct client *c = server->clients.next;
         c != &server->clients && c->since_seconds < oldest && cut < CUT_CONNECTIONS; c = c->next) {
        if (c->cut)
            continue;
        shutdown(c->socket, SHUT_RDWR);
        c->cut = true;
        cut++;
    }
}

static void on_timer(uv_timer_t *timer);

static void serve(struct status_server *server)
{
    MHD_UNSIGNED_LONG_LONG ms;
    MHD_run(server->daemon);
    const bool again = MHD_get_timeout(server->daemon, &ms) == MHD_YES && ms == 0;
    uv_timer_start(&server->timer, on_timer, again ? AGAIN_MS : (uint64_t)(CHECK_SECONDS * 1e3), 0);
}

static void on_timer(uv_timer_t *timer)
{
    struct status_server *server = timer->data;
    cut_old_clients(server);
    serve(server);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    (void)status, (void)events;
    serve(poll->data);
}

// Descriptors for clients, without taking those that the run itself will need.
static unsigned connection_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return STATUS_CONNECTIONS / 10;
    if (limit.rlim_cur < STATUS_CONNECTIONS + OWN_DESCRIPTORS && limit.rlim_cur < limit.rlim_max) {
        const rlim_t wanted = STATUS_CONNECTIONS + OWN_DESCRIPTORS;
        limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
            return STATUS_CONNECTIONS / 10;
    }
    if (limit.rlim_cur >= STATUS_CONNECTIONS + OWN_DESCRIPTORS)
        return STATUS_CONNECTIONS;
    return limit.rlim_cur > 2 * OWN_DESCRIPTORS ? (unsigned)limit.rlim_cur - OWN_DESCRIPTORS
                                                : (unsigned)limit.rlim_cur / 4 + 1;
}

static int start(struct status_server *server, const struct addrinfo *address, struct error *err)
{
    const unsigned v6 = address->ai_family == AF_INET6 ? MHD_USE_IPv6 : 0;
    errno = 0;
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_ERROR_LOG | v6, 0, NULL, NULL, on_request, server,
        MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_SOCK_ADDR, address->ai_addr,
        MHD_OPTION_LISTEN_BACKLOG_SIZE, (unsigned)LISTEN_BACKLOG, MHD_OPTION_CONNECTION_LIMIT,
        connection_limit(), MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)STATUS_CONNECTION_BYTES,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)STATUS_CONNECTION_SECONDS,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, server, MHD_OPTION_END);
    if (!server->daemon)
        return error_set_errno(err, errno ? errno : EADDRINUSE, "cannot listen");
    server->loopback = http_address_is_loopback(address->ai_addr);
    http_url_format(address, MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_BIND_PORT)->port,
                    server->url, sizeof(server->url));
    return 0;
}

int status_server_open(const char *host, int port, const char *key, struct status_server **out,
                       struct error *err)
{
    struct addrinfo *address = NULL;
    struct status_server *server = mem_calloc(1, sizeof(*server));
    server->clients.next = server->clients.previous = &server->clients;
    server->key = key && key[0] ? mem_strdup(key) : NULL;
    int rc = http_listen_resolve(host, port, &address, err);
    if (rc == 0)
        rc = start(server, address, err);
    if (address)
        freeaddrinfo(address);
    if (rc != 0) {
        status_server_close(server);
        return error_prefix(err, "status server on %s port %d", host, port);
    }
    server->documents[DOCUMENT_PAGE] =
        make_response(status_page, status_page_bytes, "text/html; charset=utf-8");
    *out = server;
    return 0;
}

void status_server_close(struct status_server *server)
{
    if (!server)
        return;
    if (server->daemon)
        MHD_stop_daemon(server->daemon);
    for (int i = 0; i < DOCUMENTS; i++) {
        if (server->documents[i])
            MHD_destroy_response(server->documents[i]);
    }
    free(server->key);
    free(server);
}

const char *status_server_url(const struct status_server *server)
{
    return server->url;
}

int status_server_attach(struct status_server *server, uv_loop_t *loop, struct error *err)
{
    const int fd = MHD_get_daemon_info(server->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    server->poll.data = server->timer.data = server;
    int rc = uv_timer_init(loop, &server->timer);
    if (rc == 0)
        rc = uv_timer_start(&server->timer, on_timer, AGAIN_MS, 0);
    if (rc == 0)
        rc = uv_poll_init(loop, &server->poll, fd);
    if (rc == 0)
        rc = uv_poll_start(&server->poll, UV_READABLE, on_readable);
    return rc == 0 ? 0 : error_set(err, "status server: %s", uv_strerror(rc));
}

static void replace(struct status_server *server, enum document document,
                    const struct strbuf *bytes, const char *type)
{
    struct MHD_Response *response = make_response(bytes->bytes, bytes->length, type);
    if (!response)
        return; // the last one stays
    if (server->documents[document])
        MHD_destroy_response(server->documents[document]); // those being sent keep it
    server->documents[document] = response;
}

void status_server_publish(struct status_server *server, const struct strbuf *json,
                           const struct strbuf *metrics)
{
    replace(server, DOCUMENT_STATUS, json, "application/json");
    replace(server, DOCUMENT_METRICS, metrics, "text/plain; version=0.0.4; charset=utf-8");
}
