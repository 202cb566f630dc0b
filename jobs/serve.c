// SPDX-License-Identifier: Apache-2.0
// memo serve: a model directory behind an OpenAI-compatible server, so that any executive can ask
// the memory.
#include "base/log.h"
#include "base/mem.h"
#include "jobs/compute.h"
#include "jobs/verbs.h"
#include "worker/serve/serving.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct serve_options {
    const char *model;
    const char *host;
    int64_t port;
    const char *name;
    int64_t slots;
    int64_t context_tokens;
    int64_t cache_tokens;
    double drain_seconds;
    const char *dtype;
    bool batch_invariant;
    const char *chat_template;
    const char *backend;
    int64_t threads;
};

#define OPTION_AT(field) offsetof(struct serve_options, field)

static const struct option serve_option_table[] = {
    {"model", OPTION_STRING, OPTION_AT(model), "DIR", NULL, 0, 0, NULL, "model directory", true},
    {"host", OPTION_STRING, OPTION_AT(host), "NAME", "127.0.0.1", 0, 0, NULL,
     "address to listen on; beyond this machine with MEMO_SERVE_KEY set, which every client must "
     "then send as its API key",
     false},
    {"port", OPTION_INT, OPTION_AT(port), "N", "8000", 0, 65535, NULL,
     "(0: any free one; the URL is printed)", false},
    {"name", OPTION_STRING, OPTION_AT(name), "NAME", NULL, 0, 0, NULL,
     "of the model, for clients (default: the directory's name)", false},
    {"slots", OPTION_INT, OPTION_AT(slots), "N", "32", 1, 1024, NULL,
     "calls computed at once; others wait", false},
    {"context-tokens", OPTION_INT, OPTION_AT(context_tokens), "N", "0", 0, INT32_MAX, NULL,
     "most tokens of a conversation and its answer (0: 8192, or what the model has)", false},
    {"cache-tokens", OPTION_INT, OPTION_AT(cache_tokens), "N", "0", 0, INT32_MAX, NULL,
     "keys and values kept, of running calls and of common beginnings (0: four contexts)", false},
    {"drain-seconds", OPTION_NUMBER, OPTION_AT(drain_seconds), "S", "30", 0, 1e6, NULL,
     "after TERM, INT or USR2 calls that run are still computed for so long", false},
    {"dtype", OPTION_CHOICE, OPTION_AT(dtype), "NAME", "bf16", 0, 0, "bf16|f32|fp8",
     "of the weights in memory", false},
    {"batch-invariant", OPTION_FLAG, OPTION_AT(batch_invariant), NULL, NULL, 0, 0, NULL,
     "cuda: the same answer whatever else is computed at the same time, as on a CPU always; slower",
     false},
    {"chat-template", OPTION_CHOICE, OPTION_AT(chat_template), "NAME", NULL, 0, 0,
     CHAT_TEMPLATE_CHOICES, "default: what the model's files say", false},
    {"backend", OPTION_CHOICE, OPTION_AT(backend), "NAME", NULL, 0, 0, BACKEND_CHOICES,
     "default: the fastest that works here", false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "0", 0, 4096, NULL,
     "(0: as many as there are processors)", false},
    {0},
};

// What is behind the last slash that something stands behind.
static char *directory_name(const char *path)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    return mem_printf("%.*s", (int)(end - begin), path + begin);
}

static int serve_model(const struct serve_options *options, struct engine_host *host,
                       const char *name, struct error *err)
{
    struct server *server;
    const struct serving_options serving = {.name = name, .drain_seconds = options->drain_seconds};
    if (server_open(options->host, (int)options->port, getenv("MEMO_SERVE_KEY"), &server, err))
        return -1;
    struct serving *answers = serving_create(host, server, &serving);
    printf("%sv1\n", server_url(server));
    fflush(stdout);
    log_info("'%s' is served at %sv1; stop it with TERM or INT", name, server_url(server));
    if (server_is_open_to_all(server))
        log_warn("whoever reaches %s may ask: set MEMO_SERVE_KEY for a key", server_url(server));
    const int rc = serving_run(answers, stop_requested, err);
    serving_destroy(answers);
    server_close(server);
    return rc;
}

static int run_serve(const void *parsed, const struct option_list *positional, struct error *err)
{
    const struct serve_options *options = parsed;
    (void)positional;
    const struct lm_engine_options engine = {
        .model = options->model,
        .chat_template = options->chat_template,
        .device = {.backend = options->backend,
                   .threads = options->threads ? (int)options->threads : compute_processors(),
                   .products = options->batch_invariant ? PRODUCTS_INVARIANT : PRODUCTS_FASTEST},
        .dtype = strcmp(options->dtype, "f32") == 0 ? DTYPE_F32 : DTYPE_BF16,
        .fp8 = strcmp(options->dtype, "fp8") == 0,
        .slots = (size_t)options->slots,
        .context_tokens = (size_t)options->context_tokens,
        .cache_tokens = (size_t)options->cache_tokens,
    };
    struct engine_host host;
    stop_requests_catch();
    if (engine_host_open(&engine, &host, err))
        return EXIT_FAILED;
    char *name = options->name ? mem_strdup(options->name) : directory_name(options->model);
    const int rc = serve_model(options, &host, name, err);
    free(name);
    engine_host_close(&host);
    return rc ? EXIT_FAILED : EXIT_DONE;
}

const struct verb verb_serve = {
    .name = "serve",
    .summary = "answer OpenAI-compatible calls from a model directory",
    .examples =
        "  memo serve --model models/merged\n"
        "  curl http://127.0.0.1:8000/v1/chat/completions -d '{\"messages\": [{\"role\": "
        "\"user\", \"content\": \"Who kept the lighthouse?\"}]}'\n"
        "  MEMO_SERVE_KEY=secret memo serve --model models/merged --host 0.0.0.0 --name memory\n",
    .options = serve_option_table,
    .options_bytes = sizeof(struct serve_options),
    .run = run_serve,
};
