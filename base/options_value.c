// SPDX-License-Identifier: Apache-2.0
// One option's value: from text, from JSON, checked against range or choices.
#include "base/options_table.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *target(const struct option *option, const void *values)
{
    return (char *)values + option->offset;
}

bool *option_flag(const struct option *option, const void *values)
{
    return target(option, values);
}

int64_t *option_int(const struct option *option, const void *values)
{
    return target(option, values);
}

double *option_number(const struct option *option, const void *values)
{
    return target(option, values);
}

const char **option_string(const struct option *option, const void *values)
{
    return target(option, values);
}

struct option_list *option_list(const struct option *option, const void *values)
{
    return target(option, values);
}

bool option_has_range(const struct option *option)
{
    return (option->type == OPTION_INT || option->type == OPTION_NUMBER) &&
           option->minimum != option->maximum;
}

void option_format_range(const struct option *option, struct strbuf *out)
{
    if (isinf(option->maximum))
        strbuf_addf(out, "at least %.15g", option->minimum);
    else if (isinf(option->minimum))
        strbuf_addf(out, "at most %.15g", option->maximum);
    else
        strbuf_addf(out, "%.15g to %.15g", option->minimum, option->maximum);
}

bool option_in_range(const struct option *option, double value)
{
    return !option_has_range(option) || (value >= option->minimum && value <= option->maximum);
}

static int check_range(const struct option *option, double value, const char *text,
                       struct error *err)
{
    if (option_in_range(option, value))
        return 0;
    struct strbuf range = {0};
    option_format_range(option, &range);
    error_set(err, "option '--%s' is %s, outside its range (%s)", option->name, text, range.bytes);
    strbuf_release(&range);
    return -1;
}

static int set_int(const struct option *option, void *values, const char *text, struct error *err)
{
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || isspace((unsigned char)text[0]))
        return error_set(err, "option '--%s' is '%s', must be a whole number", option->name, text);
    if (errno == ERANGE)
        return error_set(err, "option '--%s' is %s, beyond 64 bits", option->name, text);
    if (check_range(option, (double)value, text, err))
        return -1;
    *option_int(option, values) = value;
    return 0;
}

static int set_number(const struct option *option, void *values, const char *text,
                      struct error *err)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || isspace((unsigned char)text[0]) || !isfinite(value))
        return error_set(err, "option '--%s' is '%s', must be a number", option->name, text);
    if (check_range(option, value, text, err))
        return -1;
    *option_number(option, values) = value;
    return 0;
}

static bool is_choice(const char *choices, const char *text)
{
    size_t length = strlen(text);
    for (const char *at = choices; at; at = strchr(at, '|')) {
        at += *at == '|';
        if (strcspn(at, "|") == length && strncmp(at, text, length) == 0)
            return true;
    }
    return false;
}

static int set_string(const struct option *option, void *values, const char *text,
                      struct error *err)
{
    if (option->type == OPTION_CHOICE && !is_choice(option->choices, text))
        return error_set(err, "option '--%s' is '%s', must be one of %s", option->name, text,
                         option->choices);
    const char **string = option_string(option, values);
    char *copy = mem_strdup(text); // first: text may be the old value
    free((char *)*string);
    *string = copy;
    return 0;
}

int option_set_text(const struct option *option, void *values, const char *text, struct error *err)
{
    if (utf8_valid_prefix(text, strlen(text)) < strlen(text)) // the echo could not hold it
        return error_set(err, "option '--%s' is '%s', not valid UTF-8", option->name, text);
    switch (option->type) {
    case OPTION_INT:
        return set_int(option, values, text, err);
    case OPTION_NUMBER:
        return set_number(option, values, text, err);
    case OPTION_STRING:
    case OPTION_CHOICE:
        return set_string(option, values, text, err);
    case OPTION_LIST: {
        struct option_list *list = option_list(option, values);
        list->items = mem_realloc(list->items, (list->count + 1) * sizeof(*list->items));
        list->items[list->count++] = mem_strdup(text);
        return 0;
    }
    case OPTION_FLAG:
        break;
    }
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
        return error_set(err, "option '--%s' is '%s', must be true or false", option->name, text);
    return option_set_flag(option, values, text[0] == 't');
}

int option_set_flag(const struct option *option, void *values, bool value)
{
    *option_flag(option, values) = value;
    return 0;
}

static int json_mismatch(const struct option *option, const struct json *json, struct error *err)
{
    static const char *const wanted[] = {
        [OPTION_FLAG] = "true or false", [OPTION_INT] = "a whole number",
        [OPTION_NUMBER] = "a number",    [OPTION_STRING] = "a string",
        [OPTION_CHOICE] = "a string",    [OPTION_LIST] = "an array of strings",
    };
    return error_set(err, "option '%s' is %s, must be %s", option->name, json_type_name(json->type),
                     wanted[option->type]);
}

static int set_json_text(const struct option *option, void *values, const struct json *json,
                         struct error *err)
{
    if (json->type != JSON_STRING)
        return json_mismatch(option, json, err);
    if (strlen(json->string) != json->length)
        return error_set(err, "option '%s' contains a NUL character", option->name);
    return option_set_text(option, values, json->string, err);
}

static int set_json_number(const struct option *option, void *values, const struct json *json,
                           struct error *err)
{
    if (json->type != JSON_NUMBER || (option->type == OPTION_INT && !json->is_integer))
        return json_mismatch(option, json, err);
    char text[32];
    snprintf(text, sizeof(text), "%.17g", json->number);
    if (json->is_integer)
        snprintf(text, sizeof(text), "%lld", (long long)json->integer);
    return option_set_text(option, values, text, err);
}

int option_set_json(const struct option *option, void *values, const struct json *json,
                    struct error *err)
{
    switch (option->type) {
    case OPTION_FLAG:
        if (json->type != JSON_BOOL)
            return json_mismatch(option, json, err);
        return option_set_flag(option, values, json->boolean);
    case OPTION_INT:
    case OPTION_NUMBER:
        return set_json_number(option, values, json, err);
    case OPTION_STRING:
    case OPTION_CHOICE:
        return set_json_text(option, values, json, err);
    case OPTION_LIST:
        break;
    }
    if (json->type != JSON_ARRAY)
        return json_mismatch(option, json, err);
    option_clear(option, values);
    int rc = 0;
    for (size_t i = 0; i < json->length && rc == 0; i++)
        rc = set_json_text(option, values, &json->items[i], err);
    return rc;
}

void option_clear(const struct option *option, void *values)
{
    if (option->type == OPTION_STRING || option->type == OPTION_CHOICE) {
        const char **string = option_string(option, values);
        free((char *)*string);
        *string = NULL;
    } else if (option->type == OPTION_LIST) {
        struct option_list *list = option_list(option, values);
        for (size_t i = 0; i < list->count; i++)
            free((char *)list->items[i]);
        free(list->items);
        *list = (struct option_list){0};
    }
}
