// SPDX-License-Identifier: Apache-2.0
// UTF-8 as RFC 3629 defines it: no surrogates, no overlong forms, at most U+10FFFF.
#ifndef MEMO_BASE_UTF8_H
#define MEMO_BASE_UTF8_H

#include <stddef.h>
#include <stdint.h>

// Offset of the first byte that is not valid UTF-8, or `length` when all is valid.
size_t utf8_valid_prefix(const char *bytes, size_t length);

// Decodes the character at bytes[0..length); returns its size in bytes, or 0 when it is invalid.
int utf8_decode(const char *bytes, size_t length, uint32_t *code_point);

// Writes 1 to 4 bytes; returns how many, or 0 when code_point is not a scalar value.
int utf8_encode(uint32_t code_point, char out[4]);

#endif
