// SPDX-License-Identifier: Apache-2.0
// A list of base URLs as people write them, made into the addresses that are posted to.
#ifndef MEMO_WORKER_HTTP_BASE_URL_H
#define MEMO_WORKER_HTTP_BASE_URL_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

struct base_url {
    char *address;    // "http://host:8000/v1/chat/completions?query"
    char *label;      // "http://host:8000/v1", without query: for people
    bool is_loopback; // this machine: no proxy is asked
    bool is_plain;    // http, not https
};

// Comma separated; spaces around an element do not count. Sorted by address; *count of them, at
// least 1 and at most limit. An empty path is "/v1"; "/chat/completions" at the end may be given.
// Only http and https; a user or password, or the same address twice, is an error. On failure
// nothing is left to release.
int base_urls_parse(const char *list, struct base_url *urls, size_t limit, size_t *count,
                    struct error *err);
void base_urls_release(struct base_url *urls, size_t count);

#endif
