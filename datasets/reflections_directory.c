// SPDX-License-Identifier: Apache-2.0
#include "datasets/reflections_directory.h"

#include "base/mem.h"
#include "datasets/reflections.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ATTEMPTS_MAX 1000000 // bounds the search for a free number
#define ATTEMPT_NAME_BYTES 32

static void format_attempt(unsigned long number, char out[ATTEMPT_NAME_BYTES])
{
    snprintf(out, ATTEMPT_NAME_BYTES, "attempt-%04lu", number);
}

// The number in "attempt-NNNN" written as format_attempt writes it, or 0.
static unsigned long parse_attempt(const char *name)
{
    char canonical[ATTEMPT_NAME_BYTES];
    if (strncmp(name, "attempt-", 8) != 0)
        return 0;
    unsigned long number = strtoul(name + 8, NULL, 10);
    format_attempt(number, canonical);
    return number <= ATTEMPTS_MAX && strcmp(name, canonical) == 0 ? number : 0;
}

static int compare_numbers(const void *a, const void *b)
{
    unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;
    return (x > y) - (x < y);
}

// The attempts of a directory, ascending; caller frees.
static int list_attempts(struct fs *fs, const char *directory, unsigned long **out, size_t *count,
                         struct error *err)
{
    struct fs_names names;
    *count = 0;
    if (fs_list(fs, directory, &names, err) != 0)
        return -1;
    unsigned long *numbers = mem_calloc(names.count + 1, sizeof(*numbers));
    for (size_t i = 0; i < names.count; i++) {
        numbers[*count] = parse_attempt(names.names[i]);
        *count += numbers[*count] != 0;
    }
    fs_names_release(&names);
    qsort(numbers, *count, sizeof(*numbers), compare_numbers);
    *out = numbers;
    return 0;
}

static bool is_segment_name(const char *name)
{
    size_t length = strlen(name);
    return length > 3 && strcmp(name + length - 3, ".h5") == 0;
}

int segment_name_compare(const struct segment_name *a, const struct segment_name *b)
{
    const int order = (a->attempt > b->attempt) - (a->attempt < b->attempt);
    return order != 0 ? order : strcmp(a->file, b->file);
}

char *segment_name_path(const char *directory, const struct segment_name *name)
{
    char attempt[ATTEMPT_NAME_BYTES];
    format_attempt(name->attempt, attempt);
    return mem_printf("%s/%s/%s", directory, attempt, name->file);
}

void segment_names_release(struct segment_names *names)
{
    for (size_t i = 0; i < names->count; i++)
        free(names->names[i].file);
    free(names->names);
    *names = (struct segment_names){0};
}

static int list_attempt(struct fs *fs, const char *directory, unsigned long number,
                        struct segment_names *out, struct error *err)
{
    char name[ATTEMPT_NAME_BYTES];
    struct fs_names files;
    format_attempt(number, name);
    char *attempt = fs_join(directory, name);
    const int rc = fs_list(fs, attempt, &files, err);
    free(attempt);
    if (rc != 0)
        return -1;
    for (size_t i = 0; i < files.count; i++) {
        if (!is_segment_name(files.names[i]))
            continue;
        out->names = mem_grow(out->names, &out->capacity, out->count + 1, sizeof(*out->names));
        out->names[out->count++] = (struct segment_name){number, mem_strdup(files.names[i])};
    }
    fs_names_release(&files);
    return 0;
}

int segment_names_list(struct fs *fs, const char *directory, struct segment_names *out,
                       struct error *err)
{
    unsigned long *attempts = NULL;
    size_t count;
    *out = (struct segment_names){0};
    int rc = list_attempts(fs, directory, &attempts, &count, err);
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = list_attempt(fs, directory, attempts[i], out, err);
    free(attempts);
    if (rc != 0)
        segment_names_release(out);
    return rc;
}

int reflections_begin_attempt(struct fs *fs, const char *directory, char **out_path,
                              struct error *err)
{
    unsigned long *attempts = NULL;
    size_t count;
    *out_path = NULL;
    if (fs_make_directories(fs, directory, err) != 0 ||
        list_attempts(fs, directory, &attempts, &count, err) != 0)
        return -1;
    unsigned long number = count > 0 ? attempts[count - 1] + 1 : 1;
    free(attempts);
    char *path = NULL;
    int rc = -EEXIST;
    for (; rc == -EEXIST && number <= ATTEMPTS_MAX; number++) {
        char name[ATTEMPT_NAME_BYTES];
        free(path);
        format_attempt(number, name);
        path = fs_join(directory, name);
        rc = fs->ops->make_directory(fs->state, path);
    }
    if (rc == 0)
        rc = fs->ops->sync_directory(fs->state, directory);
    if (rc != 0) {
        error_set_errno(err, -rc, "cannot make the next attempt directory in '%s'", directory);
        free(path);
        return -1;
    }
    *out_path = path;
    return 0;
}
