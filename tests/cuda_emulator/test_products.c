// SPDX-License-Identifier: Apache-2.0
// Who multiplies what: our own product or cuBLASLt, and which of its algorithms, chosen by the
// heuristic or kept in a record.
#include "tests/cuda_emulator/arrange.h"

#include "base/fs.h"
#include "base/mem.h"
#include "kernels/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { NONE, ALIGNED, MIDDLING, ANY }; // algorithms
enum { WIDTH = 32, MOST_ROWS = 40 };

static struct device *open_device(const char *record)
{
    const struct device_options options = {.backend = "cuda"};
    struct device *device;
    struct error err;
    if (device_create(&options, &device, &err) ||
        (record && device_record_products(device, record, &err)))
        fail_msg("%s", err.text);
    return device;
}

static void *block(struct device *device, size_t bytes)
{
    struct error err;
    void *out;
    if (device_alloc(device, bytes, &out, &err))
        fail_msg("%s", err.text);
    return out;
}

static void wait_for(struct device *device)
{
    struct error err;
    if (device_sync(device, &err))
        fail_msg("%s", err.text);
}

// A layer of zeros, whose x, weight and out begin `shift` elements behind aligned addresses.
struct layer {
    struct device *device;
    struct linear linear;
    char *x, *weight, *out;
    float *scales;
};

static struct layer layer_create(struct device *device)
{
    const size_t square = (WIDTH + 1) * WIDTH * 4, rows = (MOST_ROWS + 1) * WIDTH * 4;
    struct layer l = {.device = device,
                      .linear = {.out_width = WIDTH, .in_width = WIDTH},
                      .x = block(device, rows),
                      .weight = block(device, square),
                      .out = block(device, rows),
                      .scales = block(device, MOST_ROWS * sizeof(float))};
    return l;
}

static void layer_release(struct layer *l)
{
    device_free(l->device, l->x);
    device_free(l->device, l->weight);
    device_free(l->device, l->out);
    device_free(l->device, l->scales);
}

// The algorithm of cuBLASLt that did it.
static uint64_t forward(struct layer *l, enum dtype dtype, size_t shift, size_t rows)
{
    const size_t bytes = shift * dtype_bytes(dtype);
    l->linear.weight = (struct tensor){l->weight + bytes, dtype};
    (void)emulator_last_algorithm();
    l->device->ops->linear_forward(l->device,
                                   &(struct linear_forward){.out = {l->out + bytes, dtype},
                                                            .x = {l->x + bytes, dtype},
                                                            .linear = &l->linear,
                                                            .rows = rows});
    wait_for(l->device);
    return emulator_last_algorithm();
}

static uint64_t forward_codes(struct layer *l, size_t rows)
{
    l->linear.codes = (uint8_t *)l->weight;
    l->linear.scales = l->scales;
    (void)emulator_last_algorithm();
    l->device->ops->linear_fp8(l->device, &(struct linear_fp8){.out = {l->out, DTYPE_BF16},
                                                               .x = (uint8_t *)l->x,
                                                               .x_scales = l->scales,
                                                               .linear = &l->linear,
                                                               .rows = rows});
    wait_for(l->device);
    return emulator_last_algorithm();
}

static void few_rows_are_our_own_products(void **state)
{
    (void)state;
    struct device *device = open_device(NULL);
    struct layer l = layer_create(device);
    assert_int_equal(forward(&l, DTYPE_BF16, 0, 1), NONE);
    assert_int_equal(forward(&l, DTYPE_BF16, 0, 16), NONE);
    assert_int_equal(forward(&l, DTYPE_BF16, 0, 17), ALIGNED);
    assert_int_equal(forward(&l, DTYPE_F32, 0, 1), ALIGNED);
    assert_int_equal(forward_codes(&l, 16), NONE);
    assert_int_equal(forward_codes(&l, 17), ALIGNED);
    device_choose_products(device, PRODUCTS_LIBRARY);
    assert_int_equal(forward(&l, DTYPE_BF16, 0, 1), ALIGNED);
    assert_int_equal(forward_codes(&l, 1), ALIGNED);
    device_choose_products(device, PRODUCTS_INVARIANT);
    assert_int_equal(forward(&l, DTYPE_BF16, 0, 40), NONE);
    assert_int_equal(forward(&l, DTYPE_F32, 0, 40), NONE);
    assert_int_equal(forward_codes(&l, 40), NONE);
    layer_release(&l);
    device_destroy(device);
}

// The library would take alignment to 256 bytes for granted, and fail where it is not.
static void algorithms_suit_the_addresses(void **state)
{
    (void)state;
    struct device *device = open_device(NULL);
    struct layer l = layer_create(device);
    device_choose_products(device, PRODUCTS_LIBRARY);
    for (int again = 0; again < 2; again++) {
        assert_int_equal(forward(&l, DTYPE_BF16, 0, 20), ALIGNED);
        assert_int_equal(forward(&l, DTYPE_BF16, 8, 20), ALIGNED);
        assert_int_equal(forward(&l, DTYPE_BF16, 2, 20), MIDDLING);
        assert_int_equal(forward(&l, DTYPE_BF16, 1, 20), ANY);
        assert_int_equal(forward(&l, DTYPE_F32, 1, 20), MIDDLING);
    }
    layer_release(&l);
    device_destroy(device);
}

// Codes with vectors of scales are for Hopper alone.
static void other_gpus_multiply_codes_by_our_own(void **state)
{
    (void)state;
    static const int capabilities[][2] = {{8, 0}, {8, 9}, {12, 0}};
    for (size_t i = 0; i < sizeof capabilities / sizeof capabilities[0]; i++) {
        emulator_set_device(capabilities[i][0], capabilities[i][1], (size_t)1 << 33);
        struct device *device = open_device(NULL);
        struct layer l = layer_create(device);
        assert_int_equal(forward_codes(&l, 40), NONE);
        layer_release(&l);
        device_destroy(device);
    }
    emulator_set_device(9, 0, (size_t)1 << 33);
}

// More shapes than are kept.
static void plans_that_went_are_chosen_again(void **state)
{
    (void)state;
    enum { SHAPES = 4200 };
    struct device *device = open_device(NULL);
    struct linear linear = {.out_width = 1, .in_width = 1};
    float *x = block(device, SHAPES * sizeof *x), *out = block(device, SHAPES * sizeof *out);
    linear.weight = (struct tensor){x, DTYPE_F32};
    for (size_t i = 0; i < SHAPES; i++) {
        const size_t rows = i % 4199 + 1; // the first again
        device->ops->linear_forward(device, &(struct linear_forward){.out = {out, DTYPE_F32},
                                                                     .x = {x, DTYPE_F32},
                                                                     .linear = &linear,
                                                                     .rows = rows});
        if (emulator_last_algorithm() != MIDDLING)
            fail_msg("%zu rows were not multiplied", rows);
    }
    wait_for(device);
    device_free(device, x);
    device_free(device, out);
    device_destroy(device);
}

// --- records ---

static char path[64];

static void write_file(const char *text)
{
    struct error err;
    if (fs_write_text(fs_system(), path, text, strlen(text), &err))
        fail_msg("%s", err.text);
}

static char *read_file(void)
{
    struct strbuf text = {0};
    struct error err;
    if (fs_read(fs_system(), path, &text, &err))
        fail_msg("%s", err.text);
    return strbuf_detach(&text);
}

static void describe(struct device *device, char out[256])
{
    device_libraries(device, out, 256);
    assert_non_null(strstr(out, "cuBLASLt 130000"));
}

// What was measured is used by whoever opens the record: also where he would choose another.
static void recorded_algorithm_is_used(void **state)
{
    (void)state;
    char first[256], second[256];
    struct device *device = open_device(path);
    struct layer l = layer_create(device);
    assert_int_not_equal(forward(&l, DTYPE_BF16, 0, 17), NONE);
    assert_int_not_equal(forward(&l, DTYPE_BF16, 0, 20), NONE); // shares a line
    assert_int_not_equal(forward(&l, DTYPE_BF16, 0, 40), NONE);
    describe(device, first);
    layer_release(&l);
    device_destroy(device);
    char *text = read_file(), *line = strchr(text, '\n') + 1;
    assert_non_null(strstr(first, " measured 20"));
    assert_int_equal(strncmp(line, "20 32 32 ", 9), 0);
    assert_non_null(strstr(line, "\n40 32 32 "));
    char *algorithm = strrchr(strtok(line, "\n"), ' ') + 1; // ends the text behind the first line
    memset(algorithm, '0', 15);
    algorithm[15] = '3';
    char *edited = mem_printf("%s\n", text);
    write_file(edited);
    device = open_device(path);
    l = layer_create(device);
    assert_int_equal(forward(&l, DTYPE_BF16, 0, 18), ANY);
    describe(device, second);
    assert_string_equal(first, second);
    layer_release(&l);
    device_destroy(device);
    free(edited);
    free(text);
}

static void record_of_another_gpu_is_begun_anew(void **state)
{
    (void)state;
    write_file("memo products 1; cuBLASLt 120000; another GPU; 2026-01-01T00:00:00Z\nnonsense\n");
    struct device *device = open_device(path);
    device_destroy(device);
    char *text = read_file();
    assert_non_null(strstr(text, "cuBLASLt 130000"));
    assert_true(strchr(text, '\n') == text + strlen(text) - 1); // nothing behind
    free(text);
}

static void torn_record_is_refused(void **state)
{
    (void)state;
    struct device *device = open_device(path), *other = open_device(NULL);
    struct layer l = layer_create(device);
    forward(&l, DTYPE_BF16, 0, 17);
    layer_release(&l);
    device_destroy(device);
    char *text = read_file();
    for (size_t length = strlen(text) - 2; text[length] != '\n'; length -= 7) {
        text[length] = '\0';
        write_file(text);
        struct error err;
        assert_int_equal(device_record_products(other, path, &err), -1);
        assert_non_null(strstr(err.text, "line 2, is no record"));
        assert_non_null(strstr(err.text, "remove the file"));
        if (length < 7 + (size_t)(strchr(text, '\n') - text) + 1)
            break;
    }
    device_destroy(other);
    free(text);
}

static void record_that_cannot_be_written_is_an_error(void **state)
{
    (void)state;
    struct device *device = open_device(NULL);
    struct error err;
    assert_int_equal(device_record_products(device, "/nonexistent/record", &err), -1);
    assert_non_null(strstr(err.text, "/nonexistent/record"));
    device_destroy(device);
}

static int no_record(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/memo-products-%d", (int)getpid());
    (void)unlink(path);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(few_rows_are_our_own_products),
        cmocka_unit_test(algorithms_suit_the_addresses),
        cmocka_unit_test(other_gpus_multiply_codes_by_our_own),
        cmocka_unit_test(plans_that_went_are_chosen_again),
        cmocka_unit_test_setup_teardown(recorded_algorithm_is_used, no_record, no_record),
        cmocka_unit_test_setup_teardown(record_of_another_gpu_is_begun_anew, no_record, no_record),
        cmocka_unit_test_setup_teardown(torn_record_is_refused, no_record, no_record),
        cmocka_unit_test_setup_teardown(record_that_cannot_be_written_is_an_error, no_record,
                                        no_record),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
