// SPDX-License-Identifier: Apache-2.0
// Two threads: the library's, which runs the callbacks below, and the one that computes. All fields
// of exchanges and of the server that both touch are guarded by server->lock. While a call waits
// its connection is suspended, and the library cannot end it; so the thread that computes looks for
// clients that have gone itself.
#include "worker/serve/server.h"

#include "base/http_access.h"
#include "base/mem.h"
#include "worker/serve/chat_reply.h"

#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { LISTEN_BACKLOG = 1024, EVENTS_BLOCK_BYTES = 4096 };
#define CONNECTION_BYTES ((size_t)32 << 10) // of memory, for heads

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

// --- answers of the library's thread ---

static enum MHD_Result answer(struct MHD_Connection *connection, int status, const char *type,
                              const char *text, size_t bytes)
{
    struct MHD_Response *response =
        MHD_create_response_from_buffer(bytes, (void *)text, MHD_RESPMEM_MUST_COPY);
    if (!response)
        return MHD_NO;
    (void)MHD_add_response_header(response, "Content-Type", type);
    (void)MHD_add_response_header(response, "Cache-Control", "no-store");
    (void)MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (status == MHD_HTTP_UNAUTHORIZED)
        (void)MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (status == MHD_HTTP_SERVICE_UNAVAILABLE)
        (void)MHD_add_response_header(response, "Retry-After", "1");
    const enum MHD_Result rc = MHD_queue_response(connection, (unsigned)status, response);
    MHD_destroy_response(response);
    return rc;
}

static enum MHD_Result refuse(struct MHD_Connection *connection, int status, const char *type,
                              const char *message)
{
    struct strbuf json = {0};
    chat_error_write(&json, type, "", message);
    const enum MHD_Result rc =
        answer(connection, status, "application/json", json.bytes, json.length);
    strbuf_release(&json);
    return rc;
}

static const char *header(struct MHD_Connection *connection, const char *name)
{
    return MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
}

// Who may not ask is answered; *rc is then what the callback returns.
static bool is_refused(struct server *server, struct MHD_Connection *connection,
                       enum MHD_Result *rc)
{
    if (server->key && !http_bearer_matches(header(connection, "Authorization"), server->key)) {
        *rc = refuse(connection, MHD_HTTP_UNAUTHORIZED, "authentication_error",
                     "the server's key is needed: Authorization: Bearer KEY");
        return true;
    }
    if (!server->key && server->loopback && !http_host_is_local(header(connection, "Host"))) {
        *rc = refuse(connection, MHD_HTTP_FORBIDDEN, "authentication_error",
                     "this server answers to localhost only");
        return true;
    }
    return false;
}

static enum MHD_Result send_document(struct server *server, struct MHD_Connection *connection,
                                     enum server_document document, const char *type)
{
    pthread_mutex_lock(&server->lock);
    const struct strbuf *text = &server->documents[document];
    const enum MHD_Result rc =
        answer(connection, MHD_HTTP_OK, type, text->length ? text->bytes : "", text->length);
    pthread_mutex_unlock(&server->lock);
    return rc;
}

static enum MHD_Result on_get(struct server *server, struct MHD_Connection *connection,
                              const char *path)
{
    enum MHD_Result rc;
    if (strcmp(path, "/health") == 0)
        return answer(connection, MHD_HTTP_OK, "text/plain; charset=utf-8", "ok\n", 3);
    if (is_refused(server, connection, &rc))
        return rc;
    if (strcmp(path, "/v1/models") == 0)
        return send_document(server, connection, SERVER_MODELS, "application/json");
    if (strcmp(path, "/metrics") == 0)
        return send_document(server, connection, SERVER_METRICS,
                             "text/plain; version=0.0.4; charset=utf-8");
    return refuse(connection, MHD_HTTP_NOT_FOUND, "invalid_request_error",
                  "there are POST /v1/chat/completions and GET /v1/models, /metrics and /health");
}

// --- calls ---

static ssize_t read_events(void *state, uint64_t position, char *buffer, size_t most)
{
    struct exchange *exchange = state;
    struct server *server = exchange->server;
    ssize_t count = 0;
    (void)position;
    pthread_mutex_lock(&server->lock);
    const size_t left = exchange->out.length - exchange->sent;
    if (left > 0) {
        count = (ssize_t)(left < most ? left : most);
        memcpy(buffer, exchange->out.bytes + exchange->sent, (size_t)count);
        exchange->sent += (size_t)count;
    } else if (exchange->events_end) {
        count = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        exchange->out.length = exchange->sent = 0;
        exchange->suspended = true;
        MHD_suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&server->lock);
    return count;
}

static enum MHD_Result send_events(struct exchange *exchange)
{
    struct MHD_Response *response = MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, EVENTS_BLOCK_BYTES, read_events, exchange, NULL);
    if (!response)
        return MHD_NO;
    (void)MHD_add_response_header(response, "Content-Type", "text/event-stream; charset=utf-8");
    (void)MHD_add_response_header(response, "Cache-Control", "no-store");
    const enum MHD_Result rc = MHD_queue_response(exchange->connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return rc;
}

static void link_last(struct server *server, struct exchange *exchange)
{
    exchange->next = &server->ring;
    exchange->previous = server->ring.previous;
    exchange->previous->next = exchange->next->previous = exchange;
}

static void unlink_exchange(struct exchange *exchange)
{
    exchange->previous->next = exchange->next;
    exchange->next->previous = exchange->previous;
    exchange->next = exchange->previous = NULL;
}

// Waits for the thread that computes, or is refused.
static enum MHD_Result hand_over(struct exchange *exchange)
{
    struct server *server = exchange->server;
    pthread_mutex_lock(&server->lock);
    const bool stopping = server->stopping;
    const bool full = server->waiting >= SERVER_WAITING_CALLS;
    if (!stopping && !full && !exchange->too_large) {
        exchange->state = EXCHANGE_WAITING;
        link_last(server, exchange);
        server->waiting++;
        exchange->suspended = true;
        MHD_suspend_connection(exchange->connection);
        pthread_cond_signal(&server->came);
        pthread_mutex_unlock(&server->lock);
        return MHD_YES;
    }
    exchange->state = EXCHANGE_ANSWERED;
    pthread_mutex_unlock(&server->lock);
    if (exchange->too_large)
        return refuse(exchange->connection, MHD_HTTP_CONTENT_TOO_LARGE, "invalid_request_error",
                      "the body is too large");
    return refuse(exchange->connection, MHD_HTTP_SERVICE_UNAVAILABLE, "server_error",
                  stopping ? "the server is stopping" : "too many calls are waiting");
}

static void add_to_body(struct exchange *exchange, const char *bytes, size_t count)
{
    struct server *server = exchange->server;
    pthread_mutex_lock(&server->lock);
    if (exchange->body.length + count > SERVER_BODY_BYTES ||
        server->body_bytes + count > SERVER_BODIES_BYTES)
        exchange->too_large = true;
    else
        server->body_bytes += count;
    pthread_mutex_unlock(&server->lock);
    if (!exchange->too_large)
        strbuf_add(&exchange->body, bytes, count);
}

// Called with the head, with every piece of the body, at its end, and when the connection has been
// resumed.
static enum MHD_Result on_call(struct exchange *exchange, const char *upload, size_t *upload_bytes)
{
    if (!exchange->has_head) {
        exchange->has_head = true;
        return MHD_YES;
    }
    if (*upload_bytes > 0) {
        add_to_body(exchange, upload, *upload_bytes);
        *upload_bytes = 0;
        return MHD_YES;
    }
    if (exchange->state == EXCHANGE_READING)
        return hand_over(exchange);
    if (exchange->events)
        return send_events(exchange);
    return answer(exchange->connection, exchange->status, "application/json",
                  exchange->out.length ? exchange->out.bytes : "", exchange->out.length);
}

static struct exchange *exchange_create(struct server *server, struct MHD_Connection *connection)
{
    struct exchange *exchange = mem_calloc(1, sizeof *exchange);
    exchange->server = server;
    exchange->connection = connection;
    exchange->socket =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    pthread_mutex_lock(&server->lock);
    server->exchanges++;
    pthread_mutex_unlock(&server->lock);
    return exchange;
}

static enum MHD_Result on_request(void *state, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_bytes, void **request)
{
    struct server *server = state;
    enum MHD_Result rc;
    (void)version;
    if (*request)
        return on_call(*request, upload, upload_bytes);
    if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0)
        return on_get(server, connection, path);
    if (strcmp(method, "POST") != 0)
        return refuse(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "invalid_request_error",
                      "only GET and POST");
    if (is_refused(server, connection, &rc))
        return rc;
    if (strcmp(path, "/v1/chat/completions") != 0)
        return refuse(connection, MHD_HTTP_NOT_FOUND, "invalid_request_error",
                      "calls go to /v1/chat/completions");
    *request = exchange_create(server, connection);
    return on_call(*request, upload, upload_bytes);
}

// Called with the lock held.
static void exchange_destroy(struct exchange *exchange)
{
    struct server *server = exchange->server;
    server->body_bytes -= exchange->body.length;
    if (--server->exchanges == 0)
        pthread_cond_signal(&server->gone);
    strbuf_release(&exchange->body);
    strbuf_release(&exchange->out);
    free(exchange);
}

static void on_completed(void *state, struct MHD_Connection *connection, void **request,
                         enum MHD_RequestTerminationCode code)
{
    struct server *server = state;
    struct exchange *exchange = *request;
    (void)connection, (void)code;
    if (!exchange)
        return;
    pthread_mutex_lock(&server->lock);
    if (exchange->state == EXCHANGE_WAITING) {
        server->waiting--;
        unlink_exchange(exchange);
    }
    if (exchange->state == EXCHANGE_HELD)
        exchange->hung_up = exchange->gone = true;
    else
        exchange_destroy(exchange);
    pthread_mutex_unlock(&server->lock);
    *request = NULL;
}

static void on_log(void *state, const char *format, va_list args)
{
    (void)state, (void)format, (void)args; // what strangers send is not worth a line
}

// --- life ---

static int start(struct server *server, const struct addrinfo *address, struct error *err)
{
    const unsigned v6 = address->ai_family == AF_INET6 ? MHD_USE_IPv6 : 0;
    errno = 0;
    server->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG | v6, 0, NULL,
        NULL, on_request, server, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL, MHD_OPTION_SOCK_ADDR,
        address->ai_addr, MHD_OPTION_LISTEN_BACKLOG_SIZE, (unsigned)LISTEN_BACKLOG,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)SERVER_CONNECTIONS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_BYTES, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)SERVER_IDLE_SECONDS, MHD_OPTION_NOTIFY_COMPLETED, on_completed, server,
        MHD_OPTION_END);
    if (!server->daemon)
        return error_set_errno(err, errno ? errno : EADDRINUSE, "cannot listen");
    server->loopback = http_address_is_loopback(address->ai_addr);
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

// --- the thread that computes ---

// Called with the lock held; the library goes on with the connection.
static void resume(struct exchange *exchange)
{
    if (exchange->suspended)
        MHD_resume_connection(exchange->connection);
    exchange->suspended = false;
}

// Called with the lock held: the library ends what is left of it.
static void give_back(struct exchange *exchange)
{
    unlink_exchange(exchange);
    exchange->state = EXCHANGE_ANSWERED;
    if (exchange->gone)
        exchange_destroy(exchange);
    else
        resume(exchange);
}

static struct timespec deadline_after(int wait_ms)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const int64_t ns = now.tv_nsec + (int64_t)wait_ms * 1000000;
    return (struct timespec){now.tv_sec + ns / 1000000000, ns % 1000000000};
}

struct exchange *server_take(struct server *server, int wait_ms)
{
    const struct timespec deadline = deadline_after(wait_ms);
    struct exchange *found = NULL;
    pthread_mutex_lock(&server->lock);
    while (server->waiting == 0 && wait_ms > 0)
        if (pthread_cond_timedwait(&server->came, &server->lock, &deadline) != 0)
            break;
    for (struct exchange *e = server->ring.next; e != &server->ring && !found; e = e->next)
        if (e->state == EXCHANGE_WAITING)
            found = e;
    if (found) {
        found->state = EXCHANGE_HELD;
        server->waiting--;
    }
    pthread_mutex_unlock(&server->lock);
    return found;
}

const char *exchange_body(const struct exchange *exchange, size_t *bytes)
{
    *bytes = exchange->body.length;
    return exchange->body.length ? exchange->body.bytes : "";
}

void exchange_answer(struct exchange *exchange, int status, const struct strbuf *json)
{
    struct server *server = exchange->server;
    pthread_mutex_lock(&server->lock);
    exchange->status = status;
    strbuf_add(&exchange->out, json->bytes, json->length);
    strbuf_addc(&exchange->out, '\n');
    give_back(exchange);
    pthread_mutex_unlock(&server->lock);
}

void exchange_begin_events(struct exchange *exchange)
{
    struct server *server = exchange->server;
    pthread_mutex_lock(&server->lock);
    exchange->events = true;
    resume(exchange);
    pthread_mutex_unlock(&server->lock);
}

static void add_event(struct exchange *exchange, const char *data, size_t bytes)
{
    strbuf_adds(&exchange->out, "data: ");
    strbuf_add(&exchange->out, data, bytes);
    strbuf_adds(&exchange->out, "\n\n");
}

void exchange_event(struct exchange *exchange, const struct strbuf *data)
{
    struct server *server = exchange->server;
    pthread_mutex_lock(&server->lock);
    add_event(exchange, data->bytes, data->length);
    resume(exchange);
    pthread_mutex_unlock(&server->lock);
}

void exchange_end_events(struct exchange *exchange)
{
    struct server *server = exchange->server;
    static const char done[] = "[DONE]";
    pthread_mutex_lock(&server->lock);
    add_event(exchange, done, sizeof done - 1);
    exchange->events_end = true;
    give_back(exchange);
    pthread_mutex_unlock(&server->lock);
}

void exchange_drop(struct exchange *exchange)
{
    struct server *server = exchange->server;
    pthread_mutex_lock(&server->lock);
    exchange->status = MHD_HTTP_SERVICE_UNAVAILABLE;
    exchange->events_end = true;
    give_back(exchange);
    pthread_mutex_unlock(&server->lock);
}

void server_look_for_hangups(struct server *server)
{
    pthread_mutex_lock(&server->lock);
    for (struct exchange *e = server->ring.next; e != &server->ring; e = e->next) {
        struct pollfd look = {.fd = e->socket, .events = POLLRDHUP};
        if (!e->gone && poll(&look, 1, 0) == 1 && look.revents & (POLLRDHUP | POLLHUP | POLLERR))
            e->hung_up = true;
    }
    pthread_mutex_unlock(&server->lock);
}

bool exchange_hung_up(const struct exchange *exchange)
{
    struct server *server = exchange->server;
    pthread_mutex_lock(&server->lock);
    const bool hung_up = exchange->hung_up;
    pthread_mutex_unlock(&server->lock);
    return hung_up;
}

// The library refuses to stop while connections are suspended, and when it stops it cuts those that
// have not been sent all of their answer: they get some time for it.
static void drop_all(struct server *server)
{
    const struct timespec deadline = deadline_after(SERVER_LAST_MS);
    server_stop_accepting(server);
    pthread_mutex_lock(&server->lock);
    while (server->ring.next != &server->ring) {
        struct exchange *exchange = server->ring.next;
        if (exchange->state == EXCHANGE_WAITING)
            server->waiting--;
        exchange->status = MHD_HTTP_SERVICE_UNAVAILABLE;
        exchange->events_end = true;
        give_back(exchange);
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
