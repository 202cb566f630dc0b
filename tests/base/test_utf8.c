// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/utf8.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static bool is_scalar(uint32_t c)
{
    return c <= 0x10FFFF && !(c >= 0xD800 && c <= 0xDFFF);
}

static void every_code_point_survives_a_round_trip(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 0x120000; c++) {
        char bytes[4];
        int size = utf8_encode(c, bytes);
        if (!is_scalar(c)) {
            assert_int_equal(size, 0);
            continue;
        }
        uint32_t decoded = 0;
        assert_int_equal(size, c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4);
        assert_int_equal(utf8_decode(bytes, (size_t)size, &decoded), size);
        assert_int_equal(decoded, c);
        assert_int_equal(utf8_valid_prefix(bytes, (size_t)size), size);
        if (size > 1)
            assert_int_equal(utf8_decode(bytes, (size_t)size - 1, &decoded), 0);
    }
    char bytes[4];
    assert_int_equal(utf8_encode(UINT32_MAX, bytes), 0);
}

// A sequence of up to three bytes is valid exactly when encoding its decoded value gives it back.
static void all_sequences_of_three_bytes_are_judged_right(void **state)
{
    (void)state;
    size_t valid = 0;
    for (uint32_t value = 0x800000; value < 0x1000000; value++) {
        char bytes[3] = {(char)(value >> 16), (char)(value >> 8), (char)value};
        uint32_t c;
        int size = utf8_decode(bytes, 3, &c);
        if (size == 0)
            continue;
        char again[4];
        assert_int_equal(utf8_encode(c, again), size);
        assert_memory_equal(again, bytes, size);
        valid += size == 3;
    }
    assert_int_equal(valid, 0x10000 - 0x800 - 0x800); // three-byte characters less surrogates
}

static void bad_sequences_are_rejected(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "\x80",
        "\xBF",
        "\xC0\x80",
        "\xC1\xBF",
        "\xC2",
        "\xE0\x9F\xBF",
        "\xE2\x82",
        "\xED\xA0\x80",
        "\xED\xBF\xBF",
        "\xF0\x8F\xBF\xBF",
        "\xF0\x9F\x98",
        "\xF4\x90\x80\x80",
        "\xF5\x80\x80\x80",
        "\xFE",
        "\xFF",
        "\xC2\x41",
        "\xE2\x82\x41",
        "\xF0\x9F\x98\x41",
        "\xF8\x88\x80\x80\x80",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        uint32_t c;
        assert_int_equal(utf8_decode(bad[i], strlen(bad[i]), &c), 0);
        assert_int_equal(utf8_valid_prefix(bad[i], strlen(bad[i])), 0);
    }
    uint32_t c;
    assert_int_equal(utf8_decode("", 0, &c), 0);
    assert_int_equal(utf8_valid_prefix("", 0), 0);
}

// The bad byte is found wherever it stands in words of eight bytes, before and behind a long
// character.
static void prefix_ends_at_the_first_bad_byte(void **state)
{
    (void)state;
    for (size_t length = 1; length <= 70; length++) {
        char *text = malloc(length); // exactly as long: a sanitizer sees a read beyond it
        for (size_t bad = 0; bad < length; bad++) {
            memset(text, 'x', length);
            assert_int_equal(utf8_valid_prefix(text, length), length);
            text[bad] = '\xFF';
            assert_int_equal(utf8_valid_prefix(text, length), bad);
            if (bad >= 3) {
                memcpy(text + bad - 3, "\xE2\x82\xAC", 3);
                assert_int_equal(utf8_valid_prefix(text, length), bad);
            }
        }
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_survives_a_round_trip),
        cmocka_unit_test(all_sequences_of_three_bytes_are_judged_right),
        cmocka_unit_test(bad_sequences_are_rejected),
        cmocka_unit_test(prefix_ends_at_the_first_bad_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
