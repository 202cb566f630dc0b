// SPDX-License-Identifier: Apache-2.0
// .memo-digest is text: a line "NAME SIZE MODIFIED" for each file, then the digest.
#include "worker/lm/model_digest.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static bool is_content(const char *name)
{
    static const char ending[] = ".safetensors";
    const size_t length = strlen(name);
    return strcmp(name, "config.json") == 0 ||
           (length > strlen(ending) && strcmp(name + length - strlen(ending), ending) == 0);
}

static int describe_file(struct fs *fs, const char *directory, const char *name, struct strbuf *out,
                         struct error *err)
{
    struct fs_info info;
    char *path = fs_join(directory, name);
    const int rc = fs->ops->stat(fs->state, path, &info);
    if (rc != 0)
        error_set_errno(err, -rc, "cannot look at '%s'", path);
    else
        strbuf_addf(out, "%s %" PRIu64 " %" PRId64 "\n", name, info.size_bytes, info.modified_ns);
    free(path);
    return rc ? -1 : 0;
}

static int add_file(const char *directory, const char *name, struct digest_builder *builder,
                    struct error *err)
{
    struct fs_map map;
    char *path = fs_join(directory, name);
    const int rc = fs_map_open(path, &map, err);
    free(path);
    if (rc)
        return -1;
    digest_field_text(builder, name);
    digest_field(builder, map.bytes, map.length);
    fs_map_close(&map);
    return 0;
}

// True when the stored text begins with this description and a digest follows.
static bool read_stored(struct fs *fs, const char *path, const struct strbuf *description,
                        struct digest *out)
{
    struct strbuf stored = {0};
    struct error err;
    const bool is_known = fs_exists(fs, path) && fs_read(fs, path, &stored, &err) == 0 &&
                          stored.length == description->length + DIGEST_TEXT_BYTES - 1 &&
                          memcmp(stored.bytes, description->bytes, description->length) == 0 &&
                          digest_parse(stored.bytes + description->length, out);
    strbuf_release(&stored);
    return is_known;
}

static int compute(const char *directory, const struct fs_names *names, struct digest *out,
                   struct error *err)
{
    struct digest_builder builder;
    int rc = 0;
    digest_begin(&builder);
    for (size_t i = 0; i < names->count && rc == 0; i++)
        if (is_content(names->names[i]))
            rc = add_file(directory, names->names[i], &builder, err);
    *out = digest_end(&builder);
    return rc;
}

static int find_digest(struct fs *fs, const char *directory, const struct fs_names *names,
                       struct digest *out, struct error *err)
{
    struct strbuf description = {0};
    char *path = fs_join(directory, MODEL_DIGEST_FILE);
    int rc = 0;
    for (size_t i = 0; i < names->count && rc == 0; i++)
        if (is_content(names->names[i]))
            rc = describe_file(fs, directory, names->names[i], &description, err);
    if (rc == 0 && description.length == 0)
        rc = error_set(err, "'%s' holds neither config.json nor weights", directory);
    if (rc == 0 && !read_stored(fs, path, &description, out)) {
        rc = compute(directory, names, out, err);
        if (rc == 0) {
            char text[DIGEST_TEXT_BYTES];
            struct error unwritten;
            digest_format(*out, text);
            strbuf_adds(&description, text);
            fs_write_text(fs, path, description.bytes, description.length, &unwritten);
        }
    }
    free(path);
    strbuf_release(&description);
    return rc;
}

int model_digest(struct fs *fs, const char *directory, struct digest *out, struct error *err)
{
    struct fs_names names;
    if (fs_list(fs, directory, &names, err))
        return -1;
    const int rc = find_digest(fs, directory, &names, out, err);
    fs_names_release(&names);
    return rc;
}
