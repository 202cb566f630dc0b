// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/json_fixture.h"

#include "base/random.h"
#include "base/utf8.h"
#include "datasets/bpe_train.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

const char json_fixture_pairs[] =
    "{\"type\":\"object\",\"properties\":{\"pairs\":{\"type\":\"array\",\"maxItems\":6,"
    "\"items\":{\"type\":\"object\",\"properties\":{\"question\":{\"type\":\"string\","
    "\"maxLength\":60},\"answer\":{\"type\":\"string\",\"maxLength\":40}},"
    "\"required\":[\"question\",\"answer\"],\"additionalProperties\":false}}}}";

const char *const json_fixture_schemas[] = {
    json_fixture_pairs,
    "{\"type\":\"object\",\"properties\":{}}",
    "{\"type\":\"array\",\"items\":{\"type\":\"boolean\"}}",
    "{\"type\":\"array\",\"minItems\":2,\"maxItems\":3,\"items\":{\"type\":\"integer\"}}",
    "{\"type\":\"array\",\"maxItems\":0,\"items\":{\"type\":\"integer\"}}",
    "{\"type\":\"array\",\"minItems\":1,\"items\":{\"type\":\"number\"}}",
    "{\"type\":\"object\",\"properties\":{\"s\":{\"type\":\"string\",\"maxLength\":0},"
    "\"t\":{\"type\":\"string\",\"maxLength\":3},\"u\":{\"type\":\"string\"}}}",
    "{\"type\":\"object\",\"properties\":{\"verdict\":{\"type\":\"string\",\"enum\":"
    "[\"yes\",\"yesterday\",\"no\",\"\",\"na\\u00efve \\\"\\n\",\"\\u0442\\u0430\",\"\\u0442\\u0443\"]},"
    "\"sure\":{\"type\":\"boolean\"},\"score\":{\"type\":\"number\"},"
    "\"count\":{\"type\":\"integer\"}}}",
    "{\"type\":\"array\",\"minItems\":1,\"maxItems\":2,\"items\":{\"type\":\"array\","
    "\"minItems\":2,\"items\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"array\","
    "\"maxItems\":2,\"items\":{\"type\":\"string\",\"maxLength\":2}}}}}}",
    "{\"type\":\"object\",\"properties\":{\"entities\":{\"type\":\"array\",\"minItems\":3,"
    "\"maxItems\":5,\"items\":{\"type\":\"string\",\"enum\":[\"ship\",\"lantern\"]}}}}",
};
const size_t json_fixture_schema_count = sizeof json_fixture_schemas / sizeof *json_fixture_schemas;

static void add_training_text(struct strbuf *out)
{
    static const char *const words[] = {"ship",   "the",  "lantern", "naïve", "东京", "🚢",
                                        "keeper", "yes",  "no",      "wrote", "\\n",  "\\u00e9",
                                        "та",     "true", "12",      "0.5",   "-3",   "\\\""};
    static const char *const joints[] = {"\",\"answer\":\"",
                                         "\"},{\"question\":\"",
                                         " ",
                                         " ",
                                         " ",
                                         "\"]}",
                                         "{\"pairs\":[{\"question\":\"",
                                         ",",
                                         "},{",
                                         "\",\"",
                                         "\":\"",
                                         "]}",
                                         "true,false,",
                                         ":[[",
                                         "\"}]}"};
    for (uint64_t i = 0; i < 20000; i++) {
        strbuf_adds(out, words[random_u64(1, 0, i) % (sizeof words / sizeof *words)]);
        strbuf_adds(out, joints[random_u64(1, 1, i) % (sizeof joints / sizeof *joints)]);
    }
}

struct tokenizer *json_fixture_tokenizer(int32_t size)
{
    struct error err = {""};
    struct strbuf text = {0};
    struct tokenizer *tokenizer = NULL;
    struct bpe_trainer *trainer = bpe_trainer_create();
    add_training_text(&text);
    if (bpe_trainer_add(trainer, text.bytes, text.length, &err) ||
        bpe_trainer_finish(trainer, size, &tokenizer, &err))
        fail_msg("%s", err.text);
    bpe_trainer_destroy(trainer);
    strbuf_release(&text);
    return tokenizer;
}

struct json_schema *json_fixture_compile(const char *text, struct json_vocabulary *vocabulary)
{
    struct error err = {""};
    struct json_schema *schema = NULL;
    if (json_schema_compile_shared(text, strlen(text), vocabulary, &schema, &err))
        fail_msg("%s", err.text);
    return schema;
}

struct input {
    const uint8_t *bytes;
    size_t length;
    size_t at;
};

// READING_WHOLE: the value ended and in->at is behind it.
static enum reading read_value(const struct json *schema, struct input *in);

static enum reading read_text(struct input *in, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (in->at == in->length)
            return READING_BEGINNING;
        if (in->bytes[in->at++] != (uint8_t)text[i])
            return READING_INVALID;
    }
    return READING_WHOLE;
}

static enum reading read_quoted(struct input *in, const char *text, size_t length)
{
    struct strbuf quoted = {0};
    struct json_writer writer = {.out = &quoted};
    json_string(&writer, text, length);
    const enum reading reading = read_text(in, quoted.bytes, quoted.length);
    strbuf_release(&quoted);
    return reading;
}

// The best of several texts.
static enum reading read_one_of(struct input *in, const struct json *values)
{
    enum reading best = READING_INVALID;
    const size_t begin = in->at;
    size_t end = begin;
    for (size_t i = 0; i < values->length; i++) {
        in->at = begin;
        const enum reading reading =
            read_quoted(in, values->items[i].string, values->items[i].length);
        if (reading > best) {
            best = reading;
            end = in->at;
        }
    }
    in->at = end;
    return best;
}

static enum reading read_digits(struct input *in, size_t *count)
{
    *count = 0;
    while (in->at < in->length && in->bytes[in->at] >= '0' && in->bytes[in->at] <= '9') {
        in->at++;
        if (++*count > 15)
            return READING_INVALID;
    }
    return READING_WHOLE;
}

static enum reading read_number(struct input *in, bool is_integer)
{
    size_t digits;
    if (in->at < in->length && in->bytes[in->at] == '-')
        in->at++;
    const bool is_zero = in->at < in->length && in->bytes[in->at] == '0';
    if (read_digits(in, &digits) == READING_INVALID || (is_zero && digits > 1))
        return READING_INVALID;
    if (digits == 0)
        return in->at == in->length ? READING_BEGINNING : READING_INVALID;
    if (in->at == in->length)
        return READING_BEGINNING; // never the whole output: arrays and objects end behind it
    if (is_integer || in->bytes[in->at] != '.')
        return READING_WHOLE;
    in->at++;
    if (read_digits(in, &digits) == READING_INVALID)
        return READING_INVALID;
    if (in->at == in->length)
        return READING_BEGINNING;
    return digits > 0 ? READING_WHOLE : READING_INVALID;
}

// The character at in->at, which may be cut by the end of the input.
static enum reading read_character(struct input *in)
{
    const size_t rest = in->length - in->at;
    uint32_t point;
    const int size = utf8_decode((const char *)in->bytes + in->at, rest, &point);
    if (size > 0) {
        in->at += (size_t)size;
        return READING_WHOLE;
    }
    for (size_t missing = 1; missing <= 3 && rest + missing <= 4; missing++) {
        for (int next = 0x80; next <= 0xBF; next++) {
            char tried[4] = {0, '\x80', '\x80', '\x80'};
            memcpy(tried, in->bytes + in->at, rest);
            tried[rest] = (char)next;
            if (utf8_decode(tried, rest + missing, &point) == (int)(rest + missing))
                return READING_BEGINNING;
        }
    }
    return READING_INVALID;
}

// Four hexadecimal digits whose value is first to last, or the other way round outside of it.
static enum reading read_unit(struct input *in, bool inside, uint32_t first, uint32_t last,
                              uint32_t *value)
{
    uint32_t low = 0, high = 0, digits = 0;
    for (; digits < 4 && in->at < in->length; digits++) {
        const char *hex = "0123456789abcdef0123456789ABCDEF";
        const char *found = strchr(hex, in->bytes[in->at]);
        if (in->bytes[in->at] == 0 || !found)
            return READING_INVALID;
        low = high = low * 16 + (uint32_t)((found - hex) % 16);
        in->at++;
    }
    *value = low;
    for (uint32_t i = digits; i < 4; i++) {
        low *= 16;
        high = high * 16 + 15;
    }
    const bool possible = inside ? low <= last && high >= first : low < first || high > last;
    return !possible ? READING_INVALID : digits == 4 ? READING_WHOLE : READING_BEGINNING;
}

// Behind the backslash.
static enum reading read_escape(struct input *in)
{
    uint32_t unit;
    if (in->at == in->length)
        return READING_BEGINNING;
    const uint8_t kind = in->bytes[in->at++];
    if (kind != 'u')
        return kind != 0 && strchr("\"\\/bfnrt", kind) ? READING_WHOLE : READING_INVALID;
    enum reading reading = read_unit(in, false, 0xDC00, 0xDFFF, &unit);
    if (reading == READING_WHOLE && unit >= 0xD800 && unit <= 0xDBFF) {
        reading = read_text(in, "\\u", 2);
        if (reading == READING_WHOLE)
            reading = read_unit(in, true, 0xDC00, 0xDFFF, &unit);
    }
    return reading;
}

static enum reading read_string(const struct json *schema, struct input *in)
{
    const struct json *maximum = json_get(schema, "maxLength");
    enum reading reading = read_text(in, "\"", 1);
    for (int64_t count = 0; reading == READING_WHOLE; count++) {
        if (in->at == in->length)
            return READING_BEGINNING;
        if (in->bytes[in->at] == '"') {
            in->at++;
            return READING_WHOLE;
        }
        if (in->bytes[in->at] < 0x20 || (maximum && count == maximum->integer))
            return READING_INVALID;
        if (in->bytes[in->at] == '\\') {
            in->at++;
            reading = read_escape(in);
        } else {
            reading = read_character(in);
        }
    }
    return reading;
}

static enum reading read_array(const struct json *schema, struct input *in)
{
    const struct json *minimum = json_get(schema, "minItems"),
                      *maximum = json_get(schema, "maxItems");
    enum reading reading = read_text(in, "[", 1);
    for (int64_t count = 0; reading == READING_WHOLE; count++) {
        const bool may_end = !minimum || count >= minimum->integer;
        const bool may_go_on = !maximum || count < maximum->integer;
        if (in->at == in->length)
            return READING_BEGINNING;
        if (in->bytes[in->at] == ']' && may_end) {
            in->at++;
            return READING_WHOLE;
        }
        if (!may_go_on)
            return READING_INVALID;
        if (count > 0)
            reading = read_text(in, ",", 1);
        if (reading == READING_WHOLE)
            reading = read_value(json_get(schema, "items"), in);
    }
    return reading;
}

static enum reading read_object(const struct json *schema, struct input *in)
{
    const struct json *properties = json_get(schema, "properties");
    enum reading reading = read_text(in, "{", 1);
    for (size_t i = 0; i < properties->length && reading == READING_WHOLE; i++) {
        if (i > 0)
            reading = read_text(in, ",", 1);
        if (reading == READING_WHOLE)
            reading = read_quoted(in, properties->keys[i], properties->key_lengths[i]);
        if (reading == READING_WHOLE)
            reading = read_text(in, ":", 1);
        if (reading == READING_WHOLE)
            reading = read_value(&properties->items[i], in);
    }
    return reading == READING_WHOLE ? read_text(in, "}", 1) : reading;
}

static enum reading read_value(const struct json *schema, struct input *in)
{
    const char *type = json_get(schema, "type")->string;
    if (strcmp(type, "object") == 0)
        return read_object(schema, in);
    if (strcmp(type, "array") == 0)
        return read_array(schema, in);
    if (strcmp(type, "boolean") == 0)
        return in->at < in->length && in->bytes[in->at] == 't' ? read_text(in, "true", 4)
                                                               : read_text(in, "false", 5);
    if (strcmp(type, "string") == 0)
        return json_get(schema, "enum") ? read_one_of(in, json_get(schema, "enum"))
                                        : read_string(schema, in);
    return read_number(in, type[0] == 'i');
}

enum reading json_fixture_read(const struct json *schema, const char *bytes, size_t length)
{
    struct input in = {(const uint8_t *)bytes, length, 0};
    const enum reading reading = read_value(schema, &in);
    return reading == READING_WHOLE && in.at < length ? READING_INVALID : reading;
}

// Gumbel's way of drawing from a softmax: the largest of logit / temperature plus Gumbel noise.
static int32_t draw(const uint64_t *mask, size_t vocabulary, uint64_t seed, uint64_t step)
{
    int32_t best = -1;
    double highest = 0;
    for (size_t id = 0; id < vocabulary; id++) {
        if (!json_fixture_allows(mask, (int32_t)id))
            continue;
        const uint64_t counter = step << 32 | id;
        const double value = random_normal(seed, 0, counter) / 1.5 -
                             log(-log(random_uniform(seed, 1, counter) + 1e-300));
        if (best < 0 || value > highest) {
            best = (int32_t)id;
            highest = value;
        }
    }
    assert_true(best >= 0);
    return best;
}

static void append(struct json_output *output, const struct tokenizer *tokenizer, int32_t token,
                   struct json_walk *out)
{
    size_t length;
    const char *bytes = tokenizer_token_bytes(tokenizer, token, &length);
    strbuf_add(&out->text, bytes, length);
    json_output_accept(output, token);
    out->tokens++;
}

void json_fixture_walk(struct json_schema *schema, const struct tokenizer *tokenizer,
                       size_t vocabulary, size_t budget, uint64_t seed, struct json_walk *out)
{
    struct json_output *output = json_output_create(schema);
    struct token_list forced = {0};
    strbuf_reset(&out->text);
    out->tokens = out->forced = 0;
    while (!json_output_complete(output)) {
        assert_true(out->tokens < budget);
        assert_true(json_output_shortest(output) <= budget - out->tokens);
        forced.count = 0;
        const size_t count = json_output_forced(output, budget - out->tokens, &forced);
        assert_int_equal(count, forced.count);
        for (size_t i = 0; i < count; i++)
            append(output, tokenizer, forced.ids[i], out);
        out->forced += count;
        if (count == 0)
            append(
                output, tokenizer,
                draw(json_output_mask(output, budget - out->tokens), vocabulary, seed, out->tokens),
                out);
    }
    assert_int_equal(json_output_shortest(output), 0);
    out->forced_from = json_output_forced_from(output);
    token_list_release(&forced);
    json_output_destroy(output);
}
