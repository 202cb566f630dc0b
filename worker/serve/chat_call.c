// SPDX-License-Identifier: Apache-2.0
#include "worker/serve/chat_call.h"

#include "base/json.h"

#include <string.h>

// A step of reading: the member it is about, and what it does with the body.
struct step {
    const char *param;
    int (*read)(struct arena *arena, const struct json *body, struct chat_call *out,
                struct error *err);
};

// --- messages ---

static int join_parts(struct arena *arena, const struct json *parts, struct chat_message *out,
                      struct error *err)
{
    struct strbuf text = {0};
    for (size_t i = 0; i < parts->length; i++) {
        const char *type = "";
        const struct json *part = json_get(&parts->items[i], "text");
        struct error ignored;
        if (json_get_string(&parts->items[i], "type", &type, &ignored) ||
            strcmp(type, "text") != 0 || !part || part->type != JSON_STRING) {
            strbuf_release(&text);
            return error_set(err, "part %zu is no {\"type\": \"text\", \"text\": \"...\"}", i);
        }
        strbuf_add(&text, part->string, part->length);
    }
    out->content = arena_strndup(arena, text.length ? text.bytes : "", text.length);
    out->length = text.length;
    strbuf_release(&text);
    return 0;
}

static int read_content(struct arena *arena, const struct json *content, struct chat_message *out,
                        struct error *err)
{
    if (content && content->type == JSON_ARRAY)
        return join_parts(arena, content, out, err);
    if (!content || content->type != JSON_STRING)
        return error_set(err, "its content must be a string or an array of text parts");
    out->content = content->string;
    out->length = content->length;
    return 0;
}

static int read_message(struct arena *arena, const struct json *message, struct chat_message *out,
                        struct error *err)
{
    static const char *const roles[][2] = {{"system", "system"},
                                           {"developer", "system"},
                                           {"user", "user"},
                                           {"assistant", "assistant"}};
    const char *role = "";
    if (message->type != JSON_OBJECT)
        return error_set(err, "it is %s, not an object", json_type_name(message->type));
    if (json_get_string(message, "role", &role, err))
        return -1;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(role, roles[i][0]) == 0)
            out->role = roles[i][1];
    if (!out->role)
        return error_set(err, "its role '%.40s' is none of system, developer, user and assistant",
                         role);
    return read_content(arena, json_get(message, "content"), out, err);
}

static int read_messages(struct arena *arena, const struct json *body, struct chat_call *out,
                         struct error *err)
{
    const struct json *messages = json_get(body, "messages");
    if (!messages || messages->type != JSON_ARRAY || messages->length == 0)
        return error_set(err, "'messages' must be an array of at least one message");
    if (messages->length > CHAT_MESSAGES_LIMIT)
        return error_set(err, "%zu messages; at most %d are read", messages->length,
                         CHAT_MESSAGES_LIMIT);
    out->message_count = messages->length;
    out->messages = arena_alloc(arena, messages->length * sizeof *out->messages);
    for (size_t i = 0; i < messages->length; i++)
        if (read_message(arena, &messages->items[i], &out->messages[i], err))
            return error_prefix(err, "message %zu", i);
    return 0;
}

// --- how much, and how it is drawn ---

static int read_model(struct arena *arena, const struct json *body, struct chat_call *out,
                      struct error *err)
{
    (void)arena;
    return json_get_string(body, "model", &out->model, err);
}

static int read_max_tokens(struct arena *arena, const struct json *body, struct chat_call *out,
                           struct error *err)
{
    int64_t most = 0;
    (void)arena;
    if (json_get_int(body, "max_tokens", 1, INT32_MAX, &most, err) ||
        json_get_int(body, "max_completion_tokens", 1, INT32_MAX, &most, err))
        return -1;
    out->max_tokens = (size_t)most;
    return 0;
}

static int read_seed(struct arena *arena, const struct json *body, struct chat_call *out,
                     struct error *err)
{
    int64_t seed = 0;
    (void)arena;
    if (json_get_int(body, "seed", INT64_MIN, INT64_MAX, &seed, err))
        return -1;
    out->seed = (uint64_t)seed;
    return 0;
}

static int read_number(const struct json *body, const char *key, float *out, struct error *err)
{
    double value = (double)*out;
    if (json_get_number(body, key, &value, err))
        return -1;
    *out = (float)value;
    return 0;
}

static int read_sampling(struct arena *arena, const struct json *body, struct chat_call *out,
                         struct error *err)
{
    int64_t top_k = 0;
    (void)arena;
    if (read_number(body, "temperature", &out->sampling.temperature, err) ||
        read_number(body, "top_p", &out->sampling.top_p, err) ||
        read_number(body, "min_p", &out->sampling.min_p, err) ||
        read_number(body, "repetition_penalty", &out->sampling.repetition_penalty, err) ||
        json_get_int(body, "top_k", -1, INT32_MAX, &top_k, err))
        return -1;
    const struct json *top_p = json_get(body, "top_p");
    if (top_p && top_p->type == JSON_NUMBER && out->sampling.top_p == 0)
        return error_set(err, "top_p must be above 0; for the likeliest token give temperature 0");
    out->sampling.top_k = top_k > 0 ? (int32_t)top_k : 0; // -1: all, as vLLM writes it
    const char *problem = sampling_problem(&out->sampling);
    return *problem ? error_set(err, "%s", problem) : 0;
}

// --- where it ends, and in what form ---

static int add_stop(const struct json *stop, struct chat_call *out, struct error *err)
{
    if (stop->type != JSON_STRING || stop->length == 0 || strlen(stop->string) != stop->length)
        return error_set(err, "a stop must be a string that is not empty and holds no NUL");
    out->stops[out->stop_count++] = stop->string;
    return 0;
}

static int read_stop(struct arena *arena, const struct json *body, struct chat_call *out,
                     struct error *err)
{
    const struct json *stop = json_get(body, "stop");
    (void)arena;
    if (!stop || stop->type == JSON_NULL)
        return 0;
    if (stop->type != JSON_ARRAY)
        return add_stop(stop, out, err);
    if (stop->length > CHAT_STOPS_LIMIT)
        return error_set(err, "%zu stops; at most %d are possible", stop->length, CHAT_STOPS_LIMIT);
    for (size_t i = 0; i < stop->length; i++)
        if (add_stop(&stop->items[i], out, err))
            return -1;
    return 0;
}

static int read_stream(struct arena *arena, const struct json *body, struct chat_call *out,
                       struct error *err)
{
    const struct json *options = json_get(body, "stream_options");
    (void)arena;
    if (json_get_bool(body, "stream", &out->stream, err))
        return -1;
    return options ? json_get_bool(options, "include_usage", &out->stream_usage, err) : 0;
}

static int read_format(struct arena *arena, const struct json *body, struct chat_call *out,
                       struct error *err)
{
    const struct json *format = json_get(body, "response_format");
    const char *type = "";
    if (!format || format->type == JSON_NULL)
        return 0;
    if (json_get_string(format, "type", &type, err))
        return -1;
    if (strcmp(type, "text") == 0)
        return 0;
    const struct json *inner = json_get(format, "json_schema");
    const struct json *schema = inner ? json_get(inner, "schema") : NULL;
    if (strcmp(type, "json_schema") != 0 || !schema || schema->type != JSON_OBJECT)
        return error_set(err, "there are {\"type\": \"text\"} and {\"type\": \"json_schema\", "
                              "\"json_schema\": {\"schema\": {...}}}");
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_value(&w, schema);
    out->schema = arena_strndup(arena, text.bytes, text.length);
    strbuf_release(&text);
    return 0;
}

// --- what is not there ---

static int refuse_choices(struct arena *arena, const struct json *body, struct chat_call *out,
                          struct error *err)
{
    int64_t n = 1;
    (void)arena, (void)out;
    if (json_get_int(body, "n", INT32_MIN, INT32_MAX, &n, err))
        return -1;
    return n == 1 ? 0 : error_set(err, "one answer a call; ask again with another seed");
}

static int refuse_logprobs(struct arena *arena, const struct json *body, struct chat_call *out,
                           struct error *err)
{
    bool wanted = false;
    (void)arena, (void)out;
    if (json_get_bool(body, "logprobs", &wanted, err))
        return -1;
    return wanted ? error_set(err, "log probabilities are not served") : 0;
}

static int refuse_tools(struct arena *arena, const struct json *body, struct chat_call *out,
                        struct error *err)
{
    const struct json *tools = json_get(body, "tools");
    (void)arena, (void)out;
    return tools && tools->length > 0 ? error_set(err, "tools are not served") : 0;
}

static int refuse_penalties(struct arena *arena, const struct json *body, struct chat_call *out,
                            struct error *err)
{
    double frequency = 0, presence = 0;
    (void)arena, (void)out;
    if (json_get_number(body, "frequency_penalty", &frequency, err) ||
        json_get_number(body, "presence_penalty", &presence, err))
        return -1;
    return frequency == 0 && presence == 0
               ? 0
               : error_set(err, "only 0 is served; there is repetition_penalty");
}

static const struct step steps[] = {
    {"messages", read_messages},     {"model", read_model},
    {"max_tokens", read_max_tokens}, {"seed", read_seed},
    {"temperature", read_sampling},  {"stop", read_stop},
    {"stream", read_stream},         {"response_format", read_format},
    {"n", refuse_choices},           {"logprobs", refuse_logprobs},
    {"tools", refuse_tools},         {"frequency_penalty", refuse_penalties},
};

int chat_call_read(struct arena *arena, const char *body, size_t bytes, struct chat_call *out,
                   const char **param, struct error *err)
{
    const struct json *tree;
    *out = (struct chat_call){0};
    *param = "";
    if (json_parse(arena, body, bytes, &tree, err))
        return error_prefix(err, "the body is no JSON");
    if (tree->type != JSON_OBJECT)
        return error_set(err, "the body is %s, not an object", json_type_name(tree->type));
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        *param = steps[i].param;
        if (steps[i].read(arena, tree, out, err))
            return -1;
    }
    *param = "";
    return 0;
}
