// SPDX-License-Identifier: Apache-2.0
#include "datasets/prompt_set.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "datasets/embedded.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SUFFIX ".txt"
#define TEXT_PLACE "{{text}}"

static const char *const names[PROMPT_COUNT] = {
    [PROMPT_SYSTEM] = "system",           [PROMPT_DOCUMENT] = "document",
    [PROMPT_DIRECT] = "direct",           [PROMPT_INDIRECT] = "indirect",
    [PROMPT_CONSOLIDATE] = "consolidate", [PROMPT_JUDGE] = "judge",
    [PROMPT_REWRITE] = "rewrite",         [PROMPT_ENTITIES] = "entities",
    [PROMPT_LOOKUP] = "lookup",           [PROMPT_CROSS] = "cross",
    [PROMPT_CONTINUE] = "continue",
};

// Texts that were read from a directory; NULL where the built-in one is used.
struct read_texts {
    char *texts[PROMPT_COUNT];
};

const char *prompt_name(enum prompt prompt)
{
    return names[prompt];
}

static bool has_suffix(const char *name)
{
    const size_t length = strlen(name);
    return length >= strlen(SUFFIX) && strcmp(name + length - strlen(SUFFIX), SUFFIX) == 0;
}

// The prompt whose file has that name; -1 when there is none.
static int find_prompt(const char *file)
{
    for (int i = 0; i < PROMPT_COUNT; i++) {
        const size_t length = strlen(names[i]);
        if (strncmp(file, names[i], length) == 0 && strcmp(file + length, SUFFIX) == 0) {
            return i;
        }
    }
    return -1;
}

static void use_built_in(struct prompt_set *set)
{
    for (size_t i = 0; i < embedded_file_count; i++) {
        const int prompt = find_prompt(embedded_files[i].name);
        if (prompt >= 0) {
            set->texts[prompt] =
                (struct prompt_text){embedded_files[i].bytes, embedded_files[i].length};
        }
    }
}

static int check_text(enum prompt prompt, const struct prompt_text *text, struct error *err)
{
    const size_t valid = utf8_valid_prefix(text->text, text->bytes);
    if (text->bytes == 0) {
        return error_set(err, "the file is empty");
    }
    if (valid < text->bytes) {
        return error_set(err, "byte %zu is not UTF-8", valid);
    }
    if (strlen(text->text) < text->bytes) {
        return error_set(err, "byte %zu is NUL", strlen(text->text));
    }
    if (prompt == PROMPT_DOCUMENT && !strstr(text->text, TEXT_PLACE)) {
        return error_set(err, "no place %s for the document's text", TEXT_PLACE);
    }
    return 0;
}

static int read_prompt(struct fs *fs, const char *directory, const char *file,
                       struct prompt_set *set, struct error *err)
{
    struct read_texts *read = set->memory;
    const int prompt = find_prompt(file);
    if (prompt < 0) {
        return error_set(err,
                         "unknown prompt '%s': a prompt set consists of system.txt, "
                         "document.txt, direct.txt and so on",
                         file);
    }
    char *path = fs_join(directory, file);
    struct strbuf bytes = {0};
    strbuf_reserve(&bytes, 1); // never NULL
    int rc = fs_read(fs, path, &bytes, err);
    if (rc == 0) {
        set->texts[prompt].bytes = bytes.length;
        set->texts[prompt].text = read->texts[prompt] = strbuf_detach(&bytes);
        if (check_text((enum prompt)prompt, &set->texts[prompt], err)) {
            rc = error_prefix(err, "'%s'", path);
        }
    }
    strbuf_release(&bytes);
    free(path);
    return rc;
}

static int read_directory(struct fs *fs, const char *directory, struct prompt_set *set,
                          struct error *err)
{
    struct fs_names files;
    size_t found = 0;
    int rc = 0;
    if (fs_list(fs, directory, &files, err)) {
        return -1;
    }
    for (size_t i = 0; i < files.count && rc == 0; i++) {
        if (has_suffix(files.names[i])) {
            rc = read_prompt(fs, directory, files.names[i], set, err);
            found++;
        }
    }
    fs_names_release(&files);
    if (rc == 0 && found == 0) {
        return error_set(err,
                         "no prompts in '%s': none of system.txt, document.txt, direct.txt "
                         "and so on is there",
                         directory);
    }
    return rc;
}

static struct digest digest_texts(const struct prompt_set *set)
{
    struct digest_builder builder;
    digest_begin(&builder);
    for (int i = 0; i < PROMPT_COUNT; i++) {
        digest_field_text(&builder, names[i]);
        digest_field(&builder, set->texts[i].text, set->texts[i].bytes);
    }
    return digest_end(&builder);
}

int prompt_set_open(struct fs *fs, const char *directory, struct prompt_set *out, struct error *err)
{
    *out = (struct prompt_set){.memory = mem_calloc(1, sizeof(struct read_texts))};
    use_built_in(out);
    if (directory && read_directory(fs, directory, out, err)) {
        prompt_set_close(out);
        return -1;
    }
    for (int i = 0; i < PROMPT_COUNT; i++) {
        assert(out->texts[i].bytes > 0);
    }
    out->digest = digest_texts(out);
    return 0;
}

void prompt_set_close(struct prompt_set *set)
{
    struct read_texts *read = set->memory;
    for (int i = 0; read && i < PROMPT_COUNT; i++) {
        free(read->texts[i]);
    }
    free(read);
    *set = (struct prompt_set){0};
}

// Appends what belongs to the place that begins at `at`, and returns the place's length; 0 when
// none begins there.
static size_t fill_place(const char *at, const struct prompt_document *document, struct strbuf *out)
{
    const char *date = document->date[0] ? document->date : "not given";
    const struct {
        const char *place;
        const char *text;
        size_t bytes;
    } places[] = {
        {"{{title}}", document->title, strlen(document->title)},
        {"{{date}}", date, strlen(date)},
        {TEXT_PLACE, document->text, document->bytes},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (strncmp(at, places[i].place, strlen(places[i].place)) == 0) {
            strbuf_add(out, places[i].text, places[i].bytes);
            return strlen(places[i].place);
        }
    }
    return 0;
}

void prompt_set_add_document(const struct prompt_set *set, const struct prompt_document *document,
                             struct strbuf *out)
{
    const char *at = set->texts[PROMPT_DOCUMENT].text;
    while (*at) {
        const size_t plain = strcspn(at, "{");
        strbuf_add(out, at, plain);
        at += plain;
        const size_t filled = *at ? fill_place(at, document, out) : 0;
        if (*at && filled == 0) {
            strbuf_addc(out, *at++);
        }
        at += filled;
    }
}
