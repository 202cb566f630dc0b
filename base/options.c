// SPDX-License-Identifier: Apache-2.0
// Values are set in three passes, later ones win: the table's defaults, the file of --options, the
// words of the command line.
#include "base/options.h"

#include "base/fs.h"
#include "base/mem.h"
#include "base/options_table.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct parser {
    const struct verb *verb;
    void *values;
    struct option_list *positional;
    bool *given;   // per option: set by the file or the command line
    bool *on_line; // per option: set by the command line, so that a list grows and is not replaced
    int argc;
    char **argv;
    int at; // the next word
    struct error *err;
};

static size_t option_count(const struct verb *verb)
{
    size_t count = 0;
    while (verb->options[count].name)
        count++;
    return count;
}

static const struct option *find_option(const struct verb *verb, const char *name, size_t length)
{
    for (const struct option *option = verb->options; option->name; option++)
        if (strlen(option->name) == length && memcmp(option->name, name, length) == 0)
            return option;
    return NULL;
}

static size_t smallest(size_t a, size_t b, size_t c)
{
    size_t least = a < b ? a : b;
    return least < c ? least : c;
}

// Levenshtein distance, one row at a time.
static size_t edit_distance(const char *a, size_t a_length, const char *b)
{
    size_t b_length = strlen(b);
    size_t *row = mem_alloc((b_length + 1) * sizeof(*row));
    for (size_t j = 0; j <= b_length; j++)
        row[j] = j;
    for (size_t i = 1; i <= a_length; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= b_length; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = smallest(replaced, row[j] + 1, row[j - 1] + 1);
        }
    }
    size_t distance = row[b_length];
    free(row);
    return distance;
}

// A known option most like the given name; name is NULL when none is like it.
struct suggestion {
    const char *prefix; // "" or "no-"
    const char *name;
};

static struct suggestion nearest_option(const struct verb *verb, const char *name, size_t length)
{
    size_t best = length / 3 + 2; // as many edits make another word
    bool negated = length > 3 && strncmp(name, "no-", 3) == 0;
    size_t skipped = negated ? 3 : 0;
    struct suggestion nearest = {"", NULL};
    for (const struct option *option = verb->options; option->name; option++) {
        size_t distance = edit_distance(name + skipped, length - skipped, option->name);
        if (distance < best) {
            best = distance;
            nearest = (struct suggestion){negated && option->type == OPTION_FLAG ? "no-" : "",
                                          option->name};
        }
    }
    return nearest;
}

static int unknown_option(const struct parser *p, const char *dashes, const char *name,
                          size_t length)
{
    struct suggestion nearest = nearest_option(p->verb, name, length);
    if (nearest.name)
        return error_set(p->err, "unknown option '%s%.*s'; did you mean '%s%s%s'?", dashes,
                         (int)length, name, dashes, nearest.prefix, nearest.name);
    return error_set(p->err, "unknown option '%s%.*s'; see 'memo %s --help'", dashes, (int)length,
                     name, p->verb->name);
}

static void set_defaults(const struct parser *p)
{
    memset(p->values, 0, p->verb->options_bytes);
    for (const struct option *option = p->verb->options; option->name; option++) {
        struct error err = {""};
        int rc = option->fallback ? option_set_text(option, p->values, option->fallback, &err) : 0;
        assert(rc == 0); // a default of ours that its own range refuses
        (void)rc;
    }
}

static int set_member(struct parser *p, const char *key, size_t key_length,
                      const struct json *value)
{
    const struct option *option = find_option(p->verb, key, key_length);
    if (!option)
        return unknown_option(p, "", key, key_length);
    if (value->type == JSON_NULL) // the echo of an option without a value
        return 0;
    p->given[option - p->verb->options] = true;
    return option_set_json(option, p->values, value, p->err);
}

static int read_options_file(struct parser *p, const char *path)
{
    struct strbuf text = {0};
    struct arena arena = {0};
    const struct json *object;
    int rc = fs_read(fs_system(), path, &text, p->err);
    if (rc == 0) {
        rc = json_parse(&arena, text.bytes, text.length, &object, p->err);
        if (rc == 0 && object->type != JSON_OBJECT)
            rc = error_set(p->err, "holds %s, must be an object", json_type_name(object->type));
        for (size_t i = 0; rc == 0 && i < object->length; i++)
            rc = set_member(p, object->keys[i], object->key_lengths[i], &object->items[i]);
        if (rc)
            error_prefix(p->err, "options file '%s'", path);
    }
    arena_release(&arena);
    strbuf_release(&text);
    return rc;
}

// True when the word is an option: it begins with "--", or is "-" and a letter.
static bool is_option_word(const char *word)
{
    if (word[0] != '-')
        return false;
    return word[1] == '-' || (word[1] >= 'a' && word[1] <= 'z') ||
           (word[1] >= 'A' && word[1] <= 'Z');
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

static void start_list(struct parser *p, const struct option *option)
{
    bool *on_line = &p->on_line[option - p->verb->options];
    if (!*on_line)
        option_clear(option, p->values);
    *on_line = true;
}

// Sets an option that takes a value: behind '=' or, when that is NULL, in the words that follow.
static int set_from_words(struct parser *p, const struct option *option, const char *value)
{
    if (option->type == OPTION_LIST)
        start_list(p, option);
    if (value)
        return option_set_text(option, p->values, value, p->err);
    int first = p->at;
    while (p->at < p->argc && strncmp(p->argv[p->at], "--", 2) != 0) {
        if (option_set_text(option, p->values, p->argv[p->at++], p->err))
            return -1;
        if (option->type != OPTION_LIST)
            break;
    }
    if (p->at == first)
        return error_set(p->err, "option '--%s' needs a value (%s)", option->name,
                         option->argument ? option->argument : option->choices);
    return 0;
}

// word begins with "--" and names an option; p->at is behind it.
static int parse_option(struct parser *p, const char *word)
{
    const char *name = word + 2;
    size_t length = strcspn(name, "=");
    const char *value = name[length] ? name + length + 1 : NULL;
    const struct option *option = find_option(p->verb, name, length);
    bool flag = true;
    if (!option && length > 3 && strncmp(name, "no-", 3) == 0) {
        option = find_option(p->verb, name + 3, length - 3);
        if (option && option->type != OPTION_FLAG)
            option = NULL;
        flag = false;
    }
    if (!option)
        return unknown_option(p, "--", name, length);
    p->given[option - p->verb->options] = true;
    if (option->type != OPTION_FLAG)
        return set_from_words(p, option, value);
    if (value)
        return error_set(p->err, "option '--%.*s' takes no value, but got '%s'", (int)length, name,
                         value);
    return option_set_flag(option, p->values, flag);
}

static int add_positional(struct parser *p, const char *word)
{
    if (!p->verb->positional)
        return error_set(p->err, "unexpected argument '%s'; see 'memo %s --help'", word,
                         p->verb->name);
    struct option_list *list = p->positional;
    list->items = mem_realloc(list->items, (list->count + 1) * sizeof(*list->items));
    list->items[list->count++] = word;
    return 0;
}

// The file counts before the other words, wherever --options stands; so it is looked for first.
static int find_options_file(struct parser *p)
{
    for (int i = 0; i < p->argc && strcmp(p->argv[i], "--") != 0; i++) {
        const char *word = p->argv[i];
        const char *path = NULL;
        if (strncmp(word, "--options=", 10) == 0)
            path = word + 10;
        else if (strcmp(word, "--options") != 0)
            continue;
        else if (i + 1 < p->argc && strncmp(p->argv[i + 1], "--", 2) != 0)
            path = p->argv[i + 1];
        if (!path)
            return error_set(p->err, "option '--options' needs a value (FILE)");
        if (read_options_file(p, path))
            return -1;
    }
    return 0;
}

static int parse_words(struct parser *p)
{
    bool only_positional = false;
    int rc = 0;
    while (p->at < p->argc && rc == 0) {
        const char *word = p->argv[p->at++];
        if (only_positional || !is_option_word(word))
            rc = add_positional(p, word);
        else if (strcmp(word, "--") == 0)
            only_positional = true;
        else if (strcmp(word, "--options") == 0)
            p->at++; // was read before
        else if (strncmp(word, "--options=", 10) == 0)
            continue;
        else if (word[1] != '-')
            rc =
                error_set(p->err, "unknown option '%s'; see 'memo %s --help'", word, p->verb->name);
        else
            rc = parse_option(p, word);
    }
    return rc;
}

static int check_required(const struct parser *p)
{
    const struct option *options = p->verb->options;
    for (size_t i = 0; options[i].name; i++)
        if (options[i].required && !p->given[i])
            return error_set(p->err, "option '--%s' is required; see 'memo %s --help'",
                             options[i].name, p->verb->name);
    return 0;
}

enum options_result options_parse(const struct verb *verb, int argc, char **argv, void *out,
                                  struct option_list *positional, struct error *err)
{
    size_t count = option_count(verb);
    struct parser p = {
        .verb = verb,
        .values = out,
        .positional = positional,
        .given = mem_calloc(count, sizeof(bool)),
        .on_line = mem_calloc(count, sizeof(bool)),
        .argc = argc,
        .argv = argv,
        .err = err,
    };
    *positional = (struct option_list){0};
    set_defaults(&p);
    enum options_result result = OPTIONS_HELP;
    if (!asks_for_help(argc, argv))
        result = find_options_file(&p) || parse_words(&p) || check_required(&p) ? OPTIONS_ERROR
                                                                                : OPTIONS_OK;
    free(p.given);
    free(p.on_line);
    if (result != OPTIONS_OK)
        options_release(verb, out, positional);
    return result;
}

void options_release(const struct verb *verb, void *out, struct option_list *positional)
{
    for (const struct option *option = verb->options; option->name; option++)
        option_clear(option, out);
    free(positional->items);
    *positional = (struct option_list){0};
}
