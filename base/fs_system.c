// SPDX-License-Identifier: Apache-2.0
// The operating system's files as an fs table. A handle is a file descriptor.
#include "base/fs.h"

#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int system_create(void *state, const char *path, bool exclusive, int *handle)
{
    (void)state;
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | (exclusive ? O_EXCL : O_TRUNC), 0666);
    if (fd < 0)
        return -errno;
    *handle = fd;
    return 0;
}

static int system_write(void *state, int handle, const void *bytes, size_t length)
{
    (void)state;
    const char *at = bytes;
    while (length > 0) {
        ssize_t written = write(handle, at, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        at += written;
        length -= (size_t)written;
    }
    return 0;
}

static int open_to_update(const char *path, int flags, int *handle)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0666);
    if (fd < 0)
        return -errno;
    *handle = fd;
    return 0;
}

static int system_open_update(void *state, const char *path, int *handle)
{
    (void)state;
    return open_to_update(path, 0, handle);
}

static int system_open_direct(void *state, const char *path, int *handle)
{
    (void)state;
    return open_to_update(path, O_DIRECT, handle);
}

static int system_write_at(void *state, int handle, uint64_t offset, const void *bytes,
                           size_t length)
{
    (void)state;
    const char *at = bytes;
    while (length > 0) {
        ssize_t written = pwrite(handle, at, length, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -errno;
        at += written;
        offset += (uint64_t)written;
        length -= (size_t)written;
    }
    return 0;
}

static int system_sync(void *state, int handle)
{
    (void)state;
    return fsync(handle) ? -errno : 0;
}

// Network file systems report delayed write errors here. After EINTR Linux has closed the
// descriptor.
static int system_close(void *state, int handle)
{
    (void)state;
    return close(handle) && errno != EINTR ? -errno : 0;
}

// For file systems without RENAME_NOREPLACE (NFS, Lustre): link(2) fails when `to` exists. NFS may
// repeat a request whose answer was lost and then report EEXIST for our own link, so the error
// counts only when `to` is another file than `from`.
static int rename_by_link(const char *from, const char *to)
{
    if (link(from, to)) {
        int link_errno = errno;
        struct stat from_stat, to_stat;
        if (link_errno != EEXIST || stat(from, &from_stat) || stat(to, &to_stat) ||
            from_stat.st_ino != to_stat.st_ino || from_stat.st_dev != to_stat.st_dev)
            return -link_errno;
    }
    return unlink(from) ? -errno : 0;
}

static int system_rename(void *state, const char *from, const char *to, bool replace)
{
    (void)state;
    if (replace)
        return rename(from, to) ? -errno : 0;
    if (!renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE))
        return 0;
    if (errno != EINVAL && errno != ENOSYS && errno != EOPNOTSUPP)
        return -errno;
    return rename_by_link(from, to);
}

static int system_sync_directory(void *state, const char *path)
{
    (void)state;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    int rc = fsync(fd) ? -errno : 0;
    close(fd);
    return rc == -EINVAL ? 0 : rc; // a file system that cannot sync directories
}

static int system_remove(void *state, const char *path)
{
    (void)state;
    return remove(path) ? -errno : 0;
}

static int system_make_directory(void *state, const char *path)
{
    (void)state;
    return mkdir(path, 0777) ? -errno : 0;
}

static int read_to_end(int fd, size_t expected_bytes, struct strbuf *out)
{
    strbuf_reserve(out, expected_bytes + 1); // one more, so that the end is seen without growing
    for (;;) {
        strbuf_reserve(out, 1);
        ssize_t got = read(fd, out->bytes + out->length, out->capacity - out->length - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            return 0;
        out->length += (size_t)got;
        out->bytes[out->length] = '\0';
    }
}

static int system_read(void *state, const char *path, struct strbuf *out)
{
    (void)state;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    struct stat info;
    size_t length_before = out->length;
    int rc = fstat(fd, &info) ? -errno : read_to_end(fd, (size_t)info.st_size, out);
    if (rc && out->bytes) {
        out->length = length_before;
        out->bytes[length_before] = '\0';
    }
    close(fd);
    return rc;
}

static int system_stat(void *state, const char *path, struct fs_info *out)
{
    (void)state;
    struct stat info;
    if (stat(path, &info))
        return -errno;
    out->size_bytes = (uint64_t)info.st_size;
    out->modified_ns = (int64_t)info.st_mtim.tv_sec * 1000000000 + info.st_mtim.tv_nsec;
    out->is_directory = S_ISDIR(info.st_mode);
    out->is_special = !S_ISDIR(info.st_mode) && !S_ISREG(info.st_mode);
    return 0;
}

static int system_list(void *state, const char *path, int (*visit)(void *context, const char *name),
                       void *context)
{
    (void)state;
    DIR *directory = opendir(path);
    if (!directory)
        return -errno;
    int rc = 0;
    for (;;) {
        errno = 0;
        struct dirent *entry = readdir(directory);
        if (!entry) {
            rc = -errno;
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (visit(context, entry->d_name))
            break;
    }
    closedir(directory);
    return rc;
}

static const struct fs_ops system_ops = {
    .create = system_create,
    .write = system_write,
    .open_update = system_open_update,
    .open_direct = system_open_direct,
    .write_at = system_write_at,
    .sync = system_sync,
    .close = system_close,
    .rename = system_rename,
    .sync_directory = system_sync_directory,
    .remove = system_remove,
    .make_directory = system_make_directory,
    .read = system_read,
    .stat = system_stat,
    .list = system_list,
};

static struct fs plain_system = {.ops = &system_ops};
static struct fs_fault system_fault = {.inner = &plain_system};
static struct fs chosen_system;

// Of chosen_system, when the process is killed where a write finds no space left.
static struct fs_ops killing_ops;
static int (*limited_write)(void *, int, const void *, size_t);
static int (*limited_write_at)(void *, int, uint64_t, const void *, size_t);

static int or_die(int rc)
{
    if (rc == -ENOSPC)
        raise(SIGKILL);
    return rc;
}

static int killing_write(void *state, int handle, const void *bytes, size_t length)
{
    return or_die(limited_write(state, handle, bytes, length));
}

static int killing_write_at(void *state, int handle, uint64_t offset, const void *bytes,
                            size_t length)
{
    return or_die(limited_write_at(state, handle, offset, bytes, length));
}

static void kill_when_full(struct fs *fs)
{
    killing_ops = *fs->ops;
    limited_write = fs->ops->write;
    limited_write_at = fs->ops->write_at;
    killing_ops.write = killing_write;
    killing_ops.write_at = killing_write_at;
    fs->ops = &killing_ops;
}

static void choose_system(void)
{
    chosen_system = plain_system;
    const char *fault = getenv("MEMO_FS_FAULT");
    if (!fault || !fault[0])
        return;
    unsigned long long budget_bytes;
    char rest;
    const bool kills = sscanf(fault, "kill:%llu%c", &budget_bytes, &rest) == 1;
    if (!kills && sscanf(fault, "enospc:%llu%c", &budget_bytes, &rest) != 1) {
        log_warn("MEMO_FS_FAULT is '%s' and has no effect, must be enospc:BYTES or kill:BYTES",
                 fault);
        return;
    }
    system_fault.write_budget_bytes = budget_bytes;
    chosen_system = fs_with_faults(&system_fault);
    if (kills)
        kill_when_full(&chosen_system);
}

struct fs *fs_system(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, choose_system);
    return &chosen_system;
}

int fs_map_open(const char *path, struct fs_map *map, struct error *err)
{
    *map = (struct fs_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open '%s'", path);
    struct stat info;
    int rc = 0;
    if (fstat(fd, &info)) {
        rc = error_set_errno(err, errno, "cannot read the size of '%s'", path);
    } else if (!S_ISREG(info.st_mode)) {
        rc = error_set(err, "cannot map '%s': it is %snot a regular file", path,
                       S_ISDIR(info.st_mode) ? "a directory, " : "");
    } else if (info.st_size > 0) {
        void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (bytes == MAP_FAILED)
            rc = error_set_errno(err, errno, "cannot map '%s'", path);
        else
            *map = (struct fs_map){bytes, (size_t)info.st_size};
    }
    close(fd);
    return rc;
}

void fs_map_close(struct fs_map *map)
{
    if (map->bytes)
        munmap((void *)map->bytes, map->length);
    *map = (struct fs_map){0};
}
