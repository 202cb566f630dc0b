// SPDX-License-Identifier: Apache-2.0
// Segments of opaque rows behind a digest: written by fs_write_atomic after the fence, found by
// segment_names_list, and counted by the reader's rule: of several executions of a task the one of
// the earlier attempt counts, then that of the earlier name, whole; a row that only sets the task
// aside gives way to any that does not.
#include "base/hash.h"
#include "base/mem.h"
#include "coordinator/claims.h"
#include "datasets/reflections_directory.h"
#include "tests/sim/world.h"

#include <stdlib.h>
#include <string.h>

struct found_row {
    struct sim_row row;
    size_t rows;    // of this task
    size_t segment; // where the row stands
};

struct sim_reader {
    struct sim_world *world;
    struct segment_name *segments; // read so far, in no order
    size_t segment_count;
    size_t segment_capacity;
    size_t durable;          // of them, the first ones
    struct found_row *tasks; // [tasks] rows 0: none
};

int sim_store_rows(struct sim_process *process, const char *name, const struct sim_row *rows,
                   size_t count, struct error *err)
{
    const struct sim_job *job = process->job;
    struct fs *fs = &process->client.fs;
    const int over = job->claims ? claims_owner_is_over(fs, job->owner_path, err) : 0;
    if (over != 0)
        return over > 0 ? TASK_RUNNER_FENCED : -1;
    const struct digest digest = digest_bytes(rows, count * sizeof(*rows));
    const struct fs_part parts[] = {{&digest, sizeof(digest)}, {rows, count * sizeof(*rows)}};
    char *path = mem_printf("%s/%s.h5", job->attempt, name);
    const int rc = fs_write_atomic(fs, path, parts, 2, false, err);
    free(path);
    return rc;
}

struct sim_reader *sim_reader_create(struct sim_world *world)
{
    struct sim_reader *reader = mem_calloc(1, sizeof(*reader));
    reader->world = world;
    reader->tasks = mem_calloc(world->shape.tasks, sizeof(*reader->tasks));
    return reader;
}

void sim_reader_destroy(struct sim_reader *reader)
{
    if (!reader)
        return;
    for (size_t i = 0; i < reader->segment_count; i++)
        free(reader->segments[i].file);
    free(reader->segments);
    free(reader->tasks);
    free(reader);
}

static bool was_read(const struct sim_reader *reader, const struct segment_name *name)
{
    for (size_t i = reader->segment_count; i-- > 0;) {
        if (segment_name_compare(&reader->segments[i], name) == 0)
            return true;
    }
    return false;
}

static bool counts_before(const struct sim_reader *reader, const struct sim_row *row,
                          const struct segment_name *name, const struct found_row *other)
{
    const bool aside = row->execution == SIM_SET_ASIDE_ROW;
    const bool other_aside = other->row.execution == SIM_SET_ASIDE_ROW;
    if (other->rows == 0 || aside != other_aside)
        return other->rows == 0 || other_aside;
    return segment_name_compare(name, &reader->segments[other->segment]) < 0;
}

static void check_row(struct sim_world *world, const struct sim_row *row)
{
    if (row->execution == SIM_SET_ASIDE_ROW)
        return;
    if (row->execution >= world->executions || world->execution_tasks[row->execution] != row->task)
        sim_broken(world, "a row of task %u comes from no execution of it", row->task);
    if (row->record_count != 1 + row->task % SIM_MAX_RECORDS)
        sim_broken(world, "task %u has %u records", row->task, row->record_count);
    for (uint32_t i = 0; i < row->record_count; i++) {
        if (row->records[i] != row->execution)
            sim_broken(world, "records of two executions of task %u are mixed", row->task);
    }
}

static void take_rows(struct sim_reader *reader, const struct segment_name *name,
                      const struct strbuf *text)
{
    struct sim_row row;
    for (size_t at = sizeof(struct digest); at < text->length; at += sizeof(row)) {
        memcpy(&row, text->bytes + at, sizeof(row));
        struct found_row *found = &reader->tasks[row.task];
        check_row(reader->world, &row);
        if (counts_before(reader, &row, name, found)) {
            found->row = row;
            found->segment = reader->segment_count;
        }
        found->rows++;
    }
    reader->segments = mem_grow(reader->segments, &reader->segment_capacity,
                                reader->segment_count + 1, sizeof(*reader->segments));
    reader->segments[reader->segment_count++] =
        (struct segment_name){name->attempt, mem_strdup(name->file)};
}

static int read_segment(struct sim_reader *reader, struct fs *fs, const struct segment_name *name,
                        struct error *err)
{
    struct strbuf text = {0};
    struct digest digest = {0};
    char *path = segment_name_path(SIM_DIRECTORY, name);
    const int rc = fs_read(fs, path, &text, err);
    if (rc == 0 && text.length >= sizeof(digest))
        memcpy(&digest, text.bytes, sizeof(digest));
    if (rc == 0 && (text.length < sizeof(digest) ||
                    !digest_equal(digest, digest_bytes(text.bytes + sizeof(digest),
                                                       text.length - sizeof(digest)))))
        sim_broken(reader->world, "'%s' is torn", path);
    else if (rc == 0)
        take_rows(reader, name, &text);
    strbuf_release(&text);
    free(path);
    return rc;
}

static int read_new(struct sim_reader *reader, struct fs *fs, struct error *err)
{
    struct segment_names names;
    if (segment_names_list(fs, SIM_DIRECTORY, &names, err))
        return -1;
    int rc = 0;
    for (size_t i = 0; i < names.count && rc == 0; i++) {
        if (!was_read(reader, &names.names[i]))
            rc = read_segment(reader, fs, &names.names[i], err);
    }
    segment_names_release(&names);
    return rc;
}

// As reflections_index_make_durable does.
static int make_durable(struct sim_reader *reader, struct fs *fs, struct error *err)
{
    int rc = 0;
    for (; reader->durable < reader->segment_count && rc == 0; reader->durable++) {
        char *path = segment_name_path(SIM_DIRECTORY, &reader->segments[reader->durable]);
        *strrchr(path, '/') = '\0';
        rc = fs->ops->sync_directory(fs->state, path);
        free(path);
    }
    return rc ? error_set_errno(err, -rc, "cannot sync an attempt") : 0;
}

int sim_reader_refresh(struct sim_reader *reader, struct fs *fs, struct error *err)
{
    if (read_new(reader, fs, err) || make_durable(reader, fs, err))
        return -1;
    for (uint32_t t = 0; t < reader->world->shape.tasks; t++) {
        if (reader->tasks[t].rows > 0)
            reader->world->acknowledged[t] = true;
    }
    return 0;
}

const struct sim_row *sim_reader_find(const struct sim_reader *reader, uint32_t task)
{
    return reader->tasks[task].rows > 0 ? &reader->tasks[task].row : NULL;
}

size_t sim_reader_rows(const struct sim_reader *reader, uint32_t task)
{
    return reader->tasks[task].rows;
}

struct sim_reader *sim_read_disk(struct sim_world *world)
{
    struct sim_client observer = {.disk = world->disk};
    struct sim_reader *reader = sim_reader_create(world);
    struct error err;
    sim_client_init(&observer);
    if (sim_disk_files(world->disk) > 0 && sim_reader_refresh(reader, &observer.fs, &err))
        sim_broken(world, "the disk cannot be read: %s", err.text);
    return reader;
}
