// SPDX-License-Identifier: Apache-2.0
// When a failed try is repeated: exponential backoff with full jitter (Brooker, "Exponential
// Backoff And Jitter", AWS Architecture Blog 2015), or what the server's Retry-After says
// (RFC 9110, 10.2.3). Pure functions: no clock, no I/O.
#ifndef MEMO_WORKER_HTTP_RETRY_H
#define MEMO_WORKER_HTTP_RETRY_H

#include <stddef.h>
#include <stdint.h>

struct retry_policy {
    uint32_t base_ms;
    uint32_t cap_ms;
    uint64_t seed;
};

enum { RETRY_AFTER_NONE = -1 };

// failures is the number of tries that failed, at least 1; stream tells apart whoever waits.
//
//   delay = uniform in [0, min(cap, base 2^(failures - 1)))
//
// With Retry-After (>= 0) it is at least that, cut to the cap, plus a uniform part of base, so that
// those who were told the same moment do not all come at it.
uint64_t retry_delay_ms(const struct retry_policy *policy, uint64_t stream, uint32_t failures,
                        int64_t retry_after_ms);

// The value of a Retry-After header: seconds, or an HTTP date ("Sun, 06 Nov 1994 08:49:37 GMT"),
// which is compared with now_unix. A date that has passed is 0. RETRY_AFTER_NONE when it is
// neither.
int64_t retry_after_parse(const char *value, size_t bytes, int64_t now_unix);

#endif
