// SPDX-License-Identifier: Apache-2.0
// scripted_server.py as a child process. For tests only.
#ifndef MEMO_TESTS_HTTP_SCRIPTED_H
#define MEMO_TESTS_HTTP_SCRIPTED_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct scripted {
    pid_t pid;
    int input; // the child ends when this closes
    int port;
};

bool scripted_is_possible(void); // prints why not

// options: words for the command line, separated by single spaces. Asserts that it started.
struct scripted scripted_start(const char *options);
void scripted_kill(struct scripted *server); // as a crash does; nothing when it was killed before

char *scripted_url(const struct scripted *server); // the caller frees

// A number from GET /statistics; mode counts by "modes.MODE". 0 when it is not there.
int64_t scripted_count(const struct scripted *server, const char *name);
bool scripted_has_seen_key(const struct scripted *server, const char *key);

#endif
