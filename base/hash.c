// SPDX-License-Identifier: Apache-2.0
// What does not depend on who computes XXH3: hash_xxhash.c (libxxhash) or hash_minimal.c (our own).
#include "base/hash.h"

#include <string.h>

bool digest_equal(struct digest a, struct digest b)
{
    return digest_compare(a, b) == 0;
}

int digest_compare(struct digest a, struct digest b)
{
    return memcmp(a.bytes, b.bytes, sizeof(a.bytes));
}

void digest_format(struct digest d, char out[DIGEST_TEXT_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < sizeof(d.bytes); i++) {
        out[2 * i] = digits[d.bytes[i] >> 4];
        out[2 * i + 1] = digits[d.bytes[i] & 15];
    }
    out[2 * sizeof(d.bytes)] = '\0';
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

bool digest_parse(const char *text, struct digest *out)
{
    struct digest parsed;
    if (strlen(text) != 2 * sizeof(parsed.bytes))
        return false;
    for (size_t i = 0; i < sizeof(parsed.bytes); i++) {
        int high = digit_value(text[2 * i]);
        int low = digit_value(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        parsed.bytes[i] = (uint8_t)(high << 4 | low);
    }
    *out = parsed;
    return true;
}

static void update_u64(struct digest_builder *builder, uint64_t value)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
    digest_update(builder, bytes, sizeof(bytes));
}

void digest_field(struct digest_builder *builder, const void *bytes, size_t length)
{
    update_u64(builder, length);
    digest_update(builder, bytes, length);
}

void digest_field_text(struct digest_builder *builder, const char *text)
{
    digest_field(builder, text, strlen(text));
}

void digest_field_u64(struct digest_builder *builder, uint64_t value)
{
    update_u64(builder, sizeof(value));
    update_u64(builder, value);
}
