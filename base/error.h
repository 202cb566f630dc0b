// SPDX-License-Identifier: Apache-2.0
// Errors are text for a person: what failed, where, and what to do. A function that can fail
// returns 0, or -1 with the text set; each layer that knows something new adds one prefix.
#ifndef MEMO_BASE_ERROR_H
#define MEMO_BASE_ERROR_H

struct error {
    char text[2048];
};

// All three return -1, so that a failing function can end with `return error_set(...)`. Arguments
// may point into err->text; err may be NULL when the caller does not want to know why.
int error_set(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

// Text followed by ": " and what errno_value means, in lower case.
int error_set_errno(struct error *err, int errno_value, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Puts "formatted text: " in front of what err already says.
int error_prefix(struct error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
