// SPDX-License-Identifier: Apache-2.0
#include "datasets/ingest.h"

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "datasets/ingest_internal.h"
#include "datasets/ingest_text.h"
#include "datasets/near_duplicates.h"
#include "datasets/prose.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 64 // directories below one another; a loop of links is deeper
#define MAX_UNDECLARED_BYTES (1ull << 30) // larger files of unknown ending are not opened to look
#define FEW_NULS 8 // text may hold some, but not more than one byte in so many
#define PROGRESS_FILES 100

struct ingest_options ingest_options_default(void)
{
    return (struct ingest_options){
        .chunker = {.chunk_tokens = 1024,
                    .overlap_tokens = 128,
                    .counter = {prose_count_tokens, NULL}},
        .id_key = "id",
        .text_key = "text",
        .date_key = "date",
        .title_key = "title",
        .near_duplicate_threshold = NEAR_DUPLICATE_THRESHOLD,
        .groups = GROUPS_DEFAULTS,
    };
}

static int compare_known(const void *left, const void *right)
{
    const struct ingest_known *a = left, *b = right;
    int order = digest_compare(a->digest, b->digest);
    return order ? order : strcmp(a->source, b->source);
}

static int open_known(struct ingest *ingest, struct error *err)
{
    size_t corpora = ingest->options.known_count, capacity = 0;
    ingest->known_corpora = mem_calloc(corpora + 1, sizeof *ingest->known_corpora);
    for (size_t c = 0; c < corpora; c++) {
        struct corpus *corpus = NULL;
        if (corpus_open(ingest->options.known[c], &corpus, err)) {
            return -1;
        }
        ingest->known_corpora[ingest->known_corpus_count++] = corpus;
        for (size_t i = 0; i < corpus->document_count; i++) {
            ingest->known =
                mem_grow(ingest->known, &capacity, ingest->known_count + 1, sizeof *ingest->known);
            ingest->known[ingest->known_count++] =
                (struct ingest_known){corpus->documents[i].digest, corpus->documents[i].source};
        }
    }
    if (ingest->known_count > 0) {
        qsort(ingest->known, ingest->known_count, sizeof *ingest->known, compare_known);
    }
    return 0;
}

int ingest_create(struct fs *fs, const struct ingest_options *options, struct ingest **out,
                  struct error *err)
{
    *out = NULL;
    struct ingest *ingest = mem_calloc(1, sizeof *ingest);
    ingest->fs = fs;
    ingest->options = *options;
    if (!ingest->options.chunker.counter.count_tokens) {
        ingest->options.chunker.counter = (struct token_counter){prose_count_tokens, NULL};
    }
    if (open_known(ingest, err)) {
        ingest_destroy(ingest);
        return -1;
    }
    *out = ingest;
    return 0;
}

void ingest_destroy(struct ingest *ingest)
{
    if (!ingest) {
        return;
    }
    for (size_t i = 0; i < ingest->document_count; i++) {
        free(ingest->documents[i].text);
    }
    for (size_t i = 0; i < ingest->known_corpus_count; i++) {
        corpus_close(ingest->known_corpora[i]);
    }
    free(ingest->known_corpora);
    free(ingest->known);
    free(ingest->documents);
    free(ingest->report.skipped.items);
    free(ingest->report.bad.items);
    free(ingest->report.changed.items);
    free(ingest->report.vanished.items);
    arena_release(&ingest->arena);
    free(ingest);
}

void ingest_names_add(struct ingest *ingest, struct ingest_names *names, const char *name)
{
    if ((names->count & (names->count + 1)) == 0) { // full at 2^n - 1
        names->items = mem_realloc(names->items, (2 * names->count + 1) * sizeof *names->items);
    }
    names->items[names->count++] = arena_strndup(&ingest->arena, name, strlen(name));
}

// What is known of a document before its text is cleaned. NULL where nothing is stated.
struct statement {
    const char *id;
    const char *title;
    const char *date;
    const char *source;
    const char *fallback_title;
    bool markdown;
};

// Names of files are bytes; those of documents are text.
static const char *escaped(struct arena *arena, const char *path)
{
    struct strbuf text = {0};
    size_t length = strlen(path);
    for (size_t valid; (valid = utf8_valid_prefix(path, length)) < length;) {
        strbuf_add(&text, path, valid);
        strbuf_addf(&text, "\\x%02x", (unsigned)(unsigned char)path[valid]);
        path += valid + 1;
        length -= valid + 1;
    }
    strbuf_add(&text, path, length);
    const char *source = arena_strndup(arena, text.length > 0 ? text.bytes : "", text.length);
    strbuf_release(&text);
    return source;
}

static void add_document(struct ingest *ingest, const struct statement *stated, char *text,
                         size_t length)
{
    struct arena *arena = &ingest->arena;
    const char *title = NULL;
    length = ingest_normalise(text, length);
    struct ingest_span span = ingest_strip_gutenberg(text, length, arena, &title);
    span = ingest_trim(text, span);
    length = span.end - span.begin;
    if (stated->title && *stated->title) {
        title = ingest_clean_title(stated->title, strlen(stated->title), arena);
    }
    if (!title || !*title) {
        title = ingest_find_title(text, span, stated->markdown, arena);
    }
    if (!title) {
        title = arena_strndup(arena, stated->fallback_title, strlen(stated->fallback_title));
    }
    memmove(text, text + span.begin, length);
    text = mem_realloc(text, length + 1);
    const char *source = escaped(arena, stated->source);
    const char *date = stated->date ? stated->date : "";
    ingest->documents = mem_grow(ingest->documents, &ingest->document_capacity,
                                 ingest->document_count + 1, sizeof *ingest->documents);
    ingest->documents[ingest->document_count++] = (struct ingest_document){
        .id = stated->id ? arena_strndup(arena, stated->id, strlen(stated->id)) : source,
        .title = escaped(arena, title),
        .source = source,
        .date = arena_strndup(arena, date, strlen(date)),
        .text = text,
        .length = length,
        .digest = digest_bytes(text, length),
        .of = "",
    };
}

// "letters.txt" of "a/b/letters.txt".
static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool has_ending(const char *path, const char *ending)
{
    size_t length = strlen(path), ending_length = strlen(ending);
    return length > ending_length && strcmp(path + length - ending_length, ending) == 0;
}

// A string member. With an arena whole numbers are taken as well, as ids and years often are.
static int get_text(const struct json *object, const char *key, struct arena *arena,
                    const char **out, size_t *length, struct error *err)
{
    const struct json *value = json_get(object, key);
    *out = NULL;
    if (!value || value->type == JSON_NULL) {
        return 0;
    }
    if (arena && value->type == JSON_NUMBER && value->is_integer) {
        *out = arena_printf(arena, "%lld", (long long)value->integer);
        *length = strlen(*out);
        return 0;
    }
    if (value->type != JSON_STRING) {
        return error_set(err, "'%s' is not a string", key);
    }
    *out = value->string;
    *length = value->length;
    return 0;
}

// A member that becomes a C string, which holds no NUL.
static int get_name(const struct json *object, const char *key, struct arena *arena,
                    const char **out, struct error *err)
{
    size_t length = 0;
    if (get_text(object, key, arena, out, &length, err)) {
        return -1;
    }
    if (*out && memchr(*out, '\0', length)) {
        return error_set(err, "'%s' contains a NUL character", key);
    }
    return 0;
}

static int add_json_line(struct ingest *ingest, const char *source, const char *fallback_title,
                         const char *line, size_t length, struct arena *scratch, struct error *err)
{
    const struct ingest_options *options = &ingest->options;
    const struct json *object = NULL;
    struct statement stated = {.source = source, .fallback_title = fallback_title};
    const char *text = NULL;
    size_t text_length = 0;
    if (json_parse(scratch, line, length, &object, err)) {
        return -1;
    }
    if (object->type != JSON_OBJECT) {
        return error_set(err, "not a JSON object");
    }
    if (get_text(object, options->text_key, NULL, &text, &text_length, err) ||
        get_name(object, options->id_key, scratch, &stated.id, err) ||
        get_name(object, options->date_key, scratch, &stated.date, err) ||
        get_name(object, options->title_key, NULL, &stated.title, err)) {
        return -1;
    }
    if (!text) {
        return error_set(err, "no '%s' in the object; name the key that holds the text",
                         options->text_key);
    }
    if (stated.id && *stated.id) {
        stated.fallback_title = stated.id;
    } else {
        stated.id = NULL;
    }
    add_document(ingest, &stated, mem_dup(text, text_length + 1), text_length);
    return 0;
}

static int add_json_lines(struct ingest *ingest, const char *path, const char *bytes, size_t length,
                          struct error *err)
{
    struct arena scratch = {0};
    size_t line = 0, begin = length >= 3 && memcmp(bytes, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    int rc = 0;
    while (rc == 0 && begin < length) {
        const char *newline = memchr(bytes + begin, '\n', length - begin);
        size_t end = newline ? (size_t)(newline - bytes) : length;
        size_t visible = begin;
        while (visible < end && strchr(" \t\r", bytes[visible])) {
            visible++;
        }
        line++;
        if (visible < end) {
            const char *source = arena_printf(&scratch, "%s:%zu", path, line);
            rc = add_json_line(ingest, source, base_name(source), bytes + begin, end - begin,
                               &scratch, err);
            if (rc) {
                error_prefix(err, "'%s'", source);
            }
            arena_reset(&scratch);
        }
        begin = end + 1;
    }
    arena_release(&scratch);
    return rc;
}

static void add_plain_file(struct ingest *ingest, const char *path, struct strbuf *bytes)
{
    const char *name = base_name(path);
    const char *point = strrchr(name, '.');
    char *stem = mem_strdup(name);
    if (point && point > name) {
        stem[point - name] = '\0';
    }
    struct statement stated = {
        .source = path, .fallback_title = stem, .markdown = has_ending(path, ".md")};
    size_t length = bytes->length;
    char *text = strbuf_detach(bytes);
    add_document(ingest, &stated, text ? text : mem_calloc(1, 1), length);
    free(stem);
}

static size_t count_nuls(const char *bytes, size_t length)
{
    size_t count = 0;
    for (size_t i = 0; i < length; i++) {
        count += bytes[i] == '\0';
    }
    return count;
}

static bool is_utf16(const struct strbuf *bytes)
{
    return bytes->length >= 2 &&
           (memcmp(bytes->bytes, "\xff\xfe", 2) == 0 || memcmp(bytes->bytes, "\xfe\xff", 2) == 0);
}

static int bad_file(struct ingest *ingest, const struct error *err)
{
    if (!ingest->options.skips_bad_files) {
        return -1;
    }
    ingest_names_add(ingest, &ingest->report.bad, err->text);
    return 0;
}

// declared: the user or the ending says that this is text, so that anything else is an error.
static int add_file(struct ingest *ingest, const char *path, bool declared, struct error *err)
{
    struct strbuf bytes = {0};
    if (fs_read(ingest->fs, path, &bytes, err)) {
        strbuf_release(&bytes);
        return bad_file(ingest, err);
    }
    size_t valid = utf8_valid_prefix(bytes.bytes, bytes.length);
    size_t nuls = count_nuls(bytes.bytes, bytes.length);
    int rc = 0;
    if ((valid < bytes.length || nuls > 0) && !declared) {
        ingest_names_add(ingest, &ingest->report.skipped, path);
    } else if (valid == bytes.length && nuls * FEW_NULS > bytes.length) {
        error_set(err, "'%s' is not UTF-8: %zu of its %zu bytes are NUL; convert it first", path,
                  nuls, bytes.length);
        rc = bad_file(ingest, err);
    } else if (valid < bytes.length && is_utf16(&bytes)) {
        error_set(err, "'%s' is UTF-16, not UTF-8: convert it first (iconv -f UTF-16 -t UTF-8)",
                  path);
        rc = bad_file(ingest, err);
    } else if (valid < bytes.length) {
        error_set(err, "'%s' is not UTF-8: invalid at byte %zu; convert it first", path, valid);
        rc = bad_file(ingest, err);
    } else {
        ingest->report.files++;
        ingest->bytes_read += bytes.length;
        if (has_ending(path, ".jsonl")) {
            rc = add_json_lines(ingest, path, bytes.bytes, bytes.length, err);
        } else {
            add_plain_file(ingest, path, &bytes);
        }
    }
    strbuf_release(&bytes);
    if (ingest->report.files % PROGRESS_FILES == 0 && ingest->report.files > 0) {
        log_progress("reading: %zu files, %.1f MB", ingest->report.files,
                     (double)ingest->bytes_read / 1e6);
    }
    return rc;
}

static bool matches_glob(const struct ingest *ingest, const char *path)
{
    for (size_t i = 0; i < ingest->options.glob_count; i++) {
        const char *glob = ingest->options.globs[i];
        const char *subject = strchr(glob, '/') ? path : base_name(path);
        if (fnmatch(glob, subject, 0) == 0) {
            return true;
        }
    }
    return false;
}

static int add_found_file(struct ingest *ingest, const char *path, uint64_t size, struct error *err)
{
    if (ingest->options.glob_count > 0) {
        return matches_glob(ingest, path) ? add_file(ingest, path, true, err) : 0;
    }
    bool declared =
        has_ending(path, ".txt") || has_ending(path, ".md") || has_ending(path, ".jsonl");
    if (!declared && size > MAX_UNDECLARED_BYTES) {
        ingest_names_add(ingest, &ingest->report.skipped, path);
        return 0;
    }
    return add_file(ingest, path, declared, err);
}

static int add_directory(struct ingest *ingest, const char *path, int depth, struct error *err)
{
    if (depth > MAX_DEPTH) {
        error_set(err, "'%s' is more than %d directories deep; is it a loop of links?", path,
                  MAX_DEPTH);
        return bad_file(ingest, err);
    }
    struct fs_names names = {0};
    if (fs_list(ingest->fs, path, &names, err)) {
        return bad_file(ingest, err);
    }
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < names.count; i++) {
        if (names.names[i][0] == '.') {
            continue;
        }
        char *child = fs_join(path, names.names[i]);
        struct fs_info info = {0};
        int status = ingest->fs->ops->stat(ingest->fs->state, child, &info);
        if (status < 0) {
            error_set_errno(err, -status, "cannot read '%s'", child);
            rc = bad_file(ingest, err);
        } else if (info.is_directory) {
            rc = add_directory(ingest, child, depth + 1, err);
        } else if (info.is_special) {
            ingest_names_add(ingest, &ingest->report.skipped, child);
        } else {
            rc = add_found_file(ingest, child, info.size_bytes, err);
        }
        free(child);
    }
    fs_names_release(&names);
    return rc;
}

int ingest_add_path(struct ingest *ingest, const char *path, struct error *err)
{
    struct fs_info info = {0};
    char *trimmed = mem_strdup(path);
    for (size_t n = strlen(trimmed); n > 1 && trimmed[n - 1] == '/'; n--) {
        trimmed[n - 1] = '\0';
    }
    int status = ingest->fs->ops->stat(ingest->fs->state, trimmed, &info);
    int rc = status < 0          ? error_set_errno(err, -status, "cannot read '%s'", path)
             : info.is_directory ? add_directory(ingest, trimmed, 0, err)
                                 : add_file(ingest, trimmed, true, err);
    free(trimmed);
    return rc;
}
