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
    const size_t pairs = columns->rows[PAIR_RECORD_ID], tasks = columns->rows[TASK_ID];
    const size_t drops = columns->rows[DROP_TASK];
    for (int i = 0; i < SEGMENT_COLUMNS; i++) {
        size_t rows = columns->rows[i];
        const size_t expected[] = {[ROWS_PAIRS] = pairs,
                                   [ROWS_PAIR_OFFSETS] = pairs + 1,
                                   [ROWS_SOURCES] = columns->rows[SOURCE_DOCUMENT],
                                   [ROWS_PARENTS] = columns->rows[PARENT_ID],
                                   [ROWS_TASKS] = tasks,
                                   [ROWS_TASK_OFFSETS] = tasks + 1,
                                   [ROWS_DROPS] = drops,
                                   [ROWS_DROP_OFFSETS] = drops + 1,
                                   [ROWS_USAGE] = columns->rows[USAGE_TASK],
                                   [ROWS_TEXT] = rows};
        if (rows != expected[segment_columns[i].rows])
            return error_set(err, "column '%s' has %zu rows, not %zu", segment_columns[i].name,
                             rows, expected[segment_columns[i].rows]);
    }
    return 0;
}

// Offsets into the rows of another column: from 0 up to their number, never down.
static int check_offsets(const struct columns *columns, enum segment_column column,
                         enum segment_column into, struct error *err)
{
    const uint64_t *offsets = u64_column(columns, column);
    size_t count = columns->rows[column] - 1;
    bool good = offsets[0] == 0 && offsets[count] == columns->rows[into];
    for (size_t i = 0; i < count && good; i++)
        good = offsets[i] <= offsets[i + 1];
    if (!good)
        return error_set(err, "column '%s' does not divide the %zu rows of '%s'",
                         segment_columns[column].name, columns->rows[into],
                         segment_columns[into].name);
    return 0;
}

static int check_all_offsets(const struct columns *columns, struct error *err)
{
    static const struct {
        enum segment_column offsets, into;
    } tables[] = {
        {PAIR_QUESTION_OFFSETS, PAIR_QUESTION}, {PAIR_ANSWER_OFFSETS, PAIR_ANSWER},
        {PAIR_SOURCE_OFFSETS, SOURCE_DOCUMENT}, {PAIR_PARENT_OFFSETS, PARENT_ID},
        {TASK_REASON_OFFSETS, TASK_REASON},     {DROP_REASON_OFFSETS, DROP_REASON},
    };
    for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
        if (check_offsets(columns, tables[i].offsets, tables[i].into, err) != 0)
            return -1;
    }
    return 0;
}

// The task rows that other rows name: in range, never down.
static int check_owners(const struct columns *columns, enum segment_column column,
                        struct error *err)
{
    const uint32_t *owners = u32_column(columns, column);
    for (size_t i = 0; i < columns->rows[column]; i++) {
        if (owners[i] >= columns->rows[TASK_ID] || (i > 0 && owners[i] < owners[i - 1]))
            return error_set(err, "row %zu of column '%s' names task row %u out of order", i,
                             segment_columns[column].name, owners[i]);
    }
    return 0;
}

static const char *copy_text(const struct columns *columns, enum segment_column text, size_t row,
                             struct arena *arena, size_t *length)
{
    const uint64_t *offsets = u64_column(columns, text + 1);
    *length = (size_t)(offsets[row + 1] - offsets[row]);
    return arena_strndup(arena, (const char *)columns->values[text] + offsets[row], *length);
}

// What the rows of pairs and tasks point into, and how far tasks have taken it.
struct tables {
    struct reflection_source *sources;
    struct digest *parents;
    struct reflection_drop *drops;
    struct reflection_usage *usage;
    size_t next_drop, next_usage;
};

// A reason is a C string in memory.
static int copy_reason(const struct columns *columns, enum segment_column text, size_t row,
                       struct arena *arena, const char **out, struct error *err)
{
    size_t bytes;
    *out = copy_text(columns, text, row, arena, &bytes);
    if (strlen(*out) != bytes)
        return error_set(err, "row %zu of column '%s' holds a NUL byte", row,
                         segment_columns[text].name);
    return 0;
}

static void build_origins(const struct columns *columns, struct arena *arena, struct tables *out)
{
    const size_t sources = columns->rows[SOURCE_DOCUMENT], parents = columns->rows[PARENT_ID];
    out->sources = arena_alloc(arena, sources * sizeof(*out->sources));
    out->parents = arena_alloc(arena, parents * sizeof(*out->parents));
    for (size_t i = 0; i < sources; i++)
        out->sources[i] =
            (struct reflection_source){.document = digest_at(columns, SOURCE_DOCUMENT, i),
                                       .begin = u64_column(columns, SOURCE_BEGIN)[i],
                                       .end = u64_column(columns, SOURCE_END)[i]};
    for (size_t i = 0; i < parents; i++)
        out->parents[i] = digest_at(columns, PARENT_ID, i);
}

static int build_tables(const struct columns *columns, struct arena *arena, struct tables *out,
                        struct error *err)
{
    const size_t drops = columns->rows[DROP_TASK], usage = columns->rows[USAGE_TASK];
    *out = (struct tables){.drops = arena_alloc(arena, drops * sizeof(*out->drops)),
                           .usage = arena_alloc(arena, usage * sizeof(*out->usage))};
    build_origins(columns, arena, out);
    for (size_t i = 0; i < drops; i++) {
        struct reflection_drop *drop = &out->drops[i];
        drop->step = (enum reflection_step)u8_column(columns, DROP_STEP)[i];
        drop->pairs = u32_column(columns, DROP_PAIRS)[i];
        if (copy_reason(columns, DROP_REASON, i, arena, &drop->reason, err) != 0)
            return -1;
    }
    for (size_t i = 0; i < usage; i++)
        out->usage[i] = (struct reflection_usage){
            .step = (enum reflection_step)u8_column(columns, USAGE_STEP)[i],
            .requests = u32_column(columns, USAGE_REQUESTS)[i],
            .prompt_tokens = u64_column(columns, USAGE_PROMPT_TOKENS)[i],
            .cached_tokens = u64_column(columns, USAGE_CACHED_TOKENS)[i],
            .output_tokens = u64_column(columns, USAGE_OUTPUT_TOKENS)[i],
        };
    return 0;
}

static void fill_pair(const struct columns *columns, const struct tables *tables, size_t row,
                      struct digest task_id, struct arena *arena, struct reflection *pair)
{
    const uint64_t *sources = u64_column(columns, PAIR_SOURCE_OFFSETS);
    const uint64_t *parents = u64_column(columns, PAIR_PARENT_OFFSETS);
    *pair = (struct reflection){
        .record_id = digest_at(columns, PAIR_RECORD_ID, row),
        .task_id = task_id,
        .step = (enum reflection_step)u8_column(columns, PAIR_STEP)[row],
        .ordinal = u32_column(columns, PAIR_ORDINAL)[row],
        .sources = tables->sources + sources[row],
        .source_count = (size_t)(sources[row + 1] - sources[row]),
        .parents = tables->parents + parents[row],
        .parent_count = (size_t)(parents[row + 1] - parents[row]),
        .seed = u64_column(columns, PAIR_SEED)[row],
        .prompt_tokens = u32_column(columns, PAIR_PROMPT_TOKENS)[row],
        .output_tokens = u32_column(columns, PAIR_OUTPUT_TOKENS)[row],
    };
    pair->question = copy_text(columns, PAIR_QUESTION, row, arena, &pair->question_bytes);
    pair->answer = copy_text(columns, PAIR_ANSWER, row, arena, &pair->answer_bytes);
}

// How many rows from `next` on belong to the task.
static size_t count_owned(const struct columns *columns, enum segment_column owner, size_t next,
                          size_t task)
{
    size_t end = next;
    while (end < columns->rows[owner] && u32_column(columns, owner)[end] == task)
        end++;
    return end - next;
}

static int fill_task(const struct columns *columns, struct tables *tables, size_t row,
                     struct arena *arena, struct reflection_task *task, struct error *err)
{
    *task = (struct reflection_task){
        .task_id = digest_at(columns, TASK_ID, row),
        .outcome = (enum task_outcome)u8_column(columns, TASK_OUTCOME)[row],
        .pairs = u32_column(columns, TASK_PAIRS)[row],
        .drops = tables->drops + tables->next_drop,
        .drop_count = count_owned(columns, DROP_TASK, tables->next_drop, row),
        .usage = tables->usage + tables->next_usage,
        .usage_count = count_owned(columns, USAGE_TASK, tables->next_usage, row),
        .seconds = ((const double *)columns->values[TASK_SECONDS])[row],
    };
    tables->next_drop += task->drop_count;
    tables->next_usage += task->usage_count;
    return copy_reason(columns, TASK_REASON, row, arena, &task->reason, err);
}

// Builds the tasks and their pairs, each task checked as it was when it was written.
static int build(const struct columns *columns, struct arena *arena, struct segment *out,
                 struct error *err)
{
    size_t pair_count = columns->rows[PAIR_RECORD_ID], task_count = columns->rows[TASK_ID];
    struct reflection *pairs = arena_alloc(arena, pair_count * sizeof(*pairs));
    struct reflection_task *tasks = arena_alloc(arena, task_count * sizeof(*tasks));
    struct tables tables;
    size_t next = 0;
    if (build_tables(columns, arena, &tables, err) != 0)
        return -1;
    for (size_t row = 0; row < task_count; row++) {
        struct reflection_task *task = &tasks[row];
        if (fill_task(columns, &tables, row, arena, task, err) != 0)
            return -1;
        if (task->pairs > pair_count - next)
            return error_set(err, "task row %zu has %u pairs, only %zu are left", row, task->pairs,
                             pair_count - next);
        for (size_t i = next; i < next + task->pairs; i++) {
            if (u32_column(columns, PAIR_TASK)[i] != row)
                return error_set(err, "pair row %zu names task row %u, it belongs to %zu", i,
                                 u32_column(columns, PAIR_TASK)[i], row);
            fill_pair(columns, &tables, i, task->task_id, arena, &pairs[i]);
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
    if (rc == 0 && (check_rows(&columns, err) != 0 || check_all_offsets(&columns, err) != 0 ||
                    check_owners(&columns, DROP_TASK, err) != 0 ||
                    check_owners(&columns, USAGE_TASK, err) != 0 ||
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
