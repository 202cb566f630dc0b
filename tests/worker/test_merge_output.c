// SPDX-License-Identifier: Apache-2.0
// The file of a merge, byte for byte: tensors that end anywhere in a page, past the page cache and
// through it, and with writes that fail.
#include "tests/base/temporary_directory.h"
#include "worker/merge/output.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define TILE_BYTES 40000
#define TENSORS 7

static const struct {
    enum safetensors_dtype dtype;
    uint64_t elements;
} shapes[TENSORS] = {{ST_BF16, 3},    {ST_BF16, 2048},  {ST_F32, 5000}, {ST_BF16, 1},
                     {ST_F32, 30001}, {ST_BF16, 77777}, {ST_F32, 1}};

static void describe(struct safetensors_entry *entries)
{
    static const char *const names[TENSORS] = {"a", "b", "c", "d", "e", "f", "g"};
    for (size_t i = 0; i < TENSORS; i++)
        entries[i] = (struct safetensors_entry){.name = names[i],
                                                .dtype = shapes[i].dtype,
                                                .rank = 1,
                                                .shape = {shapes[i].elements},
                                                .bytes = shapes[i].elements *
                                                         safetensors_dtype_bytes(shapes[i].dtype)};
}

static char byte_at(size_t tensor, uint64_t place)
{
    return (char)(place * 31 + place / 251 + tensor * 7);
}

static int fill_tensor(struct merge_output *output, size_t tensor, uint64_t bytes,
                       struct error *err)
{
    for (uint64_t at = 0; at < bytes; at += TILE_BYTES) {
        const size_t length = bytes - at < TILE_BYTES ? bytes - at : TILE_BYTES;
        char *to = merge_output_buffer(output, tensor, at);
        for (size_t i = 0; i < length; i++)
            to[i] = byte_at(tensor, at + i);
        if (merge_output_submit(output, tensor, at, to, length, err))
            return -1;
    }
    return merge_output_end(output, tensor, (double)tensor, err);
}

// From the last tensor to the first: their order in the file is not the order of writing.
static int fill(struct fs *fs, const char *directory, struct error *err)
{
    struct safetensors_entry entries[TENSORS];
    struct merge_output *output = NULL;
    describe(entries);
    int rc = merge_output_prepare(fs, directory, entries, TENSORS, digest_bytes("x", 1), err) ||
                     merge_output_open(fs, directory, entries, TENSORS, 0, TILE_BYTES, &output, err)
                 ? -1
                 : 0;
    for (size_t i = TENSORS; rc == 0 && i-- > 0;)
        rc = fill_tensor(output, i, entries[i].bytes, err);
    if (rc == 0)
        rc = merge_output_sync(output, err);
    merge_output_destroy(output);
    return rc;
}

static void assert_file(const char *directory)
{
    struct error err = {""};
    struct safetensors file;
    if (safetensors_open(directory, &file, &err))
        fail_msg("%s", err.text);
    assert_int_equal(file.count, TENSORS);
    for (size_t i = 0; i < TENSORS; i++) {
        const char *bytes = file.entries[i].data;
        assert_int_equal(file.entries[i].bytes,
                         shapes[i].elements * safetensors_dtype_bytes(shapes[i].dtype));
        for (uint64_t at = 0; at < file.entries[i].bytes; at++) {
            if (bytes[at] != byte_at(i, at))
                fail_msg("tensor %zu, byte %llu", i, (unsigned long long)at);
        }
    }
    safetensors_close(&file);
}

static void assert_continues(const char *directory)
{
    struct error err = {""};
    struct safetensors_entry entries[TENSORS];
    struct merge_output *output;
    double change;
    describe(entries);
    assert_int_equal(
        merge_output_open(fs_system(), directory, entries, TENSORS, 0, TILE_BYTES, &output, &err),
        0);
    for (size_t i = 0; i < TENSORS; i++) {
        assert_true(merge_output_has(output, i, &change));
        assert_true(change == (double)i);
    }
    merge_output_destroy(output);
}

static void every_byte_is_in_its_place(void **state)
{
    struct error err = {""};
    assert_int_equal(fill(fs_system(), *state, &err), 0);
    assert_file(*state);
    assert_continues(*state);
}

static int no_direct(void *state, const char *path, int *handle)
{
    (void)state;
    (void)path;
    (void)handle;
    return -EINVAL;
}

static void file_systems_without_direct_writes_give_the_same(void **state)
{
    struct error err = {""};
    struct fs_ops ops = *fs_system()->ops;
    struct fs fs = {&ops, fs_system()->state};
    ops.open_direct = no_direct;
    assert_int_equal(fill(&fs, *state, &err), 0);
    assert_file(*state);
    assert_continues(*state);
}

// Whatever had no room: the next attempt completes the file.
static void a_full_disk_is_an_error_and_what_was_written_stays(void **state)
{
    bool filled = false;
    for (uint64_t budget = 0; !filled; budget += 20011) {
        struct error err = {""};
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = budget};
        struct fs fs = fs_with_faults(&fault);
        filled = fill(&fs, *state, &err) == 0;
        if (!filled)
            assert_non_null(strstr(err.text, "no space left on device"));
    }
    assert_file(*state);
    assert_continues(*state);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_byte_is_in_its_place),
        TEST(file_systems_without_direct_writes_give_the_same),
        TEST(a_full_disk_is_an_error_and_what_was_written_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
