// SPDX-License-Identifier: Apache-2.0
#include "datasets/model_directory.h"

#include <stdlib.h>

static const char *const config_files[] = {"config.json", NULL};
// generation_config.json is among them: it names the tokens that end an answer.
static const char *const tokenizer_files[] = {"tokenizer.json",
                                              "tokenizer_config.json",
                                              "vocab.json",
                                              "merges.txt",
                                              "special_tokens_map.json",
                                              "added_tokens.json",
                                              "generation_config.json",
                                              "chat_template.jinja",
                                              NULL};

static int copy_file(struct fs *fs, const char *from, const char *to, const char *name,
                     struct error *err)
{
    struct strbuf content = {0};
    char *source = fs_join(from, name);
    char *target = fs_join(to, name);
    int rc = 0;
    if (fs_exists(fs, source)) {
        rc = fs_read(fs, source, &content, err);
        if (rc == 0)
            rc = fs_write_text(fs, target, content.bytes, content.length, err);
    }
    free(source);
    free(target);
    strbuf_release(&content);
    return rc;
}

static int copy_files(struct fs *fs, const char *from, const char *to, const char *const *names,
                      struct error *err)
{
    for (; *names; names++) {
        if (copy_file(fs, from, to, *names, err))
            return -1;
    }
    return 0;
}

int model_directory_copy_tokenizer(struct fs *fs, const char *from, const char *to,
                                   struct error *err)
{
    return fs_make_directories(fs, to, err) || copy_files(fs, from, to, tokenizer_files, err) ? -1
                                                                                              : 0;
}

int model_directory_copy(struct fs *fs, const char *from, const char *to, struct error *err)
{
    return model_directory_copy_tokenizer(fs, from, to, err) ||
                   copy_files(fs, from, to, config_files, err)
               ? -1
               : 0;
}
