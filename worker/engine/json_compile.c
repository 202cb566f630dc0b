// SPDX-License-Identifier: Apache-2.0
// From a JSON Schema to a program. Literal bytes are collected until something else follows.
#include "worker/engine/json_program.h"

#include "base/arena.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/strbuf.h"

#include <stdlib.h>
#include <string.h>

enum { CODE_LIMIT = UINT16_MAX }; // instructions, and nodes

struct compiler {
    struct json_program *program;
    struct strbuf literal; // not emitted yet
    struct strbuf place;   // in the schema: "#/properties/pairs"
    uint16_t level;        // arrays around
    uint16_t inside;       // ITEMS of the innermost of them
    struct error *err;
};

static int compile_value(struct compiler *c, const struct json *schema, size_t *shortest);

static int fail(const struct compiler *c, const char *what)
{
    return error_set(c->err, "the schema at '%s' %s", c->place.bytes, what);
}

static int fail_keyword(const struct compiler *c, const char *keyword, const char *what)
{
    return error_set(c->err, "the schema at '%s': keyword '%s' %s", c->place.bytes, keyword, what);
}

static int emit(struct compiler *c, struct json_instruction instruction)
{
    struct json_program *p = c->program;
    if (p->count == CODE_LIMIT)
        return fail(c, "is too large");
    p->instructions =
        mem_grow(p->instructions, &p->capacity, p->count + 1, sizeof *p->instructions);
    instruction.inside = c->inside;
    p->instructions[p->count++] = instruction;
    return 0;
}

// 0 when there is no room.
static uint16_t add_node(struct json_program *p, uint8_t byte)
{
    if (p->node_count > CODE_LIMIT)
        return 0;
    p->nodes = mem_grow(p->nodes, &p->node_capacity, p->node_count + 1, sizeof *p->nodes);
    p->nodes[p->node_count] = (struct json_node){.byte = byte};
    return (uint16_t)p->node_count++;
}

static uint16_t child_of(struct json_program *p, uint16_t node, uint8_t byte, bool *is_new)
{
    uint16_t child = p->nodes[node].child;
    while (child && p->nodes[child].byte != byte)
        child = p->nodes[child].sibling;
    *is_new = !child;
    if (child)
        return child;
    child = add_node(p, byte);
    p->nodes[child].sibling = p->nodes[node].child;
    p->nodes[node].child = child;
    return child;
}

static int add_text(struct compiler *c, uint16_t root, const char *bytes, size_t length)
{
    bool is_new = false;
    uint16_t node = root;
    for (size_t i = 0; i < length; i++) {
        node = child_of(c->program, node, (uint8_t)bytes[i], &is_new);
        if (!node)
            return fail(c, "is too large");
    }
    return is_new ? 0 : fail_keyword(c, "enum", "lists a value twice");
}

// Children come behind their parents.
static void find_nearest(struct json_program *p, uint16_t root)
{
    for (size_t n = p->node_count; n-- > root;) {
        struct json_node *node = &p->nodes[n];
        node->to_end = node->child ? UINT32_MAX : 0;
        for (uint16_t child = node->child; child; child = p->nodes[child].sibling) {
            if (p->nodes[child].to_end + 1 < node->to_end) {
                node->to_end = p->nodes[child].to_end + 1;
                node->nearest = child;
            }
        }
    }
}

struct texts {
    struct strbuf *items;
    size_t count;
};

static int emit_texts(struct compiler *c, const struct texts *texts, size_t *shortest)
{
    const uint16_t root = add_node(c->program, 0);
    if (!root)
        return fail(c, "is too large");
    for (size_t i = 0; i < texts->count; i++)
        if (add_text(c, root, texts->items[i].bytes, texts->items[i].length))
            return -1;
    find_nearest(c->program, root);
    *shortest = c->program->nodes[root].to_end;
    return emit(c, (struct json_instruction){.operation = JSON_READ_TEXT, .node = root});
}

static int flush_literal(struct compiler *c)
{
    size_t shortest;
    if (c->literal.length == 0)
        return 0;
    const struct texts one = {&c->literal, 1};
    const int rc = emit_texts(c, &one, &shortest);
    strbuf_reset(&c->literal);
    return rc;
}

static void append_quoted(struct strbuf *out, const char *bytes, size_t length)
{
    struct json_writer writer = {.out = out};
    json_string(&writer, bytes, length);
}

// Every key must be among the words, which NULL ends; none may come twice.
static int check_keywords(const struct compiler *c, const struct json *schema,
                          const char *const *words)
{
    for (size_t i = 0; i < schema->length; i++) {
        size_t w = 0;
        while (words[w] && strcmp(words[w], schema->keys[i]) != 0)
            w++;
        if (!words[w])
            return fail_keyword(c, schema->keys[i], "is not supported here");
        if (json_get(schema, schema->keys[i]) != &schema->items[i])
            return fail_keyword(c, schema->keys[i], "comes twice");
    }
    return 0;
}

static int get_count(const struct compiler *c, const struct json *schema, const char *keyword,
                     uint32_t *out)
{
    const struct json *value = json_get(schema, keyword);
    if (!value)
        return 0;
    if (value->type != JSON_NUMBER || !value->is_integer || value->integer < 0 ||
        value->integer >= JSON_UNLIMITED)
        return fail_keyword(c, keyword, "must be a whole number, 0 or more");
    *out = (uint32_t)value->integer;
    return 0;
}

static int compile_enum(struct compiler *c, const struct json *values, size_t *shortest)
{
    if (values->type != JSON_ARRAY || values->length == 0)
        return fail_keyword(c, "enum", "must be a list of strings");
    struct texts texts = {mem_calloc(values->length, sizeof *texts.items), values->length};
    int rc = flush_literal(c);
    for (size_t i = 0; i < texts.count && !rc; i++) {
        if (values->items[i].type != JSON_STRING)
            rc = fail_keyword(c, "enum", "must be a list of strings");
        else
            append_quoted(&texts.items[i], values->items[i].string, values->items[i].length);
    }
    rc = rc || emit_texts(c, &texts, shortest) ? -1 : 0;
    for (size_t i = 0; i < texts.count; i++)
        strbuf_release(&texts.items[i]);
    free(texts.items);
    return rc;
}

static int compile_string(struct compiler *c, const struct json *schema, size_t *shortest)
{
    static const char *const free_words[] = {"type", "maxLength", NULL};
    static const char *const enum_words[] = {"type", "enum", NULL};
    const struct json *values = json_get(schema, "enum");
    struct json_instruction string = {.operation = JSON_READ_STRING, .maximum = JSON_UNLIMITED};
    if (check_keywords(c, schema, values ? enum_words : free_words))
        return -1;
    if (values)
        return compile_enum(c, values, shortest);
    strbuf_addc(&c->literal, '"');
    *shortest = 2;
    return get_count(c, schema, "maxLength", &string.maximum) || flush_literal(c) || emit(c, string)
               ? -1
               : 0;
}

static int compile_boolean(struct compiler *c, size_t *shortest)
{
    struct strbuf words[2] = {{0}};
    const struct texts texts = {words, 2};
    strbuf_adds(&words[0], "true");
    strbuf_adds(&words[1], "false");
    const int rc = flush_literal(c) || emit_texts(c, &texts, shortest) ? -1 : 0;
    strbuf_release(&words[0]);
    strbuf_release(&words[1]);
    return rc;
}

static int compile_number(struct compiler *c, bool is_integer, size_t *shortest)
{
    *shortest = 1;
    return flush_literal(c) || emit(c, (struct json_instruction){.operation = JSON_READ_NUMBER,
                                                                 .is_integer = is_integer})
               ? -1
               : 0;
}

// Compiles a part of the schema, whose place is "/keyword" or "/keyword/name" below this one.
static int compile_part(struct compiler *c, const struct json *schema, const char *keyword,
                        const char *name, size_t *shortest)
{
    const size_t length = c->place.length;
    strbuf_addf(&c->place, "/%s%s%s", keyword, name ? "/" : "", name ? name : "");
    const int rc = compile_value(c, schema, shortest);
    if (rc)
        return rc;
    if (*shortest >= JSON_SHORTEST_LIMIT)
        return fail(c, "asks for 32,768 bytes or more: make its minItems or its texts smaller");
    c->place.length = length;
    c->place.bytes[length] = '\0';
    return 0;
}

static size_t add_saturated(size_t a, size_t b)
{
    return a + b < JSON_SHORTEST_LIMIT ? a + b : JSON_SHORTEST_LIMIT;
}

static int compile_items(struct compiler *c, const struct json *items, uint32_t minimum,
                         uint32_t maximum, size_t *shortest)
{
    struct json_program *p = c->program;
    struct json_instruction gate = {
        .operation = JSON_READ_ITEMS, .minimum = minimum, .maximum = maximum, .level = c->level++};
    const uint16_t first = (uint16_t)p->count, outside = c->inside;
    size_t item = 0;
    if (emit(c, gate))
        return -1;
    c->inside = first;
    if (compile_part(c, items, "items", NULL, &item) || flush_literal(c))
        return -1;
    gate.operation = JSON_READ_NEXT;
    gate.partner = first;
    gate.item_bytes = (uint32_t)item + 1;
    p->instructions[first].partner = (uint16_t)p->count;
    p->instructions[first].item_bytes = gate.item_bytes;
    if (emit(c, gate))
        return -1;
    c->level--;
    c->inside = outside;
    *shortest = 2;
    for (uint32_t i = 0; i < minimum && *shortest < JSON_SHORTEST_LIMIT; i++)
        *shortest = add_saturated(*shortest, item + (i > 0));
    return 0;
}

static int compile_array(struct compiler *c, const struct json *schema, size_t *shortest)
{
    static const char *const words[] = {"type", "items", "minItems", "maxItems", NULL};
    const struct json *items = json_get(schema, "items");
    uint32_t minimum = 0, maximum = JSON_UNLIMITED;
    if (check_keywords(c, schema, words) || get_count(c, schema, "minItems", &minimum) ||
        get_count(c, schema, "maxItems", &maximum))
        return -1;
    if (!items)
        return fail(c, "is an array without 'items'");
    if (minimum > maximum)
        return fail(c, "has a minItems above its maxItems");
    if (c->level == JSON_ARRAY_DEPTH)
        return fail(c, "has too many arrays inside arrays (at most 6)");
    strbuf_addc(&c->literal, '[');
    return flush_literal(c) || compile_items(c, items, minimum, maximum, shortest) ? -1 : 0;
}

static int check_required(const struct compiler *c, const struct json *schema,
                          const struct json *properties)
{
    const struct json *required = json_get(schema, "required");
    const struct json *additional = json_get(schema, "additionalProperties");
    if (additional && (additional->type != JSON_BOOL || additional->boolean))
        return fail_keyword(c, "additionalProperties", "can only be false");
    if (required && required->type != JSON_ARRAY)
        return fail_keyword(c, "required", "must be a list of names");
    for (size_t i = 0; required && i < required->length; i++) {
        const struct json *name = &required->items[i];
        if (name->type != JSON_STRING || !json_get(properties, name->string))
            return fail_keyword(c, "required", "names what is not among the properties");
    }
    return 0;
}

static int compile_object(struct compiler *c, const struct json *schema, size_t *shortest)
{
    static const char *const words[] = {"type", "properties", "required", "additionalProperties",
                                        NULL};
    const struct json *properties = json_get(schema, "properties");
    if (check_keywords(c, schema, words))
        return -1;
    if (!properties || properties->type != JSON_OBJECT)
        return fail(c, "is an object without 'properties'");
    if (check_required(c, schema, properties))
        return -1;
    *shortest = 2;
    strbuf_addc(&c->literal, '{');
    for (size_t i = 0; i < properties->length; i++) {
        const char *name = properties->keys[i];
        const size_t length = c->literal.length;
        size_t value;
        if (json_get(properties, name) != &properties->items[i])
            return fail_keyword(c, "properties", "has a name twice");
        if (i > 0)
            strbuf_addc(&c->literal, ',');
        append_quoted(&c->literal, name, properties->key_lengths[i]);
        strbuf_addc(&c->literal, ':');
        *shortest = add_saturated(*shortest, c->literal.length - length);
        if (compile_part(c, &properties->items[i], "properties", name, &value))
            return -1;
        *shortest = add_saturated(*shortest, value);
    }
    strbuf_addc(&c->literal, '}');
    return 0;
}

static int compile_value(struct compiler *c, const struct json *schema, size_t *shortest)
{
    if (schema->type != JSON_OBJECT)
        return fail(c, "is not an object");
    const struct json *type = json_get(schema, "type");
    if (!type || type->type != JSON_STRING)
        return fail(c, "has no 'type', which must be one word");
    if (strcmp(type->string, "object") == 0)
        return compile_object(c, schema, shortest);
    if (strcmp(type->string, "array") == 0)
        return compile_array(c, schema, shortest);
    if (strcmp(type->string, "string") == 0)
        return compile_string(c, schema, shortest);
    static const char *const words[] = {"type", NULL};
    if (check_keywords(c, schema, words))
        return -1;
    if (strcmp(type->string, "boolean") == 0)
        return compile_boolean(c, shortest);
    if (strcmp(type->string, "integer") == 0 || strcmp(type->string, "number") == 0)
        return compile_number(c, type->string[0] == 'i', shortest);
    return error_set(c->err, "the schema at '%s': type '%s' is not supported", c->place.bytes,
                     type->string);
}

static int compile_root(struct compiler *c, const struct json *root)
{
    size_t shortest = 0;
    const struct json *type = json_get(root, "type");
    if (!type || type->type != JSON_STRING ||
        (strcmp(type->string, "object") != 0 && strcmp(type->string, "array") != 0))
        return fail(c, "is neither an object's nor an array's");
    if (compile_value(c, root, &shortest) || flush_literal(c))
        return -1;
    if (shortest >= JSON_SHORTEST_LIMIT)
        return fail(c, "asks for 32,768 bytes or more: make its minItems or its texts smaller");
    return emit(c, (struct json_instruction){.operation = JSON_READ_END});
}

int json_program_compile(const char *schema, size_t bytes, struct json_program *out,
                         struct error *err)
{
    struct arena arena = {0};
    struct compiler c = {.program = out, .inside = JSON_NO_ARRAY, .err = err};
    const struct json *root;
    *out = (struct json_program){0};
    add_node(out, 0); // none
    strbuf_adds(&c.place, "#");
    int rc = json_parse(&arena, schema, bytes, &root, err);
    if (rc)
        error_prefix(err, "the schema");
    else
        rc = compile_root(&c, root);
    if (rc)
        json_program_release(out);
    strbuf_release(&c.literal);
    strbuf_release(&c.place);
    arena_release(&arena);
    return rc;
}
