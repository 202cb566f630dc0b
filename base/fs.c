// SPDX-License-Identifier: Apache-2.0
// What is built from the operations of the table. An atomic write leaves, at every moment and after
// every failure, either the old content under the final name or the whole new one:
//   create "<path>.tmp-<pid>-<counter>" exclusively, write, sync, close, rename, sync the
//   directory.
#include "base/fs.h"

#include "base/mem.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEMPORARY_NAME_ATTEMPTS 1000 // names left by killed processes, or taken by other machines

// Creates the temporary file; *path belongs to the caller. The name alone is unique only within
// this machine, exclusive creation makes it so on a shared file system too.
static int create_temporary(struct fs *fs, const char *final, char **path, int *handle)
{
    static atomic_uint counter;
    int rc = -EEXIST;
    *path = NULL;
    for (int attempt = 0; rc == -EEXIST && attempt < TEMPORARY_NAME_ATTEMPTS; attempt++) {
        free(*path);
        *path = mem_printf("%s.tmp-%ld-%u", final, (long)getpid(), atomic_fetch_add(&counter, 1));
        rc = fs->ops->create(fs->state, *path, true, handle);
    }
    return rc;
}

static int write_parts(struct fs *fs, int handle, const struct fs_part *parts, size_t count)
{
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = fs->ops->write(fs->state, handle, parts[i].bytes, parts[i].length);
    if (rc == 0)
        rc = fs->ops->sync(fs->state, handle);
    int close_rc = fs->ops->close(fs->state, handle);
    return rc ? rc : close_rc;
}

static char *parent_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return mem_strdup(".");
    size_t length = slash == path ? 1 : (size_t)(slash - path);
    char *parent = mem_alloc(length + 1);
    memcpy(parent, path, length);
    parent[length] = '\0';
    return parent;
}

// Renames and makes the new name durable. When only the directory's sync fails, a name that is new
// is taken away again; replaced content cannot be brought back, the new content stays.
static int commit(struct fs *fs, const char *temporary, const char *path, bool replace)
{
    struct fs_info info;
    int rc = replace ? fs->ops->stat(fs->state, path, &info) : -ENOENT;
    bool existed = rc == 0;
    if (!existed && rc != -ENOENT)
        return rc;
    rc = fs->ops->rename(fs->state, temporary, path, replace);
    if (rc)
        return rc;
    char *parent = parent_directory(path);
    rc = fs->ops->sync_directory(fs->state, parent);
    free(parent);
    if (rc && !existed)
        fs->ops->remove(fs->state, path);
    return rc;
}

int fs_write_atomic(struct fs *fs, const char *path, const struct fs_part *parts, size_t count,
                    bool replace, struct error *err)
{
    char *temporary;
    int handle;
    int rc = create_temporary(fs, path, &temporary, &handle);
    if (rc == 0) {
        rc = write_parts(fs, handle, parts, count);
        if (rc == 0)
            rc = commit(fs, temporary, path, replace);
        if (rc)
            fs->ops->remove(fs->state, temporary);
    }
    free(temporary);
    return rc ? error_set_errno(err, -rc, "cannot write '%s'", path) : 0;
}

int fs_write_text(struct fs *fs, const char *path, const char *text, size_t length,
                  struct error *err)
{
    struct fs_part part = {text, length};
    return fs_write_atomic(fs, path, &part, 1, true, err);
}

int fs_read(struct fs *fs, const char *path, struct strbuf *out, struct error *err)
{
    int rc = fs->ops->read(fs->state, path, out);
    return rc ? error_set_errno(err, -rc, "cannot read '%s'", path) : 0;
}

bool fs_exists(struct fs *fs, const char *path)
{
    struct fs_info info;
    return fs->ops->stat(fs->state, path, &info) == 0;
}

// A new directory is durable when its parent is synced: what is put into it later counts on that.
static int make_directory(struct fs *fs, const char *path, struct error *err)
{
    int rc = fs->ops->make_directory(fs->state, path);
    struct fs_info info;
    if (rc == 0) {
        char *parent = parent_directory(path);
        rc = fs->ops->sync_directory(fs->state, parent);
        free(parent);
    }
    if (rc == -EEXIST && fs->ops->stat(fs->state, path, &info) == 0)
        rc = info.is_directory ? 0 : -ENOTDIR;
    return rc ? error_set_errno(err, -rc, "cannot make the directory '%s'", path) : 0;
}

int fs_make_directories(struct fs *fs, const char *path, struct error *err)
{
    char *partial = mem_strdup(path);
    int rc = 0;
    for (char *at = partial; *at && rc == 0; at++) {
        if (*at != '/' || at == partial || at[-1] == '/')
            continue;
        *at = '\0';
        rc = make_directory(fs, partial, err);
        *at = '/';
    }
    size_t length = strlen(partial);
    if (rc == 0 && (length == 0 || partial[length - 1] != '/'))
        rc = make_directory(fs, partial, err);
    free(partial);
    return rc;
}

struct name_collector {
    struct fs_names *names;
    size_t capacity;
};

static int collect_name(void *context, const char *name)
{
    struct name_collector *collector = context;
    struct fs_names *names = collector->names;
    names->names = mem_grow(names->names, &collector->capacity, names->count + 1, sizeof(char *));
    names->names[names->count++] = mem_strdup(name);
    return 0;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int fs_list(struct fs *fs, const char *path, struct fs_names *out, struct error *err)
{
    *out = (struct fs_names){0};
    struct name_collector collector = {.names = out};
    int rc = fs->ops->list(fs->state, path, collect_name, &collector);
    if (rc) {
        fs_names_release(out);
        return error_set_errno(err, -rc, "cannot list '%s'", path);
    }
    if (out->count > 0)
        qsort(out->names, out->count, sizeof(char *), compare_names);
    return 0;
}

void fs_names_release(struct fs_names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->names[i]);
    free(names->names);
    *names = (struct fs_names){0};
}

char *fs_join(const char *directory, const char *name)
{
    size_t length = strlen(directory);
    bool needs_slash = length > 0 && directory[length - 1] != '/';
    return mem_printf("%s%s%s", directory, needs_slash ? "/" : "", name);
}
