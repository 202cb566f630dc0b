// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/reflect_config.h"

#include "base/json.h"
#include "datasets/embedded.h"

#include <assert.h>
#include <stddef.h>
#include <string.h>

#define BUILT_IN "steps.json"
#define MAX_TEMPERATURE 10
#define MAX_TOKENS (1 << 24)

enum field_type { FIELD_REAL, FIELD_COUNT };

// One key of a section; `kinds` has a bit for each kind of request that it means something to.
struct field {
    const char *name;
    enum field_type type;
    size_t offset;
    double minimum;
    double maximum;
    unsigned kinds;
};

#define KIND(name) (1u << REQUEST_##name)
#define EVERY ((1u << REQUEST_KINDS) - 1)
#define LISTING (EVERY & ~(KIND(JUDGE) | KIND(REWRITE))) // answers with many items
#define BATCHED (KIND(CONSOLIDATE) | KIND(ENTITIES) | KIND(LOOKUP) | KIND(CROSS))
#define ASKING (EVERY & ~(KIND(JUDGE) | KIND(ENTITIES)))
#define ANSWERING (EVERY & ~(KIND(JUDGE) | KIND(LOOKUP)))
#define AT(member) offsetof(struct request_limits, member)

static const struct field request_fields[] = {
    {"temperature", FIELD_REAL, AT(sampling.temperature), 0, MAX_TEMPERATURE, EVERY},
    {"top_p", FIELD_REAL, AT(sampling.top_p), 0, 1, EVERY},
    {"top_k", FIELD_COUNT, AT(sampling.top_k), 0, INT32_MAX, EVERY},
    {"min_p", FIELD_REAL, AT(sampling.min_p), 0, 1, EVERY},
    {"repetition_penalty", FIELD_REAL, AT(sampling.repetition_penalty), 0, 10, EVERY},
    {"max_tokens", FIELD_COUNT, AT(max_tokens), 1, MAX_TOKENS, EVERY},
    {"max_items", FIELD_COUNT, AT(answer.max_items), 1, 10000, LISTING},
    {"continuations", FIELD_COUNT, AT(continuations), 0, 100, LISTING},
    {"batch", FIELD_COUNT, AT(answer.batch), 2, 1000, BATCHED},
    {"question_chars", FIELD_COUNT, AT(answer.question_chars), 1, 100000, ASKING},
    {"answer_chars", FIELD_COUNT, AT(answer.answer_chars), 1, 100000, ANSWERING},
};
#define REQUEST_FIELDS (sizeof request_fields / sizeof *request_fields)

#define TOP(member) offsetof(struct reflect_config, member)

static const struct field top_fields[] = {
    {"tries", FIELD_COUNT, TOP(tries), 1, 100, 0},
    {"rounds", FIELD_COUNT, TOP(rounds), 0, 100, 0},
    {"least_pairs", FIELD_COUNT, TOP(least_pairs), 2, 10000, 0},
    {"anchors", FIELD_COUNT, TOP(anchors), 0, 1000000, 0},
    {"batches", FIELD_COUNT, TOP(batches), 0, 1000000, 0},
};
#define TOP_FIELDS (sizeof top_fields / sizeof *top_fields)

static int set_field(const struct field *field, const struct json *value, void *base,
                     struct error *err)
{
    void *place = (char *)base + field->offset;
    if (value->type != JSON_NUMBER) {
        return error_set(err, "'%s' is %s, not a number", field->name, json_type_name(value->type));
    }
    if (value->number < field->minimum || value->number > field->maximum) {
        return error_set(err, "'%s' is %g, outside %g to %g", field->name, value->number,
                         field->minimum, field->maximum);
    }
    if (field->type == FIELD_COUNT && !value->is_integer) {
        return error_set(err, "'%s' is %g, not a whole number", field->name, value->number);
    }
    if (field->type == FIELD_REAL) {
        *(float *)place = (float)value->number;
    } else {
        *(uint32_t *)place = (uint32_t)value->integer;
    }
    return 0;
}

static const struct field *find_field(const struct field *fields, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++) {
        if (strcmp(fields[i].name, name) == 0) {
            return &fields[i];
        }
    }
    return NULL;
}

static int parse_request(const struct json *section, enum request_kind kind,
                         struct request_limits *out, struct error *err)
{
    if (section->type != JSON_OBJECT) {
        return error_set(err, "%s, not an object", json_type_name(section->type));
    }
    for (size_t i = 0; i < section->length; i++) {
        const struct field *field = find_field(request_fields, REQUEST_FIELDS, section->keys[i]);
        if (!field || !(field->kinds & 1u << kind)) {
            return error_set(err, "unknown key '%s'", section->keys[i]);
        }
        if (set_field(field, &section->items[i], out, err)) {
            return -1;
        }
    }
    return 0;
}

static int parse_member(const char *key, const struct json *value, struct reflect_config *config,
                        struct error *err)
{
    const struct field *field = find_field(top_fields, TOP_FIELDS, key);
    if (field) {
        return set_field(field, value, config, err);
    }
    for (int kind = 0; kind < REQUEST_KINDS; kind++) {
        if (strcmp(key, request_kind_info((enum request_kind)kind)->name) == 0) {
            return parse_request(value, (enum request_kind)kind, &config->requests[kind], err)
                       ? error_prefix(err, "'%s'", key)
                       : 0;
        }
    }
    return error_set(err, "unknown key '%s'", key);
}

int reflect_config_parse(const char *text, size_t bytes, struct reflect_config *config,
                         struct error *err)
{
    struct arena arena = {0};
    const struct json *root;
    int rc = json_parse(&arena, text, bytes, &root, err);
    if (rc == 0 && root->type != JSON_OBJECT) {
        rc = error_set(err, "%s, not an object", json_type_name(root->type));
    }
    for (size_t i = 0; rc == 0 && i < root->length; i++) {
        rc = parse_member(root->keys[i], &root->items[i], config, err);
    }
    arena_release(&arena);
    return rc;
}

// Calls visit for the place of every key.
static void visit_fields(struct reflect_config *config, void (*visit)(uint32_t *place))
{
    for (size_t i = 0; i < TOP_FIELDS; i++) {
        visit((uint32_t *)((char *)config + top_fields[i].offset));
    }
    for (int kind = 0; kind < REQUEST_KINDS; kind++) {
        for (size_t i = 0; i < REQUEST_FIELDS; i++) {
            if (request_fields[i].kinds & 1u << kind) {
                visit((uint32_t *)((char *)&config->requests[kind] + request_fields[i].offset));
            }
        }
    }
}

static void mark_unset(uint32_t *place)
{
    memset(place, 0xFF, sizeof *place);
}

static void check_set(uint32_t *place)
{
    static const unsigned char unset[sizeof *place] = {0xFF, 0xFF, 0xFF, 0xFF};
    assert(memcmp(place, unset, sizeof unset) != 0);
}

// The built-in file has every key.
static void load_built_in(struct reflect_config *out)
{
    struct error err;
    *out = (struct reflect_config){0};
    visit_fields(out, mark_unset);
    for (size_t i = 0; i < embedded_file_count; i++) {
        const struct embedded_file *file = &embedded_files[i];
        if (strcmp(file->name, BUILT_IN) == 0) {
            const int rc = reflect_config_parse(file->bytes, file->length, out, &err);
            assert(rc == 0);
            (void)rc;
        }
    }
    visit_fields(out, check_set);
}

int reflect_config_load(struct fs *fs, const char *path, struct reflect_config *out,
                        struct error *err)
{
    struct strbuf text = {0};
    load_built_in(out);
    if (!path) {
        return 0;
    }
    int rc = fs_read(fs, path, &text, err);
    if (rc == 0 && reflect_config_parse(text.bytes, text.length, out, err)) {
        rc = error_prefix(err, "'%s'", path);
    }
    strbuf_release(&text);
    return rc;
}

static void digest_fields(struct digest_builder *builder, const struct field *fields, size_t count,
                          const void *base)
{
    for (size_t i = 0; i < count; i++) {
        digest_field_text(builder, fields[i].name);
        digest_field(builder, (const char *)base + fields[i].offset, sizeof(uint32_t));
    }
}

struct digest reflect_config_digest(const struct reflect_config *config)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_fields(&builder, top_fields, TOP_FIELDS, config);
    for (int kind = 0; kind < REQUEST_KINDS; kind++) {
        digest_fields(&builder, request_fields, REQUEST_FIELDS, &config->requests[kind]);
    }
    return digest_end(&builder);
}
