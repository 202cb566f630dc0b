// SPDX-License-Identifier: Apache-2.0
// What keeps two models from being merged, all of it.
#include "base/arena.h"
#include "base/json.h"
#include "base/mem.h"
#include "worker/merge/weights.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void differences_add(struct differences *differences, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    strbuf_vaddf(&differences->text, format, args);
    strbuf_addc(&differences->text, '\n');
    va_end(args);
    differences->count++;
}

int differences_report(const struct differences *differences, const char *what, struct error *err)
{
    const size_t room = sizeof(err->text) - 256;
    if (differences->count == 0)
        return 0;
    size_t end = 0, named = 0;
    for (;;) {
        const char *newline = strchr(differences->text.bytes + end, '\n');
        const size_t next = newline ? (size_t)(newline - differences->text.bytes) + 1 : 0;
        if (!newline || (next > room && named > 0))
            break;
        end = next;
        named++;
    }
    char *text = mem_printf("%.*s", (int)(end > room ? room : end - 1), differences->text.bytes);
    for (char *c = text; *c; c++)
        *c = *c == '\n' ? ';' : *c;
    if (named < differences->count)
        error_set(err, "%zu %s: %s; and %zu more", differences->count, what, text,
                  differences->count - named);
    else
        error_set(err, "%zu %s: %s", differences->count, what, text);
    free(text);
    return -1;
}

void differences_release(struct differences *differences)
{
    strbuf_release(&differences->text);
}

static bool same_shape(const struct safetensors_entry *a, const struct safetensors_entry *b)
{
    return a->rank == b->rank &&
           memcmp(a->shape, b->shape, (size_t)a->rank * sizeof(a->shape[0])) == 0;
}

static void format_shape(const struct safetensors_entry *entry, struct strbuf *out)
{
    strbuf_reset(out);
    strbuf_addc(out, '[');
    for (int i = 0; i < entry->rank; i++)
        strbuf_addf(out, "%s%" PRIu64, i ? ", " : "", entry->shape[i]);
    strbuf_addc(out, ']');
}

static void compare_entries(const struct safetensors_entry *a, const char *a_name,
                            const struct safetensors_entry *b, const char *b_name, bool dtypes,
                            struct differences *out)
{
    struct strbuf a_shape = {0}, b_shape = {0};
    format_shape(a, &a_shape);
    format_shape(b, &b_shape);
    if (!same_shape(a, b))
        differences_add(out, "'%s' is %s in '%s' and %s in '%s'", a->name, a_shape.bytes, a_name,
                        b_shape.bytes, b_name);
    if (dtypes && a->dtype != b->dtype)
        differences_add(out, "'%s' is %s in '%s' and %s in '%s'", a->name,
                        safetensors_dtype_name(a->dtype), a_name, safetensors_dtype_name(b->dtype),
                        b_name);
    strbuf_release(&a_shape);
    strbuf_release(&b_shape);
}

void weights_compare(const struct safetensors *a, const char *a_name, const struct safetensors *b,
                     const char *b_name, bool dtypes, struct differences *out)
{
    for (size_t i = 0; i < a->count; i++) {
        const struct safetensors_entry *other = safetensors_find(b, a->entries[i].name);
        if (other)
            compare_entries(&a->entries[i], a_name, other, b_name, dtypes, out);
        else
            differences_add(out, "'%s' is in '%s' but not in '%s'", a->entries[i].name, a_name,
                            b_name);
    }
    for (size_t i = 0; i < b->count; i++) {
        if (!safetensors_find(a, b->entries[i].name))
            differences_add(out, "'%s' is in '%s' but not in '%s'", b->entries[i].name, b_name,
                            a_name);
    }
}

struct comparison {
    const char *file;
    const char *a_name, *b_name;
    struct differences *out;
};

static void format_value(const struct json *value, struct strbuf *out)
{
    struct json_writer w = {.out = out};
    strbuf_reset(out);
    if (!value)
        strbuf_adds(out, "absent");
    else if (value->type == JSON_STRING)
        json_string(&w, value->string, value->length);
    else if (value->type == JSON_NUMBER)
        json_number(&w, value->number);
    else if (value->type == JSON_BOOL)
        strbuf_adds(out, value->boolean ? "true" : "false");
    else
        strbuf_adds(out, json_type_name(value->type));
}

static void differ(const struct comparison *c, const char *path, const struct json *a,
                   const struct json *b)
{
    struct strbuf x = {0}, y = {0};
    format_value(a, &x);
    format_value(b, &y);
    differences_add(c->out, "%s%s is %s in '%s' and %s in '%s'", c->file, path, x.bytes, c->a_name,
                    y.bytes, c->b_name);
    strbuf_release(&x);
    strbuf_release(&y);
}

static bool same_scalar(const struct json *a, const struct json *b)
{
    switch (a->type) {
    case JSON_BOOL:
        return a->boolean == b->boolean;
    case JSON_NUMBER:
        return a->number == b->number;
    case JSON_STRING:
        return a->length == b->length && memcmp(a->string, b->string, a->length) == 0;
    default:
        return true;
    }
}

struct member {
    const char *key;
    const struct json *value;
};

static int compare_members(const void *a, const void *b)
{
    const struct member *x = a, *y = b;
    return strcmp(x->key, y->key);
}

static struct member *sorted_members(const struct json *object)
{
    struct member *members = mem_calloc(object->length + 1, sizeof(*members));
    for (size_t i = 0; i < object->length; i++)
        members[i] = (struct member){object->keys[i], &object->items[i]};
    qsort(members, object->length, sizeof(*members), compare_members);
    return members;
}

static void compare_values(const struct comparison *c, const char *path, const struct json *a,
                           const struct json *b);

// Vocabularies have 10^5 members: both sides are sorted and walked together.
static void compare_objects(const struct comparison *c, const char *path, const struct json *a,
                            const struct json *b)
{
    struct member *x = sorted_members(a), *y = sorted_members(b);
    size_t i = 0, j = 0;
    while (i < a->length || j < b->length) {
        const int order = i == a->length ? 1 : j == b->length ? -1 : strcmp(x[i].key, y[j].key);
        char *below = mem_printf("%s/%s", path, order <= 0 ? x[i].key : y[j].key);
        if (order == 0)
            compare_values(c, below, x[i].value, y[j].value);
        else
            differ(c, below, order < 0 ? x[i].value : NULL, order > 0 ? y[j].value : NULL);
        i += order <= 0;
        j += order >= 0;
        free(below);
    }
    free(x);
    free(y);
}

static void compare_arrays(const struct comparison *c, const char *path, const struct json *a,
                           const struct json *b)
{
    const size_t longer = a->length > b->length ? a->length : b->length;
    for (size_t i = 0; i < longer; i++) {
        char *below = mem_printf("%s/%zu", path, i);
        if (i < a->length && i < b->length)
            compare_values(c, below, &a->items[i], &b->items[i]);
        else
            differ(c, below, i < a->length ? &a->items[i] : NULL,
                   i < b->length ? &b->items[i] : NULL);
        free(below);
    }
}

static void compare_values(const struct comparison *c, const char *path, const struct json *a,
                           const struct json *b)
{
    if (a->type != b->type || !same_scalar(a, b))
        differ(c, path, a, b);
    else if (a->type == JSON_OBJECT)
        compare_objects(c, path, a, b);
    else if (a->type == JSON_ARRAY)
        compare_arrays(c, path, a, b);
}

// What the weights mean, where both files say it; names, versions and generation may differ.
static void compare_configs(const struct comparison *c, const char *path, const struct json *a,
                            const struct json *b)
{
    static const char *const keys[] = {
        "model_type",        "architectures",       "vocab_size",          "hidden_size",
        "num_hidden_layers", "intermediate_size",   "num_attention_heads", "num_key_value_heads",
        "head_dim",          "tie_word_embeddings", "rope_theta",          "rope_scaling",
        "rms_norm_eps",      "hidden_act",          "sliding_window"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        const struct json *x = json_get(a, keys[i]), *y = json_get(b, keys[i]);
        char *below = mem_printf("%s/%s", path, keys[i]);
        if (x && y && x->type != JSON_NULL && y->type != JSON_NULL)
            compare_values(c, below, x, y);
        free(below);
    }
}

static int read_json(struct fs *fs, const char *directory, const char *name, struct arena *arena,
                     struct strbuf *text, const struct json **out, struct error *err)
{
    char *path = fs_join(directory, name);
    int rc = 0;
    *out = NULL;
    if (fs_exists(fs, path)) {
        rc = fs_read(fs, path, text, err);
        if (rc == 0 && json_parse(arena, text->bytes, text->length, out, err))
            rc = error_prefix(err, "'%s'", path);
    }
    free(path);
    return rc;
}

static bool same_bytes(const struct strbuf *a, const struct strbuf *b)
{
    return a->length == b->length && memcmp(a->bytes, b->bytes, a->length) == 0;
}

static int compare_files(struct fs *fs, const struct comparison *c,
                         void (*compare)(const struct comparison *, const char *,
                                         const struct json *, const struct json *),
                         struct error *err)
{
    struct arena arena = {0};
    struct strbuf a_text = {0}, b_text = {0};
    const struct json *a, *b;
    int rc = read_json(fs, c->a_name, c->file, &arena, &a_text, &a, err) ||
                     read_json(fs, c->b_name, c->file, &arena, &b_text, &b, err)
                 ? -1
                 : 0;
    if (rc == 0 && (!a != !b))
        differences_add(c->out, "%s is in '%s' but not in '%s'", c->file, a ? c->a_name : c->b_name,
                        a ? c->b_name : c->a_name);
    if (rc == 0 && a && b && !same_bytes(&a_text, &b_text))
        compare(c, "", a, b);
    strbuf_release(&a_text);
    strbuf_release(&b_text);
    arena_release(&arena);
    return rc;
}

int directories_compare(struct fs *fs, const char *a, const char *b, struct differences *out,
                        struct error *err)
{
    const struct comparison config = {"config.json", a, b, out};
    const struct comparison tokenizer = {"tokenizer.json", a, b, out};
    return compare_files(fs, &config, compare_configs, err) ||
                   compare_files(fs, &tokenizer, compare_values, err)
               ? -1
               : 0;
}
