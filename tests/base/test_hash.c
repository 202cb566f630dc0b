// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/hash.h"

#include <stdlib.h>
#include <string.h>

static void assert_digest(struct digest digest, const char *text)
{
    char formatted[DIGEST_TEXT_BYTES];
    digest_format(digest, formatted);
    assert_string_equal(formatted, text);
}

// Published by xxHash (xxhsum -H128).
static void known_digests_are_met(void **state)
{
    (void)state;
    assert_digest(digest_bytes("", 0), "99aa06d3014798d86001c324468d497f");
    assert_digest(digest_bytes(NULL, 0), "99aa06d3014798d86001c324468d497f");
    assert_digest(digest_bytes("a", 1), "a96faf705af16834e6c632b61e964e1f");
    assert_digest(digest_bytes("abc", 3), "06b05ab6733a618578af5f94892f3950");
}

static void pieces_give_the_digest_of_the_whole(void **state)
{
    (void)state;
    static uint8_t bytes[5000];
    static const size_t pieces[] = {1, 7, 31, 33, 64, 240, 241, 1000, 1024, 1025, 5000};
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 37 >> 3);
    struct digest whole = digest_bytes(bytes, sizeof(bytes));
    for (size_t p = 0; p < sizeof(pieces) / sizeof(pieces[0]); p++) {
        struct digest_builder builder;
        digest_begin(&builder);
        for (size_t at = 0; at < sizeof(bytes); at += pieces[p]) {
            size_t left = sizeof(bytes) - at;
            digest_update(&builder, bytes + at, left < pieces[p] ? left : pieces[p]);
            digest_update(&builder, NULL, 0);
        }
        assert_true(digest_equal(digest_end(&builder), whole));
        assert_null(builder.state);
    }
}

static void fields_are_preceded_by_their_length(void **state)
{
    (void)state;
    static const char plain[] =
        "\3\0\0\0\0\0\0\0abc\0\0\0\0\0\0\0\0\x8\0\0\0\0\0\0\0\7\6\5\4\3\2\1\0";
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field_text(&builder, "abc");
    digest_field(&builder, NULL, 0);
    digest_field_u64(&builder, 0x0001020304050607);
    struct digest digest = digest_end(&builder);
    assert_true(digest_equal(digest, digest_bytes(plain, sizeof(plain) - 1)));
}

static struct digest digest_pair(const char *a, const char *b)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field_text(&builder, a);
    digest_field_text(&builder, b);
    return digest_end(&builder);
}

static void fields_cannot_be_confused(void **state)
{
    (void)state;
    assert_false(digest_equal(digest_pair("ab", "c"), digest_pair("a", "bc")));
    assert_false(digest_equal(digest_pair("", "abc"), digest_pair("abc", "")));
    assert_true(digest_equal(digest_pair("ab", "c"), digest_pair("ab", "c")));
}

static void every_flipped_bit_changes_the_digest(void **state)
{
    (void)state;
    uint8_t bytes[100];
    memset(bytes, 0x5A, sizeof(bytes));
    struct digest before = digest_bytes(bytes, sizeof(bytes));
    for (size_t bit = 0; bit < 8 * sizeof(bytes); bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(digest_equal(digest_bytes(bytes, sizeof(bytes)), before));
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
}

static void text_form_reads_back(void **state)
{
    (void)state;
    struct digest digest = digest_bytes("abc", 3), parsed;
    char text[DIGEST_TEXT_BYTES];
    digest_format(digest, text);
    assert_true(digest_parse(text, &parsed));
    assert_true(digest_equal(parsed, digest));
    assert_true(digest_parse("06B05AB6733A618578AF5F94892F3950", &parsed));
    assert_true(digest_equal(parsed, digest));
}

static void bad_text_is_rejected_and_leaves_the_target(void **state)
{
    (void)state;
    static const char *const bad[] = {"",
                                      "0",
                                      "06b05ab6733a618578af5f94892f395",
                                      "06b05ab6733a618578af5f94892f39500",
                                      "06b05ab6733a618578af5f94892f395g",
                                      " 6b05ab6733a618578af5f94892f3950"};
    struct digest digest = digest_bytes("abc", 3), before = digest;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_false(digest_parse(bad[i], &digest));
        assert_true(digest_equal(digest, before));
    }
}

static void order_is_that_of_the_text(void **state)
{
    (void)state;
    struct digest low, high;
    assert_true(digest_parse("00000000000000ff0000000000000000", &low));
    assert_true(digest_parse("00000000000001000000000000000000", &high));
    assert_true(digest_compare(low, high) < 0);
    assert_true(digest_compare(high, low) > 0);
    assert_int_equal(digest_compare(low, low), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_digests_are_met),
        cmocka_unit_test(pieces_give_the_digest_of_the_whole),
        cmocka_unit_test(fields_are_preceded_by_their_length),
        cmocka_unit_test(fields_cannot_be_confused),
        cmocka_unit_test(every_flipped_bit_changes_the_digest),
        cmocka_unit_test(text_form_reads_back),
        cmocka_unit_test(bad_text_is_rejected_and_leaves_the_target),
        cmocka_unit_test(order_is_that_of_the_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
