// SPDX-License-Identifier: Apache-2.0
// The parts that parsing, --help and the echo share. Private to base/options*.c.
#ifndef MEMO_BASE_OPTIONS_TABLE_H
#define MEMO_BASE_OPTIONS_TABLE_H

#include "base/json.h"
#include "base/options.h"

// Where the option's value lies inside the verb's options struct, by type.
bool *option_flag(const struct option *option, const void *values);
int64_t *option_int(const struct option *option, const void *values);
double *option_number(const struct option *option, const void *values);
const char **option_string(const struct option *option, const void *values); // and choices
struct option_list *option_list(const struct option *option, const void *values);

// Sets a value; strings are copied, a list grows by one item. The error names option and value.
int option_set_text(const struct option *option, void *values, const char *text, struct error *err);
int option_set_flag(const struct option *option, void *values, bool value);
int option_set_json(const struct option *option, void *values, const struct json *json,
                    struct error *err);
void option_clear(const struct option *option, void *values); // frees strings; unset

bool option_has_range(const struct option *option);
bool option_in_range(const struct option *option, double value);           // true without a range
void option_format_range(const struct option *option, struct strbuf *out); // "1 to 100"

#endif
