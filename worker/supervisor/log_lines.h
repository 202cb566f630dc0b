// SPDX-License-Identifier: Apache-2.0
// What a child process writes on its output, line by line into our own log with a prefix.
#ifndef MEMO_WORKER_LOG_LINES_H
#define MEMO_WORKER_LOG_LINES_H

#include "base/error.h"

#include <stddef.h>

#define LOG_LINE_BYTES 1024 // a longer line is cut into several

struct log_lines {
    int fd; // read end of a pipe; -1: closed
    char prefix[32];
    char line[LOG_LINE_BYTES];
    size_t length;
    char last[LOG_LINE_BYTES]; // the last whole line, "" at first
};

// *child_end is for the child; the caller closes it.
int log_lines_open(struct log_lines *lines, int *child_end, struct error *err);
void log_lines_pump(struct log_lines *lines);  // never waits
void log_lines_close(struct log_lines *lines); // what is left is a line too

#endif
