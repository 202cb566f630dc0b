// SPDX-License-Identifier: Apache-2.0
// Progress and warnings for people, on stderr and, once a job has a run directory, in its log file.
// Results never go here: they go to stdout. Each line is one write(2), so that
// lines of several threads and ranks never mix.
#ifndef MEMO_BASE_LOG_H
#define MEMO_BASE_LOG_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

// prefix names the process in a job of many ("rank 2"); NULL for none. Lines below level are
// dropped.
void log_configure(enum log_level level, const char *prefix);

// Appends every line also to this descriptor (owned by the caller); -1 stops that.
void log_tee(int fd);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)

// One line that replaces itself on a terminal; elsewhere a plain line at most every 10 seconds.
// The caller may call it as often as it likes. progress_end finishes the line.
void log_progress(const char *format, ...) __attribute__((format(printf, 1, 2)));
void log_progress_end(void);

#endif
