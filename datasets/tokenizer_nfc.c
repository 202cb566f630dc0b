// SPDX-License-Identifier: Apache-2.0
// Normalization form C. Nearly all text is normalized already, so the text is walked in stretches
// between *inert* characters: starters (combining class 0) that neither decompose nor combine with
// what stands before them. Only a stretch with another character in it, together with the inert
// character before it, is decomposed, ordered and composed. Every character below U+0300 is inert.
//
// utf8proc supplies the tables, decomposition of one character and composition. Its own ordering of
// combining marks is quadratic, which a hostile text of a megabyte of marks turns into hours, so
// the ordering is done here.
#include "datasets/tokenizer_internal.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define FIRST_ACTIVE_LEAD 0xCC // the lead byte of U+0300
#define MAX_DECOMPOSITION 32   // code points from one; Unicode's longest canonical one has 4
#define SECOND_OF_PAIR 0x8000  // in utf8proc's comb_index: combines with what stands before it
#define NO_INDEX UINT16_MAX
#define HANGUL_VOWEL_FIRST 0x1161 // vowels and finals combine by arithmetic, not by table
#define HANGUL_FINAL_LAST 0x11C2

static bool is_inert(uint32_t point)
{
    if (point < 0x300) {
        return true;
    }
    if (point >= HANGUL_VOWEL_FIRST && point <= HANGUL_FINAL_LAST) {
        return false;
    }
    const utf8proc_property_t *property = utf8proc_get_property((utf8proc_int32_t)point);
    bool decomposes = property->decomp_type == 0 && property->decomp_seqindex != NO_INDEX;
    bool combines = property->comb_index != NO_INDEX && property->comb_index >= SECOND_OF_PAIR;
    return property->combining_class == 0 && !decomposes && !combines;
}

static int compare_marks(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

// Sorts the marks points[begin..end) by combining class, equal ones in the order they had.
static void order_marks(struct nfc_scratch *s, size_t begin, size_t end)
{
    size_t count = end - begin;
    if (count < 2) {
        return;
    }
    if (count > s->mark_capacity) {
        s->marks = mem_grow(s->marks, &s->mark_capacity, count, sizeof *s->marks);
    }
    for (size_t i = 0; i < count; i++) { // class, place, code point, from the highest bits down
        uint32_t point = (uint32_t)s->points[begin + i];
        uint64_t class = (uint64_t)utf8proc_get_property((utf8proc_int32_t)point)->combining_class;
        s->marks[i] = class << 56 | (uint64_t)i << 21 | point;
    }
    qsort(s->marks, count, sizeof *s->marks, compare_marks);
    for (size_t i = 0; i < count; i++) {
        s->points[begin + i] = (int32_t)(s->marks[i] & 0x1FFFFF);
    }
}

static size_t decompose(struct nfc_scratch *s, const char *bytes, size_t length)
{
    size_t count = 0;
    for (size_t at = 0; at < length;) {
        uint32_t point;
        at += (size_t)utf8_decode(bytes + at, length - at, &point);
        if (count + MAX_DECOMPOSITION > s->capacity) {
            s->points =
                mem_grow(s->points, &s->capacity, count + MAX_DECOMPOSITION, sizeof *s->points);
        }
        int boundary = 0;
        utf8proc_ssize_t written =
            utf8proc_decompose_char((utf8proc_int32_t)point, s->points + count, MAX_DECOMPOSITION,
                                    UTF8PROC_STABLE | UTF8PROC_COMPOSE, &boundary);
        if (written < 0 || written > MAX_DECOMPOSITION) {
            s->points[count] = (int32_t)point;
            written = 1;
        }
        count += (size_t)written;
    }
    return count;
}

static void normalize_stretch(struct nfc_scratch *s, const char *bytes, size_t length,
                              struct strbuf *out)
{
    size_t count = decompose(s, bytes, length);
    for (size_t i = 0; i < count;) {
        size_t begin = i;
        while (i < count && utf8proc_get_property(s->points[i])->combining_class != 0) {
            i++;
        }
        order_marks(s, begin, i);
        i += i == begin;
    }
    utf8proc_ssize_t composed = utf8proc_normalize_utf32(s->points, (utf8proc_ssize_t)count,
                                                         UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    for (utf8proc_ssize_t i = 0; i < composed; i++) {
        char encoded[4];
        strbuf_add(out, encoded, (size_t)utf8_encode((uint32_t)s->points[i], encoded));
    }
}

// From `at`, the next character that is not inert; *before is where the character before it begins.
static size_t find_active(const char *bytes, size_t length, size_t at, size_t *before)
{
    size_t previous = at;
    while (at < length) {
        unsigned char lead = (unsigned char)bytes[at];
        if (lead < FIRST_ACTIVE_LEAD) {
            previous = (lead & 0xC0) == 0x80 ? previous : at;
            at++;
            continue;
        }
        uint32_t point;
        int size = utf8_decode(bytes + at, length - at, &point);
        if (!is_inert(point)) {
            break;
        }
        previous = at;
        at += (size_t)size;
    }
    *before = previous;
    return at;
}

static size_t find_inert(const char *bytes, size_t length, size_t at)
{
    while (at < length) {
        uint32_t point;
        int size = utf8_decode(bytes + at, length - at, &point);
        if (is_inert(point)) {
            break;
        }
        at += (size_t)size;
    }
    return at;
}

bool nfc_normalize(struct nfc_scratch *scratch, const char *bytes, size_t length,
                   struct strbuf *out)
{
    size_t begin;
    size_t active = find_active(bytes, length, 0, &begin);
    if (active == length) {
        return false;
    }
    strbuf_reset(out);
    size_t copied = 0;
    while (active < length) {
        strbuf_add(out, bytes + copied, begin - copied);
        size_t end = find_inert(bytes, length, active);
        normalize_stretch(scratch, bytes + begin, end - begin, out);
        copied = end;
        active = find_active(bytes, length, end, &begin);
    }
    strbuf_add(out, bytes + copied, length - copied);
    return true;
}

void nfc_scratch_release(struct nfc_scratch *scratch)
{
    free(scratch->points);
    free(scratch->marks);
    *scratch = (struct nfc_scratch){0};
}
