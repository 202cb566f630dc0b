// SPDX-License-Identifier: Apache-2.0
// What a user reads when there is no driver, no GPU, the wrong one, too little memory, or a fault.
#include "tests/cuda_emulator/arrange.h"

#include "kernels/kernels.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { INSUFFICIENT_DRIVER = 35, NO_DEVICE = 100, ILLEGAL_ADDRESS = 700, LAUNCH_FAILURE = 719 };

static const struct device_options options = {.backend = "cuda"};

static void expect_text(const char *text, const char *const *parts)
{
    for (; *parts; parts++)
        if (!strstr(text, *parts))
            fail_msg("'%s' does not say '%s'", text, *parts);
}

#define EXPECT(text, ...) expect_text(text, (const char *const[]){__VA_ARGS__, NULL})

static struct error refuse(void)
{
    struct device *device;
    struct error err;
    assert_int_equal(device_create(&options, &device, &err), -1);
    assert_null(device);
    EXPECT(err.text, "cannot start backend 'cuda'");
    return err;
}

static struct device *create(void)
{
    struct device *device;
    struct error err;
    if (device_create(&options, &device, &err))
        fail_msg("%s", err.text);
    return device;
}

static void without_a_driver_it_says_so(void **state)
{
    (void)state;
    emulator_set_driver(0);
    emulator_fail_next("cudaGetDeviceCount", INSUFFICIENT_DRIVER);
    struct error err = refuse();
    EXPECT(err.text, "no NVIDIA driver", "nvidia-smi", "--backend cpu");
    emulator_set_driver(13000);
}

static void an_old_driver_is_named_with_what_is_needed(void **state)
{
    (void)state;
    emulator_set_driver(12040);
    emulator_fail_next("cudaGetDeviceCount", INSUFFICIENT_DRIVER);
    struct error err = refuse();
    EXPECT(err.text, "supports CUDA up to 12.4", "needs 13.0", "update the driver");
    emulator_set_driver(13000);
}

static void without_a_gpu_the_variable_is_quoted(void **state)
{
    (void)state;
    setenv("CUDA_VISIBLE_DEVICES", "", 1);
    emulator_fail_next("cudaGetDeviceCount", NO_DEVICE);
    struct error err = refuse();
    EXPECT(err.text, "no GPU is visible", "CUDA_VISIBLE_DEVICES is ''", "--gpus");
    unsetenv("CUDA_VISIBLE_DEVICES");
    emulator_fail_next("cudaGetDeviceCount", NO_DEVICE);
    err = refuse();
    EXPECT(err.text, "CUDA_VISIBLE_DEVICES is not set");
}

static void another_architecture_is_named_with_the_option(void **state)
{
    (void)state;
    emulator_set_device(7, 5, (size_t)1 << 33);
    struct error err = refuse();
    EXPECT(err.text, "compute capability 7.5", "this build is for 8.0", "CMAKE_CUDA_ARCHITECTURES");
    emulator_set_device(9, 0, (size_t)1 << 33);
}

static void too_little_memory_is_counted(void **state)
{
    (void)state;
    emulator_set_device(9, 0, (size_t)132 << 20);
    struct device *device = create();
    struct error err;
    void *block, *other;
    assert_int_equal(device_alloc(device, (size_t)20 << 20, &block, &err), 0);
    assert_int_equal(device_alloc(device, (size_t)30 << 20, &other, &err), -1);
    EXPECT(err.text, "cannot allocate 31457280 bytes", "are free", "smaller batch or cache");
    device_free(device, block);
    assert_int_equal(device_alloc(device, (size_t)30 << 20, &block, &err), 0); // and goes on
    device_free(device, block);
    device_destroy(device);
    emulator_set_device(9, 0, (size_t)10 << 20);
    err = refuse(); // not even for what the backend itself needs
    EXPECT(err.text, "cannot allocate", "10485760 are free");
    emulator_set_device(9, 0, (size_t)1 << 33);
}

static void fault_in_an_operation_is_told_at_the_next_wait(void **state)
{
    (void)state;
    struct device *device = create();
    struct error err;
    void *block;
    assert_int_equal(device_alloc(device, 400, &block, &err), 0);
    emulator_fail_next("cudaPeekAtLastError", LAUNCH_FAILURE);
    device->ops->argmax(device, block, (struct tensor){block, DTYPE_F32}, 1, 10);
    assert_int_equal(device_sync(device, &err), -1);
    EXPECT(err.text, "the GPU failed in argmax", "unspecified launch failure",
           "CUDA_LAUNCH_BLOCKING=1", "dmesg");
    assert_int_equal(device_sync(device, &err), -1); // and stays
    device_free(device, block);
    device_destroy(device);
}

static void fault_found_while_waiting_is_told(void **state)
{
    (void)state;
    struct device *device = create();
    struct error err;
    char host[16];
    void *block;
    assert_int_equal(device_alloc(device, sizeof host, &block, &err), 0);
    emulator_fail_next("cudaStreamSynchronize", ILLEGAL_ADDRESS);
    assert_int_equal(device_copy_out(device, host, block, sizeof host, &err), -1);
    EXPECT(err.text, "the GPU failed in some operation", "illegal memory access");
    device_free(device, block);
    device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_a_driver_it_says_so),
        cmocka_unit_test(an_old_driver_is_named_with_what_is_needed),
        cmocka_unit_test(without_a_gpu_the_variable_is_quoted),
        cmocka_unit_test(another_architecture_is_named_with_the_option),
        cmocka_unit_test(too_little_memory_is_counted),
        cmocka_unit_test(fault_in_an_operation_is_told_at_the_next_wait),
        cmocka_unit_test(fault_found_while_waiting_is_told), // its error stays: the last test
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
