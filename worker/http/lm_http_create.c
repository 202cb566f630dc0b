// SPDX-License-Identifier: Apache-2.0
#include "worker/http/lm_http_internal.h"

#include "base/log.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static const struct lm_http_options defaults = {
    .max_in_flight = 128,
    .tries = 10,
    .connect_timeout_ms = 10000,
    .first_byte_timeout_ms = 300000,
    .stall_timeout_ms = 30000,
    .request_timeout_ms = 600000,
    .outage_timeout_ms = 600000,
    .retry_base_ms = 500,
    .retry_cap_ms = 60000,
};

#define TIMEOUT_LIMIT_MS 86400000 // a day

static uint32_t or_default(uint32_t value, uint32_t usual)
{
    return value ? value : usual;
}

static struct lm_http_options with_defaults(const struct lm_http_options *given)
{
    struct lm_http_options o = *given;
    o.revision = o.revision ? o.revision : "";
    o.max_in_flight = o.max_in_flight ? o.max_in_flight : defaults.max_in_flight;
    o.tries = or_default(o.tries, defaults.tries);
    o.connect_timeout_ms = or_default(o.connect_timeout_ms, defaults.connect_timeout_ms);
    o.first_byte_timeout_ms = or_default(o.first_byte_timeout_ms, defaults.first_byte_timeout_ms);
    o.stall_timeout_ms = or_default(o.stall_timeout_ms, defaults.stall_timeout_ms);
    o.request_timeout_ms = or_default(o.request_timeout_ms, defaults.request_timeout_ms);
    o.outage_timeout_ms = or_default(o.outage_timeout_ms, defaults.outage_timeout_ms);
    o.retry_base_ms = or_default(o.retry_base_ms, defaults.retry_base_ms);
    o.retry_cap_ms = or_default(o.retry_cap_ms, defaults.retry_cap_ms);
    return o;
}

static int check_time(const char *name, uint32_t value_ms, struct error *err)
{
    if (value_ms > TIMEOUT_LIMIT_MS)
        return error_set(err, "%s of %u ms is longer than a day", name, value_ms);
    return 0;
}

static int check_options(const struct lm_http_options *o, struct error *err)
{
    if (!o->urls || !o->urls[0])
        return error_set(err, "no URL is given");
    if (!o->model || !o->model[0])
        return error_set(err, "no name of a model is given, as the server knows it");
    if (o->max_in_flight > LM_HTTP_IN_FLIGHT_LIMIT)
        return error_set(err, "%zu requests in flight are more than %d", o->max_in_flight,
                         LM_HTTP_IN_FLIGHT_LIMIT);
    if (o->tries > LM_HTTP_TRIES_LIMIT)
        return error_set(err, "%u tries are more than %d", o->tries, LM_HTTP_TRIES_LIMIT);
    return check_time("connect timeout", o->connect_timeout_ms, err) ||
                   check_time("first byte timeout", o->first_byte_timeout_ms, err) ||
                   check_time("stall timeout", o->stall_timeout_ms, err) ||
                   check_time("request timeout", o->request_timeout_ms, err) ||
                   check_time("outage timeout", o->outage_timeout_ms, err) ||
                   check_time("retry base", o->retry_base_ms, err) ||
                   check_time("retry cap", o->retry_cap_ms, err) ||
                   check_time("poll wait", o->poll_wait_ms, err)
               ? -1
               : 0;
}

// The key goes into a header line, so it is visible ASCII. It is not shown, whatever it is.
static int read_key(char **out, struct error *err)
{
    const char *name = "MEMO_API_KEY";
    const char *key = getenv(name);
    if (!key || !key[0]) {
        name = "OPENAI_API_KEY";
        key = getenv(name);
    }
    if (!key || !key[0])
        return 0;
    for (const char *c = key; *c; c++)
        if (*c <= ' ' || *c > '~')
            return error_set(err,
                             "the environment's %s holds a space or another character that "
                             "no key has",
                             name);
    *out = mem_strdup(key);
    return 0;
}

static struct digest identity(const struct lm_http *http, const char *revision)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field_text(&builder, "http");
    digest_field_u64(&builder, http->endpoints.count);
    for (size_t i = 0; i < http->endpoints.count; i++)
        digest_field_text(&builder, http->urls[i].address);
    digest_field_text(&builder, http->model);
    digest_field_text(&builder, revision);
    return digest_end(&builder);
}

static int set_up(struct lm_http *http, const struct lm_http_options *o, struct error *err)
{
    size_t count;
    if (read_key(&http->key, err) ||
        base_urls_parse(o->urls, http->urls, LM_HTTP_ENDPOINTS_LIMIT, &count, err))
        return -1;
    endpoints_init(&http->endpoints, count, o->max_in_flight, o->seed);
    http->model = mem_strdup(o->model);
    http->retry = (struct retry_policy){o->retry_base_ms, o->retry_cap_ms, o->seed};
    http->tries = o->tries;
    http->outage_timeout_ms = o->outage_timeout_ms;
    http->poll_wait_ms = o->poll_wait_ms;
    http->base =
        (struct lm){&lm_http_ops, identity(http, o->revision), o->max_in_flight, o->context_tokens};
    const struct transfer_limits limits = {
        .connect_timeout_ms = o->connect_timeout_ms,
        .first_byte_timeout_ms = o->first_byte_timeout_ms,
        .stall_timeout_ms = o->stall_timeout_ms,
        .total_timeout_ms = o->request_timeout_ms,
        .connections = o->max_in_flight,
    };
    return transfers_create(&limits, http->key, lm_http_transfer_ended, &http->transfers, err);
}

static void warn_of_open_key(const struct lm_http *http)
{
    for (size_t i = 0; i < http->endpoints.count; i++)
        if (http->key && http->urls[i].is_plain && !http->urls[i].is_loopback)
            log_warn("the key travels unencrypted to '%s'", http->urls[i].label);
}

int lm_http_create(const struct lm_http_options *options, struct lm **out, struct error *err)
{
    const struct lm_http_options o = with_defaults(options);
    if (check_options(&o, err))
        return error_prefix(err, "HTTP model");
    struct lm_http *http = mem_calloc(1, sizeof(*http));
    http->base.ops = &lm_http_ops;
    if (set_up(http, &o, err)) {
        lm_destroy(&http->base);
        return error_prefix(err, "HTTP model");
    }
    warn_of_open_key(http);
    *out = &http->base;
    return 0;
}
