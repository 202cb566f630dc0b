// SPDX-License-Identifier: Apache-2.0
#include "collectives/id_file.h"

#include "base/hash.h"
#include "base/mem.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD "memo id 1\n"

int id_file_path(const char *directory, char **path, struct error *err)
{
    const char *job = getenv("SLURM_JOB_ID"), *step = getenv("SLURM_STEP_ID");
    const char *attempt = getenv("SLURM_RESTART_COUNT"); // not set in the first
    if (job == NULL) {
        return error_set(err, "an id by a file needs a job's number, and SLURM_JOB_ID is not set: "
                              "start with srun, or use mpirun");
    }
    *path =
        mem_printf("%s/id-%s.%s-%s", directory, job, step ? step : "0", attempt ? attempt : "0");
    return 0;
}

static void add_digest(struct strbuf *text, const void *bytes, size_t length)
{
    char digest[DIGEST_TEXT_BYTES];
    digest_format(digest_bytes(bytes, length), digest);
    strbuf_addf(text, "%s\n", digest);
}

// What a file of these bytes holds: one text for one id.
static void format(const void *bytes, size_t length, struct strbuf *out)
{
    const unsigned char *from = bytes;
    strbuf_adds(out, HEAD);
    for (size_t i = 0; i < length; i++) {
        strbuf_addf(out, "%02x", from[i]);
    }
    strbuf_addc(out, '\n');
    add_digest(out, bytes, length);
}

int id_file_publish(struct fs *fs, const char *path, const void *bytes, size_t length,
                    struct error *err)
{
    assert(length <= ID_FILE_LIMIT);
    struct strbuf text = {0};
    format(bytes, length, &text);
    const struct fs_part part = {text.bytes, text.length};
    const int rc = fs_write_atomic(fs, path, &part, 1, true, err);
    strbuf_release(&text);
    return rc;
}

static int digit(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

static int parse(const struct strbuf *text, const char *path, void *bytes, size_t length,
                 struct error *err)
{
    unsigned char *to = bytes;
    const size_t head = sizeof(HEAD) - 1;
    bool good = text->length == head + 2 * length + 1 + DIGEST_TEXT_BYTES;
    for (size_t i = 0; good && i < length; i++) {
        const int high = digit(text->bytes[head + 2 * i]);
        const int low = digit(text->bytes[head + 2 * i + 1]);
        good = high >= 0 && low >= 0;
        to[i] = (unsigned char)(high << 4 | low);
    }
    struct strbuf want = {0};
    if (good) {
        format(bytes, length, &want);
        good = memcmp(want.bytes, text->bytes, want.length) == 0;
    }
    strbuf_release(&want);
    return good ? 0 : error_set(err, "'%s' does not hold an id of %zu bytes", path, length);
}

int id_file_read(struct fs *fs, const char *path, void *bytes, size_t length, struct error *err)
{
    struct strbuf text = {0};
    const int rc = fs_read(fs, path, &text, err) || parse(&text, path, bytes, length, err) ? -1 : 0;
    strbuf_release(&text);
    return rc;
}

void id_file_remove(struct fs *fs, const char *path)
{
    (void)fs->ops->remove(fs->state, path);
}
