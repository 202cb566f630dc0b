// SPDX-License-Identifier: Apache-2.0
// Files and directories: shards, and the streaming writer.
#include "base/mem.h"
#include "datasets/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct scratch {
    char directory[64];
};

static int make_scratch(void **state)
{
    struct scratch *scratch = mem_calloc(1, sizeof(*scratch));
    strcpy(scratch->directory, "/tmp/memo-safetensors-XXXXXX");
    *state = scratch;
    return mkdtemp(scratch->directory) ? 0 : -1;
}

static int remove_scratch(void **state)
{
    struct scratch *scratch = *state;
    struct fs_names names;
    struct error err;
    assert_int_equal(fs_list(fs_system(), scratch->directory, &names, &err), 0);
    for (size_t i = 0; i < names.count; i++) {
        char *path = fs_join(scratch->directory, names.names[i]);
        unlink(path);
        free(path);
    }
    fs_names_release(&names);
    int rc = rmdir(scratch->directory);
    free(scratch);
    return rc;
}

static size_t count_files(const struct scratch *scratch)
{
    struct fs_names names;
    struct error err;
    assert_int_equal(fs_list(fs_system(), scratch->directory, &names, &err), 0);
    size_t count = names.count;
    fs_names_release(&names);
    return count;
}

static const float numbers[6] = {1, -2, 3.5f, 4, 5, 6};
static const uint16_t halves[3] = {0x3f80, 0x4000, 0xc000};
static const struct safetensors_entry two_tensors[] = {
    {.name = "z.weight", .dtype = ST_F32, .rank = 2, .shape = {2, 3}},
    {.name = "a \"quoted\" name", .dtype = ST_BF16, .rank = 1, .shape = {3}},
};

// Writes two_tensors, in several pieces.
static int write_two(struct fs *fs, const char *path, struct error *err)
{
    static const char *const metadata[] = {"format", "pt", "base", "\xc3\xa9t\xc3\xa9", NULL};
    struct safetensors_writer *writer;
    if (safetensors_writer_create(fs, path, two_tensors, 2, metadata, &writer, err) != 0)
        return -1;
    int rc = 0;
    if (safetensors_writer_write(writer, numbers, 5, err) != 0 ||
        safetensors_writer_write(writer, (const char *)numbers + 5, sizeof(numbers) - 5, err) !=
            0 ||
        safetensors_writer_write(writer, halves, sizeof(halves), err) != 0 ||
        safetensors_writer_finish(writer, err) != 0)
        rc = -1;
    safetensors_writer_destroy(writer);
    return rc;
}

static void what_the_writer_writes_is_read_back(void **state)
{
    struct scratch *scratch = *state;
    char *path = fs_join(scratch->directory, "model.safetensors");
    struct error err;
    assert_int_equal(write_two(fs_system(), path, &err), 0);
    assert_int_equal(count_files(scratch), 1);
    const char *places[] = {path, scratch->directory};
    for (int i = 0; i < 2; i++) {
        struct safetensors tensors;
        assert_int_equal(safetensors_open(places[i], &tensors, &err), 0);
        assert_int_equal(tensors.count, 2);
        const struct safetensors_entry *z = safetensors_find(&tensors, "z.weight");
        assert_int_equal(z->bytes, sizeof(numbers));
        assert_memory_equal(z->data, numbers, sizeof(numbers));
        const struct safetensors_entry *a = safetensors_find(&tensors, "a \"quoted\" name");
        assert_int_equal(a->dtype, ST_BF16);
        assert_memory_equal(a->data, halves, sizeof(halves));
        assert_string_equal(safetensors_metadata(&tensors, "base"), "\xc3\xa9t\xc3\xa9");
        safetensors_close(&tensors);
    }
    struct strbuf bytes = {0};
    assert_int_equal(fs_read(fs_system(), path, &bytes, &err), 0);
    assert_int_equal((unsigned char)bytes.bytes[0] % 8, 0); // the header keeps the data aligned
    strbuf_release(&bytes);
    free(path);
}

static void writer_writes_a_file_without_tensors(void **state)
{
    struct scratch *scratch = *state;
    char *path = fs_join(scratch->directory, "model.safetensors");
    struct safetensors_writer *writer;
    struct safetensors tensors;
    struct error err;
    assert_int_equal(safetensors_writer_create(fs_system(), path, NULL, 0, NULL, &writer, &err), 0);
    assert_int_equal(safetensors_writer_finish(writer, &err), 0);
    safetensors_writer_destroy(writer);
    assert_int_equal(safetensors_open(path, &tensors, &err), 0);
    assert_int_equal(tensors.count, 0);
    safetensors_close(&tensors);
    free(path);
}

static void writer_refuses_what_it_was_not_told(void **state)
{
    struct scratch *scratch = *state;
    char *path = fs_join(scratch->directory, "model.safetensors");
    struct safetensors_writer *writer;
    struct error err;
    assert_int_equal(
        safetensors_writer_create(fs_system(), path, two_tensors, 1, NULL, &writer, &err), 0);
    assert_int_equal(safetensors_writer_write(writer, numbers, 20, &err), 0);
    assert_int_equal(safetensors_writer_write(writer, numbers, 5, &err), -1);
    assert_non_null(strstr(err.text, "more tensor data than the 24 bytes"));
    assert_int_equal(safetensors_writer_finish(writer, &err), -1);
    assert_non_null(strstr(err.text, "20 of 24 bytes"));
    safetensors_writer_destroy(writer);
    assert_int_equal(count_files(scratch), 0);

    const struct safetensors_entry twice[] = {two_tensors[0], two_tensors[0]};
    assert_int_equal(safetensors_writer_create(fs_system(), path, twice, 2, NULL, &writer, &err),
                     -1);
    assert_non_null(strstr(err.text, "two tensors have the name 'z.weight'"));
    const struct safetensors_entry vast = {
        .name = "vast", .rank = 2, .shape = {1ull << 32, 1ull << 32}};
    assert_int_equal(safetensors_writer_create(fs_system(), path, &vast, 1, NULL, &writer, &err),
                     -1);
    assert_non_null(strstr(err.text, "'vast' overflows"));
    const struct safetensors_entry reserved = {.name = "__metadata__"};
    assert_int_equal(
        safetensors_writer_create(fs_system(), path, &reserved, 1, NULL, &writer, &err), -1);
    assert_null(writer);
    assert_int_equal(count_files(scratch), 0);
    free(path);
}

static void full_disk_leaves_the_old_model(void **state)
{
    struct scratch *scratch = *state;
    char *path = fs_join(scratch->directory, "model.safetensors");
    struct error err;
    assert_int_equal(write_two(fs_system(), path, &err), 0);
    struct strbuf before = {0}, after = {0};
    assert_int_equal(fs_read(fs_system(), path, &before, &err), 0);
    for (uint64_t budget = 0; budget < before.length; budget += 3) {
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = budget};
        struct fs fs = fs_with_faults(&fault);
        err.text[0] = 0;
        assert_int_equal(write_two(&fs, path, &err), -1);
        assert_non_null(strstr(err.text, "model.safetensors"));
        assert_int_equal(count_files(scratch), 1);
    }
    assert_int_equal(fs_read(fs_system(), path, &after, &err), 0);
    assert_int_equal(before.length, after.length);
    assert_memory_equal(before.bytes, after.bytes, before.length);
    strbuf_release(&before);
    strbuf_release(&after);
    free(path);
}

static void every_failing_operation_is_reported(void **state)
{
    struct scratch *scratch = *state;
    char *path = fs_join(scratch->directory, "model.safetensors");
    struct error err;
    int failures = 0;
    for (int64_t n = 1;; n++) {
        struct fs_fault fault = {
            .inner = fs_system(), .write_budget_bytes = UINT64_MAX, .fail_operation = n};
        struct fs fs = fs_with_faults(&fault);
        if (write_two(&fs, path, &err) == 0)
            break;
        failures++;
        assert_true(failures < 100);
    }
    assert_true(failures >= 8); // create, five writes, sync, close, rename, sync of the directory
    struct safetensors tensors;
    assert_int_equal(safetensors_open(path, &tensors, &err), 0);
    safetensors_close(&tensors);
    free(path);
}

static void write_shard(const struct scratch *scratch, const char *name, const char *tensor)
{
    char *path = fs_join(scratch->directory, name);
    struct safetensors_entry entry = {.name = tensor, .dtype = ST_F32, .rank = 1, .shape = {6}};
    struct safetensors_writer *writer;
    struct error err;
    assert_int_equal(safetensors_writer_create(fs_system(), path, &entry, 1, NULL, &writer, &err),
                     0);
    assert_int_equal(safetensors_writer_write(writer, numbers, sizeof(numbers), &err), 0);
    assert_int_equal(safetensors_writer_finish(writer, &err), 0);
    safetensors_writer_destroy(writer);
    free(path);
}

static void write_index(const struct scratch *scratch, const char *text)
{
    char *path = fs_join(scratch->directory, "model.safetensors.index.json");
    struct error err;
    assert_int_equal(fs_write_text(fs_system(), path, text, strlen(text), &err), 0);
    free(path);
}

static void shards_are_read_as_one_model(void **state)
{
    struct scratch *scratch = *state;
    struct safetensors tensors;
    struct error err;
    write_shard(scratch, "m-2-of-2.safetensors", "a");
    write_shard(scratch, "m-1-of-2.safetensors", "b");
    write_index(scratch, "{\"metadata\":{\"total_size\":48},\"weight_map\":"
                         "{\"a\":\"m-2-of-2.safetensors\",\"b\":\"m-1-of-2.safetensors\"}}");
    assert_int_equal(safetensors_open(scratch->directory, &tensors, &err), 0);
    assert_int_equal(tensors.count, 2);
    assert_string_equal(tensors.entries[0].name, "a");
    assert_non_null(strstr(tensors.entries[0].file, "m-2-of-2"));
    assert_memory_equal(tensors.entries[1].data, numbers, sizeof(numbers));
    safetensors_close(&tensors);
}

static void index_and_shards_must_agree(void **state)
{
    struct scratch *scratch = *state;
    write_shard(scratch, "x.safetensors", "a");
    write_shard(scratch, "y.safetensors", "b");
    write_shard(scratch, "z.safetensors", "b");
    static const char *const cases[][2] = {
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"x.safetensors\"}}", "'b' is not in"},
        {"{\"weight_map\":{\"a\":\"y.safetensors\",\"b\":\"x.safetensors\"}}", "is not in"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"c\":\"y.safetensors\"}}", "'c' is not in"},
        {"{\"weight_map\":{\"a\":\"x.safetensors\",\"b\":\"y.safetensors\","
         "\"c\":\"z.safetensors\"}}",
         "is also in"},
        {"{\"weight_map\":{\"a\":\"w.safetensors\"}}", "w.safetensors"},
        {"{\"weight_map\":{\"a\":\"../x.safetensors\"}}", "not a plain file name"},
        {"{\"weight_map\":{\"a\":\"\"}}", "not a plain file name"},
        {"{\"weight_map\":{\"a\":1}}", "not a plain file name"},
        {"{\"weight_map\":[]}", "no \"weight_map\""},
        {"{\"weight_map\":{\"a\":", "index.json"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct safetensors tensors;
        struct error err = {{0}};
        write_index(scratch, cases[i][0]);
        if (safetensors_open(scratch->directory, &tensors, &err) == 0)
            fail_msg("accepted %s", cases[i][0]);
        if (!strstr(err.text, cases[i][1]))
            fail_msg("expected '%s', got: %s", cases[i][1], err.text);
    }
}

static void tensor_missing_in_the_index_is_an_error(void **state)
{
    struct scratch *scratch = *state;
    char *path = fs_join(scratch->directory, "x.safetensors");
    struct safetensors tensors;
    struct error err;
    assert_int_equal(write_two(fs_system(), path, &err), 0);
    write_index(scratch, "{\"weight_map\":{\"z.weight\":\"x.safetensors\"}}");
    assert_int_equal(safetensors_open(scratch->directory, &tensors, &err), -1);
    assert_non_null(strstr(err.text, "missing in the index"));
    free(path);
}

static void missing_and_empty_files_are_errors(void **state)
{
    struct scratch *scratch = *state;
    struct safetensors tensors;
    struct error err;
    assert_int_equal(safetensors_open(scratch->directory, &tensors, &err), -1);
    assert_non_null(strstr(err.text, "neither model.safetensors nor"));
    assert_int_equal(safetensors_open("/nonexistent/model", &tensors, &err), -1);
    assert_non_null(strstr(err.text, "/nonexistent/model"));
    char *path = fs_join(scratch->directory, "model.safetensors");
    assert_int_equal(fs_write_text(fs_system(), path, "", 0, &err), 0);
    assert_int_equal(safetensors_open(path, &tensors, &err), -1);
    assert_non_null(strstr(err.text, "too short"));
    free(path);
}

#define WITH_SCRATCH(test) cmocka_unit_test_setup_teardown(test, make_scratch, remove_scratch)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_SCRATCH(what_the_writer_writes_is_read_back),
        WITH_SCRATCH(writer_writes_a_file_without_tensors),
        WITH_SCRATCH(writer_refuses_what_it_was_not_told),
        WITH_SCRATCH(full_disk_leaves_the_old_model),
        WITH_SCRATCH(every_failing_operation_is_reported),
        WITH_SCRATCH(shards_are_read_as_one_model),
        WITH_SCRATCH(index_and_shards_must_agree),
        WITH_SCRATCH(tensor_missing_in_the_index_is_an_error),
        WITH_SCRATCH(missing_and_empty_files_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
