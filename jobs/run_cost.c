// SPDX-License-Identifier: Apache-2.0
#include "jobs/run_cost.h"

#include "base/arena.h"
#include "base/json.h"
#include "base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SUFFIX ".json"

static bool is_attempt(const char *name, const char *except)
{
    const size_t length = strlen(name), suffix = sizeof(SUFFIX) - 1;
    if (length <= suffix || strcmp(name + length - suffix, SUFFIX) != 0)
        return false;
    return !except || strncmp(name, except, length - suffix) != 0 || except[length - suffix];
}

static int read_spent(struct fs *fs, const char *path, double *gpu_hours, struct error *err)
{
    struct strbuf text = {0};
    struct arena arena = {0};
    const struct json *root;
    double spent = 0;
    int rc = fs_read(fs, path, &text, err);
    if (rc == 0)
        rc = json_parse(&arena, text.bytes, text.length, &root, err) ||
                     json_get_number(json_get(root, "gpu_hours"), "spent", &spent, err)
                 ? error_prefix(err, "'%s'", path)
                 : 0;
    if (rc == 0)
        *gpu_hours += spent;
    arena_release(&arena);
    strbuf_release(&text);
    return rc;
}

int run_cost_spent(struct fs *fs, const char *run, const char *except, double *gpu_hours,
                   struct error *err)
{
    struct fs_names names = {0};
    char *directory = fs_join(run, "attempts");
    int rc = fs_exists(fs, directory) ? fs_list(fs, directory, &names, err) : 0;
    *gpu_hours = 0;
    for (size_t i = 0; i < names.count && rc == 0; i++) {
        if (!is_attempt(names.names[i], except))
            continue;
        char *path = fs_join(directory, names.names[i]);
        rc = read_spent(fs, path, gpu_hours, err);
        free(path);
    }
    fs_names_release(&names);
    free(directory);
    return rc;
}

static int write_file(struct fs *fs, const char *path, const struct strbuf *bytes)
{
    int handle;
    int rc = fs->ops->create(fs->state, path, false, &handle);
    if (rc != 0)
        return rc;
    rc = fs->ops->write(fs->state, handle, bytes->bytes, bytes->length);
    const int closed = fs->ops->close(fs->state, handle);
    return rc ? rc : closed;
}

int run_cost_write(struct fs *fs, const char *run, const char *name, const struct strbuf *json,
                   struct error *err)
{
    char *path = mem_printf("%s/attempts/%s" SUFFIX, run, name);
    char *temporary = mem_printf("%s.new", path);
    char *directory = fs_join(run, "attempts");
    int rc = fs_make_directories(fs, directory, err);
    if (rc == 0) {
        int failed = write_file(fs, temporary, json);
        if (failed == 0)
            failed = fs->ops->rename(fs->state, temporary, path, true);
        if (failed != 0) {
            (void)fs->ops->remove(fs->state, temporary);
            rc = error_set_errno(err, -failed, "cannot write '%s'", path);
        }
    }
    free(directory);
    free(temporary);
    free(path);
    return rc;
}
