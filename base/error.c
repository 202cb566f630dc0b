// SPDX-License-Identifier: Apache-2.0
#include "base/error.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// Text that was cut off must not end inside a UTF-8 character.
static void trim_cut_character(char *text, size_t length)
{
    size_t start = length;
    while (start > 0 && ((unsigned char)text[start - 1] & 0xC0) == 0x80)
        start--;
    if (start > 0 && ((unsigned char)text[start - 1] & 0xC0) == 0xC0)
        text[start - 1] = '\0';
}

// Through a buffer of its own, because the arguments may point into err->text.
static int set_text(struct error *err, const char *suffix, const char *format, va_list args)
{
    if (!err)
        return -1;
    char text[sizeof(err->text)];
    int length = vsnprintf(text, sizeof(text), format, args);
    if (length < 0)
        length = snprintf(text, sizeof(text), "%s", format);
    if (suffix && (size_t)length < sizeof(text))
        length += snprintf(text + length, sizeof(text) - (size_t)length, ": %s", suffix);
    if ((size_t)length >= sizeof(text))
        trim_cut_character(text, sizeof(text) - 1);
    memcpy(err->text, text, sizeof(text));
    return -1;
}

int error_set(struct error *err, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_text(err, NULL, format, args);
    va_end(args);
    return -1;
}

int error_set_errno(struct error *err, int errno_value, const char *format, ...)
{
    char buffer[256];
    char reason[256];
    snprintf(reason, sizeof(reason), "%s", strerror_r(errno_value, buffer, sizeof(buffer)));
    if (!isupper((unsigned char)reason[1])) // "No space left", but not "RPC struct is bad"
        reason[0] = (char)tolower((unsigned char)reason[0]);

    va_list args;
    va_start(args, format);
    set_text(err, reason, format, args);
    va_end(args);
    return -1;
}

int error_prefix(struct error *err, const char *format, ...)
{
    if (!err)
        return -1;
    char old[sizeof(err->text)];
    memcpy(old, err->text, sizeof(old));

    va_list args;
    va_start(args, format);
    set_text(err, old, format, args);
    va_end(args);
    return -1;
}
