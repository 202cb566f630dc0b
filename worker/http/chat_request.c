// SPDX-License-Identifier: Apache-2.0
#include "worker/http/chat_request.h"

#include "base/json.h"
#include "base/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool dialect_equal(const struct dialect *a, const struct dialect *b)
{
    return a->form == b->form && a->completion_tokens == b->completion_tokens &&
           a->no_penalty == b->no_penalty && a->no_min_p == b->no_min_p &&
           a->no_top_k == b->no_top_k && a->no_seed == b->no_seed &&
           a->no_temperature == b->no_temperature;
}

static bool switch_on(bool *flag)
{
    const bool was_off = !*flag;
    *flag = true;
    return was_off;
}

static bool names_format(const char *complaint)
{
    return strcasestr(complaint, "response_format") || strcasestr(complaint, "json_schema") ||
           strcasestr(complaint, "json_object") || strcasestr(complaint, "guided_json") ||
           strcasestr(complaint, "guided decoding") || strcasestr(complaint, "grammar");
}

// "max_tokens" alone is no reason: servers name it when a prompt is too long.
bool dialect_narrow(struct dialect *dialect, const char *complaint)
{
    bool changed = false;
    if (names_format(complaint) && dialect->form < ANSWER_PLAIN) {
        dialect->form++;
        changed = true;
    }
    if (strstr(complaint, "max_completion_tokens"))
        changed |= switch_on(&dialect->completion_tokens);
    if (strstr(complaint, "repetition_penalty"))
        changed |= switch_on(&dialect->no_penalty);
    if (strstr(complaint, "min_p"))
        changed |= switch_on(&dialect->no_min_p);
    if (strstr(complaint, "top_k"))
        changed |= switch_on(&dialect->no_top_k);
    if (strstr(complaint, "seed"))
        changed |= switch_on(&dialect->no_seed);
    if (strstr(complaint, "temperature") || strstr(complaint, "top_p"))
        changed |= switch_on(&dialect->no_temperature);
    return changed;
}

const char *dialect_difference(const struct dialect *before, const struct dialect *after)
{
    static const char *const forms[] = {"strict json_schema", "json_schema", "json_object", ""};
    if (before->form != after->form)
        return forms[before->form];
    if (before->completion_tokens != after->completion_tokens)
        return "max_tokens";
    if (before->no_penalty != after->no_penalty)
        return "repetition_penalty";
    if (before->no_min_p != after->no_min_p)
        return "min_p";
    if (before->no_top_k != after->no_top_k)
        return "top_k";
    if (before->no_seed != after->no_seed)
        return "seed";
    return before->no_temperature != after->no_temperature ? "temperature and top_p" : "";
}

static int check_utf8(const struct lm_text *text, const char *what, struct error *err)
{
    const size_t valid = text->bytes ? utf8_valid_prefix(text->text, text->bytes) : 0;
    if (valid < text->bytes)
        return error_set(err, "the %s is not UTF-8 at byte %zu", what, valid);
    return 0;
}

int chat_prompt_check(const struct chat_prompt *prompt, struct error *err)
{
    struct arena arena = {0};
    const struct json *schema;
    if (check_utf8(&prompt->system, "system prompt", err) ||
        check_utf8(&prompt->user, "prompt", err))
        return -1;
    if (!prompt->schema)
        return 0;
    int rc = json_parse(&arena, prompt->schema, strlen(prompt->schema), &schema, err);
    if (rc == 0 && schema->type != JSON_OBJECT)
        rc = error_set(err, "%s, not an object", json_type_name(schema->type));
    arena_release(&arena);
    return rc ? error_prefix(err, "the schema of the answer") : 0;
}

static void write_message(struct json_writer *w, const char *role, struct lm_text content)
{
    json_begin_object(w);
    json_key(w, "role");
    json_text(w, role);
    json_key(w, "content");
    json_string(w, content.bytes ? content.text : "", content.bytes);
    json_end_object(w);
}

static void write_user(struct json_writer *w, const struct chat_prompt *prompt, bool with_schema)
{
    struct strbuf text = {0};
    strbuf_add(&text, prompt->user.text, prompt->user.bytes);
    if (with_schema)
        strbuf_addf(&text,
                    "\n\nAnswer with JSON alone, without any other text. It obeys this JSON "
                    "Schema:\n%s",
                    prompt->schema);
    write_message(w, "user", (struct lm_text){text.bytes, text.length});
    strbuf_release(&text);
}

// A float as a person wrote it: 0.7, not 0.699999988.
static void write_float(struct json_writer *w, const char *key, float value)
{
    char text[32];
    snprintf(text, sizeof(text), "%.6g", (double)value);
    json_key(w, key);
    json_number(w, strtod(text, NULL));
}

static void write_sampling(struct json_writer *w, const struct sampling *sampling,
                           const struct dialect *dialect)
{
    if (!dialect->no_temperature) {
        write_float(w, "temperature", sampling->temperature);
        if (sampling->top_p > 0 && sampling->top_p < 1)
            write_float(w, "top_p", sampling->top_p);
    }
    if (sampling->top_k > 0 && !dialect->no_top_k) {
        json_key(w, "top_k");
        json_int(w, sampling->top_k);
    }
    if (sampling->min_p > 0 && !dialect->no_min_p)
        write_float(w, "min_p", sampling->min_p);
    if (sampling->repetition_penalty > 0 && sampling->repetition_penalty != 1 &&
        !dialect->no_penalty)
        write_float(w, "repetition_penalty", sampling->repetition_penalty);
}

static void write_format(struct json_writer *w, const char *schema, enum answer_form form)
{
    json_key(w, "response_format");
    json_begin_object(w);
    json_key(w, "type");
    json_text(w, form == ANSWER_OBJECT ? "json_object" : "json_schema");
    if (form != ANSWER_OBJECT) {
        json_key(w, "json_schema");
        json_begin_object(w);
        json_key(w, "name");
        json_text(w, "answer");
        if (form == ANSWER_STRICT_SCHEMA) {
            json_key(w, "strict");
            json_bool(w, true);
        }
        json_key(w, "schema");
        json_raw(w, schema, strlen(schema));
        json_end_object(w);
    }
    json_end_object(w);
}

void chat_request_write(struct strbuf *out, const char *model, const struct chat_prompt *prompt,
                        const struct dialect *dialect)
{
    struct json_writer w = {.out = out};
    json_begin_object(&w);
    json_key(&w, "model");
    json_text(&w, model);
    json_key(&w, "messages");
    json_begin_array(&w);
    if (prompt->system.bytes > 0)
        write_message(&w, "system", prompt->system);
    write_user(&w, prompt, prompt->schema && dialect->form >= ANSWER_OBJECT);
    json_end_array(&w);
    json_key(&w, dialect->completion_tokens ? "max_completion_tokens" : "max_tokens");
    json_int(&w, (int64_t)prompt->max_tokens);
    write_sampling(&w, &prompt->sampling, dialect);
    if (!dialect->no_seed) {
        json_key(&w, "seed");
        json_int(&w, (int64_t)((prompt->seed ^ prompt->seed >> 32) & INT32_MAX));
    }
    if (prompt->schema && dialect->form < ANSWER_PLAIN)
        write_format(&w, prompt->schema, dialect->form);
    json_end_object(&w);
}
