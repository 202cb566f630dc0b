// SPDX-License-Identifier: Apache-2.0
// Writing safetensors as a stream: the header is known when the shapes are, so no tensor is ever
// held whole. The header is padded with spaces to a multiple of 8 bytes, as the format recommends.
// Until finish the bytes stand under a temporary name, so that a crash leaves no half-written
// model.
#include "datasets/safetensors.h"

#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct safetensors_writer {
    struct fs *fs;
    char *path;
    char *temporary;
    int handle;
    bool open;
    bool created; // the temporary file stands
    uint64_t data_bytes;
    uint64_t written_bytes;
};

static int compare_entries(const void *a, const void *b)
{
    const struct safetensors_entry *const *x = a, *const *y = b;
    return strcmp((*x)->name, (*y)->name);
}

static int check_names(const char *path, const struct safetensors_entry *entries, size_t count,
                       struct error *err)
{
    if (count == 0)
        return 0;
    const struct safetensors_entry **sorted = mem_calloc(count, sizeof(*sorted));
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++) {
        size_t length = strlen(entries[i].name);
        sorted[i] = &entries[i];
        if (utf8_valid_prefix(entries[i].name, length) != length ||
            strcmp(entries[i].name, "__metadata__") == 0)
            rc = error_set(err, "'%s': '%s' cannot be the name of a tensor", path, entries[i].name);
    }
    if (rc == 0)
        qsort(sorted, count, sizeof(*sorted), compare_entries);
    for (size_t i = 1; i < count && rc == 0; i++) {
        if (strcmp(sorted[i - 1]->name, sorted[i]->name) == 0)
            rc = error_set(err, "'%s': two tensors have the name '%s'", path, sorted[i]->name);
    }
    free(sorted);
    return rc;
}

static int entry_bytes(const struct safetensors_entry *entry, uint64_t *out)
{
    *out = safetensors_dtype_bytes(entry->dtype);
    for (int i = 0; i < entry->rank; i++) {
        if (__builtin_mul_overflow(*out, entry->shape[i], out))
            return -1;
    }
    return 0;
}

static void add_metadata(struct json_writer *w, const char *const *metadata)
{
    json_key(w, "__metadata__");
    json_begin_object(w);
    for (size_t i = 0; metadata[i]; i += 2) {
        json_key(w, metadata[i]);
        json_text(w, metadata[i + 1]);
    }
    json_end_object(w);
}

// Appends the JSON header, padded; sets how many bytes of data it declares.
static int build_json(const char *path, const struct safetensors_entry *entries, size_t count,
                      const char *const *metadata, struct strbuf *header, uint64_t *data_bytes,
                      struct error *err)
{
    struct json_writer w = {.out = header};
    uint64_t begin = 0;
    json_begin_object(&w);
    if (metadata && metadata[0])
        add_metadata(&w, metadata);
    for (size_t i = 0; i < count; i++) {
        const struct safetensors_entry *entry = &entries[i];
        uint64_t bytes, end;
        if (entry_bytes(entry, &bytes) != 0 || __builtin_add_overflow(begin, bytes, &end) ||
            end > INT64_MAX)
            return error_set(err, "'%s': the size of tensor '%s' overflows", path, entry->name);
        json_key(&w, entry->name);
        json_begin_object(&w);
        json_key(&w, "dtype");
        json_text(&w, safetensors_dtype_name(entry->dtype));
        json_key(&w, "shape");
        json_begin_array(&w);
        for (int d = 0; d < entry->rank; d++)
            json_int(&w, (int64_t)entry->shape[d]);
        json_end_array(&w);
        json_key(&w, "data_offsets");
        json_begin_array(&w);
        json_int(&w, (int64_t)begin);
        json_int(&w, (int64_t)end);
        json_end_array(&w);
        json_end_object(&w);
        begin = end;
    }
    json_end_object(&w);
    while (header->length % 8 != 0)
        strbuf_addc(header, ' ');
    *data_bytes = begin;
    return 0;
}

static int write_bytes(struct safetensors_writer *writer, const void *bytes, size_t length,
                       struct error *err)
{
    int rc = writer->fs->ops->write(writer->fs->state, writer->handle, bytes, length);
    if (rc != 0)
        return error_set_errno(err, -rc, "cannot write '%s'", writer->path);
    return 0;
}

int safetensors_build_header(const char *path, const struct safetensors_entry *entries,
                             size_t count, const char *const *metadata, struct strbuf *out,
                             uint64_t *data_bytes, struct error *err)
{
    struct strbuf json = {0};
    int rc = check_names(path, entries, count, err);
    if (rc == 0)
        rc = build_json(path, entries, count, metadata, &json, data_bytes, err);
    for (int i = 0; rc == 0 && i < 8; i++)
        strbuf_addc(out, (char)((uint64_t)json.length >> (8 * i)));
    if (rc == 0)
        strbuf_add(out, json.bytes, json.length);
    strbuf_release(&json);
    return rc;
}

static int write_header(struct safetensors_writer *writer, const struct strbuf *header,
                        struct error *err)
{
    int rc = writer->fs->ops->create(writer->fs->state, writer->temporary, false, &writer->handle);
    if (rc != 0)
        return error_set_errno(err, -rc, "cannot create '%s'", writer->temporary);
    writer->open = writer->created = true;
    return write_bytes(writer, header->bytes, header->length, err);
}

int safetensors_writer_create(struct fs *fs, const char *path,
                              const struct safetensors_entry *entries, size_t count,
                              const char *const *metadata, struct safetensors_writer **out,
                              struct error *err)
{
    struct strbuf header = {0};
    struct safetensors_writer *writer = mem_calloc(1, sizeof(*writer));
    writer->fs = fs;
    writer->path = mem_strdup(path);
    writer->temporary = mem_printf("%s.tmp-%ld", path, (long)getpid());
    int rc =
        safetensors_build_header(path, entries, count, metadata, &header, &writer->data_bytes, err);
    if (rc == 0)
        rc = write_header(writer, &header, err);
    strbuf_release(&header);
    if (rc != 0) {
        safetensors_writer_destroy(writer);
        writer = NULL;
    }
    *out = writer;
    return rc;
}

int safetensors_writer_write(struct safetensors_writer *writer, const void *bytes, size_t length,
                             struct error *err)
{
    if (length > writer->data_bytes - writer->written_bytes)
        return error_set(err, "'%s': more tensor data than the %llu bytes declared", writer->path,
                         (unsigned long long)writer->data_bytes);
    if (write_bytes(writer, bytes, length, err) != 0)
        return -1;
    writer->written_bytes += length;
    return 0;
}

static char *directory_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return mem_strdup(".");
    return mem_printf("%.*s", slash == path ? 1 : (int)(slash - path), path);
}

int safetensors_writer_finish(struct safetensors_writer *writer, struct error *err)
{
    const struct fs_ops *ops = writer->fs->ops;
    void *state = writer->fs->state;
    if (writer->written_bytes != writer->data_bytes)
        return error_set(err, "'%s': %llu of %llu bytes of tensor data were written", writer->path,
                         (unsigned long long)writer->written_bytes,
                         (unsigned long long)writer->data_bytes);
    int rc = ops->sync(state, writer->handle);
    if (rc == 0) {
        writer->open = false;
        rc = ops->close(state, writer->handle);
    }
    if (rc == 0)
        rc = ops->rename(state, writer->temporary, writer->path, true);
    if (rc == 0) {
        writer->created = false;
        char *directory = directory_of(writer->path);
        rc = ops->sync_directory(state, directory);
        free(directory);
    }
    if (rc != 0)
        return error_set_errno(err, -rc, "cannot write '%s'", writer->path);
    return 0;
}

void safetensors_writer_destroy(struct safetensors_writer *writer)
{
    if (!writer)
        return;
    if (writer->open)
        writer->fs->ops->close(writer->fs->state, writer->handle);
    if (writer->created)
        writer->fs->ops->remove(writer->fs->state, writer->temporary);
    free(writer->temporary);
    free(writer->path);
    free(writer);
}
