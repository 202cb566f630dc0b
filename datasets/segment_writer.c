// SPDX-License-Identifier: Apache-2.0
// A segment grows column by column in memory; only whole, checked tasks enter it. The image is
// built when it is committed, so that a failed commit (a full disk) can be tried again.
#include "datasets/segment_format.h"

#include "base/mem.h"
#include "base/strbuf.h"

#include <stdlib.h>
#include <string.h>

#define FILE_OVERHEAD_BYTES 16384 // user block, object headers and the group of the columns, about

struct segment_writer {
    struct strbuf columns[SEGMENT_COLUMNS];
    size_t task_count;
};

static void add_u32(struct segment_writer *writer, enum segment_column column, uint32_t value)
{
    strbuf_add(&writer->columns[column], &value, sizeof(value));
}

static void add_u64(struct segment_writer *writer, enum segment_column column, uint64_t value)
{
    strbuf_add(&writer->columns[column], &value, sizeof(value));
}

static void add_digest(struct segment_writer *writer, enum segment_column column, struct digest d)
{
    strbuf_add(&writer->columns[column], d.bytes, sizeof(d.bytes));
}

// Every text column is followed by the column of its offsets.
static void add_text(struct segment_writer *writer, enum segment_column column, const char *bytes,
                     size_t length)
{
    if (length > 0)
        strbuf_add(&writer->columns[column], bytes, length);
    add_u64(writer, column + 1, writer->columns[column].length);
}

static void make_empty(struct segment_writer *writer)
{
    for (int i = 0; i < SEGMENT_COLUMNS; i++)
        strbuf_reset(&writer->columns[i]);
    add_u64(writer, PAIR_QUESTION_OFFSETS, 0);
    add_u64(writer, PAIR_ANSWER_OFFSETS, 0);
    add_u64(writer, PAIR_SOURCE_OFFSETS, 0);
    add_u64(writer, PAIR_PARENT_OFFSETS, 0);
    add_u64(writer, TASK_REASON_OFFSETS, 0);
    add_u64(writer, DROP_REASON_OFFSETS, 0);
    writer->task_count = 0;
}

struct segment_writer *segment_writer_create(void)
{
    struct segment_writer *writer = mem_calloc(1, sizeof(*writer));
    make_empty(writer);
    return writer;
}

void segment_writer_destroy(struct segment_writer *writer)
{
    if (!writer)
        return;
    for (int i = 0; i < SEGMENT_COLUMNS; i++)
        strbuf_release(&writer->columns[i]);
    free(writer);
}

static uint64_t row_count(const struct segment_writer *writer, enum segment_column column)
{
    return writer->columns[column].length / segment_row_bytes(column);
}

static void add_origin(struct segment_writer *writer, const struct reflection *pair)
{
    for (size_t i = 0; i < pair->source_count; i++) {
        add_digest(writer, SOURCE_DOCUMENT, pair->sources[i].document);
        add_u64(writer, SOURCE_BEGIN, pair->sources[i].begin);
        add_u64(writer, SOURCE_END, pair->sources[i].end);
    }
    for (size_t i = 0; i < pair->parent_count; i++)
        add_digest(writer, PARENT_ID, pair->parents[i]);
    add_u64(writer, PAIR_SOURCE_OFFSETS, row_count(writer, SOURCE_DOCUMENT));
    add_u64(writer, PAIR_PARENT_OFFSETS, row_count(writer, PARENT_ID));
}

static void add_pair(struct segment_writer *writer, const struct reflection *pair)
{
    add_digest(writer, PAIR_RECORD_ID, pair->record_id);
    add_u32(writer, PAIR_TASK, (uint32_t)writer->task_count);
    strbuf_addc(&writer->columns[PAIR_STEP], (char)pair->step);
    add_u32(writer, PAIR_ORDINAL, pair->ordinal);
    add_text(writer, PAIR_QUESTION, pair->question, pair->question_bytes);
    add_text(writer, PAIR_ANSWER, pair->answer, pair->answer_bytes);
    add_origin(writer, pair);
    add_u64(writer, PAIR_SEED, pair->seed);
    add_u32(writer, PAIR_PROMPT_TOKENS, pair->prompt_tokens);
    add_u32(writer, PAIR_OUTPUT_TOKENS, pair->output_tokens);
}

static void add_drops_and_usage(struct segment_writer *writer, const struct reflection_task *task)
{
    for (size_t i = 0; i < task->drop_count; i++) {
        const struct reflection_drop *drop = &task->drops[i];
        add_u32(writer, DROP_TASK, (uint32_t)writer->task_count);
        strbuf_addc(&writer->columns[DROP_STEP], (char)drop->step);
        add_u32(writer, DROP_PAIRS, drop->pairs);
        add_text(writer, DROP_REASON, drop->reason, strlen(drop->reason));
    }
    for (size_t i = 0; i < task->usage_count; i++) {
        const struct reflection_usage *usage = &task->usage[i];
        add_u32(writer, USAGE_TASK, (uint32_t)writer->task_count);
        strbuf_addc(&writer->columns[USAGE_STEP], (char)usage->step);
        add_u32(writer, USAGE_REQUESTS, usage->requests);
        add_u64(writer, USAGE_PROMPT_TOKENS, usage->prompt_tokens);
        add_u64(writer, USAGE_CACHED_TOKENS, usage->cached_tokens);
        add_u64(writer, USAGE_OUTPUT_TOKENS, usage->output_tokens);
    }
}

int segment_writer_add(struct segment_writer *writer, const struct reflection_task *task,
                       const struct reflection *pairs, size_t count, struct error *err)
{
    if (reflection_task_check(task, pairs, count, err) != 0)
        return -1;
    if (writer->task_count == UINT32_MAX)
        return error_set(err, "a segment holds at most %u tasks; commit it first", UINT32_MAX);
    for (size_t i = 0; i < count; i++)
        add_pair(writer, &pairs[i]);
    add_digest(writer, TASK_ID, task->task_id);
    strbuf_addc(&writer->columns[TASK_OUTCOME], (char)task->outcome);
    add_u32(writer, TASK_PAIRS, task->pairs);
    add_text(writer, TASK_REASON, task->reason, strlen(task->reason));
    strbuf_add(&writer->columns[TASK_SECONDS], &task->seconds, sizeof(task->seconds));
    add_drops_and_usage(writer, task);
    writer->task_count++;
    return 0;
}

size_t segment_writer_tasks(const struct segment_writer *writer)
{
    return writer->task_count;
}

size_t segment_writer_bytes(const struct segment_writer *writer)
{
    size_t bytes = FILE_OVERHEAD_BYTES;
    for (int i = 0; i < SEGMENT_COLUMNS; i++)
        bytes += writer->columns[i].length;
    return bytes;
}

static int build_image(const struct segment_writer *writer, struct strbuf *out, struct error *err)
{
    struct h5_image *image;
    if (h5_image_create(&image, err) != 0)
        return -1;
    int rc = h5_image_write_attribute_text(image, "format", "memo reflections", err);
    if (rc == 0)
        rc = h5_image_write_attribute_u64(image, "version", SEGMENT_VERSION, err);
    for (int i = 0; i < SEGMENT_COLUMNS && rc == 0; i++) {
        const struct segment_column_spec *spec = &segment_columns[i];
        const struct strbuf *values = &writer->columns[i];
        rc = h5_image_write(image, spec->name, spec->type, values->bytes,
                            values->length / segment_row_bytes(i), spec->columns, err);
    }
    if (rc == 0)
        rc = h5_image_finish(image, SEGMENT_MAGIC, SEGMENT_VERSION, out, err);
    h5_image_destroy(image);
    return rc;
}

int segment_writer_commit(struct segment_writer *writer, struct fs *fs, const char *directory,
                          const char *name, struct error *err)
{
    struct strbuf image = {0};
    char *file = mem_printf("%s.h5", name);
    char *path = fs_join(directory, file);
    int rc = build_image(writer, &image, err);
    if (rc != 0)
        error_prefix(err, "'%s'", path);
    struct fs_part part = {image.bytes, image.length};
    if (rc == 0)
        rc = fs_write_atomic(fs, path, &part, 1, false, err);
    if (rc == 0)
        make_empty(writer);
    strbuf_release(&image);
    free(path);
    free(file);
    return rc;
}
