// SPDX-License-Identifier: Apache-2.0
#include "worker/http/transfers.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <uv.h>

#define SWEEP_INTERVAL_MS 5 // between looks at the limits of all transfers

struct transfer {
    struct transfers *owner_set;
    struct transfer *previous, *next;
    CURL *easy;
    void *owner;
    struct strbuf sent, body;
    size_t header_bytes;
    char *content_type, *retry_after;
    bool is_too_large;
    bool has_begun; // a byte of the reply came
    uint64_t started_ms;
    uint64_t stall_ms;  // when the present stall window began
    size_t stall_bytes; // of the body by then
    char problem[CURL_ERROR_SIZE];
};

struct transfers {
    struct transfer_limits limits;
    transfer_ended *ended;
    uv_loop_t loop;
    uv_timer_t timer;  // libcurl's
    uv_timer_t wakeup; // ends a sleep
    CURLM *multi;
    struct curl_slist *headers;
    struct transfer *first;
    uint64_t next_sweep_ms;
    bool has_loop, has_curl;
};

// A socket that libcurl wants to be watched.
struct watcher {
    uv_poll_t poll; // first
    struct transfers *set;
    curl_socket_t socket;
};

uint64_t transfers_now_ms(void)
{
    return (uint64_t)(clock_ns() / 1000000);
}

static void free_watcher(uv_handle_t *handle)
{
    free(handle);
}

static void on_ready(uv_poll_t *poll, int status, int events)
{
    const struct watcher *watcher = (const struct watcher *)poll;
    // libuv stops watching a socket with an error; reading it tells libcurl which one.
    int flags = status < 0 ? CURL_CSELECT_IN | CURL_CSELECT_ERR : 0;
    int running;
    if (events & UV_READABLE)
        flags |= CURL_CSELECT_IN;
    if (events & UV_WRITABLE)
        flags |= CURL_CSELECT_OUT;
    curl_multi_socket_action(watcher->set->multi, watcher->socket, flags, &running);
}

static struct watcher *watch(struct transfers *set, curl_socket_t socket)
{
    struct watcher *watcher = mem_calloc(1, sizeof(*watcher));
    watcher->set = set;
    watcher->socket = socket;
    if (uv_poll_init_socket(&set->loop, &watcher->poll, socket) < 0) {
        free(watcher);
        return NULL;
    }
    curl_multi_assign(set->multi, socket, watcher);
    return watcher;
}

static int on_socket(CURL *easy, curl_socket_t socket, int what, void *context, void *assigned)
{
    (void)easy;
    struct transfers *set = context;
    struct watcher *watcher = assigned;
    if (what == CURL_POLL_REMOVE) {
        if (watcher)
            uv_close((uv_handle_t *)&watcher->poll, free_watcher);
        curl_multi_assign(set->multi, socket, NULL);
        return 0;
    }
    if (!watcher)
        watcher = watch(set, socket);
    const int events =
        (what & CURL_POLL_IN ? UV_READABLE : 0) | (what & CURL_POLL_OUT ? UV_WRITABLE : 0);
    return watcher && uv_poll_start(&watcher->poll, events, on_ready) == 0 ? 0 : -1;
}

static void on_timer(uv_timer_t *timer)
{
    const struct transfers *set = timer->data;
    int running;
    curl_multi_socket_action(set->multi, CURL_SOCKET_TIMEOUT, 0, &running);
}

// libcurl must not be called from here, hence a timer also for "at once".
static int on_timeout(CURLM *multi, long timeout_ms, void *context)
{
    (void)multi;
    struct transfers *set = context;
    if (timeout_ms < 0)
        return uv_timer_stop(&set->timer);
    uv_update_time(&set->loop);
    return uv_timer_start(&set->timer, on_timer, (uint64_t)timeout_ms, 0);
}

static void on_wakeup(uv_timer_t *timer)
{
    (void)timer;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *context)
{
    struct transfer *transfer = context;
    const size_t length = size * count;
    if (length > TRANSFER_BODY_LIMIT - transfer->body.length) {
        transfer->is_too_large = true;
        return 0; // ends the transfer
    }
    strbuf_add(&transfer->body, bytes, length);
    return length;
}

// The value of "Name: value\r\n" if the line has that name; the caller frees.
static char *header_value(const char *line, size_t length, const char *name)
{
    const size_t name_length = strlen(name);
    if (length <= name_length || strncasecmp(line, name, name_length) != 0 ||
        line[name_length] != ':')
        return NULL;
    line += name_length + 1;
    length -= name_length + 1;
    while (length > 0 && (*line == ' ' || *line == '\t'))
        line++, length--;
    while (length > 0 && (uint8_t)line[length - 1] <= ' ')
        length--;
    return mem_printf("%.*s", (int)length, line);
}

static void keep_value(char **kept, char *value)
{
    if (!value)
        return;
    free(*kept);
    *kept = value;
}

static size_t on_header(char *line, size_t size, size_t count, void *context)
{
    struct transfer *transfer = context;
    const size_t length = size * count;
    transfer->has_begun = true;
    transfer->header_bytes += length;
    if (transfer->header_bytes > TRANSFER_HEADER_LIMIT) {
        transfer->is_too_large = true;
        return 0;
    }
    keep_value(&transfer->content_type, header_value(line, length, "content-type"));
    keep_value(&transfer->retry_after, header_value(line, length, "retry-after"));
    return length;
}

static int uv_check(int rc, const char *what, struct error *err)
{
    return rc < 0 ? error_set(err, "%s: %s", what, uv_strerror(rc)) : 0;
}

static int open_loop(struct transfers *set, struct error *err)
{
    if (uv_check(uv_loop_init(&set->loop), "event loop", err))
        return -1;
    set->has_loop = true;
    set->timer.data = set;
    return uv_check(uv_timer_init(&set->loop, &set->timer), "event loop", err) ||
                   uv_check(uv_timer_init(&set->loop, &set->wakeup), "event loop", err)
               ? -1
               : 0;
}

// "Expect" is switched off: it costs a round trip for each large prompt.
static int make_headers(struct transfers *set, const char *key, struct error *err)
{
    char *lines[] = {mem_strdup("Content-Type: application/json"),
                     mem_strdup("Accept: application/json"), mem_strdup("Expect:"),
                     key ? mem_printf("Authorization: Bearer %s", key) : NULL};
    int rc = 0;
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct curl_slist *longer = lines[i] ? curl_slist_append(set->headers, lines[i]) : NULL;
        if (lines[i] && !longer)
            rc = error_set(err, "libcurl: out of memory");
        set->headers = longer ? longer : set->headers;
        free(lines[i]);
    }
    return rc;
}

static int open_multi(struct transfers *set, struct error *err)
{
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return error_set(err, "libcurl could not be initialised");
    set->has_curl = true;
    set->multi = curl_multi_init();
    if (!set->multi || curl_multi_setopt(set->multi, CURLMOPT_SOCKETFUNCTION, on_socket) ||
        curl_multi_setopt(set->multi, CURLMOPT_SOCKETDATA, set) ||
        curl_multi_setopt(set->multi, CURLMOPT_TIMERFUNCTION, on_timeout) ||
        curl_multi_setopt(set->multi, CURLMOPT_TIMERDATA, set) ||
        curl_multi_setopt(set->multi, CURLMOPT_MAXCONNECTS, (long)set->limits.connections))
        return error_set(err, "libcurl could not be set up");
    return 0;
}

int transfers_create(const struct transfer_limits *limits, const char *key, transfer_ended *ended,
                     struct transfers **out, struct error *err)
{
    struct transfers *set = mem_calloc(1, sizeof(*set));
    set->limits = *limits;
    set->ended = ended;
    if (open_loop(set, err) || open_multi(set, err) || make_headers(set, key, err)) {
        transfers_destroy(set);
        return -1;
    }
    *out = set;
    return 0;
}

static void close_handle(uv_handle_t *handle, void *unused)
{
    (void)unused;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

void transfers_destroy(struct transfers *set)
{
    if (!set)
        return;
    while (set->first)
        transfer_abort(set->first);
    if (set->multi)
        curl_multi_cleanup(set->multi); // its connections' watchers are closed by on_socket
    curl_slist_free_all(set->headers);
    if (set->has_loop) {
        uv_walk(&set->loop, close_handle, NULL);
        uv_run(&set->loop, UV_RUN_DEFAULT);
        const int rc = uv_loop_close(&set->loop);
        assert(rc == 0);
    }
    if (set->has_curl)
        curl_global_cleanup();
    free(set);
}

static void link_transfer(struct transfers *set, struct transfer *transfer)
{
    transfer->next = set->first;
    if (set->first)
        set->first->previous = transfer;
    set->first = transfer;
}

static void unlink_transfer(struct transfer *transfer)
{
    if (transfer->previous)
        transfer->previous->next = transfer->next;
    else
        transfer->owner_set->first = transfer->next;
    if (transfer->next)
        transfer->next->previous = transfer->previous;
}

void transfer_abort(struct transfer *transfer)
{
    unlink_transfer(transfer);
    if (transfer->easy) {
        curl_multi_remove_handle(transfer->owner_set->multi, transfer->easy);
        curl_easy_cleanup(transfer->easy);
    }
    strbuf_release(&transfer->sent);
    strbuf_release(&transfer->body);
    free(transfer->content_type);
    free(transfer->retry_after);
    free(transfer);
}

// Redirects are not followed: the key is for the server that was named. PIPEWAIT: over TLS one
// HTTP/2 connection carries many requests, if the server can.
static bool set_up(struct transfer *transfer, const char *address, bool direct)
{
    CURL *easy = transfer->easy;
    const struct transfers *set = transfer->owner_set;
    const bool is_tls = strncasecmp(address, "https", 5) == 0;
    const char *certificates = getenv("SSL_CERT_FILE");
    return !curl_easy_setopt(easy, CURLOPT_URL, address) &&
           !curl_easy_setopt(easy, CURLOPT_HTTPHEADER, set->headers) &&
           !curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
                             (curl_off_t)transfer->sent.length) &&
           !curl_easy_setopt(easy, CURLOPT_POSTFIELDS, transfer->sent.bytes) &&
           !curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body) &&
           !curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer) &&
           !curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header) &&
           !curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer) &&
           !curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer) &&
           !curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->problem) &&
           !curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) &&
           !curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L) &&
           !curl_easy_setopt(easy, CURLOPT_PIPEWAIT, is_tls ? 1L : 0L) &&
           !curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS,
                             (long)set->limits.connect_timeout_ms) &&
           (!certificates || !curl_easy_setopt(easy, CURLOPT_CAINFO, certificates)) &&
           (!direct || !curl_easy_setopt(easy, CURLOPT_PROXY, ""));
}

struct transfer *transfers_start(struct transfers *set, const char *address, bool direct,
                                 struct strbuf *body, void *owner)
{
    struct transfer *transfer = mem_calloc(1, sizeof(*transfer));
    transfer->owner_set = set;
    transfer->owner = owner;
    transfer->sent = *body;
    *body = (struct strbuf){0};
    transfer->started_ms = transfers_now_ms();
    transfer->easy = curl_easy_init();
    link_transfer(set, transfer);
    if (transfer->easy && set_up(transfer, address, direct) &&
        curl_multi_add_handle(set->multi, transfer->easy) == CURLM_OK)
        return transfer;
    if (transfer->easy)
        curl_easy_cleanup(transfer->easy);
    transfer->easy = NULL; // the next turn reports it
    return transfer;
}

static void end_transfer(struct transfer *transfer, enum transfer_end end, const char *problem)
{
    struct transfers *set = transfer->owner_set;
    struct transfer_result result = {
        .end = end,
        .problem = problem,
        .content_type = transfer->content_type ? transfer->content_type : "",
        .retry_after = transfer->retry_after,
        .body = transfer->body.bytes ? transfer->body.bytes : "",
        .bytes = transfer->body.length,
    };
    long status = 0;
    if (transfer->easy)
        curl_easy_getinfo(transfer->easy, CURLINFO_RESPONSE_CODE, &status);
    result.status = (int)status;
    set->ended(transfer->owner, &result);
    transfer_abort(transfer);
}

static enum transfer_end classify(const struct transfer *transfer, CURLcode code)
{
    if (code == CURLE_OK)
        return TRANSFER_DONE;
    if (transfer->is_too_large || code == CURLE_PARTIAL_FILE)
        return TRANSFER_CUT;
    if (code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ||
        code == CURLE_COULDNT_RESOLVE_PROXY || code == CURLE_OPERATION_TIMEDOUT)
        return TRANSFER_UNREACHABLE; // libcurl itself limits only the time of connecting
    if (code == CURLE_PEER_FAILED_VERIFICATION || code == CURLE_SSL_CACERT_BADFILE)
        return TRANSFER_UNTRUSTED;
    return TRANSFER_LOST;
}

static void report_ended(struct transfers *set)
{
    int left;
    const CURLMsg *message;
    while ((message = curl_multi_info_read(set->multi, &left))) {
        if (message->msg != CURLMSG_DONE)
            continue;
        char *private = NULL;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &private);
        struct transfer *transfer = (struct transfer *)private;
        const CURLcode code = message->data.result;
        const char *problem = transfer->problem[0] ? transfer->problem : curl_easy_strerror(code);
        if (code == CURLE_OK)
            problem = "";
        else if (transfer->is_too_large)
            problem = "the reply is larger than the limits";
        end_transfer(transfer, classify(transfer, code), problem);
    }
}

// Moves the stall window; false when the last one brought too little.
static bool is_moving(struct transfer *transfer, uint64_t now_ms)
{
    const struct transfer_limits *limits = &transfer->owner_set->limits;
    if (transfer->stall_ms == 0) {
        transfer->stall_ms = now_ms;
        return true;
    }
    if (now_ms - transfer->stall_ms < limits->stall_timeout_ms)
        return true;
    if (transfer->body.length - transfer->stall_bytes < TRANSFER_STALL_BYTES)
        return false;
    transfer->stall_ms = now_ms;
    transfer->stall_bytes = transfer->body.length;
    return true;
}

// Why the transfer is given up; NULL when it is not.
static const char *broken_limit(struct transfer *transfer, uint64_t now_ms)
{
    const struct transfer_limits *limits = &transfer->owner_set->limits;
    const uint64_t age_ms = now_ms - transfer->started_ms;
    if (age_ms >= limits->total_timeout_ms)
        return "no answer within the time of a request";
    if (!transfer->has_begun)
        return age_ms >= limits->first_byte_timeout_ms ? "no byte of an answer in time" : NULL;
    return is_moving(transfer, now_ms) ? NULL : "the answer stalled";
}

// `ended` may abort and start transfers, so the list is read anew after each.
static void sweep(struct transfers *set, uint64_t now_ms)
{
    struct transfer *transfer = set->first;
    while (transfer) {
        const char *problem = transfer->easy ? broken_limit(transfer, now_ms) : "";
        if (!problem) {
            transfer = transfer->next;
            continue;
        }
        if (transfer->easy)
            end_transfer(transfer, TRANSFER_TIMEOUT, problem);
        else
            end_transfer(transfer, TRANSFER_UNREACHABLE, "libcurl could not begin the request");
        transfer = set->first;
    }
}

// Waits as event loops of ranks do: see coordinator/event_loop.c for why the timer repeats.
static void turn_loop(struct transfers *set, uint32_t wait_ms)
{
    if (wait_ms == 0) {
        uv_run(&set->loop, UV_RUN_NOWAIT);
        return;
    }
    uv_update_time(&set->loop);
    uv_timer_start(&set->wakeup, on_wakeup, wait_ms, wait_ms);
    uv_run(&set->loop, UV_RUN_ONCE);
    uv_timer_stop(&set->wakeup);
}

void transfers_turn(struct transfers *set, uint32_t wait_ms)
{
    turn_loop(set, wait_ms);
    report_ended(set);
    const uint64_t now_ms = transfers_now_ms();
    if (now_ms >= set->next_sweep_ms) {
        sweep(set, now_ms);
        set->next_sweep_ms = now_ms + SWEEP_INTERVAL_MS;
    }
}
