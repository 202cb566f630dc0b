// SPDX-License-Identifier: Apache-2.0
// Reading a segment. The seal is verified first, so what follows faces damage by a program, not by
// a disk: a foreign file or one written by a faulty version. Every relation between the columns is
// checked, and record ids are computed again; a reader downstream need not doubt anything.
#include "datasets/segment_format.h"

#include "base/arena.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

struct columns {
    void *values[SEGMENT_COLUMNS];
    size_t rows[SEGMENT_COLUMNS];
};

static void columns_release(struct columns *columns)
{
    for (int i = 0; i < SEGMENT_COLUMNS; i++)
        free(columns->values[i]);
}

static const uint8_t *u8_column(const struct columns *columns, enum segment_column column)
{
    return columns->values[column];
}

static const uint32_t *u32_column(const struct columns *columns, enum segment_column column)
{
    return columns->values[column];
}

static const uint64_t *u64_column(const struct columns *columns, enum segment_column column)
{
    return columns->values[column];
}

static struct digest digest_at(const struct columns *columns, enum segment_column column,
                               size_t row)
{
    struct digest d;
    memcpy(d.bytes, u8_column(columns, column) + 16 * row, sizeof(d.bytes));
    return d;
}

static int read_columns(struct h5_image *image, struct columns *columns, struct error *err)
{
    for (int i = 0; i < SEGMENT_COLUMNS; i++) {
        const struct segment_column_spec *spec = &segment_columns[i];
        if (h5_image_read(image, spec->name, spec->type, spec->columns, &columns->values[i],
                          &columns->rows[i], err) != 0)
            return -1;
    }
    return 0;
}

static int check_rows(const struct columns *columns, struct error *err)
{
    size_t pairs = columns->rows[PAIR_RECORD_ID], tasks = columns->rows[TASK_ID];
    for (int i = 0; i < SEGMENT_COLUMNS; i++) {
        size_t rows = columns->rows[i];
        const size_t expected[] = {[ROWS_PAIRS] = pairs,
                                   [ROWS_PAIR_OFFSETS] = pairs + 1,
                                   [ROWS_TASKS] = tasks,
                                   [ROWS_TASK_OFFSETS] = tasks + 1,
                                   [ROWS_TEXT] = rows};
        if (rows != expected[segment_columns[i].rows])
            return error_set(err, "column '%s' has %zu rows, not %zu", segment_columns[i].name,
                             rows, expected[segment_columns[i].rows]);
    }
    return 0;
}

// The offsets of a text column: from 0 up to its length, never down.
static int check_offsets(const struct columns *columns, enum segment_column text, struct error *err)
{
    const uint64_t *offsets = u64_column(columns, text + 1);
    size_t count = columns->rows[text + 1] - 1;
    bool good = offsets[0] == 0 && offsets[count] == columns->rows[text];
    for (size_t i = 0; i < count && good; i++)
        good = offsets[i] <= offsets[i + 1];
    if (!good)
        return error_set(err, "the offsets of column '%s' do not divide its %zu bytes",
                         segment_columns[text].name, columns->rows[text]);
    return 0;
}

static const char *copy_text(const struct columns *columns, enum segment_column text, size_t row,
                             struct arena *arena, size_t *length)
{
    const uint64_t *offsets = u64_column(columns, text + 1);
    *length = (size_t)(offsets[row + 1] - offsets[row]);
    return arena_strndup(arena, (const char *)columns->values[text] + offsets[row], *length);
}

static void fill_pair(const struct columns *columns, size_t row, struct digest task_id,
                      struct arena *arena, struct reflection *pair)
{
    *pair = (struct reflection){
        .record_id = digest_at(columns, PAIR_RECORD_ID, row),
        .task_id = task_id,
        .step = (enum reflection_step)u8_column(columns, PAIR_STEP)[row],
        .ordinal = u32_column(columns, PAIR_ORDINAL)[row],
        .document = digest_at(columns, PAIR_DOCUMENT, row),
        .span_begin = u64_column(columns, PAIR_SPAN_BEGIN)[row],
        .span_end = u64_column(columns, PAIR_SPAN_END)[row],
        .seed = u64_column(columns, PAIR_SEED)[row],
        .prompt_tokens = u32_column(columns, PAIR_PROMPT_TOKENS)[row],
        .output_tokens = u32_column(columns, PAIR_OUTPUT_TOKENS)[row],
    };
    pair->question = copy_text(columns, PAIR_QUESTION, row, arena, &pair->question_bytes);
    pair->answer = copy_text(columns, PAIR_ANSWER, row, arena, &pair->answer_bytes);
}

static int fill_task(const struct columns *columns, size_t row, struct arena *arena,
                     struct reflection_task *task, struct error *err)
{
    size_t reason_bytes;
    *task = (struct reflection_task){
        .task_id = digest_at(columns, TASK_ID, row),
        .outcome = (enum task_outcome)u8_column(columns, TASK_OUTCOME)[row],
        .pairs = u32_column(columns, TASK_PAIRS)[row],
        .dropped = u32_column(columns, TASK_DROPPED)[row],
        .reason = copy_text(columns, TASK_REASON, row, arena, &reason_bytes),
        .tokens = u64_column(columns, TASK_TOKENS)[row],
        .seconds = ((const double *)columns->values[TASK_SECONDS])[row],
    };
    if (strlen(task->reason) != reason_bytes)
        return error_set(err, "the reason of task row %zu holds a NUL byte", row);
    return 0;
}

// Builds the tasks and their pairs, each task checked as it was when it was written.
static int build(const struct columns *columns, struct arena *arena, struct segment *out,
                 struct error *err)
{
    size_t pair_count = columns->rows[PAIR_RECORD_ID], task_count = columns->rows[TASK_ID];
    struct reflection *pairs = arena_alloc(arena, pair_count * sizeof(*pairs));
    struct reflection_task *tasks = arena_alloc(arena, task_count * sizeof(*tasks));
    size_t next = 0;
    for (size_t row = 0; row < task_count; row++) {
        struct reflection_task *task = &tasks[row];
        if (fill_task(columns, row, arena, task, err) != 0)
            return -1;
        if (task->pairs > pair_count - next)
            return error_set(err, "task row %zu has %u pairs, only %zu are left", row, task->pairs,
                             pair_count - next);
        for (size_t i = next; i < next + task->pairs; i++) {
            if (u32_column(columns, PAIR_TASK)[i] != row)
                return error_set(err, "pair row %zu names task row %u, it belongs to %zu", i,
                                 u32_column(columns, PAIR_TASK)[i], row);
            fill_pair(columns, i, task->task_id, arena, &pairs[i]);
        }
        if (reflection_task_check(task, pairs + next, task->pairs, err) != 0)
            return error_prefix(err, "task row %zu", row);
        next += task->pairs;
    }
    if (next != pair_count)
        return error_set(err, "%zu pairs belong to no task", pair_count - next);
    out->tasks = tasks;
    out->task_count = task_count;
    out->pairs = pairs;
    out->pair_count = pair_count;
    return 0;
}

static int parse(const struct strbuf *file, const char *path, struct segment *out,
                 struct error *err)
{
    struct h5_image *image;
    struct columns columns = {0};
    if (h5_image_open(file->bytes, file->length, SEGMENT_MAGIC, SEGMENT_VERSION, path, &image,
                      err) != 0)
        return -1;
    int rc = read_columns(image, &columns, err);
    h5_image_destroy(image);
    if (rc == 0 &&
        (check_rows(&columns, err) != 0 || check_offsets(&columns, PAIR_QUESTION, err) != 0 ||
         check_offsets(&columns, PAIR_ANSWER, err) != 0 ||
         check_offsets(&columns, TASK_REASON, err) != 0 ||
         build(&columns, out->memory, out, err) != 0))
        rc = error_prefix(err, "'%s' is not a consistent segment", path);
    columns_release(&columns);
    return rc;
}

int segment_open(struct fs *fs, const char *path, struct segment *out, struct error *err)
{
    struct strbuf file = {0};
    *out = (struct segment){.memory = mem_calloc(1, sizeof(struct arena))};
    int rc = fs_read(fs, path, &file, err);
    if (rc == 0 && parse(&file, path, out, err) != 0) {
        struct error cause = *err;
        rc = error_set(err, "%s; move the file away and run generate again: its tasks are redone",
                       cause.text);
    }
    strbuf_release(&file);
    if (rc != 0)
        segment_close(out);
    return rc;
}

void segment_close(struct segment *segment)
{
    if (segment->memory)
        arena_release(segment->memory);
    free(segment->memory);
    *segment = (struct segment){0};
}
