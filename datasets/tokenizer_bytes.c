// SPDX-License-Identifier: Apache-2.0
// The byte alphabet of GPT-2: 188 bytes that are printable in Latin-1 are written as themselves,
// the other 68, in increasing order, as U+0100, U+0101 and so on.
#include "datasets/tokenizer_internal.h"

#include "base/utf8.h"

#define CONTROLS_END 0x21 // unprintable are 0x00..0x20,
#define DELETE 0x7F       // 0x7F..0xA0
#define LATIN_BEGIN 0xA1
#define SOFT_HYPHEN 0xAD // and 0xAD
#define PRINTABLE_BYTES (256 - CONTROLS_END - (LATIN_BEGIN - DELETE) - 1)
#define SHIFTED 0x100 // where the unprintable bytes are put

static bool is_printable(int byte)
{
    return (byte >= CONTROLS_END && byte < DELETE) || (byte >= LATIN_BEGIN && byte != SOFT_HYPHEN);
}

// The unprintable byte number `order`, from 0 to 67.
static int unprintable_nth(int order)
{
    if (order < CONTROLS_END) {
        return order;
    }
    int byte = order - CONTROLS_END + DELETE;
    return byte < LATIN_BEGIN ? byte : SOFT_HYPHEN;
}

static int unprintable_order(int byte)
{
    if (byte < CONTROLS_END) {
        return byte;
    }
    return byte < LATIN_BEGIN ? byte - DELETE + CONTROLS_END : 256 - PRINTABLE_BYTES - 1;
}

// Printable bytes first, then the others: the order in which vocabularies number them.
uint8_t byte_alphabet_nth(int index)
{
    if (index >= PRINTABLE_BYTES) {
        return (uint8_t)unprintable_nth(index - PRINTABLE_BYTES);
    }
    int byte = CONTROLS_END + index;
    byte += byte >= DELETE ? LATIN_BEGIN - DELETE : 0;
    byte += byte >= SOFT_HYPHEN;
    return (uint8_t)byte;
}

void byte_alphabet_encode(const char *bytes, size_t length, struct strbuf *out)
{
    for (size_t i = 0; i < length; i++) {
        int byte = (unsigned char)bytes[i];
        int point = is_printable(byte) ? byte : SHIFTED + unprintable_order(byte);
        char encoded[4];
        strbuf_add(out, encoded, (size_t)utf8_encode((uint32_t)point, encoded));
    }
}

static int byte_of_point(uint32_t point)
{
    if (point < SHIFTED) {
        return is_printable((int)point) ? (int)point : -1;
    }
    int order = (int)point - SHIFTED;
    return order < 256 - PRINTABLE_BYTES ? unprintable_nth(order) : -1;
}

bool byte_alphabet_decode(const char *text, size_t length, struct strbuf *out)
{
    size_t start = out->length;
    for (size_t at = 0; at < length;) {
        uint32_t point;
        int size = utf8_decode(text + at, length - at, &point);
        int byte = size > 0 ? byte_of_point(point) : -1;
        if (byte < 0) {
            out->length = start;
            if (out->bytes != NULL) {
                out->bytes[start] = '\0';
            }
            return false;
        }
        strbuf_addc(out, (char)byte);
        at += (size_t)size;
    }
    return true;
}
