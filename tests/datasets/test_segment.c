// SPDX-License-Identifier: Apache-2.0
#include "base/random.h"
#include "datasets/segment_format.h"
#include "tests/datasets/reflections_helper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void committed_tasks_are_read_back(void **state)
{
    const uint32_t sizes[] = {0, 1, 31, 33, 1000};
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        struct error err;
        struct segment segment;
        char name[16];
        snprintf(name, sizeof(name), "s%u", sizes[s]);
        assert_int_equal(example_commit(*state, name, 0, sizes[s], 0, &err), 0);
        char *path = mem_printf("%s/%s.h5", (char *)*state, name);
        if (segment_open(fs_system(), path, &segment, &err) != 0)
            fail_msg("%s", err.text);
        assert_int_equal(segment.task_count, sizes[s]);
        const struct reflection *pairs = segment.pairs;
        for (uint32_t i = 0; i < sizes[s]; i++) {
            assert_true(is_example(&segment.tasks[i], pairs, i, 0));
            pairs += segment.tasks[i].pairs;
        }
        assert_true(pairs == segment.pairs + segment.pair_count);
        for (size_t i = 0; i < segment.pair_count; i++) {
            assert_int_equal(segment.pairs[i].question[segment.pairs[i].question_bytes], 0);
            assert_int_equal(segment.pairs[i].answer[segment.pairs[i].answer_bytes], 0);
        }
        segment_close(&segment);
        free(path);
    }
}

static void commit_empties_the_writer_and_never_replaces(void **state)
{
    struct error err;
    struct segment_writer *writer = segment_writer_create();
    size_t empty_bytes = segment_writer_bytes(writer);
    for (uint32_t i = 0; i < 9; i++)
        assert_int_equal(example_add(writer, i, 0, &err), 0);
    assert_int_equal(segment_writer_tasks(writer), 9);
    assert_true(segment_writer_bytes(writer) > empty_bytes);
    assert_int_equal(segment_writer_commit(writer, fs_system(), *state, "a", &err), 0);
    assert_int_equal(segment_writer_tasks(writer), 0);
    assert_int_equal(segment_writer_bytes(writer), empty_bytes);

    assert_int_equal(example_add(writer, 3, 0, &err), 0);
    assert_int_equal(segment_writer_commit(writer, fs_system(), *state, "a", &err), -1);
    assert_non_null(strstr(err.text, "a.h5'"));
    assert_int_equal(segment_writer_tasks(writer), 1);
    assert_int_equal(segment_writer_commit(writer, fs_system(), *state, "b", &err), 0);
    assert_int_equal(count_names(*state), 2);
    segment_writer_destroy(writer);
}

static void full_disk_leaves_nothing_and_keeps_the_content(void **state)
{
    struct error err;
    struct segment segment;
    struct segment_writer *writer = segment_writer_create();
    for (uint32_t i = 0; i < 9; i++)
        assert_int_equal(example_add(writer, i, 0, &err), 0);
    for (uint64_t budget = 0; budget < 12000; budget += 700) {
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = budget};
        struct fs fs = fs_with_faults(&fault);
        assert_int_equal(segment_writer_commit(writer, &fs, *state, "a", &err), -1);
        assert_non_null(strstr(err.text, "a.h5"));
        assert_int_equal(count_names(*state), 0);
    }
    for (int64_t n = 1; n <= 6; n++) {
        struct fs_fault fault = {
            .inner = fs_system(), .write_budget_bytes = UINT64_MAX, .fail_operation = n};
        struct fs fs = fs_with_faults(&fault);
        assert_int_equal(segment_writer_commit(writer, &fs, *state, "a", &err), -1);
        assert_int_equal(count_names(*state), 0);
    }
    assert_int_equal(segment_writer_commit(writer, fs_system(), *state, "a", &err), 0);
    char *path = fs_join(*state, "a.h5");
    assert_int_equal(segment_open(fs_system(), path, &segment, &err), 0);
    assert_int_equal(segment.task_count, 9);
    segment_close(&segment);
    segment_writer_destroy(writer);
    free(path);
}

static void equal_content_gives_equal_bytes(void **state)
{
    struct error err;
    struct strbuf a = {0}, b = {0};
    char *path_a = fs_join(*state, "a.h5"), *path_b = fs_join(*state, "b.h5");
    assert_int_equal(example_commit(*state, "a", 0, 33, 0, &err), 0);
    sleep(1); // a time stamp in the file would differ
    assert_int_equal(example_commit(*state, "b", 0, 33, 0, &err), 0);
    assert_int_equal(fs_read(fs_system(), path_a, &a, &err), 0);
    assert_int_equal(fs_read(fs_system(), path_b, &b, &err), 0);
    assert_int_equal(a.length, b.length);
    assert_memory_equal(a.bytes, b.bytes, a.length);
    strbuf_release(&a);
    strbuf_release(&b);
    free(path_a);
    free(path_b);
}

static void write_bytes(const char *path, const char *bytes, size_t length)
{
    struct error err;
    assert_int_equal(fs_write_text(fs_system(), path, bytes, length, &err), 0);
}

// An fs whose only file is held in memory: thousands of damaged copies without touching a disk.
static int read_from_memory(void *state, const char *path, struct strbuf *out)
{
    const struct strbuf *file = state;
    (void)path;
    strbuf_add(out, file->bytes, file->length);
    return 0;
}
static const struct fs_ops memory_ops = {.read = read_from_memory};

static int open_bytes(struct strbuf *file, struct error *err)
{
    struct fs fs = {.ops = &memory_ops, .state = file};
    struct segment segment;
    int rc = segment_open(&fs, "damaged.h5", &segment, err);
    if (rc == 0)
        segment_close(&segment);
    return rc;
}

static void every_flipped_byte_is_detected(void **state)
{
    struct error err = {{0}};
    struct strbuf file = {0};
    char *path = fs_join(*state, "a.h5");
    assert_int_equal(example_commit(*state, "a", 0, 60, 0, &err), 0);
    assert_int_equal(fs_read(fs_system(), path, &file, &err), 0);
    assert_int_equal(open_bytes(&file, &err), 0);
    for (uint64_t trial = 0; trial < 1500; trial++) {
        // The first 512 trials walk through the user block, the rest fall anywhere.
        size_t place = trial < 512 ? trial : random_u64(11, 0, trial) % file.length;
        char flip = (char)(1 + random_u64(11, 1, trial) % 255);
        file.bytes[place] ^= flip;
        if (open_bytes(&file, &err) == 0)
            fail_msg("byte %zu changed by %d was not detected", place, flip);
        assert_non_null(strstr(err.text, "damaged.h5"));
        assert_non_null(strstr(err.text, "generate again"));
        file.bytes[place] ^= flip;
    }
    strbuf_release(&file);
    free(path);
}

static void every_truncation_is_detected(void **state)
{
    struct error err = {{0}};
    struct strbuf file = {0};
    char *path = fs_join(*state, "a.h5");
    assert_int_equal(example_commit(*state, "a", 0, 10, 0, &err), 0);
    assert_int_equal(fs_read(fs_system(), path, &file, &err), 0);
    size_t whole = file.length;
    for (size_t length = 0; length < whole; length++) {
        file.length = length;
        if (open_bytes(&file, &err) == 0)
            fail_msg("a file of %zu of %zu bytes was accepted", length, whole);
    }
    file.length = whole;
    strbuf_addc(&file, 0);
    assert_int_equal(open_bytes(&file, &err), -1);
    strbuf_release(&file);
    free(path);
}

// Columns are contiguous: where the file holds the bytes of one. [*bytes]
static char *find_column(const struct strbuf *file, enum segment_column column, size_t *bytes)
{
    const struct segment_column_spec *spec = &segment_columns[column];
    struct h5_image *image;
    struct error err;
    void *values;
    size_t rows;
    assert_int_equal(
        h5_image_open(file->bytes, file->length, SEGMENT_MAGIC, SEGMENT_VERSION, "a", &image, &err),
        0);
    assert_int_equal(
        h5_image_read(image, spec->name, spec->type, spec->columns, &values, &rows, &err), 0);
    h5_image_destroy(image);
    *bytes = rows * segment_row_bytes(column);
    char *place = memmem(file->bytes, file->length, values, *bytes);
    assert_non_null(place);
    free(values);
    return place;
}

static void seal(struct strbuf *file)
{
    h5_image_seal(SEGMENT_MAGIC, SEGMENT_VERSION, file->bytes + H5_IMAGE_BLOCK_BYTES,
                  file->length - H5_IMAGE_BLOCK_BYTES, (uint8_t *)file->bytes);
}

// Damage of the columns under a correct seal, as a faulty program would leave it: an error or a
// consistent segment, never a crash.
static void sealed_damage_is_survived(void **state)
{
    struct error err = {{0}};
    struct strbuf file = {0};
    char *path = fs_join(*state, "a.h5");
    assert_int_equal(example_commit(*state, "a", 0, 60, 0, &err), 0);
    assert_int_equal(fs_read(fs_system(), path, &file, &err), 0);
    size_t detected = 0;
    for (int column = 0; column < SEGMENT_COLUMNS; column++) {
        size_t bytes;
        char *values = find_column(&file, column, &bytes);
        for (uint64_t trial = 0; trial < 60; trial++) {
            char *place = values + random_u64(13, (uint64_t)column, trial) % bytes;
            char before = *place;
            *place ^= (char)(1 + random_u64(17, (uint64_t)column, trial) % 255);
            seal(&file);
            detected += open_bytes(&file, &err) != 0;
            *place = before;
        }
        seal(&file);
    }
    assert_true(detected > 600 && detected < 60 * SEGMENT_COLUMNS);
    strbuf_release(&file);
    free(path);
}

static void columns_that_disagree_are_an_error(void **state)
{
    // Each case changes one value, by dataset and byte, and seals the file again.
    static const struct {
        enum segment_column column;
        size_t byte;
        char value;
        const char *expected;
    } cases[] = {
        {PAIR_RECORD_ID, 5, 0x55, "id of pair"},
        {PAIR_TASK, 0, 9, "names task row"},
        {PAIR_STEP, 0, 100, "unknown step 100"},
        {PAIR_ORDINAL, 0, 77, "pair"},
        {PAIR_QUESTION, 0, (char)0xff, "not valid UTF-8"},
        {PAIR_ANSWER, 0, (char)0xc3, "not valid UTF-8"},
        {PAIR_QUESTION_OFFSETS, 0, 1, "'question_offsets' does not divide"},
        {PAIR_ANSWER_OFFSETS, 8 + 7, 127, "'answer_offsets' does not divide"},
        {PAIR_SOURCE_OFFSETS, 8, 0, "comes from nowhere"},
        {PAIR_SOURCE_OFFSETS, 8, 99, "'source_offsets' does not divide"},
        {PAIR_PARENT_OFFSETS, 8 + 7, 127, "'parent_offsets' does not divide"},
        {SOURCE_BEGIN, 7, 1, "comes from bytes"},
        {DROP_TASK, 0, 11, "out of order"},
        {DROP_TASK, 3, 1, "out of order"},
        {DROP_STEP, 0, 7, "a drop of the unknown step 7"},
        {DROP_REASON, 0, 0, "holds a NUL byte"},
        {DROP_REASON, 0, (char)0xff, "not valid UTF-8"},
        {DROP_REASON_OFFSETS, 8, 99, "'drop_reason_offsets' does not divide"},
        {USAGE_TASK, 3, 1, "out of order"},
        {USAGE_STEP, 2, STEP_DIRECT, "repeated step"},
        {USAGE_CACHED_TOKENS, 7, 1, "cached of"},
        {TASK_ID, 16, 1, "id of pair"},
        {TASK_OUTCOME, 1, 3, "unknown outcome 3"},
        {TASK_OUTCOME, 1, 1, "a task with outcome 1"},
        {TASK_PAIRS, 4, 2, "pair"},
        {TASK_PAIRS, 7, 1, "only"},
        {TASK_SECONDS, 8 + 7, (char)0xff, "seconds"},
    };
    struct error err = {{0}};
    struct strbuf file = {0};
    char *path = fs_join(*state, "a.h5");
    assert_int_equal(example_commit(*state, "a", 0, 12, 0, &err), 0);
    assert_int_equal(fs_read(fs_system(), path, &file, &err), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t bytes;
        char *place = find_column(&file, cases[i].column, &bytes);
        assert_true(cases[i].byte < bytes);
        struct strbuf copy = {0};
        strbuf_add(&copy, file.bytes, file.length);
        copy.bytes[place - file.bytes + cases[i].byte] = cases[i].value;
        seal(&copy);
        if (open_bytes(&copy, &err) == 0)
            fail_msg("case %zu was accepted", i);
        if (!strstr(err.text, cases[i].expected))
            fail_msg("case %zu: expected '%s', got: %s", i, cases[i].expected, err.text);
        strbuf_release(&copy);
    }
    strbuf_release(&file);
    free(path);
}

static void other_files_and_versions_are_errors(void **state)
{
    struct error err = {{0}};
    struct segment segment;
    struct strbuf file = {0};
    char *path = fs_join(*state, "a.h5"), *other = fs_join(*state, "b.h5");
    assert_int_equal(segment_open(fs_system(), path, &segment, &err), -1);
    assert_non_null(strstr(err.text, "a.h5"));
    assert_null(strstr(err.text, "generate again")); // nothing is damaged
    assert_int_equal(example_commit(*state, "a", 0, 10, 0, &err), 0);
    assert_int_equal(fs_read(fs_system(), path, &file, &err), 0);
    h5_image_seal(SEGMENT_MAGIC, SEGMENT_VERSION + 1, file.bytes + H5_IMAGE_BLOCK_BYTES,
                  file.length - H5_IMAGE_BLOCK_BYTES, (uint8_t *)file.bytes);
    write_bytes(other, file.bytes, file.length);
    assert_int_equal(segment_open(fs_system(), other, &segment, &err), -1);
    assert_non_null(strstr(err.text, "version 3"));
    write_bytes(other, "", 0);
    assert_int_equal(segment_open(fs_system(), other, &segment, &err), -1);
    strbuf_release(&file);
    free(path);
    free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_SCRATCH(committed_tasks_are_read_back),
        WITH_SCRATCH(commit_empties_the_writer_and_never_replaces),
        WITH_SCRATCH(full_disk_leaves_nothing_and_keeps_the_content),
        WITH_SCRATCH(equal_content_gives_equal_bytes),
        WITH_SCRATCH(every_flipped_byte_is_detected),
        WITH_SCRATCH(every_truncation_is_detected),
        WITH_SCRATCH(sealed_damage_is_survived),
        WITH_SCRATCH(columns_that_disagree_are_an_error),
        WITH_SCRATCH(other_files_and_versions_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
