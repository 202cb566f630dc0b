// SPDX-License-Identifier: Apache-2.0
// The options of a verb: one table drives parsing, ranges, --help, the JSON options file
// (--options FILE) and the echo into the run directory, which can be fed back as such a file.
#ifndef MEMO_BASE_OPTIONS_H
#define MEMO_BASE_OPTIONS_H

#include "base/error.h"
#include "base/strbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum option_type {
    OPTION_FLAG,   // bool; --name, or --no-name
    OPTION_INT,    // int64_t
    OPTION_NUMBER, // double
    OPTION_STRING, // const char *
    OPTION_CHOICE, // const char *, one of choices
    OPTION_LIST,   // struct option_list; takes every following word that does not begin with "--"
};

struct option_list {
    const char **items;
    size_t count;
};

struct option {
    const char *name; // without the dashes; a NULL name ends the table
    enum option_type type;
    size_t offset;        // of the target inside the verb's options struct
    const char *argument; // placeholder for --help ("DIR"); NULL for a flag
    const char *fallback; // default as typed (one item of a list); NULL: NULL, 0, false, empty
    double minimum;       // numbers only; minimum == maximum means no range
    double maximum;
    const char *choices; // "linear|ties", choices only
    const char *help;
    bool required;
};

struct verb {
    const char *name;
    const char *summary;    // one line
    const char *positional; // "PATH..." for --help; NULL when none are taken
    const char *examples;   // whole lines
    const struct option *options;
    size_t options_bytes; // size of the verb's options struct
    bool internal;        // started by memo itself; memo --help does not list it
    // Runs the job; positional arguments in order. Returns an exit code: 0 done, 1 failed (err says
    // why), 2 wrong usage (err says why), 75 stopped on request.
    int (*run)(const void *options, const struct option_list *positional, struct error *err);
};

enum options_result { OPTIONS_OK = 0, OPTIONS_HELP = 1, OPTIONS_ERROR = -1 };

// Fills *out (options_bytes, zeroed by the callee) from defaults, then --options FILE, then argv
// (the words behind the verb). Later values win; a list given on the command line replaces the
// file's and grows when it is given again. A value that begins with "--" is written --name=value;
// "--" ends the options, and a list. Strings are copies that live until options_release; positional
// arguments point into argv. With OPTIONS_HELP and OPTIONS_ERROR nothing needs to be released.
enum options_result options_parse(const struct verb *verb, int argc, char **argv, void *out,
                                  struct option_list *positional, struct error *err);
void options_release(const struct verb *verb, void *out, struct option_list *positional);

void options_help(const struct verb *verb, struct strbuf *out);

// The resolved options as a JSON object, one key per option.
void options_echo(const struct verb *verb, const void *options, struct strbuf *out);

#endif
