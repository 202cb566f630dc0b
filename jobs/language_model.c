// SPDX-License-Identifier: Apache-2.0
#include "jobs/language_model.h"

#include "worker/http/lm_http.h"

#include <string.h>

static const struct {
    const char *prefix;
    enum generator_kind kind;
} kinds[] = {
    {"http:", GENERATOR_HTTP},
};

int generator_kind_parse(const char *name, enum generator_kind *out, const char **target,
                         struct error *err)
{
    *out = GENERATOR_CLOZE;
    *target = "";
    if (strcmp(name, "cloze") == 0)
        return 0;
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        const size_t length = strlen(kinds[i].prefix);
        if (strncmp(name, kinds[i].prefix, length) == 0 && name[length] != '\0') {
            *out = kinds[i].kind;
            *target = name + length;
            return 0;
        }
    }
    return error_set(err, "unknown generator '%s': there are cloze and http:URL[,URL...]", name);
}

int language_model_check(const struct generate_options *options, struct error *err)
{
    enum generator_kind kind;
    const char *target;
    if (generator_kind_parse(options->generator, &kind, &target, err))
        return -1;
    if (kind == GENERATOR_HTTP && !options->model)
        return error_set(err, "generator '%s' needs --model, the name that the server knows",
                         options->generator);
    return 0;
}

static uint32_t milliseconds(double seconds)
{
    return (uint32_t)(seconds * 1000 + 0.5);
}

static int open_http(const struct generate_options *options, const char *urls, struct lm **out,
                     struct error *err)
{
    const struct lm_http_options http = {
        .urls = urls,
        .model = options->model,
        .revision = options->revision,
        .max_in_flight = (size_t)options->slots,
        .context_tokens = (size_t)options->context_tokens,
        .tries = (uint32_t)options->tries,
        .first_byte_timeout_ms = milliseconds(options->answer_seconds),
        .stall_timeout_ms = milliseconds(options->stall_seconds),
        .outage_timeout_ms = milliseconds(options->outage_seconds),
        .retry_base_ms = milliseconds(options->retry_seconds),
        .seed = (uint64_t)options->seed,
    };
    return lm_http_create(&http, out, err);
}

int language_model_open(const struct generate_options *options, struct lm **out, struct error *err)
{
    enum generator_kind kind;
    const char *target;
    if (generator_kind_parse(options->generator, &kind, &target, err))
        return -1;
    return open_http(options, target, out, err);
}
