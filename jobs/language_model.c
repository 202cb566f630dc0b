// SPDX-License-Identifier: Apache-2.0
#include "jobs/language_model.h"

#include "base/mem.h"
#include "worker/http/lm_http.h"
#include "worker/lm/lm_engine.h"
#include "worker/supervisor/lm_supervised.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *prefix;
    enum generator_kind kind;
} kinds[] = {
    {"engine:", GENERATOR_ENGINE},
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
    return error_set(
        err, "unknown generator '%s': there are cloze, engine:DIR and http:URL[,URL...]", name);
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
    if (kind != GENERATOR_ENGINE && strcmp(options->supervise, "on") == 0)
        return error_set(err, "--supervise on, but generator '%s' has no engine",
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

static void named_submit(struct lm *lm, const struct lm_request *request)
{
    (void)lm;
    (void)request;
    assert(!"a model that was only named is asked");
}

static enum lm_poll named_poll(struct lm *lm, struct lm_result *out, struct error *err)
{
    (void)lm;
    (void)out;
    (void)err;
    return LM_POLL_IDLE;
}

static void named_cancel(struct lm *lm, uint64_t id)
{
    (void)lm;
    (void)id;
}

static void named_destroy(struct lm *lm)
{
    free(lm);
}

static const struct lm_ops named_ops = {named_submit, named_poll, named_cancel, named_destroy};

static int name_engine(const struct lm_engine_options *engine, struct lm **out, struct error *err)
{
    struct lm *lm = mem_calloc(1, sizeof(*lm));
    *lm = (struct lm){.ops = &named_ops, .capacity = 1};
    if (lm_engine_digest(engine, &lm->digest, err)) {
        lm_destroy(lm);
        return -1;
    }
    *out = lm;
    return 0;
}

static int open_engine(const struct generate_options *options, const char *directory, int threads,
                       struct launcher *launcher, struct lm **out, struct error *err)
{
    const struct lm_engine_options engine = {
        .model = directory,
        .chat_template = options->chat_template,
        .device = {.backend = options->backend,
                   .threads = threads,
                   .products = options->batch_invariant ? PRODUCTS_INVARIANT : PRODUCTS_FASTEST},
        .dtype = strcmp(options->dtype, "f32") == 0 ? DTYPE_F32 : DTYPE_BF16,
        .fp8 = strcmp(options->dtype, "fp8") == 0,
        .slots = (size_t)options->slots,
        .context_tokens = (size_t)options->context_tokens,
        .cache_tokens = (size_t)options->cache_tokens,
    };
    const struct supervision how = {.launcher = launcher,
                                    .silence_seconds = options->engine_seconds,
                                    .memory_gb = options->engine_memory};
    if (threads == 0)
        return name_engine(&engine, out, err);
    return launcher ? lm_supervised_create(&engine, &how, out, err)
                    : lm_engine_create(&engine, out, err);
}

bool language_model_is_supervised(const struct generate_options *options)
{
    enum generator_kind kind;
    const char *target;
    struct error ignored;
    return strcmp(options->supervise, "off") != 0 &&
           generator_kind_parse(options->generator, &kind, &target, &ignored) == 0 &&
           kind == GENERATOR_ENGINE;
}

int language_model_open(const struct generate_options *options, int threads,
                        struct launcher *launcher, struct lm **out, struct error *err)
{
    enum generator_kind kind;
    const char *target;
    if (generator_kind_parse(options->generator, &kind, &target, err))
        return -1;
    return kind == GENERATOR_ENGINE ? open_engine(options, target, threads, launcher, out, err)
                                    : open_http(options, target, out, err);
}

struct digest language_model_limits_digest(const struct generate_options *options)
{
    struct digest_builder builder;
    enum generator_kind kind;
    const char *target;
    struct error ignored;
    digest_begin(&builder);
    digest_field_u64(&builder, (uint64_t)options->context_tokens);
    if (generator_kind_parse(options->generator, &kind, &target, &ignored) == 0 &&
        kind == GENERATOR_ENGINE)
        digest_field_text(&builder, options->dtype);
    return digest_end(&builder);
}
