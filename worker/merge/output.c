// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/output.h"

#include "base/mem.h"
#include "worker/merge/weights.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FILE_NAME "model.safetensors"
#define IDENTITY_NAME "merge.id"
#define RECORD_PREFIX "done-"
#define BUFFERS 2

struct record {
    uint64_t tensor;
    struct digest digest;
    double change;
    uint64_t check;
};
_Static_assert(sizeof(struct record) == 40, "a record is 40 bytes on disk");

struct work {
    void *buffer; // NULL: the end of a tensor
    size_t tensor;
    uint64_t offset; // of the tensor
    size_t bytes;
    double change;
};

struct merge_output {
    struct fs *fs;
    char *path; // of the model's file, for messages
    const struct safetensors_entry *entries;
    size_t count;
    uint64_t *begins;     // [count] in the file
    struct record *found; // [count]; check 0: none
    struct fs_map map;    // of what stood there
    int file, direct, records;
    bool file_open, direct_open, records_open;
    uint64_t records_end;
    pthread_t thread;
    bool started;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    char *buffers[BUFFERS];
    bool taken[BUFFERS];
    struct work queue[BUFFERS + 1]; // tiles and ends of tensors, in order
    size_t queued;
    bool writing, stopping;
    struct digest_builder digest;
    struct error problem; // the thread's first
};

static uint64_t record_check(const struct record *record)
{
    const struct digest digest = digest_bytes(record, offsetof(struct record, check));
    uint64_t check;
    memcpy(&check, digest.bytes, sizeof(check));
    return check | 1; // never 0
}

static int remove_file(struct fs *fs, const char *directory, const char *name)
{
    char *path = fs_join(directory, name);
    const int rc = fs->ops->remove(fs->state, path);
    free(path);
    return rc == -ENOENT ? 0 : rc;
}

static int remove_records(struct fs *fs, const char *directory, struct error *err)
{
    struct fs_names names;
    int rc = 0;
    if (fs_list(fs, directory, &names, err))
        return -1;
    for (size_t i = 0; i < names.count && rc == 0; i++) {
        if (strncmp(names.names[i], RECORD_PREFIX, strlen(RECORD_PREFIX)) == 0)
            rc = remove_file(fs, directory, names.names[i]);
        if (rc != 0)
            error_set_errno(err, -rc, "cannot remove '%s/%s'", directory, names.names[i]);
    }
    fs_names_release(&names);
    return rc ? -1 : 0;
}

static bool is_ours(struct fs *fs, const char *directory, const char *identity)
{
    struct strbuf text = {0};
    char *path = fs_join(directory, IDENTITY_NAME);
    const bool same = fs_exists(fs, path) && fs_read(fs, path, &text, NULL) == 0 &&
                      text.length == strlen(identity) &&
                      memcmp(text.bytes, identity, text.length) == 0;
    free(path);
    strbuf_release(&text);
    return same;
}

static int write_header(struct fs *fs, const char *directory,
                        const struct safetensors_entry *entries, size_t count, struct error *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    struct strbuf header = {0};
    uint64_t data_bytes;
    int handle;
    char *path = fs_join(directory, FILE_NAME);
    int rc = safetensors_build_header(path, entries, count, metadata, &header, &data_bytes, err);
    if (rc == 0) {
        rc = fs->ops->create(fs->state, path, false, &handle);
        if (rc == 0) {
            rc = fs->ops->write(fs->state, handle, header.bytes, header.length);
            const int closed = fs->ops->close(fs->state, handle);
            rc = rc ? rc : closed;
        }
        if (rc != 0)
            error_set_errno(err, -rc, "cannot write '%s'", path);
    }
    free(path);
    strbuf_release(&header);
    return rc ? -1 : 0;
}

static int begin_again(struct fs *fs, const char *directory,
                       const struct safetensors_entry *entries, size_t count, const char *identity,
                       struct error *err)
{
    char *path = fs_join(directory, IDENTITY_NAME);
    const int rc = remove_file(fs, directory, IDENTITY_NAME) ||
                           remove_records(fs, directory, err) ||
                           write_header(fs, directory, entries, count, err) ||
                           fs_write_text(fs, path, identity, strlen(identity), err)
                       ? -1
                       : 0;
    free(path);
    return rc;
}

int merge_output_prepare(struct fs *fs, const char *directory,
                         const struct safetensors_entry *entries, size_t count,
                         struct digest identity, struct error *err)
{
    char text[DIGEST_TEXT_BYTES];
    digest_format(identity, text);
    if (fs_make_directories(fs, directory, err))
        return -1;
    return is_ours(fs, directory, text) ? 0 : begin_again(fs, directory, entries, count, text, err);
}

static void read_records(struct merge_output *output, const struct strbuf *text)
{
    for (size_t at = 0; at + sizeof(struct record) <= text->length; at += sizeof(struct record)) {
        struct record record;
        memcpy(&record, text->bytes + at, sizeof(record));
        if (record.check == record_check(&record) && record.tensor < output->count)
            output->found[record.tensor] = record;
    }
}

// The records of every rank; *own_bytes is how many bytes this rank's file has.
static int read_all_records(struct merge_output *output, const char *directory, const char *own,
                            uint64_t *own_bytes, struct error *err)
{
    struct fs_names names;
    int rc = fs_list(output->fs, directory, &names, err);
    *own_bytes = 0;
    for (size_t i = 0; rc == 0 && i < names.count; i++) {
        struct strbuf text = {0};
        if (strncmp(names.names[i], RECORD_PREFIX, strlen(RECORD_PREFIX)) != 0)
            continue;
        char *path = fs_join(directory, names.names[i]);
        rc = fs_read(output->fs, path, &text, err);
        if (rc == 0)
            read_records(output, &text);
        if (strcmp(names.names[i], own) == 0)
            *own_bytes = text.length;
        strbuf_release(&text);
        free(path);
    }
    if (rc == 0)
        fs_names_release(&names);
    return rc;
}

static int open_records(struct merge_output *output, const char *directory, int rank,
                        struct error *err)
{
    char *name = mem_printf(RECORD_PREFIX "%05d", rank);
    char *path = fs_join(directory, name);
    uint64_t bytes;
    int rc = read_all_records(output, directory, name, &bytes, err);
    if (rc == 0) {
        const uint64_t record = sizeof(struct record); // a torn record is written over
        output->records_end = bytes / record * record;
        rc = output->fs->ops->open_update(output->fs->state, path, &output->records);
        output->records_open = rc == 0;
        if (rc != 0)
            rc = error_set_errno(err, -rc, "cannot open '%s'", path);
    }
    free(name);
    free(path);
    return rc;
}

static int open_file(struct merge_output *output, const char *directory, struct error *err)
{
    char *path = fs_join(directory, FILE_NAME);
    struct strbuf header = {0};
    static const char *const metadata[] = {"format", "pt", NULL};
    uint64_t data_bytes, at;
    int rc = safetensors_build_header(path, output->entries, output->count, metadata, &header,
                                      &data_bytes, err) ||
                     fs_map_open(path, &output->map, err)
                 ? -1
                 : 0;
    if (rc == 0) {
        rc = output->fs->ops->open_update(output->fs->state, path, &output->file);
        output->file_open = rc == 0;
        if (rc != 0)
            rc = error_set_errno(err, -rc, "cannot open '%s'", path);
    }
    if (rc == 0) // otherwise all goes through the page cache
        output->direct_open =
            output->fs->ops->open_direct(output->fs->state, path, &output->direct) == 0;
    at = header.length;
    for (size_t i = 0; i < output->count; i++) {
        output->begins[i] = at;
        at += output->entries[i].bytes;
    }
    free(path);
    strbuf_release(&header);
    return rc;
}

bool merge_output_has(struct merge_output *output, size_t tensor, double *change)
{
    const struct record *record = &output->found[tensor];
    const uint64_t begin = output->begins[tensor], bytes = output->entries[tensor].bytes;
    if (record->check == 0 || begin + bytes > output->map.length)
        return false;
    *change = record->change;
    const struct digest digest = digest_bytes(output->map.bytes + begin, bytes);
    weights_release(output->map.bytes + begin, bytes);
    return digest_equal(digest, record->digest);
}

static int write_record(struct merge_output *output, const struct work *work)
{
    struct record record = {.tensor = work->tensor, .change = work->change};
    record.digest = digest_end(&output->digest);
    output->digest = (struct digest_builder){0};
    record.check = record_check(&record);
    const int rc = output->fs->ops->write_at(output->fs->state, output->records,
                                             output->records_end, &record, sizeof(record));
    output->records_end += sizeof(record);
    return rc;
}

static bool can_go_past_cache(const struct merge_output *output, size_t tensor)
{
    return output->direct_open &&
           output->begins[tensor] % safetensors_dtype_bytes(output->entries[tensor].dtype) == 0;
}

// Whole pages go past the page cache, in which a merge larger than memory would push out its own
// inputs; what lies on pages that tensors share goes through it.
static int write_tile(struct merge_output *output, uint64_t offset, const char *bytes,
                      size_t length)
{
    const struct fs_ops *ops = output->fs->ops;
    const size_t misplaced = (uintptr_t)bytes % FS_DIRECT_BYTES;
    size_t head = misplaced > 0 ? FS_DIRECT_BYTES - misplaced : 0;
    if (!output->direct_open || offset % FS_DIRECT_BYTES != misplaced || head > length)
        head = length;
    const size_t body = (length - head) / FS_DIRECT_BYTES * FS_DIRECT_BYTES;
    const size_t tail = length - head - body;
    int rc = 0;
    if (head > 0)
        rc = ops->write_at(output->fs->state, output->file, offset, bytes, head);
    if (rc == 0 && body > 0)
        rc = ops->write_at(output->fs->state, output->direct, offset + head, bytes + head, body);
    if (rc == 0 && tail > 0)
        rc = ops->write_at(output->fs->state, output->file, offset + head + body,
                           bytes + head + body, tail);
    return rc;
}

static int perform(struct merge_output *output, const struct work *work)
{
    if (!output->digest.state)
        digest_begin(&output->digest);
    if (!work->buffer)
        return write_record(output, work);
    digest_update(&output->digest, work->buffer, work->bytes);
    return write_tile(output, output->begins[work->tensor] + work->offset, work->buffer,
                      work->bytes);
}

// Its memory begins where work's bytes begin, or less than a page before.
static int buffer_of(const struct merge_output *output, const char *bytes)
{
    int b = 0;
    while (bytes < output->buffers[b] || bytes >= output->buffers[b] + FS_DIRECT_BYTES)
        b++;
    return b;
}

// After a failure nothing more is written; buffers are still given back.
static void *write_behind(void *argument)
{
    struct merge_output *output = argument;
    bool failed = false;
    pthread_mutex_lock(&output->mutex);
    for (;;) {
        while (output->queued == 0 && !output->stopping)
            pthread_cond_wait(&output->changed, &output->mutex);
        if (output->queued == 0)
            break;
        const struct work work = output->queue[0];
        output->queued--;
        memmove(output->queue, output->queue + 1, output->queued * sizeof(work));
        output->writing = true;
        pthread_cond_broadcast(&output->changed);
        pthread_mutex_unlock(&output->mutex);
        const int rc = failed ? 0 : perform(output, &work);
        pthread_mutex_lock(&output->mutex);
        output->writing = false;
        if (rc != 0 && !failed) {
            error_set_errno(&output->problem, -rc, "cannot write '%s' (tensor '%s')", output->path,
                            output->entries[work.tensor].name);
            failed = true;
        }
        if (work.buffer)
            output->taken[buffer_of(output, work.buffer)] = false;
        pthread_cond_broadcast(&output->changed);
    }
    pthread_mutex_unlock(&output->mutex);
    return NULL;
}

static int enqueue(struct merge_output *output, const struct work *work, struct error *err)
{
    pthread_mutex_lock(&output->mutex);
    while (output->queued == BUFFERS + 1)
        pthread_cond_wait(&output->changed, &output->mutex);
    output->queue[output->queued++] = *work;
    const bool failed = output->problem.text[0] != '\0';
    if (failed && err)
        *err = output->problem;
    pthread_cond_broadcast(&output->changed);
    pthread_mutex_unlock(&output->mutex);
    return failed ? -1 : 0;
}

void *merge_output_buffer(struct merge_output *output, size_t tensor, uint64_t offset)
{
    const uint64_t place = output->begins[tensor] + offset;
    int b = 0;
    pthread_mutex_lock(&output->mutex);
    for (;; pthread_cond_wait(&output->changed, &output->mutex)) {
        for (b = 0; b < BUFFERS && output->taken[b];)
            b++;
        if (b < BUFFERS)
            break;
    }
    output->taken[b] = true;
    pthread_mutex_unlock(&output->mutex);
    return output->buffers[b] + (can_go_past_cache(output, tensor) ? place % FS_DIRECT_BYTES : 0);
}

int merge_output_submit(struct merge_output *output, size_t tensor, uint64_t offset, void *buffer,
                        size_t bytes, struct error *err)
{
    const struct work work = {buffer, tensor, offset, bytes, 0};
    return enqueue(output, &work, err);
}

int merge_output_end(struct merge_output *output, size_t tensor, double change, struct error *err)
{
    const struct work work = {NULL, tensor, 0, 0, change};
    return enqueue(output, &work, err);
}

static int drain(struct merge_output *output, struct error *err)
{
    pthread_mutex_lock(&output->mutex);
    while (output->queued > 0 || output->writing)
        pthread_cond_wait(&output->changed, &output->mutex);
    const bool failed = output->problem.text[0] != '\0';
    if (failed && err)
        *err = output->problem;
    pthread_mutex_unlock(&output->mutex);
    return failed ? -1 : 0;
}

int merge_output_sync(struct merge_output *output, struct error *err)
{
    if (drain(output, err))
        return -1;
    const int rc = output->fs->ops->sync(output->fs->state, output->file);
    return rc ? error_set_errno(err, -rc, "cannot write '%s'", output->path) : 0;
}

int merge_output_open(struct fs *fs, const char *directory, const struct safetensors_entry *entries,
                      size_t count, int rank, size_t tile_bytes, struct merge_output **out,
                      struct error *err)
{
    struct merge_output *output = mem_calloc(1, sizeof(*output));
    output->fs = fs;
    output->path = fs_join(directory, FILE_NAME);
    output->entries = entries;
    output->count = count;
    output->begins = mem_calloc(count + 1, sizeof(*output->begins));
    output->found = mem_calloc(count + 1, sizeof(*output->found));
    pthread_mutex_init(&output->mutex, NULL);
    pthread_cond_init(&output->changed, NULL);
    for (int b = 0; b < BUFFERS; b++)
        output->buffers[b] = mem_alloc_aligned(FS_DIRECT_BYTES, tile_bytes + FS_DIRECT_BYTES);
    int rc =
        open_file(output, directory, err) || open_records(output, directory, rank, err) ? -1 : 0;
    if (rc == 0) {
        rc = pthread_create(&output->thread, NULL, write_behind, output);
        output->started = rc == 0;
        if (rc != 0)
            rc = error_set_errno(err, rc, "cannot start the writing thread");
    }
    if (rc != 0) {
        merge_output_destroy(output);
        output = NULL;
    }
    *out = output;
    return rc;
}

void merge_output_destroy(struct merge_output *output)
{
    if (!output)
        return;
    if (output->started) {
        pthread_mutex_lock(&output->mutex);
        output->stopping = true;
        pthread_cond_broadcast(&output->changed);
        pthread_mutex_unlock(&output->mutex);
        pthread_join(output->thread, NULL);
    }
    if (output->digest.state)
        (void)digest_end(&output->digest);
    if (output->file_open)
        output->fs->ops->close(output->fs->state, output->file);
    if (output->direct_open)
        output->fs->ops->close(output->fs->state, output->direct);
    if (output->records_open)
        output->fs->ops->close(output->fs->state, output->records);
    fs_map_close(&output->map);
    pthread_mutex_destroy(&output->mutex);
    pthread_cond_destroy(&output->changed);
    for (int b = 0; b < BUFFERS; b++)
        free(output->buffers[b]);
    free(output->path);
    free(output->begins);
    free(output->found);
    free(output);
}

int merge_output_finish(struct fs *fs, const char *directory, struct error *err)
{
    const int rc = remove_file(fs, directory, IDENTITY_NAME);
    if (rc != 0)
        return error_set_errno(err, -rc, "cannot remove '%s/" IDENTITY_NAME "'", directory);
    return remove_records(fs, directory, err);
}
