// SPDX-License-Identifier: Apache-2.0
// What people and later runs read: --help and the echo of the resolved options.
#include "base/options.h"

#include "base/options_table.h"

#include <string.h>

#define HELP_COLUMN_MAX 30 // a longer option stands on a line of its own
#define HELP_WIDTH 96

// "--epochs N"
static void add_synopsis(const struct option *option, struct strbuf *out)
{
    const char *argument = option->argument ? option->argument : option->choices;
    if (option->type == OPTION_FLAG)
        strbuf_addf(out, "--[no-]%s", option->name);
    else
        strbuf_addf(out, "--%s %s", option->name, argument ? argument : "VALUE");
    if (option->type == OPTION_LIST)
        strbuf_adds(out, " ...");
}

// " (default 3; 1 to 100)"
static void add_facts(const struct option *option, struct strbuf *out)
{
    struct strbuf facts = {0};
    if (option->required)
        strbuf_adds(&facts, "; required");
    if (option->fallback && option->type == OPTION_FLAG)
        strbuf_addf(&facts, "; default %s", strcmp(option->fallback, "true") == 0 ? "on" : "off");
    else if (option->fallback)
        strbuf_addf(&facts, "; default %s", option->fallback);
    if (option->type == OPTION_CHOICE && option->argument)
        strbuf_addf(&facts, "; %s", option->choices);
    if (option_has_range(option)) {
        strbuf_adds(&facts, "; ");
        option_format_range(option, &facts);
    }
    if (facts.length > 0)
        strbuf_addf(out, " (%s)", facts.bytes + 2);
    strbuf_release(&facts);
}

// Adds text, broken at spaces; the cursor stands at `column`, further lines begin there.
static void add_wrapped(struct strbuf *out, const char *text, int column)
{
    int at = column;
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (at > column && at + 1 + length > HELP_WIDTH) {
            strbuf_addf(out, "\n%*s", column, "");
            at = column;
        } else if (at > column) {
            strbuf_addc(out, ' ');
            at++;
        }
        strbuf_add(out, text, (size_t)length);
        at += length;
        text += length;
        text += strspn(text, " ");
    }
    strbuf_addc(out, '\n');
}

static void add_row(struct strbuf *out, const char *synopsis, const char *text, int column)
{
    strbuf_addf(out, "  %-*s", column - 2, synopsis);
    if ((int)strlen(synopsis) + 4 > column)
        strbuf_addf(out, "\n%*s", column, "");
    add_wrapped(out, text, column);
}

static int help_column(const struct verb *verb)
{
    size_t widest = strlen("--options FILE");
    for (const struct option *option = verb->options; option->name; option++) {
        struct strbuf synopsis = {0};
        add_synopsis(option, &synopsis);
        if (synopsis.length > widest && synopsis.length + 4 <= HELP_COLUMN_MAX)
            widest = synopsis.length;
        strbuf_release(&synopsis);
    }
    return (int)widest + 4;
}

void options_help(const struct verb *verb, struct strbuf *out)
{
    strbuf_addf(out, "usage: memo %s [options]", verb->name);
    if (verb->positional)
        strbuf_addf(out, " %s", verb->positional);
    strbuf_addf(out, "\n\n%s\n\noptions:\n", verb->summary);

    int column = help_column(verb);
    for (const struct option *option = verb->options; option->name; option++) {
        struct strbuf synopsis = {0}, text = {0};
        add_synopsis(option, &synopsis);
        strbuf_adds(&text, option->help ? option->help : "");
        add_facts(option, &text);
        add_row(out, synopsis.bytes, text.bytes, column);
        strbuf_release(&synopsis);
        strbuf_release(&text);
    }
    add_row(out, "--options FILE", "read options from a JSON object; the command line wins",
            column);
    add_row(out, "-h, --help", "print this", column);
    if (verb->examples)
        strbuf_addf(out, "\nexamples:\n%s", verb->examples);
}

// The zero of a number that was never set may lie outside its range: null says that it is unset.
static void echo_int(struct json_writer *w, const struct option *option, int64_t value)
{
    if (option_in_range(option, (double)value))
        json_int(w, value);
    else
        json_null(w);
}

static void echo_number(struct json_writer *w, const struct option *option, double value)
{
    if (option_in_range(option, value))
        json_number(w, value);
    else
        json_null(w);
}

static void echo_text(struct json_writer *w, const char *text)
{
    if (text)
        json_text(w, text);
    else
        json_null(w);
}

void options_echo(const struct verb *verb, const void *options, struct strbuf *out)
{
    struct json_writer w = {.out = out, .indent = 2};
    json_begin_object(&w);
    for (const struct option *option = verb->options; option->name; option++) {
        json_key(&w, option->name);
        switch (option->type) {
        case OPTION_FLAG:
            json_bool(&w, *option_flag(option, options));
            break;
        case OPTION_INT:
            echo_int(&w, option, *option_int(option, options));
            break;
        case OPTION_NUMBER:
            echo_number(&w, option, *option_number(option, options));
            break;
        case OPTION_STRING:
        case OPTION_CHOICE:
            echo_text(&w, *option_string(option, options));
            break;
        case OPTION_LIST: {
            const struct option_list *list = option_list(option, options);
            json_begin_array(&w);
            for (size_t i = 0; i < list->count; i++)
                json_text(&w, list->items[i]);
            json_end_array(&w);
        }
        }
    }
    json_end_object(&w);
    strbuf_addc(out, '\n');
}
