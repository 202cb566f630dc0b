// SPDX-License-Identifier: Apache-2.0
#include "worker/lm/engine_host.h"

#include <inttypes.h>
#include <string.h>

enum {
    USUAL_SLOTS = 32,
    USUAL_CONTEXT = 8192,
    USUAL_STEP = 512,
    CONTEXTS_CACHED = 4,
    SCHEMAS_KEPT = 32,
};

int engine_host_open_text(const struct lm_engine_options *options, struct engine_host *out,
                          struct error *err)
{
    *out = (struct engine_host){0};
    if (tokenizer_load(options->model, &out->tokenizer, err) ||
        (options->chat_template ? chat_template_find(options->chat_template, &out->chat, err)
                                : chat_template_detect(options->model, &out->chat, err))) {
        engine_host_close(out);
        return -1;
    }
    const char *end = chat_template_end(out->chat);
    const int32_t stops[ENGINE_HOST_STOPS] = {tokenizer_token_id(out->tokenizer, end, strlen(end)),
                                              tokenizer_eos_id(out->tokenizer),
                                              tokenizer_pad_id(out->tokenizer)};
    for (size_t i = 0; i < ENGINE_HOST_STOPS; i++)
        if (stops[i] >= 0)
            out->stops[out->stop_count++] = stops[i];
    return 0;
}

static int check_sizes(struct engine_host *host, const struct lm_engine_options *options,
                       struct error *err)
{
    const struct model_config *config = &host->model->config;
    const int32_t tokens = tokenizer_vocabulary_size(host->tokenizer);
    const size_t positions = (size_t)config->max_positions;
    if (tokens > config->vocabulary)
        return error_set(err,
                         "the tokenizer has %" PRId32
                         " tokens but the model's embedding has %" PRId64
                         " rows: they do not belong together",
                         tokens, config->vocabulary);
    if (options->context_tokens > positions)
        return error_set(err, "a context of %zu tokens, but the model has %zu positions",
                         options->context_tokens, positions);
    host->context_tokens = options->context_tokens     ? options->context_tokens
                           : positions < USUAL_CONTEXT ? positions
                                                       : USUAL_CONTEXT;
    return 0;
}

static int create_engine(struct engine_host *host, const struct lm_engine_options *options,
                         struct error *err)
{
    const size_t step = options->step_tokens ? options->step_tokens : USUAL_STEP;
    host->slots = options->slots ? options->slots : USUAL_SLOTS;
    const struct engine_options engine = {
        .slots = host->slots,
        .capacity = host->context_tokens,
        .max_tokens = step > host->slots ? step : host->slots,
        .cache_tokens =
            options->cache_tokens ? options->cache_tokens : CONTEXTS_CACHED * host->context_tokens,
        .tokenizer = host->tokenizer,
    };
    return engine_create(host->model, &engine, &host->engine, err);
}

int engine_host_open(const struct lm_engine_options *options, struct engine_host *out,
                     struct error *err)
{
    if (engine_host_open_text(options, out, err))
        return -1;
    if (device_create(&options->device, &out->device, err) ||
        model_load(out->device, options->model, options->dtype, &out->model, err) ||
        (options->fp8 && model_quantize(out->model, err)) || check_sizes(out, options, err) ||
        create_engine(out, options, err)) {
        engine_host_close(out);
        return -1;
    }
    out->schemas =
        schema_cache_create(out->tokenizer, (size_t)out->model->config.vocabulary, SCHEMAS_KEPT);
    return 0;
}

void engine_host_close(struct engine_host *host)
{
    engine_destroy(host->engine); // lets go of the schemas
    schema_cache_destroy(host->schemas);
    model_destroy(host->model);
    tokenizer_destroy(host->tokenizer);
    device_destroy(host->device);
    *host = (struct engine_host){0};
}
