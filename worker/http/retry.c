// SPDX-License-Identifier: Apache-2.0
#include "worker/http/retry.h"

#include "base/random.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define RETRY_AFTER_LIMIT_SECONDS 1000000000 // about 30 years; keeps milliseconds far from overflow
#define HTTP_DATE_BYTES 29

static uint64_t exponential(const struct retry_policy *policy, uint32_t failures)
{
    uint64_t delay = policy->base_ms;
    for (uint32_t i = 1; i < failures && delay < policy->cap_ms; i++)
        delay *= 2;
    return delay < policy->cap_ms ? delay : policy->cap_ms;
}

uint64_t retry_delay_ms(const struct retry_policy *policy, uint64_t stream, uint32_t failures,
                        int64_t retry_after_ms)
{
    const double jitter = random_uniform(policy->seed, stream, failures);
    const uint64_t backoff = (uint64_t)(jitter * (double)exponential(policy, failures));
    if (retry_after_ms < 0)
        return backoff;
    uint64_t told = (uint64_t)retry_after_ms;
    if (told > policy->cap_ms)
        told = policy->cap_ms;
    told += (uint64_t)(jitter * policy->base_ms);
    return told > backoff ? told : backoff;
}

static int64_t parse_seconds(const char *value, size_t bytes)
{
    int64_t seconds = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (value[i] < '0' || value[i] > '9')
            return RETRY_AFTER_NONE;
        if (seconds < RETRY_AFTER_LIMIT_SECONDS)
            seconds = 10 * seconds + (value[i] - '0');
    }
    if (seconds > RETRY_AFTER_LIMIT_SECONDS)
        seconds = RETRY_AFTER_LIMIT_SECONDS;
    return bytes > 0 ? 1000 * seconds : RETRY_AFTER_NONE;
}

static bool is_within(int value, int first, int last)
{
    return value >= first && value <= last;
}

// IMF-fixdate, the only form that servers may send; the two older ones are not read.
static int64_t parse_date(const char *value, size_t bytes, int64_t now_unix)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    char text[HTTP_DATE_BYTES + 1], month[4] = "";
    struct tm date = {0};
    int end = 0;
    if (bytes != HTTP_DATE_BYTES)
        return RETRY_AFTER_NONE;
    memcpy(text, value, bytes);
    text[bytes] = '\0';
    if (sscanf(text, "%*3c, %2d %3c %4d %2d:%2d:%2d GMT%n", &date.tm_mday, month, &date.tm_year,
               &date.tm_hour, &date.tm_min, &date.tm_sec, &end) != 6 ||
        end != HTTP_DATE_BYTES)
        return RETRY_AFTER_NONE;
    month[3] = '\0';
    const char *found = strlen(month) == 3 ? strstr(months, month) : NULL;
    if (!found || (found - months) % 3 || !is_within(date.tm_mday, 1, 31) ||
        !is_within(date.tm_year, 1970, 9999) || !is_within(date.tm_hour, 0, 23) ||
        !is_within(date.tm_min, 0, 59) || !is_within(date.tm_sec, 0, 60))
        return RETRY_AFTER_NONE;
    date.tm_mon = (int)(found - months) / 3;
    date.tm_year -= 1900;
    const int64_t left = (int64_t)timegm(&date) - now_unix;
    if (left > RETRY_AFTER_LIMIT_SECONDS)
        return 1000 * (int64_t)RETRY_AFTER_LIMIT_SECONDS;
    return left > 0 ? 1000 * left : 0;
}

int64_t retry_after_parse(const char *value, size_t bytes, int64_t now_unix)
{
    while (bytes > 0 && (value[0] == ' ' || value[0] == '\t'))
        value++, bytes--;
    while (bytes > 0 && strchr(" \t\r\n", value[bytes - 1]) && value[bytes - 1])
        bytes--;
    const int64_t seconds = parse_seconds(value, bytes);
    return seconds >= 0 ? seconds : parse_date(value, bytes, now_unix);
}
