// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/log_lines.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TIME_BYTES 9 // "12:34:56 " in front of a line of base/log.h; ours will have its own

int log_lines_open(struct log_lines *lines, int *child_end, struct error *err)
{
    int ends[2];
    *lines = (struct log_lines){.fd = -1};
    if (pipe2(ends, O_CLOEXEC) < 0)
        return error_set_errno(err, errno, "a pipe for the engine's log");
    lines->fd = ends[0];
    *child_end = ends[1];
    if (fcntl(ends[0], F_SETFL, O_NONBLOCK) < 0)
        return error_set_errno(err, errno, "the pipe of the engine's log");
    return 0;
}

static const char *without_time(const char *line)
{
    int hours, minutes, seconds, bytes = 0;
    return sscanf(line, "%2d:%2d:%2d %n", &hours, &minutes, &seconds, &bytes) == 3 &&
                   bytes == TIME_BYTES
               ? line + bytes
               : line;
}

static void end_line(struct log_lines *lines)
{
    lines->line[lines->length] = '\0';
    lines->length = 0;
    const char *text = without_time(lines->line);
    if (text[0] == '\0')
        return;
    snprintf(lines->last, sizeof(lines->last), "%s", text);
    log_info("%s: %s", lines->prefix, text);
}

static void add_bytes(struct log_lines *lines, const char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (bytes[i] == '\n' || lines->length == LOG_LINE_BYTES - 1)
            end_line(lines);
        if (bytes[i] != '\n')
            lines->line[lines->length++] = bytes[i] ? bytes[i] : ' ';
    }
}

void log_lines_pump(struct log_lines *lines)
{
    char bytes[4096];
    ssize_t got;
    while (lines->fd >= 0 && (got = read(lines->fd, bytes, sizeof(bytes))) > 0)
        add_bytes(lines, bytes, (size_t)got);
}

void log_lines_close(struct log_lines *lines)
{
    if (lines->fd < 0)
        return;
    log_lines_pump(lines);
    if (lines->length > 0)
        end_line(lines);
    close(lines->fd);
    lines->fd = -1;
}
