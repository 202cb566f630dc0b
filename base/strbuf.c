// SPDX-License-Identifier: Apache-2.0
#include "base/strbuf.h"

#include "base/mem.h"

#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void strbuf_release(struct strbuf *buf)
{
    free(buf->bytes);
    *buf = (struct strbuf){0};
}

void strbuf_reset(struct strbuf *buf)
{
    buf->length = 0;
    if (buf->bytes)
        buf->bytes[0] = '\0';
}

void strbuf_reserve(struct strbuf *buf, size_t extra)
{
    size_t needed = buf->length + extra + 1;
    if (needed <= buf->length)
        needed = SIZE_MAX; // wrapped around: let the allocation fail
    buf->bytes = mem_grow(buf->bytes, &buf->capacity, needed, 1);
    buf->bytes[buf->length] = '\0';
}

void strbuf_add(struct strbuf *buf, const void *bytes, size_t length)
{
    strbuf_reserve(buf, length);
    if (length > 0)
        memcpy(buf->bytes + buf->length, bytes, length);
    buf->length += length;
    buf->bytes[buf->length] = '\0';
}

void strbuf_adds(struct strbuf *buf, const char *text)
{
    strbuf_add(buf, text, strlen(text));
}

void strbuf_addc(struct strbuf *buf, char c)
{
    strbuf_add(buf, &c, 1);
}

void strbuf_addf(struct strbuf *buf, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    strbuf_vaddf(buf, format, args);
    va_end(args);
}

void strbuf_vaddf(struct strbuf *buf, const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    assert(length >= 0);
    strbuf_reserve(buf, (size_t)length);
    vsnprintf(buf->bytes + buf->length, (size_t)length + 1, format, again);
    buf->length += (size_t)length;
    va_end(again);
}

char *strbuf_detach(struct strbuf *buf)
{
    strbuf_reserve(buf, 0);
    char *bytes = buf->bytes;
    *buf = (struct strbuf){0};
    return bytes;
}
