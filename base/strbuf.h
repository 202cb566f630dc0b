// SPDX-License-Identifier: Apache-2.0
// A growing byte buffer. Invariant: bytes[length] is NUL whenever bytes is not NULL, so that text
// can be printed; the content may itself hold NULs. Zero-initialise; release frees.
#ifndef MEMO_BASE_STRBUF_H
#define MEMO_BASE_STRBUF_H

#include <stdarg.h>
#include <stddef.h>

struct strbuf {
    char *bytes;
    size_t length;
    size_t capacity;
};

void strbuf_release(struct strbuf *buf);
void strbuf_reset(struct strbuf *buf); // length 0, memory kept
void strbuf_reserve(struct strbuf *buf, size_t extra);
void strbuf_add(struct strbuf *buf, const void *bytes, size_t length);
void strbuf_adds(struct strbuf *buf, const char *text);
void strbuf_addc(struct strbuf *buf, char c);
void strbuf_addf(struct strbuf *buf, const char *format, ...) __attribute__((format(printf, 2, 3)));
void strbuf_vaddf(struct strbuf *buf, const char *format, va_list args)
    __attribute__((format(printf, 2, 0)));
char *strbuf_detach(struct strbuf *buf); // caller frees; buf becomes empty

#endif
