// SPDX-License-Identifier: Apache-2.0
#include "datasets/h5_image.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char magic[] = "MEMOTEST";

static void build(size_t count, struct strbuf *out)
{
    struct error err = {""};
    uint32_t *numbers = mem_calloc(count + 1, sizeof *numbers);
    uint8_t *rows = mem_calloc(count + 1, 16);
    double *seconds = mem_calloc(count + 1, sizeof *seconds);
    for (size_t i = 0; i < count; i++) {
        numbers[i] = (uint32_t)(i * 2654435761u);
        rows[16 * i] = (uint8_t)i;
        seconds[i] = (double)i / 8;
    }
    struct h5_image *image = NULL;
    assert_int_equal(h5_image_create(&image, &err), 0);
    assert_int_equal(h5_image_write(image, "numbers", H5_IMAGE_U32, numbers, count, 0, &err), 0);
    assert_int_equal(h5_image_write(image, "rows", H5_IMAGE_U8, rows, count, 16, &err), 0);
    assert_int_equal(h5_image_write(image, "seconds", H5_IMAGE_F64, seconds, count, 0, &err), 0);
    assert_int_equal(h5_image_write_attribute_u64(image, "version", 7, &err), 0);
    assert_int_equal(h5_image_write_attribute_text(image, "format", "memo test", &err), 0);
    assert_int_equal(h5_image_finish(image, magic, 1, out, &err), 0);
    h5_image_destroy(image);
    free(numbers);
    free(rows);
    free(seconds);
}

static void what_was_written_is_read(void **state)
{
    (void)state;
    const size_t counts[] = {0, 1, 31, 33, 1000};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        struct error err = {""};
        struct strbuf file = {0};
        build(counts[c], &file);
        struct h5_image *image = NULL;
        assert_int_equal(h5_image_open(file.bytes, file.length, magic, 1, "a.h5", &image, &err), 0);
        void *values = NULL;
        size_t rows = 99;
        assert_int_equal(h5_image_read(image, "numbers", H5_IMAGE_U32, 0, &values, &rows, &err), 0);
        assert_int_equal(rows, counts[c]);
        for (size_t i = 0; i < rows; i++) {
            assert_int_equal(((uint32_t *)values)[i], (uint32_t)(i * 2654435761u));
        }
        free(values);
        assert_int_equal(h5_image_read(image, "rows", H5_IMAGE_U8, 16, &values, &rows, &err), 0);
        assert_int_equal(rows, counts[c]);
        for (size_t i = 0; i < rows; i++) {
            assert_int_equal(((uint8_t *)values)[16 * i], (uint8_t)i);
        }
        free(values);
        assert_int_equal(h5_image_read(image, "seconds", H5_IMAGE_F64, 0, &values, &rows, &err), 0);
        assert_true(rows == 0 || ((double *)values)[rows - 1] == (double)(rows - 1) / 8);
        free(values);
        uint64_t version = 0;
        assert_int_equal(h5_image_read_attribute_u64(image, "version", &version, &err), 0);
        assert_int_equal(version, 7);
        h5_image_destroy(image);
        strbuf_release(&file);
    }
}

static void same_content_gives_the_same_bytes(void **state)
{
    (void)state;
    struct strbuf a = {0}, b = {0};
    build(100, &a);
    build(100, &b);
    assert_int_equal(a.length, b.length);
    assert_memory_equal(a.bytes, b.bytes, a.length);
    strbuf_release(&a);
    strbuf_release(&b);
}

static void every_flipped_byte_is_an_error(void **state)
{
    (void)state;
    struct strbuf file = {0};
    build(33, &file);
    for (size_t i = 0; i < file.length; i++) {
        struct error err = {""};
        struct h5_image *image = NULL;
        file.bytes[i] ^= 0x40;
        assert_int_equal(h5_image_open(file.bytes, file.length, magic, 1, "a.h5", &image, &err),
                         -1);
        assert_null(image);
        assert_non_null(strstr(err.text, "'a.h5'"));
        file.bytes[i] ^= 0x40;
    }
    strbuf_release(&file);
}

static void every_truncation_is_an_error(void **state)
{
    (void)state;
    struct strbuf file = {0};
    build(33, &file);
    for (size_t length = 0; length < file.length; length++) {
        struct error err = {""};
        struct h5_image *image = NULL;
        void *copy = mem_dup(file.bytes, length); // so that sanitizers see reads beyond the end
        assert_int_equal(h5_image_open(copy, length, magic, 1, "a.h5", &image, &err), -1);
        free(copy);
    }
    strbuf_release(&file);
}

// A right digest over something that is no HDF5 file.
static void sealed_garbage_is_an_error(void **state)
{
    (void)state;
    for (size_t length = 0; length <= 2000; length += 100) {
        struct error err = {""};
        struct h5_image *image = NULL;
        char *bytes = mem_calloc(H5_IMAGE_BLOCK_BYTES + length, 1);
        for (size_t i = 0; i < length; i++) {
            bytes[H5_IMAGE_BLOCK_BYTES + i] = (char)(i * 7 + length);
        }
        h5_image_seal(magic, 1, bytes + H5_IMAGE_BLOCK_BYTES, length, (uint8_t *)bytes);
        assert_int_equal(
            h5_image_open(bytes, H5_IMAGE_BLOCK_BYTES + length, magic, 1, "a.h5", &image, &err),
            -1);
        assert_null(image);
        assert_non_null(strstr(err.text, "hdf5 cannot open 'a.h5'"));
        free(bytes);
    }
}

static void wrong_kind_and_version_are_named(void **state)
{
    (void)state;
    struct strbuf file = {0};
    struct error err = {""};
    struct h5_image *image = NULL;
    build(1, &file);
    assert_int_equal(h5_image_open(file.bytes, file.length, "MEMOELSE", 1, "a.h5", &image, &err),
                     -1);
    assert_string_equal(err.text, "'a.h5' is not a MEMOELSE file");
    assert_int_equal(h5_image_open(file.bytes, file.length, magic, 2, "a.h5", &image, &err), -1);
    assert_string_equal(err.text, "'a.h5' has format version 1, this program reads version 2");
    strbuf_release(&file);
}

static void wrong_type_shape_or_name_is_an_error(void **state)
{
    (void)state;
    struct strbuf file = {0};
    struct error err = {""};
    struct h5_image *image = NULL;
    void *values = NULL;
    size_t rows = 0;
    uint64_t number = 0;
    build(31, &file);
    assert_int_equal(h5_image_open(file.bytes, file.length, magic, 1, "a.h5", &image, &err), 0);
    assert_int_equal(h5_image_read(image, "numbers", H5_IMAGE_U64, 0, &values, &rows, &err), -1);
    assert_int_equal(h5_image_read(image, "numbers", H5_IMAGE_U32, 2, &values, &rows, &err), -1);
    assert_int_equal(h5_image_read(image, "rows", H5_IMAGE_U8, 8, &values, &rows, &err), -1);
    assert_int_equal(h5_image_read(image, "rows", H5_IMAGE_U8, 0, &values, &rows, &err), -1);
    assert_int_equal(h5_image_read(image, "absent", H5_IMAGE_U8, 0, &values, &rows, &err), -1);
    assert_non_null(strstr(err.text, "'absent'"));
    assert_int_equal(h5_image_read_attribute_u64(image, "format", &number, &err), -1);
    assert_int_equal(h5_image_read_attribute_u64(image, "absent", &number, &err), -1);
    h5_image_destroy(image);
    strbuf_release(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_read),
        cmocka_unit_test(same_content_gives_the_same_bytes),
        cmocka_unit_test(every_flipped_byte_is_an_error),
        cmocka_unit_test(every_truncation_is_an_error),
        cmocka_unit_test(sealed_garbage_is_an_error),
        cmocka_unit_test(wrong_kind_and_version_are_named),
        cmocka_unit_test(wrong_type_shape_or_name_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
