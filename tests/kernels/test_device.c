// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include <stdint.h>
#include <string.h>

static void blocks_are_aligned_and_zero(void **state)
{
    struct devices *devices = *state;
    static const size_t sizes[] = {0, 1, 31, 33, 1000, 5 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct error err;
        void *block;
        assert_int_equal(device_alloc(devices->cpu[0], sizes[i], &block, &err), 0);
        assert_int_equal((uintptr_t)block % 64, 0);
        for (size_t at = 0; at < sizes[i]; at++)
            assert_true(((unsigned char *)block)[at] == 0);
        device_free(devices->cpu[0], block);
    }
    device_free(devices->cpu[0], NULL);
}

static void impossible_size_is_an_error(void **state)
{
    struct devices *devices = *state;
    struct error err;
    void *block = &err;
    assert_int_equal(device_alloc(devices->cpu[0], SIZE_MAX, &block, &err), -1);
    assert_null(block);
    assert_non_null(strstr(err.text, "cannot allocate 18446744073709551615 bytes"));
}

static void memory_of_the_host_is_not_the_device_s_to_count(void **state)
{
    struct devices *devices = *state;
    assert_int_equal(device_memory_usage(devices->ref).total, 0);
    assert_int_equal(device_memory_usage(devices->cpu[0]).total, 0);
}

static void copies_arrive(void **state)
{
    struct devices *devices = *state;
    struct device *device = devices->cpu[0];
    struct error err;
    char *first, *second, back[6] = {0};
    assert_int_equal(device_alloc(device, 6, (void **)&first, &err), 0);
    assert_int_equal(device_alloc(device, 6, (void **)&second, &err), 0);
    device_copy_in(device, first, "12345", 6);
    device_copy(device, second, first, 6);
    device_zero(device, first, 2);
    assert_int_equal(device_copy_out(device, back, second, 6, &err), 0);
    assert_string_equal(back, "12345");
    assert_int_equal(device_copy_out(device, back, first, 6, &err), 0);
    assert_memory_equal(back, "\0\000345", 6);
    assert_int_equal(device_sync(device, &err), 0);
    device_zero(device, first, 0);
    device_copy(device, first, second, 0);
    device_free(device, first);
    device_free(device, second);
}

struct refusal {
    struct device_options options;
    const char *says;
};

static void wrong_options_are_refused_by_name(void **state)
{
    (void)state;
    static const struct refusal refusals[] = {
        {{.backend = "tpu"}, "unknown backend 'tpu': this build has"},
        {{.backend = "cpu", .isa = "mmx"}, "unknown instruction set 'mmx': give 'plain'"},
        {{.isa = "mmx"}, "unknown instruction set 'mmx'"},
        {{.backend = "ref", .isa = "avx2"}, "instruction set 'avx2' means nothing"},
        {{.threads = -1}, "wrong number of threads -1"},
        {{.threads = 1 << 20}, "wrong number of threads 1048576"},
    };
    for (size_t i = 0; i < sizeof refusals / sizeof refusals[0]; i++) {
        struct error err;
        struct device *device = (struct device *)&err;
        assert_int_equal(device_create(&refusals[i].options, &device, &err), -1);
        assert_null(device);
        if (!strstr(err.text, refusals[i].says))
            fail_msg("'%s' does not say '%s'", err.text, refusals[i].says);
    }
}

static void description_names_backend_and_threads(void **state)
{
    (void)state;
    struct device *device = device_named("cpu", "plain", 3);
    char text[64];
    device_describe(device, text, sizeof text);
    assert_string_equal(text, "cpu plain, 3 threads");
    device_destroy(device);
    device = device_named("ref", NULL, 0);
    device_describe(device, text, sizeof text);
    assert_string_equal(text, "ref, 1 thread");
    device_destroy(device);
    device_destroy(NULL);
}

static void default_is_the_cpu_with_all_its_processors(void **state)
{
    (void)state;
    struct device *device = device_named(NULL, NULL, 0);
    assert_string_equal(device->ops->name, "cpu");
    assert_true(device->threads >= 1);
    device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_aligned_and_zero),
        cmocka_unit_test(impossible_size_is_an_error),
        cmocka_unit_test(memory_of_the_host_is_not_the_device_s_to_count),
        cmocka_unit_test(copies_arrive),
        cmocka_unit_test(wrong_options_are_refused_by_name),
        cmocka_unit_test(description_names_backend_and_threads),
        cmocka_unit_test(default_is_the_cpu_with_all_its_processors),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
