// SPDX-License-Identifier: Apache-2.0
// A line is built whole and written with one write(2), so that lines of several ranks that share a
// terminal or a file opened with O_APPEND never interleave.
#include "base/log.h"

#include "base/clock.h"
#include "base/strbuf.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define TERMINAL_INTERVAL_SECONDS 0.1 // faster than this nobody reads
#define PLAIN_INTERVAL_SECONDS 10.0   // keeps the log of a long job short

static struct {
    pthread_mutex_t lock; // everything below, and the order of lines
    enum log_level level;
    char prefix[64];
    int tee;
    bool bar_shown;       // the terminal's last line is a progress line
    bool plain_pending;   // progress holds text that was not yet written as a plain line
    double next_terminal; // clock_seconds() before which progress is not drawn again
    double next_plain;
    struct strbuf progress;
} logger = {.lock = PTHREAD_MUTEX_INITIALIZER, .level = LOG_INFO, .tee = -1};

void log_configure(enum log_level level, const char *prefix)
{
    pthread_mutex_lock(&logger.lock);
    logger.level = level;
    snprintf(logger.prefix, sizeof(logger.prefix), "%s", prefix ? prefix : "");
    pthread_mutex_unlock(&logger.lock);
}

void log_tee(int fd)
{
    pthread_mutex_lock(&logger.lock);
    logger.tee = fd;
    pthread_mutex_unlock(&logger.lock);
}

// A log that cannot be written must not stop the job: errors are dropped.
static void write_all(int fd, const char *bytes, size_t length)
{
    while (length > 0) {
        ssize_t written = write(fd, bytes, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return;
        bytes += written;
        length -= (size_t)written;
    }
}

static void add_head(struct strbuf *line, enum log_level level)
{
    static const char *const names[] = {"debug: ", "", "warning: ", "error: "};
    time_t now = time(NULL);
    struct tm local;
    localtime_r(&now, &local);
    strbuf_addf(line, "%02d:%02d:%02d ", local.tm_hour, local.tm_min, local.tm_sec);
    if (logger.prefix[0])
        strbuf_addf(line, "%s: ", logger.prefix);
    strbuf_adds(line, names[level]);
}

// Writes "head text\n" to stderr, wiping a progress line that stands there, and to the tee.
static void write_line(enum log_level level, const char *text, bool to_stderr)
{
    struct strbuf line = {0};
    const char wipe[] = "\r\033[K";
    size_t skipped = 0;
    if (logger.bar_shown && to_stderr) {
        strbuf_adds(&line, wipe);
        skipped = line.length;
        logger.bar_shown = false;
        logger.next_terminal = 0; // drawn again by the next call
    }
    add_head(&line, level);
    strbuf_adds(&line, text);
    strbuf_addc(&line, '\n');
    if (to_stderr)
        write_all(STDERR_FILENO, line.bytes, line.length);
    if (logger.tee >= 0)
        write_all(logger.tee, line.bytes + skipped, line.length - skipped);
    strbuf_release(&line);
}

void log_line(enum log_level level, const char *format, ...)
{
    pthread_mutex_lock(&logger.lock);
    if (level >= logger.level) {
        struct strbuf text = {0};
        va_list args;
        va_start(args, format);
        strbuf_vaddf(&text, format, args);
        va_end(args);
        write_line(level, text.bytes, true);
        strbuf_release(&text);
    }
    pthread_mutex_unlock(&logger.lock);
}

static void draw_bar(void)
{
    struct strbuf line = {0};
    strbuf_addf(&line, "\r\033[K%s", logger.progress.bytes);
    write_all(STDERR_FILENO, line.bytes, line.length);
    strbuf_release(&line);
    logger.bar_shown = true;
}

void log_progress(const char *format, ...)
{
    pthread_mutex_lock(&logger.lock);
    double now = clock_seconds();
    bool terminal = isatty(STDERR_FILENO);
    if (logger.level <= LOG_INFO) {
        va_list args;
        va_start(args, format);
        strbuf_reset(&logger.progress);
        strbuf_vaddf(&logger.progress, format, args);
        va_end(args);
        logger.plain_pending = true;
        if (terminal && now >= logger.next_terminal) {
            draw_bar();
            logger.next_terminal = now + TERMINAL_INTERVAL_SECONDS;
        }
        if (now >= logger.next_plain) {
            write_line(LOG_INFO, logger.progress.bytes, !terminal);
            logger.next_plain = now + PLAIN_INTERVAL_SECONDS;
            logger.plain_pending = false;
        }
    }
    pthread_mutex_unlock(&logger.lock);
}

void log_progress_end(void)
{
    pthread_mutex_lock(&logger.lock);
    bool terminal = isatty(STDERR_FILENO);
    if (terminal && logger.progress.length > 0) {
        draw_bar(); // the last state, which the interval may have skipped
        write_all(STDERR_FILENO, "\n", 1);
    }
    if (logger.plain_pending)
        write_line(LOG_INFO, logger.progress.bytes, !terminal);
    logger.bar_shown = false;
    logger.plain_pending = false;
    logger.next_terminal = logger.next_plain = 0;
    strbuf_release(&logger.progress);
    pthread_mutex_unlock(&logger.lock);
}
