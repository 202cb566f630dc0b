// SPDX-License-Identifier: Apache-2.0
// What the thread that computes does with calls.
#include "worker/serve/server_internal.h"

#include "base/clock.h"
#include "worker/serve/chat_reply.h"

#include <poll.h>
#include <stdlib.h>

void exchange_unlink(struct exchange *exchange)
{
    exchange->previous->next = exchange->next;
    exchange->next->previous = exchange->previous;
    exchange->next = exchange->previous = NULL;
}

void exchange_destroy(struct exchange *exchange)
{
    struct server *server = exchange->server;
    server->body_bytes -= exchange->body.length;
    if (--server->exchanges == 0)
        pthread_cond_signal(&server->gone);
    strbuf_release(&exchange->body);
    strbuf_release(&exchange->out);
    free(exchange);
}

// The lock is held; the library goes on with the connection.
static void resume(struct exchange *exchange)
{
    if (exchange->suspended)
        MHD_resume_connection(exchange->connection);
    exchange->suspended = false;
}

void exchange_give_back(struct exchange *exchange)
{
    exchange_unlink(exchange);
    exchange->state = EXCHANGE_ANSWERED;
    if (exchange->gone)
        exchange_destroy(exchange);
    else
        resume(exchange);
}

void exchange_cut(struct exchange *exchange)
{
    exchange->status = MHD_HTTP_SERVICE_UNAVAILABLE;
    exchange->events_end = true;
    if (!exchange->events)
        chat_error_write(&exchange->out, "server_error", "", "the server has stopped");
    exchange_give_back(exchange);
}

struct exchange *server_take(struct server *server, int wait_ms)
{
    const struct timespec deadline = clock_deadline(wait_ms);
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
    exchange_give_back(exchange);
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
    exchange_give_back(exchange);
    pthread_mutex_unlock(&server->lock);
}

void exchange_drop(struct exchange *exchange)
{
    struct server *server = exchange->server;
    pthread_mutex_lock(&server->lock);
    exchange_cut(exchange);
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
