// SPDX-License-Identifier: Apache-2.0
#include "datasets/pairs.h"

#include "base/arena.h"
#include "base/json.h"
#include "base/mem.h"
#include "datasets/reflections.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct loading {
    struct pair_list *list;
    size_t capacity;
    struct arena *arena; // of the texts, released with the list
};

static void add_pair(struct loading *loading, struct digest id, const char *question,
                     size_t question_bytes, const char *answer, size_t answer_bytes)
{
    struct pair_list *list = loading->list;
    list->pairs = mem_grow(list->pairs, &loading->capacity, list->count + 1, sizeof(*list->pairs));
    list->pairs[list->count++] =
        (struct pair){.id = id,
                      .question = arena_strndup(loading->arena, question, question_bytes),
                      .question_bytes = question_bytes,
                      .answer = arena_strndup(loading->arena, answer, answer_bytes),
                      .answer_bytes = answer_bytes};
}

static int add_reflections(struct loading *loading, struct fs *fs, const char *directory,
                           struct error *err)
{
    struct reflection_set set;
    if (reflection_set_open(fs, directory, &set, err))
        return -1;
    for (size_t i = 0; i < set.pair_count; i++) {
        const struct reflection *pair = &set.pairs[i];
        add_pair(loading, pair->record_id, pair->question, pair->question_bytes, pair->answer,
                 pair->answer_bytes);
    }
    reflection_set_close(&set);
    return 0;
}

static int text_member(const struct json *object, const char *key, const struct json **out,
                       struct error *err)
{
    *out = json_get(object, key);
    if (!*out || (*out)->type != JSON_STRING || (*out)->length == 0)
        return error_set(err, "no text under '%s'", key);
    return 0;
}

static int add_line(struct loading *loading, struct arena *scratch, const char *line, size_t length,
                    struct error *err)
{
    const struct json *object, *question, *answer;
    if (json_parse(scratch, line, length, &object, err) ||
        text_member(object, "question", &question, err) ||
        text_member(object, "answer", &answer, err))
        return -1;
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field(&builder, question->string, question->length);
    digest_field(&builder, answer->string, answer->length);
    add_pair(loading, digest_end(&builder), question->string, question->length, answer->string,
             answer->length);
    return 0;
}

static int add_json_lines(struct loading *loading, struct fs *fs, const char *path,
                          struct error *err)
{
    struct strbuf text = {0};
    struct arena scratch = {0};
    int rc = fs_read(fs, path, &text, err);
    size_t number = 0;
    for (size_t at = 0; rc == 0 && at < text.length; number++) {
        const char *line = text.bytes + at;
        const char *end = memchr(line, '\n', text.length - at);
        const size_t length = end ? (size_t)(end - line) : text.length - at;
        if (strspn(line, " \t\r") < length) {
            arena_reset(&scratch);
            if (add_line(loading, &scratch, line, length, err))
                rc = error_prefix(err, "'%s', read as JSON Lines of pairs: line %zu", path,
                                  number + 1);
        }
        at += length + 1;
    }
    arena_release(&scratch);
    strbuf_release(&text);
    return rc;
}

static int add_source(struct loading *loading, struct fs *fs, const char *source, struct error *err)
{
    struct fs_info info;
    const int rc = fs->ops->stat(fs->state, source, &info);
    if (rc < 0)
        return error_set_errno(err, -rc, "cannot read pairs from '%s'", source);
    return info.is_directory ? add_reflections(loading, fs, source, err)
                             : add_json_lines(loading, fs, source, err);
}

static int compare_text(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    const int order = memcmp(a, b, a_bytes < b_bytes ? a_bytes : b_bytes);
    return order != 0 ? order : (a_bytes > b_bytes) - (a_bytes < b_bytes);
}

static int compare_content(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    int order = compare_text(x->question, x->question_bytes, y->question, y->question_bytes);
    if (order == 0)
        order = compare_text(x->answer, x->answer_bytes, y->answer, y->answer_bytes);
    return order != 0 ? order : digest_compare(x->id, y->id);
}

static int compare_ids(const void *a, const void *b)
{
    const struct pair *x = a, *y = b;
    return digest_compare(x->id, y->id);
}

static bool same_content(const struct pair *a, const struct pair *b)
{
    return compare_text(a->question, a->question_bytes, b->question, b->question_bytes) == 0 &&
           compare_text(a->answer, a->answer_bytes, b->answer, b->answer_bytes) == 0;
}

// Of equal pairs the one with the lowest id stays.
static void drop_duplicates(struct pair_list *list)
{
    size_t kept = 0;
    qsort(list->pairs, list->count, sizeof(*list->pairs), compare_content);
    for (size_t i = 0; i < list->count; i++) {
        if (kept > 0 && same_content(&list->pairs[kept - 1], &list->pairs[i]))
            list->duplicates++;
        else
            list->pairs[kept++] = list->pairs[i];
    }
    list->count = kept;
}

int pair_list_open(struct fs *fs, const char *const *sources, size_t source_count, size_t sample,
                   struct pair_list *out, struct error *err)
{
    *out = (struct pair_list){0};
    if (source_count == 0)
        return error_set(err, "no source of pairs");
    struct loading loading = {.list = out, .arena = mem_calloc(1, sizeof(struct arena))};
    out->memory = loading.arena;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < source_count; i++)
        rc = add_source(&loading, fs, sources[i], err);
    if (rc == 0 && out->count == 0)
        rc = error_set(err, "no pair in '%s'%s", sources[0],
                       source_count > 1 ? " and the rest" : "");
    if (rc != 0) {
        pair_list_close(out);
        return -1;
    }
    drop_duplicates(out);
    qsort(out->pairs, out->count, sizeof(*out->pairs), compare_ids);
    if (sample > 0 && sample < out->count)
        out->count = sample;
    return 0;
}

void pair_list_close(struct pair_list *list)
{
    if (list->memory)
        arena_release(list->memory);
    free(list->memory);
    free(list->pairs);
    *list = (struct pair_list){0};
}
