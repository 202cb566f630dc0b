// SPDX-License-Identifier: Apache-2.0
// What the library's thread does: who may ask what, bodies read, answers sent.
#include "worker/serve/server_internal.h"

#include "base/http_access.h"
#include "base/mem.h"
#include "worker/serve/chat_reply.h"

#include <string.h>

enum { EVENTS_BLOCK_BYTES = 4096 };

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
    pthread_mutex_lock(&exchange->server->lock);
    const bool reading = exchange->state == EXCHANGE_READING, events = exchange->events;
    pthread_mutex_unlock(&exchange->server->lock);
    if (reading)
        return hand_over(exchange);
    if (events)
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

enum MHD_Result server_on_request(void *state, struct MHD_Connection *connection, const char *path,
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

void server_on_completed(void *state, struct MHD_Connection *connection, void **request,
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
        exchange_unlink(exchange);
    }
    if (exchange->state == EXCHANGE_HELD)
        exchange->hung_up = exchange->gone = true;
    else
        exchange_destroy(exchange);
    pthread_mutex_unlock(&server->lock);
    *request = NULL;
}
