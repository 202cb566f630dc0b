// SPDX-License-Identifier: Apache-2.0
#ifndef MEMO_BASE_CLOCK_H
#define MEMO_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

double clock_seconds(void);                  // monotonic; differences only
int64_t clock_ns(void);                      // monotonic
struct timespec clock_deadline(int wait_ms); // from now, for waits by CLOCK_MONOTONIC

// "2026-11-23T09:05:00Z", the wall clock in UTC.
void clock_format_utc(char out[24]);

// "1h02m", "3m20s", "12.3 s": for people.
void clock_format_duration(double seconds, char *out, size_t out_bytes);

#endif
