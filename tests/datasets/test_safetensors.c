// SPDX-License-Identifier: Apache-2.0
// The parser alone, on bytes: good files, every kind of lie, truncation everywhere, random damage.
#include "base/mem.h"
#include "base/random.h"
#include "base/strbuf.h"
#include "datasets/safetensors.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// Length, header and `data_bytes` bytes 0, 1, 2, ...
static struct strbuf make_file(const char *header, size_t data_bytes)
{
    struct strbuf file = {0};
    uint64_t length = strlen(header);
    for (int i = 0; i < 8; i++)
        strbuf_addc(&file, (char)(length >> (8 * i)));
    strbuf_adds(&file, header);
    for (size_t i = 0; i < data_bytes; i++)
        strbuf_addc(&file, (char)i);
    return file;
}

// Parses a copy of exactly `length` bytes, so that a sanitizer sees any read beyond them.
static int parse_exactly(const char *bytes, size_t length, struct safetensors *out, void **copy,
                         struct error *err)
{
    *copy = malloc(length > 0 ? length : 1);
    memcpy(*copy, bytes, length);
    return safetensors_parse(*copy, length, "file", out, err);
}

static const char good_header[] =
    "{\"__metadata__\":{\"format\":\"pt\",\"by\":\"memo\"},"
    "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[6,30]},"
    "\"empty\":{\"dtype\":\"I64\",\"shape\":[0,7],\"data_offsets\":[6,6]},"
    "\"a\":{\"dtype\":\"BF16\",\"shape\":[3],\"data_offsets\":[0,6]},"
    "\"scalar\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[30,31]}}";
#define GOOD_DATA_BYTES 31

static void parser_reads_every_field(void **state)
{
    (void)state;
    struct strbuf file = make_file(good_header, GOOD_DATA_BYTES);
    struct safetensors tensors;
    struct error err;
    assert_int_equal(safetensors_parse(file.bytes, file.length, "file", &tensors, &err), 0);
    assert_int_equal(tensors.count, 4);
    assert_string_equal(tensors.entries[0].name, "a");
    assert_string_equal(tensors.entries[3].name, "scalar");
    const struct safetensors_entry *b = safetensors_find(&tensors, "b");
    assert_non_null(b);
    assert_int_equal(b->dtype, ST_F32);
    assert_int_equal(b->rank, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 3);
    assert_int_equal(b->bytes, 24);
    assert_int_equal(*(const uint8_t *)b->data, 6);
    assert_string_equal(b->file, "file");
    assert_int_equal(safetensors_find(&tensors, "scalar")->rank, 0);
    assert_int_equal(safetensors_find(&tensors, "empty")->bytes, 0);
    assert_null(safetensors_find(&tensors, "c"));
    assert_string_equal(safetensors_metadata(&tensors, "by"), "memo");
    assert_null(safetensors_metadata(&tensors, "author"));
    safetensors_close(&tensors);
    strbuf_release(&file);
}

static void parser_accepts_a_file_without_tensors(void **state)
{
    (void)state;
    struct strbuf file = make_file(" {}\n", 0);
    struct safetensors tensors;
    struct error err;
    assert_int_equal(safetensors_parse(file.bytes, file.length, "file", &tensors, &err), 0);
    assert_int_equal(tensors.count, 0);
    assert_null(safetensors_find(&tensors, "a"));
    safetensors_close(&tensors);
    strbuf_release(&file);
}

static void parser_names_what_is_wrong(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data_bytes;
        const char *expected;
    } cases[] = {
        {"[]", 0, "not a JSON object"},
        {"{\"a\":3}", 0, "not described by an object"},
        {"{\"a\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "no dtype"},
        {"{\"a\":{\"dtype\":\"F3\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1,
         "unknown dtype 'F3'"},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, "no shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1.5],\"data_offsets\":[0,1]}}", 1, "dimension 0"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, "dimension 0"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1,
         "9 dimensions"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0,
         "overflows"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, "no pair of data_offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, "no pair"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[-1,0]}}", 1,
         "not valid offsets"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,0]}}", 1, "bytes 1 to 0"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[9],\"data_offsets\":[0,9]}}", 8, "of 8; the file"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,7]}}", 7, "need 8"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, "a hole"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]},"
         "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[1,3]}}",
         3, "an overlap before tensor 'b'"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[0,2]}}", 5, "3 bytes follow"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}",
         1, "'a'"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
         "\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
         2, "'a' is described twice"},
        {"{\"a\\u0000\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, "NUL"},
        {"{\"__metadata__\":[]}", 0, "__metadata__ is not an object"},
        {"{\"__metadata__\":{\"k\":1}}", 0, "key 'k'"},
        {"{}}", 0, "header"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct strbuf file = make_file(cases[i].header, cases[i].data_bytes);
        struct safetensors tensors;
        struct error err = {{0}};
        void *copy;
        if (parse_exactly(file.bytes, file.length, &tensors, &copy, &err) == 0)
            fail_msg("accepted: %s", cases[i].header);
        if (!strstr(err.text, cases[i].expected) || !strstr(err.text, "'file'"))
            fail_msg("%s: expected '%s', got: %s", cases[i].header, cases[i].expected, err.text);
        assert_null(tensors.memory);
        free(copy);
        strbuf_release(&file);
    }
}

static void parser_limits_the_header(void **state)
{
    (void)state;
    struct safetensors tensors;
    struct error err = {{0}};
    // 100,000,001 and 2^63: above the limit, whatever follows.
    const uint8_t above[] = {0x01, 0xe1, 0xf5, 0x05, 0, 0, 0, 0, '{', '}'};
    const uint8_t huge[] = {0, 0, 0, 0, 0, 0, 0, 0x80, '{', '}'};
    assert_int_equal(safetensors_parse(above, sizeof(above), "file", &tensors, &err), -1);
    assert_non_null(strstr(err.text, "above the limit"));
    assert_int_equal(safetensors_parse(huge, sizeof(huge), "file", &tensors, &err), -1);
    assert_non_null(strstr(err.text, "above the limit"));
}

static void parser_rejects_truncation_at_every_length(void **state)
{
    (void)state;
    struct strbuf file = make_file(good_header, GOOD_DATA_BYTES);
    for (size_t length = 0; length < file.length; length++) {
        struct safetensors tensors;
        struct error err;
        void *copy;
        if (parse_exactly(file.bytes, length, &tensors, &copy, &err) == 0)
            fail_msg("accepted the first %zu of %zu bytes", length, file.length);
        free(copy);
    }
    strbuf_release(&file);
}

// What the caller may rely on, whatever the bytes were.
static void assert_consistent(const struct safetensors *tensors, const uint8_t *bytes,
                              size_t length)
{
    uint64_t total = 0, header_bytes = 0;
    memcpy(&header_bytes, bytes, 8);
    for (size_t i = 0; i < tensors->count; i++) {
        const struct safetensors_entry *entry = &tensors->entries[i];
        const uint8_t *data = entry->data;
        uint64_t product = safetensors_dtype_bytes(entry->dtype);
        for (int d = 0; d < entry->rank; d++)
            product *= entry->shape[d];
        assert_true(product == entry->bytes);
        assert_true(data >= bytes + 8 + header_bytes && data + entry->bytes <= bytes + length);
        assert_true(i == 0 || strcmp(entry[-1].name, entry->name) < 0);
        total += entry->bytes;
    }
    assert_true(total == length - 8 - header_bytes);
}

static void parser_survives_5000_mutations(void **state)
{
    (void)state;
    struct strbuf file = make_file(good_header, GOOD_DATA_BYTES);
    size_t accepted = 0, in_data = 0;
    for (uint64_t trial = 0; trial < 5000; trial++) {
        char *bytes = mem_dup(file.bytes, file.length);
        size_t first_place = file.length;
        for (uint64_t i = 0; i < 1 + trial % 3; i++) {
            size_t place = random_u64(7, trial, 2 * i) % file.length;
            bytes[place] = (char)random_u64(7, trial, 2 * i + 1);
            first_place = place < first_place ? place : first_place;
        }
        struct safetensors tensors;
        struct error err = {{0}};
        void *copy;
        int rc = parse_exactly(bytes, file.length, &tensors, &copy, &err);
        if (first_place >= 8 + strlen(good_header)) {
            in_data++;
            assert_int_equal(rc, 0); // the tensors' bytes are any bytes
            assert_int_equal(tensors.count, 4);
        }
        if (rc == 0) {
            accepted++;
            assert_consistent(&tensors, copy, file.length);
            safetensors_close(&tensors);
        } else {
            assert_true(err.text[0] != 0);
        }
        free(copy);
        free(bytes);
    }
    assert_true(in_data > 100 && accepted < 2000);
    strbuf_release(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parser_reads_every_field),
        cmocka_unit_test(parser_accepts_a_file_without_tensors),
        cmocka_unit_test(parser_names_what_is_wrong),
        cmocka_unit_test(parser_limits_the_header),
        cmocka_unit_test(parser_rejects_truncation_at_every_length),
        cmocka_unit_test(parser_survives_5000_mutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
