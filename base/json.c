// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <string.h>

const struct json *json_get(const struct json *object, const char *key)
{
    if (!object || object->type != JSON_OBJECT)
        return NULL;
    size_t key_length = strlen(key);
    for (size_t i = object->length; i-- > 0;) // from the end: the last of equal keys counts
        if (object->key_lengths[i] == key_length && memcmp(object->keys[i], key, key_length) == 0)
            return &object->items[i];
    return NULL;
}

const char *json_type_name(enum json_type type)
{
    static const char *const names[] = {"null",     "a boolean", "a number",
                                        "a string", "an array",  "an object"};
    return names[type];
}

// NULL when the member is missing or null: the default stays.
static const struct json *get_set(const struct json *object, const char *key)
{
    const struct json *value = json_get(object, key);
    return value && value->type != JSON_NULL ? value : NULL;
}

static int wrong_type(struct error *err, const char *key, const struct json *value,
                      const char *wanted)
{
    return error_set(err, "'%s' is %s, must be %s", key, json_type_name(value->type), wanted);
}

int json_get_string(const struct json *object, const char *key, const char **out, struct error *err)
{
    const struct json *value = get_set(object, key);
    if (!value)
        return 0;
    if (value->type != JSON_STRING)
        return wrong_type(err, key, value, "a string");
    if (strlen(value->string) != value->length)
        return error_set(err, "'%s' contains a NUL character", key);
    *out = value->string;
    return 0;
}

int json_get_int(const struct json *object, const char *key, int64_t minimum, int64_t maximum,
                 int64_t *out, struct error *err)
{
    const struct json *value = get_set(object, key);
    if (!value)
        return 0;
    if (value->type != JSON_NUMBER)
        return wrong_type(err, key, value, "an integer");
    int64_t integer = value->integer;
    if (!value->is_integer) { // 1e6 and 2.0 are integers too, as far as a double counts exactly
        double number = value->number;
        if (!(number >= -0x1p53 && number <= 0x1p53) || number != (double)(int64_t)number)
            return error_set(err, "'%s' is %.17g, must be an integer", key, number);
        integer = (int64_t)number;
    }
    if (integer < minimum || integer > maximum)
        return error_set(err, "'%s' is %lld, must be between %lld and %lld", key,
                         (long long)integer, (long long)minimum, (long long)maximum);
    *out = integer;
    return 0;
}

int json_get_number(const struct json *object, const char *key, double *out, struct error *err)
{
    const struct json *value = get_set(object, key);
    if (!value)
        return 0;
    if (value->type != JSON_NUMBER)
        return wrong_type(err, key, value, "a number");
    *out = value->number;
    return 0;
}

int json_get_bool(const struct json *object, const char *key, bool *out, struct error *err)
{
    const struct json *value = get_set(object, key);
    if (!value)
        return 0;
    if (value->type != JSON_BOOL)
        return wrong_type(err, key, value, "true or false");
    *out = value->boolean;
    return 0;
}
